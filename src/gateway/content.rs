//! Blocks and bundles by URL.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures::StreamExt;
use serde_json::json;

use super::connections::Guest;
use super::range::{self, Wanted};
use super::reads::Place;
use super::{Shared, error, guard, labels, media, page};
use crate::block::Link;
use crate::client::url::{percent_decode, percent_encode};
use crate::crypto::hash;
use crate::id::BlockId;
use crate::node::api::*;

/// Entries on one page of a listing.
const PAGE_ENTRIES: u64 = 1000;
/// Most ids in an answer to `like`.
const LIKE_IDS: u64 = 1000;
/// Purpose of the hashes that name versions of content.
const ETAG_CONTEXT: &str = "libernet 2026-11 gateway: entity tag";
/// What a name stands for never changes.
const FOREVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// Decrypted content, and addresses with keys, stay in no cache.
const NOWHERE: HeaderValue = HeaderValue::from_static("no-store");

/// What a path asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
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
struct Asked {
    shared: Shared,
    place: Place,
    head_only: bool,
    headers: HeaderMap,
    uri_path: String,
    skip: u64,
    /// Path of the bundle's root in URLs that this answer leads to.
    base: String,
}

/// `GET` and `HEAD` of everything below `/sha384/`, `/sha256/` and `/open/`.
pub(super) async fn read(State(shared): State<Shared>, request: Request) -> Response {
    let reader = error::Reader::of(request.headers());
    let fail = |failure: &CallError| {
        let status = match failure.kind {
            // A wrong id or a path that is not in the bundle: there is nothing at this address.
            ErrorKind::Usage => StatusCode::NOT_FOUND,
            kind => error::status_of(kind),
        };
        error::answer(status, failure, reader)
    };
    if guard::is_led_by_another_site(request.headers()) {
        return page::question(request.uri().path());
    }
    let guest = request.extensions().get::<Arc<Guest>>();
    let cut = guest.map(|guest| guest.cut.clone()).unwrap_or_default();
    let Some(place) = shared.reads.enter(cut) else {
        return fail(&error::busy());
    };
    let asked = Asked {
        shared,
        place,
        head_only: request.method() == Method::HEAD,
        headers: request.headers().clone(),
        uri_path: request.uri().path().to_owned(),
        skip: skip_of(request.uri().query()),
        base: String::new(),
    };
    let answer = match parse(&asked.uri_path) {
        Ok(Target::Block(id)) => block(asked, id).await,
        Ok(Target::Like(id)) => like(asked, id).await,
        Ok(Target::Bundle { link, path, slash }) => keyed(asked, link, path, slash).await,
        Ok(Target::Labelled { label, path, slash }) => labelled(asked, &label, path, slash).await,
        Err(failure) => Err(failure),
    };
    answer.unwrap_or_else(|failure| fail(&failure))
}

fn skip_of(query: Option<&str>) -> u64 {
    query
        .into_iter()
        .flat_map(|query| query.split('&'))
        .find_map(|pair| pair.strip_prefix("skip=")?.parse().ok())
        .unwrap_or(0)
}

fn usage(message: String) -> CallError {
    CallError::new(ErrorKind::Usage, message)
}

/// A path in a bundle from the segments of a URL, and whether it ends in a slash.
fn names(segments: &[&str]) -> Result<(PathBuf, bool), CallError> {
    let slash = segments.last().is_some_and(|last| last.is_empty());
    let mut names = Vec::new();
    for segment in segments.iter().filter(|segment| !segment.is_empty()) {
        let name = percent_decode(segment)
            .filter(|name| !name.contains(&b'/'))
            .ok_or_else(|| usage(format!("'{segment}' is not a name in a bundle")))?;
        names.push(name);
    }
    Ok((OsString::from_vec(names.join(&b'/')).into(), slash))
}

fn parse(uri_path: &str) -> Result<Target, CallError> {
    let mut segments = uri_path.trim_start_matches('/').split('/');
    let kind = segments.next().unwrap_or_default();
    let hex = segments.next().unwrap_or_default();
    if kind == labels::ROUTE {
        let (path, slash) = names(&segments.collect::<Vec<_>>())?;
        let label = hex.to_owned();
        return Ok(Target::Labelled { label, path, slash });
    }
    let id: BlockId = format!("/{kind}/{hex}")
        .parse()
        .map_err(|error: crate::id::IdError| usage(error.to_string()))?;
    let rest: Vec<&str> = segments.collect();
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

/// The versions that the client has, as it says.
fn known(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|tag| tag.trim().trim_start_matches("W/"))
}

