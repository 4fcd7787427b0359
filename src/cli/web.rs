//! `libernet web`: the dashboard of the running node in the browser.

use serde_json::json;

use super::context::Context;
use super::exit::{Exit, Failure};
use super::output;
use crate::client::Client;

/// Open the dashboard of the running node in the browser, logged in.
///
/// The browser is given an address with a code that is good once and for five minutes. It then
/// stays logged in until the node is stopped, or for a week without use.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet web
  libernet web --print       # the address only: open it on this machine, soon

With --json: {\"url\"}, and no browser is opened")]
pub(super) struct Args {
    /// Print the address, and open no browser.
    #[arg(long)]
    print: bool,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let url = tokio::select! {
        biased;
        () = context.stop.cancelled() => return Err(Failure::interrupted()),
        url = login(context) => url?,
    };
    if context.json {
        output::json(&json!({ "url": url }))?;
        return Ok(Exit::Done);
    }
    if args.print {
        output::stdout(format!("{url}\n").as_bytes())?;
        return Ok(Exit::Done);
    }
    match open::that_detached(&url) {
        Ok(()) => {
            context.notice("the dashboard is being opened in the browser");
            Ok(Exit::Done)
        }
        Err(error) => {
            output::stdout(format!("{url}\n").as_bytes())?;
            let what = "no browser could be started: open the address above within five minutes";
            Err(Failure::io(what, &error))
        }
    }
}

/// The address that logs in once.
///
/// # Errors
/// [`Exit::NotRunning`], and what the node says.
async fn login(context: &Context) -> Result<String, Failure> {
    let Some(client) = Client::running(&context.data_dir).await? else {
        let what = "no node runs here, and only a running one has a dashboard";
        let failure = Failure::new(Exit::NotRunning, what);
        return Err(failure.with_hint("`libernet up` starts one"));
    };
    Ok(client.web_login().await?.url)
}
