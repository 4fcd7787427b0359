//! Backups of others that this node keeps: listing them, and letting them go by the word of the
//! machine's person.

use std::collections::HashMap;

use data_encoding::HEXLOWER;
use libp2p::PeerId;

use super::api::*;
use super::{Node, blocking};
use crate::lease::Held;
use crate::store::{LeaseId, Store};
use crate::upkeep::heads::is_head_lease;

/// A lease that is kept here, and its id in the store.
type One = (LeaseId, HeldLease);

/// All leases of others' backups in the store. A lease that can't be read ends by itself, and is
/// not listed.
fn held(store: &dyn Store) -> Result<Vec<One>, CallError> {
    let leases = store.leases()?.into_iter();
    let leases = leases.filter(|(_, info)| !is_head_lease(info));
    let read = leases.filter_map(|(id, info)| {
        let held = Held::decode(&info.terms).ok()?;
        let lease = held.lease();
        let from = PeerId::from_bytes(held.from());
        let one = HeldLease {
            name: HEXLOWER.encode(&lease.terms().name),
            owner: HEXLOWER.encode(lease.owner()),
            peer: from.map(|peer| peer.to_string()).unwrap_or_default(),
            machine: String::new(),
            blocks: info.blocks,
            bytes: info.bytes,
            whole: info.complete,
            received: held.received(),
            until: info.until,
            removed: false,
        };
        Some((id, one))
    });
    let mut all: Vec<One> = read.collect();
    all.sort_by(|(_, a), (_, b)| (&a.peer, a.received).cmp(&(&b.peer, b.received)));
    Ok(all)
}

impl Node {
    /// Lists the backups of others that are kept here.
    ///
    /// # Errors
    /// What the store says.
    pub async fn lease_held(&self, _: LeaseHeld) -> Result<LeaseHeldReply, CallError> {
        let store = self.depot().store().clone();
        let all = blocking(move || held(&*store)).await?;
        let view = self.net().rings();
        let mut names: HashMap<String, String> = HashMap::new();
        for ring in view.rings().as_slice() {
            let members = ring.members().iter();
            names.extend(members.map(|known| (known.peer.to_string(), known.name.clone())));
        }
        let removed = view.removed().into_iter();
        let removed: Vec<String> = removed
            .map(|peer| peer.to_string())
            .filter(|peer| !names.contains_key(peer))
            .collect();
        let leases = all.into_iter().map(|(_, one)| HeldLease {
            machine: names.get(&one.peer).cloned().unwrap_or_default(),
            removed: removed.contains(&one.peer),
            ..one
        });
        Ok(LeaseHeldReply {
            leases: leases.collect(),
            bytes: self.depot().store().usage().leased_bytes,
        })
    }

    /// Ends leases that are kept here, at once.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when one of them is not here any more; what the store says.
    pub async fn lease_drop(&self, request: LeaseDrop) -> Result<LeaseDropReply, CallError> {
        let depot = self.depot().clone();
        blocking(move || {
            let store = depot.store();
            let all = held(&**store)?;
            let mut ids = Vec::new();
            for name in &request.names {
                let Some((id, _)) = all.iter().find(|(_, one)| one.name == *name) else {
                    let text = format!("no lease '{name}' is kept here");
                    return Err(CallError::new(ErrorKind::NotFound, text)
                        .with_hint("`libernet lease held` shows them"));
                };
                ids.push(*id);
            }
            let before = store.usage().leased_bytes;
            let ended = store.remove_leases(&ids);
            // The job that answers for them looks which there are, also after a failure.
            depot.note_ended_leases();
            ended?;
            Ok(LeaseDropReply {
                dropped: ids.len() as u64,
                bytes: before.saturating_sub(store.usage().leased_bytes),
            })
        })
        .await
    }
}
