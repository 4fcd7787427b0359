//! `libernet lease`: copies on other machines, and their end before time.
//!
//! The words stay in this process: it signs each release itself, and the node only passes them on.

use std::collections::BTreeSet;
use std::time::SystemTime;

use data_encoding::HEXLOWER;

use super::voice::{Words, reading};
use super::{held, short};
use crate::backup::owner::{OwnerKeys, Vault};
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::{output, show, target};
use crate::client::Client;
use crate::id::BlockId;
use crate::lease::{Extent, Name};
use crate::node::api::{
    ErrorKind, LeaseEntry, LeaseList, LeaseRelease, LeaseReleaseReply, MemberRelease, OwnerRelease,
    ReleaseAnswer, RingList, Snapshots, Speaker,
};
use crate::time::Timestamp;

/// Digits of a whole id.
const ID_DIGITS: usize = 96;

/// Show leases, or end them early: copies of this machine's backups elsewhere, others' here.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet lease list
  libernet lease release 1f3a2b4c --phrase
  libernet lease release --all --phrase-file words.txt
  libernet lease release --everywhere --phrase     # on any machine that is in the ring
  libernet lease held
  libernet lease drop --member laptop

A machine's key asks for copies and gives them back only once their minimum of 75 days is over. Before that only the owner's words do.
Every member of this machine's rings is asked, and the holders that this machine knows: its list of copies is not needed.
With --json: list {\"leases\":[{\"snapshot\",\"set\",\"peer\",\"name\",\"sequence\"}]}, release {\"released\",\"unreachable\":[..],\"refused\":[..],
  \"members\":[{\"peer\",\"name\",\"released\",\"newer\",\"answer\"}]} where answer is done, unreachable or refused, held {\"leases\":[{\"name\",\"owner\",\"peer\",\"machine\",\"blocks\",\"bytes\",
  \"whole\",\"received\",\"until\",\"removed\"}],\"bytes\"}, drop {\"dropped\",\"bytes\"}
Release ends with 3 when some holders or members could not be asked or refused, or have leases that are newer than the release.")]
pub(in crate::cli) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the copies of this machine's backups on other machines.
    List,
    /// List the backups of other machines that are kept here.
    Held,
    /// Let go of backups of other machines that are kept here.
    Drop(held::Drop),
    /// Let other machines drop their copies of backups now, by the owner's words. No other copies are made of these.
    Release(Release),
}

#[derive(Debug, clap::Args)]
struct Release {
    /// Snapshots by the first digits of their ids; by the whole id also those that nobody lists any more.
    #[arg(value_name = "SNAPSHOT", required_unless_present_any = ["all", "everywhere"])]
    snapshots: Vec<String>,
    /// The copies of all snapshots of which this machine knows copies.
    #[arg(long, conflicts_with_all = ["snapshots", "everywhere"])]
    all: bool,
    /// All copies of everything of the owner's, whichever machine made it: for when that machine is gone, or its list of copies.
    #[arg(long, conflicts_with = "snapshots")]
    everywhere: bool,
    #[command(flatten)]
    words: Words,
}

pub(in crate::cli) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    match args.command {
        Command::List => list(context).await,
        Command::Held => held::list(context).await,
        Command::Drop(args) => held::drop(args, context).await,
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
                context.id(&lease.peer).to_owned(),
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
        .with_client(async |client, config| {
            let mut leases = client.lease_list(LeaseList {}).await?.leases;
            if args.everywhere && !is_ours(&keys, context) {
                // These are somebody else's: what members have of the owner is all that is meant.
                leases.clear();
            }
            let wanted = match (args.everywhere, args.all) {
                (true, _) => Wanted::Everything,
                (_, true) => Wanted::all(&leases)?,
                _ => {
                    let finder = Finder {
                        client,
                        keys: &keys,
                        timeout_s: config.timeout_s,
                    };
                    Wanted::Snapshots(finder.find_all(&leases, names).await?)
                }
            };
            let mut releases = of_leases(&wanted, leases, &keys, made)?;
            let is_in_ring = !client.ring_list(RingList {}).await?.rings.is_empty();
            // Without a ring there is nobody else; that it is missing is said where nothing else can be done.
            if is_in_ring || releases.is_empty() {
                releases.extend(of_members(&wanted, &keys, made)?);
            }
            Ok(client.lease_release(LeaseRelease { releases }).await?)
        })
        .await?;
    if context.json {
        output::json(&reply)?;
    } else {
        tell(&reply, context);
    }
    Ok(match is_complete(&reply) {
        true => Exit::Done,
        false => Exit::Partial,
    })
}

