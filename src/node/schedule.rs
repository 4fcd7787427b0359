//! Runs the backup sets that have a schedule: a background job that does what `libernet backup` does, at its time.
//!
//! Times of past runs are read from the snapshots themselves, so that a run that was missed while
//! the machine was off is caught up, once, and nothing needs to be remembered elsewhere. A run that
//! fails is tried again after a while; meanwhile [`Record`] says why it failed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use jiff::tz::TimeZone;
use tokio_util::sync::CancellationToken;

use super::api::*;
use super::backup::{LOG_PATIENCE, last_run};
use super::{Inner, Node, NodeEvent, blocking};
use crate::backup::Search;
use crate::backup::sets::{MAX_SETS, Set, Sets};
use crate::monitor::Silent;
use crate::task::WorkerState;
use crate::text::count;
use crate::time::{self, Timestamp};

/// How often the sets are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Patterns of one set that are remembered as matching nothing.
const MAX_UNMATCHED: usize = 100;
/// Pause before a run that failed is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(15 * 60);

/// Why no set runs by itself after a restart.
pub(super) const NEEDS_PASSPHRASE: &str = "the passphrase is needed once after each start of the node: \
     `libernet backup --set NAME` asks for it";

/// A run that failed.
#[derive(Debug, Clone)]
struct Failed {
    at: Timestamp,
    why: String,
}

/// The last runs of the sets: failures of scheduled ones, and what others left to say.
#[derive(Debug, Default)]
pub(super) struct Record(Mutex<HashMap<String, Last>>);

/// The last run of a set.
#[derive(Debug)]
enum Last {
    /// It failed.
    Failed(Failed),
    /// It is done, and these patterns matched nothing.
    Done(Vec<String>),
}

impl Record {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Last>> {
        // Each change is whole before the lock is given back.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the last scheduled run of a set failed, if it did and nobody has backed it up since.
    pub(super) fn failure(&self, set: &str) -> Option<String> {
        self.failed(set).map(|failed| failed.why)
    }

    fn failed(&self, set: &str) -> Option<Failed> {
        match self.lock().get(set)? {
            Last::Failed(failed) => Some(failed.clone()),
            Last::Done(_) => None,
        }
    }

    fn failed_at(&self, set: &str) -> Option<Timestamp> {
        self.failed(set).map(|failed| failed.at)
    }

    fn fail(&self, set: &str, at: Timestamp, why: &str) {
        let why = why.to_owned();
        let failed = Last::Failed(Failed { at, why });
        self.lock().insert(set.to_owned(), failed);
    }

    /// Patterns of a set that matched nothing in its last run; none when no run is known.
    pub(super) fn unmatched(&self, set: &str) -> Vec<String> {
        match self.lock().get(set) {
            Some(Last::Done(unmatched)) => unmatched.clone(),
            Some(Last::Failed(_)) | None => Vec::new(),
        }
    }

    /// A run of a set, scheduled or not, has succeeded; these patterns matched nothing in it.
    pub(super) fn succeed(&self, set: &str, unmatched: &[String]) {
        match unmatched.is_empty() {
            true => self.lock().remove(set),
            // Names come from requests, too: there are no more of them than there may be sets.
            false if self.lock().len() >= MAX_SETS => None,
            false => {
                let unmatched = unmatched.iter().take(MAX_UNMATCHED).cloned().collect();
                self.lock().insert(set.to_owned(), Last::Done(unmatched))
            }
        };
    }
}

/// Runs until cancelled.
pub(super) async fn run(node: Weak<Inner>, cancel: CancellationToken, state: Arc<WorkerState>) {
    state.set("no set has a schedule");
    // A fault that keeps all sets from running is logged once, not each time that they are looked
    // at.
    let mut logged = None;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let Some(inner) = node.upgrade() else {
            return;
        };
        let node = Node { inner };
        let round = look(&node, &state);
        let result = tokio::select! {
            () = cancel.cancelled() => return,
            result = round => result,
        };
        let why = result.err().map(|error| error.message);
        if let Some(why) = &why {
            if logged.as_ref() != Some(why) {
                tracing::warn!(error = why, "sets that have a schedule are not backed up");
            }
            state.fail(why.clone());
        }
        logged = why;
    }
}

async fn look(node: &Node, state: &WorkerState) -> Result<(), CallError> {
    let dir = node.inner.options.data_dir.clone();
    let sets = blocking(move || Ok(Sets::load(&dir)?)).await?;
    let scheduled: Vec<&Set> = sets
        .as_slice()
        .iter()
        .filter(|set| set.schedule.is_some())
        .collect();
    if scheduled.is_empty() {
        state.set("no set has a schedule");
        return Ok(());
    }
    let member = match node.member(&Speaker::default()).await {
        Err(error) if error.kind == ErrorKind::OwnerLocked => {
            return Err(CallError::new(error.kind, NEEDS_PASSPHRASE));
        }
        member => member?,
    };
    let archive = node.own_archive(&member);
    let found = archive.find(Search::Here, LOG_PATIENCE).await?;
    let zone = time::zone();
    let record = &node.inner.schedule;
    let mut next: Option<(Timestamp, &str)> = None;
    let mut failed = None;
    for set in scheduled {
        let last = last_run(&found, &member, &set.name);
        let now = node.now();
        let due = when(set, last, record.failed_at(&set.name), now, &zone);
        if due > now {
            next = Some(next.map_or((due, &*set.name), |other| other.min((due, &set.name))));
            continue;
        }
        state.set(format!("backing up {}", set.name));
        if let Err(error) = back_up(node, set).await {
            let error = error.message;
            record.fail(&set.name, node.now(), &error);
            node.happened(NodeEvent::BackupFailed {
                set: set.name.clone(),
                message: error.clone(),
            });
            tracing::warn!(set = set.name, error, "a scheduled backup failed");
            failed = Some(format!("{}: {error}", set.name));
        }
    }
    if let Some((due, name)) = next {
        let wait = due.since(node.now()).as_secs() / 60;
        state.set(format!("{name} is next, in {}", count(wait, "minute")));
    }
    // The others ran all the same.
    if let Some(error) = failed {
        state.fail(error);
    }
    Ok(())
}

