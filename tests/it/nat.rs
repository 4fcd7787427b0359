//! Homes behind routers: network namespaces joined by a bridge that stands for the internet, with
//! nftables doing what routers do. One node has an address of its own there.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use Router::{FullCone, MovesPorts, PortRestricted, Symmetric};

use crate::lan::{can_make_namespaces, ip};
use crate::process::Node;
use crate::sample::{assert_same, make_tree};

/// Kind of a router.
#[derive(Clone, Copy)]
enum Router {
    /// Keeps ports as they are, and lets in only answers from where something was sent to.
    PortRestricted,
    /// As above, but the ports that nodes listen on are others outside, the same to everybody.
    MovesPorts,
    /// Passes everything on that comes to the ports that nodes listen on.
    FullCone,
    /// Takes another port for each destination.
    Symmetric,
}

/// The public node's address in the internet of the test.
const HELPER: &str = "203.0.113.10";

/// Namespaces of one test; removed when dropped.
struct World {
    prefix: String,
    made: Vec<String>,
}

impl Drop for World {
    fn drop(&mut self) {
        for name in &self.made {
            ip(&["netns", "del", name]);
        }
    }
}

impl World {
    /// Makes an internet with a public node, and two homes, each behind its routers from the inner
    /// to the outer one.
    fn make(tag: &str, homes: [&[Router]; 2]) -> Result<Self, &'static str> {
        can_make_namespaces()?;
        let is_there = Command::new("nft").arg("--version").output();
        if !is_there.is_ok_and(|output| output.status.success()) {
            return Err("the nft command (nftables) is not installed");
        }
        let mut world = Self {
            prefix: format!("ln{}{tag}", std::process::id()),
            made: Vec::new(),
        };
        if !world.add("i") {
            return Err("this system lets nobody make network namespaces");
        }
        world.ip("i", &["link", "add", "br0", "type", "bridge"]);
        world.ip("i", &["link", "set", "br0", "up"]);
        assert!(world.add("p"));
        world.plug("p", "wan", &format!("{HELPER}/24"));
        for (number, routers) in homes.into_iter().enumerate() {
            world.home(number, routers);
        }
        Ok(world)
    }

    fn name(&self, place: &str) -> String {
        format!("{}-{place}", self.prefix)
    }

    fn add(&mut self, place: &str) -> bool {
        let name = self.name(place);
        let added = ip(&["netns", "add", &name]);
        if added {
            ip(&["-n", &name, "link", "set", "lo", "up"]);
            self.made.push(name);
        }
        added
    }

    fn ip(&self, place: &str, args: &[&str]) {
        let name = self.name(place);
        let all = [&["-n", &name][..], args].concat();
        assert!(ip(&all), "ip {}", all.join(" "));
    }

    /// Plugs a place into the internet.
    fn plug(&self, place: &str, interface: &str, address: &str) {
        let (name, port) = (self.name(place), format!("to-{place}"));
        self.ip(
            "i",
            &[
                "link", "add", &port, "type", "veth", "peer", "name", interface, "netns", &name,
            ],
        );
        self.ip("i", &["link", "set", &port, "master", "br0", "up"]);
        self.ip(place, &["addr", "add", address, "dev", interface]);
        self.ip(place, &["link", "set", interface, "up"]);
    }

    /// A home: a machine behind routers, of which the last one is in the internet.
    fn home(&mut self, number: usize, routers: &[Router]) {
        let machine = format!("h{number}");
        assert!(self.add(&machine));
        let mut inner = machine;
        for depth in 0..routers.len() {
            let gate = format!("r{number}{depth}");
            assert!(self.add(&gate));
            let inside = self.name(&inner);
            let up = format!("up{depth}");
            self.ip(
                &gate,
                &[
                    "link", "add", "lan", "type", "veth", "peer", "name", &up, "netns", &inside,
                ],
            );
            let net = format!("192.168.{}", number * 8 + depth + 1);
            self.ip(
                &gate,
                &["addr", "add", &format!("{net}.1/24"), "dev", "lan"],
            );
            self.ip(&gate, &["link", "set", "lan", "up"]);
            let own = format!("{net}.2");
            self.ip(&inner, &["addr", "add", &format!("{own}/24"), "dev", &up]);
            self.ip(&inner, &["link", "set", &up, "up"]);
            self.ip(
                &inner,
                &["route", "add", "default", "via", &format!("{net}.1")],
            );
            if depth > 0 {
                let router = *routers.get(depth - 1).expect("one before");
                self.route(&inner, router, &up, &own);
            }
            inner = gate;
        }
        let outside = format!("203.0.113.{}", 21 + number);
        self.plug(&inner, "wan", &format!("{outside}/24"));
        let last = *routers.last().expect("a router");
        self.route(&inner, last, "wan", &outside);
    }

    /// Has a place do what a router does. Its machine, or the router behind it, is 192.168.x.2.
    fn route(&self, gate: &str, router: Router, wan: &str, outside: &str) {
        let lan = self.lan_of(gate);
        let to = match router {
            Router::PortRestricted | Router::FullCone => "masquerade".to_owned(),
            Router::MovesPorts => format!(
                "udp sport 4384 snat to {outside}:40001; \
                 oifname \"{wan}\" tcp sport 4384 snat to {outside}:40002; \
                 oifname \"{wan}\" masquerade"
            ),
            Router::Symmetric => "masquerade random,fully-random".to_owned(),
        };
        let (pass, let_in) = match router {
            Router::FullCone => (
                format!(
                    "iifname \"{wan}\" tcp dport 4384 dnat to {lan}.2; \
                     iifname \"{wan}\" udp dport 4384 dnat to {lan}.2;"
                ),
                "ct status dnat accept;",
            ),
            _ => (String::new(), ""),
        };
        let rules = format!(
            "table ip nat {{
               chain pre {{ type nat hook prerouting priority -100; {pass} }}
               chain post {{
                 type nat hook postrouting priority 100; oifname \"{wan}\" {to};
               }}
             }}
             table ip filter {{
               chain input {{
                 type filter hook input priority 0; policy drop;
                 iifname \"lan\" accept; ct state established,related accept;
               }}
               chain forward {{
                 type filter hook forward priority 0; policy drop;
                 ct state established,related accept; iifname \"lan\" accept; {let_in}
               }}
             }}"
        );
        self.run(gate, &["nft", &rules]);
        self.run(
            gate,
            &["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"],
        );
    }

    /// The first three parts of a router's address inside.
    fn lan_of(&self, gate: &str) -> String {
        let number: usize = gate[1..2].parse().expect("a digit");
        let depth: usize = gate[2..].parse().expect("a digit");
        format!("192.168.{}", number * 8 + depth + 1)
    }

    fn run(&self, place: &str, program: &[&str]) {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name(place)])
            .args(program);
        let output = command.output().expect("ip runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program:?}: {said}");
    }

    /// The binary under test, at a place.
    fn on(&self, place: &str, data: &Path) -> Command {
        let mut command = Command::new("ip");
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LIBERNET_")) {
            command.env_remove(name);
        }
        command
            .args(["netns", "exec", &self.name(place)])
            .args([env!("CARGO_BIN_EXE_libernet"), "--data-dir"])
            .arg(data)
            .stdin(Stdio::null());
        command
    }

    fn node(&self, place: &str, data: &Path, bootstrap: &[String]) -> Node {
        let mut command = self.on(place, data);
        command.args(["up", "--json", "--http", "127.0.0.1:0", "--no-mdns"]);
        command.args(["--listen", "/ip4/0.0.0.0/tcp/4384"]);
        command.args(["--listen", "/ip4/0.0.0.0/udp/4384/quic-v1"]);
        for address in bootstrap {
            command.args(["--bootstrap", address]);
        }
        Node::spawn(data, command)
    }

    fn json(&self, place: &str, data: &Path, args: &[&str]) -> Value {
        let output = self.on(place, data).args(args).arg("--json").output();
        let output = output.expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }
}