/// Whether the client has this version already. What a version names never changes.
fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    known(headers).any(|tag| tag == etag)
}

/// Whether the client has some version: that holds for what is there, and only for that.
fn is_any_known(headers: &HeaderMap) -> bool {
    known(headers).any(|tag| tag == "*")
}

fn not_modified(etag: &str, cache: HeaderValue) -> Response {
    let mut response = StatusCode::NOT_MODIFIED.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, cache);
    if let Ok(etag) = HeaderValue::try_from(etag) {
        headers.insert(header::ETAG, etag);
    }
    response
}

/// The range that is asked for, unless it is of another version (`If-Range`).
fn wanted(headers: &HeaderMap, etag: &str, total: u64) -> Wanted {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match (text(header::RANGE), text(header::IF_RANGE)) {
        (Some(_), Some(version)) if version != etag => Wanted::All,
        (Some(range), _) => range::parse(range, total),
        (None, _) => Wanted::All,
    }
}

/// Status and headers of an answer that carries content, and which bytes to send.
struct Head {
    response: Response,
    offset: u64,
    /// 0 when there is nothing to send.
    len: u64,
}

fn head(asked: &Asked, etag: &str, total: u64, media: &'static str, cache: HeaderValue) -> Head {
    let (status, offset, len, range) = match wanted(&asked.headers, etag, total) {
        Wanted::All => (StatusCode::OK, 0, total, None),
        Wanted::Part { offset, len } => {
            let range = format!("bytes {offset}-{}/{total}", offset + len - 1);
            (StatusCode::PARTIAL_CONTENT, offset, len, Some(range))
        }
        Wanted::Unsatisfiable => {
            let range = format!("bytes */{total}");
            (StatusCode::RANGE_NOT_SATISFIABLE, 0, 0, Some(range))
        }
    };
    let mut response = status.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(len));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CACHE_CONTROL, cache);
    if let Ok(etag) = HeaderValue::try_from(etag) {
        headers.insert(header::ETAG, etag);
    }
    if let Some(range) = range.and_then(|range| HeaderValue::try_from(range).ok()) {
        headers.insert(header::CONTENT_RANGE, range);
    }
    Head {
        response,
        offset,
        len,
    }
}

async fn block(asked: Asked, id: BlockId) -> Result<Response, CallError> {
    let etag = format!("\"{}\"", id.to_hex());
    if is_known(&asked.headers, &etag) {
        return Ok(not_modified(&etag, FOREVER));
    }
    let media = "application/octet-stream";
    let client = &asked.shared.client;
    let is_any_known = is_any_known(&asked.headers);
    if asked.head_only || is_any_known {
        // A block that is here need not be read to tell its size.
        let stat = client.block_stat(BlockStat { id }).await?;
        if let (true, Some(total)) = (stat.local, stat.bytes) {
            if is_any_known {
                return Ok(not_modified(&etag, FOREVER));
            }
            return Ok(head(&asked, &etag, total, media, FOREVER).response);
        }
    }
    let timeout_s = asked.shared.options.timeout_s;
    let bytes = client.block_get(BlockGet { id, timeout_s }).await?;
    if is_any_known {
        return Ok(not_modified(&etag, FOREVER));
    }
    let mut head = head(&asked, &etag, bytes.len() as u64, media, FOREVER);
    if !asked.head_only {
        let offset = usize::try_from(head.offset).expect("within a block");
        let len = usize::try_from(head.len).expect("within a block");
        *head.response.body_mut() = Body::from(bytes.slice(offset..offset + len));
    }
    Ok(head.response)
}

async fn like(asked: Asked, id: BlockId) -> Result<Response, CallError> {
    let reply = asked
        .shared
        .client
        .block_ls(BlockLs {
            after: None,
            like: Some(id),
            limit: LIKE_IDS,
        })
        .await?;
    let blocks: Vec<_> = reply
        .blocks
        .iter()
        .map(|item| json!({ "id": item.id, "path": item.id.to_path(), "bytes": item.bytes }))
        .collect();
    let answer = json!({
        "id": id,
        "prefix": format!("{:04x}", id.likeness()),
        "blocks": blocks,
        "more": reply.more,
    });
    Ok(axum::Json(answer).into_response())
}

