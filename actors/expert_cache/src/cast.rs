//! Views of mapped bytes as numbers, without copying. Files are little-endian, and so is the machine
//! (`blyan-formats` does not compile elsewhere).

/// `bytes` as fp32 values. Maps and their data sections are page aligned, scales 4-byte aligned; bytes that are
/// neither give an empty slice, which no shape accepts.
pub fn f32s(bytes: &[u8]) -> &[f32] {
    // SAFETY: every bit pattern is an f32, and `align_to` keeps the middle inside `bytes` and aligned.
    let (before, values, after) = unsafe { bytes.align_to::<f32>() };
    if before.is_empty() && after.is_empty() {
        values
    } else {
        &[]
    }
}

/// The bytes of fp32 values.
pub fn bytes_of(values: &[f32]) -> &[u8] {
    // SAFETY: an f32 has no padding, u8 no alignment; length and lifetime are those of `values`.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_their_bytes() {
        let values = [1.5_f32, -0.0, f32::MIN_POSITIVE];
        assert_eq!(f32s(bytes_of(&values)), values);
        assert_eq!(bytes_of(&values)[..4], 1.5_f32.to_le_bytes());
    }

    #[test]
    fn a_length_that_is_no_whole_number_of_values_gives_none() {
        assert!(f32s(&bytes_of(&[1.0, 2.0])[..7]).is_empty());
    }
}
