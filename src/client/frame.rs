//! How an answer travels over HTTP: lines of JSON, or bytes with an error behind them.
//!
//! - JSON answers are newline-delimited: any number of `{"progress":{..}}`, `{"givers":[..]}` and
//!   `{"warning":".."}`, then exactly one `{"done":{..}}` or `{"error":{..}}`.
//! - Byte answers are the bytes. An error that comes after the first byte is the trailer [`ERROR_TRAILER`]: its JSON as
//!   base64url.
//!
//! Both ends use this file. Everything read has a bound. Deliberately absent: sockets and HTTP itself.

use bytes::{Bytes, BytesMut};
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::monitor::{Giver, Progress};
use crate::node::api::{CallError, ErrorKind};

/// Request header of a client whose user looks at progress: totals may be counted for it.
pub const WATCHED_HEADER: &str = "x-libernet-watched";
/// Longest line in bytes, without its end. The largest answers are listings of some thousand entries.
pub const MAX_LINE_BYTES: usize = 16 << 20;
/// The trailer that carries an error behind a byte answer.
pub const ERROR_TRAILER: &str = "x-libernet-error";
/// Largest value of that trailer; HTTP libraries refuse trailers beyond 16 KiB.
pub const MAX_TRAILER_BYTES: usize = 8 << 10;
/// Most characters of a message in a trailer that would be too large in full.
const CUT_MESSAGE_CHARS: usize = 500;

/// One line of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Frame<R> {
    /// The work has come this far.
    Progress(Progress),
    /// These peers have given blocks.
    Givers(Vec<Giver>),
    /// Something went wrong with one part and the work goes on.
    Warning(String),
    /// The work is done; the last line.
    Done(R),
    /// The work failed; the last line.
    Error(CallError),
}

/// Why lines could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The line is longer than [`MAX_LINE_BYTES`].
    #[error("a line of the answer is longer than {MAX_LINE_BYTES} bytes")]
    TooLong,
    /// The line is not what was expected.
    #[error("a line of the answer is not what was expected")]
    Json(#[from] serde_json::Error),
}

impl<R: Serialize> Frame<R> {
    /// The line with its end.
    ///
    /// # Errors
    /// [`FrameError::TooLong`].
    pub fn to_line(&self) -> Result<Bytes, FrameError> {
        let mut line = serde_json::to_vec(self)?;
        if line.len() > MAX_LINE_BYTES {
            return Err(FrameError::TooLong);
        }
        line.push(b'\n');
        Ok(line.into())
    }
}

impl<R: DeserializeOwned> Frame<R> {
    /// Reads one line.
    ///
    /// # Errors
    /// [`FrameError::Json`].
    pub fn from_line(line: &[u8]) -> Result<Self, FrameError> {
        Ok(serde_json::from_slice(line)?)
    }
}

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
pub struct Lines {
    buffer: BytesMut,
    /// Bytes at the start of the buffer that are known to hold no line end.
    scanned: usize,
}

impl Lines {
    /// Takes what came from the network.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line without its end, or nothing when more bytes are needed. Empty lines are left out.
    ///
    /// # Errors
    /// [`FrameError::TooLong`]; nothing more can be read then.
    pub fn next_line(&mut self) -> Result<Option<Bytes>, FrameError> {
        loop {
            let unseen = &self.buffer[self.scanned..];
            let Some(at) = unseen.iter().position(|byte| *byte == b'\n') else {
                self.scanned = self.buffer.len();
                if self.scanned > MAX_LINE_BYTES {
                    return Err(FrameError::TooLong);
                }
                return Ok(None);
            };
            let end = self.scanned + at;
            if end > MAX_LINE_BYTES {
                return Err(FrameError::TooLong);
            }
            let line = self.buffer.split_to(end + 1).freeze();
            self.scanned = 0;
            if end > 0 {
                return Ok(Some(line.slice(..end)));
            }
        }
    }
}

/// An error as the value of [`ERROR_TRAILER`], at most [`MAX_TRAILER_BYTES`] long: what doesn't fit is left out, first
/// the list of peers, then the end of the message.
pub fn error_to_trailer(error: &CallError) -> String {
    let encode = |error: &CallError| {
        let json = serde_json::to_vec(error).expect("an error holds only text and numbers");
        BASE64URL_NOPAD.encode(&json)
    };
    let full = encode(error);
    if full.len() <= MAX_TRAILER_BYTES {
        return full;
    }
    let mut short = error.clone();
    short.tried.clear();
    let without_peers = encode(&short);
    if without_peers.len() <= MAX_TRAILER_BYTES {
        return without_peers;
    }
    short.message = short.message.chars().take(CUT_MESSAGE_CHARS).collect();
    short.hint = None;
    encode(&short)
}

