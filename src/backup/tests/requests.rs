//! Requests of other machines to forget, taken back, kept, ordered, and carried out, on real
//! stores.

use jiff::tz::TimeZone;

use super::prune::prune_on;
use super::*;
use crate::backup::Order;
use crate::backup::fate::{Hold, NOTICE_DAYS};
use crate::backup::forget::{ForgetOptions, Forgot, forget, obey};
use crate::backup::unforget::unforget;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A desktop, and a laptop of the same owner that sees the same store and network.
struct Pair {
    desk: Node,
    laptop: Node,
    clock: Arc<ManualClock>,
}

impl Pair {
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::default());
        clock.advance(DAY * 20_000);
        let mut desk = Node::new().await;
        let laptop = Membership::create(&keys(0), "laptop").expect("a name");
        let mut laptop = Node::with(desk.depot().clone(), laptop);
        for node in [&mut desk, &mut laptop] {
            let home = Some(Arc::new(Home::new(node.dir.path())));
            let access = Access::from(&node.member);
            node.archive = Archive::new(node.depot().clone(), access, clock.clone(), home);
        }
        Self {
            desk,
            laptop,
            clock,
        }
    }

    /// Days pass, on each of which the desktop looks and prunes.
    async fn pass(&self, days: u32) {
        for _ in 0..days {
            self.clock.advance(DAY);
            prune_on(&self.desk).await;
        }
    }
}

async fn listed(node: &Node) -> BTreeSet<BlockId> {
    let found = node.archive.find(Search::Here, Duration::ZERO).await;
    let found = found.expect("finds");
    let snapshots = found.catalog.snapshots().iter();
    snapshots.map(|listed| listed.logged.snapshot.id).collect()
}

async fn forget_by_name(node: &Node, made: &Made) -> Forgot {
    let options = ForgetOptions {
        names: vec![made.id().to_hex()],
        ..ForgetOptions::default()
    };
    let forgot = forget(&node.archive, &node.member, &options, &TimeZone::UTC).await;
    forgot.expect("it forgets")
}

async fn holds(node: &Node) -> Vec<Option<Hold>> {
    let found = node.archive.find(Search::Here, Duration::ZERO).await;
    let found = found.expect("finds");
    let asked = found.fates.asked().iter();
    asked.map(|asked| asked.hold).collect()
}

async fn take_back(node: &Node, made: &Made) -> Result<(), Error> {
    let (archive, member, dir) = (&node.archive, &node.member, node.dir.path());
    let back = unforget(archive, member, &[made.id().to_hex()], dir).await?;
    assert_eq!(back[0].logged.snapshot.id, made.id());
    Ok(())
}

fn order(forgets: bool, of: &[&Made], made: u64) -> Order {
    let ids = of.iter().map(|made| made.id()).collect();
    Order::sign(&keys(0), forgets, ids, Timestamp(made)).expect("not too many")
}

#[tokio::test]
async fn another_machine_s_word_lets_nothing_go_before_its_notice_is_over() {
    let pair = Pair::new().await;
    let old = pair.desk.back_up(files(1, 5, 0)).await;
    let new = pair.desk.back_up(files(2, 5, 0)).await;
    // By the command, and by a log that a thief writes.
    let forgot = forget_by_name(&pair.laptop, &old).await;
    assert_eq!((forgot.forgotten.len(), forgot.asked.len()), (0, 1));
    pair.laptop.forget(new.id()).await;
    for _ in 0..2 {
        assert_eq!(prune_on(&pair.desk).await.snapshots, 0);
        assert_eq!(prune_on(&pair.laptop).await.snapshots, 0);
    }
    assert_eq!(listed(&pair.desk).await, [old.id(), new.id()].into());
    pair.pass(NOTICE_DAYS - 1).await;
    for made in [&old, &new] {
        pair.desk.assert_reads_back(made).await;
    }
    let mut expected = vec![Some(Hold::Notice(1)), Some(Hold::Newest)];
    let mut found = holds(&pair.desk).await;
    let key = |hold: &Option<Hold>| format!("{hold:?}");
    expected.sort_by_key(key);
    found.sort_by_key(key);
    assert_eq!(found, expected);
    pair.pass(1).await;
    assert!(!pair.desk.has(old.id()), "the notice is over");
    pair.pass(2 * NOTICE_DAYS).await;
    // The newest of a set never goes by another's word.
    pair.desk.assert_reads_back(&new).await;
    assert_eq!(listed(&pair.desk).await, [new.id()].into());
    assert!(!pair.desk.log().await.forgets(&old.id()), "it is settled");
    prune_on(&pair.laptop).await;
    assert!(!pair.laptop.log().await.forgets(&old.id()));
}

