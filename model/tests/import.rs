//! An import gives the same blocks wherever and however often it is run, and survives a kill at every point.

mod support;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use blyan_chain::{
    ChainConfig, ChainError, ChainReader, ChainWriter, DataDir, Disk, RealDisk, RocksStore,
    open_or_create,
};
use blyan_formats::{BlockHash, ChainId, LayerPart, NodeKey, TensorName, TensorView};
use blyan_model::{
    ImportOptions, ImportProgress, Imported, ModelError, Phase, Recipe, SourceFile, import,
};
use blyan_supervisors::{NoProbe, Probe};
use ndarray::{Array1, Array2, ArrayView1, Axis};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use support::{EXPERTS, FFN, HIDDEN, LAYERS, toy_recipe, write_toy};

fn key() -> NodeKey {
    NodeKey::from_secret_bytes([7; 32]).unwrap()
}

fn open(data: &Path) -> ChainWriter<RocksStore> {
    let store = Arc::new(RocksStore::open(DataDir::new(data)).unwrap());
    open_or_create(store, &ChainConfig::default(), &key(), 1_700_000_000_000, 1).unwrap()
}

fn run_import(
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
fn hashes(data: &Path) -> Vec<BlockHash> {
    let reader = ChainReader::open_read_only(DataDir::new(data)).unwrap();
    let model = reader.model(None).unwrap();
    let mut hashes: Vec<BlockHash> = model.entries.values().map(|entry| entry.block).collect();
    hashes.extend(reader.index().chain_a());
    hashes.sort_unstable();
    hashes
}

#[test]
fn threads_and_directories_make_no_difference() {
    let folder = tempfile::tempdir().unwrap();
    let file = SourceFile::read(&write_toy(folder.path(), 1)).unwrap();
    let recipe = toy_recipe(&file);
    let imported: Vec<_> = [("one", 1), ("two", 2)]
        .map(|(name, threads)| {
            run_import(&folder.path().join(name), &file, &recipe, threads, &NoProbe).unwrap()
        })
        .into();
    assert_eq!(imported[0], imported[1]);
    let blocks = hashes(&folder.path().join("one"));
    assert_eq!(blocks, hashes(&folder.path().join("two")));
    let weights = LAYERS * (5 + usize::from(EXPERTS.per_layer)) + 2;
    assert_eq!(
        (imported[0].blocks, imported[0].new_blocks, blocks.len()),
        (weights, weights, weights + 3)
    );
}

#[test]
fn a_second_import_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = SourceFile::read(&write_toy(folder.path(), 1)).unwrap();
    let recipe = toy_recipe(&file);
    let data = folder.path().join("data");
    let first = run_import(&data, &file, &recipe, 2, &NoProbe).unwrap();
    let blocks = hashes(&data);
    let second = run_import(&data, &file, &recipe, 2, &NoProbe).unwrap();
    assert_eq!(
        second,
        Imported {
            new_blocks: 0,
            ..first
        }
    );
    assert_eq!(hashes(&data), blocks);
}

#[test]
fn a_damaged_payload_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = SourceFile::read(&write_toy(folder.path(), 1)).unwrap();
    let recipe = toy_recipe(&file);
    let data = folder.path().join("data");
    run_import(&data, &file, &recipe, 1, &NoProbe).unwrap();
    let payload = ChainReader::open_read_only(DataDir::new(&data))
        .unwrap()
        .model(None)
        .unwrap()
        .entries[&TensorName::expert_of(1, 3)]
        .payload;
    let path = DataDir::new(&data).payload(payload);
    let sound = std::fs::read(&path).unwrap();
    let mut damaged = sound.clone();
    damaged[5000] ^= 1;
    std::fs::write(&path, damaged).unwrap();
    run_import(&data, &file, &recipe, 1, &NoProbe).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), sound);
}

