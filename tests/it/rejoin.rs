//! A member that was removed from a ring and is invited again.

use crate::process::{Node, fails};
use crate::rings::until;

fn connected() -> (tempfile::TempDir, Vec<Node>) {
    let dir = tempfile::tempdir().expect("a directory");
    let first = Node::start(&dir.path().join("a"), &[]);
    let bootstrap = first.addresses[0].clone();
    let mut nodes = vec![first];
    for name in ["b", "c"] {
        nodes.push(Node::start(&dir.path().join(name), &[&bootstrap]));
    }
    (dir, nodes)
}

fn online(node: &Node, ring: &str) -> usize {
    let members = node.json(&["ring", "members", ring]);
    let members = members["members"].as_array().expect("a list").iter();
    members.filter(|member| member["online"] == true).count()
}

#[test]
fn a_removed_member_with_a_new_code_gets_in_by_one_command() {
    let (_dir, nodes) = connected();
    let [a, b, c] = &nodes[..] else {
        panic!("three")
    };
    let code = a.json(&["ring", "create", "home"])["code"].clone();
    for node in [b, c] {
        node.join(code.as_str().expect("a text"));
    }
    until("all three are members", || {
        (online(a, "home") == 2).then_some(())
    });
    a.json(&["ring", "remove", "home", &c.peer]);
    until("it is out", || (online(a, "home") == 1).then_some(()));
    let code = a.json(&["ring", "invite", "home"])["code"].clone();
    let joined = c.join(code.as_str().expect("a text"));
    assert_eq!(joined["ring"], "home");
    until("it is back", || (online(a, "home") == 2).then_some(()));
    let rings = c.json(&["ring", "list"]);
    let rings = rings["rings"].as_array().expect("a list");
    assert_eq!(rings.len(), 1, "{rings:?}");
    assert_eq!(rings[0]["generation"], 2);
    nodes.into_iter().for_each(Node::stop);
}

#[test]
fn another_ring_of_the_same_name_takes_no_place_and_gets_another_name() {
    let (_dir, nodes) = connected();
    let [a, b, c] = &nodes[..] else {
        panic!("three")
    };
    let foreign = a.json(&["ring", "create", "home"])["code"].clone();
    b.join(foreign.as_str().expect("a text"));
    until("both are members", || {
        (online(a, "home") == 1).then_some(())
    });
    c.json(&["ring", "create", "home"]);
    // The node that lets it in counts on it, so it is in that ring, too.
    let told = c.join(foreign.as_str().expect("a text"));
    assert_eq!(
        (&told["ring"], &told["let_in"]),
        (&"home-2".into(), &true.into())
    );
    until("both rings know each other's members", || {
        let all = online(a, "home") == 2 && online(c, "home-2") == 2;
        all.then_some(())
    });
    assert_eq!(online(c, "home"), 0);
    // A code that nobody here knows changes nothing.
    let far = tempfile::tempdir().expect("a directory");
    let stranger = Node::start(far.path(), &[]);
    let unknown = stranger.json(&["ring", "create", "home"])["code"].clone();
    let told = c.run(&["ring", "join", unknown.as_str().expect("a text")]);
    fails(&told, 8, "--name");
    fails(&told, 8, "libernet ring leave home");
    let rings = c.json(&["ring", "list"]);
    assert_eq!(rings["rings"].as_array().map(Vec::len), Some(2), "{rings}");
    stranger.stop();
    nodes.into_iter().for_each(Node::stop);
}
