//! `libernet config`: the settings and where they come from.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;

use super::context::Context;
use super::exit::{Exit, Failure};
use super::output;
use crate::client::Client;
use crate::config::{self, Config, Error, FILE_NAME, SETTINGS, plain, table};
use crate::node::api::{Reload, ReloadReply};

/// Show and change settings.
///
/// Flags beat environment variables, which beat the file. A running node takes over `quota`, `lend`
/// and the limits on bandwidth at once, and everything else when it is started again. A lower quota
/// drops what is only cached; nothing that is kept goes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet config show                       # every setting, its value, where it is from, what it means
  libernet config set quota 100GiB
  libernet config set bootstrap /ip4/192.0.2.7/tcp/4384,/ip4/192.0.2.8/tcp/4384
  libernet config get quota
  $EDITOR \"$(libernet config path)\" && libernet config reload

A file that is wrong changes nothing for the node that runs; what is wrong with it is said.
With --json: show {\"path\",\"settings\":[{\"name\",\"value\",\"default\",\"source\",\"variable\",\"meaning\"}]}, get {\"name\",\"value\"},
  both with \"bytes\" where the value is a size,
  path {\"path\"}, set {\"name\",\"value\",\"node\"} where node is applied, waiting (for its next start), overridden (by its flags or
  environment), unchanged or none, reload {\"applied\":[..],\"waiting\":[..],\"overridden\":[..]}")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show every setting as a settings file with comments.
    Show,
    /// Print where the settings file is.
    Path,
    /// Print one setting.
    Get {
        /// Its name.
        name: String,
    },
    /// Have the running node read the file again, after it was edited.
    Reload,
    /// Change one setting in the file; comments stay. A running node is told.
    Set {
        /// Its name.
        name: String,
        /// The value; lists are separated by commas.
        value: String,
    },
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let path = context.data_dir.join(FILE_NAME);
    match args.command {
        Command::Path => {
            if context.json {
                output::json(&json!({ "path": path.to_string_lossy() }))?;
            } else {
                output::stdout(format!("{}\n", path.display()).as_bytes())?;
            }
        }
        Command::Show => show(context, &path)?,
        Command::Get { name } => {
            let name = plain_name(&name);
            let table = table(&context.config(BTreeMap::new())?);
            let value = table.get(&name).ok_or_else(|| unknown(&name))?;
            if context.json {
                let config = context.config(BTreeMap::new())?;
                let bytes = bytes_of(&name, &config);
                output::json(&json!({ "name": name, "value": value, "bytes": bytes }))?;
            } else {
                output::stdout(format!("{}\n", plain(value)).as_bytes())?;
            }
        }
        Command::Reload => reload(context).await?,
        Command::Set { name, value } => {
            change(context, &path, &plain_name(&name), &value).await?;
        }
    }
    Ok(Exit::Done)
}

/// The name of a setting as files have it: `announce.pinned` is one way to write it.
fn plain_name(name: &str) -> String {
    name.replace('.', "_")
}

/// Changes one setting in the file, and tells the node that runs.
async fn change(context: &Context, path: &Path, name: &str, text: &str) -> Result<(), Failure> {
    let value = config::set_in_file(path, name, text)?;
    let written = format!("{name} = {value} in {}", path.display());
    let told = tell_node(context).await.map_err(|failure| Failure {
        message: format!(
            "{written}, but the running node did not take it over: {}",
            failure.message
        ),
        ..failure
    })?;
    let heard = heard(name, told.as_ref());
    if context.json {
        return output::json(&json!({ "name": name, "value": value, "node": heard }));
    }
    context.notice(&match heard {
        "applied" => format!("{written}; the running node goes by it from now on"),
        "waiting" => {
            format!("{written}; the running node takes it over when it is started again")
        }
        "overridden" => format!(
            "{written}; the running node has {name} from its flags or its environment, which beat the file until it is started without"
        ),
        _ => written,
    });
    Ok(())
}

/// What became of a setting at the node that runs, in a word.
fn heard(name: &str, told: Option<&ReloadReply>) -> &'static str {
    let is_in = |names: &[String]| names.iter().any(|other| other == name);
    match told {
        None => "none",
        Some(told) if is_in(&told.overridden) => "overridden",
        Some(told) if is_in(&told.applied) => "applied",
        Some(told) if is_in(&told.waiting) => "waiting",
        Some(_) => "unchanged",
    }
}

async fn reload(context: &Context) -> Result<(), Failure> {
    let Some(told) = tell_node(context).await? else {
        let text = format!("no node is running on {}", context.data_dir.display());
        return Err(Failure::new(Exit::NotRunning, text)
            .with_hint("there is nothing to tell: a node reads its settings when it starts"));
    };
    if context.json {
        return output::json(&told);
    }
    for line in lines(&told) {
        context.notice(&line);
    }
    Ok(())
}

