//! What addresses are good for. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use libp2p::core::ConnectedPoint;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// Longest address of a peer that is looked at, in bytes.
const MAX_BYTES: usize = 256;
/// Longest name of a host, and longest part of one (RFC 1035).
const MAX_NAME_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// The IP address that an address starts with.
pub(super) fn ip(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// The socket address of an address, and whether it is one of TCP; else it is one of UDP.
pub(super) fn socket(address: &Multiaddr) -> Option<(SocketAddr, bool)> {
    match address.iter().nth(1)? {
        Protocol::Tcp(port) => Some((SocketAddr::new(ip(address)?, port), true)),
        Protocol::Udp(port) => Some((SocketAddr::new(ip(address)?, port), false)),
        _ => None,
    }
}

/// Whether it is reachable only from the same machine.
pub(super) fn is_loopback(address: &Multiaddr) -> bool {
    ip(address).is_some_and(|ip| ip.is_loopback())
}

/// Whether it is on the same machine or in a private network, where a direct TCP path is the rule.
pub(super) fn is_near(address: &Multiaddr) -> bool {
    ip(address).is_some_and(is_near_ip)
}

/// As [`is_near`], of an IP address.
pub(super) fn is_near_ip(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// Whether it is a QUIC address of the peer itself: over a relay's a stream is taken, not QUIC.
pub(super) fn is_quic(address: &Multiaddr) -> bool {
    let is_part = |part| matches!(part, Protocol::QuicV1 | Protocol::Quic);
    !is_relayed(address) && address.iter().any(is_part)
}

/// Whether an address leads through a relay: its IP address is the relay's, and says nothing of
/// where the peer is.
pub(super) fn is_relayed(address: &Multiaddr) -> bool {
    address
        .iter()
        .any(|part| matches!(part, Protocol::P2pCircuit))
}

/// The relay of an address through one, without its peer id, and that id; none for any other
/// address, and for one that is not plain up to the relay.
pub(super) fn relay_of(address: &Multiaddr) -> Option<(Multiaddr, PeerId)> {
    let is_circuit = |part: &Protocol<'_>| matches!(part, Protocol::P2pCircuit);
    let relay: Multiaddr = address
        .iter()
        .take_while(|part| !is_circuit(part))
        .collect();
    let mut rest = address.iter().skip_while(|part| !is_circuit(part)).skip(1);
    let end = (rest.next(), rest.next());
    let is_whole = matches!(end, (None, _) | (Some(Protocol::P2p(_)), None));
    let fits = is_relayed(address) && is_whole && address.len() <= MAX_BYTES && is_plain(&relay);
    let peer = peer_of(&relay).filter(|_| fits)?;
    Some((without_peer(relay), peer))
}

/// The address at the other end of a connection. Of one that came through a relay only the relay's
/// is known, which stands in for it.
pub(super) fn remote(peer: PeerId, endpoint: &ConnectedPoint) -> Multiaddr {
    match endpoint {
        ConnectedPoint::Dialer { address, .. } => address.clone(),
        ConnectedPoint::Listener {
            local_addr,
            send_back_addr,
        } => remote_of_inbound(peer, local_addr, send_back_addr),
    }
}

/// As [`remote`], of a connection that came.
pub(super) fn remote_of_inbound(peer: PeerId, local: &Multiaddr, from: &Multiaddr) -> Multiaddr {
    if !is_relayed(local) {
        return from.clone();
    }
    let circuit = without_peer(local.clone());
    circuit.with_p2p(peer).unwrap_or_else(|_| from.clone())
}

/// Distance over which the other end of a connection is reached. Relays and names may lead
/// anywhere.
pub(super) fn distance(remote: &Multiaddr) -> Reach {
    match is_relayed(remote) {
        true => Reach::World,
        false => reach(remote).unwrap_or(Reach::World),
    }
}

/// Whether an address is of use to somebody at a distance: over the internet only one that can be
/// reached from everywhere, and never one that this machine alone can use to another machine.
pub(super) fn is_tellable(address: &Multiaddr, distance: Reach) -> bool {
    match address.iter().next() {
        // A name is a person's choice, and resolved by whoever uses it. A port without a host, as
        // services have it, names no place.
        Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) | Protocol::Tcp(_)) => true,
        _ => reach(address).is_some_and(|reach| reach <= distance),
    }
}

