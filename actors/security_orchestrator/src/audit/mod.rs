//! The audit log: what was decided, by whom and why, in files that can only grow.
//!
//! One record is one line of canonical JSON under `<data>/audit/`: a [`Record`] and the node key's signature over its
//! hash. A record names the hash of the one before, and its hash is SHA-256 over `blyan/audit/v1`, a zero byte and its
//! canonical JSON, so that every byte of every file is covered. Files are named by the number of their first record;
//! nothing else may lie in the folder.
//!
//! **The stated limit:** what was cut off after the last anchor is not found by [`verify`], as the records before it
//! are whole in themselves. An [`Anchor`] on chain A moves that limit forward.

mod anchor;
mod disk;
mod fault;
mod log;
mod record;
mod segment;
mod verify;
mod walk;

pub use anchor::Anchor;
pub use disk::{AuditDisk, RealDisk};
pub use fault::{AuditError, AuditFault, FaultKind};
pub use log::{AuditLog, AuditOptions};
pub use record::{
    AUDIT_DOMAIN, Action, Cause, Entry, LINE_LEN_MAX, REASON_LEN_MAX, Record, RecordHash,
    RecordOutcome, SUBJECT_LEN_MAX, WHO_LEN_MAX,
};
pub use verify::{AuditReport, verify};

/// The folder below the data directory.
pub const AUDIT_DIR: &str = "audit";
