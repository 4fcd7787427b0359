//! A machine's log: its snapshots, and those that it forgets. One block a machine, written anew at each change.
//!
//! ```text
//! plaintext = "LNBACKLG" | version (1 byte) | protobuf Log
//! ```
//!
//! Snapshots of an owner are the union of all logs' snapshots ([`Catalog`](super::Catalog)). A
//! machine forgets its own; that it forgets another machine's is a request, and what comes of it is
//! decided elsewhere ([`Fates`](super::Fates)). A log also carries orders of the owner's words
//! ([`Order`]), which any machine may pass on and none can make.
//!
//! Which snapshot of a machine is the newer one is what its log says ([`Logged::sequence`]), never
//! what its clock said: a clock that was years ahead for one run would hide every later run.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::error::Error;
use super::order::Order;
use super::snapshot::{
    Summary, decode_block, encode_block, link_from_wire, link_to_wire, name, public_key,
};
use crate::block::Link;
use crate::id::BlockId;
use crate::wire::backup as wire;

const MAGIC: &[u8; 8] = b"LNBACKLG";
const VERSION: u8 = 2;
/// Most snapshots in one log. A thousand take about 200 KiB.
pub const MAX_SNAPSHOTS: usize = 4096;
/// Most snapshots that one log forgets.
pub const MAX_FORGOTTEN: usize = 8192;
/// Most snapshots that one log keeps against the requests of other machines.
pub const MAX_KEPT: usize = 8192;
/// Most orders of the owner's that one log carries.
pub const MAX_ORDERS: usize = 256;
/// Most earlier logs that one log mentions.
pub const MAX_EARLIER: usize = 8;
/// Largest log in bytes, well below what fits a block.
pub const MAX_LOG_BYTES: usize = 1_900_000;

/// A snapshot in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// The snapshot's block.
    pub snapshot: Link,
    /// What lists show of it.
    pub summary: Summary,
    /// Number of the log in which it was first named; later snapshots have larger ones. 0: it is
    /// older than all that have a number.
    pub sequence: u64,
}

/// What one machine says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The machine's public key.
    pub machine: [u8; 32],
    /// Its name.
    pub machine_name: String,
    snapshots: Vec<Logged>,
    /// Ids that are forgotten; an own one with its snapshot as it was, as long as it can be had
    /// back.
    forgotten: BTreeMap<BlockId, Option<Logged>>,
    kept: BTreeSet<BlockId>,
    orders: Vec<Order>,
    earlier: Vec<Link>,
}

impl Log {
    /// The log of a machine that has said nothing yet.
    pub fn new(machine: [u8; 32], machine_name: String) -> Self {
        Self {
            machine,
            machine_name,
            snapshots: Vec::new(),
            forgotten: BTreeMap::new(),
            kept: BTreeSet::new(),
            orders: Vec::new(),
            earlier: Vec::new(),
        }
    }

    /// Logs of the same machine that could not be read when this one was written. What they say still counts.
    pub fn earlier(&self) -> &[Link] {
        &self.earlier
    }

    /// Mentions a log that can't be read now, in place of what it says.
    ///
    /// # Errors
    /// [`Error::LogFull`].
    pub fn follow(&mut self, earlier: Link) -> Result<(), Error> {
        if self.earlier.len() >= MAX_EARLIER {
            return Err(Error::LogFull);
        }
        self.earlier.push(earlier);
        Ok(())
    }

    /// The machine's snapshots, in the order of what its clock said.
    pub fn snapshots(&self) -> &[Logged] {
        &self.snapshots
    }

    /// Ids of what the machine forgets of its own, or asks to forget of others.
    pub fn forgotten(&self) -> impl Iterator<Item = &BlockId> {
        self.forgotten.keys()
    }

    /// Own snapshots that the machine forgets, as they were.
    pub fn forgotten_snapshots(&self) -> impl Iterator<Item = &Logged> {
        self.forgotten.values().flatten()
    }

