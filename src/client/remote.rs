//! A node in another process, over HTTP/1.1 on the loopback interface.
//!
//! Each call has a connection of its own: dropping the call, or the stream it gave, closes the connection, and that makes
//! the node drop the work. Nothing is pooled, so nothing can be half-dead.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited, StreamBody};
use hyper::body::{Frame as BodyFrame, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, TE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;
use zeroize::Zeroizing;

use super::discovery::{ApiFile, Token};
use super::frame::{ERROR_TRAILER, Frame, Lines, WATCHED_HEADER, error_from_trailer};
use super::url::percent_encode;
use crate::block::MAX_BLOCK_BYTES;
use crate::monitor::Monitor;
use crate::node::api::{BlockPut, BlockPutReply, Call, CallError, ErrorKind, PutReply, PutStream};

/// How long a connection to a node on this machine may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a node may take to prove that it is the one of the file.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// The same when the process that wrote the file is gone: another program has its port, mostly.
const STRANGER_TIMEOUT: Duration = Duration::from_secs(1);
/// Largest error answer in bytes.
const MAX_ERROR_BYTES: usize = 1 << 20;
/// Bytes of a usual request.
const REQUEST_BYTES: usize = 4096;
/// Bytes of the number that a node answers with a proof to.
const NONCE_BYTES: usize = 32;

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A running node in another process.
#[derive(Debug)]
pub(super) struct Remote {
    address: SocketAddr,
    token: Token,
    pid: u32,
}

/// An answer and the connection it comes over.
struct Answer {
    status: StatusCode,
    body: Incoming,
    _connection: AbortOnDropHandle<()>,
}

/// What stands in an answer that is an error as a whole.
#[derive(Deserialize)]
struct Refusal {
    error: CallError,
}

/// The node's answer to a nonce.
#[derive(Deserialize)]
struct Hello {
    proof: String,
}

impl Remote {
    /// The node that `file` describes. `None` when there is none any more: nobody listens, or a
    /// program that does not know the token, or one that says nothing in place of a node that is
    /// gone.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the node's process lives and says nothing.
    pub(super) async fn find(file: &ApiFile) -> Result<Option<Self>, CallError> {
        let Some(address) = file.address() else {
            return Ok(None);
        };
        let remote = Self {
            address,
            token: file.token.clone(),
            pid: file.pid,
        };
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let hello = async {
            let request = remote
                .request(
                    Method::GET,
                    &format!("hello?nonce={}", HEXLOWER.encode(&nonce)),
                )
                .body(body(Bytes::new()))
                .expect("the parts of the request are valid");
            let answer = remote.exchange(request).await.ok()?;
            let bytes = Limited::new(answer.body, MAX_ERROR_BYTES)
                .collect()
                .await
                .ok()?
                .to_bytes();
            let hello: Hello = serde_json::from_slice(&bytes).ok()?;
            let proof = HEXLOWER.decode(hello.proof.as_bytes()).ok()?;
            (proof == remote.token.prove(&nonce)).then_some(())
        };
        let is_alive = file.is_process_alive();
        let patience = match is_alive {
            true => HELLO_TIMEOUT,
            false => STRANGER_TIMEOUT,
        };
        match tokio::time::timeout(patience, hello).await {
            Ok(known) => Ok(known.map(|()| remote)),
            // If a node runs after all, where its process can't be seen from, it holds the lock of
            // the data directory: the command says so when it opens that.
            Err(_) if !is_alive => Ok(None),
            Err(_) => Err(CallError::new(
                ErrorKind::Unavailable,
                format!(
                    "the node (process {}) accepts connections on {address} but does not answer",
                    file.pid
                ),
            )
            .with_hint(
                "it may be stopped or overloaded: look at its log, or end it and start it again",
            )),
        }
    }

    /// Makes a call whose answer is JSON.
    pub(super) async fn call<C: Call>(
        &self,
        call: &C,
        monitor: Arc<dyn Monitor>,
    ) -> Result<C::Reply, CallError> {
        let is_watched = monitor.wants_totals();
        let answer = self.post_as(C::NAME, json(call)?, is_watched).await?;
        read_frames(self, answer, &*monitor).await
    }

    /// Makes a call whose answer is bytes.
    pub(super) async fn stream<C: serde::Serialize>(
        &self,
        name: &str,
        call: &C,
    ) -> Result<BoxStream<'static, Result<Bytes, CallError>>, CallError> {
        let answer = self.post(name, json(call)?).await?;
        Ok(read_bytes(answer, self.pid).boxed())
    }

    /// Makes a call whose answer is one block.
    pub(super) async fn block_get<C: serde::Serialize>(
        &self,
        name: &str,
        call: &C,
    ) -> Result<Bytes, CallError> {
        let mut stream = self.stream(name, call).await?;
        let mut block = Vec::new();
        while let Some(bytes) = stream.try_next().await? {
            if block.len() + bytes.len() > MAX_BLOCK_BYTES {
                return Err(CallError::new(
                    ErrorKind::Failed,
                    "the node sent more than a block",
                ));
            }
            block.extend_from_slice(&bytes);
        }
        Ok(block.into())
    }

    /// Sends one block.
    pub(super) async fn block_put(
        &self,
        request: &BlockPut,
        bytes: Bytes,
    ) -> Result<BlockPutReply, CallError> {
        let path = match request.id {
            Some(id) => format!("block-put?id={id}"),
            None => "block-put".to_owned(),
        };
        let answer = self.post(&path, body(bytes)).await?;
        read_frames(self, answer, &crate::monitor::Silent).await
    }

    /// Sends a file of unknown length.
    pub(super) async fn put_stream(
        &self,
        request: &PutStream,
        bytes: BoxStream<'static, io::Result<Bytes>>,
        monitor: Arc<dyn Monitor>,
    ) -> Result<PutReply, CallError> {
        // An error of the source ends the request; what it was is kept here, as HTTP only says that the body broke off.
        let failed = Arc::new(Mutex::new(None::<String>));
        let noted = Arc::clone(&failed);
        let bytes = bytes.map(move |item| {
            item.map(BodyFrame::data).inspect_err(|error| {
                *noted.lock().expect("nobody panics while holding it") = Some(error.to_string());
            })
        });
        let PutStream {
            name,
            pin,
            announce,
            private,
        } = request;
        let name = percent_encode(name);
        let path =
            format!("put-stream?name={name}&pin={pin}&announce={announce}&private={private}");
        let result = async {
            let answer = self
                .post(&path, StreamBody::new(bytes).boxed_unsync())
                .await?;
            read_frames(self, answer, &*monitor).await
        }
        .await;
        match failed
            .lock()
            .expect("nobody panics while holding it")
            .take()
        {
            Some(reason) => Err(CallError::new(
                ErrorKind::Failed,
                format!("the input could not be read: {reason}"),
            )),
            None => result,
        }
    }

    fn request(&self, method: Method, path: &str) -> hyper::http::request::Builder {
        Request::builder()
            .method(method)
            .uri(format!("/api/v1/{path}"))
            .header(HOST, self.address.to_string())
            .header(TE, "trailers")
    }

    async fn post(&self, path: &str, body: Body) -> Result<Answer, CallError> {
        self.post_as(path, body, false).await
    }

    /// `is_watched`: whether a person looks at the progress.
    async fn post_as(&self, path: &str, body: Body, is_watched: bool) -> Result<Answer, CallError> {
        let mut request = self
            .request(Method::POST, path)
            .header(AUTHORIZATION, self.token.to_header())
            .header(CONTENT_TYPE, "application/json");
        if is_watched {
            request = request.header(WATCHED_HEADER, "1");
        }
        let request = request
            .body(body)
            .expect("the parts of the request are valid");
        let answer = self.exchange(request).await?;
        if answer.status == StatusCode::OK {
            return Ok(answer);
        }
        let status = answer.status;
        let refused = |what: String| CallError::new(ErrorKind::Failed, what);
        let bytes = match Limited::new(answer.body, MAX_ERROR_BYTES).collect().await {
            Ok(bytes) => bytes.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                return Err(refused(format!(
                    "the node answered {status} at great length"
                )));
            }
            Err(_) => return Err(self.gone("the connection broke off")),
        };
        Err(serde_json::from_slice::<Refusal>(&bytes).map_or_else(
            |_| refused(format!("the node answered {status}")),
            |refusal| refusal.error,
        ))
    }

    /// One request on a connection of its own.
    async fn exchange(&self, request: Request<Body>) -> Result<Answer, CallError> {
        let connect = TcpStream::connect(self.address);
        let stream = match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(self.gone(&error.to_string())),
            Err(_) => return Err(self.gone("it did not accept the connection in time")),
        };
        // Small requests must not wait for a full packet.
        let _ = stream.set_nodelay(true);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.gone(&chain(&error)))?;
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the node ended");
            }
        }));
        let response: Response<Incoming> = sender
            .send_request(request)
            .await
            .map_err(|error| self.gone(&chain(&error)))?;
        Ok(Answer {
            status: response.status(),
            body: response.into_body(),
            _connection: connection,
        })
    }

    fn gone(&self, why: &str) -> CallError {
        gone(self.pid, why)
    }
}

