//! How commands end: the exit codes, and what is said when one fails.
//!
//! This is the one place that gives errors a code and words.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde_json::json;

use super::show::printable;
use crate::backup::{self, owner};
use crate::block::{LinkError, TicketError, Tried};
use crate::id::{BlockId, IdError};
use crate::node::api::{CallError, ErrorKind};
use crate::{config, gateway, site};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All of it is done.
    Done,
    /// It failed, for a reason without a code of its own.
    Failed,
    /// The arguments, a link, an id or a setting is wrong.
    Usage,
    /// Some files or blocks are missing from the result.
    Partial,
    /// Nobody gave it in time.
    NotFound,
    /// Data is damaged or not what it claims to be.
    Damaged,
    /// The quota or the disk is full.
    Full,
    /// Another process holds the data directory.
    Locked,
    /// The target exists.
    Exists,
    /// The operating system refused.
    Permission,
    /// The running node went away or is stopping.
    Unavailable,
    /// No node is running, and only one that runs could be asked.
    NotRunning,
    /// More would be written than may be without asking.
    Excess,
    /// A signal ended it.
    Interrupted,
}

/// Every way to end and its meaning, in the order of `--help`.
const ALL: [(Exit, &str); 14] = [
    (Exit::Done, "done"),
    (Exit::Failed, "failed"),
    (Exit::Usage, "usage: a wrong argument, link, id or setting"),
    (
        Exit::Partial,
        "done in part: some files or blocks are missing",
    ),
    (Exit::NotFound, "not found in time"),
    (
        Exit::Damaged,
        "damaged data, settings or keys, or a key that does not open it",
    ),
    (Exit::Full, "the quota or the disk is full"),
    (Exit::Locked, "another process holds the data directory"),
    (Exit::Exists, "the target exists"),
    (Exit::Permission, "permission denied"),
    (
        Exit::Unavailable,
        "the running node went away or does not answer",
    ),
    (
        Exit::NotRunning,
        "no node is running, for commands that only ask or tell one (status)",
    ),
    (
        Exit::Excess,
        "more would be written than may be without --yes (get)",
    ),
    (Exit::Interrupted, "interrupted by a signal"),
];

impl Exit {
    /// The number that the shell sees.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Partial => 3,
            Self::NotFound => 4,
            Self::Damaged => 5,
            Self::Full => 6,
            Self::Locked => 7,
            Self::Exists => 8,
            Self::Permission => 9,
            Self::Unavailable => 10,
            Self::NotRunning => 11,
            Self::Excess => 12,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

impl From<ErrorKind> for Exit {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Usage | ErrorKind::OwnerLocked => Self::Usage,
            ErrorKind::NotFound | ErrorKind::NoOwner => Self::NotFound,
            ErrorKind::Damaged => Self::Damaged,
            ErrorKind::Full => Self::Full,
            ErrorKind::Locked => Self::Locked,
            ErrorKind::Exists => Self::Exists,
            ErrorKind::Permission => Self::Permission,
            ErrorKind::Unavailable => Self::Unavailable,
            ErrorKind::Failed => Self::Failed,
            ErrorKind::Excess => Self::Excess,
        }
    }
}

/// The part of `--help` about exit codes and errors.
pub fn help() -> String {
    let mut text = String::from("Exit codes:\n");
    for (exit, meaning) in ALL {
        let _ = writeln!(text, "  {:>3}  {meaning}", exit.code());
    }
    text.push_str(
        "\nErrors are text on stderr; with --json the last line there is also one object:\n  \
         {\"error\":{\"exit_code\":4,\"kind\":\"not_found\",\"message\":\"...\",\"hint\":\"...\",\"block\":\"...\",\"tried\":[...]}}",
    );
    text
}

/// Why a command did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// How it ends.
    pub exit: Exit,
    /// What failed; empty when there is nothing to say, as when nobody reads the output any more.
    pub message: String,
    /// Why, outermost first.
    pub why: Vec<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// The block that was missing or damaged.
    pub block: Option<BlockId>,
    /// Peers that were asked for it.
    pub tried: Vec<Tried>,
}

