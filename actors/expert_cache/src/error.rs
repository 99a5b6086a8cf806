use std::io;
use std::path::{Path, PathBuf};

use blyan_formats::{ErrorClass, TensorName};
use blyan_protocol::{LeaseError, PublicError};
use blyan_supervisors::CallError;

use crate::core::{CorruptPayload, Refusal};

/// Why the cache could not do something.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A configuration value is out of its bounds.
    #[error("expert_cache.{key}: {why}")]
    Config {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The system refused a file operation.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was tried, for example `opening`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file has not the length that is bound for it.
    #[error("{} has {actual} bytes instead of {expected}", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Bytes that it must have.
        expected: u64,
        /// Bytes that it has.
        actual: u64,
    },
    /// The table of maps is full.
    #[error("more than {max} files would be mapped at once")]
    TooManyMaps {
        /// The table's size.
        max: usize,
    },
    /// The SIGBUS handler could not be put in place.
    #[error("the SIGBUS handler cannot be put in place: {0}")]
    Signal(#[source] io::Error),
    /// The payload cannot be used in the form asked for.
    #[error("a payload of this kind has no such form: {0}")]
    Form(String),
    /// A derivation changed between its writing and its mapping.
    #[error("{} is not what was just written", .0.display())]
    Derivation(PathBuf),
    /// The file is whole again, but a map that the engine holds was damaged and stays so.
    #[error("{0} was damaged while it was in use: restart the node to map it again")]
    InUse(TensorName),
    /// It is larger than the cache's bound.
    #[error("{needs_bytes} bytes do not fit the bound of {bound_bytes}")]
    TooLarge {
        /// Bytes of its mapped form.
        needs_bytes: u64,
        /// The bound.
        bound_bytes: u64,
    },
    /// Everything resident is leased.
    #[error("everything in the cache is in use")]
    Full,
    /// The chain could not say where a payload lies, or not remember a derivation.
    #[error("the chain does not answer: {0}")]
    Source(#[from] PublicError),
    /// The chain did not answer in time.
    #[error("the chain did not answer within {0} ms")]
    SourceTimeout(u64),
    /// The actor did not take the message or did not answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The work was given up because the node or its thread is ending.
    #[error("the work was given up before it ended")]
    Stopped,
    /// Bytes on disk fail their hash.
    #[error("{0}")]
    Corrupt(Box<CorruptPayload>),
}

impl From<Refusal> for CacheError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::TooLarge {
                needs_bytes,
                bound_bytes,
            } => Self::TooLarge {
                needs_bytes,
                bound_bytes,
            },
            Refusal::Full => Self::Full,
        }
    }
}

impl CacheError {
    /// What must be done about it.
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Config { .. } | Self::Form(_) | Self::InUse(_) | Self::TooLarge { .. } => {
                ErrorClass::Rejected
            }
            Self::Io { .. }
            | Self::Length { .. }
            | Self::TooManyMaps { .. }
            | Self::Derivation(_)
            | Self::Call(_)
            | Self::Stopped
            | Self::Full
            | Self::Source(_)
            | Self::SourceTimeout(_) => ErrorClass::Transient,
            Self::Signal(_) => ErrorClass::Fatal,
            Self::Corrupt(_) => ErrorClass::Corrupt,
        }
    }

    /// The same, in the words of the shared table.
    pub(crate) fn into_lease_error(self, name: TensorName) -> LeaseError {
        match self {
            Self::Corrupt(record) => record.lease_error(),
            Self::TooLarge {
                needs_bytes,
                bound_bytes,
            } => LeaseError::TooLarge {
                name,
                needs_bytes,
                bound_bytes,
            },
            Self::Full => LeaseError::Timeout { name },
            other => LeaseError::Unavailable {
                name,
                why: other.to_string(),
            },
        }
    }

    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }
}
