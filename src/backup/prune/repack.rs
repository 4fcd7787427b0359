//! Repacking: packs of which little is used go, and what is used of them travels on in new ones.
//!
//! ```text
//! tally what kept trees use -> packs to leave -> each snapshot that uses one is written anew and pinned -> one change of the log
//! ```
//!
//! In that change the log forgets the old snapshots and names the new ones, which are equal but for where their tree is; the old ones' pins
//! and with them the packs then go as those of all forgotten snapshots do. Cut off before it, the new pins are twins of snapshots that
//! the log names: the next prune removes them. Cut off after it, the next prune goes on.
//!
//! Invariants: no snapshot is forgotten here unless one that reads the same is pinned durably and named in the same step. Only snapshots
//! of this machine are written anew, and only packs that nothing else keeps are left. Memory is bounded: [`MAX_CHUNKS`].

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::PAGE;
use super::pins::{SnapshotPin, Sorted, local_snapshot, snapshot_pins};
use crate::backup::archive::{Archive, Found, blocking};
use crate::backup::error::Error;
use crate::backup::log::{Log, Logged};
use crate::backup::owner::Membership;
use crate::backup::run::OpenPin;
use crate::backup::snapshot::{Snapshot, Summary};
use crate::block::{self, ChunkHash, ChunkIndex, IndexError, Link, MAX_PLAINTEXT_BYTES, Ref};
use crate::bundle::{Bundle, Seen, Use, packed, rewrite};
use crate::depot::Index;
use crate::id::BlockId;
use crate::monitor::{Monitor, Silent};
use crate::store::{Keep, PinId, Store};

/// Most distinct chunks in packs that are tallied; some 60 MiB. With more there is no repacking.
const MAX_CHUNKS: usize = 4_000_000;
/// How long to look for a block of a kept snapshot: it should be here.
const PATIENCE: Duration = Duration::from_secs(2);

/// Takes those out of the orphans that a repacking left which was cut off: they are equal to a snapshot of this machine that its log
/// names, or that was forgotten meanwhile.
pub(super) async fn take_twins(
    archive: &Archive,
    member: &Membership,
    found: &Found,
    sorted: &mut Sorted,
) -> Result<Vec<SnapshotPin>, Error> {
    let machine = *member.machine().id().as_bytes();
    let owner = *member.owner().as_bytes();
    let own: Vec<&Log> = found.logs.iter().filter(|l| l.machine == machine).collect();
    if sorted.orphans.is_empty() || own.is_empty() {
        return Ok(Vec::new());
    }
    let named = own.iter().flat_map(|log| log.snapshots());
    let mut summaries: Vec<Summary> = named.map(|logged| logged.summary.clone()).collect();
    let store = archive.depot().store().clone();
    let forgotten: Vec<Link> = sorted.forgotten.iter().map(|p| p.link.clone()).collect();
    let orphans = std::mem::take(&mut sorted.orphans);
    let (twins, orphans) = blocking(move || {
        let ours = |link: &Link| -> Result<Option<Snapshot>, Error> {
            let snapshot = local_snapshot(store.as_ref(), link)?;
            Ok(snapshot.filter(|s| s.machine == machine && s.owner == owner))
        };
        for link in &forgotten {
            summaries.extend(ours(link)?.map(|snapshot| snapshot.summary));
        }
        let (mut twins, mut rest) = (Vec::new(), Vec::new());
        for orphan in orphans {
            let is_twin = ours(&orphan.link)?.is_some_and(|s| summaries.contains(&s.summary));
            match is_twin {
                true => twins.push(orphan),
                false => rest.push(orphan),
            }
        }
        Ok((twins, rest))
    })
    .await?;
    sorted.orphans = orphans;
    Ok(twins)
}

/// Is told of each snapshot that was written anew, by the ids of the old and of the new one, before the old one is forgotten. May block on
/// the disk. What it fails for stays as it was; that repacking is cut off after it was told is possible, and then the old one stays.
#[derive(Clone)]
pub struct Replacing(Arc<Told>);

type Told = dyn Fn(BlockId, BlockId) -> Result<(), String> + Send + Sync;

impl Replacing {
    /// Calls this.
    pub fn new(
        told: impl Fn(BlockId, BlockId) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(told))
    }
}

impl std::fmt::Debug for Replacing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Replacing(..)")
    }
}

/// One repacking.
pub(super) struct Repack<'a> {
    pub(super) archive: &'a Archive,
    pub(super) member: &'a Membership,
    pub(super) monitor: &'a dyn Monitor,
    pub(super) below_percent: u8,
    pub(super) replacing: Option<Replacing>,
}

