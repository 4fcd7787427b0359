//! Sealing: plaintext to block and back.
//!
//! ```text
//! payload = codec (1 byte: 0 raw, 1 zstd) | data length (3 bytes, big endian) | data | zeros
//! key     = keyed BLAKE3(context, payload)
//! block   = AES-256-GCM(key, nonce 0, payload) | commitment to the key (32 bytes)
//! id      = SHA2-384(block)
//! ```
//!
//! The key is a hash of exactly what is encrypted, so that one key never encrypts two payloads;
//! that makes the fixed nonce safe. The block commits to its key (see [`aead`]): no bytes open with
//! two keys. Equal plaintext under one [`Context`] gives equal blocks (convergent encryption);
//! whoever doesn't know the context can't test whether somebody has a known file.
//!
//! The zeros round the payload up to a few size classes. In the public context these are those of
//! Padmé ("Reducing Metadata Leakage from Encrypted Files and Communication with PURBs", 2019): at
//! most 12% for small payloads, 3% from 1 MiB on. In a secret one there are eight classes an octave
//! from 4 KiB on, at most an eighth and about 5% on average: 24 sizes for all chunks of large
//! files.

mod alike;

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;

use super::{Block, MAX_BLOCK_BYTES, Ref};
use crate::crypto::aead::{self, OVERHEAD_BYTES};
use crate::crypto::hash;
use crate::crypto::key::Key;

pub use alike::{MAX_LIKE_BITS, NONCE_BYTES, Search, seal_like};

const HEADER_BYTES: usize = 4;
const CODEC_RAW: u8 = 0;
const CODEC_ZSTD: u8 = 1;
const MAX_PAYLOAD_BYTES: usize = MAX_BLOCK_BYTES - OVERHEAD_BYTES;
/// zstd's default level: 2 to 3 times as fast as the disk on text, and incompressible data costs it next to nothing.
const ZSTD_LEVEL: i32 = 3;
/// Below this share of saved bytes the data is kept raw: reading it back is then cheaper.
const MIN_SAVED_SHARE: usize = 32;

/// Most plaintext that fits one block, in bytes.
pub const MAX_PLAINTEXT_BYTES: usize = MAX_PAYLOAD_BYTES - HEADER_BYTES;

/// Smallest payload in a secret context, in bytes.
const MIN_SECRET_PAYLOAD_BYTES: usize = 4096;
/// Binary digits that tell apart the sizes of payloads of one octave in a secret context.
const SECRET_CLASS_BITS: u32 = 3;
/// Purpose of the keys of the local index. A format of blocks that is not this one has another, so
/// that no index leads to blocks that can't be opened.
const INDEX_CONTEXT: &str = "libernet 2026-11 chunk index v2";
/// Purpose of the tables by which files are cut.
const CUTS_CONTEXT: &str = "libernet 2026-11 gear table";

/// Circle that shares deduplication: everybody, or one owner, or a single put.
#[derive(Clone)]
pub struct Context {
    key: Key,
    /// Derived once: names each chunk in the local index.
    index_key: Key,
    is_public: bool,
}

impl Context {
    /// The published context of public puts: equal content gives equal blocks for everyone.
    pub fn public() -> Self {
        let key = hash::derive_key("libernet 2026-11 public convergence context", b"");
        Self::with(Key::new(key), true)
    }

    /// A context of those who know `key` alone.
    pub fn secret(key: Key) -> Self {
        Self::with(key, false)
    }

    fn with(key: Key, is_public: bool) -> Self {
        let index_key = Key::new(hash::derive_key(INDEX_CONTEXT, key.as_bytes()));
        Self {
            key,
            index_key,
            is_public,
        }
    }

    /// Fills `table` with the numbers that decide where a file is cut; `false`, and nothing done,
    /// in the public context, where everybody cuts alike.
    pub fn fill_cut_table(&self, table: &mut [u8]) -> bool {
        if !self.is_public {
            hash::expand(CUTS_CONTEXT, self.key.as_bytes(), table);
        }
        !self.is_public
    }

    /// The name of a chunk in the local index: a keyed hash of its plaintext, of no use to
    /// anybody who doesn't know the context.
    pub fn chunk_hash(&self, plaintext: &[u8]) -> [u8; 32] {
        hash::keyed(self.index_key.as_bytes(), plaintext)
    }

