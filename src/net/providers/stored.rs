//! How records of the DHT are stored: versioned messages, whose reading is total.

use std::net::IpAddr;

use bytes::Bytes;
use libp2p::{Multiaddr, PeerId};
use prost::Message;

use super::subnet::Subnet;
use crate::time::Timestamp;
use crate::wire::dht;

/// Version of all three messages. Messages of other versions are read as nothing: announcements
/// come again.
const VERSION: u32 = 2;

/// Most addresses that are kept of one provider.
pub(super) const MAX_ADDRESSES: usize = 8;
/// Longest address in bytes.
pub(super) const MAX_ADDRESS_BYTES: usize = 256;
/// Most bytes that one provider takes, all its addresses included.
pub(super) const MAX_PROVIDER_BYTES: usize = 512;

/// Somebody who announced a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Announced {
    pub(super) peer: PeerId,
    pub(super) addresses: Vec<Multiaddr>,
    /// When it is forgotten unless it is repeated.
    pub(super) expires: Timestamp,
    pub(super) subnet: Subnet,
    pub(super) port: Option<StoredPort>,
}

/// Port of another program on a provider's host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoredPort {
    pub(super) port: u16,
    pub(super) host: Option<IpAddr>,
    /// When the announcement ends, with the port.
    pub(super) until: Timestamp,
}

impl StoredPort {
    fn to_message(self) -> dht::StoredPort {
        let host = self.host.map(|host| match host {
            IpAddr::V4(ip) => Bytes::copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => Bytes::copy_from_slice(&ip.octets()),
        });
        dht::StoredPort {
            port: self.port.into(),
            host: host.unwrap_or_default(),
            until_ms: self.until.0,
        }
    }

    fn from_message(message: &dht::StoredPort) -> Result<Self, Unreadable> {
        let host = match message.host.len() {
            0 => None,
            4 => <[u8; 4]>::try_from(&message.host[..])
                .ok()
                .map(IpAddr::from),
            16 => <[u8; 16]>::try_from(&message.host[..])
                .ok()
                .map(IpAddr::from),
            _ => return Err(Unreadable),
        };
        let port = u16::try_from(message.port).map_err(|_| Unreadable)?;
        Ok(Self {
            port,
            host,
            until: Timestamp(message.until_ms),
        })
    }
}

impl Announced {
    /// When it ends.
    pub(super) fn ends(&self) -> Timestamp {
        let until = self.port.map(|port| port.until);
        until.map_or(self.expires, |until| until.min(self.expires))
    }

    fn to_message(&self) -> dht::StoredProvider {
        let addresses = self.addresses.iter();
        dht::StoredProvider {
            peer: self.peer.to_bytes().into(),
            addresses: addresses.map(|one| one.to_vec().into()).collect(),
            expires_ms: self.expires.0,
            subnet: self.subnet.to_bytes().into(),
            port: self.port.map(StoredPort::to_message),
        }
    }

    /// Bytes that it takes among a key's providers.
    pub(super) fn bytes(&self) -> usize {
        let bytes = self.to_message().encoded_len();
        bytes + prost::length_delimiter_len(bytes) + 1
    }

    /// Leaves out the last addresses until the rest fits.
    pub(super) fn fitting(mut self) -> Self {
        while self.bytes() > MAX_PROVIDER_BYTES && self.addresses.pop().is_some() {}
        self
    }
}

/// A value that this node itself put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) value: Vec<u8>,
    pub(super) expires: Option<Timestamp>,
}

/// The stored bytes are of another version, or broken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

impl From<prost::DecodeError> for Unreadable {
    fn from(_: prost::DecodeError) -> Self {
        Self
    }
}

fn check(version: u32) -> Result<(), Unreadable> {
    (version == VERSION).then_some(()).ok_or(Unreadable)
}

/// Leaves out what is too much or too long.
pub(super) fn trim(addresses: Vec<Multiaddr>) -> Vec<Multiaddr> {
    let fitting = addresses
        .into_iter()
        .filter(|address| address.len() <= MAX_ADDRESS_BYTES);
    fitting.take(MAX_ADDRESSES).collect()
}

pub(super) fn write_announced(announced: &[Announced]) -> Vec<u8> {
    let providers = announced.iter().map(Announced::to_message);
    dht::ProviderSet {
        version: VERSION,
        providers: providers.collect(),
    }
    .encode_to_vec()
}

pub(super) fn read_announced(bytes: Bytes) -> Result<Vec<Announced>, Unreadable> {
    let set = dht::ProviderSet::decode(bytes)?;
    check(set.version)?;
    let announced = set.providers.into_iter().map(|one| {
        let addresses = one.addresses.into_iter().take(MAX_ADDRESSES);
        Ok(Announced {
            peer: PeerId::from_bytes(&one.peer).map_err(|_| Unreadable)?,
            addresses: addresses
                .map(|bytes| Multiaddr::try_from(bytes.to_vec()).map_err(|_| Unreadable))
                .collect::<Result<_, _>>()?,
            expires: Timestamp(one.expires_ms),
            subnet: Subnet::from_bytes(&one.subnet)?,
            port: one
                .port
                .as_ref()
                .map(StoredPort::from_message)
                .transpose()?,
        })
    });
    announced.collect()
}

