use std::path::PathBuf;

use blyan_supervisors::{CallError, ExitReason};

/// Why a transfer was refused. Nothing was moved.
///
/// In the order of the checks: a transfer that breaks several rules is refused by the first of
/// them. Shown by `tests/ladder.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Refusal {
    /// Zero is what a client sends that forgot to choose an id.
    #[error("the id is zero")]
    IdZero,
    /// A transfer moves something.
    #[error("the amount is zero")]
    AmountZero,
    /// Both sides are one account.
    #[error("an account cannot pay itself")]
    SameAccount,
    /// What is issued never goes back: the cap counts all that was ever issued.
    #[error("nothing is paid back into issuance")]
    IssuanceCredited,
    /// What is burned stays so.
    #[error("what is burned cannot be spent")]
    BurnedDebited,
    /// A pending transfer of no duration would never be pending.
    #[error("the time limit is zero")]
    TimeoutZero,
    /// The id belongs to a transfer with other fields.
    #[error("the id belongs to another transfer")]
    IdReused,
    /// No transfer has the id that is to be posted or voided.
    #[error("there is no such pending transfer")]
    PendingNotFound,
    /// The transfer to be posted or voided was refused, or never was a pending one.
    #[error("that transfer is not a pending one")]
    NotPending,
    /// The pending transfer was posted before.
    #[error("the pending transfer was posted")]
    AlreadyPosted,
    /// The pending transfer was voided before.
    #[error("the pending transfer was voided")]
    AlreadyVoided,
    /// The pending transfer ran out before.
    #[error("the pending transfer expired")]
    Expired,
    /// More is to be posted than is held.
    #[error("more is to be posted than is held")]
    ExceedsPending,
    /// More would be issued than may ever be.
    #[error("the supply cap would be passed")]
    SupplyCap,
    /// More would be issued than may be in this year.
    #[error("this year's issue limit would be passed")]
    YearlyLimit,
    /// The account has less than that, or what it has is held for others.
    #[error("the account has less available")]
    InsufficientFunds,
}

/// Why the ledger could not answer. Nothing is known of what was asked: ask again with the same ids.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another process has the ledger open.
    #[error("the ledger in {0} is in use by another process; stop that one first")]
    Held(PathBuf),
    /// Stored entries are not what was written.
    #[error("the ledger is damaged at entry {entry}: {why}; restore its folder from a copy")]
    Damaged {
        /// The first that cannot be read; 0 where the database itself says so.
        entry: u64,
        /// What is wrong.
        why: String,
    },
    /// The disk refused.
    #[error("could not {what}: {why}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the database said.
        why: String,
    },
    /// A write failed before: nothing is taken until the ledger is opened again.
    #[error("a write of the ledger failed before")]
    Sealed,
    /// The actor did not answer.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl LedgerError {
    pub(crate) fn io(what: &'static str, error: &rocksdb::Error) -> Self {
        Self::Io {
            what,
            why: error.to_string(),
        }
    }

    /// Why an actor that met it must end; `None` where it may go on.
    pub(crate) fn exit_reason(&self) -> Option<ExitReason> {
        match self {
            Self::Damaged { .. } => Some(ExitReason::Corrupt(self.to_string())),
            Self::Io { .. } | Self::Sealed => Some(ExitReason::Fatal(self.to_string())),
            Self::Held(_) | Self::Call(_) => None,
        }
    }
}

impl From<LedgerError> for ExitReason {
    /// How a start that met this error has failed.
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Damaged { .. } => Self::Corrupt(error.to_string()),
            _ => Self::StartFailed(error.to_string()),
        }
    }
}
