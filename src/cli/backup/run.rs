//! `libernet backup`: a snapshot now, and what is to be backed up again and again.

use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use serde_json::json;

use super::sets::{Leave, Subcommand};
use super::voice::Voice;
use super::{MAX_NAMED, Passphrase, sets, short};
use crate::backup::owner::Vault;
use crate::backup::sets::{Exclusions, Set, Sets};
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::{output, show};
use crate::client::Client;
use crate::node::api::{Backup, BackupReply, CopiesReply, Forget, RingInfo, RingList, Snapshots};
use crate::size::ByteSize;
use crate::time::{Clock, SystemClock};

/// Back up paths, or all sets, as snapshots.
///
/// What has not changed since the last snapshot is neither read nor stored again. Needs an owner (`libernet init`).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet backup ~/Documents ~/Pictures --exclude '*.tmp'
  libernet backup add ~ --name home --exclude-caches --schedule 'daily 03:00' --keep-daily 7 --keep-monthly 12
  libernet backup                            # all sets
  libernet backup --set home                 # one of them
  libernet backup schedule --systemd         # units for a timer that runs what is due

A path that is called like a subcommand is given as ./add. Patterns have the syntax of .gitignore.
Exit code 3 when something could not be read, or fewer copies than asked for were reached with --wait; 4 when there is no owner.
With --json, one line a snapshot: {\"snapshot\",\"link\",\"set\",\"files\",\"bytes\",\"new_bytes\",\"unchanged\",\"excluded\",\"to_read\",
  \"unreadable\":[{\"path\",\"reason\"}],\"copies\":{\"asked\",\"reached\"},\"forgotten\"}")]
pub(in crate::cli) struct Args {
    #[command(subcommand)]
    command: Option<Subcommand>,
    /// What to back up [default: all sets].
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Only this set. May be repeated.
    #[arg(long, value_name = "NAME", conflicts_with = "paths")]
    set: Vec<String>,
    /// Only sets whose schedule is due, and forget what their rules don't keep: for timers.
    #[arg(long, conflicts_with = "paths")]
    due: bool,
    /// A tag of the snapshot. May be repeated.
    #[arg(long)]
    tag: Vec<String>,
    /// Read every file, also those that look unchanged.
    #[arg(long)]
    force: bool,
    /// Only count what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Copies on other machines [default: the set's; without one 2 in a ring, 0 elsewhere].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=32))]
    copies: Option<u32>,
    /// Wait until so many others have acknowledged that they keep the snapshot.
    #[arg(long)]
    wait: bool,
    /// How long to wait for them at most.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = crate::time::seconds)]
    timeout: u64,
    #[command(flatten)]
    passphrase: Passphrase,
    // Its heading holds for all that is behind it.
    #[command(flatten)]
    leave: Leave,
}

pub(in crate::cli) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    if let Some(command) = &args.command {
        let has_options = !args.paths.is_empty()
            || !args.set.is_empty()
            || !args.tag.is_empty()
            || args.due
            || args.force
            || args.dry_run
            || args.leave.is_given();
        if has_options {
            return Err(Failure::usage(
                "options of a set go behind the subcommand: `libernet backup add PATH --exclude P`",
            )
            .with_hint("a path that is called like a subcommand is given as ./add"));
        }
        return sets::run(command, context);
    }
    let jobs = jobs(&args, context)?;
    let mut voice = Voice::of_machine(&args.passphrase, context).await?;
    context
        .with_client(async |client, _| {
            let jobs = if args.due {
                due(jobs, client, &mut voice, context).await?
            } else {
                jobs
            };
            if jobs.is_empty() {
                context.notice("nothing is due");
            }
            work(&jobs, &args, client, &mut voice, context).await
        })
        .await
}

/// What there is to do: the paths given by hand, or sets.
fn jobs(args: &Args, context: &Context) -> Result<Vec<Set>, Failure> {
    let exclusions = args.leave.exclusions()?;
    if !args.paths.is_empty() {
        let paths = args.paths.iter().map(|path| Context::absolute(path));
        return Ok(vec![Set {
            name: String::new(),
            paths: paths.collect::<Result<_, _>>()?,
            tags: args.tag.clone(),
            schedule: None,
            exclusions,
            copies: None,
            keep: Default::default(),
        }]);
    }
    let all = Sets::load(&context.data_dir)?;
    for name in &args.set {
        if all.get(name).is_none() {
            return Err(Failure::usage(format!("there is no set '{name}'"))
                .with_hint("`libernet backup list` shows the sets"));
        }
    }
    let is_wanted = |set: &&Set| args.set.is_empty() || args.set.contains(&set.name);
    let mut sets: Vec<Set> = all.as_slice().iter().filter(is_wanted).cloned().collect();
    if sets.is_empty() {
        return Err(
            Failure::usage("there is nothing to back up: no paths and no sets").with_hint(
                "`libernet backup PATH` backs up once, `libernet backup add PATH` adds a set",
            ),
        );
    }
    for set in &mut sets {
        merge(&mut set.exclusions, &exclusions);
        set.tags.extend(args.tag.iter().cloned());
    }
    Ok(sets)
}

