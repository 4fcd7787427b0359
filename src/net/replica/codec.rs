//! Messages of the replica protocol, `wire::replica`.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::{AsyncRead, AsyncWrite};
use libp2p::StreamProtocol;
use libp2p::request_response as rr;
use prost::Message;

use super::{
    Answer, MAX_OFFERED, MAX_PAGE_IDS, MAX_PROOFS, MAX_TOLD_LEASES, Recovered, Refusal, Request,
    State, Why, Wish,
};
use crate::block::MAX_BLOCK_BYTES;
use crate::head::{MAX_RECORD_BYTES, MAX_SEALED_BYTES};
use crate::id::BlockId;
use crate::lease::{Lease, MAX_LEASE_BYTES, Release};
use crate::net::frame::{Malformed, read_frame, read_frame_within, write_frame};
use crate::wire::replica as wire;

/// Largest request: a page of ids of 52 bytes with their tags, and a lease.
pub(super) const MAX_REQUEST_BYTES: usize = MAX_PAGE_IDS * 52 + MAX_LEASE_BYTES + 64;
/// Largest response.
pub(super) const MAX_RESPONSE_BYTES: usize =
    MAX_RECORD_BYTES + MAX_TOLD_LEASES * (MAX_LEASE_BYTES + 4) + 128;
const _: () = assert!(MAX_PROOFS * 34 + 128 <= MAX_RESPONSE_BYTES);
const _: () = assert!(MAX_SEALED_BYTES + 128 <= MAX_RESPONSE_BYTES);
const _: () = assert!(MAX_SEALED_BYTES + 128 <= MAX_REQUEST_BYTES);
/// How long a peer may take to send its request once it has opened a stream.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

const KIND_ROOM: u32 = 1;
const KIND_KEEP: u32 = 2;
const KIND_STATE: u32 = 3;
const KIND_RELEASE: u32 = 4;
const KIND_PROVE: u32 = 5;
const KIND_OFFER: u32 = 6;
const KIND_HOLDING: u32 = 7;
const KIND_RECOVER: u32 = 8;
const KIND_HEAD: u32 = 9;
const WHY_POPULAR: u32 = 1;
const WHY_HAND_OVER: u32 = 2;

/// A request as it went out or came in. One that breaks the protocol is handed on as what is wrong with it.
pub(crate) type Asked = Result<Request, Malformed>;

/// What an answer has to be to fit the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Expected {
    #[default]
    State,
    Proofs(usize),
    Wishes(usize),
    Recovered,
    Head,
}

impl Expected {
    fn of(request: &Request) -> Self {
        match request {
            Request::Prove { ids, .. } => Self::Proofs(ids.len()),
            Request::Offer { blocks, .. } => Self::Wishes(blocks.len()),
            Request::Holding { roots, .. } => Self::Wishes(roots.len()),
            Request::Recover { .. } => Self::Recovered,
            Request::Head { .. } => Self::Head,
            Request::Room | Request::Keep { .. } | Request::State { .. } | Request::Release(_) => {
                Self::State
            }
        }
    }
}

fn exact<const N: usize>(bytes: &[u8], what: &'static str) -> Result<[u8; N], Malformed> {
    bytes.try_into().map_err(|_| Malformed(what))
}

