//! One block that a session fetches.
//!
//! One request is under way; when no byte comes for a while another peer is asked as well, and when
//! few come for a long time. What came before a request broke off is not asked for again. While
//! nobody can be asked, peers are searched for again and again, and each peer that connects in the
//! meantime is asked at once. The session gives up when its patience has passed, unless its bytes
//! still flow and a peer that was asked may yet give the block.

use std::collections::{BTreeMap, HashSet};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use libp2p::PeerId;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::crowd::{Crowd, Standing};
use super::pieces::Pieces;
use super::request::{ATTEMPT_TIMEOUT, Failed, Request};
use super::session::{Peers, Session, Shared, lock};
use crate::block::{Attempt, Block, GetError, Tried};
use crate::id::BlockId;
use crate::net::pace::Arrivals;

/// Time for which a request stays silent before another peer is asked as well.
const HEDGE_AFTER: Duration = Duration::from_secs(4);
/// The same when there is a limit on what is fetched.
const LIMITED_HEDGE_AFTER: Duration = Duration::from_secs(20);
/// The same for a peer that sends next to nothing: so many bytes within so long are silence, too.
const TRICKLE_BYTES: u64 = 40 << 10;
const TRICKLE: Duration = Duration::from_secs(20);
/// Requests for one block at once. Each one past the first follows a silence.
const MAX_ATTEMPTS_AT_ONCE: usize = 6;
/// Pause between two searches for the same block; doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(8);
/// Pause between two looks of a block that waits for a loaded peer.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Peers whose answers about one block are remembered for the report.
const MAX_SAID: usize = 512;

/// A block that is being fetched, as all sessions see it that want it.
#[derive(Default)]
pub(super) struct UnderWay {
    /// The session that holds it fetches.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// Bytes of it that have come.
    pub(super) pieces: Mutex<Pieces>,
    said: Mutex<BTreeMap<PeerId, Attempt>>,
}

impl UnderWay {
    /// A peer did not give the block.
    pub(super) fn note(&self, peer: PeerId, attempt: Attempt) {
        let mut said = lock(&self.said);
        if said.len() < MAX_SAID || said.contains_key(&peer) {
            said.insert(peer, attempt);
        }
    }

    /// The peers that were asked, and what each said.
    pub(super) fn tried(&self) -> Vec<Tried> {
        let tried = |(peer, attempt): (&PeerId, &Attempt)| Tried {
            peer: peer.to_string(),
            attempt: *attempt,
        };
        lock(&self.said).iter().map(tried).collect()
    }
}

/// A block that is wanted: peers are asked whether they have it.
struct Wanted<'a> {
    shared: &'a Shared,
    id: BlockId,
}

impl<'a> Wanted<'a> {
    fn new(shared: &'a Shared, id: BlockId) -> Self {
        lock(&shared.peers).crowd.begin(id);
        Self { shared, id }
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        lock(&self.shared.peers).crowd.end(&self.id);
    }
}

/// Next step for a block.
enum Next {
    Ask(Request),
    /// Another peer is about to have it, or to have time for it.
    Wait,
    /// No peer can be asked now.
    Nobody,
}

/// Whether a block waits for another peer to bring it in.
#[derive(Default)]
struct Waits {
    is_waiting: bool,
}

impl Waits {
    fn end(&mut self, crowd: &mut Crowd, in_vain: bool, now: Duration) {
        if std::mem::take(&mut self.is_waiting) {
            crowd.waited(in_vain, now);
        }
    }
}

type Answer = (PeerId, Result<Block, Failed>);

/// One block of a session, from the first look at the network on.
pub(super) struct Fetch<'a> {
    session: &'a Session,
    id: BlockId,
    /// When the reader asked.
    start: Instant,
    /// When it was this session's turn to fetch.
    began: Instant,
    patience: Duration,
    under_way: &'a Arc<UnderWay>,
    _wanted: Wanted<'a>,
    waits: Waits,
    /// Peers that are not asked again, for now or at all.
    tried: BTreeMap<PeerId, Attempt>,
    attempts: FuturesUnordered<AbortOnDropHandle<Answer>>,
    /// Counts the bytes of all attempts.
    arrivals: Arc<Arrivals>,
    heard_bytes: u64,
    /// When a peer was last asked, or a byte last came.
    heard_at: Instant,
    /// When a peer was last asked, or enough had come since the time before; the bytes by then.
    enough_at: Instant,
    enough_bytes: u64,
    search: Option<JoinHandle<()>>,
    next_search: Instant,
    pause: Duration,
    /// Asks the peers that have connected since the search before.
    greeting: Option<JoinHandle<()>>,
    known: HashSet<PeerId>,
}

