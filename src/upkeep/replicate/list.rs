//! The list of what is copied, and where: in memory, and in a file that is replaced as a whole.
//!
//! What must outlive a crash is on the disk before anything is done about it: what is to be copied, who was asked, under which name, and who
//! was found not to hold what it promised. Progress (who answered when) is written a few seconds later, or when the node stops: a crash
//! loses it, and the holders are asked again.

mod record;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use data_encoding::HEXLOWER;
use libp2p::PeerId;
use tokio::sync::watch;

pub(super) use self::record::{Kept, ListInfo, Place};
use self::record::{decode, encode, is_newer, job_of, peer_name};
use super::policy::{self, Job, Limits, PeerName};
use crate::depot::ledger::Amount;
use crate::file;
use crate::id::BlockId;
use crate::store;
use crate::time::Timestamp;

/// Largest file that is read.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// Most backups that are copied.
pub const MAX_JOBS: usize = 4096;
/// Most copies of one.
pub const MAX_COPIES: u32 = 32;

/// Why the list, or a copy, could not be looked after.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file.
    #[error("{} can't be used", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a list.
    #[error("{} is damaged", .0.display())]
    Malformed(PathBuf),
    /// Not a list that this program can read.
    #[error("{} was written by a newer libernet", .0.display())]
    Newer(PathBuf),
    /// Past [`MAX_JOBS`] or [`MAX_COPIES`].
    #[error("at most {MAX_JOBS} backups with at most {MAX_COPIES} copies each")]
    TooMany,
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The lease could not be made.
    #[error(transparent)]
    Lease(#[from] crate::lease::Error),
    /// The owner's file is locked.
    #[error("the owner is locked: unlock it with its passphrase")]
    Locked,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// How the backups of one set stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetHealth {
    /// The set's name.
    pub name: String,
    /// Copies that count, of the backup that has fewest.
    pub copies_min: u32,
    /// Copies asked for, of that backup.
    pub copies_asked: u32,
    /// Machines that may be lost at the same time, this one among them, without losing a backup.
    pub survives: u32,
    /// Backups whose blocks are not on this machine any more, though nobody forgot them.
    pub lost: u32,
    /// When the copy that was audited longest ago was; none when one never was.
    pub audited: Option<Timestamp>,
    /// The holders of copies that count, and when each was last heard of one.
    pub holders: Holders,
    /// Copies that count and copies asked for, by backup.
    pub copies: BTreeMap<BlockId, (u32, u32)>,
}

/// Holders of copies that count, by peer, and when each was last heard of one.
pub type Holders = BTreeMap<PeerName, Timestamp>;

#[derive(Debug, Default)]
struct State {
    jobs: BTreeMap<BlockId, Kept>,
    /// What the file does not say yet.
    unsaved: Unsaved,
}

/// How much there is that the file does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unsaved {
    /// Nothing.
    #[default]
    Nothing,
    /// That time has passed.
    Time,
    /// How copies stand.
    Progress,
}

/// What is copied, and where.
#[derive(Debug)]
pub struct Copies {
    path: PathBuf,
    state: Mutex<State>,
    /// Held by who writes the file, longer than `state` is, and taken before it: who only looks does not wait for the disk.
    file: Mutex<()>,
    wanted: watch::Sender<u64>,
    changed: watch::Sender<u64>,
}

