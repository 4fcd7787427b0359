//! Rings, copies and leases as users meet them: real processes on loopback that know only a node outside of the ring, without mDNS.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::process::{Node, fails};
use crate::sample::noise;

/// Longest wait for what takes a second or two.
const LONG: Duration = Duration::from_secs(180);

pub fn utf8(path: &Path) -> &str {
    path.to_str().expect("utf-8")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

/// Looks again and again until there is what was wanted.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < LONG, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What a command said as JSON, and its exit code.
pub fn said(node: &Node, args: &[&str]) -> (Value, i32) {
    let output = node.run(&[args, &["--json"]].concat());
    let value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{args:?}: {e}: {}", String::from_utf8_lossy(&output.stderr)));
    (value, output.status.code().expect("it ended by itself"))
}

/// A node outside of the ring, an owner with a ring, and a file of so many bytes.
pub struct Scene {
    pub dir: tempfile::TempDir,
    pub outside: Node,
    pub owner: Node,
    pub code: String,
    pub source: PathBuf,
    pub words: PathBuf,
}

impl Scene {
    pub fn new(bytes: usize) -> Self {
        Self::locked_by(bytes, &[])
    }

    fn locked_by(bytes: usize, init: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        let (source, words) = (path("source"), path("words"));
        std::fs::create_dir(&source).expect("made");
        for (number, _) in (0..bytes).step_by(1 << 20).enumerate() {
            let file = source.join(number.to_string());
            std::fs::write(file, noise(number as u64, 1 << 20)).expect("written");
        }
        let outside = Node::start(&path("outside"), &[]);
        let args = ["init", "--yes", "--words-out", utf8(&words)];
        crate::process::json(&path("owner"), &[&args, init].concat());
        let owner = Node::start(&path("owner"), &[&outside.addresses[0]]);
        let ring = owner.json(&["ring", "create", "home"]);
        assert_eq!(ring["ring"], "home");
        let code = text(&ring["code"]).to_owned();
        Self {
            dir,
            outside,
            owner,
            code,
            source,
            words,
        }
    }

    /// Starts a node that knows only the one outside.
    pub fn start(&self, name: &str, flags: &[&str]) -> Node {
        let data = self.dir.path().join(name);
        Node::start_with(&data, &[&self.outside.addresses[0]], flags)
    }

    /// Starts a member, and waits until the owner sees it.
    pub fn member(&self, name: &str, flags: &[&str]) -> Node {
        let node = self.start(name, flags);
        assert_eq!(node.join(&self.code)["ring"], "home");
        until("the members meet", || {
            online(&self.owner, &node.peer).then_some(())
        });
        node
    }

    pub fn backup(&self, more: &[&str]) -> (Value, i32) {
        said(
            &self.owner,
            &[&["backup", utf8(&self.source)], more].concat(),
        )
    }

    /// Waits until all is as asked.
    pub fn healthy(&self) -> Value {
        until("the copies are there", || {
            let (health, code) = said(&self.owner, &["health"]);
            (code == 0).then_some(health)
        })
    }
}

/// Copies asked for and reached. The holders are named, as many as there are.
fn asked_and_reached(made: &Value) -> (u64, u64) {
    let copies = &made["copies"];
    let number = |name: &str| copies[name].as_u64().expect("a number");
    let holders = copies["holders"].as_array().expect("a list");
    assert_eq!(holders.len() as u64, number("reached"), "{copies}");
    (number("asked"), number("reached"))
}

pub fn online(node: &Node, peer: &str) -> bool {
    let members = node.json(&["ring", "members", "home"]);
    let members = members["members"].as_array().expect("a list");
    members
        .iter()
        .any(|member| member["peer"] == peer && member["online"] == true)
}

#[test]
fn a_ring_of_one_says_so_and_catches_up_through_the_dht_alone() {
    let scene = Scene::new(3 << 20);
    let wait = ["--copies", "2", "--wait", "--timeout", "1s"];
    let (made, code) = scene.backup(&wait);
    assert_eq!((asked_and_reached(&made), code), ((2, 0), 3));
    let again = scene
        .owner
        .run(&[&["backup", utf8(&scene.source)], &wait[..]].concat());
    fails(
        &again,
        3,
        "0 of 2 copies on other machines: no other member",
    );
    let (health, code) = said(&scene.owner, &["health"]);
    assert_eq!(code, 3, "{health}");
    let set = &health["sets"][0];
    for (field, value) in [("copies_min", 0), ("copies_asked", 2), ("survives", 0)] {
        assert_eq!(set[field], value, "{field}: {health}");
    }
    assert_eq!((&set["name"], &set["holders"]), (&json!(""), &json!([])));
    assert!(set["last_backup_s_ago"].as_u64() < Some(600), "{health}");

    let member = scene.member("b", &[]);
    until("it catches up", || {
        let (health, code) = said(&scene.owner, &["health"]);
        assert_eq!(code, 3, "{health}");
        (health["sets"][0]["copies_min"] == 1).then_some(())
    });
    let (made, code) = scene.backup(&["--copies", "1", "--wait"]);
    assert_eq!((asked_and_reached(&made), code), ((1, 1), 0));
    // Success names those that have it.
    let holders = &made["copies"]["holders"];
    assert_eq!(holders[0]["peer"], member.peer.as_str(), "{made}");
    assert_eq!(holders[0]["online"], true, "{made}");
    let members = scene.owner.json(&["ring", "members", "home"])["members"].clone();
    assert_eq!(members[0]["peer"], member.peer.as_str());
    // By the beginning of its name.
    let named = scene.owner.json(&["ring", "members", "ho"]);
    assert_eq!(named["members"][0]["peer"], members[0]["peer"]);
    assert!(
        members[0]["free_bytes"].as_u64() > Some(1 << 30),
        "{members}"
    );

    // A node outside of the ring learns nothing of it, and is none of its members.
    assert_eq!(members.as_array().map(Vec::len), Some(1), "{members}");
    let asked = scene.outside.run(&["ring", "members", "home"]);
    fails(&asked, 4, "in no ring 'home'");
    assert_eq!(scene.outside.json(&["status"])["store"]["leased_bytes"], 0);

    // What each side has done for the other.
    let ledger = until("the ledger is up to date", || {
        let ledger = scene.owner.json(&["peers", "--ledger"]);
        let peers = ledger["peers"].as_array()?;
        let entry = peers
            .iter()
            .find(|peer| peer["peer"] == member.peer.as_str())?;
        (entry["keeps_for_us"]["bytes"].as_u64()? > 0).then(|| entry.clone())
    });
    assert_eq!(ledger["standing"], "member", "{ledger}");
    assert!(
        ledger["served"]["bytes"].as_u64() > Some(3 << 20),
        "{ledger}"
    );
    let status = member.json(&["status"]);
    for field in [
        "/limits/lend",
        "/limits/up",
        "/popularity/copied_blocks",
        "/store/evicted",
    ] {
        assert!(status.pointer(field).is_some_and(Value::is_u64), "{field}");
    }
    member.stop();
}

#[test]
fn leases_are_listed_and_end_by_the_owners_words_only() {
    let scene = Scene::new(1 << 20);
    let member = scene.member("b", &[]);
    let (made, _) = scene.backup(&["--copies", "1", "--wait"]);
    let id = text(&made["snapshot"]);
    let list = || {
        let listed = scene.owner.json(&["lease", "list"]);
        listed["leases"].as_array().expect("a list").clone()
    };
    let listed = list();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["peer"], member.peer.as_str());
    assert_eq!(listed[0]["snapshot"], id);

    let other = scene.dir.path().join("other");
    std::fs::write(&other, "zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo wrong").expect("written");
    let release = |words: &Path, what: &str| {
        let args = ["lease", "release", what, "--phrase-file", utf8(words)];
        scene.owner.run(&args)
    };
    let refused = release(&other, &id[..8]);
    fails(&refused, 2, "another owner");
    assert_eq!(list().len(), 1);
    assert!(member.json(&["status"])["store"]["leased_bytes"].as_u64() > Some(1 << 20));
    fails(&release(&scene.words, "0000ffff"), 2, "'0000ffff'");

    let ended = release(&scene.words, &id[..8]);
    fails(&ended, 0, "1 lease released");
    assert!(list().is_empty());
    // Blocks that are left are logs of the history of the owner's head.
    let left = member.json(&["status"])["store"]["leased_bytes"].as_u64();
    assert!(left.is_some_and(|bytes| bytes < 128 << 10), "{left:?}");
    member.stop();
}

