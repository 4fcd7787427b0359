//! Which bytes a `Range` header asks for (RFC 9110, section 14).
//!
//! Several ranges are honoured up to [`MAX_PARTS`] and as long as they ask for no more than the
//! whole. Other units, more ranges and anything malformed are answered with everything, as the
//! standard allows.

/// Most ranges of one request that are answered as such.
pub(super) const MAX_PARTS: usize = 16;

/// A stretch of content: at least one byte, and within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

/// Content to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Everything.
    All,
    /// These stretches, in the order in which they were asked for; at least one.
    Parts(Vec<Part>),
    /// Nothing: no range has a byte of the content.
    Unsatisfiable,
}

/// Reads a `Range` header for content of `total` bytes.
pub(super) fn parse(header: &str, total: u64) -> Wanted {
    let Some((unit, set)) = header.split_once('=') else {
        return Wanted::All;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Wanted::All;
    }
    let mut parts = Vec::new();
    let mut count = 0;
    // A list may have empty elements (RFC 9110, section 5.6.1).
    for range in set.split(',').filter(|range| !range.trim().is_empty()) {
        count += 1;
        let Some(ends) = ends(range) else {
            return Wanted::All;
        };
        if count > MAX_PARTS {
            return Wanted::All;
        }
        parts.extend(part(ends, total));
    }
    let sum = parts
        .iter()
        .fold(0u64, |sum, part| sum.saturating_add(part.len));
    match parts.len() {
        _ if count == 0 => Wanted::All,
        0 => Wanted::Unsatisfiable,
        // Overlapping ranges would have more sent than there is.
        _ if sum > total => Wanted::All,
        _ => Wanted::Parts(parts),
    }
}

/// First and last byte; a last one alone is a number of bytes at the end.
type Ends = (Option<u64>, Option<u64>);

/// The bytes of `total` that one range has, if any.
fn part(ends: Ends, total: u64) -> Option<Part> {
    match ends {
        (Some(first), _) if first >= total => None,
        (Some(first), last) => Some(Part {
            offset: first,
            len: last.map_or(total, |last| last.saturating_add(1).min(total)) - first,
        }),
        (None, suffix) => {
            let len = suffix.unwrap_or(total).min(total);
            (len > 0).then_some(Part {
                offset: total - len,
                len,
            })
        }
    }
}

/// The ends of one range. `None` when it is not a valid range of bytes.
fn ends(range: &str) -> Option<Ends> {
    let (first, last) = range.trim().split_once('-')?;
    let number = |text: &str| -> Option<Option<u64>> {
        match text.trim() {
            "" => Some(None),
            digits if digits.bytes().all(|b| b.is_ascii_digit()) => {
                // Larger than any content is as good as the largest.
                Some(Some(digits.parse().unwrap_or(u64::MAX)))
            }
            _ => None,
        }
    };
    match (number(first)?, number(last)?) {
        (None, None) => None,
        (Some(first), Some(last)) if last < first => None,
        ends => Some(ends),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges() {
        let part = |offset, len| Wanted::Parts(vec![Part { offset, len }]);
        for (header, total, wanted) in [
            ("bytes=0-0", 10, part(0, 1)),
            ("bytes=0-9", 10, part(0, 10)),
            ("bytes=0-10", 10, part(0, 10)),
            ("bytes=5-", 10, part(5, 5)),
            ("bytes=9-", 10, part(9, 1)),
            ("bytes=-3", 10, part(7, 3)),
            ("bytes=-10", 10, part(0, 10)),
            ("bytes=-11", 10, part(0, 10)),
            (" Bytes = 2 - 3 ", 10, part(2, 2)),
            ("bytes=0-18446744073709551615", 10, part(0, 10)),
            ("bytes=0-99999999999999999999999", 10, part(0, 10)),
            ("bytes=10-", 10, Wanted::Unsatisfiable),
            ("bytes=99999999999999999999999-", 10, Wanted::Unsatisfiable),
            ("bytes=0-", 0, Wanted::Unsatisfiable),
            ("bytes=-1", 0, Wanted::Unsatisfiable),
            ("bytes=-0", 10, Wanted::Unsatisfiable),
            ("bytes=3-2", 10, Wanted::All),
            ("bytes=-", 10, Wanted::All),
            ("bytes=+1-2", 10, Wanted::All),
            ("lines=0-1", 10, Wanted::All),
            ("bytes", 10, Wanted::All),
            ("bytes=", 10, Wanted::All),
            ("bytes=,", 10, Wanted::All),
            ("", 10, Wanted::All),
        ] {
            assert_eq!(parse(header, total), wanted, "{header} of {total}");
        }
    }

    #[test]
    fn several_ranges_are_bounded() {
        let parts = |parts: &[(u64, u64)]| {
            let parts = parts.iter().map(|&(offset, len)| Part { offset, len });
            Wanted::Parts(parts.collect())
        };
        for (header, wanted) in [
            ("bytes=0-1,3-4", parts(&[(0, 2), (3, 2)])),
            ("bytes=5-,0-1", parts(&[(5, 5), (0, 2)])),
            ("bytes= , 0-0 ,, -1 ,", parts(&[(0, 1), (9, 1)])),
            ("bytes=0-0,10-,-0", parts(&[(0, 1)])),
            ("bytes=10-,11-12", Wanted::Unsatisfiable),
            ("bytes=0-1,x", Wanted::All),
            ("bytes=0-9,0-0", Wanted::All),
        ] {
            assert_eq!(parse(header, 10), wanted, "{header}");
        }
        let many = |count: usize| {
            let ranges: Vec<String> = (0..count).map(|n| format!("{n}-{n}")).collect();
            parse(&format!("bytes={}", ranges.join(",")), 100_000)
        };
        assert!(matches!(many(MAX_PARTS), Wanted::Parts(parts) if parts.len() == MAX_PARTS));
        assert_eq!(many(MAX_PARTS + 1), Wanted::All);
        assert_eq!(many(10_000), Wanted::All);
    }

    proptest! {
        #[test]
        fn parts_are_never_empty_and_within_the_content(
            header in "(bytes=)?[0-9,-]{0,24}",
            total in any::<u64>(),
        ) {
            if let Wanted::Parts(parts) = parse(&header, total) {
                prop_assert!(!parts.is_empty());
                for Part { offset, len } in parts {
                    prop_assert!(len > 0 && offset.checked_add(len).is_some_and(|end| end <= total));
                }
            }
        }

        #[test]
        fn arbitrary_text_never_panics(header in ".{0,60}", total in any::<u64>()) {
            let _ = parse(&header, total);
        }
    }
}
