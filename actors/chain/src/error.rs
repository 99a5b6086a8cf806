use std::io;
use std::path::PathBuf;
use std::time::Duration;

use blyan_formats::{BlockHash, ErrorClass, FormatError, PayloadHash};
use blyan_protocol::{ErrorCode, ExpertFault, ModelId, PublicError};
use blyan_supervisors::{CallError, ExitReason};

use crate::core::Refusal;
use crate::verify::Fault;

/// Everything that can go wrong with the chain, classed by [`ChainError::class`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The block breaks a rule of the chain.
    #[error("block {block} is refused: {refusal}")]
    Refused {
        /// Its hash.
        block: BlockHash,
        /// The first rule it breaks.
        refusal: Box<Refusal>,
    },
    /// What the caller wants stored is not well-formed.
    #[error("not well-formed: {0}")]
    Malformed(String),
    /// The directory holds no chain yet.
    #[error("{} holds no chain yet", .0.display())]
    NoChain(PathBuf),
    /// The store belongs to another network than the configuration names (SEC-23).
    #[error("the store's genesis is {found}, the configuration pins {expected}")]
    OtherNetwork {
        /// What `chain.genesis` says.
        expected: BlockHash,
        /// The genesis of the store; `None` for an empty store, which has no way yet to get it from peers.
        found: Genesis,
    },
    /// The store was opened for reading.
    #[error("the store is open for reading only")]
    ReadOnly,
    /// No block has this hash.
    #[error("there is no block {0}")]
    NoBlock(BlockHash),
    /// No manifest has this hash, or none was published yet.
    #[error("no model {}is published on this chain", .0.map(|id| format!("{id} ")).unwrap_or_default())]
    NoModel(Option<ModelId>),
    /// No block on the chain names this payload.
    #[error("no block names the payload {0}")]
    NoPayload(PayloadHash),
    /// No snapshot has this id, or there is none.
    #[error("there is no snapshot{}", .0.as_deref().map(|id| format!(" {id}")).unwrap_or_default())]
    NoSnapshot(Option<String>),
    /// Another process may write to this directory.
    #[error("{} is held by a running node", .0.display())]
    Held(PathBuf),
    /// An older write has not ended.
    #[error("a write of the generation before has not ended")]
    Busy,
    /// The actor did not take the message, or did not answer.
    #[error("the chain does not answer: {0}")]
    Call(#[from] CallError),
    /// The system refused a read, or a write that nothing stands on yet.
    #[error("could not {what}: {why}")]
    Io {
        /// The action.
        what: &'static str,
        /// What the system says.
        why: String,
    },
    /// Less room than is kept free: nothing was written, and the store takes writes again once there is room.
    #[error(
        "the disk is full: {free} bytes are free, {kept} are kept; nothing is written until there is room"
    )]
    DiskFull {
        /// Bytes that are free.
        free: u64,
        /// Bytes that must be.
        kept: u64,
    },
    /// A write or its sync failed: nothing was published, and nothing more is written.
    #[error("{what} could not be made durable: {why}; nothing was published")]
    NotDurable {
        /// What was written.
        what: &'static str,
        /// What the system says.
        why: String,
    },
    /// The generation that holds this token has been replaced.
    #[error("the writer's generation {held} was replaced by {current}")]
    Fenced {
        /// The token's generation.
        held: u64,
        /// The store's.
        current: u64,
    },
    /// The database fails its own checksums, or its records do not fit each other.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// One stored object does not hold what it must.
    #[error("{0}")]
    Corrupt(Box<Fault>),
}

/// The genesis of a store, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Genesis(pub Option<BlockHash>);

impl std::fmt::Display for Genesis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(hash) => hash.fmt(f),
            None => f.write_str("not there yet"),
        }
    }
}

impl ChainError {
    pub(crate) fn io(what: &'static str, error: io::Error) -> Self {
        Self::Io {
            what,
            why: error.to_string(),
        }
    }

    pub(crate) fn not_durable(what: &'static str, error: &io::Error) -> Self {
        Self::NotDurable {
            what,
            why: error.to_string(),
        }
    }

