use super::*;
use std::collections::BinaryHeap;

const MTU: u64 = 1_400;

/// A path in a model world: a rate, a delay each way, room for what waits, and random loss.
#[derive(Clone, Copy)]
struct Path {
    bytes_per_s: u64,
    delay: Duration,
    room: Duration,
    /// One packet in so many is lost; 0: none.
    loses_one_in: u64,
}

/// Outcome of sending for some time.
struct Sent {
    delivered: u64,
    lost: u64,
    /// Longest wait at the bottleneck in the second half.
    waited: Duration,
}

impl Sent {
    /// Share of the path's rate that was used.
    fn share(&self, path: Path, time: Duration) -> f64 {
        self.delivered as f64 / (path.bytes_per_s as f64 * time.as_secs_f64())
    }
}

/// Sends as much as the window allows for `time`. Packets are acknowledged one by one.
fn run(path: Path, time: Duration) -> Sent {
    let zero = Instant::now();
    let mut model = Model::new(zero, MTU);
    // When something comes back, the packet's number, when it was sent, and whether it arrived.
    let mut back: BinaryHeap<std::cmp::Reverse<(Duration, u64, Duration, bool)>> =
        BinaryHeap::new();
    let (mut now, mut free, mut in_flight, mut number) = (Duration::ZERO, Duration::ZERO, 0, 0);
    let (mut delivered, mut lost, mut waited) = (0, 0, Duration::ZERO);
    let mut random = 1u64;
    let takes = Duration::from_secs_f64(MTU as f64 / path.bytes_per_s as f64);
    while now < time {
        while in_flight + MTU <= model.window() {
            number += 1;
            in_flight += MTU;
            model.sent(zero + now);
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let is_unlucky =
                path.loses_one_in > 0 && (random >> 33).is_multiple_of(path.loses_one_in);
            let wait = free.saturating_sub(now);
            let is_lost = is_unlucky || wait > path.room;
            if !is_lost {
                free = free.max(now) + takes;
                if now > time / 2 {
                    waited = waited.max(wait);
                }
            }
            // A loss is seen when later packets are acknowledged.
            let seen = free.max(now)
                + 2 * path.delay
                + if is_lost {
                    path.delay / 4
                } else {
                    Duration::ZERO
                };
            back.push(std::cmp::Reverse((seen, number, now, !is_lost)));
        }
        let Some(std::cmp::Reverse((at, _, sent, arrived))) = back.pop() else {
            break;
        };
        now = at;
        in_flight -= MTU;
        if arrived {
            delivered += MTU;
            model.acked(zero + now, zero + sent, MTU);
            model.end_acks(zero + now, in_flight, false);
        } else {
            lost += MTU;
            model.lost(MTU, false);
        }
    }
    Sent {
        delivered,
        lost,
        waited,
    }
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn a_path_is_filled_with_and_without_loss() {
    let time = Duration::from_secs(20);
    for mbit in [1, 10, 100] {
        for delay in [5 * MS, 25 * MS, 75 * MS] {
            for (loses_one_in, least) in [(0, 0.92), (100, 0.90), (50, 0.88)] {
                let path = Path {
                    bytes_per_s: mbit * 125_000,
                    delay,
                    room: 200 * MS,
                    loses_one_in,
                };
                let share = run(path, time).share(path, time);
                assert!(
                    share >= least,
                    "{mbit} Mbit/s, {delay:?}, 1/{loses_one_in}: {share}"
                );
            }
        }
    }
}

#[test]
fn little_waits_at_the_bottleneck() {
    let path = Path {
        bytes_per_s: 12_500_000,
        delay: 25 * MS,
        room: Duration::from_secs(2),
        loses_one_in: 0,
    };
    let sent = run(path, Duration::from_secs(20));
    assert!(sent.waited < 60 * MS, "{:?}", sent.waited);
    assert_eq!(sent.lost, 0);
}

#[test]
fn where_little_can_wait_little_is_lost() {
    let path = Path {
        bytes_per_s: 12_500_000,
        delay: 50 * MS,
        room: 25 * MS,
        loses_one_in: 0,
    };
    let time = Duration::from_secs(30);
    let sent = run(path, time);
    assert!(sent.share(path, time) > 0.9, "{}", sent.share(path, time));
    let lossy = share(sent.lost, sent.delivered);
    assert!(lossy < 0.03, "{lossy}");
}

#[test]
fn a_shorter_round_trip_is_found_by_emptying_the_path() {
    let zero = Instant::now();
    let mut model = Model::new(zero, MTU);
    model.was_full = true;
    let mut now = zero;
    for n in 0..400 {
        model.sent(now);
        model.acked(now + 90 * MS, now, 10 * MTU);
        model.end_acks(now + 90 * MS, 20 * MTU, false);
        now += 90 * MS;
        if model.emptying.is_some() {
            assert!(n > 100, "not before it is due");
            assert!(model.window() < model.window, "less is under way");
            return;
        }
        // It gets slower by and by, as where others fill the queue.
        model.rtt = model.rtt.map(|_| 80 * MS);
    }
    unreachable!("it is due after ten seconds");
}

#[test]
fn an_outage_starts_small_again_and_marks_are_bounded() {
    let zero = Instant::now();
    let mut model = Model::new(zero, MTU);
    for n in 0..2 * MAX_MARKS as u32 {
        model.sent(zero + n * Duration::from_micros(1));
    }
    assert_eq!(model.marks.len(), MAX_MARKS);
    model.lost(MTU, true);
    assert_eq!(model.window(), FEWEST_PACKETS * MTU);
}
