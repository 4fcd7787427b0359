//! Generations, branches, invitations and their records, one attack after the other.

use std::time::Duration;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use libp2p::PeerId;
use libp2p::identity::Keypair;
use proptest::prelude::*;

use super::generation::{Admission, Generation};
use super::invitation::REMEMBERED;
use super::*;
use crate::crypto::hash;
use crate::time::Timestamp;

const DAY: Duration = Duration::from_secs(24 * 3600);

pub(super) fn key(n: u8) -> Keypair {
    Keypair::ed25519_from_bytes([n; 32]).expect("any 32 bytes")
}

pub(super) fn peer(n: u8) -> PeerId {
    key(n).public().to_peer_id()
}

fn seed(n: u8) -> Seed {
    Seed::new([n; 16])
}

fn known(n: u8, proven: Option<u32>) -> Known {
    Known {
        peer: peer(n),
        name: format!("m{n}"),
        last_seen: Timestamp(5),
        addresses: Vec::new(),
        proven,
        place: String::new(),
    }
}

/// A ring of these members, as each of them sees it after all have met.
fn ring_of(members: &[u8]) -> Vec<Ring> {
    let mut rings = Rings::default();
    let ring = rings.create("home", &key(members[0]), seed(1), Timestamp(1));
    let first = ring.expect("made").clone();
    let each = members.iter().map(|own| {
        let mut ring = first.clone();
        for other in members.iter().filter(|other| *other != own) {
            ring.saw(known(*other, Some(1)));
        }
        ring
    });
    each.collect()
}

fn remove(ring: &mut Ring, own: u8, removed: u8, new: u8) {
    let done = ring.remove(
        &peer(removed),
        &key(own),
        seed(new),
        Timestamp(9),
        [new; 32],
    );
    done.expect("removed");
}

/// Tells `to`, the ring of peer `own`, of generations, as peer `from` does.
fn tell(
    to: &mut Ring,
    own: u8,
    from: u8,
    generations: &[Generation],
    seed: Option<&Seed>,
) -> Followed {
    let heard = Heard {
        from: &peer(from),
        is_member: !to.is_removed(&peer(from)),
        generations,
        seed,
    };
    to.follow(heard, &key(own), Timestamp(10))
}

fn proofs(ring: &Ring, of: u8) -> Vec<RingId> {
    let secrets = ring.secrets_for(&peer(of), Timestamp(10));
    secrets.iter().map(RingSecret::id).collect()
}

#[test]
fn the_seed_is_sealed_to_those_that_stay_and_to_nobody_else() {
    let mut rings = ring_of(&[1, 2, 3, 4]);
    let mut own = rings.remove(0);
    own.heard_of(known(5, None));
    remove(&mut own, 1, 3, 7);
    let made = own.chain().last().expect("there");
    assert_eq!((made.number(), made.signer()), (2, &peer(1)));
    assert_eq!(made.removed(), [peer(3)]);
    for stays in [2, 4] {
        assert_eq!(made.open(&key(stays)), Some(seed(7)), "{stays}");
    }
    // The removed one, and a name that was only heard of.
    for other in [3, 5] {
        assert_eq!(made.open(&key(other)), None, "{other}");
    }
}

#[test]
fn an_accomplice_known_by_hearsay_is_given_nothing() {
    let mut own = ring_of(&[1, 2, 3]).remove(0);
    assert!(own.heard_of(known(4, None)));
    remove(&mut own, 1, 3, 7);
    // Its friend was removed; it knows the old secret, and was named before.
    let old = seed(1).secret().id();
    assert!(!proofs(&own, 4).contains(&old));
    assert!(!own.counts(&peer(4), &[old], Timestamp(10)));
    // A member that was seen proving may still come with the old one, for a while.
    assert!(own.counts(&peer(2), &[old], Timestamp(10)));
    let late = Timestamp(10).after(GENERATION_TTL);
    assert!(!own.counts(&peer(2), &[old], late));
}

