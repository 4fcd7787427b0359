//! Problems of this node and of its backups: found again and again, kept in the book, told once.
//!
//! [`find`] is pure: what the node knows of itself, to problems. A node that runs until it is
//! stopped writes the book and tells people; one inside of a command only reads it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::api::*;
use super::{Inner, Node, NodeEvent, blocking, rings, schedule};
use crate::backup::schedule::Schedule;
use crate::backup::sets::Sets;
use crate::file;
use crate::problems::book::{Book, Kind, Notice};
use crate::problems::send::{self, Delivery};
use crate::problems::{
    DRILL_EVERY_DAYS, DRILL_FILE, DrillScore, Found, MAX_DRILL_BYTES, Problem, Severity, room,
};
use crate::task::WorkerState;
use crate::text::count;
use crate::time::Timestamp;
use crate::upkeep::replicate::Holders;

/// How often problems are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Pause before the first look: what members and holders say is not known at once.
const FIRST_AFTER: Duration = Duration::from_secs(10);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Time without a sign of a holder after which it is one that is gone.
const HOLDER_GONE: Duration = Duration::from_secs(2 * 24 * 3600);
/// Intervals of its schedule after which a set without a backup is overdue.
const INTERVALS: u32 = 3;

/// Problems that the node knows of.
#[derive(Debug, Default)]
pub(super) struct Record(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// None before it was read.
    book: Option<Book>,
    /// Ways on which the last message did not arrive, and why.
    undelivered: BTreeMap<&'static str, String>,
}

impl Record {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is whole before the lock is given back.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn delivered(&self, deliveries: &[Delivery]) {
        let undelivered = &mut self.lock().undelivered;
        for delivery in deliveries {
            match &delivery.error {
                Some(error) => undelivered.insert(delivery.way, error.clone()),
                None => undelivered.remove(delivery.way),
            };
        }
    }
}

/// All that problems are found from.
#[derive(Debug)]
struct Facts {
    now: Timestamp,
    status: StatusReply,
    health: HealthReply,
    /// Seconds after which a set without a new backup is overdue, by its name.
    warn_after: BTreeMap<String, Duration>,
    /// Holders of whole copies that are not connected, and that were heard of before.
    away: Vec<HolderState>,
    /// Names of holders that failed an audit.
    failed_audits: Vec<String>,
    /// Bytes of the disk, and free ones.
    disk: Option<(u64, u64)>,
    drill: Option<DrillScore>,
    undelivered: BTreeMap<&'static str, String>,
}

impl Node {
    /// What is wrong now.
    ///
    /// # Errors
    /// When the node can't tell how it is.
    pub async fn problems(&self, _: Problems) -> Result<ProblemsReply, CallError> {
        let problems = self.look_for_problems().await?;
        Ok(ProblemsReply { problems })
    }

    /// Sends a message on each way that the settings name.
    ///
    /// # Errors
    /// None at present.
    pub async fn notify_test(&self, _: NotifyTest) -> Result<NotifyTestReply, CallError> {
        let deliveries = self.notify(vec![Notice::test(self.now())]).await;
        let ways = deliveries.into_iter().map(|delivery| WayState {
            way: delivery.way.to_owned(),
            error: delivery.error,
        });
        Ok(NotifyTestReply {
            ways: ways.collect(),
        })
    }

    /// Sends a message on the ways that the settings name now.
    async fn notify(&self, notices: Vec<Notice>) -> Vec<Delivery> {
        let dir = self.inner.options.data_dir.clone();
        let name = blocking(move || Ok(rings::machine_name(&dir))).await;
        let ways = self.inner.settings.current().ways();
        let machine = name.unwrap_or_default();
        let deliveries = ways.send(&notices, &machine, send::PATIENCE).await;
        for delivery in &deliveries {
            if let Some(error) = &delivery.error {
                tracing::warn!(way = delivery.way, error, "a message could not be sent");
            }
        }
        // A way that was switched off owes nothing.
        let names = ways.names();
        self.inner
            .problems
            .lock()
            .undelivered
            .retain(|way, _| names.contains(way));
        self.inner.problems.delivered(&deliveries);
        deliveries
    }

