//! A small model of random weights, and a table that hands out its experts.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use blyan_formats::{BlockHash, PayloadHash, Tensor, TensorBuf, TensorName};
use blyan_inference::engine::{
    Engine, EngineOptions, ExpertKernel, FastKernel, ReferenceKernel, WeightSource,
};
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
pub struct Weights {
    fp32: BTreeMap<TensorName, TensorBuf>,
    stored: BTreeMap<TensorName, TensorBuf>,
    form: WeightForm,
}

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
            let values = (0..rows * columns).map(|_| random.random_range(-spread..spread));
            let tensor = TensorBuf::fp32(rows, columns, values.collect());
            (name, tensor.unwrap())
        });
        let fp32: BTreeMap<_, _> = weights.collect();
        Self {
            stored: fp32.clone(),
            fp32,
            form: WeightForm::Fp32,
        }
    }

    /// The same, rounded as a model on the chain is.
    pub fn quantised(mut self) -> Self {
        self.form = WeightForm::Stored;
        for (name, fp32) in &mut self.fp32 {
            let tensor = fp32.as_tensor();
            let (rows, cols) = (tensor.rows(), tensor.cols());
            let mut values = tensor.as_fp32().unwrap().to_vec();
            let stored = match name.to_string() {
                _ if rows == 1 => continue,
                router if router.ends_with("router") => continue,
                attention if attention.contains("attn") => uint4(rows, cols, &values),
                _ => TensorBuf::quantise_int8_blocks(rows, cols, &values).unwrap(),
            };
            stored.as_tensor().dequantise_into(&mut values).unwrap();
            *fp32 = TensorBuf::fp32(rows, cols, values).unwrap();
            self.stored.insert(*name, stored);
        }
        self
    }

    fn kernel(&self) -> Arc<dyn ExpertKernel> {
        match self.form {
            WeightForm::Fp32 => Arc::new(ReferenceKernel),
            WeightForm::Stored => Arc::new(FastKernel),
        }
    }

    /// In fp32.
    pub fn get(&self, name: TensorName) -> &[f32] {
        self.fp32[&name].as_tensor().as_fp32().unwrap()
    }
}

impl WeightSource for Weights {
    fn weight(&self, name: &TensorName) -> Option<Tensor<'_>> {
        self.stored.get(name).map(TensorBuf::as_tensor)
    }
}

/// Blocks of 32 between their least and their greatest value.
fn uint4(rows: usize, cols: usize, values: &[f32]) -> TensorBuf {
    let (mut packed, mut scales, mut minimums) = (Vec::new(), Vec::new(), Vec::new());
    for block in values.chunks(32) {
        let least = block.iter().copied().fold(f32::INFINITY, f32::min);
        let most = block.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let scale = (most - least) / 15.0;
        packed.extend(
            block
                .iter()
                .map(|value| ((value - least) / scale).round() as u8),
        );
        scales.push(scale);
        minimums.push(least);
    }
    TensorBuf::pack_uint4_blocks(rows, cols, &packed, scales, minimums).unwrap()
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
    fn weights(&self) -> Tensor<'_> {
        self.weights.stored[&self.name].as_tensor()
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
        assert_eq!((*payload, form), (payload_of(name), self.weights.form));
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
        Self::over(Weights::random(seed), change)
    }

    /// On quantised weights and the kernels for them.
    pub fn fast(seed: u64, change: impl FnOnce(&mut EngineOptions)) -> Self {
        Self::over(Weights::random(seed).quantised(), change)
    }

    fn over(weights: Weights, change: impl FnOnce(&mut EngineOptions)) -> Self {
        let weights = Arc::new(weights);
        let table = Arc::new(Table::new(Arc::clone(&weights)));
        let mut options = EngineOptions::new(ort_library());
        options.context_max = SHAPE.context;
        options.threads = 2;
        change(&mut options);
        let engine = Engine::new(
            options,
            SHAPE,
            &entries(),
            Arc::clone(&weights) as _,
            Arc::clone(&table) as _,
            weights.kernel(),
        )
        .unwrap();
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
