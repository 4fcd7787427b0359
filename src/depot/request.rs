//! One request of a session: a block is asked of one peer, and what comes is checked.
//!
//! Invariant: the peer's place in the session's roster is free again once the request has ended, however it ends.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use libp2p::PeerId;
use tokio::time::Instant;

use super::fetch::UnderWay;
use super::session::{Peers, Shared, lock};
use super::{Inner, Traffic};
use crate::block::{Attempt, Block};
use crate::id::BlockId;
use crate::net::exchange::{self, Answer, Beginning};
use crate::net::pace::Arrivals;
use crate::net::peers::Misbehaviour;

/// How long one peer may be silent.
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);

/// A peer did not give the block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failed {
    pub(super) attempt: Attempt,
    /// It gave a piece.
    pub(super) gave_some: bool,
}

/// A request that has taken its peer's place in the roster. Frees it when it is dropped without an answer.
pub(super) struct Request {
    shared: Arc<Shared>,
    pub(super) peer: PeerId,
    open: bool,
}

impl Request {
    /// A request to a peer that the roster knows to be asked.
    pub(super) fn new(shared: Arc<Shared>, peer: PeerId) -> Self {
        Self {
            shared,
            peer,
            open: true,
        }
    }

    /// Asks, waits and checks. `began`: when the session did. What has come of the block is in
    /// `under_way`. `arrivals` counts the bytes that come.
    pub(super) async fn run(
        self,
        inner: Arc<Inner>,
        under_way: Arc<UnderWay>,
        id: BlockId,
        began: Instant,
        arrivals: Arc<Arrivals>,
    ) -> (PeerId, Result<Block, Failed>) {
        let peer = self.peer;
        let exchange = inner.net.exchange();
        // A block that was asked for and could not come within the limit in time would be asked for
        // again, for nothing.
        let _ahead = exchange.pace().ahead().await;
        let expected = inner.verifier.expect();
        let mut beginning = lock(&under_way.pieces).take(peer);
        let (asked, had) = (Instant::now(), beginning.len());
        let fetched = exchange
            .fetch_rest(peer, id, &mut beginning, ATTEMPT_TIMEOUT, arrivals)
            .await;
        drop(expected);
        let gave_some = beginning.len() > had;
        let answer = match fetched {
            Ok(Answer::Block(bytes)) => check(&inner, &under_way, id, peer, beginning, bytes).await,
            other => {
                lock(&under_way.pieces).keep(beginning);
                match other {
                    Ok(Answer::Busy) => Err(Attempt::Busy),
                    Ok(Answer::DontHave) => Err(Attempt::DontHave),
                    Ok(Answer::Have | Answer::Block(_)) => Err(Attempt::Failed),
                    Err(error) => Err(attempt_of(&error)),
                }
            }
        };
        // A piece is an answer.
        inner.heard(peer, answer.as_ref().err().filter(|_| !gave_some).copied());
        let (now, took) = (began.elapsed(), asked.elapsed());
        self.close(|Peers { roster, crowd }| match &answer {
            Ok(_) => roster.gave(peer, took),
            Err(_) if gave_some => roster.broke_off(peer, now),
            Err(attempt) => {
                roster.failed(peer, *attempt, now);
                match attempt {
                    Attempt::DontHave => crowd.heard(peer, id, false, now),
                    Attempt::Busy => {}
                    _ => crowd.lost(&peer),
                }
            }
        });
        let failed = |attempt| Failed { attempt, gave_some };
        (peer, answer.map_err(failed))
    }

    fn close(mut self, answer: impl FnOnce(&mut Peers)) {
        self.open = false;
        answer(&mut lock(&self.shared.peers));
        self.shared.changed.notify_waiters();
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if self.open {
            lock(&self.shared.peers).roster.dropped(self.peer);
            self.shared.changed.notify_waiters();
        }
    }
}

/// Checks that the bytes are the block, off the tasks that serve others. `from`: which of them came
/// from whom.
async fn check(
    inner: &Inner,
    under_way: &UnderWay,
    id: BlockId,
    peer: PeerId,
    from: Beginning,
    bytes: Bytes,
) -> Result<Block, Attempt> {
    match inner.verifier.verify(id, bytes.clone()).await {
        Some(Ok(block)) => {
            let liars = lock(&under_way.pieces).is_right(block.bytes());
            for liar in liars {
                wrong(inner, liar, &"its piece is not of the block").await;
            }
            Ok(block)
        }
        Some(Err(error)) => {
            let liar = lock(&under_way.pieces).is_wrong(from, bytes);
            match liar {
                Some(liar) => {
                    wrong(inner, liar, &error).await;
                    Err(match liar == peer {
                        true => Attempt::WrongBytes,
                        false => Attempt::Failed,
                    })
                }
                None => {
                    tracing::info!(%id, %peer, "pieces of several peers are no block: they are asked for whole ones");
                    Err(Attempt::Busy)
                }
            }
        }
        None => Err(Attempt::Failed),
    }
}

/// A peer has sent bytes that are not of the block that it was asked for.
async fn wrong(inner: &Inner, peer: PeerId, why: &(dyn std::fmt::Display + Sync)) {
    tracing::warn!(%peer, %why, "a peer sent wrong bytes");
    Traffic::add(&inner.traffic.wrong_blocks, 1);
    inner.ledger.wrong(peer);
    let peers = inner.net.peers();
    peers.report(peer, Misbehaviour::WrongBytes).await;
}

pub(super) fn attempt_of(error: &exchange::Error) -> Attempt {
    match error {
        exchange::Error::Unreachable { .. } => Attempt::Unreachable,
        exchange::Error::TimedOut { .. } => Attempt::TimedOut,
        exchange::Error::Busy { .. } => Attempt::Busy,
        exchange::Error::RateTooLow { wanted, .. } => Attempt::RateTooLow { wanted: *wanted },
        _ => Attempt::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{GetError, Tried};

    #[test]
    fn a_peer_that_wants_more_than_is_offered_is_named_with_what_it_wants() {
        let peer = PeerId::random();
        let attempt = attempt_of(&exchange::Error::RateTooLow { peer, wanted: 7 });
        let error = GetError::NotFound {
            id: BlockId::from_sha384([1; 48]),
            after: Duration::from_secs(1),
            tried: vec![Tried {
                peer: "somebody".to_owned(),
                attempt,
            }],
        };
        let text = error.to_string();
        let said = "somebody wants a rate of 7, more than is offered";
        assert!(text.ends_with(said), "{text}");
    }
}
