//! A small model of random weights, and a table that hands out its experts.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use blyan_formats::{BlockHash, PayloadHash, TensorName};
use blyan_inference::engine::{Engine, EngineOptions, ExpertFfn, ReferenceKernel, WeightSource};
use blyan_inference::graph::ModelShape;
use blyan_protocol::{ExpertTable, Lease, LeaseError, LeasedExpert, ModelEntry, WeightForm};
use parking_lot::Mutex;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub const SHAPE: ModelShape = ModelShape {
    layers: 2,
    hidden: 64,
    heads: 4,
    kv_heads: 2,
    head_dim: 16,
    vocab: 97,
    context: 96,
    rms_epsilon: 1e-5,
    rope_base: 10_000.0,
    rope_interleaved: true,
    experts: 6,
    always_on: 2,
    neurons: 16,
};

/// Where `make` puts the library, unless the environment names another.
pub fn ort_library() -> PathBuf {
    if let Some(path) = std::env::var_os("ORT_DYLIB_PATH") {
        return path.into();
    }
    let cache = std::env::var_os("BLYAN_CACHE_DIR").map(PathBuf::from);
    let cache = cache
        .unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/blyan"));
    cache.join("onnxruntime/libonnxruntime.so.1.32.0")
}

/// Random weights, those of experts included.
pub struct Weights(BTreeMap<TensorName, Vec<f32>>);

impl Weights {
    pub fn random(seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let experts = (0..SHAPE.layers)
            .flat_map(|layer| (0..SHAPE.experts).map(move |expert| (layer, expert)));
        let experts = experts.map(|(layer, expert)| expert_name(layer, expert));
        let experts = experts.map(|name| (name, [3 * SHAPE.neurons, SHAPE.hidden]));
        let all: Vec<_> = SHAPE.shared_weights().chain(experts).collect();
        let weights = all.into_iter().map(|(name, [rows, columns])| {
            let spread = if rows == 1 {
                1.0
            } else {
                3.0 / (columns as f32).sqrt()
            };
            (
                name,
                (0..rows * columns)
                    .map(|_| random.random_range(-spread..spread))
                    .collect(),
            )
        });
        Self(weights.collect())
    }

    pub fn get(&self, name: TensorName) -> &[f32] {
        &self.0[&name]
    }
}

impl WeightSource for Weights {
    fn weight(&self, name: &TensorName) -> Option<&[f32]> {
        self.0.get(name).map(Vec::as_slice)
    }
}

pub fn expert_name(layer: usize, expert: usize) -> TensorName {
    TensorName::expert_of(layer as u16, expert as u16)
}

pub fn payload_of(name: &TensorName) -> PayloadHash {
    PayloadHash::of_bytes(name.to_string().as_bytes())
}

/// What a table does with one expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its damage shows after it was used.
    Damaged,
    /// Its payload turns out to be corrupt when it is leased.
    CorruptWhenLeased,
    /// Nobody loads it in time.
    Late,
    /// Asking for it panics.
    Panics,
}

/// All experts of [`Weights`], with faults on demand.
pub struct Table {
    weights: Arc<Weights>,
    fates: Mutex<HashMap<TensorName, Fate>>,
    corrupt: Mutex<HashMap<PayloadHash, String>>,
    epoch: AtomicU64,
    pub leased: AtomicU64,
    held: Arc<AtomicU64>,
    /// Most leases that lived at one time.
    pub held_max: AtomicU64,
    /// What a lease says about having waited.
    pub waits: std::sync::atomic::AtomicBool,
}

impl Table {
    pub fn new(weights: Arc<Weights>) -> Self {
        Self {
            weights,
            fates: Mutex::default(),
            corrupt: Mutex::default(),
            epoch: AtomicU64::new(0),
            leased: AtomicU64::new(0),
            held: Arc::default(),
            held_max: AtomicU64::new(0),
            waits: false.into(),
        }
    }

    pub fn set_fate(&self, name: TensorName, fate: Fate) {
        self.fates.lock().insert(name, fate);
    }

