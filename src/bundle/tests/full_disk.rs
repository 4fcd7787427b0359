//! Extracting onto a disk that is really full.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::{Error, ExtractOptions, Overwrite};
use super::{Memory, extract, noise, picture, put, runtime};
use crate::block::Link;
use crate::small_disk::{Filler, on_a_small_disk};

const FILES: u64 = 24;

/// Files in packs and one of several blocks: 9 MiB in all.
fn make(root: &Path, seed: u64) {
    fs::create_dir_all(root.join("sub")).expect("made");
    for at in 0..FILES {
        let path = root.join(format!("sub/{at:02}"));
        fs::write(path, noise(256 << 10, seed + at)).expect("written");
    }
    fs::write(root.join("large"), noise(3 << 20, seed + FILES)).expect("written");
}

/// Regular files below a directory, by what they are called there.
fn files(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let name = path.strip_prefix(root).expect("below it").to_owned();
                found.push((name, fs::read(path).expect("readable")));
            }
        }
    }
    found.sort();
    found
}

/// The hidden directory that an extraction to `target` left.
fn hidden(target: &Path) -> PathBuf {
    let beside = fs::read_dir(target.parent().expect("not the root")).expect("readable");
    let mut left = beside
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.to_string_lossy().contains("libernet-"));
    let first = left.next().expect("it left something");
    assert_eq!(left.next(), None, "one place");
    first
}

/// Extracts and meets the full disk.
async fn meet(memory: &Arc<Memory>, link: &Link, to: &Path, overwrite: Overwrite) {
    let options = ExtractOptions {
        overwrite,
        ..ExtractOptions::default()
    };
    let error = extract(memory, link, to, options).await;
    let error = error.expect_err("there is no room");
    let Error::DiskFull { path } = &error else {
        panic!("{error:?}");
    };
    assert!(path.starts_with(to.parent().expect("one")), "{error}");
    assert!(error.to_string().contains("the disk is full"), "{error}");
}

#[test]
fn a_full_disk_is_named_and_the_next_run_goes_on_from_there() {
    let test = "bundle::tests::full_disk::a_full_disk_is_named_and_the_next_run_goes_on_from_there";
    on_a_small_disk(test, "size=16m", |disk| {
        let from = disk.with_file_name("from");
        make(&from, 1);
        runtime().block_on(async {
            let memory = Arc::new(Memory::default());
            let link = put(&from, &memory).await.expect("put").link;
            let to = disk.join("to");
            let filler = Filler::new(disk, 5 << 20);
            meet(&memory, &link, &to, Overwrite::Never).await;
            assert!(!to.exists(), "nothing half-done has the name");
            let left = files(&hidden(&to));
            assert!(!left.is_empty() && left.len() < FILES as usize);
            for (name, content) in &left {
                let original = fs::read(from.join(name)).expect("one of them");
                assert!(*content == original, "{} is not whole", name.display());
            }

            drop(filler);
            memory.asked.lock().unwrap().clear();
            let again = extract(&memory, &link, &to, ExtractOptions::default()).await;
            let again = again.expect("there is room now");
            assert!(again.is_complete());
            assert_eq!(again.unchanged, left.len() as u64);
            assert_eq!(again.new_files, FILES + 1 - left.len() as u64);
            assert_eq!(picture(&from), picture(&to));
            assert!(memory.asked.lock().unwrap().len() < memory.len());
        });
    });
}

#[test]
fn what_a_full_disk_could_not_replace_stays_as_it_was() {
    let test = "bundle::tests::full_disk::what_a_full_disk_could_not_replace_stays_as_it_was";
    on_a_small_disk(test, "size=24m", |disk| {
        let (from, to) = (disk.with_file_name("from"), disk.join("to"));
        make(&from, 1);
        make(&to, 100);
        let (new, old) = (files(&from), files(&to));
        runtime().block_on(async {
            let memory = Arc::new(Memory::default());
            let link = put(&from, &memory).await.expect("put").link;
            // Enough for some of the files and not for the large one.
            let filler = Filler::new(disk, 2 << 20);
            meet(&memory, &link, &to, Overwrite::Always).await;
            let left = files(&to);
            assert_eq!(left.len(), old.len(), "no more and no fewer");
            for (at, file) in left.iter().enumerate() {
                assert!(*file == old[at] || *file == new[at], "{}", file.0.display());
            }
            assert!(left.iter().zip(&old).any(|(now, then)| now == then));

            drop(filler);
            let options = ExtractOptions {
                overwrite: Overwrite::Changed,
                ..ExtractOptions::default()
            };
            let again = extract(&memory, &link, &to, options).await;
            assert!(again.expect("there is room now").is_complete());
            assert_eq!(picture(&from), picture(&to));
        });
    });
}

#[test]
fn a_disk_without_room_for_names_is_full_too() {
    let test = "bundle::tests::full_disk::a_disk_without_room_for_names_is_full_too";
    on_a_small_disk(test, "size=16m,nr_inodes=200", |disk| {
        let from = disk.with_file_name("from");
        for at in 0..20 {
            fs::create_dir_all(from.join(format!("directory{at}"))).expect("made");
            fs::write(from.join(format!("empty{at}")), b"").expect("written");
            let link = from.join(format!("link{at}"));
            std::os::unix::fs::symlink("away", link).expect("made");
        }
        runtime().block_on(async {
            let memory = Arc::new(Memory::default());
            let link = put(&from, &memory).await.expect("put").link;
            // However far it comes.
            for spare in [0, 1, 10, 30, 59] {
                let to = disk.join("to");
                let names = disk.join("names");
                fs::create_dir(&names).expect("made");
                let mut made = 0;
                while fs::write(names.join(made.to_string()), b"").is_ok() {
                    made += 1;
                }
                for last in made - spare..made {
                    fs::remove_file(names.join(last.to_string())).expect("removed");
                }
                meet(&memory, &link, &to, Overwrite::Never).await;
                assert!(!to.exists());
                fs::remove_dir_all(&names).expect("removed");
                let again = extract(&memory, &link, &to, ExtractOptions::default()).await;
                assert!(again.expect("there is room now").is_complete());
                assert_eq!(picture(&from), picture(&to));
                fs::remove_dir_all(&to).expect("removed");
            }
        });
    });
}

#[test]
fn a_single_file_is_there_whole_or_not_at_all() {
    let test = "bundle::tests::full_disk::a_single_file_is_there_whole_or_not_at_all";
    on_a_small_disk(test, "size=16m", |disk| {
        let from = disk.with_file_name("file");
        fs::write(&from, noise(5 << 20, 3)).expect("written");
        runtime().block_on(async {
            let memory = Arc::new(Memory::default());
            let link = put(&from, &memory).await.expect("put").link;
            let to = disk.join("to");
            let filler = Filler::new(disk, 3 << 20);
            meet(&memory, &link, &to, Overwrite::Never).await;
            let names: Vec<_> = fs::read_dir(disk).expect("readable").collect();
            assert_eq!(names.len(), 1, "only the filler: {names:?}");
            drop(filler);
            let again = extract(&memory, &link, &to, ExtractOptions::default()).await;
            assert!(again.expect("there is room now").is_complete());
            assert!(fs::read(&to).expect("there") == fs::read(&from).expect("there"));
        });
    });
}
