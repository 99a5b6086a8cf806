//! An import gives the same blocks wherever and however often it is run.

use std::path::Path;

use blyan_chain::{ChainError, ChainReader, DataDir};
use blyan_formats::{ChainId, LayerPart, TensorName, TensorView};
use blyan_model::{ImportOptions, ImportProgress, Imported, ModelError, Phase, SourceFile, import};
use blyan_supervisors::{NoProbe, Probe};
use ndarray::{Array1, Array2, ArrayView1, Axis};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::support::{
    EXPERTS, FFN, HIDDEN, LAYERS, hashes, key, open, run_import, toy_recipe, write_toy,
};

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
