//! Addresses of blocks and bundles: what a path asks for, and who answers it.
//!
//! Blocks are in [`blocks`], bundles in [`bundles`], raw blocks by CID in [`ipfs`].

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;

use super::connections::Guest;
use super::reads::Place;
use super::{Shared, blocks, bundles, error, guard, ipfs, labels, page, waiting};
use crate::block::Link;
use crate::client::url::percent_decode;
use crate::id::BlockId;
use crate::node::api::*;

/// What a path asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Block(BlockId),
    Like(BlockId),
    Bundle {
        link: Link,
        /// Path inside the bundle without slashes at the ends. Names are bytes.
        path: PathBuf,
        /// Whether the URL ends in a slash, as those of directories do.
        slash: bool,
    },
    /// As [`Bundle`](Self::Bundle), of a link that was opened before.
    Labelled {
        label: String,
        path: PathBuf,
        slash: bool,
    },
}

/// A request for content, in parts.
pub(super) struct Asked {
    pub shared: Shared,
    pub place: Place,
    pub method: Method,
    pub headers: HeaderMap,
    pub uri_path: String,
    /// The query; empty where there is none.
    pub query: String,
    /// Path of the bundle's root in URLs that this answer leads to.
    pub base: String,
    /// Content security policy of the bundle's files.
    pub policy: &'static str,
    /// Seconds to look for one block.
    pub timeout_s: u64,
}

impl Asked {
    /// Whether only the head of the answer is asked for.
    pub(super) fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// The value of a field of the query.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        field(&self.query, name)
    }

    /// A number in the query; 0 where there is none.
    pub(super) fn skip(&self) -> u64 {
        let skip = self.field("skip").and_then(|skip| skip.parse().ok());
        skip.unwrap_or(0)
    }
}

/// The first value of a field of a query, as it stands there.
pub(super) fn field<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// A place for a request for content; `Err` is the answer where it gets none.
async fn admit(shared: Shared, request: Request) -> Result<Asked, Box<Response>> {
    // The body is nobody's concern.
    let (request, _) = request.into_parts();
    let guest = request.extensions.get::<Arc<Guest>>();
    let cut = guest.map(|guest| guest.cut.clone()).unwrap_or_default();
    let reader = error::Reader::of(&request.headers);
    let Some(place) = shared.reads.wait(cut).await else {
        let busy = error::busy();
        let answer = error::answer(error::status_of(busy.kind), &busy, reader);
        return Err(Box::new(answer));
    };
    let timeout_s = match reader {
        error::Reader::Program => shared.options.timeout_s,
        // A person is told sooner what is going on.
        error::Reader::Person => shared.options.timeout_s.min(waiting::PATIENCE_S),
    };
    Ok(Asked {
        timeout_s,
        shared,
        place,
        uri_path: request.uri.path().to_owned(),
        query: request.uri.query().unwrap_or_default().to_owned(),
        method: request.method,
        headers: request.headers,
        base: String::new(),
        policy: guard::STORED,
    })
}

/// The question that is asked before anything is looked for on behalf of another website.
fn question(request: &Request) -> Option<Response> {
    let is_led = guard::is_led_by_another_site(request.headers());
    is_led.then(|| page::question(request.uri().path()))
}

/// `GET` and `HEAD` of everything below `/sha384/`, `/sha256/` and `/open/`.
pub(super) async fn read(State(shared): State<Shared>, request: Request) -> Response {
    if let Some(question) = question(&request) {
        return question;
    }
    let give = |asked: Asked| async move {
        match parse(&asked.uri_path) {
            Ok(Target::Block(id)) => blocks::read(asked, id).await,
            Ok(Target::Like(id)) => blocks::like(asked, id).await,
            Ok(Target::Bundle { link, path, slash }) => {
                bundles::keyed(asked, link, path, slash).await
            }
            Ok(Target::Labelled { label, path, slash }) => {
                bundles::labelled(asked, &label, path, slash).await
            }
            Err(failure) => Err(failure),
        }
    };
    answer(shared, request, waiting::News::Events, give).await
}

/// What `give` makes of a request for content: an answer, or a page or problem that tells of the
/// failure. `news`: how a page that waits hears that it may go on.
pub(super) async fn answer<F: Future<Output = Result<Response, CallError>>>(
    shared: Shared,
    request: Request,
    news: waiting::News,
    give: impl FnOnce(Asked) -> F,
) -> Response {
    let reader = error::Reader::of(request.headers());
    let waits = shared.clone();
    let asked = match admit(shared, request).await {
        Ok(asked) => asked,
        Err(answer) => return *answer,
    };
    give(asked).await.unwrap_or_else(|failure| {
        let page = match reader {
            error::Reader::Person => waiting::wait_page(&waits, &failure, news),
            error::Reader::Program => None,
        };
        page.unwrap_or_else(|| error::answer(status_of(&failure), &failure, reader))
    })
}

/// `GET` and `HEAD` of everything below `/ipfs/`.
pub(super) async fn raw(State(shared): State<Shared>, request: Request) -> Response {
    if let Some(question) = question(&request) {
        return question;
    }
    match admit(shared, request).await {
        Ok(asked) => ipfs::read(asked).await,
        Err(answer) => *answer,
    }
}

/// The status that fits a failure to give content.
fn status_of(failure: &CallError) -> StatusCode {
    match failure.kind {
        // A wrong id or a path that is not in the bundle: there is nothing at this address.
        ErrorKind::Usage => StatusCode::NOT_FOUND,
        kind => error::status_of(kind),
    }
}

/// A failure that lies in the address.
pub(super) fn usage(message: String) -> CallError {
    CallError::new(ErrorKind::Usage, message)
}

