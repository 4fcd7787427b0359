//! `libernet backup add`, `remove`, `list`, `schedule`: the file of sets.
//!
//! Works on the data directory alone; no node is needed. One that runs tells how the sets are.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::keep::{self, Keep};
use super::run::usual_name;
use super::timer;
use crate::backup::schedule::Schedule;
use crate::backup::sets::{Exclusions, Removed, Set, Sets};
use crate::bundle::pattern;
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::{output, show};
use crate::client::Client;
use crate::file;
use crate::node::api::{Health, SetHealth};
use crate::size::ByteSize;

/// Largest file of patterns that is read, in bytes.
const MAX_PATTERN_FILE_BYTES: u64 = 1 << 20;

/// What to leave out.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "What is left out")]
pub(super) struct Leave {
    /// Leave out what matches this pattern. One with a slash inside (sub/tmp) starts in the working
    /// directory, one without at any depth. May be repeated.
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<OsString>,
    /// Take what matches this pattern although it is excluded. May be repeated.
    #[arg(long, value_name = "PATTERN")]
    include: Vec<OsString>,
    /// A file with one pattern to leave out a line; lines that begin with # are comments. May be repeated.
    #[arg(long, value_name = "FILE")]
    exclude_file: Vec<PathBuf>,
    /// Leave out what .gitignore files name.
    #[arg(long)]
    gitignore: bool,
    /// Leave out what is in directories that are marked as caches by a CACHEDIR.TAG.
    #[arg(long)]
    exclude_caches: bool,
    /// Leave out what is mounted below the paths.
    #[arg(long)]
    one_file_system: bool,
    /// Leave out larger files.
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    exclude_larger_than: Option<ByteSize>,
}

impl Leave {
    /// Whether anything is said.
    pub(super) fn is_given(&self) -> bool {
        !self.exclude_file.is_empty()
            || !matches!(self.exclusions(), Ok(e) if e == Exclusions::default())
    }

    /// As the node takes it: relative patterns with a slash are anchored at the working directory.
    ///
    /// # Errors
    /// When a file of patterns can't be read, or the working directory is gone.
    pub(super) fn exclusions(&self) -> Result<Exclusions, Failure> {
        let here = Context::absolute(Path::new("."))?;
        let from_here = |line: String| {
            let anchored = pattern::anchored(&line, here.as_os_str().as_bytes());
            anchored.unwrap_or(line)
        };
        let given = |lines: &[OsString]| -> Vec<String> {
            let lines = lines.iter().map(|line| pattern::argument(line.as_bytes()));
            lines.map(from_here).collect()
        };
        let mut exclude = given(&self.exclude);
        for path in &self.exclude_file {
            exclude.extend(patterns(path)?.into_iter().map(from_here));
        }
        Ok(Exclusions {
            exclude,
            include: given(&self.include),
            ignore_files: self.gitignore,
            cache_directories: self.exclude_caches,
            one_file_system: self.one_file_system,
            max_file_bytes: self.exclude_larger_than.map(|size| size.0),
        })
    }
}

