//! Runs the backup sets that have a schedule: a background job that does what `libernet backup` does, at its time.
//!
//! What ran when is read from the snapshots themselves, so that a run that was missed while the machine was off is caught up, once, and nothing
//! needs to be remembered elsewhere. A run that fails is tried again after a while.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use jiff::tz::TimeZone;
use tokio_util::sync::CancellationToken;

use super::api::*;
use super::backup::{LOG_PATIENCE, last_run};
use super::{Inner, Node, NodeEvent, blocking};
use crate::backup::Search;
use crate::backup::sets::{Set, Sets};
use crate::monitor::Silent;
use crate::task::WorkerState;
use crate::text::count;
use crate::time::Timestamp;

/// How often the sets are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Pause before a run that failed is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(15 * 60);

/// Runs until cancelled.
pub(super) async fn run(node: Weak<Inner>, cancel: CancellationToken, state: Arc<WorkerState>) {
    state.set("no set has a schedule");
    let mut failed = HashMap::new();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let Some(inner) = node.upgrade() else {
            return;
        };
        let node = Node { inner };
        let round = look(&node, &mut failed, &state);
        let result = tokio::select! {
            () = cancel.cancelled() => return,
            result = round => result,
        };
        if let Err(error) = result {
            state.fail(error.message);
        }
    }
}

async fn look(
    node: &Node,
    failed: &mut HashMap<String, Timestamp>,
    state: &WorkerState,
) -> Result<(), CallError> {
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
    let member = node.member(&Speaker::default()).await?;
    let archive = node.own_archive(&member);
    let found = archive.find(Search::Here, LOG_PATIENCE).await?;
    let zone = TimeZone::system();
    let mut next: Option<(Timestamp, &str)> = None;
    for set in scheduled {
        let last = last_run(&found, &member, &set.name);
        let now = node.now();
        let due = when(set, last, failed.get(&set.name), now, &zone);
        if due > now {
            next = Some(next.map_or((due, &*set.name), |other| other.min((due, &set.name))));
            continue;
        }
        state.set(format!("backing up {}", set.name));
        match back_up(node, set).await {
            Ok(()) => drop(failed.remove(&set.name)),
            Err(error) => {
                failed.insert(set.name.clone(), node.now());
                node.happened(NodeEvent::BackupFailed {
                    set: set.name.clone(),
                    message: error.message.clone(),
                });
                tracing::warn!(
                    set = set.name,
                    error = error.message,
                    "a scheduled backup failed"
                );
                return Err(CallError {
                    message: format!("{}: {}", set.name, error.message),
                    ..error
                });
            }
        }
    }
    if let Some((due, name)) = next {
        let wait = due.since(node.now()).as_secs() / 60;
        state.set(format!("{name} is next, in {}", count(wait, "minute")));
    }
    Ok(())
}

/// When a set is to run next.
fn when(
    set: &Set,
    last: Option<Timestamp>,
    failed: Option<&Timestamp>,
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
        all_machines: false,
        dry_run: false,
    };
    if !node.forget(forget).await?.forgotten.is_empty() {
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
    fn a_failed_run_waits_a_while() {
        let set = Set {
            name: "docs".to_owned(),
            paths: Vec::new(),
            tags: Vec::new(),
            schedule: Some("every 6h".parse().expect("a schedule")),
            exclusions: Exclusions::default(),
            copies: None,
            keep: crate::backup::retention::Policy::default(),
        };
        let now = Timestamp(1_767_268_800_000);
        let due = |last, failed: Option<&Timestamp>| when(&set, last, failed, now, &TimeZone::UTC);
        assert_eq!(due(None, None), now);
        assert_eq!(due(None, Some(&now)), now.after(TRY_AGAIN));
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