    /// Whether the machine forgets a snapshot, or asks to forget it.
    pub fn forgets(&self, id: &BlockId) -> bool {
        self.forgotten.contains_key(id)
    }

    /// Snapshots that are to stay whatever another machine asks.
    pub const fn kept(&self) -> &BTreeSet<BlockId> {
        &self.kept
    }

    /// Orders of the owner's words. Their signatures are yet to be checked.
    pub fn orders(&self) -> &[Order] {
        &self.orders
    }

    /// Adds a snapshot as it is. One that is there already changes nothing.
    ///
    /// # Errors
    /// [`Error::LogFull`].
    pub fn add(&mut self, logged: Logged) -> Result<(), Error> {
        if self.has(&logged.snapshot.id) {
            return Ok(());
        }
        if self.snapshots.len() >= MAX_SNAPSHOTS {
            return Err(Error::LogFull);
        }
        let order = |logged: &Logged| (logged.summary.started, logged.snapshot.id);
        let at = self
            .snapshots
            .partition_point(|other| order(other) < order(&logged));
        self.snapshots.insert(at, logged);
        Ok(())
    }

    /// Numbers the snapshots that were not there `before` and have no number: this is the log with
    /// this number. What takes the place of a snapshot brings that one's number.
    pub fn number(&mut self, before: &Self, sequence: u64) {
        for logged in &mut self.snapshots {
            if logged.sequence == 0 && !before.has(&logged.snapshot.id) {
                logged.sequence = sequence;
            }
        }
    }

    /// Names those snapshots no more that another machine made: nothing is said of them.
    pub(super) fn disown(&mut self, is_of_another: impl Fn(&BlockId) -> bool) {
        self.snapshots
            .retain(|logged| !is_of_another(&logged.snapshot.id));
    }

    /// Whether the log names a snapshot.
    pub fn has(&self, id: &BlockId) -> bool {
        self.snapshots
            .iter()
            .any(|logged| logged.snapshot.id == *id)
    }

    /// Forgets a snapshot of this machine's, or asks to forget another's. An own snapshot can be
    /// had back until [`settle`](Self::settle) drops its mention.
    ///
    /// # Errors
    /// [`Error::LogFull`].
    pub fn forget(&mut self, id: BlockId) -> Result<(), Error> {
        let at = self.snapshots.iter().position(|l| l.snapshot.id == id);
        let own = at.map(|at| self.snapshots.remove(at));
        let done = self.mention(id, own.clone());
        if let (Err(_), Some(at), Some(own)) = (&done, at, own) {
            self.snapshots.insert(at, own);
        }
        done
    }

    /// Forgets an own snapshot of which another one takes the place: it can't be had back.
    ///
    /// # Errors
    /// [`Error::LogFull`].
    pub fn replace(&mut self, old: BlockId, new: Logged) -> Result<(), Error> {
        self.mention(old, None)?;
        self.forgotten.insert(old, None);
        self.snapshots.retain(|logged| logged.snapshot.id != old);
        self.add(new)
    }

    fn mention(&mut self, id: BlockId, own: Option<Logged>) -> Result<(), Error> {
        if self.forgotten.len() >= MAX_FORGOTTEN && !self.forgets(&id) {
            return Err(Error::LogFull);
        }
        self.kept.remove(&id);
        let mention = self.forgotten.entry(id).or_default();
        *mention = own.or(mention.take());
        Ok(())
    }

    /// Takes back that a snapshot is forgotten; an own one is named again as it was. Returns
    /// whether it was forgotten.
    ///
    /// # Errors
    /// [`Error::LogFull`].
    pub fn unforget(&mut self, id: &BlockId) -> Result<bool, Error> {
        let Some(own) = self.forgotten.remove(id) else {
            return Ok(false);
        };
        own.map_or(Ok(()), |own| self.add(own))?;
        Ok(true)
    }

