//! The 32 bytes that open one sealed block.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::random;

/// A secret key of 32 bytes. Wiped from memory when dropped; its `Debug` form does not show it.
#[derive(Clone, PartialEq, Eq, Hash, Zeroize, ZeroizeOnDrop)]
pub struct Key([u8; 32]);

/// The text is not a key. The text itself is not repeated: it may be most of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a key: expected 52 base32 characters or 64 hex digits, found {0} characters")]
pub struct KeyError(usize);

impl Key {
    /// Length in bytes.
    pub const BYTES: usize = 32;

    /// A new key.
    pub fn random() -> Self {
        Self(*random::bytes())
    }

    /// A key from its bytes.
    pub const fn new(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// The secret bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// The text used in links: RFC 4648 base32, lower case, without padding. Wiped when dropped.
    pub fn to_base32(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(BASE32_NOPAD.encode(&self.0));
        text.make_ascii_lowercase();
        text
    }

    /// The text used in paths: lower-case hex. Wiped when dropped.
    pub fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(HEXLOWER.encode(&self.0))
    }
}

impl TryFrom<&[u8]> for Key {
    type Error = KeyError;

    fn try_from(bytes: &[u8]) -> Result<Self, KeyError> {
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| KeyError(bytes.len()))
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let wrong = |_| KeyError(text.chars().count());
        let mut same_case = Zeroizing::new(text.to_owned());
        let bytes = if text.len() == 2 * Self::BYTES {
            same_case.make_ascii_lowercase();
            HEXLOWER.decode(same_case.as_bytes()).map_err(wrong)?
        } else {
            same_case.make_ascii_uppercase();
            BASE32_NOPAD.decode(same_case.as_bytes()).map_err(wrong)?
        };
        let bytes = Zeroizing::new(bytes);
        Self::try_from(bytes.as_slice()).map_err(|_| KeyError(text.chars().count()))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_texts_read_back(bytes in any::<[u8; 32]>()) {
            let key = Key::new(bytes);
            prop_assert_eq!(key.to_base32().parse::<Key>(), Ok(key.clone()));
            prop_assert_eq!(key.to_hex().parse::<Key>(), Ok(key.clone()));
            prop_assert_eq!(key.to_hex().to_uppercase().parse::<Key>(), Ok(key));
        }

        #[test]
        fn any_text_gives_an_answer(text in ".{0,80}") {
            let _ = text.parse::<Key>();
        }
    }

    #[test]
    fn debug_hides_the_secret() {
        assert_eq!(format!("{:?}", Key::new([0xAB; 32])), "Key(..)");
    }

    /// Trailing bits of the last base32 character must be zero, so that a key has one text only.
    #[test]
    fn non_canonical_text_is_refused() {
        let mut text = Key::new([0; 32]).to_base32();
        assert_eq!(text.pop(), Some('a'));
        text.push('b');
        assert!(text.parse::<Key>().is_err());
    }
}
