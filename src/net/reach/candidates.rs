//! Addresses at which others saw this node, until somebody outside has reached it there. Pure.
//!
//! Any peer may lie about where it sees this node, so each site has a small share of what is
//! remembered and tried, and peers that came by themselves have half of it: this node chose the
//! others. Only addresses that can be reached from everywhere count.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use super::Nat;
use crate::net::address::{self, Reach, is_plain, is_quic, is_relayed, socket, without_peer};
use crate::net::admission::Site;

/// Most sightings that are remembered, those of one site, and of peers that came by themselves.
const MAX_SEEN: usize = 32;
const MAX_SEEN_BY_SITE: usize = 4;
const MAX_SEEN_BY_INBOUND: usize = MAX_SEEN / 2;
/// Most addresses that are tried because of sightings before everything is tried anew, and those
/// because of peers that came by themselves.
const MAX_TRIED: usize = 48;
const MAX_TRIED_BY_INBOUND: usize = MAX_TRIED / 3;
/// Most own addresses and ports that are looked at.
const MAX_OWN: usize = 64;

/// Place and way of a sighting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Witness {
    pub(super) site: Site,
    /// Whether this node dialled the peer.
    pub(super) is_outbound: bool,
}

#[derive(Clone, Debug)]
struct Seen {
    by: Witness,
    address: Multiaddr,
}

/// Candidates for addresses that work from outside.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    own: Vec<Multiaddr>,
    mapped: Vec<SocketAddr>,
    seen: Vec<Seen>,
    tried: HashSet<Multiaddr>,
    tried_of_seen: usize,
    tried_of_inbound: usize,
}

/// Whether an address can be one of this node that everybody reaches.
fn is_worldly(address: &Multiaddr) -> bool {
    is_plain(address) && address::reach(address) == Some(Reach::World)
}

/// A TCP or QUIC address.
fn address_of(socket: SocketAddr, is_tcp: bool) -> Multiaddr {
    let ip = match socket.ip() {
        IpAddr::V4(ip) => Protocol::Ip4(ip),
        IpAddr::V6(ip) => Protocol::Ip6(ip),
    };
    let address = Multiaddr::empty().with(ip);
    match is_tcp {
        true => address.with(Protocol::Tcp(socket.port())),
        false => address
            .with(Protocol::Udp(socket.port()))
            .with(Protocol::QuicV1),
    }
}

impl Candidates {
    /// This node listens on an address.
    pub(super) fn listens(&mut self, address: &Multiaddr) {
        let is_new = !self.own.contains(address) && !is_relayed(address);
        if is_new && self.own.len() < MAX_OWN {
            self.own.push(address.clone());
        }
    }

    /// This node listens on an address no more.
    pub(super) fn listens_no_more(&mut self, address: &Multiaddr) {
        self.own.retain(|own| own != address);
    }

    /// Own addresses.
    pub(super) fn own(&self) -> &[Multiaddr] {
        &self.own
    }

    /// Ports that a router may be asked to pass on: of TCP and of UDP, over IPv4 and for others.
    pub(super) fn ports(&self) -> (Option<u16>, Option<u16>) {
        let far = self.own.iter().filter_map(socket);
        let mut far = far.filter(|(socket, _)| socket.is_ipv4() && !socket.ip().is_loopback());
        let tcp = far.clone().find(|(_, is_tcp)| *is_tcp);
        let udp = far.find(|(_, is_tcp)| !*is_tcp);
        (
            tcp.map(|(socket, _)| socket.port()),
            udp.map(|(socket, _)| socket.port()),
        )
    }

    /// The router says that it passes on what comes to these, each with whether it is of TCP.
    pub(super) fn maps(&mut self, mapped: &[(SocketAddr, bool)]) -> Vec<Multiaddr> {
        let all = mapped.iter().map(|(at, is_tcp)| address_of(*at, *is_tcp));
        let addresses: Vec<Multiaddr> = all.filter(is_worldly).collect();
        self.mapped = mapped.iter().map(|(at, _)| *at).collect();
        addresses
    }

