//! Settings: a TOML file, environment variables and flags, in rising order of precedence.
//!
//! This file knows the settings, their defaults and what they mean; it does not read the environment or flags (the
//! command line does) and never touches the network or the store.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::file;
use crate::problems::send;
use crate::size::{ByteSize, GIB, KIB, MIB};

mod edit;
mod hours;
mod lent;
mod mapping;
mod meet;

pub use edit::{plain, set_in_file, table};
pub use hours::{Hours, HoursError};
pub use lent::Lent;
pub use mapping::PortMapping;
pub use meet::Switch;

/// Name of the settings file in the data directory.
pub const FILE_NAME: &str = "config.toml";
/// Lowest limit on bandwidth in bytes per second: with less, a large block would take longer than a request may.
pub const MIN_LIMIT: ByteSize = ByteSize(128 * KIB);
/// Lowest quota: with less, hardly a block fits beside what the database takes.
pub const MIN_QUOTA: ByteSize = ByteSize(MIB);
/// The port that a node listens on unless told otherwise.
const DEFAULT_PORT: u16 = 4384;
/// As good as no quota, and still a number that everything can be added to.
const NO_QUOTA: ByteSize = ByteSize(1 << 60);
/// Largest settings file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Every setting of a node. Missing ones have their defaults; unknown ones are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Name of the network.
    pub network: String,
    /// Where to listen.
    pub listen: Vec<String>,
    /// Peers to join the mesh through.
    pub bootstrap: Vec<String>,
    /// Find nodes on the LAN by mDNS.
    pub mdns: bool,
    /// Whether the public meeting point may be used, where it was agreed to or is needed.
    pub meet: Switch,
    /// Nodes of the meeting point to begin with; none: well-known ones.
    pub meet_bootstrap: Vec<String>,
    /// Where the local HTTP server listens.
    pub http: String,
    /// Most bytes on disk.
    pub quota: ByteSize,
    /// Most bytes that are lent to others.
    pub lend: Lent,
    /// Most bytes of blocks sent in a second; 0: no limit.
    pub limit_up: ByteSize,
    /// Most bytes of blocks fetched in a second; 0: no limit.
    pub limit_down: ByteSize,
    /// When these limits hold.
    pub limit_hours: Hours,
    /// Who offers less for a MiB of blocks gets none; in millionths of a unit.
    pub min_rate: u64,
    /// What is offered for a MiB of blocks.
    pub offer_rate: u64,
    /// What is announced to the DHT.
    pub announce: AnnouncePolicy,
    /// Policy for blocks that a pin keeps.
    pub announce_pinned: AnnouncePolicy,
    /// Policy for blocks that are kept for owners. A wider one than none shows everybody which
    /// nodes keep the same backups.
    pub announce_leased: AnnouncePolicy,
    /// Policy for blocks that may be evicted.
    pub announce_cached: AnnouncePolicy,
    /// Policy at the public meeting point.
    pub announce_meet: AnnounceMeet,
    /// Seconds to look for one block before it counts as missing.
    pub timeout_s: u64,
    /// Connections at most.
    pub max_connections: u32,
    /// Whether the router is asked to pass a port on.
    pub port_mapping: PortMapping,
    /// Command that is run when a problem begins or is over; empty: none.
    pub notify_command: String,
    /// Address of mail about problems; empty: none.
    pub notify_mail: String,
    /// URL that is told of problems; empty: none.
    pub notify_webhook: String,
    /// Whether problems are shown on the desktop.
    pub notify_desktop: bool,
}

/// Blocks of the node that are announced to the DHT; each variant is stricter than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnnouncePolicy {
    /// Every block.
    #[default]
    All,
    /// Only what somebody starts from: the roots of pinned bundles, logs of backups.
    Roots,
    /// Nothing.
    None,
}

impl AnnouncePolicy {
    /// The stricter one of two.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        self.max(other)
    }

    /// Reads its name in settings.
    fn named(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "roots" => Ok(Self::Roots),
            "none" => Ok(Self::None),
            _ => Err(format!("'{text}' is not one of all, roots, none")),
        }
    }
}

