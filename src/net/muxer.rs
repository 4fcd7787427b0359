//! Many streams over one encrypted connection, by yamux.
//!
//! libp2p's own way to use yamux cuts what is written into frames of 16 KiB and lets nobody change that. A block of 1 MiB is 64 of them, and each costs
//! a buffer on both sides and a turn of every task on the way. Here a frame is [`FRAME_BYTES`]: what it takes a slow line to send is still
//! little beside what the system's own buffers hold. Whoever speaks yamux takes frames up to the window that it granted. How the connection is driven, and
//! how many streams wait to be taken, is as in libp2p's `libp2p-yamux`.
//!
//! Invariants:
//! - Closing ends, also when the other side takes nothing any more; what it has not taken within
//!   [`CLOSE_TIMEOUT`] is lost.
//! - What the other side sends, unasked for, and nobody reads, is bounded: for each connection and
//!   for all, see [`Unread`]. A connection that exceeds its bound ends.
//!
//! Deliberately absent: finding out that a connection is stuck. That is the ping's work: two sides
//! that both wait to write may stand still for ever (yamux stops reading while it can't answer a
//! ping, <https://github.com/libp2p/rust-yamux/issues/227>).

use std::collections::VecDeque;
use std::future::{Future, Ready};
use std::io;
use std::iter::{Once, once};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use futures::task::AtomicWaker;
use futures::{AsyncRead, AsyncWrite};
use libp2p::core::ConnectedPoint;
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use tokio::time::{Sleep, sleep};
use yamux::{Config, Connection, ConnectionError, Mode, Stream};

use super::admission::{Account, TooMuch, Unread};
use super::cork::Cork;
use super::weighed::Weighed;
use crate::wire::names;

/// Bytes of a stream that are sent as one frame, at most.
const FRAME_BYTES: usize = 64 << 10;
/// Streams on one connection, whoever opened them. Yamux ends a connection with more.
const MAX_STREAMS: usize = 112;
/// Streams of this node's own on one connection; further ones wait. A node that keeps to the same
/// number leaves room for streams that only one side knows to have ended.
const MAX_OWN_STREAMS: usize = 48;
/// Streams that the other side opened and nobody has taken yet.
const MAX_WAITING: usize = 96;
/// Bytes that all streams of a connection may hold unread, at most: 256 KiB each by yamux's
/// specification, and more for those that are read fast.
const WINDOW_BYTES: usize = 32 << 20;

/// How long the other side may take to take what is left when a connection is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The two sides agree on yamux and start.
#[derive(Clone)]
pub(super) struct Yamux {
    unread: Unread,
}

impl Yamux {
    /// Connections for which `unread` counts.
    pub(super) const fn new(unread: Unread) -> Self {
        Self { unread }
    }

