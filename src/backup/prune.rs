//! Pruning: what nobody names any more is let go, and its space comes back.
//!
//! In this order: snapshots whose run was cut off just before it wrote its log are taken in; what
//! the pins of forgotten snapshots alone keep is noted in a journal; the pins go; the noted blocks
//! go, unless something refers to them again by then; mentions of snapshots that are gone
//! everywhere are dropped from the log; the store gets the space back. What runs that were cut off
//! had stored goes as well. Cut off anywhere, the next prune goes on. On request packs of which
//! little is used are then written anew ([`repack`]), and what they leave behind goes the same way.
//!
//! Invariants: no pin goes unless its snapshot is forgotten by a word that may
//! ([`fate`](super::fate)). A block goes only when nothing refers to it, which the store checks in
//! the same step: a backup that runs beside it refers to a block before it relies on it. Memory is
//! bounded whatever the number of blocks.
//!
//! Deliberately absent: deciding what to forget (`retention`).

mod journal;
mod merge;
mod pins;
mod repack;

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use self::journal::{Journal, JournalReader};
use self::merge::Merge;
use self::pins::{SnapshotPin, Sorted, adopt, snapshot_pins};
use self::repack::Repack;
pub use self::repack::Replacing;
use super::archive::{Archive, Found, Search, blocking};
use super::error::Error;
use super::owner::Membership;
use super::stopped;
use crate::id::BlockId;
use crate::monitor::{Monitor, Progress};
use crate::store::{self, PinId, Store};
use crate::time::Timestamp;

pub use self::pins::adopt_orphans;

/// Blocks that one step looks at.
const PAGE: usize = 1024;
/// How long to look for logs that are not here.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two looks whether another prune is done.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Most rounds of looking after the store. Each moves some hundred megabytes: this is far more than any store needs.
const MAX_ROUNDS: usize = 10_000;

/// How to prune.
#[derive(Clone, Debug)]
pub struct PruneOptions {
    /// Only count.
    pub dry_run: bool,
    /// Where the journal is: a directory of this node's own, on a disk that lasts. Made if it is not there.
    pub journal_dir: PathBuf,
    /// Packs of which less than this share, in percent, is used by snapshots of this machine are written anew. 0: none.
    pub repack_below_percent: u8,
    /// Time for which blocks that interrupted runs stored are left for the next run, which goes on
    /// with them; `None`: not at all.
    pub spare_interrupted_for: Option<Duration>,
    /// Listener that is told which block takes the place of which.
    pub replacing: Option<Replacing>,
}

/// What a prune did; after a dry run, what one would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Snapshots whose pins were removed.
    pub snapshots: u64,
    /// Snapshots of runs that were cut off at the last moment, and are in the log now.
    pub adopted: u64,
    /// Snapshots that are pinned and that nobody names, and that are not this machine's: they were left alone.
    pub left_alone: u64,
    /// Blocks removed.
    pub freed_blocks: u64,
    /// Their bytes.
    pub freed_bytes: u64,
    /// Blocks among them that runs which were cut off had stored, and no snapshot came to need.
    pub interrupted_blocks: u64,
    /// Packs that were written anew, without what nobody uses.
    pub repacked_blocks: u64,
    /// Bytes on disk before.
    pub disk_bytes_before: u64,
    /// Bytes on disk afterwards. Small rests of dropped blocks stay until it is worth while to rewrite the files that they are in.
    pub disk_bytes: u64,
}

/// Removes what the owner's logs forget from this node.
///
/// A second prune waits for the first.
///
/// # Errors
/// [`Error::Store`], [`Error::File`], and what [`Archive::change_log`] says. What was done until then stays done.
///
/// # Cancel safety
/// Safe: dropped or cancelled, the next prune goes on.
pub async fn prune(
    archive: &Archive,
    member: &Membership,
    options: &PruneOptions,
    monitor: &dyn Monitor,
    cancel: &CancellationToken,
) -> Result<PruneReport, Error> {
    let prune = Prune {
        archive,
        member,
        monitor,
    };
    tokio::select! {
        () = cancel.cancelled() => Err(stopped()),
        report = prune.run(options) => report,
    }
}

struct Prune<'a> {
    archive: &'a Archive,
    member: &'a Membership,
    monitor: &'a dyn Monitor,
}

