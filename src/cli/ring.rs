//! `libernet ring`: groups of nodes that keep each other's backups.

mod join;

use std::io::{BufRead, IsTerminal, Read};

use serde_json::json;
use zeroize::Zeroize;

use super::context::{Context, Intent};
use super::exit::{Exit, Failure};
use super::pick::{Named, pick};
use super::{output, show};
use crate::client::Client;
use crate::node::api::*;
use crate::size::ByteSize;

/// Notice for a ring that meets anywhere.
const MEETS_ANYWHERE: &str = "this ring meets anywhere: its members tell their addresses in the BitTorrent \
     Mainline DHT, under keys that only members can make";

/// Longest invite code that is read, in bytes.
const MAX_CODE_BYTES: u64 = 256;

/// Make, join and look after rings: groups of nodes that share a secret and keep each other's backups.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet ring create home            # prints a code
  libernet ring create family --anywhere   # members find each other across the internet
  libernet ring join                   # on the others; asks for the code
  libernet ring members
  libernet ring invite home --single-use --for 2h
  libernet ring remove home laptop     # the others get a new secret, this one does not

The code is a secret: a machine that knows it can join while the invitation lasts (a day, or --for), if the node that made it
runs. Given as an argument it may stay in the shell's history. Rings and members are named by their names, or by the start of a
member's peer id that no other has. Without a name the only ring is meant.
With --json: create and invite {\"ring\",\"code\",\"until\",\"single_use\",\"anywhere\"}, join {\"ring\",\"let_in\",\"lent_bytes\",\"members\":[..]},
  leave {\"ring\",\"others_alone\",
  \"others_alone_bytes\",\"own_alone\"}, list {\"rings\":[{\"ring\",\"generation\",\"joined\",\"members\",\"online\",\"anywhere\",\"branches\":[
  {\"id\",\"generations\":[{\"generation\",\"signer\",\"made\",\"removed\"}],\"own\",\"open\",\"removes_this_node\"}]}]}, choose and place {\"ring\"}, members {\"ring\",\"members\":[
  {\"peer\",\"name\",\"online\",\"free_bytes\",\"clock_ahead_s\",\"last_seen\",\"addresses\",\"place\"}],\"anywhere\"}, remove {\"ring\",\"peer\",\"generation\"}")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Make a ring and print the code that others join it with.
    Create {
        /// Letters a to z, digits and dashes.
        name: String,
        /// Members find each other wherever they are, with no address given: they tell their
        /// addresses in the BitTorrent Mainline DHT, under keys that only members can make.
        #[arg(long)]
        anywhere: bool,
    },
    /// Join a ring. Asks first when somebody can answer: from then on a part of this disk is lent
    /// to its members.
    ///
    /// Waits up to 15 seconds for a member to let this machine in. Exit code 3: none did yet, and
    /// the code is noted. Exit code 2: the code is wrong, used up, expired or void, and no ring
    /// stays here.
    Join {
        /// The code, or - to read it from standard input [default: -].
        code: Vec<String>,
        /// What to call the ring here [default: the name in the code].
        #[arg(long)]
        name: Option<String>,
        /// Don't ask.
        #[arg(short, long)]
        yes: bool,
    },
    /// List the rings that this node is in.
    #[command(visible_alias = "ls")]
    List,
    /// List the members of a ring.
    Members {
        /// The ring [default: the only one].
        #[arg(value_name = "RING")]
        name: Option<String>,
    },
    /// Make an invitation and print its code. Only this node lets in by it, while it runs. The
    /// invitation is over when a member is removed.
    Invite {
        /// The ring [default: the only one].
        #[arg(value_name = "RING")]
        name: Option<String>,
        /// Time that the invitation lasts: 30m, 12h or 7d, which is the most [default: 1d].
        #[arg(long = "for", value_name = "TIME", value_parser = crate::time::seconds, allow_hyphen_values = true)]
        ttl_s: Option<u64>,
        /// For one machine: worth nothing once that has joined.
        #[arg(long)]
        single_use: bool,
    },
    /// Leave a ring. Refused when only copies of backups would be lost: this machine's at the
    /// members, or the members' here.
    Leave {
        /// The ring [default: the only one].
        #[arg(value_name = "RING")]
        name: Option<String>,
        /// Leave all the same: these copies are lost.
        #[arg(long)]
        force: bool,
    },
    /// Remove a member: the ring gets a new secret, signed by this machine, and invitations are
    /// over.
    #[command(allow_missing_positional = true)]
    Remove {
        /// The ring [default: the only one].
        #[arg(value_name = "RING")]
        name: Option<String>,
        /// The member: its machine's name, or its peer id or the start of it.
        #[arg(value_name = "MEMBER")]
        peer: String,
    },
    /// Say where a member stands, for this machine alone: copies are asked for in different places
    /// first.
    #[command(override_usage = "libernet ring place [OPTIONS] [RING] MEMBER PLACE")]
    Place {
        /// The ring [default: the only one]; the member, by its machine's name, its peer id or the
        /// start of it; and its place: any words, such as attic or Anna's, '' for none.
        #[arg(value_name = "WORDS", num_args = 2..=3, required = true)]
        words: Vec<String>,
    },
    /// Decide between two secrets of a ring that were made at the same time, on this machine.
    /// `ring list` shows them.
    #[command(allow_missing_positional = true)]
    Choose {
        /// The ring [default: the only one].
        #[arg(value_name = "RING")]
        name: Option<String>,
        /// `here` to stay, or the branch to go over to.
        branch: String,
    },
}

/// Not derived: an argument may be a code.
impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ring ..")
    }
}

