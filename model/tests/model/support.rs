//! A model of two small layers as a GGUF file, a recipe for it, and how it is imported.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use blyan_chain::{ChainConfig, ChainReader, ChainWriter, DataDir, RocksStore, open_or_create};
use blyan_formats::bodies::{ExpertShape, Routing};
use blyan_formats::{BlockHash, NodeKey};
use blyan_model::recipe::{
    FitRecord, Grouping, LayerSplit, ModelRecord, Recipe, RecipeFormat, RouterWeights,
};
use blyan_model::{ImportOptions, Imported, ModelError, SourceFile, import};
use blyan_supervisors::Probe;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

pub const LAYERS: usize = 2;
pub const HIDDEN: usize = 64;
pub const FFN: usize = 96;
const HEADS: u32 = 2;
const KV_HEADS: u32 = 1;
const KV_ROWS: usize = 32;
/// The bytes of GPT-2's alphabet, then the control tokens of ChatML.
const VOCAB: usize = 256 + CONTROL.len();
const CONTROL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
pub const EXPERTS: ExpertShape = ExpertShape {
    per_layer: 6,
    always_on: 2,
    neurons: 16,
    routing: Routing::TopScoresUnitWeight,
};

const TEXT: u32 = 8;
const LIST: u32 = 9;
const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const BOOL: u32 = 7;

const TEMPLATE: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
{{ '<|im_start|>system\nBe brief<|im_end|>\n' }}{% endif %}\
{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}";

