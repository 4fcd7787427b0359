//! Requests to forget, and the days on which this machine saw them.
//!
//! A request is carried out some days after this machine first saw it. The date that the other
//! machine writes says nothing, and this machine's own clock may be wrong, too: so its days are
//! counted, each once, and a gap between two of them counts at most [`MAX_GAP_DAYS`]. A clock that
//! was years ahead for a moment brings nothing forward by more than that.
//!
//! The file is a convenience: when it is lost or damaged, the count begins anew.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::fate::{NOTICE_DAYS, Request};
use super::owner::MachineId;
use crate::file;
use crate::id::BlockId;
use crate::time::Timestamp;

/// Most days that a gap between two days on which a request was seen counts for.
const MAX_GAP_DAYS: u32 = 7;
/// Most requests that are counted. Requests beyond are not carried out; the owner's words still
/// decide.
const MAX_REQUESTS: usize = 16_384;
const MAX_FILE_BYTES: u64 = 16 << 20;
const VERSION: u32 = 1;
const DAY_MS: u64 = 24 * 3600 * 1000;

/// When one request was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Days {
    first: Timestamp,
    /// Days since 1970, by this machine's clock.
    days: BTreeSet<u32>,
}

impl Days {
    /// When it was first seen, by this machine's clock.
    pub const fn first(&self) -> Timestamp {
        self.first
    }

    /// Days that it is old: the gaps between the days on which it was seen, each at most
    /// [`MAX_GAP_DAYS`].
    pub fn age(&self) -> u32 {
        let gaps = self.days.iter().zip(self.days.iter().skip(1));
        gaps.map(|(day, next)| (next - day).min(MAX_GAP_DAYS)).sum()
    }
}

/// All requests that this machine has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen(BTreeMap<Request, Days>);

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    requests: Vec<Record>,
}

#[derive(Serialize, Deserialize)]
struct Record {
    by: MachineId,
    snapshot: BlockId,
    #[serde(flatten)]
    days: Days,
}

impl Seen {
    /// The days of one request.
    pub fn get(&self, request: &Request) -> Option<&Days> {
        self.0.get(request)
    }

    /// Notes that these requests are there now. `is_whole`: there are no others, so that a request
    /// that is not among them was taken back. Returns whether anything has changed.
    pub fn look(&mut self, requests: &BTreeSet<Request>, is_whole: bool, now: Timestamp) -> bool {
        let before = self.0.len();
        if is_whole {
            self.0.retain(|request, _| requests.contains(request));
        }
        let mut has_changed = self.0.len() != before;
        let day = u32::try_from(now.0 / DAY_MS).unwrap_or(u32::MAX);
        for request in requests {
            if self.0.len() >= MAX_REQUESTS && !self.0.contains_key(request) {
                continue;
            }
            let days = self.0.entry(*request).or_insert_with(|| Days {
                first: now,
                days: BTreeSet::new(),
            });
            // Once it is due nothing more has to be known.
            has_changed |= days.age() < NOTICE_DAYS && days.days.insert(day);
        }
        has_changed
    }

