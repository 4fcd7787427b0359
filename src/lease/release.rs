//! The end of a lease before its time, or of all leases of a backup or an owner.
//!
//! Who knows a lease ends it by its name. The owner's words end what nobody knows the names of any more, as when the machine that had the list is gone:
//! such a release ends what was made up to its sequence, which is a time, and nothing later. So it ends nothing else when it is brought again.

use ed25519_dalek::{Signer, SigningKey};
use prost::Message;

use super::message::verify;
use super::{Error, Lease, MAX_LEASE_BYTES, NAME_BYTES, Name, exact};
use crate::head;
use crate::id::BlockId;
use crate::time::Timestamp;
use crate::wire::lease as wire;

const VERSION: u32 = 1;
const DOMAIN: &[u8] = b"libernet release v1";

/// What a release ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The lease of its name.
    Lease,
    /// All leases of the owner of the backup with this root.
    Backup(BlockId),
    /// All leases of the owner.
    Everything,
}

impl Extent {
    /// What stands for a name where there is none. No lease is called so but by a chance of one in 2 to the 128th.
    pub fn name(&self) -> Option<Name> {
        match self {
            Self::Lease => None,
            Self::Backup(root) => root.digest().first_chunk::<NAME_BYTES>().copied(),
            Self::Everything => Some([0; NAME_BYTES]),
        }
    }

    /// The number that stands for its kind, also where it is stored.
    pub const fn code(&self) -> u8 {
        match self {
            Self::Lease => 0,
            Self::Backup(_) => 1,
            Self::Everything => 2,
        }
    }

    fn of_wire(message: &wire::Release) -> Result<Self, Error> {
        match (message.extent, message.root.is_empty()) {
            (0, true) => Ok(Self::Lease),
            (1, false) => BlockId::from_multihash(&message.root)
                .map(Self::Backup)
                .map_err(|_| Error::Malformed("a root that can't be")),
            (2, true) => Ok(Self::Everything),
            _ => Err(Error::Malformed("a release of what can't be")),
        }
    }
}

/// Says that the blocks of leases need not be kept any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    owner: [u8; 32],
    /// Key and certificate of the machine; none when the owner itself speaks.
    machine: Option<([u8; 32], [u8; 64])>,
    extent: Extent,
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
        let what = (Extent::Lease, name, sequence);
        Self::signed(*owner, by, machine, what, made)
    }

    /// A release by the owner: counts at any time.
    pub fn by_owner(owner: &SigningKey, name: Name, sequence: u64, made: Timestamp) -> Self {
        let key = owner.verifying_key().to_bytes();
        let what = (Extent::Lease, name, sequence);
        Self::signed(key, None, owner, what, made)
    }

    /// A release by the owner of all leases of a backup, or of everything, that were made until now. Of an extent of one lease it ends none.
    pub fn of_many(owner: &SigningKey, extent: Extent, made: Timestamp) -> Self {
        let key = owner.verifying_key().to_bytes();
        let name = extent.name().unwrap_or_default();
        // Machines count the sequences of their leases by the time.
        let what = (extent, name, made.0);
        Self::signed(key, None, owner, what, made)
    }

    fn signed(
        owner: [u8; 32],
        machine: Option<([u8; 32], [u8; 64])>,
        signer: &SigningKey,
        (extent, name, sequence): (Extent, Name, u64),
        made: Timestamp,
    ) -> Self {
        let mut release = Self {
            owner,
            machine,
            extent,
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

    /// What it ends.
    pub const fn extent(&self) -> Extent {
        self.extent
    }

    /// Whether it is about a lease, however new that is.
    pub fn covers(&self, lease: &Lease) -> bool {
        let is_meant = match self.extent {
            Extent::Lease => self.name == lease.terms().name,
            Extent::Backup(root) => root == lease.terms().root,
            Extent::Everything => true,
        };
        is_meant && self.owner == *lease.owner()
    }

    /// The lease's name, or what [stands for it](Extent::name).
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// The newest lease of that name that it ends.
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The machine that speaks; none when it is the owner itself.
    pub fn machine(&self) -> Option<&[u8; 32]> {
        self.machine.as_ref().map(|(machine, _)| machine)
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
            extent: u32::from(self.extent.code()),
            root: match self.extent {
                Extent::Backup(root) => root.to_multihash().into(),
                Extent::Lease | Extent::Everything => Vec::new().into(),
            },
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
        let extent = Extent::of_wire(&message)?;
        let release = Self {
            extent,
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
        if let Some(name) = extent.name()
            && (release.machine.is_some() || release.name != name)
        {
            return Err(Error::Malformed(
                "only the owner ends what it does not name",
            ));
        }
        Ok(release)
    }
}