#[test]
fn the_removed_is_void_even_with_the_new_secret_until_it_is_invited_again() {
    let mut rings = ring_of(&[1, 2, 3]);
    let (mut a, mut b) = (rings.remove(0), rings.remove(0));
    remove(&mut a, 1, 3, 7);
    assert_eq!(
        tell(&mut b, 2, 1, a.generations_after(1), None),
        Followed::Secret
    );
    let present = a.id();
    assert_eq!(b.id(), present);
    for ring in [&a, &b] {
        assert!(ring.is_removed(&peer(3)));
        assert!(!ring.counts(&peer(3), &[present, seed(1).secret().id()], Timestamp(10)));
    }
    let code = a
        .invite(seed(50), DAY, false, Timestamp(10))
        .expect("in the ring");
    let id = code.seed.secret().id();
    assert!(a.let_in(&peer(3), &id, &key(1), Timestamp(11)));
    assert!(a.counts(&peer(3), &[present], Timestamp(11)));
    // The other member hears of it by a signed record, and of no other signer's.
    let forged = Admission::new(&key(3), &peer(3), a.chain()[1].id(), Timestamp(11));
    assert!(!b.admit(forged.expect("signed")), "its own word");
    let early = Admission::new(&key(1), &peer(3), a.chain()[0].id(), Timestamp(11));
    assert!(!b.admit(early.expect("signed")), "from before the removal");
    assert!(b.admit(a.admitted()[0].clone()));
    assert!(!b.is_removed(&peer(3)));
    // Removed once more, the old admission is worth nothing.
    let back = a.admitted()[0].clone();
    b.saw(known(3, Some(2)));
    remove(&mut b, 2, 3, 8);
    assert!(!b.admit(back) && b.is_removed(&peer(3)));
}

#[test]
fn one_that_was_away_follows_the_chain_and_the_removed_can_not_take_it_along() {
    let mut rings = ring_of(&[1, 2, 3]);
    let (mut a, mut away, mut out) = (rings.remove(0), rings.remove(0), rings.remove(0));
    remove(&mut a, 1, 3, 7);
    remove(&mut out, 3, 1, 8);
    // The removed one reaches the member that was away first, and removes the others in turn.
    assert_eq!(
        tell(&mut away, 2, 3, out.generations_after(1), None),
        Followed::Secret
    );
    assert!(away.is_removed(&peer(1)));
    // The member that was away still hears of the other branch, though by a peer that is removed
    // there, and stays where it is.
    let told = tell(&mut away, 2, 1, a.generations_after(1), None);
    assert_eq!((told, away.id()), (Followed::Branch, out.id()));
    assert_eq!(away.branches().len(), 1);
    assert!(away.branches()[0].is_open());
    assert!(
        proofs(&away, 1).contains(&seed(1).secret().id()),
        "to be shown the chain"
    );
    assert!(away.is_estranged(&peer(1), &[seed(1).secret().id()], Timestamp(10)));
    // A person decides.
    let id = away.branches()[0].generations()[0].id().to_string();
    assert!(away.choose_branch("zzzz", Timestamp(11)).is_err());
    away.choose_branch(&id[..8], Timestamp(11)).expect("open");
    assert_eq!(away.id(), a.id());
    assert!(away.is_removed(&peer(3)) && !away.is_removed(&peer(1)));
    assert!(!away.counts(&peer(3), &[out.id(), seed(1).secret().id()], Timestamp(11)));
    // A branch that was decided against is not shown again.
    let again = tell(&mut away, 2, 3, out.generations_after(1), Some(out.seed()));
    assert_eq!((again, away.branches().len()), (Followed::Nothing, 0));
}

#[test]
fn two_removals_at_the_same_time_are_two_branches_and_are_not_merged() {
    let mut rings = ring_of(&[1, 2, 3, 4]);
    let (mut a, mut b) = (rings.remove(0), rings.remove(0));
    remove(&mut a, 1, 3, 7);
    remove(&mut b, 2, 4, 8);
    let (of_a, of_b) = (a.clone(), b.clone());
    assert_eq!(
        tell(&mut a, 1, 2, of_b.generations_after(1), None),
        Followed::Branch
    );
    assert_eq!(
        tell(&mut b, 2, 1, of_a.generations_after(1), None),
        Followed::Branch
    );
    assert_eq!(
        (a.id(), b.id()),
        (of_a.id(), of_b.id()),
        "nothing decides by itself"
    );
    assert_eq!(
        tell(&mut a, 1, 2, of_b.generations_after(1), None),
        Followed::Nothing
    );
    // Members of both branches still meet by what they have in common.
    assert!(a.counts(&peer(2), &[seed(1).secret().id()], Timestamp(10)));
    a.keep_branch();
    assert!(a.branches().is_empty());
    let id = b.branches()[0].generations()[0].id().to_string();
    b.choose_branch(&id, Timestamp(11)).expect("open");
    assert_eq!(b.id(), a.id());
    assert!(b.is_removed(&peer(3)) && !b.is_removed(&peer(4)));
}

