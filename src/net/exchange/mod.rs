//! Asking peers for blocks, and answering them.
//!
//! A request names up to [`MAX_IDS`] ids and wants the blocks or only whether they are there; the response says for each id: block,
//! have, don't have or busy. Each request has a stream of its own, so that many can be under way to one peer at once (16 to 64
//! blocks in flight are what a fast path needs). What is under way is bounded on both sides: the asking side takes a permit
//! first, the answering side admits requests by the bytes that their answers may take and says "busy" past its queue.
//!
//! Invariant: an answer names only ids that were asked for. **The bytes are not checked against the id here**: hashing is
//! work for worker threads, and who asked does it.
//!
//! Deliberately absent: choosing peers, retrying elsewhere, storing.

mod behaviour;
mod client;
mod codec;
mod rest;
mod server;
mod wait;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use libp2p::PeerId;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::admission::{Permit, Permits};
use super::mailbox::Mailbox;
use super::pace::{Arrivals, Meter};
use crate::block::MAX_BLOCK_BYTES;
use crate::id::BlockId;

pub use super::admission::Standing;
pub(super) use behaviour::{Behaviour, Event, Setup};
pub(super) use client::Ask;
pub use rest::Beginning;
use rest::Rest;
pub(super) use wait::Lines;
use wait::Wait;

/// Most ids in one request.
pub const MAX_IDS: usize = 64;
/// Longest silence that a request may allow; longer ones are cut to this.
pub const MAX_SILENCE: Duration = Duration::from_secs(120);
/// Longest time that a request may take while bytes come: a block of the largest size at 10 kbit/s.
pub const MAX_TIME: Duration = Duration::from_secs(30 * 60);

/// How long the end of a stream is waited for, to have what came over it.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// What is asked about the ids of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Want {
    /// The blocks themselves.
    Block,
    /// Only whether they are there.
    Have,
}

/// What a peer says to one id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The block's bytes. **Unverified** when they come from a peer.
    Block(Bytes),
    /// It is here.
    Have,
    /// It is not here.
    DontHave,
    /// Ask again later.
    Busy,
}

/// What one side offers, or wants, for a MiB of blocks: in millionths of a unit that the two of them have agreed on elsewhere.
///
/// This is the rate of LBRYnet's negotiation, which accepted 0 by default as this does. **No payment is behind it**: nothing is counted,
/// owed or settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Sent with requests for blocks.
    pub offered: u64,
    /// Who offers less gets no blocks, unless it is a member of a ring of ours.
    pub wanted: u64,
}

/// Answers peers who ask for blocks.
///
/// The future is polled on the task that owns the network: it must not hash or touch the disk itself but hand that to other
/// threads and wait for them. It is dropped when the peer goes away.
#[async_trait]
pub trait BlockService: Send + Sync {
    /// One answer for each of `ids`, in their order; blocks of at most `max_bytes` together, [`Answer::Busy`] for what does not fit.
    async fn blocks(
        &self,
        peer: PeerId,
        ids: Vec<BlockId>,
        want: Want,
        max_bytes: usize,
    ) -> Vec<Answer>;

    /// How a peer stands. Called on the task that owns the network: it must be no more than a look into memory.
    fn standing(&self, _peer: PeerId) -> Standing {
        Standing::Newcomer
    }
}

/// Why a peer could not be asked, or gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection: no known address, or none that works.
    #[error("{peer} can't be reached")]
    Unreachable {
        /// The peer.
        peer: PeerId,
    },
    /// No answer within the deadline.
    #[error("{peer} did not answer in time")]
    TimedOut {
        /// The peer.
        peer: PeerId,
    },
    /// The peer broke the protocol. It is counted against it.
    #[error("{peer} broke the exchange protocol: {what}")]
    Protocol {
        /// The peer.
        peer: PeerId,
        /// What was wrong.
        what: String,
    },
    /// The peer does not speak the exchange protocol of this network.
    #[error("{peer} does not speak this network's exchange protocol")]
    Unsupported {
        /// The peer.
        peer: PeerId,
    },
    /// The connection or stream ended before the answer.
    #[error("{peer} closed the connection")]
    Closed {
        /// The peer.
        peer: PeerId,
    },
    /// Too much is under way to this peer.
    #[error("too many requests are under way to {peer}")]
    Busy {
        /// The peer.
        peer: PeerId,
    },
    /// The peer does not want to deal with us.
    #[error("{peer} refuses (code {code})")]
    Refused {
        /// The peer.
        peer: PeerId,
        /// Its reason, a number of the protocol.
        code: u32,
    },
    /// The peer wants more for its blocks than we offer.
    #[error("{peer} wants a rate of {wanted} millionths per MiB, more than is offered")]
    RateTooLow {
        /// The peer.
        peer: PeerId,
        /// What it wants, in millionths of a unit a MiB.
        wanted: u64,
    },
    /// More ids than one request may carry, or one twice.
    #[error("a request carries at most {MAX_IDS} different ids, not {0}")]
    TooManyIds(usize),
    /// The net is stopping.
    #[error("the network is stopping")]
    Stopping,
}

impl Error {
    /// Whether asking the same peer again later may succeed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Closed { .. }
            | Self::Busy { .. } => true,
            Self::Protocol { .. }
            | Self::Unsupported { .. }
            | Self::Refused { .. }
            | Self::RateTooLow { .. }
            | Self::TooManyIds(_)
            | Self::Stopping => false,
        }
    }
}

/// What the view asks of the behaviour.
pub(super) enum Command {
    Ask {
        ask: Ask,
        permit: Permit,
        reply: oneshot::Sender<Result<Vec<(BlockId, Answer)>, Error>>,
    },
}

