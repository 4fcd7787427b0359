//! `libernet version`: which program this is.

use serde_json::json;

use super::context::Context;
use super::exit::{Exit, Failure};
use super::output;

/// Print the version of the program.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet version
  libernet version --json

With --json: {\"version\"}; `libernet --version` prints the same as text")]
pub(super) struct Args {}

pub(super) fn run(_: &Args, context: &Context) -> Result<Exit, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    if context.json {
        output::json(&json!({ "version": version }))?;
    } else {
        output::stdout(format!("libernet {version}\n").as_bytes())?;
    }
    Ok(Exit::Done)
}