    /// Looks for problems, and notes them.
    async fn look_for_problems(&self) -> Result<Vec<Problem>, CallError> {
        let facts = self.facts().await?;
        let path = Book::path(&self.inner.options.data_dir);
        // A node inside of a command leaves the file to the one that runs all the time.
        let is_served = self.inner.options.http.is_some();
        let node = self.clone();
        blocking(move || {
            let mut state = node.inner.problems.lock();
            let mut book = match state.book.take() {
                Some(book) => book,
                None => Book::load(&path).unwrap_or_default(),
            };
            let changed = book.update(find(&facts), facts.now);
            if changed && is_served && let Err(error) = book.save(&path) {
                tracing::warn!(%error, file = %path.display(), "the list of problems could not be written");
            }
            let list = book.list();
            state.book = Some(book);
            Ok(list)
        })
        .await
    }

    async fn facts(&self) -> Result<Facts, CallError> {
        let status = self.status(Status {}).await?;
        let health = self.health_as_known(Health::default()).await?;
        let dir = self.inner.options.data_dir.clone();
        let (warn_after, disk, drill) =
            blocking(move || Ok((warn_after(&dir), room_of(&dir), read_drill(&dir)))).await?;
        let copies = &self.inner.copies;
        let kept = copies.kept_by_peer();
        let kept = kept.keys().map(|peer| (peer.to_bytes(), Timestamp(0)));
        let away = self.holder_states(&kept.collect::<Holders>());
        let age = self.now().0 / 1000;
        let failed = copies.failed_audits();
        let failed = failed.into_iter().map(|peer| (peer, Timestamp(0)));
        let failed = self.holder_states(&failed.collect::<Holders>());
        Ok(Facts {
            now: self.now(),
            status,
            health,
            warn_after,
            // One that no ring knows has never been seen.
            away: away
                .into_iter()
                .filter(|holder| holder.seen_s_ago.is_some_and(|seen| seen < age))
                .collect(),
            failed_audits: failed.iter().map(name_of).collect(),
            disk,
            drill,
            undelivered: self.inner.problems.lock().undelivered.clone(),
        })
    }
}

/// Looks and tells until cancelled.
pub(super) async fn run(node: Weak<Inner>, cancel: CancellationToken, state: Arc<WorkerState>) {
    state.set("nothing was looked at yet");
    let mut pause = FIRST_AFTER;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = LOOK_EVERY;
        let Some(inner) = node.upgrade() else {
            return;
        };
        let node = Node { inner };
        let result = tokio::select! {
            () = cancel.cancelled() => return,
            result = round(&node) => result,
        };
        match result {
            Ok(0) => state.set("nothing is wrong"),
            Ok(problems) => state.set(count(problems as u64, "problem")),
            Err(error) => state.fail(error.message),
        }
    }
}

/// One look. Returns how many problems there are.
async fn round(node: &Node) -> Result<usize, CallError> {
    let list = node.look_for_problems().await?;
    let path = Book::path(&node.inner.options.data_dir);
    let of = node.clone();
    let notices = blocking(move || {
        let mut state = of.inner.problems.lock();
        let Some(book) = &mut state.book else {
            return Ok(Vec::new());
        };
        let notices = book.message(of.now());
        // Before it is sent: a node that is killed meanwhile must not repeat it for ever.
        if !notices.is_empty() && let Err(error) = book.save(&path) {
            tracing::warn!(%error, file = %path.display(), "the list of problems could not be written");
        }
        Ok(notices)
    })
    .await?;
    for notice in &notices {
        log(notice);
        node.happened(NodeEvent::Problem {
            kind: notice.kind,
            problem: notice.problem.clone(),
        });
    }
    if !notices.is_empty() {
        node.notify(notices).await;
    }
    Ok(list.len())
}

fn log(notice: &Notice) {
    let Problem {
        id, subject, text, ..
    } = &notice.problem;
    match notice.kind {
        Kind::Began => tracing::warn!(id, subject, text, "a problem begins"),
        Kind::Reminder => tracing::warn!(id, subject, text, "a problem lasts"),
        Kind::Over => tracing::info!(id, subject, "a problem is over"),
        Kind::Test => {}
    }
}

