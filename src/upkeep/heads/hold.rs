//! What keeps the logs of heads in the store: a pin, or a lease that is the head's own when leases are the reason to keep it.
//!
//! Both are named by the head, whose id is no block's. A lease of a head says until when it is kept, and its blocks count among those that are lent.

use super::policy::MAX_LEASED;
use super::{MAX_PINNED_LOGS, is_head_pin, pin_name};
use crate::id::BlockId;
use crate::store::{self, Keep, LeaseId, LeaseInfo, PinId, PinInfo, Store};
use crate::time::Timestamp;

/// What the terms of a head's lease begin with. No lease of an owner does.
const MAGIC: &[u8] = b"LNHEAD";
const VERSION: u8 = 1;

/// Whether a lease is of a head's logs. Its root is then no block: it is the head's name.
pub fn is_head_lease(info: &LeaseInfo) -> bool {
    info.terms.starts_with(MAGIC)
}

/// Why logs are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// Somebody said so here.
    Ours,
    /// Leases of the head's owner, until then.
    Leases(Timestamp),
}

/// What refers to the logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    Pin(PinId),
    Lease(LeaseId),
}

/// One of them, with what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeadHold {
    pub(super) hold: Hold,
    pub(super) head: BlockId,
    pub(super) reason: Reason,
    /// When the reason was written.
    pub(super) made: Timestamp,
    pub(super) logs: Vec<BlockId>,
    pub(super) bytes: u64,
}

impl HeadHold {
    /// Whether it is of the same kind.
    pub(super) const fn is_for(&self, reason: Reason) -> bool {
        matches!(
            (self.hold, reason),
            (Hold::Pin(_), Reason::Ours) | (Hold::Lease(_), Reason::Leases(_))
        )
    }
}

/// All of them.
pub(super) fn holds(store: &dyn Store) -> Result<Vec<HeadHold>, store::Error> {
    let mut holds = Vec::new();
    for (pin, info) in store.pins()? {
        if is_head_pin(&info) {
            holds.push(HeadHold {
                hold: Hold::Pin(pin),
                head: info.root,
                reason: Reason::Ours,
                made: info.created,
                logs: store.pin_blocks(pin, None, MAX_PINNED_LOGS)?,
                bytes: info.bytes,
            });
        }
    }
    for (lease, info) in store.leases()? {
        if is_head_lease(&info) {
            holds.push(HeadHold {
                hold: Hold::Lease(lease),
                head: info.root,
                reason: Reason::Leases(info.until),
                made: made_of(&info),
                logs: store.lease_blocks(lease, None, MAX_PINNED_LOGS)?,
                bytes: info.bytes,
            });
        }
    }
    Ok(holds)
}

/// The logs that leases of heads keep.
pub(in crate::upkeep) fn leased_logs(store: &dyn Store) -> Result<Vec<BlockId>, store::Error> {
    let of_leases = holds(store)?.into_iter();
    let of_leases = of_leases.filter(|hold| matches!(hold.hold, Hold::Lease(_)));
    Ok(of_leases.flat_map(|hold| hold.logs).collect())
}

/// Says, durably, that a head is kept because of leases, if nothing says why it is kept yet. Its logs come later. Returns whether something says why.
pub(in crate::upkeep) fn keep_for_leases(
    store: &dyn Store,
    head: BlockId,
    until: Timestamp,
    now: Timestamp,
) -> Result<bool, store::Error> {
    if has_pin(store, head)? {
        return Ok(true);
    }
    let leases = store.leases()?.into_iter();
    let heads: Vec<BlockId> = leases
        .filter(|(_, info)| is_head_lease(info))
        .map(|(_, info)| info.root)
        .collect();
    if heads.contains(&head) {
        return Ok(true);
    }
    if heads.len() >= MAX_LEASED {
        return Ok(false);
    }
    let hold = Hold::begin(store, head, Reason::Leases(until), now)?;
    hold.finish(store, head, Reason::Leases(until), (0, 0), now)?;
    Ok(true)
}

/// Says, durably, of a head that leases keep that it is to stay without them. Its logs come later. Of another one this needs not be said.
///
/// # Errors
/// Those of the store.
pub fn keep_for_ours(store: &dyn Store, head: BlockId, now: Timestamp) -> Result<(), store::Error> {
    let mut leases = store.leases()?.into_iter();
    let is_leased = leases.any(|(_, info)| is_head_lease(&info) && info.root == head);
    if !is_leased || has_pin(store, head)? {
        return Ok(());
    }
    let hold = Hold::begin(store, head, Reason::Ours, now)?;
    hold.finish(store, head, Reason::Ours, (0, 0), now)
}

fn has_pin(store: &dyn Store, head: BlockId) -> Result<bool, store::Error> {
    let mut pins = store.pins()?.into_iter();
    Ok(pins.any(|(_, info)| is_head_pin(&info) && info.root == head))
}

impl Hold {
    /// A new one, which refers to nothing. A pin that is not finished goes with the process, a lease stays.
    pub(super) fn begin(
        store: &dyn Store,
        head: BlockId,
        reason: Reason,
        now: Timestamp,
    ) -> Result<Self, store::Error> {
        Ok(match reason {
            Reason::Ours => Self::Pin(store.begin_pin(&pin_name(&head))?),
            Reason::Leases(until) => {
                let info = lease_info(head, until, (0, 0), now);
                Self::Lease(store.begin_lease(&info)?)
            }
        })
    }

