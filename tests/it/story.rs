//! What a user does, with real processes and real sockets.

use std::io::Write;
use std::process::Stdio;

use crate::process::{Node, fails, json, libernet, run};
use crate::sample::{assert_same, make_tree, noise};

fn text(value: &serde_json::Value) -> &str {
    value.as_str().expect("a text")
}

#[test]
fn a_folder_travels_through_the_dht_and_outlives_its_source() {
    let dir = tempfile::tempdir().expect("a directory");
    let source = dir.path().join("source");
    make_tree(&source);
    let first = Node::start(&dir.path().join("1"), &[]);
    let second = Node::start(&dir.path().join("2"), &[&first.addresses[0]]);
    let third = Node::start(&dir.path().join("3"), &[&second.addresses[0]]);

    let put = first.json(&["put", source.to_str().expect("utf-8")]);
    let link = text(&put["link"]);
    assert_eq!(put["unreadable"], serde_json::json!([]));
    assert!(
        put["blocks"].as_u64() < Some(40),
        "small files travel together: {put}"
    );

    let found = third.json(&["find", link, "--timeout", "30"]);
    let providers = found["providers"].as_array().expect("a list");
    let own = providers
        .iter()
        .find(|p| p["peer"] == first.peer.as_str())
        .expect("the first node announced it");
    assert_eq!(own["has"], true);
    assert_eq!(own["addresses"][0], first.addresses[0].as_str());

    let target = dir.path().join("out3");
    let got = third.json(&["get", link, "-o", target.to_str().expect("utf-8")]);
    assert_eq!(got["from"], serde_json::json!([first.peer]));
    assert_eq!(
        (&got["bytes"], &got["files"]),
        (&put["bytes"], &put["files"])
    );
    assert_same(&source, &target);

    // The third has a copy now: without the first, others get it from there.
    first.stop();
    let target = dir.path().join("out2");
    let got = second.json(&["get", link, "-o", target.to_str().expect("utf-8")]);
    assert_eq!(got["from"], serde_json::json!([third.peer]));
    assert_same(&source, &target);

    // Nothing new the second time.
    let again = third.json(&["put", source.to_str().expect("utf-8")]);
    assert_eq!(text(&again["link"]), link);
    assert_eq!(again["new_bytes"], 0);
    second.stop();
    third.stop();
}

#[test]
fn commands_work_without_a_running_node() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let file = dir.path().join("a file.txt");
    std::fs::write(&file, b"hello, mesh").expect("written");
    let put = json(
        &data,
        &["put", file.to_str().expect("utf-8"), "--no-announce"],
    );
    let link = text(&put["link"]);
    let cat = run(&data, &["cat", link]);
    assert_eq!(cat.stdout, b"hello, mesh");
    let listed = json(&data, &["ls", link]);
    assert!(listed.to_string().contains("a file.txt"), "{listed}");
    let out = dir.path().join("copy");
    json(&data, &["get", link, "-o", out.to_str().expect("utf-8")]);
    assert_eq!(std::fs::read(&out).expect("read"), b"hello, mesh");
    let pins = json(&data, &["pin", "ls"]);
    assert!(pins.to_string().contains(link), "{pins}");
    let ids = (json(&data, &["id"]), json(&data, &["id"]));
    assert_eq!(ids.0["peer"], ids.1["peer"]);
}

#[test]
fn blocks_go_in_and_out_as_they_are() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&dir.path().join("data"), &[]);
    let bytes = noise(3, 2 << 20);
    let file = dir.path().join("block");
    std::fs::write(&file, &bytes).expect("written");
    let put = node.json(&["block", "put", file.to_str().expect("utf-8")]);
    let (id, hex) = (text(&put["id"]), text(&put["hex"]));
    for form in [
        id.to_owned(),
        hex.to_owned(),
        format!("/sha384/{hex}"),
        format!("sha384/{hex}"),
    ] {
        let got = node.run(&["block", "get", &form]);
        assert!(
            got.stdout == bytes,
            "{form}: {}",
            String::from_utf8_lossy(&got.stderr)
        );
    }
    assert_eq!(node.json(&["block", "has", id])["has"], true);
    let stat = node.json(&["block", "stat", id]);
    assert_eq!(
        (&stat["local"], &stat["bytes"]),
        (&true.into(), &(2 << 20).into())
    );
    let like = node.json(&["block", "ls", "--like", id]);
    assert!(like.to_string().contains(id), "{like}");
    fails(&node.run(&["block", "rm", id]), 1, "pin");
    assert_eq!(node.json(&["block", "rm", id, "--force"])["removed"], true);
    assert_eq!(node.json(&["block", "has", id])["has"], false);
    let stat = node.json(&["block", "stat", id]);
    assert_eq!(
        (&stat["local"], &stat["purged"]["count"]),
        (&false.into(), &1.into())
    );

    // One byte more than a block may have, and none at all.
    std::fs::write(&file, noise(3, (2 << 20) + 1)).expect("written");
    fails(
        &node.run(&["block", "put", file.to_str().expect("utf-8")]),
        2,
        "2097152",
    );
    std::fs::write(&file, b"").expect("written");
    fails(
        &node.run(&["block", "put", file.to_str().expect("utf-8")]),
        2,
        "2097152",
    );
}

