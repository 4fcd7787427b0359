//! The server in front of a scripted node, over real sockets and without.
//!
//! A gateway holds any `Client`, so the node behind it here is a small server that speaks the API with canned answers: what is
//! tested is both ends of the API and everything between.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path as UrlPath, Query};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::IntoResponse;
use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures::{StreamExt, TryStreamExt};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame as BodyFrame;
use hyper::service::Service as _;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::*;
use crate::block::{Attempt, Link, Tried};
use crate::client::frame::{ERROR_TRAILER, Frame, error_to_trailer};
use crate::crypto::key::Key;
use crate::id::BlockId;
use crate::monitor::{Monitor, Progress, Silent};
use crate::node::api::*;

const HTML: &str = "<script>alert(1)</script>";

fn link() -> Link {
    Link {
        id: BlockId::from_sha384([0x5a; 48]),
        key: Key::new([0xa5; 32]),
    }
}

fn not_found() -> CallError {
    let mut error = CallError::new(ErrorKind::NotFound, "block is nowhere").with_hint("wait");
    error.block = Some(link().id);
    error.tried = vec![Tried {
        peer: "12D3".to_owned(),
        attempt: Attempt::DontHave,
    }];
    error
}

fn entry(name: &str, kind: &str, bytes: u64) -> Value {
    json!({ "name": name, "kind": kind, "bytes": bytes, "mode": 0o644, "mtime_s": 0 })
}

/// The files of the scripted bundle.
fn file(path: &str) -> Option<&'static [u8]> {
    match path {
        "ten.txt" => Some(b"0123456789"),
        "page.html" | "sub/page.html" => Some(HTML.as_bytes()),
        "doc.pdf" => Some(b"pdf"),
        "empty" => Some(b""),
        "broken" | "nowhere" => Some(b"0123456789"),
        _ => None,
    }
}

fn listing(path: &str, index: Option<&str>) -> Result<Value, CallError> {
    let (this, entries) = match path {
        "" => (
            entry("", "dir", 0),
            vec![entry("sub", "dir", 0), entry("ten.txt", "file", 10)],
        ),
        "sub" | "other" => (entry(path, "dir", 0), vec![]),
        "link" => (
            json!({ "name": "link", "kind": "symlink", "bytes": 0, "mode": 0, "mtime_s": 0, "target": "sub/page.html" }),
            vec![],
        ),
        "away" => (
            json!({ "name": "away", "kind": "symlink", "bytes": 0, "mode": 0, "mtime_s": 0, "target": "/etc/passwd" }),
            vec![],
        ),
        path => match file(path) {
            Some(bytes) => (
                entry(
                    path.rsplit('/').next().expect("a part"),
                    "file",
                    bytes.len() as u64,
                ),
                vec![],
            ),
            None => {
                return Err(CallError::new(
                    ErrorKind::Usage,
                    format!("there is no '{path}'"),
                ));
            }
        },
    };
    Ok(json!({ "this": this, "index_file": index, "entries": entries, "more": false }))
}

/// A node with canned answers.
#[derive(Clone)]
struct Scripted {
    token: Token,
    index: Option<&'static str>,
    /// Told when a call that never ends has begun, and when it was dropped.
    begun: Arc<Notify>,
    dropped: Arc<Notify>,
}

struct TellOnDrop(Arc<Notify>);

impl Drop for TellOnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

fn lines(frames: &[Frame<Value>]) -> Response {
    let mut text = Vec::new();
    for frame in frames {
        text.extend_from_slice(&frame.to_line().expect("short"));
    }
    text.into_response()
}

fn result(result: Result<Value, CallError>) -> Response {
    lines(&[result.map_or_else(Frame::Error, Frame::Done)])
}

