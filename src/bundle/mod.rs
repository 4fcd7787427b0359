//! Bundles: files and directory trees as blocks, and out again.
//!
//! - [`put()`], [`put_paths`], [`put_reader`]: a file, a tree, chosen paths or a stream become blocks and a link.
//! - [`survey()`]: what a put would take and read.
//! - [`rewrite()`]: the same tree without some of its blocks.
//! - [`Bundle`]: lists, looks up, streams a file, names all blocks.
//! - [`extract()`]: writes it all, or a part, to a directory.
//! - [`write_tar`]: the same as an archive.
//! - [`diff()`]: what two bundles differ in.
//!
//! # Terms and layout
//!
//! ```text
//! link -> root block:  kind, totals, index file, properties, root entry
//!           entry:     name, kind, mode, time, owner, extended attributes, and
//!                      file:      extents = (block, offset, length) | hole | a block that lists more extents
//!                      directory: its entries, inside the message | a block with its entries or with parts of them
//! data blocks:         a chunk of a large file, or a pack of many small files
//! ```
//!
//! Entries are sorted by name, a message lists each block that it names once, and boundaries in directories and lists are drawn
//! from names and content: equal trees give equal blocks, and a change costs the blocks that it touches and those above them.
//! Small directories stay inside their parent's message, so that a tree of 25,000 source files has some 30 tree blocks. Hard links each carry
//! the content and a number, never a path; the number is given to every inode of more than one link, also when the other links are
//! outside of the tree. The bytes are in `proto/tree.proto`, [`tree`] holds the limits.
//!
//! # Invariants
//!
//! Everything read is hostile until checked: decoding is total and bounded, and extracting never touches anything outside its target. The
//! result of a put does not depend on timing. Memory is bounded whatever the input.
//!
//! Deliberately absent: stores and networks (only [`BlockSource`](crate::block::BlockSource),
//! [`BlockSink`](crate::block::BlockSink) and [`ChunkIndex`](crate::block::ChunkIndex)), keeping what was put from being evicted, snapshots.

mod acl;
mod bounds;
mod choose;
mod codec;
mod cursor;
mod descriptors;
mod diff;
pub mod error;
mod extract;
mod inode;
mod opener;
mod own;
pub mod pattern;
mod put;
mod quiet;
mod read;
mod root;
mod stat;
mod tar;
#[cfg(test)]
mod tests;
pub mod tree;
mod usage;

pub use bounds::{Bound, Bounds, Excess, USUAL_BYTES, USUAL_ENTRIES};
pub use codec::decode_node;
pub use diff::{Change, ChangeKind, DiffReport, diff};
pub use error::Error;
pub use extract::{
    DEFAULT_WINDOW, ExtractOptions, ExtractReport, Failed, Missing, Overwrite, extract,
};
pub use own::{Own, STORE_TAG, mark_store};
pub use put::{
    Beside, DEFAULT_IN_FLIGHT_BYTES, Filter, FilterOptions, Inside, MAX_REPORTED, Previous,
    PutOptions, PutReport, Rules, Survey, Unreadable, put, put_paths, put_reader, rewrite, survey,
};
pub use read::{Bundle, Found, Last, Walked};
pub use root::{BundleKind, Root, Totals};
pub use tar::{TarOptions, TarReport, write_tar};
pub use usage::{Seen, Use, packed};
