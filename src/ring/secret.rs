//! A ring's secret and what is derived from it.

use std::fmt;

use data_encoding::HEXLOWER;
use libp2p::PeerId;
use serde::{Deserialize, Serialize};
use subtle::{Choice, ConstantTimeEq};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::crypto::{hash, random};
use crate::id::BlockId;

const SECRET_CONTEXT: &str = "libernet 2026-11 ring secret";
const ID_CONTEXT: &str = "libernet 2026-11 ring id";
const TAG_CONTEXT: &str = "libernet 2026-11 ring tag";
const PROOF_CONTEXT: &str = "libernet 2026-11 ring proof";
const MEETING_CONTEXT: &str = "libernet 2026-11 ring meeting place";
const MEMBER_CONTEXT: &str = "libernet 2026-12 place of a ring's member";
const MEETING_POINT_CONTEXT: &str = "libernet 2026-11 ring meeting point";

/// What a ring's secret of one generation is derived from, and what an invite code carries.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Seed([u8; 16]);

impl Seed {
    /// Length in bytes.
    pub const BYTES: usize = 16;

    /// A seed from its bytes; they must come from a random generator fit for keys.
    pub const fn new(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// A new one.
    pub fn random() -> Self {
        Self(*random::bytes())
    }

    /// The secret bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// The ring's secret.
    pub fn secret(&self) -> RingSecret {
        RingSecret(hash::derive_key(SECRET_CONTEXT, &self.0))
    }
}

impl PartialEq for Seed {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Seed {}

impl Serialize for Seed {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(HEXLOWER.encode(&self.0)))
    }
}

impl<'de> Deserialize<'de> for Seed {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        // The text is never repeated: it may be most of a secret.
        let wrong = || serde::de::Error::custom("a seed is 32 hex digits");
        let bytes = HEXLOWER.decode(text.as_bytes()).map(Zeroizing::new);
        let bytes = bytes.map_err(|_| wrong())?;
        bytes.as_slice().try_into().map(Self).map_err(|_| wrong())
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}

/// The 32 bytes that members of one generation of a ring share.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct RingSecret([u8; 32]);

impl RingSecret {
    /// The public name that follows from it.
    pub fn id(&self) -> RingId {
        RingId(hash::derive_key(ID_CONTEXT, &self.0))
    }

    /// Keyed hash for tags of the handshake.
    pub(super) fn tag(&self, bytes: &[u8]) -> [u8; 32] {
        self.keyed(TAG_CONTEXT, bytes)
    }

    /// Keyed hash for proofs of the handshake.
    pub(super) fn proof(&self, bytes: &[u8]) -> [u8; 32] {
        self.keyed(PROOF_CONTEXT, bytes)
    }

    /// Place in the DHT at which invited nodes look, in that week (of seven days since 1970), for the
    /// member that invited them; the secret is that of the invitation. Without it nobody can tell
    /// that the place is of a ring, nor that the places of two weeks are of the same one.
    pub fn meeting_place(&self, week: u64) -> BlockId {
        BlockId::from_sha256(self.keyed(MEETING_CONTEXT, &week.to_be_bytes()))
    }

    /// Place in the DHT at which other members look for one, in that week. Each member has a place of
    /// its own, so that nobody without the secret can tell that two nodes are of one ring.
    pub fn member_place(&self, member: &PeerId, week: u64) -> BlockId {
        let bytes = [&week.to_be_bytes()[..], &member.to_bytes()].concat();
        BlockId::from_sha256(self.keyed(MEMBER_CONTEXT, &bytes))
    }

    /// Key under which members that meet anywhere tell their addresses at a public meeting point on
    /// that day (since 1970, in UTC). It says as little as a
    /// [`meeting_place`](Self::meeting_place).
    pub fn meeting_key(&self, day: u64) -> [u8; 20] {
        let hash = self.keyed(MEETING_POINT_CONTEXT, &day.to_be_bytes());
        std::array::from_fn(|at| hash[at])
    }

    fn keyed(&self, context: &str, bytes: &[u8]) -> [u8; 32] {
        let mut key = hash::derive_key(context, &self.0);
        let out = hash::keyed(&key, bytes);
        key.zeroize();
        out
    }
}

impl fmt::Debug for RingSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RingSecret(..)")
    }
}

/// The name of one generation of a ring. It says nothing about the secret, but whoever knows it can tell two uses of it apart from
/// uses of another one: it is told to proven members only.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RingId([u8; 32]);

impl RingId {
    /// An id from its bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for RingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for RingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ring:{}", &self.to_string()[..12])
    }
}

/// Whether two byte strings of one length are equal, in a time that does not tell where they differ.
pub(super) fn same(a: &[u8], b: &[u8]) -> Choice {
    a.ct_eq(b)
}
