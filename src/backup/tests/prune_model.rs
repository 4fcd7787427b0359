//! Random histories of backups, forgetting and pruning, cut off here and there, beside a list of what must be there.

use proptest::prelude::*;

use super::prune::{dry_run, prune_on, prune_some};
use super::*;
use crate::backup::prune::adopt_orphans;

#[derive(Clone, Debug)]
enum Step {
    /// A backup of some of a few parts, whose run may be cut off before it writes the log.
    BackUp {
        parts: u8,
        is_cut_off: bool,
    },
    /// One of the snapshots that are there.
    Forget(usize),
    Prune,
    /// Dropped after so many polls.
    PruneSome(u32),
    Adopt,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u8..16, prop::bool::weighted(0.2))
            .prop_map(|(parts, is_cut_off)| Step::BackUp { parts, is_cut_off }),
        3 => any::<usize>().prop_map(Step::Forget),
        1 => Just(Step::Prune),
        3 => (1u32..60).prop_map(Step::PruneSome),
        1 => Just(Step::Adopt),
    ]
}

async fn run(steps: Vec<Step>) {
    let node = Node::new().await;
    let mut kept: Vec<Made> = Vec::new();
    let mut ever = BTreeSet::new();
    for step in steps {
        match step {
            Step::BackUp { parts, is_cut_off } => {
                let mut all = Files::new();
                for part in (0..4).filter(|part| parts >> part & 1 == 1) {
                    let (count, big) = (7 * (part + 1), u64::from(part == 3));
                    let named = files(part, count, big).into_iter();
                    all.extend(named.map(|(path, content)| (format!("{part}/{path}"), content)));
                }
                let made = match is_cut_off {
                    true => node.put(all).await.0,
                    false => node.back_up(all).await,
                };
                ever.extend(made.blocks.iter().copied());
                kept.push(made);
            }
            Step::Forget(which) if !kept.is_empty() => {
                let gone = kept.swap_remove(which % kept.len());
                node.forget(gone.id()).await;
            }
            Step::Forget(_) => {}
            Step::Prune => drop(prune_on(&node).await),
            Step::PruneSome(polls) => drop(prune_some(&node, polls).await),
            Step::Adopt => {
                let adopted = adopt_orphans(&node.archive, &node.member).await;
                adopted.expect("it adopts");
            }
        }
    }
    // Another one that was dropped may still be in its last step, so that this one counts when that is done.
    prune_some(&node, 0).await;
    let dry = dry_run(&node).await;
    let report = prune_on(&node).await;
    assert!(
        report.freed_blocks >= dry.freed_blocks,
        "{report:?} {dry:?}"
    );
    let needed: BTreeSet<_> = kept.iter().flat_map(|made| &made.blocks).collect();
    for id in &ever {
        assert_eq!(node.has(*id), needed.contains(id), "{id}");
    }
    for made in &kept {
        node.assert_reads_back(made).await;
    }
    let found = node.archive.find(Search::Here, Duration::ZERO).await;
    let found = found.expect("finds");
    let listed = found.catalog.snapshots().iter();
    let listed: BTreeSet<_> = listed.map(|listed| listed.logged.snapshot.id).collect();
    assert_eq!(listed, kept.iter().map(Made::id).collect());
    assert!(
        found
            .logs
            .iter()
            .all(|log| log.forgotten().next().is_none())
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 40, ..ProptestConfig::default() })]
    #[test]
    fn kept_snapshots_read_back_and_nothing_else_stays(steps in prop::collection::vec(step(), 1..14)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("it starts").block_on(run(steps));
    }
}
