//! Asking peers for ids that are like a given one: ids whose first bits are the same.
//!
//! One stream a question: a [`Question`](wire::Question) behind its length, then an answer of the
//! same form, and the end. An answer says what its teller claims to have. Ids in it that are not
//! alike, or a message that is too long, make the whole answer count for nothing; whether the
//! blocks exist shows when they are fetched.
//!
//! Deliberately absent: which peers are asked, and what is answered (`upkeep::like`).

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{PeerId, Stream, StreamProtocol};
use libp2p_stream::{Control, IncomingStreams};
use prost::Message;
use tokio::time::timeout;

use crate::id::BlockId;
use crate::wire::like as wire;

/// Bits that ids share at least and at most, as far as questions can say.
pub const MIN_BITS: u32 = 12;
/// See [`MIN_BITS`].
pub const MAX_BITS: u32 = 16;
/// Most ids of one answer.
pub const MAX_FOUND: usize = 100;

/// Longest messages in bytes: an id has 50, and its size and the fields around them some more.
const MAX_QUESTION_BYTES: usize = 128;
const MAX_ANSWER_BYTES: usize = MAX_FOUND * 80 + 16;
/// How long a stranger may take for a question, or for taking the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a peer gave no answer that counts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The connection, or the peer does not speak this protocol.
    #[error("the peer could not be asked")]
    Io(#[from] io::Error),
    /// It took too long.
    #[error("the peer gave no answer in time")]
    TimedOut,
    /// The answer breaks the protocol.
    #[error("the peer's answer is malformed")]
    Malformed,
    /// The peer was asked too often.
    #[error("the peer has been asked too much")]
    Busy,
}

/// An id that a peer says it has, with the size of its block.
pub type Found = (BlockId, u32);

/// View of a net: asking for ids that are alike. Cheap to clone.
#[derive(Clone)]
pub struct Like {
    pub(super) streams: Control,
    pub(super) protocol: StreamProtocol,
}

impl Like {
    /// Asks a peer for ids that share at least `bits` bits with `id`.
    ///
    /// # Errors
    /// [`Error`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the question.
    pub async fn ask(
        &self,
        peer: PeerId,
        id: BlockId,
        bits: u32,
        patience: Duration,
    ) -> Result<Vec<Found>, Error> {
        let mut streams = self.streams.clone();
        let ask = async move {
            let opened = streams.open_stream(peer, self.protocol.clone()).await;
            let mut stream = opened.map_err(io::Error::other)?;
            let question = wire::Question {
                id: id.to_multihash().into(),
                bits,
            };
            stream
                .write_all(&question.encode_length_delimited_to_vec())
                .await?;
            stream.flush().await?;
            let answer = read_message(&mut stream, MAX_ANSWER_BYTES).await?;
            read_answer(answer, id, bits)
        };
        timeout(patience, ask).await.map_err(|_| Error::TimedOut)?
    }

    /// Questions of others from now on; none when they are listened to already.
    pub fn questions(&self) -> Option<Questions> {
        let mut streams = self.streams.clone();
        let incoming = streams.accept(self.protocol.clone()).ok()?;
        Some(Questions(incoming))
    }
}

/// Streams on which peers ask. Those that nobody takes are bounded by libp2p-stream.
pub struct Questions(IncomingStreams);

impl Questions {
    /// The next peer that asks; none when the net has stopped.
    ///
    /// # Cancel safety
    /// Nothing is lost when dropped.
    pub async fn next(&mut self) -> Option<Asker> {
        let (peer, stream) = self.0.next().await?;
        Some(Asker { peer, stream })
    }
}

/// A peer that is about to ask.
pub struct Asker {
    /// The peer.
    pub peer: PeerId,
    stream: Stream,
}

impl Asker {
    /// Its question.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn question(&mut self) -> Result<(BlockId, u32), Error> {
        let read = read_message(&mut self.stream, MAX_QUESTION_BYTES);
        let message = timeout(PATIENCE, read).await;
        read_question(message.map_err(|_| Error::TimedOut)??)
    }

    /// Answers it; with nothing, says that too much was asked.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn answer(mut self, found: Option<Vec<Found>>) -> Result<(), Error> {
        let bytes = write_answer(found);
        let write = async {
            self.stream.write_all(&bytes).await?;
            self.stream.close().await
        };
        Ok(timeout(PATIENCE, write)
            .await
            .map_err(|_| Error::TimedOut)??)
    }
}

fn write_answer(found: Option<Vec<Found>>) -> Vec<u8> {
    let busy = found.is_none();
    let found = found.unwrap_or_default().into_iter().take(MAX_FOUND);
    let found = found.map(|(id, bytes)| wire::Found {
        id: id.to_multihash().into(),
        bytes,
    });
    wire::Answer {
        found: found.collect(),
        busy,
    }
    .encode_length_delimited_to_vec()
}

fn read_question(message: Bytes) -> Result<(BlockId, u32), Error> {
    let question = wire::Question::decode(message).map_err(|_| Error::Malformed)?;
    let id = BlockId::from_multihash(&question.id).map_err(|_| Error::Malformed)?;
    let fits = (MIN_BITS..=MAX_BITS).contains(&question.bits);
    fits.then_some((id, question.bits)).ok_or(Error::Malformed)
}

