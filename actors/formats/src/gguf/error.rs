/// Longest name quoted in an error, in characters.
const QUOTED_MAX: usize = 64;

pub(super) fn quote(name: &str) -> String {
    name.chars().take(QUOTED_MAX).collect()
}

/// Why a GGUF file is refused, or lacks what was asked of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GgufError {
    #[error("it does not start with GGUF")]
    Magic,
    #[error("version {0} of GGUF is not supported, only 3")]
    Version(u32),
    #[error("the file ends at byte {at} within {what}")]
    Truncated { at: usize, what: &'static str },
    #[error("{what}: {count}, more than the {most} that this file can hold or this reader accepts")]
    Count {
        what: &'static str,
        count: u64,
        most: u64,
    },
    #[error("{what} at byte {at} is not UTF-8")]
    Utf8 { at: usize, what: &'static str },
    #[error("unknown type {0} of a metadata value")]
    ValueType(u32),
    #[error("lists of lists are not supported")]
    NestedArray,
    #[error("a truth value at byte {at} is neither 0 nor 1")]
    Bool { at: usize },
    #[error("{0:?} stands twice")]
    Duplicate(String),
    #[error("general.alignment is {0}; it must be a power of two from 8 to 65536")]
    Alignment(u64),
    #[error("tensor {name:?} has an impossible shape")]
    TensorShape { name: String },
    #[error("tensor {name:?} has type {code}; supported are F32, F16, Q4_0, Q4_1, Q8_0")]
    TensorKind { name: String, code: u32 },
    #[error("tensor {0:?} lies outside of the file, off its alignment, or over another tensor")]
    TensorRange(String),
    #[error("there is no key {0}")]
    MissingKey(&'static str),
    #[error("key {0} has another type than expected")]
    KeyType(&'static str),
    #[error("there is no tensor {0:?}")]
    MissingTensor(String),
}
