//! Meets other nodes at the public meeting point: asks and announces there, and dials what it is
//! told.
//!
//! Nothing is sent without a reason: consent to being seen as a node of the mesh, a ring that meets
//! anywhere, or a call that looks for an owner's head. Without one the meeting point's client, its
//! thread and its socket are not there at all.
//!
//! - `interests`: keys that matter; pure.
//! - `handle`: what calls look for, and what was found.
//!
//! Deliberately absent: who is at an address. Connecting tells, and rings prove themselves.

mod handle;
mod interests;
#[cfg(test)]
mod tests;

pub use handle::{Meeting, Report, Topic, Want, Way};

use std::collections::HashSet;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::announce::Moves;
use crate::depot::Depot;
use crate::id::BlockId;
use crate::net::Net;
use crate::net::meet::{Dial, Error, Job, Key, Outcome, Places, Planner, Point};
use crate::net::peers::{self, Target};
use crate::net::reach::{self, Mapping, Reachable};
use crate::store::{self, Store};
use crate::task::WorkerState;
use crate::text::count;
use crate::time::Clock;

/// How often it is looked whether something else matters by now, when nothing tells.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How often it is looked which heads and roots there are.
const READ_EVERY: Duration = Duration::from_secs(60);
/// Time that a command's own node has to end before anything is sent.
const COMMAND_DELAY: Duration = Duration::from_millis(300);
/// Answers that wait to be looked at.
const MAX_ANSWERS: usize = 64;
/// Most roots that are announced, the newest.
const MAX_ROOTS: usize = 256;
/// Most heads that are announced.
const MAX_HEADS: usize = 128;

/// Makes the client of the meeting point, which sends nothing before its first call.
pub type Open = Box<dyn Fn() -> Arc<dyn Point> + Send + Sync>;

/// Parts that the job works with.
pub struct Setup {
    /// Store and network.
    pub depot: Depot,
    /// Name of the network.
    pub network: String,
    /// Keys to be looked for.
    pub meeting: Meeting,
    /// Makes the client.
    pub open: Open,
    /// Whether addresses of private networks and of this machine count.
    pub takes_private: bool,
    /// Whether this node runs on, and so is worth being found.
    pub serves: bool,
    /// Whether roots of links are announced.
    pub roots: bool,
    /// Name of pins that are of backups, whose blocks are not announced.
    pub backup_pin: &'static str,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

/// Runs until cancelled.
pub async fn run(setup: Setup, cancel: CancellationToken, state: Arc<WorkerState>) {
    if !setup.meeting.may() {
        state.set("off: meeting is switched off in the settings");
        cancel.cancelled().await;
        return;
    }
    let work = async {
        if !setup.serves {
            tokio::time::sleep(COMMAND_DELAY).await;
        }
        Work::new(&setup, &state).run().await;
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = work => {}
    }
}

/// Something that has ended.
enum Done {
    Job(Job, Result<(), Error>),
    Dial(Dial, Outcome),
}

struct Work<'a> {
    setup: &'a Setup,
    state: &'a WorkerState,
    net: Net,
    planner: Planner,
    places: Places,
    /// Keys under which addresses are worth a dial.
    keys: HashSet<Key>,
    point: Option<Arc<dyn Point>>,
    running: FuturesUnordered<BoxFuture<'static, Done>>,
    answers: mpsc::Receiver<(Key, Vec<SocketAddrV4>)>,
    to_answers: mpsc::Sender<(Key, Vec<SocketAddrV4>)>,
    heads: Vec<BlockId>,
    roots: Vec<BlockId>,
    /// When heads and roots are to be read again.
    read_at: Instant,
    /// When the next call begins to wait.
    next_want: Option<Instant>,
    port: Option<u16>,
}

impl<'a> Work<'a> {
    fn new(setup: &'a Setup, state: &'a WorkerState) -> Self {
        let (to_answers, answers) = mpsc::channel(MAX_ANSWERS);
        let now = Instant::now();
        Self {
            setup,
            state,
            net: setup.depot.net().clone(),
            planner: Planner::default(),
            places: Places::new(setup.takes_private, now),
            keys: HashSet::new(),
            point: None,
            running: FuturesUnordered::new(),
            answers,
            to_answers,
            heads: Vec::new(),
            roots: Vec::new(),
            read_at: now,
            next_want: None,
            port: None,
        }
    }

