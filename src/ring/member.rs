//! What is known of a member.

use libp2p::{Multiaddr, PeerId};

use crate::time::Timestamp;

/// Longest name of a machine, in bytes; longer ones are cut.
pub const MAX_MEMBER_NAME_BYTES: usize = 64;
/// Most addresses of one member that are remembered and passed on.
pub const MAX_ADDRESSES: usize = 4;
/// Longest name of a place, in bytes.
pub const MAX_PLACE_BYTES: usize = 64;
/// Longest address that is remembered, in bytes.
pub const MAX_ADDRESS_BYTES: usize = 128;

/// A member as far as known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The node.
    pub peer: PeerId,
    /// What its machine is called, as it or another member says; empty while unknown.
    pub name: String,
    /// When this node last saw it connected; 0: never, another member told of it.
    pub last_seen: Timestamp,
    /// Where it can be reached, without the peer id.
    pub addresses: Vec<Multiaddr>,
    /// Number of the generation in which this node itself first saw the member prove to be one;
    /// none: hearsay. An older generation's secret is no proof for it.
    pub proven: Option<u32>,
    /// Place where the member stands, as the person of this node says; empty when nobody said. The
    /// place is told to no other node.
    pub place: String,
}

/// A name as it may be stored and shown: no control characters, not too long.
pub fn clean_name(name: &str) -> String {
    let mut clean = String::new();
    for c in name.chars().filter(|c| !c.is_control()) {
        if clean.len() + c.len_utf8() > MAX_MEMBER_NAME_BYTES {
            break;
        }
        clean.push(c);
    }
    clean
}

/// The addresses that are worth remembering.
pub(super) fn clean_addresses(addresses: impl IntoIterator<Item = Multiaddr>) -> Vec<Multiaddr> {
    let mut clean: Vec<Multiaddr> = Vec::new();
    for address in addresses {
        if address.len() <= MAX_ADDRESS_BYTES && !address.is_empty() && !clean.contains(&address) {
            clean.push(address);
        }
        if clean.len() == MAX_ADDRESSES {
            break;
        }
    }
    clean
}
