//! Ending leases before their time, by releases that the owner itself has signed.
//!
//! A lease that this machine knows is ended at its holder by its name. Without such knowledge (on another machine, or when the list of copies is lost) every
//! member of this node's rings is asked to end all that it has of a snapshot, or of the owner: also what holders passed on among themselves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use futures::StreamExt;
use libp2p::PeerId;

use super::api::*;
use super::copies::Machine;
use super::{Node, blocking};
use crate::id::BlockId;
use crate::lease::{Extent, Release};
use crate::net::replica::{Answer, Refusal, Request};
use crate::ring::Ring;
use crate::upkeep::holder::tell_of_release;
use crate::upkeep::replicate::Signer;

/// Members that are asked at the same time.
const AT_ONCE: usize = 8;
/// How long to wait for members that are not online.
const MEMBERS_PATIENCE: Duration = Duration::from_secs(10);

/// A release, and whom it is for.
struct Asked {
    release: Release,
    /// The snapshot; none for all of the owner's.
    root: Option<BlockId>,
    /// The holder; none for all members of the rings.
    peer: Option<PeerId>,
}

/// What a peer said to a release.
enum Said {
    Done { ended: u64, newer: u64 },
    Unreachable,
    Refused,
}

fn wrong() -> CallError {
    CallError::new(ErrorKind::Usage, "this is not a release of a lease")
}

fn read(one: &OwnerRelease) -> Result<Asked, CallError> {
    let bytes = HEXLOWER.decode(one.release.as_bytes());
    let release = Release::decode(&bytes.map_err(|_| wrong())?).map_err(|_| wrong())?;
    let root = match one.snapshot.as_str() {
        "" => None,
        hex => {
            let digest = HEXLOWER.decode(hex.as_bytes()).map_err(|_| wrong())?;
            let digest = digest.try_into().map_err(|_| wrong())?;
            Some(BlockId::from_sha384(digest))
        }
    };
    let peer = match one.peer.as_str() {
        "" => None,
        peer => Some(peer.parse().map_err(|_| wrong())?),
    };
    let fits = match release.extent() {
        Extent::Lease => root.is_some() && peer.is_some(),
        Extent::Backup(of) => root == Some(of),
        Extent::Everything => root.is_none(),
    };
    match fits {
        true => Ok(Asked {
            release,
            root,
            peer,
        }),
        false => Err(wrong()),
    }
}

/// A holder does not know the leases of an owner that never had any, which looks as if they had ended. What members say to a release of many tells the
/// difference.
fn check_owner(asked: &[Asked], ours: Option<[u8; 32]>) -> Result<(), CallError> {
    let mut of_one = asked.iter().filter(|one| one.peer.is_some());
    let Some(ours) = ours else {
        return match of_one.next() {
            None => Ok(()),
            Some(_) => Err(CallError::new(ErrorKind::NoOwner, "there is no owner here")),
        };
    };
    match of_one.all(|one| ours == *one.release.owner()) {
        true => Ok(()),
        false => {
            let message = "these words are those of another owner";
            Err(CallError::new(ErrorKind::Usage, message).with_hint(
                "compare every word with your sheet; the order counts, the case does not",
            ))
        }
    }
}

impl Node {
    /// Ends leases by releases that the owner itself has signed.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for what is not a release, or one of a single lease by another owner than this machine's; [`ErrorKind::NoOwner`] for such a one
    /// when there is none here; [`ErrorKind::NotFound`] when members are to be asked and this node is in no ring; what writing the list says.
    pub async fn lease_release(
        &self,
        request: LeaseRelease,
    ) -> Result<LeaseReleaseReply, CallError> {
        let asked = request.releases.iter().map(read);
        let asked: Vec<Asked> = asked.collect::<Result<_, _>>()?;
        let ours = Machine(Arc::downgrade(&self.inner)).owner();
        check_owner(&asked, ours)?;
        let (of_one, of_all): (Vec<_>, Vec<_>) = asked.iter().partition(|one| one.peer.is_some());
        let members = match of_all.is_empty() {
            true => BTreeMap::new(),
            false => self.members_when_online().await?,
        };
        self.want_none(&asked, ours).await?;
        let mut reply = LeaseReleaseReply::default();
        for one in of_one {
            if let Some(peer) = one.peer {
                self.release_at(one, peer, &mut reply).await?;
            }
        }
        for one in of_all {
            let done = self.release_everywhere(one, &members, &mut reply).await;
            if ours == Some(*one.release.owner()) {
                self.copies_ended(one.root, done).await?;
            }
        }
        Ok(reply)
    }

