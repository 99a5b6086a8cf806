use std::collections::BTreeMap;

use blyan_formats::{PayloadHash, Tensor, TensorName};

use super::Weights;

/// A model's weights outside the experts, verified and mapped for as long as this lives. They do not count in the
/// cache's bound.
#[derive(Debug)]
pub struct SharedWeights {
    weights: BTreeMap<TensorName, (PayloadHash, Weights)>,
}

impl SharedWeights {
    pub(crate) fn new(weights: BTreeMap<TensorName, (PayloadHash, Weights)>) -> Self {
        Self { weights }
    }

    /// The weight called `name`.
    pub fn get(&self, name: &TensorName) -> Option<Tensor<'_>> {
        self.weights.get(name).map(|(_, weights)| weights.tensor())
    }

    /// Every name, in order.
    pub fn names(&self) -> impl Iterator<Item = &TensorName> {
        self.weights.keys()
    }

    /// False once a file behind any of the maps was damaged from outside: what was computed since must be thrown
    /// away, and the weights loaded anew.
    pub fn intact(&self) -> bool {
        self.weights.values().all(|(_, weights)| weights.intact())
    }

    /// The damaged ones.
    pub fn damaged(&self) -> Vec<(TensorName, PayloadHash)> {
        let damaged = self
            .weights
            .iter()
            .filter(|(_, (_, weights))| !weights.intact());
        damaged
            .map(|(name, (payload, _))| (*name, *payload))
            .collect()
    }
}
