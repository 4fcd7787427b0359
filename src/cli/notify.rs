//! `libernet notify`: whether messages about problems arrive.

use super::context::Context;
use super::exit::{Exit, Failure};
use super::{output, show};
use crate::node::api::{NotifyTest, Problem, WayState};
use crate::time::Timestamp;

/// Try the ways by which people are told of problems.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet config set notify_mail me@example.org       # by the system's sendmail
  libernet config set notify_command 'tee -a ~/problems.txt'
  libernet config set notify_webhook http://127.0.0.1:8080/hook
  libernet config set notify_desktop true
  libernet notify test

A running node (`libernet up`) tells of a problem when it begins, once a week while it lasts, and when it is over; what comes and goes is
told once a day at most, and messages are ten minutes apart or more. `libernet status` says when a message did not arrive.
A command gets the message on its standard input, and LIBERNET_SUBJECT and LIBERNET_SEVERITY (notice, warning, serious); it has 30 seconds.
Exit code 3 when a message did not arrive on one of the ways, 4 when the settings name none.
With --json: {\"ways\":[{\"way\":\"command|mail|webhook|desktop\",\"error\"}]}")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Send a message on each way that the settings name.
    Test {},
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let Command::Test {} = args.command;
    let reply = context
        .with_client(async |client, _| Ok(client.notify_test(NotifyTest {}).await?))
        .await?;
    if context.json {
        output::json(&reply)?;
    } else {
        let lines: String = reply.ways.iter().map(line).collect();
        output::stdout(lines.as_bytes())?;
    }
    if reply.ways.is_empty() {
        return Err(Failure::new(Exit::NotFound, "the settings name no way to tell people of problems")
            .with_hint("`libernet config set notify_mail ADDRESS` is one; `libernet notify --help` names the others"));
    }
    Ok(match reply.ways.iter().all(|way| way.error.is_none()) {
        true => Exit::Done,
        false => Exit::Partial,
    })
}

fn line(way: &WayState) -> String {
    match &way.error {
        None => format!("{}: handed over\n", way.way),
        Some(error) => format!("{}: failed: {}\n", way.way, show::printable(error)),
    }
}

/// A problem for people: what is wrong, since when, and what to do.
pub(super) fn words(problem: &Problem, now: Timestamp) -> String {
    let lasts = now.since(problem.since).as_secs();
    let since = match lasts {
        0..60 => String::new(),
        lasts => format!(" (for {})", super::health::ago(lasts)),
    };
    format!("{}{since} -> {}", problem.text, problem.advice)
}
