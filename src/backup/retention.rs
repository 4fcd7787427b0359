//! Which snapshots to keep: pure policy.
//!
//! Rules add up: a snapshot is kept when any rule keeps it. `last` keeps the newest; each calendar
//! rule keeps the newest snapshot of each of the latest hours, days, weeks (ISO 8601), months or
//! years that have one; `within` keeps what is younger; `tags` keeps what carries one of them.
//!
//! Snapshots are judged in groups: a laptop's nightly run doesn't use up the days of a server's. A
//! set is known by its name, whatever paths it has had ([`Grouping`]).
//!
//! No rule at all keeps everything: an empty policy must never forget. No rule takes the last
//! snapshot of a group either: that is done by its id.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::catalog::Listed;
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

    /// Tags of the rules that none of these snapshots has: typing errors, as likely as not.
    pub fn unknown_tags(&self, snapshots: &[&Listed]) -> Vec<String> {
        let is_unknown = |tag: &&String| {
            let has = |listed: &&Listed| listed.logged.summary.tags.contains(tag);
            !snapshots.iter().any(has)
        };
        self.tags.iter().filter(is_unknown).cloned().collect()
    }

    /// Whether all that the rules would keep is snapshots with tags that none of these has.
    fn is_of_unknown_tags(&self, snapshots: &[&Listed]) -> bool {
        let tags_alone = Self {
            tags: self.tags.clone(),
            ..Self::default()
        };
        *self == tags_alone && self.unknown_tags(snapshots).len() == self.tags.len()
    }
}

/// Property that snapshots of one group have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The name of the set.
    Set,
    /// All paths.
    Paths,
    /// The machine.
    Machine,
    /// All tags.
    Tags,
}

/// Grouping of snapshots before a policy judges them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Grouping {
    /// By machine and set; what was backed up without a set also by its paths.
    #[default]
    Usual,
    /// By machine and set, whatever the paths: somebody chose the snapshots, by a tag.
    Chosen,
    /// By these; by none of them: all are one group.
    By(BTreeSet<Part>),
}

/// Equal for snapshots of one group.
type GroupKey = (
    Option<[u8; 32]>,
    Option<String>,
    Option<Vec<Bytes>>,
    Option<Vec<String>>,
);

impl Grouping {
    fn key(&self, listed: &Listed) -> GroupKey {
        let summary = &listed.logged.summary;
        let usual = |part: Part| match part {
            Part::Set | Part::Machine => true,
            Part::Paths => *self == Self::Usual && summary.set.is_empty(),
            Part::Tags => false,
        };
        let by = |part: Part| match self {
            Self::By(parts) => parts.contains(&part),
            Self::Usual | Self::Chosen => usual(part),
        };
        (
            by(Part::Machine).then_some(listed.machine),
            by(Part::Set).then(|| summary.set.clone()),
            by(Part::Paths).then(|| summary.paths.clone()),
            by(Part::Tags).then(|| summary.tags.clone()),
        )
    }
}

/// Why a snapshot stays that no rule keeps.
pub const LAST_OF_GROUP: &str = "last of its group";
/// Why all snapshots stay when the only rule names tags that none of them has.
pub const NO_SUCH_TAG: &str = "no snapshot has the tag";

/// A verdict on one snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// The snapshot.
    pub snapshot: &'a Listed,
    /// The rules that keep it; none: it goes.
    pub reasons: Vec<&'static str>,
}

/// Verdicts of the policy on the snapshots, in the order in which they are given, which is that of
/// the catalog: oldest first. `zone` says when a day begins.
pub fn judge<'a>(
    policy: &Policy,
    snapshots: &[&'a Listed],
    grouping: &Grouping,
    now: Timestamp,
    zone: &TimeZone,
) -> Vec<Verdict<'a>> {
    let mut groups: BTreeMap<GroupKey, Vec<usize>> = BTreeMap::new();
    for (at, listed) in snapshots.iter().enumerate() {
        groups.entry(grouping.key(listed)).or_default().push(at);
    }
    let mut verdicts: Vec<Verdict<'a>> = snapshots
        .iter()
        .map(|snapshot| Verdict {
            snapshot,
            reasons: Vec::new(),
        })
        .collect();
    let why_all = match policy.is_empty() {
        true => Some("no rule given"),
        false => policy.is_of_unknown_tags(snapshots).then_some(NO_SUCH_TAG),
    };
    if let Some(why) = why_all {
        verdicts
            .iter_mut()
            .for_each(|verdict| verdict.reasons.push(why));
        return verdicts;
    }
    for mut group in groups.into_values() {
        group.reverse();
        judge_group(policy, &group, &mut verdicts, now, zone);
        // A typing error in a rule must not forget all that there is.
        if group.iter().all(|at| verdicts[*at].reasons.is_empty())
            && let Some(newest) = group.first()
        {
            verdicts[*newest].reasons.push(LAST_OF_GROUP);
        }
    }
    verdicts
}

