//! Keys: what the words give, and what each machine has.
//!
//! From the words (HKDF-SHA-256, salt `libernet owner v1`) come the owner's signing key and the
//! keys that seal the backups ([`GenerationKey`]). A machine has a random key of its own, certified
//! by the owner: a stolen machine can add to the backups and read them until it is turned out, but
//! it can't let other machines in. Nothing here is stored or sent; see [`Vault`](super::Vault) for
//! the file.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::generation::GenerationKey;
use super::words::Phrase;
use crate::crypto::kdf::hkdf_sha256;
use crate::crypto::key::Key;
use crate::crypto::random;
use crate::head;
use crate::id::BlockId;
use crate::lease;
use crate::time::Timestamp;

/// Longest name of a machine, in bytes.
pub const MAX_NAME_BYTES: usize = 255;

pub(super) const OWNER_SALT: &[u8] = b"libernet owner v1";
const SIGNING_INFO: &[u8] = b"signing key";
/// What is before the machine's public key in what the owner signs.
const MACHINE_DOMAIN: &[u8] = b"libernet machine v1";

/// The owner's signature that lets a machine in.
pub type Certificate = [u8; 64];

/// The text is not a public key. Public keys are no secrets, but the text may be something else, so it is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a public key: expected 52 base32 characters, found {0} characters")]
pub struct PublicKeyError(usize);

/// A signature was not made by the key that it is said to be from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature is not valid")]
pub struct BadSignature;