impl Copies {
    /// Reads the file; there need not be one.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Malformed`], [`Error::Newer`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let malformed = || Error::Malformed(path.to_owned());
        let failed = |source| Error::File {
            path: path.to_owned(),
            source,
        };
        let jobs = match file::read(path, MAX_FILE_BYTES) {
            Ok(None) => BTreeMap::new(),
            Ok(Some(bytes)) => match decode(&bytes) {
                Some(jobs) => jobs,
                None if is_newer(&bytes) => return Err(Error::Newer(path.to_owned())),
                None => return Err(malformed()),
            },
            Err(error) if file::is_damage(&error) => return Err(malformed()),
            Err(error) => return Err(failed(error)),
        };
        Ok(Self {
            path: path.to_owned(),
            state: Mutex::new(State {
                jobs,
                unsaved: Unsaved::Nothing,
            }),
            file: Mutex::new(()),
            wanted: watch::Sender::new(0),
            changed: watch::Sender::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is whole before the lock is given back.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock_file(&self) -> MutexGuard<'_, ()> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for so many copies of a backup on other machines; none lets go of those there are, once their minimum is over. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// [`Error::TooMany`], [`Error::File`].
    pub fn want(&self, root: BlockId, set: &str, copies: u32) -> Result<(), Error> {
        if copies > MAX_COPIES {
            return Err(Error::TooMany);
        }
        let file = self.lock_file();
        let before = self.get(&root);
        if before.is_none() && self.lock().jobs.len() >= MAX_JOBS {
            return Err(Error::TooMany);
        }
        let mut after = before.unwrap_or_else(|| Kept::new(set, copies));
        after.copies = copies;
        self.replace(&file, [(root, Some(after))].into())?;
        drop(file);
        self.changed.send_modify(|n| *n += 1);
        self.wanted.send_modify(|n| *n += 1);
        Ok(())
    }

    /// Asks for as many copies of `new` as there are to be of `old`, which it takes the place of. The copies of `old` are let go when those of
    /// `new` are there and `old` itself is gone; if `new` goes and `old` stays, everything is as before. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::TooMany`], [`Error::File`].
    pub fn supersede(&self, old: BlockId, new: BlockId) -> Result<(), Error> {
        let file = self.lock_file();
        let Some(mut before) = self.get(&old).filter(|kept| kept.copies > 0) else {
            return Ok(());
        };
        let later = match self.get(&new) {
            Some(later) => Kept {
                copies: before.copies.max(later.copies),
                ..later
            },
            None if self.lock().jobs.len() >= MAX_JOBS => return Err(Error::TooMany),
            None => Kept::new(&before.set, before.copies),
        };
        before.successor = Some(new.to_string());
        self.replace(&file, [(old, Some(before)), (new, Some(later))].into())?;
        drop(file);
        self.changed.send_modify(|n| *n += 1);
        self.wanted.send_modify(|n| *n += 1);
        Ok(())
    }

    /// What was forgotten needs no copies: those there are go when their minimum is over. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn forgotten(&self, is_forgotten: impl Fn(&BlockId) -> bool) -> Result<(), Error> {
        for root in self.wanted().into_iter().filter(is_forgotten) {
            // What was written anew is let go when the copies of the new one are there.
            self.update(&root, |kept| {
                if kept.successor.is_none() {
                    kept.copies = 0;
                }
            })?;
        }
        self.wanted.send_modify(|n| *n += 1);
        Ok(())
    }

    /// No more copies are made of these, also of what another backup takes the place of. Those there are stay known until their holders have ended them.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn unwant(&self, is_concerned: impl Fn(&BlockId) -> bool) -> Result<(), Error> {
        for root in self.wanted().into_iter().filter(is_concerned) {
            self.update(&root, |kept| kept.copies = 0)?;
        }
        self.wanted.send_modify(|n| *n += 1);
        Ok(())
    }

    /// Notes which backups are here, as `look` says when it is called. One that is not here and
    /// that nobody forgot is lost, which is no reason to let go of its copies. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::File`], and what `look` says.
    pub(super) fn reconcile(
        &self,
        look: impl FnOnce() -> Result<BTreeSet<BlockId>, Error>,
        now: Timestamp,
        limits: &Limits,
    ) -> Result<(), Error> {
        // A backup is pinned before its copies are wanted: one that is wanted before the look and
        // not seen by it is not just coming.
        let wanted = self.wanted().into_iter();
        let wanted: Vec<(BlockId, Kept)> = wanted
            .filter_map(|root| Some((root, self.get(&root)?)))
            .collect();
        let here = look()?;
        for (root, kept) in wanted {
            let is_lost = !here.contains(&root);
            if kept.lost != is_lost {
                self.update(&root, |kept| kept.lost = is_lost)?;
            }
            let successor = kept.successor.as_deref();
            let Some(new) = successor.and_then(|name| name.parse::<BlockId>().ok()) else {
                continue;
            };
            if !is_lost && !here.contains(&new) {
                // Writing it anew was cut off, and what was written is gone.
                let cut_off = kept.successor;
                self.update(&root, |kept| {
                    if kept.successor == cut_off {
                        kept.successor = None;
                    }
                })?;
                self.update(&new, |kept| kept.copies = 0)?;
            } else if is_lost && self.is_as_asked(new, now, limits) {
                self.update(&root, |kept| kept.copies = 0)?;
            }
        }
        Ok(())
    }