/// The peer at the end of an address.
pub(super) fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last()? {
        Protocol::P2p(peer) => Some(peer),
        _ => None,
    }
}

/// An address without the peer at its end.
pub(super) fn without_peer(mut address: Multiaddr) -> Multiaddr {
    if peer_of(&address).is_some() {
        address.pop();
    }
    address
}

/// Whether an address needs to be said which interface it is of: multiaddresses of this kind can't.
pub(super) fn is_link_local(address: &Multiaddr) -> bool {
    matches!(ip(address), Some(IpAddr::V6(ip)) if ip.is_unicast_link_local())
}

/// From where an address can be reached; the narrower, the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Reach {
    /// From everywhere.
    World,
    /// From a private network.
    Network,
    /// From one link.
    Link,
    /// From this machine only. Addresses in the memory of this process count as such.
    Machine,
}

/// From where an address can be reached, as far as the address itself shows. None for names, which
/// say nothing, and for addresses that nobody can be at: unspecified, multicast, reserved, and
/// those that stand for an IPv4 address in IPv6.
pub(super) fn reach(address: &Multiaddr) -> Option<Reach> {
    match address.iter().next()? {
        Protocol::Memory(_) => Some(Reach::Machine),
        Protocol::Ip4(ip) => reach_v4(ip),
        Protocol::Ip6(ip) => reach_v6(ip),
        _ => None,
    }
}

/// IPv4, by the registry of special addresses (RFC 6890).
fn reach_v4(ip: Ipv4Addr) -> Option<Reach> {
    match ip.octets() {
        [0 | 224..=255, ..] => None,
        [127, ..] => Some(Reach::Machine),
        [169, 254, ..] => Some(Reach::Link),
        // Between a provider and its customers, between test devices, and of protocols.
        [100, 64..=127, ..] | [198, 18 | 19, ..] | [192, 0, 0, _] => Some(Reach::Network),
        _ if ip.is_private() => Some(Reach::Network),
        _ => Some(Reach::World),
    }
}

fn reach_v6(ip: Ipv6Addr) -> Option<Reach> {
    match ip.segments() {
        _ if ip.is_loopback() => Some(Reach::Machine),
        _ if ip.is_unicast_link_local() => Some(Reach::Link),
        _ if ip.is_unique_local() => Some(Reach::Network),
        // Tunnels carry an IPv4 address, which may be a private one.
        [0x2002, ..] | [0x2001, 0, ..] => None,
        [0x2000..=0x3fff, ..] => Some(Reach::World),
        _ => None,
    }
}

/// Whether an address is one of TCP or QUIC on an IP address, or one in memory, with at most a
/// peer id at its end. An address through a relay is not: see [`relay_of`].
pub(super) fn is_plain(address: &Multiaddr) -> bool {
    let mut parts = address.iter();
    let transport = match parts.next() {
        Some(Protocol::Memory(_)) => true,
        Some(Protocol::Ip4(_) | Protocol::Ip6(_)) => match parts.next() {
            Some(Protocol::Tcp(port)) => port != 0,
            Some(Protocol::Udp(port)) => {
                port != 0 && matches!(parts.next(), Some(Protocol::QuicV1))
            }
            _ => false,
        },
        _ => false,
    };
    let end = (parts.next(), parts.next());
    transport
        && address.len() <= MAX_BYTES
        && matches!(end, (None, _) | (Some(Protocol::P2p(_)), None))
}

