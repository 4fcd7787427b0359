//! The server in front of a scripted node, over real sockets and without.
//!
//! A gateway holds any `Client`, so the node behind it here is a small server that speaks the API with canned answers: what is
//! tested is both ends of the API and everything between.

mod calls;
mod ipfs;
mod origins;
mod signed;
mod sockets;
mod urls;
mod waits;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
        key: Key::new([0xb7; 32]),
    }
}

fn signer() -> sign::Signer {
    let key = libp2p::identity::Keypair::ed25519_from_bytes([7; 32]);
    sign::Signer::new(key.expect("a key"))
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
        "README" => Some(b"read me"),
        "picture" => Some(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"),
        "broken.txt" | "nowhere" => Some(b"0123456789"),
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
    // Where the one symlink inside leads.
    let real = match path {
        "link" => "sub/page.html",
        path => path,
    };
    Ok(
        json!({ "real": real, "this": this, "index_file": index, "entries": entries, "more": false }),
    )
}

/// A node with canned answers.
#[derive(Clone)]
struct Scripted {
    token: Token,
    index: Option<&'static str>,
    /// Told when a call that never ends has begun, and when it was dropped.
    begun: Arc<Notify>,
    dropped: Arc<Notify>,
    /// Whether the block that nobody has is here after all, and how often it was asked for.
    has_come: Arc<AtomicBool>,
    gets: Arc<AtomicUsize>,
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
        let path = match &call["path"] {
            Value::String(path) => path.clone(),
            Value::Null => String::new(),
            // Its bytes are no text.
            _ => "?".to_owned(),
        };
        match name.as_str() {
            // It leads out of the bundle.
            "ls" if path == "away" && call["follow"] == true => {
                result(Err(CallError::new(ErrorKind::Usage, "there is no 'away'")))
            }
            "ls" if call["link"] != json!(link()) => {
                result(Err(CallError::new(ErrorKind::Damaged, "the key is wrong")))
            }
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
            "block-put" if query.is_some_and(|query| !query.contains(&link().id.to_string())) => {
                result(Err(CallError::new(
                    ErrorKind::Damaged,
                    "the bytes are not the block",
                )))
            }
            "block-put" => result(Ok(
                json!({ "id": link().id, "hex": "", "bytes": body.len() }),
            )),
            "block-has" => result(Ok(json!({ "id": call["id"], "has": body.is_empty() }))),
            "block-stat" => result(Ok(json!({
                "id": link().id, "local": call["id"] == json!(link().id), "bytes": 10, "pins": 0, "requested": {"count": 0},
                "downloaded": {"count": 0}, "served": {"count": 0}, "purged": {"count": 0},
            }))),
            "block-ls" => result(Ok(
                json!({ "blocks": [{ "id": call["like"], "bytes": 7 }], "more": false }),
            )),
            "block-get" if call["id"] == json!(link().id) => {
                Bytes::from_static(b"0123456789").into_response()
            }
            "block-get" => {
                self.gets.fetch_add(1, Ordering::Relaxed);
                match self.has_come.load(Ordering::Relaxed) {
                    true => Bytes::from_static(b"it came").into_response(),
                    false => error::of_call(&not_found()),
                }
            }
            "cat" if path == "nowhere" => error::of_call(&not_found()),
            "cat" => {
                let all = file(&path).expect("a file");
                let offset = call["offset"].as_u64().expect("a number") as usize;
                let rest = all.len() - offset;
                let len = call["len"]
                    .as_u64()
                    .map_or(rest, |len| rest.min(len as usize));
                let bytes = Bytes::from_static(all).slice(offset..offset + len);
                if path == "broken.txt" && offset == 0 && len < all.len() {
                    // The first of several parts.
                    bytes.into_response()
                } else if path == "broken.txt" {
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
            has_come: Arc::default(),
            gets: Arc::default(),
        };
        let stop = CancellationToken::new();
        let shared = Shared {
            client: scripted.client().await,
            options: Arc::new(Options {
                token: Token::random(),
                timeout_s: 1,
                signer: Some(signer()),
                data_dir: None,
            }),
            address: ([127, 0, 0, 1], 4385).into(),
            stop: stop.clone(),
            calls: Arc::new(Semaphore::new(MAX_CALLS)),
            reads: reads::Reads::default(),
            labels: Arc::new(Labels::new()),
            searches: waiting::Searches::default(),
            sessions: session::Sessions::default(),
            series: series::Series::default(),
            jobs: jobs::Jobs::default(),
            listeners: events::Listeners::default(),
            answers: metrics::Answers::default(),
        };
        Self {
            scripted,
            shared,
            stop,
        }
    }

    /// One request without a socket.
    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send_body(method, path, headers, Body::empty()).await
    }

    async fn send_body(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "localhost:4385");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body).expect("valid");
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
        let (client, server, _) = self.serve_at().await;
        (client, server)
    }

    /// As [`serve`](Self::serve), and where it listens.
    async fn serve_at(&self) -> (Client, tokio::task::JoinHandle<()>, SocketAddr) {
        let gateway = Gateway::bind(([127, 0, 0, 1], 0).into())
            .await
            .expect("a port");
        let dir = tempfile::tempdir().expect("a directory");
        let address = gateway.address;
        let options = Options {
            token: Token::random(),
            timeout_s: 1,
            signer: None,
            data_dir: None,
        };
        let _published = gateway
            .publish(dir.path(), &options.token)
            .expect("written");
        let server =
            tokio::spawn(gateway.serve(self.shared.client.clone(), options, self.stop.clone()));
        let client = Client::running(dir.path()).await.expect("answers");
        (client.expect("proves"), server, address)
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
        assert_eq!(answer.header("cross-origin-opener-policy"), "same-origin");
        assert!(
            answer
                .header("content-security-policy")
                .contains("default-src 'none'")
        );
        assert!(!answer.headers.contains_key("access-control-allow-origin"));
    }
}

