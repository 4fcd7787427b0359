//! References of web app manifests (W3C Web Application Manifest).

use serde_json::Value;

use super::reference::Use;
use super::{Found, Kind};

/// Members of a manifest, or of an object in it, that hold a reference.
const MEMBERS: [&str; 4] = ["start_url", "scope", "src", "url"];
/// Members that hold a list of objects with references.
const LISTS: [&str; 3] = ["icons", "screenshots", "shortcuts"];

/// Finds the references of a manifest.
pub(super) fn read(bytes: &[u8], found: &mut Found) {
    match serde_json::from_slice::<Value>(bytes) {
        Ok(value) => object(&value, bytes, found),
        Err(error) => found.fault(
            0,
            Kind::Invalid,
            format!("the manifest is not JSON: {error}"),
        ),
    }
}

/// Finds the references of one object. Shortcuts have icons of their own.
fn object(value: &Value, bytes: &[u8], found: &mut Found) {
    for name in MEMBERS {
        if let Some(raw) = value.get(name).and_then(Value::as_str) {
            found.reference(
                offset_of(raw, bytes),
                raw,
                &format!("manifest {name}"),
                Use::Load,
            );
        }
    }
    for name in LISTS {
        for item in value
            .get(name)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            object(item, bytes, found);
        }
    }
}

/// Offset of a string's first occurrence; the file's start for one that is written with escapes.
fn offset_of(raw: &str, bytes: &[u8]) -> usize {
    let quoted = format!("\"{raw}\"");
    bytes
        .windows(quoted.len())
        .position(|window| window == quoted.as_bytes())
        .map_or(0, |at| at + 1)
}
