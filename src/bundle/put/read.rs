//! The readers: threads that open, read and hash files, and ask the index what is stored already.
//!
//! A file's own word on its size is not believed: the file is read to its end. A small file that
//! gives anything else than it says is read once more; when it still changes, what was read is kept
//! and said so. A file is never a reason to fail: what can't be read is reported.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;

use rustix::fs::{self, FileType, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use super::attributes;
use super::chunk::{Buffer, Chunker, SMALL_FILE_BYTES};
use super::queue::Queue;
use super::seal::{Handle, Shared};
use super::walk::{Step, ToRead};
use crate::block::{ChunkHash, ChunkIndex, Ref};
use crate::bundle::descriptors::when_free;
use crate::bundle::tree::Entry;
use crate::bundle::{quiet, stat};
use crate::monitor::Monitor;

/// What a file that was not still is reported with.
const CHANGED: &str = "it changed while it was read; what was read is kept";

/// Most bytes of a file that says it is empty.
const MAX_UNSIZED_BYTES: u64 = 64 << 20;

/// Reason that is reported for a small file that became a large one.
const CUT: &str = "it changed while it was read, and became large; its first 512 KiB are kept";

/// Reason that is reported for a file when something else took its place.
const IRREGULAR: &str = "it is no longer a regular file";

/// Work for a reader.
pub(super) enum ReadJob {
    /// Reads the small files among the steps.
    Steps(Vec<Step>, SyncSender<Vec<Step>>),
    /// Reads a large or sparse file.
    Large(ToRead, SyncSender<Piece>),
    /// Cuts a stream of unknown length.
    Stream(Box<Entry<Handle>>, Box<dyn Read + Send>, SyncSender<Piece>),
}

/// A stretch of plaintext, its name, and where it is stored if it is.
pub(super) struct Chunk {
    pub(super) bytes: Vec<u8>,
    pub(super) hash: ChunkHash,
    pub(super) known: Option<Ref>,
}

/// A small file in memory.
pub(super) struct SmallFile {
    pub(super) entry: Entry<Handle>,
    /// `None` for an empty file.
    pub(super) chunk: Option<Chunk>,
    /// A note on what is not quite right with it.
    pub(super) note: Option<(PathBuf, io::Error)>,
}

/// A part of a large file, in order.
pub(super) enum Piece {
    Data(Chunk),
    Hole(u64),
    /// The end: the file's attributes, and a note on what is not quite right with it.
    End(Box<Entry<Handle>>, Option<io::Error>),
    Failed(io::Error),
}

/// What the readers share.
pub(super) struct Reader<'a> {
    pub(super) shared: &'a Shared,
    pub(super) index: &'a dyn ChunkIndex,
    pub(super) monitor: &'a dyn Monitor,
    /// The index failed once and was reported.
    pub(super) index_failed: &'a AtomicBool,
    pub(super) keep_identity: bool,
}

