//! How long an answer is waited for.
//!
//! A slow line is not a dead one: each byte of blocks that comes from a peer starts the time anew,
//! for the answer that it belongs to and for all others that are asked of the same peer, which wait
//! behind it. An answer that gets nothing itself for several times as long has been passed over,
//! and none takes longer than [`MAX_TIME`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use libp2p::PeerId;
use tokio::time::{Instant, sleep_until};

use super::MAX_TIME;
use crate::net::frame::Flow;

/// An answer waits for others of its peer for so many times the silence that is allowed.
const TURNS: u32 = 10;

/// When bytes last came from each peer that is being asked.
#[derive(Debug, Default)]
pub(in crate::net) struct Lines(Mutex<HashMap<PeerId, Weak<Flow>>>);

impl Lines {
    pub(super) fn of(&self, peer: PeerId) -> Arc<Flow> {
        // The table is whole between two statements.
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.get(&peer).and_then(Weak::upgrade) {
            return line;
        }
        // Bounded by the callers: each holds its line.
        lines.retain(|_, line| line.strong_count() > 0);
        let line = Arc::new(Flow::default());
        lines.insert(peer, Arc::downgrade(&line));
        line
    }
}

/// The wait for one answer.
#[derive(Debug, Clone)]
pub(crate) struct Wait {
    began: Instant,
    silence: Duration,
    line: Arc<Flow>,
    own: Arc<Flow>,
}

impl Wait {
    /// A wait that allows so much silence.
    pub(super) fn new(line: Arc<Flow>, silence: Duration) -> Self {
        Self {
            began: Instant::now(),
            silence,
            line,
            own: Arc::default(),
        }
    }

    /// A part of the answer has come.
    pub(super) fn came(&self) {
        self.line.moved();
        self.own.moved();
    }

    fn until(&self) -> Instant {
        let line = self.line.at().max(self.began) + self.silence;
        let own = self.own.at().max(self.began) + self.silence * TURNS;
        line.min(own).min(self.began + MAX_TIME)
    }

    /// Ends when the answer need not be waited for any longer.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub(super) async fn over(&self) {
        loop {
            let until = self.until();
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{sleep, timeout};

    const SILENCE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_wait_and_bytes_of_the_same_peer_extend_it() {
        let lines = Lines::default();
        let peer = PeerId::random();
        let wait = Wait::new(lines.of(peer), SILENCE);
        let began = Instant::now();
        wait.over().await;
        assert_eq!(began.elapsed(), SILENCE);

        let wait = Wait::new(lines.of(peer), SILENCE);
        let other = Wait::new(lines.of(peer), SILENCE);
        let began = Instant::now();
        let comes = async {
            for _ in 0..5 {
                sleep(SILENCE / 2).await;
                other.came();
            }
        };
        futures::join!(wait.over(), comes);
        assert_eq!(began.elapsed(), 5 * SILENCE / 2 + SILENCE);
        let stranger = Wait::new(lines.of(PeerId::random()), SILENCE);
        wait.came();
        assert!(
            timeout(SILENCE, stranger.over()).await.is_ok(),
            "another line"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_passed_over_and_one_that_trickles_end_too() {
        let lines = Lines::default();
        let peer = PeerId::random();
        for own in [false, true] {
            let wait = Wait::new(lines.of(peer), SILENCE);
            let other = Wait::new(lines.of(peer), SILENCE);
            let trickles = async {
                loop {
                    sleep(SILENCE / 2).await;
                    if own { wait.came() } else { other.came() }
                }
            };
            let began = Instant::now();
            tokio::select! {
                () = wait.over() => {}
                () = trickles => {}
            }
            let expected = if own { MAX_TIME } else { SILENCE * TURNS };
            assert_eq!(began.elapsed(), expected);
        }
    }

    #[test]
    fn lines_of_peers_that_nobody_asks_are_forgotten() {
        let lines = Lines::default();
        for _ in 0..100 {
            drop(lines.of(PeerId::random()));
        }
        assert!(lines.0.lock().expect("whole").len() <= 1);
    }
}
