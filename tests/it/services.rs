//! Ports of other programs in the DHT: announced and found by real nodes, and by the two programs
//! of the README.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::attacker::{Attacker, all_bytes, dht, peer_of};
use crate::dht_attacks::{listening, named};
use crate::process::{Node, fails, libernet};
use crate::rings::until;

const ID: &str = "text:the garden club";

/// Three nodes: a way in, and two that know only it.
fn three(dir: &Path) -> [Node; 3] {
    let first = Node::start(&dir.join("1"), &[]);
    let others = ["2", "3"].map(|name| Node::start(&dir.join(name), &[&first.addresses[0]]));
    let [second, third] = others;
    [first, second, third]
}

/// The one provider that a node finds.
fn found(node: &Node, id: &str) -> Value {
    let found = node.json(&["find", id, "--timeout", "60"]);
    let providers = found["providers"].as_array().expect("a list");
    assert_eq!(providers.len(), 1, "{found}");
    providers[0].clone()
}

#[test]
fn a_port_is_found_by_others_confirmed_and_taken_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let [first, second, third] = three(dir.path());
    // A node that has only begun to join tells nobody yet.
    let said = until("the port is told to somebody", || {
        let said = second.json(&["announce", ID, "--port", "8080", "--ttl", "1h"]);
        (said["peers"].as_u64() >= Some(1)).then_some(said)
    });
    assert!(said["until"].is_u64(), "{said}");
    for node in [&first, &third] {
        let provider = found(node, ID);
        assert_eq!(provider["peer"], second.peer.as_str());
        assert_eq!(provider["port"], 8080, "{provider}");
        assert_eq!(provider["port_confirmed"], true, "{provider}");
        assert_eq!(provider["hosts"], serde_json::json!(["127.0.0.1"]));
        let left = provider["port_ttl_s"].as_u64().expect("a number");
        assert!((1..=3600).contains(&left), "{provider}");
        let addresses = provider["addresses"].to_string();
        assert!(!addresses.contains("memory"), "{addresses}");
    }
    let own = second.json(&["find", ID, "--timeout", "1"]);
    assert_eq!(own["announced"]["port"], 8080, "{own}");
    let shown = third.run(&["find", ID]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("127.0.0.1:8080"), "{shown}");

    // Another port takes the first one's place.
    second.json(&["announce", ID, "--port", "8081"]);
    assert_eq!(found(&third, ID)["port"], 8081);

    second.json(&["announce", ID, "--end"]);
    // The holders forget it a second later; the node itself at once.
    let own = second.run(&["find", ID, "--timeout", "1"]);
    assert_eq!(own.status.code(), Some(4), "{own:?}");
    until("the port is forgotten", || {
        let gone = third.run(&["find", ID, "--timeout", "1"]);
        (gone.status.code() == Some(4)).then_some(())
    });
}

#[test]
fn a_port_is_announced_again_after_a_restart_until_its_time_is_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let [first, second, third] = three(dir.path());
    second.json(&["announce", ID, "--port", "8080", "--ttl", "2d"]);
    second.json(&["announce", "text:short", "--port", "8082", "--ttl", "1s"]);
    second.kill();
    // Those that were told are gone, too: only the node itself knows.
    drop((first, third));
    let fresh = Node::start(&dir.path().join("4"), &[]);
    let second = Node::start(&dir.path().join("2"), &[&fresh.addresses[0]]);
    let provider = found(&fresh, ID);
    assert_eq!(provider["peer"], second.peer.as_str());
    assert_eq!(provider["port"], 8080, "{provider}");
    until("the other one has ended", || {
        let gone = second.json(&["find", ID, "--timeout", "1"]);
        assert_eq!(gone["announced"]["port"], 8080, "{gone}");
        let gone = fresh.run(&["find", "text:short", "--timeout", "1"]);
        (gone.status.code() == Some(4)).then_some(())
    });
}

#[test]
fn a_block_that_has_a_port_is_still_found_when_the_port_ends() {
    let dir = tempfile::tempdir().expect("a directory");
    let [_first, second, third] = three(dir.path());
    let file = dir.path().join("block");
    std::fs::write(&file, b"some bytes").expect("written");
    let put = second.json(&["block", "put", file.to_str().expect("utf-8")]);
    let id = put["id"].as_str().expect("an id");
    second.json(&["announce", id, "--port", "8080", "--ttl", "7d"]);
    let provider = found(&third, id);
    assert_eq!(
        (&provider["port"], &provider["has"]),
        (&8080.into(), &true.into())
    );
    second.json(&["announce", id, "--end"]);
    until("the block is found without a port", || {
        let left = third.json(&["find", id, "--timeout", "30"]);
        let provider = &left["providers"][0];
        (provider["has"] == true && provider["port"].is_null()).then_some(())
    });
}

#[test]
fn wrong_ports_and_times_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(dir.path(), &[]);
    for (flags, words) in [
        (&["--port", "0"][..], "1..=65535"),
        (&["--port", "65536"], "65536"),
        (&["--port", "80", "--ttl", "8d"], "7 days"),
        (&["--port", "80", "--ttl", "0"], "1 second"),
        (&["--ttl", "1h"], "--port"),
        (&["--port", "80", "--end"], "--end"),
    ] {
        let args = [&["announce", ID], flags].concat();
        fails(&node.run(&args), 2, words);
    }
}

