//! AES-256-GCM with a fixed nonce and a commitment to the key, for keys that encrypt one payload
//! only.
//!
//! ```text
//! sealed     = ciphertext | tag (16 bytes) | commitment (32 bytes)
//! commitment = BLAKE3 derive_key("libernet 2026-11 commitment to a block's key", key)
//! ```
//!
//! The nonce is all zeros: safe only because a [`Key`] is derived from the very payload that it
//! encrypts, so that one key never meets two payloads. Never call this with a key of any other
//! origin.
//!
//! The commitment is there because GCM alone does not commit: its tag can be made to fit two keys
//! that give two different plaintexts of one ciphertext ("How to Abuse and Fix Authenticated
//! Encryption Without Key Commitment", Albertini et al., 2022). Opening checks the commitment
//! first: to make bytes that open with two keys takes a collision of BLAKE3.
//!
//! AWS-LC's implementation, twice as fast as the `aes-gcm` crate where the processor has AVX-512; the tests hold it against that crate.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::hash;
use super::key::Key;

/// Bytes of a tag of AES-GCM.
pub const TAG_BYTES: usize = 16;

/// Bytes of the commitment to the key.
const COMMITMENT_BYTES: usize = 32;

/// Bytes that encryption adds at the end.
pub const OVERHEAD_BYTES: usize = TAG_BYTES + COMMITMENT_BYTES;

/// Purpose of the commitment.
const COMMITMENT_CONTEXT: &str = "libernet 2026-11 commitment to a block's key";

/// The bytes were not made with this key, or were changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key does not open the block")]
pub struct WrongKey;

/// Encrypts `buffer` where it is and appends the tag and the commitment.
pub fn encrypt(key: &Key, buffer: &mut Vec<u8>) {
    let tag = cipher(key)
        .seal_in_place_separate_tag(nonce(), Aad::empty(), buffer)
        .expect("a block is far below the 64 GiB limit of AES-GCM");
    buffer.extend_from_slice(tag.as_ref());
    buffer.extend_from_slice(&commitment(key));
}

/// Decrypts `sealed` (ciphertext, tag and commitment) into `plaintext`, in place of what that held.
///
/// # Errors
/// [`WrongKey`] when the commitment or the tag does not fit; the plaintext is then of no use.
pub fn decrypt(key: &Key, sealed: &[u8], plaintext: &mut Vec<u8>) -> Result<(), WrongKey> {
    let (sealed, committed) = sealed
        .split_last_chunk::<COMMITMENT_BYTES>()
        .ok_or(WrongKey)?;
    if *committed != commitment(key) {
        return Err(WrongKey);
    }
    let (ciphertext, tag) = sealed.split_last_chunk::<TAG_BYTES>().ok_or(WrongKey)?;
    // Only what it grows by is cleared.
    plaintext.resize(ciphertext.len(), 0);
    cipher(key)
        .open_separate_gather(nonce(), Aad::empty(), ciphertext, tag, plaintext)
        .map_err(|_| WrongKey)
}

/// Names the key, and says nothing about it.
fn commitment(key: &Key) -> [u8; COMMITMENT_BYTES] {
    hash::derive_key(COMMITMENT_CONTEXT, key.as_bytes())
}

fn cipher(key: &Key) -> LessSafeKey {
    // "Less safe" because the caller chooses the nonce: see the top of this file for why ours may be fixed.
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_bytes()).expect("a key has 32 bytes"))
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

