//! The one canonical JSON of everything that is hashed or signed (CHAIN-21 to 23).
//!
//! Byte for byte what Python's `json.dumps(value, sort_keys=True, separators=(",", ":"))` writes: keys in code point
//! order, no white space, everything outside of printable ASCII as lower-case `\uXXXX` (surrogate pairs above U+FFFF)
//! except for `\b \f \n \r \t \" \\`. Narrower than Python in four ways: floats are refused (so are NaN and
//! infinity), integers lie within `i64` or `u64`, no key stands twice, and nesting ends at [`DEPTH_MAX`].

mod scan;
mod ser;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use ser::to_canonical;

/// Deepest nesting of lists and objects.
pub const DEPTH_MAX: usize = 32;

/// Longest input of [`from_canonical`], in bytes.
pub const CANONICAL_LEN_MAX: usize = 16 << 20;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CanonicalError {
    #[error("floats have no canonical form; use integers or decimal texts")]
    Float,
    #[error("integers must lie within i64 or u64")]
    IntegerRange,
    #[error("keys of objects must be texts")]
    KeyNotText,
    #[error("key {0:?} stands twice in one object")]
    DuplicateKey(String),
    #[error("nested deeper than {DEPTH_MAX}")]
    TooDeep,
    #[error("{len} bytes, more than {len_max}")]
    TooLong { len: usize, len_max: usize },
    #[error("not canonical JSON at byte {at}: {what}")]
    Syntax { at: usize, what: &'static str },
    #[error("value does not fit: {0}")]
    Shape(String),
    #[error("this is not the canonical form of the value that it holds")]
    NotCanonical,
}

/// Reads a value from its canonical JSON of at most [`CANONICAL_LEN_MAX`] bytes; see [`from_canonical_bounded`].
///
/// # Errors
/// As [`from_canonical_bounded`].
pub fn from_canonical<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Result<T, CanonicalError> {
    from_canonical_bounded(bytes, CANONICAL_LEN_MAX)
}

/// Reads a value from its canonical JSON and refuses all other bytes, so that one value has one hash. The text is
/// scanned in place first: nothing is allocated for an input that is no canonical JSON, beyond the keys at hand.
///
/// # Errors
/// [`CanonicalError::TooLong`], [`CanonicalError::Syntax`] and its kin from the scan, [`CanonicalError::Shape`] if the
/// value is no `T`, [`CanonicalError::NotCanonical`] if `T` would write itself differently (for instance a `null` for
/// an absent field).
pub fn from_canonical_bounded<T: DeserializeOwned + Serialize>(
    bytes: &[u8],
    len_max: usize,
) -> Result<T, CanonicalError> {
    if bytes.len() > len_max {
        return Err(CanonicalError::TooLong {
            len: bytes.len(),
            len_max,
        });
    }
    scan::check_canonical(bytes)?;
    let value: T =
        serde_json::from_slice(bytes).map_err(|error| CanonicalError::Shape(error.to_string()))?;
    if to_canonical(&value)? != bytes {
        return Err(CanonicalError::NotCanonical);
    }
    Ok(value)
}
