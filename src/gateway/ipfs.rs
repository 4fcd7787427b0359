//! Raw blocks by CID, as IPFS's trustless gateway gives them.
//!
//! Source: the Trustless Gateway and Path Gateway specifications of specs.ipfs.tech. Any codec is
//! accepted: the bytes are what the multihash names. A block that can't be had is 404 whether it
//! was looked for or not; one that may not be looked for (`only-if-cached`) is 412.
//!
//! Deliberately absent: everything that needs the blocks to be understood (paths below a CID, CAR,
//! UnixFS, IPNS).

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use cid::CidGeneric;

use super::answer::{Content, is_any_known, is_known, not_modified};
use super::blocks::{self, Named};
use super::content::{Asked, usage};
use super::error;
use crate::client::url::{percent_decode, percent_encode};
use crate::id::{BlockId, HashKind};
use crate::node::api::*;

/// First segment of the addresses.
const ROUTE: &str = "/ipfs/";
/// Largest digest that is understood: identity multihashes hold the bytes themselves.
const MAX_DIGEST_BYTES: usize = 128;
/// Longest text of a CID.
const MAX_CID_CHARS: usize = 512;
/// Code of the multihash that is the bytes themselves.
const IDENTITY: u64 = 0;
/// Longest name to save a block under, in bytes.
const MAX_FILE_NAME_BYTES: usize = 255;
const MEDIA: &str = "application/vnd.ipld.raw";
/// As the specification has it, to the second.
const CACHE: HeaderValue = HeaderValue::from_static("public, max-age=29030400, immutable");

type Cid = CidGeneric<MAX_DIGEST_BYTES>;

/// A status and what is wrong.
type Refusal = (StatusCode, CallError);

/// Content that a CID stands for.
#[derive(Debug, PartialEq, Eq)]
enum Root {
    Block(BlockId),
    /// The CID holds the bytes.
    Inline(Bytes),
}

/// `GET` and `HEAD` of everything below `/ipfs/`.
pub(super) async fn read(asked: Asked) -> Response {
    let reader = error::Reader::of(&asked.headers);
    answer(asked)
        .await
        .unwrap_or_else(|(status, failure)| error::answer(status, &failure, reader))
}

