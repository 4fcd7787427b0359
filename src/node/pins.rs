//! Calls about pins: bundles that are kept.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;

use super::api::*;
use super::giving::{Giving, givers};
use super::{Node, blocking};
use crate::backup::{self, SNAPSHOT_PIN};
use crate::block::{BlockSource, GetError, Link};
use crate::bundle::Bundle;
use crate::head::head_id;
use crate::id::BlockId;
use crate::monitor::{Monitor, Progress};
use crate::store::{Keep, PinId, PinInfo, Store};
use crate::upkeep::heads::{is_head_pin, keep_for_ours};

/// Blocks of one bundle that are fetched at once.
const FETCH_AT_ONCE: usize = 32;
/// How long to look for the head of a snapshot's owner.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);
/// Missing blocks that are named one by one.
const MAX_MISSING: usize = 1000;

/// A pin that is being made. Dropped before it is finished it is abandoned: what it kept stays,
/// cached, until the next prune.
pub(super) struct Unfinished {
    store: Arc<dyn Store>,
    pin: PinId,
    open: bool,
}

impl Unfinished {
    pub(super) async fn begin(store: Arc<dyn Store>, name: String) -> Result<Self, CallError> {
        let worker = store.clone();
        let pin = blocking(move || Ok(worker.begin_pin(&name)?)).await?;
        Ok(Self {
            store,
            pin,
            open: true,
        })
    }

    pub(super) fn keep(&self) -> Keep {
        Keep::Pinned(self.pin)
    }

    /// Makes the pin last; earlier pins of the same bundle are dropped.
    pub(super) async fn finish(mut self, info: PinInfo) -> Result<(), CallError> {
        let (store, pin) = (self.store.clone(), self.pin);
        blocking(move || {
            let mut is_same = |known: &PinInfo| {
                known.name != SNAPSHOT_PIN
                    && known.root == info.root
                    && known.link.is_some() == info.link.is_some()
            };
            Ok(store.finish_pin_in_place_of(pin, &info, &mut is_same)?)
        })
        .await?;
        self.open = false;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.open {
            let (store, pin) = (self.store.clone(), self.pin);
            let remove = move || {
                if let Err(error) = store.abandon_pin(pin) {
                    tracing::warn!(%error, "an unfinished pin could not be removed; the next start does it");
                }
            };
            match tokio::runtime::Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn_blocking(remove)),
                Err(_) => remove(),
            }
        }
    }
}

