//! Frames and messages of the exchange protocol.
//!
//! A frame is four bytes of length, big endian, and a protobuf message of `wire::exchange`. The length is checked before
//! anything is allocated; a response's bound follows from what was asked. Block bytes are copied once on their way in (from
//! the stream into the frame; the block is a slice of it) and not at all on their way out.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{AsyncRead, AsyncWrite};
use libp2p::StreamProtocol;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tokio_util::sync::CancellationToken;

use super::rest::{Reading, Rest};
use super::wait::Wait;
use super::{Answer, MAX_IDS, Want};
use crate::block::MAX_BLOCK_BYTES;
use crate::id::BlockId;
use crate::net::frame::{
    Flow, Malformed, push_frame, read_frame_paced, read_frame_within, write_frame,
};
use crate::net::pace::{Arrivals, Meter};
use crate::wire::exchange as wire;

/// Largest request frame in bytes: 64 ids of 50 bytes with their tags.
pub(super) const MAX_REQUEST_BYTES: usize = 4096;
/// Most bytes of blocks in one response: two blocks of the largest size.
pub(super) const MAX_RESPONSE_BLOCK_BYTES: usize = 2 * MAX_BLOCK_BYTES;
/// Most bytes of one answer besides its block: tags, lengths and the id.
const ANSWER_OVERHEAD_BYTES: usize = 80;
/// Bytes of a response besides its answers, with room for fields that are yet to come.
const RESPONSE_OVERHEAD_BYTES: usize = 256;
/// How long a peer may take to send its request once it has opened a stream.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

const WANT_BLOCK: u32 = 0;
const WANT_HAVE: u32 = 1;
pub(super) const STATUS_BLOCK: u32 = 1;
const STATUS_HAVE: u32 = 2;
const STATUS_DONT_HAVE: u32 = 3;
const STATUS_BUSY: u32 = 4;
const ERROR_RATE_TOO_LOW: u32 = 2;
pub(super) const TAG_ANSWERS: u32 = 1;
pub(super) const TAG_ID: u32 = 1;
pub(super) const TAG_STATUS: u32 = 2;
pub(super) const TAG_BLOCK: u32 = 3;
pub(super) const TAG_OFFSET: u32 = 4;

/// A request, as asked by us or by a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(super) ids: Vec<BlockId>,
    pub(super) want: Want,
    /// Most bytes of blocks in the response.
    pub(super) max_bytes: usize,
    /// What is offered for each MiB of blocks, in millionths of a unit; 0 for a question.
    pub(super) rate: u64,
    /// Place in the one block that is asked for at which the response is to begin.
    pub(super) offset: usize,
}

/// A request on its way out or in, with what ends it early.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(super) request: Request,
    /// Is told of what comes, by which the wait is longer. Of one on its way out.
    pub(super) wait: Option<Wait>,
    /// Takes what came of an answer that broke off.
    pub(super) rest: Option<Rest>,
    /// Cancelled when nobody waits for the answer any more.
    pub(super) abandoned: CancellationToken,
    /// Counts the bytes of the answer as they come.
    pub(super) arrivals: Arc<Arrivals>,
}

/// A request as it went out or came in. One that breaks the protocol is handed on as what is wrong with it.
pub(crate) type Asked = Result<Parcel, Malformed>;

/// A response: an answer for each id of the request, in its order; or the code of a refusal, with the rate that would do where that is
/// the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Response {
    Answers(Vec<(BlockId, Answer)>),
    /// The one block that was asked for, from `offset` on, which is not 0.
    Part {
        id: BlockId,
        offset: usize,
        bytes: Bytes,
    },
    Refused(u32),
    RateTooLow {
        wanted: u64,
    },
}

/// A response on its way out or in.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(super) response: Response,
    /// Of one on its way out: tells that the peer takes what is sent to it, and how long it may
    /// take nothing.
    pub(super) pushed: Option<(Arc<Flow>, Duration)>,
}

