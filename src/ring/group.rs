//! The rings that a node is in: generations of their secrets, invitations, members, and who was
//! removed. Pure.

use std::time::Duration;

use libp2p::PeerId;
use libp2p::identity::Keypair;

use super::branch::Branch;
use super::generation::{Admission, ENTROPY_BYTES, Generation, GenerationId};
use super::invitation::{Invitation, MAX_INVITATIONS, REMEMBERED, Spent};
use super::member::{Known, MAX_PLACE_BYTES, clean_addresses, clean_name};
use super::secret::{RingId, RingSecret, Seed};
use super::{Error, InviteCode};
use crate::time::Timestamp;

/// Most rings that a node is in.
pub const MAX_RINGS: usize = 32;
/// Longest name of a ring, in bytes.
pub const MAX_NAME_BYTES: usize = 32;
/// Most members of a ring that are remembered, this node not counted.
pub const MAX_MEMBERS: usize = 256;
/// Most removed members that are remembered. Past that the one removed first is forgotten: no
/// secret that is accepted is one that it was given.
pub const MAX_REMOVED: usize = 256;
/// Generations of a ring's secret that are remembered: the present one and those before.
pub const MAX_GENERATIONS: usize = 4;
/// Time for which a past generation is of use to members that were away.
pub const GENERATION_TTL: Duration = Duration::from_secs(30 * 24 * 3600);

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
    pub(super) generation: u32,
    pub(super) seed: Seed,
    /// When it was replaced.
    pub(super) until: Timestamp,
}

/// A ring.
///
/// Its chain is the last generations, each the next after the one before. The chain is empty
/// between joining with an invitation and meeting the first member: until then the seed is that of
/// the invitation, and proves only that this node was invited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ring {
    pub(super) name: String,
    pub(super) seed: Seed,
    pub(super) joined: Timestamp,
    /// The present generation last; at most [`MAX_GENERATIONS`].
    pub(super) chain: Vec<Generation>,
    /// The latest first.
    pub(super) past: Vec<Past>,
    pub(super) members: Vec<Known>,
    /// Removed members with the number of the generation that removed them, the latest last. A
    /// removed member is void until invited again.
    pub(super) removed: Vec<(PeerId, u32)>,
    /// Removed members that were invited again.
    pub(super) admitted: Vec<Admission>,
    /// Invitations that were made here.
    pub(super) invitations: Vec<Invitation>,
    /// The invitation that this node joined with.
    pub(super) joined_by: Option<RingId>,
    /// End of that invitation, as its code says.
    pub(super) invited_until: Option<Timestamp>,
    /// Generations that were heard of and are no continuation of the chain.
    pub(super) branches: Vec<Branch>,
    /// Generations that a person decided against.
    pub(super) rejected: Vec<GenerationId>,
    /// Whether members look for each other at the public meeting point.
    pub(super) anywhere: bool,
}

impl Ring {
    fn new(name: &str, seed: Seed, joined: Timestamp) -> Self {
        Self {
            name: name.to_owned(),
            seed,
            joined,
            chain: Vec::new(),
            past: Vec::new(),
            members: Vec::new(),
            removed: Vec::new(),
            admitted: Vec::new(),
            invitations: Vec::new(),
            joined_by: None,
            invited_until: None,
            branches: Vec::new(),
            rejected: Vec::new(),
            anywhere: false,
        }
    }

    /// What it is called here.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether its members look for each other at the public meeting point, wherever they are.
    pub const fn meets_anywhere(&self) -> bool {
        self.anywhere
    }

    /// Has it meet anywhere, or not. Invitations say so from then on; members that are there
    /// already are not told.
    pub const fn meet_anywhere(&mut self, anywhere: bool) {
        self.anywhere = anywhere;
    }

    /// The number of the present generation; 0 while this node is only invited.
    pub fn generation(&self) -> u32 {
        self.chain.last().map_or(0, Generation::number)
    }

