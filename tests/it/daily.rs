//! Daily life: problems that are told, messages about them, secrets without typing, units of
//! systemd, manual pages and packages.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::process::{Node, fails, json, libernet, run};

fn text(path: &Path) -> &str {
    path.to_str().expect("utf-8")
}

/// Kinds of problems in a list.
fn ids(list: &Value) -> Vec<String> {
    let list = list.as_array().expect("a list").iter();
    let id = |one: &Value| one["id"].as_str().expect("an id").to_owned();
    list.map(id).collect()
}

#[test]
fn a_set_that_can_not_run_is_told_everywhere_and_by_messages() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let (gone, words) = (dir.path().join("gone"), dir.path().join("words"));
    json(&data, &["init", "--yes", "--words-out", text(&words)]);
    let add = ["backup", "add", text(&gone), "--name", "docs"];
    json(
        &data,
        &[
            &add[..],
            &["--schedule", "daily 03:00", "--warn-after", "3d"],
        ]
        .concat(),
    );
    let bad = run(&data, &[&add[..], &["--warn-after", "0d"]].concat());
    fails(&bad, 2, "from 1d");
    // Without a way to tell anybody there is nothing to try.
    let none = run(&data, &["notify", "test"]);
    fails(&none, 4, "no way");
    let bin = dir.path().join("bin");
    std::fs::create_dir(&bin).expect("made");
    let (mail, script) = (dir.path().join("mail"), bin.join("sendmail"));
    let lines = format!("#!/bin/sh\n(echo \"$@\"; cat) >> {}\n", mail.display());
    std::fs::write(&script, lines).expect("written");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("set");
    for (name, value) in [
        ("notify_mail", "me@example.org"),
        ("notify_command", "echo broken >&2; exit 7"),
    ] {
        json(&data, &["config", "set", name, value]);
    }
    let wrong = run(
        &data,
        &["config", "set", "notify_webhook", "https://example.org/"],
    );
    fails(&wrong, 2, "curl");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut up = libernet();
    up.arg("--data-dir").arg(&data);
    up.args([
        "up",
        "--json",
        "--listen",
        "/ip4/127.0.0.1/tcp/0",
        "--http",
        "127.0.0.1:0",
    ]);
    up.args(["--no-mdns"])
        .env("PATH", format!("{}:{path}", bin.display()));
    let mut node = Node::spawn(&data, up);
    let began = node.wait_for(|event| event["event"] == "problem");
    assert_eq!(
        (&began["kind"], &began["id"]),
        (&"began".into(), &"backup_failed".into())
    );
    assert_eq!(began["subject"], "docs");
    let tried = node.run(&["notify", "test", "--json"]);
    assert_eq!(tried.status.code(), Some(3), "the command fails");
    let tried: Value = serde_json::from_slice(&tried.stdout).expect("JSON");
    let command = &tried["ways"][0];
    assert_eq!(command["way"], "command");
    assert!(
        command["error"]
            .as_str()
            .is_some_and(|why| why.contains("broken")),
        "{command}"
    );
    assert_eq!(tried["ways"][1]["error"], Value::Null, "{tried}");
    let got = std::fs::read_to_string(&mail).expect("mail");
    assert!(
        got.contains("-i -- me@example.org\nTo: me@example.org\nSubject: libernet on"),
        "{got}"
    );
    // The same list everywhere, with what failed to arrive.
    let status = node.json(&["status"]);
    let list = ids(&status["problem_list"]);
    assert!(list.contains(&"backup_failed".to_owned()), "{list:?}");
    assert!(list.contains(&"notifications".to_owned()), "{list:?}");
    let health = node.run(&["health", "--json"]);
    assert_eq!(health.status.code(), Some(3));
    let health: Value = serde_json::from_slice(&health.stdout).expect("JSON");
    assert_eq!(ids(&health["problem_list"]), list);
    let doctor = node.run(&["doctor"]);
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(doctor.contains("by command did not arrive"), "{doctor}");
    let since = status["problem_list"][0]["since"].as_u64().expect("a time");
    node.stop();
    // The time since when is kept.
    let node = Node::start(&data, &[]);
    assert_eq!(node.json(&["status"])["problem_list"][0]["since"], since);
    node.stop();
}

