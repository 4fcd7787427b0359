//! Searching a key's region: its peers are looked up and asked one by one for the providers of the
//! key, as libp2p's Kademlia asks only those nearest to it.

use std::io;

use bytes::BytesMut;
use futures::stream::{self, BoxStream};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{Multiaddr, PeerId};
use prost::Message;
use tokio::sync::oneshot;

use super::announce::{in_time, off_the_task};
use super::region::Crowd;
use super::sweep::{hash_of, located};
use super::{Command, Error, Provider, Providers, region};
use crate::wire::dht;

/// GET_PROVIDERS in libp2p's kad-dht specification.
const GET_PROVIDERS: u32 = 3;
/// Peers that are asked at one time.
const PARALLEL_PEERS: usize = 8;
/// Longest answer that is read.
const MAX_ANSWER_BYTES: usize = 64 << 10;
/// Longest encoding of the length before an answer.
const MAX_LENGTH_BYTES: usize = 4;

impl Providers {
    /// Providers of a key that the peers of the key's region know of.
    pub(super) fn search_region(&self, key: Vec<u8>, depth: u32) -> BoxStream<'static, Provider> {
        let view = self.clone();
        let found = async move {
            let peers = view.region(&key, depth).await.unwrap_or_default();
            let answers = stream::iter(peers).map(move |peer| {
                let (view, key) = (view.clone(), key.clone());
                async move { view.ask(peer, key).await.unwrap_or_default() }
            });
            let answers = answers.buffer_unordered(PARALLEL_PEERS);
            answers.flat_map(stream::iter)
        };
        stream::once(found).flatten().boxed()
    }

    /// The peers of a key's region.
    async fn region(&self, key: &[u8], depth: u32) -> Result<Vec<PeerId>, Error> {
        let mut found = Vec::new();
        for peers in self.look_beside(key, depth).await? {
            found.extend(located(&peers));
        }
        found.sort_unstable();
        found.dedup();
        Ok(region::members(&hash_of(key), &found, depth))
    }

    /// Looks up the peers of a key's region, past the crowd at the key.
    pub(super) async fn look_beside(
        &self,
        key: &[u8],
        depth: u32,
    ) -> Result<Vec<Vec<PeerId>>, Error> {
        let crowd = Crowd::at(hash_of(key), depth);
        let target = key.to_vec();
        let targets = off_the_task(move || region::targets(&target, depth)).await?;
        let lookups = targets.into_iter().map(|key| async move {
            let (reply, peers) = oneshot::channel();
            let command = Command::LookPast { key, crowd, reply };
            let sent = self.mailbox.send(command).await;
            sent.map_err(|_| Error::Stopping)?;
            peers.await.map_err(|_| Error::Stopping)
        });
        futures::future::try_join_all(lookups).await
    }

    /// Bits that keys share about which one lookup tells: none in a small mesh, where one lookup
    /// finds everybody.
    pub async fn region_bits(&self) -> u32 {
        self.depth().await.ok().flatten().unwrap_or(0)
    }

    /// The depth of regions.
    pub(super) async fn depth(&self) -> Result<Option<u32>, Error> {
        let (reply, depth) = oneshot::channel();
        self.mailbox
            .send(Command::Depth(reply))
            .await
            .map_err(|_| Error::Stopping)?;
        depth.await.map_err(|_| Error::Stopping)
    }

    /// Providers of a key that a peer knows of; none when it gives no answer.
    pub(super) async fn ask(&self, peer: PeerId, key: Vec<u8>) -> Option<Vec<Provider>> {
        let told = match self.ask_one(peer, key.clone()).await {
            Ok(told) => told,
            Err(error) => {
                tracing::debug!(%peer, %error, "a peer could not be asked for providers");
                return None;
            }
        };
        let (reply, counts) = oneshot::channel();
        let command = Command::Told {
            teller: peer,
            key,
            told,
            reply,
        };
        // Sending fails when the network is stopping.
        let _ = self.mailbox.send(command).await;
        counts.await.ok()
    }

    async fn ask_one(
        &self,
        peer: PeerId,
        key: Vec<u8>,
    ) -> io::Result<Vec<(PeerId, Vec<Multiaddr>)>> {
        let mut stream = in_time(self.open(peer)).await?;
        let question = dht::Message {
            r#type: GET_PROVIDERS,
            key: key.into(),
            ..dht::Message::default()
        };
        in_time(stream.write_all(&question.encode_length_delimited_to_vec())).await?;
        in_time(stream.flush()).await?;
        let answer = in_time(read_message(&mut stream)).await?;
        let answer = dht::Message::decode(answer.freeze())?;
        let named = answer.provider_peers.into_iter().filter_map(|one| {
            let addresses = one.addresses.iter();
            let addresses = addresses.filter_map(|bytes| Multiaddr::try_from(bytes.to_vec()).ok());
            Some((PeerId::from_bytes(&one.id).ok()?, addresses.collect()))
        });
        Ok(named.collect())
    }
}

/// Reads one message after its length.
async fn read_message(stream: &mut (impl futures::AsyncRead + Unpin)) -> io::Result<BytesMut> {
    let mut length = Vec::new();
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        length.push(byte[0]);
        if byte[0] & 0x80 == 0 {
            break;
        }
        if length.len() >= MAX_LENGTH_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    let length = prost::decode_length_delimiter(&length[..])?;
    if length > MAX_ANSWER_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = BytesMut::zeroed(length);
    stream.read_exact(&mut message).await?;
    Ok(message)
}
