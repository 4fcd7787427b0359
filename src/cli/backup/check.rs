//! `libernet check`: whether everything is there, and whole.

use std::collections::BTreeMap;

use super::voice::Voice;
use super::which::Which;
use super::{MAX_NAMED, Passphrase, short};
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::{output, show, target};
use crate::client::Client;
use crate::node;
use crate::node::api::{Check, CheckReply, Damage, RebuildReply};
use crate::size::ByteSize;

/// Check that everything that snapshots need is there, and mend it from other nodes where it is not.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet check
  libernet check --read-data                 # reads every byte
  libernet check --read-data-subset 5%       # reads a random share
  libernet check --set docs                  # only snapshots of this set; as in `restore`
  libernet check --remote                    # asks connected nodes what they hold
  libernet check --rebuild                   # makes a damaged index of the store again first

Exit code 5 when there is damage that could not be made good, 3 when blocks could not be read now: they stay as they are.
With --json: {\"snapshots\",\"blocks\",\"read_blocks\",\"read_bytes\",\"errors\":[{\"snapshot\",\"path\",\"block\",\"reason\"}],\"errors_total\",
  \"mended\":[..],\"mended_total\",\"unreadable\":[..],\"unreadable_total\",\"holders\":[{\"peer\",\"blocks\",\"asked\"}]}, and with --rebuild \"rebuilt\":{\"aside\",\"blocks\",\"bytes\",\"damaged\",
  \"lost\",\"pins\",\"partial_pins\":[{\"id\",\"name\",\"blocks\",\"found\"}],\"leases\",\"unreadable\":[..],\"whole_index\",\"kept\",\"kept_blocks\"}")]
pub(in crate::cli) struct Args {
    /// Read all data, not only the names of what there is.
    #[arg(long, conflicts_with = "read_data_subset")]
    read_data: bool,
    /// Read a random share of the data.
    #[arg(long, value_name = "N%", value_parser = percent)]
    read_data_subset: Option<f64>,
    /// Ask connected nodes which blocks they hold.
    #[arg(long)]
    remote: bool,
    /// First make the index of the store again from the files that hold the blocks; the old files
    /// are kept aside. No node may run.
    #[arg(long)]
    rebuild: bool,
    /// Only this snapshot: latest, or the first digits of its id.
    #[arg(long, value_name = "SNAPSHOT")]
    snapshot: Option<String>,
    /// Time to look for one block that must be mended.
    #[arg(long, value_name = "TIME", value_parser = crate::time::seconds, allow_hyphen_values = true)]
    timeout: Option<u64>,
    #[command(flatten)]
    passphrase: Passphrase,
    // Its heading holds for all that is behind it.
    #[command(flatten)]
    which: Which,
}

/// `5%`, `2.5%`, `5`.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    match number.parse::<f64>() {
        Ok(share) if share > 0.0 && share <= 100.0 => Ok(share),
        _ => Err(format!(
            "'{text}' is not a share: write more than 0% and at most 100%"
        )),
    }
}

pub(in crate::cli) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let snapshot = args.snapshot.as_deref().map(target::snapshot).transpose()?;
    let share = if args.read_data {
        100.0
    } else {
        args.read_data_subset.unwrap_or(0.0)
    };
    let rebuilt = match args.rebuild {
        true => Some(rebuild(context).await?),
        false => None,
    };
    let checked = check(&args, snapshot, share, context).await;
    let mut reply = match (checked, &rebuilt) {
        // Without backups there is nothing else to check.
        (Err(failure), Some(_)) if failure.exit == Exit::NotFound => {
            context.notice(&format!("no backups were checked: {}", failure.message));
            CheckReply::default()
        }
        (checked, _) => checked?,
    };
    let is_rebuilt_whole = rebuilt.as_ref().is_none_or(RebuildReply::is_whole);
    reply.rebuilt = rebuilt;
    warn(&reply.errors, reply.errors_total, "damage", context);
    warn(&reply.mended, reply.mended_total, "mended", context);
    warn(
        &reply.unreadable,
        reply.unreadable_total,
        "not checked",
        context,
    );
    if context.json {
        output::json(&reply)?;
    } else {
        tell(&reply, context)?;
    }
    Ok(match (reply.errors_total, reply.unreadable_total) {
        (0, _) if !is_rebuilt_whole => Exit::Damaged,
        (0, 0) => Exit::Done,
        (0, _) => Exit::Partial,
        _ => Exit::Damaged,
    })
}

