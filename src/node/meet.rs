//! Consent to being seen at the public meeting point, and the calls about it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::api::*;
use super::{Node, NodeOptions, Purpose, blocking};
use crate::backup::SNAPSHOT_PIN;
use crate::block::Link;
use crate::config::AnnounceMeet;
use crate::depot::Depot;
use crate::file;
use crate::id::BlockId;
use crate::net::meet::Mainline;
use crate::net::peers::{PeerInfo, Source};
use crate::time::{Clock, Timestamp};
use crate::upkeep::meet::{Meeting, Setup, Topic, Want};

/// Name of the file with the consent in the data directory.
pub(super) const FILE: &str = "mesh.json";
/// Largest one that is read, in bytes.
const MAX_BYTES: u64 = 4096;
const VERSION: u32 = 1;
/// Time in which the root of a link may be found in rings, the mesh and its DHT first.
const LINK_DELAY: Duration = Duration::from_secs(3);
/// Time for which holders of an owner's head are looked for, once somebody has asked.
const HEAD_PATIENCE: Duration = Duration::from_secs(10 * 60);

#[derive(Serialize, Deserialize)]
struct Form {
    version: u32,
    joined: bool,
    /// When that was said.
    since: Timestamp,
}

/// Whether somebody agreed. A file that can't be read is no consent.
pub(super) fn consent(data_dir: &Path) -> bool {
    let path = data_dir.join(FILE);
    let read = file::read_text(&path, MAX_BYTES);
    let text = match read {
        Ok(None) => return false,
        Ok(Some(text)) => text,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "whether this node takes part in the public mesh can't be read: it does not");
            return false;
        }
    };
    match serde_json::from_str::<Form>(&text) {
        Ok(form) if form.version == VERSION => form.joined,
        _ => {
            tracing::warn!(
                path = %path.display(),
                "the file is damaged or of another version: this node does not take part in the public mesh; \
                 `libernet mesh join` says so again"
            );
            false
        }
    }
}

fn store(data_dir: &Path, joined: bool, since: Timestamp) -> Result<(), CallError> {
    let path = data_dir.join(FILE);
    let form = Form {
        version: VERSION,
        joined,
        since,
    };
    let failed = |error: std::io::Error| {
        let kind = match error.kind() {
            std::io::ErrorKind::PermissionDenied => ErrorKind::Permission,
            std::io::ErrorKind::StorageFull => ErrorKind::Full,
            _ => ErrorKind::Failed,
        };
        let path = path.display();
        CallError::new(kind, format!("{path} could not be written: {error}"))
    };
    let text = serde_json::to_vec(&form).map_err(|error| failed(error.into()))?;
    file::replace(&path, &text).map_err(failed)
}

/// The job that meets, and the handle on it.
pub(super) fn job(
    options: &NodeOptions,
    depot: &Depot,
    clock: &Arc<dyn Clock>,
) -> (Meeting, Setup) {
    let config = &options.config;
    let meeting = Meeting::new(config.meet.is_on(), consent(&options.data_dir));
    let first_nodes = config.meet_bootstrap.clone();
    let setup = Setup {
        depot: depot.clone(),
        network: config.network.clone(),
        meeting: meeting.clone(),
        takes_private: !first_nodes.is_empty(),
        open: Box::new(move || Arc::new(Mainline::new(&first_nodes))),
        serves: options.purpose == Purpose::Serve,
        roots: config.announce_meet == AnnounceMeet::Roots,
        backup_pin: SNAPSHOT_PIN,
        clock: clock.clone(),
    };
    (meeting, setup)
}

impl Node {
    /// Notes that this node may be seen at the public meeting point, and begins to meet there.
    ///
    /// # Errors
    /// When the consent can't be written.
    pub async fn mesh_join(&self, _: MeshJoin) -> Result<MeshStatusReply, CallError> {
        self.agree(true).await
    }

    /// Takes that back. What was announced is forgotten there within about half an hour.
    ///
    /// # Errors
    /// When that can't be written: then nothing has changed.
    pub async fn mesh_leave(&self, _: MeshLeave) -> Result<MeshStatusReply, CallError> {
        self.agree(false).await
    }

