//! Roll of members: the rings, and what each connected peer has proven. Shared by the view and the
//! behaviour; nobody holds its lock for longer than it takes to look.
//!
//! A peer that was removed and proves a generation from before is *estranged*: it is no member, is
//! told only how the chain of generations went on, and what it tells can only show a branch.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::watch;

use super::{Member, Site};
use crate::net::address::{Reach, ip, is_dialable, is_loopback, is_tellable, without_peer};
use crate::net::remotes::Remotes;
use crate::ring::message::{self, Info};
use crate::ring::{
    self, Followed, Generation, Heard, Known, MAX_ADDRESSES, Ring, RingId, RingSecret, Rings,
    Spent, clean_name,
};
use crate::time::{Clock, Timestamp};

/// Spent invitations that are remembered of a peer, and of this node.
const MAX_TURNED_AWAY: usize = 8;

/// What a connected peer has proven and told.
#[derive(Debug, Default)]
struct Session {
    /// Ids of generations that both have proven.
    proven: Vec<RingId>,
    /// Ids of generations whose seeds it was sent: that it knows them is sure once it speaks of them.
    granted: Vec<RingId>,
    /// The last member that it was told of, of each ring whose members don't fit into one message: the next message goes on behind it.
    told: HashMap<RingId, PeerId>,
    free_bytes: u64,
    /// Lead of its clock over this machine's, in milliseconds; none while it has not told.
    ahead_ms: Option<i64>,
}

/// What came of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// Its sender has not proven the ring.
    Stranger,
    /// Nothing that others need to hear.
    Known,
    /// There are new members, removals, names, addresses or a new secret.
    News,
}

#[derive(Default)]
struct State {
    rings: Rings,
    /// Only peers that are members.
    sessions: HashMap<PeerId, Session>,
    /// Ids of past generations that connected peers have proven which were removed since.
    estranged: HashMap<PeerId, Vec<RingId>>,
    /// Invitations that connected peers have proven and that don't let them in, with the reason.
    turned_away: HashMap<PeerId, Vec<(RingId, Spent)>>,
    /// Invitations that a member said not to let this node in by any more: the last ones.
    refused: Vec<(RingId, Spent)>,
    /// Counts changes of secrets.
    version: u64,
    name: String,
    free_bytes: u64,
}

impl State {
    /// Whether a peer is a member of a ring that this node is in. Nodes that know an invitation and
    /// were not let in are nothing to each other.
    fn is_member(&self, peer: &PeerId, session: &Session, now: Timestamp) -> bool {
        let mut rings = self.rings.as_slice().iter();
        rings.any(|ring| ring.is_let_in() && ring.counts(peer, &session.proven, now))
    }
}

/// Rings and members.
pub(crate) struct Roll {
    key: Keypair,
    local: PeerId,
    clock: Arc<dyn Clock>,
    /// Where others find this node.
    addresses: watch::Receiver<Vec<Multiaddr>>,
    distances: Arc<Remotes>,
    state: Mutex<State>,
    pub(super) online_changes: watch::Sender<u64>,
    pub(super) ring_changes: watch::Sender<u64>,
}

fn bump(changes: &watch::Sender<u64>) {
    changes.send_modify(|count| *count += 1);
}

