//! The BitTorrent Mainline DHT as a meeting point, through the crate `mainline`.
//!
//! The crate's node runs on a thread of its own, which ends when [`Mainline`] is dropped. It is
//! made at the first call, and made anew when nobody has answered: names of the nodes to begin with
//! are resolved only then, and the network may not have been there.
//!
//! An announcement says this machine's address, as the nodes of that DHT see it, and a port.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use async_trait::async_trait;
use futures::{FutureExt, StreamExt};
use mainline::Id;
use mainline::async_dht::AsyncDht;
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, timeout, timeout_at};

use super::key::Key;
use super::point::{Error, Point};

/// Nodes to begin with unless others are configured: those of well-known programs.
const FIRST_NODES: [&str; 4] = [
    "router.bittorrent.com:6881",
    "dht.transmissionbt.com:6881",
    "dht.libtorrent.org:25401",
    "relay.pkarr.org:6881",
];
/// Longest that one search goes on, and that one search or announcement takes with all.
const SEARCH: Duration = Duration::from_secs(25);
const PATIENCE: Duration = Duration::from_secs(30);
/// Time for resolving the name of one node.
const RESOLVE_PATIENCE: Duration = Duration::from_secs(5);
/// Most addresses of nodes to begin with.
const MAX_FIRST_NODES: usize = 32;
/// Most answers that one search takes.
const MAX_ANSWERS: usize = 256;

/// The Mainline DHT.
pub struct Mainline {
    first_nodes: Vec<String>,
    dht: Mutex<Option<AsyncDht>>,
}

impl Mainline {
    /// A client that begins with these nodes, each `HOST:PORT`; with well-known ones when there are
    /// none. Nothing is sent before the first call.
    pub fn new(first_nodes: &[String]) -> Self {
        let first_nodes = match first_nodes.is_empty() {
            true => FIRST_NODES.map(str::to_owned).to_vec(),
            false => first_nodes.to_vec(),
        };
        Self {
            first_nodes,
            dht: Mutex::new(None),
        }
    }

    async fn open(&self) -> Result<AsyncDht, Error> {
        let mut dht = self.dht.lock().await;
        if let Some(dht) = &*dht {
            return Ok(dht.clone());
        }
        let first_nodes = resolve(&self.first_nodes).await?;
        let is_loopback = first_nodes.iter().all(|node| node.ip().is_loopback());
        let build = move || {
            let mut builder = mainline::Dht::builder();
            // A BitTorrent client of this machine's may want the usual port.
            builder.bootstrap(&first_nodes).port(0);
            if is_loopback {
                builder.bind_address(Ipv4Addr::LOCALHOST);
            }
            std::panic::catch_unwind(AssertUnwindSafe(|| builder.build()))
        };
        let built = tokio::task::spawn_blocking(build).await;
        let built = match built {
            Ok(Ok(built)) => built.map_err(|error| Error::Socket(error.to_string()))?,
            _ => return Err(Error::Broken),
        };
        Ok(dht.insert(built.as_async()).clone())
    }

    /// Runs a call, and forgets the client when that has failed or nobody answers it.
    async fn run<T>(
        &self,
        call: impl AsyncFnOnce(AsyncDht) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let dht = self.open().await?;
        // The crate panics when its thread has ended.
        let work = AssertUnwindSafe(timeout(PATIENCE, call(dht))).catch_unwind();
        let result = match work.await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Error::Silent),
            Err(_) => Err(Error::Broken),
        };
        if let Err(Error::Silent | Error::Broken) = &result {
            self.dht.lock().await.take();
        }
        result
    }
}

#[async_trait]
impl Point for Mainline {
    async fn announce(&self, key: Key, port: u16) -> Result<(), Error> {
        self.run(async |dht| {
            let announced = dht.announce_peer(Id::from(*key.as_bytes()), Some(port));
            match announced.await {
                Ok(_) => Ok(()),
                Err(mainline::errors::PutQueryError::NoClosestNodes) => Err(Error::Silent),
                Err(error) => Err(Error::Refused(error.to_string())),
            }
        })
        .await
    }

    async fn ask(
        &self,
        key: Key,
        found: mpsc::Sender<(Key, Vec<SocketAddrV4>)>,
    ) -> Result<(), Error> {
        self.run(async |dht| {
            let mut answers = dht.get_peers(Id::from(*key.as_bytes())).take(MAX_ANSWERS);
            let (mut is_answered, until) = (false, Instant::now() + SEARCH);
            // What came in time counts.
            while let Ok(Some(addresses)) = timeout_at(until, answers.next()).await {
                is_answered = true;
                if found.send((key, addresses)).await.is_err() {
                    return Ok(());
                }
            }
            // Without anybody under the key, the table says whether nodes have answered.
            match is_answered || !dht.to_bootstrap().await.is_empty() {
                true => Ok(()),
                false => Err(Error::Silent),
            }
        })
        .await
    }
}

/// The IPv4 addresses of nodes, as many as can be resolved.
async fn resolve(nodes: &[String]) -> Result<Vec<SocketAddrV4>, Error> {
    let lookups = nodes.iter().take(MAX_FIRST_NODES).map(|node| async move {
        let found = timeout(RESOLVE_PATIENCE, tokio::net::lookup_host(node)).await;
        match found {
            Ok(Ok(found)) => found.collect::<Vec<SocketAddr>>(),
            _ => Vec::new(),
        }
    });
    let found = futures::future::join_all(lookups).await;
    let v4 = found.into_iter().flatten().filter_map(|found| match found {
        SocketAddr::V4(found) => Some(found),
        SocketAddr::V6(_) => None,
    });
    let v4: Vec<SocketAddrV4> = v4.take(MAX_FIRST_NODES).collect();
    match v4.is_empty() {
        true => Err(Error::Unresolved(nodes.join(", "))),
        false => Ok(v4),
    }
}
