use super::*;
use proptest::prelude::*;

const HOUR: Duration = Duration::from_secs(3600);
const NOW: Timestamp = Timestamp(1_000_000_000_000);

fn subject() -> Subject {
    ([1; 32], BlockId::from_sha384([2; 48]))
}

fn heard(hours: u32) -> Heard {
    Heard {
        at: Timestamp(NOW.0 - u64::from(hours) * 3_600_000),
        missed: hours * HOUR,
    }
}

/// A backup with three asked copies whose owner was heard so long ago, kept by this node (peer 0) and others.
fn facts(owner: u32, others: &[(u8, u32)], online: &[u8]) -> Facts {
    let kept = Kept {
        copies: 3,
        bytes: 10,
        owner: heard(owner),
        asker: Some(vec![99]),
        others: others
            .iter()
            .map(|(n, ago)| (vec![*n], heard(*ago)))
            .collect(),
        asked: BTreeMap::new(),
        refused: BTreeMap::new(),
        short_since: Some(Timestamp(0)),
    };
    Facts {
        local: vec![0],
        kept: [(subject(), kept)].into(),
        online: online.iter().map(|n| (vec![*n], 50)).collect(),
    }
}

fn passes(facts: &Facts) -> Vec<u8> {
    let passes = choose(NOW, facts, &Limits::default());
    passes.into_iter().map(|(_, peer)| peer[0]).collect()
}

#[test]
fn who_did_not_want_it_is_left_in_peace_for_a_while() {
    let mut facts = facts(25, &[(1, 25), (2, 1)], &[2, 3, 4]);
    let first = passes(&facts)[0];
    let kept = facts.kept.values_mut().next().expect("one is kept");
    kept.refused.insert(vec![first], NOW.after(HOUR));
    let second = passes(&facts)[0];
    assert_ne!(first, second);
    let kept = facts.kept.values_mut().next().expect("one is kept");
    kept.refused.insert(vec![second], NOW.after(HOUR));
    assert!(passes(&facts).is_empty());
    kept_again(&facts, first);
}

/// Its time is over.
fn kept_again(facts: &Facts, first: u8) {
    let passes = choose(NOW.after(HOUR), facts, &Limits::default());
    assert_eq!(passes[0].1, [first]);
}

#[test]
fn holders_act_only_when_the_owner_and_one_of_them_are_gone() {
    let online = [2, 3, 4, 99];
    assert!(
        passes(&facts(25, &[(1, 1), (2, 1)], &online)).is_empty(),
        "enough"
    );
    assert!(
        passes(&facts(24, &[(1, 25), (2, 1)], &online)).is_empty(),
        "the owner does it"
    );
    assert!(
        passes(&facts(25, &[(1, 24), (2, 1)], &online)).is_empty(),
        "not gone yet"
    );
    let asked = passes(&facts(25, &[(1, 25), (2, 1)], &online));
    assert!(asked == [3] || asked == [4], "{asked:?}");
    // A lease that names no number is its holder's alone.
    let mut alone = facts(25, &[(1, 25), (2, 1)], &online);
    alone.kept.values_mut().for_each(|kept| kept.copies = 0);
    assert!(passes(&alone).is_empty());
}

#[test]
fn one_holder_acts_first_and_the_next_after_a_while() {
    let two = |short: u32| {
        let mut acting = Vec::new();
        for (local, other) in [(0u8, 2u8), (2, 0)] {
            let mut facts = facts(25, &[(1, 25), (other, 1)], &[other, 3]);
            facts.local = vec![local];
            for kept in facts.kept.values_mut() {
                kept.short_since = Some(heard(short).at);
            }
            if !passes(&facts).is_empty() {
                acting.push(local);
            }
        }
        acting
    };
    assert_eq!(two(0).len(), 1);
    assert_eq!(two(1).len(), 1);
    assert_eq!(two(2), [0, 2]);
}

#[test]
fn who_was_asked_is_waited_for_then_another_one_is_asked() {
    let mut facts = facts(25, &[(1, 25), (2, 1)], &[3, 4]);
    let first = passes(&facts)[0];
    let other = if first == 3 { 4 } else { 3 };
    let asked = |facts: &mut Facts, at| {
        let kept = facts.kept.get_mut(&subject()).expect("it is kept");
        kept.asked.insert(vec![first], at);
    };
    asked(&mut facts, heard(6).at);
    assert_eq!(passes(&facts), [first]);
    asked(&mut facts, heard(7).at);
    assert_eq!(passes(&facts), [other]);
    facts.online.insert(vec![other], 9);
    assert_eq!(passes(&facts), [first], "the other one has no room");
}

proptest! {
    /// Equal facts give equal decisions; nobody is asked that keeps it, is away, or has no room.
    #[test]
    fn decisions_depend_on_nothing_else(
        owner in 0..60u32,
        others in proptest::collection::btree_map(1..9u8, 0..60u32, 0..6),
        online in proptest::collection::btree_map(1..12u8, 0..30u64, 0..9),
    ) {
        let others: Vec<_> = others.into_iter().collect();
        let mut facts = facts(owner, &others, &[]);
        facts.online = online.iter().map(|(n, free)| (vec![*n], *free)).collect();
        let chosen = choose(NOW, &facts, &Limits::default());
        prop_assert_eq!(&chosen, &choose(NOW, &facts.clone(), &Limits::default()));
        let living = others.iter().filter(|(_, ago)| *ago <= 24).count();
        for (_, peer) in &chosen {
            prop_assert!(owner > 24 && living < 2);
            prop_assert!(online.get(&peer[0]).is_some_and(|free| *free >= 10));
            prop_assert!(others.iter().all(|(n, _)| *n != peer[0]));
        }
    }
}
