//! Frames of the ring protocol: four bytes of length, big endian, and a message of `wire::ring`. The length is checked before anything is
//! allocated.

use std::io::{self, ErrorKind};
use std::time::Duration;

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::StreamProtocol;
use libp2p::request_response;
use tokio::time::timeout;

use crate::ring::message::{MAX_MESSAGE_BYTES, Malformed, Request, Response};

/// How long a frame may take.
const FRAME_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads and writes frames.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Codec;

async fn read_frame<T: AsyncRead + Unpin + Send>(io: &mut T) -> io::Result<Bytes> {
    let read = async {
        let mut len = [0; 4];
        io.read_exact(&mut len).await?;
        let len = u32::from_be_bytes(len) as usize;
        if len > MAX_MESSAGE_BYTES {
            return Err(io::Error::new(ErrorKind::InvalidData, "a frame too large"));
        }
        let mut frame = vec![0; len];
        io.read_exact(&mut frame).await?;
        Ok(frame.into())
    };
    timeout(FRAME_TIMEOUT, read)
        .await
        .map_err(|_| ErrorKind::TimedOut)?
}

async fn write_frame<T: AsyncWrite + Unpin + Send>(io: &mut T, frame: &[u8]) -> io::Result<()> {
    let write = async {
        io.write_all(&(frame.len() as u32).to_be_bytes()).await?;
        io.write_all(frame).await?;
        io.flush().await
    };
    timeout(FRAME_TIMEOUT, write)
        .await
        .map_err(|_| ErrorKind::TimedOut)?
}

fn invalid(error: Malformed) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Request;
    type Response = Response;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Request>
    where
        T: AsyncRead + Unpin + Send,
    {
        Request::decode(read_frame(io).await?).map_err(invalid)
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Response>
    where
        T: AsyncRead + Unpin + Send,
    {
        Response::decode(read_frame(io).await?).map_err(invalid)
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: Request,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_frame(io, &request.encode()).await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        response: Response,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_frame(io, &response.encode()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::io::Cursor;
    use libp2p::request_response::Codec as _;

    #[tokio::test]
    async fn frames_are_bounded_and_read_back() {
        let protocol = StreamProtocol::new("/test/ring/1.0.0");
        let mut codec = Codec;
        let mut wire = Cursor::new(Vec::new());
        let sent = codec.write_response(&protocol, &mut wire, Response::Done);
        sent.await.expect("memory takes it");
        let bytes = wire.into_inner();
        assert_eq!(bytes, [0, 0, 0, 2, 0x12, 0]);
        for len in 0..bytes.len() {
            let mut cut = Cursor::new(&bytes[..len]);
            let read = codec.read_response(&protocol, &mut cut).await;
            assert!(read.is_err(), "{len}");
        }
        let mut whole = Cursor::new(&bytes);
        let read = codec.read_response(&protocol, &mut whole).await;
        assert_eq!(read.expect("whole"), Response::Done);
        let mut over = Cursor::new((MAX_MESSAGE_BYTES as u32 + 1).to_be_bytes());
        let read = codec.read_request(&protocol, &mut over).await;
        assert_eq!(read.expect_err("over").kind(), ErrorKind::InvalidData);
    }
}
