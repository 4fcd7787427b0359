//! The files beside the store, damaged in every way: backups and restores go on, or an error names the file.

use std::path::Path;

use crate::process::{json, run};
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
/// be made anew from elsewhere must not be guessed.
const FILES: [(&str, &str, bool); 4] = [
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
                    // Without its file there are no sets to back up.
                    let no_sets = name == "backup.toml" && stderr.contains("no sets");
                    let is_named = may_refuse && (stderr.contains(name) || no_sets);
                    assert!(is_named, "{name} {how:?} {args:?}: {stderr}");
                }
            }
            for (name, bytes) in &whole {
                // What was backed up meanwhile stays; only what is damaged comes back.
                let is_own = ["backup.toml", "rings.toml"].contains(name);
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
