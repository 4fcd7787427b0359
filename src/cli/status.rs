//! `libernet status`: whether all is safe, and how the node is; when none runs, what its data
//! directory says.

mod disk;
mod safe;

use std::time::Duration;

use serde_json::json;

pub(super) use self::disk::bytes_below;
use self::safe::{reachable, safe};
use super::context::Context;
use super::exit::{Exit, Failure};
use super::{ask, health, notify, output, show};
use crate::client::Client;
use crate::node::api::{
    Health, HealthReply, LimitsStatus, Peer, Peers, Problem, Problems, ReachStatus, RingInfo,
    RingList, Status, StatusReply, WorkerStatus,
};
use crate::size::ByteSize;
use crate::time::{Clock, SystemClock};

/// Show whether all is safe, and how the node is.
///
/// First whether the backups are safe, the rings, and who can reach this node; with -v every
/// detail. Starts no node: when none is running, says so and what is known from the files of the
/// data directory.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet status
  libernet -v status                         # addresses, numbers, background work
  libernet status --json | jq .store.disk_bytes

Exit code 11 when no node is running; whether all is safe is the exit code of `libernet health`.
With --json: {\"running\",\"safe\",\"last_backup\",\"next_backup\",\"sets\":[as `health` has them],\"rings\":[..],\"version\",\"peer\",\"network\",\"addresses\":[..],\"http\",\"pid\",\"uptime_s\",
  \"peers\",\"bootstrapped\",\"leaving\",\"twin\",\"data_dir\",
  \"store\":{\"blocks\",\"block_bytes\",\"pinned_bytes\",\"leased_bytes\",\"cached_bytes\",\"disk_bytes\",\"quota\",\"pins\",\"corrupt\",\"evicted\",\"evicted_unsure\"},
  \"workers\":[{\"name\",\"state\",\"error\"}],
  \"exchange\":{\"served_blocks\",\"served_bytes\",\"fetched_blocks\",\"fetched_bytes\",\"wrong_blocks\"},
  \"popularity\":{\"offered_blocks\",\"copied_blocks\",\"taken_blocks\"},
  \"announcing\":{\"parts\",\"on_time\",\"waiting\",\"late_s\",\"ends_in_s\",\"lookups\",\"keys\",\"warning\"},
  \"limits\":{\"up\",\"down\",\"hours\",\"holding\",\"lend\",\"min_rate\",\"offer_rate\"},
  \"reachable\":\"public|relay|no|unknown\",\"reach\":{\"reachable\",\"nat\":\"none|cone|symmetric|some|unknown\",\"addresses\":[..],
   \"port_mapping\":\"off|none|promised\",\"mapped\":[..],\"relays\":[..],
   \"relaying\":{\"on\",\"reservations\",\"circuits\",\"circuits_ever\",\"refused\"}},
  \"problem_list\":[{\"id\",\"subject\",\"severity\":\"notice|warning|serious\",\"text\",\"do\",\"since\"}], the worst first}; safe is null when nothing is backed up;
  without a node {\"running\":false,\"data_dir\",\"exists\",\"peer\",\"owner\",\"machine\",\"machine_name\",\"passphrase\",
  \"sets\":[{\"name\",\"paths\",\"schedule\"}],\"rings\":[{\"ring\",\"members\"}],\"log_written\",\"disk_bytes\",\"problems\":[..]}")]
pub(super) struct Args {}

/// All that a node says of itself here.
struct Told {
    status: StatusReply,
    health: HealthReply,
    rings: Vec<RingInfo>,
    peers: Vec<Peer>,
    problems: Vec<Problem>,
}

impl Told {
    async fn ask(client: &Client) -> Result<Self, Failure> {
        Ok(Self {
            status: client.status(Status {}).await?,
            health: client.health(Health::default()).await?,
            rings: client.ring_list(RingList {}).await?.rings,
            peers: client.peers(Peers {}).await?.peers,
            problems: client.problems(Problems {}).await?.problems,
        })
    }
}

pub(super) async fn run(_: Args, context: &Context) -> Result<Exit, Failure> {
    let told = async {
        match Client::if_running(&context.data_dir).await? {
            Some(client) => Told::ask(&client).await.map(Some),
            None => Ok(None),
        }
    };
    let told = tokio::select! {
        biased;
        () = context.stop.cancelled() => return Err(Failure::interrupted()),
        told = told => told?,
    };
    let Some(told) = told else {
        return without_node(context).await;
    };
    if context.json {
        let mut value = json!(told.status);
        value["running"] = json!(true);
        value["reachable"] = json!(told.status.reach.reachable);
        value["safe"] = json!(safe(&told.health).is_safe);
        value["rings"] = json!(told.rings);
        let sets = &told.health.sets;
        value["last_backup"] = json!(sets.iter().filter_map(|set| set.last_backup).max());
        value["next_backup"] = json!(sets.iter().filter_map(|set| set.next_backup).min());
        value["sets"] = json!(sets);
        value["problem_list"] = json!(told.problems);
        output::json(&value)?;
    } else {
        let text = text(&told, context);
        output::stdout(text.as_bytes())?;
    }
    Ok(Exit::Done)
}

