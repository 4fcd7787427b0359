//! Policy of the blocks that the DHT hears of.
//!
//! Each block that is here is of one class, by why it is here, and each class has its answer in the
//! settings. **Blocks that only a backup needs are not announced**, whatever the settings say:
//! their owner's machines and those who keep copies know each other, and a stranger who looks at
//! the DHT is not to see who backs up to whom. [`Policy::allows`] is where that is decided, and the
//! names of the pins that count as those of backups are given by the node; the logs that a head
//! names count as a backup's, too. Blocks that are kept for owners are needed by backups alone:
//! they are announced only where somebody says so.
//!
//! Deliberately absent: when blocks are announced, and head records.

use std::collections::{HashMap, HashSet};

use crate::config::{AnnouncePolicy, Config};
use crate::id::BlockId;
use crate::store::{self, PinId, Store, Why};

use super::super::heads::{MAX_PINNED_LOGS, is_head_pin, is_head_pin_name, leased_logs};

/// Answers for the classes that have one in the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Blocks that a pin keeps which is not of a backup.
    pub pinned: AnnouncePolicy,
    /// Blocks that are kept for owners.
    pub leased: AnnouncePolicy,
    /// Blocks that may be evicted.
    pub cached: AnnouncePolicy,
}

impl Policy {
    /// That of the settings. `announce` is a bound for all classes.
    pub fn of(config: &Config) -> Self {
        let bound = |class: AnnouncePolicy| class.and(config.announce);
        Self {
            pinned: bound(config.announce_pinned),
            leased: bound(config.announce_leased),
            cached: bound(config.announce_cached),
        }
    }

    /// That of a node that leaves: it announces only what is its own.
    pub(super) fn of_leaving(self) -> Self {
        Self {
            pinned: self.pinned.and(AnnouncePolicy::Roots),
            leased: AnnouncePolicy::None,
            cached: AnnouncePolicy::None,
        }
    }

    /// Whether nothing is announced at all.
    pub(super) fn is_off(self) -> bool {
        self == Self {
            pinned: AnnouncePolicy::None,
            leased: AnnouncePolicy::None,
            cached: AnnouncePolicy::None,
        }
    }

    /// Whether a block is announced. `is_root`: whether it is one of what somebody starts from.
    fn allows(self, why: Why, is_root: bool) -> bool {
        let class = match why {
            Why::Pinned => self.pinned,
            // What only a backup needs: nobody looks for it in the DHT.
            Why::Backup => AnnouncePolicy::None,
            Why::Leased => self.leased,
            Why::Cached => self.cached,
        };
        match class {
            AnnouncePolicy::All => true,
            AnnouncePolicy::Roots => is_root,
            AnnouncePolicy::None => false,
        }
    }

    fn asks_for_roots(self) -> bool {
        [self.pinned, self.leased, self.cached].contains(&AnnouncePolicy::Roots)
    }
}

/// Chooses the blocks that are announced, in one round.
pub(in crate::upkeep) struct Choice<'a> {
    store: &'a dyn Store,
    policy: Policy,
    /// Names of the pins of backups.
    backups: &'a [&'a str],
    /// Pins that were looked at; there are as many as the store takes at most.
    pins: HashMap<PinId, bool>,
    roots: HashSet<BlockId>,
}

impl<'a> Choice<'a> {
    pub(in crate::upkeep) fn new(
        store: &'a dyn Store,
        policy: Policy,
        backups: &'a [&'a str],
    ) -> Result<Self, store::Error> {
        let mut roots = HashSet::new();
        if policy.asks_for_roots() {
            roots.extend(own_roots(store)?);
            // Logs of those whose backups are kept here.
            roots.extend(leased_logs(store)?);
        }
        Ok(Self {
            store,
            policy,
            backups,
            pins: HashMap::new(),
            roots,
        })
    }

    /// Whether a block is here and to be announced.
    pub(in crate::upkeep) fn takes(&mut self, id: BlockId) -> Result<bool, store::Error> {
        let (store, backups, pins) = (self.store, self.backups, &mut self.pins);
        let mut failed = None;
        let mut is_backup = |pin: PinId| {
            if let Some(known) = pins.get(&pin) {
                return *known;
            }
            match store.pin_name(pin) {
                Ok(name) => {
                    let name = name.unwrap_or_default();
                    let is_one = backups.contains(&name.as_str()) || is_head_pin_name(&name);
                    pins.insert(pin, is_one);
                    is_one
                }
                Err(error) => {
                    failed = Some(error);
                    true
                }
            }
        };
        let why = store.why(id, &mut is_backup)?;
        if let Some(error) = failed {
            return Err(error);
        }
        Ok(why.is_some_and(|why| self.policy.allows(why, self.roots.contains(&id))))
    }
}

