//! One address that is listened on.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use futures::future::BoxFuture;
use futures::{FutureExt, Stream};
use if_watch::IfEvent;
use if_watch::tokio::IfWatcher;
use libp2p::core::transport::{ListenerId, TransportEvent};
use quinn::{Endpoint, Incoming};

use super::{Setup, Upgrade, to_address};

/// Event of a listener.
pub(super) type Event = TransportEvent<Upgrade, io::Error>;

/// A socket with its endpoint, until it is closed.
pub(super) struct Listener {
    pub(super) id: ListenerId,
    pub(super) endpoint: Endpoint,
    /// A second handle of the endpoint's socket, for packets that open a way through a router.
    socket: UdpSocket,
    address: SocketAddr,
    setup: Setup,
    accept: BoxFuture<'static, Option<Incoming>>,
    /// None when one address alone is listened on.
    interfaces: Option<IfWatcher>,
    addresses: HashSet<IpAddr>,
    pending: Option<Event>,
    is_closed: bool,
    /// Woken when the listener is closed.
    waker: Option<Waker>,
}

impl Listener {
    pub(super) fn new(
        id: ListenerId,
        socket: UdpSocket,
        endpoint: Endpoint,
        setup: Setup,
    ) -> io::Result<Self> {
        let address = socket.local_addr()?;
        let mut addresses = HashSet::new();
        let (mut interfaces, mut pending) = (None, None);
        if address.ip().is_unspecified() {
            interfaces = Some(IfWatcher::new()?);
        } else {
            addresses.insert(address.ip());
            pending = Some(TransportEvent::NewAddress {
                listener_id: id,
                listen_addr: to_address(address),
            });
        }
        Ok(Self {
            id,
            accept: accept(&endpoint),
            endpoint,
            socket,
            address,
            setup,
            interfaces,
            addresses,
            pending,
            is_closed: false,
            waker: None,
        })
    }

    /// Whether a dial to `target` can go out by this socket.
    pub(super) fn leads_to(&self, target: &SocketAddr) -> bool {
        let is_reached =
            !target.ip().is_loopback() || self.addresses.iter().any(IpAddr::is_loopback);
        !self.is_closed && self.address.is_ipv4() == target.is_ipv4() && is_reached
    }

    /// The socket, for packets beside those of the endpoint.
    pub(super) fn socket(&self) -> io::Result<UdpSocket> {
        self.socket.try_clone()
    }

    /// Closes the endpoint with all its connections.
    pub(super) fn close(&mut self, reason: io::Result<()>) {
        if std::mem::replace(&mut self.is_closed, true) {
            return;
        }
        self.endpoint.close(0u32.into(), b"");
        self.pending = Some(TransportEvent::ListenerClosed {
            listener_id: self.id,
            reason,
        });
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn poll_interfaces(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let Some(interfaces) = &mut self.interfaces else {
            return Poll::Pending;
        };
        loop {
            let (ip, is_up) = match ready!(interfaces.poll_if_event(cx)) {
                Ok(IfEvent::Up(net)) => (net.addr(), true),
                Ok(IfEvent::Down(net)) => (net.addr(), false),
                Err(error) => {
                    return Poll::Ready(TransportEvent::ListenerError {
                        listener_id: self.id,
                        error,
                    });
                }
            };
            if ip.is_ipv4() != self.address.is_ipv4() {
                continue;
            }
            let (listener_id, listen_addr) = (
                self.id,
                to_address(SocketAddr::new(ip, self.address.port())),
            );
            if is_up {
                self.addresses.insert(ip);
                return Poll::Ready(TransportEvent::NewAddress {
                    listener_id,
                    listen_addr,
                });
            }
            self.addresses.remove(&ip);
            return Poll::Ready(TransportEvent::AddressExpired {
                listener_id,
                listen_addr,
            });
        }
    }

    fn accepted(&self, incoming: Incoming) -> Event {
        let from = incoming.remote_address();
        match incoming.accept() {
            Ok(connecting) => TransportEvent::Incoming {
                listener_id: self.id,
                upgrade: self.setup.upgrade(connecting),
                local_addr: to_address(self.address),
                send_back_addr: to_address(from),
            },
            Err(error) => TransportEvent::ListenerError {
                listener_id: self.id,
                error: error.into(),
            },
        }
    }
}

fn accept(endpoint: &Endpoint) -> BoxFuture<'static, Option<Incoming>> {
    let endpoint = endpoint.clone();
    async move { endpoint.accept().await }.boxed()
}

impl Stream for Listener {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        loop {
            if let Some(event) = self.pending.take() {
                return Poll::Ready(Some(event));
            }
            if self.is_closed {
                return Poll::Ready(None);
            }
            if let Poll::Ready(event) = self.poll_interfaces(cx) {
                return Poll::Ready(Some(event));
            }
            match self.accept.poll_unpin(cx) {
                Poll::Ready(Some(incoming)) => {
                    self.accept = accept(&self.endpoint);
                    return Poll::Ready(Some(self.accepted(incoming)));
                }
                Poll::Ready(None) => self.close(Ok(())),
                Poll::Pending => {
                    self.waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        }
    }
}
