//! A node in this process that other commands and browsers on this machine find.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::exit::Failure;
use super::show;
use crate::block::Link;
use crate::client::Client;
use crate::client::discovery::{Published, Token};
use crate::config::Config;
use crate::gateway::sign::Signer;
use crate::gateway::{self, Gateway, Options};
use crate::node::api::{Peers, Status};
use crate::node::identity;
use crate::size::ByteSize;

/// Pause between two looks of a command that serves at what others have fetched.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// A local HTTP server that runs. Dropped, it ends by itself.
pub(super) struct Serving {
    published: Option<Published>,
    cut: CancellationToken,
    server: Option<JoinHandle<()>>,
}

impl Serving {
    /// Lets commands find `client` through the data directory, and answers them.
    ///
    /// # Errors
    /// When the data directory can't be written.
    pub(super) fn begin(
        gateway: Gateway,
        client: Client,
        config: &Config,
        context: &Context,
    ) -> Result<Self, Failure> {
        let token = Token::random();
        let published = gateway
            .publish(&context.data_dir, &token)
            .map_err(|error| {
                let what = format!("{} could not be written", context.data_dir.display());
                Failure::io(what, &error)
            })?;
        let signer = match identity::load_or_create(&context.data_dir) {
            Ok(key) => Some(Signer::new(key)),
            // As on a disk that can't be written: the node has a key for this time alone.
            Err(error) => {
                context.warning(&format!(
                    "answers of the local HTTP server are not signed: {error}"
                ));
                None
            }
        };
        let cut = CancellationToken::new();
        let options = Options {
            token,
            timeout_s: config.timeout_s,
            signer,
            data_dir: Some(context.data_dir.clone()),
        };
        Ok(Self {
            published: Some(published),
            cut: cut.clone(),
            server: Some(tokio::spawn(gateway.serve(client, options, cut))),
        })
    }

    /// Ends it: commands that are under way hear why.
    pub(super) async fn end(mut self) {
        drop(self.published.take());
        self.cut.cancel();
        if let Some(server) = self.server.take() {
            let _ = server.await;
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.cut.cancel();
    }
}

/// Serves what was put until the future is dropped: tells how others get it, and what they fetched.
///
/// # Errors
/// When the local HTTP server can't be set up.
pub(super) async fn serve(
    link: &Link,
    client: &Client,
    config: &Config,
    context: &Context,
) -> Result<(), Failure> {
    let address: SocketAddr = config.http.parse().expect("the settings have been checked");
    let gateway = match Gateway::bind(address).await {
        // The usual port belongs to another program, mostly to another node: any other will do.
        Err(gateway::Error::InUse(_)) => Gateway::bind(SocketAddr::new(address.ip(), 0)).await?,
        bound => bound?,
    };
    let url = gateway.url();
    let _serving = Serving::begin(gateway, client.clone(), config, context)?;
    context.notice(&format!(
        "\nthis command serves it until you press Ctrl-C. On another machine:\n  \
         libernet get {link}\nIn a browser on this machine:\n  {url}{}\n",
        link.to_path()
    ));
    if !config.mdns && config.bootstrap.is_empty() {
        context.warning("without mDNS and --bootstrap no other machine finds this one by itself");
    }
    let mut told = (0, 0);
    loop {
        let before = told;
        tokio::time::sleep(LOOK_INTERVAL).await;
        let status = client.status(Status {}).await?;
        let peers = client.peers(Peers {}).await?.peers.len() as u64;
        let now = (status.exchange.served_bytes, peers);
        if now != before {
            context.notice(&format!(
                "{} connected, {} sent",
                show::count(peers, "machine"),
                ByteSize(now.0)
            ));
            told = now;
        }
    }
}
