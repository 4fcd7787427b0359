//! Calls about forgotten snapshots: forgetting, taking it back, decisions by the owner's words, and
//! requests.

use std::time::Duration;

use data_encoding::HEXLOWER;

use super::super::Node;
use super::super::api::*;
use super::care::JOURNAL_DIR;
use super::describe;
use crate::backup::fate::{Asked, Hold};
use crate::backup::forget::ForgetOptions;
use crate::backup::owner::MachineId;
use crate::backup::unforget::{Deleted, ForgottenBy};
use crate::backup::{self, Found, Order};
use crate::time;

const DAY: Duration = Duration::from_secs(24 * 3600);

impl Node {
    /// Forgets snapshots.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when no snapshot is called so, or none has the set or the tag:
    /// nothing is forgotten then.
    pub async fn forget(&self, request: Forget) -> Result<ForgetReply, CallError> {
        let member = self.member(&request.speaker).await?;
        let archive = self.own_archive(&member);
        let options = ForgetOptions {
            policy: request.policy,
            group_by: request.group_by,
            names: request.snapshots,
            choice: backup::Choice {
                set: request.set,
                tags: request.tag.into_iter().collect(),
                ..backup::Choice::default()
            },
            all_machines: request.all_machines,
            dry_run: request.dry_run,
        };
        let zone = time::zone();
        let forgot = backup::forget::forget(&archive, &member, &options, &zone).await?;
        if !request.dry_run {
            self.let_go(&archive, &member).await?;
        }
        let now = self.now();
        Ok(ForgetReply {
            kept: forgot
                .kept
                .iter()
                .map(|(listed, reasons)| KeptSnapshot {
                    snapshot: describe(listed, now),
                    reasons: reasons.iter().map(ToString::to_string).collect(),
                })
                .collect(),
            forgotten: self.describe_all(forgot.forgotten.iter().collect()),
            asked: self.describe_all(forgot.asked.iter().collect()),
            others: forgot.others,
            unknown_tags: forgot.unknown_tags,
            bare_paths: forgot
                .bare_paths
                .iter()
                .map(|path| String::from_utf8_lossy(path).into_owned())
                .collect(),
        })
    }

    /// Takes back that snapshots are forgotten, or keeps them against the requests of other
    /// machines.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a snapshot that is not forgotten or can't be had back,
    /// [`ErrorKind::Usage`] for one that another machine or the owner's words decided on: nothing
    /// has changed then.
    pub async fn unforget(&self, request: Unforget) -> Result<UnforgetReply, CallError> {
        let member = self.member(&request.speaker).await?;
        let archive = self.own_archive(&member);
        let journal_dir = self.inner.options.data_dir.join(JOURNAL_DIR);
        let names = &request.snapshots;
        let back = backup::unforget::unforget(&archive, &member, names, &journal_dir).await?;
        Ok(UnforgetReply {
            snapshots: self.describe_all(back.iter().collect()),
        })
    }

    /// Has this machine pass on what the owner's words decided of some snapshots.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for what is no order, or another owner's.
    pub async fn order(&self, request: DecideSnapshots) -> Result<DecideSnapshotsReply, CallError> {
        let member = self.member(&request.speaker).await?;
        let archive = self.own_archive(&member);
        let bytes = HEXLOWER.decode(request.order.as_bytes());
        let bytes = bytes.map_err(|_| CallError::new(ErrorKind::Usage, "this is no order"))?;
        let order = Order::decode(&bytes)?;
        let forgets = order.forgets();
        let concerned = backup::forget::obey(&archive, &member, order).await?;
        if forgets {
            self.let_go(&archive, &member).await?;
        }
        Ok(DecideSnapshotsReply {
            snapshots: self.describe_all(concerned.iter().collect()),
        })
    }

    /// Requests of machines that other machines' snapshots be forgotten.
    pub(in crate::node) fn requests(&self, found: &Found) -> Vec<ForgetRequest> {
        let asked = found.fates.asked().iter();
        asked.map(|asked| self.request(found, asked)).collect()
    }

    fn request(&self, found: &Found, asked: &Asked) -> ForgetRequest {
        let names = found.machine_names();
        let name = names.get(&asked.by).cloned().unwrap_or_default();
        let machine_name = names.get(&asked.machine).cloned().unwrap_or_default();
        let due = match asked.hold {
            Some(Hold::Notice(days)) => Some(self.now().after(DAY * days)),
            _ => None,
        };
        let machine = MachineId::new(asked.machine);
        ForgetRequest {
            by: MachineId::new(asked.by).to_string(),
            by_name: name,
            machine: machine.to_string(),
            machine_name,
            snapshot: asked.logged.snapshot.id.to_hex(),
            set: asked.logged.summary.set.clone(),
            time: asked.logged.summary.started,
            since: asked.since,
            due,
            state: match asked.hold {
                Some(Hold::Notice(_)) => RequestState::Notice,
                Some(Hold::Newest) => RequestState::Newest,
                Some(Hold::Kept | Hold::Ordered) => RequestState::Kept,
                Some(Hold::Unread) => RequestState::Unread,
                None => RequestState::Due,
            },
        }
    }

    /// Snapshots that are forgotten and can still be had back, and those that are asked for.
    pub(super) fn deleted(&self, deleted: Vec<Deleted>) -> Vec<DeletedSnapshot> {
        let now = self.now();
        let describe = |one: Deleted| DeletedSnapshot {
            info: describe(&one.listed, now),
            forgotten_by: one.by.map(|by| match by {
                ForgottenBy::Machine => Decider::Machine,
                ForgottenBy::Words => Decider::Words,
                ForgottenBy::Request => Decider::Request,
            }),
        };
        deleted.into_iter().map(describe).collect()
    }
}