    /// Reads the file. One that is not there, or damaged, says nothing.
    ///
    /// # Errors
    /// [`Error::File`] when it can't be read.
    pub(super) fn load(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::File {
            what: "reading",
            path: path.to_owned(),
            source,
        };
        let bytes = match file::read(path, MAX_FILE_BYTES) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(Self::default()),
            Err(error) if file::is_damage(&error) => return Ok(Self::damaged(path)),
            Err(error) => return Err(failed(error)),
        };
        match serde_json::from_slice::<File>(&bytes) {
            Ok(file) if file.version == VERSION => {
                let records = file.requests.into_iter().take(MAX_REQUESTS);
                let requests = records.map(|r| ((*r.by.as_bytes(), r.snapshot), r.days));
                Ok(Self(requests.collect()))
            }
            _ => Ok(Self::damaged(path)),
        }
    }

    fn damaged(path: &Path) -> Self {
        tracing::warn!(
            path = %path.display(),
            "the file with the requests to forget is damaged: their notice begins anew"
        );
        if let Err(error) = file::put_aside(path) {
            tracing::warn!(%error, "it could not be put aside");
        }
        Self::default()
    }

    /// Replaces the file, durably.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(super) fn save(&self, path: &Path) -> Result<(), Error> {
        let requests = self.0.iter().map(|((by, snapshot), days)| Record {
            by: MachineId::new(*by),
            snapshot: *snapshot,
            days: days.clone(),
        });
        let file = File {
            version: VERSION,
            requests: requests.collect(),
        };
        let bytes = serde_json::to_vec(&file).expect("numbers and text are JSON");
        file::replace(path, &bytes).map_err(|source| Error::File {
            what: "writing",
            path: path.to_owned(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(n: u8) -> Request {
        ([n; 32], BlockId::from_sha384([n; 48]))
    }

    fn at(day: u32) -> Timestamp {
        Timestamp(u64::from(day) * DAY_MS + 5)
    }

    fn seen_on(days: &[u32]) -> Seen {
        let mut seen = Seen::default();
        for day in days {
            seen.look(&[request(1)].into(), true, at(*day));
        }
        seen
    }

    fn age(days: &[u32]) -> u32 {
        seen_on(days).get(&request(1)).map_or(0, Days::age)
    }

    #[test]
    fn days_count_from_the_first_sight() {
        assert_eq!(age(&[20_000]), 0);
        assert_eq!(age(&[20_000, 20_000, 20_001]), 1);
        assert_eq!(age(&[20_000, 20_007, 20_014, 20_021, 20_028]), 28);
        // A machine that was away was not there to see it.
        assert_eq!(age(&[20_000, 20_300]), MAX_GAP_DAYS);
        // The clock was years ahead for a moment, or for some.
        assert_eq!(age(&[20_000, 50_000, 20_001]), 1 + MAX_GAP_DAYS);
        let flips = [20_000, 50_000].repeat(40);
        assert_eq!(age(&flips), MAX_GAP_DAYS);
    }

    #[test]
    fn what_is_taken_back_begins_anew() {
        let mut seen = seen_on(&[1, 2, 3]);
        assert!(!seen.look(&[].into(), false, at(4)), "not all was read");
        assert_eq!(seen.get(&request(1)).map(Days::age), Some(2));
        assert!(seen.look(&[].into(), true, at(4)));
        seen.look(&[request(1)].into(), true, at(5));
        let days = seen.get(&request(1)).expect("seen");
        assert_eq!((days.age(), days.first()), (0, at(5)));
    }

    #[test]
    fn the_file_reads_back_and_a_damaged_one_counts_as_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("requests");
        assert_eq!(Seen::load(&path).expect("none"), Seen::default());
        let seen = seen_on(&[1, 2]);
        seen.save(&path).expect("written");
        assert_eq!(Seen::load(&path).expect("reads"), seen);
        let bytes = std::fs::read(&path).expect("there");
        for bad in [&b"{}"[..], b"", &bytes[..bytes.len() / 2]] {
            std::fs::write(&path, bad).expect("written");
            assert_eq!(Seen::load(&path).expect("reads"), Seen::default());
        }
    }

    #[test]
    fn requests_are_bounded() {
        let many: BTreeSet<Request> = (0..MAX_REQUESTS as u64 + 9)
            .map(|n| {
                let mut digest = [0; 48];
                digest[..8].copy_from_slice(&n.to_be_bytes());
                ([1; 32], BlockId::from_sha384(digest))
            })
            .collect();
        let mut seen = Seen::default();
        assert!(seen.look(&many, true, at(1)));
        assert_eq!(seen.0.len(), MAX_REQUESTS);
        assert!(!seen.look(&many, true, at(1)), "nothing new");
    }

    proptest! {
        /// A look at a wrong time by the clock brings a request forward by a week before it and one
        /// after it at most; and a request grows no older than the days on which it was seen allow.
        #[test]
        fn a_wrong_clock_brings_little_forward(
            right in proptest::collection::vec(20_000u32..20_020, 1..20),
            wrong in proptest::collection::vec(any::<u32>(), 0..3),
        ) {
            let all: Vec<u32> = right.iter().chain(&wrong).copied().collect();
            let span = right.iter().max().expect("one") - right.iter().min().expect("one");
            prop_assert!(age(&right) <= span);
            prop_assert!(age(&all) <= span + MAX_GAP_DAYS * 2 * wrong.len() as u32);
        }
    }
}
