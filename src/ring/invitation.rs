//! Invitations: what lets a node into a ring, for a while.
//!
//! An invitation has a seed of its own, which proves no membership: the member that made it gives
//! the ring's secret to a peer that proves the invitation's. So a code that was overheard is worth
//! nothing once the invitation is over, or was used if it is for one node. An invitation is over as
//! well when somebody is removed, who may know it.
//!
//! Deliberately absent: telling other members. Only the member that made an invitation lets in by
//! it.

use std::time::Duration;

use libp2p::PeerId;

use super::secret::Seed;
use crate::time::Timestamp;

/// Time that an invitation lasts unless said otherwise.
pub const INVITATION_TTL: Duration = Duration::from_secs(24 * 3600);
/// Longest that one lasts.
pub const MAX_INVITATION_TTL: Duration = Duration::from_secs(7 * 24 * 3600);
/// Most invitations of one ring at a time; a new one takes the place of the one that ends first.
pub const MAX_INVITATIONS: usize = 8;

/// An invitation that this node made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Invitation {
    pub(super) seed: Seed,
    pub(super) until: Timestamp,
    pub(super) single_use: bool,
    pub(super) used_by: Option<PeerId>,
}

impl Invitation {
    pub(super) fn new(seed: Seed, ttl: Duration, single_use: bool, now: Timestamp) -> Self {
        Self {
            seed,
            until: now.after(ttl.min(MAX_INVITATION_TTL)),
            single_use,
            used_by: None,
        }
    }

    pub(super) const fn seed(&self) -> &Seed {
        &self.seed
    }

    pub(super) const fn until(&self) -> Timestamp {
        self.until
    }

    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.until <= now
    }

    /// Whether a peer may come in by it. The peer that used a single-use invitation may prove it
    /// again: its connection may have broken.
    pub(super) fn is_for(&self, peer: &PeerId, now: Timestamp) -> bool {
        !self.is_over(now) && self.used_by.is_none_or(|by| by == *peer)
    }

    /// A peer has proven it. True when nobody else may use it from then on.
    pub(super) fn use_by(&mut self, peer: &PeerId) -> bool {
        let is_first = self.single_use && self.used_by.is_none();
        if is_first {
            self.used_by = Some(*peer);
        }
        is_first
    }
}
