//! Context that every command shares: where the data is, the settings, how to talk to the user, and
//! how to stop.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::exit::{Exit, Failure};
use super::output;
use super::progress::Bar;
use crate::client::Client;
use crate::config::{Config, SETTINGS};
use crate::node::Purpose;
use crate::node::api::Connect;

/// How long a command's own node may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Use that a command makes of a data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// It brings something there: the directory is made when it is missing.
    Bring,
    /// It asks for what is there, and makes nothing.
    Ask,
    /// It removes something, which must work on a full disk too, and makes nothing.
    Remove,
}

/// What every command shares.
#[derive(Debug, Clone)]
pub struct Context {
    /// Data directory, absolute.
    pub data_dir: PathBuf,
    /// Print JSON.
    pub json: bool,
    /// Say only errors.
    pub quiet: bool,
    /// Show whole ids and every detail.
    pub verbose: bool,
    /// Settings from the environment.
    pub environment: BTreeMap<String, String>,
    /// Use that the command makes of the data directory.
    pub intent: Intent,
    /// Whether it gives people back what they have stored. Then damaged settings don't stop it.
    pub gives_back: bool,
    /// Fires when the user or the system wants the command to end.
    pub stop: CancellationToken,
}

/// The settings that the environment gives, by name.
pub fn environment(get: impl Fn(&str) -> Option<String>) -> BTreeMap<String, String> {
    SETTINGS
        .iter()
        .filter_map(|(name, variable, _)| Some(((*name).to_owned(), get(variable)?)))
        .collect()
}

/// The data directory that the platform suggests.
pub fn default_data_dir() -> Option<PathBuf> {
    directories::ProjectDirs::from("", "", "libernet").map(|dirs| dirs.data_dir().to_owned())
}

impl Context {
    /// The settings: `flags` beat the environment, which beats the file.
    ///
    /// # Errors
    /// A wrong setting, by name.
    pub fn config(&self, flags: BTreeMap<String, String>) -> Result<Config, Failure> {
        let mut overrides = self.environment.clone();
        overrides.extend(flags);
        Ok(Config::load(&self.data_dir, &overrides)?)
    }

    /// Whether only results and errors are said.
    pub const fn is_silent(&self) -> bool {
        self.quiet || self.json
    }

    /// Whether a person sits before a terminal and reads everything that is said.
    pub fn is_interactive(&self) -> bool {
        !self.is_silent() && output::is_terminal()
    }

    /// As [`config`](Self::config) without flags; of a damaged file what can be read, for a command
    /// that gives back what is stored.
    fn config_for_work(&self) -> Result<Config, Failure> {
        let damage = match self.config(BTreeMap::new()) {
            Err(failure) if self.gives_back && failure.exit == Exit::Damaged => failure,
            config => return config,
        };
        let config = Config::salvage(&self.data_dir, &self.environment)?;
        self.warning(&format!(
            "{}; this command goes on with what can be read of it",
            damage.message
        ));
        Ok(config)
    }

    /// Tells the user something that is no result, on stderr. Not with `--quiet`, and not with
    /// `--json`.
    pub fn notice(&self, text: &str) {
        if !self.is_silent() {
            output::stderr(&format!("{text}\n"));
        }
    }

    /// Warns on stderr, unless the user wants to hear only errors.
    pub fn warning(&self, text: &str) {
        if !self.quiet {
            output::stderr(&format!("warning: {}\n", super::show::printable(text)));
        }
    }

