//! Sealing a block whose id begins like a given one.
//!
//! Nonces are tried at the end of the plaintext until the id shares the wanted bits: each bit
//! doubles the work, and each try costs as much as the block is long. The payload is not
//! compressed, so that only its end changes: the state of the hash that makes the key is kept up to
//! there. What follows from the key (encryption, and the id) has to be done anew: a nonce behind
//! the encrypted part would save that, but blocks of two forms could be made to open with two keys.
//!
//! Deliberately absent: what the plaintext is, and where the nonce stands in it.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::super::MAX_BLOCK_BYTES;
use super::{CODEC_RAW, Context, Encrypted, HEADER_BYTES, MAX_PLAINTEXT_BYTES, SealError, Sealed};
use crate::crypto::aead::{self, OVERHEAD_BYTES};
use crate::crypto::hash::{self, KeyedHasher};
use crate::crypto::key::Key;
use crate::id::BlockId;

/// Bytes at the end of the plaintext that are tried.
pub const NONCE_BYTES: usize = 8;
/// Most bits that can be asked for.
pub const MAX_LIKE_BITS: u32 = 16;
/// Tries for each that is expected: that many don't fail within the age of the world.
const PATIENCE: u64 = 64;
/// Pause between two reports of how far it is.
const REPORT: Duration = Duration::from_millis(200);

/// The id that is wanted, and the monitor that is told of the tries.
pub struct Search<'a> {
    /// The id that is to be like.
    pub like: BlockId,
    /// First bits that both ids shall share: at most [`MAX_LIKE_BITS`].
    pub bits: u32,
    /// Threads that try.
    pub threads: usize,
    /// Hears of tries, and how many are expected.
    pub tried: &'a (dyn Fn(u64, u64) + Sync),
    /// Whether to give up.
    pub stopped: &'a (dyn Fn() -> bool + Sync),
}

/// Seals `plaintext`, whose last [`NONCE_BYTES`] may be anything, so that the block's id is like
/// another. None when it was stopped, or not found after as many tries as make that next to
/// impossible. CPU-bound, on all threads that are asked for.
///
/// # Errors
/// [`SealError`] when the plaintext is larger than a block takes, or shorter than a nonce.
pub fn seal_like(
    context: &Context,
    plaintext: &[u8],
    search: &Search<'_>,
) -> Result<Option<Sealed>, SealError> {
    let too_short = plaintext.len() < NONCE_BYTES;
    if too_short || plaintext.len() > MAX_PLAINTEXT_BYTES {
        return Err(SealError(plaintext.len()));
    }
    let expected = 1_u64 << search.bits.min(MAX_LIKE_BITS);
    let payload = raw_payload(context, plaintext);
    let tries = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    let found = Mutex::new(None);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..search.threads.max(1))
            .map(|_| {
                scope.spawn(|| {
                    let mut attempt = Attempt::new(context, &payload, plaintext.len());
                    while !done.load(Ordering::Relaxed) {
                        let nonce = tries.fetch_add(1, Ordering::Relaxed);
                        if nonce >= expected.saturating_mul(PATIENCE) {
                            break;
                        }
                        let sealed = attempt.seal(nonce);
                        if sealed.block.id().shared_bits(&search.like) >= search.bits {
                            done.store(true, Ordering::Relaxed);
                            *found.lock().unwrap_or_else(PoisonError::into_inner) = Some(sealed);
                        }
                    }
                })
            })
            .collect();
        while !workers.iter().all(|worker| worker.is_finished()) {
            std::thread::park_timeout(REPORT);
            (search.tried)(tries.load(Ordering::Relaxed), expected);
            if (search.stopped)() {
                done.store(true, Ordering::Relaxed);
            }
        }
    });
    Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// The payload of a plaintext that is not compressed.
fn raw_payload(context: &Context, plaintext: &[u8]) -> Vec<u8> {
    let padded = context.padded_len(HEADER_BYTES + plaintext.len());
    let mut payload = Vec::with_capacity(padded + OVERHEAD_BYTES);
    payload.extend_from_slice(&(plaintext.len() as u32).to_be_bytes());
    payload[0] = CODEC_RAW;
    payload.extend_from_slice(plaintext);
    payload.resize(padded, 0);
    debug_assert!(payload.len() + OVERHEAD_BYTES <= MAX_BLOCK_BYTES);
    payload
}

