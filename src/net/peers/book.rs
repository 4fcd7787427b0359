//! What is known of peers. Pure.
//!
//! Bounded: the longest-known peer without a connection makes room for a new one. What counts against a peer decays, so that one bad
//! moment is forgiven and a habit is not.

use std::collections::HashMap;
use std::time::Duration;

use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};

use tokio::time::Instant;

use super::{Direction, Misbehaviour, PeerInfo, Source};
use crate::net::address::{is_relayed, without_peer};
use crate::time::Timestamp;

/// Most peers that are remembered.
pub(super) const MAX_PEERS: usize = 4096;
/// Most addresses of one peer that are remembered.
pub(super) const MAX_ADDRESSES: usize = 16;
/// Most protocols of one peer that are remembered.
const MAX_PROTOCOLS: usize = 32;
/// Longest text of a peer (its agent, a protocol's name) that is kept, in characters.
const MAX_TEXT: usize = 64;
/// How much may count against a peer before it is dropped; each misbehaviour counts 1.
pub(super) const MAX_SCORE: f64 = 3.0;
/// Time in which what counts against a peer halves.
const SCORE_HALF_LIFE: Duration = Duration::from_secs(10 * 60);

/// One connection with a peer.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) id: ConnectionId,
    pub(super) direction: Direction,
    pub(super) address: Multiaddr,
    pub(super) since: Timestamp,
    /// When the peer last answered over it; none as long as it never did, for it need not speak
    /// ping.
    pub(super) alive: Option<Instant>,
}

/// Blocks that came from a peer or went to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moved {
    pub(super) bytes: u64,
    /// The last time.
    pub(super) at: Option<Instant>,
}

#[derive(Debug, Default)]
struct Entry {
    /// The most recently confirmed first.
    addresses: Vec<Multiaddr>,
    source: Option<Source>,
    agent: String,
    protocols: Vec<String>,
    identified: bool,
    rtt: Option<Duration>,
    links: Vec<Link>,
    bytes_in: u64,
    bytes_out: u64,
    /// When blocks last came from it or went to it.
    moved: Option<Instant>,
    wrong_blocks: u64,
    faults: u64,
    refused: u64,
    score: f64,
    scored: Timestamp,
    last: Timestamp,
}

/// What is known of peers.
#[derive(Debug, Default)]
pub(super) struct Book {
    peers: HashMap<PeerId, Entry>,
    /// Connections in all.
    links: usize,
}

impl Book {
    fn entry(&mut self, peer: PeerId, now: Timestamp) -> &mut Entry {
        if !self.peers.contains_key(&peer) && self.peers.len() >= MAX_PEERS {
            let oldest = self
                .peers
                .iter()
                .filter(|(_, entry)| entry.links.is_empty())
                .min_by_key(|(_, entry)| entry.last)
                .map(|(peer, _)| *peer);
            if let Some(oldest) = oldest {
                self.peers.remove(&oldest);
            }
        }
        let entry = self.peers.entry(peer).or_default();
        entry.last = now;
        entry
    }

    /// Where a peer can be reached, says `source`.
    pub(super) fn learn(
        &mut self,
        peer: PeerId,
        addresses: impl IntoIterator<Item = Multiaddr>,
        source: Source,
        now: Timestamp,
    ) {
        let entry = self.entry(peer, now);
        entry.source.get_or_insert(source);
        for address in addresses {
            let address = without_peer(address);
            if !entry.addresses.contains(&address) {
                if entry.addresses.len() >= MAX_ADDRESSES {
                    entry.addresses.pop();
                }
                entry.addresses.push(address);
            }
        }
    }

    /// Where a peer can be reached at present, as it says itself: these addresses go before what
    /// others say.
    pub(super) fn hear(
        &mut self,
        peer: PeerId,
        addresses: impl IntoIterator<Item = Multiaddr>,
        source: Source,
        now: Timestamp,
    ) {
        let entry = self.entry(peer, now);
        entry.source.get_or_insert(source);
        let mut fresh: Vec<Multiaddr> = Vec::new();
        let heard = addresses.into_iter().map(without_peer);
        for address in heard.chain(std::mem::take(&mut entry.addresses)) {
            if fresh.len() < MAX_ADDRESSES && !fresh.contains(&address) {
                fresh.push(address);
            }
        }
        entry.addresses = fresh;
    }

    /// An address of a peer worked.
    pub(super) fn confirm(&mut self, peer: PeerId, address: &Multiaddr, now: Timestamp) {
        let address = without_peer(address.clone());
        let entry = self.entry(peer, now);
        entry.addresses.retain(|known| *known != address);
        entry.addresses.insert(0, address);
        entry.addresses.truncate(MAX_ADDRESSES);
    }

    /// An address of a peer did not work: it goes to the end, or away if there are others.
    pub(super) fn doubt(&mut self, peer: PeerId, address: &Multiaddr) {
        let address = without_peer(address.clone());
        if let Some(entry) = self.peers.get_mut(&peer)
            && entry.links.is_empty()
            && entry.addresses.len() > 1
        {
            entry.addresses.retain(|known| *known != address);
        }
    }

