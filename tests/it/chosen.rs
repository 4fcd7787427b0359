//! Paths that are taken and chosen: named paths, patterns, names that are not text, and libernet's
//! own directories; with the real binary.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

use crate::process::{Node, fails, json, libernet, run};

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn utf8(path: &Path) -> &str {
    path.to_str().expect("utf-8")
}

/// A data directory with an owner, and a directory for files.
struct Room {
    _dir: tempfile::TempDir,
    at: PathBuf,
    data: PathBuf,
    files: PathBuf,
}

impl Room {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let at = dir.path().canonicalize().expect("there");
        let room = Self {
            data: at.join("data"),
            files: at.join("files"),
            at,
            _dir: dir,
        };
        std::fs::create_dir(&room.files).expect("made");
        room.init();
        room
    }

    fn init(&self) {
        let words = self.at.join("words");
        json(&self.data, &["init", "--yes", "--words-out", utf8(&words)]);
    }

    fn write(&self, name: impl AsRef<OsStr>, content: &str) -> PathBuf {
        let path = self.files.join(name.as_ref());
        std::fs::create_dir_all(path.parent().expect("one")).expect("made");
        std::fs::write(&path, content).expect("written");
        path
    }

    fn run(&self, args: &[&str]) -> Output {
        run(&self.data, args)
    }

    fn json(&self, args: &[&str]) -> Value {
        json(&self.data, args)
    }

    /// Runs a command in the directory of the files; arguments need not be text.
    fn run_here<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        let mut command = libernet();
        command.current_dir(&self.files).arg("--data-dir");
        command.arg(&self.data).args(args);
        command.output().expect("the binary runs")
    }
}

fn said(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"))
}

#[test]
fn a_home_that_holds_the_data_directory_is_backed_up_without_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let home = dir.path().canonicalize().expect("there");
    std::fs::write(home.join("doc"), "mine").expect("written");
    let data = home.join(".local/share/libernet");
    let words = home.join("words");
    json(&data, &["init", "--yes", "--words-out", utf8(&words)]);
    // Another one, of a node that is not this.
    let other = home.join("old disk/libernet");
    json(&other, &["put", utf8(&home.join("doc"))]);
    let first = json(&data, &["backup", utf8(&home)]);
    assert_eq!(first["files"], 2, "{first}");
    let left_out = first["left_out"].as_array().expect("a list");
    let left_out: Vec<&str> = left_out.iter().map(|left| text(&left["path"])).collect();
    assert_eq!(left_out, [utf8(&data), utf8(&other)]);
    for _ in 0..2 {
        let again = json(&data, &["backup", utf8(&home)]);
        assert_eq!(again["files"], 2);
        // No content: at most a tree block, as the time of a directory above may have changed.
        assert!(again["new_bytes"].as_u64() < Some(10_000), "{again}");
    }
    let keys = run(&data, &["find-file", "*.key"]);
    fails(&keys, 4, "no file of that name");
    let told = run(&data, &["backup", utf8(&home)]);
    let stderr = String::from_utf8_lossy(&told.stderr);
    assert_eq!(stderr.matches("libernet's own data").count(), 2, "{stderr}");
    // Nor behind the link of a put.
    let put = json(&data, &["put", utf8(&home)]);
    assert_eq!(
        (&put["files"], &put["unreadable"]),
        (&2.into(), &serde_json::json!([]))
    );
    // Named on purpose it is refused with words.
    for (verb, path) in [
        ("backup", &data),
        ("put", &other),
        ("put", &data.join("owner.key")),
    ] {
        fails(
            &run(&data, &[verb, utf8(path)]),
            2,
            "libernet's own data directory",
        );
    }
    let tag = std::fs::read_to_string(data.join("store/CACHEDIR.TAG")).expect("there");
    assert!(tag.starts_with("Signature: 8a477f597d28d172789f06886806bc55\n"));
}

#[test]
fn patterns_mean_the_working_directory_and_are_named_when_they_match_nothing() {
    let room = Room::new();
    room.write("sub/tmp/junk", "1");
    room.write("sub/keep/f", "2");
    for pattern in ["sub/tmp", "./sub/tmp", "sub/tmp/", "../files/sub/tmp"] {
        let done = said(&room.run_here(&["backup", ".", "--exclude", pattern, "--json"]));
        assert_eq!(
            (&done["excluded"], &done["files"]),
            (&1.into(), &1.into()),
            "{pattern}"
        );
        assert_eq!(done["unmatched"], serde_json::json!([]));
    }
    let wrong = room.run_here(&["backup", ".", "--exclude", "sbu/tmp", "--exclude", "junk"]);
    assert!(wrong.status.success());
    let stderr = String::from_utf8_lossy(&wrong.stderr);
    let named = format!("'{}' matched nothing", utf8(&room.files.join("sbu/tmp")));
    assert!(
        stderr.contains(&named) && !stderr.contains("junk"),
        "{stderr}"
    );
    // A named path is taken whatever is left out.
    let named = room.run_here(&["backup", ".", "sub/tmp", "--exclude", "sub", "--json"]);
    assert_eq!(said(&named)["files"], 1);
}