impl Failure {
    /// A failure that needs no further words.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            why: Vec::new(),
            hint: None,
            block: None,
            tried: Vec::new(),
        }
    }

    /// A wrong argument.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Ends with `exit` and says nothing.
    pub fn silent(exit: Exit) -> Self {
        Self::new(exit, String::new())
    }

    /// The user or the system asked the command to end.
    pub fn interrupted() -> Self {
        Self::new(Exit::Interrupted, "interrupted")
    }

    /// A file of the user's could not be used. `what` names it.
    pub fn io(what: impl Into<String>, error: &std::io::Error) -> Self {
        let exit = match error.kind() {
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                Exit::Permission
            }
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Exit::Full,
            std::io::ErrorKind::AlreadyExists => Exit::Exists,
            _ => Exit::Failed,
        };
        let mut failure = Self::new(exit, what);
        failure.why.push(error.to_string());
        failure
    }

    /// Standard output could not be written. A reader that has seen enough (`libernet ls | head`) is no error.
    pub fn output(error: &std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Self::silent(Exit::Done)
        } else {
            Self::io("the output could not be written", error)
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Tells it on stderr: as text, and as JSON too when `json`.
    pub fn report(&self, json: bool, color: bool) {
        if self.message.is_empty() {
            return;
        }
        let mut text = self.to_text(color);
        if json {
            text.push_str(&self.to_json());
            text.push('\n');
        }
        super::output::stderr(&text);
    }

    fn to_text(&self, color: bool) -> String {
        let (error, hint, end) = if color {
            ("\x1b[1;31merror:\x1b[0m", "\x1b[1;36mhint:\x1b[0m", "\n")
        } else {
            ("error:", "hint:", "\n")
        };
        let mut text = format!("{error} {}{end}", printable(&self.message));
        for why in &self.why {
            let _ = writeln!(text, "  why: {}", printable(why));
        }
        // The message often names them already.
        let is_new = |word: &str| !self.message.contains(word);
        if let Some(block) = self.block.filter(|block| is_new(&block.to_string())) {
            let _ = writeln!(text, "  block: {block}");
        }
        for tried in self.tried.iter().filter(|tried| is_new(&tried.peer)) {
            let _ = writeln!(
                text,
                "  tried: {} {}",
                printable(&tried.peer),
                tried.attempt
            );
        }
        if let Some(advice) = &self.hint {
            let _ = writeln!(text, "{hint} {}", printable(advice));
        }
        text
    }

    /// The object that `--json` adds on stderr.
    pub fn to_json(&self) -> String {
        let kind = match self.exit {
            Exit::Done => "done",
            Exit::Failed => "failed",
            Exit::Usage => "usage",
            Exit::Partial => "partial",
            Exit::NotFound => "not_found",
            Exit::Damaged => "damaged",
            Exit::Full => "full",
            Exit::Locked => "locked",
            Exit::Exists => "exists",
            Exit::Permission => "permission",
            Exit::Unavailable => "unavailable",
            Exit::NotRunning => "not_running",
            Exit::Excess => "excess",
            Exit::Interrupted => "interrupted",
        };
        json!({ "error": {
            "exit_code": self.exit.code(),
            "kind": kind,
            "message": self.message,
            "why": self.why,
            "hint": self.hint,
            "block": self.block,
            "tried": self.tried,
        }})
        .to_string()
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let usual = match error.kind {
            ErrorKind::OwnerLocked => Some("give the passphrase: --passphrase-file FILE"),
            ErrorKind::NoOwner => Some(
                "`libernet init` makes an owner, `libernet init --recover` brings one back from its words",
            ),
            _ => None,
        };
        Self {
            exit: error.kind.into(),
            message: error.message,
            why: Vec::new(),
            hint: error.hint.or_else(|| usual.map(str::to_owned)),
            block: error.block,
            tried: error.tried,
        }
    }
}

