//! Tickets: where this node can be reached, beside a link.

use std::time::Duration;

use libp2p::Multiaddr;

use super::Node;
use super::api::*;
use crate::block::{MAX_TICKET_ADDRESSES, Ticket};
use crate::net::reach::Reachable;
use crate::net::{is_outside, to_pass_on};

/// Time that others have to confirm an address of a node that has just started.
const CONFIRM_PATIENCE: Duration = Duration::from_secs(5);

impl Node {
    /// Makes a ticket: the link, and up to four addresses: confirmed ones and those through relays;
    /// while there is none, what this machine listens on.
    ///
    /// # Errors
    /// None at present.
    pub async fn ticket(&self, request: MakeTicket) -> Result<MakeTicketReply, CallError> {
        let confirmed = self.confirmed_addresses().await;
        let listening = self.net().listen_addresses();
        let addresses = to_pass_on(&confirmed, &listening, MAX_TICKET_ADDRESSES);
        let ticket = Ticket::new(request.link, self.net().peer_id(), addresses).ok();
        let addresses = ticket.iter().flat_map(Ticket::addresses);
        Ok(MakeTicketReply {
            addresses: addresses.map(|address| address.to_string()).collect(),
            ticket: ticket.map(|ticket| ticket.to_string()),
            confirmed: !confirmed.is_empty(),
        })
    }

    /// Addresses that work from outside, after a moment for the first of them where somebody is
    /// there to confirm it.
    async fn confirmed_addresses(&self) -> Vec<Multiaddr> {
        let mut status = self.net().reach().watch();
        let is_open = {
            let status = status.borrow();
            status.addresses.is_empty() && status.reachable == Reachable::Unknown
        };
        let peers = self.net().peers().list().await.into_iter();
        let mut addresses = peers
            .filter(|peer| peer.connected_since.is_some())
            .flat_map(|peer| peer.addresses);
        if is_open && addresses.any(|address| is_outside(&address)) {
            let is_known = status.wait_for(|status| !status.addresses.is_empty());
            // Without a confirmation the ticket says less.
            let _ = tokio::time::timeout(CONFIRM_PATIENCE, is_known).await;
        }
        self.net().reach().status().addresses
    }
}
