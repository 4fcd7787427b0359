//! `libernet restore`: a snapshot back into files.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::TryStreamExt;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::voice::{Reader, Voice};
use super::which::Which;
use super::{short, snapshots, warn_missing, warn_of_clocks};
use crate::cli::alone::tell_if_alone_without;
use crate::cli::context::{Context, Intent};
use crate::cli::exit::{Exit, Failure};
use crate::cli::target::{Target, When};
use crate::cli::whole_file::WholeFile;
use crate::cli::{output, show, target};
use crate::client::Client;
use crate::node::api::{
    BlockHas, CallError, Choice, ErrorKind, MissingPart, Restore, RestoreReply, RestoreTar,
    SnapshotRef, SnapshotTree, Snapshots,
};
use crate::size::ByteSize;

/// Write a snapshot, or a part of it, to disk.
///
/// A whole snapshot goes below the target with its whole paths: /home/u/docs becomes
/// DIR/home/u/docs. With :PATH the content of PATH goes straight into the target:
/// `latest:/home/u/docs --target DIR` gives DIR/letter.odt. Every byte that is written is checked,
/// nothing is ever written outside of the target, and files there that are not in the snapshot
/// stay. A second run goes on where the first was interrupted.
///
/// Files that are there already get the mode, owner, time, ACLs and extended attributes of the
/// snapshot, too. A target that is there keeps its own, unless it is the restored directory itself
/// (`latest:/srv/data --target /srv/data`). Root restores owners and devices; others own what they
/// restore.
///
/// With the owner's twelve words (--phrase) it works on any machine: with the address of some node
/// (--bootstrap), or with none where a node that holds these backups has joined the public mesh.
/// Then the BitTorrent Mainline DHT is asked, where this machine's address is seen (not with
/// --no-meet).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet restore latest --target /mnt/restored
  libernet restore latest:/home/u/docs --target ~/docs
  libernet restore latest --set docs --machine laptop --target out
  libernet restore 1f3a2b4c --target out --include '*.odt' --first 'taxes/'
  libernet restore latest --target out --phrase
  libernet restore latest --target out --phrase --bootstrap /ip4/192.0.2.7/tcp/4384
  libernet restore latest --target / --verify
  libernet restore latest:/etc --tar - | tar t

Files that exist are replaced when their size or time differs (--overwrite changed, restic's
if-changed), with --verify also when their bytes differ; always replaces every file, never leaves
everything that exists alone.
Exit code 3 when something is missing, the system refused an attribute, or the newest snapshot could not
be read and an earlier one was restored (only with the words), 4 when no head or no such
snapshot is found in time or nothing matches --include, 5 when data is damaged.
With --json: {\"snapshot\",\"time\",\"machine\",\"set\",\"files\",\"bytes\",\"verified\",\"unchanged\",\"skipped\",\"missing\":[{\"path\",\"path_hex\",\"block\",\"reason\"}],
  \"missing_total\",\"unmatched\":[pattern],\"refused\":[{\"path\",\"reason\"}],\"refused_total\",
  \"kept_owners\",\"lost_powers\",\"from\":[{\"peer\",\"blocks\",\"bytes\"}],\"target\"}; with --tar FILE: {\"tar\",\"bytes\"}")]
pub(in crate::cli) struct Args {
    /// latest, the first digits of an id, or a snapshot's link; and perhaps a path in it.
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    snapshot: OsString,
    /// The directory to write to; made when it is missing, with those above it.
    #[arg(
        short = 'o',
        long,
        visible_alias = "output",
        value_name = "DIR",
        required_unless_present = "tar"
    )]
    target: Option<PathBuf>,
    /// Restore only what matches this pattern (in the syntax of .gitignore). May be repeated. One
    /// with a slash inside (sub/*.txt) starts at PATH, without a PATH at each path that was backed
    /// up.
    #[arg(long, value_name = "PATTERN")]
    include: Vec<OsString>,
    /// Restore what matches this pattern before everything else. May be repeated.
    #[arg(long, value_name = "PATTERN", conflicts_with = "tar")]
    first: Vec<OsString>,
    /// Restore the newest files first.
    #[arg(long, conflicts_with = "tar")]
    newest_first: bool,
    /// What to do with files that exist.
    #[arg(long, value_enum, default_value = "changed")]
    overwrite: When,
    /// Read everything back from disk and compare it with the snapshot, also files that were there
    /// already.
    #[arg(long, conflicts_with = "tar")]
    verify: bool,
    /// Only say what would be done.
    #[arg(long, conflicts_with = "tar")]
    dry_run: bool,
    /// Write a tar archive in place of files: to a new file, or to standard output (-).
    #[arg(long, value_name = "FILE", conflicts_with = "target")]
    tar: Option<PathBuf>,
    /// Restore owners, groups and devices: what root does anyway.
    #[arg(long, conflicts_with = "tar")]
    owners: bool,
    /// Let everything belong to whoever restores it, and leave out devices.
    #[arg(long, conflicts_with_all = ["tar", "owners"])]
    no_owners: bool,
    /// Time to look for the head, and for one block before it counts as missing.
    #[arg(long, value_name = "TIME", value_parser = crate::time::seconds, allow_hyphen_values = true)]
    timeout: Option<u64>,
    #[command(flatten)]
    reader: Reader,
    // Its heading holds for all that is behind it.
    #[command(flatten)]
    which: Which,
}

