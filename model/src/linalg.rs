//! The little dense linear algebra that a closed-form fit needs.

use ndarray::{Array2, ArrayView2};

/// A matrix that is not positive definite: there is a direction in which the data says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the normal equations are singular at row {row}")]
pub struct Singular {
    /// The first pivot that is not above zero.
    pub row: usize,
}

/// X with A X = B, for a symmetric positive definite A `[n, n]` and B `[n, k]`, by Cholesky's
/// factorisation. Only A's lower triangle is read.
///
/// # Errors
/// [`Singular`] if A is not positive definite.
///
/// # Panics
/// If the shapes do not fit.
pub fn solve_positive(
    a: ArrayView2<'_, f64>,
    b: ArrayView2<'_, f64>,
) -> Result<Array2<f64>, Singular> {
    assert!(
        a.is_square() && a.nrows() == b.nrows(),
        "A [n, n] and B [n, k]"
    );
    let factor = cholesky(a)?;
    let n = factor.nrows();
    let mut x = b.to_owned();
    for row in 0..n {
        eliminate(
            &mut x,
            row,
            (0..row).map(|i| (i, factor[[row, i]])),
            factor[[row, row]],
        );
    }
    for row in (0..n).rev() {
        eliminate(
            &mut x,
            row,
            (row + 1..n).map(|i| (i, factor[[i, row]])),
            factor[[row, row]],
        );
    }
    Ok(x)
}

/// Solves for one row of x, whose other rows with a weight are known.
fn eliminate(
    x: &mut Array2<f64>,
    row: usize,
    known: impl Iterator<Item = (usize, f64)>,
    pivot: f64,
) {
    let mut solved = x.row(row).to_owned();
    known.for_each(|(i, weight)| solved.scaled_add(-weight, &x.row(i)));
    x.row_mut(row).assign(&(solved / pivot));
}

/// The lower triangle L with L Lᵀ = A.
fn cholesky(a: ArrayView2<'_, f64>) -> Result<Array2<f64>, Singular> {
    let n = a.nrows();
    let mut factor = Array2::<f64>::zeros((n, n));
    for row in 0..n {
        for column in 0..=row {
            let before = ndarray::s![..column];
            let known = factor
                .row(row)
                .slice(before)
                .dot(&factor.row(column).slice(before));
            let rest = a[[row, column]] - known;
            factor[[row, column]] = if row > column {
                rest / factor[[column, column]]
            } else if rest > 0.0 {
                rest.sqrt()
            } else {
                return Err(Singular { row });
            };
        }
    }
    Ok(factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;
    use proptest::prelude::*;

    #[test]
    fn known_system() {
        let a = array![[4.0, 2.0], [2.0, 3.0]];
        let x = solve_positive(a.view(), array![[10.0], [8.0]].view()).unwrap();
        assert!(
            (x[[0, 0]] - 1.75).abs() < 1e-12 && (x[[1, 0]] - 1.5).abs() < 1e-12,
            "{x}"
        );
    }

    #[test]
    fn singular_systems_are_named() {
        let a = array![[1.0, 1.0], [1.0, 1.0]];
        let b = Array2::ones((2, 1));
        assert_eq!(solve_positive(a.view(), b.view()), Err(Singular { row: 1 }));
        let negative = array![[-1.0]];
        assert_eq!(
            solve_positive(negative.view(), Array2::ones((1, 1)).view()),
            Err(Singular { row: 0 })
        );
        let unknown = array![[f64::NAN]];
        assert!(solve_positive(unknown.view(), Array2::ones((1, 1)).view()).is_err());
    }

    proptest! {
        #[test]
        fn solution_satisfies_the_system(values in proptest::collection::vec(-1.0f64..1.0, 36), b in proptest::collection::vec(-1.0f64..1.0, 12)) {
            let m = Array2::from_shape_vec((6, 6), values).unwrap();
            let a = m.dot(&m.t()) + Array2::<f64>::eye(6);
            let b = Array2::from_shape_vec((6, 2), b).unwrap();
            let residual = a.dot(&solve_positive(a.view(), b.view()).unwrap()) - b;
            prop_assert!(residual.iter().all(|r| r.abs() < 1e-9), "{residual}");
        }
    }
}
