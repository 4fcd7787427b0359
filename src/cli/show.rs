//! Numbers, times and names as people read them.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use unicode_width::UnicodeWidthStr;

use super::context::Context;
use crate::node::api::{Unreadable, shown};
use crate::size::ByteSize;
pub use crate::text::{count, printable};
use crate::time::Timestamp;

/// A time as RFC 3339 writes it, with seconds.
const RFC_3339: &str = "%Y-%m-%dT%H:%M:%S%:z";
/// Characters of a peer's or a block's name that people see: the first eight are the same for all.
const SHORT_NAME: usize = 12;
/// Digits of an id in hex that people see.
const SHORT_DIGITS: usize = 8;

/// The start of a name that is long: of hex digits eight, of peers and blocks twelve characters.
/// Commands take it in place of the whole.
pub fn short(name: &str) -> &str {
    let is_hex = name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let shown = if is_hex { SHORT_DIGITS } else { SHORT_NAME };
    name.get(..shown).unwrap_or(name)
}

/// Columns that text takes on a terminal.
pub fn width(text: &str) -> usize {
    UnicodeWidthStr::width(text)
}

/// Paths or patterns that are named one by one; more are only counted.
const MAX_NAMED: usize = 20;

/// A path as text; see [`shown`].
pub(super) fn path(path: &Path) -> String {
    shown(path.as_os_str().as_bytes())
}

/// Says what is never taken.
pub(super) fn left_out(paths: &[Unreadable], context: &Context) {
    for path in paths.iter().take(MAX_NAMED) {
        context.notice(&format!(
            "{} is left out: {}",
            printable(&path.path),
            path.reason
        ));
    }
    if paths.len() > MAX_NAMED {
        let more = paths.len() - MAX_NAMED;
        context.notice(&format!(
            "and {more} more sockets and the like are left out"
        ));
    }
}

/// Names the patterns that matched nothing: each may be a typing error.
pub(super) fn unmatched(patterns: &[String], context: &Context) {
    for pattern in patterns.iter().take(MAX_NAMED) {
        context.warning(&format!("the pattern '{pattern}' matched nothing"));
    }
    if patterns.len() > MAX_NAMED {
        let more = patterns.len() - MAX_NAMED;
        context.warning(&format!("and {more} more patterns matched nothing"));
    }
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

/// A stored time by the clock of this machine: `2026-11-22 07:32`.
pub fn timestamp(time: Timestamp) -> String {
    let zoned = time.in_zone(&crate::time::zone());
    zoned.strftime("%Y-%m-%d %H:%M").to_string()
}

/// Seconds since 1970, as [`timestamp`] shows a time. A file may be of any year.
pub fn seconds(seconds: i64) -> String {
    match zoned(seconds) {
        Some(zoned) => zoned.strftime("%Y-%m-%d %H:%M").to_string(),
        None if seconds < 0 => "before all years".to_owned(),
        None => "after all years".to_owned(),
    }
}

/// A stored time with the zone of this machine, for other programs: `2026-11-22T07:32:05+01:00`.
pub fn rfc3339(time: Timestamp) -> String {
    let zoned = time.in_zone(&crate::time::zone());
    zoned.strftime(RFC_3339).to_string()
}

/// Seconds since 1970 as [`rfc3339`] shows a time; none for a year that no calendar reaches.
pub fn rfc3339_seconds(seconds: i64) -> Option<String> {
    Some(zoned(seconds)?.strftime(RFC_3339).to_string())
}

fn zoned(seconds: i64) -> Option<jiff::Zoned> {
    let instant = jiff::Timestamp::from_second(seconds).ok()?;
    Some(instant.to_zoned(crate::time::zone()))
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

/// Rows as columns, two spaces apart, aligned by the width on a terminal. Columns in `right` are
/// aligned to the right.
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

    /// Whatever the zone of the machine that tests.
    #[test]
    fn dates() {
        let at = Timestamp(1_795_332_725_999);
        let back: jiff::Timestamp = rfc3339(at).parse().expect("RFC 3339");
        assert_eq!(back.as_second(), 1_795_332_725);
        let zoned = back.to_zoned(crate::time::zone());
        let text = zoned.strftime("%Y-%m-%d %H:%M").to_string();
        assert_eq!(timestamp(at), text);
        assert_eq!(seconds(1_795_332_725), text);
        assert_eq!(seconds(i64::MIN), "before all years");
        assert_eq!(seconds(i64::MAX), "after all years");
        assert!(timestamp(Timestamp(u64::MAX)).starts_with("9999-12-"));
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
        fn any_time_has_a_date(time in any::<i64>()) {
            prop_assert!(!seconds(time).is_empty());
            prop_assert!(timestamp(Timestamp(time.unsigned_abs())).contains('-'));
        }
    }
}
