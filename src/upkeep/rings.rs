//! Looks for the members of this node's rings, tells them how much room is here, and keeps the file of rings.
//!
//! On the LAN members are found without this. Elsewhere they meet in the DHT: each announces a key
//! that follows from the ring's secret, its own name and the week, and looks at the keys of the
//! members that it knows. A peer that is found is dialled; the handshake shows whether it is a
//! member. A node that is invited looks at a key that follows from the invitation's secret, which
//! only the member that made the invitation announces. So no key has two announcers, and a stranger
//! sees only that each node announces some keys.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use libp2p::PeerId;
use libp2p::multiaddr::Protocol;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::announce::Moves;
use crate::depot::Depot;
use crate::id::BlockId;
use crate::net::peers::Target;
use crate::ring::{Ring, RingId, Rings, RingsFile};
use crate::task::WorkerState;
use crate::text::count;
use crate::time::{Clock, Timestamp};

/// How often members are looked for and told what is new.
const LOOK_EVERY: Duration = Duration::from_secs(3 * 60);
/// How long to wait for a first peer before looking again.
const LONELY: Duration = Duration::from_secs(5);
/// How often a meeting place is announced again; records last twice as long.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(20 * 3600);
/// How long one search may take.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(30);
/// Most peers that are taken from one meeting place.
const MAX_FOUND: usize = 64;
/// Places that are looked at at the same time.
const PLACES_AT_ONCE: usize = 8;
/// Most peers that are dialled in one round.
const MAX_DIALS: usize = 32;
/// Peers that are dialled at the same time.
const DIALS_AT_ONCE: usize = 8;
/// How long changes are collected before the file is written.
const COLLECT: Duration = Duration::from_secs(1);

const WEEK_MS: u64 = 7 * 24 * 3600 * 1000;
/// Clocks may differ, and records last two days: so long before and after its end the next and the last week's places count, too.
const OVERLAP_MS: u64 = 24 * 3600 * 1000;

/// What the job needs of its node.
pub struct Job {
    /// Store and network.
    pub depot: Depot,
    /// Where the rings are kept, and what is in it.
    pub file: Arc<RingsFile>,
    /// What was read from it.
    pub saved: Rings,
    /// What members are told that this machine is called.
    pub name: String,
    /// Most bytes that are lent to them, whenever that changes.
    pub lent_bytes: watch::Receiver<u64>,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
}

/// Runs until cancelled.
pub async fn run(job: Job, cancel: CancellationToken, state: Arc<WorkerState>) {
    state.set("in no ring");
    let saving = keep_saved(&job, job.saved.clone(), &cancel, &state);
    let looking = async {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = look(&job, &state) => {}
        }
    };
    tokio::join!(saving, looking);
}

async fn keep_saved(job: &Job, mut saved: Rings, cancel: &CancellationToken, state: &WorkerState) {
    let view = job.depot.net().rings();
    let mut changes = view.watch_rings();
    loop {
        let ended = tokio::select! {
            () = cancel.cancelled() => true,
            changed = changes.changed() => changed.is_err(),
        };
        if !ended {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = sleep(COLLECT) => {}
            }
            changes.borrow_and_update();
        }
        let now = view.rings();
        if now != saved {
            let (file, view) = (job.file.clone(), view.clone());
            match tokio::task::spawn_blocking(move || file.save(|| view.rings())).await {
                Ok(Ok(())) => saved = now,
                Ok(Err(error)) => state.fail(error.to_string()),
                Err(_) => return,
            }
        }
        if ended {
            return;
        }
    }
}

async fn look(job: &Job, state: &WorkerState) {
    let net = job.depot.net();
    let view = net.rings();
    let (mut changes, mut lent_bytes) = (view.watch_rings(), job.lent_bytes.clone());
    let mut announced: HashMap<BlockId, Instant> = HashMap::new();
    let mut moves = Moves::new(net.watch_addresses());
    loop {
        let usage = job.depot.store().usage();
        // What is only cached makes room for what is to be kept.
        let used = usage.disk_bytes.saturating_sub(usage.cached_bytes);
        let lent = *lent_bytes.borrow_and_update();
        let lent = lent.saturating_sub(usage.leased_bytes);
        view.set_local(&job.name, lent.min(usage.quota.saturating_sub(used)));
        view.refresh().await;
        let rings = view.rings();
        let ids = meeting_ids(&rings, job.clock.now());
        let mut wait = LOOK_EVERY;
        if !rings.is_empty() {
            dial_members(job, &rings).await;
            if net.peers().connected().is_empty() {
                wait = LONELY;
            } else {
                meet(job, &rings, &mut announced, state).await;
            }
            // Who is online changes sooner than this is said again.
            let looked_after = count(rings.as_slice().len() as u64, "ring");
            state.set(format!("looking after {looked_after}"));
        } else {
            state.set("in no ring");
        }
        let deadline = Instant::now() + wait;
        // Of what changes in rings only other secrets are a reason to look earlier.
        let other = async {
            loop {
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                if meeting_ids(&view.rings(), job.clock.now()) != ids {
                    return;
                }
            }
        };
        tokio::select! {
            () = tokio::time::sleep_until(deadline) => {}
            () = other => {}
            // Members are to know how much room there is.
            Ok(()) = lent_bytes.changed() => {}
            // The announcements say where this node was.
            () = moves.moved() => announced.clear(),
        }
    }
}

