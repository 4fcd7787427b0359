//! Lines of a running node for a person: for who comes and goes, for backups that ran, for what is
//! kept for others.
//!
//! In a large mesh peers come and go all the time: past some lines a minute they are counted, and
//! the next line says how many they were. Scripts get every event with `--json`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::cli::show;
use crate::node::NodeEvent;
use crate::size::ByteSize;

/// Lines about peers in one window.
const MAX_LINES: u32 = 12;
/// The window.
const WINDOW: Duration = Duration::from_secs(60);
/// Names of members that are remembered.
const MAX_NAMES: usize = 1024;

/// Turns events into lines.
#[derive(Debug)]
pub(super) struct Told {
    /// Names of members' machines, by peer.
    names: HashMap<String, String>,
    since: Instant,
    lines: u32,
    unsaid: u64,
    /// Show whole ids.
    whole: bool,
}

impl Told {
    pub(super) fn new(now: Instant, whole: bool) -> Self {
        Self {
            names: HashMap::new(),
            since: now,
            lines: 0,
            unsaid: 0,
            whole,
        }
    }

    /// Notes what a member's machine is called.
    pub(super) fn name(&mut self, peer: &str, name: &str) {
        if !name.is_empty() && self.names.len() < MAX_NAMES {
            self.names.insert(peer.to_owned(), show::printable(name));
        }
    }

    /// Name of a peer in a line.
    fn peer(&self, peer: &str) -> String {
        let id = match self.whole {
            true => peer,
            false => show::short(peer),
        };
        match self.names.get(peer) {
            Some(name) => format!("{name} ({id})"),
            None => id.to_owned(),
        }
    }

    /// A line about a peer, unless there were too many lately.
    fn of_peer(&mut self, text: String, now: Instant) -> Option<String> {
        if now.saturating_duration_since(self.since) >= WINDOW {
            (self.since, self.lines) = (now, 0);
        }
        self.lines += 1;
        if self.lines > MAX_LINES {
            self.unsaid += 1;
            return None;
        }
        Some(match std::mem::take(&mut self.unsaid) {
            0 => text,
            1 => format!("one other came or went; {text}"),
            unsaid => format!("{unsaid} others came or went; {text}"),
        })
    }

    /// The line for an event; none for what a person need not hear.
    pub(super) fn line(&mut self, event: &NodeEvent, now: Instant) -> Option<String> {
        match event {
            NodeEvent::PeerConnected { peer } => {
                let text = format!("{} connected", self.peer(peer));
                self.of_peer(text, now)
            }
            NodeEvent::PeerGone { peer } => {
                let text = format!("{} is gone", self.peer(peer));
                self.of_peer(text, now)
            }
            NodeEvent::Member { peer, ring } => {
                let text = format!(
                    "{} of the ring '{}' is here",
                    self.peer(peer),
                    show::printable(ring)
                );
                self.of_peer(text, now)
            }
            NodeEvent::Listening { address } => Some(format!("listening on {address}")),
            NodeEvent::Bootstrapped {} => Some("joined the mesh".to_owned()),
            NodeEvent::Reachable { reachable } => Some(
                match reachable.as_str() {
                    "public" => "others can reach this node from outside",
                    "relay" => "others can reach this node through a relay",
                    "no" => "nobody outside can reach this node",
                    _ => "whether others can reach this node is not known yet",
                }
                .to_owned(),
            ),
            NodeEvent::BackedUp {
                set,
                snapshot,
                files,
                bytes,
                unreadable,
            } => {
                let what = match set.as_str() {
                    "" => "a backup".to_owned(),
                    set => format!("the backup of '{}'", show::printable(set)),
                };
                let mut text = format!(
                    "{what} is done: {}, {}, snapshot {}",
                    show::count(*files, "file"),
                    ByteSize(*bytes),
                    show::short(snapshot)
                );
                if *unreadable > 0 {
                    let problems = show::count(*unreadable, "problem");
                    text.push_str(&format!(", {problems} (`libernet backup` names them)"));
                }
                Some(text)
            }
            NodeEvent::BackupFailed { set, message } => Some(format!(
                "the backup of '{}' FAILED: {}",
                show::printable(set),
                show::printable(message)
            )),
            NodeEvent::LeaseTaken {
                peer,
                blocks,
                bytes,
            } => {
                let of = match peer {
                    Some(peer) => self.peer(peer),
                    None => "somebody".to_owned(),
                };
                Some(format!(
                    "keeping a backup for {of}: {} in {}",
                    ByteSize(*bytes),
                    show::count(*blocks, "block")
                ))
            }
            // It is logged.
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_in_words() {
        let now = Instant::now();
        let mut told = Told::new(now, false);
        let peer = "12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X".to_owned();
        let mut line = |event| told.line(&event, now).expect("a line");
        assert_eq!(
            line(NodeEvent::PeerConnected { peer: peer.clone() }),
            "12D3KooWPjce connected"
        );
        assert_eq!(
            line(NodeEvent::BackedUp {
                set: "docs".to_owned(),
                snapshot: "0123456789".to_owned(),
                files: 1,
                bytes: 2048,
                unreadable: 2,
            }),
            "the backup of 'docs' is done: 1 file, 2 KiB, snapshot 01234567, 2 problems (`libernet backup` names them)"
        );
        told.name(&peer, "nas\x1b");
        let mut line = |event| told.line(&event, now).expect("a line");
        assert_eq!(
            line(NodeEvent::LeaseTaken {
                peer: Some(peer.clone()),
                blocks: 1,
                bytes: 1024,
            }),
            "keeping a backup for nas\\u{1b} (12D3KooWPjce): 1 KiB in 1 block"
        );
        let text = line(NodeEvent::BackupFailed {
            set: "docs".to_owned(),
            message: "a\nb".to_owned(),
        });
        assert_eq!(text, "the backup of 'docs' FAILED: a\\u{a}b");
        let whole = Told::new(now, true).line(&NodeEvent::PeerGone { peer: peer.clone() }, now);
        assert_eq!(whole, Some(format!("{peer} is gone")));
    }

    #[test]
    fn a_crowd_is_counted() {
        let mut now = Instant::now();
        let mut told = Told::new(now, false);
        let event = NodeEvent::PeerGone {
            peer: "12D3".to_owned(),
        };
        let said = (0..MAX_LINES + 7).filter_map(|_| told.line(&event, now));
        assert_eq!(said.count(), MAX_LINES as usize);
        // Events that matter are said all the same.
        let backup = NodeEvent::BackupFailed {
            set: String::new(),
            message: String::new(),
        };
        assert!(told.line(&backup, now).is_some());
        now += WINDOW;
        let next = told.line(&event, now).expect("a line");
        assert_eq!(next, "7 others came or went; 12D3 is gone");
    }
}
