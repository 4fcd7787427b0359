//! Whether the sizes of blocks tell which file was put: the attack of a holder that knows a file and
//! sees the blocks of somebody's backup.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;

use super::super::PutOptions;
use super::{Memory, noise, put_with, runtime};
use crate::block::Context;
use crate::crypto::key::Key;

/// Bytes of the known file: about a dozen chunks.
const FILE_BYTES: usize = 12 << 20;
/// Owners whose backups the attacker looks at.
const OWNERS: u8 = 24;

/// Sizes of the blocks that a put of `content` makes, and how often each comes.
async fn sizes(content: &[u8], context: Context) -> HashMap<usize, usize> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("file");
    fs::write(&path, content).expect("written");
    let memory = Arc::new(Memory::default());
    let options = PutOptions {
        context,
        ..PutOptions::default()
    };
    put_with(&path, &memory, options).await.expect("put");
    let mut sizes = HashMap::new();
    for block in memory.blocks.lock().unwrap().values() {
        *sizes.entry(block.bytes().len()).or_default() += 1;
    }
    sizes
}

/// Blocks of the known file, as the attacker computes them, whose size is among those that it sees.
fn hits(known: &HashMap<usize, usize>, seen: &HashMap<usize, usize>) -> usize {
    let found = |(size, count): (&usize, &usize)| seen.get(size).map_or(0, |n| *n.min(count));
    known.iter().map(found).sum()
}

/// How often the attacker tells a backup of the known file from one of an unknown file of the same
/// length. Its best guess at the sizes is what `guess` gives; with equal scores it tosses a coin.
async fn told_apart(known: &[u8], guesses: &[HashMap<usize, usize>], is_secret: bool) -> u32 {
    let mut halves_won = 0;
    for owner in 0..OWNERS {
        let context = || match is_secret {
            true => Context::secret(Key::new([owner + 100; 32])),
            false => Context::public(),
        };
        let other = noise(FILE_BYTES, 1000 + u64::from(owner));
        let (with, without) = (sizes(known, context()).await, sizes(&other, context()).await);
        let score = |seen| guesses.iter().map(|guess| hits(guess, seen)).sum::<usize>();
        halves_won += match score(&with).cmp(&score(&without)) {
            std::cmp::Ordering::Greater => 2,
            std::cmp::Ordering::Equal => 1,
            std::cmp::Ordering::Less => 0,
        };
    }
    halves_won / 2
}

#[test]
fn sizes_of_blocks_tell_a_known_file_in_public_puts_and_not_in_backups() {
    runtime().block_on(async {
        let known = noise(FILE_BYTES, 1);
        let owners = u32::from(OWNERS);
        let public = sizes(&known, Context::public()).await;
        let as_public = told_apart(&known, std::slice::from_ref(&public), false).await;
        assert_eq!(as_public, owners, "public puts are alike on purpose");
        // Chance is half. 24 tosses of a coin come outside of this range once in 300 times; the
        // secrets and files are fixed, so that the test always has the same outcome.
        let chance = owners / 4..=owners * 3 / 4;
        let in_backups = told_apart(&known, std::slice::from_ref(&public), true).await;
        assert!(chance.contains(&in_backups), "{in_backups} of {owners}");
        // An attacker with backups of its own knows as little: its secret is another one.
        let mine = sizes(&known, Context::secret(Key::new([1; 32]))).await;
        let by_its_own = told_apart(&known, &[mine], true).await;
        assert!(chance.contains(&by_its_own), "{by_its_own} of {owners}");
    });
}

/// Small data is a single block, whatever the cuts: its size says little in a backup.
#[test]
fn one_block_of_a_backup_has_one_of_few_sizes() {
    runtime().block_on(async {
        let lens = (0..16).map(|i| (300 << 10) + i * 1000);
        let of = async |context: &Context| {
            let mut all = std::collections::HashSet::new();
            for len in lens.clone() {
                all.extend(sizes(&noise(len, 1), context.clone()).await.into_keys());
            }
            // Without the root blocks.
            all.retain(|size| *size > 100 << 10);
            all.len()
        };
        assert!(of(&Context::public()).await > 1);
        assert_eq!(of(&Context::secret(Key::new([1; 32]))).await, 1);
    });
}
