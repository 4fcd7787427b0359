//! Asking a person, and reading secrets from files.
//!
//! Questions and secrets go to a terminal only, on stderr where possible, so that a redirected stdout never holds either. Secrets
//! never come from arguments: other users of the machine see those. A signal ends every question.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::Path;

use zeroize::Zeroizing;

use super::context::Context;
use super::exit::{Exit, Failure};
use super::output;
use crate::backup::owner::MAX_PASSPHRASE_BYTES;

/// Longest line that a person may type, in bytes.
const MAX_LINE_BYTES: u64 = 4096;

/// Where a person sees what is written, and nobody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Screen {
    /// Standard error is a terminal.
    Stderr,
    /// Only standard output is one.
    Stdout,
}

/// What of a terminal there is.
#[derive(Debug, Clone, Copy)]
pub struct Terminal {
    /// Where to write for a person to see; none when nobody is there.
    pub screen: Option<Screen>,
    /// Whether there is a person who can answer as well.
    pub answers: bool,
}

impl Terminal {
    /// Looks at this process's streams. Standard output is left to results when `is_for_results`.
    pub fn find(is_for_results: bool) -> Self {
        let screen = if std::io::stderr().is_terminal() {
            Some(Screen::Stderr)
        } else if !is_for_results && std::io::stdout().is_terminal() {
            Some(Screen::Stdout)
        } else {
            None
        };
        Self {
            screen,
            answers: screen.is_some() && std::io::stdin().is_terminal(),
        }
    }

    /// Shows `text` to the person; nothing when there is none.
    ///
    /// # Errors
    /// When the terminal went away.
    pub fn show(&self, text: &str) -> Result<(), Failure> {
        let write = |out: &mut dyn Write| out.write_all(text.as_bytes()).and_then(|()| out.flush());
        match self.screen {
            Some(Screen::Stderr) => write(&mut std::io::stderr().lock())
                .map_err(|error| Failure::io("the terminal could not be written", &error)),
            Some(Screen::Stdout) => output::stdout(text.as_bytes()),
            None => Ok(()),
        }
    }

    /// One line that the person types, visibly. Only where somebody [answers](Self::answers).
    ///
    /// # Errors
    /// When the input ends, or a signal comes.
    pub async fn line(
        &self,
        prompt: &str,
        context: &Context,
    ) -> Result<Zeroizing<String>, Failure> {
        self.show(prompt)?;
        let read = || {
            let mut line = Zeroizing::new(String::with_capacity(256));
            let mut input = std::io::stdin().lock().take(MAX_LINE_BYTES);
            match input.read_line(&mut line) {
                Ok(0) => Err(Failure::usage("the input ended before the answer")),
                Ok(_) => Ok(line),
                Err(error) => Err(Failure::io("the terminal could not be read", &error)),
            }
        };
        until_stopped(context, read).await
    }

    /// A passphrase that the person types, invisibly.
    ///
    /// # Errors
    /// When nobody can answer, or a signal comes.
    pub async fn passphrase(
        &self,
        prompt: &'static str,
        context: &Context,
    ) -> Result<Zeroizing<Vec<u8>>, Failure> {
        if !self.answers {
            return Err(
                Failure::usage("there is no terminal to ask for a passphrase on")
                    .with_hint("put it into a file that only you can read: --passphrase-file FILE"),
            );
        }
        let read = move || match rpassword::prompt_password(prompt) {
            Ok(text) => Ok(Zeroizing::new(text.into_bytes())),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {
                Err(Failure::interrupted())
            }
            Err(error) => Err(Failure::io("the passphrase could not be read", &error)),
        };
        until_stopped(context, read).await
    }

    /// A new passphrase, typed twice.
    ///
    /// # Errors
    /// When the two differ, and as [`passphrase`](Self::passphrase).
    pub async fn new_passphrase(&self, context: &Context) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let first = self.passphrase("New passphrase: ", context).await?;
        let second = self.passphrase("The same again: ", context).await?;
        if *first == *second {
            Ok(first)
        } else {
            Err(Failure::usage("the two passphrases differ"))
        }
    }
}

/// Runs what blocks, and changes nothing, on a thread of its own for as long as no signal comes.
///
/// # Errors
/// Those of `work`, or that a signal came.
pub async fn until_stopped<T: Send + 'static>(
    context: &Context,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::select! {
        biased;
        () = context.stop.cancelled() => Err(Failure::interrupted()),
        done = to_the_end(work) => done,
    }
}

/// Runs what blocks on a thread of its own, to its end even when a signal comes: what stores something must be known to be done
/// or not done.
///
/// # Errors
/// Those of `work`.
pub async fn to_the_end<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(Failure::new(Exit::Failed, "the work ended unexpectedly")))
}

