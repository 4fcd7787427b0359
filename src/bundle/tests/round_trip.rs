//! Whatever a directory tree holds comes out as it went in.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::super::tree::Content;
use super::super::{Bundle, ExtractOptions, Overwrite, PutOptions, put_reader};
use super::{Listener, Memory, extract, noise, picture, put, put_with, runtime};
use crate::block::Context;
use crate::crypto::key::Key;
use crate::monitor::Silent;

/// What a test tree is made of.
#[derive(Clone, Debug)]
enum Item {
    File {
        len: usize,
        seed: u8,
        hole: bool,
        mode: u32,
        xattr: Option<Vec<u8>>,
    },
    Link(usize),
    Symlink(Vec<u8>),
    Fifo,
    Directory(Vec<(Vec<u8>, Item)>, u32),
}

fn any_name() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        3 => b'a'..=b'e',
        1 => any::<u8>().prop_filter("allowed in names", |b| *b != 0 && *b != b'/'),
    ];
    proptest::collection::vec(byte, 1..6)
        .prop_filter("not special", |name| name != b"." && name != b"..")
}

fn any_item() -> impl Strategy<Value = Item> {
    let len = prop_oneof![
        4 => Just(0usize),
        15 => 1usize..3000,
        1 => 100_000usize..200_000,
    ];
    let file = (
        len,
        0u8..8,
        proptest::bool::weighted(0.2),
        prop_oneof![Just(0o600u32), Just(0o644), Just(0o755), Just(0o440)],
        proptest::option::weighted(0.2, proptest::collection::vec(any::<u8>(), 0..300)),
    )
        .prop_map(|(len, seed, hole, mode, xattr)| Item::File {
            len,
            seed,
            hole,
            mode,
            xattr,
        });
    let leaf = prop_oneof![
        6 => file,
        1 => (0usize..8).prop_map(Item::Link),
        1 => proptest::collection::vec(1u8.., 1..20).prop_map(Item::Symlink),
        1 => Just(Item::Fifo),
    ];
    leaf.prop_recursive(4, 40, 8, |item| {
        (
            proptest::collection::vec((any_name(), item), 0..8),
            prop_oneof![Just(0o755u32), Just(0o700), Just(0o555)],
        )
            .prop_map(|(children, mode)| Item::Directory(children, mode))
    })
}

fn any_tree() -> impl Strategy<Value = Vec<(Vec<u8>, Item)>> {
    proptest::collection::vec((any_name(), any_item()), 0..10)
}

/// Makes the items; names that are there already are left out.
fn make(dir: &Path, items: &[(Vec<u8>, Item)], files: &mut Vec<PathBuf>, count: &mut u64) {
    for (name, item) in items {
        let path = dir.join(std::ffi::OsString::from_vec(name.clone()));
        if path.symlink_metadata().is_ok() {
            continue;
        }
        *count += 1;
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000 + *count, 123_456_789);
        match item {
            Item::File {
                len,
                seed,
                hole,
                mode,
                xattr,
            } => {
                let mut file = File::create(&path).expect("made");
                if *hole {
                    file.seek(SeekFrom::Start(200_000)).expect("seeks");
                }
                let bytes = noise(*len, u64::from(*seed));
                file.write_all(&bytes).expect("written");
                if *hole {
                    file.set_len(600_000 + *len as u64).expect("grown");
                }
                if let Some(value) = xattr {
                    xattr::set(&path, "user.libernet-test", value).expect("set");
                }
                file.set_permissions(fs::Permissions::from_mode(*mode))
                    .expect("set");
                file.set_modified(time).expect("set");
                files.push(path);
            }
            Item::Link(at) => {
                if let Some(first) = files.get(*at) {
                    fs::hard_link(first, &path).expect("linked");
                }
            }
            Item::Symlink(target) => {
                let target = std::ffi::OsString::from_vec(target.clone());
                symlink(target, &path).expect("made");
            }
            Item::Fifo => {
                rustix::fs::mknodat(
                    rustix::fs::CWD,
                    &path,
                    rustix::fs::FileType::Fifo,
                    rustix::fs::Mode::RUSR,
                    0,
                )
                .expect("made");
            }
            Item::Directory(children, mode) => {
                fs::create_dir(&path).expect("made");
                make(&path, children, files, count);
                fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).expect("set");
                File::open(&path)
                    .expect("a directory opens")
                    .set_modified(time)
                    .expect("set");
            }
        }
    }
}

