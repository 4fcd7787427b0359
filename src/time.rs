//! Wall-clock time as a number that can be stored, a clock that only goes on, one that tests can
//! set, and the zone in which people read times.
//!
//! Policy never asks what time it is: it gets a [`Timestamp`] as an argument. What fades or waits
//! within one run goes by a [`SteadyClock`]; what is stored, or told to others, by the machine's.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Zoned;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// The link or file that says a system's zone.
const SYSTEM_ZONE: &str = "/etc/localtime";

/// Milliseconds since 1970-01-01 UTC.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This much later, at most the end of time.
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration.as_millis() as u64))
    }

    /// The time from `earlier` to `self`; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Time on the wall clock of a zone. A time that no calendar reaches was not made by a
    /// clock of ours: it counts as the last moment that a calendar does reach.
    pub fn in_zone(self, zone: &TimeZone) -> Zoned {
        let millis = i64::try_from(self.0).unwrap_or(i64::MAX);
        let instant = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX);
        instant.to_zoned(zone.clone())
    }
}

/// The zone of the clock on the wall: what the variable TZ says, else the system. UTC where neither
/// says anything that is known.
pub fn zone() -> TimeZone {
    TimeZone::try_system().unwrap_or(TimeZone::UTC)
}

/// Why [`zone`] is UTC although somebody asked for another zone. `tz`: the variable TZ.
pub fn zone_problem(tz: Option<&str>) -> Option<String> {
    let why = TimeZone::try_system().err()?;
    match tz {
        Some(tz) => Some(format!("the time zone TZ={tz} is not known")),
        // A system without that file, such as a container, is in UTC: all programs agree.
        None if std::fs::symlink_metadata(SYSTEM_ZONE).is_err() => None,
        None => Some(format!(
            "the time zone in {SYSTEM_ZONE} can't be read: {why}"
        )),
    }
}

/// Longest time that a person may give for something to take, in seconds: a week.
const MAX_SECONDS: u64 = 7 * 24 * 3600;

/// Reads how long something may take, in seconds: `30s`, `10m`, `2h`, `7d`; a number alone is
/// seconds.
///
/// # Errors
/// Another form, or a time that is not between a second and a week, in words.
pub fn seconds(text: &str) -> Result<u64, String> {
    let days = text.strip_suffix('d').and_then(|days| days.parse().ok());
    let seconds = match (text.parse::<u64>(), days) {
        (Ok(seconds), _) => Some(seconds),
        // Of days the parser does not know how long they are.
        (_, Some(days)) => Some(u64::saturating_mul(days, 24 * 3600)),
        _ => {
            let time = text.parse::<jiff::SignedDuration>().ok();
            time.and_then(|time| u64::try_from(time.as_secs()).ok())
        }
    };
    match seconds {
        Some(seconds @ 1..=MAX_SECONDS) => Ok(seconds),
        Some(_) => Err("a time is from 1 second to 7 days".to_owned()),
        None => Err("a time looks like 30s, 10m, 2h or 7d; a number alone is seconds".to_owned()),
    }
}

/// Where the time comes from.
pub trait Clock: Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp(since.as_millis() as u64)
    }
}

/// A clock that is set once and then only goes on, whatever becomes of the machine's: nothing seems to grow again, or to wait for days, because that
/// one was set back. It stands still while the machine sleeps. Its times mean nothing outside of this run.
#[derive(Clone, Copy, Debug)]
pub struct SteadyClock {
    began: Instant,
    at: Timestamp,
}

impl SteadyClock {
    /// One that begins at this time.
    pub fn starting_at(at: Timestamp) -> Self {
        Self {
            began: Instant::now(),
            at,
        }
    }
}

impl Default for SteadyClock {
    fn default() -> Self {
        Self::starting_at(SystemClock.now())
    }
}

impl Clock for SteadyClock {
    fn now(&self) -> Timestamp {
        self.at.after(self.began.elapsed())
    }
}

/// A clock that stands still until it is set, for tests and simulations.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// Moves the clock forward.
    pub fn advance(&self, duration: Duration) {
        self.0
            .fetch_add(duration.as_millis() as u64, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_people_write() {
        for (text, expected) in [
            ("600", 600),
            ("30s", 30),
            ("10m", 600),
            ("2h", 7200),
            ("7d", 604_800),
        ] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "0",
            "0s",
            "-5m",
            "8d",
            "d",
            "-1d",
            "99999999999999999d",
            "soon",
            "604801",
            "9999999999999999999999",
        ] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    /// The zones come with the program: a container has no files of them.
    #[test]
    fn zones_are_known_by_their_names() {
        let shown = |name: &str, millis| {
            let zone = jiff::tz::TimeZoneDatabase::bundled().get(name).expect(name);
            let zoned = Timestamp(millis).in_zone(&zone);
            zoned.strftime("%Y-%m-%d %H:%M%:z").to_string()
        };
        let summer = 1_782_907_200_000;
        for (name, text) in [
            ("Europe/Berlin", "2026-07-01 14:00+02:00"),
            ("America/New_York", "2026-07-01 08:00-04:00"),
            ("Asia/Kolkata", "2026-07-01 17:30+05:30"),
        ] {
            assert_eq!(shown(name, summer), text);
        }
        assert!(shown("Asia/Kolkata", u64::MAX).starts_with("9999-12-"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_steady_clock_goes_by_the_time_that_passes_alone() {
        let clock = SteadyClock::starting_at(Timestamp(1000));
        assert_eq!(clock.now(), Timestamp(1000));
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(clock.now(), Timestamp(1500));
        let last = SteadyClock::starting_at(Timestamp(u64::MAX));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(last.now(), Timestamp(u64::MAX));
    }
}