async fn answer(asked: Asked) -> Result<Response, Refusal> {
    let bad = |message: &str| (StatusCode::BAD_REQUEST, usage(message.to_owned()));
    if asked.headers.contains_key("service-worker") {
        return Err(bad("no script is registered from a raw block"));
    }
    let text = asked.uri_path.strip_prefix(ROUTE).unwrap_or_default();
    let (text, path) = text.split_once('/').unwrap_or((text, ""));
    let text = text.to_owned();
    let (cid, root) = root_of(&text)?;
    let is_negotiated = format(&asked)?;
    if !path.is_empty() {
        return Err(bad("a raw block has no path behind its CID"));
    }
    let name = file_name(&asked, &cid);
    let headers = headers(&text, &cid, &name, is_negotiated);
    let named = |id| Named {
        id,
        etag: format!("\"{cid}.raw\""),
        media: HeaderValue::from_static(MEDIA),
        cache: CACHE,
    };
    let mut response = match root {
        Root::Inline(bytes) => inline(asked, &cid, bytes),
        Root::Block(id) => {
            if is_only_if_cached(&asked.headers)
                && blocks::size_here(&asked, id)
                    .await
                    .map_err(failed)?
                    .is_none()
            {
                let missing = CallError::new(ErrorKind::NotFound, "the block is not here");
                return Err((StatusCode::PRECONDITION_FAILED, missing));
            }
            blocks::send(asked, named(id)).await.map_err(failed)?
        }
    };
    if response.status() == StatusCode::NOT_MODIFIED {
        return Ok(response);
    }
    for (name, value) in headers {
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}

/// The status of a failure to give a block: what can't be had is not found, by the specification.
fn failed(failure: CallError) -> Refusal {
    let status = match failure.kind {
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        kind => error::status_of(kind),
    };
    (status, failure)
}

/// Reads a CID.
///
/// # Errors
/// 400 for a text that is none, and for a hash function that blocks are not named by.
fn root_of(text: &str) -> Result<(Cid, Root), Refusal> {
    let bad = |message: String| (StatusCode::BAD_REQUEST, usage(message));
    if text.len() > MAX_CID_CHARS {
        return Err(bad("the CID is too long".to_owned()));
    }
    let cid = Cid::try_from(text).map_err(|error| bad(format!("this is no CID: {error}")))?;
    let (code, digest) = (cid.hash().code(), cid.hash().digest());
    let root = match code {
        IDENTITY => Root::Inline(Bytes::copy_from_slice(digest)),
        _ => {
            let known = [HashKind::Sha384, HashKind::Sha256];
            if !known.iter().any(|kind| kind.code() == code) {
                return Err(bad(format!(
                    "blocks here are named by sha2-384 and sha2-256, not by the hash function 0x{code:x}"
                )));
            }
            let id = BlockId::from_multihash(&cid.hash().to_bytes())
                .map_err(|error| bad(error.to_string()))?;
            Root::Block(id)
        }
    };
    Ok((cid, root))
}

/// The block that a path below `/ipfs/` names, if it names one.
pub(super) fn block_of(path: &str) -> Option<BlockId> {
    match root_of(path.strip_prefix(ROUTE)?).ok()? {
        (_, Root::Block(id)) => Some(id),
        (_, Root::Inline(_)) => None,
    }
}

/// Checks that a raw block is asked for. Returns whether `Accept` alone says so.
///
/// # Errors
/// 400 when no format is asked for, 406 when another one is.
fn format(asked: &Asked) -> Result<bool, Refusal> {
    let other = |format: &str| {
        let message = format!("'{format}' is not served here, only raw blocks: ?format=raw");
        Err((StatusCode::NOT_ACCEPTABLE, usage(message)))
    };
    match asked.field("format") {
        Some("raw") => return Ok(false),
        Some(format) => return other(format),
        None => {}
    }
    let accepted: Vec<&str> = asked
        .headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter(|range| !is_unwanted(range))
        .map(|range| range.split(';').next().unwrap_or_default().trim())
        .collect();
    if accepted
        .iter()
        .any(|media| media.eq_ignore_ascii_case(MEDIA))
    {
        return Ok(true);
    }
    match accepted
        .iter()
        .find(|media| media.starts_with("application/vnd.ip"))
    {
        Some(media) => other(media),
        None => {
            let message = "say which format: ?format=raw, or Accept: application/vnd.ipld.raw";
            Err((StatusCode::BAD_REQUEST, usage(message.to_owned())))
        }
    }
}

/// Whether a media range says by its weight that it is not acceptable (`q=0`).
fn is_unwanted(range: &str) -> bool {
    let weight = range.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then(|| value.trim())
    });
    weight.is_some_and(|weight| weight.parse::<f32>() == Ok(0.0))
}

fn is_only_if_cached(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::CACHE_CONTROL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|directive| directive.trim().eq_ignore_ascii_case("only-if-cached"))
}

/// Bytes that the CID itself holds.
fn inline(asked: Asked, cid: &Cid, bytes: Bytes) -> Response {
    let etag = format!("\"{cid}.raw\"");
    if is_known(&asked.headers, &etag) || is_any_known(&asked.headers) {
        return not_modified(&etag, CACHE);
    }
    let content = Content {
        etag,
        total: bytes.len() as u64,
        media: HeaderValue::from_static(MEDIA),
        cache: CACHE,
    };
    blocks::whole(&asked.method, asked.place, &asked.headers, content, bytes)
}

/// The name to save the block under: the one in the query, or the CID.
fn file_name(asked: &Asked, cid: &Cid) -> String {
    asked
        .field("filename")
        .map(|name| name.replace('+', " "))
        .and_then(percent_decode)
        .and_then(|name| String::from_utf8(name).ok())
        .filter(|name| !name.is_empty() && name.len() <= MAX_FILE_NAME_BYTES)
        .unwrap_or_else(|| format!("{cid}.bin"))
}

