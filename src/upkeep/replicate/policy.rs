//! What to do for the copies of backups: a pure function of the time, the facts and the limits.
//!
//! Nothing here waits, asks or remembers. Equal arguments give equal actions, in the same order;
//! moments of audits follow from a secret among the facts. Peers that stand where no copy is are
//! asked first, then those that keep related backups, then those that have most room; ties go by
//! name.
//!
//! Two measures of absence: what is *reported* counts a copy only while its holder was heard within the grace period, whatever the reason
//! of the silence. A *new* copy is made only when this machine was itself up and in company for three quarters of that period and missed the holder, or
//! had it there and got no answer ([`is_gone`]): a laptop that was asleep for days says that it knows nothing, and asks before it copies
//! everything again.
//!
//! Clocks are set wrong and set right again: what is noted as of the future was not seen at all. A copy counts only once it was audited.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::crypto::hash;
use crate::id::BlockId;
use crate::time::Timestamp;

/// What is noted as of later than this is of a clock that was set wrong.
const MAX_AHEAD: Duration = Duration::from_secs(5 * 60);
/// A lease is renewed when no more than this is left of it.
pub(super) const RENEW_BEFORE: Duration = Duration::from_secs(45 * 24 * 3600);

/// A peer's name, as it orders: the bytes of its id.
pub type PeerName = Vec<u8>;

/// How a copy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Asked for; the holder has not said that it is whole and durable.
    Asked,
    /// The holder said so.
    Held,
    /// It was found not to hold what it promised.
    Failed,
}

/// A copy at a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// How it stands.
    pub stage: Stage,
    /// When it was asked for, or renewed last.
    pub since: Timestamp,
    /// When the holder was last heard of this copy: an answer about it, or an audit passed.
    pub seen: Timestamp,
    /// For how long since the holder was there last this machine was up and in company: time in which it was missed.
    pub missed: Duration,
    /// For how long since `seen` both were there, and nothing was heard of the copy.
    pub unproven: Duration,
    /// When it last passed an audit.
    pub audited: Option<Timestamp>,
    /// When the lease ends, by our clock.
    pub until: Timestamp,
    /// Before this only the owner itself ends it.
    pub minimum_until: Timestamp,
}

/// What is to be copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Job {
    /// How many copies on other machines. None when the backup was forgotten.
    pub copies: u32,
    /// Bytes that a new copy takes at most.
    pub bytes: u64,
    /// The copies there are, by peer.
    pub held: BTreeMap<PeerName, Copy>,
    /// Peers that keep backups of the same set, this one among them, and how many: most of the blocks are there already.
    pub near: BTreeMap<PeerName, u32>,
    /// Peers that refused, and until when not to ask them again.
    pub refused: BTreeMap<PeerName, Timestamp>,
    /// Whether its blocks are not here any more: no more copies are made, nothing can be audited, and what there is stays.
    pub is_lost: bool,
    /// Whether another backup takes its place: no more copies are made, and those there are stay until that one has its own.
    pub is_replaced: bool,
}

/// What is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// What is to be copied, by snapshot.
    pub jobs: BTreeMap<BlockId, Job>,
    /// Peers that are online, with the bytes that they lend and are not used.
    pub online: BTreeMap<PeerName, u64>,
    /// Where peers stand, as far as that is known.
    pub sites: BTreeMap<PeerName, String>,
    /// A secret of this machine, from which the moments of audits follow: a holder can't foretell
    /// them.
    pub secret: [u8; 32],
}

/// Limits of what is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a holder may be away before another copy is made; see [`is_gone`].
    pub grace: Duration,
    /// How long a holder that was asked may make no progress before another one is asked.
    pub patience: Duration,
    /// A lease is renewed when no more than this is left of it.
    pub renew_before: Duration,
    /// Longest time between two audits of a copy whose holder is there; the shortest is half of it.
    pub audit_every: Duration,
    /// Most copies that are asked for and not there, in all.
    pub most_asked: usize,
    /// Most audits and renewals that one decision starts.
    pub most_checks: usize,
}

