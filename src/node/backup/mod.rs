//! Calls about backups: running, listing, reading and restoring. What is done with what there is: `care.rs`.

mod care;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use jiff::tz::TimeZone;
use tokio_util::io::ReaderStream;

use super::api::*;
use super::failure::chain;
use super::{Node, blocking, givers};
use crate::backup::owner::{self, Membership, State, Vault};
use crate::backup::run::Job;
use crate::backup::{
    self, Access, Archive, Found, Listed, Search, Snapshot, find_files, read_snapshot,
};
use crate::block::Link;
use crate::bundle::tree::Content;
use crate::bundle::{self, Bundle, ExtractOptions, FilterOptions, TarOptions};
use crate::crypto::key::Key;
use crate::depot::Session;
use crate::monitor::{Monitor, Silent};
use crate::store::Keep;
use crate::time::Timestamp;
use std::sync::Arc;

/// Most files that an answer names one by one.
const MAX_NAMED: usize = 10_000;
/// Bytes of an archive that wait for who reads it.
const TAR_AHEAD_BYTES: usize = 1 << 20;
/// How long to look for a log that should be here.
pub(super) const LOG_PATIENCE: Duration = Duration::from_secs(10);

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
            copies: CopiesReply::default(),
        }
    }
}

/// When this machine last began to back up a set.
pub(super) fn last_run(found: &Found, member: &Membership, set: &str) -> Option<Timestamp> {
    let machine = member.machine().id();
    let mut own = found.catalog.snapshots().iter().rev();
    let last = own
        .find(|listed| listed.machine == *machine.as_bytes() && listed.logged.summary.set == set);
    last.map(|listed| listed.logged.summary.started)
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
        let archive = self.own_archive(&member);
        let _turn = match request.set.is_empty() || request.dry_run {
            true => None,
            false => Some(self.inner.turns.take(&request.set).await),
        };
        if let Some(schedule) = request.due {
            let found = archive.find(Search::Here, LOG_PATIENCE).await?;
            let last = last_run(&found, &member, &request.set);
            if !schedule.is_due(last, self.now(), &TimeZone::system()) {
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
                root: PathBuf::new(),
                ignore_files: exclusions.ignore_files,
                cache_directories: exclusions.cache_directories,
                max_file_bytes: exclusions.max_file_bytes,
            },
            one_file_system: exclusions.one_file_system,
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
                copies: CopiesReply::default(),
            });
        }
        let done = backup::run::run(&archive, &member, job, monitor, cancel).await?;
        let wait = (request.wait).then(|| Duration::from_secs(request.timeout_s));
        let copies = self.copy(done.link.id, &request.set, request.copies, wait);
        let copies = copies.await?;
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
            copies,
        })
    }

    /// Lists an owner's snapshots.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when a head was to be looked for and none was found.
    pub async fn snapshots(&self, request: Snapshots) -> Result<SnapshotsReply, CallError> {
        let archive = self.archive(&request.speaker).await?;
        let found = match request.timeout_s {
            0 => archive.find(Search::Glance, LOG_PATIENCE).await?,
            seconds => look(&archive, Duration::from_secs(seconds)).await?,
        };
        let names = found.machine_names();
        let machines = found.head.iter().flat_map(|head| head.entries());
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
        Ok(SnapshotsReply {
            owner: archive.access().owner().to_string(),
            head: archive.access().head().to_hex(),
            machines: machines.collect(),
            snapshots: found.catalog.snapshots().iter().map(describe).collect(),
        })
    }

    /// Finds the tree of a snapshot.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a head or a block, [`ErrorKind::Usage`] when no snapshot is called so.
    pub async fn snapshot_tree(
        &self,
        request: SnapshotTree,
    ) -> Result<SnapshotTreeReply, CallError> {
        let chosen = self.choose(&request.of).await?;
        Ok(SnapshotTreeReply {
            tree: chosen.snapshot.tree.clone(),
            info: chosen.info(),
        })
    }

    /// Writes a snapshot, or a part of it, to disk.
    ///
    /// # Errors
    /// As [`snapshot_tree`](Self::snapshot_tree), and [`ErrorKind::Full`]. Blocks missing further down are reported, not errors.
    pub async fn restore(
        &self,
        request: Restore,
        monitor: Arc<dyn Monitor>,
    ) -> Result<RestoreReply, CallError> {
        let chosen = self.choose(&request.of).await?;
        let bundle = chosen.bundle().await?;
        let from = names(&request.path);
        let mut target = request.target.clone();
        if !from.is_empty() {
            let entry = entry_at(&bundle, &request.path).await?;
            if !matches!(entry.content, Content::Directory(_)) {
                use std::os::unix::ffi::OsStrExt;
                target.push(std::ffi::OsStr::from_bytes(&entry.name));
            }
        }
        let is_there = target.symlink_metadata().is_ok();
        let options = ExtractOptions {
            overwrite: match request.overwrite {
                Overwrite::Never => bundle::Overwrite::Missing,
                Overwrite::Changed => bundle::Overwrite::Changed,
                Overwrite::Always => bundle::Overwrite::Always,
            },
            owners: request.owners,
            devices: request.owners,
            root_attributes: !from.is_empty() && !is_there,
            from,
            select: request.include,
            first: request.first,
            newest_first: request.newest_first,
            dry_run: request.dry_run,
            verify: request.verify,
            ..ExtractOptions::default()
        };
        let (cancel, _cancel_on_drop) = self.cancel_on_drop();
        let report = bundle::extract(&bundle, &target, options, monitor, cancel).await?;
        let is_complete = report.is_complete();
        let missing_total = report.missing_total + report.failed_total;
        let mut missing = missing(report.missing);
        missing.extend(report.failed.into_iter().map(|part| MissingPart {
            path: part.path.to_string_lossy().into_owned(),
            block: None,
            reason: part.reason,
        }));
        missing.truncate(MAX_NAMED);
        Ok(RestoreReply {
            snapshot: chosen.link.id.to_hex(),
            time: chosen.snapshot.summary.started,
            files: report.files,
            bytes: report.bytes,
            // What could not be read back as it was written is among the failures.
            verified: is_complete && !request.dry_run,
            unchanged: report.unchanged,
            skipped: report.skipped,
            missing,
            missing_total,
            from: givers(&chosen.session),
            target: report.path,
        })
    }

    /// Streams a snapshot, or a part of it, as a tar archive.
    ///
    /// # Errors
    /// As [`restore`](Self::restore). That something was missing is an error at the end of the stream.
    pub async fn restore_tar(
        &self,
        request: RestoreTar,
    ) -> Result<BoxStream<'static, Result<Bytes, CallError>>, CallError> {
        let chosen = self.choose(&request.of).await?;
        let bundle = chosen.bundle().await?;
        let options = TarOptions {
            from: names(&request.path),
            select: request.include,
        };
        if !options.from.is_empty() {
            entry_at(&bundle, &request.path).await?;
        }
        let (mut writer, reader) = tokio::io::duplex(TAR_AHEAD_BYTES);
        let (cancel, cancel_on_drop) = self.cancel_on_drop();
        let work = async move {
            let report =
                bundle::write_tar(&bundle, &options, &mut writer, &Silent, &cancel).await?;
            match report.missing.first() {
                None => Ok(()),
                Some(first) => Err(CallError {
                    block: Some(first.block),
                    ..CallError::new(
                        ErrorKind::NotFound,
                        format!(
                            "the archive is not whole: {} parts are missing, such as {}: {}",
                            report.missing_total,
                            first.path.display(),
                            first.reason
                        ),
                    )
                }),
            }
        };
        let work = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(work));
        let bytes = ReaderStream::new(reader).map(|bytes| {
            bytes.map_err(|error| CallError::new(ErrorKind::Failed, error.to_string()))
        });
        let end = futures::stream::once(async move {
            let _cancel_on_drop = cancel_on_drop;
            work.await.map_err(super::failure::stopped)?
        });
        let end =
            end.filter_map(|result: Result<(), CallError>| async move { result.err().map(Err) });
        Ok(bytes.chain(end).boxed())
    }

    /// Looks for files by name in the snapshots, the newest first.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a wrong pattern; as [`snapshot_tree`](Self::snapshot_tree).
    pub async fn find_file(&self, request: FindFile) -> Result<FindFileReply, CallError> {
        let patience = Duration::from_secs(request.timeout_s);
        let archive = self.archive(&request.speaker).await?;
        let found = look(&archive, patience).await?;
        let snapshots: Vec<Listed> = match &request.snapshot {
            Some(name) => vec![found.catalog.find(name)?.clone()],
            None => found.catalog.snapshots().iter().rev().cloned().collect(),
        };
        let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
        let limit = limit.clamp(1, MAX_NAMED);
        let session = self.depot().session(patience, Keep::Cached);
        let result = find_files(session, &snapshots, &request.pattern, limit).await?;
        let matches = result.matches.into_iter().map(|hit| FoundFile {
            snapshot: hit.snapshot.to_hex(),
            time: hit.time,
            path: absolute(&hit.path),
            kind: hit.entry.content.kind_name().to_owned(),
            bytes: hit.entry.size(),
            mtime_s: hit.entry.modified.map_or(0, |time| time.seconds),
        });
        Ok(FindFileReply {
            matches: matches.collect(),
            more: result.more,
            missing: result
                .unread
                .into_iter()
                .map(|(snapshot, error)| MissingPart {
                    path: format!("snapshot {}", snapshot.to_hex()),
                    block: None,
                    reason: chain(&error),
                })
                .collect(),
        })
    }

    /// Compares two snapshots.
    ///
    /// # Errors
    /// As [`snapshot_tree`](Self::snapshot_tree).
    pub async fn diff(&self, request: Diff) -> Result<DiffReply, CallError> {
        let of = |snapshot| SnapshotRef {
            speaker: request.speaker.clone(),
            snapshot,
            timeout_s: request.timeout_s,
        };
        let before = self.choose(&of(request.a.clone())).await?;
        let after = self.choose(&of(request.b.clone())).await?;
        let limit = (request.limit as usize).min(MAX_NAMED);
        let (mut changes, mut more) = (Vec::new(), false);
        let note = |change: bundle::Change| match changes.len() < limit {
            true => changes.push(ChangedFile {
                change: match change.kind {
                    bundle::ChangeKind::Added => "added",
                    bundle::ChangeKind::Removed => "removed",
                    bundle::ChangeKind::Content => "content",
                    bundle::ChangeKind::Attributes => "attributes",
                    bundle::ChangeKind::Kind => "kind",
                }
                .to_owned(),
                path: absolute(&change.path),
            }),
            false => more = true,
        };
        let (a, b) = (before.bundle().await?, after.bundle().await?);
        let report = bundle::diff(&a, &b, note).await?;
        Ok(DiffReply {
            changes,
            more,
            added: report.added,
            removed: report.removed,
            changed: report.changed,
            attributes: report.attributes,
            added_bytes: report.added_bytes,
            removed_bytes: report.removed_bytes,
        })
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
        let key = |text: &str| text.parse::<Key>().map_err(|_| wrong());
        let access = Access::new(
            keys.owner.parse().map_err(|_| wrong())?,
            key(&keys.backup_root)?,
            key(&keys.convergence)?,
        );
        let depot = self.depot().clone();
        Ok(Archive::new(depot, access, self.inner.clock.clone(), None))
    }

    async fn choose(&self, of: &SnapshotRef) -> Result<Chosen, CallError> {
        let patience = Duration::from_secs(of.timeout_s);
        let session = self.depot().session(patience, Keep::Cached);
        let by_link: Option<Link> = of.snapshot.parse().ok();
        let (link, machine_name) = match by_link {
            Some(link) => (link, None),
            None => {
                let archive = self.archive(&of.speaker).await?;
                let found = look(&archive, patience).await?;
                let listed = found.catalog.find(&of.snapshot)?;
                let name = listed.machine_name.clone();
                (listed.logged.snapshot.clone(), Some(name))
            }
        };
        let mut snapshot = read_snapshot(&*session, &link).await?;
        // A machine's name of now says more than that of then.
        snapshot.machine_name = machine_name.unwrap_or(snapshot.machine_name);
        Ok(Chosen {
            link,
            snapshot,
            session,
        })
    }
}

