//! The API: every call of a [`Client`] as `POST /api/v1/<call>`.
//!
//! The work runs inside the answer's body: when the client goes away, the server drops the body and with it the work.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use data_encoding::HEXLOWER;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use http_body_util::{BodyExt, LengthLimitError, Limited, StreamBody};
use hyper::body::Frame as BodyFrame;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroize;

use super::connections::Guest;
use super::jobs::{self, Jobs};
use super::{Shared, error, session};
use crate::block::MAX_BLOCK_BYTES;
use crate::client::Client;
use crate::client::frame::{ERROR_TRAILER, Frame, FrameError, WATCHED_HEADER, error_to_trailer};
use crate::monitor::{Giver, Monitor, Progress};
use crate::node::api::*;

/// Largest JSON request in bytes.
const MAX_REQUEST_BYTES: usize = 1 << 20;
/// How long a client may take to send a JSON request or a block.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// How often progress is sent at most.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// How long calls may go on after the server is told to stop.
const STOP_GRACE: Duration = Duration::from_millis(300);
/// Most warnings kept between two sendings; more are counted only.
const MAX_WARNINGS: usize = 256;
/// Longest name of a stream in bytes, as in most file systems.
const MAX_NAME_BYTES: usize = 255;
/// Longest nonce in characters.
const MAX_NONCE_CHARS: usize = 128;

#[derive(Deserialize)]
pub(super) struct HelloQuery {
    nonce: String,
}

/// Proves that this server knows the token.
pub(super) async fn hello(
    State(shared): State<Shared>,
    Query(query): Query<HelloQuery>,
) -> Response {
    if query.nonce.len() > MAX_NONCE_CHARS {
        return error::of_call(&CallError::new(ErrorKind::Usage, "the nonce is too long"));
    }
    let Ok(nonce) = HEXLOWER.decode(query.nonce.as_bytes()) else {
        return error::of_call(&CallError::new(ErrorKind::Usage, "the nonce is not hex"));
    };
    Json(json!({
        "proof": HEXLOWER.encode(&shared.options.token.prove(&nonce)),
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
    }))
    .into_response()
}

/// Any call.
pub(super) async fn call(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    if let Err(refusal) = session::check(request.headers(), &shared) {
        return error::refused(refusal);
    }
    if let Some(guest) = request.extensions().get::<Arc<Guest>>() {
        guest.trust();
    }
    if name == WebLogin::NAME {
        return web_login(&shared);
    }
    let Ok(permit) = Arc::clone(&shared.calls).try_acquire_owned() else {
        return error::of_call(&error::busy());
    };
    let slot = Slot {
        stop: shared.stop.clone(),
        _permit: permit,
    };
    dispatch(shared.client, &shared.jobs, &name, request, slot)
        .await
        .unwrap_or_else(|error| error::of_call(&error))
}

/// An address that logs a browser in once.
fn web_login(shared: &Shared) -> Response {
    let code = shared.sessions.invite();
    let url = format!("http://{}/login?code={}", shared.address, *code);
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (kind, last_line(Ok(WebLoginReply { url }))).into_response()
}

