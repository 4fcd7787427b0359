//! Pruning and checking on real stores, and what both need: an owner's node, snapshots of small trees, and what is in them.

mod check;
mod crash;
mod damage;
mod damage_run;
mod forget;
mod frail;
mod history_model;
mod machine;
mod prune;
mod prune_model;
mod repack;
mod requests;
mod theft;
mod turned_out;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use libp2p::identity::Keypair;
use tokio_util::sync::CancellationToken;

use super::Home;
use super::archive::{Access, Archive, Search};
use super::error::Error;
use super::log::{Log, Logged};
use super::owner::{Membership, OwnerKeys, Phrase};
use super::snapshot::{Snapshot, Summary};
use super::{SNAPSHOT_PIN, archive};
use crate::block::{BlockSource, ChunkIndex, Link, seal};
use crate::bundle::tree::{Content, Entry};
use crate::bundle::{Bundle, PutOptions, put};
use crate::depot::serve::Server;
use crate::depot::{Depot, Pending};
use crate::id::BlockId;
use crate::monitor::Silent;
use crate::net::providers::MemoryShelf;
use crate::net::{Net, NetConfig, Services};
use crate::store::{Keep, MemoryStore, PinId, PinInfo, Store, StoreOptions};
use crate::time::{ManualClock, Timestamp};

/// Longer than anything that is found takes, and short enough to wait for what is not.
const PATIENCE: Duration = Duration::from_secs(20);

/// Files by path, with their content.
type Files = BTreeMap<String, Vec<u8>>;

/// One machine of an owner, with a store of its own.
struct Node {
    archive: Archive,
    member: Membership,
    /// Keeps the journal.
    dir: tempfile::TempDir,
    made: AtomicU64,
}

/// A snapshot that was made.
#[derive(Clone, Debug)]
struct Made {
    link: Link,
    pin: PinId,
    tree: Link,
    blocks: BTreeSet<BlockId>,
    files: Files,
}

impl Made {
    const fn id(&self) -> BlockId {
        self.link.id
    }
}

async fn depot(store: Arc<dyn Store>) -> Depot {
    let server = Arc::new(Server::new(store.clone()));
    let services = Services {
        blocks: server.clone(),
        records: Arc::new(MemoryShelf::new()),
    };
    let config = NetConfig::in_memory(Keypair::generate_ed25519());
    let net = Net::start(config, services).await.expect("it starts");
    Depot::new(store, net, &server, Arc::new(Pending::default()))
}

fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new(StoreOptions::default()))
}

fn keys(number: u8) -> OwnerKeys {
    let mut words = vec!["abandon"; 11];
    words.push(["about", "actual"][usize::from(number)]);
    OwnerKeys::derive(&Phrase::parse(&words.join(" ")).expect("valid words"))
}

fn archive_of(depot: &Depot, member: &Membership, dir: &std::path::Path) -> Archive {
    Archive::new(
        depot.clone(),
        Access::from(member),
        Arc::new(ManualClock::default()),
        Some(Arc::new(Home::new(dir))),
    )
}

