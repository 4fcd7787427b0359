//! Ids that are like a given one: made, found at other nodes by its first bits, and what a peer
//! that lies or asks without end gets.

use serde_json::{Value, json};

use crate::attacker::{Attacker, Message, Nature, all_bytes, number, peer_of};
use crate::process::{Node, fails};

const ID: &str = "text:the garden club";

fn put_like(node: &Node, path: &std::path::Path, flags: &[&str]) -> Value {
    let path = path.to_str().expect("utf-8");
    node.json(&[&["put", path, "--like", ID], flags].concat())
}

/// The multihash of an identifier whose digest is this.
fn multihash(digest: &[u8; 48]) -> Vec<u8> {
    [&[0x20, 48], &digest[..]].concat()
}

#[test]
fn a_bundle_that_was_put_like_a_text_is_found_by_others_and_is_whole() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = Node::start(&dir.path().join("1"), &[]);
    let second = Node::start(&dir.path().join("2"), &[&first.addresses[0]]);
    let third = Node::start(&dir.path().join("3"), &[&first.addresses[0]]);
    let file = dir.path().join("recipe");
    std::fs::write(&file, b"take two eggs").expect("written");
    let put = put_like(&second, &file, &[]);
    let id = put["id"].as_str().expect("an id");

    let found = crate::rings::until("it is found", || {
        let output = third.run(&["like", ID, "--json"]);
        (output.status.code() == Some(0)).then_some(output.stdout)
    });
    let found: Value = serde_json::from_slice(&found).expect("JSON");
    let one = &found["ids"][0];
    assert_eq!(one["id"], id, "{found}");
    assert_eq!(one["from"], second.peer.as_str(), "{found}");
    assert!(one["bits"].as_u64() >= Some(16), "{found}");
    let here = second.json(&["like", ID]);
    assert_eq!(here["ids"][0]["from"], "here", "{here}");
    let size = second.json(&["block", "stat", id]);
    assert_eq!(one["bytes"], size["bytes"], "{found}");

    let target = dir.path().join("out");
    let out = target.to_str().expect("utf-8");
    third.json(&["get", put["link"].as_str().expect("a link"), "-o", out]);
    assert_eq!(std::fs::read(&target).expect("written"), b"take two eggs");
    // The same content elsewhere: the content's own blocks are the same, only the root differs.
    let plain = second.json(&["put", file.to_str().expect("utf-8")]);
    assert_ne!(plain["id"], put["id"]);
}

#[test]
fn what_a_backup_keeps_is_not_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = Node::start(&dir.path().join("1"), &[]);
    let second = Node::start(&dir.path().join("2"), &[&first.addresses[0]]);
    let file = dir.path().join("secret");
    std::fs::write(&file, b"a diary").expect("written");
    let words = dir.path().join("words");
    let words = words.to_str().expect("utf-8");
    second.json(&["init", "--yes", "--words-out", words]);
    let path = file.to_str().expect("utf-8");
    second.json(&["backup", path]);
    let all = second.json(&["block", "ls"]);
    let blocks = all["blocks"].as_array().expect("a list");
    assert!(!blocks.is_empty(), "{all}");
    let kept: Vec<&str> = blocks
        .iter()
        .filter_map(|block| block["id"].as_str())
        .collect();
    let snapshots = second.json(&["snapshots"]);
    let mut asked = 0;
    for id in kept {
        let stat = second.json(&["block", "stat", id]);
        assert_eq!(stat["class"], "pinned", "{stat}");
        let output = first.run(&["like", id, "--json", "--timeout", "5"]);
        let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let told = found["ids"].as_array().expect("a list");
        let logs = told.iter().filter(|one| one["id"] == id).count();
        // The log is what other machines of the owner look for; no other block is told.
        asked += 1 - logs;
    }
    assert!(asked >= 1, "{snapshots}");
}

#[test]
fn wrong_bits_and_texts_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(dir.path(), &[]);
    for (args, words) in [
        (&["like", ID, "--bits", "11"][..], "12..=16"),
        (&["like", ID, "--bits", "17"], "12..=16"),
        (&["like", "garden"], "text:"),
        (&["put", "-", "--like", ID], "--like"),
        (&["put", "/etc/hostname", "--like-bits", "3"], "--like"),
        (
            &["put", "/etc/hostname", "--like", ID, "--like-bits", "17"],
            "1..=16",
        ),
    ] {
        fails(&node.run(args), 2, words);
    }
    let none = node.run(&["like", ID, "--timeout", "1"]);
    assert_eq!(none.status.code(), Some(4), "{none:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_lies_adds_nothing_and_one_that_tells_what_is_alike_is_named() {
    let data = tempfile::tempdir().expect("a directory");
    let node = Node::start(data.path(), &[]);
    let asked = [0xab; 48];
    let hex = "ab".repeat(48);
    let near = {
        let mut digest = [7; 48];
        digest[..2].copy_from_slice(&[0xab, 0xab]);
        digest
    };
    let told = |digests: &[[u8; 48]]| {
        digests.iter().fold(Message::new(), |message, digest| {
            let found = Message::new().bytes(1, multihash(digest)).number(2, 1234);
            message.message(1, &found)
        })
    };
    let answers = [
        // Ids that are not alike, among one that is; too many; no ids; one that counts.
        told(&[near, [1; 48]]),
        told(&[near; 101]),
        Message::new().message(1, &Message::new().bytes(1, b"nonsense")),
        told(&[near]),
    ];
    let mut liars = Vec::new();
    for answer in answers {
        let liar = Attacker::with(Nature::default()).await;
        liar.answer_delimited_with("like", move |_, question| {
            assert_eq!(all_bytes(&question, 1), [multihash(&asked)]);
            assert_eq!(number(&question, 2), 16);
            answer.clone()
        });
        assert!(liar.connect(&node.addresses[0]).await, "it is let in");
        liars.push(liar);
    }
    let honest = liars.last().expect("one").peer.to_string();
    let found = node.json(&["like", &hex, "--timeout", "30"]);
    let ids = found["ids"].as_array().expect("a list");
    assert_eq!(ids.len(), 1, "{found}");
    assert_eq!(ids[0]["from"], honest.as_str(), "{found}");
    assert_eq!(
        (&ids[0]["bits"], &ids[0]["bytes"]),
        (&json!(16), &json!(1234))
    );
    assert_eq!(
        (&found["asked"], &found["answered"]),
        (&json!(4), &json!(1))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_without_end_is_told_to_wait_and_others_are_answered() {
    let data = tempfile::tempdir().expect("a directory");
    let node = Node::start(data.path(), &[]);
    let peer = peer_of(&node.addresses[0]);
    let question = Message::new()
        .bytes(1, multihash(&[7; 48]))
        .number(2, 12)
        .delimited();
    let (greedy, other) = (Attacker::start().await, Attacker::start().await);
    for one in [&greedy, &other] {
        assert!(one.connect(&node.addresses[0]).await, "it is let in");
    }
    let mut busy = 0;
    for _ in 0..30 {
        let answer = greedy.ask_delimited(peer, "like", &question).await;
        busy += number(&answer.expect("an answer"), 2);
    }
    assert!(busy > 0, "none was refused");
    let answer = other.ask_delimited(peer, "like", &question).await;
    assert_eq!(number(&answer.expect("an answer"), 2), 0);
    // Garbage gets no answer, and the node goes on.
    for garbage in [&b"\xff\xff\xff\x01"[..], b"\x03abc", b"\x00"] {
        let answer = other.ask_delimited(peer, "like", garbage).await;
        assert_eq!(answer, None);
    }
    assert_eq!(node.json(&["status"])["running"], true);
}
