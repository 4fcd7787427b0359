//! Proving to each other that both ends of a connection know the secrets of the same rings. Pure: randomness is an argument.
//!
//! ```text
//! initiator -> responder   Hello:  nonce, 128 tags      tag   = keyed(secret; initiator, responder, nonce)
//! initiator <- responder   Answer: nonce, 128 proofs    proof = keyed(secret; "responder", both peers, H(Hello), nonce)
//! initiator -> responder   Proof:  128 proofs           proof = keyed(secret; "initiator", both peers, H(Hello), H(Answer))
//! ```
//!
//! Each tag is for one generation of one ring, in a random slot; all other slots hold random bytes. The responder answers in the slots
//! that it recognises, the initiator in those where the answer was right. So nobody who does not know a secret learns whether
//! there is one, nor how many: the messages look alike and have one length, and a responder without rings answers like any other.
//!
//! Everything is bound to both peer ids, which the connection has proven, to the roles and to both nonces: what was said on another
//! connection, to another peer or in the other direction is no proof. Comparisons take the same time wherever bytes differ.

use blake3::OutputReader;
use libp2p::PeerId;
use subtle::{Choice, ConditionallySelectable};
use zeroize::Zeroize;

use super::secret::{RingId, RingSecret, same};
use crate::crypto::hash;

/// Tags of a hello: room for all generations of as many rings as a node can be in.
pub const SLOTS: usize = super::MAX_RINGS * super::MAX_GENERATIONS;
/// Length of a nonce.
pub const NONCE_BYTES: usize = 32;
/// Length of a tag. A stranger's chance to hit one is too small to matter, and it is no proof.
pub const TAG_BYTES: usize = 16;
/// Length of a proof.
pub const PROOF_BYTES: usize = 32;
/// Random bytes that each step takes.
pub const ENTROPY_BYTES: usize = 32;

const TAG_DOMAIN: &[u8] = b"libernet ring tag v1";
const PROOF_DOMAIN: &[u8] = b"libernet ring proof v1";
const HELLO_CONTEXT: &str = "libernet 2026-11 ring hello";
const ANSWER_CONTEXT: &str = "libernet 2026-11 ring answer";
const INITIATOR: u8 = 1;
const RESPONDER: u8 = 2;

/// The first message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Makes it unlike any other.
    pub nonce: [u8; NONCE_BYTES],
    /// One for each secret, the others random.
    pub tags: [[u8; TAG_BYTES]; SLOTS],
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Makes it unlike any other.
    pub nonce: [u8; NONCE_BYTES],
    /// In the slots of recognised tags the responder's proofs, the others random.
    pub proofs: Box<Proofs>,
}

/// A proof for each slot, or random bytes.
pub type Proofs = [[u8; PROOF_BYTES]; SLOTS];

/// Who talks to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ends {
    initiator: PeerId,
    responder: PeerId,
}

impl Ends {
    fn bytes(&self, domain: &[u8]) -> Vec<u8> {
        let mut bytes = domain.to_vec();
        for peer in [&self.initiator, &self.responder] {
            let peer = peer.to_bytes();
            // A peer id has at most 66 bytes.
            bytes.push(peer.len() as u8);
            bytes.extend_from_slice(&peer);
        }
        bytes
    }

    fn tag(&self, secret: &RingSecret, nonce: &[u8; NONCE_BYTES]) -> [u8; TAG_BYTES] {
        let mut bytes = self.bytes(TAG_DOMAIN);
        bytes.extend_from_slice(nonce);
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&secret.tag(&bytes)[..TAG_BYTES]);
        tag
    }

    fn proof(
        &self,
        secret: &RingSecret,
        role: u8,
        hello: &[u8; 32],
        other: &[u8; 32],
    ) -> [u8; PROOF_BYTES] {
        let mut bytes = self.bytes(PROOF_DOMAIN);
        bytes.push(role);
        bytes.extend_from_slice(secret.id().as_bytes());
        bytes.extend_from_slice(hello);
        bytes.extend_from_slice(other);
        secret.proof(&bytes)
    }
}

fn hash_of_hello(hello: &Hello) -> [u8; 32] {
    hash::derive_key(
        HELLO_CONTEXT,
        &[hello.nonce.as_slice(), hello.tags.as_flattened()].concat(),
    )
}

fn hash_of_answer(answer: &Answer) -> [u8; 32] {
    hash::derive_key(
        ANSWER_CONTEXT,
        &[answer.nonce.as_slice(), answer.proofs.as_flattened()].concat(),
    )
}

/// An endless row of bytes that nobody can tell from random ones.
struct Noise(OutputReader);

impl Noise {
    fn new(mut entropy: [u8; ENTROPY_BYTES]) -> Self {
        let noise = blake3::Hasher::new_keyed(&entropy).finalize_xof();
        entropy.zeroize();
        Self(noise)
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill(&mut bytes);
        bytes
    }