fn gone(pid: u32, why: &str) -> CallError {
    CallError::new(
        ErrorKind::Unavailable,
        format!("the node (process {pid}) went away: {why}"),
    )
    .with_hint("run the command again; `libernet status` tells whether the node runs")
}

fn chain(error: &hyper::Error) -> String {
    error
        .source()
        .map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

fn body(bytes: Bytes) -> Body {
    Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}

fn json<C: serde::Serialize>(call: &C) -> Result<Body, CallError> {
    // A request may hold a passphrase or keys: it is wiped when it has been sent.
    let mut bytes = Zeroizing::new(Vec::with_capacity(REQUEST_BYTES));
    serde_json::to_writer(&mut *bytes, call).map_err(|error| {
        CallError::new(
            ErrorKind::Usage,
            format!("the request can't be sent to the running node: {error}"),
        )
    })?;
    Ok(body(Bytes::from_owner(bytes)))
}

async fn read_frames<R: serde::de::DeserializeOwned>(
    remote: &Remote,
    mut answer: Answer,
    monitor: &dyn Monitor,
) -> Result<R, CallError> {
    let strange = |error: super::frame::FrameError| {
        CallError::new(
            ErrorKind::Failed,
            format!("the node's answer can't be read: {error}"),
        )
        .with_hint("the running node may be of another version: restart it")
    };
    let mut lines = Lines::default();
    while let Some(frame) = answer.body.frame().await {
        let frame = frame.map_err(|error| remote.gone(&chain(&error)))?;
        let Ok(bytes) = frame.into_data() else {
            continue;
        };
        lines.push(&bytes);
        while let Some(line) = lines.next_line().map_err(strange)? {
            match Frame::<R>::from_line(&line).map_err(strange)? {
                Frame::Progress(progress) => monitor.progress(progress),
                Frame::Givers(givers) => monitor.givers(&givers),
                Frame::Warning(message) => monitor.warning(&message),
                Frame::Done(reply) => return Ok(reply),
                Frame::Error(error) => return Err(error),
            }
        }
    }
    Err(remote.gone("its answer broke off"))
}

fn read_bytes(
    answer: Answer,
    pid: u32,
) -> impl futures::Stream<Item = Result<Bytes, CallError>> + Send + 'static {
    futures::stream::try_unfold(answer, move |mut answer| async move {
        while let Some(frame) = answer.body.frame().await {
            let frame = frame.map_err(|error| gone(pid, &chain(&error)))?;
            match frame.into_data() {
                Ok(bytes) => return Ok(Some((bytes, answer))),
                Err(frame) => {
                    if let Some(value) = frame.trailers_ref().and_then(|t| t.get(ERROR_TRAILER)) {
                        return Err(error_from_trailer(value.as_bytes()));
                    }
                }
            }
        }
        Ok(None)
    })
}
