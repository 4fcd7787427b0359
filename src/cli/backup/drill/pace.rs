//! Time that files take: the wait before the first byte of each, apart from the rate at which the
//! rest comes.
//!
//! A few small files take as long as looking for their blocks does, which says nothing of how fast
//! a large backup comes back. The two are told apart by a line through (bytes, seconds) of the
//! files of the sample, by least squares.

/// Files that a line is drawn through, at least.
const MIN_FILES: usize = 4;
/// The sample has so many bytes, at least, before a rate is told.
const MIN_BYTES: u64 = 1 << 20;
/// The line explains this part of the differences in time, at least; with less the times say
/// nothing of the sizes.
const MIN_EXPLAINED: f64 = 0.25;

/// Latency and rate that a sample tells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pace {
    /// Seconds before a file's first byte, on the average.
    pub(super) latency_s: f64,
    /// Bytes a second of one file after that; none when the sample does not tell.
    pub(super) bytes_per_s: Option<f64>,
}

impl Pace {
    /// From the bytes and seconds of each file; none without files.
    pub(super) fn of(files: &[(u64, f64)]) -> Option<Self> {
        let count = files.len() as f64;
        if files.is_empty() {
            return None;
        }
        let mean = |value: fn(&(u64, f64)) -> f64| files.iter().map(value).sum::<f64>() / count;
        let (bytes, seconds) = (mean(|file| file.0 as f64), mean(|file| file.1));
        let unknown = Self {
            latency_s: seconds,
            bytes_per_s: None,
        };
        let total: u64 = files.iter().map(|file| file.0).sum();
        if files.len() < MIN_FILES || total < MIN_BYTES {
            return Some(unknown);
        }
        let (mut covariance, mut of_bytes, mut of_seconds) = (0.0, 0.0, 0.0);
        for (file_bytes, file_seconds) in files {
            let (x, y) = (*file_bytes as f64 - bytes, file_seconds - seconds);
            covariance += x * y;
            of_bytes += x * x;
            of_seconds += y * y;
        }
        let explained = covariance * covariance / (of_bytes * of_seconds);
        if covariance <= 0.0 || !explained.is_finite() || explained < MIN_EXPLAINED {
            return Some(unknown);
        }
        // No file waits less than nothing: the line then goes through the origin.
        let slope = covariance / of_bytes;
        let latency_s = seconds - slope * bytes;
        Some(match latency_s > 0.0 {
            true => Self {
                latency_s,
                bytes_per_s: Some(1.0 / slope),
            },
            false => Self {
                latency_s: 0.0,
                bytes_per_s: Some(bytes / seconds),
            },
        })
    }

    /// Seconds that so many files and bytes take when so many files come at the same time; none
    /// when the rate is not known.
    pub(super) fn seconds(&self, files: u64, bytes: u64, at_once: usize) -> Option<f64> {
        let work = files as f64 * self.latency_s + bytes as f64 / self.bytes_per_s?;
        Some(work / at_once.max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_and_rate_are_told_apart() {
        // A fifth of a second, then 10 MB/s.
        let took = |bytes: u64| (bytes, 0.2 + bytes as f64 / 10e6);
        let files = [1_000, 50_000, 2_000_000, 8_000_000, 300_000].map(took);
        let pace = Pace::of(&files).expect("files");
        assert!((pace.latency_s - 0.2).abs() < 1e-6, "{pace:?}");
        assert!(
            (pace.bytes_per_s.expect("a rate") - 10e6).abs() < 1.0,
            "{pace:?}"
        );
        let all = pace.seconds(100, 100_000_000, 8).expect("a rate");
        assert!((all - (20.0 + 10.0) / 8.0).abs() < 1e-6, "{all}");
    }

    #[test]
    fn small_files_tell_no_rate() {
        let pace = Pace::of(&[(100, 0.1), (200, 0.3), (50, 0.2), (70, 0.2)]).expect("files");
        assert_eq!(pace.bytes_per_s, None);
        assert!((pace.latency_s - 0.2).abs() < 1e-9, "{pace:?}");
        assert_eq!(pace.seconds(1, 1, 8), None);
        assert_eq!(Pace::of(&[]), None);
        // Large ones that took any time at all tell none either, nor do files of one size.
        for seconds in [[0.9, 0.1, 0.5, 0.1], [0.1, 0.1, 0.1, 0.1]] {
            let sizes = [1_u64 << 20, 2 << 20, 3 << 20, 4 << 20];
            let files: Vec<(u64, f64)> = sizes.into_iter().zip(seconds).collect();
            assert_eq!(Pace::of(&files).expect("files").bytes_per_s, None);
        }
        let same = [
            (1 << 20, 0.1),
            (1 << 20, 0.2),
            (1 << 20, 0.3),
            (1 << 20, 0.4),
        ];
        assert_eq!(Pace::of(&same).expect("files").bytes_per_s, None);
    }

    #[test]
    fn nothing_waits_less_than_nothing() {
        let files = [
            (1_000_000, 0.1),
            (2_000_000, 0.3),
            (3_000_000, 0.5),
            (4_000_000, 0.7),
        ];
        let pace = Pace::of(&files).expect("files");
        assert_eq!(pace.latency_s, 0.0);
        assert!(pace.bytes_per_s.expect("a rate") > 0.0);
    }
}
