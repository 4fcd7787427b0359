//! Sizes in bytes as people write and read them: `50 GiB`, `1.5M`, `4096`.
//!
//! Units are binary whether or not they carry the `i`: `10G` and `10 GiB` are the same, as in restic and kubo.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One kibibyte.
pub const KIB: u64 = 1 << 10;
/// One mebibyte.
pub const MIB: u64 = 1 << 20;
/// One gibibyte.
pub const GIB: u64 = 1 << 30;

const UNITS: [(&str, u64); 6] = [
    ("PiB", 1 << 50),
    ("TiB", 1 << 40),
    ("GiB", GIB),
    ("MiB", MIB),
    ("KiB", KIB),
    ("B", 1),
];

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// The text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a size: write a number and a unit, such as 50GiB, 512M or 1.5T")]
pub struct SizeError(String);

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, factor) in UNITS {
            if self.0 >= factor {
                return if factor == 1 || self.0.is_multiple_of(factor) {
                    write!(f, "{} {name}", self.0 / factor)
                } else {
                    write!(f, "{:.1} {name}", self.0 as f64 / factor as f64)
                };
            }
        }
        write!(f, "0 B")
    }
}

impl FromStr for ByteSize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let wrong = || SizeError(text.chars().take(40).collect());
        let trimmed = text.trim();
        let split = trimmed
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(split);
        let unit = unit.trim().to_ascii_lowercase();
        let factor = UNITS
            .iter()
            .find(|(name, _)| {
                let name = name.to_ascii_lowercase();
                unit == name
                    || (name.len() == 3
                        && (unit == name[..1] || unit == format!("{}b", &name[..1])))
            })
            .map(|(_, factor)| *factor)
            .or_else(|| unit.is_empty().then_some(1))
            .ok_or_else(wrong)?;
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(factor).map(Self).ok_or_else(wrong);
        }
        let fraction: f64 = number.parse().map_err(|_| wrong())?;
        let bytes = fraction * factor as f64;
        if !bytes.is_finite() || bytes >= u64::MAX as f64 {
            return Err(wrong());
        }
        Ok(Self(bytes as u64))
    }
}

impl Serialize for ByteSize {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Bytes(u64),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Bytes(bytes) => Ok(Self(bytes)),
            Form::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_people_write() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("10 B", 10),
            ("1k", 1024),
            ("1KiB", 1024),
            ("50 GiB", 50 * GIB),
            ("50gb", 50 * GIB),
            ("1.5M", 3 * MIB / 2),
            (" 2 TiB ", 2 << 40),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in [
            "",
            "G",
            "-1G",
            "1.2.3M",
            "10 apples",
            "99999999999 PiB",
            "1e400",
        ] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn whole_units_read_back(count in 1u64..1024, unit in 0usize..UNITS.len()) {
            let size = ByteSize(count * UNITS[unit].1);
            prop_assert_eq!(size.to_string().parse::<ByteSize>(), Ok(size));
        }

        #[test]
        fn any_text_gives_an_answer(text in ".{0,40}") {
            let _ = text.parse::<ByteSize>();
        }
    }
}
