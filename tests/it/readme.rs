//! Commands of the README, run word for word: on machines with a fresh home on a LAN of their own,
//! by somebody at a terminal.
//!
//! Each machine is a network namespace with a `/home` and a `/tmp` of its own. Only what differs
//! for everybody is put in the place of what the README shows: the link, the code of the ring, and
//! the twelve words.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use crate::lan::Lan;
use crate::sample::{make_tree, noise};

/// Makes the terminal.
const RELAY: &str = include_str!("relay.py");
/// Longer than anything here takes, on a busy machine too.
const LONG: Duration = Duration::from_secs(300);
/// Parts of a screen that wait to be looked at; what shows more waits.
const PARTS_AHEAD: usize = 4096;
/// Commands of the README that each test runs, by how they begin.
const SHARING: [&str; 4] = [
    "libernet put ~/Photos/2026",
    "libernet get libernet:",
    "libernet put ~/Photos/2026 --reachable",
    "libernet get lnticket",
];
const BACKING_UP: [&str; 8] = [
    "libernet init --sheet words.html",
    "libernet backup ~/Documents --exclude",
    "libernet backup add ~/Documents",
    "libernet backup --set docs",
    "libernet snapshots",
    "libernet restore latest --target /tmp/back",
    "libernet restore latest:/home/you/Documents",
    "libernet restore latest --set docs --machine laptop",
];
const IN_A_RING: [&str; 6] = [
    "libernet up",
    "libernet ring create home",
    "libernet ring join home:",
    "libernet backup ~/Documents --copies 2 --wait",
    "libernet health",
    "libernet restore latest --phrase",
];
/// Commands that build the program: continuous integration runs these.
const BUILDING: [&str; 2] = ["./scripts/libernet demo", "./scripts/test"];

/// The commands that the README shows, without their comments.
fn shown() -> Vec<String> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(readme).expect("the README");
    let mut commands = Vec::new();
    let mut is_console = false;
    for line in text.lines() {
        if line.starts_with("```") {
            is_console = line == "```console";
        } else if let Some(command) = line.strip_prefix("$ ").filter(|_| is_console) {
            let command = command.split("  #").next().unwrap_or(command);
            commands.push(command.trim_end().to_owned());
        }
    }
    commands
}

/// The README's one command that begins so.
fn command(beginning: &str) -> String {
    let found = shown()
        .into_iter()
        .find(|shown| shown.starts_with(beginning));
    found.unwrap_or_else(|| panic!("the README shows no `{beginning}`"))
}

#[test]
fn every_command_of_the_readme_is_run_by_a_test() {
    let run = [&SHARING[..], &BACKING_UP, &IN_A_RING, &BUILDING].concat();
    let shown = shown();
    for command in &shown {
        let by = run.iter().filter(|one| command.starts_with(**one)).count();
        assert!(by > 0, "no test runs `{command}`");
    }
    for one in run {
        assert!(
            shown.iter().any(|command| command.starts_with(one)),
            "{one}"
        );
    }
}

/// A machine with a fresh home. Ends when dropped.
struct Machine {
    holder: Child,
}

