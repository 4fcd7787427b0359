//! `libernet block`: blocks as they are.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::json;

use super::context::{Context, Intent};
use super::exit::{Exit, Failure};
use super::{output, show, target};
use crate::block::MAX_BLOCK_BYTES;
use crate::crypto::hash;
use crate::id::{BlockId, HashKind};
use crate::node::api::{
    BlockGet, BlockHas, BlockItem, BlockLs, BlockPut, BlockRm, BlockStat, BlockStatReply,
    BundleStat, BundleStatReply, Usage,
};
use crate::size::ByteSize;

/// Blocks asked for at once in a listing.
const PAGE_BLOCKS: u64 = 5000;

/// Work with single blocks: the encrypted bytes as they are.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet block put FILE                   # the bytes are the block, at most 2 MiB
  libernet block put FILE --hash sha256 --codec dag-pb   # prints the CID that IPFS knows it by
  libernet block get bafk... > block
  libernet block stat /sha384/38b0...
  libernet block ls --like bafk...          # ids that share its first 16 bits

With --json: put {\"id\",\"hex\",\"bytes\",\"cid\"}, has {\"id\",\"has\"}, rm {\"removed\"}, ls {\"blocks\":[{\"id\",\"bytes\"}]},
  stat {\"id\",\"local\",\"deleted\",\"bytes\",\"class\",\"pins\",\"requested\",\"downloaded\",\"served\",\"purged\"}
  with {\"first\",\"last\",\"count\"} each, stat --bundle {\"blocks\",\"local\",\"bytes\",\"deleted\"} and those sums, times in milliseconds since 1970")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Write a block to standard output.
    Get {
        /// The block.
        id: String,
        /// Write to a file instead.
        #[arg(short, long, visible_alias = "target", value_name = "FILE")]
        output: Option<PathBuf>,
        /// Time to look for it.
        #[arg(long, value_name = "TIME", value_parser = crate::time::seconds, allow_hyphen_values = true)]
        timeout: Option<u64>,
    },
    /// Store a file's bytes as one block, pinned, and print its id.
    Put {
        /// The file, or - for standard input.
        file: PathBuf,
        /// Hash function to name it by.
        #[arg(long, value_name = "NAME", default_value = "sha384")]
        hash: Hash,
        /// How the bytes are to be understood: the CID that is printed says so. It is `raw`,
        /// `dag-pb`, `dag-cbor`, `dag-json`, `cbor`, `json` or a number of the multicodec table.
        #[arg(long, value_name = "CODEC", value_parser = codec, default_value = "raw")]
        codec: u64,
    },
    /// Say whether the store has a block: yes or no.
    Has {
        /// The block.
        id: String,
    },
    /// Show what is known about a block.
    Stat {
        /// The block; with --bundle, the link of a bundle.
        id: String,
        /// Sum up the blocks of the bundle that the link names.
        #[arg(long)]
        bundle: bool,
    },
    /// List the blocks of the store, ordered by id.
    Ls {
        /// Only ids that share the first 16 bits of this one.
        #[arg(long, value_name = "ID")]
        like: Option<String>,
        /// Most blocks to list.
        #[arg(long)]
        limit: Option<u64>,
    },
    /// Drop a block from the store.
    Rm {
        /// The block.
        id: String,
        /// Drop it although a pin keeps it.
        #[arg(long)]
        force: bool,
    },
}

/// A hash function by its name in paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Hash {
    Sha384,
    Sha256,
}

impl From<Hash> for HashKind {
    fn from(hash: Hash) -> Self {
        match hash {
            Hash::Sha384 => Self::Sha384,
            Hash::Sha256 => Self::Sha256,
        }
    }
}

/// Codecs by name, with their numbers in the multicodec table.
const CODECS: [(&str, u64); 6] = [
    ("raw", 0x55),
    ("dag-pb", 0x70),
    ("dag-cbor", 0x71),
    ("dag-json", 0x0129),
    ("cbor", 0x51),
    ("json", 0x0200),
];

/// A codec by its name, or by its number in decimal or hex digits.
fn codec(text: &str) -> Result<u64, String> {
    if let Some((_, number)) = CODECS.iter().find(|(name, _)| *name == text) {
        return Ok(*number);
    }
    let number = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    // Larger numbers are no unsigned varints of multiformats.
    let fits = number.ok().filter(|number| *number <= i64::MAX as u64);
    fits.ok_or_else(|| {
        let names: Vec<&str> = CODECS.iter().map(|(name, _)| *name).collect();
        format!("it is one of {}, or a number", names.join(", "))
    })
}