#[cfg(test)]
mod tests {
    use super::*;
    use aes_gcm::aead::{AeadInOut, KeyInit};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_implementations_agree(bytes in proptest::collection::vec(any::<u8>(), 0..5000), key: [u8; 32]) {
            let mut ours = bytes.clone();
            encrypt(&Key::new(key), &mut ours);
            let mut reference = bytes;
            let tag = aes_gcm::Aes256Gcm::new(&key.into())
                .encrypt_inout_detached(&Default::default(), &[], reference.as_mut_slice().into())
                .expect("short enough");
            reference.extend_from_slice(&tag);
            reference.extend_from_slice(&commitment(&Key::new(key)));
            prop_assert_eq!(ours, reference);
        }
    }

    #[test]
    fn opens_only_what_it_sealed() {
        let key = Key::new([1; 32]);
        for len in [0, 1, 15, 16, 17, 1000] {
            let plain = vec![9u8; len];
            let mut buffer = plain.clone();
            encrypt(&key, &mut buffer);
            assert_eq!(buffer.len(), len + OVERHEAD_BYTES);
            for flip in 0..buffer.len() {
                let mut broken = buffer.clone();
                broken[flip] ^= 1;
                assert_eq!(decrypt(&key, &broken, &mut Vec::new()), Err(WrongKey));
            }
            let wrong = Key::new([2; 32]);
            assert_eq!(decrypt(&wrong, &buffer, &mut Vec::new()), Err(WrongKey));
            for held in [0, len, 2000] {
                let mut opened = vec![7; held];
                decrypt(&key, &buffer, &mut opened).expect("the right key opens");
                assert_eq!(opened, plain);
            }
        }
        assert_eq!(
            decrypt(&key, &[0; OVERHEAD_BYTES - 1], &mut Vec::new()),
            Err(WrongKey)
        );
    }

    /// The attack on GCM without a commitment: one ciphertext whose tag fits two keys. The tag is a
    /// polynomial in GHASH's key, so that the last block of a ciphertext can be solved for.
    #[test]
    fn bytes_whose_tag_fits_two_keys_open_with_neither_or_one() {
        let keys = [Key::new([1; 32]), Key::new([2; 32])];
        let (ciphertext, tag) = colliding(&keys);
        let opens_without = |key: &Key| {
            let mut plain = vec![0; ciphertext.len()];
            cipher(key)
                .open_separate_gather(nonce(), Aad::empty(), &ciphertext, &tag, &mut plain)
                .is_ok()
        };
        assert!(keys.iter().all(opens_without), "GCM itself opens with both");
        for committed in &keys {
            let mut sealed = [&ciphertext[..], &tag].concat();
            sealed.extend_from_slice(&commitment(committed));
            let opens = |key: &Key| decrypt(key, &sealed, &mut Vec::new()).is_ok();
            assert_eq!(keys.iter().filter(|key| opens(key)).count(), 1);
        }
    }

    /// A ciphertext of two blocks, the second solved for, and a tag that both keys give.
    fn colliding(keys: &[Key; 2]) -> (Vec<u8>, [u8; TAG_BYTES]) {
        // H and the mask of the tag: encryptions of 0 and of the first counter, nonce 0.
        let parts = keys.each_ref().map(|key| {
            use aes_gcm::aes::cipher::{BlockCipherEncrypt, KeyInit as _};
            let aes = aes_gcm::aes::Aes256::new(key.as_bytes().into());
            let encrypted = |block: u128| {
                let mut bytes = block.to_be_bytes().into();
                aes.encrypt_block(&mut bytes);
                u128::from_be_bytes(bytes.into())
            };
            (encrypted(0), encrypted(1))
        });
        let first = 0x0123_4567_89ab_cdef_u128;
        // No additional data, 256 bits of ciphertext.
        let lengths = 256_u128;
        // tag = first H^3 + second H^2 + lengths H + mask: equal for both keys, linear in `second`.
        let known = parts.map(|(h, mask)| {
            let square = times(h, h);
            times(first, times(square, h)) ^ times(lengths, h) ^ mask
        });
        let squares = parts.map(|(h, _)| times(h, h));
        let second = times(known[0] ^ known[1], inverse(squares[0] ^ squares[1]));
        let tag = known[0] ^ times(second, squares[0]);
        assert_eq!(tag, known[1] ^ times(second, squares[1]));
        let ciphertext = [first.to_be_bytes(), second.to_be_bytes()].concat();
        (ciphertext, tag.to_be_bytes())
    }

    /// Product in GHASH's field (NIST SP 800-38D, 6.3): the first bit is the most significant one.
    fn times(a: u128, b: u128) -> u128 {
        let (mut sum, mut power) = (0, b);
        for bit in (0..128).rev() {
            if (a >> bit) & 1 == 1 {
                sum ^= power;
            }
            power = (power >> 1) ^ ((power & 1) * (0xe1 << 120));
        }
        sum
    }

    /// a^(2^128 - 2).
    fn inverse(a: u128) -> u128 {
        let (mut result, mut power) = (1 << 127, a);
        for _ in 1..128 {
            power = times(power, power);
            result = times(result, power);
        }
        result
    }
}
