//! Blocks that are to be removed once their pins are gone, in a file: who is killed in between goes on from it.
//!
//! ```text
//! "LNPRUNEJ" | version (1 byte) | records: length of the id (1 byte) | id as a multihash | bytes of the block (u32, little endian)
//! ```
//!
//! Nothing depends on the file being whole: it ends at the first record that is no record, and what it names is removed only when
//! nothing refers to it, which the store itself checks. The worst that a wrong file does is to drop blocks that were merely cached.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::backup::error::Error;
use crate::block::MAX_BLOCK_BYTES;
use crate::id::BlockId;

const MAGIC: &[u8; 8] = b"LNPRUNEJ";
const VERSION: u8 = 1;
const FILE_NAME: &str = "prune.journal";
const NEW_FILE_NAME: &str = "prune.journal.new";
const LOCK_NAME: &str = "prune.lock";

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { what, path, source }
}

/// A directory's journal, for one prune at a time. The lock goes with the value, or with the process.
pub(super) struct Journal {
    dir: PathBuf,
    _lock: File,
}

impl Journal {
    /// Takes the journal of `dir`, which is made if need be. `None`: another prune has it.
    pub(super) fn take(dir: &Path) -> Result<Option<Self>, Error> {
        fs::create_dir_all(dir).map_err(failed("could not make", dir))?;
        let path = dir.join(LOCK_NAME);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(failed("could not open", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self {
                dir: dir.to_owned(),
                _lock: lock,
            })),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(source)) => Err(failed("could not lock", &path)(source)),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.join(FILE_NAME)
    }

    /// Starts a new journal. The old one stays until the new one is whole.
    pub(super) fn write(&self) -> Result<JournalWriter, Error> {
        let path = self.dir.join(NEW_FILE_NAME);
        let created = File::create(&path).and_then(|file| {
            let mut file = BufWriter::new(file);
            file.write_all(MAGIC)?;
            file.write_all(&[VERSION])?;
            Ok(file)
        });
        Ok(JournalWriter {
            file: created.map_err(failed("could not write", &path))?,
            path,
            target: self.path(),
        })
    }

    /// Reads the journal. `None`: there is none.
    pub(super) fn read(&self) -> Result<Option<JournalReader>, Error> {
        let path = self.path();
        match File::open(&path) {
            Ok(file) => Ok(Some(JournalReader::new(BufReader::new(file)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("could not read", &path)(error)),
        }
    }

    /// Removes the journal: everything that it names is done.
    pub(super) fn remove(&self) -> Result<(), Error> {
        let path = self.path();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("could not remove", &path)(error))
            }
            _ => Ok(()),
        }
    }
}

/// Writes a journal.
pub(super) struct JournalWriter {
    file: BufWriter<File>,
    path: PathBuf,
    target: PathBuf,
}

impl JournalWriter {
    pub(super) fn add(&mut self, blocks: &[(BlockId, u32)]) -> Result<(), Error> {
        let mut record = Vec::with_capacity(64);
        for (id, bytes) in blocks {
            let id = id.to_multihash();
            record.clear();
            record.push(u8::try_from(id.len()).expect("a multihash of ours is some 50 bytes long"));
            record.extend_from_slice(&id);
            record.extend_from_slice(&bytes.to_le_bytes());
            self.file
                .write_all(&record)
                .map_err(failed("could not write", &self.path))?;
        }
        Ok(())
    }

    /// Makes it the directory's journal, durably.
    pub(super) fn finish(self) -> Result<(), Error> {
        let done = self
            .file
            .into_inner()
            .map_err(io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&self.path, &self.target))
            .and_then(|()| match self.target.parent() {
                Some(dir) => File::open(dir)?.sync_all(),
                None => Ok(()),
            });
        done.map_err(failed("could not write", &self.path))
    }
}

/// Reads a journal in pages.
pub(super) struct JournalReader<R = BufReader<File>> {
    file: R,
    has_begun: bool,
    has_ended: bool,
}

impl<R: Read> JournalReader<R> {
    fn new(file: R) -> Self {
        Self {
            file,
            has_begun: false,
            has_ended: false,
        }
    }

