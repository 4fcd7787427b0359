//! One backup: what some paths hold becomes a snapshot that this machine's log names.
//!
//! ```text
//! open pin -> tree, block by block -> snapshot block -> the pin is finished (durable) -> log -> head
//! ```
//!
//! Killed before the pin is finished nothing has happened, but what was stored is found again by
//! the next run, unless it was pruned before. Killed before the log is written the snapshot is
//! whole and pinned, and the next run or prune puts it into the log.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::SNAPSHOT_PIN;
use super::archive::{Archive, Search, blocking, put_pinned, read_snapshot};
use super::catalog::{Catalog, Listed};
use super::error::Error;
use super::log::Logged;
use super::owner::Membership;
use super::prune::adopt_orphans;
use super::snapshot::{
    MAX_EXCLUDES, MAX_NAME_BYTES, MAX_PATH_BYTES, MAX_PATHS, MAX_TAGS, Snapshot, Summary,
};
use crate::block::{self, Link};
use crate::bundle::{
    Beside, FilterOptions, Own, Previous, PutOptions, PutReport, Rules, Survey, put_paths, survey,
};
use crate::head::HeadEntry;
use crate::monitor::Monitor;
use crate::store::{Keep, PinId, PinInfo, Store};
use crate::time::Timestamp;

/// How long to look for a block of the previous snapshot: it should be here, and without it everything is only read again.
const PREVIOUS_PATIENCE: Duration = Duration::from_secs(2);

/// What to back up.
#[derive(Clone, Debug, Default)]
pub struct Job {
    /// Paths; relative ones are not allowed.
    pub paths: Vec<PathBuf>,
    /// Name of the set; empty when there is none.
    pub set: String,
    /// Tags.
    pub tags: Vec<String>,
    /// What is left out.
    pub filter: FilterOptions,
    /// Leaves out what is mounted below the paths.
    pub one_file_system: bool,
    /// Recognises libernet's own directories, which are never taken.
    pub own: Own,
    /// Reads every file, also those that look unchanged.
    pub force: bool,
}

/// What a backup did.
#[derive(Debug)]
pub struct Done {
    /// The snapshot.
    pub link: Link,
    /// What it holds.
    pub snapshot: Snapshot,
    /// What the put says, with what could not be read.
    pub report: PutReport,
}

impl Job {
    /// Resolves the paths and checks every limit.
    ///
    /// # Errors
    /// [`Error::Setting`] that says which is wrong.
    fn checked(mut self) -> Result<Self, Error> {
        let setting = |what: String| Err(Error::Setting(what));
        if self.paths.is_empty() || self.paths.len() > MAX_PATHS {
            return setting(format!("a backup has 1 to {MAX_PATHS} paths"));
        }
        for path in &mut self.paths {
            if !path.is_absolute() {
                return setting(format!("the path {} is not absolute", path.display()));
            }
            // What can't be resolved is reported as unreadable later.
            if let Ok(resolved) = path.canonicalize() {
                *path = resolved;
            }
            if path.as_os_str().len() > MAX_PATH_BYTES {
                return setting(format!(
                    "a path is longer than {MAX_PATH_BYTES} bytes: {}",
                    path.display()
                ));
            }
        }
        self.paths.sort_unstable();
        self.paths.dedup();
        self.tags.sort_unstable();
        self.tags.dedup();
        let is_wrong =
            |name: &&String| name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control);
        if let Some(name) = self.tags.iter().chain([&self.set]).find(is_wrong) {
            return setting(format!(
                "'{}' is longer than {MAX_NAME_BYTES} bytes or has control characters",
                name.escape_debug()
            ));
        }
        if self.tags.len() > MAX_TAGS {
            return setting(format!("a snapshot has at most {MAX_TAGS} tags"));
        }
        if self.filter.exclude.len() > MAX_EXCLUDES {
            return setting(format!("a backup has at most {MAX_EXCLUDES} patterns"));
        }
        Ok(self)
    }

    fn path_bytes(&self) -> Vec<Bytes> {
        self.paths
            .iter()
            .map(|path| Bytes::copy_from_slice(path.as_os_str().as_bytes()))
            .collect()
    }

    fn options(&self, archive: &Archive, previous: Option<Previous>) -> Result<PutOptions, Error> {
        Ok(PutOptions {
            context: archive.access().context().clone(),
            one_file_system: self.one_file_system,
            own: self.own,
            filter: Some(Arc::new(Rules::new(&self.filter)?)),
            keep_identity: true,
            previous,
            ..PutOptions::default()
        })
    }
}

