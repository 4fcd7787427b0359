//! The file `owner.key`: a machine's membership, as it is or behind a passphrase.
//!
//! Bytes: `LNOWNKEY`, version, SHA-256 of those nine bytes and the rest, then an `OwnerFile` (`proto/owner.proto`). The checksum
//! tells a damaged file from a wrong passphrase. With a passphrase the secrets are encrypted (AES-256-GCM) with a key made of it
//! (Argon2id, parameters in the file), and what stays readable (who the owner is, which machine, its name) is authenticated.
//!
//! An owner is never overwritten: a file appears at once and whole, and only where there was none. Deliberately absent: the words
//! and the owner's signing key, which no machine keeps.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;
use zeroize::{Zeroize, Zeroizing};

use super::error::Error;
use super::generation::GenerationKey;
use super::keys::{MachineId, MachineKeys, Membership, OwnerId, is_name};
use crate::crypto::kdf::{Cost, StretchError, stretch};
use crate::crypto::key::Key;
use crate::crypto::{hash, random, secretbox};
use crate::file;
use crate::wire::owner as proto;

/// Name of the file in its directory.
pub const FILE_NAME: &str = "owner.key";

/// Longest passphrase in bytes.
pub const MAX_PASSPHRASE_BYTES: usize = 1024;

const MAGIC: &[u8; 8] = b"LNOWNKEY";
const VERSION: u8 = 2;
const CHECKSUM_BYTES: usize = 32;
/// Longest file that is read. A membership with the longest name has about 700 bytes.
const MAX_FILE_BYTES: usize = 4096;
const SALT_BYTES: usize = 16;
/// What is before the header in what is authenticated.
const SEAL_DOMAIN: &[u8] = b"libernet owner.key v1";

/// A file `owner.key` that was read.
#[derive(Debug)]
pub struct Vault {
    /// What is in it.
    pub state: State,
    /// Its permission bits, when others than its user may access it. Worth a warning.
    pub exposed_mode: Option<u32>,
}

/// What is in the file.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // There is one of them at a time.
pub enum State {
    /// The secrets are behind a passphrase.
    Locked(LockedVault),
    /// There is no passphrase.
    Open(Membership),
}

/// A file whose secrets are behind a passphrase.
#[derive(Debug)]
pub struct LockedVault {
    path: PathBuf,
    owner: OwnerId,
    machine: MachineId,
    name: String,
    salt: Bytes,
    cost: Cost,
    /// The very bytes that are authenticated.
    header: Bytes,
    sealed: Bytes,
}

