use super::*;
use libp2p::identity::Keypair;
use proptest::prelude::*;
use std::sync::LazyLock;

const NOW: Timestamp = Timestamp(1_700_000_000_000);
const MIB: u32 = 1 << 20;

/// Keys take long to make, and property tests need many.
static PEERS: LazyLock<Vec<PeerId>> = LazyLock::new(|| {
    let key = |n| Keypair::ed25519_from_bytes([n; 32]).expect("32 bytes");
    (0..80).map(|n| key(n).public().to_peer_id()).collect()
});

fn id(number: u16) -> BlockId {
    let mut digest = [0; 48];
    digest[..2].copy_from_slice(&number.to_be_bytes());
    BlockId::from_sha384(digest)
}

fn hot(number: u16, rate: f64) -> HotBlock {
    HotBlock {
        id: id(number),
        bytes: MIB,
        rate,
        askers: Vec::new(),
    }
}

fn facts(hot: Vec<HotBlock>, peers: usize) -> Facts {
    let connected = PEERS[..peers].iter();
    Facts {
        hot,
        connected: connected.map(|peer| KBucketKey::from(*peer)).collect(),
    }
}

/// Whom a block is offered to.
fn of(offers: &[Offer], block: u16) -> Vec<PeerId> {
    let fitting = offers.iter().filter(|offer| {
        offer
            .blocks
            .iter()
            .any(|(offered, _)| *offered == id(block))
    });
    fitting.map(|offer| offer.peer).collect()
}

fn nearest(block: u16, peers: usize) -> Vec<PeerId> {
    let place = KBucketKey::new(id(block).to_multihash());
    let mut peers = PEERS[..peers].to_vec();
    peers.sort_by_key(|peer| KBucketKey::from(*peer).distance(&place));
    peers
}

fn sorted(mut peers: Vec<PeerId>) -> Vec<PeerId> {
    peers.sort();
    peers
}

#[test]
fn copies_grow_with_the_logarithm_of_demand() {
    let limits = Limits {
        threshold: 8.0,
        copies_per_doubling: 2.0,
        most_copies: 24,
        ..Limits::default()
    };
    let copies = |rate| target_copies(rate, &limits);
    for nothing in [0.0, -1.0, 7.99, f64::NAN, f64::NEG_INFINITY] {
        assert_eq!(copies(nothing), 0, "{nothing}");
    }
    assert_eq!([8.0, 16.0, 32.0, 1024.0].map(copies), [1, 3, 5, 15]);
    for most in [1e6, 1e300, f64::INFINITY] {
        assert_eq!(copies(most), limits.most_copies);
    }
}

#[test]
fn the_nearest_get_it_first() {
    let limits = Limits::default();
    let facts = facts(vec![hot(1, 1e9)], 40);
    let offers = choose(NOW, &facts, &Ledger::default(), &limits);
    let first = nearest(1, 40)[..limits.most_new].to_vec();
    assert_eq!(sorted(of(&offers, 1)), sorted(first));
    let cold = Facts {
        hot: vec![hot(1, limits.threshold - 0.1)],
        ..facts
    };
    assert!(choose(NOW, &cold, &Ledger::default(), &limits).is_empty());
}

#[test]
fn who_asked_lately_has_it_and_who_asked_long_ago_may_have_lost_it() {
    let limits = Limits::default();
    let order = nearest(1, 40);
    let at = |ago: Duration| Timestamp(NOW.0 - ago.as_millis() as u64);
    let mut block = hot(1, 1e9);
    block.askers = vec![
        (order[39], at(limits.presume_for)),
        (order[0], at(limits.presume_for - Duration::from_secs(1))),
    ];
    let offers = choose(NOW, &facts(vec![block], 40), &Ledger::default(), &limits);
    let chosen = of(&offers, 1);
    assert!(chosen.contains(&order[39]) && !chosen.contains(&order[0]));
    assert_eq!(chosen.len(), limits.most_new);
}

#[test]
fn who_has_it_counts_and_is_asked_again_when_it_said_it_would_fetch_it() {
    let limits = Limits::default();
    let order = nearest(1, 40);
    let facts = facts(vec![hot(1, limits.threshold * 2.0)], 40);
    let target = target_copies(limits.threshold * 2.0, &limits);
    let mut ledger = Ledger::default();
    for peer in &order[..target] {
        assert!(!ledger.heard(*peer, id(1), Heard::Wants, NOW));
    }
    assert_eq!(ledger.copies(&id(1), NOW, &limits), target);
    assert!(choose(NOW, &facts, &ledger, &limits).is_empty());
    let later = NOW.after(limits.confirm_after);
    let offers = choose(later, &facts, &ledger, &limits);
    assert_eq!(sorted(of(&offers, 1)), sorted(order[..target].to_vec()));
    for peer in &order[..target] {
        assert!(
            ledger.heard(*peer, id(1), Heard::Has, later),
            "a copy was made"
        );
        assert!(
            !ledger.heard(*peer, id(1), Heard::Has, later),
            "it was made once"
        );
    }
    let believed = later.after(limits.believe_for - Duration::from_secs(1));
    assert!(choose(believed, &facts, &ledger, &limits).is_empty());
    let stale = later.after(limits.believe_for);
    assert!(!choose(stale, &facts, &ledger, &limits).is_empty());
}

