//! How commands find the node that runs on a data directory: the file `api.json` in it.
//!
//! The running node's HTTP server writes the file, readable by its owner only. The token in it is what the server asks
//! for. A file may be stale, and its port may belong to another program by now: so the server has to prove that it knows
//! the token before a client sends it anything. A port that says nothing counts as the node only
//! while the process that wrote the file lives. Nothing outside the loopback interface is ever
//! contacted.

use std::fmt;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::crypto::{hash, random};

/// Name of the file in the data directory.
pub const FILE_NAME: &str = "api.json";
/// Largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 4096;
/// Purpose of the key that proofs are made with.
const PROOF_CONTEXT: &str = "libernet 2026-11 local API: proof of the token";

/// What opens the local API. Wiped from memory when dropped; never shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
pub struct Token(String);

impl Token {
    /// A new token of 256 random bits.
    pub fn random() -> Self {
        Self(HEXLOWER.encode(&*random::bytes::<32>()))
    }

    /// Whether `presented` is this token. Takes the same time wherever they differ.
    pub fn matches(&self, presented: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(presented).into()
    }

    /// What only somebody who knows the token can answer to `nonce`.
    pub fn prove(&self, nonce: &[u8]) -> [u8; 32] {
        let mut key = hash::derive_key(PROOF_CONTEXT, self.0.as_bytes());
        let proof = hash::keyed(&key, nonce);
        key.zeroize();
        proof
    }

    /// The value of the `Authorization` header that presents the token.
    pub(crate) fn to_header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Where the node of a data directory answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiFile {
    /// Base URL: `http://<loopback address>:<port>`.
    pub url: String,
    /// What the server asks for.
    pub token: Token,
    /// The node's process.
    pub pid: u32,
    /// The node's program version.
    pub version: String,
}

impl ApiFile {
    /// Describes this process's server.
    pub fn new(address: SocketAddr, token: Token) -> Self {
        Self {
            url: format!("http://{address}"),
            token,
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Where the server listens; `None` when the file names anything but a loopback address.
    pub fn address(&self) -> Option<SocketAddr> {
        let address: SocketAddr = self.url.strip_prefix("http://")?.parse().ok()?;
        address.ip().is_loopback().then_some(address)
    }

    /// Whether the process that wrote the file may still run: there is one with its number, and no
    /// other program has that number now.
    pub fn is_process_alive(&self) -> bool {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return false;
        };
        if test_kill_process(pid) == Err(Errno::SRCH) {
            return false;
        }
        // Where there is no /proc the number alone has to do.
        let name = |pid: &str| std::fs::read(format!("/proc/{pid}/comm")).ok();
        match (name(&self.pid.to_string()), name("self")) {
            (Some(theirs), Some(ours)) => theirs == ours,
            _ => true,
        }
    }

    /// Reads the file of `data_dir`. A missing, damaged or oversized one is none: the next node replaces it.
    pub fn read(data_dir: &Path) -> Option<Self> {
        let path = data_dir.join(FILE_NAME);
        let meta = std::fs::metadata(&path).ok()?;
        if !meta.is_file() || meta.len() > MAX_FILE_BYTES {
            return None;
        }
        let file: Self = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
        file.address().is_some().then_some(file)
    }

    /// Whether `data_dir` has a file that [`read`](Self::read) takes for none.
    pub fn is_damaged(data_dir: &Path) -> bool {
        let is_there = data_dir.join(FILE_NAME).symlink_metadata().is_ok();
        is_there && Self::read(data_dir).is_none()
    }

    /// Writes the file as a whole, readable by its owner only. The guard removes it again.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, data_dir: &Path) -> std::io::Result<Published> {
        std::fs::create_dir_all(data_dir)?;
        // Temporary files are made with mode 0600.
        let mut file = tempfile::Builder::new()
            .prefix(".api-")
            .tempfile_in(data_dir)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        let path = data_dir.join(FILE_NAME);
        file.persist(&path).map_err(|error| error.error)?;
        Ok(Published {
            path,
            file: self.clone(),
        })
    }
}

/// The file of a running server; dropping this removes it, unless another node has replaced it.
#[derive(Debug)]
pub struct Published {
    path: PathBuf,
    file: ApiFile,
}

impl Drop for Published {
    fn drop(&mut self) {
        let ours = self
            .path
            .parent()
            .and_then(ApiFile::read)
            .is_some_and(|found| found == self.file);
        if ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(url: &str) -> ApiFile {
        ApiFile {
            url: url.to_owned(),
            token: Token::random(),
            pid: 1,
            version: "0".to_owned(),
        }
    }

    #[test]
    fn what_is_written_reads_back_and_is_private() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(ApiFile::read(dir.path()), None);
        let file = ApiFile::new(([127, 0, 0, 1], 4385).into(), Token::random());
        let published = file.write(dir.path()).expect("written");
        assert_eq!(ApiFile::read(dir.path()), Some(file));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let meta = std::fs::metadata(dir.path().join(FILE_NAME)).expect("there");
            assert_eq!(meta.permissions().mode() & 0o777, 0o600);
        }
        drop(published);
        assert!(!dir.path().join(FILE_NAME).exists());
    }

