//! Forgetting snapshots: by a policy, or by name. Only logs change; the space comes back when it is pruned.
//!
//! A snapshot that this machine made is forgotten; one that another machine made is asked for
//! ([`fate`](super::fate)). An order of the owner's words is passed on by this machine ([`obey`]).

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use jiff::tz::TimeZone;

use super::archive::{Archive, Search};
use super::catalog::{Catalog, Listed};
use super::choice::Choice;
use super::error::Error;
use super::order::Order;
use super::owner::Membership;
use super::retention::{Grouping, Part, Policy, judge};
use super::unforget::bring_back;

/// How long to look for each log.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which snapshots to forget.
#[derive(Clone, Debug, Default)]
pub struct ForgetOptions {
    /// Which to keep of those that are judged. Without a rule all of them.
    pub policy: Policy,
    /// Properties that the snapshots of one group have in common; none said: see [`Grouping`].
    pub group_by: Option<BTreeSet<Part>>,
    /// Snapshots to forget by name, besides.
    pub names: Vec<String>,
    /// Judges only these.
    pub choice: Choice,
    /// Judges other machines' snapshots, too.
    pub all_machines: bool,
    /// Only says what would be done.
    pub dry_run: bool,
}

/// What was, or would be, forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forgot {
    /// Snapshots that were judged and stay, with the rules that keep them.
    pub kept: Vec<(Listed, Vec<&'static str>)>,
    /// Snapshots that go.
    pub forgotten: Vec<Listed>,
    /// Snapshots of other machines that this one asks to forget.
    pub asked: Vec<Listed>,
    /// Snapshots that were not judged for no other reason than that other machines made them. A
    /// machine that was set up anew from the words is another one than before.
    pub others: u64,
    /// Tags of the rules that no snapshot has that was judged.
    pub unknown_tags: Vec<String>,
    /// Paths of which no snapshot of this owner is left.
    pub bare_paths: Vec<Bytes>,
}

/// Forgets what the options say. `zone`: where a day begins.
///
/// # Errors
/// [`Error::NoSuchSnapshot`] and [`Error::Ambiguous`] for a wrong name, [`Error::Name`] and
/// [`Error::NoneChosen`] for a set, a tag or a path that no snapshot has, [`Error::NotOurs`] for
/// one that is named and that the owner's words keep: nothing is forgotten then.
/// [`Error::LogFull`].
pub async fn forget(
    archive: &Archive,
    member: &Membership,
    options: &ForgetOptions,
    zone: &TimeZone,
) -> Result<Forgot, Error> {
    let found = archive.find(Search::Glance, PATIENCE).await?;
    let machine = *member.machine().id().as_bytes();
    let mut forgot = Forgot::default();
    for name in &options.names {
        let listed = found.catalog.find(name)?;
        let id = listed.logged.snapshot.id;
        if found.fates.is_saved(&id) && !options.dry_run {
            let why = "is kept by the owner's words: only they forget it, with --phrase".to_owned();
            return Err(Error::NotOurs { id, why });
        }
        let going = forgot.going(listed.machine == machine);
        if !going.contains(listed) {
            going.push(listed.clone());
        }
    }
    // Names alone judge nobody else.
    if options.names.is_empty() || !options.policy.is_empty() {
        let (judged, others): (Vec<&Listed>, Vec<&Listed>) = found
            .catalog
            .choose(&options.choice)?
            .into_iter()
            .filter(|listed| !forgot.forgotten.contains(listed) && !forgot.asked.contains(listed))
            .partition(|listed| options.all_machines || listed.machine == machine);
        forgot.others = others.len() as u64;
        forgot.unknown_tags = options.policy.unknown_tags(&judged);
        let now = archive.clock().now();
        for verdict in judge(&options.policy, &judged, &options.grouping(), now, zone) {
            let listed = verdict.snapshot.clone();
            let is_saved = found.fates.is_saved(&listed.logged.snapshot.id);
            match verdict.reasons.is_empty() {
                true if is_saved => forgot.kept.push((listed, vec!["the owner's words"])),
                true => forgot.going(listed.machine == machine).push(listed),
                false => forgot.kept.push((listed, verdict.reasons)),
            }
        }
    }
    forgot.bare_paths = bare_paths(&found.catalog, &forgot.forgotten);
    if options.dry_run || (forgot.forgotten.is_empty() && forgot.asked.is_empty()) {
        return Ok(forgot);
    }
    archive
        .change_log(member, |log| {
            let all = forgot.forgotten.iter().chain(&forgot.asked);
            let mut ids = all.map(|l| l.logged.snapshot.id);
            ids.try_for_each(|id| log.forget(id))
        })
        .await?;
    Ok(forgot)
}

impl Forgot {
    /// The list for what goes, if it is this machine's own or not.
    const fn going(&mut self, is_own: bool) -> &mut Vec<Listed> {
        match is_own {
            true => &mut self.forgotten,
            false => &mut self.asked,
        }
    }
}

/// Has this machine's log carry an order of the owner's. A snapshot that the order keeps and this
/// machine forgot is named again. Returns the listed snapshots that the order is about.
///
/// # Errors
/// [`Error::OtherWords`], [`Error::LogFull`]: nothing has changed then.
pub async fn obey(
    archive: &Archive,
    member: &Membership,
    order: Order,
) -> Result<Vec<Listed>, Error> {
    if !order.is_by(member.owner()) {
        return Err(Error::OtherWords);
    }
    let found = archive.find(Search::Glance, PATIENCE).await?;
    let deleted = found.deleted();
    let mut concerned: Vec<Listed> = found.catalog.snapshots().to_vec();
    concerned.extend(deleted.into_iter().map(|deleted| deleted.listed));
    concerned.retain(|listed| order.ids().contains(&listed.logged.snapshot.id));
    concerned.sort_by_key(|listed| listed.logged.snapshot.id);
    concerned.dedup_by_key(|listed| listed.logged.snapshot.id);
    let store = archive.depot().store().clone();
    archive
        .change_log(member, |log| {
            if !order.forgets() {
                for id in order.ids() {
                    bring_back(log, id, &*store)?;
                }
            }
            log.carry(order)
        })
        .await?;
    Ok(concerned)
}

impl ForgetOptions {
    fn grouping(&self) -> Grouping {
        match &self.group_by {
            Some(parts) => Grouping::By(parts.clone()),
            // A job that backs up another directory each time has a tag, if no set.
            None if !self.choice.tags.is_empty() => Grouping::Chosen,
            None => Grouping::Usual,
        }
    }
}

/// Paths that some of the snapshots that go hold, and none of those that stay.
fn bare_paths(catalog: &Catalog, forgotten: &[Listed]) -> Vec<Bytes> {
    let paths = |listed: &Listed| listed.logged.summary.paths.clone();
    let stays = catalog.snapshots().iter();
    let stays = stays.filter(|listed| !forgotten.contains(listed));
    let still: BTreeSet<Bytes> = stays.flat_map(paths).collect();
    let gone: BTreeSet<Bytes> = forgotten.iter().flat_map(paths).collect();
    gone.difference(&still).cloned().collect()
}