    /// What a supervisor must do.
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Refused { .. }
            | Self::Malformed(_)
            | Self::NoChain(_)
            | Self::OtherNetwork { .. }
            | Self::ReadOnly
            | Self::NoBlock(_)
            | Self::NoModel(_)
            | Self::NoPayload(_)
            | Self::NoSnapshot(_) => ErrorClass::Rejected,
            Self::Held(_)
            | Self::Busy
            | Self::Call(_)
            | Self::Io { .. }
            | Self::DiskFull { .. } => ErrorClass::Transient,
            Self::NotDurable { .. } | Self::Fenced { .. } => ErrorClass::Fatal,
            Self::Damaged(_) | Self::Corrupt(_) => ErrorClass::Corrupt,
        }
    }

    /// How the actor must end for this error; `None` where it lives on. A damaged database ends it for good, one
    /// damaged object does not.
    pub fn exit_reason(&self) -> Option<ExitReason> {
        match self {
            Self::NotDurable { .. } | Self::Fenced { .. } => {
                Some(ExitReason::Fatal(self.to_string()))
            }
            Self::Damaged(_) => Some(ExitReason::Corrupt(self.to_string())),
            _ => None,
        }
    }

    const fn code(&self) -> ErrorCode {
        match self {
            Self::Refused { .. } | Self::Malformed(_) | Self::ReadOnly => ErrorCode::InvalidRequest,
            Self::NoBlock(_) | Self::NoPayload(_) | Self::NoSnapshot(_) => ErrorCode::NotFound,
            Self::NoModel(_) => ErrorCode::ModelNotFound,
            Self::Held(_) | Self::Busy | Self::Io { .. } | Self::NoChain(_) => {
                ErrorCode::Unavailable
            }
            Self::DiskFull { .. } => ErrorCode::StorageFull,
            Self::Call(CallError::Quarantined { .. }) => ErrorCode::Quarantined,
            Self::Call(CallError::Full { .. }) => ErrorCode::Overloaded,
            Self::Call(CallError::Timeout) => ErrorCode::Timeout,
            Self::Call(_) => ErrorCode::Unavailable,
            Self::Corrupt(fault) if fault.name().is_some() => ErrorCode::ExpertCorrupt,
            Self::OtherNetwork { .. }
            | Self::NotDurable { .. }
            | Self::Fenced { .. }
            | Self::Damaged(_)
            | Self::Corrupt(_) => ErrorCode::Internal,
        }
    }

    const fn hint(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "correct the block; the rule that it breaks is named",
            Self::Malformed(_) => "correct the request",
            Self::NoChain(_) => "run `blyan import`, or start the node, which imports first",
            Self::OtherNetwork { .. } => "use another data directory, or correct chain.genesis",
            Self::ReadOnly => "stop the node and use a command that writes",
            Self::NoBlock(_) | Self::NoPayload(_) => {
                "look the hash up in GET /chain/B/head or in the manifest"
            }
            Self::NoSnapshot(_) => "`blyan snapshot list` shows those that there are",
            Self::NoModel(_) => "GET /v1/models lists the models that are served",
            Self::Held(_) => "stop the node that runs on this directory, or use another one",
            Self::Busy | Self::Call(_) | Self::Io { .. } => "try again in a moment",
            Self::DiskFull { .. } => {
                "wait; the operator has to make room, and the node takes writes again by itself"
            }
            Self::NotDurable { .. } => "check the disk, then restart the node",
            Self::Fenced { .. } => "try again in a moment; the part was restarted",
            Self::Damaged(_) => {
                "run `blyan verify`; restore the data directory from a copy or import again"
            }
            Self::Corrupt(_) => "run `blyan verify`, then import again to heal the payload",
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Call(call) => call.retry_after(),
            Self::Busy | Self::Io { .. } => Some(Duration::from_secs(1)),
            Self::DiskFull { .. } => Some(Duration::from_secs(30)),
            _ => None,
        }
    }
}

impl From<Fault> for ChainError {
    fn from(fault: Fault) -> Self {
        Self::Corrupt(Box::new(fault))
    }
}

impl From<FormatError> for ChainError {
    fn from(error: FormatError) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl From<ChainError> for PublicError {
    fn from(error: ChainError) -> Self {
        let mut public = Self::new(error.code(), error.to_string(), error.hint());
        if let Some(after) = error.retry_after() {
            public = public.retry_after_ms(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        }
        if let ChainError::Corrupt(fault) = &error
            && let (Some(name), Some(payload)) = (fault.name(), fault.payload())
        {
            public = public.about_expert(ExpertFault {
                name: name.to_string(),
                hash: payload.to_string(),
            });
        }
        public
    }
}

impl From<ChainError> for ExitReason {
    /// How a start that met this error has failed. The index stands on every header, so there one damaged object is
    /// enough to end for good.
    fn from(error: ChainError) -> Self {
        match error.class() {
            ErrorClass::Corrupt => Self::Corrupt(error.to_string()),
            _ => error
                .exit_reason()
                .unwrap_or_else(|| Self::StartFailed(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blyan_formats::TensorName;

    #[test]
    fn the_class_says_whether_the_actor_ends() {
        let why = || "no space".to_owned();
        let lives = [
            ChainError::Malformed(why()),
            ChainError::Busy,
            ChainError::DiskFull { free: 1, kept: 2 },
            ChainError::Io {
                what: "read",
                why: why(),
            },
            ChainError::from(Fault::Anchor(BlockHash::from_bytes([1; 32]))),
        ];
        assert!(lives.iter().all(|error| error.exit_reason().is_none()));
        let not_durable = ChainError::NotDurable {
            what: "a batch",
            why: why(),
        };
        assert!(matches!(
            not_durable.exit_reason(),
            Some(ExitReason::Fatal(_))
        ));
        let damaged = ChainError::Damaged(why());
        assert!(matches!(
            damaged.exit_reason(),
            Some(ExitReason::Corrupt(_))
        ));
        assert!(matches!(
            ExitReason::from(lives[4].clone()),
            ExitReason::Corrupt(_)
        ));
        assert!(matches!(
            ExitReason::from(lives[1].clone()),
            ExitReason::StartFailed(_)
        ));
    }

    #[test]
    fn a_corrupt_payload_names_its_expert_to_the_public() {
        let (block, payload) = (BlockHash::from_bytes([1; 32]), PayloadHash::of_bytes(b"x"));
        let name = TensorName::expert_of(4, 7);
        let error = ChainError::from(Fault::PayloadMissing {
            block,
            name,
            payload,
        });
        let public = PublicError::from(error);
        let expert = ExpertFault {
            name: "layer4.expert7".to_owned(),
            hash: payload.to_string(),
        };
        assert_eq!(
            (public.code, public.expert),
            (ErrorCode::ExpertCorrupt, Some(expert))
        );
    }

    #[test]
    fn a_refusal_of_the_runtime_keeps_its_retry_time() {
        let full = CallError::Full {
            retry_after: Duration::from_millis(40),
        };
        let public = PublicError::from(ChainError::from(full));
        assert_eq!(
            (public.code, public.retry_after_ms),
            (ErrorCode::Overloaded, Some(40))
        );
    }
}