    #[test]
    fn a_damaged_file_is_told_from_a_missing_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(FILE_NAME);
        assert!(!ApiFile::is_damaged(dir.path()), "there is none");
        for bytes in [&b""[..], b"{\"url\":", &[b' '; MAX_FILE_BYTES as usize + 1]] {
            std::fs::write(&path, bytes).expect("written");
            assert!(ApiFile::is_damaged(dir.path()));
        }
        let file = sample("http://127.0.0.1:1");
        let _published = file.write(dir.path()).expect("written");
        assert!(!ApiFile::is_damaged(dir.path()));
    }

    #[test]
    fn a_file_that_another_node_replaced_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = sample("http://127.0.0.1:1")
            .write(dir.path())
            .expect("written");
        let second = sample("http://127.0.0.1:2");
        let _kept = second.write(dir.path()).expect("written");
        drop(first);
        assert_eq!(ApiFile::read(dir.path()), Some(second));
    }

    #[test]
    fn damaged_and_foreign_files_are_ignored() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(FILE_NAME);
        for url in [
            "http://192.0.2.1:80",
            "https://127.0.0.1:80",
            "http://example.org:80",
            "http://127.0.0.1",
            "",
        ] {
            std::fs::write(&path, serde_json::to_vec(&sample(url)).expect("json"))
                .expect("written");
            assert_eq!(ApiFile::read(dir.path()), None, "{url}");
        }
        for text in [String::new(), "{}".to_owned(), "[".repeat(3000)] {
            std::fs::write(&path, text).expect("written");
            assert_eq!(ApiFile::read(dir.path()), None);
        }
        let good = serde_json::to_string(&sample("http://[::1]:9")).expect("json");
        let limit = MAX_FILE_BYTES as usize;
        std::fs::write(&path, format!("{good:limit$}")).expect("written");
        assert!(ApiFile::read(dir.path()).is_some(), "at the limit");
        std::fs::write(&path, format!("{good:0$}", limit + 1)).expect("written");
        assert_eq!(ApiFile::read(dir.path()), None, "beyond the limit");
        std::fs::remove_file(&path).expect("removed");
        std::fs::create_dir(&path).expect("made");
        assert_eq!(ApiFile::read(dir.path()), None, "a directory");
    }

    #[test]
    fn a_process_lives_while_its_number_is_its_own() {
        let mut file = sample("http://127.0.0.1:1");
        file.pid = std::process::id();
        assert!(file.is_process_alive());
        for gone in [0, i32::MAX as u32, u32::MAX] {
            file.pid = gone;
            assert!(!file.is_process_alive(), "{gone}");
        }
        if Path::new("/proc/self/comm").exists() {
            file.pid = 1;
            let name = |pid: &str| std::fs::read(format!("/proc/{pid}/comm")).expect("there");
            assert_eq!(file.is_process_alive(), name("1") == name("self"));
        }
    }

    #[test]
    fn tokens_differ_and_hide() {
        let (a, b) = (Token::random(), Token::random());
        assert_ne!(a, b);
        assert_eq!(format!("{a:?}"), "Token(..)");
        let text = a.to_header();
        let bare = text.strip_prefix("Bearer ").expect("the scheme");
        assert!(a.matches(bare.as_bytes()));
        assert!(
            !a.matches(b"") && !b.matches(bare.as_bytes()) && !a.matches(&bare.as_bytes()[1..])
        );
        assert_eq!(a.prove(b"x"), a.prove(b"x"));
        assert_ne!(a.prove(b"x"), a.prove(b"y"));
        assert_ne!(a.prove(b"x"), b.prove(b"x"));
    }
}
