//! Cables that are pulled, and addresses that change.

use crate::lan::{Lan, ip};
use crate::process::Node;
use crate::rings::until;

/// A LAN, or says why there is none.
fn lan(tag: &str, hosts: usize) -> Option<Lan> {
    match Lan::make(tag, hosts) {
        Ok(lan) => Some(lan),
        Err(reason) => {
            eprintln!("skipped: {reason}");
            None
        }
    }
}

fn set(namespace: &str, args: &[&str]) {
    let all = [&["-n", namespace][..], args].concat();
    assert!(ip(&all), "ip {}", all.join(" "));
}

fn wait_connected(node: &mut Node, peer: &str) {
    node.wait_for(|event| event["event"] == "peer_connected" && event["peer"] == peer);
}

#[test]
fn neighbours_that_were_cut_off_come_together_again() {
    let Some(lan) = lan("k", 2) else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let [mut a, mut b] = [0, 1].map(|host| lan.node(host, &dir.path().join(host.to_string())));
    let (at_a, at_b) = (b.peer.clone(), a.peer.clone());
    wait_connected(&mut a, &at_a);
    wait_connected(&mut b, &at_b);
    set(&lan.name("h"), &["link", "set", "port1", "down"]);
    for (node, peer) in [(&mut a, &at_a), (&mut b, &at_b)] {
        node.wait_for(|event| event["event"] == "peer_gone" && event["peer"] == peer.as_str());
    }
    set(&lan.name("h"), &["link", "set", "port1", "up"]);
    wait_connected(&mut a, &at_a);
    wait_connected(&mut b, &at_b);
    a.stop();
    b.stop();
}

#[test]
fn neighbours_find_each_other_over_ipv6_alone() {
    let Some(lan) = lan("v", 2) else { return };
    for host in 0..2 {
        let namespace = lan.host(host);
        let (old, new) = (
            format!("10.93.7.{}/24", host + 1),
            format!("fd00:93::{}/64", host + 1),
        );
        set(&namespace, &["addr", "del", &old, "dev", "eth0"]);
        set(&namespace, &["addr", "add", &new, "dev", "eth0", "nodad"]);
    }
    let dir = tempfile::tempdir().expect("a directory");
    let node = |host: usize| {
        let data = dir.path().join(host.to_string());
        let mut command = lan.on(host, &data);
        command.args(["up", "--json"]);
        Node::spawn(&data, command)
    };
    let (a, mut b) = (node(0), node(1));
    wait_connected(&mut b, &a.peer);
    a.stop();
    b.stop();
}

#[test]
fn a_node_whose_address_changes_is_found_at_the_new_one() {
    let Some(lan) = lan("m", 3) else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let data = |host: usize| dir.path().join(host.to_string());
    let up = |host: usize, bootstrap: Option<&Node>| {
        let mut command = lan.on(host, &data(host));
        let listen = [
            "up",
            "--json",
            "--no-mdns",
            "--listen",
            "/ip4/0.0.0.0/tcp/0",
        ];
        command.args(listen).args(["--http", "127.0.0.1:0"]);
        if let Some(node) = bootstrap {
            for address in node.addresses.iter().filter(|a| a.starts_with("/ip4/10.")) {
                command.args(["--bootstrap", address]);
            }
        }
        Node::spawn(&data(host), command)
    };
    let mut hub = up(0, None);
    let mut provider = up(1, Some(&hub));
    wait_connected(&mut provider, &hub.peer);
    wait_connected(&mut hub, &provider.peer);
    let file = dir.path().join("file");
    std::fs::write(&file, vec![7; 50_000]).expect("written");
    let file = file.to_str().expect("utf-8");
    let put = lan.json(1, &data(1), &["block", "put", file]);
    let id = put["id"].as_str().expect("an id");
    let namespace = lan.host(1);
    set(&namespace, &["addr", "del", "10.93.7.2/24", "dev", "eth0"]);
    set(&namespace, &["addr", "add", "10.93.7.99/24", "dev", "eth0"]);
    // Whichever side sees first that the old connection is dead, the new one comes from the new
    // address.
    until("the provider is back", || {
        let peers = lan.json(0, &data(0), &["peers"])["peers"].to_string();
        peers.contains("/ip4/10.93.7.99/").then_some(())
    });

    let mut reader = up(2, Some(&hub));
    wait_connected(&mut reader, &hub.peer);
    let found = lan.json(2, &data(2), &["find", id, "--no-check", "--timeout", "30"]);
    let addresses = found["providers"][0]["addresses"].to_string();
    assert!(addresses.contains("/ip4/10.93.7.99/"), "{found}");
    assert!(!addresses.contains("/ip4/10.93.7.2/"), "{found}");
    let copy = format!("{file}.got");
    let mut get = lan.on(2, &data(2));
    let got = get.args(["block", "get", id, "-o", &copy]).output();
    let got = got.expect("it runs");
    assert!(
        got.status.success(),
        "{}",
        String::from_utf8_lossy(&got.stderr)
    );
    assert_eq!(std::fs::read(&copy).expect("there"), vec![7; 50_000]);
    for node in [hub, provider, reader] {
        node.stop();
    }
}
