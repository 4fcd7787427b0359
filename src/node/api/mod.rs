//! What a node can be asked, as values: the same for a node in this process and for one behind HTTP.
//!
//! Names of methods and fields are public: scripts see them in `--json` output and in the local HTTP API. Fields are added,
//! never renamed.

mod backup;
mod blocks;
mod care;
mod health;
mod lease;
mod leave;
mod ledger;
mod machines;
mod meet;
mod metrics;
mod owner;
#[cfg(test)]
mod path_tests;
mod problems;
mod rings;
mod sets;
mod settings;
mod status;
mod web;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::block::{Link, Tried};
use crate::id::BlockId;
use crate::path;
use crate::time::Timestamp;

/// One kind of request: its name in URLs and what comes back.
pub trait Call: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The method's name, the last part of `/api/v1/<name>`.
    const NAME: &'static str;
    /// The answer.
    type Reply: Serialize + DeserializeOwned + Send + 'static;
}

macro_rules! call {
    ($request:ty, $name:literal, $reply:ty) => {
        impl Call for $request {
            const NAME: &'static str = $name;
            type Reply = $reply;
        }
    };
}
use call;

pub use crate::path::{bytes_of, hex, shown};
pub use backup::*;
pub use blocks::*;
pub use care::*;
pub use health::*;
pub use lease::*;
pub use leave::*;
pub use ledger::*;
pub use machines::*;
pub use meet::*;
pub use metrics::*;
pub use owner::*;
pub use problems::*;
pub use rings::*;
pub use sets::*;
pub use settings::*;
pub use status::*;
pub use web::*;

/// Turns a file or directory into blocks and pins them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Put {
    /// Absolute path on the node's machine.
    #[serde(with = "path")]
    pub path: PathBuf,
    /// Name to show in lists and to extract a single file under; the path's last part when missing.
    #[serde(default)]
    pub name: Option<String>,
    /// File to show when the bundle's root is opened as a page.
    #[serde(default)]
    pub index_file: Option<String>,
    /// Keep the blocks pinned (the default of the command line).
    pub pin: bool,
    /// Wait until the root is announced, so that others find it when this returns.
    pub announce: bool,
    /// Seal the blocks with a secret of this put's own: nobody who knows a file can test whether
    /// they hold it, and they are the same as no others.
    #[serde(default)]
    pub private: bool,
    /// Make the root block's id like another one.
    #[serde(default)]
    pub like: Option<PutLike>,
}
call!(Put, "put", PutReply);

/// Id that the id of a root block is to be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutLike {
    /// The identifier.
    pub id: BlockId,
    /// First bits that they share: 1 to 16. Each doubles the work.
    pub bits: u32,
}

/// Turns a file of unknown length, such as standard input, into blocks. Sent as bytes, with this as the query of the URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutStream {
    /// Name to show in lists and to extract the file under.
    pub name: String,
    /// Keep the blocks pinned.
    #[serde(default = "yes")]
    pub pin: bool,
    /// Wait until the root is announced.
    #[serde(default = "yes")]
    pub announce: bool,
    /// As in [`Put`].
    #[serde(default)]
    pub private: bool,
}

const fn yes() -> bool {
    true
}

/// What [`Put`] or [`PutStream`] did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PutReply {
    /// What to pass on.
    pub link: Link,
    /// The root block.
    pub id: BlockId,
    /// Bytes of content.
    pub bytes: u64,
    /// Regular files.
    pub files: u64,
    /// Blocks of the bundle.
    pub blocks: u64,
    /// Bytes of blocks that were not in the store before.
    pub new_bytes: u64,
    /// Files that are not in the bundle, or not as they are now.
    pub unreadable: Vec<Unreadable>,
    /// Paths that no put takes: directories of libernet itself, and sockets.
    #[serde(default)]
    pub left_out: Vec<Unreadable>,
    /// Peers that took the announcement of the root; 0 when nobody was there to tell.
    pub announced_to: u64,
}

/// Makes a ticket: a link, and where this node can be reached.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MakeTicket {
    /// The link.
    pub link: Link,
}
call!(MakeTicket, "ticket", MakeTicketReply);

/// Result of [`MakeTicket`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MakeTicketReply {
    /// One word to pass on, as secret as the link; missing when no address is known at which others
    /// could reach this node.
    pub ticket: Option<String>,
    /// The addresses in it, as full multiaddresses.
    pub addresses: Vec<String>,
    /// Whether somebody outside has reached this node at them, or a relay keeps the way open. If
    /// not, they are addresses that this machine has.
    pub confirmed: bool,
}

