//! Every kind of stored thing, damaged in every way, and what the next backup and a restore make of it: what is not damaged is restored, what
//! is gets named, and a backup of a source that is still there heals it.

use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use super::check::{bytes_of, check_with, options};
use super::damage::{HOWS, How};
use super::frail::Frail;
use super::machine::Machine;
use super::prune::prune_on;
use super::*;
use crate::backup::check::Part;
use crate::backup::run::Done;
use crate::block::{Block, ChunkHash, IndexError, Ref};
use crate::bundle::tree::{Directory, Extent, File};
use crate::crypto::key::Key;

/// What a block is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Content of a large file.
    Data,
    /// Content of small files.
    Pack,
    /// A list of a file's extents.
    List,
    Tree,
    Root,
    Snapshot,
    Log,
}

const KINDS: [Kind; 7] = [
    Kind::Data,
    Kind::Pack,
    Kind::List,
    Kind::Tree,
    Kind::Root,
    Kind::Snapshot,
    Kind::Log,
];

/// Stretches of data in the file whose extents are in lists.
const STRETCHES: u64 = 300;
const STRETCH_BYTES: usize = 4096;

struct Room {
    machine: Machine,
    store: Arc<Frail>,
    first: Arc<Done>,
}

impl Room {
    async fn new() -> Self {
        let store = Frail::new();
        let machine = Machine::on(store.clone()).await;
        machine.fill(&files(1, 9, 1));
        // Long names: a directory that does not fit inside its parent's block, with few files to restore.
        for number in 0..270 {
            machine.write(&format!("many/{number:0240}"), &[number as u8]);
        }
        let sparse = std::fs::File::create(machine.root.join("sparse")).expect("made");
        for at in 0..STRETCHES {
            let bytes = [(at % 250) as u8 + 1; STRETCH_BYTES];
            let at = at * 4 * STRETCH_BYTES as u64;
            sparse.write_all_at(&bytes, at).expect("written");
        }
        drop(sparse);
        let first = Arc::new(machine.back_up().await);
        Self {
            machine,
            store,
            first,
        }
    }

    async fn twin(&self) -> Self {
        let store = Frail::new();
        Self {
            machine: self.machine.twin(store.clone()).await,
            store,
            first: self.first.clone(),
        }
    }

    fn node(&self) -> &Node {
        &self.machine.node
    }

    async fn bundle(&self) -> Bundle {
        let source = self.node().depot().session(Duration::ZERO, Keep::Cached);
        let bundle = Bundle::open(source, self.first.snapshot.tree.clone()).await;
        bundle.expect("it opens")
    }

    async fn entry(&self, path: &str) -> Entry {
        let whole = self.machine.root.join(path);
        let path = whole.to_str().expect("ours are");
        let found = self.bundle().await.lookup(path.as_bytes()).await;
        found.expect("it reads").expect("it is there")
    }

    async fn file(&self, path: &str) -> File {
        match self.entry(path).await.content {
            Content::File(file) => file,
            other => panic!("{other:?}"),
        }
    }

    /// A block of that kind, and the names below the source that can't be had without it; nothing when it is all of them.
    async fn victim(&self, kind: Kind) -> (BlockId, Option<Vec<String>>) {
        let first = async |path| match self.file(path).await.extents.first() {
            Some(Extent::Data { block, .. } | Extent::List { block, .. }) => block.id,
            other => panic!("{other:?}"),
        };
        let only = |name: &str| Some(vec![name.to_owned()]);
        match kind {
            Kind::Data => (first("big0").await, only("big0")),
            Kind::List => {
                let file = self.file("sparse").await;
                assert!(matches!(file.extents[0], Extent::List { .. }));
                (first("sparse").await, only("sparse"))
            }
            Kind::Pack => {
                let pack = first("small/0/0").await;
                let mut needing = Vec::new();
                let mut walk = self.bundle().await.walk();
                while let Some(step) = walk.next().await {
                    let step = step.expect("it reads");
                    let Content::File(file) = step.entry.content else {
                        continue;
                    };
                    let uses =
                        |e: &Extent| matches!(e, Extent::Data { block, .. } if block.id == pack);
                    if file.extents.iter().any(uses) {
                        let path = format!("/{}", String::from_utf8(step.path).expect("ours are"));
                        let name = std::path::Path::new(&path).strip_prefix(&self.machine.root);
                        let name = name.expect("below").to_str().expect("ours are");
                        needing.push(name.to_owned());
                    }
                }
                assert!(needing.len() > 8, "small files share it");
                // So do its stretches, which lists name.
                needing.push("sparse".to_owned());
                (pack, Some(needing))
            }
            Kind::Tree => match self.entry("many").await.content {
                Content::Directory(Directory::Block(link)) => (link.id, only("many")),
                other => panic!("{other:?}"),
            },
            Kind::Root => (self.first.snapshot.tree.id, None),
            Kind::Snapshot => (self.first.link.id, None),
            Kind::Log => {
                let found = self.node().archive.find(Search::Here, Duration::ZERO).await;
                let head = found.expect("finds").head.expect("there is one");
                let entry = head.entry(&self.node().machine()).expect("ours");
                (entry.log_id(), Some(Vec::new()))
            }
        }
    }

