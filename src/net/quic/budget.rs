//! Receive memory of all QUIC connections together.
//!
//! QUIC tells a peer how much it may send before any of it is read: its window. What is unread is
//! therefore bounded by the sum of all windows, whatever peers do, and that sum is bounded here.
//! Each connection begins with a small window, enough for what peers ask. It grows while this node
//! has streams of its own open, over which it gets what it asked for. A window that was granted
//! can't be taken back, so when there is no room to grow the idle connection with the largest
//! window ends (its peer may connect again, with a small one); where none is idle, the window stays
//! as it is.
//!
//! Deliberately absent: streams, which quinn bounds for each connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quinn::{Connection, VarInt};

use crate::net::limits::Limits;

/// Window of a connection over which this node has asked for nothing.
pub(super) const FIRST_WINDOW_BYTES: usize = 128 << 10;
/// What each open stream of this node's own adds, and what a window has at most.
const BYTES_PER_STREAM: usize = 512 << 10;
const MAX_WINDOW_BYTES: usize = 8 << 20;
/// Told to a peer whose connection ends because others need its room.
const NO_ROOM: VarInt = VarInt::from_u32(1);

/// One connection's part.
#[derive(Debug, Clone, Copy)]
struct Part {
    window: usize,
    /// Open streams of this node's own.
    own: usize,
}

/// All connections. Pure.
#[derive(Debug)]
struct Table {
    all: usize,
    granted: usize,
    next: u64,
    parts: HashMap<u64, Part>,
}

impl Table {
    /// Takes `bytes` for a connection. The connections that have to end for that, or `None` when
    /// there is no room: then nothing has changed.
    fn make_room(&mut self, bytes: usize) -> Option<Vec<u64>> {
        let may_end = |part: &&Part| part.own == 0 && part.window > FIRST_WINDOW_BYTES;
        let idle = self.parts.iter().filter(|(_, part)| may_end(part));
        let mut idle: Vec<(u64, Part)> = idle.map(|(number, part)| (*number, *part)).collect();
        // The last one is the first to end.
        idle.sort_by_key(|(number, part)| (part.window, *number));
        let mut missing = (self.granted + bytes).saturating_sub(self.all);
        let mut ended = Vec::new();
        while missing > 0 {
            let (number, part) = idle.pop()?;
            missing = missing.saturating_sub(part.window);
            ended.push(number);
        }
        for number in &ended {
            self.close(*number);
        }
        self.granted += bytes;
        Some(ended)
    }

    fn open(&mut self) -> Option<(u64, Vec<u64>)> {
        let ended = self.make_room(FIRST_WINDOW_BYTES)?;
        let number = self.next;
        self.next += 1;
        let part = Part {
            window: FIRST_WINDOW_BYTES,
            own: 0,
        };
        self.parts.insert(number, part);
        Some((number, ended))
    }

    /// A stream of this node's own was opened. The connection's new window, if it has changed, and
    /// the connections that end for it.
    fn opened(&mut self, number: u64) -> Option<(usize, Vec<u64>)> {
        let part = self.parts.get_mut(&number)?;
        part.own += 1;
        let wanted = FIRST_WINDOW_BYTES + part.own * BYTES_PER_STREAM;
        let more = wanted.min(MAX_WINDOW_BYTES).checked_sub(part.window)?;
        if more == 0 {
            return None;
        }
        let ended = self.make_room(more)?;
        let part = self.parts.get_mut(&number)?;
        part.window += more;
        Some((part.window, ended))
    }

    fn ended(&mut self, number: u64) {
        if let Some(part) = self.parts.get_mut(&number) {
            part.own = part.own.saturating_sub(1);
        }
    }

    fn close(&mut self, number: u64) {
        if let Some(part) = self.parts.remove(&number) {
            self.granted -= part.window;
        }
    }
}

#[derive(Debug)]
struct Inner {
    table: Table,
    connections: HashMap<u64, Connection>,
}

/// The budget of one transport. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Budget(Arc<Mutex<Inner>>);

