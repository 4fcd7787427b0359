//! Checks what peers sent, off the tasks that serve others, several blocks at a time.
//!
//! Whoever has bytes to check puts them in a line, and a worker goes through it with several blocks side by side: when blocks come faster
//! than they can be checked one by one they are checked at two to three times that rate, and a block that comes alone waits for
//! nobody. A second worker starts only when there is enough in the line to fill it: two half-empty ones take twice the time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::block::{Block, VerifyError};
use crate::crypto::hash::HASHES_AT_ONCE;
use crate::id::BlockId;

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

    /// Puts something in the line. `true`: one more worker is wanted, and counted already.
    fn join(&self, one: Waiting) -> bool {
        let mut line = lock(&self.shared);
        line.waiting.push_back(one);
        let wanted = line.workers == 0
            || (line.workers < self.max_workers && line.waiting.len() >= HASHES_AT_ONCE);
        line.workers += usize::from(wanted);
        wanted
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
            lock(&self.shared).workers -= 1;
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
        assert!(verifier.join(Waiting { id, bytes, reply }));
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
                verifier.join(Waiting { id, bytes, reply })
            })
            .count();
        assert_eq!(wanted, 2);
    }
}
