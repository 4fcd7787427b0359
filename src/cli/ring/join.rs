//! `libernet ring join`: what joining means is said before, who is there is said after.

use std::time::Duration;

use serde_json::json;

use crate::cli::ask::Terminal;
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::{output, show};
use crate::client::Client;
use crate::node::api::*;
use crate::ring::InviteCode;
use crate::size::ByteSize;

/// Time to wait until a member lets this machine in, or says why not; and, on a terminal, until
/// one is there.
pub(super) const MEETING_PATIENCE: Duration = Duration::from_secs(15);
/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Joins a ring. Where a person can answer and `yes` is not set, asks before.
///
/// # Errors
/// A code that is not right; what the node says; that the person does not want to.
pub(super) async fn run(request: RingJoin, yes: bool, context: &Context) -> Result<Exit, Failure> {
    let terminal = Terminal::find(context.json);
    let asks = terminal.answers && !yes && !context.json;
    if asks {
        // A code that is wrong needs no question; the node says what is wrong with it.
        if let Ok(code) = request.code.0.parse::<InviteCode>() {
            let name = request.name.as_deref().unwrap_or(&code.name);
            confirm(name, code.anywhere, terminal, context).await?;
        }
    }
    let asked = request.name.clone().or_else(|| {
        let code = request.code.0.parse::<InviteCode>().ok()?;
        Some(code.name)
    });
    let (ring, lent_bytes, members, is_let_in, is_embedded, exit) = context
        .with_client(async |client, _| {
            let ring = client.ring_join(request).await?.ring;
            let rings = client.ring_list(RingList {}).await?.rings;
            let mut rings = rings.iter().filter(|one| one.ring == ring);
            let is_let_in = rings.any(|one| one.generation > 0);
            let is_shown = is_let_in && !context.json && !context.quiet;
            let patience = match terminal.screen.is_some() && is_shown {
                true => MEETING_PATIENCE,
                false => Duration::ZERO,
            };
            let members = meet(client, &ring, patience).await?;
            let lent_bytes = client.status(Status {}).await?.limits.lend;
            let exit = match is_let_in {
                true => Exit::Done,
                false => Exit::Partial,
            };
            Ok((
                ring,
                lent_bytes,
                members,
                is_let_in,
                client.is_embedded(),
                exit,
            ))
        })
        .await?;
    if context.json {
        output::json(&json!({
            "ring": ring,
            "let_in": is_let_in,
            "lent_bytes": lent_bytes,
            "members": members,
        }))?;
    } else {
        if let Some(asked) = asked.filter(|asked| *asked != ring) {
            context.notice(&format!(
                "a ring '{}' is here already: this one is called '{}' on this machine",
                show::printable(&asked),
                show::printable(&ring)
            ));
        }
        let lines = match is_let_in {
            true => lines(&ring, lent_bytes, &members, is_embedded),
            false => not_let_in(&ring, is_embedded),
        };
        for line in lines {
            context.notice(&line);
        }
    }
    Ok(exit)
}

/// Asks whether to join.
async fn confirm(
    name: &str,
    anywhere: bool,
    terminal: Terminal,
    context: &Context,
) -> Result<(), Failure> {
    let config = context.config(std::collections::BTreeMap::new())?;
    terminal.show(&format!(
        "The members of the ring '{}' may then keep up to {} on this disk (`lend`; `libernet config set lend SIZE`),\nand see this \
         machine's name and addresses. They keep this machine's backups, and can't read them.\n",
        show::printable(name),
        ByteSize(config.lent_bytes())
    ))?;
    if anywhere {
        terminal.show(
            "Its members find each other in the BitTorrent Mainline DHT: this machine's address becomes visible there,\nunder keys \
             that only members can make. LIBERNET_MEET=off keeps this machine out of it.\n",
        )?;
    }
    let answer = terminal.line("Join? [y/N] ", context).await?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::new(Exit::Failed, "not joined")),
    }
}

/// The members that are known, once one of them is online or `patience` is over.
async fn meet(client: &Client, ring: &str, patience: Duration) -> Result<Vec<RingMember>, Failure> {
    let until = tokio::time::Instant::now() + patience;
    loop {
        let call = RingMembers {
            ring: ring.to_owned(),
        };
        let members = client.ring_members(call).await?.members;
        let is_met = members.iter().any(|member| member.online);
        if is_met || tokio::time::Instant::now() >= until {
            return Ok(members);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Lines that a person reads after joining. `is_embedded`: the node ends with the command.
fn lines(ring: &str, lent_bytes: u64, members: &[RingMember], is_embedded: bool) -> Vec<String> {
    let mut lines = vec![format!("joined the ring '{}'", show::printable(ring))];
    let names: Vec<String> = members
        .iter()
        .map(|member| {
            let name = match member.name.as_str() {
                "" => show::short(&member.peer),
                name => name,
            };
            let state = if member.online {
                "online"
            } else {
                "not online"
            };
            format!("{} ({state})", show::printable(name))
        })
        .collect();
    if !names.is_empty() {
        lines.push(format!("members: {}", names.join(", ")));
    }
    lines.push(format!(
        "lent to its members from now on: up to {} of this disk",
        ByteSize(lent_bytes)
    ));
    lines.push(if is_embedded {
        "no node is running here: nothing is kept for anybody until `libernet up` runs".to_owned()
    } else {
        "backups made from now on get copies there: `libernet backup PATH`, then `libernet health`"
            .to_owned()
    });
    lines
}

/// Lines for a machine that waits to be let in. `is_embedded`: the node ends with the command.
fn not_let_in(ring: &str, is_embedded: bool) -> Vec<String> {
    let ring = show::printable(ring);
    let mut lines = vec![
        format!("the code of the ring '{ring}' is noted; no member has let this machine in yet"),
        format!(
            "the node that made the code does so when both run and meet; `libernet ring list` then shows \
             a generation above 0. If the code is used up, over or void, the ring goes away here again; \
             a code that no member knows does nothing until its time is over: `libernet ring leave {ring}`"
        ),
    ];
    if is_embedded {
        lines.push("no node is running here: `libernet up` keeps one running".to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_about_who_is_there_and_what_is_lent() {
        let mut member = RingMember {
            peer: "12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X".to_owned(),
            name: "nas\n".to_owned(),
            online: true,
            free_bytes: None,
            clock_ahead_s: None,
            last_seen: None,
            addresses: Vec::new(),
            place: String::new(),
        };
        let text = lines("home", 25 << 30, std::slice::from_ref(&member), false).join("\n");
        assert!(text.contains("members: nas\\u{a} (online)"), "{text}");
        assert!(text.contains("up to 25 GiB"), "{text}");
        assert!(text.contains("libernet health"), "{text}");
        (member.name, member.online) = (String::new(), false);
        let text = lines("home", 1, &[member], true).join("\n");
        assert!(text.contains("12D3KooWPjce (not online)"), "{text}");
        assert!(text.contains("until `libernet up` runs"), "{text}");
        let text = not_let_in("home", true).join("\n");
        assert!(!text.contains("joined"), "{text}");
        assert!(
            text.contains("no member has let this machine in yet"),
            "{text}"
        );
        assert!(text.contains("`libernet ring leave home`"), "{text}");
    }
}
