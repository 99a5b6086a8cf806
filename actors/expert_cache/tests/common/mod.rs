//! A folder of real payloads behind `PayloadSource`, and a supervised cache over it.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use blyan_expert_cache::{ExpertCacheConfig, ExpertCacheHandle};
use blyan_formats::{BlockHash, PayloadHash, TensorBuf, TensorName, write_tensorblock};
use blyan_protocol::{
    BoxFuture, ErrorCode, ExpertTable, Lease, LeaseError, PayloadLocation, PayloadSource,
    PublicError, WeightForm,
};
use blyan_supervisors::{
    Backoff, NoProbe, Probe, SupervisorSpec, Tree, TreeHandle, TreeOptions, Window,
};
use parking_lot::Mutex;
use tempfile::TempDir;

pub const ROWS: usize = 96;
pub const COLS: usize = 64;
/// Bytes of an expert's fp32 form.
pub const FP32_BYTES: u64 = (ROWS * COLS * 4) as u64;
/// Longer than anything here takes, shorter than a person waits for a hanging test.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The weights of a lease in the fp32 form.
pub fn fp32(lease: &Lease) -> &[f32] {
    lease.weights().as_fp32().unwrap()
}

/// A data directory: payload files, derivations, and what the chain remembers of them.
pub struct Shelf {
    folder: TempDir,
    locations: Mutex<HashMap<PayloadHash, PayloadLocation>>,
    pub locates: AtomicUsize,
    pub remembers: AtomicUsize,
    /// While set, `locate` does not answer.
    pub held: tokio::sync::watch::Sender<bool>,
    /// While set, nothing can be remembered.
    pub forgetful: std::sync::atomic::AtomicBool,
}

/// One expert of the shelf.
#[derive(Clone, Debug)]
pub struct Expert {
    pub name: TensorName,
    pub payload: PayloadHash,
    pub path: PathBuf,
    pub fp32_path: PathBuf,
    pub len: u64,
    /// What its weights are, row major.
    pub values: Vec<f32>,
}

impl Shelf {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            folder: tempfile::tempdir().unwrap(),
            locations: Mutex::default(),
            locates: AtomicUsize::new(0),
            remembers: AtomicUsize::new(0),
            held: tokio::sync::watch::Sender::new(false),
            forgetful: false.into(),
        })
    }

    /// An int8 expert whose values follow from its number.
    pub fn expert(&self, number: u16) -> Expert {
        self.expert_of_shape(number, ROWS, COLS)
    }

    pub fn expert_of_shape(&self, number: u16, rows: usize, cols: usize) -> Expert {
        let values = values(u64::from(number), rows * cols);
        let tensor = TensorBuf::quantise_int8_blocks(rows, cols, &values).unwrap();
        self.put(TensorName::expert_of(0, number), &tensor)
    }

    pub fn put(&self, name: TensorName, tensor: &TensorBuf) -> Expert {
        let mut bytes = Vec::new();
        let written = write_tensorblock(&tensor.as_tensor(), &mut bytes).unwrap();
        let (payload, len) = (written.payload_hash, written.len);
        let path = self.folder.path().join(payload.to_string());
        let fp32_path = self
            .folder
            .path()
            .join("cache")
            .join(format!("{payload}.f32"));
        fs::write(&path, bytes).unwrap();
        let mut values = vec![0.0; tensor.as_tensor().rows() * tensor.as_tensor().cols()];
        tensor.as_tensor().dequantise_into(&mut values).unwrap();
        let location = PayloadLocation {
            name,
            block: BlockHash::from_bytes([7; 32]),
            path: path.clone(),
            len,
            fp32_path: fp32_path.clone(),
            fp32_sha256: None,
        };
        self.locations.lock().insert(payload, location);
        Expert {
            name,
            payload,
            path,
            fp32_path,
            len,
            values,
        }
    }

    pub fn remembered(&self, expert: &Expert) -> Option<[u8; 32]> {
        self.locations.lock()[&expert.payload].fp32_sha256
    }

    pub fn set_remembered(&self, expert: &Expert, sha256: Option<[u8; 32]>) {
        self.locations
            .lock()
            .get_mut(&expert.payload)
            .unwrap()
            .fp32_sha256 = sha256;
    }

    pub fn locates(&self) -> usize {
        self.locates.load(Ordering::SeqCst)
    }

    pub fn cache_files(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.folder.path().join("cache"))
            .into_iter()
            .flatten();
        files.map(|file| file.unwrap().path()).collect()
    }
}

