use super::*;
use proptest::prelude::*;

const HOUR: Duration = Duration::from_secs(3600);
const NOW: Timestamp = Timestamp(1_000_000_000_000);

fn root(n: u8) -> BlockId {
    BlockId::from_sha384([n; 48])
}

fn peer(n: u8) -> PeerName {
    vec![n]
}

fn copy(stage: Stage, now: Timestamp) -> Copy {
    Copy {
        stage,
        since: now,
        seen: now,
        missed: Duration::ZERO,
        unproven: Duration::ZERO,
        audited: Some(now),
        until: now.after(90 * 24 * HOUR),
        minimum_until: now.after(30 * 24 * HOUR),
    }
}

fn job(copies: u32) -> Job {
    Job {
        copies,
        bytes: 10,
        ..Job::default()
    }
}

fn facts(job: Job, online: &[(u8, u64)]) -> Facts {
    Facts {
        jobs: [(root(1), job)].into(),
        online: online.iter().map(|(n, free)| (peer(*n), *free)).collect(),
        sites: BTreeMap::new(),
        secret: [1; 32],
    }
}

#[test]
fn copies_are_asked_for_in_different_places_first() {
    // The two with most room stand in one place.
    let mut facts = facts(job(2), &[(1, 90), (2, 80), (3, 70)]);
    facts.sites = [(1, "attic"), (2, "attic"), (3, "office")]
        .map(|(n, site)| (peer(n), site.to_owned()))
        .into();
    let ask = |n| Action::Ask(root(1), peer(n));
    assert_eq!(choose(NOW, &facts, &Limits::default()), [ask(1), ask(3)]);
    // Where there is no other place, the same one is better than none.
    facts.online.remove(&peer(3));
    assert_eq!(choose(NOW, &facts, &Limits::default()), [ask(1), ask(2)]);
}

#[test]
fn the_moment_of_an_audit_follows_from_the_secret_alone() {
    let limits = Limits::default();
    let due_after = |secret: u8| {
        let mut facts = facts(
            Job {
                held: [(peer(1), copy(Stage::Held, NOW))].into(),
                ..job(1)
            },
            &[(1, 50)],
        );
        facts.secret = [secret; 32];
        let is_due = |hours: &u32| {
            let now = NOW.after(HOUR * *hours);
            let mut later = facts.clone();
            for copy in later
                .jobs
                .values_mut()
                .flat_map(|job| job.held.values_mut())
            {
                // The copy was heard of just now, by other means than an audit.
                copy.seen = now;
            }
            let audit = Action::Audit(root(1), peer(1));
            choose(now, &later, &limits).contains(&audit)
        };
        (0..=48).find(is_due).expect("it is audited")
    };
    let hours: BTreeSet<u32> = (0..60).map(due_after).collect();
    assert!(
        hours.iter().all(|hours| (12..=24).contains(hours)),
        "{hours:?}"
    );
    assert!(hours.len() > 6, "all of them are as likely: {hours:?}");
    assert_eq!(due_after(3), due_after(3));
}

#[test]
fn asks_those_with_most_room_and_nobody_twice() {
    let facts = facts(job(2), &[(1, 50), (2, 9), (3, 70), (4, 60)]);
    let actions = choose(NOW, &facts, &Limits::default());
    assert_eq!(
        actions,
        [Action::Ask(root(1), peer(3)), Action::Ask(root(1), peer(4))]
    );
}

#[test]
fn who_keeps_related_backups_comes_first() {
    let mut job = job(2);
    job.near.insert(peer(2), 1);
    let facts = facts(job, &[(1, 50), (2, 5), (3, 70)]);
    assert_eq!(
        choose(NOW, &facts, &Limits::default()),
        [Action::Ask(root(1), peer(2)), Action::Ask(root(1), peer(3))]
    );
}

#[test]
fn too_few_peers_are_all_asked() {
    let facts = facts(job(5), &[(1, 50), (2, 9)]);
    let actions = choose(NOW, &facts, &Limits::default());
    assert_eq!(actions, [Action::Ask(root(1), peer(1))]);
}

#[test]
fn who_refused_is_asked_again_later() {
    let mut job = job(1);
    job.refused.insert(peer(1), NOW.after(HOUR));
    let facts = facts(job, &[(1, 50)]);
    assert!(choose(NOW, &facts, &Limits::default()).is_empty());
    let later = choose(NOW.after(HOUR), &facts, &Limits::default());
    assert_eq!(later, [Action::Ask(root(1), peer(1))]);
}