impl Machine {
    fn start(lan: &Lan, host: usize) -> Self {
        let binary = Path::new(env!("CARGO_BIN_EXE_libernet"));
        let holds = "mount --bind \"$0\" /mnt && mount -t tmpfs home /home && mount -t tmpfs tmp /tmp \
                     && hostname laptop && mkdir /home/you && echo ready && exec sleep infinity";
        let mut holder = Command::new("ip")
            .args(["netns", "exec", &lan.host(host)])
            .args([
                "unshare",
                "--uts",
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                holds,
            ])
            .arg(binary.parent().expect("a directory"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("ip runs");
        let mut said = [0; 6];
        let stdout = holder.stdout.as_mut().expect("piped");
        stdout.read_exact(&mut said).expect("the machine is ready");
        Self { holder }
    }

    /// Its view of a path.
    fn path(&self, path: &str) -> std::path::PathBuf {
        format!("/proc/{}/root{path}", self.holder.id()).into()
    }

    /// Types a command into a shell on a terminal of its own.
    fn types(&self, line: &str) -> Terminal {
        let mut command = Command::new("nsenter");
        command
            .args([
                "--mount",
                "--net",
                "--uts",
                "--target",
                &self.holder.id().to_string(),
            ])
            .args(["env", "-i", "HOME=/home/you", "TERM=xterm", "LANG=C.UTF-8"])
            .arg("PATH=/mnt:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .args(["python3", "-c", RELAY, "sh", "-c"])
            .arg(format!("cd && exec {line}"));
        Terminal::start(command, line)
    }

    /// Runs a command that needs no answer; what it showed. It must succeed.
    fn runs(&self, line: &str) -> String {
        self.types(line).succeeds()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail when it has ended already, which is as good.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A command on a terminal.
struct Terminal {
    line: String,
    relay: Child,
    keyboard: ChildStdin,
    screen: Receiver<Vec<u8>>,
    shown: String,
    /// Bytes of `shown` that have been waited for.
    seen: usize,
}

impl Terminal {
    fn start(mut command: Command, line: &str) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut relay = command.spawn().expect("nsenter runs");
        let mut output = relay.stdout.take().expect("piped");
        let (sender, screen) = sync_channel(PARTS_AHEAD);
        std::thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(bytes @ 1..) = output.read(&mut part) {
                if sender.send(part[..bytes].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self {
            line: line.to_owned(),
            keyboard: relay.stdin.take().expect("piped"),
            relay,
            screen,
            shown: String::new(),
            seen: 0,
        }
    }

    /// Waits until a text appears after what was waited for before; what came up to its end.
    fn until(&mut self, text: &str) -> String {
        let end = Instant::now() + LONG;
        loop {
            if let Some(at) = self.shown[self.seen..].find(text) {
                let from = self.seen;
                self.seen += at + text.len();
                return self.shown[from..self.seen].to_owned();
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(part) => self.shown.push_str(&String::from_utf8_lossy(&part)),
                Err(error) => panic!("`{}`: no '{text}' ({error}) in: {}", self.line, self.shown),
            }
        }
    }

    fn answers(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).expect("typed");
    }

    /// Waits for the end; all that was shown, and the exit code.
    fn ends(mut self) -> (String, Option<i32>) {
        let end = Instant::now() + LONG;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(part) => self.shown.push_str(&String::from_utf8_lossy(&part)),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("`{}` does not end: {}", self.line, self.shown)
                }
            }
        }
        let status = self.relay.wait().expect("it ended");
        (std::mem::take(&mut self.shown), status.code())
    }

    fn succeeds(self) -> String {
        let line = self.line.clone();
        let (shown, code) = self.ends();
        assert_eq!(code, Some(0), "`{line}`: {shown}");
        shown
    }

    /// Ends it as a person does.
    fn interrupt(mut self) -> (String, Option<i32>) {
        self.answers("\x03");
        self.ends()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.relay.kill();
        let _ = self.relay.wait();
    }
}

/// The machines of a LAN; nothing where they can't be made.
fn machines(tag: &str, number: usize) -> Option<(Lan, Vec<Machine>)> {
    let made = Lan::make(tag, number).and_then(|lan| {
        let has = |program: &str| Command::new(program).arg("--version").output().is_ok();
        if !has("nsenter") || !has("unshare") || !has("python3") {
            return Err("nsenter, unshare or python3 is not installed");
        }
        Ok(lan)
    });
    match made {
        Ok(lan) => {
            let machines = (0..number).map(|host| Machine::start(&lan, host)).collect();
            Some((lan, machines))
        }
        Err(reason) => {
            eprintln!("skipped: {reason}");
            None
        }
    }
}

/// The first `beginning` of a text, and what follows it up to a space or a control character.
fn word<'a>(text: &'a str, beginning: &str) -> &'a str {
    let from = text.find(beginning);
    let from = from.unwrap_or_else(|| panic!("no {beginning} in {text}"));
    let ends = |c: char| c.is_whitespace() || c.is_control();
    let end = text[from..].find(ends).map_or(text.len(), |end| from + end);
    &text[from..end]
}

/// A command of the README with the word that begins so replaced.
fn with(command: &str, beginning: &str, real: &str) -> String {
    command.replace(word(command, beginning), real)
}

fn makes_documents(machine: &Machine) -> std::path::PathBuf {
    let documents = machine.path("/home/you/Documents");
    make_tree(&documents);
    std::fs::write(documents.join("scratch.tmp"), "left out").expect("written");
    documents
}

/// `libernet init` as the README shows it; the twelve words.
fn inits(machine: &Machine) -> Vec<String> {
    let mut init = machine.types(&command("libernet init --sheet"));
    let shown = init.until("is cleared. ");
    let words: Vec<String> = (1..=12)
        .map(|number| {
            let (_, rest) = shown
                .split_once(&format!(" {number}. "))
                .or_else(|| shown.split_once(&format!("\n{number}. ")))
                .unwrap_or_else(|| panic!("no word {number} in {shown}"));
            let end = rest.find(|c: char| !c.is_ascii_lowercase());
            rest[..end.expect("more words")].to_owned()
        })
        .collect();
    init.answers("\n");
    for _ in 0..3 {
        init.until("Word ");
        let asked = init.until(": ");
        let number: usize = asked[..asked.len() - 2].parse().expect("a number");
        init.answers(&format!("{}\n", words[number - 1]));
    }
    let shown = init.succeeds();
    assert!(machine.path("/home/you/words.html").exists(), "{shown}");
    words
}

