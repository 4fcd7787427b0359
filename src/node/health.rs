//! Whether every backup is there, as new as it should be, and has its copies: one answer from the
//! sets, the snapshots, and the list of copies.
//!
//! Answers say only what was found: a time or a copy that nobody knows of is missing from the
//! answer, and makes it no better.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use libp2p::PeerId;
use tokio::time::Instant;

use super::api::*;
use super::backup::{last_run, newest, troubles};
use super::copies::put_aside;
use super::{Node, blocking, schedule};
use crate::backup::owner::Membership;
use crate::backup::sets::{Set, Sets};
use crate::backup::{Found, Search};
use crate::net::rings::{Member, Site};
use crate::pick::pick;
use crate::time::{self, Timestamp};
use crate::upkeep::replicate::{Holders, Limits};

/// Snapshots of this machine, as far as they are known.
enum Known {
    /// All that the logs here say.
    Snapshots(Box<Membership>, Box<Found>),
    /// Nothing before the passphrase is given.
    Locked,
    /// Nothing: the logs can't be read.
    Unreadable,
    /// This machine has no owner.
    NoOwner,
}

impl Node {
    /// Health of each set's backups.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when no set is called so, [`ErrorKind::Usage`] when several may be
    /// meant.
    pub async fn health(&self, request: Health) -> Result<HealthReply, CallError> {
        self.health_of(request, true).await
    }

    /// As [`health`](Self::health), and nobody else is asked for the head.
    pub(super) async fn health_as_known(&self, request: Health) -> Result<HealthReply, CallError> {
        self.health_of(request, false).await
    }

    async fn health_of(&self, request: Health, reads_head: bool) -> Result<HealthReply, CallError> {
        let mut reply = HealthReply {
            clocks: self.clock_troubles(),
            problems: self.ring_troubles(),
            ..HealthReply::default()
        };
        let dir = self.inner.options.data_dir.clone();
        let aside = dir.clone();
        let sets = match blocking(move || Ok(Sets::load(&dir)?)).await {
            Ok(sets) => sets,
            Err(error) => {
                reply.problems.push(error.message);
                Sets::default()
            }
        };
        let known = match self.known().await {
            Ok(known) => known,
            Err(error) => {
                reply.problems.push(error.message);
                Known::Unreadable
            }
        };
        reply.owner = !matches!(known, Known::NoOwner);
        // Looking for the backups has read the files.
        reply
            .problems
            .extend(blocking(move || Ok(put_aside(&aside))).await?);
        if let Known::Snapshots(member, found) = &known {
            let head = found.head.iter();
            reply
                .problems
                .extend(head.flat_map(|head| troubles(head, member)));
            let this = member.machine().id().to_string();
            reply.requests = self.requests(found);
            let concerns = |one: &ForgetRequest| {
                one.machine == this && matches!(one.state, RequestState::Notice | RequestState::Due)
            };
            reply.requests.retain(concerns);
        }
        if reads_head
            && let Known::Snapshots(member, _) = &known
            && !self.inner.copies.leases().is_empty()
        {
            let archive = self.own_archive(member);
            match self.read_back(&archive, member, Instant::now()).await {
                Ok(head) => reply.head = head,
                Err(error) => reply.problems.push(error.message),
            }
        }
        let copied = self.inner.copies.health(self.now(), &Limits::default());
        let mut copied: BTreeMap<String, _> = copied
            .into_iter()
            .map(|set| (set.name.clone(), set))
            .collect();
        let mut names: BTreeSet<String> = copied.keys().cloned().collect();
        names.extend(sets.as_slice().iter().map(|set| set.name.clone()));
        names.extend(known.names());
        let names = match &request.set {
            Some(text) => vec![one_of(text, names)?],
            None => names.into_iter().collect(),
        };
        let gone = self.gone(&sets).await?;
        for name in names {
            let copied = copied.remove(&name);
            let copies_of_newest = copied.as_ref().and_then(|copied| {
                let Known::Snapshots(member, found) = &known else {
                    return None;
                };
                let newest = newest(found, member, &name)?.logged.snapshot.id;
                copied.copies.get(&newest).copied()
            });
            let mut health = self.of_copies(copied);
            health.newest = copies_of_newest.map(|(copies, copies_asked)| NewestCopies {
                copies,
                copies_asked,
            });
            health.name.clone_from(&name);
            self.add_times(&mut health, sets.get(&name), &known);
            if let Some(set) = sets.get(&name) {
                health.problem = self.problem(set, &known, gone.get(&name));
                health.unmatched = self.inner.schedule.unmatched(&name);
            }
            reply.sets.push(health);
        }
        let sites = self.net().rings().sites();
        let holders = reply.sets.iter().flat_map(|set| &set.holders);
        reply.doubts = doubts(holders, |peer| sites.get(peer).cloned());
        Ok(reply)
    }

