//! Reads the head back as a stranger would find it: from others, never from here.
//!
//! A head that this machine has written and published says nothing of what others have. A thief who
//! has copied the machine's key may have written a newer entry; the peers that took the head may
//! have dropped it.

use std::collections::BTreeSet;
use std::time::Duration;

use libp2p::PeerId;

use super::archive::Archive;
use super::error::Error;
use crate::block::Block;
use crate::head::HeadRecord;
use crate::id::BlockId;
use crate::net::exchange::Answer;

/// Time that one peer has to give the log.
const LOG_TIMEOUT: Duration = Duration::from_secs(10);
/// Peers that are asked for the log.
const MAX_ASKED: usize = 8;

/// Answers of others about this machine's newest entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadBack {
    /// Peers that told a head of this owner.
    pub heads: usize,
    /// Peers among them whose head has the entry that this machine wrote last.
    pub told: usize,
    /// Whether one of them gave the log that the entry names.
    pub has_log: bool,
    /// Whether somebody told an entry under this machine's name that is newer.
    pub is_overtaken: bool,
}

impl ReadBack {
    /// Whether the words lead to this machine's newest backup without this machine.
    pub const fn is_found(&self) -> bool {
        self.told > 0 && self.has_log && !self.is_overtaken
    }
}

impl Archive {
    /// Looks for the entry that this machine wrote last, among what others have. None when it has
    /// written none.
    ///
    /// # Errors
    /// [`Error::Net`], [`Error::Store`], [`Error::Stopping`].
    pub async fn read_back(&self, machine: &[u8; 32]) -> Result<Option<ReadBack>, Error> {
        let Some(own) = self.written_entry(machine).await? else {
            return Ok(None);
        };
        let heads = self.depot().heads();
        let (found, holders) = futures::join!(
            heads.find_elsewhere(self.access().head()),
            self.ask_holders()
        );
        let now = self.clock().now();
        let told = found?.told.into_iter().chain(holders?.heads);
        let told: Vec<(PeerId, HeadRecord)> = told
            .filter_map(|(peer, head)| Some((peer, head.timely(now).ok()?)))
            .collect();
        let peers = |tells: &dyn Fn(&HeadRecord) -> bool| -> BTreeSet<PeerId> {
            let telling = told.iter().filter(|(_, head)| tells(head));
            telling.map(|(peer, _)| *peer).collect()
        };
        let with_own = peers(&|head| head.has(&own));
        let overtakes = |head: &HeadRecord| {
            let newest = head.entry(machine);
            newest.is_some_and(|newest| *newest != own && newest.sequence() >= own.sequence())
        };
        Ok(Some(ReadBack {
            heads: peers(&|_| true).len(),
            told: with_own.len(),
            has_log: self.is_given(&with_own, own.log_id()).await,
            is_overtaken: told.iter().any(|(_, head)| overtakes(head)),
        }))
    }

    /// Whether one of these peers gives a block.
    async fn is_given(&self, peers: &BTreeSet<PeerId>, id: BlockId) -> bool {
        let exchange = self.depot().net().exchange();
        for peer in peers.iter().take(MAX_ASKED) {
            let answers = exchange.fetch(*peer, vec![id], LOG_TIMEOUT).await;
            let Some((_, Answer::Block(bytes))) = answers.ok().and_then(|a| a.into_iter().next())
            else {
                continue;
            };
            let checked = tokio::task::spawn_blocking(move || Block::verify(id, bytes).is_ok());
            if checked.await.is_ok_and(|is_right| is_right) {
                return true;
            }
        }
        false
    }
}
