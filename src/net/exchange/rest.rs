//! Blocks that come in more than one piece.
//!
//! A request may name the byte at which its block is to begin. What came of an answer before it
//! broke off is kept, whatever broke it, and the next request asks for the rest, of the same peer
//! or of another one. Pieces mean nothing by themselves: only the whole block can be checked, by
//! whoever asked, and [`Beginning`] says which bytes came from whom.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use libp2p::PeerId;
use prost::encoding::{WireType, decode_key, decode_varint};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::codec::{STATUS_BLOCK, TAG_ANSWERS, TAG_BLOCK, TAG_ID, TAG_OFFSET, TAG_STATUS};
use crate::block::MAX_BLOCK_BYTES;
use crate::id::BlockId;

/// A block as far as it has come. **Unverified.**
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Beginning {
    bytes: Vec<u8>,
    /// Where the bytes of each peer end.
    from: Vec<(PeerId, usize)>,
}

impl Beginning {
    /// Bytes that have come.
    pub const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing has come.
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Peers that bytes came from, each with the range of its bytes.
    pub fn from(&self) -> impl Iterator<Item = (PeerId, Range<usize>)> + '_ {
        let mut start = 0;
        self.from.iter().map(move |(peer, end)| {
            let range = start..*end;
            start = *end;
            (*peer, range)
        })
    }

    /// Whether bytes came from nobody else.
    pub fn is_of(&self, peer: PeerId) -> bool {
        self.from.iter().all(|(from, _)| *from == peer)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Adds what came from a peer and begins at `offset`. Only the next bytes, or a whole block
    /// from its first byte on, make it longer.
    pub(crate) fn add(&mut self, peer: PeerId, offset: usize, bytes: &[u8]) {
        if offset == self.bytes.len() {
            self.bytes.extend_from_slice(bytes);
        } else if offset == 0 && bytes.len() > self.bytes.len() {
            self.bytes = bytes.to_vec();
            self.from.clear();
        } else {
            return;
        }
        self.mark(peer);
    }

    /// All bytes with those that end the block, which begin at `offset`.
    pub(super) fn complete(&mut self, peer: PeerId, offset: usize, rest: Bytes) -> Bytes {
        if offset == 0 || offset != self.bytes.len() {
            // The peer has sent the whole block.
            self.bytes = Vec::new();
            self.from = vec![(peer, rest.len())];
            return rest;
        }
        self.bytes.extend_from_slice(&rest);
        self.mark(peer);
        std::mem::take(&mut self.bytes).into()
    }

    fn mark(&mut self, peer: PeerId) {
        let end = self.bytes.len();
        match self.from.last_mut() {
            Some((last, until)) if *last == peer => *until = end,
            Some((_, until)) if *until == end => {}
            _ => self.from.push((peer, end)),
        }
    }
}

/// Bytes that have come of one answer.
#[derive(Debug, Default)]
pub(super) struct Came {
    /// Place in the block at which it begins.
    pub(super) offset: usize,
    pub(super) bytes: Vec<u8>,
}

/// Shared by who asks and the stream that reads the answer.
pub(super) type Rest = Arc<Mutex<Came>>;

/// An answer that is being read. What has come of it is kept when it is dropped, however that
/// happens; who asked waits for that by the lock.
pub(super) struct Reading {
    came: Option<OwnedMutexGuard<Came>>,
    pub(super) frame: Vec<u8>,
    id: Option<BlockId>,
    offset: usize,
}

impl Reading {
    /// Begins to read the answer to a question for the rest of a block; without one nothing is
    /// kept.
    pub(super) fn new(rest: Option<&Rest>, id: Option<BlockId>, offset: usize) -> Self {
        Self {
            came: rest.and_then(|rest| rest.clone().try_lock_owned().ok()),
            frame: Vec::new(),
            id,
            offset,
        }
    }

    /// The whole frame: nothing needs to be kept.
    pub(super) fn finish(mut self) -> Bytes {
        self.came = None;
        std::mem::take(&mut self.frame).into()
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let (Some(came), Some(id)) = (&mut self.came, &self.id) else {
            return;
        };
        let Some((offset, bytes)) = begun(&self.frame, id) else {
            return;
        };
        if (offset == 0 || offset == self.offset)
            && offset + bytes.len() > came.offset + came.bytes.len()
        {
            **came = Came {
                offset,
                bytes: bytes.to_vec(),
            };
        }
    }
}

