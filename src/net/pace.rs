//! How fast blocks may move: a bucket of tokens for each direction, whose rate can be changed while it is in use.
//!
//! Invariant: while a rate is set, what is drawn in any span of `t` seconds is at most `rate * t` plus [`BURST_BYTES`].
//!
//! Deliberately absent: the hours in which a limit applies, which are somebody else's to look at; and whatever is no block: the DHT, pings,
//! questions whether a block is there.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use crate::block::MAX_BLOCK_BYTES;

/// Most bytes that may be drawn at once after a silence: one response of the largest size.
pub const BURST_BYTES: u64 = 2 * MAX_BLOCK_BYTES as u64;
/// Lowest rate in bytes per second that can be set: a block of the largest size gets through well within the time that a request may
/// take.
pub const MIN_RATE: u64 = 128 << 10;
/// How much may have been asked for and not come yet: what the rate carries in this time. More would wait past its deadline.
const AHEAD: Duration = Duration::from_secs(10);
/// Who waits for a rate looks again after this time, as the rate may have changed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const NANOS_PER_S: u128 = 1_000_000_000;

/// Tokens, one a byte. Pure: times are since some moment before all of them.
#[derive(Debug)]
struct Bucket {
    /// In billionths of a byte, so that nothing is lost to rounding.
    level: u128,
    rate: u64,
    at: Duration,
}

impl Bucket {
    const FULL: u128 = BURST_BYTES as u128 * NANOS_PER_S;

    const fn new() -> Self {
        Self {
            level: Self::FULL,
            rate: 0,
            at: Duration::ZERO,
        }
    }

    /// Takes tokens, or says after what time to try again. No rate: they are free. More than a burst counts as one burst: it could never
    /// be had otherwise.
    fn take(&mut self, now: Duration, rate: u64, bytes: u64) -> Result<(), Duration> {
        let passed = now.saturating_sub(self.at).as_nanos();
        // What has passed went by at the old rate.
        let earned = passed.saturating_mul(u128::from(self.rate));
        self.level = self.level.saturating_add(earned).min(Self::FULL);
        self.at = self.at.max(now);
        self.rate = rate;
        if rate == 0 {
            return Ok(());
        }
        let wanted = u128::from(bytes.min(BURST_BYTES)) * NANOS_PER_S;
        if let Some(left) = self.level.checked_sub(wanted) {
            self.level = left;
            return Ok(());
        }
        let nanos = (wanted - self.level).div_ceil(u128::from(rate));
        Err(Duration::from_nanos(
            u64::try_from(nanos).unwrap_or(u64::MAX),
        ))
    }
}

/// Holds one direction to a rate, whoever draws from it.
#[derive(Debug)]
pub struct Meter {
    rate: AtomicU64,
    bucket: Mutex<Bucket>,
    began: Instant,
    /// Who waits for tokens, in order.
    line: tokio::sync::Mutex<()>,
    ahead: Mutex<u64>,
    freed: Notify,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            rate: AtomicU64::new(0),
            bucket: Mutex::new(Bucket::new()),
            began: Instant::now(),
            line: tokio::sync::Mutex::default(),
            ahead: Mutex::new(0),
            freed: Notify::new(),
        }
    }
}

impl Meter {
    /// Sets the rate in bytes per second; 0 means none. Who waits already notices within a second.
    pub fn set_rate(&self, rate: u64) {
        self.rate.store(rate, Ordering::Relaxed);
    }

    /// The rate in bytes per second; 0 means none.
    pub fn rate(&self) -> u64 {
        self.rate.load(Ordering::Relaxed)
    }

    /// Whether there is a rate.
    pub fn is_limited(&self) -> bool {
        self.rate() != 0
    }

    fn take(&self, bytes: u64) -> Result<(), Duration> {
        // A bucket is whole between two statements.
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take(self.began.elapsed(), self.rate(), bytes)
    }

    /// Waits until so many bytes, at most [`BURST_BYTES`], may move, and counts them. First come, first served.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place in line; nothing is counted.
    pub(crate) async fn draw(&self, bytes: u64) {
        if !self.is_limited() {
            return;
        }
        let _turn = self.line.lock().await;
        while let Err(wait) = self.take(bytes) {
            sleep(wait.min(LOOK_AGAIN)).await;
        }
    }

    /// Waits until one more block may be asked for without being late: as long as the answer is under way, hold what this returns.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn ahead(self: &Arc<Self>) -> Ahead {
        loop {
            let freed = self.freed.notified();
            {
                let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
                if may_ask(self.rate(), *ahead) {
                    *ahead += 1;
                    return Ahead(self.clone());
                }
            }
            // Timed out or not: look again.
            let _ = timeout(LOOK_AGAIN, freed).await;
        }
    }
}

/// Whether one more block may be asked for, when answers to so many are to come.
fn may_ask(rate: u64, ahead: u64) -> bool {
    let bytes = (ahead + 1).saturating_mul(MAX_BLOCK_BYTES as u64);
    rate == 0 || ahead == 0 || bytes <= rate.saturating_mul(AHEAD.as_secs())
}

/// One block that was asked for. See [`Meter::ahead`].
#[derive(Debug)]
#[must_use]
pub struct Ahead(Arc<Meter>);

impl Drop for Ahead {
    fn drop(&mut self) {
        *self.0.ahead.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.freed.notify_one();
    }
}