#[test]
fn sharing() {
    let Some((_lan, machines)) = machines("s", 2) else {
        return;
    };
    let [one, other] = &machines[..] else {
        unreachable!("two were asked for")
    };
    let photos = one.path("/home/you/Photos/2026");
    std::fs::create_dir(one.path("/home/you/Photos")).expect("made");
    make_tree(&photos);
    let mut put = one.types(&command("libernet put ~/Photos/2026"));
    put.until("libernet:bafk");
    // All of the link and what follows it is on the screen.
    put.until("Ctrl-C");
    let link = word(&put.shown, "libernet:bafk").to_owned();
    other.runs(&with(
        &command("libernet get libernet:"),
        "libernet:",
        &link,
    ));
    crate::sample::assert_same(&photos, &other.path("/home/you/photos"));
    let (shown, code) = put.interrupt();
    assert_eq!(code, Some(0), "{shown}");
}

#[test]
fn sharing_by_a_ticket() {
    let Some((_lan, machines)) = machines("t", 2) else {
        return;
    };
    let [one, other] = &machines[..] else {
        unreachable!("two were asked for")
    };
    let photos = one.path("/home/you/Photos/2026");
    std::fs::create_dir(one.path("/home/you/Photos")).expect("made");
    make_tree(&photos);
    // Nobody is found by mDNS: the ticket alone leads there.
    other.runs("libernet config set mdns false");
    let mut put = one.types(&command("libernet put ~/Photos/2026 --reachable"));
    put.until("lnticket");
    put.until("Ctrl-C");
    let ticket = word(&put.shown, "lnticket").to_owned();
    other.runs(&with(
        &command("libernet get lnticket"),
        "lnticket",
        &ticket,
    ));
    crate::sample::assert_same(&photos, &other.path("/home/you/from-afar"));
    let (shown, code) = put.interrupt();
    assert_eq!(code, Some(0), "{shown}");
}

#[test]
fn backing_up() {
    let Some((_lan, machines)) = machines("b", 1) else {
        return;
    };
    let machine = &machines[0];
    let documents = makes_documents(machine);
    inits(machine);
    let [_, backup, add, run, snapshots, whole, part, asked] = BACKING_UP.map(command);
    let shown = machine.runs(&backup);
    assert!(shown.contains("nobody else has a copy"), "{shown}");
    machine.runs(&add);
    machine.runs(&run);
    let shown = machine.runs(&snapshots);
    assert!(shown.contains("/home/you/Documents"), "{shown}");
    // The latest is the set's, which leaves nothing out.
    for (restore, target) in [(&whole, "/tmp/back"), (&asked, "/home/you/back")] {
        machine.runs(restore);
        let restored = machine.path(&format!("{target}/home/you/Documents"));
        crate::sample::assert_same(&documents, &restored);
    }
    // A file is lost, and comes back to where it was.
    std::fs::remove_file(documents.join("scratch.tmp")).expect("removed");
    machine.runs(&part);
    let restored = machine.path("/tmp/back/home/you/Documents");
    crate::sample::assert_same(&restored, &documents);
}

#[test]
fn in_a_ring() {
    let Some((_lan, mut machines)) = machines("g", 4) else {
        return;
    };
    let documents = makes_documents(&machines[0]);
    std::fs::write(documents.join("large"), noise(7, 3 << 20)).expect("written");
    let words = inits(&machines[0]);
    let [up, create, join, backup, health, restore] = IN_A_RING.map(command);
    let mut nodes: Vec<Terminal> = machines[..3].iter().map(|m| m.types(&up)).collect();
    for node in &mut nodes {
        node.until("is up");
        node.until("Ctrl-C");
    }
    let code = word(&machines[0].runs(&create), "home:").to_owned();
    for machine in &machines[1..3] {
        let mut joins = machine.types(&with(&join, "home:", &code));
        joins.until("Join? [y/N] ");
        joins.answers("y\n");
        let shown = joins.succeeds();
        assert!(shown.contains("lent to its members"), "{shown}");
    }
    let shown = machines[0].runs(&backup);
    assert!(!shown.contains("nobody else"), "{shown}");
    let shown = machines[0].runs(&health);
    assert!(shown.contains("2 of 2 copies"), "{shown}");

    // The machine that made the backup is lost. Another one has nothing but the words.
    let expected = tempfile::tempdir().expect("a directory");
    let kept = expected.path().join("Documents");
    let copied = Command::new("cp")
        .arg("-a")
        .arg(&documents)
        .arg(&kept)
        .status();
    assert!(copied.expect("cp runs").success());
    nodes.remove(0).interrupt();
    machines.remove(0);
    let newcomer = &machines[2];
    let mut restores = newcomer.types(&restore);
    restores.until("> ");
    restores.answers(&format!("{}\n", words.join(" ")));
    restores.succeeds();
    crate::sample::assert_same(&kept, &newcomer.path("/home/you/back/home/you/Documents"));
}
