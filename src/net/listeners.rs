//! Where a node listens: which addresses it can't do without, and what is said of the others.
//!
//! - A busy port is an error whoever chose the address: another program, or another node, is there.
//! - A family of addresses (IPv4, IPv6) that the machine does not have is a warning whoever chose
//!   the address.
//! - Whatever else is wrong with an address is an error when a person chose it. Of the addresses
//!   that the program chose itself, one that works is enough.
//!
//! A listener on all addresses of a family that has none yet is kept: it hears as soon as there is
//! one.
//!
//! Deliberately absent: listening itself (the driver does it).

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};

use libp2p::Multiaddr;
use libp2p::core::transport::ListenerId;
use socket2::{Domain, Socket, Type};

use super::address;
use super::error::Error;

/// The addresses of this machine, each with whether a listener names it. The system tells of links
/// from point to point, such as those of a VPN, by the address of the other end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Machine(Option<HashMap<IpAddr, bool>>);

impl Machine {
    /// The addresses that the system tells of.
    pub(super) fn this() -> Self {
        let interfaces = if_addrs::get_if_addrs().ok();
        Self(interfaces.map(|all| all.iter().map(|one| (one.ip(), !one.is_p2p)).collect()))
    }

    /// The name of the family of an address when the machine has none of it.
    fn missing(&self, address: &Multiaddr) -> Option<&'static str> {
        let (ip, known) = (address::ip(address)?, self.0.as_ref()?);
        let has_family = known.keys().any(|known| known.is_ipv4() == ip.is_ipv4());
        match ip {
            _ if has_family => None,
            IpAddr::V4(_) => Some("IPv4"),
            IpAddr::V6(_) => Some("IPv6"),
        }
    }

    /// The addresses that one to listen on stands for, as far as known.
    fn meant(&self, address: &Multiaddr) -> HashSet<IpAddr> {
        let Some(ip) = address::ip(address) else {
            return HashSet::new();
        };
        if !ip.is_unspecified() {
            return HashSet::from([ip]);
        }
        let known = self.0.iter().flatten();
        let named = known.filter(|(known, named)| **named && known.is_ipv4() == ip.is_ipv4());
        named.map(|(known, _)| *known).collect()
    }
}

/// A listener whose addresses are waited for.
struct Waiting {
    id: ListenerId,
    address: Multiaddr,
    /// Whether it has named one.
    named: bool,
    /// Addresses that it has yet to name.
    left: HashSet<IpAddr>,
}

/// The listeners of one node that is starting.
pub(super) struct Listeners {
    machine: Machine,
    /// Whether a person chose the addresses.
    chosen: bool,
    bound: usize,
    waiting: Vec<Waiting>,
    first_failure: Option<Error>,
    warnings: Vec<String>,
}

impl Listeners {
    pub(super) const fn new(machine: Machine, chosen: bool) -> Self {
        Self {
            machine,
            chosen,
            bound: 0,
            waiting: Vec::new(),
            first_failure: None,
            warnings: Vec::new(),
        }
    }

    /// An address is listened on.
    pub(super) fn bound(&mut self, id: ListenerId, address: &Multiaddr) {
        self.bound += 1;
        match self.machine.missing(address) {
            Some(family) => self.warn_of_family(family),
            None => self.waiting.push(Waiting {
                id,
                address: address.clone(),
                named: false,
                left: self.machine.meant(address),
            }),
        }
    }

    /// A listener names one of its addresses.
    pub(super) fn named(&mut self, id: ListenerId, address: &Multiaddr) {
        if let Some(one) = self.waiting.iter_mut().find(|one| one.id == id) {
            one.named = true;
            if let Some(ip) = address::ip(address) {
                one.left.remove(&ip);
            }
        }
    }

    /// The address of a listener that is waited for.
    pub(super) fn address(&self, id: ListenerId) -> Option<&Multiaddr> {
        let mut waiting = self.waiting.iter();
        waiting.find(|one| one.id == id).map(|one| &one.address)
    }

    /// Whether some listener has yet to name an address.
    pub(super) fn wait_for_a_first(&self) -> bool {
        self.waiting.iter().any(|one| !one.named)
    }

    /// Whether some listener has yet to name one of its addresses.
    pub(super) fn wait_for_others(&self) -> bool {
        self.waiting.iter().any(|one| !one.left.is_empty())
    }

    /// It takes too long: the ports are this node's, and it hears once the system names an address.
    pub(super) fn give_up(&mut self) {
        for one in self.waiting.drain(..).filter(|one| !one.named) {
            self.warnings.push(format!(
                "the system names no address for {}: nobody may get through",
                one.address
            ));
        }
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
        match self.machine.missing(address) {
            Some(family) => self.warn_of_family(family),
            None if is_family_unknown(source) => self.warnings.push(failure.to_string()),
            None if self.chosen => return Err(failure),
            None => self.warnings.push(failure.to_string()),
        }
        self.first_failure.get_or_insert(failure);
        Ok(())
    }

