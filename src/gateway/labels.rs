//! Names that stand for links in URLs for as long as the server runs, so that a key does not stay
//! where browsers keep addresses: the address bar, bookmarks, what the history shows, caches.
//!
//! There are two kinds. A **site label** is the first part of a host name of the bundle's own and
//! is made of its id, so that the bundle has the same origin at each reader. It can be worked out
//! by anybody who knows the id, and stands for a link only after the link was opened. A **path
//! label** says nothing about its link and can't be guessed: it is a hash under a secret of this
//! run. It serves where host names of one's own don't lead to this server.
//!
//! One link has one label of each kind. Deliberately absent: a file. After a restart a link has to
//! be opened again.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use data_encoding::{BASE32_NOPAD, HEXLOWER};

use crate::block::Link;
use crate::crypto::hash;
use crate::crypto::key::Key;
use crate::id::BlockId;

/// First segment of URLs with a label.
pub(super) const ROUTE: &str = "open";
/// Bytes of a label.
const LABEL_BYTES: usize = 16;
/// Most links that are remembered, for each kind of label. Those opened longest ago go first.
const MAX_LABELS: usize = 4096;
/// Bytes of an id that a site label holds: as many as fit in one part of a host name.
const SITE_BYTES: usize = 32;
/// Letters of a site label.
const SITE_LETTERS: usize = 52;

/// The site label of a bundle: base32 of the first 256 bits of its root's id.
pub(super) fn site_label(id: &BlockId) -> String {
    let digest = id.digest();
    let first = digest.get(..SITE_BYTES).unwrap_or(digest);
    BASE32_NOPAD.encode(first).to_ascii_lowercase()
}

/// Whether a part of a host name has the form of a site label, in lower case.
pub(super) fn is_site_label(part: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || (b'2'..=b'7').contains(&byte);
    part.len() == SITE_LETTERS && part.bytes().all(is_letter)
}

/// The links that were opened in this run.
#[derive(Debug)]
pub(super) struct Labels {
    secret: Key,
    paths: Mutex<Opened>,
    sites: Mutex<Opened>,
}

/// Links by one kind of label.
#[derive(Debug, Default)]
struct Opened {
    links: HashMap<String, Link>,
    /// The labels; the link opened last is at the end.
    order: VecDeque<String>,
}

impl Opened {
    fn open(&mut self, label: String, link: Link) {
        if self.links.insert(label.clone(), link).is_some() {
            self.order.retain(|known| *known != label);
        }
        self.order.push_back(label);
        if self.order.len() > MAX_LABELS
            && let Some(oldest) = self.order.pop_front()
        {
            self.links.remove(&oldest);
        }
    }
}

fn lock(opened: &Mutex<Opened>) -> MutexGuard<'_, Opened> {
    // The table is whole between two statements.
    opened.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Labels {
    pub(super) fn new() -> Self {
        Self {
            secret: Key::random(),
            paths: Mutex::default(),
            sites: Mutex::default(),
        }
    }

    /// The path of a URL that stands for `link` from here on.
    pub(super) fn path_of(&self, link: &Link) -> String {
        let mut material = zeroize::Zeroizing::new(link.id.to_multihash());
        material.extend_from_slice(link.key.as_bytes());
        let hash = hash::keyed(self.secret.as_bytes(), &material);
        let (label, _) = hash.split_at(LABEL_BYTES);
        let label = HEXLOWER.encode(label);
        lock(&self.paths).open(label.clone(), link.clone());
        format!("/{ROUTE}/{label}")
    }

    /// The link that a path label stands for, if it was opened in this run and is not forgotten.
    pub(super) fn link(&self, label: &str) -> Option<Link> {
        lock(&self.paths).links.get(label).cloned()
    }

    /// Has the site label of `link` stand for it from here on; returns the label.
    pub(super) fn open_site(&self, link: &Link) -> String {
        let label = site_label(&link.id);
        lock(&self.sites).open(label.clone(), link.clone());
        label
    }

    /// The link that a site label stands for, if it was opened in this run and is not forgotten.
    pub(super) fn site(&self, label: &str) -> Option<Link> {
        lock(&self.sites).links.get(label).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// The label of a site is the same at each reader, and stands for nothing before it is opened.
    #[test]
    fn a_site_label_is_made_of_the_id() {
        let labels = Labels::new();
        let (link, label) = (link(1), site_label(&link(1).id));
        assert_eq!(
            label,
            "aeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaq"
        );
        assert!(is_site_label(&label));
        assert!(is_site_label(&site_label(&BlockId::from_sha256([255; 32]))));
        assert_eq!(labels.site(&label), None);
        assert_eq!(labels.open_site(&link), label);
        assert_eq!(labels.site(&label), Some(link));
        assert_eq!(labels.link(&label), None, "it is no path label");
        for wrong in [
            "",
            "api",
            &label[1..],
            &label.to_uppercase(),
            &label.replace('a', "1"),
        ] {
            assert!(!is_site_label(wrong), "{wrong}");
        }
    }

    #[test]
    fn the_site_opened_longest_ago_is_forgotten() {
        let labels = Labels::new();
        let site = |n: usize| {
            let mut digest = [0; 48];
            digest[..8].copy_from_slice(&n.to_be_bytes());
            let (id, key) = (BlockId::from_sha384(digest), Key::new([0; 32]));
            Link { id, key }
        };
        let opened: Vec<String> = (0..MAX_LABELS)
            .map(|n| labels.open_site(&site(n)))
            .collect();
        labels.open_site(&site(0));
        labels.open_site(&site(MAX_LABELS));
        assert_eq!(
            labels.site(&opened[0]),
            Some(site(0)),
            "it was opened again"
        );
        assert_eq!(labels.site(&opened[1]), None);
        assert_eq!(labels.site(&opened[2]), Some(site(2)));
    }
}
