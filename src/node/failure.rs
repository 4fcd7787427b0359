//! What a failure in a lower room means to who made the call: its kind, its words, and what to do about it.

use std::error::Error as StdError;

use super::api::{CallError, ErrorKind};
use super::identity;
use crate::backup::owner;
use crate::block::{GetError, OpenError, PutError};
use crate::pick::Miss;
use crate::store::Unwritable;
use crate::{backup, bundle, net, store};

/// An error and what caused it, in one line.
pub(super) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        // Some errors repeat their source in their own text.
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = cause.source();
    }
    text
}

/// What to do when the disk is full.
const DISK_FULL: &str = "make room on the disk, then run it again; `libernet pin rm`, `forget` and `prune` work on a full disk too";

fn full() -> &'static str {
    "raise the quota (`libernet config set quota 100GiB`), or make room with `libernet pin rm`"
}

/// Advice when the store can't be written.
const READ_ONLY: &str = "what is stored can be read all the same; to change it, make the disk and the data directory writable";

/// Advice when the store's index is damaged.
const REBUILD: &str = "put the file back from a copy if you have one; otherwise `libernet check --rebuild` makes the index again from the \
                       files that hold the blocks, and keeps the old ones aside";

impl From<store::Error> for CallError {
    fn from(error: store::Error) -> Self {
        let text = chain(&error);
        match error.unwritable() {
            Some(Unwritable::DiskFull) => {
                return Self::new(ErrorKind::Full, text).with_hint(DISK_FULL);
            }
            Some(Unwritable::ReadOnly) => {
                return Self::new(ErrorKind::Permission, text).with_hint(READ_ONLY);
            }
            None => {}
        }
        match error {
            store::Error::Corrupt { id } => Self {
                block: Some(id),
                ..Self::new(ErrorKind::Damaged, text)
            },
            store::Error::Full { .. } => Self::new(ErrorKind::Full, text).with_hint(full()),
            store::Error::Damaged { .. } | store::Error::BadIndex { .. } => {
                Self::new(ErrorKind::Damaged, text).with_hint(REBUILD)
            }
            store::Error::NoRoomToRebuild { .. } => Self::new(ErrorKind::Full, text)
                .with_hint("make room on the disk, then run it again; nothing was changed"),
            store::Error::Locked { .. } => Self::new(ErrorKind::Locked, text).with_hint(
                "use the running node (commands find it by themselves), or another --data-dir",
            ),
            store::Error::Held { .. } => {
                Self::new(ErrorKind::Failed, text).with_hint("remove the pin first, or use --force")
            }
            _ => Self::new(ErrorKind::Failed, text),
        }
    }
}

impl From<identity::Error> for CallError {
    fn from(error: identity::Error) -> Self {
        let text = error.to_string();
        match error {
            identity::Error::Io { source, .. } if io_kind(&source) == ErrorKind::Permission => {
                Self::new(ErrorKind::Permission, text)
            }
            identity::Error::Exposed { path, .. } => Self::new(ErrorKind::Permission, text)
                .with_hint(format!("chmod 600 {}", path.display())),
            identity::Error::Damaged { .. } => Self::new(ErrorKind::Damaged, text).with_hint(
                "bring it back from a copy, or move it away: the node then gets a new name, and others have to get to know it anew",
            ),
            identity::Error::Io { source, .. } => Self::new(io_kind(&source), text),
        }
    }
}

impl From<net::Error> for CallError {
    fn from(error: net::Error) -> Self {
        let failed = Self::new(ErrorKind::Failed, chain(&error));
        match error {
            net::Error::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
                failed.with_hint(
                    "another program, or another node, has the port: choose another one with --listen, \
                     or for good with `libernet config set listen ...`; port 0 picks a free one",
                )
            }
            _ => failed,
        }
    }
}

impl From<PutError> for CallError {
    fn from(error: PutError) -> Self {
        let text = chain(&error);
        match error {
            PutError::Full { .. } => Self::new(ErrorKind::Full, text).with_hint(full()),
            PutError::DiskFull => Self::new(ErrorKind::Full, text).with_hint(DISK_FULL),
            PutError::ReadOnly => Self::new(ErrorKind::Permission, text).with_hint(READ_ONLY),
            PutError::Stopping => Self::new(ErrorKind::Unavailable, text),
            PutError::Store(_) => Self::new(ErrorKind::Failed, text),
        }
    }
}