    /// Whether a backup, or the last of those that took its place one after the other, has its copies or needs none.
    fn is_as_asked(&self, root: BlockId, now: Timestamp, limits: &Limits) -> bool {
        let state = self.lock();
        let mut at = root;
        for _ in 0..MAX_JOBS {
            let Some(kept) = state.jobs.get(&at) else {
                return true;
            };
            let successor = kept.successor.as_deref();
            match successor.and_then(|name| name.parse().ok()) {
                Some(next) => at = next,
                None => {
                    let reached = policy::reached(&job_of(kept, BTreeMap::new()), now, limits);
                    return reached >= kept.copies;
                }
            }
        }
        // They go round in a circle, which nobody writes.
        false
    }

    /// Changes with each call of [`want`](Self::want).
    pub fn watch_wanted(&self) -> watch::Receiver<u64> {
        self.wanted.subscribe()
    }

    /// Changes whenever anything does: to wait for copies.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Copies asked for and reached; nothing for what is not copied.
    pub fn reached(&self, root: &BlockId, now: Timestamp, limits: &Limits) -> Option<(u32, u32)> {
        let state = self.lock();
        let kept = state.jobs.get(root)?;
        let job = job_of(kept, BTreeMap::new());
        Some((kept.copies, policy::reached(&job, now, limits)))
    }

    /// The holders of copies of a backup that count.
    pub fn holders(&self, root: &BlockId, now: Timestamp, limits: &Limits) -> Holders {
        let state = self.lock();
        let kept = state.jobs.get(root);
        kept.map_or_else(Holders::new, |kept| {
            holders(&job_of(kept, BTreeMap::new()), now, limits)
        })
    }

    /// The holders of copies that count, of any backup.
    pub fn all_holders(&self, now: Timestamp, limits: &Limits) -> Holders {
        let state = self.lock();
        let jobs = state.jobs.values();
        jobs.flat_map(|kept| holders(&job_of(kept, BTreeMap::new()), now, limits))
            .collect()
    }

    /// How many backups lack copies.
    pub(super) fn short(&self, now: Timestamp, limits: &Limits) -> usize {
        let state = self.lock();
        let short = state.jobs.values().filter(|kept| {
            let reached = policy::reached(&job_of(kept, BTreeMap::new()), now, limits);
            kept.is_told() && (kept.lost || reached < kept.copies)
        });
        short.count()
    }

    /// How each set stands, by name.
    pub fn health(&self, now: Timestamp, limits: &Limits) -> Vec<SetHealth> {
        let mut sets: BTreeMap<String, SetHealth> = BTreeMap::new();
        let state = self.lock();
        let told = state.jobs.iter().filter(|(_, kept)| kept.is_told());
        for (root, kept) in told {
            let job = job_of(kept, BTreeMap::new());
            let reached = policy::reached(&job, now, limits);
            let counted = || {
                let copies = job.held.values();
                copies.filter(|copy| policy::counts(copy, now, limits))
            };
            let holders = holders(&job, now, limits);
            let audited = match counted().any(|copy| copy.audited.is_none()) {
                true => None,
                false => counted().filter_map(|copy| copy.audited).min(),
            };
            let this = SetHealth {
                name: kept.set.clone(),
                copies_min: reached,
                copies_asked: kept.copies,
                // What is not here either does not survive the loss of all holders.
                survives: reached.saturating_sub(u32::from(kept.lost)),
                lost: u32::from(kept.lost),
                audited,
                holders: holders.clone(),
                copies: BTreeMap::from([(*root, (reached, kept.copies))]),
            };
            sets.entry(kept.set.clone())
                .and_modify(|set| {
                    let mut all = std::mem::take(&mut set.holders);
                    let mut copies = std::mem::take(&mut set.copies);
                    copies.extend(&this.copies);
                    for (peer, seen) in holders {
                        let last = all.entry(peer).or_insert(seen);
                        *last = seen.max(*last);
                    }
                    let lacks = |set: &SetHealth| set.copies_asked.saturating_sub(set.copies_min);
                    let audited = set.audited.min(this.audited);
                    let survives = set.survives.min(this.survives);
                    let lost = set.lost + this.lost;
                    if lacks(&this) > lacks(set)
                        || (lacks(&this) == lacks(set) && this.copies_min < set.copies_min)
                    {
                        *set = this.clone();
                    }
                    (set.audited, set.survives, set.lost) = (audited, survives, lost);
                    (set.holders, set.copies) = (all, copies);
                })
                .or_insert(this);
        }
        sets.into_values().collect()
    }

