//! Tells the DHT which blocks are here.
//!
//! New blocks are collected for a moment and announced together. Everything is announced again once
//! in each [`PERIOD`], well before the records end: in the order of the keyspace, a
//! part at a time, so that the lookups follow the size of the mesh and not the number of blocks
//! (`lap` says when which part). Where that is survives a restart. After a change of this node's
//! addresses everything is announced anew, as records carry them: what people start from first.
//! Blocks that nobody could be told of are announced again, with pauses that grow.
//!
//! - `lap`: which part of the keyspace is next. `policy`: which blocks are announced at all.

mod lap;
mod policy;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libp2p::Multiaddr;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::lap::{Lap, SEGMENTS};
pub(super) use self::policy::Choice;
use self::policy::own_roots;
use super::like::{MEETING_BITS, PREFIXES, id_with, meeting_id, prefix_of};
use crate::crypto::hash;
use crate::depot::{Depot, Pending, PendingBlocks};
use crate::id::BlockId;
use crate::store::{self, Place, RecordTable};
use crate::task::WorkerState;
use crate::text::count;
use crate::time::{Clock, Timestamp};

pub use self::lap::{PERIOD, Progress};
pub use self::policy::Policy;

/// How long new blocks are collected before they are announced together, at first and at most: it
/// grows while very many come.
const COLLECT: Duration = Duration::from_millis(500);
const LONGEST_COLLECT: Duration = Duration::from_secs(16);
/// Blocks of one round that are very many.
const MANY_NEW: usize = 256;
/// How long to wait for a first peer before looking again.
const LONELY: Duration = Duration::from_secs(2);
/// Longest pause between two looks at the clock, which goes on while the machine sleeps.
const LOOK: Duration = Duration::from_secs(60);
/// Pause between a change of addresses and announcing them: others may follow.
const SETTLE: Duration = Duration::from_secs(1);
/// First and longest pause before what could be told to nobody is announced again.
pub(super) const FIRST_RETRY: Duration = Duration::from_secs(10);
pub(super) const LONGEST_RETRY: Duration = Duration::from_secs(30 * 60);
/// Keys in one sweep, which bounds its memory to a few MiB.
const MAX_SWEEP: usize = 10_000;
/// Blocks with a prefix that are looked at until one is found that is announced.
const MAX_LOOKED_AT: usize = 64;
/// Key of the lap on the shelf.
const LAP_KEY: &[u8] = b"lap";

/// Parts that the job is made of.
pub struct Setup {
    /// Where blocks are.
    pub depot: Depot,
    /// Policy that says which of them are announced.
    pub policy: Policy,
    /// Names of the pins of backups.
    pub backups: &'static [&'static str],
    /// Time that is remembered across restarts.
    pub clock: Arc<dyn Clock>,
    /// Filled with how far it is.
    pub report: Arc<Report>,
}

/// Progress of announcing, for callers that ask.
#[derive(Debug, Default)]
pub struct Report(Mutex<Told>);

/// Work that announcing has done.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// The laps; none when nothing is announced, or not yet.
    lap: Option<Lap>,
    /// Lookups since the start.
    pub lookups: u64,
    /// Keys announced since the start; one that was announced twice counts twice.
    pub keys: u64,
}

impl Told {
    /// How far, and how late; none when nothing is announced.
    pub fn progress(&self, now: Timestamp) -> Option<Progress> {
        Some(self.lap.as_ref()?.progress(now))
    }
}

