//! `libernet get`: a bundle back into files.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::alone::tell_if_alone;
use super::ask::Terminal;
use super::context::Context;
use super::exit::{Exit, Failure};
use super::progress::Bar;
use super::target::When;
use super::{output, show, target};
use crate::block::Link;
use crate::client::Client;
use crate::node::api::{ErrorKind, Get, GetReply, Ls, Missing, Overwrite};
use crate::size::ByteSize;

/// Parts named in a warning when many are missing.
pub(super) const MAX_NAMED: usize = 20;

/// Fetch a bundle, or a part of it, and write it to disk.
///
/// Every byte is verified. Nothing is ever written outside of the target, whatever the bundle holds. A second run with
/// `-o PATH --overwrite changed` goes on where the first was interrupted. Without -o nothing is
/// overwritten, and a name that programs or the system give a meaning to, such as one that begins
/// with a dot, is refused.
///
/// Content that comes out is held against what the bundle is made of. The command asks on a
/// terminal, and ends with exit code 12 elsewhere, past 20,000 files, directories and links and two
/// more for each byte of its tree blocks, past 1 GiB and 64 times its blocks, and past the room on
/// the disk.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet get LINK                    # under its own name in this directory
  libernet get LINK -o copy
  libernet get TICKET                  # from the node that made it (`libernet put PATH --reachable`)
  libernet get LINK/photos/2026 -o photos
  libernet get LINK -o copy --overwrite changed
  libernet get LINK --max-size 10GiB --max-files 1000   # not more than that
  libernet get LINK --yes                               # however much comes

With --json: {\"bytes\",\"files\",\"from\":[peer],\"givers\":[{\"peer\",\"blocks\",\"bytes\"}],\"output\",\"missing\":[{\"path\",\"path_hex\",\"block\",\"reason\"}],
  \"refused\":[{\"path\",\"reason\"}],\"pinned\"}")]
pub(super) struct Args {
    /// The link or ticket, and a path in it if only a part is wanted.
    #[arg(value_name = "LINK[/PATH]|TICKET[/PATH]")]
    link: OsString,
    /// Where to write; directories above it are made. A single file goes into a directory that
    /// exists [default: its own name, here].
    #[arg(short, long, visible_alias = "target", value_name = "PATH")]
    output: Option<PathBuf>,
    /// Treatment of files that exist [default: refuse a target that exists].
    #[arg(long, value_enum)]
    overwrite: Option<When>,
    /// Restore owners and groups (needs root).
    #[arg(long)]
    owners: bool,
    /// Time to look for one block before it counts as missing.
    #[arg(long, value_name = "TIME", value_parser = crate::time::seconds, allow_hyphen_values = true)]
    timeout: Option<u64>,
    /// Keep the bundle in the store as well. Takes a link without a path.
    #[arg(long)]
    pin: bool,
    /// Most bytes of content that may come, in place of what is usual.
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    max_size: Option<ByteSize>,
    /// Most files, directories and links that may come, in place of what is usual.
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    max_files: Option<u64>,
    /// Write it however much comes, within --max-size and --max-files.
    #[arg(short, long)]
    yes: bool,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let (link, path) = target::link_and_path(&args.link)?;
    let ways = target::ways(&args.link)?;
    if args.output.is_none() && args.overwrite.is_some() {
        // The name would be the bundle's own, which its maker chose.
        return Err(Failure::usage(
            "what may be overwritten is not said: without -o the bundle's own name is taken",
        )
        .with_hint("name it: -o PATH --overwrite changed"));
    }
    let here = Context::absolute(Path::new("."))?;
    let output = args.output.as_deref().map(Context::absolute).transpose()?;
    let reply = context
        .with_client_at(&ways, async |client, config| {
            let timeout_s = args.timeout.unwrap_or(config.timeout_s);
            let bar = context.bar("get");
            let id = link.id;
            let work = async {
                let (output, directory) = match output {
                    Some(dir)
                        if dir.is_dir() && is_file(client, &link, &path, timeout_s).await? =>
                    {
                        (None, dir)
                    }
                    output => (output, here),
                };
                let request = Get {
                    link,
                    path,
                    output,
                    directory,
                    overwrite: args.overwrite.map_or(Overwrite::Never, Overwrite::from),
                    owners: args.owners,
                    pin: args.pin,
                    max_bytes: args.max_size.map(|size| size.0),
                    max_files: args.max_files,
                    any_size: args.yes,
                    timeout_s,
                };
                get(client, request, &bar, context).await
            };
            tell_if_alone(client, id, timeout_s, &bar, context, work).await
        })
        .await?;
    print(&reply, args.pin, context)?;
    Ok(if reply.missing.is_empty() && reply.pinned == args.pin {
        Exit::Done
    } else {
        Exit::Partial
    })
}

