//! Gets blocks and opens them, each once for all who ask for it at about the same time.
//!
//! Decryption runs on blocking threads. Memory: [`CACHED_BLOCKS`] plaintexts, and those in flight for the callers.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::OnceCell;

use super::bounds::Origin;
use super::codec::decode_node;
use super::error::Error;
use super::tree::Node;
use crate::block::{self, BlockSource, Link};

/// Plaintexts that are kept for the next who asks.
const CACHED_BLOCKS: usize = 16;

type Cell = Arc<OnceCell<Bytes>>;

/// Opens the blocks of one bundle.
pub(super) struct Opener {
    source: Arc<dyn BlockSource>,
    cache: Mutex<Cache>,
    /// Blocks that plaintexts came out of so far.
    origin: Origin,
}

/// Least recently used goes first. The key is part of the name: a hostile tree may name one block with two keys.
#[derive(Default)]
struct Cache {
    cells: HashMap<Link, Cell>,
    order: VecDeque<Link>,
}

impl Cache {
    fn cell(&mut self, link: &Link) -> Cell {
        if let Some(cell) = self.cells.get(link) {
            let cell = cell.clone();
            self.order.retain(|other| other != link);
            self.order.push_back(link.clone());
            return cell;
        }
        if self.order.len() >= CACHED_BLOCKS
            && let Some(oldest) = self.order.pop_front()
        {
            self.cells.remove(&oldest);
        }
        let cell = Cell::default();
        self.cells.insert(link.clone(), cell.clone());
        self.order.push_back(link.clone());
        cell
    }
}

impl Opener {
    pub(super) fn new(source: Arc<dyn BlockSource>) -> Self {
        Self {
            source,
            cache: Mutex::default(),
            origin: Origin::default(),
        }
    }

    pub(super) fn source(&self) -> &Arc<dyn BlockSource> {
        &self.source
    }

    /// Bytes of the distinct blocks that were opened so far.
    pub(super) fn opened_bytes(&self) -> u64 {
        self.origin.bytes()
    }

    /// The plaintext of a block, from the cache if it was asked for lately.
    pub(super) async fn plaintext(&self, link: &Link) -> Result<Bytes, Error> {
        let cell = self
            .cache
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .cell(link);
        cell.get_or_try_init(|| self.fetch(link)).await.cloned()
    }

    async fn fetch(&self, link: &Link) -> Result<Bytes, Error> {
        let block = self.source.get(link.id).await?;
        self.origin.add(&link.id, block.bytes().len());
        let key = link.key.clone();
        let opened = tokio::task::spawn_blocking(move || block::open(&block, &key))
            .await
            .map_err(|_| Error::Worker)?;
        Ok(opened?)
    }

    /// The tree node in a block.
    pub(super) async fn node(&self, link: &Link) -> Result<Node, Error> {
        Ok(self.node_and_size(link).await?.0)
    }

    /// The tree node in a block, and the length of its plaintext.
    pub(super) async fn node_and_size(&self, link: &Link) -> Result<(Node, usize), Error> {
        let plaintext = self.plaintext(link).await?;
        Ok((decode_node(link.id, &plaintext)?, plaintext.len()))
    }
}
