//! Verification of a TensorBlock that is not in memory.

use std::io::{self, Read};
use std::ops::Range;

use half::f16;

use super::fault::TensorFault;
use super::spec::{DType, HEADER_LEN, Sections, TensorSpec};
use crate::hash::{HASH_LEN, PayloadHash};
use crate::merkle::{self, LEAF_LEN, Node};

/// Why a stream is not the TensorBlock that it should be.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error(transparent)]
    Fault(#[from] TensorFault),
    #[error("the number at byte {at} is not finite")]
    NotFinite { at: u64 },
    #[error("reading a TensorBlock: {0}")]
    Io(#[from] io::Error),
}

/// Checks every byte of a file of `len` bytes as [`TensorView::verify_full`](super::TensorView::verify_full) does, and
/// that every scale, minimum and floating-point element is finite. Keeps one tile and the hashes of all: 64 KiB and a
/// thousandth of the file.
///
/// # Errors
/// The first fault, in the order header, padding and numbers, tree, root, tiles; [`StreamError::Io`].
pub fn verify_stream(
    from: &mut impl Read,
    len: u64,
    expected: PayloadHash,
) -> Result<TensorSpec, StreamError> {
    verify_with(from, len, expected, check_finite_numbers)
}

/// As [`verify_stream`], without a look at the numbers: what a block on the chain promises of its payload.
///
/// # Errors
/// As [`verify_stream`].
pub fn verify_stream_bytes(
    from: &mut impl Read,
    len: u64,
    expected: PayloadHash,
) -> Result<TensorSpec, StreamError> {
    verify_with(from, len, expected, |_, _, _, _| Ok(()))
}

/// `check` is given each tile and where it starts in the file.
fn verify_with(
    from: &mut impl Read,
    len: u64,
    expected: PayloadHash,
    check: impl Fn(&[u8], u64, &TensorSpec, &Sections) -> Result<(), StreamError>,
) -> Result<TensorSpec, StreamError> {
    let mut tile = vec![0; LEAF_LEN];
    let first = len.min(LEAF_LEN as u64) as usize;
    from.read_exact(&mut tile[..first])?;
    let (spec, sections) = read_header(&tile[..first], len)?;
    let covered = sections.tree.start;
    let mut leaves = Vec::new();
    // The first tile of a short file was read with a part of its tree.
    let mut beyond = Vec::new();
    let mut at = 0;
    while at < covered {
        let end = covered.min(at + LEAF_LEN as u64);
        let bytes = &mut tile[..(end - at) as usize];
        if at > 0 {
            from.read_exact(bytes)?;
        }
        check_padding(bytes, at, &sections)?;
        check(bytes, at, &spec, &sections)?;
        leaves.push(merkle::leaf_hash(bytes));
        if at == 0 {
            beyond.extend_from_slice(&tile[(end - at) as usize..first]);
        }
        at = end;
    }
    let stored = read_tree(&mut beyond.as_slice().chain(from), &sections)?;
    judge(&leaves, &stored, &sections, expected)?;
    Ok(spec)
}

fn read_header(start: &[u8], len: u64) -> Result<(TensorSpec, Sections), TensorFault> {
    let header = start
        .first_chunk::<HEADER_LEN>()
        .ok_or(TensorFault::Header("the file is shorter than 128 bytes"))?;
    let (spec, sections) = TensorSpec::decode(header)?;
    let expected = sections.file_len();
    if expected == len {
        Ok((spec, sections))
    } else {
        Err(TensorFault::FileLen {
            expected,
            found: len,
        })
    }
}

fn read_tree(from: &mut impl Read, sections: &Sections) -> io::Result<Vec<Node>> {
    let entries = (sections.tree.end - sections.tree.start) / HASH_LEN as u64;
    let mut tree = vec![[0; HASH_LEN]; entries as usize];
    from.read_exact(tree.as_flattened_mut())?;
    Ok(tree)
}

/// Checks the zeros among `bytes`, which stand at `at` in the file.
fn check_padding(bytes: &[u8], at: u64, sections: &Sections) -> Result<(), TensorFault> {
    let (start, padding) = part(bytes, at, &sections.padding);
    match padding.iter().position(|byte| *byte != 0) {
        Some(offset) => Err(TensorFault::Padding {
            at: start + offset as u64,
        }),
        None => Ok(()),
    }
}

/// Checks the floats among `bytes`, which stand at `at` in the file. Tiles and sections start at multiples of 4 bytes, so
/// no float lies in two tiles.
fn check_finite_numbers(
    bytes: &[u8],
    at: u64,
    spec: &TensorSpec,
    sections: &Sections,
) -> Result<(), StreamError> {
    let (scales_at, scales) = part(bytes, at, &sections.scales);
    check_finite(scales, scales_at, |bytes| {
        f32::from_le_bytes(bytes).is_finite()
    })?;
    let (data_at, data) = part(bytes, at, &sections.data);
    match spec.dtype {
        DType::Fp32 => check_finite(data, data_at, |bytes| f32::from_le_bytes(bytes).is_finite()),
        DType::Fp16 => check_finite(data, data_at, |bytes| f16::from_le_bytes(bytes).is_finite()),
        DType::Int8 | DType::Fp8 | DType::Uint4 => Ok(()),
    }
}

/// Where the part of a section that lies in `bytes` starts in the file, and its bytes.
fn part<'a>(bytes: &'a [u8], at: u64, section: &Range<u64>) -> (u64, &'a [u8]) {
    let end = at + bytes.len() as u64;
    let (from, to) = (section.start.clamp(at, end), section.end.clamp(at, end));
    (from, &bytes[(from - at) as usize..(to - at) as usize])
}

fn check_finite<const N: usize>(
    bytes: &[u8],
    at: u64,
    is_finite: impl Fn([u8; N]) -> bool,
) -> Result<(), StreamError> {
    let numbers = bytes.as_chunks::<N>().0;
    match numbers.iter().position(|number| !is_finite(*number)) {
        Some(index) => Err(StreamError::NotFinite {
            at: at + (index * N) as u64,
        }),
        None => Ok(()),
    }
}

/// Holds the leaves that were found against the stored tree, and that against the hash.
fn judge(
    leaves: &[Node],
    stored: &[Node],
    sections: &Sections,
    expected: PayloadHash,
) -> Result<(), TensorFault> {
    if !merkle::is_consistent(stored, leaves.len() as u64) {
        return Err(TensorFault::Tree);
    }
    let root = PayloadHash::from_bytes(stored.last().copied().unwrap_or_default());
    if root != expected {
        return Err(match merkle::root(leaves.to_vec()) {
            Some(found) if found == *expected.as_bytes() => TensorFault::Tree,
            _ => TensorFault::WrongPayload {
                expected,
                found: root,
            },
        });
    }
    match leaves
        .iter()
        .zip(stored)
        .position(|(found, stored)| found != stored)
    {
        Some(index) => Err(tile_fault(index as u64, sections)),
        None => Ok(()),
    }
}

fn tile_fault(index: u64, sections: &Sections) -> TensorFault {
    let start = index * LEAF_LEN as u64;
    let end = sections.tree.start.min(start + LEAF_LEN as u64);
    TensorFault::Tile {
        index,
        start,
        end,
        first: sections.section_at(start),
        last: sections.section_at(end - 1),
    }
}
