//! `libernet demo`: the main job on this machine alone, with real nodes in processes of their own.
//!
//! Everything happens in a temporary directory that is removed at the end, whatever happens. The nodes end with this
//! process: they hold the other end of a pipe.

mod compare;
mod nodes;
mod sample;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use super::context::Context;
use super::exit::{Exit, Failure};
use super::{output, show};
use crate::node::api::{Find, Get, GetReply, Overwrite, PinAdd, Put, PutReply};
use crate::size::ByteSize;
use compare::Comparison;
use nodes::DemoNode;

/// Seconds to look for one block. Everything is on this machine.
const TIMEOUT_S: u64 = 60;
/// How long the third node may take to find the first.
const FIND_PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait before it looks again.
const FIND_INTERVAL: Duration = Duration::from_millis(200);
/// Space that a node may use beyond what the sample needs, in bytes.
const QUOTA_MARGIN: u64 = 1 << 30;

/// See it work: three nodes on this machine, a folder travels between them and outlives the one it came from.
///
/// Puts PATH on the first node. The third knows only the second's address, finds the first through the DHT, and gets the folder.
/// Every byte and attribute is compared. Then the second keeps a copy, the first is stopped, and a fresh node gets the folder from
/// those that are left. No network is needed, nothing is left behind.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet demo
  libernet demo ~/Documents

The exit code is 0 only if every byte and attribute is the same.")]
pub(super) struct Args {
    /// What to share [default: a folder of many files found on this machine].
    path: Option<PathBuf>,
}

/// One line of the table at the end.
struct Step {
    what: String,
    bytes: u64,
    time: Duration,
    detail: String,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let chosen = match &args.path {
        Some(path) => sample::measure(&Context::absolute(path)?)?,
        None => sample::find()?,
    };
    let scratch = tempfile::Builder::new()
        .prefix("libernet-demo-")
        .tempdir()
        .map_err(|error| Failure::io("no temporary directory could be made", &error))?;
    context.notice(&format!(
        "sharing {} ({} in {}) between nodes in {}",
        chosen.path.display(),
        ByteSize(chosen.bytes),
        show::count(chosen.files, "file"),
        scratch.path().display()
    ));
    let mut demo = Demo {
        context,
        scratch: scratch.path().to_owned(),
        quota: chosen.bytes.saturating_mul(3).saturating_add(QUOTA_MARGIN),
        steps: Vec::new(),
        nodes: Vec::new(),
    };
    // When a signal comes the play is dropped where it is; nodes and files go with what holds them.
    let played = tokio::select! {
        biased;
        () = context.stop.cancelled() => Err(Failure::interrupted()),
        played = Box::pin(demo.play(&chosen)) => played,
    };
    if played.is_ok() {
        for node in demo.nodes.drain(..) {
            node.stop().await?;
        }
    }
    let steps = std::mem::take(&mut demo.steps);
    drop(demo);
    let told = played.and_then(|comparisons| {
        tell(&steps, &comparisons, context)?;
        Ok(comparisons)
    });
    context.notice("removing the temporary files");
    // Removing many files takes a moment; do it where blocking is allowed.
    let removed = tokio::task::spawn_blocking(move || scratch.close()).await;
    if !matches!(removed, Ok(Ok(()))) {
        context.warning("the temporary directory could not be removed completely");
    }
    let comparisons = told?;
    Ok(if comparisons.iter().all(|(_, found)| found.is_same()) {
        Exit::Done
    } else {
        Exit::Damaged
    })
}

struct Demo<'a> {
    context: &'a Context,
    scratch: PathBuf,
    quota: u64,
    steps: Vec<Step>,
    nodes: Vec<DemoNode>,
}

