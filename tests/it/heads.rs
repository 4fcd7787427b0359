//! Heads on real nodes: kept on disk, over real sockets, by the background job; and attacked with a
//! copy of a machine's key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use libernet::backup::owner::{Membership, State, Vault};
use libernet::block::Link;
use libernet::config::Config;
use libernet::crypto::key::Key;
use libernet::crypto::secretbox;
use libernet::head::{
    Acquaintance, Direction, HeadEntry, HeadRecord, certify, head_id, sealing_key,
};
use libernet::id::BlockId;
use libernet::node::{Node, NodeOptions, Purpose};
use libp2p::PeerId;

use crate::attacker::{self, Attacker, Message};
use crate::process::{Node as Process, fails, run};
use crate::rings::{Scene, said, until, utf8};
use crate::sample::noise;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(180);

fn record() -> HeadRecord {
    let (owner, machine) = (
        SigningKey::from_bytes(&[1; 32]),
        SigningKey::from_bytes(&[2; 32]),
    );
    HeadRecord::new(HeadEntry::sign(
        &owner.verifying_key().to_bytes(),
        &machine,
        &certify(&owner, &machine.verifying_key().to_bytes()),
        1,
        1,
        &Link {
            id: BlockId::from_sha384([7; 48]),
            key: Key::new([1; 32]),
        },
        &sealing_key(&[9; 32]),
    ))
}

