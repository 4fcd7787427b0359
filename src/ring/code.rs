//! Invite codes: a ring's name, an invitation's seed and its end in a form that can be read aloud.
//!
//! `home:` and eight groups of five characters of Crockford's base32 (<https://www.crockford.com/base32.html>): the alphabet has no I, L,
//! O and U, and reads i and l as 1, o as 0. The fifth character of a group checks the other four and the group's place, so that
//! a mistyped character is found, and where: a weighted sum over GF(32) in which every single change and every swap of neighbours
//! shows. A checksum of 16 bits over everything finds the rest.

use std::fmt;
use std::str::FromStr;

use zeroize::{Zeroize, Zeroizing};

use super::group::{MAX_NAME_BYTES, check_name};
use super::secret::Seed;
use crate::crypto::hash;
use crate::time::Timestamp;

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const GROUPS: usize = 8;
/// Characters of a group that carry data; one more checks them.
const GROUP_DATA: usize = 4;
const GROUP: usize = GROUP_DATA + 1;
/// Seed, end and checksum: exactly the bits of all groups.
const PAYLOAD_BYTES: usize = Seed::BYTES + 2 + CHECKSUM_BYTES;
const CHECKSUM_BYTES: usize = 2;
const CHECKSUM_CONTEXT: &str = "libernet 2026-11 ring invite code v2";
/// Longest text that is looked at.
const MAX_TEXT_BYTES: usize = 256;

/// Ends of invitations are counted from here: 2026-01-01, in milliseconds since 1970.
const EPOCH_MS: u64 = 1_767_225_600_000;
/// Ends are told to the next full four hours, which last until the end of 2040.
const STEP_MS: u64 = 4 * 3600 * 1000;
/// Last end, in steps. The bit above says that the ring meets anywhere.
const MAX_STEPS: u16 = 0x7fff;
const ANYWHERE: u16 = 0x8000;

/// Code that lets a node into a ring: the ring's name and an invitation.
#[derive(Clone, PartialEq, Eq)]
pub struct InviteCode {
    /// The name that the ring has where the code was made.
    pub name: String,
    /// The invitation's seed.
    pub seed: Seed,
    /// When the invitation is over, or some hours later: the member that made it knows exactly.
    pub until: Timestamp,
    /// Whether the ring's members look for each other at the public meeting point.
    pub anywhere: bool,
}

/// What is wrong with a code. Never repeats more of it than one group's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodeError {
    /// It has not the form.
    #[error("an invite code is a name, a colon and {GROUPS} groups of {GROUP} letters and digits")]
    Form,
    /// There are too few or too many characters after the name.
    #[error("the invite code has {0} letters and digits after the name instead of {len}", len = GROUPS * GROUP)]
    Length(usize),
    /// A character that codes don't have.
    #[error("group {group} of the invite code has a character that codes do not have: '{found}'")]
    Character {
        /// Which group, from 1.
        group: usize,
        /// The character.
        found: char,
    },
    /// A group does not fit its check character.
    #[error("group {0} of the invite code is mistyped")]
    Group(usize),
    /// Each group is right and the whole is not.
    #[error("the invite code does not hold together: the name is mistyped, or more than one group")]
    Checksum,
}

impl InviteCode {
    /// The code of an invitation; its end is rounded up as in its text.
    pub fn new(name: &str, seed: Seed, until: Timestamp) -> Self {
        let steps = until.0.saturating_sub(EPOCH_MS).div_ceil(STEP_MS);
        let steps = u16::try_from(steps).unwrap_or(MAX_STEPS).min(MAX_STEPS);
        Self {
            name: name.to_owned(),
            seed,
            until: end_of(steps),
            anywhere: false,
        }
    }

    /// Whether the invitation is over.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.until <= now
    }

    /// The end in steps, with the bit that says whether the ring meets anywhere.
    fn end(&self) -> u16 {
        let steps = self.until.0.saturating_sub(EPOCH_MS) / STEP_MS;
        let steps = u16::try_from(steps).unwrap_or(MAX_STEPS).min(MAX_STEPS);
        match self.anywhere {
            true => steps | ANYWHERE,
            false => steps,
        }
    }

    fn checksum(&self) -> [u8; CHECKSUM_BYTES] {
        let mut all = Vec::with_capacity(Seed::BYTES + 2 + self.name.len());
        all.extend_from_slice(self.seed.as_bytes());
        all.extend_from_slice(&self.end().to_be_bytes());
        all.extend_from_slice(self.name.as_bytes());
        let sum = hash::derive_key(CHECKSUM_CONTEXT, &all);
        all.zeroize();
        [sum[0], sum[1]]
    }

    /// The text to pass on. It is a secret.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut payload = Zeroizing::new([0; PAYLOAD_BYTES]);
        payload[..Seed::BYTES].copy_from_slice(self.seed.as_bytes());
        payload[Seed::BYTES..Seed::BYTES + 2].copy_from_slice(&self.end().to_be_bytes());
        payload[Seed::BYTES + 2..].copy_from_slice(&self.checksum());
        // With room for all of it, so that growing leaves no copies behind.
        let mut text = String::with_capacity(MAX_NAME_BYTES + GROUPS * (GROUP + 1));
        text.push_str(&self.name);
        for group in 0..GROUPS {
            text.push(if group == 0 { ':' } else { '-' });
            let digits: [u8; GROUP_DATA] =
                std::array::from_fn(|at| digit(&payload, group * GROUP_DATA + at));
            for digit in digits.into_iter().chain([check(group, &digits)]) {
                text.push(char::from(ALPHABET[usize::from(digit)]));
            }
        }
        Zeroizing::new(text)
    }
}