/// `attachment` with a name in the two forms that browsers know (RFC 6266, RFC 8187).
fn disposition(name: &str) -> String {
    let is_plain = |c: char| (c.is_ascii_graphic() || c == ' ') && !"\"\\%/".contains(c);
    let plain: String = name
        .chars()
        .map(|c| if is_plain(c) { c } else { '_' })
        .collect();
    match plain == name {
        true => format!("attachment; filename=\"{plain}\""),
        false => format!(
            "attachment; filename=\"{plain}\"; filename*=UTF-8''{}",
            percent_encode(name)
        ),
    }
}

/// The headers of the specification that other answers don't have.
fn headers(
    text: &str,
    cid: &Cid,
    name: &str,
    is_negotiated: bool,
) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = vec![
        (header::CONTENT_DISPOSITION, disposition(name)),
        (
            HeaderName::from_static("x-ipfs-path"),
            format!("{ROUTE}{text}"),
        ),
        (HeaderName::from_static("x-ipfs-roots"), cid.to_string()),
        (header::VARY, "Accept".to_owned()),
    ];
    if is_negotiated {
        let location = format!("{ROUTE}{text}?format=raw");
        headers.push((header::CONTENT_LOCATION, location));
    }
    let valid = |(name, value)| Some((name, HeaderValue::try_from(value).ok()?));
    headers.into_iter().filter_map(valid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cids_of_any_codec_name_the_block() {
        let id = BlockId::from_sha384([0x5a; 48]);
        let multihash = cid::multihash::Multihash::wrap(0x20, id.digest()).expect("it fits");
        for codec in [0x55, 0x70, 0x71, 0x0200] {
            let cid = Cid::new_v1(codec, multihash);
            let (read, root) = root_of(&cid.to_string()).expect("a CID");
            assert_eq!((read, root), (cid, Root::Block(id)));
        }
        // A CIDv0 is base58 and of sha2-256.
        let old = "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG";
        let (_, root) = root_of(old).expect("a CID");
        assert!(matches!(root, Root::Block(id) if id.kind() == HashKind::Sha256));
        let (_, root) = root_of("bafkqaaa").expect("the probe");
        assert_eq!(root, Root::Inline(Bytes::new()));
        let hello = Cid::new_v1(
            0x55,
            cid::multihash::Multihash::wrap(0, b"hello").expect("it fits"),
        );
        let (_, root) = root_of(&hello.to_string()).expect("a CID");
        assert_eq!(root, Root::Inline(Bytes::from_static(b"hello")));
    }

    #[test]
    fn what_names_no_block_is_refused() {
        let wrap = |code, digest: &[u8]| {
            let hash = cid::multihash::Multihash::wrap(code, digest).expect("it fits");
            Cid::new_v1(0x55, hash).to_string()
        };
        for text in [
            String::new(),
            "nothing".to_owned(),
            "b".repeat(MAX_CID_CHARS + 1),
            wrap(0x1e, &[1; 32]),
            wrap(0x12, &[1; 20]),
            wrap(0x20, &[1; 32]),
        ] {
            let (status, _) = root_of(&text).expect_err("refused");
            assert_eq!(status, StatusCode::BAD_REQUEST, "{text}");
        }
    }

    #[test]
    fn names_to_save_under() {
        assert_eq!(disposition("a b.bin"), "attachment; filename=\"a b.bin\"");
        assert_eq!(
            disposition("t\u{435}\".p\r\n"),
            "attachment; filename=\"t__.p__\"; filename*=UTF-8''t%D0%B5%22.p%0D%0A"
        );
    }

    proptest! {
        #[test]
        fn any_text_gives_an_answer(text in ".{0,60}") {
            let _ = root_of(&text);
            prop_assert!(HeaderValue::try_from(disposition(&text)).is_ok());
        }
    }
}
