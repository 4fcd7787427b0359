//! Looks after the owners' heads that this node keeps: finds newer ones, keeps the logs that they name, and publishes them again, so
//! that a backup is found even when its owner has been away for years.
//!
//! For each kept head there is one pin, named after it, of the log blocks. When the logs change, a new pin is made before the old
//! one is removed. As long as one of the logs can't be had, the logs of before stay pinned besides.
//!
//! The pin outlives the list of kept heads should that be damaged: a pin without its head brings the head back. Hence a head that is
//! released loses its pin without any network. Released while the node is about to stop, it may come back; release it again.
//!
//! Deliberately absent: which heads to keep; and what the logs say, which this node can't read.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::block::{BlockSource, GetError};
use crate::depot::Depot;
use crate::head::{HeadRecord, MAX_ENTRIES};
use crate::id::BlockId;
use crate::store::{self, Keep, PinId, PinInfo, Store};
use crate::task::WorkerState;
use crate::time::Clock;

/// How often every head is looked after.
pub const EVERY: Duration = Duration::from_secs(3600);
/// How long to wait for a first peer before looking again.
const LONELY: Duration = Duration::from_secs(2);
/// How long to look for a log.
const PATIENCE: Duration = Duration::from_secs(60);
/// Heads that are looked after at the same time.
const HEADS_AT_ONCE: usize = 4;
/// Logs of one head that are fetched at the same time.
const LOGS_AT_ONCE: usize = 4;

/// Logs that one head's pin has at most: those of now, and as long as some of them are missing those of before.
pub const MAX_PINNED_LOGS: usize = 2 * MAX_ENTRIES;

