//! Who is a member: the rings, and what each connected peer has proven. Shared by the view and the behaviour; nobody holds its lock for
//! longer than it takes to look.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libp2p::{Multiaddr, PeerId};
use tokio::sync::watch;

use super::Member;
use crate::net::address::{is_dialable, is_loopback, without_peer};
use crate::ring::message::{self, Info};
use crate::ring::{self, Known, MAX_ADDRESSES, Ring, RingId, RingSecret, Rings, clean_name};
use crate::time::{Clock, Timestamp};

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
    /// Counts changes of secrets.
    version: u64,
    name: String,
    free_bytes: u64,
}

/// Rings and members.
pub(crate) struct Roll {
    local: PeerId,
    clock: Arc<dyn Clock>,
    listening: watch::Receiver<Vec<Multiaddr>>,
    state: Mutex<State>,
    pub(super) online_changes: watch::Sender<u64>,
    pub(super) ring_changes: watch::Sender<u64>,
}

fn bump(changes: &watch::Sender<u64>) {
    changes.send_modify(|count| *count += 1);
}

/// The generation of a ring that a session has proven, if it still counts.
fn counts(ring: &Ring, peer: &PeerId, proven: &[RingId], now: Timestamp) -> bool {
    let secrets = ring.secrets_for(peer, now);
    secrets
        .iter()
        .any(|(_, secret)| proven.contains(&secret.id()))
}

