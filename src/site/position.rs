//! Lines and columns of offsets in a file.

/// Starts of a file's lines.
pub(super) struct Lines<'a> {
    bytes: &'a [u8],
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    /// Finds the lines of `bytes`. A line ends with LF; CR before it belongs to the line.
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        let after = bytes
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'\n')
            .map(|(at, _)| at + 1);
        Self {
            bytes,
            starts: std::iter::once(0).chain(after).collect(),
        }
    }

    /// Line and column of the byte at `offset`, both from 1. The column counts characters; bytes
    /// that are not UTF-8 count one each.
    pub(super) fn position(&self, offset: usize) -> (u64, u64) {
        let offset = offset.min(self.bytes.len());
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = self
            .starts
            .get(line.saturating_sub(1))
            .copied()
            .unwrap_or(0);
        let before = self.bytes.get(start..offset).unwrap_or_default();
        let column = String::from_utf8_lossy(before).chars().count() + 1;
        (line as u64, column as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        let text = "ab\r\n\u{e4}\u{e4}x\n\nz".as_bytes();
        let lines = Lines::of(text);
        assert_eq!(lines.position(0), (1, 1));
        assert_eq!(lines.position(2), (1, 3));
        assert_eq!(lines.position(4), (2, 1));
        assert_eq!(lines.position(8), (2, 3));
        assert_eq!(lines.position(10), (3, 1));
        assert_eq!(lines.position(11), (4, 1));
        assert_eq!(lines.position(1000), (4, 2));
        assert_eq!(Lines::of(b"").position(0), (1, 1));
    }
}
