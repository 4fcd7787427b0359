//! Invitations: what lets a node into a ring, for a while.
//!
//! An invitation has a seed of its own, which proves no membership: the member that made it gives
//! the ring's secret to a peer that proves the invitation's. So a code that was overheard is worth
//! nothing once the invitation is over, or was used if it is for one node. An invitation is void
//! when somebody is removed, who may know it.
//!
//! One that lets nobody in is remembered for a while, so that a node that proves it hears why.
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
/// Most invitations of one ring at a time; a new one takes the place of one that lets nobody in, or
/// else of the one that ends first.
pub const MAX_INVITATIONS: usize = 8;
/// Time for which an invitation is remembered after its end, where it was made and where it was
/// joined with.
pub(super) const REMEMBERED: Duration = MAX_INVITATION_TTL;

/// Reason for which an invitation lets a node in no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spent {
    /// It was for one node, and another one used it.
    Used,
    /// Its time is over.
    Over,
    /// A member was removed after it was made.
    Void,
}

impl Spent {
    /// Words that end a sentence about the code.
    pub const fn why(self) -> &'static str {
        match self {
            Self::Used => "the code is used up, it was for one machine",
            Self::Over => "the code has expired",
            Self::Void => "the code is void since a member was removed from the ring",
        }
    }
}

/// An invitation that this node made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Invitation {
    pub(super) seed: Seed,
    pub(super) until: Timestamp,
    pub(super) single_use: bool,
    pub(super) used_by: Option<PeerId>,
    /// Somebody was removed since.
    pub(super) is_void: bool,
}

impl Invitation {
    pub(super) fn new(seed: Seed, ttl: Duration, single_use: bool, now: Timestamp) -> Self {
        Self {
            seed,
            until: now.after(ttl.min(MAX_INVITATION_TTL)),
            single_use,
            used_by: None,
            is_void: false,
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

    /// Whether it lets anybody in who did not use it before.
    pub(super) fn is_live(&self, now: Timestamp) -> bool {
        !self.is_void && !self.is_over(now) && self.used_by.is_none()
    }

    /// Whether nobody needs to hear of it any more.
    pub(super) fn is_forgotten(&self, now: Timestamp) -> bool {
        self.until.after(REMEMBERED) <= now
    }

    /// Why a peer may not come in by it; none when it may. The peer that used a single-use
    /// invitation may prove it again: its connection may have broken.
    pub(super) fn spent(&self, peer: &PeerId, now: Timestamp) -> Option<Spent> {
        match self.used_by {
            Some(by) if by != *peer => Some(Spent::Used),
            _ if self.is_void => Some(Spent::Void),
            _ if self.is_over(now) => Some(Spent::Over),
            _ => None,
        }
    }

    /// Whether a peer may come in by it.
    pub(super) fn is_for(&self, peer: &PeerId, now: Timestamp) -> bool {
        self.spent(peer, now).is_none()
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