impl Roll {
    pub(crate) fn new(
        local: PeerId,
        clock: Arc<dyn Clock>,
        listening: watch::Receiver<Vec<Multiaddr>>,
    ) -> Self {
        Self {
            local,
            clock,
            listening,
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
        self.lock().sessions.keys().copied().collect()
    }

    pub(super) fn online_space(&self) -> Vec<(PeerId, u64)> {
        let state = self.lock();
        let sessions = state.sessions.iter();
        sessions.map(|(peer, s)| (*peer, s.free_bytes)).collect()
    }

    pub(super) fn is_online(&self, peer: &PeerId) -> bool {
        self.lock().sessions.contains_key(peer)
    }

    /// Whether a peer is known as a member of one of this node's rings.
    pub(in crate::net) fn knows(&self, peer: &PeerId) -> bool {
        let state = self.lock();
        let mut rings = state.rings.as_slice().iter();
        rings.any(|ring| {
            let mut members = ring.members().iter();
            members.any(|known| known.peer == *peer) && !ring.is_removed(peer)
        })
    }

    pub(super) fn rings(&self) -> Rings {
        self.lock().rings.clone()
    }

    pub(super) fn removed(&self) -> HashSet<PeerId> {
        let state = self.lock();
        let rings = state.rings.as_slice().iter();
        rings
            .flat_map(|ring| {
                let removed = ring.removed().iter().map(|(peer, _)| *peer);
                removed.filter(|peer| ring.is_removed(peer))
            })
            .collect()
    }

    pub(super) fn members(&self, name: &str) -> Result<Vec<Member>, ring::Error> {
        let now = self.clock.now();
        let state = self.lock();
        let ring = state.rings.get(name)?;
        let members = ring.members().iter().map(|known| {
            let session = state
                .sessions
                .get(&known.peer)
                .filter(|session| counts(ring, &known.peer, &session.proven, now));
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
        change: impl FnOnce(&mut Rings) -> Result<T, ring::Error>,
    ) -> Result<T, ring::Error> {
        self.change_any(change)
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
        rings
            .flat_map(|ring| ring.secrets_for(peer, now))
            .map(|(_, secret)| secret)
            .collect()
    }

    /// A peer has proven these. Those are returned of which it was not known on this connection.
    pub(super) fn proven(&self, peer: PeerId, ids: &[RingId]) -> Vec<RingId> {
        let now = self.clock.now();
        let mut state = self.lock();
        let State {
            rings, sessions, ..
        } = &mut *state;
        let mut fresh = Vec::new();
        let mut news = false;
        for ring in rings.iter_mut() {
            let mut secrets = ring.secrets_for(&peer, now);
            secrets.retain(|(_, secret)| ids.contains(&secret.id()));
            let Some((generation, secret)) = secrets.first() else {
                continue;
            };
            let session = sessions.entry(peer).or_default();
            if !session.proven.contains(&secret.id()) {
                fresh.push(secret.id());
            }
            for (_, secret) in &secrets {
                if !session.proven.contains(&secret.id()) {
                    session.proven.push(secret.id());
                }
            }
            let seen = Known {
                peer,
                name: String::new(),
                last_seen: now,
                addresses: Vec::new(),
                since: *generation,
            };
            news |= ring.saw(seen);
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
        let Some(session) = state.sessions.remove(peer) else {
            return;
        };
        for ring in state.rings.iter_mut() {
            if counts(ring, peer, &session.proven, now) {
                ring.saw(Known {
                    peer: *peer,
                    name: String::new(),
                    last_seen: now,
                    addresses: Vec::new(),
                    since: ring.generation(),
                });
            }
        }
        drop(state);
        bump(&self.ring_changes);
        bump(&self.online_changes);
    }

    /// What to tell a peer about each ring that it has proven, or only about the one of that id.
    pub(super) fn infos(&self, peer: &PeerId, only: Option<&RingId>) -> Vec<Info> {
        let now = self.clock.now();
        let addresses = self.own_addresses();
        let mut state = self.lock();
        let State {
            rings,
            sessions,
            name,
            free_bytes,
            ..
        } = &mut *state;
        let Some(session) = sessions.get_mut(peer) else {
            return Vec::new();
        };
        let infos = rings.as_slice().iter().filter_map(|ring| {
            let secrets = ring.secrets_for(peer, now);
            let mut ids = secrets
                .iter()
                .map(|(generation, secret)| (*generation, secret.id()));
            let (_, id) = ids.find(|(_, id)| {
                session.proven.contains(id) && only.is_none_or(|only| only == id)
            })?;
            let present = ring.id();
            let knows_present = session.proven.contains(&present);
            if !knows_present && !session.granted.contains(&present) {
                session.granted.push(present);
            }
            let others = ring.members().iter().filter(|known| known.peer != *peer);
            let mut members: Vec<_> = others
                .map(|k| (k.peer, k.name.clone(), k.addresses.clone()))
                .collect();
            rotate(&mut members, &mut session.told, id);
            Some(Info {
                ring: id,
                name: name.clone(),
                free_bytes: *free_bytes,
                addresses: addresses.clone(),
                members,
                removed: ring.removed().to_vec(),
                grant: (!knows_present).then(|| (ring.generation(), ring.seed().clone())),
                now,
            })
        });
        infos.collect()
    }

    /// A peer tells about a ring.
    pub(super) fn told(&self, peer: PeerId, info: Info) -> Told {
        let now = self.clock.now();
        let mut state = self.lock();
        let State {
            rings,
            sessions,
            version,
            ..
        } = &mut *state;
        let Some(session) = sessions.get_mut(&peer) else {
            return Told::Stranger;
        };
        if let Some(at) = session.granted.iter().position(|id| *id == info.ring) {
            let id = session.granted.swap_remove(at);
            session.proven.push(id);
        }
        let is_proven = |ring: &&mut Ring| {
            let secrets = ring.secrets_for(&peer, now);
            session.proven.contains(&info.ring)
                && secrets.iter().any(|(_, secret)| secret.id() == info.ring)
        };
        let Some(ring) = rings.iter_mut().find(is_proven) else {
            return Told::Stranger;
        };
        let online = session.free_bytes != info.free_bytes;
        session.free_bytes = info.free_bytes;
        if info.now.0 > 0 {
            let ahead = i128::from(info.now.0) - i128::from(now.0);
            session.ahead_ms = i64::try_from(ahead).ok();
        }
        let mut news = false;
        if let Some((generation, seed)) = info.grant {
            // Who gives a secret knows it.
            let id = seed.secret().id();
            if ring.adopt(generation, seed, now) {
                news = true;
                *version += 1;
                session.proven.push(id);
            }
        }
        let dialable = info.addresses.into_iter().map(without_peer);
        let dialable = dialable.filter(|address| is_dialable(address, None));
        news |= ring.saw(Known {
            peer,
            name: info.name,
            last_seen: now,
            addresses: dialable.collect(),
            since: ring.generation(),
        });
        // Who is behind knows nothing of the removals since, and may name the removed.
        if session.proven.contains(&ring.id()) {
            for (removed, from) in info.removed {
                if removed != self.local && removed != peer {
                    news |= ring.heard_removed(removed, from);
                }
            }
            for (other, name, addresses) in info.members {
                if other == self.local || other == peer {
                    continue;
                }
                let dialable = addresses.into_iter().map(without_peer);
                news |= ring.heard_of(Known {
                    peer: other,
                    name,
                    last_seen: Timestamp(0),
                    addresses: dialable.filter(|a| is_dialable(a, None)).collect(),
                    since: ring.generation(),
                });
            }
        }
        let ended = news && sift(&mut state, now);
        drop(state);
        if news {
            bump(&self.ring_changes);
        }
        if online || ended {
            bump(&self.online_changes);
        }
        if news { Told::News } else { Told::Known }
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

    /// Forgets what is of no use any more.
    pub(super) fn expire(&self) {
        let now = self.clock.now();
        let mut state = self.lock();
        let mut news = false;
        for ring in state.rings.iter_mut() {
            news |= ring.expire(now);
        }
        let ended = sift(&mut state, now);
        drop(state);
        if news {
            bump(&self.ring_changes);
        }
        if ended {
            bump(&self.online_changes);
        }
    }

    fn own_addresses(&self) -> Vec<Multiaddr> {
        let listening = self.listening.borrow().clone();
        let (near, far): (Vec<_>, Vec<_>) = listening
            .into_iter()
            .map(without_peer)
            .partition(is_loopback);
        far.into_iter().chain(near).take(MAX_ADDRESSES).collect()
    }
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
        rings, sessions, ..
    } = state;
    let before = sessions.len();
    sessions.retain(|peer, session| {
        let rings = rings.as_slice();
        session
            .proven
            .retain(|id| rings.iter().any(|ring| ring.generation_of(id).is_some()));
        session
            .granted
            .retain(|id| rings.iter().any(|ring| ring.id() == *id));
        let mut live = rings.iter();
        live.any(|ring| counts(ring, peer, &session.proven, now))
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
}
