//! Paths in JSON and in files of settings: every path arrives as the bytes that it is.
//!
//! In requests and files a path is text where it is UTF-8, and `{"hex":"2f66ff"}` where it is not.
//! Answers are read by people and by scripts that expect text: there a name or path is always text,
//! in which `\xff` stands for a byte that is not part of any text ([`shown`]); a second field
//! beside it, whose name ends in `_hex`, holds the bytes where that was needed ([`hex`]).

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

/// A name or path as text that tells it from every other one which is not UTF-8: bytes that are not
/// part of any text are written `\xff`, and backslashes beside such bytes are doubled.
pub fn shown(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    if let Ok(text) = std::str::from_utf8(bytes) {
        return text.to_owned();
    }
    let mut text = String::with_capacity(bytes.len() + 8);
    for chunk in bytes.utf8_chunks() {
        text.push_str(&chunk.valid().replace('\\', "\\\\"));
        for byte in chunk.invalid() {
            // A string takes whatever is written to it.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// The bytes that [`shown`] wrote as `text`, where they are not UTF-8: the form in which a person
/// types such a name.
pub fn unshown(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        match behind {
            [b'\\', behind @ ..] => {
                bytes.push(b'\\');
                rest = behind;
            }
            [b'x', high, low, behind @ ..] => {
                let digits = [*high, *low];
                bytes.extend(HEXLOWER_PERMISSIVE.decode(&digits).ok()?);
                rest = behind;
            }
            _ => return None,
        }
    }
    let is_escaped = std::str::from_utf8(&bytes).is_err() && shown(&bytes).as_bytes() == text;
    is_escaped.then_some(bytes)
}

/// The bytes of a name or path in hex, where it is not UTF-8.
pub fn hex(bytes: &[u8]) -> Option<String> {
    let is_text = std::str::from_utf8(bytes).is_ok();
    (!is_text).then(|| HEXLOWER_PERMISSIVE.encode(bytes))
}

/// The bytes that [`shown`] and [`hex`] were made of. A damaged `hex` counts as missing.
pub fn bytes_of(text: &str, hex: Option<&str>) -> Vec<u8> {
    hex.and_then(|hex| HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok())
        .unwrap_or_else(|| text.as_bytes().to_vec())
}

/// Writes a path, for serde's `with`.
///
/// # Errors
/// Error of the serializer.
pub fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    Form::of(path).serialize(to)
}

/// Reads a path, for serde's `with`.
///
/// # Errors
/// A value that is no path.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    Form::deserialize(from)?.into_path()
}

/// A path that may be missing.
pub mod optional {
    use super::*;

    /// Writes it.
    ///
    /// # Errors
    /// Error of the serializer.
    pub fn serialize<S: Serializer>(path: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
        path.as_deref().map(Form::of).serialize(to)
    }

    /// Reads it.
    ///
    /// # Errors
    /// A value that is no path.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
        let form = Option::<Form>::deserialize(from)?;
        form.map(Form::into_path).transpose()
    }
}

/// Several paths.
pub mod list {
    use super::*;

    /// Writes it.
    ///
    /// # Errors
    /// Error of the serializer.
    pub fn serialize<S: Serializer>(paths: &[PathBuf], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(paths.iter().map(|path| Form::of(path)))
    }

    /// Reads it.
    ///
    /// # Errors
    /// A value that is no path.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
        let forms = Vec::<Form>::deserialize(from)?;
        forms.into_iter().map(Form::into_path).collect()
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn names_that_are_no_text_are_told_apart() {
        for (bytes, text, hex_digits) in [
            (&b"plain"[..], "plain", None),
            (b"back\\slash", "back\\slash", None),
            (b"n\xe4", "n\\xe4", Some("6ee4")),
            (b"n\xf6\\xe4", "n\\xf6\\\\xe4", Some("6ef65c786534")),
        ] {
            assert_eq!(shown(bytes), text);
            assert_eq!(hex(bytes).as_deref(), hex_digits);
            assert_eq!(bytes_of(text, hex_digits), bytes);
            let typed = hex_digits.map(|_| bytes.to_vec());
            assert_eq!(unshown(text.as_bytes()), typed);
        }
        for text in ["", "\\xe4\\", "\\xe", "\\xzz", "\\x61", "\\n\\xe4", "\\\\"] {
            assert_eq!(unshown(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_stands_for_one_name(
            one in proptest::collection::vec(any::<u8>(), 0..8),
            other in proptest::collection::vec(any::<u8>(), 0..8),
        ) {
            prop_assert_eq!(bytes_of(&shown(&one), hex(&one).as_deref()), one.clone());
            let same = shown(&one) == shown(&other) && hex(&one).is_some() == hex(&other).is_some();
            prop_assert_eq!(same, one == other);
            let typed = std::str::from_utf8(&one).is_err().then(|| one.clone());
            prop_assert_eq!(unshown(shown(&one).as_bytes()), typed);
            let _ = unshown(&other);
        }

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
}