/// Starting points: the roots of pinned bundles, and the logs that heads name.
pub(super) fn own_roots(store: &dyn Store) -> Result<Vec<BlockId>, store::Error> {
    let mut roots = Vec::new();
    for (pin, info) in store.pins()? {
        if is_head_pin(&info) {
            roots.extend(store.pin_blocks(pin, None, MAX_PINNED_LOGS)?);
        } else {
            roots.push(info.root);
        }
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Block;
    use crate::store::{Keep, LeaseInfo, MemoryStore, PinInfo, StoreOptions};
    use crate::time::Timestamp;
    use crate::upkeep::heads::pin_name;

    fn block(n: u8) -> Block {
        Block::new(vec![n; 10].into()).expect("a block")
    }

    fn pin(store: &MemoryStore, name: &str, root: BlockId, blocks: &[Block]) -> PinId {
        let pin = store.begin_pin(name).expect("room");
        store.put(blocks, Keep::Pinned(pin)).expect("room");
        let info = PinInfo {
            root,
            link: None,
            name: name.to_owned(),
            bytes: 10,
            files: 0,
            blocks: 1,
            created: Timestamp(1),
        };
        store.finish_pin(pin, &info).expect("room");
        pin
    }

    #[test]
    fn the_logs_of_heads_are_roots_and_their_keys_are_not() {
        let store = MemoryStore::new(StoreOptions::default());
        let (bundle, log) = (block(1), block(2));
        let head = BlockId::from_sha384([3; 48]);
        pin(&store, "notes", bundle.id(), std::slice::from_ref(&bundle));
        pin(&store, &pin_name(&head), head, std::slice::from_ref(&log));
        let roots = own_roots(&store).expect("readable");
        assert_eq!(roots, [bundle.id(), log.id()]);
    }

    #[test]
    fn each_class_has_its_answer_and_blocks_of_backups_alone_have_none() {
        use AnnouncePolicy::{All, None, Roots};
        let store = MemoryStore::new(StoreOptions::default());
        let [root, part, saved, shared, leased, cached] = [1, 2, 3, 4, 5, 6].map(block);
        let put = pin(&store, "a put", root.id(), &[root.clone(), part.clone()]);
        pin(
            &store,
            "backup",
            saved.id(),
            &[saved.clone(), shared.clone()],
        );
        store.add_refs(put, &[shared.id()]).expect("it is here");
        let others = [leased.clone(), cached.clone()];
        store.put(&others, Keep::Cached).expect("room");
        let info = LeaseInfo {
            root: leased.id(),
            terms: bytes::Bytes::new(),
            until: Timestamp(1),
            blocks: 1,
            bytes: 10,
            complete: true,
        };
        let lease = store.begin_lease(&info).expect("room");
        store.add_lease_refs(lease, &[leased.id()]).expect("here");
        // A backup that is under way.
        let open = store.begin_pin("backup").expect("room");
        let running = block(7);
        let put = store.put(std::slice::from_ref(&running), Keep::Pinned(open));
        put.expect("room");
        let all = [&root, &part, &saved, &shared, &leased, &cached, &running];
        let announced = |pinned, leased, cached| -> String {
            let policy = Policy {
                pinned,
                leased,
                cached,
            };
            let mut choice = Choice::new(&store, policy, &["backup"]).expect("readable");
            let taken = all.map(|block| choice.takes(block.id()).expect("readable"));
            taken
                .map(|taken| if taken { '1' } else { '0' })
                .iter()
                .collect()
        };
        assert_eq!(announced(All, All, All), "1101110");
        assert_eq!(announced(Roots, All, None), "1000100");
        assert_eq!(announced(None, None, All), "0000010");
        assert_eq!(announced(Roots, Roots, Roots), "1000000");
        let mut choice = Choice::new(&store, Policy::of(&Config::default()), &[]).expect("reads");
        assert!(
            !choice.takes(block(9).id()).expect("reads"),
            "it is not here"
        );
    }

    /// The attack: who announces the log that a head names is a keeper of that head.
    #[test]
    fn logs_of_heads_and_what_is_kept_for_owners_are_announced_to_nobody() {
        let store = MemoryStore::new(StoreOptions::default());
        let (log, leased) = (block(2), block(3));
        let head = BlockId::from_sha384([3; 48]);
        pin(&store, &pin_name(&head), head, std::slice::from_ref(&log));
        let put = store.put(std::slice::from_ref(&leased), Keep::Cached);
        put.expect("room");
        let info = LeaseInfo {
            root: leased.id(),
            terms: bytes::Bytes::new(),
            until: Timestamp(1),
            blocks: 1,
            bytes: 10,
            complete: true,
        };
        let lease = store.begin_lease(&info).expect("room");
        store.add_lease_refs(lease, &[leased.id()]).expect("here");
        let policy = Policy::of(&Config::default());
        let mut choice = Choice::new(&store, policy, &["backup"]).expect("readable");
        assert!(!choice.takes(log.id()).expect("readable"));
        assert!(!choice.takes(leased.id()).expect("readable"));
        // A bundle may be called so.
        pin(
            &store,
            "head of state",
            log.id(),
            std::slice::from_ref(&log),
        );
        assert!(choice.takes(log.id()).expect("readable"));
    }

    #[test]
    fn the_setting_for_all_is_a_bound() {
        let mut config = Config::default();
        config.set("announce", "roots").expect("valid");
        let policy = Policy::of(&config);
        assert_eq!(policy.pinned, AnnouncePolicy::Roots);
        assert_eq!(policy.cached, AnnouncePolicy::Roots);
        config.set("announce", "none").expect("valid");
        assert!(Policy::of(&config).is_off());
        config.set("announce", "all").expect("valid");
        config.set("announce_pinned", "none").expect("valid");
        assert_eq!(Policy::of(&config).pinned, AnnouncePolicy::None);
        assert!(!Policy::of(&config).is_off());
    }
}
