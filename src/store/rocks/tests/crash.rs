//! A process that is killed while it puts: what it acknowledged is there, and what is there is consistent.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use super::{open, refusal};
use crate::block::{ChunkIndex, Ref};
use crate::crypto::key::Key;
use crate::store::conformance::{block, info, lease_info};
use crate::store::{Error, Keep, RocksStore, Store};

/// Tells the child where its store is and from which number on to put.
const CHILD_DIR: &str = "LIBERNET_TEST_CRASH_DIR";
const CHILD_FIRST: &str = "LIBERNET_TEST_CRASH_FIRST";
const BLOCKS_A_FLUSH: u32 = 5;
const BLOCK_BYTES: usize = 30_000;
/// How often the child is killed.
const KILLS: u32 = 3;

/// Puts blocks for ever, each with a chunk, and tells which are acknowledged. Each ten flushes it finishes a pin.
fn put_until_killed(dir: &Path, first: u32) {
    let store = open(dir);
    let mut pin = store.begin_pin("crash").expect("pins");
    for round in 0.. {
        let start = first + round * BLOCKS_A_FLUSH;
        for number in start..start + BLOCKS_A_FLUSH {
            let one = block(number, BLOCK_BYTES);
            store
                .put(std::slice::from_ref(&one), Keep::Pinned(pin))
                .expect("fits");
            let place = Ref {
                id: one.id(),
                key: Key::new([1; 32]),
                offset: number,
                len: 1,
            };
            store
                .insert(&[(chunk_hash(number), place)])
                .expect("inserts");
        }
        let ids: Vec<_> = (start..start + BLOCKS_A_FLUSH)
            .map(|number| block(number, BLOCK_BYTES).id())
            .collect();
        let lease = store
            .begin_lease(&lease_info(ids[0], u64::from(start)))
            .expect("leases");
        store.add_lease_refs(lease, &ids).expect("adds");
        if round % 10 == 9 {
            store
                .finish_pin(pin, &info(block(start, BLOCK_BYTES).id(), "p"))
                .expect("finishes");
            pin = store.begin_pin("crash").expect("pins");
        } else {
            store.flush().expect("flushes");
        }
        let mut out = std::io::stdout().lock();
        writeln!(out, "\nacknowledged {}", start + BLOCKS_A_FLUSH).expect("the parent listens");
        out.flush().expect("the parent listens");
    }
}

fn chunk_hash(number: u32) -> [u8; 32] {
    let mut hash = [0; 32];
    hash[..4].copy_from_slice(&number.to_be_bytes());
    hash
}

/// Runs a child until it has acknowledged blocks beyond `until`, kills it, and returns up to where it acknowledged.
fn run_and_kill(dir: &Path, first: u32, until: u32) -> u32 {
    let mut child = Command::new(std::env::current_exe().expect("this test has a file"))
        .args([
            "--exact",
            "store::rocks::tests::crash::acknowledged_blocks_survive_kill_9",
        ])
        .arg("--nocapture")
        .env(CHILD_DIR, dir)
        .env(CHILD_FIRST, first.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let mut acknowledged = first;
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    for line in lines.map_while(Result::ok) {
        if let Some(number) = line.strip_prefix("acknowledged ") {
            if acknowledged == first {
                // It is certainly running now.
                let error = refusal(dir);
                let Error::Locked { pid, .. } = error else {
                    panic!("{error:?}");
                };
                assert_eq!(pid, Some(child.id()));
            }
            acknowledged = number.parse().expect("a number");
            if acknowledged >= until {
                // SIGKILL, while it goes on.
                child.kill().expect("kills");
            }
        }
    }
    child.wait().expect("ends");
    assert!(acknowledged >= until, "the child ended by itself");
    acknowledged
}

/// Checks everything and returns how many blocks there are.
fn check(store: &RocksStore, acknowledged: u32) -> u32 {
    let here = store.usage().blocks as u32;
    assert!(
        here >= acknowledged,
        "{here} of {acknowledged} acknowledged blocks"
    );
    // Only a suffix is lost: what is here are the first ones, each with its chunk.
    for number in 0..here {
        let expected = block(number, BLOCK_BYTES);
        let found = store.get_verified(expected.id()).expect("reads");
        assert_eq!(found, Some(expected), "block {number}");
        let chunk = store.lookup(&[chunk_hash(number)]).expect("reads");
        // The very last block's chunk is written after it.
        assert!(chunk[0].is_some() || number + 1 == here, "chunk {number}");
    }
    assert_eq!(store.lookup(&[chunk_hash(here)]).expect("reads"), [None]);
    let listed = store.list(None, here as usize + 9).expect("reads");
    assert_eq!(listed.len() as u32, here);
    let usage = store.usage();
    assert_eq!(usage.block_bytes, u64::from(here) * BLOCK_BYTES as u64);
    // The pins that were finished hold their blocks, the one that was not is gone.
    let mut pinned = 0;
    for (pin, _) in store.pins().expect("reads") {
        pinned += store.pin_blocks(pin, None, 9999).expect("reads").len() as u64;
    }
    assert_eq!(usage.pinned_bytes, pinned * BLOCK_BYTES as u64);
    assert_eq!(usage.pins as usize, store.pins().expect("reads").len());
    assert!(store.lost(None, 9).expect("reads").is_empty());
    // Of the leases of each round only those may be empty or missing during which the process was killed.
    let leases = store.leases().expect("reads");
    assert!(leases.len() as u32 + KILLS >= acknowledged / BLOCKS_A_FLUSH);
    let mut empty = 0;
    for (lease, _) in leases {
        match store.lease_blocks(lease, None, 99).expect("reads").len() as u32 {
            0 => empty += 1,
            blocks => assert_eq!(blocks, BLOCKS_A_FLUSH, "lease {lease}"),
        }
    }
    assert!(empty <= KILLS, "{empty} leases are empty");
    here
}

#[test]
fn acknowledged_blocks_survive_kill_9() {
    if let Ok(dir) = std::env::var(CHILD_DIR) {
        let first = std::env::var(CHILD_FIRST).expect("set with the directory");
        return put_until_killed(Path::new(&dir), first.parse().expect("a number"));
    }
    let dir = tempfile::tempdir().expect("a directory");
    let mut here = 0;
    let mut acknowledged_in_all = 0;
    for more in [5, 70, 200] {
        let acknowledged = run_and_kill(dir.path(), here, here + more);
        acknowledged_in_all += acknowledged - here;
        let store = open(dir.path());
        here = check(&store, acknowledged);
    }
    assert!(acknowledged_in_all >= 275);
}
