//! `libernet peers`: who this node is connected to.

use std::time::Duration;

use super::context::Context;
use super::exit::{Exit, Failure};
use super::{output, show};
use crate::node::api::{Connect, Peer, Peers};

/// List connected peers, or connect to one.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet peers
  libernet peers connect /ip4/192.0.2.7/tcp/4384

With --json: {\"peers\":[{\"peer\",\"addresses\",\"agent\",\"rtt_ms\",\"connected_s\",\"direction\",\"wrong_blocks\"}]}")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Connect to the peer at an address.
    Connect {
        /// A multiaddress, with or without /p2p/PEER.
        address: String,
    },
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    match args.command {
        None => {
            let reply = context
                .with_client(async |client, _| Ok(client.peers(Peers {}).await?))
                .await?;
            if context.json {
                output::json(&reply)?;
            } else if reply.peers.is_empty() {
                context.notice("no peers yet");
            } else {
                output::stdout(text(&reply.peers).as_bytes())?;
            }
        }
        Some(Command::Connect { address }) => {
            let reply = context
                .with_client(async |client, _| Ok(client.connect(Connect { address }).await?))
                .await?;
            if context.json {
                output::json(&reply)?;
            } else {
                output::stdout(format!("{}\n", reply.peer).as_bytes())?;
            }
        }
    }
    Ok(Exit::Done)
}

fn text(peers: &[Peer]) -> String {
    let head = ["peer", "rtt", "for", "direction", "agent", "addresses"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for peer in peers {
        rows.push(vec![
            peer.peer.clone(),
            peer.rtt_ms
                .map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms")),
            show::duration(Duration::from_secs(peer.connected_s)),
            peer.direction.clone(),
            // What a peer says of itself may be anything.
            show::printable(peer.agent.as_deref().unwrap_or("-")),
            show::printable(&peer.addresses.join(" ")),
        ]);
    }
    show::table(&rows, &[1])
}
