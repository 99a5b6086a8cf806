//! The shared table: who is resident, who waits, what is corrupt. It outlives the actor's restarts.
//!
//! Locks are taken in the order `loads`, `ledger`, a shard of `residents`; a [`Resident`] is never dropped under one
//! of them, for its drop locks the ledger.

mod counters;
mod job;
mod lease;
mod resident;
mod status;
mod ticket;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use blyan_formats::{PayloadHash, TensorName};
use blyan_protocol::{ExpertTable, Lease, LeaseError, LeasedExpert, WeightForm};
use blyan_supervisors::ChildRef;
use dashmap::DashMap;
use parking_lot::{Condvar, Mutex, RwLock};

use crate::core::{CorruptPayload, CorruptRegister, Ledger, Usage};
use crate::loader::{SharedWeights, corrupt_map};
use crate::{CacheError, ExpertCacheActor, ExpertCacheConfig};

use counters::Counters;
pub(crate) use job::LoadJob;
pub(crate) use lease::Request;
pub(crate) use resident::{Hold, Key, Resident};
pub use status::CacheStatus;
pub(crate) use ticket::{Outcome, Ticket};

/// Plans that may be overtaken by new leases before a load gives up for now.
const PLANS_MAX: usize = 64;

/// The cache's shared table: leases for whoever computes, and the cache's state for whoever asks. Clones are the same
/// table.
#[derive(Clone)]
pub struct SharedTable(pub(crate) Arc<Table>);

impl SharedTable {
    /// The cache as it is now; also while the actor is down.
    pub fn status(&self) -> CacheStatus {
        self.0.status()
    }
}

impl ExpertTable for SharedTable {
    fn lease(
        &self,
        name: &TensorName,
        payload: &PayloadHash,
        form: WeightForm,
        deadline: Instant,
    ) -> Result<(Lease, bool), LeaseError> {
        let (resident, waited) = self.0.lease(*name, Key::new(*payload, form), deadline)?;
        Ok((resident, waited))
    }

    fn corruption(&self, payload: &PayloadHash) -> Option<String> {
        self.0.known_corruption(payload).map(|record| record.fault)
    }

    fn corruption_epoch(&self) -> u64 {
        self.0.corrupt_epoch.load(Ordering::Acquire)
    }

    fn report_damage(&self, name: &TensorName, payload: &PayloadHash, fault: &str) {
        self.0.report_damage(*name, *payload, fault);
    }
}

pub(crate) struct Table {
    actor: ChildRef<ExpertCacheActor>,
    restart_wait: Duration,
    residents: DashMap<Key, Arc<Resident>>,
    ledger: Arc<Mutex<Ledger<Key>>>,
    loads: Mutex<HashMap<Key, Arc<Ticket>>>,
    /// A generation of the actor begins.
    begun: Condvar,
    tick: AtomicU64,
    corrupt: RwLock<CorruptRegister>,
    corrupt_epoch: AtomicU64,
    shared: Mutex<Vec<Weak<SharedWeights>>>,
    counters: Counters,
}

impl Table {
    pub(crate) fn new(config: &ExpertCacheConfig, actor: ChildRef<ExpertCacheActor>) -> Self {
        Self {
            actor,
            restart_wait: config.restart_wait(),
            residents: DashMap::new(),
            ledger: Arc::new(Mutex::new(Ledger::new(config.bytes_max))),
            loads: Mutex::default(),
            begun: Condvar::new(),
            tick: AtomicU64::new(1),
            corrupt: RwLock::default(),
            corrupt_epoch: AtomicU64::new(0),
            shared: Mutex::default(),
            counters: Counters::new(),
        }
    }

