//! `libernet lease`: copies on other machines, and their end before time.
//!
//! The words stay in this process: it signs each release itself, and the node only passes them on.

use std::time::SystemTime;

use data_encoding::HEXLOWER;

use super::short;
use super::voice::Words;
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::{output, show, target};
use crate::lease::Name;
use crate::node::api::{LeaseEntry, LeaseList, LeaseRelease, LeaseReleaseReply, OwnerRelease};
use crate::time::Timestamp;

/// Show which machines keep copies of this machine's backups, and end that before its time.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet lease list
  libernet lease release 1f3a2b4c --phrase
  libernet lease release --all --phrase-file words.txt

A machine's key asks for copies and gives them back only once their minimum of 75 days is over. Before that only the owner's words do.
With --json: list {\"leases\":[{\"snapshot\",\"set\",\"peer\",\"name\",\"sequence\"}]}, release {\"released\",\"unreachable\":[..],\"refused\":[..]}
Release ends with 3 when some holders could not be asked or refused.")]
pub(in crate::cli) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the copies of this machine's backups on other machines.
    List,
    /// Let other machines drop their copies of backups now, by the owner's words. No other copies are made of these.
    Release(Release),
}

#[derive(Debug, clap::Args)]
struct Release {
    /// Snapshots by the first digits of their ids.
    #[arg(value_name = "SNAPSHOT", required_unless_present = "all")]
    snapshots: Vec<String>,
    /// The copies of all snapshots that this machine made.
    #[arg(long, conflicts_with = "snapshots")]
    all: bool,
    #[command(flatten)]
    words: Words,
}

pub(in crate::cli) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    match args.command {
        Command::List => list(context).await,
        Command::Release(args) => release(args, context).await,
    }
}

async fn list(context: &Context) -> Result<Exit, Failure> {
    let reply = context
        .with_client(async |client, _| Ok(client.lease_list(LeaseList {}).await?))
        .await?;
    if context.json {
        output::json(&reply)?;
    } else if reply.leases.is_empty() {
        context.notice("no other machine keeps a copy");
    } else {
        let row = |lease: &LeaseEntry| {
            vec![
                short(&lease.snapshot).to_owned(),
                show::printable(&lease.set),
                lease.peer.clone(),
            ]
        };
        let rows: Vec<_> = reply.leases.iter().map(row).collect();
        output::stdout(show::table(&rows, &[]).as_bytes())?;
    }
    Ok(Exit::Done)
}

async fn release(args: Release, context: &Context) -> Result<Exit, Failure> {
    let names = args.snapshots.iter().map(|name| target::snapshot(name));
    let names: Vec<String> = names.collect::<Result<_, _>>()?;
    let keys = args.words.owner(context).await?;
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let made = Timestamp(now.as_millis() as u64);
    let reply = context
        .with_client(async |client, _| {
            let leases = client.lease_list(LeaseList {}).await?.leases;
            let chosen = choose(leases, &names, args.all)?;
            let releases = chosen.into_iter().map(|lease| {
                let name = HEXLOWER.decode(lease.name.as_bytes()).unwrap_or_default();
                let name: Name = name
                    .try_into()
                    .map_err(|_| Failure::usage("the node names a lease in a way that can't be"))?;
                let release = keys.release(name, lease.sequence, made);
                Ok(OwnerRelease {
                    snapshot: lease.snapshot,
                    peer: lease.peer,
                    release: HEXLOWER.encode(&release.encode()),
                })
            });
            let releases = releases.collect::<Result<_, Failure>>()?;
            Ok(client.lease_release(LeaseRelease { releases }).await?)
        })
        .await?;
    if context.json {
        output::json(&reply)?;
    } else {
        tell(&reply, context);
    }
    Ok(
        match reply.unreachable.is_empty() && reply.refused.is_empty() {
            true => Exit::Done,
            false => Exit::Partial,
        },
    )
}

/// The leases that were meant: of each name exactly one snapshot.
fn choose(
    leases: Vec<LeaseEntry>,
    names: &[String],
    all: bool,
) -> Result<Vec<LeaseEntry>, Failure> {
    for name in names {
        let mut fitting: Vec<&str> = leases
            .iter()
            .map(|lease| lease.snapshot.as_str())
            .filter(|snapshot| snapshot.starts_with(name.as_str()))
            .collect();
        fitting.dedup();
        match fitting.len() {
            1 => {}
            0 => {
                let text = format!("no other machine keeps a copy of a snapshot '{name}'");
                return Err(Failure::usage(text).with_hint("`libernet lease list` shows them"));
            }
            _ => {
                return Err(Failure::usage(format!(
                    "'{name}' fits more than one snapshot"
                )));
            }
        }
    }
    let is_meant = |lease: &LeaseEntry| {
        all || names
            .iter()
            .any(|name| lease.snapshot.starts_with(name.as_str()))
    };
    Ok(leases.into_iter().filter(is_meant).collect())
}

fn tell(reply: &LeaseReleaseReply, context: &Context) {
    context.notice(&format!(
        "{} released",
        show::count(reply.released, "lease")
    ));
    for peer in &reply.unreachable {
        context.warning(&format!(
            "{peer} can't be reached: it keeps its copy until the lease ends; try again when it is there"
        ));
    }
    for peer in &reply.refused {
        context.warning(&format!(
            "{peer} refused: these words are not those of the owner, or the lease was renewed meanwhile"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_one_snapshot_each() {
        let lease = |snapshot: &str, peer: &str| LeaseEntry {
            snapshot: snapshot.to_owned(),
            set: String::new(),
            peer: peer.to_owned(),
            name: String::new(),
            sequence: 1,
        };
        let leases = || vec![lease("aa11", "x"), lease("aa11", "y"), lease("ab22", "x")];
        let count = |names: &[&str], all| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            choose(leases(), &names, all).map(|chosen| chosen.len())
        };
        assert_eq!(count(&["aa"], false).expect("one"), 2);
        assert_eq!(count(&["aa1", "ab"], false).expect("two"), 3);
        assert_eq!(count(&[], true).expect("all"), 3);
        assert!(count(&["a"], false).is_err());
        assert!(count(&["cc"], false).is_err());
    }
}
