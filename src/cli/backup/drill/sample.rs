//! The sample of a drill: the list of files that it is drawn from, the copies that other nodes give, and whether they are what is here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use futures::StreamExt;
use serde::Serialize;

use super::{Args, Report};
use crate::block::Link;
use crate::client::Client;
use crate::node::api::{Get, Giver, Ls, Overwrite, shown};

/// Entries of a directory that are asked for at once.
const PAGE_ENTRIES: u64 = 1000;
/// Directories that may be missing before the list is given up: each costs the whole time to look for a block.
const MAX_UNLISTED: usize = 5;
/// Files that are restored at the same time.
pub(super) const FILES_AT_ONCE: usize = 8;
/// Bytes that are compared at once.
const COMPARE_BYTES: usize = 256 << 10;

/// What could not be had.
#[derive(Debug, Serialize)]
pub(super) struct Failed {
    pub(super) path: String,
    pub(super) reason: String,
}

/// A file of the snapshot.
#[derive(Debug, Clone)]
pub(super) struct Sampled {
    pub(super) path: PathBuf,
    bytes: u64,
    mtime_s: i64,
}

/// What the list of files gave.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) files: u64,
    pub(super) sample: Vec<Sampled>,
    pub(super) unlisted: Vec<Failed>,
}

/// Reads the whole list of files and draws the sample: each file with the same chance, whatever there are in all.
pub(super) async fn list(tree: &Link, args: &Args, client: &Client) -> Listing {
    let mut listing = Listing::default();
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        if let Err(reason) = list_one(
            tree,
            &directory,
            args,
            client,
            &mut directories,
            &mut listing,
        )
        .await
        {
            listing.unlisted.push(Failed {
                path: absolute(&directory),
                reason,
            });
            if listing.unlisted.len() >= MAX_UNLISTED {
                break;
            }
        }
    }
    listing
}

async fn list_one(
    tree: &Link,
    directory: &Path,
    args: &Args,
    client: &Client,
    directories: &mut Vec<PathBuf>,
    listing: &mut Listing,
) -> Result<(), String> {
    let mut request = Ls {
        link: tree.clone(),
        path: directory.to_owned(),
        follow: false,
        skip: 0,
        limit: PAGE_ENTRIES,
        timeout_s: args.timeout,
    };
    loop {
        let page = client.ls(request.clone()).await;
        let page = page.map_err(|error| error.message)?;
        request.skip += page.entries.len() as u64;
        let more = page.more && !page.entries.is_empty();
        for entry in page.entries {
            let path = directory.join(OsString::from_vec(entry.name_bytes()));
            match entry.kind.as_str() {
                "dir" => directories.push(path),
                "file" => {
                    listing.files += 1;
                    let file = Sampled {
                        path,
                        bytes: entry.bytes,
                        mtime_s: entry.mtime_s,
                    };
                    draw(&mut listing.sample, file, listing.files, args.files);
                }
                _ => {}
            }
        }
        if !more {
            return Ok(());
        }
    }
}

/// A path in the snapshot as text.
pub(super) fn absolute(path: &Path) -> String {
    shown(Path::new("/").join(path).as_os_str().as_bytes())
}

/// Keeps `size` of `seen` files, each with the same chance (reservoir sampling, Vitter's algorithm R).
fn draw(sample: &mut Vec<Sampled>, file: Sampled, seen: u64, size: u64) {
    if (sample.len() as u64) < size {
        sample.push(file);
        return;
    }
    let at = rand::random_range(0..seen);
    if let Some(slot) = usize::try_from(at).ok().and_then(|at| sample.get_mut(at)) {
        *slot = file;
    }
}