    /// A peer says that it sees this node at an address. Whether it is remembered.
    pub(super) fn seen(&mut self, by: Witness, address: &Multiaddr) -> bool {
        let address = without_peer(address.clone());
        if !is_worldly(&address) {
            return false;
        }
        let is_same =
            |one: &Seen| one.by.site == by.site && is_quic(&one.address) == is_quic(&address);
        // The latest word of a site about one kind of address counts.
        self.seen
            .retain(|one| !(is_same(one) && one.address == address));
        let of_site = |one: &&Seen| one.by.site == by.site;
        if self.seen.iter().filter(of_site).count() >= MAX_SEEN_BY_SITE
            && let Some(oldest) = self.seen.iter().position(|one| one.by.site == by.site)
        {
            self.seen.remove(oldest);
        }
        let of_inbound = |one: &&Seen| !one.by.is_outbound;
        let is_full = self.seen.len() >= MAX_SEEN;
        let inbound = self.seen.iter().filter(of_inbound).count();
        if (is_full || inbound >= MAX_SEEN_BY_INBOUND) && !by.is_outbound {
            let oldest = self.seen.iter().position(|one| !one.by.is_outbound);
            match oldest {
                Some(oldest) => drop(self.seen.remove(oldest)),
                None => return false,
            }
        } else if is_full {
            // Sightings of peers that came by themselves go first.
            let inbound = self.seen.iter().position(|one| !one.by.is_outbound);
            self.seen.remove(inbound.unwrap_or(0));
        }
        self.seen.push(Seen { by, address });
        true
    }

    /// Addresses that are to be tried and were not: own ones, those that the router promised, and
    /// those that were seen, at the port that was seen and at the ports that this node listens on.
    pub(super) fn take_new(&mut self) -> Vec<Multiaddr> {
        let mut new = Vec::new();
        for own in self.own.iter().filter(|own| is_worldly(own)) {
            if self.tried.insert(own.clone()) {
                new.push(own.clone());
            }
        }
        for seen in &self.seen {
            for address in self.meant(&seen.address) {
                let is_inbound = !seen.by.is_outbound;
                let is_over = self.tried_of_seen >= MAX_TRIED
                    || (is_inbound && self.tried_of_inbound >= MAX_TRIED_BY_INBOUND);
                if is_over || !self.tried.insert(address.clone()) {
                    continue;
                }
                self.tried_of_seen += 1;
                self.tried_of_inbound += usize::from(is_inbound);
                new.push(address);
            }
        }
        new
    }

    /// Addresses that a sighting stands for. A TCP connection that this node dialled may come from
    /// a port that nobody listens on.
    fn meant(&self, seen: &Multiaddr) -> Vec<Multiaddr> {
        let Some((at, is_tcp)) = socket(seen) else {
            return Vec::new();
        };
        let ports = self.ports_of(at, is_tcp);
        let mut meant: Vec<SocketAddr> = Vec::new();
        if !is_tcp || ports.contains(&at.port()) {
            meant.push(at);
        }
        let others = ports.into_iter().filter(|port| *port != at.port());
        meant.extend(others.take(2).map(|port| SocketAddr::new(at.ip(), port)));
        let addresses = meant.into_iter().map(|at| address_of(at, is_tcp));
        addresses.collect()
    }

    /// Addresses where a router may let others in while this node speaks to them: the sighting
    /// itself where it is of a port that this node listens on or of QUIC, which always dials from
    /// one, and all ports that this node listens on, since most routers keep ports as they are. Two
    /// nodes that each met others over one kind of transport alone have a kind in common so.
    pub(super) fn punchable(&self, seen: &Multiaddr) -> Vec<Multiaddr> {
        let mut punchable = self.meant(seen);
        if let Some((at, is_tcp)) = socket(seen) {
            punchable.extend(self.meant_at_own_ports(at, !is_tcp));
        }
        punchable
    }

    /// Addresses of one kind at the IP address of a sighting and the ports that this node listens
    /// on.
    fn meant_at_own_ports(&self, seen: SocketAddr, is_tcp: bool) -> Vec<Multiaddr> {
        let own = self.ports_of(seen, is_tcp).into_iter().take(2);
        own.map(|port| address_of(SocketAddr::new(seen.ip(), port), is_tcp))
            .collect()
    }

    /// Ports that this node listens on for others, of one kind and of the family of `like`.
    fn ports_of(&self, like: SocketAddr, is_tcp: bool) -> HashSet<u16> {
        let same = self.own.iter().filter_map(socket);
        let same = same.filter(|(own, tcp)| {
            *tcp == is_tcp && own.is_ipv4() == like.is_ipv4() && !own.ip().is_loopback()
        });
        same.map(|(own, _)| own.port()).collect()
    }