    async fn run(mut self) {
        let meeting = self.setup.meeting.clone();
        let mut connected = self.net.peers().watch_connected();
        let (mut rings, mut members) = (self.net.rings().watch_rings(), self.net.rings().watch());
        let mut heads = self.net.heads().watch_kept();
        let mut joined = meeting.watch_joined();
        let mut moves = Moves::new(self.net.watch_addresses());
        loop {
            self.look().await;
            self.begin();
            let due = self.due();
            tokio::select! {
                Some(done) = self.running.next() => self.ended(done),
                Some((key, answer)) = self.answers.recv() => self.heard(key, &answer),
                () = sleep_until(due) => {}
                () = moves.moved() => self.planner.moved(Instant::now()),
                () = meeting.changed() => self.read_at = Instant::now(),
                // These senders live as long as the net and the handle.
                _ = connected.changed() => {}
                _ = rings.changed() => {}
                _ = members.changed() => {}
                _ = joined.changed() => {}
                _ = heads.changed() => self.read_at = Instant::now(),
            }
        }
    }

    /// Finds out what matters now.
    async fn look(&mut self) {
        let now = Instant::now();
        let is_joined = self.setup.meeting.is_joined();
        if is_joined && self.setup.serves && self.read_at <= now {
            self.read_at = now + READ_EVERY;
            self.read().await;
        }
        let view = self.net.rings();
        let rings = view.rings();
        let names = rings.as_slice().iter().map(|ring| ring.name().to_owned());
        let is_met = |name: &String| {
            let members = view.members(name).unwrap_or_default();
            members.iter().any(|member| member.online)
        };
        let met: HashSet<String> = names.filter(is_met).collect();
        let (wanted, next_want) = self.setup.meeting.wanted(now);
        self.next_want = next_want;
        let facts = interests::Facts {
            now: self.setup.clock.now(),
            network: &self.setup.network,
            is_joined,
            serves: self.setup.serves,
            connected: self.net.peers().connected().len(),
            rings: &rings,
            met: &met,
            heads: &self.heads,
            roots: &self.roots,
            wanted: &wanted,
        };
        let (interests, keys) = interests::interests(&facts);
        self.planner.set(&interests, now);
        self.keys = keys;
        if interests.is_empty() {
            // With the client its thread and its socket go.
            self.point = None;
            self.state.set(match is_joined {
                true => "nothing to do",
                false => "not joined: nothing is sent",
            });
        }
        let status = self.net.reach().status();
        let listening = self.net.listen_addresses();
        let port = port(&listening, &status, self.setup.takes_private);
        if port != self.port {
            self.port = port;
            self.planner.moved(now);
        }
    }

    /// Reads which heads and roots there are.
    async fn read(&mut self) {
        let mut heads = self.net.heads().kept().await.unwrap_or_default();
        heads.truncate(MAX_HEADS);
        self.heads = heads;
        if self.setup.roots {
            let (store, backup) = (self.setup.depot.store().clone(), self.setup.backup_pin);
            let read = tokio::task::spawn_blocking(move || roots(store.as_ref(), backup));
            match read.await {
                Ok(Ok(roots)) => self.roots = roots,
                Ok(Err(error)) => self.state.fail(error.to_string()),
                Err(_) => {}
            }
        }
    }

    /// Begins what is due.
    fn begin(&mut self) {
        let now = Instant::now();
        while let Some(job) = self.planner.next(now) {
            let point = self
                .point
                .get_or_insert_with(|| (self.setup.open)())
                .clone();
            match (job, self.port) {
                (Job::Ask(key), _) => {
                    self.setup.meeting.note(|report| report.asked += 1);
                    let answers = self.to_answers.clone();
                    let ask = async move { Done::Job(job, point.ask(key, answers).await) };
                    self.running.push(Box::pin(ask));
                }
                (Job::Announce(key), Some(port)) => {
                    self.setup.meeting.note(|report| report.announced += 1);
                    let tell = async move { Done::Job(job, point.announce(key, port).await) };
                    self.running.push(Box::pin(tell));
                }
                // Nobody could reach this node there. It is announced once it can be reached.
                (Job::Announce(_), None) => self.planner.ended(job, true, 0.0, now),
            }
        }
        let connected = self.net.peers().connected();
        let is_connected = |peer: &libp2p::PeerId| connected.contains(peer);
        let random = rand::random();
        while let Some(dial) = self.places.next(&self.keys, is_connected, random, now) {
            self.setup.meeting.note(|report| report.dialled += 1);
            let peers = self.net.peers();
            self.running.push(Box::pin(async move {
                let reached = peers.connect(Target::Met(dial.address())).await;
                let outcome = match reached {
                    Ok(peer) => Outcome::Reached(peer),
                    Err(
                        peers::Error::Itself(_)
                        | peers::Error::TurnedAway(_)
                        | peers::Error::OtherNetwork { .. },
                    ) => Outcome::Wrong,
                    Err(_) => Outcome::Failed,
                };
                Done::Dial(dial, outcome)
            }));
        }
    }

