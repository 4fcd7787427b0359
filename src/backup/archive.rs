//! Head, logs and catalog of one owner: found, read, and changed.
//!
//! A log is changed in this order: the new log's block is pinned and durable; the new head is written to a file of its own and kept; the old log's
//! pin goes; the new head is published. Cut off anywhere, either the old log or the new one is what the head names, and that one is pinned.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use libp2p::PeerId;
use tokio::time::Instant;

use super::catalog::Catalog;
use super::error::Error;
use super::fate::{Facts, Fates, requests};
use super::log::Log;
use super::owner::{GenerationKey, Membership, OwnerId, OwnerKeys};
use super::seen::Seen;
use super::snapshot::Snapshot;
use crate::block::{self, Block, BlockSource, Context, Link};
use crate::crypto::key::Key;
use crate::depot::{Depot, FoundHead};
use crate::file;
use crate::head::{self, Decisions, HeadEntry, HeadRecord, MAX_RECORD_BYTES, head_id, sealing_key};
use crate::id::BlockId;
use crate::lease::Lease;
use crate::store::{Keep, PinId, PinInfo, Store};
use crate::time::{Clock, Timestamp};

/// Logs that are fetched at the same time.
pub(super) const LOGS_AT_ONCE: usize = 8;
/// How long one look into the mesh may take where everything needed may be here already.
const GLANCE: Duration = Duration::from_secs(5);
/// Pause between two looks while nothing was found.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How long publishing a head may hold up who waits for it.
const PUBLISH_PATIENCE: Duration = Duration::from_secs(15);
/// Name of the file with this machine's head, in the data directory.
pub const HEAD_FILE: &str = "backup.head";
/// Name of the file with the requests to forget that this machine has seen, in the data directory.
pub const REQUESTS_FILE: &str = "backup.requests";
/// Name of the file that says since when another hand writes in this machine's name. A person who
/// has settled that removes it.
pub const TWIN_FILE: &str = "backup.twin";
/// Name of the pin of this machine's log.
const LOG_PIN: &str = "backup log";

/// What reading an owner's backups needs: less than writing them.
#[derive(Clone, Debug)]
pub struct Access {
    owner: OwnerId,
    generation: u8,
    /// Backup root keys of this generation and of all before it, the latest first.
    roots: Arc<[Key]>,
    context: Context,
}

impl Access {
    /// Access by the key of a generation: to all that was sealed in it, or before.
    pub fn new(owner: OwnerId, generation: &GenerationKey) -> Self {
        Self {
            owner,
            generation: generation.number(),
            roots: generation.all().map(|one| one.backup_root()).collect(),
            context: Context::secret(generation.convergence()),
        }
    }

    /// Where an entry's log is, and what opens it.
    ///
    /// # Errors
    /// [`head::Error::WrongKey`] when it was sealed in a later generation, or for another owner.
    pub(super) fn log_of(&self, entry: &HeadEntry) -> Result<Link, head::Error> {
        let opened = self
            .roots
            .iter()
            .map(|root| entry.log(&sealing_key(root.as_bytes())));
        let mut opened = opened.skip_while(Result::is_err);
        opened.next().unwrap_or(Err(head::Error::WrongKey))
    }

    /// The snapshot of a lease, and what opens it.
    pub(super) fn snapshot_of(&self, lease: &Lease) -> Option<Link> {
        let mut roots = self.roots.iter();
        roots.find_map(|root| lease.open(root.as_bytes()))
    }

    /// Key with which this machine seals its entries.
    fn sealing_key(&self) -> zeroize::Zeroizing<[u8; 32]> {
        let root = self.roots.first().expect("there is a first generation");
        sealing_key(root.as_bytes())
    }

    /// Who the owner is.
    pub const fn owner(&self) -> &OwnerId {
        &self.owner
    }

    /// Name of the owner's head, by which its keepers are found.
    pub fn head(&self) -> BlockId {
        head_id(self.owner.as_bytes())
    }

    /// In which the owner's blocks are sealed.
    pub const fn context(&self) -> &Context {
        &self.context
    }
}

impl From<&Membership> for Access {
    fn from(member: &Membership) -> Self {
        Self::new(*member.owner(), member.generation())
    }
}

impl From<&OwnerKeys> for Access {
    fn from(keys: &OwnerKeys) -> Self {
        Self::new(keys.id(), keys.last_generation())
    }
}

/// How far to look for a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// Here only.
    Here,
    /// Here, and a short look at what the connected peers have.
    Glance,
    /// Until one is found, so long at most.
    Until(Duration),
}

