//! Generations of the keys that seal an owner's backups.
//!
//! When a machine is turned out the others go on with keys that it does not have. The words give
//! the key of the last generation that there can be, and each key gives that of the generation
//! before it: so the words open everything, a machine with the present key opens all that is older,
//! and no machine comes to a later key by itself.

use crate::crypto::kdf::hkdf_sha256;
use crate::crypto::key::Key;

use super::keys::OWNER_SALT;
use super::words::Phrase;

const LAST_INFO: &[u8] = b"generation key";
const BEFORE_INFO: &[u8] = b"generation key of before";
const BACKUP_ROOT_INFO: &[u8] = b"backup root key";
const CONVERGENCE_INFO: &[u8] = b"convergence secret";

/// Number of the last generation: so many times less one keys can be changed.
pub const LAST_GENERATION: u8 = u8::MAX;

/// Key of one generation, which gives those of all before it.
#[derive(Clone, PartialEq, Eq)]
pub struct GenerationKey {
    number: u8,
    key: Key,
}

impl GenerationKey {
    /// The key of the generation with this number.
    pub const fn new(number: u8, key: Key) -> Self {
        Self { number, key }
    }

    /// The key of the last generation: what the words give.
    pub(super) fn last(phrase: &Phrase) -> Self {
        let key = hkdf_sha256(OWNER_SALT, phrase.entropy(), LAST_INFO);
        Self::new(LAST_GENERATION, key)
    }

    /// The generation's number.
    pub const fn number(&self) -> u8 {
        self.number
    }

    /// The key itself.
    pub const fn key(&self) -> &Key {
        &self.key
    }

    /// The key of the generation before; none before the first.
    pub fn before(&self) -> Option<Self> {
        let number = self.number.checked_sub(1)?;
        let key = hkdf_sha256(OWNER_SALT, self.key.as_bytes(), BEFORE_INFO);
        Some(Self::new(number, key))
    }

    /// The key of an earlier generation, or this one; none of a later one.
    pub fn at(&self, number: u8) -> Option<Self> {
        self.all().find(|key| key.number == number)
    }

    /// This one and all before it, the latest first.
    pub fn all(&self) -> impl Iterator<Item = Self> {
        std::iter::successors(Some(self.clone()), Self::before)
    }

    /// Root key that opens and seals the owner's head entries, each with the key of its log, and
    /// the openers of leases in this generation.
    pub fn backup_root(&self) -> Key {
        hkdf_sha256(OWNER_SALT, self.key.as_bytes(), BACKUP_ROOT_INFO)
    }

    /// Key that makes the owner's equal files equal blocks in this generation, and nobody else's.
    pub fn convergence(&self) -> Key {
        hkdf_sha256(OWNER_SALT, self.key.as_bytes(), CONVERGENCE_INFO)
    }
}

impl std::fmt::Debug for GenerationKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GenerationKey({}, ..)", self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with HMAC of another library (Python's).
    #[test]
    fn golden_vectors() {
        let entropy = std::array::from_fn(|at| u8::try_from(at).expect("16 bytes"));
        let last = GenerationKey::last(&Phrase::from_entropy(entropy));
        for (number, key, root, convergence) in [
            (
                0,
                "11f077d9e052c797f0a18bfe6e3d8ea4d44926119f8510426fab516fe30a064e",
                "566ea0b148d39cb3f33bddcedb1eb8023b57b71c28ae9635a0a9b3a728d8d027",
                "a852bfbc8586a26466214f414dec2656de25726815d2069315c421b9669e083a",
            ),
            (
                1,
                "cc413d7e6a234b5e8db9e76ab26e1eb1a01887837690c02eee9aee7ab8c6c6ed",
                "9246424d918d66aff3bbd89a50a2f380d38345a6d3ea385764e1e6f05672ab24",
                "ff08c2e7c85fe04768fcecbd7e119d8f9dad934b08da86777ca9ea955fd6d720",
            ),
            (
                255,
                "4154ec43fd418c49ebca802d8be1989d66bf670cf6bac0226a51f4938af10a89",
                "cea91fc346a970ca3f4f2ecd2a200d80843af8d11a21e9e75d75472d53e6e202",
                "38b6fef0d8606a4affa43a5bc3af9b9bbae7c62051cfe94efd543fee4067846f",
            ),
        ] {
            let generation = last.at(number).expect("not later");
            assert_eq!(generation.number(), number);
            assert_eq!(generation.key().to_hex().as_str(), key);
            assert_eq!(generation.backup_root().to_hex().as_str(), root);
            assert_eq!(generation.convergence().to_hex().as_str(), convergence);
        }
    }

    #[test]
    fn a_key_gives_those_before_it_and_none_after() {
        let last = GenerationKey::last(&Phrase::random());
        let third = last.at(3).expect("earlier");
        assert_eq!(third.at(4), None);
        assert_eq!(third.at(1), last.at(1));
        assert_eq!(third.all().count(), 4);
        assert_eq!(last.all().count(), usize::from(LAST_GENERATION) + 1);
        let text = format!("{third:?}");
        assert!(!text.contains(third.key().to_hex().as_str()), "{text}");
    }
}
