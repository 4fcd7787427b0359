//! The one task that owns the swarm. Its loop has three arms: cancel, command, swarm event. Handlers are synchronous; nothing here
//! waits, hashes or touches the disk.

use std::io;
use std::time::Duration;

use futures::StreamExt;
use libp2p::core::transport::{ListenerId, TransportError};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, Swarm};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::admission::Permits;
use super::error::Error;
use super::listeners::{Listeners, Machine, check_free};
use super::metrics::Meter;
use super::providers::WriterThread;
use super::switchboard::{Commands, Rooms, RoomsEvent, Switchboard};
use super::transport::Tasks;

/// Time in which listeners name an address each.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Time that they then have for the others, so that all are known from the start. Not all that
/// the machine has need be named.
const OTHERS_TIMEOUT: Duration = Duration::from_secs(1);
/// How long connections may take to end once the swarm is gone.
const END_TIMEOUT: Duration = Duration::from_secs(3);

/// Owns the swarm.
pub(super) struct Driver {
    pub(super) swarm: Swarm<Rooms>,
    pub(super) switchboard: Switchboard,
    pub(super) commands: Commands,
    pub(super) cancel: CancellationToken,
    pub(super) permits: std::sync::Arc<Permits>,
    pub(super) tasks: Tasks,
    pub(super) records: WriterThread,
    pub(super) listeners: Vec<ListenerId>,
    pub(super) meter: std::sync::Arc<Meter>,
}

impl Driver {
    /// Starts to listen and waits until the listeners have named their addresses. Gives what is to
    /// be said of addresses that don't work; `chosen`: a person chose the addresses.
    ///
    /// # Errors
    /// [`Error`], when the node can't do without an address.
    pub(super) async fn listen(
        &mut self,
        addresses: &[Multiaddr],
        chosen: bool,
    ) -> Result<Vec<String>, Error> {
        let mut listeners = Listeners::new(Machine::this(), chosen);
        for address in addresses {
            match self.listen_on(address) {
                Ok(id) => {
                    self.listeners.push(id);
                    listeners.bound(id, address);
                }
                Err(failure) => listeners.failed(failure)?,
            }
        }
        let mut until = Instant::now() + LISTEN_TIMEOUT;
        while listeners.wait_for_a_first() || listeners.wait_for_others() {
            if !listeners.wait_for_a_first() {
                until = until.min(Instant::now() + OTHERS_TIMEOUT);
            }
            let Ok(event) = timeout_at(until, self.swarm.select_next_some()).await else {
                listeners.give_up();
                break;
            };
            match &event {
                SwarmEvent::NewListenAddr {
                    listener_id,
                    address,
                } => listeners.named(*listener_id, address),
                SwarmEvent::ListenerClosed {
                    listener_id,
                    reason,
                    ..
                } => {
                    if let Some(address) = listeners.address(*listener_id) {
                        let reason = reason.as_ref().err().map(io::Error::kind);
                        return Err(Error::Listen {
                            address: address.clone(),
                            source: reason.unwrap_or(io::ErrorKind::NotConnected).into(),
                        });
                    }
                }
                _ => {}
            }
            self.on_event(event);
        }
        listeners.finish()
    }

    fn listen_on(&mut self, address: &Multiaddr) -> Result<ListenerId, Error> {
        let failed = |source| Error::Listen {
            address: address.clone(),
            source,
        };
        check_free(address).map_err(failed)?;
        let listening = self.swarm.listen_on(address.clone());
        listening.map_err(|error| match error {
            TransportError::MultiaddrNotSupported(address) => Error::Unsupported { address },
            TransportError::Other(source) => failed(source),
        })
    }

    /// Runs until cancelled or until nobody holds a handle any more, then ends everything it owns.
    pub(super) async fn run(mut self: Box<Self>) {
        loop {
            tokio::select! {
                () = self.cancel.cancelled() => break,
                command = self.commands.recv() => match command {
                    Some(command) => self.switchboard.command(self.swarm.behaviour_mut(), command),
                    None => break,
                },
                event = self.swarm.select_next_some() => self.on_event(event),
            }
        }
        self.end().await;
    }

    fn on_event(&mut self, event: SwarmEvent<RoomsEvent>) {
        self.meter.swarm(&event);
        match event {
            SwarmEvent::Behaviour(event) => {
                self.switchboard.event(self.swarm.behaviour_mut(), event);
            }
            SwarmEvent::NewListenAddr { address, .. } => self.switchboard.listens(address),
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.switchboard.listens_no_more(address);
            }
            SwarmEvent::ListenerClosed {
                addresses,
                reason,
                listener_id,
            } => {
                if self.listeners.contains(&listener_id) {
                    tracing::warn!(?addresses, ?reason, "a listener has closed");
                } else {
                    tracing::debug!(?addresses, ?reason, "a way through a relay has closed");
                }
                for address in addresses {
                    self.switchboard.listens_no_more(address);
                }
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "a listener has failed");
            }
            // Connections are the peers room's business.
            _ => {}
        }
    }

    /// Nobody gets a permit any more, listeners and connections close, what is to be written is written.
    pub(super) async fn end(mut self: Box<Self>) {
        self.permits.close();
        drop(self.commands);
        for listener in self.listeners {
            // A listener in memory keeps its place in the process when it is merely dropped.
            self.swarm.remove_listener(listener);
        }
        drop(self.swarm);
        if timeout(END_TIMEOUT, self.tasks.join()).await.is_err() {
            tracing::warn!("some connections did not close in time");
        }
        let records = self.records;
        if tokio::task::spawn_blocking(move || records.join())
            .await
            .is_err()
        {
            tracing::error!("the thread that writes DHT records could not be joined");
        }
    }
}