    /// Looks for those who have the root of a link at the meeting point, too, unless it is found
    /// otherwise before or is here; until what is returned is dropped. Only where somebody agreed
    /// to being seen there.
    pub(super) async fn want_link(&self, link: &Link) -> Option<Want> {
        if !self.inner.meeting.is_joined() {
            return None;
        }
        let has = self.block_has(BlockHas { id: link.id }).await;
        match has {
            Ok(BlockHasReply { has: true, .. }) => None,
            _ => self.inner.meeting.want(Topic::Link(link.id), LINK_DELAY),
        }
    }

    /// Looks for those who hold an owner's head at the meeting point, for a while: somebody who has
    /// the owner's words needs them.
    pub(super) fn want_head(&self, head: BlockId) {
        self.inner
            .meeting
            .want_for(Topic::Head(head), HEAD_PATIENCE);
    }

    async fn agree(&self, joined: bool) -> Result<MeshStatusReply, CallError> {
        let (dir, now) = (self.inner.options.data_dir.clone(), self.now());
        blocking(move || store(&dir, joined, now)).await?;
        self.inner.meeting.join(joined);
        self.mesh_status(MeshStatus {}).await
    }

    /// Tells the ways into the mesh, and when each last worked.
    ///
    /// # Errors
    /// None at present.
    pub async fn mesh_status(&self, _: MeshStatus) -> Result<MeshStatusReply, CallError> {
        let (config, now) = (&self.inner.options.config, self.now());
        let peers = self.net().peers().list().await;
        let report = self.inner.meeting.report();
        let reach = self.reach();
        let seen = |of: &dyn Fn(&&PeerInfo) -> bool| {
            let is_there = |peer: &&PeerInfo| peer.connected_since.is_some() && of(peer);
            peers.iter().any(|peer| is_there(&peer)).then_some(now)
        };
        let mut ways = Vec::new();
        for address in &config.bootstrap {
            let is_it = |peer: &&PeerInfo| {
                let mut known = peer.addresses.iter();
                address.ends_with(&format!("/p2p/{}", peer.peer))
                    || known.any(|known| known.to_string() == *address)
            };
            ways.push(way("bootstrap", address, seen(&is_it)));
        }
        if config.mdns {
            let is_near = |peer: &&PeerInfo| peer.source == Source::Mdns;
            ways.push(way("mdns", "the local network", seen(&is_near)));
        }
        if self.inner.meeting.may() {
            let address = match config.meet_bootstrap.is_empty() {
                true => "the BitTorrent Mainline DHT".to_owned(),
                false => config.meet_bootstrap.join(","),
            };
            ways.push(way("meet", &address, report.answered));
        }
        for met in report.ways {
            let is_it = |peer: &&PeerInfo| peer.peer == met.peer;
            let last = seen(&is_it).unwrap_or(met.reached);
            ways.push(way("peer", &met.address.to_string(), Some(last)));
        }
        Ok(MeshStatusReply {
            joined: self.inner.meeting.is_joined(),
            meet: match self.inner.meeting.may() {
                true => "on".to_owned(),
                false => "off".to_owned(),
            },
            ways,
            peers: peers
                .iter()
                .filter(|peer| peer.connected_since.is_some())
                .count() as u64,
            reachable: reach.reachable,
            nat: reach.nat,
            error: report.error,
            asked: report.asked,
            announced: report.announced,
            dialled: report.dialled,
        })
    }
}

fn way(kind: &str, address: &str, last_ok: Option<Timestamp>) -> MeshWay {
    MeshWay {
        kind: kind.to_owned(),
        address: address.to_owned(),
        last_ok,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consent_is_what_was_written_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(!consent(dir.path()));
        store(dir.path(), true, Timestamp(1)).expect("written");
        assert!(consent(dir.path()));
        store(dir.path(), false, Timestamp(2)).expect("written");
        assert!(!consent(dir.path()));
        for damaged in [
            "",
            "true",
            "{\"joined\":true}",
            "{\"version\":2,\"joined\":true,\"since\":1}",
            "\u{0}",
        ] {
            std::fs::write(dir.path().join(FILE), damaged).expect("written");
            assert!(!consent(dir.path()), "{damaged}");
        }
    }
}
