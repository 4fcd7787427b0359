//! The job that offers what is asked for often.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use libp2p::PeerId;
use libp2p::kad::KBucketKey;
use tokio_util::sync::CancellationToken;

use super::policy::{self, Facts, Heard, HotBlock, Ledger, Limits, Offer};
use crate::depot::demand::Hot;
use crate::depot::{Depot, Traffic};
use crate::net::replica::{self, Answer, Refusal, Request, Why, Wish};
use crate::store::{self, Class, Store};
use crate::task::WorkerState;
use crate::text::count;
use crate::time::Timestamp;

/// How often the hottest blocks are looked at. A look that finds nothing hot asks nobody.
const EVERY: Duration = Duration::from_secs(30);
/// Blocks that are looked at.
const HOTTEST: usize = 64;
/// Peers that are asked at the same time.
const AT_ONCE: usize = 8;
/// How long a peer is left alone that is busy, has no room, or takes nothing at all.
const BUSY_REST: Duration = Duration::from_secs(2 * 60);
const FULL_REST: Duration = Duration::from_secs(30 * 60);
const UNWILLING_REST: Duration = Duration::from_secs(6 * 3600);

/// Runs until cancelled.
pub async fn run(depot: Depot, limits: Limits, cancel: CancellationToken, state: Arc<WorkerState>) {
    let work = async {
        let mut ledger = Ledger::default();
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        state.set("nothing is asked for often");
        loop {
            tick.tick().await;
            round(&depot, &limits, &mut ledger, &state).await;
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = work => {}
    }
}

/// Looks once, and offers. All times are those by which demand is counted: one that never goes back.
pub(super) async fn round(
    depot: &Depot,
    limits: &Limits,
    ledger: &mut Ledger,
    state: &WorkerState,
) {
    let now = || depot.demand().now();
    let mut hottest = depot.demand().hottest(HOTTEST);
    hottest.retain(|hot| policy::target_copies(hot.rate, limits) > 0);
    if hottest.is_empty() {
        state.set("nothing is asked for often");
        return;
    }
    let worker = depot.clone();
    let hot = match tokio::task::spawn_blocking(move || here(&worker, hottest)).await {
        Ok(Ok(hot)) => hot,
        Ok(Err(error)) => {
            state.fail(error.to_string());
            return;
        }
        // The node is going down.
        Err(_) => return,
    };
    let connected = depot.net().peers().connected();
    let facts = Facts {
        hot,
        connected: connected
            .iter()
            .map(|peer| KBucketKey::from(*peer))
            .collect(),
    };
    let offers = policy::choose(now(), &facts, ledger, limits);
    let asked = futures::stream::iter(offers).map(|offer| async {
        let request = Request::Offer {
            why: Why::Popular,
            blocks: offer.blocks.clone(),
        };
        let answer = depot.net().replica().ask(offer.peer, request).await;
        (offer, answer)
    });
    let mut asked = std::pin::pin!(asked.buffer_unordered(AT_ONCE));
    while let Some((offer, answer)) = asked.next().await {
        let traffic = depot.traffic();
        Traffic::add(&traffic.offered_blocks, offer.blocks.len() as u64);
        let made = hear(ledger, &offer, answer, now(), limits);
        Traffic::add(&traffic.copied_blocks, made);
    }
    let copies = facts.hot.iter();
    let copies: usize = copies
        .map(|hot| ledger.copies(&hot.id, now(), limits))
        .sum();
    state.set(format!(
        "asked for often: {}, with {} on other nodes",
        count(facts.hot.len() as u64, "block"),
        count(copies as u64, "copy")
    ));
}

/// Those that are here, with their sizes. What is kept for an owner has the copies that the owner asked for, and gets no more.
fn here(depot: &Depot, hottest: Vec<Hot>) -> Result<Vec<HotBlock>, store::Error> {
    let store: &dyn Store = &**depot.store();
    let mut hot = Vec::new();
    for Hot { id, rate, askers } in hottest {
        let stat = store.stat(id)?;
        match stat.map(|stat| (stat.bytes, stat.class)) {
            Some((Some(_), Some(Class::Leased))) => {}
            Some((Some(bytes), _)) => hot.push(HotBlock {
                id,
                bytes,
                rate,
                askers,
            }),
            _ => depot.demand().forget(&id),
        }
    }
    Ok(hot)
}

/// Takes in what a peer said to an offer. Returns how many copies were made because of it.
fn hear(
    ledger: &mut Ledger,
    offer: &Offer,
    answer: Result<Answer, replica::Error>,
    now: Timestamp,
    limits: &Limits,
) -> u64 {
    let peer: PeerId = offer.peer;
    let wishes = match answer {
        Ok(Answer::Wishes(wishes)) => wishes,
        Ok(Answer::Refused(refusal)) => vec![Wish::Refuse(refusal)],
        Ok(Answer::State(_) | Answer::Proofs(_) | Answer::Recovered(_) | Answer::Head(_)) => {
            vec![Wish::Refuse(Refusal::Unwilling)]
        }
        Err(error) if error.is_retryable() => vec![Wish::Refuse(Refusal::Busy)],
        Err(_) => vec![Wish::Refuse(Refusal::Unwilling)],
    };
    let mut made = 0;
    let mut rest = Duration::ZERO;
    for (wish, (id, bytes)) in wishes.into_iter().zip(&offer.blocks) {
        match wish {
            Wish::Want => {
                ledger.heard(peer, *id, Heard::Wants, now);
                ledger.spend(u64::from(*bytes), now, limits);
            }
            Wish::Have => made += u64::from(ledger.heard(peer, *id, Heard::Has, now)),
            Wish::Refuse(refusal) => rest = rest.max(rest_after(refusal)),
        }
    }
    if rest > Duration::ZERO {
        ledger.rest(peer, now.after(rest));
    }
    made
}

const fn rest_after(refusal: Refusal) -> Duration {
    match refusal {
        Refusal::Busy => BUSY_REST,
        Refusal::Full | Refusal::TooMany => FULL_REST,
        Refusal::Unwilling | Refusal::Invalid | Refusal::Unknown | Refusal::Other(_) => {
            UNWILLING_REST
        }
    }
}