impl Report {
    /// Work done until now.
    pub fn get(&self) -> Told {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        // Each change is whole before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs until cancelled.
pub async fn run(setup: Setup, cancel: CancellationToken, state: Arc<WorkerState>) {
    if setup.policy.is_off() {
        state.set("off: announcing is switched off in the settings");
        cancel.cancelled().await;
        return;
    }
    let mut moves = Moves::new(setup.depot.net().watch_addresses());
    let mut announcer = Announcer::start(&setup, &state).await;
    let work = async {
        loop {
            announcer.wait(&mut moves).await;
            while setup.depot.net().peers().connected().is_empty() {
                state.set("waiting for a first peer");
                tokio::time::sleep(LONELY).await;
            }
            announcer.round().await;
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = work => {}
    }
}

/// The job at work.
struct Announcer<'a> {
    setup: &'a Setup,
    state: &'a WorkerState,
    lap: Lap,
    retry: Retry,
    /// Pause before new blocks are announced, while they come.
    collect: Duration,
    /// When the next step may be tried after one that reached nobody.
    not_before: Option<Instant>,
    failures: u32,
    /// Prefixes of ids whose keys to meet at were announced since everything was announced anew.
    met: HashSet<u16>,
}

impl<'a> Announcer<'a> {
    async fn start(setup: &'a Setup, state: &'a WorkerState) -> Self {
        let addresses = hash_of(&setup.depot.net().listen_addresses());
        let store = setup.depot.store().clone();
        let kept = blocking(move || store.records().get(RecordTable::Laps, LAP_KEY)).await;
        let kept = kept.and_then(|kept| Lap::read(&kept?, &addresses));
        let mut announcer = Self {
            setup,
            state,
            lap: Lap::new(addresses.clone(), setup.clock.now()),
            retry: Retry::default(),
            collect: COLLECT,
            not_before: None,
            failures: 0,
            met: HashSet::new(),
        };
        match kept {
            Some(kept) => announcer.lap = kept,
            None => announcer.start_over(addresses).await,
        }
        announcer.keep().await;
        announcer
    }

    /// Waits until there is something to do.
    async fn wait(&mut self, moves: &mut Moves) {
        let depot = &self.setup.depot;
        let now = self.setup.clock.now();
        let pause = self.lap.next(now).since(now).min(LOOK);
        let step = (Instant::now() + pause).max(self.not_before.unwrap_or_else(Instant::now));
        let moved = tokio::select! {
            () = depot.fresh().changed() => {
                tokio::time::sleep(self.collect).await;
                false
            }
            () = tokio::time::sleep_until(step) => false,
            () = moves.moved() => true,
            () = self.retry.due() => {
                match self.retry.missed.take() {
                    Some(PendingBlocks::Ids(ids)) => depot.fresh().add(ids),
                    Some(PendingBlocks::Everything) => depot.fresh().add_everything(),
                    None => {}
                }
                false
            }
        };
        let addresses = hash_of(&depot.net().listen_addresses());
        if moved && addresses != self.lap.addresses() {
            self.start_over(addresses).await;
        }
    }

    /// Everything is to be announced, what people start from first.
    async fn start_over(&mut self, addresses: Vec<u8>) {
        self.lap.start_over(addresses, self.setup.clock.now());
        self.met.clear();
        let store = self.setup.depot.store().clone();
        let roots = blocking(move || own_roots(store.as_ref())).await;
        self.setup.depot.fresh().add(roots.unwrap_or_default());
    }

    /// Announces what is new, then a part of the keyspace if that is due.
    async fn round(&mut self) {
        match self.setup.depot.fresh().take() {
            Some(PendingBlocks::Ids(ids)) => {
                // While very many come, fewer and larger rounds need fewer lookups.
                self.collect = match ids.len() {
                    MANY_NEW.. => (2 * self.collect).min(LONGEST_COLLECT),
                    _ => COLLECT,
                };
                let unreached = self.announce_new(ids).await;
                self.retry.ended(unreached);
            }
            // So many that they are as good as all: in the order of their places.
            Some(PendingBlocks::Everything) => {
                let addresses = self.lap.addresses().to_vec();
                self.lap.start_over(addresses, self.setup.clock.now());
            }
            None => {}
        }
        let now = self.setup.clock.now();
        let may = self.not_before.is_none_or(|at| at <= Instant::now());
        if may && self.lap.next(now) <= now {
            self.step(now).await;
        }
        self.keep().await;
    }

    fn policy(&self) -> Policy {
        if self.setup.depot.is_leaving() {
            return self.setup.policy.of_leaving();
        }
        self.setup.policy
    }

    /// Those of some blocks that are announced, in the order of their places.
    async fn chosen(&self, ids: Vec<BlockId>) -> Option<Vec<BlockId>> {
        let (store, policy) = (self.setup.depot.store().clone(), self.policy());
        let backups = self.setup.backups;
        let choose = move || -> Result<_, store::Error> {
            let mut choice = Choice::new(store.as_ref(), policy, backups)?;
            let mut chosen = Vec::new();
            for id in ids {
                if choice.takes(id)? {
                    chosen.push(id);
                }
            }
            chosen.sort_by_cached_key(Place::of);
            Ok(chosen)
        };
        blocking(choose).await
    }

    /// Announces new blocks. Gives back how many could be told to nobody.
    async fn announce_new(&mut self, ids: Vec<BlockId>) -> usize {
        let Some(chosen) = self.chosen(ids).await else {
            return 0;
        };
        let mut reach = Reach::default();
        // Parts of blocks that are near each other need few lookups.
        for part in chosen.chunks(MAX_SWEEP) {
            let one = self.sweep(part).await;
            if one.unreached > 0 {
                self.retry.missed.add(part.iter().copied());
            }
            reach.add(one);
        }
        let done = format!(
            "announced {} to {}",
            count(chosen.len() as u64, "block"),
            count(reach.peers as u64, "peer")
        );
        // Those who look for what is like these are told where.
        let prefixes = chosen.iter().map(prefix_of);
        let new: Vec<u16> = prefixes.filter(|one| self.met.insert(*one)).collect();
        if !new.is_empty() {
            let keys = new.into_iter().map(|one| meeting_id(one).to_multihash());
            self.sweep_keys(keys.collect()).await;
        }
        match (chosen.len(), reach.unreached) {
            (0, _) => {}
            (_, 0) => self.state.set(done),
            (_, unreached) => self
                .state
                .set(format!("{done}; {unreached} of them are tried again")),
        }
        reach.unreached
    }

    /// Announces the part of the keyspace that has waited longest.
    async fn step(&mut self, now: Timestamp) {
        let store = self.setup.depot.store().clone();
        if blocking(move || store.has_all_places()).await != Some(true) {
            self.state
                .set("waiting for the store to learn the order of its blocks");
            self.not_before = Some(Instant::now() + LOOK);
            return;
        }
        let step = self.lap.step(now, self.most().await);
        let mut cursor = Cursor::at(step);
        let mut reach = Reach::default();
        while let Some(page) = self.page(&mut cursor).await {
            let Some(chosen) = self.chosen(page).await else {
                break;
            };
            if !chosen.is_empty() {
                let one = self.sweep(&chosen).await;
                if one.unreached > 0 && one.peers > 0 {
                    self.retry.missed.add(chosen);
                }
                reach.add(one);
            }
        }
        let meeting = self.meeting(cursor.segments.clone()).await;
        if !meeting.is_empty() {
            let one = self.sweep_keys(meeting).await;
            reach.add(one);
        }
        if reach.peers == 0 && reach.unreached > 0 {
            // Nobody could be told at all: the same part again, later.
            self.not_before = Some(Instant::now() + pause_after(self.failures));
            self.failures = self.failures.saturating_add(1);
            return;
        }
        self.failures = 0;
        self.not_before = None;
        self.retry.ended(reach.unreached);
        self.lap.done(cursor.segments, now);
        let progress = self.lap.progress(now);
        self.state.set(match progress.waiting {
            0 => format!(
                "{} of {} parts of what is here were announced in time",
                progress.on_time, progress.parts
            ),
            waiting => format!(
                "{waiting} of {} parts of what is here wait to be announced",
                progress.parts
            ),
        });
    }

    /// Segments of one step at most: about those that one lookup covers, so that a small mesh is
    /// asked seldom.
    async fn most(&self) -> usize {
        let depth = self.setup.depot.net().providers().region_bits().await;
        SEGMENTS.checked_shr(depth).unwrap_or(1).max(1)
    }

    /// The next blocks of a step.
    async fn page(&self, cursor: &mut Cursor) -> Option<Vec<BlockId>> {
        let after = cursor.next()?;
        let store = self.setup.depot.store().clone();
        let page = blocking(move || store.places(after, MAX_SWEEP)).await?;
        Some(cursor.take(page))
    }

    async fn sweep(&self, ids: &[BlockId]) -> Reach {
        let state = self.state;
        state.set(format!("announcing {}", count(ids.len() as u64, "block")));
        self.sweep_keys(ids.iter().map(BlockId::to_multihash).collect())
            .await
    }

    async fn sweep_keys(&self, keys: Vec<Vec<u8>>) -> Reach {
        let (state, all) = (self.state, keys.len());
        match self.setup.depot.net().providers().announce(keys).await {
            Ok(report) => {
                tracing::debug!(keys = all, peers = report.peers_reached, "announced");
                let mut told = self.setup.report.lock();
                told.lookups += report.lookups as u64;
                told.keys += report.keys as u64;
                Reach {
                    peers: report.peers_reached,
                    unreached: report.keys_unreached,
                }
            }
            Err(error) => {
                state.fail(error.to_string());
                Reach {
                    peers: 0,
                    unreached: all,
                }
            }
        }
    }

    /// Keys in some segments at which those meet that have announced blocks with a prefix.
    async fn meeting(&self, segments: std::ops::Range<usize>) -> Vec<Vec<u8>> {
        let (store, policy) = (self.setup.depot.store().clone(), self.policy());
        let backups = self.setup.backups;
        let find = move || -> Result<_, store::Error> {
            let mut choice = Choice::new(store.as_ref(), policy, backups)?;
            let mut keys = Vec::new();
            let is_small = store.usage().blocks < MAX_SWEEP as u64;
            let mut prefixes = HashSet::new();
            if is_small {
                // To go through all blocks takes less than to look below each prefix.
                for (block, _) in store.list(None, MAX_SWEEP)? {
                    if choice.takes(block)? {
                        prefixes.insert(prefix_of(&block));
                    }
                }
            }
            for prefix in 0..PREFIXES {
                if is_small && !prefixes.contains(&prefix) {
                    continue;
                }
                let id = meeting_id(prefix);
                if !segments.contains(&lap::segment_of(&Place::of(&id))) {
                    continue;
                }
                if is_small || has_announced(store.as_ref(), &mut choice, prefix)? {
                    keys.push(id.to_multihash());
                }
            }
            Ok(keys)
        };
        blocking(find).await.unwrap_or_default()
    }

    /// Keeps where it is, for the next start and for who asks.
    async fn keep(&self) {
        self.setup.report.lock().lap = Some(self.lap.clone());
        let (store, bytes) = (self.setup.depot.store().clone(), self.lap.write());
        let put = move || store.records().put(RecordTable::Laps, LAP_KEY, &bytes);
        // A lap that is lost costs announcing again.
        let _ = blocking(put).await;
    }
}

/// Where a step is in the order of the blocks.
struct Cursor {
    segments: std::ops::Range<usize>,
    after: Option<Place>,
    is_done: bool,
}

impl Cursor {
    fn at(segments: std::ops::Range<usize>) -> Self {
        Self {
            after: lap::before(segments.start),
            segments,
            is_done: false,
        }
    }

    /// The place behind which the next page begins; none at the end of the step.
    fn next(&self) -> Option<Option<Place>> {
        (!self.is_done).then_some(self.after)
    }

    /// Takes what was found there, which is all there is unless it is [`MAX_SWEEP`] blocks. A step
    /// ends with a full page, but never within a segment.
    fn take(&mut self, mut page: Vec<(Place, BlockId)>) -> Vec<BlockId> {
        let segment = |(place, _): &(Place, BlockId)| lap::segment_of(place);
        let is_full = page.len() >= MAX_SWEEP;
        let end = self.segments.end;
        page.retain(|one| segment(one) < end);
        match page
            .last()
            .copied()
            .filter(|_| is_full && page.len() >= MAX_SWEEP)
        {
            None => self.is_done = true,
            Some(last) if segment(&last) > self.segments.start => {
                self.segments.end = segment(&last);
                self.is_done = true;
                page.retain(|one| segment(one) < segment(&last));
            }
            Some((last, _)) => self.after = Some(last),
        }
        page.into_iter().map(|(_, id)| id).collect()
    }
}

/// Blocks to announce again because nobody could be told of them, and when.
#[derive(Debug, Default)]
struct Retry {
    missed: Pending,
    attempts: u32,
    at: Option<Instant>,
}

impl Retry {
    /// A round has ended, in which nobody could be told of so many blocks.
    fn ended(&mut self, unreached: usize) {
        if unreached > 0 {
            self.at = Some(Instant::now() + pause_after(self.attempts));
            self.attempts = self.attempts.saturating_add(1);
        } else if self.at.is_none() {
            self.attempts = 0;
        }
    }

    /// Resolves when it is time; never when nothing was missed.
    async fn due(&mut self) {
        match self.at {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
        self.at = None;
    }
}

/// Pause after so many attempts in a row before one that failed.
pub(super) fn pause_after(attempts: u32) -> Duration {
    let pause = FIRST_RETRY.saturating_mul(1 << attempts.min(16));
    pause.min(LONGEST_RETRY)
}

/// Notices that this node's addresses have changed.
pub(super) struct Moves {
    listening: watch::Receiver<Vec<Multiaddr>>,
    known: HashSet<Multiaddr>,
}

impl Moves {
    pub(super) fn new(listening: watch::Receiver<Vec<Multiaddr>>) -> Self {
        let known = listening.borrow().iter().cloned().collect();
        Self { listening, known }
    }

    /// Resolves when there are addresses that were not there before, and no others have come for a
    /// moment.
    ///
    /// # Cancel safety
    /// A change is not lost: the next call tells of it.
    pub(super) async fn moved(&mut self) {
        loop {
            if self.listening.changed().await.is_err() {
                return std::future::pending().await;
            }
            self.listening.mark_changed();
            tokio::time::sleep(SETTLE).await;
            let now: HashSet<_> = self.listening.borrow_and_update().iter().cloned().collect();
            let has_new = !now.is_subset(&self.known);
            // An address that comes back later is new again.
            self.known = now;
            if has_new {
                return;
            }
        }
    }
}

/// Peers that were told in several sweeps.
#[derive(Debug, Default)]
struct Reach {
    peers: usize,
    /// Blocks that nobody was told of.
    unreached: usize,
}

impl Reach {
    fn add(&mut self, one: Self) {
        self.peers = self.peers.max(one.peers);
        self.unreached += one.unreached;
    }
}

/// Whether one of the first blocks with a prefix is announced.
fn has_announced(
    store: &dyn store::Store,
    choice: &mut Choice<'_>,
    prefix: u16,
) -> Result<bool, store::Error> {
    for (block, _) in store.like(id_with(prefix), MEETING_BITS, MAX_LOOKED_AT)? {
        if choice.takes(block)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Hash that tells whether a node's addresses are the same as before.
fn hash_of(addresses: &[Multiaddr]) -> Vec<u8> {
    let mut texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    texts.sort();
    hash::sha256(&[texts.join(" ").as_bytes()]).to_vec()
}

/// Answer of the store; none when it fails, or the node stops.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, store::Error> + Send + 'static,
) -> Option<T> {
    match tokio::task::spawn_blocking(work).await.ok()? {
        Ok(done) => Some(done),
        Err(error) => {
            tracing::warn!(%error, "the store failed while blocks were announced");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> Multiaddr {
        format!("/ip4/10.0.0.{n}/tcp/1")
            .parse()
            .expect("an address")
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_address_is_a_reason_to_announce_and_a_lost_one_is_not() {
        let (listening, watched) = watch::channel(vec![address(1)]);
        let mut moves = Moves::new(watched);
        let is_quiet = async |moves: &mut Moves| {
            let moved = tokio::time::timeout(2 * SETTLE, moves.moved());
            moved.await.is_err()
        };
        assert!(is_quiet(&mut moves).await);
        listening.send_modify(|addresses| addresses.push(address(2)));
        assert!(!is_quiet(&mut moves).await);
        listening.send_modify(|addresses| addresses.truncate(1));
        assert!(is_quiet(&mut moves).await);
        // It comes back, and the wait for it is dropped in between.
        listening.send_modify(|addresses| addresses.push(address(2)));
        let dropped = tokio::time::timeout(SETTLE / 2, moves.moved()).await;
        assert!(dropped.is_err());
        assert!(!is_quiet(&mut moves).await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_was_told_is_tried_again_with_growing_pauses() {
        let mut retry = Retry::default();
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let start = Instant::now();
            retry.ended(1);
            // Others that could be announced are no reason to forget those that could not.
            retry.ended(0);
            retry.due().await;
            pauses.push(start.elapsed());
        }
        assert!(pauses.is_sorted());
        assert!(pauses[0] >= FIRST_RETRY && pauses[11] >= LONGEST_RETRY);
        retry.ended(0);
        let due = tokio::time::timeout(2 * LONGEST_RETRY, retry.due()).await;
        assert!(due.is_err());
        let start = Instant::now();
        retry.ended(1);
        retry.due().await;
        assert!(start.elapsed() < 2 * FIRST_RETRY);
    }

    #[test]
    fn the_same_addresses_in_another_order_are_the_same() {
        assert_eq!(
            hash_of(&[address(1), address(2)]),
            hash_of(&[address(2), address(1)])
        );
        assert_ne!(hash_of(&[address(1)]), hash_of(&[address(2)]));
    }

    /// So many blocks in each of some segments, from segment 0 on, in order.
    fn blocks(counts: &[usize]) -> Vec<(Place, BlockId)> {
        let mut all = Vec::new();
        for (segment, count) in counts.iter().enumerate() {
            for n in 0..*count {
                let mut place = [0; 32];
                place[..2].copy_from_slice(&((segment as u16) << 6).to_be_bytes());
                place[2..10].copy_from_slice(&(n as u64).to_be_bytes());
                let mut digest = [0; 48];
                digest[..10].copy_from_slice(&place[..10]);
                all.push((Place(place), BlockId::from_sha384(digest)));
            }
        }
        all
    }

    /// Steps of `most` segments over all blocks; each with its segments and blocks.
    fn steps(all: &[(Place, BlockId)], most: usize, segments: usize) -> Vec<(usize, usize)> {
        let mut steps = Vec::new();
        let mut start = 0;
        while start < segments {
            let mut cursor = Cursor::at(start..(start + most).min(segments));
            let mut taken = 0;
            while let Some(after) = cursor.next() {
                let rest = all.iter().filter(|(place, _)| Some(*place) > after);
                let page: Vec<_> = rest.take(MAX_SWEEP).copied().collect();
                let ids = cursor.take(page);
                let expected = all.iter().filter(|(place, _)| Some(*place) > after);
                let expected = expected.take(ids.len()).map(|(_, id)| *id);
                assert_eq!(ids, expected.collect::<Vec<_>>(), "none is left out");
                taken += ids.len();
            }
            steps.push((cursor.segments.len(), taken));
            assert!(cursor.segments.end > start, "it goes on");
            start = cursor.segments.end;
        }
        steps
    }

    #[test]
    fn steps_end_between_segments_and_leave_no_block_out() {
        let few = blocks(&[3, 0, 5]);
        assert_eq!(steps(&few, 3, 3), [(3, 8)]);
        assert_eq!(steps(&few, 1, 3), [(1, 3), (1, 0), (1, 5)]);
        let many = blocks(&[MAX_SWEEP / 2, MAX_SWEEP / 4, MAX_SWEEP / 2, 7]);
        let found = steps(&many, 4, 4);
        assert_eq!(found[0], (2, MAX_SWEEP / 4 * 3));
        assert_eq!(found[1], (2, MAX_SWEEP / 2 + 7));
        // A segment that is larger than a page is one step.
        let large = blocks(&[2 * MAX_SWEEP + 5, MAX_SWEEP, 1]);
        assert_eq!(steps(&large, 4, 3)[0], (1, 2 * MAX_SWEEP + 5));
        assert_eq!(steps(&[], 1024, 1024), [(1024, 0)]);
    }
}
