//! The whole model in fp32, straight from its file: what a fit looks at and what a split is compared with.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use blyan_formats::bodies::ArchitectureBody;
use blyan_formats::{LayerPart, Tensor, TensorData, TensorName};
use blyan_inference::engine::{
    Engine, EngineError, EngineOptions, FfnCall, FfnCompute, WeightSource, Workers,
};
use blyan_inference::graph::ModelShape;
use blyan_inference::step::StepError;
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, Zip};

use crate::ModelError;
use crate::source::{FfnWeights, SourceModel};

/// ONNX Runtime and how much of the machine it may use.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// `libonnxruntime`.
    pub ort_library: PathBuf,
    /// Threads.
    pub threads: usize,
}

/// A model's weights in fp32.
pub struct DenseWeights {
    shape: ModelShape,
    shared: BTreeMap<TensorName, Array2<f32>>,
    layers: Vec<FfnWeights>,
}

/// What happens to the activations of a layer before they are projected down.
pub(crate) trait Tap: Send + Sync {
    /// `activations` `[T, ffn]` are silu(gate) x up of the call's tokens.
    fn tap(&self, call: &FfnCall<'_>, weights: &FfnWeights, activations: ArrayViewMut2<'_, f32>);
}

/// The dense layer: nothing is changed.
pub(crate) struct Untouched;

impl Tap for Untouched {
    fn tap(&self, _: &FfnCall<'_>, _: &FfnWeights, _: ArrayViewMut2<'_, f32>) {}
}

impl DenseWeights {
    /// De-quantises everything; routers are zero.
    ///
    /// # Errors
    /// What the file lacks.
    pub fn load(
        source: &SourceModel<'_>,
        architecture: &ArchitectureBody,
    ) -> Result<Self, ModelError> {
        let shape = ModelShape::from(architecture);
        let mut shared = BTreeMap::new();
        for (name, [rows, cols]) in shape.shared_weights() {
            shared.insert(name, shared_weight(source, name, rows, cols)?);
        }
        let layers = (0..shape.layers)
            .map(|layer| source.ffn(layer))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            shape,
            shared,
            layers,
        })
    }

    /// One layer's feed-forward weights.
    pub fn layer(&self, layer: usize) -> &FfnWeights {
        &self.layers[layer]
    }

    pub(crate) fn shape(&self) -> &ModelShape {
        &self.shape
    }

    /// An engine on these weights, with `tap` between the activations and their projection down, and with
    /// `routers` `[routed, H + 1]`, if there are any.
    pub(crate) fn engine(
        self: &Arc<Self>,
        runtime: &Runtime,
        tap: Arc<dyn Tap>,
        routers: Vec<Array2<f32>>,
    ) -> Result<Engine, EngineError> {
        let usual = EngineOptions::new(runtime.ort_library.clone());
        let context_max = usual.context_max.min(self.shape.context);
        let options = EngineOptions {
            threads: runtime.threads,
            context_max,
            ..usual
        };
        let weights = Arc::new(RoutedWeights {
            dense: Arc::clone(self),
            routers,
        });
        let ffn = Arc::new(DenseFfn {
            dense: Arc::clone(self),
            tap,
        });
        Engine::with_ffn(options, self.shape, weights, ffn)
    }
}

fn shared_weight(
    source: &SourceModel<'_>,
    name: TensorName,
    rows: usize,
    cols: usize,
) -> Result<Array2<f32>, ModelError> {
    let TensorName::Layer { layer, part } = name else {
        let file_name = if name == TensorName::Embedding {
            "token_embd.weight"
        } else {
            "output_norm.weight"
        };
        return source.dequantise(file_name, rows, cols);
    };
    let read =
        |part: &str, rows| source.dequantise(&format!("blk.{layer}.{part}.weight"), rows, cols);
    match part {
        LayerPart::AttnNorm => read("attn_norm", rows),
        LayerPart::FfnNorm => read("ffn_norm", rows),
        LayerPart::AttnOutput => read("attn_output", rows),
        LayerPart::AttnQkv => {
            let kv_rows = (rows - cols) / 2;
            let (q, k, v) = (
                read("attn_q", cols)?,
                read("attn_k", kv_rows)?,
                read("attn_v", kv_rows)?,
            );
            let joined = ndarray::concatenate(Axis(0), &[q.view(), k.view(), v.view()]);
            joined.map_err(|why| ModelError::Unsupported(why.to_string()))
        }
        LayerPart::Router | LayerPart::Expert(_) => Ok(Array2::zeros((rows, cols))),
    }
}

