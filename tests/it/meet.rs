//! Nodes that know nobody: they meet in a Mainline DHT of the test's own, on loopback.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use libernet::net::meet::mesh_keys;
use libernet::time::{Clock, SystemClock};
use mainline::{Dht, Id, Testnet};
use serde_json::Value;

use crate::process::{Node, fails, libernet, run};
use crate::rings::{online, until, utf8};
use crate::sample::{assert_same, make_tree, noise};
use crate::terminal::on_a_terminal;

/// Far longer than a datagram on loopback takes.
const PATIENCE: Duration = Duration::from_secs(180);

/// A DHT, and a directory for the nodes that meet in it.
struct Scene {
    testnet: Testnet,
    dir: tempfile::TempDir,
}

/// A command of the binary that begins with these nodes of the DHT and stays on loopback.
fn command(data: &Path, first_nodes: &str, args: &[&str]) -> Command {
    let mut command = libernet();
    command
        .env("LIBERNET_MEET", "on")
        .env("LIBERNET_MEET_BOOTSTRAP", first_nodes)
        .env("LIBERNET_LISTEN", "/ip4/127.0.0.1/tcp/0")
        .env("LIBERNET_HTTP", "127.0.0.1:0")
        .env("LIBERNET_MDNS", "false")
        .arg("--data-dir")
        .arg(data)
        .args(args);
    command
}

fn succeeds(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {stderr}", output.status);
    serde_json::from_slice(&output.stdout).expect("JSON")
}

impl Scene {
    fn new() -> Self {
        Self {
            testnet: Testnet::builder(10).build().expect("ports on loopback"),
            dir: tempfile::tempdir().expect("a directory"),
        }
    }

    fn data(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, name: &str, args: &[&str]) -> Command {
        let first_nodes = self.testnet.bootstrap.join(",");
        command(&self.data(name), &first_nodes, args)
    }

    fn start(&self, name: &str) -> Node {
        Node::spawn(&self.data(name), self.command(name, &["up", "--json"]))
    }