    fn hurt(&self, id: BlockId, how: How) {
        let mut bytes = bytes_of(self.node(), id);
        match how {
            How::Gone => {
                assert!(self.store.discard(id).expect("drops"));
                return;
            }
            How::Truncated => bytes.truncate(bytes.len() / 2),
            How::Flipped => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }
            How::Swapped => {
                let all = self.store.list(None, 2).expect("reads");
                let other = all.into_iter().find(|(other, _)| *other != id);
                bytes = bytes_of(self.node(), other.expect("there are others").0);
            }
        }
        // No checksum of the store tells bytes that are well and in the wrong place.
        self.store.spoil(id, bytes, how != How::Swapped);
    }

    /// What is not damaged is there, and the report names the rest.
    async fn restores_the_rest(&self, block: BlockId, lacking: Option<&[String]>, before: &Files) {
        let restored = self.machine.restore(&self.first.link).await;
        let Some(lacking) = lacking else {
            let error = restored.expect_err("there is nothing to go by");
            assert!(error.to_string().contains(&block.to_string()), "{error}");
            return;
        };
        let (report, there) = restored.expect("it restores the rest");
        let is_lacking = |path: &str| {
            let below = |name: &String| path == name || path.starts_with(&format!("{name}/"));
            lacking.iter().any(below)
        };
        let mut rest = before.clone();
        rest.retain(|path, _| !is_lacking(path));
        assert!(there == rest, "the rest is what it was");
        assert_eq!(report.failed, []);
        assert_eq!(report.missing_total, lacking.len() as u64);
        for missing in &report.missing {
            assert_eq!(missing.block, block);
            let path = std::path::Path::new("/").join(&missing.path);
            let name = path.strip_prefix(&self.machine.root).expect("below");
            assert!(is_lacking(name.to_str().expect("ours are")), "{name:?}");
        }
    }

    async fn is_whole(&self, done: &Done, files: &Files) {
        self.machine.assert_restores(&done.link, files).await;
        let only = crate::backup::check::CheckOptions {
            snapshot: Some(done.link.id.to_hex()),
            ..options(100.0)
        };
        let mut report = check_with(self.node(), &only).await;
        // The log of before is still looked for.
        report.errors.retain(|damage| damage.part != Part::Log);
        assert_eq!(report.errors, []);
        let listed = self.machine.listed().await;
        assert!(listed.values().any(|link| *link == done.link));
    }
}

