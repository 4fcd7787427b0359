//! One flush for everybody who waits for one, and none when there is nothing to flush.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Groups callers that want the same costly thing done, each after its own call began.
///
/// A round that was under way when a caller came does not count for it: it waits for the next, together with all others who came
/// meanwhile. A round that fails counts for nobody: who waited tries again and gets an error of its own.
#[derive(Debug, Default)]
pub struct FlushGate {
    rounds: Mutex<Rounds>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Rounds {
    running: bool,
    started: u64,
    /// The latest round that succeeded.
    finished: u64,
}

impl FlushGate {
    /// Returns once a `round` that began after this call has succeeded, in this thread or another.
    ///
    /// # Errors
    /// What `round` returned, when it ran in this thread.
    pub fn pass<E>(&self, round: impl Fn() -> Result<(), E>) -> Result<(), E> {
        let mut rounds = self.lock();
        let needed = rounds.started + 1;
        loop {
            if rounds.finished >= needed {
                return Ok(());
            }
            if !rounds.running {
                break;
            }
            rounds = self
                .changed
                .wait(rounds)
                .unwrap_or_else(PoisonError::into_inner);
        }
        rounds.running = true;
        rounds.started += 1;
        let mut turn = Turn {
            gate: self,
            number: rounds.started,
            succeeded: false,
        };
        drop(rounds);
        let result = round();
        turn.succeeded = result.is_ok();
        result
    }

    fn lock(&self) -> MutexGuard<'_, Rounds> {
        self.rounds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running round. Ends it when dropped, also by a panic: nobody may wait for ever.
struct Turn<'a> {
    gate: &'a FlushGate,
    number: u64,
    succeeded: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut rounds = self.gate.lock();
        rounds.running = false;
        if self.succeeded {
            rounds.finished = self.number;
        }
        self.gate.changed.notify_all();
    }
}

/// Whether anything was written since the last flush.
///
/// What is written while a flush begins counts as not flushed, whether the flush took it along or not.
#[derive(Debug, Default)]
pub struct Written {
    begun: AtomicU64,
    ended: AtomicU64,
    /// Writes that had ended before the last flush that succeeded began.
    flushed: AtomicU64,
}

impl Written {
    /// Counts a write around it: whoever sees what it wrote finds it counted.
    pub fn write<T>(&self, write: impl FnOnce() -> T) -> T {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let result = write();
        self.ended.fetch_add(1, Ordering::SeqCst);
        result
    }

    /// Takes note of a flush around it.
    ///
    /// # Errors
    /// Those of the flush.
    pub fn flush<E>(&self, flush: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        // In this order: when both are the same, no write was under way in between.
        let ended = self.ended.load(Ordering::SeqCst);
        let begun = self.begun.load(Ordering::SeqCst);
        flush()?;
        if begun == ended {
            self.flushed.fetch_max(begun, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Whether all that was written has been flushed.
    pub fn is_flushed(&self) -> bool {
        self.begun.load(Ordering::SeqCst) == self.flushed.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::sync_channel;
    use std::thread;

    /// While one round runs, any number of callers come; one more round serves them all.
    #[test]
    fn callers_share_a_round() {
        let gate = FlushGate::default();
        let count = AtomicU64::new(0);
        let (entered_tx, entered_rx) = sync_channel(1);
        let (release_tx, release_rx) = sync_channel::<()>(1);
        thread::scope(|scope| {
            let (gate, count) = (&gate, &count);
            // The receiver can't be shared by reference with other threads.
            let release_rx = Mutex::new(release_rx);
            scope.spawn(move || {
                gate.pass(|| -> Result<(), ()> {
                    entered_tx.send(()).expect("the test waits");
                    release_rx
                        .lock()
                        .expect("one user")
                        .recv()
                        .expect("the test sends");
                    count.fetch_add(1, Ordering::SeqCst);
                    Ok(())
                })
            });
            entered_rx.recv().expect("the first round began");
            let others: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(move || {
                        gate.pass(|| -> Result<(), ()> {
                            count.fetch_add(1, Ordering::SeqCst);
                            Ok(())
                        })
                    })
                })
                .collect();
            release_tx.send(()).expect("the first round waits");
            for other in others {
                assert_eq!(other.join().expect("no panic"), Ok(()));
            }
        });
        // Callers that came after the second round began need a third, at most one each.
        let rounds = count.load(Ordering::SeqCst);
        assert!((2..=9).contains(&rounds), "{rounds} rounds");
    }

    #[test]
    fn a_failure_is_told_and_not_remembered() {
        let gate = FlushGate::default();
        assert_eq!(gate.pass(|| Err("disk")), Err("disk"));
        assert_eq!(gate.pass(|| Ok::<(), &str>(())), Ok(()));
    }

    #[test]
    fn what_is_written_is_flushed_by_a_flush_that_began_later() {
        let written = Written::default();
        let flush = |result: Result<(), ()>| written.flush(|| result);
        assert!(written.is_flushed(), "nothing was written");
        written.write(|| assert!(!written.is_flushed(), "it is under way"));
        assert!(!written.is_flushed());
        assert!(flush(Err(())).is_err() && !written.is_flushed());
        assert!(flush(Ok(())).is_ok() && written.is_flushed());
        // Written while the flush ran, or begun before it and ended after.
        let during = || -> Result<(), ()> {
            written.write(|| ());
            Ok(())
        };
        assert!(written.flush(during).is_ok() && !written.is_flushed());
        written.write(|| assert!(flush(Ok(())).is_ok()));
        assert!(!written.is_flushed());
        assert!(flush(Ok(())).is_ok() && written.is_flushed());
    }
}
