//! Each kind of work, cut off at its first write to the store, at its second, and so on: what is kept stays whole, and the next run goes on.

use super::frail::Frail;
use super::machine::Machine;
use super::prune::options;
use super::*;
use crate::backup::prune::{PruneOptions, prune};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    BackUp,
    Forget,
    Prune,
    Repack,
}

struct Case {
    work: Work,
    machine: Machine,
    store: Arc<Frail>,
    /// What each snapshot saw, by when it began: repacking keeps that.
    seen: BTreeMap<Timestamp, Files>,
    /// Those that must be there whatever happens.
    kept: BTreeSet<Timestamp>,
    gone: BlockId,
}

impl Case {
    async fn new(work: Work) -> Self {
        let store = Frail::new();
        let machine = Machine::on(store.clone()).await;
        let mut case = Self {
            work,
            store,
            seen: BTreeMap::new(),
            kept: BTreeSet::new(),
            gone: BlockId::from_sha384([0; 48]),
            machine,
        };
        let all = files(5, 24, 0);
        case.machine.fill(&all);
        case.gone = case.back_up().await;
        case.kept.clear();
        // Little of what the first one packed is still used by these.
        let few = all.iter().enumerate().filter(|(at, _)| at % 8 != 0);
        for (_, (path, _)) in few {
            std::fs::remove_file(case.machine.root.join(path)).expect("removed");
        }
        case.back_up().await;
        case.machine.write("other", &[7; 9000]);
        case.back_up().await;
        if matches!(work, Work::Prune | Work::Repack) {
            case.machine.node.forget(case.gone).await;
        }
        if work == Work::BackUp {
            case.machine.fill(&files(9, 7, 1));
        }
        case
    }

    fn note(&mut self) -> Timestamp {
        let began = self.machine.next();
        self.seen.insert(began, self.machine.now());
        began
    }

    async fn back_up(&mut self) -> BlockId {
        let began = self.note();
        self.kept.insert(began);
        self.machine.back_up().await.link.id
    }

    async fn work(&mut self) -> Result<(), Error> {
        let (node, gone) = (&self.machine.node, self.gone);
        let repack_below_percent = match self.work {
            Work::BackUp => {
                self.note();
                return self.machine.try_back_up().await.map(drop);
            }
            Work::Forget => {
                let forget = move |log: &mut Log| log.forget(gone);
                return node.archive.change_log(&node.member, forget).await;
            }
            Work::Prune => 0,
            Work::Repack => 60,
        };
        let options = PruneOptions {
            repack_below_percent,
            ..options(node, false)
        };
        let cancel = CancellationToken::new();
        prune(&node.archive, &node.member, &options, &Silent, &cancel)
            .await
            .map(drop)
    }

    /// What is listed is what was seen, and what is kept is listed.
    async fn assert_whole(&self, point: u64) {
        let listed = self.machine.listed().await;
        let times: BTreeSet<Timestamp> = listed.keys().copied().collect();
        let (work, kept) = (self.work, &self.kept);
        assert!(times.is_superset(kept), "{work:?} until write {point}");
        for (began, link) in &listed {
            let made = self.machine.node.files_of(link).await;
            let made = made.expect("it reads");
            let made = self.machine.without_root(made);
            assert!(
                made == self.seen[began],
                "{work:?} until write {point}: it is what it was"
            );
        }
    }
}

/// Returns whether it came to its end.
async fn cut_off(work: Work, point: u64) -> bool {
    let mut case = Case::new(work).await;
    case.store.fail_after(point);
    let done = case.work().await;
    let has_failed = case.store.has_failed();
    assert!(has_failed || done.is_ok(), "{work:?}: {done:?}");
    case.store.open_again();
    case.machine.restart().await;
    case.assert_whole(point).await;
    // The next run goes on, and what is pruned after it leaves nothing behind.
    let again = case.work().await;
    assert!(again.is_ok(), "{work:?} after write {point}: {again:?}");
    case.work = Work::Repack;
    case.work().await.expect("it prunes");
    case.work = work;
    case.assert_whole(point).await;
    let store = &case.store;
    assert_eq!(store.lost(None, 9).expect("reads"), []);
    assert_eq!(store.unfinished(), 0, "{work:?} until write {point}");
    let pins = store.pins().expect("reads").into_iter();
    let pins = pins.filter(|(_, info)| info.name == SNAPSHOT_PIN);
    assert_eq!(
        pins.count(),
        case.machine.listed().await.len(),
        "{work:?} until write {point}"
    );
    if work != Work::BackUp {
        assert_eq!(case.machine.listed().await.len(), case.kept.len());
    }
    !has_failed
}

/// Every write at first, and then ever fewer of them.
async fn cut_off_everywhere(work: Work) {
    let mut point = 0;
    while !cut_off(work, point).await {
        point += 1 + point / 3;
        assert!(point < 2000, "it never ends");
    }
    assert!(point > 2, "there are writes");
}

#[tokio::test]
async fn a_backup_whose_writes_end() {
    cut_off_everywhere(Work::BackUp).await;
}

#[tokio::test]
async fn a_forgetting_whose_writes_end() {
    cut_off_everywhere(Work::Forget).await;
}

#[tokio::test]
async fn a_prune_whose_writes_end() {
    cut_off_everywhere(Work::Prune).await;
}

#[tokio::test]
async fn a_repacking_whose_writes_end() {
    cut_off_everywhere(Work::Repack).await;
}