pub(super) fn encode_request(request: &Request) -> Vec<u8> {
    let list = |ids: &[BlockId]| ids.iter().map(|id| id.to_multihash().into()).collect();
    let message = match request {
        Request::Room => wire::Request {
            kind: KIND_ROOM,
            ..Default::default()
        },
        Request::Keep { lease, ids } => wire::Request {
            kind: KIND_KEEP,
            lease: lease.encode().into(),
            ids: list(ids),
            ..Default::default()
        },
        Request::State { owner, name } => wire::Request {
            kind: KIND_STATE,
            owner: owner.to_vec().into(),
            name: name.to_vec().into(),
            ..Default::default()
        },
        Request::Release(release) => wire::Request {
            kind: KIND_RELEASE,
            release: release.encode().into(),
            ..Default::default()
        },
        Request::Prove {
            owner,
            name,
            nonce,
            ids,
        } => wire::Request {
            kind: KIND_PROVE,
            owner: owner.to_vec().into(),
            name: name.to_vec().into(),
            nonce: nonce.to_vec().into(),
            ids: list(ids),
            ..Default::default()
        },
        Request::Holding { owner, roots } => wire::Request {
            kind: KIND_HOLDING,
            owner: owner.to_vec().into(),
            ids: list(roots),
            ..Default::default()
        },
        Request::Recover {
            nonce,
            proof,
            after,
        } => wire::Request {
            kind: KIND_RECOVER,
            nonce: nonce.to_vec().into(),
            proof: proof.to_vec().into(),
            name: after.map(|name| name.to_vec().into()).unwrap_or_default(),
            ..Default::default()
        },
        Request::Head { nonce, proof, told } => wire::Request {
            kind: KIND_HEAD,
            nonce: nonce.to_vec().into(),
            proof: proof.to_vec().into(),
            head: told.clone().unwrap_or_default(),
            ..Default::default()
        },
        Request::Offer { why, blocks } => wire::Request {
            kind: KIND_OFFER,
            ids: blocks
                .iter()
                .map(|(id, _)| id.to_multihash().into())
                .collect(),
            sizes: blocks.iter().map(|(_, bytes)| *bytes).collect(),
            why: match why {
                Why::Popular => WHY_POPULAR,
                Why::HandOver => WHY_HAND_OVER,
            },
            ..Default::default()
        },
    };
    message.encode_to_vec()
}

pub(super) fn decode_request(frame: Bytes) -> Asked {
    if frame.len() > MAX_REQUEST_BYTES {
        return Err(Malformed("the request is too large"));
    }
    let message = wire::Request::decode(frame).map_err(|_| Malformed("not a request message"))?;
    let ids = |most: usize| -> Result<Vec<BlockId>, Malformed> {
        if message.ids.len() > most {
            return Err(Malformed("too many ids"));
        }
        let ids = message.ids.iter().map(|id| BlockId::from_multihash(id));
        ids.collect::<Result<_, _>>()
            .map_err(|_| Malformed("an id of an unknown kind"))
    };
    let owner = || exact(&message.owner, "an owner's key has 32 bytes");
    let name = || exact(&message.name, "a lease's name has 16 bytes");
    Ok(match message.kind {
        KIND_ROOM => Request::Room,
        KIND_KEEP => Request::Keep {
            lease: Box::new(Lease::decode(&message.lease).map_err(|_| Malformed("not a lease"))?),
            ids: ids(MAX_PAGE_IDS)?,
        },
        KIND_STATE => Request::State {
            owner: owner()?,
            name: name()?,
        },
        KIND_RELEASE => Request::Release(Box::new(
            Release::decode(&message.release).map_err(|_| Malformed("not a release"))?,
        )),
        KIND_PROVE => Request::Prove {
            owner: owner()?,
            name: name()?,
            nonce: exact(&message.nonce, "a nonce has 32 bytes")?,
            ids: ids(MAX_PROOFS)?,
        },
        KIND_HOLDING => Request::Holding {
            owner: owner()?,
            roots: ids(MAX_OFFERED)?,
        },
        KIND_RECOVER => Request::Recover {
            nonce: exact(&message.nonce, "a nonce has 32 bytes")?,
            proof: exact(&message.proof, "a proof has 32 bytes")?,
            after: match message.name.is_empty() {
                true => None,
                false => Some(name()?),
            },
        },
        KIND_HEAD if message.head.len() > MAX_SEALED_BYTES => {
            return Err(Malformed("the head is too large"));
        }
        KIND_HEAD => Request::Head {
            nonce: exact(&message.nonce, "a nonce has 32 bytes")?,
            proof: exact(&message.proof, "a proof has 32 bytes")?,
            told: Some(message.head).filter(|head| !head.is_empty()),
        },
        KIND_OFFER => Request::Offer {
            why: match message.why {
                WHY_POPULAR => Why::Popular,
                WHY_HAND_OVER => Why::HandOver,
                _ => return Err(Malformed("an offer for an unknown reason")),
            },
            blocks: offered(ids(MAX_OFFERED)?, &message.sizes)?,
        },
        _ => return Err(Malformed("the request wants something unknown")),
    })
}

fn offered(ids: Vec<BlockId>, sizes: &[u32]) -> Result<Vec<(BlockId, u32)>, Malformed> {
    let fits = |bytes: &u32| (1..=MAX_BLOCK_BYTES).contains(&(*bytes as usize));
    if ids.is_empty() || ids.len() != sizes.len() || !sizes.iter().all(fits) {
        return Err(Malformed("an offer of nothing, or of sizes that can't be"));
    }
    Ok(ids.into_iter().zip(sizes.iter().copied()).collect())
}