impl Prune<'_> {
    fn store(&self) -> &Arc<dyn Store> {
        self.archive.depot().store()
    }

    async fn run(&self, options: &PruneOptions) -> Result<PruneReport, Error> {
        let mut report = PruneReport {
            disk_bytes_before: self.disk_bytes().await?,
            ..PruneReport::default()
        };
        if options.dry_run {
            let (pins, found) = self.look().await?;
            let mut sorted = Sorted::new(self.archive, self.member, pins, &found).await?;
            let gone = self.gone(&found, &mut sorted).await?;
            let leaving: Vec<PinId> = gone.iter().map(|pin| pin.pin).collect();
            self.count(gone, &mut report).await?;
            self.remove_interrupted(options, &mut report).await?;
            if let Some(repack) = self.repack(options) {
                report.repacked_blocks = repack.count(&found, &leaving).await?;
            }
            report.disk_bytes = report.disk_bytes_before;
            return Ok(report);
        }
        let journal = take_journal(&options.journal_dir).await?;
        let journal = self.finish_earlier(journal, &mut report).await?;
        let (pins, found) = self.look().await?;
        let mut sorted = Sorted::new(self.archive, self.member, pins, &found).await?;
        let gone = self.gone(&found, &mut sorted).await?;
        match adopt(self.archive, self.member, &found, sorted.orphans).await {
            Ok(adopted) => {
                report.adopted = adopted.adopted;
                report.left_alone = adopted.left_alone;
            }
            // Pruning is what makes room in it.
            Err(Error::LogFull) => {
                let full = "snapshots of interrupted runs are not in the log: it is full";
                self.monitor.warning(full);
            }
            Err(error) => return Err(error),
        }
        self.remove_interrupted(options, &mut report).await?;
        let journal = self.sweep(journal, &found, gone, &mut report).await?;
        if let Some(repack) = self.repack(options) {
            let snapshots = report.snapshots;
            let (_, found) = self.look().await?;
            let repacked = repack.run(&found).await;
            // Also after a failure: what was written then is of no use.
            let (pins, found) = self.look().await?;
            let mut sorted = Sorted::new(self.archive, self.member, pins, &found).await?;
            let gone = self.gone(&found, &mut sorted).await?;
            self.sweep(journal, &found, gone, &mut report).await?;
            report.snapshots = snapshots;
            report.repacked_blocks = repacked?;
        }
        if report.freed_blocks > 0 {
            let store = self.store().clone();
            blocking(move || Ok(store.compact_index()?)).await?;
        }
        report.disk_bytes = self.disk_bytes().await?;
        Ok(report)
    }

    /// Bytes on disk, measured.
    async fn disk_bytes(&self) -> Result<u64, Error> {
        let store = self.store().clone();
        blocking(move || Ok(store.measured_usage()?.disk_bytes)).await
    }

    fn repack(&self, options: &PruneOptions) -> Option<Repack<'_>> {
        (options.repack_below_percent > 0).then_some(Repack {
            archive: self.archive,
            member: self.member,
            monitor: self.monitor,
            below_percent: options.repack_below_percent,
            replacing: options.replacing.clone(),
        })
    }

    /// The pins that are to go: what repacking left first, which would otherwise look like that of an interrupted run once the snapshot that it
    /// stands for is gone.
    async fn gone(&self, found: &Found, sorted: &mut Sorted) -> Result<Vec<SnapshotPin>, Error> {
        let mut gone = repack::take_twins(self.archive, self.member, found, sorted).await?;
        gone.append(&mut sorted.forgotten);
        Ok(gone)
    }

    /// Lets go of what these pins keep.
    async fn sweep(
        &self,
        journal: Journal,
        found: &Found,
        gone: Vec<SnapshotPin>,
        report: &mut PruneReport,
    ) -> Result<Journal, Error> {
        let removed: Vec<BlockId> = gone.iter().map(|pin| pin.link.id).collect();
        self.forget_too(&removed).await?;
        let journal = self.remove(journal, gone, report).await?;
        self.settle(found, &removed).await?;
        self.maintain().await?;
        Ok(journal)
    }

    /// The pins come first: a pin that is made after that is not looked at, and one that is listed and was just logged is found in the log.
    async fn look(&self) -> Result<(Vec<SnapshotPin>, Found), Error> {
        let pins = snapshot_pins(self.archive).await?;
        let found = self
            .archive
            .find(Search::Glance, self.archive.patience(PATIENCE))
            .await?;
        for (_, error) in &found.unread {
            self.monitor.warning(&format!(
                "the log of a machine could not be read; what it alone forgets stays: {error}"
            ));
        }
        Ok((pins, found))
    }

    /// Has this machine's log forget, too, the snapshots that it still names and that go for
    /// another reason than this machine's own word, until their pins are gone. Otherwise the reason
    /// could be taken back while a pin is going, and a log would name what is not there.
    async fn forget_too(&self, gone: &[BlockId]) -> Result<(), Error> {
        if gone.is_empty() {
            return Ok(());
        }
        self.archive
            .change_log(self.member, |log| {
                let named: Vec<BlockId> = gone.iter().copied().filter(|id| log.has(id)).collect();
                named.into_iter().try_for_each(|id| log.forget(id))
            })
            .await
    }

    /// Removes what runs that were cut off left, which is cached and would only go when the quota
    /// is used up. What came from other nodes stays in the cache. With [`PruneOptions::dry_run`] it
    /// is only counted.
    async fn remove_interrupted(
        &self,
        options: &PruneOptions,
        report: &mut PruneReport,
    ) -> Result<(), Error> {
        if !options.dry_run {
            // A large pin that was given up goes bit by bit.
            self.maintain().await?;
        }
        let now = self.archive.clock().now();
        let before = match options.spare_interrupted_for {
            Some(spared) => Timestamp(now.0.saturating_sub(spared.as_millis() as u64)),
            // All of it, also what a clock that was ahead wrote.
            None => Timestamp(u64::MAX),
        };
        let (is_dry, mut after) = (options.dry_run, None);
        loop {
            let store = self.store().clone();
            let step = move || interrupted_page(&*store, before, after, is_dry);
            let Some((last, blocks, bytes)) = blocking(step).await? else {
                return Ok(());
            };
            after = Some(last);
            report.interrupted_blocks += blocks;
            report.freed_blocks += blocks;
            report.freed_bytes += bytes;
            self.progress(report);
        }
    }

    /// Removes what an earlier prune noted and did not come to.
    async fn finish_earlier(
        &self,
        journal: Journal,
        report: &mut PruneReport,
    ) -> Result<Journal, Error> {
        let (journal, is_there) = on(journal, |journal| Ok(journal.read()?.is_some())).await?;
        if !is_there {
            return Ok(journal);
        }
        // Pins whose removal was cut off still count as references.
        self.maintain().await?;
        self.remove_noted(journal, report).await
    }

    async fn remove(
        &self,
        journal: Journal,
        gone: Vec<SnapshotPin>,
        report: &mut PruneReport,
    ) -> Result<Journal, Error> {
        if gone.is_empty() {
            return Ok(journal);
        }
        report.snapshots = distinct(&gone);
        let pins: Vec<PinId> = gone.iter().map(|pin| pin.pin).collect();
        let merge = Merge::new(self.store().clone(), &pins);
        let store = self.store().clone();
        let (journal, writer) = on(journal, move |journal| {
            store.make_way();
            journal.write()
        })
        .await?;
        let mut work = (writer, merge);
        loop {
            let (next, more) = on(work, |(writer, merge)| {
                let page = merge.page()?;
                writer.add(page.as_deref().unwrap_or_default())?;
                Ok(page.is_some())
            })
            .await?;
            work = next;
            if !more {
                break;
            }
        }
        let writer = work.0;
        blocking(move || writer.finish()).await?;
        for pin in pins {
            let store = self.store().clone();
            blocking(move || match store.remove_pin(pin) {
                Ok(_) | Err(store::Error::NoSuchPin(_)) => Ok(()),
                Err(error) => Err(error.into()),
            })
            .await?;
        }
        self.remove_noted(journal, report).await
    }

    /// Removes the blocks that the journal names and nothing refers to, and then the journal.
    async fn remove_noted(
        &self,
        journal: Journal,
        report: &mut PruneReport,
    ) -> Result<Journal, Error> {
        let (journal, reader) = on(journal, |journal| journal.read()).await?;
        let Some(reader) = reader else {
            return Ok(journal);
        };
        let mut work = (reader, self.store().clone());
        loop {
            let (next, freed) = on(work, |(reader, store)| remove_page(reader, &**store)).await?;
            work = next;
            let Some((blocks, bytes)) = freed else {
                break;
            };
            report.freed_blocks += blocks;
            report.freed_bytes += bytes;
            self.progress(report);
        }
        let store = work.1;
        // A crash may undo what is not durable, and there must be a journal then.
        let (journal, ()) = on(journal, move |journal| {
            store.flush()?;
            journal.remove()
        })
        .await?;
        Ok(journal)
    }

    async fn count(&self, gone: Vec<SnapshotPin>, report: &mut PruneReport) -> Result<(), Error> {
        report.snapshots = distinct(&gone);
        let pins: Vec<PinId> = gone.iter().map(|pin| pin.pin).collect();
        let mut merge = Merge::new(self.store().clone(), &pins);
        loop {
            let (next, page) = on(merge, Merge::page).await?;
            merge = next;
            let Some(page) = page else {
                return Ok(());
            };
            report.freed_blocks += page.len() as u64;
            report.freed_bytes += page.iter().map(|(_, bytes)| u64::from(*bytes)).sum::<u64>();
            self.progress(report);
        }
    }

    /// Drops the own mentions of snapshots that have no pin here any more and that no log names.
    async fn settle(&self, found: &Found, removed: &[BlockId]) -> Result<(), Error> {
        if !found.unread.is_empty() {
            return Ok(());
        }
        let machine = self.member.machine().id();
        let Some(own) = found.logs.iter().find(|l| l.machine == *machine.as_bytes()) else {
            return Ok(());
        };
        // Only what was forgotten before the pins were looked at.
        let ordered = own.orders().iter().flat_map(|order| order.ids());
        let mentioned = own.forgotten().chain(own.kept()).chain(ordered);
        let mut done: BTreeSet<BlockId> = mentioned.chain(removed).copied().collect();
        let removed: HashSet<&BlockId> = removed.iter().collect();
        for log in &found.logs {
            for logged in log.snapshots() {
                let id = &logged.snapshot.id;
                // This machine's own log named them when it was looked at.
                if log.machine != own.machine || !removed.contains(id) {
                    done.remove(id);
                }
            }
        }
        for pin in snapshot_pins(self.archive).await? {
            done.remove(&pin.link.id);
        }
        if done.is_empty() {
            return Ok(());
        }
        self.archive
            .change_log(self.member, |log| {
                log.settle(|id| !done.contains(id));
                Ok(())
            })
            .await
    }

    async fn maintain(&self) -> Result<(), Error> {
        for _ in 0..MAX_ROUNDS {
            let store = self.store().clone();
            if !blocking(move || Ok(store.maintain()?)).await?.more {
                return Ok(());
            }
        }
        Ok(())
    }

    fn progress(&self, report: &PruneReport) {
        self.monitor.progress(Progress {
            bytes: report.freed_bytes,
            blocks: report.freed_blocks,
            ..Progress::default()
        });
    }
}

