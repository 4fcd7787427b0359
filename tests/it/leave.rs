//! Holders that leave: what they keep is at somebody else before they say that they are done.

use std::process::{Child, Stdio};

use serde_json::json;

use crate::copies::with_copies;
use crate::process::{Node, fails, libernet, run, signal};
use crate::rings::{Scene, online, said, until};

fn leased(node: &Node) -> Option<u64> {
    node.json(&["status"])["store"]["leased_bytes"].as_u64()
}

fn is_leaving(node: &Node) -> bool {
    node.json(&["status"])["leaving"] == true
}

/// Starts a command that hands over for as long as somebody takes something, and waits until the node is at it.
fn leave(node: &Node) -> Child {
    let mut command = libernet();
    command.arg("--data-dir").arg(&node.data).arg("leave");
    let command = command.stderr(Stdio::piped());
    let child = command.spawn().expect("the binary runs");
    until("it is leaving", || is_leaving(node).then_some(()));
    child
}

#[test]
fn a_node_that_left_stays_after_all() {
    let scene = Scene::new(1 << 20);
    let holder = scene.member("b", &[]);
    let left = holder.run(&["leave"]);
    fails(&left, 0, "`libernet leave --cancel` takes that back");
    assert!(is_leaving(&holder));
    let (made, code) = scene.backup(&["--copies", "1", "--wait", "--timeout", "2s"]);
    assert_eq!((&made["copies"]["reached"], code), (&json!(0), 3), "{made}");
    let stays = holder.json(&["leave", "--cancel"]);
    assert_eq!(stays, json!({"was_leaving": true}));
    assert!(!is_leaving(&holder));
    let (made, code) = scene.backup(&["--copies", "1", "--wait"]);
    assert_eq!((&made["copies"]["reached"], code), (&json!(1), 0), "{made}");
    fails(&holder.run(&["leave", "--cancel"]), 0, "was not leaving");
    holder.stop();
}

#[test]
fn a_hand_over_that_is_called_off_or_interrupted_leaves_a_node_as_it_was() {
    let scene = Scene::new(1 << 20);
    let holder = scene.member("b", &[]);
    scene.backup(&["--copies", "1", "--wait"]);
    // With no member online it waits for one.
    scene.owner.stop();
    until("it is alone", || {
        let rings = holder.json(&["ring", "list"]);
        (rings["rings"][0]["online"] == 0).then_some(())
    });
    let running = leave(&holder);
    fails(&holder.run(&["leave"]), 1, "handing over already");
    assert_eq!(
        holder.json(&["leave", "--cancel"]),
        json!({"was_leaving": true})
    );
    let output = running.wait_with_output().expect("it ends");
    fails(&output, 10, "it was called off");
    assert!(!is_leaving(&holder));

    let running = leave(&holder);
    signal(running.id(), "INT");
    let output = running.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130));
    until("it stays", || (!is_leaving(&holder)).then_some(()));
    assert!(leased(&holder) > Some(1 << 20));
    let data = holder.data.clone();
    holder.stop();
    let nobody = run(&data, &["leave", "--cancel"]);
    fails(&nobody, 11, "no node is running");
}

/// Its owner takes its word for nothing any more, and asks somebody else.
#[test]
fn what_a_leaving_holder_let_go_of_is_copied_anew() {
    let scene = Scene::new(1 << 20);
    let holder = scene.member("b", &[]);
    scene.backup(&["--copies", "1", "--wait"]);
    let (left, _) = said(&holder, &["leave", "--timeout", "6s", "--force"]);
    assert_eq!(left["leases_ended"], 1, "{left}");
    assert_eq!(left["leases_passed"], 0, "{left}");
    assert_eq!(leased(&holder), Some(0));
    // It was audited a moment ago, as it says: a while later it is audited again.
    let scene = with_copies(scene, |list| {
        let jobs = list["jobs"].as_object_mut().expect("jobs");
        let places = jobs
            .values_mut()
            .flat_map(|job| job["held"].as_object_mut());
        for place in places.flat_map(|held| held.values_mut()) {
            let audited = place["audited"].as_u64().expect("it was audited");
            place["audited"] = json!(audited - 120_000);
        }
    });
    let third = scene.member("c", &[]);
    until("another one keeps it", || {
        let listed = scene.owner.json(&["lease", "list"]);
        let leases = listed["leases"].as_array()?;
        let peers: Vec<_> = leases.iter().map(|lease| &lease["peer"]).collect();
        (peers == [third.peer.as_str()]).then_some(())
    });
    let health = scene.healthy();
    assert_eq!(health["sets"][0]["copies_min"], 1, "{health}");
    assert!(leased(&third) > Some(1 << 20));
    // Also when it stays: what it ended is no copy.
    holder.json(&["leave", "--cancel"]);
    assert_eq!(leased(&holder), Some(0));
    for node in [holder, third] {
        node.stop();
    }
}

#[test]
fn a_holder_that_leaves_hands_over_to_a_third_member() {
    let scene = Scene::new(4 << 20);
    let holder = scene.member("b", &[]);
    let (made, code) = scene.backup(&["--copies", "1", "--wait"]);
    assert_eq!((&made["copies"]["reached"], code), (&json!(1), 0));
    let third = scene.member("c", &[]);
    until("the two meet", || {
        online(&holder, &third.peer).then_some(())
    });
    let (left, code) = said(&holder, &["leave", "--timeout", "40s", "--rings"]);
    assert_eq!((&left["complete"], code), (&true.into(), 0), "{left}");
    assert_eq!(left["leases_ended"], 1, "{left}");
    assert_eq!(left["leases_passed"], 1, "it is kept, not cached: {left}");
    assert_eq!(left["leased_alone"], 0, "{left}");
    assert_eq!(left["handed_over"], left["leased_safe"], "{left}");
    assert_eq!(left["rings"], json!(["home"]));
    let store = third.json(&["status"])["store"].clone();
    let there = |class: &str| store[class].as_u64().expect("a number");
    assert!(
        there("leased_bytes") + there("cached_bytes") > 4 << 20,
        "{store}"
    );
    assert_eq!(holder.json(&["status"])["store"]["leased_bytes"], 0);
    holder.stop();
    third.stop();
}

/// The owner has the blocks, of course: that is no other copy.
#[test]
fn a_holder_whom_nobody_relieves_keeps_what_it_has() {
    let scene = Scene::new(1 << 20);
    let holder = scene.member("b", &[]);
    scene.backup(&["--copies", "1", "--wait"]);
    let left = holder.run(&["leave", "--timeout", "5s"]);
    fails(&left, 3, "nobody took");
    let (left, code) = said(&holder, &["leave", "--timeout", "5s"]);
    assert_eq!((&left["complete"], code), (&false.into(), 3), "{left}");
    assert_eq!(left["leases_kept"], 1, "{left}");
    assert!(holder.json(&["status"])["store"]["leased_bytes"].as_u64() > Some(1 << 20));
    // Nor does a node of the command's own find anybody.
    let data = holder.data.clone();
    holder.stop();
    let left = run(&data, &["leave", "--timeout", "2s"]);
    fails(&left, 3, "nobody took");
    let forced = run(&data, &["leave", "--timeout", "2s", "--force", "--json"]);
    let said: serde_json::Value = serde_json::from_slice(&forced.stdout).expect("JSON");
    assert_eq!(said["leases_ended"], 1, "{said}");
}