/// Whether this machine's backups are of the owner with these words.
fn is_ours(keys: &OwnerKeys, context: &Context) -> bool {
    let vault = Vault::open(&context.data_dir).ok().flatten();
    vault.is_some_and(|vault| *vault.owner() == keys.id())
}

/// What is to be let go.
enum Wanted {
    /// Copies of these snapshots, by their ids.
    Snapshots(BTreeSet<String>),
    /// All that the owner has.
    Everything,
}

impl Wanted {
    /// All snapshots of which this machine knows copies.
    fn all(leases: &[LeaseEntry]) -> Result<Self, Failure> {
        if leases.is_empty() {
            let text = "this machine knows of no copies on other machines";
            return Err(Failure::usage(text).with_hint(
                "--everywhere asks every member of its rings to let go of everything of the owner's",
            ));
        }
        let snapshots = leases.iter().map(|lease| lease.snapshot.clone());
        Ok(Self::Snapshots(snapshots.collect()))
    }

    fn has(&self, snapshot: &str) -> bool {
        match self {
            Self::Snapshots(snapshots) => snapshots.contains(snapshot),
            Self::Everything => true,
        }
    }
}

/// Finds snapshots by the first digits of their ids.
struct Finder<'a> {
    client: &'a Client,
    keys: &'a OwnerKeys,
    timeout_s: u64,
}

impl Finder<'_> {
    /// Among those of which copies are known, then among those that the owner has.
    async fn find_all(
        &self,
        leases: &[LeaseEntry],
        names: Vec<String>,
    ) -> Result<BTreeSet<String>, Failure> {
        let copied: BTreeSet<&str> = leases.iter().map(|l| l.snapshot.as_str()).collect();
        let mut found = BTreeSet::new();
        let mut listed: Option<Vec<String>> = None;
        for name in names {
            if let Some(id) = one_of(copied.iter().copied(), &name)? {
                found.insert(id);
                continue;
            }
            if name.len() == ID_DIGITS {
                found.insert(name);
                continue;
            }
            let known = match listed.take() {
                Some(known) => known,
                None => self.snapshots().await?,
            };
            let id = one_of(known.iter().map(String::as_str), &name)?;
            listed = Some(known);
            found.insert(id.ok_or_else(|| {
                let text = format!("no snapshot and no copy of one is known as '{name}'");
                Failure::usage(text).with_hint(
                    "`libernet lease list` and `libernet snapshots --phrase` show them; one that was forgotten needs its whole id, or --everywhere",
                )
            })?);
        }
        Ok(found)
    }

    async fn snapshots(&self) -> Result<Vec<String>, Failure> {
        let request = Snapshots {
            speaker: Speaker {
                passphrase: None,
                keys: Some(reading(self.keys)),
                no_meet: false,
            },
            timeout_s: self.timeout_s,
            ..Snapshots::default()
        };
        let snapshots = match self.client.snapshots(request).await {
            Ok(reply) => reply.snapshots,
            // Nobody has the head: then no snapshot is known.
            Err(error) if error.kind == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        Ok(snapshots.into_iter().map(|info| info.snapshot).collect())
    }
}

/// The one id that begins so.
fn one_of<'a>(ids: impl Iterator<Item = &'a str>, name: &str) -> Result<Option<String>, Failure> {
    let mut fitting = ids.filter(|id| id.starts_with(name));
    match (fitting.next(), fitting.next()) {
        (_, Some(_)) => Err(Failure::usage(format!(
            "'{name}' fits more than one snapshot"
        ))),
        (one, None) => Ok(one.map(str::to_owned)),
    }
}

