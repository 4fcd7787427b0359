//! Identifiers of blocks.
//!
//! A [`BlockId`] is a [multihash](https://multiformats.io/multihash/): SHA2-384 for each block that libernet makes;
//! SHA2-256 is accepted and served too. The value is public and says nothing about who may read the block: that takes a
//! key. Nothing here hashes; see `crypto::hash`.

use std::fmt;
use std::str::FromStr;

use cid::Cid;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

/// Multicodec of raw bytes, the only codec that libernet's CIDs carry.
const RAW_CODEC: u64 = 0x55;
/// Multihash code of SHA2-384.
const SHA384_CODE: u64 = 0x20;
/// Multihash code of SHA2-256.
const SHA256_CODE: u64 = 0x12;
/// Longest text that is looked at when an id is parsed; the longest valid form, an upper-case base16 CID, is shorter.
const MAX_TEXT_BYTES: usize = 256;

/// The hash function that names a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HashKind {
    /// SHA2-256, for blocks that other systems made.
    Sha256,
    /// SHA2-384, for every block that libernet makes.
    Sha384,
}

impl HashKind {
    /// Length of the digest in bytes.
    pub const fn digest_bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
        }
    }

    /// The number of the hash function in the multicodec table.
    pub const fn code(self) -> u64 {
        match self {
            Self::Sha256 => SHA256_CODE,
            Self::Sha384 => SHA384_CODE,
        }
    }

    /// The name used in paths: `sha384` or `sha256`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
        }
    }
}

/// Why a text or bytes are not a block id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// The text is none of the documented forms.
    #[error(
        "'{0}' is not a block id: expected a CIDv1 (bafk...), /sha384/<96 hex digits>, /sha256/<64 hex digits> or 96 hex digits"
    )]
    UnknownForm(String),
    /// The hex digits are too few, too many or not hex digits.
    #[error("'{text}' is not a {kind} id: {found} of {expected} hex digits")]
    Digits {
        /// The offending text, shortened.
        text: String,
        /// Name of the hash function.
        kind: &'static str,
        /// Number of hex digits found at the start.
        found: usize,
        /// Number of hex digits needed.
        expected: usize,
    },
    /// A well-formed CID or multihash of another kind.
    #[error("unsupported id: {0} (libernet names blocks by CIDv1 raw with sha2-384 or sha2-256)")]
    Unsupported(String),
}

/// The name of a block: the hash of its bytes.
///
/// Ordered by hash kind, then digest. `Display` gives the CIDv1 (codec raw, base32).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId {
    kind: HashKind,
    /// Shorter digests are followed by zeros.
    digest: [u8; 48],
}

impl BlockId {
    /// Longest binary form in bytes.
    pub const MAX_MULTIHASH_BYTES: usize = 50;

    /// An id from a SHA2-384 digest.
    pub const fn from_sha384(digest: [u8; 48]) -> Self {
        Self {
            kind: HashKind::Sha384,
            digest,
        }
    }

    /// An id from a SHA2-256 digest.
    pub fn from_sha256(digest: [u8; 32]) -> Self {
        let mut padded = [0; 48];
        padded[..32].copy_from_slice(&digest);
        Self {
            kind: HashKind::Sha256,
            digest: padded,
        }
    }

    /// The hash function of this id.
    pub const fn kind(&self) -> HashKind {
        self.kind
    }

    /// The digest, 32 or 48 bytes.
    pub fn digest(&self) -> &[u8] {
        &self.digest[..self.kind.digest_bytes()]
    }

    /// The first 16 bits of the digest: two ids are "like" each other when these are equal.
    pub const fn likeness(&self) -> u16 {
        u16::from_be_bytes([self.digest[0], self.digest[1]])
    }

