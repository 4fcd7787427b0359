//! Names of protocols. Each of ours carries the network's name, so that two networks never mix.

/// libp2p's name of yamux.
pub const YAMUX: &str = "/yamux/1.0.0";
/// libp2p's name of TLS.
pub const TLS: &str = "/tls/1.0.0";
/// What both ends of a TLS connection say that they speak inside, as libp2p's specification has it.
pub const TLS_ALPN: &[u8] = b"libp2p";

/// The Kademlia protocol of a network: `/<network>/kad/1.0.0`.
pub fn kad(network: &str) -> String {
    format!("/{network}/kad/1.0.0")
}

/// The exchange protocol of a network: `/<network>/exchange/1.0.0`.
pub fn exchange(network: &str) -> String {
    format!("/{network}/exchange/1.0.0")
}

/// The replica protocol of a network: `/<network>/replica/1.0.0`.
pub fn replica(network: &str) -> String {
    format!("/{network}/replica/1.0.0")
}

/// The protocol of questions for ids that are alike: `/<network>/like/1.0.0`.
pub fn like(network: &str) -> String {
    format!("/{network}/like/1.0.0")
}

/// The ring protocol of a network: `/<network>/ring/2.0.0`.
pub fn ring(network: &str) -> String {
    format!("/{network}/ring/2.0.0")
}

/// What identify calls the network: `/<network>/1.0.0`. Peers with another one are of another network.
pub fn identify(network: &str) -> String {
    format!("/{network}/1.0.0")
}
