//! Puts of chosen paths, filters, and surveys.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::super::{
    Bundle, Error, FilterOptions, Own, PutOptions, PutReport, Rules, Survey, put_paths, survey,
};
use super::{Memory, runtime};
use crate::monitor::Silent;

async fn put_all(
    paths: &[PathBuf],
    memory: &Arc<Memory>,
    options: PutOptions,
) -> Result<PutReport, Error> {
    put_paths(
        paths,
        options,
        memory.clone(),
        memory.clone(),
        Arc::new(Silent),
        CancellationToken::new(),
    )
    .await
}

async fn look(paths: &[PathBuf], options: &PutOptions) -> Survey {
    let survey = survey(paths, options, Arc::new(Silent), CancellationToken::new());
    survey.await.expect("looked")
}

/// Every path in the bundle, with a slash before.
async fn paths_of(memory: &Arc<Memory>, report: &PutReport) -> BTreeSet<PathBuf> {
    let bundle = Bundle::open(memory.clone(), report.link.clone()).await;
    let walk = bundle.expect("opens").walk();
    let walked = walk.map(|step| {
        let path = step.expect("all there").path;
        Path::new("/").join(std::ffi::OsStr::from_bytes(&path))
    });
    walked.collect().await
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("not the root")).expect("made");
    fs::write(path, bytes).expect("written");
}

fn room() -> (tempfile::TempDir, PathBuf) {
    let room = tempfile::tempdir().expect("a directory");
    let path = room.path().canonicalize().expect("there");
    (room, path)
}

#[test]
fn chosen_paths_come_with_the_directories_above_them() {
    let (_room, at) = room();
    for name in ["a/b/one", "a/b/two", "a/other", "c", "d/e/f/g", "d/not"] {
        write(&at.join(name), name.as_bytes());
    }
    fs::set_permissions(at.join("a"), fs::Permissions::from_mode(0o751)).expect("set");
    std::os::unix::fs::symlink(at.join("d/e"), at.join("link")).expect("made");
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let chosen = ["a/b", "a/b/one", "c", "link/f", "gone"].map(|name| at.join(name));
        let report = put_all(&chosen, &memory, PutOptions::default()).await;
        let report = report.expect("put");
        let mut expected: BTreeSet<PathBuf> = at.ancestors().map(Path::to_owned).collect();
        let below = [
            "a", "a/b", "a/b/one", "a/b/two", "c", "d", "d/e", "d/e/f", "d/e/f/g", "link",
        ];
        expected.extend(below.map(|name| at.join(name)));
        assert_eq!(paths_of(&memory, &report).await, expected);
        assert_eq!((report.files, report.unreadable_total), (4, 1));
        assert_eq!(report.unreadable[0].path, at.join("gone"));
        let bundle = Bundle::open(memory.clone(), report.link)
            .await
            .expect("opens");
        let parent = at.join("a");
        let entry = bundle.lookup(parent.as_os_str().as_bytes()).await;
        let entry = entry.expect("reads").expect("there");
        let real = fs::metadata(&parent).expect("there");
        assert_eq!(entry.mode, 0o751);
        assert_eq!(entry.modified.expect("a time").seconds, real.mtime());
        let seen = look(&chosen, &PutOptions::default()).await;
        assert_eq!((seen.files, seen.bytes), (report.files, report.bytes));
        assert_eq!((seen.entries, seen.unreadable_total), (report.entries, 1));
        let none = put_all(&[at.join("gone")], &memory, PutOptions::default()).await;
        assert!(matches!(none, Err(Error::Io { path, .. }) if path == at.join("gone")));
        let none = put_all(&[], &memory, PutOptions::default()).await;
        assert!(matches!(none, Err(Error::Io { .. })));
    });
}

fn filtered(options: FilterOptions) -> PutOptions {
    let rules = Rules::new(&options).expect("good patterns");
    PutOptions {
        filter: Some(Arc::new(rules)),
        ..PutOptions::default()
    }
}