/// A file that could not be read, changed while it was read, or is never taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreadable {
    /// Its path, as [`shown`].
    pub path: String,
    /// The path's bytes where they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_hex: Option<String>,
    /// Why.
    pub reason: String,
}

/// Writes a bundle to disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Get {
    /// The bundle.
    pub link: Link,
    /// Path inside the bundle; empty for all of it.
    #[serde(default, with = "path")]
    pub path: PathBuf,
    /// Absolute path to write to. When missing, the bundle's own name in `directory`.
    #[serde(default, with = "path::optional")]
    pub output: Option<PathBuf>,
    /// Where the bundle goes under its own name when `output` is missing.
    #[serde(with = "path")]
    pub directory: PathBuf,
    /// What to do with files that exist.
    pub overwrite: Overwrite,
    /// Restore owners and groups (needs root).
    #[serde(default)]
    pub owners: bool,
    /// Pin the bundle as well. Only a whole one can be pinned.
    #[serde(default)]
    pub pin: bool,
    /// Most bytes of content that may come; when missing, as many as the bundle's blocks account
    /// for.
    #[serde(default)]
    pub max_bytes: Option<u64>,
    /// Most files, directories and links that may come. When missing, as many as the bundle's tree
    /// blocks account for.
    #[serde(default)]
    pub max_files: Option<u64>,
    /// Where no limit is given, there is none.
    #[serde(default)]
    pub any_size: bool,
    /// Seconds to look for one block before it counts as missing.
    pub timeout_s: u64,
}
call!(Get, "get", GetReply);

/// What to do with files that exist at the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overwrite {
    /// Refuse a target that exists; of a restore: leave files that exist alone.
    #[default]
    Never,
    /// Leave files that exist alone, and write the others.
    Missing,
    /// Replace files whose size or time differs.
    Changed,
    /// Replace every file.
    Always,
}

/// What [`Get`] did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetReply {
    /// Bytes of content written.
    pub bytes: u64,
    /// Regular files written.
    pub files: u64,
    /// Peers that gave blocks; empty when everything was in the store.
    pub from: Vec<Giver>,
    /// Where it was written.
    #[serde(with = "path")]
    pub output: PathBuf,
    /// Parts that could not be had.
    pub missing: Vec<Missing>,
    /// Attributes that the system refused to files that are there.
    #[serde(default)]
    pub refused: Vec<Missing>,
    /// Whether the bundle is pinned now, as asked. Never when a block of it could not be had: what came stays cached.
    #[serde(default)]
    pub pinned: bool,
}

/// A peer that gave blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Giver {
    /// The peer.
    pub peer: String,
    /// Blocks taken from it.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A part that could not be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Path inside the bundle, as [`shown`].
    pub path: String,
    /// The path's bytes where they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_hex: Option<String>,
    /// The block that is missing or damaged.
    pub block: Option<BlockId>,
    /// Why it could not be had: peers tried, and what each said.
    pub reason: String,
}

/// Streams the bytes of one file of a bundle. Answered as bytes, not as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cat {
    /// The bundle.
    pub link: Link,
    /// Path inside the bundle, where symlinks are followed as long as they lead to places in it;
    /// empty when the bundle is one file.
    #[serde(default, with = "path")]
    pub path: PathBuf,
    /// First byte.
    #[serde(default)]
    pub offset: u64,
    /// Most bytes to send; everything when missing.
    #[serde(default)]
    pub len: Option<u64>,
    /// Seconds to look for one block.
    pub timeout_s: u64,
}

/// Lists a directory of a bundle, a page at a time, or tells what one entry is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ls {
    /// The bundle.
    pub link: Link,
    /// Path inside the bundle; empty for its root. Symlinks on the way are followed as long as they
    /// lead to places in the bundle.
    #[serde(default, with = "path")]
    pub path: PathBuf,
    /// Follow a symlink at the end of the path, too.
    #[serde(default)]
    pub follow: bool,
    /// Number of entries to leave out at the start.
    #[serde(default)]
    pub skip: u64,
    /// Most entries to return.
    pub limit: u64,
    /// Seconds to look for one block.
    pub timeout_s: u64,
}
call!(Ls, "ls", LsReply);

