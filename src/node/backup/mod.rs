//! Calls about backups: running and listing them, and whose they are. Reading them: `read.rs`.
//! Forgetting: `forgetting.rs`. Pruning and checking: `care.rs`.

mod care;
mod forgetting;
mod machines;
mod read;

pub(super) use machines::troubles;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::api::*;
use super::failure::chain;
use super::{Node, NodeEvent, blocking};
use crate::backup::owner::{self, GenerationKey, Membership, State, Vault};
use crate::backup::run::Job;
use crate::backup::{self, Access, Archive, Found, Listed, Search};
use crate::block::Link;
use crate::bundle::{self, FilterOptions};
use crate::crypto::key::Key;
use crate::monitor::Monitor;
use crate::time::{self, Timestamp};

/// Most files that an answer names one by one.
const MAX_NAMED: usize = 10_000;
/// How long to look for a log that should be here.
pub(super) const LOG_PATIENCE: Duration = Duration::from_secs(10);
/// Pause before a head that others don't tell yet is looked for again.
const READ_AGAIN: Duration = Duration::from_millis(500);

/// The owner whose file was unlocked by a passphrase, for as long as the node runs.
#[derive(Default)]
pub(super) struct Unlocked(Mutex<Option<Membership>>);

/// Turns for sets: each is backed up by one call at a time, whoever asks for it.
#[derive(Default)]
pub(super) struct Turns(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// Waits for the turn of a set. It ends when what is returned is dropped.
    async fn take(&self, set: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            // Each change is whole before the lock is given back.
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            match turns.get(set).and_then(Weak::upgrade) {
                Some(turn) => turn,
                None => {
                    let turn = Arc::default();
                    turns.insert(set.to_owned(), Arc::downgrade(&turn));
                    turn
                }
            }
        };
        turn.lock_owned().await
    }
}

impl BackupReply {
    /// Nothing was done.
    fn not_due(set: String) -> Self {
        Self {
            snapshot: String::new(),
            link: None,
            not_due: true,
            set,
            files: 0,
            bytes: 0,
            new_bytes: 0,
            unchanged: 0,
            excluded: 0,
            to_read: 0,
            unreadable: Vec::new(),
            left_out: Vec::new(),
            unmatched: Vec::new(),
            copies: CopiesReply::default(),
        }
    }
}

/// This machine's newest snapshot of a set, by the order of its log.
pub(super) fn newest<'a>(found: &'a Found, member: &Membership, set: &str) -> Option<&'a Listed> {
    let machine = member.machine().id();
    let mut own = found.catalog.snapshots().iter().rev();
    own.find(|listed| listed.machine == *machine.as_bytes() && listed.logged.summary.set == set)
}

/// When this machine last began to back up a set, by the order of its log.
pub(super) fn last_run(found: &Found, member: &Membership, set: &str) -> Option<Timestamp> {
    newest(found, member, set).map(|listed| listed.made)
}

