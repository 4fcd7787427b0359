use super::*;

fn parse(text: &str) -> Multiaddr {
    text.parse().expect("an address")
}

fn rumours() -> (Rumours, Instant) {
    let now = Instant::now();
    (Rumours::new(now), now)
}

/// Whether one address counts when a stranger tells it over a connection with `remote`.
fn counts(rumours: &mut Rumours, remote: &str, told: &str) -> bool {
    let (teller, of) = (PeerId::random(), PeerId::random());
    let remote = parse(remote);
    let now = Instant::now();
    let heard = rumours.hear(teller, Some(&remote), of, vec![parse(told)], now);
    !heard.is_empty()
}

const WORLD: &str = "/ip4/8.8.4.4/tcp/4384";
const LAN: &str = "/ip4/192.168.1.9/tcp/4384";
const LOOPBACK: &str = "/ip4/127.0.0.1/tcp/4384";

#[test]
fn nobody_tells_addresses_narrower_than_its_own_connection() {
    for (told, world, lan, loopback) in [
        ("/ip4/9.9.9.9/tcp/1", true, true, true),
        ("/ip6/2a00:1450::1/udp/1/quic-v1", true, true, true),
        ("/ip4/10.0.0.1/tcp/22", false, true, true),
        ("/ip6/fd00::1/tcp/1", false, true, true),
        ("/ip4/169.254.169.254/tcp/80", false, false, true),
        ("/ip4/127.0.0.1/tcp/6379", false, false, true),
        ("/ip6/::1/tcp/6379", false, false, true),
        ("/memory/5", false, false, true),
        ("/ip4/0.0.0.0/tcp/1", false, false, false),
        ("/ip4/239.1.1.1/udp/1/quic-v1", false, false, false),
        ("/ip6/::ffff:127.0.0.1/tcp/1", false, false, false),
        ("/dns4/localhost/tcp/1", false, false, false),
        ("/dnsaddr/example.org", false, false, false),
        ("/ip4/9.9.9.9/tcp/1/ws", false, false, false),
    ] {
        let (mut rumours, _) = rumours();
        assert_eq!(counts(&mut rumours, WORLD, told), world, "{told}");
        assert_eq!(counts(&mut rumours, LAN, told), lan, "{told}");
        assert_eq!(counts(&mut rumours, LOOPBACK, told), loopback, "{told}");
        // Nothing is known of where a peer is that was reached by a name.
        let name = "/dns4/bootstrap.example/tcp/4384";
        assert_eq!(counts(&mut rumours, name, told), world, "{told}");
    }
}

#[test]
fn addresses_of_this_machine_are_told_over_loopback_only() {
    let (mut rumours, _) = rumours();
    rumours.own = vec![parse("/ip4/9.9.9.9/tcp/4384")];
    let neighbour = "/ip4/9.9.9.9/tcp/22";
    assert!(!counts(&mut rumours, WORLD, neighbour));
    assert!(!counts(&mut rumours, LAN, neighbour));
    assert!(counts(&mut rumours, LOOPBACK, neighbour));
    // Another node on this machine, reached by the same address.
    assert!(counts(&mut rumours, "/ip4/9.9.9.9/tcp/5000", neighbour));
    let own = "/ip4/9.9.9.9/tcp/4384";
    assert!(!counts(&mut rumours, LOOPBACK, own), "that is this node");
}

#[test]
fn what_is_passed_on_is_on_the_host_that_it_came_from() {
    let (mut rumours, _) = rumours();
    rumours.own = vec![parse("/ip4/192.168.1.2/tcp/4384")];
    let all = [
        "/ip4/8.8.4.4/tcp/1",
        "/ip4/8.8.4.4/udp/1/quic-v1",
        "/ip4/8.8.4.5/tcp/1",
        "/ip4/192.168.1.9/tcp/1",
        "/ip4/192.168.1.2/tcp/1",
        "/ip4/127.0.0.1/tcp/1",
    ]
    .map(parse);
    let passed = |remote: &str| rumours.on_own_host(Some(&parse(remote)), &all);
    assert_eq!(passed(WORLD), all[..2]);
    assert_eq!(passed(LAN), all[3..4]);
    assert_eq!(passed(LOOPBACK), all[4..]);
    assert_eq!(
        passed("/ip4/192.168.1.2/tcp/9"),
        all[4..],
        "the same machine"
    );
    assert_eq!(passed("/dns4/bootstrap.example/tcp/1"), all[..3]);
    assert_eq!(rumours.on_own_host(None, &all), []);
}