impl Scripted {
    async fn answer(self, name: String, query: Option<String>, body: Body) -> Response {
        let body = body.collect().await.expect("sent").to_bytes();
        let call: Value = serde_json::from_slice(&body).unwrap_or_default();
        let path = call["path"].as_str().unwrap_or_default().to_owned();
        match name.as_str() {
            "ls" => result(listing(&path, self.index)),
            "put" => lines(&[
                Frame::Warning("one file".to_owned()),
                Frame::Progress(Progress {
                    files: 3,
                    ..Progress::default()
                }),
                Frame::Error(CallError::new(ErrorKind::Full, "no room").with_hint("make some")),
            ]),
            "put-stream" => result(Ok(json!({
                "link": link(), "id": link().id, "bytes": body.len(), "files": 1, "blocks": 1, "new_bytes": 0,
                "unreadable": [{ "path": query, "reason": "" }], "announced_to": 0,
            }))),
            "block-put" => result(Ok(
                json!({ "id": link().id, "hex": "", "bytes": body.len() }),
            )),
            "block-stat" => result(Ok(json!({
                "id": link().id, "local": true, "bytes": 10, "pins": 0, "requested": {"count": 0},
                "downloaded": {"count": 0}, "served": {"count": 0}, "purged": {"count": 0},
            }))),
            "block-ls" => result(Ok(
                json!({ "blocks": [{ "id": call["like"], "bytes": 7 }], "more": false }),
            )),
            "block-get" if call["id"] == json!(link().id) => {
                Bytes::from_static(b"0123456789").into_response()
            }
            "block-get" => error::of_call(&not_found()),
            "cat" if path == "nowhere" => error::of_call(&not_found()),
            "cat" => {
                let all = file(&path).expect("a file");
                let offset = call["offset"].as_u64().expect("a number") as usize;
                let len = call["len"]
                    .as_u64()
                    .map_or(all.len() - offset, |len| len as usize);
                let bytes = Bytes::from_static(all).slice(offset..offset + len);
                if path == "broken" {
                    broken(bytes)
                } else {
                    bytes.into_response()
                }
            }
            "get" => {
                let guard = TellOnDrop(self.dropped.clone());
                self.begun.notify_one();
                let stream = futures::stream::once(async move {
                    let _guard = guard;
                    std::future::pending::<Result<Bytes, Infallible>>().await
                });
                Body::from_stream(stream).into_response()
            }
            other => result(Err(CallError::new(
                ErrorKind::Failed,
                format!("{other} is not in the script"),
            ))),
        }
    }

    /// Starts it and gives a client of it.
    async fn client(&self) -> Client {
        let (prover, answerer) = (self.token.clone(), self.clone());
        let hello = get(async move |Query(query): Query<Value>| {
            let nonce = query["nonce"].as_str().expect("a nonce");
            let nonce = HEXLOWER.decode(nonce.as_bytes()).expect("hex");
            axum::Json(json!({ "proof": HEXLOWER.encode(&prover.prove(&nonce)) }))
        });
        let call = post(
            async move |UrlPath(name): UrlPath<String>, request: Request| {
                let query = request.uri().query().map(str::to_owned);
                answerer.answer(name, query, request.into_body()).await
            },
        );
        let router = Router::new()
            .route("/api/v1/hello", hello)
            .route("/api/v1/{call}", call)
            .layer(DefaultBodyLimit::disable());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move { axum::serve(listener, router).await });
        let file = ApiFile::new(address, self.token.clone());
        Client::remote(&file)
            .await
            .expect("answers")
            .expect("proves")
    }
}

/// Half of the bytes, then an error behind them.
fn broken(bytes: Bytes) -> Response {
    let mut trailers = HeaderMap::new();
    let value = error_to_trailer(&not_found());
    trailers.insert(ERROR_TRAILER, HeaderValue::try_from(value).expect("valid"));
    let frames = [
        BodyFrame::data(bytes.slice(..bytes.len() / 2)),
        BodyFrame::trailers(trailers),
    ];
    let stream = futures::stream::iter(frames).map(Ok::<_, Infallible>);
    let mut response = Body::new(StreamBody::new(stream)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::TRAILER, HeaderValue::from_static(ERROR_TRAILER));
    response
}

struct Fixture {
    scripted: Scripted,
    shared: Shared,
    stop: CancellationToken,
}

impl Fixture {
    async fn new(index: Option<&'static str>) -> Self {
        let scripted = Scripted {
            token: Token::random(),
            index,
            begun: Arc::default(),
            dropped: Arc::default(),
        };
        let stop = CancellationToken::new();
        let shared = Shared {
            client: scripted.client().await,
            options: Arc::new(Options {
                token: Token::random(),
                timeout_s: 1,
            }),
            address: ([127, 0, 0, 1], 4385).into(),
            stop: stop.clone(),
            calls: Arc::new(Semaphore::new(MAX_CALLS)),
            reads: Arc::new(Semaphore::new(MAX_READS)),
        };
        Self {
            scripted,
            shared,
            stop,
        }
    }

