use std::io;

use blyan_formats::tensorblock::TensorSpec;
use blyan_formats::{BlockHash, BlockType};
use blyan_protocol::{ErrorCode, PublicError};

use super::UploadId;
use crate::core::Refusal;
use crate::metrics;

/// Why an upload does not begin, go on or end. Each says in words what is wrong and what to do (CHAIN-40).
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// No upload has this name: it never began, was removed, or was abandoned for too long.
    #[error("There is no upload {0}.")]
    NotFound(UploadId),
    /// The piece does not begin where the last one ended.
    #[error("The upload has {received} bytes; the piece begins at {offset}.")]
    Offset {
        /// Bytes that are there.
        received: u64,
        /// Where the piece begins.
        offset: u64,
    },
    /// The piece goes beyond the payload's end.
    #[error("The payload has {len} bytes; the piece would end at {end}.")]
    Overrun {
        /// Bytes of the payload.
        len: u64,
        /// Where the piece would end.
        end: u64,
    },
    /// Bytes are missing.
    #[error("The upload has {received} of {len} bytes.")]
    Unfinished {
        /// Bytes that are there.
        received: u64,
        /// Bytes of the payload.
        len: u64,
    },
    /// The payload is longer than this node takes.
    #[error("The payload has {len} bytes; this node takes at most {len_max}.")]
    TooLong {
        /// Bytes of the payload.
        len: u64,
        /// `uploads.bytes_max`
        len_max: u64,
    },
    /// The key's day is used up.
    #[error("The key has {per_day} uploads within 24 hours, which is all that one key may have.")]
    KeyDay {
        /// `uploads.per_key_per_day`
        per_day: usize,
        /// Until the oldest counts no more.
        retry_after_ms: u64,
    },
    /// The key has too many open uploads.
    #[error("The key has {open_max} open uploads, which is all that one key may have.")]
    KeyOpen {
        /// `uploads.open_per_key_max`
        open_max: usize,
        /// When another try makes sense.
        retry_after_ms: u64,
    },
    /// The node has too many open uploads.
    #[error("The node has {open_max} open uploads, which is all that it takes.")]
    Open {
        /// `uploads.open_max`
        open_max: usize,
        /// When another try makes sense.
        retry_after_ms: u64,
    },
    /// The open uploads will need all the room that there is for them.
    #[error("The open uploads will need the {bytes_max} bytes that this node has for them.")]
    Room {
        /// `uploads.bytes_max`
        bytes_max: u64,
        /// When another try makes sense.
        retry_after_ms: u64,
    },
    /// The block is no expert's.
    #[error("The block is of type {0}; only experts are uploaded.")]
    NotAnExpert(BlockType),
    /// The block breaks a rule of the chain.
    #[error("The block is refused: {0}.")]
    Refused(Box<Refusal>),
    /// The block was made for another architecture than the served one.
    #[error("The block's meta_ref is not {served}, the architecture that is served.")]
    Architecture {
        /// The architecture block.
        served: BlockHash,
    },
    /// The architecture has no such expert.
    #[error("The architecture has no expert {0:?}.")]
    Name(String),
    /// The payload cannot be the expert's.
    #[error(
        "The header says {found} bytes; an expert of {rows} x {cols} int8 elements in blocks of 32 has {expected}."
    )]
    Len {
        /// Rows of the expert.
        rows: u64,
        /// Columns of the expert.
        cols: u64,
        /// Bytes of such a TensorBlock.
        expected: u64,
        /// What the header says.
        found: u64,
    },
    /// The payload is not what the block binds. The upload is gone.
    #[error("The payload is not what the block says: {0}.")]
    Payload(String),
    /// The payload is a TensorBlock of another kind. The upload is gone.
    #[error("The payload holds {found}; the expert is {expected}.")]
    Tensor {
        /// What its header says.
        found: String,
        /// What it must say.
        expected: String,
    },
    /// The disk refused; what was acknowledged is there.
    #[error("The node could not {what}: {why}.")]
    Io {
        /// The action.
        what: &'static str,
        /// What the system says.
        why: String,
    },
    /// A sync failed, so nobody knows what the file holds. The upload is gone.
    #[error("The node could not keep what was uploaded: {why}.")]
    NotDurable {
        /// What the system says.
        why: String,
    },
}

impl UploadError {
    pub(super) fn io(what: &'static str, error: &io::Error) -> Self {
        Self::Io {
            what,
            why: error.to_string(),
        }
    }

    pub(super) fn not_durable(error: &io::Error) -> Self {
        Self::NotDurable {
            why: error.to_string(),
        }
    }

    pub(super) fn tensor(found: &TensorSpec, expected: &TensorSpec) -> Self {
        Self::Tensor {
            found: in_words(found),
            expected: in_words(expected),
        }
    }

