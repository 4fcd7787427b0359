//! Background work of a node. Each job is a function that runs until it is cancelled and says in its
//! [`WorkerState`](crate::task::WorkerState) what it is doing.
//!
//! | job | what it does | cost when idle |
//! |---|---|---|
//! | [`announce`] | tells the DHT of blocks: new ones at once, all of them once in 22 hours, a part at a time | one look at the clock a minute |
//! | [`fairness`] | works out how peers stand, sets the limits of the hour, writes the ledger | one look in 5 seconds |
//! | [`heal`] | fetches damaged blocks again | none |
//! | [`handover`] | hands over what is about to be evicted and may be the last copy | one look at a number every 30 seconds |
//! | [`heads`] | finds, keeps and publishes the heads of owners whose backups are kept here | one round an hour |
//! | [`holder`] | keeps blocks for others, by leases, and takes blocks that others offer | one look a minute |
//! | [`popular`] | offers blocks that are asked for often to other nodes | one look every 30 s |
//! | [`replicate`] | keeps copies of backups on other machines | one look a minute, one question to each peer |
//! | [`like`] | answers questions for ids that are alike | none |
//! | [`maintain`] | gets the space of dropped blocks back, writes usage counters | one look a minute |
//! | [`services`] | announces ports of other programs | one look an hour |
//! | [`meet`] | asks and announces at the public meeting point, and dials what is told there | none without a reason; else some hundred packets an hour |
//! | [`rings`] | finds members of rings, tells them how much room is here | a search a ring and some hundred bytes a member every 3 minutes |

pub mod announce;
pub mod fairness;
pub mod handover;
pub mod heads;
pub mod heal;
pub mod holder;
pub mod like;
pub mod maintain;
pub mod meet;
pub mod popular;
pub mod replicate;
mod revoked;
pub mod rings;
pub mod services;
