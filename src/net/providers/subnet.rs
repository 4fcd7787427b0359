//! Subnets: what stands for one owner of addresses where peer ids cost nothing.

use std::net::IpAddr;

use libp2p::Multiaddr;

use super::stored::Unreadable;
use crate::net::address::ip;

/// Whence a record came: the first 24 bits of an IPv4 address, the first 48 of an IPv6 address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Subnet {
    /// This process, or nothing is known.
    #[default]
    None,
    V4([u8; 3]),
    V6([u8; 6]),
}

impl Subnet {
    /// The subnet of an address.
    pub(super) fn of(address: &Multiaddr) -> Self {
        match ip(address) {
            Some(IpAddr::V4(ip)) => {
                let [a, b, c, _] = ip.octets();
                Self::V4([a, b, c])
            }
            Some(IpAddr::V6(ip)) => {
                let [a, b, c, d, e, f, ..] = ip.octets();
                Self::V6([a, b, c, d, e, f])
            }
            None => Self::None,
        }
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        match self {
            Self::None => Vec::new(),
            Self::V4(bytes) => bytes.to_vec(),
            Self::V6(bytes) => bytes.to_vec(),
        }
    }

    /// # Errors
    /// [`Unreadable`] for bytes of any other length.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, Unreadable> {
        if bytes.is_empty() {
            return Ok(Self::None);
        }
        let v4 = bytes.try_into().map(Self::V4);
        v4.or_else(|_| bytes.try_into().map(Self::V6))
            .map_err(|_| Unreadable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_are_read_as_written() {
        for (text, bytes) in [
            ("/ip4/203.0.113.7/tcp/1", &[203, 0, 113][..]),
            ("/ip6/2001:db8:1:2::3/tcp/1", &[0x20, 1, 0xd, 0xb8, 0, 1]),
            ("/memory/1", &[]),
            ("/dns4/example.org/tcp/1", &[]),
        ] {
            let subnet = Subnet::of(&text.parse().expect("an address"));
            assert_eq!(subnet.to_bytes(), bytes, "{text}");
            assert_eq!(Subnet::from_bytes(bytes), Ok(subnet));
        }
        assert_eq!(Subnet::from_bytes(&[1]), Err(Unreadable));
    }
}
