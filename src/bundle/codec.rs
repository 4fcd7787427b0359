//! Trees to bytes and back.
//!
//! ```text
//! plaintext of a tree block = "LNT" | version (1 byte) | protobuf Node
//! ```
//!
//! One tree has one encoding: the block list is in the order of first use, everything else in the order of the tree. Decoding is
//! total: any bytes give a tree within the limits of [`tree`](super::tree) or an error, and memory stays within a small multiple of
//! [`MAX_NODE_BYTES`], whatever the bytes say.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::error::Error;
use super::tree::{
    Content, Device, Directory, Entry, Extent, File, Identity, MAX_FILE_BYTES, MAX_INLINE_DEPTH,
    MAX_TARGET_BYTES, MAX_XATTR_BYTES, MAX_XATTRS, ModTime, Node, Owner, Part, Xattr, check_name,
};
use crate::block::{Link, MAX_PLAINTEXT_BYTES};
use crate::crypto::key::Key;
use crate::id::BlockId;
use crate::wire::tree as wire;

const MAGIC: &[u8; 3] = b"LNT";
const VERSION: u8 = 1;
/// Most plaintext of a tree block. The writer cuts at a quarter of it; the room is for entries whose blocks are all different.
pub const MAX_NODE_BYTES: usize = 1 << 20;
const NANOS_PER_SECOND: u32 = 1_000_000_000;

/// What a message refers to, in the order of first use.
#[derive(Default)]
pub(super) struct Table {
    places: HashMap<BlockId, u32>,
    blocks: Vec<wire::Block>,
}

