//! Announcing: a round of lookups over the regions of the keys, then standard ADD_PROVIDER messages, many on one stream, to each of
//! the nearest peers. libp2p's Kademlia reads any number of them from a stream.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures::stream::FuturesUnordered;
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{Multiaddr, PeerId, Stream};
use prost::Message;
use tokio::time::timeout;

use super::stored::{MAX_ADDRESSES, trim};
use super::sweep::Sweep;
use super::{AnnounceReport, Command, Error, MAX_KEY_BYTES, Providers};
use crate::net::address::{is_link_local, is_loopback, is_tellable};
use crate::wire::dht;

/// Keys announced in one round: bounds the memory that a plan takes.
const KEYS_PER_ROUND: usize = 16_384;
/// Lookups under way at one time.
const PARALLEL_LOOKUPS: usize = 4;
/// Peers that are told at one time.
const PARALLEL_PEERS: usize = 8;
/// Messages are gathered up to this size before they are written.
const WRITE_BYTES: usize = 16 << 10;
/// How long reaching a peer, or one write to it, may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(15);
/// ADD_PROVIDER in libp2p's kad-dht specification.
const ADD_PROVIDER: u32 = 2;
const CONNECTED: u32 = 1;
/// A field that the specification keeps for history; others send the same.
const CLUSTER_LEVEL: u32 = 10;

impl Providers {
    /// Makes this node a provider of `keys`: answers for them itself and tells the peers nearest to each. Holds for
    /// [`PROVIDER_TTL`](super::PROVIDER_TTL); announce again well before.
    ///
    /// The cost follows the size of the mesh, not the number of keys, so announce many at once. Without any other peer the keys are
    /// announced locally and `peers_reached` is 0. Rounds run one after the other.
    ///
    /// # Errors
    /// [`Error`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves some keys announced and some not.
    pub async fn announce(&self, keys: Vec<Vec<u8>>) -> Result<AnnounceReport, Error> {
        if let Some(key) = keys.iter().find(|key| key.len() > MAX_KEY_BYTES) {
            return Err(Error::KeyTooLong(key.len()));
        }
        let _turn = self
            .announcing
            .acquire()
            .await
            .map_err(|_| Error::Stopping)?;
        let mut report = AnnounceReport::default();
        let mut reached = HashSet::new();
        let mut failed = HashSet::new();
        let mut keys = keys;
        while !keys.is_empty() {
            let rest = keys.split_off(keys.len().min(KEYS_PER_ROUND));
            let round = Arc::new(std::mem::replace(&mut keys, rest));
            self.provide(&round, true).await?;
            report.keys += round.len();
            let sweep = self.look_around(&round, &mut report).await?;
            let assigned = off_the_task(move || sweep.assign()).await?;
            let told = self.tell(&round, assigned).await;
            let mut known = vec![false; round.len()];
            for (peer, indexes, result) in told {
                match result {
                    Ok(()) => {
                        reached.insert(peer);
                        indexes.iter().for_each(|n| known[*n as usize] = true);
                    }
                    Err(error) => {
                        tracing::debug!(%peer, %error, "a peer could not be told what we provide");
                        failed.insert(peer);
                    }
                }
            }
            report.keys_unreached += known.iter().filter(|known| !**known).count();
        }
        report.peers_reached = reached.len();
        report.peers_failed = failed.difference(&reached).count();
        Ok(report)
    }

    async fn look_around(
        &self,
        keys: &Arc<Vec<Vec<u8>>>,
        report: &mut AnnounceReport,
    ) -> Result<Sweep, Error> {
        let shared = keys.clone();
        let mut sweep = off_the_task(move || Sweep::new(&shared)).await?;
        loop {
            let targets = sweep.targets(PARALLEL_LOOKUPS);
            if targets.is_empty() {
                break;
            }
            let lookups = targets
                .iter()
                .map(|target| self.lookup(keys[*target].clone()));
            let found = futures::future::try_join_all(lookups).await?;
            report.lookups += targets.len();
            for (target, peers) in targets.iter().zip(found) {
                sweep.found(&keys[*target], &peers);
            }
        }
        let Some(depth) = self.depth().await? else {
            return Ok(sweep);
        };
        // A crowd of peers at a key would keep it to itself.
        let widen = move || (sweep.widen(depth), sweep);
        let (wide, mut sweep) = off_the_task(widen).await?;
        for index in wide {
            let found = self.look_beside(&keys[index], depth).await?;
            report.lookups += found.len();
            found.iter().for_each(|peers| sweep.add(peers));
        }
        Ok(sweep)
    }

    async fn tell(
        &self,
        keys: &Arc<Vec<Vec<u8>>>,
        assigned: HashMap<PeerId, Vec<u32>>,
    ) -> Vec<(PeerId, Vec<u32>, io::Result<()>)> {
        let mut waiting = assigned.into_iter();
        let mut telling = FuturesUnordered::new();
        let mut told = Vec::new();
        loop {
            while telling.len() < PARALLEL_PEERS
                && let Some((peer, indexes)) = waiting.next()
            {
                let keys = keys.clone();
                telling.push(async move {
                    let result = self.tell_one(peer, &keys, &indexes).await;
                    (peer, indexes, result)
                });
            }
            match telling.next().await {
                Some(one) => told.push(one),
                None => return told,
            }
        }
    }

