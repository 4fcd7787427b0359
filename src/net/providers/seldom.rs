//! Lines for the log that somebody else may cause as often as it likes.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One line a cause within so long.
const INTERVAL: Duration = Duration::from_secs(60);

/// Says what goes wrong at most once a minute for each cause, with how often it happened.
#[derive(Debug, Default)]
pub(super) struct Seldom(Mutex<HashMap<&'static str, (Instant, u64)>>);

impl Seldom {
    /// Something went wrong.
    pub(super) fn warn(&self, cause: &'static str, error: &dyn Display) {
        if let Some(unsaid) = self.due(cause, Instant::now()) {
            tracing::warn!(%error, unsaid, "{cause}");
        }
    }

    /// Number of times that a cause was not told of since the last line, when the next one is due.
    /// Causes are constants, so there are few.
    fn due(&self, cause: &'static str, now: Instant) -> Option<u64> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((last, unsaid)) = told.get_mut(cause) else {
            told.insert(cause, (now, 0));
            return Some(0);
        };
        if now.saturating_duration_since(*last) < INTERVAL {
            *unsaid += 1;
            return None;
        }
        *last = now;
        Some(std::mem::take(unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_of_once_a_minute() {
        let (seldom, now) = (Seldom::default(), Instant::now());
        assert_eq!(seldom.due("one", now), Some(0));
        for _ in 0..3_900 {
            assert_eq!(seldom.due("one", now + INTERVAL / 2), None);
        }
        assert_eq!(seldom.due("other", now), Some(0));
        assert_eq!(seldom.due("one", now + INTERVAL), Some(3_900));
    }
}
