//! `libernet init`: makes an owner, or brings one back from its words.
//!
//! Works on the data directory alone; no node is needed. The words exist on paper, on the terminal for a moment, and in files
//! that the user names; they are never printed to a stream that is no terminal.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;
use zeroize::Zeroizing;

use super::ask::{self, Screen, Terminal};
use super::context::Context;
use super::exit::{Exit, Failure};
use super::output;
use super::show::printable;
use super::whole_file::WholeFile;
use crate::backup::owner::{
    self, MAX_NAME_BYTES, MAX_TEXT_BYTES, MachineId, Membership, OwnerId, OwnerKeys, Phrase, Vault,
    WORDS, sheet,
};
use crate::file;

/// Words that are asked back.
const ASKED_WORDS: usize = 3;
/// How often a person may try to give words.
const TRIES: usize = 3;
/// Clears the screen, with what scrolled off it, and starts at its top.
const CLEAR: &str = "\x1b[2J\x1b[3J\x1b[H";

/// Make the owner of this machine's backups: twelve words that bring everything back.
///
/// The words are shown once and not kept; write them down. The same words on another machine (`--recover`) give the same owner, and
/// so access to the same backups. This machine keeps keys that read and write backups, in owner.key in the data directory.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  libernet init                              # shows twelve words and asks for some of them
  libernet init --sheet sheet.html           # a page to print as well; delete the file then
  libernet init --recover                    # asks for the words of an owner
  libernet init --recover words.txt --name laptop
  libernet init --yes --words-out words.txt  # for scripts

An owner that exists is never replaced: exit code 8. With --recover and the words of that very owner there is nothing to do: 0.
With --json: {\"owner\",\"machine\",\"head\"}: public keys in base32, and the name of the owner's head record in hex")]
pub(super) struct Args {
    /// Don't ask for any of the words.
    #[arg(long)]
    yes: bool,
    /// Write the words to a new file that only you can read.
    #[arg(long, value_name = "FILE", conflicts_with = "recover")]
    words_out: Option<PathBuf>,
    /// Write an emergency sheet with the words to a new file, to print.
    #[arg(long, value_name = "FILE.html")]
    sheet: Option<PathBuf>,
    /// Bring an owner back from its words: in a file, from standard input (-), or asked for on the terminal.
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    recover: Option<Option<PathBuf>>,
    /// Ask for a passphrase to protect this machine's keys with. The passphrase does not protect
    /// the store, which holds the keys of what was put or backed up here:
    /// `libernet owner passphrase --help`.
    #[arg(long, conflicts_with = "passphrase_file")]
    passphrase: bool,
    /// Protect this machine's keys with the passphrase in a file.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// What to call this machine [default: its host name].
    #[arg(long, value_name = "MACHINE")]
    name: Option<String>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let terminal = Terminal::find(context.json || args.yes);
    run_on(args, terminal, context).await
}

