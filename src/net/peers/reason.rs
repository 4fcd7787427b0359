//! Why a peer could not be dialled, in words.

use libp2p::swarm::DialError;

use crate::net::address::without_peer;

/// The reason in a line.
pub(super) fn describe(error: &DialError) -> String {
    match error {
        DialError::Transport(errors) => {
            let parts: Vec<String> = errors
                .iter()
                .take(4)
                .map(|(address, error)| {
                    let mut cause: &dyn std::error::Error = error;
                    while let Some(source) = cause.source() {
                        cause = source;
                    }
                    format!("{}: {cause}", without_peer(address.clone()))
                })
                .collect();
            parts.join("; ")
        }
        DialError::NoAddresses => "no address of it is known".to_owned(),
        DialError::WrongPeerId { obtained, address } => {
            format!("{obtained} is at {}", without_peer(address.clone()))
        }
        DialError::LocalPeerId { .. } => "it is this node itself".to_owned(),
        DialError::Denied { cause } => {
            let mut cause: &dyn std::error::Error = cause;
            while let Some(source) = cause.source() {
                cause = source;
            }
            cause.to_string()
        }
        DialError::Aborted | DialError::DialPeerConditionFalse(_) => error.to_string(),
    }
}
