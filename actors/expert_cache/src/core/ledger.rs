use std::collections::HashMap;
use std::hash::Hash;

/// How an entry is used at the moment of the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The tick of the newest lease; ticks grow with every lease.
    pub last_used: u64,
    /// Leases that are alive: an entry with one is never evicted.
    pub leases: usize,
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It would not fit an empty cache.
    #[error("{needs_bytes} bytes do not fit the bound of {bound_bytes}")]
    TooLarge {
        /// Bytes asked for.
        needs_bytes: u64,
        /// The bound.
        bound_bytes: u64,
    },
    /// It would fit, were not so much leased or being loaded.
    #[error("everything in the cache is in use")]
    Full,
}

/// Bytes that are held, against one bound, and the entries that may be evicted to free some.
///
/// Bytes are held from before a file is mapped until it is unmapped; an entry only says that something held is
/// resident, so it can be taken out while a lease still holds its bytes.
///
/// Invariant `CACHE-I1`: `held() <= bound()`, always.
#[derive(Debug)]
pub struct Ledger<K> {
    bound: u64,
    held: u64,
    resident_bytes: u64,
    entries: HashMap<K, u64>,
}

impl<K: Copy + Eq + Hash + Ord> Ledger<K> {
    /// An empty ledger with a bound in bytes.
    pub fn new(bound: u64) -> Self {
        Self {
            bound,
            held: 0,
            resident_bytes: 0,
            entries: HashMap::new(),
        }
    }

    /// The bound in bytes.
    pub const fn bound(&self) -> u64 {
        self.bound
    }

    /// Bytes that are mapped or about to be.
    pub const fn held(&self) -> u64 {
        self.held
    }

    /// Bytes of the entries.
    pub const fn resident_bytes(&self) -> u64 {
        self.resident_bytes
    }

    /// Resident entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The resident keys that `wanted` picks.
    pub fn keys(&self, wanted: impl Fn(&K) -> bool) -> Vec<K> {
        self.entries
            .keys()
            .filter(|key| wanted(key))
            .copied()
            .collect()
    }

    /// Which entries must go so that `bytes` fit, the least recently used first; entries of one tick in the
    /// order of their keys. Nothing is changed.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`] if they never fit, [`Refusal::Full`] if they do not fit beside what is leased and
    /// loading now.
    pub fn plan(&self, bytes: u64, usage: impl Fn(&K) -> Usage) -> Result<Vec<K>, Refusal> {
        if bytes > self.bound {
            return Err(Refusal::TooLarge {
                needs_bytes: bytes,
                bound_bytes: self.bound,
            });
        }
        let free = self.bound - self.held;
        let Some(mut missing) = bytes.checked_sub(free).filter(|missing| *missing > 0) else {
            return Ok(Vec::new());
        };
        let mut victims = Vec::new();
        for (key, size) in self.by_age(usage) {
            victims.push(key);
            missing = missing.saturating_sub(size);
            if missing == 0 {
                return Ok(victims);
            }
        }
        Err(Refusal::Full)
    }

    /// Entries without a lease, oldest first, with their bytes.
    fn by_age(&self, usage: impl Fn(&K) -> Usage) -> Vec<(K, u64)> {
        let mut idle: Vec<(u64, K, u64)> = self
            .entries
            .iter()
            .map(|(key, bytes)| (usage(key), *key, *bytes))
            .filter(|(usage, ..)| usage.leases == 0)
            .map(|(usage, key, bytes)| (usage.last_used, key, bytes))
            .collect();
        idle.sort_unstable();
        idle.into_iter()
            .map(|(_, key, bytes)| (key, bytes))
            .collect()
    }

    /// Holds `bytes`; false if they are not free.
    pub fn hold(&mut self, bytes: u64) -> bool {
        let fits = bytes <= self.bound - self.held;
        if fits {
            self.held += bytes;
        }
        fits
    }

    /// Frees bytes that were held.
    pub fn release(&mut self, bytes: u64) {
        debug_assert!(bytes <= self.held, "more released than held");
        self.held = self.held.saturating_sub(bytes);
    }

    /// Makes something held an entry; false, and nothing changes, if the key is resident already.
    pub fn settle(&mut self, key: K, bytes: u64) -> bool {
        if self.entries.contains_key(&key) {
            return false;
        }
        self.entries.insert(key, bytes);
        self.resident_bytes += bytes;
        true
    }

