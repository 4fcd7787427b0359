//! Tickets, names of bootstrap peers, peers that are remembered, and the doctor.

use std::os::unix::ffi::OsStrExt;

use serde_json::{Value, json};

use crate::process::{Node, fails, json, libernet, run, signal};
use crate::rings::until;

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

#[test]
fn a_ticket_is_enough_to_get_what_it_names() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("letter.txt");
    std::fs::write(&file, b"words").expect("written");
    let node = Node::start(&dir.path().join("a"), &[]);
    let put = node.json(&["put", file.to_str().expect("text"), "--reachable"]);
    let (link, ticket) = (text(&put["link"]), text(&put["ticket"]));
    assert!(
        ticket.bytes().all(|byte| byte.is_ascii_alphanumeric()),
        "{ticket}"
    );
    let at = put["reachable_at"].as_array().expect("a list");
    assert!(at.iter().all(|at| text(at).ends_with(&node.peer)), "{put}");
    let plain = node.json(&["put", file.to_str().expect("text")]);
    assert!(plain.get("ticket").is_none(), "{plain}");
    // With a node of its own, and with one that runs; neither knows anybody.
    let alone = dir.path().join("b");
    json(&alone, &["config", "set", "mdns", "false"]);
    let got = dir.path().join("got");
    let to = got.to_str().expect("text");
    let reply = json(&alone, &["get", ticket, "-o", to, "--timeout", "60"]);
    assert_eq!(reply["from"], json!([node.peer]), "{reply}");
    assert_eq!(std::fs::read(&got).expect("there"), b"words");
    let other = Node::start(&dir.path().join("c"), &[]);
    let listed = other.json(&["ls", ticket, "--timeout", "60"]);
    assert_eq!(listed["this"]["bytes"], 5, "{listed}");
    let cat = other.run(&["cat", ticket]);
    assert_eq!(cat.stdout, b"words");
    let pinned = other.json(&["pin", "add", &ticket.to_uppercase()]);
    assert!(pinned["blocks"].as_u64() > Some(0), "{pinned}");
    // What is cut is no ticket, and the key is not repeated.
    let cut = &ticket[..ticket.len() - 2];
    fails(&other.run(&["get", cut]), 2, "mistyped or cut");
    // The link in it is the one that was printed.
    let by_link = other.json(&["ls", link]);
    assert_eq!(by_link["this"], listed["this"]);
    node.stop();
    other.stop();
}

#[test]
fn a_ticket_whose_node_is_gone_is_told_and_the_link_in_it_still_counts() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("letter.txt");
    std::fs::write(&file, b"words").expect("written");
    let node = Node::start(&dir.path().join("a"), &[]);
    let put = node.json(&["put", file.to_str().expect("text"), "--reachable"]);
    let ticket = text(&put["ticket"]).to_owned();
    let keeper = Node::start(&dir.path().join("b"), &[&node.addresses[0]]);
    keeper.json(&["pin", "add", &ticket]);
    node.stop();
    let got = dir.path().join("got");
    let reader = Node::start(&dir.path().join("c"), &[&keeper.addresses[0]]);
    let output = reader.run(&["get", &ticket, "-o", got.to_str().expect("text")]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(std::fs::read(&got).expect("there"), b"words");
    let data = dir.path().join("d");
    json(&data, &["config", "set", "mdns", "false"]);
    let output = run(&data, &["get", &ticket, "--timeout", "5"]);
    fails(&output, 4, "could not be reached where it was");
    keeper.stop();
    reader.stop();
}

