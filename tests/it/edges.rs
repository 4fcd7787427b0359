//! Full disks, strange names and what is only half there, with real processes.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::Value;

use crate::process::{Node, fails, json, libernet};
use crate::sample::{assert_same, make_tree, noise};
use crate::small_disk::{Filler, on_a_small_disk};

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn utf8(path: &Path) -> &str {
    path.to_str().expect("utf-8")
}

/// Runs a command whose arguments need not be text.
fn run_os(data: &Path, args: &[&OsStr]) -> Output {
    let mut command = libernet();
    command.arg("--data-dir").arg(data).args(args);
    command.output().expect("the binary runs")
}

/// The JSON on standard output.
fn said(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// Several files of some megabytes, 24 MB in all.
fn make_files(root: &Path) {
    std::fs::create_dir(root).expect("made");
    for number in 0..8 {
        let name = root.join(format!("file{number}"));
        std::fs::write(name, noise(number, 3_000_000)).expect("written");
    }
}

#[test]
fn a_target_on_a_full_disk_is_told_and_completed_later() {
    let test = "edges::a_target_on_a_full_disk_is_told_and_completed_later";
    on_a_small_disk(test, "size=40m", |disk| {
        let source = disk.with_file_name("source");
        make_files(&source);
        let node = Node::start(&disk.with_file_name("data"), &[]);
        let put = node.json(&["put", utf8(&source)]);
        let link = text(&put["link"]);
        let target = disk.join("target");
        let filler = Filler::new(disk, 10_000_000);
        let refused = node.run(&["get", link, "-o", utf8(&target), "--json"]);
        fails(&refused, 6, "are free");
        fails(&refused, 6, "\"kind\":\"full\"");
        let full = node.run(&["get", link, "-o", utf8(&target), "--yes", "--json"]);
        fails(&full, 6, "the disk is full");
        fails(&full, 6, utf8(disk));
        fails(&full, 6, "\"kind\":\"full\"");
        assert!(!target.exists());
        drop(filler);
        node.json(&["get", link, "-o", utf8(&target)]);
        assert_same(&source, &target);
        node.stop();
    });
}

/// What can't be cached is still written where it belongs.
#[test]
fn a_store_that_fills_up_does_not_end_a_get() {
    let test = "edges::a_store_that_fills_up_does_not_end_a_get";
    on_a_small_disk(test, "size=96m", |disk| {
        let source = disk.with_file_name("source");
        make_files(&source);
        let first = Node::start(&disk.with_file_name("1"), &[]);
        let second = Node::start(&disk.join("2"), &[&first.addresses[0]]);
        let put = first.json(&["put", utf8(&source)]);
        let link = text(&put["link"]);

        // From the start, and then in the middle: as soon as something has come.
        let filler = Filler::new(disk, 0);
        let target = disk.with_file_name("target");
        let got = second.json(&["get", link, "-o", utf8(&target)]);
        assert_eq!(got["missing"], serde_json::json!([]));
        assert_same(&source, &target);
        // A pin has to keep the blocks.
        let pin = second.run(&["pin", "add", link, "--json"]);
        fails(&pin, 6, "full");
        let pin = second.run(&[
            "get",
            link,
            "--pin",
            "-o",
            utf8(&disk.with_file_name("not")),
        ]);
        fails(&pin, 6, "full");
        drop(filler);

        let target = disk.with_file_name("middle");
        let mut get = libernet()
            .arg("--data-dir")
            .arg(&second.data)
            .args(["get", link, "-o", utf8(&target)])
            .stdout(Stdio::null())
            .spawn()
            .expect("started");
        while second.json(&["status"])["store"]["block_bytes"].as_u64() < Some(1_000_000)
            && get.try_wait().expect("checked").is_none()
        {}
        let filler = Filler::new(disk, 0);
        assert!(get.wait().expect("it ended").success());
        assert_same(&source, &target);
        drop(filler);

        // And when there is room, the node keeps things again.
        crate::rings::until("the node sees that there is room again", || {
            let pinned = second.run(&["pin", "add", link, "--json"]);
            if pinned.status.code() == Some(6) {
                return None;
            }
            let pinned: serde_json::Value = serde_json::from_slice(&pinned.stdout).expect("JSON");
            assert_eq!(pinned["blocks"], put["blocks"]);
            Some(())
        });
        first.stop();
        second.stop();
    });
}

#[test]
fn standard_input_takes_the_options_of_a_put() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let put = |seed: u64, options: &[&str]| {
        let mut command = libernet();
        command.arg("--data-dir").arg(&data).args(["put", "-"]);
        let mut child = command
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        // A command that refuses does not read.
        let _ = child
            .stdin
            .take()
            .expect("piped")
            .write_all(&noise(seed, 100_000));
        child.wait_with_output().expect("ended")
    };
    fails(
        &put(1, &["--index-file", "x"]),
        2,
        "standard input is one file",
    );
    let check = |seed: u64| {
        let told = put(seed, &["--no-pin", "--no-announce"]);
        assert!(told.status.success());
        let words = String::from_utf8_lossy(&told.stderr);
        assert!(!words.contains("announce"), "{words}");
        assert_eq!(json(&data, &["pin", "ls"])["pins"], serde_json::json!([]));
        let link = String::from_utf8(told.stdout).expect("text");
        let cat = crate::process::run(&data, &["cat", link.trim()]);
        assert!(cat.stdout == noise(seed, 100_000));
    };
    check(2);
    // The same through a running node, which is told in the query.
    let other = Node::start(&dir.path().join("other"), &[]);
    let node = Node::start(&data, &[&other.addresses[0]]);
    check(3);
    let told = put(4, &["--no-announce", "--json"]);
    assert_eq!(said(&told)["announced_to"], 0);
    let pins = node.json(&["pin", "ls"]);
    assert_eq!(pins["pins"].as_array().map(Vec::len), Some(1), "{pins}");
    assert_eq!(pins["pins"][0]["name"], "stdin");
    node.stop();
    other.stop();
}

