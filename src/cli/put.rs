//! `libernet put`: files into blocks.

use std::cell::Cell;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio_util::io::ReaderStream;

use super::context::Context;
use super::exit::{Exit, Failure};
use super::progress::Bar;
use super::{output, serve, show, target};
use crate::client::Client;
use crate::monitor::{Monitor, Progress};
use crate::node::api::{MakeTicket, MakeTicketReply, Put, PutLike, PutReply, PutStream};
use crate::size::ByteSize;

/// Bytes read from standard input at once.
const READ_BYTES: usize = 256 << 10;
/// Longest name in bytes, as in most file systems.
const MAX_NAME_BYTES: usize = 255;
/// Bits that a root's id shares with another unless told otherwise.
const LIKE_BITS: u32 = 16;
/// Files named in a warning when many could not be read.
const MAX_NAMED: usize = 20;

/// Store a file or directory and print its link.
///
/// Content that is the same as before costs no space again. The blocks are pinned and announced, so
/// that others find them. The link holds the key: whoever has it can read the content.
///
/// Others can fetch it while a node runs. Where none does, this command serves it until Ctrl-C when
/// it is used in a terminal, and ends at once in a script: --serve and --no-serve say which.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet put ~/Documents
  libernet put website --index home.html
  libernet put contract.pdf --private  # nobody who has the same file can tell
  libernet put recipes --like 'text:the garden club'  # found by `libernet like`
  tar c src | libernet put - --name src.tar
  LINK=$(libernet put -q report.pdf)
  libernet put report.pdf --reachable  # a ticket: whoever has it needs no bootstrap address

With --json: {\"link\",\"ticket\" and \"reachable_at\":[..] with --reachable,\"id\",\"bytes\",\"files\",\"blocks\",\"new_bytes\",\"unreadable\":[{\"path\",\"reason\"}],
\"left_out\":[{\"path\",\"reason\"}],\"announced_to\",
\"serving\": whether a node serves it from here on}")]
pub(super) struct Args {
    /// File or directory, or - for standard input.
    path: PathBuf,
    /// Name to show in lists and to extract a single file under [default: the path's last part].
    #[arg(long)]
    name: Option<String>,
    /// Let the blocks be dropped when room is needed.
    #[arg(long)]
    no_pin: bool,
    /// Seal it with a secret of its own: for content that others could guess. Others who put the
    /// same get other blocks, and nobody who knows a file can test whether it is this one.
    #[arg(long)]
    private: bool,
    /// Make the id of the bundle's root share its first bits with an identifier, so that `libernet
    /// like` finds it there: a block id, a link, 96 hex digits, or text:WORDS. It is no sign of
    /// trust: anybody can.
    #[arg(long, value_name = "ID|LINK|text:WORDS")]
    like: Option<String>,
    /// First bits that they share, 1 to 16: each doubles the tries, and each try takes as long as
    /// sealing the root block. With 16 that is 65,536 times on average.
    #[arg(long, requires = "like", default_value_t = LIKE_BITS, value_parser = clap::value_parser!(u32).range(1..=16))]
    like_bits: u32,
    /// File to show when the bundle is opened as a page, relative to PATH.
    #[arg(long, visible_alias = "index", value_name = "FILE")]
    index_file: Option<String>,
    /// Don't wait until the root is announced to the mesh.
    #[arg(long)]
    no_announce: bool,
    /// Print a ticket, too: one word that holds the link and where this node can be reached, for
    /// `libernet get TICKET` anywhere. It is as secret as the link.
    #[arg(long)]
    reachable: bool,
    /// Where no node runs, serve until Ctrl-C also outside of a terminal.
    #[arg(long, conflicts_with = "no_serve")]
    serve: bool,
    /// End once everything is stored, also in a terminal.
    #[arg(long)]
    no_serve: bool,
}

impl Args {
    /// Arguments that store a website's directory.
    pub(super) fn of_site(directory: PathBuf, index_file: Option<String>) -> Self {
        Self {
            path: directory,
            name: None,
            no_pin: false,
            private: false,
            reachable: false,
            like: None,
            like_bits: LIKE_BITS,
            index_file,
            no_announce: false,
            serve: false,
            no_serve: false,
        }
    }
}

/// Fate of the node once everything is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// It runs anyway.
    Runs,
    /// This command's own node serves until Ctrl-C.
    Serves,
    /// This command's own node ends.
    Ends,
}

impl After {
    fn of(is_embedded: bool, args: &Args, is_interactive: bool) -> Self {
        match (
            is_embedded,
            args.serve || (is_interactive && !args.no_serve),
        ) {
            (false, _) => Self::Runs,
            (true, true) => Self::Serves,
            (true, false) => Self::Ends,
        }
    }
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    if let Some(name) = &args.name {
        check_name(name)?;
    }
    if args.path.as_os_str() == "-" && args.index_file.is_some() {
        return Err(Failure::usage(
            "--index-file names a file of a directory, and standard input is one file",
        ));
    }
    if args.path.as_os_str() == "-" && args.like.is_some() {
        return Err(Failure::usage(
            "--like is for files and directories, not for standard input",
        ));
    }
    store(&args, context, |reply, ticket, after| {
        print(reply, ticket, after, &args, context)
    })
    .await
}

