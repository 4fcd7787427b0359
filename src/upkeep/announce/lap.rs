//! Laps around the keyspace: which part of it is announced next, and when. Pure.
//!
//! The keyspace is cut into [`SEGMENTS`] of the same size, and for each it is known when its blocks
//! were announced last. A lap takes [`PERIOD`], well below the time for which records hold. A step
//! announces some segments in a row, those that waited longest; the next one comes when its share
//! of the period is over, so that the work is spread evenly. Whatever has waited for a whole period
//! is due at once: after a pause, such as sleep, the laps catch up.
//!
//! Invariant: what is here is all that is kept. A time that lies ahead of the clock counts as
//! never.
//!
//! Deliberately absent: the clock, the store, and the network.

use std::time::Duration;

use prost::Message;

use crate::net::providers::PROVIDER_TTL;
use crate::store::Place;
use crate::text::count;
use crate::time::Timestamp;
use crate::wire::dht;

/// How often everything is announced.
pub const PERIOD: Duration = Duration::from_secs(22 * 3600);
/// Parts of the keyspace; a power of two.
pub const SEGMENTS: usize = 1 << SEGMENT_BITS;
const SEGMENT_BITS: u32 = 10;
/// Version of the stored form.
const VERSION: u32 = 1;
/// Lateness of a part that was announced before from which on a warning is due: half of the time
/// that is left until its records end.
const WARN_LATE: Duration = Duration::from_secs((PROVIDER_TTL.as_secs() - PERIOD.as_secs()) / 2);
/// Time after which parts that were never announced are worth a warning.
const WARN_WAITING: Duration = Duration::from_secs(3600);

/// The segment that a place is in.
pub(super) fn segment_of(place: &Place) -> usize {
    let [first, second, ..] = place.0;
    usize::from(u16::from_be_bytes([first, second]) >> (u16::BITS - SEGMENT_BITS))
}

/// The last place before a segment; none before the first.
pub(super) fn before(segment: usize) -> Option<Place> {
    let first = u16::try_from(segment << (u16::BITS - SEGMENT_BITS)).ok()?;
    let mut place = [0xff; 32];
    let [high, low] = first.checked_sub(1)?.to_be_bytes();
    (place[0], place[1]) = (high, low);
    Some(Place(place))
}

/// Where announcing is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lap {
    /// When each segment was announced last; zero: never.
    told: Vec<Timestamp>,
    /// When everything was to be announced anew.
    since: Timestamp,
    /// When the last step ended, and its number of segments.
    last: Timestamp,
    last_count: usize,
    /// Hash of the addresses that were announced.
    addresses: Vec<u8>,
}

impl Lap {
    /// Nothing has been announced. `addresses`: a hash of those of this node.
    pub(super) fn new(addresses: Vec<u8>, now: Timestamp) -> Self {
        Self {
            told: vec![Timestamp(0); SEGMENTS],
            since: now,
            last: Timestamp(0),
            last_count: 0,
            addresses,
        }
    }

    /// Reads what [`write`](Self::write) wrote; none for another form, or when this node was told
    /// of with other addresses.
    pub(super) fn read(bytes: &[u8], addresses: &[u8]) -> Option<Self> {
        let stored = dht::StoredLap::decode(bytes).ok()?;
        let fits = stored.version == VERSION
            && stored.told_ms.len() == SEGMENTS
            && stored.addresses == addresses;
        fits.then(|| Self {
            told: stored.told_ms.into_iter().map(Timestamp).collect(),
            since: Timestamp(stored.since_ms),
            last: Timestamp(stored.last_ms),
            last_count: (stored.last_count as usize).min(SEGMENTS),
            addresses: addresses.to_vec(),
        })
    }

    pub(super) fn write(&self) -> Vec<u8> {
        dht::StoredLap {
            version: VERSION,
            told_ms: self.told.iter().map(|told| told.0).collect(),
            since_ms: self.since.0,
            last_ms: self.last.0,
            last_count: u32::try_from(self.last_count).unwrap_or(u32::MAX),
            addresses: self.addresses.clone().into(),
        }
        .encode_to_vec()
    }

    /// When a segment was announced last; zero: never.
    fn told(&self, segment: usize, now: Timestamp) -> Timestamp {
        let told = self.told.get(segment).copied().unwrap_or_default();
        if told > now { Timestamp(0) } else { told }
    }

    /// The segment that has waited longest, and when it was announced.
    fn oldest(&self, now: Timestamp) -> (usize, Timestamp) {
        let all = (0..SEGMENTS).map(|segment| (segment, self.told(segment, now)));
        all.min_by_key(|(_, told)| *told).unwrap_or_default()
    }

