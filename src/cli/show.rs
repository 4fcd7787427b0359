//! Numbers, times and names as people read them.

use std::time::Duration;

use unicode_width::UnicodeWidthStr;

use crate::size::ByteSize;
pub use crate::text::{count, printable};
use crate::time::Timestamp;

/// Characters of a peer's or a block's name that people see: the first eight are the same for all.
const SHORT_NAME: usize = 12;
/// Digits of an id in hex that people see.
const SHORT_DIGITS: usize = 8;

/// The start of a name that is long: of hex digits eight, of peers and blocks twelve characters. Commands take it in place of the whole.
pub fn short(name: &str) -> &str {
    let is_hex = name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let shown = if is_hex { SHORT_DIGITS } else { SHORT_NAME };
    name.get(..shown).unwrap_or(name)
}

/// Columns that text takes on a terminal.
pub fn width(text: &str) -> usize {
    UnicodeWidthStr::width(text)
}

/// Bytes a second.
pub fn rate(bytes: u64, time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds <= 0.0 {
        return "-".to_owned();
    }
    format!("{}/s", ByteSize((bytes as f64 / seconds) as u64))
}

/// A duration with two units at most: `850 ms`, `12.3 s`, `4 min 10 s`, `3 h 5 min`, `2 d 4 h`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let two = |big: u64, unit: &str, small: u64, smaller: &str| {
        if small == 0 {
            format!("{big} {unit}")
        } else {
            format!("{big} {unit} {small} {smaller}")
        }
    };
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3600 => two(seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// Seconds since 1970 as `2026-11-22 07:32` in UTC.
pub fn utc(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}",
        rest / 3600,
        rest % 3600 / 60
    )
}

/// A stored time in UTC.
pub fn timestamp(time: Timestamp) -> String {
    utc(i64::try_from(time.0 / 1000).unwrap_or(i64::MAX))
}

/// Year, month and day of a number of days since 1970-01-01, in the proleptic Gregorian calendar. Counts in eras of
/// 400 years that start on the first of March, so that the leap day comes last.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days.saturating_add(719_468);
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096).div_euclid(365);
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// Kind and permission bits as `ls -l` shows them.
pub fn mode(kind: &str, mode: u32) -> String {
    let mut text = String::with_capacity(10);
    text.push(match kind {
        "dir" => 'd',
        "symlink" => 'l',
        "fifo" => 'p',
        "char_device" => 'c',
        "block_device" => 'b',
        _ => '-',
    });
    for (shift, special, set) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 == 0 { '-' } else { 'r' });
        text.push(if bits & 2 == 0 { '-' } else { 'w' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => set,
            (false, true) => set.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// Rows as columns, two spaces apart, aligned by the width on a terminal. Columns in `right` are aligned to the right.
pub fn table(rows: &[Vec<String>], right: &[usize]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widest = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| width(cell))
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(widest).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let pad = widths[column].saturating_sub(width(cell));
            if column > 0 {
                line.push_str("  ");
            }
            if right.contains(&column) {
                line.extend(std::iter::repeat_n(' ', pad));
                line.push_str(cell);
            } else {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', pad));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dates() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00"),
            (951_782_400, "2000-02-29 00:00"),
            (1_795_332_720, "2026-11-22 07:32"),
            (4_107_542_399, "2100-02-28 23:59"),
            (-1, "1969-12-31 23:59"),
            (-11_676_096_000, "1600-01-01 00:00"),
        ] {
            assert_eq!(utc(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn long_names_are_shortened() {
        assert_eq!(short("0123456789abcdef"), "01234567");
        assert_eq!(
            short("12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"),
            "12D3KooWPjce"
        );
        assert_eq!(short("0123"), "0123");
        // Some bytes of a foreign answer may be no character's edge.
        assert_eq!(short("12D3KooWPjc\u{e4}x"), "12D3KooWPjc\u{e4}x");
    }

    #[test]
    fn modes() {
        assert_eq!(mode("file", 0o644), "-rw-r--r--");
        assert_eq!(mode("dir", 0o1777), "drwxrwxrwt");
        assert_eq!(mode("file", 0o4755), "-rwsr-xr-x");
        assert_eq!(mode("symlink", 0o2640), "lrw-r-S---");
    }

    #[test]
    fn durations_and_rates() {
        for (millis, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (12_300, "12.3 s"),
            (60_000, "1 min"),
            (250_000, "4 min 10 s"),
            (11_100_000, "3 h 5 min"),
            (187_200_000, "2 d 4 h"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
        assert_eq!(rate(2048, Duration::from_secs(2)), "1 KiB/s");
        assert_eq!(rate(1, Duration::ZERO), "-");
    }

    #[test]
    fn tables_are_aligned() {
        let rows = [
            vec!["a".into(), "1".into(), "x".into()],
            vec!["\u{e4}bc".into(), "22".into()],
        ];
        assert_eq!(table(&rows, &[1]), "a     1  x\n\u{e4}bc  22\n");
        assert_eq!(table(&[], &[]), "");
        // Two columns for each of these characters, none for an accent that combines.
        let rows = [
            vec!["\u{4f60}\u{597d}".into(), "1".into()],
            vec!["e\u{301}".into(), "2".into()],
            vec!["abcd".into(), "3".into()],
        ];
        assert_eq!(
            table(&rows, &[]),
            "\u{4f60}\u{597d}  1\ne\u{301}     2\nabcd  3\n"
        );
    }

    proptest! {
        #[test]
        fn any_time_has_a_date(seconds in any::<i64>()) {
            prop_assert!(utc(seconds).contains('-'));
        }
    }
}
