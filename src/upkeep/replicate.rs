//! Copies of this machine's backups on other machines: asks peers to keep them, hears how far they are, renews, audits, and makes new ones
//! when some are lost.
//!
//! What is to be copied, and who said to keep it, is in a file ([`Copies`]), written before a peer is asked, so that no lease is forgotten by a
//! crash. What to do is decided by [`policy`], which is pure.
//!
//! Deliberately absent: keys (who signs is a [`Signer`]), what a backup is: a pin names its blocks, the owner's head is kept by the holders' job.

pub mod policy;

mod list;
mod work;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::list::Unsaved;
use self::policy::{Action, Facts};
use self::work::Worker;
use super::holder::Candidates;
use crate::depot::Depot;
use crate::id::BlockId;
use crate::lease::{Lease, Name, Opener, Release, Terms};
use crate::task::WorkerState;
use crate::text::count;
use crate::time::{Clock, Timestamp};

pub use list::{Copies, Error, Holders, MAX_COPIES, MAX_JOBS, SetHealth};
pub use policy::Limits;

/// How often everything is looked through.
const EVERY: Duration = Duration::from_secs(60);
/// How often while copies are on their way.
const SOON: Duration = Duration::from_secs(1);
/// How long progress is collected before it is written.
const COLLECT: Duration = Duration::from_secs(5);
/// How often it is written that time has passed, when there is nothing else to write.
const STAMP_EVERY: Duration = Duration::from_secs(30 * 60);
/// Peers that are dealt with at the same time.
const AT_ONCE: usize = 8;

/// Signs in the owner's name; nothing when it has no key that may.
pub trait Signer: Send + Sync + 'static {
    /// The owner's public key, as leases say it.
    fn owner(&self) -> Option<[u8; 32]>;
    /// A lease.
    fn lease(&self, terms: Terms) -> Option<Lease>;
    /// Opener of a backup of this machine for the owner's words, by the backup's root; none while
    /// the owner's keys are locked.
    fn opener(&self, root: BlockId) -> Option<Opener>;
    /// The end of one.
    fn release(&self, name: Name, sequence: u64, made: Timestamp) -> Option<Release>;
}

/// Parts that the job works with.
pub struct Setup {
    /// What is copied, and where.
    pub copies: Arc<Copies>,
    /// Store and network.
    pub depot: Depot,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Who signs.
    pub signer: Arc<dyn Signer>,
    /// Who can be asked.
    pub candidates: Arc<dyn Candidates>,
    /// Name of the pins of what is copied.
    pub pin_name: &'static str,
    /// Limits.
    pub limits: Limits,
}

/// Runs until cancelled.
pub async fn run(setup: Setup, cancel: CancellationToken, state: Arc<WorkerState>) {
    let Setup {
        copies,
        depot,
        clock,
        signer,
        candidates,
        pin_name,
        limits,
    } = setup;
    let worker = Worker {
        copies: copies.clone(),
        depot: depot.clone(),
        clock,
        signer,
        pin_name,
        secret: rand::random(),
    };
    let saved = copies.clone();
    let work = async {
        let mut pace = Pace::new();
        let mut changes = copies.watch_wanted();
        let mut connected = depot.net().peers().watch_connected();
        let mut members = depot.net().rings().watch();
        loop {
            changes.mark_unchanged();
            connected.mark_unchanged();
            members.mark_unchanged();
            let soon = round(&worker, &*candidates, &limits, &mut pace, &state).await;
            if pace.is_to_save(copies.unsaved(), soon) {
                save(&copies, &state).await;
            }
            let next = Instant::now() + if soon { SOON } else { EVERY };
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                // Both senders live as long as this job.
                _ = changes.changed() => {}
                _ = connected.changed(), if !soon => {}
                _ = members.changed(), if !soon => {}
            }
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = work => {}
    }
    save(&saved, &state).await;
}

async fn save(copies: &Arc<Copies>, state: &WorkerState) {
    let copies = copies.clone();
    // Only a node that is going down loses its worker threads.
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || copies.flush()).await {
        state.fail(error.to_string());
    }
}

/// When things were done last.
struct Pace {
    round: Instant,
    saved: Instant,
}

impl Pace {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            round: now,
            saved: now,
        }
    }

    /// The time since the round before, at most as much as there may be between two: a machine that slept heard nothing.
    fn step(&mut self) -> Duration {
        let now = Instant::now();
        now.duration_since(std::mem::replace(&mut self.round, now))
            .min(2 * EVERY)
    }

    fn is_to_save(&mut self, unsaved: Unsaved, soon: bool) -> bool {
        let since = self.saved.elapsed();
        let is_due = match unsaved {
            Unsaved::Nothing => false,
            Unsaved::Time => since >= STAMP_EVERY,
            Unsaved::Progress => !soon || since >= COLLECT,
        };
        if is_due {
            self.saved = Instant::now();
        }
        is_due
    }
}

/// Decides and acts once. Returns whether to look again soon.
async fn round(
    worker: &Worker,
    candidates: &dyn Candidates,
    limits: &Limits,
    pace: &mut Pace,
    state: &WorkerState,
) -> bool {
    let passed = pace.step();
    if let Err(error) = worker.reconcile(limits).await {
        state.fail(error.to_string());
        return false;
    }
    if worker.copies.jobs().is_empty() {
        state.set("nothing to copy");
        return false;
    }
    worker.copies.expelled(&candidates.removed());
    let online = worker.rooms(candidates.peers(), AT_ONCE).await;
    if !online.is_empty() {
        worker.copies.waited(passed, &online);
    }
    let (now, jobs) = (worker.clock.now(), worker.copies.jobs());
    let facts = Facts {
        jobs,
        online,
        sites: candidates.sites(),
        secret: worker.secret,
    };
    let actions = policy::choose(now, &facts, limits);
    let is_busy = actions.iter().any(|action| match action {
        Action::Ask(..) | Action::Forget(..) => true,
        Action::Poll(root, peer) => {
            let copy = facts.jobs.get(root).and_then(|job| job.held.get(peer));
            copy.is_some_and(|copy| policy::is_coming(copy, limits))
        }
        Action::Renew(..) | Action::Audit(..) | Action::Release(..) => false,
    });
    let done = futures::stream::iter(actions).map(|action| worker.act(action));
    let results: Vec<_> = done.buffer_unordered(AT_ONCE).collect().await;
    let short = worker.copies.short(worker.clock.now(), limits);
    let backups = count(facts.jobs.len() as u64, "backup");
    state.set(match short {
        0 => format!("copies are as asked: {backups}"),
        short => format!("{short} of {backups} without the copies asked for"),
    });
    if let Some(error) = results.into_iter().find_map(Result::err) {
        tracing::warn!(%error, "a copy could not be looked after");
        state.fail(error.to_string());
        return false;
    }
    // A failed audit, or a copy that was let go, calls for more.
    is_busy || worker.copies.jobs() != facts.jobs
}

#[cfg(test)]
mod simulation;

#[cfg(test)]
#[path = "replicate/tests.rs"]
mod tests;
