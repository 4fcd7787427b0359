//! Names that stand for links in URLs for as long as the server runs, so that a key does not stay
//! where browsers keep addresses: the address bar, bookmarks, what the history shows, caches.
//!
//! A label says nothing about its link, and can't be guessed: it is a hash under a secret of this
//! run. One link has one label. Deliberately absent: a file. After a restart a link has to be
//! opened again.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use data_encoding::HEXLOWER;

use crate::block::Link;
use crate::crypto::hash;
use crate::crypto::key::Key;

/// First segment of URLs with a label.
pub(super) const ROUTE: &str = "open";
/// Bytes of a label.
const LABEL_BYTES: usize = 16;
/// Most links that are remembered. Links that were opened first are forgotten first.
const MAX_LABELS: usize = 4096;

/// The links that were opened in this run.
#[derive(Debug)]
pub(super) struct Labels {
    secret: Key,
    opened: Mutex<Opened>,
}

#[derive(Debug, Default)]
struct Opened {
    links: HashMap<String, Link>,
    order: VecDeque<String>,
}

impl Labels {
    pub(super) fn new() -> Self {
        Self {
            secret: Key::random(),
            opened: Mutex::default(),
        }
    }

    /// The path of a URL that stands for `link` from here on.
    pub(super) fn path_of(&self, link: &Link) -> String {
        let mut material = zeroize::Zeroizing::new(link.id.to_multihash());
        material.extend_from_slice(link.key.as_bytes());
        let hash = hash::keyed(self.secret.as_bytes(), &material);
        let (label, _) = hash.split_at(LABEL_BYTES);
        let label = HEXLOWER.encode(label);
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if opened.links.insert(label.clone(), link.clone()).is_none() {
            opened.order.push_back(label.clone());
        }
        if opened.order.len() > MAX_LABELS
            && let Some(oldest) = opened.order.pop_front()
        {
            opened.links.remove(&oldest);
        }
        format!("/{ROUTE}/{label}")
    }

    /// The link that a label stands for, if it was opened in this run and is not forgotten.
    pub(super) fn link(&self, label: &str) -> Option<Link> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.links.get(label).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::BlockId;

    fn link(byte: usize) -> Link {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&byte.to_le_bytes());
        Link {
            id: BlockId::from_sha384([1; 48]),
            key: Key::new(key),
        }
    }

    #[test]
    fn a_label_stands_for_its_link_and_says_nothing_about_it() {
        let (labels, others) = (Labels::new(), Labels::new());
        let path = labels.path_of(&link(1));
        assert_eq!(labels.path_of(&link(1)), path);
        assert_ne!(labels.path_of(&link(2)), path);
        assert_ne!(others.path_of(&link(1)), path, "each run has its own");
        let label = path.strip_prefix("/open/").expect("the route");
        assert_eq!(labels.link(label), Some(link(1)));
        assert_eq!(Labels::new().link(label), None);
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let labels = Labels::new();
        let paths: Vec<String> = (0..=MAX_LABELS).map(|n| labels.path_of(&link(n))).collect();
        let found = |path: &String| labels.link(path.strip_prefix("/open/").expect("the route"));
        assert_eq!(found(&paths[0]), None);
        assert_eq!(found(&paths[1]), Some(link(1)));
        assert_eq!(found(&paths[MAX_LABELS]), Some(link(MAX_LABELS)));
    }
}
