//! Asking peers to keep blocks, and being asked.
//!
//! Who wants blocks kept sends a signed [`Lease`] and the list of ids in pages; the holder then fetches what it lacks over the exchange, by its own
//! pace, and is asked now and then how far it is. Blocks may be offered without a lease as well. Nothing is pushed, so that flow control, checks and retries are those of the exchange.
//!
//! Invariants: what peers ask waits in a bounded queue, with a share for each peer; past that it hears "busy". Peers take turns, members of our rings
//! before others, whose places they take when there is none left. An answer fits what was asked.
//!
//! Questions for heads go another way than the rest, to who keeps them in this net.
//!
//! Deliberately absent: signatures, limits of what is kept, the pulling itself: whoever takes the [`Inbox`] does that.

mod behaviour;
mod codec;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use libp2p::PeerId;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::admission::{Permit, Permits};
use super::mailbox::Mailbox;
use crate::crypto::hash;
use crate::id::BlockId;
use crate::lease::{Lease, Name, Release};

pub(super) use behaviour::{Behaviour, Event, HeadDoor};

/// Most ids in one page of a lease's list.
pub const MAX_PAGE_IDS: usize = 4096;
/// Most blocks of one challenge.
pub const MAX_PROOFS: usize = 16;
/// Most blocks of one offer.
pub const MAX_OFFERED: usize = 64;
/// Most leases in one answer about an owner.
pub const MAX_TOLD_LEASES: usize = 32;
const RECOVERY_CONTEXT: &str = "libernet 2026-11 recovery request";
/// What the codes of refusals are moved by in the answer to an offer.
const REFUSED_WISH: u32 = 16;
/// How long one request may take, with connecting.
pub const MAX_DEADLINE: Duration = Duration::from_secs(60);
/// Our requests under way to one peer, and in all.
pub(super) const REQUESTS_PER_PEER: usize = 2;
const REQUESTS: usize = 32;
/// Requests of peers that wait, in all and of one peer.
const MAX_WAITING: usize = 64;
const MAX_WAITING_PER_PEER: usize = 4;
/// Requests of peers that are handed out to be answered, in all and of one peer. Requests are
/// answered in the order in which they are handed out, so that a member of a ring waits for no more
/// of others.
const MAX_STARTED: usize = 8;
/// Requests of strangers that are handed out, of all: the other places are for members of this
/// node's rings.
const MAX_STARTED_OF_STRANGERS: usize = 6;
const MAX_STARTED_PER_PEER: usize = 2;
/// Requests of strangers that are handed out or wait, at most.
#[cfg(test)]
pub(super) const MAX_UNDER_WAY: usize = MAX_STARTED_OF_STRANGERS + MAX_WAITING;

/// Why blocks are offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// They are asked for often.
    Popular,
    /// Who offers them is about to drop them, and they may be the last copies.
    HandOver,
}

/// What a peer says to one block that it was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// It will fetch the block, from who offered it; or it has it and does not know yet that it will stay: ask again.
    Want,
    /// The block is there, durably.
    Have,
    /// No.
    Refuse(Refusal),
}

impl Wish {
    const fn code(self) -> u32 {
        match self {
            Self::Want => 1,
            Self::Have => 2,
            Self::Refuse(refusal) => REFUSED_WISH + refusal.code(),
        }
    }

    const fn of_code(code: u32) -> Option<Self> {
        match code {
            1 => Some(Self::Want),
            2 => Some(Self::Have),
            ..REFUSED_WISH => None,
            code => Some(Self::Refuse(Refusal::of_code(code - REFUSED_WISH))),
        }
    }
}