    fn payload_key(&self, payload: &[u8]) -> Key {
        Key::new(hash::keyed(self.key.as_bytes(), payload))
    }

    /// The size class of a payload of `len` bytes.
    fn padded_len(&self, len: usize) -> usize {
        match self.is_public {
            true => padme_len(len),
            false => coarse_len(len),
        }
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Context(..)")
    }
}

/// A block and what opens it.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// The block.
    pub block: Block,
    /// What opens it.
    pub key: Key,
    /// Bytes of plaintext inside.
    pub plaintext_len: u32,
}

impl Sealed {
    /// A reference to `len` bytes of the plaintext from `offset` on.
    pub fn range(&self, offset: u32, len: u32) -> Ref {
        Ref {
            id: self.block.id(),
            key: self.key.clone(),
            offset,
            len,
        }
    }
}

/// The plaintext does not fit one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes do not fit one block of at most {MAX_PLAINTEXT_BYTES} bytes of plaintext")]
pub struct SealError(usize);

/// Why a block could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The key is not this block's.
    #[error("the key does not open block {0}")]
    WrongKey(crate::id::BlockId),
    /// The block opened, and what is inside breaks the format: who made it did so wrongly or with intent.
    #[error("block {id} opened, but its payload is malformed: {what}")]
    Malformed {
        /// The block.
        id: crate::id::BlockId,
        /// What is wrong.
        what: &'static str,
    },
    /// Made by a newer libernet.
    #[error("block {id} uses codec {codec}, which this version does not know")]
    UnknownCodec {
        /// The block.
        id: crate::id::BlockId,
        /// The codec's number.
        codec: u8,
    },
}

/// Compresses, pads and encrypts `plaintext`, and names the block. CPU-bound, 4 to 8 ms a MiB: not for async tasks.
///
/// # Errors
/// [`SealError`] when the plaintext is larger than [`MAX_PLAINTEXT_BYTES`].
pub fn seal(context: &Context, plaintext: &[u8]) -> Result<Sealed, SealError> {
    let encrypted = encrypt(context, plaintext)?;
    let id = hash::sha384_id(&encrypted.bytes);
    Ok(encrypted.named(id))
}

/// [`seal`] of everything that `next` gives, until it gives nothing and all is done: faster than one after the other, because the blocks
/// are hashed several at a time. `done` gets each block with what came along with its plaintext, in any order. `next` is told how
/// many blocks are being hashed: it may wait when there are none, and should not otherwise.
///
/// # Errors
/// As [`seal`]; what was given before and is not done yet is dropped.
pub fn seal_all<P: AsRef<[u8]>, T>(
    context: &Context,
    mut next: impl FnMut(usize) -> Option<(P, T)>,
    mut done: impl FnMut(Sealed, T),
) -> Result<(), SealError> {
    let mut error = None;
    hash::sha384_ids(
        |busy| {
            if error.is_some() {
                return None;
            }
            let (plaintext, tag) = next(busy)?;
            encrypt(context, plaintext.as_ref())
                .map_err(|too_large| error = Some(too_large))
                .ok()
                .map(|block| Tagged(block, tag))
        },
        |Tagged(block, tag), id| done(block.named(id), tag),
    );
    error.map_or(Ok(()), Err)
}

/// A block without its name.
struct Encrypted {
    bytes: Vec<u8>,
    key: Key,
    plaintext_len: u32,
}

impl Encrypted {
    fn named(self, id: crate::id::BlockId) -> Sealed {
        Sealed {
            block: Block::from_checked(id, Bytes::from(self.bytes)),
            key: self.key,
            plaintext_len: self.plaintext_len,
        }
    }
}

/// Hashed as the block, with something beside it.
struct Tagged<T>(Encrypted, T);

