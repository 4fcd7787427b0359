//! Whether meeting points outside of the mesh may be used, and the nodes to begin with there.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Most nodes to begin with.
const MAX_FIRST_NODES: usize = 32;

/// Whether something may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Switch {
    /// It may.
    #[default]
    On,
    /// It may not, whatever else was said.
    Off,
}

impl Switch {
    /// Whether it may.
    pub const fn is_on(self) -> bool {
        matches!(self, Self::On)
    }
}

impl FromStr for Switch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err(format!("'{text}' is neither on nor off")),
        }
    }
}

/// The reason why a list of nodes to begin with is wrong, if it is.
pub(super) fn problem(nodes: &[String]) -> Option<String> {
    if nodes.len() > MAX_FIRST_NODES {
        return Some(format!("at most {MAX_FIRST_NODES} nodes to begin with"));
    }
    let is_good = |node: &String| {
        let (host, port) = node.rsplit_once(':').unwrap_or_default();
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
        let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
        !host.is_empty() && host.len() <= 253 && host.chars().all(fits) && is_port
    };
    let wrong = nodes.iter().find(|node| !is_good(node))?;
    Some(format!(
        "'{}' is not HOST:PORT, with a name or an IPv4 address",
        wrong.chars().take(100).collect::<String>()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_to_begin_with_are_names_or_ipv4_addresses_with_a_port() {
        let problem = |node: &str| problem(&[node.to_owned()]);
        for good in ["127.0.0.1:6881", "router.example.org:1", "a-b_c:65535"] {
            assert_eq!(problem(good), None, "{good}");
        }
        for wrong in [
            "",
            "host",
            ":1",
            "host:",
            "host:0",
            "host:65536",
            "a b:1",
            "[::1]:1",
            "::1:1",
            "http://host:1",
        ] {
            let said = problem(wrong).expect(wrong);
            assert!(said.contains("HOST:PORT"), "{said}");
        }
        let many = vec!["host:1".to_owned(); MAX_FIRST_NODES + 1];
        assert!(super::problem(&many).is_some());
        assert_eq!(super::problem(&[]), None);
    }
}
