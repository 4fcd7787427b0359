//! Answers other nodes out of the store.

use std::sync::Arc;

use async_trait::async_trait;
use libp2p::PeerId;

use super::demand::Demand;
use super::ledger::{Amount, Ledger};
use super::{Pending, Traffic};
use crate::block::Block;
use crate::id::BlockId;
use crate::net::exchange::{Answer, BlockService, Standing, Want};
use crate::store::{self, Event, Store};
use crate::time::Clock;

/// Gives blocks of a store to whoever asks.
///
/// What RocksDB's checksum calls damaged is taken out of the store, counted and put on the list of what to fetch again; it is never
/// served. Whether the bytes are the right ones is for the asker to check, who must do so in any case.
pub struct Server {
    store: Arc<dyn Store>,
    traffic: Arc<Traffic>,
    ledger: Arc<Ledger>,
    wounded: Arc<Pending>,
    demand: Arc<Demand>,
}

impl Server {
    /// A server for `store`, with a ledger that is forgotten at its end.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self::with_ledger(store, Arc::default())
    }

    /// A server for `store` that writes down in `ledger` whom it has served.
    pub fn with_ledger(store: Arc<dyn Store>, ledger: Arc<Ledger>) -> Self {
        Self {
            store,
            traffic: Arc::default(),
            ledger,
            wounded: Arc::default(),
            demand: Arc::default(),
        }
    }

    /// The same, counting what is asked for by another clock than the machine's.
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self {
            demand: Arc::new(Demand::new(clock)),
            ..self
        }
    }

    pub(super) fn demand(&self) -> Arc<Demand> {
        self.demand.clone()
    }

    pub(super) fn traffic(&self) -> Arc<Traffic> {
        self.traffic.clone()
    }

    pub(super) fn ledger(&self) -> Arc<Ledger> {
        self.ledger.clone()
    }

    pub(super) fn wounded(&self) -> Arc<Pending> {
        self.wounded.clone()
    }
}

#[async_trait]
impl BlockService for Server {
    async fn blocks(
        &self,
        peer: PeerId,
        ids: Vec<BlockId>,
        want: Want,
        max_bytes: usize,
    ) -> Vec<Answer> {
        let (store, traffic, wounded, demand) = (
            self.store.clone(),
            self.traffic.clone(),
            self.wounded.clone(),
            self.demand.clone(),
        );
        let ledger = self.ledger.clone();
        let count = ids.len();
        tokio::task::spawn_blocking(move || {
            let mut room = max_bytes;
            let answers: Vec<Answer> = ids
                .iter()
                .map(|id| match want {
                    Want::Have => has(store.as_ref(), *id),
                    Want::Block => give(store.as_ref(), &traffic, &wounded, *id, &mut room),
                })
                .collect();
            // Who only asks whether a block is here says little about wanting it from here: that counts only where it is missing.
            let answered = |fits: fn(&Answer) -> bool| {
                let answered = ids.iter().zip(&answers);
                let fitting = answered.filter(|(_, answer)| fits(answer));
                fitting.map(|(id, _)| *id).collect::<Vec<_>>()
            };
            let given = answered(|answer| matches!(answer, Answer::Block(_)));
            let missed = answered(|answer| matches!(answer, Answer::DontHave));
            demand.count(peer, &given, &missed);
            let mut served = Amount::default();
            for answer in &answers {
                if let Answer::Block(bytes) = answer {
                    served.add(Amount {
                        blocks: 1,
                        bytes: bytes.len() as u64,
                    });
                }
            }
            if served.blocks > 0 {
                ledger.served(peer, served);
            }
            answers
        })
        .await
        .unwrap_or_else(|_| vec![Answer::Busy; count])
    }

    fn standing(&self, peer: PeerId) -> Standing {
        self.ledger.standing(peer)
    }
}

fn has(store: &dyn Store, id: BlockId) -> Answer {
    match store.has(id) {
        Ok(true) => Answer::Have,
        Ok(false) => Answer::DontHave,
        Err(_) => Answer::Busy,
    }
}

fn give(
    store: &dyn Store,
    traffic: &Traffic,
    wounded: &Pending,
    id: BlockId,
    room: &mut usize,
) -> Answer {
    match read(store, traffic, wounded, id) {
        Ok(Read::Found(block)) => {
            let bytes = block.into_bytes();
            if bytes.len() > *room {
                return Answer::Busy;
            }
            *room -= bytes.len();
            Traffic::add(&traffic.served_blocks, 1);
            Traffic::add(&traffic.served_bytes, bytes.len() as u64);
            store.record(&[(id, Event::Requested), (id, Event::Served)]);
            Answer::Block(bytes)
        }
        Ok(Read::Missing | Read::Damaged) => {
            store.record(&[(id, Event::Requested)]);
            Answer::DontHave
        }
        // It may be read the next time: whoever asks is to ask again.
        Ok(Read::Unreadable(_)) => Answer::Busy,
        Err(error) => {
            tracing::warn!(%id, %error, "the store could not be read");
            Answer::Busy
        }
    }
}

/// What reading a block from the store gave.
pub(super) enum Read {
    /// The block.
    Found(Block),
    /// It is not here.
    Missing,
    /// It was here, and damaged.
    Damaged,
    /// It is here, and can't be read now.
    Unreadable(store::Error),
}

/// Reads a block; a damaged one is removed, counted, and put on the list of what to fetch again.
/// One that can't be read now stays.
pub(super) fn read(
    store: &dyn Store,
    traffic: &Traffic,
    wounded: &Pending,
    id: BlockId,
) -> Result<Read, store::Error> {
    let mut read = store.get(id);
    if let Err(store::Error::Corrupt { .. }) = read {
        match store.remove_corrupt(id) {
            // The way from the disk was wrong, not what is on it.
            Ok(false) => read = store.get(id),
            Err(error @ store::Error::Unreadable { .. }) => read = Err(error),
            removed => {
                tracing::warn!(%id, "a stored block is damaged: removing it, to fetch it again");
                Traffic::add(&traffic.corrupt_blocks, 1);
                if let Err(error) = removed {
                    tracing::warn!(%id, %error, "the damaged block can't be removed now");
                }
                wounded.add([id]);
                return Ok(Read::Damaged);
            }
        }
    }
    match read {
        Ok(Some(block)) => Ok(Read::Found(block)),
        Ok(None) => Ok(Read::Missing),
        Err(error @ store::Error::Unreadable { .. }) => {
            let source = std::error::Error::source(&error);
            let why = source.map(ToString::to_string).unwrap_or_default();
            tracing::warn!(%id, why, "a stored block can't be read now: it stays, and is tried again");
            Ok(Read::Unreadable(error))
        }
        Err(error) => Err(error),
    }
}