/// Lets a temporary directory with read-only directories in it be removed by anybody.
fn unlock(path: &Path) {
    for path in picture(path)
        .into_keys()
        .map(|name| path.join(std::ffi::OsString::from_vec(name)))
    {
        if path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            let _ = fs::set_permissions(&path, fs::Permissions::from_mode(0o755));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn trees_come_out_as_they_went_in(items in any_tree()) {
        let room = tempfile::tempdir().expect("a directory");
        let (from, to) = (room.path().join("from"), room.path().join("to"));
        fs::create_dir(&from).expect("made");
        make(&from, &items, &mut Vec::new(), &mut 0);
        let before = picture(&from);
        let (first, second, third) = runtime().block_on(async {
            let memory = Arc::new(Memory::default());
            let first = put(&from, &memory).await.expect("put");
            let stored = memory.len();
            assert_eq!(first.new_blocks as usize, stored);
            assert_eq!(first.blocks as usize, stored);
            let report = extract(&memory, &first.link, &to, ExtractOptions::default())
                .await
                .expect("extracted");
            assert!(report.is_complete(), "{report:?}");
            assert_eq!((report.files, report.bytes), (first.files, first.bytes));
            // A second put of the same tree stores nothing and gives the same link; so does one that knows nothing of the first.
            let second = put(&from, &memory).await.expect("put");
            assert_eq!((second.new_blocks, memory.len()), (0, stored));
            let third = put(&from, &Arc::new(Memory::default())).await.expect("put");
            (first.link, second.link, third.link)
        });
        let after = picture(&to);
        prop_assert_eq!(&first, &second);
        prop_assert_eq!(&first, &third);
        for (path, seen) in &before {
            prop_assert_eq!(Some(seen), after.get(path), "{}", String::from_utf8_lossy(path));
        }
        prop_assert_eq!(before.len(), after.len());
        let left = fs::read_dir(room.path()).expect("reads").count();
        prop_assert_eq!(left, 2, "no hidden directory is left");
        unlock(&from);
        unlock(&to);
    }
}

#[test]
fn a_file_that_is_one_hole_has_no_block_but_the_root() {
    let room = tempfile::tempdir().expect("a directory");
    let from = room.path().join("from");
    fs::create_dir(&from).expect("made");
    let file = File::create(from.join("hole")).expect("made");
    file.set_len(600_000).expect("grown");
    let memory = Arc::new(Memory::default());
    let report = runtime().block_on(put(&from, &memory)).expect("put");
    assert_eq!(
        (report.bytes, report.blocks, report.new_blocks),
        (600_000, 1, 1)
    );
}

#[test]
fn one_file_goes_to_the_target_or_into_it() {
    let room = tempfile::tempdir().expect("a directory");
    let path = room.path().join("movie.mkv");
    // A first chunk, more chunks, and a tail.
    let content = noise(5 << 19, 1);
    fs::write(&path, &content).expect("written");
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let report = put(&path, &memory).await.expect("put");
        assert_eq!((report.files, report.bytes), (1, 5 << 19));
        let options = ExtractOptions::default;
        let exact = room.path().join("copy");
        let done = extract(&memory, &report.link, &exact, options())
            .await
            .expect("extracted");
        assert_eq!(done.path, exact);
        assert_eq!(fs::read(&exact).expect("reads"), content);
        let folder = room.path().join("folder");
        fs::create_dir(&folder).expect("made");
        let done = extract(&memory, &report.link, &folder, options())
            .await
            .expect("extracted");
        assert_eq!(done.path, folder.join("movie.mkv"));
        assert_eq!(picture(&folder).len(), 2);
        // What is there stays, unless asked otherwise.
        let again = extract(&memory, &report.link, &exact, options()).await;
        assert!(matches!(again, Err(super::Error::TargetExists { path }) if path == exact));
        fs::write(&exact, b"changed").expect("written");
        let overwrite = ExtractOptions {
            overwrite: Overwrite::Changed,
            ..options()
        };
        let done = extract(&memory, &report.link, &exact, overwrite.clone())
            .await
            .expect("extracted");
        assert_eq!((done.files, done.unchanged), (1, 0));
        assert_eq!(fs::read(&exact).expect("reads"), content);
        let done = extract(&memory, &report.link, &exact, overwrite)
            .await
            .expect("extracted");
        assert_eq!((done.files, done.unchanged), (1, 1));
    });
}

