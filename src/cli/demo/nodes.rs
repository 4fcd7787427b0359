//! The nodes of the demo: `libernet up` in processes of their own.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::sync::oneshot;

use crate::cli::exit::{Exit, Failure};
use crate::client::Client;
use crate::node::api::Status;

/// How long a node may take to be ready.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a node may take to stop before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How often to look whether it has stopped.
const STOP_INTERVAL: Duration = Duration::from_millis(20);
/// How often to look whether it has a peer.
const PEERS_INTERVAL: Duration = Duration::from_millis(50);
/// Most bytes of a node's complaint that are passed on.
const MAX_COMPLAINT_BYTES: u64 = 4096;
/// Longest first line of a node.
const MAX_READY_BYTES: u64 = 64 << 10;

/// A node process. Dropping it kills the process.
pub(super) struct DemoNode {
    pub(super) name: &'static str,
    pub(super) peer: String,
    pub(super) client: Client,
    addresses: Vec<String>,
    process: Process,
}

/// A child process that does not outlive this value.
struct Process {
    child: Child,
    /// While this is open the node runs on.
    _stdin: Option<ChildStdin>,
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail when it has ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first line of a node.
#[derive(Deserialize)]
struct Ready {
    peer: String,
    addresses: Vec<String>,
}

impl DemoNode {
    /// Starts a node on `data_dir` and waits until it is ready.
    pub(super) async fn start(
        name: &'static str,
        data_dir: &Path,
        bootstrap: &[String],
        quota: u64,
    ) -> Result<Self, Failure> {
        let failed = |what: &str| Failure::new(Exit::Failed, format!("the {name} node {what}"));
        let program = std::env::current_exe()
            .map_err(|error| Failure::io("this program can't find itself", &error))?;
        let mut command = Command::new(program);
        command
            .arg("--data-dir")
            .arg(data_dir)
            .args(["up", "--json", "--until-stdin-ends", "--no-mdns"])
            .args(["--listen", "/ip4/127.0.0.1/tcp/0", "--http", "127.0.0.1:0"])
            .args(["--quota", &quota.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for address in bootstrap {
            command.args(["--bootstrap", address]);
        }
        // The user's own settings are for the user's own node.
        for (_, variable, _) in crate::config::SETTINGS {
            command.env_remove(variable);
        }
        // The demo's nodes talk to this machine only.
        command.env("LIBERNET_MEET", "off");
        let mut child = command.spawn().map_err(|error| {
            Failure::io(format!("the {name} node could not be started"), &error)
        })?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take();
        let stderr = child.stderr.take();
        let mut process = Process {
            child,
            _stdin: stdin,
        };
        let complaint = stderr.map(read_complaint);
        let ready = match stdout.map(read_ready) {
            Some(ready) => tokio::time::timeout(START_TIMEOUT, ready).await,
            None => return Err(failed("has no output")),
        };
        let Ok(Ok(ready)) = ready else {
            let _ = process.child.kill();
            let mut failure = failed("did not start");
            if let Some(Ok(text)) = complaint.map(std::thread::JoinHandle::join) {
                failure.why.extend(text.lines().map(str::to_owned));
            }
            return Err(failure);
        };
        let client = Client::running(data_dir)
            .await?
            .ok_or_else(|| failed("is ready but does not answer"))?;
        Ok(Self {
            name,
            peer: ready.peer,
            client,
            addresses: ready.addresses,
            process,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// Where others reach it.
    pub(super) fn address(&self) -> Result<String, Failure> {
        self.addresses.first().cloned().ok_or_else(|| {
            Failure::new(
                Exit::Failed,
                format!("the {} node listens nowhere", self.name),
            )
        })
    }

    /// Waits until it is connected to another node.
    pub(super) async fn wait_for_peers(&self) -> Result<(), Failure> {
        let start = Instant::now();
        while self.client.status(Status {}).await?.peers == 0 {
            if start.elapsed() > START_TIMEOUT {
                return Err(Failure::new(
                    Exit::Failed,
                    format!("the {} node did not find the others", self.name),
                ));
            }
            tokio::time::sleep(PEERS_INTERVAL).await;
        }
        Ok(())
    }

    /// Stops the node by a signal, as a service manager would.
    pub(super) async fn stop(mut self) -> Result<(), Failure> {
        let pid = i32::try_from(self.pid())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let start = Instant::now();
        loop {
            match self.process.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => {
                    return Err(Failure::new(
                        Exit::Failed,
                        format!("the {} node ended badly: {status}", self.name),
                    ));
                }
                Ok(None) if start.elapsed() < STOP_TIMEOUT => {
                    tokio::time::sleep(STOP_INTERVAL).await
                }
                Ok(None) => {
                    return Err(Failure::new(
                        Exit::Failed,
                        format!("the {} node did not stop in time", self.name),
                    ));
                }
                Err(error) => return Err(Failure::io("a node could not be waited for", &error)),
            }
        }
    }
}

/// The first line as soon as it is there; what follows is read and dropped, so that the node never waits for a reader.
fn read_ready(stdout: ChildStdout) -> oneshot::Receiver<Ready> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut line = String::new();
        let read = reader.by_ref().take(MAX_READY_BYTES).read_line(&mut line);
        if read.is_ok()
            && let Ok(ready) = serde_json::from_str(&line)
        {
            let _ = sender.send(ready);
        }
        let _ = std::io::copy(&mut reader, &mut std::io::sink());
    });
    receiver
}

/// The start of what a node says on stderr, once it has ended.
fn read_complaint(stderr: std::process::ChildStderr) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stderr);
        let mut text = Vec::new();
        let _ = reader
            .by_ref()
            .take(MAX_COMPLAINT_BYTES)
            .read_to_end(&mut text);
        let _ = std::io::copy(&mut reader, &mut std::io::sink());
        String::from_utf8_lossy(&text).into_owned()
    })
}
