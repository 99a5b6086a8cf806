//! The crate's error, classed by what a supervisor must do with it.

use crate::block::BlockError;
use crate::bodies::BodyError;
use crate::canonical::CanonicalError;
use crate::gguf::GgufError;
use crate::hash::HashParseError;
use crate::keys::KeyError;
use crate::name::NameError;
use crate::tensorblock::{TensorError, TensorFault};

/// What a supervisor must do with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// Malformed or not allowed: the caller's fault, the actor lives.
    Rejected,
    /// Try again later.
    Transient,
    /// The actor's own state is doubtful: it exits and is restarted.
    Fatal,
    /// Stored data fails its hash: the damaged object is quarantined, the actor lives.
    Corrupt,
}

/// Every way in which this crate can fail. Functions return the narrower enums; all convert into this one.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
    #[error(transparent)]
    Hash(#[from] HashParseError),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Block(#[from] BlockError),
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Tensor(#[from] TensorError),
    #[error(transparent)]
    TensorFault(#[from] TensorFault),
    #[error(transparent)]
    Gguf(#[from] GgufError),
}

impl FormatError {
    /// Only a stored TensorBlock can be corrupt; a key file that cannot be used is fatal; a failed write may be
    /// tried again; everything else is bad input.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::TensorFault(_) => ErrorClass::Corrupt,
            Self::Key(KeyError::Io(_) | KeyError::Permissions { .. } | KeyError::Malformed) => {
                ErrorClass::Fatal
            }
            Self::Tensor(TensorError::Io(_)) => ErrorClass::Transient,
            _ => ErrorClass::Rejected,
        }
    }
}
