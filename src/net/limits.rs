//! Upper bounds of a net, as settings, so that a test can lower them.

use std::time::Duration;

use crate::size::MIB;

/// Upper bounds of a net.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Established connections in all. Of these at most two thirds are inbound ones of strangers,
    /// and an eighth is for members of this node's rings alone.
    pub connections: u32,
    /// Established connections with strangers at one site: an IPv4 address, or the 64 bits of an
    /// IPv6 one that a line has.
    pub connections_per_site: usize,
    /// The same for a site on this machine or the local network.
    pub connections_per_near_site: usize,
    /// A connection gives way to others only when it is older: whoever made it has yet to use it.
    pub settled_after: Duration,
    /// Established connections with one peer, while double ones are being resolved.
    pub connections_per_peer: u32,
    /// Connections of this node's own that are being set up.
    pub pending_connections: u32,
    /// Inbound connections that are being set up, in all.
    pub pending_inbound: usize,
    /// Inbound connections that are being set up from one site.
    pub pending_per_site: usize,
    /// The same for a site on this machine or the local network.
    pub pending_per_near_site: usize,
    /// Longest silence of a new inbound connection: a peer speaks as soon as it is connected.
    pub first_bytes: Duration,
    /// Streams that a peer may have open before it has told who it is. Further ones wait.
    pub streams_before_identify: usize,
    /// Bytes that a peer may have sent, and nobody read, over streams that it opened, before it has
    /// told who it is. Past that the connection ends.
    pub unread_before_identify: usize,
    /// The same once it has told.
    pub unread_per_connection: usize,
    /// Unread bytes of all peers. Past that the connection with the most of them ends.
    pub unread: usize,
    /// Our requests under way to one peer.
    pub requests_per_peer: usize,
    /// Our requests under way in all.
    pub requests: usize,
    /// Bytes of blocks that are being read or sent for peers, in all.
    pub serving_bytes: usize,
    /// Bytes of blocks that are being read or sent for strangers, of all: the rest is for members
    /// of this node's rings.
    pub serving_bytes_of_strangers: usize,
    /// Bytes of blocks that are being read or sent for one member.
    pub serving_bytes_per_member: usize,
    /// Bytes of blocks that are being read or sent for one stranger, or for all strangers of one
    /// site that is not near.
    pub serving_bytes_per_stranger: usize,
    /// Requests of peers that are being answered at one time.
    pub serving: usize,
    /// Requests of strangers that are being answered at one time, of all strangers.
    pub serving_strangers: usize,
    /// Time in which a peer takes something of what is sent to it. Then its streams are reset, and
    /// what they hold is free for others. Over a line of 128 kbit/s eight seconds pass between two
    /// signs of it.
    pub stall: Duration,
    /// Requests of peers that wait for their turn, in all. Past that peers are told that we are
    /// busy.
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
            connections_per_site: 16,
            connections_per_near_site: 64,
            settled_after: Duration::from_secs(2),
            connections_per_peer: 4,
            pending_connections: 64,
            pending_inbound: 128,
            pending_per_site: 8,
            pending_per_near_site: 32,
            first_bytes: Duration::from_secs(2),
            streams_before_identify: 8,
            unread_before_identify: MIB as usize,
            unread_per_connection: 4 * MIB as usize,
            unread: 64 * MIB as usize,
            requests_per_peer: 32,
            requests: 256,
            serving_bytes: 48 * MIB as usize,
            serving_bytes_of_strangers: 32 * MIB as usize,
            serving_bytes_per_member: 32 * MIB as usize,
            serving_bytes_per_stranger: 16 * MIB as usize,
            serving: 256,
            serving_strangers: 192,
            stall: Duration::from_secs(20),
            waiting: 1024,
            waiting_per_peer: 128,
            searches: 64,
        }
    }
}