fn read_answer(message: Bytes, id: BlockId, bits: u32) -> Result<Vec<Found>, Error> {
    let answer = wire::Answer::decode(message).map_err(|_| Error::Malformed)?;
    if answer.busy {
        return Err(Error::Busy);
    }
    if answer.found.len() > MAX_FOUND {
        return Err(Error::Malformed);
    }
    let found = answer.found.into_iter().map(|one| {
        let other = BlockId::from_multihash(&one.id).map_err(|_| Error::Malformed)?;
        let is_alike = other.shared_bits(&id) >= bits;
        is_alike
            .then_some((other, one.bytes))
            .ok_or(Error::Malformed)
    });
    found.collect()
}

/// Reads one message of at most `most` bytes behind its length.
async fn read_message(
    stream: &mut (impl futures::AsyncRead + Unpin),
    most: usize,
) -> Result<Bytes, Error> {
    let mut length = Vec::new();
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        length.extend(byte);
        if byte[0] & 0x80 == 0 {
            break;
        }
        // Two bytes say up to 16 KiB.
        if length.len() >= 2 {
            return Err(Error::Malformed);
        }
    }
    let length = prost::decode_length_delimiter(&length[..]).map_err(|_| Error::Malformed)?;
    if length > most {
        return Err(Error::Malformed);
    }
    let mut message = BytesMut::zeroed(length);
    stream.read_exact(&mut message).await?;
    Ok(message.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;
    use futures::executor::block_on;
    use proptest::prelude::*;

    fn id(first: [u8; 2], n: u8) -> BlockId {
        let mut digest = [n; 48];
        digest[..2].copy_from_slice(&first);
        BlockId::from_sha384(digest)
    }

    fn read(bytes: &[u8], most: usize) -> Result<Bytes, Error> {
        block_on(read_message(&mut &*bytes, most))
    }

    fn answered(found: Option<Vec<Found>>, asked: BlockId, bits: u32) -> Result<Vec<Found>, Error> {
        let bytes = write_answer(found);
        read_answer(read(&bytes, MAX_ANSWER_BYTES)?, asked, bits)
    }

    #[test]
    fn golden_question() {
        let question = wire::Question {
            id: id([0xab, 0xcd], 7).to_multihash().into(),
            bits: 12,
        };
        let hex = HEXLOWER.encode(&question.encode_to_vec());
        assert_eq!(hex, format!("0a322030abcd{}100c", "07".repeat(46)));
        let message = question.encode_to_vec().into();
        let read = read_question(message).expect("reads");
        assert_eq!(read, (id([0xab, 0xcd], 7), 12));
    }

    #[test]
    fn only_ids_that_are_alike_count() {
        let asked = id([0xab, 0xcd], 0);
        let near = (id([0xab, 0xc0], 1), 5);
        let far = (id([0xab, 0xb0], 1), 5);
        let found = answered(Some(vec![near]), asked, 12).expect("counts");
        assert_eq!(found, [near]);
        assert!(answered(Some(vec![near]), asked, 13).is_err());
        assert!(answered(Some(vec![near, far]), asked, 12).is_err());
        assert!(matches!(answered(None, asked, 12), Err(Error::Busy)));
    }

    #[test]
    fn a_full_answer_fits_and_a_longer_one_is_refused() {
        let asked = id([1, 2], 0);
        let all: Vec<Found> = (0..=MAX_FOUND as u8)
            .map(|n| (id([1, 2], n), u32::MAX))
            .collect();
        let found = answered(Some(all.clone()), asked, 16).expect("fits");
        assert_eq!(found, all[..MAX_FOUND]);
        let too_many = wire::Answer {
            found: all
                .iter()
                .map(|(id, bytes)| wire::Found {
                    id: id.to_multihash().into(),
                    bytes: *bytes,
                })
                .collect(),
            busy: false,
        };
        let message = too_many.encode_to_vec().into();
        assert!(matches!(
            read_answer(message, asked, 16),
            Err(Error::Malformed)
        ));
    }

    #[test]
    fn lengths_are_checked_before_anything_is_read() {
        assert!(matches!(read(&[0x81, 0x01], 128), Err(Error::Malformed)));
        assert!(matches!(
            read(&[0x80, 0x80, 0x01], 128),
            Err(Error::Malformed)
        ));
        assert!(matches!(read(&[5, 1], 128), Err(Error::Io(_))));
        for (bits, fits) in [(11, false), (12, true), (16, true), (17, false)] {
            let question = wire::Question {
                id: id([1, 2], 3).to_multihash().into(),
                bits,
            };
            let read = read_question(question.encode_to_vec().into());
            assert_eq!(read.is_ok(), fits, "{bits}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes, MAX_QUESTION_BYTES);
            let _ = read_question(bytes.clone().into());
            let _ = read_answer(bytes.into(), id([1, 2], 3), 12);
        }
    }
}