/// What caused an error, outermost first.
fn causes(error: &dyn std::error::Error) -> Vec<String> {
    let mut causes = Vec::new();
    let mut source = error.source();
    while let Some(cause) = source {
        causes.push(cause.to_string());
        source = cause.source();
    }
    causes
}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        let exit = match &error {
            config::Error::Io { source, .. }
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                Exit::Permission
            }
            config::Error::Io { .. } => Exit::Failed,
            config::Error::Parse { .. } => Exit::Damaged,
            config::Error::Value { .. } => Exit::Usage,
        };
        let hint = match &error {
            config::Error::Parse { .. } => {
                "mend that line, or move the file away: without it the defaults hold"
            }
            _ => "`libernet config show` lists every setting and what it means",
        };
        let mut failure = Self::new(exit, error.to_string()).with_hint(hint);
        failure.why = causes(&error);
        failure
    }
}

impl From<gateway::Error> for Failure {
    fn from(error: gateway::Error) -> Self {
        let mut failure = match &error {
            gateway::Error::InUse(_) => Self::new(Exit::Failed, error.to_string()).with_hint(
                "another node may be running; choose another port with --http 127.0.0.1:PORT, 0 for a free one",
            ),
            gateway::Error::NotLoopback(_) => Self::usage(error.to_string()),
            _ => Self::new(Exit::Failed, error.to_string()),
        };
        failure.why = causes(&error);
        failure
    }
}

impl From<owner::Error> for Failure {
    fn from(error: owner::Error) -> Self {
        use owner::Error;
        let (exit, hint) = match &error {
            Error::Words(_) => (
                Exit::Usage,
                "compare every word with your sheet; the order counts, the case does not",
            ),
            Error::Name { .. } => (Exit::Usage, "name this machine with --name MACHINE"),
            Error::TooManyRevoked { .. } | Error::NoGenerationLeft => (
                Exit::Failed,
                "`libernet init` on an empty data directory makes a new owner",
            ),
            Error::Head(_) => (
                Exit::Failed,
                "the node may be of another version: restart it",
            ),
            Error::Passphrase { .. } => (Exit::Usage, "choose several random words"),
            Error::Locked(_) => (Exit::Usage, "give the passphrase"),
            Error::WrongPassphrase(_) => (
                Exit::Damaged,
                "if it is lost: move the file away and use your words, `libernet init --recover`",
            ),
            Error::Exists(_) => (
                Exit::Exists,
                "`libernet owner` shows it; use another --data-dir for another owner",
            ),
            Error::Missing(_) => (
                Exit::NotFound,
                "`libernet init` makes one, `libernet init --recover` brings one back from its words",
            ),
            Error::Damaged { .. } => (
                Exit::Damaged,
                "move the file away and use your words: `libernet init --recover`",
            ),
            Error::Version { .. } => (
                Exit::Failed,
                "use the libernet that wrote it, or a newer one",
            ),
            Error::Memory(_) => (Exit::Failed, "close other programs and try again"),
            Error::Io { source, .. } => return Self::io(error.to_string(), source),
        };
        Self::new(exit, error.to_string()).with_hint(hint)
    }
}

impl From<backup::Error> for Failure {
    fn from(error: backup::Error) -> Self {
        let mut failure = match &error {
            backup::Error::Setting(_) => Self::usage(error.to_string()),
            backup::Error::Name(miss) => Self::usage(miss.to_string()),
            backup::Error::DamagedFile { .. } => {
                Self::new(Exit::Damaged, error.to_string()).with_hint(backup::DAMAGED_FILE_HINT)
            }
            backup::Error::File { source, .. } => return Self::io(error.to_string(), source),
            _ => Self::new(Exit::Failed, error.to_string()),
        };
        failure.why = causes(&error);
        failure
    }
}

impl From<site::Error> for Failure {
    fn from(error: site::Error) -> Self {
        match error {
            site::Error::Read { ref source, .. } => Self::io(error.to_string(), source),
            error => Self::usage(error.to_string()),
        }
    }
}