impl Default for Limits {
    fn default() -> Self {
        const HOUR: Duration = Duration::from_secs(3600);
        Self {
            grace: 24 * HOUR,
            patience: HOUR,
            renew_before: RENEW_BEFORE,
            audit_every: 24 * HOUR,
            most_asked: 8,
            most_checks: 16,
        }
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Ask a peer for a copy.
    Ask(BlockId, PeerName),
    /// Hear how a copy that was asked for stands.
    Poll(BlockId, PeerName),
    /// Ask a holder to keep its copy longer.
    Renew(BlockId, PeerName),
    /// Challenge a holder.
    Audit(BlockId, PeerName),
    /// Tell a holder that it need not keep its copy.
    Release(BlockId, PeerName),
    /// Don't count on a copy any more, and forget it.
    Forget(BlockId, PeerName),
}

/// How long ago something was.
fn age(now: Timestamp, at: Timestamp) -> Duration {
    match at > now.after(MAX_AHEAD) {
        true => Duration::MAX,
        false => now.since(at),
    }
}

/// When a copy last passed an audit.
fn audited(copy: &Copy, now: Timestamp) -> Option<Timestamp> {
    copy.audited.filter(|at| age(now, *at) < Duration::MAX)
}

/// Time from its last audit until a copy is audited again: between half of the limit and all of it.
fn audit_after(
    root: BlockId,
    peer: &[u8],
    last: Timestamp,
    facts: &Facts,
    limits: &Limits,
) -> Duration {
    let about = [&root.to_multihash(), peer, &last.0.to_be_bytes()].concat();
    let [a, b, c, d, ..] = hash::keyed(&facts.secret, &about);
    let part = u128::from(u32::from_be_bytes([a, b, c, d]));
    let half_ms = limits.audit_every.as_millis() / 2;
    let ms = half_ms + ((half_ms * part) >> 32);
    Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX))
}

/// Whether a copy counts: it was there, as an audit showed, and its holder has not been away for too long.
pub fn counts(copy: &Copy, now: Timestamp, limits: &Limits) -> bool {
    let is_held = copy.stage == Stage::Held && copy.until > now;
    is_held && age(now, copy.seen) <= limits.grace && audited(copy, now).is_some()
}

/// Whether a holder has been away for so long that its copy is to be made anew.
pub fn is_gone(copy: &Copy, now: Timestamp, limits: &Limits) -> bool {
    let most = limits.grace * 3 / 4;
    age(now, copy.seen) > limits.grace && (copy.missed > most || copy.unproven > most)
}

/// Whether a copy that was asked for may still come soon. Time in which this machine itself was away is no delay of the holder's.
pub fn is_coming(copy: &Copy, limits: &Limits) -> bool {
    copy.stage == Stage::Asked && copy.missed + copy.unproven <= limits.patience
}

/// How many copies of a job count.
pub fn reached(job: &Job, now: Timestamp, limits: &Limits) -> u32 {
    let held = job.held.values().filter(|copy| counts(copy, now, limits));
    u32::try_from(held.count()).unwrap_or(u32::MAX)
}

/// What to do now. At most one action for each copy; peers that are not online are left in peace.
pub fn choose(now: Timestamp, facts: &Facts, limits: &Limits) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut checks = 0;
    let mut asked = facts
        .jobs
        .values()
        .flat_map(|job| job.held.values())
        .filter(|copy| is_coming(copy, limits))
        .count();
    // What is asked of each peer in this decision counts against its room, and spreads the load.
    let mut promised: BTreeMap<&PeerName, (u64, u64)> = BTreeMap::new();
    for job in facts.jobs.values() {
        for (peer, copy) in &job.held {
            if copy.stage == Stage::Asked {
                promised.entry(peer).or_default().1 += 1;
            }
        }
    }
    // Those that are furthest from what was promised come first.
    let mut order: Vec<(&BlockId, &Job)> = facts.jobs.iter().collect();
    order.sort_by_key(|(root, job)| (reached(job, now, limits), **root));
    for (root, job) in order {
        let looked = look(now, *root, job, facts, limits, &mut checks, &mut actions);
        let wanted = match job.is_lost || job.is_replaced {
            true => 0,
            false => (job.copies as usize).saturating_sub(looked.counted),
        };
        for _ in 0..wanted {
            if asked >= limits.most_asked {
                break;
            }
            let taken: BTreeSet<&PeerName> = job.held.keys().collect();
            let asked_now = actions.iter().filter_map(|action| match action {
                Action::Ask(of, peer) if of == root => Some(peer),
                _ => None,
            });
            // A copy where there is one already is lost with it: it is better than none, and worse
            // than any other.
            let sites: BTreeSet<&String> = (taken.iter().copied().chain(asked_now))
                .filter_map(|peer| facts.sites.get(peer))
                .collect();
            let best = facts
                .online
                .iter()
                .filter(|(peer, _)| !taken.contains(peer))
                .filter(|(peer, _)| job.refused.get(*peer).is_none_or(|until| *until <= now))
                .filter(|(peer, _)| {
                    let ask = Action::Ask(*root, (*peer).clone());
                    !actions.contains(&ask)
                })
                .filter_map(|(peer, free)| {
                    let (bytes, jobs) = promised.get(peer).copied().unwrap_or_default();
                    let is_near = job.near.contains_key(peer);
                    let left = free.saturating_sub(bytes);
                    let fits = left >= job.bytes || is_near;
                    let site = facts.sites.get(peer);
                    let is_beside = site.is_some_and(|site| sites.contains(site));
                    fits.then_some((is_beside, !is_near, jobs, std::cmp::Reverse(left), peer))
                })
                .min();
            let Some((.., peer)) = best else {
                break;
            };
            let promise = promised.entry(peer).or_default();
            promise.0 = promise.0.saturating_add(job.bytes);
            promise.1 += 1;
            asked += 1;
            actions.push(Action::Ask(*root, peer.clone()));
        }
    }
    actions
}