/// Restores the sample; gives each file and where its copy is.
pub(super) async fn restore(
    tree: &Link,
    sample: Vec<Sampled>,
    args: &Args,
    client: &Client,
    scratch: &Path,
    report: &mut Report,
) -> Vec<(Sampled, PathBuf)> {
    let mut givers: BTreeMap<String, Giver> = BTreeMap::new();
    let mut copies = Vec::new();
    let jobs = sample.into_iter().enumerate().map(|(number, file)| {
        let copy = scratch.join(format!("file-{number}"));
        let request = Get {
            link: tree.clone(),
            path: file.path.clone(),
            output: Some(copy.clone()),
            directory: scratch.to_owned(),
            overwrite: Overwrite::Never,
            owners: false,
            pin: false,
            max_bytes: None,
            max_files: None,
            any_size: true,
            timeout_s: args.timeout,
        };
        async move {
            let silent = std::sync::Arc::new(crate::monitor::Silent);
            let begun = Instant::now();
            let result = client.get(request, silent).await;
            (file, copy, begun.elapsed(), result)
        }
    });
    let mut done = std::pin::pin!(futures::stream::iter(jobs).buffer_unordered(FILES_AT_ONCE));
    while let Some((file, copy, took, result)) = done.next().await {
        let reason = match result {
            Ok(reply) => {
                for giver in reply.from {
                    let sum = givers.entry(giver.peer.clone()).or_insert(Giver {
                        peer: giver.peer,
                        blocks: 0,
                        bytes: 0,
                    });
                    sum.blocks += giver.blocks;
                    sum.bytes += giver.bytes;
                }
                reply.missing.into_iter().next().map(|part| part.reason)
            }
            Err(error) => Some(error.message),
        };
        match reason {
            None => {
                report.restored += 1;
                report.bytes += file.bytes;
                report.took.push((file.bytes, took.as_secs_f64()));
                copies.push((file, copy));
            }
            Some(reason) => report.failed.push(Failed {
                path: absolute(&file.path),
                reason,
            }),
        }
    }
    report.from = givers.into_values().collect();
    copies
}

/// Whether the copy is the same as the original; none when that has changed since, is gone, or can't be read.
pub(super) fn compare(file: &Sampled, copy: &Path) -> Option<bool> {
    use std::os::unix::fs::MetadataExt;
    let original = Path::new("/").join(&file.path);
    let meta = original.symlink_metadata().ok()?;
    if !meta.is_file() || meta.len() != file.bytes || meta.mtime() != file.mtime_s {
        return None;
    }
    let mut original = std::fs::File::open(original).ok()?;
    let mut copy = std::fs::File::open(copy).ok()?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    loop {
        for (from, to) in [(&mut original, &mut ours), (&mut copy, &mut theirs)] {
            to.clear();
            from.take(COMPARE_BYTES as u64).read_to_end(to).ok()?;
        }
        if ours != theirs {
            return Some(false);
        }
        if ours.is_empty() {
            return Some(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampled(path: &str, bytes: u64, mtime_s: i64) -> Sampled {
        Sampled {
            path: path.into(),
            bytes,
            mtime_s,
        }
    }

    #[test]
    fn a_sample_has_its_size_and_any_file_may_be_in_it() {
        let mut counts = [0u32; 10];
        for _ in 0..400 {
            let mut sample = Vec::new();
            for seen in 1..=10u64 {
                draw(&mut sample, sampled("", seen, 0), seen, 5);
            }
            assert_eq!(sample.len(), 5);
            for file in sample {
                counts[file.bytes as usize - 1] += 1;
            }
        }
        // Each is expected 200 times.
        assert!(
            counts.iter().all(|count| (100..300).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn only_what_has_not_changed_is_compared() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().expect("a directory");
        let (original, copy) = (dir.path().join("original"), dir.path().join("copy"));
        std::fs::write(&original, b"content").expect("written");
        std::fs::write(&copy, b"content").expect("written");
        let mtime_s = original.metadata().expect("there").mtime();
        let path = original.to_string_lossy()[1..].to_owned();
        let file = sampled(&path, 7, mtime_s);
        assert_eq!(compare(&file, &copy), Some(true));
        std::fs::write(&copy, b"CONTENT").expect("written");
        assert_eq!(compare(&file, &copy), Some(false));
        std::fs::write(&copy, b"con").expect("written");
        assert_eq!(compare(&file, &copy), Some(false));
        assert_eq!(compare(&sampled(&path, 7, mtime_s + 1), &copy), None);
        assert_eq!(compare(&sampled(&path, 8, mtime_s), &copy), None);
        assert_eq!(compare(&sampled("no/such/file", 7, 0), &copy), None);
    }
}
