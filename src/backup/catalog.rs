//! All snapshots of an owner, in one order: which is the latest, and which are meant.
//!
//! Clocks are set wrong, and one run under a clock that is years ahead must not hide all later
//! ones. So each machine's log decides which of its snapshots is the newer; its clock only says
//! where they stand among those of other machines.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::choice::Choice;
use super::error::Error;
use super::fate::Fates;
use super::log::{Log, Logged};
use crate::id::BlockId;
use crate::time::Timestamp;

/// Fewest digits of an id that name a snapshot.
const MIN_DIGITS: usize = 4;
/// Largest difference between two clocks before one of them counts as wrong.
pub const MAX_SKEW: Duration = Duration::from_secs(3600);

/// A snapshot and the machine that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The machine's public key.
    pub machine: [u8; 32],
    /// The machine's name.
    pub machine_name: String,
    /// The snapshot.
    pub logged: Logged,
    /// When it was made: what the machine's clock said; where its log shows that the clock was
    /// wrong, the time of the snapshot before it.
    pub made: Timestamp,
}

impl Listed {
    /// Whether the machine's clock was wrong when it made this: its log says so, or the time is yet
    /// to come.
    pub fn is_misdated(&self, now: Timestamp) -> bool {
        let started = self.logged.summary.started;
        let (early, late) = (started.min(self.made), started.max(self.made));
        late.since(early) > MAX_SKEW || started > now.after(MAX_SKEW)
    }
}

/// All snapshots of an owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    snapshots: Vec<Listed>,
}

impl Catalog {
    /// Snapshots of all logs together, without those that are forgotten.
    ///
    /// The snapshots of one machine are in the order in which its log came to name them. Between
    /// machines their clocks decide, but for times that are ahead of `now`.
    pub fn of<'a>(logs: impl IntoIterator<Item = &'a Log>, fates: &Fates, now: Timestamp) -> Self {
        let mut found: BTreeMap<BlockId, Listed> = BTreeMap::new();
        for log in logs {
            // What its machine forgets is there where the owner's words keep it.
            for logged in log.snapshots().iter().chain(log.forgotten_snapshots()) {
                let id = logged.snapshot.id;
                if !fates.is_gone(&log.machine, &id) {
                    found.entry(id).or_insert_with(|| Listed {
                        machine: log.machine,
                        machine_name: log.machine_name.clone(),
                        made: logged.summary.started,
                        logged: logged.clone(),
                    });
                }
            }
        }
        let mut machines: BTreeMap<[u8; 32], Vec<Listed>> = BTreeMap::new();
        let mut latest_credible = now.after(MAX_SKEW);
        if found.values().all(|listed| listed.made > latest_credible) {
            // It is the clock of this machine that is wrong.
            latest_credible = Timestamp(u64::MAX);
        }
        for listed in found.into_values() {
            machines.entry(listed.machine).or_default().push(listed);
        }
        let mut placed = Vec::new();
        for mut of_machine in machines.into_values() {
            // Snapshots without a number are older than all that have one; a log has at least the
            // number 1.
            of_machine.sort_by_key(|listed| {
                let logged = &listed.logged;
                (
                    logged.sequence.max(1),
                    logged.summary.started,
                    logged.snapshot.id,
                )
            });
            placed.extend(place(of_machine, latest_credible));
        }
        // A stable sort: within a machine the places never go down.
        placed.sort_by_key(|(at, _)| *at);
        Self {
            snapshots: placed.into_iter().map(|(_, listed)| listed).collect(),
        }
    }

    /// This without some snapshots.
    #[must_use]
    pub fn without(mut self, ids: &BTreeSet<BlockId>) -> Self {
        let snapshots = &mut self.snapshots;
        snapshots.retain(|listed| !ids.contains(&listed.logged.snapshot.id));
        self
    }

    /// The snapshots, oldest first.
    pub fn snapshots(&self) -> &[Listed] {
        &self.snapshots
    }

    /// The snapshot that `text` means: `latest`, the first digits (at least four) of its id in hex,
    /// or its whole id.
    ///
    /// # Errors
    /// [`Error::NoSnapshots`], [`Error::NoSuchSnapshot`], [`Error::Ambiguous`].
    pub fn find(&self, text: &str) -> Result<&Listed, Error> {
        find_among(text, self.snapshots.iter())
    }

    /// As [`find`](Self::find), of the snapshots that are chosen: `latest` is the latest of those.
    ///
    /// # Errors
    /// As [`find`](Self::find) and [`choose`](Self::choose).
    pub fn find_chosen(&self, text: &str, choice: &Choice) -> Result<&Listed, Error> {
        find_among(text, self.choose(choice)?.into_iter())
    }

    /// The snapshots that are chosen, oldest first.
    ///
    /// # Errors
    /// [`Error::Name`] for a set, a machine or a tag that no snapshot has, [`Error::NoneChosen`]
    /// when there is no snapshot with all of that.
    pub fn choose(&self, choice: &Choice) -> Result<Vec<&Listed>, Error> {
        let known = choice.resolve(&self.snapshots)?;
        let chosen = self
            .snapshots
            .iter()
            .filter(|listed| known.concerns(listed));
        let chosen: Vec<&Listed> = chosen.collect();
        match chosen.is_empty() && !choice.is_empty() {
            true => Err(Error::NoneChosen(known.to_string())),
            false => Ok(chosen),
        }
    }
}