impl Table {
    fn place(&mut self, link: &Link) -> u32 {
        *self.places.entry(link.id).or_insert_with(|| {
            self.blocks.push(wire::Block {
                id: link.id.to_multihash().into(),
                key: Bytes::copy_from_slice(link.key.as_bytes()),
            });
            (self.blocks.len() - 1) as u32
        })
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &BlockId> {
        self.places.keys()
    }

    pub(super) fn into_blocks(self) -> Vec<wire::Block> {
        self.blocks
    }
}

/// The plaintext of a tree block, and the ids of the blocks that it refers to. `resolve` tells what a reference stands for.
pub(super) fn encode_node<B>(
    node: &Node<B>,
    resolve: &dyn Fn(&B) -> Arc<Link>,
) -> (Vec<u8>, Vec<BlockId>) {
    let mut table = Table::default();
    let mut message = wire::Node::default();
    match node {
        Node::Entries(entries) => {
            message.entries = encode_entries(entries, &mut table, resolve);
        }
        Node::Parts(parts) => {
            message.parts = parts
                .iter()
                .map(|part| wire::Part {
                    first_name: part.first_name.clone(),
                    block: table.place(&resolve(&part.block)),
                })
                .collect();
        }
        Node::Extents(extents) => message.extents = encode_extents(extents, &mut table, resolve),
    }
    let ids = table.ids().copied().collect();
    message.blocks = table.into_blocks();
    let mut bytes = Vec::with_capacity(MAGIC.len() + 1 + message.encoded_len());
    bytes.extend_from_slice(MAGIC);
    bytes.push(VERSION);
    message
        .encode(&mut bytes)
        .expect("a vector grows as needed");
    (bytes, ids)
}

fn encode_entries<B>(
    entries: &[Entry<B>],
    table: &mut Table,
    resolve: &dyn Fn(&B) -> Arc<Link>,
) -> Vec<Bytes> {
    entries
        .iter()
        .map(|entry| encode_entry(entry, table, resolve))
        .collect()
}

/// One entry with everything inlined in it.
pub(super) fn encode_entry<B>(
    entry: &Entry<B>,
    table: &mut Table,
    resolve: &dyn Fn(&B) -> Arc<Link>,
) -> Bytes {
    let mut message = wire::Entry {
        name: entry.name.clone(),
        mode: entry.mode,
        modified: entry.modified.map(|time| wire::Time {
            seconds: time.seconds,
            nanos: time.nanos,
        }),
        owner: entry.owner.map(|owner| wire::Owner {
            uid: owner.uid,
            gid: owner.gid,
        }),
        xattrs: entry
            .xattrs
            .iter()
            .map(|xattr| wire::Xattr {
                name: xattr.name.clone(),
                value: xattr.value.clone(),
            })
            .collect(),
        changed: entry.identity.map(|identity| wire::Time {
            seconds: identity.changed.seconds,
            nanos: identity.changed.nanos,
        }),
        inode: entry.identity.map(|identity| identity.inode),
        ..wire::Entry::default()
    };
    let kind = match &entry.content {
        Content::File(file) => {
            message.size = file.size;
            message.link_group = file.link_group.unwrap_or(0);
            message.extents = encode_extents(&file.extents, table, resolve);
            wire::Kind::File
        }
        Content::Directory(Directory::Inline(entries)) => {
            message.entries = encode_entries(entries, table, resolve);
            wire::Kind::Directory
        }
        Content::Directory(Directory::Block(block)) => {
            message.node = Some(table.place(&resolve(block)));
            wire::Kind::Directory
        }
        Content::Symlink(target) => {
            message.target = target.clone();
            wire::Kind::Symlink
        }
        Content::Fifo => wire::Kind::Fifo,
        Content::Device(device) => {
            message.device = Some(wire::Device {
                major: device.major,
                minor: device.minor,
            });
            if device.is_block {
                wire::Kind::BlockDevice
            } else {
                wire::Kind::CharacterDevice
            }
        }
    };
    message.set_kind(kind);
    message.encode_to_vec().into()
}

fn encode_extents<B>(
    extents: &[Extent<B>],
    table: &mut Table,
    resolve: &dyn Fn(&B) -> Arc<Link>,
) -> Vec<wire::Extent> {
    use wire::extent::At;
    extents
        .iter()
        .map(|extent| {
            let (at, offset) = match extent {
                Extent::Data { block, offset, .. } => {
                    (Some(At::Block(table.place(&resolve(block)))), *offset)
                }
                Extent::Hole { .. } => (None, 0),
                Extent::List { block, .. } => (Some(At::List(table.place(&resolve(block)))), 0),
            };
            wire::Extent {
                len: extent.len(),
                at,
                offset,
            }
        })
        .collect()
}

/// Reads the plaintext of a tree block. `id` is the block's, for the error.
///
/// # Errors
/// [`Error::Malformed`] and [`Error::UnknownVersion`].
pub fn decode_node(id: BlockId, plaintext: &Bytes) -> Result<Node, Error> {
    let malformed = |what| Error::Malformed { block: id, what };
    let Some((magic, [version, ..])) = plaintext.split_first_chunk::<3>() else {
        return Err(malformed("it is too short"));
    };
    if magic != MAGIC {
        return Err(malformed("it is not a tree block"));
    }
    if *version != VERSION {
        return Err(Error::UnknownVersion {
            id,
            version: *version,
        });
    }
    if plaintext.len() > MAX_NODE_BYTES {
        return Err(malformed("it is too large"));
    }
    decode_node_message(plaintext.slice(MAGIC.len() + 1..)).map_err(malformed)
}

fn decode_node_message(bytes: Bytes) -> Result<Node, &'static str> {
    let message = wire::Node::decode(bytes).map_err(|_| "it is not a Node message")?;
    let decoder = Decoder::new(&message.blocks)?;
    let filled = [
        !message.entries.is_empty(),
        !message.parts.is_empty(),
        !message.extents.is_empty(),
    ];
    match filled {
        [_, false, false] => decoder.entries(message.entries, 1).map(Node::Entries),
        [false, true, false] => decoder.parts(message.parts).map(Node::Parts),
        [false, false, true] => decoder.extents(message.extents).map(Node::Extents),
        _ => Err("it holds lists of different kinds"),
    }
}

/// Turns messages that share one block list into a tree.
pub(super) struct Decoder {
    blocks: Vec<Arc<Link>>,
}

