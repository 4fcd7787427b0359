//! Frames, as all protocols of one request and one response a stream have them: four bytes of length, big endian, and a message.
//!
//! The length is checked before anything is allocated. What breaks a protocol is told apart from a stream that failed: libp2p swallows the
//! error of a codec that reads a request, and nobody would know whose it was, so codecs hand a [`Malformed`] on as the request.

use std::io::{self, ErrorKind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};

use super::pace::Meter;

/// Frames are read in parts of this size, paced ones each once the limit allows it.
const READ_BYTES: usize = 64 << 10;
/// Longest time in which a stream takes nothing of what is written to it, while others of its peer
/// do: over a slow line it waits for its turn behind them.
const STALL_TIMEOUT: Duration = Duration::from_secs(120);
/// Bytes per second at which a frame is taken at least, on average, once the time of a stall has
/// passed: whoever takes less holds memory and places for next to nothing.
const SLOWEST: u64 = 2 << 10;

/// What is wrong with a frame. The text is for our own log and error, never for the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub(in crate::net) &'static str);

impl From<Malformed> for io::Error {
    fn from(malformed: Malformed) -> Self {
        Self::new(ErrorKind::InvalidData, malformed)
    }
}

/// Reads a frame of at most `max_bytes`. The outer error is the stream's, the inner one the peer's.
pub(in crate::net) async fn read_frame<T>(
    io: &mut T,
    max_bytes: usize,
) -> io::Result<Result<Bytes, Malformed>>
where
    T: AsyncRead + Unpin + Send,
{
    let mut head = [0; 4];
    io.read_exact(&mut head).await?;
    let len = u32::from_be_bytes(head) as usize;
    if len > max_bytes {
        return Ok(Err(Malformed("a frame larger than allowed")));
    }
    let mut frame = Vec::with_capacity(len);
    while frame.len() < len {
        let part = grow(&mut frame, len);
        io.read_exact(part).await?;
    }
    Ok(Ok(frame.into()))
}

/// The next part of a frame that is to have `len` bytes. Part by part, so that what is cleared is still in the processor's cache when it is
/// written over.
fn grow(frame: &mut Vec<u8>, len: usize) -> &mut [u8] {
    let at = frame.len();
    frame.resize(len.min(at + READ_BYTES), 0);
    &mut frame[at..]
}

/// Reads a frame into `frame` as [`read_frame`] does, no faster than `meter` allows. Whatever has
/// come of it is there also when the reading ends early; `came` is told of each part.
pub(in crate::net) async fn read_frame_paced<T>(
    io: &mut T,
    max_bytes: usize,
    meter: &Meter,
    frame: &mut Vec<u8>,
    mut came: impl FnMut(u64),
) -> io::Result<Result<(), Malformed>>
where
    T: AsyncRead + Unpin + Send,
{
    let mut head = [0; 4];
    io.read_exact(&mut head).await?;
    let len = u32::from_be_bytes(head) as usize;
    if len > max_bytes {
        return Ok(Err(Malformed("a frame larger than allowed")));
    }
    frame.reserve_exact(len);
    let mut part = vec![0; len.min(READ_BYTES)];
    let mut at = 0;
    while at < len {
        // What was drawn is read, in however many parts it comes.
        let end = len.min(at + READ_BYTES);
        meter.draw((end - at) as u64).await;
        while at < end {
            let read = io.read(&mut part[..end - at]).await?;
            if read == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            frame.extend_from_slice(&part[..read]);
            at += read;
            came(read as u64);
        }
    }
    Ok(Ok(()))
}

/// Reads a frame that has to be there in time.
pub(in crate::net) async fn read_frame_within<T>(
    io: &mut T,
    max_bytes: usize,
    time: Duration,
) -> io::Result<Result<Bytes, Malformed>>
where
    T: AsyncRead + Unpin + Send,
{
    timeout(time, read_frame(io, max_bytes))
        .await
        .map_err(|_| ErrorKind::TimedOut)?
}

/// Knows when something last moved to a peer, or from it, over whichever stream.
#[derive(Debug)]
pub(in crate::net) struct Flow(Mutex<Instant>);

impl Default for Flow {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl Flow {
    /// When that was.
    pub(in crate::net) fn at(&self) -> Instant {
        *self.last()
    }

    /// It is now.
    pub(in crate::net) fn moved(&self) {
        *self.last() = Instant::now();
    }

