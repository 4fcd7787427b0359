//! When a set is to be backed up: pure policy.
//!
//! A schedule is text that people write: `hourly`, `every 6h`, `daily 03:00`, `weekly sun 03:00`. Times of day are those of the clock on
//! the wall: where that clock jumps over the time, the run comes later by as much as it jumped; where it shows the time twice, the first
//! one counts. A run that was missed is caught up once, at once, however many were missed.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::Span;
use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::error::Error;
use crate::time::Timestamp;

/// Longest pause between two runs, in minutes.
pub const MAX_INTERVAL_MIN: u32 = 366 * DAY_MIN;

const HOUR_MIN: u32 = 60;
const DAY_MIN: u32 = 24 * HOUR_MIN;
const MINUTE_MS: u64 = 60_000;
/// A timer of the system and the clock that is read here differ by a moment, and a timer may be told to fire a little off: a run that begins so
/// much before it is due counts for that time.
const EARLY_MS: u64 = 5 * MINUTE_MS;
/// Longest text that an error repeats, in characters.
const MAX_ECHO_CHARS: usize = 40;

const WEEKDAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Monday),
    ("tue", Weekday::Tuesday),
    ("wed", Weekday::Wednesday),
    ("thu", Weekday::Thursday),
    ("fri", Weekday::Friday),
    ("sat", Weekday::Saturday),
    ("sun", Weekday::Sunday),
];

/// When to run again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Schedule {
    /// At the start of every hour.
    Hourly,
    /// So many minutes after the last run began.
    Every {
        /// 1 to [`MAX_INTERVAL_MIN`].
        minutes: u32,
    },
    /// Every day.
    Daily {
        /// Hour and minute of the day.
        at: Time,
    },
    /// Every week.
    Weekly {
        /// The day of the week.
        day: Weekday,
        /// Hour and minute of the day.
        at: Time,
    },
}

impl Schedule {
    /// When the next run is due: `now` when there was none yet or one was missed. `last` is when
    /// the last one began, `zone` is that of the clock on the wall.
    pub fn next_after(self, last: Option<Timestamp>, now: Timestamp, zone: &TimeZone) -> Timestamp {
        match last {
            // Counted from a clock that was ahead, no run would be due before that time comes.
            Some(last) if last.0 <= now.0.saturating_add(EARLY_MS) => {
                self.first_after(last.min(now), zone).max(now)
            }
            _ => now,
        }
    }

    /// When the first run was due of those that were missed since the last one began; none before
    /// two were missed: one may be under way.
    pub fn overdue_since(
        self,
        last: Timestamp,
        now: Timestamp,
        zone: &TimeZone,
    ) -> Option<Timestamp> {
        let first = self.first_after(last, zone);
        (self.first_after(first, zone) < now).then_some(first)
    }

    /// Time between two runs.
    pub fn interval(self) -> Duration {
        let minutes = match self {
            Self::Hourly => HOUR_MIN,
            Self::Every { minutes } => minutes,
            Self::Daily { .. } => DAY_MIN,
            Self::Weekly { .. } => 7 * DAY_MIN,
        };
        Duration::from_secs(60 * u64::from(minutes))
    }

    /// Whether a run may begin now: it is due, or will be in a moment.
    pub fn is_due(self, last: Option<Timestamp>, now: Timestamp, zone: &TimeZone) -> bool {
        self.next_after(last, now, zone).0 <= now.0.saturating_add(self.early_ms())
    }

    /// How much too early a run may be.
    fn early_ms(self) -> u64 {
        match self {
            // Otherwise one that is due every few minutes would be due always.
            Self::Every { minutes } => EARLY_MS.min(u64::from(minutes) * MINUTE_MS / 4),
            _ => EARLY_MS,
        }
    }