async fn run_on(args: Args, terminal: Terminal, context: &Context) -> Result<Exit, Failure> {
    for path in [&args.words_out, &args.sheet].into_iter().flatten() {
        if path.as_os_str() == "-" {
            return Err(Failure::usage(
                "words are written to files only, not to standard output",
            ));
        }
    }
    let dir = context.data_dir.clone();
    let existing = super::owner::open(context)?;
    let mut files = NewFiles::default();
    let (keys, phrase) = match &args.recover {
        Some(source) => {
            let phrase = recovered(source.as_deref(), &args, terminal, context).await?;
            (OwnerKeys::derive(&phrase), phrase)
        }
        None => {
            if existing.is_some() {
                return Err(exists(&dir));
            }
            let is_safe =
                terminal.screen.is_some() || args.words_out.is_some() || args.sheet.is_some();
            if !is_safe {
                return Err(Failure::usage(
                    "there is no terminal to show the words on, and they would be lost",
                )
                .with_hint(
                    "write them to a file with --words-out FILE, or print --sheet FILE.html",
                ));
            }
            let phrase = Phrase::random();
            (OwnerKeys::derive(&phrase), phrase)
        }
    };
    if let Some(path) = &args.sheet {
        let date = jiff::Zoned::now().strftime("%Y-%m-%d").to_string();
        files.write(path, sheet::html(&phrase, &keys.id(), &date).as_bytes())?;
    }
    if let Some(vault) = existing {
        if *vault.owner() != keys.id() {
            return Err(exists(&dir));
        }
        files.publish()?;
        files.keep();
        tell_files(&args, context);
        context.notice("this machine belongs to that owner already; nothing is changed");
        tell(vault.owner(), &vault.machine(), vault.name(), context)?;
        return Ok(Exit::Done);
    }
    let membership = Membership::create(&keys, name(args.name.as_deref())?)?;
    let passphrase = passphrase(&args, terminal, context).await?;
    if let Some(path) = &args.words_out {
        let text = Zeroizing::new(format!("{}\n", *phrase.text()));
        files.write(path, text.as_bytes())?;
    }
    if args.recover.is_none() {
        present(&phrase, &args, terminal, context).await?;
    }
    files.publish()?;
    store(membership.clone(), passphrase, context).await?;
    files.keep();
    tell_files(&args, context);
    if args.recover.is_some() {
        context.notice(
            "this is a new machine of that owner's: what was backed up before counts as another machine's, and `libernet forget` leaves that \
             alone unless --all-machines is given, and then only asks",
        );
        context.notice(
            "if the owner ever turned a machine out, `libernet owner machine admit --phrase` gives this one the present keys, once it is connected",
        );
    }
    tell(
        &keys.id(),
        &membership.machine().id(),
        membership.name(),
        context,
    )?;
    context.notice(next_steps(args.recover.is_some()));
    Ok(Exit::Done)
}

/// Next steps with an owner that is new, or new on this machine.
const fn next_steps(is_recovered: bool) -> &'static str {
    if is_recovered {
        "next:\n  \
         libernet snapshots                           what there is; asks the nodes that keep it\n  \
         libernet restore latest --target DIR         brings it back\n  \
         libernet up                                  keeps a node running: backups by schedule, copies for others"
    } else {
        "next:\n  \
         libernet backup ~/Documents                  a first backup: on this disk only, until others keep copies\n  \
         libernet ring create home                    a group of machines that keep each other's backups\n  \
         libernet up                                  keeps a node running: backups by schedule, copies\n  \
         libernet drill                               tries, with the words alone, whether others could bring it all back"
    }
}

fn exists(dir: &Path) -> Failure {
    owner::Error::Exists(dir.join(owner::FILE_NAME)).into()
}

/// The words that the user gives.
async fn recovered(
    source: Option<&Path>,
    args: &Args,
    terminal: Terminal,
    context: &Context,
) -> Result<Phrase, Failure> {
    let is_stdin = |path: &Path| path.as_os_str() == "-";
    let twice = args.passphrase_file.as_deref().is_some_and(is_stdin) && !terminal.answers;
    if twice && source.is_some_and(is_stdin) {
        return Err(Failure::usage(
            "standard input can't hold both the words and the passphrase",
        ));
    }
    let advice = "give them in a file, --recover FILE, or on standard input, --recover -";
    words(source, advice, terminal, context).await
}

/// The words of an owner: from a file, from standard input when it is `-`, or asked for. `advice` says how else to give them.
///
/// # Errors
/// When they are wrong, can't be read, or nobody can be asked.
pub(super) async fn words(
    source: Option<&Path>,
    advice: &'static str,
    terminal: Terminal,
    context: &Context,
) -> Result<Phrase, Failure> {
    let from_stdin = source.is_some_and(|path| path.as_os_str() == "-");
    let asks = source.is_none() || (from_stdin && terminal.answers);
    if asks {
        return typed(advice, terminal, context).await;
    }
    let path = source.map(Path::to_owned).unwrap_or_default();
    ask::until_stopped(context, move || {
        let bytes = ask::read_secret(&path, "the words", MAX_TEXT_BYTES)?;
        let text = std::str::from_utf8(&bytes)
            .map_err(|_| Failure::usage("the words are not text in UTF-8"))?;
        Ok(Phrase::parse(file::without_mark(text)).map_err(owner::Error::from)?)
    })
    .await
}