    /// Keeps a snapshot against the requests of other machines.
    ///
    /// # Errors
    /// [`Error::LogFull`].
    pub fn keep(&mut self, id: BlockId) -> Result<(), Error> {
        if self.kept.len() >= MAX_KEPT && !self.kept.contains(&id) {
            return Err(Error::LogFull);
        }
        self.kept.insert(id);
        Ok(())
    }

    /// Carries an order of the owner's.
    ///
    /// # Errors
    /// [`Error::LogFull`].
    pub fn carry(&mut self, order: Order) -> Result<(), Error> {
        if self.orders.contains(&order) {
            return Ok(());
        }
        if self.orders.len() >= MAX_ORDERS {
            return Err(Error::LogFull);
        }
        self.orders.push(order);
        Ok(())
    }

    /// Drops what is said of snapshots of which nothing needs to be said any more.
    pub fn settle(&mut self, still_needed: impl Fn(&BlockId) -> bool) {
        self.forgotten.retain(|id, _| still_needed(id));
        self.kept.retain(&still_needed);
        self.orders
            .retain(|order| order.ids().iter().any(&still_needed));
    }

    /// Takes the mentions of earlier logs away, to read them.
    pub fn take_earlier(&mut self) -> Vec<Link> {
        std::mem::take(&mut self.earlier)
    }

    /// Takes in what an older or newer log of the same machine says, so that nothing is lost when a machine was set back in time.
    ///
    /// # Errors
    /// [`Error::LogFull`].
    pub fn absorb(&mut self, other: &Self) -> Result<(), Error> {
        for (id, own) in &other.forgotten {
            self.forget(*id)?;
            self.mention(*id, own.clone())?;
        }
        let forgotten = &self.forgotten;
        let kept = other.kept.iter().filter(|id| !forgotten.contains_key(id));
        self.kept.extend(kept);
        for order in &other.orders {
            self.carry(order.clone())?;
        }
        self.earlier.retain(|link| !other.earlier.contains(link));
        for link in &other.earlier {
            // There are not so many unless somebody else writes in this machine's name; the history
            // of the head has them all.
            if self.follow(link.clone()).is_err() {
                tracing::warn!(log = %link.id, "an earlier log is not mentioned: there are too many");
            }
        }
        for logged in &other.snapshots {
            if !self.forgets(&logged.snapshot.id) {
                self.add(logged.clone())?;
            }
        }
        Ok(())
    }

    /// Takes back what this log forgets and none of a machine's `own` logs does: another hand wrote
    /// it in the machine's name.
    ///
    /// # Errors
    /// [`Error::LogFull`].
    pub fn doubt(&mut self, own: &[&Self]) -> Result<(), Error> {
        let is_foreign = |id: &&BlockId| !own.iter().any(|own| own.forgets(id));
        let foreign: Vec<BlockId> = self.forgotten().filter(is_foreign).copied().collect();
        for id in foreign {
            self.unforget(&id)?;
        }
        Ok(())
    }

    /// Whether so many more snapshots fit that a machine need not hurry to forget some.
    pub fn has_room(&self) -> bool {
        let is_short = self.snapshots.len() <= MAX_SNAPSHOTS / 4 * 3;
        is_short
            && self
                .encode()
                .is_ok_and(|bytes| bytes.len() <= MAX_LOG_BYTES / 4 * 3)
    }

