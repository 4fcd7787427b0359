//! Calls about other nodes: who provides what, who is connected.

use std::time::{Duration, Instant};

use futures::StreamExt;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use super::api::*;
use super::failure::chain;
use super::{Node, PEER_FORMS};
use crate::net::exchange::Answer;
use crate::net::peers::Direction;
use crate::net::providers;
use crate::upkeep::services;

/// Most providers that one search returns.
const MAX_PROVIDERS: usize = 256;
/// Providers that are asked at once whether they have the block.
const CHECK_AT_ONCE: usize = 16;
/// How long one provider may take to say whether it has the block.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// Most seconds for which a port is announced, and how many unless told otherwise.
const MAX_PORT_TTL_S: u64 = 7 * 24 * 3600;
const PORT_TTL_S: u64 = 48 * 3600;
/// Most identifiers in one announcement.
const MAX_ANNOUNCE: usize = 100_000;

impl Node {
    /// Looks up who announced an identifier, and whether they answer.
    ///
    /// # Errors
    /// None at present: nobody found is an empty list.
    pub async fn find(&self, request: Find) -> Result<FindReply, CallError> {
        let start = Instant::now();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(request.timeout_s);
        let limit = request.limit.clamp(1, MAX_PROVIDERS as u64) as usize;
        let own = self.net().peer_id();
        let mut found: Vec<Provider> = Vec::new();
        let mut pause = Duration::from_millis(200);
        // A node that has just started may know nobody yet: as long as nothing is found it looks again.
        while found.is_empty() {
            let providers = self
                .net()
                .providers()
                .find(request.id.to_multihash(), limit);
            let answers = providers
                .filter(|provider| std::future::ready(provider.peer != own))
                .map(|provider| self.ask_provider(provider, &request, start))
                .buffer_unordered(CHECK_AT_ONCE);
            let mut answers = std::pin::pin!(answers);
            while let Ok(Some(provider)) = tokio::time::timeout_at(deadline, answers.next()).await {
                found.push(provider);
            }
            if tokio::time::timeout_at(deadline, tokio::time::sleep(pause))
                .await
                .is_err()
            {
                break;
            }
            pause = (2 * pause).min(Duration::from_secs(5));
        }
        let local = self.block_has(BlockHas { id: request.id }).await?.has;
        let offer = self.inner.services.of(request.id).await;
        let offer = offer.map_err(|error| CallError::new(ErrorKind::Failed, chain(&error)))?;
        Ok(FindReply {
            id: request.id,
            local,
            announced: offer.map(|offer| AnnouncedPort {
                port: offer.port,
                until: offer.until,
            }),
            providers: found,
        })
    }

    async fn ask_provider(
        &self,
        provider: providers::Provider,
        request: &Find,
        start: Instant,
    ) -> Provider {
        let mut addresses: Vec<String> =
            provider.addresses.iter().map(ToString::to_string).collect();
        addresses.sort();
        let (mut reached, mut has) = (None, None);
        let (mut service, mut confirmed) = (provider.service, false);
        if request.check {
            let answer = self
                .net()
                .exchange()
                .have(provider.peer, vec![request.id], CHECK_TIMEOUT)
                .await;
            reached = Some(answer.is_ok());
            has = answer
                .ok()
                .and_then(|answers| answers.into_iter().next())
                .and_then(|(_, answer)| match answer {
                    Answer::Have | Answer::Block(_) => Some(true),
                    Answer::DontHave => Some(false),
                    _ => None,
                });
            if reached == Some(true) && service.is_some() {
                let key = request.id.to_multihash();
                let providers = self.net().providers();
                let own = providers.confirm(provider.peer, key, CHECK_TIMEOUT).await;
                if let Some(own) = own {
                    (service, confirmed) = (own, true);
                }
            }
        }
        Provider {
            peer: provider.peer.to_string(),
            hosts: service.map_or_else(Vec::new, |service| hosts(service, &provider.addresses)),
            addresses,
            reached,
            has,
            port: service.map(|service| service.port),
            port_confirmed: service.map(|_| confirmed),
            port_ttl_s: service.map(|service| service.ttl_s),
            ms: start.elapsed().as_millis() as u64,
        }
    }

    /// Announces identifiers, whether or not blocks of these names are here, and perhaps a port of
    /// another program under them.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when there are too many, or the port or its time is wrong.
    pub async fn announce(&self, request: Announce) -> Result<AnnounceReply, CallError> {
        if request.ids.len() > MAX_ANNOUNCE {
            return Err(CallError::new(
                ErrorKind::Usage,
                format!(
                    "{} identifiers at once are more than {MAX_ANNOUNCE}",
                    request.ids.len()
                ),
            ));
        }
        if request.end || request.port.is_some() {
            return self.announce_port(request).await;
        }
        let keys = request
            .ids
            .iter()
            .map(crate::id::BlockId::to_multihash)
            .collect();
        let report = self
            .net()
            .providers()
            .announce(keys)
            .await
            .map_err(|error| CallError::new(ErrorKind::Unavailable, chain(&error)))?;
        Ok(AnnounceReply {
            ids: request.ids,
            peers: report.peers_reached as u64,
            until: None,
        })
    }

