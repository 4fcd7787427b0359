//! Calls about single blocks.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;

use super::api::*;
use super::{Node, blocking, files};
use crate::block::{Block, BlockSource, VerifyError};
use crate::id::BlockId;
use crate::store::{self, Counter, Keep, PinInfo};

/// Blocks of a bundle whose use is looked up at once.
const STAT_IDS: usize = 1000;
/// Most ids in one page of a listing.
const MAX_PAGE: usize = 10_000;
/// Bits that blocks of a listing share with the one that they are to be like.
const LIKE_BITS: u32 = 16;

impl Node {
    /// One block, from the store or the network.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when nobody gave it in time.
    pub async fn block_get(&self, request: BlockGet) -> Result<Bytes, CallError> {
        let session = self
            .depot()
            .session(Duration::from_secs(request.timeout_s), Keep::Cached);
        Ok(session.get(request.id).await?.into_bytes())
    }

    /// Stores bytes as one block and pins it.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when there are no bytes or more than a block may have,
    /// [`ErrorKind::Damaged`] when they are not what the request names, [`ErrorKind::Full`].
    pub async fn block_put(
        &self,
        request: BlockPut,
        bytes: Bytes,
    ) -> Result<BlockPutReply, CallError> {
        let (store, now) = (self.store(), self.now());
        let len = bytes.len() as u64;
        let id = blocking(move || {
            let block = match request.id {
                Some(id) => Block::verify(id, bytes),
                None => Block::new(bytes),
            };
            let block = block.map_err(|error| {
                let kind = match error {
                    VerifyError::Mismatch(_) => ErrorKind::Damaged,
                    _ => ErrorKind::Usage,
                };
                CallError::new(kind, error.to_string())
            })?;
            let id = block.id();
            let name = "block";
            // A pin of its own, whatever else keeps the block: that may go at any moment.
            let pin = store.begin_pin(name)?;
            let info = PinInfo {
                root: id,
                link: None,
                name: name.to_owned(),
                bytes: len,
                files: 0,
                blocks: 1,
                created: now,
            };
            let kept = store.put(&[block], Keep::Pinned(pin)).and_then(|_| {
                store.finish_pin_in_place_of(pin, &info, &mut |known| is_alone(known, id))
            });
            if kept.is_err()
                && let Err(error) = store.abandon_pin(pin)
            {
                tracing::warn!(%error, "the pin of a block that was not kept stays until the next start");
            }
            Ok(kept.map(|()| id)?)
        })
        .await?;
        self.depot().fresh().add([id]);
        Ok(BlockPutReply {
            id,
            hex: id.to_hex(),
            bytes: len,
        })
    }

    /// Whether the store has a block.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn block_has(&self, request: BlockHas) -> Result<BlockHasReply, CallError> {
        let store = self.store();
        let id = request.id;
        let has = blocking(move || Ok(store.has(id)?)).await?;
        Ok(BlockHasReply { id, has })
    }

    /// What is known about a block.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when nothing is.
    pub async fn block_stat(&self, request: BlockStat) -> Result<BlockStatReply, CallError> {
        let store = self.store();
        let id = request.id;
        let stat = blocking(move || Ok(store.stat(id)?))
            .await?
            .ok_or_else(|| CallError {
                block: Some(id),
                ..CallError::new(
                    ErrorKind::NotFound,
                    format!("nothing is known about block {id}"),
                )
            })?;
        Ok(BlockStatReply {
            id,
            local: stat.local,
            deleted: stat.deleted,
            bytes: stat.bytes.map(u64::from),
            class: stat.class.map(|class| class.name().to_owned()),
            pins: stat.pins,
            requested: usage(stat.requested),
            downloaded: usage(stat.downloaded),
            served: usage(stat.served),
            purged: usage(stat.purged),
        })
    }

    /// How the blocks of a bundle were used, all in all. Its tree is fetched where it is not here.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when a block of the tree can't be had.
    pub async fn bundle_stat(&self, request: BundleStat) -> Result<BundleStatReply, CallError> {
        let patience = Duration::from_secs(request.timeout_s);
        let session = self.depot().session(patience, Keep::Cached);
        let bundle = files::open(session, request.link).await?;
        let mut sum = BundleStatReply::default();
        let mut ids = bundle.all_blocks().chunks(STAT_IDS);
        while let Some(some) = ids.next().await {
            let some: Vec<BlockId> = some.into_iter().collect::<Result<_, _>>()?;
            let store = self.store();
            let stats = blocking(move || {
                let stats = some.into_iter().map(|id| store.stat(id));
                Ok(stats.collect::<Result<Vec<_>, _>>()?)
            });
            for stat in stats.await? {
                add(&mut sum, stat.as_ref());
            }
        }
        Ok(sum)
    }

    /// One page of the blocks in the store.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn block_ls(&self, request: BlockLs) -> Result<BlockLsReply, CallError> {
        let store = self.store();
        let limit = request.limit.clamp(1, MAX_PAGE as u64) as usize;
        blocking(move || {
            let mut found = match request.like {
                None => store.list(request.after, limit + 1)?,
                Some(like) => alike(store.as_ref(), like, limit + 1)?,
            };
            let more = found.len() > limit;
            found.truncate(limit);
            Ok(BlockLsReply {
                blocks: found
                    .into_iter()
                    .map(|(id, bytes)| BlockItem {
                        id,
                        bytes: bytes.into(),
                    })
                    .collect(),
                more,
            })
        })
        .await
    }

    /// Drops a block.
    ///
    /// # Errors
    /// [`ErrorKind::Failed`] when a pin keeps it and `force` is not set.
    pub async fn block_rm(&self, request: BlockRm) -> Result<BlockRmReply, CallError> {
        let store = self.store();
        blocking(move || {
            let removed = if request.force {
                forget(store.as_ref(), request.id)?
            } else {
                store.remove(request.id)?
            };
            Ok(BlockRmReply { removed })
        })
        .await
    }
}

/// Adds one block of a bundle; of one that nothing is known about only that it is one.
fn add(sum: &mut BundleStatReply, stat: Option<&store::BlockStat>) {
    sum.blocks += 1;
    let Some(stat) = stat else { return };
    sum.local += u64::from(stat.local);
    sum.bytes += stat.bytes.map_or(0, u64::from);
    sum.deleted += u64::from(stat.deleted);
    sum.requested.add(&usage(stat.requested));
    sum.downloaded.add(&usage(stat.downloaded));
    sum.served.add(&usage(stat.served));
    sum.purged.add(&usage(stat.purged));
}

fn usage(counter: Counter) -> Usage {
    Usage {
        first: counter.first,
        last: counter.last,
        count: counter.count,
    }
}

fn alike(
    store: &dyn store::Store,
    like: BlockId,
    limit: usize,
) -> Result<Vec<(BlockId, u32)>, CallError> {
    let mut found = store.like(like, LIKE_BITS, limit)?;
    found.sort_unstable();
    Ok(found)
}

/// Drops a block and the pin that was made for it alone, if there is one.
fn forget(store: &dyn store::Store, id: BlockId) -> Result<bool, CallError> {
    store.remove_pins(None, &mut |info| is_alone(info, id))?;
    Ok(store.discard(id)?)
}

/// Whether a pin was made for that block alone.
fn is_alone(info: &PinInfo, id: BlockId) -> bool {
    info.root == id && info.link.is_none()
}