/// A link in full. A browser is sent on, so that it shows and keeps an address without the key;
/// other programs are answered at once.
async fn keyed(
    mut asked: Asked,
    link: Link,
    path: PathBuf,
    slash: bool,
) -> Result<Response, CallError> {
    if !guard::is_navigation(&asked.headers) {
        asked.base = link.to_path();
        return bundle(asked, link, path, slash).await;
    }
    let mut to = url_of(&asked.shared.labels.path_of(&link), &path);
    if slash && !to.ends_with('/') {
        to.push('/');
    }
    if asked.skip > 0 {
        to = format!("{to}?skip={}", asked.skip);
    }
    Ok(redirect(StatusCode::SEE_OTHER, &to))
}

/// A link that was opened before.
async fn labelled(
    mut asked: Asked,
    label: &str,
    path: PathBuf,
    slash: bool,
) -> Result<Response, CallError> {
    let link = asked.shared.labels.link(label).ok_or_else(|| {
        usage("this address stood for a link, and is forgotten".to_owned())
            .with_hint("open the link again: such addresses hold until the node restarts, for the links that were opened last")
    })?;
    asked.base = format!("/{}/{label}", labels::ROUTE);
    bundle(asked, link, path, slash).await
}

async fn bundle(
    asked: Asked,
    link: Link,
    path: PathBuf,
    slash: bool,
) -> Result<Response, CallError> {
    let etag = etag_of(&link, &path);
    if is_known(&asked.headers, &etag) {
        return Ok(not_modified(&etag, NOWHERE));
    }
    let reply = ls(&asked.shared, &link, &path, asked.skip, PAGE_ENTRIES).await?;
    let Some(this) = &reply.this else {
        return directory(asked, link, path, slash, &reply).await;
    };
    let is_shown = this.kind == "file" || (this.kind == "dir" && slash);
    if is_shown && is_any_known(&asked.headers) {
        return Ok(not_modified(&etag, NOWHERE));
    }
    match this.kind.as_str() {
        "dir" => directory(asked, link, path, slash, &reply).await,
        "file" => file(asked, link, path, this.clone()).await,
        "symlink" => {
            let target = this.target.as_deref().unwrap_or_default();
            let place = behind(&asked.shared, &link, &path).await?;
            let place = place.ok_or_else(|| {
                let message = format!(
                    "'{}' is a symbolic link to '{target}', which is not in the bundle",
                    path_text(&path)
                );
                CallError::new(ErrorKind::Usage, message)
            })?;
            Ok(redirect(
                StatusCode::TEMPORARY_REDIRECT,
                &url_of(&asked.base, &place),
            ))
        }
        kind => Err(CallError::new(
            ErrorKind::Usage,
            format!("'{}' is a {kind} and has no content", path_text(&path)),
        )),
    }
}

/// Where a symbolic link leads to in the bundle, if it does.
async fn behind(shared: &Shared, link: &Link, path: &Path) -> Result<Option<PathBuf>, CallError> {
    let request = Ls {
        link: link.clone(),
        path: path.to_owned(),
        follow: true,
        skip: 0,
        limit: 1,
        timeout_s: shared.options.timeout_s,
    };
    match shared.client.ls(request).await {
        Ok(reply) => Ok(reply.real),
        Err(error) if error.kind == ErrorKind::Usage => Ok(None),
        Err(error) => Err(error),
    }
}

async fn ls(
    shared: &Shared,
    link: &Link,
    path: &Path,
    skip: u64,
    limit: u64,
) -> Result<LsReply, CallError> {
    shared
        .client
        .ls(Ls {
            link: link.clone(),
            path: path.to_owned(),
            follow: false,
            skip,
            limit,
            timeout_s: shared.options.timeout_s,
        })
        .await
}

async fn directory(
    asked: Asked,
    link: Link,
    path: PathBuf,
    slash: bool,
    reply: &LsReply,
) -> Result<Response, CallError> {
    // Relative links on the page need the slash.
    if !slash {
        return Ok(redirect(
            StatusCode::PERMANENT_REDIRECT,
            &format!("{}/", asked.uri_path),
        ));
    }
    if let Some(index) = reply.index_file.as_deref().filter(|_| asked.skip == 0) {
        if path.as_os_str().is_empty() && index.contains('/') {
            return Ok(redirect(
                StatusCode::TEMPORARY_REDIRECT,
                &url_of(&asked.base, Path::new(index)),
            ));
        }
        let index = path.join(index.rsplit('/').next().unwrap_or(index));
        match ls(&asked.shared, &link, &index, 0, 1).await {
            Ok(LsReply {
                this: Some(this), ..
            }) if this.kind == "file" => return file(asked, link, index, this).await,
            Ok(_) => {}
            // This directory has none.
            Err(error) if error.kind == ErrorKind::Usage => {}
            Err(error) => return Err(error),
        }
    }
    let has_parent = !path.as_os_str().is_empty();
    let title = if has_parent {
        path_text(&path)
    } else {
        "/".to_owned()
    };
    Ok(page::listing(&title, has_parent, asked.skip, reply).into_response())
}

