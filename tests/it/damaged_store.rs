//! A store whose index is damaged, and one on a disk that can't be written: what a user sees, and
//! the way back.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::process::{Node, fails, json, run};
use crate::sample::noise;

struct Machine {
    room: tempfile::TempDir,
    data: PathBuf,
    link: String,
}

impl Machine {
    /// A machine with a backup and a file that was put.
    fn new() -> Self {
        let room = tempfile::tempdir().expect("a directory");
        let data = room.path().join("data");
        let at = |name: &str| room.path().join(name).to_str().expect("utf-8").to_owned();
        std::fs::create_dir(at("source")).expect("made");
        std::fs::write(at("source/small"), noise(1, 3000)).expect("written");
        std::fs::write(at("source/large"), noise(2, 900_000)).expect("written");
        std::fs::write(at("put"), noise(3, 700_000)).expect("written");
        json(&data, &["init", "--yes", "--words-out", &at("words")]);
        json(&data, &["backup", &at("source")]);
        let link = json(&data, &["put", &at("put")])["link"]
            .as_str()
            .expect("a link")
            .to_owned();
        Self { room, data, link }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.room.path().join(name)
    }

    fn lose(&self, name: &str) {
        let blocks = self.data.join("store/blocks");
        for entry in std::fs::read_dir(blocks).expect("reads") {
            let path = entry.expect("an entry").path();
            if path.to_string_lossy().contains(name) {
                std::fs::remove_file(path).expect("removed");
            }
        }
    }

    /// Everything that was put and backed up comes back as it was.
    fn is_whole(&self) {
        let out = self.path("out");
        let out_text = out.to_str().expect("utf-8");
        let get = run(
            &self.data,
            &["get", &self.link, "-o", out_text, "--timeout", "1"],
        );
        assert!(get.status.success(), "{get:?}");
        same(&out, &self.path("put"));
        let _ = std::fs::remove_file(&out);
        self.backup_is_whole();
    }

    /// Checks that the files that were backed up come back as they were.
    fn backup_is_whole(&self) {
        let source = self.path("source");
        let target = self.path("target");
        let what = format!("latest:{}", source.display());
        let restore = [
            "restore",
            &what,
            "--target",
            target.to_str().expect("utf-8"),
        ];
        json(&self.data, &restore);
        for name in ["small", "large"] {
            same(&target.join(name), &source.join(name));
        }
        let _ = std::fs::remove_dir_all(&target);
    }
}

fn same(a: &Path, b: &Path) {
    let read = |path| std::fs::read(path).expect("it is there");
    assert!(
        read(a) == read(b),
        "{} and {} differ",
        a.display(),
        b.display()
    );
}

/// Every reading command names the file and what to do; the rebuild's answer and its exit code.
fn rebuilds(machine: &Machine, lost: &str, named: &str) -> (serde_json::Value, Option<i32>) {
    machine.lose(lost);
    for args in [
        &["get", &machine.link][..],
        &["pin", "ls"],
        &["check"],
        &["snapshots"],
    ] {
        let output = run(&machine.data, args);
        fails(&output, 5, named);
        fails(&output, 5, "libernet check --rebuild");
    }
    let args = ["check", "--rebuild", "--read-data", "--json"];
    let output = run(&machine.data, &args);
    let reply: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let aside = reply["rebuilt"]["aside"].as_str().expect("a path");
    assert!(aside.contains("/store/damaged-"), "{reply}");
    (reply, output.status.code())
}

#[test]
fn a_lost_index_is_named_and_check_makes_it_again() {
    let machine = Machine::new();
    for (lost, named) in [("CURRENT", "CURRENT"), ("MANIFEST", "MANIFEST-")] {
        let (reply, code) = rebuilds(&machine, lost, named);
        assert_eq!(code, Some(0), "{reply}");
        assert_eq!(reply["rebuilt"]["whole_index"], true, "{reply}");
        assert_eq!(reply["errors"], json!([]), "{reply}");
        machine.is_whole();
    }
}

/// Blocks below 4 KiB lie in the tables and are lost with them; those of backups are larger.
#[test]
fn lost_tables_cost_no_block_of_a_backup_and_what_they_knew_is_said() {
    let machine = Machine::new();
    let (reply, code) = rebuilds(&machine, ".sst", ".sst");
    assert_ne!(code, Some(0), "{reply}");
    assert_eq!(reply["rebuilt"]["whole_index"], false, "{reply}");
    assert!(
        reply["rebuilt"]["kept_blocks"].as_u64() > Some(0),
        "{reply}"
    );
    assert_eq!(reply["errors"], json!([]), "{reply}");
    let pins = json(&machine.data, &["pin", "ls"]);
    assert!(
        pins.to_string().contains("found by check --rebuild"),
        "{pins}"
    );
    machine.backup_is_whole();
}

#[test]
fn a_node_makes_a_damaged_index_again_by_itself() {
    let machine = Machine::new();
    machine.lose("CURRENT");
    let node = Node::start(&machine.data, &[]);
    machine.is_whole();
    fails(&node.run(&["check", "--rebuild"]), 7, "a node is running");
    node.stop();
    assert!(machine.data.join("store/damaged-1").is_dir());
    machine.is_whole();
}

#[test]
fn who_only_asks_makes_no_data_directory() {
    let room = tempfile::tempdir().expect("a directory");
    let data = room.path().join("mistyped");
    for args in [
        &["snapshots"][..],
        &["restore", "latest", "--target", "x"],
        &["pin", "ls"],
        &["pin", "rm", "text:x"],
        &["check"],
        &["check", "--rebuild"],
        &["forget", "--keep-last", "1"],
        &["prune"],
        &["health"],
        &["ring", "list"],
        &["block", "ls"],
        &["ls", "latest:/"],
    ] {
        let output = run(&data, args);
        fails(&output, 4, "there is no data directory");
        assert!(!data.exists(), "{args:?}");
    }
}
