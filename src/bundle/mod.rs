//! Files to blocks and back.
pub mod error;
pub mod tree;
mod codec;
mod root;
pub use error::Error;
pub use root::{BundleKind, Root, Totals};
