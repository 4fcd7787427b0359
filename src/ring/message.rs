//! The messages of the ring protocol as bytes. Decoding is total: what is not exactly one of them is refused.

use bytes::Bytes;
use libp2p::{Multiaddr, PeerId};
use prost::Message;

use super::generation::{Admission, Generation, fixed, to_peer};
use super::group::{MAX_GENERATIONS, MAX_MEMBERS, MAX_REMOVED};
use super::handshake::{Answer, Hello, NONCE_BYTES, PROOF_BYTES, Proofs, SLOTS, TAG_BYTES};
use super::member::{MAX_ADDRESS_BYTES, MAX_ADDRESSES, MAX_MEMBER_NAME_BYTES, clean_name};
use super::secret::{RingId, Seed};
use crate::time::Timestamp;
use crate::wire::ring as wire;

/// Largest message in bytes.
pub const MAX_MESSAGE_BYTES: usize = 192 << 10;
/// Bytes that the members in one message may take; who does not fit is told another time.
const MEMBERS_BYTES: usize = 72 << 10;
/// Most admissions in one message.
const MAX_ADMISSIONS: usize = 16;

/// What one end asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Begins a handshake.
    Hello(Box<Hello>),
    /// Ends one.
    Proof(Box<Proofs>),
    /// Tells about a ring that both have proven, and asks for the same.
    Info(Box<Info>),
}

/// What the other one answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// To a hello.
    Answer(Box<Answer>),
    /// To a proof.
    Done,
    /// To an info.
    Info(Box<Info>),
    /// None of these: the reason, a number of the protocol.
    Refused(u32),
}

/// Nothing like this was proven on this connection.
pub const REFUSED_STRANGER: u32 = 1;
/// Too many requests in too short a time.
pub const REFUSED_BUSY: u32 = 2;
/// The invitation that was proven was for one node, and another one used it.
pub const REFUSED_USED: u32 = 3;
/// The time of the invitation that was proven is over.
pub const REFUSED_OVER: u32 = 4;
/// A member was removed after the invitation that was proven was made.
pub const REFUSED_VOID: u32 = 5;

/// What a member tells another one about one ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// A generation, or an invitation, that both have proven.
    pub ring: RingId,
    /// What the machine is called.
    pub name: String,
    /// How many bytes the node's store can still take.
    pub free_bytes: u64,
    /// Where the node listens.
    pub addresses: Vec<Multiaddr>,
    /// Members that it knows: peer, name, addresses.
    pub members: Vec<(PeerId, String, Vec<Multiaddr>)>,
    /// Removed members, each with the number of the generation that removed it: for a newcomer.
    pub removed: Vec<(PeerId, u32)>,
    /// Generations after the one that both have proven, oldest first.
    pub generations: Vec<Generation>,
    /// The seed of the last of them, for a peer that may have it.
    pub seed: Option<Seed>,
    /// Removed members that were invited again, the last ones.
    pub admissions: Vec<Admission>,
    /// The machine's clock; 0 from a version that does not tell.
    pub now: Timestamp,
}

/// Not a message of this protocol. The text is for our own log, never for the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub(super) &'static str);

impl Malformed {
    /// What is wrong.
    pub const fn what(self) -> &'static str {
        self.0
    }
}

impl Request {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        use wire::request::What;
        let what = match self {
            Self::Hello(hello) => What::Hello(wire::Hello {
                nonce: hello.nonce.to_vec().into(),
                tags: hello.tags.as_flattened().to_vec().into(),
            }),
            Self::Proof(proofs) => What::Proof(wire::Proof {
                proofs: proofs.as_flattened().to_vec().into(),
            }),
            Self::Info(info) => What::Info(info.to_wire()),
        };
        wire::Request { what: Some(what) }.encode_to_vec()
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        use wire::request::What;
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(Malformed("the request is too large"));
        }
        let message = wire::Request::decode(bytes).map_err(|_| Malformed("not a request"))?;
        Ok(match message.what {
            Some(What::Hello(hello)) => Self::Hello(Box::new(Hello {
                nonce: fixed(&hello.nonce)?,
                tags: slots::<TAG_BYTES>(&hello.tags)?,
            })),
            Some(What::Proof(proof)) => Self::Proof(Box::new(slots::<PROOF_BYTES>(&proof.proofs)?)),
            Some(What::Info(info)) => Self::Info(Box::new(Info::from_wire(info)?)),
            None => return Err(Malformed("an empty request")),
        })
    }
}

impl Response {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        use wire::response::What;
        let what = match self {
            Self::Answer(answer) => What::Answer(wire::Answer {
                nonce: answer.nonce.to_vec().into(),
                proofs: answer.proofs.as_flattened().to_vec().into(),
            }),
            Self::Done => What::Done(wire::Done {}),
            Self::Info(info) => What::Info(info.to_wire()),
            Self::Refused(reason) => What::Refused(*reason),
        };
        wire::Response { what: Some(what) }.encode_to_vec()
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        use wire::response::What;
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(Malformed("the response is too large"));
        }
        let message = wire::Response::decode(bytes).map_err(|_| Malformed("not a response"))?;
        Ok(match message.what {
            Some(What::Answer(answer)) => Self::Answer(Box::new(Answer {
                nonce: fixed::<NONCE_BYTES>(&answer.nonce)?,
                proofs: Box::new(slots::<PROOF_BYTES>(&answer.proofs)?),
            })),
            Some(What::Done(_)) => Self::Done,
            Some(What::Info(info)) => Self::Info(Box::new(Info::from_wire(info)?)),
            Some(What::Refused(reason)) => Self::Refused(reason),
            None => return Err(Malformed("an empty response")),
        })
    }
}

