//! Peers that break the protocol: raw streams of their own making.

use super::*;
use crate::block::MAX_BLOCK_BYTES;
use crate::net::admission::Unread;
use crate::net::exchange::{Beginning, Error};
use crate::net::pace::Arrivals;
use crate::net::peers::Misbehaviour;
use crate::net::transport;
use crate::wire::{exchange as wire, names};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::swarm::{NetworkBehaviour, Swarm, SwarmEvent};
use libp2p::{Multiaddr, StreamProtocol, identify};
use prost::Message;

#[derive(NetworkBehaviour)]
struct Raw {
    streams: libp2p_stream::Behaviour,
    identify: identify::Behaviour,
}

/// A peer that speaks to others in raw streams.
pub(super) struct Hostile {
    pub(super) peer: PeerId,
    address: Multiaddr,
    pub(super) streams: libp2p_stream::Control,
}

pub(super) fn exchange_protocol() -> StreamProtocol {
    StreamProtocol::try_from_owned(names::exchange("libernet")).expect("a protocol name")
}

impl Hostile {
    async fn start(network: &str) -> Self {
        let key = Keypair::generate_ed25519();
        let peer = key.public().to_peer_id();
        let identify = identify::Config::new(names::identify(network), key.public());
        let raw = Raw {
            streams: libp2p_stream::Behaviour::new(),
            identify: identify::Behaviour::new(identify),
        };
        let streams = raw.streams.new_control();
        let config =
            libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(PATIENCE);
        let unread = Unread::new(&crate::net::Limits::default());
        let (relay, _) = libp2p::relay::client::new(peer);
        let transport = transport::memory(&key, &unread, relay).expect("noise");
        let mut swarm = Swarm::new(transport, raw, peer, config);
        swarm
            .listen_on("/memory/0".parse().expect("an address"))
            .expect("memory");
        let address = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break address;
            }
        };
        tokio::spawn(async move {
            loop {
                swarm.select_next_some().await;
            }
        });
        Self {
            peer,
            address,
            streams,
        }
    }

    /// Answers each request with the given bytes, as they are.
    fn answer_with(&mut self, bytes: Vec<u8>) {
        let mut incoming = self.streams.accept(exchange_protocol()).expect("once");
        tokio::spawn(async move {
            while let Some((_, mut stream)) = incoming.next().await {
                let mut request = Vec::new();
                let _ = (&mut stream).take(5000).read_to_end(&mut request).await;
                let _ = stream.write_all(&bytes).await;
                let _ = stream.close().await;
            }
        });
    }

    /// Answers one request after the other with the given bytes. Gives what was asked.
    fn answer_each(&mut self, answers: Vec<Vec<u8>>) -> tokio::sync::mpsc::Receiver<wire::Request> {
        let mut incoming = self.streams.accept(exchange_protocol()).expect("once");
        let (asked, requests) = tokio::sync::mpsc::channel(answers.len());
        tokio::spawn(async move {
            for bytes in answers {
                let (_, mut stream) = incoming.next().await.expect("a request");
                let mut request = Vec::new();
                let _ = (&mut stream).take(5000).read_to_end(&mut request).await;
                let request = wire::Request::decode(&request[4..]).expect("a request");
                asked.send(request).await.expect("somebody listens");
                let _ = stream.write_all(&bytes).await;
                let _ = stream.close().await;
            }
        });
        requests
    }

    /// Sends raw bytes as a request and gives back everything that comes; `None` when the stream is reset.
    async fn ask_with(&mut self, net: &Net, bytes: &[u8]) -> Option<Vec<u8>> {
        self.ask_over(net, exchange_protocol(), bytes).await
    }

    async fn ask_over(
        &mut self,
        net: &Net,
        protocol: StreamProtocol,
        bytes: &[u8],
    ) -> Option<Vec<u8>> {
        let mut stream = self
            .streams
            .open_stream(net.peer_id(), protocol)
            .await
            .expect("it opens");
        let _ = stream.write_all(bytes).await;
        let _ = stream.close().await;
        let mut answer = Vec::new();
        within(stream.read_to_end(&mut answer)).await.ok()?;
        Some(answer)
    }
}