#[test]
fn numbers_grow_by_one_and_made_up_removals_use_nothing_up() {
    let mut own = ring_of(&[1, 2, 3]).remove(0);
    let head = own.chain()[0].clone();
    // Hundreds of removals of names that nobody knows, by a member.
    let mut last = head.clone();
    for n in 0..300_u32 {
        let made_up = PeerId::random();
        let next = last.next(
            &key(2),
            &seed(n as u8),
            (&[made_up], &[peer(1)]),
            Timestamp(2),
            [3; 32],
        );
        last = next.expect("made");
        let told = tell(&mut own, 1, 2, std::slice::from_ref(&last), None);
        assert_eq!(told, Followed::Secret, "{n}");
    }
    assert_eq!(own.generation(), 301);
    assert!(own.removed().len() <= MAX_REMOVED && own.chain().len() <= MAX_GENERATIONS);
    remove(&mut own, 1, 3, 99);
    assert_eq!(own.generation(), 302);
    // One that skips a number follows nothing.
    let first = Generation::first(&key(2), &seed(1), Timestamp(1)).expect("made");
    assert_eq!(
        tell(&mut own, 1, 2, &[first], Some(&seed(1))),
        Followed::Nothing
    );
    assert_eq!(own.generation(), 302);
}

#[test]
fn a_stranger_signs_nothing_and_a_branch_of_strangers_is_not_shown() {
    let mut own = ring_of(&[1, 2]).remove(0);
    let head = own.chain()[0].clone();
    let foreign = |n: u8| {
        let next = head.next(
            &key(n),
            &seed(n),
            (&[peer(2)], &[peer(1)]),
            Timestamp(2),
            [n; 32],
        );
        next.expect("made")
    };
    assert_eq!(tell(&mut own, 1, 9, &[foreign(9)], None), Followed::Nothing);
    assert!(own.branches().is_empty());
    // A member can make one branch, however many it signs.
    remove(&mut own, 1, 2, 7);
    for n in 20..40 {
        let next = head.next(
            &key(2),
            &seed(n),
            (&[peer(9)], &[peer(1)]),
            Timestamp(n.into()),
            [n; 32],
        );
        tell(&mut own, 1, 2, &[next.expect("made")], None);
    }
    assert_eq!(own.branches().len(), 1);
}

#[test]
fn the_removed_hears_that_it_was() {
    let mut rings = ring_of(&[1, 2, 3]);
    let mut out = rings.remove(2);
    let mut a = rings.remove(0);
    remove(&mut a, 1, 3, 7);
    let told = tell(&mut out, 3, 1, a.generations_after(1), None);
    assert_eq!((told, out.id()), (Followed::ShutOut, seed(1).secret().id()));
    let branch = &out.branches()[0];
    assert!(branch.removes(&peer(3)) && !branch.is_open());
    let id = branch.generations()[0].id().to_string();
    let refused = out.choose_branch(&id, Timestamp(11));
    assert!(matches!(refused, Err(Error::NoSecret(_))), "{refused:?}");
}

#[test]
fn an_invitation_is_over_by_time_by_use_and_by_removal() {
    let mut own = ring_of(&[1, 2, 3]).remove(0);
    let proves = |ring: &Ring, of: u8, id: &RingId, at: Timestamp| {
        let secrets = ring.secrets_for(&peer(of), at);
        assert!(secrets.iter().any(|secret| secret.id() == *id));
        assert_eq!(
            ring.counts(&peer(of), &[*id], at),
            ring.spent(&peer(of), id, at).is_none()
        );
        ring.counts(&peer(of), &[*id], at)
    };
    let now = Timestamp(10);
    let code = own.invite(seed(50), DAY, false, now).expect("in the ring");
    let id = code.seed.secret().id();
    assert!(proves(&own, 8, &id, now) && proves(&own, 9, &id, now));
    assert!(!proves(&own, 8, &id, now.after(DAY)));
    let over = own.spent(&peer(8), &id, now.after(DAY));
    assert_eq!(over, Some(Spent::Over));
    let code = own.invite(seed(51), DAY, true, now).expect("in the ring");
    let single = code.seed.secret().id();
    assert!(own.let_in(&peer(8), &single, &key(1), now));
    assert!(proves(&own, 8, &single, now) && !proves(&own, 9, &single, now));
    assert_eq!(own.spent(&peer(9), &single, now), Some(Spent::Used));
    // The removed one may know them.
    remove(&mut own, 1, 3, 7);
    assert!(!proves(&own, 8, &single, now) && !proves(&own, 9, &id, now));
    assert_eq!(own.spent(&peer(9), &id, now), Some(Spent::Void));
    let mut other = Rings(vec![own.clone()]);
    assert!(
        other.expire(now.after(DAY + REMEMBERED)),
        "both are forgotten"
    );
    assert_eq!(other.0[0].meeting_secrets(now).len(), 1);
    // There are never more than may be.
    for n in 0..100 {
        own.invite(seed(n), DAY, false, now).expect("in the ring");
    }
    assert_eq!(
        own.meeting_secrets(now).len(),
        1 + invitation::MAX_INVITATIONS
    );
}

