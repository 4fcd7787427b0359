//! Trees made to do harm. Nothing is ever written outside the target, and nothing panics or runs away. Bytes that are no tree: `hostile_bytes`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use proptest::prelude::*;

use super::super::codec::encode_node;
use super::super::root::{Root, Totals};
use super::super::tree::{Content, Device, Directory, Entry, Extent, File, Node, Part};
use super::super::{Bundle, Error, ExtractOptions, Overwrite};
use super::{Memory, extract, picture, runtime};
use crate::block::Link;
use crate::id::BlockId;

pub(super) fn entry(name: &[u8], content: Content) -> Entry {
    Entry {
        name: Bytes::copy_from_slice(name),
        mode: 0o755,
        modified: None,
        owner: None,
        xattrs: Vec::new(),
        identity: None,
        content,
    }
}

pub(super) fn file(name: &[u8], data: &Arc<Link>, len: u32) -> Entry {
    let extents = vec![Extent::Data {
        block: data.clone(),
        offset: 0,
        len,
    }];
    let content = Content::File(File {
        size: u64::from(len),
        extents,
        link_group: None,
    });
    entry(name, content)
}

pub(super) fn directory(name: &[u8], entries: Vec<Entry>) -> Entry {
    entry(name, Content::Directory(Directory::Inline(entries)))
}

pub(super) fn plant_root(memory: &Memory, entry: Entry, totals: Totals) -> Link {
    let root = Root {
        entry,
        totals,
        index_file: None,
        properties: BTreeMap::new(),
    };
    memory.plant(&root.encode(&Arc::clone))
}

pub(super) fn plenty() -> Totals {
    Totals {
        files: u64::MAX,
        entries: u64::MAX,
        bytes: u64::MAX,
        blocks: 0,
    }
}

fn plant_node(memory: &Memory, node: &Node) -> Arc<Link> {
    Arc::new(memory.plant(&encode_node(node, &Arc::clone).0))
}

/// A room with a canary beside the target: what must not change.
struct Room {
    dir: tempfile::TempDir,
    before: super::Picture,
}

impl Room {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("canary"), b"alive").expect("written");
        fs::create_dir(dir.path().join("nest")).expect("made");
        fs::create_dir(dir.path().join("outside")).expect("made");
        fs::write(dir.path().join("outside/egg"), b"whole").expect("written");
        let before = Self::look(dir.path());
        Self { dir, before }
    }

    fn look(path: &Path) -> super::Picture {
        let mut picture = picture(path);
        picture.retain(|name, _| !name.starts_with(b"nest") && !name.is_empty());
        picture
    }

    fn target(&self) -> std::path::PathBuf {
        self.dir.path().join("nest/target")
    }

    fn check(&self) {
        assert_eq!(Self::look(self.dir.path()), self.before);
    }
}

const BAD_NAMES: [&[u8]; 10] = [
    b"",
    b".",
    b"..",
    b"/",
    b"../canary",
    b"../../canary",
    b"a/../../../canary",
    b"/tmp/libernet-canary",
    b"a\0b",
    b"a/b",
];

#[test]
fn bad_names_are_refused_wherever_they_are() {
    runtime().block_on(async {
        for name in BAD_NAMES {
            let (room, memory) = (Room::new(), Arc::new(Memory::default()));
            let data = Arc::new(memory.plant(b"harm"));
            let bad = file(name, &data, 4);
            // In the root block, in a nested directory, in a block of its own.
            let nested = directory(b"d", vec![bad.clone()]);
            let block = plant_node(&memory, &Node::Entries(vec![bad.clone()]));
            let in_block = entry(b"d", Content::Directory(Directory::Block(block)));
            for entries in [vec![bad.clone()], vec![nested], vec![in_block]] {
                let link = plant_root(&memory, directory(b"r", entries), plenty());
                let target = room.target();
                match extract(&memory, &link, &target, ExtractOptions::default()).await {
                    Err(Error::Malformed { .. }) => {}
                    Ok(report) => assert_eq!(report.missing_total, 1, "{name:?}"),
                    Err(other) => panic!("{name:?}: {other:?}"),
                }
                let _ = fs::remove_dir_all(room.target());
                room.check();
            }
            // A single file with such a name, into a directory. An empty name is allowed there.
            let link = plant_root(&memory, bad, plenty());
            let nest = room.dir.path().join("nest");
            let result = extract(&memory, &link, &nest, ExtractOptions::default()).await;
            assert_eq!(result.is_ok(), name.is_empty(), "{name:?}: {result:?}");
            room.check();
        }
    });
}

