//! Checks of the machine and of the backups.

use std::time::Duration;

use super::Check;
use super::facts::{Disk, Facts, Told};
use crate::cli::health::{copies_text, name_of};
use crate::cli::show;
use crate::node::api::{SetHealth, StatusReply, WorkerStatus};
use crate::problems::{Severity, room};
use crate::size::ByteSize;

/// A file dated so far ahead was written by another clock.
const MAX_AHEAD: Duration = Duration::from_secs(5 * 60);
/// Kinds of problems that a check of its own tells.
const CHECKED: [&str; 11] = [
    "announcing",
    "backup_failed",
    "backup_lost",
    "backup_never",
    "clock",
    "copies_missing",
    "disk",
    "forget_requests",
    "no_backup",
    "other",
    "quota",
];

/// Checks of the machine and of the backups, in the order in which they are shown.
pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![
        clock(facts),
        disk(facts),
        quota(facts),
        announcing(facts.node.as_ref()),
    ];
    match &facts.node {
        Some(told) => checks.extend(of_health(told)),
        None => checks.extend(of_files(&facts.disk)),
    }
    checks
}

fn clock(facts: &Facts) -> Check {
    const ID: &str = "clock";
    if let Some((name, at)) = &facts.disk.newest
        && *at > facts.now.after(MAX_AHEAD)
    {
        return Check::wrong(
            ID,
            format!(
                "this machine's clock says {}, and {name} was written on {}: one of the two times is wrong",
                show::timestamp(facts.now),
                show::timestamp(*at)
            ),
            "set the clock, and let the system keep it right (NTP); leases and schedules go by it",
        );
    }
    let Some(told) = &facts.node else {
        return Check::unknown(
            ID,
            "no node runs that could compare it; no file here is dated ahead of it",
        );
    };
    if !told.health.clocks.is_empty() {
        return Check::wrong(
            ID,
            told.health.clocks.join("; "),
            "set the clock that is wrong, and let the system keep it right (NTP)",
        );
    }
    let compared = told.members.iter();
    match compared
        .filter(|member| member.clock_ahead_s.is_some())
        .count() as u64
    {
        0 => Check::unknown(
            ID,
            "no member of a ring is online to compare it with; no file here is dated ahead of it",
        ),
        members => Check::right(
            ID,
            format!("within an hour of {}", show::count(members, "member")),
        ),
    }
}

fn disk(facts: &Facts) -> Check {
    const ID: &str = "disk";
    let Some((bytes, free)) = facts.disk.room else {
        return Check::unknown(ID, "the system does not tell how much room is left");
    };
    let (used, quota) = match &facts.node {
        Some(told) => (told.status.store.disk_bytes, told.status.store.quota),
        None => (facts.disk.used_bytes, facts.config.quota.0),
    };
    let allowed = quota.saturating_sub(used);
    let text = format!(
        "{} free where the data is, and the quota allows {} more",
        ByteSize(free),
        ByteSize(allowed)
    );
    match free < room::low_disk_bytes(bytes, allowed) {
        true => Check::wrong(
            ID,
            text,
            "make room on this disk, or lower the quota (`libernet config set quota SIZE`); `libernet forget` with --prune and \
             `libernet pin rm` give back what is not needed",
        ),
        false => Check::right(ID, text),
    }
}

fn quota(facts: &Facts) -> Check {
    const ID: &str = "quota";
    let advice = "`libernet config set quota SIZE` raises it; `libernet forget` with --prune and `libernet pin rm` make room";
    let Some(told) = &facts.node else {
        let (used, quota) = (facts.disk.used_bytes, facts.config.quota.0);
        let text = format!("{} of {} used", ByteSize(used), ByteSize(quota));
        return match room::is_nearly_full(used, quota) {
            true => Check::unknown(
                ID,
                format!("{text}; only a running node knows what of it can be dropped"),
            ),
            false => Check::right(ID, text),
        };
    };
    let StatusReply { store, .. } = &told.status;
    let kept = store.pinned_bytes.saturating_add(store.leased_bytes);
    let text = format!(
        "{} of {} used, {} of it can't be dropped",
        ByteSize(store.disk_bytes),
        ByteSize(store.quota),
        ByteSize(kept)
    );
    match room::is_nearly_full(kept, store.quota) {
        true => Check::wrong(ID, text, advice),
        false => Check::right(ID, text),
    }
}

fn announcing(told: Option<&Told>) -> Check {
    const ID: &str = "announcing";
    let Some(told) = told else {
        return Check::unknown(
            ID,
            "no node runs: nothing is announced, and what was is forgotten by others after two days",
        );
    };
    let is_it = |worker: &&WorkerStatus| worker.name == "announce";
    let worker = told.status.workers.iter().find(is_it);
    if let Some(error) = worker.and_then(|worker| worker.error.as_ref()) {
        return Check::wrong(
            ID,
            format!("the last round failed: {error}"),
            "is this node connected? `libernet peers` shows it; the node tries again by itself",
        );
    }
    let Some(announcing) = &told.status.announcing else {
        return Check::right(
            ID,
            "nothing is announced: the DHT hears of nothing that is here",
        );
    };
    if let Some(warning) = &announcing.warning {
        return Check::wrong(
            ID,
            warning.clone(),
            "leave the node running and connected; announcing less helps, too: `libernet config show` lists the settings announce",
        );
    }
    match announcing.late_s {
        0 => Check::right(
            ID,
            format!(
                "{} of {} of what is here announced in time",
                announcing.on_time,
                show::count(announcing.parts, "part")
            ),
        ),
        late_s => Check::right(
            ID,
            format!(
                "late by {}; nothing that others know of has ended yet",
                show::duration(Duration::from_secs(late_s))
            ),
        ),
    }
}

