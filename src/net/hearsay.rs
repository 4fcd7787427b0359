//! Hearsay: addresses that strangers tell, and how many of them are dialled.
//!
//! An address is *vouched for* when a person typed or configured it, when mDNS or a member of one
//! of this node's rings told it, or when the peer that is meant was reached there before. All
//! others are hearsay, wherever they come from. The rules of hearsay:
//!
//! - Nobody tells addresses narrower than the connection that it tells them over: over the internet
//!   only public ones count, over a private network those of private networks too, and loopback
//!   addresses only over loopback. An address on an IP address of this machine is as good as
//!   loopback. Names are not resolved.
//! - What an announcer says of itself is passed on to others only as far as it is on the IP address
//!   that the announcement came from. An address through a relay is passed on only when this node
//!   is that relay, or has reached it at the address that is named: nobody can name a victim as a
//!   relay. The dial to a relay is on the account of whoever told the address through it.
//! - An address from a meeting point, which anybody may have put there, is passed once each time
//!   that it is dialled on purpose ([`Hearsay::pass`]): how many are dialled is bounded where that
//!   is decided, in `meet`.
//! - Each host that tells has a small share of dials that may fail, and so have all together. A
//!   dial that finds the peer that was meant costs nothing, so honest tellers are not slowed down.
//!
//! Invariant: [`Hearsay::turn`] is asked as the last step before each dial over a socket; what it
//! was not told by somebody who may tell it is not dialled.
//!
//! Deliberately absent: which peers are dialled and when.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::address::{self, Reach, ip, is_plain, is_relayed, peer_of, relay_of, without_peer};

/// Dials to what one host tells that may fail, and the time after which another one may.
const SHARE: f64 = 16.0;
const SHARE_AGAIN: Duration = Duration::from_secs(6);
/// The same for all hosts together.
const ALL: f64 = 128.0;
const ALL_AGAIN: Duration = Duration::from_secs(1);
/// Time for which a dial waits for its turn while others are under way.
const MAX_WAIT: Duration = Duration::from_secs(3);
/// Most hosts that tell which are remembered, and addresses that each told last.
const MAX_HOSTS: usize = 512;
const MAX_TOLD_BY_HOST: usize = 192;
/// Most hosts that are remembered as tellers of one address.
const MAX_TELLERS: usize = 4;
/// Most addresses that are remembered as vouched for.
const MAX_VOUCHED: usize = 4096;
/// Most passes that nobody has used yet.
const MAX_PASSES: usize = 64;
/// Most addresses that one peer is said to have, and IP addresses among them: its own word counts
/// for more of them than the word of others.
const MAX_ADDRESSES: usize = 8;
const MAX_OWN_IPS: usize = 4;
const MAX_OTHERS_IPS: usize = 2;

/// Host that tells. Peer ids cost nothing, so hosts are told apart by address where that says
/// something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Host {
    V4([u8; 4]),
    /// The first half of an IPv6 address: one customer has at least so much.
    V6([u8; 8]),
    /// On this machine, or reached by a name.
    Peer(PeerId),
    /// Forgotten.
    Unknown,
}

impl Host {
    fn of(teller: PeerId, remote: Option<&Multiaddr>, reach: Reach) -> Self {
        match remote.and_then(ip) {
            Some(IpAddr::V4(ip)) if reach != Reach::Machine => Self::V4(ip.octets()),
            Some(IpAddr::V6(ip)) if reach != Reach::Machine => {
                let [a, b, c, d, e, f, g, h, ..] = ip.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
            _ => Self::Peer(teller),
        }
    }
}

/// A map that forgets what was put in first when there is too much.
#[derive(Debug)]
struct Recent<K, V> {
    entries: HashMap<K, (V, u64)>,
    order: VecDeque<(K, u64)>,
    count: u64,
    most: usize,
}

impl<K: Clone + Eq + Hash, V> Recent<K, V> {
    fn new(most: usize) -> Self {
        Self {
            entries: HashMap::new(),
            order: VecDeque::new(),
            count: 0,
            most,
        }
    }

    fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(value, _)| value)
    }

    fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key).map(|(value, _)| value)
    }

    /// Puts a value in as the newest. Gives back what had to go.
    fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.count += 1;
        self.entries.insert(key.clone(), (value, self.count));
        self.order.push_back((key, self.count));
        let mut gone = None;
        // Each entry was put in again about as often as others were: the queue stays short.
        while self.entries.len() > self.most || self.order.len() > 4 * self.most {
            let Some((key, number)) = self.order.pop_front() else {
                break;
            };
            if self.entries.get(&key).is_some_and(|(_, at)| *at == number) {
                gone = self.entries.remove(&key).map(|(value, _)| value);
            }
        }
        gone
    }
}

/// Dials that may fail, and come back with time.
#[derive(Debug)]
struct Purse {
    left: f64,
    at: Instant,
    /// Dials that have taken from it and have not ended.
    under_way: u32,
}

impl Purse {
    const fn full(most: f64, now: Instant) -> Self {
        Self {
            left: most,
            at: now,
            under_way: 0,
        }
    }

    fn refill(&mut self, most: f64, again: Duration, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        self.left = (self.left + passed.as_secs_f64() / again.as_secs_f64()).min(most);
        self.at = now;
    }

    fn take(&mut self) {
        self.left -= 1.0;
        self.under_way += 1;
    }

    fn end(&mut self, give_back: bool, most: f64) {
        self.under_way = self.under_way.saturating_sub(1);
        if give_back {
            self.left = (self.left + 1.0).min(most);
        }
    }
}

#[derive(Debug)]
struct Share {
    purse: Purse,
    /// Addresses that the host told last.
    told: VecDeque<Multiaddr>,
}

#[derive(Debug)]
struct Told {
    /// The narrowest reach that somebody who told it may tell of.
    reach: Reach,
    tellers: Vec<Host>,
}

/// Whether a dial may start.
#[derive(Debug, PartialEq, Eq)]
enum Ask {
    /// The address is vouched for.
    Free,
    /// On the account of this host.
    Go(Host),
    /// Once another dial has ended.
    Wait,
    Never(&'static str),
}

/// Addresses that were told, and the hosts that told them. Pure.
#[derive(Debug)]
struct Rumours {
    own: Vec<Multiaddr>,
    /// Addresses at which others outside have reached this node.
    confirmed: Vec<Multiaddr>,
    vouched: Recent<Multiaddr, ()>,
    /// Addresses that may be dialled once.
    passes: VecDeque<Multiaddr>,
    /// Where peers were reached.
    proven: Recent<Multiaddr, PeerId>,
    told: HashMap<Multiaddr, Told>,
    hosts: Recent<Host, Share>,
    all: Purse,
}

impl Rumours {
    fn new(now: Instant) -> Self {
        Self {
            own: Vec::new(),
            confirmed: Vec::new(),
            vouched: Recent::new(MAX_VOUCHED),
            passes: VecDeque::new(),
            proven: Recent::new(MAX_VOUCHED),
            told: HashMap::new(),
            hosts: Recent::new(MAX_HOSTS),
            all: Purse::full(ALL, now),
        }
    }

    /// From where an address can be reached: one of this machine only from here, as far as this
    /// node is concerned.
    fn reach(&self, address: &Multiaddr) -> Option<Reach> {
        let reach = address::reach(address)?;
        let is_own = |own: &Multiaddr| ip(own).is_some() && ip(own) == ip(address);
        Some(if self.own.iter().any(is_own) {
            Reach::Machine
        } else {
            reach
        })
    }

