//! The file of the key that adds leases while the owner's file is locked.

use std::io;
use std::path::Path;

use crate::file;
use crate::lease::{KEEPER_BYTES, Keeper};

/// Name of the file in the data directory.
const FILE: &str = "lease.key";

/// Reads the file. One that is missing or damaged is made again as soon as the owner's file is open.
pub(super) fn load(data_dir: &Path) -> Option<Keeper> {
    let path = data_dir.join(FILE);
    let unusable = |error: &dyn std::error::Error| {
        tracing::warn!(path = %path.display(), %error, "the key that adds leases can't be used");
    };
    let bytes = file::read(&path, KEEPER_BYTES as u64).inspect_err(|error| unusable(error));
    let keeper = Keeper::decode(&bytes.ok()??).inspect_err(|error| unusable(error));
    keeper.ok()
}

/// Writes the file, in place of one that there is, for its user alone.
pub(super) fn store(data_dir: &Path, keeper: &Keeper) -> io::Result<()> {
    file::replace(&data_dir.join(FILE), &keeper.encode())
}
