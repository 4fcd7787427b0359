//! Copies of backups on other machines: who may keep them, who signs for them, and how they stand.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use libp2p::PeerId;

use super::api::*;
use super::{Inner, Node, blocking, keeper};
use crate::backup;
use crate::backup::owner::{Membership, Vault};
use crate::crypto::random;
use crate::file;
use crate::head::head_id;
use crate::id::BlockId;
use crate::lease::{Keeper, Lease, Name, Opener, Release, Terms, seal_opener};
use crate::net::Net;
use crate::time::{self, Clock, Timestamp};
use crate::upkeep::heads::{HasHolder, OwnHead};
use crate::upkeep::holder::Candidates;
use crate::upkeep::replicate::{Copies, Error, Limits, Signer};

/// Name of the list of copies in the data directory.
const FILE: &str = "copies.json";
/// Files that are put aside when they are damaged, with what that means.
const ASIDE: [(&str, &str); 3] = [
    (
        FILE,
        "which machines keep copies of earlier backups is not known here, and the next backup of each set asks for its copies again",
    ),
    (
        backup::HEAD_FILE,
        "the next backup writes it anew, from what is here and what others tell",
    ),
    (
        backup::REQUESTS_FILE,
        "the notice of what other machines ask to forget began anew",
    ),
];

/// Longest file that says since when there is another hand.
const MAX_TWIN_BYTES: u64 = 64;

/// What befell files of the data directory and somebody has to hear of: damaged ones that were put
/// aside, and another hand that writes in this machine's name.
pub(super) fn put_aside(data_dir: &Path) -> Vec<String> {
    let aside = ASIDE.iter().filter_map(|(name, meaning)| {
        let aside = file::aside(&data_dir.join(name));
        let is_there = aside.symlink_metadata().is_ok();
        is_there.then(|| {
            format!(
                "{name} was damaged and is put aside: {meaning}; remove {} when that is done, and this is said no more",
                aside.display()
            )
        })
    });
    let twin = data_dir.join(backup::TWIN_FILE);
    aside.chain(twin_trouble(&twin)).collect()
}

/// Trouble with another hand that writes in this machine's name, since the moment in the file.
fn twin_trouble(path: &Path) -> Option<String> {
    let text = match file::read_text(path, MAX_TWIN_BYTES) {
        Ok(text) => text?,
        Err(error) => return Some(format!("{} can't be read: {error}", path.display())),
    };
    let since = text.trim().parse().map(Timestamp).unwrap_or_default();
    let since = since.in_zone(&time::zone()).strftime("%Y-%m-%d %H:%M");
    Some(format!(
        "somebody else wrote backups' logs in this machine's name (first seen {since}): its data directory was copied, or brought back from \
         an image. What such a log forgets stays. If it was copied, turn this machine out with the words (`libernet owner machine revoke`); \
         once it is settled remove {}, and this is said no more",
        path.display()
    ))
}
/// Copies of a backup that says nothing about them, on a node that is in a ring.
const DEFAULT_COPIES: u32 = 2;
/// Longest that a backup waits for its copies.
const MAX_WAIT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Opens the list of copies. One that is damaged is put aside: it must not keep anybody from restoring. The next backup of each set asks for
/// its copies again.
pub(super) fn open(data_dir: &Path) -> Result<Arc<Copies>, CallError> {
    let path = data_dir.join(FILE);
    let list = match Copies::open(&path) {
        Err(Error::Malformed(_)) => {
            file::put_aside(&path).map_err(|source| Error::File {
                path: path.clone(),
                source,
            })?;
            tracing::warn!(
                path = %path.display(),
                "the list of copies was damaged and is put aside: the next backup of each set asks for its copies again"
            );
            Copies::open(&path)?
        }
        list => list?,
    };
    Ok(Arc::new(list))
}

/// The head of this machine's own owner, as its file says it at each time.
pub(super) fn own_head(data_dir: &Path) -> OwnHead {
    let dir = data_dir.to_owned();
    Arc::new(move || {
        let vault = Vault::open(&dir).ok()??;
        Some(head_id(vault.owner().as_bytes()))
    })
}

