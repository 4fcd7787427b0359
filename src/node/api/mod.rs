//! What a node can be asked, as values: the same for a node in this process and for one behind HTTP.
//!
//! Names of methods and fields are public: scripts see them in `--json` output and in the local HTTP API. Fields are added,
//! never renamed.

mod backup;
mod blocks;
mod care;
mod health;
mod lease;
mod leave;
mod ledger;
mod machines;
mod meet;
mod metrics;
mod owner;
#[cfg(test)]
mod path_tests;
mod problems;
mod rings;
mod sets;
mod settings;
mod status;
mod web;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::block::{Link, Tried};
use crate::id::BlockId;
use crate::path;
use crate::time::Timestamp;

/// One kind of request: its name in URLs and what comes back.
pub trait Call: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The method's name, the last part of `/api/v1/<name>`.
    const NAME: &'static str;
    /// The answer.
    type Reply: Serialize + DeserializeOwned + Send + 'static;
}

macro_rules! call {
    ($request:ty, $name:literal, $reply:ty) => {
        impl Call for $request {
            const NAME: &'static str = $name;
            type Reply = $reply;
        }
    };
}
use call;

pub use crate::path::{bytes_of, hex, shown};
pub use backup::*;
pub use blocks::*;
pub use care::*;
pub use health::*;
pub use lease::*;
pub use leave::*;
pub use ledger::*;
pub use machines::*;
pub use meet::*;
pub use metrics::*;
pub use owner::*;
