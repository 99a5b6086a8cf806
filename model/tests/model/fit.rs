//! From text to a recipe on the toy model, and what a split of it computes. Needs ONNX Runtime, as `make` sets it up.

use std::path::PathBuf;
use std::sync::Arc;

use crate::support::{EXPERTS, FFN, HIDDEN, LAYERS, write_toy};
use blyan_model::dense::{DenseWeights, Runtime};
use blyan_model::eval::token_losses;
use blyan_model::fit::tokenise;
use blyan_model::import::describe;
use blyan_model::recipe::{Grouping, ModelRecord};
use blyan_model::{
    FitOptions, ModelError, Recipe, SourceFile, SourceModel, Text, dense_engine, fit, split_engine,
};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

fn runtime() -> Runtime {
    let library = std::env::var_os("ORT_DYLIB_PATH")
        .map(PathBuf::from)
        .unwrap_or_else(|| {
            let cache = std::env::var_os("BLYAN_CACHE_DIR").map(PathBuf::from);
            let cache = cache.unwrap_or_else(|| {
                PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/blyan")
            });
            cache.join("onnxruntime/libonnxruntime.so.1.32.0")
        });
    Runtime {
        ort_library: library,
        threads: 2,
    }
}

struct Toy {
    _folder: tempfile::TempDir,
    file: SourceFile,
    text: Text,
}

fn toy() -> Toy {
    let folder = tempfile::tempdir().unwrap();
    let file = SourceFile::read(&write_toy(folder.path(), 1)).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(11);
    let letters: String = (0..4000)
        .map(|_| char::from(random.random_range(b' '..=b'~')))
        .collect();
    let path = folder.path().join("text.txt");
    std::fs::write(&path, letters).unwrap();
    Toy {
        text: Text::read(&path).unwrap(),
        file,
        _folder: folder,
    }
}

fn options(grouping: Grouping, tokens: usize) -> FitOptions {
    FitOptions {
        model: ModelRecord {
            name: "toy".into(),
            license: "CC0-1.0".into(),
        },
        experts: EXPERTS,
        grouping,
        seed: 5,
        tokens,
        ridge_penalty: "0.01".parse().unwrap(),
        timestamp_ms: 1,
        runtime: runtime(),
    }
}

fn run_fit(toy: &Toy, grouping: Grouping) -> Recipe {
    fit(
        &toy.file,
        std::slice::from_ref(&toy.text),
        &options(grouping, 1024),
        &|_, _, _| {},
    )
    .unwrap()
}

#[test]
fn every_grouping_gives_a_valid_recipe_of_what_was_read() {
    let toy = toy();
    for grouping in [
        Grouping::CoActivation,
        Grouping::Random,
        Grouping::Contiguous,
    ] {
        let recipe = run_fit(&toy, grouping);
        assert_eq!(
            Recipe::parse(recipe.to_json().unwrap().as_bytes()).unwrap(),
            recipe
        );
        assert_eq!(recipe.source, toy.file.record());
        assert_eq!(
            (recipe.fit.tokens, &recipe.fit.texts[..]),
            (1024, &[toy.text.record()][..])
        );
        assert_eq!(recipe.layers.len(), LAYERS);
        let weights = usize::from(EXPERTS.routed()) * (HIDDEN + 1);
        assert!(
            recipe
                .layers
                .iter()
                .all(|layer| layer.router.0.len() == weights)
        );
        assert!(
            recipe
                .layers
                .iter()
                .all(|layer| layer.router.0.iter().any(|weight| *weight != 0.0))
        );
    }
}

#[test]
fn contiguous_experts_are_in_file_order_and_random_ones_are_not() {
    let toy = toy();
    let in_order: Vec<u16> = (0..FFN as u16).collect();
    let order = |recipe: Recipe| recipe.layers[1].experts.concat();
    assert_eq!(order(run_fit(&toy, Grouping::Contiguous)), in_order);
    assert_ne!(order(run_fit(&toy, Grouping::Random)), in_order);
}

#[test]
fn all_experts_of_a_split_are_the_dense_model_and_fewer_are_not() {
    let toy = toy();
    let recipe = run_fit(&toy, Grouping::CoActivation);
    let source = SourceModel::parse(toy.file.bytes()).unwrap();
    let architecture = describe(&source, &recipe.model, recipe.experts).unwrap();
    let tokens = tokenise(&architecture, &toy.text).unwrap();
    let tokens = &tokens[..600];
    let weights = Arc::new(DenseWeights::load(&source, &architecture).unwrap());
    let dense = dense_engine(&weights, &runtime()).unwrap();
    let split = split_engine(&weights, &runtime(), &recipe.layers).unwrap();

    let losses = |engine, top_k| token_losses(engine, tokens, 100, top_k, &|_, _| {}).unwrap();
    let expected = losses(&dense, 6);
    assert_eq!((expected.windows(), expected.tokens()), (6, 594));
    let all = losses(&split, 6).ratio_to(&expected, 1);
    assert!((all.value - 1.0).abs() < 1e-5, "{all:?}");
    let four = losses(&split, 4);
    assert_ne!(four, expected);
}

#[test]
fn too_little_text_is_refused() {
    let toy = toy();
    let refused = fit(
        &toy.file,
        std::slice::from_ref(&toy.text),
        &options(Grouping::Random, 1 << 20),
        &|_, _, _| {},
    );
    assert!(
        matches!(refused, Err(ModelError::TooFewTokens { found, needed: 1_048_576 }) if found > 1000),
        "{refused:?}"
    );
}