    /// When the next step is due.
    pub(super) fn next(&self, now: Timestamp) -> Timestamp {
        let (_, oldest) = self.oldest(now);
        if oldest.0 == 0 || self.last > now {
            return now;
        }
        let share = PERIOD / SEGMENTS as u32 * self.last_count as u32;
        oldest.after(PERIOD).min(self.last.after(share))
    }

    /// The segments of the next step, at most so many: the one that has waited longest, and those
    /// behind it that have waited about as long.
    pub(super) fn step(&self, now: Timestamp, most: usize) -> std::ops::Range<usize> {
        let (first, oldest) = self.oldest(now);
        let most = most.clamp(1, SEGMENTS);
        let share = PERIOD / SEGMENTS as u32 * most as u32;
        let is_old = |segment: &usize| self.told(*segment, now).since(oldest) <= share;
        let rest = (first + 1..SEGMENTS).take_while(is_old);
        first..first + 1 + rest.take(most - 1).count()
    }

    /// Some segments have been announced.
    pub(super) fn done(&mut self, segments: std::ops::Range<usize>, now: Timestamp) {
        self.last = now;
        self.last_count = segments.len();
        let told = self.told.get_mut(segments).unwrap_or_default();
        told.fill(now);
    }

    /// Everything is to be announced anew, with these addresses.
    pub(super) fn start_over(&mut self, addresses: Vec<u8>, now: Timestamp) {
        *self = Self::new(addresses, now);
    }

    /// The hash of the addresses that are announced.
    pub(super) fn addresses(&self) -> &[u8] {
        &self.addresses
    }

    pub(super) fn progress(&self, now: Timestamp) -> Progress {
        let told = (0..SEGMENTS).map(|segment| self.told(segment, now));
        let mut progress = Progress {
            parts: SEGMENTS,
            ..Progress::default()
        };
        let mut oldest: Option<Timestamp> = None;
        for told in told {
            if told.0 == 0 {
                progress.waiting += 1;
                continue;
            }
            oldest = Some(oldest.map_or(told, |oldest| oldest.min(told)));
            progress.on_time += usize::from(now.since(told) <= PERIOD);
        }
        let since = if self.since > now { now } else { self.since };
        progress.waited = (progress.waiting > 0).then(|| now.since(since));
        progress.oldest = oldest.map(|oldest| now.since(oldest));
        progress
    }
}

/// Progress of announcing, and its delay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Parts of the keyspace.
    pub parts: usize,
    /// Parts whose blocks were announced within [`PERIOD`].
    pub on_time: usize,
    /// Those that wait to be announced for the first time, or with new addresses.
    pub waiting: usize,
    /// Time for which these have waited.
    pub waited: Option<Duration>,
    /// Time since the part that waited longest of the others was announced.
    pub oldest: Option<Duration>,
}

impl Progress {
    /// Time by which the part that waited longest is late.
    pub fn late(&self) -> Duration {
        let late = self.oldest.unwrap_or_default().saturating_sub(PERIOD);
        late.max(self.waited.unwrap_or_default())
    }

    /// Time until the first record ends that is not announced again before; zero when some have.
    pub fn ends_in(&self) -> Option<Duration> {
        Some(PROVIDER_TTL.saturating_sub(self.oldest?))
    }

