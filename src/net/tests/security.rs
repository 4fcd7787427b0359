//! Encryption with nodes of other kinds, over TCP on loopback: those of stock libp2p that have only noise, or only its own TLS.

use std::cell::Cell;
use std::pin::pin;

use super::*;
use crate::net::preference::QuicFirst;
use crate::net::transport;
use futures::StreamExt;
use futures::future::Either;
use libp2p::core::Endpoint;
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt};
use libp2p::core::transport::{Boxed, DialOpts, ListenerId, PortUse, TransportEvent};
use libp2p::core::upgrade::Version;
use libp2p::{Transport, noise, tcp, tls, yamux};

type Connections = Boxed<(PeerId, StreamMuxerBox)>;

fn ours() -> (PeerId, Connections) {
    let key = Keypair::generate_ed25519();
    let limits = crate::net::Limits::default();
    let unread = crate::net::admission::Unread::new(&limits);
    let transport =
        transport::ungated(&key, &limits, &unread, QuicFirst::default()).expect("set up");
    (key.public().to_peer_id(), transport)
}

fn only_noise() -> (PeerId, Connections) {
    let key = Keypair::generate_ed25519();
    let transport = tcp::tokio::Transport::default()
        .upgrade(Version::V1)
        .authenticate(noise::Config::new(&key).expect("set up"))
        .multiplex(yamux::Config::default())
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    (key.public().to_peer_id(), transport.boxed())
}

fn only_tls() -> (PeerId, Connections) {
    let key = Keypair::generate_ed25519();
    let transport = tcp::tokio::Transport::default()
        .upgrade(Version::V1)
        .authenticate(tls::Config::new(&key).expect("set up"))
        .multiplex(yamux::Config::default())
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    (key.public().to_peer_id(), transport.boxed())
}

/// One calls the other; each has to see who the other is.
async fn meet(called: (PeerId, Connections), mut caller: (PeerId, Connections)) {
    let (id, mut transport) = called;
    let address = "/ip4/127.0.0.1/tcp/0".parse().expect("an address");
    transport
        .listen_on(ListenerId::next(), address)
        .expect("listens");
    let listening = loop {
        match transport.next().await {
            Some(TransportEvent::NewAddress { listen_addr, .. }) => break listen_addr,
            Some(_) => {}
            None => panic!("the listener ended"),
        }
    };
    let accept = async {
        loop {
            if let Some(TransportEvent::Incoming { upgrade, .. }) = transport.next().await {
                return upgrade.await.expect("accepted").0;
            }
        }
    };
    let opts = DialOpts {
        role: Endpoint::Dialer,
        port_use: PortUse::New,
    };
    let dial = caller.1.dial(listening, opts).expect("dials");
    let seen = Cell::new(None);
    let dial = async {
        let (peer, mut muxer) = dial.await.expect("connected");
        seen.set(Some(peer));
        // What is left of the negotiation goes along with the first bytes.
        std::future::poll_fn(|cx| muxer.poll_unpin(cx)).await
    };
    let (accept, mut dial) = (pin!(accept), pin!(dial));
    let met = within(futures::future::select(accept, dial.as_mut())).await;
    let Either::Left((accepted, _)) = met else {
        panic!("the connection ended");
    };
    assert_eq!(accepted, caller.0);
    // Who is called may be done before the caller is.
    while seen.get().is_none() && futures::poll!(dial.as_mut()).is_pending() {
        tokio::task::yield_now().await;
    }
    assert_eq!(seen.get(), Some(id));
}

#[tokio::test]
async fn noise_is_for_those_who_have_only_that() {
    meet(ours(), only_noise()).await;
    meet(only_noise(), ours()).await;
}

#[tokio::test]
async fn tls_is_that_of_libp2p() {
    meet(ours(), only_tls()).await;
    meet(only_tls(), ours()).await;
    meet(ours(), ours()).await;
}