    /// One request without a socket.
    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "localhost:4385");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).expect("valid");
        let service = TowerToHyperService::new(routes(self.shared.clone()));
        let response = service.call(request).await.expect("never fails");
        let (head, body) = response.into_parts();
        Answer {
            status: head.status,
            headers: head.headers,
            body: body.collect().await.map(|body| body.to_bytes()).ok(),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[]).await
    }

    /// Serves on a socket; gives a client of it.
    async fn serve(&self) -> (Client, tokio::task::JoinHandle<()>) {
        let gateway = Gateway::bind(([127, 0, 0, 1], 0).into())
            .await
            .expect("a port");
        let dir = tempfile::tempdir().expect("a directory");
        let options = Options {
            token: Token::random(),
            timeout_s: 1,
        };
        let _published = gateway
            .publish(dir.path(), &options.token)
            .expect("written");
        let server =
            tokio::spawn(gateway.serve(self.shared.client.clone(), options, self.stop.clone()));
        let client = Client::running(dir.path()).await.expect("answers");
        (client.expect("proves"), server)
    }
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    /// `None` when it broke off.
    body: Option<Bytes>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    fn text(&self) -> String {
        String::from_utf8(self.body.clone().expect("whole").to_vec()).expect("text")
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.text()).expect("json")
    }
}

#[derive(Default)]
struct Heard(std::sync::Mutex<(Vec<String>, u64)>);

impl Monitor for Heard {
    fn progress(&self, progress: Progress) {
        self.0.lock().expect("not poisoned").1 = progress.files;
    }
    fn warning(&self, message: &str) {
        self.0
            .lock()
            .expect("not poisoned")
            .0
            .push(message.to_owned());
    }
}

fn put_request() -> Put {
    Put {
        path: "/x".into(),
        name: None,
        index_file: None,
        pin: true,
        announce: true,
    }
}

fn cat_request(path: &str) -> Cat {
    Cat {
        link: link(),
        path: path.to_owned(),
        offset: 2,
        len: Some(6),
        timeout_s: 1,
    }
}

#[tokio::test]
async fn what_must_not_come_in_is_turned_away() {
    let fixture = Fixture::new(None).await;
    let block = link().id.to_path();
    for (method, path, headers, status) in [
        ("GET", "/", &[("host", "example.org:4385")][..], 421),
        ("GET", block.as_str(), &[("host", "localhost:80")], 421),
        ("GET", &block, &[("origin", "http://example.org")], 403),
        (
            "GET",
            &block,
            &[
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-mode", "no-cors"),
            ],
            403,
        ),
        ("POST", "/api/v1/status", &[("origin", "null")], 403),
        ("POST", "/api/v1/status", &[], 401),
        (
            "POST",
            "/api/v1/status",
            &[("authorization", "Bearer 00")],
            401,
        ),
        ("POST", "/api/v1/nothing", &[], 401),
        ("GET", "/api/v1/status", &[], 405),
        ("DELETE", &block, &[], 405),
        ("GET", "/nothing", &[], 404),
        ("GET", "/sha384/00", &[], 404),
        ("GET", "/sha512/00", &[], 404),
    ] {
        let answer = fixture.send(method, path, headers).await;
        assert_eq!(
            answer.status.as_u16(),
            status,
            "{method} {path} {headers:?}"
        );
        assert!(
            answer.json()["error"]["message"].is_string(),
            "{method} {path}"
        );
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("referrer-policy"), "no-referrer");
        assert!(
            answer
                .header("content-security-policy")
                .contains("default-src 'none'")
        );
        assert!(!answer.headers.contains_key("access-control-allow-origin"));
    }
}

