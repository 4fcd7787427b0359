//! The way bytes travel: TCP (TLS or noise, yamux) and QUIC with name resolution, or memory for tests; and the swarm's tasks.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::io::BufReader;
use libp2p::core::Endpoint;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::timeout::TransportTimeout;
use libp2p::core::transport::{
    Boxed, DialOpts, ListenerId, MemoryTransport, PortUse, TransportError, TransportEvent,
};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::swarm::Executor;
use libp2p::{Multiaddr, PeerId, Transport, dns, noise, relay, tcp};
use socket2::{SockRef, TcpKeepalive};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::address;
use super::admission::Unread;
use super::admission::door::{Door, Guarded};
use super::error::Error;
use super::hearsay::Hearsay;
use super::limits::Limits;
use super::muxer::Yamux;
use super::preference::QuicFirst;
use super::quic::Quic;
use super::security::Security;

/// How long setting up a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time that setting up may take at an address that a stranger told. Together with the wait for a
/// turn it is shorter than the above, so that silence is seen as a failure.
const HEARSAY_TIMEOUT: Duration = Duration::from_millis(6_500);
/// Time for which QUIC waits for TCP to succeed first on near paths: there it would cost twice the
/// CPU for no gain.
const QUIC_DELAY: Duration = Duration::from_millis(150);
/// Time for which TCP waits for QUIC to succeed first on far paths, as long as QUIC goes first.
const TCP_DELAY: Duration = Duration::from_millis(250);
/// Time for which a connection through a relay waits for a direct one to succeed first.
const RELAY_DELAY: Duration = Duration::from_millis(500);
/// What is read from a TCP connection at once, at most: both kinds of encryption alone read a few KiB a time.
const READ_BYTES: usize = 64 << 10;

/// The system asks whether the other end of a TCP connection lives when nothing has come for so
/// long, so often, and so many times at most.
const PROBE_AFTER: Duration = Duration::from_secs(10);
const PROBE_INTERVAL: Duration = Duration::from_secs(4);
const PROBES: u32 = 3;
/// The other end of a TCP connection is dead when it acknowledges nothing for so long.
#[cfg(target_os = "linux")]
const DEAD_AFTER: Duration = Duration::from_secs(20);

/// What the system holds of a TCP connection's bytes that wait to be sent, about.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 128 << 10;

type Connection = Boxed<(PeerId, StreamMuxerBox)>;

/// A transport inside this process, with connections through relays in it; `unread` counts what
/// peers send.
pub(super) fn memory(
    key: &Keypair,
    unread: &Unread,
    relay: relay::client::Transport,
) -> Result<Connection, Error> {
    let noise = noise::Config::new(key).map_err(|error| Error::Transport(error.to_string()))?;
    let transport = relay
        .or_transport(MemoryTransport::default())
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(Yamux::new(unread.clone()))
        .map(|(peer, muxer), endpoint| (peer, StreamMuxerBox::new(muxer.with(&endpoint))));
    Ok(TransportTimeout::new(transport, CONNECT_TIMEOUT).boxed())
}

/// What decides on dials.
pub(super) struct Dials {
    pub(super) hearsay: Arc<Hearsay>,
    pub(super) quic_first: QuicFirst,
}

/// TCP and QUIC, which dial as `dials` has it, and connections through relays; `unread` counts what
/// peers send over TCP and through relays.
pub(super) fn sockets(
    key: &Keypair,
    limits: &Limits,
    unread: &Unread,
    dials: Dials,
    relay: relay::client::Transport,
) -> Result<Connection, Error> {
    let gate = Gate {
        inner: ungated(key, limits, unread, dials.quic_first)?,
        hearsay: dials.hearsay,
    };
    let security = Security::new(key).map_err(|error| Error::Transport(error.to_string()))?;
    // The dial to the relay itself comes by the gate.
    let relayed = relay
        .upgrade(Version::V1Lazy)
        .authenticate(security)
        .multiplex(Yamux::new(unread.clone()))
        .map(|(peer, muxer), endpoint| (peer, StreamMuxerBox::new(muxer.with(&endpoint))))
        .boxed();
    let all = Late(relayed)
        .or_transport(gate)
        .map(|either, _| either.into_inner());
    Ok(TransportTimeout::new(all, CONNECT_TIMEOUT).boxed())
}

