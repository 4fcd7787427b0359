//! The last lines of this process's log, kept in memory for the dashboard.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::text::printable;
use crate::time::{Clock, SystemClock, Timestamp};

/// Lines that are kept.
const MAX_LINES: usize = 400;
/// Longest line in bytes.
const MAX_LINE_BYTES: usize = 600;

static TAIL: Tail = Tail(Mutex::new(Lines {
    next: 0,
    lines: VecDeque::new(),
}));

/// One line of the log.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Line {
    /// Number of the line since the start.
    number: u64,
    /// When it was written.
    time: Timestamp,
    /// `ERROR`, `WARN`, `INFO`, ...
    level: &'static str,
    /// Part of the program that wrote it.
    target: String,
    /// The text.
    text: String,
}

struct Lines {
    next: u64,
    lines: VecDeque<Line>,
}

/// The last lines of the log.
pub struct Tail(Mutex<Lines>);

/// The tail of this process's log. What is to be kept in it goes through its [`KeepTail`].
pub fn tail() -> &'static Tail {
    &TAIL
}

impl Tail {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        // Each change is whole before the lock is given back.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, level: &'static str, target: &str, text: String) {
        let mut lines = self.lock();
        let number = lines.next;
        lines.next += 1;
        if lines.lines.len() >= MAX_LINES {
            lines.lines.pop_front();
        }
        lines.lines.push_back(Line {
            number,
            time: SystemClock.now(),
            level,
            target: target.to_owned(),
            text,
        });
    }

    /// Lines from this number on, oldest first.
    pub(super) fn from(&self, number: u64) -> Vec<Line> {
        let lines = self.lock();
        let later = lines.lines.iter().filter(|line| line.number >= number);
        later.cloned().collect()
    }
}

/// Keeps what is logged in the [`tail`].
#[derive(Debug, Default)]
pub struct KeepTail;

impl<S: Subscriber> Layer<S> for KeepTail {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let about = event.metadata();
        let text = printable(&text.0);
        tail().push(about.level().as_str(), about.target(), text);
    }
}

/// Message and fields of an event as one line.
struct Text(String);

impl Text {
    fn add(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let before = if self.0.is_empty() { "" } else { " " };
        // Writing to a text does not fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{before}{value}"),
            name => write!(self.0, "{before}{name}={value}"),
        };
        let end = self.0.floor_char_boundary(MAX_LINE_BYTES);
        self.0.truncate(end);
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, format_args!("{value}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt as _;

    #[test]
    fn the_last_lines_are_kept_in_bounded_memory() {
        let subscriber = tracing_subscriber::registry().with(KeepTail);
        tracing::subscriber::with_default(subscriber, || {
            for n in 0..=MAX_LINES {
                tracing::info!(n, "a line");
            }
            tracing::warn!(why = "x".repeat(2 * MAX_LINE_BYTES), "a long line");
        });
        let lines = tail().from(0);
        assert_eq!(lines.len(), MAX_LINES);
        let last = lines.last().expect("there");
        assert_eq!(last.level, "WARN");
        assert!(last.text.len() <= MAX_LINE_BYTES);
        assert!(last.text.contains("a long line"), "{}", last.text);
        assert_eq!(tail().from(last.number).len(), 1);
        assert!(tail().from(last.number + 1).is_empty());
    }
}
