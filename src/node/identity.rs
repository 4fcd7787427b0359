//! The node's key: an ed25519 key made on first use and kept in the data directory.
//!
//! It names the node on the network (its PeerId) and proves that name in handshakes. It opens no data.
//!
//! Bytes of the file: what it is and its version, the secret, and the beginning of the SHA-256 of
//! both: with a bit of it changed a node would be another one without a word. Files of version 1
//! end with the secret.

use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use libp2p::identity::Keypair;
use zeroize::Zeroizing;

use crate::crypto::{hash, random};
use crate::file;

/// Name of the key file in the data directory.
pub const FILE_NAME: &str = "node.key";
/// First bytes of the file: what it is and its version.
const MAGIC: &[u8; 16] = b"libernet-key v2\n";
/// The same of a file without a checksum.
const MAGIC_1: &[u8; 16] = b"libernet-key v1\n";
const SECRET_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 8;
const FILE_BYTES: usize = MAGIC.len() + SECRET_BYTES + CHECKSUM_BYTES;

/// What is wrong with the key or its place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file or directory could not be accessed.
    #[error("{path} could not be {action}: {source}")]
    Io {
        /// Read, made or written.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what was written, or is of another version.
    #[error("the node's key {} is damaged: {what}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Fault of the file.
        what: &'static str,
    },
    /// Others may read the file.
    #[error("{path} may be read by others (mode {mode:o})")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

/// Makes the data directory, readable by its owner only. One that exists is left as it is.
///
/// # Errors
/// [`Error::Io`].
pub fn make_data_dir(dir: &Path) -> Result<(), Error> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| Error::Io {
            action: "made",
            path: dir.to_owned(),
            source,
        })
}

/// The node's key from `dir`; a new one when there is none.
///
/// # Errors
/// [`Error`]. A damaged key is never replaced: the node would silently become another one.
pub fn load_or_create(dir: &Path) -> Result<Keypair, Error> {
    let path = dir.join(FILE_NAME);
    match std::fs::File::open(&path) {
        Ok(file) => load(&path, &file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(dir, &path),
        Err(source) => Err(Error::Io {
            action: "read",
            path,
            source,
        }),
    }
}

/// The node's name on the network, from the key in `dir`; none when there is no key. Nothing is
/// made.
///
/// # Errors
/// [`Error`].
pub fn peer_of(dir: &Path) -> Result<Option<String>, Error> {
    let path = dir.join(FILE_NAME);
    match std::fs::File::open(&path) {
        Ok(file) => Ok(Some(load(&path, &file)?.public().to_peer_id().to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io {
            action: "read",
            path,
            source,
        }),
    }
}

fn load(path: &Path, file: &std::fs::File) -> Result<Keypair, Error> {
    let unreadable = |source| Error::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Error::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_BYTES + 1));
    file.take(FILE_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    let damaged = |what| Error::Damaged {
        path: path.to_owned(),
        what,
    };
    let secret = decode(&bytes).map_err(damaged)?;
    Keypair::ed25519_from_bytes(secret.to_vec()).map_err(|_| damaged("it is no key"))
}

/// The secret in a file's bytes, or what is wrong with them.
fn decode(bytes: &[u8]) -> Result<Zeroizing<[u8; SECRET_BYTES]>, &'static str> {
    let as_secret = |rest: &[u8]| rest.try_into().map(Zeroizing::new);
    if let Some(rest) = bytes.strip_prefix(MAGIC_1.as_slice()) {
        return as_secret(rest).map_err(|_| "it is cut off, or has bytes too many");
    }
    let rest = bytes
        .strip_prefix(MAGIC.as_slice())
        .ok_or("it is not a node key that this version knows")?;
    let (secret, sum) = rest.split_at_checked(SECRET_BYTES).ok_or("it is cut off")?;
    if *sum != checksum(secret) {
        return Err("its checksum does not match");
    }
    as_secret(secret).map_err(|_| "it is cut off")
}

fn encode(secret: &[u8; SECRET_BYTES]) -> Zeroizing<Vec<u8>> {
    let sum = checksum(secret);
    Zeroizing::new([MAGIC.as_slice(), secret, &sum].concat())
}

fn checksum(secret: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = hash::sha256(&[MAGIC, secret]);
    let mut sum = [0; CHECKSUM_BYTES];
    sum.copy_from_slice(&hash[..CHECKSUM_BYTES]);
    sum
}

fn create(dir: &Path, path: &Path) -> Result<Keypair, Error> {
    let secret = random::bytes::<SECRET_BYTES>();
    match file::create(path, &encode(&secret)) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return load_or_create(dir),
        Err(source) => {
            return Err(Error::Io {
                action: "written",
                path: path.to_owned(),
                source,
            });
        }
    }
    let key = Keypair::ed25519_from_bytes(secret.to_vec());
    Ok(key.expect("every 32 bytes are the secret of an ed25519 key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_key_comes_back_and_is_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = load_or_create(dir.path()).expect("made");
        let again = load_or_create(dir.path()).expect("read");
        assert_eq!(first.public(), again.public());
        let mode = std::fs::metadata(dir.path().join(FILE_NAME))
            .expect("exists")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1);
    }

    #[test]
    fn damaged_and_exposed_keys_are_refused_and_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(FILE_NAME);
        load_or_create(dir.path()).expect("made");
        let good = std::fs::read(&path).expect("read");
        let mut bad: Vec<Vec<u8>> = (0..good.len()).map(|len| good[..len].to_vec()).collect();
        bad.push([good.as_slice(), b"x"].concat());
        bad.extend((0..8 * good.len()).map(|bit| {
            let mut flipped = good.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            flipped
        }));
        bad.push([MAGIC_1.as_slice(), &[7; SECRET_BYTES - 1]].concat());
        for bad in bad {
            std::fs::write(&path, &bad).expect("written");
            let refused = load_or_create(dir.path());
            assert!(
                matches!(refused, Err(Error::Damaged { .. })),
                "{bad:?}: {refused:?}"
            );
            assert_eq!(std::fs::read(&path).expect("read"), bad);
        }
        std::fs::write(&path, &good).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("set");
        assert!(matches!(
            load_or_create(dir.path()),
            Err(Error::Exposed { mode: 0o644, .. })
        ));
    }
    #[test]
    fn the_formats_are_fixed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(FILE_NAME);
        let old = [b"libernet-key v1\n".as_slice(), &[7; 32]].concat();
        file::replace(&path, &old).expect("written");
        let key = load_or_create(dir.path()).expect("a file of version 1");
        assert_eq!(
            key.public().to_peer_id().to_string(),
            "12D3KooWRawPbxPtP1eZaJpumGnyWX2DcUyd3RQnydr3eAto4Az7"
        );
        let sum = [64, 68, 240, 53, 173, 211, 147, 108];
        let new = [b"libernet-key v2\n".as_slice(), &[7; 32], &sum].concat();
        assert_eq!(*encode(&[7; 32]), new);
        file::replace(&path, &new).expect("written");
        let again = load_or_create(dir.path()).expect("a file of version 2");
        assert_eq!(key.public(), again.public());
    }
}