/// Looks for a peer that can't be reached where it is said to be. Whether it was found elsewhere,
/// perhaps.
pub(super) type Seek = Arc<dyn Fn(PeerId) -> BoxFuture<'static, bool> + Send + Sync>;

/// View of a net: asking peers for blocks. Cheap to clone.
#[derive(Clone)]
pub struct Exchange {
    pub(super) mailbox: Mailbox<Command>,
    pub(super) permits: Arc<Permits>,
    pub(super) pace: Arc<Meter>,
    pub(super) seek: Seek,
    pub(super) lines: Arc<Lines>,
}

impl Exchange {
    /// The limit on what is fetched. Who wants a block takes a place [ahead](Meter::ahead) before it asks, so that no more is asked for
    /// than can come in time.
    pub fn pace(&self) -> &Arc<Meter> {
        &self.pace
    }

    /// Asks `peer` for blocks, connecting to it first when needed. One answer for each id, in their
    /// order. It fails when for `silence` nothing comes, not of this answer nor of others that the
    /// same peer is giving; that includes waiting for a permit and connecting.
    ///
    /// **The bytes are unverified**: check them with `Block::verify` on a worker thread, and report wrong ones
    /// (`peers().report`).
    ///
    /// # Errors
    /// [`Error`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the request; the stream to the peer is reset.
    pub async fn fetch(
        &self,
        peer: PeerId,
        ids: Vec<BlockId>,
        silence: Duration,
    ) -> Result<Vec<(BlockId, Answer)>, Error> {
        self.ask(self.question(peer, ids, Want::Block, silence))
            .await
    }

    /// As [`fetch`](Self::fetch), for one block of which the `beginning` may be here. What comes of
    /// an answer that breaks off is added to it; after a whole block it only tells which bytes came
    /// from whom. `arrivals` counts the bytes as they come.
    ///
    /// # Errors
    /// [`Error`].
    ///
    /// # Cancel safety
    /// As [`fetch`](Self::fetch); what has come in this request is lost.
    pub async fn fetch_rest(
        &self,
        peer: PeerId,
        id: BlockId,
        beginning: &mut Beginning,
        silence: Duration,
        arrivals: Arc<Arrivals>,
    ) -> Result<Answer, Error> {
        if beginning.len() >= MAX_BLOCK_BYTES {
            // All of it came and its end was not seen.
            *beginning = Beginning::default();
        }
        let rest = Rest::default();
        let ask = Ask {
            offset: beginning.len(),
            rest: Some(rest.clone()),
            arrivals,
            ..self.question(peer, vec![id], Want::Block, silence)
        };
        let answered = self.ask(ask).await;
        // The stream that reads the answer holds the lock until it has told what it has.
        let came = timeout(RELEASE_TIMEOUT, rest.lock()).await;
        let answer = answered.map(|answers| answers.into_iter().next());
        match answer {
            Ok(Some((_, Answer::Block(bytes)))) => {
                let offset = came.map_or(0, |came| came.offset);
                Ok(Answer::Block(beginning.complete(peer, offset, bytes)))
            }
            Ok(answer) => Ok(answer.map_or(Answer::Busy, |(_, answer)| answer)),
            Err(error) => {
                if let Ok(came) = came {
                    beginning.add(peer, came.offset, &came.bytes);
                }
                Err(error)
            }
        }
    }

    /// Asks `peer` which blocks it has: each answer is [`Answer::Have`], [`Answer::DontHave`] or [`Answer::Busy`].
    ///
    /// # Errors
    /// [`Error`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the request.
    pub async fn have(
        &self,
        peer: PeerId,
        ids: Vec<BlockId>,
        silence: Duration,
    ) -> Result<Vec<(BlockId, Answer)>, Error> {
        self.ask(self.question(peer, ids, Want::Have, silence))
            .await
    }

    fn question(&self, peer: PeerId, ids: Vec<BlockId>, want: Want, silence: Duration) -> Ask {
        Ask {
            peer,
            ids,
            want,
            offset: 0,
            rest: None,
            wait: Wait::new(self.lines.of(peer), silence.min(MAX_SILENCE)),
            abandoned: CancellationToken::new(),
            arrivals: Arc::default(),
        }
    }

    async fn ask(&self, ask: Ask) -> Result<Vec<(BlockId, Answer)>, Error> {
        if ask.ids.is_empty() {
            return Ok(Vec::new());
        }
        let distinct: std::collections::HashSet<&BlockId> = ask.ids.iter().collect();
        if ask.ids.len() > MAX_IDS || distinct.len() != ask.ids.len() {
            return Err(Error::TooManyIds(ask.ids.len()));
        }
        let (peer, wait) = (ask.peer, ask.wait.clone());
        // Dropped with this future: then the codec gives up and resets the stream.
        let _abandon = ask.abandoned.clone().drop_guard();
        let answered = async {
            let answered = self.send(ask.clone()).await;
            // Its addresses may be those of yesterday. Others may know better.
            if !matches!(answered, Err(Error::Unreachable { .. })) || !(self.seek)(peer).await {
                return answered;
            }
            self.send(ask).await
        };
        tokio::select! {
            biased;
            answered = answered => answered,
            () = wait.over() => Err(Error::TimedOut { peer }),
        }
    }

    async fn send(&self, ask: Ask) -> Result<Vec<(BlockId, Answer)>, Error> {
        let permit = self
            .permits
            .acquire(ask.peer)
            .await
            .ok_or(Error::Stopping)?;
        let (reply, answer) = oneshot::channel();
        let command = Command::Ask { ask, permit, reply };
        self.mailbox
            .send(command)
            .await
            .map_err(|_| Error::Stopping)?;
        answer.await.map_err(|_| Error::Stopping)?
    }
}
