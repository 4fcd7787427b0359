//! Harm that a stranger's link can do to whoever opens it, and what a stranger learns of what was
//! put.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::process::{Node, fails, json, libernet};
use crate::sample::noise;
use crate::terminal::on_a_terminal;

/// Directories in each directory of a bundle that repeats itself.
const WIDTH: usize = 200;

fn utf8(path: &Path) -> &str {
    path.to_str().expect("utf-8")
}

/// Runs `get` in a directory of its own.
fn get_in(dir: &Path, data: &Path, link: &str, flags: &[&str]) -> Output {
    libernet()
        .current_dir(dir)
        .arg("--data-dir")
        .arg(data)
        .args(["get", link])
        .args(flags)
        .output()
        .expect("the binary runs")
}

fn names_in(dir: &Path) -> BTreeSet<Vec<u8>> {
    let entries = fs::read_dir(dir).expect("readable");
    entries
        .map(|entry| entry.expect("readable").file_name().as_bytes().to_vec())
        .collect()
}

/// A link to 40,200 directories that differ in their numbers only, and so are named in little.
fn repeating(dir: &Path, data: &Path) -> String {
    let root = dir.join("many");
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let dated = |path: &Path| {
        let opened = File::open(path).expect("there");
        opened.set_modified(then).expect("dated");
    };
    for outer in 0..WIDTH {
        let outer = root.join(format!("{outer:03}"));
        for inner in 0..WIDTH {
            let inner = outer.join(format!("{inner:03}"));
            fs::create_dir_all(&inner).expect("made");
            dated(&inner);
        }
        dated(&outer);
    }
    let put = json(data, &["put", "--no-serve", utf8(&root)]);
    put["link"].as_str().expect("a link").to_owned()
}

fn entries_below(path: &Path) -> usize {
    let below = |dir: PathBuf| fs::read_dir(dir).map_or(0, Iterator::count);
    let outer = fs::read_dir(path).expect("readable");
    outer
        .map(|entry| 1 + below(entry.expect("readable").path()))
        .sum()
}

#[test]
fn a_bundle_that_repeats_itself_is_written_only_when_somebody_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let (data, home) = (dir.path().join("data"), dir.path().join("home"));
    fs::create_dir(&home).expect("made");
    let link = repeating(dir.path(), &data);

    let refused = get_in(&home, &data, &link, &["-o", "x"]);
    fails(
        &refused,
        12,
        "the bundle repeats itself, perhaps to fill the disk",
    );
    fails(&refused, 12, "--yes");
    assert_eq!(names_in(&home), BTreeSet::new(), "nothing is left");
    let refused = get_in(&home, &data, &link, &["-o", "x", "--max-files", "40000"]);
    fails(&refused, 12, "more than the 40000 that may come");
    let refused = get_in(&home, &data, &link, &["-o", "x", "--json"]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    let last: Value = serde_json::from_str(told.lines().last().expect("a line")).expect("json");
    assert_eq!(last["error"]["kind"], "excess", "{told}");
    assert_eq!(names_in(&home), BTreeSet::new(), "nothing is left");

    let target = home.join("asked");
    let asked = ["--no-color", "get", link.as_str(), "-o", utf8(&target)];
    if let Some((output, shown)) = on_a_terminal("say:n", &data, &asked) {
        assert_eq!(output.status.code(), Some(12), "{shown}");
        assert!(shown.contains("Write it all the same? [y/N] "), "{shown}");
        assert!(!target.exists());
        let (output, shown) = on_a_terminal("say:y", &data, &asked).expect("it ran");
        assert_eq!(output.status.code(), Some(0), "{shown}");
    }
    if !target.exists() {
        let wanted = get_in(&home, &data, &link, &["-o", "asked", "--yes"]);
        assert_eq!(wanted.status.code(), Some(0));
    }
    assert_eq!(entries_below(&target), WIDTH * WIDTH + WIDTH);
}

#[test]
fn a_stranger_chooses_no_name_that_means_something() {
    let dir = tempfile::tempdir().expect("a directory");
    let (data, home) = (dir.path().join("data"), dir.path().join("home"));
    fs::create_dir(&home).expect("made");
    for name in [".ssh", "bin", "-rf", "~", "a\nb", "Desktop.ini"] {
        let root = dir.path().join("from").join(name);
        fs::create_dir_all(&root).expect("made");
        fs::write(root.join("authorized_keys"), b"a key").expect("written");
        let put = json(&data, &["put", "--no-serve", utf8(&root)]);
        let link = put["link"].as_str().expect("a link");
        let refused = get_in(&home, &data, link, &[]);
        fails(&refused, 2, "is not taken from a bundle");
        fails(&refused, 2, "-o NAME");
        assert_eq!(names_in(&home), BTreeSet::new(), "{name}");
    }
}

#[test]
fn a_private_put_has_no_block_in_common_with_any_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let (data, file) = (dir.path().join("data"), dir.path().join("file"));
    let content = noise(1, 3 << 20);
    fs::write(&file, &content).expect("written");
    let node = Node::start(&data, &[]);
    let blocks = || -> BTreeSet<String> {
        let listed = node.json(&["block", "ls"])["blocks"].clone();
        let listed = listed.as_array().expect("a list").iter();
        listed
            .map(|block| block["id"].as_str().expect("an id").to_owned())
            .collect()
    };
    let put = |flags: &[&str]| {
        let args = [&["put", utf8(&file)], flags].concat();
        let before = blocks();
        let link = node.json(&args)["link"]
            .as_str()
            .expect("a link")
            .to_owned();
        let new: BTreeSet<String> = blocks().difference(&before).cloned().collect();
        (link, new.len())
    };
    let (public, all) = put(&[]);
    assert_eq!(put(&[]), (public.clone(), 0), "the same for everybody");
    let (first, of_first) = put(&["--private"]);
    let (second, of_second) = put(&["--private"]);
    assert!(first != public && second != public && first != second);
    assert!(all > 1 && of_first > 1 && of_second > 1);
    let out = dir.path().join("out");
    node.json(&["get", &first, "-o", utf8(&out)]);
    assert_eq!(fs::read(&out).expect("there"), content);
}

#[test]
#[cfg(target_os = "linux")]
fn a_node_leaves_no_core_dumps() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(dir.path(), &[]);
    let limits = fs::read_to_string(format!("/proc/{}/limits", node.pid())).expect("readable");
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let words: Vec<&str> = core.expect("a limit").split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"], "{limits}");
}
