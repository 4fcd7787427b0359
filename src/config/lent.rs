//! How much of the quota is lent to others.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::size::{ByteSize, SizeError};

/// Half of the quota, or so many bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lent {
    /// Half of it.
    #[default]
    Half,
    /// So many bytes.
    Bytes(ByteSize),
}

impl Lent {
    /// The bytes, at most the quota.
    pub fn of(self, quota: ByteSize) -> u64 {
        match self {
            Self::Half => quota.0 / 2,
            Self::Bytes(bytes) => bytes.0.min(quota.0),
        }
    }
}

impl fmt::Display for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Half => f.write_str("half"),
            Self::Bytes(bytes) => bytes.fmt(f),
        }
    }
}

impl FromStr for Lent {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        match text.trim() {
            "half" => Ok(Self::Half),
            size => size.parse().map(Self::Bytes),
        }
    }
}

impl Serialize for Lent {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lent {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Bytes(u64),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Bytes(bytes) => Ok(Self::Bytes(ByteSize(bytes))),
            Form::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}
