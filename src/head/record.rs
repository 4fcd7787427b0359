//! All machines of one owner.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use ed25519_dalek::VerifyingKey;
use prost::Message;

use super::decisions::Decisions;
use super::entry::{HeadEntry, exact};
use super::{Error, MAX_ENTRIES, MAX_MACHINES, MAX_RECORD_BYTES, head_id, history};
use crate::id::BlockId;
use crate::time::Timestamp;
use crate::wire::head as wire;

const VERSION: u32 = 2;

/// The entries of an owner's machines: of at least one machine and at most [`MAX_MACHINES`], sorted
/// by machine; of each at least one, in the order in which they came to be known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadRecord {
    owner: [u8; 32],
    machines: BTreeMap<[u8; 32], Vec<HeadEntry>>,
    decisions: Decisions,
}

impl HeadRecord {
    /// A record of one entry.
    pub fn new(entry: HeadEntry) -> Self {
        Self {
            owner: *entry.owner(),
            machines: [(*entry.machine(), vec![entry])].into(),
            decisions: Decisions::default(),
        }
    }

    /// This record with one more entry.
    ///
    /// # Errors
    /// [`Error::TooManyMachines`] when the machine is new and there is no place; [`Error::OtherOwner`].
    pub fn with(&self, entry: HeadEntry, now: Timestamp) -> Result<Self, Error> {
        if self.machines.len() >= MAX_MACHINES && !self.machines.contains_key(entry.machine()) {
            return Err(Error::TooManyMachines);
        }
        self.merge(&Self::new(entry), now)
    }

    /// The owner's public key.
    pub const fn owner(&self) -> &[u8; 32] {
        &self.owner
    }

    /// The name of the owner's record: see [`head_id`].
    pub fn id(&self) -> BlockId {
        head_id(&self.owner)
    }

    /// Decisions of the owner's words about its machines.
    pub const fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    /// This record with more decisions of the owner's. Entries that count no more are not in it.
    #[must_use]
    pub fn decided(&self, decisions: &Decisions, now: Timestamp) -> Self {
        let mut decided = Self {
            decisions: self.decisions.merge(decisions),
            ..self.clone()
        };
        decided.settle(now);
        decided
    }

    /// All entries, sorted by machine.
    pub fn entries(&self) -> impl Iterator<Item = &HeadEntry> {
        self.machines.values().flatten()
    }

    /// The newest entry of each machine, sorted by machine.
    pub fn newest(&self) -> impl Iterator<Item = &HeadEntry> {
        let machines = self.machines.keys();
        machines.filter_map(|machine| self.entry(machine))
    }

    /// The newest entry of a machine.
    pub fn entry(&self, machine: &[u8; 32]) -> Option<&HeadEntry> {
        let entries = self.machines.get(machine)?.iter();
        entries.max_by_key(|entry| entry.rank())
    }

    /// The entries of a machine, the newest first.
    pub fn history(&self, machine: &[u8; 32]) -> Vec<&HeadEntry> {
        let entries = self.machines.get(machine).into_iter().flatten();
        let mut entries: Vec<&HeadEntry> = entries.collect();
        entries.sort_by_key(|entry| Reverse(entry.rank()));
        entries
    }

    /// Whether this record has all entries of another one that count, and all decisions.
    pub fn has_all_of(&self, other: &Self) -> bool {
        let mut entries = other.entries();
        self.decisions.has_all_of(&other.decisions)
            && entries.all(|entry| self.has(entry) || !self.decisions.counts(entry))
    }

    /// Whether this record has an entry.
    pub fn has(&self, entry: &HeadEntry) -> bool {
        let known = self.machines.get(entry.machine());
        known.is_some_and(|known| known.contains(entry))
    }

    /// The sequence of the next entry of a machine: above those of all that it can have signed.
    ///
    /// # Errors
    /// [`Error::NoSequenceLeft`].
    pub fn next_sequence(
        known: Option<&Self>,
        machine: &[u8; 32],
        now: Timestamp,
    ) -> Result<u64, Error> {
        let entries = known.and_then(|known| known.machines.get(machine));
        let timely = entries.into_iter().flatten();
        let timely = timely.filter(|entry| entry.is_timely(now));
        let highest = timely.map(HeadEntry::sequence).max().unwrap_or(0);
        highest.checked_add(1).ok_or(Error::NoSequenceLeft)
    }

    /// This record without the entries that were made in the future.
    ///
    /// # Errors
    /// [`Error::FromTheFuture`] when nothing is left.
    pub fn timely(mut self, now: Timestamp) -> Result<Self, Error> {
        for entries in self.machines.values_mut() {
            entries.retain(|entry| entry.is_timely(now));
        }
        self.machines.retain(|_, entries| !entries.is_empty());
        match self.machines.is_empty() && self.decisions.is_empty() {
            true => Err(Error::FromTheFuture),
            false => Ok(self),
        }
    }

