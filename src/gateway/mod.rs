//! The local HTTP server: the API that commands use, and blocks and bundles by URL for browsers and other programs.
//!
//! | route | who | what |
//! |---|---|---|
//! | `POST /api/v1/<call>` | token holders, sessions | calls of a [`Client`]; answers as in `client::frame` |
//! | `GET /api/v1/hello?nonce=<hex>` | anyone local | proves that this server knows the token |
//! | `GET /api/v1/blocks/<id>/stats` | token holders | how a block was used |
//! | `GET /sha384/<hex>`, `/sha256/<hex>` | anyone local | the block as it is |
//! | `PUT /sha384/<hex>`, `/sha256/<hex>` | token holders | stores what the address names |
//! | `GET /sha384/like/<hex>`, `/sha384/<hex>/like` | anyone local | ids in the store that share the first 16 bits |
//! | `GET /ipfs/<cid>?format=raw` | anyone local | the block that the CID names, of any codec |
//! | `GET /sha384/<hex>/aes256/<hex>[/path]` | link holders | decrypted; browsers go to an origin |
//! | `GET /open/<label>[/path]` | label holders | the same, where no such host name leads here |
//! | `GET /waiting/<id>` | anyone local | how the search for a block goes that a page waits for (events) |
//! | `GET /api/openapi.json` | anyone local | the description of the API |
//! | `GET /metrics`, `/healthz` | anyone local | numbers for Prometheus; whether the node answers |
//! | `GET /login?code=..` | holders of a one-time code | begins a [`session`] of a browser |
//! | `POST /logout` | sessions | ends it |
//! | `GET /api/v1/events` | token holders, sessions | what happens, see [`events`] |
//! | `GET /api/v1/series`, `/jobs`, `/log`, `POST /api/v1/qr` | token holders, sessions | see [`desk`] |
//! | `GET /`, `/dashboard/<file>` | anyone local | the [`dashboard`], which shows nothing without a session |
//!
//! These are the routes of the node's own origin. Each bundle that was opened has another one,
//! `http://<label>.localhost:<port>/`, with its content alone: see [`origin`].
//!
//! It listens on loopback only, answers only to loopback names (so that no web page reaches it
//! under another name), refuses what other websites ask for, and lets what is stored run as a
//! program at the bundle's own origin only. It holds a [`Client`] and never the network or the
//! store. Deliberately absent: TLS, CORS, anything for other machines.
//!
//! **Other users of the same machine** reach loopback as well, and may see `/`, ask which blocks
//! are here (`/like`, or a block by its id) and have the node look for a block: as any peer of the
//! mesh may, and as on the mesh they read nothing without a key. Blocks of public puts tell whoever
//! knows a file that this node has it. Decrypted content takes the link, or a path label of this
//! run, which can't be guessed; of a bundle that was opened in a browser in this run its id is
//! enough, which is the name of its origin. The API takes the token, which only the node's user can read.
//!
//! **Every answer is signed** by the node's key, see [`sign`]. A browser that asks for what is not
//! here is shown a page that goes on by itself, see [`waiting`].
//!
//! **Claims of a bundle** cost the reader, not the node: content is streamed at the reader's pace,
//! listings come by the page, and nothing is written.

mod answer;
mod api;
mod blocks;
mod bundles;
mod connections;
mod content;
mod dashboard;
mod desk;
mod error;
mod events;
mod guard;
mod ipfs;
mod jobs;
mod labels;
mod listing;
pub mod log;
mod media;
mod metrics;
mod openapi;
mod origin;
mod page;
mod range;
mod reads;
mod series;
mod session;
pub mod sign;
mod waiting;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, Method, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use connections::{Connections, Guest};
use guard::Place;
use hyper::body::Incoming;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use labels::Labels;
use reads::Reads;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::client::discovery::{ApiFile, Published, Token};
use crate::time::{Clock, SystemClock};

/// Most API calls at once. Further ones are refused as busy.
const MAX_CALLS: usize = 64;
/// How long a client may take to send the head of a request, and may keep a connection open between two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest head of a request in bytes.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// How long requests may go on after the server is told to stop. Calls end sooner by themselves, with an error that says why.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);
/// How long to wait when the system has no file handles left for connections.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the server could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another program listens there.
    #[error("the address {0} for the local HTTP server is in use by another program")]
    InUse(SocketAddr),
    /// The address is not a loopback address.
    #[error(
        "the local HTTP server shows decrypted content and listens on loopback only, not on {0}"
    )]
    NotLoopback(SocketAddr),
    /// Anything else.
    #[error("the local HTTP server could not listen on {address}")]
    Io {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
}

/// How the server behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the API asks for.
    pub token: Token,
    /// Seconds to look for one block of a page.
    pub timeout_s: u64,
    /// Signs answers; without it they are not signed.
    pub signer: Option<sign::Signer>,
    /// Where the series of what was stored and sent is kept; without it only in memory.
    pub data_dir: Option<PathBuf>,
}

/// A server that has its address and does not answer yet.
#[derive(Debug)]
pub struct Gateway {
    listener: TcpListener,
    address: SocketAddr,
}

/// What all routes share.
#[derive(Clone)]
struct Shared {
    client: Client,
    options: Arc<Options>,
    address: SocketAddr,
    stop: CancellationToken,
    calls: Arc<Semaphore>,
    reads: Reads,
    labels: Arc<Labels>,
    searches: waiting::Searches,
    sessions: session::Sessions,
    series: series::Series,
    jobs: jobs::Jobs,
    listeners: events::Listeners,
    answers: metrics::Answers,
}