#[test]
fn bootstrap_peers_have_names() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&dir.path().join("a"), &[]);
    let port = node.addresses[0]
        .split('/')
        .nth(4)
        .expect("a port")
        .to_owned();
    for (number, name) in [
        format!("localhost:{port}"),
        format!("127.0.0.1:{port}"),
        format!("/dns4/localhost/tcp/{port}"),
        format!("/dns/localhost/tcp/{port}/p2p/{}", node.peer),
    ]
    .iter()
    .enumerate()
    {
        let data = dir.path().join(number.to_string());
        let mut other = Node::start(&data, &[name]);
        other.wait_for(|event| event["event"] == "peer_connected" && event["peer"] == node.peer);
        other.stop();
    }
    for wrong in ["nowhere", "a b:1", "host:0", "/dns4/"] {
        let data = dir.path().join("wrong");
        let mut up = libernet();
        up.arg("--data-dir").arg(&data);
        let output = up
            .args(["up", "--bootstrap", wrong])
            .output()
            .expect("runs");
        fails(&output, 2, "bootstrap");
    }
    node.stop();
}

#[test]
fn a_node_goes_to_the_peers_that_were_good_before_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let old = Node::start(&dir.path().join("a"), &[]);
    let data = dir.path().join("b");
    let node = Node::start(&data, &[&old.addresses[0]]);
    let file = data.join("peers.json");
    until("the peer is remembered", || file.exists().then_some(()));
    node.stop();
    let mut again = Node::start(&data, &[]);
    again.wait_for(|event| event["event"] == "peer_connected" && event["peer"] == old.peer);
    again.stop();
    // What is damaged keeps nobody from starting.
    for bytes in [
        &b"\xff{"[..],
        b"{\"version\":1,\"peers\":[{\"peer\":7}]}",
        b"",
    ] {
        std::fs::write(&file, bytes).expect("written");
        Node::start(&data, &[]).stop();
    }
    old.stop();
}

fn doctor(data: &std::path::Path) -> (Value, Option<i32>) {
    let output = run(data, &["doctor", "--json"]);
    let value = serde_json::from_slice(&output.stdout).expect("JSON");
    (value, output.status.code())
}

fn check<'a>(told: &'a Value, id: &str) -> &'a Value {
    let checks = told["checks"].as_array().expect("a list");
    let found = checks.iter().find(|check| check["id"] == id);
    found.unwrap_or_else(|| panic!("no {id} in {told}"))
}

#[test]
fn the_doctor_says_what_is_known_with_a_node_and_without() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("a");
    let (told, code) = doctor(&data);
    assert_eq!(code, Some(0), "{told}");
    assert!(!data.exists(), "asking makes nothing");
    let ids = [
        "node",
        "reachable",
        "nat",
        "port_mapping",
        "ipv6",
        "mdns",
        "ways",
        "meeting_point",
        "clock",
        "disk",
        "quota",
        "announcing",
        "backups",
        "copies",
    ];
    for id in ids {
        let check = check(&told, id);
        assert!(
            check["ok"].is_boolean() && check["text"].is_string(),
            "{check}"
        );
        assert!(check["do"].is_null() || check["do"].is_string(), "{check}");
    }
    let init = run(
        &data,
        &[
            "init",
            "--yes",
            "--words-out",
            dir.path().join("w").to_str().expect("text"),
        ],
    );
    assert!(init.status.success());
    let node = Node::start(&data, &[]);
    let (told, code) = doctor(&data);
    assert_eq!(code, Some(3), "{told}");
    assert_eq!(check(&told, "node")["ok"], true);
    assert_eq!(check(&told, "reachable")["known"], false, "{told}");
    let backups = check(&told, "backups");
    assert_eq!(backups["ok"], false, "nothing is backed up: {told}");
    assert!(
        text(&backups["do"]).contains("libernet backup"),
        "{backups}"
    );
    let file = dir.path().join("letter.txt");
    std::fs::write(&file, b"words").expect("written");
    node.json(&["backup", file.to_str().expect("text")]);
    let (told, code) = doctor(&data);
    assert_eq!(code, Some(3), "{told}");
    assert_eq!(check(&told, "backups")["ok"], true, "{told}");
    assert!(
        text(&check(&told, "copies")["text"]).contains("on this disk only"),
        "{told}"
    );
    let shown = run(&data, &["doctor"]);
    let lines = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(lines.contains("-> `libernet ring create NAME`"), "{lines}");
    node.json(&["ring", "create", "home"]);
    node.stop();
    let (told, code) = doctor(&data);
    assert_eq!(code, Some(3), "{told}");
    assert!(text(&check(&told, "node")["text"]).contains("members of a ring count on it"));
    // A clock that was set back.
    let ahead = std::time::SystemTime::now() + std::time::Duration::from_secs(3 * 24 * 3600);
    let owner = std::fs::File::open(data.join("owner.key")).expect("there");
    owner.set_modified(ahead).expect("set");
    let (told, _) = doctor(&data);
    assert_eq!(check(&told, "clock")["ok"], false, "{told}");
}

