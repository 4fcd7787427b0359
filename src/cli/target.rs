//! What people type to name things: identifiers, and links with a path behind them.

use super::exit::Failure;
use crate::block::Link;
use crate::client::url::percent_decode;
use crate::crypto::hash;
use crate::id::BlockId;

/// What stands before words that are to be hashed.
const TEXT: &str = "text:";

/// An identifier: a block id in any documented form, a link (its root), or `text:WORDS` (the SHA-384 of the words).
///
/// # Errors
/// Anything else, with a hint at `text:`.
pub fn identifier(text: &str) -> Result<BlockId, Failure> {
    if let Some(words) = text.strip_prefix(TEXT) {
        if words.is_empty() {
            return Err(Failure::usage("there are no words after 'text:'"));
        }
        return Ok(hash::sha384_id(words.as_bytes()));
    }
    match text.trim().parse() {
        Ok(id) => Ok(id),
        Err(_) if looks_like_link(text) => Ok(link_and_path(text)?.0.id),
        Err(error) => {
            let words: String = text.chars().take(40).collect();
            Err(Failure::from(error).with_hint(format!(
                "to look for the words themselves, say 'text:{words}': their SHA-384 is the identifier"
            )))
        }
    }
}

/// The id of a block, or of a link's root.
///
/// # Errors
/// Anything else.
pub fn block(text: &str) -> Result<BlockId, Failure> {
    match text.trim().parse() {
        Ok(id) => Ok(id),
        Err(_) if looks_like_link(text) => Ok(link_and_path(text)?.0.id),
        Err(error) => Err(error.into()),
    }
}

/// A link and the path behind it: `libernet:<id>.<key>[/path]`, `/sha384/<hex>/aes256/<hex>[/path]`, or the URL of the latter
/// on any host.
///
/// # Errors
/// Anything else. No message repeats a key.
pub fn link_and_path(text: &str) -> Result<(Link, String), Failure> {
    let text = text.trim();
    if let Some(rest) = ["http://", "https://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme))
    {
        let path = rest.find('/').map_or("", |at| &rest[at..]);
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let decoded = percent_decode(path)
            .ok_or_else(|| Failure::usage("the URL's path is not valid: a '%' is out of place"))?;
        return path_form(&decoded);
    }
    if text.starts_with("libernet:") {
        // The id may itself be a path; the key never holds a slash.
        let key_at = text.find('.').map_or(text.len(), |at| at + 1);
        let path_at = text[key_at..]
            .find('/')
            .map_or(text.len(), |at| key_at + at);
        let link = text[..path_at].parse::<Link>()?;
        return Ok((link, tidy(&text[path_at..])));
    }
    path_form(text)
}

fn path_form(text: &str) -> Result<(Link, String), Failure> {
    let separator = "/aes256/";
    let Some(at) = text.find(separator) else {
        return Ok((text.parse::<Link>()?, String::new()));
    };
    let key_at = at + separator.len();
    let path_at = text[key_at..]
        .find('/')
        .map_or(text.len(), |at| key_at + at);
    Ok((text[..path_at].parse::<Link>()?, tidy(&text[path_at..])))
}

fn looks_like_link(text: &str) -> bool {
    text.trim().starts_with("libernet:")
        || text.contains("/aes256/")
        || text.trim().starts_with("http://")
        || text.trim().starts_with("https://")
}

/// Without empty parts.
fn tidy(path: &str) -> String {
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
    names.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit::Exit;
    use crate::crypto::key::Key;
    use proptest::prelude::*;

    fn sample() -> Link {
        Link {
            id: BlockId::from_sha384([0x5a; 48]),
            key: Key::new([0xa5; 32]),
        }
    }

    #[test]
    fn links_in_every_form() {
        let link = sample();
        let forms = [
            link.to_string(),
            link.to_path(),
            format!("http://127.0.0.1:4385{}", link.to_path()),
            format!("libernet:{}.{}", link.id.to_path(), link.key.to_base32()),
        ];
        for form in forms {
            for (rest, path) in [("", ""), ("/", ""), ("/a/b.c", "a/b.c"), ("//a//b/", "a/b")] {
                let text = format!(" {form}{rest}\n");
                assert_eq!(
                    link_and_path(&text),
                    Ok((link.clone(), path.to_owned())),
                    "{text}"
                );
            }
        }
        let url = format!("http://localhost:1{}/a%20b?skip=1#x", link.to_path());
        assert_eq!(link_and_path(&url), Ok((link.clone(), "a b".to_owned())));
        // Outside of URLs a percent sign is one.
        let text = format!("{link}/a%20b");
        assert_eq!(link_and_path(&text), Ok((link, "a%20b".to_owned())));
    }

    #[test]
    fn identifiers_in_every_form() {
        let link = sample();
        let id = link.id;
        for text in [
            id.to_string(),
            id.to_hex(),
            id.to_path(),
            id.to_path()[1..].to_owned(),
            link.to_string(),
            link.to_path(),
            format!("{link}/path"),
        ] {
            assert_eq!(identifier(&text), Ok(id), "{text}");
            assert_eq!(block(&text), Ok(id), "{text}");
        }
        assert_eq!(identifier("text:abc"), Ok(hash::sha384_id(b"abc")));
        assert_eq!(identifier("text: abc "), Ok(hash::sha384_id(b" abc ")));
    }

    #[test]
    fn everything_else_is_refused_with_advice() {
        let words = identifier("garden").expect_err("words");
        assert_eq!(words.exit, Exit::Usage);
        assert!(words.hint.expect("a hint").contains("text:garden"));
        assert!(
            identifier("text:").is_err() && identifier("").is_err() && block("text:abc").is_err()
        );
        for text in [
            "",
            "nonsense",
            "libernet:",
            "http://localhost",
            "http://localhost/%zz",
            "/aes256/",
        ] {
            let failure = link_and_path(text).expect_err("no link");
            assert_eq!(failure.exit, Exit::Usage, "{text}");
        }
        let failure = link_and_path(&sample().id.to_string()).expect_err("no key");
        assert!(
            failure.message.contains("without a key"),
            "{}",
            failure.message
        );
    }

    #[test]
    fn a_cut_key_is_not_repeated() {
        let text = sample().to_string();
        let failure = link_and_path(&text[..text.len() - 4]).expect_err("cut");
        assert!(failure.message.contains("cut"), "{}", failure.message);
        assert!(!format!("{failure:?}").contains(&text[text.len() - 20..text.len() - 6]));
    }

    proptest! {
        #[test]
        fn any_text_gives_an_answer(text in ".{0,80}") {
            let _ = identifier(&text);
            let _ = link_and_path(&text);
            let _ = link_and_path(&format!("{}{text}", sample()));
        }
    }
}