#[tokio::test]
async fn what_a_machine_keeps_stays_for_ever_and_what_it_forgets_comes_back_until_it_is_pruned() {
    let pair = Pair::new().await;
    let (old, new) = (
        pair.desk.back_up(files(1, 5, 0)).await,
        pair.desk.back_up(files(2, 5, 0)).await,
    );
    forget_by_name(&pair.laptop, &old).await;
    take_back(&pair.desk, &old).await.expect("it is asked for");
    pair.pass(2 * NOTICE_DAYS).await;
    pair.desk.assert_reads_back(&old).await;
    assert_eq!(holds(&pair.desk).await, [Some(Hold::Kept)]);
    // The machine that asks takes it back; a machine may forget what it kept.
    take_back(&pair.laptop, &old).await.expect("it asked");
    assert!(holds(&pair.desk).await.is_empty());
    let before = pair.desk.log().await;
    let forgot = forget_by_name(&pair.desk, &old).await;
    assert_eq!((forgot.forgotten.len(), forgot.asked.len()), (1, 0));
    assert_eq!(listed(&pair.desk).await, [new.id()].into());
    // Nobody else takes that back.
    let refused = take_back(&pair.laptop, &old).await;
    assert!(matches!(refused, Err(Error::NotOurs { .. })), "{refused:?}");
    take_back(&pair.desk, &old).await.expect("not pruned yet");
    assert_eq!(pair.desk.log().await.snapshots(), before.snapshots());
    forget_by_name(&pair.desk, &old).await;
    prune_on(&pair.desk).await;
    let refused = take_back(&pair.desk, &old).await;
    let is_gone = matches!(refused, Err(Error::NotForgotten { .. }));
    assert!(is_gone, "{refused:?}");
    pair.desk.assert_reads_back(&new).await;
}

#[tokio::test]
async fn the_words_decide_at_once_and_nobody_else_signs_for_them() {
    let pair = Pair::new().await;
    let (old, new) = (
        pair.desk.back_up(files(1, 5, 0)).await,
        pair.desk.back_up(files(2, 5, 0)).await,
    );
    let (laptop, desk) = (&pair.laptop, &pair.desk);
    // Another owner's words; the order is in the log all the same, as a thief would have it.
    let forged = Order::sign(&keys(1), true, vec![old.id(), new.id()], Timestamp(9));
    let forged = forged.expect("not too many");
    let refused = obey(&laptop.archive, &laptop.member, forged.clone()).await;
    assert!(matches!(refused, Err(Error::OtherWords)));
    laptop.change(move |log| log.carry(forged)).await;
    pair.pass(2 * NOTICE_DAYS).await;
    assert_eq!(listed(desk).await, [old.id(), new.id()].into());
    // The words keep both, against every machine.
    let keep = order(false, &[&old, &new], 5);
    obey(&laptop.archive, &laptop.member, keep)
        .await
        .expect("ours");
    laptop.forget(old.id()).await;
    pair.pass(2 * NOTICE_DAYS).await;
    assert_eq!(holds(desk).await, [Some(Hold::Ordered)]);
    // An older order changes nothing, a later one does, also for the newest.
    let older = order(true, &[&old], 4);
    laptop.change(move |log| log.carry(older)).await;
    assert_eq!(listed(desk).await.len(), 2);
    let go = order(true, &[&old, &new], 6);
    let concerned = obey(&laptop.archive, &laptop.member, go).await;
    assert_eq!(concerned.expect("ours").len(), 2);
    assert!(listed(desk).await.is_empty());
    // Until it is pruned, still later words bring one back.
    let back = order(false, &[&new], 7);
    obey(&desk.archive, &desk.member, back).await.expect("ours");
    assert_eq!(prune_on(desk).await.snapshots, 1);
    assert!(!desk.has(old.id()));
    desk.assert_reads_back(&new).await;
    assert_eq!(listed(desk).await, [new.id()].into());
}