#[test]
fn a_holder_that_is_away_too_long_is_replaced_and_not_before() {
    let mut job = job(1);
    job.held.insert(peer(1), copy(Stage::Held, NOW));
    let facts = facts(job, &[(2, 50)]);
    let limits = Limits::default();
    let after = |hours: u32, missed: u32| {
        let mut facts = facts.clone();
        let copy = facts.jobs.get_mut(&root(1)).expect("it is there");
        copy.held.get_mut(&peer(1)).expect("it is there").missed = missed * HOUR;
        choose(NOW.after(hours * HOUR), &facts, &limits)
    };
    assert!(after(24, 24).is_empty());
    assert_eq!(after(25, 25), [Action::Ask(root(1), peer(2))]);
    // This machine itself was away: it looks for a while before it copies anything again, and meanwhile promises nothing.
    assert!(after(90, 18).is_empty());
    assert_eq!(after(90, 19), [Action::Ask(root(1), peer(2))]);
    assert_eq!(
        reached(&facts.jobs[&root(1)], NOW.after(90 * HOUR), &limits),
        0
    );
}

#[test]
fn leases_are_renewed_at_half_and_audited_each_day() {
    let mut job = job(1);
    job.held.insert(peer(1), copy(Stage::Held, NOW));
    let facts = facts(job, &[(1, 50)]);
    let after = |hours: u32| {
        let now = NOW.after(hours * HOUR);
        let mut facts = facts.clone();
        let copy = facts.jobs.get_mut(&root(1)).expect("it is there");
        copy.held.get_mut(&peer(1)).expect("it is there").seen = now;
        choose(now, &facts, &Limits::default())
    };
    assert!(after(11).is_empty());
    assert_eq!(after(24), [Action::Audit(root(1), peer(1))]);
    assert_eq!(after(45 * 24 - 1), [Action::Audit(root(1), peer(1))]);
    assert_eq!(after(45 * 24), [Action::Renew(root(1), peer(1))]);
    assert_eq!(after(90 * 24)[0], Action::Forget(root(1), peer(1)));
}

#[test]
fn forgotten_backups_are_released_after_their_minimum() {
    let mut job = job(0);
    job.held.insert(peer(1), copy(Stage::Held, NOW));
    let facts = facts(job, &[(1, 50)]);
    let after = |days: u32| choose(NOW.after(days * 24 * HOUR), &facts, &Limits::default());
    assert!(after(29).is_empty());
    assert_eq!(after(30), [Action::Release(root(1), peer(1))]);
}

#[test]
fn a_surplus_copy_goes_when_it_may_and_never_one_too_many() {
    let mut job = job(2);
    for n in 1..=3 {
        job.held.insert(peer(n), copy(Stage::Held, NOW));
        job.near.insert(peer(n), 3);
    }
    let months = |days: u32, change: &dyn Fn(&mut Job, Timestamp)| {
        let now = NOW.after(days * 24 * HOUR);
        let mut job = job.clone();
        for (n, copy) in job.held.values_mut().enumerate() {
            copy.seen = now;
            copy.audited = Some(Timestamp(now.0 - 1000 + n as u64));
        }
        change(&mut job, now);
        let facts = facts(job, &[(1, 50), (2, 50), (3, 50), (4, 50)]);
        choose(now, &facts, &Limits::default())
    };
    let release = |n| vec![Action::Release(root(1), peer(n))];
    let edit = |job: &mut Job, n: u8, edit: &dyn Fn(&mut Copy)| {
        edit(job.held.get_mut(&peer(n)).expect("it is there"));
    };
    assert!(months(29, &|_, _| {}).is_empty(), "its minimum");
    assert_eq!(months(30, &|_, _| {}), release(1), "audited longest ago");
    let one_near = |job: &mut Job, _| {
        job.near.insert(peer(3), 1);
    };
    assert_eq!(months(30, &one_near), release(3), "keeps nothing related");
    let not_audited = |job: &mut Job, _| edit(job, 2, &|copy| copy.audited = None);
    assert_eq!(months(30, &not_audited), [Action::Audit(root(1), peer(2))]);
    let asked = |job: &mut Job, _| edit(job, 2, &|copy| copy.stage = Stage::Asked);
    assert_eq!(months(30, &asked), [Action::Poll(root(1), peer(2))]);
    let silent = |job: &mut Job, now: Timestamp| {
        edit(job, 2, &|copy| {
            copy.seen = Timestamp(now.0 - 25 * 3_600_000)
        });
    };
    assert_eq!(months(30, &silent), [Action::Audit(root(1), peer(2))]);
    let young = |job: &mut Job, now: Timestamp| {
        edit(job, 1, &|copy| copy.minimum_until = now.after(HOUR));
    };
    assert_eq!(months(30, &young), release(2), "one whose minimum is over");
}

