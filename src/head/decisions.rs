//! Decisions of the owner's words about its machines: which are turned out, and who gets the keys
//! that the others go on with.
//!
//! - [`Revocation`]: of a machine that is turned out only those entries count that the revocation
//!   names. Nothing else that the machine's key signs counts where the revocation is known,
//!   whatever time it says.
//! - [`Handover`]: the key of a generation, sealed for each machine that stays. The latest counts.
//!
//! Both are signed by the owner's own key, so that no machine can make one, nor take one back. They
//! travel with the head: whoever keeps the head learns them, and never forgets one.

use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use prost::Message;

use super::Error;
use super::entry::{HeadEntry, exact};
use crate::crypto::handover::{self, OVERHEAD_BYTES};
use crate::crypto::hash;
use crate::crypto::key::Key;
use crate::time::Timestamp;
use crate::wire::head as wire;

/// Most machines that one owner turns out. Turning out more takes a new owner.
pub const MAX_REVOKED: usize = 16;
/// Most entries of a machine that count after it was turned out.
pub const MAX_COUNTING: usize = 8;
/// Most machines that a key is handed over to.
const MAX_GRANTS: usize = super::MAX_MACHINES;
const GRANT_BYTES: usize = Key::BYTES + OVERHEAD_BYTES;
const DIGEST_BYTES: usize = 32;

const REVOCATION_DOMAIN: &[u8] = b"libernet revocation v1";
const HANDOVER_DOMAIN: &[u8] = b"libernet handover of keys v1";
const DIGEST_CONTEXT: &str = "libernet 2026-11 head entry digest";

type MachineKey = [u8; 32];

/// The owner's word that a machine's signatures count no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    machine: MachineKey,
    made: Timestamp,
    /// Digests of the machine's entries that count, in order.
    counting: BTreeSet<[u8; DIGEST_BYTES]>,
    signature: [u8; 64],
}

impl Revocation {
    /// Turns a machine out. `counting`: its entries that go on counting, of which the first
    /// [`MAX_COUNTING`] do.
    pub fn sign<'a>(
        owner: &SigningKey,
        machine: MachineKey,
        made: Timestamp,
        counting: impl IntoIterator<Item = &'a HeadEntry>,
    ) -> Self {
        let counting = counting.into_iter().take(MAX_COUNTING).map(digest);
        let mut revocation = Self {
            machine,
            made,
            counting: counting.collect(),
            signature: [0; 64],
        };
        let message = revocation.message(&owner.verifying_key().to_bytes());
        revocation.signature = owner.sign(&message).to_bytes();
        revocation
    }

    /// The machine.
    pub const fn machine(&self) -> &MachineKey {
        &self.machine
    }

    /// When it was turned out, by the clock of where the words were typed.
    pub const fn made(&self) -> Timestamp {
        self.made
    }

    fn counts(&self, entry: &HeadEntry) -> bool {
        self.counting.contains(&digest(entry))
    }

    /// Of two about one machine the later one counts.
    fn rank(&self) -> (Timestamp, &[u8; 64]) {
        (self.made, &self.signature)
    }

    fn message(&self, owner: &[u8; 32]) -> Vec<u8> {
        let mut message = self.to_wire();
        message.signature.clear();
        [REVOCATION_DOMAIN, owner, &message.encode_to_vec()].concat()
    }

    fn to_wire(&self) -> wire::Revocation {
        wire::Revocation {
            machine: self.machine.to_vec().into(),
            made_ms: self.made.0,
            counting: self
                .counting
                .iter()
                .map(|one| one.to_vec().into())
                .collect(),
            signature: self.signature.to_vec().into(),
        }
    }

    fn from_wire(message: &wire::Revocation) -> Result<Self, Error> {
        if message.counting.len() > MAX_COUNTING {
            return Err(Error::Malformed(
                "too many entries of a machine that was turned out",
            ));
        }
        let digests = message.counting.iter();
        let digests = digests.map(|one| exact(one, "a digest has 32 bytes"));
        Ok(Self {
            machine: exact(&message.machine, "a machine's key has 32 bytes")?,
            made: Timestamp(message.made_ms),
            counting: digests.collect::<Result<_, _>>()?,
            signature: exact(&message.signature, "a signature has 64 bytes")?,
        })
    }
}

/// The key of a generation, for each machine that gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// Counts the handovers of an owner: the highest counts.
    sequence: u64,
    generation: u8,
    grants: BTreeMap<MachineKey, [u8; GRANT_BYTES]>,
    signature: [u8; 64],
}

