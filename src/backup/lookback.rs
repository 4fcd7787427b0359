//! Looks further back than the newest logs: at earlier entries of the head, and at what is leased.
//!
//! A thief who has copied a machine's key signs newer entries in its name, which may lead nowhere
//! or leave out anything. Earlier entries stay in the head's history, and every lease of a backup
//! holds what the owner's words need to open it: so a backup that is whole at one holder is found
//! without head and log.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt;
use libp2p::PeerId;
use tokio::time::{Instant, sleep_until, timeout};

use super::archive::{Access, Archive, Found, LOGS_AT_ONCE, read_log, read_snapshot};
use super::catalog::Catalog;
use super::error::Error;
use super::fate::Fates;
use super::log::{Log, Logged};
use crate::block::Link;
use crate::head::{HeadEntry, HeadRecord};
use crate::id::BlockId;
use crate::lease::Lease;
use crate::net::replica::{Answer, Recovered, Request, recovery_proof};
use crate::store::Keep;
use crate::time::Timestamp;

/// Time for which one earlier log, or one snapshot of a lease, is looked for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time for which earlier logs are looked for where the newest ones could be read.
const EXTRA: Duration = Duration::from_secs(10);
/// Time that one peer has to answer.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// Peers that are asked, and that are asked at the same time.
const MAX_ASKED: usize = 64;
const ASKED_AT_ONCE: usize = 8;
/// Pages of leases that are taken of one peer, and snapshots that are opened by their leases.
const MAX_PAGES: usize = 64;
const MAX_OPENED: usize = 4096;

/// Heads and leases that the connected peers have of an owner.
#[derive(Debug, Default)]
pub(super) struct Holders {
    /// The owner's head as each peer told it that keeps one.
    pub(super) heads: Vec<(PeerId, HeadRecord)>,
    /// Snapshots of valid leases, with the machine that leased each.
    pub(super) leased: BTreeMap<BlockId, (Link, [u8; 32])>,
}

impl Archive {
    /// Adds to what was found whatever earlier entries and leases lead to: snapshots of machines
    /// whose newest log could not be read count as found, all others as older ones. The reader is
    /// told by [`Found::notes`].
    ///
    /// # Errors
    /// [`Error::Stopping`]. Finding nothing more is no error.
    pub async fn look_back(&self, found: &mut Found, patience: Duration) -> Result<(), Error> {
        let holders = self.ask_holders().await?;
        let now = self.clock().now();
        for (_, told) in &holders.heads {
            found.head = match found.head.take() {
                Some(head) => Some(head.merge(told, now)?),
                None => Some(told.clone()),
            };
        }
        // Many of the earlier ones may be gone everywhere.
        let is_lacking = found.head.is_none() || !found.unread.is_empty();
        let time = if is_lacking { patience } else { EXTRA };
        let earlier = self.earlier_logs(found, Instant::now() + time).await?;
        let logged: BTreeSet<BlockId> = found
            .logs
            .iter()
            .chain(&earlier.newest)
            .chain(&earlier.all)
            .flat_map(|log| log.snapshots())
            .map(|logged| logged.snapshot.id)
            .collect();
        let mut leased = holders.leased;
        leased.retain(|id, _| !logged.contains(id));
        let logs = found.logs.iter().chain(&earlier.newest);
        let numbered: Vec<([u8; 32], Timestamp, u64)> = logs
            .flat_map(|log| log.snapshots().iter().map(|one| (log.machine, one)))
            .map(|(machine, one)| (machine, one.summary.started, one.sequence))
            .collect();
        // A lease has no number: it stands behind what its machine made before by its clock.
        let number = |machine: &[u8; 32], started: Timestamp| {
            let before = numbered
                .iter()
                .filter(|(of, at, _)| of == machine && *at <= started);
            before.map(|(_, _, number)| *number).max().unwrap_or(0)
        };
        let leased = self
            .leased_logs(leased, number, patience, &mut found.notes)
            .await?;
        // Of a machine whose newest log can't be read, what is leased may be newer than all logs.
        let mut read: BTreeSet<[u8; 32]> = found.logs.iter().map(|log| log.machine).collect();
        // A snapshot leased by a machine that was turned out may be a thief's: it is nobody's
        // newest.
        read.extend(
            found
                .head
                .iter()
                .flat_map(|head| head.decisions().revoked()),
        );
        let (kept, newer): (Vec<Log>, Vec<Log>) = leased
            .into_iter()
            .partition(|log| read.contains(&log.machine));
        let current = found.logs.iter().chain(&earlier.newest).chain(&newer);
        let current: Vec<&Log> = current.collect();
        let catalog = Catalog::of(current.iter().copied(), &found.fates, now);
        let all = current.into_iter().chain(&earlier.all).chain(&kept);
        // Snapshots that a newer log forgets are among them: a thief with the machine's key can
        // forget.
        let whole = Catalog::of(all, &Fates::default(), now);
        let is_current: BTreeSet<BlockId> = catalog
            .snapshots()
            .iter()
            .map(|listed| listed.logged.snapshot.id)
            .collect();
        let older = whole.without(&is_current);
        (found.catalog, found.older) = match catalog.snapshots().is_empty() {
            true => (older, Catalog::default()),
            false => (catalog, older),
        };
        found.logs.extend(earlier.newest);
        found.logs.extend(newer);
        found.notes.extend(earlier.notes);
        Ok(())
    }

