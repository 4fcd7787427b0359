//! Notices that this machine's network has changed, or that the machine has slept: connections of
//! before are dead then, without a word.
//!
//! The addresses that a machine has say little: programs that run containers make and remove some
//! all the time. It is the address that packets to the world leave from that counts, and whether
//! its link is up; on a network that leads nowhere else, all addresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::time::Instant;

use crate::time::Timestamp;

/// A machine whose clock has gone on so much longer than its timers has slept.
const SLEPT: Duration = Duration::from_secs(20);

/// Addresses that this machine's packets leave from, each with whether its link is up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ways(BTreeSet<(IpAddr, bool)>);

impl Ways {
    /// As it is now. Asks the system, and sends nothing.
    pub(super) fn now() -> Self {
        // The address is of those that are never given out: the route alone counts.
        let v4 = (
            Ipv4Addr::UNSPECIFIED.into(),
            Ipv4Addr::new(203, 0, 113, 1).into(),
        );
        let there = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
        let v6 = (Ipv6Addr::UNSPECIFIED.into(), there.into());
        let sources: Vec<IpAddr> = [v4, v6].into_iter().filter_map(source).collect();
        let all = if_addrs::get_if_addrs().unwrap_or_default();
        let counts = |ip: &IpAddr| match sources.is_empty() {
            true => !ip.is_loopback() && !is_link_local(ip),
            false => sources.contains(ip),
        };
        let links = all.iter().map(|one| (one.ip(), one.is_oper_up()));
        Self(links.filter(|(ip, _)| counts(ip)).collect())
    }

    /// Whether packets have a way at all.
    fn is_up(&self) -> bool {
        self.0.iter().any(|(_, is_up)| *is_up)
    }
}

fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// The address that packets to another one would leave from.
fn source((here, there): (IpAddr, IpAddr)) -> Option<IpAddr> {
    let socket = UdpSocket::bind(SocketAddr::new(here, 0)).ok()?;
    socket.connect(SocketAddr::new(there, 9)).ok()?;
    let source = socket.local_addr().ok()?.ip();
    (!source.is_unspecified() && !source.is_loopback()).then_some(source)
}

/// Difference between two looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The first network since the start is there: nothing that was learned is of another one.
    Came,
    /// The network is another one, or back, or the machine has slept.
    Other,
}

/// The last look. Pure.
#[derive(Debug, Default)]
pub(super) struct Network {
    ways: Option<Ways>,
    /// Whether there was a network at any look.
    was_up: bool,
    /// By the clock and by the timers.
    at: Option<(Timestamp, Instant)>,
}

impl Network {
    /// The change since the last look. A network that only goes away is no change yet: there is
    /// nobody to be reached.
    pub(super) fn look(&mut self, ways: Ways, clock: Timestamp, now: Instant) -> Option<Change> {
        let slept = self.at.replace((clock, now)).is_some_and(|(then, at)| {
            clock.since(then) >= now.saturating_duration_since(at) + SLEPT
        });
        let is_up = ways.is_up();
        let was_up = self.was_up;
        self.was_up |= is_up;
        let last = self.ways.replace(ways);
        let is_other = last.is_some_and(|last| Some(&last) != self.ways.as_ref());
        let change = match was_up {
            true => Change::Other,
            false => Change::Came,
        };
        (is_up && (slept || is_other)).then_some(change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways(all: &[(&str, bool)]) -> Ways {
        let parsed = all
            .iter()
            .map(|(ip, is_up)| (ip.parse().expect("an address"), *is_up));
        Ways(parsed.collect())
    }

    #[test]
    fn another_network_and_one_that_is_back_are_noticed_once() {
        let mut network = Network::default();
        let (start, clock) = (Instant::now(), Timestamp(1_000_000));
        let mut seconds = 0;
        let mut look = |all: &[(&str, bool)]| {
            seconds += 5;
            let passed = Duration::from_secs(seconds);
            network.look(ways(all), clock.after(passed), start + passed)
        };
        let home = &[("192.168.1.2", true)][..];
        assert_eq!(look(home), None, "the first look tells nothing");
        assert_eq!(look(home), None);
        assert_eq!(look(&[("192.168.1.2", false)]), None, "the cable is out");
        assert_eq!(look(home), Some(Change::Other), "and in again");
        assert_eq!(look(&[]), None, "no network at all");
        let elsewhere = &[("10.0.0.7", true)][..];
        assert_eq!(look(elsewhere), Some(Change::Other), "another Wi-Fi");
        assert_eq!(look(elsewhere), None);
    }

    #[test]
    fn the_first_network_is_no_other_one() {
        let mut network = Network::default();
        let (start, clock) = (Instant::now(), Timestamp(1_000_000));
        let mut look = |all: &[(&str, bool)]| network.look(ways(all), clock, start);
        assert_eq!(look(&[]), None);
        assert_eq!(
            look(&[("192.168.1.2", false)]),
            None,
            "a link that comes up"
        );
        let home = &[("192.168.1.2", true)][..];
        assert_eq!(look(home), Some(Change::Came));
        assert_eq!(look(&[("192.168.1.2", false)]), None);
        assert_eq!(look(home), Some(Change::Other));
    }

    #[test]
    fn a_machine_that_has_slept_is_noticed() {
        let mut network = Network::default();
        let (now, clock) = (Instant::now(), Timestamp(1_000_000));
        let home = || ways(&[("192.168.1.2", true)]);
        assert_eq!(network.look(home(), clock, now), None);
        let tick = Duration::from_secs(5);
        let (hour, clock) = (Duration::from_secs(3600), clock.after(tick));
        assert_eq!(network.look(home(), clock, now + tick), None);
        let slept = network.look(home(), clock.after(hour), now + 2 * tick);
        assert_eq!(slept, Some(Change::Other));
        // A clock that is put back says nothing.
        assert_eq!(network.look(home(), clock, now + 3 * tick), None);
    }

    #[test]
    fn the_system_is_asked_without_an_error() {
        let ways = Ways::now();
        assert!(ways.0.iter().all(|(ip, _)| !ip.is_loopback()), "{ways:?}");
    }
}
