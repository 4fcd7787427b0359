//! The call that tells how the node is.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Node;
use super::api::*;
use crate::net::reach::Mapping;
use crate::time;
use crate::upkeep::fairness::Bandwidth;

impl Node {
    /// How the node is.
    ///
    /// # Errors
    /// None at present.
    pub async fn status(&self, _: Status) -> Result<StatusReply, CallError> {
        let inner = &self.inner;
        let usage = inner.depot.store().usage();
        let traffic = inner.depot.traffic();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Ok(StatusReply {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            peer: self.peer_id(),
            network: inner.options.config.network.clone(),
            addresses: self.addresses(),
            http: inner.options.http.clone(),
            pid: std::process::id(),
            uptime_s: inner.started.elapsed().as_secs(),
            peers: self.net().peers().connected().len() as u64,
            bootstrapped: inner.bootstrapped.load(Ordering::Relaxed),
            leaving: inner.depot.is_leaving(),
            twin: inner.twin.get(),
            data_dir: inner.options.data_dir.clone(),
            store: StoreStatus {
                blocks: usage.blocks,
                block_bytes: usage.block_bytes,
                pinned_bytes: usage.pinned_bytes,
                leased_bytes: usage.leased_bytes,
                cached_bytes: usage.cached_bytes,
                disk_bytes: usage.disk_bytes,
                quota: usage.quota,
                pins: usage.pins,
                corrupt: usage.corrupt,
                evicted: usage.evicted,
                evicted_unsure: usage.evicted_unsure,
            },
            workers: inner
                .worker_states
                .iter()
                .map(|worker| {
                    let (state, error) = worker.get();
                    WorkerStatus {
                        name: worker.name().to_owned(),
                        state,
                        error,
                    }
                })
                .collect(),
            exchange: ExchangeStatus {
                served_blocks: count(&traffic.served_blocks),
                served_bytes: count(&traffic.served_bytes),
                fetched_blocks: count(&traffic.fetched_blocks),
                fetched_bytes: count(&traffic.fetched_bytes),
                wrong_blocks: count(&traffic.wrong_blocks),
            },
            popularity: PopularityStatus {
                offered_blocks: count(&traffic.offered_blocks),
                copied_blocks: count(&traffic.copied_blocks),
                taken_blocks: count(&traffic.taken_blocks),
            },
            announcing: self.announcing(),
            limits: self.limits(),
            reach: self.reach(),
        })
    }

    /// How this node can be reached from outside.
    pub(super) fn reach(&self) -> ReachStatus {
        let status = self.net().reach().status();
        let (mapping, served) = (&status.mapping, status.served);
        let mapped = match mapping {
            Mapping::Promised(addresses) => addresses.iter().map(ToString::to_string).collect(),
            Mapping::Off | Mapping::Asked => Vec::new(),
        };
        ReachStatus {
            reachable: status.reachable.name().to_owned(),
            nat: status.nat.name().to_owned(),
            addresses: status.addresses.iter().map(ToString::to_string).collect(),
            port_mapping: mapping.to_string(),
            mapped,
            relays: status.relays.iter().map(ToString::to_string).collect(),
            relaying: RelayingStatus {
                on: served.on,
                reservations: served.reservations as u64,
                circuits: served.circuits as u64,
                circuits_ever: served.circuits_ever,
                refused: served.refused,
            },
        }
    }

    fn announcing(&self) -> Option<AnnouncingStatus> {
        let (told, now) = (self.inner.announced.get(), self.now());
        let progress = told.progress(now)?;
        Some(AnnouncingStatus {
            parts: progress.parts as u64,
            on_time: progress.on_time as u64,
            waiting: progress.waiting as u64,
            late_s: progress.late().as_secs(),
            ends_in_s: progress.ends_in().map(|left| left.as_secs()),
            lookups: told.lookups,
            keys: told.keys,
            warning: progress.warning(),
        })
    }

    fn limits(&self) -> LimitsStatus {
        let config = self.inner.settings.current();
        let bandwidth = Bandwidth::of(&config);
        LimitsStatus {
            up: bandwidth.up,
            down: bandwidth.down,
            hours: bandwidth.hours.to_string(),
            holding: bandwidth.hold(self.now(), &time::zone()),
            lend: config.lent_bytes(),
            min_rate: config.min_rate,
            offer_rate: config.offer_rate,
        }
    }

    /// What this node and each other one have done for each other.
    ///
    /// # Errors
    /// None at present.
    pub async fn ledger(&self, _: Ledger) -> Result<LedgerReply, CallError> {
        let connected = self.net().peers().connected();
        let now = self.now();
        let list = self.inner.depot.ledger().list().into_iter();
        let peers = list.map(|(peer, entry, standing)| LedgerPeer {
            peer: peer.to_string(),
            standing,
            served: entry.served,
            taken: entry.taken,
            wrong_blocks: entry.wrong_blocks,
            keeps_for_us: entry.keeps_for_us,
            kept_for_it: entry.kept_for_it,
            seen_s_ago: (entry.seen.0 > 0).then(|| now.since(entry.seen).as_secs()),
            connected: connected.contains(&peer),
        });
        Ok(LedgerReply {
            peers: peers.collect(),
        })
    }
}
