//! Bytes that peers have sent and nobody has read.
//!
//! A multiplexer takes what comes for a stream and holds it until the stream is read. A peer may
//! open streams by itself, so what it sends over these, unasked for, is counted: for each
//! connection and for all. Requests are small and read at once; where much is left unread, a peer
//! sends what nobody wants. Past a connection's bound it ends. Past the bound of all, the
//! connection ends that has the most, one of a ring's member only where there is no other.
//!
//! Before a peer has told who it is its bound is lower, and so is the number of its streams that
//! are handed out. Further ones wait, and count.
//!
//! Streams that this node opened are not counted: what comes over them was asked for, and how much
//! that is at one time is bounded by permits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use libp2p::Multiaddr;

use crate::net::limits::Limits;

/// A peer sends more than is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer has sent more than was read")]
pub(in crate::net) struct TooMuch;

#[derive(Default)]
struct Connection {
    /// By stream of the peer's. It is gone once nobody can read it any more.
    streams: HashMap<u32, usize>,
    unread: usize,
    /// Streams that are handed out.
    taken: usize,
    is_known: bool,
    is_member: bool,
    /// Connection that is to end.
    is_cut: bool,
    address: Option<Multiaddr>,
    /// The connection's task, and the same when it waits to take a stream.
    waker: Option<Waker>,
    taker: Option<Waker>,
}

fn wake(slot: &mut Option<Waker>) {
    if let Some(waker) = slot.take() {
        waker.wake();
    }
}

fn remember(slot: &mut Option<Waker>, waker: &Waker) {
    if !slot.as_ref().is_some_and(|known| known.will_wake(waker)) {
        *slot = Some(waker.clone());
    }
}

/// All connections. Pure but for the wakers.
struct Table {
    streams_before_identify: usize,
    before_identify: usize,
    per_connection: usize,
    all: usize,
    unread: usize,
    next: u64,
    connections: HashMap<u64, Connection>,
}

impl Table {
    fn bound(&self, connection: &Connection) -> usize {
        match connection.is_known {
            true => self.per_connection,
            false => self.before_identify,
        }
    }

    fn arrived(&mut self, number: u64, stream: u32, bytes: usize) {
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        let Some(unread) = connection.streams.get_mut(&stream) else {
            return;
        };
        *unread += bytes;
        connection.unread += bytes;
        self.unread += bytes;
        let connection = self.connections.get(&number);
        if connection.is_some_and(|one| one.unread > self.bound(one)) {
            self.cut(number);
        }
        while self.unread > self.all {
            let others = self.connections.iter().filter(|(_, one)| !one.is_cut);
            let most = others.max_by_key(|(_, one)| (!one.is_member, one.unread));
            let Some((&most, _)) = most.filter(|(_, one)| one.unread > 0) else {
                break;
            };
            self.cut(most);
        }
    }

    /// Marks a connection as one that is to end: the bytes that it holds count no more.
    fn cut(&mut self, number: u64) {
        if let Some(connection) = self.connections.get_mut(&number) {
            self.unread -= connection.unread;
            connection.unread = 0;
            connection.streams.clear();
            connection.is_cut = true;
            wake(&mut connection.waker);
        }
    }

    fn read(&mut self, number: u64, stream: u32, bytes: usize) {
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        if let Some(unread) = connection.streams.get_mut(&stream) {
            let bytes = bytes.min(*unread);
            *unread -= bytes;
            connection.unread -= bytes;
            self.unread -= bytes;
        }
    }

    fn ended(&mut self, number: u64, stream: u32) {
        if let Some(connection) = self.connections.get_mut(&number) {
            let unread = connection.streams.remove(&stream).unwrap_or(0);
            connection.unread -= unread;
            self.unread -= unread;
        }
    }
}

/// Counts for all connections of a net. Cheap to clone.
#[derive(Clone)]
pub(in crate::net) struct Unread(Arc<Mutex<Table>>);

