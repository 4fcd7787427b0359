//! The asking side: requests under way.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::Arc;

use libp2p::PeerId;
use libp2p::request_response::{self as rr, OutboundFailure, OutboundRequestId};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::codec::{Codec, Parcel, Request, Response};
use super::rest::Rest;
use super::wait::Wait;
use super::{Answer, Error, Event, Permit, Want};
use crate::id::BlockId;
use crate::net::pace::Arrivals;

/// What to ask whom, and until when.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) peer: PeerId,
    pub(crate) ids: Vec<BlockId>,
    pub(crate) want: Want,
    pub(crate) offset: usize,
    pub(super) rest: Option<Rest>,
    pub(super) wait: Wait,
    pub(crate) abandoned: CancellationToken,
    pub(crate) arrivals: Arc<Arrivals>,
}

type Answers = Result<Vec<(BlockId, Answer)>, Error>;

struct Pending {
    ask: Ask,
    reply: oneshot::Sender<Answers>,
    /// Held until the request has ended on the wire, also when nobody waits for it any more.
    _permit: Permit,
    again: bool,
}

/// Our requests under way. Bounded by the permits that they hold.
pub(super) struct Client {
    pending: HashMap<OutboundRequestId, Pending>,
    /// Offered with each request for blocks.
    rate: u64,
}

impl Client {
    pub(super) fn new(rate: u64) -> Self {
        Self {
            pending: HashMap::new(),
            rate,
        }
    }

    /// Sends a request.
    pub(super) fn ask(
        &mut self,
        inner: &mut rr::Behaviour<Codec>,
        ask: Ask,
        permit: Permit,
        reply: oneshot::Sender<Answers>,
    ) {
        let pending = Pending {
            ask,
            reply,
            _permit: permit,
            again: true,
        };
        self.send(inner, pending);
    }

    fn send(&mut self, inner: &mut rr::Behaviour<Codec>, pending: Pending) {
        let ask = &pending.ask;
        let parcel = Parcel {
            request: Request::new(ask.ids.clone(), ask.want)
                .with_rate(self.rate)
                .with_offset(ask.offset),
            wait: Some(ask.wait.clone()),
            rest: ask.rest.clone(),
            abandoned: ask.abandoned.clone(),
            arrivals: ask.arrivals.clone(),
        };
        let id = inner.send_request(&ask.peer, Ok(parcel));
        self.pending.insert(id, pending);
    }

    /// Whether nothing is under way to a peer.
    pub(super) fn is_quiet(&self, peer: PeerId) -> bool {
        self.pending
            .values()
            .all(|pending| pending.ask.peer != peer)
    }

    /// A response has come.
    pub(super) fn answered(
        &mut self,
        peer: PeerId,
        id: OutboundRequestId,
        response: Response,
    ) -> Option<Event> {
        let pending = self.pending.remove(&id)?;
        match response {
            Response::Refused(code) => {
                let _ = pending.reply.send(Err(Error::Refused { peer, code }));
                None
            }
            Response::RateTooLow { wanted } => {
                let error = Error::RateTooLow { peer, wanted };
                let _ = pending.reply.send(Err(error));
                None
            }
            Response::Part { id, offset, bytes } => {
                let len = bytes.len();
                if let Some(Ok(mut came)) = pending.ask.rest.as_ref().map(|rest| rest.try_lock()) {
                    came.offset = offset;
                }
                let _ = pending.reply.send(Ok(vec![(id, Answer::Block(bytes))]));
                Some(Event::Received { peer, bytes: len })
            }
            Response::Answers(answers) => {
                let bytes = block_bytes(answers.iter().map(|(_, answer)| answer));
                // The caller may have given up in the meantime.
                let _ = pending.reply.send(Ok(answers));
                (bytes > 0).then_some(Event::Received { peer, bytes })
            }
        }
    }

    /// A request has failed.
    pub(super) fn failed(
        &mut self,
        inner: &mut rr::Behaviour<Codec>,
        id: OutboundRequestId,
        failure: &OutboundFailure,
    ) -> Option<Event> {
        let mut pending = self.pending.remove(&id)?;
        let peer = pending.ask.peer;
        // One of two connections to the same peer is closed soon after both were made; what was under way on it goes over
        // the other. Asking twice does no harm.
        let may_be_double = matches!(failure, OutboundFailure::ConnectionClosed);
        if may_be_double && pending.again && !pending.reply.is_closed() && inner.is_connected(&peer)
        {
            pending.again = false;
            self.send(inner, pending);
            return None;
        }
        let error = to_error(peer, failure);
        let event = matches!(error, Error::Protocol { .. }).then_some(Event::Misbehaved { peer });
        tracing::debug!(%peer, %error, "request failed");
        let _ = pending.reply.send(Err(error));
        event
    }
}

/// Bytes of blocks in some answers.
pub(super) fn block_bytes<'a>(answers: impl Iterator<Item = &'a Answer>) -> usize {
    answers
        .map(|answer| match answer {
            Answer::Block(bytes) => bytes.len(),
            Answer::Have | Answer::DontHave | Answer::Busy => 0,
        })
        .sum()
}

fn to_error(peer: PeerId, failure: &OutboundFailure) -> Error {
    match failure {
        OutboundFailure::DialFailure => Error::Unreachable { peer },
        OutboundFailure::Timeout => Error::TimedOut { peer },
        OutboundFailure::ConnectionClosed => Error::Closed { peer },
        OutboundFailure::UnsupportedProtocols => Error::Unsupported { peer },
        OutboundFailure::Io(error) => match error.kind() {
            ErrorKind::InvalidData => Error::Protocol {
                peer,
                what: error.to_string(),
            },
            ErrorKind::TimedOut => Error::TimedOut { peer },
            // libp2p's own bound on streams; the permits keep us below it.
            ErrorKind::Other => Error::Busy { peer },
            _ => Error::Closed { peer },
        },
    }
}