impl Handover {
    /// Hands the key of a generation over to these machines. One whose key is no key gets none.
    ///
    /// # Errors
    /// [`Error::TooManyMachines`].
    pub fn sign(
        owner: &SigningKey,
        sequence: u64,
        generation: u8,
        key: &Key,
        machines: impl IntoIterator<Item = MachineKey>,
    ) -> Result<Self, Error> {
        let public = owner.verifying_key().to_bytes();
        let mut grants = BTreeMap::new();
        for machine in machines {
            let context = context(&public, sequence, generation);
            let sealed = handover::seal(&machine, &context, key.as_bytes());
            if let Some(sealed) = sealed.ok().and_then(|sealed| sealed.try_into().ok()) {
                grants.insert(machine, sealed);
            }
        }
        if grants.len() > MAX_GRANTS {
            return Err(Error::TooManyMachines);
        }
        let mut handover = Self {
            sequence,
            generation,
            grants,
            signature: [0; 64],
        };
        handover.signature = owner.sign(&handover.message(&public)).to_bytes();
        Ok(handover)
    }

    /// Counts the handovers of the owner.
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The generation's number.
    pub const fn generation(&self) -> u8 {
        self.generation
    }

    /// Whether a machine gets the key.
    pub fn is_for(&self, machine: &MachineKey) -> bool {
        self.grants.contains_key(machine)
    }

    /// The machines that get the key.
    pub fn machines(&self) -> impl Iterator<Item = &MachineKey> {
        self.grants.keys()
    }

    /// The key, for a machine that gets it. `owner` is the owner's public key.
    pub fn open(&self, owner: &[u8; 32], machine: &SigningKey) -> Option<Key> {
        let sealed = self.grants.get(&machine.verifying_key().to_bytes())?;
        let context = context(owner, self.sequence, self.generation);
        let key = handover::open(machine, &context, sealed).ok()?;
        Key::try_from(key.as_slice()).ok()
    }

    fn rank(&self) -> (u64, u8, &[u8; 64]) {
        (self.sequence, self.generation, &self.signature)
    }

    fn message(&self, owner: &[u8; 32]) -> Vec<u8> {
        let mut message = self.to_wire();
        message.signature.clear();
        [HANDOVER_DOMAIN, owner, &message.encode_to_vec()].concat()
    }

    fn to_wire(&self) -> wire::Handover {
        let grants = self.grants.iter().map(|(machine, sealed)| wire::Grant {
            machine: machine.to_vec().into(),
            sealed: sealed.to_vec().into(),
        });
        wire::Handover {
            sequence: self.sequence,
            generation: u32::from(self.generation),
            grants: grants.collect(),
            signature: self.signature.to_vec().into(),
        }
    }

    fn from_wire(message: &wire::Handover) -> Result<Self, Error> {
        if message.grants.len() > MAX_GRANTS {
            return Err(Error::TooManyMachines);
        }
        let mut grants = BTreeMap::new();
        for grant in &message.grants {
            let machine = exact(&grant.machine, "a machine's key has 32 bytes")?;
            grants.insert(machine, exact(&grant.sealed, "a sealed key has 92 bytes")?);
        }
        Ok(Self {
            sequence: message.sequence,
            generation: u8::try_from(message.generation)
                .map_err(|_| Error::Malformed("a generation that can't be"))?,
            grants,
            signature: exact(&message.signature, "a signature has 64 bytes")?,
        })
    }
}

fn context(owner: &[u8; 32], sequence: u64, generation: u8) -> Vec<u8> {
    [owner.as_slice(), &sequence.to_be_bytes(), &[generation]].concat()
}

/// All decisions that are known of one owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decisions {
    revocations: BTreeMap<MachineKey, Revocation>,
    handover: Option<Handover>,
}