    /// Takes note that no more copies are wanted of what this machine's owner releases, before anybody is told: as soon as one is ended, another one would be
    /// made. It holds also when nobody can be told now.
    async fn want_none(&self, asked: &[Asked], ours: Option<[u8; 32]>) -> Result<(), CallError> {
        let of_ours = asked
            .iter()
            .filter(|one| ours == Some(*one.release.owner()));
        let roots: Vec<Option<BlockId>> = of_ours.map(|one| one.root).collect();
        let copies = self.inner.copies.clone();
        blocking(move || {
            let is_concerned = |root: &BlockId| {
                let mut roots = roots.iter();
                roots.any(|one| one.is_none_or(|one| one == *root))
            };
            Ok(copies.unwant(is_concerned)?)
        })
        .await
    }

    async fn tell(&self, peer: PeerId, release: &Release) -> Said {
        let request = Request::Release(Box::new(release.clone()));
        match self.net().replica().ask(peer, request).await {
            Ok(Answer::State(state)) => Said::Done {
                ended: state.listed,
                newer: state.missing,
            },
            Ok(Answer::Refused(Refusal::Unknown)) => Said::Done { ended: 0, newer: 0 },
            Ok(Answer::Refused(Refusal::Busy)) | Err(_) => Said::Unreachable,
            Ok(_) => Said::Refused,
        }
    }

    async fn release_at(
        &self,
        one: &Asked,
        peer: PeerId,
        reply: &mut LeaseReleaseReply,
    ) -> Result<(), CallError> {
        match self.tell(peer, &one.release).await {
            Said::Done { .. } => {
                reply.released += 1;
                self.copies_ended(one.root, vec![peer]).await
            }
            Said::Unreachable => {
                // While it was there it may have passed the lease on.
                let mut others = self.net().rings().online_members();
                others.retain(|other| *other != peer);
                tell_of_release(self.depot(), &others, &one.release).await;
                reply.unreachable.push(peer.to_string());
                Ok(())
            }
            Said::Refused => {
                reply.refused.push(peer.to_string());
                Ok(())
            }
        }
    }

    /// Returns the members that have nothing more of it.
    async fn release_everywhere(
        &self,
        one: &Asked,
        members: &BTreeMap<PeerId, (String, bool)>,
        reply: &mut LeaseReleaseReply,
    ) -> Vec<PeerId> {
        let members = members.clone().into_iter();
        let told = futures::stream::iter(members).map(|(peer, (name, is_online))| async move {
            let said = match is_online {
                true => self.tell(peer, &one.release).await,
                false => Said::Unreachable,
            };
            (peer, name, said)
        });
        let told: Vec<_> = told.buffer_unordered(AT_ONCE).collect().await;
        let mut done = Vec::new();
        for (peer, name, said) in told {
            let mut member = MemberRelease {
                peer: peer.to_string(),
                name,
                ..MemberRelease::default()
            };
            match said {
                Said::Done { ended, newer } => {
                    (member.released, member.newer) = (ended, newer);
                    if newer == 0 {
                        done.push(peer);
                    }
                }
                Said::Unreachable => member.answer = ReleaseAnswer::Unreachable,
                Said::Refused => member.answer = ReleaseAnswer::Refused,
            }
            reply.released += member.released;
            note(&mut reply.members, member);
        }
        done
    }

    /// As [`members_by_name`](Self::members_by_name), after a wait for those that are not there: this node may have started just now.
    async fn members_when_online(&self) -> Result<BTreeMap<PeerId, (String, bool)>, CallError> {
        let mut changes = self.net().rings().watch();
        let wait = async {
            loop {
                changes.mark_unchanged();
                let members = self.members_by_name()?;
                let is_all = !members.is_empty() && members.values().all(|(_, online)| *online);
                // The sender lives as long as the net.
                if is_all || changes.changed().await.is_err() {
                    return Ok(());
                }
            }
        };
        match tokio::time::timeout(MEMBERS_PATIENCE, wait).await {
            Ok(Err(error)) => Err(error),
            Ok(Ok(())) | Err(_) => self.members_by_name(),
        }
    }