/// The words from the terminal, over as many lines as it takes.
async fn typed(
    advice: &'static str,
    terminal: Terminal,
    context: &Context,
) -> Result<Phrase, Failure> {
    if !terminal.answers {
        return Err(
            Failure::usage("there is no terminal to ask for the words on").with_hint(advice),
        );
    }
    let mut tries = 0;
    loop {
        terminal.show(
            "The twelve words (the first four letters of each are enough; an empty line ends):\n",
        )?;
        let mut text = Zeroizing::new(String::with_capacity(2 * MAX_TEXT_BYTES));
        let enough = |text: &str| {
            let is_word = |word: &&str| word.contains(char::is_alphabetic);
            text.split_whitespace().filter(is_word).count() >= WORDS || text.len() > MAX_TEXT_BYTES
        };
        while !enough(&text) {
            let line = terminal.line("> ", context).await?;
            if line.trim().is_empty() {
                break;
            }
            text.push_str(&line);
        }
        tries += 1;
        match Phrase::parse(&text) {
            Ok(phrase) => return Ok(phrase),
            Err(error) if tries < TRIES => {
                terminal.show(&format!(
                    "{}. Once more, please.\n",
                    printable(&error.to_string())
                ))?;
            }
            Err(error) => return Err(owner::Error::from(error).into()),
        }
    }
}

/// Shows the words and asks for some of them, as far as there is somebody.
async fn present(
    phrase: &Phrase,
    args: &Args,
    terminal: Terminal,
    context: &Context,
) -> Result<(), Failure> {
    let has_file = args.words_out.is_some() || args.sheet.is_some();
    // Somebody who wants no questions and has the words in a file needs no words on the screen.
    if terminal.screen.is_none()
        || (args.yes && (has_file || terminal.screen == Some(Screen::Stdout)))
    {
        return Ok(());
    }
    for round in 1..=TRIES {
        terminal.show(&list(phrase))?;
        if args.yes || !terminal.answers {
            return Ok(());
        }
        terminal
            .line(
                "Write them down. Then press Enter: the screen is cleared. ",
                context,
            )
            .await?;
        terminal.show(CLEAR)?;
        if confirmed(phrase, terminal, context).await? {
            return Ok(());
        }
        if round < TRIES {
            terminal.show("That is not the word. Here they are again.\n\n")?;
        }
    }
    Err(Failure::new(
        Exit::Failed,
        "the words were not confirmed; no owner was made",
    )
    .with_hint(
        "run it again and write the words down, or write them to a file with --words-out FILE",
    ))
}

/// The words for the terminal.
fn list(phrase: &Phrase) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(1024));
    text.push_str(
        "These twelve words are the only way back to your backups when your machines are gone.\nThey are shown once and kept \
         nowhere: write them on paper.\n\n",
    );
    for (row, words) in phrase.words().chunks(3).enumerate() {
        for (column, word) in words.iter().enumerate() {
            let number = row * 3 + column + 1;
            text.push_str(&Zeroizing::new(format!("  {number:>2}. {word:<10}")));
        }
        text.push('\n');
    }
    text.push('\n');
    text
}

