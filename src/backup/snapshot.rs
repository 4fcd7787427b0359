//! A snapshot: what one run of a backup saw, as the plaintext of one block.
//!
//! ```text
//! plaintext = "LNSNAPSH" | version (1 byte) | protobuf Snapshot
//! ```
//!
//! The block is sealed in the owner's context, so its link is a secret of the owner's and of those who were given it. It names the owner's public
//! key: whoever keeps the snapshot for an owner finds, keeps and re-publishes the owner's head as well.

use bytes::Bytes;
use prost::Message;

use super::error::Error;
use crate::block::{Link, MAX_PLAINTEXT_BYTES};
use crate::crypto::key::Key;
use crate::id::BlockId;
use crate::time::Timestamp;
use crate::wire::backup as wire;

/// First bytes of a snapshot's plaintext.
pub const MAGIC: &[u8; 8] = b"LNSNAPSH";
const VERSION: u8 = 1;

/// Most paths of one snapshot.
pub const MAX_PATHS: usize = 1024;
/// Longest path in bytes.
pub const MAX_PATH_BYTES: usize = 4096;
/// Most tags of one snapshot.
pub const MAX_TAGS: usize = 64;
/// Longest tag, name of a set or of a machine, in bytes.
pub const MAX_NAME_BYTES: usize = 255;
/// Most patterns that a snapshot remembers.
pub const MAX_EXCLUDES: usize = 1024;

/// What lists show of a snapshot, and all that retention looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// When the run began.
    pub started: Timestamp,
    /// Name of the set that it belongs to; empty when paths were given by hand.
    pub set: String,
    /// What was backed up: absolute paths.
    pub paths: Vec<Bytes>,
    /// Tags, sorted.
    pub tags: Vec<String>,
    /// Regular files.
    pub files: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Bytes of blocks that were not in the store before.
    pub new_bytes: u64,
    /// Everything that has a name.
    pub entries: u64,
    /// Distinct blocks; 0 when there were too many to count.
    pub blocks: u64,
}

/// One run of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The owner's public key.
    pub owner: [u8; 32],
    /// The public key of the machine that made it.
    pub machine: [u8; 32],
    /// The machine's name.
    pub machine_name: String,
    /// What lists show.
    pub summary: Summary,
    /// A bundle rooted at `/` that holds the paths and the directories above them.
    pub tree: Link,
    /// Patterns that were left out.
    pub excludes: Vec<String>,
    /// When the run ended.
    pub finished: Timestamp,
    /// Files that could not be read.
    pub unreadable: u64,
    /// The version of the program that made it.
    pub program: String,
}

impl Snapshot {
    /// The plaintext of the snapshot's block.
    pub fn encode(&self) -> Vec<u8> {
        let message = wire::Snapshot {
            owner: self.owner.to_vec().into(),
            machine: self.machine.to_vec().into(),
            machine_name: self.machine_name.clone(),
            summary: Some(self.summary.to_wire()),
            tree: Some(link_to_wire(&self.tree)),
            excludes: self.excludes.clone(),
            finished_ms: self.finished.0,
            unreadable: self.unreadable,
            program: self.program.clone(),
        };
        encode_block(MAGIC, VERSION, &message)
    }

    /// Reads what [`encode`](Self::encode) writes. `id` is the block's, for the error.
    ///
    /// # Errors
    /// [`Error::NotASnapshot`], [`Error::UnknownVersion`], [`Error::Malformed`].
    pub fn decode(id: BlockId, plaintext: &Bytes) -> Result<Self, Error> {
        let message = decode_block(MAGIC, VERSION, id, plaintext, || Error::NotASnapshot { id })?;
        Self::from_wire(message).map_err(|what| Error::Malformed { id, what })
    }

