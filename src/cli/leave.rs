//! `libernet leave`: hands over what this node keeps for others.

use std::time::Duration;

use super::context::Context;
use super::exit::{Exit, Failure};
use super::{output, show};
use crate::node::api::{Leave, LeaveReply};
use crate::size::ByteSize;

/// Longest time that can be given, in seconds: a week.
const MAX_SECONDS: u64 = 7 * 24 * 3600;

/// Hand over what this node keeps for others, before it goes for good.
///
/// Blocks kept by leases are offered to the members of this node's rings, cached blocks that nobody else provides to the peers
/// nearest to them. Leases end here when another node has all their blocks. From the start on, and until the node is started
/// again, it takes nothing more for others. Its own backups and pins are not touched.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet leave
  libernet leave --timeout 2h --rings
  libernet leave --json | jq .leased_alone

Ends with 0 when other nodes have everything, with 3 when there is something that nobody took.
With --json: {\"complete\",\"leases_ended\",\"leases_kept\",\"leased_safe\",\"leased_alone\",\"cached_safe\",\"cached_alone\",
  \"handed_over\",\"handed_over_bytes\",\"rings\":[..]}")]
pub(super) struct Args {
    /// How long it may take: seconds, or with a unit such as 10m or 2h
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = seconds)]
    timeout: u64,
    /// Leave all rings as well, at the end
    #[arg(long)]
    rings: bool,
    /// End all leases, also those whose blocks nobody took. Others may lose copies of their backups
    #[arg(long)]
    force: bool,
}

/// Reads how long something may take: seconds, or with a unit. For other commands as well.
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    let days = text.strip_suffix('d').and_then(|days| days.parse().ok());
    let seconds = match (text.parse::<u64>(), days) {
        (Ok(seconds), _) => Some(seconds),
        // Of days the parser does not know how long they are.
        (_, Some(days)) => Some(u64::saturating_mul(days, 24 * 3600)),
        _ => {
            let time = text.parse::<jiff::SignedDuration>().ok();
            time.and_then(|time| u64::try_from(time.as_secs()).ok())
        }
    };
    match seconds {
        Some(seconds @ 1..=MAX_SECONDS) => Ok(seconds),
        Some(_) => Err("it is from 1 second to 7 days".to_owned()),
        None => Err("it looks like 600, 10m, 2h or 1d".to_owned()),
    }
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let request = Leave {
        timeout_s: args.timeout,
        rings: args.rings,
        force: args.force,
    };
    let within = show::duration(Duration::from_secs(args.timeout));
    context.notice(&format!("handing over, for {within} at most"));
    let reply = context
        .with_client(async |client, _| Ok(client.leave(request, context.bar("leave")).await?))
        .await?;
    if context.json {
        output::json(&reply)?;
    } else {
        for line in lines(&reply) {
            context.notice(&line);
        }
    }
    Ok(match reply.complete {
        true => Exit::Done,
        false => Exit::Partial,
    })
}

fn lines(reply: &LeaveReply) -> Vec<String> {
    let mut lines = vec![format!(
        "handed over {} ({}); {} more were at other nodes already",
        show::count(reply.handed_over, "block"),
        ByteSize(reply.handed_over_bytes),
        (reply.leased_safe + reply.cached_safe).saturating_sub(reply.handed_over)
    )];
    if reply.leases_ended + reply.leases_kept > 0 {
        lines.push(format!(
            "{} ended, {} kept",
            show::count(reply.leases_ended, "lease"),
            reply.leases_kept
        ));
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
    if reply.leases_kept > 0 {
        lines.push(
            "leave it running, and try again when other members are online and have room; --force ends the leases as they are"
                .to_owned(),
        );
    }
    for ring in &reply.rings {
        lines.push(format!("left the ring '{}'", show::printable(ring)));
    }
    if reply.complete {
        lines.push("nothing here is needed by others any more: the node can be stopped".to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_words() {
        for (text, expected) in [("600", 600), ("10m", 600), ("2h", 7200), ("7d", 604_800)] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "0",
            "-5m",
            "8d",
            "d",
            "-1d",
            "99999999999999999d",
            "soon",
            "604801",
            "9999999999999999999999",
        ] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_was_done_in_words() {
        let mut reply = LeaveReply {
            complete: true,
            handed_over: 2,
            leased_safe: 3,
            leases_ended: 1,
            ..LeaveReply::default()
        };
        let text = lines(&reply).join("\n");
        assert!(
            text.contains("handed over 2 blocks") && text.contains("1 more"),
            "{text}"
        );
        assert!(text.contains("can be stopped"), "{text}");
        reply.complete = false;
        reply.leased_alone = 4;
        let text = lines(&reply).join("\n");
        assert!(text.contains("nobody took 4 blocks kept for"), "{text}");
        assert!(!text.contains("can be stopped"), "{text}");
    }
}
