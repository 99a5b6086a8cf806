use std::collections::HashSet;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use blyan_formats::bodies::Payload as _;
use blyan_formats::{
    ArchitectureBody, BlockHash, BlockType, ChainId, CommitRecord, CommitRule, ContentHash,
    ManifestBody, NodeKey, PayloadHash, PublicKey, SignedBlock,
};
use blyan_protocol::Receipt;

use crate::ChainError;
use crate::checked::CheckedBlock;
use crate::compose;
use crate::core::{Admission, Draft, Evidence, Payload};
use crate::metrics;
use crate::reader::ChainReader;
use crate::store::{Batch, Store, WriteToken};

/// A block to append, with its payload if that is JSON. A payload file must be in place before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBlock {
    /// Header and signature.
    pub block: SignedBlock,
    /// Chain A: the payload.
    pub body: Option<Vec<u8>>,
}

/// Who accepts blocks and when, for their commit records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acceptance {
    /// The node's key.
    pub by: PublicKey,
    /// Milliseconds since 1970-01-01 UTC.
    pub at_ms: u64,
}

impl Acceptance {
    const fn record(self) -> CommitRecord {
        CommitRecord {
            accepted_by: self.by,
            accepted_ms: self.at_ms,
            rule: CommitRule::AuthorisedKey,
        }
    }
}

/// What became of an appended block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The block.
    pub hash: BlockHash,
    /// Whether it is new, or was there before.
    pub admission: Admission,
}

/// Writes a chain; everything that reads it is at hand too. One generation of it may write at a time.
pub struct ChainWriter<S> {
    reader: ChainReader<S>,
    token: WriteToken,
}

impl<S> Deref for ChainWriter<S> {
    type Target = ChainReader<S>;

    fn deref(&self) -> &Self::Target {
        &self.reader
    }
}

impl<S: Store> ChainWriter<S> {
    /// Takes over the store from the generation before and builds the index.
    ///
    /// # Errors
    /// As [`Store::begin_generation`] and [`ChainReader::open`].
    pub fn open(store: Arc<S>) -> Result<Self, ChainError> {
        let token = store.begin_generation()?;
        let began = Instant::now();
        let reader = ChainReader::open(store)?;
        metrics::rebuilt(began.elapsed());
        metrics::index_size(reader.index());
        Ok(Self { reader, token })
    }

    /// Appends blocks in order, all or none, in one synced batch; blocks that are there already are left alone, so a
    /// batch may be appended again after a crash. When this returns, they are durable and visible (CHAIN-I1).
    ///
    /// # Errors
    /// [`ChainError::Refused`] for the first block that breaks a rule; as [`Store::write`].
    pub fn append_all(
        &mut self,
        blocks: &[NewBlock],
        acceptance: Acceptance,
    ) -> Result<Vec<Appended>, ChainError> {
        self.append(&CheckedBlock::check_all(blocks.to_vec())?, acceptance)
    }

    /// As [`ChainWriter::append_all`], for blocks whose signatures were checked before.
    ///
    /// # Errors
    /// As [`ChainWriter::append_all`].
    pub fn append(
        &mut self,
        blocks: &[CheckedBlock],
        acceptance: Acceptance,
    ) -> Result<Vec<Appended>, ChainError> {
        let mut batch = Batch::default();
        let mut appended = Vec::with_capacity(blocks.len());
        let mut draft = self.reader.index().draft();
        let commit = acceptance.record().to_canonical();
        for checked in blocks {
            let admission = self.admit(&mut draft, blocks, checked)?;
            if admission == Admission::New {
                batch.put_checked(checked, &commit);
            }
            let hash = checked.hash();
            appended.push(Appended { hash, admission });
        }
        let added = draft.finish();
        if batch.is_empty() {
            return Ok(appended);
        }
        self.write(&batch)?;
        metrics::appended(added.blocks().len());
        self.reader.index_mut().apply(added);
        metrics::index_size(self.reader.index());
        Ok(appended)
    }

