//! The twelve words: 16 bytes of entropy in a form that people can write down (BIP-39, English list, 12 words).
//!
//! The word list, the order of bits and the checksum are those of BIP-39; its key stretching is not used, as the words are
//! random and never chosen by a person. Reading is generous in form (case, line breaks, numbers before words, four letters in
//! place of the whole word) and strict in content, and its errors name the word that is wrong without repeating the others.

use std::fmt;

use bip39::Language;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::crypto::{hash, random};

/// Number of words.
pub const WORDS: usize = 12;

/// Longest text that is read, in bytes. Twelve words need about a hundred.
pub const MAX_TEXT_BYTES: usize = 4096;

const ENTROPY_BYTES: usize = 16;
/// Bits of a word's place in the list.
const WORD_BITS: usize = 11;
/// Bits at the end of the last word that the others determine.
const CHECKSUM_BITS: usize = 4;
/// Letters that tell every word of the list from every other.
const UNIQUE_LETTERS: usize = 4;
/// The longest word that an error repeats, in letters: one that is longer may be several words run together.
const MAX_ECHO_LETTERS: usize = 12;
/// With more words than this the text is no phrase at all, and none of its words is worth naming.
const MAX_PLAUSIBLE_WORDS: usize = 24;

/// The secret that everything of an owner is derived from. Wiped from memory when dropped; its `Debug` form does not show it.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Phrase([u8; ENTROPY_BYTES]);

/// Why a text is not an owner's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WordsError {
    /// The text is longer than any phrase.
    #[error("the text is too long to be {WORDS} words: {0} bytes")]
    TooLong(usize),
    /// Too few or too many words.
    #[error("expected {WORDS} words, found {0}")]
    Count(usize),
    /// A word that is not in the list.
    #[error("word {position}, \"{word}\", is not in the list{}", did_you_mean(*.suggestion))]
    Unknown {
        /// Which word, from 1 on.
        position: usize,
        /// The word as it was read.
        word: String,
        /// The most similar word of the list.
        suggestion: Option<&'static str>,
    },
    /// A word that is longer than any in the list. It is not repeated: it may be all of them without spaces.
    #[error(
        "word {position} has {letters} letters, which is too long; there is a space between two words"
    )]
    LongWord {
        /// Which word, from 1 on.
        position: usize,
        /// How long it is.
        letters: usize,
    },
    /// Every word is in the list, but they are not the words of one phrase.
    #[error("all {WORDS} words are in the list, but they don't belong together: {}", suspicion(.suspects))]
    Checksum {
        /// Words, from 1 on, that a small slip of the pen would explain. Empty: it can't be told.
        suspects: Vec<usize>,
    },
}

fn did_you_mean(suggestion: Option<&'static str>) -> String {
    suggestion.map_or_else(String::new, |word| format!("; did you mean \"{word}\"?"))
}

fn suspicion(suspects: &[usize]) -> String {
    match suspects {
        [] => "one of them is wrong or in the wrong place".to_owned(),
        [one] => format!("word {one} may be wrong"),
        [head @ .., last] => {
            let head: Vec<String> = head.iter().map(usize::to_string).collect();
            format!("word {} or {last} may be wrong", head.join(", "))
        }
    }
}

impl Phrase {
    /// A new secret from the system's random numbers.
    pub fn random() -> Self {
        Self(*random::bytes())
    }

    /// The phrase of 16 bytes of entropy.
    pub const fn from_entropy(entropy: [u8; ENTROPY_BYTES]) -> Self {
        Self(entropy)
    }

    /// The entropy: as secret as the words.
    pub const fn entropy(&self) -> &[u8; ENTROPY_BYTES] {
        &self.0
    }

