//! What is asked for often gets more copies on other nodes, and blocks that others offer are taken in.
//!
//! - [`policy`]: which blocks to offer to whom, pure. [`run`]: the job that looks at what peers ask for and makes the offers.
//! - [`accept`]: which offered blocks to take, pure. [`Taker`]: answers offers, fetches what is taken, and calls it fresh, so that it is announced.
//!
//! Invariant: such copies are cached blocks. They may be evicted at any time, and nobody counts them as copies of a backup: those are only
//! what a lease promises.
//!
//! Deliberately absent: what else is done with leases' requests, and who hands blocks over, and when.

pub mod accept;
pub mod policy;

mod flushes;
mod take;
mod unsure;
mod work;

#[cfg(test)]
mod simulation;

pub use take::Taker;
pub use work::run;

#[cfg(test)]
mod tests;