impl<'a> Fetch<'a> {
    pub(super) fn new(
        session: &'a Session,
        id: BlockId,
        start: Instant,
        under_way: &'a Arc<UnderWay>,
    ) -> Self {
        let now = Instant::now();
        Self {
            session,
            id,
            start,
            began: now,
            patience: session.patience_now(),
            under_way,
            _wanted: Wanted::new(&session.shared, id),
            waits: Waits::default(),
            tried: BTreeMap::new(),
            attempts: FuturesUnordered::new(),
            arrivals: Arc::new(Arrivals::part_of(session.shared.arrivals.clone())),
            heard_bytes: 0,
            heard_at: now,
            enough_at: now,
            enough_bytes: 0,
            search: None,
            next_search: now,
            pause: FIRST_PAUSE,
            greeting: None,
            known: HashSet::new(),
        }
    }

    /// Fetches the block and keeps it.
    pub(super) async fn run(mut self) -> Result<Block, GetError> {
        let mut connected = self.session.depot.inner.net.peers().watch_connected();
        self.known = connected.borrow_and_update().iter().copied().collect();
        let session = self.session;
        loop {
            let mut changed = pin!(session.shared.changed.notified());
            // Listens from here on: what changes while we look at the roster is not missed.
            changed.as_mut().enable();
            self.act();
            if self.is_over() {
                return Err(session.give_up(self.id, self.start, self.under_way));
            }
            tokio::select! {
                () = session.stop.cancelled() => return Err(GetError::Stopping),
                Some(Ok((peer, answer))) = self.attempts.next(), if !self.attempts.is_empty() => {
                    match answer {
                        Ok(block) => return session.accept(self.id, peer, block).await,
                        Err(failed) => self.failed(peer, failed),
                    }
                }
                () = ended(&mut self.search), if self.search.is_some() => {
                    self.search = None;
                    self.next_search = Instant::now() + self.pause;
                    self.pause = (2 * self.pause).min(MAX_PAUSE);
                    // A peer that could not be reached or was not there yet may be by now.
                    self.tried.retain(|_, attempt| is_final(*attempt));
                }
                () = ended(&mut self.greeting), if self.greeting.is_some() => {
                    self.greeting = None;
                }
                Ok(()) = connected.changed(), if self.greeting.is_none() => {
                    let now_connected = connected.borrow_and_update().clone();
                    self.greet(&now_connected);
                }
                () = changed => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// A peer did not give the block. One that gave a piece of it may be asked for the rest; one
    /// that was too slow while bytes came from others is loaded, and may be asked when nobody else
    /// can be.
    fn failed(&mut self, peer: PeerId, failed: Failed) {
        let Failed { attempt, gave_some } = failed;
        let is_loaded = attempt == Attempt::TimedOut && self.session.is_flowing(ATTEMPT_TIMEOUT);
        self.note(peer, attempt);
        if gave_some || is_loaded {
            self.tried.insert(peer, Attempt::Busy);
        }
    }

    fn note(&mut self, peer: PeerId, attempt: Attempt) {
        self.tried.insert(peer, attempt);
        self.under_way.note(peer, attempt);
    }

    /// Asks a peer or looks for peers, if it is time to.
    fn act(&mut self) {
        let now = Instant::now();
        let bytes = self.arrivals.bytes();
        if bytes != self.heard_bytes {
            (self.heard_bytes, self.heard_at) = (bytes, now);
        }
        if bytes >= self.enough_bytes + TRICKLE_BYTES {
            (self.enough_bytes, self.enough_at) = (bytes, now);
        }
        let trickles = now.duration_since(self.enough_at) >= TRICKLE;
        let is_silent = trickles || now.duration_since(self.heard_at) >= self.hedge_after();
        let is_idle = self.attempts.is_empty();
        if !(is_idle || is_silent && self.attempts.len() < MAX_ATTEMPTS_AT_ONCE) {
            return;
        }
        match self.choose(is_idle.then(|| now.duration_since(self.began))) {
            Next::Ask(request) => {
                // While this request is under way the peer counts as tried, so that a second one
                // goes elsewhere.
                self.note(request.peer, Attempt::TimedOut);
                self.attempts.push(self.ask(request));
                (self.heard_at, self.enough_at, self.enough_bytes) = (now, now, bytes);
            }
            Next::Nobody
                if self.search.is_none() && now >= self.next_search && self.needs_others() =>
            {
                self.search = Some(self.look_for(None));
            }
            Next::Wait | Next::Nobody => {}
        }
    }

    /// Asks one peer and checks what comes, in a task of its own: the permits that it waits for are
    /// shared with other reads, and a reader that is not polled for a while (a stream whose
    /// consumer is busy) must not sit on one that was handed to it.
    fn ask(&self, request: Request) -> AbortOnDropHandle<Answer> {
        let (inner, began) = (self.session.depot.inner.clone(), self.session.began);
        let (under_way, arrivals) = (self.under_way.clone(), self.arrivals.clone());
        let work = request.run(inner, under_way, self.id, began, arrivals);
        AbortOnDropHandle::new(tokio::spawn(work))
    }

    fn look_for(&self, newcomers: Option<Vec<PeerId>>) -> JoinHandle<()> {
        let tried = self.tried.keys().copied().collect();
        let under_way = self.under_way.clone();
        self.session.search(self.id, under_way, newcomers, tried)
    }

    /// Asks peers that have connected just now, unless somebody is about to give the block.
    fn greet(&mut self, connected: &[PeerId]) {
        let is_new = |peer: &&PeerId| !self.known.contains(peer);
        let newcomers: Vec<PeerId> = connected.iter().filter(is_new).copied().collect();
        self.known = connected.iter().copied().collect();
        for peer in &newcomers {
            // It is back: what was said of it is over.
            if self.tried.get(peer) == Some(&Attempt::Unreachable) {
                self.tried.remove(peer);
            }
        }
        if !newcomers.is_empty() && self.attempts.is_empty() {
            // With a new peer the DHT is worth another question, too.
            self.pause = FIRST_PAUSE;
            self.next_search = self.next_search.min(Instant::now() + FIRST_PAUSE);
            self.greeting = Some(self.look_for(Some(newcomers)));
        }
    }

    /// With a limit, silence is mostly our own doing, and a second copy of a block would take the
    /// place of another block.
    fn hedge_after(&self) -> Duration {
        let exchange = self.session.depot.inner.net.exchange();
        match exchange.pace().is_limited() {
            true => LIMITED_HEDGE_AFTER,
            false => HEDGE_AFTER,
        }
    }

    /// Whether a peer that was asked, or is known to have the block, may still give it.
    fn has_later(&self) -> bool {
        let peers = lock(&self.session.shared.peers);
        peers.roster.has_later(&self.tried, |_| Some(()))
    }

    /// Whether waiting for the known peers is not enough: none of them may still give the block, or
    /// it takes them too long.
    fn needs_others(&self) -> bool {
        self.began.elapsed() >= self.hedge_after() || !self.has_later()
    }

    fn is_over(&self) -> bool {
        if self.start.elapsed() < self.patience {
            return false;
        }
        let may_come = !self.attempts.is_empty() || self.has_later();
        !(may_come && self.session.is_flowing(self.patience))
    }

    /// Which peer to ask for the block. `waited`: how long nobody has been asked for it; nothing
    /// while a peer is silent.
    fn choose(&mut self, waited: Option<Duration>) -> Next {
        let now = self.session.began.elapsed();
        let (id, tried, waits) = (self.id, &mut self.tried, &mut self.waits);
        let mut peers = lock(&self.session.shared.peers);
        let Peers { roster, crowd } = &mut *peers;
        // A peer that did not have it may have got it.
        tried.retain(|peer, attempt| {
            *attempt != Attempt::DontHave || crowd.standing(peer, &id) != Standing::Holder
        });
        let rank =
            |peer: &PeerId| Some(crowd.standing(peer, &id)).filter(|s| *s != Standing::Without);
        let peer = match roster.choose(tried, now, rank) {
            Some(peer) if rank(&peer) == Some(Standing::Holder) => {
                waits.end(crowd, false, now);
                peer
            }
            Some(peer) => {
                let is_holder = |peer: &PeerId| rank(peer).filter(|s| *s == Standing::Holder);
                let is_held = roster.has_later(tried, is_holder);
                let wait = match is_held {
                    true => crowd.wait(),
                    false => crowd.wait_for(&id, now),
                };
                if waited.is_some_and(|waited| waited < wait) {
                    // That a holder has much to do says nothing against waiting for others.
                    waits.is_waiting |= !is_held;
                    return Next::Wait;
                }
                waits.end(crowd, true, now);
                peer
            }
            // A peer that has it has much to do.
            None if roster.has_later(tried, rank) => return Next::Nobody,
            // Nobody is known to have it.
            None => match roster.choose(tried, now, |_| Some(())) {
                Some(peer) => peer,
                None => return Next::Nobody,
            },
        };
        roster.asked(peer);
        Next::Ask(Request::new(self.session.shared.clone(), peer))
    }
}

/// Whether a later search changes nothing about what a peer said.
fn is_final(attempt: Attempt) -> bool {
    matches!(
        attempt,
        Attempt::DontHave | Attempt::WrongBytes | Attempt::TimedOut | Attempt::RateTooLow { .. }
    )
}

/// Waits for the end of a task; for ever if there is none.
async fn ended(task: &mut Option<JoinHandle<()>>) {
    match task {
        Some(task) => drop(task.await),
        None => std::future::pending().await,
    }
}
