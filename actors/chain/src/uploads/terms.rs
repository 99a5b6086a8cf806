//! What a block must say before its payload is taken.

use blyan_formats::tensorblock::{DType, Quantisation, TensorSpec};
use blyan_formats::{BlockHash, BlockHeader, BlockType, SignedBlock};

use super::UploadError;
use crate::ChainError;
use crate::core::{Admission, Evidence, Payload, Refusal};
use crate::reader::ChainReader;
use crate::store::Store;

/// What the chain says of a block that somebody wants to upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadTerms {
    /// Whether it would be new, or is there already.
    pub admission: Admission,
    /// The architecture of the newest manifest.
    pub architecture: BlockHash,
    /// Rows and columns that this architecture gives the block's tensor.
    pub shape: Option<(u64, u64)>,
}

impl<S: Store> ChainReader<S> {
    /// Holds a block against every rule of the chain as if its payload were there.
    ///
    /// # Errors
    /// [`ChainError::Refused`]; [`ChainError::NoModel`] before the first manifest; as [`ChainReader::architecture`].
    pub fn upload_terms(&self, block: &SignedBlock) -> Result<UploadTerms, ChainError> {
        let payload = Payload::File(block.header.payload_len);
        let admitted = self.index().draft().admit(block, Evidence::of(payload));
        let admission = admitted.map_err(|refusal| ChainError::Refused {
            block: block.hash(),
            refusal: Box::new(refusal),
        })?;
        let params = self.index().params().ok_or(ChainError::NoModel(None))?;
        let architecture = self.architecture(params.architecture())?;
        let name = block.header.expert_name.as_ref();
        Ok(UploadTerms {
            admission,
            architecture: params.architecture(),
            shape: name.and_then(|name| architecture.tensor_shape(name)),
        })
    }
}

/// What can be seen from the block alone: that it is an expert's, its shape, its signature.
///
/// # Errors
/// [`UploadError::NotAnExpert`]; [`UploadError::Refused`].
pub fn check_form(block: &SignedBlock) -> Result<(), UploadError> {
    let block_type = block.header.block_type;
    if block_type != BlockType::Expert {
        return Err(UploadError::NotAnExpert(block_type));
    }
    block.verify().map_err(|fault| {
        UploadError::Refused(Box::new(match fault {
            fault @ blyan_formats::block::BlockError::Signature(_) => Refusal::Signature(fault),
            fault => Refusal::Shape(fault),
        }))
    })
}

/// The tensor that an expert's payload must hold: int8 with a scale for each block of 32, which is what the kernels
/// compute, in the shape that the served architecture gives the expert.
///
/// # Errors
/// [`UploadError::Architecture`], [`UploadError::Name`], [`UploadError::Len`].
pub fn expected_tensor(
    header: &BlockHeader,
    terms: &UploadTerms,
) -> Result<TensorSpec, UploadError> {
    let served = terms.architecture;
    if header.meta_ref != Some(served) {
        return Err(UploadError::Architecture { served });
    }
    let name = header.expert_name.map(|name| name.to_string());
    let name = name.unwrap_or_default();
    let Some((rows, cols)) = terms.shape else {
        return Err(UploadError::Name(name));
    };
    let spec = TensorSpec::new(DType::Int8, Quantisation::Blocks32, rows, cols);
    let sections = spec.sections().map_err(|_| UploadError::Name(name))?;
    let (expected, found) = (sections.file_len(), header.payload_len);
    if expected == found {
        Ok(spec)
    } else {
        Err(UploadError::Len {
            rows,
            cols,
            expected,
            found,
        })
    }
}
