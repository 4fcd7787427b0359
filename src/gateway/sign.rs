//! Signed answers: HTTP Message Signatures (RFC 9421) with digest fields (RFC 9530).
//!
//! Each answer is signed by the node's key (ed25519; the key id is the node's peer id, which holds
//! the public key). What a signature covers is said in `Signature-Input`:
//!
//! - always the status, and `libernet-path`: the path and query that were asked for. The key of a
//!   link is left out of it (`/aes256/-/`), as answers are kept in files.
//! - `content-digest` (SHA-256) where the answer is in memory as a whole. What is streamed has
//!   none.
//! - `libernet-id`, where there is one: the block that was asked for, or the root of the bundle.
//!   Of a whole block the bytes can be held against it; of a file in a bundle it says only which
//!   bundle.
//! - `content-type`, `content-range`, `etag` and `location`, where there are any.
//!
//! Deliberately absent: trust. A signature says which node said so, and when.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use data_encoding::BASE64;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use libp2p::PeerId;
use libp2p::identity::{Keypair, PublicKey};

use super::content::{self, Target};
use super::ipfs;
use crate::crypto::hash;
use crate::id::BlockId;

/// Name of our signature among others of a message.
const LABEL: &str = "libernet";
/// Header with the path and query that were asked for.
pub(super) const PATH: HeaderName = HeaderName::from_static("libernet-path");
/// Header with the id of the block or bundle that content is from.
pub(super) const ID: HeaderName = HeaderName::from_static("libernet-id");
const DIGEST: HeaderName = HeaderName::from_static("content-digest");
const INPUT: HeaderName = HeaderName::from_static("signature-input");
const SIGNATURE: HeaderName = HeaderName::from_static("signature");
const STATUS: &str = "@status";
/// Headers that are signed where there are any, in this order.
static COVERED: [HeaderName; 7] = [
    PATH,
    DIGEST,
    ID,
    axum::http::header::CONTENT_TYPE,
    axum::http::header::CONTENT_RANGE,
    axum::http::header::ETAG,
    axum::http::header::LOCATION,
];
/// Largest answer that is hashed for its signature. What is in memory as a whole is smaller.
const MAX_HASHED_BYTES: u64 = 8 << 20;
/// Most fields that a signature may cover.
const MAX_FIELDS: usize = 32;

/// Signs answers.
#[derive(Clone)]
pub struct Signer {
    key: Keypair,
    id: String,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Signer").field(&self.id).finish()
    }
}

impl Signer {
    /// A signer with the node's key.
    pub fn new(key: Keypair) -> Self {
        let id = key.public().to_peer_id().to_string();
        Self { key, id }
    }

    /// Signs an answer to a request for `target`, a path and query. `is_head`: it was for the head
    /// alone. An answer that can't be signed stays as it is.
    pub(super) async fn sign(
        &self,
        target: &str,
        is_head: bool,
        now_s: u64,
        response: Response,
    ) -> Response {
        let (mut head, mut body) = response.into_parts();
        if let Ok(path) = HeaderValue::try_from(without_key(target)) {
            head.headers.insert(PATH, path);
        }
        // Exactly known is only what is in memory.
        let is_whole = body
            .size_hint()
            .exact()
            .is_some_and(|len| len <= MAX_HASHED_BYTES);
        if is_whole && !is_head {
            let Ok(collected) = body.collect().await else {
                return Response::from_parts(head, Body::empty());
            };
            let bytes = collected.to_bytes();
            if let Ok(digest) = HeaderValue::try_from(digest_field(&hash::sha256(&[&bytes]))) {
                head.headers.insert(DIGEST, digest);
            }
            body = Body::from(bytes);
        }
        let names: Vec<&str> = std::iter::once(STATUS)
            .chain(COVERED.iter().map(HeaderName::as_str))
            .filter(|name| *name == STATUS || head.headers.contains_key(*name))
            .collect();
        let input = format!(
            "{};created={now_s};keyid=\"{}\";alg=\"ed25519\"",
            list(&names),
            self.id
        );
        let value = |name: &str| {
            let value = head.headers.get(name)?.to_str().ok()?;
            Some(value.trim().to_owned())
        };
        let signed = base(head.status.as_u16(), &names, &input, value)
            .and_then(|base| self.key.sign(base.as_bytes()).ok());
        if let Some(signature) = signed {
            let signature = format!("{LABEL}=:{}:", BASE64.encode(&signature));
            for (name, value) in [(INPUT, format!("{LABEL}={input}")), (SIGNATURE, signature)] {
                if let Ok(value) = HeaderValue::try_from(value) {
                    head.headers.insert(name, value);
                }
            }
        }
        Response::from_parts(head, body)
    }
}