#[tokio::test]
async fn blocks_by_url() {
    let fixture = Fixture::new(None).await;
    let path = link().id.to_path();
    let whole = fixture.get(&path).await;
    assert_eq!(
        (whole.status.as_u16(), whole.text().as_str()),
        (200, "0123456789")
    );
    assert_eq!(whole.header("content-type"), "application/octet-stream");
    assert!(whole.header("cache-control").contains("immutable"));
    let etag = whole.header("etag").to_owned();
    assert_eq!(etag, format!("\"{}\"", link().id.to_hex()));

    let known = fixture
        .send("GET", &path, &[("if-none-match", &etag)])
        .await;
    assert_eq!((known.status.as_u16(), known.text().as_str()), (304, ""));
    let head = fixture.send("HEAD", &path, &[]).await;
    assert_eq!(
        (
            head.status.as_u16(),
            head.header("content-length"),
            head.text().as_str()
        ),
        (200, "10", "")
    );
    let part = fixture.send("GET", &path, &[("range", "bytes=2-4")]).await;
    assert_eq!((part.status.as_u16(), part.text().as_str()), (206, "234"));
    assert_eq!(part.header("content-range"), "bytes 2-4/10");
    let beyond = fixture.send("GET", &path, &[("range", "bytes=10-")]).await;
    assert_eq!(
        (beyond.status.as_u16(), beyond.header("content-range")),
        (416, "bytes */10")
    );

    let nowhere = BlockId::from_sha256([1; 32]).to_path();
    let missing = fixture.get(&nowhere).await;
    assert_eq!(missing.status.as_u16(), 504);
    let error = missing.json()["error"].clone();
    assert_eq!(
        (&error["hint"], &error["tried"][0]["peer"]),
        (&json!("wait"), &json!("12D3"))
    );
    let person = fixture
        .send("GET", &nowhere, &[("accept", "text/html")])
        .await;
    assert!(
        person.text().contains("does not have it"),
        "{}",
        person.text()
    );

    let like = fixture.get(&format!("{path}/like")).await.json();
    assert_eq!(
        (&like["prefix"], &like["blocks"][0]["path"]),
        (&json!("5a5a"), &json!(path))
    );
}

#[tokio::test]
async fn content_by_url() {
    let fixture = Fixture::new(None).await;
    let root = link().to_path();
    let no_slash = fixture.get(&root).await;
    assert_eq!(
        (no_slash.status.as_u16(), no_slash.header("location")),
        (308, format!("{root}/").as_str())
    );
    let listing = fixture.get(&format!("{root}/")).await;
    assert!(
        listing.text().contains("href=\"./ten.txt\""),
        "{}",
        listing.text()
    );

    let page = fixture.get(&format!("{root}/page.html")).await;
    assert_eq!(
        (page.text().as_str(), page.header("content-type")),
        (HTML, "text/html; charset=utf-8")
    );
    let policy = page.header("content-security-policy");
    assert!(
        policy.contains("script-src 'none'") && policy.contains("sandbox"),
        "{policy}"
    );
    assert!(
        !policy.contains("allow-scripts") && !policy.contains("allow-forms"),
        "{policy}"
    );
    assert!(page.header("cache-control").starts_with("private"));
    assert!(
        !fixture
            .get(&format!("{root}/doc.pdf"))
            .await
            .header("content-security-policy")
            .contains("sandbox")
    );

    let etag = page.header("etag");
    let known = fixture
        .send(
            "GET",
            &format!("{root}/page.html"),
            &[("if-none-match", etag)],
        )
        .await;
    assert_eq!(known.status.as_u16(), 304);
    let part = fixture
        .send("GET", &format!("{root}/ten.txt"), &[("range", "bytes=-3")])
        .await;
    assert_eq!(
        (
            part.status.as_u16(),
            part.text().as_str(),
            part.header("content-length")
        ),
        (206, "789", "3")
    );
    let head = fixture.send("HEAD", &format!("{root}/ten.txt"), &[]).await;
    assert_eq!(
        (head.header("content-length"), head.text().as_str()),
        ("10", "")
    );
    let empty = fixture.get(&format!("{root}/empty")).await;
    assert_eq!(
        (empty.status.as_u16(), empty.header("content-length")),
        (200, "0")
    );

    let symlink = fixture.get(&format!("{root}/link")).await;
    assert_eq!(
        (symlink.status.as_u16(), symlink.header("location")),
        (307, format!("{root}/sub/page.html").as_str())
    );
    assert_eq!(
        fixture.get(&format!("{root}/away")).await.status.as_u16(),
        404
    );
    assert_eq!(
        fixture
            .get(&format!("{root}/nothing"))
            .await
            .status
            .as_u16(),
        404
    );
    assert_eq!(
        fixture
            .get(&format!("{root}/nowhere"))
            .await
            .status
            .as_u16(),
        504
    );
    // What fails later can only break off: the length that was promised never comes.
    assert_eq!(fixture.get(&format!("{root}/broken")).await.body, None);
}

