//! Harm by looking: a node of the DHT that keeps all that it hears, and asks as a stranger, sees
//! nothing that ties an owner's machine to a node that keeps its backups.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use libernet::backup::owner::{State, Vault};
use libernet::head::{PLACES, head_id, months_to_look, place_key};
use libernet::id::BlockId;
use libernet::time::{Clock, SystemClock};

use crate::attacker::{Attacker, Message, all_bytes, dht, number};
use crate::dht_attacks::listening;
use crate::process::{Node, json};
use crate::rings::{said, until, utf8};
use crate::sample::noise;

/// Kinds of the DHT's messages.
const PUT_VALUE: u64 = 0;
const GET_VALUE: u64 = 1;
const ADD_PROVIDER: u64 = 2;
const GET_PROVIDERS: u64 = 3;
const FIND_NODE: u64 = 4;

/// All that a node of the DHT was told: who announced each key, and what values were put.
#[derive(Default)]
struct Heard {
    announcers: BTreeMap<Vec<u8>, BTreeSet<String>>,
    values: BTreeSet<Vec<u8>>,
}

/// A node of the DHT to which every node announces what it announces at all.
async fn observer() -> (Attacker, Arc<Mutex<Heard>>) {
    let heard = Arc::new(Mutex::new(Heard::default()));
    let observer = listening([127, 0, 0, 1]).await;
    let seen = heard.clone();
    observer.answer_dht_with(move |peer, message| {
        let key = all_bytes(&message, 2).pop().unwrap_or_default();
        let kind = number(&message, 1);
        let mut seen = seen.lock().expect("no test fails in here");
        match kind {
            ADD_PROVIDER => {
                let announcers = seen.announcers.entry(key).or_default();
                announcers.insert(peer.to_string());
                None
            }
            PUT_VALUE => {
                seen.values.insert(key);
                None
            }
            // What was told is told on, so that nodes meet in the DHT.
            GET_PROVIDERS => {
                let known = seen.announcers.get(&key).into_iter().flatten();
                let known = known.map(|peer| dht::peer(peer.parse().expect("a peer"), &[]));
                let known: Vec<Message> = known.collect();
                Some(dht::answer(kind, &key, &[], &known))
            }
            GET_VALUE | FIND_NODE => Some(dht::answer(kind, &key, &[], &[])),
            _ => None,
        }
    });
    (observer, heard)
}

fn head_of(data: &std::path::Path) -> BlockId {
    let vault = Vault::open(data).expect("readable").expect("there");
    match vault.state {
        State::Open(member) => head_id(member.owner().as_bytes()),
        State::Locked(_) => panic!("it has no passphrase"),
    }
}

/// Keys at which keepers of a head may be.
fn places(head: &BlockId) -> BTreeSet<Vec<u8>> {
    let months = months_to_look(SystemClock.now()).into_iter();
    let keys = months.flat_map(|month| (0..PLACES).map(move |place| place_key(head, month, place)));
    keys.map(|key| key.to_multihash()).collect()
}

#[test]
fn a_node_that_hears_all_of_the_dht_sees_nothing_that_ties_two_machines() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    let (observer, heard) = runtime.block_on(observer());
    let address = observer.address.as_ref().expect("it listens").to_string();
    let outside = Node::start(&path("outside"), &[&address]);
    let first = [address.as_str(), outside.addresses[0].as_str()];

    let words = path("words");
    json(
        &path("owner"),
        &["init", "--yes", "--words-out", utf8(&words)],
    );
    let owner = Node::start(&path("owner"), &first);
    let code = owner.json(&["ring", "create", "home"])["code"].clone();
    let holder = Node::start(&path("holder"), &first);
    let joined = holder.join(code.as_str().expect("a code"));
    assert_eq!(joined["ring"], "home");
    std::fs::create_dir(path("source")).expect("made");
    std::fs::write(path("source").join("a"), noise(1, 3 << 20)).expect("written");
    let source = path("source");
    let (made, code) = said(
        &owner,
        &["backup", utf8(&source), "--copies", "1", "--wait"],
    );
    assert_eq!(code, 0, "{made}");

    // The holder is to be found by whoever knows the head, and a put of each is announced: so the
    // observer hears what there is to hear.
    for (number, node) in [&owner, &holder].into_iter().enumerate() {
        let file = path(&format!("public{number}"));
        std::fs::write(&file, noise(50 + number as u64, 100_000)).expect("written");
        node.json(&["put", utf8(&file)]);
    }
    let head = head_of(&owner.data);
    let places = places(&head);
    until(
        "each is heard, and the holder at a place of the head",
        || {
            let heard = heard.lock().expect("whole");
            let announced = |node: &Node, is_it: &dyn Fn(&Vec<u8>) -> bool| {
                let mut keys = heard.announcers.iter();
                keys.any(|(key, by)| is_it(key) && by.contains(&node.peer))
            };
            let is_place = |key: &Vec<u8>| places.contains(key);
            let is_other = |key: &Vec<u8>| !places.contains(key);
            (announced(&holder, &is_place)
                && announced(&holder, &is_other)
                && announced(&owner, &is_other))
            .then_some(())
        },
    );
    {
        let heard = heard.lock().expect("whole");
        assert!(heard.values.is_empty(), "no value was put");
        for (key, by) in &heard.announcers {
            assert!(by.len() < 2, "{by:?} have {} in common", hex(key));
        }
        assert!(!heard.announcers.contains_key(&head.to_multihash()));
    }

    // A stranger that asks each node itself hears nothing of the head, by its name or by a guess.
    for node in [&owner, &holder, &outside] {
        let peer = node.peer.parse().expect("a peer");
        runtime.block_on(async {
            if !observer.is_connected(peer) {
                assert!(observer.connect(&node.addresses[0]).await);
            }
            let key = head.to_multihash();
            let answer = observer.ask_dht(peer, &dht::get_providers(&key)).await;
            let providers = answer.map(|answer| all_bytes(&answer, 9));
            assert_eq!(providers, Some(Vec::new()));
            let answer = observer.ask_dht(peer, &dht::get_value(&key)).await;
            let values = answer.map(|answer| all_bytes(&answer, 3));
            assert!(values.is_none_or(|values| values.is_empty()));
            let question = Message::new()
                .number(1, 9)
                .bytes(7, [1; 32])
                .bytes(10, [2; 32]);
            let answer = observer.ask(peer, "replica", &question.framed()).await;
            let answer = answer.expect("an answer");
            assert!(all_bytes(&answer, 9).is_empty(), "no head is told");
            assert_ne!(number(&answer, 1), 0, "it is refused");
        });
    }
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}
