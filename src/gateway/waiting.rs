//! Waiting for blocks that are not here: a page that shows the search and goes on by itself.
//!
//! A browser that asks for content whose block did not come within [`PATIENCE_S`] gets the page.
//! The search goes on without it, one for each block whoever looks at it, and ends when nobody has
//! looked for [`LINGER`]. The page hears of it by server-sent events and loads anew once the block
//! is here; without scripts it loads anew every few seconds.
//!
//! Deliberately absent: the search itself. Readers of the same block share one transfer in the
//! node.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use data_encoding::BASE64;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::page::{escape, page};
use super::{Shared, error};
use crate::block::Tried;
use crate::client::Client;
use crate::crypto::hash;
use crate::id::BlockId;
use crate::node::api::*;

/// Seconds that a browser waits for a block before it is shown the page.
pub(super) const PATIENCE_S: u64 = 5;
/// Most blocks that are looked for, for pages, at once.
pub(super) const MAX_SEARCHES: usize = 32;
/// Most pages that are told at once how searches go.
pub(super) const MAX_WATCHERS: usize = 32;
/// Time after the last look at a page for which its search goes on.
const LINGER: Duration = Duration::from_secs(30);
/// Seconds of the first round of a search, after which what was said is told. Later ones are
/// longer.
const FIRST_ROUND_S: u64 = 5;
const LONGEST_ROUND_S: u64 = 40;
/// Pause between two rounds.
const PAUSE: Duration = Duration::from_millis(500);
/// How often a page is told news at most.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// A page hears something at least this often, so that a broken connection is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Peers named on a page.
const MAX_NAMED: usize = 100;
/// Seconds between two loads of a page without scripts.
const RELOAD_S: u64 = error::RETRY_LATER_S;

/// How a search stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stand {
    Looking,
    Came,
    /// It can't go on, for another reason than that nobody has the block.
    Failed(String),
}

#[derive(Debug)]
struct Search {
    stand: Stand,
    /// Peers that were asked, and what each said.
    tried: Vec<Tried>,
    looked_at: Instant,
}

#[derive(Debug)]
struct Inner {
    searches: Mutex<HashMap<BlockId, Search>>,
    tasks: TaskTracker,
    watchers: Arc<Semaphore>,
}

/// All searches that pages wait for. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Searches(Arc<Inner>);

impl Default for Searches {
    fn default() -> Self {
        Self(Arc::new(Inner {
            searches: Mutex::default(),
            tasks: TaskTracker::new(),
            watchers: Arc::new(Semaphore::new(MAX_WATCHERS)),
        }))
    }
}

impl Searches {
    fn table(&self) -> MutexGuard<'_, HashMap<BlockId, Search>> {
        // The table is whole between two statements.
        self.0
            .searches
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks for a block from here on, or looks on. Returns whether it is looked for: not when
    /// there are too many searches.
    fn want(
        &self,
        id: BlockId,
        tried: &[Tried],
        client: &Client,
        stop: &CancellationToken,
    ) -> bool {
        let now = Instant::now();
        let mut table = self.table();
        if let Some(search) = table.get_mut(&id)
            && search.stand == Stand::Looking
        {
            search.looked_at = now;
            return true;
        }
        table.remove(&id);
        if table.len() >= MAX_SEARCHES {
            // Those that have ended are kept only for pages that have not heard yet.
            table.retain(|_, search| search.stand == Stand::Looking);
        }
        if table.len() >= MAX_SEARCHES || stop.is_cancelled() {
            return false;
        }
        let search = Search {
            stand: Stand::Looking,
            tried: tried.to_vec(),
            looked_at: now,
        };
        table.insert(id, search);
        let work = look(self.clone(), id, client.clone());
        let stop = stop.clone();
        self.0.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = work => {}
            }
        });
        true
    }

    /// Notes how a search stands; returns whether it goes on: not when nobody has looked at it
    /// lately.
    fn note(&self, id: &BlockId, stand: Stand, tried: Vec<Tried>) -> bool {
        let mut table = self.table();
        let Some(search) = table.get_mut(id) else {
            return false;
        };
        search.stand = stand;
        if !tried.is_empty() {
            search.tried = tried;
        }
        let is_watched = search.looked_at.elapsed() < LINGER;
        let goes_on = is_watched && search.stand == Stand::Looking;
        if !is_watched {
            table.remove(id);
        }
        goes_on
    }

    /// How a search stands and what was said; whoever asks keeps it going.
    fn look_at(&self, id: &BlockId) -> Option<(Stand, Vec<Tried>)> {
        let mut table = self.table();
        let search = table.get_mut(id)?;
        search.looked_at = Instant::now();
        Some((search.stand.clone(), search.tried.clone()))
    }

    /// Returns when all searches have ended. They end when the server is told to stop.
    pub(super) async fn end(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.table().len()
    }
}

/// Looks for one block, round after round.
async fn look(searches: Searches, id: BlockId, client: Client) {
    let mut timeout_s = FIRST_ROUND_S;
    loop {
        let (stand, tried) = match client.block_get(BlockGet { id, timeout_s }).await {
            Ok(_) => (Stand::Came, Vec::new()),
            Err(error) if error.kind == ErrorKind::NotFound => (Stand::Looking, error.tried),
            Err(error) => (Stand::Failed(error.message), error.tried),
        };
        if !searches.note(&id, stand, tried) {
            return;
        }
        timeout_s = (2 * timeout_s).min(LONGEST_ROUND_S);
        tokio::time::sleep(PAUSE).await;
    }
}

