//! The command line: one file per command, errors to exit codes in [`exit`], everything printed through [`output`].
//!
//! Every command that needs a node is a call on a [`Client`](crate::client::Client), so that it behaves alike with a running node
//! and with one of its own. Results go to stdout, everything else to stderr. Deliberately absent: any work of a node.

mod allocator;
mod alone;
mod announce;
mod ask;
mod backup;
mod block;
mod cat;
mod completions;
mod config;
mod context;
mod demo;
mod descriptors;
mod doctor;
mod exit;
mod find;
mod get;
mod health;
mod id;
mod init;
mod leave;
mod like;
mod ls;
mod man;
mod mesh;
mod notify;
mod output;
mod owner;
mod peers;
mod pick;
mod pin;
mod progress;
mod put;
mod ring;
mod secrets;
mod serve;
mod service;
mod show;
mod site;
mod status;
mod target;
mod unlock;
mod up;
mod url;
mod verify_response;
mod version;
mod web;
mod whole_file;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use context::{Context, Intent};
use exit::{Exit, Failure};

use crate::gateway::log::KeepTail;

/// How long threads that block (on standard input, say) may hold up the end of the program.
const RUNTIME_PATIENCE: Duration = Duration::from_millis(200);

/// Encrypted backup and sharing network.
///
/// Turns files into encrypted blocks that any node can keep and only who has the link can read. With a node running
/// (`libernet up`) every command uses it; with none a command starts one of its own for as long as it runs.
#[derive(Debug, Parser)]
#[command(
    name = "libernet",
    bin_name = "libernet",
    version,
    max_term_width = 110
)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Options that every command takes.
#[derive(Debug, clap::Args)]
struct Options {
    /// Where keys, settings and blocks are kept [default: the platform's data directory].
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        value_name = "DIR",
        env = "LIBERNET_DATA",
        hide_env_values = true
    )]
    data_dir: Option<PathBuf>,
    /// Print JSON: one object, or one line an event for `up`.
    #[arg(long, global = true, help_heading = "Global options")]
    json: bool,
    /// Show whole ids and every detail, and log more to stderr: -v info, -vv debug, -vvv
    /// everything. RUST_LOG gives finer control.
    #[arg(short, long, global = true, help_heading = "Global options", action = clap::ArgAction::Count)]
    verbose: u8,
    /// Say only errors: no progress, no notices, no warnings.
    #[arg(
        short,
        long,
        global = true,
        help_heading = "Global options",
        conflicts_with = "verbose"
    )]
    quiet: bool,
    /// No colours on stderr. NO_COLOR does the same.
    #[arg(long, global = true, help_heading = "Global options")]
    no_color: bool,
}

/// The commands. Aliases are what people try who know other programs.
#[derive(Debug, Subcommand)]
enum Command {
    #[command(aliases = ["start", "daemon"])]
    Up(up::Args),
    #[command(visible_aliases = ["send", "share"])]
    Put(put::Args),
    #[command(visible_alias = "receive", alias = "download")]
    Get(get::Args),
    Cat(cat::Args),
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    Url(url::Args),
    Web(web::Args),
    VerifyResponse(verify_response::Args),
    Find(find::Args),
    Announce(announce::Args),
    Like(like::Args),
    Pin(pin::Args),
    Block(block::Args),
    Peers(peers::Args),
    Status(status::Args),
    Health(health::Args),
    Doctor(doctor::Args),
    Notify(notify::Args),
    Leave(leave::Args),
    Id(id::Args),
    Init(init::Args),
    Owner(owner::Args),
    Backup(backup::run::Args),
    Snapshots(backup::snapshots::Args),
    Restore(backup::restore::Args),
    FindFile(backup::find_file::Args),
    Diff(backup::diff::Args),
    Forget(backup::forget::Args),
    Unforget(backup::unforget::Args),
    Prune(backup::prune::Args),
    Check(backup::check::Args),
    Drill(backup::drill::Args),
    Lease(backup::lease::Args),
    Ring(ring::Args),
    Mesh(mesh::Args),
    Site(site::Args),
    Config(config::Args),
    Demo(demo::Args),
    Service(service::Args),
    Unlock(unlock::Args),
    #[command(hide = true)]
    Man(man::Args),
    Completions(completions::Args),
    Version(version::Args),
}

