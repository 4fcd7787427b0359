//! `libernet backup`: a snapshot now, and what is to be backed up again and again.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::sets::{Leave, Subcommand};
use super::voice::Voice;
use super::{MAX_NAMED, Passphrase, sets, short};
use crate::backup::sets::{Exclusions, Set, Sets};
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::health::holder_name;
use crate::cli::{output, show};
use crate::client::Client;
use crate::node::api::{Backup, BackupReply, CopiesReply, Forget, HeadState, RingInfo, RingList};
use crate::size::ByteSize;

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

A path that is called like a subcommand is given as ./add. Paths that are named are always taken, also below what is left out.
Patterns have the syntax of .gitignore: *.tmp at any depth, /srv/tmp from the root, sub/tmp from the working directory; a pattern
that matched nothing is named. libernet's own data directories and sockets are never taken.
Exit code 3 when something could not be read, or fewer copies than asked for were reached with --wait; 4 when there is no owner.
With --json, one line a snapshot: {\"snapshot\",\"link\",\"set\",\"files\",\"bytes\",\"new_bytes\",\"unchanged\",\"excluded\",\"to_read\",
  \"unreadable\":[{\"path\",\"reason\"}],\"left_out\":[{\"path\",\"reason\"}],\"unmatched\":[pattern],
  \"copies\":{\"asked\",\"reached\",\"holders\":[{\"peer\",\"name\",\"online\",\"seen_s_ago\"}]},\"forgotten\"}")]
pub(in crate::cli) struct Args {
    #[command(subcommand)]
    command: Option<Subcommand>,
    /// What to back up [default: all sets].
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Only this set: its name, or the beginning of it. May be repeated.
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
    /// Time to wait for them at most.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = crate::time::seconds, allow_hyphen_values = true)]
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
        return sets::run(command, context).await;
    }
    let mut jobs = jobs(&args, context)?;
    if args.due {
        // The node decides what is due, when a set's turn has come.
        jobs.retain(|set| set.schedule.is_some());
    }
    let mut voice = Voice::of_machine(&args.passphrase, context).await?;
    context
        .with_client(async |client, _| work(&jobs, &args, client, &mut voice, context).await)
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
            warn_after_s: None,
            copies: None,
            keep: Default::default(),
        }]);
    }
    let all = Sets::load(&context.data_dir)?;
    let named = args.set.iter().map(|name| Ok(all.pick(name)?.name.clone()));
    let named: Vec<String> = named.collect::<Result<_, Failure>>()?;
    let is_wanted = |set: &&Set| named.is_empty() || named.contains(&set.name);
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

/// One snapshot a set. One that fails does not keep the others from being backed up.
async fn work(
    jobs: &[Set],
    args: &Args,
    client: &Client,
    voice: &mut Voice,
    context: &Context,
) -> Result<Exit, Failure> {
    let (mut exit, mut failed, mut ran) = (Exit::Done, None, false);
    for job in jobs {
        match one(job, args, client, voice, context).await {
            Ok(None) => continue,
            Ok(Some(Exit::Done)) => {}
            Ok(Some(other)) => exit = other,
            Err(failure) => {
                let concerns_all = matches!(failure.exit, Exit::Unavailable | Exit::Interrupted);
                if jobs.len() == 1 || concerns_all || failure.exit == Exit::Usage {
                    return Err(failure);
                }
                context.warning(&format!("the set {} failed: {}", job.name, failure.message));
                failed.get_or_insert(failure);
            }
        }
        ran = true;
    }
    if !ran {
        context.notice("nothing is due");
    }
    failed.map_or(Ok(exit), Err)
}

/// Backs up one set, or the paths given by hand. None: it was not due.
async fn one(
    job: &Set,
    args: &Args,
    client: &Client,
    voice: &mut Voice,
    context: &Context,
) -> Result<Option<Exit>, Failure> {
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
        return Ok(None);
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
                    group_by: None,
                    all_machines: false,
                    dry_run: false,
                };
                client.forget(request).await
            })
            .await?;
        forgotten = Some(reply.forgotten.len() as u64);
    }
    tell(&reply, forgotten, args.dry_run, context)?;
    let copies = &reply.copies;
    let lacks_copies = args.wait && copies.reached < copies.asked;
    let is_lost = args.wait && copies.asked > 0 && !copies.head.is_some_and(|head| head.is_found());
    if !args.dry_run {
        let rings = client.ring_list(RingList {}).await?.rings;
        let text = standing(copies, &rings, client.is_embedded());
        match lacks_copies {
            true => context.warning(&text),
            false => context.notice(&show::printable(&text)),
        }
        if args.wait && copies.asked > 0 {
            let text = found(copies.head);
            match is_lost {
                true => context.warning(&text),
                false => context.notice(&text),
            }
        }
    }
    let is_whole = reply.unreadable.is_empty() && !lacks_copies && !is_lost;
    Ok(Some(if is_whole { Exit::Done } else { Exit::Partial }))
}

