//! Holds the imports of every source file against the table of floors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Rooms by floor, lowest first. A file imports only from lower floors; rooms on one floor never see each other.
const FLOORS: [&[&str]; 13] = [
    // Only tests have `small_disk`.
    &[
        "descriptors",
        "file",
        "id",
        "size",
        "text",
        "time",
        "monitor",
        "path",
        "pick",
        "small_disk",
    ],
    // The settings check how people are told of problems.
    &["problems"],
    &["crypto", "wire", "task", "config"],
    &["block"],
    // A record names a log by its link, and the network checks records and proves secrets of rings.
    &["head", "ring"],
    // A lease is signed by a machine, and head knows which machines an owner has admitted.
    &["lease"],
    &["store", "bundle", "net", "site"],
    &["depot"],
    &["upkeep", "backup"],
    &["node"],
    &["client"],
    &["gateway"],
    &["cli"],
];

fn floors() -> BTreeMap<&'static str, usize> {
    FLOORS
        .iter()
        .enumerate()
        .flat_map(|(floor, rooms)| rooms.iter().map(move |room| (*room, floor)))
        .collect()
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("the source tree is readable") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The rooms that a source text names after `crate::`, with the line.
fn named_rooms(text: &str) -> Vec<(usize, String)> {
    let mut rooms = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("//") {
            continue;
        }
        for (at, _) in line.match_indices("crate::") {
            let rest = &line[at + "crate::".len()..];
            if let Some(group) = rest.strip_prefix('{') {
                let names = group.split(',').map(|part| {
                    part.trim()
                        .chars()
                        .take_while(|c| c.is_alphanumeric() || *c == '_')
                        .collect::<String>()
                });
                rooms.extend(names.filter(|n| !n.is_empty()).map(|n| (number + 1, n)));
            } else {
                let name: String = rest
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                rooms.push((
                    number + 1,
                    if name.is_empty() {
                        "*".to_owned()
                    } else {
                        name
                    },
                ));
            }
        }
    }
    rooms
}