impl Args {
    /// Use that the command makes of the data directory.
    pub(in crate::cli) fn intent(&self) -> Intent {
        match target::intent(&self.snapshot) {
            Intent::Bring => Intent::Bring,
            _ => self.reader.intent(),
        }
    }
}

pub(in crate::cli) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let (snapshot, path) = target::snapshot_and_path(&args.snapshot)?;
    let named = Target::Snapshot(snapshot.clone(), path.clone());
    let choice = args.which.choice_beside(&named)?;
    let directory = args.target.as_deref().map(Context::absolute).transpose()?;
    let ways = target::ways(&args.snapshot)?;
    let bootstrap = [&args.reader.bootstrap[..], &ways].concat();
    let mut voice = Voice::of_reader(&args.reader, context).await?;
    context
        .with_client_through(&bootstrap, async |client, config| {
            let timeout_s = args.timeout.unwrap_or(config.timeout_s);
            if voice.has_words() {
                context.notice(&format!(
                    "looking for these backups on the nodes that can be reached, for {} at most",
                    show::duration(Duration::from_secs(timeout_s))
                ));
            }
            if voice.has_words() && !context.json && !context.quiet && output::is_watched() {
                introduce(client, &mut voice, &choice, timeout_s, context).await?;
            }
            let Some(directory) = directory else {
                let name = args.tar.as_deref().unwrap_or(Path::new("-"));
                return tar(
                    &args,
                    (snapshot, choice, path, timeout_s),
                    name,
                    client,
                    &mut voice,
                    context,
                )
                .await;
            };
            let of = SnapshotRef {
                speaker: voice.speaker(),
                snapshot: snapshot.clone(),
                choice: choice.clone(),
                timeout_s: 0,
            };
            let is_here = async || is_here(client, of).await;
            let bar = context.bar("restore");
            let restore = voice.call(context, async |speaker| {
                let request = Restore {
                    of: SnapshotRef {
                        speaker,
                        snapshot: snapshot.clone(),
                        choice: choice.clone(),
                        timeout_s,
                    },
                    path: path.clone(),
                    target: directory.clone(),
                    include: target::patterns(&args.include),
                    first: target::patterns(&args.first),
                    newest_first: args.newest_first,
                    overwrite: args.overwrite.into(),
                    verify: args.verify,
                    owners: !args.no_owners,
                    dry_run: args.dry_run,
                };
                client.restore(request, bar.clone()).await
            });
            let reply =
                tell_if_alone_without(client, is_here, timeout_s, &bar, context, restore).await?;
            bar.clear();
            tell(&reply, &args, context)?;
            Ok(end(&reply, args.verify && !args.dry_run))
        })
        .await
}

/// Whether the snapshot's tree is on this machine, as far as that can be told at once. A
/// passphrase that is not given yet leaves it open: the owner's own machine has it, most likely.
async fn is_here(client: &Client, of: SnapshotRef) -> Result<bool, CallError> {
    let tree = match client.snapshot_tree(SnapshotTree { of }).await {
        Ok(reply) => reply.tree,
        Err(error) => return Ok(error.kind != ErrorKind::NotFound),
    };
    Ok(client.block_has(BlockHas { id: tree.id }).await?.has)
}

fn end(reply: &RestoreReply, must_be_verified: bool) -> Exit {
    let is_whole = reply.missing.is_empty() && reply.missing_total == 0;
    if !is_whole || reply.refused_total > 0 || reply.fell_back {
        Exit::Partial
    } else if must_be_verified && !reply.verified && reply.skipped == 0 {
        Exit::Damaged
    } else {
        Exit::Done
    }
}