/// One page of a listing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LsReply {
    /// Where that is, once symlinks are followed: a path from the bundle's root.
    #[serde(default, with = "path::optional")]
    pub real: Option<PathBuf>,
    /// What the path itself names. The root of a bundle of one file is that file; the root directory has an empty name.
    #[serde(default)]
    pub this: Option<Entry>,
    /// The bundle's index file, a path below its root.
    #[serde(default)]
    pub index_file: Option<String>,
    /// The directory's entries, sorted by name; empty when the path names anything else.
    pub entries: Vec<Entry>,
    /// Whether there are more.
    pub more: bool,
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Name, as [`shown`].
    pub name: String,
    /// The name's bytes where they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_hex: Option<String>,
    /// `file`, `dir`, `symlink`, `fifo`, `char_device` or `block_device`.
    pub kind: String,
    /// Size of a file's content in bytes.
    pub bytes: u64,
    /// Permission bits.
    pub mode: u32,
    /// Modification time in seconds since 1970; may be negative.
    pub mtime_s: i64,
    /// Where a symlink points to, as [`shown`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

impl Entry {
    /// The name's bytes.
    pub fn name_bytes(&self) -> Vec<u8> {
        bytes_of(&self.name, self.name_hex.as_deref())
    }
}

impl Unreadable {
    /// Names a file.
    pub fn new(path: &Path, reason: String) -> Self {
        let bytes = path.as_os_str().as_bytes();
        Self {
            path: shown(bytes),
            path_hex: hex(bytes),
            reason,
        }
    }
}

impl Missing {
    /// Names a part.
    pub fn new(path: &Path, block: Option<BlockId>, reason: String) -> Self {
        let bytes = path.as_os_str().as_bytes();
        Self {
            path: shown(bytes),
            path_hex: hex(bytes),
            block,
            reason,
        }
    }
}

/// Looks for providers of an identifier.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Find {
    /// The identifier.
    pub id: BlockId,
    /// Most providers to return.
    pub limit: u64,
    /// Ask each provider whether it really has the block.
    pub check: bool,
    /// Seconds to look.
    pub timeout_s: u64,
}
call!(Find, "find", FindReply);

/// Providers found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FindReply {
    /// The identifier asked for.
    pub id: BlockId,
    /// Whether this node itself has it.
    pub local: bool,
    /// Port that this node itself announces under the identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announced: Option<AnnouncedPort>,
    /// Other nodes, in the order found.
    pub providers: Vec<Provider>,
}

/// Port of another program that this node announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnouncedPort {
    /// Where that program listens on this host.
    pub port: u16,
    /// When the announcement ends.
    pub until: Timestamp,
}

/// A node that announced an identifier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provider {
    /// The node.
    pub peer: String,
    /// Where it can be reached.
    pub addresses: Vec<String>,
    /// Whether it could be dialled; missing when not tried.
    pub reached: Option<bool>,
    /// Whether it says that it has the block; missing when it gave no answer.
    pub has: Option<bool>,
    /// Port of another program on its host, if one was announced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// With a port: whether the node itself says so. Else it is the word of others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_confirmed: Option<bool>,
    /// With a port: IP addresses of its host, as this node and others see it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// With a port: seconds for which the announcement still holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_ttl_s: Option<u32>,
    /// Milliseconds from the start of the search to this provider's answer.
    pub ms: u64,
}

/// Announces identifiers to the DHT, for blocks or for another program's use.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Announce {
    /// The identifiers.
    pub ids: Vec<BlockId>,
    /// Port on which another program of this host listens. It is announced until its time is over,
    /// also after a restart.
    #[serde(default)]
    pub port: Option<u16>,
    /// With a port: seconds until its time is over, at most a week; two days when missing.
    #[serde(default)]
    pub ttl_s: Option<u64>,
    /// Take back the ports that are announced under the identifiers.
    #[serde(default)]
    pub end: bool,
}
call!(Announce, "announce", AnnounceReply);

/// What [`Announce`] did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AnnounceReply {
    /// Identifiers announced.
    pub ids: Vec<BlockId>,
    /// Peers that took a record.
    pub peers: u64,
    /// With a port: when the announcement ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// Looks for ids that share their first bits with a given one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Like {
    /// The identifier.
    pub id: BlockId,
    /// First bits that they share at least: 12 to 16.
    pub bits: u32,
    /// Seconds to look.
    pub timeout_s: u64,
}
call!(Like, "like", LikeReply);

