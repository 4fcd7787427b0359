//! The store's shelf, in the shape in which the network asks for it.

use bytes::Bytes;

use crate::net::providers::{MAX_PROVIDERS_BYTES, RecordShelf, ShelfError};
use crate::store::{self, MAX_RECORD_VALUE_BYTES, RecordTable};

/// Records that others brought may take one part in so many of the quota: 2%.
const QUOTA_SHARE: u64 = 50;

const _: () = assert!(
    MAX_PROVIDERS_BYTES <= MAX_RECORD_VALUE_BYTES,
    "what the network keeps under one key fits"
);

/// Keeps the DHT's records on the store's shelf.
pub(super) struct Shelf(pub(super) store::RecordShelf);

fn table_of(number: u8) -> Result<RecordTable, ShelfError> {
    match number {
        1 => Ok(RecordTable::Providers),
        2 => Ok(RecordTable::Values),
        3 => Ok(RecordTable::Announced),
        4 => Ok(RecordTable::Peers),
        other => Err(ShelfError(format!("there is no table {other}").into())),
    }
}

fn failed(error: store::Error) -> ShelfError {
    ShelfError(Box::new(error))
}

impl RecordShelf for Shelf {
    fn get(&self, table: u8, key: &[u8]) -> Result<Option<Bytes>, ShelfError> {
        let value = self.0.get(table_of(table)?, key).map_err(failed)?;
        Ok(value.map(Bytes::from))
    }

    fn put(&self, table: u8, key: &[u8], value: &[u8]) -> Result<(), ShelfError> {
        self.0.put(table_of(table)?, key, value).map_err(failed)
    }

    fn remove(&self, table: u8, key: &[u8]) -> Result<(), ShelfError> {
        self.0
            .remove(table_of(table)?, key)
            .map(|_| ())
            .map_err(failed)
    }

    fn scan_prefix(
        &self,
        table: u8,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, ShelfError> {
        let found = self
            .0
            .scan_prefix(table_of(table)?, prefix, after, limit)
            .map_err(failed)?;
        Ok(found
            .into_iter()
            .map(|(key, value)| (key.into(), value.into()))
            .collect())
    }

    fn room_bytes(&self) -> u64 {
        self.0.quota_bytes() / QUOTA_SHARE
    }
}