#[test]
fn symlinks_are_made_and_never_followed() {
    runtime().block_on(async {
        let (room, memory) = (Room::new(), Arc::new(Memory::default()));
        let data = Arc::new(memory.plant(b"harm"));
        let outside = Bytes::from(
            room.dir
                .path()
                .join("outside")
                .into_os_string()
                .into_encoded_bytes(),
        );
        let entries = vec![
            entry(b"absolute", Content::Symlink(outside.clone())),
            entry(
                b"up",
                Content::Symlink(Bytes::from_static(b"../../outside")),
            ),
        ];
        let link = plant_root(&memory, directory(b"r", entries), plenty());
        let target = room.target();
        let report = extract(&memory, &link, &target, ExtractOptions::default())
            .await
            .expect("links are harmless");
        assert!(report.is_complete());
        assert!(fs::read_link(target.join("absolute")).is_ok());
        room.check();

        // The target holds symlinks where the tree has directories and files.
        symlink("../../outside", target.join("dir")).expect("made");
        symlink("../../outside/egg", target.join("file")).expect("made");
        symlink("../../canary", target.join("pipe")).expect("made");
        let entries = vec![
            directory(b"dir", vec![file(b"egg", &data, 4), file(b"new", &data, 4)]),
            file(b"file", &data, 4),
            entry(b"pipe", Content::Fifo),
        ];
        let link = plant_root(&memory, directory(b"r", entries), plenty());
        for overwrite in [Overwrite::Changed, Overwrite::Always] {
            let options = ExtractOptions {
                overwrite,
                ..ExtractOptions::default()
            };
            let report = extract(&memory, &link, &target, options)
                .await
                .expect("extracted");
            assert!(report.is_complete(), "{report:?}");
            room.check();
            assert_eq!(fs::read(target.join("dir/egg")).expect("reads"), b"harm");
            assert_eq!(fs::read(target.join("file")).expect("reads"), b"harm");
        }
        // What an earlier run left may have been tampered with.
        let second = room.dir.path().join("nest/second");
        let hidden = format!(".second.libernet-{}", &link.id.to_hex()[..8]);
        let hidden = room.dir.path().join("nest").join(hidden);
        fs::create_dir(&hidden).expect("made");
        symlink("../../outside", hidden.join("dir")).expect("made");
        symlink("../../outside/egg", hidden.join("file")).expect("made");
        let report = extract(&memory, &link, &second, ExtractOptions::default())
            .await
            .expect("extracted");
        assert!(report.is_complete());
        room.check();
        // A symlink in place of the hidden directory itself.
        let third = room.dir.path().join("nest/third");
        let hidden = format!(".third.libernet-{}", &link.id.to_hex()[..8]);
        symlink("../outside", room.dir.path().join("nest").join(hidden)).expect("made");
        let refused = extract(&memory, &link, &third, ExtractOptions::default()).await;
        assert!(matches!(refused, Err(Error::Io { .. })), "{refused:?}");
        room.check();
    });
}

