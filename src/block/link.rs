//! What people pass on: a block id and the key that opens it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::crypto::key::{Key, KeyError};
use crate::id::{BlockId, IdError};

const SCHEME: &str = "libernet:";
const KEY_SEGMENT: &str = "aes256";

/// Where a bundle starts and what opens it.
///
/// Text: `libernet:<cid>.<key, base32>`, or as a path `/sha384/<hex>/aes256/<hex>`. Whoever has the text can read the
/// content: it is as secret as the content.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Link {
    /// The root block.
    pub id: BlockId,
    /// What opens it.
    pub key: Key,
}

/// Why a text is not a link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// Not one of the two forms.
    #[error("not a link: expected libernet:<id>.<key> or /sha384/<hex>/aes256/<hex>")]
    UnknownForm,
    /// A plain id: the content can't be opened without its key.
    #[error("{0} is a block id without a key; a link ends in .<key> or /aes256/<hex>")]
    NoKey(BlockId),
    /// The id part is wrong.
    #[error("the link's id is wrong: {0}")]
    Id(#[from] IdError),
    /// The key part is wrong, perhaps cut.
    #[error("the link's key is wrong or cut: {0}")]
    Key(#[from] KeyError),
}

impl Link {
    /// The path form: `/sha384/<hex>/aes256/<hex>`.
    pub fn to_path(&self) -> String {
        let key = self.key.to_hex();
        format!("{}/{KEY_SEGMENT}/{}", self.id.to_path(), *key)
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key.to_base32();
        write!(f, "{SCHEME}{}.{}", self.id, *key)
    }
}

impl FromStr for Link {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Self, LinkError> {
        let text = text.trim();
        if let Some(rest) = text.strip_prefix(SCHEME) {
            let (id, key) = rest.split_once('.').ok_or(LinkError::UnknownForm)?;
            return Ok(Self {
                id: id.parse()?,
                key: key.parse()?,
            });
        }
        let separator = format!("/{KEY_SEGMENT}/");
        if let Some((id, key)) = text.split_once(separator.as_str()) {
            return Ok(Self {
                id: id.parse()?,
                key: key.trim_end_matches('/').parse()?,
            });
        }
        match text.parse() {
            Ok(id) => Err(LinkError::NoKey(id)),
            Err(_) => Err(LinkError::UnknownForm),
        }
    }
}

impl Serialize for Link {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Link {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = zeroize::Zeroizing::new(String::deserialize(deserializer)?);
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Link {
        Link {
            id: BlockId::from_sha384([0x5a; 48]),
            key: Key::new([0xa5; 32]),
        }
    }

    #[test]
    fn golden_forms() {
        let link = sample();
        assert_eq!(
            link.to_string(),
            "libernet:bafksamc2ljnfuws2ljnfuws2ljnfuws2ljnfuws2ljnfuws2ljnfuws2ljnfuws2ljnfuws2ljnfuws2ljna.uws2ljnfuws2ljnfuws2ljnfuws2ljnfuws2ljnfuws2ljnfuwsq"
        );
        assert_eq!(
            link.to_path(),
            format!("/sha384/{}/aes256/{}", "5a".repeat(48), "a5".repeat(32))
        );
        assert_eq!(link.to_string().parse(), Ok(link.clone()));
        assert_eq!(format!("  {}/\n", link.to_path()).parse(), Ok(link));
    }

    #[test]
    fn cut_and_mistyped_links_say_what_is_wrong() {
        let text = sample().to_string();
        for len in 0..text.len() {
            assert!(text[..len].parse::<Link>().is_err(), "cut at {len}");
        }
        let no_key: Result<Link, _> = sample().id.to_string().parse();
        assert_eq!(no_key, Err(LinkError::NoKey(sample().id)));
        let cut = text[..text.len() - 3].parse::<Link>();
        assert!(matches!(cut, Err(LinkError::Key(_))), "{cut:?}");
        assert!(
            !cut.expect_err("cut")
                .to_string()
                .contains(&text[text.len() - 10..text.len() - 4]),
            "no part of the key is repeated"
        );
    }

    proptest! {
        #[test]
        fn any_text_gives_an_answer(text in ".{0,300}") {
            let _ = text.parse::<Link>();
        }
    }
}