    /// The first time after that for which the run at `last` was, missed or not.
    fn first_after(self, last: Timestamp, zone: &TimeZone) -> Timestamp {
        let last = match self {
            Self::Every { .. } => last,
            _ => Timestamp(last.0.saturating_add(EARLY_MS)),
        };
        match self {
            Self::Every { minutes } => Timestamp(
                last.0
                    .saturating_add(u64::from(minutes).saturating_mul(MINUTE_MS)),
            ),
            Self::Hourly => {
                // Hours begin where the wall's clock says so: some zones are half an hour off.
                let local = last.in_zone(zone);
                let into = u64::from(local.minute().unsigned_abs()) * MINUTE_MS
                    + u64::from(local.second().unsigned_abs()) * 1000
                    + u64::from(local.millisecond().unsigned_abs());
                Timestamp(
                    last.0
                        .saturating_add(u64::from(HOUR_MIN) * MINUTE_MS - into),
                )
            }
            Self::Daily { at } => on_days(last, zone, at, |_| true),
            Self::Weekly { day, at } => on_days(last, zone, at, |weekday| weekday == day),
        }
    }
}

/// The first moment after `last` at which the clock shows `at` on a day that `wanted` accepts.
fn on_days(
    last: Timestamp,
    zone: &TimeZone,
    at: Time,
    wanted: impl Fn(Weekday) -> bool,
) -> Timestamp {
    let mut date = last.in_zone(zone).date();
    // Today's may be past already, and a day that a zone leaves out counts as the next one.
    for _ in 0..16 {
        if wanted(date.weekday())
            && let Ok(moment) = zone.to_ambiguous_zoned(date.to_datetime(at)).compatible()
            && let Ok(millis) = u64::try_from(moment.timestamp().as_millisecond())
            && millis > last.0
        {
            return Timestamp(millis);
        }
        match date.checked_add(Span::new().days(1)) {
            Ok(next) => date = next,
            Err(_) => break,
        }
    }
    // The calendar ends before the next run.
    Timestamp(u64::MAX)
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hourly => f.write_str("hourly"),
            Self::Every { minutes } if minutes.is_multiple_of(DAY_MIN) => {
                write!(f, "every {}d", minutes / DAY_MIN)
            }
            Self::Every { minutes } if minutes.is_multiple_of(HOUR_MIN) => {
                write!(f, "every {}h", minutes / HOUR_MIN)
            }
            Self::Every { minutes } => write!(f, "every {minutes}m"),
            Self::Daily { at } => write!(f, "daily {:02}:{:02}", at.hour(), at.minute()),
            Self::Weekly { day, at } => {
                let name = WEEKDAYS
                    .iter()
                    .find(|(_, weekday)| weekday == day)
                    .map_or("", |(name, _)| name);
                write!(f, "weekly {name} {:02}:{:02}", at.hour(), at.minute())
            }
        }
    }
}

impl FromStr for Schedule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let lower = text.to_ascii_lowercase();
        let mut words = lower.split_whitespace();
        let parsed = match (words.next(), words.next(), words.next(), words.next()) {
            (Some("hourly"), None, ..) => Some(Self::Hourly),
            (Some("every"), Some(interval), None, _) => {
                minutes(interval).map(|minutes| Self::Every { minutes })
            }
            (Some("daily"), Some(at), None, _) => time(at).map(|at| Self::Daily { at }),
            (Some("weekly"), Some(day), Some(at), None) => weekday(day)
                .zip(time(at))
                .map(|(day, at)| Self::Weekly { day, at }),
            _ => None,
        };
        parsed.ok_or_else(|| {
            let echo: String = text.chars().take(MAX_ECHO_CHARS).collect();
            Error::Setting(format!(
                "'{echo}' is not a schedule: write hourly, every 6h (m, h or d), daily 03:00, or weekly sun 03:00"
            ))
        })
    }
}

/// `90m`, `6h`, `2d`.
fn minutes(text: &str) -> Option<u32> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "m" | "min" => 1,
        "h" => HOUR_MIN,
        "d" => DAY_MIN,
        _ => return None,
    };
    let minutes = number.parse::<u32>().ok()?.checked_mul(factor)?;
    (1..=MAX_INTERVAL_MIN).contains(&minutes).then_some(minutes)
}

/// `03:00`, `3:00`.
fn time(text: &str) -> Option<Time> {
    let (hour, minute) = text.split_once(':')?;
    let is_number = |part: &str, max| {
        (1..=max).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit())
    };
    if !is_number(hour, 2) || !is_number(minute, 2) || minute.len() != 2 {
        return None;
    }
    Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok()
}

