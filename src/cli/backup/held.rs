//! `libernet lease held` and `libernet lease drop`: backups of others on this machine.

use super::short;
use crate::cli::ask::Terminal;
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::{output, show};
use crate::node::api::{HeldLease, LeaseDrop, LeaseHeld};
use crate::size::ByteSize;

/// Fewest characters that name a lease.
const MIN_NAME: usize = 4;

#[derive(Debug, clap::Args)]
pub(super) struct Drop {
    /// Leases by the first digits of their names.
    #[arg(value_name = "LEASE", required_unless_present = "member")]
    leases: Vec<String>,
    /// All that this member brought: its machine's name, or its peer id.
    #[arg(long, value_name = "MEMBER", conflicts_with = "leases")]
    member: Option<String>,
    /// Don't ask.
    #[arg(short, long)]
    yes: bool,
}

pub(super) async fn list(context: &Context) -> Result<Exit, Failure> {
    let reply = context
        .with_client(async |client, _| Ok(client.lease_held(LeaseHeld {}).await?))
        .await?;
    if context.json {
        output::json(&reply)?;
    } else if reply.leases.is_empty() {
        context.notice("no backup of another machine is kept here");
    } else {
        let head = ["lease", "member", "size", "until", ""];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(reply.leases.iter().map(|one| {
            let state = match (one.removed, one.whole) {
                (true, _) => "of a removed member",
                (false, false) => "not whole yet",
                (false, true) => "",
            };
            vec![
                short(&one.name).to_owned(),
                member_of(one, context),
                ByteSize(one.bytes).to_string(),
                show::timestamp(one.until),
                state.to_owned(),
            ]
        }));
        output::stdout(show::table(&rows, &[2]).as_bytes())?;
        let bytes = ByteSize(reply.bytes);
        context.notice(&format!(
            "{bytes} in all; blocks that several share count once"
        ));
    }
    Ok(Exit::Done)
}

pub(super) async fn drop(args: Drop, context: &Context) -> Result<Exit, Failure> {
    let held = context
        .with_client(async |client, _| Ok(client.lease_held(LeaseHeld {}).await?))
        .await?;
    let chosen = choose(&args, &held.leases)?;
    let what = show::count(chosen.len() as u64, "lease");
    let terminal = Terminal::find(context.json);
    if !args.yes && terminal.answers && !context.json {
        terminal.show(&format!(
            "{what} of other machines: what is kept here may be the only copy. Their owners hear of it when they ask next.\n"
        ))?;
        let answer = terminal.line("Drop? [y/N] ", context).await?;
        if !matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
            return Err(Failure::new(Exit::Failed, "nothing was dropped"));
        }
    } else if !args.yes {
        return Err(
            Failure::usage("copies of others' backups go only with --yes here").with_hint(
                "what is kept here may be the only copy: `libernet lease held` lists it",
            ),
        );
    }
    let call = LeaseDrop {
        names: chosen.iter().map(|one| one.name.clone()).collect(),
    };
    let reply = context
        .with_client(async |client, _| Ok(client.lease_drop(call).await?))
        .await?;
    if context.json {
        output::json(&reply)?;
    } else {
        context.notice(&format!(
            "{} dropped ({} free for others); a member may ask again: `libernet config set lend SIZE` lends less, `libernet \
             ring remove` removes it",
            show::count(reply.dropped, "lease"),
            ByteSize(reply.bytes)
        ));
    }
    Ok(Exit::Done)
}

fn member_of(one: &HeldLease, context: &Context) -> String {
    match (one.machine.as_str(), one.peer.as_str()) {
        ("", "") => "unknown".to_owned(),
        ("", peer) => context.id(peer).to_owned(),
        // The name that a peer gives itself may be anything.
        (name, _) => show::printable(name),
    }
}

/// The leases that are meant.
fn choose<'a>(args: &Drop, held: &'a [HeldLease]) -> Result<Vec<&'a HeldLease>, Failure> {
    let not_here = |text: String| {
        Failure::new(Exit::NotFound, text).with_hint("`libernet lease held` lists them")
    };
    if let Some(member) = &args.member {
        let is_of = |one: &&HeldLease| one.machine == *member || one.peer == *member;
        let of_member: Vec<&HeldLease> = held.iter().filter(is_of).collect();
        let mut peers = of_member.iter().map(|one| &one.peer);
        let first = peers.next();
        if first.is_none() {
            return Err(not_here(format!("no lease of '{member}' is kept here")));
        }
        if peers.any(|peer| Some(peer) != first) {
            let text = format!("several members are called '{member}': use the peer id");
            return Err(Failure::usage(text));
        }
        return Ok(of_member);
    }
    let mut chosen: Vec<&HeldLease> = Vec::new();
    for name in &args.leases {
        let mut named = held
            .iter()
            .filter(|one| one.name.starts_with(name.as_str()));
        let found = match (named.next(), named.next()) {
            (Some(one), None) if name.len() >= MIN_NAME => one,
            (Some(_), _) => {
                let text = format!("'{name}' may be several leases: use more of its digits");
                return Err(Failure::usage(text));
            }
            (None, _) => return Err(not_here(format!("no lease '{name}' is kept here"))),
        };
        if !chosen.contains(&found) {
            chosen.push(found);
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    fn lease(name: &str, peer: &str, machine: &str) -> HeldLease {
        HeldLease {
            name: name.to_owned(),
            owner: String::new(),
            peer: peer.to_owned(),
            machine: machine.to_owned(),
            blocks: 1,
            bytes: 1,
            whole: true,
            received: Timestamp(1),
            until: Timestamp(2),
            removed: false,
        }
    }

    #[test]
    fn leases_are_named_by_their_digits_or_their_member() {
        let held = [
            lease("aabb01", "p1", "nas"),
            lease("aabb02", "p1", "nas"),
            lease("ccdd01", "p2", "twin"),
            lease("eeff01", "p3", "twin"),
        ];
        let chosen = |leases: &[&str], member: Option<&str>| {
            let args = Drop {
                leases: leases.iter().map(|name| (*name).to_owned()).collect(),
                member: member.map(str::to_owned),
                yes: true,
            };
            let found = choose(&args, &held).map_err(|failure| failure.exit)?;
            Ok::<_, Exit>(found.iter().map(|one| one.name.clone()).collect::<Vec<_>>())
        };
        assert_eq!(
            chosen(&["aabb01", "ccdd"], None),
            Ok(vec!["aabb01".into(), "ccdd01".into()])
        );
        assert_eq!(
            chosen(&["aabb01", "aabb01"], None).map(|all| all.len()),
            Ok(1)
        );
        assert_eq!(chosen(&["aabb"], None), Err(Exit::Usage));
        assert_eq!(
            chosen(&["cc"], None),
            Err(Exit::Usage),
            "too short to be sure"
        );
        assert_eq!(chosen(&["0000"], None), Err(Exit::NotFound));
        assert_eq!(chosen(&[], Some("nas")).map(|all| all.len()), Ok(2));
        assert_eq!(chosen(&[], Some("p3")).map(|all| all.len()), Ok(1));
        assert_eq!(chosen(&[], Some("twin")), Err(Exit::Usage));
        assert_eq!(chosen(&[], Some("nobody")), Err(Exit::NotFound));
    }
}