    /// The members of all rings: what each is called, and whether it is online.
    fn members_by_name(&self) -> Result<BTreeMap<PeerId, (String, bool)>, CallError> {
        let view = self.net().rings();
        let rings = view.rings();
        let mut members: BTreeMap<PeerId, (String, bool)> = BTreeMap::new();
        for name in rings.as_slice().iter().map(Ring::name) {
            for member in view.members(name)? {
                let (known, is_online) = members.entry(member.peer).or_default();
                *is_online |= member.online;
                if known.is_empty() {
                    *known = member.name;
                }
            }
        }
        match rings.is_empty() {
            false => Ok(members),
            true => {
                let message = "this node is in no ring: there are no members to ask";
                Err(CallError::new(ErrorKind::NotFound, message).with_hint(
                    "`libernet ring join CODE` with the code of the ring that keeps the copies; `libernet ring invite RING` on a member shows it",
                ))
            }
        }
    }

    /// Takes note that peers keep no copies of a snapshot, or of any.
    async fn copies_ended(
        &self,
        root: Option<BlockId>,
        peers: Vec<PeerId>,
    ) -> Result<(), CallError> {
        let copies = self.inner.copies.clone();
        blocking(move || {
            let roots: Vec<BlockId> = match root {
                Some(root) => vec![root],
                None => {
                    let leases = copies.leases().into_iter();
                    leases.map(|(root, ..)| root).collect()
                }
            };
            for root in roots {
                for peer in &peers {
                    copies.ended(&root, &peer.to_bytes())?;
                }
            }
            Ok(())
        })
        .await
    }
}

/// Adds what a member said to what it said before.
fn note(members: &mut Vec<MemberRelease>, more: MemberRelease) {
    match members.iter_mut().find(|known| known.peer == more.peer) {
        Some(known) => {
            known.released += more.released;
            known.newer += more.newer;
            if more.answer != ReleaseAnswer::Done {
                known.answer = more.answer;
            }
        }
        None => members.push(more),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;
    use ed25519_dalek::SigningKey;

    #[test]
    fn a_release_is_for_what_it_says() {
        let owner = SigningKey::from_bytes(&[1; 32]);
        let root = BlockId::from_sha384([7; 48]);
        let peer = PeerId::random().to_string();
        let of = |release: Release, snapshot: &str, peer: &str| {
            let one = OwnerRelease {
                snapshot: snapshot.to_owned(),
                peer: peer.to_owned(),
                release: HEXLOWER.encode(&release.encode()),
            };
            read(&one).is_ok()
        };
        let one = || Release::by_owner(&owner, [3; 16], 1, Timestamp(2));
        let many = |extent| Release::of_many(&owner, extent, Timestamp(2));
        let hex = root.to_hex();
        assert!(of(one(), &hex, &peer));
        assert!(!of(one(), &hex, "") && !of(one(), "", &peer));
        assert!(of(many(Extent::Backup(root)), &hex, ""));
        assert!(!of(many(Extent::Backup(root)), "", ""));
        assert!(!of(many(Extent::Backup(root)), &"00".repeat(48), ""));
        assert!(of(many(Extent::Everything), "", ""));
        assert!(!of(many(Extent::Everything), &hex, ""));
        assert!(!of(one(), "zz", &peer) && !of(one(), &hex, "nobody"));
    }

    #[test]
    fn a_member_that_is_asked_twice_is_told_of_once() {
        let said = |released, answer| MemberRelease {
            peer: "a".to_owned(),
            released,
            answer,
            ..MemberRelease::default()
        };
        let mut members = Vec::new();
        note(&mut members, said(2, ReleaseAnswer::Done));
        note(&mut members, said(1, ReleaseAnswer::Done));
        note(&mut members, said(0, ReleaseAnswer::Unreachable));
        assert_eq!(members, [said(3, ReleaseAnswer::Unreachable)]);
    }
}
