//! Announcing and finding among many.

use super::*;
use crate::net::providers::AnnounceReport;
use futures::StreamExt;

/// Nets that all know the first one, which knows them all.
pub(super) async fn mesh(count: usize) -> Vec<(Net, Arc<Shelf>)> {
    let shelf = Shelf::new();
    let first = start(memory(), &shelf).await;
    let bootstrap = first.listen_addresses();
    let hub = first.peer_id();
    let mut nets = vec![(first, shelf)];
    for _ in 1..count {
        let shelf = Shelf::new();
        let config = NetConfig {
            bootstrap: bootstrap.clone(),
            ..memory()
        };
        let net = start(config, &shelf).await;
        nets.push((net, shelf));
    }
    let others: Vec<PeerId> = nets[1..].iter().map(|(net, _)| net.peer_id()).collect();
    wait_connected(&nets[0].0, &others, true).await;
    for (net, _) in &nets[1..] {
        wait_connected(net, &[hub], true).await;
    }
    nets
}

fn keys(count: u32) -> Vec<Vec<u8>> {
    (0..count)
        .map(|n| [&[0x20, 48][..], &[7; 44], &n.to_be_bytes()].concat())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_announces_all_find() {
    let nets = mesh(21).await;
    let (publisher, shelf) = &nets[5];
    let block = some_block(3, 1000);
    let id = shelf.put(block.clone());
    let mut keys = keys(300);
    keys.push(id.to_multihash());
    let report = within(publisher.providers().announce(keys.clone()))
        .await
        .expect("announced");
    assert_eq!((report.keys, report.keys_unreached), (301, 0));
    // All twenty, but for those that just now close one of two connections.
    assert!(report.peers_reached >= 15, "{report:?}");
    assert!(report.lookups <= 12, "{report:?}");

    let (reader, _) = &nets[17];
    for key in [&keys[0], &keys[150], &id.to_multihash()] {
        let found: Vec<_> = within(reader.providers().find(key.clone(), 20).collect()).await;
        assert_eq!(
            found.iter().map(|p| p.peer).collect::<Vec<_>>(),
            [publisher.peer_id()]
        );
        assert_eq!(found[0].addresses, publisher.listen_addresses());
    }
    let fetched = within(
        reader
            .exchange()
            .fetch(publisher.peer_id(), vec![id], PATIENCE),
    )
    .await;
    assert_eq!(fetched, Ok(vec![(id, Answer::Block(block))]));

    let none: Vec<_> = within(
        reader
            .providers()
            .find(b"nobody has this".to_vec(), 20)
            .collect(),
    )
    .await;
    assert!(none.is_empty());
    // The publisher itself is never among those it finds.
    let own: Vec<_> = within(publisher.providers().find(keys[0].clone(), 20).collect()).await;
    assert!(own.is_empty());

    // Several providers, found up to a limit.
    for (net, _) in &nets[1..5] {
        within(net.providers().announce(keys[..1].to_vec()))
            .await
            .expect("announced");
    }
    let found: Vec<_> = within(reader.providers().find(keys[0].clone(), 20).collect()).await;
    assert_eq!(found.len(), 5);
    let found: Vec<_> = within(reader.providers().find(keys[0].clone(), 2).collect()).await;
    assert_eq!(found.len(), 2);
    // A search can be given up.
    let mut search = reader.providers().find(keys[0].clone(), 20);
    assert!(within(search.next()).await.is_some());
    drop(search);
    for (net, _) in nets {
        within(net.shutdown()).await;
    }
}

#[tokio::test]
async fn alone_announcing_is_local_and_later_peers_ask_us() {
    let net = start(memory(), &Shelf::new()).await;
    let keys = keys(3);
    let report = within(net.providers().announce(keys.clone()))
        .await
        .expect("announced");
    let expected = AnnounceReport {
        keys: 3,
        keys_unreached: 3,
        lookups: report.lookups,
        ..AnnounceReport::default()
    };
    assert_eq!(report, expected);
    let other = start(
        NetConfig {
            bootstrap: net.listen_addresses(),
            ..memory()
        },
        &Shelf::new(),
    )
    .await;
    let mut events = other.events();
    let refreshed = Event::Bootstrapped { peers: 1 };
    wait_event(&mut events, |event| *event == refreshed).await;
    let found: Vec<_> = within(other.providers().find(keys[1].clone(), 5).collect()).await;
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].peer, &found[0].addresses),
        (net.peer_id(), &net.listen_addresses())
    );
    net.providers()
        .withdraw(keys.clone())
        .await
        .expect("it runs");
    let found: Vec<_> = within(other.providers().find(keys[1].clone(), 5).collect()).await;
    assert!(found.is_empty());
}

#[tokio::test]
async fn keys_are_bounded() {
    let net = start(memory(), &Shelf::new()).await;
    let longest = vec![1; crate::net::providers::MAX_KEY_BYTES];
    assert!(
        net.providers()
            .announce(vec![longest.clone()])
            .await
            .is_ok()
    );
    let over = [longest, vec![1]].concat();
    assert!(net.providers().announce(vec![over]).await.is_err());
    assert_eq!(
        net.providers().announce(vec![]).await,
        Ok(AnnounceReport::default())
    );
}

#[tokio::test]
async fn a_provider_that_moved_is_found_where_it_is() {
    let hub = start(memory(), &Shelf::new()).await;
    let with_hub = |key: Keypair| NetConfig {
        bootstrap: hub.listen_addresses(),
        ..NetConfig::in_memory(key)
    };
    let key = Keypair::generate_ed25519();
    let old = start(with_hub(key.clone()), &Shelf::new()).await;
    let peer = old.peer_id();
    wait_connected(&hub, &[peer], true).await;
    wait_connected(&old, &[hub.peer_id()], true).await;
    let block = keys(1).remove(0);
    let report = within(old.providers().announce(vec![block.clone()])).await;
    assert_eq!(report.expect("announced").peers_reached, 1);
    within(old.shutdown()).await;
    wait_connected(&hub, &[peer], false).await;
    // The announcement from its old address still holds.
    let new = start(with_hub(key), &Shelf::new()).await;
    wait_connected(&hub, &[peer], true).await;
    let reader = start(with_hub(Keypair::generate_ed25519()), &Shelf::new()).await;
    wait_connected(&reader, &[hub.peer_id()], true).await;
    let found: Vec<_> = within(reader.providers().find(block, 20).collect()).await;
    assert_eq!(found[0].addresses, new.listen_addresses());
}

#[tokio::test]
async fn a_peer_that_is_not_where_it_was_is_looked_for() {
    let hub = start(memory(), &Shelf::new()).await;
    let with_hub = |key: Keypair| NetConfig {
        bootstrap: hub.listen_addresses(),
        ..NetConfig::in_memory(key)
    };
    let reader = start(with_hub(Keypair::generate_ed25519()), &Shelf::new()).await;
    wait_connected(&reader, &[hub.peer_id()], true).await;
    let (key, shelf) = (Keypair::generate_ed25519(), Shelf::new());
    let peer = key.public().to_peer_id();
    let stale: libp2p::Multiaddr = "/memory/1".parse().expect("an address");
    let stale = stale.with_p2p(peer).expect("no peer yet");
    assert!(reader.peers().connect(stale).await.is_err());
    let id = shelf.put(some_block(1, 10));
    let _moved = start(with_hub(key), &shelf).await;
    wait_connected(&hub, &[peer], true).await;
    let fetched = within(reader.exchange().fetch(peer, vec![id], PATIENCE)).await;
    assert_eq!(fetched, Ok(vec![(id, Answer::Block(some_block(1, 10)))]));
}
