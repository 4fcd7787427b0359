//! What kind of content a file is, for browsers: by its name, and by its first bytes where the name
//! says nothing.
//!
//! Nothing depends on it for safety: content of any kind is shown under a policy that lets nothing
//! run (`guard::STORED`).

/// Shown by the browser's own viewer, which does not start in a sandbox.
pub(super) const PDF: &str = "application/pdf";
/// What is not known is saved, not shown.
pub(super) const UNKNOWN: &str = "application/octet-stream";
const TEXT: &str = "text/plain; charset=utf-8";

/// Extensions that are text to people, and to the registry something else or nothing.
const TEXTS: [&str; 31] = [
    "c", "cc", "cfg", "conf", "cpp", "cs", "env", "go", "h", "hpp", "ini", "java", "jsonl", "jsx",
    "kt", "lock", "log", "lua", "patch", "pl", "proto", "py", "rb", "rs", "sh", "sql", "swift",
    "toml", "ts", "yaml", "yml",
];

/// The media type that a file name stands for. Text is UTF-8.
pub(super) fn by_name(name: &str) -> Option<&'static str> {
    let (_, extension) = name.rsplit_once('.')?;
    let extension = extension.to_ascii_lowercase();
    if TEXTS.binary_search(&extension.as_str()).is_ok() {
        return Some(TEXT);
    }
    let guess = mime_guess::from_ext(&extension).first_raw()?;
    Some(match guess {
        "text/html" => "text/html; charset=utf-8",
        "text/css" => "text/css; charset=utf-8",
        "text/javascript" | "application/javascript" => "text/javascript; charset=utf-8",
        "text/plain" => TEXT,
        "text/markdown" => "text/markdown; charset=utf-8",
        "text/csv" => "text/csv; charset=utf-8",
        guess => guess,
    })
}

/// The media type of content that starts with `sample`.
pub(super) fn by_content(sample: &[u8]) -> &'static str {
    match infer::get(sample).map(|kind| kind.mime_type()) {
        Some("text/html") => "text/html; charset=utf-8",
        Some(kind) if kind.starts_with("text/") => TEXT,
        Some(kind) => kind,
        None if is_text(sample) => TEXT,
        None => UNKNOWN,
    }
}

/// Whether a sample is UTF-8 without control characters, but for a character that is cut at its
/// end.
fn is_text(sample: &[u8]) -> bool {
    let text = match std::str::from_utf8(sample) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(sample.get(..error.valid_up_to()).unwrap_or_default())
                .unwrap_or_default()
        }
        Err(_) => return false,
    };
    let is_shown = |c: char| !c.is_control() || matches!(c, '\t' | '\n' | '\r' | '\x0c');
    !text.is_empty() && text.chars().all(is_shown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names() {
        assert!(TEXTS.is_sorted());
        for (name, kind) in [
            ("INDEX.HTML", Some("text/html; charset=utf-8")),
            ("a.css", Some("text/css; charset=utf-8")),
            ("a.mjs", Some("text/javascript; charset=utf-8")),
            ("a.tar.gz", Some("application/gzip")),
            ("a.pdf", Some(PDF)),
            ("a.svg", Some("image/svg+xml")),
            ("a.mp4", Some("video/mp4")),
            ("a.ts", Some(TEXT)),
            ("a.rs", Some(TEXT)),
            ("a.wasm", Some("application/wasm")),
            ("README", None),
            ("", None),
            (".", None),
            ("a.", None),
            ("a.html/b", None),
            ("a.no such thing", None),
        ] {
            assert_eq!(by_name(name), kind, "{name}");
        }
    }

    #[test]
    fn content() {
        for (sample, kind) in [
            (&b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"[..], "image/png"),
            (b"%PDF-1.7\n", PDF),
            (b"<!DOCTYPE html><p>", "text/html; charset=utf-8"),
            (b"#!/bin/sh\necho", TEXT),
            ("Gr\u{fc}\u{df}e\n".as_bytes(), TEXT),
            (b"cut in a character \xc3", TEXT),
            (b"\xc3", UNKNOWN),
            (b"a\0b", UNKNOWN),
            (b"\xff\xfea", UNKNOWN),
            (b"", UNKNOWN),
        ] {
            assert_eq!(by_content(sample), kind, "{sample:?}");
        }
    }

    proptest! {
        #[test]
        fn any_kind_is_a_header(name in ".{0,20}", sample in proptest::collection::vec(any::<u8>(), 0..64)) {
            let kinds = [by_name(&name).unwrap_or(UNKNOWN), by_content(&sample)];
            for kind in kinds {
                prop_assert!(axum::http::HeaderValue::try_from(kind).is_ok());
            }
        }
    }
}