    fn from_wire(message: wire::Snapshot) -> Result<Self, &'static str> {
        if message.excludes.len() > MAX_EXCLUDES
            || message.excludes.iter().any(|e| e.len() > MAX_PATH_BYTES)
        {
            return Err("too many patterns");
        }
        Ok(Self {
            owner: public_key(&message.owner)?,
            machine: public_key(&message.machine)?,
            machine_name: name(message.machine_name)?,
            summary: Summary::from_wire(message.summary.ok_or("no summary")?)?,
            tree: link_from_wire(message.tree)?,
            excludes: message.excludes,
            finished: Timestamp(message.finished_ms),
            unreadable: message.unreadable,
            program: name(message.program)?,
        })
    }
}

impl Summary {
    pub(super) fn to_wire(&self) -> wire::Summary {
        wire::Summary {
            started_ms: self.started.0,
            set: self.set.clone(),
            paths: self.paths.clone(),
            tags: self.tags.clone(),
            files: self.files,
            bytes: self.bytes,
            new_bytes: self.new_bytes,
            entries: self.entries,
            blocks: self.blocks,
        }
    }

    pub(super) fn from_wire(message: wire::Summary) -> Result<Self, &'static str> {
        if message.paths.len() > MAX_PATHS || message.paths.iter().any(|p| p.len() > MAX_PATH_BYTES)
        {
            return Err("too many paths");
        }
        if message.tags.len() > MAX_TAGS || !message.tags.is_sorted_by(|a, b| a < b) {
            return Err("too many tags, or in the wrong order");
        }
        Ok(Self {
            started: Timestamp(message.started_ms),
            set: name(message.set)?,
            paths: message.paths,
            tags: message
                .tags
                .into_iter()
                .map(name)
                .collect::<Result<_, _>>()?,
            files: message.files,
            bytes: message.bytes,
            new_bytes: message.new_bytes,
            entries: message.entries,
            blocks: message.blocks,
        })
    }
}

pub(super) fn encode_block(magic: &[u8; 8], version: u8, message: &impl Message) -> Vec<u8> {
    let mut bytes = magic.to_vec();
    bytes.push(version);
    message
        .encode(&mut bytes)
        .expect("a vector grows as needed");
    bytes
}

pub(super) fn decode_block<M: Message + Default>(
    magic: &[u8; 8],
    version: u8,
    id: BlockId,
    plaintext: &Bytes,
    other: impl Fn() -> Error,
) -> Result<M, Error> {
    match plaintext.split_first_chunk::<8>() {
        Some((found, [found_version, ..])) if found == magic => {
            if *found_version != version {
                return Err(Error::UnknownVersion {
                    id,
                    version: *found_version,
                });
            }
        }
        _ => return Err(other()),
    }
    debug_assert!(plaintext.len() <= MAX_PLAINTEXT_BYTES);
    M::decode(plaintext.slice(magic.len() + 1..)).map_err(|_| Error::Malformed {
        id,
        what: "it is not the message that it says",
    })
}

pub(super) fn link_to_wire(link: &Link) -> wire::Link {
    wire::Link {
        id: link.id.to_multihash().into(),
        key: Bytes::copy_from_slice(link.key.as_bytes()),
    }
}

pub(super) fn link_from_wire(link: Option<wire::Link>) -> Result<Link, &'static str> {
    let link = link.ok_or("a link is missing")?;
    Ok(Link {
        id: BlockId::from_multihash(&link.id).map_err(|_| "a block id of an unknown kind")?,
        key: Key::try_from(&link.key[..]).map_err(|_| "a key that is not 32 bytes long")?,
    })
}

pub(super) fn public_key(bytes: &[u8]) -> Result<[u8; 32], &'static str> {
    bytes
        .try_into()
        .map_err(|_| "a public key that is not 32 bytes long")
}

pub(super) fn name(name: String) -> Result<String, &'static str> {
    match name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
        true => Err("a name that is too long or has control characters"),
        false => Ok(name),
    }
}