pub(super) fn write_value(value: &Value) -> Vec<u8> {
    dht::StoredValue {
        version: VERSION,
        value: value.value.clone().into(),
        expires_ms: value.expires.map_or(0, |expires| expires.0),
    }
    .encode_to_vec()
}

pub(super) fn read_value(bytes: Bytes) -> Result<Value, Unreadable> {
    let stored = dht::StoredValue::decode(bytes)?;
    check(stored.version)?;
    Ok(Value {
        value: stored.value.to_vec(),
        expires: (stored.expires_ms != 0).then_some(Timestamp(stored.expires_ms)),
    })
}

pub(super) fn write_own(expires: Timestamp) -> Vec<u8> {
    dht::StoredOwn {
        version: VERSION,
        expires_ms: expires.0,
    }
    .encode_to_vec()
}

pub(super) fn read_own(bytes: Bytes) -> Result<Timestamp, Unreadable> {
    let stored = dht::StoredOwn::decode(bytes)?;
    check(stored.version)?;
    Ok(Timestamp(stored.expires_ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    fn peer() -> PeerId {
        // The identity multihash of an ed25519 public key of 32 sevens.
        let bytes = [&[0x00, 36, 0x08, 0x01, 0x12, 32][..], &[7; 32]].concat();
        PeerId::from_bytes(&bytes).expect("a peer id")
    }

    #[test]
    fn golden_bytes() {
        let announced = vec![Announced {
            peer: peer(),
            addresses: vec!["/ip4/10.0.0.1/tcp/4001".parse().expect("an address")],
            expires: Timestamp(300),
            subnet: Subnet::V4([10, 0, 0]),
            port: None,
        }];
        let bytes = write_announced(&announced);
        assert_eq!(
            HEXLOWER.encode(&bytes),
            format!(
                "0802123a 0a26002408011220{} 1208040a000001060fa1 18ac02 22030a0000",
                "07".repeat(32)
            )
            .replace(' ', "")
        );
        assert_eq!(read_announced(bytes.into()), Ok(announced.clone()));

        let mut with_port = announced;
        with_port[0].port = Some(StoredPort {
            port: 8080,
            host: Some([192, 0, 2, 7].into()),
            until: Timestamp(200),
        });
        assert_eq!(with_port[0].ends(), Timestamp(200));
        let bytes = write_announced(&with_port);
        let end = "2a0c 08903f 1204c0000207 18c801".replace(' ', "");
        assert!(HEXLOWER.encode(&bytes).ends_with(&end));
        assert_eq!(read_announced(bytes.into()), Ok(with_port));

        let value = Value {
            value: b"head".to_vec(),
            expires: Some(Timestamp(5)),
        };
        let bytes = write_value(&value);
        assert_eq!(HEXLOWER.encode(&bytes), "08021204686561642005");
        assert_eq!(read_value(bytes.into()), Ok(value));

        let bytes = write_own(Timestamp(5));
        assert_eq!(HEXLOWER.encode(&bytes), "08021005");
        assert_eq!(read_own(bytes.into()), Ok(Timestamp(5)));
    }

    #[test]
    fn other_versions_are_refused() {
        for version in [1, 3] {
            let expires_ms = 5;
            let other = dht::StoredOwn {
                version,
                expires_ms,
            };
            let other = Bytes::from(other.encode_to_vec());
            assert_eq!(read_own(other.clone()), Err(Unreadable));
            assert_eq!(read_value(other), Err(Unreadable));
        }
        assert_eq!(read_announced(Bytes::new()), Err(Unreadable));
    }

    #[test]
    fn addresses_are_bounded() {
        let short: Multiaddr = "/memory/1".parse().expect("an address");
        let long: Multiaddr = format!("/dns4/{}/tcp/1", "a".repeat(MAX_ADDRESS_BYTES))
            .parse()
            .expect("an address");
        let mut many = vec![long];
        many.extend(vec![short.clone(); MAX_ADDRESSES + 1]);
        assert_eq!(trim(many), vec![short; MAX_ADDRESSES]);
    }

    #[test]
    fn a_provider_is_bounded_in_all() {
        let long = |n: usize| -> Multiaddr {
            let name = "a".repeat(200 + n);
            format!("/dns4/{name}/tcp/1").parse().expect("an address")
        };
        let one = Announced {
            peer: peer(),
            addresses: (0..MAX_ADDRESSES).map(long).collect(),
            expires: Timestamp(u64::MAX),
            subnet: Subnet::V6([1; 6]),
            port: None,
        };
        assert!(one.bytes() > 3 * MAX_PROVIDER_BYTES);
        let one = one.fitting();
        assert_eq!(one.addresses, [long(0), long(1)]);
        let many = vec![one; 64];
        let bytes: usize = many.iter().map(Announced::bytes).sum();
        // The version takes two more.
        assert_eq!(write_announced(&many).len(), bytes + 2);
        assert!(bytes <= 64 * MAX_PROVIDER_BYTES);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let bytes = Bytes::from(bytes);
            let _ = read_announced(bytes.clone());
            let _ = read_value(bytes.clone());
            let _ = read_own(bytes);
        }
    }
}
