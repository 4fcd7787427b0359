//! Floods of identities, step by step.

use super::*;
use proptest::prelude::*;

fn places() -> Places {
    Places::new(&Limits::default())
}

fn from(ip: [u8; 4]) -> Newcomer {
    Newcomer {
        site: Some(Site::of_ip(ip.into())),
        is_inbound: true,
        is_quic: false,
        standing: Standing::Newcomer,
    }
}

fn dialled(ip: [u8; 4]) -> Newcomer {
    Newcomer {
        is_inbound: false,
        ..from(ip)
    }
}

fn member(ip: [u8; 4]) -> Newcomer {
    Newcomer {
        standing: Standing::Member,
        ..from(ip)
    }
}

/// Connections that come and go.
#[derive(Default)]
struct Hall {
    held: Vec<Held>,
    next: usize,
}

impl Hall {
    fn come(&mut self, places: &Places, newcomer: Newcomer) -> Judgement {
        for one in &mut self.held {
            one.age += Duration::from_secs(1);
        }
        let verdict = places.judge(&newcomer, &self.held);
        if let Judgement::Replace(id) = verdict {
            self.held.retain(|one| one.id != id);
        }
        if !matches!(verdict, Judgement::Refuse(_)) {
            self.next += 1;
            self.held.push(Held {
                id: ConnectionId::new_unchecked(self.next),
                facts: newcomer,
                moved: 0,
                age: Duration::ZERO,
                is_busy: false,
            });
        }
        verdict
    }

    fn of(&self, ip: [u8; 4]) -> usize {
        let site = Some(Site::of_ip(ip.into()));
        self.held
            .iter()
            .filter(|one| one.facts.site == site)
            .count()
    }
}

#[test]
fn identities_of_one_address_displace_themselves_alone() {
    let (places, mut hall) = (places(), Hall::default());
    let attacker = [203, 0, 113, 1];
    for n in 0..20 {
        assert_eq!(hall.come(&places, from([198, 51, n, 1])), Judgement::Admit);
    }
    for _ in 0..256 {
        hall.come(&places, from(attacker));
        assert!(hall.of(attacker) <= Limits::default().connections_per_site);
    }
    assert_eq!(hall.held.len(), 20 + hall.of(attacker));
    for n in 0..20 {
        assert_eq!(hall.of([198, 51, n, 1]), 1);
    }
}

#[test]
fn identities_of_many_addresses_leave_a_third_and_give_way_to_who_comes_alone() {
    let (places, mut hall) = (places(), Hall::default());
    for n in 0..4096_u16 {
        let [high, low] = n.to_be_bytes();
        hall.come(&places, from([203, 0, high, low]));
    }
    assert_eq!(hall.held.len(), 171, "two thirds of 256");
    for n in 0..30 {
        let alone = from([n + 1, 9, 9, 9]);
        assert!(matches!(hall.come(&places, alone), Judgement::Replace(_)));
    }
    for n in 0..1024_u16 {
        let [high, low] = n.to_be_bytes();
        hall.come(&places, from([203, 0, high, low]));
    }
    assert!((0..30).all(|n| hall.of([n + 1, 9, 9, 9]) == 1));
    // This node's own dials have places of their own.
    for n in 0..53 {
        assert_eq!(hall.come(&places, dialled([n, 8, 8, 8])), Judgement::Admit);
    }
    assert_eq!(hall.held.len(), 171 + 53);
    // So have members, and displace nobody as long as there are some.
    for n in 0..32 {
        assert_eq!(hall.come(&places, member([n, 7, 7, 7])), Judgement::Admit);
    }
    assert_eq!(hall.held.len(), 256);
}

#[test]
fn members_are_bounded_by_nothing_but_all_and_never_give_way() {
    let (places, mut hall) = (places(), Hall::default());
    let home = [203, 0, 113, 1];
    for _ in 0..264 {
        assert_eq!(hall.come(&places, member(home)), Judgement::Admit);
    }
    let full = Judgement::Refuse(Full::All(256));
    assert_eq!(hall.come(&places, member(home)), full);
    let (places, mut hall) = (self::places(), Hall::default());
    for _ in 0..255 {
        hall.come(&places, member(home));
    }
    assert_eq!(hall.come(&places, from([1, 1, 1, 1])), Judgement::Admit);
    assert_eq!(hall.come(&places, from([2, 1, 1, 1])), full, "it is new");
}