#[derive(Default)]
pub struct GgufWriter {
    keys: u64,
    metadata: Vec<u8>,
    tensors: u64,
    table: Vec<u8>,
    data: Vec<u8>,
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl GgufWriter {
    fn key(&mut self, key: &str, code: u32, value: &[u8]) {
        self.keys += 1;
        text(&mut self.metadata, key);
        self.metadata.extend(code.to_le_bytes());
        self.metadata.extend(value);
    }

    fn text(&mut self, key: &str, value: &str) {
        let mut bytes = Vec::new();
        text(&mut bytes, value);
        self.key(key, TEXT, &bytes);
    }

    fn number(&mut self, key: &str, value: u32) {
        self.key(key, U32, &value.to_le_bytes());
    }

    fn texts(&mut self, key: &str, values: &[String]) {
        let mut bytes = list_head(TEXT, values.len());
        values.iter().for_each(|value| text(&mut bytes, value));
        self.key(key, LIST, &bytes);
    }

    fn tensor(&mut self, name: &str, rows: usize, cols: usize, code: u32, bytes: &[u8]) {
        let dims: &[usize] = if rows == 1 { &[cols] } else { &[cols, rows] };
        self.tensor_of(name, dims, code, bytes);
    }

    /// `dims` with the fastest first, as GGUF has them.
    pub fn tensor_of(&mut self, name: &str, dims: &[usize], code: u32, bytes: &[u8]) {
        self.tensors += 1;
        text(&mut self.table, name);
        self.table.extend((dims.len() as u32).to_le_bytes());
        dims.iter()
            .for_each(|dim| self.table.extend((*dim as u64).to_le_bytes()));
        self.table.extend(code.to_le_bytes());
        self.table.extend((self.data.len() as u64).to_le_bytes());
        self.data.extend(bytes);
        self.data.resize(self.data.len().next_multiple_of(32), 0);
    }

    pub fn finish(self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(3u32.to_le_bytes());
        file.extend(self.tensors.to_le_bytes());
        file.extend(self.keys.to_le_bytes());
        file.extend(self.metadata);
        file.extend(self.table);
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(self.data);
        file
    }
}

fn list_head(code: u32, len: usize) -> Vec<u8> {
    [
        code.to_le_bytes().to_vec(),
        (len as u64).to_le_bytes().to_vec(),
    ]
    .concat()
}

/// Random blocks of 32: `extra` f16 numbers between 2^-6 and 2^-5, then `len` bytes of elements.
fn random_blocks(random: &mut ChaCha8Rng, elements: usize, f16s: usize, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..elements / 32 {
        for sign in [0u16, 0x8000].iter().take(f16s) {
            bytes.extend((0x2400 | sign | random.random_range(0..0x400u16)).to_le_bytes());
        }
        let start = bytes.len();
        bytes.resize(start + len, 0);
        random.fill_bytes(&mut bytes[start..]);
    }
    bytes
}

fn add_tensors(gguf: &mut GgufWriter, random: &mut ChaCha8Rng) {
    let q8 = random_blocks(random, VOCAB * HIDDEN, 1, 32);
    gguf.tensor("token_embd.weight", VOCAB, HIDDEN, 8, &q8);
    for layer in 0..LAYERS {
        for norm in ["attn_norm", "ffn_norm"] {
            let values: Vec<u8> = (0..HIDDEN)
                .flat_map(|_| random.random_range(0.5f32..1.5).to_le_bytes())
                .collect();
            gguf.tensor(&format!("blk.{layer}.{norm}.weight"), 1, HIDDEN, 0, &values);
        }
        for (name, rows, cols) in [
            ("attn_q", HIDDEN, HIDDEN),
            ("attn_k", KV_ROWS, HIDDEN),
            ("attn_v", KV_ROWS, HIDDEN),
            ("attn_output", HIDDEN, HIDDEN),
            ("ffn_gate", FFN, HIDDEN),
            ("ffn_up", FFN, HIDDEN),
            ("ffn_down", HIDDEN, FFN),
        ] {
            let q4 = random_blocks(random, rows * cols, 2, 16);
            gguf.tensor(&format!("blk.{layer}.{name}.weight"), rows, cols, 3, &q4);
        }
    }
    let ones: Vec<u8> = (0..HIDDEN).flat_map(|_| 1.0f32.to_le_bytes()).collect();
    gguf.tensor("output_norm.weight", 1, HIDDEN, 0, &ones);
}

/// The character that stands for a byte in GPT-2's vocabulary: itself if it is printable, else one from 256 on.
fn byte_char(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let before = (0..byte).filter(|byte| !printable(*byte)).count() as u32;
    if printable(byte) {
        byte.into()
    } else {
        char::from_u32(256 + before).unwrap()
    }
}

fn add_metadata(gguf: &mut GgufWriter) {
    gguf.text("general.architecture", "llama");
    for (key, value) in [
        ("llama.block_count", LAYERS as u32),
        ("llama.embedding_length", HIDDEN as u32),
        ("llama.attention.head_count", HEADS),
        ("llama.attention.head_count_kv", KV_HEADS),
        ("llama.feed_forward_length", FFN as u32),
        ("llama.context_length", 512),
        ("tokenizer.ggml.bos_token_id", 257),
        ("tokenizer.ggml.eos_token_id", 258),
        ("tokenizer.ggml.unknown_token_id", 256),
        ("tokenizer.ggml.padding_token_id", 258),
    ] {
        gguf.number(key, value);
    }
    gguf.key("llama.rope.freq_base", F32, &100_000.0f32.to_le_bytes());
    gguf.key(
        "llama.attention.layer_norm_rms_epsilon",
        F32,
        &1e-5f32.to_le_bytes(),
    );
    gguf.text("tokenizer.ggml.model", "gpt2");
    gguf.text("tokenizer.ggml.pre", "smollm");
    gguf.key("tokenizer.ggml.add_bos_token", BOOL, &[0]);
    gguf.key("tokenizer.ggml.add_space_prefix", BOOL, &[0]);
    let bytes = (0..=255).map(|byte| byte_char(byte).to_string());
    let tokens: Vec<String> = bytes.chain(CONTROL.map(str::to_owned)).collect();
    gguf.texts("tokenizer.ggml.tokens", &tokens);
    gguf.texts("tokenizer.ggml.merges", &[]);
    let types = (0..VOCAB).flat_map(|id| if id < 256 { 1i32 } else { 3 }.to_le_bytes());
    gguf.key(
        "tokenizer.ggml.token_type",
        LIST,
        &[list_head(I32, VOCAB), types.collect()].concat(),
    );
    gguf.text("tokenizer.chat_template", TEMPLATE);
}

/// The bytes of a model; the seed decides its weights.
pub fn toy_gguf(seed: u64) -> Vec<u8> {
    let mut gguf = GgufWriter::default();
    add_metadata(&mut gguf);
    add_tensors(&mut gguf, &mut ChaCha8Rng::seed_from_u64(seed));
    gguf.finish()
}

/// Writes a model to a folder.
pub fn write_toy(folder: &Path, seed: u64) -> PathBuf {
    let path = folder.join(format!("toy-{seed}.gguf"));
    std::fs::write(&path, toy_gguf(seed)).unwrap();
    path
}

/// A recipe for a toy model: neurons and routers by chance.
pub fn toy_recipe(file: &SourceFile) -> Recipe {
    let mut random = ChaCha8Rng::seed_from_u64(9);
    let layers = (0..LAYERS).map(|_| {
        let mut neurons: Vec<u16> = (0..FFN as u16).collect();
        neurons.shuffle(&mut random);
        let router = (0..usize::from(EXPERTS.routed()) * (HIDDEN + 1))
            .map(|_| random.random_range(-1.0f32..1.0));
        LayerSplit {
            router: RouterWeights(router.collect()),
            experts: neurons
                .chunks(EXPERTS.neurons as usize)
                .map(<[u16]>::to_vec)
                .collect(),
        }
    });
    Recipe {
        format: RecipeFormat::V1,
        model: ModelRecord {
            name: "toy".into(),
            license: "CC0-1.0".into(),
        },
        source: file.record(),
        timestamp_ms: 1_700_000_000_000,
        experts: EXPERTS,
        fit: FitRecord {
            grouping: Grouping::Random,
            seed: 9,
            tokens: 0,
            ridge_penalty: "0".parse().unwrap(),
            texts: Vec::new(),
        },
        layers: layers.collect(),
    }
}

pub fn key() -> NodeKey {
    NodeKey::from_secret_bytes([7; 32]).unwrap()
}

pub fn open(data: &Path) -> ChainWriter<RocksStore> {
    let store = Arc::new(RocksStore::open(DataDir::new(data)).unwrap());
    open_or_create(store, &ChainConfig::default(), &key(), 1_700_000_000_000, 1).unwrap()
}

pub fn run_import(
    data: &Path,
    file: &SourceFile,
    recipe: &Recipe,
    threads: usize,
    probe: &dyn Probe,
) -> Result<Imported, ModelError> {
    let options = ImportOptions {
        threads,
        accepted_ms: 1,
        probe,
        progress: &|_| {},
    };
    import(&mut open(data), file, recipe, &key(), &options)
}

/// Every block of a data directory by chain, sorted.
pub fn hashes(data: &Path) -> Vec<BlockHash> {
    let reader = ChainReader::open_read_only(DataDir::new(data)).unwrap();
    let model = reader.model(None).unwrap();
    let mut hashes: Vec<BlockHash> = model.entries.values().map(|entry| entry.block).collect();
    hashes.extend(reader.index().chain_a());
    hashes.sort_unstable();
    hashes
}
