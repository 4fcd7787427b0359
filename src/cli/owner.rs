//! `libernet owner`: whose machine this is, the passphrase of its keys, and the owner's machines.
//!
//! All but `machine` works on the data directory alone; no node is needed.

mod machine;

use std::path::{Path, PathBuf};

use serde_json::json;
use zeroize::Zeroizing;

use super::ask::{self, Terminal};
use super::context::Context;
use super::exit::{Exit, Failure};
use super::output;
use super::show::printable;
use crate::backup::owner::{self, Vault};

/// Show who owns this machine's backups, change the passphrase of its keys, or turn a machine out.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet owner
  libernet owner passphrase                  # asks for the present one, if any, and for a new one
  libernet owner passphrase --remove
  libernet owner machine ls
  libernet owner machine revoke laptop --phrase    # it was stolen

Exit code 4 when there is no owner (`libernet init` makes one), 5 when the passphrase is wrong.
With --json: {\"owner\",\"head\",\"machine\",\"name\",\"passphrase\"}; passphrase {\"passphrase\"}: whether there is one;
  machine ls {\"owner\",\"generation\",\"machines\":[{\"machine\",\"name\",\"this\",\"updated\",\"revoked\",\"keys\"}]}, machine revoke
  {\"machine\",\"name\",\"told\",\"kept\"}, machine admit {\"told\",\"kept\"}. Revoke and admit end with 3 when nobody could be told yet.
A machine that is turned out stays so. Nothing counts any more that its key signs, wherever that is known: no backup, no request to
forget, no end of a lease. New backups are sealed with keys that it does not have, which the other machines get when they next look.
What it could read before, it still can; copies of what it backed up are kept until their leases end.")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the owner's machines, turn one out, or give this one the present keys.
    Machine {
        #[command(subcommand)]
        command: machine::Command,
    },
    /// Set, change or remove the passphrase that protects this machine's keys.
    ///
    /// The passphrase protects the keys in owner.key: those that sign for this machine, and those
    /// that open the owner's backups wherever they are. The store, which holds the keys of
    /// everything that was put, pinned or backed up here, is not protected: whoever can read the
    /// data directory can read all that. Encrypt the disk against that.
    Passphrase {
        /// Remove it: whoever can read the file can then use the keys.
        #[arg(long, conflicts_with = "new_passphrase_file")]
        remove: bool,
        /// The present passphrase is in a file [default: asked for].
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
        /// The new passphrase is in a file [default: asked for].
        #[arg(long, value_name = "FILE")]
        new_passphrase_file: Option<PathBuf>,
    },
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    if let Some(Command::Machine { command }) = args.command {
        return machine::run(command, context).await;
    }
    let vault = open(context)?.ok_or_else(|| missing(&context.data_dir))?;
    match args.command {
        Some(Command::Machine { .. }) => {}
        None => show(&vault, context)?,
        Some(Command::Passphrase {
            remove,
            passphrase_file,
            new_passphrase_file,
        }) => {
            let terminal = Terminal::find(context.json);
            let old = match &passphrase_file {
                _ if !vault.is_locked() => None,
                Some(path) => Some(ask::passphrase_file(path)?),
                None => Some(terminal.passphrase("Present passphrase: ", context).await?),
            };
            let new = match &new_passphrase_file {
                _ if remove => None,
                Some(path) => Some(ask::passphrase_file(path)?),
                None => Some(terminal.new_passphrase(context).await?),
            };
            change(old, new, context).await?;
        }
    }
    Ok(Exit::Done)
}

fn missing(dir: &Path) -> Failure {
    owner::Error::Missing(dir.join(owner::FILE_NAME)).into()
}

/// The file of the data directory; none when there is none. Warns when others may read it.
///
/// # Errors
/// That it can't be read.
pub(super) fn open(context: &Context) -> Result<Option<Vault>, Failure> {
    let vault = Vault::open(&context.data_dir)?;
    if let Some(mode) = vault.as_ref().and_then(|vault| vault.exposed_mode) {
        let path = context.data_dir.join(owner::FILE_NAME);
        context.warning(&format!(
            "others may read {} (mode {mode:o}); `chmod 600` keeps them out",
            path.display()
        ));
    }
    Ok(vault)
}

fn show(vault: &Vault, context: &Context) -> Result<(), Failure> {
    let head = vault.owner().head_id().to_hex();
    if context.json {
        return output::json(&json!({
            "owner": vault.owner(),
            "head": head,
            "machine": vault.machine(),
            "name": vault.name(),
            "passphrase": vault.is_locked(),
        }));
    }
    let text = format!(
        "owner       {}\nhead        {head}\nmachine     {}\nname        {}\npassphrase  {}\n",
        vault.owner(),
        vault.machine(),
        printable(vault.name()),
        if vault.is_locked() { "yes" } else { "no" },
    );
    output::stdout(text.as_bytes())
}

async fn change(
    old: Option<Zeroizing<Vec<u8>>>,
    new: Option<Zeroizing<Vec<u8>>>,
    context: &Context,
) -> Result<(), Failure> {
    let dir = context.data_dir.clone();
    let is_protected = new.is_some();
    ask::to_the_end(move || {
        Vault::change_passphrase(
            &dir,
            old.as_ref().map(|bytes| bytes.as_slice()),
            new.as_ref().map(|bytes| bytes.as_slice()),
        )
        .map_err(Failure::from)
    })
    .await?;
    if context.json {
        return output::json(&json!({ "passphrase": is_protected }));
    }
    context.notice(if is_protected {
        "a passphrase protects this machine's keys; without it the words still bring everything back.\n\
         It does not protect the store: whoever can read the data directory can read what was put or backed up here"
    } else {
        "no passphrase protects this machine's keys now"
    });
    Ok(())
}
