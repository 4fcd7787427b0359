//! The providers room inside the swarm: libp2p's Kademlia with our queries around it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::kad::{
    self, Caching, GetClosestPeersError, GetProvidersError, GetProvidersOk, InboundRequest,
    KBucketKey, KadPeer, Mode, ProviderRecord, QueryId, QueryResult, RecordKey, StoreInserts,
};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandlerInEvent, THandlerOutEvent,
    ToSwarm,
};
use libp2p::{PeerId, StreamProtocol};
use tokio::sync::{mpsc, oneshot};

use super::inbox::{Door, Inbox, Tally};
use super::record_store::{Bounds, Own, PROVIDER_TTL, ShelfStore};
use super::region::{self, Crowd};
use super::service::{self, Service};
use super::sweep::{Hash, hash_of, located};
use super::{Command, MAX_FOUND, Provider, RecordShelf, WriterThread};
use crate::net::address::{is_relayed, is_tellable, reach, remote, without_peer};
use crate::net::delegate::delegate_handlers;
use crate::net::hearsay::Hearsay;
use crate::net::metrics::Meter;
use crate::net::remotes::Remotes;
use crate::time::Clock;
use libp2p::kad::store::RecordStore;

/// How long one query may take.
const QUERY_TIMEOUT: Duration = Duration::from_secs(30);
/// Peers that one query asks at once: a few that are gone must not hold it up. The specification's
/// 3 is for networks whose nodes stay.
const PARALLELISM: NonZeroUsize = NonZeroUsize::MIN.saturating_add(9);
/// How often the routing table is refreshed.
const BOOTSTRAP_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// Room for twice twenty peers with all their addresses; libp2p's default is a quarter of it.
const MAX_PACKET_BYTES: usize = 64 << 10;
/// Most addresses of one peer that go into the routing table and so into answers.
const MAX_ROUTED_ADDRESSES: usize = 8;
/// A key is near when of the peers known here no more than so many are nearer to it: three times as
/// many as hold a record, for those that announce see others of the mesh than this node does.
const NEAR: usize = 60;

/// Most providers that one answer names: as many as Kademlia sends.
const MAX_TOLD: usize = 20;

/// Event that the handler of a connection reports.
type Reported = THandlerOutEvent<kad::Behaviour<ShelfStore>>;
/// Order to the handler of a connection.
type Told = THandlerInEvent<kad::Behaviour<ShelfStore>>;

/// What others may want to know of the DHT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// Where a peer can be reached, from the DHT.
    Located {
        peer: PeerId,
        addresses: Vec<Multiaddr>,
    },
    /// The routing table has been refreshed; so many peers are in it.
    Bootstrapped { peers: usize },
}

struct Find {
    key: RecordKey,
    left: usize,
    seen: HashSet<PeerId>,
    found: mpsc::Sender<Provider>,
    /// Ports that were told of providers that have not been reported yet.
    services: HashMap<PeerId, Service>,
    /// To be told that a crowd of peers hides the key.
    crowded: oneshot::Sender<u32>,
}

/// The providers room's behaviour.
pub(crate) struct Behaviour {
    inner: kad::Behaviour<ShelfStore>,
    local: PeerId,
    finds: HashMap<QueryId, Find>,
    lookups: HashMap<QueryId, oneshot::Sender<Vec<PeerId>>>,
    /// Whom lookups leave out.
    crowds: HashMap<QueryId, Crowd>,
    inbox: Inbox,
    hearsay: Arc<Hearsay>,
    /// The other ends of connections.
    remotes: HashMap<ConnectionId, (PeerId, Multiaddr)>,
    /// As far as other rooms need them.
    distances: Arc<Remotes>,
    meter: Arc<Meter>,
    /// One for each search: resolves when nobody listens any more. Bounded by the searches' permits.
    dropped: FuturesUnordered<BoxFuture<'static, QueryId>>,
    out: VecDeque<ToSwarm<Event, THandlerInEvent<kad::Behaviour<ShelfStore>>>>,
}

