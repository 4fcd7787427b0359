//! Cutting a stream of bytes into chunks whose boundaries depend on the content, so that equal stretches give equal chunks wherever
//! they are.
//!
//! FastCDC in its 2020 form ("The Design of Fast Content-Defined Chunking for Data Deduplication
//! Based Storage Systems", Xia et al.), normalization level 1. The three sizes and the table of
//! [`Cuts`] are part of the format in so far as changing them ends deduplication with what is
//! stored.
//!
//! Backups and private puts are cut by a table of their own, derived from their secret. Where
//! everybody cuts alike, the sizes of blocks tell holders whether a known file is among them. The
//! table is secret as long as its owner's content is: the hash that it feeds is not a cryptographic
//! one, and whoever knows long stretches of a backup's content *and* sees the sizes and the order
//! of their blocks may compute it back ("Chunking Attacks on File Backup Services using
//! Content-Defined Chunking", Truong et al., 2025).

use std::io::{self, Read};

use fastcdc::v2020::{Normalization, cut_gear, get_gear_with_seed, select_masks};

use crate::block::{Context, MAX_PLAINTEXT_BYTES};

/// Smallest chunk in bytes, except for the last of a stream.
pub(super) const MIN_CHUNK_BYTES: usize = 256 << 10;
/// Chunks have about this many bytes. Smaller ones would find more that is equal and cost more in everything else: a chunk is a
/// block, and a block costs a record in the DHT.
const AVERAGE_CHUNK_BYTES: usize = 1 << 20;
/// Largest chunk in bytes: what fits one block.
pub(super) const MAX_CHUNK_BYTES: usize = MAX_PLAINTEXT_BYTES;
/// Files below this size are read whole and travel in packs.
pub(super) const SMALL_FILE_BYTES: u64 = 512 << 10;
const BUFFER_BYTES: usize = 2 * MAX_CHUNK_BYTES;

// The cutter goes by two bytes at a time.
const _: () = assert!(MAX_CHUNK_BYTES.is_multiple_of(2));

/// Whether a stretch of so many bytes in a file of this size may be in a pack, with chunks of other files. What says no has a block of its own,
/// unless it is the same as a small file by chance.
pub(in crate::bundle) fn may_be_packed(file_bytes: u64, len: u32) -> bool {
    (len as usize) < MIN_CHUNK_BYTES || file_bytes < SMALL_FILE_BYTES
}

/// Entries of a gear table: one for each value of a byte.
const GEARS: usize = 256;

/// The rule by which one put cuts files.
pub(super) struct Cuts {
    /// A number for each value of a byte; secret but for public puts.
    gear: Vec<u64>,
    /// The same numbers shifted left by one.
    gear_shifted: Vec<u64>,
    /// Masks that the hash is tested with: before the average size, and after.
    masks: (u64, u64),
}

impl Cuts {
    /// The rule of a context: the published table for public puts, a table from the secret
    /// otherwise.
    pub(super) fn of(context: &Context) -> Self {
        let mut bytes = [0; GEARS * size_of::<u64>()];
        let gear: Vec<u64> = match context.fill_cut_table(&mut bytes) {
            true => {
                let (numbers, _) = bytes.as_chunks();
                numbers.iter().map(|n| u64::from_le_bytes(*n)).collect()
            }
            false => get_gear_with_seed(0).0.into_owned(),
        };
        Self {
            gear_shifted: gear.iter().map(|number| number << 1).collect(),
            gear,
            masks: select_masks(AVERAGE_CHUNK_BYTES, Normalization::Level1),
        }
    }

    /// Length of the first chunk of `bytes`.
    fn first(&self, bytes: &[u8]) -> usize {
        let (strict, loose) = self.masks;
        let (_, len) = cut_gear(
            bytes,
            MIN_CHUNK_BYTES,
            AVERAGE_CHUNK_BYTES,
            MAX_CHUNK_BYTES,
            strict,
            loose,
            strict << 1,
            loose << 1,
            &self.gear,
            &self.gear_shifted,
        );
        len
    }
}

/// Room for reading ahead, to be used again for the next stream.
pub(super) struct Buffer(Box<[u8]>);

impl Buffer {
    pub(super) fn new() -> Self {
        Self(vec![0; BUFFER_BYTES].into())
    }
}

/// Cuts what `input` gives.
pub(super) struct Chunker<'b, R> {
    input: R,
    cuts: &'b Cuts,
    buffer: &'b mut [u8],
    start: usize,
    end: usize,
    at_end: bool,
}

impl<'b, R: Read> Chunker<'b, R> {
    pub(super) fn new(input: R, cuts: &'b Cuts, buffer: &'b mut Buffer) -> Self {
        Self {
            input,
            cuts,
            buffer: &mut buffer.0,
            start: 0,
            end: 0,
            at_end: false,
        }
    }

