//! A real node keeps an owner's head: on disk, over real sockets, by its background job.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use libernet::block::Link;
use libernet::config::Config;
use libernet::crypto::key::Key;
use libernet::head::{HeadEntry, HeadRecord, certify, sealing_key};
use libernet::id::BlockId;
use libernet::node::{Node, NodeOptions, Purpose};

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
async fn a_kept_head_is_there_after_a_restart_and_is_published_again() {
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
            let local = newcomer.heads().find(record.id()).await;
            if let Some(found) = local.expect("it runs") {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, found).await;
    assert_eq!(found.expect("in time"), record);
    // The job brings it to the newcomer by itself.
    let brought = async {
        while newcomer.heads().local(record.id()).await != Ok(Some(record.clone())) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, brought)
        .await
        .expect("in time");
    for node in [newcomer, node] {
        node.shutdown().await.expect("it stops");
    }
}
