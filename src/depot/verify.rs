//! Checks what peers sent, off the tasks that serve others, several blocks at a time.
//!
//! Whoever has bytes to check puts them in a line, and a worker goes through it with several blocks side by side: when blocks come faster
//! than they can be checked one by one they are checked at several times that rate. A block that comes alone while others are on their way
//! waits for them a moment; a small one, and one that comes when no other is expected, waits for nobody. A second worker starts only when there is enough in the line to
//! fill it: two half-empty ones take twice the time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::block::{Block, VerifyError};
use crate::crypto::hash::HASHES_AT_ONCE;
use crate::id::BlockId;

/// How long a block waits for company: about as long as it takes to check it alone.
const LINGER: Duration = Duration::from_millis(3);

/// The same when enough others are on their way to fill the line: then the work that is spared counts for more than when it is done.
const LONG_LINGER: Duration = Duration::from_millis(20);

/// Up to this size a block is checked sooner than company would come.
const ALONE_BYTES: usize = 64 << 10;

type Checked = Result<Block, VerifyError>;

/// The line and its workers.
pub(super) struct Verifier {
    shared: Arc<Mutex<Line>>,
    max_workers: usize,
}

#[derive(Default)]
struct Line {
    waiting: VecDeque<Waiting>,
    workers: usize,
    /// Blocks that are on their way.
    expected: usize,
}

/// A block that is on its way, or is known not to be.
pub(super) struct Expected(Arc<Mutex<Line>>);

impl Drop for Expected {
    fn drop(&mut self) {
        lock(&self.0).expected -= 1;
    }
}

/// When a block in the line is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// A worker is at it.
    Soon,
    /// One more worker is wanted, and counted already.
    Now,
    /// Others are expected, and there is no worker. They are waited for so long.
    Later(Duration),
}

struct Waiting {
    id: BlockId,
    bytes: Bytes,
    reply: oneshot::Sender<Checked>,
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
        lock(&self.shared).expected += 1;
        Expected(self.shared.clone())
    }

    /// Whether `bytes` are the block `id`. `None`: the program is stopping. The line is as long as there are callers.
    ///
    /// # Cancel safety
    /// When dropped the block may still be checked, for nobody.
    pub(super) async fn verify(&self, id: BlockId, bytes: Bytes) -> Option<Checked> {
        let (reply, mut answer) = oneshot::channel();
        match self.join(Waiting { id, bytes, reply }) {
            Turn::Soon => {}
            Turn::Now => self.start(),
            Turn::Later(linger) => {
                tokio::select! {
                    biased;
                    checked = &mut answer => return checked.ok(),
                    () = tokio::time::sleep(linger) => {}
                }
                if self.is_left_alone() {
                    self.start();
                }
            }
        }
        answer.await.ok()
    }

    /// Puts something in the line.
    fn join(&self, one: Waiting) -> Turn {
        let mut line = lock(&self.shared);
        let is_small = one.bytes.len() <= ALONE_BYTES;
        line.waiting.push_back(one);
        let is_full = line.waiting.len() >= HASHES_AT_ONCE;
        let waits_for_nobody = line.expected == 0 || is_small;
        if (line.workers == 0 && waits_for_nobody) || (line.workers < self.max_workers && is_full) {
            line.workers += 1;
            return Turn::Now;
        }
        match line.workers {
            0 if line.waiting.len() + line.expected >= HASHES_AT_ONCE => Turn::Later(LONG_LINGER),
            0 => Turn::Later(LINGER),
            _ => Turn::Soon,
        }
    }

    /// Whether something waits and nobody works. A worker is then wanted, and counted already.
    fn is_left_alone(&self) -> bool {
        let mut line = lock(&self.shared);
        let is_left_alone = line.workers == 0 && !line.waiting.is_empty();
        line.workers += usize::from(is_left_alone);
        is_left_alone
    }

    /// Starts a worker that is counted.
    fn start(&self) {
        let worker = Worker {
            shared: self.shared.clone(),
            is_counted: true,
        };
        tokio::task::spawn_blocking(move || worker.run());
    }
}

