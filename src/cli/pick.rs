//! One of several things by what people type: its name, its whole id, or the start of the id that no other one has.

use super::exit::{Exit, Failure};

/// Fewest characters of an id that name something: fewer are a slip of the hand.
const MIN_CHARACTERS: usize = 4;

/// A thing that can be named.
pub struct Named<T> {
    /// What it is.
    pub thing: T,
    /// Its ids, each in another form.
    pub ids: Vec<String>,
    /// What it is called; names need not be unique.
    pub name: String,
}

/// The one that `text` names. `kind` is the noun for errors, `listing` the command that shows them.
///
/// # Errors
/// [`Exit::NotFound`] when there is none, [`Exit::Usage`] when there are several.
pub fn pick<T>(
    kind: &str,
    listing: &str,
    text: &str,
    all: impl IntoIterator<Item = Named<T>>,
) -> Result<T, Failure> {
    let text = text.trim();
    let (mut exact, mut called, mut begun) = (Vec::new(), Vec::new(), Vec::new());
    for one in all {
        let starts = |id: &String| text.len() >= MIN_CHARACTERS && id.starts_with(text);
        if one.ids.iter().any(|id| id == text) {
            exact.push(one.thing);
        } else if one.name == text {
            called.push(one.thing);
        } else if one.ids.iter().any(starts) {
            begun.push(one.thing);
        }
    }
    // The whole id beats a name, and a name beats the start of an id.
    let found = [exact, called, begun]
        .into_iter()
        .find(|found| !found.is_empty());
    let mut found = found.unwrap_or_default();
    let shown: String = text.chars().take(64).collect();
    match found.len() {
        0 => Err(
            Failure::new(Exit::NotFound, format!("no {kind} is called '{shown}'"))
                .with_hint(format!("`{listing}` shows what there is")),
        ),
        1 => Ok(found.remove(0)),
        several => Err(Failure::usage(format!(
            "'{shown}' names {several} of them: give more of the {kind}'s id"
        ))
        .with_hint(format!("`{listing} -v` shows whole ids"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(thing: u8, id: &str, name: &str) -> Named<u8> {
        Named {
            thing,
            ids: vec![id.to_owned(), format!("other-{id}")],
            name: name.to_owned(),
        }
    }

    #[test]
    fn names_ids_and_their_starts() {
        let all = || {
            [
                named(1, "12D3KooWAbc", "laptop"),
                named(2, "12D3KooWAxy", "nas"),
                named(3, "12D3KooWZ", "twin"),
                named(4, "12D3KooWZZZ", "twin"),
            ]
        };
        let one = |text: &str| pick("member", "libernet ring members RING", text, all());
        for (text, thing) in [
            ("12D3KooWAbc", 1),
            ("12D3KooWAb", 1),
            (" nas\n", 2),
            ("other-12D3KooWAxy", 2),
            ("other-12D3KooWAx", 2),
            ("12D3KooWZ", 3),
            ("12D3KooWZZ", 4),
        ] {
            assert_eq!(one(text).expect(text), thing, "{text}");
        }
        for text in ["twin", "12D3KooWA", "12D3"] {
            assert_eq!(one(text).expect_err(text).exit, Exit::Usage, "{text}");
        }
        for text in ["", "12D", "12D3KooWB", "lap"] {
            let failure = one(text).expect_err(text);
            assert_eq!(failure.exit, Exit::NotFound, "{text}");
            assert!(failure.hint.expect("a hint").contains("ring members"));
        }
    }
}
