//! A peer of its own making, for attacks on real nodes.
//!
//! An [`Attacker`] is a libp2p swarm with a key, a source address and raw streams. It speaks
//! identify, and whatever a test makes it say, byte by byte: nothing here is the product's own
//! client code, so that it may lie, repeat itself, stop reading, or be many. A test that needs
//! many identities starts many attackers; those of one `from` come from one address.
//!
//! Messages are protobuf. [`Message`] writes fields by their numbers (see `proto/`), [`fields`]
//! reads them. The protocols exchange, replica and ring carry one request and one answer a stream,
//! each after four bytes of length: [`Attacker::ask`]. The DHT's messages follow a length of
//! variable size: [`Attacker::ask_dht`].
#![allow(dead_code, reason = "each attack uses some of what an attacker can do")]

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{AsyncReadExt, AsyncWriteExt, FutureExt, StreamExt};
use libp2p::core::Endpoint;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{
    Boxed, DialOpts, ListenerId, PortUse, TransportError, TransportEvent,
};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{ConnectionId, SwarmEvent, dial_opts};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol, Swarm, Transport, noise, tcp, yamux};
use prost::encoding::{
    WireType, decode_key, decode_varint, encode_key, encode_varint, encoded_len_varint,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

/// Far longer than anything here takes: an attack that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// Longest message that is read.
const MAX_MESSAGE_BYTES: usize = 8 << 20;

const IDENTIFY: &str = "/ipfs/id/1.0.0";

/// A protobuf message, written field by field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message(pub Vec<u8>);

impl Message {
    /// An empty message.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a number.
    pub fn number(mut self, tag: u32, value: u64) -> Self {
        encode_key(tag, WireType::Varint, &mut self.0);
        encode_varint(value, &mut self.0);
        self
    }

    /// Adds bytes, a text, or the bytes of another message.
    pub fn bytes(mut self, tag: u32, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        encode_key(tag, WireType::LengthDelimited, &mut self.0);
        encode_varint(value.len() as u64, &mut self.0);
        self.0.extend_from_slice(value);
        self
    }

    /// Adds a message.
    pub fn message(self, tag: u32, value: &Message) -> Self {
        self.bytes(tag, &value.0)
    }

    /// The message after four bytes of length, as exchange, replica and ring have it.
    pub fn framed(&self) -> Vec<u8> {
        framed(&self.0)
    }

    /// The message after a length of variable size, as the DHT and identify have it.
    pub fn delimited(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.0.len() + encoded_len_varint(u64::MAX));
        encode_varint(self.0.len() as u64, &mut bytes);
        bytes.extend_from_slice(&self.0);
        bytes
    }
}

/// Bytes after four bytes of their length.
pub fn framed(bytes: &[u8]) -> Vec<u8> {
    let len = u32::try_from(bytes.len()).expect("a message is short");
    [&len.to_be_bytes()[..], bytes].concat()
}

/// A field's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Number(u64),
    Bytes(Vec<u8>),
}

/// The fields of a message in their order, by number.
pub fn fields(mut bytes: &[u8]) -> Vec<(u32, Value)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (tag, kind) = decode_key(&mut bytes).expect("a field's head");
        let number = decode_varint(&mut bytes).expect("a number or a length");
        let value = match kind {
            WireType::Varint => Value::Number(number),
            WireType::LengthDelimited => {
                let len = usize::try_from(number).expect("a length");
                let (value, rest) = bytes.split_at(len);
                bytes = rest;
                Value::Bytes(value.to_owned())
            }
            other => panic!("no protocol here uses {other:?}"),
        };
        found.push((tag, value));
    }
    found
}

/// Every bytes field of a message with this number.
pub fn all_bytes(message: &[u8], tag: u32) -> Vec<Vec<u8>> {
    let of_tag = |(number, value)| match value {
        Value::Bytes(bytes) if number == tag => Some(bytes),
        _ => None,
    };
    fields(message).into_iter().filter_map(of_tag).collect()
}