#[tokio::test]
async fn index_files() {
    let root = link().to_path();
    let fixture = Fixture::new(Some("page.html")).await;
    assert_eq!(fixture.get(&format!("{root}/")).await.text(), HTML);
    assert_eq!(fixture.get(&format!("{root}/sub/")).await.text(), HTML);
    assert!(
        fixture
            .get(&format!("{root}/other/"))
            .await
            .text()
            .contains("<h1>other</h1>")
    );
    let nested = Fixture::new(Some("sub/page.html")).await;
    let answer = nested.get(&format!("{root}/")).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("location")),
        (307, format!("{root}/sub/page.html").as_str())
    );
}

#[tokio::test]
async fn busy_servers_say_so() {
    let fixture = Fixture::new(None).await;
    let _all = fixture
        .shared
        .reads
        .clone()
        .try_acquire_many_owned(MAX_READS as u32)
        .expect("free");
    assert_eq!(fixture.get(&link().id.to_path()).await.status.as_u16(), 503);
    drop(_all);
    assert_eq!(fixture.get(&link().id.to_path()).await.status.as_u16(), 200);
    assert_eq!(
        fixture.shared.reads.available_permits(),
        MAX_READS,
        "slots come back"
    );
}

#[tokio::test]
async fn calls_travel_with_progress_warnings_and_errors() {
    let fixture = Fixture::new(None).await;
    let (client, server) = fixture.serve().await;
    let heard = Arc::new(Heard::default());
    let error = client
        .put(put_request(), heard.clone())
        .await
        .expect_err("scripted");
    assert_eq!(
        (error.kind, error.hint.as_deref()),
        (ErrorKind::Full, Some("make some"))
    );
    assert_eq!(
        *heard.0.lock().expect("not poisoned"),
        (vec!["one file".to_owned()], 3)
    );

    let ls = |path: &str| Ls {
        link: link(),
        path: path.to_owned(),
        skip: 0,
        limit: 9,
        timeout_s: 1,
    };
    assert_eq!(client.ls(ls("")).await.expect("listed").entries.len(), 2);
    assert_eq!(
        client.ls(ls("nothing")).await.expect_err("none").kind,
        ErrorKind::Usage
    );
    fixture.stop.cancel();
    server.await.expect("stopped");
}

#[tokio::test]
async fn bytes_travel_in_both_directions() {
    let fixture = Fixture::new(None).await;
    let (client, _server) = fixture.serve().await;
    let bytes: Vec<Bytes> = client
        .cat(cat_request("ten.txt"))
        .await
        .expect("opened")
        .try_collect()
        .await
        .expect("whole");
    assert_eq!(bytes.concat(), b"234567");
    let error = client
        .cat(cat_request("nowhere"))
        .await
        .err()
        .expect("before the first byte");
    assert_eq!(error, not_found());
    let mut stream = client.cat(cat_request("broken")).await.expect("opened");
    assert_eq!(stream.next().await.expect("some").expect("bytes"), "234");
    assert_eq!(
        stream.next().await.expect("more").expect_err("broken"),
        not_found()
    );
    assert!(stream.next().await.is_none());

    let id = link().id;
    let block = client
        .block_get(BlockGet { id, timeout_s: 1 })
        .await
        .expect("there");
    assert_eq!(block, "0123456789");
    let largest = Bytes::from(vec![7; crate::block::MAX_BLOCK_BYTES]);
    assert_eq!(
        client.block_put(largest.clone()).await.expect("fits").bytes,
        largest.len() as u64
    );
    let over = Bytes::from(vec![7; crate::block::MAX_BLOCK_BYTES + 1]);
    let error = client.block_put(over).await.expect_err("too large");
    assert_eq!(error.kind, ErrorKind::Usage);
    assert!(error.message.contains("2097152"), "{error}");

    let pieces = futures::stream::iter((0..100).map(|_| Ok(Bytes::from(vec![1; 100_000]))));
    let stream = PutStream {
        name: "a name&".to_owned(),
        pin: false,
        announce: true,
    };
    let reply = client
        .put_stream(stream.clone(), pieces.boxed(), Arc::new(Silent))
        .await
        .expect("sent");
    assert_eq!(
        (reply.bytes, reply.unreadable[0].path.as_str()),
        (10_000_000, "name=a%20name%26&pin=false&announce=true")
    );
    let failing = futures::stream::iter([
        Ok(Bytes::from_static(b"x")),
        Err(std::io::Error::other("unplugged")),
    ]);
    let error = client
        .put_stream(stream, failing.boxed(), Arc::new(Silent))
        .await
        .expect_err("unplugged");
    assert!(error.message.contains("unplugged"), "{error}");
}