/// Links of the node that can be found at the public meeting point, once it joined it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnnounceMeet {
    /// The roots of pinned bundles.
    #[default]
    Roots,
    /// None.
    None,
}

/// All addresses of this machine, over TCP and QUIC, at one port; 0 picks free ones.
fn everywhere(port: u16) -> Vec<String> {
    ["/ip4/0.0.0.0", "/ip6/::"]
        .into_iter()
        .flat_map(|ip| {
            [
                format!("{ip}/tcp/{port}"),
                format!("{ip}/udp/{port}/quic-v1"),
            ]
        })
        .collect()
}

impl Default for Config {
    fn default() -> Self {
        Self {
            network: "libernet".to_owned(),
            listen: everywhere(DEFAULT_PORT),
            bootstrap: Vec::new(),
            mdns: true,
            meet: Switch::On,
            meet_bootstrap: Vec::new(),
            http: "127.0.0.1:4385".to_owned(),
            quota: ByteSize(50 * GIB),
            lend: Lent::Half,
            limit_up: ByteSize(0),
            limit_down: ByteSize(0),
            limit_hours: Hours::default(),
            min_rate: 0,
            offer_rate: 0,
            announce: AnnouncePolicy::All,
            announce_pinned: AnnouncePolicy::All,
            announce_leased: AnnouncePolicy::None,
            announce_cached: AnnouncePolicy::All,
            announce_meet: AnnounceMeet::Roots,
            timeout_s: 60,
            max_connections: 256,
            port_mapping: PortMapping::Auto,
            notify_command: String::new(),
            notify_mail: String::new(),
            notify_webhook: String::new(),
            notify_desktop: false,
        }
    }
}