macro_rules! public_key {
    ($name:ident, $what:literal) => {
        #[doc = $what]
        ///
        /// An ed25519 public key; any 32 bytes are accepted, and those that are no key verify nothing. The text is RFC 4648
        /// base32, lower case, without padding.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 32]);

        impl $name {
            /// From its bytes.
            pub const fn new(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The public key's bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// Checks a signature of this key over `message`, strictly: no small-order keys, no second form of a signature.
            ///
            /// # Errors
            /// [`BadSignature`].
            pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> Result<(), BadSignature> {
                VerifyingKey::from_bytes(&self.0)
                    .and_then(|key| key.verify_strict(message, &Signature::from_bytes(signature)))
                    .map_err(|_| BadSignature)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = PublicKeyError;

            fn from_str(text: &str) -> Result<Self, PublicKeyError> {
                // Too long a text is not even copied.
                Some(text)
                    .filter(|text| text.len() == 52)
                    .and_then(|text| {
                        let upper = text.to_ascii_uppercase();
                        let bytes = BASE32_NOPAD.decode(upper.as_bytes()).ok()?;
                        bytes.try_into().ok().map(Self)
                    })
                    .ok_or_else(|| PublicKeyError(text.chars().count()))
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

public_key!(OwnerId, "Who an owner is to others.");
public_key!(MachineId, "Which machine of an owner's.");

impl OwnerId {
    /// The name of the owner's head record: SHA2-384 of `libernet head v1` and the public key. Its multihash is the record's key
    /// in the DHT.
    pub fn head_id(&self) -> BlockId {
        head::head_id(&self.0)
    }
}

/// Everything that the words give. Kept in memory for as long as it takes to let a machine in, never stored.
pub struct OwnerKeys {
    /// Wipes itself when dropped.
    signing: SigningKey,
    last: GenerationKey,
}

impl OwnerKeys {
    /// The keys of these words: always the same ones.
    pub fn derive(phrase: &Phrase) -> Self {
        let signing = hkdf_sha256(OWNER_SALT, phrase.entropy(), SIGNING_INFO);
        Self {
            signing: SigningKey::from_bytes(signing.as_bytes()),
            last: GenerationKey::last(phrase),
        }
    }

    /// The public name of the owner.
    pub fn id(&self) -> OwnerId {
        OwnerId(self.signing.verifying_key().to_bytes())
    }

    /// Key that opens all that the owner's machines ever seal. No machine may keep it.
    pub const fn last_generation(&self) -> &GenerationKey {
        &self.last
    }

    /// The key of a generation.
    pub fn generation(&self, number: u8) -> GenerationKey {
        self.last.at(number).expect("the words give the last one")
    }

    /// The key that signs for the owner, for those who make other signed things than messages.
    pub const fn signing_key(&self) -> &SigningKey {
        &self.signing
    }

    /// Lets a machine in: the owner's signature over `libernet machine v1` and the machine's public key.
    pub fn certify(&self, machine: &MachineId) -> Certificate {
        self.signing.sign(&certified(machine)).to_bytes()
    }

    /// Signs `message`, which must begin with a domain of its own so that it means nothing
    /// elsewhere.
    pub(in crate::backup) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.signing.sign(message).to_bytes()
    }

    /// Ends a lease at any time.
    pub fn release(&self, name: lease::Name, sequence: u64, made: Timestamp) -> lease::Release {
        lease::Release::by_owner(&self.signing, name, sequence, made)
    }

    /// Ends all leases of a backup, or of everything, that were made until now.
    pub fn release_all(&self, extent: lease::Extent, made: Timestamp) -> lease::Release {
        lease::Release::of_many(&self.signing, extent, made)
    }
}

fn certified(machine: &MachineId) -> Vec<u8> {
    [MACHINE_DOMAIN, machine.0.as_slice()].concat()
}

/// Checks that `owner` let `machine` in.
///
/// # Errors
/// [`BadSignature`].
pub fn verify_certificate(
    owner: &OwnerId,
    machine: &MachineId,
    certificate: &Certificate,
) -> Result<(), BadSignature> {
    owner.verify(&certified(machine), certificate)
}

/// A machine's own key pair. Random; not related to the words, nor to the node's key on the network.
#[derive(Clone)]
pub struct MachineKeys {
    /// Wipes itself when dropped.
    signing: SigningKey,
}

impl MachineKeys {
    /// A new key.
    pub fn random() -> Self {
        Self::from_seed(&random::bytes())
    }

    /// The key of an ed25519 seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self {
            signing: SigningKey::from_bytes(seed),
        }
    }

    /// The seed: secret.
    pub(super) fn seed(&self) -> &[u8; 32] {
        self.signing.as_bytes()
    }

    /// The public name of the machine.
    pub fn id(&self) -> MachineId {
        MachineId(self.signing.verifying_key().to_bytes())
    }

    /// What signs, for those who make other signed things than messages.
    pub const fn signing_key(&self) -> &SigningKey {
        &self.signing
    }

    /// Signs `message`, which must begin with a domain of its own so that it means nothing elsewhere.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.signing.sign(message).to_bytes()
    }
}

/// What a machine keeps of its owner: enough to write and read backups, not enough to let other machines in.
#[derive(Clone)]
pub struct Membership {
    owner: OwnerId,
    generation: GenerationKey,
    backup_root: Key,
    machine: MachineKeys,
    certificate: Certificate,
    name: String,
}

impl Membership {
    /// Lets a new machine in, with the keys of the first generation. Keys of later ones are handed
    /// over by the owner's head ([`with_generation`](Self::with_generation)).
    ///
    /// # Errors
    /// [`Error::Name`] when `name` is empty, longer than [`MAX_NAME_BYTES`], or has control characters in it.
    pub fn create(keys: &OwnerKeys, name: impl Into<String>) -> Result<Self, Error> {
        let machine = MachineKeys::random();
        Self::with_machine(keys, machine, name.into())
    }

    pub(super) fn with_machine(
        keys: &OwnerKeys,
        machine: MachineKeys,
        name: String,
    ) -> Result<Self, Error> {
        let certificate = keys.certify(&machine.id());
        let generation = keys.generation(0);
        Self::from_parts(keys.id(), generation, machine, certificate, name).map_err(|_| {
            Error::Name {
                max: MAX_NAME_BYTES,
            }
        })
    }

    /// A membership that was stored. The error says what is wrong with it.
    pub(super) fn from_parts(
        owner: OwnerId,
        generation: GenerationKey,
        machine: MachineKeys,
        certificate: Certificate,
        name: String,
    ) -> Result<Self, &'static str> {
        if !is_name(&name) {
            return Err("the machine's name is not a name");
        }
        if verify_certificate(&owner, &machine.id(), &certificate).is_err() {
            return Err("the certificate is not for this machine and owner");
        }
        Ok(Self {
            owner,
            backup_root: generation.backup_root(),
            generation,
            machine,
            certificate,
            name,
        })
    }

    /// The owner's public name.
    pub const fn owner(&self) -> &OwnerId {
        &self.owner
    }

    /// This membership with the keys of another generation of the same owner.
    #[must_use]
    pub fn with_generation(self, generation: GenerationKey) -> Self {
        Self {
            backup_root: generation.backup_root(),
            generation,
            ..self
        }
    }

    /// The keys that this machine seals with.
    pub const fn generation(&self) -> &GenerationKey {
        &self.generation
    }

    /// Root key that seals the owner's head entries, each with the key of its log, and the openers
    /// of leases.
    pub const fn backup_root(&self) -> &Key {
        &self.backup_root
    }

    /// The machine's own keys.
    pub const fn machine(&self) -> &MachineKeys {
        &self.machine
    }

    /// The owner's signature that lets this machine in.
    pub const fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// What the owner calls this machine.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Whether a machine may have this name.
pub(super) fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.chars().any(char::is_control)
}

impl fmt::Debug for OwnerKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnerKeys({}, ..)", self.id())
    }
}