    async fn announce_port(&self, request: Announce) -> Result<AnnounceReply, CallError> {
        let usage = |message: &str| Err(CallError::new(ErrorKind::Usage, message));
        let failed = |error: services::Error| {
            let kind = match error {
                services::Error::TooMany => ErrorKind::Usage,
                services::Error::Net(_) | services::Error::Stopping => ErrorKind::Unavailable,
                _ => ErrorKind::Failed,
            };
            CallError::new(kind, chain(&error))
        };
        let services = &self.inner.services;
        let ttl_s = request.ttl_s.unwrap_or(PORT_TTL_S);
        let (report, until) = match request.port {
            Some(_) if request.end => return usage("a port is announced or taken back, not both"),
            Some(0) => return usage("there is no port 0: a port is from 1 to 65535"),
            Some(_) if !(1..=MAX_PORT_TTL_S).contains(&ttl_s) => {
                return usage("a port is announced for 1 second to 7 days");
            }
            Some(port) => {
                let ttl = Duration::from_secs(ttl_s);
                let done = services.announce(&request.ids, port, ttl).await;
                let (report, until) = done.map_err(failed)?;
                (report, Some(until))
            }
            None => (services.end(&request.ids).await.map_err(failed)?, None),
        };
        Ok(AnnounceReply {
            ids: request.ids,
            peers: report.peers_reached as u64,
            until,
        })
    }

    /// The connected peers.
    ///
    /// # Errors
    /// None at present.
    pub async fn peers(&self, _: Peers) -> Result<PeersReply, CallError> {
        let now = self.now();
        let mut peers: Vec<Peer> = self
            .net()
            .peers()
            .list()
            .await
            .into_iter()
            .filter_map(|info| Some((info.connected_since?, info)))
            .map(|(since, info)| Peer {
                peer: info.peer.to_string(),
                addresses: info.addresses.iter().map(ToString::to_string).collect(),
                agent: Some(info.agent).filter(|agent| !agent.is_empty()),
                rtt_ms: info.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
                connected_s: now.since(since).as_secs(),
                direction: info.direction.map_or("unknown", Direction::name).to_owned(),
                source: info.source.name().to_owned(),
                wrong_blocks: info.wrong_blocks,
                relayed: info.is_relayed,
            })
            .collect();
        peers.sort_by(|a, b| a.peer.cmp(&b.peer));
        Ok(PeersReply { peers })
    }

    /// Has nothing to do with a peer from now on, and closes the connections to it.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for what is not the name of a peer.
    pub async fn block_peer(&self, peer: &str) -> Result<(), CallError> {
        let peer: PeerId = peer.parse().map_err(|error| {
            CallError::new(
                ErrorKind::Usage,
                format!("'{peer}' is not the name of a peer: {error}"),
            )
        })?;
        self.net().peers().block(peer).await;
        Ok(())
    }

    /// Connects to a peer.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for what is no address of a peer, [`ErrorKind::Failed`] when nobody
    /// answers there.
    pub async fn connect(&self, request: Connect) -> Result<ConnectReply, CallError> {
        let address = crate::net::parse_peer(&request.address)
            .map_err(|wrong| CallError::new(ErrorKind::Usage, wrong).with_hint(PEER_FORMS))?;
        let peer = self.net().peers().connect(address).await.map_err(|error| {
            CallError::new(
                ErrorKind::Failed,
                format!(
                    "could not connect to {}: {}",
                    request.address,
                    chain(&error)
                ),
            )
        })?;
        Ok(ConnectReply {
            peer: peer.to_string(),
        })
    }
}

/// IP addresses of a provider's host: where it was seen, else those of its own addresses.
fn hosts(service: providers::Service, addresses: &[Multiaddr]) -> Vec<String> {
    if let Some(host) = service.host {
        return vec![host.to_string()];
    }
    let ips = addresses
        .iter()
        .filter_map(|address| match address.iter().next() {
            Some(Protocol::Ip4(ip)) => Some(ip.to_string()),
            Some(Protocol::Ip6(ip)) => Some(ip.to_string()),
            _ => None,
        });
    let mut hosts: Vec<String> = ips.collect();
    hosts.sort();
    hosts.dedup();
    hosts
}