/// Reads what [`error_to_trailer`] writes; anything else becomes an error of its own.
pub fn error_from_trailer(value: &[u8]) -> CallError {
    BASE64URL_NOPAD
        .decode(value.get(..MAX_TRAILER_BYTES).unwrap_or(value))
        .ok()
        .and_then(|json| serde_json::from_slice(&json).ok())
        .unwrap_or_else(|| {
            CallError::new(
                ErrorKind::Failed,
                "the node broke off with an error that this program can't read",
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{Attempt, Tried};
    use crate::id::BlockId;
    use proptest::prelude::*;

    fn any_frame() -> impl Strategy<Value = Frame<String>> {
        let error = (".{0,40}", proptest::option::of(".{0,20}")).prop_map(|(message, hint)| {
            let mut error = CallError::new(ErrorKind::Damaged, message);
            error.hint = hint;
            error.block = Some(BlockId::from_sha384([3; 48]));
            error.tried = vec![Tried {
                peer: "p".to_owned(),
                attempt: Attempt::Busy,
            }];
            error
        });
        prop_oneof![
            any::<(u64, u64)>().prop_map(|(files, bytes)| Frame::Progress(Progress {
                files,
                bytes,
                ..Progress::default()
            })),
            ".{0,40}".prop_map(Frame::Warning),
            "(?s).{0,40}".prop_map(Frame::Done),
            error.prop_map(Frame::Error),
        ]
    }

    proptest! {
        #[test]
        fn frames_read_back_however_the_bytes_are_cut(
            frames in proptest::collection::vec(any_frame(), 0..8),
            piece in 1usize..40,
        ) {
            let mut bytes = Vec::new();
            for frame in &frames {
                bytes.extend_from_slice(&frame.to_line().expect("short"));
            }
            let mut lines = Lines::default();
            let mut read = Vec::new();
            for piece in bytes.chunks(piece) {
                lines.push(piece);
                while let Some(line) = lines.next_line().expect("short") {
                    read.push(Frame::<String>::from_line(&line).expect("a frame"));
                }
            }
            prop_assert_eq!(read, frames);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut lines = Lines::default();
            lines.push(&bytes);
            while let Some(line) = lines.next_line().expect("short") {
                let _ = Frame::<u64>::from_line(&line);
            }
            let _ = error_from_trailer(&bytes);
        }
    }

    #[test]
    fn golden_lines() {
        let done = Frame::Done(7).to_line().expect("short");
        assert_eq!(&done[..], b"{\"done\":7}\n");
        let error: Frame<u64> = Frame::Error(CallError::new(ErrorKind::NotFound, "gone"));
        assert_eq!(
            &error.to_line().expect("short")[..],
            b"{\"error\":{\"kind\":\"not_found\",\"message\":\"gone\"}}\n"
        );
    }

    #[test]
    fn the_longest_line_is_read_and_a_longer_one_refused() {
        let mut lines = Lines::default();
        lines.push(&vec![b'x'; MAX_LINE_BYTES]);
        assert!(lines.next_line().expect("at the limit").is_none());
        lines.push(b"\n");
        let line = lines.next_line().expect("at the limit").expect("whole");
        assert_eq!(line.len(), MAX_LINE_BYTES);
        lines.push(&vec![b'x'; MAX_LINE_BYTES + 1]);
        assert!(matches!(lines.next_line(), Err(FrameError::TooLong)));
        let text = "x".repeat(MAX_LINE_BYTES);
        assert!(matches!(
            Frame::Done(text).to_line(),
            Err(FrameError::TooLong)
        ));
    }

    #[test]
    fn an_error_of_any_size_fits_its_trailer() {
        let tried = Tried {
            peer: "p".repeat(52),
            attempt: Attempt::TimedOut,
        };
        let mut error = CallError::new(ErrorKind::NotFound, "short").with_hint("wait");
        assert_eq!(
            error_from_trailer(error_to_trailer(&error).as_bytes()),
            error
        );
        error.tried = vec![tried; 500];
        let read = error_from_trailer(error_to_trailer(&error).as_bytes());
        assert_eq!((read.kind, read.tried.len()), (ErrorKind::NotFound, 0));
        error.message = "\u{1}\u{10FFFF}".repeat(10_000);
        let text = error_to_trailer(&error);
        assert!(text.len() <= MAX_TRAILER_BYTES, "{}", text.len());
        assert_eq!(
            error_from_trailer(text.as_bytes()).kind,
            ErrorKind::NotFound
        );
    }
}