#[test]
fn another_model_file_is_refused_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = toy_recipe(&SourceFile::read(&write_toy(folder.path(), 1)).unwrap());
    let other = SourceFile::read(&write_toy(folder.path(), 2)).unwrap();
    let data = folder.path().join("data");
    let error = run_import(&data, &other, &recipe, 1, &NoProbe).unwrap_err();
    assert!(matches!(error, ModelError::OtherSource { .. }), "{error}");
    assert!(error.to_string().contains("toy-1.gguf"), "{error}");
    let reader = ChainReader::open_read_only(DataDir::new(&data)).unwrap();
    assert!(matches!(reader.model(None), Err(ChainError::NoModel(None))));
    assert_eq!(
        std::fs::read_dir(DataDir::new(&data).payloads())
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn a_recipe_of_other_shapes_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = SourceFile::read(&write_toy(folder.path(), 1)).unwrap();
    let mut recipe = toy_recipe(&file);
    recipe.layers.pop();
    let error = run_import(&folder.path().join("data"), &file, &recipe, 1, &NoProbe).unwrap_err();
    assert!(matches!(error, ModelError::Recipe(_)), "{error}");
}

#[test]
fn a_truncated_model_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = write_toy(folder.path(), 1);
    let bytes = std::fs::read(&path).unwrap();
    for len in [0, 3, 24, 500, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..len]).unwrap();
        let file = SourceFile::read(&path).unwrap();
        let error = run_import(
            &folder.path().join(format!("data-{len}")),
            &file,
            &toy_recipe(&file),
            1,
            &NoProbe,
        );
        assert!(
            matches!(error, Err(ModelError::Gguf(_))),
            "{len}: {error:?}"
        );
    }
}

/// The real disk, but one call on which durability stands fails, after it was made.
struct FailingDisk {
    calls: AtomicU64,
    fails_at: u64,
}

impl FailingDisk {
    fn then_fail(&self, done: io::Result<()>) -> io::Result<()> {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        if self.calls.fetch_add(1, Ordering::SeqCst) == self.fails_at {
            Err(full)
        } else {
            done
        }
    }
}

