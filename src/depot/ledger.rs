//! What this node and each other node have done for each other, and how a peer stands for it.
//!
//! Counted are bytes of blocks served to a peer and taken from it, wrong ones got, and blocks that one keeps for the other. The ledger is kept
//! across restarts in one file of the data directory. It decides no more than an order: who is served, and stored for, before whom when not
//! everybody can be.
//!
//! Invariant: it holds at most [`MAX_PEERS`] peers; past that the one with whom least was exchanged is forgotten.
//!
//! Deliberately absent: debts, payments, and what third parties say of a peer: anybody could say anything.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use libp2p::PeerId;
use serde::{Deserialize, Serialize};

use crate::file;
use crate::net::exchange::Standing;
use crate::size::MIB;
use crate::time::{Clock, SystemClock, Timestamp};

/// Peers that the ledger remembers at most, about a MiB in memory.
pub const MAX_PEERS: usize = 4096;
/// What a peer may get beyond what it gave before it can count as a free rider: a newcomer has to begin somewhere.
pub const ALLOWANCE_BYTES: u64 = 256 * MIB;
/// Past the allowance, a peer that gave less than one part in so many of what it got is a free rider.
pub const FREE_RIDER_SHARE: u64 = 8;
/// What a peer must have given to stand as even.
pub const EVEN_BYTES: u64 = 16 * MIB;
/// A peer that gave one part in so many of what it got, or more, stands as even.
pub const EVEN_SHARE: u64 = 2;
/// A peer that sent more wrong blocks than this is a free rider whatever it gave.
pub const MAX_WRONG_BLOCKS: u64 = 3;

const VERSION: u32 = 1;
/// Largest file that is read: an entry has less than 512 bytes.
const MAX_FILE_BYTES: u64 = 512 * MAX_PEERS as u64;

/// Some blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Amount {
    /// Blocks.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Amount {
    /// Counts more blocks.
    pub const fn add(&mut self, more: Self) {
        self.blocks = self.blocks.saturating_add(more.blocks);
        self.bytes = self.bytes.saturating_add(more.bytes);
    }
}

/// What is known of one peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Served to it.
    pub served: Amount,
    /// Taken from it.
    pub taken: Amount,
    /// Blocks from it that were not what was asked for.
    pub wrong_blocks: u64,
    /// What it keeps for us by leases, whole copies only.
    pub keeps_for_us: Amount,
    /// What we keep for it by leases that it brought.
    pub kept_for_it: Amount,
    /// When something was exchanged last.
    pub seen: Timestamp,
}

impl Entry {
    /// Bytes that it did something for.
    const fn gave(&self) -> u64 {
        self.taken.bytes.saturating_add(self.keeps_for_us.bytes)
    }

    /// Bytes that we did something for.
    const fn got(&self) -> u64 {
        self.served.bytes.saturating_add(self.kept_for_it.bytes)
    }

    /// How a peer with such an entry stands, if it is in no ring of ours.
    pub const fn standing(&self) -> Standing {
        let (gave, got) = (self.gave(), self.got());
        if self.wrong_blocks > MAX_WRONG_BLOCKS {
            return Standing::FreeRider;
        }
        if got.saturating_sub(gave) > ALLOWANCE_BYTES && gave < got / FREE_RIDER_SHARE {
            return Standing::FreeRider;
        }
        if gave >= EVEN_BYTES && gave >= got / EVEN_SHARE {
            return Standing::Even;
        }
        Standing::Newcomer
    }
}

/// All entries. Pure.
#[derive(Debug, Default, PartialEq, Eq)]
struct Book(HashMap<PeerId, Entry>);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    peers: BTreeMap<String, Entry>,
}

impl Book {
    /// The entry of a peer, made when there is none; somebody else's goes for it when the book is full.
    fn entry(&mut self, peer: PeerId) -> &mut Entry {
        if self.0.len() >= MAX_PEERS && !self.0.contains_key(&peer) {
            let least = |(peer, entry): &(&PeerId, &Entry)| {
                let exchanged = entry.gave().saturating_add(entry.got());
                (exchanged, entry.seen, **peer)
            };
            let falls_out = self.0.iter().min_by_key(least).map(|(peer, _)| *peer);
            if let Some(peer) = falls_out {
                self.0.remove(&peer);
            }
        }
        self.0.entry(peer).or_default()
    }

    fn encode(&self) -> Vec<u8> {
        let file = File {
            version: VERSION,
            peers: self
                .0
                .iter()
                .map(|(peer, entry)| (peer.to_string(), *entry))
                .collect(),
        };
        serde_json::to_vec(&file).expect("strings and numbers are JSON")
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let file: File = serde_json::from_slice(bytes).ok()?;
        if file.version != VERSION || file.peers.len() > MAX_PEERS {
            return None;
        }
        let peers = file.peers.into_iter();
        let entries: Option<HashMap<PeerId, Entry>> = peers
            .map(|(peer, entry)| Some((peer.parse().ok()?, entry)))
            .collect();
        entries.map(Self)
    }
}

/// The ledger. Its methods are looks into memory, but for [`open`](Self::open) and [`save`](Self::save).
pub struct Ledger {
    clock: Arc<dyn Clock>,
    path: Option<PathBuf>,
    book: Mutex<Book>,
    changed: AtomicBool,
    /// Held by who writes the file.
    turn: Mutex<()>,
    /// As of the last [`refresh`](Self::refresh). The lock is held for no longer than one look or one swap.
    standings: RwLock<Arc<HashMap<PeerId, Standing>>>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            path: None,
            book: Mutex::default(),
            changed: AtomicBool::new(false),
            turn: Mutex::default(),
            standings: RwLock::default(),
        }
    }
}