#[test]
fn what_is_restored_is_chosen_from_what_was_backed_up() {
    let room = Room::new();
    room.write("docs/sub/a.txt", "1");
    room.write("other/b", "2");
    room.json(&["backup", utf8(&room.files)]);
    let target = room.at.join("out");
    let restore = |name: &str, snapshot: &str, pattern: &str| {
        let target = target.with_extension(name);
        let args = [
            "restore",
            snapshot,
            "--target",
            utf8(&target),
            "--include",
            pattern,
        ];
        (room.run(&args), target)
    };
    let (done, whole) = restore("1", "latest", "docs/sub/*.txt");
    assert!(done.status.success());
    let below = |target: &Path, path: &Path| target.join(path.strip_prefix("/").expect("absolute"));
    assert!(below(&whole, &room.files.join("docs/sub/a.txt")).exists());
    assert!(!below(&whole, &room.files.join("other")).exists());
    let part = format!("latest:{}", utf8(&room.files));
    let (done, target) = restore("2", &part, "docs/sub/a.txt");
    assert!(done.status.success() && target.join("docs/sub/a.txt").exists());
    let (nothing, _) = restore("3", &part, "dosc/*.txt");
    fails(&nothing, 4, "nothing in the snapshot matches 'dosc/*.txt'");
    let tar = room.run(&["restore", &part, "--tar", "-", "--include", "nothing"]);
    fails(&tar, 4, "nothing in the snapshot matches 'nothing'");
    assert_eq!(
        room.json(&["find-file", "sub/a.txt"])["matches"][0]["bytes"],
        1
    );
}

#[test]
fn a_path_through_a_symlink_finds_what_was_backed_up_by_it() {
    let room = Room::new();
    room.write("real/f", "content");
    let link = room.files.join("current");
    std::os::unix::fs::symlink("real", &link).expect("made");
    let noise = link.join("none/of/this");
    let args = ["backup", utf8(&link), "--exclude", utf8(&noise)];
    assert_eq!(room.json(&args)["files"], 1);
    let through = link.join("f");
    let done = room.run(&["backup", utf8(&link), "--exclude", utf8(&through), "--json"]);
    assert_eq!(said(&done)["excluded"], 1);
    room.json(&args);
    let cat = room.run(&["cat", &format!("latest:{}", utf8(&through))]);
    assert_eq!(cat.stdout, b"content");
    let target = room.at.join("out");
    let snapshot = format!("latest:{}", utf8(&link));
    room.json(&["restore", &snapshot, "--target", utf8(&target)]);
    assert!(target.join("f").exists());
    let target = room.at.join("some");
    room.json(&[
        "restore",
        "latest",
        "--target",
        utf8(&target),
        "--include",
        utf8(&through),
    ]);
    let real = room.files.join("real/f");
    assert!(
        target
            .join(real.strip_prefix("/").expect("absolute"))
            .exists()
    );
}

#[test]
fn nothing_taken_is_no_success() {
    let room = Room::new();
    let path = room.files.join("socket");
    let _socket = std::os::unix::net::UnixListener::bind(&path).expect("bound");
    fails(&room.run(&["backup", utf8(&path)]), 1, "it is a socket");
    assert_eq!(
        room.json(&["snapshots"])["snapshots"],
        serde_json::json!([])
    );
}

#[test]
fn names_that_are_not_text_are_taken_found_and_told_apart() {
    let room = Room::new();
    let bytes = |name: &[u8]| room.files.join(OsStr::from_bytes(name));
    for (name, content) in [
        (&b"n\xe4"[..], "1"),
        (b"n\xf6", "2"),
        (b"n\\xe4", "3"),
        (b"end ", "4"),
    ] {
        std::fs::write(bytes(name), content).expect("written");
    }
    room.json(&["backup", utf8(&room.files)]);
    let cat = |name: &[u8]| {
        let mut what = std::ffi::OsString::from("latest:");
        what.push(bytes(name));
        room.run_here(&[OsStr::new("cat"), &what]).stdout
    };
    assert_eq!(
        (cat(b"n\xe4"), cat(b"n\xf6")),
        (b"1".to_vec(), b"2".to_vec())
    );
    assert_eq!(
        (cat(b"n\\xe4"), cat(b"end ")),
        (b"3".to_vec(), b"4".to_vec())
    );
    let found = room.json(&["find-file", "n*"]);
    let found = found["matches"].as_array().expect("a list").clone();
    let names: std::collections::BTreeSet<String> = found
        .iter()
        .map(|found| format!("{} {}", found["path"], found["path_hex"]))
        .collect();
    assert_eq!((found.len(), names.len()), (3, 3), "{names:?}");
    let found = room.run_here(&[&b"find-file"[..], b"n\xf6", b"--json"].map(OsStr::from_bytes));
    let found = said(&found)["matches"].as_array().expect("a list").clone();
    assert_eq!(found.len(), 1);
    assert!(text(&found[0]["path"]).ends_with("/n\\xf6"), "{}", found[0]);
    // Left out, and restored alone, by the name that the shell gives.
    let args = [&b"backup"[..], b".", b"--exclude", b"n\xe4", b"--json"];
    let done = said(&room.run_here(&args.map(OsStr::from_bytes)));
    assert_eq!((&done["excluded"], &done["files"]), (&1.into(), &3.into()));
    let snapshot = format!("latest:{}", utf8(&room.files));
    let target = room.at.join("out");
    let args = ["restore", &snapshot, "--target", utf8(&target), "--include"];
    let mut args: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
    args.push(OsStr::from_bytes(b"n\xf6"));
    assert!(room.run_here(&args).status.success());
    let restored: Vec<_> = std::fs::read_dir(&target).expect("there").collect();
    assert_eq!(restored.len(), 1);
    assert!(target.join(OsStr::from_bytes(b"n\xf6")).exists());
}