/// Time after which each set is overdue. Blocks on the disk.
fn warn_after(dir: &Path) -> BTreeMap<String, Duration> {
    // A file that can't be read is one of the problems of `health`.
    let sets = Sets::load(dir).unwrap_or_default();
    let of = |set: &crate::backup::sets::Set| {
        let given = set.warn_after_s.map(Duration::from_secs);
        let usual = set.schedule.map(Schedule::interval);
        let after = given.or_else(|| Some(usual? * INTERVALS))?;
        Some((set.name.clone(), after))
    };
    sets.as_slice().iter().filter_map(of).collect()
}

/// Bytes of the disk of a directory, and free ones. Blocks on the disk.
fn room_of(dir: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    let bytes = |blocks: u64| blocks.checked_mul(stat.f_frsize);
    Some((bytes(stat.f_blocks)?, bytes(stat.f_bavail)?))
}

/// Score of the last rehearsal. Blocks on the disk.
fn read_drill(dir: &Path) -> Option<DrillScore> {
    let bytes = file::read(&dir.join(DRILL_FILE), MAX_DRILL_BYTES).ok()??;
    serde_json::from_slice(&bytes).ok()
}

fn name_of(holder: &HolderState) -> String {
    match holder.name.as_str() {
        "" => holder.peer.clone(),
        name => name.to_owned(),
    }
}

/// Problems that follow from what the node knows.
fn find(facts: &Facts) -> Vec<Found> {
    let mut found = Vec::new();
    let mut add = |id, subject: &str, severity, patience, text: String, advice: &str| {
        found.push(Found {
            id,
            subject: subject.to_owned(),
            severity,
            text,
            advice: advice.to_owned(),
            patience,
        });
    };
    of_sets(facts, &mut add);
    of_holders(facts, &mut add);
    of_machine(facts, &mut add);
    of_node(facts, &mut add);
    found
}

/// Takes a problem: kind, subject, how bad it is, patience, text, advice.
type Add<'a> = dyn FnMut(&'static str, &str, Severity, Duration, String, &str) + 'a;

fn of_sets(facts: &Facts, add: &mut Add<'_>) {
    use Severity::{Serious, Warning};
    let mut is_locked = false;
    for set in &facts.health.sets {
        let name = set.name.as_str();
        let shown = match name {
            "" => "the backup of no set",
            name => name,
        };
        let problem = set.problem.as_deref();
        is_locked |= problem == Some(schedule::NEEDS_PASSPHRASE);
        if let Some(why) = problem.filter(|why| *why != schedule::NEEDS_PASSPHRASE) {
            let text = format!("{shown} could not be backed up: {why}");
            let advice = "`libernet backup --set NAME` backs it up and says what is in the way";
            add("backup_failed", name, Warning, Duration::ZERO, text, advice);
        }
        let age = set.last_backup_s_ago.map(Duration::from_secs);
        let limit = facts.warn_after.get(name);
        if let (Some(age), Some(limit)) = (age, limit)
            && age > *limit
        {
            let why = problem.map_or(String::new(), |why| format!(": {why}"));
            let text = format!("the last backup of {shown} is {} old{why}", days(age));
            let advice = "`libernet backup --set NAME` backs it up now; is this node running when it is due?";
            add(
                "backup_overdue",
                name,
                Serious,
                Duration::ZERO,
                text,
                advice,
            );
        }
        if set.never && limit.is_some() {
            let text = format!("{shown} was never backed up");
            let advice = "`libernet backup --set NAME` backs it up now";
            add("backup_never", name, Warning, HOUR, text, advice);
        }
        if set.lost > 0 {
            let lost = count(set.lost.into(), "backup");
            let text = format!("{lost} of {shown} can't be read on this machine any more");
            let advice =
                "`libernet check` says which; copies on other machines stay where they are";
            add("backup_lost", name, Serious, Duration::ZERO, text, advice);
        }
        if set.copies_min < set.copies_asked && !set.never {
            let text = format!(
                "{shown} has {} of {} copies on other machines",
                set.copies_min, set.copies_asked
            );
            let advice = "start the other members' nodes, or add a member; `libernet ring members` shows who is online";
            let severity = if set.copies_min == 0 {
                Serious
            } else {
                Warning
            };
            add("copies_missing", name, severity, HOUR * 6, text, advice);
        }
    }
    if is_locked {
        let text = "sets that have a schedule are not backed up before the passphrase is given";
        let advice = "`libernet unlock` asks for it once after each start of the node";
        add(
            "passphrase",
            "",
            Serious,
            Duration::ZERO,
            text.to_owned(),
            advice,
        );
    }
    if facts.health.owner && facts.health.sets.is_empty() {
        let text = "there is an owner, and nothing is backed up".to_owned();
        add(
            "no_backup",
            "",
            Warning,
            DAY,
            text,
            "`libernet backup PATH` backs something up",
        );
    }
    if !facts.health.requests.is_empty() {
        let requests = count(facts.health.requests.len() as u64, "request");
        let text = format!("{requests} of other machines to forget snapshots of this one");
        let advice = "`libernet snapshots` names them, `libernet unforget ID` keeps a snapshot";
        add("forget_requests", "", Serious, Duration::ZERO, text, advice);
    }
}