    /// Addresses to dial, the most promising first.
    pub(super) fn addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        self.peers
            .get(peer)
            .map_or(Vec::new(), |entry| entry.addresses.clone())
    }

    /// A connection was made. True when it is not the only one with this peer.
    pub(super) fn linked(&mut self, peer: PeerId, link: Link) -> bool {
        let now = link.since;
        let entry = self.entry(peer, now);
        if link.direction == Direction::Inbound {
            entry.source.get_or_insert(Source::Inbound);
        }
        entry.links.push(link);
        let several = entry.links.len() > 1;
        self.links += 1;
        several
    }

    /// A connection has ended. True when it was the last one of an identified peer.
    pub(super) fn unlinked(&mut self, peer: PeerId, id: ConnectionId, now: Timestamp) -> bool {
        let entry = self.entry(peer, now);
        let before = entry.links.len();
        entry.links.retain(|link| link.id != id);
        let ended = before - entry.links.len();
        let last = entry.links.is_empty();
        if last {
            entry.rtt = None;
        }
        let was_connected = last && std::mem::take(&mut entry.identified);
        self.links -= ended;
        was_connected
    }

    /// Connections in all, whoever they are with.
    pub(super) fn all_links(&self) -> usize {
        self.links
    }

    /// All connections, with what moved between this node and the peer.
    pub(super) fn all(&self) -> impl Iterator<Item = (&PeerId, &Link, Moved)> {
        self.peers.iter().flat_map(|(peer, entry)| {
            let moved = Moved {
                bytes: entry.bytes_in.saturating_add(entry.bytes_out),
                at: entry.moved,
            };
            entry.links.iter().map(move |link| (peer, link, moved))
        })
    }

    /// Connections with a peer, in the order of their making.
    pub(super) fn links(&self, peer: &PeerId) -> &[Link] {
        self.peers.get(peer).map_or(&[], |entry| &entry.links)
    }

    /// The peer has told about itself. True when it is the first time since it connected.
    pub(super) fn identified(
        &mut self,
        peer: PeerId,
        agent: &str,
        protocols: impl Iterator<Item = String>,
        now: Timestamp,
    ) -> bool {
        let entry = self.entry(peer, now);
        entry.agent = clean(agent);
        entry.protocols = protocols.take(MAX_PROTOCOLS).map(|p| clean(&p)).collect();
        !std::mem::replace(&mut entry.identified, true)
    }

    /// Whether the peer is connected and has told about itself.
    pub(super) fn is_connected(&self, peer: &PeerId) -> bool {
        self.peers
            .get(peer)
            .is_some_and(|entry| entry.identified && !entry.links.is_empty())
    }

    /// Peers that are connected and have told about themselves.
    pub(super) fn connected(&self) -> usize {
        let entries = self.peers.values();
        entries
            .filter(|entry| entry.identified && !entry.links.is_empty())
            .count()
    }

    /// The peer has answered over a connection; the round trip took so long.
    pub(super) fn measured(
        &mut self,
        peer: &PeerId,
        id: ConnectionId,
        rtt: Duration,
        now: Instant,
    ) {
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.rtt = Some(rtt);
            let link = entry.links.iter_mut().find(|link| link.id == id);
            if let Some(link) = link {
                link.alive = Some(now);
            }
        }
    }

    /// The peer, which speaks ping, has not answered over a connection.
    pub(super) fn unanswered(&mut self, peer: &PeerId, id: ConnectionId, now: Instant) {
        let entry = self.peers.get_mut(peer);
        let link = entry.and_then(|entry| entry.links.iter_mut().find(|link| link.id == id));
        if let Some(link) = link {
            link.alive.get_or_insert(now);
        }
    }

    /// Connections over which nothing has come for `silence`. Where blocks move, answers may take
    /// long.
    pub(super) fn dead(&self, now: Instant, silence: Duration) -> Vec<(PeerId, ConnectionId)> {
        let is_old = |then: Instant| now.saturating_duration_since(then) >= silence;
        let entries = self.peers.iter();
        let quiet = entries.filter(|(_, entry)| entry.moved.is_none_or(is_old));
        let links = quiet.flat_map(|(peer, entry)| entry.links.iter().map(|link| (*peer, link)));
        let dead = links.filter(|(_, link)| link.alive.is_some_and(is_old));
        dead.map(|(peer, link)| (peer, link.id)).collect()
    }

    /// Blocks came from the peer or went to it.
    pub(super) fn moved(&mut self, peer: &PeerId, bytes_in: u64, bytes_out: u64, now: Instant) {
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.bytes_in += bytes_in;
            entry.bytes_out += bytes_out;
            entry.moved = Some(now);
        }
    }

    /// Up to `count` peers to part with so that there is room for others, the least useful first:
    /// of whom fewest blocks came or went, which came by themselves, which have been here for
    /// longest. Never one that `stays`.
    pub(super) fn least_useful(
        &self,
        count: usize,
        stays: impl Fn(&PeerId, &Link) -> bool,
    ) -> Vec<PeerId> {
        let entries = self.peers.iter();
        let linked = entries.filter_map(|(peer, entry)| Some((peer, entry, entry.links.last()?)));
        let idle = linked.filter(|(peer, _, link)| !stays(peer, link));
        let mut idle: Vec<_> = idle
            .map(|(peer, entry, link)| {
                let moved = entry.bytes_in.saturating_add(entry.bytes_out);
                let is_ours = link.direction == Direction::Outbound;
                ((moved, is_ours, link.since), *peer)
            })
            .collect();
        idle.sort_unstable();
        idle.into_iter().take(count).map(|(_, peer)| peer).collect()
    }

    /// A request of the peer was turned away.
    pub(super) fn turned_away(&mut self, peer: &PeerId) {
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.refused += 1;
        }
    }

    /// Counts something against a peer. True when it is too much and the peer is to be dropped; then the count starts again.
    #[must_use]
    pub(super) fn blame(&mut self, peer: PeerId, what: Misbehaviour, now: Timestamp) -> bool {
        let entry = self.entry(peer, now);
        match what {
            Misbehaviour::WrongBytes => entry.wrong_blocks += 1,
            Misbehaviour::Protocol => entry.faults += 1,
        }
        let halvings = now.since(entry.scored).as_secs_f64() / SCORE_HALF_LIFE.as_secs_f64();
        entry.score = entry.score * (-halvings).exp2() + 1.0;
        entry.scored = now;
        if entry.score <= MAX_SCORE - 0.001 {
            return false;
        }
        entry.score = 0.0;
        true
    }

    /// Forgets where the peer can be reached.
    pub(super) fn forget(&mut self, peer: &PeerId) {
        match self.peers.get_mut(peer) {
            Some(entry) if !entry.links.is_empty() => entry.addresses.clear(),
            _ => {
                self.peers.remove(peer);
            }
        }
    }

    /// Everything about everybody, the connected first.
    pub(super) fn list(&self) -> Vec<PeerInfo> {
        let infos = self.peers.iter().map(|(peer, entry)| {
            let link = entry.links.first();
            let mut addresses: Vec<Multiaddr> = Vec::new();
            // Where an inbound connection came from is rarely where the peer listens: only for want of anything better.
            let bare = entry.addresses.is_empty();
            let mut links: Vec<&Link> = entry.links.iter().collect();
            links.sort_by_key(|link| is_relayed(&link.address));
            let live = links.iter();
            let live = live.filter(|link| bare || link.direction == Direction::Outbound);
            for address in live.map(|link| &link.address).chain(&entry.addresses) {
                let address = without_peer(address.clone());
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            PeerInfo {
                peer: *peer,
                addresses,
                agent: entry.agent.clone(),
                protocols: entry.protocols.clone(),
                rtt: entry.rtt,
                connected_since: link.filter(|_| entry.identified).map(|link| link.since),
                connections: entry.links.len(),
                is_relayed: links.first().is_some_and(|link| is_relayed(&link.address)),
                direction: link.map(|link| link.direction),
                bytes_in: entry.bytes_in,
                bytes_out: entry.bytes_out,
                wrong_blocks: entry.wrong_blocks,
                faults: entry.faults,
                refused: entry.refused,
                source: entry.source.unwrap_or(Source::Dht),
            }
        });
        let mut infos: Vec<PeerInfo> = infos.collect();
        infos.sort_by_key(|info| (info.connected_since.is_none(), info.peer));
        infos
    }
}