impl Decoder {
    pub(super) fn new(blocks: &[wire::Block]) -> Result<Self, &'static str> {
        let link = |block: &wire::Block| -> Result<Arc<Link>, &'static str> {
            Ok(Arc::new(Link {
                id: BlockId::from_multihash(&block.id)
                    .map_err(|_| "a block id that is no multihash")?,
                key: Key::try_from(&block.key[..]).map_err(|_| "a key of another length")?,
            }))
        };
        let blocks = blocks
            .iter()
            .map(link)
            .collect::<Result<_, &'static str>>()?;
        Ok(Self { blocks })
    }

    fn block(&self, place: u32) -> Result<Arc<Link>, &'static str> {
        self.blocks
            .get(place as usize)
            .cloned()
            .ok_or("a block that is not in the list")
    }

    fn entries(&self, messages: Vec<Bytes>, depth: usize) -> Result<Vec<Entry>, &'static str> {
        let mut entries: Vec<Entry> = Vec::new();
        for message in messages {
            let entry = self.entry(message, depth)?;
            check_name(&entry.name)?;
            if entries.last().is_some_and(|last| last.name >= entry.name) {
                return Err("names that are double or not in order");
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// One entry whose name is not checked yet: a bundle's root may have none.
    pub(super) fn entry(&self, bytes: Bytes, depth: usize) -> Result<Entry, &'static str> {
        if depth > MAX_INLINE_DEPTH {
            return Err("directories nested too deeply");
        }
        let message =
            wire::Entry::decode(bytes).map_err(|_| "an entry that is no Entry message")?;
        if message.mode > 0o7777 {
            return Err("a mode with more than 12 bits");
        }
        let identity = identity(message.changed, message.inode)?;
        let modified = message.modified.map(modified).transpose()?;
        let kind = message.kind();
        let holds = Holds::of(&message);
        if !holds.fits(kind) {
            return Err("an entry with the content of another kind");
        }
        let content = match kind {
            wire::Kind::Unspecified => return Err("an entry of unknown kind"),
            wire::Kind::File => {
                Content::File(self.file(message.size, message.extents, message.link_group)?)
            }
            wire::Kind::Directory => Content::Directory(match message.node {
                Some(place) => Directory::Block(self.block(place)?),
                None => Directory::Inline(self.entries(message.entries, depth + 1)?),
            }),
            wire::Kind::Symlink => Content::Symlink(target(message.target)?),
            wire::Kind::Fifo => Content::Fifo,
            wire::Kind::CharacterDevice | wire::Kind::BlockDevice => {
                let device = message.device.ok_or("a device without a number")?;
                Content::Device(Device {
                    is_block: kind == wire::Kind::BlockDevice,
                    major: device.major,
                    minor: device.minor,
                })
            }
        };
        Ok(Entry {
            name: message.name,
            mode: message.mode,
            modified,
            owner: message.owner.map(|owner| Owner {
                uid: owner.uid,
                gid: owner.gid,
            }),
            xattrs: xattrs(message.xattrs)?,
            identity,
            content,
        })
    }

    fn file(
        &self,
        size: u64,
        extents: Vec<wire::Extent>,
        link_group: u32,
    ) -> Result<File, &'static str> {
        let extents = self.extents(extents)?;
        // Each extent was checked to be at most the largest file, so that u128 can't overflow.
        let sum: u128 = extents.iter().map(|extent| u128::from(extent.len())).sum();
        if size > MAX_FILE_BYTES || sum != u128::from(size) {
            return Err("extents that do not add up to the file's size");
        }
        Ok(File {
            size,
            extents,
            link_group: (link_group != 0).then_some(link_group),
        })
    }

    fn extents(&self, messages: Vec<wire::Extent>) -> Result<Vec<Extent>, &'static str> {
        messages
            .into_iter()
            .map(|message| self.extent(&message))
            .collect()
    }

    fn extent(&self, message: &wire::Extent) -> Result<Extent, &'static str> {
        use wire::extent::At;
        let (len, offset) = (message.len, message.offset);
        if len == 0 || len > MAX_FILE_BYTES {
            return Err("an extent that is empty or too long");
        }
        match message.at {
            Some(At::Block(place)) => {
                if u64::from(offset).saturating_add(len) > MAX_PLAINTEXT_BYTES as u64 {
                    return Err("an extent that reaches past the end of any block");
                }
                Ok(Extent::Data {
                    block: self.block(place)?,
                    offset,
                    len: len as u32,
                })
            }
            _ if offset != 0 => Err("an extent with an offset and no data"),
            Some(At::List(place)) => Ok(Extent::List {
                block: self.block(place)?,
                len,
            }),
            None => Ok(Extent::Hole { len }),
        }
    }

    fn parts(&self, messages: Vec<wire::Part>) -> Result<Vec<Part>, &'static str> {
        let mut parts: Vec<Part> = Vec::new();
        for message in messages {
            check_name(&message.first_name)?;
            if parts
                .last()
                .is_some_and(|last| last.first_name >= message.first_name)
            {
                return Err("parts that are not in order");
            }
            parts.push(Part {
                first_name: message.first_name,
                block: self.block(message.block)?,
            });
        }
        Ok(parts)
    }
}

