use super::*;
use proptest::prelude::*;
use std::collections::HashSet;

fn address(n: usize) -> Multiaddr {
    format!("/memory/{n}").parse().expect("an address")
}

fn link(id: usize, direction: Direction) -> Link {
    Link {
        id: ConnectionId::new_unchecked(id),
        direction,
        address: address(id),
        since: Timestamp(id as u64),
    }
}

#[test]
fn addresses_are_bounded_and_good_ones_stay() {
    let mut book = Book::default();
    let peer = PeerId::random();
    book.learn(peer, (1..40).map(address), Source::Dht, Timestamp(1));
    assert_eq!(book.addresses(&peer).len(), MAX_ADDRESSES);
    book.confirm(peer, &address(99), Timestamp(2));
    book.learn(peer, (100..200).map(address), Source::Mdns, Timestamp(3));
    assert_eq!(book.addresses(&peer).len(), MAX_ADDRESSES);
    assert_eq!(book.addresses(&peer)[0], address(99));
    book.doubt(peer, &address(99));
    assert!(!book.addresses(&peer).contains(&address(99)));
    assert_eq!(book.list()[0].source, Source::Dht, "the first source");
}

#[test]
fn the_last_address_survives_doubt() {
    let mut book = Book::default();
    let peer = PeerId::random();
    book.learn(peer, [address(1)], Source::Bootstrap, Timestamp(1));
    book.doubt(peer, &address(1));
    assert_eq!(book.addresses(&peer), [address(1)]);
}

#[test]
fn the_book_is_bounded_and_keeps_the_connected() {
    let mut book = Book::default();
    let connected = PeerId::random();
    book.linked(connected, link(0, Direction::Inbound));
    for n in 1..=MAX_PEERS {
        book.learn(
            PeerId::random(),
            [address(n)],
            Source::Dht,
            Timestamp(n as u64),
        );
    }
    assert_eq!(book.peers.len(), MAX_PEERS);
    assert_eq!(book.links(&connected).len(), 1);
}

#[test]
fn connected_means_identified_and_linked() {
    let mut book = Book::default();
    let peer = PeerId::random();
    assert!(!book.linked(peer, link(1, Direction::Inbound)));
    assert_eq!(book.connected(), 0);
    assert!(book.identified(
        peer,
        "agent\u{7}/1",
        ["/a".to_owned()].into_iter(),
        Timestamp(1)
    ));
    assert!(!book.identified(peer, &"x".repeat(1000), std::iter::empty(), Timestamp(2)));
    assert_eq!(book.list()[0].agent.len(), MAX_TEXT);
    assert!(book.linked(peer, link(2, Direction::Outbound)));
    assert!(!book.unlinked(peer, ConnectionId::new_unchecked(1), Timestamp(3)));
    assert_eq!(book.connected(), 1);
    assert!(book.unlinked(peer, ConnectionId::new_unchecked(2), Timestamp(4)));
    assert!(!book.is_connected(&peer));
}

#[test]
fn blame_adds_up_and_decays() {
    let mut book = Book::default();
    let peer = PeerId::random();
    let mut now = Timestamp(1_000_000);
    for _ in 0..2 {
        assert!(!book.blame(peer, Misbehaviour::WrongBytes, now));
    }
    assert!(
        book.blame(peer, Misbehaviour::Protocol, now),
        "the third is one too many"
    );
    assert!(
        !book.blame(peer, Misbehaviour::Protocol, now),
        "it starts again"
    );
    for _ in 0..50 {
        now = now.after(SCORE_HALF_LIFE * 2);
        assert!(
            !book.blame(peer, Misbehaviour::WrongBytes, now),
            "now and then is forgiven"
        );
    }
    let info = &book.list()[0];
    assert_eq!((info.wrong_blocks, info.faults), (52, 2));
}

proptest! {
    /// Both ends see the same connections, each in its own order; one and the same is left.
    #[test]
    fn one_of_several_connections_stays(dialled_by_a in proptest::collection::vec(any::<bool>(), 1..5), shuffle in any::<u64>()) {
        let (a, b) = (PeerId::random(), PeerId::random());
        let view = |of_a: bool, rotate: usize| {
            let mut links: Vec<Link> = dialled_by_a.iter().enumerate().map(|(n, by_a)| {
                link(n, if *by_a == of_a { Direction::Outbound } else { Direction::Inbound })
            }).collect();
            let len = links.len();
            links.rotate_left(rotate % len);
            links
        };
        let closed: HashSet<ConnectionId> = surplus(&a, &b, &view(true, 0)).into_iter()
            .chain(surplus(&b, &a, &view(false, shuffle as usize % 7))).collect();
        prop_assert_eq!(closed.len(), dialled_by_a.len() - 1);
    }
}
