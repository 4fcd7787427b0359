//! Floods of silent connections, step by step.

use super::*;

fn at(site: u8, port: u16) -> End {
    (SocketAddr::from(([198, 51, 100, site], port)), true)
}

fn limits() -> Limits {
    Limits {
        pending_inbound: 64,
        ..Limits::default()
    }
}

fn table() -> Table {
    Table {
        limits: limits(),
        places: HashMap::new(),
        next: 0,
    }
}

fn is_in(evicted: &mut oneshot::Receiver<()>) -> bool {
    matches!(evicted.try_recv(), Err(oneshot::error::TryRecvError::Empty))
}

#[test]
fn a_flood_of_silent_connections_displaces_itself_alone() {
    let share = limits().pending_per_site;
    let mut table = table();
    let (_, mut speaking) = table.enter(at(1, 1));
    table.spoke(&at(1, 1));
    let mut flood = Vec::new();
    for port in 2..1000 {
        flood.push(table.enter(at(1, port)).1);
        assert!(table.places.len() <= share);
    }
    assert!(is_in(&mut speaking));
    assert_eq!(
        flood
            .iter_mut()
            .filter_map(|one| is_in(one).then_some(()))
            .count(),
        share - 1
    );
    // The newest are those that stay.
    assert!(flood.iter_mut().rev().take(share - 1).all(is_in));
}

#[test]
fn when_all_places_are_taken_the_most_crowded_address_gives_way() {
    let (share, places) = (limits().pending_per_site, limits().pending_inbound);
    let mut table = table();
    let mut crowd: Vec<_> = (0..share as u16)
        .map(|port| table.enter(at(1, port)).1)
        .collect();
    let mut others: Vec<_> = (0..(places - share) as u8)
        .map(|n| table.enter(at(n + 2, 1)).1)
        .collect();
    assert_eq!(table.places.len(), places);
    let (_, mut new) = table.enter(at(250, 1));
    assert!(is_in(&mut new) && others.iter_mut().all(is_in));
    assert!(!is_in(&mut crowd[0]) && crowd[1..].iter_mut().all(is_in));
    assert_eq!(table.places.len(), places);
}

#[test]
fn addresses_of_one_ipv6_site_share_their_places() {
    let (share, places) = (limits().pending_per_site, limits().pending_inbound);
    let mut table = table();
    for n in 0..places as u16 {
        table.enter((
            SocketAddr::from(([0x2001, 0xdb8, 0, 1, 0, 0, 0, n], 1)),
            true,
        ));
    }
    assert_eq!(table.places.len(), share);
}

#[test]
fn a_place_is_given_back_once() {
    let mut table = table();
    let (first, _) = table.enter(at(1, 1));
    // The same address and port again: the first connection is closed, whoever held its end.
    let (second, mut evicted) = table.enter(at(1, 1));
    table.leave(&at(1, 1), first);
    assert!(is_in(&mut evicted));
    table.leave(&at(1, 1), second);
    assert!(table.places.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_closed_and_a_speaking_one_is_not() {
    let door = Door::new(&limits());
    let silent = door.guard(at(1, 1), std::future::pending::<io::Result<()>>());
    let speaking = door.guard(at(1, 2), async {
        tokio::time::sleep(2 * limits().first_bytes).await;
        Ok(())
    });
    door.table().spoke(&at(1, 2));
    let (silent, speaking) = tokio::join!(silent, speaking);
    let error = silent.expect_err("nothing came");
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    speaking.expect("it takes its time");
    assert!(door.table().places.is_empty());
}

#[tokio::test]
async fn the_first_bytes_are_noticed() {
    use futures::AsyncReadExt;
    let door = Door::new(&limits());
    let _place = door.table().enter(at(1, 1));
    let endpoint = ConnectedPoint::Listener {
        local_addr: "/ip4/192.0.2.9/tcp/1".parse().expect("an address"),
        send_back_addr: "/ip4/198.51.100.1/tcp/1".parse().expect("an address"),
    };
    let bytes = futures::io::Cursor::new(b"hello".to_vec());
    let mut stream = door.listen_to(bytes, &endpoint);
    assert!(door.table().is_silent(&at(1, 1)));
    stream
        .read_exact(&mut [0; 2])
        .await
        .expect("there are some");
    assert!(!door.table().is_silent(&at(1, 1)));
}

#[test]
fn a_near_site_has_more_places_and_quic_has_spoken() {
    let mut table = table();
    for port in 0..200 {
        table.enter((SocketAddr::from(([192, 168, 1, 2], port)), port % 2 == 0));
    }
    assert_eq!(table.places.len(), limits().pending_per_near_site);
    let silent = table.places.iter().filter(|(_, place)| place.silent);
    assert!(silent.clone().all(|((_, is_tcp), _)| *is_tcp));
    assert_eq!(silent.count(), 0, "silent ones gave way first");
}
