//! Announces ports of other programs until their time is over.
//!
//! Each is an entry on the store's shelf, so that it outlives a restart: an identifier, a port, and
//! the time at which it ends. While the node runs it is announced again in good time, and soon
//! after this node's addresses change. When it has ended, this node no longer answers for the
//! identifier, unless it has a block of that name.
//!
//! Deliberately absent: what is told to other nodes and how (`net::providers`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::Message;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::announce::{FIRST_RETRY, Moves, PERIOD, pause_after};
use crate::depot::Depot;
use crate::id::BlockId;
use crate::net::providers::{self, AnnounceReport, MAX_SERVICES};
use crate::store::{self, RecordTable};
use crate::task::WorkerState;
use crate::text::count;
use crate::time::{Clock, Timestamp};
use crate::wire::dht;

/// Version of the stored entries.
const VERSION: u32 = 1;
/// Longest pause between two looks: the clock may be set meanwhile.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// Pause before looking for a first peer again.
const LONELY: Duration = Duration::from_secs(2);

/// Why a port could not be announced.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There are as many as a node announces.
    #[error("this node announces ports under {MAX_SERVICES} identifiers at most")]
    TooMany,
    /// The shelf failed.
    #[error("what is announced could not be written down")]
    Store(#[from] store::Error),
    /// The network failed.
    #[error(transparent)]
    Net(#[from] providers::Error),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// A port that is announced under an identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// The identifier.
    pub id: BlockId,
    /// Where another program of this host listens.
    pub port: u16,
    /// When the announcement ends.
    pub until: Timestamp,
}

/// When an offer is announced next, and how often in a row nobody could be told.
#[derive(Debug, Clone, Copy)]
struct Turn {
    at: Instant,
    failures: u32,
}

impl Turn {
    /// The turn after one in which everybody was told, or nobody.
    fn after(before: Option<Self>, was_told: bool, now: Instant) -> Self {
        if was_told {
            let failures = 0;
            let at = now + PERIOD;
            return Self { at, failures };
        }
        let failures = before.map_or(0, |before| before.failures);
        Self {
            at: now + pause_after(failures),
            failures: failures.saturating_add(1),
        }
    }
}

/// The ports that this node announces.
pub struct Services {
    depot: Depot,
    clock: Arc<dyn Clock>,
    turns: Mutex<HashMap<BlockId, Turn>>,
    changed: Notify,
}

impl Services {
    /// Services on the store's shelf.
    pub fn new(depot: Depot, clock: Arc<dyn Clock>) -> Self {
        Self {
            depot,
            clock,
            turns: Mutex::default(),
            changed: Notify::new(),
        }
    }

    fn turns(&self) -> MutexGuard<'_, HashMap<BlockId, Turn>> {
        // Each change is one insertion or removal.
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All offers, also those that have just ended.
    async fn list(&self) -> Result<Vec<Offer>, Error> {
        let store = self.depot.store().clone();
        let scan = move || {
            store
                .records()
                .scan_prefix(RecordTable::Services, &[], None, MAX_SERVICES)
        };
        let entries = off_the_task(scan).await??;
        let offers = entries.iter().filter_map(|(key, value)| read(key, value));
        Ok(offers.collect())
    }

    /// Service that is announced under an identifier now.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn of(&self, id: BlockId) -> Result<Option<Offer>, Error> {
        let store = self.depot.store().clone();
        let key = id.to_multihash();
        let get = move || store.records().get(RecordTable::Services, &key);
        let entry = off_the_task(get).await??;
        let offer = entry.and_then(|value| read(&id.to_multihash(), &value));
        Ok(offer.filter(|offer| offer.until > self.clock.now()))
    }

    /// Announces `port` under some identifiers for so long, in place of what was announced under
    /// them before.
    ///
    /// # Errors
    /// [`Error`]. Some may be announced then.
    pub async fn announce(
        &self,
        ids: &[BlockId],
        port: u16,
        ttl: Duration,
    ) -> Result<(AnnounceReport, Timestamp), Error> {
        let until = self.clock.now().after(ttl);
        for id in ids {
            let offer = Offer {
                id: *id,
                port,
                until,
            };
            self.write(offer).await?;
        }
        let report = self.tell(ids).await?;
        self.changed.notify_one();
        Ok((report, until))
    }

    /// Ends what is announced under some identifiers, and tells those who were told.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn end(&self, ids: &[BlockId]) -> Result<AnnounceReport, Error> {
        let mut ended = Vec::new();
        for id in ids {
            let Some(mut offer) = self.of(*id).await? else {
                continue;
            };
            offer.until = self.clock.now();
            self.write(offer).await?;
            ended.push(*id);
        }
        let report = self.tell(&ended).await?;
        for id in ended {
            self.forget(id).await?;
        }
        Ok(report)
    }

    async fn write(&self, offer: Offer) -> Result<(), Error> {
        let key = offer.id.to_multihash();
        let providers = self.depot.net().providers();
        if !providers.set_port(key.clone(), offer.port, offer.until) {
            return Err(Error::TooMany);
        }
        let value = dht::StoredOffer {
            version: VERSION,
            port: offer.port.into(),
            until_ms: offer.until.0,
        };
        let store = self.depot.store().clone();
        let put = move || {
            let records = store.records();
            records.put(RecordTable::Services, &key, &value.encode_to_vec())
        };
        Ok(off_the_task(put).await??)
    }

    /// Announces identifiers and notes when to do so again.
    async fn tell(&self, ids: &[BlockId]) -> Result<AnnounceReport, Error> {
        let keys: Vec<Vec<u8>> = ids.iter().map(BlockId::to_multihash).collect();
        let told = self.depot.net().providers().announce(keys).await;
        let was_told = told.as_ref().is_ok_and(|report| report.keys_unreached == 0);
        let now = Instant::now();
        let mut turns = self.turns();
        for id in ids {
            let turn = Turn::after(turns.get(id).copied(), was_told, now);
            turns.insert(*id, turn);
        }
        Ok(told?)
    }

    /// Forgets an offer that has ended.
    async fn forget(&self, id: BlockId) -> Result<(), Error> {
        let key = id.to_multihash();
        let providers = self.depot.net().providers();
        providers.unset_port(&key);
        self.turns().remove(&id);
        let store = self.depot.store().clone();
        let entry = key.clone();
        let remove = move || -> Result<bool, store::Error> {
            store.records().remove(RecordTable::Services, &entry)?;
            store.has(id)
        };
        if off_the_task(remove).await?? {
            // Others have forgotten this node as a provider of the block, too.
            self.depot.fresh().add([id]);
        } else {
            providers.withdraw(vec![key]).await?;
        }
        Ok(())
    }

    /// Forgets what has ended and announces what is due. Gives back when to look again.
    async fn round(&self, state: &WorkerState) -> Result<Instant, Error> {
        let (now, here) = (self.clock.now(), Instant::now());
        let mut next = here + LONGEST_PAUSE;
        let (mut due, mut all) = (Vec::new(), 0_u64);
        for offer in self.list().await? {
            if offer.until <= now {
                self.forget(offer.id).await?;
                continue;
            }
            all += 1;
            next = next.min(here + offer.until.since(now));
            let providers = self.depot.net().providers();
            providers.set_port(offer.id.to_multihash(), offer.port, offer.until);
            match self.turns().get(&offer.id) {
                Some(turn) if turn.at > here => next = next.min(turn.at),
                _ => due.push(offer.id),
            }
        }
        if due.is_empty() {
            state.set(match all {
                0 => "nothing to announce".to_owned(),
                _ => format!("announcing {}", count(all, "port")),
            });
        } else if self.depot.net().peers().connected().is_empty() {
            state.set("waiting for a first peer");
            next = next.min(here + LONELY);
        } else {
            self.tell(&due).await?;
            state.set(format!("announcing {}", count(all, "port")));
            let turns = self.turns();
            let turns = due.iter().filter_map(|id| turns.get(id));
            next = turns.map(|turn| turn.at).fold(next, Instant::min);
        }
        Ok(next)
    }
}