impl Request {
    /// A request for these ids, with the bound that fits them.
    pub(super) fn new(ids: Vec<BlockId>, want: Want) -> Self {
        let max_bytes = match want {
            Want::Block => (ids.len() * MAX_BLOCK_BYTES).min(MAX_RESPONSE_BLOCK_BYTES),
            Want::Have => 0,
        };
        Self {
            ids,
            want,
            max_bytes,
            rate: 0,
            offset: 0,
        }
    }

    /// Asks for the one block from `offset` on.
    pub(super) const fn with_offset(mut self, offset: usize) -> Self {
        self.offset = offset;
        self
    }

    /// Offers this rate for blocks. A question is never paid for.
    pub(super) fn with_rate(mut self, rate: u64) -> Self {
        self.rate = match self.want {
            Want::Block => rate,
            Want::Have => 0,
        };
        self
    }

    pub(super) fn encode(&self) -> Bytes {
        let message = wire::Request {
            want: match self.want {
                Want::Block => WANT_BLOCK,
                Want::Have => WANT_HAVE,
            },
            ids: self.ids.iter().map(|id| id.to_multihash().into()).collect(),
            max_bytes: self.max_bytes as u32,
            offset: self.offset as u32,
            rate: self.rate,
        };
        message.encode_to_vec().into()
    }

    pub(super) fn decode(frame: Bytes) -> Result<Self, Malformed> {
        if frame.len() > MAX_REQUEST_BYTES {
            return Err(Malformed("the request is too large"));
        }
        let message =
            wire::Request::decode(frame).map_err(|_| Malformed("not a request message"))?;
        let want = match message.want {
            WANT_BLOCK => Want::Block,
            WANT_HAVE => Want::Have,
            _ => return Err(Malformed("the request wants something unknown")),
        };
        if message.ids.is_empty() || message.ids.len() > MAX_IDS {
            return Err(Malformed("the request has no ids or too many"));
        }
        let ids: Vec<BlockId> = message
            .ids
            .iter()
            .map(|id| BlockId::from_multihash(id))
            .collect::<Result<_, _>>()
            .map_err(|_| Malformed("the request has an id of an unknown kind"))?;
        let offset = message.offset as usize;
        if offset != 0 && (ids.len() != 1 || want != Want::Block || offset >= MAX_BLOCK_BYTES) {
            return Err(Malformed("a place in a block that can't be"));
        }
        let mut request = Self::new(ids, want).with_rate(message.rate);
        request.offset = offset;
        if message.max_bytes != 0 {
            request.max_bytes = request.max_bytes.min(message.max_bytes as usize);
        }
        Ok(request)
    }

    /// Largest response frame that may come back.
    pub(super) fn max_response_bytes(&self) -> usize {
        self.max_bytes + self.ids.len() * ANSWER_OVERHEAD_BYTES + RESPONSE_OVERHEAD_BYTES
    }
}