#[test]
fn a_passphrase_comes_from_files_commands_descriptors_and_credentials() {
    let dir = tempfile::tempdir().expect("a directory");
    let (data, source) = (dir.path().join("data"), dir.path().join("source"));
    std::fs::create_dir(&source).expect("made");
    std::fs::write(source.join("a"), "a").expect("written");
    let credentials = dir.path().join("credentials");
    std::fs::create_dir(&credentials).expect("made");
    let secret = credentials.join("libernet-passphrase");
    std::fs::write(&secret, "correct horse\n").expect("written");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).expect("set");
    let words = dir.path().join("words");
    let init = [
        "init",
        "--yes",
        "--words-out",
        text(&words),
        "--passphrase-file",
        text(&secret),
    ];
    json(&data, &init);
    let add = [
        "backup",
        "add",
        text(&source),
        "--name",
        "docs",
        "--schedule",
        "daily 03:00",
    ];
    json(&data, &add);
    fails(
        &run(&data, &["unlock", "--passphrase-file", text(&secret)]),
        11,
        "no node",
    );
    let is_locked = |node: &Node| {
        let status = node.json(&["status"]);
        ids(&status["problem_list"]).contains(&"passphrase".to_owned())
    };
    let node = Node::start(&data, &[]);
    assert!(is_locked(&node));
    fails(
        &node.run(&["unlock", "--passphrase-command", "echo wrong"]),
        5,
        "passphrase",
    );
    fails(
        &node.run(&["unlock", "--passphrase-command", "exit 4"]),
        2,
        "failed",
    );
    assert!(is_locked(&node));
    let command = format!("cat '{}'", secret.display());
    assert_eq!(
        node.json(&["unlock", "--password-command", &command])["unlocked"],
        true
    );
    assert!(!is_locked(&node));
    node.stop();
    let node = Node::start(&data, &[]);
    let mut unlock = Command::new("/bin/sh");
    let line = format!(
        "exec \"$0\" --data-dir \"$1\" unlock --passphrase-fd 3 3<'{}'",
        secret.display()
    );
    unlock
        .args(["-c", &line, env!("CARGO_BIN_EXE_libernet")])
        .arg(&data);
    assert!(unlock.status().expect("runs").success());
    assert!(!is_locked(&node));
    node.stop();
    let mut up = libernet();
    up.arg("--data-dir")
        .arg(&data)
        .env("CREDENTIALS_DIRECTORY", &credentials);
    up.args([
        "up",
        "--json",
        "--listen",
        "/ip4/127.0.0.1/tcp/0",
        "--http",
        "127.0.0.1:0",
    ]);
    let mut node = Node::spawn(&data, {
        up.arg("--no-mdns");
        up
    });
    node.wait_for(|event| event["event"] == "backed_up");
    assert!(!is_locked(&node));
    node.stop();
}

#[test]
fn a_service_manager_hears_when_the_node_is_ready_and_alive_and_stops() {
    let dir = tempfile::tempdir().expect("a directory");
    let (data, path) = (dir.path().join("data"), dir.path().join("notify"));
    let socket = std::os::unix::net::UnixDatagram::bind(&path).expect("a socket");
    let mut up = libernet();
    up.arg("--data-dir").arg(&data).env("NOTIFY_SOCKET", &path);
    up.env("WATCHDOG_USEC", "300000").env_remove("WATCHDOG_PID");
    up.args([
        "up",
        "--json",
        "--listen",
        "/ip4/127.0.0.1/tcp/0",
        "--http",
        "127.0.0.1:0",
    ]);
    let node = Node::spawn(&data, {
        up.arg("--no-mdns");
        up
    });
    let hear = || {
        let mut said = [0; 256];
        let len = socket.recv(&mut said).expect("a message");
        String::from_utf8_lossy(&said[..len]).into_owned()
    };
    assert!(hear().contains("READY=1"));
    for _ in 0..3 {
        assert!(hear().contains("WATCHDOG=1"));
    }
    node.stop();
    while !hear().contains("STOPPING=1") {}
}

