//! Single blocks by URL: reading, storing, and what else is here under like names.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;
use serde_json::json;

use super::answer::{self, Content, FOREVER, is_any_known, is_known, not_modified};
use super::connections::Guest;
use super::content::{self, Asked, Target};
use super::reads::Place;
use super::{Shared, api, error, guard, sign};
use crate::block::MAX_BLOCK_BYTES;
use crate::id::BlockId;
use crate::node::api::*;

/// Most ids in an answer to `like`.
const LIKE_IDS: u64 = 1000;
/// Answers up to this size are in memory for as long as the client takes; a larger one keeps its
/// place among the reads until it is sent.
const SMALL_BYTES: usize = 64 << 10;
/// Bytes that are given to the connection at once.
const PIECE_BYTES: usize = 64 << 10;

/// `GET` and `HEAD` of a block as it is.
///
/// # Errors
/// Failure of the search for the block.
pub(super) async fn read(asked: Asked, id: BlockId) -> Result<Response, CallError> {
    let named = Named {
        id,
        etag: format!("\"{}\"", id.to_hex()),
        media: HeaderValue::from_static("application/octet-stream"),
        cache: FOREVER,
    };
    send(asked, named).await
}

/// A block and what an answer calls it.
pub(super) struct Named {
    pub id: BlockId,
    pub etag: String,
    pub media: HeaderValue,
    pub cache: HeaderValue,
}

impl Named {
    fn content(self, total: u64) -> Content {
        Content {
            etag: self.etag,
            total,
            media: self.media,
            cache: self.cache,
        }
    }
}

/// Answers with a block, or with what its name and size alone tell.
///
/// # Errors
/// Failure of the search for the block.
pub(super) async fn send(asked: Asked, named: Named) -> Result<Response, CallError> {
    // Content that a version names never changes, whether the block is here or not.
    if is_known(&asked.headers, &named.etag) {
        return Ok(not_modified(&named.etag, named.cache));
    }
    let client = &asked.shared.client;
    let id = named.id;
    let is_any_known = is_any_known(&asked.headers);
    if (asked.is_head() || is_any_known)
        && let Some(total) = size_here(&asked, id).await?
    {
        // A block that is here need not be read to tell its size.
        if is_any_known {
            return Ok(not_modified(&named.etag, named.cache));
        }
        let content = named.content(total);
        let mut response = answer::head(&asked.method, &asked.headers, &content).response;
        sign::name(&mut response, &id);
        return Ok(response);
    }
    let timeout_s = asked.timeout_s;
    let bytes = client.block_get(BlockGet { id, timeout_s }).await?;
    if is_any_known {
        return Ok(not_modified(&named.etag, named.cache));
    }
    let content = named.content(bytes.len() as u64);
    let mut response = whole(&asked.method, asked.place, &asked.headers, content, bytes);
    sign::name(&mut response, &id);
    Ok(response)
}

/// An answer with content that is in memory.
pub(super) fn whole(
    method: &Method,
    place: Place,
    headers: &axum::http::HeaderMap,
    content: Content,
    bytes: Bytes,
) -> Response {
    let head = answer::head(method, headers, &content);
    if method == Method::HEAD {
        return head.response;
    }
    let body = head.cut(&bytes);
    if body.len() <= SMALL_BYTES {
        return head.with(body.into());
    }
    let pieces = futures::stream::unfold(body, async |mut left| {
        let piece = left.split_to(left.len().min(PIECE_BYTES));
        (!piece.is_empty()).then_some((Ok::<_, io::Error>(piece), left))
    });
    head.with(Body::from_stream(place.hold(pieces.boxed())))
}

/// The size of a block that is in the store.
///
/// # Errors
/// When the store fails.
pub(super) async fn size_here(asked: &Asked, id: BlockId) -> Result<Option<u64>, CallError> {
    match asked.shared.client.block_stat(BlockStat { id }).await {
        Ok(stat) => Ok(stat.bytes.filter(|_| stat.local)),
        // Nothing is known about it.
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Ids in the store that share the first 16 bits.
///
/// # Errors
/// When the store fails.
pub(super) async fn like(asked: Asked, id: BlockId) -> Result<Response, CallError> {
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

/// `PUT` of a block: stores and pins what the address names, and nothing else.
pub(super) async fn put(State(shared): State<Shared>, request: Request) -> Response {
    if let Err(refusal) = guard::check_token(request.headers(), &shared.options.token) {
        return error::refused(refusal);
    }
    if let Some(guest) = request.extensions().get::<Arc<Guest>>() {
        guest.trust();
    }
    let fail = |status, error: &CallError| error::answer(status, error, error::Reader::Program);
    let Ok(_permit) = Arc::clone(&shared.calls).try_acquire_owned() else {
        return error::of_call(&error::busy());
    };
    let path = request.uri().path().to_owned();
    let id = match content::parse(&path) {
        Ok(Target::Block(id)) => id,
        Ok(_) => {
            let error = content::usage("only a block can be put: /sha384/<hex>".to_owned());
            return fail(StatusCode::METHOD_NOT_ALLOWED, &error);
        }
        Err(error) => return fail(StatusCode::NOT_FOUND, &error),
    };
    if is_too_large(&request) {
        let error = content::usage(format!("a block has at most {MAX_BLOCK_BYTES} bytes"));
        return fail(StatusCode::PAYLOAD_TOO_LARGE, &error);
    }
    match store(&shared, id, request).await {
        Ok((status, reply)) => {
            let mut response = (status, axum::Json(reply)).into_response();
            if let Ok(path) = HeaderValue::try_from(id.to_path()) {
                response.headers_mut().insert(header::LOCATION, path);
            }
            response
        }
        Err(error) => error::of_call(&error),
    }
}

/// Whether a request says by itself that its body is larger than a block.
fn is_too_large(request: &Request) -> bool {
    let said = request.headers().get(header::CONTENT_LENGTH);
    let said = said.and_then(|len| len.to_str().ok()?.parse::<u64>().ok());
    said.is_some_and(|len| len > MAX_BLOCK_BYTES as u64)
}

async fn store(
    shared: &Shared,
    id: BlockId,
    request: Request,
) -> Result<(StatusCode, BlockPutReply), CallError> {
    let bytes = api::read_body(request, MAX_BLOCK_BYTES).await?;
    let was_here = shared.client.block_has(BlockHas { id }).await?.has;
    let reply = shared.client.block_put(BlockPut { id: Some(id) }, bytes);
    let status = match was_here {
        true => StatusCode::OK,
        false => StatusCode::CREATED,
    };
    Ok((status, reply.await?))
}

/// `GET` of what is known about a block's use.
pub(super) async fn stats(
    State(shared): State<Shared>,
    Path(id): Path<String>,
    request: Request,
) -> Response {
    if let Err(refusal) = guard::check_token(request.headers(), &shared.options.token) {
        return error::refused(refusal);
    }
    let id: BlockId = match id.parse() {
        Ok(id) => id,
        Err(error) => return error::of_call(&content::usage(error.to_string())),
    };
    match shared.client.block_stat(BlockStat { id }).await {
        Ok(stat) => axum::Json(stat).into_response(),
        Err(error) if error.kind == ErrorKind::NotFound => {
            error::answer(StatusCode::NOT_FOUND, &error, error::Reader::Program)
        }
        Err(error) => error::of_call(&error),
    }
}