/// `group`: places in `verdicts`, newest first.
fn judge_group(
    policy: &Policy,
    group: &[usize],
    verdicts: &mut [Verdict<'_>],
    now: Timestamp,
    zone: &TimeZone,
) {
    let made = |verdicts: &[Verdict<'_>], at: usize| verdicts[at].snapshot.made;
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
            let this = period(made(verdicts, *at).in_zone(zone).datetime());
            if last.replace(this) != Some(this) {
                verdicts[*at].reasons.push(reason);
                left -= 1;
            }
        }
    }
    // Counted from a snapshot of a clock that is ahead, every other one would be too old.
    if let Some(newest) = group.first().map(|at| made(verdicts, *at).min(now)) {
        for at in group {
            let age = newest.since(made(verdicts, *at));
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
            made: Timestamp(at),
            logged: Logged {
                sequence: 0,
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

    const LATE: Timestamp = Timestamp(u64::MAX);

    fn kept(policy: &Policy, snapshots: &[Listed]) -> Vec<usize> {
        kept_by(policy, snapshots, &Grouping::Usual)
    }

    fn kept_by(policy: &Policy, snapshots: &[Listed], grouping: &Grouping) -> Vec<usize> {
        let all: Vec<&Listed> = snapshots.iter().collect();
        judge(policy, &all, grouping, LATE, &TimeZone::UTC)
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

    fn of_set(at: u64, set: &str, path: &str) -> Listed {
        let mut listed = made(at, 0, "");
        listed.logged.summary.set = set.to_owned();
        listed.logged.summary.paths = vec![path.to_owned().into()];
        listed
    }

    #[test]
    fn a_set_is_known_by_its_name_and_other_paths_by_themselves() {
        let last = Policy {
            last: 1,
            ..Policy::default()
        };
        let edited = [of_set(1, "docs", "/a"), of_set(2, "docs", "/b")];
        assert_eq!(kept(&last, &edited), [1]);
        let by_hand = [
            of_set(1, "", "/a"),
            of_set(2, "", "/b"),
            of_set(3, "", "/a"),
        ];
        assert_eq!(kept(&last, &by_hand), [1, 2]);
        assert_eq!(kept_by(&last, &by_hand, &Grouping::Chosen), [2]);
        let both = [of_set(1, "docs", "/a"), of_set(2, "photos", "/a")];
        assert_eq!(kept(&last, &both), [0, 1]);
        let by = |parts: &[Part]| Grouping::By(parts.iter().copied().collect());
        assert_eq!(kept_by(&last, &both, &by(&[Part::Paths])), [1]);
        assert_eq!(kept_by(&last, &both, &by(&[])), [1]);
        assert_eq!(
            kept_by(&last, &edited, &by(&[Part::Set, Part::Paths])),
            [0, 1]
        );
        let tagged = [made(1, 0, "a"), made(2, 0, "b"), made(3, 1, "b")];
        assert_eq!(kept_by(&last, &tagged, &by(&[Part::Tags])), [0, 2]);
        assert_eq!(kept_by(&last, &tagged, &by(&[Part::Machine])), [1, 2]);
    }

    #[test]
    fn a_typing_error_in_a_rule_forgets_not_everything() {
        let tag = |tag: &str| Policy {
            tags: vec![tag.to_owned()],
            ..Policy::default()
        };
        let snapshots = [
            made(1, 0, "keep"),
            made(2, 0, ""),
            made(3, 1, ""),
            made(4, 1, ""),
        ];
        let all: Vec<&Listed> = snapshots.iter().collect();
        assert_eq!(kept(&tag("keeep"), &snapshots), [0, 1, 2, 3]);
        assert_eq!(tag("keeep").unknown_tags(&all), ["keeep"]);
        // One group has the tag, the other keeps its newest.
        assert_eq!(kept(&tag("keep"), &snapshots), [0, 3]);
        assert!(tag("keep").unknown_tags(&all).is_empty());
        let verdicts = judge(&tag("keep"), &all, &Grouping::Usual, LATE, &TimeZone::UTC);
        assert_eq!(verdicts[3].reasons, [LAST_OF_GROUP]);
        let with_another = Policy {
            last: 1,
            ..tag("keeep")
        };
        assert_eq!(kept(&with_another, &snapshots), [1, 3]);
    }

    /// The order given is that of the logs; a clock that was ahead makes nothing the newest.
    #[test]
    fn the_newest_is_what_the_log_says() {
        let ahead = made(NOON + 4000 * DAY_MS, 0, "");
        let snapshots = [made(NOON, 0, ""), ahead, made(NOON + DAY_MS, 0, "")];
        let last = Policy {
            last: 1,
            ..Policy::default()
        };
        assert_eq!(kept(&last, &snapshots), [2]);
        // Only just made under a clock that is wrong, it does not make the others old.
        let all: Vec<&Listed> = snapshots[..2].iter().collect();
        let within = Policy {
            within_s: 7 * 24 * 3600,
            ..Policy::default()
        };
        let now = Timestamp(NOON + DAY_MS);
        let verdicts = judge(&within, &all, &Grouping::Usual, now, &TimeZone::UTC);
        assert!(verdicts.iter().all(|verdict| verdict.reasons == ["within"]));
    }

    proptest! {
        /// The newest snapshot of each group survives any policy that has a counting rule, and some
        /// snapshot of each group survives any policy at all.
        #[test]
        fn the_newest_stays(
            times in proptest::collection::vec(0u64..4_000_000_000_000, 1..40),
            last in 0u32..3, daily in 0u32..3, yearly in 0u32..3, within_s in 0u64..3, tag in "[ab]?",
        ) {
            let tags = Some(tag).filter(|tag| !tag.is_empty()).into_iter().collect();
            let policy = Policy { last, daily, yearly, within_s, tags, ..Policy::default() };
            let mut times = times;
            times.sort_unstable();
            let snapshots: Vec<Listed> = times.iter().map(|at| made(*at, 0, "a")).collect();
            let kept = kept(&policy, &snapshots);
            prop_assert!(!kept.is_empty());
            if last + daily + yearly > 0 {
                prop_assert!(kept.contains(&(times.len() - 1)));
            }
        }

        #[test]
        fn any_time_gives_an_answer(at in any::<u64>()) {
            let policy = Policy { hourly: 1, weekly: 1, ..Policy::default() };
            prop_assert_eq!(kept(&policy, &[made(at, 0, "")]), [0]);
        }
    }
}