#[test]
fn one_answer_names_few_addresses_of_a_peer() {
    let (mut rumours, now) = rumours();
    let (teller, other) = (PeerId::random(), PeerId::random());
    let many: Vec<Multiaddr> = (1..=20)
        .flat_map(|n| [1, 2].map(|port| parse(&format!("/ip4/9.9.9.{n}/tcp/{port}"))))
        .collect();
    let remote = parse(WORLD);
    let heard = rumours.hear(teller, Some(&remote), other, many.clone(), now);
    assert_eq!(heard, many[..2 * MAX_OTHERS_IPS]);
    let mut own = many;
    own.push(remote.clone());
    let heard = rumours.hear(teller, Some(&remote), teller, own, now);
    assert_eq!(heard[0], remote, "the address that is in use goes first");
    assert!(heard.len() <= MAX_ADDRESSES);
    // An address that names another peer than the one that is meant.
    let foreign = remote.with_p2p(other).expect("no peer yet");
    assert_eq!(rumours.hear(teller, None, teller, vec![foreign], now), []);
}

/// Dials everything that the peer at `remote` tells, and nobody is there. Gives the number of
/// dials.
fn dial_all(rumours: &mut Rumours, remote: &str, from: u32, count: u32, now: Instant) -> u32 {
    let remote = parse(remote);
    let mut dialled = 0;
    for n in from..from + count {
        // Each answer comes from another peer id at the same address.
        let (teller, of) = (PeerId::random(), PeerId::random());
        let [_, a, b, c] = n.to_be_bytes();
        let told = parse(&format!("/ip4/20.{a}.{b}.{c}/tcp/80"));
        let heard = rumours.hear(teller, Some(&remote), of, vec![told], now);
        let target = heard[0].clone().with_p2p(of).expect("no peer yet");
        if let Ask::Go(host) = rumours.ask(&target, now) {
            dialled += 1;
            rumours.end(host, false);
        }
    }
    dialled
}

#[test]
fn what_fails_counts_against_the_host_that_told_it() {
    let (mut rumours, mut now) = rumours();
    let attacker = "/ip4/8.8.4.4/tcp/1";
    assert_eq!(dial_all(&mut rumours, attacker, 0, 200, now), 16);
    now += Duration::from_secs(60);
    assert_eq!(dial_all(&mut rumours, attacker, 200, 200, now), 10);
    // Others are believed as before, also of an address that the attacker told first.
    let (honest, of) = (PeerId::random(), PeerId::random());
    let (teller, target) = (parse("/ip4/8.8.8.8/tcp/1"), parse("/ip4/20.0.1.143/tcp/80"));
    assert!(matches!(rumours.ask(&target, now), Ask::Never(_)));
    rumours.hear(honest, Some(&teller), of, vec![target.clone()], now);
    assert_eq!(rumours.ask(&target, now), Ask::Go(Host::V4([8, 8, 8, 8])));
}

#[test]
fn all_that_fail_together_are_few_however_many_hosts_tell() {
    let (mut rumours, mut now) = rumours();
    let mut flood = |now, round: u32| -> u32 {
        let hosts = (0..100).map(|n| (n, format!("/ip4/8.8.{round}.{n}/tcp/1")));
        let told = hosts.map(|(n, host)| {
            let from = 1_000 * (100 * round + n);
            dial_all(&mut rumours, &host, from, 20, now)
        });
        told.sum()
    };
    assert_eq!(flood(now, 0), 128);
    now += Duration::from_secs(30);
    assert_eq!(flood(now, 1), 30);
}

