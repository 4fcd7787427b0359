//! libernet turns the spare disk space of a community into an encrypted backup and sharing network.
//!
//! The rooms, lowest floor first; a file imports only from floors below its own (`tests/it/architecture.rs` checks it):
//!
//! | floor | rooms |
//! |---|---|
//! | 9 | [`cli`]: commands, terminal output, exit codes |
//! | 8 | [`gateway`]: the local HTTP server |
//! | 7 | [`client`]: one `Client`, for a node in this process or a running one |
//! | 6 | [`node`]: builds, starts and stops everything |
//! | 5 | [`upkeep`]: background work; [`backup`]: owners, snapshots, retention, restoring |
//! | 4 | [`depot`]: the one place that knows both store and network |
//! | 3 | [`store`], [`bundle`], [`net`], [`site`] |
//! | 2 | [`block`]; above it [`head`], [`ring`]; above that [`lease`] |
//! | 1 | [`problems`]; above it [`crypto`], [`wire`], [`task`], [`config`] |
//! | 0 | [`descriptors`], [`mod@file`], [`id`], [`size`], [`text`], [`time`], [`monitor`], [`mod@path`], [`pick`] |

pub mod backup;
pub mod block;
pub mod bundle;
pub mod cli;
pub mod client;
pub mod config;
pub mod crypto;
pub mod depot;
pub mod descriptors;
pub mod file;
pub mod gateway;
pub mod head;
pub mod id;
pub mod lease;
pub mod monitor;
pub mod net;
pub mod node;
pub mod path;
pub mod pick;
pub mod problems;
pub mod ring;
pub mod site;
pub mod size;
#[cfg(test)]
mod small_disk;
pub mod store;
pub mod task;
pub mod text;
pub mod time;
pub mod upkeep;
pub mod wire;
