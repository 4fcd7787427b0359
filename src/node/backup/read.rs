//! Calls that read a snapshot: as files, as an archive, by name, and beside another one.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio_util::io::ReaderStream;

use super::super::Node;
use super::super::api::*;
use super::super::failure::{chain, stopped};
use super::super::giving::{Giving, givers};
use super::{MAX_NAMED, choice, info, look};
use crate::backup::{self, Archive, Listed, Snapshot, find_files, read_snapshot};
use crate::block::Link;
use crate::bundle::pattern::Line;
use crate::bundle::{self, Bundle, ExtractOptions, Found, Last, TarOptions};
use crate::depot::Session;
use crate::monitor::{Monitor, Silent};
use crate::store::Keep;

/// Bytes of an archive that wait for who reads it.
const TAR_AHEAD_BYTES: usize = 1 << 20;
/// Name of the newest snapshot.
const LATEST: &str = "latest";
/// Snapshots that are tried in place of a newest one that can't be read, and how long each.
const MAX_EARLIER: usize = 16;
const EARLIER_PATIENCE: Duration = Duration::from_secs(5);

impl Node {
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
        let Found { path, entry } = chosen.place(&bundle, &request.path).await?;
        let (from, is_tree) = (names(&path), entry.is_directory());
        let mut target = request.target.clone();
        if !from.is_empty() && !is_tree {
            target.push(OsStr::from_bytes(&entry.name));
            // A directory under its name is not a place to put it into.
            if target.is_dir() {
                return Err(bundle::Error::TargetExists { path: target }.into());
            }
        }
        let takes_attributes = !from.is_empty() && takes_attributes(&target, &path);
        let mut wanted = request.include.clone();
        wanted.retain(|line| !line.starts_with('!'));
        let select = chosen.lines(&bundle, &from, request.include).await?;
        let first = chosen.lines(&bundle, &from, request.first).await?;
        let options = ExtractOptions {
            overwrite: match request.overwrite {
                Overwrite::Never | Overwrite::Missing => bundle::Overwrite::Missing,
                Overwrite::Changed => bundle::Overwrite::Changed,
                Overwrite::Always => bundle::Overwrite::Always,
            },
            owners: request.owners,
            powers: true,
            devices: request.owners,
            root_attributes: takes_attributes,
            from,
            select,
            first,
            newest_first: request.newest_first,
            dry_run: request.dry_run,
            verify: request.verify,
            own: self.own(),
            ..ExtractOptions::default()
        };
        let (cancel, _cancel_on_drop) = self.cancel_on_drop();
        let monitor = Giving::watch(chosen.session.clone(), monitor);
        let mut report = bundle::extract(&bundle, &target, options, monitor, cancel).await?;
        if !is_tree {
            // A single file is not chosen from.
            report.unmatched.clear();
        }
        let is_missed = |line: &String| report.unmatched.contains(line);
        if report.is_complete() && !wanted.is_empty() && wanted.iter().all(is_missed) {
            return Err(nothing_matches(&wanted));
        }
        let verified = is_verified(&report, request.verify) && !request.dry_run;
        let missing_total = report.missing_total + report.failed_total;
        let mut missing = missing(report.missing);
        missing.extend(failed(report.failed));
        missing.truncate(MAX_NAMED);
        let mut refused = failed(report.refused);
        refused.truncate(MAX_NAMED);
        Ok(RestoreReply {
            snapshot: chosen.link.id.to_hex(),
            time: chosen.snapshot.summary.started,
            machine: chosen.snapshot.machine_name,
            set: chosen.snapshot.summary.set,
            files: report.files,
            bytes: report.bytes,
            verified,
            unchanged: report.unchanged,
            skipped: report.skipped,
            missing,
            missing_total,
            refused,
            refused_total: report.refused_total,
            kept_owners: report.kept_owners,
            lost_powers: report.lost_powers,
            notes: chosen.notes,
            fell_back: chosen.fell_back,
            from: givers(&chosen.session),
            unmatched: report.unmatched,
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
        let from = names(&chosen.place(&bundle, &request.path).await?.path);
        let is_chosen = !request.include.is_empty();
        let select = chosen.lines(&bundle, &from, request.include).await?;
        let options = TarOptions { from, select };
        let (mut writer, reader) = tokio::io::duplex(TAR_AHEAD_BYTES);
        let (cancel, cancel_on_drop) = self.cancel_on_drop();
        let work = async move {
            let report =
                bundle::write_tar(&bundle, &options, &mut writer, &Silent, &cancel).await?;
            match report.missing.first() {
                None if is_chosen && report.entries == 0 => Err(nothing_matches(&report.unmatched)),
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
            work.await.map_err(stopped)?
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
        let found = look(&archive, patience, false).await?;
        let choice = choice(&request.choice);
        let snapshots: Vec<Listed> = match &request.snapshot {
            Some(name) => vec![found.catalog.find_chosen(name, &choice)?.clone()],
            None => {
                let chosen = found.catalog.choose(&choice)?;
                chosen.into_iter().rev().cloned().collect()
            }
        };
        let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
        let limit = limit.clamp(1, MAX_NAMED);
        let session = self.depot().session(patience, Keep::Cached);
        let result = find_files(session, &snapshots, &request.pattern, limit).await?;
        let matches = result.matches.into_iter().map(|hit| FoundFile {
            snapshot: hit.snapshot.to_hex(),
            time: hit.time,
            path: shown(&absolute(&hit.path)),
            path_hex: hex(&absolute(&hit.path)),
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
                .map(|(snapshot, error)| {
                    let name = format!("snapshot {}", snapshot.to_hex());
                    MissingPart::new(Path::new(&name), None, chain(&error))
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
            choice: request.choice.clone(),
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
                path: shown(&absolute(&change.path)),
                path_hex: hex(&absolute(&change.path)),
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

    async fn choose(&self, of: &SnapshotRef) -> Result<Chosen, CallError> {
        let patience = Duration::from_secs(of.timeout_s);
        let session = self.depot().session(patience, Keep::Cached);
        let by_link: Option<Link> = of.snapshot.parse().ok();
        if let Some(link) = by_link {
            let snapshot = read_snapshot(&*session, &link).await?;
            return Ok(Chosen::new(link, snapshot, session));
        }
        let archive = self.archive(&of.speaker).await?;
        let mut found = look(&archive, patience, false).await?;
        let choice = choice(&of.choice);
        let listed = match found.catalog.find_chosen(&of.snapshot, &choice) {
            Ok(listed) => listed.clone(),
            Err(error) => {
                archive.look_back(&mut found, patience).await?;
                let catalogs = [&found.catalog, &found.older].into_iter();
                let mut catalogs = catalogs.map(|one| one.find_chosen(&of.snapshot, &choice));
                let listed = catalogs.find_map(Result::ok).ok_or(error)?;
                listed.clone()
            }
        };
        let link = listed.logged.snapshot.clone();
        let mut chosen = match read_snapshot(&*session, &link).await {
            Ok(snapshot) => Chosen::new(link, snapshot, session),
            Err(backup::Error::Stopping) => return Err(backup::Error::Stopping.into()),
            Err(error) => {
                let may_be_another = of.snapshot == LATEST && of.speaker.keys.is_some();
                let earlier = match may_be_another {
                    true => earlier(&archive, &mut found, (&listed, &choice), patience).await?,
                    false => None,
                };
                let Some((listed, snapshot)) = earlier else {
                    return Err(error.into());
                };
                found.notes.push(format!(
                    "the newest snapshot, {}, can't be read ({}): this is the newest that can",
                    link.id.to_hex(),
                    chain(&error)
                ));
                let link = listed.logged.snapshot.clone();
                let mut chosen = Chosen::new(link, snapshot, session);
                chosen.fell_back = true;
                chosen
            }
        };
        chosen.notes = found.notes;
        // A machine's name of now says more than that of then.
        chosen.snapshot.machine_name = listed.machine_name;
        Ok(chosen)
    }
}

/// The newest snapshot before one that can't be read, and that can.
async fn earlier(
    archive: &Archive,
    found: &mut backup::Found,
    (newest, choice): (&Listed, &backup::Choice),
    patience: Duration,
) -> Result<Option<(Listed, Snapshot)>, CallError> {
    archive.look_back(found, patience).await?;
    let catalogs = [&found.catalog, &found.older].into_iter();
    let listed = catalogs.filter_map(|catalog| catalog.choose(choice).ok());
    let mut listed: Vec<&Listed> = listed.flatten().collect();
    listed.retain(|one| one.logged.snapshot.id != newest.logged.snapshot.id);
    listed.sort_by_key(|one| std::cmp::Reverse(one.made));
    let session = archive.depot().session(EARLIER_PATIENCE, Keep::Cached);
    for one in listed.into_iter().take(MAX_EARLIER) {
        match read_snapshot(&*session, &one.logged.snapshot).await {
            Ok(snapshot) => return Ok(Some((one.clone(), snapshot))),
            Err(error) => {
                tracing::debug!(snapshot = %one.logged.snapshot.id, %error, "a snapshot can't be read");
            }
        }
    }
    Ok(None)
}

/// A snapshot and where its blocks come from.
struct Chosen {
    link: Link,
    snapshot: Snapshot,
    session: Arc<Session>,
    /// Notes on how the snapshot was found.
    notes: Vec<String>,
    /// The newest one could not be read, and this is an earlier one.
    fell_back: bool,
}

impl Chosen {
    const fn new(link: Link, snapshot: Snapshot, session: Arc<Session>) -> Self {
        Self {
            link,
            snapshot,
            session,
            notes: Vec::new(),
            fell_back: false,
        }
    }

    /// Lines that patterns stand for. A relative one starts at the part that is asked for; where
    /// all is, at each path that was backed up as well.
    async fn lines(
        &self,
        bundle: &Bundle,
        from: &[Bytes],
        typed: Vec<String>,
    ) -> Result<Vec<Line>, CallError> {
        let places: &[Bytes] = match from {
            [] => &self.snapshot.summary.paths,
            _ => &[],
        };
        let mut lines = Vec::with_capacity(typed.len());
        for line in typed {
            let line = Line::new(line).starting_at(places.iter().map(|place| &place[..]));
            let mut real = HashMap::new();
            for way in line.ways() {
                if let Some(place) = self.through_links(bundle, from, &way).await? {
                    real.insert(way, place);
                }
            }
            lines.push(line.resolved(|way| real.get(way).cloned()));
        }
        Ok(lines)
    }

    /// Where an absolute path below `from` leads in the snapshot, if it leads through a symlink.
    async fn through_links(
        &self,
        bundle: &Bundle,
        from: &[Bytes],
        way: &Path,
    ) -> Result<Option<PathBuf>, CallError> {
        let mut base = from.join(&b'/');
        base.push(b'/');
        let way = [&base, way.as_os_str().as_bytes()].concat();
        let found = match bundle.find(&way, Last::Followed).await {
            Ok(found) => found,
            // It is told when the tree is read.
            Err(error) if error.block().is_some() => None,
            Err(error) => return Err(error.into()),
        };
        let Some(found) = found.filter(|found| names(&found.path) != names(&way)) else {
            return Ok(None);
        };
        let real = Path::new("/").join(OsStr::from_bytes(&found.path));
        let base = Path::new("/").join(OsStr::from_bytes(&base));
        let real = real.strip_prefix(&base).ok();
        Ok(real.map(|real| Path::new("/").join(real)))
    }

    /// Place that a path names: as it was typed, and where it leads on this machine when the
    /// snapshot has nothing there. A symlink that was named when the snapshot was made stands for
    /// what it led to; any other one is meant itself.
    async fn place(&self, bundle: &Bundle, path: &Path) -> Result<Found, CallError> {
        let typed = path.as_os_str().as_bytes();
        if let Some(found) = bundle.find(typed, Last::Itself).await? {
            if found.entry.link_target().is_none() {
                return Ok(found);
            }
            let behind = bundle.find(typed, Last::Followed).await?;
            let is_named = |behind: &Found| {
                let paths = &self.snapshot.summary.paths;
                paths.iter().any(|path| names(path) == names(&behind.path))
            };
            return Ok(behind.filter(is_named).unwrap_or(found));
        }
        let here = Path::new("/").join(OsStr::from_bytes(typed)).canonicalize();
        if let Ok(here) = here
            && let Some(found) = bundle
                .find(here.as_os_str().as_bytes(), Last::Itself)
                .await?
        {
            return Ok(found);
        }
        Err(CallError::new(
            ErrorKind::Usage,
            format!("there is no '{}' in the snapshot", shown(typed)),
        )
        .with_hint(
            "`libernet ls SNAPSHOT:/` shows what there is; `libernet snapshots` lists the snapshots of other \
             paths and sets, and --path, --set and --machine choose among them",
        ))
    }

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

fn missing(parts: Vec<bundle::Missing>) -> Vec<MissingPart> {
    parts
        .into_iter()
        .map(|part| MissingPart::new(&part.path, Some(part.block), part.reason))
        .collect()
}

fn failed(parts: Vec<bundle::Failed>) -> Vec<MissingPart> {
    parts
        .into_iter()
        .map(|part| MissingPart::new(&part.path, None, part.reason))
        .collect()
}

/// Whether every byte was looked at. A file that counts as right by its size and time was not,
/// unless all were read back; what could not be read back as it was written is among the failures.
const fn is_verified(report: &bundle::ExtractReport, is_read_back: bool) -> bool {
    let all_seen = match is_read_back {
        true => report.verified == report.files,
        false => report.unchanged == 0,
    };
    report.is_complete() && report.skipped == 0 && all_seen
}

/// Whether the target gets the attributes of the directory `path` of the snapshot: when it is made,
/// and when it is that very directory. Any other directory that somebody names may be shared, such
/// as `/tmp`, and keeps its own.
fn takes_attributes(target: &Path, path: &[u8]) -> bool {
    match target.canonicalize() {
        Ok(target) => target == Path::new("/").join(OsStr::from_bytes(path)),
        Err(_) => target.symlink_metadata().is_err(),
    }
}

/// Nothing of what was asked for is there.
fn nothing_matches(patterns: &[String]) -> CallError {
    let patterns = patterns.join("', '");
    CallError::new(
        ErrorKind::NotFound,
        format!("nothing in the snapshot matches '{patterns}'"),
    )
    .with_hint("`libernet find-file PATTERN` looks through all snapshots, `libernet ls SNAPSHOT:/` shows what there is")
}

/// The names of a path, from the root down.
fn names(path: &[u8]) -> Vec<Bytes> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty())
        .map(Bytes::copy_from_slice)
        .collect()
}

fn absolute(path: &[u8]) -> Vec<u8> {
    [b"/", path].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::ExtractReport;

    #[test]
    fn only_what_was_looked_at_is_verified() {
        let report = |unchanged, verified, skipped| ExtractReport {
            files: 3,
            unchanged,
            verified,
            skipped,
            ..ExtractReport::default()
        };
        assert!(is_verified(&report(0, 0, 0), false));
        assert!(!is_verified(&report(1, 0, 0), false));
        assert!(!is_verified(&report(0, 0, 1), false));
        assert!(is_verified(&report(1, 3, 0), true));
        assert!(!is_verified(&report(1, 2, 0), true));
        assert!(!is_verified(&report(1, 3, 1), true));
        let failed = ExtractReport {
            failed_total: 1,
            ..report(0, 3, 0)
        };
        assert!(!is_verified(&failed, true) && !is_verified(&failed, false));
    }

    #[test]
    fn a_target_gets_attributes_when_it_is_made_or_is_the_directory_itself() {
        let room = tempfile::tempdir().expect("a directory");
        let path = room.path().canonicalize().expect("there");
        let inside = &path.as_os_str().as_bytes()[1..];
        assert!(takes_attributes(&path, inside));
        assert!(takes_attributes(
            &path.join("../").join(path.file_name().expect("one")),
            inside
        ));
        assert!(!takes_attributes(&path, b"home/u"));
        assert!(takes_attributes(&path.join("new"), b"home/u"));
        std::os::unix::fs::symlink("nowhere", path.join("link")).expect("made");
        assert!(!takes_attributes(&path.join("link"), b"home/u"));
    }
}
