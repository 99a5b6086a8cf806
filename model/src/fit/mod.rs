//! From a model file and text to a recipe.
//!
//! The dense model reads the text twice. The first time shows which neurons act together, which gives the experts; the
//! second time shows how the experts' outputs depend on the layer's input, which gives the routers. Floating point
//! throughout: another machine may make a slightly different recipe. The recipe is what is committed, and an import of
//! it is exact.

mod cluster;
mod observe;
mod ridge;
mod text;

use std::sync::Arc;

use blyan_formats::bodies::{Decimal, ExpertShape};
use blyan_inference::engine::Engine;
use blyan_inference::step::{Logits, StepEngine as _, StepRow, Terminate};
use ndarray::Array2;
use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;

use crate::ModelError;
use crate::dense::{DenseWeights, Runtime, Tap};
use crate::file::SourceFile;
use crate::import::describe;
use crate::recipe::{FitRecord, Grouping, LayerSplit, ModelRecord, Recipe, RecipeFormat};
use crate::source::SourceModel;
use observe::{CoActivation, ExpertLengths};

pub use text::{Text, tokenise};

/// Tokens of one stretch of text that the model reads without a break.
const WINDOW: usize = 256;

/// Random starts of the grouping; the best is taken.
const RESTARTS: usize = 2;

/// How a recipe is made.
#[derive(Clone, Debug)]
pub struct FitOptions {
    /// What the architecture block will say.
    pub model: ModelRecord,
    /// Experts of a layer.
    pub experts: ExpertShape,
    /// Which neurons go together.
    pub grouping: Grouping,
    /// Seed of everything random.
    pub seed: u64,
    /// Tokens to read, shared equally among the texts.
    pub tokens: usize,
    /// Penalty of the ridge regression, in mean variances of an input.
    pub ridge_penalty: Decimal,
    /// Timestamp of every block that an import will make, in ms since 1970-01-01 UTC.
    pub timestamp_ms: u64,
    /// ONNX Runtime.
    pub runtime: Runtime,
}

/// What a fit is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FitPhase {
    /// The model reads, and activations are collected.
    Activations,
    /// Neurons are grouped; counted in layers.
    Groups,
    /// The model reads again, for the routers.
    Routers,
}

/// Called with the phase, what is done and how much there is to do.
pub type FitProgress<'a> = &'a dyn Fn(FitPhase, usize, usize);

/// Makes a recipe.
///
/// # Errors
/// [`ModelError::TooFewTokens`], [`ModelError::Router`]; what the model file lacks; [`ModelError::Engine`].
pub fn fit(
    file: &SourceFile,
    texts: &[Text],
    options: &FitOptions,
    progress: FitProgress<'_>,
) -> Result<Recipe, ModelError> {
    let source = SourceModel::parse(file.bytes())?;
    let architecture = describe(&source, &options.model, options.experts)?;
    let windows = text::windows(&architecture, texts, options.tokens, WINDOW)?;
    let weights = Arc::new(DenseWeights::load(&source, &architecture)?);
    let reading = Reading {
        weights: &weights,
        windows: &windows,
        options,
        progress,
    };
    let groups = reading.groups()?;
    let layers = reading.routers(groups)?;
    Ok(Recipe {
        format: RecipeFormat::V1,
        model: options.model.clone(),
        source: file.record(),
        timestamp_ms: options.timestamp_ms,
        experts: options.experts,
        fit: FitRecord {
            grouping: options.grouping,
            seed: options.seed,
            tokens: windows.iter().map(Vec::len).sum(),
            ridge_penalty: options.ridge_penalty.clone(),
            texts: texts.iter().map(Text::record).collect(),
        },
        layers,
    })
}

/// Per expert its neurons.
type Groups = Vec<Vec<u16>>;

struct Reading<'a> {
    weights: &'a Arc<DenseWeights>,
    windows: &'a [Vec<u32>],
    options: &'a FitOptions,
    progress: FitProgress<'a>,
}