    /// Reads twelve words as people write them.
    ///
    /// # Errors
    /// [`WordsError`]. No error repeats more than one word.
    pub fn parse(text: &str) -> Result<Self, WordsError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(WordsError::TooLong(text.len()));
        }
        let text = Zeroizing::new(text.to_ascii_lowercase());
        let words = || text.split_whitespace().map(bare).filter(|w| !w.is_empty());
        let count = words().count();
        if count > MAX_PLAUSIBLE_WORDS {
            return Err(WordsError::Count(count));
        }
        let mut places = Zeroizing::new([0u16; WORDS]);
        for (at, word) in words().enumerate() {
            let place = find(word).ok_or_else(|| unknown(at + 1, word))?;
            // Words beyond the last place are looked up as well: one that is unknown says more than the number of words.
            if let Some(slot) = places.get_mut(at) {
                *slot = place;
            }
        }
        if count != WORDS {
            return Err(WordsError::Count(count));
        }
        from_places(&places).ok_or_else(|| WordsError::Checksum {
            suspects: suspects(&places, words()),
        })
    }

    /// The words, in order.
    pub fn words(&self) -> [&'static str; WORDS] {
        let list = Language::English.word_list();
        self.places().map(|place| list[usize::from(place)])
    }

    /// The words with single spaces between them.
    pub fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(self.words().join(" "))
    }

    /// The place of each word in the list.
    fn places(&self) -> Zeroizing<[u16; WORDS]> {
        let bits = Zeroizing::new(u128::from_be_bytes(self.0));
        let mut places = Zeroizing::new([0u16; WORDS]);
        // The last word's bits are partly entropy, partly checksum.
        let (last, whole) = places.split_last_mut().expect("there are twelve");
        for (at, place) in whole.iter_mut().enumerate() {
            let shift = 8 * ENTROPY_BYTES - WORD_BITS * (at + 1);
            *place = low_bits(*bits >> shift, WORD_BITS);
        }
        *last = (low_bits(*bits, WORD_BITS - CHECKSUM_BITS) << CHECKSUM_BITS) | checksum(&self.0);
        places
    }
}

fn low_bits(bits: u128, count: usize) -> u16 {
    u16::try_from(bits & ((1 << count) - 1)).expect("fewer than 16 bits are left")
}

/// The first bits of the entropy's SHA-256.
fn checksum(entropy: &[u8; ENTROPY_BYTES]) -> u16 {
    u16::from(hash::sha256(&[entropy])[0] >> (8 - CHECKSUM_BITS))
}

/// The phrase with these words; none when the checksum differs.
fn from_places(places: &[u16; WORDS]) -> Option<Phrase> {
    let (last, whole) = places.split_last().expect("there are twelve");
    let mut bits = Zeroizing::new(0u128);
    for place in whole {
        *bits = (*bits << WORD_BITS) | u128::from(*place);
    }
    *bits = (*bits << (WORD_BITS - CHECKSUM_BITS)) | u128::from(last >> CHECKSUM_BITS);
    let phrase = Phrase(bits.to_be_bytes());
    (phrase.places()[WORDS - 1] == *last).then_some(phrase)
}

/// The word without the number before it and the comma behind it.
fn bare(token: &str) -> &str {
    let rest = token.trim_start_matches(|c: char| c.is_ascii_digit());
    let rest = if rest.len() < token.len() {
        rest.trim_start_matches(['.', ')', ':'])
    } else {
        rest
    };
    rest.trim_end_matches(['.', ',', ';'])
}

/// The place of a word that is written out, or of the one that begins with at least the letters that make it unique.
fn find(word: &str) -> Option<u16> {
    if let Some(place) = Language::English.find_word(word) {
        return Some(place);
    }
    if word.len() < UNIQUE_LETTERS {
        return None;
    }
    let list = (0u16..).zip(Language::English.word_list());
    list.into_iter()
        .find(|(_, known)| known.starts_with(word))
        .map(|(place, _)| place)
}

fn unknown(position: usize, word: &str) -> WordsError {
    let letters = word.chars().count();
    if letters > MAX_ECHO_LETTERS {
        return WordsError::LongWord { position, letters };
    }
    // Of equally similar words the one that agrees longest from the start: slips are more frequent towards the end.
    let closest = Language::English
        .word_list()
        .iter()
        .map(|known| {
            let common = known.bytes().zip(word.bytes()).take_while(|(a, b)| a == b);
            (slips(word, known), usize::MAX - common.count(), *known)
        })
        .min();
    WordsError::Unknown {
        position,
        word: word.to_owned(),
        suggestion: closest
            .filter(|(slips, ..)| *slips <= 2)
            .map(|(.., known)| known),
    }
}

