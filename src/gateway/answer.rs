//! Answers that carry content: what the client has already, which bytes it wants, and how they are
//! sent. The rules are those of RFC 9110.
//!
//! Deliberately absent: where content comes from.

use std::io;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use data_encoding::HEXLOWER;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::range::{self, Part, Wanted};

/// Bytes of the random text between parts of an answer.
const BOUNDARY_BYTES: usize = 16;

/// The content of a name never changes.
pub(super) const FOREVER: HeaderValue =
    HeaderValue::from_static("public, max-age=31536000, immutable");
/// Decrypted content, and addresses with keys, stay in no cache.
pub(super) const NOWHERE: HeaderValue = HeaderValue::from_static("no-store");

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
pub(super) fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    known(headers).any(|tag| tag == etag)
}

/// Whether the client has some version: that holds for what is there, and only for that.
pub(super) fn is_any_known(headers: &HeaderMap) -> bool {
    known(headers).any(|tag| tag == "*")
}

/// The answer to a client that has this version already.
pub(super) fn not_modified(etag: &str, cache: HeaderValue) -> Response {
    let mut response = StatusCode::NOT_MODIFIED.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, cache);
    if let Ok(etag) = HeaderValue::try_from(etag) {
        headers.insert(header::ETAG, etag);
    }
    response
}

/// Content, as far as the head of an answer tells of it.
#[derive(Debug, Clone)]
pub(super) struct Content {
    /// Its version, in quotes.
    pub etag: String,
    /// Its size in bytes.
    pub total: u64,
    /// Its media type.
    pub media: HeaderValue,
    /// For how long and where it may be kept.
    pub cache: HeaderValue,
}

/// Status and headers of an answer that carries content, and which bytes to send.
pub(super) struct Head {
    pub response: Response,
    /// Empty when there is nothing to send.
    pub parts: Vec<Part>,
    /// Delimiters around several parts.
    frame: Option<Frame>,
}

/// Delimiters around the parts of `multipart/byteranges` (RFC 9110, section 14.6).
struct Frame {
    /// Before each part.
    heads: Vec<Bytes>,
    /// Behind the last.
    end: Bytes,
}

impl Frame {
    fn new(parts: &[Part], content: &Content) -> (Self, String) {
        let boundary = HEXLOWER.encode(&rand::random::<[u8; BOUNDARY_BYTES]>());
        let media = content.media.to_str().unwrap_or_default();
        let head = |part: &Part| {
            let range = range_of(part, content.total);
            let text = format!(
                "\r\n--{boundary}\r\nContent-Type: {media}\r\nContent-Range: {range}\r\n\r\n"
            );
            Bytes::from(text)
        };
        let frame = Self {
            heads: parts.iter().map(head).collect(),
            end: format!("\r\n--{boundary}--\r\n").into(),
        };
        (frame, boundary)
    }

    fn len(&self) -> u64 {
        let heads: usize = self.heads.iter().map(Bytes::len).sum();
        (heads + self.end.len()) as u64
    }
}

fn range_of(part: &Part, total: u64) -> String {
    let last = part.offset + part.len - 1;
    format!("bytes {}-{last}/{total}", part.offset)
}

/// The ranges that are asked for, unless they are of another version (`If-Range`). Only `GET` has
/// ranges.
fn wanted(method: &Method, headers: &HeaderMap, content: &Content) -> Wanted {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match (text(header::RANGE), text(header::IF_RANGE)) {
        _ if method != Method::GET => Wanted::All,
        (Some(_), Some(version)) if version != content.etag => Wanted::All,
        (Some(range), _) => range::parse(range, content.total),
        (None, _) => Wanted::All,
    }
}

/// The head of an answer to a request with this method and these headers.
pub(super) fn head(method: &Method, asked: &HeaderMap, content: &Content) -> Head {
    let all = Part {
        offset: 0,
        len: content.total,
    };
    let (status, parts) = match wanted(method, asked, content) {
        Wanted::All if content.total == 0 => (StatusCode::OK, Vec::new()),
        Wanted::All => (StatusCode::OK, vec![all]),
        Wanted::Parts(parts) => (StatusCode::PARTIAL_CONTENT, parts),
        Wanted::Unsatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, Vec::new()),
    };
    let mut media = content.media.clone();
    let mut range = None;
    let mut frame = None;
    let mut len = parts.iter().map(|part| part.len).sum::<u64>();
    match (status, parts.as_slice()) {
        (StatusCode::PARTIAL_CONTENT, [part]) => range = Some(range_of(part, content.total)),
        (StatusCode::PARTIAL_CONTENT, parts) => {
            let (around, boundary) = Frame::new(parts, content);
            len += around.len();
            frame = Some(around);
            let kind = format!("multipart/byteranges; boundary={boundary}");
            media = HeaderValue::try_from(kind).expect("a boundary of hex digits");
        }
        (StatusCode::RANGE_NOT_SATISFIABLE, _) => {
            range = Some(format!("bytes */{}", content.total))
        }
        _ => {}
    }
    let mut response = status.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, media);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(len));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CACHE_CONTROL, content.cache.clone());
    if let Ok(etag) = HeaderValue::try_from(&content.etag) {
        headers.insert(header::ETAG, etag);
    }
    if let Some(range) = range.and_then(|range| HeaderValue::try_from(range).ok()) {
        headers.insert(header::CONTENT_RANGE, range);
    }
    Head {
        response,
        parts,
        frame,
    }
}