impl Response {
    /// The frame's message in pieces, so that blocks are not copied. Together they are what prost would write.
    pub(super) fn encode(&self) -> Vec<Bytes> {
        let answers = match self {
            Self::Answers(answers) => answers,
            Self::Part { id, offset, bytes } => return encode_part(id, *offset, bytes),
            Self::Refused(code) => {
                let message = wire::Response {
                    answers: Vec::new(),
                    error: *code,
                    rate_wanted: 0,
                };
                return vec![message.encode_to_vec().into()];
            }
            Self::RateTooLow { wanted } => {
                let message = wire::Response {
                    answers: Vec::new(),
                    error: ERROR_RATE_TOO_LOW,
                    rate_wanted: *wanted,
                };
                return vec![message.encode_to_vec().into()];
            }
        };
        let mut pieces = Vec::new();
        let mut head = BytesMut::new();
        for (id, answer) in answers {
            let id = id.to_multihash();
            let (status, block) = match answer {
                Answer::Block(block) => (STATUS_BLOCK, Some(block)),
                Answer::Have => (STATUS_HAVE, None),
                Answer::DontHave => (STATUS_DONT_HAVE, None),
                Answer::Busy => (STATUS_BUSY, None),
            };
            let len = bytes_len(TAG_ID, id.len())
                + key_len(TAG_STATUS)
                + encoded_len_varint(status.into())
                + block.map_or(0, |block| bytes_len(TAG_BLOCK, block.len()));
            put_bytes_head(TAG_ANSWERS, len, &mut head);
            put_bytes_head(TAG_ID, id.len(), &mut head);
            head.put_slice(&id);
            encode_key(TAG_STATUS, WireType::Varint, &mut head);
            encode_varint(status.into(), &mut head);
            if let Some(block) = block {
                put_bytes_head(TAG_BLOCK, block.len(), &mut head);
                pieces.push(head.split().freeze());
                pieces.push(block.clone());
            }
        }
        pieces.push(head.freeze());
        pieces
    }

    /// Reads a response to `asked`. Ids that the peer left out count as busy.
    pub(super) fn decode(frame: Bytes, asked: &Request) -> Result<Self, Malformed> {
        if frame.len() > asked.max_response_bytes() {
            return Err(Malformed("the response is larger than what was asked for"));
        }
        let message =
            wire::Response::decode(frame).map_err(|_| Malformed("not a response message"))?;
        match message.error {
            0 => {}
            ERROR_RATE_TOO_LOW => {
                return Ok(Self::RateTooLow {
                    wanted: message.rate_wanted,
                });
            }
            code => return Ok(Self::Refused(code)),
        }
        if message.answers.len() > asked.ids.len() {
            return Err(Malformed("more answers than questions"));
        }
        if let [answer] = message.answers.as_slice()
            && answer.offset != 0
        {
            return read_part(answer, asked);
        }
        let mut answers: HashMap<BlockId, Option<Answer>> =
            asked.ids.iter().map(|id| (*id, None)).collect();
        for answer in message.answers {
            let id = BlockId::from_multihash(&answer.id)
                .map_err(|_| Malformed("an answer's id is of an unknown kind"))?;
            let place = answers
                .get_mut(&id)
                .ok_or(Malformed("an answer to an id that was not asked for"))?;
            if place.is_some() {
                return Err(Malformed("two answers to one id"));
            }
            if answer.offset != 0 {
                return Err(Malformed("a part of a block where a whole one belongs"));
            }
            *place = Some(read_answer(answer.status, answer.block, asked.want)?);
        }
        let in_order = asked.ids.iter().map(|id| {
            let answer = answers.remove(id).flatten();
            (*id, answer.unwrap_or(Answer::Busy))
        });
        Ok(Self::Answers(in_order.collect()))
    }
}

/// A response with the rest of one block. The place comes before the bytes, so that it is known
/// when they break off.
fn encode_part(id: &BlockId, offset: usize, bytes: &Bytes) -> Vec<Bytes> {
    let (id, place) = (id.to_multihash(), offset as u64);
    let len = bytes_len(TAG_ID, id.len())
        + key_len(TAG_STATUS)
        + encoded_len_varint(STATUS_BLOCK.into())
        + key_len(TAG_OFFSET)
        + encoded_len_varint(place)
        + bytes_len(TAG_BLOCK, bytes.len());
    let mut head = BytesMut::new();
    put_bytes_head(TAG_ANSWERS, len, &mut head);
    put_bytes_head(TAG_ID, id.len(), &mut head);
    head.put_slice(&id);
    encode_key(TAG_STATUS, WireType::Varint, &mut head);
    encode_varint(STATUS_BLOCK.into(), &mut head);
    encode_key(TAG_OFFSET, WireType::Varint, &mut head);
    encode_varint(place, &mut head);
    put_bytes_head(TAG_BLOCK, bytes.len(), &mut head);
    vec![head.freeze(), bytes.clone()]
}