#[test]
fn a_locked_owner_still_gets_copies_after_a_restart() {
    let other = tempfile::tempdir().expect("a directory");
    let pass = other.path().join("pass");
    std::fs::write(&pass, "several random words here").expect("written");
    let scene = Scene::locked_by(1 << 20, &["--passphrase-file", utf8(&pass)]);
    let unlock = ["--passphrase-file", utf8(&pass)];
    let first = scene.member("b", &[]);
    let wait = ["--copies", "2", "--wait", "--timeout", "3s"];
    let (made, code) = scene.backup(&[&unlock[..], &wait[..]].concat());
    assert_eq!((&made["copies"]["reached"], code), (&json!(1), 3));
    let Scene {
        owner,
        outside,
        dir,
        code,
        ..
    } = scene;
    owner.stop();

    // The passphrase is not given again.
    let data = dir.path().join("owner");
    let owner = Node::start(&data, &[&outside.addresses[0]]);
    let second = Node::start(&dir.path().join("c"), &[&outside.addresses[0]]);
    second.join(&code);
    let health = until("the second copy is there", || {
        let (health, code) = said(&owner, &["health"]);
        (code == 0).then_some(health)
    });
    assert_eq!(health["sets"][0]["copies_min"], 2, "{health}");
    for node in [first, second, owner] {
        node.stop();
    }
}

