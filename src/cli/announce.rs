//! `libernet announce`: tell the mesh that this node provides identifiers.

use super::context::Context;
use super::exit::{Exit, Failure};
use super::{output, show, target};
use crate::node::api::Announce;

/// Announce identifiers: of blocks, or any others for another program's use.
///
/// A running node repeats the announcement for blocks that it has; of other identifiers the mesh forgets after two days.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet announce bafk...
  libernet announce 'text:the garden club'

With --json: {\"ids\":[..],\"peers\"}: how many peers took a record.")]
pub(super) struct Args {
    /// Block ids, links, any 96 hex digits, or text:WORDS (the SHA-384 of the words in Unicode's
    /// composed form, NFC).
    #[arg(value_name = "ID|LINK|text:WORDS", required = true, num_args = 1..=1000)]
    ids: Vec<String>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let ids = args
        .ids
        .iter()
        .map(|text| target::identifier(text))
        .collect::<Result<_, _>>()?;
    let reply = context
        .with_client(async |client, _| {
            let reply = client.announce(Announce { ids }).await?;
            if client.is_embedded() {
                context.notice(
                    "this node stops now, so nobody will reach it: `libernet up` keeps one running",
                );
            }
            Ok(reply)
        })
        .await?;
    if context.json {
        output::json(&reply)?;
    } else {
        let mut text = String::new();
        for id in &reply.ids {
            text.push_str(&format!("{id}\n"));
        }
        output::stdout(text.as_bytes())?;
        context.notice(&format!(
            "announced to {}",
            show::count(reply.peers, "peer")
        ));
    }
    Ok(Exit::Done)
}
