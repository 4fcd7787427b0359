//! The rings that a node is in: seeds of this and of past generations, members, and who was removed. Pure.

use std::time::Duration;

use libp2p::PeerId;

use super::member::{Known, clean_addresses, clean_name};
use super::secret::{RingId, RingSecret, Seed};
use super::{Error, InviteCode};
use crate::time::Timestamp;

/// Most rings that a node is in.
pub const MAX_RINGS: usize = 32;
/// Longest name of a ring, in bytes.
pub const MAX_NAME_BYTES: usize = 32;
/// Most members of a ring that are remembered, this node not counted.
pub const MAX_MEMBERS: usize = 256;
/// Most removed members that are remembered.
pub const MAX_REMOVED: usize = 256;
/// Generations of a ring's secret that are remembered: the present one and those before.
pub const MAX_GENERATIONS: usize = 4;
/// How long a past generation is of use to who was away.
pub const GENERATION_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
/// The first generation.
const FIRST: u16 = 1;

/// Whether a ring can have that name.
///
/// # Errors
/// [`Error::BadName`].
pub fn check_name(name: &str) -> Result<(), Error> {
    let good = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    if (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.bytes().all(good)
        && name.split('-').all(|part| !part.is_empty())
    {
        Ok(())
    } else {
        Err(Error::BadName)
    }
}

/// A seed that was replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Past {
    pub(super) generation: u16,
    pub(super) seed: Seed,
    /// When it was replaced.
    pub(super) until: Timestamp,
}

/// A ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ring {
    pub(super) name: String,
    pub(super) generation: u16,
    pub(super) seed: Seed,
    pub(super) joined: Timestamp,
    /// The latest first.
    pub(super) past: Vec<Past>,
    pub(super) members: Vec<Known>,
    /// With the first generation whose secret they were not given.
    pub(super) removed: Vec<(PeerId, u16)>,
}

impl Ring {
    /// What it is called here.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many times its secret was made.
    pub fn generation(&self) -> u16 {
        self.generation
    }

    /// The present seed.
    pub fn seed(&self) -> &Seed {
        &self.seed
    }

    /// The present secret.
    pub fn secret(&self) -> RingSecret {
        self.seed.secret()
    }

    /// The public name of the present generation.
    pub fn id(&self) -> RingId {
        self.secret().id()
    }

    /// When this node made or joined it.
    pub fn joined(&self) -> Timestamp {
        self.joined
    }

    /// Members other than this node.
    pub fn members(&self) -> &[Known] {
        &self.members
    }

    /// Who was removed, each with the first generation that it was not given.
    pub fn removed(&self) -> &[(PeerId, u16)] {
        &self.removed
    }

    /// What others join it with.
    pub fn invite(&self) -> InviteCode {
        InviteCode {
            name: self.name.clone(),
            generation: self.generation,
            seed: self.seed.clone(),
        }
    }

    /// Secrets that are proof for this peer, each with its generation, the present one first: that unless the peer was removed after it;
    /// past ones only while they count and for who was known then.
    pub fn secrets_for(&self, peer: &PeerId, now: Timestamp) -> Vec<(u16, RingSecret)> {
        let removed = self.removed.iter().find(|(other, _)| other == peer);
        let from = removed.map_or(0, |(_, generation)| *generation);
        let since = self
            .members
            .iter()
            .find(|known| known.peer == *peer)
            .map(|known| known.since);
        let present = (self.generation, &self.seed);
        let past = self.past.iter().filter(|past| {
            now.since(past.until) <= GENERATION_TTL
                && since.is_some_and(|since| since <= past.generation)
        });
        std::iter::once(present)
            .chain(past.map(|past| (past.generation, &past.seed)))
            .filter(|(generation, _)| *generation >= from)
            .map(|(generation, seed)| (generation, seed.secret()))
            .collect()
    }

    /// The generation of that id, if it is one that is remembered.
    pub fn generation_of(&self, id: &RingId) -> Option<u16> {
        let present = (self.generation, &self.seed);
        std::iter::once(present)
            .chain(self.past.iter().map(|past| (past.generation, &past.seed)))
            .find(|(_, seed)| seed.secret().id() == *id)
            .map(|(generation, _)| generation)
    }

    /// Whether a peer was removed and has not come back with a later code.
    pub fn is_removed(&self, peer: &PeerId) -> bool {
        self.removed.iter().any(|(other, _)| other == peer)
            && self.members.iter().all(|known| known.peer != *peer)
    }

