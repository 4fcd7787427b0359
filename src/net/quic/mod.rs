//! QUIC between libp2p nodes, over quinn.
//!
//! It does what libp2p's own QUIC transport does, and speaks with it: addresses `/udp/.../quic-v1`,
//! one bidirectional stream for each substream, TLS 1.3 with libp2p's certificates. What that one
//! gives no way to set is the reason for this one:
//!
//! - congestion control that does not take each lost packet for a full line: see [`bbr`];
//! - a bound on what peers may have sent and nobody has read over all connections: see [`budget`];
//! - what waits to be sent is bounded for each connection, too.
//!
//! Deliberately absent: connections that move to another address (libp2p has no way to tell),
//! datagrams, unidirectional streams, 0-RTT.

mod bbr;
mod budget;
mod connection;
mod listener;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use aws_lc_rs::hmac;
use futures::channel::oneshot;
use futures::stream::SelectAll;
use futures::{FutureExt, StreamExt};
use libp2p::core::Endpoint as Role;
use libp2p::core::multiaddr::Protocol;
use libp2p::core::transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent};
use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId, Transport};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{Endpoint, EndpointConfig, TokioRuntime, TransportConfig, VarInt};
use socket2::{Domain, Socket, Type};
use tokio::time::{sleep, timeout};

use self::budget::{Budget, FIRST_WINDOW_BYTES};
use self::connection::{FIRST_SENDING_BYTES, Muxer, Upgrade, peer_of};
use self::listener::Listener;
use super::admission::Unread;
use super::limits::Limits;
use super::tls;

/// Streams that a peer may have open.
const STREAMS: u32 = 112;
/// What a peer may have sent over one stream and nobody read; over all it is the connection's
/// window.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// A connection over which nothing comes for so long has ended; it is asked before.
const IDLE_TIMEOUT_MS: u32 = 10_000;
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long setting up a connection may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that peers begin and that nobody has looked at, and what they may have sent.
const MAX_INCOMING: usize = 64;
const INCOMING_BYTES: u64 = 64 << 10;
const ALL_INCOMING_BYTES: u64 = 1 << 20;
/// What the system may hold of what was sent or has come, where it allows as much.
const SOCKET_BYTES: usize = 2 << 20;
/// Ways through routers that are being opened at one time.
const MAX_PUNCHES: usize = 64;
/// Bytes of a packet that opens one, and longest pause between two of them.
const PUNCH_BYTES: usize = 64;
const PUNCH_PAUSE_MS: std::ops::RangeInclusive<u64> = 10..=200;
/// Use of the node's key for what it says about connections that it does not know any more.
const RESET_KEY: &[u8] = b"libernet quic stateless reset key";

/// Settings of a connection. Cheap to clone.
#[derive(Clone)]
struct Setup {
    unread: Unread,
    budget: Budget,
}

impl Setup {
    /// Waits until a connection is made, and says who is at its other end.
    fn upgrade(&self, connecting: quinn::Connecting) -> Upgrade {
        let setup = self.clone();
        async move {
            let share = setup.budget.open();
            let share = share.ok_or_else(|| io::Error::other("no room for a connection more"))?;
            let connection = timeout(HANDSHAKE_TIMEOUT, connecting).await;
            let connection = connection.map_err(|_| ErrorKind::TimedOut)??;
            let peer = peer_of(&connection)?;
            Ok((peer, Muxer::new(connection, share, setup.unread.open())))
        }
        .boxed()
    }
}

/// The transport.
pub(super) struct Quic {
    setup: Setup,
    client: quinn::ClientConfig,
    server: quinn::ServerConfig,
    endpoint: EndpointConfig,
    listeners: SelectAll<Listener>,
    /// Sockets for dials of which no listener leads to the other end, by family: IPv4 or not.
    dialers: HashMap<bool, Endpoint>,
    /// Inbound connections that somebody waits for, by where they come from.
    punches: HashMap<SocketAddr, oneshot::Sender<Upgrade>>,
    waker: Option<Waker>,
}

