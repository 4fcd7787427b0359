//! The file `rings.toml` of the data directory: only its user can read it, and it is only ever replaced as a whole.
//!
//! It holds secrets, so what is said about a wrong one never repeats its text.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER};
use libp2p::{Multiaddr, PeerId};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Error;
use super::branch::{Branch, MAX_BRANCHES, MAX_REJECTED};
use super::generation::{Admission, Generation, GenerationId};
use super::group::{MAX_GENERATIONS, MAX_MEMBERS, MAX_REMOVED, Past, Ring, Rings};
use super::invitation::{Invitation, MAX_INVITATIONS};
use super::member::{Known, clean_addresses, clean_name};
use super::message::Malformed;
use super::secret::{RingId, Seed};
use crate::file;
use crate::time::Timestamp;

/// Name of the file in the data directory.
pub const FILE_NAME: &str = "rings.toml";
/// Largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// The version that is written and read.
const VERSION: u32 = 2;

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
    seed: Seed,
    joined: Timestamp,
    /// Members look for each other at the public meeting point.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    anywhere: bool,
    /// Id of the invitation that this node joined with, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    invited_by: Option<String>,
    /// When that invitation ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    invited_until: Option<Timestamp>,
    /// Signed records in base64, the present generation last; none while this node is only invited.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    generations: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    admissions: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rejected: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    removed: Vec<RemovedForm>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    past: Vec<PastForm>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", rename = "branch")]
    branches: Vec<BranchForm>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", rename = "invitation")]
    invitations: Vec<InvitationForm>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", rename = "member")]
    members: Vec<MemberForm>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PastForm {
    generation: u32,
    seed: Seed,
    until: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BranchForm {
    generations: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seed: Option<Seed>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InvitationForm {
    seed: Seed,
    until: Timestamp,
    single_use: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    used_by: Option<String>,
    /// Somebody was removed since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    void: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberForm {
    peer: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    last_seen: Timestamp,
    /// Generation in which it was first seen proving; missing: it is known by hearsay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proven: Option<u32>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    place: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RemovedForm {
    peer: String,
    generation: u32,
}

fn peer_of(text: &str) -> Result<PeerId, &'static str> {
    text.parse().map_err(|_| "a peer id is none")
}

fn bytes_of(text: &str) -> Result<Bytes, &'static str> {
    let bytes = BASE64.decode(text.as_bytes());
    bytes.map(Bytes::from).map_err(|_| "a record is not base64")
}

fn hash_of(text: &str) -> Result<[u8; 32], &'static str> {
    let bytes = HEXLOWER.decode(text.as_bytes()).unwrap_or_default();
    bytes
        .as_slice()
        .try_into()
        .map_err(|_| "an id is not 64 hex digits")
}

fn generations_of(texts: &[String]) -> Result<Vec<Generation>, &'static str> {
    if texts.len() > MAX_GENERATIONS {
        return Err("a ring has too many generations");
    }
    let decode = |text: &String| {
        let record = bytes_of(text)?;
        Generation::decode(&record).map_err(|malformed: Malformed| malformed.what())
    };
    let all: Vec<Generation> = texts.iter().map(decode).collect::<Result<_, _>>()?;
    let mut pairs = all.iter().zip(all.iter().skip(1));
    match pairs.all(|(one, next)| next.follows(one)) {
        true => Ok(all),
        false => Err("generations do not follow each other"),
    }
}

fn texts_of(generations: &[Generation]) -> Vec<String> {
    let records = generations.iter().map(|one| BASE64.encode(one.bytes()));
    records.collect()
}

impl MemberForm {
    fn new(known: &Known) -> Self {
        Self {
            peer: known.peer.to_string(),
            name: known.name.clone(),
            last_seen: known.last_seen,
            proven: known.proven,
            place: known.place.clone(),
            addresses: known.addresses.iter().map(ToString::to_string).collect(),
        }
    }

    fn read(self) -> Result<Known, &'static str> {
        let addresses: Result<Vec<Multiaddr>, _> =
            self.addresses.iter().map(|text| text.parse()).collect();
        Ok(Known {
            peer: peer_of(&self.peer)?,
            name: clean_name(&self.name),
            last_seen: self.last_seen,
            proven: self.proven,
            place: self.place,
            addresses: clean_addresses(addresses.map_err(|_| "an address is none")?),
        })
    }
}

