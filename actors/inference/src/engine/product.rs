//! Rows times a stored matrix, shared between workers.

use std::ops::Range;
use std::sync::OnceLock;

use super::ffn::Workers;
use crate::kernels::{Matrix, QuantisedRows, ShapeError};

/// Rows of a matrix that one worker takes at one time are a multiple of this.
const ROWS_STEP: usize = 16;
/// Pieces for each worker, so that one that is held up by another process does not hold up all.
const PIECES: usize = 4;

/// Overwrites `output` `[T, N]` with `input` `[T, K]` times the transposed `matrix` `[N, K]`.
///
/// # Errors
/// If the shapes do not fit.
pub fn product(
    matrix: &Matrix<'_>,
    input: &[f32],
    output: &mut [f32],
    workers: &dyn Workers,
) -> Result<(), ShapeError> {
    let input = QuantisedRows::new(input, matrix.cols())?;
    let rows = matrix.rows();
    let pieces = pieces(rows, workers.count());
    if pieces.len() == 1 {
        return matrix.product(0..rows, &input, output);
    }
    let done: Vec<_> = pieces.iter().map(|_| OnceLock::new()).collect();
    workers.run(pieces.len(), &|index| {
        done[index].get_or_init(|| piece(matrix, pieces[index].clone(), &input));
    });
    for (piece, part) in pieces
        .iter()
        .zip(done.into_iter().filter_map(OnceLock::into_inner))
    {
        let (part, rows) = (part?, output.chunks_exact_mut(rows));
        for (out, part) in rows.zip(part.chunks_exact(piece.len())) {
            out[piece.clone()].copy_from_slice(part);
        }
    }
    Ok(())
}

fn piece(
    matrix: &Matrix<'_>,
    rows: Range<usize>,
    input: &QuantisedRows,
) -> Result<Vec<f32>, ShapeError> {
    let mut out = vec![0.0; input.tokens() * rows.len()];
    matrix.product(rows, input, &mut out).map(|()| out)
}

fn pieces(rows: usize, workers: usize) -> Vec<Range<usize>> {
    let wanted = if workers > 1 { workers * PIECES } else { 1 };
    let len = rows.div_ceil(wanted).next_multiple_of(ROWS_STEP);
    (0..rows)
        .step_by(len)
        .map(|start| start..rows.min(start + len))
        .collect()
}