/// Whether another node keeps a backup of this machine, as its list says it at each time.
pub(super) fn has_holder(copies: &Arc<Copies>, clock: &Arc<dyn Clock>) -> HasHolder {
    let (copies, clock) = (copies.clone(), clock.clone());
    Arc::new(move || {
        let holders = copies.all_holders(clock.now(), &Limits::default());
        !holders.is_empty()
    })
}

/// Who may keep copies for this node, and ask it to keep theirs: the members of its rings. Nobody without a ring: a stranger must not fill
/// the disk.
pub(super) struct Members {
    net: Net,
}

impl Members {
    pub(super) const fn new(net: Net) -> Self {
        Self { net }
    }
}

impl Candidates for Members {
    fn peers(&self) -> Vec<PeerId> {
        self.net.rings().online_members()
    }

    fn members(&self) -> Vec<PeerId> {
        self.net.rings().proven_members()
    }

    fn sites(&self) -> BTreeMap<Vec<u8>, String> {
        let sites = self.net.rings().sites().into_iter();
        let named = sites.map(|(peer, site)| (peer.to_bytes(), site.to_string()));
        named.collect()
    }

    fn removed(&self) -> Vec<PeerId> {
        let members = self.members();
        let removed = self.net.rings().removed().into_iter();
        removed.filter(|peer| !members.contains(peer)).collect()
    }
}

/// Signs with this machine's key while the owner's file is open. While it is behind a passphrase leases are signed with a key that lies open and
/// does nothing else ([`Keeper`]); only giving copies back before their end waits for the passphrase.
pub(super) struct Machine(pub(super) Weak<Inner>);

impl Machine {
    fn member(&self) -> Option<Membership> {
        let node = Node {
            inner: self.0.upgrade()?,
        };
        node.open_member(None).ok()
    }

    fn vault(&self) -> Option<(PathBuf, Vault)> {
        let dir = self.0.upgrade()?.options.data_dir.clone();
        let vault = Vault::open(&dir).ok()??;
        Some((dir, vault))
    }

    /// The key that lies open, if it is of this machine of this owner.
    fn keeper(&self) -> Option<Keeper> {
        let (dir, vault) = self.vault()?;
        let keeper = keeper::load(&dir)?;
        let is_ours = keeper.is_of(vault.owner().as_bytes(), vault.machine().as_bytes());
        is_ours.then_some(keeper)
    }

    /// Sees to it that there is such a key when the owner's file will be locked again after a restart.
    fn leave_keeper(&self, member: &Membership) {
        let Some((dir, vault)) = self.vault() else {
            return;
        };
        if !vault.is_locked() || self.keeper().is_some() {
            return;
        }
        let seed = random::bytes::<32>();
        let keeper = Keeper::new(
            member.owner().as_bytes(),
            member.machine().signing_key(),
            member.certificate(),
            &seed,
        );
        if let Err(error) = keeper::store(&dir, &keeper) {
            tracing::warn!(%error, "after a restart leases will wait for the passphrase");
        }
    }
}

impl Signer for Machine {
    fn owner(&self) -> Option<[u8; 32]> {
        self.vault().map(|(_, vault)| *vault.owner().as_bytes())
    }

    fn lease(&self, terms: Terms) -> Option<Lease> {
        let Some(member) = self.member() else {
            return Some(self.keeper()?.sign(terms));
        };
        self.leave_keeper(&member);
        Some(Lease::sign(
            member.owner().as_bytes(),
            member.machine().signing_key(),
            member.certificate(),
            terms,
        ))
    }

    fn opener(&self, root: BlockId) -> Option<Opener> {
        let member = self.member()?;
        let node = Node {
            inner: self.0.upgrade()?,
        };
        let pins = node.store().pins().ok()?.into_iter();
        let mut links = pins.filter_map(|(_, info)| info.link.filter(|link| link.id == root));
        Some(seal_opener(
            member.backup_root().as_bytes(),
            member.owner().as_bytes(),
            member.machine().id().as_bytes(),
            &root,
            &links.next()?.key,
        ))
    }