/// The place and the bytes of a block in the beginning of a response that has this block alone.
fn begun<'a>(frame: &'a [u8], id: &BlockId) -> Option<(usize, &'a [u8])> {
    let mut rest = frame;
    let (tag, kind) = decode_key(&mut rest).ok()?;
    if (tag, kind) != (TAG_ANSWERS, WireType::LengthDelimited) {
        return None;
    }
    decode_varint(&mut rest).ok()?;
    let mut offset = 0;
    let mut is_block = false;
    loop {
        let (tag, kind) = decode_key(&mut rest).ok()?;
        let value = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
        match (tag, kind) {
            (TAG_ID, WireType::LengthDelimited) => {
                let (named, after) = rest.split_at_checked(value)?;
                if BlockId::from_multihash(named).ok()? != *id {
                    return None;
                }
                rest = after;
            }
            (TAG_STATUS, WireType::Varint) => is_block = value == STATUS_BLOCK as usize,
            (TAG_OFFSET, WireType::Varint) if value < MAX_BLOCK_BYTES => offset = value,
            (TAG_BLOCK, WireType::LengthDelimited) if is_block => {
                let end = offset.checked_add(value)?;
                let is_possible = value > 0 && end <= MAX_BLOCK_BYTES;
                return is_possible.then(|| (offset, &rest[..value.min(rest.len())]));
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Answer;
    use super::super::codec::Response;
    use super::*;
    use proptest::prelude::*;

    fn id() -> BlockId {
        BlockId::from_sha384([7; 48])
    }

    fn frame(offset: usize, bytes: &[u8]) -> Vec<u8> {
        let bytes = Bytes::copy_from_slice(bytes);
        let response = match offset {
            0 => Response::Answers(vec![(id(), Answer::Block(bytes))]),
            _ => Response::Part {
                id: id(),
                offset,
                bytes,
            },
        };
        response.encode().concat()
    }

    #[test]
    fn whatever_came_of_a_block_is_found_in_a_frame_that_broke_off() {
        let block: Vec<u8> = (0..=255).collect();
        for offset in [0, 1, 200] {
            let frame = frame(offset, &block);
            let head = frame.len() - block.len();
            for len in 0..=frame.len() {
                let found = begun(&frame[..len], &id());
                match len.checked_sub(head) {
                    Some(came) => assert_eq!(found, Some((offset, &block[..came]))),
                    None => assert_eq!(found, None, "{len}"),
                }
            }
            let other = BlockId::from_sha384([8; 48]);
            assert_eq!(begun(&frame, &other), None, "another block");
        }
        let no = Response::Answers(vec![(id(), Answer::DontHave)]);
        assert_eq!(begun(&no.encode().concat(), &id()), None);
    }

    #[tokio::test]
    async fn what_was_read_is_kept_when_the_reading_ends_early() {
        let rest = Rest::default();
        let mut reading = Reading::new(Some(&rest), Some(id()), 0);
        let whole = frame(0, &[1; 100]);
        reading.frame.extend_from_slice(&whole[..whole.len() - 60]);
        assert!(rest.try_lock().is_err(), "who asked waits");
        drop(reading);
        assert_eq!(rest.lock().await.bytes, [1; 40]);
        // Another place than was asked for is nothing.
        let mut reading = Reading::new(Some(&rest), Some(id()), 40);
        reading.frame = frame(50, &[2; 90]);
        drop(reading);
        assert_eq!(rest.lock().await.bytes, [1; 40]);
    }

    #[test]
    fn a_block_is_put_together_and_each_byte_has_its_peer() {
        let [a, b] = [PeerId::random(), PeerId::random()];
        let mut beginning = Beginning::default();
        beginning.add(a, 0, &[1, 2]);
        beginning.add(a, 2, &[3]);
        beginning.add(b, 3, &[4, 5]);
        beginning.add(b, 1, &[9, 9, 9, 9, 9, 9]);
        assert_eq!(
            beginning.bytes(),
            [1, 2, 3, 4, 5],
            "a gap or an overlap adds nothing"
        );
        assert!(!beginning.is_of(a));
        let whole = beginning.complete(a, 5, Bytes::from_static(&[6]));
        assert_eq!(whole[..], [1, 2, 3, 4, 5, 6]);
        let from: Vec<_> = beginning.from().collect();
        assert_eq!(from, [(a, 0..3), (b, 3..5), (a, 5..6)]);
        let mut beginning = Beginning::default();
        beginning.add(a, 0, &[1, 2]);
        beginning.add(b, 0, &[1]);
        assert!(beginning.is_of(a), "less than there is");
        let whole = beginning.complete(b, 0, Bytes::from_static(&[7, 8]));
        assert_eq!(whole[..], [7, 8]);
        assert!(beginning.is_of(b));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = begun(&bytes, &id());
        }

        #[test]
        fn damaged_frames_give_an_answer(at in 0..160_usize, value in any::<u8>(), len in 0..160_usize) {
            let mut frame = frame(300, &[5; 100]);
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
            frame.truncate(len);
            if let Some((offset, bytes)) = begun(&frame, &id()) {
                prop_assert!(offset + bytes.len() <= MAX_BLOCK_BYTES);
            }
        }
    }
}
