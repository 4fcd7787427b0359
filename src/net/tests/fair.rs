//! Rates, limits on bandwidth, and who is served first.

use super::*;
use crate::block::MAX_BLOCK_BYTES;
use crate::net::Limits;
use crate::net::exchange::{Error, Rates};
use crate::net::pace::BURST_BYTES;
use futures::future::join_all;
use std::time::Instant;
use tokio::task::JoinSet;

fn wanting(wanted: u64) -> NetConfig {
    NetConfig {
        rates: Rates { offered: 0, wanted },
        ..memory()
    }
}

fn offering(offered: u64) -> NetConfig {
    NetConfig {
        rates: Rates { offered, wanted: 0 },
        ..memory()
    }
}

#[tokio::test]
async fn who_offers_less_than_is_wanted_hears_so_and_gets_no_blocks() {
    let shelf = Shelf::new();
    let id = shelf.put(some_block(1, 10));
    let keeper = start(wanting(5), &shelf).await;
    let peer = keeper.peer_id();
    let block = Ok(vec![(id, Answer::Block(some_block(1, 10)))]);
    for (offered, answer) in [
        (0, Err(Error::RateTooLow { peer, wanted: 5 })),
        (4, Err(Error::RateTooLow { peer, wanted: 5 })),
        (5, block.clone()),
        (u64::MAX, block.clone()),
    ] {
        let asker = start(offering(offered), &Shelf::new()).await;
        connect(&asker, &keeper).await;
        let exchange = asker.exchange();
        let answered = within(exchange.fetch(peer, vec![id], PATIENCE)).await;
        assert_eq!(answered, answer, "{offered}");
        // Whether it is there costs nothing.
        let has = within(exchange.have(peer, vec![id], PATIENCE)).await;
        assert_eq!(has, Ok(vec![(id, Answer::Have)]));
        // Too low an offer is no offence.
        assert!(keeper.peers().list().await.iter().all(|p| p.faults == 0));
        if offered == 0 {
            shelf.set_standing(asker.peer_id(), Standing::Member);
            let answered = within(exchange.fetch(peer, vec![id], PATIENCE)).await;
            assert_eq!(answered, block, "members of a ring owe each other nothing");
        }
    }
}

/// How long it takes to fetch so many of the largest blocks at once.
async fn fetch_all(asker: &Net, keeper: &Net, shelf: &Shelf, blocks: u8) -> Duration {
    let ids: Vec<BlockId> = (0..blocks)
        .map(|n| shelf.put(some_block(n, MAX_BLOCK_BYTES)))
        .collect();
    let began = Instant::now();
    let (exchange, peer) = (asker.exchange(), keeper.peer_id());
    let fetched = join_all(ids.into_iter().map(|id| {
        let exchange = exchange.clone();
        async move { exchange.fetch(peer, vec![id], PATIENCE).await }
    }));
    for answers in within(fetched).await {
        assert!(matches!(answers.expect("answered")[0].1, Answer::Block(_)));
    }
    began.elapsed()
}

#[tokio::test]
async fn blocks_are_sent_and_fetched_no_faster_than_the_limit() {
    let rate = 32 << 20;
    let blocks = 5;
    let past_the_burst = u64::from(blocks) * MAX_BLOCK_BYTES as u64 - BURST_BYTES;
    let least = Duration::from_secs_f64(past_the_burst as f64 / rate as f64);
    for is_up in [true, false] {
        let shelf = Shelf::new();
        let (asker, keeper) = (memory(), memory());
        match is_up {
            true => keeper.pace.up.set_rate(rate),
            false => asker.pace.down.set_rate(rate),
        }
        let asker = start(asker, &Shelf::new()).await;
        let keeper = start(keeper, &shelf).await;
        connect(&asker, &keeper).await;
        let took = fetch_all(&asker, &keeper, &shelf, blocks).await;
        assert!(took >= least, "{took:?}");
    }
}

#[tokio::test]
async fn with_a_limit_little_is_read_ahead_and_what_nobody_waits_for_is_not_counted() {
    let shelf = Shelf::new();
    let keeper_config = memory();
    let pace = keeper_config.pace.clone();
    // A block in a quarter of an hour, once the burst is used up.
    pace.up.set_rate(2 << 10);
    let keeper = start(keeper_config, &shelf).await;
    let asker = start(memory(), &Shelf::new()).await;
    connect(&asker, &keeper).await;
    fetch_all(&asker, &keeper, &shelf, 2).await;
    let (exchange, peer) = (asker.exchange(), keeper.peer_id());
    let id = shelf.put(some_block(9, MAX_BLOCK_BYTES));
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let exchange = exchange.clone();
            tokio::spawn(async move { exchange.fetch(peer, vec![id], PATIENCE).await })
        })
        .collect();
    // Two were served; of the eight that wait as many are read as one burst holds.
    shelf.wait_asked(4).await;
    let has = within(exchange.have(peer, vec![id], PATIENCE)).await;
    assert_eq!(has, Ok(vec![(id, Answer::Have)]), "questions don't wait");
    assert_eq!(*shelf.asked.borrow(), 5, "four for blocks and a question");
    for task in waiting {
        task.abort();
    }
    pace.up.set_rate(0);
    let answers = within(exchange.fetch(peer, vec![id], PATIENCE)).await;
    assert!(matches!(answers.expect("answered")[0].1, Answer::Block(_)));
}

