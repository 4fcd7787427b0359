//! The first hour of somebody who has only the binary: what is said without arguments, without a
//! node, and about strangers' names.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::process::{Node, fails, json, libernet, run};
use crate::rings::{Scene, online, until, utf8};

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

fn out(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn bare_says_what_to_do_first() {
    let output = libernet().output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(0));
    let said = out(&output);
    assert!(said.lines().count() <= 16, "{said}");
    for part in [
        "libernet put PATH",
        "libernet init",
        "libernet up",
        "libernet --help",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let version = libernet().arg("version").output().expect("the binary runs");
    assert!(out(&version).starts_with("libernet "), "{version:?}");
}

#[test]
fn status_starts_no_node_and_makes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let asked = run(&data, &["status"]);
    assert_eq!(asked.status.code(), Some(11), "{asked:?}");
    assert!(out(&asked).contains("not running"), "{asked:?}");
    assert!(!data.exists(), "asking makes no data directory");

    let words = dir.path().join("words");
    json(&data, &["init", "--yes", "--words-out", utf8(&words)]);
    let file = dir.path().join("file");
    std::fs::write(&file, b"hello").expect("written");
    json(&data, &["backup", utf8(&file)]);
    let before = names(&data);
    let asked = run(&data, &["status", "--json"]);
    assert_eq!(asked.status.code(), Some(11), "{asked:?}");
    let said: Value = serde_json::from_slice(&asked.stdout).expect("json");
    assert_eq!(said["running"], false, "{said}");
    assert_eq!(said["peer"], json(&data, &["id"])["peer"], "{said}");
    assert!(!said["log_written"].is_null(), "{said}");
    assert!(said["disk_bytes"].as_u64() > Some(1000), "{said}");
    assert_eq!(names(&data), before);

    let node = Node::start(&data, &[]);
    let said = node.json(&["status"]);
    assert_eq!(said["running"], true, "{said}");
    assert_eq!(said["peer"], node.peer.as_str());
    node.stop();
}

fn names(dir: &Path) -> Vec<std::ffi::OsString> {
    let entries = std::fs::read_dir(dir).expect("listed");
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    names.sort();
    names
}

#[test]
fn a_name_with_a_dot_is_not_taken_from_a_bundle_and_nothing_is_overwritten() {
    let dir = tempfile::tempdir().expect("a directory");
    let (data, here) = (dir.path().join("data"), dir.path().join("here"));
    std::fs::create_dir(&here).expect("made");
    let get = |args: &[&str]| {
        let mut command = libernet();
        command.current_dir(&here).arg("--data-dir").arg(&data);
        command.arg("get").args(args).output().expect("it runs")
    };
    let hidden = dir.path().join(".bashrc");
    std::fs::write(&hidden, b"evil").expect("written");
    let put = json(&data, &["send", utf8(&hidden), "--no-announce"]);
    let link = text(&put["link"]);
    fails(&get(&[link]), 2, "-o NAME");
    fails(&get(&[link, "-o", utf8(&here)]), 2, "-o NAME");
    assert!(names(&here).is_empty());
    assert!(get(&[link, "-o", "plain"]).status.success());
    assert_eq!(std::fs::read(here.join("plain")).expect("there"), b"evil");

    let plain = dir.path().join("notes");
    std::fs::write(&plain, b"mine").expect("written");
    let put = json(&data, &["share", utf8(&plain), "--no-announce"]);
    let link = text(&put["link"]);
    std::fs::write(here.join("notes"), b"other").expect("written");
    fails(&get(&[link]), 8, "notes");
    fails(&get(&[link, "--overwrite", "always"]), 2, "-o PATH");
    assert_eq!(std::fs::read(here.join("notes")).expect("there"), b"other");
}

