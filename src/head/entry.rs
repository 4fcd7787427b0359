//! One machine's part of a head record.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use super::{Error, MAX_SKEW_MS};
use crate::block::Link;
use crate::crypto::key::Key;
use crate::crypto::secretbox;
use crate::id::BlockId;
use crate::time::Timestamp;
use crate::wire::head as wire;

/// Bytes of a sealed key: nonce, key, tag.
pub const SEALED_BYTES: usize = 12 + Key::BYTES + 16;

const MACHINE_DOMAIN: &[u8] = b"libernet machine v1";
const ENTRY_DOMAIN: &[u8] = b"libernet head entry v2";

/// The owner's signature that admits a machine.
pub fn certify(owner: &SigningKey, machine: &[u8; 32]) -> [u8; 64] {
    owner.sign(&admission(machine)).to_bytes()
}

/// Whether `certificate` is the owner's signature that admits `machine`.
pub fn is_admitted(owner: &[u8; 32], machine: &[u8; 32], certificate: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(owner).is_ok_and(|owner| {
        let signature = Signature::from_bytes(certificate);
        owner.verify_strict(&admission(machine), &signature).is_ok()
    })
}

fn admission(machine: &[u8; 32]) -> Vec<u8> {
    [MACHINE_DOMAIN, machine].concat()
}

/// Where a log of a machine is. Signed by the machine; anybody can read it but for the key that
/// opens the log.
///
/// A sequence is at most [`MAX_SKEW_MS`] ahead of the entry's time, and no entry is taken that is
/// so far ahead of the taker's clock: so nobody can use up the sequences of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadEntry {
    owner: [u8; 32],
    machine: [u8; 32],
    certificate: [u8; 64],
    sequence: u64,
    time_ms: u64,
    log: BlockId,
    sealed: [u8; SEALED_BYTES],
    signature: [u8; 64],
}

impl HeadEntry {
    /// An entry of `machine`, whose certificate is that of `owner`. `sequence` is that of
    /// [`HeadRecord::next_sequence`](super::HeadRecord::next_sequence); a time that it is too far
    /// ahead of is moved on, so that a clock that is behind holds up no backup. `sealing_key` is
    /// that of [`sealing_key`](super::sealing_key).
    pub fn sign(
        owner: &[u8; 32],
        machine: &SigningKey,
        certificate: &[u8; 64],
        sequence: u64,
        time_ms: u64,
        log: &Link,
        sealing_key: &[u8; 32],
    ) -> Self {
        let mut entry = Self {
            owner: *owner,
            machine: machine.verifying_key().to_bytes(),
            certificate: *certificate,
            sequence,
            time_ms: time_ms.max(sequence.saturating_sub(MAX_SKEW_MS)),
            log: log.id,
            sealed: [0; SEALED_BYTES],
            signature: [0; 64],
        };
        let sealed = secretbox::seal(&Key::new(*sealing_key), &entry.fields(), log.key.as_bytes());
        entry.sealed = sealed
            .try_into()
            .expect("sealing adds a nonce and a tag of fixed size");
        entry.signed(machine)
    }

    pub(super) fn signed(mut self, machine: &SigningKey) -> Self {
        self.signature = machine.sign(&self.message()).to_bytes();
        self
    }

    /// The machine's public key.
    pub fn machine(&self) -> &[u8; 32] {
        &self.machine
    }

    /// The public key of the owner in whose name the machine speaks.
    pub fn owner(&self) -> &[u8; 32] {
        &self.owner
    }

    /// Counts the machine's entries.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// When the machine says that it wrote this, in milliseconds since 1970.
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// The log's block, so that holders can keep it without being able to read it.
    pub fn log_id(&self) -> BlockId {
        self.log
    }

