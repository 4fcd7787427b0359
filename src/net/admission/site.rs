//! Where connections come from. Pure.

use std::net::IpAddr;

use libp2p::Multiaddr;

use crate::net::address;

/// Addresses that one person is likely to have all of: an IPv4 address, or the 64 bits of an IPv6
/// one that a line gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::net) struct Site(IpAddr);

/// The first bits of an address.
fn prefix(ip: IpAddr, bits_of_v4: u32, bits_of_v6: u32) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX << (u32::BITS - bits_of_v4);
            IpAddr::V4((u32::from(ip) & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX << (u128::BITS - bits_of_v6);
            IpAddr::V6((u128::from(ip) & mask).into())
        }
    }
}

impl Site {
    /// The site of an address.
    pub(in crate::net) fn of_ip(ip: IpAddr) -> Self {
        Self(prefix(ip.to_canonical(), 32, 64))
    }

    /// The site that a multiaddress is at; none when it does not begin with an IP address.
    pub(in crate::net) fn of(address: &Multiaddr) -> Option<Self> {
        address::ip(address).map(Self::of_ip)
    }

    /// Addresses that a provider is likely to have all of: many sites.
    pub(in crate::net) fn region(self) -> Self {
        match self.is_near() {
            true => self,
            false => Self(prefix(self.0, 24, 48)),
        }
    }

    /// Whether it is this machine or the local network, where several nodes behind one address are
    /// nothing unusual.
    pub(in crate::net) fn is_near(self) -> bool {
        address::is_near_ip(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(ip: &str) -> Site {
        Site::of_ip(ip.parse().expect("an address"))
    }

    #[test]
    fn a_site_is_an_ipv4_address_or_half_of_an_ipv6_one() {
        assert_eq!(site("198.51.100.7"), site("::ffff:198.51.100.7"));
        assert_ne!(site("198.51.100.7"), site("198.51.100.8"));
        assert_eq!(site("2001:db8::1"), site("2001:db8:0:0:ffff::2"));
        assert_ne!(site("2001:db8::1"), site("2001:db8:0:1::1"));
        assert_eq!(
            site("2001:db8::1").region(),
            site("2001:db8:0:1::1").region()
        );
        assert_eq!(site("198.51.100.7").region(), site("198.51.100.8").region());
        assert_ne!(site("192.168.1.7").region(), site("192.168.1.8").region());
        let tcp = "/ip4/127.0.0.1/tcp/1".parse().expect("an address");
        assert!(Site::of(&tcp).is_some_and(Site::is_near));
        let memory = "/memory/1".parse().expect("an address");
        assert_eq!(Site::of(&memory), None);
    }
}