    /// Leading bits that the digests of two ids have in common, whichever hash functions they are
    /// of.
    pub fn shared_bits(&self, other: &Self) -> u32 {
        let pairs = self.digest().iter().zip(other.digest());
        let mut bits = 0;
        for (a, b) in pairs {
            let same = (a ^ b).leading_zeros();
            bits += same;
            if same < u8::BITS {
                break;
            }
        }
        bits
    }

    /// The multihash: code, length, digest. This is the key in stores, in messages and in the DHT.
    pub fn to_multihash(&self) -> Vec<u8> {
        let digest = self.digest();
        let mut bytes = Vec::with_capacity(2 + digest.len());
        // Both codes and both lengths are below 128 and so are varints of one byte.
        bytes.push(self.kind.code() as u8);
        bytes.push(digest.len() as u8);
        bytes.extend_from_slice(digest);
        bytes
    }

    /// Reads what [`to_multihash`](Self::to_multihash) writes.
    ///
    /// # Errors
    /// [`IdError::Unsupported`] when the bytes are not exactly one multihash of a supported kind.
    pub fn from_multihash(bytes: &[u8]) -> Result<Self, IdError> {
        match bytes {
            [0x20, 48, digest @ ..] if digest.len() == 48 => {
                let mut padded = [0; 48];
                padded.copy_from_slice(digest);
                Ok(Self::from_sha384(padded))
            }
            [0x12, 32, digest @ ..] if digest.len() == 32 => {
                let mut short = [0; 32];
                short.copy_from_slice(digest);
                Ok(Self::from_sha256(short))
            }
            _ => Err(IdError::Unsupported(format!(
                "multihash of {} bytes starting {}",
                bytes.len(),
                HEXLOWER.encode(bytes.get(..2).unwrap_or(bytes))
            ))),
        }
    }

    /// The CIDv1 (codec raw).
    pub fn to_cid(&self) -> Cid {
        self.to_cid_as(RAW_CODEC)
    }

    /// The CIDv1 that says how the block's bytes are to be understood, by the number of a codec in
    /// the multicodec table. It names the same bytes.
    pub fn to_cid_as(&self, codec: u64) -> Cid {
        let hash = multihash::Multihash::wrap(self.kind.code(), self.digest())
            .expect("a digest of 48 bytes fits in a multihash of 64");
        Cid::new_v1(codec, hash)
    }

    /// The path form: `/sha384/<hex>` or `/sha256/<hex>`.
    pub fn to_path(&self) -> String {
        format!("/{}/{}", self.kind.name(), self.to_hex())
    }

    /// The digest as lower-case hex digits.
    pub fn to_hex(&self) -> String {
        HEXLOWER.encode(self.digest())
    }

    fn from_hex(kind: HashKind, hex: &str) -> Result<Self, IdError> {
        let wrong = || IdError::Digits {
            text: shorten(hex),
            kind: kind.name(),
            found: hex.bytes().take_while(u8::is_ascii_hexdigit).count(),
            expected: 2 * kind.digest_bytes(),
        };
        let bytes = HEXLOWER
            .decode(hex.to_ascii_lowercase().as_bytes())
            .map_err(|_| wrong())?;
        if bytes.len() != kind.digest_bytes() {
            return Err(wrong());
        }
        let mut digest = [0; 48];
        digest[..bytes.len()].copy_from_slice(&bytes);
        Ok(Self { kind, digest })
    }

    fn from_cid(cid: &Cid) -> Result<Self, IdError> {
        if cid.codec() != RAW_CODEC {
            return Err(IdError::Unsupported(format!(
                "CID with codec 0x{:x}",
                cid.codec()
            )));
        }
        Self::from_multihash(&cid.hash().to_bytes())
            .map_err(|_| IdError::Unsupported(format!("CID with hash 0x{:x}", cid.hash().code())))
    }
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= 24 {
        return text.to_owned();
    }
    let head: String = text.chars().take(24).collect();
    format!("{head}...")
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // CIDv1 defaults to base32 lower case.
        write!(f, "{}", self.to_cid())
    }
}

