//! Checks what peers sent, off the tasks that serve others, several blocks at a time.
//!
//! Whoever has bytes to check puts them in a line, and a worker goes through it with several blocks side by side: when blocks come faster
//! than they can be checked one by one they are checked at several times that rate. A worker that has fewer than it could work on waits a moment for
//! others that are on their way, if they come so fast that it is worth it: also in the middle, as the longest of several is left over alone. A small block
//! waits for nobody. A second worker starts only when there is enough in the line to fill it: two half-empty ones take twice the time.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::block::{Block, VerifyError};
use crate::crypto::hash::{self, HASHES_AT_ONCE};
use crate::id::BlockId;

/// Blocks that come further apart than this, on average, don't wait for one another.
const MAX_INTERVAL: Duration = Duration::from_millis(40);

/// Up to this size a block is checked sooner than company would come: within what is hashed between two looks for more.
const ALONE_BYTES: usize = 64 << 10;

type Checked = Result<Block, VerifyError>;

/// The line and its workers.
pub(super) struct Verifier {
    shared: Arc<Shared>,
    max_workers: usize,
}

#[derive(Default)]
struct Shared {
    line: Mutex<Line>,
    /// Something came, or nothing is on its way any more.
    changed: Condvar,
}

#[derive(Default)]
struct Line {
    waiting: VecDeque<Waiting>,
    workers: usize,
    /// Blocks that are on their way.
    expected: usize,
    pace: Pace,
}

/// How fast large blocks come.
#[derive(Default)]
struct Pace {
    last: Option<Instant>,
    /// The mean of the times between two, the latest ones counting most.
    interval: Option<Duration>,
}

impl Pace {
    fn came(&mut self, now: Instant) {
        let Some(last) = self.last.replace(now) else {
            return;
        };
        // One long pause says nothing about what follows it.
        let since = now.saturating_duration_since(last).min(2 * MAX_INTERVAL);
        let mean = self.interval.map_or(since, |mean| (7 * mean + since) / 8);
        self.interval = Some(mean);
    }

    /// How long it is worth to wait for the next.
    fn patience(&self) -> Duration {
        match self.interval {
            Some(interval) if interval <= MAX_INTERVAL => 2 * interval,
            _ => Duration::ZERO,
        }
    }
}

/// A block that is on its way, or is known not to be.
pub(super) struct Expected(Arc<Shared>);

impl Drop for Expected {
    fn drop(&mut self) {
        let mut line = self.0.lock();
        line.expected -= 1;
        if line.expected == 0 {
            self.0.changed.notify_all();
        }
    }
}

struct Waiting {
    id: BlockId,
    bytes: Bytes,
    reply: oneshot::Sender<Checked>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Line> {
        // The line is whole between two statements.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Verifier {
    /// A verifier that uses as many threads at once.
    pub(super) fn new(max_workers: usize) -> Self {
        Self {
            shared: Arc::default(),
            max_workers,
        }
    }

    /// Says that bytes to check are on their way, as long as what is returned lives.
    pub(super) fn expect(&self) -> Expected {
        self.shared.lock().expected += 1;
        Expected(self.shared.clone())
    }

    /// Whether `bytes` are the block `id`. `None`: the program is stopping. The line is as long as there are callers.
    ///
    /// # Cancel safety
    /// When dropped the block may still be checked, for nobody.
    pub(super) async fn verify(&self, id: BlockId, bytes: Bytes) -> Option<Checked> {
        let (reply, answer) = oneshot::channel();
        if self.join(Waiting { id, bytes, reply }) {
            let worker = Worker {
                shared: self.shared.clone(),
                is_counted: true,
            };
            tokio::task::spawn_blocking(move || worker.run());
        }
        answer.await.ok()
    }

    /// Puts something in the line. Whether one more worker is wanted: it is counted already.
    fn join(&self, one: Waiting) -> bool {
        let mut line = self.shared.lock();
        if one.bytes.len() > ALONE_BYTES {
            line.pace.came(Instant::now());
        }
        line.waiting.push_back(one);
        self.shared.changed.notify_one();
        let is_full = line.waiting.len() >= HASHES_AT_ONCE;
        let is_wanted = line.workers == 0 || (is_full && line.workers < self.max_workers);
        line.workers += usize::from(is_wanted);
        is_wanted
    }
}

/// One that is counted as a worker, also when it is never run.
struct Worker {
    shared: Arc<Shared>,
    is_counted: bool,
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.is_counted {
            let mut line = self.shared.lock();
            line.workers -= 1;
            let is_last = line.workers == 0;
            let left = is_last.then(|| std::mem::take(&mut line.waiting));
            drop(line);
            // Whoever waits hears that nobody will come.
            drop(left);
        }
    }
}