    fn status(&self) -> CacheStatus {
        let loading = self.loads.lock().len();
        let corrupt = self.corrupt.read().list();
        let ledger = self.ledger.lock();
        CacheStatus {
            resident_experts: ledger.len(),
            resident_bytes: ledger.resident_bytes(),
            held_bytes: ledger.held(),
            bytes_max: ledger.bound(),
            loading,
            hits: self.counters.hits.get(),
            misses: self.counters.misses.get(),
            loads: self.counters.loads.get(),
            evictions: self.counters.evictions.get(),
            damaged_maps: self.counters.damaged.get(),
            corrupt,
        }
    }

    /// A new generation of the actor begins: what its predecessor was loading is given back to those who wait.
    pub(crate) fn begin_generation(&self) {
        let orphans: Vec<_> = self
            .loads
            .lock()
            .drain()
            .map(|(_, ticket)| ticket)
            .collect();
        for ticket in orphans {
            ticket.end(Outcome::Abandoned);
        }
        self.begun.notify_all();
    }

    /// Holds `bytes`, evicting what is least recently used and not leased.
    ///
    /// # Errors
    /// [`CacheError::TooLarge`]; [`CacheError::Full`] if it does not fit now.
    pub(crate) fn hold(&self, bytes: u64) -> Result<Hold, CacheError> {
        for _ in 0..PLANS_MAX {
            let victims = {
                let mut ledger = self.ledger.lock();
                let victims = ledger.plan(bytes, |key| self.usage(key))?;
                if victims.is_empty() && ledger.hold(bytes) {
                    return Ok(Hold::new(&self.ledger, bytes));
                }
                victims
            };
            for key in victims {
                self.evict(&key);
            }
        }
        Err(CacheError::Full)
    }

    /// An entry that is just being taken out counts as unused.
    fn usage(&self, key: &Key) -> Usage {
        self.residents.get(key).map_or(
            Usage {
                last_used: 0,
                leases: 0,
            },
            |resident| Usage {
                last_used: resident.last_used(),
                leases: Arc::strong_count(&resident) - 1,
            },
        )
    }

    /// Takes an entry out of both the map and the ledger, in one step for everybody else. The caller drops it when no
    /// lock is held.
    fn take_out(
        &self,
        key: &Key,
        condition: impl FnOnce(&Arc<Resident>) -> bool,
    ) -> Option<Arc<Resident>> {
        let mut ledger = self.ledger.lock();
        let (_, resident) = self
            .residents
            .remove_if(key, |_, resident| condition(resident))?;
        ledger.remove(key);
        self.counters
            .resident(ledger.len(), ledger.resident_bytes());
        Some(resident)
    }

    /// Leases are made under the lock of the shard that the condition is checked under, so none slips in between.
    fn evict(&self, key: &Key) -> bool {
        let unused = self.take_out(key, |resident| Arc::strong_count(resident) == 1);
        if unused.is_some() {
            self.counters.evictions.add_one();
        }
        unused.is_some()
    }

    /// Evicts every form of a payload that is not leased; how many were.
    pub(crate) fn evict_payload(&self, payload: PayloadHash) -> usize {
        self.keys_of(payload)
            .iter()
            .filter(|key| self.evict(key))
            .count()
    }

    fn keys_of(&self, payload: PayloadHash) -> Vec<Key> {
        self.ledger.lock().keys(|key| key.payload == payload)
    }

    /// Ends a load and wakes all who wait for it. The load of an abandoned generation changes nothing.
    pub(crate) fn end_load(&self, ticket: &Arc<Ticket>, outcome: Outcome) {
        let mut loads = self.loads.lock();
        let current = loads
            .get(&ticket.key)
            .is_some_and(|current| Arc::ptr_eq(current, ticket));
        if !current {
            return;
        }
        if let Outcome::Loaded(resident) = &outcome {
            self.settle(ticket.key, resident);
            // Before anybody is woken: who has a lease finds its load counted.
            self.counters.loaded(ticket.began.elapsed());
        }
        loads.remove(&ticket.key);
        drop(loads);
        ticket.end(outcome);
    }

