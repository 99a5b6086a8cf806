use std::io;
use std::path::{Path, PathBuf};

use blyan_formats::{ErrorClass, PublicKey};
use serde::Serialize;

/// What is wrong with a record or a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum FaultKind {
    /// The line is not the canonical form of a record: a byte was changed, or a line was cut in the middle of the log.
    #[error("is no record: a byte was changed")]
    NotARecord,
    /// The record says that the node's key signed it, and its signature does not hold.
    #[error("was changed: the signature does not hold")]
    Changed,
    /// The signature holds, but it is another key's.
    #[error("was signed by another key, {found}")]
    OtherKey {
        /// Whose.
        found: PublicKey,
    },
    /// The record is nowhere in the log, and a later one is.
    #[error("was removed: record {found} stands in its place")]
    Removed {
        /// What follows instead.
        found: u64,
    },
    /// The record stands elsewhere in the log, or an earlier one stands here again.
    #[error("is not in its place: record {found} stands there")]
    OutOfOrder {
        /// What stands here instead.
        found: u64,
    },
    /// It has the right number and signature, but follows another record than the one before it.
    #[error("does not follow the record before it: it is from another log of the same key")]
    NotLinked,
    /// The file's name says another first record.
    #[error("is expected next, and the file's name says another first record")]
    FileName,
    /// Nothing but the log may lie in the folder.
    #[error("is not part of the log: nothing else may lie in this folder")]
    Stranger,
    /// The log ends before an anchor.
    #[error("is missing: the log was cut after record {last}, an anchor says it had {anchored}")]
    Cut {
        /// The last one that is there.
        last: u64,
        /// How many there were.
        anchored: u64,
    },
    /// The log is whole in itself, but is not the one that was anchored.
    #[error("is not the record that was anchored: the log was written anew")]
    AnchorDiffers,
}

/// The first fault of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("audit log, {file}: record {seq} {kind}")]
pub struct AuditFault {
    /// The file's name within the folder.
    pub file: String,
    /// Number of the record that is at fault or expected.
    pub seq: u64,
    /// What.
    #[serde(flatten)]
    pub kind: FaultKind,
}

/// What the audit log can meet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// The log is not what was written.
    #[error("{0}")]
    Fault(Box<AuditFault>),
    /// A generation before, or another process, still writes.
    #[error("{} is held by another writer", .0.display())]
    Held(PathBuf),
    /// The system refused a read.
    #[error("could not {what} {}: {why}", path.display())]
    Io {
        /// The action.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// A write or its sync failed, now or before: nothing is decided until the log has been opened anew.
    #[error("the audit log could not be made durable: {0}")]
    NotDurable(String),
    /// There is no room for a record: nothing was written, and the next one may be.
    #[error("nothing can be written to the audit log: {0}")]
    NoRoom(String),
}

impl AuditError {
    pub(crate) fn io(what: &'static str, path: &Path, error: &io::Error) -> Self {
        Self::Io {
            what,
            path: path.to_owned(),
            why: error.to_string(),
        }
    }

    pub(crate) fn not_durable(error: impl ToString) -> Self {
        Self::NotDurable(error.to_string())
    }

    /// What a supervisor must do.
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Fault(_) => ErrorClass::Corrupt,
            Self::Held(_) | Self::Io { .. } | Self::NoRoom(_) => ErrorClass::Transient,
            Self::NotDurable(_) => ErrorClass::Fatal,
        }
    }
}

impl From<AuditFault> for AuditError {
    fn from(fault: AuditFault) -> Self {
        Self::Fault(Box::new(fault))
    }
}
