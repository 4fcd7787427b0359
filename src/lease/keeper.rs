//! A key that adds leases and does nothing else.
//!
//! A machine's own key may be behind a passphrase, and a node that was restarted at night has nobody to ask for it. The machine therefore signs
//! for a second key, which lies open in the data directory: leases that it signs count as the machine's. It can't end a lease, nor
//! sign a head, nor read anything. Who steals it can ask the ring to keep more for its owner, and no more than that.

use ed25519_dalek::{Signer, SigningKey};
use zeroize::Zeroizing;

use super::message::verify;
use super::{Error, Lease, Terms};
use crate::head;

const MAGIC: &[u8; 8] = b"LNKEEPER";
const VERSION: u8 = 1;
const DOMAIN: &[u8] = b"libernet keeper v1";
/// Bytes of what [`Keeper::encode`] writes.
pub const KEEPER_BYTES: usize = 8 + 1 + 32 + 32 + 64 + 32 + 64;

/// The key, with what shows that it may.
pub struct Keeper {
    owner: [u8; 32],
    machine: [u8; 32],
    certificate: [u8; 64],
    /// Wipes itself when dropped.
    key: SigningKey,
    delegation: [u8; 64],
}

impl Keeper {
    /// The key of this seed, admitted by a machine.
    pub fn new(
        owner: &[u8; 32],
        machine: &SigningKey,
        certificate: &[u8; 64],
        seed: &[u8; 32],
    ) -> Self {
        let key = SigningKey::from_bytes(seed);
        let message = message(&key.verifying_key().to_bytes());
        Self {
            owner: *owner,
            machine: machine.verifying_key().to_bytes(),
            certificate: *certificate,
            delegation: machine.sign(&message).to_bytes(),
            key,
        }
    }

    /// Whether it is of this machine of this owner.
    pub fn is_of(&self, owner: &[u8; 32], machine: &[u8; 32]) -> bool {
        self.owner == *owner && self.machine == *machine
    }

    /// A lease of the machine.
    pub fn sign(&self, terms: Terms) -> Lease {
        let by = (self.key.verifying_key().to_bytes(), self.delegation);
        let of = (self.owner, self.machine, self.certificate);
        Lease::signed(of, Some(by), &self.key, terms)
    }

    /// As bytes. They are secret.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let version = [VERSION];
        let parts: [&[u8]; 7] = [
            MAGIC,
            &version,
            &self.owner,
            &self.machine,
            &self.certificate,
            self.key.as_bytes(),
            &self.delegation,
        ];
        Zeroizing::new(parts.concat())
    }

    /// Reads what [`encode`](Self::encode) writes, and checks both signatures.
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::UnknownVersion`], [`Error::BadCertificate`], [`Error::BadSignature`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let wrong = || Error::Malformed("not a key that adds leases");
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(wrong)?;
        let (version, rest) = rest.split_first().ok_or_else(wrong)?;
        if *version != VERSION {
            return Err(Error::UnknownVersion(u32::from(*version)));
        }
        let (owner, rest) = rest.split_first_chunk::<32>().ok_or_else(wrong)?;
        let (machine, rest) = rest.split_first_chunk::<32>().ok_or_else(wrong)?;
        let (certificate, rest) = rest.split_first_chunk::<64>().ok_or_else(wrong)?;
        let (seed, rest) = rest.split_first_chunk::<32>().ok_or_else(wrong)?;
        let delegation: &[u8; 64] = rest.try_into().map_err(|_| wrong())?;
        let key = SigningKey::from_bytes(seed);
        if !head::is_admitted(owner, machine, certificate) {
            return Err(Error::BadCertificate);
        }
        check_delegation(machine, &key.verifying_key().to_bytes(), delegation)?;
        Ok(Self {
            owner: *owner,
            machine: *machine,
            certificate: *certificate,
            key,
            delegation: *delegation,
        })
    }
}

fn message(keeper: &[u8; 32]) -> Vec<u8> {
    [DOMAIN, keeper.as_slice()].concat()
}

/// Checks that a machine admitted a key.
pub(super) fn check_delegation(
    machine: &[u8; 32],
    keeper: &[u8; 32],
    delegation: &[u8; 64],
) -> Result<(), Error> {
    verify(machine, &message(keeper), delegation)
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keeper(..)")
    }
}
