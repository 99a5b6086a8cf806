//! What a fit collects while the dense model reads text.

use blyan_inference::engine::{FfnCall, Workers};
use ndarray::linalg::general_mat_mul;
use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2, Axis, s};
use parking_lot::Mutex;

use super::ridge::RidgeSums;
use crate::dense::Tap;
use crate::linalg::Singular;
use crate::source::FfnWeights;

/// Rows of a matrix that one worker adds to at one time.
const BLOCK_ROWS: usize = 96;

/// Per layer, which neurons act together: sums over tokens of products of two neurons' contributions. A neuron's
/// contribution to a token is the length of what it adds to the output, |activation| x |column of down|.
pub(super) struct CoActivation {
    /// Per layer `[ffn, ffn]` in blocks of rows.
    layers: Vec<Vec<Mutex<Array2<f32>>>>,
}

impl CoActivation {
    pub(super) fn new(layers: usize, ffn: usize) -> Self {
        let block = |row: usize| Mutex::new(Array2::zeros(((ffn - row).min(BLOCK_ROWS), ffn)));
        let layer = |_| (0..ffn).step_by(BLOCK_ROWS).map(block).collect();
        Self {
            layers: (0..layers).map(layer).collect(),
        }
    }

    /// `[ffn, ffn]`
    pub(super) fn products(&self, layer: usize) -> Array2<f32> {
        let blocks: Vec<_> = self.layers[layer]
            .iter()
            .map(|block| block.lock())
            .collect();
        let views: Vec<_> = blocks.iter().map(|block| block.view()).collect();
        ndarray::concatenate(Axis(0), &views).expect("blocks of one matrix are equally wide")
    }
}

impl Tap for CoActivation {
    fn tap(&self, call: &FfnCall<'_>, weights: &FfnWeights, activations: ArrayViewMut2<'_, f32>) {
        let lengths = weights.down.map_axis(Axis(1), |row| row.dot(&row).sqrt());
        let contributions = activations.mapv(f32::abs) * &lengths;
        let blocks = &self.layers[call.layer];
        call.workers.run(blocks.len(), &|number| {
            let mut products = blocks[number].lock();
            let first = number * BLOCK_ROWS;
            let rows = contributions.slice(s![.., first..first + products.nrows()]);
            general_mat_mul(1.0, &rows.t(), &contributions, 1.0, &mut *products);
        });
    }
}

/// Per layer, how the lengths of the routed experts' outputs depend on the layer's input.
pub(super) struct ExpertLengths {
    /// Per layer the neurons of each routed expert.
    routed: Vec<Vec<Vec<u16>>>,
    layers: Vec<Mutex<RidgeSums>>,
}

impl ExpertLengths {
    pub(super) fn new(hidden: usize, routed: Vec<Vec<Vec<u16>>>) -> Self {
        let layers = routed
            .iter()
            .map(|experts| Mutex::new(RidgeSums::new(hidden, experts.len())));
        Self {
            layers: layers.collect(),
            routed,
        }
    }

    pub(super) fn router(&self, layer: usize, penalty: f64) -> Result<Array2<f32>, Singular> {
        self.layers[layer].lock().solve(penalty)
    }
}

impl Tap for ExpertLengths {
    fn tap(&self, call: &FfnCall<'_>, weights: &FfnWeights, activations: ArrayViewMut2<'_, f32>) {
        let experts = &self.routed[call.layer];
        let input = ArrayView2::from_shape((call.tokens(), call.hidden), call.input);
        let input = input.expect("the call's own shape");
        let lengths = output_lengths(call.workers, experts, weights, activations.view());
        self.layers[call.layer].lock().add(input, lengths.view());
    }
}

/// Lengths of the experts' outputs, `[T, experts]`.
fn output_lengths(
    workers: &dyn Workers,
    experts: &[Vec<u16>],
    weights: &FfnWeights,
    activations: ArrayView2<'_, f32>,
) -> Array2<f32> {
    let columns: Vec<_> = experts
        .iter()
        .map(|_| Mutex::new(Array1::zeros(activations.nrows())))
        .collect();
    workers.run(experts.len(), &|expert| {
        let neurons: Vec<usize> = experts[expert]
            .iter()
            .map(|neuron| usize::from(*neuron))
            .collect();
        let output = activations
            .select(Axis(1), &neurons)
            .dot(&weights.down.select(Axis(0), &neurons));
        *columns[expert].lock() = output.map_axis(Axis(1), |row| row.dot(&row).sqrt());
    });
    let columns: Vec<_> = columns.into_iter().map(Mutex::into_inner).collect();
    let views: Vec<_> = columns.iter().map(|column| column.view()).collect();
    ndarray::stack(Axis(1), &views).expect("columns of one length")
}