fn of_holders(facts: &Facts, add: &mut Add<'_>) {
    for holder in &facts.failed_audits {
        let text = format!("{holder} keeps a copy, and could not show that it still has it");
        let advice =
            "look after that machine's disk; another copy is made where there is a member for it";
        add(
            "audit_failed",
            holder,
            Severity::Serious,
            Duration::ZERO,
            text,
            advice,
        );
    }
    for holder in &facts.away {
        let seen = Duration::from_secs(holder.seen_s_ago.unwrap_or_default());
        if seen >= HOLDER_GONE {
            let name = name_of(holder);
            let text = format!(
                "{name} keeps copies and has not been seen for {}",
                days(seen)
            );
            let advice = "start its node (`libernet up`), or take it out of the ring: `libernet ring remove`";
            add(
                "holder_gone",
                &name,
                Severity::Warning,
                Duration::ZERO,
                text,
                advice,
            );
        }
    }
    let has_copies = facts.health.sets.iter().any(|set| set.copies_min > 0);
    let every = DAY * u32::try_from(DRILL_EVERY_DAYS).unwrap_or(u32::MAX);
    let advice = "`libernet drill` restores a sample from the words and other machines alone";
    match &facts.drill {
        Some(score) if !score.is_good() => {
            let text = format!(
                "the last drill brought back {} of {}, {} of them changed",
                score.restored,
                count(score.sampled, "file"),
                score.different
            );
            add(
                "drill_failed",
                "",
                Severity::Serious,
                Duration::ZERO,
                text,
                advice,
            );
        }
        Some(score) if has_copies && facts.now.since(score.at) > every => {
            let age = days(facts.now.since(score.at));
            let text =
                format!("the last drill was {age} ago: nobody knows whether a restore works");
            add(
                "drill_due",
                "",
                Severity::Notice,
                Duration::ZERO,
                text,
                advice,
            );
        }
        None if has_copies => {
            let text = "no drill was made here: nobody knows whether a restore works".to_owned();
            add("drill_due", "", Severity::Notice, every, text, advice);
        }
        Some(_) | None => {}
    }
}

