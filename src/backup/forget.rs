//! Forgetting snapshots: by a policy, or by name. Only logs change; the space comes back when it is pruned.

use jiff::tz::TimeZone;

use super::archive::{Archive, Search};
use super::error::Error;
use super::log::Listed;
use super::owner::Membership;
use super::retention::{Policy, judge};
use std::time::Duration;

/// How long to look for each log.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which snapshots to forget.
#[derive(Clone, Debug, Default)]
pub struct ForgetOptions {
    /// Which to keep of those that are judged. Without a rule all of them.
    pub policy: Policy,
    /// Snapshots to forget by name, besides.
    pub names: Vec<String>,
    /// Judges only snapshots of this set.
    pub set: Option<String>,
    /// Judges only snapshots with this tag.
    pub tag: Option<String>,
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
    /// Snapshots that were not judged for no other reason than that other machines made them. A machine that was set up anew from the words
    /// is another one than before.
    pub others: u64,
}

/// Forgets what the options say. `zone`: where a day begins.
///
/// # Errors
/// [`Error::NoSuchSnapshot`] and [`Error::Ambiguous`] for a wrong name: nothing is forgotten then. [`Error::LogFull`].
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
        if !forgot.forgotten.contains(listed) {
            forgot.forgotten.push(listed.clone());
        }
    }
    // Names alone judge nobody else.
    if options.names.is_empty() || !options.policy.is_empty() {
        let (judged, others): (Vec<&Listed>, Vec<&Listed>) = found
            .catalog
            .snapshots()
            .iter()
            .filter(|listed| options.concerns(listed))
            .filter(|listed| !forgot.forgotten.contains(listed))
            .partition(|listed| options.all_machines || listed.machine == machine);
        forgot.others = others.len() as u64;
        for verdict in judge(&options.policy, &judged, zone) {
            let listed = verdict.snapshot.clone();
            match verdict.reasons.is_empty() {
                true => forgot.forgotten.push(listed),
                false => forgot.kept.push((listed, verdict.reasons)),
            }
        }
    }
    if options.dry_run || forgot.forgotten.is_empty() {
        return Ok(forgot);
    }
    archive
        .change_log(member, |log| {
            let mut ids = forgot.forgotten.iter().map(|l| l.logged.snapshot.id);
            ids.try_for_each(|id| log.forget(id))
        })
        .await?;
    Ok(forgot)
}

impl ForgetOptions {
    /// Whether it has the set and the tag that are asked for.
    fn concerns(&self, listed: &Listed) -> bool {
        let summary = &listed.logged.summary;
        self.set.as_ref().is_none_or(|set| *set == summary.set)
            && self
                .tag
                .as_ref()
                .is_none_or(|tag| summary.tags.contains(tag))
    }
}
