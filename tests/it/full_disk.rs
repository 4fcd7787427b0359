//! A node that runs while its disk is full: what makes room works, and exit code 6 names the disk.

use std::path::Path;

use crate::process::{Node, fails, json};
use crate::sample::noise;
use crate::small_disk::{Filler, on_a_small_disk};

fn utf8(path: &Path) -> &str {
    path.to_str().expect("utf-8")
}

/// Free bytes from none at all to more than a log takes, and less than what blocks leave free.
const SPARE: [u64; 3] = [0, 3_000_000, 20_000_000];

#[test]
fn a_node_forgets_and_prunes_on_a_full_disk() {
    let test = "full_disk::a_node_forgets_and_prunes_on_a_full_disk";
    on_a_small_disk(test, "size=96m", |disk| {
        let data = disk.join("data");
        let words = disk.with_file_name("words");
        json(&data, &["init", "--yes", "--words-out", utf8(&words)]);
        let node = Node::start(&data, &[]);
        let file = disk.with_file_name("file");
        for round in 0..=SPARE.len() as u64 {
            std::fs::write(&file, noise(round, 2_000_000)).expect("written");
            node.json(&["backup", utf8(&file)]);
        }
        let count = |node: &Node| {
            let listed = node.json(&["snapshots"]);
            listed["snapshots"].as_array().expect("a list").len()
        };
        for (round, spare) in SPARE.into_iter().enumerate() {
            let keep = (SPARE.len() - round).to_string();
            let filler = Filler::new(disk, spare);
            let refused = node.run(&["put", utf8(&file), "--private", "--json"]);
            fails(&refused, 6, "the disk is full");
            let done = node.json(&["forget", "--keep-last", &keep, "--prune"]);
            assert_eq!(
                done["forgotten"].as_array().map(Vec::len),
                Some(1),
                "{done}"
            );
            assert!(
                done["pruned"]["freed_bytes"].as_u64() >= Some(2_000_000),
                "{done}"
            );
            assert_eq!(count(&node), SPARE.len() - round);
            drop(filler);
        }
        node.stop();
    });
}
