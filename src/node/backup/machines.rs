//! Calls about an owner's machines: which there are, and what the owner's words decided about them.

use std::collections::BTreeSet;
use std::time::Duration;

use data_encoding::HEXLOWER;

use super::super::api::*;
use super::super::{Node, blocking};
use super::{LOG_PATIENCE, look};
use crate::backup::owner::{MachineId, Membership, Vault};
use crate::backup::{Archive, Found, Search};
use crate::head::{Handover, HeadEntry, HeadRecord};
use crate::time::Timestamp;

impl Node {
    /// Lists an owner's machines.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no head.
    pub async fn machines(&self, request: Machines) -> Result<MachinesReply, CallError> {
        let archive = self.archive(&request.speaker).await?;
        let found = match request.timeout_s {
            0 => archive.find(Search::Glance, LOG_PATIENCE).await?,
            seconds => look(&archive, Duration::from_secs(seconds), false).await?,
        };
        let dir = self.inner.options.data_dir.clone();
        let vault = blocking(move || Ok(Vault::open(&dir)?)).await?;
        let this = vault.map(|vault| vault.machine());
        let Some(head) = &found.head else {
            let message = "no machine of this owner has written anything that is here";
            return Err(CallError::new(ErrorKind::NotFound, message)
                .with_hint("connect to where the backups are kept, or back up something first"));
        };
        Ok(MachinesReply {
            owner: archive.access().owner().to_string(),
            generation: head.decisions().generation(),
            machines: machines(&found, head, this.as_ref()),
            record: HEXLOWER.encode(&head.encode()),
        })
    }

    /// Makes known what the owner's words decided about its machines.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for what is no record of this owner, or not signed by it.
    pub async fn decide_machines(
        &self,
        request: DecideMachines,
    ) -> Result<DecideMachinesReply, CallError> {
        let archive = self.archive(&request.speaker).await?;
        let archive = self.at_home(archive).await?;
        let wrong = || CallError::new(ErrorKind::Usage, "this is no record of this owner's");
        let bytes = HEXLOWER.decode(request.record.as_bytes());
        let record = HeadRecord::decode(&bytes.map_err(|_| wrong())?).map_err(|_| wrong())?;
        let (told, kept) = archive.decide(record).await?;
        Ok(DecideMachinesReply { told, kept })
    }
}

impl Node {
    /// The archive with what this machine has of its own, if it is one of that owner's.
    async fn at_home(&self, archive: Archive) -> Result<Archive, CallError> {
        let dir = self.inner.options.data_dir.clone();
        let vault = blocking(move || Ok(Vault::open(&dir)?)).await?;
        let access = archive.access().clone();
        let is_ours = vault.is_some_and(|vault| vault.owner() == access.owner());
        let home = is_ours.then(|| self.inner.home.clone());
        let (depot, clock) = (self.depot().clone(), self.inner.clock.clone());
        Ok(Archive::new(depot, access, clock, home))
    }
}

/// Troubles that keep a machine from backing up, or others from being safe from one that was turned
/// out.
pub(in crate::node) fn troubles(head: &HeadRecord, member: &Membership) -> Vec<String> {
    let (decisions, machine) = (head.decisions(), member.machine().id());
    if decisions.revocation(machine.as_bytes()).is_some() {
        return vec![
            "this machine was turned out by its owner: what it backs up counts no more".to_owned(),
        ];
    }
    let mut troubles = Vec::new();
    let handover = decisions.handover();
    let is_later = |one: &&Handover| one.generation() > member.generation().number();
    if handover
        .filter(is_later)
        .is_some_and(|one| !one.is_for(machine.as_bytes()))
    {
        troubles.push(
            "this machine has not the keys that backups are sealed with since a machine was turned out: \
             `libernet owner machine admit --phrase`"
                .to_owned(),
        );
    }
    if decisions.leaked_to().next().is_some() {
        troubles.push(
            "a machine that was turned out may have the present keys: `libernet owner machine ls` says which, and \
             `libernet owner machine revoke` once more changes them"
                .to_owned(),
        );
    }
    troubles
}

fn machines(found: &Found, head: &HeadRecord, this: Option<&MachineId>) -> Vec<MachineInfo> {
    let (names, decisions) = (found.machine_names(), head.decisions());
    let newest = head.newest().map(HeadEntry::machine);
    let known: BTreeSet<&[u8; 32]> = newest.chain(decisions.revoked()).collect();
    let info = |machine: &[u8; 32]| {
        let entry = head.entry(machine);
        let revocation = decisions.revocation(machine);
        let handover = decisions.handover();
        MachineInfo {
            machine: MachineId::new(*machine).to_string(),
            name: names.get(machine).cloned().unwrap_or_default(),
            this: this.is_some_and(|this| this.as_bytes() == machine),
            updated: entry.map(|entry| Timestamp(entry.time_ms())),
            revoked: revocation.map(|revocation| revocation.made()),
            keys: handover.is_none_or(|handover| handover.is_for(machine)),
        }
    };
    let mut machines: Vec<MachineInfo> = known.into_iter().map(info).collect();
    machines.sort_by(|a, b| (&a.name, &a.machine).cmp(&(&b.name, &b.machine)));
    machines
}
