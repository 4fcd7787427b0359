//! `libernet man`: writes the manual pages, for packages.

use std::path::PathBuf;

use super::context::Context;
use super::exit::{Exit, Failure};
use super::{ask, definition};

/// Write manual pages into a directory: one for the program, one a command.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet man /usr/local/share/man/man1   # then: man libernet")]
pub(super) struct Args {
    /// The directory; made when it is missing.
    dir: PathBuf,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let write = move || {
        let what = || format!("the manual could not be written to {}", args.dir.display());
        std::fs::create_dir_all(&args.dir).map_err(|error| Failure::io(what(), &error))?;
        clap_mangen::generate_to(definition(false), &args.dir)
            .map_err(|error| Failure::io(what(), &error))
    };
    ask::until_stopped(context, write).await?;
    Ok(Exit::Done)
}