/// Ids that are alike.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LikeReply {
    /// The identifier asked for.
    pub id: BlockId,
    /// Ids, best match first; at most 100.
    pub ids: Vec<LikeId>,
    /// Peers that were asked.
    pub asked: u64,
    /// Peers that answered.
    pub answered: u64,
}

/// An id that is like another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LikeId {
    /// The id.
    pub id: BlockId,
    /// First bits that it shares.
    pub bits: u32,
    /// Size of the block, by the word of who has it.
    pub bytes: u64,
    /// The peer that told it, or `here`.
    pub from: String,
}

/// Lists connected peers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Peers {}
call!(Peers, "peers", PeersReply);

/// The peers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeersReply {
    /// Connected peers.
    pub peers: Vec<Peer>,
}

/// One connected peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Peer {
    /// The peer.
    pub peer: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// What it says it runs.
    pub agent: Option<String>,
    /// Round-trip time in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Seconds since it connected.
    pub connected_s: u64,
    /// Who dialled: `outbound` or `inbound`.
    pub direction: String,
    /// How it was first heard of: `mdns`, `bootstrap`, `inbound`, `dht`, `manual` or another word.
    #[serde(default)]
    pub source: String,
    /// Answers from it that were not what was asked for.
    pub wrong_blocks: u64,
    /// Whether all that goes to it and comes from it goes through a relay.
    #[serde(default)]
    pub relayed: bool,
}

/// Connects to a peer at an address.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Connect {
    /// A multiaddress, with or without `/p2p/<peer>`.
    pub address: String,
}
call!(Connect, "connect", ConnectReply);

/// The peer that answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConnectReply {
    /// The peer.
    pub peer: String,
}

/// Fetches all of a bundle and keeps it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PinAdd {
    /// The bundle.
    pub link: Link,
    /// A name to show in lists.
    #[serde(default)]
    pub name: Option<String>,
    /// Seconds to look for one block.
    pub timeout_s: u64,
}
call!(PinAdd, "pin-add", PinAddReply);

/// What [`PinAdd`] did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PinAddReply {
    /// Blocks now kept.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Peers that gave blocks.
    pub from: Vec<Giver>,
    /// Blocks that could not be had. Nothing is pinned then, what came stays cached.
    pub missing: Vec<Missing>,
}

/// Stops keeping a bundle.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PinRm {
    /// The bundle's root.
    pub id: BlockId,
}
call!(PinRm, "pin-rm", PinRmReply);

/// What [`PinRm`] did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PinRmReply {
    /// Blocks that no pin keeps any more.
    pub blocks: u64,
}

/// Lists pins.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PinLs {}
call!(PinLs, "pin-ls", PinLsReply);

/// The pins.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PinLsReply {
    /// Pins, oldest first.
    pub pins: Vec<Pin>,
}

/// One pin.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pin {
    /// The root block.
    pub id: BlockId,
    /// The bundle; missing for a block that was put as it is.
    pub link: Option<Link>,
    /// Its name.
    pub name: String,
    /// Bytes of content.
    pub bytes: u64,
    /// Blocks kept.
    pub blocks: u64,
    /// When it was made.
    pub created: Timestamp,
}

/// Why a call failed, for scripts and for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct CallError {
    /// What sort of failure it is; decides the exit code.
    pub kind: ErrorKind,
    /// What failed and why.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The block that was missing or damaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<BlockId>,
    /// Peers that were asked for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tried: Vec<Tried>,
}

/// What sort of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// Anything else.
    Failed,
    /// The request itself is wrong: an unknown link form, a path that is not in the bundle.
    Usage,
    /// Nobody gave the block in time.
    NotFound,
    /// Stored or received data is damaged, or not what it claims to be.
    Damaged,
    /// The quota or the disk is full.
    Full,
    /// Another process holds the data directory.
    Locked,
    /// The target exists.
    Exists,
    /// The operating system refused.
    Permission,
    /// The node could not be reached, or is stopping.
    Unavailable,
    /// The keys of the owner are behind a passphrase, and none was given.
    OwnerLocked,
    /// The data directory has no owner.
    NoOwner,
    /// More would be written than may be without asking.
    Excess,
}

impl CallError {
    /// An error without a hint.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
            block: None,
            tried: Vec::new(),
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