/// Reads an entry; none of another version or form.
fn read(key: &[u8], value: &[u8]) -> Option<Offer> {
    let stored = dht::StoredOffer::decode(value).ok()?;
    let port = u16::try_from(stored.port).ok().filter(|port| *port != 0)?;
    (stored.version == VERSION).then_some(Offer {
        id: BlockId::from_multihash(key).ok()?,
        port,
        until: Timestamp(stored.until_ms),
    })
}

async fn off_the_task<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    // It fails only when the runtime is shutting down.
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Error::Stopping)
}

/// Runs until cancelled.
pub async fn run(services: Arc<Services>, cancel: CancellationToken, state: Arc<WorkerState>) {
    let mut moves = Moves::new(services.depot.net().watch_addresses());
    let rounds = async {
        loop {
            let next = services.round(&state).await.unwrap_or_else(|error| {
                state.fail(error.to_string());
                Instant::now() + FIRST_RETRY
            });
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = services.changed.notified() => {}
                () = moves.moved() => services.turns().clear(),
            }
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = rounds => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_other_forms_are_none() {
        let id = BlockId::from_sha384([7; 48]);
        let entry = |version, port| {
            let until_ms = 5;
            dht::StoredOffer {
                version,
                port,
                until_ms,
            }
            .encode_to_vec()
        };
        let key = id.to_multihash();
        let offer = Offer {
            id,
            port: 80,
            until: Timestamp(5),
        };
        assert_eq!(read(&key, &entry(VERSION, 80)), Some(offer));
        for value in [entry(VERSION, 0), entry(VERSION, 65_536), entry(2, 80)] {
            assert_eq!(read(&key, &value), None);
        }
        assert_eq!(read(&key[1..], &entry(VERSION, 80)), None);
        assert_eq!(read(&key, b"\xff"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn turns_come_before_the_records_end_and_failures_wait_longer() {
        let now = Instant::now();
        let turn = Turn::after(None, true, now);
        assert!(turn.at < now + providers::PROVIDER_TTL);
        let mut pauses = Vec::new();
        let mut turn = None;
        for _ in 0..12 {
            let next = Turn::after(turn, false, now);
            pauses.push(next.at - now);
            turn = Some(next);
        }
        assert!(pauses.is_sorted());
        assert_eq!((pauses[0], pauses[11]), (pause_after(0), pause_after(11)));
        assert_eq!(Turn::after(turn, true, now).failures, 0);
    }
}