#[test]
fn a_holder_that_is_killed_goes_on_where_it_was() {
    let scene = Scene::new(12 << 20);
    let slow = ["--limit-down", "1MiB"];
    let holder = scene.member("b", &slow);
    let (made, code) = scene.backup(&["--copies", "1"]);
    assert_eq!((&made["copies"]["asked"], code), (&json!(1), 0));
    let store = |node: &Node| node.json(&["status"])["store"]["leased_bytes"].as_u64();
    until("it fetches", || {
        (store(&holder) > Some(2 << 20)).then_some(())
    });
    assert_eq!(said(&scene.owner, &["health"]).1, 3);
    holder.kill();

    let holder = scene.start("b", &[]);
    // The lease is known without its owner.
    let workers = holder.json(&["status"])["workers"].clone();
    let state = workers.as_array().expect("a list");
    let state = state.iter().find(|worker| worker["name"] == "holder");
    assert!(state.is_some(), "{workers}");
    let health = scene.healthy();
    assert_eq!(health["sets"][0]["survives"], 1, "{health}");
    assert!(store(&holder) > Some(12 << 20));
    holder.stop();
}

#[test]
fn what_does_not_fit_is_never_called_safe() {
    let scene = Scene::new(16 << 20);
    let holder = scene.member("b", &["--quota", "24MiB"]);
    let members = scene.owner.json(&["ring", "members", "home"])["members"].clone();
    assert!(
        members[0]["free_bytes"].as_u64() <= Some(12 << 20),
        "what is lent: {members}"
    );
    let (made, code) = scene.backup(&["--copies", "1", "--wait", "--timeout", "3s"]);
    assert_eq!((asked_and_reached(&made), code), ((1, 0), 3));
    let (health, code) = said(&scene.owner, &["health"]);
    assert_eq!((&health["sets"][0]["survives"], code), (&json!(0), 3));
    assert_eq!(holder.json(&["status"])["store"]["leased_bytes"], 0);

    // It lives on, and keeps what fits.
    let small = scene.dir.path().join("small");
    std::fs::write(&small, noise(99, 2 << 20)).expect("written");
    let fits = ["backup", utf8(&small), "--copies", "1", "--wait"];
    let (made, code) = said(&scene.owner, &fits);
    assert_eq!((&made["copies"]["reached"], code), (&json!(1), 0), "{made}");
    assert_eq!(said(&scene.owner, &["health"]).1, 3, "the other one is not");
    holder.stop();
}

