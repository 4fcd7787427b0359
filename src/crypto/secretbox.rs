//! AES-256-GCM with a random nonce, for keys that live longer than one payload.
//!
//! Sealed form: nonce (12 bytes), ciphertext, tag (16 bytes). What is authenticated but not hidden is passed as `context`; the
//! same bytes must be given to open. A random nonce is safe for about 2^32 payloads a key (NIST SP 800-38D, 8.3); whoever uses
//! this seals a few thousand at most. Deliberately not for blocks: their keys and nonces are those of [`super::aead`].

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::aead::{TAG_BYTES, WrongKey};
use super::key::Key;
use super::random;

/// Bytes of the nonce at the start.
const NONCE_BYTES: usize = 12;

/// Bytes that sealing adds.
pub const OVERHEAD_BYTES: usize = NONCE_BYTES + TAG_BYTES;

/// Encrypts `plain` and authenticates it together with `context`.
pub fn seal(key: &Key, context: &[u8], plain: &[u8]) -> Vec<u8> {
    seal_with(key, *random::bytes(), context, plain)
}

/// As [`seal`] with a nonce from outside, so that golden bytes can be made. A nonce must never be used twice with one key.
fn seal_with(key: &Key, nonce: [u8; NONCE_BYTES], context: &[u8], plain: &[u8]) -> Vec<u8> {
    // All of it at once: a buffer that grows would leave copies of the plaintext behind.
    let mut sealed = Vec::with_capacity(plain.len() + OVERHEAD_BYTES);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(plain);
    let (_, plain) = sealed.split_at_mut(NONCE_BYTES);
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = cipher(key)
        .seal_in_place_separate_tag(nonce, Aad::from(context), plain)
        .expect("a secret is far below the 64 GiB limit of AES-GCM");
    sealed.extend_from_slice(tag.as_ref());
    sealed
}

/// Decrypts what [`seal`] made.
///
/// # Errors
/// [`WrongKey`] when the key or `context` is another one, or the bytes were changed.
pub fn open(key: &Key, context: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, WrongKey> {
    let (nonce, rest) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(WrongKey)?;
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let mut plain = Zeroizing::new(rest.to_vec());
    let len = cipher(key)
        .open_in_place(nonce, Aad::from(context), &mut plain)
        .map_err(|_| WrongKey)?
        .len();
    plain.truncate(len);
    Ok(plain)
}

fn cipher(key: &Key) -> LessSafeKey {
    // "Less safe" because the caller chooses the nonce: here a random one each time.
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_bytes()).expect("a key has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Test case 16 of McGrew and Viega, "The Galois/Counter Mode of Operation": AES-256 with additional data.
    #[test]
    fn golden_bytes() {
        let hex = |text: &str| {
            data_encoding::HEXLOWER
                .decode(text.as_bytes())
                .expect("hex")
        };
        let key = "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308"
            .parse::<Key>()
            .expect("a key");
        let nonce = hex("cafebabefacedbaddecaf888");
        let plain = hex(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        );
        let context = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let sealed = seal_with(
            &key,
            nonce.as_slice().try_into().expect("12 bytes"),
            &context,
            &plain,
        );
        let cipher = "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662";
        let tag = "76fc6ece0f4e1768cddf8853bb2d551b";
        assert_eq!(
            sealed,
            [nonce, hex(cipher), hex(tag)].concat(),
            "nonce, ciphertext, tag"
        );
    }

    #[test]
    fn opens_only_what_was_sealed_as_it_was_sealed() {
        let key = Key::new([1; 32]);
        let sealed = seal(&key, b"about", b"secret");
        assert_eq!(sealed.len(), 6 + OVERHEAD_BYTES);
        assert_ne!(sealed, seal(&key, b"about", b"secret"), "nonces differ");
        assert_eq!(
            open(&key, b"about", &sealed).expect("opens").as_slice(),
            b"secret"
        );
        assert_eq!(open(&key, b"abouT", &sealed), Err(WrongKey));
        assert_eq!(open(&Key::new([2; 32]), b"about", &sealed), Err(WrongKey));
        for at in 0..sealed.len() {
            let mut broken = sealed.clone();
            broken[at] ^= 1;
            assert_eq!(open(&key, b"about", &broken), Err(WrongKey));
            assert_eq!(open(&key, b"about", &sealed[..at]), Err(WrongKey));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(open(&Key::new([1; 32]), b"", &bytes), Err(WrongKey));
        }
    }
}
