//! Fetches blocks again that were found damaged, or that a pin refers to and that are gone.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::block::BlockSource;
use crate::depot::{Depot, PendingBlocks};
use crate::store::Keep;
use crate::task::WorkerState;

/// How long to look for one block.
const PATIENCE: Duration = Duration::from_secs(60);

/// Blocks that are looked for at the start at most; more are found as they are asked for.
const MAX_AT_START: usize = 10_000;

/// Runs until cancelled. Blocks that nobody has now are tried again when the next damaged block is found.
pub async fn run(depot: Depot, cancel: CancellationToken, state: Arc<WorkerState>) {
    state.set("nothing is damaged");
    let store = depot.store().clone();
    if let Ok(Ok(lost)) = tokio::task::spawn_blocking(move || store.lost(None, MAX_AT_START)).await
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
            let count = ids.len();
            let mut lost = Vec::new();
            for (done, id) in ids.into_iter().enumerate() {
                state.set(format!("fetching damaged blocks again: {done} of {count}"));
                if let Err(error) = session.get(id).await {
                    tracing::warn!(%id, %error, "a damaged block could not be fetched again");
                    lost.push(id);
                }
            }
            state.set(format!(
                "{} damaged blocks were fetched again",
                count - lost.len()
            ));
            if let Some(first) = lost.first() {
                state.fail(format!(
                    "{} damaged blocks were found nowhere, such as {first}",
                    lost.len()
                ));
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            () = round => {}
        }
    }
}