impl Decisions {
    /// These.
    pub fn new(revocations: Vec<Revocation>, handover: Option<Handover>) -> Self {
        let revocations = revocations.into_iter().map(|one| (one.machine, one));
        Self {
            revocations: revocations.collect(),
            handover,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.revocations.is_empty() && self.handover.is_none()
    }

    /// The revocation of a machine, if it was turned out.
    pub fn revocation(&self, machine: &MachineKey) -> Option<&Revocation> {
        self.revocations.get(machine)
    }

    /// The machines that were turned out.
    pub fn revoked(&self) -> impl Iterator<Item = &MachineKey> {
        self.revocations.keys()
    }

    /// The latest handover.
    pub const fn handover(&self) -> Option<&Handover> {
        self.handover.as_ref()
    }

    /// Number of the generation that the owner's machines seal in.
    pub fn generation(&self) -> u8 {
        self.handover.as_ref().map_or(0, Handover::generation)
    }

    /// Machines that were turned out and that the latest key was handed over to all the same: two
    /// who typed the words at the same time did not know of each other.
    pub fn leaked_to(&self) -> impl Iterator<Item = &MachineKey> {
        let is_granted = |machine: &&MachineKey| {
            let handover = self.handover.as_ref();
            handover.is_some_and(|handover| handover.is_for(machine))
        };
        self.revoked().filter(is_granted)
    }

    /// Whether an entry counts.
    pub fn counts(&self, entry: &HeadEntry) -> bool {
        let revocation = self.revocations.get(entry.machine());
        revocation.is_none_or(|revocation| revocation.counts(entry))
    }

    /// Unites what both say. With more revocations than there may be the latest stay.
    #[must_use]
    pub fn merge(&self, other: &Self) -> Self {
        let mut merged = self.clone();
        for (machine, revocation) in &other.revocations {
            let known = merged.revocations.get(machine);
            if known.is_none_or(|known| known.rank() < revocation.rank()) {
                merged.revocations.insert(*machine, revocation.clone());
            }
        }
        while merged.revocations.len() > MAX_REVOKED {
            let earliest = merged.revocations.values().min_by_key(|one| one.rank());
            let Some(earliest) = earliest.map(|one| one.machine) else {
                break;
            };
            merged.revocations.remove(&earliest);
        }
        let is_later = match (&merged.handover, &other.handover) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(known), Some(other)) => known.rank() < other.rank(),
        };
        if is_later {
            merged.handover.clone_from(&other.handover);
        }
        merged
    }

    /// Whether these say all that others say.
    pub fn has_all_of(&self, other: &Self) -> bool {
        self.merge(other) == *self
    }

    /// Checks the owner's signatures, but for what is among `valid` ones.
    ///
    /// # Errors
    /// [`Error::BadDecision`].
    pub fn validate(&self, owner: &VerifyingKey, valid: Option<&Self>) -> Result<(), Error> {
        let public = owner.to_bytes();
        let check = |message: Vec<u8>, signature: &[u8; 64]| {
            let signature = Signature::from_bytes(signature);
            let checked = owner.verify_strict(&message, &signature);
            checked.map_err(|_| Error::BadDecision)
        };
        for (machine, revocation) in &self.revocations {
            let known = valid.and_then(|valid| valid.revocations.get(machine));
            if known != Some(revocation) {
                check(revocation.message(&public), &revocation.signature)?;
            }
        }
        match &self.handover {
            Some(handover) if valid.is_none_or(|valid| valid.handover != self.handover) => {
                check(handover.message(&public), &handover.signature)
            }
            _ => Ok(()),
        }
    }

    /// Whether the owner signed all of them.
    pub fn is_by(&self, owner: &[u8; 32]) -> bool {
        let owner = VerifyingKey::from_bytes(owner);
        owner.is_ok_and(|owner| self.validate(&owner, None).is_ok())
    }

    pub(super) fn to_wire(&self) -> (Vec<wire::Revocation>, Option<wire::Handover>) {
        let revocations = self.revocations.values().map(Revocation::to_wire);
        (
            revocations.collect(),
            self.handover.as_ref().map(Handover::to_wire),
        )
    }

    /// Bytes that they have in a record, or some more.
    pub(super) fn bytes(&self) -> usize {
        const FRAME_BYTES: usize = 8;
        let (revocations, handover) = self.to_wire();
        let revocations = revocations
            .iter()
            .map(|one| one.encoded_len() + FRAME_BYTES);
        let handover = handover.map_or(0, |one| one.encoded_len() + FRAME_BYTES);
        revocations.sum::<usize>() + handover
    }

    /// Machines that come twice or out of order show when the record is written again.
    pub(super) fn from_wire(
        revocations: &[wire::Revocation],
        handover: Option<&wire::Handover>,
    ) -> Result<Self, Error> {
        if revocations.len() > MAX_REVOKED {
            return Err(Error::Malformed("too many machines that were turned out"));
        }
        let revocations = revocations.iter().map(Revocation::from_wire);
        let revocations: Vec<Revocation> = revocations.collect::<Result<_, _>>()?;
        let handover = handover.map(Handover::from_wire).transpose()?;
        Ok(Self::new(revocations, handover))
    }
}

/// Digest of an entry: it covers the signature, so that no two entries have the same.
fn digest(entry: &HeadEntry) -> [u8; DIGEST_BYTES] {
    hash::derive_key(
        DIGEST_CONTEXT,
        &[entry.machine().as_slice(), &entry.to_wire().encode_to_vec()].concat(),
    )
}

#[cfg(test)]
#[path = "decisions_tests.rs"]
mod tests;
