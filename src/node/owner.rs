//! Calls about the owner of the node's data directory: who it is, and its first words.

use super::api::*;
use super::{Node, blocking};
use crate::backup::owner::{MAX_NAME_BYTES, Membership, OwnerKeys, Phrase, Vault};

impl Node {
    /// Tells whose data directory this is.
    ///
    /// # Errors
    /// When the owner's file can't be read or is damaged.
    pub async fn owner_info(&self, _: OwnerInfo) -> Result<OwnerInfoReply, CallError> {
        let dir = self.inner.options.data_dir.clone();
        let vault = blocking(move || Ok(Vault::open(&dir)?)).await?;
        Ok(match vault {
            Some(vault) => OwnerInfoReply {
                owner: Some(vault.owner().to_string()),
                machine: vault.name().to_owned(),
                locked: vault.is_locked(),
            },
            None => OwnerInfoReply {
                machine: host_name(),
                ..OwnerInfoReply::default()
            },
        })
    }

    /// Makes twelve words, and keeps nothing of them.
    ///
    /// # Errors
    /// [`ErrorKind::Exists`] when there is an owner.
    pub async fn owner_words(&self, _: OwnerWords) -> Result<OwnerWordsReply, CallError> {
        if self.owner_info(OwnerInfo {}).await?.owner.is_some() {
            let message = "this data directory has an owner already";
            return Err(CallError::new(ErrorKind::Exists, message));
        }
        let words = Phrase::random().text().to_string();
        Ok(OwnerWordsReply { words })
    }

    /// Makes this machine one of the owner whom the words name.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for wrong words or a wrong name, [`ErrorKind::Exists`] when there is an
    /// owner.
    pub async fn owner_create(&self, call: OwnerCreate) -> Result<OwnerInfoReply, CallError> {
        let dir = self.inner.options.data_dir.clone();
        let create = move || {
            let phrase = Phrase::parse(&call.words)
                .map_err(|error| CallError::new(ErrorKind::Usage, error.to_string()))?;
            let keys = OwnerKeys::derive(&phrase);
            let membership = Membership::create(&keys, call.machine.trim())?;
            let passphrase = call.passphrase.as_deref().filter(|text| !text.is_empty());
            Ok(Vault::create(
                &dir,
                &membership,
                passphrase.map(str::as_bytes),
            )?)
        };
        blocking(create).await?;
        self.owner_info(OwnerInfo {}).await
    }
}

/// The host's name as far as it can be a machine's name.
fn host_name() -> String {
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy().into_owned();
    let mut name = String::new();
    for c in host.chars().filter(|c| !c.is_control()) {
        if name.len() + c.len_utf8() > MAX_NAME_BYTES {
            break;
        }
        name.push(c);
    }
    match name.is_empty() {
        true => "machine".to_owned(),
        false => name,
    }
}
