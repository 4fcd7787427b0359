//! One flush for everybody who waits for one.

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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
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
}
