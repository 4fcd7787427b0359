//! A model of rings with branches: nodes that meet in any order, remove each other, decide, and
//! invite again. Every node runs the product's roll; only the connections are made up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use libp2p::PeerId;
use libp2p::identity::Keypair;
use proptest::prelude::*;
use tokio::sync::watch;

use super::roll::Roll;
use crate::ring::{GenerationId, INVITATION_TTL, Ring, Seed};
use crate::time::{ManualClock, Timestamp};

const NODES: usize = 5;
const NOW: Timestamp = Timestamp(0);

#[derive(Debug, Clone)]
enum Step {
    Meet(usize, usize),
    Remove(usize, usize),
    /// The first node decides for a branch, or for its own.
    Choose(usize, bool),
    /// The second node leaves, and the first invites it.
    Invite(usize, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pair = || (0..NODES, 0..NODES);
    let step = prop_oneof![
        8 => pair().prop_map(|(a, b)| Step::Meet(a, b)),
        2 => pair().prop_map(|(a, b)| Step::Remove(a, b)),
        1 => (0..NODES, any::<bool>()).prop_map(|(a, own)| Step::Choose(a, own)),
        1 => pair().prop_map(|(a, b)| Step::Invite(a, b)),
    ];
    proptest::collection::vec(step, 0..60)
}

struct Node {
    roll: Roll,
    peer: PeerId,
    _listening: watch::Sender<Vec<libp2p::Multiaddr>>,
}

impl Node {
    fn new(n: usize) -> Self {
        let key = Keypair::ed25519_from_bytes([n as u8 + 1; 32]).expect("any 32 bytes");
        let (sender, listening) = watch::channel(Vec::new());
        Self {
            peer: key.public().to_peer_id(),
            roll: Roll::new(
                key,
                Arc::new(ManualClock::default()),
                listening,
                Arc::default(),
            ),
            _listening: sender,
        }
    }

    fn ring(&self) -> Option<Ring> {
        self.roll.rings().get("home").ok().cloned()
    }

    fn head(&self) -> Option<GenerationId> {
        self.ring()?.chain().last().map(|last| last.id())
    }
}

/// All generations that were ever made: by id the one before, and those that it removes.
#[derive(Default)]
struct Made(BTreeMap<GenerationId, (Option<GenerationId>, Vec<PeerId>)>);

impl Made {
    fn note(&mut self, ring: &Ring) {
        let mut before = None;
        for one in ring.chain() {
            let known = self.0.entry(one.id());
            known.or_insert_with(|| (before, one.removed().to_vec()));
            before = Some(one.id());
        }
    }

    /// A generation and all before it.
    fn line(&self, head: GenerationId) -> BTreeSet<GenerationId> {
        std::iter::successors(Some(head), |at| self.0.get(at).and_then(|one| one.0)).collect()
    }
}

struct World {
    nodes: Vec<Node>,
    made: Made,
    /// Generations from before, of a node that was invited again: it need not mind their removals.
    forgiven: Vec<BTreeSet<GenerationId>>,
    seeds: u8,
}

impl World {
    fn new() -> Self {
        let nodes: Vec<Node> = (0..NODES).map(Node::new).collect();
        let mut world = Self {
            nodes,
            made: Made::default(),
            forgiven: vec![BTreeSet::new(); NODES],
            seeds: 0,
        };
        let seed = world.seed();
        let made = world.nodes[0]
            .roll
            .change(|rings, key| rings.create("home", key, seed, NOW).map(drop));
        made.expect("made");
        for other in 1..NODES {
            world.invite(0, other);
        }
        for (a, b) in pairs() {
            world.meet(a, b);
        }
        world
    }

    fn seed(&mut self) -> Seed {
        self.seeds += 1;
        Seed::new([self.seeds; 16])
    }

    /// Two nodes connect, prove what both know, and tell each other until there is no news.
    fn meet(&mut self, a: usize, b: usize) {
        let (one, other) = (&self.nodes[a], &self.nodes[b]);
        for _ in 0..3 {
            let ids = |from: &Node, to: &Node| -> BTreeSet<_> {
                let secrets = from.roll.secrets_for(&to.peer);
                secrets.iter().map(|secret| secret.id()).collect()
            };
            let mine = ids(one, other);
            let common: Vec<_> = ids(other, one).intersection(&mine).copied().collect();
            one.roll.proven(other.peer, &common);
            other.roll.proven(one.peer, &common);
            for (from, to) in [(one, other), (other, one)] {
                for info in from.roll.infos(&to.peer, None) {
                    let ring = info.ring;
                    to.roll.told(from.peer, info);
                    for info in to.roll.infos(&from.peer, Some(&ring)) {
                        from.roll.told(to.peer, info);
                    }
                }
            }
        }
        one.roll.gone(&other.peer);
        other.roll.gone(&one.peer);
        self.look();
    }

    fn remove(&mut self, a: usize, b: usize) {
        let seed = self.seed();
        let peer = self.nodes[b].peer;
        // The node may not know the other, or not be let in.
        let _ = self.nodes[a].roll.change(|rings, key| {
            let ring = rings.get_mut("home")?;
            ring.remove(&peer, key, seed, NOW, [self.seeds; 32])
        });
        self.look();
    }

