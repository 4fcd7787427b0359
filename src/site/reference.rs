//! Judgement of single references: whether they work wherever the site is read.

use percent_encoding::{AsciiSet, CONTROLS, percent_decode, percent_encode};
use url::{ParseError, Url};

use super::Kind;
use super::files::{Files, Lookup, shown};

/// Address that stands for the site's directory. No server has it (RFC 2606).
const ROOT: &str = "http://site.invalid/";

/// Bytes that a path's part can't hold in a URL.
const PART: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'\\')
    .add(b'`')
    .add(b'{')
    .add(b'}');

/// Use that a page makes of a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// The browser loads it, or sends something there, by itself.
    Load,
    /// A person may follow it.
    Follow,
}

/// Judge of the references of one file.
pub(super) struct Judge<'a> {
    files: &'a Files,
    file: &'a [u8],
    base: Url,
}

impl<'a> Judge<'a> {
    /// Judge of what `file` refers to.
    pub(super) fn new(file: &'a [u8], files: &'a Files) -> Self {
        let path = percent_encode(file, PART).to_string();
        let base = Url::parse(ROOT).and_then(|root| root.join(&format!("./{path}")));
        Self {
            files,
            file,
            base: base.expect("a path without special bytes can be joined"),
        }
    }

    /// Problem of a reference, if it has one, and counts it when it leads a person elsewhere.
    pub(super) fn judge(
        &self,
        raw: &str,
        usage: Use,
        links_out: &mut u64,
    ) -> Option<(Kind, String)> {
        let raw = raw.trim_matches(|c: char| c.is_ascii_whitespace());
        match Url::parse(raw) {
            Ok(url) => self.elsewhere(raw, &url, usage, links_out),
            Err(ParseError::RelativeUrlWithoutBase) if is_other_server(raw) => {
                if usage == Use::Follow {
                    *links_out += 1;
                    return None;
                }
                Some(external(raw))
            }
            Err(ParseError::RelativeUrlWithoutBase) => self.relative(raw),
            Err(error) => Some((Kind::Invalid, format!("'{raw}' can't be read: {error}"))),
        }
    }

    /// Problem of a reference with a scheme.
    fn elsewhere(
        &self,
        raw: &str,
        url: &Url,
        usage: Use,
        links_out: &mut u64,
    ) -> Option<(Kind, String)> {
        match (url.scheme(), usage) {
            ("data" | "blob" | "about" | "javascript", _) => None,
            ("file", _) => Some((
                Kind::Absolute,
                format!("'{raw}' is a file of one machine: write a relative path"),
            )),
            (_, Use::Follow) => {
                *links_out += 1;
                None
            }
            (_, Use::Load) => Some(external(raw)),
        }
    }

    /// Problem of a reference without a scheme.
    fn relative(&self, raw: &str) -> Option<(Kind, String)> {
        let joined = match self.base.join(raw) {
            Ok(joined) => joined,
            Err(error) => {
                return Some((Kind::Invalid, format!("'{raw}' can't be read: {error}")));
            }
        };
        let target = joined.path().strip_prefix('/').unwrap_or_default();
        let path = percent_decode(target.trim_end_matches('/').as_bytes()).collect::<Vec<u8>>();
        if raw.starts_with(['/', '\\']) {
            let advice = match self.files.find(&path) {
                Lookup::Here => format!(": write '{}'", self.path_to(&path)),
                _ => ": write it relative to this file".to_owned(),
            };
            let text = format!("'{raw}' starts at the root of the server{advice}");
            return Some((Kind::Absolute, text));
        }
        if self.leaves(raw) {
            return Some((Kind::Outside, format!("'{raw}' leads out of the site")));
        }
        match self.files.find(&path) {
            Lookup::Here => None,
            Lookup::OtherCase(other) => Some((
                Kind::Case,
                format!(
                    "'{raw}' is spelled '{}' in the site: capital letters count",
                    shown(&other)
                ),
            )),
            Lookup::Missing => Some((
                Kind::Missing,
                format!("'{raw}' is not there: the site has no '{}'", shown(&path)),
            )),
        }
    }

    /// Whether a relative reference climbs above the site's directory. URLs forget such steps.
    fn leaves(&self, raw: &str) -> bool {
        let path = raw.split(['?', '#']).next().unwrap_or_default();
        let own_depth = self.file.iter().filter(|byte| **byte == b'/').count();
        let mut depth = i64::try_from(own_depth).unwrap_or(i64::MAX);
        for part in path.split(['/', '\\']) {
            let part = percent_decode(part.as_bytes()).collect::<Vec<u8>>();
            match part.as_slice() {
                b"" | b"." => {}
                b".." => depth -= 1,
                _ => depth += 1,
            }
            if depth < 0 {
                return true;
            }
        }
        false
    }

    /// Reference from the judged file to a path of the site.
    fn path_to(&self, path: &[u8]) -> String {
        let target = percent_encode(path, PART).to_string();
        let target = self.base.join(&format!("/{target}"));
        let relative = target
            .ok()
            .and_then(|target| self.base.make_relative(&target));
        match relative {
            Some(relative) if !relative.is_empty() => relative,
            _ => ".".to_owned(),
        }
    }
}

/// Whether a reference without a scheme names another server: `//host/path`.
fn is_other_server(raw: &str) -> bool {
    let mut start = raw.chars();
    let is_slash = |c: Option<char>| matches!(c, Some('/' | '\\'));
    is_slash(start.next()) && is_slash(start.next())
}

fn external(raw: &str) -> (Kind, String) {
    let shown = raw.chars().take(200).collect::<String>();
    (
        Kind::External,
        format!("'{shown}' comes from another server: put a copy into the site"),
    )
}
