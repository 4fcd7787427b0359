//! Connecting, cutting links, double connections, bootstrap.

use super::*;
use crate::net::peers::{Direction, Error, Source};

#[tokio::test]
async fn who_connects_is_known_on_both_sides() {
    let (a, b) = pair(Shelf::new()).await;
    wait_connected(&b, &[a.peer_id()], true).await;
    let info = &a.peers().list().await[0];
    assert_eq!(
        (info.peer, info.direction, info.source),
        (b.peer_id(), Some(Direction::Outbound), Source::Manual)
    );
    assert!(info.agent.starts_with("libernet/") && info.connected_since.is_some());
    assert!(
        info.protocols
            .iter()
            .any(|protocol| protocol == "/libernet/exchange/1.0.0")
    );
    let info = &b.peers().list().await[0];
    assert_eq!(
        (info.peer, info.direction, info.source),
        (a.peer_id(), Some(Direction::Inbound), Source::Inbound)
    );
    // Connecting again is nothing.
    assert_eq!(a.peers().connect(b.peer_id()).await, Ok(b.peer_id()));
    assert_eq!(b.peers().connect(a.peer_id()).await, Ok(a.peer_id()));
}

#[tokio::test]
async fn blocking_cuts_a_link_and_unblocking_mends_it() {
    let shelf = Shelf::new();
    let id = shelf.put(some_block(1, 10));
    let (a, b) = pair(shelf).await;
    let (at_a, at_b) = (b.peer_id(), a.peer_id());
    wait_connected(&b, &[at_b], true).await;
    let (mut events_a, mut events_b) = (a.events(), b.events());
    a.peers().block(at_a).await;
    wait_event(&mut events_a, |event| {
        *event == Event::PeerGone { peer: at_a }
    })
    .await;
    wait_event(&mut events_b, |event| {
        *event == Event::PeerGone { peer: at_b }
    })
    .await;
    assert!(a.peers().connected().is_empty() && b.peers().connected().is_empty());
    let fetched = within(a.exchange().fetch(at_a, vec![id], PATIENCE)).await;
    assert!(fetched.is_err_and(|error| error.is_retryable()));
    let error = b
        .peers()
        .connect(at_b)
        .await
        .expect_err("blocked at the other end");
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    // An order of which the caller hears nothing would be overtaken by the next room's.
    for _ in 0..20 {
        a.peers().unblock(at_a).await;
        let fetched = within(a.exchange().fetch(at_a, vec![id], PATIENCE)).await;
        assert_eq!(fetched, Ok(vec![(id, Answer::Block(some_block(1, 10)))]));
        a.peers().block(at_a).await;
        wait_connected(&a, &[at_a], false).await;
        wait_connected(&b, &[at_b], false).await;
    }
}

#[tokio::test]
async fn disconnecting_lets_the_peer_come_back() {
    let (a, b) = pair(Shelf::new()).await;
    a.peers().disconnect(b.peer_id()).await;
    wait_connected(&a, &[b.peer_id()], false).await;
    assert_eq!(a.peers().connect(b.peer_id()).await, Ok(b.peer_id()));
}

#[tokio::test]
async fn nobody_at_an_address() {
    let a = start(memory(), &Shelf::new()).await;
    let nowhere: libp2p::Multiaddr = "/memory/1".parse().expect("an address");
    let error = a
        .peers()
        .connect(nowhere.clone())
        .await
        .expect_err("nobody is there");
    assert!(error.is_retryable());
    let full = nowhere.with_p2p(PeerId::random()).expect("no peer yet");
    assert!(a.peers().connect(full).await.is_err());
    let b = start(memory(), &Shelf::new()).await;
    // Somebody else is there.
    let listening = b.listen_addresses();
    let bare = listening[0].iter().next().expect("one part");
    let wrong = libp2p::Multiaddr::from(bare)
        .with_p2p(PeerId::random())
        .expect("no peer yet");
    let error = a.peers().connect(wrong).await.expect_err("another peer");
    assert!(
        error.to_string().contains(&b.peer_id().to_string()),
        "{error}"
    );
}

#[tokio::test]
async fn double_connections_are_resolved() {
    let shelf = Shelf::new();
    let id = shelf.put(some_block(1, 10));
    let (a, b) = (
        start(memory(), &Shelf::new()).await,
        start(memory(), &shelf).await,
    );
    tokio::join!(connect(&a, &b), connect(&b, &a));
    for (net, peer) in [(&a, b.peer_id()), (&b, a.peer_id())] {
        let single = async {
            while net.peers().list().await[0].connections != 1 {
                tokio::task::yield_now().await;
            }
        };
        within(single).await;
        let answers = net.exchange().fetch(peer, vec![id], PATIENCE).await;
        assert!(answers.is_ok(), "{answers:?}");
    }
    assert_eq!(*a.peers().connected(), [b.peer_id()]);
    assert_eq!(*b.peers().connected(), [a.peer_id()]);
}

