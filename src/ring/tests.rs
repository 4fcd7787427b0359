//! Handshakes, rotation, the file, messages.

use data_encoding::HEXLOWER;
use libp2p::PeerId;
use proptest::prelude::*;

use super::branch_tests::{key, peer};
use super::handshake::*;
use super::message::{Info, MAX_MESSAGE_BYTES, Request, Response};
use super::*;
use crate::crypto::hash;
use crate::time::Timestamp;

fn seed(n: u8) -> Seed {
    Seed::new([n; 16])
}

fn secrets(ns: &[u8]) -> Vec<RingSecret> {
    ns.iter().map(|n| seed(*n).secret()).collect()
}

fn ids(ns: &[u8]) -> Vec<RingId> {
    ns.iter().map(|n| seed(*n).secret().id()).collect()
}

/// What the initiator and the responder hold proven.
fn shake(
    a: &[u8],
    b: &[u8],
    change: impl FnOnce(&mut Hello),
    answered: impl FnOnce(&mut Answer),
    proven: impl FnOnce(&mut Proofs),
) -> (Vec<RingId>, Vec<RingId>) {
    let (initiator, mut hello) = Initiator::start(peer(1), peer(2), secrets(a), [1; 32]);
    change(&mut hello);
    let (responder, mut answer) = Responder::answer(peer(2), peer(1), secrets(b), &hello, [2; 32]);
    answered(&mut answer);
    let Some((at_a, mut proofs)) = initiator.finish(&answer, [3; 32]) else {
        return (Vec::new(), Vec::new());
    };
    proven(&mut proofs);
    (at_a, responder.finish(&proofs))
}

fn honest(a: &[u8], b: &[u8]) -> (Vec<RingId>, Vec<RingId>) {
    shake(a, b, |_| {}, |_| {}, |_| {})
}

#[test]
fn what_both_know_is_proven_and_nothing_else() {
    assert_eq!(honest(&[1, 2, 3], &[3, 4, 2]), (ids(&[2, 3]), ids(&[3, 2])));
    assert_eq!(honest(&[1], &[2]), (vec![], vec![]));
    assert_eq!(honest(&[], &[2]), (vec![], vec![]));
    assert_eq!(honest(&[1], &[]), (vec![], vec![]));
    let all: Vec<u8> = (0..SLOTS as u8).collect();
    let (a, b) = honest(&all, &all);
    assert_eq!((a.len(), b.len()), (SLOTS, SLOTS), "at the limit");
}

#[test]
fn messages_of_all_nodes_look_alike() {
    let lens: Vec<(usize, usize, usize)> = [vec![], vec![1], (0..100).collect::<Vec<u8>>()]
        .iter()
        .map(|ns| {
            let (initiator, hello) = Initiator::start(peer(1), peer(2), secrets(ns), [1; 32]);
            let (_, answer) = Responder::answer(peer(2), peer(1), secrets(ns), &hello, [2; 32]);
            let proof = initiator.finish(&answer, [3; 32]).map_or(
                Request::Proof(Box::new([[0; PROOF_BYTES]; SLOTS])),
                |(_, proofs)| Request::Proof(proofs),
            );
            // No two slots are alike, whatever is in them.
            let mut tags = hello.tags.to_vec();
            tags.sort_unstable();
            tags.dedup();
            assert_eq!(tags.len(), SLOTS);
            (
                Request::Hello(Box::new(hello)).encode().len(),
                Response::Answer(Box::new(answer)).encode().len(),
                proof.encode().len(),
            )
        })
        .collect();
    assert!(lens.iter().all(|len| *len == lens[0]), "{lens:?}");
}