#[test]
fn a_removed_member_keeps_nothing_more_and_learns_nothing_more() {
    let scene = Scene::new(1 << 20);
    let (stays, goes) = (scene.member("b", &[]), scene.member("c", &[]));
    until("the two meet", || online(&goes, &stays.peer).then_some(()));
    let removed = scene.owner.json(&["ring", "remove", "home", &goes.peer]);
    assert_eq!(removed["generation"], 2, "{removed}");
    until("it is out", || {
        let all = scene.owner.json(&["ring", "members", "home"])["members"].clone();
        let is_gone = !all.to_string().contains(&goes.peer);
        (is_gone && online(&scene.owner, &stays.peer) && !online(&goes, &scene.owner.peer))
            .then_some(())
    });
    let (made, code) = scene.backup(&["--copies", "2", "--wait", "--timeout", "4s"]);
    assert_eq!((asked_and_reached(&made), code), ((2, 1), 3));
    let listed = scene.owner.json(&["lease", "list"]);
    assert_eq!(listed["leases"][0]["peer"], stays.peer.as_str(), "{listed}");
    assert_eq!(goes.json(&["status"])["store"]["leased_bytes"], 0);
    // The first code is void: it lets nobody in, and says so.
    let late = scene.start("d", &[]);
    let refused = late.run(&["ring", "join", &scene.code, "--json"]);
    fails(&refused, 2, "the code is void since a member was removed");
    assert_eq!(late.json(&["ring", "list"])["rings"], json!([]));
    let (made, _) = scene.backup(&["--copies", "2", "--wait", "--timeout", "3s"]);
    assert_eq!(made["copies"]["reached"], 1, "{made}");
    let itself = scene
        .owner
        .run(&["ring", "remove", "home", &scene.owner.peer]);
    fails(&itself, 2, "ring leave home");
}

#[test]
fn a_holder_lists_what_it_keeps_for_others_and_lets_go_of_it() {
    let scene = Scene::new(1 << 20);
    let member = scene.member("b", &[]);
    fails(
        &member.run(&["lease", "held"]),
        0,
        "no backup of another machine",
    );
    let (made, code) = scene.backup(&["--copies", "1", "--wait"]);
    assert_eq!((asked_and_reached(&made), code), ((1, 1), 0));
    let held = member.json(&["lease", "held"]);
    let lease = &held["leases"][0];
    assert_eq!(held["leases"].as_array().map(Vec::len), Some(1), "{held}");
    assert_eq!(lease["peer"], scene.owner.peer.as_str(), "{held}");
    assert_eq!(
        (&lease["whole"], &lease["removed"]),
        (&json!(true), &json!(false))
    );
    assert!(lease["bytes"].as_u64() > Some(1 << 20), "{held}");
    let name = text(&lease["name"]).to_owned();
    // Nobody can answer a question here.
    fails(&member.run(&["lease", "drop", &name]), 2, "only with --yes");
    let unknown = member.run(&["lease", "drop", "0000ffff", "--yes"]);
    fails(&unknown, 4, "libernet lease held");
    let dropped = member.json(&["lease", "drop", &name[..8], "--yes"]);
    assert_eq!(dropped["dropped"], 1, "{dropped}");
    assert!(dropped["bytes"].as_u64() > Some(1 << 20), "{dropped}");
    let held = member.json(&["lease", "held"]);
    assert_eq!(held["leases"], json!([]), "{held}");
    // The job that answers for leases knows it, too: there is room for the next one.
    let (made, code) = scene.backup(&["--copies", "1", "--wait"]);
    assert_eq!((asked_and_reached(&made), code), ((1, 1), 0));
    member.stop();
}

#[test]
fn places_are_noted_and_a_code_says_how_long_it_lasts() {
    let scene = Scene::new(0);
    let member = scene.member("b", &[]);
    scene
        .owner
        .json(&["ring", "place", "home", &member.peer, "attic"]);
    let members = scene.owner.json(&["ring", "members", "home"]);
    assert_eq!(members["members"][0]["place"], "attic", "{members}");
    // The place is told to nobody.
    let members = member.json(&["ring", "members", "home"]);
    assert_eq!(members["members"][0]["place"], "", "{members}");
    let long = scene.owner.json(&["ring", "invite", "home", "--for", "7d"]);
    let once = scene
        .owner
        .json(&["ring", "invite", "home", "--single-use"]);
    assert!(
        long["until"].as_u64() > once["until"].as_u64(),
        "{long} {once}"
    );
    assert_eq!(
        (&long["single_use"], &once["single_use"]),
        (&json!(false), &json!(true))
    );
    let list = scene.owner.json(&["ring", "list"]);
    assert_eq!(list["rings"][0]["branches"], json!([]), "{list}");
    member.stop();
}