#[test]
fn a_stream_has_the_link_of_its_bytes_and_name() {
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let content = noise(3 << 20, 2);
        let mut links = Vec::new();
        for name in [&b"talk.ogg"[..], b"talk.ogg", b"other"] {
            let report = put_reader(
                name,
                &content[..],
                PutOptions::default(),
                memory.clone(),
                memory.clone(),
                Arc::new(Silent),
                CancellationToken::new(),
            )
            .await
            .expect("put");
            links.push(report.link);
        }
        assert_eq!(links[0], links[1]);
        assert_ne!(links[0], links[2]);
        let bundle = Bundle::open(memory.clone(), links[0].clone())
            .await
            .expect("opens");
        assert_eq!(bundle.root().entry.name, &b"talk.ogg"[..]);
        assert_eq!(bundle.root().entry.modified, None);
        let room = tempfile::tempdir().expect("a directory");
        extract(&memory, &links[0], room.path(), ExtractOptions::default())
            .await
            .expect("extracted");
        let out = fs::read(room.path().join("talk.ogg")).expect("reads");
        assert_eq!(out, content);
        let empty = put_reader(
            b"empty",
            &b""[..],
            PutOptions::default(),
            memory.clone(),
            memory.clone(),
            Arc::new(Silent),
            CancellationToken::new(),
        )
        .await
        .expect("put");
        assert_eq!((empty.files, empty.bytes, empty.blocks), (1, 0, 1));
        let failed = put_reader(
            b"../x",
            &b""[..],
            PutOptions::default(),
            memory.clone(),
            memory.clone(),
            Arc::new(Silent),
            CancellationToken::new(),
        )
        .await;
        assert!(matches!(failed, Err(super::Error::Unsuitable { .. })));
    });
}

#[test]
fn contexts_do_not_share_and_options_are_kept() {
    let room = tempfile::tempdir().expect("a directory");
    fs::write(room.path().join("index.html"), b"<p>hello").expect("written");
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let public = put(room.path(), &memory).await.expect("put");
        let mut options = PutOptions {
            context: Context::secret(Key::new([9; 32])),
            index_file: Some(b"index.html".to_vec()),
            ..PutOptions::default()
        };
        let title = ("title".to_owned(), Bytes::from_static(b"Hello"));
        options.properties.extend([title.clone()]);
        let secret = put_with(room.path(), &memory, options.clone())
            .await
            .expect("put");
        assert_ne!(public.link, secret.link);
        assert_eq!(secret.new_blocks, secret.blocks);
        let bundle = Bundle::open(memory.clone(), secret.link)
            .await
            .expect("opens");
        let root = bundle.root();
        assert_eq!(root.index_file.as_deref(), Some(&b"index.html"[..]));
        assert_eq!(root.properties.get("title"), Some(&title.1));
        options.index_file = Some(b"../index.html".to_vec());
        let refused = put_with(room.path(), &memory, options).await;
        assert!(matches!(refused, Err(super::Error::Unsuitable { .. })));
    });
}

#[test]
fn small_files_share_blocks_and_each_block_is_fetched_once() {
    let room = tempfile::tempdir().expect("a directory");
    let from = room.path().join("from");
    for dir in 0..8 {
        let dir = from.join(format!("d{dir}"));
        fs::create_dir_all(&dir).expect("made");
        for file in 0..100 {
            // Every fifth file is one of ten that are all over the tree.
            let seed = if file % 5 == 0 { file / 10 } else { file };
            let name = dir.join(format!("f{file}"));
            let salt = if file % 5 == 0 {
                0
            } else {
                name.to_string_lossy().len() as u64 * 31
            };
            let mut bytes = noise(2000, seed + salt);
            if file % 5 != 0 {
                bytes.extend_from_slice(name.to_string_lossy().as_bytes());
            }
            fs::write(name, bytes).expect("written");
        }
    }
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let report = put(&from, &memory).await.expect("put");
        assert_eq!(report.files, 800);
        assert!(report.blocks < 12, "{} blocks", report.blocks);
        assert_eq!(memory.commits.lock().unwrap().last(), Some(&memory.len()));
        memory.asked.lock().unwrap().clear();
        let to = room.path().join("to");
        let done = extract(&memory, &report.link, &to, ExtractOptions::default())
            .await
            .expect("extracted");
        assert_eq!(done.files, 800);
        let mut asked = memory.asked.lock().unwrap().clone();
        let times = asked.len();
        asked.sort();
        asked.dedup();
        assert_eq!(asked.len(), times, "each block is asked for once");
        assert_eq!(picture(&from), picture(&to));
    });
}