impl Roll {
    pub(crate) fn new(
        key: Keypair,
        clock: Arc<dyn Clock>,
        addresses: watch::Receiver<Vec<Multiaddr>>,
        distances: Arc<Remotes>,
    ) -> Self {
        Self {
            local: key.public().to_peer_id(),
            key,
            clock,
            addresses,
            distances,
            state: Mutex::default(),
            online_changes: watch::Sender::new(0),
            ring_changes: watch::Sender::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn online(&self) -> Vec<PeerId> {
        let online = self.online_space().into_iter();
        online.map(|(peer, _)| peer).collect()
    }

    pub(super) fn online_space(&self) -> Vec<(PeerId, u64)> {
        let (now, state) = (self.clock.now(), self.lock());
        let members = state.sessions.iter();
        let members = members.filter(|(peer, session)| state.is_member(peer, session, now));
        members.map(|(peer, s)| (*peer, s.free_bytes)).collect()
    }

    pub(super) fn is_online(&self, peer: &PeerId) -> bool {
        let (now, state) = (self.clock.now(), self.lock());
        let session = state.sessions.get(peer);
        session.is_some_and(|session| state.is_member(peer, session, now))
    }

    /// Whether a peer is known as a member of one of this node's rings.
    pub(in crate::net) fn knows(&self, peer: &PeerId) -> bool {
        let state = self.lock();
        let mut rings = state.rings.as_slice().iter();
        rings.any(|ring| {
            let mut members = ring.members().iter();
            members.any(|known| known.peer == *peer && known.proven.is_some())
        })
    }

    pub(super) fn rings(&self) -> Rings {
        self.lock().rings.clone()
    }

    pub(super) fn removed(&self) -> HashSet<PeerId> {
        let state = self.lock();
        let rings = state.rings.as_slice().iter();
        rings
            .flat_map(|ring| ring.removed().iter().map(|(peer, _)| *peer))
            .collect()
    }

    /// Site of each member: the place that the person says, or the machine with an address that is
    /// not loopback.
    pub(super) fn sites(&self) -> HashMap<PeerId, Site> {
        let state = self.lock();
        let rings = state.rings.as_slice().iter();
        let mut sites = HashMap::new();
        for known in rings.flat_map(Ring::members) {
            let ips = known.addresses.iter().filter_map(ip);
            let own = ips.filter(|ip| !ip.is_loopback() && !ip.is_unspecified());
            let site = match known.place.is_empty() {
                true => own.min().map(Site::Address),
                false => Some(Site::Place(known.place.clone())),
            };
            if let Some(site) = site {
                sites.insert(known.peer, site);
            }
        }
        sites
    }

    pub(super) fn proven_members(&self) -> Vec<PeerId> {
        let state = self.lock();
        let rings = state.rings.as_slice().iter();
        let known = rings.flat_map(Ring::members);
        let proven = known.filter(|known| known.proven.is_some());
        let peers: HashSet<PeerId> = proven.map(|known| known.peer).collect();
        peers.into_iter().collect()
    }

    pub(super) fn members(&self, name: &str) -> Result<Vec<Member>, ring::Error> {
        let now = self.clock.now();
        let state = self.lock();
        let ring = state.rings.get(name)?;
        let known = ring.members().iter().filter(|_| ring.is_let_in());
        let members = known.map(|known| {
            let session = state
                .sessions
                .get(&known.peer)
                .filter(|session| ring.counts(&known.peer, &session.proven, now));
            Member {
                peer: known.peer,
                online: session.is_some(),
                name: known.name.clone(),
                free_bytes: session.map(|session| session.free_bytes),
                clock_ahead_ms: session.and_then(|session| session.ahead_ms),
                last_seen: if session.is_some() {
                    now
                } else {
                    known.last_seen
                },
                addresses: known.addresses.clone(),
                place: known.place.clone(),
            }
        });
        let mut members: Vec<Member> = members.collect();
        members.sort_by_key(|member| (!member.online, member.name.clone(), member.peer));
        Ok(members)
    }

    pub(super) fn set_local(&self, name: &str, free_bytes: u64) {
        let mut state = self.lock();
        state.name = clean_name(name);
        state.free_bytes = free_bytes;
    }

    pub(super) fn change<T>(
        &self,
        change: impl FnOnce(&mut Rings, &Keypair) -> Result<T, ring::Error>,
    ) -> Result<T, ring::Error> {
        self.change_any(|rings| change(rings, &self.key))
    }

    /// Changes the rings; sessions that prove nothing any more end.
    pub(super) fn change_any<T>(&self, change: impl FnOnce(&mut Rings) -> T) -> T {
        let now = self.clock.now();
        let mut state = self.lock();
        let result = change(&mut state.rings);
        state.version += 1;
        let ended = sift(&mut state, now);
        drop(state);
        bump(&self.ring_changes);
        if ended {
            bump(&self.online_changes);
        }
        result
    }

    /// Changes when secrets do.
    pub(super) fn secrets_version(&self) -> u64 {
        self.lock().version
    }

    /// Secrets that are proof for a peer.
    pub(super) fn secrets_for(&self, peer: &PeerId) -> Vec<RingSecret> {
        let now = self.clock.now();
        let state = self.lock();
        let rings = state.rings.as_slice().iter();
        // The first of each ring come first: there is not room for all of everything.
        let mut secrets: Vec<(usize, RingSecret)> = rings
            .flat_map(|ring| ring.secrets_for(peer, now).into_iter().enumerate())
            .collect();
        secrets.sort_by_key(|(rank, _)| *rank);
        secrets.into_iter().map(|(_, secret)| secret).collect()
    }

    /// A peer has proven these. Returns those of which it was not known on this connection.
    pub(super) fn proven(&self, peer: PeerId, ids: &[RingId]) -> Vec<RingId> {
        let now = self.clock.now();
        let mut state = self.lock();
        let State {
            rings,
            sessions,
            estranged,
            turned_away,
            ..
        } = &mut *state;
        let mut fresh = Vec::new();
        let mut news = false;
        for ring in rings.iter_mut() {
            let secrets = ring.secrets_for(&peer, now);
            let proven = secrets.iter().map(RingSecret::id);
            let proven: Vec<RingId> = proven.filter(|id| ids.contains(id)).collect();
            for id in &proven {
                news |= ring.let_in(&peer, id, &self.key, now);
            }
            if !ring.counts(&peer, &proven, now) {
                let spent = proven.iter();
                let spent = spent.filter_map(|id| Some((*id, ring.spent(&peer, id, now)?)));
                let told = turned_away.entry(peer).or_default();
                *told = spent.chain(told.drain(..)).take(MAX_TURNED_AWAY).collect();
                if ring.is_estranged(&peer, &proven, now) {
                    estranged.insert(peer, proven);
                }
                continue;
            }
            let session = sessions.entry(peer).or_default();
            let is_new = |id: &&RingId| !session.proven.contains(id);
            fresh.extend(proven.first().filter(is_new));
            for id in proven {
                if !session.proven.contains(&id) {
                    session.proven.push(id);
                }
            }
            if ring.is_let_in() {
                news |= ring.saw(seen(peer, ring, now));
            }
        }
        drop(state);
        if news {
            bump(&self.ring_changes);
        }
        if !fresh.is_empty() {
            bump(&self.online_changes);
        }
        fresh
    }

    /// The last connection with a peer has ended.
    pub(super) fn gone(&self, peer: &PeerId) {
        let now = self.clock.now();
        let mut state = self.lock();
        state.estranged.remove(peer);
        state.turned_away.remove(peer);
        let Some(session) = state.sessions.remove(peer) else {
            return;
        };
        for ring in state.rings.iter_mut() {
            if ring.is_let_in() && ring.counts(peer, &session.proven, now) {
                ring.saw(seen(*peer, ring, now));
            }
        }
        drop(state);
        bump(&self.ring_changes);
        bump(&self.online_changes);
    }

    /// What to tell a peer about each ring that it has proven, or only about the one of that id.
    pub(super) fn infos(&self, peer: &PeerId, only: Option<&RingId>) -> Vec<Info> {
        let now = self.clock.now();
        let distance = self.distances.of(peer);
        let addresses = self.own_addresses(distance);
        let mut state = self.lock();
        let State {
            rings,
            sessions,
            estranged,
            name,
            free_bytes,
            ..
        } = &mut *state;
        let mut infos = Vec::new();
        for ring in rings.as_slice() {
            let common = |proven: &[RingId]| {
                let mut ids = ring.ids_for(peer, now).into_iter();
                ids.find(|id| proven.contains(id) && only.is_none_or(|only| only == id))
            };
            let session = sessions.get_mut(peer);
            let member = session.filter(|session| ring.counts(peer, &session.proven, now));
            if let Some(session) = member {
                let Some(id) = common(&session.proven) else {
                    continue;
                };
                let mut info = info_for(peer, ring, id, session);
                for (_, _, addresses) in &mut info.members {
                    addresses.retain(|address| is_tellable(address, distance));
                }
                (info.name, info.free_bytes) = (name.clone(), *free_bytes);
                (info.addresses, info.now) = (addresses.clone(), now);
                infos.push(info);
            } else if let Some(id) = estranged.get(peer).and_then(|proven| common(proven)) {
                infos.push(Info {
                    generations: after(ring, &id),
                    ..Info::about(id)
                });
            }
        }
        infos
    }

    /// A peer tells about a ring.
    pub(super) fn told(&self, peer: PeerId, info: Info) -> Told {
        let now = self.clock.now();
        let mut state = self.lock();
        let standing = |state: &State| {
            let session = state.sessions.get(&peer);
            let is_member = session.is_some_and(|one| state.is_member(&peer, one, now));
            (is_member, session.map(|one| one.free_bytes))
        };
        let before = standing(&state);
        let told = match self.member_told(&mut state, peer, &info, now) {
            Told::Stranger => self.estranged_told(&mut state, peer, &info, now),
            told => told,
        };
        let online = standing(&state) != before;
        let ended = told == Told::News && sift(&mut state, now);
        drop(state);
        if told == Told::News {
            bump(&self.ring_changes);
        }
        if online || ended {
            bump(&self.online_changes);
        }
        told
    }

    fn member_told(&self, state: &mut State, peer: PeerId, info: &Info, now: Timestamp) -> Told {
        let State {
            rings,
            sessions,
            version,
            ..
        } = state;
        let Some(session) = sessions.get_mut(&peer) else {
            return Told::Stranger;
        };
        if let Some(at) = session.granted.iter().position(|id| *id == info.ring) {
            let id = session.granted.swap_remove(at);
            session.proven.push(id);
        }
        let is_proven = |ring: &&mut Ring| {
            session.proven.contains(&info.ring)
                && ring.counts(&peer, &session.proven, now)
                && ring.ids_for(&peer, now).contains(&info.ring)
        };
        let Some(ring) = rings.iter_mut().find(is_proven) else {
            return Told::Stranger;
        };
        session.free_bytes = info.free_bytes;
        if info.now.0 > 0 {
            let ahead = i128::from(info.now.0) - i128::from(now.0);
            session.ahead_ms = i64::try_from(ahead).ok();
        }
        let was_let_in = ring.is_let_in();
        let see = |ring: &mut Ring| {
            ring.saw(Known {
                name: info.name.clone(),
                addresses: dialable(info.addresses.clone()),
                ..seen(peer, ring, now)
            })
        };
        let mut news = was_let_in && see(ring);
        news |= self.hear(ring, session, peer, info);
        match ring.follow(heard(&peer, info, true), &self.key, now) {
            Followed::Nothing => {}
            Followed::Branch => news = true,
            Followed::ShutOut => {
                news = true;
                session.proven.retain(|id| ring.number_of(id).is_none());
            }
            Followed::Secret => {
                news = true;
                *version += 1;
                // A peer that gives a secret knows it.
                session.proven.push(ring.id());
                if !was_let_in {
                    let others = info.removed.iter().filter(|(one, _)| *one != self.local);
                    ring.learn_removed(&others.copied().collect::<Vec<_>>());
                    if !ring.is_removed(&peer) {
                        see(ring);
                    }
                }
                self.hear(ring, session, peer, info);
            }
        }
        if session.proven.contains(&ring.id()) {
            for admission in &info.admissions {
                news |= ring.admit(admission.clone());
            }
        }
        if news { Told::News } else { Told::Known }
    }

    /// Takes in the members that a peer tells of. A peer that is behind knows nothing of the
    /// removals since, and may name the removed.
    fn hear(&self, ring: &mut Ring, session: &Session, peer: PeerId, info: &Info) -> bool {
        if !ring.is_let_in() || !session.proven.contains(&ring.id()) {
            return false;
        }
        let mut news = false;
        for (other, name, addresses) in &info.members {
            if *other == self.local || *other == peer {
                continue;
            }
            news |= ring.heard_of(Known {
                peer: *other,
                name: name.clone(),
                last_seen: Timestamp(0),
                addresses: dialable(addresses.clone()),
                proven: None,
                place: String::new(),
            });
        }
        news
    }

    /// A peer that was removed tells how its chain goes on.
    fn estranged_told(&self, state: &mut State, peer: PeerId, info: &Info, now: Timestamp) -> Told {
        let State {
            rings, estranged, ..
        } = state;
        let proven = estranged.get(&peer);
        let proven = proven.filter(|proven| proven.contains(&info.ring));
        let mut rings = rings.iter_mut();
        let ring = proven.and_then(|ids| rings.find(|ring| ring.is_estranged(&peer, ids, now)));
        match ring.map(|ring| ring.follow(heard(&peer, info, false), &self.key, now)) {
            None => Told::Stranger,
            Some(Followed::Nothing) => Told::Known,
            Some(_) => Told::News,
        }
    }

    /// A peer does not know this node as a member any more.
    pub(super) fn disowned(&self, peer: &PeerId, ring: &RingId) {
        let now = self.clock.now();
        let mut state = self.lock();
        if let Some(session) = state.sessions.get_mut(peer) {
            session.proven.retain(|id| id != ring);
        }
        let ended = sift(&mut state, now);
        drop(state);
        if ended {
            bump(&self.online_changes);
        }
    }

    /// Why a peer that has proven an invitation is not let in by it.
    pub(super) fn spent(&self, peer: &PeerId, id: &RingId) -> Option<Spent> {
        let state = self.lock();
        let mut told = state.turned_away.get(peer)?.iter();
        told.find(|(spent, _)| spent == id).map(|(_, why)| *why)
    }

    /// A peer that has proven an invitation says that nobody is let in by it. A ring that this node
    /// joined with it and was not let into is gone.
    pub(super) fn refused(&self, peer: &PeerId, id: &RingId, why: Spent) {
        let mut state = self.lock();
        let proven = state.sessions.get(peer).map(|session| &session.proven);
        let is_proven = proven.is_some_and(|proven| proven.contains(id));
        let name = is_proven.then(|| state.rings.invited_by(id)).flatten();
        let Some(name) = name else {
            return;
        };
        tracing::warn!(%peer, ring = name, "no ring is joined: {}", why.why());
        state.refused.retain(|(other, _)| other != id);
        state.refused.insert(0, (*id, why));
        state.refused.truncate(MAX_TURNED_AWAY);
        drop(state);
        self.change_any(|rings| drop(rings.leave(&name)));
    }

    /// Why an invitation does not let this node in, when a member has said so.
    pub(super) fn refusal(&self, id: &RingId) -> Option<Spent> {
        let state = self.lock();
        let mut refused = state.refused.iter();
        refused.find(|(other, _)| other == id).map(|(_, why)| *why)
    }

    /// Forgets what is of no use any more.
    pub(super) fn expire(&self) {
        let now = self.clock.now();
        let mut state = self.lock();
        let news = state.rings.expire(now);
        let ended = sift(&mut state, now);
        drop(state);
        if news {
            bump(&self.ring_changes);
        }
        if ended {
            bump(&self.online_changes);
        }
    }

    /// Where a member at a distance finds this node.
    fn own_addresses(&self, distance: Reach) -> Vec<Multiaddr> {
        let addresses = self.addresses.borrow().clone();
        let (near, far): (Vec<_>, Vec<_>) = addresses
            .into_iter()
            .filter(|address| is_tellable(address, distance))
            .map(without_peer)
            .partition(is_loopback);
        far.into_iter().chain(near).take(MAX_ADDRESSES).collect()
    }
}

/// A member that is connected now.
fn seen(peer: PeerId, ring: &Ring, now: Timestamp) -> Known {
    Known {
        peer,
        name: String::new(),
        last_seen: now,
        addresses: Vec::new(),
        proven: Some(ring.generation()),
        place: String::new(),
    }
}

fn dialable(addresses: Vec<Multiaddr>) -> Vec<Multiaddr> {
    let addresses = addresses.into_iter().map(without_peer);
    addresses.filter(|one| is_dialable(one, None)).collect()
}

fn heard<'a>(peer: &'a PeerId, info: &'a Info, is_member: bool) -> Heard<'a> {
    Heard {
        from: peer,
        is_member,
        generations: &info.generations,
        seed: info.seed.as_ref(),
    }
}

/// Generations that a peer lacks that has proven the one of that id.
fn after(ring: &Ring, id: &RingId) -> Vec<Generation> {
    let number = ring.number_of(id).unwrap_or_default();
    ring.generations_after(number).to_vec()
}

/// Information to tell a member about a ring, but for the part that is the same for all members. A
/// member that has not proven the present generation is given it: this node itself saw it prove an
/// earlier one, or an invitation.
fn info_for(peer: &PeerId, ring: &Ring, id: RingId, session: &mut Session) -> Info {
    let mut info = Info::about(id);
    if !ring.is_let_in() {
        return info;
    }
    let present = ring.id();
    if !session.proven.contains(&present) {
        if !session.granted.contains(&present) {
            session.granted.push(present);
        }
        info.generations = after(ring, &id);
        info.seed = Some(ring.seed().clone());
        if ring.number_of(&id) == Some(0) {
            info.removed = ring.removed().to_vec();
        }
    }
    info.admissions = ring.admitted().to_vec();
    let others = ring.members().iter().filter(|known| known.peer != *peer);
    info.members = others
        .map(|k| (k.peer, k.name.clone(), k.addresses.clone()))
        .collect();
    rotate(&mut info.members, &mut session.told, id);
    info
}

/// Members as one message can tell them. When they don't all fit, each message goes on where the last one ended, so that everybody is told of
/// within as many messages as they fill.
fn rotate(
    members: &mut Vec<(PeerId, String, Vec<Multiaddr>)>,
    told: &mut HashMap<RingId, PeerId>,
    ring: RingId,
) {
    members.sort_by_key(|(peer, ..)| *peer);
    if message::fitting(members) == members.len() {
        told.remove(&ring);
        return;
    }
    let start = told
        .get(&ring)
        .map_or(0, |last| members.partition_point(|(peer, ..)| peer <= last));
    members.rotate_left(start);
    members.truncate(message::fitting(members));
    if let Some((last, ..)) = members.last() {
        told.insert(ring, *last);
    }
}

/// Ends sessions that prove nothing any more. True when there were some.
fn sift(state: &mut State, now: Timestamp) -> bool {
    let State {
        rings,
        sessions,
        estranged,
        ..
    } = state;
    let rings = rings.as_slice();
    let before = sessions.len();
    sessions.retain(|peer, session| {
        let is_known = |id: &RingId| rings.iter().any(|ring| ring.number_of(id).is_some());
        session.proven.retain(is_known);
        session
            .granted
            .retain(|id| rings.iter().any(|ring| ring.id() == *id));
        // A member that was removed just now is shown the chain.
        if let Some(ring) = rings
            .iter()
            .find(|ring| ring.is_estranged(peer, &session.proven, now))
        {
            let of_ring = |id: &&RingId| ring.number_of(id).is_some();
            let ids = session.proven.iter().filter(of_ring);
            estranged.insert(*peer, ids.copied().collect());
        }
        let mut live = rings.iter();
        live.any(|ring| ring.counts(peer, &session.proven, now))
    });
    estranged.retain(|peer, ids| {
        let mut live = rings.iter();
        live.any(|ring| ring.is_estranged(peer, ids, now))
    });
    sessions.len() < before
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::{MAX_ADDRESS_BYTES, MAX_MEMBER_NAME_BYTES, MAX_MEMBERS};

    #[test]
    fn of_a_ring_that_fills_several_messages_everybody_is_told_in_turn() {
        let long = format!("/dns4/{}/tcp/1", "a".repeat(MAX_ADDRESS_BYTES - 20));
        let long: Multiaddr = long.parse().expect("an address");
        let member = |_| {
            let name = "n".repeat(MAX_MEMBER_NAME_BYTES);
            (PeerId::random(), name, vec![long.clone(); MAX_ADDRESSES])
        };
        let all: Vec<_> = (0..MAX_MEMBERS).map(member).collect();
        let (mut told, ring) = (HashMap::new(), RingId::new([1; 32]));
        let mut heard = HashSet::new();
        let rounds = MAX_MEMBERS.div_ceil(message::fitting(&all)) + 1;
        for _ in 0..rounds {
            let mut members = all.clone();
            rotate(&mut members, &mut told, ring);
            assert!(!members.is_empty() && members.len() < all.len());
            heard.extend(members.into_iter().map(|(peer, ..)| peer));
        }
        assert_eq!(heard.len(), all.len());
        // Few fit, and are told as they are.
        let mut few = all[..3].to_vec();
        rotate(&mut few, &mut told, ring);
        assert_eq!((few.len(), told.len()), (3, 0));
    }

    /// The attack: machines that were turned away by a used code take each other for a ring.
    #[test]
    fn two_that_were_not_let_in_are_nothing_to_each_other() {
        let now = Timestamp(0);
        let roll = || {
            let (_, listening) = watch::channel(Vec::new());
            let clock = Arc::new(crate::time::ManualClock::default());
            Roll::new(
                Keypair::generate_ed25519(),
                clock,
                listening,
                Arc::default(),
            )
        };
        let (maker, newcomer, peer) = (roll(), roll(), PeerId::random());
        let code = maker.change(|rings, key| {
            let ring = rings.create("home", key, ring::Seed::random(), now)?;
            ring.invite(ring::Seed::random(), ring::INVITATION_TTL, true, now)
        });
        let code = code.expect("made");
        let joined = newcomer.change(|rings, _| rings.join(code, now).map(drop));
        joined.expect("joined");
        let ids: Vec<RingId> = newcomer
            .secrets_for(&peer)
            .iter()
            .map(RingSecret::id)
            .collect();
        assert_eq!(newcomer.proven(peer, &ids[..1]), ids[..1]);
        assert!(!newcomer.is_online(&peer));
        assert_eq!(newcomer.online_space(), []);
        assert!(newcomer.members("home").expect("the ring").is_empty());
        // The node that made the code lets it in.
        assert_eq!(maker.proven(peer, &ids[..1]), ids[..1]);
        assert!(maker.is_online(&peer));
    }
}