#[test]
fn old_transcripts_and_other_peers_prove_nothing() {
    let (initiator, hello) = Initiator::start(peer(1), peer(2), secrets(&[1]), [1; 32]);
    let (responder, answer) = Responder::answer(peer(2), peer(1), secrets(&[1]), &hello, [2; 32]);
    let (_, proofs) = initiator.finish(&answer, [3; 32]).expect("a member");
    assert_eq!(responder.finish(&proofs), ids(&[1]));
    // The same hello and proof again, later: the responder has another nonce.
    let (responder, _) = Responder::answer(peer(2), peer(1), secrets(&[1]), &hello, [9; 32]);
    assert!(responder.finish(&proofs).is_empty());
    // A recorded answer to another hello.
    let (initiator, _) = Initiator::start(peer(1), peer(2), secrets(&[1]), [8; 32]);
    assert!(initiator.finish(&answer, [3; 32]).is_none());
    // Another peer says what the first has said, or is taken for the second.
    let (responder, _) = Responder::answer(peer(2), peer(3), secrets(&[1]), &hello, [2; 32]);
    assert!(responder.finish(&proofs).is_empty());
    let (initiator, hello) = Initiator::start(peer(1), peer(3), secrets(&[1]), [1; 32]);
    let (_, answer) = Responder::answer(peer(2), peer(1), secrets(&[1]), &hello, [2; 32]);
    assert!(initiator.finish(&answer, [3; 32]).is_none());
    // What one end says is sent back to it.
    let (initiator, hello) = Initiator::start(peer(1), peer(2), secrets(&[1]), [1; 32]);
    let (_, answer) = Responder::answer(peer(1), peer(2), secrets(&[1]), &hello, [2; 32]);
    assert!(initiator.finish(&answer, [3; 32]).is_none());
}

proptest! {
    #[test]
    fn a_changed_hello_or_answer_proves_nothing(at in 0usize..(NONCE_BYTES + SLOTS * PROOF_BYTES), bit in 0u32..8) {
        let flip = |nonce: &mut [u8], rest: &mut [u8]| {
            let place = match nonce.get_mut(at) {
                Some(place) => place,
                None => { let len = rest.len(); &mut rest[(at - NONCE_BYTES) % len] }
            };
            *place ^= 1 << bit;
        };
        let (a, b) = shake(&[1, 2], &[1, 2], |hello| flip(&mut hello.nonce, hello.tags.as_flattened_mut()), |_| {}, |_| {});
        prop_assert!(a.is_empty() && b.is_empty());
        let (_, b) = shake(&[1, 2], &[1, 2], |_| {}, |answer| flip(&mut answer.nonce, answer.proofs.as_flattened_mut()), |_| {});
        prop_assert!(b.is_empty());
    }

    #[test]
    fn a_changed_proof_proves_nothing(byte in 0usize..PROOF_BYTES, bit in 0u32..8) {
        let change = |proofs: &mut Proofs| proofs.iter_mut().for_each(|proof| proof[byte] ^= 1 << bit);
        let (_, b) = shake(&[1], &[1], |_| {}, |_| {}, change);
        prop_assert!(b.is_empty());
    }

    #[test]
    fn arbitrary_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Request::decode(bytes.clone().into());
        let _ = Response::decode(bytes.into());
    }

    #[test]
    fn damaged_messages_give_an_answer(at in 0usize..300, value: u8) {
        let mut bytes = Request::Info(Box::new(info())).encode();
        let len = bytes.len();
        bytes[at % len] = value;
        if let Ok(Request::Info(info)) = Request::decode(bytes.into()) {
            prop_assert!(info.name.len() <= MAX_MEMBER_NAME_BYTES);
        }
    }

    #[test]
    fn any_text_is_a_file_or_none(text in "(?s).{0,80}") {
        let _ = Rings::parse(&text);
        let _ = Rings::parse(&format!("version = 2\n[[ring]]\n{text}"));
    }
}

fn info() -> Info {
    Info {
        ring: seed(1).secret().id(),
        name: "attic".to_owned(),
        free_bytes: 1 << 30,
        addresses: vec!["/ip4/10.0.0.1/tcp/4384".parse().expect("an address")],
        members: vec![(peer(3), "desk".to_owned(), Vec::new())],
        removed: vec![(peer(4), 2)],
        generations: vec![first()],
        seed: Some(seed(2)),
        admissions: Admission::new(&key(1), &peer(4), first().id(), Timestamp(1))
            .into_iter()
            .collect(),
        now: Timestamp(0),
    }
}

fn first() -> Generation {
    Generation::first(&key(1), &seed(1), Timestamp(1)).expect("made")
}

