//! Ports of other programs: anybody may announce, under any key, that a program on its own host
//! listens on a port.
//!
//! The port travels in the provider record of the key, as one more address of the provider:
//! `/tcp/<port>/memory/<number>` when a node announces, and with the host in front,
//! `/ip4/<host>/tcp/<port>/memory/<number>`, when another node tells of it. The number has 32 bits
//! of the SHA-256 of the key, and the seconds for which the announcement holds. Reasons:
//!
//! - Any Kademlia client of libp2p stores, finds and passes on the record as one of a provider. No
//!   transport dials such an address: without a host, or with `/memory` behind the port, it is none
//!   of TCP. A record of our own beside it would need a second lookup, and other clients would
//!   neither store it nor find it.
//! - There is no host in what a node announces. The one that stores the record puts in that from
//!   which the announcer is connected to it, so a record can't point at anybody else.
//! - Some clients keep one list of addresses for all keys of a peer: the bits of the key tell which
//!   port is whose.
//! - The time left is counted by the clock of the one that stores it. No clock but its own matters,
//!   and it never counts more than [`PROVIDER_TTL`].
//!
//! A port is of no use as proof: who stores a record may tell what it likes. [`Providers::confirm`]
//! asks the provider itself, whose key the handshake proves. What listens on the port has to prove
//! by itself who it is.
//!
//! Deliberately absent: which ports are announced and for how long (`upkeep`), and connecting to
//! them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use super::sweep::hash_of;
use super::{PROVIDER_TTL, Providers};
use crate::net::address::{ip, is_relayed};
use crate::time::{Clock, Timestamp};

/// Most keys under which a node announces ports.
pub const MAX_SERVICES: usize = 1000;

/// Offer of another program under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    /// Port that it listens on; never 0.
    pub port: u16,
    /// Where its host was seen, if that is known.
    pub host: Option<IpAddr>,
    /// Seconds for which the announcement still holds; never 0.
    pub ttl_s: u32,
}

/// Part of a key that an address repeats.
fn tag(key: &[u8]) -> u32 {
    let [a, b, c, d, ..] = hash_of(key);
    u32::from_be_bytes([a, b, c, d])
}

impl Service {
    /// The address that stands for it among those of a provider of `key`.
    pub(super) fn to_address(self, key: &[u8]) -> Multiaddr {
        let mut address = self.host.map_or_else(Multiaddr::empty, Multiaddr::from);
        address.push(Protocol::Tcp(self.port));
        let number = (u64::from(tag(key)) << 32) | u64::from(self.ttl_s);
        address.push(Protocol::Memory(number));
        address
    }

    /// Reads an address of that form; none if it is of another key, holds no port, or has ended.
    fn from_address(key: &[u8], address: &Multiaddr) -> Option<Self> {
        let host = ip(address);
        let mut parts = address.iter().skip(usize::from(host.is_some()));
        let (Some(Protocol::Tcp(port)), Some(Protocol::Memory(number))) =
            (parts.next(), parts.next())
        else {
            return None;
        };
        // A peer id is at the end of what some clients tell.
        match parts.next() {
            None | Some(Protocol::P2p(_)) => {}
            Some(_) => return None,
        }
        let ttl_s = u32::try_from(number & u64::from(u32::MAX)).ok()?;
        let ttl_s = ttl_s.min(u32::try_from(PROVIDER_TTL.as_secs()).unwrap_or(u32::MAX));
        let fits = number >> 32 == u64::from(tag(key)) && port != 0 && ttl_s != 0;
        fits.then_some(Self { port, host, ttl_s })
    }
}

/// Whether an address is meant to stand for a service, right or wrong.
fn is_one(address: &Multiaddr) -> bool {
    let mut parts = address.iter().skip(1);
    parts.any(|part| matches!(part, Protocol::Memory(_)))
}

/// Takes what stands for services out of a provider's addresses. Gives back the first that is one
/// of `key`.
pub(super) fn take(key: &[u8], addresses: &mut Vec<Multiaddr>) -> Option<Service> {
    let mut found = None;
    addresses.retain(|address| {
        let is_service = is_one(address);
        if is_service && found.is_none() {
            found = Service::from_address(key, address);
        }
        !is_service
    });
    found
}

