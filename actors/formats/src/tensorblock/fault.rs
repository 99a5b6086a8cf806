use std::fmt;
use std::io;

use super::spec::{DType, Quantisation};
use crate::hash::PayloadHash;

/// A part of a TensorBlock file, in file order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Section {
    Header,
    Scales,
    Padding,
    Data,
    Tree,
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "header",
            Self::Scales => "scales",
            Self::Padding => "padding",
            Self::Data => "data",
            Self::Tree => "tree",
        })
    }
}

/// Why a tensor cannot be made, read or written as asked.
#[derive(Debug, thiserror::Error)]
pub enum TensorError {
    #[error("no TensorBlock holds {dtype:?} with quantisation {quantisation:?}")]
    Unsupported {
        dtype: DType,
        quantisation: Quantisation,
    },
    #[error("shape {rows} x {cols}: {rule}")]
    Shape {
        rows: u64,
        cols: u64,
        rule: &'static str,
    },
    #[error("{what}: {found} elements instead of {expected}")]
    Len {
        what: &'static str,
        expected: usize,
        found: usize,
    },
    #[error("{what} {index} is not finite")]
    NotFinite { what: &'static str, index: usize },
    #[error("quantised value {index} is above 15")]
    Uint4Range { index: usize },
    #[error("rows {start}..{end} of a tensor of {rows}")]
    Rows {
        start: usize,
        end: usize,
        rows: usize,
    },
    #[error("tensors of different kinds or widths cannot be joined")]
    Join,
    #[error("writing a TensorBlock: {0}")]
    Io(#[from] io::Error),
}

/// What is wrong with a stored TensorBlock, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorFault {
    #[error("header: {0}")]
    Header(&'static str),
    #[error("header: shape {rows} x {cols} is impossible")]
    Shape { rows: u64, cols: u64 },
    #[error("file has {found} bytes where its header says {expected}")]
    FileLen { expected: u64, found: u64 },
    #[error("the bytes do not start on a 4-byte boundary of memory")]
    Misaligned,
    #[error("padding: byte {at} is not zero")]
    Padding { at: u64 },
    #[error("tree: the stored Merkle tree does not belong to this file")]
    Tree,
    #[error("tile {index} ({first} to {last}, bytes {start}..{end}) does not match its hash")]
    Tile {
        index: u64,
        start: u64,
        end: u64,
        first: Section,
        last: Section,
    },
    #[error("there is no tile {index}, only {count}")]
    NoSuchTile { index: u64, count: u64 },
    #[error("this is another payload: {found} instead of {expected}")]
    WrongPayload {
        expected: PayloadHash,
        found: PayloadHash,
    },
}

impl TensorFault {
    /// The section at fault, where it is one section: none for another payload, a bad tile number and bad memory. A
    /// tile over several sections is reported as its last.
    #[must_use]
    pub const fn section(&self) -> Option<Section> {
        match self {
            Self::Header(_) | Self::Shape { .. } | Self::FileLen { .. } => Some(Section::Header),
            Self::Padding { .. } => Some(Section::Padding),
            Self::Tree => Some(Section::Tree),
            Self::Tile { last, .. } => Some(*last),
            Self::Misaligned | Self::NoSuchTile { .. } | Self::WrongPayload { .. } => None,
        }
    }
}