/// A snapshot of this machine that its log names and that is pinned here.
struct Kept {
    pins: Vec<PinId>,
    logged: Logged,
    snapshot: Snapshot,
}

/// A snapshot that uses packs which are to be left.
struct Affected {
    kept: Kept,
    packs: Vec<BlockId>,
}

struct Plan {
    packs: Arc<HashSet<BlockId>>,
    affected: Vec<Affected>,
}

impl Repack<'_> {
    fn store(&self) -> &Arc<dyn Store> {
        self.archive.depot().store()
    }

    /// How many packs would be written anew, once the pins `leaving` are gone.
    pub(super) async fn count(&self, found: &Found, leaving: &[PinId]) -> Result<u64, Error> {
        Ok(self.plan(found, leaving).await?.packs.len() as u64)
    }

    /// Writes anew what is to be. Returns how many packs are no longer needed for it. The old snapshots are forgotten, and their pins are still
    /// there.
    pub(super) async fn run(&self, found: &Found) -> Result<u64, Error> {
        let plan = self.plan(found, &[]).await?;
        let mut replaced = Vec::new();
        for Affected { kept, packs } in plan.affected {
            match self.write_anew(&kept, &plan.packs).await {
                Ok(Some(link)) => {
                    if self.tell(kept.logged.snapshot.id, link.id).await? {
                        replaced.push((kept, link, packs));
                    }
                }
                Ok(None) => {}
                // What can't be read stays as it is, for a check to find.
                Err(error @ Error::Bundle(_)) if is_of_one_snapshot(&error) => {
                    let id = kept.logged.snapshot.id;
                    self.warn(&format!("the snapshot {id} is not repacked: {error}"));
                }
                Err(error) => return Err(error),
            }
        }
        if replaced.is_empty() {
            return Ok(0);
        }
        let store = self.store().clone();
        let changed = self.archive.change_log(self.member, |log| {
            let mut packs = HashSet::new();
            for (kept, link, left) in replaced {
                let old = kept.logged.snapshot.id;
                let is_pinned = store.stat(link.id)?.is_some_and(|stat| stat.pins > 0);
                // It may have been forgotten meanwhile.
                if is_pinned && log.has(&old) && !log.forgets(&link.id) {
                    let new = Logged {
                        snapshot: link,
                        summary: kept.logged.summary,
                        // It takes the old one's place, also of one that has no number.
                        sequence: kept.logged.sequence.max(1),
                    };
                    log.replace(old, new)?;
                    packs.extend(left);
                }
            }
            Ok(packs.len() as u64)
        });
        match changed.await {
            Err(Error::LogFull) => {
                self.warn("nothing is repacked: the log of this machine is full");
                Ok(0)
            }
            changed => changed,
        }
    }

    /// Whether the old one may be forgotten.
    async fn tell(&self, old: BlockId, new: BlockId) -> Result<bool, Error> {
        let Some(Replacing(told)) = self.replacing.clone() else {
            return Ok(true);
        };
        let done = blocking(move || Ok(told(old, new))).await?;
        if let Err(error) = &done {
            self.warn(&format!("the snapshot {old} is not repacked: {error}"));
        }
        Ok(done.is_ok())
    }

    fn warn(&self, text: &str) {
        self.monitor.warning(text);
    }

    async fn plan(&self, found: &Found, leaving: &[PinId]) -> Result<Plan, Error> {
        let mut plan = Plan {
            packs: Arc::default(),
            affected: Vec::new(),
        };
        let kept = self.kept(found).await?;
        let Some((tally, kept)) = self.tally(kept).await? else {
            self.warn("nothing is repacked: there are too many small files");
            return Ok(plan);
        };
        let (store, below, leaving) = (
            self.store().clone(),
            u64::from(self.below_percent),
            leaving.to_vec(),
        );
        let (packs, affected) = blocking(move || {
            let candidates = tally.candidates(&*store, below)?;
            choose(&*store, candidates, kept, &leaving)
        })
        .await?;
        plan.packs = Arc::new(packs);
        plan.affected = affected;
        Ok(plan)
    }

    async fn kept(&self, found: &Found) -> Result<Vec<Kept>, Error> {
        let machine = *self.member.machine().id().as_bytes();
        let owner = *self.member.owner().as_bytes();
        // What this machine alone says, and nobody forgets.
        let named = found.catalog.snapshots().iter();
        let named = named.filter(|listed| listed.machine == machine);
        let named: Vec<Logged> = named.map(|listed| listed.logged.clone()).collect();
        let pins = snapshot_pins(self.archive).await?;
        let store = self.store().clone();
        blocking(move || {
            let mut by_id: HashMap<BlockId, Vec<PinId>> = HashMap::new();
            for pin in pins {
                by_id.entry(pin.link.id).or_default().push(pin.pin);
            }
            let mut kept = Vec::new();
            for logged in named {
                let Some(pins) = by_id.remove(&logged.snapshot.id) else {
                    continue;
                };
                if let Some(snapshot) = local_snapshot(&*store, &logged.snapshot)?
                    && snapshot.machine == machine
                    && snapshot.owner == owner
                {
                    kept.push(Kept {
                        pins,
                        logged,
                        snapshot,
                    });
                }
            }
            Ok(kept)
        })
        .await
    }

    /// What the trees of snapshots use of packs, and those whose trees could be read. `None`: too much to tell.
    async fn tally(&self, kept: Vec<Kept>) -> Result<Option<(Tally, Vec<Kept>)>, Error> {
        let source = self
            .archive
            .depot()
            .session(self.archive.patience(PATIENCE), Keep::Cached);
        let (mut tally, mut seen) = (Tally::default(), Seen::default());
        let mut whole = Vec::with_capacity(kept.len());
        for kept in kept {
            let tree = kept.snapshot.tree.clone();
            let walked = match Bundle::open(source.clone(), tree).await {
                Ok(bundle) => packed(&bundle, &mut seen, &mut |used| tally.add(&used)).await,
                Err(error) => Err(error),
            };
            match walked {
                Ok(true) => whole.push(kept),
                Ok(false) => return Ok(None),
                // Its pin stays, and keeps what it needs.
                Err(error) => {
                    let id = kept.logged.snapshot.id;
                    self.warn(&format!("packs of the snapshot {id} stay: {error}"));
                }
            }
        }
        Ok(Some((tally, whole)))
    }

    /// The new snapshot, pinned. `None`: it would be the same.
    async fn write_anew(
        &self,
        kept: &Kept,
        packs: &Arc<HashSet<BlockId>>,
    ) -> Result<Option<Link>, Error> {
        let depot = self.archive.depot();
        let source = depot.session(self.archive.patience(PATIENCE), Keep::Cached);
        let bundle = Bundle::open(source, kept.snapshot.tree.clone()).await?;
        let pin = OpenPin::begin(self.store().clone()).await?;
        let keep = Keep::Pinned(pin.number);
        let index = Elsewhere {
            store: self.store().clone(),
            index: depot.index(keep),
            left: packs.clone(),
        };
        // Dropped with this future, the work ends by itself.
        let report = rewrite(
            &bundle,
            packs.clone(),
            self.archive.access().context().clone(),
            depot.sink(keep),
            Arc::new(index),
            Arc::new(Silent),
            CancellationToken::new(),
        )
        .await?;
        if report.link == kept.snapshot.tree {
            return Ok(None);
        }
        let snapshot = Snapshot {
            tree: report.link,
            ..kept.snapshot.clone()
        };
        let link = pin.finish(self.archive, &snapshot).await?;
        depot.fresh().add([link.id]);
        Ok(Some(link))
    }
}

