//! The bytes of every record of format 1. When one of these tests fails, stores of earlier versions can't be read any more: keep the old
//! form and raise the version.

use data_encoding::HEXLOWER;
use prost::Message;

use crate::block::{Link, Ref};
use crate::crypto::key::Key;
use crate::id::BlockId;
use crate::store::counters::Counters;
use crate::store::rocks::schema::{self, Tag};
use crate::store::types::{Counter, LeaseInfo, PinId, PinInfo, Place};
use crate::time::Timestamp;
use crate::wire::store as wire;

fn id() -> BlockId {
    BlockId::from_sha384([0xab; 48])
}

fn id_hex() -> String {
    format!("2030{}", "ab".repeat(48))
}

fn check(what: &str, bytes: &[u8], expected: &str) {
    assert_eq!(HEXLOWER.encode(bytes), expected, "{what}");
}

#[test]
fn keys() {
    let (id, hex) = (id(), id_hex());
    let old = BlockId::from_sha256([0xcd; 32]);
    check(
        "block",
        &schema::id_key(Tag::Block, &id),
        &format!("49{hex}"),
    );
    check(
        "old",
        &schema::id_key(Tag::Block, &old),
        &format!("491220{}", "cd".repeat(32)),
    );
    check("lost", &schema::id_key(Tag::Lost, &id), &format!("57{hex}"));
    check("stat", &schema::id_key(Tag::Stat, &id), &format!("55{hex}"));
    check(
        "arrival",
        &schema::number_key(Tag::Arrival, 258),
        "410000000000000102",
    );
    check(
        "cached",
        &schema::number_key(Tag::Cached, 258),
        "430000000000000102",
    );
    check(
        "dead",
        &schema::number_key(Tag::Dead, 258),
        "440000000000000102",
    );
    check(
        "pin",
        &schema::number_key(Tag::Pin, 258),
        "500000000000000102",
    );
    check(
        "gone",
        &schema::gone_key(258, &id),
        &format!("470000000000000102{hex}"),
    );
    check(
        "chunk",
        &schema::chunk_key(&[0xee; 32]),
        &format!("4b{}", "ee".repeat(32)),
    );
    let pin = PinId(258);
    check(
        "holder to block",
        &schema::holder_block_key(pin, &id),
        &format!("52010000000000000102{hex}"),
    );
    check(
        "block to holder",
        &schema::block_holder_key(&id, pin),
        &format!("42{hex}010000000000000102"),
    );
    check(
        "place",
        &schema::place_key(&Place([0xaa; 32])),
        &format!("4e{}", "aa".repeat(32)),
    );
    check("places", schema::PLACES_KEY, "4d706c61636573");
    check("schema", schema::SCHEMA_KEY, "4d736368656d61");
    check("totals", schema::TOTALS_KEY, "4d746f74616c73");
}

#[test]
fn keys_read_back() {
    let (id, pin) = (id(), PinId(7));
    let read = [
        schema::id_of_key(&schema::id_key(Tag::Block, &id)),
        schema::id_of_gone_key(&schema::gone_key(9, &id)),
        schema::id_of_holder_block_key(&schema::holder_block_key(pin, &id)),
    ];
    for found in read {
        assert_eq!(found.expect("reads"), id);
    }
    let number = schema::number_of_key(&schema::number_key(Tag::Cached, u64::MAX));
    assert_eq!(number.expect("reads"), u64::MAX);
    for bad in [&b""[..], b"I", b"I\x20\x30short"] {
        assert!(schema::id_of_key(bad).is_err());
        assert!(schema::number_of_key(bad).is_err());
    }
    assert_eq!(schema::prefix_end(&[1, 0xff, 0xff]), [2]);
    assert_eq!(schema::prefix_end(&[0xff]), [0xff]);
}

#[test]
fn records() {
    let hex = id_hex();
    let id_field = format!("0a32{hex}");
    let key = Key::new([0xcc; 32]);
    let key_hex = "cc".repeat(32);
    check(
        "schema",
        &wire::Schema { version: 1 }.encode_to_vec(),
        "0801",
    );
    let totals = wire::Totals {
        blocks: 1,
        block_bytes: 2,
        pinned_bytes: 3,
        leased_bytes: 4,
        dead_bytes: 5,
        last_number: 6,
        gone: 7,
        pins: 8,
        corrupt: 9,
        evicted: 10,
        evicted_unsure: 11,
    };
    check(
        "totals",
        &totals.encode_to_vec(),
        "080110021803200428053006380740084809500a580b",
    );
    let block = wire::Block {
        arrival: 1,
        bytes: 2,
        added_ms: 300,
        pins: 4,
        leases: 5,
    };
    check("block", &block.encode_to_vec(), "0801100218ac0220042805");
    let arrival = wire::Arrival {
        id: id().to_multihash().into(),
        bytes: 2,
    };
    check(
        "arrival",
        &arrival.encode_to_vec(),
        &format!("{id_field}1002"),
    );
    check("dead", &wire::Dead { bytes: 300 }.encode_to_vec(), "08ac02");
    let chunk = schema::write_chunk(&Ref {
        id: id(),
        key: key.clone(),
        offset: 1,
        len: 2,
    });
    check(
        "chunk",
        &chunk.encode_to_vec(),
        &format!("{id_field}1220{key_hex}18012002"),
    );
    let pin = schema::write_finished_pin(PinInfo {
        root: id(),
        link: Some(Link { id: id(), key }),
        name: "n".to_owned(),
        bytes: 1,
        files: 2,
        blocks: 3,
        created: Timestamp(4),
    });
    check(
        "pin",
        &pin.encode_to_vec(),
        &format!("080112016e1a32{hex}2220{key_hex}2801300238034004"),
    );
    let lease = schema::write_lease(&LeaseInfo {
        root: id(),
        terms: bytes::Bytes::from_static(b"t"),
        until: Timestamp(1),
        blocks: 2,
        bytes: 3,
        complete: true,
    });
    check(
        "lease",
        &lease.encode_to_vec(),
        &format!("08011201741a32{hex}200128023003"),
    );
    use wire::lease::State as Lease;
    assert_eq!(
        [Lease::Open, Lease::Complete, Lease::Removing].map(i32::from),
        [0, 1, 2]
    );
    let state = |state: wire::pin::State| i32::from(state);
    use wire::pin::State;
    assert_eq!(
        [State::Open, State::Finished, State::Removing].map(state),
        [0, 1, 2]
    );
    let counter = |count| Counter {
        first: Some(Timestamp(1)),
        last: Some(Timestamp(2)),
        count,
    };
    let counters = Counters {
        requested: counter(3),
        downloaded: counter(4),
        served: Counter::default(),
        purged: counter(5),
    };
    let stat = schema::write_counters(&counters, 6);
    check(
        "stat",
        &stat.encode_to_vec(),
        "0a06080110021803120608011002180422060801100218052806",
    );
    assert_eq!(schema::read_counters(&stat), counters);
}

#[test]
fn nonsense_is_refused() {
    for bytes in [&b"\xff"[..], b"\x0a\xff", b"hello"] {
        assert!(schema::read_chunk(bytes).is_err());
        assert!(schema::decode::<wire::Block>(bytes, "a block").is_err());
        assert!(schema::decode::<wire::Totals>(bytes, "the sums").is_err());
    }
    assert!(schema::read_id(b"\x20\x30").is_err());
    let no_root = wire::Pin::default();
    assert!(schema::read_finished_pin(&no_root).is_err());
}
