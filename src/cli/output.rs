//! Writing to standard output and standard error without panics: a reader that went away is no disaster.

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;

use serde::Serialize;
use serde_json::Value;

use super::exit::Failure;
use super::show;
use crate::time::Timestamp;

/// Fields of answers that hold a time in milliseconds since 1970.
const TIMES: [&str; 10] = [
    "time",
    "updated",
    "created",
    "joined",
    "last_seen",
    "first",
    "last",
    "last_backup",
    "next_backup",
    "overdue_since",
];
/// The field of a file's time, in seconds since 1970.
const FILE_TIME: &str = "mtime_s";
/// Smaller numbers are counts: this is a time in the year 1973.
const MIN_TIME_MS: u64 = 100_000_000_000;
/// Ending of the name of a field with a time that other programs and people can read.
const READABLE: &str = "_rfc3339";

/// Writes to standard output.
///
/// # Errors
/// [`Failure::output`].
pub fn stdout(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(|error| Failure::output(&error))
}

/// Standard output for streams of bytes. Writing blocks a thread that may be blocked, never one that runs tasks.
///
/// # Errors
/// When it is closed.
pub fn async_stdout() -> Result<tokio::fs::File, Failure> {
    let file = std::io::stdout().as_fd().try_clone_to_owned();
    let file = file.map_err(|error| Failure::io("standard output can't be used", &error))?;
    Ok(tokio::fs::File::from_std(file.into()))
}

/// Standard input for streams of bytes.
///
/// # Errors
/// When it is closed.
pub fn async_stdin() -> Result<tokio::fs::File, Failure> {
    let file = std::io::stdin().as_fd().try_clone_to_owned();
    let file = file.map_err(|error| Failure::io("standard input can't be used", &error))?;
    Ok(tokio::fs::File::from_std(file.into()))
}

/// Writes one JSON value and a line end to standard output. Beside each time in milliseconds is the
/// same in RFC 3339, with the offset of this machine's zone: `time` and `time_rfc3339`.
///
/// # Errors
/// [`Failure::output`].
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let mut value = serde_json::to_value(value).expect("answers hold only what JSON can express");
    add_readable_times(&mut value);
    stdout(format!("{value}\n").as_bytes())
}

fn add_readable_times(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(add_readable_times),
        Value::Object(fields) => {
            let mut readable = Vec::new();
            for (name, value) in fields.iter_mut() {
                add_readable_times(value);
                if TIMES.contains(&name.as_str())
                    && let Some(time) = value.as_u64().filter(|time| *time >= MIN_TIME_MS)
                {
                    let text = show::rfc3339(Timestamp(time));
                    readable.push((format!("{name}{READABLE}"), text));
                } else if name == FILE_TIME
                    && let Some(text) = value.as_i64().and_then(show::rfc3339_seconds)
                {
                    readable.push((format!("mtime{READABLE}"), text));
                }
            }
            let readable = readable.into_iter().map(|(name, text)| (name, text.into()));
            fields.extend(readable);
        }
        _ => {}
    }
}

/// Writes to standard error. Nothing can be done when that fails.
pub fn stderr(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Whether a person may be watching standard error.
pub fn is_watched() -> bool {
    std::io::stderr().is_terminal()
}

/// Whether input, output and errors are all a terminal's.
pub fn is_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal() && is_watched()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_there_for_people_too() {
        let mut value = serde_json::json!({
            "snapshots": [{ "time": 1_795_332_720_000u64, "bytes": 1_795_332_720_000u64 }],
            "entries": [{ "mtime_s": -1 }],
            "keep": { "last": 3 },
            "last_seen": null,
        });
        add_readable_times(&mut value);
        let text = value["snapshots"][0]["time_rfc3339"].as_str();
        let instant: jiff::Timestamp = text.expect("a text").parse().expect("RFC 3339");
        assert_eq!(instant.as_second(), 1_795_332_720);
        assert_eq!(value["snapshots"][0].as_object().map(|o| o.len()), Some(3));
        let text = value["entries"][0]["mtime_rfc3339"].as_str();
        let instant: jiff::Timestamp = text.expect("a text").parse().expect("RFC 3339");
        assert_eq!(instant.as_second(), -1);
        assert_eq!(value["keep"], serde_json::json!({ "last": 3 }));
        assert!(value.get("last_seen_rfc3339").is_none());
    }
}
