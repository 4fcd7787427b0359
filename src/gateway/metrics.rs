//! `/metrics` for Prometheus and `/healthz` for whoever watches over the node.
//!
//! Both answer anyone on this machine: they hold sums, never names of files, sets or peers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use serde_json::json;

use super::{Shared, error};
use crate::node::api::{CallError, ErrorKind, Metrics, Status};

/// Time that the node may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(10);
/// The text form of OpenMetrics.
const KIND: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Classes of statuses, 1xx to 5xx.
const CLASSES: usize = 5;

/// Answers by class of status.
#[derive(Debug, Clone, Default)]
pub(super) struct Answers(Arc<[AtomicU64; CLASSES]>);

impl Answers {
    /// Counts an answer.
    pub(super) fn count(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).saturating_sub(1);
        if let Some(counter) = self.0.get(class) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All answers.
    pub(super) fn total(&self) -> u64 {
        self.0.iter().map(|one| one.load(Ordering::Relaxed)).sum()
    }

    fn text(&self) -> Result<String, fmt::Error> {
        let answers = Family::<Labels, Counter>::default();
        for (class, counter) in self.0.iter().enumerate() {
            let labels = Labels {
                class: format!("{}xx", class + 1),
            };
            let count = counter.load(Ordering::Relaxed);
            answers.get_or_create(&labels).inc_by(count);
        }
        let mut registry = Registry::with_prefix("libernet");
        let help = "Answers of the local HTTP server by class of status";
        registry.register("http_answers", help, answers);
        let mut text = String::new();
        encode_registry(&mut text, &registry)?;
        Ok(text)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    class: String,
}

/// `GET /metrics`.
pub(super) async fn metrics(State(shared): State<Shared>) -> Response {
    let told = in_time(shared.client.metrics(Metrics {})).await;
    let failed = |_| CallError::new(ErrorKind::Failed, "the metrics could not be written");
    let text = told.and_then(|reply| {
        let own = shared.answers.text().map_err(failed)?;
        Ok(format!("{}{own}# EOF\n", reply.text))
    });
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, KIND)], text).into_response(),
        Err(failure) => error::of_call(&failure),
    }
}

/// `GET /healthz`: 200 while the node answers, 503 when it doesn't. Says nothing of backups.
pub(super) async fn healthz(State(shared): State<Shared>) -> Response {
    match in_time(shared.client.status(Status {})).await {
        Ok(status) => Json(json!({
            "status": if status.leaving { "leaving" } else { "ok" },
            "version": status.version,
            "uptime_s": status.uptime_s,
        }))
        .into_response(),
        Err(failure) => {
            let mut failure = failure;
            failure.kind = ErrorKind::Unavailable;
            error::of_call(&failure)
        }
    }
}

async fn in_time<T>(call: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
    let late = |_| CallError::new(ErrorKind::Unavailable, "the node did not answer in time");
    tokio::time::timeout(PATIENCE, call).await.map_err(late)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_class() {
        let answers = Answers::default();
        for status in [200, 204, 404, 599] {
            answers.count(StatusCode::from_u16(status).expect("a status"));
        }
        answers.count(StatusCode::from_u16(999).expect("a status"));
        assert_eq!(answers.total(), 4);
        let text = answers.text().expect("written");
        for line in [
            "libernet_http_answers_total{class=\"2xx\"} 2",
            "libernet_http_answers_total{class=\"4xx\"} 1",
            "libernet_http_answers_total{class=\"5xx\"} 1",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