struct Looked {
    /// Copies that are there, or on their way.
    counted: usize,
}

/// Copies that are more than was asked for.
#[derive(Default)]
struct Surplus<'a> {
    /// Those that go now.
    go: BTreeSet<&'a PeerName>,
    /// Those that are not renewed, and so can go once their minimum is over: with each renewal it would begin anew.
    fade: BTreeSet<&'a PeerName>,
}

/// Which copies are more than was asked for and may go: only as many as leave the asked number of copies that count, and
/// only where the minimum is over, because before it the holder would refuse. Those that keep related backups and those that
/// were audited last stay.
fn surplus<'a>(now: Timestamp, job: &'a Job, facts: &Facts, limits: &Limits) -> Surplus<'a> {
    if job.is_lost || job.is_replaced {
        return Surplus::default();
    }
    let proven = job
        .held
        .iter()
        .filter(|(_, copy)| counts(copy, now, limits));
    let more = proven.clone().count().saturating_sub(job.copies as usize);
    let mut may_go: Vec<_> = proven
        .clone()
        .filter(|(peer, copy)| facts.online.contains_key(*peer) && copy.minimum_until <= now)
        .map(|(peer, copy)| (job.near.get(peer).copied(), copy.audited, peer))
        .collect();
    may_go.sort();
    let go: BTreeSet<_> = may_go
        .into_iter()
        .take(more)
        .map(|(.., peer)| peer)
        .collect();
    // The same ones each time, or else each would be renewed in its turn.
    let mut may_fade: Vec<_> = proven
        .filter(|(peer, _)| !go.contains(peer))
        .map(|(peer, copy)| (copy.minimum_until, peer))
        .collect();
    may_fade.sort();
    let fade = may_fade.into_iter().take(more - go.len());
    Surplus {
        fade: fade.map(|(_, peer)| peer).collect(),
        go,
    }
}

/// Decides about the copies that there are.
fn look(
    now: Timestamp,
    root: BlockId,
    job: &Job,
    facts: &Facts,
    limits: &Limits,
    checks: &mut usize,
    actions: &mut Vec<Action>,
) -> Looked {
    let mut counted = 0;
    let surplus = surplus(now, job, facts, limits);
    for (peer, copy) in &job.held {
        let is_online = facts.online.contains_key(peer);
        let silent = age(now, copy.seen);
        let name = || peer.clone();
        if copy.stage == Stage::Failed || copy.until <= now {
            actions.push(Action::Forget(root, name()));
            continue;
        }
        if job.copies == 0 {
            // Before the minimum the holder would refuse; it is told when that is over.
            if is_online && copy.minimum_until <= now {
                actions.push(Action::Release(root, name()));
            }
            continue;
        }
        if copy.stage == Stage::Asked {
            counted += usize::from(is_coming(copy, limits));
            if is_gone(copy, now, limits) {
                actions.push(Action::Forget(root, name()));
            } else if is_online {
                actions.push(Action::Poll(root, name()));
            }
            continue;
        }
        if surplus.go.contains(peer) {
            actions.push(Action::Release(root, name()));
            continue;
        }
        // One that comes back after its time counts again as soon as it was audited. One whose holder does not renew it is made up for in time.
        let left = copy.until.since(now);
        let is_ending = left <= limits.renew_before / 2;
        counted += usize::from(!is_gone(copy, now, limits) && !is_ending);
        let is_due = audited(copy, now)
            .is_none_or(|at| age(now, at) >= audit_after(root, peer, at, facts, limits));
        if !is_online || *checks >= limits.most_checks {
            continue;
        }
        let may_renew = job.refused.get(peer).is_none_or(|until| *until <= now);
        if left <= limits.renew_before && may_renew && !surplus.fade.contains(peer) {
            *checks += 1;
            actions.push(Action::Renew(root, name()));
        } else if job.is_lost {
            // Without the blocks nothing can be audited; the holder says how it stands.
            if silent > limits.grace / 2 {
                *checks += 1;
                actions.push(Action::Poll(root, name()));
            }
        } else if is_due || silent > limits.grace / 2 {
            *checks += 1;
            actions.push(Action::Audit(root, name()));
        }
    }
    Looked { counted }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
