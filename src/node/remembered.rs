//! Peers that were good before: remembered in a file, and gone to first after a restart.
//!
//! A peer is remembered at the address at which this node reached it, while they were connected.
//! The file is a hint and no more: whatever is wrong with it, the node starts, and a peer that is
//! there proves who it is by the handshake. There are no more than [`MAX_PEERS`] in it, each with
//! one address that anybody may tell (`net` dials nothing else of others), and none that was not
//! seen for [`MAX_AGE`].
//!
//! Deliberately absent: bootstrap peers, which a person names, and peers of the local network,
//! which are heard anew.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt;
use libp2p::{Multiaddr, PeerId};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Inner, Node};
use crate::file;
use crate::net::is_dialable_of;
use crate::net::peers::{Direction, PeerInfo, Source};
use crate::task::WorkerState;
use crate::text::count;
use crate::time::Timestamp;

/// Name of the file in the data directory.
pub const FILE_NAME: &str = "peers.json";
/// Peers that are remembered.
const MAX_PEERS: usize = 64;
/// Peers that are gone to in one round, the last seen first, and how many of them at once.
const MAX_DIALS: usize = 16;
const DIALS_AT_ONCE: usize = 4;
/// Time after which a peer that was not seen again is forgotten.
const MAX_AGE: Duration = Duration::from_secs(60 * 24 * 3600);
/// Largest file that is read.
const MAX_FILE_BYTES: u64 = 64 << 10;
/// How often it is looked who is there while nobody comes or goes.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Pause after peers have come or gone before it is looked again.
const SETTLE: Duration = Duration::from_secs(1);
/// Pause between two times that the file is written.
const WRITE_EVERY: Duration = Duration::from_secs(60);
/// Time of a peer in the file may be so old while it is connected.
const STALE: Duration = Duration::from_secs(30 * 60);
/// First and longest pause before a node without any peer goes to all of them again.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);
const VERSION: u32 = 1;

/// A peer that was good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remembered {
    peer: String,
    address: String,
    /// When it was last connected, in milliseconds since 1970.
    last_ok: u64,
}

#[derive(Serialize, Deserialize)]
struct Form {
    version: u32,
    peers: Vec<Remembered>,
}

impl Remembered {
    /// The address with the peer id, if both are such as this program writes.
    fn target(&self) -> Option<Multiaddr> {
        let peer: PeerId = self.peer.parse().ok()?;
        let address: Multiaddr = self.address.parse().ok()?;
        let address = address.with_p2p(peer).ok()?;
        is_dialable_of(&address).then_some(address)
    }
}

/// All that are remembered, the last seen first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Peers(Vec<Remembered>);

impl Peers {
    /// Reads the file. What is wrong in it is left out, and told to the log.
    fn load(path: &Path, now: Timestamp) -> Self {
        let form = match file::read(path, MAX_FILE_BYTES) {
            Ok(None) => return Self::default(),
            Ok(Some(bytes)) => serde_json::from_slice::<Form>(&bytes).map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match form {
            Ok(form) if form.version == VERSION => {
                let mut peers = Self(form.peers);
                peers.0.retain(|one| one.target().is_some());
                peers.tidy(now);
                peers
            }
            Ok(form) => {
                let version = form.version;
                tracing::warn!(path = %path.display(), version, "the peers of another version of this file are not gone to");
                Self::default()
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), error, "the peers that were good before can't be read, and are written anew");
                Self::default()
            }
        }
    }

    fn save(&self, path: &Path) -> std::io::Result<()> {
        let form = Form {
            version: VERSION,
            peers: self.0.clone(),
        };
        file::replace(path, &serde_json::to_vec(&form)?)
    }

    /// Takes in who is connected. Whether there is a peer or an address that was not there before,
    /// or a time that is far from the one of before.
    fn see(&mut self, connected: &[PeerInfo], now: Timestamp) -> bool {
        let mut is_new = false;
        for seen in connected.iter().filter_map(|info| good(info, now)) {
            let place = self.0.iter().position(|one| one.peer == seen.peer);
            match place.map(|at| self.0.remove(at)) {
                Some(before) => {
                    let age = now.since(Timestamp(before.last_ok));
                    is_new |= before.address != seen.address || age >= STALE;
                }
                None => is_new = true,
            }
            self.0.push(seen);
        }
        self.tidy(now);
        is_new
    }

    fn tidy(&mut self, now: Timestamp) {
        // A clock that was ahead makes nobody good for years.
        let is_recent =
            |one: &Remembered| one.last_ok <= now.0 && now.since(Timestamp(one.last_ok)) <= MAX_AGE;
        self.0.retain(is_recent);
        self.0.sort_by_key(|one| std::cmp::Reverse(one.last_ok));
        self.0.truncate(MAX_PEERS);
    }

    fn targets(&self) -> Vec<Multiaddr> {
        let targets = self.0.iter().filter_map(Remembered::target);
        targets.take(MAX_DIALS).collect()
    }
}