async fn start(dir: &Path, bootstrap: Vec<String>) -> Node {
    let config = Config {
        listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
        bootstrap,
        mdns: false,
        ..Config::default()
    };
    let options = NodeOptions {
        purpose: Purpose::Serve,
        config,
        data_dir: dir.to_owned(),
        http: None,
        overrides: BTreeMap::new(),
    };
    Node::start(options).await.expect("the node starts")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_head_is_there_after_a_restart_and_told_to_who_knows_it() {
    let dirs = [tempfile::tempdir(), tempfile::tempdir()].map(|dir| dir.expect("a directory"));
    let record = record();
    let node = start(dirs[0].path(), Vec::new()).await;
    node.heads().keep(record.clone()).await.expect("kept");
    node.shutdown().await.expect("it stops");
    drop(node);

    let node = start(dirs[0].path(), Vec::new()).await;
    let kept = node.heads().kept().await;
    assert_eq!(kept, Ok(vec![record.id()]));
    let newcomer = start(dirs[1].path(), node.addresses()).await;
    let found = async {
        loop {
            let found = newcomer.keepers().find(record.id()).await;
            if let Some(found) = found.expect("it runs") {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, found).await;
    assert_eq!(found.expect("in time"), record);
    for node in [newcomer, node] {
        node.shutdown().await.expect("it stops");
    }
}

/// Somebody who copied a machine's `owner.key`, and speaks for that machine.
struct Thief(Membership);

impl Thief {
    fn copy(data: &Path) -> Self {
        let vault = Vault::open(data).expect("readable").expect("there");
        match vault.state {
            State::Open(member) => Self(member),
            State::Locked(_) => panic!("it has no passphrase"),
        }
    }

    fn head(&self) -> BlockId {
        head_id(self.0.owner().as_bytes())
    }

    /// An entry that is signed as it should be, whatever it says.
    fn entry(&self, sequence: u64, time_ms: u64, log: &Link) -> Message {
        let machine = self.0.machine();
        let id = log.id.to_multihash();
        let fields = [
            &self.0.owner().as_bytes()[..],
            machine.id().as_bytes(),
            self.0.certificate(),
            &sequence.to_be_bytes(),
            &time_ms.to_be_bytes(),
            &id,
        ]
        .concat();
        let key = Key::new(*sealing_key(self.0.backup_root().as_bytes()));
        let sealed = secretbox::seal(&key, &fields, log.key.as_bytes());
        let signed = [b"libernet head entry v2", &fields[..], &sealed].concat();
        Message::new()
            .number(1, sequence)
            .number(2, time_ms)
            .bytes(3, &id)
            .bytes(4, &sealed)
            .bytes(5, machine.sign(&signed))
    }

    fn record(&self, entries: &[Message]) -> Vec<u8> {
        let machine = Message::new()
            .bytes(1, self.0.machine().id().as_bytes())
            .bytes(2, self.0.certificate());
        let machine = entries.iter().fold(machine, |m, entry| m.message(3, entry));
        let head = Message::new()
            .number(1, 2)
            .bytes(2, self.0.owner().as_bytes())
            .message(4, &machine);
        head.0
    }

    /// As many entries as a holder keeps of the newest and more, above all that the machine has
    /// signed, whose logs are nowhere.
    fn flood(&self, above: u64) -> Vec<u8> {
        let nowhere = |n: u64| Link {
            id: BlockId::from_sha384([200 + n as u8; 48]),
            key: Key::new([1; 32]),
        };
        let entries: Vec<Message> = (0..20)
            .map(|n| self.entry(above + n, now_ms(), &nowhere(n)))
            .collect();
        self.record(&entries)
    }
}

fn now_ms() -> u64 {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed();
    u64::try_from(now.expect("after 1970").as_millis()).expect("not so late")
}

/// Tells a record to each of some nodes, as whoever knows the owner can.
async fn tell(attacker: &Attacker, nodes: &[&Process], head: &BlockId, record: &[u8]) {
    let acquaintance = Acquaintance::new(head);
    for node in nodes {
        let peer: PeerId = node.peer.parse().expect("a peer");
        if !attacker.is_connected(peer) {
            assert!(attacker.connect(&node.addresses[0]).await);
        }
        let nonce = [7; 32];
        let proof = acquaintance.proof(&nonce, &attacker.peer.to_bytes(), &peer.to_bytes());
        let question = Message::new()
            .number(1, 9)
            .bytes(7, nonce)
            .bytes(10, proof)
            .bytes(11, acquaintance.seal(&proof, Direction::Question, record));
        attacker.ask(peer, "replica", &question.framed()).await;
    }
}

/// Restores on a machine that knows the words and a node: where to, what was said, the exit code.
fn restored(
    dir: &Path,
    (source, words): (&Path, &Path),
    bootstrap: &str,
) -> (PathBuf, serde_json::Value, i32) {
    let (data, target) = (dir.join("new"), dir.join("restored"));
    let args = [
        "restore",
        "latest",
        "--target",
        utf8(&target),
        "--phrase-file",
        utf8(words),
        "--bootstrap",
        bootstrap,
        "--timeout",
        "20s",
        "--json",
    ];
    let output = run(&data, &args);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let said = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {text}"));
    let target = target.join(source.strip_prefix("/").expect("absolute"));
    (target, said, output.status.code().expect("it ended"))
}

/// The attack: whoever has copied `owner.key` signs what can't be followed, what leads nowhere, and
/// as much of it as they like. Backups go on, the owner hears of it, and the words bring back the
/// newest.
#[test]
fn a_copied_machine_key_takes_no_backup_away() {
    let scene = Scene::new(1 << 20);
    let holder = scene.member("b", &[]);
    let wait = ["--copies", "1", "--wait"];
    let (made, code) = scene.backup(&wait);
    assert_eq!(code, 0, "{made}");
    let head = &made["copies"]["head"];
    assert!(head["told"].as_u64() >= Some(1), "{made}");
    assert_eq!(
        (&head["log"], &head["overtaken"]),
        (&true.into(), &false.into())
    );

    let thief = Thief::copy(&scene.owner.data);
    let head_id = thief.head();
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    let attacker = runtime.block_on(Attacker::start());
    let nodes = [&scene.owner, &holder, &scene.outside];
    let nowhere = Link {
        id: BlockId::from_sha384([99; 48]),
        key: Key::new([1; 32]),
    };
    for (sequence, time_ms) in [(u64::MAX, now_ms()), (u64::MAX, u64::MAX - 1)] {
        let forged = thief.record(&[thief.entry(sequence, time_ms, &nowhere)]);
        runtime.block_on(tell(&attacker, &nodes, &head_id, &forged));
    }
    std::fs::write(scene.source.join("second"), noise(50, 100_000)).expect("written");
    let (made, code) = scene.backup(&wait);
    assert_eq!(code, 0, "nobody took what the thief signed: {made}");

    // Entries that hold: the next backup counts on from them, and is the newest.
    let flood = thief.flood(now_ms());
    runtime.block_on(tell(&attacker, &nodes, &head_id, &flood));
    std::fs::write(scene.source.join("third"), noise(51, 100_000)).expect("written");
    let (made, code) = scene.backup(&wait);
    assert_eq!(code, 0, "{made}");

    // After it, they are: this is said, and is no success.
    let flood = thief.flood(now_ms() + 3_600_000);
    runtime.block_on(tell(&attacker, &nodes, &head_id, &flood));
    let health = until("it shows that the head was overtaken", || {
        let (health, code) = said(&scene.owner, &["health"]);
        (health["head"]["overtaken"] == true).then_some((health, code))
    });
    assert_eq!(health.1, 3, "{}", health.0);
    fails(
        &scene.owner.run(&["health"]),
        3,
        "its key may have been copied",
    );

    // The machine is gone. The head that its holder has leads to the newest backup all the same.
    let Scene {
        dir,
        outside,
        owner,
        source,
        words,
        ..
    } = scene;
    owner.kill();
    outside.kill();
    let (target, said, code) = restored(dir.path(), (&source, &words), &holder.addresses[0]);
    assert_eq!(code, 0, "{said}");
    assert!(
        !said["notes"].as_array().expect("a list").is_empty(),
        "{said}"
    );
    assert_same_files(&source, &target);
    holder.stop();
}

/// No head and no log is found: what a holder's leases say is enough for the words.
#[test]
fn the_words_alone_open_what_a_lease_holds() {
    let scene = Scene::new(1 << 20);
    let holder = scene.member("b", &[]);
    let (made, code) = scene.backup(&["--copies", "1", "--wait"]);
    assert_eq!(code, 0, "{made}");
    let Scene {
        dir,
        outside,
        owner,
        source,
        words,
        ..
    } = scene;
    owner.kill();
    outside.kill();
    // The holder loses all that it knows of heads, and there is nobody to tell it again.
    let data = holder.data.clone();
    holder.stop();
    std::fs::remove_dir_all(data.join("store").join("records")).expect("removed");
    let holder = Process::start(&data, &[]);
    let (target, said, code) = restored(dir.path(), (&source, &words), &holder.addresses[0]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(said["snapshot"], made["snapshot"], "{said}");
    let notes = said["notes"].to_string();
    assert!(notes.contains("found by the leases"), "{notes}");
    assert_same_files(&source, &target);
    // A stranger who asks without knowing the owner hears nothing.
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    let attacker = runtime.block_on(Attacker::start());
    let peer = holder.peer.parse().expect("a peer");
    let request = Message::new()
        .number(1, 8)
        .bytes(7, [1; 32])
        .bytes(10, [2; 32]);
    let answer = runtime.block_on(async {
        assert!(attacker.connect(&holder.addresses[0]).await);
        attacker.ask(peer, "replica", &request.framed()).await
    });
    let answer = answer.expect("it is refused in words");
    assert_eq!(attacker::number(&answer, 1), 5, "{answer:?}");
    assert!(attacker::all_bytes(&answer, 10).is_empty());
    holder.stop();
}

/// Whether two directories have the same files.
fn assert_same_files(one: &Path, other: &Path) {
    let files = |dir: &Path| -> BTreeMap<std::ffi::OsString, Vec<u8>> {
        let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        entries
            .map(|entry| {
                let entry = entry.expect("readable");
                let bytes = std::fs::read(entry.path()).expect("readable");
                (entry.file_name(), bytes)
            })
            .collect()
    };
    let (one, other) = (files(one), files(other));
    assert_eq!(
        one.keys().collect::<Vec<_>>(),
        other.keys().collect::<Vec<_>>()
    );
    assert!(one == other, "the same names, and other bytes");
}
