//! The request itself.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use prost::Message;

use super::keeper::check_delegation;
use super::opener::{self, Opener};
use super::{
    Error, MAX_BLOCKS, MAX_COPIES, MAX_HOLDER_BYTES, MAX_LEASE_BYTES, MAX_SKEW_MS, MAX_TERM_MS,
    NAME_BYTES, Name, exact,
};
use crate::block::{Link, MAX_BLOCK_BYTES};
use crate::head;
use crate::id::BlockId;
use crate::time::Timestamp;
use crate::wire::lease as wire;

const VERSION: u32 = 2;
const DOMAIN: &[u8] = b"libernet lease v2";

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Who is to keep the blocks: the bytes of its peer id.
    pub holder: Vec<u8>,
    /// The lease's name: random.
    pub name: Name,
    /// Counts the leases of this name; each renewal has a higher one. At most a day's milliseconds ahead of `made`.
    pub sequence: u64,
    /// When it was made, by the machine's clock.
    pub made: Timestamp,
    /// Until when the blocks are to be kept.
    pub until: Timestamp,
    /// Before this only the owner itself ends the lease.
    pub minimum_until: Timestamp,
    /// The snapshot's block.
    pub root: BlockId,
    /// How many blocks.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// [`ListDigest`](super::ListDigest) of their ids.
    pub digest: [u8; 32],
    /// How many holders there should be: when some are lost, the others may pass the lease on. None: it is for its holder alone.
    pub copies: u32,
    /// Opener by which the owner's words open the backup; none when the machine could not make it.
    pub opener: Option<Opener>,
}

impl Terms {
    /// Whether these terms can be at all.
    fn check(&self) -> Result<(), Error> {
        let wrong = |what| Err(Error::BadTerms(what));
        if self.until <= self.made || self.until.0 - self.made.0 > MAX_TERM_MS {
            return wrong("a lease lasts from a moment to 400 days");
        }
        if self.sequence > self.made.0.saturating_add(MAX_SKEW_MS) {
            // With a higher one nothing that the owner sends later would ever count.
            return wrong("a sequence that is ahead of its time");
        }
        if self.minimum_until > self.until {
            return wrong("the minimum is longer than the lease");
        }
        if self.blocks == 0 || self.blocks > MAX_BLOCKS {
            return wrong("no blocks, or too many");
        }
        if self.copies > MAX_COPIES {
            return wrong("too many copies");
        }
        if self.bytes < self.blocks || self.bytes / self.blocks > MAX_BLOCK_BYTES as u64 {
            return wrong("so many blocks have not so many bytes");
        }
        Ok(())
    }
}

/// A request to keep blocks, signed by one of the owner's machines. That it has the right form is sure; that the signatures hold is
/// known only after [`validate`](Self::validate).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    owner: [u8; 32],
    machine: [u8; 32],
    certificate: [u8; 64],
    /// The key that signed, and the machine's signature that it may; none when the machine's own did.
    keeper: Option<([u8; 32], [u8; 64])>,
    terms: Terms,
    signature: [u8; 64],
}

impl Lease {
    /// A lease of `machine`, whose certificate is that of `owner`.
    pub fn sign(
        owner: &[u8; 32],
        machine: &SigningKey,
        certificate: &[u8; 64],
        terms: Terms,
    ) -> Self {
        let of = (*owner, machine.verifying_key().to_bytes(), *certificate);
        Self::signed(of, None, machine, terms)
    }

    /// A lease of owner, machine and certificate, signed by the machine or the keeper that it has admitted.
    pub(super) fn signed(
        of: ([u8; 32], [u8; 32], [u8; 64]),
        keeper: Option<([u8; 32], [u8; 64])>,
        signer: &SigningKey,
        terms: Terms,
    ) -> Self {
        let (owner, machine, certificate) = of;
        let mut lease = Self {
            owner,
            machine,
            certificate,
            keeper,
            terms,
            signature: [0; 64],
        };
        lease.signature = signer.sign(&lease.message()).to_bytes();
        lease
    }

    /// The owner's public key.
    pub const fn owner(&self) -> &[u8; 32] {
        &self.owner
    }

    /// The machine's public key.
    pub const fn machine(&self) -> &[u8; 32] {
        &self.machine
    }

    /// The root's block and what opens it; none without an opener of this owner, machine and root.
    pub fn open(&self, backup_root: &[u8; 32]) -> Option<Link> {
        let (root, opener) = (self.terms.root, self.terms.opener.as_ref()?);
        let key = opener::open(backup_root, &self.owner, &self.machine, &root, opener)?;
        Some(Link { id: root, key })
    }

    /// Checks the terms and both signatures, and no times: for the owner, who finds the lease at a
    /// holder. Not for async tasks.
    ///
    /// # Errors
    /// [`Error::BadTerms`], [`Error::BadCertificate`], [`Error::BadSignature`].
    pub fn validate_found(&self) -> Result<(), Error> {
        self.terms.check()?;
        self.check_signatures()
    }

    /// What is asked for.
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// How long the blocks are to be kept from the moment that the holder has the lease, in milliseconds.
    pub const fn term_ms(&self) -> u64 {
        self.terms.until.0.saturating_sub(self.terms.made.0)
    }

    /// As [`term_ms`](Self::term_ms), for how long only the owner itself can end it.
    pub const fn minimum_ms(&self) -> u64 {
        self.terms.minimum_until.0.saturating_sub(self.terms.made.0)
    }