/// Gives each snapshot of one machine its time, and its place among those of all machines.
///
/// The clock is believed where it goes on from snapshot to snapshot, in the longest row of them
/// that there is. Any other snapshot, and one of a time that is yet to come, is as old as the one
/// before it.
fn place(mut snapshots: Vec<Listed>, latest_credible: Timestamp) -> Vec<(Timestamp, Listed)> {
    let started: Vec<Timestamp> = snapshots.iter().map(|listed| listed.made).collect();
    let credible: Vec<usize> = (0..started.len())
        .filter(|at| started[*at] <= latest_credible)
        .collect();
    let times: Vec<Timestamp> = credible.iter().map(|at| started[*at]).collect();
    let believed: Vec<usize> = longest_row(&times)
        .into_iter()
        .map(|at| credible[at])
        .collect();
    let Some(first) = believed.first() else {
        // Nothing tells when they were made: others that are known to be late are later.
        return snapshots
            .into_iter()
            .map(|listed| (Timestamp(0), listed))
            .collect();
    };
    let mut last = started[*first];
    for (at, listed) in snapshots.iter_mut().enumerate() {
        if believed.binary_search(&at).is_ok() {
            last = started[at];
        }
        listed.made = last;
    }
    snapshots
        .into_iter()
        .map(|listed| (listed.made, listed))
        .collect()
}

/// The places of the longest row of times that never go back; of several the one that ends
/// earliest.
fn longest_row(times: &[Timestamp]) -> Vec<usize> {
    // The last place of the best row of each length, and what is before each place in its row.
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(times.len());
    for (at, time) in times.iter().enumerate() {
        let length = ends.partition_point(|end| times[*end] <= *time);
        before.push(length.checked_sub(1).map(|shorter| ends[shorter]));
        match ends.get_mut(length) {
            Some(end) => *end = at,
            None => ends.push(at),
        }
    }
    let mut row = Vec::with_capacity(ends.len());
    let mut next = ends.last().copied();
    while let Some(at) = next {
        row.push(at);
        next = before[at];
    }
    row.reverse();
    row
}