    /// Counts the refusal.
    pub fn count(&self) {
        metrics::upload_refused(self.name());
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "not_found",
            Self::Offset { .. } => "offset",
            Self::Overrun { .. } => "overrun",
            Self::Unfinished { .. } => "unfinished",
            Self::TooLong { .. } => "too_long",
            Self::KeyDay { .. } => "key_day",
            Self::KeyOpen { .. } => "key_open",
            Self::Open { .. } => "open",
            Self::Room { .. } => "room",
            Self::NotAnExpert(_) => "not_an_expert",
            Self::Refused(refusal) => refusal.rule(),
            Self::Architecture { .. } => "architecture",
            Self::Name(_) => "name",
            Self::Len { .. } => "len",
            Self::Payload(_) => "payload",
            Self::Tensor { .. } => "tensor",
            Self::Io { .. } => "io",
            Self::NotDurable { .. } => "not_durable",
        }
    }

    fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound(_) => ErrorCode::NotFound,
            Self::Offset { .. } | Self::Unfinished { .. } => ErrorCode::Conflict,
            Self::Overrun { .. } => ErrorCode::InvalidRequest,
            Self::TooLong { .. } => ErrorCode::PayloadTooLarge,
            Self::KeyDay { .. } | Self::KeyOpen { .. } | Self::Open { .. } | Self::Room { .. } => {
                ErrorCode::QuotaExceeded
            }
            Self::Refused(refusal) if may_not_sign(refusal) => ErrorCode::Forbidden,
            Self::NotAnExpert(_)
            | Self::Refused(_)
            | Self::Architecture { .. }
            | Self::Name(_)
            | Self::Len { .. }
            | Self::Payload(_)
            | Self::Tensor { .. } => ErrorCode::UploadRefused,
            Self::Io { .. } | Self::NotDurable { .. } => ErrorCode::Unavailable,
        }
    }

    fn hint(&self) -> String {
        let hint = match self {
            Self::NotFound(_) => "Send the signed block to POST /upload_moe_experts again.",
            Self::Offset { .. } => "Go on from the byte that the node names.",
            Self::Overrun { .. } => "Send exactly as many bytes as the header's payload_len says.",
            Self::Unfinished { .. } => "Send the rest with PATCH.",
            Self::TooLong { .. } => "The operator can raise uploads.bytes_max.",
            Self::KeyDay { .. } => "Wait, or ask the operator to raise uploads.per_key_per_day.",
            Self::KeyOpen { .. } => "Finish one of them, or remove it with DELETE.",
            Self::Open { .. } | Self::Room { .. } => "Try again later.",
            Self::NotAnExpert(_) => "Everything else is appended by the node's operator.",
            Self::Refused(refusal) => return hint_of(refusal),
            Self::Architecture { .. } => "Make the block for that architecture, and sign it again.",
            Self::Name(_) => "GET /experts/top lists experts by their names.",
            Self::Len { .. } => {
                "Quantise the expert to int8 in blocks of 32: gate rows, up rows, down transposed."
            }
            Self::Payload(_) => "Write the file again, and sign a block over its Merkle root.",
            Self::Tensor { .. } => "Write the expert in that form, and sign a block over it.",
            Self::Io { .. } => "Try again from the byte that GET of the upload names.",
            Self::NotDurable { .. } => "Send it again from the start once the disk is well.",
        };
        hint.to_owned()
    }

    const fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::KeyDay { retry_after_ms, .. }
            | Self::KeyOpen { retry_after_ms, .. }
            | Self::Open { retry_after_ms, .. }
            | Self::Room { retry_after_ms, .. } => Some(*retry_after_ms),
            Self::Io { .. } | Self::NotDurable { .. } => Some(5_000),
            _ => None,
        }
    }
}

const fn may_not_sign(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::Signer(_) | Refusal::Grant { .. } | Refusal::GrantSupersedes(_)
    )
}

fn hint_of(refusal: &Refusal) -> String {
    let hint = match refusal {
        Refusal::Signer(key) => {
            return format!(
                "The node's operator lets it upload experts: `blyan keys grant {key}`."
            );
        }
        Refusal::GrantSupersedes(_) => "Leave supersedes out; a manifest decides what is served.",
        Refusal::Signature(_) => {
            "Sign SHA-256 of `blyan/block/v1`, a zero byte and the header's canonical JSON; r then s, s in the lower half."
        }
        Refusal::Network { .. } => "GET /genesis/hash names this network; sign the block for it.",
        Refusal::Index { .. } => "On chain B it is 0, or 1 + the highest index in depends_on.",
        Refusal::Parent(_) | Refusal::Supersedes(_) => {
            "GET /experts/{name}/versions lists the blocks of an expert."
        }
        Refusal::MetaRef(_) => "Take the meta_ref of the blocks in GET /experts/{name}/versions.",
        _ => "Correct the header, and sign it again.",
    };
    hint.to_owned()
}

fn in_words(spec: &TensorSpec) -> String {
    format!(
        "{:?} {} x {} with quantisation {:?}",
        spec.dtype, spec.rows, spec.cols, spec.quantisation
    )
}

impl From<UploadError> for PublicError {
    fn from(error: UploadError) -> Self {
        let public = Self::new(error.code(), error.to_string(), error.hint());
        match error.retry_after_ms() {
            Some(ms) => public.retry_after_ms(ms),
            None => public,
        }
    }
}
