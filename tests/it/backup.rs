//! Backups as a user makes, keeps and restores them, with real processes and real sockets.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use crate::process::{Node, fails, json, libernet, run};
use crate::sample::{assert_same, make_tree, noise};

/// Any twelve words that are an owner's, and nobody's.
const OTHER_WORDS: &str = "zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo wrong";

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

fn utf8(path: &Path) -> &str {
    path.to_str().expect("utf-8")
}

/// Makes an owner in `data`; gives the file of its words.
fn init(data: &Path, words: &Path) -> Value {
    let made = json(data, &["init", "--yes", "--words-out", utf8(words)]);
    let mode = words.metadata().expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    made
}

/// Where the tree of `source` is below a target that a whole snapshot was restored to.
fn below(target: &Path, source: &Path) -> PathBuf {
    target.join(source.strip_prefix("/").expect("absolute"))
}

#[test]
fn a_tree_is_backed_up_changed_found_and_restored() {
    let dir = tempfile::tempdir().expect("a directory");
    let (data, source) = (dir.path().join("data"), dir.path().join("source"));
    let words = dir.path().join("words");
    make_tree(&source);
    init(&data, &words);
    let node = Node::start(&data, &[]);

    let first = node.json(&["backup", utf8(&source), "--tag", "one"]);
    assert_eq!(first["unreadable"], serde_json::json!([]));
    assert!(first["files"].as_u64() > Some(300), "{first}");
    let first_id = text(&first["snapshot"]).to_owned();
    let listed = node.json(&["snapshots"]);
    assert_eq!(listed["snapshots"][0]["snapshot"], first["snapshot"]);
    assert_eq!(listed["snapshots"][0]["tags"], serde_json::json!(["one"]));
    assert_eq!(listed["machines"][0]["missing"], Value::Null);

    // A dry run says what would be done and does nothing.
    let dry = node.json(&["backup", utf8(&source), "--dry-run"]);
    assert_eq!((&dry["snapshot"], &dry["link"]), (&"".into(), &Value::Null));

    std::fs::write(source.join("notes.txt"), b"new").expect("written");
    std::fs::write(source.join("src/module0/file0.rs"), b"changed").expect("written");
    std::fs::remove_file(source.join("empty")).expect("removed");
    let second = node.json(&["backup", utf8(&source)]);
    let second_id = text(&second["snapshot"]).to_owned();
    assert_ne!(first_id, second_id);
    assert!(second["new_bytes"].as_u64() < Some(1_000_000), "{second}");
    // Files that were made a moment before the first backup are read again, so how many are told as unchanged depends on the clock.
    assert!(second["unchanged"].is_u64(), "{second}");

    let at = |name: &str, rest: &str| format!("{name}:{}/{rest}", utf8(&source));
    let names = node.json(&["ls", &at("latest", "")]);
    assert!(names.to_string().contains("notes.txt"), "{names}");
    let names = node.json(&["ls", &at(&first_id[..8], "")]);
    assert!(!names.to_string().contains("notes.txt"), "{names}");
    assert_eq!(
        node.run(&["cat", &at("latest", "notes.txt")]).stdout,
        b"new"
    );
    let diff = node.json(&["diff", &first_id[..8], "latest"]);
    let changes = diff["changes"].to_string();
    for (change, name) in [
        ("added", "notes.txt"),
        ("content", "src/module0/file0.rs"),
        ("removed", "empty"),
    ] {
        let wanted = format!("{}/{name}", utf8(&source));
        let is_it = |c: &Value| c["change"] == change && c["path"] == wanted.as_str();
        let all = diff["changes"].as_array().expect("a list");
        assert!(all.iter().any(is_it), "{change} {wanted}: {changes}");
    }
    let found = node.json(&["find-file", "notes.txt"]);
    assert_eq!(
        found["matches"].as_array().map(Vec::len),
        Some(1),
        "{found}"
    );
    assert_eq!(found["matches"][0]["snapshot"], second["snapshot"]);
    fails(&node.run(&["find-file", "no such file"]), 4, "no file");

    restores(&node, &source, &first_id, dir.path());
    forgets(&node, &source, &first_id, dir.path());
    node.stop();
}

