//! Settings that a running node takes over when they change: the quota, how much of it is lent, the
//! limits on bandwidth, and the ways by which people are told of problems.
//!
//! Flags and the environment of the running node beat the file for as long as it runs. A file that
//! is wrong changes nothing at all. What a node is built with (addresses, names) waits for the next
//! start, and the answer says so. A lower quota drops only what is cached, and lending less ends no
//! lease: what was promised is kept, and nothing new is taken until there is room again.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::api::*;
use super::failure::chain;
use super::{Node, blocking};
use crate::config::{self, Config};
use crate::upkeep::fairness::Bandwidth;

/// Settings that change while the node runs.
const LIVE: [&str; 9] = [
    "quota",
    "lend",
    "limit_up",
    "limit_down",
    "limit_hours",
    "notify_command",
    "notify_mail",
    "notify_webhook",
    "notify_desktop",
];

/// The settings that hold now.
pub(super) struct Settings {
    /// From flags and the environment.
    overrides: BTreeMap<String, String>,
    current: Mutex<Config>,
    bandwidth: watch::Sender<Bandwidth>,
    lent_bytes: watch::Sender<u64>,
}

impl Settings {
    pub(super) fn new(config: &Config, overrides: BTreeMap<String, String>) -> Self {
        Self {
            overrides,
            bandwidth: watch::Sender::new(Bandwidth::of(config)),
            lent_bytes: watch::Sender::new(config.lent_bytes()),
            current: Mutex::new(config.clone()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Config> {
        // A change is one assignment.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What holds now.
    pub(super) fn current(&self) -> Config {
        self.lock().clone()
    }

    /// The limits on bandwidth, whenever they change.
    pub(super) fn bandwidth(&self) -> watch::Receiver<Bandwidth> {
        self.bandwidth.subscribe()
    }

    /// Most bytes that are lent, whenever that changes.
    pub(super) fn lent_bytes(&self) -> watch::Receiver<u64> {
        self.lent_bytes.subscribe()
    }

    /// Takes over what can be of settings that are valid. `hold` hears what holds from now on; of
    /// two calls at once, in their order.
    fn take_over(&self, read: Config, hold: impl FnOnce(&Config)) -> ReloadReply {
        let mut current = self.lock();
        let changed = current.differs_in(&read);
        let (applied, waiting): (Vec<&str>, Vec<&str>) =
            changed.into_iter().partition(|name| LIVE.contains(name));
        let new = Config {
            quota: read.quota,
            lend: read.lend,
            limit_up: read.limit_up,
            limit_down: read.limit_down,
            limit_hours: read.limit_hours,
            notify_command: read.notify_command,
            notify_mail: read.notify_mail,
            notify_webhook: read.notify_webhook,
            notify_desktop: read.notify_desktop,
            ..current.clone()
        };
        self.bandwidth.send_replace(Bandwidth::of(&new));
        self.lent_bytes.send_replace(new.lent_bytes());
        hold(&new);
        *current = new;
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
        ReloadReply {
            applied: owned(applied),
            waiting: owned(waiting),
            overridden: self.overrides.keys().cloned().collect(),
        }
    }
}

impl Node {
    /// Reads the settings file again, and takes over what can change while the node runs.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] and others for a file that is wrong or can't be read: then everything
    /// stays as it is.
    pub async fn reload(&self, _: Reload) -> Result<ReloadReply, CallError> {
        let node = self.clone();
        let read = move || {
            let settings = &node.inner.settings;
            Ok(Config::load(
                &node.inner.options.data_dir,
                &settings.overrides,
            )?)
        };
        let read = blocking(read).await?;
        let store = self.store();
        let settings = &self.inner.settings;
        let reply = settings.take_over(read, |new| store.set_quota(new.quota));
        if !reply.applied.is_empty() {
            tracing::info!(settings = reply.applied.join(", "), "settings have changed");
        }
        Ok(reply)
    }
}

impl Node {
    /// Every setting, its value and its meaning.
    ///
    /// # Errors
    /// As [`reload`](Self::reload).
    pub async fn settings(&self, _: SettingsList) -> Result<SettingsReply, CallError> {
        let node = self.clone();
        let work = move || {
            let held = &node.inner.settings;
            let dir = &node.inner.options.data_dir;
            let file = config::table(&Config::load(dir, &held.overrides)?);
            let (now, default) = (held.current(), Config::default());
            let (now, default) = (config::table(&now), config::table(&default));
            let settings = config::SETTINGS.iter().map(|(name, _, meaning)| {
                let shown = |table: &toml::Table| table.get(*name).map(config::plain);
                let (value, waiting) = (shown(&now), shown(&file));
                Setting {
                    name: (*name).to_owned(),
                    meaning: (*meaning).to_owned(),
                    waiting: waiting.filter(|waiting| Some(waiting) != value.as_ref()),
                    value: value.unwrap_or_default(),
                    default: shown(&default).unwrap_or_default(),
                    live: LIVE.contains(name),
                    overridden: held.overrides.contains_key(*name),
                }
            });
            Ok(SettingsReply {
                settings: settings.collect(),
            })
        };
        blocking(work).await
    }

    /// Changes one setting in the file, and takes it over if that can be done now.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for an unknown setting or a wrong value, and those of
    /// [`reload`](Self::reload).
    pub async fn setting_set(&self, call: SettingSet) -> Result<ReloadReply, CallError> {
        let path = self.inner.options.data_dir.join(config::FILE_NAME);
        let set = move || Ok(config::set_in_file(&path, &call.name, &call.value)?);
        blocking(set).await?;
        self.reload(Reload {}).await
    }
}

impl From<config::Error> for CallError {
    fn from(error: config::Error) -> Self {
        let kind = match &error {
            config::Error::Io { source, .. }
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                ErrorKind::Permission
            }
            config::Error::Io { .. } => ErrorKind::Failed,
            config::Error::Parse { .. } => ErrorKind::Damaged,
            config::Error::Value { .. } => ErrorKind::Usage,
        };
        Self::new(kind, chain(&error)).with_hint(
            "the running node goes on with the settings that it has; `libernet config reload` tells it once the file is right",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Lent;
    use crate::size::{ByteSize, MIB};

    #[test]
    fn limits_are_taken_over_and_what_a_node_is_built_with_waits() {
        let overrides = BTreeMap::from([("mdns".to_owned(), "false".to_owned())]);
        let settings = Settings::new(&Config::default(), overrides);
        let (bandwidth, lent) = (settings.bandwidth(), settings.lent_bytes());
        let read = Config {
            limit_up: ByteSize(2 * MIB),
            lend: Lent::Bytes(ByteSize(3 * MIB)),
            quota: ByteSize(2 * MIB),
            max_connections: 7,
            ..Config::default()
        };
        let held = std::cell::Cell::default();
        let reply = settings.take_over(read.clone(), |new| held.set(new.quota));
        assert_eq!(reply.applied, ["quota", "lend", "limit_up"]);
        assert_eq!(reply.waiting, ["max_connections"]);
        assert_eq!(reply.overridden, ["mdns"]);
        assert_eq!(held.get(), ByteSize(2 * MIB));
        assert_eq!(bandwidth.borrow().up, 2 * MIB);
        assert_eq!(*lent.borrow(), 2 * MIB, "never more than the quota of now");
        assert_eq!(settings.current().quota, ByteSize(2 * MIB));
        let again = settings.take_over(read, |_| {});
        assert!(again.applied.is_empty());
        assert_eq!(again.waiting, reply.waiting);
        let back = settings.take_over(Config::default(), |_| {});
        assert_eq!(back.applied, reply.applied);
        assert_eq!(bandwidth.borrow().up, 0);
    }

    #[test]
    fn every_live_setting_is_one() {
        let documented = config::SETTINGS.map(|(name, ..)| name);
        assert!(LIVE.iter().all(|name| documented.contains(name)));
    }
}