    async fn tell_one(&self, peer: PeerId, keys: &[Vec<u8>], indexes: &[u32]) -> io::Result<()> {
        let mut stream = in_time(self.open(peer)).await?;
        // Once it is connected it shows where the peer is.
        let addresses = self.own_addresses(&peer);
        let mut message = dht::Message {
            r#type: ADD_PROVIDER,
            key: Vec::new().into(),
            provider_peers: Vec::new(),
            cluster_level_raw: CLUSTER_LEVEL,
        };
        let plain = self.own_entry(&addresses);
        let mut buffer = BytesMut::with_capacity(2 * WRITE_BYTES);
        for index in indexes {
            let key = &keys[*index as usize];
            message.key = key.clone().into();
            let provider = match self.ports.of(key) {
                // A place is left for it among the addresses that are stored.
                Some(service) => {
                    let few = addresses.iter().take(MAX_ADDRESSES - 1).cloned();
                    let with_port = few.chain([service.to_address(key)]);
                    self.own_entry(&with_port.collect::<Vec<_>>())
                }
                None => plain.clone(),
            };
            message.provider_peers = vec![provider];
            message
                .encode_length_delimited(&mut buffer)
                .map_err(io::Error::other)?;
            if buffer.len() >= WRITE_BYTES {
                in_time(stream.write_all(&buffer)).await?;
                buffer.clear();
            }
        }
        in_time(stream.write_all(&buffer)).await?;
        in_time(stream.close()).await?;
        // The peer closes its side once it has read everything.
        let mut end = [0; 64];
        while in_time(stream.read(&mut end)).await? != 0 {}
        Ok(())
    }

    /// Opens a stream of the DHT to a peer that was found.
    pub(super) async fn open(&self, peer: PeerId) -> io::Result<Stream> {
        // libp2p-stream dials too, but forgets to when two peers are to be dialled at one moment.
        let reach = self.mailbox.send(Command::Reach(peer)).await;
        reach.map_err(|_| io::Error::other("the network is stopping"))?;
        let mut streams = self.streams.clone();
        let opened = streams.open_stream(peer, self.protocol.clone()).await;
        opened.map_err(io::Error::other)
    }

    /// Addresses of this node that are of use where a peer is.
    fn own_addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        let distance = self.distances.of(peer);
        let all = self.addresses.borrow().clone();
        let usable = all.into_iter();
        let usable = usable.filter(|address| is_tellable(address, distance));
        trim(worth_announcing(&usable.collect::<Vec<_>>()))
    }

    fn own_entry(&self, addresses: &[Multiaddr]) -> dht::Peer {
        dht::Peer {
            id: self.local.to_bytes().into(),
            addresses: addresses
                .iter()
                .map(|address| address.to_vec().into())
                .collect(),
            connection: CONNECTED,
        }
    }
}

/// Loopback addresses are of use only where there are no others, those of one link to nobody.
pub(super) fn worth_announcing(addresses: &[Multiaddr]) -> Vec<Multiaddr> {
    let usable = addresses.iter().filter(|address| !is_link_local(address));
    let (near, far): (Vec<Multiaddr>, Vec<Multiaddr>) = usable.cloned().partition(is_loopback);
    if far.is_empty() { near } else { far }
}

pub(super) async fn in_time<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(STEP_TIMEOUT, step)
        .await
        .map_err(|_| io::ErrorKind::TimedOut)?
}

pub(super) async fn off_the_task<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    // It fails only when the runtime is shutting down.
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Stopping)
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;

    #[test]
    fn golden_add_provider() {
        let message = dht::Message {
            r#type: ADD_PROVIDER,
            key: vec![0xaa, 0xbb].into(),
            provider_peers: vec![dht::Peer {
                id: vec![1, 2].into(),
                addresses: vec![vec![3].into()],
                connection: CONNECTED,
            }],
            cluster_level_raw: CLUSTER_LEVEL,
        };
        assert_eq!(
            HEXLOWER.encode(&message.encode_to_vec()),
            "08021202aabb4a090a0201021201031801500a"
        );
    }

    #[test]
    fn loopback_is_announced_only_alone() {
        let parse = |texts: &[&str]| -> Vec<Multiaddr> {
            texts
                .iter()
                .map(|text| text.parse().expect("an address"))
                .collect()
        };
        let loopback = parse(&["/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1"]);
        assert_eq!(worth_announcing(&loopback), loopback);
        let both = parse(&["/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/1"]);
        assert_eq!(worth_announcing(&both), both[1..]);
        let link = parse(&["/ip6/fe80::1/tcp/1", "/ip4/127.0.0.1/tcp/1"]);
        assert_eq!(worth_announcing(&link), link[1..]);
    }
}