impl Demo<'_> {
    /// The whole story; gives what was compared.
    async fn play(
        &mut self,
        chosen: &sample::Sample,
    ) -> Result<Vec<(String, Comparison)>, Failure> {
        let first = self.start("first", &[]).await?;
        let at_first = self.nodes[first].address()?;
        let second = self.start("second", &[at_first]).await?;
        let at_second = self.nodes[second].address()?;
        let third = self
            .start("third", std::slice::from_ref(&at_second))
            .await?;

        for at in [first, second, third] {
            self.nodes[at].wait_for_peers().await?;
        }
        let put = self.put(first, &chosen.path).await?;
        self.find(third, &put).await?;
        let copy = self.get(third, &put, "copy by the third node").await?;
        let mut comparisons = vec![
            self.compare(chosen, &put, copy, "the third node's copy")
                .await?,
        ];

        self.pin(second, &put).await?;
        // The highest index first: the others keep theirs.
        self.nodes.remove(first).stop().await?;
        self.say("the first node is stopped");
        let fresh = self.start("fresh", &[at_second]).await?;
        self.nodes[fresh].wait_for_peers().await?;
        let copy = self.get(fresh, &put, "copy by a fresh node").await?;
        comparisons.push(
            self.compare(chosen, &put, copy, "the fresh node's copy")
                .await?,
        );
        Ok(comparisons)
    }

    fn say(&self, text: &str) {
        self.context.notice(text);
    }

    async fn start(&mut self, name: &'static str, bootstrap: &[String]) -> Result<usize, Failure> {
        let data_dir = self.scratch.join(format!("node-{name}"));
        let node = DemoNode::start(name, &data_dir, bootstrap, self.quota).await?;
        let knows = if bootstrap.is_empty() {
            "nobody"
        } else {
            "one address"
        };
        self.say(&format!(
            "{name} node: process {}, {}, knows {knows}",
            node.pid(),
            node.peer
        ));
        self.nodes.push(node);
        Ok(self.nodes.len() - 1)
    }

    async fn put(&mut self, at: usize, path: &Path) -> Result<PutReply, Failure> {
        let start = Instant::now();
        let bar = self.context.bar("put");
        let request = Put {
            path: path.to_owned(),
            name: None,
            index_file: None,
            pin: true,
            announce: true,
            private: false,
            like: None,
        };
        let reply = self.nodes[at].client.put(request, bar).await?;
        if let Some(file) = reply.unreadable.first() {
            self.context.warning(&format!(
                "{} not read and so not compared, such as {}: {}",
                show::count(reply.unreadable.len() as u64, "file"),
                file.path,
                file.reason
            ));
        }
        self.step(
            "put on the first node",
            reply.bytes,
            start.elapsed(),
            format!(
                "{}, {} stored",
                show::count(reply.blocks, "block"),
                ByteSize(reply.new_bytes)
            ),
        );
        Ok(reply)
    }

    async fn find(&mut self, at: usize, put: &PutReply) -> Result<(), Failure> {
        let start = Instant::now();
        let request = Find {
            id: put.id,
            limit: 20,
            check: true,
            timeout_s: TIMEOUT_S,
        };
        // The third may still be joining the mesh.
        let reply = loop {
            let reply = self.nodes[at].client.find(request.clone()).await?;
            let first = &self.nodes[0].peer;
            if reply.providers.iter().any(|found| found.peer == *first) {
                break reply;
            }
            if start.elapsed() > FIND_PATIENCE {
                return Err(Failure::new(
                    Exit::NotFound,
                    format!(
                        "the third node did not find the first as a provider of {}",
                        put.id
                    ),
                ));
            }
            tokio::time::sleep(FIND_INTERVAL).await;
        };
        self.step(
            "third finds the first by the DHT",
            0,
            start.elapsed(),
            show::count(reply.providers.len() as u64, "provider"),
        );
        Ok(())
    }

    async fn get(&mut self, at: usize, put: &PutReply, what: &str) -> Result<PathBuf, Failure> {
        let start = Instant::now();
        let node = &self.nodes[at];
        let output = self.scratch.join(format!("copy-{}", node.name));
        let request = Get {
            link: put.link.clone(),
            path: PathBuf::new(),
            output: Some(output.clone()),
            directory: self.scratch.clone(),
            overwrite: Overwrite::Never,
            owners: false,
            pin: false,
            max_bytes: None,
            max_files: None,
            any_size: true,
            timeout_s: TIMEOUT_S,
        };
        let reply = node.client.get(request, self.context.bar("get")).await?;
        if let Some(part) = reply.missing.first() {
            return Err(Failure::new(
                Exit::Partial,
                format!(
                    "{} of {what} missing, such as {}: {}",
                    reply.missing.len(),
                    part.path,
                    part.reason
                ),
            ));
        }
        let detail = self.givers(&reply);
        self.step(what, reply.bytes, start.elapsed(), detail);
        Ok(output)
    }

    /// Who gave how much, by the names of this play.
    fn givers(&self, reply: &GetReply) -> String {
        let parts: Vec<String> = reply
            .from
            .iter()
            .map(|giver| {
                let name = self
                    .nodes
                    .iter()
                    .find(|node| node.peer == giver.peer)
                    .map_or(giver.peer.as_str(), |node| node.name);
                format!("{} from the {name}", ByteSize(giver.bytes))
            })
            .collect();
        parts.join(", ")
    }

    async fn pin(&mut self, at: usize, put: &PutReply) -> Result<(), Failure> {
        let start = Instant::now();
        let request = PinAdd {
            link: put.link.clone(),
            name: None,
            timeout_s: TIMEOUT_S,
        };
        let reply = self.nodes[at]
            .client
            .pin_add(request, self.context.bar("pin"))
            .await?;
        if let Some(part) = reply.missing.first() {
            let text = format!("the second node could not fetch all: {}", part.reason);
            return Err(Failure::new(Exit::Partial, text));
        }
        self.step(
            "second keeps a copy",
            reply.bytes,
            start.elapsed(),
            show::count(reply.blocks, "block"),
        );
        Ok(())
    }

    async fn compare(
        &mut self,
        chosen: &sample::Sample,
        put: &PutReply,
        copy: PathBuf,
        what: &str,
    ) -> Result<(String, Comparison), Failure> {
        let start = Instant::now();
        let source = chosen.path.clone();
        let left_out = put
            .unreadable
            .iter()
            .map(|file| PathBuf::from(&file.path))
            .collect();
        let found =
            tokio::task::spawn_blocking(move || compare::compare(&source, &copy, &left_out))
                .await
                .map_err(|_| Failure::new(Exit::Failed, "the comparison broke off"))?;
        let verdict = if found.is_same() {
            "the same"
        } else {
            "DIFFERENT"
        };
        self.step(
            &format!("compare {what}"),
            found.bytes,
            start.elapsed(),
            verdict.to_owned(),
        );
        Ok((what.to_owned(), found))
    }

    fn step(&mut self, what: &str, bytes: u64, time: Duration, detail: String) {
        self.say(&format!("{what}: {} ({detail})", show::duration(time)));
        self.steps.push(Step {
            what: what.to_owned(),
            bytes,
            time,
            detail,
        });
    }
}