/// The first three letters of an English weekday, or all of it.
fn weekday(text: &str) -> Option<Weekday> {
    let long = [
        "monday",
        "tuesday",
        "wednesday",
        "thursday",
        "friday",
        "saturday",
        "sunday",
    ];
    WEEKDAYS
        .iter()
        .zip(long)
        .find(|((short, _), long)| text == *short || text == *long)
        .map(|((_, day), _)| *day)
}

impl TryFrom<String> for Schedule {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Schedule> for String {
    fn from(schedule: Schedule) -> Self {
        schedule.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Central Europe, from 2026 on as in 2026: written out, as a test machine may have no zone files.
    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a zone")
    }

    fn at(text: &str) -> Timestamp {
        let instant: jiff::Timestamp = text.parse().expect("a time");
        Timestamp(u64::try_from(instant.as_millisecond()).expect("after 1970"))
    }

    fn next(schedule: &str, last: &str, zone: &TimeZone) -> Timestamp {
        let schedule: Schedule = schedule.parse().expect("a schedule");
        schedule.next_after(Some(at(last)), at(last), zone)
    }

    #[test]
    fn what_people_write_reads_back() {
        for (text, shown) in [
            ("hourly", "hourly"),
            (" Hourly ", "hourly"),
            ("every 90m", "every 90m"),
            ("every 6h", "every 6h"),
            ("every 120min", "every 2h"),
            ("every 48h", "every 2d"),
            ("every 366d", "every 366d"),
            ("daily 03:00", "daily 03:00"),
            ("daily 3:05", "daily 03:05"),
            ("weekly sun 03:00", "weekly sun 03:00"),
            ("weekly Wednesday 23:59", "weekly wed 23:59"),
        ] {
            let schedule: Schedule = text.parse().expect(text);
            assert_eq!(schedule.to_string(), shown, "{text}");
            assert_eq!(shown.parse::<Schedule>().expect(shown), schedule);
        }
        for text in [
            "",
            "never",
            "hourly 3",
            "every",
            "every 0m",
            "every 367d",
            "every 6",
            "every -1h",
            "every 99999999999h",
            "daily",
            "daily 24:00",
            "daily 12:60",
            "daily 3",
            "daily 03:0",
            "daily +3:00",
            "weekly 03:00",
            "weekly someday 03:00",
            "weekly sun 03:00 now",
        ] {
            let error = text.parse::<Schedule>().expect_err(text);
            assert!(error.to_string().contains("daily 03:00"), "{error}");
        }
    }

    #[test]
    fn times_of_day() {
        let zone = berlin();
        for (schedule, last, next_at) in [
            (
                "daily 03:00",
                "2026-06-01T00:30:00Z",
                "2026-06-01T01:00:00Z",
            ),
            (
                "daily 03:00",
                "2026-06-01T01:00:00Z",
                "2026-06-02T01:00:00Z",
            ),
            (
                "daily 03:00",
                "2026-12-31T23:30:00Z",
                "2027-01-01T02:00:00Z",
            ),
            // 2026-06-01 is a Monday.
            (
                "weekly sun 03:00",
                "2026-06-01T10:00:00Z",
                "2026-06-07T01:00:00Z",
            ),
            (
                "weekly mon 12:00",
                "2026-06-01T10:00:00Z",
                "2026-06-08T10:00:00Z",
            ),
            (
                "weekly mon 12:06",
                "2026-06-01T10:00:00Z",
                "2026-06-01T10:06:00Z",
            ),
            ("hourly", "2026-06-01T10:00:00Z", "2026-06-01T11:00:00Z"),
            ("hourly", "2026-06-01T10:54:59.999Z", "2026-06-01T11:00:00Z"),
            // A moment too early is for the hour that comes.
            ("hourly", "2026-06-01T10:59:59.999Z", "2026-06-01T12:00:00Z"),
            (
                "weekly mon 12:01",
                "2026-06-01T10:00:00Z",
                "2026-06-08T10:01:00Z",
            ),
            ("every 6h", "2026-06-01T10:01:02Z", "2026-06-01T16:01:02Z"),
        ] {
            assert_eq!(
                next(schedule, last, &zone),
                at(next_at),
                "{schedule} {last}"
            );
        }
        let half = TimeZone::posix("IST-5:30").expect("a zone");
        assert_eq!(
            next("hourly", "2026-06-01T10:00:00Z", &half),
            at("2026-06-01T10:30:00Z")
        );
    }