/// What is asked of a holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// How much room there is.
    Room,
    /// Keep the blocks of a lease; `ids` are the next ones of its list, at most [`MAX_PAGE_IDS`], none for a mere renewal.
    Keep {
        /// The lease.
        lease: Box<Lease>,
        /// The ids that follow those that the holder has listed.
        ids: Vec<BlockId>,
    },
    /// How a lease stands.
    State {
        /// The owner's public key.
        owner: [u8; 32],
        /// The lease's name.
        name: Name,
    },
    /// End a lease, or many.
    Release(Box<Release>),
    /// Show that blocks are there.
    Prove {
        /// The owner's public key.
        owner: [u8; 32],
        /// The lease's name.
        name: Name,
        /// Random.
        nonce: [u8; 32],
        /// Blocks of the lease, at most [`MAX_PROOFS`].
        ids: Vec<BlockId>,
    },
    /// Whether the peer keeps backups of an owner, too: the answer is [`Wish::Have`] where it is whole there, [`Wish::Want`] where it is coming.
    Holding {
        /// The owner's public key.
        owner: [u8; 32],
        /// The roots of the leases, 1 to [`MAX_OFFERED`].
        roots: Vec<BlockId>,
    },
    /// The head of an owner, and what is leased of it. The owner is not named: a peer that is asked
    /// learns of no owner that it did not know.
    Recover {
        /// Random.
        nonce: [u8; 32],
        /// [`recovery_proof`].
        proof: [u8; 32],
        /// The name of the last lease that was told.
        after: Option<Name>,
    },
    /// The head that the proof is about, as the peer keeps it. No head is named.
    Head {
        /// Random.
        nonce: [u8; 32],
        /// [`Acquaintance::proof`](crate::head::Acquaintance::proof).
        proof: [u8; 32],
        /// The head as the asker knows it, sealed: the peer takes it in, and tells none.
        told: Option<Bytes>,
    },
    /// Blocks that this node would see at the peer as well. The same offer again is a way to hear whether they have come.
    Offer {
        /// Why.
        why: Why,
        /// The blocks with their sizes in bytes, 1 to [`MAX_OFFERED`].
        blocks: Vec<(BlockId, u32)>,
    },
}

/// How a lease stands at its holder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Ids of the list that the holder knows.
    pub listed: u64,
    /// Blocks that are yet to come.
    pub missing: u64,
    /// Whether all blocks are there, durably.
    pub durable: bool,
    /// How long they are still kept.
    pub remaining: Duration,
    /// What the holder lends and is not used.
    pub free_bytes: u64,
}

/// What a holder says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To everything but challenges and offers. Of a lease that has ended all but the room is zero. To a release: `listed` leases have ended, and
    /// `missing` are newer than it and stay.
    State(State),
    /// To a challenge: one for each block, none for what is not there.
    Proofs(Vec<Option<[u8; 32]>>),
    /// To an offer: one for each block.
    Wishes(Vec<Wish>),
    /// To [`Request::Recover`].
    Recovered(Recovered),
    /// To [`Request::Head`]: the head, sealed; nothing when the asker told it.
    Head(Bytes),
    /// No.
    Refused(Refusal),
}

/// Head and leases that a holder has of an owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The owner's head as it is kept there. Nobody has checked it.
    pub head: Option<Bytes>,
    /// The next leases, by their names, at most [`MAX_TOLD_LEASES`]. Nobody has checked them.
    pub leases: Vec<Lease>,
    /// Whether there are more.
    pub more: bool,
}

/// Proof that only somebody who knows an owner's public key can make, of a nonce, the peer that
/// asks and the peer that is asked.
pub fn recovery_proof(
    owner: &[u8; 32],
    nonce: &[u8; 32],
    asker: &PeerId,
    asked: &PeerId,
) -> [u8; 32] {
    let key = hash::derive_key(RECOVERY_CONTEXT, owner);
    let (asker, asked) = (asker.to_bytes(), asked.to_bytes());
    // The first of the two tells its own length, as every multihash does.
    hash::keyed(&key, &[&nonce[..], &asker, &asked].concat())
}

/// Why a holder refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Too much is under way: later.
    Busy,
    /// It lends no more room.
    Full,
    /// It keeps nothing for this peer.
    Unwilling,
    /// The lease or release is not valid, or the list does not fit it.
    Invalid,
    /// It knows no such lease.
    Unknown,
    /// Too many leases of this owner or peer.
    TooMany,
    /// A reason of a newer protocol.
    Other(u32),
}

impl Refusal {
    const fn code(self) -> u32 {
        match self {
            Self::Busy => 1,
            Self::Full => 2,
            Self::Unwilling => 3,
            Self::Invalid => 4,
            Self::Unknown => 5,
            Self::TooMany => 6,
            Self::Other(code) => code,
        }
    }

