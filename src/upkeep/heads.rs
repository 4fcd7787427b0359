//! Looks after the owners' heads that this node keeps: finds newer ones, keeps the logs that they
//! name, and tells other keepers what is new; and announces this node at a place of each (`places`),
//! so that a backup is found even when its owner has been away for years.
//!
//! For each kept head there is one pin, named after it, of the log blocks: those of the newest
//! entries, and those of earlier ones as far as they can be had. When the logs change, a new pin is
//! made before the old one is removed. As long as a newest log can't be had, the logs of before
//! stay pinned besides.
//!
//! A head that is kept because its owner's backups are leased here has a lease of its own in the pin's place (`hold`): its logs count within what is lent,
//! and are fetched only while there is room. It is let go some time after the owner's last lease has ended here (`policy`).
//!
//! The pin outlives the list of kept heads should that be damaged: a pin without its head brings the head back. Hence a head that is
//! released loses its pin without any network. Released while the node is about to stop, it may come back; release it again.
//!
//! Deliberately absent: which other heads to keep; and what the logs say, which this node can't read.

mod hold;
mod places;
mod policy;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::hold::{HeadHold, Hold, Reason};
use self::policy::{Action, Facts, Leased, Owed};
use crate::block::{BlockSource, GetError};
use crate::depot::Depot;
use crate::head::{HeadEntry, HeadRecord, MAX_ENTRIES, head_id};
use crate::id::BlockId;
use crate::lease::Held;
use crate::store::{self, PinInfo, Store};
use crate::task::WorkerState;
use crate::text::count;
use crate::time::{Clock, Timestamp};
use crate::upkeep::revoked;

pub use hold::{is_head_lease, keep_for_ours};
pub(in crate::upkeep) use hold::{keep_for_leases, leased_logs};
pub use policy::GRACE;

/// How often every head is looked after.
pub const EVERY: Duration = Duration::from_secs(3600);
/// How often other keepers of a head are looked for in the DHT.
const WIDE_EVERY: Duration = Duration::from_secs(6 * 3600);
/// How long to wait for a first peer before looking again.
const LONELY: Duration = Duration::from_secs(2);
/// Time to look for a newest log.
const PATIENCE: Duration = Duration::from_secs(60);
/// The part of that for which an earlier log is looked for: it is often gone everywhere.
const EARLIER_PART: u32 = 12;
/// Heads that are looked after at the same time.
const HEADS_AT_ONCE: usize = 4;
/// Logs of one head that are fetched at the same time.
const LOGS_AT_ONCE: usize = 4;

/// Logs that one head's pin has at most: those of now, and as long as some of them are missing those of before.
pub const MAX_PINNED_LOGS: usize = 2 * MAX_ENTRIES;