/// Whether others may still be written anew after it.
fn is_of_one_snapshot(error: &Error) -> bool {
    use crate::bundle::Error as E;
    matches!(
        error,
        Error::Bundle(
            E::Get(_)
                | E::Open(_)
                | E::Malformed { .. }
                | E::UnknownVersion { .. }
                | E::NotABundle { .. }
        )
    )
}

/// What is used of packs.
#[derive(Default)]
struct Tally {
    numbers: HashMap<BlockId, u32>,
    packs: Vec<(Arc<Link>, u64)>,
    /// Pack and offset.
    chunks: HashSet<(u32, u32)>,
}

impl Tally {
    /// `false`: no more.
    fn add(&mut self, used: &Use) -> bool {
        let number = match self.numbers.get(&used.block.id) {
            Some(number) => *number,
            None => {
                let number = self.packs.len() as u32;
                self.numbers.insert(used.block.id, number);
                self.packs.push((used.block.clone(), 0));
                number
            }
        };
        if self.chunks.insert((number, used.offset))
            && let Some((_, bytes)) = self.packs.get_mut(number as usize)
        {
            *bytes += u64::from(used.len);
        }
        self.chunks.len() <= MAX_CHUNKS
    }

    /// Packs of which less than that share is used.
    fn candidates(self, store: &dyn Store, below: u64) -> Result<Vec<BlockId>, Error> {
        let is_below = |used: u64, bytes: usize| used * 100 < below * bytes as u64;
        let mut candidates = Vec::new();
        for (link, used) in self.packs {
            // Reading it is spared when it can't be.
            if !is_below(used, MAX_PLAINTEXT_BYTES) {
                continue;
            }
            let block = match store.get(link.id) {
                Ok(Some(block)) => block,
                Ok(None) | Err(crate::store::Error::Corrupt { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            let plaintext = block::open(&block, &link.key);
            if plaintext.is_ok_and(|plaintext| is_below(used, plaintext.len())) {
                candidates.push(link.id);
            }
        }
        Ok(candidates)
    }
}

/// Those packs that nothing but `kept` and the pins `leaving` keeps, and who uses them.
fn choose(
    store: &dyn Store,
    candidates: Vec<BlockId>,
    kept: Vec<Kept>,
    leaving: &[PinId],
) -> Result<(HashSet<BlockId>, Vec<Affected>), Error> {
    let mut refs: HashMap<BlockId, u64> = candidates.into_iter().map(|id| (id, 0)).collect();
    let mut scan = |pin: PinId| -> Result<Vec<BlockId>, Error> {
        let (mut found, mut last) = (Vec::new(), None);
        while !refs.is_empty() {
            let page = store.pin_blocks(pin, last, PAGE)?;
            let Some(end) = page.last() else {
                break;
            };
            last = Some(*end);
            for id in page {
                if let Some(pins) = refs.get_mut(&id) {
                    *pins += 1;
                    found.push(id);
                }
            }
        }
        Ok(found)
    };
    for pin in leaving {
        scan(*pin)?;
    }
    let mut affected = Vec::new();
    for kept in kept {
        let mut packs = Vec::new();
        for pin in &kept.pins {
            packs.extend(scan(*pin)?);
        }
        if !packs.is_empty() {
            affected.push(Affected { kept, packs });
        }
    }
    let mut chosen = HashSet::new();
    for (id, pins) in refs {
        if store.stat(id)?.is_some_and(|stat| stat.pins == pins) {
            chosen.insert(id);
        }
    }
    for affected in &mut affected {
        affected.packs.retain(|id| chosen.contains(id));
    }
    affected.retain(|affected| !affected.packs.is_empty());
    Ok((chosen, affected))
}

/// The store's chunk index without the packs that are to be left: it neither names nor keeps them.
struct Elsewhere {
    store: Arc<dyn Store>,
    index: Arc<Index>,
    left: Arc<HashSet<BlockId>>,
}

impl ChunkIndex for Elsewhere {
    fn lookup(&self, hashes: &[ChunkHash]) -> Result<Vec<Option<Ref>>, IndexError> {
        let mut found = self.store.lookup(hashes)?;
        for place in &mut found {
            if place
                .as_ref()
                .is_some_and(|place| self.left.contains(&place.id))
            {
                *place = None;
            }
        }
        let mut ids: Vec<BlockId> = found.iter().flatten().map(|place| place.id).collect();
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() {
            return Ok(found);
        }
        let absent = self.index.keep(&ids)?;
        for place in &mut found {
            if place
                .as_ref()
                .is_some_and(|place| absent.contains(&place.id))
            {
                *place = None;
            }
        }
        Ok(found)
    }

    fn insert(&self, entries: &[(ChunkHash, Ref)]) -> Result<(), IndexError> {
        self.index.insert(entries)
    }

    fn keep(&self, ids: &[BlockId]) -> Result<Vec<BlockId>, IndexError> {
        self.index.keep(ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::snapshot::tests::link;

    #[test]
    fn each_stretch_counts_once_and_there_is_a_limit() {
        let mut tally = Tally::default();
        let mut add = |block, offset| {
            let block = Arc::new(link(block));
            tally.add(&Use {
                block,
                offset,
                len: 10,
            })
        };
        assert!(add(1, 0) && add(1, 10) && add(2, 0) && add(1, 10));
        let used: Vec<u64> = tally.packs.iter().map(|(_, used)| *used).collect();
        assert_eq!(used, [20, 10]);
        tally.chunks = (0..MAX_CHUNKS as u32).map(|at| (9, at)).collect();
        let mut add = |offset| {
            let block = Arc::new(link(1));
            tally.add(&Use {
                block,
                offset,
                len: 10,
            })
        };
        assert!(!add(99));
    }
}
