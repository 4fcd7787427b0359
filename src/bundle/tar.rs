//! A bundle, or a part of it, as a tar archive.
//!
//! The format is POSIX.1-2001 (pax): ustar headers, and before them records for what does not fit:
//! long names, large numbers, parts of seconds, extended attributes as `SCHILY.xattr.NAME`, and
//! ACLs as `SCHILY.acl.access` and `SCHILY.acl.default`, which GNU tar, bsdtar and star read. Holes
//! are written as zeros.
//!
//! An archive can't take anything back. A file whose first block is missing is left out; one that lacks a later block has
//! zeros in its place. Both are reported.
//!
//! Memory: a few blocks, and the path of each hard-linked file.

use std::collections::HashMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use ::tar::{EntryType, Header};
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::acl::{self, ACCESS_ACL, DEFAULT_ACL};
use super::choose::{Choice, Picked, Picker};
use super::cursor::{ExtentCursor, Stretch};
use super::error::Error;
use super::extract::{Missing, part};
use super::pattern::Line;
use super::put::MAX_REPORTED;
use super::read::{Bundle, cut};
use super::tree::{Content, Entry, File, ModTime};
use crate::monitor::{Monitor, Progress};

/// Everything in an archive comes in units of this many bytes.
const UNIT_BYTES: u64 = 512;
/// Blocks of one file that are fetched ahead.
const READ_AHEAD_BLOCKS: usize = 8;
/// Longest name in a header.
const NAME_BYTES: usize = 100;
/// Above this, sizes and ids don't fit their fields in a header: 11 and 7 octal digits.
const MAX_SIZE: u64 = 0o77_777_777_777;
const MAX_ID: u32 = 0o7_777_777;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// What to archive.
#[derive(Clone, Debug, Default)]
pub struct TarOptions {
    /// As in [`ExtractOptions::from`](super::ExtractOptions::from).
    pub from: Vec<Bytes>,
    /// As in [`ExtractOptions::select`](super::ExtractOptions::select).
    pub select: Vec<Line>,
}

/// What an archive holds.
#[derive(Clone, Debug, Default)]
pub struct TarReport {
    /// Regular files, further names of hard links among them.
    pub files: u64,
    /// Everything that has a name.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// What lacks a block: the first [`MAX_REPORTED`].
    pub missing: Vec<Missing>,
    /// How many blocks were missed in all.
    pub missing_total: u64,
    /// Files among them that are in the archive with zeros in place of what is missing.
    pub zero_filled: u64,
    /// Lines of patterns that matched nothing.
    pub unmatched: Vec<String>,
}

/// Writes what is chosen to `out`, which it flushes and leaves open. Names are relative to what is archived; its root has none and is
/// not in it.
///
/// # Errors
/// [`Error::Io`] when `out` refuses, [`Error::Pattern`], [`Error::NoSuchPath`], [`Error::Get`] when the node stops,
/// [`Error::Malformed`] when the bundle holds more than it says, [`Error::Cancelled`]. Missing blocks are no error: see [`TarReport`].
///
/// # Cancel safety
/// After dropping the future what was written is a part of an archive.
pub async fn write_tar(
    bundle: &Bundle,
    options: &TarOptions,
    out: &mut (impl AsyncWrite + Send + Unpin),
    monitor: &dyn Monitor,
    cancel: &CancellationToken,
) -> Result<TarReport, Error> {
    let bundle = part(bundle, &options.from).await?;
    let choice = Choice::new(&options.select, &[], false)?;
    let mut archive = Archive {
        bundle: &bundle,
        out,
        monitor,
        cancel,
        groups: HashMap::new(),
        report: TarReport::default(),
    };
    let root = &bundle.root().entry;
    if !root.is_directory() {
        let name = match root.name.is_empty() {
            true => b"file".to_vec(),
            false => root.name.to_vec(),
        };
        archive.entry(&name, root).await?;
        return archive.finish().await;
    }
    let mut picker = Picker::new(&bundle, &choice, None);
    let mut path = Vec::new();
    // Length of the path of each directory above.
    let mut above: Vec<usize> = vec![0];
    while let Some(picked) = picker.next().await {
        let Picked { depth, entry } = match picked {
            Ok(picked) => picked,
            Err((path, error)) => {
                archive.lack(&path, error)?;
                continue;
            }
        };
        let totals = bundle.root().totals;
        if picker.seen_entries > totals.entries || picker.seen_bytes > u128::from(totals.bytes) {
            return Err(Error::Malformed {
                block: bundle.link().id,
                what: "it holds more than it says",
            });
        }
        above.truncate(depth);
        path.truncate(above.last().copied().unwrap_or(0));
        path.extend_from_slice(&entry.name);
        if entry.is_directory() {
            path.push(b'/');
            above.push(path.len());
        }
        archive.entry(&path, &entry).await?;
    }
    archive.report.unmatched = choice.unmatched();
    archive.finish().await
}

