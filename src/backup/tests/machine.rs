//! A machine with real directories: what is backed up changes, runs recognise what has not, and restores are compared with what was there.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::backup::run::{Done, Job, run};
use crate::bundle::{ExtractOptions, ExtractReport, extract};
use crate::time::{Clock, SystemClock};

pub(super) struct Machine {
    pub(super) node: Node,
    pub(super) clock: Arc<ManualClock>,
    /// What is backed up.
    pub(super) root: PathBuf,
    room: Arc<tempfile::TempDir>,
}

impl Machine {
    pub(super) async fn on(store: Arc<dyn Store>) -> Self {
        let node = Node::on(store).await;
        let clock = Arc::new(ManualClock::default());
        // Far from when the files were made: what has not changed since the last run is recognised.
        clock.advance(Duration::from_millis(SystemClock.now().0 + 3_600_000));
        let room = tempfile::tempdir().expect("a directory");
        let root = room.path().canonicalize().expect("there").join("source");
        fs::create_dir(&root).expect("made");
        let mut machine = Self {
            node,
            clock,
            root,
            room: Arc::new(room),
        };
        machine.node.archive = machine.archive(machine.node.depot());
        machine
    }

    /// Another machine with all that this one keeps, in an empty store, and the same source.
    pub(super) async fn twin(&self, store: Arc<dyn Store>) -> Self {
        let clock = Arc::new(ManualClock::default());
        clock.advance(Duration::from_millis(self.clock.now().0));
        let mut twin = Self {
            node: self.node.twin(store).await,
            clock,
            root: self.root.clone(),
            room: self.room.clone(),
        };
        twin.node.archive = twin.archive(twin.node.depot());
        twin
    }

    fn archive(&self, depot: &Depot) -> Archive {
        Archive::new(
            depot.clone(),
            Access::from(&self.node.member),
            self.clock.clone(),
            Some(Arc::new(Home::new(self.node.dir.path()))),
        )
    }

    /// Starts anew: nothing is left but the store and the data directory.
    pub(super) async fn restart(&mut self) {
        let depot = depot(self.node.store().clone()).await;
        self.node.archive = self.archive(&depot);
    }

    pub(super) fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().expect("it has one")).expect("made");
        fs::write(path, bytes).expect("written");
    }

    pub(super) fn fill(&self, files: &Files) {
        for (path, bytes) in files {
            self.write(path, bytes);
        }
    }

    /// When the next run will have begun.
    pub(super) fn next(&self) -> Timestamp {
        self.clock.now().after(Duration::from_secs(60))
    }

    pub(super) async fn try_back_up(&self) -> Result<Done, Error> {
        self.clock.advance(Duration::from_secs(60));
        let job = Job {
            paths: vec![self.root.clone()],
            ..Job::default()
        };
        let (archive, member) = (&self.node.archive, &self.node.member);
        let (monitor, cancel) = (Arc::new(Silent), CancellationToken::new());
        run(archive, member, job, monitor, cancel).await
    }

    pub(super) async fn back_up(&self) -> Done {
        self.try_back_up().await.expect("it runs")
    }

    /// The files that are there now.
    pub(super) fn now(&self) -> Files {
        contents(&self.root)
    }

    /// Restores a snapshot into a directory of its own. Returns what is there of the files that were backed up.
    pub(super) async fn restore(&self, link: &Link) -> Result<(ExtractReport, Files), Error> {
        let target = tempfile::tempdir().expect("a directory");
        let target = target.path().join("target");
        let source: Arc<dyn BlockSource> = self.node.depot().session(Duration::ZERO, Keep::Cached);
        let snapshot = archive::read_snapshot(&*source, link).await?;
        let bundle = Bundle::open(source, snapshot.tree).await?;
        let options = ExtractOptions::default();
        let (monitor, cancel) = (Arc::new(Silent), CancellationToken::new());
        let report = extract(&bundle, &target, options, monitor, cancel).await?;
        Ok((report, contents(&self.below(&target))))
    }

    /// Where the source is in a target.
    pub(super) fn below(&self, target: &Path) -> PathBuf {
        target.join(self.root.strip_prefix("/").expect("absolute"))
    }

    /// The files of a snapshot by their paths below the source.
    pub(super) fn without_root(&self, files: Files) -> Files {
        let root = format!("{}/", self.root.to_str().expect("ours are"));
        let below = |path: String| match format!("/{path}").strip_prefix(&root) {
            Some(below) => below.to_owned(),
            None => panic!("{path} is not below {root}"),
        };
        files.into_iter().map(|(p, c)| (below(p), c)).collect()
    }

    pub(super) async fn assert_restores(&self, link: &Link, files: &Files) {
        let (report, restored) = self.restore(link).await.expect("it restores");
        assert!(report.is_complete(), "{report:?}");
        // Without printing megabytes.
        assert!(restored == *files, "it is what it was");
    }

    /// The snapshots that are listed, by when they began.
    pub(super) async fn listed(&self) -> BTreeMap<Timestamp, Link> {
        let found = self.node.archive.find(Search::Here, Duration::ZERO).await;
        let found = found.expect("finds");
        let listed = found.catalog.snapshots().iter();
        listed
            .map(|l| (l.logged.summary.started, l.logged.snapshot.clone()))
            .collect()
    }
}

/// The regular files below a directory, by path.
pub(super) fn contents(root: &Path) -> Files {
    let (mut files, mut todo) = (Files::new(), vec![root.to_owned()]);
    while let Some(dir) = todo.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                todo.push(path);
            } else {
                let name = path.strip_prefix(root).expect("below");
                let name = name.to_str().expect("ours are").to_owned();
                files.insert(name, fs::read(&path).expect("reads"));
            }
        }
    }
    files
}