    /// The log's block and what opens it.
    ///
    /// # Errors
    /// [`Error::WrongKey`].
    pub fn log(&self, sealing_key: &[u8; 32]) -> Result<Link, Error> {
        let key = secretbox::open(&Key::new(*sealing_key), &self.fields(), &self.sealed)
            .map_err(|_| Error::WrongKey)?;
        Ok(Link {
            id: self.log,
            key: Key::try_from(key.as_slice()).map_err(|_| Error::WrongKey)?,
        })
    }

    /// Whether it was made no later than a clock can say by mistake.
    pub fn is_timely(&self, now: Timestamp) -> bool {
        self.time_ms <= now.0.saturating_add(MAX_SKEW_MS)
    }

    /// Rank that tells the newer of two entries of one machine: the sequence, then the signature,
    /// which no two entries share. The same order decides which machines stay when there are too
    /// many.
    pub(super) const fn rank(&self) -> (u64, &[u8; 64]) {
        (self.sequence, &self.signature)
    }

    /// The owner's signature that admits the machine.
    pub(super) const fn certificate(&self) -> &[u8; 64] {
        &self.certificate
    }

    /// Checks the certificate. `number` names the entry in errors.
    pub(super) fn check_certificate(
        &self,
        owner: &VerifyingKey,
        number: usize,
    ) -> Result<(), Error> {
        let certificate = Signature::from_bytes(&self.certificate);
        owner
            .verify_strict(&admission(&self.machine), &certificate)
            .map_err(|_| Error::BadCertificate(number))
    }

    /// Checks the sequence and the machine's signature. `number` names the entry in errors.
    pub(super) fn check_signature(&self, number: usize) -> Result<(), Error> {
        self.check_sequence()?;
        VerifyingKey::from_bytes(&self.machine)
            .and_then(|machine| {
                machine.verify_strict(&self.message(), &Signature::from_bytes(&self.signature))
            })
            .map_err(|_| Error::BadSignature(number))
    }

    /// Whether the sequence is one that may be at the entry's time.
    fn check_sequence(&self) -> Result<(), Error> {
        match self.sequence > self.time_ms.saturating_add(MAX_SKEW_MS) {
            true => Err(Error::AheadOfItsTime),
            false => Ok(()),
        }
    }

    /// All fields that the sealed key is bound to, each of fixed size but the last.
    fn fields(&self) -> Vec<u8> {
        [
            &self.owner[..],
            &self.machine,
            &self.certificate,
            &self.sequence.to_be_bytes(),
            &self.time_ms.to_be_bytes(),
            &self.log.to_multihash(),
        ]
        .concat()
    }

    /// What the machine signs. A multihash tells its own length, so no two entries have the same message.
    fn message(&self) -> Vec<u8> {
        [ENTRY_DOMAIN, &self.fields(), &self.sealed].concat()
    }

    pub(super) fn to_wire(&self) -> wire::Entry {
        wire::Entry {
            sequence: self.sequence,
            time_ms: self.time_ms,
            log: self.log.to_multihash().into(),
            sealed: self.sealed.to_vec().into(),
            signature: self.signature.to_vec().into(),
        }
    }

    pub(super) fn from_wire(
        owner: &[u8; 32],
        machine: &[u8; 32],
        certificate: &[u8; 64],
        entry: &wire::Entry,
    ) -> Result<Self, Error> {
        let entry = Self {
            owner: *owner,
            machine: *machine,
            certificate: *certificate,
            sequence: entry.sequence,
            time_ms: entry.time_ms,
            log: BlockId::from_multihash(&entry.log)
                .map_err(|_| Error::Malformed("a log is named by a multihash"))?,
            sealed: exact(&entry.sealed, "a sealed key has 60 bytes")?,
            signature: exact(&entry.signature, "a signature has 64 bytes")?,
        };
        entry.check_sequence()?;
        Ok(entry)
    }
}

pub(super) fn exact<const N: usize>(bytes: &[u8], what: &'static str) -> Result<[u8; N], Error> {
    bytes.try_into().map_err(|_| Error::Malformed(what))
}