pub(super) fn encode_answer(answer: &Answer) -> Vec<u8> {
    let message = match answer {
        Answer::State(state) => wire::Response {
            listed: state.listed,
            missing: state.missing,
            durable: state.durable,
            remaining_ms: state.remaining.as_millis() as u64,
            free_bytes: state.free_bytes,
            ..Default::default()
        },
        Answer::Proofs(proofs) => wire::Response {
            proofs: proofs
                .iter()
                .take(MAX_PROOFS)
                .map(|proof| proof.map_or_else(Bytes::new, |proof| proof.to_vec().into()))
                .collect(),
            ..Default::default()
        },
        Answer::Wishes(wishes) => wire::Response {
            wishes: wishes.iter().map(|wish| wish.code()).collect(),
            ..Default::default()
        },
        Answer::Recovered(recovered) => wire::Response {
            head: recovered.head.clone().unwrap_or_default(),
            leases: recovered
                .leases
                .iter()
                .take(MAX_TOLD_LEASES)
                .map(|lease| lease.encode().into())
                .collect(),
            more: recovered.more,
            ..Default::default()
        },
        Answer::Head(head) => wire::Response {
            head: head.clone(),
            ..Default::default()
        },
        Answer::Refused(refusal) => wire::Response {
            error: refusal.code(),
            ..Default::default()
        },
    };
    message.encode_to_vec()
}

/// Reads an answer, which has to be of the expected kind.
pub(super) fn decode_answer(frame: Bytes, expected: Expected) -> Result<Answer, Malformed> {
    if frame.len() > MAX_RESPONSE_BYTES {
        return Err(Malformed("the response is too large"));
    }
    let message = wire::Response::decode(frame).map_err(|_| Malformed("not a response message"))?;
    if message.error != 0 {
        return Ok(Answer::Refused(Refusal::of_code(message.error)));
    }
    match expected {
        Expected::Proofs(asked) if message.proofs.len() != asked => {
            Err(Malformed("another number of proofs than was asked for"))
        }
        Expected::Proofs(_) => {
            let proofs = message.proofs.iter().map(|proof| match proof.is_empty() {
                true => Ok(None),
                false => exact(proof, "a proof has 32 bytes").map(Some),
            });
            Ok(Answer::Proofs(proofs.collect::<Result<_, _>>()?))
        }
        Expected::Wishes(offered) if message.wishes.len() != offered => Err(Malformed(
            "another number of wishes than blocks were offered",
        )),
        Expected::Wishes(_) => {
            let wishes = message.wishes.iter().map(|code| Wish::of_code(*code));
            let wishes = wishes.collect::<Option<_>>();
            wishes
                .map(Answer::Wishes)
                .ok_or(Malformed("a wish that can't be"))
        }
        Expected::Recovered if message.leases.len() > MAX_TOLD_LEASES => {
            Err(Malformed("more leases than one answer has"))
        }
        Expected::Recovered => {
            let leases = message.leases.iter().map(|lease| Lease::decode(lease));
            Ok(Answer::Recovered(Recovered {
                head: Some(message.head).filter(|head| !head.is_empty()),
                leases: leases
                    .collect::<Result<_, _>>()
                    .map_err(|_| Malformed("not a lease"))?,
                more: message.more,
            }))
        }
        Expected::Head => Ok(Answer::Head(message.head)),
        Expected::State => Ok(Answer::State(State {
            listed: message.listed,
            missing: message.missing,
            durable: message.durable,
            remaining: Duration::from_millis(message.remaining_ms),
            free_bytes: message.free_bytes,
        })),
    }
}

/// One codec lives for one stream: it remembers what was asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Codec {
    expected: Expected,
}

