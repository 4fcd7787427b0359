//! Real sockets on loopback.

use super::*;
use crate::net::{Error, address};
use libp2p::Multiaddr;

fn on_loopback(addresses: &[&str]) -> NetConfig {
    let mut config = NetConfig::new(Keypair::generate_ed25519());
    config.listen = addresses
        .iter()
        .map(|text| text.parse().expect("an address"))
        .collect();
    config.mdns = false;
    config
}

const TCP: &str = "/ip4/127.0.0.1/tcp/0";
const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

async fn fetch_over(addresses: &[&str]) -> Multiaddr {
    let shelf = Shelf::new();
    let block = some_block(1, 300_000);
    let id = shelf.put(block.clone());
    let b = start(on_loopback(addresses), &shelf).await;
    let a = start(on_loopback(addresses), &Shelf::new()).await;
    assert_eq!(b.listen_addresses().len(), addresses.len());
    assert!(
        b.listen_addresses()
            .iter()
            .all(|a| !a.to_string().contains("/0/"))
    );
    // Bootstrapping with all addresses at once, by one dial.
    for address in b.listen_addresses() {
        a.peers().connect(address).await.expect("it connects");
    }
    let fetched = within(a.exchange().fetch(b.peer_id(), vec![id], PATIENCE)).await;
    assert_eq!(fetched, Ok(vec![(id, Answer::Block(block))]));
    let used = a.peers().list().await[0].addresses[0].clone();
    within(a.shutdown()).await;
    within(b.shutdown()).await;
    used
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_works() {
    assert!(!address::is_quic(&fetch_over(&[TCP]).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quic_works() {
    assert!(address::is_quic(&fetch_over(&[QUIC]).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_both_a_near_peer_is_reached_over_tcp() {
    let b = start(on_loopback(&[QUIC, TCP]), &Shelf::new()).await;
    let c = start(on_loopback(&[QUIC, TCP]), &Shelf::new()).await;
    let a = start(on_loopback(&[QUIC, TCP]), &Shelf::new()).await;
    // c learns of b's addresses from a, as it would in a mesh, and dials them all.
    connect(&b, &c).await;
    wait_connected(&c, &[b.peer_id()], true).await;
    c.peers().disconnect(b.peer_id()).await;
    wait_connected(&c, &[b.peer_id()], false).await;
    c.peers()
        .connect(b.peer_id())
        .await
        .expect("its addresses are known");
    let list = c.peers().list().await;
    assert!(!address::is_quic(&list[0].addresses[0]), "{list:?}");
    drop(a);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_an_error_that_names_the_address() {
    for kind in [TCP, QUIC] {
        let first = start(on_loopback(&[kind]), &Shelf::new()).await;
        let taken = address::without_peer(first.listen_addresses()[0].clone());
        let config = on_loopback(&[&taken.to_string()]);
        let Err(error) = Net::start(config, services(Shelf::new())).await else {
            panic!("{taken} is taken");
        };
        assert!(
            matches!(&error, Error::Listen { address, .. } if *address == taken),
            "{error}"
        );
        assert!(error.to_string().contains(&taken.to_string()), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_frees_the_port() {
    let (a, b) = (
        start(on_loopback(&[TCP]), &Shelf::new()).await,
        start(on_loopback(&[TCP]), &Shelf::new()).await,
    );
    connect(&a, &b).await;
    let taken = address::without_peer(a.listen_addresses()[0].clone());
    within(a.shutdown()).await;
    let again = start(on_loopback(&[&taken.to_string()]), &Shelf::new()).await;
    assert_eq!(
        address::without_peer(again.listen_addresses()[0].clone()),
        taken
    );
}

#[tokio::test]
async fn bad_settings_are_named() {
    let Err(error) = Net::start(on_loopback(&["/unix/x"]), services(Shelf::new())).await else {
        panic!("no such transport");
    };
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    for network in ["", "a/b", "with space", &"x".repeat(33)] {
        let config = NetConfig {
            network: network.to_owned(),
            ..memory()
        };
        let started = Net::start(config, services(Shelf::new())).await;
        assert!(matches!(started, Err(Error::Network(_))), "{network}");
    }
    let config = NetConfig {
        network: "x".repeat(32),
        ..memory()
    };
    assert!(Net::start(config, services(Shelf::new())).await.is_ok());
}