    pub fn set_corrupt(&self, name: TensorName) {
        self.mark(&payload_of(&name), "known");
    }

    pub fn heal_all(&self) {
        self.fates.lock().clear();
        self.corrupt.lock().clear();
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    fn mark(&self, payload: &PayloadHash, fault: &str) {
        self.corrupt.lock().insert(*payload, fault.to_owned());
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }
}

struct Leased {
    weights: Arc<Weights>,
    name: TensorName,
    intact: bool,
    held: Arc<AtomicU64>,
}

impl Drop for Leased {
    fn drop(&mut self) {
        self.held.fetch_sub(1, Ordering::SeqCst);
    }
}

impl LeasedExpert for Leased {
    fn fp32(&self) -> &[f32] {
        self.weights.get(self.name)
    }

    fn int8(&self) -> (&[i8], &[f32]) {
        (&[], &[])
    }

    fn intact(&self) -> bool {
        self.intact
    }
}

impl ExpertTable for Table {
    fn lease(
        &self,
        name: &TensorName,
        payload: &PayloadHash,
        form: WeightForm,
        _deadline: Instant,
    ) -> Result<(Lease, bool), LeaseError> {
        assert_eq!((*payload, form), (payload_of(name), WeightForm::Fp32));
        self.leased.fetch_add(1, Ordering::SeqCst);
        let fate = self.fates.lock().get(name).copied();
        match fate {
            Some(Fate::Late) => return Err(LeaseError::Timeout { name: *name }),
            Some(Fate::CorruptWhenLeased) => self.mark(payload, "its root differs"),
            Some(Fate::Panics) => panic!("a fault in the table"),
            Some(Fate::Damaged) | None => {}
        }
        if let Some(fault) = self.corruption(payload) {
            return Err(LeaseError::Corrupt {
                name: *name,
                payload: *payload,
                fault,
            });
        }
        let held = self.held.fetch_add(1, Ordering::SeqCst) + 1;
        self.held_max.fetch_max(held, Ordering::SeqCst);
        let leased = Leased {
            weights: Arc::clone(&self.weights),
            name: *name,
            intact: fate.is_none(),
            held: Arc::clone(&self.held),
        };
        Ok((Arc::new(leased), self.waits.load(Ordering::SeqCst)))
    }

    fn corruption(&self, payload: &PayloadHash) -> Option<String> {
        self.corrupt.lock().get(payload).cloned()
    }

    fn corruption_epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    fn report_damage(&self, _name: &TensorName, payload: &PayloadHash, fault: &str) {
        self.mark(payload, fault);
    }
}

/// A model's weights, its table and an engine over both.
pub struct World {
    pub weights: Arc<Weights>,
    pub table: Arc<Table>,
    pub engine: Engine,
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self::with_options(seed, |_| {})
    }

    pub fn with_options(seed: u64, change: impl FnOnce(&mut EngineOptions)) -> Self {
        let weights = Arc::new(Weights::random(seed));
        let table = Arc::new(Table::new(Arc::clone(&weights)));
        let mut options = EngineOptions::new(ort_library());
        options.context_max = SHAPE.context;
        options.threads = 2;
        change(&mut options);
        let ffn = ExpertFfn::new(
            SHAPE,
            &entries(),
            Arc::clone(&table) as _,
            Arc::new(ReferenceKernel),
        )
        .unwrap();
        let engine =
            Engine::with_ffn(options, SHAPE, Arc::clone(&weights) as _, Arc::new(ffn)).unwrap();
        Self {
            weights,
            table,
            engine,
        }
    }
}

pub fn entries() -> BTreeMap<TensorName, ModelEntry> {
    let names = (0..SHAPE.layers)
        .flat_map(|layer| (0..SHAPE.experts).map(move |expert| expert_name(layer, expert)));
    let entry = |name: TensorName| {
        let (block, payload) = (BlockHash::from_bytes([0; 32]), payload_of(&name));
        (
            name,
            ModelEntry {
                block,
                payload,
                payload_len: 0,
            },
        )
    };
    names.map(entry).collect()
}