impl Unread {
    pub(in crate::net) fn new(limits: &Limits) -> Self {
        Self(Arc::new(Mutex::new(Table {
            streams_before_identify: limits.streams_before_identify,
            before_identify: limits.unread_before_identify,
            per_connection: limits.unread_per_connection,
            all: limits.unread,
            unread: 0,
            next: 0,
            connections: HashMap::new(),
        })))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to count for a connection.
    pub(in crate::net) fn open(&self) -> Account {
        let mut table = self.table();
        let number = table.next;
        table.next += 1;
        table.connections.insert(number, Connection::default());
        Account {
            unread: self.clone(),
            number,
        }
    }

    /// The peer that connected from an address has told who it is.
    pub(in crate::net) fn identified(&self, address: &Multiaddr, is_member: bool) {
        let mut table = self.table();
        let mut connections = table.connections.values_mut();
        let found = connections.find(|one| one.address.as_ref() == Some(address));
        if let Some(connection) = found {
            connection.is_known = true;
            connection.is_member = is_member;
            wake(&mut connection.taker);
        }
    }

    #[cfg(test)]
    pub(in crate::net) fn bytes(&self) -> usize {
        self.table().unread
    }
}

/// Counts for one connection, until it is dropped.
pub(in crate::net) struct Account {
    unread: Unread,
    number: u64,
}

impl Account {
    fn with<T>(&self, f: impl FnOnce(&mut Connection) -> T) -> Option<T> {
        let mut table = self.unread.table();
        table.connections.get_mut(&self.number).map(f)
    }

    /// Where the peer connected from. None: this node has made the connection, and the peer counts
    /// as known.
    pub(in crate::net) fn is_from(&self, address: Option<Multiaddr>) {
        self.with(|connection| {
            connection.is_known = address.is_none();
            connection.address = address;
        });
    }

    /// The peer opens a stream.
    pub(in crate::net) fn opened(&self, stream: u32) {
        self.with(|connection| {
            if !connection.is_cut {
                connection.streams.entry(stream).or_default();
            }
        });
    }

    /// Bytes have come for a stream.
    pub(in crate::net) fn arrived(&self, stream: u32, bytes: usize) {
        self.unread.table().arrived(self.number, stream, bytes);
    }

    /// Bytes of a stream were read.
    pub(in crate::net) fn read(&self, stream: u32, bytes: usize) {
        self.unread.table().read(self.number, stream, bytes);
    }

    /// A stream that was handed out, or is not to be, has ended.
    pub(in crate::net) fn ended(&self, stream: u32, was_taken: bool) {
        self.unread.table().ended(self.number, stream);
        if was_taken {
            self.with(|connection| {
                connection.taken -= 1;
                wake(&mut connection.taker);
            });
        }
    }

    /// Whether one more stream may be handed out; then it counts. Otherwise the waker is woken when
    /// that may have changed.
    pub(in crate::net) fn take(&self, waker: &Waker) -> bool {
        let mut table = self.unread.table();
        let most = table.streams_before_identify;
        let Some(connection) = table.connections.get_mut(&self.number) else {
            return false;
        };
        let may = connection.is_known || connection.taken < most;
        match may {
            true => connection.taken += 1,
            false => remember(&mut connection.taker, waker),
        }
        may
    }