/// Heads of requests that are never finished, more than there may be connections, and complete
/// requests whose connections stay open.
#[tokio::test]
async fn half_sent_heads_keep_no_command_out() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let fixture = Fixture::new(None).await;
    let (client, server, address) = fixture.serve_at().await;
    let mut open = Vec::new();
    for n in 0..3 * connections::MAX_CONNECTIONS {
        let mut stream = TcpStream::connect(address).await.expect("accepted");
        let head = format!("GET / HTTP/1.1\r\nhost: {address}\r\n");
        stream.write_all(head.as_bytes()).await.expect("sent");
        if n % 3 == 0 {
            // It may have given way to others already.
            let _ = stream.write_all(b"\r\n").await;
        }
        open.push(stream);
    }
    let ls = Ls {
        link: link(),
        path: "".into(),
        follow: false,
        skip: 0,
        limit: 1,
        timeout_s: 1,
    };
    client.ls(ls).await.expect("it is heard");
    // The first of them have given way: they hear the end, perhaps after an answer.
    let mut first = open.swap_remove(1);
    let _ = first.read_to_end(&mut Vec::new()).await;
    fixture.stop.cancel();
    server.await.expect("it ends");
}

#[tokio::test]
async fn busy_servers_say_so() {
    let fixture = Fixture::new(None).await;
    let all: Vec<_> = (0..reads::MAX_READS)
        .map(|_| fixture.shared.reads.enter(CancellationToken::new()))
        .collect();
    assert!(all.iter().all(Option::is_some));
    assert_eq!(fixture.get(&link().id.to_path()).await.status.as_u16(), 503);
    drop(all);
    assert_eq!(fixture.get(&link().id.to_path()).await.status.as_u16(), 200);
    assert_eq!(fixture.shared.reads.taken(), 0, "places come back");
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