/// Host at the other end of a connection, as this node sees it. Behind a relay only the relay is
/// seen.
pub(super) fn host_of(remote: Option<&Multiaddr>) -> Option<IpAddr> {
    remote.filter(|remote| !is_relayed(remote)).and_then(ip)
}

/// Ports that this node announces, with their ends. Shared by who announces and who answers.
pub(crate) struct Ports {
    ports: Mutex<HashMap<Vec<u8>, (u16, Timestamp)>>,
    clock: Arc<dyn Clock>,
}

impl Ports {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let ports = Mutex::default();
        Self { ports, clock }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Vec<u8>, (u16, Timestamp)>> {
        // Each change is one insertion or removal.
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Announces a port under a key; false when there are too many.
    pub(super) fn set(&self, key: Vec<u8>, port: u16, until: Timestamp) -> bool {
        let mut ports = self.lock();
        if ports.len() >= MAX_SERVICES && !ports.contains_key(&key) {
            return false;
        }
        ports.insert(key, (port, until));
        true
    }

    /// Port that is announced under a key, until it is taken back.
    pub(super) fn of(&self, key: &[u8]) -> Option<Service> {
        let (port, until) = self.lock().get(key).copied()?;
        let left = until.since(self.clock.now()).min(PROVIDER_TTL);
        // One that has ended is told for a last second: without a port the record would stay.
        let ttl_s = u32::try_from(left.as_millis().div_ceil(1000)).unwrap_or(u32::MAX);
        Some(Service {
            port,
            host: None,
            ttl_s: ttl_s.max(1),
        })
    }
}

impl Providers {
    /// From now on this node tells, as a provider of `key`, that a program on its host listens on
    /// `port`. Others hear of it when the key is [announced](Self::announce). At most
    /// [`MAX_SERVICES`] keys have ports: false when there are as many.
    pub fn set_port(&self, key: Vec<u8>, port: u16, until: Timestamp) -> bool {
        self.ports.set(key, port, until)
    }

    /// Takes that back; others forget it when its time is over.
    pub fn unset_port(&self, key: &[u8]) {
        self.ports.lock().remove(key);
    }

