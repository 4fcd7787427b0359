//! When to ask a meeting point for which key, and when to announce under it. Pure.
//!
//! A search that somebody waits for is made again with pauses that grow; one that only keeps a
//! mesh from falling apart is made seldom. What was announced is forgotten by the nodes of Mainline
//! within half an hour, so it is announced again before. A key is never asked for and announced
//! under at the same time: an announcement uses what the search before it has found.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::key::Key;

/// Most keys that count at a time. Callers put first what matters most.
pub const MAX_KEYS: usize = 512;
/// Searches and announcements under way at a time.
const MAX_AT_ONCE: usize = 4;
/// First and longest pause between searches that somebody waits for.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);
/// Pause between searches for which nobody waits.
const CALM_PAUSE: Duration = Duration::from_secs(30 * 60);
/// Pause between announcements.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(15 * 60);

/// How much a search matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ask {
    /// Not at all.
    Never,
    /// It may heal what nobody has noticed.
    Calm,
    /// More addresses would be better.
    Wanted,
    /// Somebody waits for an address, or there is nobody at all.
    Urgent,
}

/// Interest in one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest {
    /// The key.
    pub key: Key,
    /// How much asking for it matters.
    pub ask: Ask,
    /// Whether this node is to be found under it.
    pub announce: bool,
}

/// One search or announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Job {
    /// Ask who announced the key.
    Ask(Key),
    /// Announce this node under the key.
    Announce(Key),
}