/// What was found of an owner's backups.
#[derive(Debug)]
pub struct Found {
    /// The head; none when there is none here and none was found.
    pub head: Option<HeadRecord>,
    /// The logs that could be read.
    pub logs: Vec<Log>,
    /// Machines whose log could not be had, and why.
    pub unread: Vec<([u8; 32], Error)>,
    /// All snapshots.
    pub catalog: Catalog,
    /// Fates of the snapshots that are forgotten, or asked to be.
    pub fates: Fates,
    /// Snapshots that were found by looking further back, and that no newest log names: see
    /// [`Archive::look_back`].
    pub older: Catalog,
    /// Notes for the reader of the backups on how they were found.
    pub notes: Vec<String>,
    /// Peers that were connected at the end of the search.
    pub peers: usize,
    /// Peers that told a head, and those among them whose newest entries are the ones used here.
    pub told: usize,
    /// See `told`.
    pub agree: usize,
}

/// The backups of one owner, as far as this node can reach them. Cheap to clone.
#[derive(Clone)]
pub struct Archive {
    depot: Depot,
    access: Access,
    clock: Arc<dyn Clock>,
    home: Option<Arc<Home>>,
}

/// What a machine of the owner's has of its own.
#[derive(Debug)]
pub struct Home {
    /// File with the head as this machine last wrote it. The file survives a power cut; the net's table
    /// of heads is written later.
    head_file: PathBuf,
    /// Held while the log of this machine is being changed.
    writing: tokio::sync::Mutex<()>,
    /// Decisions of the owner's, as far as the file with the head is known to hold them. Locked
    /// while that file is read and written.
    decided: Mutex<Option<Decisions>>,
    requests_file: PathBuf,
    twin_file: PathBuf,
    /// Content of that file, once it was read.
    requests: Mutex<Option<Seen>>,
}

impl Home {
    /// Of the node whose data directory this is. There must be one only for each.
    pub fn new(data_dir: &Path) -> Self {
        Self {
            head_file: data_dir.join(HEAD_FILE),
            writing: tokio::sync::Mutex::default(),
            decided: Mutex::default(),
            requests_file: data_dir.join(REQUESTS_FILE),
            twin_file: data_dir.join(TWIN_FILE),
            requests: Mutex::default(),
        }
    }

    /// Replaces the head in the file, durably. Decisions of the owner's that the file holds stay.
    fn write(&self, head: &HeadRecord, now: Timestamp) -> Result<(), Error> {
        let mut decided = self.decided.lock().unwrap_or_else(PoisonError::into_inner);
        let before = read_head(&self.head_file)?.filter(|before| before.owner() == head.owner());
        let head = match before {
            Some(before) => head.decided(before.decisions(), now),
            None => head.clone(),
        };
        write_head(&self.head_file, &head.encode())?;
        *decided = Some(head.decisions().clone());
        Ok(())
    }

    /// Adds what the owner decided to the head in the file, durably. Where there is none, the head
    /// becomes that of the file.
    fn note(&self, head: &HeadRecord, now: Timestamp) -> Result<(), Error> {
        let mut decided = self.decided.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = |known: &Decisions| known.has_all_of(head.decisions());
        if head.decisions().is_empty() || decided.as_ref().is_some_and(is_known) {
            return Ok(());
        }
        let before = read_head(&self.head_file)?.filter(|before| before.owner() == head.owner());
        let whole = match &before {
            Some(before) => before.decided(head.decisions(), now),
            None => head.clone(),
        };
        if before.as_ref() != Some(&whole) {
            write_head(&self.head_file, &whole.encode())?;
        }
        *decided = Some(whole.decisions().clone());
        Ok(())
    }

    /// Notes that another hand writes in this machine's name, unless that is known.
    fn note_twin(&self, now: Timestamp) {
        if self.twin_file.exists() {
            return;
        }
        tracing::warn!(
            "somebody else wrote in this machine's name: its data directory was copied, or brought back from an image"
        );
        if let Err(error) = file::create(&self.twin_file, now.0.to_string().as_bytes()) {
            tracing::warn!(%error, "that could not be written down");
        }
    }

    /// Takes note of the requests in these logs. A request that can't be written down counts as not
    /// seen yet, which only puts off what is asked.
    fn look(
        &self,
        logs: &[Log],
        revoked: &BTreeSet<[u8; 32]>,
        is_whole: bool,
        now: Timestamp,
    ) -> Seen {
        let requests = requests(logs, revoked);
        // Each change is whole before the lock is given back.
        let mut known = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match known.take() {
            Some(seen) => seen,
            None => Seen::load(&self.requests_file).unwrap_or_else(|error| {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the notice of requests to forget begins anew"
                );
                Seen::default()
            }),
        };
        let mut seen = before.clone();
        if seen.look(&requests, is_whole, now)
            && let Err(error) = seen.save(&self.requests_file)
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "requests to forget could not be noted"
            );
            seen = before;
        }
        known.insert(seen).clone()
    }
}

