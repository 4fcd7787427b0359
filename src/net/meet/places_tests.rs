use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use libp2p::PeerId;
use proptest::prelude::*;
use tokio::time::Instant;

use super::key::Key;
use super::places::{Dial, MAX_DIALS_AT_ONCE, Outcome, Places};

const KEY: Key = Key::new([1; 20]);

fn keys() -> HashSet<Key> {
    HashSet::from([KEY])
}

fn place(host: u32, port: u16) -> SocketAddrV4 {
    // Public addresses.
    SocketAddrV4::new(Ipv4Addr::from(0x0800_0000 + host), port)
}

fn next(places: &mut Places, now: Instant) -> Option<Dial> {
    places.next(&keys(), |_| false, 7, now)
}

#[test]
fn tcp_is_tried_first_and_quic_next_and_then_there_is_a_pause() {
    let mut now = Instant::now();
    let mut places = Places::new(false, now);
    places.heard(KEY, &[place(1, 4384)], 0, now);
    let first = next(&mut places, now).expect("new");
    assert_eq!(first.address().to_string(), "/ip4/8.0.0.1/tcp/4384");
    assert_eq!(next(&mut places, now), None, "it is being dialled");
    places.ended(first, Outcome::Failed, now);
    let second = next(&mut places, now).expect("the other transport");
    assert_eq!(
        second.address().to_string(),
        "/ip4/8.0.0.1/udp/4384/quic-v1"
    );
    places.ended(second, Outcome::Failed, now);
    assert_eq!(next(&mut places, now), None);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let due = places.due(&keys(), |_| false).expect("again");
        pauses.push(due - now);
        now = due;
        for _ in 0..2 {
            let dial = next(&mut places, now).expect("due");
            places.ended(dial, Outcome::Failed, now);
        }
    }
    assert!(pauses.is_sorted(), "{pauses:?}");
    assert_eq!(pauses[7], Duration::from_secs(2 * 3600));
}

#[test]
fn where_a_peer_was_reached_is_remembered_and_tried_first() {
    let mut now = Instant::now();
    let (mut places, peer) = (Places::new(false, now), PeerId::random());
    places.heard(KEY, &[place(1, 1)], 0, now);
    let dial = next(&mut places, now).expect("new");
    places.ended(dial, Outcome::Reached(peer), now);
    assert_eq!(places.good()[0].peer, peer);
    let garbage: Vec<_> = (2..40).map(|host| place(host, 1)).collect();
    places.heard(KEY, &garbage, 0, now);
    now += Duration::from_secs(60);
    let connected = places.next(&keys(), |other| *other == peer, 7, now);
    assert_ne!(connected.expect("garbage").place, place(1, 1));
    assert_eq!(next(&mut places, now).expect("first").place, place(1, 1));
    let nobody_asked = places.next(&HashSet::new(), |_| false, 7, now);
    assert_eq!(nobody_asked, None, "under a key that does not matter");
}

#[test]
fn this_node_itself_and_peers_of_other_networks_are_not_dialled_twice() {
    let now = Instant::now();
    let mut places = Places::new(false, now);
    places.heard(KEY, &[place(1, 1)], 0, now);
    let dial = next(&mut places, now).expect("new");
    places.ended(dial, Outcome::Wrong, now);
    let later = now + Duration::from_secs(30 * 24 * 3600);
    for at in [now, later] {
        places.heard(KEY, &[place(1, 1)], 0, at);
        assert_eq!(next(&mut places, at), None);
        assert_eq!(places.due(&keys(), |_| false), None);
    }
}

#[test]
fn a_stranger_aims_no_dials_at_neighbours_or_at_no_address() {
    let now = Instant::now();
    let told = |text: &str| -> SocketAddrV4 { text.parse().expect("an address") };
    let private = [
        told("192.168.1.1:80"),
        told("10.0.0.1:22"),
        told("127.0.0.1:4384"),
        told("169.254.1.1:80"),
        told("100.64.0.1:80"),
    ];
    let never = [
        told("0.0.0.0:1"),
        told("224.0.0.1:1"),
        told("255.255.255.255:1"),
        told("8.8.8.8:0"),
    ];
    let mut places = Places::new(false, now);
    places.heard(KEY, &[private.as_slice(), &never].concat(), 0, now);
    assert!(places.is_empty());
    let mut places = Places::new(true, now);
    places.heard(KEY, &[private.as_slice(), &never].concat(), 0, now);
    assert_eq!(places.len(), private.len());
}