    /// Whether the connection may go on. The waker is woken when it may not any more.
    ///
    /// # Errors
    /// [`TooMuch`], when it is to end.
    pub(in crate::net) fn check(&self, waker: &Waker) -> Result<(), TooMuch> {
        let is_cut = self.with(|connection| {
            remember(&mut connection.waker, waker);
            connection.is_cut
        });
        match is_cut {
            Some(false) => Ok(()),
            Some(true) | None => Err(TooMuch),
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let mut table = self.unread.table();
        if let Some(connection) = table.connections.remove(&self.number) {
            table.unread -= connection.unread;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::task::noop_waker;
    use proptest::prelude::*;

    fn limits() -> Limits {
        Limits {
            streams_before_identify: 2,
            unread_before_identify: 100,
            unread_per_connection: 300,
            unread: 1000,
            ..Limits::default()
        }
    }

    fn is_cut(account: &Account) -> bool {
        account.check(&noop_waker()).is_err()
    }

    fn peer(unread: &Unread, n: u8, is_member: bool) -> Account {
        let address: Multiaddr = format!("/memory/{n}").parse().expect("an address");
        let account = unread.open();
        account.is_from(Some(address.clone()));
        unread.identified(&address, is_member);
        account.opened(1);
        account
    }

    #[test]
    fn before_a_peer_has_told_who_it_is_it_has_less() {
        let unread = Unread::new(&limits());
        let account = unread.open();
        let address: Multiaddr = "/memory/1".parse().expect("an address");
        account.is_from(Some(address.clone()));
        for stream in [1, 3, 5] {
            account.opened(stream);
            account.arrived(stream, 33);
        }
        let waker = noop_waker();
        assert!(account.take(&waker) && account.take(&waker));
        assert!(!account.take(&waker), "the third waits");
        account.read(1, 33);
        account.ended(1, true);
        assert!(account.take(&waker), "there is a place again");
        unread.identified(&address, false);
        assert!(account.take(&waker));
        account.arrived(3, 200);
        assert!(!is_cut(&account));
        account.arrived(3, 35);
        assert!(is_cut(&account), "301 bytes");
        assert_eq!(unread.bytes(), 0);
        let other = unread.open();
        other.is_from(Some(address));
        other.opened(1);
        other.arrived(1, 101);
        assert!(is_cut(&other), "it has not told who it is");
    }

    #[test]
    fn past_the_bound_of_all_the_one_with_the_most_ends_and_members_last() {
        let unread = Unread::new(&limits());
        let member = peer(&unread, 0, true);
        member.arrived(1, 300);
        let others: Vec<Account> = (1..5).map(|n| peer(&unread, n, false)).collect();
        for (other, bytes) in others.iter().zip([200, 240, 160, 100]) {
            other.arrived(1, bytes);
            assert!(!is_cut(other));
        }
        others[3].arrived(1, 1);
        let cut: Vec<bool> = others.iter().map(is_cut).collect();
        assert_eq!(cut, [false, true, false, false]);
        assert!(!is_cut(&member));
        drop((member, others));
        assert_eq!(unread.bytes(), 0);
    }

    #[test]
    fn what_this_node_asked_for_is_not_counted() {
        let unread = Unread::new(&limits());
        let account = unread.open();
        account.is_from(None);
        account.arrived(2, usize::MAX);
        assert!(!is_cut(&account));
        assert_eq!(unread.bytes(), 0);
    }

    proptest! {
        #[test]
        fn what_is_counted_is_the_sum(
            steps in proptest::collection::vec((0..4_u8, 0..4_u32, 0..5_u8, 0..90_usize), 0..200),
        ) {
            let unread = Unread::new(&limits());
            let accounts: Vec<Account> = (0..4).map(|n| peer(&unread, n, n == 0)).collect();
            for (who, stream, what, bytes) in steps {
                let account = &accounts[usize::from(who)];
                match what {
                    0 => account.opened(stream),
                    1 => account.ended(stream, false),
                    2 => account.read(stream, bytes),
                    _ => account.arrived(stream, bytes),
                }
                let table = unread.table();
                let sum = |one: &Connection| one.streams.values().sum::<usize>();
                for one in table.connections.values() {
                    prop_assert_eq!(one.unread, sum(one));
                    prop_assert!(one.unread <= 300);
                }
                prop_assert_eq!(table.unread, table.connections.values().map(sum).sum::<usize>());
                prop_assert!(table.unread <= 1000);
            }
            drop(accounts);
            prop_assert_eq!(unread.bytes(), 0);
        }
    }
}
