//! A block of which pieces came from one peer or several.
//!
//! The pieces of different peers make the block together, so that what came over a line that broke
//! is not asked for again. Only the whole block can be checked. If it is the wrong one and came
//! from one peer alone, that peer has lied. If it came from several, nobody is blamed yet: from
//! then on nobody's piece is put to another's, and once the right block is here, each piece is held
//! against it. Pure.

use bytes::Bytes;
use libp2p::PeerId;

use crate::net::exchange::Beginning;

/// Wrong blocks of one id that are remembered until the right one is here.
const MAX_WRONG: usize = 4;

/// Pieces that are here of one block.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    beginning: Beginning,
    /// Wrong blocks, as whole as they came.
    wrong: Vec<(Beginning, Bytes)>,
    /// Nobody's piece is put to another's.
    is_unmixed: bool,
}

impl Pieces {
    /// What a peer is to go on from. Nobody else has it meanwhile.
    pub(super) fn take(&mut self, peer: PeerId) -> Beginning {
        match self.is_unmixed && !self.beginning.is_of(peer) {
            true => Beginning::default(),
            false => std::mem::take(&mut self.beginning),
        }
    }

    /// Keeps what there is after an answer that broke off, where it is more than somebody else has
    /// left.
    pub(super) fn keep(&mut self, beginning: Beginning) {
        let is_mixed = beginning.from().nth(1).is_some();
        if beginning.len() > self.beginning.len() && !(self.is_unmixed && is_mixed) {
            self.beginning = beginning;
        }
    }

    /// The whole block is a wrong one. The peer that has lied, where that is known.
    pub(super) fn is_wrong(&mut self, from: Beginning, bytes: Bytes) -> Option<PeerId> {
        let first = from.from().next().map(|(peer, _)| peer);
        if first.is_none_or(|first| from.is_of(first)) {
            return first;
        }
        self.is_unmixed = true;
        self.beginning = Beginning::default();
        if self.wrong.len() < MAX_WRONG {
            self.wrong.push((from, bytes));
        }
        None
    }

    /// The right block is here. Peers whose pieces of wrong ones are not of it.
    pub(super) fn is_right(&mut self, block: &[u8]) -> Vec<PeerId> {
        let mut liars = Vec::new();
        for (from, bytes) in std::mem::take(&mut self.wrong) {
            for (peer, range) in from.from() {
                let is_of_it = bytes.get(range.clone()) == block.get(range);
                if !is_of_it && !liars.contains(&peer) {
                    liars.push(peer);
                }
            }
        }
        liars
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: [u8; 6] = [1, 2, 3, 4, 5, 6];

    fn begun(pieces: &[(PeerId, &[u8])]) -> Beginning {
        let mut beginning = Beginning::default();
        for (peer, bytes) in pieces {
            beginning.add(*peer, beginning.len(), bytes);
        }
        beginning
    }

    #[test]
    fn the_longest_beginning_is_kept_and_one_peer_has_it_at_a_time() {
        let [a, b] = [PeerId::random(), PeerId::random()];
        let mut pieces = Pieces::default();
        pieces.keep(begun(&[(a, &BLOCK[..3])]));
        pieces.keep(begun(&[(b, &BLOCK[..2])]));
        assert_eq!(pieces.take(b).bytes(), &BLOCK[..3], "of another peer");
        assert!(pieces.take(a).is_empty(), "b has it");
    }

    #[test]
    fn a_wrong_block_of_one_peer_is_a_lie_and_one_of_several_is_not_yet() {
        let [liar, honest] = [PeerId::random(), PeerId::random()];
        let mut pieces = Pieces::default();
        let alone = begun(&[(liar, &[9, 9]), (liar, &[9])]);
        assert_eq!(pieces.is_wrong(alone, Bytes::new()), Some(liar));

        let wrong = [9, 9, 3, 4, 5, 6];
        let mixed = begun(&[(liar, &wrong[..2]), (honest, &wrong[2..])]);
        let bytes = Bytes::copy_from_slice(&wrong);
        assert_eq!(pieces.is_wrong(mixed, bytes), None);
        // From here on each goes on from its own.
        pieces.keep(begun(&[(liar, &[9, 9, 9])]));
        assert!(pieces.take(honest).is_empty());
        assert_eq!(pieces.take(liar).len(), 3);
        pieces.keep(begun(&[(liar, &[9]), (honest, &[2])]));
        assert!(pieces.take(honest).is_empty() && pieces.take(liar).is_empty());
        assert_eq!(pieces.is_right(&BLOCK), [liar]);
        assert!(pieces.is_right(&BLOCK).is_empty(), "said once");
    }

    #[test]
    fn a_block_of_another_length_shows_who_made_it_so() {
        let [short, honest] = [PeerId::random(), PeerId::random()];
        let mut pieces = Pieces::default();
        let mixed = begun(&[(honest, &BLOCK[..3]), (short, &[4, 5, 6, 7, 8])]);
        let bytes = Bytes::from_static(&[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(pieces.is_wrong(mixed, bytes), None);
        assert_eq!(pieces.is_right(&BLOCK), [short]);
    }

    #[test]
    fn few_wrong_blocks_are_remembered() {
        let mut pieces = Pieces::default();
        for _ in 0..2 * MAX_WRONG {
            let mixed = begun(&[(PeerId::random(), &[9]), (PeerId::random(), &[9])]);
            pieces.is_wrong(mixed, Bytes::from_static(&[9, 9]));
        }
        assert_eq!(pieces.wrong.len(), MAX_WRONG);
    }
}
