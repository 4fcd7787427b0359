//! Format 1: the keys and values of every record on disk.
//!
//! Two column families. `blocks` maps arrival numbers to bytes: numbers only grow, so what comes together lies together, and dropping the
//! oldest empties whole files. The default one is the index, where the first byte of a key says what the record is:
//!
//! | key | value | what |
//! |---|---|---|
//! | `M` name | `Schema`, `Totals` | about the store |
//! | `I` id | `Block` | a block that is here, or lost |
//! | `A` arrival | `Arrival` | a block that is here |
//! | `C` arrival | id | a block that may be evicted |
//! | `D` arrival | `Dead` | bytes that still take space |
//! | `O` id | `Leftover` | a cached block that came for a pin which was never finished |
//! | `N` place | id | a block that is here, by its place in the keyspace of the DHT |
//! | `W` id | | a lost block: referred to and not here |
//! | `P` pin | `Pin` | a pin |
//! | `L` lease | `Lease` | a lease |
//! | `R` holder id | | what a holder refers to |
//! | `B` id holder | | who refers to a block |
//! | `K` chunk hash | `Chunk` | where a chunk is |
//! | `U` id | `Stat` | how a block was used |
//! | `G` number id | | a block with statistics that is not here |
//!
//! A place is the SHA-256 of an id. `Mplaces` says that all blocks are under `N`: earlier versions
//! did not write it. An id is its multihash; numbers are 8 bytes, big endian; a holder is a kind
//! byte (1 pin, 2 lease) and a number.

use bytes::Bytes;
use prost::Message;

use crate::block::{ChunkHash, Link, Ref};
use crate::crypto::key::Key;
use crate::id::BlockId;
use crate::store::counters::Counters;
use crate::store::error::Error;
use crate::store::types::{Class, Counter, Holder, LeaseId, LeaseInfo, PinId, PinInfo, Place};
use crate::time::Timestamp;
use crate::wire::store as wire;

/// The format that this version writes and the newest it reads.
pub const SCHEMA_VERSION: u32 = 1;
/// Name of the column family of the blocks' bytes.
pub const BLOCKS_CF: &str = "blocks";

pub const SCHEMA_KEY: &[u8] = b"Mschema";
pub const TOTALS_KEY: &[u8] = b"Mtotals";
/// Key of the mark that the index of places is whole.
pub const PLACES_KEY: &[u8] = b"Mplaces";

/// Kinds of holders.
const PIN_HOLDER: u8 = 1;
const LEASE_HOLDER: u8 = 2;
const HOLDER_BYTES: usize = 9;
const NUMBER_BYTES: usize = 8;

/// First byte of a key of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Tag {
    Block = b'I',
    Arrival = b'A',
    Cached = b'C',
    Dead = b'D',
    Leftover = b'O',
    Place = b'N',
    Lost = b'W',
    Pin = b'P',
    Lease = b'L',
    HolderBlock = b'R',
    BlockHolder = b'B',
    Chunk = b'K',
    Stat = b'U',
    Gone = b'G',
}

impl Tag {
    /// The key that all keys with this tag are at or behind.
    pub fn start(self) -> Vec<u8> {
        vec![self as u8]
    }

    /// The key that all keys with this tag are before.
    pub fn end(self) -> Vec<u8> {
        vec![self as u8 + 1]
    }
}

