//! Machines that their owners turned out, as far as this holder has heard.
//!
//! The owner's head says so, and whoever keeps leases for an owner keeps its head, too. The
//! revocation is noted on the store's shelf of small records, so that a lease is judged without the
//! network. Nothing is taken back: an owner can't let a machine in again.

use crate::head::HeadRecord;
use crate::lease::{Lease, Release};
use crate::store::{self, RecordShelf, RecordTable};
use crate::time::Timestamp;

/// Most machines that are noted.
const MAX_NOTED: u64 = 16_384;

/// Notes the machines that a valid head turns out.
///
/// # Errors
/// Those of the store.
pub(super) fn note(shelf: &RecordShelf, head: &HeadRecord) -> Result<(), store::Error> {
    for machine in head.decisions().revoked() {
        let key = key_of(head.owner(), machine);
        let Some(revocation) = head.decisions().revocation(machine) else {
            continue;
        };
        let value = revocation.made().0.to_be_bytes();
        let known = shelf.get(RecordTable::Revoked, &key)?;
        if known.as_deref() == Some(&value) {
            continue;
        }
        if known.is_none() && shelf.len(RecordTable::Revoked) >= MAX_NOTED {
            tracing::warn!("a machine that its owner turned out is not noted: there are too many");
            continue;
        }
        shelf.put(RecordTable::Revoked, &key, &value)?;
    }
    Ok(())
}

/// Whether a lease is no word of its owner's any more. A lease of the time before that members pass
/// on among themselves goes on being kept: `passed`.
pub(super) fn voids(
    shelf: &RecordShelf,
    lease: &Lease,
    passed: bool,
) -> Result<bool, store::Error> {
    let since = since(shelf, lease.owner(), lease.machine())?;
    Ok(since.is_some_and(|since| !passed || lease.terms().made > since))
}

/// Whether a release is no word of its owner's any more.
pub(super) fn voids_release(shelf: &RecordShelf, release: &Release) -> Result<bool, store::Error> {
    match release.machine() {
        Some(machine) => Ok(since(shelf, release.owner(), machine)?.is_some()),
        None => Ok(false),
    }
}

/// When a machine was turned out.
fn since(
    shelf: &RecordShelf,
    owner: &[u8; 32],
    machine: &[u8; 32],
) -> Result<Option<Timestamp>, store::Error> {
    let value = shelf.get(RecordTable::Revoked, &key_of(owner, machine))?;
    let bytes = value.and_then(|value| value.try_into().ok());
    Ok(bytes.map(|bytes| Timestamp(u64::from_be_bytes(bytes))))
}

fn key_of(owner: &[u8; 32], machine: &[u8; 32]) -> Vec<u8> {
    [owner.as_slice(), machine].concat()
}
