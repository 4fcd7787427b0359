//! Wire and storage messages, generated from `proto/`, and the names and versions of protocols.
//!
//! Only names, versions, tags and sizes live here; what the messages mean is said by the rooms that use them.

/// Snapshots and logs of backups.
#[allow(missing_docs, clippy::pedantic)]
pub mod backup {
    include!(concat!(env!("OUT_DIR"), "/libernet.backup.v1.rs"));
}

/// Kademlia messages as far as we send them ourselves, and stored records of the DHT.
#[allow(missing_docs, clippy::pedantic)]
pub mod dht {
    include!(concat!(env!("OUT_DIR"), "/libernet.dht.v1.rs"));
}

/// Messages of the exchange protocol.
#[allow(missing_docs, clippy::pedantic)]
pub mod exchange {
    include!(concat!(env!("OUT_DIR"), "/libernet.exchange.v1.rs"));
}

/// Records of owners in the DHT.
#[allow(missing_docs, clippy::pedantic)]
pub mod head {
    include!(concat!(env!("OUT_DIR"), "/libernet.head.v1.rs"));
}

/// Leases: what is asked of who keeps backups.
#[allow(missing_docs, clippy::pedantic)]
pub mod lease {
    include!(concat!(env!("OUT_DIR"), "/libernet.lease.v1.rs"));
}

/// Questions for ids that are like a given one.
#[allow(missing_docs, clippy::pedantic)]
pub mod like {
    include!(concat!(env!("OUT_DIR"), "/libernet.like.v1.rs"));
}

/// What a machine keeps of its owner.
#[allow(missing_docs, clippy::pedantic)]
pub mod owner {
    include!(concat!(env!("OUT_DIR"), "/libernet.owner.v1.rs"));
}

/// Messages of the replica protocol.
#[allow(missing_docs, clippy::pedantic)]
pub mod replica {
    include!(concat!(env!("OUT_DIR"), "/libernet.replica.v1.rs"));
}

/// Messages of the ring protocol.
#[allow(missing_docs, clippy::pedantic)]
pub mod ring {
    include!(concat!(env!("OUT_DIR"), "/libernet.ring.v1.rs"));
}

/// Records in the store.
#[allow(missing_docs, clippy::pedantic)]
pub mod store {
    include!(concat!(env!("OUT_DIR"), "/libernet.store.v1.rs"));
}

/// Trees and bundle roots.
#[allow(missing_docs, clippy::pedantic)]
pub mod tree {
    include!(concat!(env!("OUT_DIR"), "/libernet.tree.v1.rs"));
}

pub mod names;
