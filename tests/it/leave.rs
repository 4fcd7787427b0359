//! Holders that leave: what they keep is at somebody else before they say that they are done.

use serde_json::json;

use crate::process::{fails, run};
use crate::rings::{Scene, online, said, until};

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
