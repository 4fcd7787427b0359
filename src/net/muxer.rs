//! Many streams over one encrypted connection, by yamux.
//!
//! libp2p's own way to use yamux cuts what is written into frames of 16 KiB and lets nobody change that. A block of 1 MiB is 64 of them, and each costs
//! a buffer on both sides and a turn of every task on the way. Here a frame is [`FRAME_BYTES`]: what it takes a slow line to send is still
//! little beside what the system's own buffers hold. Whoever speaks yamux takes frames up to the window that it granted. How the connection is driven, and
//! how many streams wait to be taken, is as in libp2p's `libp2p-yamux`.
//!
//! Invariant: closing ends, also when the other side takes nothing any more; what it has not taken within [`CLOSE_TIMEOUT`] is lost.
//! Deliberately absent: finding out that a connection is stuck. That is the ping's work: two sides that both wait to write may stand still for ever
//! (yamux stops reading while it can't answer a ping, <https://github.com/libp2p/rust-yamux/issues/227>).

use std::collections::VecDeque;
use std::future::{Future, Ready};
use std::io;
use std::iter::{Once, once};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use tokio::time::{Sleep, sleep};
use yamux::{Config, Connection, ConnectionError, Mode, Stream};

use super::cork::Cork;
use crate::wire::names;

/// Bytes of a stream that are sent as one frame, at most.
const FRAME_BYTES: usize = 64 << 10;
/// Streams on one connection; each may hold a window of unread bytes.
const MAX_STREAMS: usize = 512;
/// Streams that the other side opened and nobody has taken yet. It opens no more than so many by itself before they are acknowledged.
const MAX_WAITING: usize = 256;

/// How long the other side may take to take what is left when a connection is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The two sides agree on yamux and start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Yamux;

impl Yamux {
    fn start<C>(stream: C, mode: Mode) -> Muxer<C>
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        let mut config = Config::default();
        config.set_max_num_streams(MAX_STREAMS);
        config.set_split_send_size(FRAME_BYTES);
        Muxer {
            connection: Connection::new(Cork::new(stream), config, mode),
            waiting: VecDeque::new(),
            taker: None,
            closing: None,
        }
    }
}