/// A secret from a file, or from standard input when it is `-`; at most `max` bytes. `what` says what it is.
///
/// # Errors
/// When it is longer, or can't be read.
pub fn read_secret(path: &Path, what: &str, max: usize) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let unreadable = |error: &std::io::Error| {
        // Who gives the secret itself in place of a file shall not see it in a message, or in a log.
        let is_there = error.kind() == std::io::ErrorKind::PermissionDenied;
        if !is_there && path.to_string_lossy().contains(char::is_whitespace) {
            return Failure::usage(format!("{what} can come from a file or a terminal, never from the arguments"))
                .with_hint("others on this machine can see arguments, and the shell may have kept them: give the name of a file, or -");
        }
        Failure::io(
            format!("{what} could not be read from {}", path.display()),
            error,
        )
    };
    // One more than allowed, all of it at once: a buffer that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(max + 1));
    let limit = max as u64 + 1;
    if path.as_os_str() == "-" {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    }
    .map_err(|error| unreadable(&error))?;
    if bytes.len() > max {
        return Err(Failure::usage(format!(
            "{what} can't be longer than {max} bytes"
        )));
    }
    Ok(bytes)
}

/// A passphrase from a file. One line end at its end is not part of it.
///
/// # Errors
/// When it is too long, or can't be read.
pub fn passphrase_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let bytes = read_secret(path, "the passphrase", MAX_PASSPHRASE_BYTES + 2)?;
    Ok(without_line_end(bytes))
}

/// A passphrase that a command of the shell prints. It reads this process's standard input, and
/// may ask on the terminal.
///
/// # Errors
/// When the command fails or prints too much or nothing.
pub fn passphrase_of_command(line: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let failed = |error| Failure::io("the command of the passphrase could not be run", &error);
    let mut child = std::process::Command::new("/bin/sh")
        .args(["-c", line])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let most = MAX_PASSPHRASE_BYTES + 2;
    let mut bytes = Zeroizing::new(Vec::with_capacity(most + 1));
    if let Some(output) = child.stdout.take() {
        // The pipe closes here: a command that prints for ever ends by it.
        let mut output = output.take(most as u64 + 1);
        output.read_to_end(&mut bytes).map_err(failed)?;
    }
    let status = child.wait().map_err(failed)?;
    if bytes.len() > most {
        return Err(Failure::usage(
            "the command of the passphrase printed too much for one",
        ));
    }
    if !status.success() {
        return Err(Failure::usage(format!(
            "the command of the passphrase failed: {status}"
        )));
    }
    if bytes.is_empty() {
        return Err(Failure::usage(
            "the command of the passphrase printed nothing",
        ));
    }
    Ok(without_line_end(bytes))
}

fn without_line_end(mut bytes: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_prints_a_passphrase() {
        let text = |line| passphrase_of_command(line).map(|bytes| bytes.to_vec());
        assert_eq!(text("echo 'a b'").expect("printed"), b"a b");
        assert_eq!(text("printf a").expect("printed"), b"a");
        for line in ["exit 1", "true", "echo a; exit 3", "cat /dev/zero"] {
            assert_eq!(
                text(line).expect_err("no passphrase").exit,
                Exit::Usage,
                "{line}"
            );
        }
    }

    #[test]
    fn a_passphrase_is_the_file_without_its_line_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("p");
        for (text, passphrase) in [
            ("a b", "a b"),
            ("a\n", "a"),
            ("a\r\n", "a"),
            ("a\n\n", "a\n"),
            ("", ""),
        ] {
            std::fs::write(&path, text).expect("written");
            let read = passphrase_file(&path).expect("read");
            assert_eq!(read.as_slice(), passphrase.as_bytes());
        }
        std::fs::write(&path, [b'x'; MAX_PASSPHRASE_BYTES + 3]).expect("written");
        assert_eq!(
            passphrase_file(&path).expect_err("too long").exit,
            Exit::Usage
        );
        assert_eq!(
            passphrase_file(&dir.path().join("none"))
                .expect_err("missing")
                .exit,
            Exit::Failed
        );
    }

    #[test]
    fn a_secret_given_as_argument_is_not_repeated() {
        let failure = read_secret(Path::new("zoo zebra"), "what", 9).expect_err("no file");
        assert_eq!(failure.exit, Exit::Usage);
        assert!(!format!("{failure:?}").contains("zebra"), "{failure:?}");
        let long = "zebra ".repeat(60);
        let failure = read_secret(Path::new(&long), "what", 9).expect_err("no file");
        assert!(!format!("{failure:?}").contains("zebra"), "{failure:?}");
    }
}
