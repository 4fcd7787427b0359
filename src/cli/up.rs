//! `libernet up`: a node that runs until it is told to stop.

mod told;

use std::collections::BTreeMap;
use std::io::Read;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use self::told::Told;
use super::backup::voice::{Passphrase, Voice};
use super::context::Context;
use super::exit::{Exit, Failure};
use super::serve::Serving;
use super::{output, show, unlock};
use crate::client::Client;
use crate::client::discovery::ApiFile;
use crate::config::{Config, Lent};
use crate::gateway::Gateway;
use crate::node::api::{RingMembers, Status};
use crate::node::{Node, NodeEvent, NodeOptions, Purpose};
use crate::time::{Clock, SystemClock, Timestamp};

/// How long the node may take to stop before the program ends without it.
const STOP_TIMEOUT: Duration = Duration::from_millis(3500);

/// Run a node until Ctrl-C or SIGTERM. A second signal ends it at once.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet up
  libernet up --quota 200GiB --bootstrap /ip4/192.0.2.7/tcp/4384
  libernet up --limit-up 2MiB --limit-down 8MiB --limit-hours 08:00-22:00
  libernet up --listen /ip4/127.0.0.1/tcp/0 --http 127.0.0.1:0 --no-mdns --json

With --json: one line an event, the first {\"event\":\"ready\",\"peer\",\"addresses\":[..],\"http\",\"pid\",\"version\"}, then
  {\"event\":\"peer_connected\",\"peer\"}, {\"event\":\"peer_gone\",\"peer\"}, {\"event\":\"listening\",\"address\"},
  {\"event\":\"member\",\"peer\",\"ring\"}, {\"event\":\"backed_up\",\"set\",\"snapshot\",\"files\",\"bytes\",\"unreadable\"},
  {\"event\":\"backup_failed\",\"set\",\"message\"}, {\"event\":\"lease_taken\",\"peer\",\"blocks\",\"bytes\"},
  {\"event\":\"problem\",\"kind\":\"began|reminder|over\",\"id\",\"subject\",\"severity\",\"text\",\"do\",\"since\"},
  {\"event\":\"warning\",\"message\"} and others, and {\"event\":\"stopped\"} at the end")]
pub(super) struct Args {
    /// Where to listen, instead of what the settings say; port 0 picks a free one. May be repeated.
    #[arg(long, value_name = "MULTIADDR")]
    listen: Vec<String>,
    /// Where the local HTTP server listens: loopback only, port 0 picks a free one.
    #[arg(long, value_name = "IP:PORT")]
    http: Option<String>,
    /// A peer to join the mesh through, besides those of the settings. May be repeated.
    #[arg(long, value_name = "ADDRESS")]
    bootstrap: Vec<String>,
    /// Don't look for nodes on the LAN.
    #[arg(long)]
    no_mdns: bool,
    /// Most bytes that the node may use on disk, such as 50GiB.
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    quota: Option<String>,
    /// Most bytes of the quota that are lent to others; half: half of it.
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    lend: Option<String>,
    /// Most bytes of blocks sent in a second, such as 2MiB.
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    limit_up: Option<String>,
    /// Most bytes of blocks fetched in a second.
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    limit_down: Option<String>,
    /// Local hours in which these two limits hold, such as 08:00-22:00.
    #[arg(long, value_name = "FROM-TO")]
    limit_hours: Option<String>,
    #[command(flatten)]
    passphrase: Passphrase,
    /// Stop when standard input ends: whoever started the node holds its other end.
    #[arg(long, hide = true)]
    until_stdin_ends: bool,
}

impl Args {
    /// The flags as settings. `configured`: the peers that the settings name to join through, to
    /// which those of the flags are added.
    fn settings(&self, configured: &[String]) -> BTreeMap<String, String> {
        let mut settings = BTreeMap::new();
        let mut set = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                settings.insert(name.to_owned(), value);
            }
        };
        let list = |items: &[String]| (!items.is_empty()).then(|| items.join(","));
        set("listen", list(&self.listen));
        if !self.bootstrap.is_empty() {
            let mut all = configured.to_vec();
            all.extend(self.bootstrap.iter().cloned());
            set("bootstrap", list(&all));
        }
        set("http", self.http.clone());
        set("quota", self.quota.clone());
        set("lend", self.lend.clone());
        set("limit_up", self.limit_up.clone());
        set("limit_down", self.limit_down.clone());
        set("limit_hours", self.limit_hours.clone());
        set("mdns", self.no_mdns.then(|| "false".to_owned()));
        settings
    }
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let configured = context.config(BTreeMap::new())?.bootstrap;
    let flags = args.settings(&configured);
    let config = context.config(flags.clone())?;
    let mut overrides = context.environment.clone();
    overrides.extend(flags);
    let address: SocketAddr = config.http.parse().expect("the settings have been checked");
    if args.until_stdin_ends {
        stop_when_stdin_ends(context.stop.clone());
    }
    if let Some(running) = running(context).await {
        return Err(running);
    }
    // The port comes first: when it is taken, nothing has been touched yet.
    let gateway = Gateway::bind(address).await?;
    let url = gateway.url();
    let options = NodeOptions {
        purpose: Purpose::Serve,
        config: config.clone(),
        overrides,
        data_dir: context.data_dir.clone(),
        http: Some(url.clone()),
    };
    let node = tokio::select! {
        biased;
        node = Node::start(options) => node?,
        () = context.stop.cancelled() => return Err(Failure::interrupted()),
    };
    let mut events = node.events();
    let client = Client::embedded(node.clone());
    let serving = match Serving::begin(gateway, client.clone(), &config, context) {
        Ok(serving) => serving,
        Err(error) => {
            let _ = node.shutdown().await;
            return Err(error);
        }
    };

    tell_ready(&node, &url, &config, context);
    let manager = [sd_notify::NotifyState::Ready];
    // Nobody to tell is no error: most nodes are started by hand.
    let _ = sd_notify::notify(&manager);
    for warning in node.listen_warnings() {
        tracing::warn!("{warning}");
        let message = warning.clone();
        say(&json!(NodeEvent::Warning { message }), context);
    }
    tokio::select! {
        () = context.stop.cancelled() => {}
        () = tell_events(&mut events, &node, context) => {}
        () = feed_watchdog(&node) => {}
        () = open_keys(args.passphrase, client, context) => {}
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);

    // Commands first, so that they hear why; then the node, and what was acknowledged is on disk.
    serving.end().await;
    let stopped = tokio::time::timeout(STOP_TIMEOUT, node.shutdown()).await;
    match stopped {
        Ok(result) => result?,
        Err(_) => context.warning("the node did not stop in time; what was acknowledged is safe"),
    }
    say(&json!({ "event": "stopped" }), context);
    context.notice("stopped");
    Ok(Exit::Done)
}

/// Tells systemd's watchdog that the node answers, for as long as it does. Never ends.
async fn feed_watchdog(node: &Node) {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    loop {
        if node.status(Status {}).await.is_ok() {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        }
        tokio::time::sleep(limit / 3).await;
    }
}

/// Gives the node the passphrase that its options or systemd's credentials name. Never ends: a node
/// whose keys stay closed serves others all the same, and says so in its problems.
async fn open_keys(passphrase: Passphrase, client: Client, context: &Context) {
    let dir = std::env::var_os("CREDENTIALS_DIRECTORY").map(std::path::PathBuf::from);
    let passphrase = passphrase.or_credential(dir);
    if passphrase.is_given() {
        let opened = match Voice::of_machine(&passphrase, context).await {
            Ok(mut voice) => unlock::give(&client, &mut voice, context).await,
            Err(failure) => Err(failure),
        };
        if let Err(failure) = opened {
            let message = format!("this machine's keys stay closed: {}", failure.message);
            tracing::warn!("{message}");
            say(&json!(NodeEvent::Warning { message }), context);
        }
    }
    std::future::pending().await
}

/// The failure to give when a node runs on the data directory already: which, and since when.
async fn running(context: &Context) -> Option<Failure> {
    let file = ApiFile::read(&context.data_dir)?;
    let since = match Client::remote(&file).await {
        // Stale: the node that wrote it is gone.
        Ok(None) => return None,
        Ok(Some(client)) => match client.status(Status::default()).await {
            Ok(status) => {
                let uptime = Duration::from_secs(status.uptime_s);
                let now = SystemClock.now().0;
                let started = Timestamp(now.saturating_sub(status.uptime_s * 1000));
                format!(
                    "since {} ({} ago)",
                    show::timestamp(started),
                    show::duration(uptime)
                )
            }
            Err(error) => format!("and does not say since when: {}", error.message),
        },
        Err(error) => format!("and does not answer: {}", error.message),
    };
    let message = format!(
        "a node runs on {} already: process {} {since}",
        context.data_dir.display(),
        file.pid
    );
    let failure = Failure::new(Exit::Locked, message);
    Some(failure.with_hint(
        "commands find it by themselves; a second node needs a directory of its own: --data-dir DIR",
    ))
}

/// Prints an event with `--json`. A node lives on when nobody reads its output any more.
fn say(event: &Value, context: &Context) {
    if context.json {
        let _ = output::json(event);
    }
}

fn tell_ready(node: &Node, url: &str, config: &Config, context: &Context) {
    let (peer, addresses) = (node.peer_id(), node.addresses());
    if context.json {
        let ready = json!({
            "event": "ready",
            "peer": peer,
            "addresses": addresses,
            "http": url,
            "pid": std::process::id(),
            "version": env!("CARGO_PKG_VERSION"),
            "network": config.network,
            "data_dir": context.data_dir.to_string_lossy(),
        });
        return say(&ready, context);
    }
    if context.quiet {
        return;
    }
    let mut rows = vec![
        vec!["peer".to_owned(), peer],
        vec!["network".to_owned(), config.network.clone()],
    ];
    if addresses.is_empty() {
        let none =
            "none yet: this machine has no network address; the node listens once it has one";
        rows.push(vec!["address".to_owned(), none.to_owned()]);
    }
    for address in addresses {
        rows.push(vec!["address".to_owned(), address]);
    }
    rows.push(vec!["browser".to_owned(), url.to_owned()]);
    let data = format!("{} (at most {})", context.data_dir.display(), config.quota);
    rows.push(vec!["data".to_owned(), data]);
    if let Lent::Bytes(lent) = config.lend
        && lent > config.quota
    {
        let text = format!("{lent} can't be lent: it is the whole quota, and no more");
        rows.push(vec!["lent".to_owned(), text]);
    }
    if config.bootstrap.is_empty() && !config.mdns {
        rows.push(vec![
            "mesh".to_owned(),
            "no --bootstrap and no mDNS: others must connect to this node".to_owned(),
        ]);
    }
    let text = format!(
        "libernet {} is up\n{}\nShare something with `libernet put PATH`; stop with Ctrl-C.\n",
        env!("CARGO_PKG_VERSION"),
        show::table(&rows, &[]),
    );
    let _ = output::stdout(text.as_bytes());
}

/// Passes events on until the node sends no more: to scripts as they are, to people in words.
async fn tell_events(events: &mut broadcast::Receiver<NodeEvent>, node: &Node, context: &Context) {
    let mut told = Told::new(Instant::now(), context.verbose);
    loop {
        match events.recv().await {
            Ok(event) => {
                if let NodeEvent::Warning { message } = &event {
                    tracing::warn!("{message}");
                }
                if context.json {
                    say(&json!(event), context);
                } else if !context.quiet {
                    if let NodeEvent::Member { peer, ring } = &event {
                        told.name(peer, &name_of(node, ring, peer).await);
                    }
                    if let Some(line) = told.line(&event, Instant::now()) {
                        let time = show::timestamp(SystemClock.now());
                        // A node lives on when nobody reads its output any more.
                        let _ = output::stdout(format!("{time}  {line}\n").as_bytes());
                    }
                }
            }
            Err(RecvError::Lagged(missed)) => {
                say(&json!({ "event": "missed", "events": missed }), context);
            }
            // The node ends only when it is told to: wait for that.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// Name of the machine of a ring's member; empty while that is unknown.
async fn name_of(node: &Node, ring: &str, peer: &str) -> String {
    let call = RingMembers {
        ring: ring.to_owned(),
    };
    let members = node.ring_members(call).await.map(|reply| reply.members);
    let found = members.into_iter().flatten().find(|one| one.peer == peer);
    found.map(|member| member.name).unwrap_or_default()
}

/// A thread of its own: reading standard input can't be cancelled, and must not hold up the end of the program.
fn stop_when_stdin_ends(stop: CancellationToken) {
    std::thread::spawn(move || {
        let mut buffer = [0; 256];
        while std::io::stdin().read(&mut buffer).is_ok_and(|len| len > 0) {}
        stop.cancel();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_settings() {
        let text = |text: &str| text.to_owned();
        let args = Args {
            listen: vec![text("/a"), text("/b")],
            http: Some(text("127.0.0.1:0")),
            bootstrap: vec![text("/c")],
            no_mdns: true,
            quota: None,
            lend: Some(text("1GiB")),
            limit_up: Some(text("2MiB")),
            limit_down: None,
            limit_hours: Some(text("08:00-22:00")),
            passphrase: Passphrase::default(),
            until_stdin_ends: false,
        };
        let settings = args.settings(&[text("/configured")]);
        assert_eq!(settings.len(), 7);
        assert_eq!(
            settings["bootstrap"], "/configured,/c",
            "added, not in place"
        );
        assert_eq!(settings["listen"], "/a,/b");
        let mut config = Config::default();
        for (name, value) in &settings {
            config.set(name, value).expect("valid");
        }
        assert_eq!(config.listen, ["/a", "/b"]);
        assert!(!config.mdns);
        assert_eq!(config.limit_up.0, 2 << 20);
    }
}