/// One line of documentation a setting, in the order of `config show`: name, environment variable, meaning.
pub const SETTINGS: [(&str, &str, &str); 26] = [
    (
        "network",
        "LIBERNET_NETWORK",
        "Name of the network; nodes of different names never talk to each other.",
    ),
    (
        "listen",
        "LIBERNET_LISTEN",
        "Multiaddresses to listen on; port 0 picks a free one. Comma-separated in the environment. A busy port keeps the node from \
         starting, and so does whatever else is wrong with an address that is not one of the defaults.",
    ),
    (
        "bootstrap",
        "LIBERNET_BOOTSTRAP",
        "Peers to join the mesh through: multiaddresses, of names too (/dns, /dns4, /dns6, /dnsaddr), or HOST:PORT.",
    ),
    (
        "mdns",
        "LIBERNET_MDNS",
        "Find nodes on the LAN by mDNS: true or false.",
    ),
    (
        "meet",
        "LIBERNET_MEET",
        "Whether the BitTorrent Mainline DHT may be used to find nodes, where `libernet mesh join` or a ring made with --anywhere agreed \
         to that, or words are to find a backup: on or off. Off: nothing is sent there.",
    ),
    (
        "meet_bootstrap",
        "LIBERNET_MEET_BOOTSTRAP",
        "Nodes of that DHT to begin with, each HOST:PORT, in place of well-known ones. When set, addresses of private networks and of this \
         machine that are told there count, too.",
    ),
    (
        "http",
        "LIBERNET_HTTP",
        "Address and port of the local HTTP server; loopback only.",
    ),
    (
        "quota",
        "LIBERNET_QUOTA",
        "Most bytes that the node may use on disk, such as 50GiB; at least 1MiB. Everything counts.",
    ),
    (
        "lend",
        "LIBERNET_LEND",
        "Most bytes of the quota that are lent to others, such as 20GiB; half: half of it.",
    ),
    (
        "limit_up",
        "LIBERNET_LIMIT_UP",
        "Most bytes of blocks sent in a second, such as 2MiB; 0: no limit. What is no block, as the DHT, comes on top.",
    ),
    (
        "limit_down",
        "LIBERNET_LIMIT_DOWN",
        "Most bytes of blocks fetched in a second, such as 2MiB; 0: no limit. What is no block, as the DHT, comes on top.",
    ),
    (
        "limit_hours",
        "LIBERNET_LIMIT_HOURS",
        "Local hours in which the two limits hold, such as 08:00-22:00; empty: always.",
    ),
    (
        "min_rate",
        "LIBERNET_MIN_RATE",
        "Who offers less for a MiB of blocks gets none, in millionths of a unit. As in LBRYnet; no payment is behind it.",
    ),
    (
        "offer_rate",
        "LIBERNET_OFFER_RATE",
        "What is offered for a MiB of blocks, in millionths of a unit. No payment is behind it.",
    ),
    (
        "announce",
        "LIBERNET_ANNOUNCE",
        "Which blocks the DHT hears of at most: all, roots (of pinned bundles) or none. Blocks that only a backup needs are never announced.",
    ),
    (
        "announce_pinned",
        "LIBERNET_ANNOUNCE_PINNED",
        "Which of the blocks that a pin keeps, other than of backups, the DHT hears of: all, roots or none.",
    ),
    (
        "announce_leased",
        "LIBERNET_ANNOUNCE_LEASED",
        "Which of the blocks that are kept for owners the DHT hears of: all, roots (the logs of their backups) or none.",
    ),
    (
        "announce_cached",
        "LIBERNET_ANNOUNCE_CACHED",
        "Which of the blocks that may be dropped the DHT hears of: all, roots (as good as none) or none.",
    ),
    (
        "announce_meet",
        "LIBERNET_ANNOUNCE_MEET",
        "Which links can be found at the public meeting point, once this node joined it: roots (the newest pinned bundles) or none.",
    ),
    (
        "timeout_s",
        "LIBERNET_TIMEOUT_S",
        "How long to look for one block before it counts as missing: seconds, or with a unit such as 2m.",
    ),
    (
        "max_connections",
        "LIBERNET_MAX_CONNECTIONS",
        "Most connections to other nodes at once.",
    ),
    (
        "port_mapping",
        "LIBERNET_PORT_MAPPING",
        "Whether the router is asked, by UPnP, NAT-PMP and PCP, to pass the node's port on, so that others can reach it: on, off or auto. \
         Auto: a node that `libernet up` runs asks where it listens by the defaults.",
    ),
    (
        "notify_command",
        "LIBERNET_NOTIFY_COMMAND",
        "Command for the shell that is run when a problem begins or is over, with the message on its standard input; empty: none.",
    ),
    (
        "notify_mail",
        "LIBERNET_NOTIFY_MAIL",
        "Address of mail about problems, handed to the system's sendmail; empty: none.",
    ),
    (
        "notify_webhook",
        "LIBERNET_NOTIFY_WEBHOOK",
        "URL that gets a POST of JSON about problems, plain http only; empty: none.",
    ),
    (
        "notify_desktop",
        "LIBERNET_NOTIFY_DESKTOP",
        "Show problems on the desktop of the user that runs the node: true or false.",
    ),
];

/// What is wrong with the settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file could not be read or written.
    #[error("the settings file {path} could not be accessed")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not valid.
    #[error("the settings file {path} is wrong: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        message: String,
    },
    /// One value is not valid.
    #[error("the setting {name} is wrong: {message}")]
    Value {
        /// The setting.
        name: String,
        /// What is wrong.
        message: String,
    },
}

impl Config {
    /// Reads the settings file of `data_dir`; a missing file gives the defaults. `overrides` are name and text pairs from
    /// flags and the environment, applied over the file.
    ///
    /// # Errors
    /// [`Error`], naming the file or the setting.
    pub fn load(data_dir: &Path, overrides: &BTreeMap<String, String>) -> Result<Self, Error> {
        let path = data_dir.join(FILE_NAME);
        let text = read_text(&path)?.unwrap_or_default();
        let mut config = Self::parse(&text).map_err(|message| Error::Parse { path, message })?;
        for (name, value) in overrides {
            config.set(name, value)?;
        }
        config.check()?;
        Ok(config)
    }

