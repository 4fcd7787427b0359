//! The first lines of `status`: whether the backups are safe, and whether others reach this node.
//!
//! Each says only what was checked. Deliberately absent: how each set stands, which `health` says.

use crate::cli::show;
use crate::node::api::{HealthReply, Peer, SetHealth, StatusReply};

/// Whether the backups are safe.
pub(super) struct Safe {
    /// Nothing when there are none.
    pub(super) is_safe: Option<bool>,
    /// The same for people.
    pub(super) words: String,
}

/// Whether all backups are as asked, and somebody else has each of them.
pub(super) fn safe(health: &HealthReply) -> Safe {
    let of = |is_safe, words: &str| Safe {
        is_safe,
        words: words.to_owned(),
    };
    if health.sets.is_empty() {
        return match health.owner {
            true => of(None, "nothing is backed up"),
            false => of(None, "this machine backs nothing up"),
        };
    }
    if !health.sets.iter().all(SetHealth::is_as_asked) {
        return of(Some(false), "NO");
    }
    let alone = health.sets.iter().filter(|set| set.copies_min == 0).count();
    if !health.problems.is_empty() {
        return of(Some(false), "NO: there is a problem, see below");
    }
    match alone {
        0 if !health.sets.iter().all(SetHealth::is_well) => of(
            Some(false),
            "NO: some set is overdue, was never backed up, or can't be",
        ),
        0 => of(
            Some(true),
            "yes, as far as holders were heard of: every backup that asks for copies has them",
        ),
        alone if alone == health.sets.len() => {
            of(Some(false), "NO: on this disk only, nobody else has a copy")
        }
        _ => of(
            Some(false),
            "NO: some backups are on this disk only, nobody else has a copy of them",
        ),
    }
}

/// Whether others reach this node, as far as that has shown.
pub(super) fn reachable(status: &StatusReply, peers: &[Peer]) -> String {
    let is_local =
        |address: &String| address.starts_with("/ip4/127.") || address.starts_with("/ip6/::1/");
    let came = peers.iter().filter(|peer| peer.direction == "inbound");
    let came = came.count() as u64;
    let connected = show::count(peers.len() as u64, "peer");
    if status.addresses.is_empty() {
        return format!("no: it listens on no address; connected to {connected}");
    }
    if status.addresses.iter().all(is_local) {
        return format!("from this machine only: it listens on loopback; connected to {connected}");
    }
    match status.reach.reachable.as_str() {
        "public" => {
            let address = status.reach.addresses.first();
            let address = address.map_or("its address", String::as_str);
            return format!(
                "yes: somebody outside has reached it at {address}; connected to {connected}"
            );
        }
        "relay" => {
            let relays = show::count(status.reach.relays.len() as u64, "relay");
            return format!("through {relays}, not directly; connected to {connected}");
        }
        "no" => {
            return format!(
                "no: nobody outside gets through its router, and no relay keeps a way open; connected to {connected}"
            );
        }
        _ => {}
    }
    match came {
        0 => format!("not shown yet: no peer has come to this node; connected to {connected}"),
        came => format!("yes: {came} of {connected} came to this node"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    fn set(name: &str, copies_min: u32, copies_asked: u32) -> SetHealth {
        SetHealth {
            name: name.to_owned(),
            copies_min,
            copies_asked,
            survives: copies_min,
            ..SetHealth::default()
        }
    }

    #[test]
    fn only_what_somebody_else_has_is_called_safe() {
        let of = |sets: Vec<SetHealth>| {
            safe(&HealthReply {
                sets,
                ..HealthReply::default()
            })
        };
        assert_eq!(of(Vec::new()).is_safe, None);
        assert_eq!(of(vec![set("docs", 2, 2)]).is_safe, Some(true));
        assert_eq!(of(vec![set("docs", 1, 2)]).is_safe, Some(false));
        let some = of(vec![set("docs", 2, 2), set("", 0, 0)]);
        assert_eq!(some.is_safe, Some(false));
        assert!(some.words.contains("some backups"), "{}", some.words);
        let overdue = SetHealth {
            overdue_since: Some(Timestamp(1)),
            ..set("docs", 2, 2)
        };
        let overdue = of(vec![overdue]);
        assert_eq!(overdue.is_safe, Some(false));
        assert!(overdue.words.contains("overdue"), "{}", overdue.words);
        let turned_out = safe(&HealthReply {
            sets: vec![set("docs", 2, 2)],
            problems: vec!["this machine was turned out by its owner".to_owned()],
            ..HealthReply::default()
        });
        assert_eq!(turned_out.is_safe, Some(false));
        let alone = of(vec![set("docs", 0, 0)]);
        assert!(alone.words.contains("on this disk only"), "{}", alone.words);
    }
}
