//! Where a node listens: which addresses it can't do without, and what is said of the others.
//!
//! - A busy port is an error whoever chose the address: another program, or another node, is there.
//! - A family of addresses (IPv4, IPv6) that the machine does not have is a warning whoever chose the address.
//! - Whatever else is wrong with an address is an error when a person chose it. Of the addresses that the program chose
//!   itself, one that works is enough.
//!
//! A listener on all addresses of a family that has none yet is kept: it hears as soon as there is one.
//!
//! Deliberately absent: listening itself (the driver does it).

use std::io;
use std::net::{IpAddr, SocketAddr};

use libp2p::Multiaddr;
use socket2::{Domain, Socket, Type};

use super::address;
use super::error::Error;

/// The families of which this machine has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Families {
    pub(super) v4: bool,
    pub(super) v6: bool,
}

impl Families {
    /// Those of which some interface has an address. Both when the system does not say.
    pub(super) fn of_this_machine() -> Self {
        let Ok(interfaces) = if_addrs::get_if_addrs() else {
            return Self { v4: true, v6: true };
        };
        Self {
            v4: interfaces.iter().any(|one| one.ip().is_ipv4()),
            v6: interfaces.iter().any(|one| one.ip().is_ipv6()),
        }
    }

    /// The name of the family of an address when the machine has none of it.
    fn missing(self, address: &Multiaddr) -> Option<&'static str> {
        match address::ip(address)? {
            IpAddr::V4(_) if !self.v4 => Some("IPv4"),
            IpAddr::V6(_) if !self.v6 => Some("IPv6"),
            _ => None,
        }
    }
}

/// Whether an address that is listened on is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The listener names its addresses in a moment.
    Wait,
    /// The machine has no such address at present.
    GoOn,
}

/// The addresses of one node that is starting.
pub(super) struct Listeners {
    families: Families,
    /// Whether a person chose the addresses.
    chosen: bool,
    bound: usize,
    first_failure: Option<Error>,
    warnings: Vec<String>,
}

impl Listeners {
    pub(super) const fn new(families: Families, chosen: bool) -> Self {
        Self {
            families,
            chosen,
            bound: 0,
            first_failure: None,
            warnings: Vec::new(),
        }
    }

    /// An address is listened on.
    pub(super) fn bound(&mut self, address: &Multiaddr) -> Verdict {
        self.bound += 1;
        match self.families.missing(address) {
            Some(family) => {
                self.warn_of_family(family);
                Verdict::GoOn
            }
            None => Verdict::Wait,
        }
    }

    /// An address is listened on, and the system names none that it stands for.
    pub(super) fn unnamed(&mut self, address: &Multiaddr) {
        let warning = format!("the system names no address for {address}: nobody may get through");
        self.warnings.push(warning);
    }

    /// An address can't be listened on.
    ///
    /// # Errors
    /// The failure, when the node can't do without the address.
    pub(super) fn failed(&mut self, failure: Error) -> Result<(), Error> {
        let Error::Listen { address, source } = &failure else {
            return Err(failure);
        };
        if source.kind() == io::ErrorKind::AddrInUse {
            return Err(failure);
        }
        match self.families.missing(address) {
            Some(family) => self.warn_of_family(family),
            None if is_family_unknown(source) => self.warnings.push(failure.to_string()),
            None if self.chosen => return Err(failure),
            None => self.warnings.push(failure.to_string()),
        }
        self.first_failure.get_or_insert(failure);
        Ok(())
    }

    /// What is to be said of addresses that don't work; the node goes on without them.
    ///
    /// # Errors
    /// The first failure, when no address can be listened on.
    pub(super) fn finish(self) -> Result<Vec<String>, Error> {
        match self.first_failure {
            Some(failure) if self.bound == 0 => Err(failure),
            _ => Ok(self.warnings),
        }
    }

    fn warn_of_family(&mut self, family: &str) {
        let warning = format!(
            "this machine has no {family} address: the node can't be reached over {family}"
        );
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }
}

