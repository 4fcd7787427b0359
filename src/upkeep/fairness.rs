//! Keeps fairness up to date: how peers stand, which limits on bandwidth hold at this hour, and the ledger's file.
//!
//! Deliberately absent: what standings lead to. The exchange serves by them, the holder stores by them.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::replicate::Copies;
use crate::config::{Config, Hours};
use crate::depot::Depot;
use crate::net::pace::Pace;
use crate::task::WorkerState;
use crate::text::count;
use crate::time::{Clock, Timestamp};

/// How often standings and hours are looked at. Some thousand additions.
const EVERY: Duration = Duration::from_secs(5);
/// How often the ledger is written, if it has changed.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// Limits on bandwidth and when they hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bandwidth {
    /// Bytes of blocks served in a second; 0: no limit.
    pub up: u64,
    /// Bytes of blocks fetched in a second; 0: no limit.
    pub down: u64,
    /// Local hours.
    pub hours: Hours,
}

impl Bandwidth {
    /// Those of the settings.
    pub const fn of(config: &Config) -> Self {
        Self {
            up: config.limit_up.0,
            down: config.limit_down.0,
            hours: config.limit_hours,
        }
    }

    /// Whether the limits hold at this time in this zone.
    pub fn hold(&self, now: Timestamp, zone: &TimeZone) -> bool {
        let time = now.in_zone(zone).time();
        let minute = u16::from(time.hour().unsigned_abs()) * 60;
        self.hours
            .contains(minute + u16::from(time.minute().unsigned_abs()))
    }

    /// Sets what holds now.
    pub fn apply(&self, now: Timestamp, zone: &TimeZone, pace: &Pace) {
        let hold = self.hold(now, zone);
        pace.up.set_rate(if hold { self.up } else { 0 });
        pace.down.set_rate(if hold { self.down } else { 0 });
    }
}

/// What the job works on.
pub struct Setup {
    /// With the ledger.
    pub depot: Depot,
    /// What others keep for us.
    pub copies: Arc<Copies>,
    /// The limits, whenever they change.
    pub bandwidth: watch::Receiver<Bandwidth>,
    /// What they are set on.
    pub pace: Pace,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where this machine is.
    pub zone: TimeZone,
}

/// Runs until cancelled; the ledger is written at the end.
pub async fn run(mut setup: Setup, cancel: CancellationToken, state: Arc<WorkerState>) {
    let mut saved = Instant::now();
    loop {
        setup.bandwidth.mark_unchanged();
        look(&setup);
        let describe = || {
            let peers = setup.depot.ledger().len() as u64;
            format!("{} in the ledger", count(peers, "peer"))
        };
        state.set(describe());
        let stop = tokio::select! {
            () = cancel.cancelled() => true,
            () = tokio::time::sleep(EVERY) => false,
            // The sender lives as long as the node.
            Ok(()) = setup.bandwidth.changed() => false,
        };
        if stop || saved.elapsed() >= SAVE_EVERY {
            saved = Instant::now();
            let ledger = setup.depot.ledger().clone();
            match tokio::task::spawn_blocking(move || ledger.save()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the ledger of peers could not be written");
                    state.fail(error.to_string());
                }
                Err(_) => return,
            }
        }
        if stop {
            return;
        }
    }
}

fn look(setup: &Setup) {
    let ledger = setup.depot.ledger();
    ledger.set_keeping(&setup.copies.kept_by_peer());
    let members = setup.depot.net().rings().online_members();
    ledger.refresh(&members.into_iter().collect());
    let now = setup.clock.now();
    let bandwidth = *setup.bandwidth.borrow();
    bandwidth.apply(now, &setup.zone, &setup.pace);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_in_their_local_hours_alone() {
        let bandwidth = Bandwidth {
            up: 1 << 20,
            down: 2 << 20,
            hours: "08:00-22:00".parse().expect("hours"),
        };
        let pace = Pace::default();
        let rates = |minutes: u64, zone: &TimeZone| {
            bandwidth.apply(Timestamp(minutes * 60_000), zone, &pace);
            (pace.up.rate(), pace.down.rate())
        };
        let limited = (1 << 20, 2 << 20);
        let utc = TimeZone::UTC;
        assert_eq!(rates(8 * 60 - 1, &utc), (0, 0));
        assert_eq!(rates(8 * 60, &utc), limited);
        assert_eq!(rates(22 * 60 - 1, &utc), limited);
        assert_eq!(rates(22 * 60, &utc), (0, 0));
        let east = TimeZone::fixed(jiff::tz::offset(2));
        assert_eq!(rates(6 * 60, &east), limited);
        assert_eq!(rates(20 * 60, &east), (0, 0));
        let always = Bandwidth {
            hours: Hours::default(),
            ..bandwidth
        };
        assert!(always.hold(Timestamp(0), &utc) && always.hold(Timestamp(u64::MAX), &east));
    }
}