#[test]
fn a_code_that_lets_nobody_in_any_more_says_why_and_leaves_no_ring_behind() {
    let scene = Scene::new(0);
    let invite = |more: &[&str]| {
        let made = scene
            .owner
            .json(&[&["ring", "invite", "home"], more].concat());
        (text(&made["code"]).to_owned(), made["until"].clone())
    };
    let (code, _) = invite(&["--single-use"]);
    let first = scene.start("b", &[]);
    assert_eq!(first.join(&code)["ring"], "home");
    until("the first is in", || {
        online(&scene.owner, &first.peer).then_some(())
    });
    let second = scene.start("c", &[]);
    let (short, end) = invite(&["--for", "1s"]);
    let end = end.as_u64().expect("milliseconds");
    until("the short one is over", || {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed();
        (now.expect("a clock").as_millis() > u128::from(end)).then_some(())
    });
    for (code, why) in [
        (&code, "the code is used up"),
        (&short, "the code has expired"),
    ] {
        let refused = second.run(&["ring", "join", code, "--json"]);
        fails(&refused, 2, why);
        fails(&refused, 2, "libernet ring invite");
        assert_eq!(second.json(&["ring", "list"])["rings"], json!([]));
    }
    assert!(!online(&scene.owner, &second.peer));
    // A code that no member knows is noted, and that is not all that was asked.
    let unknown = scene.outside.json(&["ring", "create", "other"])["code"].clone();
    scene.outside.json(&["ring", "leave", "other", "--force"]);
    let noted = second.run(&["ring", "join", text(&unknown)]);
    fails(&noted, 3, "no member has let this machine in yet");
}

#[test]
fn wrong_input_is_named_and_what_to_do_is_said() {
    let scene = Scene::new(0);
    let data = scene.dir.path().join("none");
    let code = scene.code.clone();
    let (name, groups) = code.split_once(':').expect("a code");
    let other_name = format!("other{name}:{groups}");
    let last = code.chars().last().expect("not empty");
    let mistyped = format!(
        "{}{}",
        &code[..code.len() - 1],
        if last == '0' { '1' } else { '0' }
    );
    let stranger = &scene.outside.peer;
    let cases: &[(&[&str], i32, &str)] = &[
        (
            &["ring", "join", "nonsense"],
            2,
            "an invite code is a name, a colon and 8 groups",
        ),
        (
            &["ring", "join", &mistyped],
            2,
            "group 8 of the invite code is mistyped",
        ),
        (&["ring", "join", &other_name], 2, "the name is mistyped"),
        (&["ring", "join", &code], 8, "in this ring already"),
        (&["ring", "create", "home"], 8, "choose another name"),
        (&["ring", "create", "No Name"], 2, "letters a to z"),
        (&["ring", "members", "nowhere"], 4, "libernet ring list"),
        (&["ring", "invite", "nowhere"], 4, "'nowhere'"),
        (&["ring", "leave", "nowhere"], 4, "'nowhere'"),
        (
            &["ring", "remove", "home", "nobody"],
            4,
            "there is no member 'nobody'",
        ),
        (&["ring", "place", "home", "nobody", "x"], 4, "'nobody'"),
        (&["ring", "choose", "home", "abcd"], 4, "no branch 'abcd'"),
        (&["ring", "invite", "home", "--for", "8d"], 2, "to 7 days"),
        (
            &["ring", "remove", "home", stranger],
            4,
            "libernet ring members",
        ),
        (
            &["backup", "/", "--timeout", "soon"],
            2,
            "30s, 10m, 2h or 7d",
        ),
        (&["backup", "/", "--timeout", "8d"], 2, "to 7 days"),
        (&["backup", "/", "--copies", "33"], 2, "0..=32"),
        (&["leave", "--timeout", "0"], 2, "from 1 second"),
        (
            &["config", "set", "limit_hours", "25:00-1"],
            2,
            "08:00-22:00",
        ),
        (&["config", "set", "lend", "1ZB"], 2, "50GiB"),
        (&["lease", "release", "zz", "--phrase-file", "x"], 2, "'zz'"),
    ];
    for (args, code, words) in cases {
        let output = scene.owner.run(args);
        fails(&output, *code, words);
    }
    for (flags, words) in [
        (["--limit-up", "1"], "128 KiB"),
        (["--limit-down", "1XB"], "'1XB' is not a size"),
        (["--limit-hours", "25:00-1"], "'25:00-1'"),
        (["--lend", "no"], "'no' is not a size"),
    ] {
        let args = [&["up", "--listen", "/ip4/127.0.0.1/tcp/0"], &flags[..]].concat();
        fails(&crate::process::run(&data, &args), 2, words);
    }
}
