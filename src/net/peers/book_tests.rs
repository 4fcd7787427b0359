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
        alive: None,
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
fn what_a_peer_says_itself_goes_before_what_others_say() {
    let mut book = Book::default();
    let peer = PeerId::random();
    book.learn(peer, (1..40).map(address), Source::Dht, Timestamp(1));
    let fresh = [address(50), address(3)];
    book.hear(peer, fresh.clone(), Source::Mdns, Timestamp(2));
    let known = book.addresses(&peer);
    assert_eq!(known[..2], fresh);
    assert_eq!(known.len(), MAX_ADDRESSES);
    assert_eq!(known.iter().filter(|one| **one == address(3)).count(), 1);
}

#[test]
fn a_connection_is_dead_when_nothing_comes_over_it() {
    let mut book = Book::default();
    let (peer, mute) = (PeerId::random(), PeerId::random());
    book.linked(peer, link(1, Direction::Inbound));
    book.linked(peer, link(2, Direction::Outbound));
    book.linked(mute, link(3, Direction::Inbound));
    let [first, second] = [1, 2].map(ConnectionId::new_unchecked);
    let start = Instant::now();
    let silence = Duration::from_secs(20);
    book.measured(&peer, first, Duration::ZERO, start);
    book.measured(&peer, second, Duration::ZERO, start + silence);
    // A peer that has never answered may not speak ping.
    let later = start + silence;
    assert_eq!(book.dead(later, silence), [(peer, first)]);
    assert!(
        book.dead(later - Duration::from_secs(1), silence)
            .is_empty()
    );
    // Blocks on the way delay answers: they count as life.
    book.moved(&peer, 1, 0, later);
    assert!(book.dead(later, silence).is_empty());
    assert_eq!(book.dead(later + silence, silence).len(), 2);
    book.unanswered(&mute, ConnectionId::new_unchecked(3), later);
    assert_eq!(book.dead(later + silence, silence).len(), 3);
}

#[test]
fn the_least_useful_give_way() {
    let mut book = Book::default();
    let peers: Vec<PeerId> = (0..4).map(|_| PeerId::random()).collect();
    book.linked(peers[0], link(1, Direction::Outbound));
    book.linked(peers[1], link(3, Direction::Inbound));
    book.linked(peers[2], link(2, Direction::Inbound));
    book.linked(peers[3], link(0, Direction::Inbound));
    book.moved(&peers[3], 0, 9, Instant::now());
    assert_eq!(book.all_links(), 4);
    let all = book.least_useful(9, |_, _| false);
    assert_eq!(all, [peers[2], peers[1], peers[0], peers[3]]);
    let stays = |peer: &PeerId, link: &Link| *peer == peers[2] || link.since == Timestamp(3);
    assert_eq!(book.least_useful(1, stays), [peers[0]]);
    book.unlinked(peers[0], ConnectionId::new_unchecked(1), Timestamp(9));
    book.unlinked(peers[0], ConnectionId::new_unchecked(1), Timestamp(9));
    assert_eq!(book.all_links(), 3);
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

#[test]
fn a_connection_through_a_relay_goes_once_there_is_a_direct_one() {
    let (a, b, relay) = (PeerId::random(), PeerId::random(), PeerId::random());
    let link = |number: usize, address: &str, direction| Link {
        id: ConnectionId::new_unchecked(number),
        direction,
        address: address.parse().expect("an address"),
        since: Timestamp(0),
        alive: None,
    };
    let circuit = format!("/ip4/9.9.9.9/tcp/1/p2p/{relay}/p2p-circuit");
    for direction in [Direction::Inbound, Direction::Outbound] {
        let relayed = link(1, &circuit, direction);
        assert!(surplus(&a, &b, std::slice::from_ref(&relayed)).is_empty());
        for other in [Direction::Inbound, Direction::Outbound] {
            let direct = link(2, "/ip4/8.8.8.8/tcp/1", other);
            assert_eq!(surplus(&a, &b, &[relayed.clone(), direct]), [relayed.id]);
        }
    }
}
