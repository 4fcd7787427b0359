//! `libernet service`: has the system's service manager run the node.
//!
//! Units are templates beside this file, filled in with this program's path and the data
//! directory. Only systemd is supported. Deliberately absent: timers for single backups, which
//! `libernet backup schedule` prints for machines without a node that runs all the time.

use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};

use super::ask;
use super::backup::timer::systemd_quoted;
use super::context::Context;
use super::exit::{Exit, Failure};
use super::output;
use crate::file;

/// Name of the unit.
const UNIT: &str = "libernet.service";
/// Directory of the units of the whole system.
const SYSTEM_DIR: &str = "/etc/systemd/system";
/// Data of the service of the whole system: the unit's state directory.
const SYSTEM_DATA: &str = "/var/lib/libernet";
const TEMPLATE: &str = include_str!("service/libernet.service.in");
const SYSTEM_PART: &str = include_str!("service/system.part");
const USER_PART: &str = include_str!("service/user.part");

/// Have the system run the node: start it, watch it, start it again.
///
/// Writes a unit for systemd, the only service manager that is supported, for you or with --system
/// for the whole machine.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet service install --now             # for you; runs while you are logged in
  loginctl enable-linger                     # lets it run from boot on, and after you log out
  sudo libernet service install --system --now
  libernet service logs --follow
  libernet service install --print           # the unit, and nothing is written

The service of the whole machine has its data in /var/lib/libernet, can read every file and write nowhere else: to restore elsewhere stop it, and
restore as root with --data-dir /var/lib/libernet. A sendmail that needs rights of its own (setgid, as Postfix's) does not work inside of a service.
Exit code 11 from `status` when the service does not run, 10 where there is no systemd.")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, clap::Args)]
struct Scope {
    /// The service of the whole machine, not of this user.
    #[arg(long)]
    system: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Write the unit, and have it started at boot (--system) or login.
    Install {
        #[command(flatten)]
        scope: Scope,
        /// Start it at once.
        #[arg(long, conflicts_with = "print")]
        now: bool,
        /// Print the unit, and change nothing.
        #[arg(long)]
        print: bool,
    },
    /// Show whether it runs.
    Status(Scope),
    /// Show what it wrote to the journal.
    Logs {
        #[command(flatten)]
        scope: Scope,
        /// Go on with what comes.
        #[arg(short, long)]
        follow: bool,
    },
    /// Stop it, until the next boot or login.
    Stop(Scope),
    /// Stop it, and remove the unit. Data stays.
    Uninstall(Scope),
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    match args.command {
        Command::Install { scope, now, print } => install(&scope, now, print, context).await,
        Command::Status(scope) => {
            match call(
                "systemctl",
                &scope,
                &["status", "--no-pager", UNIT],
                context,
            )
            .await?
            {
                0 => Ok(Exit::Done),
                _ => Ok(Exit::NotRunning),
            }
        }
        Command::Logs { scope, follow } => {
            let mut words = vec!["--unit", UNIT, "--lines", "200", "--no-pager"];
            words.extend(follow.then_some("--follow"));
            must("journalctl", &scope, &words, context).await?;
            Ok(Exit::Done)
        }
        Command::Stop(scope) => {
            must("systemctl", &scope, &["stop", UNIT], context).await?;
            context.notice("stopped; it starts again at the next boot or login");
            Ok(Exit::Done)
        }
        Command::Uninstall(scope) => uninstall(&scope, context).await,
    }
}

async fn install(
    scope: &Scope,
    now: bool,
    print: bool,
    context: &Context,
) -> Result<Exit, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::io("this program can't find itself", &error))?;
    let data_dir = match scope.system {
        true => Path::new(SYSTEM_DATA),
        false => &context.data_dir,
    };
    let unit = unit(scope.system, &program, data_dir);
    if print {
        output::stdout(unit.as_bytes())?;
        return Ok(Exit::Done);
    }
    let path = unit_path(scope)?;
    let written = path.clone();
    let write = move || {
        let failed = |error| {
            Failure::io(
                format!("{} could not be written", written.display()),
                &error,
            )
        };
        let dir = written.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(dir).map_err(failed)?;
        file::replace(&written, unit.as_bytes()).map_err(failed)?;
        // The manager of the whole machine warns of units that only root can read.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(&written, mode).map_err(failed)
    };
    ask::until_stopped(context, write).await?;
    must("systemctl", scope, &["daemon-reload"], context).await?;
    let enable: &[&str] = match now {
        true => &["enable", "--now", UNIT],
        false => &["enable", UNIT],
    };
    must("systemctl", scope, enable, context).await?;
    context.notice(&format!("wrote {}", path.display()));
    let (of, start) = match scope.system {
        true => (" --system", "at boot"),
        false => ("", "when you log in"),
    };
    context.notice(&match now {
        true => {
            format!("it runs, and starts {start}; `libernet service logs{of}` shows what it writes")
        }
        false => {
            format!("it starts {start}; to start it now: `libernet service install{of} --now`")
        }
    });
    if !scope.system {
        context
            .notice("it ends when you log out; `loginctl enable-linger` lets it run from boot on");
    }
    Ok(Exit::Done)
}

