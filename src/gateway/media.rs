//! What kind of content a file name stands for, for browsers.

/// Media types by extension, lower case. Text is UTF-8.
const TYPES: [(&str, &str); 66] = [
    ("7z", "application/x-7z-compressed"),
    ("aac", "audio/aac"),
    ("apng", "image/apng"),
    ("atom", "application/atom+xml"),
    ("avif", "image/avif"),
    ("bmp", "image/bmp"),
    ("bz2", "application/x-bzip2"),
    ("c", TEXT),
    ("cfg", TEXT),
    ("conf", TEXT),
    ("cpp", TEXT),
    ("css", "text/css; charset=utf-8"),
    ("csv", "text/csv; charset=utf-8"),
    ("epub", "application/epub+zip"),
    ("flac", "audio/flac"),
    ("gif", "image/gif"),
    ("go", TEXT),
    ("gz", "application/gzip"),
    ("h", TEXT),
    ("heic", "image/heic"),
    ("htm", HTML),
    ("html", HTML),
    ("ico", "image/x-icon"),
    ("ini", TEXT),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("jsonl", TEXT),
    ("jxl", "image/jxl"),
    ("log", TEXT),
    ("m4a", "audio/mp4"),
    ("m4v", "video/mp4"),
    ("md", "text/markdown; charset=utf-8"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("mkv", "video/x-matroska"),
    ("mov", "video/quicktime"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("oga", "audio/ogg"),
    ("ogg", "audio/ogg"),
    ("ogv", "video/ogg"),
    ("opus", "audio/ogg"),
    ("otf", "font/otf"),
    ("pdf", PDF),
    ("png", "image/png"),
    ("py", TEXT),
    ("rs", TEXT),
    ("rss", "application/rss+xml"),
    ("sh", TEXT),
    ("svg", "image/svg+xml"),
    ("tar", "application/x-tar"),
    ("toml", TEXT),
    ("ttf", "font/ttf"),
    ("txt", TEXT),
    ("wasm", "application/wasm"),
    ("wav", "audio/wav"),
    ("webm", "video/webm"),
    ("webp", "image/webp"),
    ("woff", "font/woff"),
    ("woff2", "font/woff2"),
    ("xhtml", "application/xhtml+xml"),
    ("xml", "application/xml"),
    ("yaml", TEXT),
    ("yml", TEXT),
    ("zip", "application/zip"),
];

const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
/// Shown by the browser's own viewer, which does not start in a sandbox.
pub(super) const PDF: &str = "application/pdf";
/// What is not known is saved, not shown.
const UNKNOWN: &str = "application/octet-stream";

/// The media type for a file name.
pub(super) fn type_of(name: &str) -> &'static str {
    let Some((_, extension)) = name.rsplit_once('.') else {
        return UNKNOWN;
    };
    let extension = extension.to_ascii_lowercase();
    TYPES
        .binary_search_by_key(&extension.as_str(), |(known, _)| known)
        .map_or(UNKNOWN, |at| TYPES[at].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_every_entry_is_found() {
        assert!(TYPES.is_sorted_by(|a, b| a.0 < b.0));
        for (extension, media) in TYPES {
            assert_eq!(type_of(&format!("x.{extension}")), media);
        }
    }

    #[test]
    fn names() {
        assert_eq!(type_of("INDEX.HTML"), HTML);
        assert_eq!(type_of("a.tar.gz"), "application/gzip");
        for name in ["README", "", ".", "a.", "a.html/b", "x.exe"] {
            assert_eq!(type_of(name), UNKNOWN, "{name}");
        }
    }
}