#[test]
fn paths_that_are_not_text_reach_a_running_node() {
    let dir = tempfile::tempdir().expect("a directory");
    let strange = |bytes: &[u8]| dir.path().join(OsStr::from_bytes(bytes));
    let source = strange(b"in \xff\xfe");
    make_tree(&source);
    let node = Node::start(&dir.path().join("data"), &[]);
    let put = run_os(
        &node.data,
        &[OsStr::new("put"), source.as_os_str(), OsStr::new("--json")],
    );
    let put = said(&put);
    let target = strange(b"out \x80");
    let args = ["get", text(&put["link"]), "--json", "-o"].map(OsString::from);
    let mut args: Vec<&OsStr> = args.iter().map(OsString::as_os_str).collect();
    args.push(target.as_os_str());
    let got = run_os(&node.data, &args);
    assert!(
        got.status.success(),
        "{}",
        String::from_utf8_lossy(&got.stderr)
    );
    assert_same(&source, &target);
    // Under its own name, in a directory of such a name.
    let here = strange(b"here \xc3");
    std::fs::create_dir(&here).expect("made");
    let got = libernet()
        .current_dir(&here)
        .arg("--data-dir")
        .arg(&node.data)
        .args(["get", text(&put["link"]), "--json"])
        .output()
        .expect("it runs");
    assert!(
        got.status.success(),
        "{}",
        String::from_utf8_lossy(&got.stderr)
    );
    assert_same(&source, &here.join(source.file_name().expect("one")));
    node.stop();
}

#[test]
fn a_get_that_could_not_pin_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let source = dir.path().join("source");
    make_files(&source);
    let data = dir.path().join("data");
    let node = Node::start(&data, &[]);
    let put = node.json(&["put", utf8(&source), "--no-pin"]);
    let link = text(&put["link"]);
    let out = |name: &str| dir.path().join(name);
    let get = |name: &str, more: &[&str]| {
        let target = out(name);
        let mut args = vec!["get", link, "-o", utf8(&target), "--timeout", "1", "--json"];
        args.extend(more);
        node.run(&args)
    };
    let no_pins = || assert_eq!(node.json(&["pin", "ls"])["pins"], serde_json::json!([]));
    let words = "nothing was pinned";
    let not_asked = get("1", &[]);
    assert_eq!(said(&not_asked)["pinned"], false);
    assert!(!String::from_utf8_lossy(&not_asked.stderr).contains(words));

    let id = text(&put["id"]);
    let blocks = node.json(&["block", "ls"]);
    let listed = blocks["blocks"].as_array().expect("a list");
    let lost = listed
        .iter()
        .filter(|block| block["bytes"].as_u64() > Some(100_000))
        .map(|block| text(&block["id"]))
        .find(|other| *other != id)
        .expect("a block of some file");
    node.json(&["block", "rm", lost]);
    let part = get("2", &["--pin"]);
    fails(&part, 3, words);
    assert_eq!(said(&part)["pinned"], false);
    assert_eq!(said(&part)["missing"].as_array().map(Vec::len), Some(1));
    no_pins();

    node.json(&["put", utf8(&source), "--no-pin"]);
    let whole = get("3", &["--pin"]);
    assert!(whole.status.success());
    assert_eq!(said(&whole)["pinned"], true);
    assert!(!String::from_utf8_lossy(&whole.stderr).contains(words));
    assert_eq!(node.json(&["pin", "ls"])["pins"][0]["id"], id);
    let a_file = format!("{link}/file1");
    let target = out("4");
    let of_a_part = node.run(&["get", &a_file, "--pin", "-o", utf8(&target)]);
    fails(&of_a_part, 2, "only a whole bundle can be pinned");
    assert!(!target.exists());
    node.stop();
}