/// Everything, a part, again, and as an archive.
fn restores(node: &Node, source: &Path, first: &str, dir: &Path) {
    let target = dir.join("whole");
    let restored = node.json(&["restore", "latest", "--target", utf8(&target), "--verify"]);
    assert_eq!(restored["verified"], true, "{restored}");
    assert_eq!(restored["missing"], serde_json::json!([]));
    assert_same(source, &below(&target, source));

    // Nothing to do the second time; what was changed comes back, what is not in the snapshot stays.
    let again = node.json(&["restore", "latest", "--target", utf8(&target)]);
    assert!(again["unchanged"].as_u64() > Some(300), "{again}");
    // Nobody looked into them.
    assert_eq!(again["verified"], false, "{again}");
    let script = below(&target, source).join("script");
    std::fs::write(&script, b"overwritten").expect("written");
    std::fs::write(target.join("mine"), b"mine").expect("written");
    let kept = node.json(&[
        "restore",
        "latest",
        "--target",
        utf8(&target),
        "--overwrite",
        "never",
    ]);
    assert!(kept["skipped"].as_u64() >= Some(1), "{kept}");
    assert_eq!(std::fs::read(&script).expect("read"), b"overwritten");
    node.json(&["restore", "latest", "--target", utf8(&target)]);
    assert_same(source, &below(&target, source));
    assert!(target.join("mine").exists());

    // A part goes straight into the target, a dry run nowhere.
    let part = dir.join("part");
    let name = format!("latest:{}/src", utf8(source));
    node.json(&["restore", &name, "--target", utf8(&part), "--dry-run"]);
    assert!(!part.exists());
    node.json(&["restore", &name, "--target", utf8(&part)]);
    assert!(part.join("module0/file0.rs").exists());
    let old = dir.join("old");
    let name = format!("{first}:{}", utf8(source));
    node.json(&[
        "restore",
        &name,
        "--target",
        utf8(&old),
        "--include",
        "script",
    ]);
    assert!(old.join("script").exists() && !old.join("large.bin").exists());

    let archive = dir.join("archive.tar");
    let name = format!("latest:{}", utf8(source));
    node.json(&["restore", &name, "--tar", utf8(&archive)]);
    fails(
        &node.run(&["restore", &name, "--tar", utf8(&archive)]),
        8,
        "exists",
    );
    let to_stdout = node.run(&["restore", &name, "--tar", "-"]);
    assert!(to_stdout.stdout == std::fs::read(&archive).expect("read"));
    let mut archive = tar::Archive::new(&to_stdout.stdout[..]);
    let entries = archive.entries().expect("an archive");
    let is_notes =
        |entry: tar::Entry<'_, &[u8]>| entry.path().expect("a path").ends_with("notes.txt");
    assert!(entries.map(|e| e.expect("an entry")).any(is_notes));

    for unknown in ["0000000000", "latest:/no/such/path"] {
        let output = node.run(&[
            "restore",
            unknown,
            "--target",
            utf8(&dir.join("none")),
            "--timeout",
            "2",
        ]);
        assert!(!output.status.success(), "{unknown}");
        fails(&output, output.status.code().expect("a code"), "");
    }
    fails(
        &node.run(&[
            "restore",
            "0000000000",
            "--target",
            utf8(&dir.join("none")),
            "--timeout",
            "2",
        ]),
        4,
        "0000000000",
    );
    fails(
        &node.run(&["restore", "newest", "--target", "x"]),
        2,
        "names no snapshot",
    );
}

/// Forgetting, giving back the space, and a check of what is left.
fn forgets(node: &Node, source: &Path, first: &str, dir: &Path) {
    // Bytes that only a forgotten snapshot has.
    let large = source.join("large.bin");
    std::fs::write(&large, noise(77, 3_000_000)).expect("written");
    let third = node.json(&["backup", utf8(source)]);
    fails(&node.run(&["forget"]), 2, "neither a rule");
    let dry = node.json(&["forget", "--keep-last", "1", "--dry-run"]);
    assert_eq!(dry["forgotten"].as_array().map(Vec::len), Some(2), "{dry}");
    assert_eq!(
        node.json(&["snapshots"])["snapshots"]
            .as_array()
            .map(Vec::len),
        Some(3)
    );
    let named = node.json(&["forget", &first[..8]]);
    assert_eq!(named["forgotten"][0]["snapshot"], first);
    let forgot = node.json(&["forget", "--keep-last", "1"]);
    assert_eq!(
        forgot["kept"][0]["snapshot"]["snapshot"], third["snapshot"],
        "{forgot}"
    );
    let left = node.json(&["snapshots"]);
    assert_eq!(left["snapshots"].as_array().map(Vec::len), Some(1));

    let would = node.json(&["prune", "--dry-run"]);
    let pruned = node.json(&["prune"]);
    assert!(pruned["freed_bytes"].as_u64() > Some(1_000_000), "{pruned}");
    assert_eq!(would["freed_bytes"], pruned["freed_bytes"]);
    assert_eq!(node.json(&["prune"])["freed_bytes"], 0);

    let checked = node.json(&["check", "--read-data"]);
    assert_eq!(checked["errors"], serde_json::json!([]), "{checked}");
    assert!(
        checked["read_bytes"].as_u64() > Some(3_000_000),
        "{checked}"
    );
    node.json(&["check", "--read-data-subset", "10%"]);
    let target = dir.join("after");
    let name = format!("latest:{}", utf8(source));
    node.json(&["restore", &name, "--target", utf8(&target)]);
    assert_same(source, &target);
}