    /// What a provider itself says that it offers under a key; none within the first `Option` when
    /// it does not answer in time.
    ///
    /// # Cancel safety
    /// Dropping the future ends the question.
    pub async fn confirm(
        &self,
        provider: PeerId,
        key: Vec<u8>,
        patience: Duration,
    ) -> Option<Option<Service>> {
        let asked = tokio::time::timeout(patience, self.ask(provider, key));
        let told = asked.await.ok()??;
        let own = told.into_iter().find(|one| one.peer == provider);
        Some(own.and_then(|own| own.service))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::ManualClock;
    use proptest::prelude::*;

    const DAY: u32 = 24 * 3600;

    fn parse(text: &str) -> Multiaddr {
        text.parse().expect("an address")
    }

    #[test]
    fn golden_address() {
        let mut service = Service {
            port: 8080,
            host: None,
            ttl_s: 3600,
        };
        // The SHA-256 of "abc" begins with ba7816bf.
        let number = (0xba78_16bf_u64 << 32) | 3600;
        let bare = format!("/tcp/8080/memory/{number}");
        assert_eq!(service.to_address(b"abc"), parse(&bare));
        service.host = Some([192, 0, 2, 7].into());
        let full = format!("/ip4/192.0.2.7{bare}");
        assert_eq!(service.to_address(b"abc"), parse(&full));
    }

    #[test]
    fn only_a_whole_one_of_the_key_counts_and_none_is_left_to_be_dialled() {
        let number = |key: &[u8], ttl: u32| (u64::from(tag(key)) << 32) | u64::from(ttl);
        let good = number(b"key", 60);
        let peer = PeerId::random();
        for (text, counts) in [
            (format!("/tcp/80/memory/{good}"), true),
            (format!("/ip6/::1/tcp/80/memory/{good}"), true),
            (
                format!("/ip4/192.0.2.7/tcp/80/memory/{good}/p2p/{peer}"),
                true,
            ),
            (format!("/tcp/0/memory/{good}"), false),
            (format!("/udp/80/memory/{good}"), false),
            (format!("/tcp/80/memory/{good}/tcp/81"), false),
            (format!("/dns4/victim.example/tcp/80/memory/{good}"), false),
            (format!("/tcp/80/memory/{}", number(b"key", 0)), false),
            (format!("/tcp/80/memory/{}", number(b"other", 60)), false),
            (format!("/tcp/80/tcp/81/memory/{good}"), false),
        ] {
            let mut addresses = vec![parse(&text), parse("/ip4/192.0.2.7/tcp/1")];
            let found = take(b"key", &mut addresses);
            assert_eq!(found.is_some(), counts, "{text}");
            assert_eq!(addresses, [parse("/ip4/192.0.2.7/tcp/1")], "{text}");
        }
        // Addresses within a process are none, and neither are those of peers.
        for text in ["/memory/7", "/tcp/80", "/ip4/192.0.2.7/udp/1/quic-v1"] {
            let mut addresses = vec![parse(text)];
            assert_eq!(take(b"key", &mut addresses), None);
            assert_eq!(addresses.len(), 1, "{text}");
        }
    }

    #[test]
    fn the_time_left_is_bounded() {
        let number = (u64::from(tag(b"key")) << 32) | u64::from(u32::MAX);
        let mut addresses = vec![parse(&format!("/tcp/80/memory/{number}"))];
        let service = take(b"key", &mut addresses).expect("one");
        assert_eq!(service.ttl_s, 2 * DAY);
    }

    #[test]
    fn behind_a_relay_no_host_is_seen() {
        let relayed = format!("/ip4/192.0.2.7/tcp/1/p2p/{}/p2p-circuit", PeerId::random());
        assert_eq!(host_of(Some(&parse(&relayed))), None);
        let direct = parse("/ip4/192.0.2.7/tcp/1");
        assert_eq!(host_of(Some(&direct)), Some([192, 0, 2, 7].into()));
        assert_eq!(host_of(None), None);
    }

    #[test]
    fn of_a_port_no_more_time_is_told_than_it_has() {
        let clock = Arc::new(ManualClock::default());
        let ports = Ports::new(clock.clone());
        let until = clock.now().after(Duration::from_secs(10));
        assert!(ports.set(b"key".to_vec(), 80, until));
        assert_eq!(ports.of(b"key").map(|one| one.ttl_s), Some(10));
        assert_eq!(ports.of(b"other"), None);
        clock.advance(Duration::from_secs(10));
        assert_eq!(ports.of(b"key").map(|one| one.ttl_s), Some(1));
        let others = (0..MAX_SERVICES).filter(|n| ports.set(n.to_be_bytes().to_vec(), 1, until));
        assert_eq!(others.count(), MAX_SERVICES - 1);
        assert!(ports.set(b"key".to_vec(), 81, until), "it is there");
        ports.lock().clear();
        assert_eq!(ports.of(b"key"), None);
    }

    proptest! {
        #[test]
        fn services_are_read_as_written(key in any::<[u8; 8]>(), port in 1u16.., ttl_s in 1..=2 * DAY, host in any::<Option<[u8; 4]>>(), v6 in any::<[u8; 16]>()) {
            let hosts = [host.map(IpAddr::from), Some(IpAddr::from(v6))];
            for host in hosts {
                let service = Service { port, host, ttl_s };
                let mut addresses = vec![service.to_address(&key)];
                prop_assert_eq!(take(&key, &mut addresses), Some(service));
                prop_assert!(addresses.is_empty());
            }
        }

        #[test]
        fn arbitrary_addresses_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..60), key in any::<[u8; 4]>()) {
            if let Ok(address) = Multiaddr::try_from(bytes) {
                let mut addresses = vec![address];
                if let Some(service) = take(&key, &mut addresses) {
                    prop_assert!(service.port != 0 && service.ttl_s != 0 && service.ttl_s <= 2 * DAY);
                }
            }
        }
    }
}