#[test]
fn a_newcomer_starts_where_the_chain_stands() {
    let mut own = ring_of(&[1, 2, 3]).remove(0);
    remove(&mut own, 1, 3, 7);
    let code = own
        .invite(seed(50), DAY, false, Timestamp(10))
        .expect("in the ring");
    let mut rings = Rings::default();
    rings.join(code.clone(), Timestamp(10)).expect("joined");
    let joined = rings.join(code, Timestamp(10)).map(drop);
    assert!(matches!(joined, Err(Error::Joined(_))), "{joined:?}");
    let mut new = rings.get("home").expect("there").clone();
    assert!(!new.is_let_in());
    assert!(
        new.remove(&peer(1), &key(4), seed(9), Timestamp(10), [0; 32])
            .is_err()
    );
    assert!(matches!(
        new.invite(seed(9), DAY, false, Timestamp(10)),
        Err(Error::NotLetIn(_))
    ));
    let told = tell(&mut new, 4, 1, own.generations_after(0), Some(own.seed()));
    assert_eq!(
        (told, new.id(), new.generation()),
        (Followed::Secret, own.id(), 2)
    );
    new.learn_removed(own.removed());
    assert!(new.is_removed(&peer(3)));
    assert!(new.past.is_empty(), "the invitation proves nothing to it");
    // From then on it follows like any other.
    own.saw(known(4, Some(2)));
    new.saw(known(1, Some(0)));
    remove(&mut own, 1, 2, 8);
    assert_eq!(
        tell(&mut new, 4, 1, own.generations_after(2), None),
        Followed::Secret
    );
    assert_eq!(new.id(), own.id());
}

#[test]
fn golden_records() {
    let first = Generation::first(&key(1), &seed(1), Timestamp(1)).expect("made");
    let next = first.next(&key(2), &seed(2), (&[peer(3)], &[]), Timestamp(2), [4; 32]);
    let next = next.expect("made");
    let admission = Admission::new(&key(1), &peer(3), next.id(), Timestamp(3)).expect("made");
    let hash = |bytes: &Bytes| HEXLOWER.encode(&hash::sha256(&[bytes])[..8]);
    let hashes = [
        hash(first.bytes()),
        hash(next.bytes()),
        hash(admission.bytes()),
    ];
    assert_eq!(
        hashes,
        ["d8994b157ab868c8", "f9045681242c9770", "ed9c8a00d015ccc0"]
    );
    // A sealed record is never the same twice: these bytes were made once.
    let sealed = HEXLOWER.decode(SEALED.trim().as_bytes()).expect("hex");
    let sealed = Generation::decode(&sealed.into()).expect("a record");
    assert_eq!(sealed.open(&key(1)), Some(seed(2)));
    assert_eq!(sealed.open(&key(3)), None);
}

/// Generation 2 after the first of `golden_records`, sealed to member 1.
const SEALED: &str = include_str!("golden_generation.hex");

proptest! {
    #[test]
    fn a_changed_record_is_none(at in any::<prop::sample::Index>(), bit in 0u32..8) {
        let first = Generation::first(&key(1), &seed(1), Timestamp(1)).expect("made");
        let next = first.next(&key(2), &seed(2), (&[peer(3)], &[peer(1)]), Timestamp(2), [4; 32]);
        let next = next.expect("made");
        let mut bytes = next.bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(read) = Generation::decode(&bytes.into()) {
            // Only what is not signed may differ, such as a tag that nobody knows.
            prop_assert_eq!(read.id(), next.id());
        }
    }

    #[test]
    fn arbitrary_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let bytes = Bytes::from(bytes);
        let _ = Generation::decode(&bytes);
        let _ = Admission::decode(&bytes);
    }
}