#[test]
fn who_refused_is_left_alone() {
    let limits = Limits::default();
    let order = nearest(1, 40);
    let facts = facts(vec![hot(1, 1e9)], 40);
    let mut ledger = Ledger::default();
    let until = NOW.after(Duration::from_secs(60));
    ledger.rest(order[0], until);
    assert!(!of(&choose(NOW, &facts, &ledger, &limits), 1).contains(&order[0]));
    assert!(of(&choose(until, &facts, &ledger, &limits), 1).contains(&order[0]));
}

#[test]
fn bytes_are_limited_by_the_minute() {
    let limits = Limits {
        bytes_per_minute: 10 * u64::from(MIB),
        ..Limits::default()
    };
    let facts = facts((0..9).map(|n| hot(n, 1e9)).collect(), 40);
    let bytes = |offers: &[Offer]| -> u64 {
        let blocks = offers.iter().flat_map(|offer| &offer.blocks);
        blocks.map(|(_, bytes)| u64::from(*bytes)).sum()
    };
    let mut ledger = Ledger::default();
    assert_eq!(
        bytes(&choose(NOW, &facts, &ledger, &limits)),
        limits.bytes_per_minute
    );
    ledger.spend(limits.bytes_per_minute, NOW, &limits);
    assert!(choose(NOW, &facts, &ledger, &limits).is_empty());
    let half = NOW.after(Duration::from_secs(30));
    assert_eq!(
        bytes(&choose(half, &facts, &ledger, &limits)),
        limits.bytes_per_minute / 2
    );
    let back = Timestamp(NOW.0 - 1);
    assert!(choose(back, &facts, &ledger, &limits).is_empty());
}

#[test]
fn the_ledger_is_bounded() {
    let mut ledger = Ledger::default();
    for number in 0..=MAX_BLOCKS as u16 {
        ledger.heard(
            PEERS[0],
            id(number),
            Heard::Has,
            Timestamp(NOW.0 + u64::from(number)),
        );
    }
    assert_eq!(ledger.blocks.len(), MAX_BLOCKS);
    assert!(
        !ledger.blocks.contains_key(&id(0)),
        "the oldest is forgotten"
    );
    for (peer, later) in PEERS[..=MAX_PEERS_PER_BLOCK].iter().zip(0..) {
        ledger.heard(
            *peer,
            id(9),
            Heard::Wants,
            Timestamp(NOW.0 + 10_000 + later),
        );
    }
    assert_eq!(ledger.blocks[&id(9)].len(), MAX_PEERS_PER_BLOCK);
    assert!(!ledger.blocks[&id(9)].contains_key(&PEERS[0]));
    for number in 0..=MAX_RESTING as u64 {
        ledger.rest(PeerId::random(), Timestamp(NOW.0 + number));
    }
    assert_eq!(ledger.resting.len(), MAX_RESTING);
    assert!(!ledger.resting.values().any(|until| *until == NOW));
}

proptest! {
    #[test]
    fn no_limit_is_ever_passed(
        blocks in proptest::collection::vec((0u16..12, any::<u32>(), any::<f64>(), proptest::collection::vec((0usize..20, any::<u32>()), 0..8)), 0..20),
        heard in proptest::collection::vec((0u16..12, 0usize..20, any::<bool>(), any::<u32>()), 0..60),
        resting in proptest::collection::vec(0usize..20, 0..5),
        peers in 0usize..20,
        spent in any::<u64>(),
    ) {
        let limits = Limits { blocks_per_offer: 3, ..Limits::default() };
        let at = |ago: u32| Timestamp(NOW.0 - u64::from(ago));
        let mut ledger = Ledger::default();
        for (block, peer, wants, ago) in heard {
            let heard = if wants { Heard::Wants } else { Heard::Has };
            ledger.heard(PEERS[peer], id(block), heard, at(ago));
        }
        for peer in &resting {
            ledger.rest(PEERS[*peer], NOW.after(Duration::from_secs(1)));
        }
        ledger.spend(spent, NOW, &limits);
        let blocks: Vec<_> = blocks.into_iter().map(|(n, bytes, rate, askers)| HotBlock {
            id: id(n),
            bytes,
            rate,
            askers: askers.into_iter().map(|(peer, ago)| (PEERS[peer], at(ago))).collect(),
        }).collect();
        let facts = facts(blocks, peers);
        let offers = choose(NOW, &facts, &ledger, &limits);
        prop_assert_eq!(&offers, &choose(NOW, &facts, &ledger, &limits));
        let mut bytes = 0u64;
        for offer in &offers {
            prop_assert!(PEERS[..peers].contains(&offer.peer));
            prop_assert!(!resting.iter().any(|peer| PEERS[*peer] == offer.peer));
            prop_assert!((1..=3).contains(&offer.blocks.len()));
            let distinct: BTreeSet<_> = offer.blocks.iter().map(|(id, _)| *id).collect();
            prop_assert_eq!(distinct.len(), offer.blocks.len());
            bytes += offer.blocks.iter().map(|(_, bytes)| u64::from(*bytes)).sum::<u64>();
        }
        prop_assert!(bytes <= limits.bytes_per_minute.saturating_sub(spent));
    }
}