#[test]
fn who_goes_while_it_is_asked_is_not_waited_for_and_not_forgotten_at_once() {
    let mut job = job(1);
    job.held.insert(peer(1), copy(Stage::Asked, NOW));
    let at = |hours: u32, missed: u32, online: &[(u8, u64)]| {
        let mut facts = facts(job.clone(), online);
        let copy = facts.jobs.get_mut(&root(1)).expect("it is there");
        copy.held.get_mut(&peer(1)).expect("it is there").missed = missed * HOUR;
        choose(NOW.after(hours * HOUR), &facts, &Limits::default())
    };
    let (ask, poll) = (
        Action::Ask(root(1), peer(2)),
        Action::Poll(root(1), peer(1)),
    );
    assert!(at(1, 1, &[(2, 50)]).is_empty());
    assert_eq!(at(2, 2, &[(2, 50)]), std::slice::from_ref(&ask));
    // This machine was away: that is no delay of the other's.
    assert_eq!(at(9, 0, &[(1, 50), (2, 50)]), std::slice::from_ref(&poll));
    // There, and yet no progress for an hour: another one is asked, and it may still come.
    assert_eq!(at(2, 2, &[(1, 50), (2, 50)]), [poll, ask.clone()]);
    let forget = Action::Forget(root(1), peer(1));
    assert_eq!(at(25, 19, &[(2, 50)]), [forget, ask]);
}

#[test]
fn a_failed_copy_is_forgotten_and_replaced_elsewhere() {
    let mut job = job(1);
    job.held.insert(peer(1), copy(Stage::Failed, NOW));
    let facts = facts(job, &[(1, 90), (2, 50)]);
    assert_eq!(
        choose(NOW, &facts, &Limits::default()),
        [
            Action::Forget(root(1), peer(1)),
            Action::Ask(root(1), peer(2))
        ]
    );
}

#[test]
fn a_backup_that_is_not_here_any_more_keeps_its_copies() {
    let mut job = job(2);
    job.is_lost = true;
    for n in 1..=3 {
        job.held.insert(peer(n), copy(Stage::Held, NOW));
    }
    let facts = facts(job, &[(1, 50), (2, 50), (3, 50), (4, 50)]);
    let after = |hours: u32| choose(NOW.after(hours * HOUR), &facts, &Limits::default());
    assert!(after(12).is_empty(), "nothing is copied that is not here");
    let all = |action: fn(BlockId, PeerName) -> Action| [1, 2, 3].map(|n| action(root(1), peer(n)));
    assert_eq!(after(13), all(Action::Poll), "nothing can be audited");
    assert_eq!(after(50 * 24), all(Action::Renew));
    assert_eq!(
        after(80 * 24),
        all(Action::Renew),
        "nothing is more than enough"
    );
    let mut replaced = facts.clone();
    let job = replaced.jobs.get_mut(&root(1)).expect("it is there");
    (job.is_lost, job.is_replaced, job.copies) = (false, true, 4);
    assert!(choose(NOW, &replaced, &Limits::default()).is_empty());
}

#[test]
fn what_was_noted_by_a_clock_that_ran_ahead_does_not_count() {
    let limits = Limits::default();
    let mut ahead = copy(Stage::Held, NOW);
    let months = NOW.after(30 * 24 * HOUR);
    let mut job = job(1);
    (ahead.seen, ahead.audited) = (months, Some(months));
    assert!(!counts(&ahead, NOW, &limits));
    job.held.insert(peer(1), ahead.clone());
    let due = facts(job.clone(), &[(1, 50)]);
    assert_eq!(
        choose(NOW, &due, &limits),
        [Action::Audit(root(1), peer(1))]
    );
    // It was heard, but for a clock that is off by a little.
    let little = NOW.after(MAX_AHEAD);
    (ahead.seen, ahead.audited) = (little, Some(little));
    assert!(counts(&ahead, NOW, &limits));
    (ahead.seen, ahead.missed) = (months, 19 * HOUR);
    assert!(is_gone(&ahead, NOW, &limits));
}