    /// Settings that can be read of a file that is wrong, with `overrides` over them: each setting
    /// that is whole in a line of its own. For commands that give people back what is stored. When
    /// nothing says how much may be stored, nothing has to go for want of room.
    ///
    /// # Errors
    /// [`Error::Value`] for a wrong override.
    pub fn salvage(data_dir: &Path, overrides: &BTreeMap<String, String>) -> Result<Self, Error> {
        let mut config = Self {
            quota: NO_QUOTA,
            ..Self::default()
        };
        let bytes = file::read(&data_dir.join(FILE_NAME), MAX_FILE_BYTES);
        let bytes = bytes.ok().flatten().unwrap_or_default();
        for line in file::without_mark(&String::from_utf8_lossy(&bytes)).lines() {
            // Below the head of a table nothing is a setting.
            if line.trim_start().starts_with('[') {
                break;
            }
            let Ok(read) = line.parse::<toml::Table>() else {
                continue;
            };
            let mut table = toml::Table::try_from(&config).unwrap_or_default();
            table.extend(read);
            if let Ok(read) = table.try_into::<Self>()
                && read.check().is_ok()
            {
                config = read;
            }
        }
        for (name, value) in overrides {
            config.set(name, value)?;
        }
        config.check()?;
        Ok(config)
    }

    /// Reads a file's text. The error says what is wrong with it, with the line.
    fn parse(text: &str) -> Result<Self, String> {
        let message = |error: toml::de::Error| {
            let at = error.span().map(|span| span.start);
            file::at_line(text, at, error.message())
        };
        let config: Self = toml::from_str(text).map_err(message)?;
        config.check().map_err(|error| match &error {
            Error::Value { name, .. } => match line_of(text, name) {
                Some(line) => format!("line {line}: {error}"),
                None => error.to_string(),
            },
            _ => error.to_string(),
        })?;
        Ok(config)
    }

    /// Sets one setting from text; lists are separated by commas.
    ///
    /// # Errors
    /// [`Error::Value`].
    pub fn set(&mut self, name: &str, text: &str) -> Result<(), Error> {
        let wrong = |message: String| Error::Value {
            name: name.to_owned(),
            message,
        };
        let list = || -> Vec<String> {
            text.split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect()
        };
        let size = || -> Result<ByteSize, Error> {
            text.parse()
                .map_err(|e: crate::size::SizeError| wrong(e.to_string()))
        };
        let number = || -> Result<u64, Error> {
            text.parse()
                .map_err(|_| wrong(format!("'{text}' is not a number")))
        };
        match name {
            "network" => self.network = text.to_owned(),
            "listen" => self.listen = list(),
            "bootstrap" => self.bootstrap = list(),
            "mdns" => {
                self.mdns = text
                    .parse()
                    .map_err(|_| wrong(format!("'{text}' is neither true nor false")))?
            }
            "notify_command" => self.notify_command = text.trim().to_owned(),
            "notify_mail" => self.notify_mail = text.trim().to_owned(),
            "notify_webhook" => self.notify_webhook = text.trim().to_owned(),
            "notify_desktop" => {
                self.notify_desktop = text
                    .parse()
                    .map_err(|_| wrong(format!("'{text}' is neither true nor false")))?
            }
            "meet" => self.meet = text.parse().map_err(wrong)?,
            "meet_bootstrap" => self.meet_bootstrap = list(),
            "http" => self.http = text.to_owned(),
            "quota" => self.quota = size()?,
            "lend" => {
                self.lend = text
                    .parse()
                    .map_err(|e: crate::size::SizeError| wrong(e.to_string()))?
            }
            "limit_up" => self.limit_up = size()?,
            "limit_down" => self.limit_down = size()?,
            "limit_hours" => {
                self.limit_hours = text.parse().map_err(|e: HoursError| wrong(e.to_string()))?
            }
            "min_rate" => self.min_rate = number()?,
            "offer_rate" => self.offer_rate = number()?,
            "announce" => self.announce = AnnouncePolicy::named(text).map_err(wrong)?,
            "announce_pinned" => {
                self.announce_pinned = AnnouncePolicy::named(text).map_err(wrong)?;
            }
            "announce_leased" => {
                self.announce_leased = AnnouncePolicy::named(text).map_err(wrong)?;
            }
            "announce_cached" => {
                self.announce_cached = AnnouncePolicy::named(text).map_err(wrong)?;
            }
            "announce_meet" => {
                self.announce_meet = match text {
                    "roots" => AnnounceMeet::Roots,
                    "none" => AnnounceMeet::None,
                    _ => return Err(wrong(format!("'{text}' is neither roots nor none"))),
                }
            }
            "timeout_s" => self.timeout_s = crate::time::seconds(text).map_err(wrong)?,
            "port_mapping" => self.port_mapping = text.parse().map_err(wrong)?,
            "max_connections" => {
                self.max_connections = text
                    .parse()
                    .map_err(|_| wrong(format!("'{text}' is not a number")))?;
            }
            _ => {
                return Err(wrong(
                    "there is no such setting; `libernet config show` lists them".to_owned(),
                ));
            }
        }
        Ok(())
    }