impl From<GetError> for CallError {
    fn from(error: GetError) -> Self {
        let text = chain(&error);
        match error {
            GetError::NotFound { id, tried, .. } => Self {
                block: Some(id),
                tried,
                ..Self::new(ErrorKind::NotFound, text).with_hint(
                    "is a node that has it online? `libernet find` shows who announced it, `libernet peers` who is connected",
                )
            },
            GetError::Corrupt { id } => Self {
                block: Some(id),
                ..Self::new(ErrorKind::Damaged, text)
            },
            GetError::Stopping => Self::new(ErrorKind::Unavailable, text),
            GetError::Store { id, source } => match source.downcast::<PutError>() {
                // Not about this block alone: the next ones would fare no better.
                Ok(error) => {
                    let error = Self::from(*error);
                    Self {
                        message: format!("block {id} came and could not be kept: {error}"),
                        ..error
                    }
                }
                Err(_) => Self::new(ErrorKind::Failed, text),
            },
        }
    }
}

impl From<OpenError> for CallError {
    fn from(error: OpenError) -> Self {
        Self::new(ErrorKind::Damaged, error.to_string())
    }
}

impl From<owner::Error> for CallError {
    fn from(error: owner::Error) -> Self {
        let text = chain(&error);
        match error {
            owner::Error::WrongPassphrase(_) | owner::Error::Damaged { .. } => {
                Self::new(ErrorKind::Damaged, text)
            }
            owner::Error::Locked(_) => Self::new(ErrorKind::OwnerLocked, text),
            owner::Error::Missing(_) => Self::new(ErrorKind::NoOwner, text),
            _ => Self::new(ErrorKind::Failed, text),
        }
    }
}

impl From<backup::Error> for CallError {
    fn from(error: backup::Error) -> Self {
        use backup::Error;
        let text = chain(&error);
        match error {
            Error::Get(error) => error.into(),
            Error::Put(error) => error.into(),
            Error::Open(error) => error.into(),
            Error::Bundle(error) => error.into(),
            Error::Store(error) => error.into(),
            Error::NotASnapshot { id } | Error::NotALog { id } | Error::Malformed { id, .. } => {
                Self {
                    block: Some(id),
                    ..Self::new(ErrorKind::Damaged, text)
                }
            }
            Error::UnknownVersion { id, .. } => Self {
                block: Some(id),
                ..Self::new(ErrorKind::Damaged, text).with_hint("use a newer libernet")
            },
            Error::Head(_) => Self::new(ErrorKind::Damaged, text),
            Error::NotForgotten { .. } => Self::new(ErrorKind::NotFound, text)
                .with_hint("`libernet snapshots --deleted` lists what can be had back"),
            Error::NotOurs { .. } => Self::new(ErrorKind::Usage, text),
            Error::TurnedOut => Self::new(ErrorKind::Failed, text).with_hint(
                "if it should back up again, move its owner.key away and let it in anew: `libernet init --recover`",
            ),
            Error::OldKeys { is_granted } => Self::new(ErrorKind::Failed, text).with_hint(
                match is_granted {
                    true => "run it again: it has the present keys now",
                    false => "`libernet owner machine admit --phrase` gives it the present keys, by the owner's words",
                },
            ),
            Error::OtherWords => Self::new(ErrorKind::Usage, text).with_hint(
                "compare every word with your sheet; the order counts, the case does not",
            ),
            Error::NoSuchSnapshot { .. } | Error::NoSnapshots | Error::NoneChosen(_) => {
                Self::new(ErrorKind::NotFound, text)
                    .with_hint("`libernet snapshots` lists what there is")
            }
            Error::Name(miss) => miss.into(),
            Error::Ambiguous { .. } | Error::Setting(_) => Self::new(ErrorKind::Usage, text),
            Error::NoHead { asked: 0 } => Self::new(ErrorKind::NotFound, text).with_hint(
                "connect to a node that keeps the backups: --bootstrap ADDRESS, or be on its LAN",
            ),
            Error::NoHead { .. } | Error::NoLogs { .. } => Self::new(ErrorKind::NotFound, text)
                .with_hint(
                    "are the words the right ones, and is a node that keeps the backups online?",
                ),
            Error::Stranger => Self::new(ErrorKind::NoOwner, text),
            Error::Stopping => Self::new(ErrorKind::Unavailable, text),
            Error::DamagedFile { .. } => {
                Self::new(ErrorKind::Damaged, text).with_hint(backup::DAMAGED_FILE_HINT)
            }
            Error::File { ref source, .. } => Self::new(io_kind(source), text),
            _ => Self::new(ErrorKind::Failed, text),
        }
    }
}