impl Job {
    const fn key(self) -> Key {
        match self {
            Self::Ask(key) | Self::Announce(key) => key,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Turn {
    due: Instant,
    /// Turns that came to nothing since the last one that did not.
    in_vain: u32,
}

#[derive(Debug)]
struct Plan {
    ask: Ask,
    announce: bool,
    asking: Turn,
    announcing: Turn,
}

impl Plan {
    /// The job that is due first, when it is, and how much it matters.
    fn first(&self, key: Key) -> Option<(Instant, Job, bool)> {
        let ask = (self.ask > Ask::Never).then_some((
            self.asking.due,
            Job::Ask(key),
            self.ask >= Ask::Wanted,
        ));
        let announce =
            (self.announce).then_some((self.announcing.due, Job::Announce(key), self.announce));
        match (ask, announce) {
            // Of two at one moment the search goes first.
            (Some(ask), Some(announce)) if ask.0 <= announce.0 => Some(ask),
            (ask, None) => ask,
            (_, announce) => announce,
        }
    }
}

/// Plans searches and announcements.
#[derive(Debug, Default)]
pub struct Planner {
    plans: HashMap<Key, Plan>,
    running: HashSet<Job>,
}

impl Planner {
    /// Takes over what matters from `now` on. A key that is new, or that matters more than before,
    /// is due at once, and pauses begin anew.
    pub fn set(&mut self, interests: &[Interest], now: Instant) {
        let mut wanted: HashMap<Key, Interest> = HashMap::new();
        for interest in interests {
            if wanted.len() >= MAX_KEYS && !wanted.contains_key(&interest.key) {
                continue;
            }
            let one = wanted.entry(interest.key).or_insert(*interest);
            one.ask = one.ask.max(interest.ask);
            one.announce |= interest.announce;
        }
        self.plans.retain(|key, _| wanted.contains_key(key));
        let at_once = Turn {
            due: now,
            in_vain: 0,
        };
        for (key, interest) in wanted {
            let plan = self.plans.entry(key).or_insert(Plan {
                ask: Ask::Never,
                announce: false,
                asking: at_once,
                announcing: at_once,
            });
            if interest.ask > plan.ask {
                plan.asking = at_once;
            }
            if interest.announce && !plan.announce {
                plan.announcing = at_once;
            }
            (plan.ask, plan.announce) = (interest.ask, interest.announce);
        }
    }

    /// Everything is announced again, and asked for what somebody waits for: this node is
    /// elsewhere.
    pub fn moved(&mut self, now: Instant) {
        for plan in self.plans.values_mut() {
            plan.announcing.due = plan.announcing.due.min(now);
            if plan.ask >= Ask::Wanted {
                plan.asking = Turn {
                    due: plan.asking.due.min(now),
                    in_vain: 0,
                };
            }
        }
    }

    /// The next job that is due, if one more may run. [`ended`](Self::ended) is to be told of it.
    pub fn next(&mut self, now: Instant) -> Option<Job> {
        if self.running.len() >= MAX_AT_ONCE {
            return None;
        }
        let due = self.idle().filter(|(due, ..)| *due <= now);
        // Keys that somebody waits for come first.
        let (_, job, _) = due.min_by_key(|(due, _, matters)| (!matters, *due))?;
        self.running.insert(job);
        Some(job)
    }

    /// When the next job is due; none while as many run as may, or there is nothing to do.
    pub fn due(&self) -> Option<Instant> {
        let has_room = self.running.len() < MAX_AT_ONCE;
        let first = self.idle().map(|(due, ..)| due).min();
        first.filter(|_| has_room)
    }

    fn idle(&self) -> impl Iterator<Item = (Instant, Job, bool)> {
        let is_idle = |key: &Key| {
            let jobs = [Job::Ask(*key), Job::Announce(*key)];
            jobs.iter().all(|job| !self.running.contains(job))
        };
        let idle = self.plans.iter().filter(move |(key, _)| is_idle(key));
        idle.filter_map(|(key, plan)| plan.first(*key))
    }

    /// A job has ended. `spread` in 0..1 keeps nodes that began together apart.
    pub fn ended(&mut self, job: Job, succeeded: bool, spread: f64, now: Instant) {
        self.running.remove(&job);
        let Some(plan) = self.plans.get_mut(&job.key()) else {
            return;
        };
        let (turn, usual) = match job {
            Job::Ask(_) => (
                &mut plan.asking,
                (plan.ask == Ask::Calm).then_some(CALM_PAUSE),
            ),
            Job::Announce(_) => (&mut plan.announcing, Some(ANNOUNCE_EVERY)),
        };
        let pause = match usual {
            Some(usual) if succeeded => {
                turn.in_vain = 0;
                usual
            }
            // A search that somebody still waits for has not found enough.
            _ => {
                let doubled = FIRST_PAUSE.saturating_mul(1 << turn.in_vain.min(16));
                turn.in_vain = turn.in_vain.saturating_add(1);
                doubled.min(LONGEST_PAUSE)
            }
        };
        turn.due = now + pause.mul_f64(1.0 + spread.clamp(0.0, 1.0) / 4.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(n: u16) -> Key {
        let [a, b] = n.to_be_bytes();
        Key::new(std::array::from_fn(|at| if at == 0 { a } else { b }))
    }

    fn interest(n: u16, ask: Ask, announce: bool) -> Interest {
        Interest {
            key: key(n),
            ask,
            announce,
        }
    }

    /// Lets everything that is due run and end; the jobs.
    fn run(planner: &mut Planner, succeeded: bool, now: Instant) -> Vec<Job> {
        let mut jobs = Vec::new();
        while let Some(job) = planner.next(now) {
            planner.ended(job, succeeded, 0.0, now);
            jobs.push(job);
        }
        jobs
    }

    #[test]
    fn a_key_is_asked_for_and_then_announced_under_and_again_before_it_is_forgotten() {
        let (mut planner, now) = (Planner::default(), Instant::now());
        planner.set(&[interest(1, Ask::Calm, true)], now);
        let first = planner.next(now).expect("due");
        assert_eq!(first, Job::Ask(key(1)));
        assert_eq!(planner.next(now), None, "never both at a time");
        planner.ended(first, true, 0.0, now);
        assert_eq!(run(&mut planner, true, now), [Job::Announce(key(1))]);
        assert_eq!(planner.due(), Some(now + ANNOUNCE_EVERY));
        let later = now + ANNOUNCE_EVERY;
        assert_eq!(run(&mut planner, true, later), [Job::Announce(key(1))]);
        planner.moved(later);
        assert_eq!(run(&mut planner, true, later), [Job::Announce(key(1))]);
        planner.set(&[], later);
        assert_eq!((planner.due(), planner.next(later)), (None, None));
    }

    #[test]
    fn pauses_of_a_search_grow_to_five_minutes_and_begin_anew_when_all_is_lost_again() {
        let (mut planner, mut now) = (Planner::default(), Instant::now());
        planner.set(&[interest(1, Ask::Urgent, false)], now);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            assert_eq!(run(&mut planner, true, now), [Job::Ask(key(1))]);
            let due = planner.due().expect("again");
            pauses.push(due - now);
            now = due;
        }
        assert_eq!(pauses[0], FIRST_PAUSE);
        assert!(pauses.is_sorted());
        assert_eq!(pauses[11], LONGEST_PAUSE);
        planner.set(&[interest(1, Ask::Calm, false)], now);
        assert_eq!(run(&mut planner, true, now), [Job::Ask(key(1))]);
        assert_eq!(planner.due(), Some(now + CALM_PAUSE));
        // One peer is left, for long, and then none.
        planner.set(&[interest(1, Ask::Wanted, false)], now);
        for _ in 0..12 {
            assert_eq!(run(&mut planner, true, now), [Job::Ask(key(1))]);
            now = planner.due().expect("again");
        }
        assert_eq!(run(&mut planner, true, now), [Job::Ask(key(1))]);
        assert_eq!(planner.due(), Some(now + LONGEST_PAUSE));
        planner.set(&[interest(1, Ask::Urgent, false)], now);
        assert_eq!(run(&mut planner, true, now), [Job::Ask(key(1))]);
        assert_eq!(planner.due(), Some(now + FIRST_PAUSE));
    }

    #[test]
    fn what_somebody_waits_for_goes_before_the_rest_and_few_run_at_a_time() {
        let (mut planner, now) = (Planner::default(), Instant::now());
        let mut interests: Vec<_> = (0..20).map(|n| interest(n, Ask::Calm, false)).collect();
        interests.push(interest(99, Ask::Urgent, false));
        planner.set(&interests, now);
        let first: Vec<_> = std::iter::from_fn(|| planner.next(now)).collect();
        assert_eq!(first.len(), MAX_AT_ONCE);
        assert_eq!(first[0], Job::Ask(key(99)));
        assert_eq!(planner.due(), None, "room first");
        planner.ended(first[0], false, 1.0, now);
        assert!(planner.next(now).is_some());
    }

    #[test]
    fn keys_past_the_bound_are_left_out_and_the_first_stay() {
        let (mut planner, now) = (Planner::default(), Instant::now());
        let many = u16::try_from(MAX_KEYS).expect("small") + 100;
        let interests: Vec<_> = (0..many).map(|n| interest(n, Ask::Never, true)).collect();
        planner.set(&interests, now);
        let jobs = run(&mut planner, true, now);
        assert_eq!(jobs.len(), MAX_KEYS);
        assert!(jobs.contains(&Job::Announce(key(0))));
        assert!(!jobs.contains(&Job::Announce(key(many - 1))));
    }

    proptest! {
        /// Whatever happens: few at a time, no key twice at a time, and no more than a bound in
        /// all.
        #[test]
        fn bounds_hold(
            steps in prop::collection::vec((0u16..8, 0u8..4, any::<bool>(), any::<bool>(), 0u64..400), 1..80),
        ) {
            let (mut planner, mut now) = (Planner::default(), Instant::now());
            let mut running: Vec<Job> = Vec::new();
            let mut asked: Vec<(Key, Instant)> = Vec::new();
            for (n, ask, announce, succeeded, seconds) in steps {
                let ask = [Ask::Never, Ask::Calm, Ask::Wanted, Ask::Urgent][usize::from(ask)];
                planner.set(&[interest(n, ask, announce), interest(8, Ask::Urgent, true)], now);
                while let Some(job) = planner.next(now) {
                    prop_assert!(running.iter().all(|other| other.key() != job.key()));
                    if job == Job::Ask(key(8)) {
                        asked.push((key(8), now));
                    }
                    running.push(job);
                    prop_assert!(running.len() <= MAX_AT_ONCE);
                }
                if let Some(job) = running.pop() {
                    planner.ended(job, succeeded, 0.5, now);
                }
                now += Duration::from_secs(seconds);
            }
            for pair in asked.windows(2) {
                prop_assert!(pair[1].1 - pair[0].1 >= FIRST_PAUSE);
            }
        }
    }
}