#[test]
fn what_works_costs_nothing_and_is_vouched_for() {
    let (mut rumours, now) = rumours();
    let (teller, remote) = (PeerId::random(), parse(WORLD));
    for n in 0..200 {
        let of = PeerId::random();
        let told = parse(&format!("/ip4/9.9.9.{n}/tcp/1"));
        rumours.hear(teller, Some(&remote), of, vec![told.clone()], now);
        let target = told.clone().with_p2p(of).expect("no peer yet");
        let Ask::Go(host) = rumours.ask(&target, now) else {
            panic!("{n}");
        };
        rumours.end(host, true);
        rumours.proven.insert(told.clone(), of);
        assert_eq!(rumours.ask(&target, now), Ask::Free);
        // Somebody else who is said to be there is hearsay again.
        let other = told.with_p2p(PeerId::random()).expect("no peer yet");
        let Ask::Go(host) = rumours.ask(&other, now) else {
            panic!("{n}: another peer");
        };
        rumours.end(host, true);
    }
}

#[test]
fn what_nobody_told_is_not_dialled() {
    let (mut rumours, now) = rumours();
    for unheard in [
        LAN,
        LOOPBACK,
        "/dns4/example.org/tcp/1",
        "/ip4/0.0.0.0/tcp/1",
    ] {
        let asked = rumours.ask(&parse(unheard), now);
        assert!(matches!(asked, Ask::Never(_)), "{unheard}: {asked:?}");
        rumours.vouched.insert(parse(unheard), ());
        assert_eq!(rumours.ask(&parse(unheard), now), Ask::Free, "{unheard}");
    }
    assert_eq!(rumours.ask(&parse(WORLD), now), Ask::Go(Host::Unknown));
}

#[test]
fn an_address_of_this_machine_is_checked_when_it_is_dialled() {
    let (mut rumours, now) = rumours();
    assert!(counts(&mut rumours, WORLD, "/ip4/9.9.9.9/tcp/22"));
    // Only later is it known that the address is one of this machine.
    rumours.own = vec![parse("/ip4/9.9.9.9/tcp/4384")];
    let asked = rumours.ask(&parse("/ip4/9.9.9.9/tcp/22"), now);
    assert!(matches!(asked, Ask::Never(_)), "{asked:?}");
}

