//! Tickets: a link and where it can be had, in one word to copy.
//!
//! Text: `lnticket` and base32 (RFC 4648 in small letters, without padding) of
//!
//! | bytes | |
//! |---|---|
//! | 1 | version, 1 |
//! | 1 and so many | length of the root's multihash, and the multihash |
//! | 32 | key |
//! | 1 and so many | length of the node's peer id, and the peer id |
//! | 1 | number of addresses, 1 to [`MAX_ADDRESSES`] |
//! | for each 1 and so many | length of a binary multiaddress without the node's peer id, and the address |
//! | 4 | check: the start of BLAKE3 in key derivation mode over all that is before |
//!
//! A ticket is as secret as its link. It says where a node was when the ticket was made, and proves
//! nothing: the handshake proves who is there, and each block its id. Deliberately absent:
//! dialling.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use zeroize::Zeroizing;

use super::Link;
use crate::crypto::hash;
use crate::crypto::key::Key;
use crate::id::BlockId;

/// Start of every ticket's text.
pub const SCHEME: &str = "lnticket";
/// Most addresses in one ticket: who has it dials no more.
pub const MAX_ADDRESSES: usize = 4;
/// Longest address in one, in bytes.
const MAX_ADDRESS_BYTES: usize = 160;
/// Longest text that is looked at. The largest ticket is shorter.
const MAX_TEXT_BYTES: usize = 2048;
/// The version that is written and read.
const VERSION: u8 = 1;
const KEY_BYTES: usize = 32;
const CHECK_BYTES: usize = 4;
const CHECK_CONTEXT: &str = "libernet 2026-11 ticket v1";

/// A link and where it can be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    link: Link,
    peer: PeerId,
    addresses: Vec<Multiaddr>,
}

/// Fault of a ticket. No message repeats any of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError {
    /// The text has not the form of a ticket.
    #[error("this is no ticket: one is {SCHEME} and small letters and digits")]
    Form,
    /// The check does not fit.
    #[error("the ticket is mistyped or cut")]
    Check,
    /// The version is not known.
    #[error("the ticket has version {0}, and this libernet knows version {VERSION}")]
    Version(u8),
    /// The check fits, and what is in it is none.
    #[error("the ticket holds what no ticket holds")]
    Malformed,
    /// Nothing to make a ticket of.
    #[error("a ticket has 1 to {MAX_ADDRESSES} addresses")]
    Addresses,
}

impl Ticket {
    /// A ticket for `link`, which the node `peer` has at `addresses`; with or without its peer id
    /// at their ends.
    ///
    /// # Errors
    /// [`TicketError::Addresses`] when there are none or too many, or one is too long.
    pub fn new(
        link: Link,
        peer: PeerId,
        addresses: impl IntoIterator<Item = Multiaddr>,
    ) -> Result<Self, TicketError> {
        let own = Protocol::P2p(peer);
        let bare = addresses.into_iter().map(|mut address| {
            if address.iter().last().is_some_and(|last| last == own) {
                address.pop();
            }
            address
        });
        let addresses: Vec<Multiaddr> = bare.take(MAX_ADDRESSES + 1).collect();
        let is_right = (1..=MAX_ADDRESSES).contains(&addresses.len())
            && addresses
                .iter()
                .all(|address| (1..=MAX_ADDRESS_BYTES).contains(&address.len()));
        match is_right {
            true => Ok(Self {
                link,
                peer,
                addresses,
            }),
            false => Err(TicketError::Addresses),
        }
    }

    /// The link in it.
    pub const fn link(&self) -> &Link {
        &self.link
    }

    /// The addresses, each with the peer id that must be there.
    pub fn addresses(&self) -> Vec<Multiaddr> {
        let full = self.addresses.iter().cloned();
        full.map(|address| address.with(Protocol::P2p(self.peer)))
            .collect()
    }

    /// Whether the text is meant to be a ticket, right or wrong.
    pub fn is_meant(text: &str) -> bool {
        text.get(..SCHEME.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(SCHEME))
    }

    fn payload(&self) -> Zeroizing<Vec<u8>> {
        let id = self.link.id.to_multihash();
        let peer = self.peer.to_bytes();
        let addresses: Vec<Vec<u8>> = self.addresses.iter().map(Multiaddr::to_vec).collect();
        let long = addresses.iter().map(|address| address.len() + 1);
        let len = 5 + id.len() + KEY_BYTES + peer.len() + long.sum::<usize>() + CHECK_BYTES;
        // With room for all of it, so that growing leaves no copies of the key behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(len));
        bytes.push(VERSION);
        push(&mut bytes, &id);
        bytes.extend_from_slice(self.link.key.as_bytes());
        push(&mut bytes, &peer);
        bytes.extend(u8::try_from(addresses.len()));
        for address in &addresses {
            push(&mut bytes, address);
        }
        let check = check(&bytes);
        bytes.extend_from_slice(&check);
        bytes
    }

