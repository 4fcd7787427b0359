//! Files to blocks and back.
mod codec;
mod cursor;
pub mod error;
mod extract;
mod opener;
mod put;
mod read;
mod root;
#[cfg(test)]
mod tests;
pub mod tree;
pub use error::Error;
pub use extract::{
    DEFAULT_WINDOW, ExtractOptions, ExtractReport, Failed, Missing, Overwrite, extract,
};
pub use put::{
    DEFAULT_IN_FLIGHT_BYTES, MAX_REPORTED, PutOptions, PutReport, Unreadable, put, put_reader,
};
pub use read::{Bundle, Walked};
pub use root::{BundleKind, Root, Totals};
