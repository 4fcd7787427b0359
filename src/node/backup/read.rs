//! Calls that read a snapshot: as files, as an archive, by name, and beside another one.

use std::path::Path;
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
use crate::backup::{Listed, Snapshot, find_files, read_snapshot};
use crate::block::Link;
use crate::bundle::tree::Content;
use crate::bundle::{self, Bundle, ExtractOptions, TarOptions};
use crate::depot::Session;
use crate::monitor::{Monitor, Silent};
use crate::store::Keep;

/// Bytes of an archive that wait for who reads it.
const TAR_AHEAD_BYTES: usize = 1 << 20;

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
        let from = names(&request.path);
        let mut target = request.target.clone();
        if !from.is_empty() {
            let entry = entry_at(&bundle, &request.path).await?;
            if !matches!(entry.content, Content::Directory(_)) {
                use std::os::unix::ffi::OsStrExt;
                target.push(std::ffi::OsStr::from_bytes(&entry.name));
                // A directory under its name is not a place to put it into.
                if target.is_dir() {
                    return Err(bundle::Error::TargetExists { path: target }.into());
                }
            }
        }
        let takes_attributes = !from.is_empty() && takes_attributes(&target, &request.path);
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
            select: request.include,
            first: request.first,
            newest_first: request.newest_first,
            dry_run: request.dry_run,
            verify: request.verify,
            own: self.own(),
            ..ExtractOptions::default()
        };
        let (cancel, _cancel_on_drop) = self.cancel_on_drop();
        let monitor = Giving::watch(chosen.session.clone(), monitor);
        let report = bundle::extract(&bundle, &target, options, monitor, cancel).await?;
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
            choice: Choice::default(),
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

    async fn choose(&self, of: &SnapshotRef) -> Result<Chosen, CallError> {
        let patience = Duration::from_secs(of.timeout_s);
        let session = self.depot().session(patience, Keep::Cached);
        let by_link: Option<Link> = of.snapshot.parse().ok();
        let (link, machine_name) = match by_link {
            Some(link) => (link, None),
            None => {
                let archive = self.archive(&of.speaker).await?;
                let found = look(&archive, patience).await?;
                let chosen = choice(&of.choice);
                let listed = found.catalog.find_chosen(&of.snapshot, &chosen)?;
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

fn failed(parts: Vec<bundle::Failed>) -> Vec<MissingPart> {
    parts
        .into_iter()
        .map(|part| MissingPart {
            path: part.path.to_string_lossy().into_owned(),
            block: None,
            reason: part.reason,
        })
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
fn takes_attributes(target: &Path, path: &str) -> bool {
    match target.canonicalize() {
        Ok(target) => target == Path::new("/").join(path),
        Err(_) => target.symlink_metadata().is_err(),
    }
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
        .with_hint(
            "`libernet ls SNAPSHOT:/` shows what there is, `libernet snapshots` the other snapshots",
        )
    })
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
        let inside = path.to_str().expect("text").trim_start_matches('/');
        assert!(takes_attributes(&path, inside));
        assert!(takes_attributes(
            &path.join("../").join(path.file_name().expect("one")),
            inside
        ));
        assert!(!takes_attributes(&path, "home/u"));
        assert!(takes_attributes(&path.join("new"), "home/u"));
        std::os::unix::fs::symlink("nowhere", path.join("link")).expect("made");
        assert!(!takes_attributes(&path.join("link"), "home/u"));
    }
}