/// A path in a bundle from the segments of a URL, and whether it ends in a slash.
fn names(segments: &[&str]) -> Result<(PathBuf, bool), CallError> {
    let slash = segments.last().is_some_and(|last| last.is_empty());
    let mut names = Vec::new();
    for segment in segments.iter().filter(|segment| !segment.is_empty()) {
        let is_name = |name: &Vec<u8>| {
            !name.iter().any(|byte| matches!(byte, b'/' | 0)) && name != b"." && name != b".."
        };
        let name = percent_decode(segment)
            .filter(is_name)
            .ok_or_else(|| usage(format!("'{segment}' is not a name in a bundle")))?;
        names.push(name);
    }
    Ok((OsString::from_vec(names.join(&b'/')).into(), slash))
}

/// A path in a bundle whose root is at `/`, and whether it ends in a slash.
///
/// # Errors
/// [`ErrorKind::Usage`].
pub(super) fn path_of(uri_path: &str) -> Result<(PathBuf, bool), CallError> {
    let segments: Vec<&str> = uri_path.split('/').collect();
    names(&segments)
}

/// The id in `/sha384/<hex>` or `/sha256/<hex>`.
fn id_of(kind: &str, hex: &str) -> Result<BlockId, CallError> {
    format!("/{kind}/{hex}")
        .parse()
        .map_err(|error: crate::id::IdError| usage(error.to_string()))
}

/// Thing that the path of a URL asks for.
///
/// # Errors
/// [`ErrorKind::Usage`]; no message repeats a key.
pub(super) fn parse(uri_path: &str) -> Result<Target, CallError> {
    let mut segments = uri_path.trim_start_matches('/').split('/');
    let kind = segments.next().unwrap_or_default();
    let hex = segments.next().unwrap_or_default();
    let rest: Vec<&str> = segments.collect();
    if kind == labels::ROUTE {
        let (path, slash) = names(&rest)?;
        let label = hex.to_owned();
        return Ok(Target::Labelled { label, path, slash });
    }
    if hex == "like" {
        return match rest.as_slice() {
            [hex] | [hex, ""] => Ok(Target::Like(id_of(kind, hex)?)),
            _ => Err(usage(format!(
                "blocks that are alike are at /{kind}/like/<hex>"
            ))),
        };
    }
    let id = id_of(kind, hex)?;
    let path = match rest.as_slice() {
        [] | [""] => return Ok(Target::Block(id)),
        ["like"] => return Ok(Target::Like(id)),
        ["aes256", key, path @ ..] => {
            let key = key
                .parse()
                .map_err(|error: crate::crypto::key::KeyError| usage(error.to_string()))?;
            let (path, slash) = names(path)?;
            return Ok(Target::Bundle {
                link: Link { id, key },
                path,
                slash,
            });
        }
        other => other.join("/"),
    };
    Err(usage(format!(
        "'{path}' is not known here: a block's path may go on with /like or /aes256/<key>"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::key::Key;
    use proptest::prelude::*;

    fn link() -> Link {
        Link {
            id: BlockId::from_sha384([0x5a; 48]),
            key: Key::new([0xa5; 32]),
        }
    }

    #[test]
    fn paths() {
        let link = link();
        let id = link.id;
        assert_eq!(parse(&id.to_path()), Ok(Target::Block(id)));
        assert_eq!(parse(&format!("{}/", id.to_path())), Ok(Target::Block(id)));
        assert_eq!(
            parse(&format!("{}/like", id.to_path())),
            Ok(Target::Like(id))
        );
        let like = format!("/sha384/like/{}", id.to_hex());
        assert_eq!(parse(&like), Ok(Target::Like(id)));
        let short = BlockId::from_sha256([1; 32]);
        assert_eq!(parse(&short.to_path()), Ok(Target::Block(short)));
        for (rest, path, slash) in [
            ("", "", false),
            ("/", "", true),
            ("/a", "a", false),
            ("/a/b%20c/", "a/b c", true),
            ("/%C3%A4", "\u{e4}", false),
            ("/a%20", "a ", false),
        ] {
            let target = Target::Bundle {
                link: link.clone(),
                path: path.into(),
                slash,
            };
            assert_eq!(
                parse(&format!("{}{rest}", link.to_path())),
                Ok(target),
                "{rest}"
            );
        }
        let labelled = Target::Labelled {
            label: "00ff".to_owned(),
            path: "a b/c".into(),
            slash: true,
        };
        assert_eq!(parse("/open/00ff/a%20b/c/"), Ok(labelled));
        let wrong = [
            "/open/00ff/a%2Fb".to_owned(),
            "/sha384/00".to_owned(),
            format!("{}/other", id.to_path()),
            format!("{}/aes256", id.to_path()),
            format!("{}/aes256/00", id.to_path()),
            format!("{}/a%2Fb", link.to_path()),
            format!("{}/%F", link.to_path()),
            format!("{}/a%00b", link.to_path()),
            format!("{}/%2e%2e/a", link.to_path()),
            format!("{}/a/%2E", link.to_path()),
            format!("{}/../a", link.to_path()),
            "/sha384/like/00".to_owned(),
            format!("/sha384/like/{}/x", id.to_hex()),
        ];
        for path in wrong {
            let error = parse(&path).expect_err("refused");
            assert_eq!(error.kind, ErrorKind::Usage, "{path}");
            assert!(
                !error.message.contains("a5a5"),
                "the key is not repeated: {error}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_path_gives_an_answer(rest in "[a-z0-9/%.]{0,60}", query in ".{0,30}") {
            let _ = parse(&rest);
            let _ = parse(&format!("{}/{rest}", link().to_path()));
            let _ = field(&query, "skip");
        }
    }
}
