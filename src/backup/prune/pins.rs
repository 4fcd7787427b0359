//! Pins of snapshots, held against what the logs say of them: forgotten, named, or neither. What is neither is a snapshot of a run that was
//! cut off at the last moment, and is taken into the log.

use std::collections::HashSet;

use super::PATIENCE;
use super::repack::take_twins;
use crate::backup::SNAPSHOT_PIN;
use crate::backup::archive::{Archive, Found, Search, blocking};
use crate::backup::error::Error;
use crate::backup::log::Logged;
use crate::backup::owner::Membership;
use crate::backup::snapshot::Snapshot;
use crate::block::{self, Link};
use crate::id::BlockId;
use crate::store::{self, PinId, Store};

/// Takes snapshots of this machine that are pinned, and that no log names or forgets, into its log: their runs were cut off just before
/// they wrote it. Returns how many. What a repacking that was cut off left is no such snapshot; the next prune removes it.
///
/// # Errors
/// [`Error::Store`], and what [`Archive::change_log`] says.
pub async fn adopt_orphans(archive: &Archive, member: &Membership) -> Result<u64, Error> {
    let pins = snapshot_pins(archive).await?;
    let found = archive
        .find(Search::Here, archive.patience(PATIENCE))
        .await?;
    let mut sorted = Sorted::new(archive, member, pins, &found).await?;
    take_twins(archive, member, &found, &mut sorted).await?;
    Ok(adopt(archive, member, &found, sorted.orphans)
        .await?
        .adopted)
}

/// A pin of a snapshot, of any owner.
pub(super) struct SnapshotPin {
    pub(super) pin: PinId,
    pub(super) link: Link,
}

/// All of them.
pub(super) async fn snapshot_pins(archive: &Archive) -> Result<Vec<SnapshotPin>, Error> {
    let store = archive.depot().store().clone();
    blocking(move || {
        let pins = store.pins()?.into_iter();
        Ok(pins
            .filter(|(_, info)| info.name == SNAPSHOT_PIN)
            .filter_map(|(pin, info)| Some((pin, info.link?)))
            .map(|(pin, link)| SnapshotPin { pin, link })
            .collect())
    })
    .await
}

/// Pins by what becomes of their snapshots. A pin is in neither list when a log names its snapshot
/// and that snapshot is not gone, nor when its snapshot is forgotten and another owner's.
pub(super) struct Sorted {
    pub(super) forgotten: Vec<SnapshotPin>,
    pub(super) orphans: Vec<SnapshotPin>,
}

impl Sorted {
    /// Reads in each snapshot itself which machine made it: what a log says of that, another
    /// machine may have written. A snapshot that can't be read counts as this machine's.
    pub(super) async fn new(
        archive: &Archive,
        member: &Membership,
        pins: Vec<SnapshotPin>,
        found: &Found,
    ) -> Result<Self, Error> {
        let logs = found.logs.iter();
        let named = logs.flat_map(|log| log.snapshots().iter().chain(log.forgotten_snapshots()));
        let named: HashSet<BlockId> = named.map(|logged| logged.snapshot.id).collect();
        let fates = found.fates.clone();
        let (owner, this) = (
            *member.owner().as_bytes(),
            *member.machine().id().as_bytes(),
        );
        let store = archive.depot().store().clone();
        blocking(move || {
            let (mut forgotten, mut orphans) = (Vec::new(), Vec::new());
            for pin in pins {
                let id = pin.link.id;
                if fates.is_mentioned(&id) {
                    let machine = match local_snapshot(store.as_ref(), &pin.link)? {
                        Some(snapshot) if snapshot.owner != owner => continue,
                        Some(snapshot) => snapshot.machine,
                        None => this,
                    };
                    if fates.is_gone(&machine, &id) {
                        forgotten.push(pin);
                        continue;
                    }
                }
                if !named.contains(&id) {
                    orphans.push(pin);
                }
            }
            Ok(Self { forgotten, orphans })
        })
        .await
    }
}

/// The snapshot in a block that is here. `None`: it is not here, damaged, or no snapshot.
pub(super) fn local_snapshot(store: &dyn Store, link: &Link) -> Result<Option<Snapshot>, Error> {
    let block = match store.get(link.id) {
        Ok(Some(block)) => block,
        Ok(None) | Err(store::Error::Corrupt { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let plaintext = block::open(&block, &link.key).ok();
    Ok(plaintext.and_then(|plaintext| Snapshot::decode(link.id, &plaintext).ok()))
}

/// What became of orphans.
#[derive(Default)]
pub(super) struct Adopted {
    pub(super) adopted: u64,
    /// Of this owner, or unreadable, and not of this machine.
    pub(super) left_alone: u64,
}

/// Takes those that are this machine's into its log.
pub(super) async fn adopt(
    archive: &Archive,
    member: &Membership,
    found: &Found,
    orphans: Vec<SnapshotPin>,
) -> Result<Adopted, Error> {
    let machine = *member.machine().id().as_bytes();
    if orphans.is_empty() || found.unread.iter().any(|(unread, _)| *unread == machine) {
        // Without the own log nothing is known, and nothing can be written.
        return Ok(Adopted {
            adopted: 0,
            left_alone: orphans.len() as u64,
        });
    }
    let store = archive.depot().store().clone();
    let owner = *member.owner().as_bytes();
    let (ours, left_alone) = blocking(move || {
        let (mut ours, mut left_alone) = (Vec::new(), 0);
        for orphan in orphans {
            match local_snapshot(store.as_ref(), &orphan.link)? {
                Some(snapshot) if snapshot.owner != owner => {}
                Some(snapshot) if snapshot.machine == machine => ours.push(Logged {
                    snapshot: orphan.link,
                    summary: snapshot.summary,
                    sequence: 0,
                }),
                _ => left_alone += 1,
            }
        }
        Ok((ours, left_alone))
    })
    .await?;
    if ours.is_empty() {
        return Ok(Adopted {
            adopted: 0,
            left_alone,
        });
    }
    let store = archive.depot().store().clone();
    let adopted = archive
        .change_log(member, |log| {
            let mut adopted = 0;
            for logged in ours {
                let id = logged.snapshot.id;
                // Forgotten, pruned or added by its own run since we looked.
                let is_pinned = store.stat(id)?.is_some_and(|stat| stat.pins > 0);
                if is_pinned && !log.has(&id) && !log.forgets(&id) {
                    log.add(logged)?;
                    adopted += 1;
                }
            }
            Ok(adopted)
        })
        .await?;
    Ok(Adopted {
        adopted,
        left_alone,
    })
}
