//! What happens on the node, as server-sent events: `GET /api/v1/events`.
//!
//! Facts come under their own names, as `libernet up --json` prints them. Besides them come
//! `status` whenever it changed, `jobs` while calls are under way, and `missed` with a number when
//! a listener was too slow. There is a bound on listeners, and each has one small queue.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::{Shared, error, session};
use crate::node::NodeEvent;
use crate::node::api::Status;

/// Listeners at once.
pub(super) const MAX_LISTENERS: usize = 24;
/// How often it is looked whether status and calls have changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Time after which a listener is sent a comment, so that a dead connection shows.
const SILENCE: Duration = Duration::from_secs(15);

/// Places of listeners.
#[derive(Clone)]
pub(super) struct Listeners(Arc<Semaphore>);

impl Default for Listeners {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_LISTENERS)))
    }
}

/// `GET /api/v1/events`.
pub(super) async fn events(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    if let Err(refusal) = session::check(&headers, &shared) {
        return error::refused(refusal);
    }
    let Ok(permit) = Arc::clone(&shared.listeners.0).try_acquire_owned() else {
        return error::of_call(&error::busy());
    };
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let listener = Listener {
        facts: shared.client.events(),
        shared,
        ticks,
        status: Value::Null,
        had_jobs: false,
        told_at: Instant::now(),
        _permit: permit,
    };
    let kind = [(header::CONTENT_TYPE, "text/event-stream")];
    let stream = futures::stream::unfold(listener, Listener::next);
    (kind, Body::from_stream(stream)).into_response()
}

struct Listener {
    shared: Shared,
    facts: Option<broadcast::Receiver<NodeEvent>>,
    ticks: Interval,
    /// The status that was sent last, without what changes all the time.
    status: Value,
    had_jobs: bool,
    told_at: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Listener {
    /// The next events; `None` when the server stops.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        loop {
            let stop = self.shared.stop.clone();
            let text = tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                fact = next_fact(&mut self.facts) => told(fact),
                _ = self.ticks.tick() => self.look().await,
            };
            if !text.is_empty() {
                self.told_at = Instant::now();
                return Some((Ok(text.into()), self));
            }
        }
    }

    /// What has changed of the status and of calls; a comment when nothing was said for a while.
    async fn look(&mut self) -> String {
        let mut text = String::new();
        if let Ok(status) = self.shared.client.status(Status {}).await {
            let mut value = json!(status);
            let uptime = value["uptime_s"].take();
            if value != self.status {
                self.status = value.clone();
                value["uptime_s"] = uptime;
                text.push_str(&event("status", &value));
            }
        }
        let jobs = self.shared.jobs.list();
        if !jobs.is_empty() || self.had_jobs {
            self.had_jobs = !jobs.is_empty();
            text.push_str(&event("jobs", &jobs));
        }
        if text.is_empty() && self.told_at.elapsed() >= SILENCE {
            text.push_str(":\n\n");
        }
        text
    }
}

/// The next fact; waits for ever where there are none.
async fn next_fact(
    facts: &mut Option<broadcast::Receiver<NodeEvent>>,
) -> Result<NodeEvent, RecvError> {
    match facts {
        Some(receiver) => {
            let fact = receiver.recv().await;
            if matches!(fact, Err(RecvError::Closed)) {
                *facts = None;
            }
            fact
        }
        None => std::future::pending().await,
    }
}

fn told(fact: Result<NodeEvent, RecvError>) -> String {
    match fact {
        Ok(fact) => {
            let value = json!(fact);
            let name = value["event"].as_str().unwrap_or("event").to_owned();
            event(&name, &value)
        }
        Err(RecvError::Lagged(missed)) => event("missed", &json!({ "events": missed })),
        Err(RecvError::Closed) => String::new(),
    }
}

/// One event. JSON has no line breaks of its own.
fn event(name: &str, data: &impl Serialize) -> String {
    let data = serde_json::to_string(data).unwrap_or_else(|_| "null".to_owned());
    format!("event: {name}\ndata: {data}\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_of_json_under_its_name() {
        let fact = NodeEvent::Warning {
            message: "two\nlines".to_owned(),
        };
        let text = told(Ok(fact));
        assert_eq!(
            text,
            "event: warning\ndata: {\"event\":\"warning\",\"message\":\"two\\nlines\"}\n\n"
        );
        assert!(told(Err(RecvError::Lagged(3))).contains("{\"events\":3}"));
    }
}
