//! The program started exactly as the README says, on machines with every kind of network: where
//! does it listen?

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::lan::{can_make_namespaces, ip};
use crate::process::{Node, fails, run};

/// Addresses of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Network {
    Both,
    OnlyV4,
    OnlyV6,
    LoopbackAlone,
    /// Not even the loopback interface is up.
    Nothing,
}

/// A machine: a network namespace and a home directory of its own. Removed when dropped.
struct Machine {
    namespace: String,
    home: tempfile::TempDir,
}

impl Machine {
    /// Makes a machine; the reason when this one can't.
    fn make(tag: &str, network: Network) -> Result<Self, &'static str> {
        can_make_namespaces()?;
        let namespace = format!("ln{}{tag}", std::process::id());
        if !ip(&["netns", "add", &namespace]) {
            return Err("this system lets nobody make network namespaces");
        }
        let machine = Self {
            namespace,
            home: tempfile::tempdir().expect("a directory"),
        };
        if network == Network::Nothing {
            return Ok(machine);
        }
        if network == Network::OnlyV4 {
            for place in ["all", "default", "lo"] {
                let setting = format!("net.ipv6.conf.{place}.disable_ipv6=1");
                let set = machine.inside("sysctl").args(["-qw", &setting]).status();
                if !set.is_ok_and(|status| status.success()) {
                    return Err("sysctl can't switch IPv6 off here");
                }
            }
        }
        machine.ip(&["link", "set", "lo", "up"]);
        if network == Network::LoopbackAlone {
            return Ok(machine);
        }
        machine.ip(&[
            "link", "add", "eth0", "type", "veth", "peer", "name", "eth1",
        ]);
        if network != Network::OnlyV6 {
            machine.ip(&["addr", "add", "10.93.8.1/24", "dev", "eth0"]);
        }
        if network != Network::OnlyV4 {
            machine.ip(&["addr", "add", "fd00:93::1/64", "dev", "eth0", "nodad"]);
        }
        for link in ["eth0", "eth1"] {
            machine.ip(&["link", "set", link, "up"]);
        }
        Ok(machine)
    }

    fn ip(&self, args: &[&str]) {
        let all = [&["-n", &self.namespace][..], args].concat();
        assert!(ip(&all), "ip {}", all.join(" "));
    }

    fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, program]);
        command
    }

    /// The program with a fresh home and nothing else set.
    fn libernet(&self, home: &str) -> Command {
        let home = self.home.path().join(home);
        std::fs::create_dir_all(&home).expect("made");
        let mut command = self.inside(env!("CARGO_BIN_EXE_libernet"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", home)
            .stdin(std::process::Stdio::null());
        command
    }

    fn run(&self, home: &str, args: &[&str]) -> Output {
        let mut command = self.libernet(home);
        command.args(args).output().expect("the program runs")
    }

    /// `libernet up` without any setting.
    fn up(&self, home: &str) -> Node {
        let mut command = self.libernet(home);
        command.args(["up", "--json"]);
        Node::spawn(Path::new(home), command)
    }

    fn file(&self) -> PathBuf {
        let path = self.home.path().join("file");
        std::fs::write(&path, "some text").expect("written");
        path
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        ip(&["netns", "del", &self.namespace]);
    }
}

/// Makes a machine, or says why not.
fn machine(tag: &str, network: Network) -> Option<Machine> {
    match Machine::make(tag, network) {
        Ok(machine) => Some(machine),
        Err(reason) => {
            eprintln!("skipped: {reason}");
            None
        }
    }
}

fn succeeds(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(!stderr.contains("listen on"), "{stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_node_starts_by_its_defaults_on_every_kind_of_network() {
    for (tag, network, heard) in [
        (
            "2",
            Network::Both,
            &["/ip4/10.93.8.1/", "/ip6/fd00:93::1/"][..],
        ),
        (
            "4",
            Network::OnlyV4,
            &["/ip4/10.93.8.1/", "/ip4/127.0.0.1/"],
        ),
        ("6", Network::OnlyV6, &["/ip6/fd00:93::1/", "/ip6/::1/"]),
        (
            "l",
            Network::LoopbackAlone,
            &["/ip4/127.0.0.1/", "/ip6/::1/"],
        ),
    ] {
        let Some(machine) = machine(tag, network) else {
            return;
        };
        let mut node = machine.up("a");
        for ip in heard {
            for port in ["tcp/4384/", "udp/4384/quic-v1/"] {
                let found = node
                    .addresses
                    .iter()
                    .any(|a| a.starts_with(&format!("{ip}{port}")));
                assert!(found, "{network:?} {ip}{port}: {:?}", node.addresses);
            }
        }
        if network == Network::OnlyV4 {
            let told = node.wait_for(|event| event["event"] == "warning");
            let words = told["message"].as_str().expect("a text");
            assert!(words.contains("no IPv6 address"), "{words}");
        }
        let status = machine.run("a", &["status", "--json"]);
        assert!(succeeds(&status).contains(&node.peer), "{network:?}");
        node.stop();
    }
}

#[test]
fn commands_without_a_node_work_on_every_kind_of_network() {
    for (tag, network) in [
        ("c2", Network::Both),
        ("c4", Network::OnlyV4),
        ("c6", Network::OnlyV6),
        ("cl", Network::LoopbackAlone),
        ("cn", Network::Nothing),
    ] {
        let Some(machine) = machine(tag, network) else {
            return;
        };
        let file = machine.file();
        let file = file.to_str().expect("utf-8");
        let put = machine.run("a", &["put", file, "--json"]);
        let put: serde_json::Value =
            serde_json::from_str(&succeeds(&put)).unwrap_or_else(|e| panic!("{network:?}: {e}"));
        let link = put["link"].as_str().expect("a link");
        let text = machine.run("a", &["cat", link]);
        assert_eq!(succeeds(&text), "some text", "{network:?}");
    }
}

#[test]
fn a_machine_without_any_address_is_told_what_it_lacks() {
    let Some(machine) = machine("n", Network::Nothing) else {
        return;
    };
    let mut node = machine.up("a");
    assert_eq!(node.addresses, Vec::<String>::new());
    for family in ["IPv4", "IPv6"] {
        let told = node.wait_for(|event| event["event"] == "warning");
        let words = told["message"].as_str().expect("a text");
        assert!(words.contains(&format!("no {family} address")), "{words}");
    }
    node.stop();
}

#[test]
fn a_machine_that_gets_an_address_later_is_heard_from_then_on() {
    let Some(machine) = machine("w", Network::LoopbackAlone) else {
        return;
    };
    let mut node = machine.up("a");
    machine.ip(&[
        "link", "add", "eth0", "type", "veth", "peer", "name", "eth1",
    ]);
    machine.ip(&["addr", "add", "10.93.8.7/24", "dev", "eth0"]);
    machine.ip(&["link", "set", "eth0", "up"]);
    let wanted = "/ip4/10.93.8.7/tcp/4384/";
    node.wait_for(|event| {
        let address = event["address"].as_str().unwrap_or_default();
        event["event"] == "listening" && address.starts_with(wanted)
    });
    node.stop();
}

#[test]
fn a_busy_port_keeps_the_program_from_starting_and_is_named() {
    let Some(machine) = machine("b", Network::Both) else {
        return;
    };
    for (home, taken) in [
        ("tcp4", "/ip4/0.0.0.0/tcp/4384"),
        ("tcp6", "/ip6/::/tcp/4384"),
        ("udp4", "/ip4/0.0.0.0/udp/4384/quic-v1"),
    ] {
        let mut other = machine.libernet(home);
        other.args(["up", "--json", "--http", "127.0.0.1:0", "--listen", taken]);
        let other = Node::spawn(Path::new(home), other);
        let up = machine.run("fresh", &["up"]);
        fails(&up, 1, "in use");
        fails(&up, 1, taken);
        fails(&up, 1, "--listen");
        other.stop();
    }
    // Nothing of the refused starts stands in the way of one that can succeed.
    machine.up("fresh").stop();
}

#[test]
fn an_address_that_a_person_chose_is_needed() {
    let dir = tempfile::tempdir().expect("a directory");
    // Reserved for documentation: no machine has it.
    let foreign = "/ip4/192.0.2.9/tcp/0";
    let args = [
        "up",
        "--no-mdns",
        "--http",
        "127.0.0.1:0",
        "--listen",
        "/ip4/127.0.0.1/tcp/0",
        "--listen",
        foreign,
    ];
    fails(&run(dir.path(), &args), 1, foreign);
}

#[test]
fn a_second_node_on_the_same_data_says_which_runs_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(dir.path(), &[]);
    for args in [&["up"][..], &["up", "--http", "127.0.0.1:0"]] {
        let second = run(dir.path(), args);
        fails(&second, 7, &format!("process {} since", node.pid()));
        fails(&second, 7, "--data-dir");
    }
    node.stop();
}