impl From<Miss> for CallError {
    fn from(miss: Miss) -> Self {
        let kind = match miss.fitting.is_empty() {
            true => ErrorKind::NotFound,
            false => ErrorKind::Usage,
        };
        Self::new(kind, miss.to_string())
    }
}

impl From<crate::upkeep::replicate::Error> for CallError {
    fn from(error: crate::upkeep::replicate::Error) -> Self {
        use crate::upkeep::replicate::Error;
        let text = chain(&error);
        match error {
            Error::Store(error) => error.into(),
            Error::File { ref source, .. } => Self::new(io_kind(source), text),
            Error::Malformed(_) => Self::new(ErrorKind::Damaged, text).with_hint(
                "move the file away: the next backups make their copies anew, old ones end by themselves",
            ),
            Error::TooMany => Self::new(ErrorKind::Usage, text),
            Error::Locked => Self::new(ErrorKind::OwnerLocked, text),
            Error::Stopping => Self::new(ErrorKind::Unavailable, text),
            _ => Self::new(ErrorKind::Failed, text),
        }
    }
}

/// A worker thread panicked or the runtime is going down.
pub(super) fn stopped(_: tokio::task::JoinError) -> CallError {
    CallError::new(ErrorKind::Unavailable, "the node is stopping")
}

impl From<bundle::Error> for CallError {
    fn from(error: bundle::Error) -> Self {
        let text = chain(&error);
        match error {
            bundle::Error::Get(error) => error.into(),
            bundle::Error::Put(error) => error.into(),
            bundle::Error::Open(error) => error.into(),
            bundle::Error::NotABundle { .. } | bundle::Error::Malformed { .. } => {
                Self::new(ErrorKind::Damaged, text)
            }
            bundle::Error::UnknownVersion { .. } => {
                Self::new(ErrorKind::Damaged, text).with_hint("use a newer libernet")
            }
            bundle::Error::Excess(bundle::Excess::NoRoom { .. } | bundle::Excess::NoInodes { .. }) => {
                Self::new(ErrorKind::Full, text).with_hint(
                    "make room, or choose another disk; --yes writes it all the same, as where most of it is holes",
                )
            }
            bundle::Error::Excess(_) => Self::new(ErrorKind::Excess, text).with_hint(
                "--yes writes it however much comes; --max-size and --max-files allow so much and no more; `libernet ls LINK` shows it first",
            ),
            bundle::Error::Own { .. } => Self::new(ErrorKind::Usage, text).with_hint(
                "its blocks are kept by copies on other nodes, its keys come back from the twelve words (`libernet init --recover`)",
            ),
            bundle::Error::NotADirectory
            | bundle::Error::NotAFile
            | bundle::Error::Pattern { .. }
            | bundle::Error::NoSuchPath { .. } => Self::new(ErrorKind::Usage, text),
            bundle::Error::TargetIsOwn { .. } => Self::new(ErrorKind::Usage, text)
                .with_hint("choose another target: what is restored there can be moved by hand"),
            bundle::Error::TargetExists { .. } => Self::new(ErrorKind::Exists, text)
                .with_hint("choose another target, or say --overwrite changed or always"),
            bundle::Error::Io { ref source, .. } => Self::new(io_kind(source), text),
            bundle::Error::DiskFull { .. } => Self::new(ErrorKind::Full, text).with_hint(DISK_FULL),
            bundle::Error::Cancelled => Self::new(ErrorKind::Unavailable, text),
            _ => Self::new(ErrorKind::Failed, text),
        }
    }
}

pub(super) fn io_kind(error: &std::io::Error) -> ErrorKind {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
            ErrorKind::Permission
        }
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::Full,
        _ => ErrorKind::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::BlockId;

    #[test]
    fn a_full_disk_is_told_as_such_wherever_it_was_met() {
        let id = BlockId::from_sha384([7; 48]);
        let kept = GetError::Store {
            id,
            source: Box::new(PutError::DiskFull),
        };
        for error in [
            CallError::from(store::Error::DiskFull),
            PutError::DiskFull.into(),
            kept.into(),
            bundle::Error::DiskFull {
                path: "/there/file".into(),
            }
            .into(),
        ] {
            assert_eq!(error.kind, ErrorKind::Full, "{error:?}");
            assert_eq!(error.hint.as_deref(), Some(DISK_FULL), "{error:?}");
            assert!(error.message.contains("full"), "{error:?}");
            assert_eq!(error.block, None, "no block is missing: {error:?}");
        }
        let error = CallError::from(bundle::Error::DiskFull {
            path: "/there/file".into(),
        });
        assert!(error.message.contains("/there/file"), "{error:?}");
    }
}