#[test]
fn any_identifier_can_be_announced_and_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = Node::start(&dir.path().join("1"), &[]);
    let second = Node::start(&dir.path().join("2"), &[&first.addresses[0]]);
    let third = Node::start(&dir.path().join("3"), &[&first.addresses[0]]);
    let hex = "5a".repeat(48);
    for id in [hex.as_str(), "text:the garden club"] {
        second.json(&["announce", id]);
        let found = third.json(&["find", id, "--timeout", "30"]);
        let provider = &found["providers"][0];
        assert_eq!(provider["peer"], second.peer.as_str(), "{found}");
        assert_eq!(
            provider["has"], false,
            "announced, but no block of that name"
        );
    }
    fails(&third.run(&["find", "garden"]), 2, "text:");
}

#[test]
fn a_pin_fetches_everything_and_keeps_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let source = dir.path().join("source");
    make_tree(&source);
    let first = Node::start(&dir.path().join("1"), &[]);
    let second = Node::start(&dir.path().join("2"), &[&first.addresses[0]]);
    let put = first.json(&["put", source.to_str().expect("utf-8")]);
    let link = text(&put["link"]);
    let pinned = second.json(&["pin", "add", link]);
    assert_eq!(pinned["blocks"], put["blocks"]);
    first.stop();
    let target = dir.path().join("out");
    let got = second.json(&["get", link, "-o", target.to_str().expect("utf-8")]);
    assert_eq!(got["from"], serde_json::json!([]));
    assert_same(&source, &target);
    let removed = second.json(&["pin", "rm", link]);
    assert_eq!(removed["blocks"], put["blocks"]);
    assert_eq!(second.json(&["pin", "ls"])["pins"], serde_json::json!([]));
}

#[test]
fn wrong_links_are_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&dir.path().join("data"), &[]);
    let file = dir.path().join("file");
    std::fs::write(&file, b"content").expect("written");
    let put = node.json(&["put", file.to_str().expect("utf-8")]);
    let link = text(&put["link"]).to_owned();
    let id = text(&put["id"]).to_owned();
    let out = dir.path().join("out");
    let get = |link: &str| {
        node.run(&[
            "get",
            link,
            "-o",
            out.to_str().expect("utf-8"),
            "--timeout",
            "1",
        ])
    };
    fails(&get(&link[..link.len() - 4]), 2, "cut");
    fails(&get("nonsense"), 2, "libernet:");
    fails(&get(&id), 2, "without a key");
    // The right block with another key, a block that nobody has, and a block that is no bundle.
    let other_key = format!("libernet:{id}.{}", "a".repeat(52));
    fails(&get(&other_key), 5, "does not open");
    let nobody = format!("/sha384/{}/aes256/{}", "00".repeat(48), "00".repeat(32));
    fails(&get(&nobody), 4, "was not found");
    let raw = node.json(&["block", "put", file.to_str().expect("utf-8")]);
    let no_bundle = format!("libernet:{}.{}", text(&raw["id"]), "a".repeat(52));
    assert!(get(&no_bundle).status.code() == Some(5));
    assert!(!out.exists());
    // A target that exists stays as it is.
    std::fs::write(&out, b"mine").expect("written");
    fails(&get(&link), 8, "already");
    assert_eq!(std::fs::read(&out).expect("read"), b"mine");
}

