//! The file of the key that adds leases while the owner's file is locked.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use zeroize::Zeroizing;

use crate::lease::{KEEPER_BYTES, Keeper};

/// Name of the file in the data directory.
const FILE: &str = "lease.key";

/// Reads the file. One that is missing or damaged is made again as soon as the owner's file is open.
pub(super) fn load(data_dir: &Path) -> Option<Keeper> {
    let path = data_dir.join(FILE);
    let mut bytes = Zeroizing::new(Vec::with_capacity(KEEPER_BYTES + 1));
    let file = File::open(&path).ok()?;
    file.take(KEEPER_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .ok()?;
    match Keeper::decode(&bytes) {
        Ok(keeper) => Some(keeper),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the key that adds leases can't be used");
            None
        }
    }
}

/// Writes the file, in place of one that there is, for its user alone.
pub(super) fn store(data_dir: &Path, keeper: &Keeper) -> io::Result<()> {
    let mut file = tempfile::Builder::new()
        .prefix(".lease-")
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(data_dir)?;
    file.write_all(&keeper.encode())?;
    file.as_file().sync_all()?;
    file.persist(data_dir.join(FILE))?;
    File::open(data_dir)?.sync_all()
}