impl Disk for FailingDisk {
    fn sync_file(&self, file: &File) -> io::Result<()> {
        self.then_fail(RealDisk.sync_file(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.then_fail(RealDisk.rename(from, to))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.then_fail(RealDisk.sync_dir(dir))
    }

    fn write_batch(&self, write: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        self.then_fail(RealDisk.write_batch(write))
    }
}

/// Opens a directory and imports; how often the disk was called is returned too.
fn import_on(
    data: &Path,
    file: &SourceFile,
    recipe: &Recipe,
    fails_at: u64,
) -> (Result<Imported, ModelError>, u64) {
    let disk = Arc::new(FailingDisk {
        calls: AtomicU64::new(0),
        fails_at,
    });
    let mut run = || {
        let store = Arc::new(RocksStore::open_with(DataDir::new(data), disk.clone())?);
        let mut chain =
            open_or_create(store, &ChainConfig::default(), &key(), 1_700_000_000_000, 1)?;
        let options = ImportOptions {
            threads: 1,
            accepted_ms: 1,
            probe: &NoProbe,
            progress: &|_| {},
        };
        import(&mut chain, file, recipe, &key(), &options)
    };
    (run(), disk.calls.load(Ordering::SeqCst))
}

#[test]
fn after_a_failed_sync_nothing_is_published_and_the_next_import_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = SourceFile::read(&write_toy(folder.path(), 1)).unwrap();
    let recipe = toy_recipe(&file);
    let (undisturbed, calls) =
        import_on(&folder.path().join("undisturbed"), &file, &recipe, u64::MAX);
    let undisturbed = undisturbed.unwrap();
    let tried: BTreeSet<u64> = (0..calls).step_by(5).chain(calls - 5..calls).collect();
    for fails_at in tried {
        let data = folder.path().join(format!("data-{fails_at}"));
        let (failed, _) = import_on(&data, &file, &recipe, fails_at);
        let error = failed.unwrap_err();
        assert!(
            error.to_string().contains("free some space"),
            "call {fails_at}: {error}"
        );
        let reader = ChainReader::open_read_only(DataDir::new(&data));
        assert!(
            reader.is_err() || reader.unwrap().model(None).is_err(),
            "published though call {fails_at} failed"
        );
        let resumed = import_on(&data, &file, &recipe, u64::MAX).0.unwrap();
        assert_eq!(resumed.model, undisturbed.model, "call {fails_at}");
    }
}

/// Counts hits; on the given one the process ends as a kill would end it.
struct AbortAt {
    hits: AtomicU64,
    at: u64,
}

impl Probe for AbortAt {
    fn hit(&self, _point: &str) {
        if self.hits.fetch_add(1, Ordering::SeqCst) == self.at {
            std::process::abort();
        }
    }
}

const CHILD: &str = "BLYAN_TEST_IMPORT_CHILD";

/// The child of the test below: imports, and aborts on the way.
#[test]
fn child_that_is_killed() {
    let Ok(order) = std::env::var(CHILD) else {
        return;
    };
    let (at, folder) = order.split_once(' ').unwrap();
    let folder = Path::new(folder);
    let file = SourceFile::read(&folder.join("toy-1.gguf")).unwrap();
    let probe = AbortAt {
        hits: AtomicU64::new(0),
        at: at.parse().unwrap(),
    };
    run_import(&folder.join("data"), &file, &toy_recipe(&file), 2, &probe).unwrap();
}

#[test]
fn an_import_goes_on_after_a_kill_at_any_point() {
    let folder = tempfile::tempdir().unwrap();
    let file = SourceFile::read(&write_toy(folder.path(), 1)).unwrap();
    let recipe = toy_recipe(&file);
    let undisturbed = run_import(
        &folder.path().join("undisturbed"),
        &file,
        &recipe,
        2,
        &NoProbe,
    )
    .unwrap();

    let payloads = undisturbed.blocks as u64;
    for at in [
        0,
        1,
        payloads / 2,
        payloads,
        payloads + 1,
        payloads + 2,
        payloads + 3,
    ] {
        let order = format!("{at} {}", folder.path().display());
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_is_killed", "--nocapture"])
            .env(CHILD, order)
            .output()
            .unwrap();
        assert!(
            !child.status.success(),
            "the child was to be killed at {at}"
        );
        let data = folder.path().join("data");
        let published = ChainReader::open_read_only(DataDir::new(&data))
            .unwrap()
            .model(None)
            .is_ok();
        assert!(!published, "killed at {at}, before the manifest");

        let resumed = run_import(&data, &file, &recipe, 2, &NoProbe).unwrap();
        assert_eq!(resumed.model, undisturbed.model, "killed at {at}");
        assert_eq!(hashes(&data), hashes(&folder.path().join("undisturbed")));
        let leftover = std::fs::read_dir(DataDir::new(&data).payloads()).unwrap();
        assert_eq!(
            leftover.count(),
            undisturbed.blocks,
            "killed at {at}: no temporary file is left"
        );
        std::fs::remove_dir_all(&data).unwrap();
    }
}

/// Panics on the first hit of a point.
struct PanicAt(&'static str);

impl Probe for PanicAt {
    fn hit(&self, point: &str) {
        assert_ne!(point, self.0, "as the test asked");
    }
}

#[test]
fn every_phase_can_be_aimed_at() {
    for phase in [
        Phase::Payloads,
        Phase::Architecture,
        Phase::Blocks,
        Phase::Manifest,
    ] {
        let folder = tempfile::tempdir().unwrap();
        let file = SourceFile::read(&write_toy(folder.path(), 1)).unwrap();
        let recipe = toy_recipe(&file);
        let data = folder.path().join("data");
        let probe = PanicAt(phase.point());
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            run_import(&data, &file, &recipe, 2, &probe)
        }));
        assert!(ended.is_err(), "{phase:?} has no point");
    }
}

#[test]
fn progress_ends_complete() {
    let folder = tempfile::tempdir().unwrap();
    let file = SourceFile::read(&write_toy(folder.path(), 1)).unwrap();
    let seen = std::sync::Mutex::new(Vec::<ImportProgress>::new());
    let progress = |progress| seen.lock().unwrap().push(progress);
    let options = ImportOptions {
        threads: 1,
        accepted_ms: 1,
        probe: &NoProbe,
        progress: &progress,
    };
    let done = import(
        &mut open(&folder.path().join("data")),
        &file,
        &toy_recipe(&file),
        &key(),
        &options,
    )
    .unwrap();
    let seen = seen.into_inner().unwrap();
    let last = seen.last().unwrap();
    assert_eq!(
        (last.phase, last.payloads, last.bytes),
        (Phase::Manifest, last.payloads_total, done.payload_bytes)
    );
    assert!(seen.is_sorted_by_key(|progress| progress.payloads));
    assert_eq!(seen.len() as u64, last.payloads_total + 4);
}