    /// What each peer keeps of ours as whole copies.
    pub fn kept_by_peer(&self) -> HashMap<PeerId, Amount> {
        let state = self.lock();
        let mut kept: HashMap<PeerId, Amount> = HashMap::new();
        for job in state.jobs.values() {
            let Some(list) = &job.list else { continue };
            let (blocks, bytes) = (list.blocks, list.bytes);
            for (peer, place) in &job.held {
                let peer = peer_name(peer).and_then(|name| PeerId::from_bytes(&name).ok());
                if let Some(peer) = peer
                    && place.whole
                    && !place.failed
                {
                    kept.entry(peer).or_default().add(Amount { blocks, bytes });
                }
            }
        }
        kept
    }

    /// Peers that could not show that they still have a copy that is asked for.
    pub fn failed_audits(&self) -> BTreeSet<PeerName> {
        let state = self.lock();
        let jobs = state.jobs.values().filter(|kept| kept.copies > 0);
        let held = jobs.flat_map(|kept| kept.held.iter());
        let failed = held.filter(|(_, place)| place.failed);
        failed.filter_map(|(peer, _)| peer_name(peer)).collect()
    }

    /// What the policy needs to know.
    pub(super) fn jobs(&self) -> BTreeMap<BlockId, Job> {
        let state = self.lock();
        let jobs = &state.jobs;
        let mut of_set: BTreeMap<&str, BTreeMap<PeerName, u32>> = BTreeMap::new();
        for kept in jobs.values().filter(|kept| kept.copies > 0) {
            let places = kept
                .held
                .iter()
                .filter(|(_, place)| place.whole && !place.failed);
            let set = of_set.entry(&kept.set).or_default();
            for peer in places.filter_map(|(peer, _)| peer_name(peer)) {
                *set.entry(peer).or_default() += 1;
            }
        }
        let near = |kept: &Kept| of_set.get(kept.set.as_str()).cloned().unwrap_or_default();
        jobs.iter()
            .map(|(root, kept)| (*root, job_of(kept, near(kept))))
            .collect()
    }

    /// Number of backups of the same set that a peer keeps whole; `peer` is its key in the list.
    pub(super) fn related(&self, root: &BlockId, peer: &str) -> u32 {
        let state = self.lock();
        let Some(set) = state.jobs.get(root).map(|kept| &kept.set) else {
            return 0;
        };
        let of_set = state.jobs.values().filter(|kept| kept.set == *set);
        let places = of_set.filter_map(|kept| kept.held.get(peer));
        let whole = places.filter(|place| place.whole && !place.failed);
        u32::try_from(whole.count()).unwrap_or(u32::MAX)
    }

    /// Every lease: the backup and its set, the peer, the lease's name in hex and its sequence.
    pub fn leases(&self) -> Vec<(BlockId, String, PeerName, String, u64)> {
        let state = self.lock();
        let places = state.jobs.iter().flat_map(|(root, kept)| {
            let held = kept.held.iter();
            held.map(move |(peer, place)| (root, kept, peer, place))
        });
        let leases = places.filter_map(|(root, kept, peer, place)| {
            let (set, name) = (kept.set.clone(), place.name.clone());
            Some((*root, set, peer_name(peer)?, name, place.sequence))
        });
        leases.collect()
    }

