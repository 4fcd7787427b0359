//! A walk that only counts: what a put would take, and what it would read.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;

use tokio_util::sync::CancellationToken;

use super::previous::Past;
use super::queue::{Closed, Queue};
use super::seal::{Shared, StopOnDrop};
use super::start::Start;
use super::walk::{Item, Step, WalkOptions, Walker};
use super::{
    ITEMS_AHEAD, MAX_REPORTED, MIN_IN_FLIGHT_BYTES, PutOptions, Unreadable, blocking,
    note_left_out, walk,
};
use crate::bundle::error::Error;
use crate::bundle::tree::Content;
use crate::monitor::{Monitor, Progress};

/// What a put would find.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Regular files.
    pub files: u64,
    /// Everything that has a name, the root included.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Names that the filter leaves out.
    pub excluded: u64,
    /// Files that are as they were in the earlier bundle, going by their attributes. Whether their blocks are still in the store is not
    /// looked at.
    pub unchanged: u64,
    /// Files that would be read.
    pub to_read: u64,
    /// Their bytes.
    pub to_read_bytes: u64,
    /// Where they are: the first [`MAX_REPORTED`].
    pub to_read_paths: Vec<PathBuf>,
    /// Patterns of the filter that matched nothing.
    pub unmatched: Vec<String>,
    /// Paths that no put takes: the first [`MAX_REPORTED`]. Each is a directory of libernet, or a
    /// socket.
    pub left_out: Vec<Unreadable>,
    /// Paths that can't even be looked at: the first [`MAX_REPORTED`].
    pub unreadable: Vec<Unreadable>,
    /// How many there are in all.
    pub unreadable_total: u64,
}

/// Looks at everything that [`put_paths`](super::put_paths) with these options would put. Opens directories and no file, stores nothing.
///
/// # Errors
/// As [`put_paths`](super::put_paths).
///
/// # Cancel safety
/// Dropping the future or cancelling stops the threads soon.
pub async fn survey(
    paths: &[PathBuf],
    options: &PutOptions,
    monitor: Arc<dyn Monitor>,
    cancel: CancellationToken,
) -> Result<Survey, Error> {
    let paths = paths.to_vec();
    let walk_options = WalkOptions {
        one_file_system: options.one_file_system,
        keep_identity: false,
        filter: options.filter.clone(),
        own: options.own,
        only_count: true,
    };
    let (previous, own) = (options.previous.clone(), options.own);
    let filter = options.filter.clone();
    let shared = Arc::new(Shared::new(options.context.clone(), 1, MIN_IN_FLIGHT_BYTES));
    let _stop = StopOnDrop(shared.clone());
    let runtime = tokio::runtime::Handle::current();
    let worker = shared.clone();
    let work = blocking(move || {
        let start = Start::at_all(&paths, own)?;
        let shared = &*worker;
        let jobs = Queue::new(1);
        let listener = &*monitor;
        thread::scope(|scope| {
            let _stop = StopOnDrop(worker.clone());
            // Made here, so that it ends before the walker is waited for.
            let (items, received) = sync_channel(ITEMS_AHEAD);
            let walker = Walker::new(shared, &jobs, items, walk_options);
            scope.spawn(move || {
                let halted = shared.halted.clone();
                let past = previous
                    .map(|previous| Past::open(previous, runtime, None, listener, halted))
                    .transpose();
                if let Ok(past) = past {
                    walk(walker.beside(past.flatten()), start);
                }
            });
            let mut survey = Survey::default();
            while let Ok(item) = received.recv() {
                shared.check().map_err(|Closed| Error::Cancelled)?;
                let Item::Steps(steps, _) = item else {
                    return Err(Error::Worker);
                };
                for step in steps.recv().map_err(|_| Error::Worker)? {
                    survey.step(step);
                }
                listener.progress(Progress {
                    files: survey.files,
                    bytes: survey.bytes,
                    ..Progress::default()
                });
            }
            shared.check().map_err(|Closed| Error::Cancelled)?;
            survey.unmatched = filter.map_or_else(Vec::new, |filter| filter.unmatched());
            Ok(survey)
        })
    });
    tokio::select! {
        survey = work => survey,
        () = cancel.cancelled() => Err(Error::Cancelled),
    }
}

impl Survey {
    fn step(&mut self, step: Step) {
        match step {
            Step::Enter(_) => self.entries += 1,
            Step::Ready(entry) => {
                debug_assert!(!matches!(entry.content, Content::File(_)), "only seen");
                self.entries += 1;
            }
            Step::Seen { size, to_read } => {
                self.file(size);
                match to_read {
                    None => self.unchanged += 1,
                    Some(path) => {
                        self.to_read += 1;
                        self.to_read_bytes += size;
                        if self.to_read_paths.len() < MAX_REPORTED {
                            self.to_read_paths.push(path);
                        }
                    }
                }
            }
            Step::Again { size, .. } => self.file(size),
            Step::Excluded(names) => self.excluded += names,
            Step::LeftOut { path, reason } => note_left_out(&mut self.left_out, path, reason),
            Step::Unreadable { path, error } => {
                let reason = error.to_string();
                self.unreadable_total += 1;
                if self.unreadable.len() < MAX_REPORTED {
                    self.unreadable.push(Unreadable { path, reason });
                }
            }
            Step::Leave
            | Step::Small(_)
            | Step::Read(_)
            | Step::Taken(_)
            | Step::Listed(_)
            | Step::Shift(_) => {}
        }
    }

    fn file(&mut self, size: u64) {
        self.entries += 1;
        self.files += 1;
        self.bytes += size;
    }
}