    fn settle(&self, key: Key, resident: &Arc<Resident>) {
        resident.touch(self.next_tick());
        let mut ledger = self.ledger.lock();
        if ledger.settle(key, resident.bytes()) {
            self.residents.insert(key, Arc::clone(resident));
            self.counters
                .resident(ledger.len(), ledger.resident_bytes());
        }
    }

    fn next_tick(&self) -> u64 {
        self.tick.fetch_add(1, Ordering::Relaxed)
    }

    /// Keeps a payload's fault; nobody leases it until it was verified again.
    pub(crate) fn mark_corrupt(&self, record: CorruptPayload) {
        let payload = record.payload;
        tracing::error!(name = %record.name, %payload, section = record.section, fault = %record.fault, "payload is corrupt");
        let fresh = self.corrupt.write().add(record);
        self.withdraw(payload);
        if fresh {
            self.counters.corrupt.add_one();
            self.corrupt_epoch.fetch_add(1, Ordering::Release);
        }
    }

    /// Keeps the fault that an error is about, if it is about one.
    pub(crate) fn mark_if_corrupt(&self, error: &CacheError) {
        if let CacheError::Corrupt(record) = error {
            self.mark_corrupt((**record).clone());
        }
    }

    /// Takes every form of a payload out of the table; leases that are alive keep their maps.
    fn withdraw(&self, payload: PayloadHash) {
        for key in self.keys_of(payload) {
            drop(self.take_out(&key, |_| true));
        }
    }

    /// A payload passed every check again.
    ///
    /// # Errors
    /// [`CacheError::InUse`] while the engine holds a damaged map of it.
    pub(crate) fn mark_healthy(&self, payload: PayloadHash) -> Result<(), CacheError> {
        if let Some(name) = self.damaged_shared(payload) {
            return Err(CacheError::InUse(name));
        }
        if let Some(record) = self.corrupt.write().remove(&payload) {
            tracing::info!(name = %record.name, %payload, "payload is healthy again");
            self.corrupt_epoch.fetch_add(1, Ordering::Release);
        }
        Ok(())
    }

    /// Watches shared weights for damage.
    pub(crate) fn watch_shared(&self, weights: &Arc<SharedWeights>) {
        let mut shared = self.shared.lock();
        shared.retain(|watched| watched.strong_count() > 0);
        shared.push(Arc::downgrade(weights));
    }

    fn damaged_shared(&self, payload: PayloadHash) -> Option<TensorName> {
        let watched: Vec<_> = self
            .shared
            .lock()
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        let mut damaged = watched.iter().flat_map(|weights| weights.damaged());
        damaged.find(|(_, of)| *of == payload).map(|(name, _)| name)
    }

    /// Looks at every map of the payload. What is intact stays: another caller may have reported the same damage
    /// before, and every map was verified when it was made.
    fn report_damage(&self, name: TensorName, payload: PayloadHash, fault: &str) {
        for key in self.keys_of(payload) {
            let listed = self
                .residents
                .get(&key)
                .map(|resident| Arc::clone(&resident));
            if let Some(resident) = listed.filter(|resident| !resident.intact()) {
                self.discard_damaged(name, &key, &resident, fault);
            }
        }
        if self.damaged_shared(payload).is_some() {
            self.mark_corrupt(corrupt_map(name, payload, fault));
        }
    }

    /// Takes a damaged map out of the table. A derivation is made again by the next load; a payload is corrupt.
    fn discard_damaged(&self, name: TensorName, key: &Key, resident: &Arc<Resident>, fault: &str) {
        if self
            .take_out(key, |listed| Arc::ptr_eq(listed, resident))
            .is_none()
        {
            return;
        }
        self.counters.damaged.add_one();
        tracing::error!(%name, payload = %key.payload, form = ?key.form, fault, "a map was damaged while it was in use");
        if resident.is_payload() {
            self.mark_corrupt(corrupt_map(name, key.payload, fault));
        }
    }

    pub(crate) fn known_corruption(&self, payload: &PayloadHash) -> Option<CorruptPayload> {
        self.corrupt.read().get(payload).cloned()
    }
}
