//! Backups, forgetting, pruning and restoring, killed at many moments: the next run goes on, and nothing that a snapshot needs is lost.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::process::{json, libernet};
use crate::sample::{assert_same, noise};

/// When a command is killed, in milliseconds after its start. Some fall into its start, some into its work, some after its end, whatever the
/// machine's speed.
const MOMENTS: [u64; 7] = [20, 150, 300, 500, 800, 1300, 2000];

fn utf8(path: &Path) -> &str {
    path.to_str().expect("utf-8")
}

/// Starts a command with a node of its own, so that killing it kills everything.
fn start(data: &Path, args: &[&str]) -> Child {
    libernet()
        .arg("--data-dir")
        .arg(data)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts")
}

/// Runs a command once for each moment, killed then.
fn kill_at_each_moment(data: &Path, args: &[&str]) {
    for moment in MOMENTS {
        let mut child = start(data, args);
        std::thread::sleep(Duration::from_millis(moment));
        child.kill().expect("it is ours");
        child.wait().expect("it ended");
    }
}

fn whole(data: &Path) {
    let check = json(data, &["check", "--read-data"]);
    assert_eq!(check["errors"], serde_json::json!([]), "{check}");
}

fn snapshots(data: &Path) -> Vec<Value> {
    let listed = json(data, &["snapshots"]);
    listed["snapshots"].as_array().expect("a list").clone()
}

#[test]
fn the_next_run_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let (data, source) = (dir.path().join("data"), dir.path().join("source"));
    std::fs::create_dir(&source).expect("made");
    for number in 0..40 {
        let path = source.join(format!("file {number}"));
        std::fs::write(path, noise(number, 600_000)).expect("written");
    }
    // Small ones travel together: most of them go, which is what repacking is for.
    for number in 0..60 {
        let path = source.join(format!("small {number}"));
        std::fs::write(path, noise(1000 + number, 20_000)).expect("written");
    }
    let words = dir.path().join("words");
    json(&data, &["init", "--yes", "--words-out", utf8(&words)]);

    kill_at_each_moment(&data, &["backup", utf8(&source)]);
    let first = json(&data, &["backup", utf8(&source)]);
    assert_eq!(first["unreadable"], serde_json::json!([]));
    whole(&data);

    std::fs::write(source.join("file 7"), noise(99, 900_000)).expect("written");
    for number in (0..60).filter(|number| number % 10 != 0) {
        std::fs::remove_file(source.join(format!("small {number}"))).expect("removed");
    }
    kill_at_each_moment(&data, &["backup", utf8(&source)]);
    let second = json(&data, &["backup", utf8(&source)]);
    whole(&data);
    let ids: Vec<Value> = snapshots(&data)
        .iter()
        .map(|s| s["snapshot"].clone())
        .collect();
    assert!(
        ids.contains(&first["snapshot"]) && ids.contains(&second["snapshot"]),
        "{ids:?}"
    );

    let target = dir.path().join("target");
    let restore = ["restore", "latest", "--target", utf8(&target)];
    kill_at_each_moment(&data, &restore);
    let restored = json(&data, &[&restore[..], &["--verify"]].concat());
    assert_eq!(restored["verified"], true, "{restored}");
    let below = target.join(source.strip_prefix("/").expect("absolute"));
    assert_same(&source, &below);

    // Only the newest is kept; its tree stays whole whenever forgetting and pruning are cut off.
    kill_at_each_moment(&data, &["forget", "--keep-last", "1"]);
    json(&data, &["forget", "--keep-last", "1"]);
    kill_at_each_moment(&data, &["prune"]);
    json(&data, &["prune"]);
    let left = snapshots(&data);
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0]["snapshot"], second["snapshot"]);
    whole(&data);
    let repack = ["prune", "--repack-below", "60"];
    kill_at_each_moment(&data, &repack);
    json(&data, &repack);
    let repacked = snapshots(&data);
    assert_eq!(repacked.len(), 1, "{repacked:?}");
    assert_ne!(
        repacked[0]["snapshot"], second["snapshot"],
        "it has new packs"
    );
    assert_eq!(repacked[0]["time"], left[0]["time"]);
    whole(&data);
    let again = dir.path().join("again");
    json(&data, &["restore", "latest", "--target", utf8(&again)]);
    assert_same(
        &source,
        &again.join(source.strip_prefix("/").expect("absolute")),
    );
}
