//! What addresses are good for. Pure.

use std::net::{IpAddr, SocketAddr};

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// Longest address of a peer that is looked at, in bytes.
const MAX_BYTES: usize = 256;

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

/// Whether it is a QUIC address.
pub(super) fn is_quic(address: &Multiaddr) -> bool {
    address
        .iter()
        .any(|part| matches!(part, Protocol::QuicV1 | Protocol::Quic))
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

/// Whether we can dial an address that a peer says it listens on, when we know it from `seen_at`: unspecified addresses say
/// nothing, and a loopback address of another machine would lead to ourselves.
pub(super) fn is_dialable(address: &Multiaddr, seen_at: Option<&Multiaddr>) -> bool {
    let transport = address.iter().nth(1);
    let kind = match address.iter().next() {
        Some(Protocol::Memory(_)) => return seen_at.is_none_or(|at| same_kind(address, at)),
        Some(Protocol::Ip4(ip)) => !ip.is_unspecified() && !ip.is_multicast(),
        Some(Protocol::Ip6(ip)) => {
            let is_v4 = ip.to_ipv4_mapped().is_some();
            !ip.is_unspecified() && !ip.is_multicast() && !ip.is_unicast_link_local() && !is_v4
        }
        Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_)) => true,
        _ => false,
    };
    kind && address.len() <= MAX_BYTES
        && (matches!(transport, Some(Protocol::Tcp(port)) if port != 0) || is_quic(address))
        && (!is_loopback(address) || seen_at.is_none_or(is_loopback))
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
            ("/dns4/example.org/tcp/1", true, true),
            ("/memory/1", false, false),
            ("/unix/x", false, false),
        ] {
            let address = parse(address);
            assert_eq!(is_dialable(&address, Some(&lan)), from_lan, "{address}");
            assert_eq!(is_dialable(&address, Some(&local)), from_local, "{address}");
        }
        assert!(is_dialable(&parse("/memory/1"), Some(&parse("/memory/2"))));
        let long = format!("/dns4/{}/tcp/1", "a".repeat(MAX_BYTES));
        assert!(!is_dialable(&parse(&long), None));
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
