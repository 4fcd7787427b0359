//! Copies on the members of a ring that are not needed any more, or are of another snapshot than before.

use std::time::SystemTime;

use libp2p::PeerId;
use serde_json::{Value, json};

use crate::process::{Node, fails, run};
use crate::rings::{Scene, said, until, utf8};
use crate::sample::{assert_same, noise};

fn leased(node: &Node) -> Option<u64> {
    node.json(&["status"])["store"]["leased_bytes"].as_u64()
}

/// Whether a node keeps nothing for others but the logs of owners' heads, which stay a while longer than the leases.
fn keeps_only_heads(node: &Node) -> bool {
    leased(node).is_some_and(|bytes| bytes < 128 << 10)
}

fn leases(node: &Node) -> Vec<Value> {
    let listed = node.json(&["lease", "list"]);
    listed["leases"].as_array().expect("a list").clone()
}

fn now_ms() -> u64 {
    let now = SystemTime::UNIX_EPOCH.elapsed().expect("after 1970");
    u64::try_from(now.as_millis()).expect("not so late")
}

/// Stops the owner's node, changes its list of copies, and starts it again.
pub fn with_copies(scene: Scene, change: impl FnOnce(&mut Value)) -> Scene {
    let data = scene.owner.data.clone();
    let Scene {
        dir,
        outside,
        owner,
        code,
        source,
        words,
    } = scene;
    owner.stop();
    let path = data.join("copies.json");
    let mut list = serde_json::from_slice(&std::fs::read(&path).expect("there")).expect("JSON");
    change(&mut list);
    std::fs::write(&path, serde_json::to_vec(&list).expect("JSON")).expect("written");
    let owner = Node::start(&data, &[&outside.addresses[0]]);
    Scene {
        dir,
        outside,
        owner,
        code,
        source,
        words,
    }
}

/// Has every backup copied to one more member, by leases that need not be kept for any time.
fn short_lived(list: &mut Value, peer: &str) {
    let peer: PeerId = peer.parse().expect("a peer");
    let peer = data_encoding::HEXLOWER.encode(&peer.to_bytes());
    let now = now_ms();
    let in_90_days = now + 90 * 24 * 3600 * 1000;
    let jobs = list["jobs"].as_object_mut().expect("jobs");
    for (number, job) in jobs.values_mut().enumerate() {
        job["copies"] = json!(2);
        job["held"][&peer] = json!({
            "name": format!("{number:032x}"),
            "sequence": now,
            "whole": false,
            "since": now,
            "seen": now,
            "until": in_90_days,
            "minimum_until": now,
        });
    }
}

#[test]
fn copies_of_what_is_forgotten_go_once_their_minimum_is_over() {
    let scene = Scene::new(1 << 20);
    let first = scene.member("b", &[]);
    let (made, _) = scene.backup(&["--copies", "1", "--wait"]);
    let id = made["snapshot"].as_str().expect("an id").to_owned();
    let second = scene.member("c", &[]);
    let scene = with_copies(scene, |list| short_lived(list, &second.peer));
    let health = scene.healthy();
    assert_eq!(health["sets"][0]["copies_min"], 2, "{health}");
    assert!(leased(&second) > Some(1 << 20));

    // Another backup of the same file stays, and so do its copies.
    let extra = scene.source.join("extra");
    std::fs::write(extra, noise(77, 1 << 20)).expect("written");
    let (kept, code) = scene.backup(&["--copies", "1", "--wait"]);
    assert_eq!((&kept["copies"]["reached"], code), (&json!(1), 0), "{kept}");
    scene.owner.json(&["forget", &id, "--prune"]);
    until("the copy whose minimum is over goes", || {
        let list = leases(&scene.owner);
        let of_old = list.iter().filter(|lease| lease["snapshot"] == id.as_str());
        let of_old: Vec<_> = of_old.map(|lease| lease["peer"].clone()).collect();
        (of_old == [json!(first.peer)]).then_some(())
    });
    // The other one is kept for as long as a stolen machine must not end it; the words may.
    let (health, code) = said(&scene.owner, &["health"]);
    assert_eq!((&health["sets"][0]["copies_min"], code), (&json!(1), 0));
    let release = ["lease", "release", &id, "--phrase-file", utf8(&scene.words)];
    fails(&scene.owner.run(&release), 0, "1 lease released");
    let left = leases(&scene.owner);
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0]["snapshot"], kept["snapshot"]);
    let there = [&first, &second].map(|node| !keeps_only_heads(node));
    assert!(there[0] ^ there[1], "only what is still needed: {there:?}");
    for node in [first, second] {
        node.stop();
    }
}

