//! What can be found out of a block without the chain: its hash, its stored form, whether its shape and signature hold.
//! It is most of an append's work, and is done on the caller's thread and on all cores.

use blyan_formats::block::BlockError;
use blyan_formats::keys::SignatureFault;
use blyan_formats::{BlockHash, SignedBlock};
use rayon::prelude::*;

use crate::ChainError;
use crate::core::Refusal;
use crate::metrics;
use crate::writer::NewBlock;

/// Blocks on one thread below which it is not worth waking another: some 2 ms of signatures.
const SIGNATURES_TOGETHER: usize = 32;

/// A block whose shape and signature hold; whether it follows, and whether its signer may sign, is the chain's to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedBlock {
    hash: BlockHash,
    stored: Vec<u8>,
    new: NewBlock,
}

impl CheckedBlock {
    /// Checks blocks; the first that does not hold, in their order, is named.
    ///
    /// # Errors
    /// [`ChainError::Refused`] for its shape or its signature.
    pub fn check_all(blocks: Vec<NewBlock>) -> Result<Vec<Self>, ChainError> {
        let blocks = blocks.into_par_iter().with_min_len(SIGNATURES_TOGETHER);
        let checked: Vec<_> = blocks.map(Self::check).collect();
        checked.into_iter().collect()
    }

    fn check(new: NewBlock) -> Result<Self, ChainError> {
        let (hash, stored) = new.block.written();
        let header = &new.block.header;
        let shape = header.validate_shape().map_err(Refusal::Shape);
        let signed = shape.and_then(|()| {
            let verified = header.miner_pub.verify(hash, &new.block.signature);
            verified.map_err(signature_refused)
        });
        match signed {
            Ok(()) => Ok(Self { hash, stored, new }),
            Err(refusal) => {
                metrics::refused(&refusal);
                Err(ChainError::Refused {
                    block: hash,
                    refusal: Box::new(refusal),
                })
            }
        }
    }

    /// The block's hash.
    pub const fn hash(&self) -> BlockHash {
        self.hash
    }

    /// Its canonical form.
    pub fn stored(&self) -> &[u8] {
        &self.stored
    }

    /// The block and its payload.
    pub const fn new_block(&self) -> &NewBlock {
        &self.new
    }
}

/// What the signature of each stored block was found to be, by all cores. `hash` must be that of each block.
pub fn check_signatures(blocks: &[(BlockHash, SignedBlock)]) -> Vec<Result<(), SignatureFault>> {
    let blocks = blocks.par_iter().with_min_len(SIGNATURES_TOGETHER);
    blocks
        .map(|(hash, block)| block.header.miner_pub.verify(*hash, &block.signature))
        .collect()
}

pub(crate) const fn signature_refused(fault: SignatureFault) -> Refusal {
    Refusal::Signature(BlockError::Signature(fault))
}