impl Node {
    /// Backs up some paths. A set waits for its turn: it is never backed up twice at the same time.
    ///
    /// # Errors
    /// [`ErrorKind::NoOwner`], [`ErrorKind::OwnerLocked`], [`ErrorKind::Usage`] for a wrong pattern, [`ErrorKind::Full`]. What can't be read is
    /// reported, not an error.
    pub async fn backup(
        &self,
        request: Backup,
        monitor: Arc<dyn Monitor>,
    ) -> Result<BackupReply, CallError> {
        let member = self.member(&request.speaker).await?;
        // A backup sealed with keys of before would have to be sealed again.
        self.own_archive(&member).learn().await?;
        let node = self.clone();
        let member = blocking(move || Ok(node.with_present_key(member))).await?;
        let archive = self.own_archive(&member);
        let _turn = match request.set.is_empty() || request.dry_run {
            true => None,
            false => Some(self.inner.turns.take(&request.set).await),
        };
        if let Some(schedule) = request.due {
            let found = archive.find(Search::Here, LOG_PATIENCE).await?;
            let last = last_run(&found, &member, &request.set);
            if !schedule.is_due(last, self.now(), &time::zone()) {
                return Ok(BackupReply::not_due(request.set));
            }
        }
        let exclusions = request.exclusions;
        let job = Job {
            paths: request.paths,
            set: request.set.clone(),
            tags: request.tags,
            filter: FilterOptions {
                exclude: exclusions.exclude,
                include: exclusions.include,
                ignore_files: exclusions.ignore_files,
                cache_directories: exclusions.cache_directories,
                max_file_bytes: exclusions.max_file_bytes,
            },
            one_file_system: exclusions.one_file_system,
            own: self.own(),
            force: request.force,
        };
        let (cancel, _cancel_on_drop) = self.cancel_on_drop();
        if request.dry_run {
            let survey = backup::run::dry_run(&archive, &member, job, monitor, cancel).await?;
            return Ok(BackupReply {
                snapshot: String::new(),
                link: None,
                not_due: false,
                set: request.set,
                files: survey.files,
                bytes: survey.bytes,
                new_bytes: 0,
                unchanged: survey.unchanged,
                excluded: survey.excluded,
                to_read: survey.to_read,
                unreadable: unreadable(survey.unreadable),
                left_out: unreadable(survey.left_out),
                unmatched: survey.unmatched,
                copies: CopiesReply::default(),
            });
        }
        let done = backup::run::run(&archive, &member, job, monitor, cancel).await?;
        let unmatched = &done.report.unmatched;
        self.inner.schedule.succeed(&request.set, unmatched);
        let unreadable_total = done.report.unreadable.len() as u64;
        self.happened(NodeEvent::BackedUp {
            set: request.set.clone(),
            snapshot: done.link.id.to_hex(),
            files: done.report.files,
            bytes: done.report.bytes,
            unreadable: unreadable_total,
        });
        let begun = tokio::time::Instant::now();
        let wait = (request.wait).then(|| Duration::from_secs(request.timeout_s));
        let copies = self.copy(done.link.id, &request.set, request.copies, wait);
        let mut copies = copies.await?;
        if let Some(patience) = wait.filter(|_| copies.asked > 0) {
            let until = begun + patience;
            copies.head = self.read_back(&archive, &member, until).await?;
        }
        Ok(BackupReply {
            snapshot: done.link.id.to_hex(),
            link: Some(done.link),
            not_due: false,
            set: request.set,
            files: done.report.files,
            bytes: done.report.bytes,
            new_bytes: done.report.new_bytes,
            unchanged: done.report.unchanged,
            excluded: done.report.excluded,
            to_read: 0,
            unreadable: unreadable(done.report.unreadable),
            left_out: unreadable(done.report.left_out),
            unmatched: done.report.unmatched,
            copies,
        })
    }

    /// Reads the head back from others until it leads to this machine's newest backup, or the time
    /// is over. None when nobody is connected.
    pub(super) async fn read_back(
        &self,
        archive: &Archive,
        member: &Membership,
        until: tokio::time::Instant,
    ) -> Result<Option<HeadState>, CallError> {
        let machine = *member.machine().id().as_bytes();
        loop {
            if self.net().peers().connected().is_empty() {
                return Ok(None);
            }
            let Some(read) = archive.read_back(&machine).await? else {
                return Ok(None);
            };
            let is_over = tokio::time::Instant::now() + READ_AGAIN >= until;
            if read.is_found() || read.is_overtaken || is_over {
                return Ok(Some(HeadState {
                    told: u32::try_from(read.told).unwrap_or(u32::MAX),
                    log: read.has_log,
                    overtaken: read.is_overtaken,
                }));
            }
            if let Some(head) = archive.find(Search::Here, Duration::ZERO).await?.head {
                archive.publish(head).await;
            }
            tokio::time::sleep(READ_AGAIN).await;
        }
    }

