//! Paths in requests: every path arrives as the bytes that it is.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use serde_json::json;

use super::{Backup, Get, Overwrite, Put, Restore, SnapshotRef};

fn path(bytes: &[u8]) -> PathBuf {
    OsString::from_vec(bytes.to_vec()).into()
}

/// In every request that names paths of its machine.
#[test]
fn requests_carry_any_path() {
    let strange = path(b"/a\xffb");
    let hex = json!({ "hex": "2f61ff62" });
    let put = Put {
        path: strange.clone(),
        name: None,
        index_file: None,
        pin: true,
        announce: false,
        private: false,
        like: None,
    };
    let value = serde_json::to_value(put).expect("json");
    assert_eq!(value["path"], hex);
    let put: Put = serde_json::from_value(value).expect("reads");
    assert_eq!(put.path, strange);

    let get = Get {
        link: crate::block::Link {
            id: crate::id::BlockId::from_sha384([1; 48]),
            key: crate::crypto::key::Key::new([2; 32]),
        },
        path: strange.clone(),
        output: Some(strange.clone()),
        directory: strange.clone(),
        overwrite: Overwrite::Never,
        owners: false,
        pin: false,
        max_bytes: None,
        max_files: None,
        any_size: false,
        timeout_s: 1,
    };
    let mut value = serde_json::to_value(get).expect("json");
    assert_eq!((&value["output"], &value["directory"]), (&hex, &hex));
    assert_eq!(value["path"], hex);
    let get: Get = serde_json::from_value(value.clone()).expect("reads");
    assert_eq!(get.output.as_ref(), Some(&strange));
    value.as_object_mut().expect("fields").remove("output");
    let get: Get = serde_json::from_value(value).expect("reads");
    assert_eq!((get.output, get.directory), (None, strange.clone()));

    let backup = json!({ "paths": ["/text", hex.clone()] });
    let backup: Backup = serde_json::from_value(backup).expect("reads");
    assert_eq!(backup.paths, [PathBuf::from("/text"), strange.clone()]);
    let value = serde_json::to_value(backup).expect("json");
    assert_eq!(value["paths"][1], hex);

    let restore = Restore {
        of: SnapshotRef {
            speaker: Default::default(),
            snapshot: "latest".to_owned(),
            choice: Default::default(),
            timeout_s: 1,
        },
        path: strange.clone(),
        target: strange.clone(),
        include: Vec::new(),
        first: Vec::new(),
        newest_first: false,
        overwrite: Overwrite::Never,
        verify: false,
        owners: false,
        dry_run: false,
    };
    let value = serde_json::to_value(restore).expect("json");
    assert_eq!((&value["target"], &value["path"]), (&hex, &hex));
    let restore: Restore = serde_json::from_value(value).expect("reads");
    assert_eq!(restore.target, strange);
}
