//! Keys from secrets: HKDF for strong ones, Argon2id for passphrases.
//!
//! A key is derived for one purpose, which its salt and info name. What a person can remember goes through [`stretch`] only;
//! everything else is random enough for [`hkdf_sha256`].

use argon2::{Algorithm, Argon2, Params, Version};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::key::Key;

/// A key of 32 bytes from strong key material: HKDF-SHA-256 (RFC 5869).
pub fn hkdf_sha256(salt: &[u8], material: &[u8], info: &[u8]) -> Key {
    let mut bytes = Zeroizing::new([0; Key::BYTES]);
    Hkdf::<Sha256>::new(Some(salt), material)
        .expand(info, bytes.as_mut_slice())
        .expect("32 bytes are one output of SHA-256");
    Key::new(*bytes)
}

/// What one guess of a passphrase costs (Argon2id, RFC 9106).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over that memory.
    pub passes: u32,
    /// Lanes that may be filled in parallel.
    pub lanes: u32,
}

impl Cost {
    /// What new secrets get: the second recommendation of RFC 9106 with one lane, 64 MiB and three passes.
    pub const DEFAULT: Self = Self {
        memory_kib: 64 * 1024,
        passes: 3,
        lanes: 1,
    };

    /// The most that is accepted from outside: 1 GiB, so that a hostile file can't exhaust the machine.
    pub const MAX: Self = Self {
        memory_kib: 1024 * 1024,
        passes: 16,
        lanes: 16,
    };

    /// Whether none of the three is beyond [`Cost::MAX`].
    pub const fn is_bearable(&self) -> bool {
        self.memory_kib <= Self::MAX.memory_kib
            && self.passes <= Self::MAX.passes
            && self.lanes <= Self::MAX.lanes
    }
}

/// The passphrase could not be turned into a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StretchError {
    /// Beyond [`Cost::MAX`], or less than Argon2 needs; or the salt is shorter than 8 bytes.
    #[error("the parameters of the passphrase are out of bounds")]
    Parameters,
    /// The system has less memory than the cost asks for.
    #[error("there is not enough memory to check the passphrase")]
    Memory,
}

/// A key from a passphrase: Argon2id, version 0x13. Slow on purpose: run it where a thread may be blocked.
///
/// # Errors
/// [`StretchError`]; nothing is allocated for a cost that is out of bounds.
pub fn stretch(passphrase: &[u8], salt: &[u8], cost: Cost) -> Result<Key, StretchError> {
    if !cost.is_bearable() {
        return Err(StretchError::Parameters);
    }
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(Key::BYTES))
        .map_err(|_| StretchError::Parameters)?;
    let mut bytes = Zeroizing::new([0; Key::BYTES]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase, salt, bytes.as_mut_slice())
        .map_err(|error| match error {
            argon2::Error::OutOfMemory => StretchError::Memory,
            _ => StretchError::Parameters,
        })?;
    Ok(Key::new(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5869, test cases 1 and 3, of which 42 bytes are given there: the first 32.
    #[test]
    fn golden_hkdf() {
        let salt: Vec<u8> = (0..=0x0c).collect();
        let info: Vec<u8> = (0xf0..=0xf9).collect();
        assert_eq!(
            hkdf_sha256(&salt, &[0x0b; 22], &info).to_hex().as_str(),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
        );
        assert_eq!(
            hkdf_sha256(b"", &[0x0b; 22], b"").to_hex().as_str(),
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
        );
    }

    #[test]
    fn every_input_of_a_passphrase_counts() {
        let cost = Cost {
            memory_kib: 64,
            passes: 1,
            lanes: 1,
        };
        let key = stretch(b"words", b"saltsalt", cost).expect("a key");
        assert_eq!(stretch(b"words", b"saltsalt", cost), Ok(key.clone()));
        assert_ne!(stretch(b"word", b"saltsalt", cost), Ok(key.clone()));
        assert_ne!(stretch(b"words", b"saltsalu", cost), Ok(key.clone()));
        let slower = Cost { passes: 2, ..cost };
        assert_ne!(stretch(b"words", b"saltsalt", slower), Ok(key));
    }

    #[test]
    fn costs_out_of_bounds_are_refused_before_anything_is_allocated() {
        assert!(Cost::DEFAULT.is_bearable() && Cost::MAX.is_bearable());
        let max = Cost::MAX;
        for cost in [
            Cost {
                memory_kib: max.memory_kib + 1,
                ..max
            },
            Cost {
                passes: max.passes + 1,
                ..max
            },
            Cost {
                lanes: max.lanes + 1,
                ..max
            },
            Cost {
                memory_kib: 7,
                passes: 1,
                lanes: 1,
            },
            Cost {
                memory_kib: 64,
                passes: 0,
                lanes: 1,
            },
            Cost {
                memory_kib: 64,
                passes: 1,
                lanes: 0,
            },
        ] {
            assert_eq!(
                stretch(b"p", b"saltsalt", cost),
                Err(StretchError::Parameters),
                "{cost:?}"
            );
        }
        let small = Cost {
            memory_kib: 64,
            passes: 1,
            lanes: 1,
        };
        assert_eq!(
            stretch(b"p", b"short", small),
            Err(StretchError::Parameters)
        );
    }
}