/// The messages as bytes, by their hash: they are long.
#[test]
fn golden_messages() {
    let (initiator, hello) = Initiator::start(peer(1), peer(2), secrets(&[1, 2]), [1; 32]);
    let (_, answer) = Responder::answer(peer(2), peer(1), secrets(&[2, 3]), &hello, [2; 32]);
    let (_, proofs) = initiator.finish(&answer, [3; 32]).expect("a member");
    let requests = [
        Request::Hello(Box::new(hello)),
        Request::Proof(proofs),
        Request::Info(Box::new(info())),
    ];
    let responses = [
        Response::Answer(Box::new(answer)),
        Response::Done,
        Response::Info(Box::new(info())),
        Response::Refused(1),
    ];
    let mut hashes = Vec::new();
    for request in requests {
        let bytes = request.encode();
        hashes.push(HEXLOWER.encode(&hash::sha256(&[&bytes])[..8]));
        assert_eq!(Request::decode(bytes.into()), Ok(request));
    }
    for response in responses {
        let bytes = response.encode();
        hashes.push(HEXLOWER.encode(&hash::sha256(&[&bytes])[..8]));
        assert_eq!(Response::decode(bytes.into()), Ok(response));
    }
    assert_eq!(
        hashes,
        [
            "038e93f1c0ab62a1",
            "dee4adbf5dd060a8",
            "f9b7e71c4e8059fa",
            "3f0efb1b209d22d0",
            "08da7c45cb204377",
            "f9b7e71c4e8059fa",
            "e9619023f7ad0507"
        ]
    );
    let derived = [
        seed(1).secret().id().to_string(),
        seed(1).secret().meeting_place(2900).to_hex(),
    ];
    assert_eq!(
        derived,
        [
            "8fdb98102ee2ee3156ddd07732480ed490487a6275c83f4c8d1d60845743d925",
            "f9cc3e4f3217c6c3c6a674ca16fa1a4dbbd5be3048e88e22d5905f623ccbb39b"
        ]
    );
}

#[test]
fn what_a_clock_says_is_told() {
    let told = Info {
        now: Timestamp(u64::MAX),
        ..info()
    };
    let request = Request::Info(Box::new(told));
    let bytes = request.encode().into();
    assert_eq!(Request::decode(bytes).expect("well-formed"), request);
}

/// A generation that is sealed to as many as there may be.
fn largest() -> Generation {
    let random = |_| {
        libp2p::identity::Keypair::generate_ed25519()
            .public()
            .to_peer_id()
    };
    let peers: Vec<PeerId> = (0..MAX_MEMBERS + 16).map(random).collect();
    let (removed, stay) = peers.split_at(16);
    let next = first().next(&key(1), &seed(2), (removed, stay), Timestamp(2), [3; 32]);
    next.expect("within the bounds")
}

#[test]
fn limits_of_messages() {
    let address = format!("/dns4/{}/tcp/1", "a".repeat(MAX_ADDRESS_BYTES - 5));
    let address: libp2p::Multiaddr = address.parse().expect("an address");
    assert_eq!(address.len(), MAX_ADDRESS_BYTES);
    let full = Info {
        addresses: vec![address.clone(); MAX_ADDRESSES],
        members: (0..MAX_MEMBERS)
            .map(|_| (PeerId::random(), "x".repeat(64), vec![address.clone(); 4]))
            .collect(),
        removed: (0..MAX_REMOVED).map(|_| (PeerId::random(), 9)).collect(),
        generations: vec![largest(); MAX_GENERATIONS],
        ..info()
    };
    let bytes = Request::Info(Box::new(full)).encode();
    assert!(bytes.len() <= MAX_MESSAGE_BYTES, "{}", bytes.len());
    let Ok(Request::Info(read)) = Request::decode(bytes.into()) else {
        panic!("it is read");
    };
    assert!(read.members.len() > 64 && read.removed.len() == MAX_REMOVED);
    assert!(Request::decode(vec![0; MAX_MESSAGE_BYTES + 1].into()).is_err());
    assert!(Response::decode(vec![0; MAX_MESSAGE_BYTES + 1].into()).is_err());
}

fn known(n: u8) -> Known {
    Known {
        peer: peer(n),
        name: format!("m{n}"),
        last_seen: Timestamp(5),
        addresses: Vec::new(),
        proven: Some(1),
        place: String::new(),
    }
}

