//! Several commands at the same moment: each that says it is done is done, whoever came last.

use std::sync::Barrier;

use serde_json::Value;

use crate::process::{Node, json, run};
use crate::sample::noise;

/// Runs `work` on so many threads that begin together.
fn at_once(threads: usize, work: impl Fn(usize) + Sync) {
    let start = Barrier::new(threads);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (start, work) = (&start, &work);
            scope.spawn(move || {
                start.wait();
                work(thread);
            });
        }
    });
}

fn ids(pins: &Value) -> Vec<String> {
    let pins = pins["pins"].as_array().expect("a list").iter();
    pins.map(|pin| pin["id"].as_str().expect("an id").to_owned())
        .collect()
}

/// Each round is a race between puts of the same content.
#[test]
fn the_same_content_put_by_several_is_pinned_for_all_of_them() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(dir.path(), &[]);
    let files = tempfile::tempdir().expect("a directory");
    for round in 0..6 {
        let path = files.path().join(round.to_string());
        std::fs::write(&path, noise(round, 600_000)).expect("written");
        let path = path.to_str().expect("utf-8");
        at_once(4, |_| {
            let put = node.json(&["put", path]);
            let id = put["id"].as_str().expect("an id").to_owned();
            let pins = ids(&node.json(&["pin", "ls"]));
            let of_it = pins.iter().filter(|pin| **pin == id);
            assert!(of_it.count() > 0, "round {round}: put and not pinned");
        });
        assert_eq!(ids(&node.json(&["pin", "ls"])).len() as u64, round + 1);
    }
    node.stop();
}

/// Nobody changes a file by what another one has replaced meanwhile.
#[test]
fn settings_and_sets_that_are_changed_by_several_are_all_changed() {
    let dir = tempfile::tempdir().expect("a directory");
    let values = [
        ("quota", "3 GiB"),
        ("timeout_s", "7"),
        ("network", "here"),
        ("announce", "roots"),
    ];
    at_once(values.len(), |thread| {
        let (name, value) = values[thread];
        json(dir.path(), &["config", "set", name, value]);
        let set = format!("set {thread}");
        json(dir.path(), &["backup", "add", "/etc", "--name", &set]);
    });
    for (name, value) in values {
        let shown = json(dir.path(), &["config", "get", name])["value"].clone();
        let shown = shown.as_str().map_or(shown.to_string(), str::to_owned);
        assert_eq!(shown, value, "{name}");
    }
    let sets = json(dir.path(), &["backup", "list"]);
    assert_eq!(sets["sets"].as_array().map(Vec::len), Some(values.len()));
    assert!(run(dir.path(), &["config", "show"]).status.success());
}
