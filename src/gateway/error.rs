//! Errors as answers: JSON for programs, a small page for people, a status that fits.
//!
//! The JSON has the members of problem details (RFC 9457), and `error` with all that is known.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::guard::Refusal;
use super::page;
use crate::node::api::{CallError, ErrorKind};

/// What kind of answer the client can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// A program: JSON.
    Program,
    /// A browser: HTML.
    Person,
}

impl Reader {
    /// Guesses from what the client says that it accepts.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let html = headers
            .get(header::ACCEPT)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.contains("text/html"));
        if html { Self::Person } else { Self::Program }
    }
}

/// The status that fits an error.
pub(super) fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Usage => StatusCode::BAD_REQUEST,
        ErrorKind::NotFound => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::Damaged => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorKind::Full => StatusCode::INSUFFICIENT_STORAGE,
        ErrorKind::Locked => StatusCode::LOCKED,
        ErrorKind::Exists => StatusCode::CONFLICT,
        ErrorKind::Permission => StatusCode::FORBIDDEN,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::OwnerLocked => StatusCode::LOCKED,
        ErrorKind::NoOwner => StatusCode::CONFLICT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Seconds after which a client that was refused as one too many may ask again.
const RETRY_BUSY_S: u64 = 1;
/// Seconds after which a client may ask again for what was not found in time.
pub(super) const RETRY_LATER_S: u64 = 10;

/// An error as a whole answer.
pub(super) fn answer(status: StatusCode, error: &CallError, reader: Reader) -> Response {
    let mut response = match reader {
        Reader::Program => problem(status, error),
        Reader::Person => (status, page::error(status, error)).into_response(),
    };
    let retry_s = match status {
        StatusCode::SERVICE_UNAVAILABLE => Some(RETRY_BUSY_S),
        StatusCode::GATEWAY_TIMEOUT => Some(RETRY_LATER_S),
        _ => None,
    };
    if let Some(retry_s) = retry_s {
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_s));
    }
    response
}

/// Problem details: what they say in general, and the error itself.
fn problem(status: StatusCode, error: &CallError) -> Response {
    let details = json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "detail": error.message,
        "error": error,
    });
    let kind = [(header::CONTENT_TYPE, "application/problem+json")];
    (status, kind, details.to_string()).into_response()
}

/// An error of an API call as a whole answer.
pub(super) fn of_call(error: &CallError) -> Response {
    answer(status_of(error.kind), error, Reader::Program)
}

/// Too much is going on.
pub(super) fn busy() -> CallError {
    CallError::new(
        ErrorKind::Unavailable,
        "the node is busy with as many requests as it takes at once",
    )
    .with_hint("try again in a moment")
}

/// A request that a check turned away.
pub(super) fn refused(refusal: Refusal) -> Response {
    let (status, message, hint) = match refusal {
        Refusal::Host => (
            StatusCode::MISDIRECTED_REQUEST,
            "this server answers only to its own loopback address",
            "use the URL that `libernet status` shows",
        ),
        Refusal::Site => (
            StatusCode::FORBIDDEN,
            "other websites may not use this server",
            "open the address in a tab of its own",
        ),
        Refusal::Token => (
            StatusCode::UNAUTHORIZED,
            "the API needs the token of the file api.json in the data directory",
            "use the libernet command as the user who runs the node",
        ),
        Refusal::Session => (
            StatusCode::UNAUTHORIZED,
            "this browser is not logged in, or its session is over",
            "`libernet web` logs it in",
        ),
    };
    let error = CallError::new(ErrorKind::Permission, message).with_hint(hint);
    answer(status, &error, Reader::Program)
}

/// The fallback for unknown paths.
pub(super) async fn not_found(headers: HeaderMap) -> Response {
    let error = CallError::new(ErrorKind::Usage, "there is nothing at this address")
        .with_hint("blocks are at /sha384/<hex>, content at /sha384/<hex>/aes256/<hex>");
    answer(StatusCode::NOT_FOUND, &error, Reader::of(&headers))
}

/// The fallback for methods that a path doesn't know.
pub(super) async fn method_not_allowed(headers: HeaderMap) -> Response {
    let error = CallError::new(ErrorKind::Usage, "this address does not take this method")
        .with_hint("the API takes POST, blocks GET, HEAD and PUT, everything else GET and HEAD");
    answer(StatusCode::METHOD_NOT_ALLOWED, &error, Reader::of(&headers))
}