/// The place of one call among those that run at once.
struct Slot {
    stop: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

/// Gives a macro every call whose request is JSON and whose answer is lines: its type, the method
/// of a [`Client`], and `monitor` for one that tells how far it has come.
macro_rules! all_calls {
    ($then:ident) => {
        $then! {
            Put => put, monitor;
            Get => get, monitor;
            PinAdd => pin_add, monitor;
            Backup => backup, monitor;
            Restore => restore, monitor;
            Prune => prune, monitor;
            Check => check, monitor;
            Leave => leave, monitor;
            LeaveCancel => leave_cancel;
            Reload => reload;
            Snapshots => snapshots;
            SnapshotTree => snapshot_tree;
            FindFile => find_file;
            Diff => diff;
            Health => health;
            Problems => problems;
            NotifyTest => notify_test;
            LeaseList => lease_list;
            LeaseHeld => lease_held;
            LeaseDrop => lease_drop;
            LeaseRelease => lease_release;
            Forget => forget;
            Unforget => unforget;
            Machines => machines;
            DecideMachines => decide_machines;
            DecideSnapshots => order;
            RingCreate => ring_create;
            RingJoin => ring_join;
            RingList => ring_list;
            RingMembers => ring_members;
            RingLeave => ring_leave;
            RingInvite => ring_invite;
            RingRemove => ring_remove;
            RingChoose => ring_choose;
            RingPlace => ring_place;
            MeshJoin => mesh_join;
            MeshLeave => mesh_leave;
            MeshStatus => mesh_status;
            Ls => ls;
            Find => find;
            Announce => announce;
            Like => like;
            Peers => peers;
            Ledger => ledger;
            Connect => connect;
            Status => status;
            Metrics => metrics;
            SettingsList => settings;
            SettingSet => setting_set;
            SetList => set_list;
            SetAdd => set_add;
            SetRemove => set_remove;
            OwnerInfo => owner_info;
            OwnerWords => owner_words;
            OwnerCreate => owner_create;
            PinRm => pin_rm;
            PinLs => pin_ls;
            MakeTicket => ticket;
            BlockHas => block_has;
            BlockStat => block_stat;
            BundleStat => bundle_stat;
            BlockLs => block_ls;
            BlockRm => block_rm;
        }
    };
}

macro_rules! names {
    ($($request:ident => $method:ident $(, $monitor:ident)?;)*) => {
        /// Names of these calls.
        pub(super) const CALLS: &[&str] = &[$(<$request as Call>::NAME),*];
    };
}
all_calls!(names);

/// Routes a call by its name.
async fn dispatch(
    client: Client,
    jobs: &Jobs,
    name: &str,
    request: Request,
    slot: Slot,
) -> Result<Response, CallError> {
    macro_rules! json_calls {
        ($($request:ident => $method:ident $(, $monitor:ident)?;)*) => {
            match name {
                $(<$request as Call>::NAME => {
                    #[allow(unused_mut, reason = "calls without progress are no jobs")]
                    let mut relay = Relay::of(request.headers());
                    let call: $request = read_json(request).await?;
                    $(relay.job = Some(jobs.begin(stringify!($method))); let $monitor;)?
                    let relay = Arc::new(relay);
                    $($monitor = relay.clone() as Arc<dyn Monitor>;)?
                    let work = async move { client.$method(call $(, $monitor)?).await };
                    Ok(frames(work.boxed(), relay, slot))
                })*
                "put-stream" => put_stream(client, jobs, request, slot),
                "block-put" => {
                    let call = query(&request, "the query of a block may name it: id=")?;
                    let bytes = read_body(request, MAX_BLOCK_BYTES).await?;
                    let work = async move { client.block_put(call, bytes).await };
                    Ok(frames(work.boxed(), Arc::default(), slot))
                }
                "cat" => {
                    let stream = client.cat(read_json(request).await?).await?;
                    bytes_answer(stream, slot).await
                }
                "restore-tar" => {
                    let stream = client.restore_tar(read_json(request).await?).await?;
                    bytes_answer(stream, slot).await
                }
                "block-get" => {
                    let block = client.block_get(read_json(request).await?).await?;
                    bytes_answer(futures::stream::iter([Ok(block)]).boxed(), slot).await
                }
                _ => {
                    let error = CallError::new(ErrorKind::Usage, format!("there is no call '{name}'"))
                        .with_hint("the running node may be of another version: restart it");
                    Ok(error::answer(StatusCode::NOT_FOUND, &error, error::Reader::Program))
                }
            }
        };
    }
    all_calls!(json_calls)
}

/// A call whose fields are in the query of its URL.
fn query<C: serde::de::DeserializeOwned>(request: &Request, usage: &str) -> Result<C, CallError> {
    let query = Query::try_from_uri(request.uri());
    let Query(call) = query.map_err(|_| CallError::new(ErrorKind::Usage, usage))?;
    Ok(call)
}

fn put_stream(
    client: Client,
    jobs: &Jobs,
    request: Request,
    slot: Slot,
) -> Result<Response, CallError> {
    let usage = "the query of a stream names it (name=), and may say pin=false and announce=false";
    let call: PutStream = query(&request, usage)?;
    if call.name.is_empty() || call.name.len() > MAX_NAME_BYTES {
        let message = format!("a name has 1 to {MAX_NAME_BYTES} bytes");
        return Err(CallError::new(ErrorKind::Usage, message));
    }
    let bytes = request
        .into_body()
        .into_data_stream()
        .map(|item| item.map_err(io::Error::other))
        .boxed();
    let relay = Arc::new(Relay {
        job: Some(jobs.begin("put")),
        ..Relay::default()
    });
    let monitor: Arc<dyn Monitor> = relay.clone();
    let work = async move { client.put_stream(call, bytes, monitor).await };
    Ok(frames(work.boxed(), relay, slot))
}

pub(super) async fn read_body(request: Request, limit: usize) -> Result<Bytes, CallError> {
    let usage = |message: String| CallError::new(ErrorKind::Usage, message);
    let body = Limited::new(request.into_body(), limit).collect();
    match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(usage(format!("the request has more than {limit} bytes")))
        }
        Ok(Err(error)) => Err(usage(format!("the request could not be read: {error}"))),
        Err(_) => Err(usage("the request did not arrive in time".to_owned())),
    }
}