/// Says which block, or bundle by its root, an answer's content is from.
pub(super) fn name(response: &mut Response, id: &BlockId) {
    if let Ok(id) = HeaderValue::try_from(id.to_string()) {
        response.headers_mut().insert(ID, id);
    }
}

/// A list of names as structured fields write it (RFC 8941).
fn list(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    format!("({})", quoted.join(" "))
}

/// A digest field (RFC 9530).
fn digest_field(sha256: &[u8]) -> String {
    format!("sha-256=:{}:", BASE64.encode(sha256))
}

/// The text that is signed (RFC 9421, section 2.5). None when a covered header has no one value.
fn base(
    status: u16,
    names: &[&str],
    input: &str,
    value: impl Fn(&str) -> Option<String>,
) -> Option<String> {
    let mut base = String::new();
    for name in names {
        let value = match *name {
            STATUS => status.to_string(),
            name => value(name)?,
        };
        let _ = writeln!(base, "\"{name}\": {value}");
    }
    let _ = write!(base, "\"@signature-params\": {input}");
    Some(base)
}

/// A path and query without the key of a link.
fn without_key(target: &str) -> String {
    let mut segments: Vec<&str> = target.splitn(6, '/').collect();
    let left_out;
    if let [_, kind, _, scheme, key, ..] = segments.as_mut_slice()
        && matches!(*kind, "sha384" | "sha256")
        && *scheme == "aes256"
    {
        left_out = match key.split_once('?') {
            Some((_, query)) => format!("-?{query}"),
            None => "-".to_owned(),
        };
        *key = &left_out;
    }
    segments.join("/")
}

/// Why an answer is not what a node signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file does not hold the head of an answer.
    #[error("these are not the headers of an HTTP answer: {0}")]
    Head(&'static str),
    /// There is no signature of a libernet node.
    #[error("the answer is not signed: it has no header {0} of a libernet node")]
    Unsigned(&'static str),
    /// The signature does not read as one.
    #[error("the signature can't be read: {0}")]
    Malformed(&'static str),
    /// Another node signed it.
    #[error("the answer was signed by {found}, not by {expected}")]
    Stranger {
        /// The node that signed.
        found: String,
        /// The node that should have.
        expected: String,
    },
    /// The signature does not fit the headers.
    #[error("the signature is wrong: the headers are not what the node signed")]
    Signature,
    /// The body is not the one of the digest or of the id.
    #[error("the body is not what the node signed: {0}")]
    Body(&'static str),
}

/// Relation of an answer's body to its signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BodyCheck {
    /// It has the digest that the node signed.
    Digest,
    /// It is the block whose id the node signed.
    Block,
    /// The node signed only where it is from; the bytes can't be checked.
    NotCovered,
}

/// Statement that a signature proves.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Verified {
    /// Peer id of the node that signed.
    pub key_id: String,
    /// When, in seconds since 1970, by that node's clock.
    pub created_s: u64,
    /// Status of the answer.
    pub status: u16,
    /// The path and query that were asked for, without the key of a link.
    pub path: String,
    /// Names of what is signed.
    pub covered: Vec<String>,
    /// Relation of the body to the signature.
    pub body: BodyCheck,
}

/// Checks a saved answer: `head` as `curl --dump-header` writes it, and the body. `expected` is the
/// peer id of the node that must have signed.
///
/// # Errors
/// [`Error`].
pub fn verify(head: &str, body: &[u8], expected: &str) -> Result<Verified, Error> {
    let head = Head::parse(head)?;
    let input = head.only(INPUT.as_str(), Error::Unsigned("Signature-Input"))?;
    let input = Input::parse(input)?;
    if input.key_id != expected {
        return Err(Error::Stranger {
            found: input.key_id,
            expected: expected.to_owned(),
        });
    }
    let signature = head.only(SIGNATURE.as_str(), Error::Unsigned("Signature"))?;
    let signature = member(signature)
        .and_then(bytes)
        .ok_or(Error::Malformed("it is not base64 between colons"))?;
    let names: Vec<&str> = input.names.iter().map(String::as_str).collect();
    let base = base(head.status, &names, &input.text, |name| head.value(name))
        .ok_or(Error::Malformed("a header that it covers is missing"))?;
    let key = public_key(&input.key_id).ok_or(Error::Malformed("the key id is no peer id"))?;
    if !key.verify(base.as_bytes(), &signature) {
        return Err(Error::Signature);
    }
    if !names.contains(&STATUS) || !names.contains(&PATH.as_str()) {
        return Err(Error::Malformed("it does not cover status and path"));
    }
    let path = head.value(PATH.as_str()).unwrap_or_default();
    let covered = |name: &HeaderName| {
        let is_covered = names.contains(&name.as_str());
        is_covered.then(|| head.value(name.as_str())).flatten()
    };
    let check = check_body(&head, covered(&DIGEST), covered(&ID), &path, body)?;
    Ok(Verified {
        key_id: input.key_id,
        created_s: input.created_s,
        status: head.status,
        path,
        covered: input.names,
        body: check,
    })
}

fn check_body(
    head: &Head,
    digest: Option<String>,
    id: Option<String>,
    path: &str,
    body: &[u8],
) -> Result<BodyCheck, Error> {
    if let Some(digest) = digest {
        if digest != digest_field(&hash::sha256(&[body])) {
            return Err(Error::Body("its SHA-256 is not the signed one"));
        }
        return Ok(BodyCheck::Digest);
    }
    let id = id.and_then(|id| id.parse::<BlockId>().ok());
    match id {
        // Part of a block can't be held against the id of the whole.
        Some(id) if head.status == 200 && names_block(path, &id) && !body.is_empty() => {
            if !hash::matches(&id, body) {
                return Err(Error::Body("it is not the block of the signed id"));
            }
            Ok(BodyCheck::Block)
        }
        _ => Ok(BodyCheck::NotCovered),
    }
}

/// Whether a path asks for this block as it is.
fn names_block(path: &str, id: &BlockId) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    let named = match content::parse(path) {
        Ok(Target::Block(named)) => Some(named),
        _ => ipfs::block_of(path),
    };
    named == Some(*id)
}