/// Builds a key of the index from its parts.
fn key(tag: Tag, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.push(tag as u8);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

/// A key made of an id: tags `Block`, `Leftover`, `Lost`, `Stat`.
pub fn id_key(tag: Tag, id: &BlockId) -> Vec<u8> {
    key(tag, &[&id.to_multihash()])
}

/// A key made of a number: tags `Arrival`, `Cached`, `Dead`, `Pin`, `Lease`.
pub fn number_key(tag: Tag, number: u64) -> Vec<u8> {
    key(tag, &[&number.to_be_bytes()])
}

pub fn gone_key(number: u64, id: &BlockId) -> Vec<u8> {
    key(Tag::Gone, &[&number.to_be_bytes(), &id.to_multihash()])
}

pub fn place_key(place: &Place) -> Vec<u8> {
    key(Tag::Place, &[&place.0])
}

/// Reads the place in a key.
pub fn place_of_key(key: &[u8]) -> Result<Place, Error> {
    let place = key.get(1..).and_then(|place| place.try_into().ok());
    place.map(Place).ok_or(BAD_KEY)
}

pub fn chunk_key(hash: &ChunkHash) -> Vec<u8> {
    key(Tag::Chunk, &[hash])
}

fn holder_bytes(holder: Holder) -> [u8; HOLDER_BYTES] {
    let (kind, number) = match holder {
        Holder::Pin(pin) => (PIN_HOLDER, pin.0),
        Holder::Lease(lease) => (LEASE_HOLDER, lease.0),
    };
    let mut bytes = [kind; HOLDER_BYTES];
    bytes[1..].copy_from_slice(&number.to_be_bytes());
    bytes
}

pub fn holder_block_key(holder: impl Into<Holder>, id: &BlockId) -> Vec<u8> {
    let holder = holder_bytes(holder.into());
    key(Tag::HolderBlock, &[&holder, &id.to_multihash()])
}

/// Start of the keys of all holders of a block.
pub fn holders_prefix(id: &BlockId) -> Vec<u8> {
    key(Tag::BlockHolder, &[&id.to_multihash()])
}

/// What the keys of all blocks of a holder start with.
pub fn holder_prefix(holder: impl Into<Holder>) -> Vec<u8> {
    key(Tag::HolderBlock, &[&holder_bytes(holder.into())])
}

pub fn block_holder_key(id: &BlockId, holder: impl Into<Holder>) -> Vec<u8> {
    let holder = holder_bytes(holder.into());
    key(Tag::BlockHolder, &[&id.to_multihash(), &holder])
}

/// The first and the last place where keys of blocks may be whose ids share the first `bits` bits,
/// at most 16, with an id; for each hash function.
pub fn like_ranges(id: &BlockId, bits: u32) -> [(Vec<u8>, Vec<u8>); 2] {
    let free = u16::MAX.checked_shr(bits).unwrap_or(0);
    let (first, last) = (id.likeness() & !free, id.likeness() | free);
    // Multihash code and length of SHA2-256 and SHA2-384, in the order of their ids.
    [[0x12, 32], [0x20, 48]].map(|head| {
        let at = |bits: u16| key(Tag::Block, &[head.as_slice(), &bits.to_be_bytes()]);
        (at(first), prefix_end(&at(last)))
    })
}

/// The first key that all keys starting with `prefix` are before.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // Keys of the index start with a letter, so this end is behind them all.
    vec![u8::MAX]
}

const BAD_KEY: Error = Error::BadIndex { what: "a key" };

/// Reads the id at the end of a key whose part before has `skip` bytes.
pub fn id_in_key(key: &[u8], skip: usize) -> Result<BlockId, Error> {
    let id = key.get(skip..).ok_or(BAD_KEY)?;
    BlockId::from_multihash(id).map_err(|_| BAD_KEY)
}

/// Reads the id of a key with one of the tags `Block`, `Leftover`, `Lost`, `Stat`.
pub fn id_of_key(key: &[u8]) -> Result<BlockId, Error> {
    id_in_key(key, 1)
}

pub fn id_of_gone_key(key: &[u8]) -> Result<BlockId, Error> {
    id_in_key(key, 1 + NUMBER_BYTES)
}

pub fn id_of_holder_block_key(key: &[u8]) -> Result<BlockId, Error> {
    id_in_key(key, 1 + HOLDER_BYTES)
}

/// Reads a key made of a block and its holder.
pub fn block_and_holder_of_key(key: &[u8]) -> Option<(BlockId, Holder)> {
    let (id, holder) = key.get(1..)?.split_last_chunk::<HOLDER_BYTES>()?;
    let (kind, number) = holder.split_first()?;
    let number = u64::from_be_bytes(number.try_into().ok()?);
    let holder = match *kind {
        PIN_HOLDER => Holder::Pin(PinId(number)),
        LEASE_HOLDER => Holder::Lease(LeaseId(number)),
        _ => return None,
    };
    Some((BlockId::from_multihash(id).ok()?, holder))
}

/// Reads the number behind the tag of a key.
pub fn number_of_key(key: &[u8]) -> Result<u64, Error> {
    let number = key.get(1..1 + NUMBER_BYTES).ok_or(BAD_KEY)?;
    arrival_of_key(number)
}

/// Reads a key of the column family of the blocks' bytes.
pub fn arrival_of_key(key: &[u8]) -> Result<u64, Error> {
    Ok(u64::from_be_bytes(key.try_into().map_err(|_| BAD_KEY)?))
}

/// Reads an id that is a value of its own or a field.
pub fn read_id(bytes: &[u8]) -> Result<BlockId, Error> {
    BlockId::from_multihash(bytes).map_err(|_| Error::BadIndex { what: "an id" })
}

