//! All machines of one owner.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use ed25519_dalek::VerifyingKey;
use prost::Message;

use super::entry::{HeadEntry, exact};
use super::{Error, MAX_ENTRIES, MAX_RECORD_BYTES, head_id};
use crate::id::BlockId;
use crate::wire::head as wire;

const VERSION: u32 = 1;

/// The newest entry of each of an owner's machines: at least one, at most [`MAX_ENTRIES`], sorted by machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadRecord {
    owner: [u8; 32],
    entries: Vec<HeadEntry>,
}

impl HeadRecord {
    /// A record with the entry of one machine.
    pub fn new(entry: HeadEntry) -> Self {
        Self {
            owner: *entry.owner(),
            entries: vec![entry],
        }
    }

    /// This record with one more entry, which takes the place of an older one of the same machine.
    ///
    /// # Errors
    /// [`Error::TooManyMachines`] when the machine is new and there is no place; [`Error::OtherOwner`].
    pub fn with(&self, entry: HeadEntry) -> Result<Self, Error> {
        if self.entries.len() >= MAX_ENTRIES && self.entry(entry.machine()).is_none() {
            return Err(Error::TooManyMachines);
        }
        self.merge(&Self::new(entry))
    }

    /// The owner's public key.
    pub fn owner(&self) -> &[u8; 32] {
        &self.owner
    }

    /// The record's key in the DHT.
    pub fn id(&self) -> BlockId {
        head_id(&self.owner)
    }

    /// The entries, sorted by machine.
    pub fn entries(&self) -> &[HeadEntry] {
        &self.entries
    }

    /// The entry of a machine.
    pub fn entry(&self, machine: &[u8; 32]) -> Option<&HeadEntry> {
        let at = self
            .entries
            .binary_search_by(|entry| entry.machine().cmp(machine));
        at.ok().map(|at| &self.entries[at])
    }

    /// Reads a record. Says nothing about its signatures: see [`validate`](Self::validate).
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::UnknownVersion`], [`Error::TooManyMachines`], [`Error::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(Error::TooLarge(bytes.len()));
        }
        let head = wire::Head::decode(bytes).map_err(|_| Error::Malformed("broken or cut"))?;
        if head.version != VERSION {
            return Err(Error::UnknownVersion(head.version));
        }
        if head.entries.len() > MAX_ENTRIES {
            return Err(Error::TooManyMachines);
        }
        let owner = exact(&head.owner, "an owner's key has 32 bytes")?;
        let entries = head.entries.iter();
        let entries = entries
            .map(|entry| HeadEntry::from_wire(&owner, entry))
            .collect::<Result<Vec<_>, _>>()?;
        if entries.is_empty() {
            return Err(Error::Malformed("no machine"));
        }
        if !entries.is_sorted_by(|a, b| a.machine() < b.machine()) {
            return Err(Error::Malformed("the machines are not in order"));
        }
        let record = Self { owner, entries };
        // Protobuf has many ways to write one message; with one only, equal records are equal bytes.
        if record.encode() != bytes {
            return Err(Error::Malformed("not in its canonical form"));
        }
        Ok(record)
    }

    /// The record's bytes, at most [`MAX_RECORD_BYTES`].
    pub fn encode(&self) -> Vec<u8> {
        wire::Head {
            version: VERSION,
            owner: self.owner.to_vec().into(),
            entries: self.entries.iter().map(HeadEntry::to_wire).collect(),
        }
        .encode_to_vec()
    }

    /// Checks that this is the record that belongs under `key` and that all signatures hold: two for each machine, some 65
    /// microseconds each. Not for async tasks.
    ///
    /// # Errors
    /// [`Error::OtherOwner`], [`Error::BadCertificate`], [`Error::BadSignature`].
    pub fn validate(&self, key: &BlockId) -> Result<(), Error> {
        if self.id() != *key {
            return Err(Error::OtherOwner);
        }
        let owner = VerifyingKey::from_bytes(&self.owner).map_err(|_| Error::BadCertificate(0))?;
        let mut entries = self.entries.iter().enumerate();
        entries.try_for_each(|(number, entry)| entry.validate(&owner, number))
    }

    /// What both records know together. Both must be valid. For each machine the entry with the highest sequence counts; of two
    /// with the same sequence, the one with the larger bytes.
    ///
    /// When there are more than [`MAX_ENTRIES`] machines, those with the highest sequences stay: a new machine, whose count
    /// starts low, waits until there is a place. It must be this rule, because choice among machines and choice between entries
    /// of one machine follow the same order; then what is left out now can't win later by an older entry, and the result does
    /// not depend on the order of merging. (By time it would: a clock may go back while the sequence goes on.)
    ///
    /// # Errors
    /// [`Error::OtherOwner`].
    pub fn merge(&self, other: &Self) -> Result<Self, Error> {
        if self.owner != other.owner {
            return Err(Error::OtherOwner);
        }
        let mut newest: BTreeMap<[u8; 32], (_, &HeadEntry)> = BTreeMap::new();
        for entry in self.entries.iter().chain(&other.entries) {
            let rank = entry.rank();
            match newest.get(entry.machine()) {
                Some((known, _)) if *known >= rank => {}
                _ => {
                    newest.insert(*entry.machine(), (rank, entry));
                }
            }
        }
        let mut entries: Vec<_> = newest.into_values().collect();
        entries.sort_by(|(a, _), (b, _)| Reverse(a).cmp(&Reverse(b)));
        entries.truncate(MAX_ENTRIES);
        let mut entries: Vec<_> = entries
            .into_iter()
            .map(|(_, entry)| entry.clone())
            .collect();
        entries.sort_by_key(|entry| *entry.machine());
        Ok(Self {
            owner: self.owner,
            entries,
        })
    }
}