    /// Warning for a person before others forget what is here.
    pub fn warning(&self) -> Option<String> {
        let hours = |time: Duration| count(time.as_secs() / 3600, "hour");
        if self
            .oldest
            .is_some_and(|oldest| oldest > PERIOD + WARN_LATE)
        {
            let ends = match self.ends_in() {
                Some(left) if !left.is_zero() => format!("ends in {}", hours(left)),
                _ => "has ended".to_owned(),
            };
            return Some(format!(
                "announcing is {} late: the first record of what is here {ends}",
                hours(self.late())
            ));
        }
        let waited = self.waited.filter(|waited| *waited > WARN_WAITING)?;
        Some(format!(
            "{} of {} parts of what is here have waited for {} to be announced",
            self.waiting,
            self.parts,
            hours(waited)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Timestamp = Timestamp(1_000_000_000_000);

    fn lap() -> Lap {
        Lap::new(b"here".to_vec(), START)
    }

    /// Runs steps of so many segments from `now` on; gives back when each was.
    fn run(lap: &mut Lap, mut now: Timestamp, until: Timestamp, most: usize) -> Vec<Timestamp> {
        let mut steps = Vec::new();
        loop {
            now = now.max(lap.next(now));
            if now > until {
                return steps;
            }
            let step = lap.step(now, most);
            lap.done(step, now);
            steps.push(now);
        }
    }

    #[test]
    fn places_and_segments_fit_together() {
        assert_eq!(before(0), None);
        for segment in [1, 2, 511, SEGMENTS - 1] {
            let last = before(segment).expect("a place");
            assert_eq!(segment_of(&last), segment - 1);
            let mut first = [0; 32];
            let start = (segment as u16) << 6;
            first[..2].copy_from_slice(&start.to_be_bytes());
            assert_eq!(segment_of(&Place(first)), segment);
            assert!(last < Place(first));
        }
        assert_eq!(segment_of(&Place([0xff; 32])), SEGMENTS - 1);
        assert_eq!(segment_of(&Place([0; 32])), 0);
    }

    #[test]
    fn a_lap_is_spread_over_its_period() {
        for most in [1, 7, 64] {
            let mut lap = lap();
            // All at once: nothing has been announced.
            let first = run(&mut lap, START, START, most);
            assert_eq!(first.len(), SEGMENTS.div_ceil(most));
            let end = START.after(3 * PERIOD);
            let steps = run(&mut lap, START, end, most);
            let laps = steps.len() as f64 / (SEGMENTS as f64 / most as f64);
            assert!((2.9..3.2).contains(&laps), "{most}: {laps} laps");
            let pauses = steps.windows(2).map(|pair| pair[1].since(pair[0]));
            let longest = pauses.max().expect("some");
            let share = PERIOD / SEGMENTS as u32 * most as u32;
            assert!(longest <= share, "{longest:?}");
            assert!(lap.progress(end).oldest <= Some(PERIOD));
        }
    }

    #[test]
    fn one_step_for_everything_is_one_step_a_period() {
        let mut lap = lap();
        let end = START.after(2 * PERIOD);
        let steps = run(&mut lap, START, end, SEGMENTS);
        assert_eq!(steps.len(), 3);
        assert_eq!(lap.progress(end).on_time, SEGMENTS);
    }

    #[test]
    fn after_a_pause_it_catches_up_and_spreads_again() {
        let mut lap = lap();
        run(&mut lap, START, START.after(2 * PERIOD), 1);
        // Half a period asleep: half of the segments are due at once, and no more.
        let woken = START.after(2 * PERIOD + PERIOD / 2);
        let at_once = run(&mut lap, woken, woken, 1);
        assert!((500..=530).contains(&at_once.len()), "{}", at_once.len());
        let end = woken.after(PERIOD);
        run(&mut lap, woken, end, 1);
        assert_eq!(lap.progress(end).on_time, SEGMENTS);
        assert_eq!(lap.progress(end).warning(), None);
    }

    #[test]
    fn it_goes_on_after_a_restart_unless_addresses_have_changed() {
        let mut lap = lap();
        run(&mut lap, START, START.after(PERIOD / 3), 1);
        let again = Lap::read(&lap.write(), b"here").expect("reads");
        assert_eq!(again, lap);
        assert_eq!(Lap::read(&lap.write(), b"there"), None);
        for bad in [&b""[..], b"\x08\x02", b"\xff"] {
            assert_eq!(Lap::read(bad, b"here"), None);
        }
    }

    #[test]
    fn a_clock_that_is_years_off_stops_nothing() {
        let mut lap = lap();
        let future = START.after(Duration::from_secs(10 * 365 * 86_400));
        run(&mut lap, future, future, 64);
        // Back again: what was told then is told once more, at once.
        assert_eq!(lap.next(START), START);
        assert_eq!(run(&mut lap, START, START, 64).len(), SEGMENTS / 64);
        assert!(lap.next(START) > START);
    }

    #[test]
    fn it_warns_before_the_first_record_ends() {
        let mut lap = lap();
        assert_eq!(lap.progress(START).warning(), None);
        let later = START.after(2 * WARN_WAITING);
        let warning = lap.progress(later).warning().expect("nobody was told");
        assert!(warning.starts_with("1024 of 1024 parts"), "{warning}");
        run(&mut lap, START, START, 64);
        let end = START.after(PROVIDER_TTL);
        assert_eq!(lap.progress(START.after(PERIOD)).warning(), None);
        let late = START.after(PERIOD + WARN_LATE + Duration::from_secs(1));
        assert!(late < end, "in time");
        let warning = lap.progress(late).warning().expect("late");
        assert!(warning.contains("ends in 12 hours"), "{warning}");
        let warning = lap.progress(end).warning().expect("late");
        assert!(warning.contains("has ended"), "{warning}");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Lap::read(&bytes, b"");
        }

        #[test]
        fn whatever_the_times_a_step_is_not_empty_and_within_bounds(told in proptest::collection::vec(any::<u64>(), SEGMENTS), now in any::<u64>(), most in 0..2 * SEGMENTS) {
            let mut lap = lap();
            lap.told = told.into_iter().map(Timestamp).collect();
            let now = Timestamp(now);
            let step = lap.step(now, most);
            prop_assert!(!step.is_empty() && step.end <= SEGMENTS && step.len() <= most.max(1));
            let _ = (lap.next(now), lap.progress(now).warning());
            lap.done(step, now);
        }
    }
}