    /// A node that joined the mesh.
    fn joined(&self, name: &str) -> Node {
        let node = self.start(name);
        let joined = node.json(&["mesh", "join", "--yes"]);
        assert_eq!(joined["joined"], true);
        node
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

fn wait_for_peer(node: &mut Node, peer: &str) {
    node.wait_for(|event| event["event"] == "peer_connected" && event["peer"] == peer);
}

#[test]
fn two_nodes_that_know_nobody_meet_and_exchange_a_put_and_a_get() {
    let scene = Scene::new();
    let (source, target) = (scene.data("source"), scene.data("target"));
    make_tree(&source);
    let one = scene.joined("one");
    let put = one.json(&["put", utf8(&source)]);
    let refused = scene.command("two", &["mesh", "join"]).output();
    fails(&refused.expect("it runs"), 2, "mesh join --yes");
    // The command's own node looks for others where its data directory has joined.
    let joined = scene.command("two", &["mesh", "join", "--yes", "--json"]);
    let joined = succeeds(&{ joined }.output().expect("it runs"));
    assert_eq!(joined["joined"], true);
    let get = ["get", text(&put["link"]), "-o", utf8(&target), "--json"];
    let got = succeeds(&scene.command("two", &get).output().expect("it runs"));
    assert_eq!(got["from"][0], one.peer.as_str());
    assert_same(&source, &target);

    let mut two = scene.start("two");
    wait_for_peer(&mut two, &one.peer);
    let status = two.json(&["mesh", "status"]);
    assert_eq!(
        (&status["joined"], text(&status["meet"])),
        (&true.into(), "on")
    );
    let ways = status["ways"].as_array().expect("a list").iter();
    let kinds: Vec<&str> = ways.clone().map(|way| text(&way["kind"])).collect();
    assert_eq!(kinds[0], "meet", "{status}");
    for name in ["reachable", "nat"] {
        assert!(status[name].is_string(), "{status}");
    }
    assert_eq!(two.json(&["mesh", "leave"])["joined"], false);
    two.stop();
    let again = scene.command("two", &["mesh", "status", "--json"]);
    let again = succeeds(&{ again }.output().expect("it runs"));
    assert_eq!(again["joined"], false, "kept over a restart");
}

#[test]
fn members_of_a_ring_that_meets_anywhere_need_no_mesh_and_no_address() {
    let scene = Scene::new();
    let (one, two) = (scene.start("one"), scene.start("two"));
    let made = one.json(&["ring", "create", "home", "--anywhere"]);
    assert_eq!(made["anywhere"], true);
    two.join(text(&made["code"]));
    until("the members meet", || {
        (online(&one, &two.peer) && online(&two, &one.peer)).then_some(())
    });
    for node in [&one, &two] {
        assert_eq!(node.json(&["ring", "members", "home"])["anywhere"], true);
        assert_eq!(node.json(&["ring", "list"])["rings"][0]["anywhere"], true);
        assert_eq!(node.json(&["mesh", "status"])["joined"], false);
        let told = node.run(&["ring", "members", "home"]);
        let told = String::from_utf8_lossy(&told.stderr).into_owned();
        assert!(told.contains("this ring meets anywhere"), "{told}");
    }
    // After a restart a member still knows that the ring meets anywhere.
    two.stop();
    let two = scene.start("two");
    until("they meet again", || online(&one, &two.peer).then_some(()));
}

#[test]
fn twelve_words_bring_a_backup_back_on_an_empty_machine_with_no_address() {
    let scene = Scene::new();
    let (source, words) = (scene.data("source"), scene.data("words"));
    std::fs::create_dir(&source).expect("made");
    let content = noise(7, 3 << 20);
    std::fs::write(source.join("file"), &content).expect("written");
    let init = ["init", "--yes", "--words-out", utf8(&words), "--json"];
    succeeds(&scene.command("owner", &init).output().expect("it runs"));
    let (owner, holder) = (scene.joined("owner"), scene.joined("holder"));
    let code = owner.json(&["ring", "create", "home", "--anywhere"])["code"].clone();
    holder.join(text(&code));
    until("the members meet", || {
        online(&owner, &holder.peer).then_some(())
    });
    let wait = ["--copies", "1", "--wait", "--timeout", "120s"];
    let backup = owner.json(&[&["backup", utf8(&source)], &wait[..]].concat());
    assert_eq!(backup["copies"]["reached"], 1, "{backup}");
    // The machine burns.
    owner.kill();
    std::fs::remove_dir_all(scene.data("owner")).expect("gone");

    let target = scene.data("restored");
    let mut restore = vec!["restore", "latest", "--phrase-file", utf8(&words)];
    restore.extend(["--target", utf8(&target), "--timeout", "120s"]);
    let output = scene.command("empty", &restore).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("BitTorrent Mainline DHT"), "{said}");
    let below = source.strip_prefix("/").expect("absolute");
    let restored = std::fs::read(target.join(below).join("file"));
    assert_eq!(restored.expect("there"), content);

    // Who does not want to be seen there finds nothing.
    let target = scene.data("not-restored");
    let mut restore = vec![
        "restore",
        "latest",
        "--phrase-file",
        utf8(&words),
        "--no-meet",
    ];
    restore.extend(["--target", utf8(&target), "--timeout", "1s"]);
    let output = scene.command("other", &restore).output().expect("it runs");
    assert_eq!(output.status.code(), Some(4));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("Mainline"), "{said}");
}

#[test]
fn words_find_the_owners_own_node_that_is_in_no_ring() {
    let scene = Scene::new();
    let (source, words) = (scene.data("source"), scene.data("words"));
    make_tree(&source);
    let init = ["init", "--yes", "--words-out", utf8(&words), "--json"];
    succeeds(&scene.command("owner", &init).output().expect("it runs"));
    let owner = scene.joined("owner");
    owner.run(&["backup", utf8(&source)]);
    let snapshots = [
        "snapshots",
        "--phrase-file",
        utf8(&words),
        "--timeout",
        "120s",
        "--json",
    ];
    let listed = scene.command("empty", &snapshots).output();
    let listed = succeeds(&listed.expect("it runs"));
    let listed = listed["snapshots"].as_array().expect("a list");
    assert_eq!(listed.len(), 1, "{listed:?}");
}

#[test]
fn joining_asks_a_person_first() {
    let dir = tempfile::tempdir().expect("a directory");
    let (data, consent) = (dir.path().join("data"), dir.path().join("data/mesh.json"));
    for (name, value) in [("mdns", "false"), ("listen", "/ip4/127.0.0.1/tcp/0")] {
        let set = run(&data, &["config", "set", name, value]);
        assert!(set.status.success());
    }
    let join = ["--no-color", "mesh", "join"];
    let Some((output, shown)) = on_a_terminal("say:n", &data, &join) else {
        return;
    };
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(shown.contains("become visible"), "{shown}");
    assert!(shown.contains("Join? [y/N] "), "{shown}");
    assert!(!consent.exists());
    let (output, shown) = on_a_terminal("say:y", &data, &join).expect("it ran");
    assert_eq!(output.status.code(), Some(0), "{shown}");
    assert!(consent.exists());
    assert!(shown.contains("the setting meet is off"), "{shown}");
}

