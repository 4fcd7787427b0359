use std::os::unix::fs::PermissionsExt;

use clap::Parser;

use super::*;

const NOBODY: Terminal = Terminal {
    screen: None,
    answers: false,
};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

fn context(dir: &Path) -> Context {
    Context {
        data_dir: dir.join("data"),
        json: true,
        ..Context::for_tests()
    }
}

/// Runs the command where nobody watches; `@` stands for the directory.
async fn init(line: &str, dir: &Path) -> Result<Exit, Failure> {
    let line = line.replace('@', &dir.to_string_lossy());
    let words = std::iter::once("init").chain(line.split_whitespace());
    let args = Line::try_parse_from(words)
        .map_err(|error| Failure::usage(error.to_string()))?
        .args;
    run_on(args, NOBODY, &context(dir)).await
}

fn owner_of(dir: &Path) -> Option<OwnerId> {
    let vault = Vault::open(&dir.join("data")).expect("readable")?;
    Some(*vault.owner())
}

#[tokio::test]
async fn the_words_in_the_file_are_the_owners_and_bring_it_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    let done = init(
        "--yes --words-out @/words --sheet @/sheet.html --name desk",
        dir,
    )
    .await;
    assert_eq!(done, Ok(Exit::Done));
    let text = std::fs::read_to_string(dir.join("words")).expect("written");
    let keys = OwnerKeys::derive(&Phrase::parse(&text).expect("words"));
    assert_eq!(owner_of(dir), Some(keys.id()));
    let page = std::fs::read_to_string(dir.join("sheet.html")).expect("written");
    assert!(page.contains(&keys.id().to_string()));
    for file in ["words", "sheet.html"] {
        let mode = std::fs::metadata(dir.join(file))
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    // The same words on the same machine: nothing to do; another sheet may be wanted.
    let before = std::fs::read(dir.join("data/owner.key")).expect("there");
    assert_eq!(
        init("--recover @/words --sheet @/again.html", dir).await,
        Ok(Exit::Done)
    );
    assert_eq!(
        std::fs::read(dir.join("data/owner.key")).expect("there"),
        before
    );
    assert!(dir.join("again.html").exists());
    // Another machine.
    let other = tempfile::tempdir().expect("a directory");
    std::fs::copy(dir.join("words"), other.path().join("words")).expect("copied");
    assert_eq!(
        init("--recover @/words", other.path()).await,
        Ok(Exit::Done)
    );
    assert_eq!(owner_of(other.path()), Some(keys.id()));
    let machine = |dir: &Path| {
        Vault::load(&dir.join("data"), None)
            .expect("open")
            .machine()
            .id()
    };
    assert_ne!(machine(dir), machine(other.path()));
}

#[tokio::test]
async fn an_owner_is_not_replaced_and_no_words_are_left_behind() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    assert_eq!(init("--yes --words-out @/words", dir).await, Ok(Exit::Done));
    let owner = owner_of(dir);
    for line in [
        "--yes --words-out @/new --sheet @/new.html",
        "--recover @/zoo --sheet @/new.html",
    ] {
        std::fs::write(dir.join("zoo"), "zoo ".repeat(11) + "wrong").expect("written");
        assert_eq!(
            init(line, dir).await.expect_err("exists").exit,
            Exit::Exists
        );
        assert!(!dir.join("new").exists() && !dir.join("new.html").exists());
    }
    assert_eq!(owner_of(dir), owner);
}

#[tokio::test]
async fn words_are_never_lost_nor_printed_nor_written_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    std::fs::write(dir.join("mine"), "mine").expect("written");
    for (line, exit) in [
        ("", Exit::Usage),
        ("--yes", Exit::Usage),
        ("--yes --words-out -", Exit::Usage),
        ("--yes --sheet -", Exit::Usage),
        ("--recover", Exit::Usage),
        ("--yes --words-out @/w --passphrase", Exit::Usage),
        ("--recover @/mine", Exit::Usage),
        ("--recover @/none", Exit::Failed),
        ("--recover - --passphrase-file -", Exit::Usage),
        ("--yes --words-out @/mine", Exit::Exists),
        ("--yes --sheet @/w --words-out @/mine", Exit::Exists),
    ] {
        let failure = init(line, dir).await.expect_err(line);
        assert_eq!(failure.exit, exit, "{line}: {failure:?}");
        assert!(!dir.join("w").exists(), "{line}");
    }
    assert_eq!(std::fs::read(dir.join("mine")).expect("there"), b"mine");
    assert_eq!(owner_of(dir), None);
}

#[tokio::test]
async fn wrong_words_are_named_by_their_place() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    std::fs::write(
        dir.join("w"),
        "zoo zoo zoo zo0 zoo zoo zoo zoo zoo zoo zoo wrong",
    )
    .expect("written");
    let failure = init("--recover @/w", dir).await.expect_err("wrong");
    assert_eq!(failure.exit, Exit::Usage);
    assert_eq!(
        failure.message,
        "word 4, \"zo0\", is not in the list; did you mean \"zoo\"?"
    );
}

#[test]
fn answers_may_be_short() {
    for answer in ["abandon\n", " ABANDON ", "aban", "aband"] {
        assert!(is_word(answer, "abandon"), "{answer}");
    }
    for answer in ["", "aba", "abandons", "about"] {
        assert!(!is_word(answer, "abandon"), "{answer}");
    }
    assert!(is_word("zoo", "zoo"));
}

#[test]
fn any_host_name_gives_a_machine_name() {
    assert_eq!(fitting("desk.example"), "desk.example");
    assert_eq!(fitting("a\nb"), "ab");
    assert_eq!(fitting("\n"), "machine");
    assert_eq!(fitting(&"ä".repeat(200)).len(), 254);
}

#[test]
fn the_list_has_every_word_with_its_number() {
    let phrase = Phrase::from_entropy([0x7f; 16]);
    let text = list(&phrase);
    let words = text.split("\n\n").nth(1).expect("the middle part");
    assert_eq!(Phrase::parse(words), Ok(phrase));
}
