//! Weighs what a multiplexer reads: how many bytes have come for which stream.
//!
//! Yamux does not tell what it holds for a stream that nobody reads. The heads of its frames do: 12
//! bytes each, of which a version, a type, flags, a stream's number and a length
//! (<https://github.com/hashicorp/yamux/blob/master/spec.md>). Content of the heads is told to an
//! [`Account`] as it passes, before yamux sees it. Deliberately absent: any check of the frames,
//! which is yamux's work.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};

use super::admission::Account;

const HEAD_BYTES: usize = 12;
const DATA: u8 = 0;
const WINDOW_UPDATE: u8 = 1;
const OPENS: u16 = 1;

/// Where in the sequence of frames the next byte is.
enum At {
    /// In a head, of which so much has come.
    Head([u8; HEAD_BYTES], usize),
    /// In the body of a data frame.
    Body { stream: u32, left: u32 },
}

/// A stream below a multiplexer, whose frames are weighed as they are read.
pub(super) struct Weighed<C> {
    stream: C,
    account: Arc<Account>,
    at: At,
}

impl<C> Weighed<C> {
    pub(super) const fn new(stream: C, account: Arc<Account>) -> Self {
        Self {
            stream,
            account,
            at: At::Head([0; HEAD_BYTES], 0),
        }
    }

    fn weigh(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match &mut self.at {
                At::Head(head, filled) => {
                    let missing = &mut head[*filled..];
                    let (part, rest) = bytes.split_at(missing.len().min(bytes.len()));
                    missing[..part.len()].copy_from_slice(part);
                    *filled += part.len();
                    bytes = rest;
                    if *filled == HEAD_BYTES {
                        let head = *head;
                        self.at = self.on_head(head);
                    }
                }
                At::Body { stream, left } => {
                    let len = bytes
                        .len()
                        .min(usize::try_from(*left).unwrap_or(usize::MAX));
                    let (part, rest) = bytes.split_at(len);
                    self.account.arrived(*stream, part.len());
                    *left -= u32::try_from(part.len()).unwrap_or(*left);
                    bytes = rest;
                    if *left == 0 {
                        self.at = At::Head([0; HEAD_BYTES], 0);
                    }
                }
            }
        }
    }

    fn on_head(&self, head: [u8; HEAD_BYTES]) -> At {
        let [_, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3] = head;
        let stream = u32::from_be_bytes([s0, s1, s2, s3]);
        let left = u32::from_be_bytes([l0, l1, l2, l3]);
        let opens = u16::from_be_bytes([f0, f1]) & OPENS != 0;
        if opens && matches!(kind, DATA | WINDOW_UPDATE) {
            self.account.opened(stream);
        }
        match (kind, left) {
            (DATA, 1..) => At::Body { stream, left },
            _ => At::Head([0; HEAD_BYTES], 0),
        }
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Weighed<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.weigh(&buffer[..read]);
        Poll::Ready(Ok(read))
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Weighed<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::admission::Unread;
    use crate::net::limits::Limits;
    use futures::AsyncReadExt;
    use futures::io::Cursor;

    fn frame(kind: u8, flags: u8, stream: u8, len: u8) -> Vec<u8> {
        let mut frame = vec![0, kind, 0, flags, 0, 0, 0, stream, 0, 0, 0, len];
        if kind == DATA {
            frame.resize(HEAD_BYTES + usize::from(len), 0xff);
        }
        frame
    }

    #[tokio::test]
    async fn bytes_are_counted_for_streams_that_the_other_side_opened() {
        let frames = [
            frame(WINDOW_UPDATE, 1, 1, 200),
            frame(DATA, 0, 1, 20),
            frame(2, 1, 0, 200),
            frame(DATA, 1, 3, 0),
            frame(DATA, 0, 2, 100),
            frame(DATA, 4, 3, 30),
        ]
        .concat();
        // However the bytes are cut.
        for len in 1..frames.len() {
            let unread = Unread::new(&Limits::default());
            let account = Arc::new(unread.open());
            let mut weighed = Weighed::new(Cursor::new(&frames), account.clone());
            let mut buffer = vec![0; len];
            while weighed.read(&mut buffer).await.expect("memory") > 0 {}
            assert_eq!(unread.bytes(), 50, "parts of {len} bytes");
            account.ended(3, false);
            assert_eq!(unread.bytes(), 20);
        }
    }
}