/// TCP and QUIC, which dial whatever they are told to, without a limit of time.
pub(super) fn ungated(
    key: &Keypair,
    limits: &Limits,
    unread: &Unread,
    quic_first: QuicFirst,
) -> Result<Connection, Error> {
    let door = Door::new(limits);
    let inner = door.clone();
    // Nagle's algorithm is off by default: with it on, requests one at a time are 25 times slower.
    let tcp = tcp::tokio::Transport::new(tcp::Config::default())
        .map(move |stream, endpoint| {
            if let Err(error) = notice_death(&stream.0) {
                tracing::debug!(%error, "the system will be slow to notice a dead connection");
            }
            suit_slow_and_lossy_lines(&stream.0);
            let stream = inner.listen_to(stream, &endpoint);
            BufReader::with_capacity(READ_BYTES, stream)
        })
        .upgrade(Version::V1Lazy)
        .authenticate(Security::new(key).map_err(|error| Error::Transport(error.to_string()))?)
        .multiplex(Yamux::new(unread.clone()))
        .map(|(peer, muxer), endpoint| (peer, StreamMuxerBox::new(muxer.with(&endpoint))))
        .boxed();
    let quic = Quic::new(key, limits, unread)
        .map_err(|error| Error::Transport(error.to_string()))?
        .map(|(peer, muxer), endpoint| (peer, StreamMuxerBox::new(muxer.with(&endpoint))))
        .boxed();
    let tcp = Paced {
        inner: tcp,
        quic_first: quic_first.clone(),
    };
    let quic = Paced {
        inner: quic,
        quic_first,
    };
    let both = tcp
        .or_transport(quic)
        .map(|either, _| either.into_inner())
        .boxed();
    let both = Guarded { inner: both, door }.boxed();
    // Reading the configuration takes the transport along when it fails, so try it on a stand-in first.
    match dns::tokio::Transport::system(MemoryTransport::default()) {
        Ok(_) => dns::tokio::Transport::system(both)
            .map(Transport::boxed)
            .map_err(|error| Error::Transport(error.to_string())),
        Err(error) => {
            tracing::info!(%error, "no name resolution: only numeric addresses can be dialled");
            Ok(both)
        }
    }
}

/// The last step before any dial: what strangers told is dialled only when its turn comes. Names
/// are not yet resolved here, so that those that nobody vouches for never are.
struct Gate {
    inner: Connection,
    hearsay: Arc<Hearsay>,
}

impl Transport for Gate {
    type Output = (PeerId, StreamMuxerBox);
    type Error = io::Error;
    type ListenerUpgrade = <Connection as Transport>::ListenerUpgrade;
    type Dial = BoxFuture<'static, io::Result<Self::Output>>;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<io::Error>> {
        let hearsay = self.hearsay.clone();
        // A dial does nothing before it is polled.
        let dial = self.inner.dial(address.clone(), opts)?;
        Ok(async move {
            let turn = hearsay.turn(&address).await?;
            let dialled = if turn.is_hearsay() {
                let dialled = timeout(HEARSAY_TIMEOUT, dial).await;
                dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            } else {
                dial.await
            };
            turn.end(dialled.as_ref().ok().map(|(peer, _)| *peer));
            dialled
        }
        .boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

/// Has the system close a TCP connection whose other end has gone without a word: it asks when
/// nothing comes, and gives up when what was sent is not acknowledged. Traffic of any kind counts
/// as life.
fn notice_death(stream: &tokio::net::TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    let probes = TcpKeepalive::new()
        .with_time(PROBE_AFTER)
        .with_interval(PROBE_INTERVAL)
        .with_retries(PROBES);
    socket.set_tcp_keepalive(&probes)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(DEAD_AFTER))?;
    Ok(())
}

/// Has the system send by what the path delivers, where it can (BBR), and hold little that is not
/// on its way: over a slow line a short answer would wait behind it. Both are wishes: a system that
/// refuses them sends as it does by default.
fn suit_slow_and_lossy_lines(stream: &tokio::net::TcpStream) {
    #[cfg(target_os = "linux")]
    {
        let socket = SockRef::from(stream);
        if let Err(error) = socket.set_tcp_congestion(b"bbr") {
            tracing::trace!(%error, "the system's own congestion control is used");
        }
        if let Err(error) = socket.set_tcp_notsent_lowat(UNSENT_BYTES) {
            tracing::trace!(%error, "the system may hold much that waits to be sent");
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = stream;
}

/// A transport whose dials suit the path: near ones (this machine, this network) prefer TCP, far
/// ones may prefer QUIC.
struct Paced {
    inner: Connection,
    quic_first: QuicFirst,
}

impl Paced {
    /// Time that a dial waits, so that the other transport can succeed first.
    fn delay(&self, address: &Multiaddr, role: Endpoint) -> Duration {
        match (address::is_near(address), address::is_quic(address)) {
            (true, true) => QUIC_DELAY,
            (false, false) if role == Endpoint::Dialer && self.quic_first.is_first() => TCP_DELAY,
            _ => Duration::ZERO,
        }
    }
}

impl Transport for Paced {
    type Output = (PeerId, StreamMuxerBox);
    type Error = io::Error;
    type ListenerUpgrade = <Connection as Transport>::ListenerUpgrade;
    type Dial = BoxFuture<'static, io::Result<Self::Output>>;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        mut opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<io::Error>> {
        if address::is_near(&address) && !address::is_quic(&address) {
            // Dialling from the listening port helps through routers. Here there is none, and two
            // peers that dial each other from their listening ports at the same moment meet in one
            // TCP connection with two initiators, which fails.
            opts.port_use = PortUse::New;
        }
        let delay = self.delay(&address, opts.role);
        let dial = self.inner.dial(address, opts)?;
        if delay.is_zero() {
            return Ok(dial.boxed());
        }
        Ok(async move {
            tokio::time::sleep(delay).await;
            dial.await
        }
        .boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

/// Connections through relays, whose dials let direct ones go first.
struct Late(Connection);

impl Transport for Late {
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
        let dial = self.0.dial(address, opts)?;
        Ok(async move {
            tokio::time::sleep(RELAY_DELAY).await;
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
