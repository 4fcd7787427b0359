//! AES-256-GCM with a fixed nonce, for keys that encrypt one payload only.
//!
//! The nonce is all zeros: safe only because a [`Key`] is derived from the very payload that it encrypts, so that one key never
//! meets two payloads. Never call this with a key of any other origin.
//!
//! AWS-LC's implementation, twice as fast as the `aes-gcm` crate where the processor has AVX-512; the tests hold it against that crate.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::key::Key;

/// Bytes that encryption adds at the end.
pub const TAG_BYTES: usize = 16;

/// The bytes were not made with this key, or were changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key does not open the block")]
pub struct WrongKey;

/// Encrypts `buffer` where it is and appends the tag.
pub fn encrypt(key: &Key, buffer: &mut Vec<u8>) {
    let tag = cipher(key)
        .seal_in_place_separate_tag(nonce(), Aad::empty(), buffer)
        .expect("a block is far below the 64 GiB limit of AES-GCM");
    buffer.extend_from_slice(tag.as_ref());
}

/// Decrypts `sealed` (ciphertext and tag) into `plaintext`, in place of what that held.
///
/// # Errors
/// [`WrongKey`] when the tag does not fit; the plaintext is then of no use.
pub fn decrypt(key: &Key, sealed: &[u8], plaintext: &mut Vec<u8>) -> Result<(), WrongKey> {
    let (ciphertext, tag) = sealed.split_last_chunk::<TAG_BYTES>().ok_or(WrongKey)?;
    // Only what it grows by is cleared.
    plaintext.resize(ciphertext.len(), 0);
    cipher(key)
        .open_separate_gather(nonce(), Aad::empty(), ciphertext, tag, plaintext)
        .map_err(|_| WrongKey)
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
            assert_eq!(buffer.len(), len + TAG_BYTES);
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
        assert_eq!(decrypt(&key, &[0; 15], &mut Vec::new()), Err(WrongKey));
    }
}