impl fmt::Debug for MachineKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MachineKeys({}, ..)", self.id())
    }
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership")
            .field("owner", &self.owner)
            .field("machine", &self.machine.id())
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    fn golden_keys() -> OwnerKeys {
        let entropy = std::array::from_fn(|at| u8::try_from(at).expect("16 bytes"));
        OwnerKeys::derive(&Phrase::from_entropy(entropy))
    }

    /// Computed with HMAC and ed25519 of other libraries (Python's hmac and cryptography).
    #[test]
    fn golden_vectors() {
        let keys = golden_keys();
        assert_eq!(
            HEXLOWER.encode(keys.signing.as_bytes()),
            "77c9fab48add26a277644388e1ca9b5a70626e941cdf87bb27aeb5717597f7c4"
        );
        assert_eq!(
            keys.id().to_string(),
            "6ligqwwop5xy7uwgczehwqo7hhlg5czgw57pqflqxduvqodnohna"
        );
        assert_eq!(
            keys.id().head_id().to_hex(),
            "0371ee87a471c10d56f27f9f738c73efeccd60b8357c3026f36d6b1948ada8ece23f8b403050da344f2b41b34fd3d7bb"
        );
        let machine = MachineKeys::from_seed(&[0x11; 32]);
        assert_eq!(
            machine.id().to_string(),
            "2bflemtufo2kwoqtnc6umfpe43icesvxdiawxl4fecrtfslxq43q"
        );
        assert_eq!(
            HEXLOWER.encode(&keys.certify(&machine.id())),
            "4391d47a99033dca6f6f6cfe5346cfe8538891012a393d54031aeec9cd8c3ccd960bbc18c751125e696f95184127eb99db7c453bb7362a7db289c6737e7a3909"
        );
    }

    #[test]
    fn a_certificate_is_for_one_machine_of_one_owner() {
        let (keys, other) = (golden_keys(), OwnerKeys::derive(&Phrase::random()));
        let (machine, stranger) = (MachineKeys::random().id(), MachineKeys::random().id());
        let certificate = keys.certify(&machine);
        assert_eq!(
            verify_certificate(&keys.id(), &machine, &certificate),
            Ok(())
        );
        for (owner, machine) in [(keys.id(), stranger), (other.id(), machine)] {
            assert_eq!(
                verify_certificate(&owner, &machine, &certificate),
                Err(BadSignature)
            );
        }
        for at in 0..certificate.len() {
            let mut broken = certificate;
            broken[at] ^= 1;
            assert_eq!(
                verify_certificate(&keys.id(), &machine, &broken),
                Err(BadSignature)
            );
        }
        // A key of small order would verify signatures of anything.
        let mut small = [0; 32];
        small[0] = 1;
        assert_eq!(
            OwnerId::new(small).verify(b"x", &[0; 64]),
            Err(BadSignature)
        );
    }

    #[test]
    fn machines_sign() {
        let machine = MachineKeys::random();
        let signature = machine.sign(b"a message");
        assert_eq!(machine.id().verify(b"a message", &signature), Ok(()));
        assert_eq!(
            machine.id().verify(b"a messagE", &signature),
            Err(BadSignature)
        );
    }

    #[test]
    fn names_have_bounds() {
        let keys = golden_keys();
        let name = "n".repeat(MAX_NAME_BYTES);
        let member = Membership::create(&keys, name.clone()).expect("the longest name");
        assert_eq!((member.name(), *member.owner()), (name.as_str(), keys.id()));
        assert!(
            verify_certificate(&keys.id(), &member.machine().id(), member.certificate()).is_ok()
        );
        for name in [String::new(), name + "n", "a\nb".to_owned()] {
            assert!(matches!(
                Membership::create(&keys, name),
                Err(Error::Name { .. })
            ));
        }
    }

    #[test]
    fn debug_shows_public_names_only() {
        let keys = golden_keys();
        let member = Membership::create(&keys, "desk").expect("a name");
        let text = format!("{keys:?} {member:?} {:?}", member.machine());
        for secret in [
            keys.signing.as_bytes(),
            member.machine().seed(),
            keys.last_generation().key().as_bytes(),
            member.generation().key().as_bytes(),
            member.backup_root().as_bytes(),
        ] {
            assert!(!text.contains(&HEXLOWER.encode(secret)));
            assert!(!text.contains(&format!("{secret:?}")));
        }
        assert!(text.contains(&keys.id().to_string()), "{text}");
    }

    proptest! {
        #[test]
        fn ids_read_back_and_any_text_gives_an_answer(bytes in any::<[u8; 32]>(), text in ".{0,60}") {
            let id = OwnerId::new(bytes);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
            prop_assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
            prop_assert_eq!(MachineId::new(bytes).to_string(), id.to_string());
            let _ = text.parse::<OwnerId>();
            let _ = id.verify(&bytes, &[7; 64]);
        }
    }
}