fn read_part(answer: &wire::Answer, asked: &Request) -> Result<Response, Malformed> {
    let id = BlockId::from_multihash(&answer.id)
        .map_err(|_| Malformed("an answer's id is of an unknown kind"))?;
    let offset = answer.offset as usize;
    let is_asked = asked.ids.as_slice() == [id] && asked.offset == offset;
    if !is_asked || answer.status != STATUS_BLOCK || asked.want != Want::Block {
        return Err(Malformed("a part of a block that was not asked for"));
    }
    let bytes = answer.block.clone();
    if bytes.is_empty() || bytes.len() > MAX_BLOCK_BYTES - offset {
        return Err(Malformed("a block of impossible size"));
    }
    Ok(Response::Part { id, offset, bytes })
}

fn read_answer(status: u32, block: Bytes, want: Want) -> Result<Answer, Malformed> {
    match (status, want) {
        (STATUS_BLOCK, Want::Block) if block.is_empty() || block.len() > MAX_BLOCK_BYTES => {
            Err(Malformed("a block of impossible size"))
        }
        (STATUS_BLOCK, Want::Block) => Ok(Answer::Block(block)),
        _ if !block.is_empty() => Err(Malformed("a block where none belongs")),
        (STATUS_HAVE, Want::Have) => Ok(Answer::Have),
        (STATUS_DONT_HAVE, _) => Ok(Answer::DontHave),
        (STATUS_BUSY, _) => Ok(Answer::Busy),
        _ => Err(Malformed("a status that does not answer the question")),
    }
}

fn bytes_len(tag: u32, len: usize) -> usize {
    key_len(tag) + encoded_len_varint(len as u64) + len
}

fn put_bytes_head(tag: u32, len: usize, buffer: &mut BytesMut) {
    encode_key(tag, WireType::LengthDelimited, buffer);
    encode_varint(len as u64, buffer);
}

/// The codec of one stream: libp2p clones it for each, so it can remember between request and response what was asked.
#[derive(Debug)]
pub(crate) struct Codec {
    asked: Option<Parcel>,
    down: Arc<Meter>,
}

impl Codec {
    pub(super) const fn new(down: Arc<Meter>) -> Self {
        Self { asked: None, down }
    }
}

impl Clone for Codec {
    fn clone(&self) -> Self {
        Self::new(self.down.clone())
    }
}

