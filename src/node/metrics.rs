//! The node's metrics, and libp2p's, as text for Prometheus.
//!
//! Numbers are those of [`Status`], read when somebody asks. Deliberately absent: names of sets,
//! files, peers and rings, since the local server shows metrics to whoever can reach it.

use std::fmt;

use prometheus_client::encoding::text::encode_registry;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::Node;
use super::api::*;

/// Class of stored blocks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Stored {
    class: Class,
}

/// Reason why a block is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Class {
    Pinned,
    Leased,
    Cached,
}

impl EncodeLabelValue for Class {
    fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>,
    ) -> Result<(), fmt::Error> {
        let name = match self {
            Self::Pinned => "pinned",
            Self::Leased => "leased",
            Self::Cached => "cached",
        };
        name.encode(encoder)
    }
}

/// Background job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Worker {
    worker: String,
}

impl Node {
    /// The node's metrics, and libp2p's.
    ///
    /// # Errors
    /// As of [`status`](Self::status).
    pub async fn metrics(&self, _: Metrics) -> Result<MetricsReply, CallError> {
        let status = self.status(Status {}).await?;
        let mut text = text_of(&status)
            .map_err(|_| CallError::new(ErrorKind::Failed, "the metrics could not be written"))?;
        text.push_str(&self.net().metrics());
        Ok(MetricsReply { text })
    }
}

/// Metrics of the node itself.
fn text_of(status: &StatusReply) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("libernet");
    let version = vec![("version", status.version.clone())];
    registry.register("build", "Version of the program", Info::new(version));
    gauges(&mut registry, status);
    counters(&mut registry, status);
    stored(&mut registry, &status.store);
    workers(&mut registry, &status.workers);
    let mut text = String::new();
    encode_registry(&mut text, &registry)?;
    Ok(text)
}

fn gauges(registry: &mut Registry, status: &StatusReply) {
    let mut gauge = |name: &str, help: &str, value: u64| {
        registry.register(name, help, ConstGauge::new(value));
    };
    gauge("peers", "Peers that are connected", status.peers);
    gauge(
        "mesh_joined",
        "Whether the DHT has been joined",
        u64::from(status.bootstrapped),
    );
    gauge(
        "reachable",
        "Whether others can reach the node directly from outside, as far as it knows",
        u64::from(status.reach.reachable == "public"),
    );
    gauge("store_blocks", "Blocks in the store", status.store.blocks);
    gauge("store_pins", "Pins", status.store.pins);
    let mut sized = |name: &str, help: &str, unit: Unit, value: u64| {
        registry.register_with_unit(name, help, unit, ConstGauge::new(value));
    };
    sized(
        "uptime",
        "Time since the node started",
        Unit::Seconds,
        status.uptime_s,
    );
    sized(
        "store_disk",
        "Bytes on disk, all in all",
        Unit::Bytes,
        status.store.disk_bytes,
    );
    sized(
        "store_quota",
        "Most bytes that may be on disk",
        Unit::Bytes,
        status.store.quota,
    );
    let late = status.announcing.as_ref().map_or(0, |told| told.late_s);
    sized(
        "announcing_late",
        "Time by which the announcement that waited longest is late",
        Unit::Seconds,
        late,
    );
}

fn counters(registry: &mut Registry, status: &StatusReply) {
    let (exchange, store) = (&status.exchange, &status.store);
    let counts = [
        (
            "exchange_served_blocks",
            "Blocks given to peers",
            exchange.served_blocks,
        ),
        (
            "exchange_fetched_blocks",
            "Blocks taken from peers",
            exchange.fetched_blocks,
        ),
        (
            "exchange_wrong_blocks",
            "Answers of peers that were not the block asked for",
            exchange.wrong_blocks,
        ),
        (
            "store_corrupt_blocks",
            "Damaged blocks found since the start",
            store.corrupt,
        ),
        (
            "store_evicted_blocks",
            "Cached blocks that made room for others",
            store.evicted,
        ),
        (
            "store_evicted_unsure_blocks",
            "Those of them of which no other copy was known",
            store.evicted_unsure,
        ),
        (
            "popularity_offered_blocks",
            "Blocks offered to peers because they are asked for often",
            status.popularity.offered_blocks,
        ),
        (
            "popularity_copied_blocks",
            "Copies that peers made because of that",
            status.popularity.copied_blocks,
        ),
        (
            "popularity_taken_blocks",
            "Blocks taken because peers offered them",
            status.popularity.taken_blocks,
        ),
        (
            "relay_circuits",
            "Connections that the node has relayed for others",
            status.reach.relaying.circuits_ever,
        ),
    ];
    for (name, help, value) in counts {
        registry.register(name, help, ConstCounter::new(value));
    }
    for (name, help, value) in [
        (
            "exchange_served",
            "Bytes of blocks given to peers",
            exchange.served_bytes,
        ),
        (
            "exchange_fetched",
            "Bytes of blocks taken from peers",
            exchange.fetched_bytes,
        ),
    ] {
        registry.register_with_unit(name, help, Unit::Bytes, ConstCounter::new(value));
    }
}

fn stored(registry: &mut Registry, store: &StoreStatus) {
    let bytes = Family::<Stored, Gauge>::default();
    for (class, value) in [
        (Class::Pinned, store.pinned_bytes),
        (Class::Leased, store.leased_bytes),
        (Class::Cached, store.cached_bytes),
    ] {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        bytes.get_or_create(&Stored { class }).set(value);
    }
    registry.register_with_unit(
        "store_block",
        "Bytes of blocks by why they are kept",
        Unit::Bytes,
        bytes,
    );
}

fn workers(registry: &mut Registry, workers: &[WorkerStatus]) {
    let failed = Family::<Worker, Gauge>::default();
    for one in workers {
        let worker = one.name.clone();
        failed
            .get_or_create(&Worker { worker })
            .set(i64::from(one.error.is_some()));
    }
    registry.register(
        "worker_failed",
        "Whether the last run of a background job failed",
        failed,
    );
}
