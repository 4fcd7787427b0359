//! Commands about backups: making, listing, restoring, forgetting and checking snapshots.
//!
//! Code that they share is here: whose backups they are ([`voice`]), which of them are meant
//! ([`which`]), what stays ([`keep`]), and how snapshots are shown. Words and passphrases are read
//! from files and terminals, travel inside requests, and are never printed.

pub(super) mod check;
pub(super) mod diff;
pub(super) mod drill;
pub(super) mod find_file;
pub(super) mod forget;
mod held;
mod keep;
pub(super) mod lease;
pub(super) mod prune;
pub(super) mod restore;
pub(super) mod run;
mod sets;
pub(super) mod snapshots;
pub(super) mod timer;
pub(super) mod unforget;
pub(super) mod voice;
mod which;

pub(super) use timer::systemd_quoted;
pub(super) use voice::{Passphrase, Reader, Voice, Words, reading};
pub(super) use which::Which;

use std::path::PathBuf;

use super::context::Context;
use super::exit::Failure;
use super::show::{self, short};
use super::target::Target;
use crate::block::Link;
use crate::client::Client;
use crate::node::api::{Choice, MissingPart, SnapshotInfo, SnapshotRef, SnapshotTree};

/// Parts named in a warning when many are missing.
const MAX_NAMED: usize = 20;

/// The tree that a target names, as `ls` and `cat` take it.
///
/// # Errors
/// What the node says of the snapshot.
pub(super) async fn tree(
    client: &Client,
    target: Target,
    choice: Choice,
    passphrase: &Passphrase,
    timeout_s: u64,
    context: &Context,
) -> Result<(Link, PathBuf), Failure> {
    let (snapshot, path) = match target {
        Target::Bundle(link, path) => return Ok((link, path)),
        Target::Snapshot(snapshot, path) => (snapshot, path),
    };
    let mut voice = Voice::of_machine(passphrase, context).await?;
    let reply = voice
        .call(context, async |speaker| {
            let of = SnapshotRef {
                speaker,
                snapshot: snapshot.clone(),
                choice: choice.clone(),
                timeout_s,
            };
            client.snapshot_tree(SnapshotTree { of }).await
        })
        .await?;
    Ok((reply.tree, path))
}

/// What was backed up, in a few words: the set's name and the paths.
fn contents(info: &SnapshotInfo) -> String {
    let paths = show::printable(&info.paths.join(" "));
    if info.set.is_empty() {
        paths
    } else {
        format!("{}: {paths}", show::printable(&info.set))
    }
}

/// Names the snapshots whose times say nothing.
fn warn_of_clocks<'a>(snapshots: impl IntoIterator<Item = &'a SnapshotInfo>, context: &Context) {
    let misdated = snapshots.into_iter().filter(|info| info.misdated);
    for (number, info) in misdated.enumerate() {
        if number == MAX_NAMED {
            context.warning("and more whose times are wrong");
            return;
        }
        context.warning(&format!(
            "snapshot {} says that it was made on {}: the clock of {} was wrong then; it stands where \
             the machine's log puts it",
            short(&info.snapshot),
            show::timestamp(info.time),
            info.machine,
        ));
    }
}

/// Names what is missing.
fn warn_missing(missing: &[MissingPart], total: u64, context: &Context) {
    for part in missing.iter().take(MAX_NAMED) {
        let block = part
            .block
            .map(|id| format!(" (block {id})"))
            .unwrap_or_default();
        context.warning(&format!("{}: {}{block}", part.path, part.reason));
    }
    let named = missing.len().min(MAX_NAMED) as u64;
    if total > named {
        context.warning(&format!("and {} more", total - named));
    }
}