/// Parts that the room is made of.
pub(crate) struct Setup {
    pub(crate) local: PeerId,
    pub(crate) protocol: StreamProtocol,
    pub(crate) shelf: Arc<dyn RecordShelf>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Whether to answer even without a confirmed external address.
    pub(crate) server: bool,
    pub(crate) tally: Arc<Tally>,
    pub(crate) hearsay: Arc<Hearsay>,
    pub(crate) own: Own,
    pub(crate) distances: Arc<Remotes>,
    pub(crate) meter: Arc<Meter>,
}

impl Behaviour {
    pub(crate) fn new(setup: Setup) -> std::io::Result<(Self, WriterThread)> {
        let local = setup.local;
        let bounds = Bounds::default();
        let (store, thread) = ShelfStore::open(local, setup.shelf, setup.clock, bounds, setup.own)?;
        let (inbox, checker) = Inbox::start(local, store.values(), setup.tally)?;
        let mut config = kad::Config::new(setup.protocol);
        // Nothing is repeated by Kademlia itself: it would make a lookup for each key. We sweep.
        config
            .set_provider_publication_interval(None)
            .set_publication_interval(None)
            .set_replication_interval(None)
            .set_provider_record_ttl(Some(PROVIDER_TTL))
            // No peer puts a value here.
            .set_record_filtering(StoreInserts::FilterBoth)
            .set_record_ttl(None)
            .set_query_timeout(QUERY_TIMEOUT)
            .set_parallelism(PARALLELISM)
            .set_periodic_bootstrap_interval(Some(BOOTSTRAP_INTERVAL))
            .set_caching(Caching::Disabled)
            .set_max_packet_size(MAX_PACKET_BYTES);
        let mut inner = kad::Behaviour::with_config(local, store, config);
        if setup.server {
            inner.set_mode(Some(Mode::Server));
        }
        let behaviour = Self {
            inner,
            local,
            finds: HashMap::new(),
            lookups: HashMap::new(),
            crowds: HashMap::new(),
            inbox,
            hearsay: setup.hearsay,
            remotes: HashMap::new(),
            distances: setup.distances,
            meter: setup.meter,
            dropped: FuturesUnordered::new(),
            out: VecDeque::new(),
        };
        Ok((behaviour, thread.after(checker)))
    }

    pub(crate) fn command(&mut self, command: Command) {
        match command {
            Command::Find {
                key,
                limit,
                found,
                crowded,
                dropped,
            } => {
                let find = Find {
                    key: key.into(),
                    left: limit,
                    seen: HashSet::from([self.local]),
                    found,
                    services: HashMap::new(),
                    crowded,
                };
                self.find(find, dropped);
            }
            Command::Told {
                teller,
                key,
                told,
                reply,
            } => {
                let _ = reply.send(self.told(teller, &key, told));
            }
            Command::Depth(reply) => {
                let _ = reply.send(self.depth());
            }
            Command::LookPast { key, crowd, reply } => {
                let query = self.inner.get_closest_peers(key);
                self.lookups.insert(query, reply);
                self.crowds.insert(query, crowd);
            }
            Command::Lookup { key, reply } => {
                let query = self.inner.get_closest_peers(key);
                self.lookups.insert(query, reply);
            }
            Command::Provide {
                keys,
                provide,
                reply,
            } => {
                for key in keys {
                    self.provide(key.into(), provide);
                }
                let _ = reply.send(());
            }
            Command::Reach(peer) => {
                let opts = DialOpts::peer_id(peer)
                    .condition(PeerCondition::DisconnectedAndNotDialing)
                    .build();
                self.out.push_back(ToSwarm::Dial { opts });
            }
            Command::Own(job, permit) => self.inbox.own(job, permit),
        }
    }

    /// The way of peers' questions for heads.
    pub(crate) fn door(&self) -> Door {
        self.inbox.door()
    }

    /// A connected peer listens at these addresses.
    pub(crate) fn listens(&mut self, peer: PeerId, addresses: &[Multiaddr]) {
        self.inner.store_mut().listens(peer, addresses);
    }