#[test]
fn a_damaged_api_file_of_a_running_node_is_named_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&dir.path().join("a"), &[]);
    let path = node.data.join("api.json");
    std::fs::write(&path, b"{\"url\":").expect("written");
    fails(&node.run(&["peers"]), 7, "api.json is damaged");
    node.stop();
}

#[test]
fn commands_about_snapshots_agree_on_which_are_meant() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("a");
    let words = dir.path().join("w");
    let init = run(
        &data,
        &[
            "init",
            "--yes",
            "--name",
            "desk",
            "--words-out",
            words.to_str().expect("text"),
        ],
    );
    assert!(init.status.success());
    let place = |name: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).expect("made");
        std::fs::write(path.join("letter.txt"), name).expect("written");
        path.to_str().expect("text").to_owned()
    };
    let (one, two) = (place("one"), place("two"));
    let made = |path: &str, tag: &str| json(&data, &["backup", path, "--tag", tag]);
    let (first, second) = (made(&one, "old"), made(&two, "new"));
    let letter = format!("latest:{one}/letter.txt");
    let cat = run(&data, &["cat", &letter, "--tag", "old"]);
    assert_eq!(
        cat.stdout,
        b"one",
        "{}",
        String::from_utf8_lossy(&cat.stderr)
    );
    let found = json(&data, &["find-file", "letter.txt", "--path", &one]);
    let found = found["matches"].as_array().expect("a list");
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["snapshot"], first["snapshot"]);
    let checked = json(&data, &["check", "--tag", "new", "--machine", "de"]);
    assert_eq!(checked["snapshots"], 1, "{checked}");
    let listed = run(&data, &["ls", &format!("latest:{one}"), "--tag", "new"]);
    assert!(!listed.status.success(), "it is in the other one");
    for args in [
        &["ls", "latest", "--tag", "none"][..],
        &["cat", "latest:/x", "--tag", "none"],
        &["check", "--tag", "none"],
        &["find-file", "x", "--tag", "none"],
    ] {
        fails(&run(&data, args), 4, "there is no tag 'none'");
    }
    let link = second["link"].as_str().expect("a link");
    fails(
        &run(&data, &["ls", link, "--tag", "new"]),
        2,
        "nothing to choose",
    );
    // Ids join: what a snapshot is called among pins.
    let snapshots = json(&data, &["snapshots"]);
    let pins = json(&data, &["pin", "ls"]);
    let pins: Vec<&Value> = pins["pins"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|pin| &pin["id"])
        .collect();
    for snapshot in snapshots["snapshots"].as_array().expect("a list") {
        assert!(pins.contains(&&snapshot["cid"]), "{snapshot}");
    }
    let back = dir.path().join("back");
    let restored = json(
        &data,
        &[
            "restore",
            "latest",
            "--tag",
            "old",
            "--target",
            back.to_str().expect("text"),
        ],
    );
    assert_eq!(restored["machine"], "desk", "{restored}");
}