impl Command {
    /// Whether the command gives people back what they have stored: a file that is damaged beside
    /// the store must not stop it.
    fn gives_back(&self) -> bool {
        matches!(
            self,
            Self::Get(_)
                | Self::Cat(_)
                | Self::Ls(_)
                | Self::Snapshots(_)
                | Self::Restore(_)
                | Self::FindFile(_)
                | Self::Diff(_)
        )
    }

    /// Use that the command makes of the data directory.
    fn intent(&self) -> Intent {
        match self {
            Self::Up(_)
            | Self::Put(_)
            | Self::Get(_)
            | Self::Find(_)
            | Self::Announce(_)
            | Self::Like(_)
            | Self::Id(_)
            | Self::Init(_)
            | Self::Owner(_)
            | Self::Backup(_)
            | Self::Config(_)
            | Self::Demo(_)
            | Self::Completions(_)
            | Self::Service(_)
            | Self::Unlock(_)
            | Self::Man(_)
            | Self::Doctor(_)
            | Self::Version(_) => Intent::Bring,
            Self::Peers(_)
            | Self::Url(_)
            | Self::Web(_)
            | Self::VerifyResponse(_)
            | Self::Status(_)
            | Self::Health(_)
            | Self::Notify(_)
            | Self::Leave(_)
            | Self::Check(_)
            | Self::Drill(_)
            | Self::Lease(_) => Intent::Ask,
            Self::Forget(_) | Self::Unforget(_) | Self::Prune(_) => Intent::Remove,
            Self::Cat(args) => args.intent(),
            Self::Ls(args) => args.intent(),
            Self::Pin(args) => args.intent(),
            Self::Block(args) => args.intent(),
            Self::Ring(args) => args.intent(),
            Self::Mesh(args) => args.intent(),
            Self::Site(args) => args.intent(),
            Self::Snapshots(args) => args.intent(),
            Self::Restore(args) => args.intent(),
            Self::FindFile(args) => args.intent(),
            Self::Diff(args) => args.intent(),
        }
    }
}

/// Text for a call without a command: what to do first, and where the rest is.
const OVERVIEW: &str = "\
libernet: encrypted backups on machines that you trust, and files passed on by a link.

Share a file       libernet put PATH              prints a link
                   libernet get LINK              on any other machine
Back up            libernet init                  twelve words that bring everything back
                   libernet ring create NAME      a group of machines that keep each other's backups
                   libernet ring join             on the others
                   libernet backup PATH           `backup add PATH --schedule daily` repeats it
                   libernet restore latest --target DIR
Keep it running    libernet up                    the node: serves, backs up, keeps copies
Look after it      libernet status                is everything safe? also: doctor, health

See it work on this machine alone:       libernet demo
Every command, and the exit codes:       libernet --help
Examples of one command:                 libernet COMMAND --help
";

/// The definition of the command line, with what is worked out at run time.
fn definition(color: bool) -> clap::Command {
    let examples = "Examples:\n  libernet up                        # run a node\n  libernet put ~/Documents           # prints \
                    a link\n  libernet get LINK -o copy          # on any other machine\n  libernet demo                      # \
                    see it work on this machine alone\n\n";
    Cli::command()
        .after_help(format!("{examples}{}", exit::help()))
        .color(if color {
            ColorChoice::Auto
        } else {
            ColorChoice::Never
        })
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    allocator::set_up();
    secrets::keep_in_memory();
    let plain = std::env::args_os().any(|arg| arg == "--no-color")
        || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let parsed = definition(!plain).try_get_matches();
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return wrong_arguments(&error),
    };
    let color = !plain && std::io::stderr().is_terminal();
    let Some(command) = cli.command else {
        return match output::stdout(OVERVIEW.as_bytes()) {
            Ok(()) => Exit::Done.into(),
            Err(failure) => failure.exit.into(),
        };
    };
    log_to_stderr(cli.options.verbose, cli.options.quiet, color);
    let json = cli.options.json;
    match start(command, &cli.options) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.report(json, color);
            failure.exit.into()
        }
    }
}

/// What is wrong with the arguments, or the help that was asked for.
fn wrong_arguments(error: &clap::Error) -> ExitCode {
    // Nothing can be done when the output is closed.
    let _ = error.print();
    if !error.use_stderr() {
        return Exit::Done.into();
    }
    if std::env::args_os().any(|arg| arg == "--json") {
        let text = error.to_string();
        let message = text.lines().next().unwrap_or_default();
        let message = message.strip_prefix("error: ").unwrap_or(message);
        output::stderr(&format!("{}\n", Failure::usage(message).to_json()));
    }
    Exit::Usage.into()
}