async fn uninstall(scope: &Scope, context: &Context) -> Result<Exit, Failure> {
    let path = unit_path(scope)?;
    if !path.exists() {
        return Err(
            Failure::new(Exit::NotFound, format!("there is no {}", path.display())).with_hint(
                "`libernet service install` writes it; is it that of the whole machine (--system)?",
            ),
        );
    }
    must("systemctl", scope, &["disable", "--now", UNIT], context).await?;
    std::fs::remove_file(&path)
        .map_err(|error| Failure::io(format!("{} could not be removed", path.display()), &error))?;
    must("systemctl", scope, &["daemon-reload"], context).await?;
    context.notice(&format!("removed {}; the data stays", path.display()));
    Ok(Exit::Done)
}

/// The unit's text.
fn unit(is_system: bool, program: &Path, data_dir: &Path) -> String {
    let text = |path: &Path| systemd_quoted(&path.to_string_lossy());
    let command = format!("{} --data-dir {} up", text(program), text(data_dir));
    let (part, scope, target) = match is_system {
        true => (SYSTEM_PART, "the whole machine", "multi-user.target"),
        false => (USER_PART, "a user", "default.target"),
    };
    // The command comes last: a path may hold what looks like a place to fill.
    TEMPLATE
        .replace("@SCOPED@", part)
        .replace("@SCOPE@", scope)
        .replace("@TARGET@", target)
        .replace("@COMMAND@", &command)
}

fn unit_path(scope: &Scope) -> Result<PathBuf, Failure> {
    if scope.system {
        return Ok(Path::new(SYSTEM_DIR).join(UNIT));
    }
    let dirs = directories::BaseDirs::new()
        .ok_or_else(|| Failure::usage("this user has no home directory"))?;
    Ok(dirs.config_dir().join("systemd/user").join(UNIT))
}

/// Runs a program of systemd that must succeed.
async fn must(
    program: &'static str,
    scope: &Scope,
    words: &[&str],
    context: &Context,
) -> Result<(), Failure> {
    match call(program, scope, words, context).await? {
        0 => Ok(()),
        code => {
            let words = words.join(" ");
            Err(Failure::new(Exit::Failed, format!("`{program} {words}` failed with {code}"))
                .with_hint("what it printed says why; a user's services need a login session, those of the machine root"))
        }
    }
}

/// Runs a program of systemd, which writes to this command's own output. Returns its exit code.
async fn call(
    program: &'static str,
    scope: &Scope,
    words: &[&str],
    context: &Context,
) -> Result<i32, Failure> {
    let mut process = Process::new(program);
    if !scope.system {
        process.arg("--user");
    }
    process.args(words).stdin(Stdio::null());
    let run = move || {
        match process.status() {
        Ok(status) => Ok(status.code().unwrap_or(-1)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Failure::new(
            Exit::Unavailable,
            format!("there is no {program}: this machine does not run systemd, and no other service manager is supported"),
        )
        .with_hint("have your service manager run `libernet up`, which ends on SIGTERM")),
        Err(error) => Err(Failure::io(format!("{program} could not be run"), &error)),
    }
    };
    ask::until_stopped(context, run).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_name_the_program_and_the_data() {
        let program = Path::new("/opt/my programs/libernet");
        let user = unit(false, program, Path::new("/home/a/100%"));
        assert!(
            user.contains(
                "ExecStart=\"/opt/my programs/libernet\" --data-dir \"/home/a/100%%\" up\n"
            ),
            "{user}"
        );
        assert!(user.contains("WantedBy=default.target") && !user.contains("StateDirectory"));
        let system = unit(true, program, Path::new(SYSTEM_DATA));
        assert!(system.contains("WantedBy=multi-user.target"));
        assert!(system.contains("StateDirectory=libernet\n"));
        for text in [user, system] {
            let unfilled = ["@SCOPE", "@COMMAND@", "@TARGET@"];
            assert!(unfilled.iter().all(|place| !text.contains(place)), "{text}");
            assert!(text.contains("NoNewPrivileges=yes") && text.contains("Type=notify"));
        }
    }
}
