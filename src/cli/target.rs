//! Names that people type for things: identifiers, links with a path behind them, and what may
//! become of a target that exists.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use unicode_normalization::UnicodeNormalization;

use super::context::Intent;
use super::exit::Failure;
use crate::block::{Link, Ticket};
use crate::bundle::pattern;
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

/// Treatment of files that exist, wherever files are written.
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

/// An identifier: a block id in any documented form, a link (its root), or `text:WORDS` (the
/// SHA-384 of the words in Unicode's composed form, NFC).
///
/// # Errors
/// Anything else, with a hint at `text:`.
pub fn identifier(text: &str) -> Result<BlockId, Failure> {
    if let Some(words) = text.strip_prefix(TEXT) {
        if words.is_empty() {
            return Err(Failure::usage("there are no words after 'text:'"));
        }
        // The same words typed on another system may come as other code points.
        let words: String = words.nfc().collect();
        return Ok(hash::sha384_id(words.as_bytes()));
    }
    match text.trim().parse() {
        Ok(id) => Ok(id),
        Err(_) if looks_like_link(text) => Ok(link_and_path(OsStr::new(text))?.0.id),
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
        Err(_) if looks_like_link(text) => Ok(link_and_path(OsStr::new(text))?.0.id),
        Err(error) => Err(error.into()),
    }
}

/// Addresses that the text's ticket names, if it is one.
///
/// # Errors
/// A ticket that is not right.
pub fn ways(text: &OsStr) -> Result<Vec<String>, Failure> {
    let Some((ticket, _)) = ticket(text.as_bytes().trim_ascii_start())? else {
        return Ok(Vec::new());
    };
    let addresses = ticket.addresses().into_iter();
    Ok(addresses.map(|address| address.to_string()).collect())
}

/// A ticket and what is behind it, a path after a slash or a colon; none when the text is no
/// ticket.
fn ticket(text: &[u8]) -> Result<Option<(Ticket, &[u8])>, Failure> {
    let end = position(text, b'/').min(position(text, b':'));
    let (word_of_it, behind) = text.split_at(end);
    let Some(word_of_it) = std::str::from_utf8(word_of_it).ok() else {
        return Ok(None);
    };
    if !Ticket::is_meant(word_of_it) {
        return Ok(None);
    }
    Ok(Some((word_of_it.parse()?, behind)))
}

/// A link or ticket and the path behind it: `libernet:<id>.<key>[/path]`,
/// `/sha384/<hex>/aes256/<hex>[/path]`, or the URL of the latter on any host. Names in the path are
/// bytes, white space at their ends is a part of them.
///
/// # Errors
/// Anything else. No message repeats a key.
pub fn link_and_path(text: &OsStr) -> Result<(Link, PathBuf), Failure> {
    parse_link(text.as_bytes().trim_ascii_start())
}

fn parse_link(text: &[u8]) -> Result<(Link, PathBuf), Failure> {
    if let Some((ticket, behind)) = ticket(text)? {
        let path = behind.strip_prefix(b":").unwrap_or(behind);
        return Ok((ticket.link().clone(), tidy(path)));
    }
    let schemes: [&[u8]; 2] = [b"http://", b"https://"];
    if let Some(rest) = schemes.iter().find_map(|scheme| text.strip_prefix(*scheme)) {
        let path = rest.get(position(rest, b'/')..).unwrap_or_default();
        let end = position(path, b'?').min(position(path, b'#'));
        let decoded = percent_decode(&path[..end])
            .ok_or_else(|| Failure::usage("the URL's path is not valid: a '%' is out of place"))?;
        return path_form(&decoded);
    }
    if text.starts_with(b"libernet:") {
        // The id may itself be a path; the key never holds a slash.
        let key_at = (position(text, b'.') + 1).min(text.len());
        let path_at = key_at + position(&text[key_at..], b'/');
        let (link, path) = text.split_at(path_at);
        return Ok((word(link)?.parse::<Link>()?, tidy(path)));
    }
    path_form(text)
}

/// Where `byte` is; the end when it is nowhere.
fn position(text: &[u8], byte: u8) -> usize {
    let found = text.iter().position(|other| *other == byte);
    found.unwrap_or(text.len())
}

/// A part that is text and has no white space around it.
fn word(text: &[u8]) -> Result<&str, Failure> {
    std::str::from_utf8(text)
        .map(str::trim)
        .map_err(|_| Failure::usage("this is no link: it holds bytes that are not text"))
}

/// What `ls` and `cat` look into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A bundle by its link, and a path in it.
    Bundle(Link, PathBuf),
    /// A snapshot by its name, and a path in it.
    Snapshot(String, PathBuf),
}

/// Use that a command which reads a target makes of the data directory: a bundle can be fetched by
/// anybody, a snapshot is called by its name only on its owner's machines.
pub fn intent(text: &OsStr) -> Intent {
    match tree(text) {
        Ok(Target::Snapshot(..)) => Intent::Ask,
        Ok(Target::Bundle(..)) | Err(_) => Intent::Bring,
    }
}

