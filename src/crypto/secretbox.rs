//! AES-256-GCM with a random nonce, for keys that seal many small payloads.
//!
//! The sealed form is nonce, ciphertext, tag. With random nonces of 96 bits one key may seal some 2^32 payloads.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use zeroize::Zeroizing;

use super::aead::WrongKey;
use super::key::Key;

/// Bytes of the nonce at the start.
const NONCE_BYTES: usize = 12;

/// Seals `plaintext`, bound to `aad`. The result is 28 bytes longer.
pub fn seal(key: &Key, aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let nonce: [u8; NONCE_BYTES] = rand::random();
    let payload = Payload {
        msg: plaintext,
        aad,
    };
    let sealed = Aes256Gcm::new(key.as_bytes().into())
        .encrypt(&Nonce::from(nonce), payload)
        .expect("a payload in memory is far below the 64 GiB limit of AES-GCM");
    [&nonce[..], &sealed].concat()
}

/// Opens what [`seal`] made with the same key and `aad`.
///
/// # Errors
/// [`WrongKey`].
pub fn open(key: &Key, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, WrongKey> {
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(WrongKey)?;
    Aes256Gcm::new(key.as_bytes().into())
        .decrypt(&Nonce::from(*nonce), Payload { msg: sealed, aad })
        .map(Zeroizing::new)
        .map_err(|_| WrongKey)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_what_it_sealed() {
        let key = Key::new([1; 32]);
        let sealed = seal(&key, b"about", b"secret");
        assert_eq!(sealed.len(), 6 + 28);
        assert_ne!(sealed, seal(&key, b"about", b"secret"), "nonces differ");
        assert_eq!(**open(&key, b"about", &sealed).expect("opens"), *b"secret");
        assert_eq!(open(&key, b"other", &sealed), Err(WrongKey));
        assert_eq!(open(&Key::new([2; 32]), b"about", &sealed), Err(WrongKey));
        for flip in 0..sealed.len() {
            let mut broken = sealed.clone();
            broken[flip] ^= 1;
            assert_eq!(open(&key, b"about", &broken), Err(WrongKey));
        }
        for len in 0..sealed.len() {
            assert_eq!(open(&key, b"about", &sealed[..len]), Err(WrongKey));
        }
    }
}