/// Shows a person whose backups these are, before anything is written.
async fn introduce(
    client: &Client,
    voice: &mut Voice,
    choice: &Choice,
    timeout_s: u64,
    context: &Context,
) -> Result<(), Failure> {
    let request = Snapshots {
        choice: choice.clone(),
        timeout_s,
        ..Snapshots::default()
    };
    let reply = snapshots::fetch(client, voice, request, context).await?;
    context.notice(&format!("owner {}", show::printable(&reply.owner)));
    snapshots::tell_of_head(&reply, context);
    snapshots::warn_of_machines(&reply, context);
    warn_of_clocks(&reply.snapshots, context);
    context.notice(snapshots::table(&reply).trim_end());
    Ok(())
}

fn tell(reply: &RestoreReply, args: &Args, context: &Context) -> Result<(), Failure> {
    for note in &reply.notes {
        context.warning(&show::printable(note));
    }
    warn_missing(&reply.missing, reply.missing_total, context);
    warn_of_attributes(reply, context);
    show::unmatched(&reply.unmatched, context);
    if context.json {
        let mut value = json!(reply);
        value["target"] = json!(show::path(&reply.target));
        return output::json(&value);
    }
    output::stdout(format!("{}\n", show::printable(&show::path(&reply.target))).as_bytes())?;
    let verb = if args.dry_run {
        "would be restored"
    } else {
        "restored"
    };
    context.notice(&format!(
        "snapshot {} of {}{}: {} in {} {verb}, {} of them were there already{}; {} left alone",
        short(&reply.snapshot),
        show::timestamp(reply.time),
        made_by(reply),
        ByteSize(reply.bytes),
        show::count(reply.files, "file"),
        reply.unchanged,
        match reply.unchanged > 0 && (!args.verify || args.dry_run) {
            true => " (by size and time)",
            false => "",
        },
        reply.skipped,
    ));
    for giver in &reply.from {
        context.notice(&format!(
            "from {}: {}, {}",
            context.id(&giver.peer),
            show::count(giver.blocks, "block"),
            ByteSize(giver.bytes)
        ));
    }
    if reply.missing_total > 0 {
        context.notice(advice(&reply.missing));
    } else if args.verify && !args.dry_run {
        context.notice(&verdict(reply));
    }
    Ok(())
}

/// Machine and set of the snapshot: `latest` may be of any.
fn made_by(reply: &RestoreReply) -> String {
    let name = |word: &str, name: &str| match name {
        "" => String::new(),
        name => format!(", {word} {}", show::printable(name)),
    };
    name("machine", &reply.machine) + &name("set", &reply.set)
}

/// Outcome of `--verify`, and no more than that.
fn verdict(reply: &RestoreReply) -> String {
    if !reply.verified {
        return match reply.skipped {
            0 => "not everything could be verified".to_owned(),
            skipped => format!(
                "not everything was verified: {} left alone",
                was_or_were(skipped)
            ),
        };
    }
    match reply.refused_total {
        0 => "everything was read back and is the same".to_owned(),
        1 => "all content was read back and is the same; one attribute is not".to_owned(),
        more => format!("all content was read back and is the same; {more} attributes are not"),
    }
}

fn was_or_were(count: u64) -> String {
    match count {
        1 => "1 was".to_owned(),
        more => format!("{more} were"),
    }
}

/// Names what was not restored besides content.
fn warn_of_attributes(reply: &RestoreReply, context: &Context) {
    if reply.refused_total > 0 {
        context.warning(&format!(
            "the content is there, but the system refused {}:",
            show::count(reply.refused_total, "attribute")
        ));
        warn_missing(&reply.refused, reply.refused_total, context);
    }
    if reply.kept_owners > 0 {
        context.warning(&format!(
            "{} belonged to other users or groups before: only root can give them back",
            show::count(reply.kept_owners, "restored name")
        ));
    }
    if reply.lost_powers > 0 {
        context.warning(&format!(
            "{} had a setuid or setgid bit and has none now: the owner or group is another",
            show::count(reply.lost_powers, "restored name")
        ));
    }
}

