//! `libernet mesh join`, `leave` and `status`.

use crate::cli::ask::Terminal;
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::{output, show};
use crate::client::Client;
use crate::node::api::{MeshJoin, MeshLeave, MeshStatus, MeshStatusReply};

/// Consequence of joining, in a sentence.
const MEANING: &str = "Nodes of the public mesh find each other in the BitTorrent Mainline DHT: this machine's IP address and port \
     become visible there, to anybody who looks for nodes of this network, for backups or for links that it holds.";

/// Joins the mesh. Asks before, unless `yes` is set.
///
/// # Errors
/// That nobody can be asked, or does not want to; what the node says.
pub(super) async fn join(yes: bool, context: &Context) -> Result<(), Failure> {
    let terminal = Terminal::find(context.json);
    if !yes {
        if !terminal.answers || context.json {
            return Err(Failure::usage(
                "joining shows this machine's address to others, and nobody is there to be asked",
            )
            .with_hint("`libernet mesh join --yes` agrees to that"));
        }
        terminal.show(&format!("{MEANING}\n"))?;
        let answer = terminal.line("Join? [y/N] ", context).await?;
        if !matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
            return Err(Failure::new(Exit::Failed, "not joined"));
        }
    }
    let (reply, is_embedded) = context
        .with_client(async |client, _| {
            Ok((client.mesh_join(MeshJoin {}).await?, client.is_embedded()))
        })
        .await?;
    if context.json {
        return output::json(&reply);
    }
    if yes {
        context.notice(MEANING);
    }
    context.notice("joined the public mesh; `libernet mesh leave` takes that back");
    tell_if_off(&reply, context);
    if is_embedded {
        context.notice("no node is running here: it is found by others while `libernet up` runs");
    }
    Ok(())
}

/// Leaves the mesh.
///
/// # Errors
/// Answer of the node.
pub(super) async fn leave(context: &Context) -> Result<(), Failure> {
    let reply = context
        .with_client(async |client, _| Ok(client.mesh_leave(MeshLeave {}).await?))
        .await?;
    if context.json {
        return output::json(&reply);
    }
    context.notice(
        "left the public mesh: nothing is announced or asked for it from now on, and what was told is forgotten within about half an \
         hour. Peers that know this node may still connect",
    );
    Ok(())
}

/// Shows the ways into the mesh.
///
/// # Errors
/// Answer of the node.
pub(super) async fn status(context: &Context) -> Result<(), Failure> {
    let ask = async |client: &Client| Ok(client.mesh_status(MeshStatus {}).await?);
    let reply = context
        .with_client(async |client, _| ask(client).await)
        .await?;
    if context.json {
        return output::json(&reply);
    }
    let joined = match (reply.joined, reply.meet.as_str()) {
        (true, "on") => "yes",
        (true, _) => "yes, and switched off by the setting meet",
        (false, _) => "no (`libernet mesh join`)",
    };
    let text = format!(
        "joined     {joined}\npeers      {}\nreachable  {}\nrouter     {}\n\n{}",
        reply.peers,
        reply.reachable,
        reply.nat,
        ways(&reply)
    );
    output::stdout(text.as_bytes())?;
    if let Some(error) = &reply.error {
        context.warning(error);
    }
    tell_if_off(&reply, context);
    Ok(())
}

fn tell_if_off(reply: &MeshStatusReply, context: &Context) {
    if reply.joined && reply.meet == "off" {
        context.warning(
            "the setting meet is off: nothing is sent to the meeting point until it is on (`libernet config set meet on`, LIBERNET_MEET)",
        );
    }
}

fn ways(reply: &MeshStatusReply) -> String {
    let head = ["way", "address", "last worked"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for way in &reply.ways {
        rows.push(vec![
            way.kind.clone(),
            show::printable(&way.address),
            way.last_ok
                .map_or_else(|| "never in this run".to_owned(), show::timestamp),
        ]);
    }
    show::table(&rows, &[])
}