async fn read_json<C: serde::de::DeserializeOwned>(request: Request) -> Result<C, CallError> {
    let bytes = read_body(request, MAX_REQUEST_BYTES).await?;
    let call = serde_json::from_slice(&bytes);
    // A request may hold a passphrase or keys, so it is not left in memory.
    if let Ok(mut bytes) = bytes.try_into_mut() {
        bytes.zeroize();
    }
    call.map_err(|error| {
        // Serde's message may repeat the value, and a link is a secret: only where it is wrong is told.
        CallError::new(
            ErrorKind::Usage,
            format!(
                "the request is not what this call takes (line {}, column {})",
                error.line(),
                error.column()
            ),
        )
    })
}

/// Keeps what the work says until the next line is sent.
#[derive(Default)]
struct Relay {
    said: Mutex<Said>,
    /// A person looks at the progress.
    is_watched: bool,
    /// Place of the call among those under way that others are told of.
    job: Option<jobs::Running>,
}

#[derive(Default)]
struct Said {
    progress: Option<Progress>,
    givers: Option<Vec<Giver>>,
    warnings: Vec<String>,
    dropped: u64,
}

impl Monitor for Relay {
    fn progress(&self, progress: Progress) {
        if let Some(job) = &self.job {
            job.progress(&progress);
        }
        self.lock().progress = Some(progress);
    }

    fn warning(&self, message: &str) {
        let mut said = self.lock();
        if said.warnings.len() < MAX_WARNINGS {
            said.warnings.push(message.to_owned());
        } else {
            said.dropped += 1;
        }
    }

    fn givers(&self, givers: &[Giver]) {
        self.lock().givers = Some(givers.to_vec());
    }

    fn wants_totals(&self) -> bool {
        self.is_watched
    }
}

impl Relay {
    /// The relay of a call that was made with these headers.
    fn of(headers: &HeaderMap) -> Self {
        Self {
            is_watched: headers.contains_key(WATCHED_HEADER),
            ..Self::default()
        }
    }

    fn lock(&self) -> MutexGuard<'_, Said> {
        self.said.lock().expect("nobody panics while holding it")
    }

    /// What was said since the last time, as lines.
    fn take_lines(&self) -> BytesMut {
        let said = std::mem::take(&mut *self.lock());
        let mut frames: Vec<Frame<()>> = said.warnings.into_iter().map(Frame::Warning).collect();
        if said.dropped > 0 {
            frames.push(Frame::Warning(format!("{} more warnings", said.dropped)));
        }
        frames.extend(said.givers.map(Frame::Givers));
        frames.extend(said.progress.map(Frame::Progress));
        let mut lines = BytesMut::new();
        for frame in frames {
            // A line that is too long is only a warning that nobody could read.
            if let Ok(line) = frame.to_line() {
                lines.extend_from_slice(&line);
            }
        }
        lines
    }
}

/// Work whose answer is lines, while it runs.
struct Running<R> {
    work: BoxFuture<'static, Result<R, CallError>>,
    relay: Arc<Relay>,
    ticks: Interval,
    /// Ends when the server stops and the call had its grace.
    stopped: BoxFuture<'static, ()>,
    _slot: Slot,
}