/// Runs a backup.
///
/// # Errors
/// [`Error::Setting`] for a job that can't be, [`Error::Bundle`] when no path can be read or the store is full, [`Error::LogFull`]. What
/// can't be read below a path is no error: see [`PutReport::unreadable`].
///
/// # Cancel safety
/// Dropped or cancelled, the run has not happened; what was stored is found again by the next one.
pub async fn run(
    archive: &Archive,
    member: &Membership,
    job: Job,
    monitor: Arc<dyn Monitor>,
    cancel: CancellationToken,
) -> Result<Done, Error> {
    // As they were typed: symlinks on the way are taken, too.
    let paths = job.paths.clone();
    let job = job.checked()?;
    adopt_orphans(archive, member).await?;
    let previous = previous(archive, member, &job).await?;
    let options = job.options(archive, previous)?;
    let depot = archive.depot();
    let started = archive.clock().now();
    let pin = OpenPin::begin(depot.store().clone()).await?;
    let keep = Keep::Pinned(pin.number);
    let (sink, index) = (depot.sink(keep), depot.index(keep));
    let beside = Beside::begin(&paths, &options, monitor);
    let monitor = beside.monitor();
    let report = put_paths(&paths, options, sink, index, monitor, cancel).await?;
    let snapshot = Snapshot {
        owner: *member.owner().as_bytes(),
        machine: *member.machine().id().as_bytes(),
        machine_name: member.name().to_owned(),
        summary: Summary {
            started,
            set: job.set.clone(),
            paths: job.path_bytes(),
            tags: job.tags.clone(),
            files: report.files,
            bytes: report.bytes,
            new_bytes: report.new_bytes,
            entries: report.entries,
            blocks: report.blocks,
        },
        tree: report.link.clone(),
        excludes: job.filter.exclude.clone(),
        finished: archive.clock().now(),
        unreadable: report.unreadable_total,
        program: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let number = pin.number;
    let link = pin.finish(archive, &snapshot).await?;
    depot.fresh().add([link.id]);
    let logged = Logged {
        snapshot: link.clone(),
        summary: snapshot.summary.clone(),
        // The log numbers what is new.
        sequence: 0,
    };
    archive.change_log(member, |log| log.add(logged)).await?;
    keep_log_too(archive, member, number).await?;
    Ok(Done {
        link,
        snapshot,
        report,
    })
}

/// Has the snapshot's pin keep the log that names it: whoever keeps a copy of all that the pin keeps can lead the owner to it.
async fn keep_log_too(archive: &Archive, member: &Membership, pin: PinId) -> Result<(), Error> {
    let head = archive.local_head().await?;
    let machine = member.machine().id();
    let entry = head
        .as_ref()
        .and_then(|head| head.entry(machine.as_bytes()));
    let Some(log) = entry.map(HeadEntry::log_id) else {
        return Ok(());
    };
    let store = archive.depot().store().clone();
    blocking(move || {
        store.add_refs(pin, &[log])?;
        Ok(store.flush()?)
    })
    .await
}

/// Counts what [`run`] would do.
///
/// # Errors
/// As [`run`].
pub async fn dry_run(
    archive: &Archive,
    member: &Membership,
    job: Job,
    monitor: Arc<dyn Monitor>,
    cancel: CancellationToken,
) -> Result<Survey, Error> {
    let paths = job.paths.clone();
    let job = job.checked()?;
    let previous = previous(archive, member, &job).await?;
    let options = job.options(archive, previous)?;
    Ok(survey(&paths, &options, monitor, cancel).await?)
}

/// The newest snapshot of this machine that has the same paths, or at least one of them.
fn nearest<'a>(catalog: &'a Catalog, machine: &[u8; 32], paths: &[Bytes]) -> Option<&'a Listed> {
    let own = || {
        let snapshots = catalog.snapshots().iter().rev();
        snapshots.filter(|listed| listed.machine == *machine)
    };
    own()
        .find(|listed| listed.logged.summary.paths == paths)
        .or_else(|| {
            own().find(|listed| {
                let before = &listed.logged.summary.paths;
                before.iter().any(|path| paths.contains(path))
            })
        })
}

