use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::block::Attempt;
use crate::depot::choice::Roster;

const NOW: Duration = Duration::from_secs(10);

fn id(number: u32) -> BlockId {
    let mut digest = [0; 48];
    // Digests are as good as random.
    digest[..8].copy_from_slice(
        &(u64::from(number) + 1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .to_be_bytes(),
    );
    BlockId::from_sha384(digest)
}

fn ids(count: u32) -> Vec<BlockId> {
    (0..count).map(id).collect()
}

fn peers(count: usize) -> Vec<PeerId> {
    (0..count).map(|_| PeerId::random()).collect()
}

/// A peer with some blocks that gets more.
fn joins(crowd: &mut Crowd, peer: PeerId, has: &[BlockId], now: Duration) {
    crowd.heard(peer, id(u32::MAX), false, now);
    for id in has.iter().chain(&[id(u32::MAX - 1)]) {
        crowd.heard(peer, *id, true, now);
    }
    crowd.sized_up(peer);
}

#[test]
fn a_crowd_shares_out_what_nobody_has() {
    let (members, all) = (peers(10), ids(256));
    let mut turns = 0;
    let mut firsts = Vec::new();
    for own in &members {
        let mut crowd = Crowd::new(*own);
        for other in members.iter().filter(|other| *other != own) {
            joins(&mut crowd, *other, &[], NOW);
        }
        let mine: Vec<_> = all.iter().filter(|id| crowd.turn(id, NOW) == 0).collect();
        assert!((8..=60).contains(&mine.len()), "{}", mine.len());
        turns += mine.len();
        let first = crowd.first(&all, NOW);
        assert!(mine.contains(&&all[first]));
        assert_eq!(crowd.wait_for(&all[first], NOW), Duration::ZERO);
        firsts.push(first);
    }
    // Each block is exactly one member's to bring in.
    assert_eq!(turns, all.len());
    firsts.sort_unstable();
    firsts.dedup();
    assert_eq!(firsts.len(), members.len());
}

#[test]
fn rare_blocks_come_before_common_ones_and_before_those_of_others() {
    let members = peers(3);
    let all = ids(64);
    let mut crowd = Crowd::new(members[0]);
    let (common, rare) = (all[5], all[6]);
    joins(&mut crowd, members[1], &[common, rare], NOW);
    joins(&mut crowd, members[2], &[common], NOW);
    let mut wanted: Vec<BlockId> = all
        .into_iter()
        .filter(|id| crowd.turn(id, NOW) > 0 || [common, rare].contains(id))
        .collect();
    let mut next = || {
        let first = crowd.first(&wanted, NOW);
        wanted.remove(first)
    };
    assert_eq!(next(), rare);
    assert_eq!(next(), common);
    let left = next();
    assert!(crowd.wait_for(&left, NOW) > Duration::ZERO);
    // Who gets nothing more brings nothing in.
    assert_eq!(crowd.wait_for(&left, NOW + GAINING), Duration::ZERO);
    assert!(!crowd.is_growing(NOW + GAINING));
    crowd.lost(&members[1]);
    crowd.lost(&members[2]);
    assert_eq!(crowd.wait_for(&left, NOW), Duration::ZERO);
}

#[test]
fn alone_nothing_waits_and_the_order_is_each_nodes_own() {
    let all = ids(256);
    let firsts: HashSet<usize> = peers(10)
        .into_iter()
        .map(|own| {
            let mut crowd = Crowd::new(own);
            assert_eq!(crowd.wait_for(&all[0], NOW), Duration::ZERO);
            crowd.first(&all, NOW)
        })
        .collect();
    assert!(firsts.len() > 5, "{firsts:?}");
}

#[test]
fn who_seems_to_have_everything_is_asked_once() {
    let (peer, all) = (PeerId::random(), ids(100));
    let mut crowd = Crowd::new(PeerId::random());
    crowd.first(&all, NOW);
    let questions = crowd.questions(&peer);
    assert_eq!(questions.len(), MAX_IDS);
    for id in &questions {
        crowd.heard(peer, *id, true, NOW);
    }
    crowd.sized_up(peer);
    assert!(crowd.questions(&peer).is_empty());
    assert_eq!(crowd.standing(&peer, &questions[0]), Standing::Source);
    crowd.heard(peer, questions[0], false, NOW);
    assert_eq!(crowd.questions(&peer).len(), 100 - MAX_IDS + 1);
    assert_eq!(crowd.standing(&peer, &questions[0]), Standing::Without);
}

#[test]
fn waits_in_vain_get_shorter_and_good_ones_longer() {
    let members = peers(2);
    let mut crowd = Crowd::new(members[0]);
    joins(&mut crowd, members[1], &[], NOW);
    let theirs = *ids(64)
        .iter()
        .find(|id| crowd.turn(id, NOW) == 1)
        .expect("half of them");
    assert_eq!(crowd.wait_for(&theirs, NOW), MAX_WAIT);
    // Many that end together count once.
    for _ in 0..100 {
        crowd.waited(true, NOW);
    }
    assert_eq!(crowd.wait_for(&theirs, NOW), MAX_WAIT / 2);
    let later = |step: u64| NOW + MAX_WAIT * step as u32;
    for step in 1..20 {
        crowd.waited(true, later(step));
    }
    assert_eq!(crowd.wait_for(&theirs, NOW), MIN_WAIT);
    for step in 20..40 {
        crowd.waited(false, later(step));
    }
    assert_eq!(crowd.wait_for(&theirs, NOW), MAX_WAIT);
}

#[test]
fn broken_promises_are_counted() {
    let (liar, all) = (PeerId::random(), ids(MAX_BROKEN + 1));
    let mut crowd = Crowd::new(PeerId::random());
    for id in &all {
        crowd.heard(liar, *id, true, NOW);
        crowd.heard(liar, *id, false, NOW);
    }
    crowd.heard(liar, all[0], true, NOW);
    assert_eq!(crowd.standing(&liar, &all[0]), Standing::Without);
    assert!(crowd.questions(&liar).is_empty());
    assert!(!crowd.is_growing(NOW));
    assert!(crowd.holders.0.is_empty());
}

/// What is no longer wanted is forgotten, and not counted any more.
#[test]
fn a_stock_that_is_full_keeps_what_is_wanted() {
    let (peer, all) = (PeerId::random(), ids(MAX_STOCK as u32 + 1));
    let mut crowd = Crowd::new(PeerId::random());
    crowd.first(&all[..10], NOW);
    joins(&mut crowd, peer, &all[..MAX_STOCK - 1], NOW);
    assert_eq!(crowd.holders.0.len(), MAX_STOCK);
    crowd.heard(peer, all[MAX_STOCK], true, NOW);
    assert_eq!(crowd.holders.0.len(), 10);
    assert_eq!(crowd.standing(&peer, &all[9]), Standing::Holder);
    assert_eq!(crowd.standing(&peer, &all[10]), Standing::Without);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Whatever peers say: what is remembered stays bounded, the choice is one of what was offered, and waits end.
    #[test]
    fn nothing_grows_and_nothing_panics(
        said in proptest::collection::vec((0usize..80, 0u32..2000, any::<bool>(), 0u64..20), 0..600),
        offered in 1u32..400,
    ) {
        let all = peers(80);
        let mut crowd = Crowd::new(PeerId::random());
        for (peer, number, has, at) in said {
            crowd.heard(all[peer], id(number), has, Duration::from_secs(at));
        }
        let ids = ids(offered);
        prop_assert!(crowd.first(&ids, NOW) < ids.len());
        prop_assert!(crowd.stocks.len() <= MAX_STOCKS);
        prop_assert!(crowd.ahead.len() <= MAX_AHEAD);
        for stock in crowd.stocks.values() {
            prop_assert!(stock.has.len() <= MAX_STOCK);
        }
        for peer in &all[..4] {
            prop_assert!(crowd.questions(peer).len() <= MAX_IDS);
        }
        for id in &ids[..ids.len().min(20)] {
            prop_assert!(crowd.wait_for(id, NOW) <= MAX_WAIT * MAX_WAIT_TURNS);
            prop_assert_eq!(crowd.wait_for(id, Duration::from_secs(30)), Duration::ZERO);
        }
    }

    /// However peers change their minds, the holders are those that would be counted.
    #[test]
    fn holders_are_counted_right(
        said in proptest::collection::vec((0usize..3, 0u32..20, any::<bool>()), 0..200),
    ) {
        let (all, ids) = (peers(3), ids(20));
        let mut crowd = Crowd::new(PeerId::random());
        for (peer, number, has) in said {
            crowd.heard(all[peer], ids[number as usize], has, NOW);
            for id in &ids {
                let holders = crowd.stocks.values().filter(|stock| stock.holds(id)).count();
                prop_assert_eq!(crowd.holders.count(id), holders);
            }
        }
    }

    /// A whole crowd and one source in steps, everything told at once: nobody is asked for what it lacks, all get everything, and the source
    /// gives each block about once.
    #[test]
    fn the_source_gives_each_block_about_once(members in 2usize..8, blocks in 1u32..60, window in 1usize..8) {
        let source = PeerId::random();
        let names = peers(members);
        let all = ids(blocks);
        let mut has: Vec<HashSet<BlockId>> = vec![HashSet::new(); members];
        let mut views: Vec<(Roster, Crowd)> = names.iter().map(|own| {
            let (mut roster, mut crowd) = (Roster::default(), Crowd::new(*own));
            for peer in names.iter().filter(|peer| *peer != own).chain([&source]) {
                roster.add(*peer);
            }
            for other in names.iter().filter(|other| *other != own) {
                joins(&mut crowd, *other, &[], Duration::ZERO);
            }
            (roster, crowd)
        }).collect();
        let mut given = 0;
        let mut step = 0;
        while has.iter().any(|has| has.len() < all.len()) {
            step += 1;
            prop_assert!(step < 10_000);
            let now = Duration::from_millis(100 * step);
            let mut came: Vec<(usize, BlockId)> = Vec::new();
            for (own, (roster, crowd)) in views.iter_mut().enumerate() {
                let mut wanted: Vec<BlockId> = all.iter().filter(|id| !has[own].contains(*id)).copied().collect();
                for _ in 0..window.min(wanted.len()) {
                    let first = crowd.first(&wanted, now);
                    let id = wanted.remove(first);
                    let rank = |peer: &PeerId| Some(crowd.standing(peer, &id)).filter(|s| *s != Standing::Without);
                    let peer = roster.choose(&BTreeMap::<PeerId, Attempt>::new(), now, rank).expect("the source is there");
                    if peer == source {
                        if crowd.wait_for(&id, now) > Duration::ZERO {
                            continue;
                        }
                        given += 1;
                    } else {
                        let other = names.iter().position(|name| *name == peer).expect("a member");
                        prop_assert!(has[other].contains(&id));
                    }
                    roster.asked(peer);
                    roster.gave(peer, Duration::ZERO);
                    came.push((own, id));
                }
            }
            for (member, id) in came {
                has[member].insert(id);
                for (own, (_, crowd)) in views.iter_mut().enumerate() {
                    if own != member {
                        crowd.heard(names[member], id, true, now);
                    }
                }
            }
        }
        prop_assert!(given <= all.len() + all.len() / 4 + 1, "{} of {}", given, all.len());
    }
}
