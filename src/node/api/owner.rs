//! Calls about the owner of the node's data directory.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{Call, call};

/// Tells whose data directory this is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct OwnerInfo {}
call!(OwnerInfo, "owner-info", OwnerInfoReply);

/// The owner of the node's data directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerInfoReply {
    /// The owner's public key; missing when there is none.
    pub owner: Option<String>,
    /// Name of this machine; a proposal when there is no owner.
    pub machine: String,
    /// Whether a passphrase protects the keys.
    pub locked: bool,
}

/// Makes twelve words. Nothing is kept of them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct OwnerWords {}
call!(OwnerWords, "owner-words", OwnerWordsReply);

/// Twelve words. `Debug` does not show them.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct OwnerWordsReply {
    /// The words, separated by spaces.
    pub words: String,
}

impl fmt::Debug for OwnerWordsReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnerWordsReply(..)")
    }
}

/// Makes this node's machine one of the owner whom the words name.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct OwnerCreate {
    /// The words; the first four letters of each are enough.
    pub words: String,
    /// Name of this machine.
    pub machine: String,
    /// What protects the keys on this machine, if anything.
    #[serde(default)]
    pub passphrase: Option<String>,
}
call!(OwnerCreate, "owner-create", OwnerInfoReply);

impl fmt::Debug for OwnerCreate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnerCreate(..)")
    }
}
