//! How a TCP connection is encrypted and its two ends prove who they are: by TLS 1.3, or by noise with peers that have only that.
//!
//! Both bind the connection to the two peer ids (libp2p's specifications "tls" and "noise"). TLS is offered first: noise is bound to
//! ChaCha20-Poly1305, and encrypting is most of what a transfer costs. Having two to choose from costs a round trip more for each connection. See
//! [`tls`](super::tls).

use std::io;
use std::iter::{Chain, Once, once};

use futures::future::BoxFuture;
use futures::{AsyncRead, AsyncWrite, FutureExt};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::identity::Keypair;
use libp2p::{PeerId, noise};

use super::tls::Tls;
use crate::wire::names;

/// A stream that one of them encrypts.
pub(in crate::net) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// An encrypted stream and whom it leads to.
type Secured = (PeerId, Box<dyn Stream>);

/// The keys and settings of one node.
#[derive(Clone)]
pub(super) struct Security {
    tls: Tls,
    noise: noise::Config,
}

impl Security {
    /// Proves to be the node of this key.
    ///
    /// # Errors
    /// When the key can't sign what is to be proved.
    pub(super) fn new(key: &Keypair) -> io::Result<Self> {
        Ok(Self {
            tls: Tls::new(key)?,
            noise: noise::Config::new(key).map_err(io::Error::other)?,
        })
    }
}

/// One of the two.
#[derive(Debug, Clone, Copy)]
pub(super) enum Protocol {
    Tls,
    /// By the name that libp2p's noise goes by.
    Noise(&'static str),
}

impl AsRef<str> for Protocol {
    fn as_ref(&self) -> &str {
        match self {
            Self::Tls => names::TLS,
            Self::Noise(name) => name,
        }
    }
}

impl UpgradeInfo for Security {
    type Info = Protocol;
    type InfoIter =
        Chain<Once<Protocol>, std::iter::Map<Once<&'static str>, fn(&'static str) -> Protocol>>;

    fn protocol_info(&self) -> Self::InfoIter {
        let noise = self.noise.protocol_info();
        once(Protocol::Tls).chain(noise.map(Protocol::Noise as fn(_) -> _))
    }
}

fn boxed<T: Stream + 'static>((peer, stream): (PeerId, T)) -> Secured {
    (peer, Box::new(stream))
}

impl<C: Stream + 'static> InboundConnectionUpgrade<C> for Security {
    type Output = Secured;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Secured>>;

    fn upgrade_inbound(self, stream: C, protocol: Protocol) -> Self::Future {
        async move {
            match protocol {
                Protocol::Tls => self.tls.accept(stream).await.map(boxed),
                Protocol::Noise(name) => {
                    let upgraded = self.noise.upgrade_inbound(stream, name).await;
                    upgraded.map(boxed).map_err(io::Error::other)
                }
            }
        }
        .boxed()
    }
}

impl<C: Stream + 'static> OutboundConnectionUpgrade<C> for Security {
    type Output = Secured;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Secured>>;

    fn upgrade_outbound(self, stream: C, protocol: Protocol) -> Self::Future {
        async move {
            match protocol {
                Protocol::Tls => self.tls.connect(stream).await.map(boxed),
                Protocol::Noise(name) => {
                    let upgraded = self.noise.upgrade_outbound(stream, name).await;
                    upgraded.map(boxed).map_err(io::Error::other)
                }
            }
        }
        .boxed()
    }
}