fn lines(told: &ReloadReply) -> Vec<String> {
    let mut lines = Vec::new();
    if told.applied.is_empty() {
        lines.push("nothing has changed that a running node takes over".to_owned());
    } else {
        let names = told.applied.join(", ");
        lines.push(format!("the running node goes by {names} from now on"));
    }
    for (names, what) in [
        (&told.waiting, "when the node is started again"),
        (
            &told.overridden,
            "never, as long as it comes from the flags or the environment of the running node",
        ),
    ] {
        if !names.is_empty() {
            lines.push(format!("taken over {what}: {}", names.join(", ")));
        }
    }
    lines
}

/// Has the node of this data directory read its settings; nothing when none runs.
async fn tell_node(context: &Context) -> Result<Option<ReloadReply>, Failure> {
    let told = async {
        match Client::running(&context.data_dir).await? {
            Some(client) => Ok(Some(client.reload(Reload {}).await?)),
            None => Ok(None),
        }
    };
    tokio::select! {
        biased;
        () = context.stop.cancelled() => Err(Failure::interrupted()),
        told = told => told,
    }
}

fn unknown(name: &str) -> Failure {
    Error::Value {
        name: name.to_owned(),
        message: "there is no such setting; `libernet config show` lists them".to_owned(),
    }
    .into()
}

/// The bytes of a setting that is a size.
fn bytes_of(name: &str, config: &Config) -> Option<u64> {
    match name {
        "quota" => Some(config.quota.0),
        "lend" => Some(config.lent_bytes()),
        "limit_up" => Some(config.limit_up.0),
        "limit_down" => Some(config.limit_down.0),
        _ => None,
    }
}

/// Where the value in force comes from.
fn source(name: &str, variable: &str, context: &Context, file: &toml::Table) -> String {
    if context.environment.contains_key(name) {
        format!("environment variable {variable}")
    } else if file.contains_key(name) {
        "file".to_owned()
    } else {
        "default".to_owned()
    }
}

fn show(context: &Context, path: &Path) -> Result<(), Failure> {
    let config = context.config(BTreeMap::new())?;
    // The file was read just now and is valid; missing is as good as empty.
    let file: toml::Table = config::read_text(path)?
        .and_then(|text| text.parse().ok())
        .unwrap_or_default();
    let (values, defaults) = (table(&config), table(&Config::default()));
    if context.json {
        let settings: Vec<_> = SETTINGS
            .iter()
            .map(|(name, variable, meaning)| {
                json!({
                    "name": name,
                    "value": values[*name],
                    "bytes": bytes_of(name, &config),
                    "default": defaults[*name],
                    "source": source(name, variable, context, &file),
                    "variable": variable,
                    "meaning": meaning,
                })
            })
            .collect();
        return output::json(&json!({ "path": path.to_string_lossy(), "settings": settings }));
    }
    let mut text = format!("# Settings in force; the file is {}\n", path.display());
    for (name, variable, meaning) in SETTINGS {
        let _ = write!(
            text,
            "\n# {meaning}\n# From: {}. Variable: {variable}. Default: {}\n{name} = {}\n",
            source(name, variable, context, &file),
            defaults[name],
            values[name],
        );
    }
    output::stdout(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_have_dots() {
        assert_eq!(plain_name("announce.pinned"), "announce_pinned");
    }

    #[test]
    fn what_the_node_did_in_a_word() {
        let told = ReloadReply {
            applied: vec!["lend".to_owned(), "limit_up".to_owned()],
            waiting: vec!["network".to_owned()],
            overridden: vec!["limit_up".to_owned()],
        };
        for (name, word) in [
            ("lend", "applied"),
            ("network", "waiting"),
            ("limit_up", "overridden"),
            ("mdns", "unchanged"),
        ] {
            assert_eq!(heard(name, Some(&told)), word);
        }
        assert_eq!(heard("lend", None), "none");
        let text = lines(&told).join("\n");
        assert!(text.contains("goes by lend, limit_up"), "{text}");
        assert!(text.contains("started again: network"), "{text}");
        assert!(lines(&ReloadReply::default())[0].contains("nothing has changed"));
    }

    #[test]
    fn every_setting_shows_in_the_form_that_set_takes() {
        let defaults = table(&Config::default());
        for (name, _, _) in SETTINGS {
            let mut config = Config::default();
            config
                .set(name, &plain(&defaults[name]))
                .expect("reads back");
            assert_eq!(config, Config::default(), "{name}");
        }
    }
}