    /// Whether a person chose where to listen. Of the addresses that are the program's own choice
    /// one that works is enough.
    pub fn listen_chosen(&self) -> bool {
        self.listen != everywhere(DEFAULT_PORT) && self.listen != everywhere(0)
    }

    /// Whether the router is to be asked to pass a port on, by a node that runs until it is stopped
    /// or, if not `serves`, for as long as a command.
    pub fn maps_ports(&self, serves: bool) -> bool {
        match self.port_mapping {
            PortMapping::On => true,
            PortMapping::Off => false,
            PortMapping::Auto => serves && self.listen == everywhere(DEFAULT_PORT),
        }
    }

    /// Takes free ports where nobody chose addresses, and leaves the usual ones to the node that
    /// runs all the time.
    pub fn take_free_ports(&mut self) {
        if !self.listen_chosen() {
            self.listen = everywhere(0);
        }
    }

    /// Ways by which people are told of problems.
    pub fn ways(&self) -> send::Ways {
        send::Ways {
            command: self.notify_command.clone(),
            mail: self.notify_mail.clone(),
            webhook: self.notify_webhook.clone(),
            desktop: self.notify_desktop,
        }
    }

    /// Most bytes that are lent to others.
    pub fn lent_bytes(&self) -> u64 {
        self.lend.of(self.quota)
    }

    /// The settings in which another one differs, in the order of [`SETTINGS`].
    pub fn differs_in(&self, other: &Self) -> Vec<&'static str> {
        let table = |config| toml::Table::try_from(config).unwrap_or_default();
        let (mine, others) = (table(self), table(other));
        let names = SETTINGS.iter().map(|(name, ..)| *name);
        names
            .filter(|name| mine.get(*name) != others.get(*name))
            .collect()
    }

    /// Checks what types cannot express.
    ///
    /// # Errors
    /// [`Error::Value`].
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |name: &str, message: &str| {
            Err(Error::Value {
                name: name.to_owned(),
                message: message.to_owned(),
            })
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.';
        if self.network.is_empty() || self.network.len() > 64 || !self.network.chars().all(plain) {
            return wrong(
                "network",
                "a name has 1 to 64 letters, digits, dots, dashes or underscores",
            );
        }
        if let Some(problem) = send::mail_problem(&self.notify_mail) {
            return wrong("notify_mail", &problem);
        }
        if let Some(problem) = send::webhook_problem(&self.notify_webhook) {
            return wrong("notify_webhook", &problem);
        }
        if let Some(problem) = meet::problem(&self.meet_bootstrap) {
            return wrong("meet_bootstrap", &problem);
        }
        match self.http.parse::<std::net::SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => {}
            Ok(_) => {
                return wrong(
                    "http",
                    "the local server shows decrypted content and listens on loopback only",
                );
            }
            Err(_) => return wrong("http", "expected IP:PORT, such as 127.0.0.1:4385"),
        }
        if self.quota < MIN_QUOTA {
            let given = self.quota;
            return wrong(
                "quota",
                &format!(
                    "{given} is too little: a quota is {MIN_QUOTA} or more; give a unit, such as 50GiB"
                ),
            );
        }
        for (name, limit) in [("limit_up", self.limit_up), ("limit_down", self.limit_down)] {
            if limit.0 != 0 && limit < MIN_LIMIT {
                return wrong(
                    name,
                    &format!("a limit is {MIN_LIMIT} a second or more, or 0 for none"),
                );
            }
        }
        if self.timeout_s == 0 || self.timeout_s > 24 * 3600 {
            return wrong("timeout_s", "expected 1 to 86400 seconds");
        }
        if self.max_connections == 0 {
            return wrong("max_connections", "at least one connection is needed");
        }
        Ok(())
    }
}

