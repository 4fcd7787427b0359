//! Where a put begins: a directory, chosen paths, a file, or a stream.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use rustix::fs::{self, AtFlags, FileType, OFlags, Stat};
use tokio::sync::mpsc;

use super::select::{Chosen, Selection};
use crate::bundle::error::Error;
use crate::bundle::own::Own;
use crate::bundle::quiet;

/// What is to be put.
pub(super) enum Start {
    Directory {
        fd: OwnedFd,
        name: Vec<u8>,
        path: PathBuf,
        selection: Arc<Selection>,
        failed: Vec<(PathBuf, io::Error)>,
    },
    File {
        parent: OwnedFd,
        name: Vec<u8>,
        path: PathBuf,
        stat: Box<Stat>,
    },
    Stream {
        name: Bytes,
        input: StreamInput,
    },
}

impl Start {
    /// The root of the system and what is named below it.
    pub(super) fn at_all(paths: &[PathBuf], own: Own) -> Result<Self, Error> {
        let Chosen {
            selection,
            failed,
            real,
        } = Chosen::find(paths).map_err(|(path, error)| Error::io(&path, error))?;
        for path in &real {
            refuse_own(path, own)?;
        }
        let path = PathBuf::from("/");
        let fd = quiet::open(&path, OFlags::DIRECTORY).map_err(|error| Error::io(&path, error))?;
        Ok(Self::Directory {
            fd,
            name: Vec::new(),
            path,
            selection,
            failed,
        })
    }

    /// A file or a directory. A filter wants to see whole paths.
    pub(super) fn at(given: &Path, is_filtered: bool, own: Own) -> Result<Self, Error> {
        use std::os::unix::ffi::OsStrExt;
        let io = |source: io::Error| Error::io(given, source);
        let path = given.canonicalize().map_err(io)?;
        refuse_own(&path, own)?;
        let name = path
            .file_name()
            .map(|name| name.as_bytes().to_vec())
            .unwrap_or_default();
        let stat = fs::stat(&path).map_err(|error| io(error.into()))?;
        let directory =
            |path: &Path| quiet::open(path, OFlags::DIRECTORY).map_err(|error| io(error.into()));
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Ok(Self::Directory {
                fd: directory(&path)?,
                name,
                path: if is_filtered { path } else { given.to_owned() },
                selection: Arc::new(Selection::whole()),
                failed: Vec::new(),
            }),
            FileType::RegularFile => {
                let parent = directory(path.parent().unwrap_or(&path))?;
                let stat = fs::statat(&parent, &name[..], AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|error| io(error.into()))?;
                // Says at once what would otherwise be said by a reader.
                quiet::open_at(&parent, &name[..], OFlags::NONBLOCK)
                    .map_err(|error| io(error.into()))?;
                Ok(Self::File {
                    parent,
                    name,
                    path,
                    stat: Box::new(stat),
                })
            }
            _ => Err(Error::NotPuttable {
                path: given.to_owned(),
            }),
        }
    }
}

/// A path that is or lies in a directory of libernet is never taken, even when it is named.
fn refuse_own(path: &Path, own: Own) -> Result<(), Error> {
    match own.around(path) {
        None => Ok(()),
        Some(directory) => Err(Error::Own {
            path: path.to_owned(),
            directory,
        }),
    }
}

/// Bytes that an async reader gave, for a thread.
pub(super) struct StreamInput {
    pub(super) input: mpsc::Receiver<io::Result<Bytes>>,
    pub(super) now: Bytes,
    /// The reader came to its end. Without that the put was dropped and what came so far is only a part.
    pub(super) is_whole: bool,
}

impl Read for StreamInput {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.now.is_empty() && !self.is_whole {
            match self.input.blocking_recv() {
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
                Some(Err(error)) => return Err(error),
                Some(Ok(bytes)) if bytes.is_empty() => self.is_whole = true,
                Some(Ok(bytes)) => self.now = bytes,
            }
        }
        let len = out.len().min(self.now.len());
        self.now.copy_to_slice(&mut out[..len]);
        Ok(len)
    }
}
