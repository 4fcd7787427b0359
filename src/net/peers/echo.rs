//! Listens on the local network for announcements of this node's own id, which mDNS passes over.
//!
//! A node hears its own announcements, too: whoever asks has to know its own addresses. Only the
//! text of an address is taken from a packet, and what it claims is to be checked by dialling.
//! Where the system hands multicast only to sockets that have joined its group (not Linux) nothing
//! is heard.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll};

use libp2p::PeerId;
use libp2p::core::Multiaddr;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;

use crate::net::address::without_peer;

const MDNS_PORT: u16 = 5353;
/// Largest packet that mDNS allows.
const MAX_PACKET_BYTES: usize = 9000;
/// Packets that are looked at before others have their turn.
const PACKETS_AT_ONCE: usize = 16;
/// Most addresses that are taken from one packet.
const MAX_FOUND: usize = 8;
/// The text before an address in a packet, as libp2p's specification of mDNS has it.
const BEFORE: &[u8] = b"dnsaddr=";

/// Sockets that hear what others multicast, one for each family: Linux hands packets of IPv4 to
/// none of IPv6 that has not joined their group.
pub(super) struct Echo {
    sockets: Vec<UdpSocket>,
    /// The text behind an address of this node.
    needle: Vec<u8>,
    buffer: Box<[u8]>,
}

impl Echo {
    /// Listens beside whoever else does on this machine, over each family that it has.
    ///
    /// # Errors
    /// The system's error, when there is none.
    pub(super) fn open(local: PeerId) -> std::io::Result<Self> {
        let v4 = open(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, MDNS_PORT).into());
        let v6 = open(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, MDNS_PORT).into());
        let sockets = match (v4, v6) {
            (Ok(v4), Ok(v6)) => vec![v4, v6],
            (Ok(one), Err(_)) | (Err(_), Ok(one)) => vec![one],
            (Err(error), Err(_)) => return Err(error),
        };
        Ok(Self {
            sockets,
            needle: format!("/p2p/{local}").into_bytes(),
            buffer: vec![0; MAX_PACKET_BYTES].into(),
        })
    }

    /// Addresses at which somebody says that this node is.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Vec<Multiaddr>> {
        for socket in &self.sockets {
            for turn in 0.. {
                if turn == PACKETS_AT_ONCE {
                    cx.waker().wake_by_ref();
                    break;
                }
                let mut packet = ReadBuf::new(&mut self.buffer);
                match socket.poll_recv_from(cx, &mut packet) {
                    Poll::Ready(Ok(_)) => {
                        let found = find(packet.filled(), &self.needle);
                        if !found.is_empty() {
                            return Poll::Ready(found);
                        }
                    }
                    Poll::Ready(Err(error)) => {
                        tracing::debug!(%error, "a packet of the local network could not be read");
                    }
                    Poll::Pending => break,
                }
            }
        }
        Poll::Pending
    }
}

fn open(domain: Domain, address: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// The addresses in a packet that stand before `needle`.
fn find(packet: &[u8], needle: &[u8]) -> Vec<Multiaddr> {
    let ends = packet.windows(needle.len()).enumerate();
    let ends = ends.filter_map(|(at, window)| (window == needle).then_some(at));
    let texts = ends.filter_map(|end| {
        // A text in a packet has one byte for its length.
        let text = &packet[end.saturating_sub(255)..end];
        let before = text
            .windows(BEFORE.len())
            .rposition(|window| window == BEFORE)?;
        std::str::from_utf8(&text[before + BEFORE.len()..]).ok()
    });
    let addresses = texts.filter_map(|text| text.parse::<Multiaddr>().ok());
    addresses.map(without_peer).take(MAX_FOUND).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_of_this_node_are_found_in_a_packet() {
        let (own, other) = (PeerId::random(), PeerId::random());
        let needle = format!("/p2p/{own}").into_bytes();
        let mut packet = vec![0, 0, 0x84, 0];
        for (address, peer) in [
            ("/ip4/10.0.0.2/tcp/4384", own),
            ("/ip4/10.0.0.3/tcp/4384", other),
            ("/ip6/fd00::2/tcp/4384", own),
            ("no address", own),
        ] {
            let text = format!("dnsaddr={address}/p2p/{peer}");
            packet.push(text.len() as u8);
            packet.extend(text.as_bytes());
        }
        let found: Vec<String> = find(&packet, &needle)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(found, ["/ip4/10.0.0.2/tcp/4384", "/ip6/fd00::2/tcp/4384"]);
    }

    proptest! {
        #[test]
        fn any_packet_is_looked_at(packet in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(find(&packet, b"/p2p/x").len() <= MAX_FOUND);
        }
    }
}
