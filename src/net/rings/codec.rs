//! The ring protocol on a stream: frames that carry messages of `wire::ring`.

use std::io;
use std::time::Duration;

use futures::{AsyncRead, AsyncWrite};
use libp2p::StreamProtocol;
use libp2p::request_response;

use crate::net::frame::{Malformed, read_frame_within, write_frame};
use crate::ring::message::{self, MAX_MESSAGE_BYTES, Request, Response};

/// How long a frame may take.
const FRAME_TIMEOUT: Duration = Duration::from_secs(10);

/// A request as it went out or came in. One that breaks the protocol is handed on as what is wrong with it.
pub(crate) type Asked = Result<Request, Malformed>;

/// Reads and writes frames.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Codec;

fn malformed(error: message::Malformed) -> Malformed {
    Malformed(error.what())
}

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Asked;
    type Response = Response;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Asked>
    where
        T: AsyncRead + Unpin + Send,
    {
        let frame = read_frame_within(io, MAX_MESSAGE_BYTES, FRAME_TIMEOUT).await?;
        Ok(frame.and_then(|frame| Request::decode(frame).map_err(malformed)))
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Response>
    where
        T: AsyncRead + Unpin + Send,
    {
        let frame = read_frame_within(io, MAX_MESSAGE_BYTES, FRAME_TIMEOUT).await??;
        Ok(Response::decode(frame).map_err(malformed)?)
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        asked: Asked,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_frame(io, vec![asked?.encode().into()]).await
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
        write_frame(io, vec![response.encode().into()]).await
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
        read.expect("read").expect_err("over the limit");
    }
}