/// A connected peer at the address at which this node reached it; none for one that came by itself,
/// whose address of that connection nobody can dial.
fn good(info: &PeerInfo, now: Timestamp) -> Option<Remembered> {
    let is_reached = info.connected_since.is_some() && info.direction == Some(Direction::Outbound);
    let is_elsewhere = info.source != Source::Mdns;
    let address = info.addresses.first()?;
    let full = address.clone().with_p2p(info.peer).ok()?;
    (is_reached && is_elsewhere && is_dialable_of(&full)).then(|| Remembered {
        peer: info.peer.to_string(),
        address: address.to_string(),
        last_ok: now.0,
    })
}

/// Pause after so many rounds in a row in which nobody was reached.
fn pause(rounds: u32) -> Duration {
    FIRST_PAUSE
        .saturating_mul(1 << rounds.min(8))
        .min(LONGEST_PAUSE)
}

/// Goes to the peers that were good before, remembers who is, and goes to them again when nobody is
/// connected any more. Runs until cancelled.
pub(super) async fn run(node: Weak<Inner>, cancel: CancellationToken, state: Arc<WorkerState>) {
    let Some(inner) = node.upgrade() else { return };
    let (path, now) = start(&inner);
    // A command's node ends soon: it goes to them, and leaves the file alone.
    let is_kept = inner.options.http.is_some();
    let mut connected = inner.depot.net().peers().watch_connected();
    drop(inner);
    let mut peers = Peers::load(&path, now);
    let (mut alone, mut is_unsaved) = (0, false);
    let mut next_round = Instant::now();
    let mut next_write = Instant::now();
    loop {
        let Some(inner) = node.upgrade() else { return };
        let node = Node { inner };
        let list = node.net().peers().list().await;
        is_unsaved |= peers.see(&list, node.now());
        let known = count(peers.0.len() as u64, "peer that was good");
        state.set(format!("{known} remembered"));
        if is_kept && is_unsaved && Instant::now() >= next_write {
            next_write = Instant::now() + WRITE_EVERY;
            is_unsaved = false;
            save(&peers, &path, &state).await;
        }
        if list.iter().any(|info| info.connected_since.is_some()) {
            alone = 0;
        } else if Instant::now() >= next_round {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = go(&node, peers.targets()) => {}
            }
            next_round = Instant::now() + pause(alone);
            alone = alone.saturating_add(1);
        }
        drop(node);
        let change = async {
            if connected.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            // A peer seldom comes alone.
            tokio::time::sleep(SETTLE).await;
        };
        tokio::select! {
            () = cancel.cancelled() => break,
            () = change => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
    if is_kept && is_unsaved {
        save(&peers, &path, &state).await;
    }
}

fn start(inner: &Inner) -> (PathBuf, Timestamp) {
    let path = inner.options.data_dir.join(FILE_NAME);
    (path, inner.clock.now())
}

async fn save(peers: &Peers, path: &Path, state: &WorkerState) {
    let (peers, to) = (peers.clone(), path.to_owned());
    let saved = tokio::task::spawn_blocking(move || peers.save(&to)).await;
    if let Ok(Err(error)) = saved {
        state.fail(format!("{} could not be written: {error}", path.display()));
    }
}

/// Connects to as many as answer.
async fn go(node: &Node, targets: Vec<Multiaddr>) {
    let dials = targets.into_iter().map(|address| {
        let peers = node.net().peers();
        async move { peers.connect(address).await }
    });
    let dials = futures::stream::iter(dials).buffer_unordered(DIALS_AT_ONCE);
    let reached = dials
        .filter(|dialled| std::future::ready(dialled.is_ok()))
        .count();
    let reached = reached.await;
    tracing::debug!(reached, "peers that were good before were gone to");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn info(peer: PeerId, address: &str) -> PeerInfo {
        PeerInfo {
            peer,
            addresses: vec![address.parse().expect("an address")],
            agent: String::new(),
            protocols: Vec::new(),
            rtt: None,
            connected_since: Some(NOW),
            connections: 1,
            direction: Some(Direction::Outbound),
            bytes_in: 0,
            bytes_out: 0,
            wrong_blocks: 0,
            faults: 0,
            refused: 0,
            source: Source::Dht,
            is_relayed: false,
        }
    }

    fn one(last_ok: u64) -> Remembered {
        Remembered {
            peer: PeerId::random().to_string(),
            address: "/ip4/192.0.2.7/tcp/4384".to_owned(),
            last_ok,
        }
    }

    #[test]
    fn only_peers_that_this_node_reached_are_remembered() {
        let peer = PeerId::random();
        let there = info(peer, "/ip4/192.0.2.7/tcp/4384");
        let mut peers = Peers::default();
        for nobody in [
            PeerInfo {
                connected_since: None,
                ..there.clone()
            },
            PeerInfo {
                direction: Some(Direction::Inbound),
                ..there.clone()
            },
            PeerInfo {
                source: Source::Mdns,
                ..there.clone()
            },
            PeerInfo {
                addresses: Vec::new(),
                ..there.clone()
            },
            info(peer, "/ip6/fe80::1/tcp/4384"),
            info(peer, "/dns4/example.org/tcp/4384"),
        ] {
            assert!(!peers.see(&[nobody], NOW));
        }
        assert_eq!(peers, Peers::default());
        assert!(peers.see(std::slice::from_ref(&there), NOW));
        let later = Timestamp(NOW.0 + 5);
        assert!(!peers.see(&[there], later), "the same again");
        assert_eq!((peers.0.len(), peers.0[0].last_ok), (1, later.0));
        assert!(
            peers.see(&[info(peer, "/ip4/192.0.2.8/tcp/4384")], later),
            "it has moved"
        );
        let expected = format!("/ip4/192.0.2.8/tcp/4384/p2p/{peer}");
        assert_eq!(peers.targets(), [expected.parse().expect("an address")]);
    }

    #[test]
    fn there_is_a_bound_and_the_last_seen_stay() {
        let mut peers = Peers::default();
        for n in 0..=MAX_PEERS as u64 {
            let seen = info(PeerId::random(), "/ip4/192.0.2.7/tcp/4384");
            peers.see(&[seen], Timestamp(NOW.0 + n));
        }
        assert_eq!(peers.0.len(), MAX_PEERS);
        assert_eq!(peers.0.last().map(|one| one.last_ok), Some(NOW.0 + 1));
        assert_eq!(peers.targets().len(), MAX_DIALS);
        let much_later = NOW.after(MAX_AGE).after(Duration::from_millis(10));
        peers.see(&[], much_later);
        assert_eq!(peers.0.len(), MAX_PEERS - 9, "old ones go");
        peers.see(&[], Timestamp(NOW.0));
        assert!(peers.0.is_empty(), "times ahead count for nothing");
    }

    #[test]
    fn a_damaged_file_is_no_obstacle() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(FILE_NAME);
        assert_eq!(Peers::load(&path, NOW), Peers::default());
        let mut peers = Peers(vec![one(NOW.0 - 1), one(NOW.0)]);
        peers.tidy(NOW);
        peers.save(&path).expect("saved");
        assert_eq!(Peers::load(&path, NOW), peers);
        let mut wrong = peers.0.clone();
        wrong[0].address = "/ip4/0.0.0.0/tcp/1".to_owned();
        wrong[1].peer = "nobody".to_owned();
        Peers(wrong).save(&path).expect("saved");
        assert_eq!(
            Peers::load(&path, NOW),
            Peers::default(),
            "checked when read"
        );
        let large = vec![b' '; MAX_FILE_BYTES as usize + 1];
        for bytes in [
            &b""[..],
            b"{}",
            b"{\"version\":2,\"peers\":[]}",
            b"\xff",
            &large,
        ] {
            std::fs::write(&path, bytes).expect("written");
            assert_eq!(Peers::load(&path, NOW), Peers::default());
        }
        std::fs::remove_file(&path).expect("removed");
        std::fs::create_dir(&path).expect("made");
        assert_eq!(Peers::load(&path, NOW), Peers::default());
    }

    #[test]
    fn pauses_grow_to_five_minutes() {
        assert_eq!(pause(0), FIRST_PAUSE);
        assert_eq!(pause(2), 4 * FIRST_PAUSE);
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join(FILE_NAME);
            std::fs::write(&path, bytes).expect("written");
            let _ = Peers::load(&path, NOW);
        }
    }
}