/// The number in a field of a message; 0 when it is not there.
pub fn number(message: &[u8], tag: u32) -> u64 {
    let of_tag = |(number, value)| match value {
        Value::Number(value) if number == tag => Some(value),
        _ => None,
    };
    fields(message).into_iter().find_map(of_tag).unwrap_or(0)
}

/// The DHT's messages, by libp2p's specification "kad-dht".
pub mod dht {
    use super::{Message, Multiaddr, PeerId};

    /// A message of a kind about a key.
    fn about(kind: u64, key: &[u8]) -> Message {
        Message::new().number(1, kind).bytes(2, key)
    }

    /// A peer with its addresses.
    pub fn peer(peer: PeerId, addresses: &[Multiaddr]) -> Message {
        let message = Message::new().bytes(1, peer.to_bytes());
        addresses
            .iter()
            .fold(message, |message, address| message.bytes(2, address))
    }

    /// A record to be kept.
    pub fn put_value(key: &[u8], value: &[u8]) -> Message {
        let record = Message::new().bytes(1, key).bytes(2, value);
        about(0, key).message(3, &record)
    }

    /// A question for the record of a key.
    pub fn get_value(key: &[u8]) -> Message {
        about(1, key)
    }

    /// An announcement: `provider` has what the key names.
    pub fn add_provider(key: &[u8], provider: &Message) -> Message {
        about(2, key).message(9, provider)
    }

    /// A question for the providers of a key.
    pub fn get_providers(key: &[u8]) -> Message {
        about(3, key)
    }

    /// A question for the peers nearest to a key.
    pub fn find_node(key: &[u8]) -> Message {
        about(4, key)
    }

    /// An answer to a question for a key's providers or nearest peers.
    pub fn answer(kind: u64, key: &[u8], closer: &[Message], providers: &[Message]) -> Message {
        let message = about(kind, key);
        let message = closer.iter().fold(message, |m, peer| m.message(8, peer));
        providers.iter().fold(message, |m, peer| m.message(9, peer))
    }
}

/// Nature of an attacker.
#[derive(Clone, Debug)]
pub struct Nature {
    /// The address that it dials from and listens on.
    pub from: IpAddr,
    /// Its key; none: a new one.
    pub key: Option<Keypair>,
    /// The network that it claims to be of.
    pub network: String,
    /// Whether it tells who it is when asked. One that does not is never "connected".
    pub identifies: bool,
    /// Where it says that it listens, besides the address on which it does.
    pub claims: Vec<Multiaddr>,
    /// Whether it listens.
    pub listens: bool,
}

impl Default for Nature {
    fn default() -> Self {
        Self {
            from: Ipv4Addr::LOCALHOST.into(),
            key: None,
            network: "libernet".to_owned(),
            identifies: true,
            claims: Vec::new(),
            listens: false,
        }
    }
}

/// Order that a test gives to the attacker's swarm.
enum Order {
    Connect(Multiaddr, oneshot::Sender<Option<(PeerId, ConnectionId)>>),
    Disconnect(PeerId),
}

/// Connections that an attacker has, by the peer at their other end.
type Connections = HashMap<ConnectionId, PeerId>;

/// A peer of its own making. Its connections end when it is dropped.
pub struct Attacker {
    pub peer: PeerId,
    /// Where it listens, if it does, with its peer id.
    pub address: Option<Multiaddr>,
    pub network: String,
    streams: libp2p_stream::Control,
    orders: mpsc::Sender<Order>,
    connections: watch::Receiver<Connections>,
}

impl Attacker {
    /// An attacker of the usual nature: it dials from 127.0.0.1 and does not listen.
    pub async fn start() -> Self {
        Self::with(Nature::default()).await
    }

    /// An attacker that dials from an address, such as another one of 127.0.0.0/8.
    pub async fn start_from(from: [u8; 4]) -> Self {
        let from = IpAddr::from(from);
        Self::with(Nature {
            from,
            ..Nature::default()
        })
        .await
    }