    /// Lists an owner's snapshots.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when a head was to be looked for and none was found.
    pub async fn snapshots(&self, request: Snapshots) -> Result<SnapshotsReply, CallError> {
        let archive = self.archive(&request.speaker).await?;
        // A speaker that has only the words has nothing else to hold the head against.
        let is_deep = request.older || request.speaker.keys.is_some();
        let found = match request.timeout_s {
            0 if !request.older => archive.find(Search::Glance, LOG_PATIENCE).await?,
            seconds => {
                let patience = Duration::from_secs(seconds).max(LOG_PATIENCE);
                look(&archive, patience, is_deep).await?
            }
        };
        let names = found.machine_names();
        let machines = found.head.iter().flat_map(|head| head.newest());
        let machines = machines.map(|entry| {
            let why = found.unread.iter().find(|(key, _)| key == entry.machine());
            MachineState {
                machine: owner::MachineId::new(*entry.machine()).to_string(),
                name: names.get(entry.machine()).cloned().unwrap_or_default(),
                sequence: entry.sequence(),
                updated: Timestamp(entry.time_ms()),
                missing: why.map(|(_, error)| chain(error)),
            }
        });
        let machines = machines.collect();
        let choice = choice(&request.choice);
        let requests = self.requests(&found);
        let deleted = match request.deleted {
            true => self.deleted(found.deleted()),
            false => Vec::new(),
        };
        let older = found.older.choose(&choice).unwrap_or_default();
        let mut notes = found.notes;
        if !request.older && !older.is_empty() {
            let count = crate::text::count(older.len() as u64, "more snapshot");
            notes.push(format!(
                "{count} that only earlier entries of the head or leases lead to: --older lists them"
            ));
        }
        Ok(SnapshotsReply {
            owner: archive.access().owner().to_string(),
            head: archive.access().head().to_hex(),
            machines,
            older: self.describe_all(older.into_iter().filter(|_| request.older).collect()),
            snapshots: self.describe_all(found.catalog.choose(&choice)?),
            requests,
            deleted,
            notes,
            told: found.told as u64,
            agree: found.agree as u64,
        })
    }

    fn describe_all(&self, listed: Vec<&Listed>) -> Vec<SnapshotInfo> {
        let now = self.now();
        listed
            .into_iter()
            .map(|listed| describe(listed, now))
            .collect()
    }

    /// The owner of the data directory, unlocked.
    pub(super) async fn member(&self, speaker: &Speaker) -> Result<Membership, CallError> {
        let passphrase = speaker.passphrase.clone().map(zeroize::Zeroizing::new);
        let node = self.clone();
        blocking(move || node.open_member(passphrase)).await
    }

    /// As [`member`](Self::member), on a thread that may block.
    pub(super) fn open_member(
        &self,
        passphrase: Option<zeroize::Zeroizing<String>>,
    ) -> Result<Membership, CallError> {
        let member = self.stored_member(passphrase)?;
        Ok(self.with_present_key(member))
    }

    /// A membership with the keys that the owner has handed over since it was stored.
    fn with_present_key(&self, member: Membership) -> Membership {
        match backup::present_key(&self.inner.options.data_dir, &member) {
            Ok(Some(key)) => member.with_generation(key),
            Ok(None) => member,
            Err(error) => {
                tracing::warn!(%error, "whether the owner's keys were changed is not known");
                member
            }
        }
    }

    fn stored_member(
        &self,
        passphrase: Option<zeroize::Zeroizing<String>>,
    ) -> Result<Membership, CallError> {
        let vault = Vault::open(&self.inner.options.data_dir)?.ok_or_else(|| {
            CallError::new(ErrorKind::NoOwner, "this machine has no owner yet")
                .with_hint("`libernet init` makes one, `libernet init --recover` brings one back")
        })?;
        let locked = match vault.state {
            State::Open(member) => return Ok(member),
            State::Locked(locked) => locked,
        };
        let unlocked = &self.inner.unlocked.0;
        let mut unlocked = unlocked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(passphrase) = passphrase {
            let member = locked.unlock(passphrase.as_bytes())?;
            *unlocked = Some(member);
        }
        match &*unlocked {
            Some(member) if member.machine().id() == *locked.machine() => Ok(member.clone()),
            _ => Err(CallError::new(
                ErrorKind::OwnerLocked,
                "the owner's keys are protected by a passphrase",
            )
            .with_hint("give it at the prompt, or with --passphrase-file")),
        }
    }