/// A link and the path behind it, or a snapshot (`latest`, or the first digits of its id) and `:PATH`.
///
/// # Errors
/// Anything else. No message repeats a key.
pub fn tree(text: &OsStr) -> Result<Target, Failure> {
    if let Some((name, path)) = named_snapshot(text) {
        return Ok(Target::Snapshot(name, path));
    }
    link_and_path(text).map(|(link, path)| Target::Bundle(link, path))
}

/// A snapshot (`latest`, the first digits of its id, or its link) and the path in it, without a slash at its start.
///
/// # Errors
/// Anything else. No message repeats a key.
pub fn snapshot_and_path(text: &OsStr) -> Result<(String, PathBuf), Failure> {
    if let Some(named) = named_snapshot(text) {
        return Ok(named);
    }
    let bytes = text.as_bytes().trim_ascii_start();
    if looks_like_link(&text.to_string_lossy()) {
        // Behind a link the path may follow a colon, as it does behind other names, or a slash.
        let colons = bytes.iter().enumerate().filter(|(_, byte)| **byte == b':');
        for (at, _) in colons {
            let (link, path) = (&bytes[..at], &bytes[at + 1..]);
            let is_link = std::str::from_utf8(link).is_ok_and(looks_like_link);
            if is_link
                && let Ok((link, way)) = parse_link(link)
                && way.as_os_str().is_empty()
            {
                return Ok((link.to_string(), tidy(path)));
            }
        }
        let (link, path) = parse_link(bytes)?;
        return Ok((link.to_string(), path));
    }
    let name = String::from_utf8_lossy(&bytes[..position(bytes, b':')]);
    let shown: String = name.chars().take(40).collect();
    Err(
        Failure::usage(format!("'{shown}' names no snapshot")).with_hint(format!(
            "say latest, or at least {MIN_DIGITS} digits of an id that `libernet snapshots` shows, and perhaps :PATH"
        )),
    )
}

/// `latest` or the first digits of an id, and the path behind a colon.
fn named_snapshot(text: &OsStr) -> Option<(String, PathBuf)> {
    let text = text.as_bytes().trim_ascii_start();
    let colon = position(text, b':');
    let name = word(&text[..colon]).ok()?;
    let path = text.get(colon + 1..).unwrap_or_default();
    is_snapshot_name(name).then(|| (name.to_ascii_lowercase(), tidy(path)))
}

/// Patterns, each given as one argument.
pub fn patterns(arguments: &[OsString]) -> Vec<String> {
    let lines = arguments
        .iter()
        .map(|line| pattern::argument(line.as_bytes()));
    lines.collect()
}

/// A snapshot without a path.
///
/// # Errors
/// As [`snapshot_and_path`], and when there is a path.
pub fn snapshot(text: &str) -> Result<String, Failure> {
    match snapshot_and_path(OsStr::new(text))? {
        (name, path) if path.as_os_str().is_empty() => Ok(name),
        _ => Err(Failure::usage("a path in a snapshot is of no use here")),
    }
}

fn is_snapshot_name(name: &str) -> bool {
    let is_id = (MIN_DIGITS..=MAX_DIGITS).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id || name == LATEST
}

fn path_form(text: &[u8]) -> Result<(Link, PathBuf), Failure> {
    let separator = b"/aes256/";
    let found = text
        .windows(separator.len())
        .position(|part| part == separator);
    let Some(at) = found else {
        return Ok((word(text)?.parse::<Link>()?, PathBuf::new()));
    };
    let key_at = at + separator.len();
    let path_at = key_at + position(&text[key_at..], b'/');
    let (link, path) = text.split_at(path_at);
    Ok((word(link)?.parse::<Link>()?, tidy(path)))
}

/// Whether the text is meant to be a link, right or wrong.
pub fn looks_like_link(text: &str) -> bool {
    text.trim().starts_with("libernet:")
        || Ticket::is_meant(text.trim())
        || text.contains("/aes256/")
        || text.trim().starts_with("http://")
        || text.trim().starts_with("https://")
}

