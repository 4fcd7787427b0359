//! Following a ring's chain of generations, and branches of it.
//!
//! A node goes on to a generation only when it is the next one after its own, was signed by a
//! member, and the node has its seed. Every other generation that has a known one before it is a
//! *branch*: two members each removed somebody, or a removed one removes the others in turn.
//! No number or name decides between branches: a person does, on each machine, knowing who signed
//! what.

use libp2p::PeerId;
use libp2p::identity::Keypair;

use super::Error;
use super::generation::{Generation, GenerationId};
use super::group::{MAX_GENERATIONS, Ring};
use super::secret::Seed;
use crate::time::Timestamp;

/// Most branches of a ring that are remembered, at most one of each member that signed its first
/// generation.
pub const MAX_BRANCHES: usize = 4;
/// Most generations that are remembered as decided against.
pub const MAX_REJECTED: usize = 64;
/// Fewest characters of an id that name a branch.
const MIN_ID: usize = 4;

/// Generations that don't continue the chain, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    pub(super) generations: Vec<Generation>,
    /// The seed of the last, when this node was given it.
    pub(super) seed: Option<Seed>,
}

impl Branch {
    /// The generations, oldest first; at least one.
    pub fn generations(&self) -> &[Generation] {
        &self.generations
    }

    /// Whether this node has its secret, and can go over to it.
    pub const fn is_open(&self) -> bool {
        self.seed.is_some()
    }

    /// Whether it removes that peer.
    pub fn removes(&self, peer: &PeerId) -> bool {
        let mut all = self.generations.iter();
        all.any(|one| one.removed().contains(peer))
    }
}

/// Outcome of hearing of generations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Followed {
    /// Nothing new.
    Nothing,
    /// There is a new branch, or more of one.
    Branch,
    /// The peer that told is of a branch that this node was removed from.
    ShutOut,
    /// There is another secret.
    Secret,
}

/// Generations as a peer told them.
#[derive(Debug, Clone, Copy)]
pub struct Heard<'a> {
    /// The peer.
    pub from: &'a PeerId,
    /// Whether it is a member; if not, it was removed here, and its word can only make a branch.
    pub is_member: bool,
    /// The generations, oldest first.
    pub generations: &'a [Generation],
    /// The seed of the last.
    pub seed: Option<&'a Seed>,
}

impl Ring {
    /// Branches that were heard of and that nobody has decided about.
    pub fn branches(&self) -> &[Branch] {
        &self.branches
    }

    /// Generations to tell a peer that has proven the one of that number: those after it. A
    /// newcomer, 0, is told only the present one.
    pub fn generations_after(&self, number: u32) -> &[Generation] {
        let start = match number {
            0 => self.chain.len().saturating_sub(1),
            _ => self.chain.partition_point(|one| one.number() <= number),
        };
        self.chain.get(start..).unwrap_or_default()
    }

    /// Takes in generations that a peer tells of.
    pub fn follow(&mut self, heard: Heard<'_>, key: &Keypair, now: Timestamp) -> Followed {
        let Some(last) = heard.generations.last() else {
            return Followed::Nothing;
        };
        let seed_of = |last: &Generation| {
            let given = heard.seed.filter(|seed| last.is_seed(seed)).cloned();
            given.or_else(|| last.open(key))
        };
        if self.chain.is_empty() {
            // The invitation proved the peer; it is the one that says where the chain stands.
            let Some(seed) = seed_of(last).filter(|_| heard.is_member) else {
                return Followed::Nothing;
            };
            self.seed = seed;
            self.append(last.clone());
            return Followed::Secret;
        }
        let local = key.public().to_peer_id();
        let (mut line, mut followed): (Vec<Generation>, _) = (Vec::new(), Followed::Nothing);
        for one in heard.generations {
            let is_known = self.chain.iter().any(|own| own.id() == one.id());
            if is_known || self.rejected.contains(&one.id()) {
                continue;
            }
            let shuts_out = one.removed().contains(&local);
            let head = line.last().or(self.chain.last());
            let is_next = head.is_some_and(|head| one.follows(head));
            let mut line_removed = line.iter().flat_map(Generation::removed);
            let may_sign =
                self.is_member(one.signer()) && line_removed.all(|peer| peer != one.signer());
            if is_next && heard.is_member && may_sign && !shuts_out {
                line.push(one.clone());
                continue;
            }
            if self.branch_off(one, seed_of(one)) {
                followed = Followed::Branch;
            }
            if shuts_out {
                followed = Followed::ShutOut;
                break;
            }
        }
        let Some(seed) = line.last().and_then(seed_of) else {
            return followed;
        };
        // The seeds in between are not needed: nobody proves them to this node.
        self.take(line, seed, now);
        Followed::Secret
    }

