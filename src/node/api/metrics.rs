//! The call for metrics.

use serde::{Deserialize, Serialize};

use super::{Call, call};

/// Asks for the node's metrics.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Metrics {}
call!(Metrics, "metrics", MetricsReply);

/// Metrics as text.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MetricsReply {
    /// The text form of OpenMetrics, without the line that ends it.
    pub text: String,
}
