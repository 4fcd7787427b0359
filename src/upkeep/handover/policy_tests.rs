use super::*;
use proptest::prelude::*;

fn peer(number: u8) -> PeerId {
    let key = libp2p::identity::Keypair::ed25519_from_bytes([number + 1; 32]).expect("a key");
    key.public().to_peer_id()
}

fn id(number: u8) -> BlockId {
    BlockId::from_sha384([number; 48])
}

fn table(count: u8) -> Table {
    let entries = (0..count).map(|n| (id(n), Entry::new(9, Stage::Unsought)));
    entries.collect()
}

#[test]
fn a_block_that_nobody_else_has_goes_to_the_nearest() {
    let limits = Limits::default();
    let (now, online) = (Timestamp(1000), [peer(1), peer(2), peer(3)]);
    let mut table = table(1);
    assert_eq!(choose(now, &table, &online, &limits), [Action::Seek(id(0))]);
    apply(
        now,
        &mut table,
        Outcome::Sought(id(0), Vec::new()),
        &limits,
        None,
    );
    let target = KBucketKey::new(id(0).to_multihash().to_vec());
    let mut sorted = online;
    sorted.sort_by_key(|peer| KBucketKey::from(*peer).distance(&target));
    for receiver in &sorted[..2] {
        settle(now, &mut table, &online, &limits);
        let offer = Action::Offer(*receiver, vec![(id(0), 9)]);
        assert_eq!(choose(now, &table, &online, &limits), [offer]);
        let said = vec![(id(0), Said::No)];
        apply(
            now,
            &mut table,
            Outcome::Offered(*receiver, said),
            &limits,
            None,
        );
    }
    let said = |said| Outcome::Offered(sorted[2], vec![(id(0), said)]);
    apply(now, &mut table, said(Said::Later), &limits, None);
    assert!(choose(now, &table, &online, &limits).is_empty());
    let later = now.after(limits.poll);
    assert_eq!(choose(later, &table, &online, &limits).len(), 1);
    apply(later, &mut table, said(Said::Have), &limits, None);
    assert_eq!(table[&id(0)].stage, Stage::Safe { handed: true });
}

#[test]
fn who_takes_too_long_or_is_gone_has_failed() {
    let limits = Limits::default();
    let (now, online) = (Timestamp(1000), [peer(1)]);
    let wanted = Stage::Wanted {
        by: peer(1),
        since: now,
        ask_at: now,
    };
    for (at, online) in [(now.after(limits.patience), &online[..]), (now, &[])] {
        let mut table = Table::from([(id(0), Entry::new(9, wanted.clone()))]);
        settle(at, &mut table, online, &limits);
        assert_eq!(table[&id(0)].stage, Stage::Stuck(at));
        settle(at.after(limits.again), &mut table, online, &limits);
        assert_eq!(table[&id(0)].stage, Stage::Unsought);
    }
}

#[test]
fn a_peer_gets_more_as_blocks_come_and_is_asked_seldom_while_none_do() {
    let limits = Limits {
        window: 3,
        ..Limits::default()
    };
    let (mut now, online) = (Timestamp(1000), [peer(1)]);
    let entries = (0..5).map(|n| (id(n), Entry::new(9, Stage::Alone)));
    let mut table: Table = entries.collect();
    let blocks = |range: std::ops::Range<u8>| range.map(|n| (id(n), 9)).collect::<Vec<_>>();
    let offer = |range| vec![Action::Offer(peer(1), blocks(range))];
    let says = |range: std::ops::Range<u8>, said| {
        let said = range.map(|n| (id(n), said));
        Outcome::Offered(peer(1), said.collect())
    };
    assert_eq!(choose(now, &table, &online, &limits), offer(0..3));
    apply(now, &mut table, says(0..3, Said::Later), &limits, None);
    assert!(choose(now, &table, &online, &limits).is_empty());
    now = now.after(limits.poll);
    assert_eq!(choose(now, &table, &online, &limits), offer(0..3));
    // One has come: at the next time there is room for another one.
    apply(now, &mut table, says(0..1, Said::Have), &limits, None);
    apply(now, &mut table, says(1..3, Said::Later), &limits, None);
    now = now.after(limits.poll);
    assert_eq!(choose(now, &table, &online, &limits), offer(1..4));
    apply(now, &mut table, says(1..4, Said::Busy), &limits, None);
    assert!(choose(now.after(limits.poll), &table, &online, &limits).is_empty());
    // Nothing comes: it is asked less and less often, and in the end given up.
    let (began, mut asked) = (now, 0);
    while table
        .values()
        .any(|e| matches!(e.stage, Stage::Wanted { .. }))
    {
        now = now.after(limits.poll);
        settle(now, &mut table, &online, &limits);
        for action in choose(now, &table, &online, &limits) {
            let Action::Offer(_, blocks) = action else {
                continue;
            };
            asked += 1;
            let said = blocks.into_iter().map(|(id, _)| (id, Said::Later));
            let outcome = Outcome::Offered(peer(1), said.collect());
            apply(now, &mut table, outcome, &limits, None);
        }
        if asked > 1000 {
            panic!("it goes on for ever");
        }
    }
    let most = limits.patience.as_secs() / limits.rest.as_secs() * 3;
    assert!(asked <= most, "{asked} times");
    assert!(now.since(began) >= limits.patience);
}