    /// The next chunk; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.fill()?;
        if self.start == self.end {
            return Ok(None);
        }
        let window = &self.buffer[self.start..self.end];
        let cut = self.cuts.first(window);
        let chunk = window[..cut].to_vec();
        self.start += cut;
        Ok(Some(chunk))
    }

    /// Has the longest possible chunk, or all that is left, in the buffer.
    fn fill(&mut self) -> io::Result<()> {
        if self.at_end || self.end - self.start >= MAX_CHUNK_BYTES {
            return Ok(());
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        while self.end < self.buffer.len() {
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => {
                    self.at_end = true;
                    break;
                }
                Ok(len) => self.end += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::key::Key;
    use proptest::prelude::*;

    fn noise(len: usize, seed: u64) -> Vec<u8> {
        let mut out = vec![0; len];
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        hasher.finalize_xof().fill(&mut out);
        out
    }

    fn public() -> Cuts {
        Cuts::of(&Context::public())
    }

    fn secret(byte: u8) -> Cuts {
        Cuts::of(&Context::secret(Key::new([byte; 32])))
    }

    fn cut(input: impl Read, cuts: &Cuts) -> Vec<Vec<u8>> {
        let mut buffer = Buffer::new();
        let mut chunker = Chunker::new(input, cuts, &mut buffer);
        std::iter::from_fn(|| chunker.next().expect("memory does not fail")).collect()
    }

    fn lens(data: &[u8], cuts: &Cuts) -> Vec<usize> {
        cut(data, cuts).iter().map(Vec::len).collect()
    }

    /// Gives a few bytes at a time.
    struct Dribble<'a>(&'a [u8], usize);

    impl Read for Dribble<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let len = self.0.len().min(self.1).min(out.len());
            let (now, rest) = self.0.split_at(len);
            out[..len].copy_from_slice(now);
            self.0 = rest;
            Ok(len)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn chunks_join_to_the_whole_and_keep_their_limits(
            len in 0usize..12 << 20,
            step in 1000usize..1 << 20,
            seed in any::<u64>(),
            is_public: bool,
        ) {
            let cuts = if is_public { public() } else { secret(7) };
            let data = noise(len, seed);
            let chunks = cut(&data[..], &cuts);
            prop_assert_eq!(chunks.concat(), &data[..]);
            prop_assert!(chunks.iter().all(|chunk| chunk.len() <= MAX_CHUNK_BYTES));
            prop_assert!(chunks.iter().rev().skip(1).all(|chunk| chunk.len() > MIN_CHUNK_BYTES));
            // However the bytes arrive, the cuts are the same.
            prop_assert_eq!(cut(Dribble(&data, step), &cuts), chunks);
        }
    }

    #[test]
    fn an_insertion_changes_few_chunks() {
        let data = noise(32 << 20, 1);
        for cuts in [public(), secret(7)] {
            let before = cut(&data[..], &cuts);
            let mut changed = data.clone();
            changed.splice(10 << 20..10 << 20, [1, 2, 3]);
            let after = cut(&changed[..], &cuts);
            let new = after.iter().filter(|chunk| !before.contains(chunk)).count();
            assert!(new <= 3, "{new} of {} chunks are new", after.len());
        }
    }

    #[test]
    fn zeros_give_the_largest_chunks() {
        for cuts in [public(), secret(7)] {
            let zeros = io::repeat(0).take(2 * MAX_CHUNK_BYTES as u64 + 1);
            let chunks = cut(zeros, &cuts);
            let lens: Vec<usize> = chunks.iter().map(Vec::len).collect();
            assert_eq!(lens, [MAX_CHUNK_BYTES, MAX_CHUNK_BYTES, 1]);
        }
    }

    /// Where public puts cut is the same for everyone and for good: as fastcdc itself cuts.
    #[test]
    fn golden_cuts() {
        let data = noise(8 << 20, 1);
        let theirs = fastcdc::v2020::FastCDC::new(
            &data,
            MIN_CHUNK_BYTES,
            AVERAGE_CHUNK_BYTES,
            MAX_CHUNK_BYTES,
        );
        let theirs: Vec<usize> = theirs.map(|chunk| chunk.length).collect();
        assert_eq!(lens(&data, &public()), theirs);
        assert_eq!(lens(&data, &public()), GOLDEN_PUBLIC);
        assert_eq!(lens(&data, &secret(7)), GOLDEN_SECRET);
        assert_eq!(secret(7).gear[..2], GOLDEN_GEAR);
    }

    // Computed by another implementation (Python: blake3, and FastCDC written out).
    const GOLDEN_PUBLIC: [usize; 8] = [
        491_952, 1_049_634, 651_579, 532_654, 2_097_100, 1_043_251, 1_903_252, 619_186,
    ];
    const GOLDEN_SECRET: [usize; 10] = [
        427_384, 1_064_931, 498_310, 1_209_537, 566_097, 873_949, 884_810, 806_795, 1_605_508,
        451_287,
    ];
    const GOLDEN_GEAR: [u64; 2] = [0xcb13_6ef2_266d_935a, 0x97f5_889b_4ea8_e018];
}