/// Whether the system knows no such family, as Linux with `ipv6.disable=1`.
fn is_family_unknown(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

/// Fails when another program has the port of an address. libp2p's own TCP listener would not notice another one of the
/// same user: it shares its port, so that outgoing connections can come from it.
pub(super) fn check_free(address: &Multiaddr) -> io::Result<()> {
    match address::socket(address) {
        Some((address, is_tcp)) if address.port() != 0 => probe(address, is_tcp),
        _ => Ok(()),
    }
}

fn probe(address: SocketAddr, is_tcp: bool) -> io::Result<()> {
    let kind = if is_tcp { Type::STREAM } else { Type::DGRAM };
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        // As the listener itself: else it would collide with this node's own one for IPv4.
        socket.set_only_v6(true)?;
    }
    if is_tcp {
        // Connections of an earlier run that are still closing hold no port.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())?;
    if is_tcp { socket.listen(1) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Families = Families { v4: true, v6: true };
    const V4: Families = Families {
        v4: true,
        v6: false,
    };
    const NONE: Families = Families {
        v4: false,
        v6: false,
    };

    fn parse(text: &str) -> Multiaddr {
        text.parse().expect("an address")
    }

    fn failure(address: &str, kind: io::ErrorKind) -> Error {
        Error::Listen {
            address: parse(address),
            source: kind.into(),
        }
    }

    #[test]
    fn a_busy_port_is_an_error_whoever_chose_it() {
        for chosen in [true, false] {
            let mut listeners = Listeners::new(BOTH, chosen);
            assert_eq!(listeners.bound(&parse("/ip4/0.0.0.0/tcp/1")), Verdict::Wait);
            let failed = listeners.failed(failure("/ip6/::/tcp/1", io::ErrorKind::AddrInUse));
            assert!(failed.is_err());
        }
    }

    #[test]
    fn what_else_is_wrong_counts_for_chosen_addresses_alone() {
        let wrong = || failure("/ip4/192.0.2.1/tcp/1", io::ErrorKind::AddrNotAvailable);
        assert!(Listeners::new(BOTH, true).failed(wrong()).is_err());
        let mut listeners = Listeners::new(BOTH, false);
        listeners.failed(wrong()).expect("one of several");
        listeners.bound(&parse("/ip4/0.0.0.0/tcp/1"));
        let warnings = listeners.finish().expect("one works");
        assert!(warnings[0].contains("192.0.2.1"), "{warnings:?}");
        let mut listeners = Listeners::new(BOTH, false);
        listeners.failed(wrong()).expect("perhaps another works");
        assert!(listeners.finish().is_err(), "none works");
    }

    #[test]
    fn a_family_that_the_machine_lacks_is_told_once() {
        for chosen in [true, false] {
            let mut listeners = Listeners::new(V4, chosen);
            assert_eq!(listeners.bound(&parse("/ip4/0.0.0.0/tcp/1")), Verdict::Wait);
            assert_eq!(listeners.bound(&parse("/ip6/::/tcp/1")), Verdict::GoOn);
            let refused = failure("/ip6/::1/tcp/1", io::ErrorKind::AddrNotAvailable);
            listeners.failed(refused).expect("no IPv6 here");
            let warnings = listeners.finish().expect("IPv4 works");
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            assert!(warnings[0].contains("no IPv6 address"));
        }
    }

    #[test]
    fn a_machine_without_any_address_listens_for_when_it_has_one() {
        let mut listeners = Listeners::new(NONE, false);
        for address in ["/ip4/0.0.0.0/tcp/1", "/ip6/::/tcp/1"] {
            assert_eq!(listeners.bound(&parse(address)), Verdict::GoOn);
        }
        assert_eq!(listeners.finish().expect("it starts").len(), 2);
    }

    #[test]
    fn both_families_may_have_the_same_port() {
        let Ok(v6) = std::net::TcpListener::bind("[::1]:0") else {
            eprintln!("skipped: this machine has no IPv6");
            return;
        };
        let port = v6.local_addr().expect("bound").port();
        let taken = parse(&format!("/ip6/::1/tcp/{port}"));
        let error = check_free(&taken).expect_err("it is taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        // A listener for IPv4 on all addresses is none for IPv6.
        let v4 = std::net::TcpListener::bind("0.0.0.0:0").expect("a port");
        let port = v4.local_addr().expect("bound").port();
        check_free(&parse(&format!("/ip6/::/tcp/{port}"))).expect("free for IPv6");
        let taken = parse(&format!("/ip4/0.0.0.0/tcp/{port}"));
        assert!(check_free(&taken).is_err());
    }

    #[test]
    fn a_busy_udp_port_is_noticed() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        let port = socket.local_addr().expect("bound").port();
        let taken = parse(&format!("/ip4/127.0.0.1/udp/{port}/quic-v1"));
        let error = check_free(&taken).expect_err("it is taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