    /// An attacker of a certain nature.
    pub async fn with(nature: Nature) -> Self {
        let key = nature.key.unwrap_or_else(Keypair::generate_ed25519);
        let peer = key.public().to_peer_id();
        let behaviour = libp2p_stream::Behaviour::new();
        let mut streams = behaviour.new_control();
        let transport = transport(&key, nature.from);
        let config =
            libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(PATIENCE * 9);
        let mut swarm = Swarm::new(transport, behaviour, peer, config);
        let mut address = None;
        if nature.listens {
            let any: Multiaddr = Multiaddr::from(nature.from).with(Protocol::Tcp(0));
            swarm.listen_on(any).expect("an address of this machine");
            address = Some(within(listening(&mut swarm)).await);
        }
        if nature.identifies {
            let listens = nature.claims.iter().chain(&address);
            let says = listens.fold(
                Message::new()
                    .bytes(1, key.public().encode_protobuf())
                    .bytes(5, format!("/{}/1.0.0", nature.network))
                    .bytes(6, "attacker"),
                |message, address| message.bytes(2, address),
            );
            let says = [
                "/kad/1.0.0",
                "/exchange/1.0.0",
                "/replica/1.0.0",
                "/ring/1.0.0",
            ]
            .iter()
            .fold(says, |m, name| {
                m.bytes(3, format!("/{}{name}", nature.network))
            });
            let incoming = streams.accept(StreamProtocol::new(IDENTIFY));
            let mut incoming = incoming.expect("nobody else accepts them");
            let says = says.delimited();
            tokio::spawn(async move {
                while let Some((_, mut stream)) = incoming.next().await {
                    let _ = stream.write_all(&says).await;
                    let _ = stream.close().await;
                }
            });
        }
        let (orders, received) = mpsc::channel(16);
        let (connections_sender, connections) = watch::channel(Connections::new());
        tokio::spawn(run(swarm, received, connections_sender));
        Self {
            peer,
            address: address.map(|address| address.with(Protocol::P2p(peer))),
            network: nature.network,
            streams,
            orders,
            connections,
        }
    }

    /// Connects to a node. True when the node let it in: it has told who it is. False when the
    /// node closed the connection before, or there was none.
    pub async fn connect(&self, node: &str) -> bool {
        within(async {
            let Some((peer, connection)) = self.dial(node).await else {
                return false;
            };
            let ended = async {
                let mut connections = self.connections.clone();
                let gone = |open: &Connections| !open.contains_key(&connection);
                let _ = connections.wait_for(gone).await;
            };
            tokio::select! {
                said = self.identity_of(peer) => said.is_some(),
                () = ended => false,
            }
        })
        .await
    }

    /// Connects to a node and says nothing. Both ends have proven who they are and no more: the
    /// node may yet close the connection.
    pub async fn dial(&self, node: &str) -> Option<(PeerId, ConnectionId)> {
        let node = node.parse().expect("an address");
        let (reply, connected) = oneshot::channel();
        let order = Order::Connect(node, reply);
        self.orders.send(order).await.expect("it runs");
        connected.await.ok().flatten()
    }

    /// Closes the connections with a peer.
    pub async fn disconnect(&self, peer: PeerId) {
        let order = Order::Disconnect(peer);
        self.orders.send(order).await.expect("it runs");
    }

    /// Identity that a node tells of itself; nothing when the connection is closed first.
    pub async fn identity_of(&self, peer: PeerId) -> Option<Vec<u8>> {
        let mut stream = self.open(peer, IDENTIFY).await?;
        read_delimited(&mut stream).await
    }

    /// Whether it has a connection with a peer.
    pub fn is_connected(&self, peer: PeerId) -> bool {
        let open = self.connections.borrow();
        open.values().any(|other| *other == peer)
    }

    /// Waits until it has no connection with a peer.
    pub async fn wait_closed(&self, peer: PeerId) {
        let mut connections = self.connections.clone();
        let gone = |open: &Connections| open.values().all(|other| *other != peer);
        let _ = within(connections.wait_for(gone)).await;
    }

    /// The full name of a protocol of its network: of "exchange", "replica", "ring" or "kad".
    pub fn protocol(&self, name: &str) -> String {
        format!("/{}/{name}/1.0.0", self.network)
    }

