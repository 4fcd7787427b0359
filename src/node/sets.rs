//! Calls about sets of paths that are backed up again and again.

use super::api::*;
use super::{Node, blocking};
use crate::backup::sets::Sets;

impl Node {
    /// Lists the sets.
    ///
    /// # Errors
    /// When the file of sets can't be read or is wrong.
    pub async fn set_list(&self, _: SetList) -> Result<SetListReply, CallError> {
        let dir = self.inner.options.data_dir.clone();
        let sets = blocking(move || Ok(Sets::load(&dir)?)).await?;
        Ok(reply(&sets))
    }

    /// Adds a set.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a set that is wrong or whose paths are not there, and those of
    /// [`set_list`](Self::set_list).
    pub async fn set_add(&self, call: SetAdd) -> Result<SetListReply, CallError> {
        let dir = self.inner.options.data_dir.clone();
        let add = move || {
            if let Some(gone) = call.set.gone() {
                return Err(CallError::new(ErrorKind::Usage, gone));
            }
            Ok(Sets::edit(&dir, |sets| {
                sets.add(call.set)?;
                Ok(reply(sets))
            })?)
        };
        blocking(add).await
    }

    /// Removes a set.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when there is none of that name, and those of
    /// [`set_list`](Self::set_list).
    pub async fn set_remove(&self, call: SetRemove) -> Result<SetListReply, CallError> {
        let dir = self.inner.options.data_dir.clone();
        let remove = move || {
            Ok(Sets::edit(&dir, |sets| {
                if sets.get(&call.name).is_some() {
                    sets.remove(&call.name, None)?;
                    return Ok(Ok(reply(sets)));
                }
                let message = format!("there is no set '{}'", call.name);
                Ok(Err(CallError::new(ErrorKind::Usage, message)))
            })?)
        };
        blocking(remove).await?
    }
}

fn reply(sets: &Sets) -> SetListReply {
    SetListReply {
        sets: sets.as_slice().to_vec(),
    }
}
