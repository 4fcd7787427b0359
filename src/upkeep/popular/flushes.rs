//! Flushes that offers make necessary: shared by all that wait, with a pause in between, whoever offers how much, and none when nothing was written.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::store::{self, Store};

/// The shortest time between the beginnings of two flushes.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// What is flushed.
pub(super) trait Flush: Clone + Send + 'static {
    /// As [`Store::is_durable`].
    fn is_durable(&self) -> bool;
    /// As [`Store::flush`].
    fn flush(&self) -> Result<(), store::Error>;
}

impl Flush for Arc<dyn Store> {
    fn is_durable(&self) -> bool {
        (**self).is_durable()
    }

    fn flush(&self) -> Result<(), store::Error> {
        (**self).flush()
    }
}

/// The flushes of one store.
#[derive(Default)]
pub(super) struct Flushes {
    /// When the last one was begun. The lock is held while one runs or is waited for.
    begun: tokio::sync::Mutex<Option<Instant>>,
    /// When the last one was begun that succeeded.
    done: Mutex<Option<Instant>>,
}

impl Flushes {
    /// Waits until everything that was put before this call is durable: by a flush of its own, or one that another caller began meanwhile. Says
    /// whether it is; it is not when the node is going down.
    ///
    /// # Errors
    /// Those of the store.
    ///
    /// # Cancel safety
    /// Dropped, a flush that was begun goes on.
    pub(super) async fn flush(&self, store: &impl Flush) -> Result<bool, store::Error> {
        let came = Instant::now();
        let mut begun = self.begun.lock().await;
        if store.is_durable() || self.covers(came) {
            return Ok(true);
        }
        if let Some(before) = *begun {
            tokio::time::sleep_until(before + PAUSE).await;
        }
        let now = Instant::now();
        *begun = Some(now);
        let store = store.clone();
        // Only a node that is going down loses its worker threads.
        let Ok(flushed) = tokio::task::spawn_blocking(move || store.flush()).await else {
            return Ok(false);
        };
        flushed?;
        *self.done() = Some(now);
        Ok(true)
    }

    /// Whether what was here at this time is durable because of a flush that began later.
    pub(super) fn covers(&self, at: Instant) -> bool {
        self.done().is_some_and(|done| done > at)
    }

    fn done(&self) -> MutexGuard<'_, Option<Instant>> {
        // One value is always whole.
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    #[derive(Clone, Default)]
    struct Disk {
        flushes: Arc<AtomicU32>,
        is_dirty: Arc<AtomicBool>,
        is_full: Arc<AtomicBool>,
    }

    impl Flush for Disk {
        fn is_durable(&self) -> bool {
            !self.is_dirty.load(Ordering::SeqCst)
        }

        fn flush(&self) -> Result<(), store::Error> {
            self.flushes.fetch_add(1, Ordering::SeqCst);
            if self.is_full.load(Ordering::SeqCst) {
                return Err(store::Error::DiskFull);
            }
            self.is_dirty.store(false, Ordering::SeqCst);
            Ok(())
        }
    }

    impl Disk {
        fn write(&self) {
            self.is_dirty.store(true, Ordering::SeqCst);
        }

        fn flushes(&self) -> u32 {
            self.flushes.load(Ordering::SeqCst)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_makes_one_flush_a_pause_at_most_and_none_for_nothing() {
        let (flushes, disk) = (Flushes::default(), Disk::default());
        for _ in 0..100 {
            assert!(flushes.flush(&disk).await.expect("flushes"));
        }
        assert_eq!(disk.flushes(), 0, "nothing was written");
        let began = Instant::now();
        for _ in 0..100 {
            disk.write();
            let at = Instant::now();
            assert!(!flushes.covers(at));
            let all = (0..64).map(|_| flushes.flush(&disk));
            for flushed in futures::future::join_all(all).await {
                assert!(flushed.expect("flushes"));
            }
            // The first of all is begun at once, in the same moment.
            assert!(flushes.covers(at) || at == began);
        }
        let pauses = began.elapsed().as_secs_f64() / PAUSE.as_secs_f64();
        assert!(f64::from(disk.flushes()) <= pauses + 1.0, "{pauses} pauses");
        assert_eq!(disk.flushes(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flush_that_fails_counts_for_nobody() {
        let (flushes, disk) = (Flushes::default(), Disk::default());
        let began = Instant::now();
        disk.write();
        disk.is_full.store(true, Ordering::SeqCst);
        let all = (0..3).map(|_| flushes.flush(&disk));
        let all = futures::future::join_all(all).await;
        assert!(all.iter().all(Result::is_err), "{all:?}");
        assert!(!flushes.covers(began));
        disk.is_full.store(false, Ordering::SeqCst);
        assert!(flushes.flush(&disk).await.expect("flushes"));
        assert!(flushes.covers(began));
    }
}
