//! Leases: what stays for somebody else, for a time.

use prost::Message;

use super::change::Change;
use super::pins::BATCH_REFS;
use super::schema::{self, Tag};
use super::{RocksStore, Writer};
use crate::id::BlockId;
use crate::store::error::Error;
use crate::store::types::{LeaseId, LeaseInfo, MAX_LEASES, MAX_TERMS_BYTES};
use crate::wire::store as wire;
use crate::wire::store::lease::State;

impl Writer {
    fn check_lease(&self, lease: LeaseId) -> Result<(), Error> {
        match self.leases.get(&lease) {
            Some(State::Open | State::Complete) => Ok(()),
            Some(State::Removing) | None => Err(Error::NoSuchLease(lease)),
        }
    }
}

impl RocksStore {
    pub(super) fn open_lease(&self, info: &LeaseInfo) -> Result<LeaseId, Error> {
        let record = record_of(info)?;
        let mut writer = self.writer();
        if writer.leases.len() >= MAX_LEASES {
            return Err(Error::TooManyLeases);
        }
        let mut change = Change::new(&self.db, &mut writer);
        let lease = LeaseId(change.number());
        change.put(
            schema::number_key(Tag::Lease, lease.0),
            &record.encode_to_vec(),
        );
        self.check_room(change.bytes(), false)?;
        self.commit(change)?;
        writer.leases.insert(lease, record.state());
        Ok(lease)
    }

    pub(super) fn lease_refs(
        &self,
        lease: LeaseId,
        ids: &[BlockId],
    ) -> Result<Vec<BlockId>, Error> {
        let mut absent = Vec::new();
        for part in ids.chunks(BATCH_REFS) {
            let mut writer = self.writer();
            writer.check_lease(lease)?;
            let mut change = Change::new(&self.db, &mut writer);
            for id in part {
                change.add_ref(lease, id)?;
                if !change.block(id)?.is_here() {
                    absent.push(*id);
                }
            }
            self.check_room(change.bytes(), false)?;
            self.commit(change)?;
        }
        Ok(absent)
    }

    pub(super) fn write_lease(&self, lease: LeaseId, info: &LeaseInfo) -> Result<(), Error> {
        let record = record_of(info)?;
        let mut writer = self.writer();
        writer.check_lease(lease)?;
        let mut change = Change::new(&self.db, &mut writer);
        change.put(
            schema::number_key(Tag::Lease, lease.0),
            &record.encode_to_vec(),
        );
        self.commit(change)?;
        writer.leases.insert(lease, record.state());
        Ok(())
    }

    pub(super) fn all_leases(&self) -> Result<Vec<(LeaseId, LeaseInfo)>, Error> {
        let mut leases = Vec::new();
        let (start, end) = (Tag::Lease.start(), Tag::Lease.end());
        self.db.scan(start, end, |key, value| {
            let lease: wire::Lease = schema::decode(value, "a lease")?;
            if lease.state() != State::Removing {
                let id = LeaseId(schema::number_of_key(key)?);
                leases.push((id, schema::read_lease(&lease)?));
            }
            Ok(true)
        })?;
        Ok(leases)
    }

    pub(super) fn blocks_of_lease(
        &self,
        lease: LeaseId,
        after: Option<BlockId>,
        limit: usize,
    ) -> Result<Vec<BlockId>, Error> {
        let record = self.db.get(&schema::number_key(Tag::Lease, lease.0))?;
        let Some(record) = record else {
            return Ok(Vec::new());
        };
        let record: wire::Lease = schema::decode(&record, "a lease")?;
        if record.state() == State::Removing {
            return Ok(Vec::new());
        }
        self.blocks_of(lease.into(), after, limit)
    }

    /// Marks a lease as being removed: nobody sees it or adds to it any more, and a crash does not bring it back half empty.
    pub(super) fn start_removing_lease(&self, lease: LeaseId) -> Result<(), Error> {
        let mut writer = self.writer();
        writer.check_lease(lease)?;
        let mut change = Change::new(&self.db, &mut writer);
        let record = wire::Lease {
            state: State::Removing.into(),
            ..wire::Lease::default()
        };
        change.put(
            schema::number_key(Tag::Lease, lease.0),
            &record.encode_to_vec(),
        );
        self.commit(change)?;
        writer.leases.insert(lease, State::Removing);
        Ok(())
    }

    pub(super) fn leases_being_removed(&self) -> Vec<LeaseId> {
        let writer = self.writer();
        let leases = writer.leases.iter();
        let removing = leases.filter(|(_, state)| **state == State::Removing);
        removing.map(|(lease, _)| *lease).collect()
    }
}

fn record_of(info: &LeaseInfo) -> Result<wire::Lease, Error> {
    if info.terms.len() > MAX_TERMS_BYTES {
        return Err(Error::TermsTooLarge(info.terms.len()));
    }
    Ok(schema::write_lease(info))
}