#[test]
fn sets_are_added_backed_up_and_removed() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let source = dir.path().join("home");
    make_tree(&source);
    fails(&run(&data, &["backup"]), 2, "nothing to back up");
    json(
        &data,
        &[
            "backup",
            "add",
            utf8(&source),
            "--exclude",
            "*.bin",
            "--tag",
            "t",
            "--schedule",
            "every 6h",
            "--keep-last",
            "2",
        ],
    );
    fails(&run(&data, &["backup", "add", utf8(&source)]), 2, "already");
    let sets = json(&data, &["backup", "list"]);
    assert_eq!(sets["sets"][0]["name"], "home", "{sets}");
    assert_eq!(sets["sets"][0]["schedule"], "every 6h");
    let mode = data
        .join("backup.toml")
        .metadata()
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let units = run(&data, &["backup", "schedule", "--systemd"]);
    let units = String::from_utf8(units.stdout).expect("text");
    assert!(units.contains("OnCalendar=*-*-* 00/6:00:00"), "{units}");
    let cron = run(&data, &["backup", "schedule", "--cron"]);
    assert!(String::from_utf8_lossy(&cron.stdout).starts_with("0 */6 * * * "));

    init(&data, &dir.path().join("words"));
    let node = Node::start(&data, &[]);
    let made = node.json(&["backup", "--due"]);
    assert_eq!(made["set"], "home");
    let listed = node.json(&["snapshots"]);
    assert_eq!(listed["snapshots"][0]["tags"], serde_json::json!(["t"]));
    let names = node.json(&["ls", &format!("latest:{}", utf8(&source))]);
    assert!(
        !names.to_string().contains("\"name\":\"large.bin\""),
        "{names}"
    );
    // It was done a moment ago.
    assert!(node.run(&["backup", "--due", "--json"]).stdout.is_empty());
    node.json(&["backup", "--set", "home"]);
    node.json(&["backup", "remove", "home"]);
    assert_eq!(
        node.json(&["backup", "list"])["sets"],
        serde_json::json!([])
    );
    assert_eq!(
        node.json(&["snapshots"])["snapshots"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    node.stop();
}

#[test]
fn without_an_owner_or_with_other_words_there_is_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&dir.path().join("data"), &[]);
    let source = dir.path().join("file");
    std::fs::write(&source, b"content").expect("written");
    fails(&node.run(&["backup", utf8(&source)]), 4, "libernet init");
    fails(&node.run(&["snapshots"]), 4, "libernet init");
    fails(
        &node.run(&["forget", "--keep-last", "1"]),
        4,
        "libernet init",
    );

    let words = dir.path().join("words");
    let target = dir.path().join("target");
    let restore = |words: &str| {
        std::fs::write(dir.path().join("words"), words).expect("written");
        node.run(&[
            "restore",
            "latest",
            "--target",
            utf8(&target),
            "--phrase-file",
            utf8(&dir.path().join("words")),
            "--timeout",
            "2",
        ])
    };
    fails(&restore("zoo zoo"), 2, "12 words");
    fails(
        &restore(&OTHER_WORDS.replace("wrong", "zoo")),
        2,
        "belong together",
    );
    fails(&restore(OTHER_WORDS), 4, "");
    assert!(words.exists() && !target.exists());
    node.stop();
}

#[test]
fn a_passphrase_is_needed_and_given_by_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let (source, pass, wrong) = (
        dir.path().join("file"),
        dir.path().join("pass"),
        dir.path().join("wrong"),
    );
    std::fs::write(&source, b"content").expect("written");
    std::fs::write(&pass, b"correct horse\n").expect("written");
    std::fs::write(&wrong, b"battery staple\n").expect("written");
    let words = dir.path().join("words");
    json(
        &data,
        &[
            "init",
            "--yes",
            "--words-out",
            utf8(&words),
            "--passphrase-file",
            utf8(&pass),
        ],
    );
    let node = Node::start(&data, &[]);
    fails(
        &node.run(&["backup", utf8(&source)]),
        2,
        "--passphrase-file",
    );
    fails(
        &node.run(&["backup", utf8(&source), "--passphrase-file", utf8(&wrong)]),
        5,
        "passphrase",
    );
    node.json(&["backup", utf8(&source), "--passphrase-file", utf8(&pass)]);
    let at = format!("latest:{}", utf8(&source));
    let cat = node.run(&["cat", &at, "--passphrase-file", utf8(&pass)]);
    assert_eq!(cat.stdout, b"content");
    // The words do without it.
    let listed = node.json(&["snapshots", "--phrase-file", utf8(&words)]);
    assert_eq!(listed["snapshots"].as_array().map(Vec::len), Some(1));
    node.stop();
}

