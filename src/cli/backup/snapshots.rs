//! `libernet snapshots`: what there is.

use super::voice::{Reader, Voice};
use super::which::Which;
use super::{MAX_NAMED, contents, short, warn_of_clocks};
use crate::cli::context::{Context, Intent};
use crate::cli::exit::{Exit, Failure};
use crate::cli::{output, show};
use crate::client::Client;
use crate::node::api::{Decider, ForgetRequest, RequestState, Snapshots, SnapshotsReply};
use crate::size::ByteSize;

/// List the snapshots of all machines of an owner.
///
/// Works on this machine with its keys, and on any other with the owner's twelve words.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet snapshots
  libernet snapshots --set docs --machine laptop
  libernet snapshots --phrase                # on any machine: asks for the twelve words
  libernet snapshots --deleted               # what is forgotten and can still be had back
  libernet snapshots --json | jq -r '.snapshots[-1].link'

Exit code 3 when the log of a machine could not be had, 4 when nobody who was asked has the owner's head, or no snapshot is as asked.
With --json: {\"owner\",\"head\",\"machines\":[{\"machine\",\"name\",\"sequence\",\"updated\",\"missing\"}],
  \"snapshots\":[{\"snapshot\",\"cid\",\"link\",\"time\",\"machine\",\"set\",\"paths\",\"tags\",\"files\",\"bytes\",\"new_bytes\"}], oldest first,
  \"requests\":[{\"by\",\"by_name\",\"machine\",\"machine_name\",\"snapshot\",\"set\",\"time\",\"since\",\"due\",\"state\"}],
  \"deleted\":[{..,\"forgotten_by\"}],\"older\":[{..}],\"notes\",\"told\",\"agree\"}: requests of machines to forget what others made,
  whose state is notice, newest, kept, unread or due; \"deleted\" only with --deleted, forgotten by the machine, words, a request, or
  null while it is only asked for; \"older\" only with --older; nodes that told a head, and that have this one as their newest;
  \"cid\" is the \"id\" of `libernet pin ls --json`;
  with times in milliseconds since 1970, and beside them \"time_rfc3339\" and \"updated_rfc3339\"; a snapshot whose machine's clock
  was wrong has \"misdated\": true")]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    reader: Reader,
    /// List what is forgotten and can still be had back, and what a machine asks to forget.
    #[arg(long)]
    deleted: bool,
    /// Time to look for the owner's head and logs.
    #[arg(long, value_name = "TIME", value_parser = crate::time::seconds, allow_hyphen_values = true)]
    timeout: Option<u64>,
    /// List also the snapshots that only earlier entries of the head, or the leases of those who
    /// keep them, lead to: what a newer entry leaves out, whoever signed it.
    #[arg(long)]
    older: bool,
    // Its heading holds for all that is behind it.
    #[command(flatten)]
    which: Which,
}

impl Args {
    /// Use that the command makes of the data directory.
    pub(in crate::cli) fn intent(&self) -> Intent {
        self.reader.intent()
    }
}

pub(in crate::cli) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let choice = args.which.choice()?;
    let mut voice = Voice::of_reader(&args.reader, context).await?;
    let reply = context
        .with_client_through(&args.reader.bootstrap, async |client, config| {
            // On the machine itself everything is at hand; a stranger has to look around.
            let usual = if voice.has_words() {
                config.timeout_s
            } else {
                0
            };
            let timeout_s = args.timeout.unwrap_or(usual);
            let request = Snapshots {
                choice: choice.clone(),
                timeout_s,
                deleted: args.deleted,
                older: args.older,
                ..Snapshots::default()
            };
            fetch(client, &mut voice, request, context).await
        })
        .await?;
    warn_of_machines(&reply, context);
    if voice.has_words() {
        tell_of_head(&reply, context);
    }
    warn_of_requests(&reply.requests, context);
    warn_of_clocks(&reply.snapshots, context);
    if context.json {
        output::json(&reply)?;
    } else if args.deleted {
        match reply.deleted.is_empty() {
            true => context.notice("nothing is forgotten that can still be had back"),
            false => output::stdout(deleted(&reply).as_bytes())?,
        }
    } else if reply.snapshots.is_empty() {
        context.notice("there are no snapshots");
    } else {
        output::stdout(table(&reply).as_bytes())?;
    }
    if !reply.older.is_empty() && !context.json {
        context.notice("only earlier entries of the head or leases lead to these:");
        let older = SnapshotsReply {
            snapshots: reply.older.clone(),
            ..reply.clone()
        };
        output::stdout(table(&older).as_bytes())?;
    }
    let is_whole = reply.machines.iter().all(|state| state.missing.is_none());
    Ok(if is_whole { Exit::Done } else { Exit::Partial })
}

/// Asks the node.
pub(super) async fn fetch(
    client: &Client,
    voice: &mut Voice,
    request: Snapshots,
    context: &Context,
) -> Result<SnapshotsReply, Failure> {
    voice
        .call(context, async |speaker| {
            let request = Snapshots {
                speaker,
                ..request.clone()
            };
            client.snapshots(request).await
        })
        .await
}

/// Says how old the head is and who agrees on it: nothing else shows to somebody who has only the
/// words that nodes told an old one.
pub(super) fn tell_of_head(reply: &SnapshotsReply, context: &Context) {
    if let Some(newest) = reply.machines.iter().map(|state| state.updated).max() {
        context.notice(&format!(
            "the head is of {}; {}",
            show::timestamp(newest),
            match reply.told {
                0 => "no other node told one".to_owned(),
                told => format!(
                    "{} of {} that told one have it as their newest",
                    reply.agree,
                    show::count(told, "node")
                ),
            }
        ));
    }
}

