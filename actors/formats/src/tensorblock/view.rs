use std::ops::Range;

use super::cast::from_bytes;
use super::fault::TensorFault;
use super::spec::{DType, HEADER_LEN, Quantisation, Sections, TensorSpec};
use super::tensor::{Tensor, TensorData};
use crate::hash::{HASH_LEN, PayloadHash};
use crate::merkle::{self, LEAF_LEN, Node, Proof};

/// A TensorBlock in memory, usually a map. The header has been checked against the length of the bytes; nothing has
/// been hashed until [`TensorView::verify_full`] or [`TensorView::verify_tile`] returns.
#[derive(Clone, Debug)]
pub struct TensorView<'a> {
    bytes: &'a [u8],
    spec: TensorSpec,
    sections: Sections,
    tensor: Tensor<'a>,
}

impl TensorSpec {
    /// The tensor of a whole file whose header said this when it was parsed; the header is not read again. `None` for
    /// bytes of another length or off a 4-byte boundary.
    #[must_use]
    pub fn tensor_in<'a>(&self, file: &'a [u8]) -> Option<Tensor<'a>> {
        let sections = self.sections().ok()?;
        let whole = sections.file_len() == file.len() as u64;
        whole.then(|| view_tensor(file, self, &sections)).flatten()
    }
}

impl<'a> TensorView<'a> {
    /// Checks the header and that every section lies inside of `bytes`, which must start on a 4-byte boundary of memory
    /// (maps and the allocator's buffers do). Reads the header only, allocates nothing.
    ///
    /// # Errors
    /// [`TensorFault::Header`], [`TensorFault::Shape`], [`TensorFault::FileLen`], [`TensorFault::Misaligned`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TensorFault> {
        let header = bytes
            .first_chunk::<HEADER_LEN>()
            .ok_or(TensorFault::Header("the file is shorter than 128 bytes"))?;
        let (spec, sections) = TensorSpec::decode(header)?;
        let (expected, found) = (sections.file_len(), bytes.len() as u64);
        if expected != found {
            return Err(TensorFault::FileLen { expected, found });
        }
        let tensor = view_tensor(bytes, &spec, &sections).ok_or(TensorFault::Misaligned)?;
        Ok(Self {
            bytes,
            spec,
            sections,
            tensor,
        })
    }

    #[must_use]
    pub const fn spec(&self) -> &TensorSpec {
        &self.spec
    }

    #[must_use]
    pub const fn sections(&self) -> &Sections {
        &self.sections
    }

    /// The tensor, in place.
    #[must_use]
    pub const fn tensor(&self) -> Tensor<'a> {
        self.tensor
    }

    /// Number of tiles: ranges of 64 KiB of everything before the tree, the last may be short.
    #[must_use]
    pub const fn tile_count(&self) -> u64 {
        merkle::leaf_count(self.sections.tree.start)
    }

    /// The bytes of one tile.
    #[must_use]
    pub fn tile(&self, index: u64) -> Option<&'a [u8]> {
        self.tile_range(index)
            .map(|range| slice(self.bytes, &range))
    }

    /// The root that the file itself claims.
    #[must_use]
    pub fn stored_root(&self) -> PayloadHash {
        PayloadHash::from_bytes(self.tree().last().copied().unwrap_or_default())
    }

    /// Checks every byte of the file in one pass, without allocating where the file is sound: padding, then the stored
    /// tree in itself and against `expected`, then each tile against the tree.
    ///
    /// # Errors
    /// The first fault; it names the section.
    pub fn verify_full(&self, expected: PayloadHash) -> Result<(), TensorFault> {
        self.check_padding()?;
        if !merkle::is_consistent(self.tree(), self.tile_count()) {
            return Err(TensorFault::Tree);
        }
        if self.stored_root() != expected {
            return Err(self.explain_root(expected));
        }
        (0..self.tile_count()).try_for_each(|index| self.check_tile(index))
    }

    /// Checks one tile against the stored tree, and the entries above it against `expected`.
    ///
    /// # Errors
    /// [`TensorFault::Tile`], [`TensorFault::Tree`], [`TensorFault::NoSuchTile`].
    pub fn verify_tile(&self, index: u64, expected: PayloadHash) -> Result<(), TensorFault> {
        let count = self.tile_count();
        let proof = self
            .tile_proof(index)
            .ok_or(TensorFault::NoSuchTile { index, count })?;
        if !proof.verify(
            expected,
            count,
            self.stored_leaf(index).ok_or(TensorFault::Tree)?,
        ) {
            return Err(TensorFault::Tree);
        }
        self.check_tile(index)
    }

    /// Takes the proof of one tile out of the stored tree.
    #[must_use]
    pub fn tile_proof(&self, index: u64) -> Option<Proof> {
        Proof::of(self.tree(), self.tile_count(), index)
    }

    fn tree(&self) -> &'a [Node] {
        slice(self.bytes, &self.sections.tree)
            .as_chunks::<HASH_LEN>()
            .0
    }

    fn stored_leaf(&self, index: u64) -> Option<&'a Node> {
        self.tree().get(usize::try_from(index).ok()?)
    }

    fn tile_range(&self, index: u64) -> Option<Range<u64>> {
        let start = index.checked_mul(LEAF_LEN as u64)?;
        let end = self
            .sections
            .tree
            .start
            .min(start.checked_add(LEAF_LEN as u64)?);
        (start < end).then_some(start..end)
    }

    fn check_padding(&self) -> Result<(), TensorFault> {
        let padding = slice(self.bytes, &self.sections.padding);
        match padding.iter().position(|byte| *byte != 0) {
            Some(at) => Err(TensorFault::Padding {
                at: self.sections.padding.start + at as u64,
            }),
            None => Ok(()),
        }
    }

    fn check_tile(&self, index: u64) -> Result<(), TensorFault> {
        let range = self.tile_range(index).ok_or(TensorFault::NoSuchTile {
            index,
            count: self.tile_count(),
        })?;
        if Some(&merkle::leaf_hash(slice(self.bytes, &range))) == self.stored_leaf(index) {
            return Ok(());
        }
        let (first, last) = (
            self.sections.section_at(range.start),
            self.sections.section_at(range.end - 1),
        );
        Err(TensorFault::Tile {
            index,
            start: range.start,
            end: range.end,
            first,
            last,
        })
    }

    /// The stored tree is sound in itself but has another root: either the tree was exchanged or the whole file.
    fn explain_root(&self, expected: PayloadHash) -> TensorFault {
        let leaves = slice(self.bytes, &(0..self.sections.tree.start))
            .chunks(LEAF_LEN)
            .map(merkle::leaf_hash);
        match merkle::root(leaves.collect()) {
            Some(root) if root == *expected.as_bytes() => TensorFault::Tree,
            _ => TensorFault::WrongPayload {
                expected,
                found: self.stored_root(),
            },
        }
    }
}

