//! `libernet health`: whether every backup is there, as new as it should be, and has its copies.

use serde_json::json;

use super::backup::run::found;
use super::backup::snapshots::warn_of_requests;
use super::context::Context;
use super::exit::{Exit, Failure};
use super::{notify, output, show};
use crate::node::api::{Health, HealthReply, HolderState, Problems, SetHealth, Severity};
use crate::time::{Clock, SystemClock, Timestamp};

/// Show whether every backup is there, as new as it should be, and has its copies on other
/// machines.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet health
  libernet health docs
  libernet health --json | jq '.sets[] | select(.copies_min < .copies_asked)'

Ends with 0 only when all is as asked: with 3 when copies are missing, when a set has never been backed up, is overdue (two runs of its
schedule were missed) or can't be backed up, when there is an owner and no backup, when the head that leads to this machine's newest
backup can't be read back from connected nodes, and while another machine's request to forget snapshots of this one is running
(`libernet unforget` ends that).
With --json: {\"sets\":[{\"name\",\"copies_min\",\"copies_asked\",\"survives\",\"audited_s_ago\",\"holders\":[{\"peer\",\"name\",\"online\",
  \"seen_s_ago\"}],\"last_backup\",\"last_backup_s_ago\",\"never\",\"schedule\",\"next_backup\",\"overdue_since\",\"problem\",\"unmatched\",\"newest\":{\"copies\",\"copies_asked\"}}],\"owner\",
  \"problems\":[..],\"clocks\":[..],\"doubts\":[..],\"requests\":[..],\"head\":{\"told\",\"log\",\"overtaken\"},
  \"problem_list\":[{\"id\",\"subject\",\"severity\":\"notice|warning|serious\",\"text\",\"do\",\"since\"}]}, the worst first; requests as of
  `libernet snapshots`; times in milliseconds since 1970, and beside them \"last_backup_rfc3339\" and so on; null is what is not known or
  does not apply; \"copies_min\" is of the backup that lacks most copies, \"newest\" of the newest; \"lost\" is there when backups of the set are not here any more")]
pub(super) struct Args {
    /// Only this set: its name, or the beginning of it.
    set: Option<String>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let is_of_one = args.set.is_some();
    let request = Health { set: args.set };
    let (reply, mut list) = context
        .with_client(async |client, _| {
            let reply = client.health(request).await?;
            Ok((reply, client.problems(Problems {}).await?.problems))
        })
        .await?;
    if is_of_one {
        list.retain(|one| reply.sets.iter().any(|set| set.name == one.subject));
    }
    if context.json {
        let mut value = json!(reply);
        value["problem_list"] = json!(list);
        output::json(&value)?;
    } else {
        let lines: String = lines(&reply)
            .iter()
            .map(|line| format!("{line}\n"))
            .collect();
        output::stdout(lines.as_bytes())?;
    }
    warn_of_requests(&reply.requests, context);
    if let Some(head) = reply.head.filter(|head| !head.is_found()) {
        context.warning(&found(Some(head)));
    }
    for doubt in &reply.doubts {
        context.warning(&show::printable(doubt));
    }
    if is_of_one {
        // Of all that is wrong, only what concerns the set is in the list.
        for trouble in reply.problems.iter().chain(&reply.clocks) {
            context.warning(&show::printable(trouble));
        }
    }
    let now = SystemClock.now();
    for problem in list.iter().filter(|one| one.severity > Severity::Notice) {
        context.warning(&show::printable(&notify::words(problem, now)));
    }
    Ok(match reply.is_well() {
        true => Exit::Done,
        false => Exit::Partial,
    })
}

/// All sets in words.
pub(super) fn lines(reply: &HealthReply) -> Vec<String> {
    if reply.sets.is_empty() {
        let text = match reply.owner {
            true => "nothing is backed up: `libernet backup PATH`, or `libernet backup add PATH`",
            false => "this machine backs nothing up: it has no owner (`libernet init`)",
        };
        return vec![text.to_owned()];
    }
    reply.sets.iter().map(line).collect()
}