    /// Reads the logs of all entries, as far as they come in time.
    async fn earlier_logs(&self, found: &Found, until: Instant) -> Result<Earlier, Error> {
        let session = self.depot().session(self.patience(PATIENCE), Keep::Cached);
        let access = self.access();
        let newest: Vec<HeadEntry> = found
            .head
            .iter()
            .flat_map(HeadRecord::newest)
            .cloned()
            .collect();
        let entries = newest.iter().flat_map(|entry| {
            let head = found.head.iter();
            head.flat_map(|head| head.history(entry.machine()))
        });
        let entries: Vec<(usize, HeadEntry)> = entries.cloned().enumerate().collect();
        let read = futures::stream::iter(entries).map(|(place, entry)| {
            let session = session.clone();
            async move {
                let log = read_log(&*session, &entry, access).await;
                (place, entry, log)
            }
        });
        let read = read.buffer_unordered(LOGS_AT_ONCE);
        let mut read: Vec<(usize, HeadEntry, Result<Log, Error>)> =
            read.take_until(sleep_until(until)).collect().await;
        // Of each machine the newest first.
        read.sort_by_key(|(place, ..)| *place);
        let mut earlier = Earlier::default();
        let mut done: BTreeSet<[u8; 32]> = found.logs.iter().map(|log| log.machine).collect();
        for (_, entry, log) in read {
            let machine = *entry.machine();
            match log {
                Err(Error::Stopping) => return Err(Error::Stopping),
                Err(_) => {}
                Ok(log) if done.insert(machine) => {
                    let newer = newest.iter().find(|one| *one.machine() == machine);
                    if let Some(newer) = newer.filter(|newer| **newer != entry) {
                        let unread = found.unread.iter().find(|(of, _)| *of == machine);
                        let why = unread.map(|(_, error)| error.to_string());
                        let note = passed_over(&log, newer, &entry, why.as_deref());
                        earlier.notes.push(note);
                    }
                    earlier.newest.push(log);
                }
                Ok(log) => earlier.all.push(log),
            }
        }
        Ok(earlier)
    }

    /// Logs, one a machine, of what is leased and no log names.
    async fn leased_logs(
        &self,
        leased: BTreeMap<BlockId, (Link, [u8; 32])>,
        number: impl Fn(&[u8; 32], Timestamp) -> u64,
        patience: Duration,
        notes: &mut Vec<String>,
    ) -> Result<Vec<Log>, Error> {
        let session = self.depot().session(patience.min(PATIENCE), Keep::Cached);
        let opened = leased.into_values().take(MAX_OPENED);
        let opened = opened.map(|(link, machine)| {
            let session = session.clone();
            async move {
                let snapshot = read_snapshot(&*session, &link).await;
                (link, machine, snapshot)
            }
        });
        let opened: Vec<_> = futures::stream::iter(opened)
            .buffered(LOGS_AT_ONCE)
            .collect()
            .await;
        let (mut logs, mut count): (BTreeMap<[u8; 32], Log>, u64) = (BTreeMap::new(), 0);
        for (link, machine, snapshot) in opened {
            let snapshot = match snapshot {
                Err(Error::Stopping) => return Err(Error::Stopping),
                Err(error) => {
                    tracing::debug!(block = %link.id, %error, "the snapshot of a lease can't be read");
                    continue;
                }
                Ok(snapshot) => snapshot,
            };
            // A machine leases for itself: what another one's lease says of it is no word of its.
            let is_of_both =
                snapshot.owner == *self.access().owner().as_bytes() && snapshot.machine == machine;
            if !is_of_both {
                continue;
            }
            let log = logs
                .entry(machine)
                .or_insert_with(|| Log::new(machine, snapshot.machine_name.clone()));
            let logged = Logged {
                snapshot: link,
                sequence: number(&machine, snapshot.summary.started),
                summary: snapshot.summary,
            };
            // A log that is full has enough.
            count += u64::from(log.add(logged).is_ok());
        }
        if count > 0 {
            notes.push(format!(
                "{} found by the leases of those who keep them, not by a log",
                crate::text::count(count, "snapshot")
            ));
        }
        Ok(logs.into_values().collect())
    }