/// Runs the call, and once more without bounds when a person says so.
async fn get(
    client: &Client,
    request: Get,
    bar: &Arc<Bar>,
    context: &Context,
) -> Result<GetReply, Failure> {
    let again = Get {
        any_size: true,
        ..request.clone()
    };
    let is_bounded = request.max_bytes.is_some() || request.max_files.is_some();
    let error = match client.get(request, bar.clone()).await {
        Err(error) if error.kind == ErrorKind::Excess && !is_bounded => error,
        done => return Ok(done?),
    };
    let terminal = Terminal::find(context.json);
    if context.is_silent() || !terminal.answers {
        return Err(error.into());
    }
    bar.line(&show::printable(&error.message));
    bar.clear();
    let question = "Write it all the same? [y/N] ";
    match terminal.line(question, context).await?.trim() {
        "y" | "Y" | "yes" => Ok(client.get(again, bar.clone()).await?),
        _ => Err(error.into()),
    }
}

/// Whether the path names anything but a directory: that goes into a directory that exists, as with `cp`.
async fn is_file(
    client: &Client,
    link: &Link,
    path: &Path,
    timeout_s: u64,
) -> Result<bool, Failure> {
    let request = Ls {
        link: link.clone(),
        path: path.to_owned(),
        follow: false,
        skip: 0,
        limit: 1,
        timeout_s,
    };
    let reply = client.ls(request).await?;
    Ok(reply.this.is_some_and(|this| this.kind != "dir"))
}

fn print(reply: &GetReply, pin: bool, context: &Context) -> Result<(), Failure> {
    warn_missing(&reply.missing, context);
    warn_refused(&reply.refused, context);
    if pin && !reply.pinned {
        context.warning(
            "nothing was pinned: some blocks could not be had, and those that came may be dropped when room is needed",
        );
    }
    if context.json {
        let from: Vec<&str> = reply.from.iter().map(|giver| giver.peer.as_str()).collect();
        return output::json(&json!({
            "bytes": reply.bytes,
            "files": reply.files,
            "from": from,
            "givers": reply.from,
            "output": show::path(&reply.output),
            "missing": reply.missing,
            "refused": reply.refused,
            "pinned": reply.pinned,
        }));
    }
    output::stdout(format!("{}\n", show::printable(&show::path(&reply.output))).as_bytes())?;
    context.notice(&format!(
        "{} in {}",
        ByteSize(reply.bytes),
        show::count(reply.files, "file")
    ));
    if reply.from.is_empty() {
        context.notice("everything was in the store");
    }
    for giver in &reply.from {
        context.notice(&format!(
            "from {}: {}, {}",
            context.id(&giver.peer),
            show::count(giver.blocks, "block"),
            ByteSize(giver.bytes)
        ));
    }
    Ok(())
}

/// Names attributes that the system refused. The content is there, so that the command has done its
/// work.
fn warn_refused(refused: &[Missing], context: &Context) {
    for part in refused.iter().take(MAX_NAMED) {
        context.warning(&format!("{}: {}", part.path, part.reason));
    }
    if refused.len() > MAX_NAMED {
        let more = refused.len() - MAX_NAMED;
        context.warning(&format!("and {more} more attributes that were refused"));
    }
}

/// Names what could not be had.
pub(super) fn warn_missing(missing: &[Missing], context: &Context) {
    for part in missing.iter().take(MAX_NAMED) {
        let block = part
            .block
            .map(|id| format!(" (block {id})"))
            .unwrap_or_default();
        context.warning(&format!("{}: {}{block}", part.path, part.reason));
    }
    if missing.len() > MAX_NAMED {
        context.warning(&format!(
            "and {} more that are missing",
            missing.len() - MAX_NAMED
        ));
    }
    if !missing.is_empty() {
        context.notice("run it again with -o PATH --overwrite changed when more peers are online: only what is missing is fetched");
    }
}