    /// A name for people: its start, or the whole with `--verbose`.
    pub fn id<'a>(&self, name: &'a str) -> &'a str {
        if self.verbose {
            name
        } else {
            super::show::short(name)
        }
    }

    /// A progress bar.
    pub fn bar(&self, verb: &'static str) -> Arc<Bar> {
        Bar::new(verb, !self.quiet, !self.quiet)
    }

    /// A context of tests: nothing is shown but what is asked for.
    #[cfg(test)]
    pub fn for_tests() -> Self {
        Self {
            data_dir: PathBuf::from("/nowhere"),
            json: false,
            quiet: true,
            verbose: false,
            environment: BTreeMap::new(),
            intent: Intent::Bring,
            gives_back: false,
            stop: CancellationToken::new(),
        }
    }

    /// The path on this machine that the user means.
    ///
    /// # Errors
    /// When the working directory is gone.
    pub fn absolute(path: &Path) -> Result<PathBuf, Failure> {
        std::path::absolute(path).map_err(|error| {
            Failure::io(format!("the path {} can't be used", path.display()), &error)
        })
    }

    /// Runs `work` with the node of the data directory: the running one, or one of this command's
    /// own that is stopped at the end. A signal ends the work.
    ///
    /// # Errors
    /// Failure of `work`, or the reason that keeps the node from starting. [`Exit::NotFound`] when
    /// there is no data directory and the intent is not to bring something there.
    pub async fn with_client<T>(
        &self,
        work: impl AsyncFnOnce(&Client, &Config) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.with_client_through(&[], work).await
    }

    /// As [`with_client`](Self::with_client), and the node joins the mesh through these peers as
    /// well.
    ///
    /// # Errors
    /// As [`with_client`](Self::with_client).
    pub async fn with_client_through<T>(
        &self,
        bootstrap: &[String],
        work: impl AsyncFnOnce(&Client, &Config) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        if self.intent != Intent::Bring {
            self.must_exist()?;
        }
        let purpose = match self.intent {
            Intent::Bring | Intent::Ask if self.gives_back => Purpose::GiveBack,
            Intent::Bring | Intent::Ask => Purpose::Command,
            Intent::Remove => Purpose::MakeRoom,
        };
        let mut config = self.config_for_work()?;
        config.bootstrap.extend(bootstrap.iter().cloned());
        let client = tokio::select! {
            biased;
            client = Client::open(&self.data_dir, config.clone(), purpose) => client?,
            () = self.stop.cancelled() => return Err(Failure::interrupted()),
        };
        if client.is_embedded() {
            self.notice(&format!(
                "no node is running on {}: this command uses one of its own (`libernet up` keeps one running)",
                self.data_dir.display()
            ));
        }
        let work = async {
            if !client.is_embedded() {
                self.connect(&client, bootstrap).await;
            }
            work(&client, &config).await
        };
        let result = tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Failure::interrupted()),
            result = work => result,
        };
        match tokio::time::timeout(STOP_TIMEOUT, client.shutdown()).await {
            Ok(Ok(())) => result,
            // The work's own failure says more than that of stopping.
            Ok(Err(error)) => result.and(Err(error.into())),
            Err(_) => {
                self.warning("the node of this command did not stop in time");
                result
            }
        }
    }

    /// As [`with_client`](Self::with_client), and while the work runs the node connects to these
    /// addresses of a ticket.
    ///
    /// # Errors
    /// As [`with_client`](Self::with_client).
    pub async fn with_client_at<T>(
        &self,
        ways: &[String],
        work: impl AsyncFnOnce(&Client, &Config) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.with_client(async |client, config| {
            let dials = async {
                self.go_to(client, ways).await;
                // The work may find what it wants elsewhere.
                std::future::pending::<()>().await;
            };
            tokio::select! {
                biased;
                done = work(client, config) => done,
                () = dials => unreachable!("it never ends"),
            }
        })
        .await
    }

    /// Connects to a ticket's addresses, all at once; says so when nobody is there.
    async fn go_to(&self, client: &Client, ways: &[String]) {
        let dials = ways.iter().map(|address| {
            let address = address.clone();
            client.connect(Connect { address })
        });
        let answers = futures::future::join_all(dials).await;
        let failed: Vec<&str> = answers
            .iter()
            .filter_map(|answer| Some(&*answer.as_ref().err()?.message))
            .collect();
        if let Some(first) = failed.first().filter(|_| failed.len() == answers.len()) {
            self.warning(&format!(
                "the node that made the ticket could not be reached where it was: {first}"
            ));
        }
    }

    /// Refuses a data directory that does not exist. A mistyped one must not be made, and then seem
    /// to be empty.
    ///
    /// # Errors
    /// [`Exit::NotFound`].
    pub fn must_exist(&self) -> Result<(), Failure> {
        match self.data_dir.try_exists() {
            Ok(false) => {
                let what = format!("there is no data directory {}", self.data_dir.display());
                Err(Failure::new(Exit::NotFound, what).with_hint(
                    "is --data-dir (or LIBERNET_DATA) right? `libernet init`, `libernet put` and `libernet up` make one",
                ))
            }
            Ok(true) => Ok(()),
            Err(error) => {
                let what = format!(
                    "the data directory {} can't be used",
                    self.data_dir.display()
                );
                Err(Failure::io(what, &error))
            }
        }
    }

    /// Lets a node that runs already know of further peers. All are dialled at once: one that does
    /// not answer holds up no other.
    async fn connect(&self, client: &Client, bootstrap: &[String]) {
        let dials = bootstrap.iter().map(|address| async move {
            let address = address.clone();
            if let Err(error) = client.connect(Connect { address }).await {
                self.warning(&error.message);
            }
        });
        futures::future::join_all(dials).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_beat_the_environment_which_beats_the_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let text = "network = \"file\"\ntimeout_s = 1\nmax_connections = 1\n";
        std::fs::write(dir.path().join(crate::config::FILE_NAME), text).expect("written");
        let variables = [
            ("LIBERNET_TIMEOUT_S", "2"),
            ("LIBERNET_MAX_CONNECTIONS", "2"),
        ];
        let context = Context {
            data_dir: dir.path().to_owned(),
            json: false,
            quiet: true,
            verbose: false,
            environment: environment(|name| {
                let found = variables.iter().find(|(variable, _)| *variable == name);
                found.map(|(_, value)| (*value).to_owned())
            }),
            intent: Intent::Bring,
            gives_back: false,
            stop: CancellationToken::new(),
        };
        let flags = BTreeMap::from([("max_connections".to_owned(), "3".to_owned())]);
        let config = context.config(flags).expect("valid");
        assert_eq!(config.network, "file");
        assert_eq!((config.timeout_s, config.max_connections), (2, 3));
        let flags = BTreeMap::from([("quota".to_owned(), "lots".to_owned())]);
        assert_eq!(context.config(flags).expect_err("wrong").exit.code(), 2);
    }
}
