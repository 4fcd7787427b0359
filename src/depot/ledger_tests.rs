//! The ledger's bound, file and standings.

use std::fs;

use super::*;
use crate::time::ManualClock;
use proptest::prelude::*;

const GOLDEN: &str = include_str!("ledger_v1.json");

fn amount(bytes: u64) -> Amount {
    Amount { blocks: 1, bytes }
}

fn entry(served: u64, taken: u64) -> Entry {
    Entry {
        served: amount(served),
        taken: amount(taken),
        ..Entry::default()
    }
}

/// A peer whose name is the same every time.
fn peer(n: u8) -> PeerId {
    let mut seed = [n; 32];
    let key = libp2p::identity::Keypair::ed25519_from_bytes(&mut seed).expect("32 bytes");
    key.public().to_peer_id()
}

#[test]
fn golden_file() {
    let mut book = Book::default();
    *book.entry(peer(1)) = Entry {
        served: Amount {
            blocks: 1,
            bytes: 2,
        },
        taken: Amount {
            blocks: 3,
            bytes: 4,
        },
        wrong_blocks: 5,
        keeps_for_us: Amount {
            blocks: 6,
            bytes: 7,
        },
        kept_for_it: Amount {
            blocks: 8,
            bytes: 9,
        },
        seen: Timestamp(10),
    };
    *book.entry(peer(2)) = entry(u64::MAX, 0);
    let text = String::from_utf8(book.encode()).expect("JSON is text");
    assert_eq!(text, GOLDEN.trim_end());
    assert_eq!(Book::decode(GOLDEN.as_bytes()), Some(book));
}

#[test]
fn what_is_exchanged_and_kept_outlives_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ledger.json");
    let clock = Arc::new(ManualClock::default());
    clock.advance(std::time::Duration::from_secs(7));
    let ledger = Ledger::open(&path, clock.clone());
    ledger.save().expect("nothing to save");
    assert!(!path.exists());
    ledger.served(peer(1), amount(10));
    ledger.served(peer(1), amount(10));
    ledger.taken(peer(2), amount(100));
    ledger.wrong(peer(2));
    ledger.set_keeping(&HashMap::from([(peer(3), amount(1000))]));
    ledger.set_kept(&HashMap::from([(peer(1), amount(5))]), true);
    ledger.save().expect("saved");
    let list = Ledger::open(&path, clock.clone()).list();
    assert_eq!(list, ledger.list());
    let peers: Vec<PeerId> = list.iter().map(|(peer, ..)| *peer).collect();
    assert_eq!(peers, [peer(3), peer(2), peer(1)]);
    let first = &list[2].1;
    assert_eq!((first.served.blocks, first.served.bytes), (2, 20));
    assert_eq!((first.kept_for_it.bytes, first.seen), (5, Timestamp(7000)));
    // Those not named keep nothing any more; of what we keep, only if all are named.
    ledger.set_keeping(&HashMap::new());
    ledger.set_kept(&HashMap::new(), false);
    let sums = |ledger: &Ledger| {
        let list = ledger.list();
        let sum = |of: fn(&Entry) -> u64| list.iter().map(|(_, entry, _)| of(entry)).sum::<u64>();
        (sum(|e| e.keeps_for_us.bytes), sum(|e| e.kept_for_it.bytes))
    };
    assert_eq!(sums(&ledger), (0, 5));
    ledger.set_kept(&HashMap::new(), true);
    assert_eq!(sums(&ledger), (0, 0));
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_damaged_file_is_left_behind() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ledger.json");
    let newer = GOLDEN.replace("\"version\":1", "\"version\":2");
    let cut = &GOLDEN[..GOLDEN.len() / 2];
    let long = " ".repeat(MAX_FILE_BYTES as usize + 1);
    for text in ["", "{}", cut, &newer, &long] {
        fs::write(&path, text).expect("written");
        let ledger = Ledger::open(&path, Arc::new(SystemClock));
        assert!(ledger.list().is_empty());
        ledger.served(peer(1), amount(1));
        ledger.save().expect("saved");
        let again = Ledger::open(&path, Arc::new(SystemClock));
        assert_eq!(again.list().len(), 1);
    }
}