impl From<IdError> for Failure {
    fn from(error: IdError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<TicketError> for Failure {
    fn from(error: TicketError) -> Self {
        let hint = match &error {
            TicketError::Version(_) => "use a newer libernet",
            _ => "copy the whole ticket again; every character counts",
        };
        Self::usage(error.to_string()).with_hint(hint)
    }
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Self {
        let hint = match &error {
            LinkError::NoKey(_) => {
                "an id alone names encrypted bytes: `libernet block get ID` writes them"
            }
            LinkError::Key(_) => "copy the whole link again; every character counts",
            _ => "a link looks like libernet:bafk....abcd..., as `libernet put` prints it",
        };
        Self::usage(error.to_string()).with_hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Attempt;

    #[test]
    fn the_documented_codes() {
        let codes: Vec<u8> = ALL.iter().map(|(exit, _)| exit.code()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 130]);
        let help = help();
        for (exit, meaning) in ALL {
            assert!(
                help.contains(&format!("{:>3}  {meaning}", exit.code())),
                "{exit:?}"
            );
        }
    }

    #[test]
    fn every_kind_of_error_has_its_code() {
        for (kind, code) in [
            (ErrorKind::Failed, 1),
            (ErrorKind::Usage, 2),
            (ErrorKind::NotFound, 4),
            (ErrorKind::Damaged, 5),
            (ErrorKind::Full, 6),
            (ErrorKind::Locked, 7),
            (ErrorKind::Exists, 8),
            (ErrorKind::Permission, 9),
            (ErrorKind::Unavailable, 10),
            (ErrorKind::OwnerLocked, 2),
            (ErrorKind::NoOwner, 4),
            (ErrorKind::Excess, 12),
        ] {
            assert_eq!(Failure::from(CallError::new(kind, "x")).exit.code(), code);
        }
    }

    #[test]
    fn errors_of_owners_have_their_codes() {
        use std::path::PathBuf;
        let path = || PathBuf::from("owner.key");
        let words = owner::Phrase::parse("").expect_err("no words");
        for (error, code) in [
            (owner::Error::Words(words), 2),
            (owner::Error::Locked(path()), 2),
            (owner::Error::Missing(path()), 4),
            (owner::Error::WrongPassphrase(path()), 5),
            (owner::Error::Exists(path()), 8),
        ] {
            let failure = Failure::from(error);
            assert_eq!(failure.exit.code(), code, "{failure:?}");
            assert!(failure.hint.is_some(), "{failure:?}");
        }
        let denied = owner::Error::Io {
            action: "read",
            path: path(),
            source: std::io::ErrorKind::PermissionDenied.into(),
        };
        assert_eq!(Failure::from(denied).exit, Exit::Permission);
    }

    #[test]
    fn a_failure_says_what_why_who_and_what_to_do() {
        let block = BlockId::from_sha384([1; 48]);
        let mut error = CallError::new(ErrorKind::NotFound, "no \x1b[2J block").with_hint("wait");
        error.block = Some(block);
        error.tried = vec![Tried {
            peer: "12D3".to_owned(),
            attempt: Attempt::DontHave,
        }];
        let mut failure = Failure::from(error);
        failure.why.push("because".to_owned());
        assert_eq!(
            failure.to_text(false),
            format!(
                "error: no \\u{{1b}}[2J block\n  why: because\n  block: {block}\n  tried: 12D3 does not have it\nhint: wait\n"
            )
        );
        let json: serde_json::Value = serde_json::from_str(&failure.to_json()).expect("json");
        assert_eq!(json["error"]["exit_code"], 4);
        assert_eq!(json["error"]["kind"], "not_found");
        assert_eq!(json["error"]["tried"][0]["attempt"], "dont_have");
    }

    #[test]
    fn errors_of_the_system() {
        let of = |kind: std::io::ErrorKind| std::io::Error::from(kind);
        assert_eq!(
            Failure::io("x", &of(std::io::ErrorKind::PermissionDenied)).exit,
            Exit::Permission
        );
        assert_eq!(
            Failure::io("x", &of(std::io::ErrorKind::StorageFull)).exit,
            Exit::Full
        );
        assert_eq!(
            Failure::io("x", &of(std::io::ErrorKind::NotFound)).exit,
            Exit::Failed
        );
        assert_eq!(
            Failure::output(&of(std::io::ErrorKind::BrokenPipe)),
            Failure::silent(Exit::Done)
        );
        assert_eq!(
            Failure::output(&of(std::io::ErrorKind::StorageFull)).exit,
            Exit::Full
        );
    }
}
