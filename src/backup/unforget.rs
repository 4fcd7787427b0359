//! Taking back that a snapshot is forgotten: before it is pruned, or before a request is carried
//! out.

use std::path::Path;
use std::time::Duration;

use super::archive::{Archive, Found, Search};
use super::catalog::{Listed, find_among};
use super::error::Error;
use super::fate::Asked;
use super::log::Log;
use super::owner::Membership;
use super::prune;
use crate::id::BlockId;
use crate::store::Store;

/// Time for which each log is looked for.
const PATIENCE: Duration = Duration::from_secs(10);

/// A snapshot that is forgotten, or asked to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// The snapshot, and the machine that made it.
    pub listed: Listed,
    /// Word by which the snapshot is forgotten; none while it is only asked for.
    pub by: Option<ForgottenBy>,
    /// Requests of other machines.
    pub asked: Vec<Asked>,
}

/// Word by which a snapshot is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForgottenBy {
    /// The machine that made it.
    Machine,
    /// The owner's words.
    Words,
    /// A request whose notice is over.
    Request,
}

impl Found {
    /// Snapshots that are forgotten and still in some log, and those that are asked for.
    pub fn deleted(&self) -> Vec<Deleted> {
        let listed = |log: &Log, logged: &super::Logged| Listed {
            machine: log.machine,
            machine_name: log.machine_name.clone(),
            made: logged.summary.started,
            logged: logged.clone(),
        };
        let mut deleted: Vec<Deleted> = Vec::new();
        for log in &self.logs {
            let forgotten = log.forgotten_snapshots();
            let is_gone =
                |logged: &&super::Logged| self.fates.is_gone(&log.machine, &logged.snapshot.id);
            for logged in forgotten.filter(is_gone) {
                deleted.push(Deleted {
                    listed: listed(log, logged),
                    by: Some(ForgottenBy::Machine),
                    asked: Vec::new(),
                });
            }
            for logged in log.snapshots() {
                let id = &logged.snapshot.id;
                let asked = self.fates.asked().iter();
                let asked =
                    asked.filter(|a| a.logged.snapshot.id == *id && a.machine == log.machine);
                let asked: Vec<Asked> = asked.cloned().collect();
                let is_gone = self.fates.is_gone(&log.machine, id);
                if asked.is_empty() && !is_gone {
                    continue;
                }
                let is_due = asked.iter().any(|asked| asked.hold.is_none());
                let by = match (is_gone, is_due) {
                    (false, _) => None,
                    (true, true) => Some(ForgottenBy::Request),
                    (true, false) => Some(ForgottenBy::Words),
                };
                deleted.push(Deleted {
                    listed: listed(log, logged),
                    by,
                    asked,
                });
            }
        }
        deleted.sort_by_key(|one| (one.listed.made, one.listed.logged.snapshot.id));
        deleted
    }
}

/// Takes back that these snapshots are forgotten: an own one is named again, a request of this
/// machine is withdrawn, and what another machine asks for is kept. `journal_dir` is that of
/// [`prune`](super::prune::PruneOptions): a prune that is under way ends first.
///
/// # Errors
/// [`Error::NotForgotten`] and [`Error::Ambiguous`] for a wrong name, [`Error::NotOurs`] for what
/// another machine or the words decided: nothing has changed then. [`Error::LogFull`].
pub async fn unforget(
    archive: &Archive,
    member: &Membership,
    names: &[String],
    journal_dir: &Path,
) -> Result<Vec<Listed>, Error> {
    let _turn = prune::turn(journal_dir).await?;
    let found = archive.find(Search::Glance, PATIENCE).await?;
    let deleted = found.deleted();
    let this = *member.machine().id().as_bytes();
    let mut chosen: Vec<&Deleted> = Vec::new();
    for name in names {
        let one = choose(&deleted, name)?;
        if !chosen.contains(&one) {
            chosen.push(one);
        }
    }
    for one in &chosen {
        check_power(one, &this)?;
    }
    let store = archive.depot().store().clone();
    archive
        .change_log(member, |log| {
            for one in &chosen {
                let id = one.listed.logged.snapshot.id;
                bring_back(log, &id, &*store)?;
                if one.asked.iter().any(|asked| asked.by != this) {
                    log.keep(id)?;
                }
            }
            Ok(())
        })
        .await?;
    Ok(chosen.iter().map(|one| one.listed.clone()).collect())
}

/// The one that goes by a name: the first digits of its id.
fn choose<'a>(deleted: &'a [Deleted], name: &str) -> Result<&'a Deleted, Error> {
    let listed = deleted.iter().map(|one| &one.listed);
    let wanted = match find_among(name, listed) {
        Ok(listed) if name != "latest" => listed,
        Err(error @ Error::Ambiguous { .. }) => return Err(error),
        _ => {
            return Err(Error::NotForgotten {
                text: name.to_owned(),
            });
        }
    };
    let mut deleted = deleted.iter();
    let one = deleted.find(|one| one.listed == *wanted);
    one.ok_or_else(|| Error::NotForgotten {
        text: name.to_owned(),
    })
}

/// Whether this machine's word brings it back.
fn check_power(one: &Deleted, this: &[u8; 32]) -> Result<(), Error> {
    let id = one.listed.logged.snapshot.id;
    let why = match one.by {
        Some(ForgottenBy::Machine) if one.listed.machine != *this => format!(
            "was forgotten by the machine {}: take it back there, before it prunes, or with --phrase",
            one.listed.machine_name
        ),
        Some(ForgottenBy::Words) => {
            "was forgotten by the owner's words: take it back with --phrase".to_owned()
        }
        _ => return Ok(()),
    };
    Err(Error::NotOurs { id, why })
}

/// Names an own snapshot again whose blocks are here, or withdraws a request.
pub(super) fn bring_back(log: &mut Log, id: &BlockId, store: &dyn Store) -> Result<(), Error> {
    let is_own = log
        .forgotten_snapshots()
        .any(|logged| logged.snapshot.id == *id);
    // Once its pin is gone, so may its blocks be.
    if is_own && store.stat(*id)?.is_none_or(|stat| stat.pins == 0) {
        return Err(Error::NotForgotten { text: id.to_hex() });
    }
    log.unforget(id).map(drop)
}
