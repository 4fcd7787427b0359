//! Two machines of one owner, one of them stolen: snapshots that it asks to forget stay, and it is
//! turned out.

use std::path::Path;

use serde_json::{Value, json};

use crate::process::{Node, fails, run};

fn utf8(path: &Path) -> &str {
    path.to_str().expect("utf-8")
}

/// A desktop with two snapshots of a set, and a laptop that was let in by the words.
struct Scene {
    dir: tempfile::TempDir,
    desk: Node,
    laptop: Node,
    /// Ids of the snapshots, the older first.
    made: [String; 2],
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        let (words, source) = (at("words"), at("source"));
        std::fs::create_dir(&source).expect("made");
        let made = run(
            &at("desk"),
            &[
                "init",
                "--yes",
                "--name",
                "desk",
                "--words-out",
                utf8(&words),
            ],
        );
        assert!(made.status.success());
        let desk = Node::start(&at("desk"), &[]);
        let back_up = |text: &str| {
            std::fs::write(source.join("file"), text).expect("written");
            let done = desk.json(&["backup", utf8(&source)]);
            done["snapshot"].as_str().expect("an id").to_owned()
        };
        let made = [back_up("one"), back_up("two")];
        let recover = ["init", "--recover", utf8(&words), "--name", "laptop"];
        let let_in = run(&at("laptop"), &recover);
        assert!(let_in.status.success());
        let laptop = Node::start(&at("laptop"), &[&desk.addresses[0]]);
        let scene = Self {
            desk,
            laptop,
            made,
            dir,
        };
        // The laptop knows the desktop's snapshots once it has found the head.
        while scene.listed(&scene.laptop).len() < 2 {}
        scene
    }

    fn words(&self) -> String {
        utf8(&self.dir.path().join("words")).to_owned()
    }

    fn listed(&self, node: &Node) -> Vec<String> {
        let reply = node.json(&["snapshots"]);
        let all = reply["snapshots"].as_array().expect("a list").iter();
        all.map(|one| one["snapshot"].as_str().expect("an id").to_owned())
            .collect()
    }

    /// Waits until the desktop knows of so many requests, and tells them.
    fn requests(&self, count: usize) -> Vec<Value> {
        loop {
            let reply = self.desk.json(&["snapshots"]);
            let requests = reply["requests"].as_array().expect("a list").clone();
            if requests.len() == count {
                return requests;
            }
        }
    }
}

#[test]
fn what_a_stolen_machine_forgets_is_only_asked_for() {
    let scene = Scene::new();
    let [old, new] = &scene.made;
    let forgot = scene.laptop.json(&["forget", old, new]);
    assert_eq!(forgot["forgotten"], json!([]));
    assert_eq!(forgot["asked"].as_array().map(Vec::len), Some(2));
    let requests = scene.requests(2);
    for request in &requests {
        let of_old = request["snapshot"] == json!(old);
        let state = if of_old { "notice" } else { "newest" };
        assert_eq!(request["state"], state, "{request}");
        assert_eq!(request["by_name"], "laptop");
        assert_eq!(request["due"].is_u64(), of_old, "{request}");
    }
    let pruned = scene.desk.json(&["prune"]);
    assert_eq!(pruned["snapshots"], 0);
    assert_eq!(scene.listed(&scene.desk), scene.made);
    let health = scene.desk.run(&["health"]);
    let said = String::from_utf8_lossy(&health.stderr);
    assert!(said.contains("laptop asks to forget"), "{said}");
    let deleted = scene.desk.json(&["snapshots", "--deleted"]);
    assert_eq!(deleted["deleted"][0]["forgotten_by"], Value::Null);
    // The desktop keeps one; nobody brings back what is not forgotten.
    let kept = scene.desk.json(&["unforget", &old[..8]]);
    assert_eq!(kept["snapshots"][0]["snapshot"], json!(old));
    let states: Vec<Value> = scene
        .requests(2)
        .iter()
        .map(|one| one["state"].clone())
        .collect();
    assert!(states.contains(&json!("kept")), "{states:?}");
    fails(
        &scene.desk.run(&["unforget", "0123456789"]),
        4,
        "no snapshot",
    );
    // The words decide at once, against what a machine keeps, and on whichever machine they are
    // typed.
    let words = scene.words();
    let forgot = scene.laptop.json(&["forget", old, "--phrase-file", &words]);
    assert_eq!(forgot["forgotten"][0]["snapshot"], json!(old));
    while scene.listed(&scene.desk).contains(old) {}
    assert_eq!(scene.desk.json(&["prune"])["snapshots"], 1);
    // Its own a machine forgets as before, and takes back until it is pruned.
    scene.desk.json(&["forget", new]);
    assert!(scene.listed(&scene.desk).is_empty());
    scene.desk.json(&["unforget", new]);
    assert_eq!(scene.listed(&scene.desk), std::slice::from_ref(new));
}

#[test]
fn a_stolen_machine_is_turned_out_by_the_words() {
    let scene = Scene::new();
    let (source, words) = (scene.dir.path().join("source"), scene.words());
    let its = scene.laptop.json(&["backup", utf8(&source)]);
    let its = its["snapshot"].as_str().expect("an id").to_owned();
    while scene.listed(&scene.desk).len() < 3 {}
    let revoke = [
        "owner",
        "machine",
        "revoke",
        "laptop",
        "--phrase-file",
        &words,
    ];
    let revoked = scene.desk.json(&revoke);
    assert_eq!(revoked["name"], "laptop");
    let listed = scene.desk.json(&["owner", "machine", "ls"]);
    assert_eq!(listed["generation"], 1);
    let machines = listed["machines"].as_array().expect("a list").iter();
    let mut out = machines.filter(|one| one["revoked"].is_u64());
    assert_eq!(out.next().expect("one")["name"], "laptop");
    // The laptop learns of it, and what it says counts no more.
    let refused = loop {
        let output = scene.laptop.run(&["backup", utf8(&source)]);
        if !output.status.success() {
            break output;
        }
    };
    fails(&refused, 1, "turned out");
    // The desktop goes on, with keys that the laptop does not have.
    std::fs::write(source.join("file"), "three").expect("written");
    let later = scene.desk.json(&["backup", utf8(&source)]);
    let later = later["snapshot"].as_str().expect("an id").to_owned();
    let seen = scene.laptop.run(&["snapshots", "--json"]);
    let seen: Value = serde_json::from_slice(&seen.stdout).expect("JSON");
    let snapshots = seen["snapshots"].as_array().expect("a list");
    assert!(!snapshots.iter().any(|one| one["snapshot"] == json!(later)));
    // The words alone list and restore all of it, also what the laptop had made before.
    let fresh = scene.dir.path().join("fresh");
    let address = &scene.desk.addresses[0];
    let by_words = ["--phrase-file", &words, "--bootstrap", address];
    let mut all = vec!["snapshots", "--json"];
    all.extend(by_words);
    let listed = run(&fresh, &all);
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let ids: Vec<&Value> = listed["snapshots"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| &one["snapshot"])
        .collect();
    for id in scene.made.iter().chain([&its, &later]) {
        assert!(ids.contains(&&json!(id)), "{id}: {listed}");
    }
    let target = scene.dir.path().join("back");
    let mut restore = vec!["restore", &later, "--target", utf8(&target)];
    restore.extend(by_words);
    let restored = run(&fresh, &restore);
    assert!(
        restored.status.success(),
        "{}",
        String::from_utf8_lossy(&restored.stderr)
    );
    let file = target
        .join(source.strip_prefix("/").expect("absolute"))
        .join("file");
    assert_eq!(std::fs::read(file).expect("restored"), b"three");
}