#[test]
fn what_is_new_busy_or_useful_stays() {
    let places = places();
    let site = [203, 0, 113, 1];
    let mut held: Vec<Held> = (0..16)
        .map(|n| Held {
            id: ConnectionId::new_unchecked(n),
            facts: from(site),
            moved: 0,
            age: Duration::from_secs(60),
            is_busy: true,
        })
        .collect();
    let full = Judgement::Refuse(Full::Site(16));
    assert_eq!(places.judge(&from(site), &held), full, "all are busy");
    held[3].is_busy = false;
    held[3].age = Duration::ZERO;
    assert_eq!(places.judge(&from(site), &held), full, "it is new");
    held[3].age = Duration::from_secs(2);
    held[3].moved = 1;
    held[5].is_busy = false;
    assert_eq!(
        places.judge(&from(site), &held),
        Judgement::Replace(held[5].id)
    );
    held[5].facts.standing = Standing::Even;
    assert_eq!(
        places.judge(&from(site), &held),
        Judgement::Replace(held[3].id)
    );
    held[3].facts.is_inbound = false;
    held[5].facts.is_inbound = false;
    assert_eq!(places.judge(&from(site), &held), full, "own dials stay");
}

#[test]
fn a_crowd_that_keeps_itself_busy_gives_way_and_a_busy_peer_that_is_alone_does_not() {
    let limits = Limits {
        connections: 6,
        ..Limits::default()
    };
    let places = Places::new(&limits);
    let busy = |n: u8, ip| Held {
        id: ConnectionId::new_unchecked(usize::from(n)),
        facts: from(ip),
        moved: 1 << 40,
        age: Duration::from_secs(60),
        is_busy: true,
    };
    let alone = (0..2).map(|n| busy(n, [n + 1, 1, 1, 1]));
    let crowd = (2..4).map(|n| busy(n, [203, 0, 113, n]));
    let held: Vec<Held> = alone.chain(crowd).collect();
    let judged = places.judge(&from([9, 9, 9, 9]), &held);
    assert!(matches!(judged, Judgement::Replace(id) if id == held[2].id || id == held[3].id));
    let judged = places.judge(&from([9, 9, 9, 9]), &held[..2]);
    assert_eq!(judged, Judgement::Admit);
    let alone: Vec<Held> = (0..4).map(|n| busy(n, [n + 1, 1, 1, 1])).collect();
    let full = Judgement::Refuse(Full::All(6));
    assert_eq!(places.judge(&from([9, 9, 9, 9]), &alone), full);
}

#[test]
fn quic_has_a_quarter_and_a_near_site_a_larger_share() {
    let (places, mut hall) = (places(), Hall::default());
    for n in 0..200 {
        let newcomer = Newcomer {
            is_quic: true,
            ..from([n, 1, 1, 1])
        };
        hall.come(&places, newcomer);
    }
    assert_eq!(hall.held.len(), 64);
    let (places, mut hall) = (self::places(), Hall::default());
    for _ in 0..200 {
        hall.come(&places, from([192, 168, 1, 2]));
    }
    assert_eq!(hall.held.len(), 64);
}

proptest! {
    /// Newcomers of any kind, in any order, exceed no bound.
    #[test]
    fn no_bound_is_exceeded(
        comers in proptest::collection::vec((0..6_u8, any::<bool>(), any::<bool>(), 0..4_u8), 0..600),
        connections in 1..80_u32,
    ) {
        let limits = Limits { connections, connections_per_site: 5, ..Limits::default() };
        let (places, mut hall) = (Places::new(&limits), Hall::default());
        for (site, is_inbound, is_quic, standing) in comers {
            let standing = [
                Standing::FreeRider,
                Standing::Newcomer,
                Standing::Even,
                Standing::Member,
            ][usize::from(standing)];
            let newcomer = Newcomer { is_inbound, is_quic, standing, ..from([9, 9, 9, site]) };
            hall.come(&places, newcomer);
            let strangers = hall.held.iter().filter(|one| one.facts.standing != Standing::Member);
            let inbound = strangers.clone().filter(|one| one.facts.is_inbound).count();
            prop_assert!(inbound <= places.inbound);
            prop_assert!(strangers.clone().count() <= places.strangers + SPARE);
            for site in 0..6 {
                let site = Some(Site::of_ip([9, 9, 9, site].into()));
                let of_site = strangers.clone().filter(|one| one.facts.site == site);
                prop_assert!(of_site.count() <= 5);
            }
            prop_assert!(hall.held.len() <= places.all + SPARE);
        }
    }
}
