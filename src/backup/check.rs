//! Checking: whether everything that an owner's snapshots need is here, whole, and what it should be.
//!
//! A snapshot that this machine's log names and that nothing keeps here is pinned again. Logs,
//! snapshots and trees are always read to the last byte and hashed; of the data blocks all must be
//! here, and a share of them is read. What is missing or damaged is fetched from whoever has it,
//! and named with the first snapshot and path that need it, made good or not.
//!
//! Invariants: each block is looked at once, however many snapshots share it, as long as there are no more than
//! [`MAX_REMEMBERED`] (beyond that some are looked at several times). Memory is bounded. Nothing that is well is changed.
//!
//! Deliberately absent: copies that other machines hold for themselves, beyond asking which blocks they have.

mod blocks;
mod pinned;
mod remote;
mod trees;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use self::blocks::Blocks;
use self::remote::Sample;
use self::trees::Trees;
use super::archive::{Archive, Found, Search, blocking};
use super::catalog::Listed;
use super::choice::Choice;
use super::error::Error;
use super::snapshot::Snapshot;
use super::stopped;
use crate::block::GetError;
use crate::id::BlockId;
use crate::monitor::Monitor;

pub use self::blocks::MAX_REMEMBERED;
pub use self::remote::{Holder, MAX_PEERS, MAX_SAMPLE};

/// Damage that a report names one by one.
pub const MAX_REPORTED: usize = 10_000;

/// How to check.
#[derive(Clone, Debug)]
pub struct CheckOptions {
    /// Share of the data blocks to read, in percent: 0 only looks whether they are here, 100 reads every byte.
    pub read_percent: f64,
    /// Which share: with a percentage of `100 / n` any `n` successive numbers cover everything.
    pub seed: u64,
    /// Ask connected peers which blocks they have.
    pub remote: bool,
    /// Only this snapshot, as [`Catalog::find_chosen`](super::Catalog::find_chosen) takes it. It is
    /// checked also when it is not kept here.
    pub snapshot: Option<String>,
    /// Only these snapshots; one that is named must be one of them.
    pub choice: Choice,
    /// The machine whose snapshots must be kept here: one that is not is damage. Those of others are checked when they are kept here.
    pub machine: Option<[u8; 32]>,
    /// How long to look for a block that must be mended.
    pub patience: Duration,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Snapshots looked at.
    pub snapshots: u64,
    /// Snapshots that are not kept here and were not looked at.
    pub elsewhere: u64,
    /// Distinct blocks looked at; with more than [`MAX_REMEMBERED`], some are counted twice.
    pub blocks: u64,
    /// Blocks of which every byte was read.
    pub read_blocks: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// Damage that is still there: the first [`MAX_REPORTED`].
    pub errors: Vec<Damage>,
    /// How much there is in all.
    pub errors_total: u64,
    /// Damage that was made good, with a copy from a peer or by pinning again: the first
    /// [`MAX_REPORTED`].
    pub mended: Vec<Damage>,
    /// How much of that there is in all.
    pub mended_total: u64,
    /// Blocks that can't be read now, which says nothing about them: the first [`MAX_REPORTED`].
    /// They stay.
    pub unreadable: Vec<Damage>,
    /// Number of all such blocks.
    pub unreadable_total: u64,
    /// Blocks that each connected peer has, when peers were asked.
    pub holders: Vec<Holder>,
}

/// What a block is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Content of files.
    Data,
    /// Part of a tree: a directory, or the list of a large file's blocks.
    Tree,
    /// A snapshot's own block.
    Snapshot,
    /// A machine's log.
    Log,
}

impl Part {
    /// What it is in words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Tree => "a directory or a list of blocks",
            Self::Snapshot => "the snapshot itself",
            Self::Log => "a machine's log",
        }
    }
}

/// What is wrong with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It is not here.
    Missing,
    /// Its bytes are not those that its name stands for.
    Corrupt,
    /// It is here, and the disk does not give it now. It stays.
    Unreadable,
    /// It is what it was when it was made, and that is not what it should be.
    Malformed,
    /// It is here, and nothing keeps it from being dropped.
    Unpinned,
}

impl Wrong {
    /// In one word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Corrupt => "corrupt",
            Self::Unreadable => "not readable now",
            Self::Malformed => "malformed",
            Self::Unpinned => "not pinned",
        }
    }
}

/// Damage of one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The first snapshot that needs the block; missing for a log.
    pub snapshot: Option<BlockId>,
    /// The first file or directory that needs it, from `/` on; empty for a snapshot or log.
    pub path: Vec<u8>,
    /// The block.
    pub block: BlockId,
    /// What it is for.
    pub part: Part,
    /// What is wrong.
    pub wrong: Wrong,
    /// More about it, for people; may be empty. Of what could not be mended: why not.
    pub detail: String,
}

impl Damage {
    /// What is wrong in words.
    pub fn reason(&self) -> String {
        let (wrong, part) = (self.wrong.name(), self.part.name());
        match self.detail.is_empty() {
            true => format!("{wrong} ({part})"),
            false => format!("{wrong} ({part}): {}", self.detail),
        }
    }
}

impl CheckReport {
    fn add(&mut self, damage: Damage, is_mended: bool) {
        let (list, total) = match is_mended {
            true => (&mut self.mended, &mut self.mended_total),
            false if damage.wrong == Wrong::Unreadable => {
                (&mut self.unreadable, &mut self.unreadable_total)
            }
            false => (&mut self.errors, &mut self.errors_total),
        };
        *total += 1;
        if list.len() < MAX_REPORTED {
            list.push(damage);
        }
    }
}