impl Quic {
    /// A transport that proves to be the node of this key.
    ///
    /// # Errors
    /// When no certificate can be made for the key.
    pub(super) fn new(key: &Keypair, limits: &Limits, unread: &Unread) -> io::Result<Self> {
        let (client, server) = tls::configs(key)?;
        let client = QuicClientConfig::try_from(client).map_err(io::Error::other)?;
        let server = QuicServerConfig::try_from(server).map_err(io::Error::other)?;
        let transport = Arc::new(transport_config());
        let mut client = quinn::ClientConfig::new(Arc::new(client));
        client.transport_config(transport.clone());
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(server));
        server
            .transport_config(transport)
            .migration(false)
            .max_incoming(MAX_INCOMING)
            .incoming_buffer_size(INCOMING_BYTES)
            .incoming_buffer_size_total(ALL_INCOMING_BYTES);
        let mut endpoint = match key.derive_secret(RESET_KEY) {
            Some(secret) => EndpointConfig::new(Arc::new(ResetKey::new(&secret))),
            None => EndpointConfig::default(),
        };
        endpoint.supported_versions(vec![1]);
        Ok(Self {
            setup: Setup {
                unread: unread.clone(),
                budget: Budget::new(limits),
            },
            client,
            server,
            endpoint,
            listeners: SelectAll::new(),
            dialers: HashMap::new(),
            punches: HashMap::new(),
            waker: None,
        })
    }

    /// The listener by which a dial goes out, the same for each dial to one address.
    fn listener_to(&self, target: &SocketAddr) -> Option<&Listener> {
        let listeners = self.listeners.iter().filter(|one| one.leads_to(target));
        let listeners: Vec<&Listener> = listeners.collect();
        let mut hasher = DefaultHasher::new();
        target.hash(&mut hasher);
        let count = u64::try_from(listeners.len()).ok()?;
        let at = hasher.finish().checked_rem(count)?;
        listeners.get(usize::try_from(at).ok()?).copied()
    }

    /// An endpoint on a port of its own.
    fn new_endpoint(&self, is_ipv4: bool) -> io::Result<Endpoint> {
        let ip: IpAddr = match is_ipv4 {
            true => Ipv4Addr::UNSPECIFIED.into(),
            false => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = bind(SocketAddr::new(ip, 0))?;
        Endpoint::new(self.endpoint.clone(), None, socket, Arc::new(TokioRuntime))
    }

    /// The endpoint for a dial.
    fn endpoint_to(&mut self, target: &SocketAddr, port_use: PortUse) -> io::Result<Endpoint> {
        if port_use == PortUse::New {
            return self.new_endpoint(target.is_ipv4());
        }
        if let Some(listener) = self.listener_to(target) {
            return Ok(listener.endpoint.clone());
        }
        if let Some(dialer) = self.dialers.get(&target.is_ipv4()) {
            return Ok(dialer.clone());
        }
        let dialer = self.new_endpoint(target.is_ipv4())?;
        self.dialers.insert(target.is_ipv4(), dialer.clone());
        Ok(dialer)
    }

    /// Opens a way through routers for the peer at `target`, and waits until it connects.
    fn punch(&mut self, target: SocketAddr, peer: PeerId) -> io::Result<Upgrade> {
        let listener = self.listener_to(&target);
        let listener = listener.ok_or_else(|| io::Error::other("nothing listens"))?;
        let socket = listener.socket()?;
        self.punches.retain(|_, waits| !waits.is_canceled());
        if self.punches.contains_key(&target) {
            return Err(io::Error::other("the peer is waited for already"));
        }
        if self.punches.len() >= MAX_PUNCHES {
            return Err(io::Error::other("too many peers are waited for"));
        }
        let (sender, receiver) = oneshot::channel();
        self.punches.insert(target, sender);
        Ok(async move {
            let punching = timeout(HANDSHAKE_TIMEOUT, send_packets(socket, target));
            let upgrade = tokio::select! {
                biased;
                upgrade = receiver => upgrade.map_err(io::Error::other)?,
                punched = punching => return Err(match punched {
                    Ok(error) => error,
                    Err(_) => ErrorKind::TimedOut.into(),
                }),
            };
            let (inbound, muxer) = upgrade.await?;
            if inbound != peer {
                // The swarm looks at who it is.
                tracing::debug!(%peer, %inbound, "another peer came from where one was waited for");
            }
            Ok((inbound, muxer))
        }
        .boxed())
    }
}

/// Sends packets that mean nothing again and again, so that routers on the way let those of the
/// other end in. Gives the error of a packet that could not be sent.
async fn send_packets(socket: UdpSocket, target: SocketAddr) -> io::Error {
    let socket = match tokio::net::UdpSocket::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => return error,
    };
    loop {
        let packet: [u8; PUNCH_BYTES] = rand::random();
        if let Err(error) = socket.send_to(&packet, target).await {
            return error;
        }
        let pause = rand::random_range(PUNCH_PAUSE_MS);
        sleep(Duration::from_millis(pause)).await;
    }
}

/// Makes the tokens by which a peer knows that a connection is gone after this node was restarted.
struct ResetKey(hmac::Key);