    fn hear(
        &mut self,
        teller: PeerId,
        remote: Option<&Multiaddr>,
        of: PeerId,
        mut addresses: Vec<Multiaddr>,
        now: Instant,
    ) -> Vec<Multiaddr> {
        let direct = remote.filter(|remote| !is_relayed(remote));
        let widest = direct.and_then(|remote| self.reach(remote));
        let widest = widest.unwrap_or(Reach::World);
        let most_ips = if of == teller {
            // The one that is in use goes first.
            addresses.sort_by_key(|address| remote.and_then(ip) != ip(address));
            MAX_OWN_IPS
        } else {
            MAX_OTHERS_IPS
        };
        let (mut kept, mut ips) = (Vec::new(), Vec::new());
        for address in addresses {
            if peer_of(&address).is_some_and(|peer| peer != of) {
                continue;
            }
            let bare = without_peer(address);
            let relay = relay_of(&bare);
            // When this node is the relay that is no address of this machine.
            let reach = match &relay {
                Some(_) => address::reach(&bare),
                None => self.reach(&bare),
            };
            let fits = (is_plain(&bare) || relay.is_some())
                && reach.is_some_and(|reach| reach <= widest)
                && !self.own.contains(&bare)
                && !kept.contains(&bare);
            if !fits || kept.len() >= MAX_ADDRESSES {
                continue;
            }
            let ip = ip(&bare);
            if !ips.contains(&ip) {
                if ips.len() >= most_ips {
                    continue;
                }
                ips.push(ip);
            }
            kept.push(bare);
        }
        let host = Host::of(teller, remote, widest);
        for address in &kept {
            // An address through a relay is dialled by dialling the relay.
            let relay = relay_of(address).map(|(relay, _)| relay);
            self.remember(host, widest, relay.as_ref().unwrap_or(address), now);
        }
        kept
    }

    fn remember(&mut self, host: Host, reach: Reach, address: &Multiaddr, now: Instant) {
        let told = self.told.entry(address.clone()).or_insert_with(|| Told {
            reach,
            tellers: Vec::new(),
        });
        told.reach = told.reach.max(reach);
        if told.tellers.contains(&host) {
            return;
        }
        if told.tellers.len() >= MAX_TELLERS {
            // Hosts that told the address last count: the first may all be out of dials.
            told.tellers.remove(0);
        }
        told.tellers.push(host);
        if self.hosts.get(&host).is_none() {
            let share = Share {
                purse: Purse::full(SHARE, now),
                told: VecDeque::new(),
            };
            let gone = self.hosts.insert(host, share);
            gone.into_iter()
                .flat_map(|share| share.told)
                .for_each(|address| self.forget(&address));
        }
        let Some(share) = self.hosts.get_mut(&host) else {
            return;
        };
        share.told.push_back(address.clone());
        if share.told.len() > MAX_TOLD_BY_HOST
            && let Some(oldest) = share.told.pop_front()
            && let Some(told) = self.told.get_mut(&oldest)
        {
            told.tellers.retain(|teller| *teller != host);
            self.forget(&oldest);
        }
    }

    /// Forgets an address unless a host that is remembered told it.
    fn forget(&mut self, address: &Multiaddr) {
        let Some(told) = self.told.get_mut(address) else {
            return;
        };
        told.tellers.retain(|host| self.hosts.get(host).is_some());
        if told.tellers.is_empty() {
            self.told.remove(address);
        }
    }

    fn may_tell(&self, remote: Option<&Multiaddr>, address: &Multiaddr) -> bool {
        let widest = remote.and_then(|remote| self.reach(remote));
        let widest = widest.unwrap_or(Reach::World);
        self.reach(address).is_some_and(|reach| reach <= widest)
    }

    /// Addresses among `addresses` that are on the host at the other end of a connection.
    fn on_own_host(&self, remote: Option<&Multiaddr>, addresses: &[Multiaddr]) -> Vec<Multiaddr> {
        let Some(remote) = remote else {
            return Vec::new();
        };
        let here = self.reach(remote);
        let fits = |address: &&Multiaddr| {
            if let Some((relay, peer)) = relay_of(address) {
                return self.is_relay(&relay, peer) || relay_of(remote) == Some((relay, peer));
            }
            is_plain(address)
                && !is_relayed(remote)
                && match here {
                    Some(Reach::Machine) => self.reach(address) == Some(Reach::Machine),
                    Some(_) => ip(address).is_some() && ip(address) == ip(remote),
                    // A person vouches for who is at a name.
                    None => self.reach(address) == Some(Reach::World),
                }
        };
        addresses.iter().filter(fits).cloned().collect()
    }

