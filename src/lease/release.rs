//! The end of a lease before its time.

use ed25519_dalek::{Signer, SigningKey};
use prost::Message;

use super::message::verify;
use super::{Error, MAX_LEASE_BYTES, Name, exact};
use crate::head;
use crate::time::Timestamp;
use crate::wire::lease as wire;

const VERSION: u32 = 1;
const DOMAIN: &[u8] = b"libernet release v1";

/// Says that the blocks of a lease need not be kept any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    owner: [u8; 32],
    /// Key and certificate of the machine; none when the owner itself speaks.
    machine: Option<([u8; 32], [u8; 64])>,
    name: Name,
    sequence: u64,
    made: Timestamp,
    signature: [u8; 64],
}

impl Release {
    /// A release by a machine: counts once the lease's minimum is over. `sequence` is that of the newest lease of this name.
    pub fn by_machine(
        owner: &[u8; 32],
        machine: &SigningKey,
        certificate: &[u8; 64],
        name: Name,
        sequence: u64,
        made: Timestamp,
    ) -> Self {
        let by = Some((machine.verifying_key().to_bytes(), *certificate));
        Self::signed(*owner, by, machine, name, sequence, made)
    }

    /// A release by the owner: counts at any time.
    pub fn by_owner(owner: &SigningKey, name: Name, sequence: u64, made: Timestamp) -> Self {
        let key = owner.verifying_key().to_bytes();
        Self::signed(key, None, owner, name, sequence, made)
    }

    fn signed(
        owner: [u8; 32],
        machine: Option<([u8; 32], [u8; 64])>,
        signer: &SigningKey,
        name: Name,
        sequence: u64,
        made: Timestamp,
    ) -> Self {
        let mut release = Self {
            owner,
            machine,
            name,
            sequence,
            made,
            signature: [0; 64],
        };
        release.signature = signer.sign(&release.message()).to_bytes();
        release
    }

    /// The owner's public key.
    pub const fn owner(&self) -> &[u8; 32] {
        &self.owner
    }

    /// The lease's name.
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// The newest lease of that name that it ends.
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether the owner itself speaks.
    pub const fn is_by_owner(&self) -> bool {
        self.machine.is_none()
    }

    /// Checks the signatures. Not for async tasks.
    ///
    /// # Errors
    /// [`Error::BadCertificate`], [`Error::BadSignature`].
    pub fn validate(&self) -> Result<(), Error> {
        let signer = match &self.machine {
            None => &self.owner,
            Some((machine, certificate)) => {
                if !head::is_admitted(&self.owner, machine, certificate) {
                    return Err(Error::BadCertificate);
                }
                machine
            }
        };
        verify(signer, &self.message(), &self.signature)
    }

    fn message(&self) -> Vec<u8> {
        let mut message = self.to_wire();
        message.signature.clear();
        [DOMAIN, &message.encode_to_vec()].concat()
    }

    fn to_wire(&self) -> wire::Release {
        let (machine, certificate) = match &self.machine {
            Some((machine, certificate)) => (machine.to_vec(), certificate.to_vec()),
            None => (Vec::new(), Vec::new()),
        };
        wire::Release {
            version: VERSION,
            owner: self.owner.to_vec().into(),
            machine: machine.into(),
            certificate: certificate.into(),
            name: self.name.to_vec().into(),
            sequence: self.sequence,
            made_ms: self.made.0,
            signature: self.signature.to_vec().into(),
        }
    }

    /// The release's bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.to_wire().encode_to_vec()
    }

    /// Reads a release. Says nothing about its signatures.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::UnknownVersion`], [`Error::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_LEASE_BYTES {
            return Err(Error::TooLarge(bytes.len()));
        }
        let message =
            wire::Release::decode(bytes).map_err(|_| Error::Malformed("broken or cut"))?;
        if message.version != VERSION {
            return Err(Error::UnknownVersion(message.version));
        }
        let machine = match (message.machine.is_empty(), message.certificate.is_empty()) {
            (true, true) => None,
            _ => Some((
                exact(&message.machine, "a machine's key has 32 bytes")?,
                exact(&message.certificate, "a certificate has 64 bytes")?,
            )),
        };
        let release = Self {
            owner: exact(&message.owner, "an owner's key has 32 bytes")?,
            machine,
            name: exact(&message.name, "a lease's name has 16 bytes")?,
            sequence: message.sequence,
            made: Timestamp(message.made_ms),
            signature: exact(&message.signature, "a signature has 64 bytes")?,
        };
        if release.encode() != bytes {
            return Err(Error::Malformed("not in its canonical form"));
        }
        Ok(release)
    }
}
