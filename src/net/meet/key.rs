//! Keys by which nodes meet.
//!
//! A key is the first 20 bytes of SHA-256 of a text that all who are to meet can make, and of a
//! part of the calendar in UTC, so that what is seen under a key says nothing about later ones:
//!
//! | who meets | key from |
//! |---|---|
//! | nodes of a network | `libernet meet v1 <network> <YYYY-MM>` |
//! | holders of an owner's head | `libernet meet head v1 `, the head's id in hex, ` <YYYY-MM>` |
//! | providers of a link | `libernet meet link v1 `, the root block's id in hex |
//! | members of a ring | the ring's secret and the day: only members can make it |
//!
//! An id in hex is that of its multihash. Near the end of a month the keys of both months count:
//! clocks differ.

use std::fmt;

use data_encoding::HEXLOWER;
use jiff::tz::TimeZone;

use crate::crypto::hash;
use crate::id::BlockId;
use crate::ring::RingSecret;
use crate::time::Timestamp;

/// Time before and after the change of a month in which both months' keys count.
const OVERLAP_MS: u64 = 24 * 3600 * 1000;
const DAY_MS: u64 = 24 * 3600 * 1000;

/// Name under which addresses are told at a meeting point.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key([u8; 20]);

impl Key {
    /// A key from its bytes.
    pub const fn new(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }

    fn of(text: &str) -> Self {
        Self::cut(hash::sha256(&[text.as_bytes()]))
    }

    fn cut(hash: [u8; 32]) -> Self {
        Self(std::array::from_fn(|at| hash[at]))
    }
}

/// Keys of rings are secrets: a part is enough to tell keys apart.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}..)", HEXLOWER.encode(&self.0[..4]))
    }
}

/// The month of a time, as `YYYY-MM`, and near its ends the one that is next to it.
fn months(now: Timestamp) -> Vec<String> {
    let of = |ms| Timestamp(ms).in_zone(&TimeZone::UTC).strftime("%Y-%m");
    let mut months = vec![of(now.0).to_string()];
    for other in [
        now.0.saturating_sub(OVERLAP_MS),
        now.0.saturating_add(OVERLAP_MS),
    ] {
        let other = of(other).to_string();
        if !months.contains(&other) {
            months.push(other);
        }
    }
    months
}

/// Keys of all nodes of a network, this month's first.
pub fn mesh_keys(network: &str, now: Timestamp) -> Vec<Key> {
    let keys = months(now).into_iter();
    keys.map(|month| Key::of(&format!("libernet meet v1 {network} {month}")))
        .collect()
}

/// Keys of those who hold an owner's head, this month's first.
pub fn head_keys(head: &BlockId, now: Timestamp) -> Vec<Key> {
    let (keys, head) = (months(now).into_iter(), head_name(head));
    keys.map(|month| Key::of(&format!("libernet meet head v1 {head} {month}")))
        .collect()
}

/// Key of those who have the root block of a link.
pub fn link_key(root: &BlockId) -> Key {
    Key::of(&format!("libernet meet link v1 {}", head_name(root)))
}

fn head_name(id: &BlockId) -> String {
    HEXLOWER.encode(&id.to_multihash())
}

/// Keys of the members of a ring, or of those who are invited to it: today's, under which they
/// announce, and yesterday's, for which they ask too.
pub fn ring_keys(secret: &RingSecret, now: Timestamp) -> [Key; 2] {
    let today = now.0 / DAY_MS;
    [today, today.saturating_sub(1)].map(|day| Key::new(secret.meeting_key(day)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Seed;

    fn at(text: &str) -> Timestamp {
        let time: jiff::Timestamp = text.parse().expect("a time");
        Timestamp(u64::try_from(time.as_millisecond()).expect("after 1970"))
    }

    fn hex(key: Key) -> String {
        HEXLOWER.encode(key.as_bytes())
    }

    #[test]
    fn golden_keys() {
        let now = at("2026-11-15T12:00:00Z");
        let [mesh] = mesh_keys("libernet", now)[..] else {
            panic!("one month")
        };
        let text = b"libernet meet v1 libernet 2026-11";
        assert_eq!(hex(mesh), HEXLOWER.encode(&hash::sha256(&[text])[..20]));
        assert_eq!(hex(mesh), "fb729c28bd73188fd85cd2e0db9644beeb064d1e");
        let id = BlockId::from_sha384([7; 48]);
        assert_eq!(
            hex(head_keys(&id, now)[0]),
            "eff46204143d3e318e295552334fadc99ebf481a"
        );
        assert_eq!(
            hex(link_key(&id)),
            "5009b2af6cd447e8f5b96fa07e59215cc2ee17c3"
        );
        let secret = Seed::new([1; 16]).secret();
        assert_eq!(
            hex(ring_keys(&secret, now)[0]),
            "7e369c5d5e04eaf941458099c629079fc833ea0a"
        );
    }

    #[test]
    fn networks_months_and_uses_have_keys_of_their_own() {
        let now = at("2026-11-15T12:00:00Z");
        let id = BlockId::from_sha384([7; 48]);
        let mut keys = [
            mesh_keys("a", now),
            mesh_keys("b", now),
            mesh_keys("a", at("2026-12-15T12:00:00Z")),
            mesh_keys("a", at("2027-11-15T12:00:00Z")),
            head_keys(&id, now),
            head_keys(&id, at("2026-12-15T12:00:00Z")),
            head_keys(&BlockId::from_sha256([7; 32]), now),
            vec![link_key(&id)],
        ]
        .concat();
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!((keys.len(), count), (8, 8));
    }

    #[test]
    fn near_the_end_of_a_month_both_months_count() {
        let keys = |text| mesh_keys("x", at(text));
        let (november, december) = (
            keys("2026-11-15T00:00:00Z")[0],
            keys("2026-12-15T00:00:00Z")[0],
        );
        assert_eq!(keys("2026-11-29T23:59:59Z"), [november]);
        assert_eq!(keys("2026-11-30T00:00:01Z"), [november, december]);
        assert_eq!(keys("2026-12-01T23:59:59Z"), [december, november]);
        assert_eq!(keys("2026-12-02T00:00:01Z"), [december]);
        // A clock that is nowhere in the calendar is no reason to fail.
        for far in [Timestamp(0), Timestamp(u64::MAX)] {
            assert!((1..=2).contains(&mesh_keys("x", far).len()));
        }
    }

    #[test]
    fn members_find_those_who_announced_yesterday_and_others_compute_nothing() {
        let secret = Seed::new([1; 16]).secret();
        let today = ring_keys(&secret, at("2026-11-15T23:59:59Z"));
        let tomorrow = ring_keys(&secret, at("2026-11-16T00:00:00Z"));
        assert_eq!(today[0], tomorrow[1]);
        assert_ne!(today[0], tomorrow[0]);
        let other = Seed::new([2; 16]).secret();
        assert_ne!(ring_keys(&other, at("2026-11-15T23:59:59Z")), today);
        assert_eq!(ring_keys(&secret, Timestamp(0)).len(), 2);
    }
}