pub(super) fn find_among<'a>(
    text: &str,
    mut snapshots: impl DoubleEndedIterator<Item = &'a Listed>,
) -> Result<&'a Listed, Error> {
    if text == "latest" {
        return snapshots.next_back().ok_or(Error::NoSnapshots);
    }
    let wanted = text.to_ascii_lowercase();
    let mut fitting = snapshots.filter(|listed| {
        let id = listed.logged.snapshot.id;
        (wanted.len() >= MIN_DIGITS && id.to_hex().starts_with(&wanted)) || id.to_string() == wanted
    });
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => Err(Error::Ambiguous {
            text: text.to_owned(),
        }),
        (None, _) => Err(Error::NoSuchSnapshot {
            text: text.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::Summary;
    use crate::backup::log::tests::{log, logged, numbers};
    use crate::backup::snapshot::tests::{link, summary};
    use crate::block::Link;
    use proptest::prelude::*;

    const DAY_MS: u64 = 24 * 3600 * 1000;
    const LATE: Timestamp = Timestamp(u64::MAX);

    /// A log whose snapshots were named in this order; each has its place as its set.
    fn history(machine: u8, started: &[u64]) -> Log {
        let mut log = Log::new([machine; 32], format!("machine {machine}"));
        for (at, started) in started.iter().enumerate() {
            let mut digest = [machine; 48];
            digest[40..].copy_from_slice(&(at as u64).to_be_bytes());
            let snapshot = Link {
                id: BlockId::from_sha384(digest),
                ..link(machine)
            };
            let summary = Summary {
                set: format!("{machine}.{at}"),
                ..summary(*started)
            };
            let sequence = at as u64 + 1;
            log.add(Logged {
                snapshot,
                summary,
                sequence,
            })
            .expect("room");
        }
        log
    }

    fn order(logs: &[&Log], now: u64) -> Vec<String> {
        let catalog = Catalog::of(logs.iter().copied(), &Fates::default(), Timestamp(now));
        let snapshots = catalog.snapshots().iter();
        snapshots
            .map(|listed| listed.logged.summary.set.clone())
            .collect()
    }

    #[test]
    fn a_clock_that_was_ahead_hides_no_later_snapshot() {
        let (now, ahead) = (1000 * DAY_MS, 9000 * DAY_MS);
        let wrong = history(1, &[990 * DAY_MS, ahead, 999 * DAY_MS]);
        assert_eq!(order(&[&wrong], now), ["1.0", "1.1", "1.2"]);
        let other = history(2, &[995 * DAY_MS]);
        assert_eq!(order(&[&wrong, &other], now), ["1.0", "1.1", "2.0", "1.2"]);
        let catalog = Catalog::of([&wrong], &Fates::default(), Timestamp(now));
        let made: Vec<u64> = catalog
            .snapshots()
            .iter()
            .map(|l| l.made.0 / DAY_MS)
            .collect();
        assert_eq!(made, [990, 990, 999]);
        let misdated = catalog
            .snapshots()
            .iter()
            .map(|l| l.is_misdated(Timestamp(now)));
        assert_eq!(misdated.collect::<Vec<_>>(), [false, true, false]);
        // It is the newest of its machine, and still not newer than what others made since.
        let last = history(1, &[990 * DAY_MS, ahead]);
        assert_eq!(order(&[&last, &other], now), ["1.0", "1.1", "2.0"]);
        let alone = history(1, &[ahead]);
        assert_eq!(order(&[&alone, &other], now), ["1.0", "2.0"]);
    }

    #[test]
    fn a_clock_that_was_behind_is_not_believed_either() {
        let (now, empty_battery) = (1000 * DAY_MS, DAY_MS);
        let wrong = history(1, &[998 * DAY_MS, 999 * DAY_MS, empty_battery]);
        let other = history(2, &[997 * DAY_MS]);
        assert_eq!(order(&[&wrong, &other], now), ["2.0", "1.0", "1.1", "1.2"]);
        // The clock that reads them is the one that is wrong: it decides nothing.
        assert_eq!(order(&[&wrong, &other], 0), order(&[&wrong, &other], now));
    }

    #[test]
    fn what_has_no_number_is_older() {
        let mut log = log(1, &[7, 9]);
        let before = log.clone();
        log.add(logged(3)).expect("room");
        log.number(&before, 4);
        assert_eq!(numbers(&[&log]), [7, 9, 3]);
    }

    #[test]
    fn what_its_own_machine_forgets_is_gone() {
        let mut first = log(1, &[1, 3]);
        let mut second = log(2, &[2, 4]);
        first.forget(link(3).id).expect("room");
        first.forget(link(4).id).expect("room");
        second.forget(link(2).id).expect("room");
        let logs = [first, second];
        let fates = Fates::of_logs(&logs);
        let catalog = Catalog::of(&logs, &fates, LATE);
        assert_eq!(numbers(&[&logs[0], &logs[1]]), [1, 4]);
        assert_eq!(catalog.find("latest").expect("one").logged, logged(4));
        assert_eq!(catalog.find("0101").expect("one").logged, logged(1));
        assert!(matches!(
            catalog.find("010"),
            Err(Error::NoSuchSnapshot { .. })
        ));
        assert!(matches!(
            catalog.find("0202"),
            Err(Error::NoSuchSnapshot { .. })
        ));
        assert!(matches!(
            Catalog::default().find("latest"),
            Err(Error::NoSnapshots)
        ));
        let whole = link(4).id.to_string();
        assert_eq!(
            catalog.find(&whole).expect("by its whole id").logged,
            logged(4)
        );
    }

    #[test]
    fn a_beginning_that_several_share_is_refused() {
        let mut log = log(1, &[]);
        for last in 0..2u8 {
            let mut digest = [5; 48];
            digest[47] = last;
            let snapshot = Link {
                id: BlockId::from_sha384(digest),
                ..link(5)
            };
            let summary = summary(u64::from(last));
            let sequence = 0;
            log.add(Logged {
                snapshot,
                summary,
                sequence,
            })
            .expect("room");
        }
        let catalog = Catalog::of([&log], &Fates::default(), LATE);
        assert!(matches!(catalog.find("0505"), Err(Error::Ambiguous { .. })));
    }

    proptest! {
        /// Whatever the clocks said, each machine's snapshots are in the order of its log, and a
        /// clock that only went on is believed.
        #[test]
        fn the_order_of_a_log_stays(times in proptest::collection::vec(0u64..50, 1..12), others in proptest::collection::vec(0u64..50, 0..6), now in 0u64..60) {
            let days = |times: &[u64]| times.iter().map(|day| day * DAY_MS).collect::<Vec<_>>();
            let (first, second) = (history(1, &days(&times)), history(2, &days(&others)));
            let order = order(&[&first, &second], now * DAY_MS);
            prop_assert_eq!(order.len(), times.len() + others.len());
            let own: Vec<&String> = order.iter().filter(|set| set.starts_with("1.")).collect();
            let expected: Vec<String> = (0..times.len()).map(|at| format!("1.{at}")).collect();
            prop_assert_eq!(own, expected.iter().collect::<Vec<_>>());
            let mut sorted = times.clone();
            sorted.sort_unstable();
            let steady = history(3, &days(&sorted));
            let catalog = Catalog::of([&steady], &Fates::default(), Timestamp(50 * DAY_MS));
            prop_assert!(catalog.snapshots().iter().all(|l| l.made == l.logged.summary.started));
        }
    }
}