    #[test]
    fn where_the_clock_jumps() {
        let zone = berlin();
        for (schedule, last, next_at) in [
            // 29 March 2026: 02:00 is followed by 03:00. Half past two is half past three there, once.
            (
                "daily 02:30",
                "2026-03-28T01:30:00Z",
                "2026-03-29T01:30:00Z",
            ),
            (
                "daily 02:30",
                "2026-03-29T01:30:00Z",
                "2026-03-30T00:30:00Z",
            ),
            // 25 October 2026: 03:00 is followed by 02:00. The first half past two counts, the second doesn't.
            (
                "daily 02:30",
                "2026-10-24T00:30:00Z",
                "2026-10-25T00:30:00Z",
            ),
            (
                "daily 02:30",
                "2026-10-25T00:30:00Z",
                "2026-10-26T01:30:00Z",
            ),
            (
                "daily 02:30",
                "2026-10-25T01:30:00Z",
                "2026-10-26T01:30:00Z",
            ),
            (
                "weekly sun 02:30",
                "2026-03-28T12:00:00Z",
                "2026-03-29T01:30:00Z",
            ),
            ("hourly", "2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z"),
            ("hourly", "2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z"),
        ] {
            assert_eq!(
                next(schedule, last, &zone),
                at(next_at),
                "{schedule} {last}"
            );
        }
    }

    #[test]
    fn what_was_missed_is_caught_up_once_and_at_once() {
        let daily: Schedule = "daily 03:00".parse().expect("a schedule");
        let (last, now) = (at("2026-06-01T03:00:00Z"), at("2026-06-09T12:00:00Z"));
        assert_eq!(daily.next_after(Some(last), now, &TimeZone::UTC), now);
        assert_eq!(daily.next_after(None, now, &TimeZone::UTC), now);
        assert_eq!(
            daily.next_after(Some(now), now, &TimeZone::UTC),
            at("2026-06-10T03:00:00Z")
        );
        // The last run is said to be in the future, as the clock was wrong then: it counts for
        // nothing, or the next one would wait for years.
        let ahead = Some(at("2030-01-01T00:00:00Z"));
        assert_eq!(daily.next_after(ahead, now, &TimeZone::UTC), now);
        assert!(daily.is_due(ahead, now, &TimeZone::UTC));
        let little = Some(at("2026-06-09T12:02:00Z"));
        let next = daily.next_after(little, now, &TimeZone::UTC);
        assert_eq!(next, at("2026-06-10T03:00:00Z"));
    }

    #[test]
    fn a_set_is_overdue_when_two_runs_were_missed() {
        let zone = berlin();
        let since = |schedule: &str, last: &str, now: &str| {
            let schedule: Schedule = schedule.parse().expect("a schedule");
            schedule.overdue_since(at(last), at(now), &zone)
        };
        let last = "2026-06-01T01:00:00Z";
        assert_eq!(since("daily 03:00", last, "2026-06-02T23:00:00Z"), None);
        assert_eq!(since("daily 03:00", last, "2026-06-03T00:59:00Z"), None);
        let overdue = since("daily 03:00", last, "2026-06-03T01:01:00Z");
        assert_eq!(overdue, Some(at("2026-06-02T01:00:00Z")));
        assert_eq!(since("every 6h", last, "2026-06-01T12:59:00Z"), None);
        let overdue = since("every 6h", last, "2026-06-01T13:01:00Z");
        assert_eq!(overdue, Some(at("2026-06-01T07:00:00Z")));
        // A clock that was ahead makes nothing overdue; the next run is due at once.
        assert_eq!(since("hourly", "2030-01-01T00:00:00Z", last), None);
    }

