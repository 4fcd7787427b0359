//! One of several things by what people type, for things that have a name and ids: `crate::pick`
//! with the command that lists them.

use super::exit::Failure;
use crate::node::api::CallError;

/// A thing that can be named.
pub struct Named<T> {
    /// The thing itself.
    pub thing: T,
    /// Its ids, each in another form.
    pub ids: Vec<String>,
    /// Its name; names need not be unique.
    pub name: String,
}

/// The one that `text` names. `kind` is the noun for errors, `listing` the command that shows them.
///
/// # Errors
/// [`Exit::NotFound`](super::exit::Exit::NotFound) when there is none,
/// [`Exit::Usage`](super::exit::Exit::Usage) when there are several.
pub fn pick<T>(
    kind: &'static str,
    listing: &str,
    text: &str,
    all: impl IntoIterator<Item = Named<T>>,
) -> Result<T, Failure> {
    let (mut things, mut names) = (Vec::new(), Vec::new());
    for one in all {
        let name = Some(one.name).filter(|name| !name.is_empty());
        let called: Vec<String> = name.into_iter().chain(one.ids).collect();
        names.push((things.len(), called));
        things.push(one.thing);
    }
    match crate::pick::pick(kind, text.trim(), &names, |(_, called)| called.clone()) {
        Ok((at, _)) => Ok(things.swap_remove(*at)),
        Err(miss) => {
            let hint = match miss.fitting.is_empty() {
                true => format!("`{listing}` shows what there is"),
                false => format!("`{listing} -v` shows whole ids"),
            };
            Err(Failure::from(CallError::from(miss)).with_hint(hint))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit::Exit;

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
            ("lap", 1),
        ] {
            assert_eq!(one(text).expect(text), thing, "{text}");
        }
        for text in ["twin", "12D3KooWA", "12D"] {
            assert_eq!(one(text).expect_err(text).exit, Exit::Usage, "{text}");
        }
        for text in ["", "12D3KooWB", "laptops"] {
            let failure = one(text).expect_err(text);
            assert_eq!(failure.exit, Exit::NotFound, "{text}");
            assert!(failure.hint.expect("a hint").contains("ring members"));
        }
    }
}