    /// Asks the connected peers what they have of this owner.
    pub(super) async fn ask_holders(&self) -> Result<Holders, Error> {
        let peers = self.depot().net().peers().connected().to_vec();
        let asked = peers.into_iter().take(MAX_ASKED).map(|peer| async move {
            let pages = timeout(ANSWER_TIME, self.ask_holder(peer)).await;
            (peer, pages.unwrap_or_default())
        });
        let asked = futures::stream::iter(asked).buffer_unordered(ASKED_AT_ONCE);
        let asked: Vec<(PeerId, Vec<Recovered>)> = asked.collect().await;
        let (access, now) = (self.access().clone(), self.clock().now());
        let checked = tokio::task::spawn_blocking(move || {
            let mut holders = Holders::default();
            let head = access.head();
            let mut known: Option<HeadRecord> = None;
            for (peer, pages) in asked {
                for page in pages {
                    if let Some(told) = page.head.and_then(|bytes| {
                        let told = HeadRecord::decode(&bytes).ok()?;
                        told.validate_beyond(&head, known.as_ref()).ok()?;
                        Some(told)
                    }) {
                        let merged = known
                            .take()
                            .map_or_else(|| Ok(told.clone()), |known| known.merge(&told, now));
                        known = merged.ok();
                        holders.heads.push((peer, told));
                    }
                    for lease in page.leases {
                        add(&mut holders, &lease, &access);
                    }
                }
            }
            holders
        });
        checked.await.map_err(|_| Error::Stopping)
    }

    /// All pages that a peer tells.
    async fn ask_holder(&self, peer: PeerId) -> Vec<Recovered> {
        let net = self.depot().net();
        let (local, owner) = (net.peer_id(), *self.access().owner().as_bytes());
        let mut pages: Vec<Recovered> = Vec::new();
        while pages.len() < MAX_PAGES {
            let nonce: [u8; 32] = rand::random();
            let last = pages.last().and_then(|page| page.leases.last());
            let request = Request::Recover {
                nonce,
                proof: recovery_proof(&owner, &nonce, &local, &peer),
                after: last.map(|lease| lease.terms().name),
            };
            let Ok(Answer::Recovered(page)) = net.replica().ask(peer, request).await else {
                break;
            };
            let has_more = page.more && !page.leases.is_empty();
            pages.push(page);
            if !has_more {
                break;
            }
        }
        pages
    }
}

/// Takes in a lease that a peer told, if it is one of the owner's and opens.
fn add(holders: &mut Holders, lease: &Lease, access: &Access) {
    if lease.owner() != access.owner().as_bytes()
        || holders.leased.contains_key(&lease.terms().root)
    {
        return;
    }
    let Some(link) = access.snapshot_of(lease) else {
        return;
    };
    if lease.validate_found().is_ok() {
        holders.leased.insert(link.id, (link, *lease.machine()));
    }
}

/// Logs that earlier entries name.
#[derive(Debug, Default)]
struct Earlier {
    /// Of each machine whose newest log could not be read, the newest that could.
    newest: Vec<Log>,
    /// All others.
    all: Vec<Log>,
    notes: Vec<String>,
}

fn passed_over(log: &Log, newer: &HeadEntry, used: &HeadEntry, why: Option<&str>) -> String {
    let zone = crate::time::zone();
    let of = |entry: &HeadEntry| {
        let at = Timestamp(entry.time_ms()).in_zone(&zone);
        at.strftime("%Y-%m-%d %H:%M").to_string()
    };
    format!(
        "the newest log of the machine {}, of {}, can't be read ({}): this goes by its log of {}",
        log.machine_name,
        of(newer),
        why.unwrap_or("it did not come in time"),
        of(used),
    )
}