    /// A member is connected now. True when that is worth saving: it was not known, or is called otherwise, or is elsewhere.
    pub fn saw(&mut self, seen: Known) -> bool {
        let seen = Known {
            name: clean_name(&seen.name),
            addresses: clean_addresses(seen.addresses),
            ..seen
        };
        if let Some(known) = self.members.iter_mut().find(|k| k.peer == seen.peer) {
            let changed = (!seen.name.is_empty() && known.name != seen.name)
                || (!seen.addresses.is_empty() && known.addresses != seen.addresses);
            known.last_seen = known.last_seen.max(seen.last_seen);
            if !seen.name.is_empty() {
                known.name = seen.name;
            }
            if !seen.addresses.is_empty() {
                known.addresses = seen.addresses;
            }
            return changed;
        }
        self.make_room();
        self.add(seen)
    }

    /// Another member tells of one. True when it was not known.
    pub fn heard_of(&mut self, known: Known) -> bool {
        if self.removed.iter().any(|(peer, _)| *peer == known.peer) {
            return false;
        }
        let own = self.members.iter_mut().find(|k| k.peer == known.peer);
        if let Some(own) = own {
            // What is known at first hand is better, but nothing at all is worse than hearsay.
            if own.addresses.is_empty() {
                own.addresses = clean_addresses(known.addresses);
            }
            if own.name.is_empty() {
                own.name = clean_name(&known.name);
            }
            return false;
        }
        self.add(Known {
            name: clean_name(&known.name),
            addresses: clean_addresses(known.addresses),
            last_seen: Timestamp(0),
            ..known
        })
    }

    fn add(&mut self, known: Known) -> bool {
        if self.members.len() >= MAX_MEMBERS {
            return false;
        }
        self.members.push(known);
        true
    }

    /// Who has proven the secret takes the place of hearsay.
    fn make_room(&mut self) {
        if self.members.len() >= MAX_MEMBERS
            && let Some(at) = self
                .members
                .iter()
                .position(|k| k.last_seen == Timestamp(0))
        {
            self.members.remove(at);
        }
    }

    /// Removes a member: there is a new seed, of the next generation, that it is not given.
    ///
    /// # Errors
    /// [`Error::NoSuchMember`], [`Error::TooManyRemoved`].
    pub fn remove(&mut self, peer: &PeerId, seed: Seed, now: Timestamp) -> Result<(), Error> {
        let Some(at) = self.members.iter().position(|known| known.peer == *peer) else {
            return Err(Error::NoSuchMember {
                ring: self.name.clone(),
                peer: *peer,
            });
        };
        let next = self.generation.checked_add(1);
        self.removed.retain(|(other, _)| other != peer);
        let (Some(next), true) = (next, self.removed.len() < MAX_REMOVED) else {
            return Err(Error::TooManyRemoved(self.name.clone()));
        };
        self.members.remove(at);
        self.removed.push((*peer, next));
        self.replace(next, seed, now);
        Ok(())
    }

    /// Takes over the seed that a member was found to have, if it is newer. Of two that were made at the same time the larger id wins, so
    /// that all members end with the same one.
    pub fn adopt(&mut self, generation: u16, seed: Seed, now: Timestamp) -> bool {
        let newer = (generation, seed.secret().id()) > (self.generation, self.id());
        if newer {
            self.replace(generation, seed, now);
        }
        newer
    }

    /// Another member says who was removed. True when that is news.
    pub fn heard_removed(&mut self, peer: PeerId, from: u16) -> bool {
        let known = self.removed.iter().position(|(other, _)| *other == peer);
        match known {
            Some(at) if self.removed[at].1 >= from => return false,
            Some(at) => self.removed[at].1 = from,
            None if self.removed.len() >= MAX_REMOVED || from > self.generation => return false,
            None => self.removed.push((peer, from)),
        }
        // Who came back with a later code is a member from then on.
        self.members
            .retain(|known| known.peer != peer || known.since >= from);
        true
    }

    fn replace(&mut self, generation: u16, seed: Seed, now: Timestamp) {
        let old = Past {
            generation: self.generation,
            seed: std::mem::replace(&mut self.seed, seed),
            until: now,
        };
        self.generation = generation;
        self.past.insert(0, old);
        self.past.truncate(MAX_GENERATIONS - 1);
    }

