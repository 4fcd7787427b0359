//! The server's connections: bounded, and never all taken by clients that say nothing.
//!
//! A connection on which the token was presented stays. Of the others, when there are as many as
//! are allowed, one gives way to each new connection: first those that have not sent a whole
//! request yet, then those whose last request is longest ago. So a command is heard however many
//! half-sent requests are open.
//!
//! Deliberately absent: how long a client may take, which is the server's to say.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// Most connections at once that have not presented the token.
pub(super) const MAX_CONNECTIONS: usize = 128;
/// Most connections at once that have. Past that they are treated as the others.
const MAX_TRUSTED: usize = 128;

/// Facts of one connection.
#[derive(Debug)]
struct Entry {
    /// Counts requests and arrivals: the larger, the later.
    at: u64,
    has_asked: bool,
    is_trusted: bool,
    cut: CancellationToken,
}

#[derive(Debug, Default)]
struct Table {
    /// One for each connection and request.
    clock: u64,
    open: HashMap<u64, Entry>,
}

impl Table {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn trusted(&self) -> usize {
        self.open.values().filter(|entry| entry.is_trusted).count()
    }

    /// The connection that gives way to the next.
    fn victim(&self) -> Option<u64> {
        let others = self.open.iter().filter(|(_, entry)| !entry.is_trusted);
        let oldest = others.min_by_key(|(_, entry)| (entry.has_asked, entry.at));
        oldest.map(|(id, _)| *id)
    }
}

/// All connections of a server.
#[derive(Debug, Default)]
pub(super) struct Connections {
    table: Mutex<Table>,
}

impl Connections {
    fn lock(&self) -> MutexGuard<'_, Table> {
        // The table is whole between two statements.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a new connection in; where there is no room, another one is cut.
    pub(super) fn admit(self: &Arc<Self>) -> Guest {
        let cut = CancellationToken::new();
        let mut table = self.lock();
        if table.open.len() - table.trusted() >= MAX_CONNECTIONS
            && let Some(victim) = table.victim()
            && let Some(entry) = table.open.remove(&victim)
        {
            tracing::debug!("a local HTTP connection gives way to a new one");
            entry.cut.cancel();
        }
        let id = table.tick();
        let entry = Entry {
            at: id,
            has_asked: false,
            is_trusted: false,
            cut: cut.clone(),
        };
        table.open.insert(id, entry);
        Guest {
            connections: self.clone(),
            id,
            cut,
        }
    }
}

/// The place of one connection, free again when this is dropped.
#[derive(Debug)]
pub(super) struct Guest {
    connections: Arc<Connections>,
    id: u64,
    /// Fires when the connection is to end at once.
    pub(super) cut: CancellationToken,
}

impl Guest {
    /// A whole head of a request has come.
    pub(super) fn asked(&self) {
        let mut table = self.connections.lock();
        let at = table.tick();
        if let Some(entry) = table.open.get_mut(&self.id) {
            (entry.at, entry.has_asked) = (at, true);
        }
    }

    /// The token was presented.
    pub(super) fn trust(&self) {
        let mut table = self.connections.lock();
        let has_room = table.trusted() < MAX_TRUSTED;
        if let Some(entry) = table.open.get_mut(&self.id) {
            entry.is_trusted |= has_room;
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.connections.lock().open.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(guests: &[Guest]) -> Vec<usize> {
        let cut = guests.iter().enumerate();
        cut.filter(|(_, guest)| guest.cut.is_cancelled())
            .map(|(n, _)| n)
            .collect()
    }

    #[test]
    fn silent_connections_give_way_first_and_trusted_ones_never() {
        let connections = Arc::new(Connections::default());
        let guests: Vec<Guest> = (0..=MAX_CONNECTIONS)
            .map(|n| {
                let guest = connections.admit();
                match n {
                    0 => guest.trust(),
                    1 => guest.asked(),
                    _ => {}
                }
                guest
            })
            .collect();
        assert_eq!(cut(&guests), [0; 0], "there is room for one trusted more");
        let second = connections.admit();
        assert_eq!(cut(&guests), [2], "the oldest of the silent ones");
        for guest in &guests[3..] {
            guest.asked();
        }
        second.asked();
        let _third = connections.admit();
        assert_eq!(cut(&guests), [1, 2], "its request is the oldest");
        let _fourth = connections.admit();
        assert!(_third.cut.is_cancelled(), "it has asked for nothing");
    }

    #[test]
    fn places_come_back_and_trust_is_bounded() {
        let connections = Arc::new(Connections::default());
        let trusted: Vec<Guest> = (0..2 * MAX_TRUSTED)
            .map(|_| {
                let guest = connections.admit();
                guest.trust();
                guest
            })
            .collect();
        assert_eq!(connections.lock().trusted(), MAX_TRUSTED);
        assert!(connections.lock().open.len() <= MAX_TRUSTED + MAX_CONNECTIONS);
        let _one_more = connections.admit();
        assert!(
            !cut(&trusted).is_empty(),
            "without room for trust it may go"
        );
        drop(trusted);
        assert_eq!(connections.lock().open.len(), 1);
    }
}