/// Adds what the command line leaves out.
fn merge(of_set: &mut Exclusions, given: &Exclusions) {
    of_set.exclude.extend(given.exclude.iter().cloned());
    of_set.include.extend(given.include.iter().cloned());
    of_set.ignore_files |= given.ignore_files;
    of_set.cache_directories |= given.cache_directories;
    of_set.one_file_system |= given.one_file_system;
    of_set.max_file_bytes = given.max_file_bytes.or(of_set.max_file_bytes);
}

/// The sets whose schedule says that it is time.
async fn due(
    sets: Vec<Set>,
    client: &Client,
    voice: &mut Voice,
    context: &Context,
) -> Result<Vec<Set>, Failure> {
    let machine = Vault::open(&context.data_dir)?
        .map(|vault| (vault.machine().to_string(), vault.name().to_owned()));
    let known = voice
        .call(context, async |speaker| {
            let request = Snapshots {
                speaker,
                timeout_s: 0,
            };
            client.snapshots(request).await
        })
        .await;
    let snapshots = match known {
        Ok(reply) => reply.snapshots,
        // There is no head before the first backup.
        Err(failure) if failure.exit == Exit::NotFound && machine.is_some() => Vec::new(),
        Err(failure) => return Err(failure),
    };
    let (now, zone) = (SystemClock.now(), TimeZone::system());
    let is_due = |set: &Set| {
        let Some(schedule) = set.schedule else {
            return false;
        };
        let is_own = |name: &str| {
            machine
                .as_ref()
                .is_some_and(|(id, called)| name == id || name == called)
        };
        let last = snapshots
            .iter()
            .filter(|info| info.set == set.name && is_own(&info.machine))
            .map(|info| info.time)
            .max();
        schedule.is_due(last, now, &zone)
    };
    Ok(sets.into_iter().filter(is_due).collect())
}

/// One snapshot a set. One that fails does not keep the others from being backed up.
async fn work(
    jobs: &[Set],
    args: &Args,
    client: &Client,
    voice: &mut Voice,
    context: &Context,
) -> Result<Exit, Failure> {
    let (mut exit, mut failed) = (Exit::Done, None);
    for job in jobs {
        match one(job, args, client, voice, context).await {
            Ok(Exit::Done) => {}
            Ok(other) => exit = other,
            Err(failure) => {
                let concerns_all = matches!(failure.exit, Exit::Unavailable | Exit::Interrupted);
                if jobs.len() == 1 || concerns_all || failure.exit == Exit::Usage {
                    return Err(failure);
                }
                context.warning(&format!("the set {} failed: {}", job.name, failure.message));
                failed.get_or_insert(failure);
            }
        }
    }
    failed.map_or(Ok(exit), Err)
}

async fn one(
    job: &Set,
    args: &Args,
    client: &Client,
    voice: &mut Voice,
    context: &Context,
) -> Result<Exit, Failure> {
    let reply = voice
        .call(context, async |speaker| {
            let request = Backup {
                speaker,
                paths: job.paths.clone(),
                set: job.name.clone(),
                tags: job.tags.clone(),
                exclusions: job.exclusions.clone(),
                force: args.force,
                dry_run: args.dry_run,
                copies: args.copies.or(job.copies),
                wait: args.wait,
                timeout_s: args.timeout,
                due: job.schedule.filter(|_| args.due),
            };
            client.backup(request, context.bar("backup")).await
        })
        .await?;
    if reply.not_due {
        let name = show::printable(&reply.set);
        context.notice(&format!("{name}: was just backed up by the running node"));
        return Ok(Exit::Done);
    }
    let mut forgotten = None;
    if args.due && !args.dry_run && !job.keep.is_empty() {
        let reply = voice
            .call(context, async |speaker| {
                let request = Forget {
                    speaker,
                    policy: job.keep.clone(),
                    snapshots: Vec::new(),
                    set: Some(job.name.clone()),
                    tag: None,
                    all_machines: false,
                    dry_run: false,
                };
                client.forget(request).await
            })
            .await?;
        forgotten = Some(reply.forgotten.len() as u64);
    }
    tell(&reply, forgotten, args.dry_run, context)?;
    let lacks_copies = args.wait && reply.copies.reached < reply.copies.asked;
    if lacks_copies {
        let rings = client.ring_list(RingList {}).await?.rings;
        context.warning(&shortfall(&reply.copies, &rings));
    }
    Ok(if reply.unreadable.is_empty() && !lacks_copies {
        Exit::Done
    } else {
        Exit::Partial
    })
}

