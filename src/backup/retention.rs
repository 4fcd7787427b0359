//! Which snapshots to keep: pure policy.
//!
//! Rules add up: a snapshot is kept when any rule keeps it. `last` keeps the newest; each calendar rule keeps the newest snapshot of each of
//! the latest hours, days, weeks (ISO 8601), months or years that have one; `within` keeps what is younger; `tags` keeps what carries one of them. Snapshots are judged in groups of
//! one machine and one set of paths, as in restic: a laptop's nightly run doesn't use up the days of a server's.
//!
//! No rule at all keeps everything: an empty policy must never forget.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::log::Listed;
use crate::time::Timestamp;

/// The rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// So many of the newest.
    pub last: u32,
    /// The newest of so many hours that have one.
    pub hourly: u32,
    /// Of so many days.
    pub daily: u32,
    /// Of so many weeks.
    pub weekly: u32,
    /// Of so many months.
    pub monthly: u32,
    /// Of so many years.
    pub yearly: u32,
    /// All that are younger than so many seconds, counted from the newest of the group.
    pub within_s: u64,
    /// All with one of these tags.
    pub tags: Vec<String>,
}

impl Policy {
    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A verdict on one snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// The snapshot.
    pub snapshot: &'a Listed,
    /// The rules that keep it; none: it goes.
    pub reasons: Vec<&'static str>,
}

/// What the policy says of each snapshot, in the order in which they are given. `zone` says when a day begins.
pub fn judge<'a>(policy: &Policy, snapshots: &[&'a Listed], zone: &TimeZone) -> Vec<Verdict<'a>> {
    let mut groups: BTreeMap<([u8; 32], Vec<Bytes>), Vec<usize>> = BTreeMap::new();
    for (at, listed) in snapshots.iter().enumerate() {
        let paths = listed.logged.summary.paths.clone();
        groups.entry((listed.machine, paths)).or_default().push(at);
    }
    let mut verdicts: Vec<Verdict<'a>> = snapshots
        .iter()
        .map(|snapshot| Verdict {
            snapshot,
            reasons: Vec::new(),
        })
        .collect();
    for mut group in groups.into_values() {
        let started = |at: &usize| snapshots[*at].logged.summary.started;
        group.sort_by_key(|at| std::cmp::Reverse((started(at), *at)));
        judge_group(policy, &group, &mut verdicts, zone);
    }
    verdicts
}