    fn release(&self, name: Name, sequence: u64, made: Timestamp) -> Option<Release> {
        let member = self.member()?;
        Some(Release::by_machine(
            member.owner().as_bytes(),
            member.machine().signing_key(),
            member.certificate(),
            name,
            sequence,
            made,
        ))
    }
}

impl Node {
    /// Asks for copies of a new snapshot on other machines and, if told to, waits for them. A wait that ends without them is no error.
    pub(super) async fn copy(
        &self,
        root: BlockId,
        set: &str,
        copies: Option<u32>,
        wait: Option<Duration>,
    ) -> Result<CopiesReply, CallError> {
        let is_in_ring = !self.net().rings().rings().is_empty();
        let asked = copies.unwrap_or(if is_in_ring { DEFAULT_COPIES } else { 0 });
        if asked == 0 {
            return Ok(CopiesReply::default());
        }
        let (list, set) = (self.inner.copies.clone(), set.to_owned());
        let mut changes = list.watch();
        let worker = list.clone();
        blocking(move || Ok(worker.want(root, &set, asked)?)).await?;
        let limits = Limits::default();
        let reached = || {
            let reached = list.reached(&root, self.now(), &limits);
            reached.map_or(0, |(_, reached)| reached)
        };
        if let Some(patience) = wait {
            let enough = async {
                loop {
                    changes.mark_unchanged();
                    // The sender lives as long as the node.
                    if reached() >= asked || changes.changed().await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = self.inner.stop.cancelled() => {}
                _ = tokio::time::timeout(patience.min(MAX_WAIT), enough) => {}
            }
        }
        let holders = list.holders(&root, self.now(), &limits);
        Ok(CopiesReply {
            asked,
            reached: u32::try_from(holders.len()).unwrap_or(u32::MAX),
            holders: self.holder_states(&holders),
            head: None,
        })
    }

    /// Lists the leases of this machine's backups.
    ///
    /// # Errors
    /// None at present.
    pub async fn lease_list(&self, _: LeaseList) -> Result<LeaseListReply, CallError> {
        let leases = self.inner.copies.leases().into_iter();
        let leases = leases.filter_map(|(root, set, peer, name, sequence)| {
            Some(LeaseEntry {
                snapshot: root.to_hex(),
                set,
                peer: PeerId::from_bytes(&peer).ok()?.to_string(),
                name,
                sequence,
            })
        });
        Ok(LeaseListReply {
            leases: leases.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_is_damaged_is_put_aside_and_a_newer_one_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join(FILE);
        let aside = file::aside(&file);
        assert_eq!(put_aside(dir.path()), Vec::<String>::new());
        let root = BlockId::from_sha384([7; 48]);
        let list = open(dir.path()).expect("there need not be one");
        list.want(root, "home", 2).expect("it is written");
        drop(list);
        let whole = std::fs::read(&file).expect("there");
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        let truncated = whole[..whole.len() / 2].to_vec();
        for bad in [truncated, b"version = 1\n".to_vec(), Vec::new()] {
            std::fs::write(&file, &bad).expect("written");
            let list = open(dir.path()).expect("it starts anew");
            assert_eq!(list.reached(&root, Timestamp(0), &Limits::default()), None);
            list.want(root, "home", 2).expect("it is written");
            assert_eq!(std::fs::read(&aside).expect("put aside"), bad);
            let told = put_aside(dir.path()).join("");
            assert!(told.starts_with("copies.json was damaged"), "{told}");
        }
        // A bit may make another name, or none.
        std::fs::write(&file, flipped).expect("written");
        assert!(open(dir.path()).is_ok());
        let newer = String::from_utf8(whole).expect("text");
        let newer = newer.replace("\"version\": 1", "\"version\": 2");
        std::fs::write(&file, &newer).expect("written");
        assert!(
            open(dir.path()).is_err(),
            "a newer program knows what it says"
        );
        assert_eq!(std::fs::read_to_string(&file).expect("still there"), newer);
    }
}