/// What is said when there are fewer copies than asked for: why, as far as known, and what happens next.
fn shortfall(copies: &CopiesReply, rings: &[RingInfo]) -> String {
    let online: u64 = rings.iter().map(|ring| ring.online).sum();
    let why = if rings.is_empty() {
        "this node is in no ring, so nobody keeps any: `libernet ring create NAME` makes one"
            .to_owned()
    } else if online == 0 {
        "no other member of a ring is online; copies are made when one is".to_owned()
    } else if online < u64::from(copies.asked) {
        let members = show::count(online, "other member");
        format!("only {members} online; the rest is made when there are more")
    } else {
        "the node goes on making them; `libernet ring members RING` shows who has room for them"
            .to_owned()
    };
    format!(
        "{} of {} copies on other machines: {why}",
        copies.reached, copies.asked
    )
}

fn tell(
    reply: &BackupReply,
    forgotten: Option<u64>,
    dry_run: bool,
    context: &Context,
) -> Result<(), Failure> {
    for file in reply.unreadable.iter().take(MAX_NAMED) {
        context.warning(&format!("{}: {}", file.path, file.reason));
    }
    if reply.unreadable.len() > MAX_NAMED {
        let more = reply.unreadable.len() - MAX_NAMED;
        context.warning(&format!("and {more} more that could not be read"));
    }
    if context.json {
        let mut value = json!(reply);
        value["forgotten"] = json!(forgotten);
        return output::json(&value);
    }
    let what = if reply.set.is_empty() {
        String::new()
    } else {
        format!("{}: ", show::printable(&reply.set))
    };
    if dry_run {
        context.notice(&format!(
            "{what}{} in {}, {} to read, {} left out; nothing was stored",
            ByteSize(reply.bytes),
            show::count(reply.files, "file"),
            reply.to_read,
            reply.excluded
        ));
        return Ok(());
    }
    output::stdout(format!("{}\n", reply.snapshot).as_bytes())?;
    context.notice(&format!(
        "{what}snapshot {}: {} in {}, {} of them unchanged, {} new, {} left out",
        short(&reply.snapshot),
        ByteSize(reply.bytes),
        show::count(reply.files, "file"),
        reply.unchanged,
        ByteSize(reply.new_bytes),
        reply.excluded
    ));
    if let Some(forgotten) = forgotten.filter(|count| *count > 0) {
        context.notice(&format!(
            "{what}{} forgotten",
            show::count(forgotten, "older snapshot")
        ));
    }
    Ok(())
}

/// The name that a set gets when none is given: the last part of its first path.
pub(super) fn usual_name(paths: &[PathBuf]) -> String {
    let first = paths.first().map(PathBuf::as_path);
    match first.and_then(Path::file_name) {
        Some(name) => name.to_string_lossy().into_owned(),
        None => "root".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_sets() {
        let name = |path: &str| usual_name(&[PathBuf::from(path)]);
        assert_eq!(name("/home/u"), "u");
        assert_eq!(name("/"), "root");
    }

    #[test]
    fn the_command_line_adds_to_what_a_set_leaves_out() {
        let mut of_set = Exclusions {
            exclude: vec!["a".to_owned()],
            ignore_files: true,
            max_file_bytes: Some(1),
            ..Exclusions::default()
        };
        let mut given = Exclusions {
            exclude: vec!["b".to_owned()],
            one_file_system: true,
            ..Exclusions::default()
        };
        merge(&mut of_set, &given);
        assert_eq!(of_set.exclude, ["a", "b"]);
        assert!(of_set.ignore_files && of_set.one_file_system);
        assert_eq!(of_set.max_file_bytes, Some(1));
        given.max_file_bytes = Some(2);
        merge(&mut of_set, &given);
        assert_eq!(of_set.max_file_bytes, Some(2));
    }
}
