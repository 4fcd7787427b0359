//! Generations of a ring's secret: signed records, each chained to the one before.
//!
//! A generation is made by removing somebody. Its record names the removed, is signed with the node
//! key of the member that made it, holds the hash of the generation before, and has the new seed
//! sealed to the node key of each member that stays. Numbers grow by exactly one, so that no number
//! can be used up.
//!
//! A seed is sealed with AES-256-GCM under a key from X25519 between an ephemeral key of the record
//! and the member's node key (ed25519 keys as points of Curve25519, as in RFC 7748, 4.1). Only its
//! member can open it, whoever carries the record.
//!
//! Invariant: every value of these types has a signature that was checked, and was within the
//! bounds when it was decoded.
//!
//! Deliberately absent: whether a record is to be followed. `group` decides that.

use std::fmt;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use ed25519_dalek::{SigningKey, VerifyingKey};
use libp2p::PeerId;
use libp2p::identity::{Keypair, PublicKey};
use prost::Message;
use zeroize::{Zeroize, Zeroizing};

use super::group::MAX_MEMBERS;
use super::message::Malformed;
use super::secret::{RingId, Seed};
use crate::crypto::key::Key;
use crate::crypto::{hash, secretbox};
use crate::time::Timestamp;
use crate::wire::ring as wire;

/// Most members that one generation removes.
pub const MAX_REMOVED_AT_ONCE: usize = 16;
/// Largest record in bytes: room for a seed sealed to every member.
pub const MAX_RECORD_BYTES: usize = 32 << 10;
/// Random bytes that sealing takes.
pub const ENTROPY_BYTES: usize = 32;
/// The version that is written and read.
const VERSION: u32 = 1;
/// Length of a sealed seed.
const SEALED_BYTES: usize = Seed::BYTES + secretbox::OVERHEAD_BYTES;
/// Longest binary peer id.
const MAX_PEER_BYTES: usize = 66;

const GENERATION_DOMAIN: &[u8] = b"libernet ring generation v1";
const ADMISSION_DOMAIN: &[u8] = b"libernet ring admission v1";
const ID_CONTEXT: &str = "libernet 2026-11 ring generation id";
const SEAL_CONTEXT: &str = "libernet 2026-11 ring sealed seed";

/// The name of one generation's record: the hash of its content.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GenerationId([u8; 32]);

impl GenerationId {
    /// Id that the first generation has in place of that of a generation before.
    const NONE: Self = Self([0; 32]);

    /// An id from its bytes.
    pub(super) const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    fn of(content: &[u8]) -> Self {
        Self(hash::derive_key(ID_CONTEXT, content))
    }
}

impl fmt::Display for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation:{}", &self.to_string()[..12])
    }
}

/// The record of one generation.
#[derive(Clone, PartialEq, Eq)]
pub struct Generation {
    id: GenerationId,
    number: u32,
    previous: GenerationId,
    ring: RingId,
    signer: PeerId,
    made: Timestamp,
    removed: Vec<PeerId>,
    ephemeral: Option<[u8; 32]>,
    sealed: Vec<(PeerId, Bytes)>,
    bytes: Bytes,
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Generation({}, {:?})", self.number, self.id)
    }
}

impl Generation {
    /// The first generation of a new ring; none when the key is no ed25519 key.
    pub fn first(key: &Keypair, seed: &Seed, now: Timestamp) -> Option<Self> {
        let content = wire::Generation {
            version: VERSION,
            number: 1,
            previous: GenerationId::NONE.0.to_vec().into(),
            ring: seed.secret().id().as_bytes().to_vec().into(),
            signer: key.public().to_peer_id().to_bytes().into(),
            made_ms: now.0,
            ..wire::Generation::default()
        };
        Self::signed(key, &content)
    }

    /// Generation after this one, which removes some and is sealed to those that stay; none when it
    /// can't be made: the key is no ed25519 key, or the limits are passed.
    pub fn next(
        &self,
        key: &Keypair,
        seed: &Seed,
        (removed, stay): (&[PeerId], &[PeerId]),
        now: Timestamp,
        mut entropy: [u8; ENTROPY_BYTES],
    ) -> Option<Self> {
        let ephemeral = SigningKey::from_bytes(&entropy);
        entropy.zeroize();
        let public = ephemeral.verifying_key().to_bytes();
        let scalar = Zeroizing::new(ephemeral.to_scalar_bytes());
        let ring = seed.secret().id();
        let sealed = stay.iter().filter_map(|peer| {
            // The seed is given to the others when they are connected.
            let to = key_of(peer)?;
            let key = shared(&to, &scalar, &public, peer)?;
            let sealed = secretbox::seal(&key, ring.as_bytes(), seed.as_bytes());
            Some(wire::Sealed {
                peer: peer.to_bytes().into(),
                seed: sealed.into(),
            })
        });
        let content = wire::Generation {
            version: VERSION,
            number: self.number.checked_add(1)?,
            previous: self.id.0.to_vec().into(),
            ring: ring.as_bytes().to_vec().into(),
            signer: key.public().to_peer_id().to_bytes().into(),
            made_ms: now.0,
            removed: removed.iter().map(|peer| peer.to_bytes().into()).collect(),
            ephemeral: public.to_vec().into(),
            sealed: sealed.take(MAX_MEMBERS).collect(),
        };
        Self::signed(key, &content)
    }