fn of_machine(facts: &Facts, add: &mut Add<'_>) {
    use crate::size::ByteSize;
    let store = &facts.status.store;
    if let Some((disk, free)) = facts.disk {
        let allowed = store.quota.saturating_sub(store.disk_bytes);
        let low = room::low_disk_bytes(disk, allowed);
        if free < low {
            let severity = match free < room::LEAST_FREE_BYTES {
                true => Severity::Serious,
                false => Severity::Warning,
            };
            let text = format!(
                "{} free where the data is, and the quota allows {} more",
                ByteSize(free),
                ByteSize(allowed)
            );
            let advice =
                "make room on this disk, or lower the quota (`libernet config set quota SIZE`)";
            add("disk", "", severity, Duration::ZERO, text, advice);
        }
    }
    let kept = store.pinned_bytes.saturating_add(store.leased_bytes);
    if room::is_nearly_full(kept, store.quota) {
        let text = format!(
            "{} of the quota of {} can't be dropped",
            ByteSize(kept),
            ByteSize(store.quota)
        );
        let advice =
            "`libernet config set quota SIZE` raises it; `libernet forget` with --prune makes room";
        add("quota", "", Severity::Warning, Duration::ZERO, text, advice);
    }
    if store.corrupt > 0 {
        let text = format!(
            "{} found damaged on this disk",
            count(store.corrupt, "block")
        );
        let advice = "look after the disk; blocks are fetched again where others have them";
        add(
            "damaged",
            "",
            Severity::Serious,
            Duration::ZERO,
            text,
            advice,
        );
    }
    if !facts.health.clocks.is_empty() {
        let text = facts.health.clocks.join("; ");
        let advice = "set the clock that is wrong, and let the system keep it right (NTP)";
        add("clock", "", Severity::Warning, Duration::ZERO, text, advice);
    }
}

fn of_node(facts: &Facts, add: &mut Add<'_>) {
    use Severity::{Serious, Warning};
    for text in &facts.health.problems {
        let advice = "see to what is named; the node's log says more";
        add("other", text, Warning, Duration::ZERO, text.clone(), advice);
    }
    if let Some(address) = &facts.status.twin {
        let text = format!("another node runs with this node's key, at {address}");
        let advice = "was the data directory copied? On the copy, stop the node, remove node.key and start it again";
        add("twin", "", Serious, Duration::ZERO, text, advice);
    }
    let announcing = facts.status.announcing.as_ref();
    if let Some(text) = announcing.and_then(|told| told.warning.clone()) {
        let advice = "leave the node running and connected; announcing less helps, too";
        add("announcing", "", Warning, HOUR, text, advice);
    }
    for worker in &facts.status.workers {
        // What keeps sets from being backed up is told of the sets.
        if let Some(error) = worker.error.as_ref().filter(|_| worker.name != "schedule") {
            let advice = "the node tries again by itself; its log says more";
            add("work", &worker.name, Warning, HOUR, error.clone(), advice);
        }
    }
    for (way, error) in &facts.undelivered {
        let text = format!("the last message by {way} did not arrive: {error}");
        let advice =
            "`libernet notify test` tries again; `libernet config show` lists the settings notify";
        add("notifications", way, Warning, Duration::ZERO, text, advice);
    }
}