    /// Forgets past generations that are of no use any more. True when there were some.
    pub fn expire(&mut self, now: Timestamp) -> bool {
        let before = self.past.len();
        self.past
            .retain(|past| now.since(past.until) <= GENERATION_TTL);
        self.past.len() < before
    }
}

/// The rings of a node, in the order in which it came into them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rings(pub(super) Vec<Ring>);

impl Rings {
    /// All of them.
    pub fn as_slice(&self) -> &[Ring] {
        &self.0
    }

    /// All of them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Ring> {
        self.0.iter_mut()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ring of that name.
    ///
    /// # Errors
    /// [`Error::NoSuchRing`].
    pub fn get(&self, name: &str) -> Result<&Ring, Error> {
        let found = self.0.iter().find(|ring| ring.name == name);
        found.ok_or_else(|| Error::NoSuchRing(name.to_owned()))
    }

    /// The ring of that name.
    ///
    /// # Errors
    /// [`Error::NoSuchRing`].
    pub fn get_mut(&mut self, name: &str) -> Result<&mut Ring, Error> {
        let found = self.0.iter_mut().find(|ring| ring.name == name);
        found.ok_or_else(|| Error::NoSuchRing(name.to_owned()))
    }

    /// Makes a ring.
    ///
    /// # Errors
    /// [`Error::BadName`], [`Error::NameTaken`], [`Error::TooManyRings`].
    pub fn create(&mut self, name: &str, seed: Seed, now: Timestamp) -> Result<&Ring, Error> {
        let code = InviteCode {
            name: name.to_owned(),
            generation: FIRST,
            seed,
        };
        self.join(code, now)
    }

    /// Joins a ring, under the name in the code.
    ///
    /// # Errors
    /// As [`create`](Self::create), and [`Error::Joined`].
    pub fn join(&mut self, code: InviteCode, now: Timestamp) -> Result<&Ring, Error> {
        let ring = Ring {
            name: code.name,
            generation: code.generation,
            seed: code.seed,
            joined: now,
            past: Vec::new(),
            members: Vec::new(),
            removed: Vec::new(),
        };
        self.add(ring)
    }

    /// The ring of which a code may be a later generation: it has the code's name and is older.
    /// Another ring may be called the same, so only a member of the ring can tell.
    pub fn may_renew(&self, code: &InviteCode) -> Option<&Ring> {
        let same = self.0.iter().find(|ring| ring.name == code.name);
        same.filter(|ring| ring.generation < code.generation)
    }

    /// A name like this one that no ring has.
    pub fn free_name(&self, name: &str) -> String {
        let stem: String = name.chars().take(MAX_NAME_BYTES - 4).collect();
        let stem = stem.trim_end_matches('-').to_owned();
        let mut names = (2..=MAX_RINGS + 2).map(|n| format!("{stem}-{n}"));
        let is_free = |name: &String| self.0.iter().all(|ring| ring.name != *name);
        names.find(is_free).unwrap_or(stem)
    }

    /// The ring that is called `later` takes the place and the name of `name`, of which it is a
    /// later generation.
    ///
    /// # Errors
    /// [`Error::NoSuchRing`].
    pub fn renew(&mut self, name: &str, later: &str) -> Result<(), Error> {
        self.get(name)?;
        let later = self.leave(later)?;
        let ring = self.get_mut(name)?;
        *ring = Ring {
            name: name.to_owned(),
            joined: ring.joined,
            ..later
        };
        Ok(())
    }

    pub(super) fn add(&mut self, ring: Ring) -> Result<&Ring, Error> {
        check_name(&ring.name)?;
        let id = ring.id();
        let same = self.0.iter().find(|r| r.generation_of(&id).is_some());
        if let Some(same) = same {
            return Err(Error::Joined(same.name.clone()));
        }
        if self.0.iter().any(|other| other.name == ring.name) {
            return Err(Error::NameTaken(ring.name));
        }
        if self.0.len() >= MAX_RINGS {
            return Err(Error::TooManyRings);
        }
        self.0.push(ring);
        Ok(&self.0[self.0.len() - 1])
    }

    /// Leaves a ring. The others are not told: who leaves still knows the secret, until they remove it.
    ///
    /// # Errors
    /// [`Error::NoSuchRing`].
    pub fn leave(&mut self, name: &str) -> Result<Ring, Error> {
        let at = self.0.iter().position(|ring| ring.name == name);
        at.map(|at| self.0.remove(at))
            .ok_or_else(|| Error::NoSuchRing(name.to_owned()))
    }
}
