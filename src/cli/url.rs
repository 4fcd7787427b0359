//! `libernet url`: the address at which this machine's node shows a link.

use std::ffi::OsString;

use serde_json::json;

use super::context::Context;
use super::exit::{Exit, Failure};
use super::{output, target};
use crate::client::Client;
use crate::client::url::percent_encode_path;
use crate::node::api::Status;

/// Print the URL at which this machine's running node shows a link.
///
/// The URL holds the link's key and is as secret as the link. It works on this machine only, as
/// long as a node runs here.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet url LINK
  libernet url LINK/docs/page.html
  curl -O $(libernet url LINK/report.pdf)

With --json: {\"url\"}")]
pub(super) struct Args {
    /// The link, and a path in it.
    #[arg(value_name = "LINK[/PATH]")]
    link: OsString,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let (link, path) = target::link_and_path(&args.link)?;
    let base = tokio::select! {
        biased;
        () = context.stop.cancelled() => return Err(Failure::interrupted()),
        base = base(context) => base?,
    };
    let url = format!("{base}{}/{}", link.to_path(), percent_encode_path(&path));
    if context.json {
        output::json(&json!({ "url": url }))?;
    } else {
        output::stdout(format!("{url}\n").as_bytes())?;
    }
    Ok(Exit::Done)
}

/// Base URL of the running node.
///
/// # Errors
/// [`Exit::NotRunning`].
async fn base(context: &Context) -> Result<String, Failure> {
    let status = match Client::running(&context.data_dir).await? {
        Some(client) => Some(client.status(Status {}).await?),
        None => None,
    };
    status.and_then(|status| status.http).ok_or_else(|| {
        Failure::new(
            Exit::NotRunning,
            "no node runs here, and only a running one serves links",
        )
        .with_hint("`libernet up` starts one")
    })
}