/// Advice on parts that are not in place: blocks that nobody gave, or what this machine refused.
fn advice(missing: &[MissingPart]) -> &'static str {
    let (from_others, from_here): (Vec<_>, Vec<_>) =
        missing.iter().partition(|part| part.block.is_some());
    match (from_others.is_empty(), from_here.is_empty()) {
        (false, true) => "run it again when more nodes are online: only what is missing is fetched",
        (true, _) => {
            "see to what is named above, and run it again: only what is missing is written"
        }
        (false, false) => "see to what is named above, and run it again when more nodes are online",
    }
}

/// A tar archive in place of files.
async fn tar(
    args: &Args,
    (snapshot, choice, path, timeout_s): (String, Choice, PathBuf, u64),
    name: &Path,
    client: &Client,
    voice: &mut Voice,
    context: &Context,
) -> Result<Exit, Failure> {
    let to_stdout = name.as_os_str() == "-";
    if !to_stdout && name.symlink_metadata().is_ok() {
        return Err(Failure::new(
            Exit::Exists,
            format!("{} exists already", name.display()),
        ));
    }
    let mut stream = voice
        .call(context, async |speaker| {
            let request = RestoreTar {
                of: SnapshotRef {
                    speaker,
                    snapshot: snapshot.clone(),
                    choice: choice.clone(),
                    timeout_s,
                },
                path: path.clone(),
                include: target::patterns(&args.include),
            };
            client.restore_tar(request).await
        })
        .await?;
    let failed = |error: &std::io::Error| {
        if to_stdout {
            Failure::output(error)
        } else {
            Failure::io(format!("{} could not be written", name.display()), error)
        }
    };
    let path = Context::absolute(name)?;
    let beside = match to_stdout {
        true => None,
        false => Some(WholeFile::create(&path).map_err(|error| failed(&error))?),
    };
    let mut out = match &beside {
        None => output::async_stdout()?,
        Some(file) => tokio::fs::File::from_std(file.writer().map_err(|error| failed(&error))?),
    };
    let mut written = 0;
    while let Some(bytes) = stream.try_next().await? {
        out.write_all(&bytes)
            .await
            .map_err(|error| failed(&error))?;
        written += bytes.len() as u64;
    }
    out.flush().await.map_err(|error| failed(&error))?;
    let Some(file) = beside else {
        return Ok(Exit::Done);
    };
    out.sync_all().await.map_err(|error| failed(&error))?;
    file.keep(&path).map_err(|error| failed(&error))?;
    if context.json {
        output::json(&json!({ "tar": show::path(name), "bytes": written }))?;
    } else {
        context.notice(&format!("{} in {}", ByteSize(written), name.display()));
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::BlockId;
    use crate::time::Timestamp;

    #[test]
    fn what_this_machine_refused_is_no_matter_of_other_nodes() {
        let part =
            |block: Option<BlockId>| MissingPart::new(Path::new("/f"), block, "no".to_owned());
        let (refused, absent) = (part(None), part(Some(BlockId::from_sha384([1; 48]))));
        assert!(!advice(std::slice::from_ref(&refused)).contains("nodes are online"));
        assert!(advice(std::slice::from_ref(&absent)).contains("nodes are online"));
        assert!(advice(&[refused, absent]).contains("named above, and run it again when"));
    }

    #[test]
    fn how_it_ends() {
        let mut reply = RestoreReply {
            machine: String::new(),
            set: String::new(),
            snapshot: String::new(),
            time: Timestamp(0),
            files: 1,
            bytes: 1,
            verified: true,
            unchanged: 0,
            skipped: 0,
            missing: Vec::new(),
            missing_total: 0,
            refused: Vec::new(),
            refused_total: 0,
            kept_owners: 0,
            lost_powers: 0,
            notes: Vec::new(),
            fell_back: false,
            from: Vec::new(),
            unmatched: Vec::new(),
            target: PathBuf::new(),
        };
        assert_eq!(end(&reply, true), Exit::Done);
        reply.verified = false;
        assert_eq!(
            (end(&reply, false), end(&reply, true)),
            (Exit::Done, Exit::Damaged)
        );
        // What was left alone on purpose is not in place, and that is no damage.
        reply.skipped = 1;
        assert_eq!(end(&reply, true), Exit::Done);
        reply.refused_total = 1;
        assert_eq!(end(&reply, false), Exit::Partial);
        reply.refused_total = 0;
        reply.missing.push(MissingPart {
            path: String::new(),
            path_hex: None,
            block: None,
            reason: String::new(),
        });
        assert_eq!(end(&reply, true), Exit::Partial);
    }
}
