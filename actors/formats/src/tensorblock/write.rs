use std::io::{self, Write};

use super::cast::to_bytes;
use super::fault::TensorError;
use super::spec::DATA_ALIGNMENT;
use super::tensor::{Tensor, TensorData};
use crate::hash::PayloadHash;
use crate::merkle::{self, LEAF_LEN, LeafHasher};

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Root of the tree.
    pub payload_hash: PayloadHash,
    /// Length of the file in bytes.
    pub len: u64,
}

/// Writes a tensor as a TensorBlock; equal tensors give equal bytes. Nothing is buffered but the tree, and `out` is not
/// flushed. With `io::sink()` it computes the hash alone.
///
/// # Errors
/// [`TensorError::NotFinite`] before anything is written; [`TensorError::Io`].
pub fn write_tensorblock(
    tensor: &Tensor<'_>,
    out: &mut impl Write,
) -> Result<Written, TensorError> {
    tensor.check_finite()?;
    let spec = tensor.spec();
    let sections = spec.sections()?;
    let mut hashed = HashedWriter {
        out,
        leaves: LeafHasher::default(),
    };
    hashed.write(&spec.encode(&sections))?;
    let padding = [0; DATA_ALIGNMENT as usize];
    let padding = &padding[..(sections.padding.end - sections.padding.start) as usize];
    hashed.write_body(tensor.data(), padding)?;
    let tree = merkle::build(hashed.leaves.finish());
    out.write_all(tree.as_flattened())?;
    let root = *tree
        .last()
        .expect("a tensor has at least one tile, its header");
    Ok(Written {
        payload_hash: PayloadHash::from_bytes(root),
        len: sections.file_len(),
    })
}

struct HashedWriter<'a, W> {
    out: &'a mut W,
    leaves: LeafHasher,
}

impl<W: Write> HashedWriter<'_, W> {
    /// Writes in pieces, so that the bytes are still in the processor's cache when they are hashed.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(LEAF_LEN) {
            self.out.write_all(piece)?;
            self.leaves.update(piece);
        }
        Ok(())
    }

    fn write_body(&mut self, data: TensorData<'_>, padding: &[u8]) -> io::Result<()> {
        let (scales, minimums, elements): (&[f32], &[f32], &[u8]) = match data {
            TensorData::Fp32(values) => (&[], &[], to_bytes(values)),
            TensorData::Fp16(values) => (&[], &[], to_bytes(values)),
            TensorData::Int8Rows { values, scales } | TensorData::Int8Blocks { values, scales } => {
                (scales, &[], to_bytes(values))
            }
            TensorData::Uint4Blocks {
                packed,
                scales,
                minimums,
            } => (scales, minimums, packed),
        };
        for part in [to_bytes(scales), to_bytes(minimums), padding, elements] {
            self.write(part)?;
        }
        Ok(())
    }
}