fn distinct(pins: &[SnapshotPin]) -> u64 {
    let ids: HashSet<&BlockId> = pins.iter().map(|pin| &pin.link.id).collect();
    ids.len() as u64
}

/// The turn of prunes of this directory: no other one works, and none is cut off in its middle,
/// while it is held.
///
/// # Errors
/// [`Error::File`].
pub(super) async fn turn(journal_dir: &std::path::Path) -> Result<Turn, Error> {
    take_journal(journal_dir).await.map(Turn)
}

/// See [`turn`].
pub(super) struct Turn(#[expect(dead_code, reason = "it is held")] Journal);

async fn take_journal(dir: &std::path::Path) -> Result<Journal, Error> {
    loop {
        let dir = dir.to_owned();
        if let Some(journal) = blocking(move || Journal::take(&dir)).await? {
            return Ok(journal);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// One step of some work, on a thread that may block. A step that is abandoned still ends before what it works on is dropped.
async fn on<W: Send + 'static, T: Send + 'static>(
    mut work: W,
    step: impl FnOnce(&mut W) -> Result<T, Error> + Send + 'static,
) -> Result<(W, T), Error> {
    blocking(move || {
        let done = step(&mut work)?;
        Ok((work, done))
    })
    .await
}

/// Removes, or counts, a page of what runs that were cut off left: the last id, and blocks and
/// bytes. `None`: there was nothing left.
fn interrupted_page(
    store: &dyn Store,
    before: Timestamp,
    after: Option<BlockId>,
    is_dry: bool,
) -> Result<Option<(BlockId, u64, u64)>, Error> {
    let page = store.leftovers(before, after, PAGE)?;
    let Some((last, _)) = page.last().copied() else {
        return Ok(None);
    };
    let (mut blocks, mut freed) = (0, 0);
    for (id, bytes) in page {
        let stat = store.stat(id)?;
        if stat.is_some_and(|stat| stat.downloaded.count > 0) {
            continue;
        }
        if is_dry || or_held(store.remove(id))? {
            blocks += 1;
            freed += u64::from(bytes);
        }
    }
    Ok(Some((last, blocks, freed)))
}

/// Whether a block was removed. One that something needs again was not.
fn or_held(removed: Result<bool, store::Error>) -> Result<bool, store::Error> {
    match removed {
        Err(store::Error::Held { .. }) => Ok(false),
        removed => removed,
    }
}

/// Removes a page of what the journal names. `None`: there was nothing left.
fn remove_page(reader: &mut JournalReader, store: &dyn Store) -> Result<Option<(u64, u64)>, Error> {
    let page = reader.page(PAGE);
    if page.is_empty() {
        return Ok(None);
    }
    let (mut blocks, mut freed) = (0, 0);
    for (id, bytes) in page {
        if or_held(store.remove(id))? {
            blocks += 1;
            freed += u64::from(bytes);
        }
    }
    Ok(Some((blocks, freed)))
}