#[test]
fn announcements_that_are_not_true_don_t_count() {
    let (limits, now) = (Limits::default(), Timestamp(1));
    let mut table = table(1);
    let by = vec![peer(1), peer(2)];
    apply(
        now,
        &mut table,
        Outcome::Sought(id(0), by.clone()),
        &limits,
        None,
    );
    for peer in by {
        assert_eq!(
            choose(now, &table, &[], &limits),
            [Action::Ask(peer, vec![id(0)])]
        );
        let said = vec![(id(0), Said::No)];
        apply(now, &mut table, Outcome::Asked(peer, said), &limits, None);
    }
    assert_eq!(table[&id(0)].stage, Stage::Alone);
}

proptest! {
    /// Whatever peers say, come and go: nobody is asked again for what it failed at, no message is too long, only who said so makes a block
    /// safe, and in the end nothing is open.
    #[test]
    fn it_ends_and_only_what_was_had_is_safe(
        count in 1u8..90,
        answers in proptest::collection::vec((0u8..3, any::<bool>()), 1..40),
        peers in 0u8..6,
    ) {
        let limits = Limits {
            receivers: 4,
            window: 5,
            patience: Duration::from_secs(1),
            ..Limits::default()
        };
        let everybody: Vec<_> = (0..peers).map(peer).collect();
        let mut table = table(count);
        let mut had = BTreeSet::new();
        let mut now = Timestamp(0);
        let mut answers = answers.into_iter().cycle();
        let mut rounds = 0;
        while table.values().any(|entry| entry.stage.is_open()) {
            rounds += 1;
            prop_assert!(rounds < 10_000, "{table:?}");
            let is_away = answers.next().is_some_and(|(_, away)| away);
            let online = &everybody[usize::from(is_away && !everybody.is_empty())..];
            settle(now, &mut table, online, &limits);
            let actions = choose(now, &table, online, &limits);
            for action in actions {
                let mut say = |id: &BlockId| {
                    let said = match answers.next() {
                        Some((0, _)) => Said::Have,
                        Some((1, true)) => Said::Busy,
                        Some((1, false)) => Said::Later,
                        _ => Said::No,
                    };
                    if said == Said::Have {
                        had.insert(*id);
                    }
                    (*id, said)
                };
                let outcome = match action {
                    Action::Seek(id) => {
                        let by = everybody.iter().take(usize::from(id.digest()[0] % 3));
                        Outcome::Sought(id, by.copied().collect())
                    }
                    Action::Ask(peer, ids) => {
                        prop_assert!(ids.len() <= MAX_IDS);
                        prop_assert!(ids.iter().all(|id| !table[id].failed.contains(&peer)));
                        Outcome::Asked(peer, ids.iter().map(&mut say).collect())
                    }
                    Action::Offer(peer, blocks) => {
                        prop_assert!(blocks.len() <= MAX_OFFERED && online.contains(&peer));
                        prop_assert!(blocks.iter().all(|(id, _)| !table[id].failed.contains(&peer)));
                        Outcome::Offered(peer, blocks.iter().map(|(id, _)| say(id)).collect())
                    }
                };
                apply(now, &mut table, outcome, &limits, None);
                let most = loads(&table).values().map(|(load, _)| *load).max();
                prop_assert!(most.unwrap_or(0) <= limits.window);
            }
            now = now.after(limits.poll);
        }
        for (id, entry) in &table {
            let is_safe = matches!(entry.stage, Stage::Safe { .. });
            prop_assert!(!is_safe || had.contains(id));
        }
    }
}

#[test]
fn two_nodes_do_not_both_rely_on_each_other() {
    let (a, b, c) = (PeerId::random(), PeerId::random(), PeerId::random());
    let now = Timestamp(1);
    let mut kept_by = [0, 0];
    for n in 0..50 {
        let safe = |local: PeerId, others: &[PeerId]| {
            let mut table = Table::from([(id(n), Entry::new(9, Stage::Claimed(others.to_vec())))]);
            for other in others {
                let said = vec![(id(n), Said::Have)];
                apply(
                    now,
                    &mut table,
                    Outcome::Asked(*other, said),
                    &Limits::default(),
                    Some(local),
                );
            }
            matches!(table[&id(n)].stage, Stage::Safe { .. })
        };
        let (a_drops, b_drops) = (safe(a, &[b]), safe(b, &[a]));
        assert!(a_drops != b_drops, "one keeps it, the other one need not");
        kept_by[usize::from(a_drops)] += 1;
        assert!(safe(a, &[b, c]) && safe(b, &[c, a]), "two are enough");
    }
    assert!(kept_by.iter().all(|n| *n > 0), "{kept_by:?}");
    // The same one twice is one.
    let mut table = Table::from([(id(1), Entry::new(9, Stage::Alone))]);
    let target = KBucketKey::new(id(1).to_multihash().to_vec());
    let distance = |peer: &PeerId| KBucketKey::from(*peer).distance(&target);
    let (near, far) = match distance(&a) < distance(&b) {
        true => (a, b),
        false => (b, a),
    };
    for _ in 0..2 {
        let said = vec![(id(1), Said::Have)];
        apply(
            now,
            &mut table,
            Outcome::Offered(far, said),
            &Limits::default(),
            Some(near),
        );
        assert_eq!(table[&id(1)].stage, Stage::Alone);
    }
}
