//! `libernet peers`: who this node is connected to.

use std::time::Duration;

use super::context::Context;
use super::exit::{Exit, Failure};
use super::{output, show};
use crate::node::api::{Connect, Ledger, LedgerPeer, Peer, Peers};
use crate::size::ByteSize;

/// List connected peers, or what was exchanged with each; or connect to one.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "Examples:
  libernet peers
  libernet peers --ledger                    # who gave and got how much, and how each stands
  libernet peers connect /ip4/192.0.2.7/tcp/4384

With --json: {\"peers\":[{\"peer\",\"addresses\",\"agent\",\"rtt_ms\",\"connected_s\",\"direction\",\"wrong_blocks\",\"relayed\"}]};
  --ledger {\"peers\":[{\"peer\",\"standing\":\"member\"|\"even\"|\"newcomer\"|\"free_rider\",\"served\":{\"blocks\",\"bytes\"},\"taken\":{..},
  \"wrong_blocks\",\"keeps_for_us\":{..},\"kept_for_it\":{..},\"seen_s_ago\",\"connected\"}]}

Standings: a member is in a ring with this node; even gave half of what it got or more; a free rider got more than 256 MiB beyond what it
gave, which was less than an eighth, or sent wrong blocks; everybody else is a newcomer. When the node is busy the higher ones are served
first, and a free rider still gets one turn in eight; when it is nearly full, nothing more is stored for free riders.")]
pub(super) struct Args {
    /// What this node and each peer have done for each other; peers that are not connected, too.
    #[arg(long)]
    ledger: bool,
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
        None if args.ledger => {
            let reply = context
                .with_client(async |client, _| Ok(client.ledger(Ledger {}).await?))
                .await?;
            if context.json {
                output::json(&reply)?;
            } else if reply.peers.is_empty() {
                context.notice("nothing was exchanged with anybody yet");
            } else {
                output::stdout(ledger(&reply.peers, context).as_bytes())?;
            }
        }
        None => {
            let reply = context
                .with_client(async |client, _| Ok(client.peers(Peers {}).await?))
                .await?;
            if context.json {
                output::json(&reply)?;
            } else if reply.peers.is_empty() {
                context.notice("no peers yet");
            } else {
                output::stdout(text(&reply.peers, context).as_bytes())?;
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

fn ledger(peers: &[LedgerPeer], context: &Context) -> String {
    let head = [
        "standing",
        "served",
        "taken",
        "keeps for us",
        "kept for it",
        "wrong",
        "last seen",
        "peer",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for peer in peers {
        let seen = match peer.seen_s_ago {
            _ if peer.connected => "now".to_owned(),
            Some(seconds) => format!("{} ago", show::duration(Duration::from_secs(seconds))),
            None => "-".to_owned(),
        };
        rows.push(vec![
            peer.standing.name().to_owned(),
            ByteSize(peer.served.bytes).to_string(),
            ByteSize(peer.taken.bytes).to_string(),
            ByteSize(peer.keeps_for_us.bytes).to_string(),
            ByteSize(peer.kept_for_it.bytes).to_string(),
            peer.wrong_blocks.to_string(),
            seen,
            // The widest comes last: a narrow terminal breaks the line before it.
            context.id(&peer.peer).to_owned(),
        ]);
    }
    show::table(&rows, &[1, 2, 3, 4, 5])
}

fn text(peers: &[Peer], context: &Context) -> String {
    let head = ["peer", "rtt", "for", "direction", "agent", "addresses"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for peer in peers {
        rows.push(vec![
            context.id(&peer.peer).to_owned(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::depot::ledger::Amount;
    use crate::net::exchange::Standing;

    #[test]
    fn the_ledger_as_a_table_and_as_json() {
        let peer = LedgerPeer {
            peer: "12D3".to_owned(),
            standing: Standing::FreeRider,
            served: Amount {
                blocks: 3,
                bytes: 3 << 20,
            },
            taken: Amount::default(),
            wrong_blocks: 1,
            keeps_for_us: Amount::default(),
            kept_for_it: Amount {
                blocks: 1,
                bytes: 1 << 30,
            },
            seen_s_ago: Some(7),
            connected: false,
        };
        let text = ledger(std::slice::from_ref(&peer), &Context::for_tests());
        for part in ["free rider", "3 MiB", "1 GiB", "0 B", "ago"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let json = serde_json::to_string(&peer).expect("JSON");
        assert_eq!(
            json,
            "{\"peer\":\"12D3\",\"standing\":\"free_rider\",\"served\":{\"blocks\":3,\"bytes\":3145728},\"taken\":{\"blocks\":0,\"bytes\":0},\
             \"wrong_blocks\":1,\"keeps_for_us\":{\"blocks\":0,\"bytes\":0},\"kept_for_it\":{\"blocks\":1,\"bytes\":1073741824},\
             \"seen_s_ago\":7,\"connected\":false}"
        );
    }
}
