//! `libernet prune`: room that forgotten snapshots took.

use super::Passphrase;
use super::voice::Voice;
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::{output, show};
use crate::client::Client;
use crate::node::api::{Prune, PruneReply};
use crate::size::ByteSize;

/// Give back the space of forgotten snapshots.
///
/// Removes from this machine what no snapshot, pin or lease needs any more. What is shared with
/// another snapshot stays. What interrupted backups and puts stored goes as well: run them to their
/// end before, if they are to go on where they were.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet prune
  libernet prune --dry-run
  libernet prune --repack-below 50           # also rewrites packs of which less than half is used

With --json: {\"snapshots\",\"freed_blocks\",\"freed_bytes\",\"interrupted_blocks\",\"repacked_blocks\",\"disk_bytes_before\",\"disk_bytes\"}")]
pub(in crate::cli) struct Args {
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Rewrite packs of which less than this share, in percent, is still used; 0: none. Snapshots that use such a pack get new ids.
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    repack_below: u8,
    #[command(flatten)]
    passphrase: Passphrase,
}

pub(in crate::cli) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let mut voice = Voice::of_machine(&args.passphrase, context).await?;
    let reply = context
        .with_client(async |client, _| {
            prune(client, &mut voice, args.dry_run, args.repack_below, context).await
        })
        .await?;
    if context.json {
        output::json(&reply)?;
    } else {
        tell(&reply, args.dry_run, context);
    }
    Ok(Exit::Done)
}

/// Asks the node.
pub(super) async fn prune(
    client: &Client,
    voice: &mut Voice,
    dry_run: bool,
    repack_below_percent: u8,
    context: &Context,
) -> Result<PruneReply, Failure> {
    voice
        .call(context, async |speaker| {
            let request = Prune {
                speaker,
                dry_run,
                repack_below_percent,
                spare_interrupted: false,
            };
            client.prune(request, context.bar("prune")).await
        })
        .await
}

/// What was done, for people.
pub(super) fn tell(reply: &PruneReply, dry_run: bool, context: &Context) {
    let (verb, bytes) = if dry_run {
        ("would be removed", ByteSize(reply.freed_bytes))
    } else {
        ("removed", ByteSize(reply.freed_bytes))
    };
    context.notice(&format!(
        "{} of {} {verb}: {bytes}",
        show::count(reply.freed_blocks, "block"),
        show::count(reply.snapshots, "forgotten snapshot"),
    ));
    if reply.interrupted_blocks > 0 {
        context.notice(&format!(
            "{} of them {} of backups that were interrupted",
            reply.interrupted_blocks,
            if reply.interrupted_blocks == 1 {
                "is"
            } else {
                "are"
            },
        ));
    }
    if reply.repacked_blocks > 0 {
        context.notice(&format!(
            "{} rewritten",
            show::count(reply.repacked_blocks, "pack")
        ));
    }
    if !dry_run {
        context.notice(&format!(
            "on disk: {} before, {} now",
            ByteSize(reply.disk_bytes_before),
            ByteSize(reply.disk_bytes)
        ));
    }
}