/// Why a head could not be looked after.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The network.
    #[error(transparent)]
    Net(#[from] crate::net::providers::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Some logs can't be had now.
    #[error("{} found nowhere, such as {first}", count(*.missing as u64, "log"))]
    Missing {
        /// How many.
        missing: usize,
        /// One of them.
        first: BlockId,
    },
    /// The logs of an owner whose backups are leased here don't fit into what is lent.
    #[error("there is no room among what is lent for {}, such as {first}", count(*.missing as u64, "log"))]
    Full {
        /// How many.
        missing: usize,
        /// One of them.
        first: BlockId,
    },
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// Tells the head of this machine's own owner, if there is one. May read a file.
pub type OwnHead = Arc<dyn Fn() -> Option<BlockId> + Send + Sync>;

/// Tells whether somebody else keeps backups of this machine.
pub type HasHolder = Arc<dyn Fn() -> bool + Send + Sync>;

/// Parts that the job works with.
pub struct Setup {
    /// Store and network.
    pub depot: Depot,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Most bytes of blocks that only leases keep, those of owners among them.
    pub lent_bytes: watch::Receiver<u64>,
    /// The head of this machine's own owner.
    pub own: OwnHead,
    /// Whether somebody else keeps backups of this machine.
    pub has_holder: HasHolder,
}

/// Name of the pin of a head's logs.
pub fn pin_name(head: &BlockId) -> String {
    format!("head {}", &head.to_hex()[..8])
}

/// Whether a pin's name is one of those that pins of heads' logs have.
pub(in crate::upkeep) fn is_head_pin_name(name: &str) -> bool {
    let number = name.strip_prefix("head ");
    let is_digit = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    number.is_some_and(|number| number.len() == 8 && number.chars().all(is_digit))
}

/// Whether a pin is of a head's logs. Its root is then no block: it is the head's name.
pub fn is_head_pin(info: &PinInfo) -> bool {
    info.link.is_none() && info.name == pin_name(&info.root)
}

/// Runs until cancelled: once for each head at the start, when it is kept and when it names other logs, and every [`EVERY`].
pub async fn run(setup: Setup, cancel: CancellationToken, state: Arc<WorkerState>) {
    let depot = &setup.depot;
    let announcing = places::run(&setup, &state);
    let work = async {
        let keeper = Keeper {
            setup: &setup,
            depot,
            patience: PATIENCE,
        };
        let mut changes = depot.net().heads().watch_kept();
        let mut seen = Seen::default();
        let mut next = Instant::now();
        loop {
            if next <= Instant::now() {
                seen.done.clear();
                next = Instant::now() + EVERY;
            }
            changes.mark_unchanged();
            let again = match keeper.round(&mut seen, &state).await {
                Ok(Round::Done) => next,
                Ok(Round::Lonely) => Instant::now(),
                Err(error) => {
                    state.fail(error.to_string());
                    next
                }
            };
            let wait = async {
                tokio::time::sleep_until(again).await;
                // Another round would find nothing to do.
                while depot.net().peers().connected().is_empty() && Instant::now() < next {
                    tokio::time::sleep(LONELY).await;
                }
            };
            tokio::select! {
                () = wait => {}
                // The sender lives as long as the depot's net.
                _ = changes.changed() => {}
            }
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = work => {}
        () = announcing => {}
    }
}

struct Keeper<'a> {
    setup: &'a Setup,
    depot: &'a Depot,
    patience: Duration,
}

/// What earlier rounds have seen.
#[derive(Default)]
struct Seen {
    /// Heads that were kept in this run.
    kept: BTreeSet<BlockId>,
    /// Heads that were kept because of leases in this run.
    leased: BTreeSet<BlockId>,
    /// Heads that are over by the clock, and since when that is seen.
    over: BTreeMap<BlockId, Instant>,
    /// Heads that were looked after in this hour, and the logs that they named then.
    done: HashMap<BlockId, BTreeSet<BlockId>>,
    /// When other keepers of each head were last looked for in the DHT.
    wide: HashMap<BlockId, Instant>,
}

impl Seen {
    /// Whether other keepers of a head are to be looked for in the DHT now.
    fn is_to_look_wide(&mut self, head: BlockId, now: Instant) -> bool {
        let last = self.wide.get(&head);
        let is_due = last.is_none_or(|last| now.duration_since(*last) >= WIDE_EVERY);
        if is_due {
            self.wide.insert(head, now);
        }
        is_due
    }
}

/// How a round ended.
enum Round {
    Done,
    /// There is no peer yet, so nothing was done.
    Lonely,
}

/// A head, and why it is looked after.
#[derive(Clone, Copy)]
struct Charge {
    head: BlockId,
    is_kept: bool,
    reason: Reason,
    /// Whether other keepers are looked for in the DHT, too.
    is_wide: bool,
}

impl Keeper<'_> {
    /// Looks after every kept head, unless it was looked after in this hour.
    async fn round(&self, seen: &mut Seen, state: &WorkerState) -> Result<Round, Error> {
        let charges = self.charges(seen).await?;
        let mut due = Vec::new();
        for charge in &charges {
            let id = charge.head;
            self.note_revoked(id).await?;
            // One that names other logs by now is looked after again at once: without its log, the newest head is worth nothing.
            let is_due = match seen.done.get(&id) {
                None => true,
                Some(logs) => charge.is_kept && self.logs(id).await? != *logs,
            };
            if is_due {
                let is_wide = seen.is_to_look_wide(id, Instant::now());
                due.push(Charge { is_wide, ..*charge });
            }
        }
        let of_leases = charges.iter().filter(|one| one.reason != Reason::Ours);
        let heads = count(charges.len() as u64, "head");
        state.set(match of_leases.count() {
            0 => format!("looking after {heads}"),
            leased => format!("looking after {heads}, {leased} of them for leases"),
        });
        if due.is_empty() {
            return Ok(Round::Done);
        }
        if self.depot.net().peers().connected().is_empty() {
            state.set("waiting for a first peer");
            return Ok(Round::Lonely);
        }
        let mut looked = futures::stream::iter(due)
            .map(|charge| async move { (charge.head, self.look_after(charge).await) })
            .buffer_unordered(HEADS_AT_ONCE);
        let mut failed = None;
        while let Some((id, result)) = looked.next().await {
            seen.done.insert(id, self.logs(id).await?);
            if let Err(error) = result {
                tracing::warn!(head = %id, %error, "a head could not be looked after");
                failed = Some(error);
            }
        }
        failed.map_or(Ok(Round::Done), Err)
    }

    /// Has the holder of leases know which machines the head turns out.
    async fn note_revoked(&self, id: BlockId) -> Result<(), Error> {
        let Some(head) = self.depot.net().heads().local(id).await? else {
            return Ok(());
        };
        if head.decisions().is_empty() {
            return Ok(());
        }
        self.on_store(move |store| revoked::note(store.records(), &head))
            .await
    }

    /// Which heads are to be looked after, and why. What is not to be kept any more is let go.
    async fn charges(&self, seen: &mut Seen) -> Result<Vec<Charge>, Error> {
        let mut facts = self.facts(seen).await?;
        let now = self.setup.clock.now();
        for action in policy::choose(now, &facts) {
            self.act(action, &mut facts).await?;
        }
        let is_known = |head: &BlockId| facts.kept.contains(head);
        let released = facts.pinned.iter().filter(|head| !is_known(head));
        let released = released.filter(|head| facts.were_kept.contains(head));
        let released: BTreeSet<BlockId> = released.copied().collect();
        for hold in self.holds().await? {
            if hold.reason == Reason::Ours && released.contains(&hold.head) {
                self.remove(hold.hold).await?;
            }
        }
        facts.pinned.retain(|head| !released.contains(head));
        let is_leased = |head: &BlockId| !facts.is_ours(head) && facts.leased.contains_key(head);
        seen.leased = facts.leased.keys().copied().filter(is_leased).collect();
        seen.wide.retain(|head, _| facts.kept.contains(head));
        seen.kept = facts.kept.clone();
        let mut all: BTreeSet<BlockId> = facts.kept.union(&facts.pinned).copied().collect();
        // What is over and not kept any more needs no looking for.
        let is_over = |leased: &Leased| leased.over_for.is_some();
        let leased = facts.leased.iter().filter(|(_, leased)| !is_over(leased));
        all.extend(leased.map(|(head, _)| *head));
        let charges = all.into_iter().map(|head| {
            let leased = facts.leased.get(&head).filter(|_| is_leased(&head));
            Charge {
                head,
                is_kept: facts.kept.contains(&head),
                is_wide: false,
                reason: leased.map_or(Reason::Ours, |leased| Reason::Leases(leased.until)),
            }
        });
        Ok(charges.collect())
    }

    async fn facts(&self, seen: &mut Seen) -> Result<Facts, Error> {
        let kept = self.depot.net().heads().kept().await?;
        let own = self.setup.own.clone();
        let own = tokio::task::spawn_blocking(move || own()).await;
        let mut facts = Facts {
            kept: kept.into_iter().collect(),
            own: own.map_err(|_| Error::Stopping)?,
            owed: self.on_store(owed).await?,
            were_kept: seen.kept.clone(),
            were_leased: seen.leased.clone(),
            ..Facts::default()
        };
        let (now, uptime) = (self.setup.clock.now(), Instant::now());
        let before = std::mem::take(&mut seen.over);
        for hold in self.holds().await? {
            let Reason::Leases(until) = hold.reason else {
                facts.pinned.insert(hold.head);
                continue;
            };
            let over_for = (until <= now).then(|| {
                let since = before.get(&hold.head).copied().unwrap_or(uptime);
                seen.over.insert(hold.head, since);
                uptime.saturating_duration_since(since)
            });
            let leased = Leased {
                until,
                made: hold.made,
                over_for,
            };
            // Of two, which a crash leaves behind, the one that lasts longer.
            let known = facts.leased.entry(hold.head).or_insert(leased);
            if known.until < until {
                *known = leased;
            }
        }
        Ok(facts)
    }

    async fn act(&self, action: Action, facts: &mut Facts) -> Result<(), Error> {
        let now = self.setup.clock.now();
        let leased = |until| Leased {
            until,
            made: now,
            over_for: None,
        };
        match action {
            Action::Keep(head, until) => {
                let said =
                    self.on_store(move |store| hold::keep_for_leases(store, head, until, now));
                if said.await? {
                    facts.leased.insert(head, leased(until));
                }
            }
            Action::Change(head, until) => {
                for hold in self.holds_of(head).await? {
                    let Hold::Lease(_) = hold.hold else { continue };
                    let size = (hold.logs.len() as u64, hold.bytes);
                    self.on_store(move |store| {
                        let reason = Reason::Leases(until);
                        hold.hold.finish(store, head, reason, size, now)
                    })
                    .await?;
                }
                facts.leased.insert(head, leased(until));
            }
            Action::LetGo(head) => {
                tracing::info!(%head, "a head is kept no more: its owner has no leases here");
                // First the head: with its lease it would come back, without it would stay.
                self.depot.net().heads().release(head).await?;
                for hold in self.holds_of(head).await? {
                    if let Hold::Lease(_) = hold.hold {
                        self.remove(hold.hold).await?;
                    }
                }
                facts.kept.remove(&head);
                facts.leased.remove(&head);
            }
        }
        Ok(())
    }

    /// The logs that a head names as it is known here.
    async fn logs(&self, id: BlockId) -> Result<BTreeSet<BlockId>, Error> {
        let record = self.depot.net().heads().local(id).await?;
        let entries = record.iter().flat_map(HeadRecord::entries);
        Ok(entries.map(HeadEntry::log_id).collect())
    }

    async fn look_after(&self, charge: Charge) -> Result<(), Error> {
        let (id, keepers) = (charge.head, self.depot.heads());
        // What is found is merged into what is kept, and told to keepers that lack it, there and
        // then.
        let found = match charge.is_wide {
            true => keepers.find(id).await?,
            false => keepers.find_near(id).await?,
        };
        let Some(record) = found else {
            return Ok(());
        };
        if !charge.is_kept {
            // It was not found before, or only its pin is left, from a list of kept heads that was lost.
            self.depot.net().heads().keep(record.clone()).await?;
        }
        self.hold_logs(id, &record, charge.reason).await
    }

    /// Brings what holds a head's logs in line with its record.
    async fn hold_logs(
        &self,
        id: BlockId,
        record: &HeadRecord,
        reason: Reason,
    ) -> Result<(), Error> {
        let newest = record.newest().map(HeadEntry::log_id);
        let newest: BTreeSet<BlockId> = newest.collect();
        let logs: BTreeSet<BlockId> = record.entries().map(HeadEntry::log_id).collect();
        let old = self.holds_of(id).await?;
        let before: BTreeSet<BlockId> = old.iter().flat_map(|hold| hold.logs.clone()).collect();
        let is_same = old.len() == 1 && old.iter().all(|hold| hold.is_for(reason));
        if is_same && before == logs {
            return Ok(());
        }
        let now = self.setup.clock.now();
        let begun = self.on_store(move |store| Hold::begin(store, id, reason, now));
        let hold = begun.await?;
        let fill = Fill {
            id,
            hold,
            reason,
            logs: &logs,
            newest: &newest,
            before: &before,
            may_stay: is_same || old.is_empty(),
        };
        match self.fill(fill).await {
            Ok(Filled { replaces, result }) => {
                for old in old.into_iter().filter(|_| replaces) {
                    self.remove(old.hold).await?;
                }
                result
            }
            Err(error) => {
                // What came stays, cached.
                self.remove(hold).await?;
                Err(error)
            }
        }
    }

    /// Fetches the logs for what is to hold them and makes that last, unless it would keep no more than the old one.
    async fn fill(&self, fill: Fill<'_>) -> Result<Filled, Error> {
        let Fill {
            id,
            hold,
            reason,
            logs,
            newest,
            before,
            may_stay,
        } = fill;
        let session = self.depot.session(self.patience, hold.keep());
        let patience = self.patience / EARLIER_PART;
        let glance = self.depot.session(patience, hold.keep());
        let mut wanted: Vec<BlockId> = newest.iter().copied().collect();
        wanted.extend(logs.difference(newest));
        let mut fetched = futures::stream::iter(wanted)
            .map(|log| {
                let session = match newest.contains(&log) {
                    true => session.clone(),
                    false => glance.clone(),
                };
                async move {
                    // How large a log is shows when it is here. While there is no room at all, none is looked for.
                    if !self.fits(hold, log, 1).await? {
                        return Ok((log, None));
                    }
                    Ok::<_, Error>((log, Some(session.get(log).await)))
                }
            })
            .buffer_unordered(LOGS_AT_ONCE);
        let (mut here, mut bytes, mut no_room) = (BTreeSet::new(), 0, false);
        while let Some(next) = fetched.next().await {
            let (log, block) = next?;
            match block {
                None => no_room = true,
                Some(Ok(block)) => {
                    let size = block.bytes().len() as u64;
                    if !self.fits(hold, log, size).await? {
                        no_room = true;
                        continue;
                    }
                    // What was here before came without the pin.
                    let gone = self.on_store(move |store| hold.add(store, &[log])).await?;
                    if gone.is_empty() {
                        here.insert(log);
                        bytes += size;
                    }
                }
                Some(Err(GetError::Stopping)) => return Err(Error::Stopping),
                Some(Err(error)) => {
                    tracing::debug!(head = %id, %log, %error, "a log is not to be had");
                }
            }
        }
        let missing = newest.difference(&here).count();
        let result = match newest.difference(&here).next().copied() {
            None => Ok(()),
            Some(first) if no_room => Err(Error::Full { missing, first }),
            Some(first) => Err(Error::Missing { missing, first }),
        };
        let is_no_gain = here == *before || (result.is_err() && here.is_subset(before));
        if is_no_gain && may_stay {
            self.remove(hold).await?;
            return Ok(Filled {
                replaces: false,
                result,
            });
        }
        if result.is_err() {
            // Bounded, so that an owner whose logs are never to be had does not fill the disk.
            let stay: Vec<_> = before.iter().copied().take(MAX_ENTRIES).collect();
            here.extend(&stay);
            self.on_store(move |store| hold.add(store, &stay)).await?;
        }
        let size = (here.len() as u64, bytes);
        let now = self.setup.clock.now();
        self.on_store(move |store| hold.finish(store, id, reason, size, now))
            .await?;
        Ok(Filled {
            replaces: true,
            result,
        })
    }

    /// Whether a log may be kept: what is lent is a limit for logs as for all that leases keep.
    async fn fits(&self, hold: Hold, log: BlockId, bytes: u64) -> Result<bool, Error> {
        if let Hold::Pin(_) = hold {
            return Ok(true);
        }
        let lent = *self.setup.lent_bytes.borrow();
        self.on_store(move |store| {
            let stat = store.stat(log)?;
            let costs_nothing = stat.is_some_and(|stat| stat.pins + stat.leases > 0);
            Ok(costs_nothing || store.usage().leased_bytes.saturating_add(bytes) <= lent)
        })
        .await
    }

    /// What holds logs of heads.
    async fn holds(&self) -> Result<Vec<HeadHold>, Error> {
        self.on_store(hold::holds).await
    }

    /// What holds logs of one head.
    async fn holds_of(&self, head: BlockId) -> Result<Vec<HeadHold>, Error> {
        let mut holds = self.holds().await?;
        holds.retain(|hold| hold.head == head);
        Ok(holds)
    }

    async fn remove(&self, hold: Hold) -> Result<(), Error> {
        self.on_store(move |store| hold.remove(store)).await
    }

    async fn on_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Store) -> Result<T, store::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let store = self.depot.store().clone();
        let done = tokio::task::spawn_blocking(move || work(store.as_ref())).await;
        Ok(done.map_err(|_| Error::Stopping)??)
    }
}