impl Vault {
    /// Whether `dir` has an owner, of whatever version and state.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn exists(dir: &Path) -> Result<bool, Error> {
        let path = dir.join(FILE_NAME);
        path.try_exists().map_err(failed("read", &path))
    }

    /// Stores `membership` in `dir`, which is made when it is missing. With a passphrase this takes a moment on purpose.
    ///
    /// # Errors
    /// [`Error::Exists`] when there is an owner already; [`Error::Passphrase`]; [`Error::Io`].
    pub fn create(
        dir: &Path,
        membership: &Membership,
        passphrase: Option<&[u8]>,
    ) -> Result<(), Error> {
        Self::create_at_cost(dir, membership, passphrase, Cost::DEFAULT)
    }

    fn create_at_cost(
        dir: &Path,
        membership: &Membership,
        passphrase: Option<&[u8]>,
        cost: Cost,
    ) -> Result<(), Error> {
        let path = dir.join(FILE_NAME);
        // Before the work of encrypting, and again when the file gets its name.
        if Self::exists(dir)? {
            return Err(Error::Exists(path));
        }
        let bytes = encode(&path, membership, passphrase, cost)?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(failed("made", dir))?;
        file::create(&path, &bytes).map_err(|error| {
            if error.kind() == io::ErrorKind::AlreadyExists {
                Error::Exists(path.clone())
            } else {
                failed("written", &path)(error)
            }
        })
    }

    /// Reads the file in `dir`; none when there is none.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Version`], [`Error::Io`].
    pub fn open(dir: &Path) -> Result<Option<Self>, Error> {
        let path = dir.join(FILE_NAME);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let metadata = file.metadata().map_err(failed("read", &path))?;
        let mode = metadata.permissions().mode() & 0o777;
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE_BYTES + 1));
        file.take(MAX_FILE_BYTES as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(failed("read", &path))?;
        Ok(Some(Self {
            state: decode(&path, &bytes)?,
            exposed_mode: (mode & 0o077 != 0).then_some(mode),
        }))
    }

    /// Who the owner is.
    pub const fn owner(&self) -> &OwnerId {
        match &self.state {
            State::Locked(locked) => locked.owner(),
            State::Open(membership) => membership.owner(),
        }
    }

    /// Which machine this is.
    pub fn machine(&self) -> MachineId {
        match &self.state {
            State::Locked(locked) => *locked.machine(),
            State::Open(membership) => membership.machine().id(),
        }
    }

    /// What the owner calls this machine.
    pub fn name(&self) -> &str {
        match &self.state {
            State::Locked(locked) => locked.name(),
            State::Open(membership) => membership.name(),
        }
    }

    /// Whether a passphrase protects it.
    pub const fn is_locked(&self) -> bool {
        matches!(self.state, State::Locked(_))
    }

    /// The membership in `dir`, with the passphrase if it needs one; a passphrase that is not needed is ignored. Takes a moment
    /// on purpose when it is.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Locked`], [`Error::WrongPassphrase`], and those of [`open`](Self::open).
    pub fn load(dir: &Path, passphrase: Option<&[u8]>) -> Result<Membership, Error> {
        let path = dir.join(FILE_NAME);
        let vault = Self::open(dir)?.ok_or(Error::Missing(path.clone()))?;
        match (vault.state, passphrase) {
            (State::Open(membership), _) => Ok(membership),
            (State::Locked(locked), Some(passphrase)) => locked.unlock(passphrase),
            (State::Locked(_), None) => Err(Error::Locked(path)),
        }
    }

    /// Sets, changes or removes (`new` is none) the passphrase. The file is replaced as a whole, or stays as it was.
    ///
    /// # Errors
    /// Those of [`load`](Self::load) with the `old` passphrase, and [`Error::Passphrase`].
    pub fn change_passphrase(
        dir: &Path,
        old: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> Result<(), Error> {
        Self::change_at_cost(dir, old, new, Cost::DEFAULT)
    }

    fn change_at_cost(
        dir: &Path,
        old: Option<&[u8]>,
        new: Option<&[u8]>,
        cost: Cost,
    ) -> Result<(), Error> {
        let path = dir.join(FILE_NAME);
        // Of two changes at once the later one has to know the passphrase of the earlier one.
        let _turn = file::Turn::take(dir).map_err(failed("written", &path))?;
        let membership = Self::load(dir, old)?;
        let bytes = encode(&path, &membership, new, cost)?;
        file::replace(&path, &bytes).map_err(failed("written", &path))
    }
}

impl LockedVault {
    /// Who the owner is.
    pub const fn owner(&self) -> &OwnerId {
        &self.owner
    }

    /// Which machine this is.
    pub const fn machine(&self) -> &MachineId {
        &self.machine
    }

