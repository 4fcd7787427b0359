//! `libernet cat`: one file to standard output.

use std::ffi::OsString;

use futures::TryStreamExt;
use tokio::io::AsyncWriteExt;

use super::alone::tell_if_alone;
use super::context::{Context, Intent};
use super::exit::{Exit, Failure};
use super::{backup, output, target};
use crate::node::api::Cat;

/// Write one file of a bundle or a snapshot to standard output.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet cat LINK/notes.txt
  libernet cat LINK/src.tar | tar x
  libernet cat latest:/etc/hosts
  libernet cat latest:/etc/hosts --machine laptop
  libernet cat LINK/disk.img --offset 1048576 --length 512 | xxd")]
pub(super) struct Args {
    /// The link, and the file's path in it unless the bundle is one file; or a snapshot (latest, or the first digits of its id) and
    /// the file's path in it.
    #[arg(value_name = "LINK[/PATH]|TICKET[/PATH]|SNAPSHOT[:PATH]")]
    link: OsString,
    /// First byte.
    #[arg(long, default_value_t = 0)]
    offset: u64,
    /// Most bytes to write.
    #[arg(long, value_name = "BYTES")]
    length: Option<u64>,
    /// Time to look for one block before it counts as missing.
    #[arg(long, value_name = "TIME", value_parser = crate::time::seconds, allow_hyphen_values = true)]
    timeout: Option<u64>,
    #[command(flatten)]
    passphrase: backup::Passphrase,
    // Its heading holds for all that is behind it.
    #[command(flatten)]
    which: backup::Which,
}

impl Args {
    /// Use that the command makes of the data directory.
    pub(super) fn intent(&self) -> Intent {
        target::intent(&self.link)
    }
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let target = target::tree(&args.link)?;
    let choice = args.which.choice_beside(&target)?;
    let ways = target::ways(&args.link)?;
    context
        .with_client_at(&ways, async |client, config| {
            let timeout_s = args.timeout.unwrap_or(config.timeout_s);
            let (link, path) =
                backup::tree(client, target, choice, &args.passphrase, timeout_s, context).await?;
            let request = Cat {
                link,
                path,
                offset: args.offset,
                len: args.length,
                timeout_s,
            };
            let id = request.link.id;
            let work = async {
                let mut stream = client.cat(request).await?;
                let mut out = output::async_stdout()?;
                while let Some(bytes) = stream.try_next().await? {
                    out.write_all(&bytes)
                        .await
                        .map_err(|error| Failure::output(&error))?;
                }
                out.flush().await.map_err(|error| Failure::output(&error))?;
                Ok(Exit::Done)
            };
            let bar = context.bar("cat");
            tell_if_alone(client, id, timeout_s, &bar, context, work).await
        })
        .await
}