fn frame(message: &impl Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    [&(bytes.len() as u32).to_be_bytes()[..], &bytes].concat()
}

fn answer(id: BlockId, status: u32, block: Bytes) -> wire::Answer {
    wire::Answer {
        id: id.to_multihash().into(),
        status,
        block,
        ..wire::Answer::default()
    }
}

fn asked() -> BlockId {
    BlockId::from_sha384([1; 48])
}

/// A net that is connected to a peer that answers with the given bytes.
async fn facing(bytes: Vec<u8>) -> (Net, Hostile) {
    let mut hostile = Hostile::start("libernet").await;
    hostile.answer_with(bytes);
    let net = start(memory(), &Shelf::new()).await;
    net.peers()
        .connect(hostile.address.clone())
        .await
        .expect("it connects");
    (net, hostile)
}

async fn ask(net: &Net, hostile: &Hostile) -> Result<Vec<(BlockId, Answer)>, Error> {
    within(net.exchange().fetch(hostile.peer, vec![asked()], PATIENCE)).await
}

#[tokio::test]
async fn bad_answers_are_protocol_errors_and_counted() {
    let other = BlockId::from_sha384([2; 48]);
    let respond = |answers| {
        frame(&wire::Response {
            answers,
            ..Default::default()
        })
    };
    let block = some_block(1, 10);
    for (name, bytes) in [
        ("another id", respond(vec![answer(other, 1, block.clone())])),
        (
            "an unknown status",
            respond(vec![answer(asked(), 9, Bytes::new())]),
        ),
        (
            "an empty block",
            respond(vec![answer(asked(), 1, Bytes::new())]),
        ),
        (
            "a large block",
            respond(vec![answer(asked(), 1, some_block(0, MAX_BLOCK_BYTES + 1))]),
        ),
        (
            "two answers",
            respond(vec![answer(asked(), 3, Bytes::new()); 2]),
        ),
        ("a huge frame", u32::MAX.to_be_bytes().to_vec()),
        ("garbage", [&[0, 0, 0, 8][..], &[0xff; 8]].concat()),
    ] {
        let (net, hostile) = facing(bytes).await;
        let answer = ask(&net, &hostile).await;
        assert!(
            matches!(answer, Err(Error::Protocol { .. })),
            "{name}: {answer:?}"
        );
        assert_eq!(net.peers().list().await[0].faults, 1, "{name}");
        // The node lives on.
        assert!(net.peers().connected().contains(&hostile.peer), "{name}");
    }
}

#[tokio::test]
async fn cut_answers_are_retryable_and_not_counted() {
    let whole = frame(&wire::Response {
        answers: vec![answer(asked(), 1, some_block(1, 50))],
        ..Default::default()
    });
    for len in [0, 3, 4, whole.len() - 1] {
        let (net, hostile) = facing(whole[..len].to_vec()).await;
        let answer = ask(&net, &hostile).await;
        assert_eq!(
            answer,
            Err(Error::Closed { peer: hostile.peer }),
            "cut at {len}"
        );
        assert_eq!(net.peers().list().await[0].faults, 0);
    }
    let (net, hostile) = facing(whole).await;
    assert!(ask(&net, &hostile).await.is_ok(), "the whole one is fine");
}

#[tokio::test]
async fn what_came_of_an_answer_that_broke_off_is_not_asked_for_again() {
    let block: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
    let from = |offset: usize| {
        let rest = wire::Answer {
            offset: offset as u32,
            ..answer(asked(), 1, Bytes::copy_from_slice(&block[offset..]))
        };
        // As nodes write it: the place before the bytes.
        let whole = frame(&wire::Response {
            answers: vec![rest],
            ..Default::default()
        });
        let head = whole.len() - (block.len() - offset);
        (whole, head)
    };
    let (whole, head) = from(0);
    let mut hostile = Hostile::start("libernet").await;
    let part = whole[..head + 70_000].to_vec();
    let (rest, _) = from(70_000);
    // One that does not know of places sends everything again.
    let mut requests = hostile.answer_each(vec![part.clone(), rest, part, whole]);
    let net = start(memory(), &Shelf::new()).await;
    let connected = net.peers().connect(hostile.address.clone()).await;
    connected.expect("it connects");
    let (exchange, peer) = (net.exchange(), hostile.peer);
    for _ in 0..2 {
        let mut beginning = Beginning::default();
        let arrivals = Arc::new(Arrivals::default());
        let mut ask = async || {
            let asked =
                exchange.fetch_rest(peer, asked(), &mut beginning, PATIENCE, arrivals.clone());
            let answered = within(asked).await;
            (answered, beginning.len())
        };
        assert_eq!(ask().await, (Err(Error::Closed { peer }), 70_000));
        let second = ask().await;
        assert!(
            second == (Ok(Answer::Block(block.clone().into())), 0),
            "the whole block"
        );
        let first = requests.recv().await.expect("asked");
        let second = requests.recv().await.expect("asked");
        assert_eq!((first.offset, second.offset), (0, 70_000));
    }
}

