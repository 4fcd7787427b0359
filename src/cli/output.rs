//! Writing to standard output and standard error without panics: a reader that went away is no disaster.

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;

use serde::Serialize;

use super::exit::Failure;

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

/// Writes one JSON value and a line end to standard output.
///
/// # Errors
/// [`Failure::output`].
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let mut line = serde_json::to_vec(value).expect("answers hold only what JSON can express");
    line.push(b'\n');
    stdout(&line)
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
