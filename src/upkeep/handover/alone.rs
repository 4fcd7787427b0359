//! Backups that others would lose with this node: they are kept here and, as far as members say,
//! nowhere else.
//!
//! A member's word is enough: this is to warn, and nothing is dropped because of it. Deliberately
//! absent: handing over (`leave`).

use std::collections::BTreeMap;

use libp2p::PeerId;

use super::on_worker;
use super::work::ASK_TIMEOUT;
use crate::depot::Depot;
use crate::id::BlockId;
use crate::lease::Held;
use crate::net::replica::{Answer, MAX_OFFERED, Request, Wish};
use crate::store;
use crate::upkeep::heads::is_head_lease;

/// Backups of others that no member who answers keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Alone {
    /// Number of backups.
    pub backups: u64,
    /// Bytes of their blocks; what several backups share counts for each.
    pub bytes: u64,
}

/// Asks these members which of the backups that are whole here they keep, too. Who does not answer
/// counts as keeping nothing.
///
/// # Errors
/// Errors of the store.
pub async fn only_here(depot: &Depot, members: &[PeerId]) -> Result<Alone, store::Error> {
    let store = depot.store().clone();
    let mut of_owner: BTreeMap<[u8; 32], BTreeMap<BlockId, u64>> = BTreeMap::new();
    for (_, info) in on_worker(move || store.leases()).await? {
        if let Ok(held) = Held::decode(&info.terms)
            && info.complete
            && !is_head_lease(&info)
        {
            let of_owner = of_owner.entry(*held.lease().owner()).or_default();
            of_owner.insert(info.root, info.bytes);
        }
    }
    for peer in members {
        for (owner, roots) in &mut of_owner {
            ask(depot, *peer, *owner, roots).await;
        }
    }
    let left = of_owner.values().flat_map(BTreeMap::values);
    Ok(Alone {
        backups: left.clone().count() as u64,
        bytes: left.sum(),
    })
}

/// Takes out what the peer says that it keeps of an owner's.
async fn ask(depot: &Depot, peer: PeerId, owner: [u8; 32], roots: &mut BTreeMap<BlockId, u64>) {
    let all: Vec<BlockId> = roots.keys().copied().collect();
    let replica = depot.net().replica();
    for page in all.chunks(MAX_OFFERED) {
        let request = Request::Holding {
            owner,
            roots: page.to_vec(),
        };
        let said = replica.ask(peer, request);
        let Ok(Ok(Answer::Wishes(wishes))) = tokio::time::timeout(ASK_TIMEOUT, said).await else {
            return;
        };
        for (root, wish) in page.iter().zip(wishes) {
            if wish == Wish::Have {
                roots.remove(root);
            }
        }
    }
}