/// Releases of the leases that this machine knows.
fn of_leases(
    wanted: &Wanted,
    leases: Vec<LeaseEntry>,
    keys: &OwnerKeys,
    made: Timestamp,
) -> Result<Vec<OwnerRelease>, Failure> {
    let meant = leases.into_iter().filter(|one| wanted.has(&one.snapshot));
    let releases = meant.map(|lease| {
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
    releases.collect()
}

/// Releases for every member of the rings.
fn of_members(
    wanted: &Wanted,
    keys: &OwnerKeys,
    made: Timestamp,
) -> Result<Vec<OwnerRelease>, Failure> {
    let release = |extent, snapshot| OwnerRelease {
        snapshot,
        peer: String::new(),
        release: HEXLOWER.encode(&keys.release_all(extent, made).encode()),
    };
    let Wanted::Snapshots(snapshots) = wanted else {
        return Ok(vec![release(Extent::Everything, String::new())]);
    };
    let releases = snapshots.iter().map(|snapshot| {
        let digest = HEXLOWER.decode(snapshot.as_bytes()).unwrap_or_default();
        let digest = digest
            .try_into()
            .map_err(|_| Failure::usage(format!("'{snapshot}' is not the id of a snapshot")))?;
        let root = BlockId::from_sha384(digest);
        Ok(release(Extent::Backup(root), snapshot.clone()))
    });
    releases.collect()
}

/// Whether nothing is left that could not be ended.
fn is_complete(reply: &LeaseReleaseReply) -> bool {
    let is_done =
        |member: &MemberRelease| member.answer == ReleaseAnswer::Done && member.newer == 0;
    reply.unreachable.is_empty() && reply.refused.is_empty() && reply.members.iter().all(is_done)
}

fn tell(reply: &LeaseReleaseReply, context: &Context) {
    for member in reply.members.iter().filter(|member| member.released > 0) {
        let released = show::count(member.released, "lease");
        context.notice(&format!("{}: {released} released", called(member)));
    }
    let silent = |answer| {
        let members = reply.members.iter();
        members
            .filter(move |member| member.answer == answer)
            .map(called)
    };
    let nothing = reply.members.iter().filter(|member| {
        member.answer == ReleaseAnswer::Done && member.released == 0 && member.newer == 0
    });
    for member in nothing {
        context.notice(&format!("{}: keeps nothing more of it", called(member)));
    }
    context.notice(&format!(
        "{} released",
        show::count(reply.released, "lease")
    ));
    let unreachable = reply.unreachable.iter().cloned();
    for peer in unreachable.chain(silent(ReleaseAnswer::Unreachable)) {
        context.warning(&format!(
            "{peer} can't be reached: what it keeps stays until the lease ends; try again when it is there"
        ));
    }
    let refused = reply.refused.iter().cloned();
    for peer in refused.chain(silent(ReleaseAnswer::Refused)) {
        context.warning(&format!(
            "{peer} refused: these words are not those of the owner, or the lease was renewed meanwhile"
        ));
    }
    for member in reply.members.iter().filter(|member| member.newer > 0) {
        let newer = show::count(member.newer, "lease");
        context.warning(&format!(
            "{} keeps {newer} made or renewed later than this release: a machine of the owner's goes on asking for copies, or one of the clocks is wrong; run it again",
            called(member)
        ));
    }
    if reply.released == 0 && reply.refused.is_empty() {
        context.notice("nobody who was asked keeps anything of it; if that can't be, compare every word with your sheet, and the ring with that of the holders");
    }
}

fn called(member: &MemberRelease) -> String {
    match member.name.as_str() {
        "" => member.peer.clone(),
        name => format!("{} ({})", show::printable(name), short(&member.peer)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_one_snapshot_each() {
        let ids = ["aa11", "aa11", "ab22"];
        let of = |name| {
            let ids: BTreeSet<&str> = ids.into_iter().collect();
            one_of(ids.into_iter(), name)
        };
        assert_eq!(of("aa").expect("one"), Some("aa11".to_owned()));
        assert_eq!(of("cc").expect("none"), None);
        assert!(of("a").is_err());
    }

    #[test]
    fn known_leases_are_ended_by_name_and_all_members_are_asked() {
        use crate::backup::owner::Phrase;
        use crate::lease;
        let keys = OwnerKeys::derive(&Phrase::random());
        let root = "ab".repeat(48);
        let lease = |snapshot: &str, peer: &str| LeaseEntry {
            snapshot: snapshot.to_owned(),
            set: String::new(),
            peer: peer.to_owned(),
            name: "07".repeat(16),
            sequence: 5,
        };
        let leases = || vec![lease(&root, "x"), lease(&root, "y"), lease("cd", "x")];
        let wanted = Wanted::Snapshots([root.clone()].into());
        let made = Timestamp(9);
        let decoded = |one: &OwnerRelease| {
            let bytes = HEXLOWER.decode(one.release.as_bytes()).expect("hex");
            lease::Release::decode(&bytes).expect("a release")
        };
        let narrow = of_leases(&wanted, leases(), &keys, made).expect("of both");
        assert_eq!(narrow.len(), 2);
        assert_eq!(decoded(&narrow[0]).sequence(), 5);
        let wide = of_members(&wanted, &keys, made).expect("of the snapshot");
        assert_eq!((wide.len(), wide[0].peer.as_str()), (1, ""));
        let root = BlockId::from_sha384([0xab; 48]);
        assert_eq!(decoded(&wide[0]).extent(), Extent::Backup(root));
        let all = of_members(&Wanted::Everything, &keys, made).expect("of all");
        assert_eq!(decoded(&all[0]).extent(), Extent::Everything);
        let odd = Wanted::Snapshots(["cd".to_owned()].into());
        assert!(of_members(&odd, &keys, made).is_err());
        assert!(Wanted::all(&[]).is_err());
    }
}