struct Archive<'a, W> {
    bundle: &'a Bundle,
    out: &'a mut W,
    monitor: &'a dyn Monitor,
    cancel: &'a CancellationToken,
    /// Where the first name of each hard-linked file is.
    groups: HashMap<u32, Vec<u8>>,
    report: TarReport,
}

/// A piece of a file: where it starts, how long it is, and its bytes; `None` for zeros. A list that can't be had has no length.
type Piece = Result<(u64, u64, Option<Bytes>), (u64, Error)>;

impl<W: AsyncWrite + Send + Unpin> Archive<'_, W> {
    async fn entry(&mut self, path: &[u8], entry: &Entry) -> Result<(), Error> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let kind = match &entry.content {
            Content::File(file) => return self.file(path, entry, file).await,
            Content::Directory(_) => EntryType::Directory,
            Content::Symlink(_) => EntryType::Symlink,
            Content::Fifo => EntryType::Fifo,
            Content::Device(device) if device.is_block => EntryType::Block,
            Content::Device(_) => EntryType::Char,
        };
        let target = match &entry.content {
            Content::Symlink(target) => Some(&target[..]),
            _ => None,
        };
        self.report.entries += 1;
        self.header(path, entry, kind, 0, target).await
    }

    async fn file(&mut self, path: &[u8], entry: &Entry, file: &File) -> Result<(), Error> {
        let first = file.link_group.and_then(|group| self.groups.get(&group));
        if let Some(first) = first.cloned() {
            self.count(0);
            let kind = EntryType::Link;
            return self.header(path, entry, kind, 0, Some(&first)).await;
        }
        let mut pieces = self.pieces(file);
        // Nothing is written before the first piece is there.
        let mut next = pieces.next().await;
        if let Some(Err(_)) = &next
            && let Some(Err((_, error))) = next.take()
        {
            return self.lack(path, error);
        }
        let kind = EntryType::Regular;
        self.header(path, entry, kind, file.size, None).await?;
        let mut written = 0;
        let mut lacks = false;
        while let Some(piece) = next {
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            match piece {
                Ok((at, len, bytes)) => {
                    self.zeros(at.saturating_sub(written)).await?;
                    match bytes {
                        Some(bytes) => self.write(&bytes).await?,
                        None => self.zeros(len).await?,
                    }
                    written = at + len;
                }
                Err((_, error)) => {
                    lacks = true;
                    self.lack(path, error)?;
                }
            }
            next = pieces.next().await;
        }
        self.zeros(file.size.saturating_sub(written)).await?;
        self.pad(file.size).await?;
        self.report.zero_filled += u64::from(lacks);
        if let Some(group) = file.link_group {
            self.groups.insert(group, path.to_vec());
        }
        self.count(file.size);
        Ok(())
    }

    fn count(&mut self, bytes: u64) {
        self.report.entries += 1;
        self.report.files += 1;
        self.report.bytes += bytes;
        let totals = self.bundle.root().totals;
        self.monitor.progress(Progress {
            files: self.report.files,
            files_total: totals.files,
            bytes: self.report.bytes,
            bytes_total: totals.bytes,
            blocks: 0,
            ..Progress::default()
        });
    }

    fn pieces(&self, file: &File) -> BoxStream<'static, Piece> {
        let opener = self.bundle.opener().clone();
        let cursor = ExtentCursor::new(opener.clone(), file.extents.clone(), 0..file.size);
        stream::unfold(cursor, async |mut cursor| {
            cursor.next().await.map(|stretch| (stretch, cursor))
        })
        .map(move |stretch| {
            let opener = Arc::clone(&opener);
            async move {
                let (at, stretch) = stretch.map_err(|error| (0, error))?;
                match stretch {
                    Stretch::Hole { len } => Ok((at, len, None)),
                    Stretch::Data { block, offset, len } => {
                        let plaintext = opener.plaintext(&block).await;
                        let bytes = plaintext.and_then(|bytes| cut(&bytes, &block, offset, len));
                        let bytes = bytes.map_err(|error| (at, error))?;
                        Ok((at, u64::from(len), Some(bytes)))
                    }
                }
            }
            .boxed()
        })
        .buffered(READ_AHEAD_BLOCKS)
        .boxed()
    }

    /// Notes what lacks a block.
    fn lack(&mut self, path: &[u8], error: Error) -> Result<(), Error> {
        let Some(block) = error.block() else {
            return Err(error);
        };
        let path = Path::new(std::ffi::OsStr::from_bytes(path)).to_owned();
        let reason = error.to_string();
        self.monitor
            .warning(&format!("{} is not whole: {reason}", path.display()));
        self.report.missing_total += 1;
        if self.report.missing.len() < MAX_REPORTED {
            self.report.missing.push(Missing {
                path,
                block,
                reason,
            });
        }
        Ok(())
    }

    async fn header(
        &mut self,
        path: &[u8],
        entry: &Entry,
        kind: EntryType,
        size: u64,
        target: Option<&[u8]>,
    ) -> Result<(), Error> {
        let records = records(path, entry, size, target);
        if !records.is_empty() {
            let mut header = Header::new_ustar();
            header.set_entry_type(EntryType::XHeader);
            set_text(&mut header.as_old_mut().name, b"PaxHeaders/entry");
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(records.len() as u64);
            header.set_cksum();
            self.write(header.as_bytes()).await?;
            self.write(&records).await?;
            self.pad(records.len() as u64).await?;
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        set_text(&mut header.as_old_mut().name, path);
        if let Some(target) = target {
            set_text(&mut header.as_old_mut().linkname, target);
        }
        header.set_mode(entry.mode);
        let owner = entry.owner.map_or((0, 0), |owner| (owner.uid, owner.gid));
        header.set_uid(u64::from(owner.0.min(MAX_ID)));
        header.set_gid(u64::from(owner.1.min(MAX_ID)));
        let seconds = entry.modified.map_or(0, |time| time.seconds);
        header.set_mtime(u64::try_from(seconds).unwrap_or(0).min(MAX_SIZE));
        header.set_size(size.min(MAX_SIZE));
        if let Content::Device(device) = &entry.content {
            // A device whose number does not fit can't be told; none does in practice.
            let fits = |number: u32| number.min(MAX_ID);
            let _ = header.set_device_major(fits(device.major));
            let _ = header.set_device_minor(fits(device.minor));
        }
        header.set_cksum();
        self.write(header.as_bytes()).await
    }

    async fn finish(mut self) -> Result<TarReport, Error> {
        self.zeros(2 * UNIT_BYTES).await?;
        self.out.flush().await.map_err(refused)?;
        Ok(self.report)
    }

    async fn pad(&mut self, len: u64) -> Result<(), Error> {
        self.zeros(len.next_multiple_of(UNIT_BYTES) - len).await
    }

    async fn zeros(&mut self, len: u64) -> Result<(), Error> {
        let mut left = len;
        while left > 0 {
            let now = left.min(ZEROS.len() as u64);
            self.write(&ZEROS[..now as usize]).await?;
            left -= now;
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
        }
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).await.map_err(refused)
    }
}