/// The patterns of a file.
fn patterns(path: &Path) -> Result<Vec<String>, Failure> {
    let what = format!("the patterns in {} could not be read", path.display());
    let bytes = match file::read(path, MAX_PATTERN_FILE_BYTES) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Err(Failure::io(what, &std::io::ErrorKind::NotFound.into())),
        Err(error) if file::is_damage(&error) => {
            return Err(Failure::usage(format!("{what}: {error}")));
        }
        Err(error) => return Err(Failure::io(what, &error)),
    };
    let text = pattern::text(&bytes);
    let text = file::without_mark(&text);
    let is_pattern = |line: &&str| !line.trim().is_empty() && !line.starts_with('#');
    Ok(text.lines().filter(is_pattern).map(str::to_owned).collect())
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum Subcommand {
    /// Add a set: paths that are backed up again and again.
    Add(Box<Add>),
    /// Remove a set, or one path of a set. Its snapshots stay.
    Remove {
        /// The set's name or the beginning of it, or a path.
        #[arg(value_name = "NAME|PATH")]
        name: OsString,
    },
    /// List the sets.
    List,
    /// Print what makes this machine back up the sets that are due: units for systemd, or lines for cron.
    Schedule {
        /// A service and a timer for systemd.
        #[arg(long, required_unless_present = "cron", conflicts_with = "cron")]
        systemd: bool,
        /// Lines for a crontab. A run that is missed while the machine is off comes with the next line that is due.
        #[arg(long)]
        cron: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Add {
    /// What to back up.
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// What to call the set [default: the last part of the first path].
    #[arg(long)]
    name: Option<String>,
    /// When: hourly, 'every 6h', 'daily 03:00' or 'weekly sun 03:00'.
    #[arg(long, value_name = "SPEC")]
    schedule: Option<Schedule>,
    /// Time without a new backup after which this is told as a problem, such as 3d [default: three
    /// times what is between two runs of its schedule].
    #[arg(long, value_name = "TIME", value_parser = warn_after, allow_hyphen_values = true)]
    warn_after: Option<u64>,
    /// A tag of its snapshots. May be repeated.
    #[arg(long)]
    tag: Vec<String>,
    /// Copies on other machines [default: 2 in a ring, 0 elsewhere].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=32))]
    copies: Option<u32>,
    #[command(flatten)]
    leave: Leave,
    #[command(flatten)]
    keep: Keep,
}

/// Longest time that a set may be without a backup before somebody hears of it, in days.
const MAX_WARN_DAYS: u64 = 366;

/// Reads a time of up to a year, in seconds.
fn warn_after(text: &str) -> Result<u64, String> {
    let days = text
        .strip_suffix('d')
        .and_then(|days| days.parse::<u64>().ok());
    match days {
        Some(days @ 1..=MAX_WARN_DAYS) => Ok(days * 24 * 3600),
        Some(_) => Err(format!("a time of days is from 1d to {MAX_WARN_DAYS}d")),
        None => crate::time::seconds(text),
    }
}

pub(super) async fn run(command: &Subcommand, context: &Context) -> Result<Exit, Failure> {
    match command {
        Subcommand::Add(args) => add(args, context)?,
        Subcommand::Remove { name } => remove(name, context)?,
        Subcommand::List => list(context).await?,
        Subcommand::Schedule { systemd, .. } => timer::print(*systemd, context)?,
    }
    Ok(Exit::Done)
}

fn add(args: &Add, context: &Context) -> Result<(), Failure> {
    let paths = args.paths.iter().map(|path| Context::absolute(path));
    let paths: Vec<PathBuf> = paths.collect::<Result<_, _>>()?;
    for path in paths.iter().filter(|path| path.symlink_metadata().is_err()) {
        context.warning(&format!("{} does not exist now", show::path(path)));
    }
    let name = args.name.clone().unwrap_or_else(|| usual_name(&paths));
    let set = Set {
        name: name.clone(),
        paths,
        tags: args.tag.clone(),
        schedule: args.schedule,
        warn_after_s: args.warn_after,
        exclusions: args.leave.exclusions()?,
        copies: args.copies,
        keep: args.keep.policy(),
    };
    let add = |sets: &mut Sets| {
        if sets.get(&name).is_some() {
            return Ok(false);
        }
        sets.add(set.clone()).map(|()| true)
    };
    if !Sets::edit(&context.data_dir, add)? {
        return Err(Failure::usage(format!("there is a set '{name}' already"))
            .with_hint("give it another name with --name NAME"));
    }
    if context.json {
        return output::json(&json!(set));
    }
    context.notice(&format!(
        "added the set {}; `libernet backup` backs up all sets",
        show::printable(&name)
    ));
    if set.schedule.is_some() {
        context.notice(
            "a running node (`libernet up`) backs it up at its time; `libernet backup schedule --systemd` (or --cron) prints a timer for a machine without one",
        );
    }
    Ok(())
}

fn remove(name: &OsStr, context: &Context) -> Result<(), Failure> {
    let path = Context::absolute(Path::new(name)).ok();
    // A set's name is text: what is none can only be a path.
    let name = show::path(Path::new(name));
    let remove = |sets: &mut Sets| sets.remove(&name, path.as_deref());
    let removed = Sets::edit(&context.data_dir, remove)?;
    let (set, whole) = match &removed {
        Removed::Set(set) => (set, true),
        Removed::Path(set) => (set, false),
    };
    if context.json {
        return output::json(&json!({ "set": set, "whole": whole }));
    }
    context.notice(&if whole {
        format!(
            "removed the set {}; its snapshots stay",
            show::printable(set)
        )
    } else {
        format!("the set {} has one path less", show::printable(set))
    });
    Ok(())
}

async fn list(context: &Context) -> Result<(), Failure> {
    let sets = Sets::load(&context.data_dir)?;
    let (healths, is_running) = healths(&sets, context).await;
    if context.json {
        let with_health = sets.as_slice().iter().map(|set| {
            let mut value = json!(set);
            let health = healths.get(&set.name);
            value["last_backup"] = json!(health.and_then(|health| health.last_backup));
            value["problem"] = json!(health.and_then(|health| health.problem.clone()));
            value["unmatched"] = json!(health.map(|health| health.unmatched.as_slice()));
            value
        });
        return output::json(&json!({ "sets": with_health.collect::<Vec<_>>() }));
    }
    if sets.as_slice().is_empty() {
        context.notice("there are no sets; `libernet backup add PATH` adds one");
        return Ok(());
    }
    let mut rows = vec![
        ["name", "schedule", "last", "keeps", "paths"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for set in sets.as_slice() {
        let paths: Vec<String> = set.paths.iter().map(|path| show::path(path)).collect();
        rows.push(vec![
            show::printable(&set.name),
            set.schedule
                .map_or_else(|| "-".to_owned(), |schedule| schedule.to_string()),
            last(healths.get(&set.name)),
            show::printable(&keep::describe(&set.keep)),
            show::printable(&paths.join(" ")),
        ]);
    }
    output::stdout(show::table(&rows, &[]).as_bytes())?;
    for (name, health) in &healths {
        if let Some(problem) = &health.problem {
            context.warning(&format!("the set {name} can't be backed up: {problem}"));
        }
        for pattern in &health.unmatched {
            context.warning(&format!(
                "the set {name}: the pattern '{pattern}' matched nothing when it was backed up last"
            ));
        }
    }
    if !is_running {
        context.notice(
            "no node is running: `libernet health` tells when each was backed up; what has a schedule runs with `libernet up`, or by a timer \
             (`libernet backup schedule`)",
        );
    }
    Ok(())
}

/// When a set was backed up last, as far as that is known.
fn last(health: Option<&SetHealth>) -> String {
    match health {
        Some(health) if health.never => "never".to_owned(),
        Some(SetHealth {
            last_backup: Some(at),
            ..
        }) => show::timestamp(*at),
        _ => "-".to_owned(),
    }
}

/// Health of each set: what a running node says, or what can be seen without one.
async fn healths(sets: &Sets, context: &Context) -> (BTreeMap<String, SetHealth>, bool) {
    // A node that does not answer is no reason to show nothing.
    if let Ok(Some(client)) = Client::running(&context.data_dir).await
        && let Ok(reply) = client.health(Health::default()).await
    {
        let healths = reply.sets.into_iter().map(|set| (set.name.clone(), set));
        return (healths.collect(), true);
    }
    let gone = sets.as_slice().iter().filter_map(|set| {
        let problem = Some(set.gone()?);
        let health = SetHealth {
            name: set.name.clone(),
            problem,
            ..SetHealth::default()
        };
        Some((set.name.clone(), health))
    });
    (gone.collect(), false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn patterns_come_from_files_too() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("patterns");
        let lines = b"\xef\xbb\xbf# comment\n*.o\n\n  \n\\#odd\n./z\ncaf\xe9\n";
        std::fs::write(&path, lines).expect("written");
        let leave = Leave {
            exclude: vec![
                "a".into(),
                "x/y".into(),
                OsString::from_vec(b"\xe9 ".to_vec()),
            ],
            exclude_file: vec![path.clone()],
            exclude_larger_than: Some(ByteSize(7)),
            ..Leave::default()
        };
        let found = leave.exclusions().expect("read");
        let here = std::env::current_dir().expect("there");
        let here = |rest: &str| pattern::anchored(rest, here.as_os_str().as_bytes());
        let (xy, z) = (
            here("x/y").expect("relative"),
            here("./z").expect("relative"),
        );
        let expected = ["a", &xy, "\\xE9\\ ", "*.o", "\\#odd", &z, "caf\\xE9"];
        assert_eq!(found.exclude, expected);
        assert_eq!(found.max_file_bytes, Some(7));
        assert!(leave.is_given() && !Leave::default().is_given());
        // Saved by an editor that marks its texts and ends lines in its own way.
        std::fs::write(&path, "\u{feff}*.o\r\n*.tmp\r\n").expect("written");
        assert_eq!(patterns(&path).expect("read"), ["*.o", "*.tmp"]);
        std::fs::write(&path, " ".repeat(MAX_PATTERN_FILE_BYTES as usize)).expect("written");
        assert!(patterns(&path).is_ok(), "at the limit");
        std::fs::write(&path, " ".repeat(MAX_PATTERN_FILE_BYTES as usize + 1)).expect("written");
        assert!(patterns(&path).is_err(), "beyond the limit");
        assert!(patterns(&dir.path().join("none")).is_err());
    }
}