    /// Warnings about addresses that don't work; the node goes on without them.
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

/// Fails when another program has the port of an address. libp2p's own TCP listener would not
/// notice another one of the same user: it shares its port, so that outgoing connections can come
/// from it.
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

    fn machine(addresses: &[&str]) -> Machine {
        let parsed = addresses
            .iter()
            .map(|ip| (ip.parse().expect("an address"), true));
        Machine(Some(parsed.collect()))
    }

    fn both() -> Machine {
        machine(&["127.0.0.1", "10.0.0.1", "::1"])
    }

    fn parse(text: &str) -> Multiaddr {
        text.parse().expect("an address")
    }

    fn failure(address: &str, kind: io::ErrorKind) -> Error {
        Error::Listen {
            address: parse(address),
            source: kind.into(),
        }
    }

    /// Listens on an address of which a listener names `names`. Whether a first one, and others,
    /// are waited for.
    fn bind(listeners: &mut Listeners, address: &str, names: &[&str]) -> (bool, bool) {
        let id = ListenerId::next();
        listeners.bound(id, &parse(address));
        names
            .iter()
            .for_each(|name| listeners.named(id, &parse(name)));
        (listeners.wait_for_a_first(), listeners.wait_for_others())
    }

    #[test]
    fn all_addresses_of_the_machine_are_waited_for() {
        let mut listeners = Listeners::new(both(), false);
        let all = "/ip4/0.0.0.0/tcp/1";
        assert_eq!(
            bind(&mut listeners, "/memory/1", &["/memory/1"]),
            (false, false)
        );
        let one = bind(
            &mut listeners,
            "/ip4/10.0.0.1/tcp/1",
            &["/ip4/10.0.0.1/tcp/1"],
        );
        assert_eq!(one, (false, false));
        assert_eq!(
            bind(&mut listeners, all, &["/ip4/10.0.0.1/tcp/1"]),
            (false, true)
        );
        assert_eq!(bind(&mut listeners, all, &[]), (true, true));
        listeners.give_up();
        assert!(!listeners.wait_for_a_first());
        let warnings = listeners.finish().expect("they are bound");
        assert_eq!(warnings.len(), 1, "{warnings:?}");
    }

    #[test]
    fn a_busy_port_is_an_error_whoever_chose_it() {
        for chosen in [true, false] {
            let mut listeners = Listeners::new(both(), chosen);
            bind(&mut listeners, "/ip4/0.0.0.0/tcp/1", &[]);
            let failed = listeners.failed(failure("/ip6/::/tcp/1", io::ErrorKind::AddrInUse));
            assert!(failed.is_err());
        }
    }

    #[test]
    fn what_else_is_wrong_counts_for_chosen_addresses_alone() {
        let wrong = || failure("/ip4/192.0.2.1/tcp/1", io::ErrorKind::AddrNotAvailable);
        assert!(Listeners::new(both(), true).failed(wrong()).is_err());
        let mut listeners = Listeners::new(both(), false);
        listeners.failed(wrong()).expect("one of several");
        bind(&mut listeners, "/ip4/0.0.0.0/tcp/1", &[]);
        let warnings = listeners.finish().expect("one works");
        assert!(warnings[0].contains("192.0.2.1"), "{warnings:?}");
        let mut listeners = Listeners::new(both(), false);
        listeners.failed(wrong()).expect("perhaps another works");
        assert!(listeners.finish().is_err(), "none works");
    }

    #[test]
    fn a_family_that_the_machine_lacks_is_told_once_and_not_waited_for() {
        for chosen in [true, false] {
            let mut listeners = Listeners::new(machine(&["10.0.0.1"]), chosen);
            let v4 = bind(
                &mut listeners,
                "/ip4/0.0.0.0/tcp/1",
                &["/ip4/10.0.0.1/tcp/1"],
            );
            assert_eq!(v4, (false, false));
            assert_eq!(bind(&mut listeners, "/ip6/::/tcp/1", &[]), (false, false));
            let refused = failure("/ip6/::1/tcp/1", io::ErrorKind::AddrNotAvailable);
            listeners.failed(refused).expect("no IPv6 here");
            let warnings = listeners.finish().expect("IPv4 works");
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            assert!(warnings[0].contains("no IPv6 address"));
        }
    }

    #[test]
    fn a_machine_without_any_address_listens_for_when_it_has_one() {
        let mut listeners = Listeners::new(machine(&[]), false);
        for address in ["/ip4/0.0.0.0/tcp/1", "/ip6/::/tcp/1"] {
            assert_eq!(bind(&mut listeners, address, &[]), (false, false));
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
