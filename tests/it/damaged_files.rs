//! The files beside the store, damaged in every way: backups and restores go on, or an error names the file.

use std::path::Path;

use crate::process::{Node, fails, json, run};
use crate::sample::noise;

/// What the file became.
#[derive(Clone, Copy, Debug)]
enum How {
    Gone,
    Truncated,
    Flipped,
    /// It has the bytes of another of these files.
    Swapped,
}

const HOWS: [How; 4] = [How::Gone, How::Truncated, How::Flipped, How::Swapped];

/// The files, each with the one whose bytes it gets when they are swapped, and whether an error that names it is right as well: what cannot
/// be made anew from elsewhere must not be guessed. Restoring goes on all the same.
const FILES: [(&str, &str, bool); 5] = [
    ("config.toml", "rings.toml", true),
    ("backup.head", "rings.toml", false),
    ("copies.json", "backup.head", false),
    ("backup.toml", "copies.json", true),
    ("rings.toml", "backup.head", true),
];

fn hurt(data: &Path, name: &str, other: &str, how: How) {
    let path = data.join(name);
    let mut bytes = std::fs::read(&path).expect("there");
    let middle = bytes.len() / 2;
    match how {
        How::Gone => return std::fs::remove_file(&path).expect("removed"),
        How::Truncated => bytes.truncate(middle),
        How::Flipped => bytes[middle] ^= 1,
        How::Swapped => bytes = std::fs::read(data.join(other)).expect("there"),
    }
    std::fs::write(&path, bytes).expect("written");
}

#[test]
fn backups_and_restores_go_on_or_say_why_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let (data, source) = (dir.path().join("data"), dir.path().join("source"));
    std::fs::create_dir(&source).expect("made");
    std::fs::write(source.join("file"), noise(1, 700_000)).expect("written");
    let text = |path: &Path| path.to_str().expect("utf-8").to_owned();
    let (words, source) = (text(&dir.path().join("words")), text(&source));
    json(&data, &["init", "--yes", "--words-out", &words]);
    json(&data, &["config", "set", "timeout_s", "9"]);
    json(&data, &["ring", "create", "friends"]);
    json(&data, &["backup", "add", &source, "--name", "home"]);
    json(&data, &["backup", "--copies", "1"]);
    let whole: Vec<(&str, Vec<u8>)> = FILES
        .iter()
        .map(|(name, ..)| (*name, std::fs::read(data.join(name)).expect("there")))
        .collect();
    for (name, other, may_refuse) in FILES {
        for how in HOWS {
            hurt(&data, name, other, how);
            let target = tempfile::tempdir().expect("a directory");
            let target = text(&target.path().join("target"));
            let restore = ["restore", "latest", "--target", &target];
            for args in [&["backup"][..], &restore] {
                let output = run(&data, args);
                let stderr = String::from_utf8_lossy(&output.stderr);
                assert!(!stderr.contains("panicked"), "{name} {how:?}: {stderr}");
                if !output.status.success() {
                    assert_eq!(args[0], "backup", "{name} {how:?}: {stderr}");
                    // Without its file there are no sets to back up.
                    let no_sets = name == "backup.toml" && stderr.contains("no sets");
                    let is_named = stderr.contains(name) && output.status.code() == Some(5);
                    assert!(
                        may_refuse && (is_named || no_sets),
                        "{name} {how:?} {args:?}: {stderr}"
                    );
                }
            }
            for (name, bytes) in &whole {
                // What was backed up meanwhile stays; only what is damaged comes back.
                let is_own = ["backup.toml", "rings.toml", "config.toml"].contains(name);
                if is_own {
                    std::fs::write(data.join(name), bytes).expect("written");
                }
            }
        }
    }
    let check = json(&data, &["check", "--read-data"]);
    assert_eq!(check["errors"], serde_json::json!([]), "{check}");
    let listed = json(&data, &["snapshots"]);
    let listed = listed["snapshots"].as_array().expect("a list").len();
    assert!(listed > 8, "no snapshot was lost: {listed}");
}

/// With another key a node would be another one, without a word.
#[test]
fn a_damaged_node_key_is_told_and_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    json(dir.path(), &["id"]);
    let path = dir.path().join("node.key");
    let mut bytes = std::fs::read(&path).expect("there");
    bytes[20] ^= 1;
    std::fs::write(&path, &bytes).expect("written");
    for args in [&["id"][..], &["up"], &["block", "ls"]] {
        crate::process::fails(&run(dir.path(), args), 5, "node.key is damaged");
    }
    assert_eq!(std::fs::read(&path).expect("there"), bytes);
}

/// What was lost with a file is told until a person has heard of it.
#[test]
fn health_tells_of_damaged_files_that_were_put_aside() {
    let dir = tempfile::tempdir().expect("a directory");
    let (data, source) = (dir.path().join("data"), dir.path().join("source"));
    std::fs::write(&source, "content").expect("written");
    let text = |path: &Path| path.to_str().expect("utf-8").to_owned();
    let words = text(&dir.path().join("words"));
    json(&data, &["init", "--yes", "--words-out", &words]);
    json(&data, &["ring", "create", "friends"]);
    json(&data, &["backup", &text(&source)]);
    for name in ["copies.json", "backup.head", "backup.requests"] {
        std::fs::write(data.join(name), "garbage").expect("written");
        let aside = data.join(format!("{name}.damaged"));
        for _ in 0..2 {
            let health = run(&data, &["health"]);
            let told = [health.stdout, health.stderr].concat();
            let told = String::from_utf8_lossy(&told).into_owned();
            assert_eq!(health.status.code(), Some(3), "{name}: {told}");
            assert!(told.contains(&format!("{name} was damaged")), "{told}");
            assert!(told.contains(&text(&aside)), "{told}");
        }
        assert_eq!(std::fs::read(&aside).expect("put aside"), b"garbage");
        std::fs::remove_file(&aside).expect("removed");
        json(&data, &["backup", &text(&source)]);
    }
    let health = run(&data, &["health", "--json"]);
    let told = String::from_utf8_lossy(&health.stdout).into_owned();
    assert!(told.contains("\"problems\":[]"), "{told}");
}

/// A node that runs and can't be asked is not taken for one that does not run.
#[test]
fn status_names_the_damaged_file_of_a_running_node() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(dir.path(), &[]);
    let file = dir.path().join("api.json");
    std::fs::write(&file, "{\"url\":").expect("written");
    for args in [&["status"][..], &["snapshots"], &["health", "--json"]] {
        let refused = node.run(args);
        fails(&refused, 7, "api.json is damaged");
        fails(&refused, 7, "stop the node and start it again");
        fails(&refused, 7, &node.pid().to_string());
    }
    node.stop();
    let status = run(dir.path(), &["status"]);
    assert_eq!(status.status.code(), Some(11), "nobody runs there");
}
