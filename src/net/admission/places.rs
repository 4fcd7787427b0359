//! Places for established connections: which connection may be made, and which one gives way.
//!
//! Peer ids cost nothing, so strangers share places by where they come from:
//! - A site (an IPv4 address, 64 bits of an IPv6 one) has a share of its own. Past it the newcomers
//!   of a site displace those of the same site alone.
//! - Inbound connections of strangers have at most two thirds of all places. When these are taken,
//!   the least useful one gives way: idle, of the lowest standing, from the most crowded region, of
//!   which fewest blocks came or went, the oldest. A busy one gives way only where its region has
//!   others, so that nobody keeps a place for ever by a few bytes now and then. A few peers of many
//!   places are therefore let in beside any number of identities from one.
//! - Inbound connections over QUIC have at most a quarter: each takes a part of the memory for what
//!   is unread as long as it lasts, and the rest is for those over which blocks come.
//! - An eighth of all places is for members of this node's rings, who displace strangers.
//! - This node's own dials take what is left, and never give way to who comes by itself.
//!
//! Pure: who is here is an argument.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use libp2p::swarm::ConnectionId;

use super::{Site, Standing};
use crate::net::limits::Limits;

/// Connections beyond the limit that are made for what this node does itself, and for members of
/// its rings, before others have given way.
const SPARE: usize = 8;

/// A connection as it is judged.
#[derive(Clone, Copy, Debug)]
pub(in crate::net) struct Newcomer {
    /// None inside of one process.
    pub(in crate::net) site: Option<Site>,
    pub(in crate::net) is_inbound: bool,
    pub(in crate::net) is_quic: bool,
    pub(in crate::net) standing: Standing,
}

/// A connection that is there.
#[derive(Clone, Copy, Debug)]
pub(in crate::net) struct Held {
    pub(in crate::net) id: ConnectionId,
    pub(in crate::net) facts: Newcomer,
    /// Bytes of blocks that came from the peer or went to it.
    pub(in crate::net) moved: u64,
    pub(in crate::net) age: Duration,
    /// Whether something waits for the peer, or moves now.
    pub(in crate::net) is_busy: bool,
}

/// Judgement on a connection that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::net) enum Judgement {
    /// There is a place.
    Admit,
    /// There is one when this connection ends.
    Replace(ConnectionId),
    /// There is none.
    Refuse(Full),
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::net) enum Full {
    /// All places are taken.
    #[error("there are as many connections as there may be: {0}")]
    All(usize),
    /// A site has its share.
    #[error("there are as many connections with one address as there may be: {0}")]
    Site(usize),
}

/// The bounds.
#[derive(Clone, Copy, Debug)]
pub(in crate::net) struct Places {
    all: usize,
    /// Inbound ones of strangers, and those of them that are over QUIC.
    inbound: usize,
    quic: usize,
    /// Of strangers, whoever made them.
    strangers: usize,
    per_site: usize,
    per_near_site: usize,
    settled_after: Duration,
}

impl Places {
    pub(in crate::net) fn new(limits: &Limits) -> Self {
        let all = usize::try_from(limits.connections).unwrap_or(usize::MAX / 4);
        Self {
            all,
            inbound: (2 * all).div_ceil(3),
            quic: all.div_ceil(4),
            strangers: all - all / 8,
            per_site: limits.connections_per_site,
            per_near_site: limits.connections_per_near_site,
            settled_after: limits.settled_after,
        }
    }

    /// Connections that are too many, so that idle ones have to end; `strangers` of `all` are not
    /// with members.
    pub(in crate::net) fn excess(&self, all: usize, strangers: usize) -> usize {
        let of_all = all.saturating_sub(self.all);
        of_all.max(strangers.saturating_sub(self.strangers))
    }

    /// Whether there is a place for a further connection of this node's own.
    pub(in crate::net) const fn has_room(&self, all: usize) -> bool {
        all < self.all
    }

    /// Connections in all, but for the spare ones.
    pub(in crate::net) const fn all(&self) -> usize {
        self.all
    }

    /// Judges a connection that was made, beside those that are there.
    pub(in crate::net) fn judge(&self, newcomer: &Newcomer, held: &[Held]) -> Judgement {
        let is_stranger = |one: &&Held| one.facts.standing < Standing::Member;
        let strangers: Vec<&Held> = held.iter().filter(is_stranger).collect();
        let none = Full::All(self.all);
        if newcomer.standing == Standing::Member {
            return match held.len() < self.all + SPARE {
                true => Judgement::Admit,
                false => self.replace(&strangers, |_| true, none),
            };
        }
        if let Some(site) = newcomer.site {
            let share = match site.is_near() {
                true => self.per_near_site,
                false => self.per_site,
            };
            let of_site = |one: &Held| one.facts.site == Some(site);
            if strangers.iter().filter(|one| of_site(one)).count() >= share {
                return self.replace(&strangers, of_site, Full::Site(share));
            }
        }
        if !newcomer.is_inbound {
            let has_place = strangers.len() < self.strangers + SPARE;
            return match has_place && held.len() < self.all + SPARE {
                true => Judgement::Admit,
                false => Judgement::Refuse(none),
            };
        }
        let inbound = strangers.iter().filter(|one| one.facts.is_inbound);
        if newcomer.is_quic && inbound.clone().filter(|one| one.facts.is_quic).count() >= self.quic
        {
            return self.replace(&strangers, |one| one.facts.is_quic, none);
        }
        let has_place = inbound.count() < self.inbound && strangers.len() < self.strangers;
        match has_place && held.len() < self.all {
            true => Judgement::Admit,
            false => self.replace(&strangers, |_| true, none),
        }
    }

    /// Lets the least useful inbound connection of those that `may` give way to a newcomer.
    fn replace(&self, strangers: &[&Held], may: impl Fn(&Held) -> bool, none: Full) -> Judgement {
        let mut crowds: HashMap<Site, usize> = HashMap::new();
        for site in strangers.iter().filter_map(|one| one.facts.site) {
            *crowds.entry(site.region()).or_default() += 1;
        }
        let crowd = |one: &Held| {
            let site = one.facts.site.map(Site::region);
            let crowd = site.and_then(|region| crowds.get(&region));
            crowd.copied().unwrap_or(1)
        };
        let is_of_all = matches!(none, Full::All(_));
        let movable = strangers.iter().filter(|one| {
            let is_settled = one.facts.is_inbound && one.age >= self.settled_after;
            is_settled && may(one) && (!one.is_busy || (is_of_all && crowd(one) > 1))
        });
        let least = movable.min_by_key(|one| {
            let crowd = Reverse(crowd(one));
            let use_of_it = (one.facts.standing, crowd, one.moved);
            (one.is_busy, use_of_it, Reverse(one.age))
        });
        least.map_or(Judgement::Refuse(none), |one| Judgement::Replace(one.id))
    }
}

#[cfg(test)]
#[path = "places_tests.rs"]
mod tests;