impl ResetKey {
    fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature: &mut [u8]) {
        signature.copy_from_slice(hmac::sign(&self.0, data).as_ref());
    }

    fn signature_len(&self) -> usize {
        hmac::HMAC_SHA256.digest_algorithm().output_len()
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        hmac::verify(&self.0, data, signature).map_err(|_| CryptoError)
    }
}

/// Settings of all connections.
fn transport_config() -> TransportConfig {
    let window = u32::try_from(FIRST_WINDOW_BYTES).unwrap_or(u32::MAX);
    let mut config = TransportConfig::default();
    config
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS))
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(VarInt::from_u32(IDLE_TIMEOUT_MS).into()))
        .allow_spin(false)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(window))
        .send_window(FIRST_SENDING_BYTES)
        .congestion_controller_factory(Arc::new(bbr::Factory));
    config
}

/// A socket for QUIC.
fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let kind = Type::DGRAM;
    let socket = Socket::new(
        Domain::for_address(address),
        kind,
        Some(socket2::Protocol::UDP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // The system gives what it allows: less makes a fast line lose packets, and nothing else.
    let _ = socket.set_recv_buffer_size(SOCKET_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BYTES);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// The socket address of a QUIC address, and the peer at its end.
fn parse(address: &Multiaddr) -> Option<(SocketAddr, Option<PeerId>)> {
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    let Protocol::Udp(port) = parts.next()? else {
        return None;
    };
    let Protocol::QuicV1 = parts.next()? else {
        return None;
    };
    let mut peer = None;
    for part in parts {
        match part {
            Protocol::P2p(id) => peer = Some(id),
            _ => return None,
        }
    }
    Some((SocketAddr::new(ip, port), peer))
}

fn to_address(socket: SocketAddr) -> Multiaddr {
    Multiaddr::empty()
        .with(socket.ip().into())
        .with(Protocol::Udp(socket.port()))
        .with(Protocol::QuicV1)
}

impl Transport for Quic {
    type Output = (PeerId, Muxer);
    type Error = io::Error;
    type ListenerUpgrade = Upgrade;
    type Dial = Upgrade;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<io::Error>> {
        let Some((socket, _)) = parse(&address) else {
            return Err(TransportError::MultiaddrNotSupported(address));
        };
        let listen = || {
            let socket = bind(socket)?;
            let second = socket.try_clone()?;
            let (config, server) = (self.endpoint.clone(), self.server.clone());
            let endpoint = Endpoint::new(config, Some(server), socket, Arc::new(TokioRuntime))?;
            Listener::new(id, second, endpoint, self.setup.clone())
        };
        self.listeners
            .push(listen().map_err(TransportError::Other)?);
        // From here on dials go out by the listener; the other endpoint ends with its connections.
        self.dialers.remove(&socket.is_ipv4());
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        let listener = self.listeners.iter_mut().find(|one| one.id == id);
        listener.is_some_and(|listener| {
            listener.close(Ok(()));
            true
        })
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        opts: DialOpts,
    ) -> Result<Upgrade, TransportError<io::Error>> {
        let parsed = parse(&address);
        let usable = parsed.filter(|(to, _)| to.port() != 0 && !to.ip().is_unspecified());
        let Some((target, peer)) = usable else {
            return Err(TransportError::MultiaddrNotSupported(address));
        };
        if let (Role::Listener, PortUse::New) = (opts.role, opts.port_use) {
            let peer = peer.ok_or(TransportError::MultiaddrNotSupported(address))?;
            return self.punch(target, peer).map_err(TransportError::Other);
        }
        let endpoint = self.endpoint_to(&target, opts.port_use);
        let endpoint = endpoint.map_err(TransportError::Other)?;
        let (client, setup) = (self.client.clone(), self.setup.clone());
        Ok(async move {
            // A name must be given and means nothing: who is there, the certificate says.
            let connecting = endpoint.connect_with(client, target, "l");
            setup.upgrade(connecting.map_err(io::Error::other)?).await
        }
        .boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Upgrade, io::Error>> {
        while let Poll::Ready(Some(event)) = self.listeners.poll_next_unpin(cx) {
            let TransportEvent::Incoming {
                listener_id,
                upgrade,
                local_addr,
                send_back_addr,
            } = event
            else {
                return Poll::Ready(event);
            };
            let from = parse(&send_back_addr);
            let waits = from.and_then(|(from, _)| self.punches.remove(&from));
            let upgrade = match waits {
                Some(waits) => match waits.send(upgrade) {
                    Ok(()) => continue,
                    // Nobody waits any more.
                    Err(upgrade) => upgrade,
                },
                None => upgrade,
            };
            return Poll::Ready(TransportEvent::Incoming {
                listener_id,
                upgrade,
                local_addr,
                send_back_addr,
            });
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