#[test]
fn what_cannot_be_read_is_reported_and_the_rest_is_put() {
    let room = tempfile::tempdir().expect("a directory");
    let from = room.path().join("from");
    fs::create_dir(&from).expect("made");
    fs::write(from.join("good"), b"good").expect("written");
    let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).expect("bound");
    fs::create_dir(from.join("locked")).expect("made");
    fs::write(from.join("locked/secret"), b"x").expect("written");
    fs::set_permissions(from.join("locked"), fs::Permissions::from_mode(0o000)).expect("set");
    runtime().block_on(async {
        let (memory, listener) = (Arc::new(Memory::default()), Arc::new(Listener::default()));
        let report = super::super::put(
            &from,
            PutOptions::default(),
            memory.clone(),
            memory.clone(),
            listener.clone(),
            CancellationToken::new(),
        )
        .await
        .expect("put");
        assert_eq!(report.left_out.len(), 1);
        assert_eq!(report.left_out[0].path, from.join("socket"));
        let bundle = Bundle::open(memory, report.link).await.expect("opens");
        let find = async |path: &[u8]| bundle.lookup(path).await.expect("reads");
        assert!(find(b"good").await.is_some());
        assert!(find(b"socket").await.is_none());
        let locked = find(b"locked").await.expect("the directory itself is kept");
        assert!(matches!(locked.content, Content::Directory(_)));
        if rustix::process::geteuid().is_root() {
            assert_eq!(report.unreadable_total, 0);
        } else {
            assert_eq!(report.unreadable[0].path, from.join("locked"));
            assert_eq!(report.unreadable_total, 1);
        }
        let absent = put(&from.join("absent"), &Arc::new(Memory::default())).await;
        assert!(matches!(absent, Err(super::Error::Io { .. })), "{absent:?}");
        let special = put(Path::new("/dev/null"), &Arc::new(Memory::default())).await;
        assert!(matches!(special, Err(super::Error::NotPuttable { .. })));
    });
    unlock(&from);
}

#[test]
fn a_file_that_changes_is_kept_as_read_and_said_so() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let room = tempfile::tempdir().expect("a directory");
    let (log, still) = (room.path().join("log"), room.path().join("still"));
    let content = noise(2 << 20, 4);
    fs::write(&log, &content).expect("written");
    fs::write(&still, b"still").expect("written");
    let (begun, begin) = std::sync::mpsc::sync_channel(1);
    let stop = AtomicBool::new(false);
    /// Also when the test fails: its writer would go on for ever.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let report = std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            let mut file = File::options().append(true).open(&log).expect("opens");
            while !stop.load(Ordering::Relaxed) {
                file.write_all(b"x").expect("written");
                let _ = begun.try_send(());
            }
        });
        begin.recv().expect("it writes");
        // On a busy machine the writer may have no turn while the file is read.
        let put_once = |_| {
            let memory = Arc::new(Memory::default());
            let report = runtime().block_on(put(room.path(), &memory)).expect("put");
            (report, memory)
        };
        let noticed = (0..100)
            .map(put_once)
            .find(|(report, _)| report.unreadable_total > 0);
        noticed.expect("the file changes while it is read")
    });
    let (report, memory) = report;
    assert_eq!((report.files, report.unreadable_total), (2, 1));
    assert_eq!(report.unreadable[0].path, log);
    assert!(report.unreadable[0].reason.contains("changed"));
    let to = room.path().join("to");
    runtime()
        .block_on(extract(
            &memory,
            &report.link,
            &to,
            ExtractOptions::default(),
        ))
        .expect("extracted");
    let kept = fs::read(to.join("log")).expect("reads");
    assert!(kept.starts_with(&content) && kept.len() > content.len());
    assert!(kept[content.len()..].iter().all(|b| *b == b'x'));
}

#[test]
fn a_failing_index_costs_space_only() {
    let room = tempfile::tempdir().expect("a directory");
    for name in ["a", "b"] {
        fs::write(room.path().join(name), noise(1 << 20, 3)).expect("written");
    }
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        *memory.index_fails.lock().unwrap() = true;
        let first = put(room.path(), &memory).await.expect("put");
        // Within one run equal chunks are still found.
        assert!(first.new_bytes < 3 << 19, "{} bytes", first.new_bytes);
        let second = put(room.path(), &memory).await.expect("put");
        assert_eq!((second.link, second.new_blocks), (first.link, 0));
    });
}