struct RoutedWeights {
    dense: Arc<DenseWeights>,
    routers: Vec<Array2<f32>>,
}

impl WeightSource for RoutedWeights {
    fn weight(&self, name: &TensorName) -> Option<Tensor<'_>> {
        let router = match name {
            TensorName::Layer {
                layer,
                part: LayerPart::Router,
            } => self.routers.get(usize::from(*layer)),
            _ => None,
        };
        let matrix = router.or_else(|| self.dense.shared.get(name))?;
        let values = TensorData::Fp32(matrix.as_slice()?);
        Tensor::new(matrix.nrows(), matrix.ncols(), values).ok()
    }
}

struct DenseFfn {
    dense: Arc<DenseWeights>,
    tap: Arc<dyn Tap>,
}

impl FfnCompute for DenseFfn {
    fn compute(&self, call: &mut FfnCall<'_>) -> Result<(), StepError> {
        let weights = &self.dense.layers[call.layer];
        let (tokens, hidden) = (call.tokens(), call.hidden);
        let wrong = |why: ndarray::ShapeError| StepError::Invalid(why.to_string());
        let input = ArrayView2::from_shape((tokens, hidden), call.input).map_err(wrong)?;
        let mut activations = Array2::zeros((tokens, weights.gate.nrows()));
        each_part(call.workers, input, activations.view_mut(), |input, out| {
            activate(weights, input, out)
        });
        self.tap.tap(call, weights, activations.view_mut());
        let output =
            ArrayViewMut2::from_shape((tokens, hidden), &mut *call.output).map_err(wrong)?;
        each_part(
            call.workers,
            activations.view(),
            output,
            |activations, mut out| {
                ndarray::linalg::general_mat_mul(1.0, &activations, &weights.down, 0.0, &mut out);
            },
        );
        Ok(())
    }
}

/// Some rows in, as many out.
type Part<'a> = (ArrayView2<'a, f32>, ArrayViewMut2<'a, f32>);

/// Shares rows among the workers, in as few parts as possible: the weights are packed anew for each.
fn each_part(
    workers: &dyn Workers,
    input: ArrayView2<'_, f32>,
    mut output: ArrayViewMut2<'_, f32>,
    work: impl Fn(ArrayView2<'_, f32>, ArrayViewMut2<'_, f32>) + Sync,
) {
    let rows = input.nrows().div_ceil(workers.count()).max(1);
    let outputs = output.axis_chunks_iter_mut(Axis(0), rows);
    let parts = input.axis_chunks_iter(Axis(0), rows).zip(outputs);
    let parts: Vec<parking_lot::Mutex<Option<Part<'_>>>> = parts
        .map(|part| parking_lot::Mutex::new(Some(part)))
        .collect();
    workers.run(parts.len(), &|index| {
        if let Some((input, output)) = parts[index].lock().take() {
            work(input, output);
        }
    });
}

/// silu(x gateᵀ) x (x upᵀ), `[T, ffn]`.
fn activate(weights: &FfnWeights, input: ArrayView2<'_, f32>, mut output: ArrayViewMut2<'_, f32>) {
    ndarray::linalg::general_mat_mul(1.0, &input, &weights.gate.t(), 0.0, &mut output);
    let lifted = input.dot(&weights.up.t());
    Zip::from(&mut output)
        .and(&lifted)
        .for_each(|gate, up| *gate = *gate / (1.0 + (-*gate).exp()) * up);
}
