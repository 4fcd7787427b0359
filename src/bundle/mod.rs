//! Files to blocks and back.
mod codec;
mod cursor;
pub mod error;
mod opener;
mod read;
mod root;
pub mod tree;
pub use error::Error;
pub use read::{Bundle, Walked};
pub use root::{BundleKind, Root, Totals};
