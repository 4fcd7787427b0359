//! The bytes of the released format. They never change: a newer format gets another version.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use proptest::prelude::*;

use super::super::Error;
use super::super::codec::{decode_node, encode_node};
use super::super::root::{Root, Totals};
use super::super::tree::{
    Content, Device, Directory, Entry, Extent, File, Identity, ModTime, Node, Owner, Part, Xattr,
};
use crate::block::{Context, Link, seal};
use crate::crypto::key::Key;
use crate::id::BlockId;

fn link(byte: u8) -> Arc<Link> {
    Arc::new(Link {
        id: BlockId::from_sha384([byte; 48]),
        key: Key::new([byte; 32]),
    })
}

fn plain(name: &'static str, content: Content) -> Entry {
    Entry {
        name: Bytes::from_static(name.as_bytes()),
        mode: 0o644,
        modified: None,
        owner: None,
        xattrs: Vec::new(),
        identity: None,
        content,
    }
}

/// One of everything.
fn tree() -> Entry {
    let file = File {
        size: 6_000,
        extents: vec![
            Extent::Data {
                block: link(1),
                offset: 10,
                len: 1_000,
            },
            Extent::Hole { len: 2_000 },
            Extent::List {
                block: link(2),
                len: 3_000,
            },
        ],
        link_group: Some(1),
    };
    let device = Device {
        is_block: false,
        major: 1,
        minor: 3,
    };
    let inner = vec![
        plain("d", Content::Device(device)),
        plain("e", Content::Fifo),
        plain("f", Content::File(file)),
        plain("g", Content::Directory(Directory::Block(link(2)))),
        plain("h", Content::Symlink(Bytes::from_static(b"../x"))),
    ];
    Entry {
        name: Bytes::from_static(b"sample"),
        mode: 0o1755,
        modified: Some(ModTime {
            seconds: -2,
            nanos: 999_999_999,
        }),
        owner: Some(Owner {
            uid: 1000,
            gid: 100,
        }),
        xattrs: vec![Xattr {
            name: Bytes::from_static(b"user.a"),
            value: Bytes::from_static(b"\x00\xff"),
        }],
        identity: None,
        content: Content::Directory(Directory::Inline(inner)),
    }
}

fn root() -> Root {
    Root {
        entry: tree(),
        totals: Totals {
            files: 1,
            entries: 6,
            bytes: 6_000,
            blocks: 2,
        },
        index_file: Some(Bytes::from_static(b"f")),
        properties: BTreeMap::from([("title".to_owned(), Bytes::from_static(b"Sample"))]),
    }
}

#[test]
fn golden_root_block() {
    let bytes = root().encode(&Arc::clone);
    assert_eq!(HEXLOWER.encode(&bytes), GOLDEN_ROOT);
    let id = BlockId::from_sha384([0; 48]);
    assert_eq!(
        Root::decode(id, &bytes.clone().into()).expect("reads"),
        root()
    );
    let golden = HEXLOWER.decode(GOLDEN_ROOT.as_bytes()).expect("hex");
    assert_eq!(Root::decode(id, &golden.into()).expect("reads"), root());
    // The whole way to the link, which is what people keep. (The payload is raw: compression saves too little here.)
    let small = Root {
        entry: plain("empty", Content::Directory(Directory::Inline(Vec::new()))),
        totals: Totals::default(),
        index_file: None,
        properties: BTreeMap::new(),
    };
    let sealed = seal(&Context::public(), &small.encode(&Arc::clone)).expect("fits");
    let link = Link {
        id: sealed.block.id(),
        key: sealed.key,
    };
    assert_eq!(link.to_string(), GOLDEN_LINK);
}

#[test]
fn golden_tree_blocks() {
    let id = BlockId::from_sha384([0; 48]);
    let parts = vec![
        Part {
            first_name: Bytes::from_static(b"a"),
            block: link(1),
        },
        Part {
            first_name: Bytes::from_static(b"\xff"),
            block: link(2),
        },
    ];
    let extents = vec![Extent::Hole { len: 5 }];
    for (node, golden) in [
        (Node::Parts(parts), GOLDEN_PARTS),
        (Node::Extents(extents), "4c4e540122020805"),
        (Node::Entries(Vec::new()), "4c4e5401"),
    ] {
        let (bytes, _) = encode_node(&node, &Arc::clone);
        let hex = HEXLOWER.encode(&bytes);
        assert_eq!(hex, golden);
        assert_eq!(decode_node(id, &bytes.into()).expect("reads"), node);
    }
}

