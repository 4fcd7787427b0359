//! `libernet owner machine`: which machines the owner has, and turning one out.
//!
//! The words stay in this process: it signs what they decide, and the node only passes it on.

use std::time::SystemTime;

use data_encoding::HEXLOWER;

use crate::backup::owner::{self, MachineId, Vault};
use crate::cli::backup::{Reader, Voice, Words, reading};
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use crate::cli::show::{self, short};
use crate::client::Client;
use crate::head::{Decisions, HeadRecord};
use crate::node::api::{DecideMachines, DecideMachinesReply, MachineInfo, Machines, MachinesReply};
use crate::pick::pick;
use crate::time::Timestamp;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List the owner's machines.
    Ls(Ls),
    /// Turn a machine out, such as one that was stolen: nothing that its key signs from then on
    /// counts, and new backups are sealed with keys that it does not have. Backups that it could
    /// read before, it still can.
    Revoke(Revoke),
    /// Give this machine the present keys, after a machine was turned out and this one was brought
    /// back from the words.
    Admit(Admit),
}

#[derive(Debug, clap::Args)]
pub(super) struct Ls {
    #[command(flatten)]
    reader: Reader,
}

#[derive(Debug, clap::Args)]
pub(super) struct Revoke {
    /// The machine: its name or key, or the beginning of one.
    #[arg(value_name = "NAME")]
    machine: String,
    #[command(flatten)]
    words: Words,
    /// A peer to join the mesh through, besides those of the settings. May be repeated.
    #[arg(long, value_name = "ADDRESS")]
    bootstrap: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Admit {
    #[command(flatten)]
    words: Words,
    /// A peer to join the mesh through, besides those of the settings. May be repeated.
    #[arg(long, value_name = "ADDRESS")]
    bootstrap: Vec<String>,
}

pub(super) async fn run(command: Command, context: &Context) -> Result<Exit, Failure> {
    match command {
        Command::Ls(args) => ls(args, context).await,
        Command::Revoke(args) => revoke(args, context).await,
        Command::Admit(args) => admit(args, context).await,
    }
}

async fn ls(args: Ls, context: &Context) -> Result<Exit, Failure> {
    let mut voice = Voice::of_reader(&args.reader, context).await?;
    let reply = context
        .with_client_through(&args.reader.bootstrap, async |client, config| {
            let timeout_s = if voice.has_words() {
                config.timeout_s
            } else {
                0
            };
            fetch(client, &mut voice, timeout_s, context).await
        })
        .await?;
    if context.json {
        output::json(&serde_json::json!({
            "owner": reply.owner,
            "generation": reply.generation,
            "machines": reply.machines,
        }))?;
    } else {
        output::stdout(table(&reply).as_bytes())?;
    }
    warn(&reply, context);
    Ok(Exit::Done)
}

async fn fetch(
    client: &Client,
    voice: &mut Voice,
    timeout_s: u64,
    context: &Context,
) -> Result<MachinesReply, Failure> {
    voice
        .call(context, async |speaker| {
            client.machines(Machines { speaker, timeout_s }).await
        })
        .await
}

fn table(reply: &MachinesReply) -> String {
    let heads = ["name", "key", "last written", "state"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for machine in &reply.machines {
        let state = match (machine.revoked, machine.this, machine.keys) {
            (Some(at), ..) => format!("turned out on {}", show::timestamp(at)),
            (None, true, true) => "this machine".to_owned(),
            (None, true, false) => "this machine, without the present keys".to_owned(),
            (None, false, true) => String::new(),
            (None, false, false) => "without the present keys".to_owned(),
        };
        let name = match machine.name.as_str() {
            // The machine's name is in its log.
            "" => "(not known: its log could not be had)".to_owned(),
            name => show::printable(name),
        };
        rows.push(vec![
            name,
            short(&machine.machine).to_owned(),
            machine.updated.map(show::timestamp).unwrap_or_default(),
            state,
        ]);
    }
    show::table(&rows, &[])
}

fn warn(reply: &MachinesReply, context: &Context) {
    let is_leaked = |one: &&MachineInfo| one.revoked.is_some() && one.keys && reply.generation > 0;
    for machine in reply.machines.iter().filter(is_leaked) {
        context.warning(&format!(
            "{} was turned out and may have the present keys, as two machines were turned out at the same time: run \
             `libernet owner machine revoke {}` once more",
            called(machine),
            short(&machine.machine),
        ));
    }
}

fn called(machine: &MachineInfo) -> String {
    match machine.name.as_str() {
        "" => short(&machine.machine).to_owned(),
        name => format!("{} ({})", show::printable(name), short(&machine.machine)),
    }
}

async fn revoke(args: Revoke, context: &Context) -> Result<Exit, Failure> {
    let keys = args.words.owner(context).await?;
    let mut voice = Voice::of_keys(reading(&keys));
    let (machine, reply, stay) = context
        .with_client_through(&args.bootstrap, async |client, config| {
            let known = fetch(client, &mut voice, config.timeout_s, context).await?;
            let names = |one: &MachineInfo| vec![one.name.clone(), one.machine.clone()];
            let machine = pick("machine", &args.machine, &known.machines, names);
            let machine = machine
                .map_err(|miss| Failure::usage(miss.to_string()))?
                .clone();
            let id: MachineId = machine.machine.parse().map_err(|_| unreadable())?;
            let decide = |head: &HeadRecord| keys.turn_out(head, &id, now());
            let reply = send(client, &mut voice, &known, decide, context).await?;
            let others = known.machines.into_iter();
            let stay = others.filter(|one| one.revoked.is_none() && one.machine != machine.machine);
            let stay: Vec<String> = stay.map(|one| called(&one)).collect();
            Ok((machine, reply, stay))
        })
        .await?;
    if context.json {
        output::json(&serde_json::json!({
            "machine": machine.machine,
            "name": machine.name,
            "told": reply.told,
            "kept": reply.kept,
        }))?;
    }
    let name = called(&machine);
    context.notice(&format!(
        "{name} is turned out: wherever that is known, nothing counts that its key signs from now on"
    ));
    context.notice(&match stay.is_empty() {
        true => "new backups are sealed with keys that it does not have".to_owned(),
        false => format!(
            "new backups are sealed with keys that it does not have; these machines get them when they next look: {}",
            stay.join(", ")
        ),
    });
    context.notice(
        "what it could read before, it still can: change the passwords that are in those backups. Copies of what it backed up are \
         kept until their leases end. If it was a member of a ring, remove it there, too: `libernet ring remove`",
    );
    Ok(outcome(&reply, context))
}

/// Says whom a decision has reached.
fn outcome(reply: &DecideMachinesReply, context: &Context) -> Exit {
    match (reply.told, reply.kept) {
        (0, true) => context.warning(
            "no other node was told yet: this one tells others while it runs (`libernet up`)",
        ),
        (0, false) => context.warning(
            "nobody was told: run it again where other nodes can be reached (--bootstrap, or in the ring)",
        ),
        (told, _) => context.notice(&format!("{} told", show::count(told, "node"))),
    }
    match reply.told {
        0 => Exit::Partial,
        _ => Exit::Done,
    }
}

async fn admit(args: Admit, context: &Context) -> Result<Exit, Failure> {
    let vault = Vault::open(&context.data_dir)?;
    let path = context.data_dir.join(owner::FILE_NAME);
    let vault = vault.ok_or(owner::Error::Missing(path))?;
    let keys = args.words.owner(context).await?;
    if *vault.owner() != keys.id() {
        return Err(
            Failure::usage("these words are not those of this machine's owner").with_hint(
                "compare every word with your sheet; the order counts, the case does not",
            ),
        );
    }
    let (id, mut voice) = (vault.machine(), Voice::of_keys(reading(&keys)));
    let reply = context
        .with_client_through(&args.bootstrap, async |client, config| {
            let known = fetch(client, &mut voice, config.timeout_s, context).await?;
            let mut others = known.machines.iter();
            if others.any(|one| one.this && one.revoked.is_some()) {
                return Err(
                    Failure::usage("this machine was turned out, for good").with_hint(
                        "move its owner.key away and let it in anew: `libernet init --recover`",
                    ),
                );
            }
            let decide = |head: &HeadRecord| keys.hand_over(head, &id);
            send(client, &mut voice, &known, decide, context).await
        })
        .await?;
    if context.json {
        output::json(&reply)?;
    }
    context.notice("this machine has the keys that new backups are sealed with");
    Ok(match reply.kept || reply.told > 0 {
        true => Exit::Done,
        false => Exit::Partial,
    })
}

/// Signs a decision upon what is known, and has the node make it known.
async fn send(
    client: &Client,
    voice: &mut Voice,
    known: &MachinesReply,
    decide: impl Fn(&HeadRecord) -> Result<Decisions, owner::Error>,
    context: &Context,
) -> Result<DecideMachinesReply, Failure> {
    let bytes = HEXLOWER.decode(known.record.as_bytes());
    let bytes = bytes.map_err(|_| unreadable())?;
    let head = HeadRecord::decode(&bytes).map_err(|_| unreadable())?;
    let decided = head.decided(&decide(&head)?, now());
    let record = HEXLOWER.encode(&decided.encode());
    voice
        .call(context, async |speaker| {
            let record = record.clone();
            client
                .decide_machines(DecideMachines { speaker, record })
                .await
        })
        .await
}

fn now() -> Timestamp {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Timestamp(now.as_millis() as u64)
}

fn unreadable() -> Failure {
    Failure::usage("the node tells of the machines in a way that can't be read")
        .with_hint("it may be of another version: restart it")
}