#[test]
fn a_victim_is_dialled_seldom_however_many_of_its_ports_are_told() {
    let mut now = Instant::now();
    let mut places = Places::new(false, now);
    let mut dials = 0;
    for minute in 0..60 {
        let ports: Vec<_> = (0..60).map(|n| place(1, 1 + minute * 60 + n)).collect();
        places.heard(KEY, &ports, u64::from(minute), now);
        while let Some(dial) = next(&mut places, now) {
            dials += 1;
            places.ended(dial, Outcome::Failed, now);
        }
        now += Duration::from_secs(60);
    }
    assert!(places.len() <= 16, "{}", places.len());
    assert!(dials <= 6 + 60, "{dials}");
}

/// A meeting point full of garbage: every answer names other addresses at which nobody is, and one
/// at which a peer is.
#[test]
fn garbage_does_not_keep_the_good_one_out() {
    for seed in 0..8u32 {
        let mut now = Instant::now();
        let (mut places, began) = (Places::new(false, now), now);
        let good = place(1 << 20, 4384);
        let mut asked = 0;
        let reached = loop {
            if asked * 300 <= (now - began).as_secs() {
                asked += 1;
                for answer in 0..20 {
                    let mut told: Vec<_> = (0..20)
                        .map(|n| place(seed * 400 + answer * 20 + n, 1))
                        .collect();
                    told.push(good);
                    places.heard(KEY, &told, u64::from(answer), now);
                }
            }
            let random = (now - began).as_millis() as u64 + u64::from(seed);
            match places.next(&keys(), |_| false, random, now) {
                Some(dial) if dial.place == good => break now - began,
                Some(dial) => places.ended(dial, Outcome::Failed, now),
                None => now += Duration::from_secs(1),
            }
        };
        // Every answer names it, so it comes before all of the 400 that one answer names.
        assert!(reached < Duration::from_secs(30), "{reached:?}");
    }
}

#[test]
fn sybils_that_all_answers_name_cost_time_and_no_more() {
    let mut now = Instant::now();
    let (mut places, began) = (Places::new(false, now), now);
    let good = place(1 << 20, 4384);
    let mut all: Vec<_> = (0..200).map(|host| place(host, 1)).collect();
    all.insert(100, good);
    let reached = loop {
        for answer in all.chunks(10) {
            places.heard(KEY, answer, 3, now);
        }
        match next(&mut places, now) {
            Some(dial) if dial.place == good => break now - began,
            Some(dial) => places.ended(dial, Outcome::Failed, now),
            None => now += Duration::from_secs(1),
        }
    };
    assert!(reached <= Duration::from_secs(200 * 3), "{reached:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn bounds_hold_whatever_is_told(
        steps in prop::collection::vec((0u32..60, 1u16..9, 0u8..4, 0u64..40, any::<u64>()), 1..60),
    ) {
        let mut now = Instant::now();
        let mut places = Places::new(false, now);
        let mut under_way: Vec<Dial> = Vec::new();
        let mut failed: Vec<(Instant, Ipv4Addr)> = Vec::new();
        let mut wrong: HashSet<SocketAddrV4> = HashSet::new();
        for (host, port, outcome, seconds, random) in steps {
            let told: Vec<_> = (0..50).map(|n| place(host % 30 * 50 + n, port)).collect();
            places.heard(KEY, &told, random, now);
            prop_assert!(places.len() <= 1024);
            while let Some(dial) = places.next(&keys(), |_| false, random, now) {
                prop_assert!(!wrong.contains(&dial.place), "never again");
                prop_assert!(under_way.iter().all(|other| other.place != dial.place));
                under_way.push(dial);
                prop_assert!(under_way.len() <= MAX_DIALS_AT_ONCE);
            }
            if !under_way.is_empty() {
                let dial = under_way.remove(0);
                let outcome = match outcome {
                    0 => Outcome::Reached(PeerId::random()),
                    1 => Outcome::Wrong,
                    _ => Outcome::Failed,
                };
                match outcome {
                    Outcome::Wrong => {
                        wrong.insert(dial.place);
                    }
                    Outcome::Failed => failed.push((now, *dial.place.ip())),
                    Outcome::Reached(_) => {}
                }
                places.ended(dial, outcome, now);
            }
            now += Duration::from_secs(seconds);
        }
        let within = |from: Instant, at: Instant| at >= from && at - from < Duration::from_secs(60);
        for (from, _) in &failed {
            let minute = failed.iter().filter(|(at, _)| within(*from, *at));
            let mut hosts: HashMap<Ipv4Addr, u32> = HashMap::new();
            let mut all = 0;
            for (_, host) in minute {
                all += 1;
                *hosts.entry(*host).or_default() += 1;
            }
            // What a full purse holds, what comes within a minute, and what was under way.
            prop_assert!(all <= 20 + 21 + 8, "{}", all);
            prop_assert!(hosts.values().all(|count| *count <= 6 + 2 + 8));
        }
    }
}
