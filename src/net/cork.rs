//! Few large writes instead of many small ones: what the multiplexer writes is held back until it has nothing more to write.
//!
//! Yamux writes the head of a frame, then its body, and flushes: each would be a record of its own to encrypt, and a system call. A [`Cork`] lets such a
//! flush wait until it is full, or until the multiplexer turns to reading, which yamux does in the same turn as soon as no stream has a
//! frame to send. Nothing waits longer than that: a single small frame leaves as soon as without it. The name is that of TCP_CORK in tcp(7).
//!
//! Invariant: once a read or a close was asked for, what is held is written as far as the stream below takes it, and the task is woken when it takes more.
//! Deliberately not for other writers: one that flushes and never reads would wait for ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};

/// Bytes that are held back at most: four full records of TLS.
const HELD_BYTES: usize = 64 << 10;

/// A stream that holds writes back.
pub(super) struct Cork<C> {
    stream: C,
    held: Vec<u8>,
    /// How much of it the stream has taken.
    taken: usize,
    /// The stream has something that was written and not flushed.
    is_dirty: bool,
}

impl<C> Cork<C> {
    pub(super) fn new(stream: C) -> Self {
        Self {
            stream,
            held: Vec::new(),
            taken: 0,
            // What was written before may not be flushed yet.
            is_dirty: true,
        }
    }
}

impl<C: AsyncWrite + Unpin> Cork<C> {
    /// Hands what is held to the stream.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.taken < self.held.len() {
            let rest = &self.held[self.taken..];
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.taken += written,
            }
        }
        self.held.clear();
        self.taken = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_uncork(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_dirty {
            ready!(self.poll_drain(cx))?;
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.is_dirty = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> AsyncRead for Cork<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let was_clean = !self.is_dirty;
        // When the stream can't take it now, it wakes the task once it can, and the task reads again.
        if let Poll::Ready(Err(error)) = self.poll_uncork(cx) {
            return Poll::Ready(Err(error));
        }
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if was_clean && read.is_pending() {
            // Nothing to write and nothing to read: an idle connection holds no memory.
            self.held = Vec::new();
        }
        read
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Cork<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.held.len() >= HELD_BYTES {
            ready!(self.poll_drain(cx))?;
        }
        let room = HELD_BYTES - self.held.len();
        let fits = &bytes[..bytes.len().min(room)];
        self.held.extend_from_slice(fits);
        self.is_dirty = true;
        Poll::Ready(Ok(fits.len()))
    }

    /// Waits for the next read or close: see the module.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_uncork(cx))?;
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::task::noop_waker;
    use proptest::prelude::*;

    /// Takes so many bytes, and keeps a record of each write.
    #[derive(Default)]
    struct Below {
        room: usize,
        writes: Vec<Vec<u8>>,
        flushed: usize,
        is_closed: bool,
    }

    impl Below {
        fn bytes(&self) -> Vec<u8> {
            self.writes.concat()
        }
    }

    impl AsyncRead for Below {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Below {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            if self.room == 0 {
                return Poll::Pending;
            }
            let taken = bytes.len().min(self.room);
            self.room -= taken;
            self.writes.push(bytes[..taken].to_vec());
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushed = self.bytes().len();
            Poll::Ready(Ok(()))
        }

        fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.is_closed = true;
            Poll::Ready(Ok(()))
        }
    }

    fn with_room(room: usize) -> Cork<Below> {
        Cork::new(Below {
            room,
            ..Below::default()
        })
    }

    fn write(cork: &mut Cork<Below>, bytes: &[u8]) -> Option<usize> {
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        let written = match Pin::new(&mut *cork).poll_write(&mut cx, bytes) {
            Poll::Ready(written) => Some(written.expect("it takes bytes")),
            Poll::Pending => None,
        };
        assert!(Pin::new(cork).poll_flush(&mut cx).is_ready());
        written
    }

    fn read(cork: &mut Cork<Below>) {
        let waker = noop_waker();
        let read = Pin::new(cork).poll_read(&mut Context::from_waker(&waker), &mut [0; 8]);
        assert!(read.is_pending());
    }

    fn close(cork: &mut Cork<Below>) -> bool {
        let waker = noop_waker();
        let closed = Pin::new(cork).poll_close(&mut Context::from_waker(&waker));
        closed.map(|closed| closed.expect("it closes")).is_ready()
    }

    #[test]
    fn what_was_written_leaves_as_one_with_the_next_read() {
        let mut cork = with_room(usize::MAX);
        for part in [&b"head"[..], b"body", b"head", b"more"] {
            assert_eq!(write(&mut cork, part), Some(4));
        }
        assert!(cork.stream.writes.is_empty());
        read(&mut cork);
        assert_eq!(cork.stream.writes, [b"headbodyheadmore"]);
        assert_eq!(cork.stream.flushed, 16);
        assert!(cork.held.capacity() > 0);
        read(&mut cork);
        assert_eq!(cork.stream.writes.len(), 1);
        assert_eq!(cork.held.capacity(), 0);
    }

    #[test]
    fn it_holds_so_much_and_no_more() {
        let mut cork = with_room(0);
        let large = vec![1; HELD_BYTES + 1];
        assert_eq!(write(&mut cork, &large), Some(HELD_BYTES));
        assert_eq!(write(&mut cork, &large[..1]), None);
        cork.stream.room = 10;
        assert_eq!(write(&mut cork, &large[..1]), None);
        cork.stream.room = usize::MAX;
        assert_eq!(write(&mut cork, &large[..1]), Some(1));
        assert!(close(&mut cork));
        assert_eq!(cork.stream.bytes(), large);
        assert!(cork.stream.is_closed);
    }

    #[test]
    fn closing_waits_for_what_is_held() {
        let mut cork = with_room(2);
        assert_eq!(write(&mut cork, b"last"), Some(4));
        assert!(!close(&mut cork));
        assert!(!cork.stream.is_closed);
        cork.stream.room = 2;
        assert!(close(&mut cork));
        assert_eq!((cork.stream.flushed, cork.stream.is_closed), (4, true));
    }

    proptest! {
        #[test]
        fn bytes_stay_in_order(parts in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 0..40_000), 0..90_000_usize, any::<bool>()), 0..20,
        )) {
            let mut cork = with_room(0);
            let mut sent = Vec::new();
            for (part, room, reads) in parts {
                cork.stream.room += room;
                if let Some(written) = write(&mut cork, &part) {
                    sent.extend_from_slice(&part[..written]);
                }
                if reads {
                    read(&mut cork);
                }
                prop_assert!(cork.held.len() <= HELD_BYTES);
            }
            cork.stream.room = usize::MAX;
            read(&mut cork);
            prop_assert_eq!(cork.stream.flushed, sent.len());
            prop_assert_eq!(cork.stream.bytes(), sent);
        }
    }
}