impl rr::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Asked;
    type Response = Answer;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Asked>
    where
        T: AsyncRead + Unpin + Send,
    {
        let frame = read_frame_within(io, MAX_REQUEST_BYTES, REQUEST_TIMEOUT).await?;
        Ok(frame.and_then(decode_request))
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Answer>
    where
        T: AsyncRead + Unpin + Send,
    {
        let frame = read_frame(io, MAX_RESPONSE_BYTES).await??;
        Ok(decode_answer(frame, self.expected)?)
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
        let request = asked?;
        self.expected = Expected::of(&request);
        write_frame(io, vec![encode_request(&request).into()]).await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        answer: Answer,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_frame(io, vec![encode_answer(&answer).into()]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Terms;
    use crate::time::Timestamp;
    use data_encoding::HEXLOWER;
    use ed25519_dalek::SigningKey;
    use proptest::prelude::*;

    fn id(n: u16) -> BlockId {
        let mut digest = [0; 48];
        digest[..2].copy_from_slice(&n.to_be_bytes());
        BlockId::from_sha384(digest)
    }

    fn offered(count: usize, bytes: u32) -> Vec<(BlockId, u32)> {
        (0..count as u16).map(|n| (id(n), bytes)).collect()
    }

    fn lease() -> Box<Lease> {
        let terms = Terms {
            holder: vec![1; crate::lease::MAX_HOLDER_BYTES],
            name: [2; 16],
            sequence: u64::MAX,
            made: Timestamp(u64::MAX - 1),
            until: Timestamp(u64::MAX),
            minimum_until: Timestamp(u64::MAX),
            root: id(1),
            blocks: u64::MAX,
            bytes: u64::MAX,
            digest: [3; 32],
            copies: u32::MAX,
            opener: Some([7; crate::lease::OPENER_BYTES]),
        };
        let machine = SigningKey::from_bytes(&[4; 32]);
        Box::new(Lease::sign(&[5; 32], &machine, &[6; 64], terms))
    }

    fn release() -> Box<Release> {
        let owner = SigningKey::from_bytes(&[4; 32]);
        Box::new(Release::by_owner(&owner, [2; 16], 3, Timestamp(4)))
    }

    fn requests() -> Vec<Request> {
        let (owner, name) = ([7; 32], [8; 16]);
        vec![
            Request::Room,
            Request::Keep {
                lease: lease(),
                ids: (0..MAX_PAGE_IDS as u16).map(id).collect(),
            },
            Request::State { owner, name },
            Request::Release(release()),
            Request::Prove {
                owner,
                name,
                nonce: [9; 32],
                ids: (0..MAX_PROOFS as u16).map(id).collect(),
            },
            Request::Holding {
                owner,
                roots: (0..MAX_OFFERED as u16).map(id).collect(),
            },
            Request::Recover {
                nonce: [1; 32],
                proof: [2; 32],
                after: None,
            },
            Request::Recover {
                nonce: [1; 32],
                proof: [2; 32],
                after: Some(name),
            },
            Request::Head {
                nonce: [1; 32],
                proof: [2; 32],
                told: None,
            },
            Request::Head {
                nonce: [1; 32],
                proof: [2; 32],
                told: Some(vec![3; MAX_SEALED_BYTES].into()),
            },
            Request::Offer {
                why: Why::Popular,
                blocks: offered(MAX_OFFERED, MAX_BLOCK_BYTES as u32),
            },
            Request::Offer {
                why: Why::HandOver,
                blocks: offered(1, 1),
            },
        ]
    }

    #[test]
    fn messages_read_back_at_their_limits() {
        for request in requests() {
            let bytes = encode_request(&request);
            assert!(bytes.len() <= MAX_REQUEST_BYTES, "{}", bytes.len());
            assert_eq!(decode_request(bytes.into()).expect("reads"), request);
        }
        let state = State {
            listed: u64::MAX,
            missing: u64::MAX,
            durable: true,
            remaining: Duration::from_millis(u64::MAX),
            free_bytes: u64::MAX,
        };
        let proofs = vec![Some([1; 32]); MAX_PROOFS];
        let kinds = [Wish::Want, Wish::Have, Wish::Refuse(Refusal::Full)];
        let wishes = kinds.into_iter().cycle().take(MAX_OFFERED).collect();
        for (answer, asked) in [
            (Answer::State(state), Expected::State),
            (Answer::Proofs(proofs), Expected::Proofs(MAX_PROOFS)),
            (
                Answer::Proofs(vec![None, Some([1; 32])]),
                Expected::Proofs(2),
            ),
            (Answer::Wishes(wishes), Expected::Wishes(MAX_OFFERED)),
            (
                Answer::Recovered(Recovered {
                    head: Some(vec![1; MAX_RECORD_BYTES].into()),
                    leases: vec![*lease(); MAX_TOLD_LEASES],
                    more: true,
                }),
                Expected::Recovered,
            ),
            (Answer::Recovered(Recovered::default()), Expected::Recovered),
            (
                Answer::Head(vec![1; MAX_SEALED_BYTES].into()),
                Expected::Head,
            ),
            (Answer::Head(Bytes::new()), Expected::Head),
            (Answer::Refused(Refusal::Full), Expected::State),
            (Answer::Refused(Refusal::Other(99)), Expected::Wishes(1)),
        ] {
            let bytes = Bytes::from(encode_answer(&answer));
            assert!(bytes.len() <= MAX_RESPONSE_BYTES, "{}", bytes.len());
            assert_eq!(decode_answer(bytes, asked).expect("reads"), answer);
        }
    }

    #[test]
    fn what_is_past_the_limits_is_refused() {
        let refused = |request: &Request| decode_request(encode_request(request).into()).is_err();
        assert!(refused(&Request::Keep {
            lease: lease(),
            ids: (0..=MAX_PAGE_IDS as u16).map(id).collect(),
        }));
        assert!(refused(&Request::Prove {
            owner: [1; 32],
            name: [2; 16],
            nonce: [3; 32],
            ids: (0..=MAX_PROOFS as u16).map(id).collect(),
        }));
        assert!(refused(&Request::Head {
            nonce: [1; 32],
            proof: [2; 32],
            told: Some(vec![3; MAX_SEALED_BYTES + 1].into()),
        }));
        for blocks in [
            offered(MAX_OFFERED + 1, 1),
            offered(0, 1),
            offered(1, 0),
            offered(1, MAX_BLOCK_BYTES as u32 + 1),
        ] {
            let why = Why::Popular;
            assert!(refused(&Request::Offer { why, blocks }));
        }
        let proofs = Bytes::from(encode_answer(&Answer::Proofs(vec![None])));
        assert!(decode_answer(proofs.clone(), Expected::Proofs(2)).is_err());
        assert!(decode_answer(proofs, Expected::Wishes(1)).is_err());
        let many = wire::Response {
            leases: vec![lease().encode().into(); MAX_TOLD_LEASES + 1],
            ..wire::Response::default()
        };
        assert!(decode_answer(many.encode_to_vec().into(), Expected::Recovered).is_err());
        let wrong = wire::Response {
            leases: vec![Bytes::from_static(b"no lease")],
            ..wire::Response::default()
        };
        assert!(decode_answer(wrong.encode_to_vec().into(), Expected::Recovered).is_err());
        let unknown = Bytes::from_static(&[0x42, 1, 3]);
        assert!(decode_answer(unknown, Expected::Wishes(1)).is_err());
        let large = Bytes::from(vec![0; MAX_RESPONSE_BYTES + 1]);
        assert!(decode_answer(large, Expected::State).is_err());
        assert!(decode_request(vec![0; MAX_REQUEST_BYTES + 1].into()).is_err());
    }

    #[test]
    fn golden() {
        let state = Request::State {
            owner: [0x11; 32],
            name: [0x22; 16],
        };
        assert_eq!(
            HEXLOWER.encode(&encode_request(&state)),
            format!("08032220{}2a10{}", "11".repeat(32), "22".repeat(16))
        );
        assert_eq!(HEXLOWER.encode(&encode_request(&Request::Room)), "0801");
        let answer = Answer::State(State {
            listed: 1,
            missing: 2,
            durable: true,
            remaining: Duration::from_millis(3),
            free_bytes: 4,
        });
        assert_eq!(
            HEXLOWER.encode(&encode_answer(&answer)),
            "10011802200128033004"
        );
        let offer = Request::Offer {
            why: Why::HandOver,
            blocks: vec![(BlockId::from_sha384([0x33; 48]), 1 << 20)],
        };
        assert_eq!(
            HEXLOWER.encode(&encode_request(&offer)),
            format!("08061a322030{}42038080404802", "33".repeat(48))
        );
        let wishes = vec![Wish::Want, Wish::Have, Wish::Refuse(Refusal::Full)];
        let wishes = encode_answer(&Answer::Wishes(wishes));
        assert_eq!(HEXLOWER.encode(&wishes), "4203010212");
        let full = encode_answer(&Answer::Refused(Refusal::Full));
        assert_eq!(HEXLOWER.encode(&full), "0802");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..400), asked in 0..20usize) {
            let _ = decode_request(bytes.clone().into());
            for expected in [Expected::State, Expected::Proofs(asked), Expected::Wishes(asked)] {
                let _ = decode_answer(bytes.clone().into(), expected);
            }
        }
    }
}
