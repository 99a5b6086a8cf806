//! A tiny model, the import of it, and disks that fail.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use blyan_chain::compose::{Weights, weights_block};
use blyan_chain::{
    Acceptance, ChainConfig, ChainError, ChainWriter, DataDir, Disk, NewBlock, RealDisk,
    RocksStore, Store, open_or_create,
};
use blyan_formats::bodies::{
    ChatTemplate, ExpertShape, Family, Payload as _, Rope, RopeStyle, Routing, StringTable,
    Tokenizer, TokenizerKind,
};
use blyan_formats::{
    ArchitectureBody, BlockHash, BlockType, ManifestBody, NodeKey, PayloadHash, TensorBuf,
    TensorName, write_tensorblock,
};
use blyan_protocol::{ModelId, Outcome, Receipt, RequestId};

/// Time of everything in tests, ms since 1970.
pub const NOW_MS: u64 = 1_700_000_000_000;

/// Blocks of one batch of the test import: several batches make several places to be killed at.
const BATCH_LEN: usize = 8;

const VOCAB: u32 = 600;

/// The key number `number`, from 1.
pub fn key(number: u8) -> NodeKey {
    NodeKey::from_secret_bytes([number; 32]).unwrap()
}

fn table(texts: impl IntoIterator<Item = String>) -> StringTable {
    let mut table = StringTable::default();
    for text in texts {
        assert!(table.push(&text));
    }
    table
}

/// 2 layers of 4 experts, width 32: 20 tensors, of which the embedding has more than one tile.
pub fn architecture() -> ArchitectureBody {
    ArchitectureBody {
        family: Family::Llama,
        name: "tiny".to_owned(),
        license: "CC0-1.0".to_owned(),
        layers: 2,
        hidden: 32,
        heads: 2,
        kv_heads: 1,
        head_dim: 16,
        ffn: 32,
        vocab: VOCAB,
        context: 64,
        rms_epsilon: "0.00001".parse().unwrap(),
        rope: Rope {
            base: "10000".parse().unwrap(),
            style: RopeStyle::Interleaved,
        },
        experts: ExpertShape {
            per_layer: 4,
            always_on: 1,
            neurons: 8,
            routing: Routing::TopScoresUnitWeight,
        },
        tokenizer: Tokenizer {
            kind: TokenizerKind::Gpt2Smollm,
            vocab: table((0..VOCAB).map(|id| format!("t{id}"))),
            merges: table(["t 1".to_owned()]),
            token_types: vec![1; VOCAB as usize],
            bos: 0,
            eos: 1,
            unknown: 2,
            padding: 3,
            add_bos: false,
            add_space_prefix: false,
        },
        chat_template: ChatTemplate::Chatml,
        system_prompt: None,
    }
}

/// One tensor of the tiny model as a TensorBlock.
pub struct TestTensor {
    pub name: TensorName,
    pub payload: PayloadHash,
    pub bytes: Vec<u8>,
}

/// A tensor of the architecture's shape with values that follow from its name.
pub fn tensor(name: TensorName) -> TestTensor {
    let (rows, cols) = architecture().tensor_shape(&name).unwrap();
    let (rows, cols) = (
        usize::try_from(rows).unwrap(),
        usize::try_from(cols).unwrap(),
    );
    let salt = name
        .to_string()
        .bytes()
        .fold(1_u32, |salt, byte| salt.wrapping_mul(31) + u32::from(byte));
    let values: Vec<f32> = (0..rows * cols)
        .map(|at| ((at as u32).wrapping_mul(salt) % 1000) as f32 / 500.0 - 1.0)
        .collect();
    let tensor = match name.block_type() {
        BlockType::Expert => TensorBuf::quantise_int8_rows(rows, cols, &values),
        _ => TensorBuf::fp32(rows, cols, values),
    };
    let mut bytes = Vec::new();
    let written = write_tensorblock(&tensor.unwrap().as_tensor(), &mut bytes).unwrap();
    TestTensor {
        name,
        payload: written.payload_hash,
        bytes,
    }
}

/// Every tensor of the tiny model.
pub fn tensors() -> Vec<TestTensor> {
    architecture().tensor_names().map(tensor).collect()
}

pub fn acceptance(key: &NodeKey) -> Acceptance {
    Acceptance {
        by: key.public_key(),
        at_ms: NOW_MS,
    }
}

