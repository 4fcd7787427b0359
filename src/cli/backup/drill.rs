//! `libernet drill`: a rehearsal of the day on which this machine is gone.
//!
//! A node of its own in an empty directory knows the words and the addresses of other nodes, and has nothing to do with this machine's node.
//! What it can bring back is what would be brought back. Everything it writes is in a temporary directory that is removed at the end.

mod pace;
mod sample;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use self::pace::Pace;
use self::sample::{FILES_AT_ONCE, Failed, Listing, absolute, compare, list, restore};
use super::voice::{Voice, Words};
use super::which::Which;
use super::{MAX_NAMED, short, snapshots};
use crate::backup;
use crate::backup::owner::Vault;
use crate::block::Link;
use crate::cli::ask;
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::{output, show};
use crate::client::{Client, for_command};
use crate::config::{AnnouncePolicy, Config};
use crate::file;
use crate::node::api::{
    Choice, Giver, MachineState, Peers, SnapshotInfo, SnapshotRef, SnapshotTree, Snapshots, Status,
};
use crate::node::{Node, NodeOptions, Purpose};
use crate::problems::{DRILL_FILE, DrillScore};
use crate::size::ByteSize;
use crate::time::{Clock, SystemClock, Timestamp};

/// Files that are restored unless told otherwise.
const FILES: u64 = 20;
/// Seconds to look for the head and for one block unless told otherwise.
const TIMEOUT_S: u64 = 60;
/// Time that the node may take to find another one.
const PEERS_PATIENCE: Duration = Duration::from_secs(30);
/// How often to look whether it has.
const PEERS_INTERVAL: Duration = Duration::from_millis(50);
/// How long the node may take to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// Addresses of other nodes that are tried at most.
const MAX_ADDRESSES: usize = 64;

/// Rehearse a restore: from the words and other nodes alone, as if this machine were gone.
///
/// Starts a node in an empty directory that knows only the twelve words and other nodes, never this machine's own, fetches the list of files
/// of the newest snapshot and a random sample of them, and compares those with the files here that have not changed since. It also holds
/// what others tell of this machine against what this machine has written last.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet drill                             # asks for the twelve words
  libernet drill --phrase-file words.txt --files 100
  libernet drill --set docs --machine laptop # the newest snapshot of these

Exit code 3 when a sampled file could not be restored, or when others have not this machine's own newest state; 4 when no other node has the backups, 5 when a restored file differs from the
original although that has not changed.
With --json: {\"owner\",\"snapshot\",\"time\",\"machine\",\"total_files\",\"total_bytes\",\"listed_files\",\"unlisted\":[{\"path\",\"reason\"}],\"sampled\",
  \"restored\",\"verified\",\"different\":[path],\"failed\":[{\"path\",\"reason\"}],\"bytes\",\"list_s\",\"restore_s\",\"bytes_per_s\",
  \"latency_s\",\"rate_bytes_per_s\",\"full_restore_s\",\"from\":[{\"peer\",\"blocks\",\"bytes\"}],
  \"behind\":{\"written\",\"told\"}}, behind null when others have this machine's newest state")]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    words: Words,
    /// How many files to restore.
    #[arg(long, value_name = "N", default_value_t = FILES, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    files: u64,
    /// A peer to join the mesh through, besides those that this machine knows. May be repeated.
    #[arg(long, value_name = "ADDRESS")]
    bootstrap: Vec<String>,
    /// Time to look for the head, and for one block before it counts as missing.
    #[arg(long, value_name = "TIME", default_value_t = TIMEOUT_S, value_parser = crate::time::seconds, allow_hyphen_values = true)]
    timeout: u64,
    // Its heading holds for all that is behind it.
    #[command(flatten)]
    which: Which,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    owner: String,
    snapshot: String,
    time: crate::time::Timestamp,
    machine: String,
    /// Files and bytes that the snapshot says it has.
    total_files: u64,
    total_bytes: u64,
    listed_files: u64,
    unlisted: Vec<Failed>,
    sampled: u64,
    restored: u64,
    verified: u64,
    different: Vec<String>,
    failed: Vec<Failed>,
    bytes: u64,
    list_s: f64,
    restore_s: f64,
    /// Bytes by seconds of the whole sample, waits included.
    bytes_per_s: f64,
    /// The wait before a file's first byte.
    latency_s: Option<f64>,
    /// The rate after that; none when the sample is too small to tell.
    rate_bytes_per_s: Option<f64>,
    full_restore_s: Option<f64>,
    from: Vec<Giver>,
    /// This machine's log is newer than what others have of it.
    behind: Option<Behind>,
    /// Bytes and seconds of each file that was restored.
    #[serde(skip)]
    took: Vec<(u64, f64)>,
}

