//! Congestion control by what the path delivers, not by what it loses.
//!
//! After BBR (Cardwell, Cheng, Gunn, Yeganeh, Jacobson: "BBR: Congestion-Based Congestion Control",
//! 2016; draft-cardwell-iccrg-bbr-congestion-control): the model of a path is the highest rate at
//! which it delivered lately and its shortest round trip. Their product is what the path holds, and
//! a little more than that is kept under way. A lost packet changes nothing about the model, so
//! that a radio link that loses one packet in a hundred is used to the full.
//!
//! The difference to BBR: quinn paces by the window and the smoothed round trip alone, so that the
//! window is what there is to steer with. It is [`GAIN`] times what the path holds at all times, in
//! place of a cycle of rates. A path that has little room for what waits, so that packets are lost
//! for it, is found by trying whether a smaller window loses less.
//!
//! The model is pure: times are arguments. quinn has a BBR of its own, marked experimental; its
//! estimate of the rate compares single packets with the time between two acknowledgements.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory};

/// Packets under way before anything is known of a path.
const FIRST_PACKETS: u64 = 16;
/// Fewest packets under way.
const FEWEST_PACKETS: u64 = 4;
/// Packets beyond the product of rate and round trip: acknowledgements come for several at once.
const SPARE_PACKETS: u64 = 6;
/// What is under way at the beginning as a multiple of what the path is known to hold: it doubles
/// with each round trip (2/ln 2).
const FIRST_GAIN: f64 = 2.885;
/// The same later on.
const GAIN: f64 = 1.6;
/// The same while a path is tried, or known, to have little room for what waits.
const LOW_GAIN: f64 = 1.2;
/// The path is full when its rate has not grown by this in so many round trips.
const GROWTH: f64 = 1.25;
const ROUNDS_WITHOUT_GROWTH: u32 = 3;
/// Round trips for which a measured rate counts.
const RATE_ROUNDS: u64 = 10;
/// Time for which a measured round trip counts; then the path is emptied for a moment to measure
/// the next one.
const RTT_COUNTS: Duration = Duration::from_secs(10);
/// Shortest round trip that is reckoned with: on a short path most of the time goes by at both
/// ends, where tasks wait for the processor and timers for their turn.
const SHORTEST_RTT: Duration = Duration::from_millis(10);
const EMPTY_FOR: Duration = Duration::from_millis(200);
/// What is under way meanwhile, as a multiple of what the path holds.
const EMPTY_GAIN: f64 = 0.5;
/// Share of lost bytes in a round trip from which on a smaller window is tried.
const LOSSY: f64 = 0.05;
/// Round trips of such a trial, and round trips for which its outcome counts.
const TRIAL_ROUNDS: u32 = 5;
const OUTCOME_ROUNDS: u32 = 50;
/// Moments of sending that are remembered.
const MAX_MARKS: usize = 1 << 14;

/// Makes a controller for each connection.
#[derive(Debug, Default)]
pub(super) struct Factory;

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(Bbr {
            model: Model::new(now, u64::from(mtu)),
        })
    }
}

/// The model as quinn drives it.
#[derive(Clone)]
struct Bbr {
    model: Model,
}

impl Controller for Bbr {
    fn on_sent(&mut self, now: Instant, _: u64, _: u64) {
        self.model.sent(now);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        _: bool,
        _: &quinn_proto::RttEstimator,
    ) {
        self.model.acked(now, sent, bytes);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, _: Option<u64>) {
        self.model.end_acks(now, in_flight, app_limited);
    }

    fn on_congestion_event(&mut self, _: Instant, _: Instant, persistent: bool, lost: u64) {
        self.model.lost(lost, persistent);
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.model.mtu = u64::from(mtu);
    }

