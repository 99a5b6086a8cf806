use blyan_formats::tensorblock::{Section, TensorFault};
use blyan_formats::{BlockHash, PayloadHash, TensorName};
use blyan_protocol::RequestId;

use crate::core::Refusal;

/// What is wrong with a stored object, and which one it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The stored header is not what its hash says.
    #[error("header of block {block}: {why}")]
    Header {
        /// The hash under which it is stored.
        block: BlockHash,
        /// What is wrong.
        why: String,
    },
    /// The stored block breaks a rule of the chain.
    #[error("block {block}{}: {refusal}", of(.name))]
    Refused {
        /// The block.
        block: BlockHash,
        /// The tensor that it carries.
        name: Option<TensorName>,
        /// The first rule that it breaks.
        refusal: Refusal,
    },
    /// The chain does not hold the block that it is held against.
    #[error(
        "the anchor {0} is not on this chain: it is another chain, or an older state of this one"
    )]
    Anchor(BlockHash),
    /// The commit record is missing or malformed.
    #[error("commit record of block {block}: {why}")]
    CommitRecord {
        /// The block.
        block: BlockHash,
        /// What is wrong.
        why: String,
    },
    /// A record of an index does not follow from the blocks.
    #[error("index {family}: {why}")]
    Index {
        /// The column family.
        family: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A JSON payload is missing or not what its hash says.
    #[error("payload {payload} of block {block}: {why}")]
    Body {
        /// The block.
        block: BlockHash,
        /// The payload.
        payload: PayloadHash,
        /// What is wrong.
        why: String,
    },
    /// A payload file is not there.
    #[error("payload {payload} of block {block} ({name}) is not there")]
    PayloadMissing {
        /// The block.
        block: BlockHash,
        /// The tensor.
        name: TensorName,
        /// The payload.
        payload: PayloadHash,
    },
    /// A payload file has another length than the header of its block binds.
    #[error("payload {payload} of block {block} ({name}) has {found} bytes, not {expected}")]
    PayloadLen {
        /// The block.
        block: BlockHash,
        /// The tensor.
        name: TensorName,
        /// The payload.
        payload: PayloadHash,
        /// What the header binds, in bytes.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// A payload file is damaged.
    #[error("payload {payload} of block {block} ({name}): {fault}")]
    Payload {
        /// The block.
        block: BlockHash,
        /// The tensor.
        name: TensorName,
        /// The payload.
        payload: PayloadHash,
        /// What is wrong, and in which section.
        fault: TensorFault,
    },
    /// A payload is sound, but its tensor has not the shape that the architecture asks for.
    #[error(
        "payload {payload} of block {block} ({name}) has shape {found:?}, the architecture asks for {expected:?}"
    )]
    Shape {
        /// The block.
        block: BlockHash,
        /// The tensor.
        name: TensorName,
        /// The payload.
        payload: PayloadHash,
        /// Rows and columns; none if the architecture has no such tensor.
        expected: Option<(u64, u64)>,
        /// Rows and columns.
        found: (u64, u64),
    },
    /// A receipt is malformed.
    #[error("receipt of {request}: {why}")]
    Receipt {
        /// The request.
        request: RequestId,
        /// What is wrong.
        why: String,
    },
}

fn of(name: &Option<TensorName>) -> String {
    name.map(|name| format!(" ({name})")).unwrap_or_default()
}

impl Fault {
    /// The block at fault.
    pub const fn block(&self) -> Option<BlockHash> {
        match self {
            Self::Header { block, .. }
            | Self::Refused { block, .. }
            | Self::CommitRecord { block, .. }
            | Self::Body { block, .. }
            | Self::PayloadMissing { block, .. }
            | Self::PayloadLen { block, .. }
            | Self::Payload { block, .. }
            | Self::Shape { block, .. } => Some(*block),
            Self::Anchor(_) | Self::Index { .. } | Self::Receipt { .. } => None,
        }
    }

    /// The tensor that the block at fault carries.
    pub const fn name(&self) -> Option<TensorName> {
        match self {
            Self::PayloadMissing { name, .. }
            | Self::PayloadLen { name, .. }
            | Self::Payload { name, .. }
            | Self::Shape { name, .. } => Some(*name),
            Self::Refused { name, .. } => *name,
            _ => None,
        }
    }

    /// The payload at fault.
    pub const fn payload(&self) -> Option<PayloadHash> {
        match self {
            Self::Body { payload, .. }
            | Self::PayloadMissing { payload, .. }
            | Self::PayloadLen { payload, .. }
            | Self::Payload { payload, .. }
            | Self::Shape { payload, .. } => Some(*payload),
            _ => None,
        }
    }

    /// The section of the TensorBlock at fault, where it is one.
    pub const fn section(&self) -> Option<Section> {
        match self {
            Self::Payload { fault, .. } => fault.section(),
            _ => None,
        }
    }
}