/// What others have of this machine's own log, when that is not its last state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Behind {
    /// When this machine wrote its log last.
    written: Timestamp,
    /// Date of the entry that others tell; none when they tell none of this machine.
    told: Option<Timestamp>,
}

impl Behind {
    /// Holds this machine's own log against what others tell of it. None when they have its last
    /// state, and where this machine has not written any or is another owner's.
    ///
    /// # Errors
    /// When the file of this machine's keys or head can't be read.
    fn find(data_dir: &Path, owner: &str, told: &[MachineState]) -> Result<Option<Self>, Failure> {
        let vault = Vault::open(data_dir)?;
        let Some(vault) = vault.filter(|vault| vault.owner().to_string() == owner) else {
            return Ok(None);
        };
        let machine = vault.machine();
        let written = backup::last_written(data_dir, vault.owner().as_bytes(), machine.as_bytes())?;
        let told = told.iter().find(|one| one.machine == machine.to_string());
        let told = told.map(|one| one.updated);
        let behind = written.filter(|written| told.is_none_or(|told| told < *written));
        Ok(behind.map(|written| Self { written, told }))
    }

    fn text(&self) -> String {
        let written = show::timestamp(self.written);
        match self.told {
            Some(told) => format!(
                "others tell what this machine had backed up by {}, and it wrote its log again at {written}: what came after the first \
                 would be lost with this machine",
                show::timestamp(told)
            ),
            None => format!(
                "others tell nothing of this machine, which wrote its log at {written}: what it backed up would be lost with it"
            ),
        }
    }
}

pub(in crate::cli) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let choice = args.which.choice()?;
    let keys = args.words.keys(true, context).await?;
    let (owner, keys) = keys.ok_or_else(|| Failure::usage("the words are missing"))?;
    let config = context.config(BTreeMap::new())?;
    let (own, addresses) = others(&config, &args.bootstrap, context).await?;
    if addresses.is_empty() && !config.mdns {
        return Err(Failure::new(
            Exit::NotFound,
            "this machine knows no other node: if it were gone, there would be nobody to ask",
        )
        .with_hint("name one with --bootstrap MULTIADDR"));
    }
    let scratch = tempfile::Builder::new()
        .prefix("libernet-drill-")
        .tempdir()
        .map_err(|error| Failure::io("no temporary directory could be made", &error))?;
    context.notice(&format!(
        "a node in {} that knows the words and {}, and not this machine's own node",
        scratch.path().display(),
        show::count(addresses.len() as u64, "address")
    ));
    let node = tokio::select! {
        biased;
        node = start(config, addresses, scratch.path()) => node?,
        () = context.stop.cancelled() => return Err(Failure::interrupted()),
    };
    let client = Client::embedded(node.clone());
    let drill = async {
        // Before anything is asked for: what comes from here would prove nothing.
        if let Some(own) = &own {
            node.block_peer(own).await?;
        }
        let mut voice = Voice::of_keys(keys);
        rehearse(
            &args,
            choice,
            &owner.to_string(),
            &client,
            &mut voice,
            scratch.path(),
            context,
        )
        .await
    };
    let result = tokio::select! {
        biased;
        () = context.stop.cancelled() => Err(Failure::interrupted()),
        result = Box::pin(drill) => result,
    };
    let stopped = tokio::time::timeout(STOP_PATIENCE, node.shutdown()).await;
    drop((client, node));
    if !matches!(stopped, Ok(Ok(()))) {
        context.warning("the node of this drill did not stop cleanly");
    }
    // Removing many files takes a moment; do it where blocking is allowed.
    let removed = tokio::task::spawn_blocking(move || scratch.close()).await;
    if !matches!(removed, Ok(Ok(()))) {
        context.warning("the temporary directory could not be removed completely");
    }
    let report = result?;
    keep_score(&report, context);
    tell(&report, context)?;
    Ok(end(&report))
}

/// Keeps the score, so that the node can tell when the next drill is due.
fn keep_score(report: &Report, context: &Context) {
    let score = DrillScore {
        at: SystemClock.now(),
        snapshot: report.snapshot.clone(),
        sampled: report.sampled,
        restored: report.restored,
        different: report.different.len() as u64,
    };
    // The words may be those of another machine, on one that has no data directory.
    if !context.data_dir.is_dir() {
        return;
    }
    let path = context.data_dir.join(DRILL_FILE);
    let written = serde_json::to_vec(&score)
        .map_err(std::io::Error::from)
        .and_then(|bytes| file::replace(&path, &bytes));
    if let Err(error) = written {
        context.warning(&format!(
            "the score could not be kept in {}: {error}",
            path.display()
        ));
    }
}

