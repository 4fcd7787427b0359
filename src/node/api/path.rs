//! How paths travel in JSON: as text where they are UTF-8, and as `{"hex":"2f66ff"}` where they are not, so that every path arrives
//! as the bytes that it is.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER_PERMISSIVE;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Form {
    Text(String),
    Bytes(Bytes),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bytes {
    hex: String,
}

impl Form {
    fn of(path: &Path) -> Self {
        match path.to_str() {
            Some(text) => Self::Text(text.to_owned()),
            None => Self::Bytes(Bytes {
                hex: HEXLOWER_PERMISSIVE.encode(path.as_os_str().as_bytes()),
            }),
        }
    }

    fn into_path<E: serde::de::Error>(self) -> Result<PathBuf, E> {
        match self {
            Self::Text(text) => Ok(text.into()),
            Self::Bytes(Bytes { hex }) => HEXLOWER_PERMISSIVE
                .decode(hex.as_bytes())
                .map(|bytes| OsString::from_vec(bytes).into())
                .map_err(|_| E::custom("the bytes of a path are hex digits")),
        }
    }
}

pub(super) fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    Form::of(path).serialize(to)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    Form::deserialize(from)?.into_path()
}

/// A path that may be missing.
pub(super) mod optional {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        path: &Option<PathBuf>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        path.as_deref().map(Form::of).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<PathBuf>, D::Error> {
        let form = Option::<Form>::deserialize(from)?;
        form.map(Form::into_path).transpose()
    }
}

/// Several paths.
pub(super) mod list {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(paths: &[PathBuf], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(paths.iter().map(|path| Form::of(path)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<PathBuf>, D::Error> {
        let forms = Vec::<Form>::deserialize(from)?;
        forms.into_iter().map(Form::into_path).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Backup, Get, Overwrite, Put, Restore, SnapshotRef};
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Paths {
        #[serde(with = "super")]
        one: PathBuf,
        #[serde(default, with = "optional")]
        perhaps: Option<PathBuf>,
        #[serde(with = "list")]
        many: Vec<PathBuf>,
    }

    fn path(bytes: &[u8]) -> PathBuf {
        OsString::from_vec(bytes.to_vec()).into()
    }

    #[test]
    fn text_where_it_can_be_and_hex_where_not() {
        let paths = Paths {
            one: path(b"/f\xff"),
            perhaps: None,
            many: vec![path("/\u{e4}".as_bytes()), path(b"\x80")],
        };
        let written = json!({
            "one": { "hex": "2f66ff" },
            "perhaps": null,
            "many": ["/\u{e4}", { "hex": "80" }],
        });
        assert_eq!(serde_json::to_value(&paths).expect("json"), written);
        let read = |value: Value| serde_json::from_value::<Paths>(value);
        assert_eq!(read(written).expect("reads"), paths);
        let less = json!({ "one": { "hex": "2F66FF" }, "many": [] });
        let less = read(less).expect("what is missing is none");
        assert_eq!((less.one, less.perhaps), (path(b"/f\xff"), None));
        for wrong in [
            json!({ "hex": "2f6" }),
            json!({ "hex": "zz" }),
            json!({ "hex": 7 }),
            json!({ "hex": "2f", "more": 1 }),
            json!({}),
            json!(7),
            json!(null),
        ] {
            let value = json!({ "one": wrong.clone(), "many": [] });
            assert!(read(value).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn every_path_arrives_as_it_is(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let paths = Paths {
                one: path(&bytes),
                perhaps: Some(path(&bytes)),
                many: vec![path(&bytes); 2],
            };
            let text = serde_json::to_string(&paths).expect("json");
            prop_assert_eq!(serde_json::from_str::<Paths>(&text).expect("reads"), paths);
        }
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
            path: String::new(),
            output: Some(strange.clone()),
            directory: strange.clone(),
            overwrite: Overwrite::Never,
            owners: false,
            pin: false,
            timeout_s: 1,
        };
        let mut value = serde_json::to_value(get).expect("json");
        assert_eq!((&value["output"], &value["directory"]), (&hex, &hex));
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
            path: String::new(),
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
        assert_eq!(value["target"], hex);
        let restore: Restore = serde_json::from_value(value).expect("reads");
        assert_eq!(restore.target, strange);
    }
}
