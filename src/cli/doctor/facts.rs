//! Facts for the checks: answers of the running node, and files on the disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::backup::owner::{self, Vault};
use crate::backup::sets::{self, Sets};
use crate::cli::ask;
use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::cli::status::bytes_below;
use crate::client::Client;
use crate::config::{self, Config};
use crate::node::api::{
    Health, HealthReply, MeshStatus, MeshStatusReply, Peer, Peers, Problem, Problems, RingInfo,
    RingList, RingMember, RingMembers, Status, StatusReply,
};
use crate::ring::RingsFile;
use crate::time::{Clock, SystemClock, Timestamp};

/// Everything that the checks look at.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) now: Timestamp,
    pub(super) dir: PathBuf,
    pub(super) config: Config,
    pub(super) disk: Disk,
    /// Answers of the node that runs here; none when none runs.
    pub(super) node: Option<Told>,
}

/// Answers of the running node.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) status: StatusReply,
    pub(super) health: HealthReply,
    pub(super) peers: Vec<Peer>,
    pub(super) rings: Vec<RingInfo>,
    pub(super) members: Vec<RingMember>,
    pub(super) mesh: MeshStatusReply,
    pub(super) problems: Vec<Problem>,
}

/// Facts from the disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    pub(super) is_there: bool,
    /// Bytes of everything in the data directory.
    pub(super) used_bytes: u64,
    /// Bytes of its disk, and free ones; none when the system does not tell.
    pub(super) room: Option<(u64, u64)>,
    /// The file in the data directory that was written last by its time, and that time.
    pub(super) newest: Option<(String, Timestamp)>,
    pub(super) has_owner: bool,
    /// Sets, and whether each has a schedule.
    pub(super) sets: Vec<(String, bool)>,
    /// Paths of sets that are not there, in words.
    pub(super) gone: Vec<(String, String)>,
    pub(super) rings: Vec<String>,
    /// Files that can't be read, in words.
    pub(super) problems: Vec<String>,
}

impl Facts {
    /// # Errors
    /// For settings that can't be read, and when the running node does not answer.
    pub(super) async fn gather(context: &Context) -> Result<Self, Failure> {
        let config = context.config(BTreeMap::new())?;
        let dir = context.data_dir.clone();
        let disk = ask::until_stopped(context, move || Ok(Disk::read(&dir))).await?;
        let node = match Client::running(&context.data_dir).await? {
            Some(client) => Some(Told::ask(&client).await?),
            None => None,
        };
        Ok(Self {
            now: SystemClock.now(),
            dir: context.data_dir.clone(),
            config,
            disk,
            node,
        })
    }
}

impl Told {
    async fn ask(client: &Client) -> Result<Self, Failure> {
        let rings = client.ring_list(RingList {}).await?.rings;
        let mut members = Vec::new();
        for ring in &rings {
            let ring = ring.ring.clone();
            members.extend(client.ring_members(RingMembers { ring }).await?.members);
        }
        Ok(Self {
            status: client.status(Status {}).await?,
            health: client.health(Health::default()).await?,
            peers: client.peers(Peers {}).await?.peers,
            rings,
            members,
            mesh: client.mesh_status(MeshStatus {}).await?,
            problems: client.problems(Problems {}).await?.problems,
        })
    }
}

impl Disk {
    /// Blocks on the disk. A file that can't be read is one of the problems.
    fn read(dir: &Path) -> Self {
        let mut problems = Vec::new();
        let mut take = |error: &dyn std::error::Error| problems.push(error.to_string());
        let vault = Vault::open(dir).inspect_err(|error| take(error));
        let sets = Sets::load(dir).inspect_err(|error| take(error));
        let sets = sets.unwrap_or_default();
        let rings = RingsFile::new(dir).load().inspect_err(|error| take(error));
        let rings = rings.unwrap_or_default();
        let of_set = |set: &sets::Set| (set.name.clone(), set.schedule.is_some());
        let gone = sets.as_slice().iter();
        let gone = gone.filter_map(|set| Some((set.name.clone(), set.gone()?)));
        Self {
            is_there: dir.is_dir(),
            used_bytes: bytes_below(dir),
            room: room(dir),
            newest: newest(dir),
            has_owner: matches!(vault, Ok(Some(_))),
            sets: sets.as_slice().iter().map(of_set).collect(),
            gone: gone.collect(),
            rings: rings
                .as_slice()
                .iter()
                .map(|ring| ring.name().to_owned())
                .collect(),
            problems,
        }
    }
}

/// Bytes of the disk of a directory, or of the first above it that is there, and free ones.
fn room(dir: &Path) -> Option<(u64, u64)> {
    let there = dir.ancestors().find(|above| above.is_dir())?;
    let stat = rustix::fs::statvfs(there).ok()?;
    let bytes = |blocks: u64| blocks.checked_mul(stat.f_frsize);
    Some((bytes(stat.f_blocks)?, bytes(stat.f_bavail)?))
}

/// The small file that was written last. Files of settings that a person edits count as well: none
/// can be of the future.
fn newest(dir: &Path) -> Option<(String, Timestamp)> {
    let names = [
        owner::FILE_NAME,
        sets::FILE_NAME,
        config::FILE_NAME,
        "ledger.json",
        "copies.json",
        "backup.head",
    ];
    let written = names.iter().filter_map(|name| {
        let modified = dir.join(name).metadata().ok()?.modified().ok()?;
        let since = modified.duration_since(std::time::UNIX_EPOCH).ok()?;
        let at = u64::try_from(since.as_millis()).ok()?;
        Some(((*name).to_owned(), Timestamp(at)))
    });
    written.max_by_key(|(_, at)| *at)
}