    /// Checks the terms, that `holder` is meant, the times against the clock of the holder, and both signatures: some 130
    /// microseconds. Not for async tasks.
    ///
    /// # Errors
    /// [`Error::BadTerms`], [`Error::OtherHolder`], [`Error::FromTheFuture`], [`Error::Over`], [`Error::BadCertificate`], [`Error::BadSignature`].
    pub fn validate(&self, holder: &[u8], now: Timestamp) -> Result<(), Error> {
        if self.terms.holder != holder {
            return Err(Error::OtherHolder);
        }
        self.check(now)
    }

    /// As [`validate`](Self::validate), for a lease of another holder that is passed on. Only a lease that asks for a number of copies may be.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub fn validate_passed(&self, now: Timestamp) -> Result<(), Error> {
        if self.terms.copies == 0 {
            return Err(Error::OtherHolder);
        }
        self.check(now)
    }

    fn check(&self, now: Timestamp) -> Result<(), Error> {
        self.terms.check()?;
        if self.terms.made.0 > now.0.saturating_add(MAX_SKEW_MS) {
            return Err(Error::FromTheFuture);
        }
        if self.terms.until.0.saturating_add(MAX_SKEW_MS) < now.0 {
            return Err(Error::Over);
        }
        self.check_signatures()
    }

    fn check_signatures(&self) -> Result<(), Error> {
        if !head::is_admitted(&self.owner, &self.machine, &self.certificate) {
            return Err(Error::BadCertificate);
        }
        let signer = match &self.keeper {
            None => &self.machine,
            Some((keeper, delegation)) => {
                check_delegation(&self.machine, keeper, delegation)?;
                keeper
            }
        };
        verify(signer, &self.message(), &self.signature)
    }

    /// What the machine signs: everything else, in its one form.
    fn message(&self) -> Vec<u8> {
        let mut message = self.to_wire();
        message.signature.clear();
        [DOMAIN, &message.encode_to_vec()].concat()
    }

    fn to_wire(&self) -> wire::Lease {
        let terms = &self.terms;
        let (keeper, delegation) = match &self.keeper {
            Some((keeper, delegation)) => (keeper.to_vec(), delegation.to_vec()),
            None => (Vec::new(), Vec::new()),
        };
        wire::Lease {
            version: VERSION,
            owner: self.owner.to_vec().into(),
            machine: self.machine.to_vec().into(),
            certificate: self.certificate.to_vec().into(),
            holder: terms.holder.clone().into(),
            name: terms.name.to_vec().into(),
            sequence: terms.sequence,
            made_ms: terms.made.0,
            until_ms: terms.until.0,
            minimum_until_ms: terms.minimum_until.0,
            root: terms.root.to_multihash().into(),
            blocks: terms.blocks,
            bytes: terms.bytes,
            digest: terms.digest.to_vec().into(),
            signature: self.signature.to_vec().into(),
            copies: terms.copies,
            keeper: keeper.into(),
            delegation: delegation.into(),
            opener: terms
                .opener
                .map(|opener| opener.to_vec().into())
                .unwrap_or_default(),
        }
    }

    /// The lease's bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.to_wire().encode_to_vec()
    }

    /// Reads a lease. Says nothing about its signatures or times: see [`validate`](Self::validate).
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::UnknownVersion`], [`Error::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_LEASE_BYTES {
            return Err(Error::TooLarge(bytes.len()));
        }
        let message = wire::Lease::decode(bytes).map_err(|_| Error::Malformed("broken or cut"))?;
        if message.version != VERSION {
            return Err(Error::UnknownVersion(message.version));
        }
        if message.holder.is_empty() || message.holder.len() > MAX_HOLDER_BYTES {
            return Err(Error::Malformed("a holder's name has 1 to 64 bytes"));
        }
        let keeper = match (message.keeper.is_empty(), message.delegation.is_empty()) {
            (true, true) => None,
            _ => Some((
                exact(&message.keeper, "a keeper's key has 32 bytes")?,
                exact(&message.delegation, "a delegation has 64 bytes")?,
            )),
        };
        let lease = Self {
            keeper,
            owner: exact(&message.owner, "an owner's key has 32 bytes")?,
            machine: exact(&message.machine, "a machine's key has 32 bytes")?,
            certificate: exact(&message.certificate, "a certificate has 64 bytes")?,
            terms: Terms {
                holder: message.holder.to_vec(),
                name: exact::<NAME_BYTES>(&message.name, "a lease's name has 16 bytes")?,
                sequence: message.sequence,
                made: Timestamp(message.made_ms),
                until: Timestamp(message.until_ms),
                minimum_until: Timestamp(message.minimum_until_ms),
                root: BlockId::from_multihash(&message.root)
                    .map_err(|_| Error::Malformed("a block is named by a multihash"))?,
                blocks: message.blocks,
                bytes: message.bytes,
                digest: exact(&message.digest, "a digest has 32 bytes")?,
                copies: message.copies,
                opener: match message.opener.is_empty() {
                    true => None,
                    false => Some(exact(&message.opener, "an opener has 60 bytes")?),
                },
            },
            signature: exact(&message.signature, "a signature has 64 bytes")?,
        };
        if lease.encode() != bytes {
            return Err(Error::Malformed("not in its canonical form"));
        }
        Ok(lease)
    }
}

/// Checks a signature.
pub(super) fn verify(key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> Result<(), Error> {
    VerifyingKey::from_bytes(key)
        .and_then(|key| key.verify_strict(message, &Signature::from_bytes(signature)))
        .map_err(|_| Error::BadSignature)
}
