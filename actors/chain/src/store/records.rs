use std::ops::ControlFlow;

use blyan_formats::{
    BlockHash, BlockHeader, ChainId, CommitRecord, ContentHash, PayloadHash, SignedBlock,
    from_canonical,
};
use blyan_protocol::{Receipt, RequestId};
use rayon::prelude::*;

/// Blocks whose stored bytes are in memory at a time while all are read.
const READ_TOGETHER: usize = 4096;
/// Blocks below which it is not worth waking another thread: some 1 ms of reading.
const READ_ON_ONE_THREAD: usize = 128;

use super::{Batch, Family, Store};
use crate::ChainError;
use crate::checked::CheckedBlock;
use crate::verify::Fault;
use crate::writer::NewBlock;

/// Where a page of receipts goes on: after this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiptCursor {
    /// End of the request, ms since 1970.
    pub ended_ms: u64,
    /// The request.
    pub request_id: RequestId,
}

impl ReceiptCursor {
    /// The place of a receipt in the order of [`Records::receipts`].
    pub const fn of(receipt: &Receipt) -> Self {
        Self {
            ended_ms: receipt.ended_ms,
            request_id: receipt.request_id,
        }
    }

    fn key(&self) -> [u8; 24] {
        let mut key = [0; 24];
        key[..8].copy_from_slice(&self.ended_ms.to_be_bytes());
        key[8..].copy_from_slice(self.request_id.as_bytes());
        key
    }
}

/// A store's records by type.
pub struct Records<'a, S: ?Sized>(pub &'a S);