impl PayloadSource for Shelf {
    fn locate(&self, payload: PayloadHash) -> BoxFuture<'_, Result<PayloadLocation, PublicError>> {
        self.locates.fetch_add(1, Ordering::SeqCst);
        let mut held = self.held.subscribe();
        Box::pin(async move {
            // The sender lives as long as the shelf.
            let _ = held.wait_for(|held| !held).await;
            let location = self.locations.lock().get(&payload).cloned();
            location.ok_or_else(|| PublicError::new(ErrorCode::NotFound, "no such payload", ""))
        })
    }

    fn remember_fp32(
        &self,
        payload: PayloadHash,
        sha256: [u8; 32],
    ) -> BoxFuture<'_, Result<(), PublicError>> {
        self.remembers.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            if self.forgetful.load(Ordering::SeqCst) {
                return Err(PublicError::new(
                    ErrorCode::Unavailable,
                    "the store is read-only",
                    "",
                ));
            }
            self.locations.lock().get_mut(&payload).unwrap().fp32_sha256 = Some(sha256);
            Ok(())
        })
    }
}

/// Small pseudo-random values; equal seeds give equal values.
pub fn values(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_769) | 1;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1 << 24) as f32) - 0.5
    };
    (0..count).map(|_| next()).collect()
}

pub fn flip_bit(path: &Path, byte: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[byte as usize] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

pub fn truncate(path: &Path, len: u64) {
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(len)
        .unwrap();
}

/// A supervised cache over a shelf.
pub struct Cache {
    pub handle: ExpertCacheHandle,
    pub tree: TreeHandle,
    pub shelf: Arc<Shelf>,
    system: Option<JoinHandle<()>>,
}

/// The path of the cache in its tree.
pub const PATH: &str = "expert_cache";

impl Cache {
    pub fn new(bytes_max: u64) -> Self {
        Self::with(config(bytes_max), Arc::new(NoProbe), MANY)
    }

    pub fn with(config: ExpertCacheConfig, probe: Arc<dyn Probe>, window: Window) -> Self {
        let shelf = Shelf::new();
        let handle = ExpertCacheHandle::new(config, Arc::clone(&shelf) as _).unwrap();
        let child = handle
            .child_spec(PATH)
            .window(window)
            .backoff(Backoff::NONE);
        let (send, receive) = mpsc::channel();
        let system = std::thread::spawn(move || {
            actix_rt::System::new().block_on(async move {
                let spec = SupervisorSpec::new("test").window(MANY).child(child);
                let options = TreeOptions {
                    probe,
                    ..TreeOptions::default()
                };
                let tree = Tree::start(spec, options).unwrap();
                send.send(tree.clone()).unwrap();
                tree.wait().await;
            });
        });
        let tree = receive.recv().unwrap();
        let cache = Self {
            handle,
            tree,
            shelf,
            system: Some(system),
        };
        block_on(cache.tree.wait_running(PATH, PATIENCE)).unwrap();
        cache
    }

    pub fn lease(&self, expert: &Expert, form: WeightForm) -> Result<(Lease, bool), LeaseError> {
        self.lease_within(expert, form, PATIENCE)
    }

    pub fn lease_within(
        &self,
        expert: &Expert,
        form: WeightForm,
        within: Duration,
    ) -> Result<(Lease, bool), LeaseError> {
        self.handle
            .table()
            .lease(&expert.name, &expert.payload, form, Instant::now() + within)
    }

    pub fn is_resident(&self, expert: &Expert) -> bool {
        let before = self.handle.status().loads;
        let lease = self.lease(expert, WeightForm::Fp32);
        lease.is_ok() && self.handle.status().loads == before
    }

    pub fn readmit(&self, expert: &Expert) -> Result<(), blyan_expert_cache::CacheError> {
        block_on(self.handle.readmit(expert.payload, PATIENCE))
    }

    pub fn evict(&self, expert: &Expert) -> usize {
        block_on(self.handle.evict(expert.payload, PATIENCE)).unwrap()
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        block_on(self.tree.stop(Duration::from_secs(5)));
        if let Some(system) = self.system.take() {
            system.join().unwrap();
        }
    }
}

/// A window that no test fills.
pub const MANY: Window = Window::new(100_000, Duration::from_secs(60));

pub fn config(bytes_max: u64) -> ExpertCacheConfig {
    ExpertCacheConfig {
        bytes_max,
        ..ExpertCacheConfig::default()
    }
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(future)
}

/// Waits for something that another thread brings about.
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