#[tokio::test]
async fn when_requests_wait_free_riders_are_served_last_and_make_room() {
    let shelf = Shelf::closed();
    let limits = Limits {
        serving: 1,
        waiting: 2,
        ..Limits::default()
    };
    let keeper = start(NetConfig { limits, ..memory() }, &shelf).await;
    let id = shelf.put(some_block(1, 10));
    let rider = start(memory(), &Shelf::new()).await;
    let member = start(memory(), &Shelf::new()).await;
    shelf.set_standing(rider.peer_id(), Standing::FreeRider);
    shelf.set_standing(member.peer_id(), Standing::Member);
    connect(&rider, &keeper).await;
    connect(&member, &keeper).await;
    let ask = |net: &Net| {
        let (exchange, peer) = (net.exchange(), keeper.peer_id());
        tokio::spawn(async move { exchange.fetch(peer, vec![id], PATIENCE).await })
    };
    let first = ask(&rider);
    shelf.wait_asked(1).await;
    // One is being served and two wait, for which the member's next two leave no room.
    let mut waiting = vec![ask(&rider), ask(&rider)];
    let mut members = Vec::new();
    for _ in 0..2 {
        members.push(ask(&member));
        let (done, _, rest) = within(futures::future::select_all(waiting)).await;
        let answers = done.expect("no panic").expect("answered");
        assert_eq!(answers, vec![(id, Answer::Busy)]);
        waiting = rest;
    }
    shelf.gate.add_permits(3);
    for task in members.into_iter().chain([first]) {
        let answers = within(task).await.expect("no panic").expect("answered");
        assert!(matches!(answers[0].1, Answer::Block(_)));
    }
    let served = shelf.served.lock().expect("not poisoned").clone();
    let (rider, member) = (rider.peer_id(), member.peer_id());
    assert_eq!(served, [rider, member, member]);
}

/// Strangers fill a holder's queue, and it answers slowly. A member takes the place of one of them
/// and is answered before most of the others.
#[tokio::test]
async fn a_flood_of_strangers_keeps_no_member_from_a_holder() {
    use crate::net::replica::{Answer, MAX_UNDER_WAY, REQUESTS_PER_PEER, Refusal, Request, State};
    let shelf = Shelf::new();
    let keeper = start(memory(), &shelf).await;
    let peer = keeper.peer_id();
    let mut inbox = keeper.replica().take_inbox().expect("nobody has it");
    let busy = Ok(Answer::Refused(Refusal::Busy));
    // Two strangers more than there is room for. Requests have a deadline, starting has none: so
    // all of them start first, and each then asks for as much as it may at once.
    let (mut strangers, mut waiting) = (Vec::new(), JoinSet::new());
    for _ in 0..MAX_UNDER_WAY / REQUESTS_PER_PEER + 2 {
        let stranger = start(memory(), &Shelf::new()).await;
        connect(&stranger, &keeper).await;
        strangers.push(stranger);
    }
    let member = start(memory(), &Shelf::new()).await;
    connect(&member, &keeper).await;
    shelf.set_standing(member.peer_id(), Standing::Member);
    for stranger in &strangers {
        for _ in 0..REQUESTS_PER_PEER {
            let replica = stranger.replica();
            waiting.spawn(async move { replica.ask(peer, Request::Room).await });
        }
    }
    // All requests have arrived once the surplus was turned away: the rest fills the queue.
    for _ in 0..2 * REQUESTS_PER_PEER {
        let answer = within(waiting.join_next()).await.expect("one of many");
        assert_eq!(answer.expect("it ran"), busy);
    }
    assert_eq!(waiting.len(), MAX_UNDER_WAY);
    let replica = member.replica();
    let asked = tokio::spawn(async move { replica.ask(peer, Request::Room).await });
    // The member takes the place of a stranger, which hears so: from here on the member waits.
    let displaced = within(waiting.join_next()).await.expect("one of many");
    assert_eq!(displaced.expect("it ran"), busy);
    let mut before = 0;
    loop {
        let incoming = within(inbox.recv()).await.expect("a request");
        let room = State {
            free_bytes: 7,
            ..State::default()
        };
        incoming.reply.send(Answer::State(room)).expect("it waits");
        if incoming.peer == member.peer_id() {
            break;
        }
        before += 1;
    }
    assert!(before <= 10, "{before} strangers had their turn before");
    let answer = within(asked).await.expect("it ran").expect("an answer");
    assert!(matches!(answer, Answer::State(state) if state.free_bytes == 7));
}
