//! Bytes made to do harm in place of a tree's: whatever they are, decoding them gives a tree that makes sense, or an error.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use super::super::Error;
use super::super::codec::{MAX_NODE_BYTES, decode_node, encode_node};
use super::super::root::Root;
use super::super::tree::{Content, MAX_INLINE_DEPTH, Node};
use super::Memory;
use super::hostile::{directory, entry, file};
use crate::block::{Link, MAX_PLAINTEXT_BYTES};
use crate::id::BlockId;
use crate::wire::tree as wire;

#[test]
fn double_and_unsorted_names_are_refused() {
    let memory = Memory::default();
    let data = Arc::new(memory.plant(b"harm"));
    let link = |name: &[u8]| entry(name, Content::Symlink(Bytes::from_static(b"../outside")));
    for entries in [
        // A symlink, and then a directory or file that would go through it.
        vec![link(b"x"), directory(b"x", vec![file(b"egg", &data, 4)])],
        vec![link(b"x"), file(b"x", &data, 4)],
        vec![file(b"b", &data, 4), file(b"a", &data, 4)],
    ] {
        let (plain, _) = encode_node(&Node::Entries(entries), &Arc::clone);
        let id = data.id;
        assert!(matches!(
            decode_node(id, &plain.into()),
            Err(Error::Malformed { .. })
        ));
    }
}

fn malformed(message: &wire::Node) -> bool {
    let mut plain = b"LNT\x01".to_vec();
    message.encode(&mut plain).expect("encodes");
    let id = BlockId::from_sha384([1; 48]);
    matches!(decode_node(id, &plain.into()), Err(Error::Malformed { .. }))
}

#[test]
fn entries_that_make_no_sense_are_refused() {
    let good = wire::Entry {
        name: Bytes::from_static(b"f"),
        kind: wire::Kind::File.into(),
        ..wire::Entry::default()
    };
    let node = |entry: &wire::Entry| wire::Node {
        entries: vec![entry.encode_to_vec().into()],
        blocks: vec![wire::Block {
            id: BlockId::from_sha384([7; 48]).to_multihash().into(),
            key: Bytes::from_static(&[7; 32]),
        }],
        ..wire::Node::default()
    };
    assert!(!malformed(&node(&good)));
    let changes: [fn(&mut wire::Entry); 14] = [
        |entry| entry.mode = 0o10000,
        |entry| entry.kind = 77,
        |entry| entry.kind = 0,
        |entry| entry.size = 1,
        |entry| entry.target = Bytes::from_static(b"x"),
        |entry| entry.node = Some(0),
        |entry| entry.entries = vec![Bytes::new()],
        |entry| entry.device = Some(wire::Device::default()),
        |entry| {
            entry.kind = wire::Kind::Directory.into();
            entry.node = Some(1);
        },
        |entry| entry.kind = wire::Kind::Symlink.into(),
        |entry| entry.kind = wire::Kind::BlockDevice.into(),
        |entry| {
            entry.modified = Some(wire::Time {
                seconds: 0,
                nanos: 1_000_000_000,
            });
        },
        |entry| {
            entry.extents = vec![wire::Extent::default()];
        },
        |entry| {
            let hole = wire::Extent {
                len: u64::MAX,
                ..wire::Extent::default()
            };
            entry.size = u64::MAX;
            entry.extents = vec![hole];
        },
    ];
    for (at, change) in changes.iter().enumerate() {
        let mut bad = good.clone();
        change(&mut bad);
        assert!(malformed(&node(&bad)), "change {at}");
    }
    // An extent that reaches to the end of the largest block, and one byte past it.
    for (offset, is_bad) in [(1, false), (2, true)] {
        let len = MAX_PLAINTEXT_BYTES as u64 - 1;
        let extent = wire::Extent {
            len,
            offset,
            at: Some(wire::extent::At::Block(0)),
        };
        let mut entry = good.clone();
        entry.size = len;
        entry.extents = vec![extent];
        assert_eq!(malformed(&node(&entry)), is_bad);
    }
    let mut bad_block = node(&good);
    bad_block.blocks[0].key = Bytes::from_static(&[7; 31]);
    assert!(malformed(&bad_block));
    let mut mixed = node(&good);
    mixed.extents = vec![wire::Extent::default()];
    assert!(malformed(&mixed));
}

#[test]
fn nesting_and_size_have_limits() {
    let nested = |depth: usize| {
        let mut inner = directory(b"d", Vec::new());
        for _ in 1..depth {
            inner = directory(b"d", vec![inner]);
        }
        encode_node(&Node::Entries(vec![inner]), &Arc::clone).0
    };
    let id = BlockId::from_sha384([1; 48]);
    assert!(decode_node(id, &nested(MAX_INLINE_DEPTH).into()).is_ok());
    assert!(decode_node(id, &nested(MAX_INLINE_DEPTH + 1).into()).is_err());
    // Unknown fields are for newer versions, but no reason to read on for ever.
    let mut large = b"LNT\x01".to_vec();
    let filler = MAX_NODE_BYTES - 4 - 6;
    large.extend_from_slice(&[0xa2, 0x06]);
    prost::encode_length_delimiter(filler, &mut large).expect("encodes");
    large.resize(MAX_NODE_BYTES, 0);
    let length = large.len();
    prost::encode_length_delimiter(length - 4 - 2 - 3, &mut &mut large[6..9]).expect("encodes");
    assert!(decode_node(id, &large.clone().into()).is_ok());
    large.push(0);
    assert!(decode_node(id, &large.into()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_bytes_give_an_answer(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), magic in 0..3) {
        let id = BlockId::from_sha384([1; 48]);
        let mut plain = [&b""[..], b"LNT\x01", b"LNBUNDLE\x01"][magic as usize].to_vec();
        plain.append(&mut bytes);
        let plain = Bytes::from(plain);
        let _ = decode_node(id, &plain);
        let _ = Root::decode(id, &plain);
    }

    #[test]
    fn any_change_to_a_tree_gives_an_answer(at in any::<proptest::sample::Index>(), to in any::<u8>()) {
        let data = Arc::new(Link { id: BlockId::from_sha384([2; 48]), key: crate::crypto::key::Key::new([2; 32]) });
        let tree = vec![directory(b"d", vec![file(b"a", &data, 4), entry(b"l", Content::Symlink(Bytes::from_static(b"t")))])];
        let (mut plain, _) = encode_node(&Node::Entries(tree), &Arc::clone);
        let at = at.index(plain.len());
        plain[at] = to;
        let id = data.id;
        if let Ok(Node::Entries(entries)) = decode_node(id, &plain.into()) {
            for entry in &entries {
                prop_assert!(super::super::tree::check_name(&entry.name).is_ok());
            }
        }
    }
}