async fn file(
    asked: Asked,
    link: Link,
    path: PathBuf,
    entry: Entry,
) -> Result<Response, CallError> {
    let etag = etag_of(&link, &path);
    let media = media::type_of(&entry.name);
    let mut head = head(&asked, &etag, entry.bytes, media, NOWHERE);
    if media != media::PDF {
        head.response.headers_mut().insert(
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(guard::STORED),
        );
    } else {
        head.response.headers_mut().insert(
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("frame-ancestors 'self'"),
        );
    }
    if asked.head_only || head.len == 0 {
        return Ok(head.response);
    }
    let mut stream = asked
        .shared
        .client
        .cat(Cat {
            link,
            path,
            offset: head.offset,
            len: Some(head.len),
            timeout_s: asked.shared.options.timeout_s,
        })
        .await?;
    // What fails before the first byte can still be told with a status.
    let first = match stream.next().await {
        Some(first) => first?,
        None => Bytes::new(),
    };
    let rest = stream.map(|item| {
        item.map_err(|error| {
            tracing::warn!(%error, "content broke off while it was read by a browser");
            io::Error::other(error)
        })
    });
    let body = futures::stream::iter([Ok(first)]).chain(rest);
    let body = asked.place.hold(body);
    *head.response.body_mut() = Body::from_stream(body);
    Ok(head.response)
}

/// Names this content. Says nothing about the key.
fn etag_of(link: &Link, path: &Path) -> String {
    let mut material = link.id.to_multihash();
    material.extend_from_slice(link.key.as_bytes());
    material.extend_from_slice(path.as_os_str().as_bytes());
    let digest = hash::derive_key(ETAG_CONTEXT, &material);
    format!("\"{}\"", HEXLOWER.encode(&digest[..16]))
}

/// The URL of `path` in the bundle whose root is at `base`.
fn url_of(base: &str, path: &Path) -> String {
    let names = path.as_os_str().as_bytes().split(|byte| *byte == b'/');
    let names: Vec<String> = names.map(percent_encode).collect();
    format!("{base}/{}", names.join("/"))
}

fn redirect(status: StatusCode, to: &str) -> Response {
    let mut response = status.into_response();
    match HeaderValue::try_from(to) {
        Ok(to) => {
            response.headers_mut().insert(header::LOCATION, to);
            response
        }
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

fn path_text(path: &Path) -> String {
    shown(path.as_os_str().as_bytes())
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

    /// Links of a listing come back as the names that they are.
    #[test]
    fn names_that_are_no_text_have_urls() {
        let name = OsString::from_vec(b"n\xe4 /%".to_vec());
        let url = url_of(&link().to_path(), Path::new(&name));
        assert!(url.ends_with("/n%E4%20/%25"), "{url}");
        let target = Target::Bundle {
            link: link(),
            path: name.into(),
            slash: false,
        };
        assert_eq!(parse(&url), Ok(target));
    }

    #[test]
    fn versions() {
        let mut headers = HeaderMap::new();
        assert!(!is_known(&headers, "\"a\""));
        headers.insert(
            header::IF_NONE_MATCH,
            HeaderValue::from_static("\"b\", W/\"a\""),
        );
        assert!(is_known(&headers, "\"a\"") && !is_known(&headers, "\"c\""));
        assert!(!is_any_known(&headers));
        assert_ne!(
            etag_of(&link(), Path::new("a")),
            etag_of(&link(), Path::new("b"))
        );
        headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-0"));
        assert_eq!(
            wanted(&headers, "\"a\"", 9),
            Wanted::Part { offset: 0, len: 1 }
        );
        headers.insert(header::IF_RANGE, HeaderValue::from_static("\"old\""));
        assert_eq!(wanted(&headers, "\"a\"", 9), Wanted::All);
    }

    proptest! {
        #[test]
        fn any_path_gives_an_answer(rest in "[a-z0-9/%.]{0,60}", query in ".{0,30}") {
            let _ = parse(&rest);
            let _ = parse(&format!("{}/{rest}", link().to_path()));
            let _ = skip_of(Some(&query));
        }
    }
}