/// The text of a settings file; `None` when there is no file.
///
/// # Errors
/// [`Error::Io`]; [`Error::Parse`] for one that is too large or no text.
pub fn read_text(path: &Path) -> Result<Option<String>, Error> {
    match file::read_text(path, MAX_FILE_BYTES) {
        Ok(text) => Ok(text.map(|text| text.as_str().to_owned())),
        Err(error) if file::is_damage(&error) => Err(Error::Parse {
            path: path.to_owned(),
            message: error.to_string(),
        }),
        Err(source) => Err(Error::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

/// The line on which a settings file says what a setting is.
fn line_of(text: &str, name: &str) -> Option<usize> {
    let parsed = toml::de::DeTable::parse(text).ok()?;
    let mut keys = parsed.get_ref().iter();
    let (key, _) = keys.find(|(key, _)| key.get_ref().as_ref() == name)?;
    Some(file::line_at(text.as_bytes(), key.span().start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_documented_and_can_be_set() {
        let defaults = toml::Table::try_from(Config::default()).expect("settings are a table");
        let documented: Vec<&str> = SETTINGS.iter().map(|(name, _, _)| *name).collect();
        let mut present: Vec<&str> = defaults.keys().map(String::as_str).collect();
        present.sort_unstable();
        let mut sorted = documented.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, present);
        for name in documented {
            let text = match &defaults[name] {
                toml::Value::Array(items) => items
                    .iter()
                    .filter_map(|i| i.as_str())
                    .collect::<Vec<_>>()
                    .join(","),
                toml::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let mut config = Config::default();
            config.set(name, &text).expect("a default reads back");
            assert_eq!(config, Config::default(), "{name}");
        }
    }

    #[test]
    fn the_defaults_are_nobodys_choice() {
        let mut config = Config::default();
        assert!(!config.listen_chosen());
        config.take_free_ports();
        assert!(!config.listen_chosen());
        assert!(config.listen.contains(&"/ip6/::/udp/0/quic-v1".to_owned()));
        config.listen.pop();
        assert!(config.listen_chosen());
        let chosen = config.clone();
        config.take_free_ports();
        assert_eq!(config, chosen);
    }

    #[test]
    fn the_router_is_asked_by_a_node_that_listens_by_the_defaults() {
        let mut config = Config::default();
        assert!(config.maps_ports(true) && !config.maps_ports(false));
        config.take_free_ports();
        assert!(!config.maps_ports(true));
        config.set("port_mapping", "on").expect("valid");
        assert!(config.maps_ports(true) && config.maps_ports(false));
        let mut config = Config::default();
        config.set("port_mapping", "off").expect("valid");
        assert!(!config.maps_ports(true));
        config.set("port_mapping", "auto").expect("valid");
        config.set("listen", "/ip4/127.0.0.1/tcp/0").expect("valid");
        assert!(!config.maps_ports(true));
    }

    #[test]
    fn what_differs_is_named() {
        let defaults = Config::default();
        assert!(defaults.differs_in(&Config::default()).is_empty());
        let mut other = Config::default();
        for (name, value) in [("limit_up", "1MiB"), ("bootstrap", "/a"), ("lend", "1MiB")] {
            other.set(name, value).expect("valid");
        }
        assert_eq!(
            defaults.differs_in(&other),
            ["bootstrap", "lend", "limit_up"]
        );
    }

    #[test]
    fn a_file_is_read_and_overridden() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(
            Config::load(dir.path(), &BTreeMap::new()).expect("no file"),
            Config::default()
        );
        std::fs::write(
            dir.path().join(FILE_NAME),
            "quota = \"1GiB\"\nmdns = false\n",
        )
        .expect("written");
        let overrides = BTreeMap::from([("quota".to_owned(), "2GiB".to_owned())]);
        let config = Config::load(dir.path(), &overrides).expect("valid");
        assert_eq!((config.quota, config.mdns), (ByteSize(2 * GIB), false));
    }

    #[test]
    fn limits_are_read_down_to_the_lowest() {
        let mut config = Config::default();
        assert_eq!(config.lent_bytes(), 25 * GIB);
        for (name, value) in [
            ("limit_up", "128KiB"),
            ("limit_down", "2MiB"),
            ("limit_hours", "08:00-22:00"),
            ("lend", "10GiB"),
            ("min_rate", "18446744073709551615"),
        ] {
            config.set(name, value).expect("valid");
        }
        config.check().expect("valid");
        assert_eq!(config.limit_up, MIN_LIMIT);
        assert_eq!(config.lent_bytes(), 10 * GIB);
        config.set("lend", "100GiB").expect("valid");
        assert_eq!(config.lent_bytes(), 50 * GIB, "never more than the quota");
        let text = toml::to_string(&config).expect("settings are a table");
        assert_eq!(toml::from_str::<Config>(&text).expect("reads back"), config);
    }

    #[test]
    fn what_can_be_read_of_a_wrong_file_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let text = b"\xef\xbb\xbfnetwork = \"home\"\nmdns = flase\ntimeout_s = 0\nlisten = [\n  \"/ip4/0.0.0.0/tcp/1\",\n\nhttp = \"127.0.0.1:1\" # \xff\nmax_connections = 7\n[x]\nquota = \"1GiB\"\n";
        std::fs::write(dir.path().join(FILE_NAME), text).expect("written");
        let flag = BTreeMap::from([("announce".to_owned(), "none".to_owned())]);
        let config = Config::salvage(dir.path(), &flag).expect("salvaged");
        let expected = Config {
            network: "home".to_owned(),
            http: "127.0.0.1:1".to_owned(),
            max_connections: 7,
            announce: AnnouncePolicy::None,
            quota: NO_QUOTA,
            ..Config::default()
        };
        assert_eq!(config, expected);
        std::fs::write(dir.path().join(FILE_NAME), "quota = \"3GiB\"\nx").expect("written");
        let config = Config::salvage(dir.path(), &BTreeMap::new()).expect("salvaged");
        assert_eq!(config.quota, ByteSize(3 * GIB));
        let wrong = BTreeMap::from([("quota".to_owned(), "lots".to_owned())]);
        assert!(Config::salvage(dir.path(), &wrong).is_err());
    }

    #[test]
    fn wrong_settings_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join(FILE_NAME), "qouta = 1\n").expect("written");
        let error = Config::load(dir.path(), &BTreeMap::new()).expect_err("unknown setting");
        assert!(error.to_string().contains("qouta"), "{error}");
        for (text, words) in [
            ("mdns = true\nquota = \n", "line 2"),
            ("mdns = true\n\nhttp = \"0.0.0.0:80\"\n", "line 3"),
            ("network = \"a/b\"", "line 1"),
        ] {
            std::fs::write(dir.path().join(FILE_NAME), text).expect("written");
            let error = Config::load(dir.path(), &BTreeMap::new()).expect_err("wrong");
            assert!(matches!(error, Error::Parse { .. }), "{error:?}");
            assert!(error.to_string().contains(words), "{error}");
            assert!(error.to_string().contains(FILE_NAME), "{error}");
        }
        for (name, value) in [
            ("http", "0.0.0.0:80"),
            ("http", "nonsense"),
            ("network", "a/b"),
            ("timeout_s", "0"),
            ("max_connections", "0"),
            ("mdns", "maybe"),
            ("meet", "true"),
            ("meet_bootstrap", "127.0.0.1"),
            ("announce", "some"),
            ("announce_leased", "some"),
            ("announce_meet", "all"),
            ("quota", "lots"),
            ("quota", "50"),
            ("quota", "1048575"),
            ("lend", "lots"),
            ("limit_up", "131071"),
            ("limit_down", "1KiB"),
            ("limit_hours", "8-22"),
            ("min_rate", "-1"),
            ("offer_rate", "much"),
            ("port_mapping", "true"),
            ("nothing", "1"),
        ] {
            std::fs::write(dir.path().join(FILE_NAME), "").expect("written");
            let overrides = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            let error = Config::load(dir.path(), &overrides).expect_err("wrong");
            assert!(
                matches!(&error, Error::Value { name: n, .. } if n == name),
                "{error}"
            );
        }
    }
}
