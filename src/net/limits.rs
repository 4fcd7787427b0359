//! Upper bounds of a net, as settings, so that a test can lower them.

use crate::size::MIB;

/// Upper bounds of a net.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Established connections in all.
    pub connections: u32,
    /// Established connections with one peer, while double ones are being resolved.
    pub connections_per_peer: u32,
    /// Connections that are being set up, counted for each direction.
    pub pending_connections: u32,
    /// Our requests under way to one peer.
    pub requests_per_peer: usize,
    /// Our requests under way in all.
    pub requests: usize,
    /// Bytes of blocks that are being read or sent for peers, in all.
    pub serving_bytes: usize,
    /// Bytes of blocks that are being read or sent for one peer.
    pub serving_bytes_per_peer: usize,
    /// Requests of peers that are being answered at one time.
    pub serving: usize,
    /// Requests of peers that wait for their turn, in all. Past that peers are told that we are busy.
    pub waiting: usize,
    /// Requests of one peer that wait for their turn.
    pub waiting_per_peer: usize,
    /// Searches for providers under way.
    pub searches: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            connections_per_peer: 4,
            pending_connections: 64,
            requests_per_peer: 64,
            requests: 256,
            serving_bytes: 48 * MIB as usize,
            serving_bytes_per_peer: 32 * MIB as usize,
            serving: 256,
            waiting: 1024,
            waiting_per_peer: 128,
            searches: 64,
        }
    }
}