/// The public key that a peer id holds.
fn public_key(peer: &str) -> Option<PublicKey> {
    let peer: PeerId = peer.parse().ok()?;
    let hash = multihash::Multihash::<64>::from_bytes(&peer.to_bytes()).ok()?;
    // Code 0 is the identity: the digest is the key itself.
    if hash.code() != 0 {
        return None;
    }
    let key = PublicKey::try_decode_protobuf(hash.digest()).ok()?;
    (key.key_type() == libp2p::identity::KeyType::Ed25519).then_some(key)
}

/// The head of an answer.
#[derive(Debug)]
struct Head {
    status: u16,
    headers: Vec<(String, String)>,
}

impl Head {
    /// Reads the last head in a text that may hold several: of redirects, or of `100 Continue`.
    fn parse(text: &str) -> Result<Self, Error> {
        let lines: Vec<&str> = text
            .lines()
            .map(|line| line.trim_end_matches('\r'))
            .collect();
        let start = lines
            .iter()
            .rposition(|line| line.starts_with("HTTP/"))
            .ok_or(Error::Head("there is no status line"))?;
        let mut lines = lines.into_iter().skip(start);
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1)?.parse().ok())
            .ok_or(Error::Head("there is no status"))?;
        let mut headers = Vec::new();
        for line in lines.take_while(|line| !line.is_empty()) {
            let (name, value) = line
                .split_once(':')
                .ok_or(Error::Head("a line has no colon"))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(Self { status, headers })
    }

    /// All values of a header, as one (RFC 9421, section 2.1).
    fn value(&self, name: &str) -> Option<String> {
        let values: Vec<&str> = self
            .headers
            .iter()
            .filter(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
            .collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    /// The value of a header that is there once.
    fn only(&self, name: &str, missing: Error) -> Result<&str, Error> {
        let mut values = self.headers.iter().filter(|(found, _)| found == name);
        match (values.next(), values.next()) {
            (Some((_, value)), None) => Ok(value),
            (None, _) => Err(missing),
            _ => Err(Error::Malformed("there is more than one")),
        }
    }
}

/// The member of a dictionary that is ours, where it is the only one.
fn member(text: &str) -> Option<&str> {
    text.strip_prefix(LABEL)?.strip_prefix('=')
}

/// Bytes of a structured field.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let inner = text.strip_prefix(':')?.strip_suffix(':')?;
    BASE64.decode(inner.as_bytes()).ok()
}

/// A `Signature-Input` in the one form that nodes write: names without parameters, then `created`,
/// `keyid` and `alg`. The text is what was signed, byte for byte.
#[derive(Debug, PartialEq, Eq)]
struct Input {
    text: String,
    names: Vec<String>,
    created_s: u64,
    key_id: String,
}