fn room_of(file: &Path, root: &Path) -> String {
    let relative = file.strip_prefix(root).expect("below the root");
    let first = relative
        .components()
        .next()
        .expect("not empty")
        .as_os_str()
        .to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

#[test]
fn files_import_only_from_lower_floors() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let floors = floors();
    let mut files = Vec::new();
    rust_files(&root, &mut files);
    assert!(files.len() > 20, "the walk found {} files", files.len());
    let mut broken = Vec::new();
    for file in files {
        let room = room_of(&file, &root);
        if room == "lib" || room == "main" {
            continue;
        }
        let Some(floor) = floors.get(room.as_str()) else {
            broken.push(format!(
                "{}: the room '{room}' has no floor",
                file.display()
            ));
            continue;
        };
        let text = std::fs::read_to_string(&file).expect("a source file");
        for (line, target) in named_rooms(&text) {
            if target == room {
                continue;
            }
            match floors.get(target.as_str()) {
                Some(target_floor) if target_floor < floor => {}
                Some(_) => broken.push(format!(
                    "{}:{line}: {room} must not import {target}",
                    file.display()
                )),
                None => broken.push(format!(
                    "{}:{line}: crate::{target} is not a room",
                    file.display()
                )),
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// The rooms and files of `net/` by floor, lowest first. Each imports only from lower ones, by
/// `super::` or `crate::net::`. Insides of each are its own business.
const FLOORS_OF_NET: [&[&str]; 7] = [
    &[
        "address",
        "cork",
        "delegate",
        "error",
        "limits",
        "mailbox",
        "metrics",
        "pace",
        "preference",
        "tls",
    ],
    &["frame", "hearsay", "listeners", "remotes", "security"],
    // Below all protocols: how much of this node each peer and each address may take.
    &["admission"],
    &[
        "exchange",
        "like",
        "meet",
        "peers",
        "providers",
        "reach",
        "replica",
        "rings",
        "weighed",
    ],
    &["muxer", "quic"],
    &["config", "transport", "switchboard"],
    &["driver"],
];

/// Names of `net/` itself that a source text of it uses, with their lines: `is_in_room` is false
/// for a file that stands in `net/` or opens a room, so that its `super` is `net`.
fn named_in_net(text: &str, is_in_room: bool) -> Vec<(usize, String)> {
    // Unit tests may look at more.
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text);
    let prefixes: &[&str] = match is_in_room {
        true => &["crate::net::", "super::super::"],
        false => &["crate::net::", "super::"],
    };
    let mut named = Vec::new();
    for prefix in prefixes {
        for (at, _) in text.match_indices(prefix) {
            let (before, rest) = (&text[..at], &text[at + prefix.len()..]);
            let line_start = before.rfind('\n').map_or(0, |end| end + 1);
            let is_comment = text[line_start..].trim_start().starts_with("//");
            let goes_further = before.ends_with("super::") || rest.starts_with("super::");
            if is_comment || goes_further {
                continue;
            }
            let line = before.matches('\n').count() + 1;
            // A group's own groups name what is inside of rooms.
            let mut depth = 0;
            let end = rest.find(';').unwrap_or(rest.len());
            let group = rest.strip_prefix('{').map(|_| &rest[1..end]);
            let parts = group.unwrap_or(rest).split(|c: char| {
                depth += i32::from(c == '{') - i32::from(c == '}');
                depth == 0 && c == ','
            });
            let count = if group.is_some() { usize::MAX } else { 1 };
            for part in parts.take(count) {
                let is_name = |c: &char| c.is_alphanumeric() || *c == '_' || *c == '*';
                let name: String = part.trim().chars().take_while(is_name).collect();
                if !name.is_empty() {
                    named.push((line, name));
                }
            }
        }
    }
    named
}

#[test]
fn rooms_of_the_network_import_only_from_lower_ones() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/net");
    let floors: BTreeMap<&str, usize> = FLOORS_OF_NET
        .iter()
        .enumerate()
        .flat_map(|(floor, rooms)| rooms.iter().map(move |room| (*room, floor)))
        .collect();
    let mut files = Vec::new();
    rust_files(&root, &mut files);
    let mut broken = Vec::new();
    for file in files {
        let room = room_of(&file, &root);
        let name = file.file_name().expect("a file").to_string_lossy();
        let is_in_room = file.parent() != Some(&root) && name != "mod.rs";
        if room == "mod" || room == "tests" || name.ends_with("tests.rs") {
            continue;
        }
        let Some(floor) = floors.get(room.as_str()) else {
            broken.push(format!("{}: '{room}' has no floor", file.display()));
            continue;
        };
        let text = std::fs::read_to_string(&file).expect("a source file");
        for (line, target) in named_in_net(&text, is_in_room) {
            let is_lower = floors.get(target.as_str()).is_some_and(|of| of < floor);
            if !is_lower && target != room {
                let file = file.display();
                broken.push(format!("{file}:{line}: {room} must not import {target}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_check_of_the_network_sees_what_it_must() {
    let text = "use super::peers::X;\nuse crate::net::{address, frame::{a, b}, rings};\n\
                // use super::no;\npub(in crate::net) fn f() { super::super::error() }\n";
    let named = |is_in_room| -> Vec<String> {
        let named = named_in_net(text, is_in_room).into_iter();
        named.map(|(line, room)| format!("{line}{room}")).collect()
    };
    assert_eq!(named(false), ["2address", "2frame", "2rings", "1peers"]);
    assert_eq!(named(true), ["2address", "2frame", "2rings", "4error"]);
}

#[test]
fn the_check_sees_what_it_must() {
    let text = "use crate::store::Store;\n// use crate::cli\nuse crate::{net, id};\nlet x = crate::gateway::y();\nuse crate::*;\n";
    let rooms: Vec<String> = named_rooms(text)
        .into_iter()
        .map(|(line, room)| format!("{line}{room}"))
        .collect();
    assert_eq!(rooms, ["1store", "3net", "3id", "4gateway", "5*"]);
}

/// Whether `text` is the name of a test, as the security chapter names them.
fn is_test_name(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    text.contains('_') && text.bytes().all(is_part)
}

/// A promise without the test that shows it is none.
#[test]
fn the_security_chapter_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let chapter = std::fs::read_to_string(root.join("docs/security.md")).expect("the chapter");
    let mut files = Vec::new();
    rust_files(&root.join("src"), &mut files);
    rust_files(&root.join("tests"), &mut files);
    let read = |file: &PathBuf| std::fs::read_to_string(file).expect("a source file");
    let sources: String = files.iter().map(read).collect();
    let promised = chapter
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains('`'));
    let mut named = 0;
    for line in promised {
        let tests = line
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|text| is_test_name(text));
        for test in tests {
            named += 1;
            let function = format!("fn {test}(");
            assert!(
                sources.contains(&function),
                "no test is called {test}: {line}"
            );
        }
    }
    assert!(
        named > 50,
        "the chapter's tables were not read: {named} tests"
    );
}