/// The words, from 1 on, in whose place a word that one slip makes of it would be right.
fn suspects<'a>(places: &[u16; WORDS], words: impl Iterator<Item = &'a str>) -> Vec<usize> {
    let list = Language::English.word_list();
    let mut suspects = Vec::new();
    for (at, written) in words.enumerate() {
        let abbreviated =
            written.len() == UNIQUE_LETTERS && list[usize::from(places[at])] != written;
        let fits = (0u16..).zip(list.iter()).any(|(place, known)| {
            let mut near = place != places[at] && is_near(written, known);
            if abbreviated && place != places[at] {
                near |= is_near(written, known.get(..UNIQUE_LETTERS).unwrap_or(known));
            }
            if !near {
                return false;
            }
            let mut changed = Zeroizing::new(*places);
            changed[at] = place;
            from_places(&changed).is_some()
        });
        if fits {
            suspects.push(at + 1);
        }
    }
    suspects
}

/// Whether one slip explains the difference.
fn is_near(a: &str, b: &str) -> bool {
    // Most words differ more than that in length, which is seen faster.
    a.len().abs_diff(b.len()) <= 1 && slips(a, b) <= 1
}

/// How many letters were added, left out, replaced or swapped with the next one to make one word of the other (the optimal
/// string alignment distance). For short words only.
fn slips(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let (a, b) = (Zeroizing::new(a), Zeroizing::new(b));
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut fewest = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                fewest = fewest.min(before[j - 2] + 1);
            }
            row.push(fewest);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

