//! Asking and answering between well-behaved nets.

use super::*;
use crate::block::MAX_BLOCK_BYTES;
use crate::net::Limits;
use crate::net::exchange::{Error, MAX_IDS};
use futures::FutureExt;
use futures::future::join_all;

const SOON: Duration = Duration::from_millis(200);

#[tokio::test]
async fn blocks_and_haves() {
    let shelf = Shelf::new();
    let large = some_block(1, MAX_BLOCK_BYTES);
    let here = [shelf.put(large.clone()), shelf.put(some_block(2, 1))];
    let missing = BlockId::from_sha384([9; 48]);
    let (a, b) = pair(shelf).await;
    let ids = vec![here[0], missing, here[1]];
    let answers = a.exchange().fetch(b.peer_id(), ids.clone(), PATIENCE).await;
    let expected = [
        Answer::Block(large.clone()),
        Answer::DontHave,
        Answer::Block(some_block(2, 1)),
    ];
    assert_eq!(answers, Ok(ids.iter().copied().zip(expected).collect()));
    let haves = a.exchange().have(b.peer_id(), ids.clone(), PATIENCE).await;
    let expected = [Answer::Have, Answer::DontHave, Answer::Have];
    assert_eq!(haves, Ok(ids.into_iter().zip(expected).collect()));
    // Both sides know what was moved.
    let bytes = large.len() as u64 + 1;
    let moved = |infos: Vec<crate::net::peers::PeerInfo>| (infos[0].bytes_in, infos[0].bytes_out);
    assert_eq!(moved(a.peers().list().await), (bytes, 0));
    assert_eq!(moved(b.peers().list().await), (0, bytes));
}

#[tokio::test]
async fn what_does_not_fit_one_response_is_busy() {
    let shelf = Shelf::new();
    let ids: Vec<BlockId> = (0..3)
        .map(|n| shelf.put(some_block(n, MAX_BLOCK_BYTES)))
        .collect();
    let (a, b) = pair(shelf).await;
    let answers = a
        .exchange()
        .fetch(b.peer_id(), ids.clone(), PATIENCE)
        .await
        .expect("answered");
    let kinds: Vec<bool> = answers
        .iter()
        .map(|(_, answer)| *answer == Answer::Busy)
        .collect();
    assert_eq!(kinds, [false, false, true]);
}

#[tokio::test]
async fn requests_are_bounded() {
    let (a, b) = pair(Shelf::new()).await;
    let ids: Vec<BlockId> = (0..=MAX_IDS as u8)
        .map(|n| BlockId::from_sha384([n; 48]))
        .collect();
    let exchange = a.exchange();
    let over = exchange.fetch(b.peer_id(), ids.clone(), PATIENCE).await;
    assert_eq!(over, Err(Error::TooManyIds(MAX_IDS + 1)));
    let full = exchange
        .fetch(b.peer_id(), ids[1..].to_vec(), PATIENCE)
        .await;
    assert_eq!(full.map(|answers| answers.len()), Ok(MAX_IDS));
    let twice = exchange
        .have(b.peer_id(), vec![ids[0], ids[0]], PATIENCE)
        .await;
    assert_eq!(twice, Err(Error::TooManyIds(2)));
    assert_eq!(
        exchange.fetch(b.peer_id(), vec![], PATIENCE).await,
        Ok(vec![])
    );
}

#[tokio::test]
async fn a_silent_service_meets_the_deadline() {
    let (a, b) = pair(Shelf::closed()).await;
    let id = BlockId::from_sha384([1; 48]);
    let peer = b.peer_id();
    let answer = within(a.exchange().fetch(peer, vec![id], SOON)).await;
    assert_eq!(answer, Err(Error::TimedOut { peer }));
}

#[tokio::test]
async fn an_abandoned_request_frees_its_permit() {
    let shelf = Shelf::closed();
    let limits = Limits {
        requests_per_peer: 1,
        ..Limits::default()
    };
    let a = start(NetConfig { limits, ..memory() }, &Shelf::new()).await;
    let b = start(memory(), &shelf).await;
    connect(&a, &b).await;
    let ids = vec![shelf.put(some_block(1, 10))];
    for n in 1..4 {
        let request = tokio::spawn({
            let (exchange, ids, peer) = (a.exchange(), ids.clone(), b.peer_id());
            async move { exchange.fetch(peer, ids, PATIENCE).await }
        });
        shelf.wait_asked(n).await;
        request.abort();
        let _ = request.await;
    }
    // The three abandoned ones and this one.
    shelf.gate.add_permits(4);
    let answers = within(a.exchange().fetch(b.peer_id(), ids, PATIENCE)).await;
    assert!(answers.is_ok(), "{answers:?}");
}

