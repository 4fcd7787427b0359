//! What is stored of copies: one JSON document, with a version, that is replaced as a whole.

use std::collections::BTreeMap;
use std::time::Duration;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use super::{MAX_COPIES, MAX_JOBS};
use crate::id::BlockId;
use crate::time::Timestamp;
use crate::upkeep::replicate::policy::{Copy, Job, PeerName, Stage};

/// Version of the document.
const VERSION: u32 = 1;

/// What is stored of the whole.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    jobs: BTreeMap<String, Kept>,
}

/// What is stored of one backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::upkeep::replicate) struct Kept {
    pub(in crate::upkeep::replicate) set: String,
    pub(in crate::upkeep::replicate) copies: u32,
    /// Counted when it is first copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::upkeep::replicate) list: Option<ListInfo>,
    /// Opener for the owner's words, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::upkeep::replicate) opener: Option<String>,
    /// By peer, in hex.
    #[serde(default)]
    pub(in crate::upkeep::replicate) held: BTreeMap<String, Place>,
    /// The backup that reads the same and takes the place of this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::upkeep::replicate) successor: Option<String>,
    #[serde(skip)]
    pub(in crate::upkeep::replicate) refused: BTreeMap<PeerName, Timestamp>,
    /// Whether its blocks are not here any more: what the holders have may be all that there is.
    #[serde(skip)]
    pub(in crate::upkeep::replicate) lost: bool,
}

/// What a lease says of the list of blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::upkeep::replicate) struct ListInfo {
    pub(in crate::upkeep::replicate) blocks: u64,
    pub(in crate::upkeep::replicate) bytes: u64,
    /// In hex.
    pub(in crate::upkeep::replicate) digest: String,
}

/// A copy, with its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::upkeep::replicate) struct Place {
    /// The lease's name, in hex.
    pub(in crate::upkeep::replicate) name: String,
    pub(in crate::upkeep::replicate) sequence: u64,
    pub(in crate::upkeep::replicate) whole: bool,
    #[serde(default)]
    pub(in crate::upkeep::replicate) failed: bool,
    pub(in crate::upkeep::replicate) since: Timestamp,
    pub(in crate::upkeep::replicate) seen: Timestamp,
    #[serde(default)]
    pub(in crate::upkeep::replicate) audited: Option<Timestamp>,
    pub(in crate::upkeep::replicate) until: Timestamp,
    pub(in crate::upkeep::replicate) minimum_until: Timestamp,
    /// See [`Copy::missed`] and [`Copy::unproven`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(in crate::upkeep::replicate) missed_ms: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(in crate::upkeep::replicate) unproven_ms: u64,
    /// Fewest blocks that were yet to come, and most that were listed, of all that was heard.
    #[serde(skip)]
    pub(in crate::upkeep::replicate) missing: Option<u64>,
    #[serde(skip)]
    pub(in crate::upkeep::replicate) listed: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Place {
    /// The holder was heard of now.
    pub(in crate::upkeep::replicate) fn saw(&mut self, now: Timestamp) {
        self.seen = now;
        (self.missed_ms, self.unproven_ms) = (0, 0);
    }

    pub(super) fn copy(&self) -> Copy {
        Copy {
            stage: match (self.failed, self.whole) {
                (true, _) => Stage::Failed,
                (false, true) => Stage::Held,
                (false, false) => Stage::Asked,
            },
            since: self.since,
            seen: self.seen,
            missed: Duration::from_millis(self.missed_ms),
            unproven: Duration::from_millis(self.unproven_ms),
            audited: self.audited,
            until: self.until,
            minimum_until: self.minimum_until,
        }
    }
}

impl Kept {
    pub(super) fn new(set: &str, copies: u32) -> Self {
        Self {
            set: set.to_owned(),
            copies,
            list: None,
            opener: None,
            held: BTreeMap::new(),
            successor: None,
            refused: BTreeMap::new(),
            lost: false,
        }
    }

    /// Whether it is told how this one stands. Of one that was written anew the new one tells.
    pub(super) fn is_told(&self) -> bool {
        self.copies > 0 && self.successor.is_none()
    }

    /// What a crash must not lose.
    #[allow(clippy::type_complexity)] // It is compared and nothing else.
    pub(super) fn vital(
        &self,
    ) -> (
        &str,
        u32,
        Option<&str>,
        Option<&ListInfo>,
        Option<&str>,
        Vec<(&str, &str, bool)>,
    ) {
        let places = self.held.iter();
        (
            &self.set,
            self.copies,
            self.successor.as_deref(),
            self.list.as_ref(),
            self.opener.as_deref(),
            places
                .map(|(peer, place)| (peer.as_str(), place.name.as_str(), place.failed))
                .collect(),
        )
    }
}

pub(super) fn job_of(kept: &Kept, near: BTreeMap<PeerName, u32>) -> Job {
    let held = kept.held.iter();
    Job {
        copies: kept.copies,
        bytes: kept.list.as_ref().map_or(0, |list| list.bytes),
        held: held
            .filter_map(|(peer, place)| Some((peer_name(peer)?, place.copy())))
            .collect(),
        near,
        refused: kept.refused.clone(),
        is_lost: kept.lost,
        is_replaced: kept.successor.is_some(),
    }
}

pub(super) fn peer_name(hex: &str) -> Option<PeerName> {
    HEXLOWER.decode(hex.as_bytes()).ok()
}

pub(super) fn encode(jobs: &BTreeMap<BlockId, Kept>) -> Vec<u8> {
    let jobs = jobs.iter();
    let file = File {
        version: VERSION,
        jobs: jobs
            .map(|(root, kept)| (root.to_string(), kept.clone()))
            .collect(),
    };
    serde_json::to_vec_pretty(&file).expect("strings and numbers are JSON")
}

pub(super) fn decode(bytes: &[u8]) -> Option<BTreeMap<BlockId, Kept>> {
    let file: File = serde_json::from_slice(bytes).ok()?;
    if file.version != VERSION || file.jobs.len() > MAX_JOBS {
        return None;
    }
    let jobs = file.jobs.into_iter();
    jobs.map(|(root, kept)| {
        let well = kept.held.keys().all(|peer| peer_name(peer).is_some());
        (well && kept.copies <= MAX_COPIES).then_some((root.parse().ok()?, kept))
    })
    .collect()
}

pub(super) fn is_newer(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    // What else a newer file holds says nothing here.
    serde_json::from_slice::<Versioned>(bytes).is_ok_and(|file| file.version > VERSION)
}