async fn a_backup_heals_it(room: Room, before: &Files, kind: Kind, how: How) {
    let (block, lacking) = room.victim(kind).await;
    room.hurt(block, how);
    room.restores_the_rest(block, lacking.as_deref(), before)
        .await;
    let again = room.machine.back_up().await;
    assert_eq!(again.report.unreadable_total, 0);
    if how == How::Swapped {
        // Nobody reads what seems to be there and unchanged: this takes a check.
        check_with(room.node(), &options(100.0)).await;
        // A log that no head names any more is none of its business.
        assert!(kind == Kind::Log || !room.node().has(block));
        let healed = room.machine.back_up().await;
        return room.is_whole(&healed, before).await;
    }
    room.is_whole(&again, before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_damaged_is_named_by_a_restore_and_healed_by_a_backup() {
    let template = Room::new().await;
    let before = template.machine.now();
    let cases = KINDS
        .into_iter()
        .flat_map(|kind| HOWS.map(|how| (kind, how)));
    let (template, before) = (&template, &before);
    let cases = futures::stream::iter(cases);
    // Most of it is waiting for the disk.
    let cases = cases.for_each_concurrent(4, async |(kind, how)| {
        // The table's place, for whoever sees this fail.
        eprintln!("{kind:?} {how:?}");
        a_backup_heals_it(template.twin().await, before, kind, how).await;
    });
    cases.await;
}

/// An index that knows every chunk, and is wrong about where it is.
struct Wrong {
    index: Arc<dyn ChunkIndex>,
    how: Misled,
    place: Mutex<Option<Ref>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Misled {
    /// Each is in a block that is not here.
    Missing,
    /// Nothing can be looked up.
    Fails,
}

impl ChunkIndex for Wrong {
    fn lookup(&self, hashes: &[ChunkHash]) -> Result<Vec<Option<Ref>>, IndexError> {
        if self.how == Misled::Fails {
            return Err(IndexError("it is damaged".into()));
        }
        let place = self.place.lock().expect("nothing panics with it").clone();
        let place = place.expect("it is set");
        // The index asks the store before it answers, and so does this one.
        let absent = self.index.keep(&[place.id])?;
        let answer = (!absent.contains(&place.id)).then_some(place);
        Ok(hashes.iter().map(|_| answer.clone()).collect())
    }

    fn insert(&self, entries: &[(ChunkHash, Ref)]) -> Result<(), IndexError> {
        match self.how {
            Misled::Fails => Err(IndexError("it is damaged".into())),
            Misled::Missing => self.index.insert(entries),
        }
    }

    fn keep(&self, ids: &[BlockId]) -> Result<Vec<BlockId>, IndexError> {
        self.index.keep(ids)
    }
}

/// The store's own entries name blocks that are gone: a snapshot never relies on them.
#[tokio::test]
async fn an_index_entry_of_a_block_that_is_gone_is_not_used() {
    let store = Frail::new();
    let node = Node::on(store.clone()).await;
    let made = node.back_up(files(1, 20, 2)).await;
    // Entries as a crash or a fault could leave them: those of a block that was never here, and of those that went.
    let absent = Block::new(bytes::Bytes::from_static(b"never here")).expect("a block");
    let place = Ref {
        id: absent.id(),
        key: Key::new([7; 32]),
        offset: 0,
        len: 100,
    };
    store.insert(&[([7; 32], place)]).expect("inserts");
    for id in &made.blocks {
        store.discard(*id).expect("drops");
    }
    let again = node.back_up(files(1, 20, 2)).await;
    assert!(again.blocks.iter().all(|id| node.has(*id)));
    node.assert_reads_back(&again).await;
}

#[tokio::test]
async fn an_index_that_is_wrong_never_makes_a_snapshot_that_lacks_blocks() {
    for how in [Misled::Missing, Misled::Fails] {
        let node = Node::new().await;
        let absent = Block::new(bytes::Bytes::from_static(b"never here")).expect("a block");
        let (made, logged) = node
            .put_with(files(1, 20, 2), |index| {
                Arc::new(Wrong {
                    index,
                    how,
                    place: Mutex::new(Some(Ref {
                        id: absent.id(),
                        key: Key::new([7; 32]),
                        offset: 0,
                        len: 100,
                    })),
                })
            })
            .await;
        node.change(move |log| log.add(logged)).await;
        assert!(made.blocks.iter().all(|id| node.has(*id)), "{how:?}");
        node.assert_reads_back(&made).await;
    }
}

/// The file with this machine's head, while nothing else remembers the head.
#[tokio::test]
async fn without_its_head_file_a_machine_finds_its_snapshots_by_their_pins() {
    for how in HOWS {
        let mut machine = Machine::on(memory()).await;
        machine.fill(&files(1, 9, 1));
        let first = machine.back_up().await;
        let head = machine.node.dir.path().join("backup.head");
        let old = std::fs::read(&head).expect("there");
        machine.write("new", b"more");
        let second = machine.back_up().await;
        let files = machine.now();
        let mut bytes = std::fs::read(&head).expect("there");
        let middle = bytes.len() / 2;
        match how {
            How::Gone => std::fs::remove_file(&head).expect("removed"),
            How::Truncated => std::fs::write(&head, &bytes[..middle]).expect("written"),
            How::Flipped => {
                bytes[middle] ^= 1;
                std::fs::write(&head, &bytes).expect("written");
            }
            // An older one of its own.
            How::Swapped => std::fs::write(&head, &old).expect("written"),
        }
        machine.restart().await;
        let report = prune_on(&machine.node).await;
        assert_eq!((report.snapshots, report.freed_blocks), (0, 0), "{how:?}");
        let listed: Vec<Link> = machine.listed().await.into_values().collect();
        assert_eq!(listed, [first.link.clone(), second.link.clone()], "{how:?}");
        machine.assert_restores(&second.link, &files).await;
        machine.write("newer", b"and more");
        let third = machine.back_up().await;
        machine.restart().await;
        assert_eq!(machine.listed().await.len(), 3, "{how:?}");
        machine.assert_restores(&third.link, &machine.now()).await;
        machine.assert_restores(&second.link, &files).await;
        let report = check_with(&machine.node, &options(100.0)).await;
        assert_eq!(report.errors, [], "{how:?}");
    }
}
