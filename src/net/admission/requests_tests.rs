//! Floods of requests, step by step.

use super::*;
use proptest::prelude::*;

const BOUNDS: Bounds = Bounds {
    bytes: 100,
    bytes_of_strangers: 100,
    bytes_per_member: 60,
    bytes_per_stranger: 60,
    started: 8,
    started_of_strangers: 8,
    waiting: 10,
    waiting_per_peer: 6,
};

const ALL: [Standing; 4] = HIGHEST_FIRST;

fn offer<T: std::fmt::Debug>(
    admission: &mut RequestQueue<T>,
    peer: PeerId,
    bytes: usize,
    request: T,
) -> Offered<T> {
    admission.offer(peer, Standing::Newcomer, bytes, request)
}

#[test]
fn the_queue_is_bounded_for_each_peer_and_in_all() {
    let mut admission = RequestQueue::new(BOUNDS);
    let [a, b] = [PeerId::random(), PeerId::random()];
    for n in 0..6 {
        assert_eq!(offer(&mut admission, a, 10, n), Offered::Queued);
    }
    assert_eq!(offer(&mut admission, a, 10, 6), Offered::TurnedAway(6));
    for n in 0..4 {
        assert_eq!(offer(&mut admission, b, 10, n), Offered::Queued);
    }
    assert_eq!(offer(&mut admission, b, 10, 4), Offered::TurnedAway(4));
    admission.forget(a);
    assert_eq!(offer(&mut admission, b, 10, 5), Offered::Queued);
}

#[test]
fn peers_take_turns_and_stay_below_their_share() {
    let mut admission = RequestQueue::new(BOUNDS);
    let [a, b] = [PeerId::random(), PeerId::random()];
    for n in 0..5 {
        offer(&mut admission, a, 20, n);
    }
    offer(&mut admission, b, 20, 9);
    let mut order = Vec::new();
    let mut held = Vec::new();
    while let Some((reservation, request)) = admission.start(usize::MAX) {
        order.push(request);
        held.push(reservation);
    }
    assert_eq!(order, [0, 9, 1, 2], "a's share is used up");
    admission.shrink(&mut held[0], 5);
    assert!(admission.start(usize::MAX).is_none(), "15 free, 20 needed");
    let first = held.remove(0);
    admission.finish(first);
    assert_eq!(
        admission.start(usize::MAX).map(|(_, request)| request),
        Some(3)
    );
}

#[test]
fn an_answer_larger_than_the_bounds_gets_its_turn() {
    let mut admission = RequestQueue::new(BOUNDS);
    offer(&mut admission, PeerId::random(), 1000, ());
    assert!(admission.start(usize::MAX).is_some());
}

#[test]
fn small_ones_may_pass_large_ones_without_taking_their_turn() {
    let mut admission = RequestQueue::new(BOUNDS);
    let [a, b] = [PeerId::random(), PeerId::random()];
    for (peer, bytes, n) in [(a, 20, 0), (a, 5, 1), (b, 20, 2), (b, 6, 3), (a, 5, 4)] {
        offer(&mut admission, peer, bytes, n);
    }
    let mut small = Vec::new();
    while let Some((_, request)) = admission.start(5) {
        small.push(request);
    }
    assert_eq!(small, [1, 4], "six are more than five");
    assert_eq!(admission.turn, 0);
    let mut rest = Vec::new();
    while let Some((_, request)) = admission.start(usize::MAX) {
        rest.push(request);
    }
    rest.sort_unstable();
    assert_eq!(rest, [0, 2, 3]);
}

#[test]
fn when_nothing_waits_a_free_rider_is_served_at_once() {
    let mut admission = RequestQueue::new(BOUNDS);
    for n in 0..20 {
        admission.offer(PeerId::random(), Standing::FreeRider, 100, n);
        let (reservation, request) = admission.start(usize::MAX).expect("idle");
        assert_eq!(request, n);
        admission.finish(reservation);
    }
}

