//! Sets that are due: a timer of the system and a running node may look at them at the same time.

use std::process::Stdio;

use crate::process::{Node, json, libernet};
use crate::sample::noise;

#[test]
fn a_set_that_several_find_due_is_backed_up_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let (data, source) = (dir.path().join("data"), dir.path().join("source"));
    std::fs::create_dir(&source).expect("made");
    for number in 0..8 {
        let path = source.join(format!("file {number}"));
        std::fs::write(path, noise(number, 900_000)).expect("written");
    }
    let text = |path: &std::path::Path| path.to_str().expect("utf-8").to_owned();
    let (words, source) = (text(&dir.path().join("words")), text(&source));
    json(&data, &["init", "--yes", "--words-out", &words]);
    let add = ["backup", "add", &source, "--name", "home"];
    json(&data, &[&add[..], &["--schedule", "every 6h"]].concat());
    let node = Node::start(&data, &[]);
    let runs: Vec<_> = (0..3)
        .map(|_| {
            let mut command = libernet();
            command.arg("--data-dir").arg(&data);
            command.args(["backup", "--due"]);
            let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
            piped.spawn().expect("the binary starts")
        })
        .collect();
    let mut ids = Vec::new();
    for run in runs {
        let output = run.wait_with_output().expect("it ends");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{stderr}");
        ids.extend(
            String::from_utf8(output.stdout)
                .expect("text")
                .lines()
                .map(str::to_owned),
        );
    }
    assert_eq!(ids.len(), 1, "one of them did it: {ids:?}");
    let listed = node.json(&["snapshots"]);
    let listed = listed["snapshots"].as_array().expect("a list");
    assert_eq!(listed.len(), 1, "{listed:?}");
    // Asked for by name it is done whether it is due or not.
    node.json(&["backup", "--set", "home"]);
    let listed = node.json(&["snapshots"]);
    assert_eq!(listed["snapshots"].as_array().map(Vec::len), Some(2));
    node.stop();
}