/// The attack: a copy of a machine's key forgets what that machine made.
#[tokio::test]
async fn the_words_bring_back_what_its_own_machine_forgot() {
    let pair = Pair::new().await;
    let made = pair.desk.back_up(files(1, 5, 0)).await;
    pair.desk.forget(made.id()).await;
    assert!(listed(&pair.laptop).await.is_empty());
    let keep = order(false, &[&made], 5);
    let kept = obey(&pair.laptop.archive, &pair.laptop.member, keep).await;
    assert_eq!(kept.expect("ours").len(), 1);
    for node in [&pair.laptop, &pair.desk] {
        assert_eq!(listed(node).await, [made.id()].into());
    }
    // The machine's own word does nothing against it: not of a log, and not by the command.
    pair.desk.forget(made.id()).await;
    assert_eq!(prune_on(&pair.desk).await.snapshots, 0);
    pair.desk.assert_reads_back(&made).await;
    let options = ForgetOptions {
        names: vec![made.id().to_hex()],
        ..ForgetOptions::default()
    };
    let desk = &pair.desk;
    let refused = forget(&desk.archive, &desk.member, &options, &TimeZone::UTC).await;
    assert!(matches!(refused, Err(Error::NotOurs { .. })), "{refused:?}");
    let go = order(true, &[&made], 6);
    obey(&desk.archive, &desk.member, go).await.expect("ours");
    assert!(listed(desk).await.is_empty());
}

/// The attack: who has copied a data directory forgets in its machine's name.
#[tokio::test]
async fn what_a_copy_of_the_data_directory_forgets_stays_and_is_told() {
    let node = Node::new().await;
    let made = node.back_up(files(1, 5, 0)).await;
    let thief = node.twin(memory()).await;
    thief.forget(made.id()).await;
    assert!(listed(&thief).await.is_empty());
    // The thief's head and log come to the machine.
    for (_, info) in thief.store().pins().expect("reads") {
        let block = thief.store().get(info.root).expect("reads");
        let put = node.store().put(&[block.expect("is here")], Keep::Cached);
        put.expect("fits");
    }
    let head = thief.archive.local_head().await.expect("reads");
    let heads = node.depot().net().heads();
    heads.keep(head.expect("there")).await.expect("kept");

    let twin = node.dir.path().join(crate::backup::TWIN_FILE);
    assert!(!twin.exists());
    assert_eq!(listed(&node).await, [made.id()].into());
    assert_eq!(prune_on(&node).await.snapshots, 0);
    node.assert_reads_back(&made).await;
    let next = node.back_up(files(2, 5, 0)).await;
    assert_eq!(listed(&node).await, [made.id(), next.id()].into());
    assert!(!node.log().await.forgets(&made.id()));
    assert!(twin.exists(), "it stays known after the next backup");
}

