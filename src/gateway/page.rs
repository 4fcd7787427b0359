//! The few pages that people see: plain HTML, no scripts, nothing from elsewhere.

use std::fmt::Write as _;

use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};

use crate::node::api::CallError;
use crate::text::printable;

const STYLE: &str = "body{font:1rem/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
     table{border-collapse:collapse}td,th{padding:.15rem .8rem .15rem 0;text-align:left;vertical-align:top}\
     td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}th a{color:inherit}code{overflow-wrap:anywhere}\
     @media(prefers-color-scheme:dark){body{background:#151515;color:#ddd}a{color:#8bf}}";

/// Text with the characters that mean something in HTML replaced, and with those that reorder or
/// hide text as escapes.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in printable(text).chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// `title` is text, `body` is HTML.
pub(super) fn page(title: &str, body: &str) -> Html<String> {
    let title = escape(title);
    Html(format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
         <style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n{body}</body></html>\n"
    ))
}

/// A page of one sentence or two, which are HTML.
pub(super) fn message(status: StatusCode, title: &str, body: &str) -> Response {
    (status, page(title, &format!("<p>{body}</p>\n"))).into_response()
}

/// Asks whether to follow a link of another website: a page there may have opened this address by
/// itself. Nothing was looked for.
pub(super) fn question(path: &str) -> Response {
    let body = format!(
        "<p>Another website leads here. Nothing was fetched for it, and it can't see this page.</p>\n\
         <p><a href=\"{}\">Open it</a></p>\n",
        escape(path)
    );
    let page = page("Open this?", &body);
    (StatusCode::FORBIDDEN, page).into_response()
}

/// An error for people: what failed, which block, who was asked, what to do.
pub(super) fn error(status: StatusCode, error: &CallError) -> Html<String> {
    let mut body = format!("<p>{}</p>\n", escape(&error.message));
    if let Some(block) = &error.block {
        let _ = writeln!(
            body,
            "<p>Block <code>{}</code></p>",
            escape(&block.to_path())
        );
    }
    if !error.tried.is_empty() {
        body.push_str("<table>\n");
        for tried in &error.tried {
            let _ = writeln!(
                body,
                "<tr><td><code>{}</code></td><td>{}</td></tr>",
                escape(&tried.peer),
                escape(&tried.attempt.to_string())
            );
        }
        body.push_str("</table>\n");
    }
    if let Some(hint) = &error.hint {
        let _ = writeln!(body, "<p>What to do: {}</p>", escape(hint));
    }
    page(status.canonical_reason().unwrap_or("Error"), &body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::api::ErrorKind;

    #[test]
    fn hostile_words_stay_text() {
        let hostile = "\"><script>alert(1)</script>&'";
        let Html(text) = error(
            StatusCode::BAD_REQUEST,
            &CallError::new(ErrorKind::Usage, hostile).with_hint(hostile),
        );
        assert!(!text.contains("<script"), "{text}");
    }
}
