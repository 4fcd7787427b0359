//! `libernet status`: how the node is.

use std::time::Duration;

use super::context::Context;
use super::exit::{Exit, Failure};
use super::{health, output, show};
use crate::node::api::{Health, HealthReply, LimitsStatus, Status, StatusReply};
use crate::size::ByteSize;

/// Show how the node is: addresses, peers, store, background work.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet status
  libernet status --json | jq .store.disk_bytes

With --json: {\"version\",\"peer\",\"network\",\"addresses\":[..],\"http\",\"pid\",\"uptime_s\",\"peers\",\"bootstrapped\",\"leaving\",\"data_dir\",
  \"store\":{\"blocks\",\"block_bytes\",\"pinned_bytes\",\"leased_bytes\",\"cached_bytes\",\"disk_bytes\",\"quota\",\"pins\",\"corrupt\",\"evicted\",\"evicted_unsure\"},
  \"workers\":[{\"name\",\"state\",\"error\"}],
  \"exchange\":{\"served_blocks\",\"served_bytes\",\"fetched_blocks\",\"fetched_bytes\",\"wrong_blocks\"},
  \"popularity\":{\"offered_blocks\",\"copied_blocks\",\"taken_blocks\"},
  \"limits\":{\"up\",\"down\",\"hours\",\"holding\",\"lend\",\"min_rate\",\"offer_rate\"}}")]
pub(super) struct Args {}

pub(super) async fn run(_: Args, context: &Context) -> Result<Exit, Failure> {
    let (reply, health) = context
        .with_client(async |client, _| {
            Ok((
                client.status(Status {}).await?,
                client.health(Health {}).await?,
            ))
        })
        .await?;
    if context.json {
        output::json(&reply)?;
    } else {
        output::stdout(text(&reply, &health).as_bytes())?;
    }
    Ok(Exit::Done)
}

fn text(status: &StatusReply, health: &HealthReply) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row =
        |name: &str, value: String| rows.push(vec![name.to_owned(), show::printable(&value)]);
    row("version", status.version.clone());
    row("peer", status.peer.clone());
    row("network", status.network.clone());
    for address in &status.addresses {
        row("address", address.clone());
    }
    row(
        "http",
        status.http.clone().unwrap_or_else(|| "-".to_owned()),
    );
    row("process", status.pid.to_string());
    row(
        "up for",
        show::duration(Duration::from_secs(status.uptime_s)),
    );
    let mesh = if status.bootstrapped {
        "mesh joined"
    } else {
        "mesh not joined yet"
    };
    row("peers", format!("{} ({mesh})", status.peers));
    if status.leaving {
        let text = "takes nothing more for others; `libernet leave --cancel` takes that back";
        row("leaving", text.to_owned());
    }
    row("data", status.data_dir.to_string_lossy().into_owned());
    numbers(status, &mut row);
    limits(&status.limits, &mut row);
    for set in &health.sets {
        row("copies", health::line(set));
    }
    for worker in &status.workers {
        let error = worker
            .error
            .as_ref()
            .map(|error| format!(" (failed: {error})"))
            .unwrap_or_default();
        row(&worker.name, format!("{}{error}", worker.state));
    }
    show::table(&rows, &[])
}

/// What is limited; nothing is said of what is not.
fn limits(limits: &LimitsStatus, mut row: impl FnMut(&str, String)) {
    let when = match (limits.hours.as_str(), limits.holding) {
        ("", _) => String::new(),
        (hours, true) => format!(", {hours}"),
        (hours, false) => format!(", {hours} (not now)"),
    };
    for (name, limit) in [("limit up", limits.up), ("limit down", limits.down)] {
        if limit > 0 {
            row(name, format!("{}/s{when}", ByteSize(limit)));
        }
    }
    if limits.min_rate > 0 {
        row("rate asked", limits.min_rate.to_string());
    }
    if limits.offer_rate > 0 {
        row("rate offered", limits.offer_rate.to_string());
    }
}

fn numbers(status: &StatusReply, mut row: impl FnMut(&str, String)) {
    let store = &status.store;
    row(
        "blocks",
        format!("{} ({})", store.blocks, ByteSize(store.block_bytes)),
    );
    row(
        "pinned",
        format!(
            "{} in {}",
            ByteSize(store.pinned_bytes),
            show::count(store.pins, "pin")
        ),
    );
    row(
        "leased",
        format!(
            "{} of {}",
            ByteSize(store.leased_bytes),
            ByteSize(status.limits.lend)
        ),
    );
    row("cached", ByteSize(store.cached_bytes).to_string());
    row(
        "disk",
        format!("{} of {}", ByteSize(store.disk_bytes), store.quota),
    );
    if store.evicted > 0 {
        row(
            "evicted",
            format!(
                "{}, no other copy known of {}",
                show::count(store.evicted, "block"),
                store.evicted_unsure
            ),
        );
    }
    if store.corrupt > 0 {
        row("damaged", show::count(store.corrupt, "block"));
    }
    let exchange = &status.exchange;
    row(
        "given",
        format!(
            "{} ({})",
            show::count(exchange.served_blocks, "block"),
            ByteSize(exchange.served_bytes)
        ),
    );
    row(
        "taken",
        format!(
            "{} ({})",
            show::count(exchange.fetched_blocks, "block"),
            ByteSize(exchange.fetched_bytes)
        ),
    );
    let popularity = &status.popularity;
    if popularity.offered_blocks + popularity.taken_blocks > 0 {
        row(
            "popular",
            format!(
                "{} copied by others, {} taken from others",
                show::count(popularity.copied_blocks, "block"),
                show::count(popularity.taken_blocks, "block")
            ),
        );
    }
    if exchange.wrong_blocks > 0 {
        row("wrong", show::count(exchange.wrong_blocks, "answer"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_shown_when_set() {
        let shown = |status: &LimitsStatus| {
            let mut rows = Vec::new();
            limits(status, |name, value| rows.push(format!("{name}: {value}")));
            rows
        };
        let mut status = LimitsStatus {
            lend: 1,
            ..LimitsStatus::default()
        };
        assert!(shown(&status).is_empty());
        status.up = 2 << 20;
        status.min_rate = 7;
        assert_eq!(shown(&status), ["limit up: 2 MiB/s", "rate asked: 7"]);
        (status.down, status.hours) = (1 << 20, "08:00-22:00".to_owned());
        assert_eq!(
            shown(&status)[1],
            "limit down: 1 MiB/s, 08:00-22:00 (not now)"
        );
    }
}