/// The number in an address that stands for a port: a part of the key's hash, and a time.
fn number(key: &[u8], ttl_s: u64) -> u64 {
    let hash = Sha256::digest(key);
    let tag = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
    (u64::from(tag) << 32) | ttl_s
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announced_port_is_on_its_announcers_host_whatever_the_record_says() {
    let data = tempfile::tempdir().expect("a directory");
    let node = Node::start(data.path(), &[]);
    let peer = peer_of(&node.addresses[0]);
    let attacker = listening([127, 0, 0, 7]).await;
    assert!(attacker.connect(&node.addresses[0]).await, "it is let in");
    let ids: Vec<[u8; 48]> = (1..=6).map(|n| [n; 48]).collect();
    let keys: Vec<Vec<u8>> = ids
        .iter()
        .map(|id| [&[0x20, 48], &id[..]].concat())
        .collect();
    let address = attacker.address.clone().expect("it listens");
    let parse = |text: String| -> Multiaddr { text.parse().expect("an address") };
    let claims = [
        // Somebody else's host; a time far ahead; one that is over; of another key; no port; a lot.
        vec![parse(format!(
            "/ip4/198.51.100.7/tcp/22/memory/{}",
            number(&keys[0], 60)
        ))],
        vec![parse(format!(
            "/tcp/22/memory/{}",
            number(&keys[1], 0xffff_ffff)
        ))],
        vec![parse(format!("/tcp/22/memory/{}", number(&keys[2], 0)))],
        vec![parse(format!("/tcp/22/memory/{}", number(&keys[1], 60)))],
        vec![parse(format!("/tcp/0/memory/{}", number(&keys[4], 60)))],
        (1..500)
            .map(|n| parse(format!("/tcp/{n}/memory/{}", number(&keys[5], 60))))
            .collect(),
    ];
    for (key, claimed) in keys.iter().zip(&claims) {
        let all = [std::slice::from_ref(&address), &claimed[..]].concat();
        let me = dht::peer(attacker.peer, &all);
        assert!(
            attacker
                .tell_dht(peer, &[dht::add_provider(key, &me)])
                .await
        );
    }
    let other = Attacker::start().await;
    assert!(other.connect(&node.addresses[0]).await, "it is let in");
    let mut told = Vec::new();
    for key in &keys {
        let addresses = named(&other, peer, key, attacker.peer).await;
        let ports: Vec<String> = addresses
            .iter()
            .filter(|one| {
                one.iter()
                    .skip(1)
                    .any(|part| matches!(part, Protocol::Memory(_)))
            })
            .map(ToString::to_string)
            .collect();
        assert!(ports.len() <= 1, "{ports:?}");
        told.push(ports.concat());
    }
    assert!(
        told[0].starts_with("/ip4/127.0.0.7/tcp/22/memory/"),
        "{told:?}"
    );
    assert!(
        told[1].starts_with("/ip4/127.0.0.7/tcp/22/memory/"),
        "{told:?}"
    );
    let left = told[1].rsplit('/').next().expect("a number");
    let left = left.parse::<u64>().expect("a number") & 0xffff_ffff;
    assert!(left <= 48 * 3600, "two days at most: {left}");
    assert_eq!(told[2..5], ["", "", ""], "{told:?}");
    assert!(
        told[5].starts_with("/ip4/127.0.0.7/tcp/1/memory/"),
        "{told:?}"
    );
    // A question without an answer changes nothing.
    let answer = other.ask_dht(peer, &dht::get_providers(&keys[0])).await;
    assert_eq!(all_bytes(&answer.expect("an answer"), 9).len(), 1);
}

/// A code block of the README that begins with a line.
fn program(first_line: &str) -> String {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(readme).expect("the README");
    let blocks = text.split("```python\n").skip(1);
    let mut found = blocks.filter(|block| block.starts_with(first_line));
    let block = found.next().expect("the README shows it");
    block.split("```").next().expect("its end").to_owned()
}

/// Starts a program of the README on the machine of a node.
fn start(program: &str, node: &Node) -> Child {
    let binary = Path::new(env!("CARGO_BIN_EXE_libernet"));
    let path = std::env::var("PATH").unwrap_or_default();
    let directory = binary.parent().expect("a directory").display();
    let mut command = Command::new("python3");
    // Settings of the environment would be those of somebody else.
    for (name, _) in libernet().get_envs() {
        command.env_remove(name);
    }
    command
        .args(["-u", "-c", program])
        .env("PATH", format!("{directory}:{path}"))
        .env("LIBERNET_DATA", &node.data)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("python3 runs")
}

#[test]
fn the_two_programs_of_the_readme_find_each_other() {
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("skipped: there is no python3");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let [_first, second, third] = three(dir.path());
    let mut offer = start(&program("# offer.py"), &second);
    let mut announced = String::new();
    let said = offer.stdout.as_mut().expect("piped");
    BufReader::new(said)
        .read_line(&mut announced)
        .expect("a line");
    let visit = start(&program("# visit.py"), &third);
    let heard = visit.wait_with_output().expect("it ends");
    offer.kill().expect("it runs");
    offer.wait().expect("it ended");
    assert_eq!(
        String::from_utf8_lossy(&heard.stdout),
        "the roses are out\n"
    );
}