fn to_member((peer, name, addresses): &(PeerId, String, Vec<Multiaddr>)) -> wire::Member {
    wire::Member {
        peer: peer.to_bytes().into(),
        name: clean_name(name),
        addresses: to_bytes(addresses),
    }
}

/// How many of these, from the first on, fit into one message.
pub fn fitting(members: &[(PeerId, String, Vec<Multiaddr>)]) -> usize {
    let mut left = MEMBERS_BYTES;
    let fits = members.iter().take(MAX_MEMBERS).take_while(|member| {
        let len = to_member(member).encoded_len() + 4;
        let fits = len <= left;
        left = left.saturating_sub(len);
        fits
    });
    fits.count()
}

impl Info {
    /// Nothing yet about the ring of that generation or invitation.
    pub const fn about(ring: RingId) -> Self {
        Self {
            ring,
            name: String::new(),
            free_bytes: 0,
            addresses: Vec::new(),
            members: Vec::new(),
            removed: Vec::new(),
            generations: Vec::new(),
            seed: None,
            admissions: Vec::new(),
            now: Timestamp(0),
        }
    }

    fn to_wire(&self) -> wire::Info {
        let fitting = fitting(&self.members);
        let members = self.members.iter().take(fitting).map(to_member);
        wire::Info {
            ring: self.ring.as_bytes().to_vec().into(),
            name: clean_name(&self.name),
            free_bytes: self.free_bytes,
            addresses: to_bytes(&self.addresses),
            members: members.collect(),
            removed: self
                .removed
                .iter()
                .take(MAX_REMOVED)
                .map(|(peer, generation)| wire::Removed {
                    peer: peer.to_bytes().into(),
                    generation: *generation,
                })
                .collect(),
            seed: self
                .seed
                .as_ref()
                .map_or_else(Bytes::new, |seed| Bytes::copy_from_slice(seed.as_bytes())),
            generations: self
                .generations
                .iter()
                .take(MAX_GENERATIONS)
                .map(|one| one.bytes().clone())
                .collect(),
            admissions: self
                .admissions
                .iter()
                .rev()
                .take(MAX_ADMISSIONS)
                .map(|one| one.bytes().clone())
                .collect(),
            now_ms: self.now.0,
        }
    }

    fn from_wire(info: wire::Info) -> Result<Self, Malformed> {
        if info.members.len() > MAX_MEMBERS || info.removed.len() > MAX_REMOVED {
            return Err(Malformed("too many members"));
        }
        if info.generations.len() > MAX_GENERATIONS || info.admissions.len() > MAX_ADMISSIONS {
            return Err(Malformed("too many generations"));
        }
        let members = info.members.into_iter().map(|member| {
            Ok((
                to_peer(&member.peer)?,
                to_name(member.name)?,
                to_addresses(&member.addresses)?,
            ))
        });
        let removed = info
            .removed
            .into_iter()
            .map(|removed| Ok((to_peer(&removed.peer)?, removed.generation)));
        let generations = info.generations.iter().map(Generation::decode);
        let admissions = info.admissions.iter().rev().map(Admission::decode);
        let seed = match info.seed.is_empty() {
            true => None,
            false => Some(Seed::new(fixed(&info.seed)?)),
        };
        Ok(Self {
            now: Timestamp(info.now_ms),
            ring: RingId::new(fixed(&info.ring)?),
            name: to_name(info.name)?,
            free_bytes: info.free_bytes,
            addresses: to_addresses(&info.addresses)?,
            members: members.collect::<Result<_, _>>()?,
            removed: removed.collect::<Result<_, _>>()?,
            generations: generations.collect::<Result<_, _>>()?,
            seed,
            admissions: admissions.collect::<Result<_, _>>()?,
        })
    }
}

fn to_bytes(addresses: &[Multiaddr]) -> Vec<Bytes> {
    let short = addresses.iter().filter(|a| a.len() <= MAX_ADDRESS_BYTES);
    short
        .take(MAX_ADDRESSES)
        .map(|address| address.to_vec().into())
        .collect()
}

fn to_addresses(all: &[Bytes]) -> Result<Vec<Multiaddr>, Malformed> {
    if all.len() > MAX_ADDRESSES || all.iter().any(|bytes| bytes.len() > MAX_ADDRESS_BYTES) {
        return Err(Malformed("too many or too long addresses"));
    }
    all.iter()
        .map(|bytes| Multiaddr::try_from(bytes.to_vec()).map_err(|_| Malformed("not an address")))
        .collect()
}

fn to_name(name: String) -> Result<String, Malformed> {
    if name.len() > MAX_MEMBER_NAME_BYTES {
        return Err(Malformed("a name is too long"));
    }
    Ok(clean_name(&name))
}

fn slots<const N: usize>(bytes: &[u8]) -> Result<[[u8; N]; SLOTS], Malformed> {
    let (slots, rest) = bytes.as_chunks::<N>();
    if !rest.is_empty() {
        return Err(Malformed("slots of a wrong length"));
    }
    slots
        .try_into()
        .map_err(|_| Malformed("a wrong number of slots"))
}
