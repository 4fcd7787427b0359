//! `libernet forget`: which snapshots stay.

use serde_json::json;

use super::keep::Keep;
use super::voice::Voice;
use super::{Passphrase, contents, local, prune, short};
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::{output, show, target};
use crate::node::api::{Forget, ForgetReply, SnapshotInfo};

/// Forget snapshots: those that no rule keeps, or those that are named.
///
/// Rules add up: a snapshot stays when any of them keeps it. Snapshots are judged in groups of one machine and one set of paths. Space is
/// given back by `libernet prune`, or by --prune.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet forget --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --dry-run
  libernet forget --keep-last 3 --set home --prune
  libernet forget 1f3a2b4c

Without a rule and without a name nothing is forgotten: exit code 2.
Snapshots of the owner's other machines are left alone without --all-machines. A machine that was brought back from the words is a new
machine: what it backed up before counts as another's.
With --json: {\"kept\":[{\"snapshot\":{..},\"reasons\":[..]}],\"forgotten\":[{\"snapshot\",\"link\",\"time\",..}],\"others\",\"pruned\"}: \"others\"
  counts snapshots of other machines that were left alone, \"pruned\" is as of `libernet prune`, null without --prune")]
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
    /// Give back the space at once.
    #[arg(long)]
    prune: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    passphrase: Passphrase,
    // Its heading holds for all that is behind it.
    #[command(flatten)]
    keep: Keep,
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
    let names = args.snapshots.iter().map(|name| target::snapshot(name));
    let snapshots: Vec<String> = names.collect::<Result<_, _>>()?;
    let mut voice = Voice::of_machine(&args.passphrase, context).await?;
    let (reply, pruned) = context
        .with_client(async |client, _| {
            let reply = voice
                .call(context, async |speaker| {
                    let request = Forget {
                        speaker,
                        policy: policy.clone(),
                        snapshots: snapshots.clone(),
                        set: args.set.clone(),
                        tag: args.tag.clone(),
                        all_machines: args.all_machines,
                        dry_run: args.dry_run,
                    };
                    client.forget(request).await
                })
                .await?;
            // Nothing was forgotten by a dry run, so there is nothing of it to prune.
            let pruned = if args.prune && !args.dry_run {
                Some(prune::prune(client, &mut voice, false, 0, context).await?)
            } else {
                None
            };
            Ok((reply, pruned))
        })
        .await?;
    if context.json {
        output::json(&json!({
            "kept": reply.kept,
            "forgotten": reply.forgotten,
            "others": reply.others,
            "pruned": pruned,
        }))?;
        return Ok(Exit::Done);
    }
    output::stdout(text(&reply).as_bytes())?;
    let verb = if args.dry_run {
        "would be forgotten"
    } else {
        "forgotten"
    };
    context.notice(&format!(
        "{} kept, {} {verb}",
        reply.kept.len(),
        reply.forgotten.len()
    ));
    if reply.others > 0 {
        context.notice(&format!(
            "{} of the owner's other machines left alone, also those that this machine made before it was brought back from the words: \
             --all-machines judges them, too",
            show::count(reply.others, "snapshot")
        ));
    }
    match &pruned {
        Some(pruned) => prune::tell(pruned, false, context),
        None if !args.dry_run && !reply.forgotten.is_empty() => {
            context.notice("`libernet prune` gives their space back");
        }
        None => {}
    }
    Ok(Exit::Done)
}

fn text(reply: &ForgetReply) -> String {
    let row = |verdict: &str, info: &SnapshotInfo, reasons: String| {
        vec![
            verdict.to_owned(),
            short(&info.snapshot).to_owned(),
            local(info.time),
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
    show::table(&rows, &[])
}
