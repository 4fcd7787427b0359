//! AES-256-GCM with a fixed nonce, for keys that encrypt one payload only.
//!
//! The nonce is all zeros: safe only because a [`Key`] is derived from the very payload that it encrypts, so that one key never
//! meets two payloads. Never call this with a key of any other origin.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};

use super::key::Key;

/// Bytes that encryption adds at the end.
pub const TAG_BYTES: usize = 16;

/// The bytes were not made with this key, or were changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key does not open the block")]
pub struct WrongKey;

/// Encrypts `buffer` where it is and appends the tag.
pub fn encrypt(key: &Key, buffer: &mut Vec<u8>) {
    let tag = Aes256Gcm::new(key.as_bytes().into())
        .encrypt_inout_detached(&Nonce::default(), &[], buffer.as_mut_slice().into())
        .expect("a block is far below the 64 GiB limit of AES-GCM");
    buffer.extend_from_slice(&tag);
}

/// Decrypts `buffer` (ciphertext and tag) where it is and removes the tag.
///
/// # Errors
/// [`WrongKey`] when the tag does not fit; the buffer's content is then of no use.
pub fn decrypt(key: &Key, buffer: &mut Vec<u8>) -> Result<(), WrongKey> {
    let split = buffer.len().checked_sub(TAG_BYTES).ok_or(WrongKey)?;
    let tag = Tag::try_from(&buffer[split..]).map_err(|_| WrongKey)?;
    buffer.truncate(split);
    Aes256Gcm::new(key.as_bytes().into())
        .decrypt_inout_detached(&Nonce::default(), &[], buffer.as_mut_slice().into(), &tag)
        .map_err(|_| WrongKey)
}

#[cfg(test)]
mod tests {
    use super::*;

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
                assert_eq!(decrypt(&key, &mut broken), Err(WrongKey));
            }
            assert_eq!(
                decrypt(&Key::new([2; 32]), &mut buffer.clone()),
                Err(WrongKey)
            );
            decrypt(&key, &mut buffer).expect("the right key opens");
            assert_eq!(buffer, plain);
        }
        assert_eq!(decrypt(&key, &mut vec![0; 15]), Err(WrongKey));
    }
}
