//! `libernet announce`: tell the mesh that this node provides identifiers.

use super::context::Context;
use super::exit::{Exit, Failure};
use super::{output, show, target};
use crate::node::api::{Announce, AnnounceReply};

/// Announce identifiers: of blocks, or any others for another program's use.
///
/// A running node repeats the announcement for blocks that it has; of other identifiers the mesh
/// forgets after two days. With --port, the mesh is told that another program of this host listens
/// there. That is repeated until its time is over, as long as a node runs, also after a restart.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet announce bafk...
  libernet announce 'text:the garden club'
  libernet announce 'text:the garden club' --port 8080 --ttl 1h   # found by `libernet find`
  libernet announce 'text:the garden club' --end

No host is given with a port: each node that stores the announcement puts in the address from which
this one is connected to it, and whoever asks this node itself sees where it is. A node announces
one port under an identifier, the last one. Everybody can read it.

With --json: {\"ids\":[..],\"peers\",\"until\"}: how many peers took a record, and when a port's time is
over, in milliseconds since 1970.")]
pub(super) struct Args {
    /// Block ids, links, any 96 hex digits, or text:WORDS (the SHA-384 of the words in Unicode's
    /// composed form, NFC).
    #[arg(value_name = "ID|LINK|text:WORDS", required = true, num_args = 1..=1000)]
    ids: Vec<String>,
    /// TCP or UDP port on which another program of this host listens.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Time for which the port is announced: 1 second to 7 days.
    #[arg(long, value_name = "TIME", requires = "port", value_parser = crate::time::seconds)]
    ttl: Option<u64>,
    /// Take back the ports that are announced under the identifiers.
    #[arg(long, conflicts_with = "port")]
    end: bool,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let ids = args
        .ids
        .iter()
        .map(|text| target::identifier(text))
        .collect::<Result<_, _>>()?;
    let request = Announce {
        ids,
        port: args.port,
        ttl_s: args.ttl,
        end: args.end,
    };
    let reply = context
        .with_client(async |client, _| {
            let reply = client.announce(request).await?;
            if client.is_embedded() && !args.end {
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
        context.notice(&told(&reply, args.end));
    }
    Ok(Exit::Done)
}

fn told(reply: &AnnounceReply, end: bool) -> String {
    let peers = show::count(reply.peers, "peer");
    match reply.until {
        _ if end => format!("no port is announced any more; {peers} were told"),
        Some(until) => format!("announced to {peers}, until {}", show::timestamp(until)),
        None => format!("announced to {peers}"),
    }
}
