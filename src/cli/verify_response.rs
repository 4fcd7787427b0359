//! `libernet verify-response`: whether a saved answer is what a node signed.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::context::Context;
use super::exit::{Exit, Failure};
use super::{output, show};
use crate::gateway::sign::{self, BodyCheck, Verified};
use crate::node::identity;
use crate::time::Timestamp;

/// Most bytes of the headers.
const MAX_HEAD_BYTES: u64 = 1 << 20;
/// Most bytes of a body that is checked: it is held in memory.
const MAX_BODY_BYTES: u64 = 1 << 30;

/// Check the signature of an answer of a node's local HTTP server that was saved in files.
///
/// A signature shows which node gave the answer, when, and to which path. It shows that the body is
/// what the node gave where it covers a digest, or where the answer is one whole block. What is
/// streamed, such as a file of a bundle, is signed by the bundle's id alone: that is said.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  curl -sD headers -o body http://127.0.0.1:4385/sha384/38b0...
  libernet verify-response --headers headers --body body
  libernet verify-response --headers headers --body body --peer 12D3KooW...

With --json: {\"key_id\",\"created_s\",\"status\",\"path\",\"covered\":[..],
  \"body\": \"digest\", \"block\" or \"not_covered\"}")]
pub(super) struct Args {
    /// File with the status line and headers, as `curl --dump-header` writes them.
    #[arg(long, value_name = "FILE")]
    headers: PathBuf,
    /// File with the body, or - for standard input.
    #[arg(long, value_name = "FILE")]
    body: PathBuf,
    /// Node that must have signed [default: the one of the data directory].
    #[arg(long, value_name = "PEER")]
    peer: Option<String>,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let expected = match &args.peer {
        Some(peer) => peer.clone(),
        None => own_peer(context)?,
    };
    let head = read(&args.headers, MAX_HEAD_BYTES)?;
    let head = String::from_utf8_lossy(&head);
    let body = read(&args.body, MAX_BODY_BYTES)?;
    let verified = sign::verify(&head, &body, &expected).map_err(|error| {
        let failure = Failure::new(Exit::Damaged, error.to_string());
        match error {
            sign::Error::Stranger { .. } => {
                failure.with_hint("--peer names the node that should have signed")
            }
            sign::Error::Head(_) => failure.with_hint("`curl -D FILE` saves the headers"),
            _ => failure,
        }
    })?;
    if context.json {
        output::json(&verified)?;
    } else {
        output::stdout(text(&verified).as_bytes())?;
        if verified.body == BodyCheck::NotCovered && !body.is_empty() {
            context.warning("the signature says nothing of the bytes of the body");
        }
    }
    Ok(Exit::Done)
}

/// This machine's node.
fn own_peer(context: &Context) -> Result<String, Failure> {
    let peer = identity::peer_of(&context.data_dir)
        .map_err(|error| Failure::new(Exit::Damaged, error.to_string()))?;
    peer.ok_or_else(|| {
        let what = format!("there is no node in {}", context.data_dir.display());
        Failure::usage(what).with_hint("say which node must have signed: --peer PEER")
    })
}

fn read(path: &Path, most: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = match path.as_os_str() == "-" {
        true => std::io::stdin()
            .lock()
            .take(most + 1)
            .read_to_end(&mut bytes),
        false => {
            std::fs::File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes))
        }
    };
    read.map_err(|error| Failure::io(format!("{} could not be read", path.display()), &error))?;
    if bytes.len() as u64 > most {
        return Err(Failure::usage(format!(
            "{} has more than {most} bytes",
            path.display()
        )));
    }
    Ok(bytes)
}

fn text(verified: &Verified) -> String {
    let body = match verified.body {
        BodyCheck::Digest => "it has the signed digest",
        BodyCheck::Block => "it is the block of the signed id",
        BodyCheck::NotCovered => "not covered",
    };
    let created = Timestamp(verified.created_s.saturating_mul(1000));
    let rows = [
        ("signed by", verified.key_id.clone()),
        ("at", show::timestamp(created)),
        ("status", verified.status.to_string()),
        ("path", show::printable(&verified.path)),
        ("covered", verified.covered.join(" ")),
        ("body", body.to_owned()),
    ];
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|(name, value)| vec![name.to_owned(), value])
        .collect();
    show::table(&rows, &[])
}
