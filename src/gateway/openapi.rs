//! The description of the API in OpenAPI 3.1: `GET /api/openapi.json`.
//!
//! Calls are listed from the very list that they are served by, so none is missing. Each takes an
//! object and answers lines of JSON, whose fields `libernet --help` and the program's own
//! documentation tell; the description has the form of the lines, of errors and of what proves that
//! somebody may ask.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use utoipa::openapi::OpenApi;

use super::api::CALLS;

/// Calls whose request or answer is bytes: name, query, type of the request, type of the answer.
const OF_BYTES: [(&str, &[&str], &str, &str); 5] = [
    ("put-stream", &["name", "pin", "announce"], BYTES, LINES),
    ("block-put", &["id"], BYTES, LINES),
    ("block-get", &[], JSON, BYTES),
    ("cat", &[], JSON, BYTES),
    ("restore-tar", &[], JSON, BYTES),
];
/// The call that the server answers itself.
const WEB_LOGIN: &str = "web-login";
const JSON: &str = "application/json";
const LINES: &str = "application/x-ndjson";
const BYTES: &str = "application/octet-stream";
const EVENTS: &str = "text/event-stream";

/// `GET /api/openapi.json`.
pub(super) async fn document() -> Response {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let described = description().to_json();
        described.expect("a description is JSON; a test says so")
    });
    ([(header::CONTENT_TYPE, JSON)], TEXT.as_str()).into_response()
}

/// The description.
fn description() -> OpenApi {
    let mut paths = Map::new();
    for name in CALLS.iter().copied().chain([WEB_LOGIN]) {
        let operation = operation(name, &[], Some(JSON), LINES);
        paths.insert(format!("/api/v1/{name}"), json!({ "post": operation }));
    }
    for (name, query, request, answer) in OF_BYTES {
        let operation = operation(name, query, Some(request), answer);
        paths.insert(format!("/api/v1/{name}"), json!({ "post": operation }));
    }
    for (name, query, answer) in [
        ("events", &[][..], EVENTS),
        ("series", &["span"], JSON),
        ("jobs", &[], JSON),
        ("log", &["from"], JSON),
    ] {
        let operation = operation(name, query, None, answer);
        paths.insert(format!("/api/v1/{name}"), json!({ "get": operation }));
    }
    let qr = operation("qr", &[], Some("text/plain"), "image/svg+xml");
    paths.insert("/api/v1/qr".to_owned(), json!({ "post": qr }));
    for (path, query, answer) in [
        ("/api/v1/hello", &["nonce"][..], JSON),
        ("/api/openapi.json", &[], JSON),
        ("/healthz", &[], JSON),
        ("/metrics", &[], "application/openmetrics-text"),
    ] {
        let mut operation = operation(path, query, None, answer);
        operation["security"] = json!([]);
        paths.insert(path.to_owned(), json!({ "get": operation }));
    }
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "libernet",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The local API of a node. It listens on loopback only.",
        },
        "paths": paths,
        "components": { "schemas": schemas(), "securitySchemes": security() },
        "security": [{ "token": [] }, { "session": [], "key": [] }],
    });
    serde_json::from_value(document).expect("it is OpenAPI; a test says so")
}

fn operation(name: &str, query: &[&str], request: Option<&str>, answer: &str) -> Value {
    let schema = match answer {
        LINES => json!({ "$ref": "#/components/schemas/Line" }),
        JSON => json!({ "type": "object" }),
        _ => json!({ "type": "string" }),
    };
    let id = name.trim_start_matches('/').replace(['/', '.'], "-");
    let problem = json!({ "$ref": "#/components/schemas/Problem" });
    let mut operation = json!({
        "operationId": id,
        "responses": {
            "200": { "description": "The answer", "content": { answer: { "schema": schema } } },
            "default": {
                "description": "Why there is none",
                "content": { "application/problem+json": { "schema": problem } },
            },
        },
    });
    if !query.is_empty() {
        let parameter = |name: &&str| json!({ "name": name, "in": "query", "required": false, "schema": { "type": "string" } });
        operation["parameters"] = query.iter().map(parameter).collect();
    }
    if let Some(kind) = request {
        let shape = if kind == JSON { "object" } else { "string" };
        let content = json!({ kind: { "schema": { "type": shape } } });
        operation["requestBody"] = json!({ "required": true, "content": content });
    }
    operation
}

fn schemas() -> Value {
    json!({
        "Line": {
            "description": "One line of an answer. The last has done or error.",
            "type": "object",
            "properties": {
                "done": { "type": "object" },
                "error": { "$ref": "#/components/schemas/Error" },
                "progress": { "type": "object" },
                "warning": { "type": "string" },
                "givers": { "type": "array", "items": { "type": "object" } },
            },
        },
        "Error": {
            "type": "object",
            "required": ["kind", "message"],
            "properties": {
                "kind": { "type": "string" },
                "message": { "type": "string" },
                "hint": { "type": "string" },
                "block": { "type": "string" },
                "tried": { "type": "array", "items": { "type": "object" } },
            },
        },
        "Problem": {
            "description": "Problem details as in RFC 9457, and the error itself.",
            "type": "object",
            "required": ["type", "title", "status", "detail", "error"],
            "properties": {
                "type": { "type": "string" },
                "title": { "type": "string" },
                "status": { "type": "integer" },
                "detail": { "type": "string" },
                "error": { "$ref": "#/components/schemas/Error" },
            },
        },
    })
}

fn security() -> Value {
    json!({
        "token": { "type": "http", "scheme": "bearer" },
        "session": { "type": "apiKey", "in": "cookie", "name": "libernet-PORT" },
        "key": { "type": "apiKey", "in": "header", "name": super::session::KEY_HEADER },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_described_and_the_text_is_openapi() {
        let text = description().to_json().expect("json");
        let value: Value = serde_json::from_str(&text).expect("json");
        let version = value["openapi"].as_str().expect("text");
        assert!(version.starts_with("3.1"), "{version}");
        for name in CALLS {
            let operation = &value["paths"][format!("/api/v1/{name}")]["post"];
            assert_eq!(operation["operationId"], *name, "{name}");
            assert!(operation["responses"]["default"].is_object(), "{name}");
        }
        assert!(value["components"]["schemas"]["Problem"]["properties"]["detail"].is_object());
        assert!(value["components"]["securitySchemes"]["token"].is_object());
    }
}