/// One set in words.
pub(super) fn line(set: &SetHealth) -> String {
    let name = name_of(set);
    let mut parts = vec![copies_text(set)];
    parts.extend(age(set));
    if set.lost > 0 {
        parts.push(match set.lost {
            1 => "1 backup is not on this machine any more".to_owned(),
            lost => format!("{lost} backups are not on this machine any more"),
        });
    }
    let problem = set.problem.as_deref();
    parts.extend(problem.map(|problem| format!("NOT RUNNING: {}", show::printable(problem))));
    format!("{name}: {}", parts.join("; "))
}

/// Name of a set, for people.
pub(super) fn name_of(set: &SetHealth) -> String {
    match set.name.as_str() {
        "" => "(no set)".to_owned(),
        name => show::printable(name),
    }
}

/// Copies of a set's backups in words.
pub(super) fn copies_text(set: &SetHealth) -> String {
    if set.never {
        return "not backed up yet".to_owned();
    }
    if set.copies_asked == 0 && set.copies_min == 0 {
        return "on this disk only, nobody else has a copy".to_owned();
    }
    let survives = match set.survives {
        0 => "lost with this machine".to_owned(),
        1 => "survives any 1 machine".to_owned(),
        n => format!("survives any {n} machines"),
    };
    let audited = match set.audited_s_ago {
        Some(seconds) => format!("audited {} ago", ago(seconds)),
        None => "not audited yet".to_owned(),
    };
    let away: Vec<String> = set.holders.iter().filter_map(away).collect();
    let away = match away.is_empty() {
        true => String::new(),
        false => format!(" ({})", away.join(", ")),
    };
    let (reached, asked) = (set.copies_min, set.copies_asked);
    // Just after a backup its own copies are what people know of.
    let whose = match set.newest {
        Some(newest) if (newest.copies, newest.copies_asked) != (reached, asked) => format!(
            " of an older backup (the newest has {} of {})",
            newest.copies, newest.copies_asked
        ),
        _ => String::new(),
    };
    format!("{reached} of {asked} copies{whose}{away}, {survives}, {audited}")
}

/// A holder that is not connected: its copy counts for as long as it was heard of lately.
fn away(holder: &HolderState) -> Option<String> {
    let seconds = holder.seen_s_ago?;
    Some(format!(
        "{} not seen for {}",
        holder_name(holder),
        ago(seconds)
    ))
}

/// Name of a holder; without one the start of its id, which commands take.
pub(super) fn holder_name(holder: &HolderState) -> String {
    if !holder.name.is_empty() {
        return show::printable(&holder.name);
    }
    show::printable(show::short(&holder.peer))
}

/// Age of the newest backup, and the time until the next one comes.
fn age(set: &SetHealth) -> Option<String> {
    let mut text = format!("last backup {} ago", ago(set.last_backup_s_ago?));
    let (last, next) = (set.last_backup?, set.next_backup);
    if let Some(since) = set.overdue_since {
        text.push_str(&format!(", OVERDUE since {}", show::timestamp(since)));
    } else if let Some(next) = next {
        // The reply tells both times by one clock.
        let now = Timestamp(last.0.saturating_add(set.last_backup_s_ago? * 1000));
        let wait = next.since(now).as_secs();
        text.push_str(&match wait {
            0..60 => ", next now".to_owned(),
            wait => format!(", next in {}", ago(wait)),
        });
    }
    Some(text)
}

