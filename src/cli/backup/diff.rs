//! `libernet diff`: what changed between two snapshots.

use std::path::PathBuf;

use super::voice::{Reader, Voice};
use super::which::Which;
use crate::cli::context::{Context, Intent};
use crate::cli::exit::{Exit, Failure};
use crate::cli::target::Target;
use crate::cli::{output, show, target};
use crate::node::api::{Diff, DiffReply};
use crate::size::ByteSize;

/// Most changes that are listed unless told otherwise.
const LIMIT: u64 = 10_000;

/// Compare two snapshots.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet diff 1f3a 77c0
  libernet diff 1f3a latest --json
  libernet diff 1f3a latest --set home --machine desk

Each line is a mark and a path: + is new, - is gone, M has other content, U other attributes, T is of another kind.
With --json: {\"changes\":[{\"change\",\"path\"}],\"more\",\"added\",\"removed\",\"changed\",\"attributes\",\"added_bytes\",\"removed_bytes\"}")]
pub(in crate::cli) struct Args {
    /// The earlier snapshot: latest, or the first digits of its id.
    a: String,
    /// The later one.
    b: String,
    /// Most changes to list; the sums count all.
    #[arg(long, value_name = "N", default_value_t = LIMIT, value_parser = clap::value_parser!(u64).range(0..=10_000_000))]
    limit: u64,
    /// Time to look for one block before it counts as missing.
    #[arg(long, value_name = "TIME", value_parser = crate::time::seconds, allow_hyphen_values = true)]
    timeout: Option<u64>,
    #[command(flatten)]
    reader: Reader,
    // Its heading holds for all that is behind it.
    #[command(flatten)]
    which: Which,
}

impl Args {
    /// Use that the command makes of the data directory.
    pub(in crate::cli) fn intent(&self) -> Intent {
        self.reader.intent()
    }
}

pub(in crate::cli) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let (a, b) = (target::snapshot(&args.a)?, target::snapshot(&args.b)?);
    // A link beside a snapshot's name leaves something to choose.
    let by_name = [&a, &b]
        .into_iter()
        .find(|name| !name.starts_with("libernet:"));
    let by_name = by_name.unwrap_or(&a).clone();
    let choice = args
        .which
        .choice_beside(&Target::Snapshot(by_name, PathBuf::new()))?;
    let mut voice = Voice::of_reader(&args.reader, context).await?;
    let reply = context
        .with_client_through(&args.reader.bootstrap, async |client, config| {
            let timeout_s = args.timeout.unwrap_or(config.timeout_s);
            voice
                .call(context, async |speaker| {
                    let request = Diff {
                        speaker,
                        a: a.clone(),
                        b: b.clone(),
                        choice: choice.clone(),
                        limit: args.limit,
                        timeout_s,
                    };
                    client.diff(request).await
                })
                .await
        })
        .await?;
    if context.json {
        output::json(&reply)?;
        return Ok(Exit::Done);
    }
    output::stdout(text(&reply).as_bytes())?;
    if reply.more {
        context.notice("there are more changes: raise --limit");
    }
    context.notice(&format!(
        "{} new ({}), {} gone ({}), {} changed, {} with other attributes",
        reply.added,
        ByteSize(reply.added_bytes),
        reply.removed,
        ByteSize(reply.removed_bytes),
        reply.changed,
        reply.attributes
    ));
    Ok(Exit::Done)
}

fn text(reply: &DiffReply) -> String {
    let line = |change: &crate::node::api::ChangedFile| {
        let mark = match change.change.as_str() {
            "added" => '+',
            "removed" => '-',
            "content" => 'M',
            "attributes" => 'U',
            "kind" => 'T',
            _ => '?',
        };
        format!("{mark} {}\n", show::printable(&change.path))
    };
    reply.changes.iter().map(line).collect()
}