impl Args {
    /// Use that the command makes of the data directory.
    pub(super) fn intent(&self) -> Intent {
        match self.command {
            Command::Get { .. } | Command::Put { .. } => Intent::Bring,
            Command::Has { .. } | Command::Stat { .. } | Command::Ls { .. } => Intent::Ask,
            Command::Rm { .. } => Intent::Remove,
        }
    }
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    match args.command {
        Command::Get {
            id,
            output,
            timeout,
        } => get(&id, output, timeout, context).await,
        Command::Put { file, hash, codec } => put(&file, hash.into(), codec, context).await,
        Command::Has { id } => {
            let id = target::block(&id)?;
            let reply = context
                .with_client(async |client, _| Ok(client.block_has(BlockHas { id }).await?))
                .await?;
            if context.json {
                output::json(&reply)?;
            } else {
                output::stdout(if reply.has { b"yes\n" } else { b"no\n" })?;
            }
            Ok(Exit::Done)
        }
        Command::Stat { id, bundle: true } => bundle_stat(&id, context).await,
        Command::Stat { id, bundle: false } => {
            let id = target::block(&id)?;
            let reply = context
                .with_client(async |client, _| Ok(client.block_stat(BlockStat { id }).await?))
                .await?;
            if context.json {
                output::json(&reply)?;
            } else {
                output::stdout(stat_text(&reply).as_bytes())?;
            }
            Ok(Exit::Done)
        }
        Command::Ls { like, limit } => {
            let like = like.as_deref().map(target::block).transpose()?;
            list(like, limit.unwrap_or(u64::MAX), context).await
        }
        Command::Rm { id, force } => {
            let id = target::block(&id)?;
            let reply = context
                .with_client(async |client, _| Ok(client.block_rm(BlockRm { id, force }).await?))
                .await?;
            if context.json {
                output::json(&reply)?;
            } else if !reply.removed {
                context.notice("the store did not have it");
            }
            Ok(Exit::Done)
        }
    }
}

async fn get(
    text: &str,
    output: Option<PathBuf>,
    timeout: Option<u64>,
    context: &Context,
) -> Result<Exit, Failure> {
    let (id, ways) = (target::block(text)?, target::ways(OsStr::new(text))?);
    let bytes = context
        .with_client_at(&ways, async |client, config| {
            let timeout_s = timeout.unwrap_or(config.timeout_s);
            Ok(client.block_get(BlockGet { id, timeout_s }).await?)
        })
        .await?;
    match output {
        None => output::stdout(&bytes)?,
        Some(path) => std::fs::write(&path, &bytes).map_err(|error| {
            Failure::io(format!("{} could not be written", path.display()), &error)
        })?,
    }
    Ok(Exit::Done)
}

async fn put(file: &Path, kind: HashKind, codec: u64, context: &Context) -> Result<Exit, Failure> {
    let bytes = read_block(file)?;
    let id = Some(hash::id_of(kind, &bytes));
    let reply = context
        .with_client(async |client, _| Ok(client.block_put(BlockPut { id }, bytes).await?))
        .await?;
    let cid = reply.id.to_cid_as(codec).to_string();
    if context.json {
        let mut told = json!(reply);
        told["cid"] = cid.into();
        output::json(&told)?;
    } else {
        output::stdout(format!("{cid}\n").as_bytes())?;
    }
    Ok(Exit::Done)
}

/// The bytes of a file that may become a block.
fn read_block(file: &Path) -> Result<Bytes, Failure> {
    let mut bytes = Vec::new();
    let limit = MAX_BLOCK_BYTES as u64 + 1;
    let read = if file.as_os_str() == "-" {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    };
    read.map_err(|error| Failure::io(format!("{} could not be read", file.display()), &error))?;
    if bytes.is_empty() || bytes.len() > MAX_BLOCK_BYTES {
        let found = if bytes.is_empty() { "none" } else { "more" };
        return Err(Failure::usage(format!(
            "a block has 1 to {MAX_BLOCK_BYTES} bytes; {} has {found}",
            file.display()
        ))
        .with_hint("`libernet put` takes files of any size"));
    }
    Ok(bytes.into())
}