/// Stores what `args` name, tells the result through `print`, and serves it where that is asked.
///
/// # Errors
/// Failure of the node, of the output, or of the local HTTP server.
pub(super) async fn store(
    args: &Args,
    context: &Context,
    print: impl Fn(&PutReply, Option<&MakeTicketReply>, After) -> Result<(), Failure>,
) -> Result<Exit, Failure> {
    // Set when only Ctrl-C is left to come.
    let done = Cell::new(None);
    let result = context
        .with_client(async |client, config| {
            let reply = put(client, args, context).await?;
            let after = After::of(client.is_embedded(), args, context.is_interactive());
            let ticket = match args.reachable {
                true => {
                    let link = reply.link.clone();
                    Some(client.ticket(MakeTicket { link }).await?)
                }
                false => None,
            };
            print(&reply, ticket.as_ref(), after)?;
            let exit = match reply.unreadable.is_empty() {
                true => Exit::Done,
                false => Exit::Partial,
            };
            if after == After::Serves {
                done.set(Some(exit));
                serve::serve(&reply.link, client, config, context).await?;
            }
            Ok(exit)
        })
        .await;
    match (result, done.get()) {
        (Err(failure), Some(exit)) if failure.exit == Exit::Interrupted => {
            context.notice("stopped");
            Ok(exit)
        }
        (result, _) => result,
    }
}

async fn put(client: &Client, args: &Args, context: &Context) -> Result<PutReply, Failure> {
    let bar = context.bar("put");
    let reply = if args.path.as_os_str() == "-" {
        let request = PutStream {
            name: args.name.clone().unwrap_or_else(|| "stdin".to_owned()),
            pin: !args.no_pin,
            announce: !args.no_announce,
            private: args.private,
        };
        let input = ReaderStream::with_capacity(output::async_stdin()?, READ_BYTES);
        let input = counted(input.boxed(), bar.clone());
        let monitor = Arc::new(OnlyWarnings(bar.clone()));
        client.put_stream(request, input, monitor).await
    } else {
        let request = Put {
            path: Context::absolute(&args.path)?,
            name: args.name.clone(),
            index_file: args.index_file.clone(),
            pin: !args.no_pin,
            announce: !args.no_announce,
            private: args.private,
            like: like(args)?,
        };
        client.put(request, bar.clone()).await
    };
    bar.clear();
    Ok(reply?)
}

/// The bytes of standard input, whose number `bar` shows as they are read. There is no total.
fn counted(
    input: BoxStream<'static, io::Result<Bytes>>,
    bar: Arc<dyn Monitor>,
) -> BoxStream<'static, io::Result<Bytes>> {
    let mut progress = Progress::default();
    let count = move |read: &io::Result<Bytes>| {
        let len = read.as_ref().map_or(0, Bytes::len);
        progress.bytes += len as u64;
        bar.progress(progress);
    };
    input.inspect(count).boxed()
}

/// Passes warnings on. The bytes that were read are counted where they are read: a node elsewhere
/// tells of them late.
#[derive(Debug)]
struct OnlyWarnings(Arc<Bar>);

impl Monitor for OnlyWarnings {
    fn progress(&self, _: Progress) {}

    fn warning(&self, message: &str) {
        self.0.warning(message);
    }
}

/// Id that the root's id is to be like.
fn like(args: &Args) -> Result<Option<PutLike>, Failure> {
    let bits = args.like_bits;
    let like = args.like.as_deref().map(target::identifier).transpose()?;
    Ok(like.map(|id| PutLike { id, bits }))
}

/// A name must be one that a file can have anywhere.
fn check_name(name: &str) -> Result<(), Failure> {
    let is_bad = name.is_empty()
        || name.len() > MAX_NAME_BYTES
        || name == "."
        || name == ".."
        || name.contains(['/', '\0']);
    if is_bad {
        return Err(Failure::usage(format!(
            "'{name}' can't be a file's name: it needs 1 to {MAX_NAME_BYTES} bytes without a slash"
        )));
    }
    Ok(())
}

/// Names the files that are not in the bundle.
pub(super) fn tell_missing(reply: &PutReply, context: &Context) {
    for file in reply.unreadable.iter().take(MAX_NAMED) {
        context.warning(&format!("{}: {}", file.path, file.reason));
    }
    if reply.unreadable.len() > MAX_NAMED {
        let more = reply.unreadable.len() - MAX_NAMED;
        context.warning(&format!("and {more} more that could not be read"));
    }
    show::left_out(&reply.left_out, context);
}