impl Input {
    fn parse(text: &str) -> Result<Self, Error> {
        let malformed = Error::Malformed("it is not of the form that nodes write");
        let text = member(text).ok_or(Error::Unsigned("Signature-Input"))?;
        let fields = || {
            let (names, parameters) = text.strip_prefix('(')?.split_once(')')?;
            let names: Vec<String> = names
                .split(' ')
                .map(|name| Some(name.strip_prefix('"')?.strip_suffix('"')?.to_owned()))
                .collect::<Option<_>>()?;
            let (created, rest) = parameters
                .strip_prefix(";created=")?
                .split_once(";keyid=\"")?;
            let (key_id, rest) = rest.split_once('"')?;
            (rest == ";alg=\"ed25519\"").then_some(())?;
            let is_number = created.bytes().all(|b| b.is_ascii_digit());
            Some(Self {
                text: text.to_owned(),
                names,
                created_s: is_number.then(|| created.parse().ok()).flatten()?,
                key_id: key_id.to_owned(),
            })
        };
        let input: Self = fields().ok_or(malformed)?;
        let is_name = |name: &String| {
            let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            name == STATUS || (!name.is_empty() && name.bytes().all(is_plain))
        };
        let distinct: BTreeSet<&String> = input.names.iter().collect();
        if input.names.len() > MAX_FIELDS
            || distinct.len() != input.names.len()
            || !input.names.iter().all(is_name)
        {
            return Err(Error::Malformed("it covers what no node covers"));
        }
        Ok(input)
    }
}

