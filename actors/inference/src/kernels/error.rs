//! What a caller can get wrong.

/// A slice or a range that does not fit the shape it was given with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShapeError {
    /// Which.
    pub what: &'static str,
    /// Its length or end, or what it must be a multiple of.
    pub expected: usize,
    /// What it was instead.
    pub found: usize,
}

impl std::fmt::Display for ShapeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            what,
            expected,
            found,
        } = self;
        write!(f, "{what}: {found} does not fit {expected}")
    }
}

impl std::error::Error for ShapeError {}

pub(super) fn check(what: &'static str, expected: usize, found: usize) -> Result<(), ShapeError> {
    if expected == found {
        Ok(())
    } else {
        Err(ShapeError {
            what,
            expected,
            found,
        })
    }
}

/// Refuses `found` if it is zero or no multiple of `unit`.
pub(super) fn check_multiple(
    what: &'static str,
    unit: usize,
    found: usize,
) -> Result<(), ShapeError> {
    if found > 0 && found.is_multiple_of(unit) {
        Ok(())
    } else {
        Err(ShapeError {
            what,
            expected: unit,
            found,
        })
    }
}

/// `a * b`, as a length of `what`.
pub(super) fn elements(what: &'static str, a: usize, b: usize) -> Result<usize, ShapeError> {
    a.checked_mul(b).ok_or(ShapeError {
        what,
        expected: usize::MAX / a.max(1),
        found: b,
    })
}