fn create<'a>(rings: &'a mut Rings, name: &str, n: u8) -> Result<&'a mut Ring, Error> {
    rings.create(name, &key(1), seed(n), Timestamp(7))
}

#[test]
fn rings_come_and_go() {
    let (now, day) = (Timestamp(7), INVITATION_TTL);
    let mut rings = Rings::default();
    let home = create(&mut rings, "home", 1).expect("made");
    let code = home.invite(seed(250), day, false, now).expect("in it");
    let named = create(&mut rings, "home", 2).map(drop);
    assert!(matches!(named, Err(Error::NameTaken(_))), "{named:?}");
    let other = InviteCode {
        name: "other".to_owned(),
        ..code.clone()
    };
    let itself = rings.join(other, now).map(drop);
    assert!(
        matches!(&itself, Err(Error::Joined(name)) if name == "home"),
        "{itself:?}"
    );
    let over = rings.join(code.clone(), code.until).map(drop);
    assert!(matches!(over, Err(Error::InvitationOver(_))), "{over:?}");
    for name in ["", "-", "Home", "a b", "a--b", "\u{e4}", &"x".repeat(33)] {
        assert!(matches!(create(&mut rings, name, 2), Err(Error::BadName)));
    }
    for n in 1..MAX_RINGS as u8 {
        create(&mut rings, &format!("r{n}"), n + 1).expect("at the limit");
    }
    assert!(matches!(
        create(&mut rings, "more", 200),
        Err(Error::TooManyRings)
    ));
    assert_eq!(rings.leave("home").expect("there").name(), "home");
    assert!(rings.leave("home").is_err());
}

#[test]
fn members_are_bounded_and_the_proven_come_first() {
    let mut rings = Rings::default();
    let ring = create(&mut rings, "home", 1).expect("made");
    let stranger = || Known {
        peer: PeerId::random(),
        ..known(0)
    };
    for _ in 0..MAX_MEMBERS {
        assert!(ring.heard_of(stranger()));
    }
    assert!(!ring.heard_of(stranger()), "full");
    assert!(ring.saw(known(1)), "hearsay makes room");
    assert_eq!(ring.members().len(), MAX_MEMBERS);
    assert!(!ring.saw(known(1)), "no news");
    // Hearsay that proves itself is news.
    let heard = ring.members()[0].peer;
    let proves = Known {
        peer: heard,
        ..known(0)
    };
    assert!(ring.saw(proves.clone()) && !ring.saw(proves));
}

