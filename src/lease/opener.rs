//! Opener of a lease, by which the owner's words open its backup: the key of the backup's snapshot,
//! sealed inside the lease.
//!
//! With it, head and logs are a convenience: whoever has the words and reaches one holder reads
//! every backup that is leased there. The sealing key follows from the owner's backup root key,
//! which the owner's machines have and holders don't. It is bound to the owner, the machine and the
//! backup's root, and the lease's signature covers it: a machine that was stolen can make openers
//! of its own leases only, and a lease that is renewed keeps the opener that it has.

use zeroize::Zeroizing;

use crate::crypto::hash;
use crate::crypto::key::Key;
use crate::crypto::secretbox;
use crate::id::BlockId;

/// Bytes of an opener: nonce, key, tag.
pub const OPENER_BYTES: usize = 12 + Key::BYTES + 16;

const CONTEXT: &str = "libernet 2026-11 lease opener key";
const DOMAIN: &[u8] = b"libernet lease opener v1";

/// A key that only an owner opens.
pub type Opener = [u8; OPENER_BYTES];

fn sealing_key(backup_root: &[u8; 32]) -> Key {
    Key::new(*Zeroizing::new(hash::derive_key(CONTEXT, backup_root)))
}

fn context(owner: &[u8; 32], machine: &[u8; 32], root: &BlockId) -> Vec<u8> {
    [DOMAIN, owner, machine, &root.to_multihash()].concat()
}

/// Seals the key of a backup's root for the leases of one machine. Made once for a backup: every
/// lease of it has the same one.
pub fn seal(
    backup_root: &[u8; 32],
    owner: &[u8; 32],
    machine: &[u8; 32],
    root: &BlockId,
    key: &Key,
) -> Opener {
    let context = context(owner, machine, root);
    let sealed = secretbox::seal(&sealing_key(backup_root), &context, key.as_bytes());
    sealed
        .try_into()
        .expect("sealing adds a nonce and a tag of fixed size")
}

/// The key that an opener holds; none when it was sealed for another owner, machine or root.
pub(super) fn open(
    backup_root: &[u8; 32],
    owner: &[u8; 32],
    machine: &[u8; 32],
    root: &BlockId,
    opener: &Opener,
) -> Option<Key> {
    let context = context(owner, machine, root);
    let opened = secretbox::open(&sealing_key(backup_root), &context, opener).ok()?;
    Key::try_from(opened.as_slice()).ok()
}