impl Reader<'_> {
    /// Takes jobs until the queue is closed.
    pub(super) fn run(&self, jobs: &Queue<ReadJob>) {
        let mut buffer = None;
        while let Some(job) = jobs.pop() {
            // A send fails only when the assembler has given up: then the queue is closed soon.
            match job {
                ReadJob::Steps(steps, out) => {
                    let _ = out.send(self.steps(steps));
                }
                ReadJob::Large(file, out) => {
                    let buffer = buffer.get_or_insert_with(Buffer::new);
                    let last = match self.large(&file, buffer, &out) {
                        Ok(Some(end)) => end,
                        Ok(None) => continue,
                        Err(error) => Piece::Failed(error),
                    };
                    let _ = out.send(last);
                }
                ReadJob::Stream(entry, input, out) => {
                    let buffer = buffer.get_or_insert_with(Buffer::new);
                    let last = match self.chunks(input, buffer, &out) {
                        Ok(Some(_)) => Piece::End(entry, None),
                        Ok(None) => continue,
                        Err(error) => Piece::Failed(error),
                    };
                    let _ = out.send(last);
                }
            }
        }
    }

    fn steps(&self, steps: Vec<Step>) -> Vec<Step> {
        let mut steps: Vec<Step> = steps
            .into_iter()
            .map(|step| match step {
                Step::Small(file) => match self.small(&file) {
                    Ok(read) => Step::Read(Box::new(read)),
                    Err(error) => Step::Unreadable {
                        path: file.place.trail.join(&file.name),
                        error,
                    },
                },
                other => other,
            })
            .collect();
        let mut chunks: Vec<&mut Chunk> = steps
            .iter_mut()
            .filter_map(|step| match step {
                Step::Read(file) => file.chunk.as_mut(),
                _ => None,
            })
            .collect();
        let hashes: Vec<ChunkHash> = chunks.iter().map(|chunk| chunk.hash).collect();
        for (chunk, known) in chunks.iter_mut().zip(self.lookup(&hashes)) {
            chunk.known = known.filter(|known| known.len as usize == chunk.bytes.len());
        }
        steps
    }

    /// Where chunks are stored. Without an answer they are stored again: that costs space, never data.
    pub(super) fn lookup(&self, hashes: &[ChunkHash]) -> Vec<Option<Ref>> {
        if hashes.is_empty() {
            return Vec::new();
        }
        self.index.lookup(hashes).unwrap_or_else(|error| {
            if !self.index_failed.swap(true, Ordering::Relaxed) {
                self.monitor.warning(&format!(
                    "nothing is deduplicated with earlier runs: {error}"
                ));
            }
            vec![None; hashes.len()]
        })
    }

    pub(super) fn chunk(&self, bytes: Vec<u8>) -> Chunk {
        Chunk {
            hash: self.shared.context.chunk_hash(&bytes),
            bytes,
            known: None,
        }
    }

    fn small(&self, file: &ToRead) -> io::Result<SmallFile> {
        let (fd, before) = open(file)?;
        let mut look = Look::at(fd, before)?;
        let mut is_still = look.is_still();
        if !is_still {
            let (fd, before) = open(file)?;
            let again = Look::at(fd, before)?;
            // A size that is only said (`/sys`) does not change what is read.
            is_still = again.is_still() || again.is_same(&look);
            look = again;
        }
        let (entry, xattr_note) = self.entry_of(file, &look.fd, &look.before);
        let note = if look.is_cut {
            Some(io::Error::other(CUT))
        } else if is_still {
            xattr_note
        } else {
            Some(io::Error::other(CHANGED))
        };
        let bytes = look.bytes;
        Ok(SmallFile {
            entry,
            chunk: (!bytes.is_empty()).then(|| self.chunk(bytes)),
            note: note.map(|note| (file.place.trail.join(&file.name), note)),
        })
    }

    fn entry_of(
        &self,
        file: &ToRead,
        fd: &File,
        stat: &Stat,
    ) -> (Entry<Handle>, Option<io::Error>) {
        let content = attributes::no_bytes(file.link_group);
        let mut entry = attributes::entry(&file.name, stat, content);
        let (xattrs, left_out) = attributes::xattrs(fd);
        entry.xattrs = xattrs;
        entry.identity = self.keep_identity.then(|| stat::identity(stat));
        let note = left_out
            .then(|| io::Error::other("some of its extended attributes are too large to keep"));
        (entry, note)
    }

    /// Sends a file's pieces. `None`: nobody wants them any more.
    fn large(
        &self,
        file: &ToRead,
        buffer: &mut Buffer,
        out: &SyncSender<Piece>,
    ) -> io::Result<Option<Piece>> {
        let (mut fd, before) = open(file)?;
        let size = stat::size(&before);
        if size == 0 {
            return self.unsized_file(file, &fd, &before, buffer, out);
        }
        let mut at = 0;
        while at < size {
            let (data, end) = match file.maybe_sparse {
                true => next_data(&fd, at, size)?,
                false => (at, size),
            };
            if data > at && out.send(Piece::Hole(data - at)).is_err() {
                return Ok(None);
            }
            at = data;
            if data == end {
                break;
            }
            fd.seek(io::SeekFrom::Start(data))?;
            let Some(read) = self.chunks((&fd).take(end - data), buffer, out)? else {
                return Ok(None);
            };
            at = data + read;
            if at < end {
                // Cut short since it was opened.
                break;
            }
        }
        let after = fs::fstat(&fd)?;
        let (entry, xattr_note) = self.entry_of(file, &fd, &before);
        let note = if !stat::is_unchanged(&before, &after) {
            Some(io::Error::other(CHANGED))
        } else if at < size {
            let words = format!("it says that it has {size} bytes and gave {at}; these are kept");
            Some(io::Error::other(words))
        } else if has_more(&fd, size)? {
            let words = format!("it holds more than the {size} bytes it says; these are kept");
            Some(io::Error::other(words))
        } else {
            xattr_note
        };
        Ok(Some(Piece::End(Box::new(entry), note)))
    }

    /// Reads a file that says it is empty, to its end.
    fn unsized_file(
        &self,
        file: &ToRead,
        fd: &File,
        before: &Stat,
        buffer: &mut Buffer,
        out: &SyncSender<Piece>,
    ) -> io::Result<Option<Piece>> {
        let Some(read) = self.chunks(fd.take(MAX_UNSIZED_BYTES + 1), buffer, out)? else {
            return Ok(None);
        };
        if read > MAX_UNSIZED_BYTES {
            return Err(io::Error::other(
                "it says that it is empty and gave more than 64 MiB: it may have no end",
            ));
        }
        let (entry, note) = self.entry_of(file, fd, before);
        Ok(Some(Piece::End(Box::new(entry), note)))
    }

    /// Cuts, hashes and sends what `input` gives; the number of bytes, or `None` when nobody wants them any more.
    fn chunks(
        &self,
        input: impl Read,
        buffer: &mut Buffer,
        out: &SyncSender<Piece>,
    ) -> io::Result<Option<u64>> {
        let mut chunker = Chunker::new(input, &self.shared.cuts, buffer);
        let mut sum = 0;
        while let Some(bytes) = chunker.next()? {
            sum += bytes.len() as u64;
            let mut chunk = self.chunk(bytes);
            let known = self.lookup(&[chunk.hash]).into_iter().next().flatten();
            chunk.known = known.filter(|known| known.len as usize == chunk.bytes.len());
            if self.shared.check().is_err() || out.send(Piece::Data(chunk)).is_err() {
                return Ok(None);
            }
        }
        Ok(Some(sum))
    }
}