/// A span of time for people.
fn days(time: Duration) -> String {
    let hours = time.as_secs() / 3600;
    match hours {
        0..48 => count(hours, "hour"),
        hours => count(hours / 24, "day"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(status: StatusReply) -> Facts {
        Facts {
            now: Timestamp(100 * 24 * 3_600_000),
            status,
            health: HealthReply::default(),
            warn_after: BTreeMap::new(),
            away: Vec::new(),
            failed_audits: Vec::new(),
            disk: None,
            drill: None,
            undelivered: BTreeMap::new(),
        }
    }

    fn calm() -> StatusReply {
        let mut status = StatusReply::default();
        status.store.quota = 50 << 30;
        status
    }

    fn ids(facts: &Facts) -> Vec<&'static str> {
        find(facts).iter().map(|one| one.id).collect()
    }

    fn docs() -> SetHealth {
        SetHealth {
            name: "docs".to_owned(),
            ..SetHealth::default()
        }
    }

    #[test]
    fn a_machine_that_is_well_has_no_problem() {
        assert!(find(&facts(calm())).is_empty());
        let mut well = facts(calm());
        well.health.owner = true;
        well.health.sets = vec![SetHealth {
            last_backup_s_ago: Some(3600),
            ..docs()
        }];
        well.warn_after.insert("docs".to_owned(), DAY * 3);
        well.disk = Some((250 << 30, 40 << 30));
        assert!(find(&well).is_empty(), "{:?}", find(&well));
    }

    #[test]
    fn a_set_is_overdue_after_the_time_that_it_was_given() {
        let mut late = facts(calm());
        let of = |hours: u64, problem: Option<&str>| SetHealth {
            last_backup_s_ago: Some(hours * 3600),
            problem: problem.map(str::to_owned),
            ..docs()
        };
        late.warn_after.insert("docs".to_owned(), DAY * 3);
        late.health.sets = vec![of(72, None)];
        assert!(find(&late).is_empty());
        late.health.sets = vec![of(73, Some("no such path"))];
        assert_eq!(ids(&late), ["backup_failed", "backup_overdue"]);
        let text = &find(&late)[1].text;
        assert_eq!(text, "the last backup of docs is 3 days old: no such path");
        late.health.sets = vec![of(73, Some(schedule::NEEDS_PASSPHRASE))];
        assert_eq!(ids(&late), ["backup_overdue", "passphrase"]);
        late.health.sets = vec![SetHealth {
            never: true,
            copies_asked: 2,
            ..docs()
        }];
        assert_eq!(ids(&late), ["backup_never"]);
    }

    #[test]
    fn copies_and_holders_are_told() {
        let mut short = facts(calm());
        short.health.sets = vec![SetHealth {
            copies_min: 1,
            copies_asked: 2,
            lost: 1,
            ..docs()
        }];
        let holder = |name: &str, days: u64| HolderState {
            peer: "12D3".to_owned(),
            name: name.to_owned(),
            online: false,
            seen_s_ago: Some(days * 24 * 3600),
        };
        short.away = vec![holder("near", 1), holder("", 2)];
        short.failed_audits = vec!["attic".to_owned()];
        let found = find(&short);
        let names: Vec<(&str, &str)> = found.iter().map(|one| (one.id, &*one.subject)).collect();
        assert_eq!(
            names,
            [
                ("backup_lost", "docs"),
                ("copies_missing", "docs"),
                ("audit_failed", "attic"),
                ("holder_gone", "12D3"),
                ("drill_due", ""),
            ]
        );
        assert_eq!(found[1].severity, Severity::Warning);
        short.health.sets[0].copies_min = 0;
        let found = find(&short);
        assert_eq!(found[1].severity, Severity::Serious);
        assert!(
            !ids(&short).contains(&"drill_due"),
            "nothing could be restored"
        );
    }

    #[test]
    fn a_drill_is_due_after_a_month_and_a_bad_one_is_serious() {
        let mut drilled = facts(calm());
        drilled.health.sets = vec![SetHealth {
            copies_min: 2,
            copies_asked: 2,
            ..docs()
        }];
        let score = |days: u64, restored| DrillScore {
            at: Timestamp(drilled.now.0 - days * 24 * 3_600_000),
            snapshot: String::new(),
            sampled: 20,
            restored,
            different: 0,
        };
        let (fresh, old, bad) = (score(31, 20), score(32, 20), score(1, 19));
        drilled.drill = Some(fresh);
        assert!(find(&drilled).is_empty());
        drilled.drill = Some(old);
        assert_eq!(ids(&drilled), ["drill_due"]);
        drilled.drill = Some(bad);
        assert_eq!(ids(&drilled), ["drill_failed"]);
    }

    #[test]
    fn the_machine_and_the_node_are_told() {
        let mut status = calm();
        status.store.pinned_bytes = 48 << 30;
        status.store.corrupt = 1;
        status.twin = Some("/ip4/192.0.2.1".to_owned());
        let worker = |name: &str| WorkerStatus {
            name: name.to_owned(),
            state: String::new(),
            error: Some("oh".to_owned()),
        };
        status.workers = vec![worker("schedule"), worker("heads")];
        let mut bad = facts(status);
        bad.disk = Some((250 << 30, 1_395_864_371));
        bad.health.clocks = vec!["pc1 is a day ahead".to_owned()];
        bad.health.problems = vec!["the ring is split".to_owned()];
        bad.undelivered.insert("mail", "no sendmail".to_owned());
        assert_eq!(
            ids(&bad),
            [
                "disk",
                "quota",
                "damaged",
                "clock",
                "other",
                "twin",
                "work",
                "notifications"
            ]
        );
        assert_eq!(find(&bad)[0].severity, Severity::Warning);
        bad.disk = Some((250 << 30, 1 << 20));
        assert_eq!(find(&bad)[0].severity, Severity::Serious);
    }
}
