//! Calls about rings. A change is on disk before a call says that it was made.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use libp2p::PeerId;
use libp2p::identity::Keypair;

use super::api::*;
use super::failure::{chain, io_kind};
use super::{Node, blocking};
use crate::backup::owner::Vault;
use crate::id::BlockId;
use crate::ring::{
    self, Generation, INVITATION_TTL, InviteCode, MAX_INVITATION_TTL, RingId, Rings, Seed,
};
use crate::size::ByteSize;
use crate::text::count;
use crate::time::Timestamp;
use crate::upkeep::handover;

/// Longest time that a call waits for a member to let this node in, in seconds.
const MAX_JOIN_WAIT_S: u64 = 600;
/// Time in which members of a ring that this node was in answer to a later code.
const JOIN_AGAIN_TIMEOUT: Duration = Duration::from_secs(10);

impl Node {
    /// Makes a ring.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a name that a ring can't have, [`ErrorKind::Exists`] for one that is taken.
    pub async fn ring_create(&self, request: RingCreate) -> Result<RingCode, CallError> {
        let (now, name) = (self.now(), request.name);
        let code = self
            .change_rings(|rings, key| {
                let ring = rings.create(&name, key, Seed::random(), now)?;
                ring.meet_anywhere(request.anywhere);
                ring.invite(Seed::random(), INVITATION_TTL, false, now)
            })
            .await?;
        self.keep_or_leave(&name).await?;
        let until = now.after(INVITATION_TTL);
        Ok(code_of(&name, &code, false, until))
    }

    /// Joins a ring: a member that knows the invitation lets this node in when both meet. A node
    /// that was removed and is invited again takes the place of what it was: it can tell by members
    /// that it knows from before.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a code that is not right, over or used up, [`ErrorKind::Exists`] when this
    /// node is in it or the name is taken.
    pub async fn ring_join(&self, request: RingJoin) -> Result<RingName, CallError> {
        let now = self.now();
        let mut code: InviteCode = request.code.0.parse().map_err(ring::Error::Code)?;
        if let Some(name) = request.name {
            code.name = name;
        }
        let ring = code.name.clone();
        let rings = self.net().rings().rings();
        if let Some(earlier) = rings.may_renew(&code) {
            code.name = rings.free_name(&ring);
            return self.join_again(code, earlier).await;
        }
        let invitation = code.seed.secret().id();
        self.change_rings(|rings, _| rings.join(code, now).map(drop))
            .await?;
        self.keep_or_leave(&ring).await?;
        let patience = Duration::from_secs(request.wait_s.min(MAX_JOIN_WAIT_S));
        let answered = tokio::time::timeout(patience, self.is_answered(&ring)).await;
        self.check_refusal(&invitation).await?;
        tracing::debug!(is_answered = answered.is_ok(), "a ring was joined");
        Ok(RingName { ring })
    }

    /// Fails when a member said why it lets this node in no more; the ring is gone then.
    async fn check_refusal(&self, invitation: &RingId) -> Result<(), CallError> {
        let Some(why) = self.net().rings().refusal(invitation) else {
            return Ok(());
        };
        self.save_rings().await?;
        Err(ring::Error::Spent(why).into())
    }