#[test]
fn copies_follow_a_snapshot_that_was_written_anew() {
    let scene = Scene::new(1 << 20);
    // Small files travel together: most of them go.
    for number in 0..60 {
        let path = scene.source.join(format!("small {number}"));
        std::fs::write(path, noise(1000 + number, 20_000)).expect("written");
    }
    let holder = scene.member("b", &[]);
    let (first, _) = scene.backup(&["--copies", "1", "--wait"]);
    for number in (0..60).filter(|number| number % 10 != 0) {
        let path = scene.source.join(format!("small {number}"));
        std::fs::remove_file(path).expect("removed");
    }
    let (second, code) = scene.backup(&["--copies", "1", "--wait"]);
    assert_eq!((&second["copies"]["reached"], code), (&json!(1), 0));
    let scene = with_copies(scene, |list| {
        let jobs = list["jobs"].as_object_mut().expect("jobs");
        assert_eq!(jobs.len(), 2);
    });
    scene.owner.json(&["forget", "--keep-last", "1"]);
    let pruned = scene.owner.json(&["prune", "--repack-below", "60"]);
    assert!(pruned["repacked_blocks"].as_u64() > Some(0), "{pruned}");
    let listed = scene.owner.json(&["snapshots"]);
    let new = listed["snapshots"][0]["snapshot"].clone();
    assert!(
        new != first["snapshot"] && new != second["snapshot"],
        "{listed}"
    );
    until("the new one has its copy", || {
        let (health, code) = said(&scene.owner, &["health"]);
        let is_there = leases(&scene.owner).iter().any(|l| l["snapshot"] == new);
        (code == 0 && is_there && health["sets"][0]["copies_min"] == 1).then_some(())
    });

    // The owner's machine is gone: what the holder has is what was written anew, whole.
    let Scene {
        owner,
        outside,
        dir,
        source,
        words,
        ..
    } = scene;
    owner.kill();
    let (data, target) = (dir.path().join("fresh"), dir.path().join("back"));
    let fresh = Node::start(&data, &[&outside.addresses[0], &holder.addresses[0]]);
    let restore = [
        "restore",
        "latest",
        "--phrase-file",
        utf8(&words),
        "--target",
    ];
    let restored = fresh.json(&[&restore[..], &[utf8(&target)]].concat());
    assert_eq!(restored["snapshot"], new, "{restored}");
    assert_eq!(restored["verified"], true, "{restored}");
    let below = target.join(source.strip_prefix("/").expect("absolute"));
    assert_same(&source, &below);
    for node in [holder, fresh] {
        node.stop();
    }
}

/// Otherwise another member would be asked for what nobody wants, and its lease would stay.
#[test]
fn what_is_released_is_not_copied_anew_though_its_holder_is_away() {
    let scene = Scene::new(1 << 20);
    let holder = scene.member("b", &[]);
    let (made, _) = scene.backup(&["--copies", "1", "--wait"]);
    let id = made["snapshot"].as_str().expect("an id").to_owned();
    holder.stop();
    let release = ["lease", "release", &id, "--phrase-file", utf8(&scene.words)];
    fails(&scene.owner.run(&release), 3, "");
    with_copies(scene, |list| {
        let jobs = list["jobs"].as_object().expect("jobs");
        let copies: Vec<_> = jobs.values().map(|job| &job["copies"]).collect();
        assert_eq!(copies, [&json!(0)]);
    });
}