/// Files whose content differs everywhere, some of it packed, some with blocks of its own.
fn files(seed: u64, count: u64, big: u64) -> Files {
    let mut files = Files::new();
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = |len: usize| {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend(state.to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    };
    for number in 0..count {
        let len = 100 + 37 * number as usize;
        files.insert(format!("small/{}/{number}", number % 3), bytes(len));
    }
    for number in 0..big {
        files.insert(format!("big{number}"), bytes(1_500_000));
    }
    files
}

impl Node {
    async fn new() -> Self {
        Self::on(memory()).await
    }

    async fn on(store: Arc<dyn Store>) -> Self {
        let member = Membership::create(&keys(0), "desk").expect("a name");
        Self::with(depot(store).await, member)
    }

    fn with(depot: Depot, member: Membership) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self {
            archive: archive_of(&depot, &member, dir.path()),
            member,
            dir,
            made: AtomicU64::new(0),
        }
    }

    /// Another node with all that this one keeps, in an empty store: making it costs less than doing anew what filled this one.
    async fn twin(&self, store: Arc<dyn Store>) -> Self {
        for (pin, info) in self.store().pins().expect("reads") {
            let twin = store.begin_pin(&info.name).expect("pins");
            for id in self
                .store()
                .pin_blocks(pin, None, usize::MAX)
                .expect("reads")
            {
                let block = self.store().get(id).expect("reads").expect("is here");
                store.put(&[block], Keep::Pinned(twin)).expect("fits");
            }
            store.finish_pin(twin, &info).expect("it finishes");
        }
        let twin = Self::with(depot(store).await, self.member.clone());
        let head = |node: &Self| node.dir.path().join("backup.head");
        std::fs::copy(head(self), head(&twin)).expect("copies");
        twin
    }

    fn depot(&self) -> &Depot {
        self.archive.depot()
    }

    fn store(&self) -> &Arc<dyn Store> {
        self.depot().store()
    }

    fn machine(&self) -> [u8; 32] {
        *self.member.machine().id().as_bytes()
    }

    /// All that a run does before it writes the log.
    async fn put(&self, files: Files) -> (Made, Logged) {
        self.put_with(files, |index| index).await
    }

    /// As [`put`](Self::put), with another index.
    async fn put_with(
        &self,
        files: Files,
        index: impl FnOnce(Arc<dyn ChunkIndex>) -> Arc<dyn ChunkIndex>,
    ) -> (Made, Logged) {
        let dir = tempfile::tempdir().expect("a directory");
        for (path, content) in &files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("it has one")).expect("makes");
            std::fs::write(path, content).expect("writes");
        }
        let store = self.store();
        let pin = store.begin_pin(SNAPSHOT_PIN).expect("pins");
        let keep = Keep::Pinned(pin);
        let context = self.archive.access().context().clone();
        let options = PutOptions {
            context: context.clone(),
            ..PutOptions::default()
        };
        let report = put(
            dir.path(),
            options,
            self.depot().sink(keep),
            index(self.depot().index(keep)),
            Arc::new(Silent),
            CancellationToken::new(),
        )
        .await
        .expect("it puts");
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let summary = Summary {
            started: Timestamp(1000 + number),
            files: report.files,
            ..Summary::default()
        };
        let snapshot = Snapshot {
            owner: *self.member.owner().as_bytes(),
            machine: self.machine(),
            machine_name: self.member.name().to_owned(),
            summary: summary.clone(),
            tree: report.link.clone(),
            excludes: Vec::new(),
            finished: Timestamp(2000 + number),
            unreadable: 0,
            program: "test".to_owned(),
        };
        let sealed = seal(&context, &snapshot.encode()).expect("it fits");
        let link = Link {
            id: sealed.block.id(),
            key: sealed.key,
        };
        archive::put_pinned(&**store, &sealed.block, pin).expect("it fits");
        let info = PinInfo {
            root: link.id,
            link: Some(link.clone()),
            name: SNAPSHOT_PIN.to_owned(),
            bytes: report.bytes,
            files: report.files,
            blocks: report.blocks,
            created: Timestamp(0),
        };
        store.finish_pin(pin, &info).expect("it finishes");
        let made = Made {
            blocks: store
                .pin_blocks(pin, None, usize::MAX)
                .expect("reads")
                .into_iter()
                .collect(),
            link: link.clone(),
            pin,
            tree: report.link,
            files,
        };
        let logged = Logged {
            snapshot: link,
            summary,
            sequence: 0,
        };
        (made, logged)
    }

    async fn back_up(&self, files: Files) -> Made {
        let (made, logged) = self.put(files).await;
        self.change(move |log| log.add(logged)).await;
        made
    }

    async fn change(&self, change: impl FnOnce(&mut Log) -> Result<(), Error>) {
        let changed = self.archive.change_log(&self.member, change).await;
        changed.expect("the log changes");
    }

    async fn forget(&self, id: BlockId) {
        self.change(|log| log.forget(id)).await;
    }

    async fn log(&self) -> Log {
        let found = self.archive.find(Search::Here, Duration::ZERO).await;
        let mut logs = found.expect("finds").logs;
        logs.retain(|log| log.machine == self.machine());
        logs.remove(0)
    }

    fn has(&self, id: BlockId) -> bool {
        self.store().has(id).expect("reads")
    }

    /// The files of a snapshot as they are read back.
    async fn read(&self, made: &Made, patience: Duration) -> Result<Files, Error> {
        let source: Arc<dyn BlockSource> = self.depot().session(patience, Keep::Cached);
        let snapshot = archive::read_snapshot(&*source, &made.link).await?;
        assert_eq!(snapshot.tree, made.tree);
        read_tree(source, snapshot).await
    }

    /// The files of a snapshot whose blocks are all here.
    async fn files_of(&self, link: &Link) -> Result<Files, Error> {
        let source: Arc<dyn BlockSource> = self.depot().session(Duration::ZERO, Keep::Cached);
        let snapshot = archive::read_snapshot(&*source, link).await?;
        read_tree(source, snapshot).await
    }

    /// Whether the log mentions nothing that was forgotten.
    async fn log_is_settled(&self) -> bool {
        let found = self.archive.find(Search::Here, Duration::ZERO).await;
        let found = found.expect("finds");
        found
            .logs
            .iter()
            .all(|log| log.forgotten().next().is_none())
    }

    /// What is at a path of a snapshot.
    async fn entry(&self, made: &Made, path: &str) -> Entry {
        let source = self.depot().session(Duration::ZERO, Keep::Cached);
        let bundle = Bundle::open(source, made.tree.clone()).await;
        let found = bundle.expect("it opens").lookup(path.as_bytes()).await;
        found.expect("it reads").expect("it is there")
    }

    async fn assert_reads_back(&self, made: &Made) {
        let files = self.read(made, Duration::ZERO).await.expect("it reads");
        // Without printing megabytes.
        assert!(files == made.files, "{} reads back as it was", made.id());
    }
}

async fn read_tree(source: Arc<dyn BlockSource>, snapshot: Snapshot) -> Result<Files, Error> {
    let bundle = Bundle::open(source, snapshot.tree).await?;
    let mut files = Files::new();
    let mut walk = bundle.walk();
    while let Some(step) = walk.next().await {
        let step = step?;
        if let Content::File(file) = &step.entry.content {
            let mut content = Vec::new();
            let mut pieces = bundle.read_file(&step.entry, 0..file.size);
            while let Some(piece) = pieces.next().await {
                content.extend_from_slice(&piece?);
            }
            let path = String::from_utf8(step.path).expect("ours are");
            files.insert(path, content);
        }
    }
    Ok(files)
}