/// Whether an address that somebody else tells can be dialled, when the one who is to be there is
/// known from `seen_at`. Names of others are not resolved. A loopback address of another machine
/// would lead to ourselves, and one of a single link does not say which interface it is of. An
/// address through a relay can be dialled when the relay's can.
pub(super) fn is_dialable(address: &Multiaddr, seen_at: Option<&Multiaddr>) -> bool {
    let is_machine =
        |address: &Multiaddr| !is_relayed(address) && reach(address) == Some(Reach::Machine);
    let is_alike =
        |at: &Multiaddr| !is_machine(address) || (is_machine(at) && same_kind(address, at));
    (is_plain(address) || relay_of(address).is_some())
        && reach(address).is_some()
        && !is_link_local(address)
        && seen_at.is_none_or(is_alike)
}

/// Whether an address is one of the internet, as far as the address itself shows.
pub fn is_outside(address: &Multiaddr) -> bool {
    reach(address) == Some(Reach::World)
}

/// Addresses of this node for others to dial, at most so many. Where there are `confirmed` ones
/// those alone, one of a relay among them if there is one. Otherwise those that it listens on, of
/// the internet first, then of private networks, TCP before QUIC; and those that only this machine
/// reaches where there is nothing else.
pub fn to_pass_on(confirmed: &[Multiaddr], listening: &[Multiaddr], most: usize) -> Vec<Multiaddr> {
    let mut chosen: Vec<Multiaddr> = Vec::new();
    let mut add = |address: &Multiaddr, room: usize| {
        let address = without_peer(address.clone());
        if chosen.len() < room && !chosen.contains(&address) {
            chosen.push(address);
        }
    };
    let (relayed, direct): (Vec<_>, Vec<_>) =
        confirmed.iter().partition(|address| is_relayed(address));
    let for_relays = usize::from(!relayed.is_empty());
    for address in direct {
        add(address, most.saturating_sub(for_relays));
    }
    for address in relayed {
        add(address, most);
    }
    if !confirmed.is_empty() {
        return chosen;
    }
    let plain = listening.iter().filter(|address| is_plain(address));
    let ranged = plain.filter_map(|address| Some((reach(address)?, is_quic(address), address)));
    let mut ranged: Vec<_> = ranged.filter(|(range, ..)| *range != Reach::Link).collect();
    ranged.sort_by_key(|(range, is_quic, _)| (*range, *is_quic));
    let has_wider = ranged.iter().any(|(range, ..)| *range < Reach::Machine);
    for (range, _, address) in ranged {
        if !has_wider || range < Reach::Machine {
            add(address, most);
        }
    }
    chosen
}

/// Address of a peer as people write it: a multiaddress, of names too (`/dns`, `/dns4`, `/dns6`,
/// `/dnsaddr`), or `HOST:PORT`, which means TCP.
///
/// # Errors
/// Fault of the text.
pub fn parse_peer(text: &str) -> Result<Multiaddr, String> {
    let text = text.trim();
    if text.starts_with('/') {
        let parsed = text.parse::<Multiaddr>();
        let address = parsed.map_err(|error| format!("'{text}' is not a multiaddress: {error}"))?;
        let is_right = |part: Protocol<'_>| match part {
            Protocol::Dns(name)
            | Protocol::Dns4(name)
            | Protocol::Dns6(name)
            | Protocol::Dnsaddr(name) => is_host_name(&name),
            _ => true,
        };
        return match !address.is_empty() && address.iter().all(is_right) {
            true => Ok(address),
            false => Err(format!("'{text}' names no host")),
        };
    }
    let wrong = || format!("'{text}' is neither a multiaddress nor HOST:PORT");
    if let Ok(at) = text.parse::<SocketAddr>() {
        let ip = match at.ip() {
            IpAddr::V4(ip) => Protocol::Ip4(ip),
            IpAddr::V6(ip) => Protocol::Ip6(ip),
        };
        return match at.port() {
            0 => Err(wrong()),
            port => Ok(Multiaddr::from(ip).with(Protocol::Tcp(port))),
        };
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse::<u16>().ok().filter(|port| *port > 0);
    let port = port.ok_or_else(wrong)?;
    if !is_host_name(host) {
        return Err(wrong());
    }
    Ok(Multiaddr::from(Protocol::Dns(host.into())).with(Protocol::Tcp(port)))
}

