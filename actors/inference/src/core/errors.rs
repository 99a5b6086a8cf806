//! What a client is told about a sequence that the scheduler ended.

use blyan_protocol::{ErrorCode, PublicError};

pub(super) fn poisoned() -> PublicError {
    PublicError::new(
        ErrorCode::PoisonedRequest,
        "The request made every step fail that it was part of.",
        "Change the request; the same one will fail again.",
    )
}

pub(super) fn timed_out() -> PublicError {
    PublicError::new(
        ErrorCode::Timeout,
        "The answer was not complete within the request's time.",
        "Ask for fewer tokens, or try again when the node is less busy.",
    )
}

pub(super) fn slow_reader() -> PublicError {
    PublicError::new(
        ErrorCode::SlowReader,
        "The stream was not read for too long.",
        "Read the stream as it comes, or ask without streaming.",
    )
}

pub(super) fn no_logits() -> PublicError {
    PublicError::new(
        ErrorCode::Internal,
        "The model gave no usable scores for the next token.",
        "Try again; if it persists, check the weights with `blyan verify`.",
    )
}
