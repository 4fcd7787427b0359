//! `libernet doctor`: what is right and what is not, in plain words, each with what to do.
//!
//! - [`facts`]: gathers what the running node tells, or without one what the disk tells.
//! - [`checks`], [`network`]: what that means; pure.
//!
//! Each line says only what was looked at. What can't be told is said to be not known, and needs no
//! hand. Deliberately absent: changing anything, and talking to anybody but this machine's node.

mod checks;
mod facts;
mod network;

use serde::Serialize;
use serde_json::json;

use super::context::Context;
use super::exit::{Exit, Failure};
use super::{output, show};
use facts::Facts;

/// Say in plain words what is right and what is not, and what to do about it.
///
/// Asks the node that runs here and looks at this machine; nobody else is asked, and nothing is
/// changed. Works without a running node, too, and says then what it can't know.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet doctor
  libernet doctor --json | jq '.checks[] | select(.ok | not)'

In each line: ok, ! where something needs a hand, ? where it is not known.
Exit code 3 when something needs a hand.
With --json: {\"checks\":[{\"id\",\"ok\",\"known\",\"text\",\"do\"}]}: \"ok\" is false where something needs a hand; \"known\" is false where
  it can't be told, and \"ok\" true then; \"do\" is null where there is nothing to do. The ids: node, reachable, nat, port_mapping,
  ipv6, mdns, ways, meeting_point, clock, disk, quota, announcing, backups, copies; and problem, twin, head and requests where there is such a thing")]
pub(super) struct Args {}

/// Outcome of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    id: &'static str,
    /// Whether it needs no hand, as far as is known.
    ok: bool,
    /// Whether it could be told.
    known: bool,
    text: String,
    #[serde(rename = "do")]
    advice: Option<String>,
}

impl Check {
    fn right(id: &'static str, text: impl Into<String>) -> Self {
        Self {
            id,
            ok: true,
            known: true,
            text: text.into(),
            advice: None,
        }
    }

    fn wrong(id: &'static str, text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            ok: false,
            advice: Some(advice.into()),
            ..Self::right(id, text)
        }
    }

    fn unknown(id: &'static str, text: impl Into<String>) -> Self {
        Self {
            known: false,
            ..Self::right(id, format!("not known: {}", text.into()))
        }
    }

    /// Advice where nothing is wrong.
    fn with_advice(self, advice: impl Into<String>) -> Self {
        Self {
            advice: Some(advice.into()),
            ..self
        }
    }

    const fn mark(&self) -> &'static str {
        match (self.ok, self.known) {
            (false, _) => "!",
            (true, true) => "ok",
            (true, false) => "?",
        }
    }
}

pub(super) async fn run(_: Args, context: &Context) -> Result<Exit, Failure> {
    let facts = tokio::select! {
        biased;
        () = context.stop.cancelled() => return Err(Failure::interrupted()),
        facts = Facts::gather(context) => facts?,
    };
    let mut checks = network::checks(&facts);
    checks.extend(checks::checks(&facts));
    if context.json {
        output::json(&json!({ "checks": checks }))?;
    } else {
        output::stdout(text(&checks).as_bytes())?;
    }
    let wrong = checks.iter().filter(|check| !check.ok).count() as u64;
    if wrong == 0 {
        return Ok(Exit::Done);
    }
    let verb = if wrong == 1 { "needs" } else { "need" };
    context.notice(&format!("{} {verb} a hand", show::count(wrong, "thing")));
    Ok(Exit::Partial)
}

/// The list for people: a mark, what is checked, and below it what to do.
fn text(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.id.len()).max().unwrap_or(0);
    let line = |check: &Check| {
        let (mark, id) = (check.mark(), check.id.replace('_', " "));
        let text = show::printable(&check.text);
        let mut line = format!("{mark:<2}  {id:<width$}  {text}\n");
        if let Some(advice) = &check.advice {
            let advice = show::printable(advice);
            line.push_str(&format!("{:<2}  {:<width$}  -> {advice}\n", "", ""));
        }
        line
    };
    checks.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_known_and_what_to_do() {
        let checks = [
            Check::right("disk", "room"),
            Check::wrong("copies", "none\n", "make a ring"),
            Check::unknown("port_mapping", "no node runs"),
        ];
        assert_eq!(
            text(&checks),
            "ok  disk          room\n\
             !   copies        none\\u{a}\n                  -> make a ring\n\
             ?   port mapping  not known: no node runs\n"
        );
        let value = json!(checks[1]);
        assert_eq!(value["do"], "make a ring");
        assert_eq!(
            (&value["ok"], &value["known"]),
            (&json!(false), &json!(true))
        );
        assert_eq!(json!(checks[2])["ok"], true);
    }
}