/// The status and the body of an answer to `GET`, redirections followed.
fn get(base: &str, path: &str) -> (u16, String) {
    let host = base.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).expect("it listens");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )
    .expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("answered");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    let status: u16 = head[9..12].parse().expect("a status");
    let location = head
        .lines()
        .find_map(|line| line.strip_prefix("location: "));
    match location {
        Some(location) if (300..400).contains(&status) => get(base, location),
        _ => (status, body.to_owned()),
    }
}

#[test]
fn links_of_a_listing_lead_to_any_name_and_through_symlinks() {
    let room = Room::new();
    std::fs::write(room.files.join(OsStr::from_bytes(b"n\xe4 ")), "strange").expect("written");
    room.write("real/deep/f", "inside");
    std::os::unix::fs::symlink("real", room.files.join("l")).expect("made");
    std::os::unix::fs::symlink("/etc", room.files.join("out")).expect("made");
    std::os::unix::fs::symlink("../../etc", room.files.join("up")).expect("made");
    let node = Node::start(&room.data, &[]);
    let put = node.json(&["put", utf8(&room.files)]);
    let link = text(&put["link"]);
    let path = link
        .parse::<libernet::block::Link>()
        .expect("a link")
        .to_path();
    let base = node.http.clone();
    let (_, listing) = get(&base, &format!("{path}/"));
    let href = listing
        .split("href=\"./")
        .find(|rest| rest.starts_with("n%"));
    let href = href
        .and_then(|rest| rest.split('"').next())
        .expect("it is listed");
    let body = |rest: &str| get(&base, &format!("{path}/{rest}"));
    assert_eq!(body(href), (200, "strange".to_owned()), "{href}");
    assert_eq!(body("l/deep/f"), (200, "inside".to_owned()));
    assert!(body("l").1.contains("deep/"));
    for outside in ["out/hostname", "up/hostname", "out", "up"] {
        assert_eq!(body(outside).0, 404, "{outside}");
    }
    assert_eq!(
        node.run(&["cat", &format!("{link}/l/deep/f")]).stdout,
        b"inside"
    );
    fails(
        &node.run(&["cat", &format!("{link}/out/hostname")]),
        2,
        "there is no",
    );
    node.stop();
}

/// `latest` of what was asked for, as everywhere.
#[test]
fn a_comparison_chooses_among_the_snapshots_of_a_set() {
    let room = Room::new();
    let (one, two) = (room.write("one/f", "1"), room.write("two/g", "2"));
    let (one, two) = (one.parent().expect("one"), two.parent().expect("two"));
    json(&room.data, &["backup", "add", utf8(one), "--name", "first"]);
    json(
        &room.data,
        &["backup", "add", utf8(two), "--name", "second"],
    );
    let made = json(&room.data, &["backup", "--set", "first"]);
    let id = text(&made["snapshot"]).to_owned();
    room.write("one/new", "3");
    json(&room.data, &["backup", "--set", "first"]);
    json(&room.data, &["backup", "--set", "second"]);
    let diff = json(&room.data, &["diff", &id, "latest", "--set", "first"]);
    assert_eq!(
        (&diff["added"], &diff["removed"]),
        (&1.into(), &0.into()),
        "{diff}"
    );
    let path = ["diff", &id, "latest", "--path", utf8(one)];
    assert_eq!(json(&room.data, &path)["changes"], diff["changes"]);
    let none = room.run(&["diff", &id, "latest", "--set", "third"]);
    fails(&none, 4, "third");
    let link = json(&room.data, &["snapshots"])["snapshots"][0]["link"].clone();
    let links = room.run(&["diff", text(&link), text(&link), "--set", "first"]);
    fails(&links, 2, "nothing to choose");
}