    fn window(&self) -> u64 {
        self.model.window()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        FIRST_PACKETS * self.model.mtu
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// A moment at which packets were sent, with what had been acknowledged by then.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Instant,
    delivered: u64,
    /// When the last acknowledgement before it came, and when the packet that it was for was sent.
    delivered_at: Instant,
    delivered_sent: Instant,
}

/// How much room the path has for packets that wait.
#[derive(Debug, Clone, Copy)]
enum Room {
    /// Enough, as far as is known.
    Enough,
    /// So much was lost in a round trip that a smaller window is tried.
    Trial {
        rounds: u32,
        before: f64,
        lost: u64,
        acked: u64,
    },
    /// Little: with the smaller window less was lost.
    Little { rounds: u32 },
    /// The smaller window lost as much: the loss has another reason.
    Other { rounds: u32 },
}

/// Estimates for a path.
#[derive(Debug, Clone)]
struct Model {
    mtu: u64,
    window: u64,
    /// Bytes acknowledged, when that was, and when the newest of them were sent.
    delivered: u64,
    delivered_at: Instant,
    delivered_sent: Instant,
    /// Newest last.
    marks: VecDeque<Mark>,
    /// The newest mark of the acknowledgements that are being read, and their bytes.
    newest: Option<Mark>,
    acked: u64,
    is_idle: bool,
    /// Highest rates in bytes per second, each with its round, highest first.
    rates: VecDeque<(u64, u64)>,
    round: u64,
    /// Bytes delivered when the round ends.
    round_end: u64,
    rtt: Option<Duration>,
    rtt_at: Instant,
    /// When the path has been empty for long enough.
    emptying: Option<Instant>,
    /// Whether the path was once full, the highest rate before, and rounds without growth.
    was_full: bool,
    best_rate: u64,
    without_growth: u32,
    lost_in_round: u64,
    acked_in_round: u64,
    room: Room,
}

impl Model {
    fn new(now: Instant, mtu: u64) -> Self {
        Self {
            mtu,
            window: FIRST_PACKETS * mtu,
            delivered: 0,
            delivered_at: now,
            delivered_sent: now,
            marks: VecDeque::new(),
            newest: None,
            acked: 0,
            is_idle: true,
            rates: VecDeque::new(),
            round: 0,
            round_end: 0,
            rtt: None,
            rtt_at: now,
            emptying: None,
            was_full: false,
            best_rate: 0,
            without_growth: 0,
            lost_in_round: 0,
            acked_in_round: 0,
            room: Room::Enough,
        }
    }

    /// Packets are sent.
    fn sent(&mut self, now: Instant) {
        if std::mem::take(&mut self.is_idle) {
            // The silence before says nothing about the path.
            (self.delivered_at, self.delivered_sent) = (now, now);
        }
        if self.marks.back().is_some_and(|mark| mark.at == now) {
            return;
        }
        if self.marks.len() >= MAX_MARKS {
            self.marks.pop_front();
        }
        self.marks.push_back(Mark {
            at: now,
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            delivered_sent: self.delivered_sent,
        });
    }

    /// A packet that was sent at `sent` has arrived.
    fn acked(&mut self, now: Instant, sent: Instant, bytes: u64) {
        self.delivered += bytes;
        self.acked += bytes;
        self.acked_in_round += bytes;
        while self.marks.get(1).is_some_and(|mark| mark.at <= sent) {
            self.marks.pop_front();
        }
        let mark = self.marks.front().filter(|mark| mark.at <= sent).copied();
        if let Some(mark) = mark
            && self.newest.is_none_or(|newest| newest.at < mark.at)
        {
            self.newest = Some(mark);
        }
        let rtt = now.saturating_duration_since(sent);
        if self.rtt.is_none_or(|known| rtt <= known) {
            (self.rtt, self.rtt_at) = (Some(rtt), now);
        }
    }

    /// Packets of so many bytes are lost. `persistent`: so have been all for a long time.
    fn lost(&mut self, bytes: u64, persistent: bool) {
        self.lost_in_round += bytes;
        if persistent {
            self.window = FEWEST_PACKETS * self.mtu;
        }
    }

    /// All packets that one acknowledgement names are told.
    fn end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool) {
        self.is_idle = in_flight == 0;
        let acked = std::mem::take(&mut self.acked);
        let Some(newest) = self.newest.take() else {
            return;
        };
        (self.delivered_at, self.delivered_sent) = (now, newest.at);
        self.measure(now, newest, app_limited);
        if newest.delivered >= self.round_end {
            self.round_end = self.delivered;
            self.end_round(app_limited);
        }
        self.empty(now, in_flight, app_limited);
        self.set_window(acked);
    }

    fn measure(&mut self, now: Instant, newest: Mark, app_limited: bool) {
        // What was sent in a burst is acknowledged in one, and the other way round.
        let sending = newest.at.saturating_duration_since(newest.delivered_sent);
        let acking = now.saturating_duration_since(newest.delivered_at);
        let time = sending.max(acking);
        if time.is_zero() || self.rtt.is_some_and(|rtt| time < rtt) {
            return;
        }
        let bytes = self.delivered - newest.delivered;
        let rate = (bytes as f64 / time.as_secs_f64()) as u64;
        if app_limited && rate < self.rate() {
            return;
        }
        while self.rates.back().is_some_and(|(_, known)| *known <= rate) {
            self.rates.pop_back();
        }
        self.rates.push_back((self.round, rate));
        let round = self.round;
        while self
            .rates
            .front()
            .is_some_and(|(of, _)| of + RATE_ROUNDS < round)
        {
            self.rates.pop_front();
        }
    }

