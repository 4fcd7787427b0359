//! Libp2p's own metrics: counters that its events are recorded in, and their text for Prometheus.
//!
//! Labels come from libp2p: kinds of addresses, protocols and errors. Strangers choose some of
//! what is counted, so an event whose label would be any address that a stranger made up is left
//! out, and of what a peer says of itself only its first addresses are kept.

use std::sync::{Mutex, PoisonError};

use libp2p::metrics::{Metrics, Recorder, Registry};
use libp2p::swarm::SwarmEvent;
use libp2p::{dcutr, identify, kad, ping, relay};
use prometheus_client::encoding::text::encode_registry;

/// Addresses of one peer whose kinds are counted.
const MAX_ADDRESSES: usize = 8;

/// Libp2p's metrics of one net.
pub(in crate::net) struct Meter {
    registry: Mutex<Registry>,
    metrics: Metrics,
}

impl Default for Meter {
    fn default() -> Self {
        let mut registry = Registry::default();
        Self {
            metrics: Metrics::new(&mut registry),
            registry: Mutex::new(registry),
        }
    }
}

impl Meter {
    /// Counts what the swarm tells.
    pub(in crate::net) fn swarm<T>(&self, event: &SwarmEvent<T>) {
        // Peers say at which addresses they see this node, and may say anything.
        if !matches!(
            event,
            SwarmEvent::NewExternalAddrCandidate { .. } | SwarmEvent::NewExternalAddrOfPeer { .. }
        ) {
            self.metrics.record(event);
        }
    }

    /// Counts a ping.
    pub(in crate::net) fn ping(&self, event: &ping::Event) {
        self.metrics.record(event);
    }

    /// Counts what peers tell of themselves.
    pub(in crate::net) fn identify(&self, event: &identify::Event) {
        match event {
            identify::Event::Received {
                connection_id,
                peer_id,
                info,
            } => {
                let mut info = info.clone();
                info.listen_addrs.truncate(MAX_ADDRESSES);
                self.metrics.record(&identify::Event::Received {
                    connection_id: *connection_id,
                    peer_id: *peer_id,
                    info,
                });
            }
            event => self.metrics.record(event),
        }
    }

    /// Counts what the DHT does.
    pub(in crate::net) fn kad(&self, event: &kad::Event) {
        self.metrics.record(event);
    }

    /// Counts what this node relays.
    pub(in crate::net) fn relay(&self, event: &relay::Event) {
        self.metrics.record(event);
    }

    /// Counts direct connections that were made by way of a relay.
    pub(in crate::net) fn dcutr(&self, event: &dcutr::Event) {
        self.metrics.record(event);
    }

    /// All of it in the text form of OpenMetrics, without the line that ends it.
    pub(in crate::net) fn text(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock();
        let registry = registry.unwrap_or_else(PoisonError::into_inner);
        if encode_registry(&mut text, &registry).is_err() {
            // Writing to a text fails only where a metric contradicts itself.
            text.clear();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use libp2p::PeerId;
    use libp2p::swarm::ConnectionId;

    #[test]
    fn events_are_counted_and_addresses_that_strangers_make_up_are_no_labels() {
        let meter = Meter::default();
        meter.ping(&ping::Event {
            peer: PeerId::random(),
            connection: ConnectionId::new_unchecked(1),
            result: Ok(Duration::from_millis(3)),
        });
        let address: libp2p::Multiaddr = "/ip4/192.0.2.7/tcp/1/ws/http".parse().expect("valid");
        meter.swarm(&SwarmEvent::<()>::NewExternalAddrCandidate { address });
        let text = meter.text();
        assert!(text.contains("libp2p_ping_rtt_seconds_count 1"), "{text}");
        assert!(!text.contains("/ws"), "{text}");
        assert!(!text.contains("# EOF"));
    }
}
