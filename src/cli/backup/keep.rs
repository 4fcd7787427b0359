//! `--keep-*`: which snapshots stay.

use crate::backup::retention::Policy;

/// Which snapshots stay. Rules add up.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "What stays")]
pub(super) struct Keep {
    /// So many of the newest.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_last: u32,
    /// The newest of each of so many hours that have one.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_hourly: u32,
    /// Of so many days.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_daily: u32,
    /// Of so many weeks.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_weekly: u32,
    /// Of so many months.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_monthly: u32,
    /// Of so many years.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_yearly: u32,
    /// All that are at most so much older than the newest, such as 36h, 30d, 8w, 6m (months of 30 days) or 1y6m.
    #[arg(long, value_name = "DURATION", value_parser = within)]
    keep_within: Option<u64>,
    /// All with this tag. May be repeated.
    #[arg(long, value_name = "TAG")]
    keep_tag: Vec<String>,
}

impl Keep {
    /// The rules.
    pub(super) fn policy(&self) -> Policy {
        Policy {
            last: self.keep_last,
            hourly: self.keep_hourly,
            daily: self.keep_daily,
            weekly: self.keep_weekly,
            monthly: self.keep_monthly,
            yearly: self.keep_yearly,
            within_s: self.keep_within.unwrap_or(0),
            tags: self.keep_tag.clone(),
        }
    }
}

/// The rules in a few words, as the flags have them.
pub(super) fn describe(policy: &Policy) -> String {
    let counts = [
        ("last", policy.last),
        ("hourly", policy.hourly),
        ("daily", policy.daily),
        ("weekly", policy.weekly),
        ("monthly", policy.monthly),
        ("yearly", policy.yearly),
    ];
    let mut parts: Vec<String> = counts
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    if policy.within_s > 0 {
        parts.push(format!("within {}h", policy.within_s / 3600));
    }
    parts.extend(policy.tags.iter().map(|tag| format!("tag {tag}")));
    if parts.is_empty() {
        "everything".to_owned()
    } else {
        parts.join(", ")
    }
}

/// Seconds of `1y6m`, `30d`, `36h`.
fn within(text: &str) -> Result<u64, String> {
    const HOUR_S: u64 = 3600;
    const DAY_S: u64 = 24 * HOUR_S;
    let wrong = || format!("'{text}' is not a duration: write 36h, 30d, 8w, 6m, 1y or 1y6m");
    let mut total = 0u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, behind) = rest.split_at(digits);
        let unit = behind.chars().next().ok_or_else(wrong)?;
        let unit_s = match unit {
            'h' => HOUR_S,
            'd' => DAY_S,
            'w' => 7 * DAY_S,
            'm' => 30 * DAY_S,
            'y' => 365 * DAY_S,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let part_s = number.checked_mul(unit_s).ok_or_else(wrong)?;
        total = total.checked_add(part_s).ok_or_else(wrong)?;
        rest = &behind[unit.len_utf8()..];
    }
    if total == 0 {
        return Err(wrong());
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations() {
        for (text, seconds) in [
            ("36h", 129_600),
            ("1d", 86_400),
            ("2w", 1_209_600),
            ("1y6m", 47_088_000),
        ] {
            assert_eq!(within(text), Ok(seconds), "{text}");
        }
        for text in [
            "",
            "0h",
            "5",
            "d",
            "1s",
            "-1d",
            "1 d",
            "99999999999999999999y",
            "9999999999999999y",
        ] {
            assert!(within(text).is_err(), "{text}");
        }
    }

    #[test]
    fn policies_in_words() {
        assert_eq!(describe(&Policy::default()), "everything");
        let keep = Keep {
            keep_daily: 7,
            keep_within: Some(7200),
            keep_tag: vec!["a".to_owned()],
            ..Keep::default()
        };
        assert_eq!(describe(&keep.policy()), "daily 7, within 2h, tag a");
    }

    proptest! {
        #[test]
        fn any_text_gives_an_answer(text in ".{0,40}") {
            let _ = within(&text);
        }
    }
}
