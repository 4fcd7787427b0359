//! Members that find each other, strangers that don't, removed ones, gossip, floods.

use super::*;
use crate::net::rings::Member;
use crate::ring::{INVITATION_TTL, InviteCode, Rings, Seed};
use crate::time::{Clock, ManualClock, SystemClock, Timestamp};

/// Makes a ring, and a code to join it with.
async fn create(net: &Net, name: &str) -> InviteCode {
    net.rings().set_local(name, 1000);
    let view = net.rings();
    let made = view.change(|rings, key| {
        let ring = rings.create("home", key, Seed::random(), SystemClock.now())?;
        ring.invite(Seed::random(), INVITATION_TTL, false, SystemClock.now())
    });
    made.await.expect("made")
}

async fn invite(net: &Net, single_use: bool) -> InviteCode {
    let view = net.rings();
    let invited = view.change(|rings, _| {
        let ring = rings.get_mut("home")?;
        ring.invite(
            Seed::random(),
            INVITATION_TTL,
            single_use,
            SystemClock.now(),
        )
    });
    invited.await.expect("invited")
}

async fn remove(net: &Net, peer: PeerId) {
    let view = net.rings();
    let change = view.change(|rings, key| {
        let ring = rings.get_mut("home")?;
        ring.remove(
            &peer,
            key,
            Seed::random(),
            SystemClock.now(),
            rand::random(),
        )
    });
    change.await.expect("removed");
}

/// A code that no node made.
fn foreign(n: u8) -> InviteCode {
    let until = SystemClock.now().after(INVITATION_TTL);
    InviteCode::new("home", Seed::new([n; 16]), until)
}

async fn join(net: &Net, name: &str, code: InviteCode) {
    net.rings().set_local(name, 1000);
    let joined = net
        .rings()
        .change(|rings, _| rings.join(code, Timestamp(1)).map(drop))
        .await;
    joined.expect("joined");
}

fn generation(net: &Net) -> u32 {
    net.rings().rings().as_slice()[0].generation()
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
    let code = create(&a, "attic").await;
    join(&b, "desk", code.clone()).await;
    join(&stranger, "stranger", foreign(8)).await;
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
    join(&stranger, "late", code).await;
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
    let code = create(&b, "b").await;
    for (net, name) in [(&a, "a"), (&c, "c")] {
        join(net, name, code.clone()).await;
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
    let code = create(&a, "a").await;
    for (net, name) in [(&b, "b"), (&c, "c")] {
        join(net, name, code.clone()).await;
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
    remove(&a, removed).await;
    wait_members(&a, &[]).await;
    assert!(a.rings().removed().contains(&removed));
    // It is told nothing any more, and takes nobody for a member who does not take it for one.
    c.rings().refresh().await;
    wait_members(&c, &[]).await;
    b.peers().unblock(a.peer_id()).await;
    connect(&b, &a).await;
    wait_members(&a, &[&b]).await;
    wait_home(&b, |_| generation(&b) == 2).await;
    assert_eq!(a.rings().members("home").expect("there").len(), 1);
    assert_eq!(a.rings().online_members(), [away]);
    // The removed one tries again, with the secret that it has, here and there.
    connect(&c, &b).await;
    c.peers().disconnect(a.peer_id()).await;
    wait_connected(&c, &[a.peer_id()], false).await;
    connect(&c, &a).await;
    // Joining with a new code makes the removed a member again; that this is the first time shows
    // that the old secret came to nothing.
    let mut events = a.events();
    let code = invite(&a, true).await;
    c.rings().update(Rings::default()).await;
    assert!(!a.rings().is_online_member(&removed) && !b.rings().is_online_member(&removed));
    join(&c, "c", code).await;
    wait_event(
        &mut events,
        |event| matches!(event, Event::Member { peer, .. } if *peer == removed),
    )
    .await;
    wait_members(&a, &[&b, &c]).await;
    // The others hear that it is back, though they did not invite it.
    let is_back = |net: &Net| !net.rings().rings().as_slice()[0].is_removed(&removed);
    wait_home(&b, |_| is_back(&b)).await;
    assert_eq!((generation(&c), generation(&b)), (2, 2));
}

#[tokio::test]
async fn a_code_for_one_machine_lets_in_one() {
    let shelf = Shelf::new();
    let (a, b, c) = (
        start(memory(), &shelf).await,
        start(memory(), &shelf).await,
        start(memory(), &shelf).await,
    );
    create(&a, "a").await;
    let code = invite(&a, true).await;
    join(&b, "b", code.clone()).await;
    connect(&a, &b).await;
    wait_members(&a, &[&b]).await;
    wait_home(&b, |_| generation(&b) == 1).await;
    // One that overheard the code comes later.
    join(&c, "c", code).await;
    connect(&c, &a).await;
    let other = invite(&a, false).await;
    c.rings().update(Rings::default()).await;
    assert!(!a.rings().is_online_member(&c.peer_id()));
    join(&c, "c", other).await;
    // The newcomer gets in by another code, and the handshake of the first came to nothing.
    wait_members(&a, &[&b, &c]).await;
}

#[tokio::test]
async fn one_that_was_away_is_not_taken_along_by_the_removed() {
    let shelf = Shelf::new();
    let (a, away, out) = (
        start(memory(), &shelf).await,
        start(memory(), &shelf).await,
        start(memory(), &shelf).await,
    );
    let code = create(&a, "a").await;
    for (net, name) in [(&away, "away"), (&out, "out")] {
        join(net, name, code.clone()).await;
    }
    connect(&a, &away).await;
    connect(&a, &out).await;
    connect(&away, &out).await;
    wait_members(&a, &[&away, &out]).await;
    wait_members(&out, &[&away, &a]).await;
    wait_members(&away, &[&out, &a]).await;
    for net in [&away, &out] {
        wait_home(net, |_| generation(net) == 1).await;
    }
    away.peers().block(a.peer_id()).await;
    wait_members(&a, &[&out]).await;
    remove(&a, out.peer_id()).await;
    wait_members(&out, &[&away]).await;
    // The removed member removes the other in turn, and is followed: it was a member, as far as is
    // known there.
    remove(&out, a.peer_id()).await;
    wait_home(&away, |_| generation(&away) == 2).await;
    away.peers().unblock(a.peer_id()).await;
    connect(&away, &a).await;
    // Then both branches are known, and nothing decides by itself.
    let branches = |net: &Net| net.rings().rings().as_slice()[0].branches().to_vec();
    wait_home(&away, |_| branches(&away).len() == 1).await;
    assert!(!away.rings().is_online_member(&a.peer_id()));
    let id = branches(&away)[0].generations()[0].id().to_string();
    let view = away.rings();
    let chosen = view.change(|rings, _| {
        let ring = rings.get_mut("home")?;
        ring.choose_branch(&id, SystemClock.now())
    });
    chosen.await.expect("open");
    wait_members(&away, &[&a]).await;
    wait_members(&a, &[&away]).await;
    assert!(away.rings().removed().contains(&out.peer_id()));
}

#[tokio::test]
async fn a_peer_that_floods_with_handshakes_is_turned_away() {
    let shelf = Shelf::new();
    let (a, b) = pair(shelf).await;
    let mut events = b.events();
    let flood = async {
        let mut n = 0_u16;
        loop {
            let code = InviteCode {
                seed: Seed::new(u128::from(n).to_be_bytes()),
                ..foreign(0)
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
    let code = create(&a, "a").await;
    join(&b, "b", code).await;
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