/// Why a head could not be looked after.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The network.
    #[error(transparent)]
    Net(#[from] crate::net::providers::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Some logs can't be had now.
    #[error("{missing} logs were found nowhere, such as {first}")]
    Missing {
        /// How many.
        missing: usize,
        /// One of them.
        first: BlockId,
    },
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// Name of the pin of a head's logs.
pub fn pin_name(head: &BlockId) -> String {
    format!("head {}", &head.to_hex()[..8])
}

/// Whether a pin is of a head's logs. Its root is then no block: it is the head's key in the DHT.
pub fn is_head_pin(info: &PinInfo) -> bool {
    info.link.is_none() && info.name == pin_name(&info.root)
}

/// Runs until cancelled: once for each head at the start, when it is kept and when it names other logs, and every [`EVERY`].
pub async fn run(
    depot: Depot,
    clock: Arc<dyn Clock>,
    cancel: CancellationToken,
    state: Arc<WorkerState>,
) {
    let work = async {
        let keeper = Keeper {
            depot: &depot,
            clock: clock.as_ref(),
            patience: PATIENCE,
        };
        let mut changes = depot.net().heads().watch_kept();
        let mut seen = Seen::default();
        let mut next = Instant::now();
        loop {
            if next <= Instant::now() {
                seen.done.clear();
                next = Instant::now() + EVERY;
            }
            changes.mark_unchanged();
            let again = match keeper.round(&mut seen, &state).await {
                Ok(Round::Done) => next,
                Ok(Round::Lonely) => Instant::now() + LONELY,
                Err(error) => {
                    state.fail(error.to_string());
                    next
                }
            };
            tokio::select! {
                () = tokio::time::sleep_until(again) => {}
                // The sender lives as long as the depot's net.
                _ = changes.changed() => {}
            }
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = work => {}
    }
}

struct Keeper<'a> {
    depot: &'a Depot,
    clock: &'a dyn Clock,
    patience: Duration,
}

/// What earlier rounds have seen.
#[derive(Default)]
struct Seen {
    /// Heads that were kept in this run.
    kept: HashSet<BlockId>,
    /// Heads that were looked after in this hour, and the logs that they named then.
    done: HashMap<BlockId, BTreeSet<BlockId>>,
}

/// How a round ended.
enum Round {
    Done,
    /// There is no peer yet, so nothing was done.
    Lonely,
}

/// A pin of a head's logs.
struct HeadPin {
    pin: PinId,
    head: BlockId,
    logs: Vec<BlockId>,
}

impl Keeper<'_> {
    /// Looks after every kept head, unless it was looked after in this hour.
    async fn round(&self, seen: &mut Seen, state: &WorkerState) -> Result<Round, Error> {
        let kept: BTreeSet<BlockId> = self.depot.net().heads().kept().await?.into_iter().collect();
        let mut ids = kept.clone();
        for pin in self.pins().await? {
            if kept.contains(&pin.head) {
                continue;
            }
            if seen.kept.contains(&pin.head) {
                // It has been released.
                self.on_store(move |store| store.remove_pin(pin.pin))
                    .await?;
            } else {
                ids.insert(pin.head);
            }
        }
        seen.kept = kept.iter().copied().collect();
        let mut due = BTreeSet::new();
        for id in ids {
            // One that names other logs by now is looked after again at once: without its log, the newest head is worth nothing.
            let is_due = match seen.done.get(&id) {
                None => true,
                Some(logs) => kept.contains(&id) && self.logs(id).await? != *logs,
            };
            if is_due {
                due.insert(id);
            }
        }
        state.set(format!("looking after {} heads", kept.len()));
        if due.is_empty() {
            return Ok(Round::Done);
        }
        if self.depot.net().peers().connected().is_empty() {
            state.set("waiting for a first peer");
            return Ok(Round::Lonely);
        }
        let kept = &kept;
        let mut looked = futures::stream::iter(due)
            .map(|id| async move { (id, self.look_after(id, kept.contains(&id)).await) })
            .buffer_unordered(HEADS_AT_ONCE);
        let mut failed = None;
        while let Some((id, result)) = looked.next().await {
            seen.done.insert(id, self.logs(id).await?);
            if let Err(error) = result {
                tracing::warn!(head = %id, %error, "a head could not be looked after");
                failed = Some(error);
            }
        }
        failed.map_or(Ok(Round::Done), Err)
    }

    /// The logs that a head names as it is known here.
    async fn logs(&self, id: BlockId) -> Result<BTreeSet<BlockId>, Error> {
        let record = self.depot.net().heads().local(id).await?;
        let entries = record.iter().flat_map(HeadRecord::entries);
        Ok(entries.map(|entry| entry.log_id()).collect())
    }

    async fn look_after(&self, id: BlockId, kept: bool) -> Result<(), Error> {
        let heads = self.depot.net().heads();
        // What is found is merged into what is kept, there and then.
        let Some(record) = heads.find(id).await? else {
            return Ok(());
        };
        if !kept {
            // Only its pin is left, from a list of kept heads that was lost.
            heads.keep(record.clone()).await?;
        }
        // Neither is a reason to wait with the other, or to leave it.
        let (pinned, report) =
            futures::join!(self.pin_logs(id, &record), heads.publish(record.clone()));
        tracing::debug!(head = %id, ?report, "a head was published again");
        report?;
        pinned
    }

    /// Brings the pin of a head's logs in line with its record.
    async fn pin_logs(&self, id: BlockId, record: &HeadRecord) -> Result<(), Error> {
        let logs = record.entries().iter().map(|entry| entry.log_id());
        let logs: BTreeSet<BlockId> = logs.collect();
        let mut old = self.pins().await?;
        old.retain(|pin| pin.head == id);
        let before: BTreeSet<BlockId> = old.iter().flat_map(|pin| pin.logs.clone()).collect();
        if old.len() == 1 && before == logs {
            return Ok(());
        }
        let name = pin_name(&id);
        let pin = self.on_store(move |store| store.begin_pin(&name)).await?;
        match self.fill(pin, id, &logs, &before, old.len()).await {
            Ok(Filled { replaces, result }) => {
                for old in old.into_iter().filter(|_| replaces) {
                    self.on_store(move |store| store.remove_pin(old.pin))
                        .await?;
                }
                result
            }
            Err(error) => {
                // What came stays, cached.
                self.on_store(move |store| store.remove_pin(pin)).await?;
                Err(error)
            }
        }
    }

    /// Fetches the logs into a new pin and finishes it, unless it would keep no more than the old one.
    async fn fill(
        &self,
        pin: PinId,
        id: BlockId,
        logs: &BTreeSet<BlockId>,
        before: &BTreeSet<BlockId>,
        old_pins: usize,
    ) -> Result<Filled, Error> {
        let session = self.depot.session(self.patience, Keep::Pinned(pin));
        let mut fetched = futures::stream::iter(logs.clone())
            .map(|log| {
                let session = session.clone();
                async move { (log, session.get(log).await) }
            })
            .buffer_unordered(LOGS_AT_ONCE);
        let (mut here, mut bytes) = (BTreeSet::new(), 0);
        while let Some((log, block)) = fetched.next().await {
            match block {
                Ok(block) => {
                    // What was here before came without the pin.
                    let gone = self
                        .on_store(move |store| store.add_refs(pin, &[log]))
                        .await?;
                    if gone.is_empty() {
                        here.insert(log);
                        bytes += block.bytes().len() as u64;
                    }
                }
                Err(GetError::Stopping) => return Err(Error::Stopping),
                Err(error) => tracing::debug!(head = %id, %log, %error, "a log is not to be had"),
            }
        }
        let result = match logs.difference(&here).next() {
            None => Ok(()),
            Some(first) => Err(Error::Missing {
                missing: logs.len() - here.len(),
                first: *first,
            }),
        };
        if result.is_err() {
            if here.is_subset(before) && old_pins <= 1 {
                self.on_store(move |store| store.remove_pin(pin)).await?;
                return Ok(Filled {
                    replaces: false,
                    result,
                });
            }
            // Bounded, so that an owner whose logs are never to be had does not fill the disk.
            let stay: Vec<_> = before.iter().copied().take(MAX_ENTRIES).collect();
            here.extend(&stay);
            self.on_store(move |store| store.add_refs(pin, &stay))
                .await?;
        }
        let info = PinInfo {
            root: id,
            link: None,
            name: pin_name(&id),
            bytes,
            files: 0,
            blocks: here.len() as u64,
            created: self.clock.now(),
        };
        self.on_store(move |store| store.finish_pin(pin, &info))
            .await?;
        Ok(Filled {
            replaces: true,
            result,
        })
    }

    /// The pins of heads.
    async fn pins(&self) -> Result<Vec<HeadPin>, Error> {
        self.on_store(|store| {
            let pins = store.pins()?.into_iter();
            pins.filter(|(_, info)| is_head_pin(info))
                .map(|(pin, info)| {
                    Ok(HeadPin {
                        pin,
                        head: info.root,
                        logs: store.pin_blocks(pin, None, MAX_PINNED_LOGS)?,
                    })
                })
                .collect()
        })
        .await
    }

    async fn on_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Store) -> Result<T, store::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let store = self.depot.store().clone();
        let done = tokio::task::spawn_blocking(move || work(store.as_ref())).await;
        Ok(done.map_err(|_| Error::Stopping)??)
    }
}

/// What filling a pin came to.
struct Filled {
    /// Whether the pin was finished and the old ones are of no more use.
    replaces: bool,
    result: Result<(), Error>,
}

#[cfg(test)]
#[path = "heads_tests.rs"]
mod tests;
