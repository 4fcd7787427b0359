//! What the record store needs of a persistent store, and one in memory.

use std::collections::BTreeMap;
use std::sync::Mutex;

use bytes::Bytes;

/// The shelf failed. What it keeps is soft state: the net goes on without it.
#[derive(Debug, thiserror::Error)]
#[error("the records of the DHT could not be read or written")]
pub struct ShelfError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// A table number, a key and a value: somewhere to keep records of the DHT.
///
/// Calls block and are expected to take microseconds. `get` is called on the task that owns the network, the others on a
/// thread of their own.
pub trait RecordShelf: Send + Sync {
    /// The value under `key`.
    ///
    /// # Errors
    /// [`ShelfError`].
    fn get(&self, table: u8, key: &[u8]) -> Result<Option<Bytes>, ShelfError>;

    /// Keeps `value` under `key`, in place of what was there. It need not survive a crash.
    ///
    /// # Errors
    /// [`ShelfError`].
    fn put(&self, table: u8, key: &[u8], value: &[u8]) -> Result<(), ShelfError>;

    /// Removes what is under `key`, if anything.
    ///
    /// # Errors
    /// [`ShelfError`].
    fn remove(&self, table: u8, key: &[u8]) -> Result<(), ShelfError>;

    /// The first `limit` entries in key order whose key starts with `prefix` and, if `after` is given, is larger than it.
    ///
    /// # Errors
    /// [`ShelfError`].
    fn scan_prefix(
        &self,
        table: u8,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, ShelfError>;

    /// Bytes that all records together may take which others have brought. It may change.
    fn room_bytes(&self) -> u64 {
        DEFAULT_ROOM_BYTES
    }
}

/// Room of a shelf that is in nobody's way.
const DEFAULT_ROOM_BYTES: u64 = 64 << 20;

/// A shelf that forgets everything with the process.
#[derive(Default)]
pub struct MemoryShelf(Mutex<BTreeMap<(u8, Vec<u8>), Bytes>>);

impl MemoryShelf {
    /// An empty shelf.
    pub fn new() -> Self {
        Self::default()
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, BTreeMap<(u8, Vec<u8>), Bytes>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl RecordShelf for MemoryShelf {
    fn get(&self, table: u8, key: &[u8]) -> Result<Option<Bytes>, ShelfError> {
        Ok(self.entries().get(&(table, key.to_vec())).cloned())
    }

    fn put(&self, table: u8, key: &[u8], value: &[u8]) -> Result<(), ShelfError> {
        let value = Bytes::copy_from_slice(value);
        self.entries().insert((table, key.to_vec()), value);
        Ok(())
    }

    fn remove(&self, table: u8, key: &[u8]) -> Result<(), ShelfError> {
        self.entries().remove(&(table, key.to_vec()));
        Ok(())
    }

    fn scan_prefix(
        &self,
        table: u8,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, ShelfError> {
        let start = after.filter(|after| *after >= prefix).unwrap_or(prefix);
        let entries = self.entries();
        let page = entries
            .range((table, start.to_vec())..)
            .take_while(|((t, key), _)| *t == table && key.starts_with(prefix))
            .filter(|((_, key), _)| after.is_none_or(|after| key.as_slice() > after))
            .take(limit)
            .map(|((_, key), value)| (Bytes::copy_from_slice(key), value.clone()));
        Ok(page.collect())
    }
}

/// What every shelf must do. Call it from the tests of an implementation, with an empty shelf.
///
/// # Panics
/// When the shelf does something else.
#[cfg(test)]
pub(crate) fn conformance(shelf: &dyn RecordShelf) {
    let get = |table, key: &[u8]| shelf.get(table, key).expect("readable");
    assert_eq!(get(1, b"a"), None);
    for key in [&b"a"[..], b"ab", b"abc", b"b", b"\xff\xff"] {
        shelf.put(1, key, key).expect("writable");
    }
    shelf.put(2, b"a", b"other table").expect("writable");
    shelf.put(1, b"ab", b"again").expect("writable");
    shelf.put(1, b"empty", b"").expect("writable");
    assert_eq!(get(1, b"ab").as_deref(), Some(&b"again"[..]));
    assert_eq!(get(1, b"empty").as_deref(), Some(&b""[..]));
    let scan = |prefix: &[u8], after: Option<&[u8]>, limit| -> Vec<Vec<u8>> {
        let page = shelf
            .scan_prefix(1, prefix, after, limit)
            .expect("readable");
        page.into_iter().map(|(key, _)| key.to_vec()).collect()
    };
    assert_eq!(scan(b"a", None, 10), [&b"a"[..], b"ab", b"abc"]);
    assert_eq!(scan(b"a", None, 2), [&b"a"[..], b"ab"]);
    assert_eq!(scan(b"a", Some(b"ab"), 10), [&b"abc"[..]]);
    assert_eq!(scan(b"", Some(b"b"), 10), [&b"empty"[..], b"\xff\xff"]);
    assert_eq!(scan(b"\xff", None, 10), [&b"\xff\xff"[..]]);
    shelf.remove(1, b"a").expect("writable");
    shelf.remove(1, b"not there").expect("writable");
    assert_eq!(get(1, b"a"), None);
    assert_eq!(get(2, b"a").as_deref(), Some(&b"other table"[..]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_shelf_conforms() {
        conformance(&MemoryShelf::new());
    }
}