/// Makes the index again, and says what came of it.
async fn rebuild(context: &Context) -> Result<RebuildReply, Failure> {
    context.must_exist()?;
    if Client::running(&context.data_dir).await?.is_some() {
        let what = format!("a node is running on {}", context.data_dir.display());
        return Err(Failure::new(Exit::Locked, what).with_hint(
            "stop it first; `libernet up` makes a damaged index again by itself when it starts",
        ));
    }
    let config = context.config(BTreeMap::new())?;
    let reply = node::rebuild(&context.data_dir, &config).await?;
    for (number, line) in reply.lines().iter().enumerate() {
        match number {
            0 => context.notice(line),
            _ => context.warning(line),
        }
    }
    Ok(reply)
}

async fn check(
    args: &Args,
    snapshot: Option<String>,
    share: f64,
    context: &Context,
) -> Result<CheckReply, Failure> {
    let choice = args.which.choice()?;
    let mut voice = Voice::of_machine(&args.passphrase, context).await?;
    context
        .with_client(async |client, config| {
            let timeout_s = args.timeout.unwrap_or(config.timeout_s);
            voice
                .call(context, async |speaker| {
                    let request = Check {
                        speaker,
                        read_data_percent: share,
                        remote: args.remote,
                        snapshot: snapshot.clone(),
                        choice: choice.clone(),
                        timeout_s,
                    };
                    client.check(request, context.bar("check")).await
                })
                .await
        })
        .await
}

fn warn(parts: &[Damage], total: u64, what: &str, context: &Context) {
    for part in parts.iter().take(MAX_NAMED) {
        context.warning(&format!(
            "{what}: {} in {}: block {} is {}",
            part.path,
            short(&part.snapshot),
            part.block,
            part.reason
        ));
    }
    let named = parts.len().min(MAX_NAMED) as u64;
    if total > named {
        context.warning(&format!("{what}: {} more", total - named));
    }
}

fn tell(reply: &CheckReply, context: &Context) -> Result<(), Failure> {
    let mut text = format!(
        "{} checked, {} read ({}): {} damaged, {} mended\n",
        show::count(reply.snapshots, "snapshot"),
        show::count(reply.read_blocks, "block"),
        ByteSize(reply.read_bytes),
        reply.errors_total,
        reply.mended_total,
    );
    for holder in &reply.holders {
        text.push_str(&format!(
            "{} holds {} of {}\n",
            show::printable(context.id(&holder.peer)),
            holder.blocks,
            show::count(holder.asked, "block")
        ));
    }
    if reply.unreadable_total > 0 {
        text.push_str(&format!(
            "{} could not be read: nothing was dropped\n",
            show::count(reply.unreadable_total, "block")
        ));
        context.notice("look at the disk, its cable and its permissions, and run it again");
    }
    if reply.errors_total > 0 {
        context.notice("connect to a node that has a copy and run it again: what is damaged is fetched from there");
    }
    output::stdout(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        assert_eq!(percent("5%"), Ok(5.0));
        assert_eq!(percent("100"), Ok(100.0));
        assert_eq!(percent("0.5%"), Ok(0.5));
        for text in ["", "%", "0", "-1%", "100.1%", "NaN", "inf", "5%%"] {
            assert!(percent(text).is_err(), "{text}");
        }
    }
}
