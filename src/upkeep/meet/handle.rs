//! Handle on the job that meets: what it is to look for, and what it has found.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::id::BlockId;
use crate::time::Timestamp;

/// Most searches that calls wait for at a time.
const MAX_WANTS: usize = 64;
/// Most addresses that are reported.
const MAX_WAYS: usize = 16;

/// Whom a call looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    /// Holders of an owner's head.
    Head(BlockId),
    /// Providers of the root block of a link.
    Link(BlockId),
}

/// An address at which a peer was reached that the meeting point told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The address.
    pub address: Multiaddr,
    /// The peer.
    pub peer: PeerId,
    /// When it was last reached there.
    pub reached: Timestamp,
}

/// Results of meeting in this run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// When the meeting point last answered.
    pub answered: Option<Timestamp>,
    /// Why it did not the last time, if it did not.
    pub error: Option<String>,
    /// Addresses that worked, the latest first.
    pub ways: Vec<Way>,
    /// Searches, announcements and dials that were begun.
    pub asked: u64,
    /// See `asked`.
    pub announced: u64,
    /// See `asked`.
    pub dialled: u64,
}

#[derive(Debug, Clone, Copy)]
struct Wanted {
    number: u64,
    topic: Topic,
    from: Instant,
    /// When it ends by itself; none: when it is dropped.
    until: Option<Instant>,
}

#[derive(Debug, Default)]
struct Wants {
    next: u64,
    list: Vec<Wanted>,
}

#[derive(Debug)]
struct Shared {
    may: bool,
    joined: watch::Sender<bool>,
    wants: Mutex<Wants>,
    changed: Notify,
    report: Mutex<Report>,
}

/// Handle on the job that meets. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Meeting(Arc<Shared>);

/// A search that goes on until this is dropped.
#[derive(Debug)]
pub struct Want {
    meeting: Meeting,
    number: u64,
}

impl Meeting {
    /// `may`: whether the settings let anything be sent; `joined`: whether somebody agreed to being
    /// seen as a node of the mesh.
    pub fn new(may: bool, joined: bool) -> Self {
        Self(Arc::new(Shared {
            may,
            joined: watch::Sender::new(joined),
            wants: Mutex::default(),
            changed: Notify::new(),
            report: Mutex::default(),
        }))
    }

    /// Whether the settings let anything be sent.
    pub fn may(&self) -> bool {
        self.0.may
    }

    /// Whether somebody agreed to being seen as a node of the mesh.
    pub fn is_joined(&self) -> bool {
        *self.0.joined.borrow()
    }

    /// Takes over whether somebody agrees.
    pub fn join(&self, joined: bool) {
        self.0.joined.send_replace(joined);
    }

    pub(super) fn watch_joined(&self) -> watch::Receiver<bool> {
        self.0.joined.subscribe()
    }

    /// Looks for somebody from `delay` on, until what is returned is dropped. None when nothing may
    /// be sent, or too many searches are under way.
    pub fn want(&self, topic: Topic, delay: Duration) -> Option<Want> {
        let number = self.add(topic, Instant::now() + delay, None)?;
        Some(Want {
            meeting: self.clone(),
            number,
        })
    }

    /// Looks for somebody from now on, and for so long.
    pub fn want_for(&self, topic: Topic, duration: Duration) {
        let now = Instant::now();
        let mut wants = self.wants();
        // One that is there already goes on for longer.
        wants
            .list
            .retain(|want| want.topic != topic || want.until.is_none());
        drop(wants);
        if self.add(topic, now, Some(now + duration)).is_none() {
            tracing::debug!("too many searches at the meeting point");
        }
    }

    fn add(&self, topic: Topic, from: Instant, until: Option<Instant>) -> Option<u64> {
        if !self.0.may {
            return None;
        }
        let number = {
            let mut wants = self.wants();
            let now = Instant::now();
            wants
                .list
                .retain(|want| want.until.is_none_or(|until| until > now));
            if wants.list.len() >= MAX_WANTS {
                return None;
            }
            wants.next += 1;
            let number = wants.next;
            wants.list.push(Wanted {
                number,
                topic,
                from,
                until,
            });
            number
        };
        self.look_again();
        Some(number)
    }

    /// There may be something new to announce.
    pub fn look_again(&self) {
        self.0.changed.notify_one();
    }

    /// Resolves when [`look_again`](Self::look_again) was called.
    pub(super) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Wants at that time, and the time when the next one begins.
    pub(super) fn wanted(&self, now: Instant) -> (Vec<Topic>, Option<Instant>) {
        let wants = self.wants();
        let lasts = |want: &&Wanted| want.until.is_none_or(|until| until > now);
        let begun = wants.list.iter().filter(|want| want.from <= now);
        let begun = begun.filter(lasts);
        let later = wants.list.iter().filter(|want| want.from > now);
        (
            begun.map(|want| want.topic).collect(),
            later.map(|want| want.from).min(),
        )
    }

    /// Results of meeting.
    pub fn report(&self) -> Report {
        self.lock_report().clone()
    }

    pub(super) fn note(&self, change: impl FnOnce(&mut Report)) {
        let mut report = self.lock_report();
        change(&mut report);
        report.ways.truncate(MAX_WAYS);
    }

    fn wants(&self) -> MutexGuard<'_, Wants> {
        // Each change is whole before anything can panic.
        self.0.wants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_report(&self) -> MutexGuard<'_, Report> {
        self.0.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Want {
    fn drop(&mut self) {
        let number = self.number;
        self.meeting
            .wants()
            .list
            .retain(|want| want.number != number);
        self.meeting.look_again();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_want_begins_after_its_delay_ends_when_dropped_and_there_is_a_bound() {
        let meeting = Meeting::new(true, false);
        let topic = Topic::Link(BlockId::from_sha384([1; 48]));
        let (now, delay) = (Instant::now(), Duration::from_secs(3));
        let want = meeting.want(topic, delay).expect("room");
        assert_eq!(meeting.wanted(now), (vec![], Some(now + delay)));
        assert_eq!(meeting.wanted(now + delay), (vec![topic], None));
        drop(want);
        assert_eq!(meeting.wanted(now + delay), (vec![], None));
        let wants: Vec<_> = (0..2 * MAX_WANTS)
            .map_while(|_| meeting.want(topic, delay))
            .collect();
        assert_eq!(wants.len(), MAX_WANTS);
        drop(wants);
        for _ in 0..3 {
            meeting.want_for(topic, delay);
        }
        assert_eq!(meeting.wanted(now), (vec![topic], None), "once");
        assert_eq!(meeting.wanted(now + 2 * delay), (vec![], None));
        let off = Meeting::new(false, true);
        off.want_for(topic, delay);
        assert_eq!(off.wanted(now), (vec![], None));
        assert!(off.want(topic, delay).is_none());
    }
}