impl<T> AsRef<[u8]> for Tagged<T> {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

fn encrypt(context: &Context, plaintext: &[u8]) -> Result<Encrypted, SealError> {
    if plaintext.len() > MAX_PLAINTEXT_BYTES {
        return Err(SealError(plaintext.len()));
    }
    let mut bytes = build_payload(context, plaintext);
    let key = context.payload_key(&bytes);
    aead::encrypt(&key, &mut bytes);
    Ok(Encrypted {
        bytes,
        key,
        plaintext_len: plaintext.len() as u32,
    })
}

/// The plaintext inside `block`. CPU-bound, 1 to 3 ms a MiB: not for async tasks.
///
/// # Errors
/// [`OpenError`]. Memory stays below [`MAX_BLOCK_BYTES`] plus [`MAX_PLAINTEXT_BYTES`] whatever the block holds.
pub fn open(block: &Block, key: &Key) -> Result<Bytes, OpenError> {
    let mut payload = Vec::new();
    Ok(match unseal(block, key, &mut payload)? {
        Content::Raw(range) => Bytes::from(payload).slice(range),
        Content::Unpacked(plaintext) => plaintext,
    })
}

/// The plaintext inside `block` as [`fn@open`] gives it, in `buffer` where it need not be unpacked.
/// For many blocks one after the other: memory that was just used is still in the processor's
/// cache.
///
/// # Errors
/// [`OpenError`].
pub fn open_in<'a>(
    block: &Block,
    key: &Key,
    buffer: &'a mut Vec<u8>,
) -> Result<Cow<'a, [u8]>, OpenError> {
    Ok(match unseal(block, key, buffer)? {
        Content::Raw(range) => Cow::Borrowed(&buffer[range]),
        Content::Unpacked(plaintext) => Cow::Owned(plaintext.into()),
    })
}

/// What is in a block.
enum Content {
    /// The plaintext is this part of the payload.
    Raw(Range<usize>),
    /// It was compressed.
    Unpacked(Bytes),
}

/// Decrypts a block's payload into `payload` and looks at it.
fn unseal(block: &Block, key: &Key, payload: &mut Vec<u8>) -> Result<Content, OpenError> {
    let id = block.id();
    let malformed = |what| OpenError::Malformed { id, what };
    aead::decrypt(key, block.bytes(), payload).map_err(|_| OpenError::WrongKey(id))?;
    let header = payload
        .first_chunk::<HEADER_BYTES>()
        .copied()
        .ok_or_else(|| malformed("too short"))?;
    let data_len = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
    let data_end = HEADER_BYTES + data_len;
    let padding = payload
        .get(data_end..)
        .ok_or_else(|| malformed("the length reaches past the end"))?;
    if padding.iter().any(|b| *b != 0) {
        return Err(malformed("the padding is not zero"));
    }
    match header[0] {
        CODEC_RAW => Ok(Content::Raw(HEADER_BYTES..data_end)),
        CODEC_ZSTD => {
            let unpacked = decompress(&payload[HEADER_BYTES..data_end]);
            unpacked.map(Content::Unpacked).map_err(malformed)
        }
        codec => Err(OpenError::UnknownCodec { id, codec }),
    }
}

fn build_payload(context: &Context, plaintext: &[u8]) -> Vec<u8> {
    let largest_useful = plaintext.len() - plaintext.len().div_ceil(MIN_SAVED_SHARE);
    let mut compressed = Vec::with_capacity(zstd::zstd_safe::compress_bound(plaintext.len()));
    let saved = zstd::bulk::Compressor::new(ZSTD_LEVEL)
        .and_then(|mut zstd| zstd.compress_to_buffer(plaintext, &mut compressed))
        .is_ok_and(|len| len <= largest_useful);
    let (data, codec) = match saved {
        true => (compressed.as_slice(), CODEC_ZSTD),
        false => (plaintext, CODEC_RAW),
    };
    let padded = context.padded_len(HEADER_BYTES + data.len());
    // Exactly as large as the block: blocks are kept and passed on, and what is too much here would stay with them.
    let mut payload = Vec::with_capacity(padded + OVERHEAD_BYTES);
    payload.extend_from_slice(&(data.len() as u32).to_be_bytes());
    payload[0] = codec;
    payload.extend_from_slice(data);
    payload.resize(padded, 0);
    payload
}

fn decompress(data: &[u8]) -> Result<Bytes, &'static str> {
    // The frame's own header is only a hint of a hostile maker: the cap holds whatever it says.
    let capacity = match zstd::zstd_safe::get_frame_content_size(data) {
        Ok(Some(len)) if len <= MAX_PLAINTEXT_BYTES as u64 => len as usize,
        Ok(Some(_)) => return Err("it unpacks to more than fits a block"),
        _ => return Err("not a zstd frame with a length"),
    };
    zstd::bulk::decompress(data, capacity)
        .map(Bytes::from)
        .map_err(|_| "zstd data is damaged")
}

