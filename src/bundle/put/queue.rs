//! Bounded hand-over between the threads of one put. Closing wakes everybody: nobody waits for what will never come.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The work was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Closed;

/// A first-in first-out queue for any number of threads on both sides.
pub(super) struct Queue<T> {
    state: Mutex<QueueState<T>>,
    changed: Condvar,
    limit: usize,
}

struct QueueState<T> {
    items: VecDeque<T>,
    closed: bool,
}

impl<T> Queue<T> {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            state: Mutex::new(QueueState {
                items: VecDeque::new(),
                closed: false,
            }),
            changed: Condvar::new(),
            limit,
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room.
    pub(super) fn push(&self, item: T) -> Result<(), Closed> {
        let mut state = self.lock();
        while state.items.len() >= self.limit && !state.closed {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return Err(Closed);
        }
        state.items.push_back(item);
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// Waits for an item. `None` once closed, whatever is left.
    pub(super) fn pop(&self) -> Option<T> {
        self.pop_when(|_| true)
    }

    /// As [`pop`](Self::pop), but takes an item only while `may` agrees, which is told how many there are. It is asked again whenever
    /// something changes in the queue, and by [`wake`](Self::wake).
    pub(super) fn pop_when(&self, may: impl Fn(usize) -> bool) -> Option<T> {
        let mut state = self.lock();
        loop {
            if may(state.items.len())
                && let Some(item) = self.take(&mut state)
            {
                return Some(item);
            }
            if state.closed {
                return None;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Has everybody who waits look again.
    pub(super) fn wake(&self) {
        let _state = self.lock();
        self.changed.notify_all();
    }

    /// An item, if there is one now.
    pub(super) fn try_pop(&self) -> Option<T> {
        self.take(&mut self.lock())
    }

    fn take(&self, state: &mut QueueState<T>) -> Option<T> {
        let item = state.items.pop_front()?;
        self.changed.notify_all();
        Some(item)
    }

    /// Ends all waiting and drops what is left.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        // Dropped outside the lock: what is dropped may take other locks.
        let left = std::mem::take(&mut state.items);
        drop(state);
        self.changed.notify_all();
        drop(left);
    }
}

/// A number of units that are lent and given back.
pub(super) struct Permits {
    state: Mutex<PermitState>,
    changed: Condvar,
    total: usize,
}

struct PermitState {
    free: usize,
    closed: bool,
}

/// Units on loan; given back when dropped.
pub(super) struct Permit {
    from: Arc<Permits>,
    units: usize,
}

impl Permits {
    pub(super) fn new(total: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(PermitState {
                free: total,
                closed: false,
            }),
            changed: Condvar::new(),
            total,
        })
    }

    /// Waits for `units`; more than there are in all is cut to all.
    pub(super) fn acquire(self: &Arc<Self>, units: usize) -> Result<Permit, Closed> {
        let units = units.min(self.total);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.free < units && !state.closed {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return Err(Closed);
        }
        state.free -= units;
        Ok(Permit {
            from: self.clone(),
            units,
        })
    }

    /// Waits until everything was given back.
    pub(super) fn acquire_all(self: &Arc<Self>) -> Result<Permit, Closed> {
        self.acquire(self.total)
    }

    /// Ends all waiting.
    pub(super) fn close(&self) {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .closed = true;
        self.changed.notify_all();
    }
}

impl Permit {
    /// Moves the units to a new permit and leaves none behind.
    pub(super) fn take(&mut self) -> Self {
        Self {
            from: self.from.clone(),
            units: std::mem::take(&mut self.units),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.from
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .free += self.units;
        self.from.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_waits_and_a_closed_one_refuses() {
        let queue = Queue::new(1);
        queue.push(1).expect("there is room");
        std::thread::scope(|scope| {
            let second = scope.spawn(|| queue.push(2));
            assert_eq!(queue.pop(), Some(1));
            assert_eq!(queue.pop(), Some(2));
            assert_eq!(second.join().expect("no panic"), Ok(()));
            let waiting = scope.spawn(|| queue.pop());
            queue.close();
            assert_eq!(waiting.join().expect("no panic"), None);
        });
        assert_eq!(queue.push(3), Err(Closed));
    }

    #[test]
    fn permits_come_back() {
        let permits = Permits::new(2);
        let one = permits.acquire(1).expect("free");
        std::thread::scope(|scope| {
            let all = scope.spawn(|| permits.acquire_all().map(drop));
            drop(one);
            assert_eq!(all.join().expect("no panic"), Ok(()));
        });
        // More than there is means all.
        drop(permits.acquire(100).expect("cut to all"));
        permits.close();
        assert!(permits.acquire(1).is_err());
    }
}