    fn signed(key: &Keypair, content: &wire::Generation) -> Option<Self> {
        Self::decode(&sign(key, GENERATION_DOMAIN, content.encode_to_vec())?).ok()
    }

    /// From bytes; the signature is checked.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: &Bytes) -> Result<Self, Malformed> {
        let signed = parts(bytes)?;
        let id = GenerationId::of(&signed.content);
        let content = wire::Generation::decode(signed.content.clone());
        let content = content.map_err(|_| Malformed("no generation"))?;
        if content.version != VERSION {
            return Err(Malformed("a generation of a version that is not known"));
        }
        if content.removed.len() > MAX_REMOVED_AT_ONCE || content.sealed.len() > MAX_MEMBERS {
            return Err(Malformed("a generation with too many members"));
        }
        let signer = to_peer(&content.signer)?;
        check(&signed, GENERATION_DOMAIN, &signer)?;
        let peers = content.removed.iter().map(|peer| to_peer(peer));
        let removed: Vec<PeerId> = peers.collect::<Result<_, _>>()?;
        let sealed = content.sealed.into_iter().map(|sealed| {
            if sealed.seed.len() != SEALED_BYTES {
                return Err(Malformed("a sealed seed of a wrong length"));
            }
            Ok((to_peer(&sealed.peer)?, sealed.seed))
        });
        let previous = GenerationId(fixed(&content.previous)?);
        let is_first = content.number == 1;
        if content.number == 0
            || is_first != (previous == GenerationId::NONE)
            || is_first != removed.is_empty()
            || removed.contains(&signer)
        {
            return Err(Malformed("a generation that can't be"));
        }
        Ok(Self {
            id,
            number: content.number,
            previous,
            ring: RingId::new(fixed(&content.ring)?),
            signer,
            made: Timestamp(content.made_ms),
            removed,
            ephemeral: match content.ephemeral.is_empty() {
                true => None,
                false => Some(fixed(&content.ephemeral)?),
            },
            sealed: sealed.collect::<Result<_, _>>()?,
            bytes: bytes.clone(),
        })
    }

    /// The record's name.
    pub const fn id(&self) -> GenerationId {
        self.id
    }

    /// Its number, from 1.
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// The member that made it.
    pub const fn signer(&self) -> &PeerId {
        &self.signer
    }

    /// When, by the clock of that member.
    pub const fn made(&self) -> Timestamp {
        self.made
    }

    /// The members that it removes.
    pub fn removed(&self) -> &[PeerId] {
        &self.removed
    }

    /// The record as bytes.
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Whether this is the next generation after that one.
    pub fn follows(&self, other: &Self) -> bool {
        self.previous == other.id && other.number.checked_add(1) == Some(self.number)
    }

    /// Whether that is the seed of this generation.
    pub fn is_seed(&self, seed: &Seed) -> bool {
        seed.secret().id() == self.ring
    }

    /// The seed, when it is sealed to this node.
    pub fn open(&self, key: &Keypair) -> Option<Seed> {
        let local = key.public().to_peer_id();
        let (_, sealed) = self.sealed.iter().find(|(peer, _)| *peer == local)?;
        let public = self.ephemeral?;
        let ephemeral = VerifyingKey::from_bytes(&public).ok()?;
        let pair = key.clone().try_into_ed25519().ok()?;
        let secret: Zeroizing<[u8; 32]> = Zeroizing::new(pair.secret().as_ref().try_into().ok()?);
        let scalar = Zeroizing::new(SigningKey::from_bytes(&secret).to_scalar_bytes());
        let key = shared(&ephemeral, &scalar, &public, &local)?;
        let opened = secretbox::open(&key, self.ring.as_bytes(), sealed).ok()?;
        let seed = Seed::new(opened.as_slice().try_into().ok()?);
        self.is_seed(&seed).then_some(seed)
    }
}