impl Archive {
    /// The backups that `access` opens. `home` on a machine of this owner's, which can write.
    pub fn new(
        depot: Depot,
        access: Access,
        clock: Arc<dyn Clock>,
        home: Option<Arc<Home>>,
    ) -> Self {
        Self {
            depot,
            access,
            clock,
            home,
        }
    }

    /// What opens it.
    pub const fn access(&self) -> &Access {
        &self.access
    }

    /// Where its blocks come from.
    pub const fn depot(&self) -> &Depot {
        &self.depot
    }

    /// The clock.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// Finds head and logs. `patience`: how long to look for each log.
    ///
    /// # Errors
    /// [`Error::Net`], [`Error::Stopping`]. Finding nothing is no error: see [`Found::or_missing`].
    pub async fn find(&self, search: Search, patience: Duration) -> Result<Found, Error> {
        let (head, told) = self.find_head(search).await?;
        if let Some(head) = &head {
            self.note(head).await;
        }
        let session = self.depot.session(patience, Keep::Cached);
        let entries: Vec<HeadEntry> = head
            .as_ref()
            .map(|head| head.newest().cloned().collect())
            .unwrap_or_default();
        let read = entries.into_iter().map(|entry| {
            let (session, access) = (session.clone(), &self.access);
            async move {
                let log = read_log(&*session, &entry, access).await;
                (*entry.machine(), log)
            }
        });
        let read: Vec<_> = futures::stream::iter(read)
            .buffered(LOGS_AT_ONCE)
            .collect()
            .await;
        let (mut logs, mut unread) = (Vec::new(), Vec::new());
        for (machine, log) in read {
            let log = match log {
                Ok(log) => log,
                Err(error) => {
                    unread.push((machine, error));
                    continue;
                }
            };
            for earlier in log.earlier() {
                match read_log_at(&*session, earlier, &machine).await {
                    Ok(earlier) => logs.push(earlier),
                    Err(error) => unread.push((machine, error)),
                }
            }
            logs.push(log);
        }
        if let Some(head) = &head {
            self.add_written(head, &mut logs).await?;
        }
        self.settle_rivals(&*session, &mut logs).await;
        let revoked: BTreeSet<[u8; 32]> = head
            .iter()
            .flat_map(|head| head.decisions().revoked())
            .copied()
            .collect();
        let is_known = |(machine, _): &([u8; 32], Error)| revoked.contains(machine);
        let is_whole = head.is_some() && unread.iter().all(is_known);
        let (logs, fates) = self.fates(logs, revoked, is_whole).await?;
        let agrees = |told: &HeadRecord| {
            let mut newest = head.iter().flat_map(HeadRecord::newest);
            newest.all(|entry| told.has(entry))
        };
        Ok(Found {
            catalog: Catalog::of(&logs, &fates, self.clock.now()),
            fates,
            older: Catalog::default(),
            notes: Vec::new(),
            told: told.len(),
            agree: told.iter().filter(|(_, told)| agrees(told)).count(),
            head,
            logs,
            unread,
            peers: self.depot.net().peers().connected().len(),
        })
    }

    /// A snapshot has one maker. Where several machines name one, the snapshot itself tells whose
    /// it is: the others may name it with a key that does not open it, or to forget it as their
    /// own.
    async fn settle_rivals(&self, source: &dyn BlockSource, logs: &mut [Log]) {
        let owner = *self.access.owner.as_bytes();
        let read = rivals(logs).into_iter().map(|(link, machine)| async move {
            let snapshot = read_snapshot(source, &link).await;
            let is_its = snapshot.is_ok_and(|one| one.machine == machine && one.owner == owner);
            is_its.then_some((link.id, machine))
        });
        let read = futures::stream::iter(read).buffered(LOGS_AT_ONCE);
        let makers: BTreeMap<BlockId, [u8; 32]> =
            read.filter_map(std::future::ready).collect().await;
        for log in logs {
            let machine = log.machine;
            log.disown(|id| makers.get(id).is_some_and(|maker| *maker != machine));
        }
    }

    /// Looks for what the owner has decided about its machines, and has this machine's file say it.
    ///
    /// # Errors
    /// [`Error::Net`], [`Error::Stopping`].
    pub async fn learn(&self) -> Result<(), Error> {
        if let (Some(head), _) = self.find_head(Search::Glance).await? {
            self.note(&head).await;
        }
        Ok(())
    }

    /// Has this machine's file say what the owner decided, so that it counts after a restart, too.
    async fn note(&self, head: &HeadRecord) {
        let Some(home) = self.home.clone() else {
            return;
        };
        let (head, now) = (head.clone(), self.clock.now());
        if let Err(error) = blocking(move || home.note(&head, now)).await {
            tracing::warn!(%error, "what the owner decided about its machines could not be noted");
        }
    }

