//! The answering side: requests of peers, from their arrival until the answer is sent.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use libp2p::PeerId;
use libp2p::request_response::{InboundRequestId, ResponseChannel};

use super::client::block_bytes;
use super::codec::{Reply, Request, Response};
use super::{Answer, BlockService, Setup, Standing, Want};
use crate::block::MAX_BLOCK_BYTES;
use crate::id::BlockId;
use crate::net::admission::{Bounds, Offered, RequestQueue, Reservation, Site, StandingOf};
use crate::net::frame::Flow;
use crate::net::pace::{BURST_BYTES, Meter};

/// What a request reserves besides blocks: its ids and its place in tables.
const REQUEST_OVERHEAD_BYTES: usize = 8 << 10;
/// With a limit on what is sent, no more requests are started while so much waits to be sent: the others wait where standings count.
const PACED_AHEAD_BYTES: usize = BURST_BYTES as usize;

struct Incoming {
    id: InboundRequestId,
    request: Request,
    channel: ResponseChannel<Reply>,
}

/// A response that is ready to be sent.
pub(super) struct Outgoing {
    pub(super) peer: PeerId,
    pub(super) bytes: usize,
    pub(super) response: Response,
    pub(super) channel: ResponseChannel<Reply>,
}

type Answers = Vec<(BlockId, Answer)>;
/// Answers, and where the one block among them begins.
type Answered = (InboundRequestId, Answers, usize);

/// A request that is being answered.
struct Started {
    reservation: Reservation,
    /// None once the answer was handed out.
    channel: Option<ResponseChannel<Reply>>,
    /// What it counts for until its answer is handed out.
    ahead_bytes: usize,
}

/// An answer with blocks that waits until they may be sent.
struct Ready {
    id: InboundRequestId,
    bytes: usize,
    answers: Answers,
    offset: usize,
}

/// Requests of peers.
pub(super) struct Server {
    service: Arc<dyn BlockService>,
    standing: StandingOf,
    /// Lowest rate that is accepted for blocks.
    min_rate: u64,
    meter: Arc<Meter>,
    stall: Duration,
    /// Of connected peers.
    flows: HashMap<PeerId, Arc<Flow>>,
    admission: RequestQueue<Incoming>,
    working: FuturesUnordered<BoxFuture<'static, Answered>>,
    started: HashMap<InboundRequestId, Started>,
    /// Sum of what is started and not handed out.
    ahead_bytes: usize,
    /// Bounded by what is reserved.
    ready: VecDeque<Ready>,
    /// The next of these, and its wait.
    drawing: Option<(Ready, BoxFuture<'static, ()>)>,
}

impl Server {
    pub(super) fn new(setup: Setup<'_>) -> Self {
        let limits = setup.limits;
        let bounds = Bounds {
            bytes: limits.serving_bytes,
            bytes_of_strangers: limits.serving_bytes_of_strangers,
            bytes_per_member: limits.serving_bytes_per_member,
            bytes_per_stranger: limits.serving_bytes_per_stranger,
            started: limits.serving,
            started_of_strangers: limits.serving_strangers,
            waiting: limits.waiting,
            waiting_per_peer: limits.waiting_per_peer,
        };
        Self {
            service: setup.service,
            standing: setup.standing,
            min_rate: setup.rates.wanted,
            meter: setup.pace.up.clone(),
            stall: limits.stall,
            flows: HashMap::new(),
            admission: RequestQueue::new(bounds),
            working: FuturesUnordered::new(),
            started: HashMap::new(),
            ahead_bytes: 0,
            ready: VecDeque::new(),
            drawing: None,
        }
    }

    /// A request has come. Gives back an answer that is known at once: "busy" when the queue is full, to this request or to one that it
    /// displaces, or that its rate is too low.
    pub(super) fn asked(
        &mut self,
        peer: PeerId,
        id: InboundRequestId,
        request: Request,
        channel: ResponseChannel<Reply>,
    ) -> Option<Outgoing> {
        let standing = (self.standing)(peer);
        // Members of a ring owe each other what they do; whether a block is there is told to anybody.
        let is_free = standing == Standing::Member || request.want == Want::Have;
        if request.rate < self.min_rate && !is_free {
            let wanted = self.min_rate;
            return Some(Outgoing {
                peer,
                bytes: 0,
                response: Response::RateTooLow { wanted },
                channel,
            });
        }
        let bytes = request.max_bytes + REQUEST_OVERHEAD_BYTES;
        let incoming = Incoming {
            id,
            request,
            channel,
        };
        match self.admission.offer(peer, standing, bytes, incoming) {
            Offered::Queued => None,
            Offered::Displaced(other, displaced) => Some(busy(other, displaced)),
            Offered::TurnedAway(incoming) => Some(busy(peer, incoming)),
        }
    }

    /// The answer has been sent, or never will be.
    pub(super) fn finished(&mut self, id: InboundRequestId) {
        self.release(id);
        if let Some(started) = self.started.remove(&id) {
            self.admission.finish(started.reservation);
        }
    }

    /// Reply to a peer: the response, with the flow that tells whether the peer takes it.
    pub(super) fn reply(&self, peer: PeerId, response: Response) -> Reply {
        let flow = self.flows.get(&peer).cloned().unwrap_or_default();
        Reply {
            response,
            pushed: Some((flow, self.stall)),
        }
    }

    /// Whether nothing of a peer waits or is worked on.
    pub(super) fn is_quiet(&self, peer: PeerId) -> bool {
        self.admission.is_quiet(peer)
    }

