//! Which bytes a `Range` header asks for (RFC 9110, section 14).
//!
//! One range is honoured. Several at once, other units and anything malformed are answered with everything, as the standard
//! allows.

/// What to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Everything.
    All,
    /// `len` bytes from `offset`; at least one, and within the content.
    Part {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
    },
    /// Nothing: the range is beyond the end.
    Unsatisfiable,
}

/// Reads a `Range` header for content of `total` bytes.
pub(super) fn parse(header: &str, total: u64) -> Wanted {
    match spec(header) {
        None => Wanted::All,
        Some((Some(first), _)) if first >= total => Wanted::Unsatisfiable,
        Some((Some(first), last)) => Wanted::Part {
            offset: first,
            len: last.map_or(total, |last| last.saturating_add(1).min(total)) - first,
        },
        Some((None, Some(0))) => Wanted::Unsatisfiable,
        Some((None, Some(_))) if total == 0 => Wanted::Unsatisfiable,
        Some((None, suffix)) => {
            let len = suffix.unwrap_or(total).min(total);
            Wanted::Part {
                offset: total - len,
                len,
            }
        }
    }
}

/// First and last byte; a last one alone is a number of bytes at the end. `None` when it is not one valid range of bytes.
fn spec(header: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (unit, set) = header.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = set.trim().split_once('-')?;
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
        let part = |offset, len| Wanted::Part { offset, len };
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
            ("bytes=0-1,3-4", 10, Wanted::All),
            ("bytes=+1-2", 10, Wanted::All),
            ("lines=0-1", 10, Wanted::All),
            ("bytes", 10, Wanted::All),
            ("", 10, Wanted::All),
        ] {
            assert_eq!(parse(header, total), wanted, "{header} of {total}");
        }
    }

    proptest! {
        #[test]
        fn a_part_is_never_empty_and_within_the_content(header in "(bytes=)?[0-9,-]{0,24}", total in any::<u64>()) {
            if let Wanted::Part { offset, len } = parse(&header, total) {
                prop_assert!(len > 0 && offset.checked_add(len).is_some_and(|end| end <= total));
            }
        }

        #[test]
        fn arbitrary_text_never_panics(header in ".{0,60}", total in any::<u64>()) {
            let _ = parse(&header, total);
        }
    }
}