    fn due(&self) -> Instant {
        let connected = self.net.peers().connected();
        let is_connected = |peer: &libp2p::PeerId| connected.contains(peer);
        let dues = [
            Some(Instant::now() + LOOK_EVERY),
            self.planner.due(),
            self.places.due(&self.keys, is_connected),
            self.next_want,
        ];
        let first = dues.into_iter().flatten().min();
        first.unwrap_or_else(|| Instant::now() + LOOK_EVERY)
    }

    fn heard(&mut self, key: Key, answer: &[SocketAddrV4]) {
        let status = self.net.reach().status();
        let mut own: Vec<Multiaddr> = self.net.listen_addresses();
        own.extend(status.addresses);
        let own: HashSet<SocketAddrV4> = own.iter().filter_map(socket).map(|(at, _)| at).collect();
        let others = answer.iter().filter(|place| !own.contains(place));
        let others: Vec<SocketAddrV4> = others.copied().collect();
        tracing::debug!(?key, told = others.len(), "a meeting point answered");
        self.places
            .heard(key, &others, rand::random(), Instant::now());
    }

    fn ended(&mut self, done: Done) {
        let (now, at) = (Instant::now(), self.setup.clock.now());
        let meeting = &self.setup.meeting;
        match done {
            Done::Job(job, result) => {
                // A search is over when its answers are heard.
                while let Ok((key, answer)) = self.answers.try_recv() {
                    self.heard(key, &answer);
                }
                self.planner.ended(job, result.is_ok(), rand::random(), now);
                match result {
                    Ok(()) => {
                        meeting.note(|report| {
                            (report.answered, report.error) = (Some(at), None);
                        });
                        let good = count(self.places.good().len() as u64, "address");
                        self.state.set(format!("meeting; {good} that worked"));
                    }
                    Err(error) => {
                        tracing::debug!(?job, %error, "the meeting point was of no use");
                        meeting.note(|report| report.error = Some(error.to_string()));
                        self.state.fail(error.to_string());
                    }
                }
            }
            Done::Dial(dial, outcome) => {
                tracing::debug!(place = %dial.place, ?outcome, "an address that was told");
                self.places.ended(dial, outcome, now);
                if let Outcome::Reached(peer) = outcome {
                    let way = Way {
                        address: dial.address(),
                        peer,
                        reached: at,
                    };
                    meeting.note(|report| {
                        report.ways.retain(|other| other.address != way.address);
                        report.ways.insert(0, way);
                    });
                }
            }
        }
    }
}

/// The socket address of an IPv4 address over TCP or QUIC that leads to this node itself, and
/// whether it is one of TCP.
fn socket(address: &Multiaddr) -> Option<(SocketAddrV4, bool)> {
    let is_relayed = |part: Protocol<'_>| matches!(part, Protocol::P2pCircuit);
    if address.iter().any(is_relayed) {
        return None;
    }
    let mut parts = address.iter();
    match (parts.next()?, parts.next()?) {
        (Protocol::Ip4(ip), Protocol::Tcp(port)) => Some((SocketAddrV4::new(ip, port), true)),
        (Protocol::Ip4(ip), Protocol::Udp(port)) => Some((SocketAddrV4::new(ip, port), false)),
        _ => None,
    }
}

/// The port that is announced: of an address that is known to work from outside, else one that the
/// router has promised, else one on which this node listens. None when nobody could be there.
fn port(listening: &[Multiaddr], reach: &reach::Status, takes_private: bool) -> Option<u16> {
    // A port of TCP before one of QUIC: that is how others begin.
    let best = |sockets: Vec<(SocketAddrV4, bool)>| {
        let first = sockets.iter().find(|(_, is_tcp)| *is_tcp);
        first.or(sockets.first()).map(|(at, _)| at.port())
    };
    if let Some(port) = best(reach.addresses.iter().filter_map(socket).collect()) {
        return Some(port);
    }
    if let Mapping::Promised(promised) = &reach.mapping {
        let v4 = promised.iter().find(|at| matches!(at, SocketAddr::V4(_)));
        if let Some(at) = v4 {
            return Some(at.port());
        }
    }
    let is_hopeless = matches!(reach.reachable, Reachable::No | Reachable::Relay);
    if is_hopeless && !takes_private {
        return None;
    }
    let listening = listening.iter().filter_map(socket);
    let outward = listening.filter(|(at, _)| takes_private || !at.ip().is_loopback());
    best(outward.collect())
}

/// Roots of links that were put here, the newest first. Backups are not among them.
fn roots(store: &dyn Store, backup: &str) -> Result<Vec<BlockId>, store::Error> {
    let pins = store.pins()?.into_iter();
    let put = pins.filter(|(_, info)| info.link.is_some() && info.name != backup);
    let mut put: Vec<_> = put.map(|(_, info)| (info.created, info.root)).collect();
    put.sort_unstable_by(|one, other| other.cmp(one));
    put.truncate(MAX_ROOTS);
    Ok(put.into_iter().map(|(_, root)| root).collect())
}
