//! What is stored, sent, fetched and asked for, by the minute over a day and by the hour over a
//! month: two rings of fixed size, kept in a file.
//!
//! Times are the machine's clock's. Minutes in which the node did not run have no points. The file
//! is statistics alone: when it can't be read the series begins anew.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::metrics::Answers;
use crate::client::Client;
use crate::file;
use crate::node::api::{Status, StatusReply};
use crate::time::{Clock, SystemClock};

/// Name of the file in the data directory.
const FILE_NAME: &str = "series.json";
/// The version that is written and read.
const VERSION: u32 = 1;
/// Largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Seconds of a point of the day.
const MINUTE_S: u64 = 60;
/// Seconds of a point of the month.
const HOUR_S: u64 = 3600;
/// Points of a day.
const DAY_POINTS: usize = 24 * 60;
/// Points of a month.
const MONTH_POINTS: usize = 31 * 24;
/// Points between two writings of the file.
const SAVE_EVERY: u32 = 15;

/// One point. Numbers other than `stored` are of the time since the one before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Point {
    /// Beginning of its minute or hour, in seconds since 1970.
    at: u64,
    /// Bytes on disk at its end.
    stored: u64,
    /// Bytes of blocks given to peers.
    sent: u64,
    /// Bytes of blocks taken from peers.
    fetched: u64,
    /// Requests: blocks given to peers, and answers of the local server.
    requests: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Points {
    version: u32,
    day: VecDeque<Point>,
    month: VecDeque<Point>,
}

impl Default for Points {
    fn default() -> Self {
        Self {
            version: VERSION,
            day: VecDeque::new(),
            month: VecDeque::new(),
        }
    }
}

impl Points {
    fn add(&mut self, point: Point) {
        add(&mut self.day, point, MINUTE_S, DAY_POINTS);
        add(&mut self.month, point, HOUR_S, MONTH_POINTS);
    }
}

/// Adds a point to the one of its time, or behind all others. A clock that was set back adds to the
/// last one.
fn add(ring: &mut VecDeque<Point>, point: Point, step_s: u64, most: usize) {
    let at = point.at - point.at % step_s;
    match ring.back_mut() {
        Some(last) if last.at >= at => {
            last.stored = point.stored;
            last.sent = last.sent.saturating_add(point.sent);
            last.fetched = last.fetched.saturating_add(point.fetched);
            last.requests = last.requests.saturating_add(point.requests);
        }
        _ => ring.push_back(Point { at, ..point }),
    }
    while ring.len() > most {
        ring.pop_front();
    }
}

/// Counters that only grow, at one moment.
#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    sent: u64,
    fetched: u64,
    requests: u64,
}

impl Counters {
    fn of(status: &StatusReply, answers: u64) -> Self {
        Self {
            sent: status.exchange.served_bytes,
            fetched: status.exchange.fetched_bytes,
            requests: status.exchange.served_blocks.saturating_add(answers),
        }
    }
}

/// Span of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Span {
    /// By the minute.
    Day,
    /// By the hour.
    Month,
}

/// Points as an answer.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    /// Seconds of a point.
    step_s: u64,
    /// For each point its time, bytes stored, sent and fetched, and requests.
    points: Vec<[u64; 5]>,
}

/// The series of one node.
#[derive(Clone, Default)]
pub(super) struct Series {
    points: Arc<Mutex<Points>>,
    path: Option<PathBuf>,
}