/// The heads of owners who have leases here, and how long those last.
fn owed(store: &dyn Store) -> Result<BTreeMap<BlockId, Owed>, store::Error> {
    let mut of_owner: HashMap<[u8; 32], Owed> = HashMap::new();
    for (_, info) in store.leases()? {
        // What can't be read says nothing of an owner.
        let Ok(held) = Held::decode(&info.terms) else {
            continue;
        };
        let owed = of_owner.entry(*held.lease().owner()).or_insert(Owed {
            until: Timestamp(0),
            is_whole: false,
        });
        owed.until = owed.until.max(info.until);
        owed.is_whole |= info.complete;
    }
    let of_owner = of_owner.into_iter();
    Ok(of_owner
        .map(|(owner, owed)| (head_id(&owner), owed))
        .collect())
}

/// What is to be filled.
struct Fill<'a> {
    id: BlockId,
    hold: Hold,
    reason: Reason,
    logs: &'a BTreeSet<BlockId>,
    /// Logs of the newest entries.
    newest: &'a BTreeSet<BlockId>,
    /// The logs that are held already.
    before: &'a BTreeSet<BlockId>,
    /// Whether it may stay as it is: nothing holds them, or one of the same kind.
    may_stay: bool,
}

/// What filling came to.
struct Filled {
    /// Whether the new one was finished and the old ones are of no more use.
    replaces: bool,
    result: Result<(), Error>,
}

#[cfg(test)]
#[path = "heads_tests.rs"]
mod tests;