    fn proofs(&mut self) -> Box<Proofs> {
        let mut proofs = Box::new([[0; PROOF_BYTES]; SLOTS]);
        self.0.fill(proofs.as_flattened_mut());
        proofs
    }

    /// As many different slots as asked for, in random order.
    fn slots(&mut self, count: usize) -> Vec<usize> {
        let mut slots: Vec<usize> = (0..SLOTS).collect();
        for at in 0..count.min(SLOTS) {
            let left = (SLOTS - at) as u64;
            let other = at + (u64::from_be_bytes(self.take()) % left) as usize;
            slots.swap(at, other);
        }
        slots.truncate(count);
        slots
    }
}

/// The end that begins.
pub struct Initiator {
    ends: Ends,
    hello: [u8; 32],
    slots: Vec<(usize, RingSecret)>,
}

impl Initiator {
    /// Begins. Of the secrets the first [`SLOTS`] are tried.
    pub fn start(
        local: PeerId,
        remote: PeerId,
        secrets: Vec<RingSecret>,
        entropy: [u8; ENTROPY_BYTES],
    ) -> (Self, Hello) {
        let ends = Ends {
            initiator: local,
            responder: remote,
        };
        let mut noise = Noise::new(entropy);
        let nonce = noise.take();
        let mut tags = [[0; TAG_BYTES]; SLOTS];
        noise.0.fill(tags.as_flattened_mut());
        let slots = noise.slots(secrets.len());
        let slots: Vec<(usize, RingSecret)> = slots.into_iter().zip(secrets).collect();
        for (slot, secret) in &slots {
            tags[*slot] = ends.tag(secret, &nonce);
        }
        let hello = Hello { nonce, tags };
        let initiator = Self {
            ends,
            hello: hash_of_hello(&hello),
            slots,
        };
        (initiator, hello)
    }

    /// What the responder has proven, and the proof of the same to it; none when it has proven nothing.
    pub fn finish(
        self,
        answer: &Answer,
        entropy: [u8; ENTROPY_BYTES],
    ) -> Option<(Vec<RingId>, Box<Proofs>)> {
        let answer_hash = hash_of_answer(answer);
        let mut proofs = Noise::new(entropy).proofs();
        let mut proven = Vec::new();
        for (slot, secret) in &self.slots {
            let expected = self
                .ends
                .proof(secret, RESPONDER, &self.hello, &answer.nonce);
            if same(&expected, &answer.proofs[*slot]).into() {
                proofs[*slot] = self
                    .ends
                    .proof(secret, INITIATOR, &self.hello, &answer_hash);
                proven.push(secret.id());
            }
        }
        (!proven.is_empty()).then_some((proven, proofs))
    }
}

/// The end that answers.
pub struct Responder {
    ends: Ends,
    hello: [u8; 32],
    answer: [u8; 32],
    slots: Vec<(usize, RingSecret)>,
}

impl Responder {
    /// Answers a hello. With no secrets, or none that fits, the answer is all random.
    pub fn answer(
        local: PeerId,
        remote: PeerId,
        secrets: Vec<RingSecret>,
        hello: &Hello,
        entropy: [u8; ENTROPY_BYTES],
    ) -> (Self, Answer) {
        let ends = Ends {
            initiator: remote,
            responder: local,
        };
        let mut noise = Noise::new(entropy);
        let nonce = noise.take();
        let mut proofs = noise.proofs();
        let hello_hash = hash_of_hello(hello);
        let mut slots = Vec::new();
        for secret in secrets.into_iter().take(SLOTS) {
            let tag = ends.tag(&secret, &hello.nonce);
            // Both are worked out for every secret and every slot, so that the time does not tell what was recognised.
            let proof = ends.proof(&secret, RESPONDER, &hello_hash, &nonce);
            let (mut found, mut at) = (Choice::from(0), 0_u32);
            for (slot, other) in hello.tags.iter().enumerate() {
                let equal = same(&tag, other);
                found |= equal;
                at.conditional_assign(&(slot as u32), equal);
            }
            let at = at as usize;
            for (byte, new) in proofs[at].iter_mut().zip(proof) {
                byte.conditional_assign(&new, found);
            }
            if found.into() {
                slots.push((at, secret));
            }
        }
        let answer = Answer { nonce, proofs };
        let responder = Self {
            ends,
            hello: hello_hash,
            answer: hash_of_answer(&answer),
            slots,
        };
        (responder, answer)
    }

    /// What the initiator has proven.
    pub fn finish(self, proofs: &Proofs) -> Vec<RingId> {
        let proven = self.slots.iter().filter(|(slot, secret)| {
            let expected = self
                .ends
                .proof(secret, INITIATOR, &self.hello, &self.answer);
            same(&expected, &proofs[*slot]).into()
        });
        proven.map(|(_, secret)| secret.id()).collect()
    }
}