    /// A holder has ended its lease. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn ended(&self, root: &BlockId, peer: &[u8]) -> Result<(), Error> {
        let peer = HEXLOWER.encode(peer);
        self.update(root, |kept| drop(kept.held.remove(&peer)))
    }

    /// What is to have copies.
    pub(super) fn wanted(&self) -> Vec<BlockId> {
        let state = self.lock();
        let wanted = state.jobs.iter().filter(|(_, kept)| kept.copies > 0);
        wanted.map(|(root, _)| *root).collect()
    }

    /// What is known of one.
    pub(super) fn get(&self, root: &BlockId) -> Option<Kept> {
        self.lock().jobs.get(root).cloned()
    }

    /// Changes one; durably where a crash would lose more than a question. Those that are neither wanted nor held any more are forgotten.
    pub(super) fn update(
        &self,
        root: &BlockId,
        change: impl FnOnce(&mut Kept),
    ) -> Result<(), Error> {
        let file = self.lock_file();
        if let Some(before) = self.get(root) {
            let mut after = before.clone();
            change(&mut after);
            let is_done = after.copies == 0 && after.held.is_empty();
            if is_done || after != before {
                self.replace(&file, [(*root, (!is_done).then_some(after))].into())?;
            }
        }
        drop(file);
        self.changed.send_modify(|n| *n += 1);
        Ok(())
    }

    /// Changes some; what is vital is in the file before it is in memory.
    fn replace(
        &self,
        file: &MutexGuard<'_, ()>,
        after: BTreeMap<BlockId, Option<Kept>>,
    ) -> Result<(), Error> {
        let mut state = self.lock();
        let is_vital = after.iter().any(|(root, after)| {
            let before = state.jobs.get(root);
            before.map(Kept::vital) != after.as_ref().map(Kept::vital)
        });
        if is_vital {
            let mut jobs = state.jobs.clone();
            drop(state);
            change(&mut jobs, after.clone());
            self.write(file, &jobs)?;
            state = self.lock();
            // What became known meanwhile is that time passed.
            state.unsaved = Unsaved::Nothing;
        } else {
            state.unsaved = Unsaved::Progress;
        }
        change(&mut state.jobs, after);
        Ok(())
    }

    /// What this peer keeps is to be audited again, but for what was after that time.
    pub(super) fn doubt(&self, peer: &[u8], before: Timestamp) {
        let peer = HEXLOWER.encode(peer);
        let mut state = self.lock();
        let mut any = false;
        for place in state
            .jobs
            .values_mut()
            .filter_map(|job| job.held.get_mut(&peer))
        {
            if place.audited.is_some_and(|audited| audited <= before) {
                place.audited = None;
                any = true;
            }
        }
        if any {
            state.unsaved = state.unsaved.max(Unsaved::Progress);
        }
    }

    /// Copies on peers that were removed from the rings count no more, and are made anew elsewhere.
    /// A peer that is let in again counts once its copy was heard of.
    pub(super) fn expelled(&self, removed: &[PeerId]) {
        let removed = removed.iter().map(|peer| HEXLOWER.encode(&peer.to_bytes()));
        let removed: BTreeSet<String> = removed.collect();
        let mut state = self.lock();
        let mut any = false;
        for (peer, place) in state.jobs.values_mut().flat_map(|job| &mut job.held) {
            if removed.contains(peer) && place.seen != Timestamp(0) {
                (place.seen, place.missed_ms) = (Timestamp(0), u64::MAX);
                any = true;
            }
        }
        if any {
            state.unsaved = state.unsaved.max(Unsaved::Progress);
        }
    }

    /// This much time has passed, in which these were there.
    pub(super) fn waited(&self, time: Duration, online: &BTreeMap<PeerName, u64>) {
        let time_ms = time.as_millis() as u64;
        let online: BTreeSet<String> = online.keys().map(|name| HEXLOWER.encode(name)).collect();
        let mut state = self.lock();
        for (peer, place) in state.jobs.values_mut().flat_map(|job| &mut job.held) {
            if online.contains(peer) {
                place.missed_ms = 0;
                place.unproven_ms = place.unproven_ms.saturating_add(time_ms);
            } else {
                place.missed_ms = place.missed_ms.saturating_add(time_ms);
            }
        }
        state.unsaved = state.unsaved.max(Unsaved::Time);
    }

    /// What the file does not say yet.
    pub(super) fn unsaved(&self) -> Unsaved {
        self.lock().unsaved
    }

    /// Writes what the file does not say yet. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(super) fn flush(&self) -> Result<(), Error> {
        let file = self.lock_file();
        let mut state = self.lock();
        let unsaved = std::mem::take(&mut state.unsaved);
        if unsaved == Unsaved::Nothing {
            return Ok(());
        }
        let jobs = state.jobs.clone();
        drop(state);
        self.write(&file, &jobs).inspect_err(|_| {
            let mut state = self.lock();
            state.unsaved = state.unsaved.max(unsaved);
        })
    }

    fn write(&self, _: &MutexGuard<'_, ()>, jobs: &BTreeMap<BlockId, Kept>) -> Result<(), Error> {
        file::replace(&self.path, &encode(jobs)).map_err(|source| Error::File {
            path: self.path.clone(),
            source,
        })
    }
}

fn holders(job: &Job, now: Timestamp, limits: &Limits) -> Holders {
    let held = job.held.iter();
    let held = held.filter(|(_, copy)| policy::counts(copy, now, limits));
    held.map(|(peer, copy)| (peer.clone(), copy.seen)).collect()
}

fn change(jobs: &mut BTreeMap<BlockId, Kept>, after: BTreeMap<BlockId, Option<Kept>>) {
    for (root, after) in after {
        match after {
            Some(after) => drop(jobs.insert(root, after)),
            None => drop(jobs.remove(&root)),
        }
    }
}
