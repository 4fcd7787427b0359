//! The call that begins a session of a browser.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Call, call};

/// Asks for an address that opens the dashboard logged in, once. The local HTTP server answers it,
/// not the node behind it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct WebLogin {}
call!(WebLogin, "web-login", WebLoginReply);

/// The address that [`WebLogin`] gives. Whoever opens it first is logged in; its `Debug` form does
/// not show it.
#[derive(Clone, Serialize, Deserialize)]
pub struct WebLoginReply {
    /// The address: it is good once and for minutes.
    pub url: String,
}

impl fmt::Debug for WebLoginReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebLoginReply(..)")
    }
}