#[test]
fn a_full_book_forgets_who_exchanged_least_and_fits_its_file() {
    let mut book = Book::default();
    let mut peers: Vec<PeerId> = (0..MAX_PEERS).map(|_| PeerId::random()).collect();
    for (n, peer) in peers.iter().enumerate() {
        *book.entry(*peer) = Entry {
            served: amount(u64::MAX - n as u64),
            taken: amount(1 + n as u64),
            wrong_blocks: u64::MAX,
            keeps_for_us: amount(u64::MAX),
            kept_for_it: amount(u64::MAX),
            seen: Timestamp(u64::MAX),
        };
    }
    let bytes = book.encode();
    assert!(bytes.len() as u64 <= MAX_FILE_BYTES, "{}", bytes.len());
    assert_eq!(Book::decode(&bytes).expect("whole").0.len(), MAX_PEERS);

    *book.entry(peers[7]) = entry(1, 1);
    let newcomer = PeerId::random();
    book.entry(newcomer).served = amount(1);
    assert_eq!(book.0.len(), MAX_PEERS);
    assert!(!book.0.contains_key(&peers.remove(7)));
    // A flood of strangers pushes out strangers.
    for _ in 0..100 {
        book.entry(PeerId::random()).served = amount(1);
    }
    assert_eq!(book.0.len(), MAX_PEERS);
    assert!(peers.iter().all(|peer| book.0.contains_key(peer)));
    let mut over = book;
    over.0.insert(PeerId::random(), Entry::default());
    assert_eq!(Book::decode(&over.encode()), None);
}

#[test]
fn standings_at_their_thresholds() {
    let edge = ALLOWANCE_BYTES;
    for (entry, standing) in [
        (entry(0, 0), Standing::Newcomer),
        (entry(edge, 0), Standing::Newcomer),
        (entry(edge + 1, 0), Standing::FreeRider),
        (
            entry(100 * edge, 100 * edge / FREE_RIDER_SHARE),
            Standing::Newcomer,
        ),
        (
            entry(100 * edge, 100 * edge / FREE_RIDER_SHARE - 1),
            Standing::FreeRider,
        ),
        (entry(0, EVEN_BYTES - 1), Standing::Newcomer),
        (entry(0, EVEN_BYTES), Standing::Even),
        (
            entry(EVEN_SHARE * EVEN_BYTES + 1, EVEN_BYTES),
            Standing::Even,
        ),
        (
            entry(EVEN_SHARE * (EVEN_BYTES + 1), EVEN_BYTES),
            Standing::Newcomer,
        ),
        (entry(u64::MAX, u64::MAX), Standing::Even),
    ] {
        assert_eq!(entry.standing(), standing, "{entry:?}");
    }
    let mut wrong = entry(0, EVEN_BYTES);
    wrong.wrong_blocks = MAX_WRONG_BLOCKS;
    assert_eq!(wrong.standing(), Standing::Even);
    wrong.wrong_blocks += 1;
    assert_eq!(wrong.standing(), Standing::FreeRider);
    // Keeping blocks counts like moving them.
    let keeper = Entry {
        keeps_for_us: amount(EVEN_BYTES),
        ..Entry::default()
    };
    assert_eq!(keeper.standing(), Standing::Even);
}

#[test]
fn standings_are_those_of_the_last_look_and_members_come_first() {
    let ledger = Ledger::default();
    ledger.served(peer(1), amount(ALLOWANCE_BYTES + 1));
    assert_eq!(ledger.standing(peer(1)), Standing::Newcomer);
    ledger.refresh(&HashSet::from([peer(2)]));
    assert_eq!(ledger.standing(peer(1)), Standing::FreeRider);
    assert_eq!(ledger.standing(peer(2)), Standing::Member);
    ledger.refresh(&HashSet::from([peer(1)]));
    assert_eq!(ledger.standing(peer(1)), Standing::Member);
    assert_eq!(ledger.standing(peer(2)), Standing::Newcomer);
}

proptest! {
    #[test]
    fn giving_more_never_lowers_and_getting_more_never_raises(
        served in 0u64..1 << 40, taken in 0u64..1 << 40, more in 0u64..1 << 40,
    ) {
        let standing = entry(served, taken).standing();
        prop_assert!(entry(served, taken + more).standing() >= standing);
        prop_assert!(entry(served + more, taken).standing() <= standing);
    }

    #[test]
    fn arbitrary_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Book::decode(&bytes);
    }

    #[test]
    fn damaged_files_give_an_answer(at in 0..GOLDEN.len(), value in any::<u8>()) {
        let mut bytes = GOLDEN.as_bytes().to_vec();
        bytes[at] = value;
        let _ = Book::decode(&bytes);
    }
}

proptest! {
    // Each begins with a full book.
    #![proptest_config(ProptestConfig::with_cases(4))]

    #[test]
    fn the_bound_holds(steps in proptest::collection::vec((0usize..2 * MAX_PEERS, 0u64..1000), 1..20)) {
        // Names are cheap here: a full book first, then arbitrary ones.
        let mut book = Book::default();
        for n in 0..MAX_PEERS {
            book.0.insert(name(n), entry(n as u64, 0));
        }
        for (n, bytes) in steps {
            book.entry(name(n)).served.add(amount(bytes));
            prop_assert!(book.0.len() <= MAX_PEERS);
            prop_assert!(book.0.contains_key(&name(n)));
        }
    }
}

/// A peer without a key.
fn name(n: usize) -> PeerId {
    let mut digest = vec![0x12, 32];
    digest.resize(26, 0);
    digest.extend((n as u64).to_be_bytes());
    PeerId::from_bytes(&digest).expect("a multihash of SHA-256")
}
