//! Checks before anything is written: whether more would come out of a bundle than may.

use std::path::Path;

use crate::bundle::bounds::{Bound, Bounds, Room, USUAL_ENTRIES};
use crate::bundle::error::Error;
use crate::bundle::read::{Bundle, Walk};
use crate::bundle::root::{BundleKind, Totals};

/// Holds what a bundle claims to hold against the bounds, and against the room at `target` unless
/// some of it may be there already, as under the name `hidden`. The claims of a bundle are no
/// claims of its parts.
pub(super) fn check_claims(
    bundle: &Bundle,
    bounds: Bounds,
    target: &Path,
    hidden: &Path,
) -> Result<(), Error> {
    let root = bundle.root();
    let claims = match (root.kind(), bundle.is_part()) {
        (BundleKind::Tree, false) => root.totals,
        (_, is_part) => Totals {
            files: 0,
            entries: 1,
            bytes: root.entry.size(),
            blocks: if is_part { 0 } else { root.totals.blocks },
        },
    };
    let is_there = |path: &Path| path.symlink_metadata().is_ok();
    let begins = !is_there(target) && !is_there(hidden);
    let room = begins.then(|| Room::at(target)).flatten();
    bounds.check_claims(claims, room).map_err(Error::Excess)
}

/// Goes through a tree that claims more entries than are usual before anything is written: one that
/// repeats itself leaves nothing behind. Ends at a block that can't be had; what comes after it is
/// judged while it is written.
pub(super) async fn walk_first(bundle: &Bundle, bounds: Bounds) -> Result<(), Error> {
    let claims = bundle.root().totals;
    if bounds.entries != Bound::Usual || claims.entries <= USUAL_ENTRIES {
        return Ok(());
    }
    let mut walk = Walk::new(bundle);
    let (mut entries, mut bytes) = (0, 0_u64);
    while let Some(step) = walk.next().await {
        match step {
            Ok(entry) => bytes = bytes.saturating_add(entry.size()),
            Err(error) if error.block().is_some() => return Ok(()),
            Err(error) => return Err(error),
        }
        entries += 1;
        bounds
            .check_entries(entries, bytes, bundle.opener().opened_bytes())
            .map_err(Error::Excess)?;
    }
    Ok(())
}