#[test]
fn the_longest_waiting_of_the_lowest_class_makes_room_for_a_higher_one() {
    let mut admission = RequestQueue::new(BOUNDS);
    let peers: Vec<PeerId> = (0..4).map(|_| PeerId::random()).collect();
    let mut put = |peer: usize, standing, n| admission.offer(peers[peer], standing, 10, n);
    for n in 0..5 {
        put(0, Standing::Newcomer, n);
    }
    for n in 5..8 {
        put(1, Standing::FreeRider, n);
    }
    put(2, Standing::FreeRider, 8);
    put(1, Standing::FreeRider, 9);
    assert_eq!(
        put(2, Standing::FreeRider, 10),
        Offered::TurnedAway(10),
        "its own class does not make room"
    );
    for (n, gone) in [(11, 5), (12, 6)] {
        let offered = put(0, Standing::Newcomer, n);
        // The sixth of one peer still has room, the seventh has not.
        match n {
            11 => assert_eq!(offered, Offered::Displaced(peers[1], gone)),
            _ => assert_eq!(offered, Offered::TurnedAway(12)),
        }
    }
    for gone in [6, 7, 8, 9, 0, 1] {
        let from = match gone {
            6 | 7 | 9 => peers[1],
            8 => peers[2],
            _ => peers[0],
        };
        let member = PeerId::random();
        assert_eq!(
            admission.offer(member, Standing::Member, 10, 100 + gone),
            Offered::Displaced(from, gone)
        );
    }
    assert_eq!(admission.waiting, BOUNDS.waiting);
}

#[test]
fn higher_standings_go_first_and_each_gets_one_turn_in_eight() {
    let bounds = Bounds {
        bytes: 1,
        bytes_of_strangers: 1,
        bytes_per_member: 1,
        bytes_per_stranger: 1,
        started: 1,
        started_of_strangers: 1,
        waiting: 4000,
        waiting_per_peer: 1000,
    };
    let mut admission = RequestQueue::new(bounds);
    for standing in ALL {
        let peer = PeerId::random();
        for _ in 0..1000 {
            admission.offer(peer, standing, 1, standing);
        }
    }
    let mut order = Vec::new();
    for _ in 0..800 {
        let (reservation, standing) = admission.start(usize::MAX).expect("all wait");
        admission.finish(reservation);
        order.push(standing);
    }
    for window in order.windows(WHEEL.len()) {
        let count = |standing| window.iter().filter(|s| **s == standing).count();
        assert_eq!(ALL.map(count), [4, 2, 1, 1]);
    }
}

proptest! {
    /// Requests may come in any way: a peer that waits at the head of its line is started after a
    /// bounded number of others.
    #[test]
    fn nobody_starves(arrivals in proptest::collection::vec((0usize..4, 1usize..3), 50..300)) {
        let bounds = Bounds { bytes: 1, bytes_of_strangers: 1, bytes_per_member: 1, bytes_per_stranger: 1, started: 1, started_of_strangers: 1, waiting: 10_000, waiting_per_peer: 10_000 };
        let mut admission = RequestQueue::new(bounds);
        let peers: Vec<PeerId> = ALL.iter().map(|_| PeerId::random()).collect();
        let mut waiting = [0usize; 4];
        let mut passed = [0usize; 4];
        for (class, count) in arrivals {
            for _ in 0..count {
                admission.offer(peers[class], ALL[class], 1, class);
                waiting[class] += 1;
            }
            let (reservation, started) = admission.start(usize::MAX).expect("something waits");
            admission.finish(reservation);
            waiting[started] -= 1;
            passed[started] = 0;
            for class in (0..4).filter(|class| *class != started) {
                passed[class] = if waiting[class] > 0 { passed[class] + 1 } else { 0 };
                prop_assert!(passed[class] < WHEEL.len());
            }
        }
    }

    #[test]
    fn bounds_hold_and_everything_is_given_back(
        steps in proptest::collection::vec((0usize..4, 0usize..80, 0usize..3, 0usize..4), 1..200),
    ) {
        let peers: Vec<PeerId> = (0..3).map(|_| PeerId::random()).collect();
        let mut admission = RequestQueue::new(BOUNDS);
        let mut held = Vec::new();
        for (action, bytes, peer, standing) in steps {
            match action {
                0 | 1 => {
                    let before = admission.waiting;
                    match admission.offer(peers[peer], ALL[standing], bytes, ()) {
                        Offered::Queued => prop_assert_eq!(admission.waiting, before + 1),
                        Offered::Displaced(..) | Offered::TurnedAway(()) => prop_assert_eq!(admission.waiting, before),
                    }
                }
                2 => held.extend(admission.start(usize::MAX).map(|(reservation, ())| reservation)),
                _ => if let Some(reservation) = held.pop() { admission.finish(reservation) }
            }
            prop_assert!(admission.reserved_bytes <= BOUNDS.bytes);
            prop_assert!(admission.reserved.values().all(|bytes| *bytes <= BOUNDS.bytes_per_member));
            prop_assert!(admission.started <= BOUNDS.started && admission.waiting <= BOUNDS.waiting);
            let lined_up: usize = admission.turns.iter().map(VecDeque::len).sum();
            prop_assert_eq!(lined_up, admission.queues.len());
        }
        loop {
            held.drain(..).for_each(|reservation| admission.finish(reservation));
            while let Some((reservation, ())) = admission.start(usize::MAX) { held.push(reservation); }
            if held.is_empty() { break; }
        }
        prop_assert_eq!((admission.reserved_bytes, admission.started, admission.waiting), (0, 0, 0));
        prop_assert!(admission.reserved.is_empty() && admission.queues.is_empty());
        prop_assert!(admission.turns.iter().all(VecDeque::is_empty));
    }
}