/// Whether the words lead to the newest backup without this machine, as others told.
pub(in crate::cli) fn found(head: Option<HeadState>) -> String {
    let Some(head) = head else {
        return "nobody is connected, so nobody else has told the head that leads to this backup"
            .to_owned();
    };
    let nodes = show::count(u64::from(head.told), "other node");
    if head.overtaken {
        "another head in this machine's name is newer than its own: its key may have been copied, \
         and the twelve words lead there first (`libernet snapshots --phrase --older` lists all)"
            .to_owned()
    } else if head.told == 0 {
        "no other node has told the head that leads to this backup: the twelve words may not find \
         it without this machine yet"
            .to_owned()
    } else if !head.log {
        format!(
            "{nodes} told the head that leads to this backup, and none gave the log that it names"
        )
    } else {
        format!("the head that leads to this backup was read back from {nodes}")
    }
}

/// Where a backup is at this moment, and what makes the copies that it lacks. `is_embedded`: the
/// node ends with this command.
fn standing(copies: &CopiesReply, rings: &[RingInfo], is_embedded: bool) -> String {
    let CopiesReply { asked, reached, .. } = copies;
    if *asked == 0 {
        let how = match rings.is_empty() {
            true => {
                " (`libernet ring create NAME` makes a ring of machines that keep each other's backups)"
            }
            false => "",
        };
        return format!("on this disk only: nobody else has a copy{how}");
    }
    let count = format!("{reached} of {asked} copies on other machines");
    let holders: Vec<String> = copies.holders.iter().map(holder_name).collect();
    let holders = holders.join(", ");
    if reached >= asked {
        return format!("{count}: {holders}");
    }
    let online: u64 = rings.iter().map(|ring| ring.online).sum();
    let why = if rings.is_empty() {
        "this node is in no ring, so nobody keeps any: `libernet ring create NAME` makes one"
            .to_owned()
    } else if is_embedded {
        "they are made while a node runs on this machine: `libernet up`".to_owned()
    } else if online == 0 {
        "no other member of a ring is online; copies are made when one is".to_owned()
    } else if online < u64::from(*asked) {
        let members = show::count(online, "other member");
        format!("only {members} online; the rest is made when there are more")
    } else {
        "the node goes on making them; `libernet health` tells when they are there".to_owned()
    };
    match reached {
        0 => format!("on this disk only so far, {count}: {why}"),
        _ => format!("{count} ({holders}): {why}"),
    }
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
    show::left_out(&reply.left_out, context);
    show::unmatched(&reply.unmatched, context);
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
    use crate::node::api::HolderState;

    #[test]
    fn names_of_sets() {
        let name = |path: &str| usual_name(&[PathBuf::from(path)]);
        assert_eq!(name("/home/u"), "u");
        assert_eq!(name("/"), "root");
    }

    /// Whatever there is, nobody takes it for more.
    #[test]
    fn a_backup_says_where_it_is() {
        let holder = |name: &str| HolderState {
            peer: "12D3KooW".to_owned(),
            name: name.to_owned(),
            online: true,
            seen_s_ago: None,
        };
        let copies = |asked, names: &[&str]| CopiesReply {
            asked,
            reached: names.len() as u32,
            holders: names.iter().map(|name| holder(name)).collect(),
            head: None,
        };
        let ring = |online| RingInfo {
            ring: "home".to_owned(),
            generation: 1,
            joined: crate::time::Timestamp(0),
            members: 3,
            online,
            branches: Vec::new(),
            anywhere: false,
        };
        let alone = standing(&copies(0, &[]), &[], true);
        assert!(alone.starts_with("on this disk only: nobody else has a copy (`libernet ring"));
        let unasked = standing(&copies(0, &[]), &[ring(2)], false);
        assert_eq!(unasked, "on this disk only: nobody else has a copy");
        let whole = standing(&copies(2, &["pc1", "pc2"]), &[ring(2)], false);
        assert_eq!(whole, "2 of 2 copies on other machines: pc1, pc2");
        for (made, rings, is_embedded, words) in [
            (
                copies(2, &[]),
                vec![],
                false,
                "so far, 0 of 2 copies on other machines: this node is in no ring",
            ),
            (
                copies(2, &[]),
                vec![ring(2)],
                true,
                "0 of 2 copies on other machines: they are made while a node runs",
            ),
            (
                copies(2, &[]),
                vec![ring(0)],
                false,
                "0 of 2 copies on other machines: no other member",
            ),
            (
                copies(2, &["pc1"]),
                vec![ring(1)],
                false,
                "1 of 2 copies on other machines (pc1): only 1 other member online",
            ),
            (
                copies(2, &["pc1"]),
                vec![ring(2)],
                false,
                "(pc1): the node goes on making them",
            ),
        ] {
            let text = standing(&made, &rings, is_embedded);
            assert!(text.contains(words), "{text}");
            assert_eq!(
                made.reached == 0,
                text.contains("on this disk only"),
                "{text}"
            );
        }
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
