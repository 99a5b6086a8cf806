use std::collections::BTreeMap;

use blyan_formats::{PayloadHash, TensorName};

use super::Weights;

/// A model's weights outside the experts in fp32, verified and mapped for as long as this lives. They do not count
/// in the cache's bound.
#[derive(Debug)]
pub struct SharedWeights {
    weights: BTreeMap<TensorName, (PayloadHash, Weights)>,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct SharedTensor<'a> {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Row major, `rows x cols`.
    pub values: &'a [f32],
}

impl SharedWeights {
    pub(crate) fn new(weights: BTreeMap<TensorName, (PayloadHash, Weights)>) -> Self {
        Self { weights }
    }

    /// The weight called `name`.
    pub fn get(&self, name: &TensorName) -> Option<SharedTensor<'_>> {
        let (_, weights) = self.weights.get(name)?;
        let (rows, cols) = weights.shape();
        Some(SharedTensor {
            rows,
            cols,
            values: weights.fp32(),
        })
    }

    /// Every name, in order.
    pub fn names(&self) -> impl Iterator<Item = &TensorName> {
        self.weights.keys()
    }

    /// Bytes of all values.
    pub fn bytes(&self) -> u64 {
        self.weights
            .values()
            .map(|(_, weights)| size_of_val(weights.fp32()) as u64)
            .sum()
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