/// Waits until a node tells that it can be reached so.
fn wait_until(node: &mut Node, reachable: &str) {
    node.wait_for(|event| event["event"] == "reachable" && event["reachable"] == reachable);
}

/// Addresses of the public node.
fn ways_to(helper: &Node) -> Vec<String> {
    ["tcp/4384", "udp/4384/quic-v1"]
        .iter()
        .map(|way| format!("/ip4/{HELPER}/{way}/p2p/{}", helper.peer))
        .collect()
}

/// Two homes behind such routers and a public node: a put in one, a get in the other. Whether they
/// end with a direct connection is to be as said.
fn between_two_homes(tag: &str, homes: [&[Router]; 2], is_direct: bool) {
    let world = match World::make(tag, homes) {
        Ok(world) => world,
        Err(reason) => {
            eprintln!("skipped: {reason}");
            return;
        }
    };
    let dir = tempfile::tempdir().expect("a directory");
    let data = |name: &str| dir.path().join(name);
    let (public, first, second) = (data("public"), data("first"), data("second"));
    let mut helper = world.node("p", &public, &[]);
    let ways = ways_to(&helper);
    let mut one = world.node("h0", &first, &ways);
    let mut two = world.node("h1", &second, &ways);
    // It knows by itself, from who came.
    wait_until(&mut helper, "public");
    wait_until(&mut one, "relay");
    wait_until(&mut two, "relay");
    let status = world.json("h0", &first, &["status"]);
    assert_eq!(status["reach"]["relays"], serde_json::json!([helper.peer]));

    let source = dir.path().join("source");
    make_tree(&source);
    let put = world.json("h0", &first, &["put", source.to_str().expect("utf-8")]);
    let link = put["link"].as_str().expect("a text");
    let target = dir.path().join("out");
    let to = target.to_str().expect("utf-8");
    world.json("h1", &second, &["get", link, "-o", to]);
    assert_same(&source, &target);

    loop {
        let peers = world.json("h1", &second, &["peers"]);
        let peers = peers["peers"].as_array().expect("a list");
        let found = peers.iter().find(|peer| peer["peer"] == one.peer.as_str());
        if found.is_some_and(|peer| peer["relayed"] == !is_direct) {
            break;
        }
        // A connection that was let go of while idle is made again.
        world.json("h1", &second, &["find", link]);
    }

    // What the public node was told of the homes is of use to it.
    let known = world.json("p", &public, &["find", link]);
    let known = known["providers"].to_string() + &world.json("p", &public, &["peers"]).to_string();
    assert!(known.contains(&one.peer), "{known}");
    assert!(known.contains("p2p-circuit"), "{known}");
    assert!(!known.contains("192.168."), "{known}");
    assert!(!known.contains("127.0.0.1"), "{known}");
    let served = world.json("p", &public, &["status"]);
    assert_eq!(served["reachable"], "public", "{served}");
    assert_eq!(served["reach"]["relaying"]["on"], true, "{served}");
    assert_ne!(served["reach"]["relaying"]["circuits_ever"], 0, "{served}");
    one.stop();
    two.stop();
    helper.stop();
}