    /// Opens a stream by a protocol's full name. Nothing when the node does not let it.
    pub async fn open(&self, peer: PeerId, protocol: &str) -> Option<Stream> {
        let protocol = StreamProtocol::try_from_owned(protocol.to_owned()).expect("a name");
        let mut streams = self.streams.clone();
        streams.open_stream(peer, protocol).await.ok()
    }

    /// Sends bytes over a stream of "exchange", "replica" or "ring" and gives the answer's message.
    /// Nothing when there is none.
    pub async fn ask(&self, peer: PeerId, name: &str, bytes: &[u8]) -> Option<Vec<u8>> {
        within(async {
            let mut stream = self.open(peer, &self.protocol(name)).await?;
            stream.write_all(bytes).await.ok()?;
            stream.flush().await.ok()?;
            read_framed(&mut stream).await
        })
        .await
    }

    /// Sends a message of the DHT and gives the answer's. Nothing when there is none.
    pub async fn ask_dht(&self, peer: PeerId, message: &Message) -> Option<Vec<u8>> {
        within(async {
            let mut stream = self.open(peer, &self.protocol("kad")).await?;
            stream.write_all(&message.delimited()).await.ok()?;
            stream.flush().await.ok()?;
            read_delimited(&mut stream).await
        })
        .await
    }

    /// Asks by a message behind its length, as in the DHT, over another protocol.
    pub async fn ask_delimited(&self, peer: PeerId, name: &str, message: &[u8]) -> Option<Vec<u8>> {
        within(async {
            let mut stream = self.open(peer, &self.protocol(name)).await?;
            stream.write_all(message).await.ok()?;
            stream.flush().await.ok()?;
            read_delimited(&mut stream).await
        })
        .await
    }

    /// Answers each request of a protocol whose messages are behind their lengths as in the DHT.
    pub fn answer_delimited_with(
        &self,
        name: &str,
        answer: impl Fn(PeerId, Vec<u8>) -> Message + Send + Sync + 'static,
    ) {
        let answer = Arc::new(answer);
        self.serve(name, move |peer, mut stream| {
            let answer = answer.clone();
            async move {
                let request = read_delimited(&mut stream).await?;
                let bytes = answer(peer, request).delimited();
                stream.write_all(&bytes).await.ok()?;
                stream.close().await.ok()
            }
        });
    }

    /// Sends messages of the DHT that have no answer, over one stream. True when the node has
    /// taken all of them from it: it answers a question that follows.
    pub async fn tell_dht(&self, peer: PeerId, messages: &[Message]) -> bool {
        within(async {
            let mut stream = self.open(peer, &self.protocol("kad")).await?;
            for message in messages {
                stream.write_all(&message.delimited()).await.ok()?;
            }
            let question = dht::find_node(b"are all of them read?");
            stream.write_all(&question.delimited()).await.ok()?;
            stream.flush().await.ok()?;
            read_delimited(&mut stream).await
        })
        .await
        .is_some()
    }

    /// Answers each request of "exchange", "replica" or "ring" by a message.
    pub fn answer_with(
        &self,
        name: &str,
        answer: impl Fn(PeerId, Vec<u8>) -> Message + Send + Sync + 'static,
    ) {
        let answer = Arc::new(answer);
        self.serve(name, move |peer, mut stream| {
            let answer = answer.clone();
            async move {
                let request = read_framed(&mut stream).await?;
                let bytes = answer(peer, request).framed();
                stream.write_all(&bytes).await.ok()?;
                stream.close().await.ok()
            }
        });
    }

    /// Answers messages of the DHT; one for which `answer` gives nothing gets no answer.
    pub fn answer_dht_with(
        &self,
        answer: impl Fn(PeerId, Vec<u8>) -> Option<Message> + Send + Sync + 'static,
    ) {
        let answer = Arc::new(answer);
        self.serve("kad", move |peer, mut stream| {
            let answer = answer.clone();
            async move {
                loop {
                    let request = read_delimited(&mut stream).await?;
                    if let Some(message) = answer(peer, request) {
                        stream.write_all(&message.delimited()).await.ok()?;
                        stream.flush().await.ok()?;
                    }
                }
            }
        });
    }