    /// An address that the router promised is to be tried.
    pub(super) fn take(&mut self, address: &Multiaddr) -> bool {
        self.tried.insert(address.clone())
    }

    /// Whether an address was given out to be tried.
    pub(super) fn is_tried(&self, address: &Multiaddr) -> bool {
        self.tried.contains(address)
    }

    /// The network is another one: what was seen in the old one does not count.
    pub(super) fn forget(&mut self) {
        self.seen.clear();
        self.try_again();
    }

    /// Everything is to be tried anew.
    pub(super) fn try_again(&mut self) {
        self.tried.clear();
        (self.tried_of_seen, self.tried_of_inbound) = (0, 0);
    }

    /// Kind of the router before this node. Only peers that this node dialled over QUIC tell the
    /// kinds apart: what goes to all of them leaves from one port.
    pub(super) fn nat(&self) -> Nat {
        let ips: HashSet<IpAddr> = self.own.iter().filter_map(address::ip).collect();
        if self.seen.is_empty() {
            return Nat::Unknown;
        }
        let is_own = |one: &Seen| address::ip(&one.address).is_some_and(|ip| ips.contains(&ip));
        if self.seen.iter().any(is_own) {
            return Nat::None;
        }
        let mut latest: Vec<(Site, SocketAddr)> = Vec::new();
        for one in self.seen.iter().rev() {
            let is_told = one.by.is_outbound && is_quic(&one.address);
            let Some((at, _)) = socket(&one.address).filter(|(at, _)| is_told && at.is_ipv4())
            else {
                continue;
            };
            if latest.iter().all(|(site, _)| *site != one.by.site) {
                latest.push((one.by.site, at));
            }
        }
        match latest.as_slice() {
            [] | [_] => Nat::Some,
            [(_, first), rest @ ..] if rest.iter().all(|(_, at)| at == first) => Nat::Cone,
            _ => Nat::Symmetric,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn parse(text: &str) -> Multiaddr {
        text.parse().expect("an address")
    }

    fn witness(n: u32, is_outbound: bool) -> Witness {
        Witness {
            site: Site::of_ip(IpAddr::V4(Ipv4Addr::from(0x0800_0000 + n))),
            is_outbound,
        }
    }

    fn behind_a_router() -> Candidates {
        let mut candidates = Candidates::default();
        for own in [
            "/ip4/127.0.0.1/tcp/4384",
            "/ip4/192.168.1.2/tcp/4384",
            "/ip4/192.168.1.2/udp/4384/quic-v1",
        ] {
            candidates.listens(&parse(own));
        }
        candidates
    }

    fn sorted(mut addresses: Vec<Multiaddr>) -> Vec<String> {
        addresses.sort();
        addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_was_seen_is_tried_at_the_ports_that_are_listened_on() {
        let mut candidates = behind_a_router();
        assert!(
            candidates.take_new().is_empty(),
            "no own one is of the world"
        );
        // A port that a connection happened to leave from, and one that the router made.
        assert!(candidates.seen(witness(1, true), &parse("/ip4/9.9.9.9/tcp/50123")));
        assert!(candidates.seen(witness(1, true), &parse("/ip4/9.9.9.9/udp/61000/quic-v1")));
        assert_eq!(
            sorted(candidates.take_new()),
            [
                "/ip4/9.9.9.9/tcp/4384",
                "/ip4/9.9.9.9/udp/4384/quic-v1",
                "/ip4/9.9.9.9/udp/61000/quic-v1"
            ]
        );
        assert!(candidates.take_new().is_empty(), "each is tried once");
        candidates.try_again();
        assert_eq!(candidates.take_new().len(), 3);
        candidates.forget();
        assert!(candidates.take_new().is_empty());
    }

    #[test]
    fn nodes_that_met_others_over_one_transport_have_one_in_common_to_punch_by() {
        let candidates = behind_a_router();
        let over_tcp = candidates.punchable(&parse("/ip4/9.9.9.9/tcp/50123"));
        let over_quic = candidates.punchable(&parse("/ip4/9.9.9.9/udp/61000/quic-v1"));
        let own_ports = ["/ip4/9.9.9.9/tcp/4384", "/ip4/9.9.9.9/udp/4384/quic-v1"];
        assert_eq!(sorted(over_tcp), own_ports);
        let mapped = "/ip4/9.9.9.9/udp/61000/quic-v1";
        assert_eq!(sorted(over_quic), [&own_ports[..], &[mapped]].concat());
        // Nothing is listened on over IPv6.
        assert!(
            candidates
                .punchable(&parse("/ip6/2400::1/tcp/4384"))
                .is_empty()
        );
    }

    #[test]
    fn nobody_makes_this_node_try_what_only_a_network_reaches() {
        let mut candidates = behind_a_router();
        let relay = libp2p::PeerId::random();
        for lie in [
            "/ip4/192.168.1.1/tcp/80".to_owned(),
            "/ip4/127.0.0.1/tcp/22".to_owned(),
            "/ip4/100.64.1.1/udp/1/quic-v1".to_owned(),
            "/dns4/example.org/tcp/1".to_owned(),
            "/ip4/9.9.9.9/udp/53".to_owned(),
            format!("/ip4/9.9.9.9/tcp/1/p2p/{relay}/p2p-circuit"),
        ] {
            assert!(!candidates.seen(witness(1, true), &parse(&lie)), "{lie}");
        }
        assert!(candidates.take_new().is_empty());
        let private = [
            ("192.168.0.7:4384".parse().expect("a socket"), true),
            ("0.0.0.0:4384".parse().expect("a socket"), false),
        ];
        assert!(candidates.maps(&private).is_empty(), "such a mapping lies");
    }

    #[test]
    fn lies_of_those_that_come_leave_room_for_the_word_of_others() {
        let mut candidates = behind_a_router();
        for n in 0..500 {
            let lie = format!("/ip4/9.9.{}.{}/tcp/4384", n / 200, n % 200 + 1);
            candidates.seen(witness(1000 + n, false), &parse(&lie));
            candidates.take_new();
        }
        assert_eq!(candidates.seen.len(), MAX_SEEN_BY_INBOUND);
        assert_eq!(candidates.tried.len(), MAX_TRIED_BY_INBOUND);
        let truth = parse("/ip4/8.8.8.8/tcp/4384");
        assert!(candidates.seen(witness(1, true), &truth));
        assert_eq!(candidates.take_new(), std::slice::from_ref(&truth));
        // One site that this node dialled has its share, and no more.
        for n in 0..100 {
            let lie = format!("/ip4/7.7.7.{n}/tcp/4384");
            candidates.seen(witness(2, true), &parse(&lie));
        }
        let of_liar = candidates
            .seen
            .iter()
            .filter(|one| one.by == witness(2, true));
        assert_eq!(of_liar.count(), MAX_SEEN_BY_SITE);
        assert!(candidates.seen.iter().any(|one| one.address == truth));
        for n in 0..100 {
            let lie = format!("/ip4/7.7.8.{n}/tcp/4384");
            candidates.seen(witness(5000 + n, true), &parse(&lie));
            candidates.take_new();
        }
        assert_eq!(candidates.seen.len(), MAX_SEEN);
        assert!(candidates.tried.len() <= MAX_TRIED);
    }

    #[test]
    fn the_kind_of_router_shows_in_the_ports_that_others_see() {
        let quic = |port: u16| parse(&format!("/ip4/9.9.9.9/udp/{port}/quic-v1"));
        let mut candidates = behind_a_router();
        assert_eq!(candidates.nat(), Nat::Unknown);
        candidates.seen(witness(1, true), &quic(4384));
        assert_eq!(candidates.nat(), Nat::Some);
        // A port that a peer dialled says nothing of the router, nor do those of TCP.
        candidates.seen(witness(2, false), &quic(7));
        candidates.seen(witness(3, true), &parse("/ip4/9.9.9.9/tcp/5"));
        assert_eq!(candidates.nat(), Nat::Some);
        candidates.seen(witness(4, true), &quic(4384));
        assert_eq!(candidates.nat(), Nat::Cone);
        candidates.seen(witness(5, true), &quic(4385));
        assert_eq!(candidates.nat(), Nat::Symmetric);
        candidates.listens(&parse("/ip4/9.9.9.9/tcp/4384"));
        assert_eq!(candidates.nat(), Nat::None);
    }

    #[test]
    fn the_router_is_asked_for_ports_that_others_can_use() {
        assert_eq!(behind_a_router().ports(), (Some(4384), Some(4384)));
        let mut candidates = Candidates::default();
        candidates.listens(&parse("/ip4/127.0.0.1/tcp/1"));
        candidates.listens(&parse("/ip6/2a00::1/tcp/1"));
        assert_eq!(candidates.ports(), (None, None));
    }
}
