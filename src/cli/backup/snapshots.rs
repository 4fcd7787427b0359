//! `libernet snapshots`: what there is.

use super::voice::{Reader, Voice};
use super::which::Which;
use super::{contents, short, warn_of_clocks};
use crate::cli::context::{Context, Intent};
use crate::cli::exit::{Exit, Failure};
use crate::cli::{output, show};
use crate::client::Client;
use crate::node::api::{Choice, Snapshots, SnapshotsReply};
use crate::size::ByteSize;

/// List the snapshots of all machines of an owner.
///
/// Works on this machine with its keys, and on any other with the owner's twelve words.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet snapshots
  libernet snapshots --set docs --machine laptop
  libernet snapshots --phrase                # on any machine: asks for the twelve words
  libernet snapshots --json | jq -r '.snapshots[-1].link'

Exit code 3 when the log of a machine could not be had, 4 when nobody who was asked has the owner's head, or no snapshot is as asked.
With --json: {\"owner\",\"head\",\"machines\":[{\"machine\",\"name\",\"sequence\",\"updated\",\"missing\"}],
  \"snapshots\":[{\"snapshot\",\"link\",\"time\",\"machine\",\"set\",\"paths\",\"tags\",\"files\",\"bytes\",\"new_bytes\"}]}, oldest first,
  with times in milliseconds since 1970, and beside them \"time_rfc3339\" and \"updated_rfc3339\"; a snapshot whose machine's clock
  was wrong has \"misdated\": true")]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    reader: Reader,
    /// Time to look for the owner's head and logs.
    #[arg(long, value_name = "TIME", value_parser = crate::time::seconds)]
    timeout: Option<u64>,
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
            fetch(client, &mut voice, &choice, timeout_s, context).await
        })
        .await?;
    warn_of_machines(&reply, context);
    warn_of_clocks(&reply.snapshots, context);
    if context.json {
        output::json(&reply)?;
    } else if reply.snapshots.is_empty() {
        context.notice("there are no snapshots");
    } else {
        output::stdout(table(&reply).as_bytes())?;
    }
    let is_whole = reply.machines.iter().all(|state| state.missing.is_none());
    Ok(if is_whole { Exit::Done } else { Exit::Partial })
}

/// Asks the node.
pub(super) async fn fetch(
    client: &Client,
    voice: &mut Voice,
    choice: &Choice,
    timeout_s: u64,
    context: &Context,
) -> Result<SnapshotsReply, Failure> {
    voice
        .call(context, async |speaker| {
            let request = Snapshots {
                speaker,
                choice: choice.clone(),
                timeout_s,
            };
            client.snapshots(request).await
        })
        .await
}

/// Names the machines whose snapshots are not in the list.
pub(super) fn warn_of_machines(reply: &SnapshotsReply, context: &Context) {
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
