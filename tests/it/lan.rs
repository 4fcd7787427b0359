//! Hosts on a LAN: network namespaces on one bridge, finding each other by mDNS alone.

use std::path::Path;
use std::process::Command;

use crate::process::Node;
use crate::sample::{assert_same, make_tree};

/// Namespaces of one test: a hub with a bridge, and hosts on it. Removed when dropped.
struct Lan {
    prefix: String,
    hosts: usize,
}

fn ip(args: &[&str]) -> bool {
    Command::new("ip")
        .args(args)
        .output()
        .is_ok_and(|output| output.status.success())
}

impl Lan {
    /// Makes a LAN of `hosts` hosts; the reason when this machine can't.
    fn make(tag: &str, hosts: usize) -> Result<Self, &'static str> {
        if !rustix::process::geteuid().is_root() {
            return Err("network namespaces need root");
        }
        if !ip(&["-V"]) {
            return Err("the ip command (iproute2) is not installed");
        }
        let lan = Self {
            prefix: format!("ln{}{tag}", std::process::id()),
            hosts,
        };
        let hub = lan.name("h");
        if !ip(&["netns", "add", &hub]) {
            return Err("this system lets nobody make network namespaces");
        }
        let inside = |args: &[&str]| {
            let all = [&["-n", &hub][..], args].concat();
            assert!(ip(&all), "ip {}", all.join(" "));
        };
        inside(&["link", "add", "br0", "type", "bridge"]);
        inside(&["link", "set", "br0", "up"]);
        for host in 0..hosts {
            let (name, port) = (lan.host(host), format!("port{host}"));
            assert!(ip(&["netns", "add", &name]), "netns add {name}");
            inside(&[
                "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &name,
            ]);
            inside(&["link", "set", &port, "master", "br0", "up"]);
            let address = format!("10.93.7.{}/24", host + 1);
            for args in [
                &["link", "set", "lo", "up"][..],
                &["addr", "add", &address, "dev", "eth0"],
                &["link", "set", "eth0", "up"],
            ] {
                assert!(
                    ip(&[&["-n", &name][..], args].concat()),
                    "ip -n {name} {args:?}"
                );
            }
        }
        Ok(lan)
    }

    fn name(&self, suffix: &str) -> String {
        format!("{}-{suffix}", self.prefix)
    }

    fn host(&self, host: usize) -> String {
        self.name(&host.to_string())
    }

    /// The binary under test, on a host.
    fn on(&self, host: usize, data: &Path) -> Command {
        let mut command = Command::new("ip");
        command
            .args([
                "netns",
                "exec",
                &self.host(host),
                env!("CARGO_BIN_EXE_libernet"),
                "--data-dir",
            ])
            .arg(data);
        command
    }

    fn node(&self, host: usize, data: &Path) -> Node {
        let mut command = self.on(host, data);
        command.args([
            "up",
            "--json",
            "--listen",
            "/ip4/0.0.0.0/tcp/0",
            "--http",
            "127.0.0.1:0",
        ]);
        Node::spawn(data, command)
    }

    fn json(&self, host: usize, data: &Path, args: &[&str]) -> serde_json::Value {
        let output = self
            .on(host, data)
            .args(args)
            .arg("--json")
            .output()
            .expect("it runs");
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).expect("JSON")
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for host in 0..self.hosts {
            ip(&["netns", "del", &self.host(host)]);
        }
        ip(&["netns", "del", &self.name("h")]);
    }
}

#[test]
fn hosts_on_a_lan_find_each_other_with_no_setting_at_all() {
    let lan = match Lan::make("a", 3) {
        Ok(lan) => lan,
        Err(reason) => {
            eprintln!("skipped: {reason}");
            return;
        }
    };
    let dir = tempfile::tempdir().expect("a directory");
    let source = dir.path().join("source");
    make_tree(&source);
    let data: Vec<_> = (0..3)
        .map(|host| dir.path().join(format!("data{host}")))
        .collect();
    let first = lan.node(0, &data[0]);
    let mut second = lan.node(1, &data[1]);
    second.wait_for(|event| {
        event["event"] == "peer_connected" && event["peer"] == first.peer.as_str()
    });
    let put = lan.json(0, &data[0], &["put", source.to_str().expect("utf-8")]);
    let link = put["link"].as_str().expect("a text");

    // The third has no node running: the command's own finds the others.
    let target = dir.path().join("out");
    let got = lan.json(
        2,
        &data[2],
        &["get", link, "-o", target.to_str().expect("utf-8")],
    );
    assert_eq!(got["from"], serde_json::json!([first.peer]));
    assert_same(&source, &target);
    first.stop();
    second.stop();
}