impl FromStr for InviteCode {
    type Err = CodeError;

    /// Upper or lower case, with spaces, dashes or dots anywhere after the colon.
    fn from_str(text: &str) -> Result<Self, CodeError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(CodeError::Form);
        }
        let (name, rest) = text.trim().split_once(':').ok_or(CodeError::Form)?;
        let words: Vec<String> = name
            .split([' ', '-', '_'])
            .filter(|word| !word.is_empty())
            .map(str::to_ascii_lowercase)
            .collect();
        let name = words.join("-");
        check_name(&name).map_err(|_| CodeError::Form)?;
        let skipped = |c: &char| c.is_whitespace() || matches!(c, '-' | '.' | '_' | ',');
        let mut digits = Zeroizing::new([0; GROUPS * GROUP]);
        let mut len = 0;
        for c in rest.chars().filter(|c| !skipped(c)) {
            let group = len / GROUP + 1;
            let value = value(c).ok_or(CodeError::Character { group, found: c })?;
            if let Some(place) = digits.get_mut(len) {
                *place = value;
            }
            len += 1;
        }
        if len != digits.len() {
            return Err(CodeError::Length(len));
        }
        let mut payload = Zeroizing::new([0; PAYLOAD_BYTES]);
        for (group, all) in digits.chunks_exact(GROUP).enumerate() {
            let (data, sum) = all.split_at(GROUP_DATA);
            if check(group, data) != sum[0] {
                return Err(CodeError::Group(group + 1));
            }
            for (at, value) in data.iter().enumerate() {
                set_digit(&mut payload, group * GROUP_DATA + at, *value);
            }
        }
        let mut seed = [0; Seed::BYTES];
        seed.copy_from_slice(&payload[..Seed::BYTES]);
        let end = u16::from_be_bytes([payload[Seed::BYTES], payload[Seed::BYTES + 1]]);
        let code = Self {
            name,
            seed: Seed::new(seed),
            until: end_of(end & MAX_STEPS),
            anywhere: end & ANYWHERE != 0,
        };
        seed.zeroize();
        if code.checksum() != payload[Seed::BYTES + 2..] {
            return Err(CodeError::Checksum);
        }
        Ok(code)
    }
}

impl fmt::Debug for InviteCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InviteCode({}, ..)", self.name)
    }
}

const fn end_of(steps: u16) -> Timestamp {
    Timestamp(EPOCH_MS + steps as u64 * STEP_MS)
}

/// The five bits at place `at`.
fn digit(payload: &[u8; PAYLOAD_BYTES], at: usize) -> u8 {
    (0..5).fold(0, |value, bit| {
        let bit = at * 5 + bit;
        value << 1 | (payload[bit / 8] >> (7 - bit % 8) & 1)
    })
}

fn set_digit(payload: &mut [u8; PAYLOAD_BYTES], at: usize, value: u8) {
    for bit in 0..5 {
        let place = at * 5 + bit;
        payload[place / 8] |= (value >> (4 - bit) & 1) << (7 - place % 8);
    }
}

fn value(c: char) -> Option<u8> {
    let c = match c.to_ascii_uppercase() {
        'I' | 'L' => '1',
        'O' => '0',
        c => c,
    };
    let place = ALPHABET.iter().position(|known| char::from(*known) == c)?;
    Some(place as u8)
}

/// Twice `a` in GF(32) with the polynomial x^5 + x^2 + 1, of which x generates all other elements.
const fn twice(a: u8) -> u8 {
    let shifted = a << 1;
    if shifted & 0x20 == 0 {
        shifted
    } else {
        (shifted ^ 0x25) & 0x1f
    }
}