/// Announces under keys of the mesh from many addresses at which nobody is.
#[allow(deprecated)]
fn announce_garbage(testnet: &Testnet, hosts: u8) -> Vec<Dht> {
    let garbage = (0..hosts).map(|host| {
        let mut builder = Dht::builder();
        builder
            .bootstrap(&testnet.bootstrap)
            .bind_address(Ipv4Addr::new(127, 0, 1, 1 + host))
            .port(0);
        let dht = builder.build().expect("a port on loopback");
        for key in mesh_keys("libernet", SystemClock.now()) {
            let id = Id::from(*key.as_bytes());
            dht.announce_peer(id, Some(1)).expect("announced");
        }
        dht
    });
    garbage.collect()
}

#[test]
fn a_meeting_point_full_of_garbage_keeps_nobody_out_and_is_dialled_within_bounds() {
    let scene = Scene::new();
    let _garbage = announce_garbage(&scene.testnet, 24);
    let one = scene.joined("one");
    until("it is announced", || {
        let status = one.json(&["mesh", "status"]);
        (status["announced"].as_u64() > Some(0)).then_some(())
    });
    let began = Instant::now();
    let mut two = scene.joined("two");
    wait_for_peer(&mut two, &one.peer);
    for node in [&one, &two] {
        let dialled = node.json(&["mesh", "status"])["dialled"].as_u64();
        let dialled = dialled.expect("a number");
        // A purse full of dials, one more in three seconds, and those that reached somebody.
        let most = 20 + PATIENCE.max(began.elapsed()).as_secs() / 3 + 4;
        assert!(dialled <= most, "{dialled}");
    }
}

/// Whether a datagram comes within some time.
fn hears(socket: &UdpSocket, patience: Duration) -> bool {
    let patience = Some(patience);
    socket.set_read_timeout(patience).expect("a socket");
    socket.recv_from(&mut [0; 2048]).is_ok()
}

#[test]
fn nothing_is_sent_without_a_reason_or_when_meeting_is_off() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let first_node = socket.local_addr().expect("bound").to_string();
    let words = dir.path().join("words");
    let data = |name: &str| dir.path().join(name);
    let start = |name: &str, meet: &str| {
        let mut command = command(&data(name), &first_node, &["up", "--json"]);
        command.env("LIBERNET_MEET", meet);
        Node::spawn(&data(name), command)
    };
    let init = ["init", "--yes", "--words-out", utf8(&words), "--json"];
    let init = command(&data("owner"), &first_node, &init).output();
    succeeds(&init.expect("it runs"));
    let target = data("restored");
    let mut restore = vec!["restore", "latest", "--phrase-file", utf8(&words)];
    restore.extend(["--target", utf8(&target), "--timeout", "2s"]);

    let off = start("off", "off");
    let joined = off.json(&["mesh", "join", "--yes"]);
    assert_eq!(
        (&joined["joined"], text(&joined["meet"])),
        (&true.into(), "off")
    );
    off.json(&["ring", "create", "home", "--anywhere"]);
    let mut by_words = command(&data("empty"), &first_node, &restore);
    let by_words = by_words.env("LIBERNET_MEET", "off").output();
    fails(&by_words.expect("it runs"), 4, "");
    let alone = start("alone", "on");
    alone.json(&["ring", "create", "home"]);
    alone.json(&["put", utf8(&words)]);
    off.stop();
    assert_eq!(alone.json(&["mesh", "status"])["asked"], 0);
    assert!(!hears(&socket, Duration::from_millis(200)), "nothing yet");

    alone.json(&["mesh", "join", "--yes"]);
    assert!(hears(&socket, PATIENCE), "with consent");
    alone.stop();
    while hears(&socket, Duration::from_millis(100)) {}
    let by_words = command(&data("empty"), &first_node, &restore).output();
    fails(&by_words.expect("it runs"), 4, "");
    assert!(hears(&socket, PATIENCE), "with a need");
}