    /// Returns once a member has let this node into a ring, or the ring is gone.
    async fn is_answered(&self, ring: &str) {
        let view = self.net().rings();
        let mut changes = view.watch_rings();
        loop {
            let rings = view.rings();
            let waits = rings.get(ring).is_ok_and(|ring| !ring.is_let_in());
            if !waits || changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Joins a ring beside one of the same name, and makes one of both when a member of the earlier
    /// one answers to the code. Where only others let this node in, the ring is another
    /// one, and keeps the name that is free.
    async fn join_again(
        &self,
        code: InviteCode,
        earlier: &ring::Ring,
    ) -> Result<RingName, CallError> {
        let (now, ring, later) = (self.now(), earlier.name().to_owned(), code.name.clone());
        let invitation = code.seed.secret().id();
        self.change_rings(|rings, _| rings.join(code, now).map(drop))
            .await?;
        let view = self.net().rings();
        let known: HashSet<PeerId> = earlier.members().iter().map(|known| known.peer).collect();
        let is_the_same = async {
            let (mut online, mut changes) = (view.watch(), view.watch_rings());
            loop {
                let members = view.members(&later).unwrap_or_default();
                let mut members = members.iter();
                let is_met = members.any(|one| one.online && known.contains(&one.peer));
                match view.rings().get(&later) {
                    Ok(later) if is_met && later.is_let_in() => return true,
                    Ok(_) => {}
                    // A member has refused.
                    Err(_) => return false,
                }
                let changed = tokio::select! {
                    changed = online.changed() => changed,
                    changed = changes.changed() => changed,
                };
                if changed.is_err() {
                    return false;
                }
            }
        };
        let is_the_same = tokio::time::timeout(JOIN_AGAIN_TIMEOUT, is_the_same).await;
        // A member that lets this node in at the last moment must find the ring still here: its
        // invitation would be used up for nothing.
        let is_let_in = self
            .change_rings(|rings, _| {
                let is_let_in = rings.get(&later).is_ok_and(ring::Ring::is_let_in);
                if !is_let_in {
                    let _ = rings.leave(&later);
                }
                Ok(is_let_in)
            })
            .await?;
        self.check_refusal(&invitation).await?;
        if is_let_in && !is_the_same.unwrap_or(false) {
            // Another ring of that name counts on this node from here on.
            self.keep_or_leave(&later).await?;
            return Ok(RingName { ring: later });
        }
        if is_let_in {
            self.change_rings(|rings, _| rings.renew(&ring, &later))
                .await?;
            let saved = self.save_rings().await;
            if saved.is_err() {
                // As it was, and as it is on disk.
                let earlier = earlier.clone();
                let _ = self
                    .change_rings(|rings, _| rings.get_mut(&ring).map(|now| *now = earlier))
                    .await;
            }
            return saved.map(|()| RingName { ring });
        }
        let text = format!(
            "a ring '{ring}' is here already, and none of its members that can be reached knows this code"
        );
        let hint = format!(
            "if the code is of another ring, give it another name here: --name NAME; if it is a new code of the \
             same ring, leave the old one first: `libernet ring leave {ring}`"
        );
        Err(CallError::new(ErrorKind::Exists, text).with_hint(hint))
    }

    /// Lists the rings that this node is in.
    ///
    /// # Errors
    /// None at present.
    pub async fn ring_list(&self, _: RingList) -> Result<RingListReply, CallError> {
        let view = self.net().rings();
        let rings = view.rings();
        let rings = rings.as_slice().iter().map(|ring| {
            let members = view.members(ring.name()).unwrap_or_default();
            RingInfo {
                ring: ring.name().to_owned(),
                generation: ring.generation(),
                joined: ring.joined(),
                members: members.len() as u64,
                online: members.iter().filter(|member| member.online).count() as u64,
                branches: self.branches_of(ring),
                anywhere: ring.meets_anywhere(),
            }
        });
        Ok(RingListReply {
            rings: rings.collect(),
        })
    }

    /// Lists the members of a ring.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when this node is not in it.
    pub async fn ring_members(&self, request: RingMembers) -> Result<RingMembersReply, CallError> {
        let members = self.net().rings().members(&request.ring)?;
        let members = members.into_iter().map(|member| RingMember {
            peer: member.peer.to_string(),
            name: member.name,
            online: member.online,
            free_bytes: member.free_bytes,
            clock_ahead_s: member.clock_ahead_ms.map(|ahead| ahead / 1000),
            last_seen: Some(member.last_seen).filter(|seen| seen.0 > 0),
            addresses: member.addresses.iter().map(ToString::to_string).collect(),
            place: member.place,
        });
        let rings = self.net().rings().rings();
        let anywhere = rings
            .get(&request.ring)
            .is_ok_and(ring::Ring::meets_anywhere);
        Ok(RingMembersReply {
            members: members.collect(),
            anywhere,
        })
    }

    /// Branches of a ring, as people are told of them.
    fn branches_of(&self, ring: &ring::Ring) -> Vec<RingBranch> {
        let local = self.net().peer_id();
        let named = |peer: &PeerId| {
            let known = ring.members().iter().find(|known| known.peer == *peer);
            let name = match *peer == local {
                true => "this machine".to_owned(),
                false => known.map(|known| known.name.clone()).unwrap_or_default(),
            };
            RingPeer {
                peer: peer.to_string(),
                name,
            }
        };
        let told = |one: &Generation| RingGeneration {
            generation: one.number(),
            signer: named(one.signer()),
            made: one.made(),
            removed: one.removed().iter().map(named).collect(),
        };
        let branches = ring.branches().iter().map(|branch| {
            let first = branch.generations().first();
            let since = first.map_or(0, |first| first.number());
            let own = ring.chain().iter().filter(|own| own.number() >= since);
            let id = branch
                .generations()
                .last()
                .map(|last| last.id().to_string());
            RingBranch {
                id: id.unwrap_or_default().chars().take(12).collect(),
                generations: branch.generations().iter().map(told).collect(),
                own: own.map(told).collect(),
                open: branch.is_open(),
                removes_this_node: branch.removes(&local),
            }
        });
        branches.collect()
    }

    /// Rings that a person has to decide about.
    pub(super) fn ring_troubles(&self) -> Vec<String> {
        let rings = self.net().rings().rings();
        let rings = rings.as_slice().iter();
        let troubles = rings.flat_map(|ring| {
            let branches = self.branches_of(ring).into_iter();
            branches.map(|branch| branch.trouble(ring.name()))
        });
        troubles.collect()
    }

    /// Troubles with the clocks of connected members, each once.
    pub(super) fn clock_troubles(&self) -> Vec<String> {
        let view = self.net().rings();
        let mut troubles: Vec<String> = Vec::new();
        for ring in view.rings().as_slice() {
            for member in view.members(ring.name()).unwrap_or_default() {
                let ahead_s = member.clock_ahead_ms.map(|ahead| ahead / 1000);
                let peer = member.peer.to_string();
                let trouble = ahead_s.and_then(|ahead| clock_trouble(&member.name, &peer, ahead));
                troubles.extend(trouble.filter(|trouble| !troubles.contains(trouble)));
            }
        }
        troubles
    }

    /// Leaves a ring.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when this node is not in it; [`ErrorKind::Failed`] when only copies
    /// of backups would go with it and there is no force.
    pub async fn ring_leave(&self, request: RingLeave) -> Result<RingLeft, CallError> {
        let left = self.only_copies(&request.ring).await?;
        if !request.force && left.others_alone + left.own_alone > 0 {
            return Err(refused(&left));
        }
        self.change_rings(|rings, _| rings.leave(&request.ring).map(drop))
            .await?;
        self.save_rings().await?;
        Ok(left)
    }

    /// Which only copies of backups would go if this node left a ring.
    async fn only_copies(&self, ring: &str) -> Result<RingLeft, CallError> {
        let view = self.net().rings();
        let members = |ring: &str| -> Result<HashSet<PeerId>, ring::Error> {
            let members = view.members(ring)?;
            Ok(members.into_iter().map(|member| member.peer).collect())
        };
        let here = members(ring)?;
        let mut elsewhere = HashSet::new();
        let rings = view.rings();
        for other in rings.as_slice().iter().map(ring::Ring::name) {
            if other != ring {
                elsewhere.extend(members(other)?);
            }
        }
        // By backup: whether a holder stays reachable.
        let mut own: HashMap<BlockId, (bool, bool)> = HashMap::new();
        for (root, _, peer, _, _) in self.inner.copies.leases() {
            if let Ok(peer) = PeerId::from_bytes(&peer) {
                let (is_here, stays) = own.entry(root).or_default();
                *is_here |= here.contains(&peer);
                *stays |= elsewhere.contains(&peer);
            }
        }
        let alone = handover::only_here(self.depot(), &view.online_members()).await?;
        Ok(RingLeft {
            ring: ring.to_owned(),
            others_alone: alone.backups,
            others_alone_bytes: alone.bytes,
            own_alone: own
                .values()
                .filter(|(is_here, stays)| *is_here && !stays)
                .count() as u64,
        })
    }

    /// Makes an invitation to a ring. This node lets in by it while it runs.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when this node is not in the ring, [`ErrorKind::Usage`] for a time
    /// that an invitation can't last.
    pub async fn ring_invite(&self, request: RingInvite) -> Result<RingCode, CallError> {
        let ttl = request.ttl_s.map_or(INVITATION_TTL, Duration::from_secs);
        if ttl.is_zero() || ttl > MAX_INVITATION_TTL {
            let days = MAX_INVITATION_TTL.as_secs() / 86_400;
            let text = format!("an invitation lasts from 1 second to {days} days");
            return Err(CallError::new(ErrorKind::Usage, text));
        }
        let now = self.now();
        let code = self
            .change_rings(|rings, _| {
                let ring = rings.get_mut(&request.ring)?;
                ring.invite(Seed::random(), ttl, request.single_use, now)
            })
            .await?;
        self.save_rings().await?;
        let until = now.after(ttl);
        Ok(code_of(&request.ring, &code, request.single_use, until))
    }

    /// Says where a member of a ring stands.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for text that is not the name of a peer or place,
    /// [`ErrorKind::NotFound`] for a ring or member that is not known.
    pub async fn ring_place(&self, request: RingPlace) -> Result<RingName, CallError> {
        let (peer, ring) = (peer_of(&request.peer)?, request.ring);
        self.change_rings(|rings, _| rings.get_mut(&ring)?.set_place(&peer, &request.place))
            .await?;
        self.save_rings().await?;
        Ok(RingName { ring })
    }

    /// Decides between the branches of a ring, for this node.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a ring or branch that is not known, [`ErrorKind::Failed`] when
    /// this node has not its secret.
    pub async fn ring_choose(&self, request: RingChoose) -> Result<RingName, CallError> {
        let now = self.now();
        self.change_rings(|rings, _| {
            let ring = rings.get_mut(&request.ring)?;
            match &request.branch {
                Some(id) => ring.choose_branch(id, now),
                None if ring.branches().is_empty() => {
                    Err(ring::Error::NoBranches(ring.name().to_owned()))
                }
                None => {
                    ring.keep_branch();
                    Ok(())
                }
            }
        })
        .await?;
        self.save_rings().await?;
        let ring = request.ring;
        Ok(RingName { ring })
    }

    /// Removes a member from a ring.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for what is not the name of a peer, [`ErrorKind::NotFound`] for a ring or member that is not known.
    pub async fn ring_remove(&self, request: RingRemove) -> Result<RingRemoveReply, CallError> {
        let peer = peer_of(&request.peer)?;
        if peer == self.net().peer_id() {
            return Err(
                CallError::new(ErrorKind::Usage, "this is this node itself").with_hint(format!(
                    "`libernet ring leave {}` takes it out of the ring",
                    request.ring
                )),
            );
        }
        let now = self.now();
        let generation = self
            .change_rings(|rings, key| {
                let ring = rings.get_mut(&request.ring)?;
                ring.remove(&peer, key, Seed::random(), now, rand::random())?;
                Ok(ring.generation())
            })
            .await?;
        self.save_rings().await?;
        Ok(RingRemoveReply {
            ring: request.ring,
            peer: request.peer,
            generation,
        })
    }

    async fn change_rings<T>(
        &self,
        change: impl FnOnce(&mut Rings, &Keypair) -> Result<T, ring::Error>,
    ) -> Result<T, CallError> {
        Ok(self.net().rings().change(change).await?)
    }

    async fn save_rings(&self) -> Result<(), CallError> {
        let (file, view) = (self.inner.rings_file.clone(), self.net().rings());
        blocking(move || Ok(file.save(|| view.rings())?)).await
    }

    /// What can't be saved is not made: it would be gone after the next start.
    async fn keep_or_leave(&self, name: &str) -> Result<(), CallError> {
        let saved = self.save_rings().await;
        if saved.is_err() {
            // It was there a moment ago; if it is gone, so much the better.
            let _ = self
                .change_rings(|rings, _| rings.leave(name).map(drop))
                .await;
        }
        saved
    }
}

/// Why this node does not leave a ring.
fn refused(left: &RingLeft) -> CallError {
    let mut reasons = Vec::new();
    if left.others_alone > 0 {
        reasons.push(format!(
            "this node keeps {} of others ({}) that no member who is online keeps, too",
            count(left.others_alone, "backup"),
            ByteSize(left.others_alone_bytes)
        ));
    }
    if left.own_alone > 0 {
        reasons.push(format!(
            "all copies of {} of this machine are on members of '{}'",
            count(left.own_alone, "backup"),
            left.ring
        ));
    }
    CallError::new(ErrorKind::Failed, reasons.join(", and ")).with_hint(
        "wait until other members are online, or hand over what is kept for others with `libernet leave`; --force leaves all the same, \
         and then these copies are lost",
    )
}

fn peer_of(text: &str) -> Result<PeerId, CallError> {
    text.parse().map_err(|error| {
        let text = format!("'{text}' is not the name of a peer: {error}");
        CallError::new(ErrorKind::Usage, text)
            .with_hint("`libernet ring members RING` shows the names")
    })
}

/// Answer with a code. `until` is when this node ends the invitation: the code tells only the next
/// full four hours.
fn code_of(ring: &str, code: &InviteCode, single_use: bool, until: Timestamp) -> RingCode {
    RingCode {
        ring: ring.to_owned(),
        code: Code(code.to_text().to_string()),
        until,
        single_use,
        anywhere: code.anywhere,
    }
}

/// What members are told that this machine is called: as in its owner's backups, else as the system calls it.
pub(super) fn machine_name(data_dir: &Path) -> String {
    match Vault::open(data_dir) {
        Ok(Some(vault)) => vault.name().to_owned(),
        _ => rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
    }
}

impl From<ring::Error> for CallError {
    fn from(error: ring::Error) -> Self {
        use ring::Error;
        let text = chain(&error);
        match error {
            Error::BadName | Error::BadPlace => Self::new(ErrorKind::Usage, text),
            Error::Code(_) | Error::InvitationOver(_) | Error::Spent(_) => Self::new(ErrorKind::Usage, text)
                .with_hint("`libernet ring invite RING` on a member makes a new one"),
            Error::NameTaken(_) => Self::new(ErrorKind::Exists, text)
                .with_hint("choose another name; joining takes --name"),
            Error::Joined(_) => Self::new(ErrorKind::Exists, text),
            Error::NoSuchRing(_) => Self::new(ErrorKind::NotFound, text)
                .with_hint("`libernet ring list` shows the rings"),
            Error::NoBranches(_) => Self::new(ErrorKind::NotFound, text),
            Error::NoSuchBranch { .. } => Self::new(ErrorKind::NotFound, text)
                .with_hint("`libernet ring list` shows the branches"),
            Error::NoSecret(name) => Self::new(ErrorKind::Failed, text).with_hint(format!(
                "ask a member of it for a new invitation, and here: `libernet ring leave {name}`, then `libernet ring join`"
            )),
            Error::NotLetIn(_) => Self::new(ErrorKind::Failed, text).with_hint(
                "start the node (`libernet up`) while the member that made the invitation runs",
            ),
            Error::NoSuchMember { .. } => Self::new(ErrorKind::NotFound, text)
                .with_hint("`libernet ring members RING` shows the members"),
            Error::Malformed { .. } => Self::new(ErrorKind::Damaged, text)
                .with_hint("restore it from a copy, or move it away and join the rings again"),
            Error::File { ref source, .. } => Self::new(io_kind(source), text),
            _ => Self::new(ErrorKind::Failed, text),
        }
    }
}
