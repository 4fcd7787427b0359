//! Text from elsewhere (names of files, of machines, of peers) that is safe to show to a person.
//!
//! Terminals obey control characters, and terminals and browsers alike obey marks that reorder or
//! hide what stands around them: a file `gpj.exe` can look like `exe.jpg`. Deliberately absent:
//! what HTML or JSON need besides.

/// The text with control characters, and with marks that reorder or hide text, as escapes.
pub fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || misleads(c) {
            safe.extend(c.escape_unicode());
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Whether a character reorders, hides or breaks text without being a control character: marks for
/// bidirectional text (UAX #9), characters without width, line separators, tags.
const fn misleads(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A count and its noun: `1 file`, `2 files`, `2 copies`, `2 addresses`.
pub fn count(number: u64, noun: &str) -> String {
    if number == 1 {
        return format!("1 {noun}");
    }
    let is_vowel = |c: char| "aeiou".contains(c);
    match noun.strip_suffix('y') {
        Some(stem) if !stem.ends_with(is_vowel) => format!("{number} {stem}ies"),
        _ if noun.ends_with(['s', 'x']) || noun.ends_with("ch") => format!("{number} {noun}es"),
        _ => format!("{number} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn marks_that_reorder_or_hide_text_are_escaped() {
        assert_eq!(printable("a\u{202e}gpj.exe"), "a\\u{202e}gpj.exe");
        for c in "\u{61c}\u{200e}\u{200f}\u{202a}\u{2066}\u{2069}\u{2060}\u{e0041}\u{ad}\u{feff}\u{2028}\x1b\u{9b}"
            .chars()
        {
            assert!(printable(&c.to_string()).starts_with("\\u{"), "{c:?}");
        }
        let plain = "Grüße, 你好, שלום, e\u{301}, 👍";
        assert_eq!(printable(plain), plain);
    }

    #[test]
    fn nouns_follow_their_number() {
        for (number, noun, text) in [
            (1, "file", "1 file"),
            (0, "file", "0 files"),
            (2, "copy", "2 copies"),
            (1, "copy", "1 copy"),
            (3, "address", "3 addresses"),
            (2, "day", "2 days"),
            (2, "match", "2 matches"),
            (2, "other member", "2 other members"),
        ] {
            assert_eq!(count(number, noun), text);
        }
    }

    proptest! {
        #[test]
        fn nothing_printed_controls_a_terminal(text in "(?s).{0,40}") {
            let safe = printable(&text);
            prop_assert!(!safe.chars().any(|c| c.is_control() || misleads(c)));
        }
    }
}