    async fn known(&self) -> Result<Known, CallError> {
        let member = match self.member(&Speaker::default()).await {
            Ok(member) => member,
            Err(error) if error.kind == ErrorKind::OwnerLocked => return Ok(Known::Locked),
            Err(error) if error.kind == ErrorKind::NoOwner => return Ok(Known::NoOwner),
            Err(error) => return Err(error),
        };
        let found = self.own_archive(&member);
        let found = found.find(Search::Here, Duration::ZERO).await?;
        Ok(Known::Snapshots(Box::new(member), Box::new(found)))
    }

    /// State of a set by the list of copies.
    fn of_copies(&self, copied: Option<crate::upkeep::replicate::SetHealth>) -> SetHealth {
        let Some(copied) = copied else {
            return SetHealth::default();
        };
        let audited_s_ago = |at: Timestamp| self.now().since(at).as_secs();
        SetHealth {
            copies_min: copied.copies_min,
            copies_asked: copied.copies_asked,
            survives: copied.survives,
            lost: copied.lost,
            audited_s_ago: copied.audited.map(audited_s_ago),
            holders: self.holder_states(&copied.holders),
            ..SetHealth::default()
        }
    }

    /// Holders as people know them.
    pub(super) fn holder_states(&self, holders: &Holders) -> Vec<HolderState> {
        let rings = self.net().rings();
        let names: Vec<String> = rings
            .rings()
            .as_slice()
            .iter()
            .map(|r| r.name().to_owned())
            .collect();
        let members = names.iter().filter_map(|name| rings.members(name).ok());
        let members: Vec<Member> = members.flatten().collect();
        let state = |(peer, seen): (&Vec<u8>, &Timestamp)| {
            let peer = PeerId::from_bytes(peer).ok()?;
            let known = || members.iter().filter(|member| member.peer == peer);
            let name = known()
                .map(|member| &member.name)
                .find(|name| !name.is_empty());
            let online = known().any(|member| member.online);
            let last = known()
                .map(|member| member.last_seen)
                .fold(*seen, Timestamp::max);
            Some(HolderState {
                peer: peer.to_string(),
                name: name.cloned().unwrap_or_default(),
                online,
                seen_s_ago: (!online).then(|| self.now().since(last).as_secs()),
            })
        };
        holders.iter().filter_map(state).collect()
    }

    /// When the set was backed up, and when it should be.
    fn add_times(&self, health: &mut SetHealth, set: Option<&Set>, known: &Known) {
        let now = self.now();
        let last = match known {
            Known::Snapshots(member, found) => last_run(found, member, &health.name),
            Known::Locked | Known::Unreadable | Known::NoOwner => None,
        };
        health.last_backup = last;
        health.last_backup_s_ago = last.map(|last| now.since(last).as_secs());
        let Some(set) = set else {
            return;
        };
        health.never = last.is_none() && matches!(known, Known::Snapshots(..));
        let Some(schedule) = set.schedule else {
            return;
        };
        let zone = time::zone();
        health.schedule = Some(schedule.to_string());
        health.next_backup = Some(schedule.next_after(last, now, &zone));
        health.overdue_since = last.and_then(|last| schedule.overdue_since(last, now, &zone));
    }

    /// Why a set can't be backed up now, or could not be the last time.
    fn problem(&self, set: &Set, known: &Known, gone: Option<&String>) -> Option<String> {
        if let Some(gone) = gone {
            return Some(gone.clone());
        }
        // A node inside of a command runs no set by itself.
        let is_scheduled = set.schedule.is_some() && self.inner.options.http.is_some();
        match known {
            Known::NoOwner => Some("there is no owner: `libernet init` makes one".to_owned()),
            Known::Locked if is_scheduled => Some(schedule::NEEDS_PASSPHRASE.to_owned()),
            Known::Locked | Known::Unreadable | Known::Snapshots(..) => {
                let failed = self.inner.schedule.failure(&set.name)?;
                Some(format!("the last run failed: {failed}"))
            }
        }
    }

