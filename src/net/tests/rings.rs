//! Members who find each other, strangers who don't, the removed, gossip, floods.

use super::*;
use crate::net::rings::Member;
use crate::ring::{InviteCode, Rings, Seed};
use crate::time::{Clock, ManualClock, SystemClock, Timestamp};

fn home() -> InviteCode {
    InviteCode {
        name: "home".to_owned(),
        generation: 1,
        seed: Seed::new([7; 16]),
    }
}

async fn join(net: &Net, name: &str, code: InviteCode) {
    net.rings().set_local(name, 1000);
    let joined = net
        .rings()
        .change(|rings| rings.join(code, Timestamp(1)).map(drop))
        .await;
    joined.expect("joined");
}

/// Waits until exactly these are online members.
async fn wait_members(net: &Net, peers: &[&Net]) {
    let mut expected: Vec<PeerId> = peers.iter().map(|net| net.peer_id()).collect();
    expected.sort();
    let mut changes = net.rings().watch();
    within(async {
        loop {
            changes.borrow_and_update();
            let mut online = net.rings().online_members();
            online.sort();
            if online == expected {
                return;
            }
            changes.changed().await.expect("the net lives");
        }
    })
    .await;
}

/// Waits until the members of the ring fit.
async fn wait_home(net: &Net, fits: impl Fn(&[Member]) -> bool) {
    let (mut rings, mut online) = (net.rings().watch_rings(), net.rings().watch());
    within(async {
        loop {
            rings.borrow_and_update();
            online.borrow_and_update();
            if fits(&net.rings().members("home").expect("in the ring")) {
                return;
            }
            tokio::select! {
                changed = rings.changed() => changed.expect("the net lives"),
                changed = online.changed() => changed.expect("the net lives"),
            }
        }
    })
    .await;
}

#[tokio::test]
async fn members_find_each_other_and_a_stranger_is_none() {
    let shelf = Shelf::new();
    let (a, b) = (start(memory(), &shelf).await, start(memory(), &shelf).await);
    let stranger = start(memory(), &shelf).await;
    let mut events = b.events();
    join(&a, "attic", home()).await;
    join(&b, "desk", home()).await;
    let other = InviteCode {
        seed: Seed::new([8; 16]),
        ..home()
    };
    join(&stranger, "stranger", other).await;
    connect(&stranger, &a).await;
    connect(&a, &b).await;
    wait_members(&a, &[&b]).await;
    wait_members(&b, &[&a]).await;
    wait_event(
        &mut events,
        |event| matches!(event, Event::Member { peer, .. } if *peer == a.peer_id()),
    )
    .await;
    wait_home(&b, |members| {
        matches!(members, [member] if member.online && member.name == "attic" && member.free_bytes == Some(1000))
    })
    .await;
    assert_eq!(b.rings().online_space(), [(a.peer_id(), 1000)]);
    // The stranger's handshakes were before: had they come to anything, it would be known by now.
    assert!(stranger.rings().online_members().is_empty());
    assert!(!a.rings().is_online_member(&stranger.peer_id()));
    assert_eq!(stranger.rings().members("home").expect("its own"), []);
    // Joining later is enough, without a new connection.
    stranger.rings().update(Rings::default()).await;
    join(&stranger, "late", home()).await;
    wait_members(&a, &[&b, &stranger]).await;
    // Who goes is no longer online, and is remembered.
    let gone = b.peer_id();
    b.shutdown().await;
    wait_members(&a, &[&stranger]).await;
    let members = a.rings().members("home").expect("in the ring");
    let b = members.iter().find(|member| member.peer == gone);
    assert!(b.is_some_and(|b| !b.online && b.free_bytes.is_none() && b.name == "desk"));
}

#[tokio::test]
async fn three_members_learn_of_each_other() {
    let shelf = Shelf::new();
    let (a, b, c) = (
        start(memory(), &shelf).await,
        start(memory(), &shelf).await,
        start(memory(), &shelf).await,
    );
    for (net, name) in [(&a, "a"), (&b, "b"), (&c, "c")] {
        join(net, name, home()).await;
    }
    connect(&a, &b).await;
    connect(&b, &c).await;
    wait_members(&b, &[&a, &c]).await;
    let knows = |net: &Net, name: &'static str| {
        let peer = net.peer_id();
        move |members: &[Member]| {
            members
                .iter()
                .any(|m| m.peer == peer && m.name == name && !m.addresses.is_empty())
        }
    };
    wait_home(&a, knows(&c, "c")).await;
    wait_home(&c, knows(&a, "a")).await;
}

