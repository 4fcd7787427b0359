//! `libernet id`: the node's name.

use super::context::Context;
use super::exit::{Exit, Failure};
use super::output;
use crate::node::api::Status;

/// Print this node's peer id. The node's key is made on first use.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet id
  libernet id --json

With --json: {\"peer\",\"network\"}")]
pub(super) struct Args {}

pub(super) async fn run(_: Args, context: &Context) -> Result<Exit, Failure> {
    let status = context
        .with_client(async |client, _| Ok(client.status(Status {}).await?))
        .await?;
    if context.json {
        output::json(&serde_json::json!({ "peer": status.peer, "network": status.network }))?;
    } else {
        output::stdout(format!("{}\n", status.peer).as_bytes())?;
    }
    Ok(Exit::Done)
}