    /// Takes the streams of a protocol, several at a time. A node may reset its stream at any time.
    fn serve<F>(&self, name: &str, serve: impl Fn(PeerId, Stream) -> F + Send + 'static)
    where
        F: Future<Output = Option<()>> + Send + 'static,
    {
        let protocol = StreamProtocol::try_from_owned(self.protocol(name)).expect("a name");
        let incoming = self.streams.clone().accept(protocol);
        let incoming = incoming.expect("each protocol is served once");
        tokio::spawn(incoming.for_each_concurrent(64, move |(peer, stream)| {
            let served = serve(peer, stream);
            async move {
                let _ = served.await;
            }
        }));
    }
}

fn transport(key: &Keypair, from: IpAddr) -> Boxed<(PeerId, StreamMuxerBox)> {
    FromIp::new(from)
        .upgrade(Version::V1)
        .authenticate(noise::Config::new(key).expect("a key signs"))
        .multiplex(yamux::Config::default())
        .boxed()
}

/// A connection with a node and nothing around it: its streams speak no protocol, and nobody
/// answers those of the node. Nothing when the node does not let it be made.
pub async fn bare(node: &str, from: [u8; 4]) -> Option<(PeerId, StreamMuxerBox)> {
    let key = Keypair::generate_ed25519();
    let mut transport = transport(&key, from.into());
    let opts = DialOpts {
        role: Endpoint::Dialer,
        port_use: PortUse::New,
    };
    let dial = transport.dial(node.parse().expect("an address"), opts);
    within(dial.expect("an address that it dials")).await.ok()
}

/// Reads a message after four bytes of length. Nothing when the stream ends before it does.
pub async fn read_framed(stream: &mut Stream) -> Option<Vec<u8>> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await.ok()?;
    let len = usize::try_from(u32::from_be_bytes(head)).expect("32 bits fit");
    assert!(len <= MAX_MESSAGE_BYTES, "a node sends {len} bytes");
    let mut message = vec![0; len];
    stream.read_exact(&mut message).await.ok()?;
    Some(message)
}

/// Reads a message after a length of variable size. Nothing when the stream ends before it does.
pub async fn read_delimited(stream: &mut Stream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.ok()?;
        head.push(byte[0]);
        if byte[0] < 0x80 {
            break;
        }
    }
    let len = decode_varint(&mut head.as_slice()).expect("a length");
    let len = usize::try_from(len).expect("a length");
    assert!(len <= MAX_MESSAGE_BYTES, "a node sends {len} bytes");
    let mut message = vec![0; len];
    stream.read_exact(&mut message).await.ok()?;
    Some(message)
}

/// Fails the test when something takes far too long.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future)
        .await
        .expect("it takes far too long")
}

/// The peer id at the end of a node's address.
pub fn peer_of(address: &str) -> PeerId {
    let address: Multiaddr = address.parse().expect("an address");
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => peer,
        _ => panic!("{address} names no peer"),
    }
}

async fn listening(swarm: &mut Swarm<libp2p_stream::Behaviour>) -> Multiaddr {
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            return address;
        }
    }
}

async fn run(
    mut swarm: Swarm<libp2p_stream::Behaviour>,
    mut orders: mpsc::Receiver<Order>,
    connections: watch::Sender<Connections>,
) {
    let mut dialling = HashMap::new();
    loop {
        let event = tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Connect(address, reply)) => {
                    let opts = dial_opts::DialOpts::from(address);
                    let id = opts.connection_id();
                    if swarm.dial(opts).is_ok() {
                        dialling.insert(id, reply);
                    }
                    continue;
                }
                Some(Order::Disconnect(peer)) => {
                    let _ = swarm.disconnect_peer_id(peer);
                    continue;
                }
                None => return,
            },
            event = swarm.select_next_some() => event,
        };
        match event {
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                ..
            } => {
                connections.send_modify(|open| {
                    open.insert(connection_id, peer_id);
                });
                if let Some(reply) = dialling.remove(&connection_id) {
                    let _ = reply.send(Some((peer_id, connection_id)));
                }
            }
            SwarmEvent::ConnectionClosed { connection_id, .. } => {
                connections.send_modify(|open| {
                    open.remove(&connection_id);
                });
            }
            SwarmEvent::OutgoingConnectionError { connection_id, .. } => {
                dialling.remove(&connection_id);
            }
            _ => {}
        }
    }
}