impl Budget {
    pub(super) fn new(limits: &Limits) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            table: Table {
                all: limits.unread,
                granted: 0,
                next: 0,
                parts: HashMap::new(),
            },
            connections: HashMap::new(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The table is whole between two statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first window of a connection, before it is made; `None` when there is no room for it.
    pub(super) fn open(&self) -> Option<Share> {
        let mut inner = self.lock();
        let (number, ended) = inner.table.open()?;
        inner.end(&ended);
        drop(inner);
        Some(Share {
            budget: self.clone(),
            number,
        })
    }

    #[cfg(test)]
    pub(super) fn granted(&self) -> usize {
        self.lock().table.granted
    }
}

impl Inner {
    fn end(&mut self, numbers: &[u64]) {
        for number in numbers {
            if let Some(connection) = self.connections.remove(number) {
                tracing::debug!(peer = %connection.remote_address(), "an idle connection ends: others need its room");
                connection.close(NO_ROOM, b"");
            }
        }
    }
}

/// A connection's part of the budget, until it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: Budget,
    number: u64,
}

impl Share {
    /// The connection is made.
    pub(super) fn is_of(&self, connection: &Connection) {
        let mut inner = self.budget.lock();
        if inner.table.parts.contains_key(&self.number) {
            inner.connections.insert(self.number, connection.clone());
        }
    }

    /// A stream of this node's own was opened.
    pub(super) fn opened(&self) {
        let mut inner = self.budget.lock();
        let Some((window, ended)) = inner.table.opened(self.number) else {
            return;
        };
        inner.end(&ended);
        let window = u32::try_from(window).unwrap_or(u32::MAX);
        if let Some(connection) = inner.connections.get(&self.number) {
            connection.set_receive_window(VarInt::from_u32(window));
        }
    }

    /// Such a stream has ended.
    pub(super) fn ended(&self) {
        self.budget.lock().table.ended(self.number);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut inner = self.budget.lock();
        inner.table.close(self.number);
        inner.connections.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(all: usize) -> Table {
        Table {
            all,
            granted: 0,
            next: 0,
            parts: HashMap::new(),
        }
    }

    #[test]
    fn a_window_grows_with_what_is_asked_for_up_to_a_bound() {
        let mut table = table(64 << 20);
        let (one, _) = table.open().expect("room");
        let mut window = FIRST_WINDOW_BYTES;
        for _ in 0..100 {
            if let Some((larger, ended)) = table.opened(one) {
                assert!(larger > window && ended.is_empty());
                window = larger;
            }
        }
        assert_eq!(window, MAX_WINDOW_BYTES);
        for _ in 0..100 {
            table.ended(one);
        }
        assert_eq!(table.opened(one), None, "it is as large as before");
        table.close(one);
        assert_eq!(table.granted, 0);
    }

    #[test]
    fn the_idle_connection_with_the_largest_window_gives_way() {
        let mut table = table(4 << 20);
        let (small, _) = table.open().expect("room");
        let (large, _) = table.open().expect("room");
        let (busy, _) = table.open().expect("room");
        for (number, streams) in [(small, 1), (large, 3), (busy, 2)] {
            for _ in 0..streams {
                table.opened(number);
            }
        }
        for (number, streams) in [(small, 1), (large, 3)] {
            for _ in 0..streams {
                table.ended(number);
            }
        }
        let mut gone = Vec::new();
        while let Some((_, ended)) = table.opened(busy) {
            gone.extend(ended);
        }
        assert_eq!(
            gone,
            [large, small],
            "the largest first, and the busy one never"
        );
        assert!(table.granted <= table.all);
    }

    proptest! {
        #[test]
        fn the_sum_of_all_windows_stays_within_the_budget(
            steps in proptest::collection::vec((0..6_u64, 0..4_u8), 0..300),
        ) {
            let mut table = table(3 << 20);
            for (number, what) in steps {
                match what {
                    0 => { table.open(); }
                    1 => { table.opened(number); }
                    2 => table.ended(number),
                    _ => table.close(number),
                }
                let sum: usize = table.parts.values().map(|part| part.window).sum();
                prop_assert_eq!(sum, table.granted);
                prop_assert!(sum <= table.all);
            }
        }
    }
}