fn lock(line: &Mutex<Line>) -> MutexGuard<'_, Line> {
    // The line is whole between two statements.
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One that is counted as a worker, also when it is never run.
struct Worker {
    shared: Arc<Mutex<Line>>,
    is_counted: bool,
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.is_counted {
            let mut line = lock(&self.shared);
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
        loop {
            Block::verify_all(
                || self.next(),
                // Who asked may have gone.
                |checked, reply| drop(reply.send(checked)),
            );
            let mut line = lock(&self.shared);
            // Looked at under the same lock as whoever joins does: nobody is left in the line.
            if line.waiting.is_empty() {
                line.workers -= 1;
                drop(line);
                self.is_counted = false;
                return;
            }
        }
    }

    fn next(&self) -> Option<(BlockId, Bytes, oneshot::Sender<Checked>)> {
        let mut line = lock(&self.shared);
        loop {
            let next = line.waiting.pop_front()?;
            if !next.reply.is_closed() {
                return Some((next.id, next.bytes, next.reply));
            }
        }
    }
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
        assert!(lock(&verifier.shared).waiting.is_empty());
    }

    #[tokio::test]
    async fn who_gave_up_delays_nobody() {
        let verifier = Verifier::new(1);
        let block = Block::new(Bytes::from_static(b"x")).expect("small");
        let (reply, gone) = oneshot::channel();
        let (id, bytes) = (block.id(), block.bytes().clone());
        assert_eq!(verifier.join(Waiting { id, bytes, reply }), Turn::Now);
        drop(gone);
        let checked = verifier.verify(id, block.bytes().clone());
        let worker = Worker {
            shared: verifier.shared.clone(),
            is_counted: true,
        };
        let (checked, ()) = futures::join!(checked, async { worker.run() });
        assert_eq!(checked, Some(Ok(block)));
        assert_eq!(lock(&verifier.shared).workers, 0);
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
                verifier.join(Waiting { id, bytes, reply }) == Turn::Now
            })
            .count();
        assert_eq!(wanted, 2);
    }

    /// Alone, a block waits for those that are expected as long as it may; a small one and a full line wait for nobody.
    #[tokio::test]
    async fn what_is_expected_is_waited_for_a_moment() {
        let verifier = Verifier::new(2);
        let block = |byte: u8, size| Block::new(Bytes::from(vec![byte; size])).expect("allowed");
        let join = |block: Block| {
            let (reply, answer) = oneshot::channel();
            let (id, bytes) = (block.id(), block.into_bytes());
            (verifier.join(Waiting { id, bytes, reply }), answer)
        };
        let at_rest = || async {
            while lock(&verifier.shared).workers > 0 {
                tokio::task::yield_now().await;
            }
        };
        let expected = verifier.expect();
        let large = block(1, ALONE_BYTES + 1);
        // Without company it is checked all the same.
        let checked = verifier.verify(large.id(), large.bytes().clone()).await;
        assert_eq!(checked, Some(Ok(large)));
        at_rest().await;

        let turns = (0..HASHES_AT_ONCE as u8).map(|byte| join(block(byte, ALONE_BYTES + 1)));
        let (turns, answers): (Vec<_>, Vec<_>) = turns.unzip();
        let (last, others) = turns.split_last().expect("several");
        assert_eq!(*last, Turn::Now);
        assert!(
            others.iter().all(|turn| matches!(turn, Turn::Later(_))),
            "{others:?}"
        );
        verifier.start();
        for answer in answers {
            assert!(answer.await.expect("checked").is_ok());
        }
        at_rest().await;

        let (turn, answer) = join(block(9, ALONE_BYTES));
        assert_eq!(turn, Turn::Now);
        // Its worker ends without having looked at it.
        drop(Worker {
            shared: verifier.shared.clone(),
            is_counted: true,
        });
        assert!(answer.await.is_err());

        drop(expected);
        assert_eq!(lock(&verifier.shared).expected, 0);
        let (turn, _answer) = join(block(7, ALONE_BYTES + 1));
        assert_eq!(turn, Turn::Now);
    }
}
