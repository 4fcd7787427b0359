//! Commands about backups: making, listing, restoring, forgetting and checking snapshots.
//!
//! What they share is here: whose backups they are ([`voice`]), what stays ([`keep`]), and how snapshots are shown. Words and passphrases
//! are read from files and terminals, travel inside requests, and are never printed.

mod archive_file;
pub(super) mod check;
pub(super) mod diff;
pub(super) mod drill;
pub(super) mod find_file;
pub(super) mod forget;
mod keep;
pub(super) mod lease;
pub(super) mod prune;
pub(super) mod restore;
pub(super) mod run;
mod sets;
pub(super) mod snapshots;
mod timer;
mod voice;

pub(super) use voice::Passphrase;

use jiff::tz::TimeZone;

use super::context::Context;
use super::exit::Failure;
use super::show::{self, short};
use super::target::Target;
use crate::block::Link;
use crate::client::Client;
use crate::node::api::{MissingPart, SnapshotInfo, SnapshotRef, SnapshotTree};
use crate::time::Timestamp;
use voice::Voice;

/// Parts named in a warning when many are missing.
const MAX_NAMED: usize = 20;

/// The tree that a target names, as `ls` and `cat` take it.
///
/// # Errors
/// What the node says of the snapshot.
pub(super) async fn tree(
    client: &Client,
    target: Target,
    passphrase: &Passphrase,
    timeout_s: u64,
    context: &Context,
) -> Result<(Link, String), Failure> {
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
                timeout_s,
            };
            client.snapshot_tree(SnapshotTree { of }).await
        })
        .await?;
    Ok((reply.tree, path))
}

/// A time by the clock of this machine.
fn local(time: Timestamp) -> String {
    let millis = i64::try_from(time.0).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis).map_or_else(
        |_| show::timestamp(time),
        |instant| {
            let zoned = instant.to_zoned(TimeZone::system());
            zoned.strftime("%Y-%m-%d %H:%M").to_string()
        },
    )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_for_people() {
        assert_eq!(local(Timestamp(0)).len(), 16);
        assert!(!local(Timestamp(u64::MAX)).is_empty());
    }
}