impl<S: Store + ?Sized> Records<'_, S> {
    /// The block with this hash. Its bytes are checked for form and hash.
    ///
    /// # Errors
    /// [`ChainError::Corrupt`] if they fail; as [`Store::get`].
    pub fn block(&self, hash: BlockHash) -> Result<Option<SignedBlock>, ChainError> {
        let bytes = self.0.get(Family::Headers, hash.as_bytes())?;
        bytes.map(|bytes| parse_block(hash, &bytes)).transpose()
    }

    /// Every block, in the order of their hashes.
    ///
    /// # Errors
    /// As [`Records::block`].
    pub fn blocks(&self) -> Result<Vec<(BlockHash, SignedBlock)>, ChainError> {
        let mut blocks = Vec::new();
        self.each_block(|hash, block| blocks.push((hash, block)))?;
        Ok(blocks)
    }

    /// Visits every block, in the order of their hashes, with few of them in memory at a time.
    ///
    /// # Errors
    /// As [`Records::block`].
    pub(crate) fn each_block(
        &self,
        mut visit: impl FnMut(BlockHash, SignedBlock),
    ) -> Result<(), ChainError> {
        let mut unread = Vec::new();
        let mut read = |unread: &mut Vec<_>| -> Result<(), ChainError> {
            let blocks = read_blocks(unread)?.into_iter();
            blocks.for_each(|(hash, block)| visit(hash, block));
            unread.clear();
            Ok(())
        };
        self.each(Family::Headers, &[], |key, value| {
            unread.push((block_hash(Family::Headers, key)?, value.to_vec()));
            if unread.len() == READ_TOGETHER {
                read(&mut unread)?;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        read(&mut unread)
    }

    /// Who accepted the block, when and why.
    ///
    /// # Errors
    /// [`ChainError::Corrupt`] if the record is malformed; as [`Store::get`].
    pub fn commit(&self, block: BlockHash) -> Result<Option<CommitRecord>, ChainError> {
        let bytes = self.0.get(Family::Commits, block.as_bytes())?;
        let parse = |bytes: Vec<u8>| {
            from_canonical(&bytes).map_err(|error| {
                ChainError::from(Fault::CommitRecord {
                    block,
                    why: error.to_string(),
                })
            })
        };
        bytes.map(parse).transpose()
    }

    /// The JSON payload with this hash, unchecked.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn body(&self, payload: PayloadHash) -> Result<Option<Vec<u8>>, ChainError> {
        self.0.get(Family::Bodies, payload.as_bytes())
    }

    /// SHA-256 of the payload's fp32 derivation, when it was last made here.
    ///
    /// # Errors
    /// [`ChainError::Damaged`] if the record is no hash; as [`Store::get`].
    pub fn fp32(&self, payload: PayloadHash) -> Result<Option<ContentHash>, ChainError> {
        let Some(bytes) = self.0.get(Family::Fp32, payload.as_bytes())? else {
            return Ok(None);
        };
        let hash: [u8; 32] = bytes.try_into().map_err(|_| malformed(Family::Fp32))?;
        Ok(Some(ContentHash::from_bytes(hash)))
    }

    /// The receipt of a request.
    ///
    /// # Errors
    /// [`ChainError::Corrupt`] if the record is malformed; as [`Store::get`].
    pub fn receipt(&self, request: &RequestId) -> Result<Option<Receipt>, ChainError> {
        let bytes = self.0.get(Family::Receipts, request.as_bytes())?;
        let parse = |bytes: Vec<u8>| {
            serde_json::from_slice(&bytes).map_err(|error| {
                ChainError::from(Fault::Receipt {
                    request: *request,
                    why: error.to_string(),
                })
            })
        };
        bytes.map(parse).transpose()
    }

    /// At most `count_max` receipts, oldest end first, from the one after `after` on.
    ///
    /// # Errors
    /// As [`Records::receipt`]; [`ChainError::Damaged`] if the order names a receipt that is not there.
    pub fn receipts(
        &self,
        after: Option<ReceiptCursor>,
        count_max: usize,
    ) -> Result<Vec<Receipt>, ChainError> {
        let from = after.map(|cursor| cursor.key());
        let mut ids = Vec::new();
        self.each(
            Family::ReceiptsByTime,
            from.as_ref().map_or(&[], |key| key.as_slice()),
            |key, _| {
                if ids.len() == count_max {
                    return Ok(ControlFlow::Break(()));
                }
                if from.as_ref().is_none_or(|from| from.as_slice() != key) {
                    ids.push(request_id(key)?);
                }
                Ok(ControlFlow::Continue(()))
            },
        )?;
        ids.iter()
            .map(|id| {
                self.receipt(id)?
                    .ok_or_else(|| malformed(Family::ReceiptsByTime))
            })
            .collect()
    }

    /// Visits the records of a family, in key order, until `visit` breaks or fails.
    pub(crate) fn each(
        &self,
        family: Family,
        from: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, ChainError>,
    ) -> Result<(), ChainError> {
        let mut failed = None;
        self.0
            .scan(family, from, &mut |key, value| match visit(key, value) {
                Ok(flow) => flow,
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            })?;
        failed.map_or(Ok(()), Err)
    }
}

impl Batch {
    /// Adds a block with its commit record and, for chain A, its payload.
    pub fn put_block(
        &mut self,
        hash: BlockHash,
        block: &SignedBlock,
        commit: &CommitRecord,
        body: Option<&[u8]>,
    ) {
        self.put_stored(
            hash,
            &block.header,
            block.to_canonical(),
            commit.to_canonical(),
        );
        if let Some(body) = body {
            self.put(Family::Bodies, block.header.payload_hash.as_bytes(), body);
        }
    }

    /// As [`Batch::put_block`], of what was encoded before.
    pub(crate) fn put_checked(&mut self, checked: &CheckedBlock, commit: &[u8]) {
        let NewBlock { block, body } = checked.new_block();
        self.put_stored(checked.hash(), &block.header, checked.stored(), commit);
        if let Some(body) = body {
            self.put(
                Family::Bodies,
                block.header.payload_hash.as_bytes(),
                body.as_slice(),
            );
        }
    }

    fn put_stored(
        &mut self,
        hash: BlockHash,
        header: &BlockHeader,
        stored: impl Into<Vec<u8>>,
        commit: impl Into<Vec<u8>>,
    ) {
        self.put(Family::Headers, hash.as_bytes(), stored);
        self.put(Family::Commits, hash.as_bytes(), commit);
        let key = index_key(header.chain, header.index, hash);
        self.put(Family::ByIndex, key, []);
    }

    /// Adds a receipt and its place in the order of ends.
    ///
    /// # Errors
    /// [`ChainError::Malformed`] if it cannot be written as JSON.
    pub fn put_receipt(&mut self, receipt: &Receipt) -> Result<(), ChainError> {
        let json = serde_json::to_vec(receipt)
            .map_err(|error| ChainError::Malformed(error.to_string()))?;
        self.put(Family::Receipts, receipt.request_id.as_bytes(), json);
        self.put(Family::ReceiptsByTime, ReceiptCursor::of(receipt).key(), []);
        Ok(())
    }

    /// Adds the SHA-256 of a fp32 derivation.
    pub fn put_fp32(&mut self, payload: PayloadHash, sha256: ContentHash) {
        self.put(Family::Fp32, payload.as_bytes(), *sha256.as_bytes());
    }
}

/// The key of a block in [`Family::ByIndex`].
pub(crate) fn index_key(chain: ChainId, index: u64, hash: BlockHash) -> Vec<u8> {
    [
        chain.as_str().as_bytes(),
        &index.to_be_bytes(),
        hash.as_bytes(),
    ]
    .concat()
}

/// Reads stored blocks on all cores; each is checked for form and hash.
///
/// # Errors
/// [`ChainError::Corrupt`] for the first that fails.
pub fn read_blocks(
    stored: &[(BlockHash, Vec<u8>)],
) -> Result<Vec<(BlockHash, SignedBlock)>, ChainError> {
    let stored = stored.par_iter().with_min_len(READ_ON_ONE_THREAD);
    let read = stored.map(|(hash, bytes)| Ok((*hash, parse_block(*hash, bytes)?)));
    let read: Vec<_> = read.collect();
    read.into_iter().collect()
}

fn parse_block(hash: BlockHash, bytes: &[u8]) -> Result<SignedBlock, ChainError> {
    let corrupt = |why: String| ChainError::from(Fault::Header { block: hash, why });
    let (found, block) = SignedBlock::read(bytes).map_err(|error| corrupt(error.to_string()))?;
    if found == hash {
        Ok(block)
    } else {
        Err(corrupt(format!("its header hashes to {found}")))
    }
}

pub(crate) fn block_hash(family: Family, key: &[u8]) -> Result<BlockHash, ChainError> {
    key.try_into()
        .map(BlockHash::from_bytes)
        .map_err(|_| malformed(family))
}

fn request_id(key: &[u8]) -> Result<RequestId, ChainError> {
    let id = key.get(8..).and_then(|id| <[u8; 16]>::try_from(id).ok());
    id.map(RequestId::from_random)
        .ok_or_else(|| malformed(Family::ReceiptsByTime))
}

fn malformed(family: Family) -> ChainError {
    ChainError::Damaged(format!("a record of {} is malformed", family.name()))
}