#[tokio::test]
async fn a_missing_bootstrap_peer_is_reported_and_tried_again() {
    // A free address for the peer that starts later.
    let key = Keypair::generate_ed25519();
    let first = start(NetConfig::in_memory(key.clone()), &Shelf::new()).await;
    let address = first.listen_addresses()[0].clone();
    within(first.shutdown()).await;
    let nowhere: libp2p::Multiaddr = "/memory/1".parse().expect("an address");
    // Without the peer at its end: who is there is found out.
    let address = crate::net::address::without_peer(address);
    let config = NetConfig {
        bootstrap: vec![nowhere.clone(), address.clone()],
        ..memory()
    };
    let net = start(config, &Shelf::new()).await;
    let mut events = net.events();
    let failed = |wanted: libp2p::Multiaddr| move |event: &Event| matches!(event, Event::BootstrapFailed { address, .. } if *address == wanted);
    wait_event(&mut events, failed(address.clone())).await;
    let bare = address.iter().next().expect("one part");
    let mut config = NetConfig::in_memory(key);
    config.listen = vec![bare.into()];
    let late = start(config, &Shelf::new()).await;
    wait_connected(&net, &[late.peer_id()], true).await;
    let list = net.peers().list().await;
    assert_eq!(
        (list[0].peer, list[0].source),
        (late.peer_id(), Source::Bootstrap)
    );
    wait_event(&mut events, failed(nowhere)).await;
}

#[tokio::test]
async fn connections_are_bounded() {
    let mut config = limited(2);
    // However long this takes, nobody has been here for long.
    config.limits.settled_after = Duration::from_secs(3600);
    let hub = start(config, &Shelf::new()).await;
    let mut others = Vec::new();
    for n in 0..4 {
        let other = start(memory(), &Shelf::new()).await;
        let connected = other
            .peers()
            .connect(hub.listen_addresses()[0].clone())
            .await;
        assert_eq!(connected.is_ok(), n < 2, "{connected:?}");
        others.push(other);
    }
    assert_eq!(hub.peers().connected().len(), 2);
}

fn limited(connections: u32) -> NetConfig {
    let limits = crate::net::Limits {
        connections,
        ..crate::net::Limits::default()
    };
    NetConfig { limits, ..memory() }
}

#[tokio::test]
async fn a_bootstrap_peer_that_is_full_is_told_of_and_left_alone_for_longer_each_time() {
    let mut config = limited(1);
    config.limits.settled_after = Duration::from_secs(3600);
    let hub = start(config, &Shelf::new()).await;
    let first = start(memory(), &Shelf::new()).await;
    connect(&first, &hub).await;
    let config = NetConfig {
        bootstrap: hub.listen_addresses(),
        ..memory()
    };
    let left_out = start(config, &Shelf::new()).await;
    let mut events = left_out.events();
    let mut pauses = Vec::new();
    for _ in 0..2 {
        let failed = |event: &Event| matches!(event, Event::BootstrapFailed { .. });
        let event = wait_event(&mut events, failed).await;
        if let Event::BootstrapFailed { retry_in, .. } = event {
            pauses.push(retry_in);
        }
    }
    assert!(pauses[1] > pauses[0].mul_f64(1.1), "{pauses:?}");
    assert!(left_out.peers().connected().is_empty());
}

#[tokio::test]
async fn at_its_limit_a_node_still_fetches_and_idle_connections_give_way() {
    let shelf = Shelf::new();
    let id = shelf.put(some_block(1, 10));
    let net = start(limited(2), &Shelf::new()).await;
    let mut others = Vec::new();
    for _ in 0..2 {
        let other = start(memory(), &Shelf::new()).await;
        connect(&net, &other).await;
        others.push(other);
    }
    let holder = start(memory(), &shelf).await;
    connect(&net, &holder).await;
    let fetched = within(net.exchange().fetch(holder.peer_id(), vec![id], PATIENCE)).await;
    assert!(fetched.is_ok(), "{fetched:?}");
    let mut connected = net.peers().watch_connected();
    let now = within(connected.wait_for(|now| now.len() == 2)).await;
    let now = now.expect("the net lives").clone();
    assert!(now.contains(&holder.peer_id()), "it was of use");
}

#[tokio::test]
async fn nodes_with_one_key_notice_each_other() {
    let key = Keypair::generate_ed25519();
    let a = start(NetConfig::in_memory(key.clone()), &Shelf::new()).await;
    let b = start(NetConfig::in_memory(key), &Shelf::new()).await;
    for (net, other) in [(&a, &b), (&b, &a)] {
        let mut events = net.events();
        let there = crate::net::address::without_peer(other.listen_addresses()[0].clone());
        let connected = net.peers().connect(there.clone()).await;
        assert!(connected.is_err());
        let is_twin = |event: &Event| matches!(event, Event::Twin { .. });
        let told = wait_event(&mut events, is_twin).await;
        assert_eq!(told, Event::Twin { address: there });
    }
}
