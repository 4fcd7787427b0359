//! How keepers of a head are found, and how they and the owner's machines know each other.
//!
//! No head lies in the DHT. A keeper of one announces itself there at one of a head's few [places],
//! which change by the month; a place follows from the head's id, and that from the owner's public
//! key, which nobody knows but the owner's machines, the words, and holders of the owner's leases.
//! Each keeper takes a place of its own: so a key of the DHT never ties two of them.
//!
//! A keeper that is asked for a head learns of none that it did not know: a question carries no name
//! but a proof, which differs for each peer and each time. What is told is sealed so that only one
//! who knows the head's id reads it.
//!
//! [places]: PLACES

use zeroize::Zeroizing;

use super::MAX_RECORD_BYTES;
use crate::crypto::hash;
use crate::crypto::key::Key;
use crate::crypto::secretbox::{self, OVERHEAD_BYTES};
use crate::id::BlockId;
use crate::time::Timestamp;

/// Places of a head in one month, of which each keeper takes one. A reader looks at all of them.
pub const PLACES: u16 = 16;
/// Longest head as it is told.
pub const MAX_SEALED_BYTES: usize =
    (LENGTH_BYTES + MAX_RECORD_BYTES).div_ceil(STEP_BYTES) * STEP_BYTES + OVERHEAD_BYTES;

/// Told heads are padded to multiples of this.
const STEP_BYTES: usize = 4096;
const LENGTH_BYTES: usize = 4;
const DAY_MS: u64 = 24 * 3600 * 1000;
/// A month is as long for everybody: no calendar counts.
const MONTH_MS: u64 = 30 * DAY_MS;
const PLACE_DOMAIN: &[u8] = b"libernet place of a head v1";
const ASKING_CONTEXT: &str = "libernet 2026-12 question for a head";
const TELLING_CONTEXT: &str = "libernet 2026-12 told head";

/// The key at which the keeper of a place announces itself. `place` counts from 0.
pub fn place_key(head: &BlockId, month: u64, place: u16) -> BlockId {
    let (month, place) = (month.to_be_bytes(), place.to_be_bytes());
    hash::sha384_id(&[PLACE_DOMAIN, &head.to_multihash(), &month, &place].concat())
}

/// The place that a keeper tries first. Others follow it in order.
pub fn first_place(head: &BlockId, month: u64, keeper: &[u8]) -> u16 {
    let key = hash::derive_key(ASKING_CONTEXT, &head.to_multihash());
    let digest = hash::keyed(&key, &[&month.to_be_bytes(), keeper].concat());
    u16::from_be_bytes([digest[0], digest[1]]) % PLACES
}

/// Months in which a keeper announces itself: this one, and close to its end the next.
pub fn months_to_announce(now: Timestamp) -> Vec<u64> {
    let month = now.0 / MONTH_MS;
    let mut months = vec![month];
    if now.0 % MONTH_MS >= MONTH_MS - DAY_MS {
        months.push(month + 1);
    }
    months
}

/// Months in which a keeper is looked for: this one, the last one, and close to its end the next:
/// clocks differ.
pub fn months_to_look(now: Timestamp) -> Vec<u64> {
    let mut months = months_to_announce(now);
    months.extend(months[0].checked_sub(1));
    months
}

/// Secrets of a head that only those share who know its id.
#[derive(Clone)]
pub struct Acquaintance {
    asking: Zeroizing<[u8; 32]>,
    telling: Key,
}

impl Acquaintance {
    /// Of a head.
    pub fn new(head: &BlockId) -> Self {
        let head = head.to_multihash();
        Self {
            asking: Zeroizing::new(hash::derive_key(ASKING_CONTEXT, &head)),
            telling: Key::new(hash::derive_key(TELLING_CONTEXT, &head)),
        }
    }

    /// Proof of a question with a random `nonce`, by the names of the peer that asks and the peer
    /// that is asked.
    pub fn proof(&self, nonce: &[u8; 32], asker: &[u8], asked: &[u8]) -> [u8; 32] {
        // The first of the two names tells its own length, as every multihash does.
        hash::keyed(&self.asking, &[&nonce[..], asker, asked].concat())
    }

    /// A record as it is told in one question, or in the answer to it.
    pub fn seal(&self, proof: &[u8; 32], direction: Direction, record: &[u8]) -> Vec<u8> {
        let length = u32::try_from(record.len()).unwrap_or(u32::MAX);
        let mut padded = length.to_be_bytes().to_vec();
        padded.extend_from_slice(record);
        padded.resize(padded.len().next_multiple_of(STEP_BYTES), 0);
        secretbox::seal(&self.telling, &direction.context(proof), &padded)
    }