impl Head {
    /// The body, cut from the whole content in memory.
    pub(super) fn cut(&self, whole: &Bytes) -> Bytes {
        let slice = |part: &Part| {
            let offset = usize::try_from(part.offset).expect("within what is in memory");
            let len = usize::try_from(part.len).expect("within what is in memory");
            whole.slice(offset..offset + len)
        };
        match (&self.frame, self.parts.as_slice()) {
            (None, []) => Bytes::new(),
            (None, [part, ..]) => slice(part),
            (Some(frame), parts) => {
                let mut body = BytesMut::new();
                for (head, part) in frame.heads.iter().zip(parts) {
                    body.extend_from_slice(head);
                    body.extend_from_slice(&slice(part));
                }
                body.extend_from_slice(&frame.end);
                body.freeze()
            }
        }
    }

    /// The body, from streams of the parts in their order.
    pub(super) fn join(
        &self,
        streams: Vec<BoxStream<'static, io::Result<Bytes>>>,
    ) -> BoxStream<'static, io::Result<Bytes>> {
        let Some(frame) = &self.frame else {
            return futures::stream::iter(streams).flatten().boxed();
        };
        let end = frame.end.clone();
        let framed = frame.heads.clone().into_iter().zip(streams);
        futures::stream::iter(framed)
            .flat_map(|(head, part)| futures::stream::iter([Ok(head)]).chain(part))
            .chain(futures::stream::iter([Ok(end)]))
            .boxed()
    }

    /// The answer with this body.
    pub(super) fn with(mut self, body: Body) -> Response {
        *self.response.body_mut() = body;
        self.response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content() -> Content {
        Content {
            etag: "\"a\"".to_owned(),
            total: 10,
            media: HeaderValue::from_static("text/plain"),
            cache: FOREVER,
        }
    }

    fn with(name: header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
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
        headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-0"));
        let parts = |headers: &HeaderMap| wanted(&Method::GET, headers, &content());
        assert_eq!(
            parts(&headers),
            Wanted::Parts(vec![Part { offset: 0, len: 1 }])
        );
        assert_eq!(
            wanted(&Method::HEAD, &headers, &content()),
            Wanted::All,
            "ranges are of GET alone"
        );
        headers.insert(header::IF_RANGE, HeaderValue::from_static("\"old\""));
        assert_eq!(parts(&headers), Wanted::All);
    }

    #[tokio::test]
    async fn several_parts_have_the_length_that_is_told() {
        let asked = with(header::RANGE, "bytes=0-1,-3");
        let head = head(&Method::GET, &asked, &content());
        assert_eq!(head.response.status(), StatusCode::PARTIAL_CONTENT);
        let header = |name: header::HeaderName| {
            let value = head.response.headers().get(name).expect("there");
            value.to_str().expect("text").to_owned()
        };
        let kind = header(header::CONTENT_TYPE);
        let boundary = kind
            .strip_prefix("multipart/byteranges; boundary=")
            .expect("several parts");
        let body = head.cut(&Bytes::from_static(b"0123456789"));
        assert_eq!(header(header::CONTENT_LENGTH), body.len().to_string());
        let around = |range: &str, part: &str| {
            format!(
                "\r\n--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes {range}/10\r\n\r\n{part}"
            )
        };
        let expected = format!(
            "{}{}\r\n--{boundary}--\r\n",
            around("0-1", "01"),
            around("7-9", "789")
        );
        assert_eq!(body, expected.as_bytes());
        let streams = ["01", "789"]
            .map(|part| futures::stream::iter([Ok(Bytes::from(part))]).boxed())
            .into();
        let streamed: Vec<Bytes> = head
            .join(streams)
            .map(|item| item.expect("fine"))
            .collect()
            .await;
        assert_eq!(streamed.concat(), body);
    }
}
