//! Places for requests that read content: bounded, and not held by clients that do not read.
//!
//! An answer that streams keeps its place until it ends, and a client may take it as slowly as it
//! likes. When all places are taken, the answer whose client has taken nothing for longest gives
//! way to a new request, once that has been for [`STALL`]. As long as nobody else asks, the slowest
//! client is served. A request that finds no place waits for one up to [`PATIENCE`].
//!
//! Deliberately absent: the token. Content is for every local program alike.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Most requests for blocks and content at once. Further ones wait.
pub(super) const MAX_READS: usize = 32;
/// Time that a request waits for a place before it is refused as busy.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pause between two looks for a client that takes nothing.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Time after which a client that takes nothing may lose its place to another.
const STALL: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Entry {
    /// Since when it is the client's turn to take something; none while the server works for it.
    waits_since: Option<Instant>,
    /// Fires when the connection is to end.
    cut: CancellationToken,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    open: HashMap<u64, Entry>,
}

impl Table {
    /// Takes a place, if there is one, or one that stands still.
    fn enter(&mut self, cut: CancellationToken, now: Instant) -> Option<u64> {
        if self.open.len() >= MAX_READS {
            let waits = |(id, entry): (&u64, &Entry)| Some((entry.waits_since?, *id));
            let (since, longest) = self.open.iter().filter_map(waits).min()?;
            if now.saturating_duration_since(since) < STALL {
                return None;
            }
            tracing::debug!("a local HTTP client that takes nothing gives way to another");
            self.open.remove(&longest)?.cut.cancel();
        }
        let id = self.next;
        self.next += 1;
        let entry = Entry {
            waits_since: None,
            cut,
        };
        self.open.insert(id, entry);
        Some(id)
    }
}

#[derive(Debug, Default)]
struct Inner {
    table: Mutex<Table>,
    /// Fires when a place is free.
    freed: Notify,
}

/// All requests that read. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Reads(Arc<Inner>);

impl Reads {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`enter`](Self::enter), and waits for a place for a while. Bounded by the connections
    /// that there may be: one of HTTP/1 has one request at a time.
    pub(super) async fn wait(&self, cut: CancellationToken) -> Option<Place> {
        let until = Instant::now() + PATIENCE;
        loop {
            let mut freed = std::pin::pin!(self.0.freed.notified());
            // Listens from here on: a place that is freed meanwhile is not missed.
            freed.as_mut().enable();
            if let Some(place) = self.enter(cut.clone()) {
                return Some(place);
            }
            let now = Instant::now();
            if now >= until {
                return None;
            }
            tokio::select! {
                () = freed => {}
                () = sleep_until(until.min(now + LOOK_AGAIN)) => {}
            }
        }
    }

    /// Takes a place for a request; `cut` is fired when it has to give way. None when no place is
    /// free.
    pub(super) fn enter(&self, cut: CancellationToken) -> Option<Place> {
        let id = self.table().enter(cut, Instant::now())?;
        Some(Place {
            reads: self.clone(),
            id,
        })
    }

    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        self.table().open.len()
    }
}

/// The place of one request, free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    reads: Reads,
    id: u64,
}

impl Place {
    fn set(&self, waits_since: Option<Instant>) {
        if let Some(entry) = self.reads.table().open.get_mut(&self.id) {
            entry.waits_since = waits_since;
        }
    }

    /// Keeps the place for as long as `stream` is read.
    pub(super) fn hold<S>(self, stream: S) -> Held<S> {
        Held {
            stream,
            place: self,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.reads.table().open.remove(&self.id);
        self.reads.0.freed.notify_one();
    }
}

/// Content that is read from a place.
pub(super) struct Held<S> {
    stream: S,
    place: Place,
}

impl<S: Stream + Unpin> Stream for Held<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let next = Pin::new(&mut self.stream).poll_next(cx);
        // The stream is asked for more when the client has taken what there was.
        let waits_since = next.is_ready().then(Instant::now);
        self.place.set(waits_since);
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;

    fn fill(reads: &Reads) -> Vec<(Place, CancellationToken)> {
        let places = (0..MAX_READS).map(|_| {
            let cut = CancellationToken::new();
            (reads.enter(cut.clone()).expect("a place"), cut)
        });
        places.collect()
    }

    fn endless() -> impl Stream<Item = u8> + Unpin {
        futures::stream::repeat(7)
    }

    #[tokio::test(start_paused = true)]
    async fn the_client_that_takes_nothing_for_longest_gives_way() {
        let reads = Reads::default();
        let (mut held, mut cuts) = (Vec::new(), Vec::new());
        for (place, cut) in fill(&reads) {
            held.push(place.hold(endless()));
            cuts.push(cut);
        }
        for stream in &mut held {
            stream.next().await;
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        // The second is read on, the first is not.
        tokio::time::advance(STALL / 2).await;
        assert!(reads.enter(CancellationToken::new()).is_none());
        tokio::time::advance(STALL / 2).await;
        held[0].next().await;
        let new = reads.enter(CancellationToken::new()).expect("a place");
        let cut: Vec<bool> = cuts.iter().map(CancellationToken::is_cancelled).collect();
        assert_eq!(cut.iter().filter(|cut| **cut).count(), 1);
        assert!(cut[1], "{cut:?}");
        drop((new, held));
        assert_eq!(reads.taken(), 0, "places come back once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_a_place_and_not_for_ever() {
        let reads = Reads::default();
        let mut places = fill(&reads);
        let began = Instant::now();
        assert!(reads.wait(CancellationToken::new()).await.is_none());
        assert_eq!(began.elapsed(), PATIENCE);
        let (waited, ()) = tokio::join!(reads.wait(CancellationToken::new()), async {
            tokio::task::yield_now().await;
            places.pop();
        });
        assert!(waited.is_some());
        assert_eq!(began.elapsed(), PATIENCE, "it came with the place");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_the_server_keeps_its_place() {
        let reads = Reads::default();
        let places = fill(&reads).into_iter();
        let pending = futures::stream::pending::<u8>;
        let mut held: Vec<_> = places.map(|(place, _)| place.hold(pending())).collect();
        for stream in &mut held {
            assert!(futures::poll!(stream.next()).is_pending());
        }
        tokio::time::advance(STALL * 9).await;
        assert!(reads.enter(CancellationToken::new()).is_none());
    }
}
