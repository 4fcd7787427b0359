//! `libernet leave`: hands over what this node keeps for others, and takes that back.

use std::time::Duration;

use super::context::Context;
use super::exit::{Exit, Failure};
use super::{output, show};
use crate::client::Client;
use crate::net::providers::PROVIDER_TTL;
use crate::node::api::{Leave, LeaveCancel, LeaveReply};
use crate::size::ByteSize;

/// Hand over what this node keeps for others, before it goes for good.
///
/// Leases are passed on to members of this node's rings that keep nothing of the same backup, and end here when one of them keeps all their blocks.
/// Cached blocks that nobody else provides are offered to the peers nearest to them. From the start on the node takes nothing more for others, until it
/// is started again or told to stay with --cancel. Interrupted, or when it fails, it goes on as before. Its own backups and pins are not touched.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet leave
  libernet leave --timeout 2h --rings
  libernet leave --cancel                    # the node stays after all
  libernet leave --json | jq .leased_alone

Ends with 0 when other nodes have everything, with 3 when there is something that nobody took.
With --json: {\"complete\",\"leases_ended\",\"leases_passed\",\"leases_spare\",\"leases_cached\",\"leases_unfinished\",\"leases_dropped\",
  \"leases_kept\",\"leased_safe\",\"leased_alone\",\"cached_safe\",\"cached_alone\",\"handed_over\",\"handed_over_bytes\",\"rings\":[..]}, with --cancel {\"was_leaving\"}")]
pub(super) struct Args {
    /// Time that it may take: 30s, 10m, 2h; seconds without a unit [default: as long as something
    /// is handed over]
    #[arg(long, value_name = "TIME", value_parser = crate::time::seconds, allow_hyphen_values = true)]
    timeout: Option<u64>,
    /// Leave all rings as well, at the end
    #[arg(long)]
    rings: bool,
    /// End all leases: what no member keeps is offered to everybody, as mere blocks. Others may lose copies of their backups
    #[arg(long)]
    force: bool,
    /// Take back that the running node is leaving; ends a hand-over that is under way
    #[arg(long, conflicts_with_all = ["timeout", "rings", "force"])]
    cancel: bool,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    if args.cancel {
        return cancel(context).await;
    }
    let request = Leave {
        timeout_s: args.timeout,
        rings: args.rings,
        force: args.force,
    };
    context.notice(&match args.timeout {
        Some(timeout) => {
            let within = show::duration(Duration::from_secs(timeout));
            format!("handing over, for {within} at most")
        }
        None => "handing over, for as long as somebody takes something".to_owned(),
    });
    let (reply, goes_on) = context
        .with_client(async |client, _| {
            let reply = client.leave(request, context.bar("leave")).await?;
            Ok((reply, !client.is_embedded()))
        })
        .await?;
    if context.json {
        output::json(&reply)?;
    } else {
        for line in lines(&reply, goes_on) {
            context.notice(&line);
        }
    }
    Ok(match reply.complete {
        true => Exit::Done,
        false => Exit::Partial,
    })
}

/// Has the running node stay.
async fn cancel(context: &Context) -> Result<Exit, Failure> {
    let told = async {
        match Client::running(&context.data_dir).await? {
            Some(client) => Ok(Some(client.leave_cancel(LeaveCancel {}).await?)),
            None => Ok::<_, Failure>(None),
        }
    };
    let told = tokio::select! {
        biased;
        () = context.stop.cancelled() => return Err(Failure::interrupted()),
        told = told => told?,
    };
    let Some(reply) = told else {
        let text = format!("no node is running on {}", context.data_dir.display());
        return Err(Failure::new(Exit::NotRunning, text)
            .with_hint("a node that is started takes blocks for others, also if it left before"));
    };
    if context.json {
        output::json(&reply)?;
    } else if reply.was_leaving {
        context.notice("the node stays: it takes blocks for others again. What was handed over is at others; leases that ended here have ended");
    } else {
        context.notice("the node was not leaving");
    }
    Ok(Exit::Done)
}

/// What was done, for people. `goes_on`: whether the node runs on when the command ends.
fn lines(reply: &LeaveReply, goes_on: bool) -> Vec<String> {
    let mut lines = vec![format!(
        "handed over {} ({}); {} more were at other nodes already",
        show::count(reply.handed_over, "block"),
        ByteSize(reply.handed_over_bytes),
        (reply.leased_safe + reply.cached_safe).saturating_sub(reply.handed_over)
    )];
    for (count, what) in [
        (reply.leases_passed, "that another member keeps now"),
        (
            reply.leases_spare,
            "that as many others keep as were asked for",
        ),
        (
            reply.leases_cached,
            "whose blocks others have, though nobody promised to keep them (their owners have to make other copies)",
        ),
        (
            reply.leases_unfinished,
            "that never got whole here, so that their owners were told of no copy",
        ),
        (
            reply.leases_dropped,
            "that ended by force, with blocks that nobody has",
        ),
        (reply.leases_kept, "that nobody took, and that stay here"),
    ] {
        if count > 0 {
            lines.push(format!("leases {what}: {count}"));
        }
    }
    for (count, what) in [
        (reply.leased_alone, "kept for others' backups"),
        (reply.cached_alone, "cached"),
    ] {
        if count > 0 {
            let blocks = show::count(count, "block");
            lines.push(format!("nobody took {blocks} {what}"));
        }
    }
    for ring in &reply.rings {
        lines.push(format!("left the ring '{}'", show::printable(ring)));
    }
    if reply.leases_kept > 0 {
        let up = if goes_on {
            "leave it running"
        } else {
            "start the node (`libernet up`)"
        };
        lines.push(format!(
            "{up}, and try again when other members are online and have room; --force ends the leases as they are"
        ));
    } else if reply.complete {
        lines.push("nothing here is needed by others any more: the node can be stopped".to_owned());
    }
    let forget = show::duration(PROVIDER_TTL);
    lines.push(format!(
        "nothing but its own is announced from here any more; other nodes forget within {forget} what they heard before, and pass by a node that is off"
    ));
    if goes_on {
        lines.push(
            "until the node is started again it takes nothing more for others; `libernet leave --cancel` takes that back"
                .to_owned(),
        );
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_in_words() {
        let mut reply = LeaveReply {
            complete: true,
            handed_over: 2,
            leased_safe: 3,
            leases_ended: 1,
            leases_passed: 1,
            ..LeaveReply::default()
        };
        let text = lines(&reply, true).join("\n");
        assert!(
            text.contains("handed over 2 blocks") && text.contains("1 more"),
            "{text}"
        );
        assert!(
            text.contains("leases that another member keeps now: 1"),
            "{text}"
        );
        assert!(text.contains("can be stopped"), "{text}");
        assert!(text.contains("leave --cancel"), "{text}");
        reply.complete = false;
        reply.leased_alone = 4;
        reply.leases_kept = 1;
        let text = lines(&reply, false).join("\n");
        assert!(text.contains("nobody took 4 blocks kept for"), "{text}");
        assert!(text.contains("start the node"), "{text}");
        assert!(!text.contains("can be stopped"), "{text}");
        assert!(!text.contains("--cancel"), "it has ended with the command");
        assert!(!text.contains("never got whole"), "{text}");
        reply.leases_cached = 2;
        reply.leases_unfinished = 3;
        let text = lines(&reply, false).join("\n");
        assert!(text.contains("nobody promised to keep them"), "{text}");
        assert!(text.contains("were told of no copy: 3"), "{text}");
    }
}
