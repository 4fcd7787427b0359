//! What a person sees and answers on a terminal.

use std::path::Path;
use std::process::{Command, Output};

use crate::process::{json, run};

pub const SCRIPT: &str = include_str!("terminal.py");

/// Runs a command on a terminal of its own; nothing where that can't be done. `answers`: as the script says.
pub fn on_a_terminal(answers: &str, data: &Path, args: &[&str]) -> Option<(Output, String)> {
    let mut command = Command::new("python3");
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LIBERNET_")) {
        command.env_remove(name);
    }
    command.env("LIBERNET_MEET", "off");
    command.env_remove("RUST_LOG").args(["-c", SCRIPT, answers]);
    command
        .arg(env!("CARGO_BIN_EXE_libernet"))
        .arg("--data-dir");
    match command.arg(data).args(args).output() {
        Ok(output) => {
            let shown = String::from_utf8_lossy(&output.stdout).replace("\r\n", "\n");
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(stderr.is_empty(), "the script failed: {stderr} {shown}");
            Some((output, shown))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("skipped: this machine has no python3, which makes the terminal");
            None
        }
        Err(error) => panic!("python3: {error}"),
    }
}

#[test]
fn the_words_are_shown_cleared_and_asked_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some((output, shown)) = on_a_terminal("init", dir.path(), &["init"]) else {
        return;
    };
    assert_eq!(output.status.code(), Some(0), "{shown}");
    let parts: Vec<&str> = shown.split("\x1b[2J\x1b[3J\x1b[H").collect();
    let [first, again, asked] = parts[..] else {
        panic!("the screen is cleared after each time that the words were shown: {shown}");
    };
    assert!(first.contains("write them on paper"), "{first}");
    assert!(first.contains("12. "), "{first}");
    assert!(again.starts_with("Word "), "{again}");
    assert!(
        again.contains("That is not the word. Here they are again."),
        "{again}"
    );
    assert_eq!(asked.matches("Word ").count(), 3, "{asked}");
    assert!(asked.contains("owner.key"), "{asked}");
    assert!(dir.path().join("owner.key").exists());
    // The words are nowhere but on the screen.
    let word = first
        .split_whitespace()
        .skip_while(|word| *word != "1.")
        .nth(1);
    let kept = std::fs::read(dir.path().join("owner.key")).expect("there");
    let kept = String::from_utf8_lossy(&kept).into_owned();
    assert!(!kept.contains(&format!(" {} ", word.expect("shown"))));
}

#[test]
fn a_drill_asks_for_the_words_until_they_fit() {
    let dir = tempfile::tempdir().expect("a directory");
    let (data, words) = (dir.path().join("data"), dir.path().join("words"));
    let words = words.to_str().expect("utf-8");
    json(&data, &["init", "--yes", "--words-out", words]);
    assert!(
        run(&data, &["config", "set", "mdns", "false"])
            .status
            .success()
    );
    let Some((output, shown)) = on_a_terminal(words, &data, &["--no-color", "drill"]) else {
        return;
    };
    // Nobody else is known: it goes no further.
    assert_eq!(output.status.code(), Some(4), "{shown}");
    let question =
        "The twelve words (the first four letters of each are enough; an empty line ends):";
    assert_eq!(shown.matches(question).count(), 2, "{shown}");
    assert!(shown.contains("Once more, please."), "{shown}");
    assert!(
        shown.contains("this machine knows no other node"),
        "{shown}"
    );
}
