//! One request of a session: a block is asked of one peer, and what comes is checked.
//!
//! Invariant: the peer's place in the session's roster is free again once the request has ended, however it ends.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use libp2p::PeerId;
use tokio::time::Instant;

use super::session::{Peers, Shared, lock};
use super::{Inner, Traffic};
use crate::block::{Attempt, Block};
use crate::id::BlockId;
use crate::net::exchange::{self, Answer};
use crate::net::pace::Arrivals;
use crate::net::peers::Misbehaviour;

/// How long one peer may take to answer one request.
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);

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

    /// Asks, waits and checks. `began`: when the session did. `arrivals` counts the bytes that
    /// come.
    pub(super) async fn run(
        self,
        inner: Arc<Inner>,
        id: BlockId,
        began: Instant,
        arrivals: Arc<Arrivals>,
    ) -> (PeerId, Result<Block, Attempt>) {
        let peer = self.peer;
        let exchange = inner.net.exchange();
        // A block that was asked for and could not come within the limit in time would be asked for
        // again, for nothing.
        let _ahead = exchange.pace().ahead().await;
        let expected = inner.verifier.expect();
        let fetched = exchange
            .fetch_counted(peer, vec![id], ATTEMPT_TIMEOUT, arrivals)
            .await;
        drop(expected);
        let answer = match fetched {
            Ok(answers) => match answers.into_iter().find(|(answered, _)| *answered == id) {
                Some((_, Answer::Block(bytes))) => check(&inner, id, peer, bytes).await,
                Some((_, Answer::Busy)) => Err(Attempt::Busy),
                Some((_, Answer::DontHave)) => Err(Attempt::DontHave),
                Some((_, Answer::Have)) | None => Err(Attempt::Failed),
            },
            Err(error) => Err(attempt_of(&error)),
        };
        inner.heard(peer, answer.as_ref().err().copied());
        let now = began.elapsed();
        self.close(|Peers { roster, crowd }| match &answer {
            Ok(_) => roster.gave(peer),
            Err(attempt) => {
                roster.failed(peer, *attempt, now);
                match attempt {
                    Attempt::DontHave => crowd.heard(peer, id, false, now),
                    Attempt::Busy => {}
                    _ => crowd.lost(&peer),
                }
            }
        });
        (peer, answer)
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

/// Checks that the bytes are the block, off the tasks that serve others.
async fn check(inner: &Inner, id: BlockId, peer: PeerId, bytes: Bytes) -> Result<Block, Attempt> {
    let checked = inner.verifier.verify(id, bytes).await;
    match checked {
        Some(Ok(block)) => Ok(block),
        Some(Err(error)) => {
            tracing::warn!(%peer, %error, "a peer sent wrong bytes");
            Traffic::add(&inner.traffic.wrong_blocks, 1);
            inner.ledger.wrong(peer);
            inner
                .net
                .peers()
                .report(peer, Misbehaviour::WrongBytes)
                .await;
            Err(Attempt::WrongBytes)
        }
        None => Err(Attempt::Failed),
    }
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