/// A snapshot and where its blocks come from.
struct Chosen {
    link: Link,
    snapshot: Snapshot,
    session: Arc<Session>,
}

impl Chosen {
    async fn bundle(&self) -> Result<Bundle, CallError> {
        Ok(Bundle::open(self.session.clone(), self.snapshot.tree.clone()).await?)
    }

    fn info(&self) -> SnapshotInfo {
        info(
            &self.link,
            &self.snapshot.machine_name,
            &self.snapshot.summary,
        )
    }
}

/// Looks for head and logs: a short look where the head is here, and otherwise as long as `patience`.
async fn look(archive: &Archive, patience: Duration) -> Result<Found, CallError> {
    let here = archive
        .find(Search::Glance, LOG_PATIENCE.min(patience))
        .await?;
    let found = match here.head {
        Some(_) if here.unread.is_empty() => here,
        _ => archive.find(Search::Until(patience), patience).await?,
    };
    Ok(found.or_missing()?)
}

fn describe(listed: &Listed) -> SnapshotInfo {
    let logged = &listed.logged;
    info(&logged.snapshot, &listed.machine_name, &logged.summary)
}

fn info(link: &Link, machine: &str, summary: &backup::Summary) -> SnapshotInfo {
    SnapshotInfo {
        snapshot: link.id.to_hex(),
        link: link.clone(),
        time: summary.started,
        machine: machine.to_owned(),
        set: summary.set.clone(),
        paths: summary
            .paths
            .iter()
            .map(|path| String::from_utf8_lossy(path).into_owned())
            .collect(),
        tags: summary.tags.clone(),
        files: summary.files,
        bytes: summary.bytes,
        new_bytes: summary.new_bytes,
    }
}