    /// Takes an entry out; its bytes stay held until they are released.
    pub fn remove(&mut self, key: &K) -> Option<u64> {
        let bytes = self.entries.remove(key)?;
        self.resident_bytes -= bytes;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const IDLE: Usage = Usage {
        last_used: 0,
        leases: 0,
    };

    fn ledger_of(bound: u64, entries: &[(u8, u64)]) -> Ledger<u8> {
        let mut ledger = Ledger::new(bound);
        for (key, bytes) in entries {
            assert!(ledger.hold(*bytes) && ledger.settle(*key, *bytes));
        }
        ledger
    }

    #[test]
    fn the_least_recently_used_goes_first_and_only_as_many_as_needed() {
        let ledger = ledger_of(30, &[(1, 10), (2, 10), (3, 10)]);
        let age = |key: &u8| Usage {
            last_used: [0, 7, 5, 9][*key as usize],
            leases: 0,
        };
        assert_eq!(ledger.plan(10, age), Ok(vec![2]));
        assert_eq!(ledger.plan(11, age), Ok(vec![2, 1]));
        assert_eq!(ledger.plan(30, age), Ok(vec![2, 1, 3]));
    }

    #[test]
    fn a_leased_entry_is_passed_over() {
        let ledger = ledger_of(20, &[(1, 10), (2, 10)]);
        let leased = |key: &u8| Usage {
            last_used: u64::from(*key),
            leases: usize::from(*key == 1),
        };
        assert_eq!(ledger.plan(5, leased), Ok(vec![2]));
        assert_eq!(ledger.plan(15, leased), Err(Refusal::Full));
    }

    #[test]
    fn what_exceeds_the_bound_is_never_waited_for() {
        let ledger = ledger_of(20, &[(1, 20)]);
        let expected = Refusal::TooLarge {
            needs_bytes: 21,
            bound_bytes: 20,
        };
        assert_eq!(ledger.plan(21, |_| IDLE), Err(expected));
        assert!(ledger.plan(u64::MAX, |_| IDLE).is_err());
    }

    #[test]
    fn bytes_of_a_load_or_of_a_removed_entry_are_not_given_twice() {
        let mut ledger = ledger_of(20, &[(1, 10)]);
        assert!(ledger.hold(10));
        assert!(!ledger.hold(1));
        assert_eq!(ledger.plan(11, |_| IDLE), Err(Refusal::Full));
        assert_eq!(ledger.remove(&1), Some(10));
        assert_eq!(
            ledger.plan(1, |_| IDLE),
            Err(Refusal::Full),
            "its map may still be leased"
        );
        ledger.release(10);
        assert_eq!(ledger.plan(10, |_| IDLE), Ok(vec![]));
    }

    #[test]
    fn the_same_key_is_settled_once() {
        let mut ledger = ledger_of(20, &[(1, 10)]);
        assert!(ledger.hold(10));
        assert!(!ledger.settle(1, 10));
        ledger.release(10);
        assert_eq!((ledger.held(), ledger.len()), (10, 1));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Load { key: u8, bytes: u64 },
        Lease(u8),
        Unlease(u8),
        Drop(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..12_u8, 0..60_u64).prop_map(|(key, bytes)| Step::Load { key, bytes }),
            3 => (0..12_u8).prop_map(Step::Lease),
            3 => (0..12_u8).prop_map(Step::Unlease),
            1 => (0..12_u8).prop_map(Step::Drop),
        ];
        proptest::collection::vec(step, 1..200)
    }

    /// The obvious cache: a map from key to (bytes, last use, leases), evicting one at a time.
    struct Model {
        bound: u64,
        tick: u64,
        entries: BTreeMap<u8, (u64, u64, usize)>,
    }

    impl Model {
        fn used(&self) -> u64 {
            self.entries.values().map(|entry| entry.0).sum()
        }

        fn load(&mut self, key: u8, bytes: u64) -> Result<Vec<u8>, Refusal> {
            if bytes > self.bound {
                return Err(Refusal::TooLarge {
                    needs_bytes: bytes,
                    bound_bytes: self.bound,
                });
            }
            let kept = self.entries.clone();
            let mut evicted = Vec::new();
            while self.used() + bytes > self.bound {
                let idle = self.entries.iter().filter(|(_, entry)| entry.2 == 0);
                let Some((&oldest, _)) = idle.min_by_key(|(key, entry)| (entry.1, **key)) else {
                    self.entries = kept;
                    return Err(Refusal::Full);
                };
                self.entries.remove(&oldest);
                evicted.push(oldest);
            }
            self.entries.insert(key, (bytes, self.tick, 0));
            Ok(evicted)
        }

        fn usage(&self, key: u8) -> Usage {
            let (_, last_used, leases) = self.entries[&key];
            Usage { last_used, leases }
        }
    }

    /// Carries out what the ledger planned.
    fn load(ledger: &mut Ledger<u8>, key: u8, bytes: u64, plan: &[u8]) {
        for victim in plan {
            let freed = ledger.remove(victim).expect("a plan names residents");
            ledger.release(freed);
        }
        assert!(ledger.hold(bytes), "the plan makes room");
        assert!(ledger.settle(key, bytes));
    }

    proptest! {
        #[test]
        fn the_ledger_evicts_what_the_obvious_cache_evicts(bound in 1..120_u64, steps in steps()) {
            let mut model = Model { bound, tick: 0, entries: BTreeMap::new() };
            let mut ledger = Ledger::new(bound);
            for step in steps {
                model.tick += 1;
                match step {
                    Step::Load { key, .. } | Step::Lease(key) if model.entries.contains_key(&key) => {
                        let entry = model.entries.get_mut(&key).unwrap();
                        entry.1 = model.tick;
                        entry.2 += 1;
                    }
                    Step::Load { key, bytes } => {
                        let plan = ledger.plan(bytes, |key| model.usage(*key));
                        prop_assert_eq!(&plan, &model.load(key, bytes));
                        if let Ok(plan) = plan {
                            load(&mut ledger, key, bytes, &plan);
                        }
                    }
                    Step::Lease(_) => {}
                    Step::Unlease(key) => {
                        if let Some(entry) = model.entries.get_mut(&key) {
                            entry.2 = entry.2.saturating_sub(1);
                        }
                    }
                    Step::Drop(key) => {
                        let expected = model.entries.remove(&key).map(|entry| entry.0);
                        prop_assert_eq!(ledger.remove(&key), expected);
                        ledger.release(expected.unwrap_or(0));
                    }
                }
                prop_assert!(ledger.held() <= ledger.bound());
                prop_assert_eq!(ledger.held(), model.used());
                prop_assert_eq!(ledger.len(), model.entries.len());
            }
        }
    }
}
