//! Announces this node at a place of each head that it keeps, so that whoever knows the head finds
//! it there: who has the owner's words, and the owner's machines and other holders.
//!
//! A head has a few places in the DHT, which change by the month. Each keeper takes one at which
//! nobody else is: so no key of the DHT has two keepers, and nobody who looks at keys and providers
//! sees that they have anything to do with each other. Keepers that take a place at the same moment
//! see each other when they announce it again: the one with the lower name moves on.
//!
//! This machine's own head is announced only while nobody else keeps its backups: holders are found
//! without the machine.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use futures::StreamExt;
use libp2p::PeerId;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Setup;
use crate::depot::Depot;
use crate::head::{PLACES, first_place, months_to_announce, place_key};
use crate::id::BlockId;
use crate::net::providers::Error;
use crate::task::WorkerState;
use crate::time::Timestamp;
use crate::upkeep::announce::Moves;

/// How often a place is announced again; announcements last twice as long.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(20 * 3600);
/// How often it is looked whether another month has begun, or the machine's own head is to be
/// announced.
const LOOK_EVERY: Duration = Duration::from_secs(10 * 60);
/// How long to wait for a first peer, and pause before what could be told to nobody is tried again.
const LONELY: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_secs(10);
/// How long others may be looked for at one place.
const LOOK_TIME: Duration = Duration::from_secs(15);
/// Others that are looked for at one place.
const MAX_OTHERS: usize = 4;

/// A head in a month.
type Spot = (BlockId, u64);

#[derive(Debug, Clone, Copy)]
struct Taken {
    place: u16,
    announced: Instant,
}

/// Runs for as long as it is polled.
pub(super) async fn run(setup: &Setup, state: &WorkerState) {
    let depot = &setup.depot;
    let mut changes = depot.net().heads().watch_kept();
    let mut moves = Moves::new(depot.net().watch_addresses());
    let mut places = Places::default();
    loop {
        changes.mark_unchanged();
        while depot.net().peers().connected().is_empty() {
            sleep(LONELY).await;
        }
        let pause = match places.look(setup).await {
            Ok(true) => LOOK_EVERY,
            Ok(false) => RETRY,
            Err(error) => {
                state.fail(error.to_string());
                LOOK_EVERY
            }
        };
        tokio::select! {
            () = sleep_until(Instant::now() + pause) => {}
            // The sender lives as long as the depot's net.
            _ = changes.changed() => {}
            // The announcements say where this node was.
            () = moves.moved() => places.forget_when(),
        }
    }
}

/// Places that this node has taken.
#[derive(Debug, Default)]
struct Places(HashMap<Spot, Taken>);

impl Places {
    /// All are to be announced again.
    fn forget_when(&mut self) {
        let long_ago = Instant::now().checked_sub(ANNOUNCE_EVERY);
        match long_ago {
            Some(long_ago) => {
                let all = self.0.values_mut();
                all.for_each(|taken| taken.announced = long_ago);
            }
            // The machine has not run for so long.
            None => self.0.clear(),
        }
    }

    /// Takes, announces and leaves places. Returns whether nothing is left to do.
    async fn look(&mut self, setup: &Setup) -> Result<bool, Error> {
        let depot = &setup.depot;
        let spots = spots(heads(setup).await?, setup.clock.now());
        let gone = self.0.extract_if(|spot, _| !spots.contains(spot));
        let gone: Vec<Vec<u8>> = gone
            .map(|((head, month), taken)| key(&head, month, taken.place))
            .collect();
        if !gone.is_empty() {
            depot.net().providers().withdraw(gone).await?;
        }
        let mut due = Vec::new();
        for (head, month) in spots {
            let before = self.0.get(&(head, month)).copied();
            if before.is_some_and(|taken| taken.announced.elapsed() < ANNOUNCE_EVERY) {
                continue;
            }
            let place = choose(depot, head, month, before.map(|taken| taken.place)).await;
            if let Some(left) = before.filter(|before| before.place != place) {
                let left = vec![key(&head, month, left.place)];
                depot.net().providers().withdraw(left).await?;
            }
            due.push((head, month, place));
        }
        let mut is_done = true;
        for (head, month, place) in due {
            // One by one: no peer is to be told of several heads at once.
            let told = depot.net().providers();
            let told = told.announce(vec![key(&head, month, place)]).await?;
            is_done &= told.peers_reached > 0;
            if told.peers_reached > 0 {
                let announced = Instant::now();
                self.0.insert((head, month), Taken { place, announced });
            }
        }
        Ok(is_done)
    }
}

/// The heads that this node is to be found by.
async fn heads(setup: &Setup) -> Result<Vec<BlockId>, Error> {
    let mut heads = setup.depot.net().heads().kept().await?;
    let (own, has_holder) = (setup.own.clone(), setup.has_holder.clone());
    let own = tokio::task::spawn_blocking(move || own().filter(|_| has_holder())).await;
    let quiet = own.map_err(|_| Error::Stopping)?;
    heads.retain(|head| Some(*head) != quiet);
    Ok(heads)
}

fn spots(heads: Vec<BlockId>, now: Timestamp) -> BTreeSet<Spot> {
    let months = months_to_announce(now);
    let spots = heads
        .iter()
        .flat_map(|head| months.iter().map(|month| (*head, *month)));
    spots.collect()
}

fn key(head: &BlockId, month: u64, place: u16) -> Vec<u8> {
    place_key(head, month, place).to_multihash()
}

/// A place at which nobody else is, from the one of before on. When there is none, the first one: a
/// peer that says so may lie.
async fn choose(depot: &Depot, head: BlockId, month: u64, before: Option<u16>) -> u16 {
    let local = depot.net().peer_id();
    let first = before.unwrap_or_else(|| first_place(&head, month, &local.to_bytes()));
    for step in 0..PLACES {
        let place = (first + step) % PLACES;
        let others = others(depot, key(&head, month, place)).await;
        let is_mine = step == 0 && before.is_some();
        if may_stay(&local, &others, is_mine) {
            return place;
        }
    }
    first
}

/// Whether a place is left to this node by others that are there. Of those that took it at the same
/// time, the one with the highest name stays.
fn may_stay(local: &PeerId, others: &[PeerId], is_mine: bool) -> bool {
    match is_mine {
        true => others.iter().all(|other| other < local),
        false => others.is_empty(),
    }
}

async fn others(depot: &Depot, key: Vec<u8>) -> Vec<PeerId> {
    let mut found = depot.net().providers().find(key, MAX_OTHERS);
    let mut others = Vec::new();
    let collect = async {
        while let Some(provider) = found.next().await {
            others.push(provider.peer);
        }
    };
    // Those that were found before the time was up count.
    let _ = timeout(LOOK_TIME, collect).await;
    others
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_at_one_place_one_stays() {
        let (a, b) = (PeerId::random(), PeerId::random());
        assert!(may_stay(&a, &[], false) && may_stay(&a, &[], true));
        assert!(!may_stay(&a, &[b], false), "it was there before");
        assert_ne!(may_stay(&a, &[b], true), may_stay(&b, &[a], true));
    }

    #[test]
    fn close_to_the_end_of_a_month_the_next_one_is_announced_too() {
        let (day, head) = (24 * 3600 * 1000_u64, BlockId::from_sha384([1; 48]));
        let at = |days| spots(vec![head], Timestamp(days * day));
        assert_eq!(at(60), BTreeSet::from([(head, 2)]));
        assert_eq!(at(89), BTreeSet::from([(head, 2), (head, 3)]));
        assert_eq!(at(90), BTreeSet::from([(head, 3)]));
    }
}