/// Tells what the files of the data directory say.
async fn without_node(context: &Context) -> Result<Exit, Failure> {
    let dir = context.data_dir.clone();
    let facts = ask::until_stopped(context, move || Ok(disk::Facts::read(&dir))).await?;
    if context.json {
        output::json(&facts.to_json())?;
    } else {
        output::stdout(facts.to_text(context.verbose).as_bytes())?;
    }
    Ok(Exit::NotRunning)
}

fn text(told: &Told, context: &Context) -> String {
    let (status, health) = (&told.status, &told.health);
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row =
        |name: &str, value: String| rows.push(vec![name.to_owned(), show::printable(&value)]);
    row("safe", safe(health).words);
    for set in &health.sets {
        row("", health::line(set));
    }
    let now = SystemClock.now();
    for problem in &told.problems {
        row(problem.severity.name(), notify::words(problem, now));
    }
    for ring in &told.rings {
        let members = match ring.members {
            0 => "no other member is known yet".to_owned(),
            members => format!(
                "{} of {} online",
                ring.online,
                show::count(members, "other member")
            ),
        };
        row("ring", format!("{}: {members}", ring.ring));
    }
    if told.rings.is_empty() {
        row(
            "ring",
            "none: nobody keeps copies (`libernet ring create NAME`, `libernet ring join`)"
                .to_owned(),
        );
    }
    row("reachable", reachable(status, &told.peers));
    row(
        "disk",
        format!(
            "{} of {}; for others {} of {}",
            ByteSize(status.store.disk_bytes),
            ByteSize(status.store.quota),
            ByteSize(status.store.leased_bytes),
            ByteSize(status.limits.lend)
        ),
    );
    troubles(status, &mut row);
    let up = show::duration(Duration::from_secs(status.uptime_s));
    row("node", format!("{}, up for {up}", context.id(&status.peer)));
    if context.verbose {
        details(status, &mut row);
    } else {
        row("", "`libernet -v status` shows every detail".to_owned());
    }
    show::table(&rows, &[])
}

/// States of the node that people asked for, and may forget.
fn troubles(status: &StatusReply, mut row: impl FnMut(&str, String)) {
    if status.leaving {
        let text = "takes nothing more for others; `libernet leave --cancel` takes that back";
        row("leaving", text.to_owned());
    }
}

/// Work of a background job, in plain words.
fn plain_name(worker: &WorkerStatus) -> &str {
    match worker.name.as_str() {
        "announce" => "telling others what is here",
        "like" => "questions for ids that are alike",
        "services" => "announcing ports of programs",
        "heal" => "mending damaged blocks",
        "heads" => "keeping heads of backups",
        "rings" => "meeting members of rings",
        "maintain" => "care of the store",
        "holder" => "copies kept for others",
        "handover" => "passing on what must go",
        "popular" => "copies of popular blocks",
        "fairness" => "limits and the ledger",
        "events" => "news for `libernet up`",
        "schedule" => "backups by schedule",
        "replicate" => "own copies on others",
        "remembered" => "peers that were good before",
        other => other,
    }
}

/// Every number that there is.
fn details(status: &StatusReply, mut row: impl FnMut(&str, String)) {
    row("version", status.version.clone());
    row("network", status.network.clone());
    for address in &status.addresses {
        row("address", address.clone());
    }
    row(
        "http",
        status.http.clone().unwrap_or_else(|| "-".to_owned()),
    );
    row("process", status.pid.to_string());
    outside(&status.reach, &mut row);
    let mesh = if status.bootstrapped {
        "mesh joined"
    } else {
        "mesh not joined yet"
    };
    row("peers", format!("{} ({mesh})", status.peers));
    row("data", status.data_dir.to_string_lossy().into_owned());
    numbers(status, &mut row);
    limits(&status.limits, &mut row);
    for worker in &status.workers {
        row(plain_name(worker), worker.state.clone());
    }
}

/// Ways from outside.
fn outside(reach: &ReachStatus, mut row: impl FnMut(&str, String)) {
    for address in &reach.addresses {
        row("outside", address.clone());
    }
    row("router", reach.nat.clone());
    let mapped = match reach.mapped.is_empty() {
        true => reach.port_mapping.clone(),
        false => format!("{}: {}", reach.port_mapping, reach.mapped.join(", ")),
    };
    row("port mapping", mapped);
    for relay in &reach.relays {
        row("relay", relay.clone());
    }
    let relaying = &reach.relaying;
    if relaying.on || relaying.circuits_ever > 0 {
        let text = format!(
            "for {}; {} now, {} since the start, {} turned away",
            show::count(relaying.reservations, "peer"),
            show::count(relaying.circuits, "connection"),
            relaying.circuits_ever,
            relaying.refused
        );
        row("relays", text);
    }
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
        format!(
            "{} of {}",
            ByteSize(store.disk_bytes),
            ByteSize(store.quota)
        ),
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
    if let Some(announcing) = &status.announcing {
        let late = match announcing.late_s {
            0 => String::new(),
            late => format!(", {} late", show::duration(Duration::from_secs(late))),
        };
        row(
            "announced",
            format!(
                "{} of {} parts in time{late}; {} since the start",
                announcing.on_time,
                announcing.parts,
                show::count(announcing.lookups, "lookup")
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
