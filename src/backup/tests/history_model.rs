//! Random histories of backups, changes, forgetting, pruning, repacking and restoring: each kept snapshot gives back exactly what it saw.

use proptest::prelude::*;

use super::machine::Machine;
use super::prune::{options, prune_until};
use super::*;
use crate::backup::prune::{PruneOptions, prune};
use crate::store::RocksStore;

/// Names of files.
const FILES: u8 = 12;

#[derive(Clone, Debug)]
enum Step {
    /// A file gets other content: a small one, or one with blocks of its own.
    Write {
        file: u8,
        is_big: bool,
    },
    Remove(usize),
    BackUp,
    /// One of the snapshots that are there.
    Forget(usize),
    Prune {
        repack: bool,
    },
    /// Dropped after so many polls.
    PruneSome {
        polls: u32,
        repack: bool,
    },
    Restore(usize),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..FILES, prop::bool::weighted(0.1)).prop_map(|(file, is_big)| Step::Write { file, is_big }),
        2 => any::<usize>().prop_map(Step::Remove),
        5 => Just(Step::BackUp),
        2 => any::<usize>().prop_map(Step::Forget),
        1 => any::<bool>().prop_map(|repack| Step::Prune { repack }),
        2 => (1u32..80, any::<bool>()).prop_map(|(polls, repack)| Step::PruneSome { polls, repack }),
        2 => any::<usize>().prop_map(Step::Restore),
        1 => Just(Step::Restart),
    ]
}

/// The machine, and beside it what each kept snapshot saw, by when it began.
struct History {
    machine: Machine,
    kept: BTreeMap<Timestamp, Files>,
    writes: u64,
}

impl History {
    async fn new(store: Arc<dyn Store>) -> Self {
        let mut history = Self {
            machine: Machine::on(store).await,
            kept: BTreeMap::new(),
            writes: 0,
        };
        for file in 0..FILES {
            history.write(file, false);
        }
        history
    }

    fn write(&mut self, file: u8, is_big: bool) {
        self.writes += 1;
        // A size of its own each time: within one tick of the file system's clock nothing else would tell.
        let len = match is_big {
            true => 600_000 + self.writes,
            false => 100 + 7 * self.writes,
        };
        let mut content = vec![0; len as usize];
        let mut noise = blake3::Hasher::new();
        noise.update(&self.writes.to_le_bytes());
        noise.finalize_xof().fill(&mut content);
        let path = format!("d{}/f{file}", file % 3);
        self.machine.write(&path, &content);
    }

    fn pruning(&self, repack: bool) -> PruneOptions {
        PruneOptions {
            repack_below_percent: if repack { 70 } else { 0 },
            ..options(&self.machine.node, false)
        }
    }

    async fn prune(&self, repack: bool) {
        let (node, cancel) = (&self.machine.node, CancellationToken::new());
        let options = self.pruning(repack);
        let pruned = prune(&node.archive, &node.member, &options, &Silent, &cancel).await;
        pruned.expect("it prunes");
    }

    /// The snapshots as they are listed are those that are kept.
    async fn listed(&self) -> BTreeMap<Timestamp, Link> {
        let listed = self.machine.listed().await;
        assert!(listed.keys().eq(self.kept.keys()), "those that are kept");
        listed
    }

    async fn one(&self, which: usize) -> Option<(Timestamp, Link)> {
        let listed = self.listed().await;
        let at = which.checked_rem(listed.len())?;
        listed.into_iter().nth(at)
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Write { file, is_big } => self.write(file, is_big),
            Step::Remove(which) => {
                let now = self.machine.now();
                if let Some(at) = which.checked_rem(now.len()) {
                    let path = now.keys().nth(at).expect("there are so many");
                    std::fs::remove_file(self.machine.root.join(path)).expect("removed");
                }
            }
            Step::BackUp => {
                let began = self.machine.next();
                self.kept.insert(began, self.machine.now());
                let done = self.machine.back_up().await;
                assert_eq!(done.snapshot.summary.started, began);
            }
            Step::Forget(which) => {
                if let Some((began, link)) = self.one(which).await {
                    self.machine.node.forget(link.id).await;
                    self.kept.remove(&began);
                }
            }
            Step::Prune { repack } => self.prune(repack).await,
            Step::PruneSome { polls, repack } => {
                let options = self.pruning(repack);
                prune_until(&self.machine.node, &options, polls).await;
            }
            Step::Restore(which) => {
                if let Some((began, link)) = self.one(which).await {
                    let files = &self.kept[&began];
                    self.machine.assert_restores(&link, files).await;
                }
            }
            Step::Restart => self.machine.restart().await,
        }
    }

    async fn end(&self) {
        self.prune(true).await;
        for (began, link) in self.listed().await {
            let files = &self.kept[&began];
            self.machine.assert_restores(&link, files).await;
        }
        let store = self.machine.node.store();
        assert_eq!(store.lost(None, 9).expect("reads"), []);
        assert!(self.machine.node.log_is_settled().await);
    }
}

fn run(store: Arc<dyn Store>, steps: Vec<Step>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("it starts").block_on(async {
        let mut history = History::new(store).await;
        for step in steps {
            history.step(step).await;
        }
        history.end().await;
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 40, ..ProptestConfig::default() })]
    #[test]
    fn each_kept_snapshot_gives_back_what_it_saw(steps in prop::collection::vec(step(), 4..20)) {
        run(memory(), steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2, max_shrink_iters: 10, ..ProptestConfig::default() })]
    #[test]
    fn so_it_does_on_a_disk(steps in prop::collection::vec(step(), 8..20)) {
        let dir = tempfile::tempdir().expect("a directory");
        let store = RocksStore::open(dir.path(), StoreOptions::default()).expect("opens");
        run(Arc::new(store), steps);
    }
}
