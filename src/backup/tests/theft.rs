//! Somebody has copied the machine's keys, and writes heads and logs in its name.

use super::*;
use crate::head::{HeadEntry, HeadRecord, MAX_SKEW_MS, sealing_key};

impl Node {
    /// Signs an entry as the thief, which this node takes, as any other would.
    async fn forge(&self, sequence: u64, log: &Link) {
        let entry = HeadEntry::sign(
            self.member.owner().as_bytes(),
            self.member.machine().signing_key(),
            self.member.certificate(),
            sequence,
            0,
            log,
            &sealing_key(self.member.backup_root().as_bytes()),
        );
        let heads = self.depot().net().heads();
        heads.keep(HeadRecord::new(entry)).await.expect("it holds");
    }

    /// Puts a log that the thief has made up.
    async fn put_log(&self, log: &Log) -> Link {
        let context = self.archive.access().context();
        let sealed = seal(context, &log.encode().expect("small")).expect("it fits");
        let stored = self
            .store()
            .put(std::slice::from_ref(&sealed.block), Keep::Cached);
        stored.expect("room");
        Link {
            id: sealed.block.id(),
            key: sealed.key,
        }
    }

    async fn listed(&self) -> BTreeSet<BlockId> {
        let log = self.log().await;
        log.snapshots().iter().map(|one| one.snapshot.id).collect()
    }
}

fn nowhere(n: u8) -> Link {
    Link {
        id: BlockId::from_sha384([n; 48]),
        key: crate::crypto::key::Key::new([n; 32]),
    }
}

#[tokio::test]
async fn backups_go_on_whatever_is_signed_in_the_machines_name() {
    let node = Node::new().await;
    let mut made = vec![node.back_up(files(1, 3, 0)).await.id()];
    // More of them than a log mentions, and up to the highest sequence that is taken.
    for n in 0..20 {
        let sequence = match n {
            19 => MAX_SKEW_MS,
            n => 1000 * (u64::from(n) + 1),
        };
        node.forge(sequence, &nowhere(n)).await;
        made.push(node.back_up(files(u64::from(n) + 2, 2, 0)).await.id());
        assert_eq!(node.listed().await, made.iter().copied().collect(), "{n}");
    }
    // A log that can be read and leaves out what there is.
    let empty = Log::new(node.machine(), "desk".to_owned());
    let link = node.put_log(&empty).await;
    node.forge(MAX_SKEW_MS, &link).await;
    made.push(node.back_up(files(90, 2, 0)).await.id());
    assert_eq!(node.listed().await, made.iter().copied().collect());
    node.change(|_| Ok(())).await;
    assert_eq!(node.listed().await, made.iter().copied().collect());
}

#[tokio::test]
async fn what_a_newer_log_leaves_out_is_found_by_looking_back() {
    let node = Node::new().await;
    let made = [
        node.back_up(files(1, 3, 0)).await.id(),
        node.back_up(files(2, 3, 0)).await.id(),
    ];
    let empty = Log::new(node.machine(), "desk".to_owned());
    let link = node.put_log(&empty).await;
    node.forge(1000, &link).await;
    let ids = |catalog: &crate::backup::Catalog| -> Vec<BlockId> {
        let listed = catalog.snapshots().iter();
        listed.map(|one| one.logged.snapshot.id).collect()
    };
    // The machine itself knows what it wrote.
    let own = node.archive.find(Search::Here, Duration::ZERO).await;
    assert_eq!(ids(&own.expect("it finds").catalog), made);
    let stranger = Archive::new(
        node.depot().clone(),
        Access::from(&node.member),
        Arc::new(ManualClock::default()),
        None,
    );
    let find = async || {
        let found = stranger.find(Search::Here, Duration::ZERO).await;
        found.expect("it finds")
    };
    // Nothing else is known: then it counts as found.
    let mut found = find().await;
    assert_eq!(ids(&found.catalog), []);
    stranger
        .look_back(&mut found, Duration::ZERO)
        .await
        .expect("it looks");
    assert_eq!(ids(&found.catalog), made);
    // A log that leads nowhere is passed over, and that is said.
    node.forge(2000, &nowhere(7)).await;
    node.forge(3000, &nowhere(8)).await;
    let mut found = find().await;
    assert_eq!((found.logs.len(), found.unread.len()), (0, 1));
    stranger
        .look_back(&mut found, Duration::from_secs(5))
        .await
        .expect("it looks");
    assert!(
        found.notes[0].contains("can't be read"),
        "{:?}",
        found.notes
    );
    assert_eq!(ids(&found.catalog), made, "the log after that is empty");
}