    const fn of_code(code: u32) -> Self {
        match code {
            1 => Self::Busy,
            2 => Self::Full,
            3 => Self::Unwilling,
            4 => Self::Invalid,
            5 => Self::Unknown,
            6 => Self::TooMany,
            code => Self::Other(code),
        }
    }
}

/// What a peer asks, with the way to answer. Dropped without an answer, the peer hears "busy".
#[derive(Debug)]
pub struct Incoming {
    /// Who asks.
    pub peer: PeerId,
    /// What.
    pub request: Request,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Answer>,
}

/// Requests of peers, in the order in which they have their turns.
pub type Inbox = mpsc::Receiver<Incoming>;

/// Why a peer could not be asked, or gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection, or it ended before the answer.
    #[error("{peer} can't be reached")]
    Unreachable {
        /// The peer.
        peer: PeerId,
    },
    /// No answer in time.
    #[error("{peer} did not answer in time")]
    TimedOut {
        /// The peer.
        peer: PeerId,
    },
    /// The peer broke the protocol.
    #[error("{peer} broke the replica protocol")]
    Protocol {
        /// The peer.
        peer: PeerId,
    },
    /// The peer keeps nothing for others.
    #[error("{peer} does not speak this network's replica protocol")]
    Unsupported {
        /// The peer.
        peer: PeerId,
    },
    /// More ids than one request may carry.
    #[error("too many ids in one request: {0}")]
    TooManyIds(usize),
    /// The net is stopping.
    #[error("the network is stopping")]
    Stopping,
}

impl Error {
    /// Whether asking the same peer again later may succeed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } => true,
            Self::Protocol { .. }
            | Self::Unsupported { .. }
            | Self::TooManyIds(_)
            | Self::Stopping => false,
        }
    }
}

/// What the view asks of the behaviour.
pub(super) enum Command {
    Ask {
        peer: PeerId,
        request: Request,
        permit: Permit,
        reply: oneshot::Sender<Result<Answer, Error>>,
    },
}

/// View of a net: asking peers to keep blocks. Cheap to clone.
#[derive(Clone)]
pub struct Replica {
    mailbox: Mailbox<Command>,
    permits: Arc<Permits>,
    inbox: Arc<Mutex<Option<Inbox>>>,
}

impl Replica {
    pub(super) fn new(mailbox: Mailbox<Command>, inbox: Inbox) -> Self {
        Self {
            mailbox,
            permits: Arc::new(Permits::new(REQUESTS_PER_PEER, REQUESTS)),
            inbox: Arc::new(Mutex::new(Some(inbox))),
        }
    }

    /// What peers ask. The first caller gets it; as long as nobody has it they wait.
    pub fn take_inbox(&self) -> Option<Inbox> {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        inbox.take()
    }

    /// Asks a peer, connecting to it first when needed. An answer to a challenge has as many proofs as blocks were asked for,
    /// one to an offer as many wishes as blocks were offered.
    ///
    /// # Errors
    /// [`Error`]. A refusal is an answer.
    ///
    /// # Cancel safety
    /// Dropped, the request may still reach the peer.
    pub async fn ask(&self, peer: PeerId, request: Request) -> Result<Answer, Error> {
        let (ids, most) = match &request {
            Request::Keep { ids, .. } => (ids.len(), MAX_PAGE_IDS),
            Request::Prove { ids, .. } => (ids.len(), MAX_PROOFS),
            Request::Offer { blocks, .. } => (blocks.len(), MAX_OFFERED),
            Request::Holding { roots, .. } => (roots.len(), MAX_OFFERED),
            Request::Room
            | Request::State { .. }
            | Request::Release(_)
            | Request::Recover { .. }
            | Request::Head { .. } => (0, 0),
        };
        if ids > most {
            return Err(Error::TooManyIds(ids));
        }
        let asked = async {
            let permit = self.permits.acquire(peer).await.ok_or(Error::Stopping)?;
            let (reply, answer) = oneshot::channel();
            let command = Command::Ask {
                peer,
                request,
                permit,
                reply,
            };
            let sent = self.mailbox.send(command).await;
            sent.map_err(|_| Error::Stopping)?;
            answer.await.map_err(|_| Error::Stopping)?
        };
        timeout(MAX_DEADLINE, asked)
            .await
            .unwrap_or(Err(Error::TimedOut { peer }))
    }
}