#[test]
fn units_are_what_systemd_takes() {
    let dir = tempfile::tempdir().expect("a directory");
    for (flag, name) in [(Some("--system"), "system"), (None, "user")] {
        let mut args = vec!["service", "install", "--print"];
        args.extend(flag);
        let printed = run(&dir.path().join("data"), &args);
        assert!(printed.status.success());
        let unit = dir.path().join(format!("{name}.service"));
        std::fs::write(&unit, &printed.stdout).expect("written");
        let verify = Command::new("systemd-analyze")
            .args(["verify", "--man=no", text(&unit)])
            .output();
        let verify = match verify {
            Ok(verify) => verify,
            Err(_) => return eprintln!("skipped: this machine has no systemd-analyze"),
        };
        let said = String::from_utf8_lossy(&verify.stderr).into_owned();
        let of_unit: Vec<&str> = said.lines().filter(|line| line.contains(name)).collect();
        assert!(verify.status.success() && of_unit.is_empty(), "{said}");
        if flag.is_some() {
            let security = Command::new("systemd-analyze")
                .args(["security", "--offline=yes", "--threshold=45", text(&unit)])
                .output()
                .expect("it was there a moment ago");
            let said = String::from_utf8_lossy(&security.stdout).into_owned();
            let told = String::from_utf8_lossy(&security.stderr).into_owned();
            assert!(
                security.status.success(),
                "exposure above 4.5: {said}{told}"
            );
        }
    }
}

#[test]
fn packages_have_the_program_its_manual_completions_and_units() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if Command::new("dpkg-deb").arg("--version").output().is_err() {
        return eprintln!("skipped: this machine has no dpkg-deb");
    }
    let dir = tempfile::tempdir().expect("a directory");
    // What stands in for the large program of a test build: it passes every call on.
    let program = dir.path().join("libernet");
    let lines = format!(
        "#!/bin/sh\nexec '{}' \"$@\"\n",
        env!("CARGO_BIN_EXE_libernet")
    );
    std::fs::write(&program, lines).expect("written");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("set");
    let mut sums = Vec::new();
    for out in ["one", "two"] {
        let out = dir.path().join(out);
        let made = Command::new(root.join("scripts/package"))
            .args([
                "--binary",
                text(&program),
                "--out",
                text(&out),
                "--version",
                "9.8.7",
            ])
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .output()
            .expect("it runs");
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        sums.push(std::fs::read_to_string(out.join("SHA256SUMS")).expect("sums"));
    }
    assert_eq!(sums[0], sums[1], "the same bytes twice");
    let names: Vec<&str> = sums[0]
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .collect();
    let list = |program: &str, flag: &str, ending: &str| {
        let name = names
            .iter()
            .find(|name| name.ends_with(ending))
            .expect("made");
        let path = dir.path().join("one").join(name);
        let listed = Command::new(program)
            .arg(flag)
            .arg(path)
            .output()
            .expect("runs");
        assert!(listed.status.success());
        String::from_utf8_lossy(&listed.stdout).into_owned()
    };
    for listed in [
        list("dpkg-deb", "--contents", ".deb"),
        list("tar", "-tzf", ".tar.gz"),
    ] {
        for wanted in [
            "/bin/libernet",
            "/share/man/man1/libernet.1.gz",
            "/share/man/man1/libernet-backup.1.gz",
            "/share/bash-completion/completions/libernet",
            "/share/zsh/vendor-completions/_libernet",
            "/share/fish/vendor_completions.d/libernet.fish",
            "/lib/systemd/system/libernet.service",
            "/lib/systemd/user/libernet.service",
        ] {
            assert!(listed.contains(wanted), "{wanted} in {listed}");
        }
    }
    let image = list("tar", "-tf", ".oci.tar");
    assert!(
        image.contains("oci-layout") && image.contains("index.json"),
        "{image}"
    );
}