fn refused(error: io::Error) -> Error {
    Error::io(Path::new("archive"), error)
}

/// As much of `text` as fits; the rest is in a record.
fn set_text(field: &mut [u8; NAME_BYTES], text: &[u8]) {
    let len = text.len().min(NAME_BYTES);
    field[..len].copy_from_slice(&text[..len]);
}

/// The records for what a header can't say.
fn records(path: &[u8], entry: &Entry, size: u64, target: Option<&[u8]>) -> Vec<u8> {
    let mut records = Vec::new();
    if path.len() > NAME_BYTES {
        record(&mut records, b"path", path);
    }
    if let Some(target) = target
        && target.len() > NAME_BYTES
    {
        record(&mut records, b"linkpath", target);
    }
    if size > MAX_SIZE {
        record(&mut records, b"size", size.to_string().as_bytes());
    }
    if let Some(owner) = entry.owner {
        for (key, id) in [(&b"uid"[..], owner.uid), (b"gid", owner.gid)] {
            if id > MAX_ID {
                record(&mut records, key, id.to_string().as_bytes());
            }
        }
    }
    if let Some(time) = entry.modified
        && (time.nanos > 0 || time.seconds < 0 || time.seconds as u64 > MAX_SIZE)
    {
        record(&mut records, b"mtime", decimal(time).as_bytes());
    }
    for xattr in &entry.xattrs {
        let key = match &xattr.name[..] {
            ACCESS_ACL => Some(&b"SCHILY.acl.access"[..]),
            DEFAULT_ACL => Some(&b"SCHILY.acl.default"[..]),
            _ => None,
        };
        if let Some(key) = key
            && let Some(text) = acl::text(&xattr.value)
        {
            record(&mut records, key, text.as_bytes());
        }
        // A name with an equals sign can't be told from its value.
        if !xattr.name.contains(&b'=') {
            let key = [b"SCHILY.xattr.", &xattr.name[..]].concat();
            record(&mut records, &key, &xattr.value);
        }
    }
    records
}

/// Seconds with a fraction; before 1970 the fraction counts away from zero.
fn decimal(time: ModTime) -> String {
    let nanos = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    let (sign, size) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    format!("{sign}{}.{:09}", size / 1_000_000_000, size % 1_000_000_000)
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    records.extend_from_slice(len.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_count_themselves() {
        for len in [1, 84, 85, 86, 87, 980, 990, 991, 992, 993, 9_990] {
            let mut records = Vec::new();
            record(&mut records, b"path", &vec![b'x'; len]);
            let text = String::from_utf8(records.clone()).expect("text");
            let (number, _) = text.split_once(' ').expect("a space");
            assert_eq!(number.parse::<usize>().expect("a number"), records.len());
        }
    }

    #[test]
    fn times_before_1970_are_negative() {
        let time = |seconds, nanos| decimal(ModTime { seconds, nanos });
        assert_eq!(time(-2, 500_000_000), "-1.500000000");
        assert_eq!(time(1, 5), "1.000000005");
        assert_eq!(time(i64::MIN, 0), "-9223372036854775808.000000000");
    }
}