/// What the page does with what it hears. Everything that peers and the node say is set as text.
const SCRIPT: &str = "\
const wait=document.getElementById('wait'),said=document.getElementById('said'),state=document.getElementById('state');\
const events=new EventSource(wait.dataset.events);\
events.addEventListener('said',event=>{said.replaceChildren(...JSON.parse(event.data).map(cells=>{\
const row=document.createElement('tr');for(const text of cells){const cell=document.createElement('td');\
cell.textContent=text;row.append(cell)}return row}))});\
events.addEventListener('came',()=>{events.close();state.textContent='It is here.';location.reload()});\
events.addEventListener('failed',event=>{events.close();state.textContent=event.data});";

/// Content security policy of the page: its one script, and events from here.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let script = BASE64.encode(&hash::sha256(&[SCRIPT.as_bytes()]));
    format!(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{script}'; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
});

/// How a page that waits hears that the block is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// By events; without scripts it loads anew every few seconds.
    Events,
    /// It loads anew every few seconds.
    Reload,
}

/// The page for a browser that asked for content of which `failure` says which block is missing.
/// `None` when it names no block, or too many are looked for.
pub(super) fn wait_page(shared: &Shared, failure: &CallError, news: News) -> Option<Response> {
    let id = failure
        .block
        .filter(|_| failure.kind == ErrorKind::NotFound)?;
    let searches = &shared.searches;
    if !searches.want(id, &failure.tried, &shared.client, &shared.stop) {
        return None;
    }
    let rows: String = rows(&failure.tried)
        .iter()
        .map(|[peer, said]| {
            format!(
                "<tr><td>{}</td><td>{}</td></tr>\n",
                escape(peer),
                escape(said)
            )
        })
        .collect();
    let reload = format!("<meta http-equiv=\"refresh\" content=\"{RELOAD_S}\">");
    let (reload, script) = match news {
        News::Events => (
            format!("<noscript>{reload}</noscript>"),
            format!("<script>{SCRIPT}</script>\n"),
        ),
        News::Reload => (reload, String::new()),
    };
    let body = format!(
        "{reload}\n\
         <div id=\"wait\" data-events=\"/waiting/{id}\">\
         <p id=\"state\" role=\"status\">A part of this page is not on this machine yet. The node looks for it; this page goes on by itself when it comes.</p>\n\
         <p>Block <code>{}</code></p>\n\
         <p>Asked so far:</p>\n<table><tbody id=\"said\">\n{rows}</tbody></table></div>\n\
         {script}",
        escape(&id.to_path())
    );
    let mut response = (StatusCode::GATEWAY_TIMEOUT, page("Looking for it", &body)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from(RELOAD_S));
    if let Ok(policy) = HeaderValue::try_from(POLICY.as_str()) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    Some(response)
}

/// Peers and what they said, as text.
fn rows(tried: &[Tried]) -> Vec<[String; 2]> {
    let row = |tried: &Tried| [tried.peer.clone(), tried.attempt.to_string()];
    tried.iter().take(MAX_NAMED).map(row).collect()
}

/// Events for a page, one after the other.
struct Watch {
    searches: Searches,
    id: BlockId,
    stop: CancellationToken,
    said: Option<Vec<Tried>>,
    told_at: Instant,
    is_over: bool,
    _permit: OwnedSemaphorePermit,
}

impl Watch {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        if self.is_over {
            return None;
        }
        loop {
            if let Some(event) = self.event() {
                self.told_at = Instant::now();
                return Some((Ok(event), self));
            }
            tokio::select! {
                () = self.stop.cancelled() => return None,
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
        }
    }

    fn event(&mut self) -> Option<Bytes> {
        let event = |name: &str, data: &str| {
            // A line break would end the event.
            let data = data.replace(['\r', '\n'], " ");
            Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
        };
        let (stand, tried) = match self.searches.look_at(&self.id) {
            Some(found) => found,
            // It was given up; a page that is loaded anew starts it again.
            None => (Stand::Came, Vec::new()),
        };
        match stand {
            Stand::Came => {
                self.is_over = true;
                Some(event("came", ""))
            }
            Stand::Failed(message) => {
                self.is_over = true;
                Some(event("failed", &message))
            }
            Stand::Looking if self.said.as_ref() != Some(&tried) => {
                let data = json!(rows(&tried)).to_string();
                self.said = Some(tried);
                Some(event("said", &data))
            }
            Stand::Looking if self.told_at.elapsed() >= KEEP_ALIVE => {
                Some(Bytes::from_static(b": still looking\n\n"))
            }
            Stand::Looking => None,
        }
    }
}

/// `GET` of the events of a search: `said` with peers and what they said, then `came` or `failed`.
pub(super) async fn events(State(shared): State<Shared>, Path(id): Path<String>) -> Response {
    let program = error::Reader::Program;
    let searched = id.parse::<BlockId>().ok();
    let Some(id) = searched.filter(|id| shared.searches.look_at(id).is_some()) else {
        let error = CallError::new(ErrorKind::Usage, "no page waits for such a block");
        return error::answer(StatusCode::NOT_FOUND, &error, program);
    };
    let Ok(permit) = Arc::clone(&shared.searches.0.watchers).try_acquire_owned() else {
        return error::of_call(&error::busy());
    };
    let watch = Watch {
        searches: shared.searches.clone(),
        id,
        stop: shared.stop.clone(),
        said: None,
        told_at: Instant::now(),
        is_over: false,
        _permit: permit,
    };
    let kind = [(header::CONTENT_TYPE, "text/event-stream")];
    let stream = futures::stream::unfold(watch, Watch::next);
    (kind, Body::from_stream(stream)).into_response()
}