impl<R: serde::Serialize + Send + 'static> Running<R> {
    /// The next lines, and whether there are more.
    async fn next(mut self) -> (Bytes, Option<Self>) {
        loop {
            tokio::select! {
                biased;
                result = &mut self.work => {
                    let mut lines = self.relay.take_lines();
                    lines.extend_from_slice(&last_line(result));
                    return (lines.freeze(), None);
                }
                () = &mut self.stopped => {
                    let error = CallError::new(ErrorKind::Unavailable, "the node is stopping")
                        .with_hint("run it again when the node is up: it goes on from there");
                    return (last_line::<R>(Err(error)), None);
                }
                _ = self.ticks.tick() => {
                    let lines = self.relay.take_lines();
                    if !lines.is_empty() {
                        return (lines.freeze(), Some(self));
                    }
                }
            }
        }
    }
}

fn last_line<R: serde::Serialize>(result: Result<R, CallError>) -> Bytes {
    let frame = result.map_or_else(Frame::Error, Frame::Done);
    frame.to_line().unwrap_or_else(|error| {
        let mut failure = CallError::new(ErrorKind::Failed, error.to_string());
        if matches!(error, FrameError::TooLong) {
            failure = failure.with_hint("ask for less at once");
        }
        Frame::<()>::Error(failure).to_line().expect("a short line")
    })
}

/// Runs `work` inside the answer's body and tells how far it is.
fn frames<R: serde::Serialize + Send + 'static>(
    work: BoxFuture<'static, Result<R, CallError>>,
    relay: Arc<Relay>,
    slot: Slot,
) -> Response {
    let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stop = slot.stop.clone();
    let stopped = async move {
        stop.cancelled().await;
        tokio::time::sleep(STOP_GRACE).await;
    };
    let running = Running {
        work,
        relay,
        ticks,
        stopped: stopped.boxed(),
        _slot: slot,
    };
    let lines = futures::stream::unfold(Some(running), |running| async move {
        let (lines, running) = running?.next().await;
        Some((Ok::<_, Infallible>(lines), running))
    });
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (kind, Body::from_stream(lines)).into_response()
}

/// Bytes as an answer. An error before the first of them is an answer of its own; a later one is the trailer.
async fn bytes_answer(
    mut stream: BoxStream<'static, Result<Bytes, CallError>>,
    slot: Slot,
) -> Result<Response, CallError> {
    let first = match stream.next().await {
        Some(first) => Some(first?),
        None => None,
    };
    let rest = futures::stream::unfold((Some(stream), slot), |(stream, slot)| async move {
        let mut stream = stream?;
        Some(match stream.next().await? {
            Ok(bytes) => (BodyFrame::data(bytes), (Some(stream), slot)),
            Err(error) => (BodyFrame::trailers(trailer(&error)), (None, slot)),
        })
    });
    let body = futures::stream::iter(first.map(BodyFrame::data))
        .chain(rest)
        .map(Ok::<_, Infallible>);
    let mut response = Body::new(StreamBody::new(body)).into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(header::TRAILER, HeaderValue::from_static(ERROR_TRAILER));
    Ok(response)
}

fn trailer(error: &CallError) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    let value = HeaderValue::try_from(error_to_trailer(error)).expect("base64url is valid");
    trailers.insert(ERROR_TRAILER, value);
    trailers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_keeps_the_last_progress_and_a_bounded_number_of_warnings() {
        let relay = Relay::default();
        assert!(relay.take_lines().is_empty());
        for files in 0..3 {
            relay.progress(Progress {
                files,
                ..Progress::default()
            });
        }
        for n in 0..=MAX_WARNINGS {
            relay.warning(&n.to_string());
        }
        let lines = relay.take_lines();
        let frames: Vec<Frame<()>> = lines[..]
            .split(|b: &u8| *b == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| Frame::from_line(line).expect("a frame"))
            .collect();
        assert_eq!(frames.len(), MAX_WARNINGS + 2);
        assert_eq!(
            frames[MAX_WARNINGS],
            Frame::Warning("1 more warnings".to_owned())
        );
        let Some(Frame::Progress(progress)) = frames.last() else {
            panic!("progress is last");
        };
        assert_eq!(progress.files, 2);
        assert!(relay.take_lines().is_empty());
    }
}
