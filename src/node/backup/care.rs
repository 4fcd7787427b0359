//! Calls that look after backups that are there: pruning and checking.

use std::sync::Arc;
use std::time::Duration;

use super::super::api::*;
use super::super::failure::chain;
use super::super::{Node, blocking};
use super::{LOG_PATIENCE, choice};
use crate::backup::owner::Membership;
use crate::backup::prune::Replacing;
use crate::backup::{self, Archive, Search};
use crate::monitor::Monitor;

/// Where a prune that was cut off left its journal, below the data directory.
pub(super) const JOURNAL_DIR: &str = "prune";
/// Time for which a prune that nobody asked for leaves what interrupted runs stored.
const SPARE_INTERRUPTED_FOR: Duration = Duration::from_secs(7 * 24 * 3600);
/// Whole shares of a hundredth of a percent.
const FULL_PERCENT: f64 = 100.0;
/// Whole shares of a percent.
const MAX_PERCENT: u8 = 100;

impl Node {
    /// Gives back the space of what was forgotten.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a share that is none, [`ErrorKind::NoOwner`], [`ErrorKind::OwnerLocked`], and what the store says. What was done until then stays done.
    pub async fn prune(
        &self,
        request: Prune,
        monitor: Arc<dyn Monitor>,
    ) -> Result<PruneReply, CallError> {
        let percent = request.repack_below_percent;
        if percent > MAX_PERCENT {
            let message = format!("{percent} is not a share in percent: it is between 0 and 100");
            return Err(CallError::new(ErrorKind::Usage, message));
        }
        let member = self.member(&request.speaker).await?;
        let archive = self.own_archive(&member);
        let options = backup::prune::PruneOptions {
            dry_run: request.dry_run,
            journal_dir: self.inner.options.data_dir.join(JOURNAL_DIR),
            repack_below_percent: request.repack_below_percent,
            spare_interrupted_for: request.spare_interrupted.then_some(SPARE_INTERRUPTED_FOR),
            replacing: Some(self.replacing()),
        };
        if !request.dry_run {
            // The logs may drop what is gone everywhere, and then nobody knows that it was forgotten.
            self.let_go(&archive, &member).await?;
        }
        let (cancel, _cancel_on_drop) = self.cancel_on_drop();
        let report = backup::prune::prune(&archive, &member, &options, &*monitor, &cancel).await?;
        if !request.dry_run {
            self.let_go(&archive, &member).await?;
        }
        Ok(PruneReply {
            snapshots: report.snapshots,
            adopted: report.adopted,
            left_alone: report.left_alone,
            freed_blocks: report.freed_blocks,
            freed_bytes: report.freed_bytes,
            interrupted_blocks: report.interrupted_blocks,
            repacked_blocks: report.repacked_blocks,
            disk_bytes_before: report.disk_bytes_before,
            disk_bytes: report.disk_bytes,
        })
    }

    /// What is written anew gets as many copies as what it replaces, which keeps its own until then.
    fn replacing(&self) -> Replacing {
        let copies = self.inner.copies.clone();
        Replacing::new(move |old, new| copies.supersede(old, new).map_err(|error| chain(&error)))
    }

    /// Lets go of copies of snapshots that the logs here forget. No other reason counts: a backup
    /// that is not here any more is a loss, and another machine's request is not carried out before
    /// its notice is over.
    pub(super) async fn let_go(
        &self,
        archive: &Archive,
        member: &Membership,
    ) -> Result<(), CallError> {
        let found = archive.find(Search::Here, LOG_PATIENCE).await?;
        let machine = *member.machine().id().as_bytes();
        let copies = self.inner.copies.clone();
        let fates = found.fates;
        blocking(move || Ok(copies.forgotten(|root| fates.is_gone(&machine, root))?)).await
    }

    /// Checks the snapshots that are kept here, and mends what peers have.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a share that is none. Damage is reported, not an error.
    pub async fn check(
        &self,
        request: Check,
        monitor: Arc<dyn Monitor>,
    ) -> Result<CheckReply, CallError> {
        let percent = request.read_data_percent;
        if !(0.0..=FULL_PERCENT).contains(&percent) {
            let message = format!("{percent} is not a share in percent: it is between 0 and 100");
            return Err(CallError::new(ErrorKind::Usage, message));
        }
        let member = self.member(&request.speaker).await?;
        let archive = self.own_archive(&member);
        // Another share each day: after so many days everything was read.
        let day = self.now().0 / (24 * 3600 * 1000);
        let options = backup::check::CheckOptions {
            read_percent: percent,
            seed: day,
            remote: request.remote,
            snapshot: request.snapshot,
            choice: choice(&request.choice),
            machine: Some(*member.machine().id().as_bytes()),
            patience: Duration::from_secs(request.timeout_s),
        };
        let (cancel, _cancel_on_drop) = self.cancel_on_drop();
        let report = backup::check::check(&archive, &options, &*monitor, &cancel).await?;
        Ok(CheckReply {
            snapshots: report.snapshots,
            elsewhere: report.elsewhere,
            blocks: report.blocks,
            read_blocks: report.read_blocks,
            read_bytes: report.read_bytes,
            errors: report.errors.iter().map(damage).collect(),
            errors_total: report.errors_total,
            mended: report.mended.iter().map(damage).collect(),
            mended_total: report.mended_total,
            unreadable: report.unreadable.iter().map(damage).collect(),
            unreadable_total: report.unreadable_total,
            holders: report
                .holders
                .iter()
                .map(|holder| Holder {
                    peer: holder.peer.to_string(),
                    blocks: holder.blocks,
                    asked: holder.asked,
                })
                .collect(),
            rebuilt: None,
        })
    }
}

fn damage(damage: &backup::check::Damage) -> Damage {
    Damage {
        snapshot: damage.snapshot.map(|id| id.to_hex()).unwrap_or_default(),
        path: shown(&damage.path),
        block: damage.block,
        reason: damage.reason(),
    }
}
