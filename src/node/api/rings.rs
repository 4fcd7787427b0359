//! Calls about rings.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{Call, call};
use crate::time::Timestamp;

/// An invite code as text: whoever knows it can join. Its `Debug` form does not show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
pub struct Code(pub String);

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code(..)")
    }
}

/// Makes a ring.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RingCreate {
    /// What it is to be called.
    pub name: String,
    /// Members look for each other at the public meeting point, wherever they are.
    #[serde(default)]
    pub anywhere: bool,
}
call!(RingCreate, "ring-create", RingCode);

/// A ring and what others join it with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RingCode {
    /// What the ring is called here.
    pub ring: String,
    /// The invite code.
    pub code: Code,
    /// When the invitation is over.
    pub until: Timestamp,
    /// Whether it is for one node only.
    pub single_use: bool,
    /// Whether the ring's members look for each other at the public meeting point.
    #[serde(default)]
    pub anywhere: bool,
}

/// Joins a ring.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RingJoin {
    /// The invite code.
    pub code: Code,
    /// What to call the ring here; the name in the code when missing.
    #[serde(default)]
    pub name: Option<String>,
    /// Longest time to wait until a member lets this node in or says why not, in seconds.
    #[serde(default)]
    pub wait_s: u64,
}
call!(RingJoin, "ring-join", RingName);

/// A ring.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RingName {
    /// What the ring is called here.
    pub ring: String,
}

/// Lists the rings that this node is in.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RingList {}
call!(RingList, "ring-list", RingListReply);

/// The rings.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RingListReply {
    /// In the order in which this node came into them.
    pub rings: Vec<RingInfo>,
}

/// One ring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingInfo {
    /// What it is called here.
    pub ring: String,
    /// Number of its secret: one more with each member removed; 0 while no member has let this node
    /// in.
    pub generation: u32,
    /// When this node made or joined it.
    pub joined: Timestamp,
    /// Members known, this node not counted.
    pub members: u64,
    /// Members that are connected now.
    pub online: u64,
    /// Other secrets of this ring, made at the same time as those that this node follows. A person
    /// decides.
    #[serde(default)]
    pub branches: Vec<RingBranch>,
    /// Whether its members look for each other at the public meeting point.
    #[serde(default)]
    pub anywhere: bool,
}

/// A branch of a ring's generations that this node does not follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingBranch {
    /// Its name.
    pub id: String,
    /// The generations, oldest first.
    pub generations: Vec<RingGeneration>,
    /// Generations that this node follows instead, oldest first.
    pub own: Vec<RingGeneration>,
    /// Whether this node has its secret, and so can go over to it.
    pub open: bool,
    /// Whether it removes this node.
    pub removes_this_node: bool,
}

/// A signed removal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingGeneration {
    /// Its number.
    pub generation: u32,
    /// The member that signed it.
    pub signer: RingPeer,
    /// When, by the clock of that member.
    pub made: Timestamp,
    /// Members that it removes.
    pub removed: Vec<RingPeer>,
}

/// A node by its names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingPeer {
    /// Its peer id.
    pub peer: String,
    /// Name of its machine; empty while unknown.
    pub name: String,
}

impl RingPeer {
    /// The name for people.
    pub fn shown(&self) -> &str {
        match self.name.as_str() {
            "" => &self.peer,
            name => name,
        }
    }
}

impl RingBranch {
    /// Text that tells a person of the branch.
    pub fn trouble(&self, ring: &str) -> String {
        let told = |generations: &[RingGeneration]| {
            let each = generations.iter().map(|one| {
                let removed: Vec<&str> = one.removed.iter().map(RingPeer::shown).collect();
                format!("{} removed {}", one.signer.shown(), removed.join(", "))
            });
            each.collect::<Vec<_>>().join(", then ")
        };
        let theirs = told(&self.generations);
        if self.removes_this_node {
            return format!(
                "this machine was removed from the ring '{ring}': {theirs}. To come back it needs a new invitation of \
                 a member; `libernet ring choose {ring} here` hides this"
            );
        }
        let own = match self.own.is_empty() {
            true => "nobody was removed since".to_owned(),
            false => told(&self.own),
        };
        let over = match self.open {
            true => format!("`libernet ring choose {ring} {}` goes over to it", self.id),
            false => "this machine was not given its secret".to_owned(),
        };
        format!(
            "the ring '{ring}' has two branches, whose members don't keep each other's backups for long. Here: {own}. There: \
             {theirs}; {over}, `libernet ring choose {ring} here` stays"
        )
    }
}

/// Lists the members of a ring.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RingMembers {
    /// The ring.
    pub ring: String,
}
call!(RingMembers, "ring-members", RingMembersReply);

/// The members of a ring, this node not among them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RingMembersReply {
    /// Those online first.
    pub members: Vec<RingMember>,
    /// Whether they look for each other at the public meeting point.
    #[serde(default)]
    pub anywhere: bool,
}