#[test]
fn what_was_never_audited_does_not_count() {
    let mut copy = copy(Stage::Held, NOW);
    copy.audited = None;
    assert!(!counts(&copy, NOW, &Limits::default()));
    let mut job = job(1);
    job.held.insert(peer(1), copy);
    assert_eq!(reached(&job, NOW, &Limits::default()), 0);
    // It is audited at once, and nobody else is asked meanwhile.
    let facts = facts(job, &[(1, 50), (2, 50)]);
    assert_eq!(
        choose(NOW, &facts, &Limits::default()),
        [Action::Audit(root(1), peer(1))]
    );
}

#[test]
fn a_copy_that_is_not_renewed_stays_and_is_made_up_for_in_time() {
    let mut job = job(1);
    job.held.insert(peer(1), copy(Stage::Held, NOW));
    job.refused.insert(peer(1), Timestamp(u64::MAX));
    let facts = facts(job, &[(1, 50), (2, 50)]);
    let after = |days: u32| {
        let now = NOW.after(days * 24 * HOUR);
        let mut facts = facts.clone();
        let copy = facts.jobs.get_mut(&root(1)).expect("it is there");
        let copy = copy.held.get_mut(&peer(1)).expect("it is there");
        (copy.seen, copy.audited) = (now, Some(now));
        choose(now, &facts, &Limits::default())
    };
    assert!(after(60).is_empty());
    assert_eq!(after(68), [Action::Ask(root(1), peer(2))]);
}

#[test]
fn a_copy_too_many_is_not_renewed() {
    let mut job = job(1);
    for n in 1..=2 {
        let mut copy = copy(Stage::Held, NOW);
        copy.minimum_until = NOW.after((75 + u32::from(n)) * 24 * HOUR);
        job.held.insert(peer(n), copy);
    }
    let facts = facts(job, &[(1, 50), (2, 50)]);
    let after = |days: u32| {
        let now = NOW.after(days * 24 * HOUR);
        let mut facts = facts.clone();
        let job = facts.jobs.get_mut(&root(1)).expect("it is there");
        for copy in job.held.values_mut() {
            (copy.seen, copy.audited) = (now, Some(now));
        }
        choose(now, &facts, &Limits::default())
    };
    assert_eq!(after(45), [Action::Renew(root(1), peer(2))]);
    assert_eq!(
        after(76),
        [
            Action::Release(root(1), peer(1)),
            Action::Renew(root(1), peer(2))
        ]
    );
}

