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
    Bundle, Error, FilterOptions, PutOptions, PutReport, Rules, Survey, put_paths, survey,
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
            "a", "a/b", "a/b/one", "a/b/two", "c", "d", "d/e", "d/e/f", "d/e/f/g",
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
        ..FilterOptions::default()
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