    /// Makes known what the owner's words decided about its machines. Returns how many peers were
    /// told, and whether this node keeps it and goes on telling others.
    ///
    /// # Errors
    /// [`Error::Head`] for a record that does not hold, or is another owner's.
    pub async fn decide(&self, record: HeadRecord) -> Result<(u64, bool), Error> {
        let (id, checked) = (self.access.head(), record.clone());
        blocking(move || Ok(checked.validate(&id)?)).await?;
        let (heads, keepers) = (self.depot.net().heads(), self.depot.heads());
        let is_kept = match &self.home {
            Some(home) => {
                let (home, head, now) = (home.clone(), record.clone(), self.clock.now());
                blocking(move || home.note(&head, now)).await?;
                heads.keep(record.clone()).await?;
                true
            }
            None => false,
        };
        if self.depot.net().peers().connected().is_empty() {
            return Ok((0, is_kept));
        }
        let told = match tokio::time::timeout(PUBLISH_PATIENCE, keepers.publish(record)).await {
            Ok(report) => report?.stored_by,
            Err(_) => 0,
        };
        Ok((told as u64, is_kept))
    }

    /// Checks that this machine may write: it may not once it was turned out, and not with keys of
    /// before.
    fn may_write(&self, head: &HeadRecord, member: &Membership) -> Result<(), Error> {
        let (decisions, machine) = (head.decisions(), member.machine().id());
        if decisions.revocation(machine.as_bytes()).is_some() {
            return Err(Error::TurnedOut);
        }
        match decisions.handover() {
            Some(handover) if handover.generation() > self.access.generation => {
                Err(Error::OldKeys {
                    is_granted: handover.is_for(machine.as_bytes()),
                })
            }
            _ => Ok(()),
        }
    }

    /// Weighs what these logs forget, and gives the logs back. `is_whole`: no log is missing.
    async fn fates(
        &self,
        logs: Vec<Log>,
        revoked: BTreeSet<[u8; 32]>,
        is_whole: bool,
    ) -> Result<(Vec<Log>, Fates), Error> {
        let (home, owner, now) = (self.home.clone(), self.access.owner, self.clock.now());
        blocking(move || {
            let seen = match &home {
                Some(home) => home.look(&logs, &revoked, is_whole, now),
                None => Seen::default(),
            };
            let fates = Fates::weigh(&Facts {
                owner: &owner,
                logs: &logs,
                is_whole,
                revoked: &revoked,
                seen: &seen,
            });
            Ok((logs, fates))
        })
        .await
    }

    /// Head as far as this node knows it: the one in the net's table, and the one that this machine
    /// itself has written.
    pub(super) async fn local_head(&self) -> Result<Option<HeadRecord>, Error> {
        let heads = self.depot.net().heads();
        let local = heads.local(self.access.head()).await?;
        let Some(home) = &self.home else {
            return Ok(local);
        };
        let path = home.head_file.clone();
        let written = blocking(move || read_head(&path)).await?;
        // A file of another owner than the one of now is an old one.
        let Some(written) = written.filter(|written| written.id() == self.access.head()) else {
            return Ok(local);
        };
        let whole = match &local {
            Some(local) => written.merge(local, self.clock.now())?,
            None => written,
        };
        let is_known = local.is_some_and(|local| local.has_all_of(&whole));
        if !is_known && let Err(error) = heads.keep(whole.clone()).await {
            // It is in this machine's file all the same, and on a disk that can't be written
            // backups can still be read.
            tracing::warn!(%error, "the head of the backups is not among those that this node keeps");
        }
        Ok(Some(whole))
    }

    /// How long to look for a block that is not here: not at all while there is nobody to ask.
    pub(super) fn patience(&self, patience: Duration) -> Duration {
        match self.depot.net().peers().connected().is_empty() {
            true => Duration::ZERO,
            false => patience,
        }
    }

