//! Making the index of a damaged store again, before a node opens it.

use std::path::Path;

use super::api::*;
use super::{STORE_DIR, blocking};
use crate::config::Config;
use crate::size::ByteSize;
use crate::store::{self, StoreOptions};

/// Pins that are named one by one.
const MAX_NAMED: usize = 10;

/// Makes the index of the store in a data directory again. No node may run on it.
///
/// # Errors
/// [`ErrorKind::Locked`], [`ErrorKind::Full`], [`ErrorKind::Damaged`] when there is nothing to make
/// it from.
pub async fn rebuild(data_dir: &Path, config: &Config) -> Result<RebuildReply, CallError> {
    let dir = data_dir.join(STORE_DIR);
    let options = StoreOptions {
        quota: config.quota,
        ..StoreOptions::default()
    };
    let rebuilt = blocking(move || Ok(store::rebuild(&dir, &options)?)).await;
    match rebuilt {
        Ok(rebuilt) => Ok(rebuilt.into()),
        Err(error) if error.kind == ErrorKind::Locked => Err(error.with_hint(
            "stop the node that runs: `libernet up` makes a damaged index again by itself when it starts",
        )),
        Err(error) => Err(error),
    }
}

impl From<store::Rebuilt> for RebuildReply {
    fn from(rebuilt: store::Rebuilt) -> Self {
        let kept = rebuilt.kept;
        Self {
            aside: rebuilt.aside,
            blocks: rebuilt.blocks,
            bytes: rebuilt.bytes,
            damaged: rebuilt.damaged,
            lost: rebuilt.lost,
            pins: rebuilt.pins,
            partial_pins: rebuilt
                .partial_pins
                .into_iter()
                .map(|pin| PartialPin {
                    id: pin.root,
                    name: pin.name,
                    blocks: pin.blocks,
                    found: pin.found,
                })
                .collect(),
            leases: rebuilt.leases,
            unreadable: rebuilt
                .unreadable
                .iter()
                .map(|path| path.display().to_string())
                .collect(),
            whole_index: rebuilt.is_whole,
            kept: kept.map(|(root, _)| root),
            kept_blocks: kept.map_or(0, |(_, blocks)| blocks),
        }
    }
}

impl RebuildReply {
    /// Whether everything came back, as far as can be told.
    pub fn is_whole(&self) -> bool {
        self.whole_index && self.damaged == 0 && self.lost == 0 && self.partial_pins.is_empty()
    }

    /// Lines for people: the deed, and each thing that is missing.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "the index was made again: {} blocks ({}), {} pins, {} leases; the old files are in {}: remove them when all is well",
            self.blocks,
            ByteSize(self.bytes),
            self.pins,
            self.leases,
            self.aside.display()
        )];
        if self.damaged > 0 {
            lines.push(format!(
                "{} places in the files that hold the blocks are damaged: what was there is not back",
                self.damaged
            ));
        }
        if self.lost > 0 {
            lines.push(format!(
                "{} blocks that pins or leases need were not found: a node fetches them from others that have them",
                self.lost
            ));
        }
        if !self.unreadable.is_empty() {
            let names = self.unreadable.join(", ");
            lines.push(format!(
                "files of the old index that can't be read: {names}"
            ));
        }
        for pin in self.partial_pins.iter().take(MAX_NAMED) {
            lines.push(format!(
                "the pin '{}' ({}) keeps {} of its {} blocks: `libernet pin add LINK` completes it",
                pin.name, pin.id, pin.found, pin.blocks
            ));
        }
        if self.partial_pins.len() > MAX_NAMED {
            let more = self.partial_pins.len() - MAX_NAMED;
            lines.push(format!("{more} more pins keep only a part of their blocks"));
        }
        if !self.whole_index {
            lines.push(
                "parts of the old index can't be read: pins and leases that only these knew of are lost"
                    .to_owned(),
            );
        }
        if let Some(root) = self.kept {
            lines.push(format!(
                "{} blocks of which nobody knows what they are for are pinned as {root}: `libernet check` pins backups again, and \
                 `libernet pin rm {root}` lets go of the rest",
                self.kept_blocks
            ));
        }
        lines
    }
}
