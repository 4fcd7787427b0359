//! Hashing and sealing: the only room that names a cipher or a hash function.
//!
//! Everything else asks for [`hash::sha384_id`] or [`aead::encrypt`], so that a faster implementation can be put in here. This
//! room knows nothing of blocks, files or formats.

pub mod aead;
pub mod handover;
pub mod hash;
pub mod kdf;
pub mod key;
mod lanes;
pub mod random;
pub mod secretbox;