/// Checks a tile that came alone against a payload hash. `tile_count` must come from a trusted source:
/// [`merkle::leaf_count_of_file`] of the block header's `payload_len`.
#[must_use]
pub fn verify_proof(
    payload_hash: PayloadHash,
    tile_count: u64,
    proof: &Proof,
    tile: &[u8],
) -> bool {
    tile.len() <= LEAF_LEN && proof.verify(payload_hash, tile_count, &merkle::leaf_hash(tile))
}

/// A range that was checked to lie inside of `bytes`.
fn slice<'a>(bytes: &'a [u8], range: &Range<u64>) -> &'a [u8] {
    &bytes[range.start as usize..range.end as usize]
}

/// None if the memory is not aligned for the elements.
fn view_tensor<'a>(bytes: &'a [u8], spec: &TensorSpec, sections: &Sections) -> Option<Tensor<'a>> {
    let scales: &[f32] = from_bytes(slice(bytes, &sections.scales))?;
    let elements = slice(bytes, &sections.data);
    let data = match (spec.dtype, spec.quantisation) {
        (DType::Fp32, _) => TensorData::Fp32(from_bytes(elements)?),
        (DType::Fp16, _) => TensorData::Fp16(from_bytes(elements)?),
        (DType::Int8, Quantisation::PerRow) => TensorData::Int8Rows {
            values: from_bytes(elements)?,
            scales,
        },
        (DType::Int8, _) => TensorData::Int8Blocks {
            values: from_bytes(elements)?,
            scales,
        },
        (DType::Uint4, _) => {
            let (scales, minimums) = scales.split_at(scales.len() / 2);
            TensorData::Uint4Blocks {
                packed: elements,
                scales,
                minimums,
            }
        }
        (DType::Fp8, _) => return None,
    };
    Tensor::new(
        usize::try_from(spec.rows).ok()?,
        usize::try_from(spec.cols).ok()?,
        data,
    )
    .ok()
}