fn clean(text: &str) -> String {
    let printable = text.chars().filter(|c| !c.is_control());
    printable.take(MAX_TEXT).collect()
}

/// The connections with a peer that this side must close so that one is left, whatever order each side saw them made in.
///
/// Those through a relay go as soon as there is another. Of the others those dialled by the peer
/// with the smaller id stay; among several of them only their dialler chooses, and keeps the
/// oldest.
pub(super) fn surplus(local: &PeerId, peer: &PeerId, links: &[Link]) -> Vec<ConnectionId> {
    let (relayed, direct): (Vec<&Link>, Vec<&Link>) =
        links.iter().partition(|link| is_relayed(&link.address));
    if direct.is_empty() {
        return doubles(local, peer, &relayed);
    }
    let mut close = doubles(local, peer, &direct);
    close.extend(relayed.iter().map(|link| link.id));
    close
}

fn doubles(local: &PeerId, peer: &PeerId, links: &[&Link]) -> Vec<ConnectionId> {
    let preferred = if local < peer {
        Direction::Outbound
    } else {
        Direction::Inbound
    };
    let any_preferred = links.iter().any(|link| link.direction == preferred);
    let staying = if any_preferred {
        preferred
    } else {
        preferred.reversed()
    };
    let mut close: Vec<ConnectionId> = links
        .iter()
        .filter(|link| link.direction != staying)
        .map(|link| link.id)
        .collect();
    if staying == Direction::Outbound {
        let extra = links
            .iter()
            .filter(|link| link.direction == staying)
            .skip(1);
        close.extend(extra.map(|link| link.id));
    }
    close
}

#[cfg(test)]
#[path = "book_tests.rs"]
mod tests;