fn log_to_stderr(verbose: u8, quiet: bool, color: bool) {
    let level = match (quiet, verbose) {
        // Addresses that are not usable yet, and interfaces that can't multicast, are errors to
        // mDNS alone.
        (true, _) => "error,libp2p_mdns=off",
        // What libraries warn of is seldom anything that a user can act on.
        (false, 0) => "error,libernet=warn,libp2p_mdns=off",
        (false, 1) => "warn,libernet=info",
        (false, 2) => "info,libernet=debug",
        (false, _) => "trace",
    };
    let filter = std::env::var("RUST_LOG")
        .ok()
        .and_then(|filter| EnvFilter::try_new(filter).ok())
        .unwrap_or_else(|| EnvFilter::new(level));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(color)
        .with_filter(filter);
    // What the dashboard shows does not depend on what the terminal shows.
    let tail = KeepTail.with_filter(EnvFilter::new("error,libernet=info,libp2p_mdns=off"));
    tracing_subscriber::registry().with(lines).with(tail).init();
}

fn start(command: Command, options: &Options) -> Result<Exit, Failure> {
    descriptors::raise_limit();
    let data_dir = match &options.data_dir {
        Some(dir) => dir.clone(),
        None => context::default_data_dir().ok_or_else(|| {
            Failure::usage("this system names no data directory")
                .with_hint("say where with --data-dir DIR or LIBERNET_DATA")
        })?,
    };
    let context = Context {
        data_dir: Context::absolute(&data_dir)?,
        json: options.json,
        quiet: options.quiet,
        verbose: options.verbose > 0,
        environment: context::environment(|name| std::env::var(name).ok()),
        intent: command.intent(),
        gives_back: command.gives_back(),
        stop: CancellationToken::new(),
    };
    if std::env::var_os("SSLKEYLOGFILE").is_some() {
        // That is libp2p's doing, for who debugs QUIC, and can't be switched off.
        context.warning("SSLKEYLOGFILE is set: the keys of QUIC connections are written there");
    }
    let zone = std::env::var_os("TZ").map(|zone| zone.to_string_lossy().into_owned());
    if let Some(problem) = crate::time::zone_problem(zone.as_deref()) {
        context.warning(&format!(
            "{problem}: times are in UTC, also those of schedules"
        ));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::io("the program could not start its threads", &error))?;
    let result = runtime.block_on(async {
        listen_for_signals(context.stop.clone())?;
        run(command, &context).await
    });
    runtime.shutdown_timeout(RUNTIME_PATIENCE);
    result
}

