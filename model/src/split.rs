//! A split that is run without being imported: the dense model with the neurons of left-out experts silenced.

use std::sync::Arc;

use blyan_inference::engine::{Engine, EngineError, FfnCall};
use ndarray::{Array2, ArrayViewMut2};

use crate::dense::{DenseWeights, Runtime, Tap, Untouched};
use crate::recipe::LayerSplit;
use crate::source::FfnWeights;

/// Silences, token by token, the neurons of all experts that the router leaves out.
struct Silence {
    always_on: usize,
    /// Per layer, per routed expert its neurons.
    routed: Vec<Vec<Vec<u16>>>,
}

impl Tap for Silence {
    fn tap(&self, call: &FfnCall<'_>, _: &FfnWeights, mut activations: ArrayViewMut2<'_, f32>) {
        let routed = &self.routed[call.layer];
        for row in &call.run.rows {
            let silent = routed.len() - (row.top_k - self.always_on);
            for token in row.tokens.clone() {
                let scores = &call.scores[token * routed.len()..][..routed.len()];
                let mut order: Vec<usize> = (0..routed.len()).collect();
                order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
                for expert in &order[..silent] {
                    for neuron in &routed[*expert] {
                        activations[[token, usize::from(*neuron)]] = 0.0;
                    }
                }
            }
        }
    }
}

/// An engine that runs the model of the file in fp32, as it was before any split.
///
/// # Errors
/// As [`Engine::with_ffn`].
pub fn dense_engine(weights: &Arc<DenseWeights>, runtime: &Runtime) -> Result<Engine, EngineError> {
    weights.engine(runtime, Arc::new(Untouched), Vec::new())
}

/// An engine that runs a split in fp32.
///
/// # Errors
/// As [`Engine::with_ffn`].
pub fn split_engine(
    weights: &Arc<DenseWeights>,
    runtime: &Runtime,
    layers: &[LayerSplit],
) -> Result<Engine, EngineError> {
    let shape = *weights.shape();
    let routed = layers
        .iter()
        .map(|layer| layer.experts[shape.always_on..].to_vec())
        .collect();
    let router = |layer: &LayerSplit| {
        Array2::from_shape_vec((shape.routed(), shape.hidden + 1), layer.router.0.clone())
    };
    let routers = layers.iter().map(router).collect::<Result<_, _>>();
    let routers = routers.map_err(|why| EngineError::Options(why.to_string()))?;
    weights.engine(
        runtime,
        Arc::new(Silence {
            always_on: shape.always_on,
            routed,
        }),
        routers,
    )
}
