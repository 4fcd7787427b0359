//! What an extraction would do, without doing it.
//!
//! Goes by names, sizes and times as the real one does; blocks of content are not asked for.

use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{
    BATCH_ENTRIES, ExtractOptions, ExtractReport, MAX_REPORTED, Missing, Overwrite, blocking,
};
use crate::bundle::choose::{Choice, Picked, Picker};
use crate::bundle::error::Error;
use crate::bundle::read::Bundle;
use crate::bundle::root::BundleKind;
use crate::bundle::tree::{Content, Entry};

/// Looks at everything that would be written.
pub(super) async fn dry_run(
    bundle: &Bundle,
    target: &Path,
    options: &ExtractOptions,
    choice: &Choice,
) -> Result<ExtractReport, Error> {
    let (target, overwrite) = (target.to_owned(), options.overwrite);
    let root = bundle.root().entry.clone();
    let mut look = match bundle.root().kind() {
        BundleKind::Stream => return blocking(move || one_file(&target, &root, overwrite)).await?,
        BundleKind::Tree => blocking(move || Look::tree(target, overwrite)).await??,
    };
    look.devices = options.devices;
    let mut picker = Picker::new(bundle, choice, None);
    let mut batch = Vec::new();
    while let Some(picked) = picker.next().await {
        match picked {
            Ok(picked) => batch.push(picked),
            Err((path, error)) => look.lack(&path, error)?,
        }
        if batch.len() >= BATCH_ENTRIES {
            look = look.at(std::mem::take(&mut batch)).await?;
        }
    }
    Ok(look.at(batch).await?.report)
}

fn one_file(target: &Path, entry: &Entry, overwrite: Overwrite) -> Result<ExtractReport, Error> {
    let path = match target.is_dir() {
        true => target.join(std::ffi::OsStr::from_bytes(&entry.name)),
        false => target.to_owned(),
    };
    let mut look = Look::new(path.clone(), overwrite);
    if overwrite == Overwrite::Never && path.symlink_metadata().is_ok() {
        return Err(Error::TargetExists { path });
    }
    look.compare(&path, entry);
    Ok(look.report)
}

/// Compares a tree with what is there.
struct Look {
    overwrite: Overwrite,
    devices: bool,
    /// The directories above the current entry, where they are there.
    above: Vec<Option<PathBuf>>,
    report: ExtractReport,
}

impl Look {
    fn new(path: PathBuf, overwrite: Overwrite) -> Self {
        let report = ExtractReport {
            path,
            ..ExtractReport::default()
        };
        Self {
            overwrite,
            devices: false,
            above: Vec::new(),
            report,
        }
    }

    fn tree(target: PathBuf, overwrite: Overwrite) -> Result<Self, Error> {
        let there = target.symlink_metadata().is_ok();
        if there && (overwrite == Overwrite::Never || !target.is_dir()) {
            return Err(Error::TargetExists { path: target });
        }
        let mut look = Self::new(target.clone(), overwrite);
        look.above.push(there.then_some(target));
        Ok(look)
    }

    async fn at(mut self, batch: Vec<Picked>) -> Result<Self, Error> {
        blocking(move || {
            for picked in &batch {
                self.step(picked);
            }
            self
        })
        .await
    }

    fn step(&mut self, Picked { depth, entry }: &Picked) {
        self.above.truncate(*depth);
        let path = self.above.last().and_then(|above| {
            let above = above.as_ref()?;
            Some(above.join(std::ffi::OsStr::from_bytes(&entry.name)))
        });
        if entry.is_directory() {
            let there = |path: &PathBuf| path.symlink_metadata().is_ok_and(|found| found.is_dir());
            self.above.push(path.filter(there));
            return;
        }
        match path {
            Some(path) => self.compare(&path, entry),
            None => self.count(None, entry),
        }
    }

    fn compare(&mut self, path: &Path, entry: &Entry) {
        self.count(path.symlink_metadata().ok(), entry);
    }

    fn count(&mut self, found: Option<Metadata>, entry: &Entry) {
        let report = &mut self.report;
        if matches!(entry.content, Content::Device(_)) && !self.devices {
            report.left_out += 1;
            return;
        }
        if found.is_some() && self.overwrite == Overwrite::Missing {
            report.skipped += 1;
            return;
        }
        if !entry.is_file() {
            return;
        }
        let size = entry.size();
        report.files += 1;
        report.bytes += size;
        let is_same = |found: &Metadata| {
            let modified = entry
                .modified
                .map(|time| (time.seconds, i64::from(time.nanos)));
            found.is_file()
                && found.len() == size
                && modified == Some((found.mtime(), found.mtime_nsec()))
        };
        match found {
            None => {
                report.new_files += 1;
                report.new_bytes += size;
            }
            Some(found) if self.overwrite != Overwrite::Always && is_same(&found) => {
                report.unchanged += 1;
            }
            Some(_) => {
                report.changed_files += 1;
                report.changed_bytes += size;
            }
        }
    }

    fn lack(&mut self, path: &[u8], error: Error) -> Result<(), Error> {
        let Some(block) = error.block() else {
            return Err(error);
        };
        self.report.missing_total += 1;
        if self.report.missing.len() < MAX_REPORTED {
            self.report.missing.push(Missing {
                path: std::ffi::OsStr::from_bytes(path).into(),
                block,
                reason: error.to_string(),
            });
        }
        Ok(())
    }
}