/// The path and query of a request.
pub(super) fn target_of(uri: &axum::http::Uri) -> String {
    uri.path_and_query()
        .map_or_else(|| uri.path().to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::response::IntoResponse;
    use proptest::prelude::*;

    fn signer() -> Signer {
        let key = Keypair::ed25519_from_bytes([7; 32]).expect("a key");
        Signer::new(key)
    }

    fn saved(response: Response) -> (String, Body) {
        let (head, body) = response.into_parts();
        let mut text = format!("HTTP/1.1 {}\r\n", head.status);
        for (name, value) in &head.headers {
            let _ = write!(text, "{name}: {}\r\n", value.to_str().expect("text"));
        }
        (text + "\r\n", body)
    }

    async fn signed(target: &str, response: impl IntoResponse) -> (String, Vec<u8>) {
        let response = signer()
            .sign(target, false, 1_700_000_000, response.into_response())
            .await;
        let (head, body) = saved(response);
        let body = body.collect().await.expect("in memory").to_bytes();
        (head, body.to_vec())
    }

    #[tokio::test]
    async fn what_was_signed_is_verified_and_nothing_else() {
        let (head, body) = signed("/sha384/00?x=1", "content").await;
        let by = signer().id;
        let found = verify(&head, &body, &by).expect("right");
        assert_eq!(
            (
                found.created_s,
                found.status,
                found.path.as_str(),
                found.body
            ),
            (1_700_000_000, 200, "/sha384/00?x=1", BodyCheck::Digest)
        );
        assert_eq!(found.key_id, by);
        assert_eq!(
            found.covered,
            ["@status", "libernet-path", "content-digest", "content-type"]
        );
        // As curl writes it, behind another head, with headers that nobody signed.
        let behind = format!("HTTP/1.1 100 Continue\r\n\r\n{head}")
            .replace("\r\n\r\nHTTP", "\r\ndate: x\r\n\r\nHTTP");
        assert!(verify(&behind, &body, &by).is_ok());
        assert!(verify(&head.replace("\r\n", "\n"), &body, &by).is_ok());
        assert_eq!(
            verify(&head, b"Content", &by),
            Err(Error::Body("its SHA-256 is not the signed one"))
        );
        let other = Keypair::generate_ed25519()
            .public()
            .to_peer_id()
            .to_string();
        assert!(matches!(
            verify(&head, &body, &other),
            Err(Error::Stranger { .. })
        ));
        for (from, to) in [
            ("HTTP/1.1 200", "HTTP/1.1 404"),
            ("?x=1", "?x=2"),
            ("text/plain", "text/html!"),
            ("created=17", "created=18"),
            ("\"@status\" ", ""),
        ] {
            let changed = head.replace(from, to);
            assert_ne!(changed, head, "{from}");
            assert_eq!(
                verify(&changed, &body, &by),
                Err(Error::Signature),
                "{from}"
            );
        }
        for (from, to) in [
            ("libernet-path: ", "other: "),
            ("alg=\"ed25519\"", "alg=\"none\""),
            ("signature: libernet=:", "signature: libernet=;"),
            ("\"@status\" ", "\"@status\" \"@status\" "),
            ("\"@status\" ", "\"@status\";req "),
        ] {
            let changed = head.replace(from, to);
            let refused = verify(&changed, &body, &by);
            assert!(
                matches!(refused, Err(Error::Malformed(_))),
                "{from} {refused:?}"
            );
        }
        for name in ["signature: ", "signature-input: "] {
            let changed = head.replace(name, "x-gone: ");
            let refused = verify(&changed, &body, &by);
            assert!(
                matches!(refused, Err(Error::Unsigned(_))),
                "{name} {refused:?}"
            );
        }
        assert!(matches!(verify("", b"", &by), Err(Error::Head(_))));
    }

    /// A stream has no digest; of a whole block its id is one.
    #[tokio::test]
    async fn streams_sign_the_id() {
        let bytes = b"a block's bytes".to_vec();
        let id = hash::sha384_id(&bytes);
        let stream = |bytes: Vec<u8>| {
            let items = futures::stream::iter([Ok::<_, std::io::Error>(bytes)]);
            ([(ID, id.to_string())], Body::from_stream(items))
        };
        let by = signer().id;
        let (head, body) = signed(&id.to_path(), stream(bytes.clone())).await;
        assert!(!head.contains("content-digest"), "{head}");
        let found = verify(&head, &body, &by).expect("right");
        assert_eq!(found.body, BodyCheck::Block);
        assert!(matches!(verify(&head, b"other", &by), Err(Error::Body(_))));
        let cid = format!("/ipfs/{}?format=raw", id.to_cid_as(0x70));
        let (head, body) = signed(&cid, stream(bytes.clone())).await;
        let found = verify(&head, &body, &by).expect("right");
        assert_eq!(found.body, BodyCheck::Block);
        // A file of a bundle: the id says only which bundle.
        let file = format!("{}/aes256/{}/f", id.to_path(), "a5".repeat(32));
        let (head, body) = signed(&file, stream(bytes)).await;
        assert!(!head.contains("a5a5"), "the key stays out: {head}");
        let found = verify(&head, &body, &by).expect("right");
        assert_eq!(found.body, BodyCheck::NotCovered);
        assert_eq!(found.path, format!("{}/aes256/-/f", id.to_path()));
    }

    #[test]
    fn keys_are_left_out_of_paths() {
        for (target, path) in [
            ("/sha384/00/aes256/11", "/sha384/00/aes256/-"),
            ("/sha256/00/aes256/11?skip=1", "/sha256/00/aes256/-?skip=1"),
            ("/sha384/00/aes256/11/a/b?x", "/sha384/00/aes256/-/a/b?x"),
            ("/open/00/aes256/11/a", "/open/00/aes256/11/a"),
            ("/", "/"),
        ] {
            assert_eq!(without_key(target), path);
        }
    }

    /// The example of RFC 9421, B.2.6, as far as it is of our form: the base is built as there.
    #[test]
    fn the_base_is_that_of_the_standard() {
        let input =
            "(\"date\" \"@status\" \"content-type\");created=1618884473;keyid=\"test-key-ed25519\"";
        let value = |name: &str| {
            let value = match name {
                "date" => "Tue, 20 Apr 2021 02:07:55 GMT",
                _ => "application/json",
            };
            Some(value.to_owned())
        };
        let names = ["date", "@status", "content-type"];
        assert_eq!(
            base(200, &names, input, value).expect("all are there"),
            "\"date\": Tue, 20 Apr 2021 02:07:55 GMT\n\"@status\": 200\n\"content-type\": application/json\n\
             \"@signature-params\": (\"date\" \"@status\" \"content-type\");created=1618884473;keyid=\"test-key-ed25519\""
        );
        assert_eq!(list(&names), "(\"date\" \"@status\" \"content-type\")");
        // RFC 9530, appendix D.1.
        let body = b"{\"hello\": \"world\"}";
        assert_eq!(
            digest_field(&hash::sha256(&[body])),
            "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"
        );
    }

    proptest! {
        #[test]
        fn any_head_gives_an_answer(text in "(HTTP/1.1 200\r\n)?(signature-input: libernet=[^\r]{0,40}\r\n)?.{0,60}") {
            prop_assert!(verify(&text, b"", "12D3").is_err());
            let _ = Input::parse(&text);
        }
    }
}