/// Checks the snapshots of an owner that are kept here, and mends what peers have.
///
/// # Errors
/// [`Error::NoHead`] when there is nothing to check; [`Error::NoSuchSnapshot`] and its kin; [`Error::Store`] when the store fails.
/// Damage is a result, not an error.
///
/// # Cancel safety
/// Safe.
pub async fn check(
    archive: &Archive,
    options: &CheckOptions,
    monitor: &dyn Monitor,
    cancel: &CancellationToken,
) -> Result<CheckReport, Error> {
    tokio::select! {
        () = cancel.cancelled() => Err(stopped()),
        report = run(archive, options, monitor) => report,
    }
}

async fn run(
    archive: &Archive,
    options: &CheckOptions,
    monitor: &dyn Monitor,
) -> Result<CheckReport, Error> {
    let mut report = CheckReport::default();
    let mut sample = options.remote.then(Sample::default);
    let found = check_logs(archive, options, &mut report, sample.as_mut()).await?;
    if found.head.is_none() {
        return Err(Error::NoHead { asked: found.peers });
    }
    let store = archive.depot().store().clone();
    let pinned: std::collections::HashSet<BlockId> = blocking(move || {
        let pins = store.pins()?;
        Ok(pins.into_iter().map(|(_, info)| info.root).collect())
    })
    .await?;
    let listed: Vec<&Listed> = match &options.snapshot {
        Some(text) => vec![found.catalog.find_chosen(text, &options.choice)?],
        None => found.catalog.choose(&options.choice)?,
    };
    let blocks = Arc::new(Blocks::new(archive.depot(), options));
    let mut trees = Trees::new(blocks.clone(), monitor, &mut report, sample.as_mut());
    for listed in listed {
        let link = &listed.logged.snapshot;
        let is_own = Some(listed.machine) == options.machine;
        let is_pinned = pinned.contains(&link.id);
        if !is_pinned && !is_own && options.snapshot.is_none() {
            trees.report.elsewhere += 1;
            continue;
        }
        trees.report.snapshots += 1;
        trees.begin(link.id);
        let is_unpinned = !is_pinned && is_own;
        let unpinned = "a log names it, and nothing kept its blocks here";
        let Some(plaintext) = trees.fetch(Part::Snapshot, link, &[]).await? else {
            if is_unpinned {
                trees.damage(Part::Snapshot, link.id, &[], Wrong::Unpinned, unpinned);
            }
            continue;
        };
        match Snapshot::decode(link.id, &plaintext) {
            Ok(snapshot) if snapshot.owner != *archive.access().owner().as_bytes() => {
                let detail = "it is a snapshot of another owner";
                trees.damage(Part::Snapshot, link.id, &[], Wrong::Malformed, detail);
            }
            Ok(snapshot) => {
                trees.tree(&snapshot.tree).await?;
                if is_unpinned {
                    let pinned = pinned::pin_again(archive, link, &snapshot, options).await;
                    let (detail, is_mended) = match pinned {
                        Ok(()) => (unpinned.to_owned(), true),
                        Err(error) => (format!("{unpinned}, and that stays so: {error}"), false),
                    };
                    let damage = Damage {
                        snapshot: Some(link.id),
                        path: Vec::new(),
                        block: link.id,
                        part: Part::Snapshot,
                        wrong: Wrong::Unpinned,
                        detail,
                    };
                    trees.report.add(damage, is_mended);
                }
            }
            Err(error) => {
                let detail = error.to_string();
                trees.damage(Part::Snapshot, link.id, &[], Wrong::Malformed, &detail);
            }
        }
    }
    trees.finish().await?;
    (report.read_blocks, report.read_bytes) = blocks.read();
    if let Some(sample) = sample {
        report.holders = remote::ask(archive.depot(), &sample.into_ids()).await;
    }
    Ok(report)
}

/// Finds the logs, after having looked at those that are here: reading them mends them.
async fn check_logs(
    archive: &Archive,
    options: &CheckOptions,
    report: &mut CheckReport,
    mut sample: Option<&mut Sample>,
) -> Result<Found, Error> {
    let heads = archive.depot().net().heads();
    let mut corrupt = Vec::new();
    for entry in heads
        .local(archive.access().head())
        .await?
        .iter()
        .flat_map(|head| head.newest())
    {
        let (store, id) = (archive.depot().store().clone(), entry.log_id());
        if let blocks::Read::Corrupt = blocking(move || blocks::read(&*store, id)).await? {
            corrupt.push(id);
        }
    }
    let patience = archive.patience(options.patience);
    let found = archive.find(Search::Glance, patience).await?;
    let damage = |block, wrong, detail| Damage {
        snapshot: None,
        path: Vec::new(),
        block,
        part: Part::Log,
        wrong,
        detail,
    };
    for entry in found.head.iter().flat_map(|head| head.newest()) {
        let id = entry.log_id();
        report.blocks += 1;
        if let Some(sample) = &mut sample {
            sample.add(id);
        }
        let unread = found.unread.iter().find(|(m, _)| m == entry.machine());
        let was_corrupt = corrupt.contains(&id);
        if unread.is_none()
            && Some(*entry.machine()) == options.machine
            && archive.pin_log(entry).await?
        {
            let detail = "nothing kept it here".to_owned();
            report.add(damage(id, Wrong::Unpinned, detail), true);
        }
        match unread {
            None if was_corrupt => report.add(damage(id, Wrong::Corrupt, String::new()), true),
            None => {}
            Some((_, error)) => {
                let wrong = match error {
                    _ if was_corrupt => Wrong::Corrupt,
                    Error::Get(GetError::Corrupt { .. }) => Wrong::Corrupt,
                    Error::Get(GetError::Store { .. }) => Wrong::Unreadable,
                    Error::Get(_) => Wrong::Missing,
                    _ => Wrong::Malformed,
                };
                report.add(damage(id, wrong, error.to_string()), false);
            }
        }
    }
    Ok(found)
}