#[tokio::test]
async fn a_flood_is_answered_busy_and_the_rest_is_served() {
    let shelf = Shelf::closed();
    let limits = Limits {
        waiting_per_peer: 4,
        serving: 2,
        ..Limits::default()
    };
    let a = start(memory(), &Shelf::new()).await;
    let b = start(NetConfig { limits, ..memory() }, &shelf).await;
    connect(&a, &b).await;
    let id = shelf.put(some_block(1, 100));
    let exchange = a.exchange();
    // Two are worked on, four wait, six are turned away.
    let mut requests: Vec<_> = Vec::new();
    for _ in 0..12 {
        requests.push(tokio::spawn({
            let (exchange, peer) = (exchange.clone(), b.peer_id());
            async move { exchange.fetch(peer, vec![id], PATIENCE).await }
        }));
    }
    let turned_away = async {
        while b.peers().list().await[0].refused < 6 {
            tokio::task::yield_now().await;
        }
    };
    within(turned_away).await;
    shelf.gate.add_permits(12);
    let answers = within(join_all(requests)).await;
    let mut busy = 0;
    for answer in answers {
        match answer.expect("no panic").expect("answered").as_slice() {
            [(_, Answer::Busy)] => busy += 1,
            [(_, Answer::Block(bytes))] => assert_eq!(bytes.len(), 100),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(busy, 6);
}

#[tokio::test]
async fn many_at_once_keep_below_the_serving_budget() {
    let shelf = Shelf::new();
    let limits = Limits {
        serving_bytes: 4 * MAX_BLOCK_BYTES,
        serving_bytes_per_stranger: 3 * MAX_BLOCK_BYTES,
        ..Limits::default()
    };
    let a = start(memory(), &Shelf::new()).await;
    let b = start(NetConfig { limits, ..memory() }, &shelf).await;
    connect(&a, &b).await;
    let ids: Vec<BlockId> = (0..40).map(|n| shelf.put(some_block(n, 1 << 16))).collect();
    let exchange = a.exchange();
    let requests = ids
        .iter()
        .map(|id| exchange.fetch(b.peer_id(), vec![*id], PATIENCE));
    for answer in within(join_all(requests)).await {
        let answers = answer.expect("answered");
        assert!(matches!(&answers[0].1, Answer::Block(bytes) if bytes.len() == 1 << 16));
    }
}

#[tokio::test]
async fn who_can_not_be_reached() {
    let a = start(memory(), &Shelf::new()).await;
    let peer = PeerId::random();
    let id = BlockId::from_sha384([1; 48]);
    let answer = within(a.exchange().fetch(peer, vec![id], PATIENCE)).await;
    assert_eq!(answer, Err(Error::Unreachable { peer }));
    assert!(Error::Unreachable { peer }.is_retryable());
}

#[tokio::test]
async fn the_end_of_a_connection_ends_requests() {
    let shelf = Shelf::closed();
    let (a, b) = pair(shelf.clone()).await;
    let id = BlockId::from_sha384([1; 48]);
    let peer = b.peer_id();
    let exchange = a.exchange();
    let mut request = Box::pin(exchange.fetch(peer, vec![id], PATIENCE));
    assert!((&mut request).now_or_never().is_none());
    shelf.wait_asked_while(1, &mut request).await;
    b.shutdown().await;
    assert_eq!(within(request).await, Err(Error::Closed { peer }));
}

impl Shelf {
    /// Waits for requests while another future, which must not end, goes on.
    async fn wait_asked_while<F: Future<Output: std::fmt::Debug> + Unpin>(
        &self,
        requests: usize,
        other: &mut F,
    ) {
        tokio::select! {
            () = self.wait_asked(requests) => {}
            output = other => panic!("it ended early: {output:?}"),
        }
    }
}

#[tokio::test]
async fn after_shutdown_everything_says_so() {
    let (a, b) = pair(Shelf::new()).await;
    let (other, exchange, peers) = (a.clone(), a.exchange(), a.peers());
    within(a.shutdown()).await;
    let id = BlockId::from_sha384([1; 48]);
    let answer = exchange.fetch(b.peer_id(), vec![id], PATIENCE).await;
    assert_eq!(answer, Err(Error::Stopping));
    let connected = peers.connect(b.peer_id()).await;
    assert_eq!(connected, Err(crate::net::peers::Error::Stopping));
    let announced = other.providers().announce(vec![vec![1]]).await;
    assert_eq!(announced, Err(crate::net::providers::Error::Stopping));
    assert!(peers.list().await.is_empty());
    within(other.shutdown()).await;
}
