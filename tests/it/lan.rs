//! Hosts on a LAN: network namespaces on one bridge, finding each other by mDNS alone.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::process::Node;
use crate::sample::{assert_same, make_tree};
use crate::terminal::SCRIPT;

/// Namespaces of one test: a hub with a bridge, and hosts on it. Removed when dropped.
pub struct Lan {
    prefix: String,
    hosts: usize,
}

/// Runs `ip`; whether it succeeded.
pub fn ip(args: &[&str]) -> bool {
    Command::new("ip")
        .args(args)
        .output()
        .is_ok_and(|output| output.status.success())
}

/// The reason when this machine can't make network namespaces.
pub fn can_make_namespaces() -> Result<(), &'static str> {
    if !rustix::process::geteuid().is_root() {
        return Err("network namespaces need root");
    }
    if !ip(&["-V"]) {
        return Err("the ip command (iproute2) is not installed");
    }
    Ok(())
}

impl Lan {
    /// Makes a LAN of `hosts` hosts; the reason when this machine can't.
    pub fn make(tag: &str, hosts: usize) -> Result<Self, &'static str> {
        can_make_namespaces()?;
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

    pub fn name(&self, suffix: &str) -> String {
        format!("{}-{suffix}", self.prefix)
    }

    pub fn host(&self, host: usize) -> String {
        self.name(&host.to_string())
    }

    /// The binary under test, on a host.
    pub fn on(&self, host: usize, data: &Path) -> Command {
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

    pub fn node(&self, host: usize, data: &Path) -> Node {
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

    pub fn json(&self, host: usize, data: &Path, args: &[&str]) -> serde_json::Value {
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

/// Four hosts, no server and no setting: a ring of three by mDNS alone, a backup that waits for its copies, the first host destroyed, and
/// everything back on a fresh one from twelve words.
#[test]
fn a_ring_brings_a_lost_machine_back_from_twelve_words() {
    let lan = match Lan::make("r", 4) {
        Ok(lan) => lan,
        Err(reason) => {
            eprintln!("skipped: {reason}");
            return;
        }
    };
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    let text = |path: &Path| path.to_str().expect("utf-8").to_owned();
    let (source, words, target) = (path("source"), path("words"), path("target"));
    make_tree(&source);
    let data: Vec<_> = (0..4).map(|host| path(&format!("data{host}"))).collect();
    lan.json(
        0,
        &data[0],
        &["init", "--yes", "--words-out", &text(&words)],
    );
    let lost = lan.node(0, &data[0]);
    let _others = [lan.node(1, &data[1]), lan.node(2, &data[2])];
    let ring = lan.json(0, &data[0], &["ring", "create", "home"]);
    let code = ring["code"].as_str().expect("a code");
    for host in [1, 2] {
        let joined = lan.json(host, &data[host], &["ring", "join", code]);
        assert_eq!(joined["ring"], "home");
    }

    let made = lan.json(
        0,
        &data[0],
        &[
            "backup",
            &text(&source),
            "--copies",
            "2",
            "--wait",
            "--timeout",
            "120",
        ],
    );
    let copies = &made["copies"];
    assert_eq!(
        (&copies["asked"], &copies["reached"]),
        (&2.into(), &2.into())
    );
    let holders = copies["holders"].as_array().expect("a list");
    assert_eq!(holders.len(), 2, "{made}");
    let health = lan.json(0, &data[0], &["health"]);
    assert_eq!(health["sets"][0]["copies_min"], 2, "{health}");
    assert_eq!(health["sets"][0]["survives"], 2, "{health}");
    let members = lan.json(0, &data[0], &["ring", "members", "home"])["members"].clone();
    let online = |member: &serde_json::Value| member["online"] == true;
    let all = members.as_array().expect("a list");
    assert_eq!(
        all.iter().filter(|member| online(member)).count(),
        2,
        "{members}"
    );

    // More copies than there are members: it says so, and what was promised still holds.
    let more = lan
        .on(0, &data[0])
        .args([
            "backup",
            &text(&source),
            "--copies",
            "3",
            "--wait",
            "--timeout",
            "3",
            "--json",
        ])
        .output()
        .expect("it runs");
    assert_eq!(more.status.code(), Some(3), "{more:?}");

    lost.kill();
    std::fs::remove_dir_all(&data[0]).expect("gone");
    let restored = lan.json(
        3,
        &data[3],
        &[
            "restore",
            "latest",
            "--phrase-file",
            &text(&words),
            "--target",
            &text(&target),
            "--verify",
        ],
    );
    assert_eq!(restored["verified"], true, "{restored}");
    assert_eq!(restored["missing"], serde_json::json!([]));
    assert_same(
        &source,
        &target.join(source.strip_prefix("/").expect("absolute")),
    );
}

/// The README's first example: no node runs on either machine, and nothing is set.
#[test]
fn what_is_put_on_a_terminal_is_fetched_by_another_machine() {
    let lan = match Lan::make("p", 2) {
        Ok(lan) => lan,
        Err(reason) => {
            eprintln!("skipped: {reason}");
            return;
        }
    };
    let dir = tempfile::tempdir().expect("a directory");
    let source = dir.path().join("source");
    make_tree(&source);
    let on = |host: usize, program: &[&str]| {
        let mut command = Command::new("ip");
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LIBERNET_")) {
            command.env_remove(name);
        }
        command.env_remove("RUST_LOG");
        command.args(["netns", "exec", &lan.host(host)]);
        command.args(program);
        command
    };
    let binary = env!("CARGO_BIN_EXE_libernet");
    if !on(0, &["python3", "--version"])
        .output()
        .is_ok_and(|output| output.status.success())
    {
        eprintln!("skipped: this machine has no python3, which makes the terminal");
        return;
    }
    let mut put = on(0, &["python3", "-c", SCRIPT, "serve", binary, "--data-dir"])
        .arg(dir.path().join("data0"))
        .arg("put")
        .arg(&source)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut shown = BufReader::new(put.stdout.take().expect("piped"));
    let mut link = String::new();
    shown.read_line(&mut link).expect("a line");
    assert!(link.starts_with("libernet:"), "{link}");

    let out = dir.path().join("out");
    let get = on(1, &[binary, "--data-dir"])
        .arg(dir.path().join("data1"))
        .args(["get", link.trim(), "-o"])
        .arg(&out)
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&get.stderr);
    assert!(get.status.success(), "{said}");
    assert!(said.contains("from 12D3KooW"), "{said}");
    assert_same(&source, &out);

    // Ctrl-C: it was asked to end, and all is well.
    drop(put.stdin.take());
    let mut rest = String::new();
    shown.read_to_string(&mut rest).expect("text");
    assert_eq!(put.wait().expect("it ended").code(), Some(0), "{rest}");
    assert!(rest.contains("In a browser on this machine:"), "{rest}");
    assert!(!dir.path().join("data0").join("api.json").exists());
}