#[test]
fn golden_identity() {
    let entry = Entry {
        identity: Some(Identity {
            changed: ModTime {
                seconds: 1,
                nanos: 2,
            },
            inode: 300,
        }),
        ..plain("i", Content::Fifo)
    };
    let node = Node::Entries(vec![entry]);
    let (bytes, _) = encode_node(&node, &Arc::clone);
    assert_eq!(HEXLOWER.encode(&bytes), GOLDEN_IDENTITY);
    let id = BlockId::from_sha384([0; 48]);
    assert_eq!(decode_node(id, &bytes.into()).expect("reads"), node);
    // Half of it is none.
    let half = HEXLOWER
        .decode(b"4c4e5401120b0a0169100418a40378ac02")
        .expect("hex");
    let refused = decode_node(id, &half.into());
    assert!(matches!(refused, Err(Error::Malformed { what, .. }) if what.contains("half")));
}

#[test]
fn a_block_is_named_once_in_a_message() {
    let file = |name| {
        let extents = vec![Extent::Data {
            block: link(9),
            offset: 0,
            len: 1,
        }];
        plain(
            name,
            Content::File(File {
                size: 1,
                extents,
                link_group: None,
            }),
        )
    };
    let one = encode_node(&Node::Entries(vec![file("a")]), &Arc::clone);
    let two = encode_node(&Node::Entries(vec![file("a"), file("b")]), &Arc::clone);
    assert!(two.0.len() < one.0.len() + 32);
    assert_eq!(two.1, [link(9).id]);
}

proptest! {
    #[test]
    fn nodes_read_back(
        names in proptest::collection::btree_set("[^/\\x00.]{1,8}", 0..20),
        mode in 0u32..=0o7777,
        seconds in any::<i64>(),
        nanos in 0u32..1_000_000_000,
        inode in proptest::option::of(any::<u64>()),
    ) {
        let entries: Vec<Entry> = names
            .into_iter()
            .enumerate()
            .map(|(at, name)| Entry {
                name: Bytes::from(name.into_bytes()),
                mode,
                modified: Some(ModTime { seconds, nanos }),
                identity: inode.map(|inode| Identity {
                    changed: ModTime { seconds, nanos },
                    inode,
                }),
                ..match at % 3 {
                    0 => plain("", Content::Fifo),
                    1 => tree(),
                    _ => plain("", Content::Symlink(Bytes::from_static(b"x"))),
                }
            })
            .collect();
        let node = Node::Entries(entries);
        let (bytes, _) = encode_node(&node, &Arc::clone);
        prop_assert_eq!(decode_node(link(1).id, &bytes.into()).expect("reads"), node);
    }
}

/// Encoded by hand from `proto/tree.proto` with another program.
const GOLDEN_ROOT: &str = "4c4e42554e444c4501080112560a3220300101010101010101010101010101010101010101010101010101010101010101010101010101010101010101010101011220010101010101010101010101010101010101010101010101010101010101010112560a322030020202020202020202020202020202020202020202020202020202020202020202020202020202020202020202020202122002020202020202020202020202020202020202020202020202020202020202021a86010a0673616d706c65100218ed072208080310ff93ebdc032a0508e8071064320c0a06757365722e61120200ff520e0a0164100518a4036a040801100352080a0165100418a40352220a0166100118a40338f02e420708e8071000200a420308d00f420508b81718014801520a0a0167100218a4035801520e0a0168100318a40362042e2e2f782001280630f02e38024201664a0f0a057469746c65120653616d706c65";
const GOLDEN_LINK: &str = "libernet:bafksamfgmtkyizcetxnyvqchttadcnen5gbrjpfnumctx47o3vsienzhumlrnfqgzu2bnsg66sbszv2ooa3q.coy26hdub4hzpyrmlwouovak2b2hun57fg6pwnurcq5inb25g5vq";
const GOLDEN_PARTS: &str = "4c4e54010a560a322030010101010101010101010101010101010101010101010101010101010101010101010101010101010101010101010101122001010101010101010101010101010101010101010101010101010101010101010a560a322030020202020202020202020202020202020202020202020202020202020202020202020202020202020202020202020202122002020202020202020202020202020202020202020202020202020202020202021a030a01611a050a01ff1001";
const GOLDEN_IDENTITY: &str = "4c4e540112110a0169100418a40372040802100278ac02";
