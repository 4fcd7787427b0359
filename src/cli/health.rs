//! `libernet health`: whether every backup has the copies that were asked for.

use std::time::Duration;

use super::context::Context;
use super::exit::{Exit, Failure};
use super::{output, show};
use crate::node::api::{Health, SetHealth};

/// Show whether every backup has its copies on other machines.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet health
  libernet health --json | jq '.sets[] | select(.copies_min < .copies_asked)'

Ends with 0 only when all is as asked, with 3 when copies are missing.
With --json: {\"sets\":[{\"name\",\"copies_min\",\"copies_asked\",\"survives\",\"audited_s_ago\"}],\"clocks\":[..]}; audited_s_ago is null before the first audit;
\"lost\" is there when backups of the set are not here any more")]
pub(super) struct Args {}

pub(super) async fn run(_: Args, context: &Context) -> Result<Exit, Failure> {
    let reply = context
        .with_client(async |client, _| Ok(client.health(Health {}).await?))
        .await?;
    if context.json {
        output::json(&reply)?;
    } else if reply.sets.is_empty() {
        context.notice("no backup asks for copies on other machines");
    } else {
        let lines: String = reply
            .sets
            .iter()
            .map(|set| format!("{}\n", show::printable(&line(set))))
            .collect();
        output::stdout(lines.as_bytes())?;
    }
    for trouble in &reply.clocks {
        context.warning(trouble);
    }
    Ok(match reply.sets.iter().all(SetHealth::is_as_asked) {
        true => Exit::Done,
        false => Exit::Partial,
    })
}

/// One set in words.
pub(super) fn line(set: &SetHealth) -> String {
    let name = match set.name.as_str() {
        "" => "(no set)",
        name => name,
    };
    let survives = match set.survives {
        0 => "lost with this machine".to_owned(),
        1 => "survives any 1 machine".to_owned(),
        n => format!("survives any {n} machines"),
    };
    let audited = match set.audited_s_ago {
        Some(seconds) => format!(
            "audited {} ago",
            show::duration(Duration::from_secs(seconds))
        ),
        None => "not audited yet".to_owned(),
    };
    let lost = match set.lost {
        0 => "",
        1 => "; 1 backup is not on this machine any more",
        _ => "; some backups are not on this machine any more",
    };
    format!(
        "{name}: {} of {} copies, {survives}, {audited}{lost}",
        set.copies_min, set.copies_asked
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_in_words() {
        let mut set = SetHealth {
            name: "Documents".to_owned(),
            copies_min: 3,
            copies_asked: 3,
            survives: 3,
            lost: 0,
            audited_s_ago: None,
        };
        assert_eq!(
            line(&set),
            "Documents: 3 of 3 copies, survives any 3 machines, not audited yet"
        );
        assert!(set.is_as_asked());
        set.name = String::new();
        (set.copies_min, set.survives) = (0, 0);
        set.audited_s_ago = Some(7200);
        let text = line(&set);
        assert!(
            text.starts_with("(no set): 0 of 3 copies, lost with this machine, audited "),
            "{text}"
        );
        assert!(!set.is_as_asked());
        (set.copies_min, set.lost) = (3, 1);
        assert!(line(&set).ends_with("; 1 backup is not on this machine any more"));
        assert!(!set.is_as_asked());
    }
}
