//! `libernet unlock`: gives a running node the passphrase of this machine's keys.

use super::backup::voice::{Passphrase, Voice};
use super::context::Context;
use super::exit::{Exit, Failure};
use super::output;
use crate::client::Client;
use crate::node::api::{CallError, ErrorKind, Machines};

/// Give the running node the passphrase of this machine's keys, until it ends.
///
/// Scheduled backups need it once after each start of the node.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet unlock                            # asks for it
  libernet unlock --passphrase-file /run/secrets/libernet
  libernet unlock --passphrase-command 'pass show libernet'
  libernet unlock --passphrase-fd 3 3<secret

A passphrase never comes from an argument or a variable, which others can see. `libernet up` takes the same options; as a service of systemd
it takes the credential libernet-passphrase (LoadCredential= or LoadCredentialEncrypted= in the unit) by itself.
Exit code 11 when no node is running, 2 for a wrong passphrase.
With --json: {\"unlocked\":true}")]
pub(super) struct Args {
    #[command(flatten)]
    passphrase: Passphrase,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    context.must_exist()?;
    let Some(client) = Client::running(&context.data_dir).await? else {
        return Err(Failure::new(
            Exit::NotRunning,
            "no node is running: there is nothing to unlock",
        )
        .with_hint("`libernet up` starts one, and takes --passphrase-file"));
    };
    let mut voice = Voice::of_machine(&args.passphrase, context).await?;
    let work = give(&client, &mut voice, context);
    tokio::select! {
        biased;
        () = context.stop.cancelled() => return Err(Failure::interrupted()),
        done = work => done?,
    }
    if context.json {
        output::json(&serde_json::json!({ "unlocked": true }))?;
    }
    context.notice("this machine's keys are open until the node ends");
    Ok(Exit::Done)
}

/// Gives a node the passphrase: any call that needs the keys does.
pub(super) async fn give(
    client: &Client,
    voice: &mut Voice,
    context: &Context,
) -> Result<(), Failure> {
    let ask = async |speaker| {
        let request = Machines {
            speaker,
            timeout_s: 0,
        };
        match client.machines(request).await {
            Ok(_) => Ok(()),
            // The keys were open by then: nothing was backed up yet.
            Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
            Err(error) => Err::<(), CallError>(error),
        }
    };
    voice.call(context, ask).await
}
