//! The death of the actor stops loads, not answers.

#![allow(clippy::disallowed_methods, reason = "a test's own threads may sleep")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use blyan_expert_cache::ExpertCacheConfig;
use blyan_protocol::{LeaseError, WeightForm};
use blyan_supervisors::{ChildState, Probe, Window};
use common::*;
use parking_lot::{Condvar, Mutex};

/// Panics, or blocks, at as many messages as it is told to.
#[derive(Default)]
struct Faults {
    panics: AtomicUsize,
    blocks: AtomicUsize,
    blocked: Mutex<usize>,
    released: Condvar,
}

impl Faults {
    fn panic_at(&self, messages: usize) {
        self.panics.store(messages, Ordering::SeqCst);
    }

    fn block_at(&self, messages: usize) {
        self.blocks.store(messages, Ordering::SeqCst);
    }

    fn release(&self) {
        *self.blocked.lock() = 0;
        self.released.notify_all();
    }
}

fn take_one(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
        left.checked_sub(1)
    })
    .is_ok()
}

impl Probe for Faults {
    fn hit(&self, point: &str) {
        assert_eq!(point, "expert_cache");
        if take_one(&self.panics) {
            panic!("a fault of the test");
        }
        if take_one(&self.blocks) {
            let mut blocked = self.blocked.lock();
            *blocked += 1;
            self.released
                .wait_while(&mut blocked, |blocked| *blocked > 0);
        }
    }
}

fn cache_with(faults: &Arc<Faults>, window: Window) -> Cache {
    let config = ExpertCacheConfig {
        stuck_limit_ms: 100,
        ..config(1 << 20)
    };
    Cache::with(config, Arc::clone(faults) as _, window)
}

fn panic_once(cache: &Cache, faults: &Faults) {
    let generation = cache.handle.child().generation();
    faults.panic_at(1);
    // Another message may be the one that panics: what counts is that the actor died and runs again.
    let _ = block_on(cache.handle.ping(PATIENCE));
    eventually("the next generation runs", || {
        let child = cache.handle.child();
        child.generation() > generation && child.state() == ChildState::Running
    });
}

#[test]
fn a_load_that_dies_with_the_actor_is_done_by_the_next_generation() {
    let faults = Arc::new(Faults::default());
    let cache = cache_with(&faults, MANY);
    let expert = cache.shelf.expert(1);
    faults.panic_at(1);
    let (lease, waited) = cache.lease(&expert, WeightForm::Fp32).unwrap();
    assert!(waited);
    assert_eq!(fp32(&lease), expert.values);
    assert_eq!(cache.handle.child().generation().0, 2);
}

#[test]
fn all_who_wait_for_loads_survive_the_actors_death() {
    let faults = Arc::new(Faults::default());
    let cache = cache_with(&faults, MANY);
    let experts: Vec<_> = (0..4).map(|number| cache.shelf.expert(number)).collect();
    cache.shelf.held.send_replace(true);
    std::thread::scope(|scope| {
        let waiters: Vec<_> = (0..20)
            .map(|n| {
                scope.spawn({
                    let (cache, expert) = (&cache, &experts[n % 4]);
                    move || {
                        cache
                            .lease(expert, WeightForm::Fp32)
                            .map(|(lease, _)| fp32(&lease) == expert.values)
                    }
                })
            })
            .collect();
        eventually("four loads wait in the actor", || {
            cache.shelf.locates() == 4
        });
        faults.panic_at(1);
        assert!(block_on(cache.handle.ping(PATIENCE)).is_err());
        eventually("the loads are asked for again", || {
            cache.shelf.locates() == 8
        });
        cache.shelf.held.send_replace(false);
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap(), Ok(true));
        }
    });
    assert_eq!(cache.handle.status().loads, 4);
}

#[test]
fn a_load_that_always_ends_the_actor_is_given_up() {
    let faults = Arc::new(Faults::default());
    let cache = cache_with(&faults, MANY);
    let expert = cache.shelf.expert(1);
    faults.panic_at(usize::MAX);
    let error = cache.lease(&expert, WeightForm::Fp32).err().unwrap();
    assert!(matches!(error, LeaseError::Unavailable { .. }), "{error}");
    faults.panic_at(0);
    assert!(cache.lease(&expert, WeightForm::Fp32).is_ok());
}

