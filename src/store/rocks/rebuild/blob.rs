//! Blob files of RocksDB, read without its index. The format is that of RocksDB's
//! `db/blob/blob_log_format.h`, version 1, without compression:
//!
//! ```text
//! file   = header (30 bytes) | record ... | footer (32 bytes)
//! record = key length (8) | value length (8) | expiration (8) | header's checksum (4) | checksum (4) | key | value
//! ```
//!
//! All numbers are little endian; the checksums are CRC-32C, masked as RocksDB masks them. A key is
//! an arrival number, a value a block.
//!
//! Damage costs the record that it is in: where no record begins, the next one is looked for.

use crate::block::MAX_BLOCK_BYTES;

const FILE_HEADER_BYTES: usize = 30;
const HEADER_BYTES: usize = 32;
/// The part of a record's header that its checksum covers.
const COVERED_BYTES: usize = 24;
const KEY_BYTES: usize = 8;

/// One place of a blob file.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A record whose checksum is right.
    Whole {
        /// Arrival number of the block.
        arrival: u64,
        /// The block's bytes.
        value: &'a [u8],
    },
    /// A record whose bytes are damaged or cut off.
    Damaged,
}

/// Reads the records of a file, in order.
pub struct Records<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Records<'a> {
    /// `bytes` are those of the whole file.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: FILE_HEADER_BYTES,
        }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Found<'a>;

    fn next(&mut self) -> Option<Found<'a>> {
        while let Some(rest) = self.bytes.get(self.at..) {
            let header = Header::read(rest)?;
            if !header.is_right(rest) {
                // The end of the file looks so too, and so does what damage left of a header.
                self.at += 1;
                continue;
            }
            let len = HEADER_BYTES + KEY_BYTES + header.value_bytes;
            let body = rest.get(HEADER_BYTES..len);
            if let Some(body) = body
                && masked(crc32c::crc32c(body)) == header.checksum
                && let Some((key, value)) = body.split_first_chunk::<KEY_BYTES>()
            {
                self.at += len;
                let arrival = u64::from_be_bytes(*key);
                return Some(Found::Whole { arrival, value });
            }
            // A length that was damaged together with its checksum would lead too far: the next
            // record may begin anywhere behind this header.
            self.at += HEADER_BYTES;
            return Some(Found::Damaged);
        }
        None
    }
}

struct Header {
    key_bytes: u64,
    value_bytes: usize,
    own_checksum: u32,
    checksum: u32,
}

impl Header {
    /// The header that `bytes` begin with, if there are enough of them.
    fn read(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| -> Option<u64> {
            let bytes = bytes.get(at..at + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let sums = number(COVERED_BYTES)?;
        Some(Self {
            key_bytes: number(0)?,
            value_bytes: usize::try_from(number(8)?).unwrap_or(usize::MAX),
            own_checksum: sums as u32,
            checksum: (sums >> 32) as u32,
        })
    }

    /// Whether it is the header of a record. `bytes` are those it was read from.
    fn is_right(&self, bytes: &[u8]) -> bool {
        self.key_bytes == KEY_BYTES as u64
            && (1..=MAX_BLOCK_BYTES).contains(&self.value_bytes)
            && bytes
                .get(..COVERED_BYTES)
                .is_some_and(|covered| masked(crc32c::crc32c(covered)) == self.own_checksum)
    }
}

/// RocksDB stores checksums in this form, as checksums of checksums are weak.
const fn masked(checksum: u32) -> u32 {
    checksum.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(records: &[(u64, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; FILE_HEADER_BYTES];
        for (arrival, value) in records {
            let mut header = Vec::new();
            for number in [KEY_BYTES as u64, value.len() as u64, 0] {
                header.extend(number.to_le_bytes());
            }
            let body = [&arrival.to_be_bytes()[..], value].concat();
            for covered in [header.clone(), body.clone()] {
                header.extend(masked(crc32c::crc32c(&covered)).to_le_bytes());
            }
            bytes.extend(header);
            bytes.extend(body);
        }
        bytes.extend([7; 32]);
        bytes
    }

    fn arrivals(bytes: &[u8]) -> Vec<Option<u64>> {
        let arrival = |found| match found {
            Found::Whole { arrival, .. } => Some(arrival),
            Found::Damaged => None,
        };
        Records::new(bytes).map(arrival).collect()
    }

    #[test]
    fn damage_costs_the_record_that_it_is_in() {
        let value = [5; 5000];
        let whole = file(&[(1, &value), (2, &value[..4097]), (3, &value)]);
        let read: Vec<_> = Records::new(&whole).collect();
        let expected = |arrival, value| Found::Whole { arrival, value };
        assert_eq!(
            read,
            [
                expected(1, &value[..]),
                expected(2, &value[..4097]),
                expected(3, &value[..])
            ]
        );
        let second = FILE_HEADER_BYTES + HEADER_BYTES + KEY_BYTES + value.len();
        for at in 0..whole.len() {
            // Every byte of headers and keys, and some of the values.
            let is_near = at % 97 == 0 || (second..second + HEADER_BYTES + KEY_BYTES).contains(&at);
            if !is_near {
                continue;
            }
            let mut hurt = whole.clone();
            hurt[at] ^= 0x10;
            let found: Vec<u64> = arrivals(&hurt).into_iter().flatten().collect();
            assert!(found.len() >= 2, "{at}: {found:?}");
            assert!(found.iter().all(|n| (1..=3).contains(n)), "{at}: {found:?}");
        }
        for len in [
            0,
            1,
            29,
            30,
            31,
            62,
            70,
            second,
            second + 9,
            whole.len() - 33,
        ] {
            let found = arrivals(&whole[..len]);
            assert!(found.len() <= 3, "{len}: {found:?}");
        }
        assert_eq!(arrivals(&whole[..second + 500]), [Some(1), None]);
    }

    proptest::proptest! {
        #[test]
        fn nonsense_ends(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            Records::new(&bytes).for_each(drop);
        }
    }
}
