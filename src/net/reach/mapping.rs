//! Asks the router to pass a port on, by UPnP, NAT-PMP and PCP.
//!
//! The `portmapper` crate does the asking, on tasks of its own: here it is only looked what came of
//! it. A router may promise anything: what it says is a candidate, which counts once somebody
//! outside has come through.

use std::net::{SocketAddr, SocketAddrV4};
use std::num::NonZeroU16;
use std::time::Duration;

use portmapper::{Client, Config, Protocol};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Mapping;

/// Time in which a router says which of the three it speaks.
const PROBE: Duration = Duration::from_secs(3);
/// A router that has promised nothing is asked again after so long.
const AGAIN: Duration = Duration::from_secs(5 * 60);

/// One port.
struct Port {
    port: NonZeroU16,
    client: Client,
    promised: watch::Receiver<Option<SocketAddrV4>>,
}

impl Port {
    fn open(port: NonZeroU16, protocol: Protocol) -> Self {
        let client = Client::new(Config {
            protocol,
            ..Config::default()
        });
        Self {
            port,
            promised: client.watch_external_address(),
            client,
        }
    }
}

/// Next step with a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Find out what it speaks.
    Probe,
    /// Ask for the ports.
    Ask,
}

/// Ports that the router is asked for. Dropped, it asks no more, and what was promised runs out.
pub(super) struct Mapper {
    is_on: bool,
    /// Over TCP and UDP.
    ports: [Option<Port>; 2],
    step: Step,
    due: Instant,
}

impl Mapper {
    pub(super) fn new(is_on: bool) -> Self {
        Self {
            is_on,
            ports: [None, None],
            step: Step::Probe,
            due: Instant::now(),
        }
    }

    /// Does what is due. To be called now and then, inside a runtime, with the ports of TCP and UDP
    /// that this node listens on.
    pub(super) fn tick(&mut self, ports: (Option<u16>, Option<u16>), now: Instant) {
        if !self.is_on {
            return;
        }
        let wanted = [(ports.0, Protocol::Tcp), (ports.1, Protocol::Udp)];
        for (held, (port, protocol)) in self.ports.iter_mut().zip(wanted) {
            let port = port.and_then(NonZeroU16::new);
            if held.as_ref().map(|held| held.port) != port {
                *held = port.map(|port| Port::open(port, protocol));
                (self.step, self.due) = (Step::Probe, now);
            }
        }
        let open = self.ports.iter().flatten();
        if self.due > now || open.clone().all(|port| port.promised.borrow().is_some()) {
            return;
        }
        match self.step {
            Step::Probe => {
                // The answer is kept by the client; nobody else waits for it.
                open.for_each(|port| drop(port.client.probe()));
                (self.step, self.due) = (Step::Ask, now + PROBE);
            }
            Step::Ask => {
                for port in open {
                    port.client.update_local_port(port.port);
                    port.client.procure_mapping();
                }
                (self.step, self.due) = (Step::Probe, now + AGAIN);
            }
        }
    }

    /// The network is another one: so is the router.
    pub(super) fn forget(&mut self, now: Instant) {
        self.ports = [None, None];
        (self.step, self.due) = (Step::Probe, now);
    }

    /// Addresses that the router promised, each with whether it is of TCP.
    pub(super) fn promised(&self) -> Vec<(SocketAddr, bool)> {
        let ports = self.ports.iter().zip([true, false]);
        let promised = ports.filter_map(|(port, is_tcp)| {
            let address = (*port.as_ref()?.promised.borrow())?;
            Some((SocketAddr::V4(address), is_tcp))
        });
        promised.collect()
    }

    /// State of the port mapping, for people.
    pub(super) fn state(&self) -> Mapping {
        let promised = self.promised();
        match promised.is_empty() {
            _ if !self.is_on => Mapping::Off,
            true => Mapping::Asked,
            false => Mapping::Promised(promised.into_iter().map(|(at, _)| at).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_router_is_left_alone_unless_it_is_to_be_asked() {
        // No runtime is there, so that asking would fail loudly.
        let mut mapper = Mapper::new(false);
        mapper.tick((Some(1), Some(1)), Instant::now());
        assert_eq!(mapper.state(), Mapping::Off);
        let mut mapper = Mapper::new(true);
        mapper.tick((None, Some(0)), Instant::now());
        assert_eq!(mapper.state(), Mapping::Asked);
        assert!(mapper.promised().is_empty());
    }
}
