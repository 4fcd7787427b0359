//! A machine is turned out: what it signs counts no more, what comes later is sealed from it, and
//! the words open everything.

use super::*;
use crate::backup::present_key;
use crate::head::{HeadEntry, HeadRecord};

/// A desktop and a laptop of one owner, on one store and network.
async fn pair() -> (Node, Node) {
    let desk = Node::new().await;
    let laptop = Membership::create(&keys(0), "laptop").expect("a name");
    let laptop = Node::with(desk.depot().clone(), laptop);
    (desk, laptop)
}

impl Node {
    async fn head(&self) -> HeadRecord {
        let found = self.archive.find(Search::Here, Duration::ZERO).await;
        found.expect("finds").head.expect("there is one")
    }

    /// Types the words here to turn another machine out.
    async fn turn_out(&self, other: &Self) {
        let (head, now) = (self.head().await, Timestamp(9));
        let decisions = keys(0).turn_out(&head, &other.member.machine().id(), now);
        let record = head.decided(&decisions.expect("few"), now);
        self.archive.decide(record).await.expect("it holds");
    }

    /// This machine after it has looked for the keys that were handed over to it.
    fn with_present_key(mut self) -> Self {
        let key = present_key(self.dir.path(), &self.member).expect("reads");
        if let Some(key) = key {
            self.member = self.member.with_generation(key);
            self.archive = archive_of(self.depot(), &self.member, self.dir.path());
        }
        self
    }

    async fn ids(&self) -> BTreeSet<BlockId> {
        ids_of(&self.archive).await
    }
}

async fn ids_of(archive: &Archive) -> BTreeSet<BlockId> {
    let found = archive.find(Search::Here, Duration::ZERO).await;
    let found = found.expect("finds");
    let listed = found.catalog.snapshots().iter();
    listed.map(|one| one.logged.snapshot.id).collect()
}

fn by_words(depot: &Depot) -> Archive {
    let access = Access::from(&keys(0));
    Archive::new(
        depot.clone(),
        access,
        Arc::new(ManualClock::default()),
        None,
    )
}

#[tokio::test]
async fn the_others_go_on_with_keys_that_it_does_not_have_and_the_words_open_all() {
    let (desk, laptop) = pair().await;
    let mut all = BTreeSet::new();
    all.insert(desk.back_up(files(1, 3, 0)).await.id());
    all.insert(laptop.back_up(files(2, 3, 0)).await.id());
    desk.turn_out(&laptop).await;
    // With the keys of before nothing is written, and the present ones are there at the next look.
    let before = desk.archive.change_log(&desk.member, |_| Ok(())).await;
    let is_old = matches!(before, Err(Error::OldKeys { is_granted: true }));
    assert!(is_old, "{before:?}");
    let desk = desk.with_present_key();
    assert_eq!(desk.member.generation().number(), 1);
    let new = desk.back_up(files(3, 3, 0)).await;
    all.insert(new.id());
    desk.assert_reads_back(&new).await;
    assert_eq!(desk.ids().await, all, "what was before is read, too");
    // The laptop still reads its own log, and not what came later.
    let found = laptop.archive.find(Search::Here, Duration::ZERO).await;
    let found = found.expect("finds");
    assert_eq!(found.unread.len(), 1);
    assert_eq!(found.unread[0].0, desk.machine());
    assert_eq!(found.catalog.snapshots().len(), 1);
    // An owner who has nothing but the words reads all of it.
    assert_eq!(ids_of(&by_words(desk.depot())).await, all);
    // A machine that comes later has no keys of now until the words give them to it.
    let late = Membership::create(&keys(0), "late").expect("a name");
    let late = Node::with(desk.depot().clone(), late);
    let refused = late.archive.change_log(&late.member, |_| Ok(())).await;
    let is_old = matches!(refused, Err(Error::OldKeys { is_granted: false }));
    assert!(is_old, "{refused:?}");
    let head = late.head().await;
    let given = keys(0).hand_over(&head, &late.member.machine().id());
    let record = head.decided(&given.expect("few"), Timestamp(10));
    late.archive.decide(record).await.expect("it holds");
    let late = late.with_present_key();
    all.insert(late.back_up(files(4, 3, 0)).await.id());
    assert_eq!(late.ids().await, all);
    assert_eq!(desk.with_present_key().ids().await, all);
    assert!(laptop.with_present_key().member.generation().number() == 0);
}

#[tokio::test]
async fn nothing_counts_that_it_signs_afterwards() {
    let (desk, laptop) = pair().await;
    let mine = desk.back_up(files(1, 3, 0)).await;
    desk.back_up(files(2, 3, 0)).await;
    let its = laptop.back_up(files(3, 3, 0)).await;
    // A request of before counts no more either, nor does what a log of before keeps.
    laptop.forget(mine.id()).await;
    desk.turn_out(&laptop).await;
    let found = desk.archive.find(Search::Here, Duration::ZERO).await;
    assert!(found.expect("finds").fates.asked().is_empty());
    let refused = laptop.archive.change_log(&laptop.member, |_| Ok(())).await;
    assert!(matches!(refused, Err(Error::TurnedOut)), "{refused:?}");
    // A thief needs no program of ours: an entry that leads to an empty log.
    let mut empty = Log::new(laptop.machine(), "laptop".to_owned());
    empty.forget(its.id()).expect("room");
    let context = laptop.archive.access().context();
    let sealed = seal(context, &empty.encode().expect("small")).expect("it fits");
    let stored = laptop
        .store()
        .put(std::slice::from_ref(&sealed.block), Keep::Cached);
    stored.expect("room");
    let link = Link {
        id: sealed.block.id(),
        key: sealed.key,
    };
    let root = laptop.member.backup_root().as_bytes();
    for sequence in [2, 3, 1_000] {
        let entry = HeadEntry::sign(
            laptop.member.owner().as_bytes(),
            laptop.member.machine().signing_key(),
            laptop.member.certificate(),
            sequence,
            0,
            &link,
            &crate::head::sealing_key(root),
        );
        let record = HeadRecord::new(entry);
        let kept = desk.depot().net().heads().keep(record).await;
        let kept = kept.expect("what counts of it is known");
        let newest = kept.entry(&laptop.machine()).expect("the one of before");
        assert_ne!(newest.log_id(), link.id);
    }
    let desk = desk.with_present_key();
    assert!(
        desk.ids().await.contains(&its.id()),
        "what it made before stays"
    );
    desk.assert_reads_back(&its).await;
}