/// When a set is to run next.
fn when(
    set: &Set,
    last: Option<Timestamp>,
    failed: Option<Timestamp>,
    now: Timestamp,
    zone: &TimeZone,
) -> Timestamp {
    let Some(schedule) = set.schedule else {
        return Timestamp(u64::MAX);
    };
    let due = schedule.next_after(last, now, zone);
    failed.map_or(due, |failed| due.max(failed.after(TRY_AGAIN)))
}

async fn back_up(node: &Node, set: &Set) -> Result<(), CallError> {
    let request = Backup {
        speaker: Speaker::default(),
        paths: set.paths.clone(),
        set: set.name.clone(),
        tags: set.tags.clone(),
        exclusions: set.exclusions.clone(),
        force: false,
        dry_run: false,
        copies: set.copies,
        wait: false,
        timeout_s: 0,
        // A timer of the system may have been faster.
        due: set.schedule,
    };
    let done = node.backup(request, Arc::new(Silent)).await?;
    if done.not_due {
        return Ok(());
    }
    if let Some(first) = done.unreadable.first() {
        tracing::warn!(
            set = set.name,
            unreadable = done.unreadable.len(),
            path = first.path,
            reason = first.reason,
            "a scheduled backup lacks what could not be read"
        );
    }
    for pattern in done.unmatched.iter().take(MAX_UNMATCHED) {
        tracing::warn!(
            set = set.name,
            pattern,
            "a pattern of a scheduled backup matched nothing"
        );
    }
    tracing::info!(
        set = set.name,
        snapshot = &done.snapshot[..8],
        files = done.files,
        unreadable = done.unreadable.len(),
        "a scheduled backup is done"
    );
    if set.keep.is_empty() {
        return Ok(());
    }
    let forget = Forget {
        speaker: Speaker::default(),
        policy: set.keep.clone(),
        snapshots: Vec::new(),
        set: Some(set.name.clone()),
        tag: None,
        group_by: None,
        all_machines: false,
        dry_run: false,
    };
    let reply = node.forget(forget).await?;
    for tag in &reply.unknown_tags {
        tracing::warn!(
            set = set.name,
            tag,
            "a rule keeps snapshots with a tag that none has"
        );
    }
    if !reply.forgotten.is_empty() {
        let prune = Prune {
            speaker: Speaker::default(),
            dry_run: false,
            repack_below_percent: 0,
            // Another set's first run may be in the middle of it, over several nights.
            spare_interrupted: true,
        };
        node.prune(prune, Arc::new(Silent)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_run_of_a_set_is_what_counts() {
        let record = Record::default();
        let patterns = ["*.tmpp".to_owned()];
        record.succeed("docs", &patterns);
        assert_eq!(record.unmatched("docs"), patterns);
        assert_eq!(record.failure("docs"), None);
        record.fail("docs", Timestamp(7), "gone");
        assert!(record.unmatched("docs").is_empty());
        assert_eq!(record.failure("docs").as_deref(), Some("gone"));
        record.succeed("docs", &[]);
        assert_eq!(record.failed_at("docs"), None);
        let many: Vec<String> = (0..=MAX_UNMATCHED).map(|n| n.to_string()).collect();
        record.succeed("docs", &many);
        assert_eq!(record.unmatched("docs"), many[..MAX_UNMATCHED]);
    }

    #[test]
    fn a_failed_run_waits_a_while() {
        let set = Set {
            name: "docs".to_owned(),
            paths: Vec::new(),
            tags: Vec::new(),
            schedule: Some("every 6h".parse().expect("a schedule")),
            warn_after_s: None,
            exclusions: Exclusions::default(),
            copies: None,
            keep: crate::backup::retention::Policy::default(),
        };
        let now = Timestamp(1_767_268_800_000);
        let due = |last, failed: Option<Timestamp>| when(&set, last, failed, now, &TimeZone::UTC);
        assert_eq!(due(None, None), now);
        assert_eq!(due(None, Some(now)), now.after(TRY_AGAIN));
        let hour_ago = Timestamp(now.0 - 3_600_000);
        assert_eq!(
            due(Some(hour_ago), None),
            now.after(Duration::from_secs(5 * 3600))
        );
        let unscheduled = Set {
            schedule: None,
            ..set.clone()
        };
        assert_eq!(
            when(&unscheduled, None, None, now, &TimeZone::UTC),
            Timestamp(u64::MAX)
        );
    }
}
