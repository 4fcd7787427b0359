//! `libernet completions`: scripts that let a shell complete commands.

use super::exit::{Exit, Failure};
use super::output;

/// Print a completion script for a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet completions bash > ~/.local/share/bash-completion/completions/libernet
  libernet completions zsh > ~/.zfunc/_libernet
  libernet completions fish > ~/.config/fish/completions/libernet.fish")]
pub(super) struct Args {
    /// The shell.
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut super::definition(false),
        "libernet",
        &mut script,
    );
    output::stdout(&script)?;
    Ok(Exit::Done)
}
