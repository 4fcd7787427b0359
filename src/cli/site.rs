//! `libernet site`: websites in bundles.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::context::{Context, Intent};
use super::exit::{Exit, Failure};
use super::put::{self, After};
use super::{output, show};
use crate::block::Link;
use crate::client::discovery::ApiFile;
use crate::site::{self, Report};

/// Problems that a listing for people shows. JSON has all.
const MAX_SHOWN: usize = 100;

/// Check, publish and open websites that live in bundles.
///
/// A site in a bundle stands alone: each page loads only what lies in the same directory, by
/// relative references, so that every reader's own node can show it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet site check website
  libernet site publish website
  libernet site publish website --index start.html --anyway
  libernet site open LINK

With --json: check {\"problems\":[{\"file\",\"line\",\"column\",\"kind\",\"text\"}],\"more\",\"files\",\"read\",
  \"links_out\"}, publish {\"link\",\"url\",\"problems\"} with the number of problems, open {\"url\"}.
  Kinds: external, absolute, outside, missing, case, base, invalid, unread")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List what would not work in a bundle, with file, line and column. Exit code 1 when there is
    /// something.
    ///
    /// Pages (HTML, XHTML, SVG), style sheets and web app manifests are read. What scripts load
    /// while they run is not seen. Links that a person follows may lead to other servers.
    Check {
        /// The site's directory.
        directory: PathBuf,
    },
    /// Store a site that passes the check, and print its link.
    Publish {
        /// The site's directory.
        directory: PathBuf,
        /// Page to show first [default: index.html].
        #[arg(long, value_name = "FILE", visible_alias = "index-file")]
        index: Option<String>,
        /// Publish it although the check lists problems.
        #[arg(long)]
        anyway: bool,
    },
    /// Open a site in the browser, from the node that runs on this machine.
    Open {
        /// The site's link.
        link: Link,
        /// Print the address and start no browser.
        #[arg(long)]
        print: bool,
    },
}

impl Args {
    pub(super) fn intent(&self) -> Intent {
        match self.command {
            Command::Check { .. } | Command::Publish { .. } => Intent::Bring,
            Command::Open { .. } => Intent::Ask,
        }
    }
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    match args.command {
        Command::Check { directory } => check(directory, context).await,
        Command::Publish {
            directory,
            index,
            anyway,
        } => publish(directory, index, anyway, context).await,
        Command::Open { link, print } => open(&link, print, context),
    }
}

/// Checks a site on a thread that may wait for the disk.
async fn look(directory: &Path) -> Result<Report, Failure> {
    let directory = Context::absolute(directory)?;
    let checked = tokio::task::spawn_blocking(move || site::check(&directory)).await;
    Ok(checked.expect("the check does not panic")?)
}

async fn check(directory: PathBuf, context: &Context) -> Result<Exit, Failure> {
    let report = look(&directory).await?;
    if context.json {
        let problems = report.problems.iter().map(|problem| {
            json!({
                "file": problem.file,
                "line": problem.line,
                "column": problem.column,
                "kind": problem.kind.name(),
                "text": problem.text,
            })
        });
        output::json(&json!({
            "problems": problems.collect::<Vec<_>>(),
            "more": report.more,
            "files": report.files,
            "read": report.read,
            "links_out": report.links_out,
        }))?;
    } else {
        output::stdout(listing(&report, usize::MAX).as_bytes())?;
        let found = match report.count() {
            0 => "no problems".to_owned(),
            count => show::count(count, "problem"),
        };
        context.notice(&format!(
            "{found} in {}, {} of them read; {} to other servers; what scripts load is not seen",
            show::count(report.files, "file"),
            report.read,
            show::count(report.links_out, "link"),
        ));
    }
    Ok(match report.count() {
        0 => Exit::Done,
        _ => Exit::Failed,
    })
}

/// A line for each problem, as compilers write them.
fn listing(report: &Report, most: usize) -> String {
    let mut text = String::new();
    for problem in report.problems.iter().take(most) {
        let file = show::printable(&problem.file);
        text.push_str(&format!(
            "{file}:{}:{}: {}: {}\n",
            problem.line,
            problem.column,
            problem.kind,
            show::printable(&problem.text)
        ));
    }
    let more = report.count() - report.problems.len().min(most) as u64;
    if more > 0 {
        text.push_str(&format!("and {}\n", show::count(more, "further problem")));
    }
    text
}

async fn publish(
    directory: PathBuf,
    index: Option<String>,
    anyway: bool,
    context: &Context,
) -> Result<Exit, Failure> {
    let report = look(&directory).await?;
    let problems = report.count();
    if problems > 0 {
        output::stderr(&listing(&report, MAX_SHOWN));
    }
    if problems > 0 && !anyway {
        let what = format!(
            "{} was not published: {} would not work in a bundle",
            directory.display(),
            show::count(problems, "reference"),
        );
        return Err(Failure::new(Exit::Failed, what)
            .with_hint("mend what is listed above, or publish it as it is with --anyway"));
    }
    let first = index.as_deref().unwrap_or("index.html");
    if index.is_none() && !directory.join(first).is_file() {
        context.warning(
            "the site has no index.html: readers see a list of its files. --index names its first \
             page",
        );
    }
    let args = put::Args::of_site(directory, index);
    put::store(&args, context, |reply, _, after| {
        put::tell_missing(reply, context);
        let url = match after {
            After::Runs => running_url(&reply.link, context),
            After::Serves | After::Ends => None,
        };
        if context.json {
            return output::json(&json!({
                "link": reply.link.to_string(),
                "url": url,
                "problems": problems,
            }));
        }
        output::stdout(format!("{}\n", reply.link).as_bytes())?;
        match (url, after) {
            (Some(url), _) => context.notice(&format!("on this machine: {url}")),
            (None, After::Ends) => context.notice(
                "nothing serves it: this command's node ends now. `libernet up` keeps one running",
            ),
            (None, _) => {}
        }
        Ok(())
    })
    .await
}

/// Address of a bundle at the node that runs on this machine, if one does.
fn running_url(link: &Link, context: &Context) -> Option<String> {
    let file = ApiFile::read(&context.data_dir)?;
    Some(format!("{}{}", file.url, link.to_path()))
}

fn open(link: &Link, print: bool, context: &Context) -> Result<Exit, Failure> {
    context.must_exist()?;
    let Some(url) = running_url(link, context) else {
        return Err(
            Failure::new(Exit::NotRunning, "no node is running to show the site")
                .with_hint("`libernet up` runs one"),
        );
    };
    if context.json {
        output::json(&json!({ "url": url }))?;
    } else if print {
        output::stdout(format!("{url}\n").as_bytes())?;
    }
    if print || context.json {
        return Ok(Exit::Done);
    }
    match open::that_detached(&url) {
        Ok(()) => {
            context.notice("the site is being opened in the browser");
            Ok(Exit::Done)
        }
        Err(error) => {
            output::stdout(format!("{url}\n").as_bytes())?;
            Err(Failure::io(
                "no browser could be started: open the address above",
                &error,
            ))
        }
    }
}
