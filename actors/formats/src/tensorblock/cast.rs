//! Views of bytes as numbers and back, without copying.

use half::f16;

/// A number without padding for which every bit pattern is a value.
pub(super) trait Plain: sealed::Sealed + Copy {}

mod sealed {
    pub trait Sealed {}
}

macro_rules! plain {
    ($($type:ty),*) => {
        $(impl sealed::Sealed for $type {}
        impl Plain for $type {})*
    };
}

plain!(i8, u8, f16, f32);

/// `bytes` as numbers; none if they are not aligned for `T` or no whole number of `T`s.
pub(super) fn from_bytes<T: Plain>(bytes: &[u8]) -> Option<&[T]> {
    // SAFETY: every bit pattern is a valid `T` (`Plain` is sealed to such types), and `align_to` keeps the middle
    // within `bytes`, aligned, with the lifetime of `bytes`.
    let (before, numbers, after) = unsafe { bytes.align_to::<T>() };
    (before.is_empty() && after.is_empty()).then_some(numbers)
}

/// The bytes of `numbers`, in the little-endian order that the crate is compiled for.
pub(super) fn to_bytes<T: Plain>(numbers: &[T]) -> &[u8] {
    // SAFETY: `Plain` types have no padding, so every byte is initialised; `u8` has no alignment; length and lifetime
    // are those of `numbers`.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), size_of_val(numbers)) }
}