/// Whether a text can be the name of a host (RFC 1123), with underscores as some have them.
fn is_host_name(host: &str) -> bool {
    let is_label = |label: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        (1..=MAX_LABEL_BYTES).contains(&label.len()) && label.chars().all(plain)
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    name.len() <= MAX_NAME_BYTES && name.split('.').all(is_label)
}

/// As [`is_dialable`], of an address of a peer whose place is not known otherwise.
pub fn is_dialable_of(address: &Multiaddr) -> bool {
    is_dialable(address, None)
}

fn same_kind(a: &Multiaddr, b: &Multiaddr) -> bool {
    let is_memory =
        |address: &Multiaddr| matches!(address.iter().next(), Some(Protocol::Memory(_)));
    is_memory(a) == is_memory(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Multiaddr {
        text.parse().expect("an address")
    }

    #[test]
    fn what_can_be_dialled() {
        let lan = parse("/ip4/192.168.1.7/tcp/5000");
        let local = parse("/ip4/127.0.0.1/tcp/5000");
        for (address, from_lan, from_local) in [
            ("/ip4/192.168.1.2/tcp/1", true, true),
            ("/ip4/192.168.1.2/udp/1/quic-v1", true, true),
            ("/ip4/192.168.1.2/udp/1", false, false),
            ("/ip4/127.0.0.1/tcp/1", false, true),
            ("/ip6/::1/tcp/1", false, true),
            ("/ip6/fd00::1/tcp/1", true, true),
            ("/ip6/fe80::1/tcp/1", false, false),
            ("/ip6/::ffff:10.0.0.1/tcp/1", false, false),
            ("/ip4/0.0.0.0/tcp/1", false, false),
            ("/ip4/10.0.0.1/tcp/0", false, false),
            ("/dns4/example.org/tcp/1", false, false),
            ("/ip4/192.168.1.2/tcp/1/ws", false, false),
            ("/ip4/255.255.255.255/tcp/1", false, false),
            ("/memory/1", false, false),
            ("/unix/x", false, false),
        ] {
            let address = parse(address);
            assert_eq!(is_dialable(&address, Some(&lan)), from_lan, "{address}");
            assert_eq!(is_dialable(&address, Some(&local)), from_local, "{address}");
        }
        assert!(is_dialable(&parse("/memory/1"), Some(&parse("/memory/2"))));
    }

    #[test]
    fn an_address_through_a_relay_names_the_relay() {
        let (relay, peer) = (PeerId::random(), PeerId::random());
        let at = parse("/ip4/8.8.8.8/udp/1/quic-v1");
        for (end, is_whole) in [
            ("/p2p-circuit".to_owned(), true),
            (format!("/p2p-circuit/p2p/{peer}"), true),
            (format!("/p2p-circuit/p2p/{peer}/p2p-circuit"), false),
            (format!("/p2p-circuit/ip4/10.0.0.1/tcp/1/p2p/{peer}"), false),
            (String::new(), false),
        ] {
            let address = parse(&format!("{at}/p2p/{relay}{end}"));
            let expected = is_whole.then(|| (at.clone(), relay));
            assert_eq!(relay_of(&address), expected, "{address}");
            assert_eq!(is_dialable(&address, None), is_whole || end.is_empty());
            assert_eq!(is_quic(&address), end.is_empty(), "{address}");
        }
        for text in [
            format!("/ip4/8.8.8.8/tcp/1/p2p-circuit/p2p/{peer}"),
            format!("/dns4/example.org/tcp/1/p2p/{relay}/p2p-circuit"),
            format!("/ip4/8.8.8.8/tcp/0/p2p/{relay}/p2p-circuit"),
        ] {
            assert_eq!(relay_of(&parse(&text)), None, "{text}");
            assert!(!is_dialable(&parse(&text), None), "{text}");
        }
    }

    #[test]
    fn private_addresses_are_told_to_the_private_network_alone() {
        let relay = PeerId::random();
        let far = format!("/ip4/8.8.8.8/tcp/1/p2p/{relay}/p2p-circuit");
        let near = format!("/ip4/192.168.1.9/tcp/1/p2p/{relay}/p2p-circuit");
        for (address, to_world, to_network, to_machine) in [
            ("/ip4/8.8.4.4/tcp/1", true, true, true),
            ("/dns4/example.org/tcp/1", true, true, true),
            (far.as_str(), true, true, true),
            ("/ip4/192.168.1.2/tcp/1", false, true, true),
            ("/ip4/100.64.0.1/tcp/1", false, true, true),
            ("/ip6/fd00::1/tcp/1", false, true, true),
            (near.as_str(), false, true, true),
            ("/ip4/127.0.0.1/tcp/1", false, false, true),
            ("/ip4/0.0.0.0/tcp/1", false, false, false),
        ] {
            let to = |remote: &str| is_tellable(&parse(address), distance(&parse(remote)));
            assert_eq!(to("/ip4/198.51.100.7/tcp/9"), to_world, "{address}");
            assert_eq!(to("/dns4/example.com/tcp/9"), to_world, "{address}");
            assert_eq!(to(&near), to_world, "a relay leads anywhere: {address}");
            assert_eq!(to("/ip4/192.168.1.7/tcp/9"), to_network, "{address}");
            assert_eq!(to("/ip4/127.0.0.1/tcp/9"), to_machine, "{address}");
        }
    }

    #[test]
    fn addresses_that_are_passed_on() {
        let all = |texts: &[&str]| texts.iter().map(|text| parse(text)).collect::<Vec<_>>();
        let chosen = |confirmed: &[&str], listening: &[&str]| {
            let chosen = to_pass_on(&all(confirmed), &all(listening), 4);
            chosen.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let peer = PeerId::random();
        let relay = format!("/ip4/8.8.4.4/tcp/1/p2p/{peer}/p2p-circuit");
        let local = ["/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1"];
        let mixed = [
            "/ip4/127.0.0.1/tcp/1",
            "/ip6/fe80::1/tcp/1",
            "/ip4/10.0.0.2/udp/1/quic-v1",
            "/ip4/10.0.0.2/tcp/1",
            "/ip4/0.0.0.0/tcp/1",
            "/ip6/2a00:1450::1/udp/1/quic-v1",
            "/ip6/2a00:1450::1/tcp/1",
            "/ip4/192.168.7.2/tcp/1",
        ];
        assert_eq!(
            chosen(&[], &mixed),
            [mixed[6], mixed[5], mixed[3], mixed[7]],
            "wider ones first, TCP first"
        );
        assert_eq!(chosen(&[], &local), local, "nothing else is there");
        let with_id = format!("/ip4/10.0.0.2/tcp/1/p2p/{peer}");
        assert_eq!(
            chosen(&[], &[&with_id, "/ip4/10.0.0.2/tcp/1"]),
            ["/ip4/10.0.0.2/tcp/1"]
        );
        let world: Vec<String> = (1..6).map(|n| format!("/ip4/8.8.8.{n}/tcp/1")).collect();
        let mut confirmed: Vec<&str> = world.iter().map(String::as_str).collect();
        assert_eq!(
            chosen(&confirmed, &mixed),
            world[..4],
            "what works, and no more"
        );
        confirmed.insert(0, &relay);
        let expected = [&world[0], &world[1], &world[2], &relay];
        assert_eq!(
            chosen(&confirmed, &mixed).iter().collect::<Vec<_>>(),
            expected
        );
        assert_eq!(chosen(&[&relay], &mixed), [relay.as_str()]);
        assert!(chosen(&[], &["/ip6/fe80::1/tcp/1"]).is_empty());
    }

    #[test]
    fn peers_as_people_write_them() {
        let long = format!("{}.org:1", "a".repeat(64));
        for (text, expected) in [
            ("/ip4/192.0.2.7/tcp/4384", Some("/ip4/192.0.2.7/tcp/4384")),
            ("/dns4/example.org/tcp/1", Some("/dns4/example.org/tcp/1")),
            ("/dnsaddr/example.org", Some("/dnsaddr/example.org")),
            (" example.org:4384\n", Some("/dns/example.org/tcp/4384")),
            ("nas:1", Some("/dns/nas/tcp/1")),
            ("a_b.example.org.:1", Some("/dns/a_b.example.org./tcp/1")),
            ("192.0.2.7:4384", Some("/ip4/192.0.2.7/tcp/4384")),
            ("[2001:db8::1]:4384", Some("/ip6/2001:db8::1/tcp/4384")),
            ("", None),
            ("/", None),
            ("/dns4/", None),
            ("/dns4//tcp/1", None),
            ("/dnsaddr/a b", None),
            ("example.org", None),
            ("example.org:0", None),
            ("192.0.2.7:0", None),
            ("example.org:65536", None),
            ("2001:db8::1:70000", None),
            (":1", None),
            ("a..b:1", None),
            ("a b:1", None),
            ("http://example.org:1", None),
            (long.as_str(), None),
            ("/ip4/1.2.3/tcp/1", None),
        ] {
            let found = parse_peer(text).ok().map(|address| address.to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn from_where_an_address_can_be_reached() {
        for (text, expected) in [
            ("/ip4/127.3.2.1/tcp/1", Some(Reach::Machine)),
            ("/ip6/::1/tcp/1", Some(Reach::Machine)),
            ("/memory/7", Some(Reach::Machine)),
            ("/ip4/169.254.169.254/tcp/80", Some(Reach::Link)),
            ("/ip6/fe80::1/tcp/1", Some(Reach::Link)),
            ("/ip4/10.1.2.3/tcp/1", Some(Reach::Network)),
            ("/ip4/172.16.0.1/tcp/1", Some(Reach::Network)),
            ("/ip4/192.168.0.1/tcp/1", Some(Reach::Network)),
            ("/ip4/100.64.0.1/tcp/1", Some(Reach::Network)),
            ("/ip6/fd00::1/tcp/1", Some(Reach::Network)),
            ("/ip4/8.8.8.8/tcp/1", Some(Reach::World)),
            ("/ip6/2a00:1450::1/tcp/1", Some(Reach::World)),
            ("/ip4/0.0.0.0/tcp/1", None),
            ("/ip4/224.0.0.251/tcp/1", None),
            ("/ip4/255.255.255.255/tcp/1", None),
            ("/ip6/::/tcp/1", None),
            ("/ip6/ff02::1/tcp/1", None),
            ("/ip6/::ffff:127.0.0.1/tcp/1", None),
            ("/ip6/64:ff9b::7f00:1/tcp/1", None),
            ("/ip6/2002:7f00:1::/tcp/1", None),
            ("/dns4/localhost/tcp/1", None),
        ] {
            assert_eq!(reach(&parse(text)), expected, "{text}");
        }
    }

    #[test]
    fn near_and_far() {
        for near in [
            "/ip4/10.1.2.3/tcp/1",
            "/ip4/127.0.0.1/tcp/1",
            "/ip6/fe80::1/tcp/1",
            "/ip6/fd00::1/tcp/1",
        ] {
            assert!(is_near(&parse(near)), "{near}");
        }
        for far in [
            "/ip4/8.8.8.8/tcp/1",
            "/ip6/2001:db8::1/tcp/1",
            "/dns4/a/tcp/1",
            "/memory/1",
        ] {
            assert!(!is_near(&parse(far)), "{far}");
        }
    }

    #[test]
    fn the_peer_at_the_end() {
        let peer = PeerId::random();
        let bare = parse("/ip4/10.0.0.1/tcp/1");
        let full = bare.clone().with_p2p(peer).expect("no peer yet");
        assert_eq!((peer_of(&full), peer_of(&bare)), (Some(peer), None));
        assert_eq!(without_peer(full), bare);
        assert_eq!(without_peer(bare.clone()), bare);
    }
}