    fn is_member(&self, peer: &PeerId) -> bool {
        self.members.iter().any(|known| known.peer == *peer)
    }

    /// Notes a generation that is no continuation. True when that is news.
    fn branch_off(&mut self, one: &Generation, seed: Option<Seed>) -> bool {
        for branch in &mut self.branches {
            if branch.generations.iter().any(|own| own.id() == one.id()) {
                let is_news = branch.seed.is_none() && seed.is_some();
                if branch.generations.last().map(Generation::id) == Some(one.id()) {
                    branch.seed = branch.seed.take().or(seed);
                    return is_news;
                }
                return false;
            }
            let goes_on = branch
                .generations
                .last()
                .is_some_and(|last| one.follows(last));
            if goes_on && branch.generations.len() < MAX_GENERATIONS {
                branch.generations.push(one.clone());
                branch.seed = seed;
                return true;
            }
        }
        let has_parent = self.chain.iter().any(|own| one.follows(own));
        let is_known = self.is_member(one.signer()) || self.is_removed(one.signer());
        let mut firsts = self.branches.iter().filter_map(|b| b.generations.first());
        let is_only = firsts.all(|first| first.signer() != one.signer());
        if !has_parent || !is_known || !is_only || self.branches.len() >= MAX_BRANCHES {
            return false;
        }
        self.branches.push(Branch {
            generations: vec![one.clone()],
            seed,
        });
        true
    }

    /// Decides for this node's own branch: the others are not shown again.
    pub fn keep_branch(&mut self) {
        for branch in std::mem::take(&mut self.branches) {
            self.reject(branch.generations.iter().map(Generation::id));
        }
    }

    /// Goes over to the branch whose last generation's id begins so. The secrets of the generations
    /// that are left for it count no more, and their removals are undone.
    ///
    /// # Errors
    /// [`Error::NoSuchBranch`], [`Error::NoSecret`].
    pub fn choose_branch(&mut self, id: &str, now: Timestamp) -> Result<(), Error> {
        let is_named = |branch: &Branch| {
            let last = branch.generations.last();
            id.len() >= MIN_ID && last.is_some_and(|last| last.id().to_string().starts_with(id))
        };
        let mut named = (0..self.branches.len()).filter(|at| is_named(&self.branches[*at]));
        let (Some(at), None) = (named.next(), named.next()) else {
            return Err(Error::NoSuchBranch {
                ring: self.name.clone(),
                id: id.to_owned(),
            });
        };
        let fork = self.branches[at].generations.first();
        let parent = self
            .chain
            .iter()
            .position(|own| fork.is_some_and(|fork| fork.follows(own)));
        let (Some(parent), Some(seed)) = (parent, self.branches[at].seed.clone()) else {
            return Err(Error::NoSecret(self.name.clone()));
        };
        let branch = self.branches.remove(at);
        let number = self.chain[parent].number();
        let left: Vec<GenerationId> = self.chain.drain(parent + 1..).map(|g| g.id()).collect();
        if left.is_empty() {
            // The generation that both began with stays proof for those that were away.
            self.take(branch.generations, seed, now);
            return Ok(());
        }
        self.reject(left.into_iter());
        self.past.retain(|past| past.generation <= number);
        self.removed.retain(|(_, removed)| *removed <= number);
        for known in &mut self.members {
            // A proof given since then was of the other branch.
            known.proven = known.proven.filter(|proven| *proven <= number);
        }
        self.seed = seed;
        branch
            .generations
            .into_iter()
            .for_each(|one| self.append(one));
        Ok(())
    }

    fn reject(&mut self, ids: impl Iterator<Item = GenerationId>) {
        self.rejected.extend(ids);
        let over = self.rejected.len().saturating_sub(MAX_REJECTED);
        self.rejected.drain(..over);
    }
}
