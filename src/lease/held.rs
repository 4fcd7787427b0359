//! A lease as its holder counts it.

use prost::Message;

use super::{Error, Lease, MAX_LEASE_BYTES, MAX_SKEW_MS, Release};
use crate::time::Timestamp;
use crate::wire::lease as wire;

const VERSION: u32 = 1;
/// Longest [`Held`] in bytes.
pub const MAX_HELD_BYTES: usize = MAX_LEASE_BYTES + 160;

/// What a holder has promised, by its own clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    lease: Lease,
    received: Timestamp,
    until: Timestamp,
    minimum_until: Timestamp,
    /// Name of the peer that brought it, or made it longer; empty when that is not known.
    from: Vec<u8>,
}

/// What another lease of the same name changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// Nothing: it is the same, or an older one.
    Nothing,
    /// It takes the place of the one before.
    Longer(Box<Held>),
}

impl Held {
    /// A valid lease, received now. However late it came or whoever passed it on, it ends when the owner said: or else it could be passed around, or
    /// brought again, for ever.
    pub fn new(lease: Lease, now: Timestamp) -> Self {
        let at_most = |term: u64, said: Timestamp| {
            let own = now.0.saturating_add(term);
            Timestamp(own.min(said.0.saturating_add(MAX_SKEW_MS)))
        };
        let terms = lease.terms();
        Self {
            received: now,
            until: at_most(lease.term_ms(), terms.until),
            minimum_until: at_most(lease.minimum_ms(), terms.minimum_until),
            lease,
            from: Vec::new(),
        }
    }

    /// The same, brought by a peer of that name.
    pub fn brought_by(self, from: Vec<u8>) -> Self {
        Self { from, ..self }
    }

    /// Name of the peer that brought it; empty when that is not known.
    pub fn from(&self) -> &[u8] {
        &self.from
    }

    /// Ends at that time, if it would last longer: the holder gives notice.
    pub fn end_by(&mut self, until: Timestamp) {
        self.until = self.until.min(until);
        self.minimum_until = self.minimum_until.min(until);
    }

    /// The newest lease of this name.
    pub const fn lease(&self) -> &Lease {
        &self.lease
    }

    /// When the first lease of this name came.
    pub const fn received(&self) -> Timestamp {
        self.received
    }

    /// Until when the blocks are kept.
    pub const fn until(&self) -> Timestamp {
        self.until
    }

    /// Until when only the owner itself can end it.
    pub const fn minimum_until(&self) -> Timestamp {
        self.minimum_until
    }

    /// Whether nothing is owed any more.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.until <= now
    }

    /// What another valid lease changes. Nothing ever gets shorter by it.
    ///
    /// # Errors
    /// As [`renewed_by`](Self::renewed_by).
    pub fn renewed(&self, lease: Lease, now: Timestamp) -> Result<Renewal, Error> {
        self.renewed_by(Self::new(lease, now))
    }

    /// What another valid lease changes that was received now or passed on. Nothing ever gets shorter by it.
    ///
    /// # Errors
    /// [`Error::OtherLease`], [`Error::OtherMachine`], [`Error::OtherBlocks`],
    /// [`Error::OtherOpener`].
    pub fn renewed_by(&self, later: Self) -> Result<Renewal, Error> {
        let (old, new) = (self.lease.terms(), later.lease.terms());
        if self.lease.owner() != later.lease.owner() || old.name != new.name {
            return Err(Error::OtherLease);
        }
        // Or else it would be the other machine's, which could then end it.
        if self.lease.machine() != later.lease.machine() {
            return Err(Error::OtherMachine);
        }
        let list = |terms: &super::Terms| (terms.root, terms.blocks, terms.bytes, terms.digest);
        if list(old) != list(new) {
            return Err(Error::OtherBlocks);
        }
        if old.opener.is_some() && old.opener != new.opener {
            return Err(Error::OtherOpener);
        }
        if new.sequence <= old.sequence {
            return Ok(Renewal::Nothing);
        }
        Ok(Renewal::Longer(Box::new(Self {
            received: self.received,
            until: later.until.max(self.until),
            minimum_until: later.minimum_until.max(self.minimum_until),
            lease: later.lease,
            from: later.from,
        })))
    }

    /// Whether a valid release ends this now.
    ///
    /// # Errors
    /// [`Error::OtherLease`], [`Error::OtherMachine`], [`Error::Stale`], [`Error::TooEarly`].
    pub fn check_release(&self, release: &Release, now: Timestamp) -> Result<(), Error> {
        let terms = self.lease.terms();
        if !release.covers(&self.lease) {
            return Err(Error::OtherLease);
        }
        // A machine ends its own leases. Being of the same owner gives a machine no power over
        // another's.
        if release
            .machine()
            .is_some_and(|machine| machine != self.lease.machine())
        {
            return Err(Error::OtherMachine);
        }
        if release.sequence() < terms.sequence {
            return Err(Error::Stale);
        }
        if !release.is_by_owner() && now < self.minimum_until {
            return Err(Error::TooEarly);
        }
        Ok(())
    }

    /// What is stored.
    pub fn encode(&self) -> Vec<u8> {
        wire::Held {
            version: VERSION,
            lease: self.lease.encode().into(),
            received_ms: self.received.0,
            until_ms: self.until.0,
            minimum_until_ms: self.minimum_until.0,
            from: self.from.clone().into(),
        }
        .encode_to_vec()
    }

    /// Reads what [`encode`](Self::encode) writes.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::UnknownVersion`], [`Error::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_HELD_BYTES {
            return Err(Error::TooLarge(bytes.len()));
        }
        let held = wire::Held::decode(bytes).map_err(|_| Error::Malformed("broken or cut"))?;
        if held.version != VERSION {
            return Err(Error::UnknownVersion(held.version));
        }
        Ok(Self {
            lease: Lease::decode(&held.lease)?,
            received: Timestamp(held.received_ms),
            until: Timestamp(held.until_ms),
            minimum_until: Timestamp(held.minimum_until_ms),
            from: held.from.into(),
        })
    }
}
