//! What people type to name things: identifiers, links with a path behind them, and what may become of a target that exists.

use super::context::Intent;
use super::exit::Failure;
use crate::block::Link;
use crate::client::url::percent_decode;
use crate::crypto::hash;
use crate::id::BlockId;
use crate::node::api::Overwrite;

/// What stands before words that are to be hashed.
const TEXT: &str = "text:";
/// The newest snapshot.
const LATEST: &str = "latest";
/// Fewest digits of a snapshot's id that name it.
const MIN_DIGITS: usize = 4;
/// Digits of a whole id.
const MAX_DIGITS: usize = 96;

/// What to do with files that exist, wherever files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum When {
    /// Leave every file that exists alone.
    Never,
    /// Replace files whose size or time differs.
    Changed,
    /// Replace every file.
    Always,
}

impl From<When> for Overwrite {
    fn from(when: When) -> Self {
        match when {
            When::Never => Self::Missing,
            When::Changed => Self::Changed,
            When::Always => Self::Always,
        }
    }
}

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

/// What `ls` and `cat` look into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A bundle by its link, and a path in it.
    Bundle(Link, String),
    /// A snapshot by its name, and a path in it.
    Snapshot(String, String),
}

/// Use that a command which reads a target makes of the data directory: a bundle can be fetched by anybody, a snapshot is called by its
/// name only on its owner's machines.
pub fn intent(text: &str) -> Intent {
    match tree(text) {
        Ok(Target::Snapshot(..)) => Intent::Ask,
        Ok(Target::Bundle(..)) | Err(_) => Intent::Bring,
    }
}

/// A link and the path behind it, or a snapshot (`latest`, or the first digits of its id) and `:PATH`.
///
/// # Errors
/// Anything else. No message repeats a key.
pub fn tree(text: &str) -> Result<Target, Failure> {
    let (name, path) = split_name(text.trim());
    if is_snapshot_name(name) {
        return Ok(Target::Snapshot(name.to_ascii_lowercase(), tidy(path)));
    }
    link_and_path(text).map(|(link, path)| Target::Bundle(link, path))
}

/// A snapshot (`latest`, the first digits of its id, or its link) and the path in it, without a slash at its start.
///
/// # Errors
/// Anything else. No message repeats a key.
pub fn snapshot_and_path(text: &str) -> Result<(String, String), Failure> {
    let text = text.trim();
    let (name, path) = split_name(text);
    if is_snapshot_name(name) {
        return Ok((name.to_ascii_lowercase(), tidy(path)));
    }
    if looks_like_link(text) {
        // Behind a link the path may follow a colon, as it does behind other names, or a slash.
        let (link, path) = match text.rsplit_once(':') {
            Some((link, path)) if looks_like_link(link) && link_and_path(link).is_ok() => {
                (link_and_path(link)?.0, tidy(path))
            }
            _ => link_and_path(text)?,
        };
        return Ok((link.to_string(), path));
    }
    let shown: String = name.chars().take(40).collect();
    Err(Failure::usage(format!("'{shown}' names no snapshot")).with_hint(format!(
        "say latest, or at least {MIN_DIGITS} digits of an id that `libernet snapshots` shows, and perhaps :PATH"
    )))
}

/// A snapshot without a path.
///
/// # Errors
/// As [`snapshot_and_path`], and when there is a path.
pub fn snapshot(text: &str) -> Result<String, Failure> {
    match snapshot_and_path(text)? {
        (name, path) if path.is_empty() => Ok(name),
        _ => Err(Failure::usage("a path in a snapshot is of no use here")),
    }
}

/// What is before the first colon, and what is behind it.
fn split_name(text: &str) -> (&str, &str) {
    text.split_once(':').unwrap_or((text, ""))
}

fn is_snapshot_name(name: &str) -> bool {
    let is_id = (MIN_DIGITS..=MAX_DIGITS).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id || name == LATEST
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

/// Whether the text is meant to be a link, right or wrong.
pub fn looks_like_link(text: &str) -> bool {
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
    fn snapshots_in_every_form() {
        let link = sample();
        for (text, name, path) in [
            ("latest", "latest", ""),
            ("latest:/home//u/", "latest", "home/u"),
            ("0aB4:etc/a:b", "0ab4", "etc/a:b"),
            (&link.id.to_hex(), &link.id.to_hex(), ""),
        ] {
            let (name, path) = (name.to_owned(), path.to_owned());
            assert_eq!(snapshot_and_path(text), Ok((name.clone(), path.clone())));
            assert_eq!(tree(text), Ok(Target::Snapshot(name, path)));
        }
        for form in [link.to_string(), link.to_path()] {
            for rest in ["/a/b", ":/a/b", ":a/b"] {
                let found = snapshot_and_path(&format!("{form}{rest}"));
                assert_eq!(
                    found,
                    Ok((link.to_string(), "a/b".to_owned())),
                    "{form}{rest}"
                );
            }
            assert_eq!(snapshot(&form), Ok(link.to_string()));
            assert_eq!(
                tree(&format!("{form}/a")),
                Ok(Target::Bundle(link.clone(), "a".to_owned()))
            );
        }
        for text in [
            "",
            "abc",
            "newest",
            "latest/x",
            &"a".repeat(97),
            "libernet:",
        ] {
            let failure = snapshot_and_path(text).expect_err(text);
            assert_eq!(failure.exit, Exit::Usage, "{text}");
            assert!(tree(text).is_err(), "{text}");
        }
        assert!(snapshot("latest:/a").is_err());
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
            let _ = (tree(&text), snapshot_and_path(&text));
            let _ = snapshot_and_path(&format!("{}{text}", sample()));
        }
    }
}
