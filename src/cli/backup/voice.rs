//! Whose backups a command is about: this machine's owner, perhaps behind a passphrase, or an owner whose words are given.
//!
//! From the words only the keys that read are derived and passed on; the words themselves and the signing key stay in this process.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::backup::owner::{OwnerId, OwnerKeys};
use crate::cli::ask::{self, Terminal};
use crate::cli::context::{Context, Intent};
use crate::cli::exit::Failure;
use crate::cli::init;
use crate::config::Config;
use crate::node::api::{CallError, ErrorKind, ReadingKeys, Speaker};

/// How else to give the words.
const ADVICE: &str =
    "give them in a file, --phrase-file FILE, or on standard input, --phrase-file -";

/// Where the passphrase of this machine's keys is.
#[derive(Debug, Clone, Default, clap::Args)]
pub(in crate::cli) struct Passphrase {
    /// The passphrase of this machine's keys is in a file [default: asked for when it is needed].
    #[arg(long, value_name = "FILE", visible_alias = "password-file")]
    passphrase_file: Option<PathBuf>,
    /// A command for the shell prints the passphrase of this machine's keys.
    #[arg(
        long,
        value_name = "COMMAND",
        visible_alias = "password-command",
        conflicts_with = "passphrase_file"
    )]
    passphrase_command: Option<String>,
    /// The passphrase of this machine's keys comes from an open file descriptor.
    #[arg(
        long,
        value_name = "N",
        conflicts_with_all = ["passphrase_file", "passphrase_command"]
    )]
    passphrase_fd: Option<u16>,
}

/// Name of systemd's credential that holds the passphrase (systemd.exec(5), "Credentials").
const CREDENTIAL: &str = "libernet-passphrase";

impl Passphrase {
    /// Whether it is said where the passphrase is.
    pub(in crate::cli) const fn is_given(&self) -> bool {
        self.passphrase_file.is_some()
            || self.passphrase_command.is_some()
            || self.passphrase_fd.is_some()
    }

    /// The passphrase's place for a service: what is given, or systemd's credential of the
    /// directory that the manager names, where there is one.
    pub(in crate::cli) fn or_credential(mut self, dir: Option<PathBuf>) -> Self {
        if !self.is_given() {
            let file = dir.map(|dir| dir.join(CREDENTIAL));
            self.passphrase_file = file.filter(|file| file.exists());
        }
        self
    }

    /// The passphrase; none when it is not said where it is.
    async fn read(&self, context: &Context) -> Result<Option<String>, Failure> {
        let of_fd = self
            .passphrase_fd
            .map(|fd| PathBuf::from(format!("/dev/fd/{fd}")));
        if let Some(path) = self.passphrase_file.clone().or(of_fd) {
            let read = move || text(&ask::passphrase_file(&path)?);
            return ask::until_stopped(context, read).await.map(Some);
        }
        let Some(line) = self.passphrase_command.clone() else {
            return Ok(None);
        };
        let read = move || text(&ask::passphrase_of_command(&line)?);
        ask::until_stopped(context, read).await.map(Some)
    }
}

/// Where an owner's words are.
#[derive(Debug, Clone, Default, clap::Args)]
pub(in crate::cli) struct Words {
    /// Ask for the owner's twelve words.
    #[arg(long, conflicts_with = "phrase_file")]
    phrase: bool,
    /// The owner's twelve words are in a file, or come from standard input (-).
    #[arg(long, value_name = "FILE")]
    phrase_file: Option<PathBuf>,
}

/// Who reads backups.
#[derive(Debug, Clone, Default, clap::Args)]
pub(in crate::cli) struct Reader {
    #[command(flatten)]
    words: Words,
    #[command(flatten)]
    passphrase: Passphrase,
    /// A peer to join the mesh through, besides those of the settings. May be repeated.
    #[arg(long, value_name = "ADDRESS")]
    pub(in crate::cli) bootstrap: Vec<String>,
    /// With the words: don't ask in the BitTorrent Mainline DHT where the backups are.
    #[arg(long)]
    no_meet: bool,
}

/// Speaks to the node for an owner.
#[derive(Debug)]
pub(in crate::cli) struct Voice {
    speaker: Speaker,
    terminal: Terminal,
}

impl Words {
    /// The keys that the words give; none when there are no words and `required` is not set.
    ///
    /// # Errors
    /// When the words are wrong or can't be had.
    pub(super) async fn keys(
        &self,
        required: bool,
        context: &Context,
    ) -> Result<Option<(OwnerId, ReadingKeys)>, Failure> {
        if !self.are_given() && !required {
            return Ok(None);
        }
        let terminal = Terminal::find(true);
        let source = self.phrase_file.as_deref();
        let phrase = init::words(source, ADVICE, terminal, context).await?;
        let keys = OwnerKeys::derive(&phrase);
        Ok(Some((keys.id(), reading(&keys))))
    }
}

