//! Sealing for the holder of an ed25519 key: what only that key's secret opens.
//!
//! ECIES: X25519 between a new key and the recipient's (an ed25519 key and the X25519 key of the
//! same secret may be used beside each other: <https://eprint.iacr.org/2021/509>), HKDF-SHA-256
//! over the shared point and both public keys, AES-256-GCM. Sealed form: the new public key (32
//! bytes), then what [`super::secretbox`] makes.
//!
//! The sealed form does not tell who made it: a signature around it does.

use ed25519_dalek::{SigningKey, VerifyingKey};
use zeroize::Zeroizing;

use super::kdf::hkdf_sha256;
use super::key::Key;
use super::{random, secretbox};

/// Bytes that sealing adds.
pub const OVERHEAD_BYTES: usize = 32 + secretbox::OVERHEAD_BYTES;

const SALT: &[u8] = b"libernet handover v1";

/// The key can't be used, or does not open it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key does not open it")]
pub struct WrongKey;

/// Seals `plain` for `recipient` together with `context`, which is authenticated and not hidden.
///
/// # Errors
/// [`WrongKey`] when `recipient` is no key, or a weak one.
pub fn seal(recipient: &[u8; 32], context: &[u8], plain: &[u8]) -> Result<Vec<u8>, WrongKey> {
    let seed = random::bytes();
    let new = SigningKey::from_bytes(&seed);
    let sender = new.verifying_key().to_bytes();
    let key = shared(&new, recipient, &sender, recipient)?;
    let sealed = secretbox::seal(&key, context, plain);
    Ok([&sender[..], &sealed].concat())
}

/// Opens what [`seal`] made.
///
/// # Errors
/// [`WrongKey`] when it was made for another key or with another `context`, or was changed.
pub fn open(
    recipient: &SigningKey,
    context: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, WrongKey> {
    let (sender, sealed) = sealed.split_first_chunk::<32>().ok_or(WrongKey)?;
    let own = recipient.verifying_key().to_bytes();
    let key = shared(recipient, sender, sender, &own)?;
    secretbox::open(&key, context, sealed).map_err(|_| WrongKey)
}

/// The key that `own` and the owner of `other` share, for a message from `sender` to `recipient`.
fn shared(
    own: &SigningKey,
    other: &[u8; 32],
    sender: &[u8; 32],
    recipient: &[u8; 32],
) -> Result<Key, WrongKey> {
    let other = VerifyingKey::from_bytes(other).map_err(|_| WrongKey)?;
    // With one of these the shared point would be known to everybody.
    if other.is_weak() {
        return Err(WrongKey);
    }
    let secret = Zeroizing::new(own.to_scalar_bytes());
    let point = other.to_montgomery().mul_clamped(*secret);
    let point = Zeroizing::new(point.to_bytes());
    Ok(hkdf_sha256(
        SALT,
        &*point,
        &[sender.as_slice(), recipient].concat(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;

    fn key(n: u8) -> SigningKey {
        SigningKey::from_bytes(&[n; 32])
    }

    fn public(n: u8) -> [u8; 32] {
        key(n).verifying_key().to_bytes()
    }

    #[test]
    fn only_the_recipient_opens_what_was_sealed() {
        let sealed = seal(&public(1), b"about", b"a secret").expect("a key");
        assert_eq!(sealed.len(), 8 + OVERHEAD_BYTES);
        let opened = open(&key(1), b"about", &sealed).expect("its own");
        assert_eq!(&opened[..], b"a secret");
        assert_eq!(open(&key(2), b"about", &sealed), Err(WrongKey));
        assert_eq!(open(&key(1), b"other", &sealed), Err(WrongKey));
        for at in 0..sealed.len() {
            let mut broken = sealed.clone();
            broken[at] ^= 1;
            assert_eq!(open(&key(1), b"about", &broken), Err(WrongKey), "{at}");
            assert_eq!(open(&key(1), b"about", &sealed[..at]), Err(WrongKey));
        }
        let again = seal(&public(1), b"about", b"a secret").expect("a key");
        assert_ne!(again, sealed, "a new key each time");
    }

    #[test]
    fn weak_keys_are_refused() {
        let mut small = [0; 32];
        small[0] = 1;
        assert_eq!(seal(&small, b"", b"x"), Err(WrongKey));
        let sealed = [&small[..], &[0; 40]].concat();
        assert_eq!(open(&key(1), b"", &sealed), Err(WrongKey));
    }

    /// Both ends of a fixed pair of keys come to these bytes.
    #[test]
    fn golden_key() {
        let there = shared(&key(3), &public(4), &public(3), &public(4)).expect("keys");
        let back = shared(&key(4), &public(3), &public(3), &public(4)).expect("keys");
        assert_eq!(there, back);
        assert_eq!(HEXLOWER.encode(there.as_bytes()), GOLDEN);
    }

    /// Computed with another library (Python's cryptography).
    const GOLDEN: &str = "2f66f2304123b666de3313f3b9f82517f7dda0a09c1d073fc58b6260c215c74f";
}
