//! What a fit collects while the dense model reads text.

use blyan_inference::engine::{FfnCall, Workers};
use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2, Axis};
use parking_lot::Mutex;

use super::ridge::RidgeSums;
use crate::dense::Tap;
use crate::linalg::Singular;
use crate::source::FfnWeights;

/// Per layer, how the neurons' contributions depend on the layer's input. A neuron's contribution to a token is the
/// length of what it adds to the output, |activation| x |column of down|.
pub(super) struct Contributions {
    layers: Vec<Mutex<(RidgeSums, Array1<f64>)>>,
}

impl Contributions {
    pub(super) fn new(layers: usize, hidden: usize, ffn: usize) -> Self {
        let layer = |_| Mutex::new((RidgeSums::new(hidden, ffn), Array1::zeros(ffn)));
        Self {
            layers: (0..layers).map(layer).collect(),
        }
    }

    /// `[ffn]`: sums of squared contributions over all tokens.
    pub(super) fn energies(&self, layer: usize) -> Array1<f64> {
        self.layers[layer].lock().1.clone()
    }

    /// `[ffn, ffn]`: covariance of that part of the contributions which follows from the input in a straight line.
    pub(super) fn predictable(&self, layer: usize, penalty: f64) -> Result<Array2<f64>, Singular> {
        self.layers[layer].lock().0.predictable(penalty)
    }
}

impl Tap for Contributions {
    fn tap(&self, call: &FfnCall<'_>, weights: &FfnWeights, activations: ArrayViewMut2<'_, f32>) {
        let lengths = weights.down.map_axis(Axis(1), |row| row.dot(&row).sqrt());
        let contributions = activations.mapv(f32::abs) * &lengths;
        let mut layer = self.layers[call.layer].lock();
        let (sums, energies) = &mut *layer;
        sums.add(input(call), contributions.view());
        *energies +=
            &contributions.map_axis(Axis(0), |of_neuron| f64::from(of_neuron.dot(&of_neuron)));
    }
}

/// The call's input, `[T, H]`.
fn input<'a>(call: &FfnCall<'a>) -> ArrayView2<'a, f32> {
    ArrayView2::from_shape((call.tokens(), call.hidden), call.input).expect("the call's own shape")
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
        let lengths = output_lengths(call.workers, experts, weights, activations.view());
        self.layers[call.layer]
            .lock()
            .add(input(call), lengths.view());
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