async fn run(command: Command, context: &Context) -> Result<Exit, Failure> {
    match command {
        Command::Up(args) => Box::pin(up::run(args, context)).await,
        Command::Put(args) => Box::pin(put::run(args, context)).await,
        Command::Get(args) => Box::pin(get::run(args, context)).await,
        Command::Cat(args) => Box::pin(cat::run(args, context)).await,
        Command::Ls(args) => Box::pin(ls::run(args, context)).await,
        Command::VerifyResponse(args) => verify_response::run(&args, context),
        Command::Url(args) => Box::pin(url::run(args, context)).await,
        Command::Web(args) => Box::pin(web::run(args, context)).await,
        Command::Find(args) => Box::pin(find::run(args, context)).await,
        Command::Announce(args) => Box::pin(announce::run(args, context)).await,
        Command::Like(args) => Box::pin(like::run(args, context)).await,
        Command::Pin(args) => Box::pin(pin::run(args, context)).await,
        Command::Block(args) => Box::pin(block::run(args, context)).await,
        Command::Peers(args) => Box::pin(peers::run(args, context)).await,
        Command::Leave(args) => Box::pin(leave::run(args, context)).await,
        Command::Health(args) => Box::pin(health::run(args, context)).await,
        Command::Service(args) => Box::pin(service::run(args, context)).await,
        Command::Unlock(args) => Box::pin(unlock::run(args, context)).await,
        Command::Man(args) => man::run(args, context).await,
        Command::Notify(args) => Box::pin(notify::run(args, context)).await,
        Command::Doctor(args) => Box::pin(doctor::run(args, context)).await,
        Command::Status(args) => Box::pin(status::run(args, context)).await,
        Command::Id(args) => Box::pin(id::run(args, context)).await,
        Command::Init(args) => Box::pin(init::run(args, context)).await,
        Command::Owner(args) => Box::pin(owner::run(args, context)).await,
        Command::Backup(args) => Box::pin(backup::run::run(args, context)).await,
        Command::Snapshots(args) => Box::pin(backup::snapshots::run(args, context)).await,
        Command::Restore(args) => Box::pin(backup::restore::run(args, context)).await,
        Command::FindFile(args) => Box::pin(backup::find_file::run(args, context)).await,
        Command::Diff(args) => Box::pin(backup::diff::run(args, context)).await,
        Command::Forget(args) => Box::pin(backup::forget::run(args, context)).await,
        Command::Unforget(args) => Box::pin(backup::unforget::run(args, context)).await,
        Command::Prune(args) => Box::pin(backup::prune::run(args, context)).await,
        Command::Check(args) => Box::pin(backup::check::run(args, context)).await,
        Command::Drill(args) => Box::pin(backup::drill::run(args, context)).await,
        Command::Lease(args) => Box::pin(backup::lease::run(args, context)).await,
        Command::Ring(args) => Box::pin(ring::run(args, context)).await,
        Command::Mesh(args) => Box::pin(mesh::run(args, context)).await,
        Command::Site(args) => Box::pin(site::run(args, context)).await,
        Command::Config(args) => Box::pin(config::run(args, context)).await,
        Command::Demo(args) => Box::pin(demo::run(args, context)).await,
        Command::Completions(args) => completions::run(&args),
        Command::Version(args) => version::run(&args, context),
    }
}