fn unreadable(files: Vec<bundle::Unreadable>) -> Vec<Unreadable> {
    let files = files.into_iter().take(MAX_NAMED);
    files
        .map(|file| Unreadable {
            path: file.path.to_string_lossy().into_owned(),
            reason: file.reason,
        })
        .collect()
}

fn missing(parts: Vec<bundle::Missing>) -> Vec<MissingPart> {
    parts
        .into_iter()
        .map(|part| MissingPart {
            path: part.path.to_string_lossy().into_owned(),
            block: Some(part.block),
            reason: part.reason,
        })
        .collect()
}

/// The names of a path, from the root down.
fn names(path: &str) -> Vec<Bytes> {
    path.split('/')
        .filter(|name| !name.is_empty())
        .map(|name| Bytes::copy_from_slice(name.as_bytes()))
        .collect()
}

fn absolute(path: &[u8]) -> String {
    Path::new("/")
        .join(String::from_utf8_lossy(path).as_ref())
        .to_string_lossy()
        .into_owned()
}

async fn entry_at(bundle: &Bundle, path: &str) -> Result<bundle::tree::Entry, CallError> {
    bundle.lookup(path.as_bytes()).await?.ok_or_else(|| {
        CallError::new(
            ErrorKind::Usage,
            format!("there is no '{path}' in the snapshot"),
        )
        .with_hint("`libernet ls SNAPSHOT:/` shows what there is")
    })
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
