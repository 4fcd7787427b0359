//! The dashboard: one page and its parts, compiled in.
//!
//! The page itself is for anyone local and says nothing: all that it shows comes from the API, by
//! the [`session`](super::session) of the browser. Its policy lets the page run only scripts that
//! this answer names by a number used once, so that nothing else that lies on this server runs in
//! it; no markup is made of text; nothing is loaded from elsewhere and no other page frames it.

use std::collections::BTreeMap;

use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use data_encoding::HEXLOWER;

use super::error;
use crate::crypto::random;
use crate::node::api::{CallError, ErrorKind};

/// The page. `NONCE` stands for the number used once.
const PAGE: &str = include_str!("index.html");
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Its parts: name, type and content.
const FILES: [(&str, &str, &str); 12] = [
    (
        "style.css",
        "text/css; charset=utf-8",
        include_str!("style.css"),
    ),
    ("app.js", SCRIPT, include_str!("app.js")),
    ("api.js", SCRIPT, include_str!("api.js")),
    ("dom.js", SCRIPT, include_str!("dom.js")),
    ("chart.js", SCRIPT, include_str!("chart.js")),
    ("overview.js", SCRIPT, include_str!("overview.js")),
    ("backups.js", SCRIPT, include_str!("backups.js")),
    ("rings.js", SCRIPT, include_str!("rings.js")),
    ("sharing.js", SCRIPT, include_str!("sharing.js")),
    ("node.js", SCRIPT, include_str!("node.js")),
    ("settings.js", SCRIPT, include_str!("settings.js")),
    ("welcome.js", SCRIPT, include_str!("welcome.js")),
];

/// `GET /`.
pub(super) async fn page() -> Response {
    let nonce = HEXLOWER.encode(&*random::bytes::<16>());
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
         img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    );
    let mut response = PAGE.replace("NONCE", &nonce).into_response();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, policy.as_str()),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        let value = HeaderValue::try_from(value).expect("hex and fixed texts");
        response.headers_mut().insert(name, value);
    }
    response
}

/// `GET /dashboard/<file>`.
pub(super) async fn file(Path(name): Path<String>) -> Response {
    let files: BTreeMap<&str, (&str, &str)> = FILES
        .iter()
        .map(|(name, kind, content)| (*name, (*kind, *content)))
        .collect();
    match files.get(name.as_str()) {
        Some((kind, content)) => {
            let kind = [(header::CONTENT_TYPE, *kind)];
            (kind, *content).into_response()
        }
        None => {
            let failure = CallError::new(ErrorKind::Usage, "the dashboard has no such file");
            error::answer(StatusCode::NOT_FOUND, &failure, error::Reader::Program)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest dashboard in all, in bytes.
    const MAX_BYTES: usize = 150_000;

    #[test]
    fn the_dashboard_is_small_and_loads_nothing_from_elsewhere() {
        let contents = FILES.iter().map(|(_, _, content)| *content);
        let all: Vec<&str> = contents.chain([PAGE]).collect();
        assert!(all.iter().map(|text| text.len()).sum::<usize>() <= MAX_BYTES);
        for text in all {
            let names = ["http://www.w3.org/2000/svg"];
            let rest = names
                .iter()
                .fold(text.to_owned(), |rest, name| rest.replace(name, ""));
            for elsewhere in [
                "http://",
                "https://",
                "innerHTML",
                "insertAdjacent",
                "eval(",
            ] {
                assert!(!rest.contains(elsewhere), "{elsewhere}");
            }
        }
    }

    #[tokio::test]
    async fn each_page_has_a_number_of_its_own_that_its_policy_names() {
        let mut seen = Vec::new();
        for _ in 0..2 {
            let answer = page().await;
            let policy = answer.headers()[header::CONTENT_SECURITY_POLICY].clone();
            let policy = policy.to_str().expect("text").to_owned();
            let bytes = axum::body::to_bytes(answer.into_body(), MAX_BYTES).await;
            let text = String::from_utf8(bytes.expect("whole").to_vec()).expect("text");
            let (_, after) = policy.split_once("'nonce-").expect("a number");
            let nonce = after.split('\'').next().expect("its end").to_owned();
            assert!(text.contains(&format!("nonce=\"{nonce}\"")), "{text}");
            assert!(!text.contains("NONCE"));
            seen.push(nonce);
        }
        assert_ne!(seen[0], seen[1]);
    }

    #[tokio::test]
    async fn parts_are_there_by_name_alone() {
        for (name, kind, _) in FILES {
            let answer = file(Path(name.to_owned())).await;
            assert_eq!(answer.headers()[header::CONTENT_TYPE], kind);
        }
        for wrong in ["", "..", "index.html", "app.js/", "../mod.rs"] {
            let answer = file(Path(wrong.to_owned())).await;
            assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{wrong}");
        }
    }
}