    fn admit(
        &self,
        draft: &mut Draft<'_>,
        blocks: &[CheckedBlock],
        checked: &CheckedBlock,
    ) -> Result<Admission, ChainError> {
        let (hash, new) = (checked.hash(), checked.new_block());
        let architecture = self.named_architecture(draft, blocks, new)?;
        let evidence = Evidence {
            payload: self.payload_of(new)?,
            architecture: architecture.as_deref(),
        };
        draft.follow(hash, &new.block, evidence).map_err(|refusal| {
            metrics::refused(&refusal);
            ChainError::Refused {
                block: hash,
                refusal: Box::new(refusal),
            }
        })
    }

    fn payload_of<'a>(&self, new: &'a NewBlock) -> Result<Payload<'a>, ChainError> {
        if new.block.header.chain != ChainId::B {
            return Ok(new.body.as_deref().map_or(Payload::Missing, Payload::Json));
        }
        let len = self
            .reader
            .store()
            .payloads()
            .len(new.block.header.payload_hash)?;
        Ok(len.map_or(Payload::Missing, Payload::File))
    }

    /// The architecture that a manifest names, on the chain or earlier in the same batch.
    fn named_architecture(
        &self,
        draft: &Draft<'_>,
        blocks: &[CheckedBlock],
        new: &NewBlock,
    ) -> Result<Option<Arc<ArchitectureBody>>, ChainError> {
        let body = new
            .body
            .as_deref()
            .filter(|_| new.block.header.block_type == BlockType::Manifest);
        let Some(Ok(manifest)) = body.map(ManifestBody::from_payload) else {
            return Ok(None);
        };
        let named = manifest.architecture;
        if self
            .reader
            .index()
            .get(&named)
            .is_some_and(|block| block.block_type == BlockType::Architecture)
        {
            return self.reader.architecture(named).map(Some);
        }
        let admitted = draft.get(&named).is_some();
        let in_batch = blocks
            .iter()
            .find(|other| admitted && other.hash() == named);
        let body = in_batch.and_then(|block| block.new_block().body.as_deref());
        Ok(body
            .and_then(|bytes| ArchitectureBody::from_payload(bytes).ok())
            .map(Arc::new))
    }

    /// Appends a block to chain A that carries `body`, signed by `key`, unless there is one with the same payload.
    ///
    /// # Errors
    /// As [`ChainWriter::append_all`]; [`ChainError::Malformed`] if the chain has no genesis yet.
    pub fn append_meta(
        &mut self,
        block_type: BlockType,
        body: Vec<u8>,
        timestamp_ms: u64,
        key: &NodeKey,
        at_ms: u64,
    ) -> Result<BlockHash, ChainError> {
        if let Some(hash) = self.find_meta(block_type, PayloadHash::of_bytes(&body)) {
            return Ok(hash);
        }
        let new = compose::meta_block(self.index(), block_type, body, timestamp_ms, key)?;
        let hash = new.block.hash();
        self.append_all(
            &[new],
            Acceptance {
                by: key.public_key(),
                at_ms,
            },
        )?;
        Ok(hash)
    }

    /// Records receipts in one synced batch. The first receipt of a request stays (CHAIN-I6). Returns how many are
    /// new.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub fn record_receipts(&self, receipts: &[Receipt]) -> Result<usize, ChainError> {
        let mut batch = Batch::default();
        let mut seen = HashSet::new();
        for receipt in receipts {
            let first = seen.insert(receipt.request_id);
            if first && self.receipt(&receipt.request_id)?.is_none() {
                batch.put_receipt(receipt)?;
            }
        }
        let new = batch.puts().len() / 2;
        if new > 0 {
            self.write(&batch)?;
            metrics::receipts(new);
        }
        Ok(new)
    }

    /// Remembers the SHA-256 of a fp32 derivation.
    ///
    /// # Errors
    /// [`ChainError::NoPayload`] if no block names the payload; as [`Store::write`].
    pub fn remember_fp32(
        &self,
        payload: PayloadHash,
        sha256: ContentHash,
    ) -> Result<(), ChainError> {
        self.index()
            .by_payload(&payload)
            .ok_or(ChainError::NoPayload(payload))?;
        let mut batch = Batch::default();
        batch.put_fp32(payload, sha256);
        self.write(&batch)
    }

    fn write(&self, batch: &Batch) -> Result<(), ChainError> {
        let began = Instant::now();
        self.reader.store().write(self.token, batch)?;
        metrics::written(began.elapsed());
        Ok(())
    }
}