/// One member of a ring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingMember {
    /// The node.
    pub peer: String,
    /// What its machine is called; empty while unknown.
    pub name: String,
    /// Whether it is connected and has proven that it is a member.
    pub online: bool,
    /// Bytes that its store can still take; missing while it is not online.
    pub free_bytes: Option<u64>,
    /// Seconds that its clock is ahead of this machine's, less than 0 when it is behind; missing
    /// while it is not online.
    #[serde(default)]
    pub clock_ahead_s: Option<i64>,
    /// When it was last connected; missing when it never was.
    pub last_seen: Option<Timestamp>,
    /// Where it can be reached.
    pub addresses: Vec<String>,
    /// Where it stands, as somebody said on this node; empty when nobody did.
    #[serde(default)]
    pub place: String,
}

/// Clocks that differ by more than this are told of, in seconds: from a day on, backups are
/// refused.
pub const MAX_CLOCK_GAP_S: i64 = 3600;

impl RingMember {
    /// Trouble with its clock, when there is any.
    pub fn clock_trouble(&self) -> Option<String> {
        clock_trouble(&self.name, &self.peer, self.clock_ahead_s?)
    }
}

/// Trouble with a member's clock, or with this machine's, when they are far apart.
pub fn clock_trouble(name: &str, peer: &str, ahead_s: i64) -> Option<String> {
    let apart = ahead_s.unsigned_abs();
    if apart <= MAX_CLOCK_GAP_S.unsigned_abs() {
        return None;
    }
    let (number, unit) = match apart {
        0..172_800 => (apart / 3600, "hours"),
        _ => (apart / 86_400, "days"),
    };
    let (direction, name) = match (ahead_s > 0, name) {
        (true, "") => ("ahead of", peer),
        (true, name) => ("ahead of", name),
        (false, "") => ("behind", peer),
        (false, name) => ("behind", name),
    };
    Some(format!(
        "the clock of {name} is {number} {unit} {direction} this machine's: from a day on, backups are \
         refused; set the wrong one of the two right"
    ))
}

/// Leaves a ring. The others are not told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RingLeave {
    /// The ring.
    pub ring: String,
    /// Leave although only copies of backups go with it.
    #[serde(default)]
    pub force: bool,
}
call!(RingLeave, "ring-leave", RingLeft);

/// Ring that [`RingLeave`] left, and the copies that went with it. Without force none do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingLeft {
    /// Name that the ring had here.
    pub ring: String,
    /// Backups of others that are kept here and that no member who answered keeps, too.
    #[serde(default)]
    pub others_alone: u64,
    /// Bytes of their blocks.
    #[serde(default)]
    pub others_alone_bytes: u64,
    /// Backups of this machine whose copies are all on members of this ring.
    #[serde(default)]
    pub own_alone: u64,
}

/// Makes an invitation to a ring.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RingInvite {
    /// The ring.
    pub ring: String,
    /// Time that the invitation lasts, in seconds; a day when missing.
    #[serde(default)]
    pub ttl_s: Option<u64>,
    /// Whether it is for one node only.
    #[serde(default)]
    pub single_use: bool,
}
call!(RingInvite, "ring-invite", RingCode);

/// Removes a member from a ring: there is a new secret, which the others are given when they are connected.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RingRemove {
    /// The ring.
    pub ring: String,
    /// The member.
    pub peer: String,
}
call!(RingRemove, "ring-remove", RingRemoveReply);

/// What [`RingRemove`] did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RingRemoveReply {
    /// The ring.
    pub ring: String,
    /// Who was removed.
    pub peer: String,
    /// Which secret the ring has now.
    pub generation: u32,
}

/// Says where a member of a ring stands. Copies are asked for in different places first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RingPlace {
    /// The ring.
    pub ring: String,
    /// The member.
    pub peer: String,
    /// The place; empty for none.
    pub place: String,
}
call!(RingPlace, "ring-place", RingName);

/// Decides between the branches of a ring, on this machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RingChoose {
    /// The ring.
    pub ring: String,
    /// The branch to go over to, or the start of its name; missing: this node stays, and the others
    /// are not shown again.
    #[serde(default)]
    pub branch: Option<String>,
}
call!(RingChoose, "ring-choose", RingName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_are_far_apart_are_told_with_the_name() {
        assert_eq!(clock_trouble("pc2", "12D3", 0), None);
        assert_eq!(clock_trouble("pc2", "12D3", -MAX_CLOCK_GAP_S), None);
        let ahead = clock_trouble("pc2", "12D3", 3 * 86_400).expect("far apart");
        assert!(
            ahead.starts_with("the clock of pc2 is 3 days ahead of this"),
            "{ahead}"
        );
        let behind = clock_trouble("", "12D3", -7200).expect("far apart");
        assert!(
            behind.starts_with("the clock of 12D3 is 2 hours behind this"),
            "{behind}"
        );
        assert!(clock_trouble("x", "y", i64::MIN).is_some());
    }
}