impl Args {
    /// Use that the command makes of the data directory.
    pub(super) fn intent(&self) -> Intent {
        match self.command {
            Command::Create { .. } | Command::Join { .. } => Intent::Bring,
            _ => Intent::Ask,
        }
    }
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    match args.command {
        Command::Create { name, anywhere } => {
            let call = RingCreate { name, anywhere };
            let reply = context
                .with_client(async |client, _| Ok(client.ring_create(call).await?))
                .await?;
            print_code(&reply, context)?;
        }
        Command::Place { words } => {
            let (name, peer, place) = split_place(words)?;
            let reply = context
                .with_client(async |client, _| {
                    let ring = named(client, name).await?;
                    let peer = member(client, &ring, peer).await?;
                    Ok(client.ring_place(RingPlace { ring, peer, place }).await?)
                })
                .await?;
            say(&reply, "noted on this machine", context)?;
        }
        Command::Choose { name, branch } => {
            let branch = Some(branch).filter(|branch| branch != "here");
            let reply = context
                .with_client(async |client, _| {
                    let ring = named(client, name).await?;
                    Ok(client.ring_choose(RingChoose { ring, branch }).await?)
                })
                .await?;
            let text = format!(
                "decided for this machine: `libernet ring list` shows '{}'",
                reply.ring
            );
            say(&reply, &text, context)?;
        }
        Command::Join { code, name, yes } => {
            let code = read_code(code, context).await?;
            return join::run(
                RingJoin {
                    code,
                    name,
                    wait_s: join::MEETING_PATIENCE.as_secs(),
                },
                yes,
                context,
            )
            .await;
        }
        Command::List => {
            let reply = context
                .with_client(async |client, _| Ok(client.ring_list(RingList {}).await?))
                .await?;
            if context.json {
                output::json(&reply)?;
            } else if reply.rings.is_empty() {
                context.notice("this node is in no ring");
            } else {
                output::stdout(rings_text(&reply.rings).as_bytes())?;
            }
            for ring in &reply.rings {
                let troubles = ring
                    .branches
                    .iter()
                    .map(|branch| branch.trouble(&ring.ring));
                troubles.for_each(|trouble| context.warning(&show::printable(&trouble)));
            }
        }
        Command::Members { name } => {
            let (ring, reply) = context
                .with_client(async |client, _| {
                    let ring = named(client, name).await?;
                    let call = RingMembers { ring: ring.clone() };
                    Ok((ring, client.ring_members(call).await?))
                })
                .await?;
            if context.json {
                let (members, anywhere) = (&reply.members, reply.anywhere);
                output::json(&json!({ "ring": ring, "members": members, "anywhere": anywhere }))?;
            } else if reply.members.is_empty() {
                context.notice("no other members are known yet");
            } else {
                output::stdout(members_text(&reply.members, context).as_bytes())?;
            }
            if reply.anywhere {
                context.notice(MEETS_ANYWHERE);
            }
            let troubles = reply.members.iter().filter_map(RingMember::clock_trouble);
            troubles.for_each(|trouble| context.warning(&trouble));
        }
        Command::Invite {
            name,
            ttl_s,
            single_use,
        } => {
            let reply = context
                .with_client(async |client, _| {
                    let ring = named(client, name).await?;
                    let call = RingInvite {
                        ring,
                        ttl_s,
                        single_use,
                    };
                    Ok(client.ring_invite(call).await?)
                })
                .await?;
            print_code(&reply, context)?;
        }
        Command::Leave { name, force } => {
            let reply = context
                .with_client(async |client, _| {
                    let ring = named(client, name).await?;
                    Ok(client.ring_leave(RingLeave { ring, force }).await?)
                })
                .await?;
            warn_of_loss(&reply, context);
            say(&reply, &format!("left the ring '{}'", reply.ring), context)?;
        }
        Command::Remove { name, peer } => {
            let reply = context
                .with_client(async |client, _| {
                    let ring = named(client, name).await?;
                    let peer = member(client, &ring, peer).await?;
                    Ok(client.ring_remove(RingRemove { ring, peer }).await?)
                })
                .await?;
            let text = format!(
                "removed; the other members of '{}' get a new secret when they are connected, and invitations are over",
                reply.ring
            );
            say(&reply, &text, context)?;
        }
    }
    Ok(Exit::Done)
}

