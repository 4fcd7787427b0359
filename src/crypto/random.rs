//! Random bytes for secrets, from the system's generator and no other: there is no state of it in
//! this process that could be read, copied by a fork, or repeated.
//!
//! For keys, words, seeds, salts and nonces. Whatever only spreads load or picks a sample may take
//! any generator.

use rand::TryRng;
use rand::rngs::SysRng;
use zeroize::Zeroizing;

/// New random bytes, wiped from memory when dropped.
///
/// # Panics
/// When the system gives none: no secret can be made then.
pub fn bytes<const N: usize>() -> Zeroizing<[u8; N]> {
    let mut bytes = Zeroizing::new([0; N]);
    SysRng
        .try_fill_bytes(bytes.as_mut_slice())
        .expect("the system's random number generator answers");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_are_the_same() {
        assert_ne!(bytes::<16>(), bytes::<16>());
        assert_ne!(*bytes::<32>(), [0; 32]);
    }
}