impl libp2p::request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Asked;
    type Response = Reply;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Asked>
    where
        T: AsyncRead + Unpin + Send,
    {
        let frame = read_frame_within(io, MAX_REQUEST_BYTES, REQUEST_TIMEOUT).await?;
        Ok(frame.and_then(Request::decode).map(|request| Parcel {
            request,
            wait: None,
            rest: None,
            abandoned: CancellationToken::new(),
            arrivals: Arc::default(),
        }))
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Reply>
    where
        T: AsyncRead + Unpin + Send,
    {
        let asked = self
            .asked
            .take()
            .ok_or_else(|| io::Error::other("a response without a request"))?;
        let max_bytes = asked.request.max_response_bytes();
        let id = asked.request.ids.first().copied();
        let mut reading = Reading::new(asked.rest.as_ref(), id, asked.request.offset);
        let came = |bytes| {
            asked.arrivals.add(bytes);
            if let Some(wait) = &asked.wait {
                wait.came();
            }
        };
        tokio::select! {
            read = read_frame_paced(io, max_bytes, &self.down, &mut reading.frame, came) => read??,
            () = asked.abandoned.cancelled() => return Err(ErrorKind::Interrupted.into()),
        }
        let frame = reading.finish();
        Ok(Reply {
            response: Response::decode(frame, &asked.request)?,
            pushed: None,
        })
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
        let parcel = asked?;
        if parcel.abandoned.is_cancelled() {
            return Err(ErrorKind::Interrupted.into());
        }
        let frame = parcel.request.encode();
        self.asked = Some(parcel);
        write_frame(io, vec![frame]).await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        reply: Reply,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let pieces = reply.response.encode();
        match reply.pushed {
            Some((flow, stall)) => push_frame(io, pieces, &flow, stall).await,
            None => write_frame(io, pieces).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;
    use tokio::time::Instant;

    fn id(fill: u8) -> BlockId {
        BlockId::from_sha384([fill; 48])
    }

    fn any_answer() -> impl Strategy<Value = Answer> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 1..300).prop_map(|b| Answer::Block(b.into())),
            Just(Answer::DontHave),
            Just(Answer::Busy),
        ]
    }

    fn joined(response: &Response) -> Bytes {
        response.encode().concat().into()
    }

    #[test]
    fn golden_request() {
        let request = Request::new(vec![BlockId::from_sha256([0x11; 32])], Want::Block);
        assert_eq!(
            HEXLOWER.encode(&request.encode()),
            format!("12221220{}18808080 01", "11".repeat(32)).replace(' ', "")
        );
        assert_eq!(Request::decode(request.encode()), Ok(request));
        let have = Request::new(vec![id(0x22)], Want::Have);
        assert_eq!(
            HEXLOWER.encode(&have.encode()),
            format!("080112322030{}", "22".repeat(48))
        );
        assert_eq!(Request::decode(have.encode()), Ok(have));
    }

    #[test]
    fn golden_response() {
        let response = Response::Answers(vec![
            (id(0x11), Answer::Block(Bytes::from_static(b"hi"))),
            (id(0x22), Answer::DontHave),
            (id(0x33), Answer::Busy),
        ]);
        assert_eq!(
            HEXLOWER.encode(&joined(&response)),
            format!(
                "0a3a0a322030{}10011a026869 0a360a322030{}1003 0a360a322030{}1004",
                "11".repeat(48),
                "22".repeat(48),
                "33".repeat(48)
            )
            .replace(' ', "")
        );
        let have = Response::Answers(vec![(id(0x11), Answer::Have)]);
        assert_eq!(
            HEXLOWER.encode(&joined(&have)),
            format!("0a360a322030{}1002", "11".repeat(48))
        );
        assert_eq!(HEXLOWER.encode(&joined(&Response::Refused(1))), "1001");
    }

    #[test]
    fn golden_rates() {
        let request = Request::new(vec![BlockId::from_sha256([0x11; 32])], Want::Block);
        let offering = request.clone().with_rate(300);
        assert_eq!(
            HEXLOWER.encode(&offering.encode()),
            format!("12221220{}18808080 0140ac02", "11".repeat(32)).replace(' ', "")
        );
        assert_eq!(Request::decode(offering.encode()), Ok(offering));
        assert_eq!(request.clone().with_rate(0).encode(), request.encode());
        let question = Request::new(request.ids.clone(), Want::Have);
        assert_eq!(question.clone().with_rate(300), question);

        let refusal = Response::RateTooLow { wanted: 300 };
        assert_eq!(HEXLOWER.encode(&joined(&refusal)), "100240ac02");
        assert_eq!(
            Response::decode(joined(&refusal), &request),
            Ok(refusal.clone())
        );
        // Without the rate it is the same refusal.
        let bare = Bytes::from_static(&[0x10, 2]);
        assert_eq!(
            Response::decode(bare, &request),
            Ok(Response::RateTooLow { wanted: 0 })
        );
        // The highest of everything fits its frame.
        let ids: Vec<BlockId> = (0..MAX_IDS).map(|n| id(n as u8)).collect();
        let largest = Request::new(ids, Want::Block).with_rate(u64::MAX);
        assert!(largest.encode().len() <= MAX_REQUEST_BYTES);
        assert_eq!(Request::decode(largest.encode()), Ok(largest));
    }

    #[test]
    fn golden_parts() {
        let request = Request::new(vec![id(0x11)], Want::Block).with_offset(300);
        assert_eq!(
            HEXLOWER.encode(&request.encode()),
            format!("12322030{}1880808001 20ac02", "11".repeat(48)).replace(' ', "")
        );
        assert_eq!(Request::decode(request.encode()), Ok(request.clone()));
        let part = Response::Part {
            id: id(0x11),
            offset: 300,
            bytes: Bytes::from_static(b"hi"),
        };
        assert_eq!(
            HEXLOWER.encode(&joined(&part)),
            format!("0a3d0a322030{}100120ac021a026869", "11".repeat(48))
        );
        assert_eq!(Response::decode(joined(&part), &request), Ok(part.clone()));
        // The whole block is an answer, too: a peer may not know of places.
        let whole = Response::Answers(vec![(id(0x11), Answer::Block(Bytes::from_static(b"hi")))]);
        assert_eq!(Response::decode(joined(&whole), &request), Ok(whole));
        let elsewhere = request.clone().with_offset(299);
        assert!(Response::decode(joined(&part), &elsewhere).is_err());
        let other = Request::new(vec![id(0x22)], Want::Block).with_offset(300);
        assert!(Response::decode(joined(&part), &other).is_err());
        let two = Request::new(vec![id(0x11), id(0x22)], Want::Block);
        assert!(Response::decode(joined(&part), &two).is_err());
        let long = Response::Part {
            id: id(0x11),
            offset: 300,
            bytes: vec![7; MAX_BLOCK_BYTES - 299].into(),
        };
        assert!(Response::decode(joined(&long), &request).is_err());
        for wrong in [
            two.with_offset(1),
            Request::new(vec![id(0x11)], Want::Have).with_offset(1),
            request.with_offset(MAX_BLOCK_BYTES),
        ] {
            assert!(Request::decode(wrong.encode()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_response_of_the_largest_size_is_one_burst() {
        assert_eq!(
            MAX_RESPONSE_BLOCK_BYTES as u64,
            crate::net::pace::BURST_BYTES
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_is_read_at_the_pace_that_is_set() {
        let (meter, arrivals) = (Meter::default(), Arrivals::default());
        meter.set_rate(1 << 20);
        let len = 6 << 20;
        let mut bytes = (len as u32).to_be_bytes().to_vec();
        bytes.resize(4 + len, 7);
        let began = Instant::now();
        let mut frame = Vec::new();
        let came = |bytes| arrivals.add(bytes);
        let read = read_frame_paced(&mut &bytes[..], len, &meter, &mut frame, came).await;
        read.expect("read").expect("allowed");
        assert_eq!(frame, bytes[4..]);
        assert_eq!(arrivals.bytes(), len as u64);
        // The burst is free, two MiB are left.
        let took = began.elapsed();
        assert!(took >= Duration::from_secs(2) && took < Duration::from_millis(2_200));
        let mut none = Vec::new();
        let over = read_frame_paced(&mut &bytes[..], len - 1, &meter, &mut none, came).await;
        assert!(over.expect("read").is_err());
    }

    proptest! {
        #[test]
        fn responses_are_what_prost_writes_and_read_back(answers in proptest::collection::vec(any_answer(), 1..20)) {
            let answers: Vec<_> = answers.into_iter().enumerate().map(|(n, a)| (id(n as u8), a)).collect();
            let asked = Request::new(answers.iter().map(|(id, _)| *id).collect(), Want::Block);
            let response = Response::Answers(answers);
            let bytes = joined(&response);
            let message = wire::Response::decode(bytes.clone()).expect("prost reads it");
            prop_assert_eq!(Bytes::from(message.encode_to_vec()), bytes.clone());
            prop_assert_eq!(Response::decode(bytes, &asked), Ok(response));
        }

        #[test]
        fn arbitrary_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let asked = Request::new(vec![id(1), id(2)], Want::Block);
            let _ = Request::decode(bytes.clone().into());
            let _ = Response::decode(bytes.into(), &asked);
        }

        #[test]
        fn damaged_responses_give_an_answer(at in 0usize..110, value in any::<u8>()) {
            let asked = Request::new(vec![id(1), id(2)], Want::Block);
            let answers = vec![(id(1), Answer::Block(Bytes::from_static(b"hi"))), (id(2), Answer::Busy)];
            let mut bytes = joined(&Response::Answers(answers)).to_vec();
            bytes[at] = value;
            if let Ok(Response::Answers(answers)) = Response::decode(bytes.into(), &asked) {
                prop_assert_eq!(answers.iter().map(|(id, _)| *id).collect::<Vec<_>>(), asked.ids);
            }
        }
    }

    #[test]
    fn limits_of_requests() {
        let ids: Vec<BlockId> = (0..=MAX_IDS).map(|n| id(n as u8)).collect();
        let largest = Request::new(ids[1..].to_vec(), Want::Block);
        assert!(largest.encode().len() <= MAX_REQUEST_BYTES);
        assert_eq!(largest.max_bytes, MAX_RESPONSE_BLOCK_BYTES);
        assert_eq!(Request::decode(largest.encode()), Ok(largest));
        let over = Request::new(ids, Want::Block);
        assert!(Request::decode(over.encode()).is_err());
        assert!(Request::decode(Request::new(vec![], Want::Block).encode()).is_err());
        assert!(Request::decode(Bytes::from(vec![0; MAX_REQUEST_BYTES + 1])).is_err());
    }

    #[test]
    fn limits_of_responses() {
        let asked = Request::new(vec![id(1), id(2), id(3)], Want::Block);
        let largest = Bytes::from(vec![7; MAX_BLOCK_BYTES]);
        let full = Response::Answers(vec![
            (id(1), Answer::Block(largest.clone())),
            (id(2), Answer::Block(largest.clone())),
            (id(3), Answer::Busy),
        ]);
        assert!(joined(&full).len() <= asked.max_response_bytes());
        assert_eq!(Response::decode(joined(&full), &asked), Ok(full));
        let over = Response::Answers(vec![(
            id(1),
            Answer::Block(vec![7; MAX_BLOCK_BYTES + 1].into()),
        )]);
        assert!(Response::decode(joined(&over), &asked).is_err());
        let three = Response::Answers(
            (1..4)
                .map(|n| (id(n), Answer::Block(largest.clone())))
                .collect(),
        );
        assert!(Response::decode(joined(&three), &asked).is_err());
    }

    #[test]
    fn what_was_not_asked_for_is_refused() {
        let asked = Request::new(vec![id(1), id(2)], Want::Block);
        let have = Request::new(vec![id(1), id(2)], Want::Have);
        let block = Answer::Block(Bytes::from_static(b"x"));
        for (answers, asked) in [
            (vec![(id(3), Answer::DontHave)], &asked),
            (vec![(id(1), Answer::Busy), (id(1), Answer::Busy)], &asked),
            (vec![(id(1), Answer::Have)], &asked),
            (vec![(id(1), block)], &have),
            (
                vec![
                    (id(1), Answer::Busy),
                    (id(2), Answer::Busy),
                    (id(3), Answer::Busy),
                ],
                &asked,
            ),
        ] {
            let response = Response::Answers(answers);
            assert!(
                Response::decode(joined(&response), asked).is_err(),
                "{response:?}"
            );
        }
        let partial = Response::Answers(vec![(id(2), Answer::DontHave)]);
        assert_eq!(
            Response::decode(joined(&partial), &asked),
            Ok(Response::Answers(vec![
                (id(1), Answer::Busy),
                (id(2), Answer::DontHave)
            ]))
        );
    }
}