    /// How blocks for it are fetched.
    pub(super) const fn keep(self) -> Keep {
        match self {
            Self::Pin(pin) => Keep::Pinned(pin),
            Self::Lease(_) => Keep::Cached,
        }
    }

    /// Makes it refer to blocks that are here. Returns those that are not.
    pub(super) fn add(
        self,
        store: &dyn Store,
        ids: &[BlockId],
    ) -> Result<Vec<BlockId>, store::Error> {
        let lease = match self {
            Self::Pin(pin) => return store.add_refs(pin, ids),
            Self::Lease(lease) => lease,
        };
        let (mut here, mut absent) = (Vec::new(), Vec::new());
        for id in ids {
            match store.has(*id)? {
                true => here.push(*id),
                false => absent.push(*id),
            }
        }
        absent.extend(store.add_lease_refs(lease, &here)?);
        Ok(absent)
    }

    /// Makes it last; `size` is blocks and bytes.
    pub(super) fn finish(
        self,
        store: &dyn Store,
        head: BlockId,
        reason: Reason,
        size: (u64, u64),
        now: Timestamp,
    ) -> Result<(), store::Error> {
        match (self, reason) {
            (Self::Pin(pin), _) => {
                let info = PinInfo {
                    root: head,
                    link: None,
                    name: pin_name(&head),
                    bytes: size.1,
                    files: 0,
                    blocks: size.0,
                    created: now,
                };
                store.finish_pin(pin, &info)
            }
            (Self::Lease(lease), Reason::Leases(until)) => {
                store.update_lease(lease, &lease_info(head, until, size, now))
            }
            // Nobody changes the reason of one that was begun.
            (Self::Lease(_), Reason::Ours) => Ok(()),
        }
    }

    /// Ends it. What is gone already needs no ending.
    pub(super) fn remove(self, store: &dyn Store) -> Result<(), store::Error> {
        let removed = match self {
            Self::Pin(pin) => store.remove_pin(pin),
            Self::Lease(lease) => store.remove_lease(lease),
        };
        match removed {
            Ok(_) | Err(store::Error::NoSuchLease(_) | store::Error::NoSuchPin(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn lease_info(head: BlockId, until: Timestamp, size: (u64, u64), now: Timestamp) -> LeaseInfo {
    let terms = [MAGIC, &[VERSION], &now.0.to_be_bytes()].concat();
    LeaseInfo {
        root: head,
        terms: terms.into(),
        until,
        blocks: size.0,
        bytes: size.1,
        complete: true,
    }
}

/// When the terms were written. What can't be read counts as written at no time: it ends when it says it does.
fn made_of(info: &LeaseInfo) -> Timestamp {
    let terms = info.terms.strip_prefix(MAGIC);
    let made = terms.and_then(|rest| match rest.split_first()? {
        (&VERSION, made) => made.try_into().ok().map(u64::from_be_bytes),
        _ => None,
    });
    Timestamp(made.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{MemoryStore, StoreOptions};

    fn head(n: u16) -> BlockId {
        let mut digest = [3; 48];
        digest[..2].copy_from_slice(&n.to_be_bytes());
        BlockId::from_sha384(digest)
    }

    #[test]
    fn why_a_head_is_kept_is_said_once_and_by_the_stronger_reason() {
        let store = MemoryStore::new(StoreOptions::default());
        let (now, until) = (Timestamp(7), Timestamp(9));
        for _ in 0..2 {
            assert!(keep_for_leases(&store, head(1), until, now).expect("says"));
        }
        let all = holds(&store).expect("reads");
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].reason, all[0].made), (Reason::Leases(until), now));
        // Both may be said; the pin takes the lease's place when its logs come.
        for _ in 0..2 {
            keep_for_ours(&store, head(1), now).expect("says");
            keep_for_ours(&store, head(2), now).expect("looks");
        }
        assert_eq!(holds(&store).expect("reads").len(), 2);
        assert!(keep_for_leases(&store, head(1), until, now).expect("looks"));
        assert_eq!(holds(&store).expect("reads").len(), 2);
        for n in 0..MAX_LEASED as u16 - 1 {
            assert!(keep_for_leases(&store, head(10 + n), until, now).expect("says"));
        }
        assert!(!keep_for_leases(&store, head(9), until, now).expect("looks"));
        assert!(keep_for_leases(&store, head(10), until, now).expect("looks"));
    }

    #[test]
    fn terms_say_when_they_were_written() {
        let info = lease_info(head(1), Timestamp(9), (1, 2), Timestamp(0x0102));
        let golden = b"LNHEAD\x01\0\0\0\0\0\0\x01\x02";
        assert_eq!(&info.terms[..], golden);
        assert!(is_head_lease(&info));
        assert_eq!(made_of(&info), Timestamp(0x0102));
        for terms in [
            &b"LNHEAD"[..],
            b"LNHEAD\x02\0\0\0\0\0\0\0\x01",
            b"LNHEAD\x01\0",
        ] {
            let other = LeaseInfo {
                terms: terms.to_vec().into(),
                ..info.clone()
            };
            assert!(is_head_lease(&other));
            assert_eq!(made_of(&other), Timestamp(0));
        }
    }
}