impl fmt::Debug for Phrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Phrase(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ABANDON: &str = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about";

    proptest! {
        #[test]
        fn every_phrase_reads_back_in_every_form(entropy in any::<[u8; 16]>()) {
            let phrase = Phrase::from_entropy(entropy);
            let words = phrase.words();
            prop_assert_eq!(Phrase::parse(&phrase.text()), Ok(phrase.clone()));
            prop_assert_eq!(Phrase::parse(&phrase.text().to_uppercase()), Ok(phrase.clone()));
            let short: Vec<&str> = words.iter().map(|w| w.get(..4).unwrap_or(w)).collect();
            prop_assert_eq!(Phrase::parse(&short.join("\n")), Ok(phrase.clone()));
            for form in ["{n}. {w}\r\n", "{n}.{w} ", "{n}) {w},\t", "\u{2003}{n} {w}; "] {
                let text: String = words.iter().enumerate()
                    .map(|(at, w)| form.replace("{n}", &(at + 1).to_string()).replace("{w}", w))
                    .collect();
                prop_assert_eq!(Phrase::parse(&text), Ok(phrase.clone()), "{}", form);
            }
            // The crate that the list is from agrees.
            let theirs = bip39::Mnemonic::from_entropy(&entropy).expect("16 bytes");
            prop_assert_eq!(theirs.words().collect::<Vec<_>>(), words.to_vec());
        }

        #[test]
        fn any_text_gives_an_answer(text in ".{0,400}", words in "([a-z]{2,9} ){0,30}") {
            let _ = Phrase::parse(&text);
            let _ = Phrase::parse(&words);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// One wrong letter that makes another word of the list is found, at least among others.
        #[test]
        fn a_slip_is_among_the_suspects(entropy in any::<[u8; 16]>(), at in 0..WORDS, pick in any::<prop::sample::Index>()) {
            let phrase = Phrase::from_entropy(entropy);
            let mut words = phrase.words();
            let near: Vec<&str> = Language::English.word_list().iter().copied()
                .filter(|w| *w != words[at] && is_near(w, words[at])).collect();
            prop_assume!(!near.is_empty());
            words[at] = near[pick.index(near.len())];
            match Phrase::parse(&words.join(" ")) {
                Err(WordsError::Checksum { suspects }) => prop_assert!(suspects.contains(&(at + 1))),
                // One wrong phrase in sixteen has the right checksum.
                Ok(other) => prop_assert_ne!(other, phrase),
                Err(other) => prop_assert!(false, "{}", other),
            }
        }
    }

    /// The vectors of the reference implementation (trezor/python-mnemonic, vectors.json) with 16 bytes of entropy.
    #[test]
    fn golden_words() {
        for (byte, text) in [
            (0x00, ABANDON),
            (
                0x7f,
                "legal winner thank year wave sausage worth useful legal winner thank yellow",
            ),
            (
                0x80,
                "letter advice cage absurd amount doctor acoustic avoid letter advice cage above",
            ),
            (0xff, "zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo wrong"),
        ] {
            let phrase = Phrase::from_entropy([byte; 16]);
            assert_eq!(phrase.text().as_str(), text);
            assert_eq!(Phrase::parse(text), Ok(phrase));
        }
    }

    #[test]
    fn errors_name_the_word() {
        let of = |text: &str| Phrase::parse(text).expect_err("wrong").to_string();
        let replace = |at: usize, word: &str| {
            let mut words: Vec<&str> = ABANDON.split(' ').collect();
            words[at] = word;
            words.join(" ")
        };
        assert_eq!(
            of(&replace(4, "abandn")),
            "word 5, \"abandn\", is not in the list; did you mean \"abandon\"?"
        );
        assert_eq!(
            of(&replace(11, "abuot")),
            "word 12, \"abuot\", is not in the list; did you mean \"about\"?"
        );
        assert_eq!(
            of(&replace(0, "qqqqqq")),
            "word 1, \"qqqqqq\", is not in the list"
        );
        // Three letters are a word or nothing.
        assert!(matches!(
            Phrase::parse(&replace(0, "aba")),
            Err(WordsError::Unknown { .. })
        ));
        assert_eq!(of(""), "expected 12 words, found 0");
        assert_eq!(
            of(&format!("{ABANDON} about")),
            "expected 12 words, found 13"
        );
        assert_eq!(of(&"hello ".repeat(25)), "expected 12 words, found 25");
        assert_eq!(
            of(&ABANDON.replace(' ', "-")),
            "word 1 has 93 letters, which is too long; there is a space between two words"
        );
    }

    #[test]
    fn a_checksum_error_names_the_word_when_a_slip_explains_it() {
        // "letter" became "better": one letter.
        let text =
            "better advice cage absurd amount doctor acoustic avoid letter advice cage above";
        let Err(WordsError::Checksum { suspects }) = Phrase::parse(text) else {
            panic!("the checksum is wrong");
        };
        assert!(suspects.contains(&1), "{suspects:?}");
        // No word of the list is one slip from these.
        let error = Phrase::parse(&"abandon ".repeat(12)).expect_err("no checksum");
        assert_eq!(
            error.to_string(),
            "all 12 words are in the list, but they don't belong together: one of them is wrong or in the wrong place"
        );
        assert_eq!(suspicion(&[5]), "word 5 may be wrong");
        assert_eq!(suspicion(&[1, 5, 9]), "word 1, 5 or 9 may be wrong");
    }

    #[test]
    fn the_longest_text_and_one_byte_more() {
        let fill = MAX_TEXT_BYTES - ABANDON.len();
        let text = format!("{ABANDON}{}", " ".repeat(fill));
        assert!(Phrase::parse(&text).is_ok());
        assert_eq!(
            Phrase::parse(&format!("{text} ")),
            Err(WordsError::TooLong(MAX_TEXT_BYTES + 1))
        );
    }

    #[test]
    fn nothing_secret_in_debug_and_phrases_differ() {
        assert_eq!(format!("{:?}", Phrase::random()), "Phrase(..)");
        assert_ne!(Phrase::random(), Phrase::random());
    }

    #[test]
    fn slips_count() {
        for (a, b, count) in [
            ("", "", 0),
            ("a", "", 1),
            ("abandon", "abandn", 1),
            ("about", "abuot", 1),
            ("letter", "better", 1),
            ("zoo", "zone", 2),
        ] {
            assert_eq!((slips(a, b), slips(b, a)), (count, count), "{a} {b}");
        }
    }
}
