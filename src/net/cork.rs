//! Few large writes instead of many small ones: what the multiplexer writes is held back until it has nothing more to write.
//!
//! Yamux flushes after each frame, of 16 KiB at most. Under it each flush is a record of its own, encrypted, and a system call. A [`Cork`] takes such
//! flushes as promises: it keeps what it holds until it is full, or until the multiplexer turns to reading, which yamux does in the same turn once no stream has a frame
//! to send. Nothing waits longer than that, so a single small frame leaves as soon as without it.
//!
//! Invariant: after a flush, a read, or a write that returned "pending", what is held is being written as far as the stream below takes it.
//! Deliberately not for other writers: one that flushes and never reads would wait for ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};

/// Bytes that are held back at most: four full records of TLS.
const HELD_BYTES: usize = 64 << 10;

/// A multiplexer over a corked stream.
#[derive(Clone)]
pub(super) struct Corked<M>(pub(super) M);

impl<M: UpgradeInfo> UpgradeInfo for Corked<M> {
    type Info = M::Info;
    type InfoIter = M::InfoIter;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.protocol_info()
    }
}

impl<C, M: InboundConnectionUpgrade<Cork<C>>> InboundConnectionUpgrade<C> for Corked<M> {
    type Output = M::Output;
    type Error = M::Error;
    type Future = M::Future;

    fn upgrade_inbound(self, stream: C, info: Self::Info) -> Self::Future {
        self.0.upgrade_inbound(Cork::new(stream), info)
    }
}

impl<C, M: OutboundConnectionUpgrade<Cork<C>>> OutboundConnectionUpgrade<C> for Corked<M> {
    type Output = M::Output;
    type Error = M::Error;
    type Future = M::Future;

    fn upgrade_outbound(self, stream: C, info: Self::Info) -> Self::Future {
        self.0.upgrade_outbound(Cork::new(stream), info)
    }
}

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
    fn new(stream: C) -> Self {
        Self {
            stream,
            held: Vec::new(),
            taken: 0,
            is_dirty: false,
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
        // When the stream can't take it now, it wakes the task once it can, and the task reads again.
        if let Poll::Ready(Err(error)) = self.poll_uncork(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
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

    /// A promise: see the module.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_uncork(cx))?;
        Pin::new(&mut self.stream).poll_close(cx)
    }
}
