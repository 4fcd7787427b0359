//! `libernet forget`: which snapshots stay.

use std::collections::BTreeSet;
use std::time::SystemTime;

use data_encoding::HEXLOWER;
use serde_json::json;

use super::keep::Keep;
use super::voice::{Voice, Words};
use super::{MAX_NAMED, Passphrase, contents, prune, short, warn_of_clocks};
use crate::backup::order::{self, Order};
use crate::backup::owner::OwnerKeys;
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::{output, show, target};
use crate::client::Client;
use crate::id::BlockId;
use crate::node::api::{DecideSnapshots, Forget, ForgetReply, Part, SnapshotInfo};
use crate::time::Timestamp;

/// Forget snapshots: those that no rule keeps, or those that are named.
///
/// A machine forgets its own snapshots, and only asks for those of another machine: the request is
/// shown there, and is carried out 30 days after that machine has first seen it, unless somebody
/// keeps the snapshot (`libernet unforget`), and never for the newest snapshot of a set. With the
/// owner's words (--phrase) everything goes at once.
///
/// Rules add up: a snapshot stays when any of them keeps it. Snapshots are judged in groups: those
/// of one machine and one set, whatever paths the set has had; those that were made without a set
/// in groups of the same paths, or with --tag all together. No rule takes the last snapshot of a
/// group: name it to forget it. Space is given back by `libernet prune`, or by --prune.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet forget --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --dry-run
  libernet forget --keep-last 3 --set home --prune
  libernet forget --keep-last 7 --group-by machine,paths
  libernet forget 1f3a2b4c
  libernet forget 1f3a2b4c --phrase          # another machine's, at once

Without a rule and without a name nothing is forgotten: exit code 2. A set, a --tag, or rules of tags alone that no snapshot has: exit
code 4, and nothing is forgotten.
Snapshots of the owner's other machines are left alone without --all-machines. A machine that was brought back from the words is a new
machine: what it backed up before counts as another's. Until it is pruned, `libernet unforget` takes everything back.
With --json: {\"kept\":[{\"snapshot\":{..},\"reasons\":[..]}],\"forgotten\":[{\"snapshot\",\"link\",\"time\",..}],\"asked\":[..],\"others\",
  \"unknown_tags\",\"bare_paths\",\"pruned\"}: \"asked\" are snapshots of other machines that this one asks to forget, \"others\" counts snapshots of other machines that were left alone, \"unknown_tags\" are tags of rules that
  no snapshot has, \"bare_paths\" are paths of which no snapshot is left, \"pruned\" is as of `libernet prune`, null without --prune")]
pub(in crate::cli) struct Args {
    /// Snapshots to forget by name: the first digits of an id. The others stay unless there are rules.
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    /// Judge only snapshots of this set.
    #[arg(long, value_name = "NAME")]
    set: Option<String>,
    /// Judge only snapshots with this tag.
    #[arg(long)]
    tag: Option<String>,
    /// Judge the snapshots of the owner's other machines, too.
    #[arg(long)]
    all_machines: bool,
    /// Keys that the snapshots of one group have in common; none: all are one group [default:
    /// machine,set; without a set and a --tag paths, too].
    #[arg(long, value_name = "KEYS", value_enum, value_delimiter = ',')]
    group_by: Vec<GroupBy>,
    /// Give back the space at once.
    #[arg(long)]
    prune: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    words: Words,
    #[command(flatten)]
    passphrase: Passphrase,
    // Its heading holds for all that is behind it.
    #[command(flatten)]
    keep: Keep,
}

/// Key that the snapshots of one group have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum GroupBy {
    /// The name of the set.
    Set,
    /// All paths.
    Paths,
    /// The machine.
    Machine,
    /// All tags.
    Tags,
    /// Nothing.
    None,
}

impl GroupBy {
    const fn part(self) -> Option<Part> {
        match self {
            Self::Set => Some(Part::Set),
            Self::Paths => Some(Part::Paths),
            Self::Machine => Some(Part::Machine),
            Self::Tags => Some(Part::Tags),
            Self::None => None,
        }
    }
}

pub(in crate::cli) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let policy = args.keep.policy();
    if policy.is_empty() && args.snapshots.is_empty() {
        return Err(
            Failure::usage("there is neither a rule nor a snapshot to forget").with_hint(
                "say what stays, such as --keep-daily 7 --keep-monthly 12, or name snapshots",
            ),
        );
    }
    let parts = args.group_by.iter().filter_map(|key| key.part());
    let group_by: Option<BTreeSet<Part>> = (!args.group_by.is_empty()).then(|| parts.collect());
    let names = args.snapshots.iter().map(|name| target::snapshot(name));
    let snapshots: Vec<String> = names.collect::<Result<_, _>>()?;
    let keys = match args.words.are_given() {
        true => Some(args.words.owner(context).await?),
        false => None,
    };
    let mut voice = Voice::of_machine(&args.passphrase, context).await?;
    let (reply, pruned) = context
        .with_client(async |client, _| {
            let mut reply = voice
                .call(context, async |speaker| {
                    let request = Forget {
                        speaker,
                        policy: policy.clone(),
                        snapshots: snapshots.clone(),
                        set: args.set.clone(),
                        tag: args.tag.clone(),
                        group_by: group_by.clone(),
                        all_machines: args.all_machines,
                        // With the words it is they that decide, about what this finds.
                        dry_run: args.dry_run || keys.is_some(),
                    };
                    client.forget(request).await
                })
                .await?;
            if let Some(keys) = &keys {
                let asked = std::mem::take(&mut reply.asked);
                reply.forgotten.extend(asked);
                if !args.dry_run {
                    let ids = reply.forgotten.iter().map(|info| info.link.id).collect();
                    decide(client, &mut voice, keys, true, ids, context).await?;
                }
            }
            // Nothing was forgotten by a dry run, so there is nothing of it to prune.
            let pruned = if args.prune && !args.dry_run {
                Some(prune::prune(client, &mut voice, false, 0, context).await?)
            } else {
                None
            };
            Ok((reply, pruned))
        })
        .await?;
    warn(&reply, args.dry_run, context);
    if context.json {
        let mut value = json!(reply);
        value["pruned"] = json!(pruned);
        output::json(&value)?;
    } else {
        tell(&reply, &args, context)?;
        match &pruned {
            Some(pruned) => prune::tell(pruned, false, context),
            None if !args.dry_run && !reply.forgotten.is_empty() => {
                context.notice("`libernet prune` gives their space back");
            }
            None => {}
        }
    }
    Ok(match reply.is_of_unknown_tags() {
        true => Exit::NotFound,
        false => Exit::Done,
    })
}