    /// The plaintext of the log's block.
    ///
    /// # Errors
    /// [`Error::LogFull`] when it would not fit.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let message = wire::Log {
            machine: self.machine.to_vec().into(),
            machine_name: self.machine_name.clone(),
            snapshots: self.snapshots.iter().map(Logged::to_wire).collect(),
            forgotten: self
                .forgotten
                .iter()
                .map(|(id, own)| wire::Forgotten {
                    id: id.to_multihash().into(),
                    own: own.as_ref().map(Logged::to_wire),
                })
                .collect(),
            kept: self
                .kept
                .iter()
                .map(|id| id.to_multihash().into())
                .collect(),
            orders: self.orders.iter().map(Order::to_wire).collect(),
            earlier: self.earlier.iter().map(link_to_wire).collect(),
        };
        let bytes = encode_block(MAGIC, VERSION, &message);
        if bytes.len() > MAX_LOG_BYTES {
            return Err(Error::LogFull);
        }
        Ok(bytes)
    }

    /// Reads what [`encode`](Self::encode) writes. `id` is the block's, for the error.
    ///
    /// # Errors
    /// [`Error::NotALog`], [`Error::UnknownVersion`], [`Error::Malformed`].
    pub fn decode(id: BlockId, plaintext: &Bytes) -> Result<Self, Error> {
        let message = decode_block(MAGIC, VERSION, id, plaintext, || Error::NotALog { id })?;
        Self::from_wire(message).map_err(|what| Error::Malformed { id, what })
    }

    fn from_wire(message: wire::Log) -> Result<Self, &'static str> {
        if message.snapshots.len() > MAX_SNAPSHOTS || message.forgotten.len() > MAX_FORGOTTEN {
            return Err("it names too many snapshots");
        }
        if message.kept.len() > MAX_KEPT || message.orders.len() > MAX_ORDERS {
            return Err("it keeps too many snapshots");
        }
        if message.earlier.len() > MAX_EARLIER {
            return Err("it follows too many logs");
        }
        let mut log = Self::new(public_key(&message.machine)?, name(message.machine_name)?);
        for logged in message.snapshots {
            log.snapshots.push(Logged::from_wire(logged)?);
        }
        let order = |logged: &Logged| (logged.summary.started, logged.snapshot.id);
        if !log.snapshots.is_sorted_by(|a, b| order(a) < order(b)) {
            return Err("its snapshots are not in order");
        }
        for link in message.earlier {
            log.earlier.push(link_from_wire(Some(link))?);
        }
        let mut last = None;
        for forgotten in message.forgotten {
            let id = id_from_wire(&forgotten.id)?;
            if last.replace(id).is_some_and(|last| last >= id) {
                return Err("what it forgets is not in order");
            }
            let own = forgotten.own.map(Logged::from_wire).transpose()?;
            if own.as_ref().is_some_and(|own| own.snapshot.id != id) {
                return Err("what it forgets is another snapshot than it says");
            }
            log.forgotten.insert(id, own);
        }
        if log.snapshots.iter().any(|l| log.forgets(&l.snapshot.id)) {
            return Err("it names a snapshot that it forgets");
        }
        let mut last = None;
        for id in message.kept {
            let id = id_from_wire(&id)?;
            if last.replace(id).is_some_and(|last| last >= id) {
                return Err("what it keeps is not in order");
            }
            log.kept.insert(id);
        }
        for order in message.orders {
            log.orders.push(Order::from_wire(order)?);
        }
        Ok(log)
    }
}

impl Logged {
    fn to_wire(&self) -> wire::Logged {
        wire::Logged {
            snapshot: Some(link_to_wire(&self.snapshot)),
            summary: Some(self.summary.to_wire()),
            sequence: self.sequence,
        }
    }

    fn from_wire(message: wire::Logged) -> Result<Self, &'static str> {
        Ok(Self {
            snapshot: link_from_wire(message.snapshot)?,
            summary: Summary::from_wire(message.summary.ok_or("a summary is missing")?)?,
            sequence: message.sequence,
        })
    }
}