/// The first signal asks the command to end; the second ends the program at once.
fn listen_for_signals(stop: CancellationToken) -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| {
        signal(kind).map_err(|error| Failure::io("the program can't listen for signals", &error))
    };
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    // The task ends with the runtime.
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            if stop.is_cancelled() {
                std::process::exit(i32::from(Exit::Interrupted.code()));
            }
            stop.cancel();
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        definition(true).debug_assert();
    }

    #[test]
    fn the_overview_is_short_and_names_commands_that_exist() {
        assert!(OVERVIEW.lines().count() <= 16, "{OVERVIEW}");
        let command = definition(false);
        let mut named = 0;
        for line in OVERVIEW.lines() {
            assert!(line.chars().count() <= 100, "{line}");
            let Some((_, rest)) = line.split_once("libernet ") else {
                continue;
            };
            let word = rest.split_whitespace().next().expect("a command");
            if word.chars().all(|c| c.is_ascii_lowercase()) {
                assert!(command.find_subcommand(word).is_some(), "{word}");
                named += 1;
            }
        }
        assert!(named >= 9, "{named}");
    }

    #[test]
    fn every_command_has_examples_and_the_codes_are_in_the_help() {
        let mut command = definition(false);
        let help = command.render_long_help().to_string();
        assert!(help.contains("130  interrupted by a signal"), "{help}");
        for sub in command
            .get_subcommands()
            .filter(|sub| sub.get_name() != "help")
        {
            let text = sub
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(text.starts_with("Examples:"), "{}", sub.get_name());
            assert!(sub.get_about().is_some(), "{}", sub.get_name());
        }
    }

    #[test]
    fn the_forms_that_scripts_use() {
        for line in [
            "--data-dir D up --listen /ip4/127.0.0.1/tcp/0 --listen /ip4/127.0.0.1/udp/0/quic-v1 --http 127.0.0.1:0 \
             --bootstrap /ip4/127.0.0.1/tcp/1 --no-mdns --quota 1GiB --json",
            "put PATH --json",
            "put - --name x --no-announce --private",
            "get LINK --target PATH",
            "restore latest -o D",
            "restore latest --output D --timeout 30s",
            "get LINK -o PATH --json --overwrite changed --owners --timeout 3 --pin",
            "get LINK --yes --max-size 1GiB --max-files 10",
            "cat LINK/path",
            "ls -l LINK",
            "find ID --json --no-check --limit 3 --timeout 9",
            "announce text:words ID",
            "peers",
            "peers --ledger --json",
            "up --lend 20GiB --limit-up 2MiB --limit-down 8MiB --limit-hours 08:00-22:00",
            "peers connect /ip4/127.0.0.1/tcp/1",
            "mesh join --yes --json",
            "mesh status --json",
            "mesh leave",
            "ring create home --anywhere --json",
            "restore latest --phrase-file F --target D --no-meet",
            "status --json",
            "id",
            "version",
            "send PATH",
            "share PATH",
            "receive LINK",
            "list LINK",
            "init",
            "init --yes --words-out F --sheet F.html --name N --json --passphrase",
            "init --recover",
            "init --recover - --passphrase-file F",
            "init --recover F --yes",
            "owner --json",
            "owner passphrase --remove --passphrase-file F",
            "owner passphrase --new-passphrase-file F",
            "backup",
            "backup --json --dry-run --force --tag t --tag u",
            "backup PATH other --exclude *.o --include a.o --exclude-file F --gitignore --exclude-caches --one-file-system \
             --exclude-larger-than 1GiB",
            "backup --set home --due",
            "backup ./add",
            "backup add PATH other --name n --exclude *.o --tag t --schedule hourly --keep-daily 7 --keep-within 30d",
            "backup --json list",
            "backup list --json",
            "backup remove n",
            "backup schedule --systemd",
            "backup schedule --cron",
            "snapshots --json --timeout 5",
            "snapshots --phrase-file - --bootstrap /ip4/127.0.0.1/tcp/1",
            "restore latest --target D --include *.rs --first a --newest-first --overwrite never --verify --dry-run --owners",
            "restore 0123:/home/u --target D --phrase --timeout 9 --json",
            "restore latest --tar -",
            "restore latest --tar F --phrase-file W",
            "forget --keep-last 1 --keep-hourly 2 --keep-daily 3 --keep-weekly 4 --keep-monthly 5 --keep-yearly 6 --keep-within 7d \
             --keep-tag t --set s --tag t --all-machines --prune --dry-run --json --passphrase-file F",
            "forget 0123 4567",
            "forget 0123 --phrase --prune",
            "unforget 0123 4567 --phrase-file W --json",
            "owner machine ls --json",
            "owner machine revoke laptop --phrase",
            "owner machine admit --phrase-file W",
            "snapshots --deleted --set s",
            "prune --dry-run --repack-below 30 --json",
            "check --read-data --remote --snapshot latest --json",
            "check --read-data-subset 2.5%",
            "find-file *.odt --snapshot latest --limit 3 --json",
            "diff 0123 latest --json",
            "ls latest:/home --passphrase-file F",
            "cat 0123:/etc/hosts",
            "drill --phrase-file W --files 5 --json",
            "pin add LINK --name x",
            "pin rm LINK",
            "pin ls",
            "block get ID",
            "block put FILE --json",
            "block put -",
            "block put FILE --codec dag-pb --hash sha256",
            "put DIR --index home.html",
            "url LINK",
            "verify-response --headers H --body B",
            "verify-response --headers H --body - --peer ID --json",
            "url LINK/path --json",
            "block has ID",
            "block stat ID",
            "block stat LINK --bundle --json",
            "block ls --like ID",
            "block rm ID --force",
            "config show",
            "config path",
            "config get quota",
            "config set quota 1GiB",
            "completions bash",
            "demo",
            "demo PATH -q",
        ] {
            let words = std::iter::once("libernet").chain(line.split_whitespace());
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("{line}: {error}");
            }
        }
        for line in [
            "nothing",
            "put",
            "get",
            "up --quota",
            "get L --overwrite some",
            "put x -v -q",
            "init --recover F --words-out G",
            "init --passphrase --passphrase-file F",
            "backup --due PATH",
            "backup --set s PATH",
            "backup add",
            "backup add PATH --schedule sometimes",
            "backup PATH --exclude-larger-than big",
            "backup schedule",
            "backup schedule --systemd --cron",
            "restore latest",
            "restore latest --target D --tar F",
            "restore latest --target D --phrase --phrase-file F",
            "check --read-data --read-data-subset 1%",
            "check --read-data-subset 101%",
            "prune --repack-below 101",
            "forget --keep-within soon",
            "unforget",
            "peers --ledger connect /ip4/127.0.0.1/tcp/1",
        ] {
            let words = std::iter::once("libernet").chain(line.split_whitespace());
            let error = Cli::try_parse_from(words).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