#[test]
fn a_set_may_have_paths_that_are_no_text() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("a");
    let words = dir.path().join("w");
    let init = run(
        &data,
        &[
            "init",
            "--yes",
            "--words-out",
            words.to_str().expect("text"),
        ],
    );
    assert!(init.status.success());
    let strange = dir.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9"));
    std::fs::create_dir(&strange).expect("made");
    std::fs::write(
        strange.join(std::ffi::OsStr::from_bytes(b"\xe9bad")),
        b"words",
    )
    .expect("written");
    let with_path = |args: &[&str]| {
        let mut command = libernet();
        command
            .arg("--data-dir")
            .arg(&data)
            .args(args)
            .arg(&strange);
        command.output().expect("runs")
    };
    let added = with_path(&["backup", "add", "--name", "odd"]);
    assert!(
        added.status.success(),
        "{}",
        String::from_utf8_lossy(&added.stderr)
    );
    let made = json(&data, &["backup", "--set", "odd"]);
    assert_eq!(made["files"], 1, "{made}");
    let listed = run(&data, &["backup", "list"]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains("caf\\xe9"));
    // The escape that `ls` prints is taken, in a snapshot and behind a link.
    let place = format!("latest:{}/caf\\xe9/\\xe9bad", dir.path().display());
    assert_eq!(run(&data, &["cat", &place]).stdout, b"words");
    let put = with_path(&["put", "--json"]);
    let put: Value = serde_json::from_slice(&put.stdout).expect("JSON");
    let link = text(&put["link"]);
    let shown = run(&data, &["ls", link]);
    assert_eq!(shown.stdout, b"\\xe9bad\n");
    let got = dir.path().join("got");
    json(
        &data,
        &[
            "get",
            &format!("{link}/\\xe9bad"),
            "-o",
            got.to_str().expect("text"),
        ],
    );
    assert_eq!(std::fs::read(&got).expect("there"), b"words");
    let removed = with_path(&["backup", "remove"]);
    assert!(
        removed.status.success(),
        "{}",
        String::from_utf8_lossy(&removed.stderr)
    );
}

#[test]
fn arguments_below_zero_are_told_in_plain_words() {
    let dir = tempfile::tempdir().expect("a directory");
    let link = "libernet:x";
    for (args, words) in [
        (&["ring", "invite", "--for", "-1d"][..], "a time looks like"),
        (&["get", link, "--max-size", "-1"], "is not a size"),
        (&["get", link, "--timeout", "-5"], "a time looks like"),
        (
            &["backup", "/x", "--exclude-larger-than", "-1"],
            "is not a size",
        ),
    ] {
        fails(&run(dir.path(), args), 2, words);
    }
}

#[test]
fn a_ring_without_branches_has_nothing_to_decide() {
    let dir = tempfile::tempdir().expect("a directory");
    json(dir.path(), &["ring", "create", "home"]);
    fails(
        &run(dir.path(), &["ring", "choose", "here"]),
        4,
        "nothing to decide",
    );
    let members = json(dir.path(), &["ring", "members"]);
    assert_eq!(members["ring"], "home");
    json(dir.path(), &["ring", "create", "club"]);
    fails(&run(dir.path(), &["ring", "members"]), 2, "2 rings");
}

#[test]
fn a_killed_init_leaves_no_sheet_in_the_way() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("a");
    let sheet = dir.path().join("sheet.html");
    let fifo = dir.path().join("passphrase");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.expect("mkfifo runs").success());
    // It waits for the passphrase, with the sheet written.
    let mut waiting = libernet();
    waiting.arg("--data-dir").arg(&data);
    waiting.args(["init", "--yes", "--sheet"]).arg(&sheet);
    waiting.arg("--passphrase-file").arg(&fifo);
    let mut waiting = waiting.spawn().expect("it starts");
    let hidden = || {
        let names = dir.path().read_dir().expect("lists").flatten();
        names
            .filter(|entry| entry.file_name().as_bytes().starts_with(b".sheet.html"))
            .count()
    };
    until("the sheet is written", || (hidden() == 1).then_some(()));
    assert!(!sheet.exists(), "it has no name before there is an owner");
    signal(waiting.id(), "KILL");
    waiting.wait().expect("it ended");
    let again = run(
        &data,
        &["init", "--yes", "--sheet", sheet.to_str().expect("text")],
    );
    assert!(
        again.status.success(),
        "{}",
        String::from_utf8_lossy(&again.stderr)
    );
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(said.contains("sheet.html: print it"), "{said}");
    assert!(sheet.exists());
    assert_eq!(hidden(), 0, "what the killed one left is gone");
}
