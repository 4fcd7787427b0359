//! The node's key: an ed25519 key made on first use and kept in the data directory.
//!
//! It names the node on the network (its PeerId) and proves that name in handshakes. It opens no data.

use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use libp2p::identity::Keypair;
use zeroize::Zeroizing;

/// Name of the key file in the data directory.
pub const FILE_NAME: &str = "node.key";
/// First bytes of the file: what it is and its version.
const MAGIC: &[u8; 16] = b"libernet-key v1\n";
const FILE_BYTES: usize = MAGIC.len() + 32;

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
    /// The file is not a key of this version.
    #[error("{0} is not a node key that this version knows")]
    Malformed(PathBuf),
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
        Ok(file) => load(&path, file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(dir, &path),
        Err(source) => Err(Error::Io {
            action: "read",
            path,
            source,
        }),
    }
}

fn load(path: &Path, file: std::fs::File) -> Result<Keypair, Error> {
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
    let secret = bytes
        .strip_prefix(MAGIC.as_slice())
        .filter(|secret| secret.len() == 32)
        .ok_or_else(|| Error::Malformed(path.to_owned()))?;
    Keypair::ed25519_from_bytes(secret.to_vec()).map_err(|_| Error::Malformed(path.to_owned()))
}

fn create(dir: &Path, path: &Path) -> Result<Keypair, Error> {
    let failed = |source| Error::Io {
        action: "written",
        path: path.to_owned(),
        source,
    };
    let secret = Zeroizing::new(rand::random::<[u8; 32]>());
    let key = SigningKey::from_bytes(&secret);
    // Written beside and renamed, so that a crash leaves no half a key; a rename never replaces a key made meanwhile.
    let beside = dir.join(format!("{FILE_NAME}.{}", std::process::id()));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .map_err(failed)?;
    file.write_all(MAGIC).map_err(failed)?;
    file.write_all(key.as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    let linked = std::fs::hard_link(&beside, path);
    std::fs::remove_file(&beside).map_err(failed)?;
    match linked {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return load_or_create(dir),
        Err(source) => return Err(failed(source)),
    }
    std::fs::File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(failed)?;
    Keypair::ed25519_from_bytes(secret.to_vec()).map_err(|_| Error::Malformed(path.to_owned()))
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
        for bad in [
            &good[..20],
            &[good.as_slice(), b"x"].concat(),
            b"libernet-key v2\n",
        ] {
            std::fs::write(&path, bad).expect("written");
            assert!(matches!(
                load_or_create(dir.path()),
                Err(Error::Malformed(_))
            ));
            assert_eq!(std::fs::read(&path).expect("read"), bad);
        }
        std::fs::write(&path, &good).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("set");
        assert!(matches!(
            load_or_create(dir.path()),
            Err(Error::Exposed { mode: 0o644, .. })
        ));
    }
}