/// A member's word that a removed one was invited again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    peer: PeerId,
    generation: GenerationId,
    signer: PeerId,
    bytes: Bytes,
}

impl Admission {
    /// Says that a peer is back from this generation on; none when the key is no ed25519 key.
    pub fn new(
        key: &Keypair,
        peer: &PeerId,
        generation: GenerationId,
        now: Timestamp,
    ) -> Option<Self> {
        let content = wire::Admission {
            version: VERSION,
            peer: peer.to_bytes().into(),
            generation: generation.0.to_vec().into(),
            signer: key.public().to_peer_id().to_bytes().into(),
            made_ms: now.0,
        };
        Self::decode(&sign(key, ADMISSION_DOMAIN, content.encode_to_vec())?).ok()
    }

    /// From bytes; the signature is checked.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: &Bytes) -> Result<Self, Malformed> {
        let signed = parts(bytes)?;
        let content = wire::Admission::decode(signed.content.clone());
        let content = content.map_err(|_| Malformed("no admission"))?;
        if content.version != VERSION {
            return Err(Malformed("an admission of a version that is not known"));
        }
        let signer = to_peer(&content.signer)?;
        check(&signed, ADMISSION_DOMAIN, &signer)?;
        Ok(Self {
            peer: to_peer(&content.peer)?,
            generation: GenerationId(fixed(&content.generation)?),
            signer,
            bytes: bytes.clone(),
        })
    }

    /// The peer that is back.
    pub const fn peer(&self) -> &PeerId {
        &self.peer
    }

    /// The generation in which it was let in.
    pub const fn generation(&self) -> GenerationId {
        self.generation
    }

    /// The member that let it in.
    pub const fn signer(&self) -> &PeerId {
        &self.signer
    }

    /// The record as bytes.
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// The ed25519 key that a peer id holds; none for keys of other kinds.
fn key_of(peer: &PeerId) -> Option<VerifyingKey> {
    VerifyingKey::from_bytes(&public_of(peer)?.try_into_ed25519().ok()?.to_bytes()).ok()
}

/// The public key that a peer id holds: short keys are not hashed.
fn public_of(peer: &PeerId) -> Option<PublicKey> {
    const IDENTITY: u64 = 0;
    let hash = multihash::Multihash::<64>::from_bytes(&peer.to_bytes()).ok()?;
    let is_whole = hash.code() == IDENTITY;
    is_whole.then(|| PublicKey::try_decode_protobuf(hash.digest()).ok())?
}

/// The key between two ends for one record and one member; none for a public key of low order, with
/// which it would be known to all.
fn shared(
    public: &VerifyingKey,
    scalar: &[u8; 32],
    ephemeral: &[u8; 32],
    peer: &PeerId,
) -> Option<Key> {
    let shared = Zeroizing::new(public.to_montgomery().mul_clamped(*scalar).to_bytes());
    if *shared == [0; 32] {
        return None;
    }
    let mut material = Zeroizing::new(shared.to_vec());
    material.extend_from_slice(ephemeral);
    material.extend_from_slice(&peer.to_bytes());
    Some(Key::new(hash::derive_key(SEAL_CONTEXT, &material)))
}

fn sign(key: &Keypair, domain: &[u8], content: Vec<u8>) -> Option<Bytes> {
    let signature = key.sign(&[domain, &content].concat()).ok()?;
    let signed = wire::Signed {
        content: content.into(),
        signature: signature.into(),
    };
    Some(signed.encode_to_vec().into())
}

/// Content and signature of a record. The signature is yet to be checked: the content says whose it
/// is.
fn parts(bytes: &Bytes) -> Result<wire::Signed, Malformed> {
    if bytes.len() > MAX_RECORD_BYTES {
        return Err(Malformed("a record is too large"));
    }
    wire::Signed::decode(bytes.clone()).map_err(|_| Malformed("no record"))
}

fn check(signed: &wire::Signed, domain: &[u8], signer: &PeerId) -> Result<(), Malformed> {
    let key = public_of(signer).ok_or(Malformed("a signer without a key"))?;
    match key.verify(&[domain, &signed.content].concat(), &signed.signature) {
        true => Ok(()),
        false => Err(Malformed("a record with a wrong signature")),
    }
}

pub(super) fn to_peer(bytes: &[u8]) -> Result<PeerId, Malformed> {
    if bytes.len() > MAX_PEER_BYTES {
        return Err(Malformed("a peer id is too long"));
    }
    PeerId::from_bytes(bytes).map_err(|_| Malformed("not a peer id"))
}

pub(super) fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Malformed> {
    bytes
        .try_into()
        .map_err(|_| Malformed("bytes of a wrong length"))
}
