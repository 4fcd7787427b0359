//! `libernet unforget`: snapshots that are forgotten stay after all.

use super::forget::decide;
use super::voice::{Voice, Words};
use super::{Passphrase, contents, short};
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::{output, show, target};
use crate::client::Client;
use crate::id::BlockId;
use crate::node::api::{Snapshots, Unforget, UnforgetReply};

/// Take back that snapshots are forgotten, or keep them against the request of another machine.
///
/// Snapshots that this machine forgot come back as long as they are not pruned. Snapshots that
/// another machine asks to forget stay, until this machine forgets them.
/// `libernet snapshots --deleted` lists both.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet snapshots --deleted
  libernet unforget 1f3a2b4c
  libernet unforget 1f3a2b4c --phrase        # what the words forgot, or against all machines

Exit code 4 for what is not forgotten, or is pruned; 2 for what another machine or the owner's words forgot. Nothing has changed then.
With --json: {\"snapshots\":[{\"snapshot\",\"link\",\"time\",..}]}: those that stay")]
pub(in crate::cli) struct Args {
    /// Snapshots: the first digits of their ids.
    #[arg(value_name = "SNAPSHOT", required = true)]
    snapshots: Vec<String>,
    #[command(flatten)]
    words: Words,
    #[command(flatten)]
    passphrase: Passphrase,
}

pub(in crate::cli) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let names = args.snapshots.iter().map(|name| target::snapshot(name));
    let names: Vec<String> = names.collect::<Result<_, _>>()?;
    let keys = match args.words.are_given() {
        true => Some(args.words.owner(context).await?),
        false => None,
    };
    let mut voice = Voice::of_machine(&args.passphrase, context).await?;
    let reply = context
        .with_client(async |client, _| {
            let Some(keys) = &keys else {
                let reply = voice.call(context, async |speaker| {
                    let snapshots = names.clone();
                    client.unforget(Unforget { speaker, snapshots }).await
                });
                return reply.await;
            };
            let ids = find(client, &mut voice, &names, context).await?;
            let snapshots = decide(client, &mut voice, keys, false, ids, context).await?;
            Ok(UnforgetReply { snapshots })
        })
        .await?;
    if context.json {
        output::json(&reply)?;
        return Ok(Exit::Done);
    }
    let row = |info: &crate::node::api::SnapshotInfo| {
        vec![
            "keep".to_owned(),
            short(&info.snapshot).to_owned(),
            show::timestamp(info.time),
            contents(info),
        ]
    };
    let rows: Vec<_> = reply.snapshots.iter().map(row).collect();
    output::stdout(show::table(&rows, &[]).as_bytes())?;
    Ok(Exit::Done)
}

/// The snapshots of these names, forgotten or not: the words also keep what nobody has asked for
/// yet.
async fn find(
    client: &Client,
    voice: &mut Voice,
    names: &[String],
    context: &Context,
) -> Result<Vec<BlockId>, Failure> {
    let reply = voice.call(context, async |speaker| {
        let request = Snapshots {
            speaker,
            deleted: true,
            ..Snapshots::default()
        };
        client.snapshots(request).await
    });
    let reply = reply.await?;
    let deleted = reply.deleted.iter().map(|one| &one.info);
    let mut known: Vec<_> = reply.snapshots.iter().chain(deleted).collect();
    known.sort_by(|a, b| a.snapshot.cmp(&b.snapshot));
    known.dedup_by(|a, b| a.snapshot == b.snapshot);
    let find = |name: &String| {
        let mut fitting = known.iter().filter(|info| info.snapshot.starts_with(name));
        match (fitting.next(), fitting.next()) {
            (Some(info), None) => Ok(info.link.id),
            (Some(_), Some(_)) => Err(Failure::usage(format!(
                "'{name}' is the beginning of several snapshots' ids: give more digits"
            ))),
            (None, _) => Err(Failure::new(
                Exit::NotFound,
                format!("there is no snapshot '{name}', and none that was forgotten"),
            )),
        }
    };
    names.iter().map(find).collect()
}