/// Bytes of blocks that have come for one piece of work, counted while a response is still under
/// way.
#[derive(Debug, Default)]
pub struct Arrivals {
    bytes: AtomicU64,
    /// The larger piece of work that this one is a part of.
    whole: Option<Arc<Self>>,
}

impl Arrivals {
    /// A count of its own whose bytes are counted in `whole` as well.
    pub fn part_of(whole: Arc<Self>) -> Self {
        Self {
            bytes: AtomicU64::new(0),
            whole: Some(whole),
        }
    }

    /// Bytes that have come so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Counts bytes that have come.
    pub(crate) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some(whole) = &self.whole {
            whole.add(bytes);
        }
    }
}

/// Both directions. Clones share their meters.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    /// Blocks served.
    pub up: Arc<Meter>,
    /// Blocks fetched.
    pub down: Arc<Meter>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whoever draws as fast as it may, in whatever portions, stays within rate and burst over any span.
        #[test]
        fn no_span_exceeds_rate_and_one_burst(
            rate in 1u64..50_000_000,
            draws in proptest::collection::vec((0u64..3_000, 1u64..=BURST_BYTES), 1..60),
        ) {
            let (mut bucket, mut now) = (Bucket::new(), Duration::ZERO);
            let mut drawn: Vec<(Duration, u64)> = Vec::new();
            for (pause_ms, bytes) in draws {
                now += Duration::from_millis(pause_ms);
                while let Err(wait) = bucket.take(now, rate, bytes) {
                    prop_assert!(wait > Duration::ZERO);
                    now += wait;
                }
                drawn.push((now, bytes));
            }
            for (n, (from, _)) in drawn.iter().enumerate() {
                let mut sum = 0;
                for (to, bytes) in &drawn[n..] {
                    sum += u128::from(*bytes);
                    let span = (*to - *from).as_nanos() * u128::from(rate) / NANOS_PER_S;
                    prop_assert!(sum <= span + u128::from(BURST_BYTES) + 1);
                }
            }
        }

        /// A rate that changes at any time earns nothing that neither rate would have given.
        #[test]
        fn changing_rates_earn_what_each_gives(
            steps in proptest::collection::vec((0u64..2_000, 0u64..3_000_000, 1u64..200_000), 1..60),
        ) {
            let (mut bucket, mut now, mut was) = (Bucket::new(), Duration::ZERO, 0);
            let mut allowed = u128::from(BURST_BYTES);
            let mut drawn = 0;
            for (pause_ms, rate, bytes) in steps {
                now += Duration::from_millis(pause_ms);
                allowed += u128::from(was) * u128::from(pause_ms) / 1_000 + 1;
                if bucket.take(now, rate, bytes).is_ok() && rate > 0 {
                    drawn += u128::from(bytes);
                }
                prop_assert!(drawn <= allowed);
                was = rate;
            }
        }
    }

    #[test]
    fn a_burst_is_the_most_at_once_and_the_wait_is_exact() {
        let mut bucket = Bucket::new();
        let rate = 1 << 20;
        assert_eq!(bucket.take(Duration::ZERO, rate, BURST_BYTES), Ok(()));
        let second = Duration::from_secs(1);
        assert_eq!(bucket.take(Duration::ZERO, rate, 1 << 20), Err(second));
        let early = second - Duration::from_nanos(1000);
        assert!(bucket.take(early, rate, 1 << 20).is_err());
        assert_eq!(bucket.take(second, rate, 1 << 20), Ok(()));
        // A long silence earns one burst, not more.
        let late = Duration::from_secs(1_000_000);
        assert_eq!(bucket.take(late, rate, u64::MAX), Ok(()));
        assert!(bucket.take(late, rate, 1).is_err());
        // No rate: nothing is counted.
        assert_eq!(bucket.take(late, 0, u64::MAX), Ok(()));
    }

    #[test]
    fn no_more_is_asked_for_than_can_come_in_time() {
        assert!(may_ask(0, 1_000_000), "no rate");
        assert!(may_ask(MIN_RATE, 0), "one block is always allowed");
        assert!(!may_ask(MIN_RATE, 1));
        let rate = MAX_BLOCK_BYTES as u64;
        assert!(may_ask(rate, AHEAD.as_secs() - 1));
        assert!(!may_ask(rate, AHEAD.as_secs()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_draws_waits_and_a_rate_that_is_lifted_lets_it_go() {
        let meter = Arc::new(Meter::default());
        meter.set_rate(1 << 20);
        let began = Instant::now();
        meter.draw(BURST_BYTES).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        meter.draw(3 << 20).await;
        let took = began.elapsed();
        assert!(took >= Duration::from_secs(3) && took < Duration::from_millis(3_100));
        let waiting = tokio::spawn({
            let meter = meter.clone();
            async move { meter.draw(BURST_BYTES).await }
        });
        tokio::task::yield_now().await;
        meter.set_rate(0);
        waiting.await.expect("no panic");
        assert!(began.elapsed() <= took + LOOK_AGAIN + Duration::from_millis(10));
    }

    #[tokio::test(start_paused = true)]
    async fn places_ahead_are_given_back() {
        let meter = Arc::new(Meter::default());
        meter.set_rate(MIN_RATE);
        let first = meter.ahead().await;
        let waiting = timeout(Duration::from_secs(60), meter.ahead()).await;
        assert!(waiting.is_err(), "only one fits");
        drop(first);
        let _second = meter.ahead().await;
        assert_eq!(*meter.ahead.lock().expect("whole"), 1);
    }
}
