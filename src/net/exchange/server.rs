//! The answering side: requests of peers, from their arrival until the answer is sent.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use libp2p::PeerId;
use libp2p::request_response::{InboundRequestId, ResponseChannel};

use super::admission::{Admission, Bounds, Reservation};
use super::client::block_bytes;
use super::codec::{Request, Response};
use super::{Answer, BlockService, Want};
use crate::block::MAX_BLOCK_BYTES;
use crate::id::BlockId;
use crate::net::config::Limits;

/// What a request reserves besides blocks: its ids and its place in tables.
const REQUEST_OVERHEAD_BYTES: usize = 8 << 10;

struct Incoming {
    id: InboundRequestId,
    request: Request,
    channel: ResponseChannel<Response>,
}

/// A response that is ready to be sent.
pub(super) struct Outgoing {
    pub(super) peer: PeerId,
    pub(super) bytes: usize,
    pub(super) response: Response,
    pub(super) channel: ResponseChannel<Response>,
}

type Answered = (InboundRequestId, Vec<(BlockId, Answer)>);

/// Requests of peers.
pub(super) struct Server {
    service: Arc<dyn BlockService>,
    admission: Admission<Incoming>,
    working: FuturesUnordered<BoxFuture<'static, Answered>>,
    started: HashMap<InboundRequestId, (Reservation, Option<ResponseChannel<Response>>)>,
}

impl Server {
    pub(super) fn new(service: Arc<dyn BlockService>, limits: &Limits) -> Self {
        let bounds = Bounds {
            bytes: limits.serving_bytes,
            bytes_per_peer: limits.serving_bytes_per_peer,
            started: limits.serving,
            waiting: limits.waiting,
            waiting_per_peer: limits.waiting_per_peer,
        };
        Self {
            service,
            admission: Admission::new(bounds),
            working: FuturesUnordered::new(),
            started: HashMap::new(),
        }
    }

    /// A request has come. Gives back the answer "busy" when the queue is full.
    pub(super) fn asked(
        &mut self,
        peer: PeerId,
        id: InboundRequestId,
        request: Request,
        channel: ResponseChannel<Response>,
    ) -> Option<Outgoing> {
        let bytes = request.max_bytes + REQUEST_OVERHEAD_BYTES;
        let incoming = Incoming {
            id,
            request,
            channel,
        };
        let Err(turned_away) = self.admission.offer(peer, bytes, incoming) else {
            return None;
        };
        let ids = turned_away.request.ids;
        Some(Outgoing {
            peer,
            bytes: 0,
            response: Response::Answers(ids.into_iter().map(|id| (id, Answer::Busy)).collect()),
            channel: turned_away.channel,
        })
    }

    /// The answer has been sent, or never will be.
    pub(super) fn finished(&mut self, id: InboundRequestId) {
        if let Some((reservation, _)) = self.started.remove(&id) {
            self.admission.finish(reservation);
        }
    }

    /// Whether nothing of a peer waits or is worked on.
    pub(super) fn is_quiet(&self, peer: PeerId) -> bool {
        self.admission.is_quiet(peer)
    }

    /// The peer has no connection any more.
    pub(super) fn gone(&mut self, peer: PeerId) {
        self.admission.forget(peer);
    }

    /// Starts what may be started and gives back the next answer that is ready.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outgoing> {
        loop {
            while let Some((reservation, incoming)) = self.admission.start() {
                self.work(reservation, incoming);
            }
            let (id, answers) = match self.working.poll_next_unpin(cx) {
                Poll::Ready(Some(answered)) => answered,
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            };
            let Some((reservation, channel)) = self.started.get_mut(&id) else {
                continue;
            };
            let bytes = block_bytes(answers.iter().map(|(_, answer)| answer));
            self.admission
                .shrink(reservation, bytes + REQUEST_OVERHEAD_BYTES);
            let peer = reservation.peer;
            if let Some(channel) = channel.take() {
                return Poll::Ready(Outgoing {
                    peer,
                    bytes,
                    response: Response::Answers(answers),
                    channel,
                });
            }
        }
    }

    fn work(&mut self, reservation: Reservation, incoming: Incoming) {
        let Incoming {
            id,
            request,
            channel,
        } = incoming;
        if !channel.is_open() {
            self.admission.finish(reservation);
            return;
        }
        let service = self.service.clone();
        let peer = reservation.peer;
        self.started.insert(id, (reservation, Some(channel)));
        let Request {
            ids,
            want,
            max_bytes,
        } = request;
        let answered = async move {
            let answers = service.blocks(peer, ids.clone(), want, max_bytes).await;
            (id, fit(ids, answers, want, max_bytes))
        };
        self.working.push(answered.boxed());
    }
}

/// Holds what the service says against what the protocol allows.
fn fit(
    ids: Vec<BlockId>,
    answers: Vec<Answer>,
    want: Want,
    max_bytes: usize,
) -> Vec<(BlockId, Answer)> {
    let mut left = max_bytes;
    let answers = answers.into_iter().map(Some).chain(std::iter::repeat(None));
    let fitted = ids.into_iter().zip(answers).map(|(id, answer)| {
        let answer = match (answer.unwrap_or(Answer::Busy), want) {
            (Answer::Block(bytes), Want::Block)
                if bytes.is_empty() || bytes.len() > MAX_BLOCK_BYTES =>
            {
                Answer::DontHave
            }
            (Answer::Block(bytes), Want::Block) if bytes.len() > left => Answer::Busy,
            (Answer::Block(bytes), Want::Block) => {
                left -= bytes.len();
                Answer::Block(bytes)
            }
            (Answer::Block(_), Want::Have) => Answer::Have,
            // It has the block and can't give it now.
            (Answer::Have, Want::Block) => Answer::Busy,
            (answer, _) => answer,
        };
        (id, answer)
    });
    fitted.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn answers_are_made_to_fit() {
        let ids: Vec<BlockId> = (0..6).map(|n| BlockId::from_sha384([n; 48])).collect();
        let block = |len| Answer::Block(Bytes::from(vec![1; len]));
        let answers = vec![block(60), block(50), block(40), block(0), Answer::Have];
        let fitted: Vec<Answer> = fit(ids.clone(), answers, Want::Block, 100)
            .into_iter()
            .map(|(_, answer)| answer)
            .collect();
        assert_eq!(
            fitted,
            [
                block(60),
                Answer::Busy,
                block(40),
                Answer::DontHave,
                Answer::Busy,
                Answer::Busy
            ]
        );
        let have = fit(ids[..1].to_vec(), vec![block(60)], Want::Have, 0);
        assert_eq!(have, [(ids[0], Answer::Have)]);
    }
}