impl UpgradeInfo for Yamux {
    type Info = &'static str;
    type InfoIter = Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        once(names::YAMUX)
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> InboundConnectionUpgrade<C> for Yamux {
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Muxer<C>>>;

    fn upgrade_inbound(self, stream: C, _: &'static str) -> Self::Future {
        std::future::ready(Ok(Self::start(stream, Mode::Server)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> OutboundConnectionUpgrade<C> for Yamux {
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Muxer<C>>>;

    fn upgrade_outbound(self, stream: C, _: &'static str) -> Self::Future {
        std::future::ready(Ok(Self::start(stream, Mode::Client)))
    }
}

/// A connection that carries streams.
pub(super) struct Muxer<C> {
    connection: Connection<Cork<C>>,
    /// Streams that came while the connection was driven for another reason.
    waiting: VecDeque<Stream>,
    /// Who was told that there are none.
    taker: Option<Waker>,
    /// Ends the closing.
    closing: Option<Pin<Box<Sleep>>>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    /// Drives the connection until it has nothing to do, or the other side opens a stream.
    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        let next = ready!(self.connection.poll_next_inbound(cx));
        Poll::Ready(next.unwrap_or(Err(ConnectionError::Closed)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxer<C> {
    type Substream = Stream;
    type Error = ConnectionError;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Stream, ConnectionError>> {
        if let Some(stream) = self.waiting.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let next = self.poll_connection(cx);
        if next.is_pending() {
            self.taker = Some(cx.waker().clone());
        }
        next
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Stream, ConnectionError>> {
        self.connection.poll_new_outbound(cx)
    }

    fn poll_close(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ConnectionError>> {
        if let Poll::Ready(closed) = self.connection.poll_close(cx) {
            return Poll::Ready(closed);
        }
        let end = self
            .closing
            .get_or_insert_with(|| Box::pin(sleep(CLOSE_TIMEOUT)));
        ready!(end.as_mut().poll(cx));
        Poll::Ready(Err(ConnectionError::Closed))
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, ConnectionError>> {
        let stream = ready!(self.poll_connection(cx))?;
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back(stream);
            if let Some(taker) = self.taker.take() {
                taker.wake();
            }
        } else {
            // Dropped, it is reset.
            tracing::debug!(%stream, "a peer opens more streams than it may");
        }
        // There may be more to do, after others had their turn.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::poll_fn;
    use futures::{AsyncReadExt, AsyncWriteExt};
    use libp2p::core::muxing::StreamMuxerExt;
    use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

    type Pipe = Compat<tokio::io::DuplexStream>;

    fn pipe() -> (Pipe, Pipe) {
        let (a, b) = tokio::io::duplex(100_000);
        (a.compat(), b.compat())
    }

    /// Drives a connection until `work` is done.
    async fn drive<M, T>(muxer: &mut M, work: impl Future<Output = T>) -> T
    where
        M: StreamMuxer + Unpin,
        M::Error: std::fmt::Debug,
    {
        let mut work = std::pin::pin!(work);
        poll_fn(|cx| {
            if let Poll::Ready(Err(error)) = muxer.poll_unpin(cx) {
                panic!("the connection failed: {error:?}");
            }
            work.as_mut().poll(cx)
        })
        .await
    }

    /// Opens a stream, sends much, and reads back what the other side makes of it.
    async fn ask<M>(mut muxer: M, sent: &[u8]) -> Vec<u8>
    where
        M: StreamMuxer + Unpin,
        M::Error: std::fmt::Debug,
    {
        let opened = poll_fn(|cx| muxer.poll_outbound_unpin(cx)).await;
        let mut stream = std::pin::pin!(opened.expect("a stream"));
        let work = async {
            stream.write_all(sent).await.expect("written");
            stream.close().await.expect("closed");
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.expect("read");
            answer
        };
        drive(&mut muxer, work).await
    }

    /// Takes a stream and sends back what it reads, the last byte first.
    async fn answer<M>(mut muxer: M)
    where
        M: StreamMuxer + Unpin,
        M::Error: std::fmt::Debug,
    {
        let taken = poll_fn(|cx| muxer.poll_inbound_unpin(cx)).await;
        let mut stream = std::pin::pin!(taken.expect("a stream"));
        let work = async {
            let mut asked = Vec::new();
            stream.read_to_end(&mut asked).await.expect("read");
            asked.reverse();
            stream.write_all(&asked).await.expect("written");
            stream.close().await.expect("closed");
        };
        drive(&mut muxer, work).await;
        // Until the other side is content.
        let _ = poll_fn(|cx| muxer.poll_unpin(cx)).await;
    }

    async fn round_trip<A, B>(asking: A, answering: B)
    where
        A: StreamMuxer + Unpin,
        A::Error: std::fmt::Debug,
        B: StreamMuxer + Unpin,
        B::Error: std::fmt::Debug,
    {
        // More than a window.
        let sent: Vec<u8> = (0..9 * FRAME_BYTES as u32 + 5).map(|n| n as u8).collect();
        let asked = ask(asking, &sent);
        let both = futures::future::select(Box::pin(asked), Box::pin(answer(answering)));
        let futures::future::Either::Left((mut answer, _)) = both.await else {
            panic!("who answers stays until it is dropped");
        };
        answer.reverse();
        assert_eq!(answer, sent);
    }

    #[tokio::test]
    async fn large_frames_go_both_ways() {
        let (a, b) = pipe();
        round_trip(Yamux::start(a, Mode::Client), Yamux::start(b, Mode::Server)).await;
    }

    #[tokio::test]
    async fn a_frame_is_as_large_as_it_says() {
        let (a, mut other) = pipe();
        let mut muxer = Yamux::start(a, Mode::Client);
        let opened = poll_fn(|cx| muxer.poll_outbound_unpin(cx)).await;
        let mut stream = opened.expect("a stream");
        let work = async {
            let sent = [7; FRAME_BYTES + 1];
            stream.write_all(&sent).await.expect("written");
            let mut lens = Vec::new();
            while lens.iter().sum::<usize>() < sent.len() {
                let mut head = [0; 12];
                other.read_exact(&mut head).await.expect("a head");
                // Others tell of windows and pings.
                if head[1] == 0 {
                    let len = u32::from_be_bytes([head[8], head[9], head[10], head[11]]);
                    let mut body = vec![0; len as usize];
                    other.read_exact(&mut body).await.expect("a body");
                    lens.push(body.len());
                }
            }
            lens.retain(|len| *len > 0);
            lens
        };
        assert_eq!(drive(&mut muxer, work).await, [FRAME_BYTES, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn closing_ends_when_nobody_reads() {
        let (a, _other) = pipe();
        let mut muxer = Yamux::start(a, Mode::Client);
        let opened = poll_fn(|cx| muxer.poll_outbound_unpin(cx)).await;
        let mut stream = opened.expect("a stream");
        let written = async { stream.write_all(&[7; 3 * FRAME_BYTES]).await };
        drive(&mut muxer, written).await.expect("held");
        let began = tokio::time::Instant::now();
        let closed = poll_fn(|cx| muxer.poll_close_unpin(cx)).await;
        assert!(matches!(closed, Err(ConnectionError::Closed)), "{closed:?}");
        assert!(began.elapsed() >= CLOSE_TIMEOUT);

        let (a, mut other) = pipe();
        let mut muxer = Yamux::start(a, Mode::Client);
        let mut rest = Vec::new();
        let (closed, read) = futures::join!(
            poll_fn(|cx| muxer.poll_close_unpin(cx)),
            other.read_to_end(&mut rest)
        );
        closed.expect("closed at once");
        assert!(read.expect("read to its end") > 0);
    }

    /// With libp2p's own, which takes frames of any size up to the window.
    #[tokio::test]
    async fn libp2p_speaks_the_same() {
        let stock = libp2p::yamux::Config::default;
        let (a, b) = pipe();
        let theirs = stock().upgrade_inbound(b, names::YAMUX).await;
        round_trip(Yamux::start(a, Mode::Client), theirs.expect("agreed")).await;
        let (a, b) = pipe();
        let theirs = stock().upgrade_outbound(a, names::YAMUX).await;
        round_trip(theirs.expect("agreed"), Yamux::start(b, Mode::Server)).await;
    }

    #[tokio::test]
    async fn what_nobody_takes_is_bounded() {
        let (a, mut hostile) = pipe();
        let mut muxer = Yamux::start(a, Mode::Server);
        let mut frames = Vec::new();
        for number in 0..MAX_WAITING as u32 + 44 {
            // Version, type "data", flag "open", id, no bytes: as yamux's specification has it.
            frames.extend_from_slice(&[0, 0, 0, 1]);
            frames.extend_from_slice(&(2 * number + 1).to_be_bytes());
            frames.extend_from_slice(&[0; 4]);
        }
        let resets = async {
            hostile.write_all(&frames).await.expect("written");
            let mut resets = 0;
            while resets < 44 {
                let mut head = [0; 12];
                hostile.read_exact(&mut head).await.expect("an answer");
                let is_data = head[1] <= 1;
                let flags = u16::from_be_bytes([head[2], head[3]]);
                resets += usize::from(is_data && flags & 8 != 0);
            }
        };
        drive(&mut muxer, resets).await;
        assert_eq!(muxer.waiting.len(), MAX_WAITING);
        let taken = poll_fn(|cx| muxer.poll_inbound_unpin(cx)).await;
        assert!(taken.is_ok());
        assert_eq!(muxer.waiting.len(), MAX_WAITING - 1);
    }
}
