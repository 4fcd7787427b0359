use proptest::prelude::*;

use super::*;
use crate::backup::order;
use crate::backup::snapshot::tests::{link, summary};

const DAY_MS: u64 = 24 * 3600 * 1000;
const MACHINES: u8 = 3;

/// One thing that a machine writes into its log.
#[derive(Clone, Debug)]
enum Word {
    Name(u8),
    Forget(u8),
    Keep(u8),
    /// An order of the owner's, or of somebody else's.
    Carry {
        is_ours: bool,
        forgets: bool,
        snapshot: u8,
        made: u64,
    },
}

fn word() -> impl Strategy<Value = Word> {
    let snapshot = 1u8..6;
    prop_oneof![
        3 => snapshot.clone().prop_map(Word::Name),
        4 => snapshot.clone().prop_map(Word::Forget),
        1 => snapshot.clone().prop_map(Word::Keep),
        1 => (any::<bool>(), any::<bool>(), snapshot, 0u64..4)
            .prop_map(|(is_ours, forgets, snapshot, made)| Word::Carry { is_ours, forgets, snapshot, made }),
    ]
}

fn logged(number: u8) -> Logged {
    Logged {
        snapshot: link(number),
        summary: summary(u64::from(number)),
        sequence: u64::from(number),
    }
}

fn logs(words: &[(u8, Word)]) -> Vec<Log> {
    let mut logs: Vec<Log> = (0..MACHINES)
        .map(|machine| Log::new([machine; 32], format!("machine {machine}")))
        .collect();
    for (machine, word) in words {
        let log = &mut logs[usize::from(*machine)];
        match word {
            Word::Name(n) if !log.forgets(&link(*n).id) => log.add(logged(*n)),
            Word::Name(_) => Ok(()),
            Word::Forget(n) => log.forget(link(*n).id),
            Word::Keep(n) => log.keep(link(*n).id),
            Word::Carry {
                is_ours: true,
                forgets,
                snapshot,
                made,
            } => log.carry(order::tests::order(*forgets, &[*snapshot], *made)),
            Word::Carry {
                forgets,
                snapshot,
                made,
                ..
            } => {
                let other = crate::backup::owner::Phrase::from_entropy([9; 16]);
                let keys = crate::backup::owner::OwnerKeys::derive(&other);
                let ids = vec![link(*snapshot).id];
                log.carry(Order::sign(&keys, *forgets, ids, Timestamp(*made)).expect("one"))
            }
        }
        .expect("room");
    }
    logs
}

fn weigh(logs: &[Log], revoked: &BTreeSet<MachineKey>, seen: &Seen, is_whole: bool) -> Fates {
    Fates::weigh(&Facts {
        owner: &order::tests::keys().id(),
        logs,
        is_whole,
        revoked,
        seen,
    })
}

proptest! {
    /// Logs of other machines may say anything, be read in any order, and at any time by the clock:
    /// a snapshot that a machine names and does not forget stays, unless the owner's words let it
    /// go, or a request of a machine that counts is as old as it must be, and nothing keeps the
    /// snapshot.
    #[test]
    fn nothing_honest_is_lost_and_no_revoked_key_counts(
        words in proptest::collection::vec((0..MACHINES, word()), 0..24),
        looks in proptest::collection::vec((any::<u16>(), any::<bool>()), 0..12),
        revoked in proptest::collection::btree_set(1..MACHINES, 0..2),
        is_whole: bool,
        turn in 0usize..3,
    ) {
        let mut logs = logs(&words);
        let revoked: BTreeSet<MachineKey> = revoked.into_iter().map(|n| [n; 32]).collect();
        let mut seen = Seen::default();
        for (day, is_whole) in looks {
            let now = Timestamp(u64::from(day) * DAY_MS);
            seen.look(&requests(&logs, &revoked), is_whole, now);
        }
        let fates = weigh(&logs, &revoked, &seen, is_whole);
        let honest = logs[0].clone();
        for logged in honest.snapshots() {
            let id = logged.snapshot.id;
            if !fates.is_gone(&honest.machine, &id) {
                continue;
            }
            let latest = latest_order(&words, &id);
            let is_ordered = latest == Some(true);
            let counts = |log: &&Log| log.machine != honest.machine && !revoked.contains(&log.machine);
            let is_due = logs.iter().filter(counts).any(|log| {
                let days = seen.get(&(log.machine, id));
                log.forgets(&id) && days.is_some_and(|days| days.age() >= NOTICE_DAYS)
            });
            let others = logs.iter().filter(|log| !revoked.contains(&log.machine));
            let is_kept = others.clone().any(|log| log.kept().contains(&id));
            // All are of one set: the newest that its own machine still has stays.
            let left = honest.snapshots().iter();
            let is_newest = left.filter(|l| latest_order(&words, &l.snapshot.id) != Some(true))
                .max_by_key(|l| l.sequence).is_some_and(|l| l.snapshot.id == id);
            prop_assert!(is_ordered || (is_due && is_whole && latest.is_none() && !is_kept && !is_newest));
        }
        prop_assert!(fates.asked().iter().all(|asked| !revoked.contains(&asked.by)));
        // The order of reading says nothing.
        logs.rotate_left(turn);
        let again = weigh(&logs, &revoked, &seen, is_whole);
        prop_assert_eq!((&again.gone, &again.own), (&fates.gone, &fates.own));
    }
}

/// Whether the owner's latest order about a snapshot lets it go; none when there is none.
fn latest_order(words: &[(u8, Word)], id: &BlockId) -> Option<bool> {
    let orders = words.iter().filter_map(|(_, word)| match word {
        Word::Carry {
            is_ours: true,
            forgets,
            snapshot,
            made,
        } if link(*snapshot).id == *id => Some((*made, !*forgets)),
        _ => None,
    });
    orders.max().map(|(_, keeps)| !keeps)
}