    /// A timer of the system and a running node look at the same set, whichever comes first.
    #[test]
    fn a_run_that_was_a_moment_early_is_the_run_of_that_time() {
        for (schedule, last, early, late) in [
            (
                "daily 03:00",
                "2026-06-01T03:00:00Z",
                "2026-06-02T02:59:58Z",
                "2026-06-02T03:00:20Z",
            ),
            (
                "weekly tue 03:00",
                "2026-05-26T03:00:00Z",
                "2026-06-02T02:56:00Z",
                "2026-06-02T03:00:20Z",
            ),
            (
                "hourly",
                "2026-06-02T02:00:01Z",
                "2026-06-02T02:59:58Z",
                "2026-06-02T03:00:20Z",
            ),
            (
                "every 1h",
                "2026-06-02T02:00:01Z",
                "2026-06-02T03:00:00Z",
                "2026-06-02T03:00:20Z",
            ),
            (
                "every 4m",
                "2026-06-02T02:56:30Z",
                "2026-06-02T03:00:00Z",
                "2026-06-02T03:00:20Z",
            ),
        ] {
            let schedule: Schedule = schedule.parse().expect("a schedule");
            let is_due = |last, now| schedule.is_due(Some(at(last)), at(now), &TimeZone::UTC);
            assert!(is_due(last, early), "{schedule}");
            assert!(!is_due(early, late), "{schedule}");
            assert!(!is_due(late, late), "{schedule}");
        }
        let often: Schedule = "every 1m".parse().expect("a schedule");
        let now = at("2026-06-02T03:00:00Z");
        assert!(!often.is_due(
            Some(now),
            now.after(std::time::Duration::from_secs(44)),
            &TimeZone::UTC
        ));
        assert!(often.is_due(
            Some(now),
            now.after(std::time::Duration::from_secs(45)),
            &TimeZone::UTC
        ));
    }

    fn any_schedule() -> impl Strategy<Value = Schedule> {
        let time = || (0i8..24, 0i8..60).prop_map(|(h, m)| Time::new(h, m, 0, 0).expect("a time"));
        prop_oneof![
            Just(Schedule::Hourly),
            (1..=MAX_INTERVAL_MIN).prop_map(|minutes| Schedule::Every { minutes }),
            time().prop_map(|at| Schedule::Daily { at }),
            (0usize..7, time()).prop_map(|(day, at)| Schedule::Weekly {
                day: WEEKDAYS[day].1,
                at
            }),
        ]
    }

    proptest! {
        #[test]
        fn any_schedule_reads_back(schedule in any_schedule()) {
            prop_assert_eq!(schedule.to_string().parse::<Schedule>().expect("it reads back"), schedule);
        }

        #[test]
        fn any_text_gives_an_answer(text in ".{0,40}") {
            let _ = text.parse::<Schedule>();
        }

        /// Never in the past, never right after a run, and never further away than the schedule allows.
        #[test]
        fn the_next_run_is_after_the_last_and_in_time(schedule in any_schedule(), last in 0u64..4_000_000_000_000, later in 0u64..100_000_000_000) {
            let now = Timestamp(last + later);
            let last = Timestamp(last);
            for zone in [TimeZone::UTC, berlin()] {
                let next = schedule.next_after(Some(last), now, &zone);
                prop_assert!(next >= now && next > last);
                let longest_min = match schedule {
                    Schedule::Hourly => HOUR_MIN,
                    Schedule::Every { minutes } => minutes,
                    Schedule::Daily { .. } => DAY_MIN + HOUR_MIN,
                    Schedule::Weekly { .. } => 7 * DAY_MIN + HOUR_MIN,
                };
                let limit = Timestamp(last.0 + u64::from(longest_min) * MINUTE_MS + EARLY_MS);
                prop_assert!(next <= limit.max(now));
                // What ran when it was due is not due again at once.
                prop_assert!(schedule.next_after(Some(next), next, &zone) > next);
            }
        }

        #[test]
        fn any_time_gives_an_answer(schedule in any_schedule(), last in any::<u64>(), now in any::<u64>()) {
            let next = schedule.next_after(Some(Timestamp(last)), Timestamp(now), &berlin());
            prop_assert!(next >= Timestamp(now));
        }
    }
}