impl Reading<'_> {
    /// Every layer's experts.
    fn groups(&self) -> Result<Vec<Groups>, ModelError> {
        let shape = self.weights.shape();
        let ffn = shape.experts * shape.neurons;
        match self.options.grouping {
            Grouping::CoActivation => self.co_activation(shape.layers, ffn),
            Grouping::Contiguous => Ok((0..shape.layers)
                .map(|_| cut((0..ffn as u16).collect(), shape.neurons))
                .collect()),
            Grouping::Random => Ok((0..shape.layers)
                .map(|layer| self.shuffled(layer, ffn))
                .collect()),
        }
    }

    fn random(&self, layer: usize) -> ChaCha8Rng {
        let mut random = ChaCha8Rng::seed_from_u64(self.options.seed);
        random.set_stream(layer as u64);
        random
    }

    fn shuffled(&self, layer: usize, ffn: usize) -> Groups {
        let mut neurons: Vec<u16> = (0..ffn as u16).collect();
        neurons.shuffle(&mut self.random(layer));
        cut(neurons, self.weights.shape().neurons)
    }

    fn co_activation(&self, layers: usize, ffn: usize) -> Result<Vec<Groups>, ModelError> {
        let tap = Arc::new(CoActivation::new(layers, ffn));
        self.read(Arc::clone(&tap) as Arc<dyn Tap>, FitPhase::Activations)?;
        let group = |layer| {
            (self.progress)(FitPhase::Groups, layer, layers);
            group_neurons(
                &tap.products(layer),
                self.options.experts,
                &mut self.random(layer),
            )
        };
        Ok((0..layers).map(group).collect())
    }

    /// Fits a router to every layer's experts.
    fn routers(&self, groups: Vec<Groups>) -> Result<Vec<LayerSplit>, ModelError> {
        let shape = self.weights.shape();
        let routed = groups
            .iter()
            .map(|experts| experts[shape.always_on..].to_vec())
            .collect();
        let tap = Arc::new(ExpertLengths::new(shape.hidden, routed));
        self.read(Arc::clone(&tap) as Arc<dyn Tap>, FitPhase::Routers)?;
        let penalty = self.options.ridge_penalty.to_f64();
        let split = |(layer, experts)| {
            let router = tap
                .router(layer, penalty)
                .map_err(|why| ModelError::Router { layer, why })?;
            Ok(LayerSplit {
                experts,
                router: router.into(),
            })
        };
        groups.into_iter().enumerate().map(split).collect()
    }

    /// Lets the dense model read all windows.
    fn read(&self, tap: Arc<dyn Tap>, phase: FitPhase) -> Result<(), ModelError> {
        let engine = self
            .weights
            .engine(&self.options.runtime, tap, Vec::new())?;
        for (number, together) in self.windows.chunks(engine.rows_max()).enumerate() {
            (self.progress)(phase, number * engine.rows_max(), self.windows.len());
            read_together(&engine, together)?;
        }
        Ok(())
    }
}

/// Windows of one length, read side by side.
fn read_together(engine: &Engine, windows: &[Vec<u32>]) -> Result<(), ModelError> {
    let mut memories = windows
        .iter()
        .map(|window| engine.new_slot(window.len()))
        .collect::<Result<Vec<_>, _>>()?;
    let top_k = engine.shape().experts as u32;
    for start in (0..WINDOW).step_by(engine.chunk_max()) {
        let rows = windows.iter().zip(&mut memories).map(|(window, kv)| {
            let tokens = &window[start..WINDOW.min(start + engine.chunk_max())];
            StepRow {
                tokens,
                kv,
                top_k,
                logits: Logits::None,
            }
        });
        engine.step(&mut rows.collect::<Vec<_>>(), &Terminate::default())?;
    }
    Ok(())
}

/// The always-on experts get the neurons with most energy. The others are grouped with those that act at the same time:
/// by the cosine of two neurons' contributions over all tokens, `products[a, b]` over the root of both energies.
fn group_neurons(products: &Array2<f32>, shape: ExpertShape, random: &mut ChaCha8Rng) -> Groups {
    let neurons = shape.neurons as usize;
    let energies = products.diag();
    let mut always_on: Vec<usize> = (0..energies.len()).collect();
    always_on.sort_by(|a, b| energies[*b].total_cmp(&energies[*a]).then(a.cmp(b)));
    let mut routed = always_on.split_off(usize::from(shape.always_on) * neurons);
    routed.sort_unstable();

    let cosine = |(a, b)| {
        let (a, b): (usize, usize) = (routed[a], routed[b]);
        products[[a, b]] / (energies[a] * energies[b]).sqrt().max(f32::MIN_POSITIVE)
    };
    let similarity = Array2::from_shape_fn((routed.len(), routed.len()), cosine);
    let groups = cluster::balanced_groups(similarity.view(), neurons, RESTARTS, random);
    let mut experts = cut(
        always_on.into_iter().map(|neuron| neuron as u16).collect(),
        neurons,
    );
    experts.extend(
        groups
            .iter()
            .map(|group| group.iter().map(|item| routed[*item] as u16).collect()),
    );
    experts
}

/// Cuts a list into experts, each ascending.
fn cut(neurons: Vec<u16>, size: usize) -> Groups {
    let expert = |chunk: &[u16]| {
        let mut expert = chunk.to_vec();
        expert.sort_unstable();
        expert
    };
    neurons.chunks(size).map(expert).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use blyan_formats::bodies::Routing;

    /// Neurons 0 and 1 have most energy; of the others, those with the same remainder act on the same tokens.
    #[test]
    fn loud_neurons_are_always_on_and_the_others_stand_with_their_like() {
        let contribution = |token: usize, neuron: usize| match neuron {
            0 | 1 => 9.0,
            _ if token % 3 == neuron % 3 => 0.1 + neuron as f32,
            _ => 0.0,
        };
        let contributions =
            Array2::from_shape_fn((30, 8), |(token, neuron)| contribution(token, neuron));
        let shape = ExpertShape {
            per_layer: 4,
            always_on: 1,
            neurons: 2,
            routing: Routing::TopScoresUnitWeight,
        };
        let products = contributions.t().dot(&contributions);
        let groups = group_neurons(&products, shape, &mut ChaCha8Rng::seed_from_u64(1));
        assert_eq!(groups, [[0, 1], [2, 5], [3, 6], [4, 7]]);
    }
}