#[tokio::test]
async fn a_refusal_carries_its_code() {
    let (net, hostile) = facing(frame(&wire::Response {
        error: 1,
        ..Default::default()
    }))
    .await;
    let answer = ask(&net, &hostile).await;
    assert_eq!(
        answer,
        Err(Error::Refused {
            peer: hostile.peer,
            code: 1
        })
    );
}

#[tokio::test]
async fn who_goes_on_breaking_the_protocol_is_dropped() {
    let (net, hostile) = facing(u32::MAX.to_be_bytes().to_vec()).await;
    let mut events = net.events();
    for _ in 0..3 {
        assert!(matches!(
            ask(&net, &hostile).await,
            Err(Error::Protocol { .. })
        ));
    }
    wait_event(&mut events, |event| {
        matches!(event, Event::PeerRefused { .. })
    })
    .await;
    wait_connected(&net, &[hostile.peer], false).await;
    let answer = ask(&net, &hostile).await;
    assert_eq!(
        answer,
        Err(Error::Unreachable { peer: hostile.peer }),
        "it is turned away"
    );
}

#[tokio::test]
async fn who_sends_wrong_blocks_is_dropped() {
    let (a, b) = pair(Shelf::new()).await;
    for n in 1..=3 {
        assert_eq!(a.peers().list().await[0].wrong_blocks, n - 1);
        a.peers()
            .report(b.peer_id(), Misbehaviour::WrongBytes)
            .await;
    }
    wait_connected(&a, &[b.peer_id()], false).await;
    wait_connected(&b, &[a.peer_id()], false).await;
}

pub(super) fn request(ids: Vec<Vec<u8>>, want: u32) -> Vec<u8> {
    frame(&wire::Request {
        want,
        ids: ids.into_iter().map(Bytes::from).collect(),
        ..Default::default()
    })
}

/// A peer that is connected to a net.
pub(super) async fn connected_to(net: &Net) -> Hostile {
    let hostile = Hostile::start("libernet").await;
    net.peers()
        .connect(hostile.address.clone())
        .await
        .expect("it connects");
    hostile
}

async fn faults_of(net: &Net, hostile: &Hostile) -> u64 {
    let peers = net.peers().list().await;
    let known = peers.iter().find(|known| known.peer == hostile.peer);
    known.expect("it is connected").faults
}

#[tokio::test]
async fn bad_requests_get_no_answer_and_are_counted() {
    let shelf = Shelf::new();
    let id = shelf.put(some_block(1, 10));
    let net = start(memory(), &shelf).await;
    for (name, bytes) in [
        ("a huge frame", u32::MAX.to_be_bytes().to_vec()),
        ("garbage", [&[0, 0, 0, 8][..], &[0xff; 8]].concat()),
        ("no ids", request(vec![], 0)),
        ("too many ids", request(vec![id.to_multihash(); 65], 0)),
        ("an unknown kind of id", request(vec![vec![0x11, 20]], 0)),
        ("an unknown wish", request(vec![id.to_multihash()], 7)),
    ] {
        let mut hostile = connected_to(&net).await;
        let answer = hostile.ask_with(&net, &bytes).await;
        assert!(answer.is_none_or(|answer| answer.is_empty()), "{name}");
        assert_eq!(faults_of(&net, &hostile).await, 1, "{name}");
        // Once is forgiven.
        let good = hostile
            .ask_with(&net, &request(vec![id.to_multihash()], 0))
            .await
            .expect("answered");
        let expected = wire::Response {
            answers: vec![answer_of(id)],
            ..Default::default()
        };
        assert_eq!(good, frame(&expected), "{name}");
    }
}