    /// Reads what is behind the version.
    fn parse(rest: &[u8]) -> Option<Self> {
        let mut rest = rest;
        let id = BlockId::from_multihash(take_long(&mut rest)?).ok()?;
        let key: [u8; KEY_BYTES] = take(&mut rest, KEY_BYTES)?.try_into().ok()?;
        let key = Key::new(key);
        let peer = PeerId::from_bytes(take_long(&mut rest)?).ok()?;
        let count = usize::from(*take(&mut rest, 1)?.first()?);
        if count > MAX_ADDRESSES {
            return None;
        }
        let mut addresses = Vec::with_capacity(count);
        for _ in 0..count {
            let bytes = take_long(&mut rest)?.to_vec();
            addresses.push(Multiaddr::try_from(bytes).ok()?);
        }
        let ticket = Self::new(Link { id, key }, peer, addresses).ok()?;
        rest.is_empty().then_some(ticket)
    }
}

/// Bytes after their length, which fits one byte: ids and addresses of tickets are short.
fn push(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend(u8::try_from(part.len()));
    bytes.extend_from_slice(part);
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (part, behind) = rest.split_at_checked(len)?;
    *rest = behind;
    Some(part)
}

fn take_long<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::from(*take(rest, 1)?.first()?);
    take(rest, len)
}

