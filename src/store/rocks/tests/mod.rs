//! What only a store on disk can do wrong: lasting, crashing, damage, space, format.

mod crash;
mod damage;
mod golden;
mod model;
mod opening;
mod quota;
mod rebuild;
mod reopen;

use std::path::Path;
use std::sync::Arc;

use crate::size::ByteSize;
use crate::store::{Error, RocksStore, StoreOptions};
use crate::time::ManualClock;

fn options(quota: u64) -> StoreOptions {
    StoreOptions {
        quota: ByteSize(quota),
        clock: Arc::new(ManualClock::default()),
        ..StoreOptions::default()
    }
}

fn open(dir: &Path) -> RocksStore {
    RocksStore::open(dir, options(1 << 30)).expect("opens")
}

/// Opening must fail, and `RocksStore` has no value to show.
fn refusal(dir: &Path) -> Error {
    RocksStore::open(dir, options(1 << 30)).expect_err("must not open")
}
