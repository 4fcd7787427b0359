//! The door for inbound connections, from the moment they are accepted until both ends have
//! proved who they are.
//!
//! Sockets cost nothing, so a flood of them must displace itself alone:
//! - A TCP connection on which nothing has come is *silent*. It is closed after a moment. One of
//!   QUIC has spoken when it is first heard of.
//! - The places are bounded in all and for each site. When there is none left the oldest connection
//!   of that site, or of the site that has the most, gives way, silent ones first.
//!
//! A peer that speaks at once is therefore let in beside any number of silent sockets, from its own
//! address too. Deliberately absent: what is bounded once a peer is known (`places`).

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::{AsyncRead, AsyncWrite, FutureExt};
use libp2p::core::ConnectedPoint;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, DialOpts, ListenerId, TransportError, TransportEvent};
use libp2p::{Multiaddr, PeerId, Transport};
use tokio::sync::oneshot;

use super::Site;
use crate::net::address;
use crate::net::limits::Limits;

type Connection = Boxed<(PeerId, StreamMuxerBox)>;

/// The other end of a connection, and whether it is one of TCP.
type End = (SocketAddr, bool);

struct Place {
    number: u64,
    silent: bool,
    /// Dropped to close the connection.
    _held: oneshot::Sender<()>,
}

/// Connections at the door. Pure but for the senders.
struct Table {
    limits: Limits,
    places: HashMap<End, Place>,
    next: u64,
}

impl Table {
    /// Takes a place for a connection, which has it until the receiver resolves.
    fn enter(&mut self, from: End) -> (u64, oneshot::Receiver<()>) {
        let (socket, is_tcp) = from;
        if let Some(leaving) = self.must_leave(Site::of_ip(socket.ip())) {
            self.places.remove(&leaving);
        }
        let (held, evicted) = oneshot::channel();
        let number = self.next;
        self.next += 1;
        let place = Place {
            number,
            silent: is_tcp,
            _held: held,
        };
        self.places.insert(from, place);
        (number, evicted)
    }

    /// The connection that gives way to one from `site`, if one must.
    fn must_leave(&self, site: Site) -> Option<End> {
        let mut crowds: HashMap<Site, usize> = HashMap::new();
        for (socket, _) in self.places.keys() {
            *crowds.entry(Site::of_ip(socket.ip())).or_default() += 1;
        }
        let share = match site.is_near() {
            true => self.limits.pending_per_near_site,
            false => self.limits.pending_per_site,
        };
        let crowd = if crowds.get(&site).is_some_and(|n| *n >= share) {
            site
        } else if self.places.len() >= self.limits.pending_inbound {
            *crowds.iter().max_by_key(|(_, n)| **n)?.0
        } else {
            return None;
        };
        let members = self.places.iter();
        let members = members.filter(|((socket, _), _)| Site::of_ip(socket.ip()) == crowd);
        let oldest = members.min_by_key(|(_, place)| (!place.silent, place.number));
        oldest.map(|(from, _)| *from)
    }

    fn spoke(&mut self, from: &End) {
        if let Some(place) = self.places.get_mut(from) {
            place.silent = false;
        }
    }

    fn is_silent(&self, from: &End) -> bool {
        self.places.get(from).is_some_and(|place| place.silent)
    }

    fn leave(&mut self, from: &End, number: u64) {
        if self
            .places
            .get(from)
            .is_some_and(|place| place.number == number)
        {
            self.places.remove(from);
        }
    }
}

/// The door of one transport. Cheap to clone.
#[derive(Clone)]
pub(in crate::net) struct Door(Arc<Mutex<Table>>);

impl Door {
    /// A door with as many places as `limits` says.
    pub(in crate::net) fn new(limits: &Limits) -> Self {
        Self(Arc::new(Mutex::new(Table {
            limits: *limits,
            places: HashMap::new(),
            next: 0,
        })))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches for the first bytes on an inbound connection.
    pub(in crate::net) fn listen_to<S>(&self, stream: S, endpoint: &ConnectedPoint) -> Heard<S> {
        let from = match endpoint {
            ConnectedPoint::Listener { send_back_addr, .. } => address::socket(send_back_addr),
            ConnectedPoint::Dialer { .. } => None,
        };
        Heard {
            stream,
            waiting: from.map(|from| (self.clone(), from)),
        }
    }

    /// Makes a connection's upgrade end when it has to leave its place.
    fn guard<T: Send + 'static>(
        &self,
        from: End,
        upgrade: impl Future<Output = io::Result<T>> + Send + 'static,
    ) -> BoxFuture<'static, io::Result<T>> {
        let mut table = self.table();
        let (number, evicted) = table.enter(from);
        let longest = table.limits.first_bytes;
        drop(table);
        let place = Leaving {
            door: self.clone(),
            from,
            number,
        };
        async move {
            let silence = async {
                tokio::time::sleep(longest).await;
                if !place.door.table().is_silent(&from) {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                biased;
                upgraded = upgrade => upgraded,
                _ = evicted => Err(io::ErrorKind::ConnectionAborted.into()),
                () = silence => Err(io::ErrorKind::TimedOut.into()),
            }
        }
        .boxed()
    }
}

/// Gives a place back when dropped.
struct Leaving {
    door: Door,
    from: End,
    number: u64,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.door.table().leave(&self.from, self.number);
    }
}

/// A transport whose inbound connections come through a door.
pub(in crate::net) struct Guarded {
    pub(in crate::net) inner: Connection,
    pub(in crate::net) door: Door,
}

impl Transport for Guarded {
    type Output = (PeerId, StreamMuxerBox);
    type Error = io::Error;
    type ListenerUpgrade = BoxFuture<'static, io::Result<Self::Output>>;
    type Dial = <Connection as Transport>::Dial;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<io::Error>> {
        self.inner.dial(address, opts)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        let event = std::task::ready!(Pin::new(&mut self.inner).poll(cx));
        let from = match &event {
            TransportEvent::Incoming { send_back_addr, .. } => address::socket(send_back_addr),
            _ => None,
        };
        Poll::Ready(event.map_upgrade(|upgrade| match from {
            Some(from) => self.door.guard(from, upgrade),
            None => upgrade.boxed(),
        }))
    }
}

/// A stream that tells its door when the first bytes come.
pub(in crate::net) struct Heard<S> {
    stream: S,
    waiting: Option<(Door, End)>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        if matches!(read, Ok(1..))
            && let Some((door, from)) = self.waiting.take()
        {
            door.table().spoke(&from);
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

#[cfg(test)]
#[path = "door_tests.rs"]
mod tests;
