//! Rates, limits on bandwidth, and who is served first.

use super::hostile::{Hostile, connected_to, exchange_protocol, request};
use super::*;
use crate::block::MAX_BLOCK_BYTES;
use crate::net::Limits;
use crate::net::exchange::{Error, Rates};
use crate::net::pace::BURST_BYTES;
use crate::wire::names;
use futures::future::join_all;
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{Stream, StreamProtocol};
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

/// Asks a holder for its room over a raw stream and gives the answer's bytes.
async fn ask_for_room(mut streams: libp2p_stream::Control, keeper: PeerId) -> Vec<u8> {
    let protocol = StreamProtocol::try_from_owned(names::replica("libernet"));
    let opened = streams.open_stream(keeper, protocol.expect("a protocol name"));
    let mut stream = within(opened).await.expect("it opens");
    let asked = stream.write_all(&[0, 0, 0, 2, 0x08, 1]);
    within(asked).await.expect("asked");
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    within(read).await.expect("answered");
    answer
}

/// Strangers fill a holder's queue, and it answers slowly. A member takes the place of one of them
/// and is answered before most of the others.
#[tokio::test]
async fn a_flood_of_strangers_keeps_no_member_from_a_holder() {
    use crate::net::replica::{Answer, MAX_UNDER_WAY, Request, State};
    const BUSY: [u8; 6] = [0, 0, 0, 2, 0x08, 1];
    const EACH: usize = 4;
    let shelf = Shelf::new();
    let keeper = start(memory(), &shelf).await;
    let peer = keeper.peer_id();
    let mut inbox = keeper.replica().take_inbox().expect("nobody has it");
    let member = start(memory(), &Shelf::new()).await;
    connect(&member, &keeper).await;
    shelf.set_standing(member.peer_id(), Standing::Member);
    // A stranger more than there is room for, each with as much as may wait of one.
    let strangers = MAX_UNDER_WAY / EACH + 1;
    let mut waiting = JoinSet::new();
    for _ in 0..strangers {
        let hostile = connected_to(&keeper).await;
        for _ in 0..EACH {
            waiting.spawn(ask_for_room(hostile.streams.clone(), peer));
        }
    }
    // All requests have arrived once the surplus was turned away: the rest fills the queue.
    for _ in MAX_UNDER_WAY..strangers * EACH {
        let answer = within(waiting.join_next()).await.expect("one of many");
        assert_eq!(answer.expect("it ran"), BUSY);
    }
    assert_eq!(waiting.len(), MAX_UNDER_WAY);
    let replica = member.replica();
    let asked = tokio::spawn(async move { replica.ask(peer, Request::Room).await });
    // The member takes the place of a stranger, which hears so: from here on the member waits.
    let displaced = within(waiting.join_next()).await.expect("one of many");
    assert_eq!(displaced.expect("it ran"), BUSY);
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

/// Asks for a block as often as said and reads nothing of the answers.
async fn ask_and_not_read(hostile: &Hostile, net: &Net, id: BlockId, times: usize) -> Vec<Stream> {
    let mut open = Vec::new();
    for _ in 0..times {
        let mut streams = hostile.streams.clone();
        let stream = streams.open_stream(net.peer_id(), exchange_protocol());
        let mut stream = within(stream).await.expect("it opens");
        let request = request(vec![id.to_multihash()], 0);
        let asked = stream.write_all(&request);
        within(asked).await.expect("asked");
        open.push(stream);
    }
    open
}

/// A net that has memory for three answers of strangers and one of members, and two peers that hold
/// all of the strangers' and read nothing.
async fn besieged(shelf: &Arc<Shelf>, id: BlockId, stall: Duration) -> (Net, Vec<Stream>) {
    let answer = MAX_BLOCK_BYTES + (16 << 10);
    let limits = Limits {
        serving_bytes: 4 * answer,
        serving_bytes_of_strangers: 3 * answer,
        serving_bytes_per_stranger: 2 * answer,
        stall,
        ..Limits::default()
    };
    let keeper = start(NetConfig { limits, ..memory() }, shelf).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let hostile = connected_to(&keeper).await;
        open.extend(ask_and_not_read(&hostile, &keeper, id, 8).await);
    }
    shelf.wait_asked(3).await;
    (keeper, open)
}

#[tokio::test]
async fn peers_that_do_not_read_leave_members_their_part() {
    let shelf = Shelf::new();
    let id = shelf.put(some_block(1, MAX_BLOCK_BYTES));
    let (keeper, open) = besieged(&shelf, id, PATIENCE * 9).await;
    let member = start(memory(), &Shelf::new()).await;
    shelf.set_standing(member.peer_id(), Standing::Member);
    connect(&member, &keeper).await;
    for _ in 0..5 {
        let exchange = member.exchange();
        let fetched = exchange.fetch(keeper.peer_id(), vec![id], PATIENCE);
        let answers = within(fetched).await.expect("answered");
        assert!(matches!(answers[0].1, Answer::Block(_)));
    }
    drop(open);
}

#[tokio::test]
async fn what_is_not_read_is_dropped_and_strangers_have_their_turn() {
    let shelf = Shelf::new();
    let id = shelf.put(some_block(1, MAX_BLOCK_BYTES));
    let (keeper, open) = besieged(&shelf, id, Duration::from_millis(100)).await;
    let stranger = start(memory(), &Shelf::new()).await;
    connect(&stranger, &keeper).await;
    let exchange = stranger.exchange();
    let fetched = exchange.fetch(keeper.peer_id(), vec![id], PATIENCE);
    let answers = within(fetched).await.expect("answered");
    assert!(matches!(answers[0].1, Answer::Block(_)));
    drop(open);
}