fn get_request() -> Get {
    Get {
        link: link(),
        path: String::new(),
        output: None,
        directory: "/".into(),
        overwrite: Overwrite::Never,
        owners: false,
        pin: false,
        timeout_s: 1,
    }
}

#[tokio::test]
async fn dropping_a_call_drops_the_work_behind_it() {
    let fixture = Fixture::new(None).await;
    let (client, _server) = fixture.serve().await;
    let begun = fixture.scripted.begun.clone();
    let call = tokio::spawn(async move { client.get(get_request(), Arc::new(Silent)).await });
    begun.notified().await;
    call.abort();
    tokio::time::timeout(Duration::from_secs(10), fixture.scripted.dropped.notified())
        .await
        .expect("the node's work is dropped");
}

#[tokio::test]
async fn stopping_ends_calls_with_an_error_and_soon() {
    let fixture = Fixture::new(None).await;
    let (client, server) = fixture.serve().await;
    let call = tokio::spawn(async move { client.get(get_request(), Arc::new(Silent)).await });
    fixture.scripted.begun.notified().await;
    fixture.stop.cancel();
    tokio::time::timeout(Duration::from_secs(2), server)
        .await
        .expect("soon")
        .expect("stopped");
    let error = call.await.expect("joined").expect_err("stopped");
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.message.contains("stopping"), "{error}");
}

#[tokio::test]
async fn wrong_requests_are_told_what_is_wrong_without_repeating_them() {
    let fixture = Fixture::new(None).await;
    let gateway = Gateway::bind(([127, 0, 0, 1], 0).into())
        .await
        .expect("a port");
    let address = gateway.address;
    let options = Options {
        token: Token::random(),
        timeout_s: 1,
    };
    let token = serde_json::to_value(&options.token).expect("json");
    let authorization = format!("Bearer {}", token.as_str().expect("text"));
    tokio::spawn(gateway.serve(fixture.shared.client.clone(), options, fixture.stop.clone()));
    let send = async |call: &str, body: Vec<u8>| -> (u16, String) {
        let stream = TcpStream::connect(address).await.expect("connected");
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .expect("http");
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method("POST")
            .uri(format!("/api/v1/{call}"))
            .header("host", address.to_string())
            .header("authorization", &authorization)
            .body(Body::from(body))
            .expect("valid");
        let response = sender.send_request(request).await.expect("answered");
        let status = response.status().as_u16();
        let body = response
            .into_body()
            .collect()
            .await
            .expect("whole")
            .to_bytes();
        driver.abort();
        (status, String::from_utf8(body.to_vec()).expect("text"))
    };
    let (status, text) = send("cat", b"{\"link\":\"libernet:secret\"}".to_vec()).await;
    assert!(status == 400 && !text.contains("secret"), "{status} {text}");
    let (status, text) = send("cat", vec![b' '; (1 << 20) + 1]).await;
    assert!(status == 400 && text.contains("1048576"), "{status} {text}");
    assert_eq!(send("nothing", Vec::new()).await.0, 404);
    assert_eq!(send("put-stream", Vec::new()).await.0, 400);
    assert_eq!(send("put-stream?name=x&pin=maybe", Vec::new()).await.0, 400);
    assert_eq!(send("put-stream?name=x", Vec::new()).await.0, 200);
    assert_eq!(
        send(&format!("put-stream?name={}", "x".repeat(256)), Vec::new())
            .await
            .0,
        400
    );
}

#[tokio::test]
async fn addresses_that_cannot_be_used_are_named() {
    let taken = Gateway::bind(([127, 0, 0, 1], 0).into())
        .await
        .expect("a port");
    let error = Gateway::bind(taken.address).await.expect_err("taken");
    assert!(
        matches!(&error, Error::InUse(address) if *address == taken.address),
        "{error}"
    );
    let error = Gateway::bind(([192, 0, 2, 1], 0).into())
        .await
        .expect_err("not loopback");
    assert!(matches!(error, Error::NotLoopback(_)), "{error}");
}