impl Reader {
    /// Use that a command makes of the data directory which reads for this reader: with the words,
    /// backups are read on any machine.
    pub(super) const fn intent(&self) -> Intent {
        match self.words.are_given() {
            true => Intent::Bring,
            false => Intent::Ask,
        }
    }
}

/// What of the keys reads.
pub(in crate::cli) fn reading(keys: &OwnerKeys) -> ReadingKeys {
    ReadingKeys {
        owner: keys.id().to_string(),
        generation: keys.last_generation().number(),
        key: keys.last_generation().key().to_base32().to_string(),
    }
}

impl Words {
    /// Whether the words are to be given.
    pub(super) const fn are_given(&self) -> bool {
        self.phrase || self.phrase_file.is_some()
    }

    /// All that the words give, asked for when they are not in a file.
    ///
    /// # Errors
    /// When the words are wrong or can't be had.
    pub(in crate::cli) async fn owner(&self, context: &Context) -> Result<OwnerKeys, Failure> {
        let terminal = Terminal::find(true);
        let source = self.phrase_file.as_deref();
        let phrase = init::words(source, ADVICE, terminal, context).await?;
        Ok(OwnerKeys::derive(&phrase))
    }
}

impl Voice {
    /// This machine's owner.
    ///
    /// # Errors
    /// When the passphrase's file can't be used.
    pub(in crate::cli) async fn of_machine(
        args: &Passphrase,
        context: &Context,
    ) -> Result<Self, Failure> {
        let passphrase = args.read(context).await?;
        Ok(Self {
            speaker: Speaker {
                passphrase,
                keys: None,
                no_meet: false,
            },
            terminal: Terminal::find(true),
        })
    }

    /// Whoever has the keys.
    pub(in crate::cli) fn of_keys(keys: ReadingKeys) -> Self {
        Self {
            speaker: Speaker {
                passphrase: None,
                keys: Some(keys),
                no_meet: false,
            },
            terminal: Terminal::find(true),
        }
    }

    /// The owner of the words, or this machine's when there are none.
    ///
    /// # Errors
    /// When words or passphrase are wrong or can't be had.
    pub(in crate::cli) async fn of_reader(
        args: &Reader,
        context: &Context,
    ) -> Result<Self, Failure> {
        let Some((_, keys)) = args.words.keys(false, context).await? else {
            return Self::of_machine(&args.passphrase, context).await;
        };
        let mut voice = Self::of_keys(keys);
        voice.speaker.no_meet = args.no_meet;
        let may_meet = |config: Config| config.meet.is_on();
        if !args.no_meet && context.config(BTreeMap::new()).is_ok_and(may_meet) {
            context.notice(
                "the BitTorrent Mainline DHT is asked, too, where these backups are: this machine's address is seen there (not with \
                 --no-meet or LIBERNET_MEET=off)",
            );
        }
        Ok(voice)
    }

    /// Speaker of the calls, as far as it is known.
    pub(super) fn speaker(&self) -> Speaker {
        self.speaker.clone()
    }

    /// Whether words were given.
    pub(in crate::cli) fn has_words(&self) -> bool {
        self.speaker.keys.is_some()
    }

    /// Makes a call; when the node needs a passphrase and a person can answer, asks for it once and makes the call again.
    ///
    /// # Errors
    /// Those of the call.
    pub(in crate::cli) async fn call<T>(
        &mut self,
        context: &Context,
        work: impl AsyncFn(Speaker) -> Result<T, CallError>,
    ) -> Result<T, Failure> {
        match work(self.speaker.clone()).await {
            Err(error) if error.kind == ErrorKind::OwnerLocked && self.may_ask() => {
                let prompt = "Passphrase of this machine's keys: ";
                let bytes = self.terminal.passphrase(prompt, context).await?;
                self.speaker.passphrase = Some(text(&bytes)?);
                Ok(work(self.speaker.clone()).await?)
            }
            result => Ok(result?),
        }
    }

    fn may_ask(&self) -> bool {
        self.terminal.answers && self.speaker.passphrase.is_none()
    }
}

/// A passphrase as it travels.
fn text(bytes: &[u8]) -> Result<String, Failure> {
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|_| Failure::usage("the passphrase is not text in UTF-8"))
}
