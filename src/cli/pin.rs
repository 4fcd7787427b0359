//! `libernet pin`: bundles that are kept whatever happens.

use std::ffi::OsStr;

use serde_json::json;

use super::alone::tell_if_alone;
use super::context::{Context, Intent};
use super::exit::{Exit, Failure};
use super::get::warn_missing;
use super::pick::{Named, pick};
use super::{output, show, target};
use crate::client::Client;
use crate::id::BlockId;
use crate::node::api::{Pin, PinAdd, PinLs, PinRm};
use crate::size::ByteSize;

/// Keep bundles: fetch all of one, stop keeping it, list what is kept.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet pin add LINK --name 'garden club'
  libernet pin ls
  libernet pin rm LINK
  libernet pin rm bafksamabcde              # the start of an id as `pin ls` shows it, or a name

`pin ls` shows the start of each root's id; with -v whole ids, and the links.
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
        /// Time to look for one block before it counts as missing.
        #[arg(long, value_name = "TIME", value_parser = crate::time::seconds, allow_hyphen_values = true)]
        timeout: Option<u64>,
    },
    /// Stop keeping a bundle; its blocks go when room is needed.
    Rm {
        /// The link, the id of its root or the start of it, or the pin's name.
        #[arg(value_name = "LINK|TICKET|ID|NAME")]
        link: String,
    },
    /// List what is kept.
    Ls,
}

impl Args {
    /// Use that the command makes of the data directory.
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
            let reply = context
                .with_client(async |client, _| {
                    let id = match target::block(&link) {
                        Ok(id) => id,
                        Err(failure) => named(client, &link, failure).await?,
                    };
                    Ok(client.pin_rm(PinRm { id }).await?)
                })
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
                output::stdout(text(&reply.pins, context).as_bytes())?;
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
    let ways = target::ways(OsStr::new(link))?;
    let (link, path) = target::link_and_path(OsStr::new(link))?;
    if !path.as_os_str().is_empty() {
        return Err(Failure::usage(
            "a pin keeps a whole bundle, not a path in it",
        ));
    }
    let reply = context
        .with_client_at(&ways, async |client, config| {
            let timeout_s = timeout.unwrap_or(config.timeout_s);
            let (id, bar) = (link.id, context.bar("pin"));
            let request = PinAdd {
                link,
                name,
                timeout_s,
            };
            let work = client.pin_add(request, bar.clone());
            Ok(tell_if_alone(client, id, timeout_s, &bar, context, work).await?)
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

/// The root of the pin that `text` names. `failure` is why the text is no link and no whole id.
async fn named(client: &Client, text: &str, failure: Failure) -> Result<BlockId, Failure> {
    if text.contains(':') || text.contains('/') {
        // A link that is not right: nobody calls a pin so.
        return Err(failure);
    }
    let pins = client.pin_ls(PinLs {}).await?.pins.into_iter();
    let pins = pins.map(|pin| Named {
        thing: pin.id,
        ids: vec![pin.id.to_string(), pin.id.to_hex()],
        name: pin.name,
    });
    // One root may have several pins.
    let mut roots = std::collections::BTreeMap::new();
    for pin in pins {
        roots.entry(pin.thing).or_insert(pin);
    }
    pick("pin", "libernet pin ls", text, roots.into_values())
}

/// Pins as a table. With `--verbose` ids are whole, and links are shown, which anybody can read
/// with.
fn text(pins: &[Pin], context: &Context) -> String {
    let rows: Vec<Vec<String>> = pins
        .iter()
        .map(|pin| {
            let id = pin.id.to_string();
            let mut row = vec![
                context.id(&id).to_owned(),
                show::timestamp(pin.created),
                ByteSize(pin.bytes).to_string(),
                show::count(pin.blocks, "block"),
                show::printable(&pin.name),
            ];
            if context.verbose {
                let link = pin.link.as_ref();
                row.push(link.map_or_else(|| "-".to_owned(), ToString::to_string));
            }
            row
        })
        .collect();
    show::table(&rows, &[2, 3])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Link;
    use crate::crypto::key::Key;
    use crate::time::Timestamp;

    #[test]
    fn a_table_of_pins_shows_no_key_unless_asked() {
        let link = Link {
            id: BlockId::from_sha384([7; 48]),
            key: Key::new([1; 32]),
        };
        let pin = Pin {
            id: link.id,
            link: Some(link.clone()),
            name: "a\u{202e}b".to_owned(),
            bytes: 1024,
            blocks: 1,
            created: Timestamp(0),
        };
        let mut context = Context::for_tests();
        let short = text(std::slice::from_ref(&pin), &context);
        assert!(short.starts_with(&link.id.to_string()[..12]), "{short}");
        assert!(!short.contains(&link.to_string()), "{short}");
        assert!(short.contains("1 block  a\\u{202e}b"), "{short}");
        context.verbose = true;
        let whole = text(&[pin], &context);
        assert!(whole.contains(&link.to_string()), "{whole}");
    }
}