/// Horner's rule: each digit has a weight of its own, none of which is zero or one; the group's number is a digit, too.
fn check(group: usize, digits: &[u8]) -> u8 {
    digits
        .iter()
        .fold(group as u8 + 1, |sum, digit| twice(twice(sum) ^ digit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn code(seed: [u8; 16], end: u16, name: &str) -> InviteCode {
        InviteCode {
            anywhere: end & ANYWHERE != 0,
            ..InviteCode::new(name, Seed::new(seed), end_of(end & MAX_STEPS))
        }
    }

    #[test]
    fn the_end_is_rounded_up_and_read_back() {
        let seed = Seed::new([1; 16]);
        let at = Timestamp(EPOCH_MS + STEP_MS + 1);
        let code = InviteCode::new("home", seed.clone(), at);
        assert_eq!(code.until, end_of(2));
        assert!(!code.is_over(at) && code.is_over(end_of(2)));
        for far in [Timestamp(u64::MAX), Timestamp(0)] {
            let code = InviteCode::new("home", seed.clone(), far);
            assert_eq!(code.to_text().parse().as_ref(), Ok(&code));
        }
    }

    #[test]
    fn golden_code() {
        let seed = std::array::from_fn(|n| n as u8 * 17);
        let golden = code(seed, 1, "home");
        assert_eq!(
            *golden.to_text(),
            "home:008J6-4CT4Z-ANK72-F24SV-NAXWW-SQFE3-ZW00G-2349J"
        );
        let anywhere = InviteCode {
            anywhere: true,
            ..golden.clone()
        };
        assert_eq!(
            *anywhere.to_text(),
            "home:008J6-4CT4Z-ANK72-F24SV-NAXWW-SQFE3-ZY00T-2Z6GP"
        );
        assert_eq!(anywhere.to_text().parse().as_ref(), Ok(&anywhere));
        assert_eq!(anywhere.until, golden.until);
    }

    #[test]
    fn codes_are_read_as_people_write_them() {
        let right = code([7; 16], 3, "my-home");
        let text = right.to_text();
        for form in [
            text.to_lowercase(),
            text.replace('-', " ").replace("my home", "My  Home"),
            format!("  {}\n", text.replace(':', " : ")),
            text.replace('1', "l").replace('0', "o"),
        ] {
            assert_eq!(form.parse::<InviteCode>().as_ref(), Ok(&right), "{form}");
        }
        assert!(!format!("{right:?}").contains("7, 7"));
        for form in ["", "home", ":", "ho me", &"x".repeat(MAX_TEXT_BYTES + 1)] {
            assert_eq!(form.parse::<InviteCode>(), Err(CodeError::Form), "{form}");
        }
        let short = &text[..text.len() - 1];
        assert_eq!(short.parse::<InviteCode>(), Err(CodeError::Length(39)));
        let long = format!("{}0", *text);
        assert_eq!(long.parse::<InviteCode>(), Err(CodeError::Length(41)));
        let odd = format!("{short}U");
        let error = CodeError::Character {
            group: 8,
            found: 'U',
        };
        assert_eq!(odd.parse::<InviteCode>(), Err(error));
        let renamed = text.replace("my-home", "my-hone");
        assert_eq!(renamed.parse::<InviteCode>(), Err(CodeError::Checksum));
    }

    proptest! {
        #[test]
        fn any_code_reads_back(seed: [u8; 16], end: u16, name in "[a-z0-9]{1,8}(-[a-z0-9]{1,8}){0,2}") {
            let code = code(seed, end, &name);
            prop_assert_eq!(code.to_text().parse::<InviteCode>(), Ok(code));
        }

        #[test]
        fn a_mistyped_character_is_found_and_its_group_is_named(seed: [u8; 16], at in 0usize..40, other in 0usize..32) {
            let text = code(seed, 1, "home").to_text();
            let place = 5 + at / GROUP * (GROUP + 1) + at % GROUP;
            let mut wrong = text.as_bytes().to_vec();
            prop_assume!(wrong[place] != ALPHABET[other]);
            wrong[place] = ALPHABET[other];
            let wrong = String::from_utf8(wrong).expect("ASCII");
            prop_assert_eq!(wrong.parse::<InviteCode>(), Err(CodeError::Group(at / GROUP + 1)));
        }

        #[test]
        fn swapped_neighbours_are_found(seed: [u8; 16], at in 0usize..39) {
            let text = code(seed, 1, "home").to_text();
            let mut digits: Vec<u8> = text[5..].bytes().filter(|c| *c != b'-').collect();
            prop_assume!(digits[at] != digits[at + 1]);
            digits.swap(at, at + 1);
            let wrong = format!("home:{}", String::from_utf8(digits).expect("ASCII"));
            prop_assert!(wrong.parse::<InviteCode>().is_err());
        }

        #[test]
        fn any_text_gives_an_answer(text in "(?s).{0,80}", rest in "[0-9a-zA-Z -]{0,60}") {
            let _ = text.parse::<InviteCode>();
            let _ = format!("home:{rest}").parse::<InviteCode>();
        }
    }
}
