//! `libernet pin`: bundles that are kept whatever happens.

use serde_json::json;

use super::context::{Context, Intent};
use super::exit::{Exit, Failure};
use super::get::warn_missing;
use super::{output, show, target};
use crate::node::api::{Pin, PinAdd, PinLs, PinRm};
use crate::size::ByteSize;

/// Keep bundles: fetch all of one, stop keeping it, list what is kept.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet pin add LINK --name 'garden club'
  libernet pin ls
  libernet pin rm LINK

With --json: add {\"blocks\",\"bytes\",\"from\":[peer],\"givers\":[{\"peer\",\"blocks\",\"bytes\"}],\"missing\":[..]}, rm {\"blocks\"},
  ls {\"pins\":[{\"id\",\"link\",\"name\",\"bytes\",\"blocks\",\"created\"}]} with times in milliseconds since 1970")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Fetch all of a bundle and keep it.
    Add {
        /// The link.
        link: String,
        /// A name to show in lists.
        #[arg(long)]
        name: Option<String>,
        /// Seconds to look for one block before it counts as missing.
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
        timeout: Option<u64>,
    },
    /// Stop keeping a bundle; its blocks go when room is needed.
    Rm {
        /// The link, or the id of its root.
        #[arg(value_name = "LINK|ID")]
        link: String,
    },
    /// List what is kept.
    Ls,
}

impl Args {
    /// What the command does with the data directory.
    pub(super) fn intent(&self) -> Intent {
        match self.command {
            Command::Add { .. } => Intent::Bring,
            Command::Rm { .. } => Intent::Remove,
            Command::Ls => Intent::Ask,
        }
    }
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    match args.command {
        Command::Add {
            link,
            name,
            timeout,
        } => add(&link, name, timeout, context).await,
        Command::Rm { link } => {
            let id = target::block(&link)?;
            let reply = context
                .with_client(async |client, _| Ok(client.pin_rm(PinRm { id }).await?))
                .await?;
            if context.json {
                output::json(&reply)?;
            } else {
                context.notice(&format!(
                    "{} no longer kept by any pin",
                    show::count(reply.blocks, "block")
                ));
            }
            Ok(Exit::Done)
        }
        Command::Ls => {
            let reply = context
                .with_client(async |client, _| Ok(client.pin_ls(PinLs {}).await?))
                .await?;
            if context.json {
                output::json(&reply)?;
            } else {
                output::stdout(text(&reply.pins).as_bytes())?;
            }
            Ok(Exit::Done)
        }
    }
}

async fn add(
    link: &str,
    name: Option<String>,
    timeout: Option<u64>,
    context: &Context,
) -> Result<Exit, Failure> {
    let (link, path) = target::link_and_path(link)?;
    if !path.is_empty() {
        return Err(Failure::usage(
            "a pin keeps a whole bundle, not a path in it",
        ));
    }
    let reply = context
        .with_client(async |client, config| {
            let request = PinAdd {
                link,
                name,
                timeout_s: timeout.unwrap_or(config.timeout_s),
            };
            Ok(client.pin_add(request, context.bar("pin")).await?)
        })
        .await?;
    warn_missing(&reply.missing, context);
    if context.json {
        let from: Vec<&str> = reply.from.iter().map(|giver| giver.peer.as_str()).collect();
        output::json(&json!({
            "blocks": reply.blocks,
            "bytes": reply.bytes,
            "from": from,
            "givers": reply.from,
            "missing": reply.missing,
        }))?;
    } else if reply.missing.is_empty() {
        context.notice(&format!(
            "{} kept ({})",
            show::count(reply.blocks, "block"),
            ByteSize(reply.bytes)
        ));
    } else {
        context
            .notice("nothing is pinned: parts are missing; what came stays in the store for now");
    }
    Ok(if reply.missing.is_empty() {
        Exit::Done
    } else {
        Exit::Partial
    })
}

fn text(pins: &[Pin]) -> String {
    let rows: Vec<Vec<String>> = pins
        .iter()
        .map(|pin| {
            vec![
                show::timestamp(pin.created),
                ByteSize(pin.bytes).to_string(),
                show::count(pin.blocks, "block"),
                show::printable(&pin.name),
                pin.link
                    .as_ref()
                    .map_or_else(|| pin.id.to_string(), ToString::to_string),
            ]
        })
        .collect();
    show::table(&rows, &[1, 2])
}