#[tokio::test]
async fn garbage_in_place_of_other_requests_is_counted_too() {
    let net = start(memory(), &Shelf::new()).await;
    for name in [names::replica("libernet"), names::ring("libernet")] {
        let protocol = StreamProtocol::try_from_owned(name).expect("a protocol name");
        let mut hostile = connected_to(&net).await;
        for (count, bytes) in [
            u32::MAX.to_be_bytes().to_vec(),
            [&[0, 0, 0, 8][..], &[0xff; 8]].concat(),
        ]
        .into_iter()
        .enumerate()
        {
            let answer = hostile.ask_over(&net, protocol.clone(), &bytes).await;
            assert!(answer.is_none_or(|answer| answer.is_empty()), "{protocol}");
            let faults = faults_of(&net, &hostile).await;
            assert_eq!(faults, count as u64 + 1, "{protocol}");
        }
        hostile.ask_over(&net, protocol.clone(), &[0, 0]).await;
        assert_eq!(faults_of(&net, &hostile).await, 2, "{protocol}: cut");
    }
}

fn answer_of(id: BlockId) -> wire::Answer {
    answer(id, 1, some_block(1, 10))
}

/// Its connection may have broken off, or it changed its mind.
#[tokio::test]
async fn cut_requests_are_not_counted() {
    let shelf = Shelf::new();
    let id = shelf.put(some_block(1, 10));
    let net = start(memory(), &shelf).await;
    let mut hostile = connected_to(&net).await;
    let whole = request(vec![id.to_multihash()], 0);
    for len in [0, 2, 4, whole.len() - 1] {
        let answer = hostile.ask_with(&net, &whole[..len]).await;
        assert!(
            answer.is_none_or(|answer| answer.is_empty()),
            "cut at {len}"
        );
    }
    assert_eq!(faults_of(&net, &hostile).await, 0);
    assert!(hostile.ask_with(&net, &whole).await.is_some());
}

#[tokio::test]
async fn who_goes_on_sending_bad_requests_is_dropped() {
    let net = start(memory(), &Shelf::new()).await;
    let mut events = net.events();
    let mut hostile = connected_to(&net).await;
    for _ in 0..3 {
        hostile.ask_with(&net, &u32::MAX.to_be_bytes()).await;
    }
    wait_event(
        &mut events,
        |event| matches!(event, Event::PeerRefused { peer, .. } if *peer == hostile.peer),
    )
    .await;
    wait_connected(&net, &[hostile.peer], false).await;
}

/// js-libp2p and py-libp2p can't choose what identify calls the network: the names of protocols
/// count.
#[tokio::test]
async fn what_identify_calls_the_network_keeps_nobody_away() {
    let net = start(memory(), &Shelf::new()).await;
    for version in ["elsewhere", "ipfs/0.1.0"] {
        let mut stock = Hostile::start(version).await;
        let _incoming = stock.streams.accept(exchange_protocol());
        let connected = net.peers().connect(stock.address.clone()).await;
        assert_eq!(connected, Ok(stock.peer));
        wait_connected(&net, &[stock.peer], true).await;
    }
}

#[tokio::test]
async fn peers_of_another_network_are_turned_away() {
    let net = start(memory(), &Shelf::new()).await;
    let mut hostile = Hostile::start("elsewhere").await;
    let elsewhere = StreamProtocol::try_from_owned(names::exchange("elsewhere"));
    let _incoming = hostile.streams.accept(elsewhere.expect("a protocol name"));
    let error = net
        .peers()
        .connect(hostile.address.clone())
        .await
        .expect_err("another network");
    assert!(error.to_string().contains("elsewhere"), "{error}");
    assert!(net.peers().connected().is_empty());
    let again = net
        .peers()
        .connect(hostile.peer)
        .await
        .expect_err("turned away");
    assert!(
        matches!(again, crate::net::peers::Error::Unreachable { .. }),
        "{again}"
    );
}