/// A span of time in its largest unit: who reads it compares days, not seconds.
pub(super) fn ago(seconds: u64) -> String {
    let (number, unit) = match seconds {
        0..60 => (seconds, "s"),
        60..3600 => (seconds / 60, "min"),
        3600..172_800 => (seconds / 3600, "h"),
        _ => (seconds / 86_400, "d"),
    };
    format!("{number} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::api::NewestCopies;

    fn documents() -> SetHealth {
        SetHealth {
            name: "Documents".to_owned(),
            copies_min: 2,
            copies_asked: 2,
            survives: 2,
            ..SetHealth::default()
        }
    }

    #[test]
    fn copies_in_words() {
        let mut set = documents();
        assert_eq!(
            line(&set),
            "Documents: 2 of 2 copies, survives any 2 machines, not audited yet"
        );
        assert!(set.is_well());
        let holder = |name: &str, seen_s_ago: Option<u64>| HolderState {
            peer: "12D3KooWabcdefgh".to_owned(),
            name: name.to_owned(),
            online: seen_s_ago.is_none(),
            seen_s_ago,
        };
        set.holders = vec![
            holder("pc1", None),
            holder("pc2", Some(200)),
            holder("", Some(7)),
        ];
        set.audited_s_ago = Some(7300);
        assert_eq!(
            line(&set),
            "Documents: 2 of 2 copies (pc2 not seen for 3 min, 12D3KooWabcd not seen for 7 s), \
             survives any 2 machines, audited 2 h ago"
        );
        set.newest = Some(NewestCopies {
            copies: 2,
            copies_asked: 2,
        });
        assert!(!line(&set).contains("newest"), "{}", line(&set));
        set.copies_min = 1;
        let text = line(&set);
        assert!(
            text.starts_with(
                "Documents: 1 of 2 copies of an older backup (the newest has 2 of 2) (pc2 not"
            ),
            "{text}"
        );
        set.newest = None;
        (set.holders, set.name) = (Vec::new(), String::new());
        (set.copies_min, set.survives) = (0, 0);
        let text = line(&set);
        assert!(
            text.starts_with("(no set): 0 of 2 copies, lost with this machine"),
            "{text}"
        );
        assert!(!set.is_well());
        (set.copies_min, set.lost) = (2, 1);
        assert!(line(&set).ends_with("; 1 backup is not on this machine any more"));
        assert!(!set.is_well());
        (set.copies_min, set.copies_asked, set.lost) = (0, 0, 0);
        assert_eq!(
            line(&set),
            "(no set): on this disk only, nobody else has a copy"
        );
    }

    #[test]
    fn ages_in_words() {
        let mut set = documents();
        (set.last_backup, set.last_backup_s_ago) = (Some(Timestamp(1_000_000)), Some(5 * 3600));
        assert!(
            line(&set).ends_with("; last backup 5 h ago"),
            "{}",
            line(&set)
        );
        set.next_backup = Some(Timestamp(1_000_000 + 24 * 3_600_000));
        assert!(
            line(&set).ends_with("; last backup 5 h ago, next in 19 h"),
            "{}",
            line(&set)
        );
        assert!(set.is_well());
        set.overdue_since = Some(Timestamp(1_000_000));
        assert!(line(&set).contains("last backup 5 h ago, OVERDUE since 1970-01-01"));
        assert!(!set.is_well());
        set.overdue_since = None;
        set.problem = Some("the path /x is not there".to_owned());
        assert!(line(&set).ends_with("; NOT RUNNING: the path /x is not there"));
        assert!(!set.is_well());
        let never = SetHealth {
            name: "a".to_owned(),
            never: true,
            ..SetHealth::default()
        };
        assert_eq!(line(&never), "a: not backed up yet");
        assert!(!never.is_well());
    }

    #[test]
    fn a_machine_without_an_owner_is_well_and_one_without_a_backup_is_not() {
        let mut reply = HealthReply::default();
        assert!(reply.is_well() && lines(&reply)[0].contains("no owner"));
        reply.owner = true;
        assert!(!reply.is_well() && lines(&reply)[0].contains("nothing is backed up"));
        reply.sets.push(documents());
        assert!(reply.is_well());
        reply.problems.push("the file is wrong".to_owned());
        assert!(!reply.is_well());
    }
}