    /// What the owner calls this machine.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Opens it. Takes a moment and tens of megabytes on purpose: run it where a thread may be blocked.
    ///
    /// # Errors
    /// [`Error::WrongPassphrase`], [`Error::Memory`], [`Error::Damaged`].
    pub fn unlock(&self, passphrase: &[u8]) -> Result<Membership, Error> {
        if passphrase.len() > MAX_PASSPHRASE_BYTES {
            return Err(Error::WrongPassphrase(self.path.clone()));
        }
        let damaged = |what| damage(&self.path, what);
        let key = stretch(passphrase, &self.salt, self.cost).map_err(stretch_failed(&self.path))?;
        let plain = secretbox::open(&key, &authenticated(&self.header), &self.sealed)
            .map_err(|_| Error::WrongPassphrase(self.path.clone()))?;
        let member = Wiped::decode(&plain).ok_or_else(|| damaged("its content is not readable"))?;
        let membership = member.into_membership().map_err(damaged)?;
        let same = *membership.owner() == self.owner && membership.machine().id() == self.machine;
        if !same || membership.name() != self.name {
            return Err(damaged("its two parts differ"));
        }
        Ok(membership)
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io {
        action,
        path,
        source,
    }
}

fn damage(path: &Path, what: &'static str) -> Error {
    Error::Damaged {
        path: path.to_owned(),
        what,
    }
}

fn stretch_failed(path: &Path) -> impl FnOnce(StretchError) -> Error {
    |error| match error {
        StretchError::Memory => Error::Memory(path.to_owned()),
        _ => damage(path, "its passphrase parameters are out of bounds"),
    }
}

fn authenticated(header: &[u8]) -> Vec<u8> {
    [SEAL_DOMAIN, header].concat()
}

/// The file's bytes.
fn encode(
    path: &Path,
    membership: &Membership,
    passphrase: Option<&[u8]>,
    cost: Cost,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let Some(passphrase) = passphrase else {
        return Ok(frame(&Wiped::new(membership).in_file()));
    };
    if !(1..=MAX_PASSPHRASE_BYTES).contains(&passphrase.len()) {
        return Err(Error::Passphrase {
            max: MAX_PASSPHRASE_BYTES,
        });
    }
    let salt: [u8; SALT_BYTES] = *random::bytes();
    let key = stretch(passphrase, &salt, cost).map_err(stretch_failed(path))?;
    let header = proto::SealedHeader {
        owner: Bytes::copy_from_slice(membership.owner().as_bytes()),
        machine: Bytes::copy_from_slice(membership.machine().id().as_bytes()),
        name: membership.name().to_owned(),
        argon2id: Some(proto::Argon2id {
            salt: Bytes::copy_from_slice(&salt),
            memory_kib: cost.memory_kib,
            passes: cost.passes,
            lanes: cost.lanes,
        }),
    }
    .encode_to_vec();
    let plain = Wiped::new(membership).encode();
    let sealed = proto::Sealed {
        r#box: secretbox::seal(&key, &authenticated(&header), &plain).into(),
        header: header.into(),
    };
    let form = Some(proto::owner_file::Form::Sealed(sealed));
    Ok(frame(&proto::OwnerFile { form }.encode_to_vec()))
}

/// Puts magic, version and checksum before the message.
fn frame(body: &[u8]) -> Zeroizing<Vec<u8>> {
    let checksum = hash::sha256(&[MAGIC, &[VERSION], body]);
    Zeroizing::new([MAGIC, [VERSION].as_slice(), &checksum, body].concat())
}

/// Reads a whole file.
fn decode(path: &Path, bytes: &[u8]) -> Result<State, Error> {
    let damaged = |what| damage(path, what);
    let rest = bytes
        .strip_prefix(MAGIC)
        .ok_or_else(|| damaged("it is not an owner's file"))?;
    let (version, rest) = rest.split_first().ok_or_else(|| damaged("it is cut"))?;
    if *version != VERSION {
        return Err(Error::Version {
            path: path.to_owned(),
            found: *version,
            known: VERSION,
        });
    }
    if bytes.len() > MAX_FILE_BYTES {
        return Err(damaged("it is too long"));
    }
    let (checksum, body) = rest
        .split_first_chunk::<CHECKSUM_BYTES>()
        .ok_or_else(|| damaged("it is cut"))?;
    if *checksum != hash::sha256(&[MAGIC, &[VERSION], body]) {
        return Err(damaged("its checksum differs"));
    }
    let file =
        proto::OwnerFile::decode(body).map_err(|_| damaged("its content is not readable"))?;
    match file.form {
        Some(proto::owner_file::Form::Member(member)) => {
            let membership = Wiped(member).into_membership().map_err(damaged)?;
            Ok(State::Open(membership))
        }
        Some(proto::owner_file::Form::Sealed(sealed)) => {
            locked(path, sealed).map(State::Locked).map_err(damaged)
        }
        None => Err(damaged("its content is not readable")),
    }
}

fn locked(path: &Path, sealed: proto::Sealed) -> Result<LockedVault, &'static str> {
    const UNREADABLE: &str = "its content is not readable";
    let header = proto::SealedHeader::decode(sealed.header.clone()).map_err(|_| UNREADABLE)?;
    let argon2id = header.argon2id.ok_or(UNREADABLE)?;
    let cost = Cost {
        memory_kib: argon2id.memory_kib,
        passes: argon2id.passes,
        lanes: argon2id.lanes,
    };
    if !cost.is_bearable() || argon2id.salt.len() != SALT_BYTES {
        return Err("its passphrase parameters are out of bounds");
    }
    if !is_name(&header.name) {
        return Err("the machine's name is not a name");
    }
    Ok(LockedVault {
        path: path.to_owned(),
        owner: OwnerId::new(array(&header.owner)?),
        machine: MachineId::new(array(&header.machine)?),
        name: header.name,
        salt: argon2id.salt,
        cost,
        header: sealed.header,
        sealed: sealed.r#box,
    })
}

fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], &'static str> {
    bytes.try_into().map_err(|_| "a key has the wrong length")
}

/// A message with secrets in it, which are wiped when it is dropped.
struct Wiped(proto::Member);

impl Wiped {
    fn new(membership: &Membership) -> Self {
        Self(proto::Member {
            owner: Bytes::copy_from_slice(membership.owner().as_bytes()),
            generation_key: Bytes::copy_from_slice(membership.generation().key().as_bytes()),
            generation: u32::from(membership.generation().number()),
            machine_seed: Bytes::copy_from_slice(membership.machine().seed()),
            certificate: Bytes::copy_from_slice(membership.certificate()),
            name: membership.name().to_owned(),
        })
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        proto::Member::decode(bytes).ok().map(Self)
    }

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.0.encode_to_vec())
    }

    /// The message of a file without a passphrase.
    fn in_file(mut self) -> Zeroizing<Vec<u8>> {
        let member = std::mem::take(&mut self.0);
        let mut file = proto::OwnerFile {
            form: Some(proto::owner_file::Form::Member(member)),
        };
        let bytes = Zeroizing::new(file.encode_to_vec());
        if let Some(proto::owner_file::Form::Member(member)) = file.form.take() {
            self.0 = member;
        }
        bytes
    }

    fn into_membership(self) -> Result<Membership, &'static str> {
        let member = &self.0;
        let key = |bytes: &[u8]| Key::try_from(bytes).map_err(|_| "a key has the wrong length");
        let seed = Zeroizing::new(array(&member.machine_seed)?);
        let number = u8::try_from(member.generation).map_err(|_| "a generation that can't be")?;
        Membership::from_parts(
            OwnerId::new(array(&member.owner)?),
            GenerationKey::new(number, key(&member.generation_key)?),
            MachineKeys::from_seed(&seed),
            array(&member.certificate)?,
            member.name.clone(),
        )
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        let member = std::mem::take(&mut self.0);
        for secret in [member.generation_key, member.machine_seed] {
            // They have one user each and so can be written to.
            if let Ok(mut secret) = secret.try_into_mut() {
                secret.zeroize();
            }
        }
    }
}

#[cfg(test)]
#[path = "vault_tests.rs"]
mod tests;
