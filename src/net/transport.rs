//! The way bytes travel: TCP (noise, yamux) and QUIC with name resolution, or memory for tests; and the swarm on top.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::timeout::TransportTimeout;
use libp2p::core::transport::{
    Boxed, DialOpts, ListenerId, MemoryTransport, TransportError, TransportEvent,
};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::swarm::Executor;
use libp2p::{Multiaddr, PeerId, Transport, dns, noise, quic, tcp, yamux};
use tokio_util::task::TaskTracker;

use super::address;

/// How long setting up a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long QUIC waits for TCP to succeed first on near paths, where it would cost twice the CPU for no gain.
const QUIC_DELAY: Duration = Duration::from_millis(150);
/// Streams on one connection; each may hold a window of unread bytes.
const MAX_STREAMS: usize = 512;

type Connection = Boxed<(PeerId, StreamMuxerBox)>;

fn muxer() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(MAX_STREAMS);
    config
}

/// A transport inside this process.
pub(super) fn memory(key: &Keypair) -> Result<Connection, noise::Error> {
    let transport = MemoryTransport::default()
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(key)?)
        .multiplex(muxer())
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    Ok(TransportTimeout::new(transport, CONNECT_TIMEOUT).boxed())
}

/// TCP and QUIC.
pub(super) fn sockets(key: &Keypair) -> Result<Connection, noise::Error> {
    // Nagle's algorithm is off by default: with it on, requests one at a time are 25 times slower.
    let tcp = tcp::tokio::Transport::new(tcp::Config::default())
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(key)?)
        .multiplex(muxer())
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let quic = quic::tokio::Transport::new(quic::Config::new(key))
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .boxed();
    let both = tcp
        .or_transport(LateQuic(quic))
        .map(|either, _| either.into_inner())
        .boxed();
    // Reading the configuration takes the transport along when it fails, so try it on a stand-in first.
    let transport = match dns::tokio::Transport::system(MemoryTransport::default()) {
        Ok(_) => dns::tokio::Transport::system(both)
            .map(Transport::boxed)
            .map_err(noise::Error::Io)?,
        Err(error) => {
            tracing::info!(%error, "no name resolution: only numeric addresses can be dialled");
            both
        }
    };
    Ok(TransportTimeout::new(transport, CONNECT_TIMEOUT).boxed())
}

/// QUIC that starts a little later on near paths, so that TCP wins where both work.
struct LateQuic(Connection);

impl Transport for LateQuic {
    type Output = (PeerId, StreamMuxerBox);
    type Error = io::Error;
    type ListenerUpgrade = <Connection as Transport>::ListenerUpgrade;
    type Dial = BoxFuture<'static, io::Result<Self::Output>>;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<io::Error>> {
        self.0.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.0.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<io::Error>> {
        let near = address::is_near(&address);
        let dial = self.0.dial(address, opts)?;
        Ok(async move {
            if near {
                tokio::time::sleep(QUIC_DELAY).await;
            }
            dial.await
        }
        .boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        Pin::new(&mut self.0).poll(cx)
    }
}

/// Runs the swarm's own tasks (one a connection) so that they can be waited for.
#[derive(Clone, Default)]
pub(super) struct Tasks(TaskTracker);

impl Tasks {
    /// Waits until all tasks have ended; they do once the swarm is gone.
    pub(super) async fn join(&self) {
        self.0.close();
        self.0.wait().await;
    }
}

impl Executor for Tasks {
    fn exec(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.0.spawn(task);
    }
}