    /// The generations that are remembered, the present one last.
    pub fn chain(&self) -> &[Generation] {
        &self.chain
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

    /// Whether this node has a secret of the ring itself, and not only an invitation.
    pub fn is_let_in(&self) -> bool {
        !self.chain.is_empty()
    }

    /// When this node made or joined it.
    pub fn joined(&self) -> Timestamp {
        self.joined
    }

    /// Members other than this node.
    pub fn members(&self) -> &[Known] {
        &self.members
    }

    /// Removed members, each with the number of the generation that removed it.
    pub fn removed(&self) -> &[(PeerId, u32)] {
        &self.removed
    }

    /// Removed members that were invited again.
    pub fn admitted(&self) -> &[Admission] {
        &self.admitted
    }

    /// Makes an invitation of so long; nothing while this node is only invited itself.
    ///
    /// # Errors
    /// [`Error::NotLetIn`].
    pub fn invite(
        &mut self,
        seed: Seed,
        ttl: Duration,
        single_use: bool,
        now: Timestamp,
    ) -> Result<InviteCode, Error> {
        if !self.is_let_in() {
            return Err(Error::NotLetIn(self.name.clone()));
        }
        let invitation = Invitation::new(seed, ttl, single_use, now);
        let code = InviteCode {
            anywhere: self.anywhere,
            ..InviteCode::new(&self.name, invitation.seed().clone(), invitation.until())
        };
        while self.invitations.len() >= MAX_INVITATIONS {
            let ends = self.invitations.iter().enumerate();
            let first = ends.min_by_key(|(_, other)| (other.is_live(now), other.until()));
            let Some((at, _)) = first else {
                break;
            };
            self.invitations.remove(at);
        }
        self.invitations.push(invitation);
        Ok(code)
    }

    /// Secrets by which members of the ring look for each other, and invited ones for them.
    pub fn meeting_secrets(&self, now: Timestamp) -> Vec<RingSecret> {
        let mut secrets = vec![self.secret()];
        secrets.extend(self.invitation_secrets(now));
        secrets
    }

    /// Secrets of the invitations of this node that are neither over nor void: a removed member
    /// may know a void one, and would see where this node is.
    pub fn invitation_secrets(&self, now: Timestamp) -> Vec<RingSecret> {
        let all = self.invitations.iter();
        let good = all.filter(|one| !one.is_void && !one.is_over(now));
        good.map(|one| one.seed().secret()).collect()
    }

    /// Secrets of past generations: members that were away meet by them until they are given the
    /// present one. Removed members know them, too.
    pub fn past_meeting_secrets(&self, now: Timestamp) -> Vec<RingSecret> {
        let past = self.past.iter();
        let past = past.filter(|past| now.since(past.until) <= GENERATION_TTL);
        past.map(|past| past.seed.secret()).collect()
    }

    /// Secrets to prove to a peer, and to have proven by it. [`counts`](Self::counts) tells which
    /// of them make it a member.
    pub fn secrets_for(&self, peer: &PeerId, now: Timestamp) -> Vec<RingSecret> {
        let mut secrets = Vec::new();
        if !self.is_removed(peer) {
            secrets.push(self.secret());
        }
        let past = self.past_for(peer, now).map(|past| past.seed.secret());
        secrets.extend(past);
        // Those that let nobody in come last: they are proven only to say so.
        let (live, spent): (Vec<_>, Vec<_>) = self
            .invitations
            .iter()
            .partition(|one| one.is_for(peer, now));
        let all = live.into_iter().chain(spent);
        secrets.extend(all.map(|one| one.seed().secret()));
        secrets
    }

    /// Why the invitation of that id, which was made here, does not let a peer in.
    pub fn spent(&self, peer: &PeerId, id: &RingId, now: Timestamp) -> Option<Spent> {
        let mut invitations = self.invitations.iter();
        let made = invitations.find(|one| one.seed().secret().id() == *id);
        made.and_then(|one| one.spent(peer, now))
    }

    /// Whether the invitation that this node joined with ended before any member let it in. Some
    /// days later nobody can say why any more, and the clock of this machine may have been wrong.
    fn is_vain(&self, now: Timestamp) -> bool {
        let is_past = |until: Timestamp| until.after(REMEMBERED) <= now;
        !self.is_let_in() && self.invited_until.is_some_and(is_past)
    }

    /// Past generations that a peer may still prove: members those that this node itself saw them
    /// prove, removed ones those from before. The removed are only shown the chain for it, so that
    /// two branches are found.
    fn past_for(&self, peer: &PeerId, now: Timestamp) -> impl Iterator<Item = &Past> {
        let removed = self.removed.iter().find(|(other, _)| other == peer);
        let removed = removed.map(|(_, number)| *number);
        let known = self.members.iter().find(|known| known.peer == *peer);
        let proven = known.and_then(|known| known.proven);
        self.past.iter().filter(move |past| {
            let is_fitting = match removed {
                Some(number) => past.generation < number,
                None => proven.is_some_and(|first| first <= past.generation),
            };
            is_fitting && now.since(past.until) <= GENERATION_TTL
        })
    }

    /// Whether a peer that has proven the secrets of these ids is a member by it.
    pub fn counts(&self, peer: &PeerId, ids: &[RingId], now: Timestamp) -> bool {
        let is_proven = |seed: &Seed| ids.contains(&seed.secret().id());
        let mut invitations = self.invitations.iter();
        if invitations.any(|one| one.is_for(peer, now) && is_proven(one.seed())) {
            return true;
        }
        let mut past = self.past_for(peer, now);
        !self.is_removed(peer) && (is_proven(&self.seed) || past.any(|past| is_proven(&past.seed)))
    }

    /// Whether a peer that was removed has proven a generation from before.
    pub fn is_estranged(&self, peer: &PeerId, ids: &[RingId], now: Timestamp) -> bool {
        let mut past = self.past_for(peer, now);
        self.is_removed(peer) && past.any(|past| ids.contains(&past.seed.secret().id()))
    }

    /// The number of the generation with that id, among those remembered; 0 for an invitation.
    pub fn number_of(&self, id: &RingId) -> Option<u32> {
        if self.id() == *id {
            return Some(self.generation());
        }
        let mut past = self.past.iter();
        if let Some(past) = past.find(|past| past.seed.secret().id() == *id) {
            return Some(past.generation);
        }
        let mut invitations = self.invitations.iter();
        let is_invitation = invitations.any(|one| one.seed().secret().id() == *id);
        (is_invitation || self.joined_by == Some(*id)).then_some(0)
    }

    /// Ids by which a peer may speak of this ring: those of [`secrets_for`](Self::secrets_for), and
    /// of the invitation that this node joined with, as long as the member that let it in goes on
    /// with it.
    pub fn ids_for(&self, peer: &PeerId, now: Timestamp) -> Vec<RingId> {
        let secrets = self.secrets_for(peer, now);
        let ids = secrets.iter().map(RingSecret::id);
        ids.chain(self.joined_by).collect()
    }

    /// Whether a peer was removed and not invited again.
    pub fn is_removed(&self, peer: &PeerId) -> bool {
        self.removed.iter().any(|(other, _)| other == peer)
    }

    /// Learns from a member that let this node in who was removed: a newcomer has not seen the
    /// generations that did it.
    pub fn learn_removed(&mut self, removed: &[(PeerId, u32)]) {
        for (peer, number) in removed.iter().take(MAX_REMOVED) {
            if !self.is_removed(peer) && *number <= self.generation() {
                self.removed.push((*peer, *number));
                self.members.retain(|known| known.peer != *peer);
            }
        }
        let over = self.removed.len().saturating_sub(MAX_REMOVED);
        self.removed.drain(..over);
    }

    /// Takes a peer's proof of the secret of that id: when the secret is of an invitation, the peer
    /// is let in. A peer that was removed is back. True when that is worth saving.
    pub fn let_in(&mut self, peer: &PeerId, id: &RingId, key: &Keypair, now: Timestamp) -> bool {
        let mut invitations = self.invitations.iter_mut();
        let fitting =
            invitations.find(|one| one.seed().secret().id() == *id && one.is_for(peer, now));
        let (Some(invitation), Some(head)) = (fitting, self.chain.last()) else {
            return false;
        };
        let mut is_news = invitation.use_by(peer);
        if self.removed.iter().any(|(other, _)| other == peer)
            && let Some(admission) = Admission::new(key, peer, head.id(), now)
        {
            self.note(admission);
            is_news = true;
        }
        is_news
    }

    /// Another member says that a removed one was invited again. True when that is news.
    pub fn admit(&mut self, admission: Admission) -> bool {
        let peer = admission.peer();
        let Some((_, removed)) = self.removed.iter().find(|(other, _)| other == peer) else {
            return false;
        };
        let mut chain = self.chain.iter();
        let number = chain.find(|one| one.id() == admission.generation());
        let is_after = number.is_some_and(|one| one.number() >= *removed);
        let mut members = self.members.iter();
        let is_of_member = members.any(|known| known.peer == *admission.signer());
        if !is_after || !is_of_member {
            return false;
        }
        self.note(admission);
        true
    }

    fn note(&mut self, admission: Admission) {
        let peer = *admission.peer();
        self.removed.retain(|(other, _)| *other != peer);
        self.admitted.retain(|other| *other.peer() != peer);
        if self.admitted.len() >= MAX_REMOVED {
            self.admitted.remove(0);
        }
        self.admitted.push(admission);
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
                || (!seen.addresses.is_empty() && known.addresses != seen.addresses)
                || (known.proven.is_none() && seen.proven.is_some());
            known.last_seen = known.last_seen.max(seen.last_seen);
            known.proven = known.proven.or(seen.proven);
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

    /// Takes in a member that another one tells of. True when it was not known. Hearsay is for
    /// finding members: it proves nothing.
    pub fn heard_of(&mut self, known: Known) -> bool {
        if self.is_removed(&known.peer) {
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
            proven: None,
            ..known
        })
    }

    /// Says where a member stands; nowhere when the place is empty.
    ///
    /// # Errors
    /// [`Error::NoSuchMember`], [`Error::BadPlace`].
    pub fn set_place(&mut self, peer: &PeerId, place: &str) -> Result<(), Error> {
        if place.len() > MAX_PLACE_BYTES || place.chars().any(char::is_control) {
            return Err(Error::BadPlace);
        }
        let known = self.members.iter_mut().find(|known| known.peer == *peer);
        let known = known.ok_or_else(|| Error::NoSuchMember {
            ring: self.name.clone(),
            peer: *peer,
        })?;
        place.clone_into(&mut known.place);
        Ok(())
    }

    fn add(&mut self, known: Known) -> bool {
        if self.members.len() >= MAX_MEMBERS {
            return false;
        }
        self.members.push(known);
        true
    }

    /// A member that has proven the secret takes the place of hearsay.
    fn make_room(&mut self) {
        if self.members.len() >= MAX_MEMBERS
            && let Some(at) = self.members.iter().position(|k| k.proven.is_none())
        {
            self.members.remove(at);
        }
    }

    /// Removes a member: makes the next generation, sealed to the members that this node itself saw
    /// proving.
    ///
    /// # Errors
    /// [`Error::NoSuchMember`], [`Error::NotLetIn`], [`Error::Unsignable`].
    pub fn remove(
        &mut self,
        peer: &PeerId,
        key: &Keypair,
        seed: Seed,
        now: Timestamp,
        entropy: [u8; ENTROPY_BYTES],
    ) -> Result<(), Error> {
        if self.members.iter().all(|known| known.peer != *peer) {
            return Err(Error::NoSuchMember {
                ring: self.name.clone(),
                peer: *peer,
            });
        }
        let Some(head) = self.chain.last() else {
            return Err(Error::NotLetIn(self.name.clone()));
        };
        let stay = self.members.iter();
        let stay = stay.filter(|known| known.peer != *peer && known.proven.is_some());
        let stay: Vec<PeerId> = stay.map(|known| known.peer).collect();
        let next = head.next(key, &seed, (&[*peer], &stay), now, entropy);
        let next = next.ok_or(Error::Unsignable)?;
        self.take(vec![next], seed, now);
        Ok(())
    }

    /// Goes on to the last of some generations, of which this is the seed.
    pub(super) fn take(&mut self, line: Vec<Generation>, seed: Seed, now: Timestamp) {
        let old = Past {
            generation: self.generation(),
            seed: std::mem::replace(&mut self.seed, seed),
            until: now,
        };
        self.past.insert(0, old);
        self.past.truncate(MAX_GENERATIONS - 1);
        line.into_iter().for_each(|one| self.append(one));
    }

    /// Adds a generation to the chain: the removed are void, and so are invitations, which they may
    /// know.
    pub(super) fn append(&mut self, next: Generation) {
        for peer in next.removed() {
            self.removed.retain(|(other, _)| other != peer);
            if self.removed.len() >= MAX_REMOVED {
                self.removed.remove(0);
            }
            self.removed.push((*peer, next.number()));
            self.members.retain(|known| known.peer != *peer);
            self.admitted.retain(|other| other.peer() != peer);
        }
        for invitation in &mut self.invitations {
            invitation.is_void = true;
        }
        self.chain.push(next);
        let over = self.chain.len().saturating_sub(MAX_GENERATIONS);
        self.chain.drain(..over);
    }

    /// Forgets past generations and invitations that are of no use any more. True when there were
    /// some.
    fn expire(&mut self, now: Timestamp) -> bool {
        let before = (self.past.len(), self.invitations.len());
        self.past
            .retain(|past| now.since(past.until) <= GENERATION_TTL);
        self.invitations.retain(|one| !one.is_forgotten(now));
        (self.past.len(), self.invitations.len()) != before
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

    /// Makes a ring, whose first generation this node signs.
    ///
    /// # Errors
    /// [`Error::BadName`], [`Error::NameTaken`], [`Error::TooManyRings`], [`Error::Unsignable`].
    pub fn create(
        &mut self,
        name: &str,
        key: &Keypair,
        seed: Seed,
        now: Timestamp,
    ) -> Result<&mut Ring, Error> {
        let first = Generation::first(key, &seed, now).ok_or(Error::Unsignable)?;
        let ring = Ring {
            chain: vec![first],
            ..Ring::new(name, seed, now)
        };
        self.add(ring)
    }

    /// Joins a ring, under the name in the code: a member that knows the invitation lets this node
    /// in when both meet.
    ///
    /// # Errors
    /// [`Error::BadName`], [`Error::NameTaken`], [`Error::TooManyRings`], [`Error::Joined`],
    /// [`Error::InvitationOver`].
    pub fn join(&mut self, code: InviteCode, now: Timestamp) -> Result<&Ring, Error> {
        if code.is_over(now) {
            return Err(Error::InvitationOver(code.until));
        }
        let ring = Ring {
            joined_by: Some(code.seed.secret().id()),
            invited_until: Some(code.until),
            anywhere: code.anywhere,
            ..Ring::new(&code.name, code.seed, now)
        };
        self.add(ring).map(|ring| &*ring)
    }

    /// Forgets what is of no use any more: past generations, invitations, and rings of which no
    /// member let this node in before the invitation ended. True when there was any.
    pub fn expire(&mut self, now: Timestamp) -> bool {
        let before = self.0.len();
        self.0.retain(|ring| {
            let is_vain = ring.is_vain(now);
            if is_vain {
                tracing::warn!(ring = ring.name, "no member let this machine in before its invitation ended: the ring is gone here");
            }
            !is_vain
        });
        let mut is_news = self.0.len() != before;
        for ring in &mut self.0 {
            is_news |= ring.expire(now);
        }
        is_news
    }

    /// The ring that a code may be of, though this node is in it already: the ring has the code's
    /// name. Another ring may be called the same, so only a member of the ring can tell.
    pub fn may_renew(&self, code: &InviteCode) -> Option<&Ring> {
        let id = code.seed.secret().id();
        let mut rings = self.0.iter();
        rings.find(|ring| ring.name == code.name && ring.number_of(&id).is_none())
    }

    /// Name of the ring that this node was invited to by the invitation of that id, and was not let
    /// into.
    pub fn invited_by(&self, id: &RingId) -> Option<String> {
        let mut rings = self.0.iter();
        let ring = rings.find(|ring| !ring.is_let_in() && ring.joined_by == Some(*id));
        ring.map(|ring| ring.name.clone())
    }

    /// A name like this one that no ring has.
    pub fn free_name(&self, name: &str) -> String {
        let stem: String = name.chars().take(MAX_NAME_BYTES - 4).collect();
        let stem = stem.trim_end_matches('-').to_owned();
        let mut names = (2..=MAX_RINGS + 2).map(|n| format!("{stem}-{n}"));
        let is_free = |name: &String| self.0.iter().all(|ring| ring.name != *name);
        names.find(is_free).unwrap_or(stem)
    }

    /// The ring that is called `later` takes the place and the name of `name`, which is the same
    /// ring as this node knew it before.
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

    pub(super) fn add(&mut self, ring: Ring) -> Result<&mut Ring, Error> {
        check_name(&ring.name)?;
        let id = ring.id();
        let same = self.0.iter().find(|r| r.number_of(&id).is_some());
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
        let last = self.0.len() - 1;
        Ok(&mut self.0[last])
    }

    /// Leaves a ring. The others are not told: this node still knows the secret, until they remove
    /// it.
    ///
    /// # Errors
    /// [`Error::NoSuchRing`].
    pub fn leave(&mut self, name: &str) -> Result<Ring, Error> {
        let at = self.0.iter().position(|ring| ring.name == name);
        at.map(|at| self.0.remove(at))
            .ok_or_else(|| Error::NoSuchRing(name.to_owned()))
    }
}