/// The ring that `text` names: its name, cut short where no other begins so. Without a text the
/// only ring there is.
async fn named(client: &Client, text: Option<String>) -> Result<String, Failure> {
    let rings = client.ring_list(RingList {}).await?.rings.into_iter();
    let rings: Vec<String> = rings.map(|ring| ring.ring).collect();
    which_ring(text, rings)
}

fn which_ring(text: Option<String>, mut rings: Vec<String>) -> Result<String, Failure> {
    let Some(text) = text else {
        return match rings.len() {
            0 => Err(
                Failure::new(Exit::NotFound, "this node is in no ring").with_hint(
                    "`libernet ring create NAME` makes one, `libernet ring join` joins one",
                ),
            ),
            1 => Ok(rings.remove(0)),
            count => Err(Failure::usage(format!(
                "this node is in {count} rings, and none is named: {}",
                show::printable(&rings.join(", "))
            ))
            .with_hint("put the ring's name first: `libernet ring members RING`")),
        };
    };
    let mut begun = rings.iter().filter(|ring| ring.starts_with(&text));
    match (begun.next(), begun.next()) {
        (Some(one), None) if !text.is_empty() => Ok(one.clone()),
        // The node says what is wrong with the name.
        _ => Ok(text),
    }
}

/// Ring, member and place of `ring place`: the ring may be missing.
fn split_place(mut words: Vec<String>) -> Result<(Option<String>, String, String), Failure> {
    let place = words.pop();
    let peer = words.pop();
    match (peer, place) {
        (Some(peer), Some(place)) => Ok((words.pop(), peer, place)),
        _ => Err(Failure::usage("a member and a place are needed")),
    }
}

/// The peer id of the member that `text` names.
async fn member(client: &Client, ring: &str, text: String) -> Result<String, Failure> {
    if text.parse::<libp2p::PeerId>().is_ok() {
        return Ok(text);
    }
    let call = RingMembers {
        ring: ring.to_owned(),
    };
    let members = client.ring_members(call).await?.members.into_iter();
    let members = members.map(|member| Named {
        thing: member.peer.clone(),
        ids: vec![member.peer],
        name: member.name,
    });
    let listing = format!("libernet ring members {ring}");
    pick("member", &listing, &text, members)
}

/// Says which only copies went with the ring.
fn warn_of_loss(left: &RingLeft, context: &Context) {
    if left.others_alone > 0 {
        context.warning(&format!(
            "no member who is online keeps {} of others that are here ({}): they go when their leases end",
            show::count(left.others_alone, "backup"),
            ByteSize(left.others_alone_bytes)
        ));
    }
    if left.own_alone > 0 {
        context.warning(&format!(
            "{} of this machine had copies on members of this ring only: they are not looked after any more",
            show::count(left.own_alone, "backup")
        ));
    }
}

fn say(reply: &impl serde::Serialize, text: &str, context: &Context) -> Result<(), Failure> {
    if context.json {
        return output::json(reply);
    }
    context.notice(text);
    Ok(())
}

fn print_code(reply: &RingCode, context: &Context) -> Result<(), Failure> {
    if context.json {
        return output::json(reply);
    }
    let uses = match reply.single_use {
        true => "one machine that knows this code",
        false => "any machine that knows this code",
    };
    context.notice(&format!(
        "{uses} can join (`libernet ring join`) until {}, while this node runs:",
        show::timestamp(reply.until)
    ));
    if reply.anywhere {
        context.notice(MEETS_ANYWHERE);
    }
    output::stdout(format!("{}\n", reply.code.0).as_bytes())
}

