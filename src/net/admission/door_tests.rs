//! Floods of silent connections, step by step.

use super::*;

fn at(site: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, site], port))
}

fn is_in(evicted: &mut oneshot::Receiver<()>) -> bool {
    matches!(evicted.try_recv(), Err(oneshot::error::TryRecvError::Empty))
}

#[test]
fn a_flood_of_silent_connections_displaces_itself_alone() {
    let mut table = Table::default();
    let (_, mut speaking) = table.enter(at(1, 1));
    table.spoke(&at(1, 1));
    let mut flood = Vec::new();
    for port in 2..1000 {
        flood.push(table.enter(at(1, port)).1);
        assert!(table.places.len() <= PLACES_PER_ADDRESS);
    }
    assert!(is_in(&mut speaking));
    assert_eq!(
        flood
            .iter_mut()
            .filter_map(|one| is_in(one).then_some(()))
            .count(),
        PLACES_PER_ADDRESS - 1
    );
    // The newest are those that stay.
    assert!(
        flood
            .iter_mut()
            .rev()
            .take(PLACES_PER_ADDRESS - 1)
            .all(is_in)
    );
}

#[test]
fn when_all_places_are_taken_the_most_crowded_address_gives_way() {
    let mut table = Table::default();
    let mut crowd: Vec<_> = (0..PLACES_PER_ADDRESS as u16)
        .map(|port| table.enter(at(1, port)).1)
        .collect();
    let mut others: Vec<_> = (0..(PLACES - PLACES_PER_ADDRESS) as u8)
        .map(|n| table.enter(at(n + 2, 1)).1)
        .collect();
    assert_eq!(table.places.len(), PLACES);
    let (_, mut new) = table.enter(at(250, 1));
    assert!(is_in(&mut new) && others.iter_mut().all(is_in));
    assert!(!is_in(&mut crowd[0]) && crowd[1..].iter_mut().all(is_in));
    assert_eq!(table.places.len(), PLACES);
}

#[test]
fn addresses_of_one_ipv6_site_share_their_places() {
    let mut table = Table::default();
    for n in 0..PLACES as u16 {
        table.enter(SocketAddr::from(([0xfd00, 0, 0, 1, 0, 0, 0, n], 1)));
    }
    assert_eq!(table.places.len(), PLACES_PER_ADDRESS);
}

#[test]
fn a_place_is_given_back_once() {
    let mut table = Table::default();
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
    let door = Door::default();
    let silent = door.guard(at(1, 1), std::future::pending::<io::Result<()>>());
    let speaking = door.guard(at(1, 2), async {
        tokio::time::sleep(2 * FIRST_BYTES).await;
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
    let door = Door::default();
    let _place = door.table().enter(at(1, 1));
    let endpoint = ConnectedPoint::Listener {
        local_addr: "/ip4/192.0.2.9/tcp/1".parse().expect("an address"),
        send_back_addr: "/ip4/192.0.2.1/tcp/1".parse().expect("an address"),
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
