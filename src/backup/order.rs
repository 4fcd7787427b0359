//! Orders: what the owner's words decide of some snapshots, signed by the owner's own key.
//!
//! A machine only asks that another machine's snapshots be forgotten. An order decides: they go at
//! once, or they stay. The latest order about a snapshot counts, whichever log carries it, so that
//! an old one that is brought again decides nothing.
//!
//! Deliberately absent: what else decides ([`Fates`](super::Fates)).

use super::error::Error;
use super::log::id_from_wire;
use super::owner::{OwnerId, OwnerKeys};
use crate::id::BlockId;
use crate::time::Timestamp;
use crate::wire::backup as wire;

use bytes::Bytes;
use prost::Message;

const DOMAIN: &[u8] = b"libernet snapshot order v1";
/// Most snapshots of one order.
pub const MAX_IDS: usize = 1024;
/// Longest order in bytes.
pub const MAX_ORDER_BYTES: usize = MAX_IDS * 64 + 256;

/// A decision of the owner's about some snapshots. Whether the owner signed it is known only after
/// [`is_by`](Self::is_by).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    forgets: bool,
    ids: Vec<BlockId>,
    made: Timestamp,
    signature: [u8; 64],
}

impl Order {
    /// An order about these snapshots, each once and in whatever order.
    ///
    /// # Errors
    /// [`Error::Setting`] for none, and for more than [`MAX_IDS`].
    pub fn sign(
        keys: &OwnerKeys,
        forgets: bool,
        mut ids: Vec<BlockId>,
        made: Timestamp,
    ) -> Result<Self, Error> {
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() || ids.len() > MAX_IDS {
            let text = format!("an order is about 1 to {MAX_IDS} snapshots");
            return Err(Error::Setting(text));
        }
        let mut order = Self {
            forgets,
            ids,
            made,
            signature: [0; 64],
        };
        order.signature = keys.sign(&order.message(&keys.id()));
        Ok(order)
    }

    /// Whether the snapshots go; else they stay.
    pub const fn forgets(&self) -> bool {
        self.forgets
    }

    /// The snapshots, in order.
    pub fn ids(&self) -> &[BlockId] {
        &self.ids
    }

    /// When it was signed: of two about one snapshot the later one counts.
    pub const fn made(&self) -> Timestamp {
        self.made
    }

    /// Whether the owner signed it.
    pub fn is_by(&self, owner: &OwnerId) -> bool {
        owner.verify(&self.message(owner), &self.signature).is_ok()
    }

    /// The order's bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.to_wire().encode_to_vec()
    }

    /// Reads what [`encode`](Self::encode) writes. Says nothing about the signature.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let wrong = |what: &str| Error::Setting(format!("not an order of an owner's: {what}"));
        if bytes.len() > MAX_ORDER_BYTES {
            return Err(wrong("too long"));
        }
        let message = wire::Order::decode(bytes).map_err(|_| wrong("broken or cut"))?;
        Self::from_wire(message).map_err(wrong)
    }

    /// Message that the owner signs: a domain, the owner's key, and all else in its one form.
    fn message(&self, owner: &OwnerId) -> Vec<u8> {
        let mut message = self.to_wire();
        message.signature.clear();
        [DOMAIN, owner.as_bytes(), &message.encode_to_vec()].concat()
    }

    pub(super) fn to_wire(&self) -> wire::Order {
        let ids = self.ids.iter().map(|id| id.to_multihash().into());
        wire::Order {
            forgets: self.forgets,
            ids: ids.collect(),
            made_ms: self.made.0,
            signature: Bytes::copy_from_slice(&self.signature),
        }
    }

    pub(super) fn from_wire(message: wire::Order) -> Result<Self, &'static str> {
        if message.ids.is_empty() || message.ids.len() > MAX_IDS {
            return Err("an order is about no snapshots, or about too many");
        }
        let ids = message.ids.iter().map(|id| id_from_wire(id));
        let ids: Vec<BlockId> = ids.collect::<Result<_, _>>()?;
        if !ids.is_sorted_by(|a, b| a < b) {
            return Err("the snapshots of an order are not in order");
        }
        let signature = &message.signature[..];
        Ok(Self {
            forgets: message.forgets,
            ids,
            made: Timestamp(message.made_ms),
            signature: signature
                .try_into()
                .map_err(|_| "a signature has 64 bytes")?,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::backup::owner::Phrase;
    use crate::backup::snapshot::tests::link;

    pub(in crate::backup) fn keys() -> OwnerKeys {
        OwnerKeys::derive(&Phrase::from_entropy([7; 16]))
    }

    pub(in crate::backup) fn order(forgets: bool, numbers: &[u8], made: u64) -> Order {
        let ids = numbers.iter().map(|number| link(*number).id).collect();
        Order::sign(&keys(), forgets, ids, Timestamp(made)).expect("not too many")
    }

    #[test]
    fn an_order_reads_back_and_is_its_owner_s_alone() {
        let order = order(true, &[2, 1, 2], 5);
        assert_eq!(order.ids(), [link(1).id, link(2).id]);
        let bytes = order.encode();
        assert_eq!(Order::decode(&bytes).expect("its own bytes"), order);
        let owner = keys().id();
        assert!(order.is_by(&owner));
        let other = OwnerKeys::derive(&Phrase::from_entropy([8; 16]));
        assert!(!order.is_by(&other.id()));
        for at in 0..bytes.len() {
            let mut broken = bytes.clone();
            broken[at] ^= 1;
            let read = Order::decode(&broken);
            assert!(!read.is_ok_and(|order| order.is_by(&owner)), "byte {at}");
        }
        // A signature of an order to forget does not hold for an order to keep.
        let mut turned = order.clone();
        turned.forgets = false;
        assert!(!turned.is_by(&owner));
        let mut later = order;
        later.made = Timestamp(6);
        assert!(!later.is_by(&owner));
    }

    #[test]
    fn an_order_is_about_some_snapshots() {
        let none = Order::sign(&keys(), true, Vec::new(), Timestamp(1));
        assert!(none.is_err());
        let id = |n: usize| {
            let mut digest = [0; 48];
            digest[..8].copy_from_slice(&(n as u64).to_be_bytes());
            BlockId::from_sha384(digest)
        };
        let of = |count| Order::sign(&keys(), true, (0..count).map(id).collect(), Timestamp(1));
        let most = of(MAX_IDS).expect("at the limit").encode();
        assert!(most.len() <= MAX_ORDER_BYTES);
        assert!(Order::decode(&most).is_ok());
        assert!(of(MAX_IDS + 1).is_err());
    }
}