/// The code from the arguments, which may have been split at spaces, or from standard input.
async fn read_code(mut words: Vec<String>, context: &Context) -> Result<Code, Failure> {
    if !(words.is_empty() || words == ["-"]) {
        let code = Code(words.join(" "));
        words.zeroize();
        return Ok(code);
    }
    if std::io::stdin().is_terminal() {
        context.notice("the invite code:");
    }
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::with_capacity(MAX_CODE_BYTES as usize);
        let mut input = std::io::stdin().lock().take(MAX_CODE_BYTES);
        input.read_line(&mut line).map(|_| Code(line))
    });
    let read = tokio::select! {
        read = read => read,
        () = context.stop.cancelled() => return Err(Failure::interrupted()),
    };
    let read = read.unwrap_or_else(|_| Err(std::io::ErrorKind::Interrupted.into()));
    read.map_err(|error| Failure::io("the code could not be read", &error))
}

fn rings_text(rings: &[RingInfo]) -> String {
    let mut rows = vec![
        ["ring", "members", "online", "joined", "meets"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for ring in rings {
        rows.push(vec![
            show::printable(&ring.ring),
            ring.members.to_string(),
            ring.online.to_string(),
            show::timestamp(ring.joined),
            match ring.anywhere {
                true => "anywhere".to_owned(),
                false => "mesh and LAN".to_owned(),
            },
        ]);
    }
    show::table(&rows, &[1, 2])
}

fn members_text(members: &[RingMember], context: &Context) -> String {
    let head = ["name", "free", "last seen", "place", "peer"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for member in members {
        let seen = match (member.online, member.last_seen) {
            (true, _) => "online".to_owned(),
            (false, Some(seen)) => show::timestamp(seen),
            (false, None) => "never".to_owned(),
        };
        rows.push(vec![
            // What a peer says of itself may be anything.
            show::printable(&member.name),
            member
                .free_bytes
                .map_or_else(|| "-".to_owned(), |bytes| ByteSize(bytes).to_string()),
            seen,
            show::printable(&member.place),
            context.id(&member.peer).to_owned(),
        ]);
    }
    show::table(&rows, &[1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parsed(words: &[&str]) -> Option<Command> {
        let line = std::iter::once("ring").chain(words.iter().copied());
        Line::try_parse_from(line)
            .ok()
            .map(|line| line.args.command)
    }

    #[test]
    fn a_ring_may_be_left_out_where_there_is_one() {
        let rings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let which = |text: Option<&str>, names: &[&str]| {
            let found = which_ring(text.map(str::to_owned), rings(names));
            found.map_err(|failure| failure.exit)
        };
        assert_eq!(which(None, &["home"]), Ok("home".to_owned()));
        assert_eq!(which(None, &[]), Err(Exit::NotFound));
        assert_eq!(which(None, &["home", "club"]), Err(Exit::Usage));
        assert_eq!(which(Some("ho"), &["home", "club"]), Ok("home".to_owned()));
        assert_eq!(
            which(Some(""), &["home"]),
            Ok(String::new()),
            "no name is given"
        );
    }

    #[test]
    fn the_ring_is_the_word_that_may_be_missing() {
        for (words, ring) in [
            (&["remove", "laptop"][..], None),
            (&["remove", "home", "laptop"], Some("home")),
        ] {
            let Some(Command::Remove { name, peer }) = parsed(words) else {
                panic!("{words:?}");
            };
            assert_eq!((name.as_deref(), &*peer), (ring, "laptop"));
        }
        for (words, ring) in [
            (&["choose", "here"][..], None),
            (&["choose", "home", "here"], Some("home")),
        ] {
            let Some(Command::Choose { name, branch }) = parsed(words) else {
                panic!("{words:?}");
            };
            assert_eq!((name.as_deref(), &*branch), (ring, "here"));
        }
        for (words, ring) in [
            (&["place", "laptop", "the attic"][..], None),
            (&["place", "home", "laptop", "the attic"], Some("home")),
        ] {
            let Some(Command::Place { words: given }) = parsed(words) else {
                panic!("{words:?}");
            };
            let (name, peer, place) = split_place(given).expect("whole");
            assert_eq!(
                (name.as_deref(), &*peer, &*place),
                (ring, "laptop", "the attic")
            );
        }
        for words in [&["remove"][..], &["place", "laptop"], &["choose"]] {
            assert!(parsed(words).is_none(), "{words:?}");
        }
    }
}
