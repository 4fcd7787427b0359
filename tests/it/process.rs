//! Real `libernet` processes for tests: started with their own data directory, listening on loopback only, ended by their ids.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// The binary under test, without settings from the environment. It never talks to the public
/// meeting point: a test that meets has one of its own.
pub fn libernet() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_libernet"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LIBERNET_")) {
        command.env_remove(name);
    }
    command.env("LIBERNET_MEET", "off");
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// A running node.
pub struct Node {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
    pub data: PathBuf,
    pub peer: String,
    pub addresses: Vec<String>,
    pub http: String,
}

impl Node {
    /// Starts a node and waits until it is ready.
    pub fn start(data: &Path, bootstrap: &[&str]) -> Self {
        Self::start_with(data, bootstrap, &[])
    }

    /// Starts a node with further flags.
    pub fn start_with(data: &Path, bootstrap: &[&str], flags: &[&str]) -> Self {
        let mut command = libernet();
        command.arg("--data-dir").arg(data).args([
            "up",
            "--json",
            "--listen",
            "/ip4/127.0.0.1/tcp/0",
            "--http",
            "127.0.0.1:0",
            "--no-mdns",
        ]);
        for address in bootstrap {
            command.args(["--bootstrap", address]);
        }
        command.args(flags);
        Self::spawn(data, command)
    }

    /// Starts a node by a whole command and waits until it is ready.
    pub fn spawn(data: &Path, mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("a line");
        let Ok(ready) = serde_json::from_str::<Value>(&line) else {
            let output = child.wait_with_output().expect("it ended");
            panic!(
                "not ready: {line:?} {}",
                String::from_utf8_lossy(&output.stderr)
            );
        };
        assert_eq!(ready["event"], "ready", "{ready}");
        // What it logs is read and dropped, so that a full pipe never stops it.
        let stderr = child.stderr.take().expect("piped");
        std::thread::spawn(move || BufReader::new(stderr).lines().count());
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        Self {
            child,
            stdout,
            data: data.to_owned(),
            peer: text(&ready["peer"]),
            addresses: ready["addresses"]
                .as_array()
                .expect("a list")
                .iter()
                .map(text)
                .collect(),
            http: text(&ready["http"]),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for an event that `wanted` accepts.
    pub fn wait_for(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut line = String::new();
        loop {
            line.clear();
            let read = self.stdout.read_line(&mut line).expect("a line");
            assert!(read > 0, "the node ended before the event came");
            let event: Value = serde_json::from_str(&line).expect("one JSON value a line");
            if wanted(&event) {
                return event;
            }
        }
    }

    /// Runs a command against this node.
    pub fn run(&self, args: &[&str]) -> Output {
        run(&self.data, args)
    }

    /// Runs a command that must succeed and gives its JSON.
    pub fn json(&self, args: &[&str]) -> Value {
        json(&self.data, args)
    }

    /// Joins a ring, whether a member is there to let the node in or comes later.
    pub fn join(&self, code: &str) -> Value {
        let joined = self.run(&["ring", "join", code, "--json"]);
        let told = String::from_utf8_lossy(&joined.stderr);
        assert!(matches!(joined.status.code(), Some(0 | 3)), "{told}");
        serde_json::from_slice(&joined.stdout).expect("JSON")
    }

    /// Ends the node by SIGTERM and checks that it ends cleanly.
    pub fn stop(mut self) {
        signal(self.pid(), "TERM");
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "{status}");
    }

    /// Ends the node by SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().expect("it was running");
        self.child.wait().expect("it ended");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process that this test started.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill")
        .args([&format!("-{name}"), &pid.to_string()])
        .status()
        .expect("kill runs");
    assert!(status.success(), "kill -{name} {pid}");
}

/// Runs a command to its end.
pub fn run(data: &Path, args: &[&str]) -> Output {
    libernet()
        .arg("--data-dir")
        .arg(data)
        .args(args)
        .output()
        .expect("the binary runs")
}

/// Runs a command that must succeed and gives its JSON.
pub fn json(data: &Path, args: &[&str]) -> Value {
    let mut all = args.to_vec();
    all.push("--json");
    let output = run(data, &all);
    assert!(
        output.status.success(),
        "{args:?}: {} {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stdout)))
}

/// Checks that a command failed with `code` and said `words` on standard error.
pub fn fails(output: &Output, code: i32, words: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(words), "expected '{words}' in: {stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}