/// This machine's own node, if it runs, and where others are.
async fn others(
    config: &Config,
    given: &[String],
    context: &Context,
) -> Result<(Option<String>, Vec<String>), Failure> {
    let mut addresses: BTreeSet<String> = given.iter().chain(&config.bootstrap).cloned().collect();
    let Some(running) = Client::running(&context.data_dir).await? else {
        return Ok((None, addresses.into_iter().collect()));
    };
    let own = running.status(Status {}).await?.peer;
    for peer in running.peers(Peers {}).await?.peers {
        for address in peer.addresses {
            if addresses.len() >= MAX_ADDRESSES {
                break;
            }
            addresses.insert(if address.contains("/p2p/") {
                address
            } else {
                format!("{address}/p2p/{}", peer.peer)
            });
        }
    }
    let suffix = format!("/p2p/{own}");
    addresses.retain(|address| !address.ends_with(&suffix));
    Ok((Some(own), addresses.into_iter().collect()))
}

async fn start(
    mut config: Config,
    addresses: Vec<String>,
    scratch: &Path,
) -> Result<Node, Failure> {
    config.bootstrap = addresses;
    // This machine's own node has the usual ports, or those of its settings.
    config.listen = Config::default().listen;
    // It is gone in a moment: nobody shall look for anything here.
    config.announce = AnnouncePolicy::None;
    let options = NodeOptions {
        purpose: Purpose::Serve,
        config: for_command(config),
        data_dir: scratch.join("node"),
        http: None,
        overrides: BTreeMap::new(),
    };
    Ok(Node::start(options).await?)
}

async fn rehearse(
    args: &Args,
    choice: Choice,
    owner: &str,
    client: &Client,
    voice: &mut Voice,
    scratch: &Path,
    context: &Context,
) -> Result<Report, Failure> {
    wait_for_peers(client).await?;
    let (info, tree, told) = newest(args, choice, client, voice, context).await?;
    let (dir, of) = (context.data_dir.clone(), owner.to_owned());
    let behind = ask::until_stopped(context, move || Behind::find(&dir, &of, &told)).await?;
    context.notice(&format!(
        "snapshot {} of {}: {} in {}",
        short(&info.snapshot),
        show::timestamp(info.time),
        ByteSize(info.bytes),
        show::count(info.files, "file")
    ));
    let begun = Instant::now();
    let listing: Listing = list(&tree, args, client).await;
    let list_s = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let mut report = Report {
        owner: owner.to_owned(),
        snapshot: info.snapshot,
        time: info.time,
        machine: info.machine,
        total_files: info.files,
        total_bytes: info.bytes,
        listed_files: listing.files,
        unlisted: listing.unlisted,
        sampled: listing.sample.len() as u64,
        restored: 0,
        verified: 0,
        different: Vec::new(),
        failed: Vec::new(),
        bytes: 0,
        list_s,
        restore_s: 0.0,
        bytes_per_s: 0.0,
        latency_s: None,
        rate_bytes_per_s: None,
        full_restore_s: None,
        from: Vec::new(),
        behind,
        took: Vec::new(),
    };
    let copies = restore(&tree, listing.sample, args, client, scratch, &mut report).await;
    report.restore_s = begun.elapsed().as_secs_f64();
    if report.bytes > 0 && report.restore_s > 0.0 {
        report.bytes_per_s = report.bytes as f64 / report.restore_s;
    }
    if let Some(pace) = Pace::of(&report.took) {
        let at_once = FILES_AT_ONCE.min(report.took.len());
        report.latency_s = Some(pace.latency_s);
        report.rate_bytes_per_s = pace.bytes_per_s.map(|rate| rate * at_once as f64);
        report.full_restore_s = pace.seconds(info.files, info.bytes, at_once);
    }
    for (file, copy) in copies {
        let path = file.path.clone();
        let same = tokio::task::spawn_blocking(move || compare(&file, &copy));
        match same.await {
            Ok(Some(true)) => report.verified += 1,
            Ok(Some(false)) => report.different.push(absolute(&path)),
            // Changed since, or unreadable: there is nothing to hold it against.
            Ok(None) | Err(_) => {}
        }
    }
    Ok(report)
}

async fn wait_for_peers(client: &Client) -> Result<(), Failure> {
    let begun = Instant::now();
    while client.status(Status {}).await?.peers == 0 {
        if begun.elapsed() > PEERS_PATIENCE {
            return Err(Failure::new(
                Exit::NotFound,
                "no other node could be reached: if this machine were gone, there would be nobody to ask",
            )
            .with_hint("`libernet peers` shows who is connected; name a node with --bootstrap MULTIADDR"));
        }
        tokio::time::sleep(PEERS_INTERVAL).await;
    }
    Ok(())
}