/// A tensor of the imported model in fp32.
fn load(data: &Path, name: TensorName) -> Array2<f32> {
    let reader = ChainReader::open_read_only(DataDir::new(data)).unwrap();
    let payload = reader.model(None).unwrap().entries[&name].payload;
    let bytes = std::fs::read(DataDir::new(data).payload(payload)).unwrap();
    let view = TensorView::parse(&bytes).unwrap();
    view.verify_full(payload).unwrap();
    let tensor = view.tensor();
    let mut values = Array2::zeros((tensor.rows(), tensor.cols()));
    tensor
        .dequantise_into(values.as_slice_mut().unwrap())
        .unwrap();
    values
}

fn swiglu(gate: ArrayView1<'_, f32>, up: ArrayView1<'_, f32>, x: &Array1<f32>) -> f32 {
    let gate = gate.dot(x);
    gate / (1.0 + (-gate).exp()) * up.dot(x)
}

#[test]
fn all_experts_together_are_the_dense_layer() {
    let folder = tempfile::tempdir().unwrap();
    let file = SourceFile::read(&write_toy(folder.path(), 1)).unwrap();
    let data = folder.path().join("data");
    run_import(&data, &file, &toy_recipe(&file), 2, &NoProbe).unwrap();
    let source = blyan_model::SourceModel::parse(file.bytes()).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let neurons = EXPERTS.neurons as usize;
    for layer in 0..LAYERS {
        let dense = source.ffn(layer).unwrap();
        let x = Array1::from_shape_simple_fn(HIDDEN, || random.random_range(-1.0f32..1.0));
        let mut expected = Array1::<f32>::zeros(HIDDEN);
        for neuron in 0..FFN {
            expected.scaled_add(
                swiglu(dense.gate.row(neuron), dense.up.row(neuron), &x),
                &dense.down.row(neuron),
            );
        }
        let mut found = Array1::<f32>::zeros(HIDDEN);
        for expert in 0..EXPERTS.per_layer {
            let rows = load(&data, TensorName::expert_of(layer as u16, expert));
            for neuron in 0..neurons {
                let (gate, up, down) = (
                    rows.row(neuron),
                    rows.row(neurons + neuron),
                    rows.row(2 * neurons + neuron),
                );
                found.scaled_add(swiglu(gate, up, &x), &down);
            }
        }
        let scale = expected.dot(&expected).sqrt();
        let error = &found - &expected;
        let relative = error.dot(&error).sqrt() / scale;
        assert!(relative < 0.02, "layer {layer}: {relative}");
    }
}

#[test]
fn other_weights_are_carried_over_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let file = SourceFile::read(&write_toy(folder.path(), 1)).unwrap();
    let data = folder.path().join("data");
    run_import(&data, &file, &toy_recipe(&file), 2, &NoProbe).unwrap();
    let source = blyan_model::SourceModel::parse(file.bytes()).unwrap();
    let embedding = source
        .dequantise("token_embd.weight", source.shape().vocab, HIDDEN)
        .unwrap();
    assert_eq!(load(&data, TensorName::Embedding), embedding);
    let parts = [("q", HIDDEN), ("k", 32), ("v", 32)].map(|(part, rows)| {
        source
            .dequantise(&format!("blk.1.attn_{part}.weight"), rows, HIDDEN)
            .unwrap()
    });
    let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
    let qkv = ndarray::concatenate(Axis(0), &views).unwrap();
    assert_eq!(
        load(&data, TensorName::layer_part(1, LayerPart::AttnQkv)),
        qkv
    );
}

#[test]
fn the_architecture_tells_what_the_file_says() {
    let folder = tempfile::tempdir().unwrap();
    let file = SourceFile::read(&write_toy(folder.path(), 1)).unwrap();
    let data = folder.path().join("data");
    run_import(&data, &file, &toy_recipe(&file), 1, &NoProbe).unwrap();
    let reader = ChainReader::open_read_only(DataDir::new(&data)).unwrap();
    let architecture = reader.model(None).unwrap().architecture;
    assert_eq!(
        (
            architecture.hidden,
            architecture.head_dim,
            architecture.kv_heads
        ),
        (HIDDEN as u32, 32, 1)
    );
    assert_eq!(architecture.experts, EXPERTS);
    assert_eq!(architecture.rms_epsilon.as_str(), "0.00001");
    assert_eq!(architecture.rope.base.as_str(), "100000");
    assert_eq!(architecture.system_prompt.as_deref(), Some("Be brief"));
    assert_eq!(architecture.tokenizer.vocab.get(258), Some("<|im_end|>"));
    assert_eq!(reader.head(ChainId::A).unwrap().index, 2);
}