fn check(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let [a, b, c, d, ..] = hash::derive_key(CHECK_CONTEXT, bytes);
    [a, b, c, d]
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let payload = self.payload();
        let mut text = Zeroizing::new(BASE32_NOPAD.encode(&payload));
        text.make_ascii_lowercase();
        write!(f, "{SCHEME}{}", *text)
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        let text = text.trim();
        if !Self::is_meant(text) || text.len() > MAX_TEXT_BYTES {
            return Err(TicketError::Form);
        }
        // A code for cameras may hold it in capitals.
        let letters = Zeroizing::new(text[SCHEME.len()..].to_ascii_uppercase());
        let bytes = BASE32_NOPAD.decode(letters.as_bytes());
        let bytes = Zeroizing::new(bytes.map_err(|_| TicketError::Check)?);
        let at = bytes.len().checked_sub(CHECK_BYTES);
        let (payload, given) = at
            .and_then(|at| bytes.split_at_checked(at))
            .ok_or(TicketError::Check)?;
        if check(payload) != given {
            return Err(TicketError::Check);
        }
        match payload.split_first() {
            Some((&VERSION, rest)) => Self::parse(rest).ok_or(TicketError::Malformed),
            Some((version, _)) => Err(TicketError::Version(*version)),
            None => Err(TicketError::Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PEER: &str = "12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X";
    const RELAY: &str = "12D3KooWH3uVF6wv47WnArKHk5p6cvgCJEb74UTmxztmQDc298L3";
    /// Tickets as version 1 writes them, worked out by another program.
    const GOLDEN: &str = include_str!("ticket_v1.txt");

    fn link() -> Link {
        Link {
            id: BlockId::from_sha384([0x5a; 48]),
            key: Key::new([0xa5; 32]),
        }
    }

    fn address(text: &str) -> Multiaddr {
        text.parse().expect("an address")
    }

    fn ticket(addresses: &[&str]) -> Ticket {
        let peer = PEER.parse().expect("a peer");
        let addresses = addresses.iter().map(|text| address(text));
        Ticket::new(link(), peer, addresses).expect("right")
    }

    fn of_payload(mut payload: Vec<u8>) -> String {
        let check = check(&payload);
        payload.extend_from_slice(&check);
        format!(
            "{SCHEME}{}",
            BASE32_NOPAD.encode(&payload).to_ascii_lowercase()
        )
    }

    #[test]
    fn tickets_of_version_1() {
        let mut lines = GOLDEN.lines();
        for addresses in [
            &["/ip4/192.0.2.7/tcp/4384"][..],
            &[
                "/ip4/192.0.2.7/udp/4384/quic-v1",
                "/ip6/2001:db8::7/tcp/4384",
                &format!("/ip4/192.0.2.9/tcp/4384/p2p/{RELAY}/p2p-circuit"),
                "/dns4/example.org/tcp/4384",
            ],
        ] {
            let ticket = ticket(addresses);
            let line = lines.next().expect("a golden ticket");
            assert_eq!(ticket.to_string(), line);
            assert_eq!(line.parse(), Ok(ticket.clone()));
            assert_eq!(line.to_ascii_uppercase().parse(), Ok(ticket.clone()));
            let full = addresses.iter().map(|text| format!("{text}/p2p/{PEER}"));
            let full: Vec<Multiaddr> = full.map(|text| address(&text)).collect();
            assert_eq!(ticket.addresses(), full);
            assert_eq!(ticket.link(), &link());
            assert!(
                line.bytes().all(|byte| byte.is_ascii_alphanumeric()),
                "one word"
            );
            assert!(line.len() < MAX_TEXT_BYTES);
        }
        assert_eq!(lines.next(), None);
        let with_id = format!("/ip4/192.0.2.7/tcp/4384/p2p/{PEER}");
        assert_eq!(ticket(&[&with_id]), ticket(&["/ip4/192.0.2.7/tcp/4384"]));
    }

    #[test]
    fn a_ticket_has_at_least_one_address_and_at_most_four() {
        let peer = PEER.parse().expect("a peer");
        let some = |count: usize| {
            let all = (0..count).map(|n| address(&format!("/ip4/192.0.2.{n}/tcp/1")));
            Ticket::new(link(), peer, all).map(|_| ())
        };
        assert_eq!(some(0), Err(TicketError::Addresses));
        assert_eq!(some(1), Ok(()));
        assert_eq!(some(MAX_ADDRESSES), Ok(()));
        assert_eq!(some(MAX_ADDRESSES + 1), Err(TicketError::Addresses));
        let named = |len: usize| {
            // Two bytes stand before a name, and three for the port.
            let name = address(&format!("/dns4/{}/tcp/1", "a".repeat(len - 7)));
            Ticket::new(link(), peer, [name]).map(|ticket| {
                let text = ticket.to_string();
                assert_eq!(text.parse(), Ok(ticket));
                text.len()
            })
        };
        assert!(named(100).is_ok());
        assert_eq!(named(400), Err(TicketError::Addresses));
        let long = ticket(&["/ip4/192.0.2.1/tcp/1"]);
        assert!(Ticket::new(link(), long.peer, [Multiaddr::empty()]).is_err());
    }

    #[test]
    fn every_changed_character_and_every_cut_shows() {
        let text = ticket(&["/ip4/192.0.2.7/tcp/4384"]).to_string();
        for at in SCHEME.len()..text.len() {
            let mut other = text.clone().into_bytes();
            other[at] = if other[at] == b'a' { b'b' } else { b'a' };
            let other = String::from_utf8(other).expect("ASCII");
            let found = other.parse::<Ticket>();
            assert!(
                found.is_err() || found.as_ref().ok() == text.parse().as_ref().ok(),
                "{at}"
            );
            assert!(text[..at].parse::<Ticket>().is_err(), "{at}");
        }
        for text in [
            "",
            "lnticket",
            "lnticket!",
            "libernet:x",
            &"lnticketa".repeat(500),
        ] {
            assert!(text.parse::<Ticket>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_right_check_makes_no_right_ticket() {
        let mut newer = ticket(&["/ip4/192.0.2.7/tcp/4384"]).payload().to_vec();
        newer.truncate(newer.len() - CHECK_BYTES);
        let whole = newer.clone();
        newer[0] = VERSION + 1;
        assert_eq!(
            of_payload(newer).parse::<Ticket>(),
            Err(TicketError::Version(VERSION + 1))
        );
        assert!(of_payload(whole.clone()).parse::<Ticket>().is_ok());
        let longer = [&whole[..], &[0]].concat();
        assert_eq!(
            of_payload(longer).parse::<Ticket>(),
            Err(TicketError::Malformed)
        );
        for len in 0..whole.len() {
            let cut = of_payload(whole[..len].to_vec());
            assert_eq!(cut.parse::<Ticket>(), Err(TicketError::Malformed), "{len}");
        }
        let count = 1 + 1 + whole[1] as usize + KEY_BYTES;
        let count = count + 1 + whole[count] as usize;
        for other in [0, 2, 5, 255] {
            let mut wrong = whole.clone();
            wrong[count] = other;
            assert_eq!(
                of_payload(wrong).parse::<Ticket>(),
                Err(TicketError::Malformed)
            );
        }
    }

    #[test]
    fn the_key_is_in_no_message() {
        let ticket = ticket(&["/ip4/192.0.2.7/tcp/4384"]);
        let shown = format!("{ticket:?}");
        assert!(!shown.contains(&**ticket.link.key.to_hex()), "{shown}");
        assert!(!shown.contains("165, 165"), "{shown}");
    }

    proptest! {
        #[test]
        fn any_text_gives_an_answer(
            text in ".{0,80}",
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = text.parse::<Ticket>();
            let _ = format!("{SCHEME}{text}").parse::<Ticket>();
            let mut payload = bytes.clone();
            let _ = of_payload(bytes).parse::<Ticket>();
            payload.insert(0, VERSION);
            if let Ok(ticket) = of_payload(payload).parse::<Ticket>() {
                prop_assert_eq!(ticket.to_string().parse(), Ok(ticket));
            }
        }
    }
}