    /// The peer is connected.
    pub(super) fn connected(&mut self, peer: PeerId, site: Option<Site>) {
        self.flows.entry(peer).or_default();
        if let Some(site) = site {
            self.admission.is_at(peer, site);
        }
    }

    /// The peer has no connection any more.
    pub(super) fn gone(&mut self, peer: PeerId) {
        self.flows.remove(&peer);
        self.admission.forget(peer);
    }

    /// Starts what may be started and gives back the next answer that is ready.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outgoing> {
        loop {
            while let Some((reservation, incoming)) = self.admission.start(self.most_bytes()) {
                self.work(reservation, incoming);
            }
            if let Poll::Ready(outgoing) = self.give(cx) {
                return Poll::Ready(outgoing);
            }
            let (id, answers, offset) = match self.working.poll_next_unpin(cx) {
                Poll::Ready(Some(answered)) => answered,
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            };
            let Some(started) = self.started.get_mut(&id) else {
                continue;
            };
            let bytes = block_bytes(answers.iter().map(|(_, answer)| answer));
            self.admission
                .shrink(&mut started.reservation, bytes + REQUEST_OVERHEAD_BYTES);
            let ready = Ready {
                id,
                bytes,
                answers,
                offset,
            };
            if bytes > 0 {
                self.ready.push_back(ready);
            } else if let Some(outgoing) = self.hand_out(ready) {
                return Poll::Ready(outgoing);
            }
        }
    }

    /// What a request may reserve at most to be started now: questions whether a block is there never wait for blocks.
    fn most_bytes(&self) -> usize {
        if self.meter.is_limited() && self.ahead_bytes >= PACED_AHEAD_BYTES {
            REQUEST_OVERHEAD_BYTES
        } else {
            usize::MAX
        }
    }

    /// The next answer with blocks, once they may be sent.
    fn give(&mut self, cx: &mut Context<'_>) -> Poll<Outgoing> {
        loop {
            let (next, mut drawn) = match self.drawing.take() {
                Some(drawing) => drawing,
                None => {
                    let Some(next) = self.ready.pop_front() else {
                        return Poll::Pending;
                    };
                    let (meter, bytes) = (self.meter.clone(), next.bytes as u64);
                    (next, async move { meter.draw(bytes).await }.boxed())
                }
            };
            let channel = self
                .started
                .get(&next.id)
                .and_then(|started| started.channel.as_ref());
            if !channel.is_some_and(ResponseChannel::is_open) {
                // Nobody waits for it any more: what is not sent is not counted.
                self.release(next.id);
                continue;
            }
            if drawn.poll_unpin(cx).is_pending() {
                self.drawing = Some((next, drawn));
                return Poll::Pending;
            }
            if let Some(outgoing) = self.hand_out(next) {
                return Poll::Ready(outgoing);
            }
        }
    }

    fn hand_out(&mut self, ready: Ready) -> Option<Outgoing> {
        self.release(ready.id);
        let started = self.started.get_mut(&ready.id)?;
        Some(Outgoing {
            peer: started.reservation.peer,
            bytes: ready.bytes,
            response: match (ready.offset, ready.answers.as_slice()) {
                (offset @ 1.., [(id, Answer::Block(bytes))]) => Response::Part {
                    id: *id,
                    offset,
                    bytes: bytes.clone(),
                },
                _ => Response::Answers(ready.answers),
            },
            channel: started.channel.take()?,
        })
    }

    /// A request no longer counts among those whose answers are to come.
    fn release(&mut self, id: InboundRequestId) {
        if let Some(started) = self.started.get_mut(&id) {
            self.ahead_bytes -= std::mem::take(&mut started.ahead_bytes);
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
        let ahead_bytes = match request.want {
            Want::Block => reservation.bytes(),
            Want::Have => 0,
        };
        self.ahead_bytes += ahead_bytes;
        let started = Started {
            reservation,
            channel: Some(channel),
            ahead_bytes,
        };
        self.started.insert(id, started);
        let Request {
            ids,
            want,
            max_bytes,
            offset,
            ..
        } = request;
        let answered = async move {
            let answers = service.blocks(peer, ids.clone(), want, max_bytes).await;
            let (answers, offset) = begin_at(fit(ids, answers, want, max_bytes), offset);
            (id, answers, offset)
        };
        self.working.push(answered.boxed());
    }
}

fn busy(peer: PeerId, turned_away: Incoming) -> Outgoing {
    let ids = turned_away.request.ids;
    Outgoing {
        peer,
        bytes: 0,
        response: Response::Answers(ids.into_iter().map(|id| (id, Answer::Busy)).collect()),
        channel: turned_away.channel,
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

/// Leaves out what comes before `offset` in the one block of some answers, and says where it
/// begins. A block that is not so long is sent as a whole: the asker has something else.
fn begin_at(mut answers: Answers, offset: usize) -> (Answers, usize) {
    match answers.as_mut_slice() {
        [(_, Answer::Block(bytes))] if offset < bytes.len() => {
            *bytes = bytes.slice(offset..);
            (answers, offset)
        }
        _ => (answers, 0),
    }
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
        let one = vec![(ids[0], block(5))];
        assert_eq!(begin_at(one.clone(), 2), (vec![(ids[0], block(3))], 2));
        assert_eq!(begin_at(one.clone(), 5), (one, 0), "it ends before");
        let have = fit(ids[..1].to_vec(), vec![block(60)], Want::Have, 0);
        assert_eq!(have, [(ids[0], Answer::Have)]);
    }
}
