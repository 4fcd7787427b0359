//! Whether the router is asked to pass a port on.

use serde::{Deserialize, Serialize};

/// Whether the router is asked to pass a port on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortMapping {
    /// By a node that runs until it is stopped and listens by the program's defaults: a chosen
    /// address says who is to get through.
    #[default]
    Auto,
    /// It is.
    On,
    /// It is not.
    Off,
}

impl std::str::FromStr for PortMapping {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err(format!("'{text}' is not one of on, off, auto")),
        }
    }
}