/// A thief claims another machine's snapshots as its own and forgets them.
#[tokio::test]
async fn to_name_a_snapshot_is_not_to_have_made_it() {
    let pair = Pair::new().await;
    let old = pair.desk.back_up(files(1, 5, 0)).await;
    let new = pair.desk.back_up(files(2, 5, 0)).await;
    let named = pair.desk.log().await.snapshots().to_vec();
    for logged in named {
        pair.laptop.change(move |log| log.add(logged)).await;
    }
    assert_eq!(prune_on(&pair.desk).await.snapshots, 0);
    for made in [&old, &new] {
        pair.laptop.forget(made.id()).await;
    }
    assert_eq!(prune_on(&pair.desk).await.snapshots, 0);
    assert_eq!(prune_on(&pair.laptop).await.snapshots, 0);
    assert_eq!(listed(&pair.desk).await, [old.id(), new.id()].into());
    for made in [&old, &new] {
        pair.desk.assert_reads_back(made).await;
    }
}

/// Thieves name a snapshot with keys that don't open it, so that nobody restores it.
#[tokio::test]
async fn a_snapshot_is_named_by_who_made_it() {
    let pair = Pair::new().await;
    let made = pair.desk.back_up(files(1, 5, 0)).await;
    let named = pair.desk.log().await.snapshots()[0].clone();
    for n in 0..6 {
        let thief = Membership::create(&keys(0), "thief").expect("a name");
        let thief = Node::with(pair.desk.depot().clone(), thief);
        let mut false_one = named.clone();
        false_one.snapshot.key = crate::crypto::key::Key::new([n; 32]);
        thief.change(move |log| log.add(false_one)).await;
    }
    let found = pair.desk.archive.find(Search::Here, Duration::ZERO).await;
    let found = found.expect("finds");
    let listed = found.catalog.find(&made.id().to_hex()).expect("one");
    assert_eq!(listed.logged.snapshot, made.link);
    assert_eq!(listed.machine, pair.desk.machine());
}

/// The machine's own clock is years ahead for a moment, which ends no notice.
#[tokio::test]
async fn a_clock_that_was_wrong_ends_no_notice() {
    let pair = Pair::new().await;
    let old = pair.desk.back_up(files(1, 5, 0)).await;
    pair.desk.back_up(files(2, 5, 0)).await;
    pair.laptop.forget(old.id()).await;
    prune_on(&pair.desk).await;
    pair.clock.advance(DAY * 9_000);
    for _ in 0..3 {
        assert_eq!(prune_on(&pair.desk).await.snapshots, 0);
    }
    pair.desk.assert_reads_back(&old).await;
    // Days that are noted outlive the process.
    pair.pass(5).await;
    let home = Some(Arc::new(Home::new(pair.desk.dir.path())));
    let access = Access::from(&pair.desk.member);
    let depot = pair.desk.depot().clone();
    let again = Archive::new(depot, access, pair.clock.clone(), home);
    let found = again.find(Search::Here, Duration::ZERO).await;
    let found = found.expect("finds");
    let hold = found.fates.asked()[0].hold;
    assert_eq!(hold, Some(Hold::Notice(NOTICE_DAYS - 7 - 5)));
}

/// A log that can't be read may say that a snapshot stays.
#[tokio::test]
async fn no_request_is_carried_out_while_a_log_is_missing() {
    let pair = Pair::new().await;
    let old = pair.desk.back_up(files(1, 5, 0)).await;
    pair.desk.back_up(files(2, 5, 0)).await;
    let third = Membership::create(&keys(0), "third").expect("a name");
    let third = Node::with(pair.desk.depot().clone(), third);
    let far = third.back_up(files(3, 5, 0)).await;
    pair.laptop.forget(old.id()).await;
    prune_on(&pair.desk).await;
    let found = pair.desk.archive.find(Search::Here, Duration::ZERO).await;
    let head = found.expect("finds").head.expect("there is one");
    let log = head.entry(&third.machine()).expect("it has one").log_id();
    pair.desk
        .store()
        .remove_pin(far.pin)
        .expect("as if elsewhere");
    pair.desk.store().discard(log).expect("drops");
    pair.pass(2 * NOTICE_DAYS).await;
    assert_eq!(holds(&pair.desk).await, [Some(Hold::Unread)]);
    pair.desk.assert_reads_back(&old).await;
}