/// Names the machines whose snapshots are not in the list, and says how they were found.
pub(super) fn warn_of_machines(reply: &SnapshotsReply, context: &Context) {
    for note in &reply.notes {
        context.warning(&show::printable(note));
    }
    for state in &reply.machines {
        if let Some(reason) = &state.missing {
            let name = if state.name.is_empty() {
                &state.machine
            } else {
                &state.name
            };
            context.warning(&format!(
                "the snapshots of the machine {name} are not in this list: its log could not be had: {reason}"
            ));
        }
    }
}

/// Says what a machine asks to forget.
pub(in crate::cli) fn warn_of_requests(requests: &[ForgetRequest], context: &Context) {
    for request in requests.iter().take(MAX_NAMED) {
        if let Some(text) = request_text(request) {
            context.warning(&text);
        }
    }
    if requests.len() > MAX_NAMED {
        let more = (requests.len() - MAX_NAMED) as u64;
        context.warning(&format!("and {} more", show::count(more, "request")));
    }
}

/// A request in words; none for one that comes to nothing.
fn request_text(request: &ForgetRequest) -> Option<String> {
    let name = |name: &str, key: &str| match name {
        "" => short(key).to_owned(),
        name => show::printable(name),
    };
    let id = short(&request.snapshot);
    let since = match request.since {
        Some(since) => format!(", first seen here on {}", show::timestamp(since)),
        None => String::new(),
    };
    let then = match (request.state, request.due) {
        (RequestState::Kept, _) => return None,
        (RequestState::Newest, _) => "it stays, as the newest of its set".to_owned(),
        (RequestState::Unread, _) => "it stays as long as a log can't be read".to_owned(),
        (RequestState::Due, _) => "the next prune lets it go".to_owned(),
        (RequestState::Notice, Some(due)) if request.since.is_some() => {
            format!("it goes after {}", show::timestamp(due))
        }
        (RequestState::Notice, _) => "its machine decides".to_owned(),
    };
    Some(format!(
        "{} asks to forget {id} of {}, made on {}{since}: {then}; `libernet unforget {id}` keeps it",
        name(&request.by_name, &request.by),
        name(&request.machine_name, &request.machine),
        show::timestamp(request.time),
    ))
}

/// Table for people of the snapshots that are forgotten and can still be had back.
fn deleted(reply: &SnapshotsReply) -> String {
    let heads = ["id", "time", "machine", "what", "forgotten by"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for one in &reply.deleted {
        let info = &one.info;
        let by = match one.forgotten_by {
            Some(Decider::Machine) => "its machine",
            Some(Decider::Words) => "the owner's words",
            Some(Decider::Request) => "another machine's request",
            None => "nobody yet: it is asked for",
        };
        rows.push(vec![
            short(&info.snapshot).to_owned(),
            show::timestamp(info.time),
            show::printable(machine_name(reply, &info.machine)),
            contents(info),
            by.to_owned(),
        ]);
    }
    show::table(&rows, &[])
}

/// The list for people.
pub(super) fn table(reply: &SnapshotsReply) -> String {
    let mut rows = vec![
        [
            "id", "time", "machine", "files", "size", "new", "what", "tags",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for info in &reply.snapshots {
        rows.push(vec![
            short(&info.snapshot).to_owned(),
            show::timestamp(info.time),
            show::printable(machine_name(reply, &info.machine)),
            info.files.to_string(),
            ByteSize(info.bytes).to_string(),
            ByteSize(info.new_bytes).to_string(),
            contents(info),
            show::printable(&info.tags.join(",")),
        ]);
    }
    show::table(&rows, &[3, 4, 5])
}

/// What the owner calls a machine.
fn machine_name<'a>(reply: &'a SnapshotsReply, machine: &'a str) -> &'a str {
    reply
        .machines
        .iter()
        .find(|state| state.machine == machine && !state.name.is_empty())
        .map_or(machine, |state| &state.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Link;
    use crate::crypto::key::Key;
    use crate::id::BlockId;
    use crate::node::api::{MachineState, SnapshotInfo};
    use crate::time::Timestamp;

    #[test]
    fn a_table_of_snapshots() {
        let reply = SnapshotsReply {
            requests: Vec::new(),
            deleted: Vec::new(),
            owner: "o".to_owned(),
            head: "h".to_owned(),
            machines: vec![MachineState {
                machine: "key".to_owned(),
                name: "laptop".to_owned(),
                sequence: 1,
                updated: Timestamp(0),
                missing: None,
            }],
            snapshots: vec![SnapshotInfo {
                snapshot: "0123456789".to_owned(),
                cid: String::new(),
                link: Link {
                    id: BlockId::from_sha384([0; 48]),
                    key: Key::new([0; 32]),
                },
                time: Timestamp(0),
                misdated: false,
                machine: "key".to_owned(),
                set: "home".to_owned(),
                paths: vec!["/home\n".to_owned()],
                tags: Vec::new(),
                files: 3,
                bytes: 1024,
                new_bytes: 0,
            }],
            older: Vec::new(),
            notes: Vec::new(),
            told: 0,
            agree: 0,
        };
        let text = table(&reply);
        let line = text.lines().nth(1).expect("a row");
        assert!(line.starts_with("01234567  "), "{line}");
        assert!(
            line.contains("laptop       3  1 KiB  0 B  home: /home\\u{a}"),
            "{line}"
        );
    }
}
