//! Keeps the store in shape: writes usage counters, gets the space of dropped blocks back.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::store::Store;
use crate::task::WorkerState;

/// How often the store is looked after. A look that finds nothing to do costs microseconds.
const EVERY: Duration = Duration::from_secs(60);
/// Pause between two steps of work that is too large for one, so that foreground work comes first.
const BETWEEN_STEPS: Duration = Duration::from_secs(1);

/// Runs until cancelled; a compaction under way is waited for.
pub async fn run(store: Arc<dyn Store>, cancel: CancellationToken, state: Arc<WorkerState>) {
    state.set("the store is in shape");
    let mut pause = EVERY;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = EVERY;
        let worker = store.clone();
        match tokio::task::spawn_blocking(move || worker.maintain()).await {
            Ok(Ok(done)) if done.more => {
                state.set("getting the space of dropped blocks back");
                pause = BETWEEN_STEPS;
            }
            Ok(Ok(_)) => state.set("the store is in shape"),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the store could not be maintained");
                state.fail(error.to_string());
            }
            Err(_) => return,
        }
    }
}