    /// Whether a relay was reached where it is said to be, or is this node.
    fn is_relay(&self, at: &Multiaddr, peer: PeerId) -> bool {
        self.proven.get(at) == Some(&peer) || self.own.contains(at) || self.confirmed.contains(at)
    }

    fn ask(&mut self, address: &Multiaddr, now: Instant) -> Ask {
        let (peer, bare) = (peer_of(address), without_peer(address.clone()));
        let proven = self.proven.get(&bare);
        if let Some(at) = self.passes.iter().position(|pass| *pass == bare) {
            self.passes.remove(at);
            return Ask::Free;
        }
        if self.vouched.get(&bare).is_some()
            || proven.is_some_and(|proven| peer.is_none_or(|peer| peer == *proven))
        {
            return Ask::Free;
        }
        let Some(reach) = self.reach(&bare).filter(|_| is_plain(&bare)) else {
            return Ask::Never("it is a name, or no address of a peer, and a stranger told it");
        };
        let (widest, mut tellers) = match self.told.get(&bare) {
            Some(told) => (told.reach, told.tellers.clone()),
            None => (Reach::World, vec![Host::Unknown]),
        };
        if reach > widest {
            return Ask::Never("nobody told it who is in the same network");
        }
        self.all.refill(ALL, ALL_AGAIN, now);
        let mut under_way = 0;
        for host in tellers.drain(..) {
            if self.hosts.get(&host).is_none() {
                let purse = Purse::full(SHARE, now);
                let told = VecDeque::new();
                self.hosts.insert(host, Share { purse, told });
            }
            let Some(Share { purse, .. }) = self.hosts.get_mut(&host) else {
                continue;
            };
            purse.refill(SHARE, SHARE_AGAIN, now);
            if purse.left >= 1.0 && self.all.left >= 1.0 {
                purse.take();
                self.all.take();
                return Ask::Go(host);
            }
            under_way += purse.under_way;
        }
        if under_way > 0 || (self.all.left < 1.0 && self.all.under_way > 0) {
            return Ask::Wait;
        }
        Ask::Never("too many addresses that strangers told did not work")
    }

    fn pass(&mut self, address: Multiaddr) {
        if self.passes.len() >= MAX_PASSES {
            self.passes.pop_front();
        }
        self.passes.push_back(address);
    }

    fn end(&mut self, host: Host, give_back: bool) {
        self.all.end(give_back, ALL);
        if let Some(share) = self.hosts.get_mut(&host) {
            share.purse.end(give_back, SHARE);
        }
    }
}

/// Addresses that strangers tell. Shared by the rooms that hear them and the transport that dials.
pub(super) struct Hearsay {
    rumours: Mutex<Rumours>,
    ended: Notify,
}

impl Default for Hearsay {
    fn default() -> Self {
        Self {
            rumours: Mutex::new(Rumours::new(Instant::now())),
            ended: Notify::new(),
        }
    }
}

impl Hearsay {
    fn rumours(&self) -> MutexGuard<'_, Rumours> {
        // Each change is whole before anything can panic.
        self.rumours.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This node listens on an address.
    pub(super) fn listens(&self, address: &Multiaddr) {
        let address = without_peer(address.clone());
        let own = &mut self.rumours().own;
        if !own.contains(&address) {
            own.push(address);
        }
    }

    /// This node listens on an address no more.
    pub(super) fn listens_no_more(&self, address: &Multiaddr) {
        let address = without_peer(address.clone());
        self.rumours().own.retain(|own| *own != address);
    }

    /// Others outside have reached this node at these addresses, and at no others.
    pub(super) fn confirmed(&self, addresses: Vec<Multiaddr>) {
        self.rumours().confirmed = addresses;
    }