#[test]
fn pins_go_by_the_start_of_their_ids_and_by_their_names() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let mut ids = Vec::new();
    for name in ["one", "two"] {
        let file = dir.path().join(name);
        std::fs::write(&file, name).expect("written");
        let put = json(&data, &["put", utf8(&file), "--no-announce"]);
        ids.push(text(&put["id"]).to_owned());
    }
    let listed = out(&run(&data, &["pin", "ls"]));
    let shown: Vec<&str> = listed
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(shown.iter().all(|id| id.len() == 12), "{listed}");
    assert!(!listed.contains("libernet:"), "links are secrets: {listed}");
    assert!(out(&run(&data, &["-v", "pin", "ls"])).contains("libernet:"));
    fails(&run(&data, &["pin", "rm", "bafk"]), 2, "pin ls -v");
    fails(&run(&data, &["pin", "rm", "three"]), 4, "pin ls");
    let first = shown.iter().find(|id| ids[0].starts_with(**id));
    json(&data, &["pin", "rm", first.expect("it is listed")]);
    json(&data, &["pin", "rm", "two"]);
    assert_eq!(json(&data, &["pin", "ls"])["pins"], serde_json::json!([]));
}

#[test]
fn what_happens_on_a_node_is_told_to_people() {
    use std::io::{BufRead, BufReader};
    let scene = Scene::new(1 << 20);
    let data = scene.dir.path().join("b");
    let mut child = libernet()
        .arg("--data-dir")
        .arg(&data)
        .args(["up", "--listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns"])
        .args(["--http", "127.0.0.1:0", "--bootstrap"])
        .arg(&scene.owner.addresses[0])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut told = |words: &str| loop {
        let line = lines.next().expect("it goes on").expect("a line");
        if line.contains(words) {
            return line;
        }
    };
    let short = &scene.owner.peer[..12];
    let line = told("connected");
    assert!(
        line.contains(short) && !line.contains(&scene.owner.peer),
        "{line}"
    );
    json(&data, &["ring", "join", &scene.code]);
    told("of the ring 'home' is here");
    let (made, code) = scene.backup(&["--copies", "1", "--wait"]);
    assert_eq!(code, 0, "{made}");
    let line = told("keeping a backup for");
    assert!(line.contains(short), "{line}");
    crate::process::signal(child.id(), "TERM");
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn a_ring_is_not_left_with_the_only_copies() {
    let scene = Scene::new(1 << 20);
    let first = scene.member("b", &[]);
    let second = scene.start("c", &[]);
    let told = second.join(&scene.code);
    assert!(told["lent_bytes"].as_u64() > Some(0), "{told}");
    assert!(told["members"].is_array(), "{told}");
    let (made, code) = scene.backup(&["--copies", "2", "--wait"]);
    assert_eq!(code, 0, "{made}");
    until("the two meet", || {
        online(&first, &second.peer).then_some(())
    });
    // The second one has it all, too; the ring's name may be cut short.
    let left = first.json(&["ring", "leave", "hom"]);
    assert_eq!(
        (&left["ring"], &left["others_alone"]),
        (&"home".into(), &0.into())
    );

    let refused = second.run(&["ring", "leave", "home"]);
    fails(&refused, 1, "this node keeps 1 backup of others");
    fails(&refused, 1, "--force");
    let refused = scene.owner.run(&["ring", "leave", "home"]);
    fails(&refused, 1, "all copies of 1 backup of this machine");
    for node in [&second, &scene.owner] {
        assert_ne!(node.json(&["ring", "list"])["rings"], serde_json::json!([]));
    }
    let left = second.json(&["ring", "leave", "home", "--force"]);
    assert_eq!(left["others_alone"], 1, "{left}");
    let left = scene.owner.run(&["ring", "leave", "home", "--force"]);
    fails(&left, 0, "1 backup of this machine");
    for node in [&second, &scene.owner] {
        assert_eq!(node.json(&["ring", "list"])["rings"], serde_json::json!([]));
    }
    first.stop();
    second.stop();
}
