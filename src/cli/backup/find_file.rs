//! `libernet find-file`: which snapshots have a file.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use super::voice::{Reader, Voice};
use super::which::Which;
use super::{short, warn_missing};
use crate::bundle::pattern;
use crate::cli::context::{Context, Intent};
use crate::cli::exit::{Exit, Failure};
use crate::cli::{output, show, target};
use crate::node::api::{FindFile, FindFileReply};
use crate::size::ByteSize;

/// Most matches unless told otherwise.
const LIMIT: u64 = 1000;

/// Look for files by name in snapshots, the newest first.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet find-file report.odt
  libernet find-file '/home/*/Documents/*.odt' --limit 20
  libernet find-file '*.key' --snapshot latest --machine laptop

PATTERN has the syntax of .gitignore: `report.odt` and `Documents/*.odt` match in any directory, `/home/*/x` from the root.
Exit code 4 when nothing matches, 3 when parts of a snapshot could not be read.
In a name that is not UTF-8 \\xe9 stands for the byte, in PATTERN, too; path_hex in JSON holds such a path's bytes.
With --json: {\"matches\":[{\"snapshot\",\"time\",\"path\",\"path_hex\",\"kind\",\"bytes\",\"mtime_s\"}],\"more\",\"missing\":[{\"path\",\"block\",\"reason\"}]}")]
pub(in crate::cli) struct Args {
    /// What to look for.
    pattern: OsString,
    /// Only in this snapshot: latest, or the first digits of its id.
    #[arg(long, value_name = "SNAPSHOT")]
    snapshot: Option<String>,
    /// Most matches to show.
    #[arg(long, value_name = "N", default_value_t = LIMIT, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
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
    let snapshot = args.snapshot.as_deref().map(target::snapshot).transpose()?;
    let choice = args.which.choice()?;
    let mut voice = Voice::of_reader(&args.reader, context).await?;
    let reply = context
        .with_client_through(&args.reader.bootstrap, async |client, config| {
            let timeout_s = args.timeout.unwrap_or(config.timeout_s);
            voice
                .call(context, async |speaker| {
                    let request = FindFile {
                        speaker,
                        pattern: pattern::argument(args.pattern.as_bytes()),
                        snapshot: snapshot.clone(),
                        choice: choice.clone(),
                        limit: args.limit,
                        timeout_s,
                    };
                    client.find_file(request).await
                })
                .await
        })
        .await?;
    warn_missing(&reply.missing, reply.missing.len() as u64, context);
    if context.json {
        output::json(&reply)?;
    } else {
        output::stdout(text(&reply).as_bytes())?;
        if reply.more {
            context.notice("there are more: raise --limit, or narrow the pattern");
        }
    }
    Ok(if !reply.missing.is_empty() {
        Exit::Partial
    } else if reply.matches.is_empty() {
        context.notice("no file of that name in any snapshot that was looked at");
        Exit::NotFound
    } else {
        Exit::Done
    })
}

fn text(reply: &FindFileReply) -> String {
    let rows: Vec<Vec<String>> = reply
        .matches
        .iter()
        .map(|found| {
            vec![
                short(&found.snapshot).to_owned(),
                show::timestamp(found.time),
                found.kind.clone(),
                ByteSize(found.bytes).to_string(),
                show::seconds(found.mtime_s),
                show::printable(&found.path),
            ]
        })
        .collect();
    show::table(&rows, &[3])
}