#[test]
fn twelve_words_bring_everything_back_when_the_machine_is_gone() {
    let dir = tempfile::tempdir().expect("a directory");
    let source = dir.path().join("source");
    make_tree(&source);
    let words = dir.path().join("words");
    let data = dir.path().join("a");
    init(&data, &words);
    let a = Node::start(&data, &[]);
    let b = Node::start(&dir.path().join("b"), &[&a.addresses[0]]);
    let c = Node::start(&dir.path().join("c"), &[&a.addresses[0], &b.addresses[0]]);
    a.json(&["backup", utf8(&source)]);

    // Nobody else has it yet, and the rehearsal says so.
    let drill = a.run(&[
        "drill",
        "--phrase-file",
        utf8(&words),
        "--timeout",
        "3",
        "--json",
    ]);
    fails(&drill, 4, "");
    let listed = a.json(&["snapshots"]);
    let link = text(&listed["snapshots"][0]["link"]);
    for holder in [&b, &c] {
        let pinned = holder.json(&["pin", "add", link]);
        assert_eq!(pinned["missing"], serde_json::json!([]));
        // The owner's log is brought by a job of the holder's own, and pinned beside the snapshot.
        crate::rings::until("the holder keeps the log", || {
            let pins = holder.json(&["pin", "ls"]);
            (pins["pins"].as_array()?.len() >= 2).then_some(())
        });
    }
    let drill = a.json(&["drill", "--phrase-file", utf8(&words), "--files", "10"]);
    assert_eq!(
        (&drill["sampled"], &drill["restored"]),
        (&10.into(), &10.into()),
        "{drill}"
    );
    assert_eq!(drill["verified"], 10, "{drill}");
    let own = a.peer.clone();
    assert!(
        drill["from"]
            .as_array()
            .expect("a list")
            .iter()
            .all(|giver| giver["peer"] != own.as_str()),
        "{drill}"
    );

    assert_eq!(drill["behind"], Value::Null, "{drill}");

    // What this machine backed up alone is not with the others, and the rehearsal says so.
    a.stop();
    json(&data, &["backup", utf8(&source)]);
    let args = ["drill", "--phrase-file", utf8(&words), "--files", "10"];
    let with_b = ["--bootstrap", &b.addresses[0], "--json"];
    let behind = run(&data, &[&args[..], &with_b].concat());
    fails(&behind, 3, "would be lost with this machine");
    let report: Value = serde_json::from_slice(&behind.stdout).expect("JSON");
    assert!(report["behind"]["written"].as_u64() > report["behind"]["told"].as_u64());
    assert_eq!(report["restored"], 10, "{report}");

    std::fs::remove_dir_all(&data).expect("gone");
    let (fresh, target) = (dir.path().join("d"), dir.path().join("target"));
    // The words come by standard input, so that they are in no file of the new machine.
    let output = libernet()
        .arg("--data-dir")
        .arg(&fresh)
        .args([
            "restore",
            "latest",
            "--target",
            utf8(&target),
            "--phrase-file",
            "-",
            "--verify",
            "--json",
        ])
        .args(["--bootstrap", &b.addresses[0]])
        .stdin(Stdio::from(std::fs::File::open(&words).expect("open")))
        .output()
        .expect("it runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let restored: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(
        (&restored["verified"], &restored["missing_total"]),
        (&true.into(), &0.into())
    );
    assert_same(&source, &below(&target, &source));
    // What the words are is nowhere on the new machine, nor is an owner.
    assert!(!fresh.join("owner.key").exists());
    let phrase = std::fs::read_to_string(&words).expect("read");
    assert!(!stderr.contains(phrase.trim()));

    // One holder is enough.
    b.kill();
    let (fresh, target) = (dir.path().join("e"), dir.path().join("target2"));
    json(
        &fresh,
        &[
            "restore",
            "latest",
            "--target",
            utf8(&target),
            "--phrase-file",
            utf8(&words),
            "--bootstrap",
            &c.addresses[0],
        ],
    );
    assert_same(&source, &below(&target, &source));
    c.stop();
}