/// Ids of all secrets that members, or invited ones, meet by.
fn meeting_ids(rings: &Rings, now: Timestamp) -> Vec<RingId> {
    let secrets = rings.as_slice().iter();
    let secrets = secrets.flat_map(|ring| ring.meeting_secrets(now));
    secrets.map(|secret| secret.id()).collect()
}

/// Weeks whose meeting places count at that time, this one first.
fn weeks(now: Timestamp) -> Vec<u64> {
    let week = now.0 / WEEK_MS;
    let mut weeks = vec![week];
    if now.0 % WEEK_MS < OVERLAP_MS {
        weeks.extend(week.checked_sub(1));
    }
    if now.0 % WEEK_MS >= WEEK_MS - OVERLAP_MS {
        weeks.push(week + 1);
    }
    weeks
}

/// Places of a ring in the DHT.
#[derive(Debug, Default, PartialEq, Eq)]
struct Places {
    /// Those at which this node is to be found. Nobody else announces itself there.
    own: Vec<BlockId>,
    /// Those at which members may be, each with the member; none: whoever made the invitation.
    others: Vec<(BlockId, Option<PeerId>)>,
}

impl Places {
    /// Adds those of a ring in a week.
    fn add(&mut self, ring: &Ring, local: &PeerId, week: u64, now: Timestamp) {
        let secret = ring.secret();
        if !ring.is_let_in() {
            self.others.push((secret.meeting_place(week), None));
            return;
        }
        self.own.push(secret.member_place(local, week));
        let invitations = ring.invitation_secrets(now).into_iter();
        self.own
            .extend(invitations.map(|secret| secret.meeting_place(week)));
        let members = ring.members().iter().map(|known| known.peer);
        self.others
            .extend(members.map(|peer| (secret.member_place(&peer, week), Some(peer))));
    }
}

/// Announces this node at its places and dials members that are found at theirs.
async fn meet(
    job: &Job,
    rings: &Rings,
    announced: &mut HashMap<BlockId, Instant>,
    state: &WorkerState,
) {
    let net = job.depot.net();
    let now = job.clock.now();
    let mut places = Places::default();
    for ring in rings.as_slice() {
        for week in weeks(now) {
            places.add(ring, &net.peer_id(), week, now);
        }
    }
    announce(job, &places.own, announced, state).await;
    let connected = net.peers().connected();
    let is_sought = |peer: &Option<PeerId>| peer.is_none_or(|peer| !connected.contains(&peer));
    places.others.retain(|(_, peer)| is_sought(peer));
    let found: HashSet<PeerId> = futures::stream::iter(places.others)
        .map(|(place, member)| found_at(job, place, member))
        .buffer_unordered(PLACES_AT_ONCE)
        .flat_map(futures::stream::iter)
        .collect()
        .await;
    let targets = found.into_iter().map(|peer| (peer, Target::Peer(peer)));
    dial(job, targets.collect()).await;
}

/// Peers that announced themselves at a place; of a member's place only that member.
async fn found_at(job: &Job, place: BlockId, member: Option<PeerId>) -> HashSet<PeerId> {
    let providers = job.depot.net().providers();
    let mut search = providers.find(place.to_multihash(), MAX_FOUND);
    let mut found = HashSet::new();
    let collect = async {
        while let Some(provider) = search.next().await {
            if member.is_none_or(|member| member == provider.peer) {
                found.insert(provider.peer);
            }
        }
    };
    // Those that were found before the time was up count.
    let _ = timeout(SEARCH_TIMEOUT, collect).await;
    found
}

