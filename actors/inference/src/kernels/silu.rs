//! The activation function, with an exponential of our own: that of the C library differs between machines.

use std::f32::consts::LOG2_E;

/// Bounds of [`exp`]: it is a normal number at the lower and infinite at the upper.
const EXP_MIN: f32 = -87.0;
const EXP_MAX: f32 = 88.5;
/// ln 2 in two parts; the first has zeros in its last bits, so that its small multiples are exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;
/// See `quantise`.
const ROUNDER: f32 = 12_582_912.0;
const MANTISSA_BITS: u32 = 23;
const EXPONENT_BIAS: i32 = 127;

/// `x / (1 + exp(-x))`.
#[inline(always)]
pub(super) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// e^x within 2 units in the last place; x is first moved into [`EXP_MIN`] to [`EXP_MAX`].
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    let x = if x < EXP_MAX { x } else { EXP_MAX };
    let x = if x > EXP_MIN { x } else { EXP_MIN };
    let shifted = x * LOG2_E + ROUNDER;
    let whole = shifted - ROUNDER;
    let rest = whole.mul_add(-LN_2_LOW, whole.mul_add(-LN_2_HIGH, x));
    let exponent = (shifted.to_bits() as i32).wrapping_sub(ROUNDER.to_bits() as i32);
    let power = f32::from_bits((exponent.wrapping_add(EXPONENT_BIAS) as u32) << MANTISSA_BITS);
    series(rest) * power
}

/// e^x by its Taylor series for |x| up to ln 2 / 2.
#[inline(always)]
fn series(x: f32) -> f32 {
    const FACTORS: [f32; 7] = [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ];
    FACTORS
        .iter()
        .fold(1.0 / 5040.0, |sum: f32, factor| sum.mul_add(x, *factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_right_to_two_units_over_its_whole_range() {
        for step in 0..=175_000 {
            let x = EXP_MIN + step as f32 * 1e-3;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(
                x >= 88.37 || error < 2.0 * f64::from(f32::EPSILON),
                "{x}: {error}"
            );
        }
    }

    #[test]
    fn silu_has_its_limits() {
        assert_eq!(silu(0.0), 0.0);
        assert_eq!(silu(-f32::MAX), 0.0);
        assert_eq!(silu(f32::MAX), f32::MAX);
        assert_eq!(silu(f32::INFINITY), f32::INFINITY);
        assert!(silu(f32::NAN).is_nan());
        assert!((silu(1.0) - 0.731_058_6).abs() < 1e-7);
    }
}