    /// Somebody who is trusted to tells an address. One through a relay vouches for the relay's.
    pub(super) fn vouch(&self, address: &Multiaddr) {
        let address = match relay_of(address) {
            Some((relay, _)) => relay,
            None => without_peer(address.clone()),
        };
        self.rumours().vouched.insert(address, ());
    }

    /// An address may be dialled once, whoever told it.
    pub(super) fn pass(&self, address: &Multiaddr) {
        let address = without_peer(address.clone());
        self.rumours().pass(address);
    }

    /// `teller`, at the other end of a connection with `remote`, tells where a peer can be reached.
    /// Gives back what counts, without the peer id at the end.
    pub(super) fn hear(
        &self,
        teller: PeerId,
        remote: Option<&Multiaddr>,
        of: PeerId,
        addresses: Vec<Multiaddr>,
    ) -> Vec<Multiaddr> {
        let now = Instant::now();
        self.rumours().hear(teller, remote, of, addresses, now)
    }

    /// Whether an address told over a connection with `remote` counts. It is not remembered, so
    /// nothing is dialled for it.
    pub(super) fn may_tell(&self, remote: Option<&Multiaddr>, address: &Multiaddr) -> bool {
        self.rumours().may_tell(remote, address)
    }

    /// Addresses among `addresses` that are on the host at the other end of a connection with
    /// `remote`: they may be passed on to others.
    pub(super) fn on_own_host(
        &self,
        remote: Option<&Multiaddr>,
        addresses: &[Multiaddr],
    ) -> Vec<Multiaddr> {
        self.rumours().on_own_host(remote, addresses)
    }

    /// Waits until an address may be dialled.
    ///
    /// # Errors
    /// Why it may not be.
    ///
    /// # Cancel safety
    /// Dropping the future, or the turn, costs the teller nothing.
    pub(super) async fn turn(self: &Arc<Self>, address: &Multiaddr) -> io::Result<Turn> {
        let wait = async {
            loop {
                let ended = self.ended.notified();
                let asked = self.rumours().ask(address, Instant::now());
                match asked {
                    Ask::Wait => ended.await,
                    Ask::Free => return Ok(None),
                    Ask::Go(host) => return Ok(Some(host)),
                    Ask::Never(why) => return Err(why),
                }
            }
        };
        let host = timeout(MAX_WAIT, wait).await.unwrap_or(Err(
            "too many addresses that strangers told are being dialled",
        ));
        let host = host.map_err(|why| io::Error::other(format!("not dialled: {why}")))?;
        Ok(Turn {
            hearsay: self.clone(),
            address: without_peer(address.clone()),
            meant: peer_of(address),
            host,
        })
    }
}

/// The right to dial an address once.
pub(super) struct Turn {
    hearsay: Arc<Hearsay>,
    address: Multiaddr,
    meant: Option<PeerId>,
    /// Whose account it is on; none when the address is vouched for.
    host: Option<Host>,
}

impl Turn {
    /// Whether the address is hearsay.
    pub(super) const fn is_hearsay(&self) -> bool {
        self.host.is_some()
    }

    /// The dial has ended; this peer was there, if any.
    pub(super) fn end(mut self, found: Option<PeerId>) {
        let as_meant = found.filter(|found| self.meant.is_none_or(|meant| meant == *found));
        if let Some(peer) = as_meant {
            let mut rumours = self.hearsay.rumours();
            rumours.proven.insert(self.address.clone(), peer);
        }
        self.give_back(as_meant.is_some());
    }

    fn give_back(&mut self, give_back: bool) {
        if let Some(host) = self.host.take() {
            self.hearsay.rumours().end(host, give_back);
            self.hearsay.ended.notify_waiters();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Another address of the peer was faster: that says nothing against this one.
        self.give_back(true);
    }
}

#[cfg(test)]
#[path = "hearsay_tests.rs"]
mod tests;
