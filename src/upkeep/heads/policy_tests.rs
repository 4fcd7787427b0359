use super::*;
use proptest::prelude::*;

const DAY: Duration = Duration::from_secs(24 * 3600);
const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn head(n: u16) -> BlockId {
    let mut digest = [0; 48];
    digest[..2].copy_from_slice(&n.to_be_bytes());
    BlockId::from_sha384(digest)
}

fn whole(until: Timestamp) -> Owed {
    Owed {
        until,
        is_whole: true,
    }
}

fn leased(until: Timestamp) -> Leased {
    Leased {
        until,
        made: NOW,
        over_for: None,
    }
}

#[test]
fn a_head_is_kept_from_the_first_whole_lease_until_a_grace_after_the_last() {
    let (one, end) = (head(1), NOW.after(90 * DAY));
    let mut facts = Facts::default();
    assert!(choose(NOW, &facts).is_empty());
    let open = Owed {
        until: end,
        is_whole: false,
    };
    facts.owed.insert(one, open);
    assert!(choose(NOW, &facts).is_empty(), "nothing of it is here yet");
    facts.owed.insert(one, whole(end));
    let until = end.after(GRACE);
    assert_eq!(choose(NOW, &facts), [Action::Keep(one, until)]);
    facts.leased.insert(one, leased(until));
    facts.kept.insert(one);
    assert!(choose(NOW, &facts).is_empty());
    // Renewed, or passed on for longer; less than a day is not worth writing.
    for (more, expected) in [(DAY, false), (2 * DAY, true)] {
        facts.owed.insert(one, whole(end.after(more)));
        let change = Action::Change(one, end.after(more).after(GRACE));
        assert_eq!(choose(NOW, &facts).contains(&change), expected);
    }
    // The last lease is over, or was ended before its time.
    facts.owed.clear();
    let change = Action::Change(one, NOW.after(GRACE));
    assert_eq!(choose(NOW, &facts), [change]);
    facts.leased.insert(one, leased(NOW.after(GRACE)));
    assert!(choose(NOW.after(GRACE / 2), &facts).is_empty());
    // A clock that is behind shortens nothing; one that is ahead ends nothing until it has been so for a while.
    assert!(choose(Timestamp(1), &facts).is_empty());
    let late = NOW.after(GRACE).after(DAY);
    for (over_for, expected) in [
        (OVER_FOR - Duration::from_secs(1), vec![]),
        (OVER_FOR, vec![Action::LetGo(one)]),
    ] {
        let over_for = Some(over_for);
        let known = leased(NOW.after(GRACE));
        facts.leased.insert(one, Leased { over_for, ..known });
        assert_eq!(choose(late, &facts), expected);
        // A new lease in the last moment.
        let mut again = facts.clone();
        again.owed.insert(one, whole(late.after(90 * DAY)));
        let until = late.after(90 * DAY).after(GRACE);
        assert_eq!(choose(late, &again), [Action::Change(one, until)]);
    }
}

#[test]
fn what_is_kept_for_another_reason_stays() {
    let (one, end) = (head(1), NOW.after(90 * DAY));
    let over = Leased {
        over_for: Some(OVER_FOR),
        ..leased(NOW)
    };
    let base = Facts {
        kept: [one].into(),
        leased: [(one, over)].into(),
        were_kept: [one].into(),
        were_leased: [one].into(),
        ..Facts::default()
    };
    assert_eq!(choose(NOW, &base), [Action::LetGo(one)]);
    let pinned = Facts {
        pinned: [one].into(),
        ..base.clone()
    };
    let own = Facts {
        own: Some(one),
        ..base.clone()
    };
    for mut facts in [pinned, own] {
        assert!(choose(NOW, &facts).is_empty());
        facts.leased.clear();
        assert!(choose(NOW, &facts).is_empty());
        facts.owed.insert(one, whole(end));
        assert!(choose(NOW, &facts).is_empty(), "there is reason enough");
    }
    // Kept, and nobody has said why: that is what is asked for by hand.
    let by_hand = Facts {
        kept: [one].into(),
        owed: [(one, whole(end))].into(),
        ..Facts::default()
    };
    assert!(choose(NOW, &by_hand).is_empty());
}

#[test]
fn what_is_let_go_by_hand_stays_away_unless_it_is_owed() {
    let (one, end) = (head(1), NOW.after(90 * DAY));
    let mut facts = Facts {
        leased: [(one, leased(end))].into(),
        were_kept: [one].into(),
        were_leased: [one].into(),
        ..Facts::default()
    };
    assert_eq!(choose(NOW, &facts), [Action::LetGo(one)]);
    facts.owed.insert(one, whole(end));
    let until = end.after(GRACE);
    assert_eq!(choose(NOW, &facts), [Action::Change(one, until)]);
    // Its lease was ended by others: the node leaves.
    facts.leased.clear();
    facts.kept.insert(one);
    assert_eq!(choose(NOW, &facts), [Action::Keep(one, until)]);
    facts.owed.clear();
    assert_eq!(choose(NOW, &facts), [Action::LetGo(one)]);
}

#[test]
fn leases_of_strangers_leave_places_for_other_heads() {
    let many = 0..2 * MAX_LEASED as u16;
    let end = NOW.after(90 * DAY);
    let mut facts = Facts {
        owed: many.map(|n| (head(n), whole(end))).collect(),
        ..Facts::default()
    };
    assert_eq!(choose(NOW, &facts).len(), MAX_LEASED);
    let most = 1..=MAX_LEASED as u16;
    let until = end.after(GRACE);
    facts.leased = most.map(|n| (head(n), leased(until))).collect();
    assert!(choose(NOW, &facts).is_empty());
    facts.leased.pop_last();
    assert_eq!(choose(NOW, &facts), [Action::Keep(head(0), until)]);
}

proptest! {
    /// Whatever else is known: while an owner has leases here its head is never let go, nor kept for less than they last.
    #[test]
    fn what_is_owed_is_kept(
        now in 0..u64::MAX / 2,
        until in 0..u64::MAX / 2,
        written in 0..u64::MAX / 2,
        made in 0..u64::MAX / 2,
        over in proptest::option::of(0u64..1_000_000),
        sets in any::<[bool; 5]>(),
    ) {
        let one = head(1);
        let set = |is_in: bool| -> BTreeSet<BlockId> { is_in.then_some(one).into_iter().collect() };
        let known = Leased {
            until: Timestamp(written),
            made: Timestamp(made),
            over_for: over.map(Duration::from_secs),
        };
        let facts = Facts {
            kept: set(sets[0]),
            pinned: set(sets[1]),
            leased: sets[2].then_some((one, known)).into_iter().collect(),
            owed: [(one, whole(Timestamp(until)))].into(),
            own: None,
            were_kept: set(sets[3]),
            were_leased: set(sets[4]),
        };
        let mut kept_until = sets[2].then_some(written);
        for action in choose(Timestamp(now), &facts) {
            match action {
                Action::Keep(_, until) | Action::Change(_, until) => kept_until = Some(until.0),
                Action::LetGo(_) => prop_assert!(false, "it is owed"),
            }
        }
        let is_kept_otherwise = sets[1] || (sets[0] && !sets[4]);
        if !is_kept_otherwise || (sets[2] && !sets[1]) {
            prop_assert!(kept_until.is_some_and(|at| at >= until), "{kept_until:?} {until}");
        }
    }
}