/// `group`: places in `verdicts`, newest first.
fn judge_group(policy: &Policy, group: &[usize], verdicts: &mut [Verdict<'_>], zone: &TimeZone) {
    if policy.is_empty() {
        for at in group {
            verdicts[*at].reasons.push("no rule given");
        }
        return;
    }
    let started =
        |verdicts: &[Verdict<'_>], at: usize| verdicts[at].snapshot.logged.summary.started;
    for at in group.iter().take(policy.last as usize) {
        verdicts[*at].reasons.push("last");
    }
    let calendar: [(u32, &'static str, Period); 5] = [
        (policy.hourly, "hourly", |t| {
            i64::from(t.hour()) + 24 * day(t)
        }),
        (policy.daily, "daily", day),
        (policy.weekly, "weekly", |t| {
            let week = t.date().iso_week_date();
            i64::from(week.year()) * 100 + i64::from(week.week())
        }),
        (policy.monthly, "monthly", |t| {
            i64::from(t.year()) * 100 + i64::from(t.month())
        }),
        (policy.yearly, "yearly", |t| i64::from(t.year())),
    ];
    for (count, reason, period) in calendar {
        let mut left = count;
        let mut last = None;
        for at in group {
            if left == 0 {
                break;
            }
            let this = period(local(started(verdicts, *at), zone));
            if last.replace(this) != Some(this) {
                verdicts[*at].reasons.push(reason);
                left -= 1;
            }
        }
    }
    if let Some(newest) = group.first().map(|at| started(verdicts, *at)) {
        for at in group {
            let age = newest.since(started(verdicts, *at));
            if policy.within_s > 0 && age < Duration::from_secs(policy.within_s) {
                verdicts[*at].reasons.push("within");
            }
        }
    }
    for at in group {
        let tags = &verdicts[*at].snapshot.logged.summary.tags;
        if tags.iter().any(|tag| policy.tags.contains(tag)) {
            verdicts[*at].reasons.push("tag");
        }
    }
}

/// Number of the hour, day, ... that a time lies in: equal for times of the same one.
type Period = fn(DateTime) -> i64;

fn day(time: DateTime) -> i64 {
    i64::from(time.year()) * 1000 + i64::from(time.date().day_of_year())
}

fn local(time: Timestamp, zone: &TimeZone) -> DateTime {
    let millis = i64::try_from(time.0).unwrap_or(i64::MAX);
    // What no calendar reaches was not made by a clock of ours: it counts as the last moment that one does reach.
    let instant = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX);
    zone.to_datetime(instant)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::log::Logged;
    use crate::backup::snapshot::Summary;
    use crate::block::Link;
    use crate::crypto::hash::sha384_id;
    use crate::crypto::key::Key;
    use proptest::prelude::*;

    const HOUR_MS: u64 = 3_600_000;
    const DAY_MS: u64 = 24 * HOUR_MS;
    /// 2026-01-01T12:00:00Z, a Thursday.
    const NOON: u64 = 1_767_268_800_000;

    fn made(at: u64, machine: u8, tag: &str) -> Listed {
        Listed {
            machine: [machine; 32],
            machine_name: "m".to_owned(),
            logged: Logged {
                snapshot: Link {
                    id: sha384_id(&[at.to_be_bytes().as_slice(), &[machine]].concat()),
                    key: Key::new([0; 32]),
                },
                summary: Summary {
                    started: Timestamp(at),
                    tags: vec![tag.to_owned()],
                    ..Summary::default()
                },
            },
        }
    }

    fn kept(policy: &Policy, snapshots: &[Listed]) -> Vec<usize> {
        let all: Vec<&Listed> = snapshots.iter().collect();
        judge(policy, &all, &TimeZone::UTC)
            .iter()
            .enumerate()
            .filter(|(_, verdict)| !verdict.reasons.is_empty())
            .map(|(at, _)| at)
            .collect()
    }

    #[test]
    fn each_rule_keeps_what_it_says() {
        // Two a day for ten days, the newest last.
        let days: Vec<Listed> = (0..20)
            .map(|half| {
                made(
                    NOON + half * DAY_MS / 2,
                    0,
                    if half == 3 { "keep" } else { "" },
                )
            })
            .collect();
        let policy = |set: fn(&mut Policy)| {
            let mut policy = Policy::default();
            set(&mut policy);
            policy
        };
        assert_eq!(kept(&policy(|p| p.last = 3), &days), [17, 18, 19]);
        // Halves fall on noon and midnight: the newest of each day is its noon, but for the last.
        assert_eq!(kept(&policy(|p| p.daily = 3), &days), [16, 18, 19]);
        assert_eq!(kept(&policy(|p| p.hourly = 2), &days), [18, 19]);
        assert_eq!(
            kept(&policy(|p| p.tags = vec!["keep".to_owned()]), &days),
            [3]
        );
        assert_eq!(kept(&policy(|p| p.within_s = 24 * 3600), &days), [18, 19]);
        // Weeks begin on Monday: 5 January.
        assert_eq!(kept(&policy(|p| p.weekly = 9), &days), [6, 19]);
        assert_eq!(kept(&policy(|p| p.monthly = 9), &days), [19]);
        assert_eq!(kept(&policy(|p| p.yearly = 9), &days), [19]);
        assert_eq!(kept(&Policy::default(), &days).len(), 20);
    }

    #[test]
    fn machines_are_judged_apart() {
        let both = [
            made(NOON, 1, ""),
            made(NOON + 1, 2, ""),
            made(NOON + 2, 2, ""),
        ];
        let policy = Policy {
            last: 1,
            ..Policy::default()
        };
        assert_eq!(kept(&policy, &both), [0, 2]);
    }

    proptest! {
        /// The newest snapshot of each group survives any policy with a counting rule, and nothing depends on the order given.
        #[test]
        fn the_newest_stays(times in proptest::collection::vec(0u64..4_000_000_000_000, 1..40), last in 0u32..3, daily in 0u32..3, yearly in 0u32..3) {
            prop_assume!(last + daily + yearly > 0);
            let policy = Policy { last, daily, yearly, ..Policy::default() };
            let snapshots: Vec<Listed> = times.iter().map(|at| made(*at, 0, "")).collect();
            let newest = (0..times.len()).max_by_key(|at| (times[*at], *at)).expect("not empty");
            prop_assert!(kept(&policy, &snapshots).contains(&newest));
        }

        #[test]
        fn any_time_gives_an_answer(at in any::<u64>()) {
            let policy = Policy { hourly: 1, weekly: 1, ..Policy::default() };
            prop_assert_eq!(kept(&policy, &[made(at, 0, "")]), [0]);
        }
    }
}