#[test]
fn two_homes_meet_through_their_routers_without_the_relay_between() {
    between_two_homes("n", [&[PortRestricted], &[PortRestricted]], true);
}

#[test]
fn two_homes_meet_through_routers_that_move_ports() {
    between_two_homes("m", [&[MovesPorts], &[MovesPorts]], true);
}

#[test]
fn a_home_behind_two_routers_meets_another_without_the_relay_between() {
    between_two_homes(
        "d",
        [&[PortRestricted, PortRestricted], &[MovesPorts]],
        true,
    );
}

#[test]
fn two_homes_behind_symmetric_routers_meet_through_a_relay() {
    between_two_homes("s", [&[Symmetric], &[Symmetric]], false);
}

#[test]
fn a_home_whose_router_lets_everything_in_is_met_without_a_relay() {
    let world = match World::make("f", [&[FullCone], &[Symmetric]]) {
        Ok(world) => world,
        Err(reason) => {
            eprintln!("skipped: {reason}");
            return;
        }
    };
    let dir = tempfile::tempdir().expect("a directory");
    let data = |name: &str| dir.path().join(name);
    let (public, first, second) = (data("public"), data("first"), data("second"));
    let helper = world.node("p", &public, &[]);
    let ways = ways_to(&helper);
    let mut one = world.node("h0", &first, &ways);
    wait_until(&mut one, "public");
    let two = world.node("h1", &second, &ways);
    let source = dir.path().join("source");
    make_tree(&source);
    let put = world.json("h0", &first, &["put", source.to_str().expect("utf-8")]);
    let link = put["link"].as_str().expect("a text");
    let target = dir.path().join("out");
    let to = target.to_str().expect("utf-8");
    world.json("h1", &second, &["get", link, "-o", to]);
    assert_same(&source, &target);
    let peers = world.json("h1", &second, &["peers"]);
    let peers = peers["peers"].as_array().expect("a list");
    let found = peers.iter().find(|peer| peer["peer"] == one.peer.as_str());
    assert_eq!(
        found.map(|peer| &peer["relayed"]),
        Some(&false.into()),
        "{peers:?}"
    );
    one.stop();
    two.stop();
    helper.stop();
}