/// Whether the plaintext of a block begins like a snapshot's.
pub fn is_snapshot(plaintext: &[u8]) -> bool {
    plaintext.starts_with(MAGIC)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    pub(in crate::backup) fn link(number: u8) -> Link {
        Link {
            id: BlockId::from_sha384([number; 48]),
            key: Key::new([number; 32]),
        }
    }

    pub(in crate::backup) fn summary(started: u64) -> Summary {
        Summary {
            started: Timestamp(started),
            set: "docs".to_owned(),
            paths: vec![Bytes::from_static(b"/home/u/docs")],
            tags: vec!["a".to_owned(), "b".to_owned()],
            files: 3,
            bytes: 4000,
            new_bytes: 500,
            entries: 7,
            blocks: 2,
        }
    }

    fn example() -> Snapshot {
        Snapshot {
            owner: [1; 32],
            machine: [2; 32],
            machine_name: "laptop".to_owned(),
            summary: summary(1_767_268_800_000),
            tree: link(9),
            excludes: vec!["*.tmp".to_owned()],
            finished: Timestamp(1_767_268_801_000),
            unreadable: 1,
            program: "0.1.0".to_owned(),
        }
    }

    fn decode(bytes: &[u8]) -> Result<Snapshot, Error> {
        Snapshot::decode(link(0).id, &Bytes::copy_from_slice(bytes))
    }

    /// The bytes of version 1. These never change: a newer form gets another version.
    #[test]
    fn golden_bytes() {
        let bytes = example().encode();
        assert_eq!(
            HEXLOWER.encode(&bytes),
            include_str!("golden/snapshot_v1.hex").trim()
        );
        assert_eq!(decode(&bytes).expect("its own bytes"), example());
        assert!(is_snapshot(&bytes));
    }

    #[test]
    fn what_is_none_is_refused() {
        let bytes = example().encode();
        assert!(matches!(
            decode(b"LNBUNDLE\x01"),
            Err(Error::NotASnapshot { .. })
        ));
        assert!(matches!(decode(b""), Err(Error::NotASnapshot { .. })));
        let mut newer = bytes.clone();
        newer[8] = 2;
        assert!(matches!(
            decode(&newer),
            Err(Error::UnknownVersion { version: 2, .. })
        ));
        // Cut short, it lacks something that must be there.
        for len in 9..bytes.len() - 1 {
            let _ = decode(&bytes[..len]);
        }
        assert!(matches!(decode(&bytes[..9]), Err(Error::Malformed { .. })));
    }

    /// At the limit it is read, one above it is refused.
    #[test]
    fn limits() {
        let mut snapshot = example();
        snapshot.summary.tags = (0..MAX_TAGS).map(|n| format!("{n:03}")).collect();
        snapshot.summary.paths = vec![Bytes::from(vec![b'x'; MAX_PATH_BYTES]); MAX_PATHS / 8];
        snapshot.machine_name = "m".repeat(MAX_NAME_BYTES);
        assert_eq!(decode(&snapshot.encode()).expect("at the limits"), snapshot);
        let refused = |change: fn(&mut Snapshot)| {
            let mut over = example();
            change(&mut over);
            matches!(decode(&over.encode()), Err(Error::Malformed { .. }))
        };
        assert!(refused(
            |s| s.summary.tags = (0..=MAX_TAGS).map(|n| format!("{n:03}")).collect()
        ));
        assert!(refused(|s| s.summary.tags.reverse()));
        assert!(refused(
            |s| s.summary.paths = vec![Bytes::from(vec![b'x'; MAX_PATH_BYTES + 1])]
        ));
        assert!(refused(
            |s| s.summary.paths = vec![Bytes::new(); MAX_PATHS + 1]
        ));
        assert!(refused(|s| s.machine_name = "m".repeat(MAX_NAME_BYTES + 1)));
        assert!(refused(|s| s.summary.set = "a\u{7}b".to_owned()));
        assert!(refused(
            |s| s.excludes = vec![String::new(); MAX_EXCLUDES + 1]
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
            let bytes = [MAGIC.as_slice(), &[VERSION], &tail].concat();
            let _ = decode(&bytes);
        }

        /// One changed byte gives another snapshot or none, and never a panic.
        #[test]
        fn a_changed_byte_gives_an_answer(at in 9usize..200, byte in any::<u8>()) {
            let mut bytes = example().encode();
            let at = at.min(bytes.len() - 1);
            bytes[at] = byte;
            let _ = decode(&bytes);
        }
    }
}
