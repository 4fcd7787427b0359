//! `libernet mesh`: this node in the mesh of all nodes.

mod join;
mod operator;

use super::context::{Context, Intent};
use super::exit::{Exit, Failure};

/// Take part in the public mesh, and help others to.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet mesh join                   # finds nodes anywhere from now on; asks first
  libernet mesh status                 # ways into the mesh, and when each last worked
  libernet mesh leave
  libernet mesh operator               # what a server that helps others needs

The public mesh has no server: its nodes find each other in the BitTorrent Mainline DHT, where anybody can see the addresses of those
that joined. Without `join` nothing is sent there, unless a ring meets anywhere (`ring create --anywhere`) or a backup is looked for by
its owner's words. The setting meet = off (LIBERNET_MEET=off) stops all of it.
With --json: join, leave and status {\"joined\",\"meet\":\"on\"|\"off\",\"ways\":[{\"kind\":\"bootstrap\"|\"mdns\"|\"meet\"|\"peer\",\"address\",
  \"last_ok\"}],\"peers\",\"reachable\":\"public\"|\"relay\"|\"no\"|\"unknown\",\"nat\",\"error\",\"asked\",\"announced\",\"dialled\"};
  operator {\"service\",\"firewall\":[..],\"ports\":[{\"port\",\"protocol\"}]}")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Find other nodes anywhere, and be found by them. Asks first: this machine's address becomes
    /// visible in the BitTorrent Mainline DHT.
    Join {
        /// Don't ask.
        #[arg(short, long)]
        yes: bool,
    },
    /// Take that back. What was told there is forgotten within about half an hour.
    Leave,
    /// Show the ways into the mesh, and when each last worked.
    Status,
    /// Print what a server that helps others needs: a unit for systemd and lines for the firewall.
    /// Changes nothing. A node that can be reached from outside relays for those that can't, within
    /// limits, with no further setting.
    Operator,
}

impl Args {
    /// Use that the command makes of the data directory.
    pub(super) const fn intent(&self) -> Intent {
        match self.command {
            Command::Join { .. } | Command::Operator => Intent::Bring,
            Command::Leave | Command::Status => Intent::Ask,
        }
    }
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    match args.command {
        Command::Join { yes } => join::join(yes, context).await?,
        Command::Leave => join::leave(context).await?,
        Command::Status => join::status(context).await?,
        Command::Operator => operator::print(context)?,
    }
    Ok(Exit::Done)
}