impl RingForm {
    fn new(ring: &Ring) -> Self {
        let removed = ring.removed.iter().map(|(peer, generation)| RemovedForm {
            peer: peer.to_string(),
            generation: *generation,
        });
        let past = ring.past.iter().map(|past| PastForm {
            generation: past.generation,
            seed: past.seed.clone(),
            until: past.until,
        });
        let branches = ring.branches.iter().map(|branch| BranchForm {
            generations: texts_of(&branch.generations),
            seed: branch.seed.clone(),
        });
        let invitations = ring.invitations.iter().map(|one| InvitationForm {
            seed: one.seed.clone(),
            until: one.until,
            single_use: one.single_use,
            used_by: one.used_by.map(|peer| peer.to_string()),
            void: one.is_void,
        });
        let admissions = ring.admitted.iter();
        Self {
            name: ring.name.clone(),
            seed: ring.seed.clone(),
            joined: ring.joined,
            anywhere: ring.anywhere,
            invited_by: ring.joined_by.map(|id| id.to_string()),
            invited_until: ring.invited_until,
            generations: texts_of(&ring.chain),
            admissions: admissions.map(|one| BASE64.encode(one.bytes())).collect(),
            rejected: ring.rejected.iter().map(ToString::to_string).collect(),
            removed: removed.collect(),
            past: past.collect(),
            branches: branches.collect(),
            invitations: invitations.collect(),
            members: ring.members.iter().map(MemberForm::new).collect(),
        }
    }

    fn check(&self) -> Result<(), &'static str> {
        let is_within = self.past.len() < MAX_GENERATIONS
            && self.members.len() <= MAX_MEMBERS
            && self.removed.len() <= MAX_REMOVED
            && self.admissions.len() <= MAX_REMOVED
            && self.branches.len() <= MAX_BRANCHES
            && self.rejected.len() <= MAX_REJECTED
            && self.invitations.len() <= MAX_INVITATIONS;
        match is_within {
            true => Ok(()),
            false => Err("a ring has too many members, generations, branches or invitations"),
        }
    }

    fn read(self) -> Result<Ring, &'static str> {
        self.check()?;
        let past = self.past.into_iter().map(|past| Past {
            generation: past.generation,
            seed: past.seed,
            until: past.until,
        });
        let mut members: Vec<Known> = Vec::new();
        for form in self.members {
            let known = form.read()?;
            if members.iter().any(|other| other.peer == known.peer) {
                return Err("a member is there twice");
            }
            members.push(known);
        }
        let removed = self.removed.into_iter();
        let removed = removed.map(|one| Ok((peer_of(&one.peer)?, one.generation)));
        let admissions = self.admissions.iter().map(|text| {
            let record = bytes_of(text)?;
            Admission::decode(&record).map_err(|malformed| malformed.what())
        });
        let branches = self.branches.into_iter().map(|branch| {
            let generations = generations_of(&branch.generations)?;
            match generations.is_empty() {
                true => Err("a branch is empty"),
                false => Ok(Branch {
                    generations,
                    seed: branch.seed,
                }),
            }
        });
        let invitations = self.invitations.into_iter().map(|one| {
            Ok(Invitation {
                seed: one.seed,
                until: one.until,
                single_use: one.single_use,
                used_by: one.used_by.as_deref().map(peer_of).transpose()?,
                is_void: one.void,
            })
        });
        let chain = generations_of(&self.generations)?;
        if chain.last().is_some_and(|last| !last.is_seed(&self.seed)) {
            return Err("a seed is not that of its generation");
        }
        let joined_by = self.invited_by.as_deref().map(hash_of).transpose()?;
        let rejected = self.rejected.iter().map(|text| hash_of(text));
        Ok(Ring {
            name: self.name,
            seed: self.seed,
            joined: self.joined,
            anywhere: self.anywhere,
            chain,
            past: past.collect(),
            members,
            removed: removed.collect::<Result<_, &str>>()?,
            admitted: admissions.collect::<Result<_, &str>>()?,
            invitations: invitations.collect::<Result<_, &str>>()?,
            joined_by: joined_by.map(RingId::new),
            invited_until: self.invited_until,
            branches: branches.collect::<Result<_, &str>>()?,
            rejected: rejected
                .map(|id| id.map(GenerationId::new))
                .collect::<Result<_, &str>>()?,
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
                    "it has version {version}, and this libernet knows version {VERSION}: make the ring again with \
                     `libernet ring create`, and join it on the other machines"
                ));
            }
            None => return Err(format!("it does not say 'version = {VERSION}'")),
        }
        let form: Form = toml::from_str(text).map_err(message)?;
        let mut rings = Self::default();
        for form in form.rings {
            let ring = form.read()?;
            rings
                .add(ring)
                .map(drop)
                .map_err(|error| error.to_string())?;
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