impl Series {
    /// The series that is kept in `dir`. Reads its file; blocks on the disk.
    pub(super) fn open(dir: Option<&Path>) -> Self {
        let path = dir.map(|dir| dir.join(FILE_NAME));
        let points = path.as_deref().and_then(read).unwrap_or_default();
        Self {
            points: Arc::new(Mutex::new(points)),
            path,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Points> {
        // Each change is whole before the lock is given back.
        self.points.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn answer(&self, span: Span) -> Answer {
        let points = self.lock();
        let (step_s, ring) = match span {
            Span::Day => (MINUTE_S, &points.day),
            Span::Month => (HOUR_S, &points.month),
        };
        let row = |p: &Point| [p.at, p.stored, p.sent, p.fetched, p.requests];
        Answer {
            step_s,
            points: ring.iter().map(row).collect(),
        }
    }

    /// Adds a point a minute until `stop` fires.
    pub(super) async fn run(self, client: Client, answers: Answers, stop: CancellationToken) {
        let mut before: Option<Counters> = None;
        let mut unsaved = 0;
        let mut minutes = tokio::time::interval(Duration::from_secs(MINUTE_S));
        minutes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let status = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                status = async { minutes.tick().await; client.status(Status {}).await } => status,
            };
            let Ok(status) = status else { continue };
            let now = Counters::of(&status, answers.total());
            let then = before.replace(now).unwrap_or_default();
            self.lock().add(Point {
                at: SystemClock.now().0 / 1000,
                stored: status.store.disk_bytes,
                sent: now.sent.saturating_sub(then.sent),
                fetched: now.fetched.saturating_sub(then.fetched),
                requests: now.requests.saturating_sub(then.requests),
            });
            unsaved += 1;
            if unsaved >= SAVE_EVERY {
                unsaved = 0;
                self.save().await;
            }
        }
        self.save().await;
    }

    async fn save(&self) {
        let Some(path) = self.path.clone() else {
            return;
        };
        let points = self.lock().clone();
        let write = move || {
            let bytes = serde_json::to_vec(&points)?;
            file::replace(&path, &bytes)
        };
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the series was not saved"),
            Err(error) => tracing::debug!(%error, "the series was not saved"),
        }
    }
}

/// The points of a file that is whole and as large as it may be.
fn read(path: &Path) -> Option<Points> {
    let bytes = file::read(path, MAX_FILE_BYTES).ok()??;
    let points: Points = serde_json::from_slice(&bytes).ok()?;
    let fits = points.day.len() <= DAY_POINTS && points.month.len() <= MONTH_POINTS;
    (points.version == VERSION && fits).then_some(points)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(at: u64) -> Point {
        Point {
            at,
            stored: at,
            sent: 1,
            fetched: 2,
            requests: 3,
        }
    }

    #[test]
    fn rings_have_a_size_and_the_oldest_goes() {
        let mut points = Points::default();
        let minutes = 40 * 24 * 60;
        for minute in 0..minutes {
            points.add(point(minute * MINUTE_S + 7));
        }
        assert_eq!(points.day.len(), DAY_POINTS);
        assert_eq!(points.month.len(), MONTH_POINTS);
        let last = points.day.back().expect("there");
        assert_eq!(last.at, (minutes - 1) * MINUTE_S);
        let hour = points.month.back().expect("there");
        assert_eq!((hour.sent, hour.requests), (60, 180));
        assert_eq!(hour.stored, last.stored);
        points.add(point(0));
        assert_eq!(points.day.len(), DAY_POINTS, "a clock that was set back");
        assert_eq!(points.day.back().expect("there").sent, 2);
    }

    #[tokio::test]
    async fn a_series_is_kept_and_a_damaged_file_begins_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        let series = Series::open(Some(dir.path()));
        series.lock().add(point(120));
        series.save().await;
        let again = Series::open(Some(dir.path()));
        assert_eq!(*again.lock(), *series.lock());
        assert_eq!(again.answer(Span::Day).points, [[120, 120, 1, 2, 3]]);
        assert_eq!(again.answer(Span::Month).points, [[0, 120, 1, 2, 3]]);
        for bytes in [
            &b"{"[..],
            b"{\"version\":2,\"day\":[],\"month\":[]}",
            &[b' '; 2 << 20],
        ] {
            std::fs::write(dir.path().join(FILE_NAME), bytes).expect("written");
            assert_eq!(*Series::open(Some(dir.path())).lock(), Points::default());
        }
    }
}
