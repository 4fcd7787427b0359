//! Keys that matter to a node, by what it is and has. Pure.

use std::collections::HashSet;

use super::handle::Topic;
use crate::id::BlockId;
use crate::net::meet::{Ask, Interest, Key, head_keys, link_key, mesh_keys, ring_keys};
use crate::ring::Rings;
use crate::time::Timestamp;

/// With so many peers nobody waits for further ones of the mesh, and with so many none is dialled.
const ENOUGH_PEERS: usize = 4;
const MANY_PEERS: usize = 8;

/// Facts about a node.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) now: Timestamp,
    pub(super) network: &'a str,
    /// Whether somebody agreed to being seen as a node of the mesh.
    pub(super) is_joined: bool,
    /// Whether the node runs on: one that ends with a command is not announced.
    pub(super) serves: bool,
    pub(super) connected: usize,
    pub(super) rings: &'a Rings,
    /// Names of rings of which a member is online.
    pub(super) met: &'a HashSet<String>,
    /// Heads that are kept here.
    pub(super) heads: &'a [BlockId],
    /// Roots of links that are to be found by anybody.
    pub(super) roots: &'a [BlockId],
    /// Keys that calls wait for.
    pub(super) wanted: &'a [Topic],
}

/// Keys that matter, the most urgent first, and those whose addresses are worth a dial.
pub(super) fn interests(facts: &Facts<'_>) -> (Vec<Interest>, HashSet<Key>) {
    let mut all = Vec::new();
    let mut dialled = HashSet::new();
    for topic in facts.wanted {
        let keys = match topic {
            Topic::Head(head) => head_keys(head, facts.now),
            Topic::Link(_) if !facts.is_joined => continue,
            Topic::Link(root) => vec![link_key(root)],
        };
        dialled.extend(keys.iter().copied());
        all.extend(keys.into_iter().map(|key| Interest {
            key,
            ask: Ask::Urgent,
            announce: false,
        }));
    }
    if facts.is_joined {
        let ask = match facts.connected {
            0 => Ask::Urgent,
            few if few < ENOUGH_PEERS => Ask::Wanted,
            _ => Ask::Calm,
        };
        let keys = mesh_keys(facts.network, facts.now);
        if facts.connected < MANY_PEERS {
            dialled.extend(keys.iter().copied());
        }
        all.extend(keys.into_iter().map(|key| Interest {
            key,
            ask,
            announce: facts.serves,
        }));
    }
    for ring in facts.rings.as_slice() {
        if !ring.meets_anywhere() {
            continue;
        }
        let ask = match facts.met.contains(ring.name()) {
            true => Ask::Calm,
            false => Ask::Urgent,
        };
        for secret in ring.meeting_secrets(facts.now) {
            for (day, key) in ring_keys(&secret, facts.now).into_iter().enumerate() {
                dialled.insert(key);
                all.push(Interest {
                    key,
                    ask,
                    announce: facts.serves && day == 0,
                });
            }
        }
        // A member that was away announces under what it knows. Nobody announces for it: those who
        // were removed know these secrets, too.
        for secret in ring.past_meeting_secrets(facts.now) {
            for key in ring_keys(&secret, facts.now) {
                dialled.insert(key);
                all.push(Interest {
                    key,
                    ask: Ask::Calm,
                    announce: false,
                });
            }
        }
    }
    if facts.is_joined && facts.serves {
        let heads = facts.heads.iter();
        let heads = heads.flat_map(|head| head_keys(head, facts.now));
        let roots = facts.roots.iter().map(link_key);
        all.extend(heads.chain(roots).map(|key| Interest {
            key,
            ask: Ask::Never,
            announce: true,
        }));
    }
    (all, dialled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::{ENTROPY_BYTES, INVITATION_TTL, Seed};
    use libp2p::identity::Keypair;

    const NOW: Timestamp = Timestamp(1_795_000_000_000);

    fn facts<'a>(rings: &'a Rings, met: &'a HashSet<String>) -> Facts<'a> {
        Facts {
            now: NOW,
            network: "libernet",
            is_joined: false,
            serves: true,
            connected: 0,
            rings,
            met,
            heads: &[],
            roots: &[],
            wanted: &[],
        }
    }

    fn rings(anywhere: bool) -> Rings {
        let mut rings = Rings::default();
        let key = Keypair::generate_ed25519();
        let ring = rings.create("home", &key, Seed::new([1; 16]), NOW);
        ring.expect("made").meet_anywhere(anywhere);
        rings
    }

    #[test]
    fn without_consent_or_need_nothing_matters() {
        let (rings, met) = (rings(false), HashSet::new());
        let id = BlockId::from_sha384([1; 48]);
        let facts = Facts {
            heads: &[id],
            roots: &[id],
            wanted: &[Topic::Link(id)],
            ..facts(&rings, &met)
        };
        assert_eq!(interests(&facts), (vec![], HashSet::new()));
        let restoring = Facts {
            wanted: &[Topic::Head(id)],
            ..facts
        };
        let (all, dialled) = interests(&restoring);
        assert!(!all.is_empty());
        assert!(
            all.iter()
                .all(|one| !one.announce && one.ask == Ask::Urgent)
        );
        assert_eq!(dialled.len(), all.len());
    }

    #[test]
    fn a_node_that_joined_announces_itself_its_heads_and_its_roots_and_a_command_does_not() {
        let (rings, met) = (Rings::default(), HashSet::new());
        let (head, root) = (BlockId::from_sha384([1; 48]), BlockId::from_sha384([2; 48]));
        let mut facts = Facts {
            is_joined: true,
            heads: &[head],
            roots: &[root],
            ..facts(&rings, &met)
        };
        let (all, dialled) = interests(&facts);
        assert_eq!(all[0].ask, Ask::Urgent);
        assert!(all.iter().all(|one| one.announce));
        assert!(all.iter().any(|one| one.key == link_key(&root)));
        assert_eq!(dialled.len(), mesh_keys("libernet", NOW).len());
        facts.connected = 1;
        assert_eq!(interests(&facts).0[0].ask, Ask::Wanted);
        facts.connected = MANY_PEERS;
        let (all, dialled) = interests(&facts);
        assert_eq!((all[0].ask, dialled.len()), (Ask::Calm, 0));
        facts.serves = false;
        let (all, _) = interests(&facts);
        assert!(all.iter().all(|one| !one.announce));
    }

    #[test]
    fn a_ring_that_meets_anywhere_needs_no_consent_to_the_mesh_and_a_new_secret_has_new_keys() {
        let (mut rings, met) = (rings(true), HashSet::new());
        let key = Keypair::generate_ed25519();
        let (before, _) = interests(&facts(&rings, &met));
        assert_eq!(before.len(), 2);
        assert_eq!(before.iter().filter(|one| one.announce).count(), 1);
        assert!(before.iter().all(|one| one.ask == Ask::Urgent));
        let ring = rings.get_mut("home").expect("there");
        ring.invite(Seed::new([2; 16]), INVITATION_TTL, false, NOW)
            .expect("a member");
        let (with_invitation, _) = interests(&facts(&rings, &met));
        assert_eq!(with_invitation.len(), 4, "the invited meet by their code");

        let ring = rings.get_mut("home").expect("there");
        let peer = Keypair::generate_ed25519().public().to_peer_id();
        ring.saw(crate::ring::Known {
            peer,
            name: String::new(),
            last_seen: NOW,
            proven: Some(1),
            place: String::new(),
            addresses: Vec::new(),
        });
        ring.remove(&peer, &key, Seed::new([3; 16]), NOW, [0; ENTROPY_BYTES])
            .expect("removed");
        let met = HashSet::from(["home".to_owned()]);
        let (after, _) = interests(&facts(&rings, &met));
        let old: Vec<_> = after
            .iter()
            .filter(|one| before.iter().any(|other| other.key == one.key))
            .collect();
        assert!(old.iter().all(|one| !one.announce && one.ask == Ask::Calm));
        let announced: Vec<_> = after.iter().filter(|one| one.announce).collect();
        let secret = rings.get("home").expect("there").secret();
        assert_eq!(announced.len(), 1);
        assert_eq!(announced[0].key, ring_keys(&secret, NOW)[0]);
    }
}