/// The newest snapshot and the state of each machine's log, from others alone.
async fn newest(
    args: &Args,
    choice: Choice,
    client: &Client,
    voice: &mut Voice,
    context: &Context,
) -> Result<(SnapshotInfo, Link, Vec<MachineState>), Failure> {
    let nobody = |failure: Failure| {
        if failure.exit != Exit::NotFound {
            return failure;
        }
        let mut plain = Failure::new(
            Exit::NotFound,
            "nobody else has these backups: if this machine were gone, so would they be",
        )
        .with_hint("let another node keep them: `libernet pin add LINK` there, with the link that `libernet snapshots --json` shows");
        plain.why.push(failure.message);
        plain
    };
    let request = Snapshots {
        timeout_s: args.timeout,
        ..Snapshots::default()
    };
    let reply = snapshots::fetch(client, voice, request.clone(), context)
        .await
        .map_err(nobody)?;
    if choice != Choice::default() {
        // A set that others know nothing of is another matter than backups that nobody has.
        let of_choice = Snapshots {
            choice: choice.clone(),
            ..request
        };
        snapshots::fetch(client, voice, of_choice, context).await?;
    }
    snapshots::warn_of_machines(&reply, context);
    snapshots::tell_of_head(&reply, context);
    let machines = reply.machines;
    let reply = voice
        .call(context, async |speaker| {
            let of = SnapshotRef {
                speaker,
                snapshot: "latest".to_owned(),
                choice: choice.clone(),
                timeout_s: args.timeout,
            };
            client.snapshot_tree(SnapshotTree { of }).await
        })
        .await
        .map_err(nobody)?;
    Ok((reply.info, reply.tree, machines))
}

fn end(report: &Report) -> Exit {
    if report.restored == 0 && (report.sampled > 0 || !report.unlisted.is_empty()) {
        Exit::NotFound
    } else if !report.different.is_empty() {
        Exit::Damaged
    } else if !report.failed.is_empty() || !report.unlisted.is_empty() || report.behind.is_some() {
        Exit::Partial
    } else {
        Exit::Done
    }
}

/// Time that files take, and what that says of all of them.
fn pace_text(report: &Report) -> String {
    let time = |seconds: f64| {
        show::duration(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    };
    let Some(latency_s) = report.latency_s else {
        return String::new();
    };
    let Some(rate) = report.rate_bytes_per_s else {
        return format!(
            "a file took {} on the average, most of it the wait for its first byte: the sample is too small to tell a rate, and how \
             long everything ({}) would take; --files N takes more\n",
            time(latency_s),
            ByteSize(report.total_bytes)
        );
    };
    let all = report.full_restore_s.map(time).unwrap_or_default();
    format!(
        "the first byte of a file comes after {}, the rest at {}/s; everything ({}) would take about {all}\n",
        time(latency_s),
        ByteSize(rate as u64),
        ByteSize(report.total_bytes)
    )
}

fn tell(report: &Report, context: &Context) -> Result<(), Failure> {
    for part in report.failed.iter().chain(&report.unlisted).take(MAX_NAMED) {
        context.warning(&format!("{}: {}", part.path, part.reason));
    }
    for path in report.different.iter().take(MAX_NAMED) {
        context.warning(&format!(
            "{path}: what came back differs from the file here, which looks unchanged"
        ));
    }
    if let Some(behind) = &report.behind {
        context.warning(&behind.text());
    }
    if context.json {
        return output::json(report);
    }
    let mut text = format!(
        "{} of {} sampled files restored, {} verified against the originals\n",
        report.restored, report.sampled, report.verified
    );
    text.push_str(&format!(
        "list of {}: {}\n",
        show::count(report.listed_files, "file"),
        show::duration(Duration::from_secs_f64(report.list_s))
    ));
    text.push_str(&format!(
        "sample: {} in {}\n",
        ByteSize(report.bytes),
        show::duration(Duration::from_secs_f64(report.restore_s)),
    ));
    text.push_str(&pace_text(report));
    for giver in &report.from {
        text.push_str(&format!(
            "from {}: {}, {}\n",
            show::printable(context.id(&giver.peer)),
            show::count(giver.blocks, "block"),
            ByteSize(giver.bytes)
        ));
    }
    output::stdout(text.as_bytes())?;
    if end(report) == Exit::NotFound {
        context.notice(
            "nobody else has the content of these backups: if this machine were gone, so would they be",
        );
    }
    Ok(())
}