    /// The archive of this machine's owner, which it may write.
    pub(super) fn own_archive(&self, member: &Membership) -> Archive {
        Archive::new(
            self.depot().clone(),
            Access::from(member),
            self.inner.clock.clone(),
            Some(self.inner.home.clone()),
        )
    }

    /// The archive of whoever speaks.
    async fn archive(&self, speaker: &Speaker) -> Result<Archive, CallError> {
        let Some(keys) = &speaker.keys else {
            return Ok(self.own_archive(&self.member(speaker).await?));
        };
        let wrong = || CallError::new(ErrorKind::Usage, "these are not the keys of an owner");
        let key: Key = keys.key.parse().map_err(|_| wrong())?;
        let generation = GenerationKey::new(keys.generation, key);
        let access = Access::new(keys.owner.parse().map_err(|_| wrong())?, &generation);
        if !speaker.no_meet {
            self.want_head(access.head());
        }
        let depot = self.depot().clone();
        Ok(Archive::new(depot, access, self.inner.clock.clone(), None))
    }
}

/// Looks for head and logs: a short look where the head is here, and otherwise as long as
/// `patience`. Snapshots that the newest entries don't lead to are looked for by earlier ones and
/// by leases when the head or a log is missing, and with `is_deep` in any case.
async fn look(archive: &Archive, patience: Duration, is_deep: bool) -> Result<Found, CallError> {
    let here = archive
        .find(Search::Glance, LOG_PATIENCE.min(patience))
        .await?;
    let mut found = match here.head {
        Some(_) if here.unread.is_empty() => here,
        _ => archive.find(Search::Until(patience), patience).await?,
    };
    if is_deep || found.head.is_none() || !found.unread.is_empty() {
        archive.look_back(&mut found, patience).await?;
    }
    Ok(found.or_missing()?)
}

fn choice(choice: &Choice) -> backup::Choice {
    backup::Choice {
        set: choice.set.clone(),
        tags: choice.tags.clone(),
        machine: choice.machine.clone(),
        paths: choice.paths.clone(),
    }
}

fn describe(listed: &Listed, now: Timestamp) -> SnapshotInfo {
    let logged = &listed.logged;
    let misdated = listed.is_misdated(now);
    SnapshotInfo {
        misdated,
        ..info(&logged.snapshot, &listed.machine_name, &logged.summary)
    }
}

fn info(link: &Link, machine: &str, summary: &backup::Summary) -> SnapshotInfo {
    SnapshotInfo {
        snapshot: link.id.to_hex(),
        cid: link.id.to_string(),
        link: link.clone(),
        time: summary.started,
        misdated: false,
        machine: machine.to_owned(),
        set: summary.set.clone(),
        paths: summary.paths.iter().map(|path| shown(path)).collect(),
        tags: summary.tags.clone(),
        files: summary.files,
        bytes: summary.bytes,
        new_bytes: summary.new_bytes,
    }
}

/// Paths that a report names, for an answer.
pub(super) fn unreadable(files: Vec<bundle::Unreadable>) -> Vec<Unreadable> {
    let files = files.into_iter().take(MAX_NAMED);
    files
        .map(|file| Unreadable::new(&file.path, file.reason))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_set_has_one_turn_at_a_time() {
        let turns = Arc::new(Turns::default());
        let first = turns.take("home").await;
        // Another set does not wait.
        drop(turns.take("photos").await);
        let waiting = tokio::spawn({
            let turns = turns.clone();
            async move { drop(turns.take("home").await) }
        });
        for _ in 0..9 {
            tokio::task::yield_now().await;
        }
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.expect("it has its turn");
        drop(turns.take("home").await);
        let left = turns.0.lock().expect("nothing panicked").len();
        assert!(left <= 1, "what nobody waits for is forgotten");
    }
}
