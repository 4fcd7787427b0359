//! `libernet mesh`: this node in the mesh of all nodes.

mod operator;

use super::context::{Context, Intent};
use super::exit::{Exit, Failure};

/// Take part in the public mesh, and help others to.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet mesh operator               # what a server that helps others needs

With --json: operator {\"service\",\"firewall\":[..],\"ports\":[{\"port\",\"protocol\"}]}")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print what a server that helps others needs: a unit for systemd and lines for the firewall.
    /// Changes nothing. A node that can be reached from outside relays for those that can't, within
    /// limits, with no further setting.
    Operator,
}

impl Args {
    /// Use that the command makes of the data directory.
    pub(super) const fn intent(&self) -> Intent {
        match self.command {
            Command::Operator => Intent::Bring,
        }
    }
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    match args.command {
        Command::Operator => operator::print(context)?,
    }
    Ok(Exit::Done)
}