#[test]
fn the_file_reads_back_is_private_and_keeps_its_secrets() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a directory");
    let file = RingsFile::new(dir.path());
    assert_eq!(file.load().expect("none"), Rings::default());
    let mut rings = Rings::default();
    let ring = create(&mut rings, "home", 1).expect("made");
    ring.saw(Known {
        addresses: vec!["/ip4/10.0.0.1/tcp/1".parse().expect("an address")],
        ..known(2)
    });
    ring.saw(known(3));
    let rival = ring.clone();
    let removed = ring.remove(&peer(3), &key(1), seed(2), Timestamp(8), [5; 32]);
    removed.expect("removed");
    // All that there can be: a branch, an invitation that was used, one that is back.
    let first = rival.chain()[0].clone();
    let next = first.next(&key(2), &seed(4), (&[peer(3)], &[]), Timestamp(8), [6; 32]);
    let heard = Heard {
        from: &peer(2),
        is_member: true,
        generations: &[next.expect("made")],
        seed: None,
    };
    assert_eq!(ring.follow(heard, &key(1), Timestamp(8)), Followed::Branch);
    let code = ring.invite(seed(5), INVITATION_TTL, true, Timestamp(8));
    let id = code.expect("in it").seed.secret().id();
    assert!(ring.let_in(&peer(3), &id, &key(1), Timestamp(8)));
    ring.keep_branch();
    let heard = first.next(&key(2), &seed(4), (&[peer(4)], &[]), Timestamp(9), [6; 32]);
    let heard = Heard {
        from: &peer(2),
        is_member: true,
        generations: &[heard.expect("made")],
        seed: Some(&seed(4)),
    };
    assert_eq!(ring.follow(heard, &key(1), Timestamp(8)), Followed::Branch);
    let code = InviteCode::new("work", seed(6), Timestamp(8).after(INVITATION_TTL));
    rings.join(code, Timestamp(8)).expect("joined");
    file.save(|| rings.clone()).expect("saved");
    assert_eq!(file.load().expect("read"), rings);
    let path = dir.path().join(FILE_NAME);
    let mode = std::fs::metadata(&path)
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1);
    let text = std::fs::read_to_string(&path).expect("read");
    assert!(!format!("{rings:?}").contains("01, 1"));
    let golden = Rings::parse(GOLDEN_FILE).expect("read");
    assert_eq!(*golden.to_text(), *GOLDEN_FILE);
    assert!(golden.get("home").expect("there").is_let_in());
    for (bad, words) in [
        (text.replace("version = 2", "version = 1"), "version 1"),
        (text.replace("version = 2\n", ""), "version"),
        (
            text.replace("seed = \"0202", "seed = \"0303"),
            "a seed is not that",
        ),
        (text.replace("0101", "zz01"), "hex"),
        (text.replace("name = \"home\"", "name = \"Ho\""), "name"),
        (
            text.replace("joined = 7", "joined = \"0123456789\""),
            "invalid type",
        ),
        (text.replace("joined", "joind"), "unknown field"),
    ] {
        let message = Rings::parse(&bad).expect_err(words);
        assert!(message.contains(words), "{message}");
        let is_of_toml = ["hex", "invalid type", "unknown field"].contains(&words);
        assert_eq!(message.contains("line "), is_of_toml, "{message}");
        assert!(!message.contains("01"), "{message}");
    }
}

#[test]
fn a_new_code_of_the_same_name_takes_the_place_of_the_ring() {
    let now = Timestamp(7);
    let mut rings = Rings::default();
    let home = create(&mut rings, "home", 1).expect("made");
    let own = home
        .invite(seed(8), INVITATION_TTL, false, now)
        .expect("in it");
    create(&mut rings, "home-2", 2).expect("made");
    let code = |name: &str| InviteCode::new(name, Seed::random(), now.after(INVITATION_TTL));
    assert!(rings.may_renew(&own).is_none(), "its own");
    assert!(rings.may_renew(&code("work")).is_none());
    let mut later = code("home");
    assert!(rings.may_renew(&later).is_some());
    later.name = rings.free_name("home");
    assert_eq!(later.name, "home-3");
    let id = later.seed.secret().id();
    rings.join(later.clone(), Timestamp(8)).expect("joined");
    let ring = rings.get_mut("home-3").expect("there");
    ring.saw(known(3));
    assert!(rings.renew("nothing", "home-3").is_err());
    rings.renew("home", "home-3").expect("both are there");
    let ring = rings.get("home").expect("there");
    assert_eq!((ring.id(), ring.joined()), (id, now));
    assert_eq!(ring.members()[0].peer, peer(3));
    assert_eq!(rings.as_slice().len(), 2);
    later.name = "home".to_owned();
    assert!(rings.may_renew(&later).is_none(), "it joined by this one");
    let longest = "a".repeat(MAX_NAME_BYTES);
    let free = rings.free_name(&longest);
    assert!(check_name(&free).is_ok() && free != longest, "{free}");
}

/// A file of version 2 with one of everything.
const GOLDEN_FILE: &str = include_str!("golden_rings.toml");

#[test]
fn a_damaged_file_is_told_and_never_replaced() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join(FILE_NAME);
    for damaged in ["version = 2\n[[ring]\n".as_bytes(), b"version = 2\n\xff"] {
        std::fs::write(&path, damaged).expect("written");
        let file = RingsFile::new(dir.path());
        let error = file.load().expect_err("damaged").to_string();
        assert!(
            error.contains(FILE_NAME) && error.contains("line 2"),
            "{error}"
        );
        let refused = file.save(Rings::default);
        assert!(
            matches!(refused, Err(Error::Malformed { .. })),
            "{refused:?}"
        );
        assert_eq!(std::fs::read(&path).expect("there"), damaged);
    }
}
