//! The file `rings.toml` of the data directory: only its user can read it, and it is only ever replaced as a whole.
//!
//! It holds secrets, so what is said about a wrong one never repeats its text.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use libp2p::{Multiaddr, PeerId};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Error;
use super::group::{MAX_GENERATIONS, MAX_MEMBERS, MAX_REMOVED, Past, Ring, Rings};
use super::member::{Known, clean_addresses, clean_name};
use super::secret::Seed;
use crate::file;
use crate::time::Timestamp;

/// Name of the file in the data directory.
pub const FILE_NAME: &str = "rings.toml";
/// Largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// The version that is written and read.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    version: u32,
    #[serde(default, rename = "ring")]
    rings: Vec<RingForm>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RingForm {
    name: String,
    generation: u16,
    seed: Seed,
    joined: Timestamp,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    removed: Vec<RemovedForm>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    past: Vec<PastForm>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", rename = "member")]
    members: Vec<MemberForm>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PastForm {
    generation: u16,
    seed: Seed,
    until: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberForm {
    peer: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    last_seen: Timestamp,
    since: u16,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RemovedForm {
    peer: String,
    generation: u16,
}

fn peer_of(text: &str) -> Result<PeerId, &'static str> {
    text.parse().map_err(|_| "a peer id is none")
}

impl RingForm {
    fn new(ring: &Ring) -> Self {
        Self {
            name: ring.name.clone(),
            generation: ring.generation,
            seed: ring.seed.clone(),
            joined: ring.joined,
            removed: ring
                .removed
                .iter()
                .map(|(peer, generation)| RemovedForm {
                    peer: peer.to_string(),
                    generation: *generation,
                })
                .collect(),
            past: ring
                .past
                .iter()
                .map(|past| PastForm {
                    generation: past.generation,
                    seed: past.seed.clone(),
                    until: past.until,
                })
                .collect(),
            members: ring
                .members
                .iter()
                .map(|known| MemberForm {
                    peer: known.peer.to_string(),
                    name: known.name.clone(),
                    last_seen: known.last_seen,
                    since: known.since,
                    addresses: known.addresses.iter().map(ToString::to_string).collect(),
                })
                .collect(),
        }
    }

    fn read(self) -> Result<Ring, &'static str> {
        if self.past.len() >= MAX_GENERATIONS
            || self.members.len() > MAX_MEMBERS
            || self.removed.len() > MAX_REMOVED
        {
            return Err("a ring has too many members or generations");
        }
        let past = self.past.into_iter().map(|past| Past {
            generation: past.generation,
            seed: past.seed,
            until: past.until,
        });
        let mut members: Vec<Known> = Vec::new();
        for form in self.members {
            let peer = peer_of(&form.peer)?;
            if members.iter().any(|known| known.peer == peer) {
                return Err("a member is there twice");
            }
            let addresses: Result<Vec<Multiaddr>, _> =
                form.addresses.iter().map(|text| text.parse()).collect();
            members.push(Known {
                peer,
                name: clean_name(&form.name),
                last_seen: form.last_seen,
                since: form.since,
                addresses: clean_addresses(addresses.map_err(|_| "an address is none")?),
            });
        }
        let removed = self
            .removed
            .into_iter()
            .map(|removed| Ok((peer_of(&removed.peer)?, removed.generation)));
        Ok(Ring {
            name: self.name,
            generation: self.generation,
            seed: self.seed,
            joined: self.joined,
            past: past.collect(),
            members,
            removed: removed.collect::<Result<_, &str>>()?,
        })
    }
}

impl Rings {
    /// Reads the file's text. The error says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Versioned {
            version: Option<u32>,
        }
        // The error's own message only: its `Display` shows the line, which may hold a seed.
        let message = |error: toml::de::Error| {
            let at = error.span().map(|span| span.start);
            file::at_line(text, at, &first_words(error.message()))
        };
        match toml::from_str::<Versioned>(text).map_err(message)?.version {
            Some(VERSION) => {}
            Some(version) => {
                return Err(format!(
                    "it has version {version}, and this libernet knows version {VERSION}"
                ));
            }
            None => return Err(format!("it does not say 'version = {VERSION}'")),
        }
        let form: Form = toml::from_str(text).map_err(message)?;
        let mut rings = Self::default();
        for form in form.rings {
            let ring = form.read()?;
            rings.add(ring).map_err(|error| error.to_string())?;
        }
        Ok(rings)
    }

    /// The file's text. It holds secrets.
    pub(super) fn to_text(&self) -> Zeroizing<String> {
        let form = Form {
            version: VERSION,
            rings: self.0.iter().map(RingForm::new).collect(),
        };
        let text = toml::to_string(&form).expect("all of it can be written as TOML");
        Zeroizing::new(text)
    }
}

/// What kind of error it is, without the value that serde puts into it.
fn first_words(message: &str) -> String {
    let safe = message.split(['"', '`', '\'']).next().unwrap_or_default();
    safe.trim_end().trim_end_matches(", expected").to_owned()
}

/// The file of a data directory. Who saves takes turns, so that the newest state is what stays.
#[derive(Debug)]
pub struct RingsFile {
    path: PathBuf,
    turn: Mutex<()>,
    /// Fault of the file, once that was seen.
    damage: OnceLock<String>,
}

impl RingsFile {
    /// The file of that data directory. It need not exist.
    pub fn new(data_dir: &Path) -> Self {
        Self {
            path: data_dir.join(FILE_NAME),
            turn: Mutex::new(()),
            damage: OnceLock::new(),
        }
    }

    /// Reads it; when there is none, there are no rings.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Malformed`].
    pub fn load(&self) -> Result<Rings, Error> {
        let malformed = |what: String| self.malformed(self.damage.get_or_init(|| what));
        match file::read_text(&self.path, MAX_FILE_BYTES) {
            Ok(Some(text)) => Rings::parse(&text).map_err(malformed),
            Ok(None) => Ok(Rings::default()),
            Err(error) if file::is_damage(&error) => Err(malformed(error.to_string())),
            Err(error) => Err(self.failed("read", error)),
        }
    }

    /// Replaces it by what `rings` gives when it is this call's turn.
    ///
    /// # Errors
    /// [`Error::File`]. [`Error::Malformed`] when it could not be read: who does not know what it
    /// says must not replace it.
    pub fn save(&self, rings: impl FnOnce() -> Rings) -> Result<(), Error> {
        // Nothing is left half-done by who panics: the file is replaced as a whole.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(what) = self.damage.get() {
            return Err(self.malformed(what));
        }
        let text = rings().to_text();
        file::replace(&self.path, text.as_bytes()).map_err(|source| self.failed("write", source))
    }

    fn malformed(&self, what: &str) -> Error {
        Error::Malformed {
            path: self.path.clone(),
            what: what.to_owned(),
        }
    }

    fn failed(&self, what: &'static str, source: io::Error) -> Error {
        Error::File {
            what,
            path: self.path.clone(),
            source,
        }
    }
}
