//! How much of which packs several trees use. A tree block that they share is looked at once.
//!
//! Deliberately absent: chunks that have a block of their own. They are used in full or not at all.

use std::collections::HashSet;
use std::sync::Arc;

use super::error::Error;
use super::put::may_be_packed;
use super::read::Bundle;
use super::tree::{Content, Directory, Entry, Extent, Node};
use crate::block::Link;
use crate::id::BlockId;

/// Tree blocks that were looked at: the first 16 bytes of each digest, enough to tell one's own apart.
#[derive(Debug, Default)]
pub struct Seen(HashSet<[u8; 16]>);

/// A stretch of a block that may be a pack.
#[derive(Clone, Debug)]
pub struct Use {
    /// The block.
    pub block: Arc<Link>,
    /// Where the stretch starts in its plaintext.
    pub offset: u32,
    /// Its length in bytes.
    pub len: u32,
}

/// Tells `each` what a bundle uses of blocks that may be packs, as far as it is in tree blocks that were not seen; some of it more than once.
/// Returns whether it came to the end: `each` ends it with `false`.
///
/// # Errors
/// When a tree block can't be had or is malformed. What was seen then counts as not seen.
pub async fn packed(
    bundle: &Bundle,
    seen: &mut Seen,
    each: &mut (dyn FnMut(Use) -> bool + Send),
) -> Result<bool, Error> {
    let mut usage = Usage {
        seen,
        waiting: Vec::new(),
        each,
    };
    let whole = usage.run(bundle).await;
    if whole.is_err() {
        seen.0.clear();
    }
    whole
}

struct Usage<'a> {
    seen: &'a mut Seen,
    waiting: Vec<Arc<Link>>,
    each: &'a mut (dyn FnMut(Use) -> bool + Send),
}

impl Usage<'_> {
    async fn run(&mut self, bundle: &Bundle) -> Result<bool, Error> {
        if !self.entry(&bundle.root().entry) {
            return Ok(false);
        }
        while let Some(block) = self.waiting.pop() {
            let goes_on = match bundle.opener().node(&block).await? {
                Node::Entries(entries) => entries.iter().all(|entry| self.entry(entry)),
                Node::Parts(parts) => {
                    parts.iter().for_each(|part| self.tree(&part.block));
                    true
                }
                // Only large files have lists.
                Node::Extents(extents) => self.extents(&extents, u64::MAX),
            };
            if !goes_on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn tree(&mut self, block: &Arc<Link>) {
        if self.seen.0.insert(head(&block.id)) {
            self.waiting.push(block.clone());
        }
    }

    fn entry(&mut self, entry: &Entry) -> bool {
        match &entry.content {
            Content::File(file) => self.extents(&file.extents, file.size),
            Content::Directory(Directory::Block(block)) => {
                self.tree(block);
                true
            }
            Content::Directory(Directory::Inline(entries)) => {
                entries.iter().all(|entry| self.entry(entry))
            }
            Content::Symlink(_) | Content::Fifo | Content::Device(_) => true,
        }
    }

    fn extents(&mut self, extents: &[Extent], file_bytes: u64) -> bool {
        extents.iter().all(|extent| match extent {
            Extent::Data { block, offset, len } if may_be_packed(file_bytes, *len) => {
                (self.each)(Use {
                    block: block.clone(),
                    offset: *offset,
                    len: *len,
                })
            }
            Extent::List { block, .. } => {
                self.tree(block);
                true
            }
            Extent::Data { .. } | Extent::Hole { .. } => true,
        })
    }
}

fn head(id: &BlockId) -> [u8; 16] {
    let mut head = [0; 16];
    head.copy_from_slice(&id.digest()[..16]);
    head
}