#[test]
fn filters_leave_out_what_they_say() {
    let (_room, at) = room();
    let tag = b"Signature: 8a477f597d28d172789f06886806bc55\nmore";
    write(&at.join("cache/CACHEDIR.TAG"), tag);
    write(&at.join("cache/deep/x"), b"x");
    write(&at.join("fake/CACHEDIR.TAG"), b"Signature: something else");
    write(&at.join("fake/x"), b"x");
    write(&at.join("p/.gitignore"), b"*.o\n/top\n[\n");
    write(&at.join("p/x.o"), b"x");
    write(&at.join("p/top"), b"x");
    write(&at.join("p/q/top"), b"x");
    write(&at.join("p/q/.gitignore"), b"!*.o\n");
    write(&at.join("p/q/y.o"), b"x");
    write(&at.join("p/q/r/z.o"), b"x");
    write(&at.join("large"), &[1; 2000]);
    write(&at.join("no.tmp"), b"x");
    write(&at.join("yes.tmp"), b"x");
    let options = filtered(FilterOptions {
        exclude: vec!["*.tmp".to_owned()],
        include: vec!["yes.tmp".to_owned()],
        ignore_files: true,
        cache_directories: true,
        max_file_bytes: Some(1000),
    });
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let chosen = [at.clone()];
        let report = put_all(&chosen, &memory, options.clone())
            .await
            .expect("put");
        let found = paths_of(&memory, &report).await;
        for gone in ["cache/deep", "p/x.o", "p/top", "large", "no.tmp"] {
            assert!(!found.contains(&at.join(gone)), "{gone}");
        }
        for kept in [
            "cache/CACHEDIR.TAG",
            "fake/x",
            "p/q/top",
            "p/q/y.o",
            "p/q/r/z.o",
            "yes.tmp",
        ] {
            assert!(found.contains(&at.join(kept)), "{kept}");
        }
        assert_eq!(report.excluded, 5);
        let seen = look(&chosen, &options).await;
        assert_eq!((seen.files, seen.excluded), (report.files, 5));
        assert_eq!((seen.to_read, seen.unchanged), (report.files, 0));
        // Who names a path wants it.
        let named = [at.join("no.tmp"), at.join("large")];
        let report = put_all(&named, &memory, options).await.expect("put");
        assert_eq!((report.files, report.excluded), (2, 0));
    });
}

#[test]
fn what_is_named_is_taken_below_what_is_left_out() {
    let (_room, at) = room();
    let tag = b"Signature: 8a477f597d28d172789f06886806bc55";
    write(&at.join("cache/CACHEDIR.TAG"), tag);
    for name in [
        "no/other",
        "no/deep/x",
        "no/deep/y.tmp",
        "no/deep/no/z",
        "no/file.tmp",
        "no/named.tmp",
        "yes",
        "cache/a",
        "cache/wanted/b",
    ] {
        write(&at.join(name), name.as_bytes());
    }
    let options = filtered(FilterOptions {
        exclude: vec!["no".to_owned(), "*.tmp".to_owned()],
        cache_directories: true,
        ..FilterOptions::default()
    });
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let named = ["", "no/deep", "no/named.tmp", "cache/wanted"].map(|name| at.join(name));
        let report = put_all(&named, &memory, options.clone())
            .await
            .expect("put");
        let found = paths_of(&memory, &report).await;
        let found: BTreeSet<_> = found
            .iter()
            .filter_map(|p| p.strip_prefix(&at).ok())
            .collect();
        let expected = [
            "",
            "cache",
            "cache/CACHEDIR.TAG",
            "cache/wanted",
            "cache/wanted/b",
            "no",
            "no/deep",
            "no/deep/x",
            "no/named.tmp",
            "yes",
        ];
        assert_eq!(found, expected.map(Path::new).into_iter().collect());
        let seen = look(&named, &options).await;
        assert_eq!((seen.files, seen.excluded), (report.files, report.excluded));
        // A cache that is named comes with its content.
        let report = put_all(&[at.join("cache")], &memory, options)
            .await
            .expect("put");
        assert_eq!((report.files, report.excluded), (3, 0));
    });
}

#[test]
fn directories_of_libernet_are_never_taken() {
    let (_room, at) = room();
    write(&at.join("home/doc"), b"x");
    write(&at.join("home/data/node.key"), b"libernet-key v1\nsecret");
    write(&at.join("home/data/store/blocks/1.sst"), b"x");
    write(&at.join("home/here/store/x"), b"x");
    write(&at.join("home/other/node.key"), b"of another program");
    let options = PutOptions {
        own: Own::at(&at.join("home/here")),
        ..PutOptions::default()
    };
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let home = [at.join("home")];
        let report = put_all(&home, &memory, options.clone()).await.expect("put");
        let found = paths_of(&memory, &report).await;
        assert!(found.contains(&at.join("home/other/node.key")));
        for gone in ["home/data", "home/here"] {
            assert!(!found.contains(&at.join(gone)), "{gone}");
        }
        let left_out: Vec<_> = report
            .left_out
            .iter()
            .map(|left| left.path.clone())
            .collect();
        assert_eq!(
            left_out,
            ["home/data", "home/here"].map(|name| at.join(name))
        );
        assert_eq!((report.files, report.unreadable_total), (2, 0));
        assert_eq!(look(&home, &options).await.left_out, report.left_out);
        for named in ["home/data", "home/here/store/x"] {
            let refused = put_all(&[at.join(named)], &memory, options.clone()).await;
            assert!(matches!(refused, Err(Error::Own { .. })), "{named}");
        }
    });
}