fn print(
    reply: &PutReply,
    ticket: Option<&MakeTicketReply>,
    after: After,
    args: &Args,
    context: &Context,
) -> Result<(), Failure> {
    tell_missing(reply, context);
    if context.json {
        return output::json(&Told {
            reply,
            ticket: ticket.map(|made| made.ticket.as_deref()),
            reachable_at: ticket.map(|made| made.addresses.as_slice()),
            serving: after != After::Ends,
        });
    }
    output::stdout(format!("{}\n", reply.link).as_bytes())?;
    if let Some(made) = ticket {
        tell_ticket(made, context)?;
    }
    context.notice(&format!(
        "{} in {}, {}, {} of them new",
        ByteSize(reply.bytes),
        show::count(reply.files, "file"),
        show::count(reply.blocks, "block"),
        ByteSize(reply.new_bytes),
    ));
    match (after, reply.announced_to) {
        (_, peers) if peers > 0 => {
            context.notice(&format!("announced to {}", show::count(peers, "peer")));
        }
        (After::Runs, _) if !args.no_announce => context.notice(
            "no peer to announce it to yet: the running node announces it as soon as it has one",
        ),
        _ => {}
    }
    if after == After::Ends {
        context.notice(
            "nothing serves it: this command's node ends now. `libernet up` keeps one running, \
             and --serve has this command serve it",
        );
    }
    Ok(())
}

/// Prints a ticket on a line of its own, and says what its addresses are good for.
fn tell_ticket(made: &MakeTicketReply, context: &Context) -> Result<(), Failure> {
    let Some(ticket) = &made.ticket else {
        context.warning(
            "there is no ticket: no address is known at which others could reach this node",
        );
        return Ok(());
    };
    output::stdout(format!("{ticket}\n").as_bytes())?;
    context.notice(&match made.confirmed {
        true => "the second line is a ticket: `libernet get TICKET` works wherever this node can be reached".to_owned(),
        false => format!(
            "the second line is a ticket. Nobody outside has reached this node yet, so it names what this machine listens on: {}",
            show::printable(&made.addresses.join(" "))
        ),
    });
    Ok(())
}

/// Answer that `--json` prints.
#[derive(serde::Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    reply: &'a PutReply,
    /// Missing unless asked for; null where none can be made.
    #[serde(skip_serializing_if = "Option::is_none")]
    ticket: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reachable_at: Option<&'a [String]>,
    serving: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commands_own_node_serves_in_a_terminal_or_when_told_to() {
        use clap::Parser;
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: Args,
        }
        let after = |flags: &[&str], is_embedded, is_interactive| {
            let line = Line::try_parse_from([&["put", "x"], flags].concat()).expect("valid");
            After::of(is_embedded, &line.args, is_interactive)
        };
        assert_eq!(after(&[], true, true), After::Serves);
        assert_eq!(after(&[], true, false), After::Ends);
        assert_eq!(after(&["--serve"], true, false), After::Serves);
        assert_eq!(after(&["--no-serve"], true, true), After::Ends);
        for flags in [&[][..], &["--serve"], &["--no-serve"]] {
            assert_eq!(after(flags, false, true), After::Runs);
        }
        let both = ["put", "x", "--serve", "--no-serve"];
        assert!(Line::try_parse_from(both).is_err());
    }

    #[tokio::test]
    async fn bytes_of_standard_input_are_counted_as_they_come() {
        #[derive(Default)]
        struct Seen(std::sync::Mutex<Vec<u64>>);
        impl Monitor for Seen {
            fn progress(&self, progress: Progress) {
                assert_eq!(progress.bytes_total, 0, "nobody knows how much comes");
                self.0.lock().expect("not poisoned").push(progress.bytes);
            }
            fn warning(&self, _: &str) {}
        }
        let seen = Arc::new(Seen::default());
        let parts = [&b"abc"[..], b"", b"de"].map(|part| Ok(Bytes::from_static(part)));
        let broken = [Err(io::ErrorKind::BrokenPipe.into())];
        let input = futures::stream::iter(parts.into_iter().chain(broken)).boxed();
        let mut input = counted(input, seen.clone());
        let mut came = 0;
        while let Some(part) = input.next().await {
            came += part.map_or(0, |part| part.len());
        }
        assert_eq!(came, 5);
        assert_eq!(*seen.0.lock().expect("not poisoned"), [3, 3, 5, 5]);
    }

    #[test]
    fn names_that_no_file_can_have_are_refused() {
        for name in ["a", "..a", "a b", "\u{e4}"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        assert_eq!(check_name(&"x".repeat(MAX_NAME_BYTES)), Ok(()));
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        for name in ["", ".", "..", "a/b", "a\0", &long] {
            assert_eq!(check_name(name).expect_err(name).exit, Exit::Usage);
        }
    }
}
