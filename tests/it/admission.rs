//! Free identities and silent sockets against a real node: they take what one address may, and
//! nothing of others.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use futures::future::{join_all, poll_fn};
use futures::{AsyncWriteExt, StreamExt};
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use tokio::net::{TcpSocket, TcpStream};

use crate::attacker::{Attacker, bare, peer_of, within};
use crate::process::Node;
use crate::rings::until;

/// Many identities at one address.
const CROWD: [u8; 4] = [127, 0, 0, 66];
/// Connections that one address of the local network may have.
const NEAR_SHARE: usize = 64;

fn node() -> (tempfile::TempDir, Node) {
    let data = tempfile::tempdir().expect("a directory");
    let node = Node::start(data.path(), &[]);
    (data, node)
}

fn socket_of(node: &Node) -> SocketAddr {
    let address: Multiaddr = node.addresses[0].parse().expect("an address");
    let port = address.iter().find_map(|part| match part {
        Protocol::Tcp(port) => Some(port),
        _ => None,
    });
    (Ipv4Addr::LOCALHOST, port.expect("a port")).into()
}

/// The peers that a node is connected to.
fn connected(node: &Node) -> Vec<String> {
    let peers = node.json(&["peers"]);
    let peers = peers["peers"].as_array().expect("a list");
    let name = |peer: &serde_json::Value| peer["peer"].as_str().expect("a text").to_owned();
    peers.iter().map(name).collect()
}

/// Ten peers, each at an address of its own, get in and stay.
async fn others_get_in(node: &Node) -> Vec<Attacker> {
    let mut others = Vec::new();
    for n in 1..=10 {
        let other = Attacker::start_from([127, 0, 1, n]).await;
        assert!(other.connect(&node.addresses[0]).await, "number {n}");
        others.push(other);
    }
    let peer = peer_of(&node.addresses[0]);
    assert!(others.iter().all(|other| other.is_connected(peer)));
    others
}

#[tokio::test(flavor = "multi_thread")]
async fn identities_of_one_address_take_no_more_than_its_share() {
    let (_data, node) = node();
    let address = &node.addresses[0];
    let early = others_get_in(&node).await;
    let crowd = join_all((0..256).map(|_| Attacker::start_from(CROWD))).await;
    futures::stream::iter(&crowd)
        .for_each_concurrent(16, |one| async move {
            one.connect(address).await;
        })
        .await;
    let peer = peer_of(address);
    // An attacker hears a moment later that the node has closed a connection.
    let inside = || crowd.iter().filter(|one| one.is_connected(peer)).count();
    until("the crowd has its share and no more", || {
        (1..=NEAR_SHARE).contains(&inside()).then_some(())
    });
    // Peers that were there are still there, and others get in.
    assert!(early.iter().all(|one| one.is_connected(peer)));
    let late = others_get_in(&node).await;
    let data = tempfile::tempdir().expect("a directory");
    let real = Node::start(data.path(), &[address]);
    until("a real node gets in, too", || {
        connected(&node).contains(&real.peer).then_some(())
    });
    drop((early, late));
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_and_half_said_connections_keep_nobody_out() {
    let (_data, node) = node();
    let to = socket_of(&node);
    let silent = move || async move {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((IpAddr::from(CROWD), 0).into()).expect("bound");
        // The node may take no more.
        socket.connect(to).await.ok()
    };
    let mut open: Vec<TcpStream> = Vec::new();
    for n in 0..200 {
        if let Some(stream) = silent().await {
            if n % 2 == 0 {
                // A beginning that is never gone on with.
                let _ = stream.try_write(b"\x13/multistream/1.0.0\n");
            }
            open.push(stream);
        }
    }
    let others = others_get_in(&node).await;
    drop((open, others));
}

/// Opens one more stream of a bare connection. None once the node has ended it.
async fn open(muxer: &mut StreamMuxerBox) -> Option<libp2p::core::muxing::SubstreamBox> {
    let opened = poll_fn(|cx| {
        if let std::task::Poll::Ready(Err(error)) = muxer.poll_unpin(cx) {
            return std::task::Poll::Ready(Err(error));
        }
        muxer.poll_outbound_unpin(cx)
    });
    within(opened).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_over_many_streams_what_nobody_reads_is_cut_off() {
    let (_data, node) = node();
    let (_, mut muxer): (PeerId, _) = bare(&node.addresses[0], CROWD).await.expect("connected");
    // More than are negotiated at once wait for their turn, each with all that its window takes.
    let mut streams = Vec::new();
    let filling = vec![7; 256 << 10];
    for n in 0..250 {
        let Some(mut stream) = open(&mut muxer).await else {
            break;
        };
        // Streams that come first keep their places by saying nothing.
        if n >= 128 || n % 8 == 7 {
            let written = stream.write_all(&filling);
            let driven = poll_fn(|cx| muxer.poll_unpin(cx).map(|polled| polled.map(drop)));
            tokio::select! {
                written = within(written) => {
                    if written.is_err() {
                        break;
                    }
                }
                _ = driven => break,
            }
        }
        streams.push(stream);
    }
    let ended = poll_fn(|cx| muxer.poll_unpin(cx).map(|polled| polled.map(drop)));
    within(ended)
        .await
        .expect_err("the node ends the connection");
    others_get_in(&node).await;
}