/// Announces places that were not announced lately, and takes back those that are over.
async fn announce(
    job: &Job,
    places: &[BlockId],
    announced: &mut HashMap<BlockId, Instant>,
    state: &WorkerState,
) {
    let net = job.depot.net();
    let gone: Vec<BlockId> = announced
        .keys()
        .filter(|place| !places.contains(place))
        .copied()
        .collect();
    if !gone.is_empty() {
        announced.retain(|place, _| places.contains(place));
        let keys = gone.iter().map(BlockId::to_multihash).collect();
        // It fails only when the net is stopping.
        let _ = net.providers().withdraw(keys).await;
    }
    let due: Vec<BlockId> = places
        .iter()
        .filter(|place| {
            let last = announced.get(place);
            last.is_none_or(|last| last.elapsed() >= ANNOUNCE_EVERY)
        })
        .copied()
        .collect();
    for place in due {
        // One by one: no peer is to be told of several places at once.
        let told = net.providers().announce(vec![place.to_multihash()]).await;
        match told {
            Ok(report) if report.peers_reached > 0 => {
                announced.insert(place, Instant::now());
            }
            Ok(_) => {}
            Err(error) => state.fail(error.to_string()),
        }
    }
}

/// Dials members that are known and not connected.
async fn dial_members(job: &Job, rings: &Rings) {
    let mut targets = Vec::new();
    for ring in rings.as_slice() {
        for known in ring.members() {
            // All its addresses end up in the net's book as soon as one of them is tried.
            for address in &known.addresses {
                let address = address.clone().with(Protocol::P2p(known.peer));
                targets.push((known.peer, Target::Address(address)));
            }
            if known.addresses.is_empty() {
                targets.push((known.peer, Target::Peer(known.peer)));
            }
        }
    }
    dial(job, targets).await;
}

/// Dials some of these, each round others when there are too many.
async fn dial(job: &Job, mut targets: Vec<(PeerId, Target)>) {
    let net = job.depot.net();
    let (connected, removed) = (net.peers().connected(), net.rings().removed());
    targets.retain(|(peer, _)| {
        *peer != net.peer_id() && !connected.contains(peer) && !removed.contains(peer)
    });
    if targets.len() > MAX_DIALS {
        let start = rand::random::<u32>() as usize % targets.len();
        targets.rotate_left(start);
        targets.truncate(MAX_DIALS);
    }
    futures::stream::iter(targets)
        .for_each_concurrent(DIALS_AT_ONCE, async |(peer, target)| {
            if let Err(error) = net.peers().connect(target).await {
                tracing::debug!(%peer, %error, "a ring's member can't be reached");
            }
        })
        .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::ring::{INVITATION_TTL, Seed};
    use libp2p::identity::Keypair;

    #[test]
    fn members_look_where_each_announces_itself_and_no_two_announce_one_place() {
        let now = Timestamp(10 * WEEK_MS + OVERLAP_MS);
        let (key, guest) = (Keypair::generate_ed25519(), PeerId::random());
        let local = key.public().to_peer_id();
        let mut rings = Rings::default();
        let ring = rings.create("home", &key, Seed::new([1; 16]), now);
        let ring = ring.expect("made");
        let code = ring.invite(Seed::new([2; 16]), INVITATION_TTL, false, now);
        let mut of_guest = Rings::default();
        let code = code.expect("it is in the ring");
        let invited = of_guest.join(code, now).expect("it is not over");
        let places = |ring: &Ring, local: &PeerId| {
            let mut places = Places::default();
            places.add(ring, local, 10, now);
            places
        };
        let (host, asking) = (places(ring, &local), places(invited, &guest));
        assert_eq!((host.own.len(), host.others.len()), (2, 0));
        assert!(asking.own.is_empty(), "whoever is invited only looks");
        assert_eq!(asking.others, [(host.own[1], None)]);
        let secret = ring.secret();
        assert_eq!(host.own[0], secret.member_place(&local, 10));
        assert_ne!(host.own[0], secret.member_place(&guest, 10));
        assert_ne!(host.own[0], secret.member_place(&local, 11));
    }

    #[test]
    fn around_the_end_of_a_week_two_places_count() {
        let at = |ms| weeks(Timestamp(10 * WEEK_MS + ms));
        assert_eq!(at(0), [10, 9]);
        assert_eq!(at(OVERLAP_MS), [10]);
        assert_eq!(at(WEEK_MS - OVERLAP_MS - 1), [10]);
        assert_eq!(at(WEEK_MS - 1), [10, 11]);
        assert_eq!(weeks(Timestamp(0)), [0]);
    }
}