    fn choose(&mut self, a: usize, own: bool) {
        let _ = self.nodes[a].roll.change(|rings, _| {
            let ring = rings.get_mut("home")?;
            let first = ring.branches().first();
            let id =
                first.and_then(|one| one.generations().last().map(|last| last.id().to_string()));
            match id.filter(|_| !own) {
                Some(id) => ring.choose_branch(&id, NOW),
                None => {
                    ring.keep_branch();
                    Ok(())
                }
            }
        });
        self.look();
    }

    fn invite(&mut self, a: usize, b: usize) {
        let seed = self.seed();
        let code = self.nodes[a].roll.change(|rings, _| {
            let ring = rings.get_mut("home")?;
            ring.invite(seed, INVITATION_TTL, true, NOW)
        });
        let (Ok(code), Some(head)) = (code, self.nodes[a].head()) else {
            return;
        };
        let joined = self.nodes[b].roll.change(|rings, _| {
            let _ = rings.leave("home");
            rings.join(code, NOW).map(drop)
        });
        joined.expect("joined");
        self.forgiven[b] = self.made.line(head);
        self.meet(a, b);
    }

    /// Checks what holds at any time.
    fn look(&mut self) {
        for node in &self.nodes {
            if let Some(ring) = node.ring() {
                self.made.note(&ring);
            }
        }
        for (node, forgiven) in self.nodes.iter().zip(&self.forgiven) {
            let Some(ring) = node.ring() else { continue };
            let mut pairs = ring.chain().iter().zip(ring.chain().iter().skip(1));
            assert!(pairs.all(|(one, next)| next.follows(one)));
            let everything: Vec<_> = self
                .nodes
                .iter()
                .filter_map(Node::ring)
                .map(|ring| ring.id())
                .collect();
            for (removed, _) in ring.removed() {
                assert!(
                    !ring.counts(removed, &everything, NOW),
                    "the removed is no member"
                );
                assert!(ring.members().iter().all(|known| known.peer != *removed));
            }
            let Some(head) = node.head() else { continue };
            for one in self.made.line(head).difference(forgiven) {
                let removed = &self.made.0[one].1;
                assert!(
                    !removed.contains(&node.peer),
                    "a removed node was given the secret"
                );
            }
        }
    }
}

fn pairs() -> impl Iterator<Item = (usize, usize)> {
    (0..NODES).flat_map(|a| (0..a).map(move |b| (a, b)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_removed_get_no_secret_and_nothing_is_merged(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            let heads: Vec<_> = world.nodes.iter().map(Node::head).collect();
            match step {
                Step::Meet(a, b) if a != b => {
                    world.meet(a, b);
                    for (node, before) in world.nodes.iter().zip(heads) {
                        // A node goes on along its chain, or stays where it is.
                        if let (Some(before), Some(head)) = (before, node.head()) {
                            prop_assert!(world.made.line(head).contains(&before));
                        }
                    }
                }
                Step::Remove(a, b) if a != b => world.remove(a, b),
                Step::Choose(a, own) => world.choose(a, own),
                Step::Invite(a, b) if a != b => world.invite(a, b),
                _ => {}
            }
        }
    }

    #[test]
    fn removals_one_after_the_other_end_with_one_secret_for_those_that_stay(
        order in Just((0..NODES).collect::<Vec<_>>()).prop_shuffle(),
        removals in 1..NODES - 1,
        meetings in Just(pairs().collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let mut world = World::new();
        let (out, stay) = order.split_at(removals);
        for (nth, gone) in out.iter().enumerate() {
            world.remove(stay[nth % stay.len()], *gone);
            // In any order, so often that each hears it from some other one.
            for _ in 0..2 {
                for (a, b) in &meetings {
                    world.meet(*a, *b);
                }
            }
        }
        let rings: Vec<Ring> = stay.iter().filter_map(|at| world.nodes[*at].ring()).collect();
        for ring in &rings {
            prop_assert_eq!(ring.id(), rings[0].id());
            prop_assert_eq!(ring.generation(), 1 + removals as u32);
            prop_assert!(ring.branches().is_empty());
            prop_assert_eq!(ring.removed().len(), removals);
        }
    }
}

#[test]
fn both_sides_of_a_branch_are_shown_and_a_person_ends_it() {
    let mut world = World::new();
    world.remove(0, 3);
    world.remove(1, 4);
    world.meet(0, 1);
    let branches =
        |world: &World, at: usize| world.nodes[at].ring().map(|ring| ring.branches().len());
    assert_eq!(
        (branches(&world, 0), branches(&world, 1)),
        (Some(1), Some(1))
    );
    assert_ne!(world.nodes[0].head(), world.nodes[1].head());
    world.choose(0, true);
    world.choose(1, false);
    assert_eq!(world.nodes[0].head(), world.nodes[1].head());
    world.meet(0, 1);
    assert_eq!(
        (branches(&world, 0), branches(&world, 1)),
        (Some(0), Some(0))
    );
}