/// Whether the person knows some of the words.
async fn confirmed(
    phrase: &Phrase,
    terminal: Terminal,
    context: &Context,
) -> Result<bool, Failure> {
    let mut asked = rand::seq::index::sample(&mut rand::rng(), WORDS, ASKED_WORDS).into_vec();
    asked.sort_unstable();
    let words = phrase.words();
    for at in asked {
        let answer = terminal
            .line(&format!("Word {}: ", at + 1), context)
            .await?;
        if !is_word(&answer, words[at]) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the answer is the word, or the letters that make it unique.
fn is_word(answer: &str, word: &str) -> bool {
    let answer = Zeroizing::new(answer.trim().to_ascii_lowercase());
    *answer == word || (answer.len() >= 4 && word.starts_with(answer.as_str()))
}

async fn passphrase(
    args: &Args,
    terminal: Terminal,
    context: &Context,
) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
    if let Some(path) = &args.passphrase_file {
        return ask::passphrase_file(path).map(Some);
    }
    if args.passphrase {
        return terminal.new_passphrase(context).await.map(Some);
    }
    Ok(None)
}

async fn store(
    membership: Membership,
    passphrase: Option<Zeroizing<Vec<u8>>>,
    context: &Context,
) -> Result<(), Failure> {
    let dir = context.data_dir.clone();
    ask::to_the_end(move || {
        let passphrase = passphrase.as_ref().map(|bytes| bytes.as_slice());
        Ok(Vault::create(&dir, &membership, passphrase)?)
    })
    .await
}

/// What to call this machine.
fn name(given: Option<&str>) -> Result<String, Failure> {
    if let Some(name) = given {
        return Ok(name.to_owned());
    }
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    Ok(fitting(&host))
}

/// The host's name as far as it can be a machine's name.
fn fitting(host: &str) -> String {
    let mut name = String::new();
    for c in host.chars().filter(|c| !c.is_control()) {
        if name.len() + c.len_utf8() > MAX_NAME_BYTES {
            break;
        }
        name.push(c);
    }
    if name.is_empty() {
        name.push_str("machine");
    }
    name
}

/// The result. Public names only.
fn tell(
    owner: &OwnerId,
    machine: &MachineId,
    name: &str,
    context: &Context,
) -> Result<(), Failure> {
    let head = owner.head_id().to_hex();
    if context.json {
        return output::json(&json!({ "owner": owner, "machine": machine, "head": head }));
    }
    context.notice(&format!(
        "the keys of this machine, {}, are in {}",
        printable(name),
        context.data_dir.join(owner::FILE_NAME).display()
    ));
    output::stdout(format!("{owner}\n").as_bytes())
}

/// Says where the words are.
fn tell_files(args: &Args, context: &Context) {
    let shown = |path: &Path| printable(&super::show::path(path));
    if let Some(path) = &args.sheet {
        context.notice(&format!(
            "the sheet with the words is {}: print it, keep the paper, and delete the file",
            shown(path)
        ));
    }
    if let Some(path) = &args.words_out {
        context.notice(&format!(
            "the words are in {}: who reads that file reads the backups",
            shown(path)
        ));
    }
}

/// Files with words. Each has its name only just before the owner is made, so that an `init` that
/// is killed before leaves none that looks like the words of an owner, and goes away again unless
/// it is [kept](Self::keep).
#[derive(Default)]
struct NewFiles {
    written: Vec<(PathBuf, WholeFile)>,
    published: Vec<PathBuf>,
}

fn not_written(path: &Path, error: &std::io::Error) -> Failure {
    Failure::io(format!("{} could not be written", path.display()), error)
}

impl NewFiles {
    /// Writes a file that only the user can read. One that exists is an error.
    fn write(&mut self, path: &Path, bytes: &[u8]) -> Result<(), Failure> {
        let path = Context::absolute(path)?;
        if path.symlink_metadata().is_ok() {
            return Err(not_written(
                &path,
                &std::io::ErrorKind::AlreadyExists.into(),
            ));
        }
        let failed = |error: std::io::Error| not_written(&path, &error);
        let file = WholeFile::create(&path).map_err(failed)?;
        let mut writer = file.writer().map_err(failed)?;
        writer.write_all(bytes).map_err(failed)?;
        writer.sync_all().map_err(failed)?;
        self.written.push((path, file));
        Ok(())
    }

    /// Gives all that was written its names.
    fn publish(&mut self) -> Result<(), Failure> {
        for (path, file) in self.written.drain(..) {
            let failed = |error: std::io::Error| not_written(&path, &error);
            file.keep(&path).map_err(failed)?;
            self.published.push(path.clone());
            file::sync_directory(path.parent().unwrap_or(Path::new("/"))).map_err(failed)?;
        }
        Ok(())
    }

    fn keep(&mut self) {
        self.published.clear();
    }
}

impl Drop for NewFiles {
    fn drop(&mut self) {
        for path in &self.published {
            // It was made a moment ago; that it can't be removed says nothing new.
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
#[path = "init_tests.rs"]
mod tests;
