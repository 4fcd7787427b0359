//! Picking one of several things by what people call it: a whole name or id, or a beginning that
//! only one of them has.
//!
//! Every command that shows a name takes it, and goes by these rules. A whole name always wins over
//! a beginning: nobody has to rename "docs" because there is "docs-old".

use std::fmt;

/// Most names that an error repeats.
const MAX_NAMED: usize = 8;
/// Longest text that an error repeats, in characters.
const MAX_ECHO_CHARS: usize = 64;

/// Nothing, or more than one thing, goes by a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Miss {
    /// Kind of thing that was looked for: `set`, `ring`.
    pub kind: &'static str,
    /// Text that was asked for.
    pub text: String,
    /// The things that it may mean; empty when there is none.
    pub fitting: Vec<String>,
    /// Names of all things of that kind.
    pub known: Vec<String>,
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, text, .. } = self;
        if !self.fitting.is_empty() {
            let fitting = list(&self.fitting);
            return write!(f, "'{text}' may be any of several {kind}s: {fitting}");
        }
        write!(f, "there is no {kind} '{text}'")?;
        match &self.known[..] {
            [] => write!(f, ", nor any other"),
            [one] => write!(f, ": the only one is {one}"),
            known => write!(f, ": there are {}", list(known)),
        }
    }
}

impl std::error::Error for Miss {}

fn list(names: &[String]) -> String {
    let mut text = names[..names.len().min(MAX_NAMED)].join(", ");
    if names.len() > MAX_NAMED {
        text.push_str(&format!(" and {} more", names.len() - MAX_NAMED));
    }
    text
}

/// The one thing that `text` names. `names` gives what a thing is called, the name that lists show
/// first. `kind` is for the error.
///
/// # Errors
/// [`Miss`] with the candidates when there is none, or more than one.
pub fn pick<'a, T>(
    kind: &'static str,
    text: &str,
    things: &'a [T],
    names: impl Fn(&T) -> Vec<String>,
) -> Result<&'a T, Miss> {
    let that = |fits: &dyn Fn(&str) -> bool| -> Vec<&'a T> {
        let fits_any = |thing: &&T| names(thing).iter().any(|name| fits(name));
        things.iter().filter(fits_any).collect()
    };
    let mut fitting = that(&|name| name == text);
    if fitting.is_empty() && !text.is_empty() {
        fitting = that(&|name| name.starts_with(text));
    }
    if let [one] = fitting[..] {
        return Ok(one);
    }
    // Two things may be shown under one name: what else they are called tells them apart.
    let labels = |things: Vec<&T>| -> Vec<String> {
        let shown = |thing: &&T| names(thing).into_iter().next().unwrap_or_default();
        let first: Vec<String> = things.iter().map(shown).collect();
        let is_shared = |label: &String| first.iter().filter(|other| *other == label).count() > 1;
        let whole = things
            .iter()
            .zip(&first)
            .map(|(thing, label)| match names(thing).get(1) {
                Some(second) if is_shared(label) => format!("{label} ({second})"),
                _ => label.clone(),
            });
        whole.collect()
    };
    Err(Miss {
        kind,
        text: text.chars().take(MAX_ECHO_CHARS).collect(),
        fitting: labels(fitting),
        known: labels(things.iter().collect()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn by_name(text: &str, things: &[(&str, &str)]) -> Result<String, String> {
        let names = |thing: &(&str, &str)| vec![thing.0.to_owned(), thing.1.to_owned()];
        let picked = pick("set", text, things, names);
        picked
            .map(|thing| thing.1.to_owned())
            .map_err(|miss| miss.to_string())
    }

    #[test]
    fn a_whole_name_or_a_beginning_of_one_alone() {
        let things = [("docs", "1a"), ("docs-old", "1b"), ("photos", "2c")];
        let picked = |text| by_name(text, &things);
        assert_eq!(picked("docs"), Ok("1a".to_owned()), "a whole name wins");
        assert_eq!(picked("docs-"), Ok("1b".to_owned()));
        assert_eq!(picked("p"), Ok("2c".to_owned()));
        assert_eq!(picked("2"), Ok("2c".to_owned()), "by its other name");
        let several = picked("doc").expect_err("two");
        assert_eq!(several, "'doc' may be any of several sets: docs, docs-old");
        let none = picked("Photos").expect_err("none");
        assert_eq!(
            none,
            "there is no set 'Photos': there are docs, docs-old, photos"
        );
        assert!(picked("").is_err(), "nothing is no beginning");
        let one = by_name("x", &things[..1]).expect_err("none");
        assert_eq!(one, "there is no set 'x': the only one is docs");
        let empty = by_name("x", &[]).expect_err("none");
        assert_eq!(empty, "there is no set 'x', nor any other");
    }

    #[test]
    fn things_of_one_name_are_told_apart() {
        let things = [("pc", "1a"), ("pc", "1b"), ("mac", "2")];
        let several = by_name("pc", &things).expect_err("two");
        assert_eq!(several, "'pc' may be any of several sets: pc (1a), pc (1b)");
        assert_eq!(by_name("1b", &things), Ok("1b".to_owned()));
    }

    #[test]
    fn a_long_list_is_cut() {
        let names: Vec<String> = (0..20).map(|number| format!("n{number:02}")).collect();
        let miss = pick("ring", "n", &names, |name| vec![name.clone()]).expect_err("many");
        let text = miss.to_string();
        assert!(text.ends_with("n07 and 12 more"), "{text}");
    }

    proptest! {
        #[test]
        fn any_text_gives_an_answer(text in ".{0,10}", names in proptest::collection::vec(".{0,5}", 0..5)) {
            let picked = pick("set", &text, &names, |name| vec![name.clone()]);
            match picked {
                Ok(name) => prop_assert!(name.starts_with(&text)),
                Err(miss) => prop_assert!(miss.fitting.len() != 1),
            }
        }
    }
}