fn tell(
    steps: &[Step],
    comparisons: &[(String, Comparison)],
    context: &Context,
) -> Result<(), Failure> {
    if context.json {
        let steps: Vec<_> = steps
            .iter()
            .map(|step| {
                json!({
                    "step": step.what,
                    "bytes": step.bytes,
                    "seconds": step.time.as_secs_f64(),
                    "detail": step.detail,
                })
            })
            .collect();
        let comparisons: Vec<_> = comparisons
            .iter()
            .map(
                |(what, found)| json!({ "copy": what, "same": found.is_same(), "compared": found }),
            )
            .collect();
        return output::json(&json!({ "steps": steps, "comparisons": comparisons }));
    }
    let mut rows = vec![["", "size", "time", "rate", ""].map(str::to_owned).to_vec()];
    for step in steps {
        let (size, rate) = if step.bytes == 0 {
            (String::new(), String::new())
        } else {
            (
                ByteSize(step.bytes).to_string(),
                show::rate(step.bytes, step.time),
            )
        };
        rows.push(vec![
            step.what.clone(),
            size,
            show::duration(step.time),
            rate,
            step.detail.clone(),
        ]);
    }
    let mut text = format!("\n{}\n", show::table(&rows, &[1, 2, 3]));
    for (what, found) in comparisons {
        text.push_str(&format!("{what}: {}\n", found.describe()));
        for difference in &found.differences {
            text.push_str(&format!("  {}\n", show::printable(difference)));
        }
    }
    output::stdout(text.as_bytes())
}