/// A block's id, as a message has it.
pub(super) fn id_from_wire(bytes: &[u8]) -> Result<BlockId, &'static str> {
    BlockId::from_multihash(bytes).map_err(|_| "a block id of an unknown kind")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::backup::order;
    use crate::backup::snapshot::tests::{link, summary};
    use crate::backup::{Catalog, Fates};
    use crate::time::Timestamp;
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    pub(in crate::backup) fn logged(number: u8) -> Logged {
        Logged {
            snapshot: link(number),
            summary: summary(u64::from(number) * 1000),
            sequence: 0,
        }
    }

    pub(in crate::backup) fn log(machine: u8, snapshots: &[u8]) -> Log {
        let mut log = Log::new([machine; 32], format!("machine {machine}"));
        for number in snapshots {
            log.add(logged(*number)).expect("room");
        }
        log
    }

    fn decode(bytes: &[u8]) -> Result<Log, Error> {
        Log::decode(link(0).id, &Bytes::copy_from_slice(bytes))
    }

    pub(in crate::backup) fn numbers(logs: &[&Log]) -> Vec<u64> {
        let logs: Vec<Log> = logs.iter().map(|log| (*log).clone()).collect();
        let fates = Fates::of_logs(&logs);
        let catalog = Catalog::of(&logs, &fates, Timestamp(u64::MAX));
        let snapshots = catalog.snapshots().iter();
        snapshots
            .map(|l| l.logged.summary.started.0 / 1000)
            .collect()
    }

    /// The bytes of version 2. These never change: a newer form gets another version.
    #[test]
    fn golden_bytes() {
        let mut log = log(7, &[1, 2, 5]);
        log.forget(link(3).id).expect("room");
        log.forget(link(5).id).expect("room");
        log.keep(link(6).id).expect("room");
        let order = order::tests::order(true, &[7, 8], 9);
        log.carry(order).expect("room");
        log.follow(link(4)).expect("room");
        let bytes = log.encode().expect("small");
        assert_eq!(
            HEXLOWER.encode(&bytes),
            include_str!("golden/log_v2.hex").trim()
        );
        assert_eq!(decode(&bytes).expect("its own bytes"), log);
        let mut newer = bytes;
        newer[8] = 9;
        assert!(matches!(
            decode(&newer),
            Err(Error::UnknownVersion { version: 9, .. })
        ));
        newer[8] = 1;
        assert!(matches!(
            decode(&newer),
            Err(Error::UnknownVersion { version: 1, .. })
        ));
        assert!(matches!(
            decode(b"LNSNAPSH\x01"),
            Err(Error::NotALog { .. })
        ));
    }

    /// A program that does not count reads what one that counts has written, and the other way
    /// round.
    #[test]
    fn new_snapshots_are_numbered_once() {
        let mut log = log(7, &[1]);
        let before = log.clone();
        log.add(logged(2)).expect("room");
        log.add(Logged {
            sequence: 3,
            ..logged(3)
        })
        .expect("room");
        log.number(&before, 5);
        let numbers = |log: &Log| -> Vec<u64> {
            log.snapshots()
                .iter()
                .map(|logged| logged.sequence)
                .collect()
        };
        assert_eq!(
            numbers(&log),
            [0, 5, 3],
            "the old one has none, and a number stays"
        );
        let before = log.clone();
        log.number(&before, 6);
        assert_eq!(numbers(&log), [0, 5, 3]);
        let bytes = log.encode().expect("small");
        assert_eq!(decode(&bytes).expect("its own bytes"), log);
    }

    /// An own snapshot comes back as it was, a mention of another's goes, and what was replaced is
    /// gone.
    #[test]
    fn forgetting_is_taken_back() {
        let mut log = log(1, &[1, 2, 3]);
        let before = log.clone();
        log.forget(link(2).id).expect("room");
        log.forget(link(9).id).expect("room");
        assert!(!log.has(&link(2).id) && log.forgets(&link(2).id));
        assert_eq!(log.forgotten_snapshots().collect::<Vec<_>>(), [&logged(2)]);
        // Forgotten once more, it is not lost.
        log.forget(link(2).id).expect("room");
        assert!(log.unforget(&link(2).id).expect("room"));
        assert!(log.unforget(&link(9).id).expect("room"));
        assert!(!log.unforget(&link(9).id).expect("room"));
        assert_eq!(log, before);
        log.replace(link(3).id, logged(4)).expect("room");
        assert!(log.has(&link(4).id) && !log.has(&link(3).id));
        assert_eq!(log.forgotten_snapshots().count(), 0);
        assert!(log.unforget(&link(3).id).expect("room"));
        assert!(!log.has(&link(3).id), "nothing tells what it was");
        // A machine that asks to forget a snapshot keeps it no more.
        log.keep(link(9).id).expect("room");
        log.forget(link(9).id).expect("room");
        assert!(log.kept().is_empty());
    }

    #[test]
    fn a_log_that_contradicts_itself_is_refused() {
        let mut log = log(1, &[1]);
        log.forgotten.insert(link(1).id, None);
        let bytes = log.encode().expect("small");
        assert!(matches!(decode(&bytes), Err(Error::Malformed { .. })));
        log.snapshots.clear();
        log.forgotten.insert(link(1).id, Some(logged(2)));
        let bytes = log.encode().expect("small");
        assert!(matches!(decode(&bytes), Err(Error::Malformed { .. })));
    }

    #[test]
    fn mentions_are_bounded() {
        let mut log = log(1, &[]);
        let id = |n: usize| {
            let mut digest = [0; 48];
            digest[..8].copy_from_slice(&(n as u64).to_be_bytes());
            BlockId::from_sha384(digest)
        };
        for n in 0..MAX_FORGOTTEN {
            log.forget(id(n)).expect("room");
        }
        log.forget(id(0)).expect("it is there already");
        assert!(matches!(log.forget(id(MAX_FORGOTTEN)), Err(Error::LogFull)));
        log.settle(|kept| *kept != id(1));
        log.forget(id(MAX_FORGOTTEN)).expect("room again");
        for n in 0..MAX_SNAPSHOTS {
            let snapshot = Link {
                id: id(100_000 + n),
                ..link(1)
            };
            let summary = Summary::default();
            let sequence = 0;
            log.add(Logged {
                snapshot,
                summary,
                sequence,
            })
            .expect("room");
        }
        let over = Logged {
            snapshot: Link {
                id: id(5),
                ..link(1)
            },
            summary: Summary::default(),
            sequence: 0,
        };
        assert!(matches!(log.add(over), Err(Error::LogFull)));
        let bytes = log.encode().expect("full of short ones, it fits");
        assert_eq!(decode(&bytes).expect("its own bytes"), log);
        for n in 0..MAX_EARLIER {
            log.follow(link(n as u8)).expect("room");
        }
        assert!(matches!(log.follow(link(99)), Err(Error::LogFull)));
        // Long summaries fill a log before there are too many of them.
        let mut long = Log::new([1; 32], String::new());
        for n in 0..MAX_SNAPSHOTS {
            let summary = Summary {
                paths: vec![Bytes::from(vec![b'p'; 1000])],
                ..Summary::default()
            };
            long.add(Logged {
                snapshot: Link {
                    id: id(n),
                    ..link(1)
                },
                summary,
                sequence: 0,
            })
            .expect("room");
        }
        assert!(matches!(long.encode(), Err(Error::LogFull)));
    }

    proptest! {
        /// Two copies of one machine's log that went apart: nothing that either says is lost, whoever takes in the other.
        #[test]
        fn absorbing_loses_nothing(a in proptest::collection::btree_set(1u8..20, 0..8), b in proptest::collection::btree_set(1u8..20, 0..8),
                                   gone in proptest::collection::btree_set(1u8..20, 0..4)) {
            let (a, b): (Vec<u8>, Vec<u8>) = (a.into_iter().collect(), b.into_iter().collect());
            let (mut first, mut second) = (log(1, &a), log(1, &b));
            for number in &gone {
                second.forget(link(*number).id).expect("room");
            }
            let before = numbers(&[&first, &second]);
            first.absorb(&second).expect("room");
            prop_assert_eq!(numbers(&[&first]), before);
            prop_assert_eq!(decode(&first.encode().expect("small")).expect("its own bytes"), first);
        }

        #[test]
        fn any_bytes_give_an_answer(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
            let bytes = [MAGIC.as_slice(), &[VERSION], &tail].concat();
            let _ = decode(&bytes);
        }
    }
}