    async fn find_head(
        &self,
        search: Search,
    ) -> Result<(Option<HeadRecord>, Vec<(PeerId, HeadRecord)>), Error> {
        let heads = self.depot.heads();
        let id = self.access.head();
        let local = self.local_head().await?;
        let until = match search {
            Search::Here => return Ok((local, Vec::new())),
            Search::Glance if self.depot.net().peers().connected().is_empty() => {
                return Ok((local, Vec::new()));
            }
            Search::Glance => Instant::now() + GLANCE,
            Search::Until(patience) => Instant::now() + patience,
        };
        loop {
            let answer = tokio::time::timeout_at(until, heads.find_soon(id)).await;
            let found = match answer {
                Ok(Ok(found)) => found,
                // A search that fails or takes too long: what is here counts.
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the search for a head failed");
                    FoundHead::default()
                }
                Err(_) => FoundHead::default(),
            };
            // The search includes what is here, but for what only this machine's file says.
            if found.record.is_some() || search == Search::Glance {
                if search != Search::Glance {
                    // One keeper may have a part only.
                    heads.look_for_keepers(id);
                }
                let record = match (local, found.record) {
                    (Some(local), Some(record)) => Some(local.merge(&record, self.clock.now())?),
                    (local, record) => record.or(local),
                };
                return Ok((record, found.told));
            }
            if Instant::now() + LOOK_AGAIN >= until {
                return Ok((local, Vec::new()));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Changes the log of this machine and makes it known. `change` gets what the log says now, with everything that a copy elsewhere says
    /// besides, and returns what [`change_log`](Self::change_log) returns.
    ///
    /// # Errors
    /// What `change` says; [`Error::LogFull`]; [`Error::Put`]: nothing has changed then.
    ///
    /// # Cancel safety
    /// Dropped, either all of it has happened or nothing; only the publishing may be missing, which the node makes up for.
    pub async fn change_log<T>(
        &self,
        member: &Membership,
        change: impl FnOnce(&mut Log) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let home = self.home.as_ref().ok_or(Error::Stranger)?;
        let _writing = home.writing.lock().await;
        let patience = self.patience(GLANCE);
        let found = self.find(Search::Glance, patience).await?;
        if let Some(head) = &found.head {
            self.may_write(head, member)?;
        }
        let (machine, now) = (*member.machine().id().as_bytes(), self.clock.now());
        // Entries of a time when this machine's clock was ahead are nowhere but here, and are
        // followed by one that others take.
        let head = found.head.and_then(|head| head.timely(now).ok());
        let entry = head.as_ref().and_then(|head| head.entry(&machine)).cloned();
        let said = match &entry {
            None => Log::new(machine, member.name().to_owned()),
            Some(entry) => self.own_log(entry, member).await?,
        };
        let mut log = self.with_written(said.clone(), entry.as_ref()).await?;
        log.machine_name = member.name().to_owned();
        let before = log.clone();
        let result = change(&mut log)?;
        if log == before && log == said && entry.is_some() {
            return Ok(result);
        }
        let sequence = HeadRecord::next_sequence(head.as_ref(), &machine, now)?;
        log.number(&before, sequence);
        let record = self
            .write_log(member, home, (&before, &log), sequence, head.as_ref())
            .await?;
        self.publish(record).await;
        Ok(result)
    }

    /// This machine's log. One that can't be read now is followed by a new one, which names it: what it says counts again as soon as it can
    /// be read, and meanwhile backups go on.
    async fn own_log(&self, entry: &HeadEntry, member: &Membership) -> Result<Log, Error> {
        let session = self.depot.session(self.patience(GLANCE), Keep::Cached);
        let link = self.access.log_of(entry)?;
        let mut log = match read_log_at(&*session, &link, entry.machine()).await {
            Ok(log) => log,
            Err(error @ (Error::Stopping | Error::UnknownVersion { .. })) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "the log of this machine can't be read: a new one follows it");
                let mut log = Log::new(*entry.machine(), member.name().to_owned());
                log.follow(link)?;
                return Ok(log);
            }
        };
        for link in log.take_earlier() {
            match read_log_at(&*session, &link, entry.machine()).await {
                Ok(earlier) => log.absorb(&earlier)?,
                // There was room for it before.
                Err(_) => log.follow(link)?,
            }
        }
        Ok(log)
    }

    /// The logs that this machine itself wrote and keeps: one, unless writing it was cut off.
    async fn written_logs(&self) -> Result<Vec<(BlockId, Log)>, Error> {
        if self.home.is_none() {
            return Ok(Vec::new());
        }
        let store = self.depot.store().clone();
        let pinned = blocking(move || {
            let pins = store.pins()?.into_iter();
            let logs = pins.filter(|(_, info)| info.name == LOG_PIN);
            Ok(logs.filter_map(|(_, info)| info.link).collect::<Vec<_>>())
        });
        let session = self.depot.session(Duration::ZERO, Keep::Cached);
        let mut written = Vec::new();
        for link in pinned.await? {
            match read_any_log(&*session, &link).await {
                Ok(log) => written.push((link.id, log)),
                // Damaged, which a check mends, or of the owner before.
                Err(error) => tracing::debug!(%error, "a log that is kept here can't be read"),
            }
        }
        Ok(written)
    }