/// The size class by Padmé: as many low bits as the length's bit count has significant bits are
/// rounded away.
fn padme_len(len: usize) -> usize {
    if len < 2 {
        return len;
    }
    let significant = len.ilog2().ilog2() + 1;
    class_len(len, significant)
}

/// The size class of secret contexts.
fn coarse_len(len: usize) -> usize {
    class_len(len.max(MIN_SECRET_PAYLOAD_BYTES), SECRET_CLASS_BITS)
}

/// `len` rounded up to a number of which only the `significant` bits after the first are not zero,
/// and at most to the largest payload.
fn class_len(len: usize, significant: u32) -> usize {
    let mask = (1usize << len.ilog2().saturating_sub(significant)) - 1;
    ((len + mask) & !mask).min(MAX_PAYLOAD_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(len: usize) -> Vec<u8> {
        b"All that is needed is room. "
            .iter()
            .copied()
            .cycle()
            .take(len)
            .collect()
    }

    /// Bytes that do not compress, the same on every run.
    fn noise(len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut out);
        out
    }

    #[test]
    fn what_is_sealed_opens_again() {
        let context = Context::public();
        let secret = Context::secret(Key::new([3; 32]));
        for (len, context) in [0, 1, 2, 3, 100, 4096, 100_000, MAX_PLAINTEXT_BYTES]
            .into_iter()
            .flat_map(|len| [(len, &context), (len, &secret)])
        {
            for plaintext in [text(len), noise(len)] {
                let sealed = seal(context, &plaintext).expect("it fits");
                assert!(sealed.block.bytes().len() <= MAX_BLOCK_BYTES);
                // Whatever was in it before.
                for held in [0, 7, MAX_BLOCK_BYTES] {
                    let mut buffer = vec![1; held];
                    let opened = open_in(&sealed.block, &sealed.key, &mut buffer);
                    assert_eq!(opened.as_deref(), Ok(&plaintext[..]));
                }
                assert_eq!(open(&sealed.block, &sealed.key), Ok(plaintext.into()));
            }
        }
        let over = seal(&context, &noise(MAX_PLAINTEXT_BYTES + 1));
        assert_eq!(over.err(), Some(SealError(MAX_PLAINTEXT_BYTES + 1)));
    }

    #[test]
    fn equal_content_converges_within_a_context_only() {
        let public = seal(&Context::public(), b"hello").expect("fits");
        let again = seal(&Context::public(), b"hello").expect("fits");
        let mine = seal(&Context::secret(Key::new([7; 32])), b"hello").expect("fits");
        assert_eq!(public.block.id(), again.block.id());
        assert_ne!(public.block.id(), mine.block.id());
        assert_ne!(public.key, mine.key);
    }

    /// The bytes of the first released format. These never change: a newer format gets another codec number.
    #[test]
    fn golden_sealed_blocks() {
        let raw = seal(&Context::public(), b"libernet").expect("fits");
        assert_eq!(
            (
                raw.block.bytes().len(),
                raw.block.id().to_hex(),
                raw.key.to_hex().to_string()
            ),
            (60, GOLDEN_RAW_ID.to_owned(), GOLDEN_RAW_KEY.to_owned())
        );
        // zstd's output may differ between its versions, so what is fixed for it is that the old bytes open.
        let mut old = vec![CODEC_ZSTD, 0, 0, GOLDEN_ZSTD_FRAME.len() as u8];
        old.extend_from_slice(GOLDEN_ZSTD_FRAME);
        let (block, key) = encrypt_payload(old);
        assert_eq!(open(&block, &key), Ok(vec![0; 10_000].into()));
    }

    /// A block of a secret context.
    #[test]
    fn golden_secret_block() {
        let context = Context::secret(Key::new([7; 32]));
        let sealed = seal(&context, b"libernet").expect("fits");
        assert_eq!(
            (
                sealed.block.bytes().len(),
                sealed.block.id().to_hex(),
                sealed.key.to_hex().to_string()
            ),
            (
                MIN_SECRET_PAYLOAD_BYTES + OVERHEAD_BYTES,
                GOLDEN_SECRET_ID.to_owned(),
                GOLDEN_SECRET_KEY.to_owned()
            )
        );
    }

    // Computed by another implementation (Python: blake3, cryptography, hashlib).
    const GOLDEN_RAW_ID: &str = "3cccd8d7f4be24f114e32b5692c4f8f01a962f1cd99f0e7cc017bc58eebee6bca69c8b200bd0211e549938c19279cf17";
    const GOLDEN_RAW_KEY: &str = "5c1a75ccd248ebfb92360f34bcefee65d776ba913557c443658200d4beee1fbf";
    const GOLDEN_SECRET_ID: &str = "d1ca49cec6b562409e756d052c7df68992153fde470580289972f3bcb8e7adaf640708eead11531fcf834b171daca40f";
    const GOLDEN_SECRET_KEY: &str =
        "f5a4605fc33d0680ed353025309f82f1e6bc95a96868d0a24f45a81742ea35aa";
    /// 10,000 zero bytes by zstd 1.5, level 3.
    const GOLDEN_ZSTD_FRAME: &[u8] = &[
        0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x10, 0x26, 0x4d, 0x00, 0x00, 0x10, 0x00, 0x00, 0x01, 0x00,
        0x0b, 0x87, 0x07, 0x58,
    ];

    fn encrypt_payload(mut payload: Vec<u8>) -> (Block, Key) {
        let key = Context::public().payload_key(&payload);
        aead::encrypt(&key, &mut payload);
        (Block::new(payload.into()).expect("a small block"), key)
    }

    #[test]
    fn hostile_payloads_are_refused() {
        let bomb = zstd::bulk::compress(&vec![0; MAX_PLAINTEXT_BYTES + 1], 3).expect("compresses");
        let mut bomb_payload = vec![CODEC_ZSTD, 0, 0, bomb.len() as u8];
        assert!(bomb.len() < 256);
        bomb_payload.extend_from_slice(&bomb);
        for (payload, what) in [
            (vec![], "too short"),
            (vec![0, 0, 0], "too short"),
            (vec![0, 0, 0, 1], "the length reaches past the end"),
            (vec![0, 0, 0, 0, 1], "the padding is not zero"),
            (vec![1, 0, 0, 1, 9], "not a zstd frame with a length"),
            (bomb_payload, "it unpacks to more than fits a block"),
        ] {
            let (block, key) = encrypt_payload(payload);
            let id = block.id();
            assert_eq!(open(&block, &key), Err(OpenError::Malformed { id, what }));
        }
        let (block, key) = encrypt_payload(vec![9, 0, 0, 0]);
        let id = block.id();
        assert_eq!(
            open(&block, &key),
            Err(OpenError::UnknownCodec { id, codec: 9 })
        );
        assert_eq!(
            open(&block, &Key::new([0; 32])),
            Err(OpenError::WrongKey(id))
        );
    }

    proptest! {
        #[test]
        fn padding_costs_little_and_hides_the_length(len in 64usize..MAX_PAYLOAD_BYTES) {
            let padded = padme_len(len);
            prop_assert!(padded >= len);
            prop_assert!(padded - len <= len / 8);
            prop_assert!(len < 1 << 20 || padded - len <= len / 32);
            prop_assert_eq!(padme_len(padded), padded);
        }

        #[test]
        fn secret_contexts_have_few_sizes(len in 0..=MAX_PAYLOAD_BYTES) {
            let padded = coarse_len(len);
            prop_assert!(padded >= len.max(MIN_SECRET_PAYLOAD_BYTES));
            prop_assert!(len < MIN_SECRET_PAYLOAD_BYTES || padded - len <= len / 8);
            prop_assert_eq!(coarse_len(padded), padded);
            let is_class = padded == MAX_PAYLOAD_BYTES
                || padded.trailing_zeros() + SECRET_CLASS_BITS >= padded.ilog2();
            prop_assert!(is_class, "{padded}");
        }

        #[test]
        fn any_payload_gives_an_answer(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (block, key) = encrypt_payload(payload);
            let _ = open(&block, &key);
        }
    }
}