#[tokio::test]
async fn the_removed_is_shut_out_and_who_was_away_is_not() {
    let shelf = Shelf::new();
    let (a, b, c) = (
        start(memory(), &shelf).await,
        start(memory(), &shelf).await,
        start(memory(), &shelf).await,
    );
    for (net, name) in [(&a, "a"), (&b, "b"), (&c, "c")] {
        join(net, name, home()).await;
    }
    connect(&a, &b).await;
    connect(&a, &c).await;
    wait_members(&a, &[&b, &c]).await;
    wait_members(&b, &[&a]).await;
    // One of the remaining is away when the other one is removed.
    let away = b.peer_id();
    b.peers().block(a.peer_id()).await;
    wait_members(&a, &[&c]).await;
    let removed = c.peer_id();
    let view = a.rings();
    let change = view.change(|rings| {
        rings
            .get_mut("home")?
            .remove(&removed, Seed::new([9; 16]), SystemClock.now())
    });
    change.await.expect("removed");
    wait_members(&a, &[]).await;
    assert!(a.rings().removed().contains(&removed));
    // It is told nothing any more, and takes nobody for a member who does not take it for one.
    c.rings().refresh().await;
    wait_members(&c, &[]).await;
    b.peers().unblock(a.peer_id()).await;
    connect(&b, &a).await;
    wait_members(&a, &[&b]).await;
    let generation = |net: &Net| net.rings().rings().as_slice()[0].generation();
    wait_home(&b, |_| generation(&b) == 2).await;
    assert_eq!(a.rings().members("home").expect("there").len(), 1);
    assert_eq!(a.rings().online_members(), [away]);
    // The removed one tries again, with the secret that it has, here and there.
    connect(&c, &b).await;
    c.peers().disconnect(a.peer_id()).await;
    wait_connected(&c, &[a.peer_id()], false).await;
    connect(&c, &a).await;
    // With the new code it is a member again; that this is the first time shows that the old secret came to nothing.
    let mut events = a.events();
    let mut code = home();
    (code.generation, code.seed) = (2, Seed::new([9; 16]));
    c.rings().update(Rings::default()).await;
    assert!(!a.rings().is_online_member(&removed) && !b.rings().is_online_member(&removed));
    join(&c, "c", code).await;
    wait_event(
        &mut events,
        |event| matches!(event, Event::Member { peer, .. } if *peer == removed),
    )
    .await;
    wait_members(&a, &[&b, &c]).await;
}

#[tokio::test]
async fn who_floods_with_handshakes_is_turned_away() {
    let shelf = Shelf::new();
    let (a, b) = pair(shelf).await;
    let mut events = b.events();
    let flood = async {
        let mut n = 0_u16;
        loop {
            let seed = Seed::new(u128::from(n).to_be_bytes());
            let code = InviteCode {
                generation: 1,
                seed,
                ..home()
            };
            let mut rings = Rings::default();
            rings.join(code, Timestamp(1)).expect("the first");
            a.rings().update(rings).await;
            n += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let refused = wait_event(&mut events, |event| {
        matches!(event, Event::PeerRefused { .. })
    });
    tokio::select! {
        _ = refused => {}
        () = flood => {}
    }
}

#[tokio::test]
async fn how_far_the_clock_of_a_member_is_off_is_known_on_both_sides() {
    const DAYS_MS: i64 = 3 * 24 * 3600 * 1000;
    let clock = ManualClock::default();
    clock.advance(Duration::from_millis(SystemClock.now().0 + DAYS_MS as u64));
    let ahead = NetConfig {
        clock: Arc::new(clock),
        ..memory()
    };
    let (a, b) = (
        start(memory(), &Shelf::new()).await,
        start(ahead, &Shelf::new()).await,
    );
    join(&a, "a", home()).await;
    join(&b, "b", home()).await;
    connect(&a, &b).await;
    let knows = |members: &[Member], expected: i64| {
        let told = members.iter().filter_map(|one| one.clock_ahead_ms);
        // The clock of `b` stands still, and that of `a` goes on.
        let mut told = told.map(|ahead| ahead - expected);
        told.any(|gap| gap.abs() < DAYS_MS / 3)
    };
    wait_home(&a, |members| knows(members, DAYS_MS)).await;
    wait_home(&b, |members| knows(members, -DAYS_MS)).await;
}