    /// A peer of this network serves the DHT at these addresses, and at no others.
    pub(crate) fn route(&mut self, peer: PeerId, addresses: &[Multiaddr]) {
        let fresh = &addresses[..addresses.len().min(MAX_ROUTED_ADDRESSES)];
        for address in fresh {
            self.inner.add_address(&peer, address.clone());
        }
        let is_stale = |address: &Multiaddr| {
            let bare = without_peer(address.clone());
            !fresh.iter().any(|one| without_peer(one.clone()) == bare)
        };
        let routed = self.inner.kbucket(peer).and_then(|bucket| {
            let mut entries = bucket.iter();
            let entry = entries.find(|entry| *entry.node.key.preimage() == peer)?;
            Some(entry.node.value.iter().cloned().collect::<Vec<_>>())
        });
        let routed = routed.unwrap_or_default().into_iter();
        for stale in routed.filter(|address| !fresh.is_empty() && is_stale(address)) {
            self.inner.remove_address(&peer, &stale);
        }
    }

    /// Whether no query is under way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.inner.iter_queries().next().is_none()
    }

    /// A peer is not of this network.
    pub(crate) fn forget(&mut self, peer: PeerId) {
        self.inner.remove_peer(&peer);
    }

    fn find(&mut self, find: Find, dropped: oneshot::Receiver<()>) {
        let query = self.inner.get_providers(find.key.clone());
        self.finds.insert(query, find);
        self.end_when(query, dropped);
    }

    /// A search has ended without as many providers as were wanted; these peers are nearest to the
    /// key.
    fn on_searched(&mut self, query: QueryId, nearest: &[PeerId]) {
        let Some(find) = self.finds.remove(&query) else {
            return;
        };
        let nearest: Vec<Hash> = located(nearest).into_iter().map(|(hash, _)| hash).collect();
        if let Some(depth) = self.depth()
            && region::is_crowded(&hash_of(find.key.as_ref()), &nearest, depth)
        {
            tracing::debug!("a crowd of peers hides a key: its region is searched");
            // Nobody may be waiting.
            let _ = find.crowded.send(depth);
        }
    }

    /// Bits that the peers of a region share, by the routing table.
    fn depth(&mut self) -> Option<u32> {
        let mut known = Vec::new();
        for bucket in self.inner.kbuckets() {
            let peers = bucket.iter().map(|entry| *entry.node.key.preimage());
            known.extend(peers.map(|peer| hash_of(&peer.to_bytes())));
        }
        region::depth(&hash_of(&self.local.to_bytes()), &known)
    }

    /// Takes in what a peer that was asked beside Kademlia tells of providers, as far as it counts.
    fn told(
        &mut self,
        teller: PeerId,
        key: &[u8],
        told: Vec<(PeerId, Vec<Multiaddr>)>,
    ) -> Vec<Provider> {
        let of_teller = self.remotes.values().filter(|(peer, _)| *peer == teller);
        // The connection that it came by is not known: the widest counts.
        let remote = of_teller.min_by_key(|(_, remote)| reach(remote));
        let remote = remote.map(|(_, remote)| remote.clone());
        let mut providers = Vec::new();
        for (peer, mut addresses) in told.into_iter().take(MAX_TOLD) {
            if peer == self.local {
                continue;
            }
            let service = service::take(key, &mut addresses)
                .map(|service| self.seen(service, teller, remote.as_ref(), peer));
            let addresses = self.hearsay.hear(teller, remote.as_ref(), peer, addresses);
            self.tell(Event::Located {
                peer,
                addresses: addresses.clone(),
            });
            let full = addresses
                .into_iter()
                .filter_map(|one| one.with_p2p(peer).ok());
            let addresses = full.collect();
            providers.push(Provider {
                peer,
                addresses,
                service,
            });
        }
        providers
    }

    /// A service of `peer` as far as `teller`, at the other end of a connection with `remote`, may
    /// tell of it. A provider's own host is where this node is connected to it.
    fn seen(
        &self,
        mut service: Service,
        teller: PeerId,
        remote: Option<&Multiaddr>,
        peer: PeerId,
    ) -> Service {
        service.host = if teller == peer {
            service::host_of(remote)
        } else {
            let told = service.host.map(Multiaddr::from);
            let counts = told.is_some_and(|host| self.hearsay.may_tell(remote, &host));
            service.host.filter(|_| counts)
        };
        service
    }

    fn end_when(&mut self, query: QueryId, dropped: oneshot::Receiver<()>) {
        self.dropped.push(Box::pin(async move {
            let _ = dropped.await;
            query
        }));
    }

    fn provide(&mut self, key: RecordKey, provide: bool) {
        if provide {
            let record = ProviderRecord::new(key, self.local, Vec::new());
            if let Err(error) = self.inner.store_mut().add_provider(record) {
                let lost = self.inner.store_mut().dropped_writes();
                tracing::debug!(%error, lost, "an announcement of our own was not stored");
            }
        } else {
            self.inner.stop_providing(&key);
        }
    }

    fn end(&mut self, query: QueryId) {
        if let Some(mut query) = self.inner.query_mut(&query) {
            query.finish();
        }
    }

    fn on_event(&mut self, event: kad::Event) {
        self.meter.kad(&event);
        let (id, result, step) = match event {
            kad::Event::OutboundQueryProgressed {
                id, result, step, ..
            } => (id, result, step),
            kad::Event::InboundRequest { request } => return self.on_request(request),
            _ => return,
        };
        match result {
            QueryResult::GetProviders(result) => {
                let nearest = match result {
                    Ok(GetProvidersOk::FoundProviders { providers, .. }) => {
                        self.on_found(id, providers);
                        Vec::new()
                    }
                    Ok(GetProvidersOk::FinishedWithNoAdditionalRecord { closest_peers })
                    | Err(GetProvidersError::Timeout { closest_peers, .. }) => closest_peers,
                };
                if step.last {
                    self.on_searched(id, &nearest);
                }
            }
            QueryResult::GetClosestPeers(result) => {
                let peers = match result {
                    Ok(found) => found.peers,
                    Err(GetClosestPeersError::Timeout { peers, .. }) => peers,
                };
                for info in &peers {
                    self.tell(Event::Located {
                        peer: info.peer_id,
                        addresses: info.addrs.clone(),
                    });
                }
                self.crowds.remove(&id);
                if let Some(reply) = self.lookups.remove(&id) {
                    let peers = peers.into_iter().map(|info| info.peer_id);
                    let _ = reply.send(peers.filter(|peer| *peer != self.local).collect());
                }
            }
            QueryResult::Bootstrap(_) if step.last => {
                let peers = self
                    .inner
                    .kbuckets()
                    .map(|bucket| bucket.num_entries())
                    .sum();
                self.tell(Event::Bootstrapped { peers });
            }
            _ => {}
        }
    }

    /// Handles a request of a peer: an announcement is stored at once, a value that the peer puts
    /// never is. Kademlia has answered already. Keys that others are nearer to are theirs to keep.
    fn on_request(&mut self, request: InboundRequest) {
        let InboundRequest::AddProvider {
            record: Some(record),
        } = request
        else {
            return;
        };
        let is_near = self.is_near(record.key.as_ref());
        let store = self.inner.store_mut();
        if !is_near {
            tracing::debug!("an announcement was not stored: its key is not near");
        } else if record.addresses.is_empty() && !store.is_listening(&record.provider) {
            tracing::debug!("an announcement was not stored: no address of it counts");
        } else if let Err(error) = store.add_provider(record) {
            store.warn("an announcement was not stored", &error);
        }
    }

    /// Whether this node is among those near a key, as far as it knows the mesh.
    fn is_near(&mut self, key: &[u8]) -> bool {
        let target = KBucketKey::new(key.to_vec());
        let own = KBucketKey::from(self.local).distance(&target);
        let known = self.inner.get_closest_local_peers(&target);
        let nearer = known.take_while(|peer| peer.distance(&target) < own);
        nearer.take(NEAR + 1).count() <= NEAR
    }

    /// Takes ports out of an answer about providers, for the search that asked.
    fn note_services(
        &mut self,
        query: QueryId,
        teller: PeerId,
        connection: ConnectionId,
        told: &mut [KadPeer],
    ) {
        let Some(key) = self.finds.get(&query).map(|find| find.key.to_vec()) else {
            return;
        };
        let remote = self.remotes.get(&connection).map(|(_, remote)| remote);
        let remote = remote.cloned();
        for peer in told.iter_mut().take(MAX_TOLD) {
            let Some(service) = service::take(&key, &mut peer.multiaddrs) else {
                continue;
            };
            let service = self.seen(service, teller, remote.as_ref(), peer.node_id);
            if let Some(find) = self.finds.get_mut(&query)
                && !find.seen.contains(&peer.node_id)
                && (find.services.len() < MAX_FOUND || teller == peer.node_id)
            {
                let known = find.services.entry(peer.node_id).or_insert(service);
                // The word of a provider counts before that of others.
                if teller == peer.node_id || known.host.is_none() {
                    *known = service;
                }
            }
        }
    }

    /// Leaves out of an answer what the one at the other end may not tell.
    fn sift(&self, teller: PeerId, connection: ConnectionId, told: &mut [KadPeer]) {
        let remote = self.remotes.get(&connection).map(|(_, remote)| remote);
        for peer in told {
            let addresses = std::mem::take(&mut peer.multiaddrs);
            peer.multiaddrs = self.hearsay.hear(teller, remote, peer.node_id, addresses);
        }
    }

    /// Leaves out of what a peer is told the addresses that are of no use where it is.
    fn withhold(&self, peer: &PeerId, event: &mut Told) {
        let distance = self.distances.of(peer);
        let sift = |peers: &mut Vec<KadPeer>| {
            for one in peers {
                one.multiaddrs
                    .retain(|address| is_tellable(address, distance));
            }
        };
        match event {
            Told::FindNodeRes { closer_peers, .. } | Told::GetRecordRes { closer_peers, .. } => {
                sift(closer_peers);
            }
            Told::GetProvidersRes {
                closer_peers,
                provider_peers,
                ..
            } => {
                sift(closer_peers);
                sift(provider_peers);
            }
            Told::AddProvider { provider, .. } => {
                let addresses = &mut provider.multiaddrs;
                addresses.retain(|address| is_tellable(address, distance));
            }
            _ => {}
        }
    }

    /// Whether the DHT's questions are answered: a node that nobody reaches would make them all
    /// wait.
    pub(crate) fn serve(&mut self, serves: bool) {
        let mode = if serves { Mode::Server } else { Mode::Client };
        self.inner.set_mode(Some(mode));
    }

    fn on_found(&mut self, query: QueryId, providers: HashSet<PeerId>) {
        let Some(mut find) = self.finds.remove(&query) else {
            return;
        };
        for peer in providers {
            if find.left == 0 || !find.seen.insert(peer) {
                continue;
            }
            find.left -= 1;
            let (addresses, stored) = self.addresses(&find.key, peer);
            let service = find.services.remove(&peer).or(stored);
            self.tell(Event::Located {
                peer,
                addresses: addresses.clone(),
            });
            // There is room for the limit; otherwise nobody listens, which is noticed elsewhere.
            let _ = find.found.try_send(Provider {
                peer,
                addresses,
                service,
            });
        }
        if find.left == 0 {
            self.end(query);
        } else {
            self.finds.insert(query, find);
        }
    }

    /// Addresses at which a provider can be reached. Kademlia reports providers without the
    /// addresses that came with them and keeps those for as long as the query runs, for dialling:
    /// so we ask what it would dial. What is stored here came from the provider itself: addresses,
    /// and perhaps a port.
    fn addresses(&mut self, key: &RecordKey, peer: PeerId) -> (Vec<Multiaddr>, Option<Service>) {
        let connection = ConnectionId::new_unchecked(0);
        let mut addresses = self
            .inner
            .handle_pending_outbound_connection(connection, Some(peer), &[], Endpoint::Dialer)
            .unwrap_or_default();
        let stored = self.inner.store_mut().providers(key);
        let stored = stored.into_iter().filter(|record| record.provider == peer);
        let mut stored: Vec<_> = stored.flat_map(|record| record.addresses).collect();
        let service = service::take(key.as_ref(), &mut stored);
        for address in stored {
            let own = vec![address.clone()];
            addresses.extend(self.hearsay.hear(peer, Some(&address), peer, own));
        }
        let mut seen = HashSet::new();
        let full = addresses
            .into_iter()
            .filter_map(|address| address.with_p2p(peer).ok());
        let all = full.filter(|address| seen.insert(address.clone()));
        (all.collect(), service)
    }

    fn tell(&mut self, event: Event) {
        self.out.push_back(ToSwarm::GenerateEvent(event));
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = <kad::Behaviour<ShelfStore> as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = Event;

    delegate_handlers!(inner);

    /// All that peers tell comes by here: answers, and announcements with the addresses of who
    /// announces.
    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        mut event: THandlerOutEvent<Self>,
    ) {
        match &mut event {
            Reported::FindNodeRes {
                closer_peers,
                query_id,
            } => {
                if let Some(crowd) = self.crowds.get(query_id) {
                    let place = |peer: &KadPeer| hash_of(&peer.node_id.to_bytes());
                    closer_peers.retain(|peer| !crowd.contains(&place(peer)));
                }
                self.sift(peer, connection, closer_peers);
            }
            Reported::GetRecordRes { closer_peers, .. } => {
                self.sift(peer, connection, closer_peers);
            }
            Reported::GetProvidersRes {
                closer_peers,
                provider_peers,
                query_id,
            } => {
                self.sift(peer, connection, closer_peers);
                self.note_services(*query_id, peer, connection, provider_peers);
                self.sift(peer, connection, provider_peers);
            }
            Reported::AddProvider { key, provider } => {
                let remote = self.remotes.get(&connection).map(|(_, remote)| remote);
                let service = service::take(key.as_ref(), &mut provider.multiaddrs);
                let own = self.hearsay.on_own_host(remote, &provider.multiaddrs);
                provider.multiaddrs = own;
                if let Some(mut service) = service {
                    // Whatever host was named: the announcer's is where it is connected from.
                    service.host = service::host_of(remote);
                    provider.multiaddrs.push(service.to_address(key.as_ref()));
                }
            }
            _ => {}
        }
        self.inner
            .on_connection_handler_event(peer, connection, event);
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner
            .handle_pending_outbound_connection(connection, peer, addresses, role)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        self.distances.on_swarm_event(&event);
        match &event {
            FromSwarm::ConnectionEstablished(event) => {
                let remote = remote(event.peer_id, event.endpoint);
                self.inner.store_mut().came(event.peer_id, &remote);
                let entry = (event.peer_id, remote);
                self.remotes.insert(event.connection_id, entry);
            }
            // A relay's word for where this node is.
            FromSwarm::NewListenAddr(event) if is_relayed(event.addr) => return,
            FromSwarm::ConnectionClosed(event) => {
                self.remotes.remove(&event.connection_id);
                if event.remaining_established == 0 {
                    self.inner.store_mut().gone(&event.peer_id);
                }
            }
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            while let Poll::Ready(Some(query)) = self.dropped.poll_next_unpin(cx) {
                if self.finds.remove(&query).is_some() {
                    self.end(query);
                }
            }
            if let Some(out) = self.out.pop_front() {
                return Poll::Ready(out);
            }
            match self.inner.poll(cx) {
                Poll::Ready(ToSwarm::GenerateEvent(event)) => self.on_event(event),
                Poll::Ready(mut other) => {
                    if let ToSwarm::NotifyHandler { peer_id, event, .. } = &mut other {
                        self.withhold(peer_id, event);
                    }
                    return Poll::Ready(other.map_out(|_| unreachable!("events are taken above")));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
