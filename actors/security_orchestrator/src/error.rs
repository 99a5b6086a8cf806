use std::time::Duration;

use blyan_formats::ErrorClass;
use blyan_protocol::{ErrorCode, PublicError};
use blyan_supervisors::{CallError, ExitReason};

use crate::audit::AuditError;
use crate::core::Refusal;

/// What a call of [`SecurityHandle`](crate::SecurityHandle) can end with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecurityError {
    /// A rule forbids the order; the try is in the audit log.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The decision is durable, but the component did not do its part; it stays out of service, and the orchestrator
    /// goes on trying.
    #[error("{decision} of {path} is decided but did not take effect: {why}")]
    NotEffective {
        /// What was decided.
        decision: &'static str,
        /// The component.
        path: String,
        /// What went wrong.
        why: String,
    },
    /// The audit log cannot be written or read: nothing was decided.
    #[error("{0}")]
    Audit(#[from] AuditError),
    /// The orchestrator did not take the message, or did not answer.
    #[error("the security orchestrator does not answer: {0}")]
    Call(#[from] CallError),
}

impl SecurityError {
    /// What a supervisor must do.
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Refused(_) => ErrorClass::Rejected,
            Self::NotEffective { .. } | Self::Call(_) => ErrorClass::Transient,
            Self::Audit(error) => error.class(),
        }
    }

    fn code(&self) -> ErrorCode {
        match self {
            Self::Refused(Refusal::Unknown(_)) => ErrorCode::NotFound,
            Self::Refused(Refusal::NothingWouldServe(_) | Refusal::Decides(_)) => {
                ErrorCode::InvalidRequest
            }
            Self::Refused(Refusal::Quarantined(_)) => ErrorCode::Quarantined,
            Self::Audit(AuditError::NoRoom(_)) => ErrorCode::StorageFull,
            Self::Audit(_) => ErrorCode::Internal,
            Self::Call(CallError::Full { .. }) => ErrorCode::Overloaded,
            Self::Call(CallError::Timeout) => ErrorCode::Timeout,
            Self::NotEffective { .. } | Self::Call(_) => ErrorCode::Unavailable,
        }
    }

    const fn hint(&self) -> &'static str {
        match self {
            Self::Refused(Refusal::Unknown(_)) => "GET /security/dashboard lists the components",
            Self::Refused(Refusal::NothingWouldServe(_)) => "repeat it with \"force\": true",
            Self::Refused(Refusal::Quarantined(_)) => "recover what is named first",
            Self::Refused(Refusal::Decides(_)) => "quarantine what it decides about",
            Self::NotEffective { .. } => "the reason is in the node's status; try again",
            Self::Audit(AuditError::NoRoom(_)) => {
                "make room on the disk; the node goes on by itself"
            }
            Self::Audit(_) => "check the disk, then run `blyan audit verify`",
            Self::Call(_) => "try again in a moment",
        }
    }
}

impl From<SecurityError> for PublicError {
    fn from(error: SecurityError) -> Self {
        let public = Self::new(error.code(), error.to_string(), error.hint());
        let after = match &error {
            SecurityError::Call(call) => call.retry_after(),
            SecurityError::NotEffective { .. } => Some(Duration::from_secs(1)),
            SecurityError::Audit(AuditError::NoRoom(_)) => Some(Duration::from_secs(30)),
            _ => None,
        };
        match after {
            Some(after) => {
                public.retry_after_ms(u64::try_from(after.as_millis()).unwrap_or(u64::MAX))
            }
            None => public,
        }
    }
}

impl From<AuditError> for ExitReason {
    /// How a start or a write that met this error ends the generation.
    fn from(error: AuditError) -> Self {
        match error.class() {
            ErrorClass::Corrupt => Self::Corrupt(error.to_string()),
            ErrorClass::Fatal => Self::Fatal(error.to_string()),
            _ => Self::StartFailed(error.to_string()),
        }
    }
}