/// Files that have another name outside: what is restored takes the place of the name, and never of the content.
#[test]
fn hard_links_that_lead_out_are_not_written_through() {
    runtime().block_on(async {
        let (room, memory) = (Room::new(), Arc::new(Memory::default()));
        let data = Arc::new(memory.plant(b"harm"));
        let linked = |name: &[u8]| {
            let mut file = file(name, &data, 4);
            if let Content::File(content) = &mut file.content {
                content.link_group = Some(1);
            }
            file
        };
        let entries = vec![
            linked(b"a"),
            directory(b"d", vec![linked(b"b"), file(b"c", &data, 4)]),
            file(b"egg", &data, 4),
        ];
        let link = plant_root(&memory, directory(b"r", entries), plenty());
        let target = room.target();
        let outside = room.dir.path().join("outside/egg");
        fs::create_dir_all(target.join("d")).expect("made");
        for name in ["a", "d/b", "d/c", "egg"] {
            fs::hard_link(&outside, target.join(name)).expect("linked");
        }
        for overwrite in [Overwrite::Changed, Overwrite::Always] {
            let options = ExtractOptions {
                overwrite,
                ..ExtractOptions::default()
            };
            let report = extract(&memory, &link, &target, options).await;
            assert!(report.expect("extracted").is_complete());
            room.check();
            for name in ["a", "d/b", "d/c", "egg"] {
                assert_eq!(fs::read(target.join(name)).expect("reads"), b"harm");
            }
        }
        // What an earlier run left may have been tampered with.
        let second = room.dir.path().join("nest/second");
        let hidden = format!(".second.libernet-{}", &link.id.to_hex()[..8]);
        let hidden = room.dir.path().join("nest").join(hidden);
        fs::create_dir_all(hidden.join("d")).expect("made");
        for name in ["a", "d/b", "egg"] {
            fs::hard_link(&outside, hidden.join(name)).expect("linked");
        }
        let report = extract(&memory, &link, &second, ExtractOptions::default()).await;
        assert!(report.expect("extracted").is_complete());
        room.check();
        assert_eq!(fs::read(second.join("egg")).expect("reads"), b"harm");
    });
}

/// Here they are names like any other: each is written, as what it is, and nothing in place of another.
#[test]
fn names_that_differ_in_case_or_are_reserved_elsewhere_are_names() {
    const NAMES: [&[u8]; 16] = [
        b" ",
        b"-rf",
        b"...",
        b"A",
        b"AUX.txt",
        b"C:\\canary",
        b"CON",
        b"COM1",
        b"NUL",
        b"a",
        b"a:stream",
        b"dot.",
        b"space ",
        b"~",
        b"\xc3\x84",
        b"\xff\xfe",
    ];
    runtime().block_on(async {
        let (room, memory) = (Room::new(), Arc::new(Memory::default()));
        let mut entries = Vec::new();
        for (number, name) in NAMES.iter().enumerate() {
            let data = Arc::new(memory.plant(&[number as u8; 4]));
            entries.push(file(name, &data, 4));
        }
        entries.push(directory(b"Dir", entries.clone()));
        entries.push(directory(b"dir", Vec::new()));
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        for entry in &mut entries {
            if let Content::Directory(Directory::Inline(inner)) = &mut entry.content {
                inner.sort_by(|a, b| a.name.cmp(&b.name));
            }
        }
        let link = plant_root(&memory, directory(b"r", entries), plenty());
        let target = room.target();
        let report = extract(&memory, &link, &target, ExtractOptions::default()).await;
        assert!(report.expect("extracted").is_complete());
        room.check();
        use std::os::unix::ffi::OsStrExt;
        for dir in [target.clone(), target.join("Dir")] {
            for (number, name) in NAMES.iter().enumerate() {
                let path = dir.join(std::ffi::OsStr::from_bytes(name));
                assert_eq!(fs::read(path).expect("reads"), [number as u8; 4]);
            }
        }
        let count = |dir: &Path| fs::read_dir(dir).expect("lists").count();
        assert_eq!(count(&target), NAMES.len() + 2);
        assert_eq!(count(&target.join("dir")), 0);
    });
}

