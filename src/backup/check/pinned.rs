//! Pinning again what a log names.

use futures::StreamExt;

use super::CheckOptions;
use crate::backup::archive::{Archive, blocking};
use crate::backup::error::Error;
use crate::backup::run::OpenPin;
use crate::backup::snapshot::Snapshot;
use crate::block::{BlockSource, Link};
use crate::bundle::Bundle;
use crate::id::BlockId;
use crate::store::Keep;

/// Blocks that one call of the store pins.
const BLOCKS_AT_ONCE: usize = 1024;

/// Pins a snapshot with all its blocks. What is not here is fetched.
///
/// # Errors
/// When a block can't be had or the store can't be written: nothing is pinned then.
pub(super) async fn pin_again(
    archive: &Archive,
    link: &Link,
    snapshot: &Snapshot,
    options: &CheckOptions,
) -> Result<(), Error> {
    let store = archive.depot().store().clone();
    let pin = OpenPin::begin(store.clone()).await?;
    let patience = archive.patience(options.patience);
    let session = archive.depot().session(patience, Keep::Pinned(pin.number));
    let bundle = Bundle::open(session.clone(), snapshot.tree.clone()).await?;
    let own = futures::stream::iter([Ok(link.id)]);
    let mut pages = own.chain(bundle.all_blocks()).chunks(BLOCKS_AT_ONCE);
    while let Some(page) = pages.next().await {
        let ids = page.into_iter().collect::<Result<Vec<BlockId>, _>>()?;
        let (worker, number) = (store.clone(), pin.number);
        let absent = blocking(move || Ok(worker.add_refs(number, &ids)?)).await?;
        for id in absent {
            // A block that comes is pinned.
            session.get(id).await?;
        }
    }
    pin.finish_again(link, snapshot, archive.clock().now())
        .await
}
