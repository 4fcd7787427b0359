//! Fetches blocks again that were found damaged, or that a pin refers to and that are gone.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::block::BlockSource;
use crate::depot::{Depot, PendingBlocks};
use crate::id::BlockId;
use crate::store::{self, Keep, Store};
use crate::task::WorkerState;
use crate::text::count;

/// How long to look for one block.
const PATIENCE: Duration = Duration::from_secs(60);

/// Blocks that are looked for at the start at most; more are found as they are asked for.
const MAX_AT_START: usize = 10_000;

/// Blocks that are looked through as one.
const PAGE: usize = 1024;

/// Blocks that are gone and that pins refer to. What only leases refer to is fetched with its lease: anybody may name ids there.
fn lost_of_pins(store: &dyn Store) -> Result<Vec<BlockId>, store::Error> {
    let (mut found, mut after) = (Vec::new(), None);
    while found.len() < MAX_AT_START {
        let page = store.lost(after, PAGE)?;
        let Some(last) = page.last().copied() else {
            break;
        };
        for id in page {
            if store.stat(id)?.is_some_and(|stat| stat.pins > 0) {
                found.push(id);
            }
        }
        after = Some(last);
    }
    Ok(found)
}

/// Runs until cancelled. Blocks that nobody has now are tried again when the next damaged block is found.
pub async fn run(depot: Depot, cancel: CancellationToken, state: Arc<WorkerState>) {
    state.set("nothing is damaged");
    let store = depot.store().clone();
    if let Ok(Ok(lost)) = tokio::task::spawn_blocking(move || lost_of_pins(&*store)).await
        && !lost.is_empty()
    {
        depot.wounded().add(lost);
    }
    loop {
        let round = async {
            depot.wounded().changed().await;
            let Some(PendingBlocks::Ids(ids)) = depot.wounded().take() else {
                return;
            };
            let session = depot.session(PATIENCE, Keep::Cached);
            let all = ids.len();
            let mut lost = Vec::new();
            for (done, id) in ids.into_iter().enumerate() {
                state.set(format!("fetching damaged blocks again: {done} of {all}"));
                if let Err(error) = session.get(id).await {
                    tracing::warn!(%id, %error, "a damaged block could not be fetched again");
                    lost.push(id);
                }
            }
            let fetched = count((all - lost.len()) as u64, "damaged block");
            state.set(format!("fetched again: {fetched}"));
            if let Some(first) = lost.first() {
                state.fail(format!(
                    "{} found nowhere, such as {first}",
                    count(lost.len() as u64, "damaged block")
                ));
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            () = round => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Block;
    use crate::store::{LeaseInfo, MemoryStore, StoreOptions};
    use crate::time::Timestamp;

    #[test]
    fn ids_that_only_leases_name_are_left_to_the_leases() {
        let store = MemoryStore::new(StoreOptions::default());
        let block = |n: u32| Block::new(n.to_be_bytes().to_vec().into()).expect("a block");
        let mut leased: Vec<_> = (0..2 * PAGE as u32).map(|n| block(n).id()).collect();
        leased.sort_unstable();
        let info = LeaseInfo {
            root: leased[0],
            terms: Vec::new().into(),
            until: Timestamp(9),
            blocks: 1,
            bytes: 1,
            complete: false,
        };
        let lease = store.begin_lease(&info).expect("begins");
        store.add_lease_refs(lease, &leased).expect("room");
        let pin = store.begin_pin("a pin").expect("begins");
        let pinned = block(u32::MAX);
        store
            .put(std::slice::from_ref(&pinned), Keep::Pinned(pin))
            .expect("room");
        store.discard(pinned.id()).expect("it is here");
        assert_eq!(lost_of_pins(&store).expect("reads"), [pinned.id()]);
    }
}