#[test]
fn the_words_alone_end_leases_that_no_list_tells_of() {
    let scene = Scene::new(1 << 20);
    let holders = [scene.member("b", &[]), scene.member("c", &[])];
    let (first, _) = scene.backup(&["--copies", "2", "--wait"]);
    std::fs::write(scene.source.join("extra"), noise(5, 1 << 20)).expect("written");
    let (_, code) = scene.backup(&["--copies", "2", "--wait"]);
    assert_eq!(code, 0);
    let scene = with_copies(scene, |list| list["jobs"] = json!({}));
    assert!(leases(&scene.owner).is_empty(), "the list is lost");
    let words = scene.words.clone();
    let release = |node: &Node, more: &[&str]| {
        let args = ["lease", "release", "--phrase-file", utf8(&words)];
        said(node, &[&args[..], more].concat())
    };
    let all = scene
        .owner
        .run(&["lease", "release", "--all", "--phrase-file", utf8(&words)]);
    fails(&all, 2, "--everywhere");
    // By the first digits of an id that only the owner's head tells.
    let id = first["snapshot"].as_str().expect("an id");
    let (said_of_one, code) = release(&scene.owner, &[&id[..10]]);
    assert_eq!(code, 0, "{said_of_one}");
    assert_eq!(said_of_one["released"], 2, "{said_of_one}");
    let members = said_of_one["members"].as_array().expect("a list");
    assert_eq!(members.len(), 2, "{said_of_one}");
    for member in members {
        let heard = (&member["released"], &member["newer"], &member["answer"]);
        assert_eq!(heard, (&json!(1), &json!(0), &json!("done")), "{member}");
    }
    assert!(holders.iter().all(|node| leased(node) > Some(1 << 20)));

    // The owner's machine is gone, and one of the holders is away.
    let Scene {
        owner,
        outside,
        dir,
        ..
    } = scene;
    let [stays, goes] = holders;
    owner.kill();
    // Only the node that made an invitation lets in by it.
    let invite = stays.json(&["ring", "invite", "home"])["code"].clone();
    let invite = invite.as_str().expect("a code").to_owned();
    let fresh = Node::start(&dir.path().join("fresh"), &[&outside.addresses[0]]);
    let nowhere = ["lease", "release", "--everywhere", "--phrase-file"];
    let alone = fresh.run(&[&nowhere[..], &[utf8(&words)]].concat());
    fails(&alone, 4, "libernet ring join");
    fresh.join(&invite);
    until("the members are known", || {
        let members = fresh.json(&["ring", "members", "home"])["members"].clone();
        let online = |peer: &str| {
            let members = members.as_array().expect("a list");
            members
                .iter()
                .any(|member| member["peer"] == peer && member["online"] == true)
        };
        (online(&stays.peer) && online(&goes.peer)).then_some(())
    });
    let other = dir.path().join("other");
    std::fs::write(&other, "zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo wrong").expect("written");
    let others = fresh.run(&[&nowhere[..], &[utf8(&other)]].concat());
    fails(&others, 3, "compare every word");
    assert!(leased(&stays) > Some(1 << 20));

    let data = goes.data.clone();
    let name = goes.peer.clone();
    goes.stop();
    let (partly, code) = release(&fresh, &["--everywhere"]);
    assert_eq!((&partly["released"], code), (&json!(1), 3), "{partly}");
    let away = partly["members"].as_array().expect("a list").iter();
    let away: Vec<_> = away.filter(|m| m["answer"] == "unreachable").collect();
    assert!(away.iter().any(|m| m["peer"] == name.as_str()), "{partly}");
    assert!(keeps_only_heads(&stays));
    let back = Node::start(&data, &[&outside.addresses[0]]);
    until("it is back", || {
        let (all, _) = release(&fresh, &["--everywhere"]);
        (all["released"] == 1).then_some(())
    });
    assert!(keeps_only_heads(&back));
    for node in [stays, back, fresh] {
        node.stop();
    }
    let none = run(&dir.path().join("none"), &["lease", "list"]);
    fails(&none, 4, "there is no data directory");
}