    /// Up to `limit` blocks; none when there are no more.
    pub(super) fn page(&mut self, limit: usize) -> Vec<(BlockId, u32)> {
        let mut blocks = Vec::new();
        if !self.has_begun {
            self.has_begun = true;
            let mut start = [0; MAGIC.len() + 1];
            let is_ours = self.file.read_exact(&mut start).is_ok()
                && start.starts_with(MAGIC)
                && start.ends_with(&[VERSION]);
            self.has_ended = !is_ours;
        }
        while !self.has_ended && blocks.len() < limit {
            match self.record() {
                Some(block) => blocks.push(block),
                None => self.has_ended = true,
            }
        }
        blocks
    }

    fn record(&mut self) -> Option<(BlockId, u32)> {
        let mut len = [0; 1];
        self.file.read_exact(&mut len).ok()?;
        let mut id = vec![0; usize::from(len[0])];
        self.file.read_exact(&mut id).ok()?;
        let mut bytes = [0; 4];
        self.file.read_exact(&mut bytes).ok()?;
        let bytes = u32::from_le_bytes(bytes);
        let id = BlockId::from_multihash(&id).ok()?;
        (bytes as usize <= MAX_BLOCK_BYTES).then_some((id, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Block;
    use proptest::prelude::*;

    fn id(number: u8) -> BlockId {
        Block::new(vec![number].into()).expect("a block").id()
    }

    fn read_all(bytes: &[u8], page: usize) -> Vec<(BlockId, u32)> {
        let mut reader = JournalReader::new(bytes);
        let mut all = Vec::new();
        loop {
            let blocks = reader.page(page);
            if blocks.is_empty() {
                return all;
            }
            all.extend(blocks);
        }
    }

    #[test]
    fn reads_what_it_writes_and_is_for_one_at_a_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().join("state");
        let journal = Journal::take(&dir).expect("works").expect("is free");
        assert!(Journal::take(&dir).expect("works").is_none());
        assert!(journal.read().expect("reads").is_none());
        let mut writer = journal.write().expect("writes");
        let blocks: Vec<_> = (0..50).map(|n| (id(n), u32::from(n) * 7)).collect();
        for part in blocks.chunks(7) {
            writer.add(part).expect("writes");
        }
        assert!(journal.read().expect("reads").is_none(), "not whole yet");
        writer.finish().expect("writes");
        drop(journal);
        let journal = Journal::take(&dir).expect("works").expect("is free again");
        let mut reader = journal.read().expect("reads").expect("is there");
        assert_eq!(reader.page(20), blocks[..20]);
        assert_eq!(reader.page(100), blocks[20..]);
        assert_eq!(reader.page(100), []);
        journal.remove().expect("removes");
        journal.remove().expect("is gone already");
        assert!(journal.read().expect("reads").is_none());
    }

    /// The bytes of version 1.
    #[test]
    fn the_format_is_fixed() {
        let dir = tempfile::tempdir().expect("a directory");
        let journal = Journal::take(dir.path()).expect("works").expect("free");
        let mut writer = journal.write().expect("writes");
        let one = BlockId::from_sha384([7; 48]);
        writer.add(&[(one, 0x0001_0203)]).expect("writes");
        writer.finish().expect("writes");
        let mut expected = b"LNPRUNEJ\x01\x32\x20\x30".to_vec();
        expected.extend([7; 48]);
        expected.extend([3, 2, 1, 0]);
        assert_eq!(fs::read(journal.path()).expect("reads"), expected);
    }

    #[test]
    fn a_cut_journal_gives_what_is_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let journal = Journal::take(dir.path()).expect("works").expect("free");
        let mut writer = journal.write().expect("writes");
        let blocks: Vec<_> = (0..4).map(|n| (id(n), 9)).collect();
        writer.add(&blocks).expect("writes");
        writer.finish().expect("writes");
        let bytes = fs::read(journal.path()).expect("reads");
        let record = (bytes.len() - 9) / 4;
        for cut in 0..=bytes.len() {
            let whole = cut.saturating_sub(9) / record;
            assert_eq!(read_all(&bytes[..cut], 3), blocks[..whole], "{cut}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_some_end(tail in proptest::collection::vec(any::<u8>(), 0..500), ours in any::<bool>()) {
            let mut bytes = if ours { b"LNPRUNEJ\x01".to_vec() } else { Vec::new() };
            bytes.extend(&tail);
            let blocks = read_all(&bytes, 2);
            prop_assert!(blocks.len() <= tail.len());
            prop_assert!(blocks.iter().all(|(_, bytes)| *bytes as usize <= MAX_BLOCK_BYTES));
        }
    }
}
