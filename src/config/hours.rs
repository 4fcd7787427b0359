//! Hours of the day, such as `08:00-22:00`, in local time.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const MINUTES_PER_DAY: u16 = 24 * 60;

/// A part of each day, from one minute up to another; past midnight when the second is the earlier one. The default is the whole day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hours(Option<(u16, u16)>);

/// The text names no hours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no span of hours: write it as 08:00-22:00, or nothing for always")]
pub struct HoursError(String);

impl Hours {
    /// Whether these are all hours.
    pub const fn is_always(self) -> bool {
        self.0.is_none()
    }

    /// Whether a minute of the day, counted from midnight, is among them.
    pub const fn contains(self, minute: u16) -> bool {
        match self.0 {
            None => true,
            Some((from, to)) if from < to => from <= minute && minute < to,
            Some((from, to)) => from <= minute || minute < to,
        }
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => Ok(()),
            Some((from, to)) => write!(
                f,
                "{:02}:{:02}-{:02}:{:02}",
                from / 60,
                from % 60,
                to / 60,
                to % 60
            ),
        }
    }
}

impl FromStr for Hours {
    type Err = HoursError;

    fn from_str(text: &str) -> Result<Self, HoursError> {
        let wrong = || HoursError(text.chars().take(40).collect());
        if text.trim().is_empty() {
            return Ok(Self(None));
        }
        let (from, to) = text.split_once('-').ok_or_else(wrong)?;
        let (from, to) = (
            minute(from).ok_or_else(wrong)?,
            minute(to).ok_or_else(wrong)?,
        );
        // No time at all is what nobody means.
        if from == to || from == MINUTES_PER_DAY {
            return Err(wrong());
        }
        Ok(Self(Some((from, to))))
    }
}

fn minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.trim().split_once(':')?;
    let number = |digits: &str| -> Option<u16> {
        let good = (1..=2).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        good.then(|| digits.parse().ok())?
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= MINUTES_PER_DAY).then_some(minute)
}

impl Serialize for Hours {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hours {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hours(text: &str) -> Hours {
        text.parse().expect("hours")
    }

    #[test]
    fn the_first_minute_is_in_and_the_last_is_out() {
        let day = hours("08:00-22:00");
        for (minute, inside) in [(479, false), (480, true), (1319, true), (1320, false)] {
            assert_eq!(day.contains(minute), inside, "{minute}");
        }
        let night = hours(" 22:30 - 6:00 ");
        for (minute, inside) in [
            (1349, false),
            (1350, true),
            (0, true),
            (359, true),
            (360, false),
        ] {
            assert_eq!(night.contains(minute), inside, "{minute}");
        }
        let evening = hours("22:00-24:00");
        assert!(evening.contains(1439) && !evening.contains(0));
        assert!(hours("").is_always() && hours("").contains(0));
    }

    #[test]
    fn what_is_no_span_is_refused() {
        for text in [
            "8-22",
            "08:00",
            "08:00-08:00",
            "24:00-08:00",
            "24:01-25:00",
            "08:60-09:00",
            "08:00-22:00-23:00",
            "a:b-c:d",
            "-",
            "+8:00-9:00",
            "008:00-09:00",
        ] {
            assert!(text.parse::<Hours>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_span_reads_back(from in 0..MINUTES_PER_DAY, to in 0..=MINUTES_PER_DAY) {
            prop_assume!(from != to);
            let span = Hours(Some((from, to)));
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }

        #[test]
        fn any_text_gives_an_answer(text in ".{0,20}") {
            let _ = text.parse::<Hours>();
        }
    }
}