    /// Adds what this machine itself wrote, where the newest entry in its name says something else.
    /// What that entry's log forgets counts only where this machine's own forgets it, too.
    async fn add_written(&self, head: &HeadRecord, logs: &mut Vec<Log>) -> Result<(), Error> {
        let all = self.written_logs().await?;
        for log in logs.iter_mut() {
            if let Some(newest) = head.entry(&log.machine) {
                self.doubt(log, newest, &all).await?;
            }
        }
        for (id, written) in all {
            let newest = head.entry(&written.machine);
            if newest.is_none_or(|newest| newest.log_id() == id) {
                continue;
            }
            match logs.iter_mut().find(|log| log.machine == written.machine) {
                None => logs.push(written),
                Some(log) => {
                    let mut both = log.clone();
                    if both.absorb(&written).is_ok() {
                        *log = both;
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes back what a log forgets that stands under this machine's name and is none of those that
    /// it wrote, and has a file say that there is another hand.
    async fn doubt(
        &self,
        log: &mut Log,
        entry: &HeadEntry,
        written: &[(BlockId, Log)],
    ) -> Result<(), Error> {
        let own = written.iter().filter(|(_, own)| own.machine == log.machine);
        let (ids, own): (Vec<&BlockId>, Vec<&Log>) = own.map(|(id, own)| (id, own)).unzip();
        let Some(home) = self.home.clone() else {
            return Ok(());
        };
        if own.is_empty() || ids.contains(&&entry.log_id()) {
            return Ok(());
        }
        log.doubt(&own)?;
        let now = self.clock.now();
        blocking(move || {
            home.note_twin(now);
            Ok(())
        })
        .await
    }

    /// The entry that this machine wrote last, which was then the newest of its name.
    pub(super) async fn written_entry(
        &self,
        machine: &[u8; 32],
    ) -> Result<Option<HeadEntry>, Error> {
        let Some(home) = &self.home else {
            return Ok(None);
        };
        let path = home.head_file.clone();
        let written = blocking(move || read_head(&path)).await?;
        let written = written.filter(|written| written.id() == self.access.head());
        Ok(written.and_then(|written| written.entry(machine).cloned()))
    }

    /// A log of this machine together with what this machine itself wrote last, which a pin keeps.
    ///
    /// The newest entry under this machine's name need not be its own: whoever has copied its key
    /// signs entries, too, and may leave out what they like. When both don't fit into one log, this
    /// machine's own counts; what the other one says stays in the history of the head.
    async fn with_written(&self, said: Log, entry: Option<&HeadEntry>) -> Result<Log, Error> {
        let mut log = said;
        let mut written = self.written_logs().await?;
        if let Some(entry) = entry {
            self.doubt(&mut log, entry, &written).await?;
        }
        written.retain(|(_, written)| written.machine == log.machine);
        for (_, written) in written {
            let mut both = log.clone();
            if both.absorb(&written).is_ok() && (both == log || both.has_room()) {
                log = both;
            } else {
                tracing::warn!(
                    "the newest log under this machine's name does not fit beside its own: has its \
                     key been copied?"
                );
                log = written;
            }
        }
        Ok(log)
    }

    async fn write_log(
        &self,
        member: &Membership,
        home: &Arc<Home>,
        (before, log): (&Log, &Log),
        sequence: u64,
        head: Option<&HeadRecord>,
    ) -> Result<HeadRecord, Error> {
        let is_longer = log.snapshots().len() > before.snapshots().len();
        let link = self.keep_log(log.encode()?, !is_longer).await?;
        let entry = HeadEntry::sign(
            self.access.owner.as_bytes(),
            member.machine().signing_key(),
            member.certificate(),
            sequence,
            self.clock.now().0,
            &link,
            &self.access.sealing_key(),
        );
        let record = match head {
            Some(head) => head.with(entry, self.clock.now())?,
            None => HeadRecord::new(entry),
        };
        let (home, head, now) = (home.clone(), record.clone(), self.clock.now());
        blocking(move || home.write(&head, now)).await?;
        let record = self.depot.net().heads().keep(record).await?;
        let store = self.depot.store().clone();
        let root = link.id;
        blocking(move || {
            let mut is_older =
                |info: &PinInfo| info.name == LOG_PIN && info.root != root && info.link.is_some();
            Ok(store.remove_pins(None, &mut is_older).map(drop)?)
        })
        .await?;
        Ok(record)
    }

    /// Seals a log, puts it and pins it, durably. One that `makes_room` is written on a full disk,
    /// too: nothing is forgotten before its log says so.
    async fn keep_log(&self, plaintext: Vec<u8>, makes_room: bool) -> Result<Link, Error> {
        let (store, context) = (self.depot.store().clone(), self.access.context.clone());
        let now = self.clock.now();
        let link = blocking(move || {
            let sealed = block::seal(&context, &plaintext)
                .expect("the log's own limit is below that of a block");
            let link = Link {
                id: sealed.block.id(),
                key: sealed.key,
            };
            let info = PinInfo {
                root: link.id,
                link: Some(link.clone()),
                name: LOG_PIN.to_owned(),
                bytes: plaintext.len() as u64,
                files: 0,
                blocks: 1,
                created: now,
            };
            let pin = store.begin_pin(LOG_PIN)?;
            let keep = match makes_room {
                true => Keep::Removing(pin),
                false => Keep::Pinned(pin),
            };
            let put = store.put(std::slice::from_ref(&sealed.block), keep);
            let kept = put.and_then(|_| store.finish_pin(pin, &info));
            if kept.is_err()
                && let Err(error) = store.abandon_pin(pin)
            {
                tracing::warn!(%error, "the pin of a log that was not kept stays until the next start");
            }
            Ok(kept.map(|()| link)?)
        })
        .await?;
        self.depot.fresh().add([link.id]);
        Ok(link)
    }

    /// Pins a log of this machine that is here, if nothing does. Returns whether nothing did.
    pub(super) async fn pin_log(&self, entry: &HeadEntry) -> Result<bool, Error> {
        let link = self.access.log_of(entry)?;
        let (store, now) = (self.depot.store().clone(), self.clock.now());
        blocking(move || {
            let stat = store.stat(link.id)?;
            if !stat.is_some_and(|stat| stat.local && stat.pins == 0) {
                return Ok(false);
            }
            let pin = store.begin_pin(LOG_PIN)?;
            store.add_refs(pin, &[link.id])?;
            let info = PinInfo {
                root: link.id,
                link: Some(link),
                name: LOG_PIN.to_owned(),
                bytes: 0,
                files: 0,
                blocks: 1,
                created: now,
            };
            store.finish_pin(pin, &info)?;
            Ok(true)
        })
        .await
    }

    /// Tells the head to its keepers. That it can't be done now is no failure: the node publishes what it keeps again and again.
    pub async fn publish(&self, record: HeadRecord) {
        if self.depot.net().peers().connected().is_empty() {
            return;
        }
        let heads = self.depot.heads();
        match tokio::time::timeout(PUBLISH_PATIENCE, heads.publish(record)).await {
            Ok(Ok(report)) => tracing::debug!(peers = report.stored_by, "the head was published"),
            Ok(Err(error)) => tracing::warn!(%error, "the head could not be published now"),
            Err(_) => tracing::warn!("publishing the head takes long; it goes on later"),
        }
    }
}

impl Found {
    /// This, or why there is nothing.
    ///
    /// # Errors
    /// [`Error::NoHead`]; [`Error::NoLogs`] when none of the logs that the head names could be had.
    /// Neither when snapshots were found all the same.
    pub fn or_missing(mut self) -> Result<Self, Error> {
        if !self.catalog.snapshots().is_empty() || !self.older.snapshots().is_empty() {
            return Ok(self);
        }
        if self.head.is_none() {
            return Err(Error::NoHead { asked: self.peers });
        }
        if self.logs.is_empty() && !self.unread.is_empty() {
            let machines = self.unread.len();
            let (_, source) = self.unread.swap_remove(0);
            return Err(Error::NoLogs {
                machines,
                source: Box::new(source),
            });
        }
        Ok(self)
    }

    /// The names of the machines, by their keys.
    pub fn machine_names(&self) -> BTreeMap<[u8; 32], String> {
        self.logs
            .iter()
            .map(|log| (log.machine, log.machine_name.clone()))
            .collect()
    }
}

/// Snapshots that more than one machine names, as each of them does.
fn rivals(logs: &[Log]) -> Vec<(Link, [u8; 32])> {
    let mut makers: BTreeMap<BlockId, BTreeSet<[u8; 32]>> = BTreeMap::new();
    for log in logs {
        for logged in log.snapshots() {
            makers
                .entry(logged.snapshot.id)
                .or_default()
                .insert(log.machine);
        }
    }
    let all = logs.iter().flat_map(|log| {
        let snapshots = log.snapshots().iter();
        snapshots.map(|logged| (logged.snapshot.clone(), log.machine))
    });
    let is_shared = |(link, _): &(Link, _)| makers.get(&link.id).is_some_and(|of| of.len() > 1);
    all.filter(is_shared).collect()
}

pub(super) async fn read_log(
    source: &dyn BlockSource,
    entry: &HeadEntry,
    access: &Access,
) -> Result<Log, Error> {
    read_log_at(source, &access.log_of(entry)?, entry.machine()).await
}

pub(super) async fn read_log_at(
    source: &dyn BlockSource,
    link: &Link,
    machine: &[u8; 32],
) -> Result<Log, Error> {
    let log = read_any_log(source, link).await?;
    if log.machine != *machine {
        return Err(Error::Malformed {
            id: link.id,
            what: "it is the log of another machine",
        });
    }
    Ok(log)
}

async fn read_any_log(source: &dyn BlockSource, link: &Link) -> Result<Log, Error> {
    let plaintext = open(source.get(link.id).await?, link.key.clone()).await?;
    Log::decode(link.id, &plaintext)
}

/// Reads a snapshot's block.
///
/// # Errors
/// [`Error::Get`], [`Error::Open`], [`Error::NotASnapshot`] and what decoding says.
pub async fn read_snapshot(source: &dyn BlockSource, link: &Link) -> Result<Snapshot, Error> {
    let plaintext = open(source.get(link.id).await?, link.key.clone()).await?;
    Snapshot::decode(link.id, &plaintext)
}

async fn open(block: Block, key: Key) -> Result<bytes::Bytes, Error> {
    let opened = tokio::task::spawn_blocking(move || block::open(&block, &key)).await;
    Ok(opened.map_err(|_| Error::Stopping)??)
}

/// Runs what blocks on a thread that may.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Stopping)?
}

pub(super) fn put_pinned(store: &dyn Store, block: &Block, pin: PinId) -> Result<(), Error> {
    store.put(std::slice::from_ref(block), Keep::Pinned(pin))?;
    Ok(())
}

/// Time at which a machine of `owner` last wrote its log, by the file with the head in `data_dir`;
/// none before the first time. Needs no keys and no store.
///
/// # Errors
/// [`Error::File`].
pub fn last_written(
    data_dir: &Path,
    owner: &[u8; 32],
    machine: &[u8; 32],
) -> Result<Option<Timestamp>, Error> {
    let head = read_head(&data_dir.join(HEAD_FILE))?;
    // A file of another owner than the one of now is an old one.
    let head = head.filter(|head| head.owner() == owner);
    let entry = head.as_ref().and_then(|head| head.entry(machine));
    Ok(entry.map(|entry| Timestamp(entry.time_ms())))
}

/// The present key that the owner's head hands over to a machine, by the file with the head in
/// `data_dir`; none when the machine has it already, or does not get it. Needs no store.
///
/// # Errors
/// [`Error::File`].
pub fn present_key(data_dir: &Path, member: &Membership) -> Result<Option<GenerationKey>, Error> {
    let owner = member.owner().as_bytes();
    let decisions = read_decisions(&data_dir.join(HEAD_FILE), owner)?;
    let handover = decisions.as_ref().and_then(Decisions::handover);
    let Some(handover) = handover.filter(|one| one.generation() > member.generation().number())
    else {
        return Ok(None);
    };
    let key = handover.open(owner, member.machine().signing_key());
    let key = key.map(|key| GenerationKey::new(handover.generation(), key));
    // A key that does not give those of before is not the owner's.
    let known = member.generation();
    Ok(key.filter(|key| key.at(known.number()).as_ref() == Some(known)))
}

/// Reads the owner's decisions in the file with the head. Only the decisions are checked, which is
/// quick.
fn read_decisions(path: &Path, owner: &[u8; 32]) -> Result<Option<Decisions>, Error> {
    let head = match file::read(path, MAX_RECORD_BYTES as u64) {
        Ok(bytes) => bytes.and_then(|bytes| HeadRecord::decode(&bytes).ok()),
        Err(error) if file::is_damage(&error) => None,
        Err(source) => {
            return Err(Error::File {
                what: "reading",
                path: path.to_owned(),
                source,
            });
        }
    };
    let head = head.filter(|head| head.owner() == owner);
    let decisions = head.map(|head| head.decisions().clone());
    Ok(decisions.filter(|decisions| decisions.is_by(owner)))
}

/// Head that this machine wrote last. A file that is damaged counts as none and is put aside: the
/// head is elsewhere, too.
fn read_head(path: &Path) -> Result<Option<HeadRecord>, Error> {
    let failed = |source| Error::File {
        what: "reading",
        path: path.to_owned(),
        source,
    };
    let bytes = match file::read(path, MAX_RECORD_BYTES as u64) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(error) if file::is_damage(&error) => {
            head_is_damaged(path, &error);
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    let record = HeadRecord::decode(&bytes).and_then(|record| {
        record.validate(&record.id())?;
        Ok(record)
    });
    match record {
        Ok(record) => Ok(Some(record)),
        Err(error) => {
            head_is_damaged(path, &error);
            Ok(None)
        }
    }
}

fn head_is_damaged(path: &Path, error: &dyn std::error::Error) {
    tracing::warn!(%error, path = %path.display(), "the file with the head is damaged and not used");
    if let Err(error) = file::put_aside(path) {
        tracing::warn!(%error, "it could not be put aside");
    }
}

/// Replaces the file in one step, durably.
fn write_head(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    file::replace(path, bytes).map_err(|source| Error::File {
        what: "writing",
        path: path.to_owned(),
        source,
    })
}