#[test]
fn powers_are_not_given_away() {
    runtime().block_on(async {
        let (room, memory) = (Room::new(), Arc::new(Memory::default()));
        let data = Arc::new(memory.plant(b"harm"));
        let mut tool = file(b"tool", &data, 4);
        tool.mode = 0o6755;
        let device = Device {
            is_block: true,
            major: 8,
            minor: 0,
        };
        let entries = vec![entry(b"disk", Content::Device(device)), tool];
        let link = plant_root(&memory, directory(b"r", entries), plenty());
        let report = extract(&memory, &link, &room.target(), ExtractOptions::default())
            .await
            .expect("extracted");
        assert_eq!(report.left_out, 1);
        assert!(!room.target().join("disk").exists());
        let meta = fs::metadata(room.target().join("tool")).expect("there");
        assert_eq!(meta.permissions().mode() & 0o7777, 0o755);
    });
}

#[test]
fn a_tree_that_repeats_itself_is_stopped_by_its_own_totals() {
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let data = Arc::new(memory.plant(b"more"));
        // Each level holds the level below ten times: 10^9 files in ten blocks.
        let mut block = plant_node(&memory, &Node::Entries(vec![file(b"f", &data, 4)]));
        for _ in 0..9 {
            let entries = (0..10u8)
                .map(|at| {
                    let content = Content::Directory(Directory::Block(block.clone()));
                    entry(&[b'a' + at], content)
                })
                .collect();
            block = plant_node(&memory, &Node::Entries(entries));
        }
        let root = entry(b"r", Content::Directory(Directory::Block(block)));
        let totals = Totals {
            files: 1000,
            entries: 5000,
            bytes: 1 << 20,
            blocks: 0,
        };
        let link = plant_root(&memory, root, totals);
        let room = Room::new();
        let result = extract(&memory, &link, &room.target(), ExtractOptions::default()).await;
        assert!(matches!(
            result,
            Err(Error::Malformed {
                what: "it holds more than it says",
                ..
            })
        ));
        assert!(!room.target().exists());
        // Its blocks are listed once each.
        let bundle = Bundle::open(memory.clone(), link).await.expect("opens");
        let ids: Vec<BlockId> = bundle.all_blocks().try_collect().await.expect("reads");
        assert_eq!(ids.len(), memory.len());
    });
}

#[test]
fn parts_and_lists_must_be_what_they_say() {
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let data = Arc::new(memory.plant(b"1234"));
        let leaf = |name: &[u8]| plant_node(&memory, &Node::Entries(vec![file(name, &data, 4)]));
        let part = |first: &[u8], block: Arc<Link>| Part {
            first_name: Bytes::copy_from_slice(first),
            block,
        };
        let extents = |len| {
            let extent = Extent::Data {
                block: data.clone(),
                offset: 0,
                len,
            };
            plant_node(&memory, &Node::Extents(vec![extent]))
        };
        let errors_of = async |content: Content| {
            let root = directory(b"r", vec![entry(b"x", content)]);
            let link = plant_root(&memory, root, plenty());
            let bundle = Bundle::open(memory.clone(), link.clone())
                .await
                .expect("opens");
            let walked = bundle
                .walk()
                .filter(|step| std::future::ready(step.is_err()));
            let room = Room::new();
            let report = extract(&memory, &link, &room.target(), ExtractOptions::default())
                .await
                .expect("the rest is written");
            room.check();
            (walked.count().await, report.missing_total)
        };
        let parts = |parts| {
            let block = plant_node(&memory, &Node::Parts(parts));
            Content::Directory(Directory::Block(block))
        };
        // A part that starts elsewhere; one that reaches into the next; a node of another kind.
        let elsewhere = parts(vec![part(b"a", leaf(b"b"))]);
        assert_eq!(errors_of(elsewhere).await, (1, 1));
        let two = vec![file(b"a", &data, 4), file(b"m", &data, 4)];
        let overlapping = parts(vec![
            part(b"a", plant_node(&memory, &Node::Entries(two))),
            part(b"b", leaf(b"b")),
        ]);
        assert_eq!(errors_of(overlapping).await, (1, 1));
        let extents_as_part = parts(vec![part(b"a", extents(4))]);
        assert_eq!(errors_of(extents_as_part).await, (1, 1));
        // A list that covers less, and data that its block doesn't have.
        let listed = |len, block| {
            Content::File(File {
                size: len,
                extents: vec![Extent::List { block, len }],
                link_group: None,
            })
        };
        assert_eq!(errors_of(listed(5, extents(4))).await, (0, 1));
        assert_eq!(errors_of(listed(5, extents(5))).await, (0, 1));
        assert_eq!(errors_of(listed(4, leaf(b"a"))).await, (0, 1));
        assert_eq!(errors_of(listed(4, extents(4))).await, (0, 0));
        // Parts of parts of parts without end.
        let mut deep = leaf(b"a");
        for _ in 0..20 {
            deep = plant_node(&memory, &Node::Parts(vec![part(b"a", deep)]));
        }
        assert_eq!(
            errors_of(Content::Directory(Directory::Block(deep))).await,
            (1, 1)
        );
        let mut deep = extents(4);
        for _ in 0..20 {
            let list = Extent::List {
                block: deep,
                len: 4,
            };
            deep = plant_node(&memory, &Node::Extents(vec![list]));
        }
        assert_eq!(errors_of(listed(4, deep)).await, (0, 1));
    });
}