async fn list(like: Option<BlockId>, limit: u64, context: &Context) -> Result<Exit, Failure> {
    context
        .with_client(async |client, _| {
            let mut after = None;
            let mut left = limit;
            let mut separator = "";
            if context.json {
                output::stdout(b"{\"blocks\":[")?;
            }
            while left > 0 {
                let request = BlockLs {
                    after,
                    like,
                    limit: left.min(PAGE_BLOCKS),
                };
                let page = client.block_ls(request).await?;
                let mut text = String::new();
                for item in &page.blocks {
                    if context.json {
                        text.push_str(separator);
                        separator = ",";
                    }
                    text.push_str(&line(item, context.json));
                }
                output::stdout(text.as_bytes())?;
                left = left.saturating_sub(page.blocks.len() as u64);
                match page.blocks.last() {
                    Some(last) if page.more => after = Some(last.id),
                    _ => break,
                }
            }
            if context.json {
                output::stdout(b"]}\n")?;
            }
            Ok(Exit::Done)
        })
        .await
}

fn line(item: &BlockItem, json: bool) -> String {
    if json {
        json!(item).to_string()
    } else {
        format!("{} {}\n", item.id, item.bytes)
    }
}

async fn bundle_stat(link: &str, context: &Context) -> Result<Exit, Failure> {
    let (link, path) = target::link_and_path(OsStr::new(link))?;
    if !path.as_os_str().is_empty() {
        return Err(Failure::usage("a link is summed up whole, without a path"));
    }
    let sum = context
        .with_client(async |client, config| {
            let timeout_s = config.timeout_s;
            Ok(client.bundle_stat(BundleStat { link, timeout_s }).await?)
        })
        .await?;
    if context.json {
        output::json(&sum)?;
    } else {
        output::stdout(sum_text(&sum).as_bytes())?;
    }
    Ok(Exit::Done)
}

fn usage(usage: &Usage) -> String {
    match (usage.first, usage.last) {
        (Some(first), Some(last)) => format!(
            "{} times, first {}, last {}",
            usage.count,
            show::timestamp(first),
            show::timestamp(last)
        ),
        _ => "never".to_owned(),
    }
}

fn sum_text(sum: &BundleStatReply) -> String {
    let rows: Vec<Vec<String>> = [
        ("blocks", sum.blocks.to_string()),
        ("here", sum.local.to_string()),
        ("size of those", ByteSize(sum.bytes).to_string()),
        ("dropped", sum.deleted.to_string()),
        ("requested", usage(&sum.requested)),
        ("downloaded", usage(&sum.downloaded)),
        ("served", usage(&sum.served)),
        ("purged", usage(&sum.purged)),
    ]
    .into_iter()
    .map(|(name, value)| vec![name.to_owned(), value])
    .collect();
    show::table(&rows, &[])
}

fn stat_text(stat: &BlockStatReply) -> String {
    let rows: Vec<Vec<String>> = [
        ("id", stat.id.to_string()),
        ("path", stat.id.to_path()),
        ("here", if stat.local { "yes" } else { "no" }.to_owned()),
        (
            "size",
            stat.bytes
                .map_or_else(|| "-".to_owned(), |bytes| ByteSize(bytes).to_string()),
        ),
        (
            "kept as",
            stat.class.clone().unwrap_or_else(|| "-".to_owned()),
        ),
        ("pins", stat.pins.to_string()),
        (
            "dropped",
            if stat.deleted { "yes" } else { "no" }.to_owned(),
        ),
        ("requested", usage(&stat.requested)),
        ("downloaded", usage(&stat.downloaded)),
        ("served", usage(&stat.served)),
        ("purged", usage(&stat.purged)),
    ]
    .into_iter()
    .map(|(name, value)| vec![name.to_owned(), value])
    .collect();
    show::table(&rows, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codecs_by_name_and_number() {
        for (text, number) in [
            ("raw", 0x55),
            ("dag-pb", 0x70),
            ("0x0129", 0x0129),
            ("85", 0x55),
        ] {
            assert_eq!(codec(text), Ok(number), "{text}");
        }
        for text in ["", "RAW", "0x", "-1", "0xffffffffffffffff", "1e3"] {
            let error = codec(text).expect_err(text);
            assert!(error.contains("dag-pb"), "{error}");
        }
    }

    #[test]
    fn the_size_of_a_block_is_checked_before_anything_starts() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("block");
        for (len, fits) in [
            (0, false),
            (1, true),
            (MAX_BLOCK_BYTES, true),
            (MAX_BLOCK_BYTES + 1, false),
        ] {
            std::fs::write(&path, vec![7; len]).expect("written");
            match read_block(&path) {
                Ok(bytes) => assert!(fits && bytes.len() == len, "{len}"),
                Err(failure) => {
                    assert!(!fits && failure.exit == Exit::Usage, "{len}");
                    assert!(failure.message.contains("2097152"), "{}", failure.message);
                }
            }
        }
        let failure = read_block(&dir.path().join("nothing")).expect_err("missing");
        assert!(failure.exit == Exit::Failed && failure.message.contains("nothing"));
    }
}