impl Worker {
    fn run(mut self) {
        let mut wait = Wait::default();
        loop {
            Block::verify_all(
                |busy| self.next(busy, &mut wait),
                // Who asked may have gone.
                |checked, reply| drop(reply.send(checked)),
            );
            let mut line = self.shared.lock();
            // Looked at under the same lock as whoever joins does: nobody is left in the line.
            if line.waiting.is_empty() {
                line.workers -= 1;
                drop(line);
                self.is_counted = false;
                return;
            }
        }
    }

    /// The next in the line. While others are worked on, waits once for company after the last one came.
    fn next(
        &self,
        busy: usize,
        wait: &mut Wait,
    ) -> Option<(BlockId, Bytes, oneshot::Sender<Checked>)> {
        let mut line = self.shared.lock();
        loop {
            while let Some(next) = line.waiting.pop_front() {
                if !next.reply.is_closed() {
                    *wait = Wait {
                        has_small: wait.has_small || next.bytes.len() <= ALONE_BYTES,
                        ..Wait::default()
                    };
                    return Some((next.id, next.bytes, next.reply));
                }
            }
            // What is small is done before the next look.
            let has_small = std::mem::take(&mut wait.has_small);
            let is_pointless = line.expected == 0 || !hash::gains_by_company();
            if busy == 0 || wait.is_over || has_small || is_pointless {
                return None;
            }
            let now = Instant::now();
            let until = *wait.until.get_or_insert(now + line.pace.patience());
            let Some(left) = until.checked_duration_since(now).filter(|d| !d.is_zero()) else {
                wait.is_over = true;
                return None;
            };
            let waited = self.shared.changed.wait_timeout(line, left);
            line = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A worker's wait for company.
#[derive(Default)]
struct Wait {
    /// It was in vain: nothing came since.
    is_over: bool,
    until: Option<Instant>,
    /// A small block was taken since the last look that found nothing.
    has_small: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_gets_its_own_answer() {
        let verifier = Verifier::new(1);
        let block = |byte: u8| Block::new(Bytes::from(vec![byte; 1000])).expect("small");
        let checks = (0..50u8).map(|byte| {
            let sent = if byte % 7 == 3 { byte + 1 } else { byte };
            verifier.verify(block(byte).id(), block(sent).into_bytes())
        });
        let checked = futures::future::join_all(checks).await;
        for (byte, checked) in (0..50u8).zip(checked) {
            let expected = match byte % 7 {
                3 => Err(VerifyError::Mismatch(block(byte).id())),
                _ => Ok(block(byte)),
            };
            assert_eq!(checked, Some(expected));
        }
        assert!(verifier.shared.lock().waiting.is_empty());
    }

    #[tokio::test]
    async fn who_gave_up_delays_nobody() {
        let verifier = Verifier::new(1);
        let block = Block::new(Bytes::from_static(b"x")).expect("small");
        let (reply, gone) = oneshot::channel();
        let (id, bytes) = (block.id(), block.bytes().clone());
        assert!(verifier.join(Waiting { id, bytes, reply }));
        drop(gone);
        let checked = verifier.verify(id, block.bytes().clone());
        let worker = Worker {
            shared: verifier.shared.clone(),
            is_counted: true,
        };
        let (checked, ()) = futures::join!(checked, async { worker.run() });
        assert_eq!(checked, Some(Ok(block)));
        assert_eq!(verifier.shared.lock().workers, 0);
    }

    /// A second worker only for a full line, and none beyond the limit.
    #[test]
    fn workers_are_bounded() {
        let verifier = Verifier::new(2);
        let block = Block::new(Bytes::from_static(b"x")).expect("small");
        let wanted = (0..3 * HASHES_AT_ONCE)
            .filter(|_| {
                let (reply, _) = oneshot::channel();
                let (id, bytes) = (block.id(), block.bytes().clone());
                verifier.join(Waiting { id, bytes, reply })
            })
            .count();
        assert_eq!(wanted, 2);
    }

    /// A worker of nobody's, to be asked for the next in the line.
    fn hand(verifier: &Verifier) -> Worker {
        Worker {
            shared: verifier.shared.clone(),
            is_counted: false,
        }
    }

    fn join(verifier: &Verifier, size: usize) -> oneshot::Receiver<Checked> {
        let block = Block::new(Bytes::from(vec![1; size])).expect("allowed");
        let (reply, answer) = oneshot::channel();
        let (id, bytes) = (block.id(), block.into_bytes());
        verifier.join(Waiting { id, bytes, reply });
        answer
    }

    #[test]
    fn what_comes_fast_enough_is_waited_for_and_no_longer() {
        let verifier = Verifier::new(1);
        let worker = hand(&verifier);
        let began = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.patience(), Duration::ZERO);
        pace.came(began);
        assert_eq!(pace.patience(), Duration::ZERO);
        pace.came(began + Duration::from_millis(10));
        assert_eq!(pace.patience(), Duration::from_millis(20));
        let apart = MAX_INTERVAL + Duration::from_millis(1);
        for n in 1..50 {
            pace.came(began + n * apart);
        }
        assert_eq!(pace.patience(), Duration::ZERO);

        if !hash::gains_by_company() {
            eprintln!("skipped: this processor hashes one message at a time, and no worker waits");
            return;
        }
        // One that is late ends the wait by coming.
        let minute = Duration::from_secs(60);
        let waits_a_minute = Pace {
            last: None,
            interval: Some(MAX_INTERVAL),
        };
        assert_eq!(waits_a_minute.patience(), 2 * MAX_INTERVAL);
        verifier.shared.lock().pace = waits_a_minute;
        let expected = verifier.expect();
        let mut wait = Wait {
            until: Some(Instant::now() + minute),
            ..Wait::default()
        };
        let next = std::thread::scope(|scope| {
            let next = scope.spawn(|| worker.next(1, &mut wait).is_some());
            let _answer = join(&verifier, ALONE_BYTES + 1);
            next.join().expect("no panic")
        });
        assert!(next);
        assert!(!wait.is_over && wait.until.is_none());

        // So does the news that none is on its way.
        wait.until = Some(Instant::now() + minute);
        let next = std::thread::scope(|scope| {
            let next = scope.spawn(|| worker.next(1, &mut wait).is_some());
            drop(expected);
            next.join().expect("no panic")
        });
        assert!(!next);
        assert!(worker.next(1, &mut wait).is_none());

        // A wait that is over is not begun again before something came.
        let _expected = verifier.expect();
        wait.until = Some(Instant::now());
        assert!(worker.next(1, &mut wait).is_none());
        assert!(wait.is_over);
        assert!(worker.next(1, &mut wait).is_none());
        // With nothing in hand there is no wait at all.
        assert!(worker.next(0, &mut Wait::default()).is_none());
    }

    /// Whether it came first or last: those that are in hand with it wait once it is done.
    #[test]
    fn a_small_block_waits_for_nobody() {
        let minute = Some(Instant::now() + Duration::from_secs(60));
        for sizes in [
            [ALONE_BYTES + 1, ALONE_BYTES],
            [ALONE_BYTES, ALONE_BYTES + 1],
        ] {
            let verifier = Verifier::new(1);
            let worker = hand(&verifier);
            let _expected = verifier.expect();
            let _answers = sizes.map(|size| join(&verifier, size));
            let mut wait = Wait::default();
            assert!(worker.next(0, &mut wait).is_some());
            assert!(worker.next(1, &mut wait).is_some());
            wait.until = minute;
            assert!(worker.next(2, &mut wait).is_none());
            assert!(!wait.has_small && !wait.is_over);
            wait.until = Some(Instant::now());
            assert!(worker.next(1, &mut wait).is_none());
            assert_eq!(wait.is_over, hash::gains_by_company());
        }
    }

    /// A worker that ends without having looked at its line says so to who waits.
    #[tokio::test]
    async fn who_waits_hears_that_nobody_comes() {
        let verifier = Verifier::new(1);
        let answer = join(&verifier, 1);
        drop(Worker {
            shared: verifier.shared.clone(),
            is_counted: true,
        });
        assert!(answer.await.is_err());
        assert_eq!(verifier.shared.lock().workers, 0);
    }
}