/// Decodes a record; `what` names it in the error.
pub fn decode<M: Message + Default>(bytes: &[u8], what: &'static str) -> Result<M, Error> {
    M::decode(bytes).map_err(|_| Error::BadIndex { what })
}

impl wire::Block {
    /// Whether the block is here.
    pub fn is_here(&self) -> bool {
        self.arrival != 0
    }

    /// Whether anything refers to it.
    pub fn is_held(&self) -> bool {
        self.pins > 0 || self.leases > 0
    }

    /// Why it is here.
    pub fn class(&self) -> Class {
        if self.pins > 0 {
            Class::Pinned
        } else if self.leases > 0 {
            Class::Leased
        } else {
            Class::Cached
        }
    }
}

pub fn write_counters(counters: &Counters, gone_number: u64) -> wire::Stat {
    let write = |counter: &Counter| {
        (counter.count > 0).then(|| wire::Counter {
            first_ms: counter.first.unwrap_or_default().0,
            last_ms: counter.last.unwrap_or_default().0,
            count: counter.count,
        })
    };
    wire::Stat {
        requested: write(&counters.requested),
        downloaded: write(&counters.downloaded),
        served: write(&counters.served),
        purged: write(&counters.purged),
        gone_number,
    }
}

pub fn read_counters(stat: &wire::Stat) -> Counters {
    let read = |counter: &Option<wire::Counter>| {
        counter.map_or_else(Counter::default, |counter| Counter {
            first: Some(Timestamp(counter.first_ms)),
            last: Some(Timestamp(counter.last_ms)),
            count: counter.count,
        })
    };
    Counters {
        requested: read(&stat.requested),
        downloaded: read(&stat.downloaded),
        served: read(&stat.served),
        purged: read(&stat.purged),
    }
}

pub fn write_chunk(place: &Ref) -> wire::Chunk {
    wire::Chunk {
        id: place.id.to_multihash().into(),
        key: Bytes::copy_from_slice(place.key.as_bytes()),
        offset: place.offset,
        len: place.len,
    }
}

pub fn read_chunk(bytes: &[u8]) -> Result<Ref, Error> {
    let bad = Error::BadIndex { what: "a chunk" };
    let chunk: wire::Chunk = decode(bytes, "a chunk")?;
    Ok(Ref {
        id: read_id(&chunk.id)?,
        key: Key::try_from(chunk.key.as_ref()).map_err(|_| bad)?,
        offset: chunk.offset,
        len: chunk.len,
    })
}

pub fn write_finished_pin(info: PinInfo) -> wire::Pin {
    let info = info.with_short_name();
    let key = |link: &Link| Bytes::copy_from_slice(link.key.as_bytes());
    wire::Pin {
        state: wire::pin::State::Finished.into(),
        root: info.root.to_multihash().into(),
        key: info.link.as_ref().map(key).unwrap_or_default(),
        name: info.name,
        bytes: info.bytes,
        files: info.files,
        blocks: info.blocks,
        created_ms: info.created.0,
        abandoned_ms: 0,
    }
}

pub fn read_finished_pin(pin: &wire::Pin) -> Result<PinInfo, Error> {
    let root = read_id(&pin.root)?;
    let link = if pin.key.is_empty() {
        None
    } else {
        let key = Key::try_from(pin.key.as_ref());
        let key = key.map_err(|_| Error::BadIndex { what: "a pin" })?;
        Some(Link { id: root, key })
    };
    Ok(PinInfo {
        root,
        link,
        name: pin.name.clone(),
        bytes: pin.bytes,
        files: pin.files,
        blocks: pin.blocks,
        created: Timestamp(pin.created_ms),
    })
}

pub fn write_lease(info: &LeaseInfo) -> wire::Lease {
    use wire::lease::State;
    let state = if info.complete {
        State::Complete
    } else {
        State::Open
    };
    wire::Lease {
        state: state.into(),
        terms: info.terms.clone(),
        root: info.root.to_multihash().into(),
        until_ms: info.until.0,
        blocks: info.blocks,
        bytes: info.bytes,
    }
}

pub fn read_lease(lease: &wire::Lease) -> Result<LeaseInfo, Error> {
    Ok(LeaseInfo {
        root: read_id(&lease.root)?,
        terms: lease.terms.clone(),
        until: Timestamp(lease.until_ms),
        blocks: lease.blocks,
        bytes: lease.bytes,
        complete: lease.state() == wire::lease::State::Complete,
    })
}