impl Node {
    /// Fetches all of a bundle, or of a snapshot, and keeps it. When blocks are missing nothing is pinned, and what came stays cached.
    ///
    /// Who keeps a snapshot keeps its owner's head as well, and publishes it: it is how the owner finds the snapshot again.
    ///
    /// # Errors
    /// When the root can't be had or is no bundle, or the store is full.
    pub async fn pin_add(
        &self,
        request: PinAdd,
        monitor: Arc<dyn Monitor>,
    ) -> Result<PinAddReply, CallError> {
        let link = request.link;
        let pin = Unfinished::begin(self.store(), link.id.to_string()).await?;
        let session = self
            .depot()
            .session(Duration::from_secs(request.timeout_s), pin.keep());
        let _want = self.want_link(&link).await;
        let snapshot = match backup::read_snapshot(&*session, &link).await {
            Ok(snapshot) => Some(snapshot),
            Err(backup::Error::NotASnapshot { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let tree = snapshot.as_ref().map_or(&link, |snapshot| &snapshot.tree);
        let bundle = Bundle::open(session.clone(), tree.clone()).await?;
        let monitor = Giving::watch(session.clone(), monitor);
        let mut reply = PinAddReply {
            blocks: 0,
            bytes: 0,
            from: Vec::new(),
            missing: Vec::new(),
        };
        let number = pin.pin;
        let snapshot_block: Option<Result<BlockId, crate::bundle::Error>> =
            snapshot.is_some().then_some(Ok(link.id));
        let fetched = futures::stream::iter(snapshot_block)
            .chain(bundle.all_blocks())
            .map(|block| fetch(session.clone(), self.store(), number, block))
            .buffer_unordered(FETCH_AT_ONCE);
        let mut fetched = std::pin::pin!(fetched);
        while let Some(block) = fetched.next().await {
            match block {
                Ok(bytes) => {
                    reply.blocks += 1;
                    reply.bytes += bytes;
                    monitor.progress(Progress {
                        blocks: reply.blocks,
                        bytes: reply.bytes,
                        ..Progress::default()
                    });
                }
                Err(error) if error.block.is_some() && reply.missing.len() < MAX_MISSING => {
                    if !reply
                        .missing
                        .iter()
                        .any(|missing| missing.block == error.block)
                    {
                        reply
                            .missing
                            .push(Missing::new(Path::new(""), error.block, error.message));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        reply.from = givers(&session);
        if let Some(snapshot) = &snapshot {
            self.keep_head(snapshot, &*monitor).await;
        }
        if reply.missing.is_empty() {
            let root = bundle.root();
            let own_name = match &snapshot {
                Some(snapshot) => format!("snapshot of {}", snapshot.machine_name),
                None => shown(&root.entry.name),
            };
            pin.finish(PinInfo {
                root: link.id,
                link: Some(link),
                name: request.name.unwrap_or(own_name),
                bytes: root.totals.bytes,
                files: root.totals.files,
                blocks: reply.blocks,
                created: self.now(),
            })
            .await?;
        }
        Ok(reply)
    }

    /// Finds the head of the snapshot's owner and keeps it. That it can't be found now is said, and no failure: the snapshot is kept.
    async fn keep_head(&self, snapshot: &backup::Snapshot, monitor: &dyn Monitor) {
        let id = head_id(&snapshot.owner);
        let heads = self.heads();
        let found = tokio::time::timeout(HEAD_PATIENCE, self.depot().heads().find(id)).await;
        let kept = match found {
            Ok(Ok(Some(head))) => heads.keep(head).await.map(|_| true),
            Ok(Ok(None)) | Err(_) => Ok(false),
            Ok(Err(error)) => Err(error),
        };
        // It may be kept for its owner's leases already, and is to stay when those end.
        let (store, now) = (self.store(), self.now());
        let said = blocking(move || Ok(keep_for_ours(&*store, id, now)?)).await;
        if let Err(error) = said {
            let message = error.message;
            monitor.warning(&format!(
                "the head of the snapshot's owner may go when its leases end: {message}"
            ));
        }
        match kept {
            Ok(true) => {}
            Ok(false) => monitor.warning(
                "the head of the snapshot's owner was not found: add the pin again when the owner's machine is online",
            ),
            Err(error) => monitor.warning(&format!(
                "the head of the snapshot's owner can't be kept: {error}"
            )),
        }
    }

    /// Stops keeping a bundle.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when it is not pinned.
    pub async fn pin_rm(&self, request: PinRm) -> Result<PinRmReply, CallError> {
        let (store, id) = (self.store(), request.id);
        let (reply, is_head) = blocking(move || {
            let (mut is_snapshot, mut is_head) = (false, false);
            let mut chosen = |info: &PinInfo| {
                let is_named = info.root == request.id;
                is_snapshot |= is_named && info.name == SNAPSHOT_PIN;
                is_head |= is_named && is_head_pin(info);
                is_named && info.name != SNAPSHOT_PIN
            };
            let removed = store.remove_pins(None, &mut chosen)?;
            if removed.pins > 0 {
                let blocks = removed.freed_blocks;
                return Ok((PinRmReply { blocks }, is_head));
            }
            let id = request.id;
            Err(if is_snapshot {
                let message = format!("{id} is a snapshot of this machine's backups");
                CallError::new(ErrorKind::Usage, message)
                    .with_hint("`libernet forget` and `libernet prune` let go of it")
            } else {
                CallError::new(ErrorKind::NotFound, format!("{id} is not pinned here"))
                    .with_hint("`libernet pin ls` lists what is")
            })
        })
        .await?;
        if is_head {
            self.heads()
                .release(id)
                .await
                .map_err(backup::Error::from)?;
        }
        Ok(reply)
    }

    /// The pins.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn pin_ls(&self, _: PinLs) -> Result<PinLsReply, CallError> {
        let store = self.store();
        blocking(move || {
            let pins = store.pins()?.into_iter().map(|(_, info)| Pin {
                id: info.root,
                link: info.link,
                name: info.name,
                bytes: info.bytes,
                blocks: info.blocks,
                created: info.created,
            });
            Ok(PinLsReply {
                pins: pins.collect(),
            })
        })
        .await
    }
}

/// Makes sure that a block is here and pinned; its size.
async fn fetch(
    session: Arc<crate::depot::Session>,
    store: Arc<dyn Store>,
    pin: PinId,
    id: Result<BlockId, crate::bundle::Error>,
) -> Result<u64, CallError> {
    let id = id?;
    let bytes = match session.get(id).await {
        Ok(block) => block.bytes().len() as u64,
        Err(GetError::Stopping) => return Err(GetError::Stopping.into()),
        Err(error) => {
            return Err(CallError {
                block: Some(id),
                ..error.into()
            });
        }
    };
    // What was here before came without the pin.
    let gone = blocking(move || Ok(store.add_refs(pin, &[id])?)).await?;
    if gone.is_empty() {
        Ok(bytes)
    } else {
        Err(CallError {
            block: Some(id),
            ..CallError::new(
                ErrorKind::Failed,
                format!("block {id} was dropped meanwhile"),
            )
        })
    }
}

/// What a finished put is remembered as.
pub(super) fn info_of(
    link: Link,
    name: String,
    report: &crate::bundle::PutReport,
    created: crate::time::Timestamp,
) -> PinInfo {
    PinInfo {
        root: link.id,
        link: Some(link),
        name,
        bytes: report.bytes,
        files: report.files,
        blocks: report.blocks,
        created,
    }
}