fn any_tree() -> impl Strategy<Value = Vec<Entry>> {
    let name = prop_oneof![
        4 => proptest::collection::vec(b'a'..b'd', 1..3),
        1 => proptest::sample::select(BAD_NAMES.to_vec()).prop_map(<[u8]>::to_vec),
    ];
    let leaf = prop_oneof![
        Just(Content::Fifo),
        proptest::sample::select(vec![
            &b"../../outside"[..],
            b"/etc",
            b"a",
            b"..",
            b"../../canary"
        ])
        .prop_map(|target| Content::Symlink(Bytes::from_static(target))),
        (0u32..3).prop_map(|group| {
            Content::File(File {
                size: 7,
                extents: vec![Extent::Hole { len: 7 }],
                link_group: (group > 0).then_some(group),
            })
        }),
    ];
    let content = leaf.prop_recursive(3, 20, 5, {
        let name = name.clone();
        move |content| {
            proptest::collection::vec((name.clone(), content), 0..5).prop_map(|entries| {
                let entries = entries
                    .into_iter()
                    .map(|(name, content)| entry(&name, content))
                    .collect();
                Content::Directory(Directory::Inline(entries))
            })
        }
    });
    proptest::collection::vec((name, content), 0..6).prop_map(|entries| {
        entries
            .into_iter()
            .map(|(name, content)| entry(&name, content))
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_tree_writes_outside(
        mut first in any_tree(),
        second in any_tree(),
        sort in any::<bool>(),
        only_adds in any::<bool>(),
        in_rounds in any::<bool>(),
    ) {
        if sort {
            first.sort_by(|a, b| a.name.cmp(&b.name));
            first.dedup_by(|a, b| a.name == b.name);
        }
        let (room, memory) = (Room::new(), Arc::new(Memory::default()));
        runtime().block_on(async {
            // One after the other into the same place: the first may prepare the ground.
            for entries in [first, second] {
                let link = plant_root(&memory, directory(b"r", entries), plenty());
                let options = ExtractOptions {
                    overwrite: if only_adds { Overwrite::Missing } else { Overwrite::Always },
                    first: if in_rounds { vec!["a".into()] } else { Vec::new() },
                    newest_first: in_rounds,
                    verify: in_rounds,
                    ..ExtractOptions::default()
                };
                let _ = extract(&memory, &link, &room.target(), options).await;
            }
        });
        room.check();
    }
}
