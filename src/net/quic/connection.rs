//! One connection and its streams, as libp2p's multiplexers have them.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use futures::future::BoxFuture;
use futures::{AsyncRead, AsyncWrite, FutureExt};
use libp2p::PeerId;
use libp2p::core::ConnectedPoint;
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::tls::certificate;
use quinn::rustls::pki_types::CertificateDer;
use quinn::{ConnectionError, RecvStream, SendStream, VarInt};

use super::budget::Share;
use crate::net::admission::Account;

type Halves = (SendStream, RecvStream);
type Opening = BoxFuture<'static, Result<Halves, ConnectionError>>;

/// What is written and not acknowledged yet, of all streams of a connection, at first and at most.
/// In between it is twice what the path is known to hold, so that a peer that reads nothing, or
/// reads slowly, has little waiting for it here.
pub(super) const FIRST_SENDING_BYTES: u64 = 256 << 10;
const MAX_SENDING_BYTES: u64 = 8 << 20;
/// The path is looked at again after so many bytes.
const LOOK_AFTER_BYTES: u64 = 64 << 10;

/// How much one connection may have under way.
struct Sending {
    connection: quinn::Connection,
    /// Bytes written since the path was last looked at.
    written: AtomicU64,
    window: AtomicU64,
}

impl Sending {
    const fn new(connection: quinn::Connection) -> Self {
        Self {
            connection,
            written: AtomicU64::new(0),
            window: AtomicU64::new(FIRST_SENDING_BYTES),
        }
    }

    fn wrote(&self, bytes: usize) {
        let written = self.written.fetch_add(bytes as u64, Ordering::Relaxed);
        if written + (bytes as u64) < LOOK_AFTER_BYTES {
            return;
        }
        self.written.store(0, Ordering::Relaxed);
        let holds = self.connection.stats().path.cwnd;
        let window = (2 * holds).clamp(FIRST_SENDING_BYTES, MAX_SENDING_BYTES);
        if self.window.swap(window, Ordering::Relaxed) != window {
            self.connection.set_send_window(window);
        }
    }
}

/// Told to a peer when a connection is closed in the usual way.
const DONE: VarInt = VarInt::from_u32(0);

/// The peer at the other end, by the certificate that it has shown.
pub(super) fn peer_of(connection: &quinn::Connection) -> io::Result<PeerId> {
    let shown = connection.peer_identity();
    let shown = shown.and_then(|shown| shown.downcast::<Vec<CertificateDer<'static>>>().ok());
    let Some([certificate]) = shown.as_ref().map(|shown| shown.as_slice()) else {
        return Err(io::Error::other("the peer did not show one certificate"));
    };
    let certificate = certificate::parse(certificate).map_err(io::Error::other)?;
    Ok(certificate.peer_id())
}

/// A connection that carries streams.
pub(in crate::net) struct Muxer {
    connection: quinn::Connection,
    share: Arc<Share>,
    account: Arc<Account>,
    sending: Arc<Sending>,
    incoming: Option<Opening>,
    /// A stream of the peer's that waits until it may be handed out.
    waiting: Option<Halves>,
    outgoing: Option<Opening>,
    closing: Option<BoxFuture<'static, ConnectionError>>,
}

impl Muxer {
    pub(super) fn new(connection: quinn::Connection, share: Share, account: Account) -> Self {
        share.is_of(&connection);
        Self {
            sending: Arc::new(Sending::new(connection.clone())),
            connection,
            share: Arc::new(share),
            account: Arc::new(account),
            incoming: None,
            waiting: None,
            outgoing: None,
            closing: None,
        }
    }

    /// Notes where the other side connected from, if it did.
    pub(in crate::net) fn with(self, endpoint: &ConnectedPoint) -> Self {
        self.account.is_from(match endpoint {
            ConnectedPoint::Listener { send_back_addr, .. } => Some(send_back_addr.clone()),
            ConnectedPoint::Dialer { .. } => None,
        });
        self
    }

    /// Opens a stream, or takes one that the peer opens.
    fn poll_opening(
        slot: &mut Option<Opening>,
        cx: &mut Context<'_>,
        open: impl FnOnce() -> Opening,
    ) -> Poll<io::Result<Halves>> {
        let opened = ready!(slot.get_or_insert_with(open).poll_unpin(cx));
        *slot = None;
        Poll::Ready(opened.map_err(io::Error::from))
    }
}

impl StreamMuxer for Muxer {
    type Substream = Stream;
    type Error = io::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        let this = &mut *self;
        if this.waiting.is_none() {
            let connection = &this.connection;
            let opened = Self::poll_opening(&mut this.incoming, cx, || {
                let connection = connection.clone();
                async move { connection.accept_bi().await }.boxed()
            });
            this.waiting = Some(ready!(opened)?);
        }
        if !this.account.take(cx.waker()) {
            return Poll::Pending;
        }
        let taken = this.waiting.take();
        let (send, receive) = taken.expect("a stream waits: it was put there above");
        let counted = Counted::Taken(this.account.clone());
        Poll::Ready(Ok(Stream::new(
            send,
            receive,
            this.sending.clone(),
            counted,
        )))
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        let this = &mut *self;
        let connection = &this.connection;
        let opened = Self::poll_opening(&mut this.outgoing, cx, || {
            let connection = connection.clone();
            async move { connection.open_bi().await }.boxed()
        });
        let (send, receive) = ready!(opened)?;
        this.share.opened();
        let counted = Counted::Own(this.share.clone());
        Poll::Ready(Ok(Stream::new(
            send,
            receive,
            this.sending.clone(),
            counted,
        )))
    }

    fn poll(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, io::Error>> {
        // quinn drives the connection; its end shows where streams are taken.
        Poll::Pending
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let closing = this.closing.get_or_insert_with(|| {
            this.connection.close(DONE, b"");
            let connection = this.connection.clone();
            async move { connection.closed().await }.boxed()
        });
        match ready!(closing.poll_unpin(cx)) {
            ConnectionError::LocallyClosed => Poll::Ready(Ok(())),
            error => Poll::Ready(Err(error.into())),
        }
    }
}

/// Side that opened a stream, with the count that the stream is part of.
enum Counted {
    /// The peer's.
    Taken(Arc<Account>),
    /// This node's own.
    Own(Arc<Share>),
}

/// A stream of a connection.
pub(in crate::net) struct Stream {
    send: SendStream,
    receive: RecvStream,
    sending: Arc<Sending>,
    is_closed: bool,
    counted: Counted,
}

impl Stream {
    const fn new(
        send: SendStream,
        receive: RecvStream,
        sending: Arc<Sending>,
        counted: Counted,
    ) -> Self {
        Self {
            send,
            receive,
            sending,
            is_closed: false,
            counted,
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        match &self.counted {
            // Bytes are not counted here, but streams that are handed out are.
            Counted::Taken(account) => account.ended(0, true),
            Counted::Own(share) => share.ended(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.receive.poll_read(cx, buffer).map_err(io::Error::from)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.send).poll_write(cx, bytes))?;
        self.sending.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // quinn sends what is written by itself.
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // libp2p closes a stream more than once.
        if std::mem::replace(&mut self.is_closed, true) {
            return Poll::Ready(Ok(()));
        }
        let finished = self.send.finish();
        Poll::Ready(finished.map_err(|_| io::ErrorKind::BrokenPipe.into()))
    }
}

/// A future of a connection that is being made.
pub(super) type Upgrade = Pin<Box<dyn Future<Output = io::Result<(PeerId, Muxer)>> + Send>>;
