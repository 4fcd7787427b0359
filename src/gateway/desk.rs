//! What the dashboard reads besides calls: series, calls under way, the log, and QR codes.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use qrcode::QrCode;
use qrcode::render::svg;
use serde::Deserialize;
use serde_json::json;

use super::series::Span;
use super::{Shared, api, error, log, session};
use crate::node::api::{CallError, ErrorKind};

/// Longest text of a QR code in bytes: more does not fit.
const MAX_QR_BYTES: usize = 2048;
/// Side of a QR code's picture at least, in units of its drawing.
const QR_SIDE: u32 = 200;

#[derive(Deserialize)]
pub(super) struct SeriesQuery {
    span: Span,
}

/// `GET /api/v1/series?span=day|month`.
pub(super) async fn series(
    State(shared): State<Shared>,
    query: Result<Query<SeriesQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    if let Err(refusal) = session::check(&headers, &shared) {
        return error::refused(refusal);
    }
    match query {
        Ok(Query(query)) => Json(shared.series.answer(query.span)).into_response(),
        Err(_) => error::of_call(&CallError::new(
            ErrorKind::Usage,
            "a series is of a span: span=day or span=month",
        )),
    }
}

/// `GET /api/v1/jobs`.
pub(super) async fn jobs(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    match session::check(&headers, &shared) {
        Ok(()) => Json(json!({ "jobs": shared.jobs.list() })).into_response(),
        Err(refusal) => error::refused(refusal),
    }
}

#[derive(Deserialize)]
pub(super) struct LogQuery {
    #[serde(default)]
    from: u64,
}

/// `GET /api/v1/log?from=<number>`.
pub(super) async fn log(
    State(shared): State<Shared>,
    query: Result<Query<LogQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    if let Err(refusal) = session::check(&headers, &shared) {
        return error::refused(refusal);
    }
    match query {
        Ok(Query(query)) => {
            let lines = log::tail().from(query.from);
            Json(json!({ "lines": lines })).into_response()
        }
        Err(_) => error::of_call(&CallError::new(
            ErrorKind::Usage,
            "a log is read from a line's number on: from=0",
        )),
    }
}

/// `POST /api/v1/qr`: the body as a QR code, drawn in SVG.
pub(super) async fn qr(State(shared): State<Shared>, request: Request) -> Response {
    if let Err(refusal) = session::check(request.headers(), &shared) {
        return error::refused(refusal);
    }
    let drawn = async {
        let text = api::read_body(request, MAX_QR_BYTES).await?;
        let code = QrCode::new(&text);
        let code = code.map_err(|error| CallError::new(ErrorKind::Usage, error.to_string()))?;
        let mut picture = code.render::<svg::Color<'_>>();
        Ok(picture.min_dimensions(QR_SIDE, QR_SIDE).build())
    };
    match drawn.await {
        Ok(picture) => ([(header::CONTENT_TYPE, "image/svg+xml")], picture).into_response(),
        Err(failure) => error::of_call(&failure),
    }
}