    fn end_round(&mut self, app_limited: bool) {
        let (lost, acked) = (self.lost_in_round, self.acked_in_round);
        (self.lost_in_round, self.acked_in_round) = (0, 0);
        if app_limited {
            return;
        }
        self.round += 1;
        if self.was_full {
            self.room = self.room.after(lost, acked);
            return;
        }
        let rate = self.rate();
        if rate as f64 >= self.best_rate as f64 * GROWTH {
            (self.best_rate, self.without_growth) = (rate, 0);
            return;
        }
        self.without_growth += 1;
        let is_lossy = share(lost, acked) > 4.0 * LOSSY;
        self.was_full = is_lossy || self.without_growth >= ROUNDS_WITHOUT_GROWTH;
    }

    /// Empties the path for a moment when its round trip was measured too long ago.
    fn empty(&mut self, now: Instant, in_flight: u64, app_limited: bool) {
        match self.emptying {
            Some(end) if now >= end => self.emptying = None,
            None if now.saturating_duration_since(self.rtt_at) > RTT_COUNTS => {
                // From here on the next packet says what the round trip is, until one is shorter.
                (self.rtt, self.rtt_at) = (None, now);
                let is_full = !app_limited && in_flight > FEWEST_PACKETS * self.mtu;
                let rtt = now.saturating_duration_since(self.delivered_sent);
                self.rtt = Some(rtt);
                self.emptying = is_full.then(|| now + rtt + EMPTY_FOR);
            }
            _ => {}
        }
    }

    fn set_window(&mut self, acked: u64) {
        let fewest = FEWEST_PACKETS * self.mtu;
        let holds = self.holds();
        if !self.was_full {
            let most = (holds * FIRST_GAIN) as u64 + SPARE_PACKETS * self.mtu;
            if self.window < most || self.delivered < FIRST_PACKETS * self.mtu {
                self.window += acked;
            }
            return;
        }
        let most = (holds * self.room.gain()) as u64 + SPARE_PACKETS * self.mtu;
        self.window = (self.window + acked).min(most).max(fewest);
    }

    /// Bytes per second that the path delivers.
    fn rate(&self) -> u64 {
        self.rates.front().map_or(0, |(_, rate)| *rate)
    }

    /// Bytes that are on a path that is full and on which nothing waits.
    fn holds(&self) -> f64 {
        let rtt = self.rtt.unwrap_or_default().max(SHORTEST_RTT);
        self.rate() as f64 * rtt.as_secs_f64()
    }

    /// Bytes that may be under way.
    fn window(&self) -> u64 {
        match self.emptying {
            Some(_) => ((self.holds() * EMPTY_GAIN) as u64)
                .max(FEWEST_PACKETS * self.mtu)
                .min(self.window),
            None => self.window.max(2 * self.mtu),
        }
    }
}

impl Room {
    const fn gain(self) -> f64 {
        match self {
            Self::Enough | Self::Other { .. } => GAIN,
            Self::Trial { .. } | Self::Little { .. } => LOW_GAIN,
        }
    }

    /// Estimates after a further round trip.
    fn after(self, lost: u64, acked: u64) -> Self {
        let lossy = share(lost, acked);
        match self {
            Self::Enough if lossy > LOSSY => Self::Trial {
                rounds: 0,
                before: lossy,
                lost: 0,
                acked: 0,
            },
            Self::Enough => Self::Enough,
            // The first round trip has what was under way before.
            Self::Trial {
                rounds: 0, before, ..
            } => Self::Trial {
                rounds: 1,
                before,
                lost: 0,
                acked: 0,
            },
            Self::Trial {
                rounds,
                before,
                lost: so_far,
                acked: came,
            } => {
                let (lost, acked) = (so_far + lost, came + acked);
                if rounds < TRIAL_ROUNDS {
                    let rounds = rounds + 1;
                    Self::Trial {
                        rounds,
                        before,
                        lost,
                        acked,
                    }
                } else if share(lost, acked) < before / 2.0 {
                    Self::Little { rounds: 0 }
                } else {
                    Self::Other { rounds: 0 }
                }
            }
            Self::Little { rounds } | Self::Other { rounds } if rounds >= OUTCOME_ROUNDS => {
                Self::Enough
            }
            Self::Little { rounds } => Self::Little { rounds: rounds + 1 },
            Self::Other { rounds } => Self::Other { rounds: rounds + 1 },
        }
    }
}

/// Share of bytes that were lost.
fn share(lost: u64, acked: u64) -> f64 {
    match lost + acked {
        0 => 0.0,
        all => lost as f64 / all as f64,
    }
}

#[cfg(test)]
#[path = "bbr_tests.rs"]
mod tests;