    /// The record that was told; none when it was told of another head, in another question, or in
    /// the other direction.
    pub fn open(&self, proof: &[u8; 32], direction: Direction, told: &[u8]) -> Option<Vec<u8>> {
        if told.len() > MAX_SEALED_BYTES {
            return None;
        }
        let opened = secretbox::open(&self.telling, &direction.context(proof), told).ok()?;
        let (length, rest) = opened.split_first_chunk::<LENGTH_BYTES>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        rest.get(..length).map(<[u8]>::to_vec)
    }
}

/// Direction in which a head is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// By the peer that asks.
    Question,
    /// By the peer that is asked.
    Answer,
}

impl Direction {
    fn context(self, proof: &[u8; 32]) -> Vec<u8> {
        let mark = match self {
            Self::Question => b'q',
            Self::Answer => b'a',
        };
        [&proof[..], &[mark]].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn head(n: u8) -> BlockId {
        BlockId::from_sha384([n; 48])
    }

    #[test]
    fn no_two_places_of_any_head_or_month_have_a_key_in_common() {
        let mut keys = BTreeSet::new();
        for n in 1..4 {
            for month in [0, 1, 2, u64::MAX] {
                keys.extend((0..PLACES).map(|place| place_key(&head(n), month, place)));
            }
        }
        assert_eq!(keys.len(), 3 * 4 * usize::from(PLACES));
    }

    #[test]
    fn golden_place_and_proof() {
        let key = place_key(&head(7), 684, 3).to_multihash();
        let golden = "dbeb88b005b83a56c9f48dc3380c360e2e2a3cc8b9912ce05446af30bd990872a7d8883ab840db427a3577eb5ec50c52";
        assert_eq!(data_encoding::HEXLOWER.encode(&key[2..]), golden);
        let proof = Acquaintance::new(&head(7)).proof(&[1; 32], b"asker", b"asked");
        assert_eq!(
            data_encoding::HEXLOWER.encode(&proof),
            "c2e6d5bd8910b1e2d38f2a6df75f73cd6eec025e11b87f0468ed33e988413668"
        );
    }

    #[test]
    fn keepers_begin_at_different_places() {
        let first = |n: u8| first_place(&head(1), 5, &[n; 38]);
        let places: BTreeSet<u16> = (0..=255).map(first).collect();
        assert_eq!(places.len(), usize::from(PLACES));
        assert!(places.iter().all(|place| *place < PLACES));
    }

    #[test]
    fn around_the_end_of_a_month_nobody_is_missed() {
        let start = 700 * MONTH_MS;
        for hours in (0..90 * 24).step_by(7) {
            let announced = months_to_announce(Timestamp(start + hours * 3600 * 1000));
            // A reader whose clock is a day off, or that comes when the keeper is gone for a while:
            // announcements last two days.
            for later in [-24, 0, 24, 48] {
                let at = start.saturating_add_signed((hours as i64 + later) * 3600 * 1000);
                let looked = months_to_look(Timestamp(at));
                let common = announced.iter().any(|month| looked.contains(month));
                assert!(common, "{hours} {later}");
            }
        }
        assert_eq!(months_to_look(Timestamp(0)), [0]);
    }

    #[test]
    fn what_is_told_is_read_by_an_acquaintance_in_this_question_only() {
        let (knows, other) = (Acquaintance::new(&head(1)), Acquaintance::new(&head(2)));
        let proof = knows.proof(&[3; 32], b"a", b"b");
        for bytes in [0, 1, 5000, MAX_RECORD_BYTES] {
            let record = vec![7; bytes];
            let told = knows.seal(&proof, Direction::Answer, &record);
            assert!(told.len() <= MAX_SEALED_BYTES);
            assert_eq!((told.len() - OVERHEAD_BYTES) % STEP_BYTES, 0);
            assert_eq!(knows.open(&proof, Direction::Answer, &told), Some(record));
            assert_eq!(knows.open(&proof, Direction::Question, &told), None);
            assert_eq!(knows.open(&[0; 32], Direction::Answer, &told), None);
            assert_eq!(other.open(&proof, Direction::Answer, &told), None);
            assert_eq!(knows.open(&proof, Direction::Answer, &told[1..]), None);
        }
        let long = vec![0; MAX_SEALED_BYTES + 1];
        assert_eq!(knows.open(&proof, Direction::Answer, &long), None);
        let proofs: BTreeSet<[u8; 32]> = [
            knows.proof(&[3; 32], b"a", b"b"),
            knows.proof(&[4; 32], b"a", b"b"),
            knows.proof(&[3; 32], b"b", b"a"),
            other.proof(&[3; 32], b"a", b"b"),
        ]
        .into();
        assert_eq!(proofs.len(), 4, "no proof serves for another question");
    }
}
