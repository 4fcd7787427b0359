//! Background work: every task has a name, one owner, one way to stop, and is joined.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What one background job says about itself, for `status`.
#[derive(Debug)]
pub struct WorkerState {
    name: &'static str,
    text: Mutex<(String, Option<String>)>,
}

impl WorkerState {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            text: Mutex::new(("starting".to_owned(), None)),
        }
    }

    /// The job's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Says what the job is doing, and that its last run went well.
    pub fn set(&self, state: impl Into<String>) {
        *self.lock() = (state.into(), None);
    }

    /// Says that the last run failed.
    pub fn fail(&self, error: impl Into<String>) {
        self.lock().1 = Some(error.into());
    }

    /// What the job is doing, and why its last run failed if it did.
    pub fn get(&self) -> (String, Option<String>) {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (String, Option<String>)> {
        // The texts are whole at every moment, so a panic elsewhere does not spoil them.
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The background jobs of a node. Dropping it cancels them without waiting.
#[derive(Debug, Default)]
pub struct Workers {
    cancel: CancellationToken,
    tasks: Vec<(Arc<WorkerState>, JoinHandle<()>)>,
}

impl Workers {
    /// Starts a job. It must end soon after `cancel` fires.
    pub fn spawn<F, Fut>(&mut self, name: &'static str, job: F)
    where
        F: FnOnce(CancellationToken, Arc<WorkerState>) -> Fut,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let state = Arc::new(WorkerState::new(name));
        let task = tokio::spawn(job(self.cancel.child_token(), state.clone()));
        self.tasks.push((state, task));
    }

    /// What each job says about itself.
    pub fn states(&self) -> Vec<Arc<WorkerState>> {
        self.tasks.iter().map(|(state, _)| state.clone()).collect()
    }

    /// Stops all jobs and waits until each has ended, at most `patience`; then those that have not are aborted. Returns the names
    /// of the aborted ones.
    pub async fn stop(mut self, patience: Duration) -> Vec<&'static str> {
        self.cancel.cancel();
        let deadline = tokio::time::Instant::now() + patience;
        let mut late = Vec::new();
        for (state, mut task) in std::mem::take(&mut self.tasks) {
            if tokio::time::timeout_at(deadline, &mut task).await.is_err() {
                task.abort();
                late.push(state.name());
            }
        }
        late
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn stopping_joins_the_willing_and_names_the_rest() {
        let mut workers = Workers::default();
        workers.spawn("willing", |cancel, state| async move {
            state.set("waiting");
            cancel.cancelled().await;
        });
        workers.spawn("stubborn", |_, _| std::future::pending());
        let states = workers.states();
        tokio::task::yield_now().await;
        assert_eq!(states[0].get(), ("waiting".to_owned(), None));
        assert_eq!(workers.stop(Duration::from_secs(1)).await, vec!["stubborn"]);
    }
}
