//! Backups that stay, when they were made, and how well they are kept: commands never overstate it.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::process::{Node, fails, json, libernet, run};
use crate::rings::utf8;

/// An owner's data directory with nothing in it, and a directory to back up.
struct Home {
    dir: tempfile::TempDir,
    data: std::path::PathBuf,
}

impl Home {
    fn new(init: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (data, words) = (dir.path().join("data"), dir.path().join("words"));
        let args = [
            "init",
            "--yes",
            "--name",
            "desk",
            "--words-out",
            utf8(&words),
        ];
        json(&data, &[&args, init].concat());
        let home = Self { dir, data };
        for name in ["a", "b"] {
            let path = home.path(name);
            std::fs::create_dir(&path).expect("made");
            std::fs::write(Path::new(&path).join("file"), name).expect("written");
        }
        home
    }

    fn path(&self, name: &str) -> String {
        utf8(&self.dir.path().join(name)).to_owned()
    }

    fn json(&self, args: &[&str]) -> Value {
        json(&self.data, args)
    }

    fn run(&self, args: &[&str]) -> Output {
        run(&self.data, args)
    }

    fn count(&self, args: &[&str]) -> usize {
        let listed = self.json(&[&["snapshots"], args].concat());
        listed["snapshots"].as_array().expect("a list").len()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn rules_never_forget_all_that_there_is() {
    let home = Home::new(&[]);
    for name in ["a", "a", "b"] {
        home.json(&["backup", &home.path(name), "--tag", "nightly"]);
    }
    let mistyped = home.run(&["forget", "--keep-tag", "nihgtly"]);
    fails(
        &mistyped,
        4,
        "no snapshot that was judged has the tag 'nihgtly'",
    );
    assert!(stderr(&mistyped).contains("nothing is forgotten"));
    assert_eq!(home.count(&[]), 3);
    let nothing = ["forget", "--keep-last", "1", "--set", "homw"];
    fails(&home.run(&nothing), 4, "there is no set 'homw'");
    let untagged = ["forget", "--keep-last", "1", "--tag", "daily"];
    fails(
        &home.run(&untagged),
        4,
        "there is no tag 'daily': the only one is nightly",
    );
    // Paths given by hand are judged by themselves, what a tag chooses together.
    let by_paths = home.json(&["forget", "--keep-last", "1", "--dry-run"]);
    assert_eq!(by_paths["forgotten"].as_array().map(Vec::len), Some(1));
    let one_group = [
        "forget",
        "--keep-last",
        "1",
        "--group-by",
        "machine",
        "--dry-run",
    ];
    assert_eq!(
        home.json(&one_group)["forgotten"].as_array().map(Vec::len),
        Some(2)
    );
    let tagged = home.run(&["forget", "--keep-last", "1", "--tag", "nightly"]);
    fails(&tagged, 0, "of 3 snapshots: 1 kept, 2 forgotten");
    let bare = format!("no snapshot of {} is left", home.path("a"));
    assert!(stderr(&tagged).contains(&bare), "{}", stderr(&tagged));
}

#[test]
fn a_set_is_the_same_set_after_it_was_edited() {
    let home = Home::new(&[]);
    let (a, b) = (home.path("a"), home.path("b"));
    home.json(&["backup", "add", &a, "--name", "docs"]);
    home.json(&["backup", "--set", "docs"]);
    home.json(&["backup", "remove", "docs"]);
    home.json(&["backup", "add", &a, &b, "--name", "docs"]);
    home.json(&["backup", "--set", "doc"]);
    home.json(&["forget", "--set", "do", "--keep-last", "1"]);
    assert_eq!(home.count(&["--set", "docs"]), 1);
}

#[test]
fn latest_is_the_latest_of_what_was_asked_for() {
    let home = Home::new(&[]);
    let (a, b) = (home.path("a"), home.path("b"));
    home.json(&["backup", "add", &a, "--name", "docs", "--tag", "mine"]);
    let docs = home.json(&["backup"]);
    let by_hand = home.json(&["backup", &b]);
    let latest = |which: &[&str]| {
        let args = [
            "restore",
            "latest",
            "--dry-run",
            "--target",
            &home.path("out"),
        ];
        home.json(&[&args, which].concat())["snapshot"].clone()
    };
    assert_eq!(latest(&[]), by_hand["snapshot"]);
    for which in [
        &["--set", "docs"][..],
        &["--tag", "mine"],
        &["--machine", "desk", "--path", &a],
        &["--path", &format!("{a}/file")],
    ] {
        assert_eq!(latest(which), docs["snapshot"], "{which:?}");
        assert_eq!(home.count(which), 1, "{which:?}");
    }
    let none = home.run(&[
        "restore",
        "latest",
        "--set",
        "dosc",
        "--target",
        &home.path("out"),
    ]);
    fails(&none, 4, "there is no set 'dosc': the only one is docs");
    let none = home.run(&["snapshots", "--set", "docs", "--path", &b]);
    fails(&none, 4, "no snapshot of the set 'docs' and that holds");
}

#[test]
fn the_zone_of_a_container_is_heeded_and_an_unknown_one_named_once() {
    let home = Home::new(&[]);
    home.json(&["backup", &home.path("a")]);
    let with_zone = |zone: &str, args: &[&str]| {
        let mut command: Command = libernet();
        command
            .env("TZ", zone)
            .arg("--data-dir")
            .arg(&home.data)
            .args(args);
        command.output().expect("the binary runs")
    };
    let snapshots = |zone: &str| -> Value {
        let output = with_zone(zone, &["snapshots", "--json"]);
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    let readable = |zone: &str| {
        let time = snapshots(zone)["snapshots"][0]["time_rfc3339"].clone();
        time.as_str().expect("a text").to_owned()
    };
    let (utc, delhi) = (readable("UTC"), readable("Asia/Kolkata"));
    assert!(
        utc.ends_with("+00:00") && delhi.ends_with("+05:30"),
        "{utc} {delhi}"
    );
    let instants = [&utc, &delhi].map(|text| text.parse::<jiff::Timestamp>().expect("RFC 3339"));
    assert_eq!(instants[0], instants[1]);
    let table = with_zone("Asia/Kolkata", &["snapshots"]);
    let shown = delhi[..16].replace('T', " ");
    let text = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(text.contains(&shown), "{shown} is not in {text}");
    let unknown = with_zone("Europe/Atlantis", &["snapshots"]);
    let said = stderr(&unknown);
    assert_eq!(
        said.matches("TZ=Europe/Atlantis is not known").count(),
        1,
        "{said}"
    );
    assert_eq!(readable("Europe/Atlantis"), utc);
}

#[test]
fn a_backup_that_nobody_else_has_says_so() {
    let home = Home::new(&[]);
    let never = home.run(&["health"]);
    fails(&never, 3, "");
    assert!(String::from_utf8_lossy(&never.stdout).contains("nothing is backed up"));
    let done = home.run(&["backup", &home.path("a")]);
    fails(&done, 0, "on this disk only: nobody else has a copy");
    let health = home.run(&["health"]);
    fails(&health, 0, "");
    let text = String::from_utf8_lossy(&health.stdout).into_owned();
    assert!(text.contains("(no set): on this disk only"), "{text}");
    assert!(text.contains("last backup"), "{text}");
    // Two copies were asked for, and there is nobody to make them.
    let asked = home.run(&["backup", &home.path("a"), "--copies", "2"]);
    fails(&asked, 0, "on this disk only so far, 0 of 2 copies");
    fails(&home.run(&["health"]), 3, "");
}

#[test]
fn a_set_that_cannot_run_is_shown_wherever_sets_are() {
    let home = Home::new(&[]);
    let a = home.path("a");
    home.json(&["backup", "add", &a, "--name", "docs"]);
    let of_docs = |args: &[&str]| {
        let output = home.run(args);
        let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (value["sets"][0].clone(), output.status.code())
    };
    let (never, code) = of_docs(&["health", "--json"]);
    assert_eq!((&never["never"], code), (&Value::Bool(true), Some(3)));
    home.json(&["backup"]);
    let (made, code) = of_docs(&["health", "doc", "--json"]);
    assert_eq!(code, Some(0), "{made}");
    assert!(
        made["last_backup"].is_u64() && made["problem"].is_null(),
        "{made}"
    );
    std::fs::rename(&a, home.path("elsewhere")).expect("renamed");
    let gone = format!("the path {a} is not there");
    let (health, code) = of_docs(&["health", "--json"]);
    assert_eq!((&health["problem"], code), (&Value::from(&*gone), Some(3)));
    fails(&home.run(&["backup", "list"]), 0, &gone);
    let (listed, _) = of_docs(&["backup", "list", "--json"]);
    assert_eq!(listed["problem"], gone.as_str());
    fails(
        &home.run(&["health", "photos"]),
        4,
        "there is no set 'photos': the only one is docs",
    );
}

#[test]
fn a_node_that_needs_the_passphrase_says_which_sets_wait_for_it() {
    let other = tempfile::tempdir().expect("a directory");
    let pass = other.path().join("pass");
    std::fs::write(&pass, "several random words here").expect("written");
    let unlock = ["--passphrase-file", utf8(&pass)];
    let home = Home::new(&unlock);
    let a = home.path("a");
    home.json(&[
        "backup",
        "add",
        &a,
        "--name",
        "docs",
        "--schedule",
        "every 6h",
    ]);
    let node = Node::start(&home.data, &[]);
    let health = node.run(&["health"]);
    fails(&health, 3, "");
    let text = String::from_utf8_lossy(&health.stdout).into_owned();
    assert!(
        text.contains("NOT RUNNING: the passphrase is needed"),
        "{text}"
    );
    fails(
        &node.run(&["backup", "list"]),
        0,
        "the passphrase is needed",
    );
    let backup = ["backup", "--set", "docs"];
    fails(
        &node.run(&[&backup[..], &unlock].concat()),
        0,
        "on this disk only",
    );
    fails(&node.run(&["health"]), 0, "");
    node.stop();
}

#[test]
fn pins_are_let_go_of_by_name() {
    let home = Home::new(&[]);
    let link = home.json(&["put", &home.path("a"), "--name", "garden club"])["link"].clone();
    let link = link.as_str().expect("a link").to_owned();
    let names = |home: &Home| -> Vec<Value> {
        let pins = home.json(&["pin", "ls"])["pins"].clone();
        pins.as_array()
            .expect("a list")
            .iter()
            .map(|pin| pin["name"].clone())
            .collect()
    };
    assert_eq!(names(&home), ["garden club"]);
    fails(
        &home.run(&["pin", "rm", "gerden"]),
        4,
        "there is no pin 'gerden'",
    );
    let torn = &link[..link.len() - 4];
    fails(&home.run(&["pin", "rm", torn]), 2, "");
    home.json(&["pin", "rm", "garden"]);
    assert!(names(&home).is_empty());
}