impl Gateway {
    /// Takes `address`; port 0 picks a free one.
    ///
    /// # Errors
    /// [`Error`], naming the address.
    pub async fn bind(address: SocketAddr) -> Result<Self, Error> {
        if !address.ip().is_loopback() {
            return Err(Error::NotLoopback(address));
        }
        let failed = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::AddrInUse => Error::InUse(address),
            _ => Error::Io { address, source },
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// The base URL, such as `http://127.0.0.1:4385`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Lets commands find this server through a file in `data_dir`, until the guard is dropped.
    ///
    /// # Errors
    /// What the system says.
    pub fn publish(&self, data_dir: &Path, token: &Token) -> std::io::Result<Published> {
        ApiFile::new(self.address, token.clone()).write(data_dir)
    }

    /// Answers requests until `stop` is cancelled, then gives those that run a moment to end.
    pub async fn serve(self, client: Client, options: Options, stop: CancellationToken) {
        let series = series::Series::open(options.data_dir.as_deref());
        let shared = Shared {
            client,
            options: Arc::new(options),
            address: self.address,
            stop: stop.clone(),
            calls: Arc::new(Semaphore::new(MAX_CALLS)),
            reads: Reads::default(),
            labels: Arc::new(Labels::new()),
            searches: waiting::Searches::default(),
            sessions: session::Sessions::default(),
            series,
            jobs: jobs::Jobs::default(),
            listeners: events::Listeners::default(),
            answers: metrics::Answers::default(),
        };
        let searches = shared.searches.clone();
        let (series, answers) = (shared.series.clone(), shared.answers.clone());
        let mut chores = JoinSet::new();
        chores.spawn(series.run(shared.client.clone(), answers, stop.clone()));
        let service = TowerToHyperService::new(routes(shared));
        let guests = Arc::new(Connections::default());
        let mut connections = JoinSet::new();
        while let Some(stream) = accept(&self.listener, &stop).await {
            while connections.try_join_next().is_some() {}
            connections.spawn(serve_connection(
                stream,
                service.clone(),
                stop.clone(),
                guests.admit(),
            ));
        }
        drop(self.listener);
        let all = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_TIMEOUT, all).await.is_err() {
            tracing::info!("requests that did not end in time are cut");
            connections.shutdown().await;
        }
        searches.end().await;
        while chores.join_next().await.is_some() {}
    }
}

/// The next connection; `None` once the server is to stop.
async fn accept(listener: &TcpListener, stop: &CancellationToken) -> Option<TcpStream> {
    let next = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return stream,
                Err(error) => {
                    tracing::warn!(%error, "a local HTTP connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        next = next => Some(next),
    }
}

async fn serve_connection(
    stream: TcpStream,
    service: TowerToHyperService<Router>,
    stop: CancellationToken,
    guest: Guest,
) {
    let _ = stream.set_nodelay(true);
    let guest = Arc::new(guest);
    let known = guest.clone();
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        known.asked();
        request.extensions_mut().insert(known.clone());
        service.call(request)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = guest.cut.cancelled() => return,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a local HTTP connection ended");
    }
}

fn routes(shared: Shared) -> Router {
    Router::new()
        .route("/", get(dashboard::page))
        .route("/dashboard/{file}", get(dashboard::file))
        .route("/api/v1/events", get(events::events))
        .route("/api/v1/series", get(desk::series))
        .route("/api/v1/jobs", get(desk::jobs))
        .route("/api/v1/log", get(desk::log))
        .route("/api/v1/qr", post(desk::qr))
        .route("/api/openapi.json", get(openapi::document))
        .route("/api/v1/hello", get(api::hello))
        .route("/api/v1/{call}", post(api::call))
        .route("/api/v1/blocks/{id}/stats", get(blocks::stats))
        .route("/sha384/{*rest}", get(content::read).put(blocks::put))
        .route("/sha256/{*rest}", get(content::read).put(blocks::put))
        .route("/ipfs/{*rest}", get(content::raw))
        .route("/open/{*rest}", get(content::read))
        .route("/waiting/{id}", get(waiting::events))
        .route("/metrics", get(metrics::metrics))
        .route("/healthz", get(metrics::healthz))
        .route("/login", get(session::login))
        .route("/logout", post(session::logout))
        .fallback(error::not_found)
        .method_not_allowed_fallback(error::method_not_allowed)
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(shared.clone(), admit))
        .with_state(shared)
}

/// Turns away what must not reach any route, and adds the headers that every answer has.
async fn admit(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let target = sign::target_of(request.uri());
    let is_head = request.method() == Method::HEAD;
    let mut response = match guard::check(&request, shared.address) {
        Ok(Place::Node) => next.run(request).await,
        Ok(Place::Site(label)) => {
            let mut response = origin::serve(shared.clone(), &label, request).await;
            origin::seal(&mut response);
            response
        }
        Err(refusal) => error::refused(refusal),
    };
    shared.answers.count(response.status());
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "SAMEORIGIN"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // No other site loads this as a part of its own, or keeps a handle of a window that shows it.
    for name in ["cross-origin-resource-policy", "cross-origin-opener-policy"] {
        headers.insert(name, HeaderValue::from_static("same-origin"));
    }
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static(guard::NOTHING));
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    match &shared.options.signer {
        Some(signer) => {
            let now_s = SystemClock.now().0 / 1000;
            signer.sign(&target, is_head, now_s, response).await
        }
        None => response,
    }
}

#[cfg(test)]
mod tests;