#[test]
fn a_socket_is_told_and_alone_is_no_success() {
    let (_room, at) = room();
    write(&at.join("d/file"), b"x");
    let _socket = std::os::unix::net::UnixListener::bind(at.join("d/socket")).expect("bound");
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let report = put_all(&[at.join("d")], &memory, PutOptions::default()).await;
        let report = report.expect("put");
        assert_eq!((report.left_out.len(), report.unreadable_total), (1, 0));
        let alone = put_all(&[at.join("d/socket")], &memory, PutOptions::default()).await;
        assert!(matches!(alone, Err(Error::Io { path, .. }) if path == at.join("d/socket")));
    });
}

/// Files of the kernel say that they are empty.
#[cfg(target_os = "linux")]
#[test]
fn a_file_that_says_it_is_empty_is_read_to_its_end() {
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let version = [PathBuf::from("/proc/version")];
        let report = put_all(&version, &memory, PutOptions::default()).await;
        let report = report.expect("put");
        let real = fs::read("/proc/version").expect("readable");
        assert!(!real.is_empty());
        assert_eq!(
            (report.bytes, report.unreadable_total),
            (real.len() as u64, 0)
        );
        let bundle = Bundle::open(memory.clone(), report.link)
            .await
            .expect("opens");
        let entry = bundle
            .lookup(b"proc/version")
            .await
            .expect("reads")
            .expect("there");
        let mut content = bundle.read_file(&entry, 0..u64::MAX);
        let mut got = Vec::new();
        while let Some(bytes) = content.next().await {
            got.extend_from_slice(&bytes.expect("reads"));
        }
        assert_eq!(got, real);
    });
}

/// The system allows that to the owner of a file and to root: the test owns its files.
#[cfg(target_os = "linux")]
#[test]
fn reading_leaves_no_trace_in_access_times() {
    let (_room, at) = room();
    write(&at.join("d/small"), b"x");
    write(&at.join("d/large"), &vec![7; 2 << 20]);
    write(&at.join("d/.gitignore"), b"*.o");
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    let names = ["d", "d/small", "d/large", "d/.gitignore"];
    for name in names {
        let times = fs::FileTimes::new().set_accessed(long_ago);
        let file = fs::File::open(at.join(name)).expect("opens");
        file.set_times(times).expect("set");
    }
    let options = filtered(FilterOptions {
        ignore_files: true,
        ..FilterOptions::default()
    });
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let report = put_all(&[at.join("d")], &memory, options)
            .await
            .expect("put");
        assert_eq!(report.files, 3);
    });
    for name in names {
        let accessed = fs::metadata(at.join(name)).expect("there").accessed();
        assert_eq!(accessed.expect("a time"), long_ago, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_paths_give_their_closure(
        files in proptest::collection::btree_set(proptest::collection::vec("[ab]{1,2}", 1..4), 1..8),
        chosen in proptest::collection::vec(proptest::collection::vec("[ab]{1,2}", 1..4), 1..5),
    ) {
        let (_room, at) = room();
        for file in &files {
            let path = at.join(file.join("/"));
            if fs::create_dir_all(path.parent().expect("one")).is_ok() && !path.exists() {
                fs::write(&path, b"x").expect("written");
            }
        }
        let chosen: Vec<PathBuf> = chosen.iter().map(|path| at.join(path.join("/"))).collect();
        let there: Vec<&PathBuf> = chosen.iter().filter(|path| path.exists()).collect();
        let memory = Arc::new(Memory::default());
        runtime().block_on(async {
            let report = put_all(&chosen, &memory, PutOptions::default()).await;
            if there.is_empty() {
                assert!(report.is_err());
                return;
            }
            let report = report.expect("put");
            let mut all = vec![PathBuf::from("/")];
            all.extend(at.ancestors().map(Path::to_owned));
            let mut next = vec![at.clone()];
            while let Some(dir) = next.pop() {
                for entry in fs::read_dir(dir).expect("readable") {
                    let path = entry.expect("readable").path();
                    if path.is_dir() {
                        next.push(path.clone());
                    }
                    all.push(path);
                }
            }
            let wanted = |path: &PathBuf| {
                there.iter().any(|chosen| path.starts_with(chosen) || chosen.starts_with(path))
            };
            let expected: BTreeSet<PathBuf> = all.into_iter().filter(wanted).collect();
            assert_eq!(paths_of(&memory, &report).await, expected);
            assert_eq!(report.unreadable_total as usize, chosen.len() - there.len());
        });
    }
}