/// Opens a file that was a regular one when it was seen. Waits for a free descriptor, but never for
/// a FIFO that took its place.
fn open(file: &ToRead) -> io::Result<(File, Stat)> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = when_free(|| quiet::open_at(&file.place.fd, &file.name[..], flags));
    let fd = match opened {
        Ok(fd) => fd,
        Err(Errno::LOOP) => return Err(io::Error::other("it became a symlink")),
        Err(Errno::NOENT) => {
            let vanished = "it vanished before it was read";
            return Err(io::Error::new(io::ErrorKind::NotFound, vanished));
        }
        // A socket can't be opened.
        Err(Errno::NXIO) => return Err(io::Error::other(IRREGULAR)),
        Err(error) => return Err(error.into()),
    };
    let stat = fs::fstat(&fd)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::other(IRREGULAR));
    }
    Ok((fd.into(), stat))
}

/// A small file as it was read once.
struct Look {
    fd: File,
    before: Stat,
    after: Stat,
    bytes: Vec<u8>,
    /// There was more than a small file may have.
    is_cut: bool,
}

impl Look {
    /// Reads to the end, or as much as a small file may have should it have grown since it was
    /// seen.
    fn at(fd: File, before: Stat) -> io::Result<Self> {
        let size = stat::size(&before).min(SMALL_FILE_BYTES);
        // One more than it says, so that its end is met without growing the buffer.
        let mut bytes = Vec::with_capacity(size as usize + 1);
        (&fd).take(SMALL_FILE_BYTES + 1).read_to_end(&mut bytes)?;
        let is_cut = bytes.len() as u64 > SMALL_FILE_BYTES;
        bytes.truncate(SMALL_FILE_BYTES as usize);
        let after = fs::fstat(&fd)?;
        Ok(Self {
            fd,
            before,
            after,
            bytes,
            is_cut,
        })
    }

    /// Whether nothing changed meanwhile and the file gave as many bytes as it says.
    fn is_still(&self) -> bool {
        stat::is_unchanged(&self.before, &self.after)
            && self.bytes.len() as u64 == stat::size(&self.before)
    }

    /// Whether nothing changed between an earlier look and this one.
    fn is_same(&self, earlier: &Self) -> bool {
        stat::is_unchanged(&earlier.before, &self.after) && earlier.bytes == self.bytes
    }
}

/// Whether a file goes on behind its end.
fn has_more(fd: &File, size: u64) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    Ok(fd.read_at(&mut [0], size)? > 0)
}

/// The next stretch of data at or after `at`: start and end. Both are `size` when only a hole is left.
fn next_data(fd: &File, at: u64, size: u64) -> io::Result<(u64, u64)> {
    let start = match fs::seek(fd, SeekFrom::Data(at)) {
        Ok(start) => start.min(size),
        Err(Errno::NXIO) => return Ok((size, size)),
        // A file system that does not know holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok((at, size)),
        Err(error) => return Err(error.into()),
    };
    let end = match fs::seek(fd, SeekFrom::Hole(start)) {
        Ok(end) => end.min(size),
        Err(_) => size,
    };
    Ok((start, end.max(start)))
}