    /// Reads a record. Says nothing about its signatures: see [`validate`](Self::validate).
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::UnknownVersion`], [`Error::TooManyMachines`],
    /// [`Error::TooManyEntries`], [`Error::AheadOfItsTime`], [`Error::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(Error::TooLarge(bytes.len()));
        }
        let head = wire::Head::decode(bytes).map_err(|_| Error::Malformed("broken or cut"))?;
        if head.version != VERSION {
            return Err(Error::UnknownVersion(head.version));
        }
        if head.machines.len() > MAX_MACHINES {
            return Err(Error::TooManyMachines);
        }
        let entries = head.machines.iter().map(|machine| machine.entries.len());
        if entries.sum::<usize>() > MAX_ENTRIES {
            return Err(Error::TooManyEntries);
        }
        let owner = exact(&head.owner, "an owner's key has 32 bytes")?;
        let decisions = Decisions::from_wire(&head.revocations, head.handover.as_ref())?;
        let mut machines = BTreeMap::new();
        for machine in &head.machines {
            let key = exact(&machine.machine, "a machine's key has 32 bytes")?;
            let certificate = exact(&machine.certificate, "a certificate has 64 bytes")?;
            let mut entries: Vec<HeadEntry> = Vec::with_capacity(machine.entries.len());
            for entry in &machine.entries {
                let entry = HeadEntry::from_wire(&owner, &key, &certificate, entry)?;
                if entries.contains(&entry) {
                    return Err(Error::Malformed("an entry comes twice"));
                }
                if !decisions.counts(&entry) {
                    return Err(Error::Malformed(
                        "an entry of a machine that was turned out",
                    ));
                }
                entries.push(entry);
            }
            if entries.is_empty() {
                return Err(Error::Malformed("a machine without an entry"));
            }
            machines.insert(key, entries);
        }
        if machines.is_empty() && decisions.is_empty() {
            return Err(Error::Malformed("no machine"));
        }
        let record = Self {
            owner,
            machines,
            decisions,
        };
        // Protobuf has many ways to write one message. This is also where machines show that are
        // not in order, or come twice.
        if record.encode() != bytes {
            return Err(Error::Malformed("not in its canonical form"));
        }
        Ok(record)
    }

    /// The record's bytes, at most [`MAX_RECORD_BYTES`].
    pub fn encode(&self) -> Vec<u8> {
        let machines = self.machines.iter().map(|(key, entries)| wire::Machine {
            machine: key.to_vec().into(),
            certificate: entries
                .first()
                .map(|entry| entry.certificate().to_vec().into())
                .unwrap_or_default(),
            entries: entries.iter().map(HeadEntry::to_wire).collect(),
        });
        let (revocations, handover) = self.decisions.to_wire();
        wire::Head {
            version: VERSION,
            owner: self.owner.to_vec().into(),
            machines: machines.collect(),
            revocations,
            handover,
        }
        .encode_to_vec()
    }

    /// Checks that this is the record that belongs under `key` and that all signatures hold: some
    /// 65 microseconds for each entry and each machine. Not for async tasks.
    ///
    /// # Errors
    /// [`Error::OtherOwner`], [`Error::BadCertificate`], [`Error::BadSignature`],
    /// [`Error::AheadOfItsTime`], [`Error::BadDecision`].
    pub fn validate(&self, key: &BlockId) -> Result<(), Error> {
        self.validate_beyond(key, None)
    }

    /// As [`validate`](Self::validate); what a valid record has, too, needs no check.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub fn validate_beyond(&self, key: &BlockId, valid: Option<&Self>) -> Result<(), Error> {
        if self.id() != *key {
            return Err(Error::OtherOwner);
        }
        let owner = VerifyingKey::from_bytes(&self.owner).map_err(|_| Error::BadCertificate(0))?;
        self.decisions
            .validate(&owner, valid.map(|valid| &valid.decisions))?;
        let mut number = 0;
        for entries in self.machines.values() {
            let mut is_admitted = false;
            for entry in entries {
                if !valid.is_some_and(|valid| valid.has(entry)) {
                    if !is_admitted {
                        entry.check_certificate(&owner, number)?;
                        is_admitted = true;
                    }
                    entry.check_signature(number)?;
                }
                number += 1;
            }
        }
        Ok(())
    }

    /// Merges what both records know, as far as it stays: see [`history`](super). Both must be
    /// valid. Entries of this one count as known first.
    ///
    /// When there are more than [`MAX_MACHINES`] machines, those with the highest sequences stay: a
    /// new machine, whose count starts low, waits until there is a place. It must be this rule,
    /// because choice among machines and choice between entries of one machine follow the same
    /// order; then what is left out can't win later by an older entry.
    ///
    /// # Errors
    /// [`Error::OtherOwner`].
    pub fn merge(&self, other: &Self, now: Timestamp) -> Result<Self, Error> {
        if self.owner != other.owner {
            return Err(Error::OtherOwner);
        }
        let mut merged = self.clone();
        merged.decisions = self.decisions.merge(&other.decisions);
        for (machine, entries) in &other.machines {
            let known = merged.machines.entry(*machine).or_default();
            for entry in entries {
                // One machine has one certificate: ed25519 signatures of one key are the same.
                let is_alike = known
                    .first()
                    .is_none_or(|first| first.certificate() == entry.certificate());
                if is_alike && !known.contains(entry) {
                    known.push(entry.clone());
                }
            }
        }
        merged.settle(now);
        Ok(merged)
    }

    /// Leaves what stays.
    fn settle(&mut self, now: Timestamp) {
        for entries in self.machines.values_mut() {
            entries.retain(|entry| self.decisions.counts(entry));
        }
        self.machines.retain(|_, entries| !entries.is_empty());
        for entries in self.machines.values_mut() {
            history::thin(entries, now);
        }
        while self.machines.len() > MAX_MACHINES {
            let lowest = self.newest().min_by_key(|entry| entry.rank());
            let Some(lowest) = lowest.map(|entry| *entry.machine()) else {
                return;
            };
            self.machines.remove(&lowest);
        }
        history::fit(self.machines.values_mut(), self.decisions.bytes());
    }
}