async fn previous(
    archive: &Archive,
    member: &Membership,
    job: &Job,
) -> Result<Option<Previous>, Error> {
    if job.force {
        return Ok(None);
    }
    let patience = archive.patience(PREVIOUS_PATIENCE);
    let found = archive.find(Search::Here, patience).await?;
    let machine = member.machine().id();
    let Some(listed) = nearest(&found.catalog, machine.as_bytes(), &job.path_bytes()) else {
        return Ok(None);
    };
    let patience = archive.patience(PREVIOUS_PATIENCE);
    let source = archive.depot().session(patience, Keep::Cached);
    match read_snapshot(&*source, &listed.logged.snapshot).await {
        Ok(snapshot) => Ok(Some(Previous {
            root: snapshot.tree,
            source,
            started: snapshot.summary.started,
        })),
        Err(error) => {
            tracing::warn!(%error, "the previous snapshot can't be read: every file is read");
            Ok(None)
        }
    }
}

/// The pin of a snapshot in the making. Dropped before it is finished it is abandoned: what it kept
/// stays, cached, until the next prune.
pub(super) struct OpenPin {
    store: Arc<dyn Store>,
    pub(super) number: PinId,
    is_open: bool,
}

impl OpenPin {
    /// A new one.
    pub(super) async fn begin(store: Arc<dyn Store>) -> Result<Self, Error> {
        let worker = store.clone();
        let number = blocking(move || Ok(worker.begin_pin(SNAPSHOT_PIN)?)).await?;
        Ok(Self {
            store,
            number,
            is_open: true,
        })
    }

    /// Puts the snapshot's block and makes the pin last, durably.
    pub(super) async fn finish(
        mut self,
        archive: &Archive,
        snapshot: &Snapshot,
    ) -> Result<Link, Error> {
        let (store, number) = (self.store.clone(), self.number);
        let context = archive.access().context().clone();
        let (snapshot, now) = (snapshot.clone(), archive.clock().now());
        let link = blocking(move || {
            let sealed = block::seal(&context, &snapshot.encode())
                .map_err(|_| Error::Setting("too many paths, tags or patterns".to_owned()))?;
            put_pinned(&*store, &sealed.block, number)?;
            let link = Link {
                id: sealed.block.id(),
                key: sealed.key,
            };
            store.finish_pin(number, &pin_of(&link, &snapshot, now))?;
            Ok(link)
        })
        .await?;
        self.is_open = false;
        Ok(link)
    }

    /// Makes the pin last, durably, for a snapshot whose blocks it keeps already.
    pub(super) async fn finish_again(
        mut self,
        link: &Link,
        snapshot: &Snapshot,
        now: Timestamp,
    ) -> Result<(), Error> {
        let (store, number) = (self.store.clone(), self.number);
        let info = pin_of(link, snapshot, now);
        blocking(move || Ok(store.finish_pin(number, &info)?)).await?;
        self.is_open = false;
        Ok(())
    }
}

fn pin_of(link: &Link, snapshot: &Snapshot, created: Timestamp) -> PinInfo {
    PinInfo {
        root: link.id,
        link: Some(link.clone()),
        name: SNAPSHOT_PIN.to_owned(),
        bytes: snapshot.summary.bytes,
        files: snapshot.summary.files,
        blocks: snapshot.summary.blocks + 1,
        created,
    }
}

impl Drop for OpenPin {
    fn drop(&mut self) {
        if self.is_open {
            let (store, number) = (self.store.clone(), self.number);
            let remove = move || {
                if let Err(error) = store.abandon_pin(number) {
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