/// Starts what may be started and gives how many requests of whom that were.
fn start_all(queue: &mut RequestQueue<()>, held: &mut Vec<Reservation>) -> HashMap<PeerId, usize> {
    let mut started = HashMap::new();
    while let Some((reservation, ())) = queue.start(usize::MAX) {
        *started.entry(reservation.peer).or_default() += 1;
        held.push(reservation);
    }
    started
}

#[test]
fn peers_that_read_nothing_leave_members_their_part() {
    let bounds = Bounds {
        bytes_of_strangers: 60,
        bytes_per_member: 60,
        bytes_per_stranger: 30,
        started: 80,
        started_of_strangers: 50,
        waiting: 1000,
        ..BOUNDS
    };
    for standing in [Standing::FreeRider, Standing::Newcomer, Standing::Even] {
        let mut queue = RequestQueue::new(bounds);
        let mut held = Vec::new();
        // Two of them, and then many: neither the bytes nor the starts of members are theirs.
        for bytes in [10, 1] {
            let strangers: Vec<PeerId> = (0..100).map(|_| PeerId::random()).collect();
            for stranger in &strangers {
                for _ in 0..4 {
                    queue.offer(*stranger, standing, bytes, ());
                }
            }
            let started = start_all(&mut queue, &mut held);
            assert!(started.values().all(|of_one| *of_one <= 3));
            assert!(queue.stranger_bytes <= 60 && queue.started_of_strangers <= 50);
            let member = PeerId::random();
            for _ in 0..4 {
                queue.offer(member, Standing::Member, 10, ());
            }
            let mut members = Vec::new();
            let started = start_all(&mut queue, &mut members);
            assert_eq!(started, HashMap::from([(member, 4)]), "{standing:?}");
            members.into_iter().for_each(|one| queue.finish(one));
            strangers.into_iter().for_each(|one| queue.forget(one));
            held.drain(..).for_each(|one| queue.finish(one));
        }
        assert_eq!(queue.reserved_bytes + queue.stranger_bytes, 0);
        assert_eq!(queue.started + queue.started_of_strangers, 0);
        assert!(queue.of_sites.is_empty() && queue.reserved.is_empty());
    }
}

#[test]
fn strangers_of_one_site_share_what_one_has() {
    let bounds = Bounds {
        bytes_per_stranger: 30,
        started: 100,
        started_of_strangers: 100,
        waiting: 1000,
        ..BOUNDS
    };
    for (ip, most) in [([203, 0, 113, 1], 30), ([192, 168, 1, 1], 100)] {
        let mut queue = RequestQueue::new(bounds);
        let site = Site::of_ip(ip.into());
        let mut offer = |site: Option<Site>| {
            let peer = PeerId::random();
            if let Some(site) = site {
                queue.is_at(peer, site);
            }
            queue.offer(peer, Standing::Newcomer, 10, ());
            peer
        };
        for _ in 0..20 {
            offer(Some(site));
        }
        let elsewhere = offer(Some(Site::of_ip([203, 0, 113, 2].into())));
        let mut held = Vec::new();
        let started = start_all(&mut queue, &mut held);
        let of_site = held.iter().filter(|one| one.peer != elsewhere);
        let bytes: usize = of_site.map(Reservation::bytes).sum();
        assert!(bytes <= most, "{bytes}");
        assert!(most == 100 || started.contains_key(&elsewhere));
        held.into_iter().for_each(|one| queue.finish(one));
        assert!(queue.of_sites.is_empty());
    }
}
