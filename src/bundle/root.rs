//! What a link points to: the root block of a bundle.
//!
//! ```text
//! plaintext of a root block = "LNBUNDLE" | version (1 byte) | protobuf Root
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::codec::{Decoder, Table, encode_entry};
use super::error::Error;
use super::tree::{Content, Entry, check_name};
use crate::block::{Link, MAX_PLAINTEXT_BYTES};
use crate::id::BlockId;
use crate::wire::tree as wire;

const MAGIC: &[u8; 8] = b"LNBUNDLE";
const VERSION: u8 = 1;
/// Most bytes of an index file's path.
pub const MAX_INDEX_FILE_BYTES: usize = 4096;
/// Most bytes of all properties, names and values.
pub const MAX_PROPERTIES_BYTES: usize = 256 << 10;
/// Most properties.
pub const MAX_PROPERTIES: usize = 1024;

/// What a bundle holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BundleKind {
    /// A directory tree.
    Tree,
    /// One file.
    Stream,
}

/// The root of a bundle. Everything but the root entry's own attributes is a claim of who made it, until the tree is walked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root<B = Arc<Link>> {
    /// The directory or file itself. Its name is a suggestion, and may be empty.
    pub entry: Entry<B>,
    /// How much there is.
    pub totals: Totals,
    /// Path inside the bundle of what to show first.
    pub index_file: Option<Bytes>,
    /// Free attributes of the bundle, such as a title.
    pub properties: BTreeMap<String, Bytes>,
}

/// How much a bundle holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Totals {
    /// Regular files.
    pub files: u64,
    /// Everything that has a name, the root included.
    pub entries: u64,
    /// Bytes of content, holes and repetitions included.
    pub bytes: u64,
    /// Distinct blocks besides the root block; 0 when they were not counted.
    pub blocks: u64,
}

impl<B> Root<B> {
    /// Whether it holds a tree or one file.
    pub const fn kind(&self) -> BundleKind {
        match self.entry.content {
            Content::Directory(_) => BundleKind::Tree,
            _ => BundleKind::Stream,
        }
    }

    /// The plaintext of the root block. `resolve` tells what a reference stands for.
    pub(super) fn encode(&self, resolve: &dyn Fn(&B) -> Arc<Link>) -> Vec<u8> {
        let mut table = Table::default();
        let entry = encode_entry(&self.entry, &mut table, resolve);
        let mut message = wire::Root {
            blocks: table.into_blocks(),
            entry,
            files: self.totals.files,
            entry_count: self.totals.entries,
            bytes: self.totals.bytes,
            block_count: self.totals.blocks,
            index_file: self.index_file.clone().unwrap_or_default(),
            properties: self
                .properties
                .iter()
                .map(|(name, value)| wire::Property {
                    name: name.clone(),
                    value: value.clone(),
                })
                .collect(),
            ..wire::Root::default()
        };
        message.set_kind(match self.kind() {
            BundleKind::Tree => wire::BundleKind::Tree,
            BundleKind::Stream => wire::BundleKind::Stream,
        });
        let mut bytes = MAGIC.to_vec();
        bytes.push(VERSION);
        message
            .encode(&mut bytes)
            .expect("a vector grows as needed");
        bytes
    }
}

impl Root {
    /// Reads the plaintext of a root block. `id` is the block's, for the error.
    ///
    /// # Errors
    /// [`Error::NotABundle`], [`Error::UnknownVersion`], [`Error::Malformed`].
    pub fn decode(id: BlockId, plaintext: &Bytes) -> Result<Self, Error> {
        let Some((magic, [version, ..])) = plaintext.split_first_chunk::<8>() else {
            return Err(Error::NotABundle { id });
        };
        if magic != MAGIC {
            return Err(Error::NotABundle { id });
        }
        if *version != VERSION {
            return Err(Error::UnknownVersion {
                id,
                version: *version,
            });
        }
        Self::decode_message(plaintext.slice(MAGIC.len() + 1..))
            .map_err(|what| Error::Malformed { block: id, what })
    }

    fn decode_message(bytes: Bytes) -> Result<Self, &'static str> {
        if bytes.len() > MAX_PLAINTEXT_BYTES {
            return Err("it is too large");
        }
        let message = wire::Root::decode(bytes).map_err(|_| "it is not a Root message")?;
        let kind = message.kind();
        let entry = Decoder::new(&message.blocks)?.entry(message.entry, 1)?;
        if !entry.name.is_empty() {
            check_name(&entry.name)?;
        }
        match (&entry.content, kind) {
            (Content::Directory(_), wire::BundleKind::Tree)
            | (Content::File(_), wire::BundleKind::Stream) => {}
            _ => return Err("a root that is not of the kind that it says"),
        }
        check_index_file(&message.index_file)?;
        let properties: BTreeMap<String, Bytes> = message
            .properties
            .into_iter()
            .map(|property| (property.name, property.value))
            .collect();
        check_properties(&properties)?;
        Ok(Self {
            entry,
            totals: Totals {
                files: message.files,
                entries: message.entry_count,
                bytes: message.bytes,
                blocks: message.block_count,
            },
            index_file: (!message.index_file.is_empty()).then_some(message.index_file),
            properties,
        })
    }
}

/// Whether `path` may be an index file: relative names with slashes between. Empty: none.
pub(super) fn check_index_file(path: &[u8]) -> Result<(), &'static str> {
    if path.is_empty() {
        return Ok(());
    }
    if path.len() > MAX_INDEX_FILE_BYTES {
        return Err("an index file whose path is too long");
    }
    path.split(|b| *b == b'/').try_for_each(check_name)
}

pub(super) fn check_properties(properties: &BTreeMap<String, Bytes>) -> Result<(), &'static str> {
    let bytes: usize = properties
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if bytes > MAX_PROPERTIES_BYTES || properties.len() > MAX_PROPERTIES {
        return Err("too many properties");
    }
    Ok(())
}