impl Ledger {
    /// Reads the ledger in a file. One that can't be read is left behind: the ledger begins anew.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Self {
        let book = match read(path) {
            Ok(Some(book)) => book,
            Ok(None) => Book::default(),
            Err(error) => {
                let path = path.display();
                tracing::warn!(%path, %error, "the ledger of peers can't be read: it begins anew");
                Book::default()
            }
        };
        let ledger = Self {
            clock,
            path: Some(path.to_owned()),
            book: Mutex::new(book),
            ..Self::default()
        };
        ledger.refresh(&HashSet::new());
        ledger
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        // Numbers are added up in steps that can't panic.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, peer: PeerId, change: impl FnOnce(&mut Entry)) {
        let now = self.clock.now();
        let mut book = self.lock();
        let entry = book.entry(peer);
        change(entry);
        entry.seen = now;
        self.changed.store(true, Ordering::Relaxed);
    }

    /// Blocks were served to a peer.
    pub fn served(&self, peer: PeerId, blocks: Amount) {
        self.change(peer, |entry| entry.served.add(blocks));
    }

    /// Blocks were taken from a peer.
    pub fn taken(&self, peer: PeerId, blocks: Amount) {
        self.change(peer, |entry| entry.taken.add(blocks));
    }

    /// A peer sent a block that is not the one asked for.
    pub fn wrong(&self, peer: PeerId) {
        self.change(peer, |entry| {
            entry.wrong_blocks = entry.wrong_blocks.saturating_add(1);
        });
    }

    /// What peers keep for us: those that are not named keep nothing.
    pub fn set_keeping(&self, amounts: &HashMap<PeerId, Amount>) {
        self.set(amounts, true, |entry| &mut entry.keeps_for_us);
    }

    /// What we keep for peers. Unless these are `all`, what is known of others stays as it was.
    pub fn set_kept(&self, amounts: &HashMap<PeerId, Amount>, all: bool) {
        self.set(amounts, all, |entry| &mut entry.kept_for_it);
    }

    fn set(
        &self,
        amounts: &HashMap<PeerId, Amount>,
        all: bool,
        field: impl Fn(&mut Entry) -> &mut Amount,
    ) {
        let mut book = self.lock();
        let mut changed = false;
        if all {
            for (peer, entry) in &mut book.0 {
                let amount = field(entry);
                changed |= *amount != Amount::default() && !amounts.contains_key(peer);
                if !amounts.contains_key(peer) {
                    *amount = Amount::default();
                }
            }
        }
        // More than fit would push each other out.
        for (peer, amount) in amounts.iter().take(MAX_PEERS) {
            let held = field(book.entry(*peer));
            changed |= held != amount;
            *held = *amount;
        }
        if changed {
            self.changed.store(true, Ordering::Relaxed);
        }
    }

    /// Works out how everybody stands, with these as members of rings of ours.
    pub fn refresh(&self, members: &HashSet<PeerId>) {
        let mut standings: HashMap<PeerId, Standing> = {
            let book = self.lock();
            let entries = book.0.iter();
            entries
                .map(|(peer, entry)| (*peer, entry.standing()))
                .collect()
        };
        standings.extend(members.iter().map(|peer| (*peer, Standing::Member)));
        let mut current = self
            .standings
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(standings);
    }

    /// How a peer stood at the last [`refresh`](Self::refresh).
    pub fn standing(&self, peer: PeerId) -> Standing {
        let standings = self
            .standings
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        standings.get(&peer).copied().unwrap_or(Standing::Newcomer)
    }

    /// How a peer stands by what was exchanged with it, whether or not it is in a ring of ours.
    pub fn earned(&self, peer: PeerId) -> Standing {
        let book = self.lock();
        book.0
            .get(&peer)
            .map_or(Standing::Newcomer, Entry::standing)
    }

    /// Amount that a peer keeps for us.
    pub fn keeps_for_us(&self, peer: PeerId) -> Amount {
        let book = self.lock();
        book.0
            .get(&peer)
            .map_or_else(Amount::default, |entry| entry.keeps_for_us)
    }

    /// Peers in it.
    pub fn len(&self) -> usize {
        self.lock().0.len()
    }

    /// Whether nothing was exchanged with anybody yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every peer with its standing, those with whom most was exchanged first.
    pub fn list(&self) -> Vec<(PeerId, Entry, Standing)> {
        let mut list: Vec<_> = {
            let book = self.lock();
            book.0.iter().map(|(peer, entry)| (*peer, *entry)).collect()
        };
        list.sort_by_key(|(peer, entry)| {
            let exchanged = entry.gave().saturating_add(entry.got());
            (std::cmp::Reverse(exchanged), *peer)
        });
        let list = list.into_iter();
        list.map(|(peer, entry)| (peer, entry, self.standing(peer)))
            .collect()
    }

    /// Writes the file if anything has changed. Blocks on the disk.
    ///
    /// # Errors
    /// What the system says; the ledger is written with the next call then.
    pub fn save(&self) -> io::Result<()> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        // Of two at once the one that comes last writes what is newest.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.changed.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let bytes = self.lock().encode();
        file::replace(path, &bytes).inspect_err(|_| self.changed.store(true, Ordering::Relaxed))
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger")
            .field("peers", &self.lock().0.len())
            .finish_non_exhaustive()
    }
}

fn read(path: &Path) -> io::Result<Option<Book>> {
    let damaged = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "it is damaged, or of a newer libernet",
        )
    };
    match file::read(path, MAX_FILE_BYTES)? {
        Some(bytes) => Book::decode(&bytes).map(Some).ok_or_else(damaged),
        None => Ok(None),
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
