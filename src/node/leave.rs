//! Leaving, staying after all, and handing over.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use libp2p::PeerId;
use tokio_util::sync::CancellationToken;

use super::Node;
use super::api::*;
use super::copies::{self, Members};
use crate::depot::Depot;
use crate::monitor::Monitor;
use crate::net::Net;
use crate::ring::Ring;
use crate::time::Clock;
use crate::upkeep::handover::{self, Left, Limits, Order, Setup};
use crate::upkeep::holder::Candidates;

/// Longest that leaving may take.
const MAX_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long it goes on when nothing is handed over.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// Whoever is connected: what may be the last copy of a public block is for anybody who takes it.
struct Connected(Net);

impl Candidates for Connected {
    fn peers(&self) -> Vec<PeerId> {
        self.0.peers().connected().to_vec()
    }
}

/// What the job that hands over works with.
pub(super) fn handover(depot: &Depot, clock: &Arc<dyn Clock>) -> Setup {
    Setup {
        depot: depot.clone(),
        clock: clock.clone(),
        receivers: Arc::new(Connected(depot.net().clone())),
        limits: Limits::default(),
    }
}

/// The call that leaves, of which there is one at a time.
pub(super) struct Leaving {
    clock: Arc<dyn Clock>,
    running: Mutex<Option<CancellationToken>>,
}

impl Leaving {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            running: Mutex::default(),
        }
    }
}

/// The turn of a call that leaves. Unless it is [kept](Self::keep) the node stays when it ends: a call that failed, or that nobody waits for any more,
/// must not leave a node behind that takes nothing for ever.
struct Turn {
    node: Node,
    cancelled: CancellationToken,
    stays: bool,
}

impl Turn {
    fn take(node: &Node) -> Result<Self, CallError> {
        let mut running = node.leaving().running();
        if running.is_some() {
            let message = "this node is handing over already";
            return Err(CallError::new(ErrorKind::Failed, message).with_hint(
                "wait for the other `libernet leave`, or end it with `libernet leave --cancel`",
            ));
        }
        let cancelled = CancellationToken::new();
        *running = Some(cancelled.clone());
        Ok(Self {
            node: node.clone(),
            cancelled,
            stays: true,
        })
    }

    /// The node is leaving until it is told otherwise, or started again.
    fn keep(&mut self) {
        self.stays = false;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *self.node.leaving().running() = None;
        if self.stays {
            self.node.depot().set_staying();
        }
    }
}

impl Leaving {
    fn running(&self) -> std::sync::MutexGuard<'_, Option<CancellationToken>> {
        // It is set and taken, and nothing else.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    fn leaving(&self) -> &Leaving {
        &self.inner.leaving
    }

    /// Hands over what is kept here for others, and lets go of it. Afterwards the node takes nothing more for others, until it is started again or
    /// told to [stay](Self::leave_cancel). When this fails, or is dropped, it goes on as before.
    ///
    /// # Errors
    /// [`ErrorKind::Failed`] while another call does this, [`ErrorKind::Unavailable`] when the node stops meanwhile or is told to stay, and what the
    /// store says.
    pub async fn leave(
        &self,
        request: Leave,
        monitor: Arc<dyn Monitor>,
    ) -> Result<LeaveReply, CallError> {
        let mut turn = Turn::take(self)?;
        let order = Order {
            depot: self.depot().clone(),
            clock: self.leaving().clock.clone(),
            members: Arc::new(Members::new(self.net().clone())),
            peers: Arc::new(Connected(self.net().clone())),
            own: copies::own_head(&self.inner.options.data_dir),
            limits: Limits::default(),
            timeout: match request.timeout_s {
                Some(seconds) => Duration::from_secs(seconds).min(MAX_TIMEOUT),
                None => MAX_TIMEOUT,
            },
            patience: PATIENCE,
            force: request.force,
        };
        let ended = |message| Err(CallError::new(ErrorKind::Unavailable, message));
        let left = tokio::select! {
            () = self.inner.stop.cancelled() => {
                return ended("the node stopped before everything was handed over");
            }
            () = turn.cancelled.cancelled() => {
                return ended("it was called off: the node takes blocks for others again; what was handed over stays where it is");
            }
            left = handover::leave(order, &*monitor) => left?,
        };
        let mut rings = Vec::new();
        if request.rings {
            let names = self.net().rings().rings();
            for name in names.as_slice().iter().map(Ring::name) {
                let ring = name.to_owned();
                rings.push({
                    // Backups kept for others were handed over just now, as far as somebody takes
                    // them.
                    let leave = RingLeave { ring, force: true };
                    self.ring_leave(leave).await?.ring
                });
            }
        }
        turn.keep();
        Ok(reply(&left, rings))
    }

    /// Takes back that the node is leaving: it takes blocks for others again, and announces what it has.
    ///
    /// # Errors
    /// None at present.
    pub async fn leave_cancel(&self, _: LeaveCancel) -> Result<LeaveCancelReply, CallError> {
        let running = self.leaving().running().clone();
        let was_leaving = self.depot().is_leaving() || running.is_some();
        if let Some(running) = running {
            running.cancel();
        }
        self.depot().set_staying();
        Ok(LeaveCancelReply { was_leaving })
    }
}

fn reply(left: &Left, rings: Vec<String>) -> LeaveReply {
    LeaveReply {
        complete: left.is_complete(),
        leases_ended: left.leases_ended,
        leases_passed: left.leases_passed,
        leases_spare: left.leases_spare,
        leases_cached: left.leases_cached,
        leases_unfinished: left.leases_unfinished,
        leases_dropped: left.leases_dropped,
        leases_kept: left.leases_kept,
        leased_safe: left.leased_safe,
        leased_alone: left.leased_alone,
        cached_safe: left.cached_safe,
        cached_alone: left.cached_alone,
        handed_over: left.handed_over,
        handed_over_bytes: left.handed_over_bytes,
        rings,
    }
}