#[test]
fn a_second_node_on_the_same_data_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&dir.path().join("data"), &[]);
    let second = run(
        &node.data,
        &[
            "up",
            "--json",
            "--http",
            "127.0.0.1:0",
            "--no-mdns",
            "--listen",
            "/ip4/127.0.0.1/tcp/0",
        ],
    );
    fails(&second, 7, &node.pid().to_string());
    // And a port that is taken is named.
    let port = node.http.rsplit(':').next().expect("a port");
    let other = dir.path().join("other");
    let taken = run(
        &other,
        &[
            "up",
            "--http",
            &format!("127.0.0.1:{port}"),
            "--no-mdns",
            "--listen",
            "/ip4/127.0.0.1/tcp/0",
        ],
    );
    fails(&taken, 1, port);
    let address = node.addresses[0].split("/p2p/").next().expect("an address");
    let taken = run(
        &other,
        &[
            "up",
            "--http",
            "127.0.0.1:0",
            "--no-mdns",
            "--listen",
            address,
        ],
    );
    fails(&taken, 1, address);
    node.stop();
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let acknowledged = dir.path().join("acknowledged");
    std::fs::write(&acknowledged, noise(10, 3_000_000)).expect("written");
    let large = dir.path().join("large");
    std::fs::write(&large, noise(11, 200_000_000)).expect("written");

    let mut node = Node::start(&data, &[]);
    let put = node.json(&["put", acknowledged.to_str().expect("utf-8")]);
    // The node dies in the middle of another put: when the store has grown by a part of it.
    let mut command = libernet()
        .arg("--data-dir")
        .arg(&data)
        .args(["put", large.to_str().expect("utf-8")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    let before = put["new_bytes"].as_u64().expect("a number");
    loop {
        let status = node.json(&["status"]);
        if status["store"]["block_bytes"].as_u64() > Some(before + 10_000_000) {
            break;
        }
        assert!(
            command.try_wait().expect("checked").is_none(),
            "the put ended before the kill"
        );
    }
    node.kill();
    let interrupted = command.wait().expect("it ended");
    assert!(!interrupted.success());

    node = Node::start(&data, &[]);
    let link = text(&put["link"]);
    let cat = node.run(&["cat", link]);
    assert!(
        cat.stdout == noise(10, 3_000_000),
        "{}",
        String::from_utf8_lossy(&cat.stderr)
    );
    // The interrupted one goes on from there.
    let again = node.json(&["put", large.to_str().expect("utf-8")]);
    let cat = node.run(&["cat", text(&again["link"])]);
    assert!(cat.stdout == noise(11, 200_000_000));
    node.stop();
}

#[test]
fn a_full_store_says_so_and_goes_on_with_more_room() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let large = dir.path().join("large");
    std::fs::write(&large, noise(20, 60_000_000)).expect("written");
    let node = Node::start_with(&data, &[], &["--quota", "40MiB"]);
    fails(
        &node.run(&["put", large.to_str().expect("utf-8")]),
        6,
        "full",
    );
    let used = node.json(&["status"])["store"]["disk_bytes"]
        .as_u64()
        .expect("a number");
    assert!(used <= 40 << 20, "{used}");
    // Smaller things still fit or are refused cleanly, and the node lives on.
    assert_eq!(node.json(&["pin", "ls"])["pins"], serde_json::json!([]));
    node.stop();
    let node = Node::start_with(&data, &[], &["--quota", "400MiB"]);
    let put = node.json(&["put", large.to_str().expect("utf-8")]);
    let cat = node.run(&["cat", text(&put["link"])]);
    assert!(cat.stdout == noise(20, 60_000_000));
    node.stop();
}

