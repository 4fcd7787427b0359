//! Leaving, and handing over.

use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;

use super::Node;
use super::api::*;
use super::copies::Members;
use crate::depot::Depot;
use crate::monitor::Monitor;
use crate::net::Net;
use crate::ring::Ring;
use crate::time::Clock;
use crate::upkeep::handover::{self, Limits, Order, Setup};
use crate::upkeep::holder::Candidates;

/// Longest that leaving may take.
const MAX_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3600);

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

impl Node {
    /// Hands over what is kept here for others, and lets go of it.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the node stops meanwhile, and what the store says.
    pub async fn leave(
        &self,
        request: Leave,
        monitor: Arc<dyn Monitor>,
    ) -> Result<LeaveReply, CallError> {
        let order = Order {
            depot: self.depot().clone(),
            clock: self.inner.clock.clone(),
            members: Arc::new(Members::new(self.net().clone())),
            peers: Arc::new(Connected(self.net().clone())),
            limits: Limits::default(),
            timeout: Duration::from_secs(request.timeout_s).min(MAX_TIMEOUT),
            force: request.force,
        };
        let left = tokio::select! {
            () = self.inner.stop.cancelled() => {
                let message = "the node stopped before everything was handed over";
                return Err(CallError::new(ErrorKind::Unavailable, message));
            }
            left = handover::leave(order, &*monitor) => left?,
        };
        let mut rings = Vec::new();
        if request.rings {
            let names = self.net().rings().rings();
            for name in names.as_slice().iter().map(Ring::name) {
                let ring = name.to_owned();
                rings.push(self.ring_leave(RingLeave { ring }).await?.ring);
            }
        }
        Ok(LeaveReply {
            complete: left.is_complete(),
            leases_ended: left.leases_ended,
            leases_kept: left.leases_kept,
            leased_safe: left.leased_safe,
            leased_alone: left.leased_alone,
            cached_safe: left.cached_safe,
            cached_alone: left.cached_alone,
            handed_over: left.handed_over,
            handed_over_bytes: left.handed_over_bytes,
            rings,
        })
    }
}