/// One thread's tries.
struct Attempt<'a> {
    payload: &'a [u8],
    /// Where the nonce is in the payload.
    at: usize,
    /// The hash of what is before it.
    before: KeyedHasher,
    plaintext_len: u32,
}

impl<'a> Attempt<'a> {
    fn new(context: &Context, payload: &'a [u8], plaintext_len: usize) -> Self {
        let at = HEADER_BYTES + plaintext_len - NONCE_BYTES;
        let mut before = KeyedHasher::new(context.key.as_bytes());
        before.add(&payload[..at]);
        Self {
            payload,
            at,
            before,
            plaintext_len: plaintext_len as u32,
        }
    }

    fn seal(&mut self, nonce: u64) -> Sealed {
        let mut bytes = Vec::with_capacity(self.payload.len() + OVERHEAD_BYTES);
        bytes.extend_from_slice(self.payload);
        let end = self.at + NONCE_BYTES;
        bytes[self.at..end].copy_from_slice(&nonce.to_be_bytes());
        let mut hasher = self.before.clone();
        hasher.add(&bytes[self.at..]);
        let key = Key::new(hasher.finish());
        aead::encrypt(&key, &mut bytes);
        let id = hash::sha384_id(&bytes);
        let encrypted = Encrypted {
            bytes,
            key,
            plaintext_len: self.plaintext_len,
        };
        encrypted.named(id)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{open, seal};
    use super::*;
    use proptest::prelude::*;

    fn search(like: BlockId, bits: u32, threads: usize) -> Search<'static> {
        Search {
            like,
            bits,
            threads,
            tried: &|_, _| {},
            stopped: &|| false,
        }
    }

    #[test]
    fn a_block_lies_where_it_is_wanted_and_opens_as_any_other() {
        let like = hash::sha384_id(b"the garden club");
        let plaintext = [&b"some root"[..], &[0; NONCE_BYTES]].concat();
        let context = Context::public();
        for threads in [1, 3] {
            let sealed = seal_like(&context, &plaintext, &search(like, 12, threads));
            let sealed = sealed.expect("short").expect("found");
            assert!(sealed.block.id().shared_bits(&like) >= 12);
            let opened = open(&sealed.block, &sealed.key).expect("opens");
            assert!(opened.starts_with(b"some root"));
            assert_eq!(opened.len(), plaintext.len());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_is_tried_is_what_sealing_that_plaintext_gives(bytes in proptest::collection::vec(any::<u8>(), NONCE_BYTES..3000), nonce: u64) {
            let context = Context::public();
            let payload = raw_payload(&context, &bytes);
            let tried = Attempt::new(&context, &payload, bytes.len()).seal(nonce);
            let mut whole = bytes;
            let at = whole.len() - NONCE_BYTES;
            whole[at..].copy_from_slice(&nonce.to_be_bytes());
            let key = context.payload_key(&raw_payload(&context, &whole));
            prop_assert_eq!(&tried.key, &key);
            let opened = open(&tried.block, &tried.key).expect("opens");
            prop_assert_eq!(&opened[..], &whole[..]);
            let usual = seal(&context, &whole).expect("short");
            prop_assert_eq!(usual.plaintext_len, tried.plaintext_len);
        }
    }

    #[test]
    fn it_can_be_stopped_and_bounds_are_kept() {
        let like = BlockId::from_sha384([0; 48]);
        let context = Context::public();
        let never = Search {
            stopped: &|| true,
            // More bits than any try will share.
            bits: 384,
            ..search(like, 0, 2)
        };
        let plaintext = vec![7; 100_000];
        let found = seal_like(&context, &plaintext, &never).expect("short");
        assert!(found.is_none());
        let short = seal_like(&context, &[0; NONCE_BYTES - 1], &search(like, 0, 1));
        assert!(short.is_err());
        let long = vec![0; MAX_PLAINTEXT_BYTES + 1];
        assert!(seal_like(&context, &long, &search(like, 0, 1)).is_err());
        let most = vec![0; MAX_PLAINTEXT_BYTES];
        let found = seal_like(&context, &most, &search(like, 0, 1)).expect("fits");
        assert_eq!(found.expect("at once").plaintext_len as usize, most.len());
    }
}