/// TCP that dials from a chosen address.
struct FromIp {
    ip: IpAddr,
    tcp: tcp::tokio::Transport,
}

impl FromIp {
    fn new(ip: IpAddr) -> Self {
        let tcp = tcp::tokio::Transport::new(tcp::Config::default());
        Self { ip, tcp }
    }
}

impl Transport for FromIp {
    type Output = tcp::tokio::TcpStream;
    type Error = io::Error;
    type ListenerUpgrade = <tcp::tokio::Transport as Transport>::ListenerUpgrade;
    type Dial = BoxFuture<'static, io::Result<Self::Output>>;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<io::Error>> {
        self.tcp.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.tcp.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        _: DialOpts,
    ) -> Result<Self::Dial, TransportError<io::Error>> {
        let mut parts = address.iter();
        let ip: IpAddr = match parts.next() {
            Some(Protocol::Ip4(ip)) => ip.into(),
            Some(Protocol::Ip6(ip)) => ip.into(),
            _ => return Err(TransportError::MultiaddrNotSupported(address)),
        };
        let Some(Protocol::Tcp(port)) = parts.next() else {
            return Err(TransportError::MultiaddrNotSupported(address));
        };
        let from = SocketAddr::new(self.ip, 0);
        Ok(async move {
            let socket = match from {
                SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
                SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
            }?;
            socket.bind(from)?;
            let stream = socket.connect(SocketAddr::new(ip, port)).await?;
            stream.set_nodelay(true)?;
            Ok(tcp::tokio::TcpStream(stream))
        }
        .boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        Pin::new(&mut self.tcp).poll(cx)
    }
}

#[tokio::test]
async fn an_attacker_speaks_each_protocol() {
    use crate::process::Node;
    let data = tempfile::tempdir().expect("a directory");
    let node = Node::start(data.path(), &[]);
    let attacker = Attacker::with(Nature {
        listens: true,
        from: [127, 0, 0, 7].into(),
        ..Nature::default()
    })
    .await;
    let address = &node.addresses[0];
    let peer = peer_of(address);
    assert!(attacker.connect(address).await, "it is let in");
    let id = [&[0x20, 48][..], &[7; 48]].concat();
    // Whether a block is there: the answer names the id and says no.
    let have = Message::new().number(1, 1).bytes(2, &id);
    let answer = attacker.ask(peer, "exchange", &have.framed()).await;
    let answers = all_bytes(&answer.expect("an answer"), 1);
    assert_eq!(number(&answers[0], 2), 3);
    // Request for the amount of room that there is.
    let room = Message::new().number(1, 1);
    let answer = attacker.ask(peer, "replica", &room.framed()).await;
    answer.expect("an answer");
    // News of a ring that the attacker is not in.
    let info = Message::new().message(3, &Message::new().bytes(1, [1; 32]));
    attacker.ask(peer, "ring", &info.framed()).await;
    // An announcement, and the node tells of it.
    let me = dht::peer(attacker.peer, attacker.address.as_slice());
    assert!(
        attacker
            .tell_dht(peer, &[dht::add_provider(&id, &me)])
            .await
    );
    let found = attacker.ask_dht(peer, &dht::get_providers(&id)).await;
    found.expect("an answer");
    // From the address that was asked for.
    let peers = node.json(&["peers"]).to_string();
    assert!(peers.contains(&attacker.peer.to_string()), "{peers}");
    attacker.disconnect(peer).await;
    attacker.wait_closed(peer).await;
}