/// Signs with the owner's words that these snapshots go, or stay, and has the machine pass it on.
/// Returns the snapshots that the order is about.
pub(super) async fn decide(
    client: &Client,
    voice: &mut Voice,
    keys: &OwnerKeys,
    forgets: bool,
    ids: Vec<BlockId>,
    context: &Context,
) -> Result<Vec<SnapshotInfo>, Failure> {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let made = Timestamp(now.as_millis() as u64);
    let mut concerned = Vec::new();
    for ids in ids.chunks(order::MAX_IDS) {
        let signed = Order::sign(keys, forgets, ids.to_vec(), made);
        let signed = signed.map_err(|error| Failure::usage(error.to_string()))?;
        let order = HEXLOWER.encode(&signed.encode());
        let reply = voice.call(context, async |speaker| {
            let order = order.clone();
            client.order(DecideSnapshots { speaker, order }).await
        });
        concerned.extend(reply.await?.snapshots);
    }
    Ok(concerned)
}

/// Says what may not be as it was meant.
fn warn(reply: &ForgetReply, dry_run: bool, context: &Context) {
    for tag in &reply.unknown_tags {
        context.warning(&format!("no snapshot that was judged has the tag '{tag}'"));
    }
    if reply.is_of_unknown_tags() {
        context.warning("no rule keeps anything: nothing is forgotten by rules");
    }
    let last = reply.last_of_groups();
    if last > 0 {
        context.warning(&format!(
            "{} no rule, as the last of {}: `libernet forget ID` forgets what is named",
            if last == 1 {
                "1 snapshot is kept by".to_owned()
            } else {
                format!("{last} snapshots are kept by")
            },
            if last == 1 {
                "its group"
            } else {
                "their groups"
            },
        ));
    }
    let verb = if dry_run { "would be" } else { "is" };
    for path in reply.bare_paths.iter().take(MAX_NAMED) {
        context.warning(&format!("no snapshot of {path} {verb} left"));
    }
    if reply.bare_paths.len() > MAX_NAMED {
        let more = reply.bare_paths.len() - MAX_NAMED;
        context.warning(&format!(
            "nor of {}",
            show::count(more as u64, "other path")
        ));
    }
    warn_of_clocks(reply.kept.iter().map(|kept| &kept.snapshot), context);
}

fn tell(reply: &ForgetReply, args: &Args, context: &Context) -> Result<(), Failure> {
    output::stdout(text(reply).as_bytes())?;
    let verb = if args.dry_run {
        "would be forgotten"
    } else {
        "forgotten"
    };
    let (kept, forgotten) = (reply.kept.len(), reply.forgotten.len());
    let asked = reply.asked.len();
    let asked_for = match asked {
        0 => String::new(),
        asked if args.dry_run => format!(", {asked} would be asked for"),
        asked => format!(", {asked} asked for"),
    };
    context.notice(&format!(
        "of {}: {kept} kept, {forgotten} {verb}{asked_for}",
        show::count((kept + forgotten + asked) as u64, "snapshot")
    ));
    if asked > 0 {
        context.notice(
            "what another machine made is only asked for: it goes 30 days after that machine has first seen the request, the newest of a \
             set never; `libernet unforget ID` on any machine keeps it, --phrase forgets at once",
        );
    }
    if reply.others > 0 {
        context.notice(&format!(
            "{} of the owner's other machines left alone, also those that this machine made before it was brought back from the words: \
             --all-machines judges them, too",
            show::count(reply.others, "snapshot")
        ));
    }
    Ok(())
}

fn text(reply: &ForgetReply) -> String {
    let row = |verdict: &str, info: &SnapshotInfo, reasons: String| {
        vec![
            verdict.to_owned(),
            short(&info.snapshot).to_owned(),
            show::timestamp(info.time),
            show::printable(&reasons),
            contents(info),
        ]
    };
    let mut rows = Vec::new();
    for kept in &reply.kept {
        rows.push(row("keep", &kept.snapshot, kept.reasons.join(", ")));
    }
    for info in &reply.forgotten {
        rows.push(row("forget", info, String::new()));
    }
    for info in &reply.asked {
        rows.push(row("ask", info, String::new()));
    }
    show::table(&rows, &[])
}