/// Without empty parts.
fn tidy(path: &[u8]) -> PathBuf {
    let names = path
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty());
    let names: Vec<&[u8]> = names.collect();
    OsString::from_vec(names.join(&b'/')).into()
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

    fn links(text: &str) -> Result<(Link, PathBuf), Failure> {
        link_and_path(OsStr::new(text))
    }

    fn trees(text: &str) -> Result<Target, Failure> {
        tree(OsStr::new(text))
    }

    fn snapshots(text: &str) -> Result<(String, PathBuf), Failure> {
        snapshot_and_path(OsStr::new(text))
    }

    #[test]
    fn links_in_every_form() {
        let link = sample();
        let forms = [
            link.to_string(),
            link.to_path(),
            format!("http://127.0.0.1:4385{}", link.to_path()),
            format!("libernet:{}.{}", link.id.to_path(), *link.key.to_base32()),
        ];
        for form in forms {
            for (rest, path) in [
                ("", ""),
                (" \n", ""),
                ("/", ""),
                ("/a/b.c", "a/b.c"),
                ("//a//b/", "a/b"),
                ("/a /b ", "a /b "),
            ] {
                let text = format!(" {form}{rest}");
                assert_eq!(links(&text), Ok((link.clone(), path.into())), "{text}");
            }
            let text = [form.as_bytes(), b"/a\xff\n"].concat();
            let (_, path) = link_and_path(OsStr::from_bytes(&text)).expect("good");
            assert_eq!(path.as_os_str().as_bytes(), b"a\xff\n", "{form}");
        }
        let url = format!("http://localhost:1{}/a%20b?skip=1#x", link.to_path());
        assert_eq!(links(&url), Ok((link.clone(), "a b".into())));
        let url = format!("http://localhost:1{}/%E4%20", link.to_path());
        let (_, path) = links(&url).expect("good");
        assert_eq!(path.as_os_str().as_bytes(), b"\xe4 ");
        // Outside of URLs a percent sign is one.
        let text = format!("{link}/a%20b");
        assert_eq!(links(&text), Ok((link, "a%20b".into())));
    }

    #[test]
    fn a_ticket_is_a_link_that_says_where() {
        let (link, peer) = (sample(), libp2p::PeerId::random());
        let address: libp2p::Multiaddr = "/ip4/192.0.2.7/tcp/4384".parse().expect("an address");
        let ticket = Ticket::new(link.clone(), peer, [address.clone()]).expect("right");
        let ways = |text: &str| super::ways(OsStr::new(text));
        for (rest, path) in [
            ("", ""),
            (" \n", ""),
            ("/a/b ", "a/b "),
            (":/a", "a"),
            (":a", "a"),
        ] {
            let text = format!(" {ticket}{rest}");
            assert_eq!(links(&text), Ok((link.clone(), path.into())), "{text}");
            assert_eq!(
                ways(&text),
                Ok(vec![format!("{address}/p2p/{peer}")]),
                "{text}"
            );
            assert_eq!(
                snapshots(&text),
                Ok((link.to_string(), path.into())),
                "{text}"
            );
        }
        let text = format!("{ticket}/a");
        assert_eq!(trees(&text), Ok(Target::Bundle(link.clone(), "a".into())));
        assert_eq!(block(&ticket.to_string()), Ok(link.id));
        assert_eq!(identifier(&ticket.to_string()), Ok(link.id));
        assert_eq!(ways(&link.to_string()), Ok(Vec::new()));
        assert_eq!(ways("latest:/a"), Ok(Vec::new()));
        let whole = ticket.to_string();
        let cut = &whole[..whole.len() - 3];
        for failure in [links(cut).expect_err("cut"), ways(cut).expect_err("cut")] {
            assert_eq!(failure.exit, Exit::Usage);
            assert!(!format!("{failure:?}").contains(&cut[20..40]));
        }
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
        // One word in two forms: composed, and a letter with a combining mark.
        let composed = Ok(hash::sha384_id("caf\u{e9}".as_bytes()));
        assert_eq!(identifier("text:caf\u{e9}"), composed);
        assert_eq!(identifier("text:cafe\u{301}"), composed);
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
            let failure = links(text).expect_err("no link");
            assert_eq!(failure.exit, Exit::Usage, "{text}");
        }
        let failure = links(&sample().id.to_string()).expect_err("no key");
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
            (" latest:/name ", "latest", "name "),
            (&link.id.to_hex(), &link.id.to_hex(), ""),
        ] {
            let (name, path) = (name.to_owned(), PathBuf::from(path));
            assert_eq!(snapshots(text), Ok((name.clone(), path.clone())));
            assert_eq!(trees(text), Ok(Target::Snapshot(name, path)));
        }
        for form in [link.to_string(), link.to_path()] {
            for rest in ["/a/b", ":/a/b", ":a/b"] {
                let found = snapshots(&format!("{form}{rest}"));
                assert_eq!(found, Ok((link.to_string(), "a/b".into())), "{form}{rest}");
            }
            assert_eq!(snapshot(&form), Ok(link.to_string()));
            assert_eq!(
                trees(&format!("{form}/a")),
                Ok(Target::Bundle(link.clone(), "a".into()))
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
            let failure = snapshots(text).expect_err(text);
            assert_eq!(failure.exit, Exit::Usage, "{text}");
            assert!(trees(text).is_err(), "{text}");
        }
        assert!(snapshot("latest:/a").is_err());
    }

    #[test]
    fn a_cut_key_is_not_repeated() {
        let text = sample().to_string();
        let failure = links(&text[..text.len() - 4]).expect_err("cut");
        assert!(failure.message.contains("cut"), "{}", failure.message);
        assert!(!format!("{failure:?}").contains(&text[text.len() - 20..text.len() - 6]));
    }

    proptest! {
        #[test]
        fn any_text_gives_an_answer(text in ".{0,80}") {
            let _ = identifier(&text);
            let _ = links(&text);
            let _ = links(&format!("{}{text}", sample()));
            let _ = (trees(&text), snapshots(&text));
            let _ = snapshots(&format!("{}{text}", sample()));
        }
    }
}