/// Checks of the backups by the running node's answers.
fn of_health(told: &Told) -> Vec<Check> {
    let health = &told.health;
    let mut checks = vec![backups(told), copies(told)];
    checks.extend(health.problems.iter().map(|problem| {
        Check::wrong(
            "problem",
            problem.clone(),
            "see to what is named; `libernet health` and the node's log say more",
        )
    }));
    if let Some(head) = health.head.filter(|head| !head.is_found()) {
        checks.push(Check::wrong(
            "head",
            crate::cli::backup::run::found(Some(head)),
            "leave the node running and look again in some minutes; `libernet drill` tries a restore from the words alone",
        ));
    }
    if !health.requests.is_empty() {
        let count = show::count(health.requests.len() as u64, "request");
        checks.push(Check::wrong(
            "requests",
            format!("{count} of other machines to forget snapshots of this one"),
            "`libernet snapshots` names them, `libernet unforget ID` keeps a snapshot",
        ));
    }
    let others = told
        .problems
        .iter()
        .filter(|one| !CHECKED.contains(&&*one.id));
    checks.extend(others.map(|problem| match problem.severity {
        Severity::Notice => {
            Check::right("problem", problem.text.clone()).with_advice(&*problem.advice)
        }
        _ => Check::wrong("problem", problem.text.clone(), &*problem.advice),
    }));
    checks
}

fn backups(told: &Told) -> Check {
    const ID: &str = "backups";
    let health = &told.health;
    if health.sets.is_empty() {
        return match health.owner {
            true => Check::wrong(
                ID,
                "there is an owner, and nothing is backed up",
                "`libernet backup PATH`, or `libernet backup add PATH --schedule daily`",
            ),
            false => Check::right(ID, "this machine backs nothing up")
                .with_advice("`libernet init` is the first step to backups"),
        };
    }
    let late: Vec<String> = health.sets.iter().filter_map(lateness).collect();
    match late.is_empty() {
        true => Check::right(
            ID,
            format!(
                "{} backed up, and none is overdue",
                show::count(health.sets.len() as u64, "set")
            ),
        ),
        false => Check::wrong(
            ID,
            late.join("; "),
            "`libernet backup --set NAME` backs it up now and says what is in the way",
        ),
    }
}

/// Why a set's newest backup is not as new as it should be.
fn lateness(set: &SetHealth) -> Option<String> {
    let name = name_of(set);
    if let Some(problem) = &set.problem {
        return Some(format!("{name}: {problem}"));
    }
    if set.never {
        return Some(format!("{name} was never backed up"));
    }
    let since = set.overdue_since?;
    Some(format!(
        "{name} is overdue since {}",
        show::timestamp(since)
    ))
}

fn copies(told: &Told) -> Check {
    const ID: &str = "copies";
    let made: Vec<&SetHealth> = told.health.sets.iter().filter(|set| !set.never).collect();
    if made.is_empty() {
        return Check::right(ID, "there is no backup that could have copies");
    }
    let is_short = |set: &&&SetHealth| !set.is_as_asked() || set.copies_min == 0;
    let short: Vec<String> = made
        .iter()
        .filter(is_short)
        .map(|set| format!("{}: {}", name_of(set), copies_text(set)))
        .collect();
    if short.is_empty() {
        return Check::right(
            ID,
            "every backup has the copies that it asks for, as far as holders were heard of",
        );
    }
    let advice = match told.rings.is_empty() {
        true => {
            "`libernet ring create NAME` here and `libernet ring join` on other machines: members keep each other's backups"
        }
        false => {
            "start the other members' nodes (`libernet up`), or add a member; `libernet ring members` shows who is online"
        }
    };
    Check::wrong(ID, short.join("; "), advice)
}

/// Checks of the backups by the files alone, without a node.
fn of_files(disk: &Disk) -> Vec<Check> {
    let mut checks = Vec::new();
    let gone = disk.gone.iter().map(|(set, why)| format!("{set}: {why}"));
    let gone: Vec<String> = gone.collect();
    checks.push(if !gone.is_empty() {
        Check::wrong(
            "backups",
            gone.join("; "),
            "bring the path back, or `libernet backup remove NAME`",
        )
    } else if !disk.has_owner && disk.sets.is_empty() {
        Check::right("backups", "this machine backs nothing up")
            .with_advice("`libernet init` is the first step to backups")
    } else {
        let sets = show::count(disk.sets.len() as u64, "set");
        Check::unknown(
            "backups",
            format!(
                "{sets} here; `libernet health` opens the store and tells when each was backed up"
            ),
        )
    });
    checks.push(
        Check::unknown("copies", "only a running node looks after copies")
            .with_advice("`libernet health` tells what this machine knows of them"),
    );
    checks.extend(disk.problems.iter().map(|problem| {
        Check::wrong(
            "problem",
            problem.clone(),
            "see to that file; the command that needs it says more",
        )
    }));
    checks
}