#[test]
fn what_is_remembered_is_bounded() {
    let (mut rumours, now) = rumours();
    for n in 0..2 * MAX_HOSTS as u32 {
        let [_, _, a, b] = n.to_be_bytes();
        dial_all(&mut rumours, &format!("/ip4/8.8.{a}.{b}/tcp/1"), n, 1, now);
    }
    assert!(rumours.hosts.entries.len() <= MAX_HOSTS);
    assert!(rumours.told.len() <= MAX_HOSTS);
    let (mut rumours, now) = super::tests::rumours();
    dial_all(&mut rumours, WORLD, 0, 2 * MAX_TOLD_BY_HOST as u32, now);
    assert_eq!(rumours.told.len(), MAX_TOLD_BY_HOST);
    for n in 0..2 * MAX_VOUCHED {
        rumours
            .vouched
            .insert(parse(&format!("/memory/{}", n + 1)), ());
        rumours.vouched.insert(parse("/memory/1"), ());
    }
    assert!(rumours.vouched.entries.len() <= MAX_VOUCHED);
    assert!(rumours.vouched.order.len() <= 4 * MAX_VOUCHED);
    assert!(rumours.vouched.get(&parse("/memory/1")).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_dial_waits_for_another_to_end() {
    let hearsay = Arc::new(Hearsay::default());
    let (teller, remote) = (PeerId::random(), parse(WORLD));
    let told = |n: usize| parse(&format!("/ip4/9.9.9.{n}/tcp/1"));
    let mut turns = Vec::new();
    for n in 0..=16 {
        let of = PeerId::random();
        hearsay.hear(teller, Some(&remote), of, vec![told(n)]);
        if n < 16 {
            turns.push(hearsay.turn(&told(n)).await.expect("its turn"));
        }
    }
    let waiting = {
        let hearsay = hearsay.clone();
        tokio::spawn(async move { hearsay.turn(&told(16)).await })
    };
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    turns.pop().expect("one").end(Some(PeerId::random()));
    let turn = waiting.await.expect("no panic").expect("its turn");
    assert!(turn.is_hearsay());
    turn.end(None);
    // Turns that were merely given up cost nothing.
    drop(turns);
    assert!(hearsay.turn(&told(16)).await.is_ok());
}

#[test]
fn a_pass_is_for_one_dial_and_does_not_vouch() {
    let (mut rumours, now) = rumours();
    let address = parse("/ip4/192.168.7.7/tcp/22");
    assert!(matches!(rumours.ask(&address, now), Ask::Never(_)));
    rumours.pass(address.clone());
    assert_eq!(rumours.ask(&address, now), Ask::Free);
    assert!(matches!(rumours.ask(&address, now), Ask::Never(_)));
    for port in 1..200 {
        rumours.pass(parse(&format!("/ip4/192.168.7.7/tcp/{port}")));
    }
    assert_eq!(rumours.passes.len(), MAX_PASSES);
}

#[test]
fn an_address_through_a_relay_is_passed_on_only_when_the_relay_is_known() {
    let (mut rumours, _) = rumours();
    let (relay, other) = (PeerId::random(), PeerId::random());
    let (at, remote) = (parse("/ip4/9.9.9.9/tcp/4384"), parse(WORLD));
    let circuit = parse(&format!("{at}/p2p/{relay}/p2p-circuit"));
    let passes = |rumours: &Rumours, remote: &Multiaddr| {
        let passed = rumours.on_own_host(Some(remote), std::slice::from_ref(&circuit));
        !passed.is_empty()
    };
    assert!(!passes(&rumours, &remote), "anybody may name a victim");
    rumours.proven.insert(at.clone(), other);
    assert!(!passes(&rumours, &remote), "somebody else is there");
    rumours.proven.insert(at.clone(), relay);
    assert!(passes(&rumours, &remote));
    // This node is the relay.
    let (mut rumours, _) = self::rumours();
    rumours.confirmed = vec![at.clone()];
    assert!(passes(&rumours, &remote));
    // The peer is connected through that very relay, and through it alone.
    let (rumours, _) = self::rumours();
    let through = circuit.clone().with_p2p(other).expect("no peer yet");
    assert!(passes(&rumours, &through));
    let on_relay = [parse("/ip4/9.9.9.9/tcp/5555")];
    assert!(rumours.on_own_host(Some(&through), &on_relay).is_empty());
}

#[test]
fn the_dial_to_a_relay_is_on_the_account_of_whoever_told_it() {
    let (mut rumours, now) = rumours();
    let (teller, relay) = (PeerId::random(), PeerId::random());
    let remote = parse(WORLD);
    let mut went = 0;
    for n in 0..2 * SHARE as u32 {
        let at = parse(&format!("/ip4/9.9.9.{n}/tcp/80"));
        let circuit = parse(&format!("{at}/p2p/{relay}/p2p-circuit"));
        let heard = rumours.hear(teller, Some(&remote), teller, vec![circuit.clone()], now);
        assert_eq!(heard, [circuit]);
        went += u32::from(matches!(rumours.ask(&at, now), Ask::Go(Host::V4(_))));
    }
    assert_eq!(went, SHARE as u32);
    // A relay of the local network is no business of somebody outside.
    let near = parse(&format!("/ip4/192.168.1.1/tcp/80/p2p/{relay}/p2p-circuit"));
    assert!(
        rumours
            .hear(teller, Some(&remote), teller, vec![near], now)
            .is_empty()
    );
}