    /// Which paths of each set are not there, in words.
    async fn gone(&self, sets: &Sets) -> Result<BTreeMap<String, String>, CallError> {
        let sets = sets.clone();
        blocking(move || {
            let gone = sets.as_slice().iter();
            let gone = gone.filter_map(|set| Some((set.name.clone(), set.gone()?)));
            Ok(gone.collect())
        })
        .await
    }
}

impl Known {
    /// Names of the sets that this machine has backed up.
    fn names(&self) -> BTreeSet<String> {
        let Self::Snapshots(member, found) = self else {
            return BTreeSet::new();
        };
        let machine = member.machine().id();
        let own = found.catalog.snapshots().iter();
        let own = own.filter(|listed| listed.machine == *machine.as_bytes());
        own.map(|listed| listed.logged.summary.set.clone())
            .collect()
    }
}

/// Holders that can't be told apart by what is known of them, each group once.
fn doubts<'a>(
    holders: impl Iterator<Item = &'a HolderState>,
    site_of: impl Fn(&PeerId) -> Option<Site>,
) -> Vec<String> {
    let mut by_site: BTreeMap<Site, BTreeMap<&str, &str>> = BTreeMap::new();
    for holder in holders {
        let peer = holder.peer.parse().ok();
        if let Some(site) = peer.as_ref().and_then(&site_of) {
            let name = match holder.name.as_str() {
                "" => &holder.peer,
                name => name,
            };
            by_site.entry(site).or_default().insert(&holder.peer, name);
        }
    }
    let same = by_site.into_iter().filter(|(_, holders)| holders.len() > 1);
    let told = same.map(|(site, holders)| {
        let names: Vec<&str> = holders.into_values().collect();
        let names = names.join(" and ");
        match site {
            Site::Place(place) => format!(
                "{names} count as separate copies and stand in '{place}': what happens to one there may happen to the other"
            ),
            Site::Address(ip) => format!(
                "{names} count as separate copies and are perhaps the same machine: both say they are at {ip}. If they are \
                 not, say where each stands: `libernet ring place RING MEMBER PLACE`"
            ),
        }
    });
    told.collect()
}

fn one_of(text: &str, names: BTreeSet<String>) -> Result<String, CallError> {
    let names: Vec<String> = names.into_iter().filter(|name| !name.is_empty()).collect();
    Ok(pick("set", text, &names, |name| vec![name.clone()])?.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_at_one_address_or_in_one_place_are_named() {
        let peers: Vec<PeerId> = (0..4).map(|_| PeerId::random()).collect();
        let holder = |at: usize, name: &str| HolderState {
            peer: peers[at].to_string(),
            name: name.to_owned(),
            online: true,
            seen_s_ago: None,
        };
        let holders = [
            holder(0, "a"),
            holder(1, "b"),
            holder(2, "c"),
            holder(3, "d"),
        ];
        let ip = |last| Site::Address([10, 0, 0, last].into());
        let told = |sites: [Option<Site>; 4]| {
            // A holder of two sets is named once.
            doubts(holders.iter().chain(&holders[..1]), |peer| {
                let at = peers.iter().position(|other| other == peer)?;
                sites[at].clone()
            })
        };
        assert!(told([None, None, None, None]).is_empty());
        assert!(told([Some(ip(1)), Some(ip(2)), None, None]).is_empty());
        let same = told([Some(ip(1)), Some(ip(2)), Some(ip(1)), None]);
        assert_eq!(same.len(), 1);
        assert!(same[0].contains("perhaps the same machine"), "{same:?}");
        assert!(
            same[0].contains("10.0.0.1") && !same[0].contains("b "),
            "{same:?}"
        );
        let place = || Some(Site::Place("attic".to_owned()));
        let same = told([place(), Some(ip(2)), None, place()]);
        assert!(same[0].contains("stand in 'attic'"), "{same:?}");
    }
}