#[test]
fn no_more_is_asked_for_at_once_than_the_limit() {
    let limits = Limits {
        most_asked: 3,
        ..Limits::default()
    };
    let mut facts = facts(job(2), &[(1, 50), (2, 50), (3, 50)]);
    for n in 2..9 {
        facts.jobs.insert(root(n), job(2));
    }
    let actions = choose(NOW, &facts, &limits);
    assert_eq!(actions.len(), 3);
    // The load is spread over all of them.
    let peers: BTreeSet<_> = actions
        .iter()
        .map(|action| match action {
            Action::Ask(_, peer) => peer.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(peers.len(), 3);
}

/// A mesh with a virtual clock, in which every living peer does what it is asked.
struct World {
    now: Timestamp,
    facts: Facts,
    /// What each peer really keeps.
    disks: BTreeMap<PeerName, BTreeSet<BlockId>>,
}

impl World {
    fn hour(&mut self, limits: &Limits) {
        self.now = self.now.after(HOUR);
        for job in self.facts.jobs.values_mut() {
            for (peer, copy) in &mut job.held {
                match self.facts.online.contains_key(peer) {
                    true => copy.unproven += HOUR,
                    false => copy.missed += HOUR,
                }
            }
        }
        self.step(limits);
    }

    fn step(&mut self, limits: &Limits) {
        for action in choose(self.now, &self.facts, limits) {
            let now = self.now;
            let (root, peer) = match &action {
                Action::Ask(root, peer)
                | Action::Poll(root, peer)
                | Action::Renew(root, peer)
                | Action::Audit(root, peer)
                | Action::Release(root, peer)
                | Action::Forget(root, peer) => (*root, peer.clone()),
            };
            let job = self.facts.jobs.get_mut(&root).expect("it is known");
            let disk = self.disks.entry(peer.clone()).or_default();
            match action {
                Action::Ask(..) => {
                    assert!(!job.held.contains_key(&peer), "asked twice");
                    assert!(self.facts.online.contains_key(&peer));
                    disk.insert(root);
                    job.held.insert(peer, copy(Stage::Asked, now));
                }
                Action::Poll(..) => {
                    let copy = job.held.get_mut(&peer).expect("it was asked");
                    (copy.stage, copy.seen) = (Stage::Held, now);
                    (copy.missed, copy.unproven) = (Duration::ZERO, Duration::ZERO);
                }
                Action::Renew(..) => {
                    job.held.insert(peer, self::copy(Stage::Held, now));
                }
                Action::Audit(..) => {
                    let copy = job.held.get_mut(&peer).expect("it is held");
                    if disk.contains(&root) {
                        (copy.audited, copy.seen) = (Some(now), now);
                        (copy.missed, copy.unproven) = (Duration::ZERO, Duration::ZERO);
                    } else {
                        copy.stage = Stage::Failed;
                    }
                }
                Action::Release(..) | Action::Forget(..) => {
                    job.held.remove(&peer);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Machines come and go, and lose their disks. Whenever enough of them have been there for a while, every backup has its copies,
    /// and really has them.
    #[test]
    fn copies_are_made_again_while_enough_nodes_live(events in proptest::collection::vec((0..8u8, 0..3u8, 1..100u32), 1..30)) {
        let limits = Limits::default();
        let mut world = World {
            now: NOW,
            facts: facts(job(3), &[(0, 99), (1, 99), (2, 99), (3, 99), (4, 99), (5, 99), (6, 99), (7, 99)]),
            disks: BTreeMap::new(),
        };
        world.facts.jobs.insert(root(2), job(2));
        for (number, event, hours) in events {
            match event {
                0 if world.facts.online.len() > 4 => {
                    world.facts.online.remove(&peer(number));
                }
                1 => drop(world.disks.remove(&peer(number))),
                _ => drop(world.facts.online.insert(peer(number), 99)),
            }
            for _ in 0..hours {
                world.hour(&limits);
            }
        }
        // Time for audits to notice, for those who are away to be given up, and for new copies.
        for _ in 0..80 {
            world.hour(&limits);
        }
        for (root, job) in &world.facts.jobs {
            prop_assert!(reached(job, world.now, &limits) >= job.copies);
            let online = |peer: &&PeerName| world.facts.online.contains_key(*peer);
            let really = job.held.keys().filter(online).filter(|peer| {
                world.disks.get(*peer).is_some_and(|disk| disk.contains(root))
            });
            prop_assert!(really.count() >= job.copies as usize);
        }
    }

    /// The same arguments give the same actions, and each is about somebody it may be about.
    #[test]
    fn decisions_depend_on_nothing_else(
        copies in 0..5u32,
        held in proptest::collection::btree_map(0..6u8, (0..3u8, 0..200u64, 0..200u64), 0..6),
        online in proptest::collection::btree_map(0..9u8, 0..30u64, 0..9),
    ) {
        let mut job = job(copies);
        for (number, (stage, seen, until)) in held {
            let stage = [Stage::Asked, Stage::Held, Stage::Failed][usize::from(stage)];
            let mut copy = copy(stage, NOW);
            copy.seen = Timestamp(NOW.0 - seen * 3_600_000);
            copy.until = Timestamp(NOW.0 - 100 * 3_600_000 + until * 3_600_000);
            job.held.insert(peer(number), copy);
        }
        let facts = facts(job.clone(), &online.into_iter().collect::<Vec<_>>());
        let limits = Limits::default();
        let actions = choose(NOW, &facts, &limits);
        prop_assert_eq!(&actions, &choose(NOW, &facts.clone(), &limits));
        let mut seen = BTreeSet::new();
        for action in &actions {
            match action {
                Action::Ask(_, peer) => {
                    prop_assert!(!job.held.contains_key(peer));
                    prop_assert!(facts.online.get(peer).is_some_and(|free| *free >= job.bytes));
                    prop_assert!(seen.insert(peer));
                }
                Action::Forget(_, peer) => {
                    prop_assert!(job.held.contains_key(peer));
                    prop_assert!(!counts(&job.held[peer], NOW, &limits));
                }
                Action::Poll(_, peer) | Action::Renew(_, peer) | Action::Audit(_, peer) | Action::Release(_, peer) => {
                    prop_assert!(facts.online.contains_key(peer) && job.held.contains_key(peer));
                }
            }
        }
    }
}
