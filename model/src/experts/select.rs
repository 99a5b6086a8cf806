//! Which rows and columns of a file's matrices are one expert's.

use super::matrix::Matrix;
use super::style::Packing;
use super::{ExpertError, Wanted};
use crate::recipe::Recipe;

/// The expert's part of gate, up and down.
pub(super) struct Selection {
    /// Rows of gate and of up, one a neuron.
    neurons: Vec<usize>,
    /// The first of the H rows of down.
    down_row: usize,
    /// Columns of down, one a neuron.
    down_cols: Vec<usize>,
}

impl Selection {
    /// Checks the shapes of gate, up and down.
    ///
    /// # Errors
    /// [`ExpertError::Shape`], [`ExpertError::StackTooShort`], [`ExpertError::NeedsRecipe`], [`ExpertError::Recipe`].
    pub(super) fn of(
        packing: Packing,
        wanted: &Wanted,
        matrices: &[Matrix<'_>; 3],
        recipe: Option<&Recipe>,
    ) -> Result<Self, ExpertError> {
        match packing {
            Packing::Alone => Self::stacked(wanted, matrices, 1, 0),
            Packing::Stacked => {
                let held = held(wanted, &matrices[0])?;
                Self::stacked(wanted, matrices, held, wanted.expert.into())
            }
            Packing::Layer => {
                let recipe = recipe.ok_or(ExpertError::NeedsRecipe(wanted.name))?;
                Self::of_layer(wanted, matrices, recipe)
            }
        }
    }

    /// Number `place` of `held` experts that stand below each other.
    fn stacked(
        wanted: &Wanted,
        [gate, up, down]: &[Matrix<'_>; 3],
        held: usize,
        place: usize,
    ) -> Result<Self, ExpertError> {
        let (hidden, neurons) = (wanted.hidden, wanted.neurons);
        gate.require_shape(held * neurons, hidden)?;
        up.require_shape(held * neurons, hidden)?;
        down.require_shape(held * hidden, neurons)?;
        Ok(Self {
            neurons: (place * neurons..(place + 1) * neurons).collect(),
            down_row: place * hidden,
            down_cols: (0..neurons).collect(),
        })
    }

    fn of_layer(
        wanted: &Wanted,
        [gate, up, down]: &[Matrix<'_>; 3],
        recipe: &Recipe,
    ) -> Result<Self, ExpertError> {
        let misfit = || ExpertError::Recipe(wanted.name);
        let layer = recipe.layers.get(usize::from(wanted.layer));
        let layer = layer.ok_or_else(misfit)?;
        let neurons = layer.experts.get(usize::from(wanted.expert));
        let neurons = neurons.ok_or_else(misfit)?;
        if neurons.len() != wanted.neurons {
            return Err(misfit());
        }
        // A recipe is a permutation of a layer's neurons, so none lies outside of these shapes.
        let ffn = layer.experts.iter().map(Vec::len).sum();
        gate.require_shape(ffn, wanted.hidden)?;
        up.require_shape(ffn, wanted.hidden)?;
        down.require_shape(wanted.hidden, ffn)?;
        let neurons: Vec<usize> = neurons.iter().map(|n| usize::from(*n)).collect();
        Ok(Self {
            down_cols: neurons.clone(),
            neurons,
            down_row: 0,
        })
    }

    /// `[3F, H]`, row-major: gate, up, down transposed.
    ///
    /// # Errors
    /// As [`Matrix::read_row`].
    pub(super) fn gather(
        &self,
        [gate, up, down]: &[Matrix<'_>; 3],
        hidden: usize,
    ) -> Result<Vec<f32>, ExpertError> {
        let part = self.neurons.len() * hidden;
        let mut rows = vec![0.0; 3 * part];
        for (matrix, out) in [gate, up].into_iter().zip(rows.chunks_exact_mut(part)) {
            for (neuron, out) in self.neurons.iter().zip(out.chunks_exact_mut(hidden)) {
                matrix.read_row(*neuron, out)?;
            }
        }
        let mut across = vec![0.0; down.cols()];
        for column in 0..hidden {
            down.read_row(self.down_row + column, &mut across)?;
            let below = rows[2 * part..].iter_mut().skip(column).step_by(hidden);
            for (out, neuron) in below.zip(&self.down_cols) {
                *out = across[*neuron];
            }
        }
        Ok(rows)
    }
}

/// Experts in a stack of gates.
fn held(wanted: &Wanted, gate: &Matrix<'_>) -> Result<usize, ExpertError> {
    if !gate.rows().is_multiple_of(wanted.neurons) {
        let expected = format!("a multiple of {} rows", wanted.neurons);
        return Err(gate.other_shape(expected));
    }
    let held = gate.rows() / wanted.neurons;
    if usize::from(wanted.expert) < held {
        return Ok(held);
    }
    Err(ExpertError::StackTooShort {
        tensor: gate.name().to_owned(),
        held,
        expert: wanted.expert,
    })
}
