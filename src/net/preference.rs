//! Kind of transport that dials into the world try first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether QUIC goes before TCP on far paths. The reach room sets it and the transport reads it.
///
/// Behind a router QUIC is of more use: its dials leave from the port that is listened on, so that
/// others see the address by which they can get through the router, and its packets keep the
/// router's entry alive. A node that others reach by themselves takes whichever is there first.
#[derive(Clone, Debug)]
pub(super) struct QuicFirst(Arc<AtomicBool>);

impl Default for QuicFirst {
    /// A node of which nothing is known may be behind a router.
    fn default() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

impl QuicFirst {
    pub(super) fn set(&self, is_first: bool) {
        self.0.store(is_first, Ordering::Relaxed);
    }

    pub(super) fn is_first(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
