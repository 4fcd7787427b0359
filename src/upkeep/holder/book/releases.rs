//! Releases as they are remembered: so that a lease that was ended does not come back by the message that once began it, and that others hear of it
//! also after a restart.
//!
//! They are on the store's shelf of small records, by owner and name: the sequence that was ended, until when that has to be known, and the release itself if
//! its lease may have been passed on. What stands for a name in a release of many leases is no secret, and a machine can give it to a lease: so the kind of such
//! a release is part of its key, or a machine could end by its own word what only the owner's ends.

use super::forward::{Forwards, MAX_FORWARDED};
use super::{Book, Key, PAGE};
use crate::lease::{Extent, Lease, MAX_SKEW_MS, Release, Terms};
use crate::store::{self, RecordShelf, RecordTable};
use crate::time::Timestamp;

/// Most releases that are remembered.
const MAX_REMEMBERED: u64 = 65_536;
/// Bytes of a record before the release.
const HEADER_BYTES: usize = 16;

impl Book {
    /// Takes note of a release that ends these leases, and passes it on if one of them may have been. It has to be known for as long as the last of them.
    pub(super) fn remember_release<'a>(
        &self,
        release: &Release,
        ends: impl Iterator<Item = &'a Lease>,
    ) {
        let (mut until, mut is_shared) = (Timestamp(0), false);
        for terms in ends.map(Lease::terms) {
            until = until.max(Timestamp(terms.until.0.saturating_add(MAX_SKEW_MS)));
            is_shared |= terms.copies > 0;
        }
        let mut sequence = release.sequence();
        let shelf = self.store.records();
        let key = key_of(&(*release.owner(), *release.name()), &release.extent());
        let before = shelf.get(RecordTable::Released, &key).ok().flatten();
        // It may have ended others before.
        if let Some((known, at)) = before.as_deref().and_then(read) {
            (sequence, until) = (sequence.max(known), until.max(at));
            is_shared |= before
                .as_ref()
                .is_some_and(|value| value.len() > HEADER_BYTES);
        }
        let mut value = [sequence.to_be_bytes(), until.0.to_be_bytes()].concat();
        if is_shared {
            value.extend(release.encode());
        }
        let stored = match shelf.len(RecordTable::Released) {
            MAX_REMEMBERED.. if before.is_none() => Err("there are too many".to_owned()),
            _ => {
                let put = shelf.put(RecordTable::Released, &key, &value);
                put.map_err(|error| error.to_string())
            }
        };
        if let Err(error) = stored {
            tracing::warn!(%error, "that a lease was ended is not remembered");
        }
        if is_shared {
            self.forwards().add(release.clone(), until);
        }
    }

    /// Forgets releases of leases that could not be brought again anyway.
    pub(super) fn forget_releases(&self, now: Timestamp) -> Result<(), store::Error> {
        let shelf = self.store.records();
        each(shelf, |key, value| {
            if read(value).is_none_or(|(_, until)| until < now) {
                shelf.remove(RecordTable::Released, key)?;
            }
            Ok(true)
        })
    }
}

/// Whether a lease of these terms was ended here: by its name, or with all of its backup or of its owner.
pub(super) fn is_released(
    shelf: &RecordShelf,
    (owner, name): &Key,
    terms: &Terms,
) -> Result<bool, store::Error> {
    let extents = [
        Extent::Lease,
        Extent::Backup(terms.root),
        Extent::Everything,
    ];
    for extent in extents {
        let key = (*owner, extent.name().unwrap_or(*name));
        let stored = shelf.get(RecordTable::Released, &key_of(&key, &extent))?;
        let stored = stored.and_then(|value| read(&value));
        if stored.is_some_and(|(released, _)| terms.sequence <= released) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The releases that are to be passed on after a restart.
pub(super) fn load(shelf: &RecordShelf, now: Timestamp) -> Result<Forwards, store::Error> {
    let mut forwards = Forwards::default();
    let mut loaded = 0;
    each(shelf, |_, value| {
        let release = value.get(HEADER_BYTES..).map(Release::decode);
        if let (Some(Ok(release)), Some((_, until))) = (release, read(value))
            && until >= now
        {
            forwards.add(release, until);
            loaded += 1;
        }
        Ok(loaded < MAX_FORWARDED)
    })?;
    Ok(forwards)
}

/// Visits all records, until `visit` returns false.
fn each(
    shelf: &RecordShelf,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<bool, store::Error>,
) -> Result<(), store::Error> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = shelf.scan_prefix(RecordTable::Released, &[], after.as_deref(), PAGE)?;
        let Some((last, _)) = page.last() else {
            return Ok(());
        };
        after = Some(last.clone());
        for (key, value) in &page {
            if !visit(key, value)? {
                return Ok(());
            }
        }
    }
}

fn key_of((owner, name): &Key, extent: &Extent) -> Vec<u8> {
    let mut key = [owner.as_slice(), name].concat();
    if extent.name().is_some() {
        key.push(extent.code());
    }
    key
}

/// The sequence that was ended, and until when that has to be known.
fn read(value: &[u8]) -> Option<(u64, Timestamp)> {
    let (sequence, rest) = value.split_first_chunk()?;
    let (until, _) = rest.split_first_chunk()?;
    let until = Timestamp(u64::from_be_bytes(*until));
    Some((u64::from_be_bytes(*sequence), until))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::BlockId;
    use crate::store::StoreOptions;
    use crate::upkeep::holder::tests::lease;
    use ed25519_dalek::SigningKey;

    #[test]
    fn records_with_a_release_and_without_are_read_and_garbage_is_not() {
        let owner = SigningKey::from_bytes(&[1; 32]);
        let release = Release::by_owner(&owner, [2; 16], 5, Timestamp(3));
        let header = [5u64.to_be_bytes(), 9u64.to_be_bytes()].concat();
        let whole = [header.clone(), release.encode()].concat();
        for value in [&header, &whole] {
            assert_eq!(read(value), Some((5, Timestamp(9))));
        }
        assert_eq!(read(&header[..15]), None);
        let shelf = RecordShelf::in_memory(&StoreOptions::default());
        let cut = &whole[..whole.len() - 1];
        for (n, value) in [&header[..], &whole, cut, b"", &[0xff; 99]]
            .iter()
            .enumerate()
        {
            let key = key_of(&([n as u8; 32], [4; 16]), &Extent::Lease);
            shelf.put(RecordTable::Released, &key, value).expect("fits");
        }
        let peer = libp2p::PeerId::random();
        let due = |now| {
            let forwards = load(&shelf, Timestamp(now)).expect("reads");
            forwards.due(peer, false)
        };
        assert_eq!(due(9), [release]);
        assert!(due(10).is_empty(), "its lease is over");
        let key = ([1; 32], [4; 16]);
        let id = BlockId::from_sha384([1; 48]);
        let is_known = |sequence| {
            let lease = lease(peer, 0, sequence, &[id], Timestamp(3));
            is_released(&shelf, &key, lease.terms()).expect("reads")
        };
        assert_eq!([5, 6].map(is_known), [true, false]);
        // All of the owner's leases, up to a higher one; a lease that is called like that is one.
        let all = Extent::Everything.name().expect("it has a name");
        let value = [7u64.to_be_bytes(), 9u64.to_be_bytes()].concat();
        for (extent, ends) in [(Extent::Lease, false), (Extent::Everything, true)] {
            let key = key_of(&(key.0, all), &extent);
            shelf
                .put(RecordTable::Released, &key, &value)
                .expect("fits");
            assert_eq!([7, 8].map(is_known), [ends, false], "{extent:?}");
        }
    }
}
