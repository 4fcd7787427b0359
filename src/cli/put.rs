//! `libernet put`: files into blocks.

use std::path::PathBuf;

use futures::StreamExt;
use tokio_util::io::ReaderStream;

use super::context::Context;
use super::exit::{Exit, Failure};
use super::{output, show};
use crate::node::api::{Put, PutReply, PutStream};
use crate::size::ByteSize;

/// Bytes read from standard input at once.
const READ_BYTES: usize = 256 << 10;
/// Longest name in bytes, as in most file systems.
const MAX_NAME_BYTES: usize = 255;
/// Files named in a warning when many could not be read.
const MAX_NAMED: usize = 20;

/// Store a file or directory and print its link.
///
/// What is the same as before costs no space again. The blocks are pinned and announced, so that others find them. The link
/// holds the key: whoever has it can read the content.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet put ~/Documents
  libernet put website --index-file index.html
  tar c src | libernet put - --name src.tar
  LINK=$(libernet put -q report.pdf)

With --json: {\"link\",\"id\",\"bytes\",\"files\",\"blocks\",\"new_bytes\",\"unreadable\":[{\"path\",\"reason\"}],\"announced_to\"}")]
pub(super) struct Args {
    /// File or directory, or - for standard input.
    path: PathBuf,
    /// Name to show in lists and to extract a single file under [default: the path's last part].
    #[arg(long)]
    name: Option<String>,
    /// Let the blocks be dropped when room is needed.
    #[arg(long)]
    no_pin: bool,
    /// File to show when the bundle is opened as a page, relative to PATH.
    #[arg(long, value_name = "FILE")]
    index_file: Option<String>,
    /// Don't wait until the root is announced to the mesh.
    #[arg(long)]
    no_announce: bool,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let from_stdin = args.path.as_os_str() == "-";
    if let Some(name) = &args.name {
        check_name(name)?;
    }
    if from_stdin && args.index_file.is_some() {
        return Err(Failure::usage(
            "--index-file names a file of a directory, and standard input is one file",
        ));
    }
    let reply = context
        .with_client(async |client, _| {
            let bar = context.bar("put");
            if from_stdin {
                let request = PutStream {
                    name: args.name.clone().unwrap_or_else(|| "stdin".to_owned()),
                    pin: !args.no_pin,
                    announce: !args.no_announce,
                };
                let input = ReaderStream::with_capacity(output::async_stdin()?, READ_BYTES);
                return Ok(client.put_stream(request, input.boxed(), bar).await?);
            }
            let request = Put {
                path: Context::absolute(&args.path)?,
                name: args.name.clone(),
                index_file: args.index_file.clone(),
                pin: !args.no_pin,
                announce: !args.no_announce,
            };
            Ok(client.put(request, bar).await?)
        })
        .await?;
    print(&reply, &args, context)?;
    Ok(if reply.unreadable.is_empty() {
        Exit::Done
    } else {
        Exit::Partial
    })
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

fn print(reply: &PutReply, args: &Args, context: &Context) -> Result<(), Failure> {
    for file in reply.unreadable.iter().take(MAX_NAMED) {
        context.warning(&format!("{}: {}", file.path, file.reason));
    }
    if reply.unreadable.len() > MAX_NAMED {
        let more = reply.unreadable.len() - MAX_NAMED;
        context.warning(&format!("and {more} more that could not be read"));
    }
    if context.json {
        return output::json(reply);
    }
    output::stdout(format!("{}\n", reply.link).as_bytes())?;
    context.notice(&format!(
        "{} in {}, {}, {} of them new",
        ByteSize(reply.bytes),
        show::count(reply.files, "file"),
        show::count(reply.blocks, "block"),
        ByteSize(reply.new_bytes),
    ));
    if !args.no_announce {
        context.notice(&match reply.announced_to {
            0 => "no peer to announce it to yet: a running node announces it as soon as it has one"
                .to_owned(),
            peers => format!("announced to {}", show::count(peers, "peer")),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