    fn last(&self) -> MutexGuard<'_, Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a frame made of pieces.
pub(in crate::net) async fn write_frame<T>(io: &mut T, pieces: Vec<Bytes>) -> io::Result<()>
where
    T: AsyncWrite + Unpin + Send,
{
    push_frame(io, pieces, &Flow::default(), STALL_TIMEOUT).await
}

/// Writes a frame made of pieces to a peer that is sent other things as well. It fails when the
/// stream takes nothing for some time, or when the peer takes nothing over any stream for `stall`:
/// over a slow line one stream may have to wait for many others. It fails as well when all of it
/// takes too long, however little moves again and again.
pub(in crate::net) async fn push_frame<T>(
    io: &mut T,
    pieces: Vec<Bytes>,
    flow: &Flow,
    stall: Duration,
) -> io::Result<()>
where
    T: AsyncWrite + Unpin + Send,
{
    let len: usize = pieces.iter().map(Bytes::len).sum();
    let len = u32::try_from(len).map_err(io::Error::other)?;
    let head = Bytes::copy_from_slice(&len.to_be_bytes());
    let began = Instant::now();
    let longest = STALL_TIMEOUT + Duration::from_secs(u64::from(len) / SLOWEST);
    let pushed = push(io, head, pieces, flow, stall);
    tokio::select! {
        biased;
        pushed = pushed => pushed,
        () = sleep_until(began + longest) => Err(ErrorKind::TimedOut.into()),
    }
}

async fn push<T>(
    io: &mut T,
    head: Bytes,
    pieces: Vec<Bytes>,
    flow: &Flow,
    stall: Duration,
) -> io::Result<()>
where
    T: AsyncWrite + Unpin + Send,
{
    let began = Instant::now();
    let mut moved = began;
    for mut piece in std::iter::once(head).chain(pieces) {
        while piece.has_remaining() {
            let written = tokio::select! {
                biased;
                written = io.write(&piece) => written?,
                () = stalled(began, moved, flow, stall) => return Err(ErrorKind::TimedOut.into()),
            };
            if written == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
            piece.advance(written);
            moved = Instant::now();
            flow.moved();
        }
    }
    tokio::select! {
        biased;
        flushed = io.flush() => flushed,
        () = stalled(began, moved, flow, stall) => Err(ErrorKind::TimedOut.into()),
    }
}

/// Waits until a stream that last took something at `moved` has stood still for too long, or its
/// peer has since `began`.
async fn stalled(began: Instant, moved: Instant, flow: &Flow, stall: Duration) {
    loop {
        let peer = flow.at().max(began) + stall;
        let until = peer.min(moved + STALL_TIMEOUT);
        if until <= Instant::now() {
            return;
        }
        sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::io::Cursor;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    /// The stream of a peer that neither sends nor takes anything.
    struct Stuck;

    impl AsyncRead for Stuck {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Stuck {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn frames_are_bounded_and_read_back() {
        let mut wire = Cursor::new(Vec::new());
        let pieces = vec![
            Bytes::from_static(b"ab"),
            Bytes::new(),
            vec![7; (256 << 10) + 1].into(),
        ];
        write_frame(&mut wire, pieces.clone())
            .await
            .expect("memory takes it");
        let bytes = wire.into_inner();
        let content = pieces.concat();
        assert_eq!(bytes[..6], [0, 4, 0, 3, b'a', b'b']);
        for len in [0, 3, 4, bytes.len() - 1] {
            let read = read_frame(&mut Cursor::new(&bytes[..len]), content.len()).await;
            assert_eq!(read.expect_err("cut").kind(), ErrorKind::UnexpectedEof);
        }
        let read = read_frame(&mut Cursor::new(&bytes), content.len()).await;
        assert_eq!(read.expect("whole").expect("at the limit"), content);
        let read = read_frame(&mut Cursor::new(&bytes), content.len() - 1).await;
        let malformed = read.expect("read").expect_err("over the limit");
        assert_eq!(io::Error::from(malformed).kind(), ErrorKind::InvalidData);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_and_a_peer_that_takes_nothing_time_out() {
        let mut stuck = Stuck;
        let read = read_frame_within(&mut stuck, 16, Duration::from_secs(3)).await;
        assert_eq!(read.expect_err("silent").kind(), ErrorKind::TimedOut);
        let written = write_frame(&mut stuck, vec![vec![0; 17].into()]).await;
        assert_eq!(written.expect_err("stuck").kind(), ErrorKind::TimedOut);
    }
    #[tokio::test(start_paused = true)]
    async fn a_stream_may_wait_for_others_of_its_peer_but_not_for_ever() {
        let stall = Duration::from_secs(5);
        let began = Instant::now();
        let flow = Flow::default();
        let pieces = || vec![vec![0; 17].into()];
        let written = push_frame(&mut Stuck, pieces(), &flow, stall).await;
        assert_eq!(written.expect_err("stuck").kind(), ErrorKind::TimedOut);
        assert_eq!(began.elapsed(), stall, "nothing moves");

        let began = Instant::now();
        let mut stuck = Stuck;
        let others = async {
            loop {
                flow.moved();
                tokio::time::sleep(stall / 2).await;
            }
        };
        tokio::select! {
            written = push_frame(&mut stuck, pieces(), &flow, stall) => {
                assert_eq!(written.expect_err("stuck").kind(), ErrorKind::TimedOut);
            }
            () = others => {}
        }
        assert_eq!(began.elapsed(), STALL_TIMEOUT, "others move");
    }

    /// The stream of a peer that takes one byte now and then.
    struct Trickle(Pin<Box<tokio::time::Sleep>>);

    impl AsyncWrite for Trickle {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            std::task::ready!(self.0.as_mut().poll(cx));
            self.0
                .as_mut()
                .reset(Instant::now() + Duration::from_secs(1));
            Poll::Ready(Ok(1))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_a_byte_now_and_then_is_given_up() {
        let began = Instant::now();
        let mut trickle = Trickle(Box::pin(tokio::time::sleep(Duration::ZERO)));
        let pieces = vec![vec![0; 20 << 10].into()];
        let stall = Duration::from_secs(5);
        let pushed = push_frame(&mut trickle, pieces, &Flow::default(), stall).await;
        assert_eq!(pushed.expect_err("too slow").kind(), ErrorKind::TimedOut);
        assert_eq!(began.elapsed(), STALL_TIMEOUT + Duration::from_secs(10));
    }
}