    fn start<C>(&self, stream: C, mode: Mode) -> Muxer<C>
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        let mut config = Config::default();
        config.set_max_num_streams(MAX_STREAMS);
        config.set_max_connection_receive_window(Some(WINDOW_BYTES));
        config.set_split_send_size(FRAME_BYTES);
        let account = Arc::new(self.unread.open());
        let stream = Weighed::new(Cork::new(stream), account.clone());
        Muxer {
            connection: Connection::new(stream, config, mode),
            account,
            waiting: VecDeque::new(),
            taker: None,
            own: Arc::default(),
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
        std::future::ready(Ok(self.start(stream, Mode::Server)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> OutboundConnectionUpgrade<C> for Yamux {
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Muxer<C>>>;

    fn upgrade_outbound(self, stream: C, _: &'static str) -> Self::Future {
        std::future::ready(Ok(self.start(stream, Mode::Client)))
    }
}

/// Streams of this node's own that are open, and the task that waits to open one more.
#[derive(Default)]
struct Own {
    open: AtomicUsize,
    opener: AtomicWaker,
}

/// A stream of a connection.
pub(super) struct Substream {
    stream: Stream,
    /// Side that opened the stream, with the count that the stream is part of.
    counted: Counted,
}

enum Counted {
    /// The other side's: what comes is read.
    Taken(Arc<Account>),
    /// This node's own.
    Own(Arc<Own>),
}

impl Drop for Substream {
    fn drop(&mut self) {
        match &self.counted {
            Counted::Taken(account) => account.ended(self.stream.id().val(), true),
            Counted::Own(own) => {
                if own.open.fetch_sub(1, Ordering::Relaxed) >= MAX_OWN_STREAMS {
                    own.opener.wake();
                }
            }
        }
    }
}

impl AsyncRead for Substream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        if let (Ok(bytes), Counted::Taken(account)) = (&read, &self.counted) {
            account.read(self.stream.id().val(), *bytes);
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Substream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

/// A connection that carries streams.
pub(super) struct Muxer<C> {
    connection: Connection<Weighed<Cork<C>>>,
    account: Arc<Account>,
    /// Streams that came and are not taken yet.
    waiting: VecDeque<Stream>,
    /// The task that was told that there are none.
    taker: Option<Waker>,
    own: Arc<Own>,
    /// Ends the closing.
    closing: Option<Pin<Box<Sleep>>>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    /// Notes where the other side connected from, if it did.
    pub(super) fn with(self, endpoint: &ConnectedPoint) -> Self {
        self.account.is_from(match endpoint {
            ConnectedPoint::Listener { send_back_addr, .. } => Some(send_back_addr.clone()),
            ConnectedPoint::Dialer { .. } => None,
        });
        self
    }

    /// Drives the connection until it has nothing to do, or the other side opens a stream.
    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        let too_much = |error: TooMuch| ConnectionError::Io(io::Error::other(error));
        self.account.check(cx.waker()).map_err(too_much)?;
        let next = ready!(self.connection.poll_next_inbound(cx));
        Poll::Ready(next.unwrap_or(Err(ConnectionError::Closed)))
    }

    /// The stream that waits for longest, if one may be taken.
    fn take(&mut self, cx: &Context<'_>) -> Option<Substream> {
        if self.waiting.is_empty() || !self.account.take(cx.waker()) {
            return None;
        }
        let stream = self.waiting.pop_front()?;
        let counted = Counted::Taken(self.account.clone());
        Some(Substream { stream, counted })
    }

    /// Lets a stream wait to be taken.
    fn line_up(&mut self, stream: Stream) {
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back(stream);
            if let Some(taker) = self.taker.take() {
                taker.wake();
            }
        } else {
            // Dropped, it is reset.
            tracing::debug!(%stream, "a peer opens more streams than it may");
            self.account.ended(stream.id().val(), false);
        }
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxer<C> {
    type Substream = Substream;
    type Error = ConnectionError;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Substream, ConnectionError>> {
        self.taker = None;
        loop {
            if let Some(stream) = self.take(cx) {
                return Poll::Ready(Ok(stream));
            }
            match self.poll_connection(cx) {
                Poll::Ready(next) => self.line_up(next?),
                Poll::Pending => {
                    self.taker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        }
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Substream, ConnectionError>> {
        if self.own.open.load(Ordering::Relaxed) >= MAX_OWN_STREAMS {
            self.own.opener.register(cx.waker());
            // One may have ended in the meantime.
            if self.own.open.load(Ordering::Relaxed) >= MAX_OWN_STREAMS {
                return Poll::Pending;
            }
        }
        let stream = ready!(self.connection.poll_new_outbound(cx))?;
        self.own.open.fetch_add(1, Ordering::Relaxed);
        let counted = Counted::Own(self.own.clone());
        Poll::Ready(Ok(Substream { stream, counted }))
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
        self.line_up(stream);
        // There may be more to do, after others had their turn.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::limits::Limits;
    use futures::future::poll_fn;
    use futures::{AsyncReadExt, AsyncWriteExt};
    use libp2p::core::muxing::StreamMuxerExt;
    use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

    type Pipe = Compat<tokio::io::DuplexStream>;

    /// A muxer whose peer is known.
    fn start(stream: Pipe, mode: Mode) -> Muxer<Pipe> {
        let muxer = Yamux::new(Unread::new(&Limits::default())).start(stream, mode);
        muxer.account.is_from(None);
        muxer
    }

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
        round_trip(start(a, Mode::Client), start(b, Mode::Server)).await;
    }

    #[tokio::test]
    async fn a_frame_is_as_large_as_it_says() {
        let (a, mut other) = pipe();
        let mut muxer = start(a, Mode::Client);
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
        let mut muxer = start(a, Mode::Client);
        let opened = poll_fn(|cx| muxer.poll_outbound_unpin(cx)).await;
        let mut stream = opened.expect("a stream");
        let written = async { stream.write_all(&[7; 3 * FRAME_BYTES]).await };
        drive(&mut muxer, written).await.expect("held");
        let began = tokio::time::Instant::now();
        let closed = poll_fn(|cx| muxer.poll_close_unpin(cx)).await;
        assert!(matches!(closed, Err(ConnectionError::Closed)), "{closed:?}");
        assert!(began.elapsed() >= CLOSE_TIMEOUT);

        let (a, mut other) = pipe();
        let mut muxer = start(a, Mode::Client);
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
        round_trip(start(a, Mode::Client), theirs.expect("agreed")).await;
        let (a, b) = pipe();
        let theirs = stock().upgrade_outbound(a, names::YAMUX).await;
        round_trip(theirs.expect("agreed"), start(b, Mode::Server)).await;
    }

    #[tokio::test]
    async fn what_nobody_takes_is_bounded() {
        let (a, mut hostile) = pipe();
        let mut muxer = start(a, Mode::Server);
        let frames = unasked(MAX_WAITING as u32 + 10, 0);
        let resets = async {
            hostile.write_all(&frames).await.expect("written");
            let mut resets = 0;
            while resets < 10 {
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
    /// Frames that open streams and send so many bytes over each of them.
    fn unasked(streams: u32, bytes: u32) -> Vec<u8> {
        let mut frames = Vec::new();
        for number in 0..streams {
            let id = (2 * number + 1).to_be_bytes();
            // Version, type "data", flag "open": as yamux's specification has it.
            frames.extend_from_slice(&[0, 0, 0, 1]);
            frames.extend_from_slice(&id);
            frames.extend_from_slice(&bytes.to_be_bytes());
            frames.resize(frames.len() + bytes as usize, 7);
        }
        frames
    }

    #[tokio::test]
    async fn a_peer_that_sends_what_nobody_reads_is_cut_off() {
        for (is_known, most) in [(false, 1 << 20), (true, 4 << 20)] {
            let (a, mut hostile) = pipe();
            let unread = Unread::new(&Limits::default());
            let mut muxer = Yamux::new(unread.clone()).start(a, Mode::Server);
            let address: libp2p::Multiaddr = "/memory/1".parse().expect("an address");
            muxer.account.is_from(Some(address.clone()));
            if is_known {
                unread.identified(&address, false);
            }
            let frames = unasked(64, 256 << 10);
            let sent = std::sync::atomic::AtomicUsize::new(0);
            let sends = async {
                for part in frames.chunks(1 << 10) {
                    if hostile.write_all(part).await.is_err() {
                        break;
                    }
                    sent.fetch_add(part.len(), Ordering::Relaxed);
                }
                std::future::pending::<()>().await;
            };
            let cut = poll_fn(|cx| muxer.poll_unpin(cx).map(|polled| polled.err()));
            let error = tokio::select! {
                error = cut => error.expect("no event but an error"),
                () = sends => unreachable!("it waits"),
            };
            assert!(error.to_string().contains("more than was read"), "{error}");
            let sent = sent.into_inner();
            assert!((most..2 * most).contains(&sent), "{is_known}: {sent}");
            drop(muxer);
            assert_eq!(unread.bytes(), 0);
        }
    }

    #[tokio::test]
    async fn before_a_peer_has_told_who_it_is_its_streams_wait() {
        let (a, mut hostile) = pipe();
        let unread = Unread::new(&Limits::default());
        let mut muxer = Yamux::new(unread.clone()).start(a, Mode::Server);
        let address: libp2p::Multiaddr = "/memory/1".parse().expect("an address");
        muxer.account.is_from(Some(address.clone()));
        hostile.write_all(&unasked(20, 1)).await.expect("written");
        let mut taken = Vec::new();
        while taken.len() < 8 {
            let stream = poll_fn(|cx| muxer.poll_inbound_unpin(cx)).await;
            taken.push(stream.expect("a stream"));
        }
        let mut next = poll_fn(|cx| muxer.poll_inbound_unpin(cx));
        assert!(futures::poll!(&mut next).is_pending(), "the ninth waits");
        unread.identified(&address, false);
        for _ in 8..20 {
            let stream = (&mut next).await;
            taken.push(stream.expect("a stream"));
        }
        assert_eq!(unread.bytes(), 20);
        for stream in &mut taken {
            stream.read_exact(&mut [0]).await.expect("it is there");
        }
        assert_eq!(unread.bytes(), 0);
    }

    #[tokio::test]
    async fn own_streams_wait_for_their_places() {
        let (a, _other) = pipe();
        let mut muxer = start(a, Mode::Client);
        let mut open = Vec::new();
        for _ in 0..MAX_OWN_STREAMS {
            let stream = poll_fn(|cx| muxer.poll_outbound_unpin(cx)).await;
            open.push(stream.expect("a stream"));
        }
        let mut next = poll_fn(|cx| muxer.poll_outbound_unpin(cx));
        assert!(futures::poll!(&mut next).is_pending());
        open.pop();
        assert!(next.await.is_ok());
    }
}