/// The chain in a store, with a genesis of `key` where there is none.
pub fn open_chain<S: Store>(store: Arc<S>, key: &NodeKey) -> Result<ChainWriter<S>, ChainError> {
    open_or_create(store, &ChainConfig::default(), key, NOW_MS, NOW_MS)
}

pub fn append_architecture<S: Store>(
    chain: &mut ChainWriter<S>,
    key: &NodeKey,
) -> Result<BlockHash, ChainError> {
    let body = architecture().to_payload().unwrap();
    chain.append_meta(BlockType::Architecture, body, NOW_MS, key, NOW_MS)
}

/// What an import does, in its order: architecture, payload files, weight blocks in batches, manifest.
pub fn import<S: Store>(store: &Arc<S>, key: &NodeKey) -> Result<BlockHash, ChainError> {
    let mut chain = open_chain(Arc::clone(store), key)?;
    let architecture = append_architecture(&mut chain, key)?;
    let mut blocks = Vec::new();
    for tensor in tensors() {
        store.payloads().put(tensor.payload, &tensor.bytes)?;
        blocks.push(block_of(&chain, &tensor, architecture, key)?);
    }
    for batch in blocks.chunks(BATCH_LEN) {
        chain.append_all(batch, acceptance(key))?;
    }
    let entries = blocks
        .iter()
        .map(|new| (new.block.header.expert_name.unwrap(), new.block.hash()));
    let manifest = ManifestBody {
        architecture,
        entries: entries.collect(),
    }
    .to_payload()
    .unwrap();
    chain.append_meta(BlockType::Manifest, manifest, NOW_MS, key, NOW_MS)
}

/// The block that carries a tensor of the first import.
pub fn block_of<S: Store>(
    chain: &ChainWriter<S>,
    tensor: &TestTensor,
    meta_ref: BlockHash,
    key: &NodeKey,
) -> Result<NewBlock, ChainError> {
    let weights = Weights {
        name: tensor.name,
        payload: tensor.payload,
        payload_len: tensor.bytes.len() as u64,
        meta_ref,
        parents: Vec::new(),
        supersedes: Vec::new(),
    };
    weights_block(chain.index(), weights, NOW_MS, key)
}

pub fn open_store(dir: &Path) -> Arc<RocksStore> {
    Arc::new(RocksStore::open(DataDir::new(dir)).unwrap())
}

/// A store with the tiny model in a fresh directory.
pub fn imported() -> (tempfile::TempDir, Arc<RocksStore>, BlockHash) {
    let dir = tempfile::tempdir().unwrap();
    let store = open_store(dir.path());
    let manifest = import(&store, &key(1)).unwrap();
    (dir, store, manifest)
}

pub fn receipt(number: u8, ended_ms: u64) -> Receipt {
    Receipt {
        request_id: RequestId::from_random([number; 16]),
        model_id: ModelId(BlockHash::from_bytes([7; 32])),
        outcome: Outcome::Finished,
        tokens_in: 3,
        tokens_out: u32::from(number),
        experts: [("layer0.expert1".to_owned(), 5)].into(),
        admitted_ms: ended_ms - 10,
        ended_ms,
    }
}

/// A call on which durability stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    SyncFile,
    Rename,
    SyncDir,
    WriteBatch,
}

/// When a step of [`ScriptedDisk`] is told of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Before,
    After,
}

type Script = dyn Fn(u64, Call, When) -> io::Result<()> + Send + Sync;

/// Makes the real calls, and asks a script before and after each. The script may fail the call or end the process.
pub struct ScriptedDisk {
    calls: AtomicU64,
    script: Box<Script>,
}

impl ScriptedDisk {
    pub fn new(script: impl Fn(u64, Call, When) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self {
            calls: AtomicU64::new(0),
            script: Box::new(script),
        }
    }

    /// Calls made so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    fn around(&self, call: Call, make: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        (self.script)(number, call, When::Before)?;
        make()?;
        (self.script)(number, call, When::After)
    }
}

impl Disk for ScriptedDisk {
    fn sync_file(&self, file: &File) -> io::Result<()> {
        self.around(Call::SyncFile, || RealDisk.sync_file(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.around(Call::Rename, || RealDisk.rename(from, to))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.around(Call::SyncDir, || RealDisk.sync_dir(dir))
    }

    fn write_batch(&self, write: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        self.around(Call::WriteBatch, || RealDisk.write_batch(write))
    }
}