impl fmt::Debug for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.name(), &self.to_hex()[..12])
    }
}

impl FromStr for BlockId {
    type Err = IdError;

    /// Accepts a CIDv1 in any multibase that the `cid` crate knows (base32 is what we print), `/sha384/<hex>`,
    /// `/sha256/<hex>` (the leading slash may be missing) and 96 bare hex digits (SHA2-384).
    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(IdError::UnknownForm(shorten(text)));
        }
        let path = text.strip_prefix('/').unwrap_or(text);
        for kind in [HashKind::Sha384, HashKind::Sha256] {
            if let Some(hex) = path
                .strip_prefix(kind.name())
                .and_then(|rest| rest.strip_prefix('/'))
            {
                return Self::from_hex(kind, hex);
            }
        }
        if text.len() == 96 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Self::from_hex(HashKind::Sha384, text);
        }
        match Cid::try_from(text) {
            Ok(cid) => Self::from_cid(&cid),
            Err(_) => Err(IdError::UnknownForm(shorten(text))),
        }
    }
}

impl Serialize for BlockId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BlockId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_id() -> impl Strategy<Value = BlockId> {
        prop_oneof![
            any::<[u8; 32]>().prop_map(BlockId::from_sha256),
            proptest::array::uniform32(any::<u8>()).prop_map(|head| {
                let mut digest = [7; 48];
                digest[..32].copy_from_slice(&head);
                BlockId::from_sha384(digest)
            }),
        ]
    }

    proptest! {
        #[test]
        fn every_text_and_binary_form_reads_back(id in any_id()) {
            prop_assert_eq!(id.to_string().parse::<BlockId>(), Ok(id));
            prop_assert_eq!(id.to_path().parse::<BlockId>(), Ok(id));
            prop_assert_eq!(id.to_path()[1..].parse::<BlockId>(), Ok(id));
            prop_assert_eq!(id.to_path().to_uppercase().replace("SHA", "sha").parse::<BlockId>(), Ok(id));
            prop_assert_eq!(BlockId::from_multihash(&id.to_multihash()), Ok(id));
            prop_assert!(id.to_multihash().len() <= BlockId::MAX_MULTIHASH_BYTES);
        }

        #[test]
        fn arbitrary_input_never_panics(text in ".{0,300}", bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = text.parse::<BlockId>();
            let _ = BlockId::from_multihash(&bytes);
        }
    }

    /// SHA-384 of the empty string (FIPS 180-4 example value) in each text form.
    #[test]
    fn golden_forms() {
        let hex = "38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da274edebfe76f65fbd51ad2f14898b95b";
        let id: BlockId = hex.parse().expect("bare hex is accepted");
        assert_eq!(id.to_path(), format!("/sha384/{hex}"));
        assert_eq!(
            id.to_string(),
            "bafksambywbqkounmsy4ezwjsp2y3dy3keh63oeiuxydugtamy67wh5xb3itu5xv745xwl66vdljpcseyxfnq"
        );
        assert_eq!(id.likeness(), 0x38b0);
    }

    #[test]
    fn other_forms_are_refused_by_name() {
        let short = "/sha384/38b0".parse::<BlockId>().expect_err("too short");
        assert_eq!(
            short.to_string(),
            "'38b0' is not a sha384 id: 4 of 96 hex digits"
        );
        // A CIDv0 and a CIDv1 with codec dag-pb exist in the wild and name other things.
        for text in [
            "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG",
            "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi",
        ] {
            let error = text.parse::<BlockId>().expect_err("other codec");
            assert!(matches!(error, IdError::Unsupported(_)), "{error}");
        }
        for text in ["", "hello", "/sha512/00", "zzzz"] {
            let error = text.parse::<BlockId>().expect_err("no id");
            assert!(matches!(error, IdError::UnknownForm(_)), "{error}");
        }
    }
}
