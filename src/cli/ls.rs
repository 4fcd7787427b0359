//! `libernet ls`: what is in a bundle.

use std::ffi::OsString;

use serde_json::json;

use super::alone::tell_if_alone;
use super::context::{Context, Intent};
use super::exit::{Exit, Failure};
use super::{backup, output, show, target};
use crate::node::api::{Entry, Ls, LsReply};
use crate::size::ByteSize;

/// Entries asked for at once.
const PAGE_ENTRIES: u64 = 1000;

/// List a directory of a bundle or a snapshot.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet ls LINK
  libernet ls -l LINK/photos
  libernet ls latest:/home
  libernet ls latest --set docs --machine laptop
  libernet ls LINK --json | jq -r '.entries[].name'

In a name that is not UTF-8 \\xe9 stands for the byte.
With --json: {\"this\":{..},\"index_file\",\"entries\":[{\"name\",\"name_hex\",\"kind\",\"bytes\",\"mode\",\"mtime_s\",\"target\"}]};
  name_hex holds a name's bytes where they are not UTF-8")]
pub(super) struct Args {
    /// The link, and a path in it; or a snapshot (latest, or the first digits of its id) and a path in it.
    #[arg(value_name = "LINK[/PATH]|TICKET[/PATH]|SNAPSHOT[:PATH]")]
    link: OsString,
    /// Show kind, permissions, size and time too.
    #[arg(short, long)]
    long: bool,
    /// Time to look for one block before it counts as missing.
    #[arg(long, value_name = "TIME", value_parser = crate::time::seconds, allow_hyphen_values = true)]
    timeout: Option<u64>,
    #[command(flatten)]
    passphrase: backup::Passphrase,
    // Its heading holds for all that is behind it.
    #[command(flatten)]
    which: backup::Which,
}

impl Args {
    /// Use that the command makes of the data directory.
    pub(super) fn intent(&self) -> Intent {
        target::intent(&self.link)
    }
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let target = target::tree(&args.link)?;
    let choice = args.which.choice_beside(&target)?;
    let ways = target::ways(&args.link)?;
    context
        .with_client_at(&ways, async |client, config| {
            let timeout_s = args.timeout.unwrap_or(config.timeout_s);
            let (link, path) =
                backup::tree(client, target, choice, &args.passphrase, timeout_s, context).await?;
            let mut request = Ls {
                link,
                path,
                follow: false,
                skip: 0,
                limit: PAGE_ENTRIES,
                timeout_s,
            };
            let id = request.link.id;
            // Pages are printed as they come: a directory may have millions of entries.
            let work = async {
                loop {
                    let page = client.ls(request.clone()).await?;
                    let is_first = request.skip == 0;
                    request.skip += page.entries.len() as u64;
                    let more = page.more && !page.entries.is_empty();
                    let text = if context.json {
                        json_page(&page, is_first, !more)
                    } else {
                        text_page(&page, args.long)
                    };
                    output::stdout(text.as_bytes())?;
                    if !more {
                        return Ok(Exit::Done);
                    }
                }
            };
            let bar = context.bar("ls");
            tell_if_alone(client, id, timeout_s, &bar, context, work).await
        })
        .await
}

fn json_page(page: &LsReply, is_first: bool, is_last: bool) -> String {
    let mut text = String::new();
    if is_first {
        let (this, index_file) = (json!(page.this), json!(page.index_file));
        text = format!("{{\"this\":{this},\"index_file\":{index_file},\"entries\":[");
    }
    for (at, entry) in page.entries.iter().enumerate() {
        if at > 0 || !is_first {
            text.push(',');
        }
        text.push_str(&json!(entry).to_string());
    }
    if is_last {
        text.push_str("]}\n");
    }
    text
}

fn text_page(page: &LsReply, long: bool) -> String {
    let single = page
        .this
        .iter()
        .filter(|this| this.kind != "dir" && page.entries.is_empty());
    let entries: Vec<&Entry> = page.entries.iter().chain(single).collect();
    if !long {
        let line = |entry: &&Entry| {
            let slash = if entry.kind == "dir" { "/" } else { "" };
            format!("{}{slash}\n", show::printable(&entry.name))
        };
        return entries.iter().map(line).collect();
    }
    let rows: Vec<Vec<String>> = entries.iter().map(|entry| row(entry)).collect();
    show::table(&rows, &[1])
}

fn row(entry: &Entry) -> Vec<String> {
    let mut name = show::printable(&entry.name);
    if let Some(target) = &entry.target {
        name.push_str(" -> ");
        name.push_str(&show::printable(target));
    }
    vec![
        show::mode(&entry.kind, entry.mode),
        ByteSize(entry.bytes).to_string(),
        show::seconds(entry.mtime_s),
        name,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, kind: &str) -> Entry {
        Entry {
            name: name.to_owned(),
            name_hex: None,
            kind: kind.to_owned(),
            bytes: 1024,
            mode: 0o755,
            mtime_s: 0,
            target: (kind == "symlink").then(|| "a\nb".to_owned()),
        }
    }

    fn page(entries: Vec<Entry>) -> LsReply {
        LsReply {
            real: None,
            this: Some(entry("", "dir")),
            index_file: None,
            entries,
            more: true,
        }
    }

    #[test]
    fn pages_join_to_one_object() {
        let pages = [
            page(vec![entry("a", "file"), entry("b", "dir")]),
            page(vec![entry("c", "file")]),
        ];
        let text = json_page(&pages[0], true, false) + &json_page(&pages[1], false, true);
        let value: serde_json::Value = serde_json::from_str(&text).expect("json");
        assert_eq!(value["entries"].as_array().map(Vec::len), Some(3));
        assert_eq!(value["this"]["kind"], "dir");
        let alone: serde_json::Value =
            serde_json::from_str(&json_page(&page(Vec::new()), true, true)).expect("json");
        assert_eq!(alone["entries"], json!([]));
    }

    #[test]
    fn names_are_safe_and_a_single_file_is_shown() {
        let text = text_page(
            &page(vec![entry("a\x1b[2J", "symlink"), entry("d", "dir")]),
            true,
        );
        assert_eq!(
            text,
            "lrwxr-xr-x  1 KiB  1970-01-01 00:00  a\\u{1b}[2J -> a\\u{a}b\n\
             drwxr-xr-x  1 KiB  1970-01-01 00:00  d\n"
        );
        let mut single = page(Vec::new());
        assert_eq!(text_page(&single, false), "");
        single.this = Some(entry("only", "file"));
        assert_eq!(text_page(&single, false), "only\n");
    }
}