/// Which kinds of content an entry's message carries.
struct Holds {
    file: bool,
    directory: bool,
    both_directory_forms: bool,
    target: bool,
    device: bool,
}

impl Holds {
    fn of(message: &wire::Entry) -> Self {
        let inline = !message.entries.is_empty();
        let node = message.node.is_some();
        Self {
            file: message.size != 0 || message.link_group != 0 || !message.extents.is_empty(),
            directory: inline || node,
            both_directory_forms: inline && node,
            target: !message.target.is_empty(),
            device: message.device.is_some(),
        }
    }

    fn fits(&self, kind: wire::Kind) -> bool {
        let is_device = matches!(kind, wire::Kind::CharacterDevice | wire::Kind::BlockDevice);
        (!self.file || kind == wire::Kind::File)
            && (!self.directory || kind == wire::Kind::Directory)
            && !self.both_directory_forms
            && (!self.target || kind == wire::Kind::Symlink)
            && (!self.device || is_device)
    }
}

fn modified(time: wire::Time) -> Result<ModTime, &'static str> {
    if time.nanos >= NANOS_PER_SECOND {
        return Err("a time with too many nanoseconds");
    }
    Ok(ModTime {
        seconds: time.seconds,
        nanos: time.nanos,
    })
}

fn identity(
    changed: Option<wire::Time>,
    inode: Option<u64>,
) -> Result<Option<Identity>, &'static str> {
    match (changed, inode) {
        (None, None) => Ok(None),
        (Some(changed), Some(inode)) => Ok(Some(Identity {
            changed: modified(changed)?,
            inode,
        })),
        _ => Err("half of an identity"),
    }
}

fn target(target: Bytes) -> Result<Bytes, &'static str> {
    if target.is_empty() || target.len() > MAX_TARGET_BYTES || target.contains(&0) {
        return Err("a symlink target that is empty, too long or has a NUL byte");
    }
    Ok(target)
}

fn xattrs(messages: Vec<wire::Xattr>) -> Result<Vec<Xattr>, &'static str> {
    let bytes: usize = messages
        .iter()
        .map(|xattr| xattr.name.len() + xattr.value.len())
        .sum();
    if bytes > MAX_XATTR_BYTES || messages.len() > MAX_XATTRS {
        return Err("too many extended attributes");
    }
    if messages
        .iter()
        .any(|xattr| xattr.name.is_empty() || xattr.name.contains(&0))
    {
        return Err("an extended attribute whose name is empty or has a NUL byte");
    }
    if !messages.is_sorted_by(|a, b| a.name < b.name) {
        return Err("extended attributes that are double or not in order");
    }
    Ok(messages
        .into_iter()
        .map(|xattr| Xattr {
            name: xattr.name,
            value: xattr.value,
        })
        .collect())
}