#[test]
fn standard_input_can_be_put() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let mut child = libernet()
        .arg("--data-dir")
        .arg(&data)
        .args(["put", "-", "--name", "notes.txt", "--no-announce", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let bytes = noise(30, 4_000_000);
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(&bytes)
        .expect("written");
    let output = child.wait_with_output().expect("ended");
    let put: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let out = dir.path().join("out");
    std::fs::create_dir(&out).expect("made");
    json(
        &data,
        &[
            "get",
            text(&put["link"]),
            "-o",
            out.to_str().expect("utf-8"),
        ],
    );
    assert!(std::fs::read(out.join("notes.txt")).expect("read") == bytes);
}

#[test]
fn signals_end_a_node_cleanly_even_at_work() {
    let dir = tempfile::tempdir().expect("a directory");
    let large = dir.path().join("large");
    std::fs::write(&large, noise(40, 150_000_000)).expect("written");
    let node = Node::start(&dir.path().join("data"), &[]);
    let mut command = libernet()
        .arg("--data-dir")
        .arg(&node.data)
        .args(["put", large.to_str().expect("utf-8")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    while node.json(&["status"])["store"]["block_bytes"].as_u64() < Some(1_000_000) {
        assert!(
            command.try_wait().expect("checked").is_none(),
            "the put ended before the signal"
        );
    }
    node.stop();
    assert!(!command.wait().expect("ended").success());
}

/// The binary under test, run by somebody for whom permissions count: root may read everything.
fn as_nobody(dir: &std::path::Path) -> std::process::Command {
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::os::unix::process::CommandExt;
    if !rustix::process::geteuid().is_root() {
        return libernet();
    }
    const NOBODY: u32 = 65534;
    // The build's directory may be closed to others.
    let binary = dir.join("libernet");
    std::fs::copy(env!("CARGO_BIN_EXE_libernet"), &binary).expect("copied");
    std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).expect("set");
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).expect("set");
    chown(dir, Some(NOBODY), Some(NOBODY)).expect("given away");
    let mut command = std::process::Command::new(binary);
    command.uid(NOBODY).gid(NOBODY).stdin(Stdio::null());
    command
}

#[test]
fn unreadable_files_are_reported_and_the_rest_is_put() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = as_nobody(dir.path());
    let data = dir.path().join("data");
    let source = dir.path().join("source");
    std::fs::create_dir(&source).expect("made");
    std::fs::write(source.join("good"), b"good").expect("written");
    std::fs::write(source.join("locked"), b"locked").expect("written");
    let closed = std::fs::Permissions::from_mode(0o000);
    std::fs::set_permissions(source.join("locked"), closed).expect("set");
    // A socket has no content: it is left out, and nothing is lost by that.
    let _socket = std::os::unix::net::UnixListener::bind(source.join("socket")).expect("bound");
    let output = command
        .arg("--data-dir")
        .arg(&data)
        .args([
            "put",
            source.to_str().expect("utf-8"),
            "--no-announce",
            "--json",
        ])
        .output()
        .expect("it runs");
    fails(&output, 3, "locked: Permission denied");
    let told = String::from_utf8_lossy(&output.stderr)
        .matches("locked")
        .count();
    assert_eq!(told, 1, "{output:?}");
    let put: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(put["left_out"].to_string().contains("socket"), "{put}");
    assert_eq!(put["unreadable"].as_array().map(Vec::len), Some(1), "{put}");
    assert!(put["unreadable"].to_string().contains("locked"), "{put}");
    assert_eq!(put["files"], 1);
    let nothing = dir.path().join("nothing");
    fails(
        &run(
            &dir.path().join("other"),
            &["put", nothing.to_str().expect("utf-8")],
        ),
        1,
        "nothing",
    );
}

/// Files below `dir` whose names end in `suffix`.
fn files_ending(dir: &std::path::Path, suffix: &str, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files_ending(&path, suffix, found);
        } else if path.to_string_lossy().ends_with(suffix) {
            found.push(path);
        }
    }
}

#[test]
fn damage_on_disk_is_found_and_mended_from_the_network() {
    let dir = tempfile::tempdir().expect("a directory");
    let source = dir.path().join("source");
    make_tree(&source);
    let first = Node::start(&dir.path().join("1"), &[]);
    let data = dir.path().join("2");
    let second = Node::start(&data, &[&first.addresses[0]]);
    let put = first.json(&["put", source.to_str().expect("utf-8")]);
    let link = text(&put["link"]);
    second.json(&["pin", "add", link]);
    second.stop();
    let mut blobs = Vec::new();
    files_ending(&data, ".blob", &mut blobs);
    assert!(!blobs.is_empty());
    for path in &blobs {
        let mut bytes = std::fs::read(path).expect("read");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).expect("written");
    }
    let second = Node::start(&data, &[&first.addresses[0]]);
    let target = dir.path().join("out");
    let got = second.json(&["get", link, "-o", target.to_str().expect("utf-8")]);
    // What was found damaged may have been mended in the background by then.
    let mended = serde_json::json!([]);
    assert!(got["from"] == serde_json::json!([first.peer]) || got["from"] == mended);
    assert_same(&source, &target);
    assert!(second.json(&["status"])["store"]["corrupt"].as_u64() > Some(0));
    // All is here again, pinned as before.
    first.stop();
    let target = dir.path().join("again");
    let got = second.json(&["get", link, "-o", target.to_str().expect("utf-8")]);
    assert_eq!(got["from"], serde_json::json!([]));
    second.stop();
}
