//! The sealing end of a put: blocks to be sealed, where their names turn up, and how many may be under way.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::chunk::Cuts;
use super::queue::{Closed, Permit, Permits, Queue};
use crate::block::{self, Block, ChunkHash, Context, Link, MAX_PLAINTEXT_BYTES, Ref};
use crate::crypto::hash::HASHES_AT_ONCE;

/// Where the name of a block turns up once it is sealed; `None` when the work was stopped before.
#[derive(Default)]
pub(super) struct Slot(OnceLock<Option<Arc<Link>>>);

/// How the tree refers to a block that may not be sealed yet.
pub(super) type Handle = Arc<Slot>;

impl Slot {
    /// A block that was stored earlier.
    pub(super) fn known(link: Arc<Link>) -> Handle {
        Arc::new(Self(OnceLock::from(Some(link))))
    }

    pub(super) fn get(&self) -> Option<Arc<Link>> {
        self.0.get().cloned().flatten()
    }

    pub(super) fn is_settled(&self) -> bool {
        self.0.get().is_some()
    }

    /// Waits for the sealing thread.
    pub(super) fn wait(&self) -> Result<Arc<Link>, Closed> {
        self.0.wait().clone().ok_or(Closed)
    }

    fn settle(&self, link: Option<Arc<Link>>) {
        // Only the first counts: the job's own, or its drop without one.
        let _ = self.0.set(link);
    }
}

/// A chunk inside a block: its hash, where it starts, how long it is.
pub(super) type ChunkAt = (ChunkHash, u32, u32);

/// A block to be.
pub(super) struct SealJob {
    /// The plaintext in pieces, at most [`MAX_PLAINTEXT_BYTES`] in all.
    pub(super) parts: Vec<Vec<u8>>,
    pub(super) chunks: Vec<ChunkAt>,
    pub(super) slot: Handle,
    pub(super) permit: Permit,
}

/// A sealed block on its way to the sink. Its permit is given back when the sink has it.
pub(super) struct Outgoing {
    pub(super) block: Block,
    pub(super) index: Vec<(ChunkHash, Ref)>,
    pub(super) permit: Permit,
}

/// What the threads of one put share.
pub(super) struct Shared {
    pub(super) context: Context,
    pub(super) cuts: Cuts,
    pub(super) jobs: Queue<SealJob>,
    pub(super) permits: Arc<Permits>,
    /// Bytes of small files that may be in memory.
    pub(super) read_budget: Arc<Permits>,
    /// Threads that are sealing now.
    sealing: AtomicUsize,
    stopped: AtomicBool,
    /// Cancelled together with it, for who waits for something asynchronous.
    pub(super) halted: CancellationToken,
}

impl Shared {
    pub(super) fn new(context: Context, blocks: usize, read_bytes: usize) -> Self {
        Self {
            cuts: Cuts::of(&context),
            context,
            jobs: Queue::new(blocks),
            permits: Permits::new(blocks),
            read_budget: Permits::new(read_bytes),
            sealing: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            halted: CancellationToken::new(),
        }
    }

    /// Has every thread end soon. Those that wait are woken.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.halted.cancel();
        self.jobs.close();
        self.permits.close();
        self.read_budget.close();
    }

    pub(super) fn check(&self) -> Result<(), Closed> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(Closed);
        }
        Ok(())
    }
}

/// Stops the work when dropped: no thread outlives a failure of another.
pub(super) struct StopOnDrop(pub(super) Arc<Shared>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// A job that is dropped before it was done, because the work stops or the thread unwinds, says so.
impl Drop for SealJob {
    fn drop(&mut self) {
        self.slot.settle(None);
    }
}

/// Takes jobs until the queue is closed.
///
/// One thread that hashes several blocks side by side takes half the time of two that hash one each: while one is at work, another
/// begins only when there is enough for both.
pub(super) fn seal_jobs(shared: &Shared, out: &mpsc::Sender<Outgoing>) {
    let is_active = Cell::new(false);
    let set_active = |now: bool| {
        if is_active.replace(now) != now {
            match now {
                true => shared.sealing.fetch_add(1, Ordering::Relaxed),
                false => shared.sealing.fetch_sub(1, Ordering::Relaxed),
            };
            shared.jobs.wake();
        }
    };
    block::seal_all(
        &shared.context,
        |busy| {
            let mut job = if busy > 0 {
                shared.jobs.try_pop()?
            } else {
                set_active(false);
                let job = shared.jobs.pop_when(|waiting| {
                    waiting >= HASHES_AT_ONCE || shared.sealing.load(Ordering::Relaxed) == 0
                })?;
                set_active(true);
                job
            };
            let plaintext = join(std::mem::take(&mut job.parts));
            Some((plaintext, job))
        },
        |sealed, mut job| {
            let index = job
                .chunks
                .iter()
                .map(|(hash, offset, len)| (*hash, sealed.range(*offset, *len)))
                .collect();
            job.slot.settle(Some(Arc::new(Link {
                id: sealed.block.id(),
                key: sealed.key,
            })));
            let outgoing = Outgoing {
                block: sealed.block,
                index,
                permit: job.permit.take(),
            };
            if out.blocking_send(outgoing).is_err() {
                shared.stop();
            }
        },
    )
    .expect("whoever submits a block keeps it below the limit");
}

fn join(mut parts: Vec<Vec<u8>>) -> Vec<u8> {
    if parts.len() == 1 {
        return parts.pop().unwrap_or_default();
    }
    let len = parts.iter().map(Vec::len).sum();
    debug_assert!(len <= MAX_PLAINTEXT_BYTES);
    let mut plaintext = Vec::with_capacity(len);
    for part in parts {
        plaintext.extend_from_slice(&part);
    }
    plaintext
}
