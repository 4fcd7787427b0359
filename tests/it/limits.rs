//! Limits that change while a node runs.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::process::{Node, fails, json as of};
use crate::rings::{Scene, until, utf8};
use crate::sample::noise;

fn limits(node: &Node) -> Value {
    node.json(&["status"])["limits"].clone()
}

fn set(node: &Node, name: &str, value: &str) -> Value {
    node.json(&["config", "set", name, value])["node"].clone()
}

#[test]
fn a_running_node_takes_limits_over_and_nothing_that_is_wrong() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start_with(dir.path(), &[], &["--limit-up", "2MiB"]);
    assert_eq!(set(&node, "limit_down", "1MiB"), "applied");
    assert_eq!(set(&node, "limit_hours", "00:00-24:00"), "applied");
    assert_eq!(set(&node, "lend", "3MiB"), "applied");
    assert_eq!(set(&node, "quota", "1GiB"), "applied");
    let network = set(&node, "network", "other");
    assert_eq!(network, "waiting", "what a node is built with");
    assert_eq!(set(&node, "limit_up", "1MiB"), "overridden");
    let now = limits(&node);
    assert_eq!(now["down"], 1 << 20, "{now}");
    assert_eq!(now["hours"], "00:00-24:00", "{now}");
    assert_eq!(now["lend"], 3 << 20, "{now}");
    assert_eq!(now["up"], 2 << 20, "the flag beats the file: {now}");
    let quota = node.json(&["status"])["store"]["quota"].clone();
    assert_eq!(quota, 1 << 30, "bytes are numbers");
    let refused = node.run(&["config", "set", "quota", "500KiB"]);
    fails(&refused, 2, "a quota is 1 MiB or more");
    assert_eq!(set(&node, "limit_down", "1MiB"), "unchanged");
    let told = node.run(&["config", "set", "limit_down", "4MiB"]);
    fails(&told, 0, "goes by it from now on");

    // Edited by hand, and wrong: it is said where, and everything stays.
    let path = dir.path().join("config.toml");
    let right = std::fs::read_to_string(&path).expect("there");
    let before = limits(&node);
    for (wrong, words) in [
        ("limit_dwon = 1\nlimit_down = \"1MiB\"\n", "limit_dwon"),
        ("limit_down = \"12 parsecs\"\n", "12 parsecs"),
        ("limit_down = \"1\"\n", "128 KiB"),
        ("quota = 50\n", "1 MiB or more"),
        ("limit_down = ", "line 1"),
    ] {
        std::fs::write(&path, wrong).expect("written");
        let refused = node.run(&["config", "reload"]);
        fails(&refused, 5, words);
        fails(&refused, 5, "line 1");
        fails(&refused, 5, "goes on with the settings that it has");
        std::fs::write(&path, &right).expect("written");
        assert_eq!(limits(&node), before, "{wrong}");
    }
    std::fs::write(&path, right.replace("4 MiB", "5 MiB")).expect("written");
    let told = node.json(&["config", "reload"]);
    assert_eq!(told["applied"], json!(["limit_down"]), "{told}");
    assert_eq!(limits(&node)["down"], 5 << 20);
    node.stop();
    fails(
        &crate::process::run(dir.path(), &["config", "reload"]),
        11,
        "no node is running",
    );
    let written = of(dir.path(), &["config", "set", "limit_down", "0"]);
    assert_eq!(written["node"], "none", "{written}");
}

#[test]
fn what_is_lent_and_how_fast_changes_for_the_members_of_a_ring() {
    let scene = Scene::new(4 << 20);
    let holder = scene.member("b", &[]);
    let lent = || {
        let members = scene.owner.json(&["ring", "members", "home"])["members"].clone();
        members[0]["free_bytes"].as_u64()
    };
    set(&holder, "lend", "1MiB");
    until("the owner hears of it", || {
        (lent()? <= 1 << 20).then_some(())
    });
    let wait = ["--copies", "1", "--wait", "--timeout", "2s"];
    let (made, code) = scene.backup(&wait);
    assert_eq!((&made["copies"]["reached"], code), (&json!(0), 3), "{made}");
    set(&holder, "lend", "half");
    until("the owner hears of it", || {
        (lent()? > 1 << 30).then_some(())
    });
    let (made, code) = scene.backup(&["--copies", "1", "--wait"]);
    assert_eq!((&made["copies"]["reached"], code), (&json!(1), 0), "{made}");

    // What is fetched from now on comes no faster than it may.
    set(&holder, "limit_down", "1MiB");
    let more = scene.dir.path().join("more");
    std::fs::write(&more, noise(9, 8 << 20)).expect("written");
    let start = Instant::now();
    let backup = ["backup", utf8(&more), "--copies", "1", "--wait"];
    let made = scene.owner.json(&backup);
    assert_eq!(made["copies"]["reached"], 1, "{made}");
    assert!(
        start.elapsed() > Duration::from_secs(3),
        "8 MiB of which 4 may come at once: {:?}",
        start.elapsed()
    );
    // Lending less ends nothing that was promised.
    set(&holder, "lend", "1MiB");
    let leased = holder.json(&["status"])["store"]["leased_bytes"].as_u64();
    assert!(leased > Some(12 << 20), "{leased:?}");
    let listed = scene.owner.json(&["lease", "list"]);
    assert_eq!(
        listed["leases"].as_array().map(Vec::len),
        Some(2),
        "{listed}"
    );
    holder.stop();
}