#[test]
fn residents_are_leased_while_the_actor_is_quarantined_and_misses_are_refused() {
    let faults = Arc::new(Faults::default());
    let cache = cache_with(&faults, Window::CHILD);
    let (resident, missing) = (cache.shelf.expert(1), cache.shelf.expert(2));
    cache.lease(&resident, WeightForm::Fp32).unwrap();
    faults.panic_at(usize::MAX);
    while cache.handle.child().state() != ChildState::Quarantined {
        let _ = block_on(cache.handle.ping(PATIENCE));
    }
    let (lease, waited) = cache.lease(&resident, WeightForm::Fp32).unwrap();
    assert!(!waited);
    assert_eq!(fp32(&lease), resident.values);
    let error = cache.lease(&missing, WeightForm::Fp32).err().unwrap();
    assert!(matches!(error, LeaseError::Unavailable { .. }), "{error}");
    assert_eq!(cache.handle.status().resident_experts, 1);
    faults.panic_at(0);
    block_on(cache.tree.recover(PATH)).unwrap();
    block_on(cache.tree.wait_running(PATH, PATIENCE)).unwrap();
    assert!(cache.lease(&missing, WeightForm::Fp32).is_ok());
}

#[test]
fn a_corrupt_payload_stays_known_through_a_restart() {
    let faults = Arc::new(Faults::default());
    let cache = cache_with(&faults, MANY);
    let expert = cache.shelf.expert(1);
    flip_bit(&expert.path, 5000);
    assert!(cache.lease(&expert, WeightForm::Fp32).is_err());
    panic_once(&cache, &faults);
    assert_eq!(cache.handle.status().corrupt.len(), 1);
    flip_bit(&expert.path, 5000);
    cache.readmit(&expert).unwrap();
    assert!(cache.lease(&expert, WeightForm::Fp32).is_ok());
}

#[test]
fn a_stuck_load_is_done_by_the_next_generation_and_the_zombie_changes_nothing() {
    let faults = Arc::new(Faults::default());
    let cache = cache_with(&faults, MANY);
    let expert = cache.shelf.expert(1);
    faults.block_at(1);
    let (lease, _) = cache.lease(&expert, WeightForm::Fp32).unwrap();
    assert_eq!(fp32(&lease), expert.values);
    assert_eq!(
        (cache.handle.child().generation().0, cache.tree.zombies()),
        (2, 1)
    );
    faults.release();
    eventually("the zombie comes back", || cache.tree.zombies() == 0);
    let status = cache.handle.status();
    assert_eq!(
        (status.resident_experts, status.held_bytes, status.loading),
        (1, FP32_BYTES, 0)
    );
}

#[test]
fn a_hundred_deaths_under_load_leave_every_lease_answered() {
    let faults = Arc::new(Faults::default());
    let cache = cache_with(&faults, MANY);
    let experts: Vec<_> = (0..8)
        .map(|number| cache.shelf.expert_of_shape(number, 32, 32))
        .collect();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..3_usize {
            let (cache, experts, stop) = (&cache, &experts, &stop);
            scope.spawn(move || {
                for round in thread.. {
                    let expert = &experts[round % experts.len()];
                    match cache.lease(expert, WeightForm::Fp32) {
                        Ok((lease, _)) => assert_eq!(fp32(&lease), expert.values),
                        Err(error) => {
                            assert!(matches!(error, LeaseError::Unavailable { .. }), "{error}")
                        }
                    }
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let _ = block_on(cache.handle.evict(expert.payload, PATIENCE));
                }
            });
        }
        for _ in 0..100 {
            panic_once(&cache, &faults);
        }
        stop.store(true, Ordering::SeqCst);
    });
    let status = cache.handle.status();
    assert_eq!(
        (status.loading, status.held_bytes),
        (0, status.resident_bytes)
    );
    assert!(block_on(cache.handle.ping(PATIENCE)).is_ok());
}

#[test]
fn before_the_tree_starts_a_miss_is_refused_at_once() {
    let shelf = Shelf::new();
    let expert = shelf.expert(1);
    let handle = blyan_expert_cache::ExpertCacheHandle::new(config(1 << 20), shelf).unwrap();
    let deadline = Instant::now() + Duration::from_secs(3600);
    let lease = blyan_protocol::ExpertTable::lease(
        &handle.table(),
        &expert.name,
        &expert.payload,
        WeightForm::Fp32,
        deadline,
    );
    assert!(matches!(
        lease.err().unwrap(),
        LeaseError::Unavailable { .. }
    ));
    assert_eq!(handle.status().loading, 0);
}
