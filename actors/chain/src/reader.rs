use std::sync::Arc;

use blyan_formats::bodies::Payload;
use blyan_formats::{
    ArchitectureBody, BlockHash, BlockType, ChainId, CommitRecord, ManifestBody, PayloadHash,
    SignedBlock,
};
use blyan_protocol::{ModelDescription, ModelId, PayloadLocation, Receipt, RequestId};
use parking_lot::Mutex;

use crate::ChainError;
use crate::checked::check_signatures;
use crate::core::{
    BLOCKS_MAX, BlockQuery, ChainIndex, Head, Lineage, ParamIndex, Version, gives_authority,
};
use crate::store::{DataDir, ReceiptCursor, Records, RocksStore, Store};
use crate::verify::Fault;

/// Most receipts in one answer.
pub const RECEIPTS_MAX: usize = 1000;

/// A block as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBlock {
    /// Its hash.
    pub hash: BlockHash,
    /// Header and signature.
    pub block: SignedBlock,
    /// Who accepted it, when and why.
    pub commit: CommitRecord,
}

/// Reads a chain: a store, and the index of what is on it.
pub struct ChainReader<S> {
    store: Arc<S>,
    index: ChainIndex,
    /// The architecture that was asked for last; parsing one takes longer than everything else here.
    architecture: Mutex<Option<(BlockHash, Arc<ArchitectureBody>)>>,
}

impl ChainReader<RocksStore> {
    /// Opens the chain in a data directory as it is now, also beside a running node.
    ///
    /// # Errors
    /// As [`RocksStore::open_read_only`] and [`ChainReader::open`]; [`ChainError::NoChain`] without a genesis.
    pub fn open_read_only(layout: DataDir) -> Result<Self, ChainError> {
        let root = layout.root().to_owned();
        let reader = Self::open(Arc::new(RocksStore::open_read_only(layout)?))?;
        if reader.index.is_empty() {
            Err(ChainError::NoChain(root))
        } else {
            Ok(reader)
        }
    }
}

impl<S: Store> ChainReader<S> {
    /// Builds the index from a store. Every header is checked: hash, signature, signer, network and links.
    ///
    /// # Errors
    /// [`ChainError::Corrupt`] with the first fault; as [`Store::get`].
    pub fn open(store: Arc<S>) -> Result<Self, ChainError> {
        let index = load_index(&*store)?;
        Ok(Self {
            store,
            index,
            architecture: Mutex::new(None),
        })
    }

    /// The store.
    pub const fn store(&self) -> &Arc<S> {
        &self.store
    }

    /// What is on the chain.
    pub const fn index(&self) -> &ChainIndex {
        &self.index
    }

    pub(crate) const fn index_mut(&mut self) -> &mut ChainIndex {
        &mut self.index
    }

    pub(crate) fn records(&self) -> Records<'_, S> {
        Records(&*self.store)
    }

    /// The newest end of a chain; `None` for an empty one.
    pub fn head(&self, chain: ChainId) -> Option<Head> {
        self.index.head(chain)
    }

    /// A block with its commit record.
    ///
    /// # Errors
    /// [`ChainError::NoBlock`]; [`ChainError::Corrupt`] if its record fails; as [`Store::get`].
    pub fn block(&self, hash: BlockHash) -> Result<StoredBlock, ChainError> {
        self.index.get(&hash).ok_or(ChainError::NoBlock(hash))?;
        let gone = |what: &str| {
            ChainError::from(Fault::Header {
                block: hash,
                why: format!("{what} is gone"),
            })
        };
        let block = self
            .records()
            .block(hash)?
            .ok_or_else(|| gone("its header"))?;
        let commit = self
            .records()
            .commit(hash)?
            .ok_or_else(|| gone("its commit record"))?;
        Ok(StoredBlock {
            hash,
            block,
            commit,
        })
    }

    /// At most `count_max` and [`BLOCKS_MAX`] blocks that a query asks for, in the order of [`ChainIndex::find`].
    pub fn find(&self, query: &BlockQuery, count_max: usize) -> Vec<Version> {
        let found = self.index.find(query).take(count_max.min(BLOCKS_MAX));
        found.map(|block| self.index.version(block)).collect()
    }

    /// A block of chain B and the ancestors nearest to it, at most `count_max` and [`BLOCKS_MAX`].
    ///
    /// # Errors
    /// [`ChainError::NoBlock`] if it is not on chain B.
    pub fn lineage(&self, hash: BlockHash, count_max: usize) -> Result<Lineage, ChainError> {
        let lineage = self.index.lineage(hash, count_max.min(BLOCKS_MAX));
        lineage.ok_or(ChainError::NoBlock(hash))
    }

    /// The payload of a block on chain A, checked against its hash.
    ///
    /// # Errors
    /// [`ChainError::NoBlock`] if there is no such block there; [`ChainError::Corrupt`]; as [`Store::get`].
    pub fn body(&self, hash: BlockHash) -> Result<Vec<u8>, ChainError> {
        let block = self
            .index
            .get(&hash)
            .filter(|block| block.chain == ChainId::A);
        let payload = block.ok_or(ChainError::NoBlock(hash))?.payload;
        load_body(&self.records(), hash, payload)
    }

    /// The payload of an architecture block.
    ///
    /// # Errors
    /// As [`ChainReader::body`]; [`ChainError::NoBlock`] if the block is something else.
    pub fn architecture(&self, hash: BlockHash) -> Result<Arc<ArchitectureBody>, ChainError> {
        let mut latest = self.architecture.lock();
        if let Some((known, body)) = &*latest
            && *known == hash
        {
            return Ok(Arc::clone(body));
        }
        let body = Arc::new(self.parse_body::<ArchitectureBody>(hash, BlockType::Architecture)?);
        *latest = Some((hash, Arc::clone(&body)));
        Ok(body)
    }

    fn parse_body<T: Payload>(&self, hash: BlockHash, of: BlockType) -> Result<T, ChainError> {
        self.index
            .get(&hash)
            .filter(|block| block.block_type == of)
            .ok_or(ChainError::NoBlock(hash))?;
        let bytes = self.body(hash)?;
        T::from_payload(&bytes).map_err(|error| {
            ChainError::from(Fault::Refused {
                block: hash,
                name: None,
                refusal: error.into(),
            })
        })
    }

    /// A published model: the newest, or the one with the id.
    ///
    /// # Errors
    /// [`ChainError::NoModel`]; as [`ChainReader::body`].
    pub fn model(&self, id: Option<ModelId>) -> Result<ModelDescription, ChainError> {
        let params = self.params(id)?;
        let architecture = self.architecture(params.architecture())?;
        Ok(ModelDescription {
            id: params.model(),
            architecture: (*architecture).clone(),
            entries: params.entries().clone(),
        })
    }

    fn params(&self, id: Option<ModelId>) -> Result<ParamIndex, ChainError> {
        let newest = self.index.params().ok_or(ChainError::NoModel(id))?;
        let Some(wanted) = id.filter(|id| *id != newest.model()) else {
            return Ok(newest.clone());
        };
        let body = self
            .parse_body::<ManifestBody>(wanted.0, BlockType::Manifest)
            .map_err(|error| match error {
                ChainError::NoBlock(_) => ChainError::NoModel(id),
                other => other,
            })?;
        let resolved = self.index.draft().resolve_manifest(wanted.0, &body);
        resolved.map_err(|refusal| {
            ChainError::from(Fault::Refused {
                block: wanted.0,
                name: None,
                refusal,
            })
        })
    }

    /// The ids of all published models, oldest first.
    pub fn models(&self) -> Vec<ModelId> {
        self.index.manifests().map(ModelId).collect()
    }

    /// Where a payload lies. Its file is looked up, not verified.
    ///
    /// # Errors
    /// [`ChainError::NoPayload`] if no block names it; [`ChainError::Corrupt`] if its file is not there or has
    /// another length than the header binds; as [`Store::get`].
    pub fn locate(&self, payload: PayloadHash) -> Result<PayloadLocation, ChainError> {
        let (name, meta) = self
            .index
            .by_payload(&payload)
            .ok_or(ChainError::NoPayload(payload))?;
        let (block, len) = (meta.hash, meta.payload_len);
        let files = self.store.payloads();
        match files.len(payload)? {
            Some(found) if found == len => {}
            Some(found) => {
                return Err(ChainError::from(Fault::PayloadLen {
                    block,
                    name,
                    payload,
                    expected: len,
                    found,
                }));
            }
            None => {
                return Err(ChainError::from(Fault::PayloadMissing {
                    block,
                    name,
                    payload,
                }));
            }
        }
        Ok(PayloadLocation {
            name,
            block,
            path: files.path(payload),
            len,
            fp32_path: files.layout().fp32(payload),
            fp32_sha256: self.records().fp32(payload)?.map(|hash| *hash.as_bytes()),
        })
    }

    /// The receipt of a request.
    ///
    /// # Errors
    /// As [`Store::get`]; [`ChainError::Corrupt`] if the record is malformed.
    pub fn receipt(&self, request: &RequestId) -> Result<Option<Receipt>, ChainError> {
        self.records().receipt(request)
    }

    /// At most `count_max` and [`RECEIPTS_MAX`] receipts, oldest end first, from the one after `after` on.
    ///
    /// # Errors
    /// As [`ChainReader::receipt`].
    pub fn receipts(
        &self,
        after: Option<ReceiptCursor>,
        count_max: usize,
    ) -> Result<Vec<Receipt>, ChainError> {
        self.records().receipts(after, count_max.min(RECEIPTS_MAX))
    }

    /// The block on chain A of this type with this payload; of manifests only the newest, so that an older model can
    /// be published again.
    pub fn find_meta(&self, block_type: BlockType, payload: PayloadHash) -> Option<BlockHash> {
        let newest = self.index.params().map(|params| params.model().0);
        let is_it = |hash: &&BlockHash| {
            let same = self
                .index
                .get(hash)
                .is_some_and(|b| b.block_type == block_type && b.payload == payload);
            same && (block_type != BlockType::Manifest || newest == Some(**hash))
        };
        self.index.chain_a().iter().rev().find(is_it).copied()
    }
}

/// Reads a JSON payload and checks its hash.
pub(crate) fn load_body<S: Store + ?Sized>(
    records: &Records<'_, S>,
    block: BlockHash,
    payload: PayloadHash,
) -> Result<Vec<u8>, ChainError> {
    let corrupt = |why: String| {
        ChainError::from(Fault::Body {
            block,
            payload,
            why,
        })
    };
    let bytes = records
        .body(payload)?
        .ok_or_else(|| corrupt("it is not there".to_owned()))?;
    let found = PayloadHash::of_bytes(&bytes);
    if found == payload {
        Ok(bytes)
    } else {
        Err(corrupt(format!("it hashes to {found}")))
    }
}

/// Replays every stored header: chain A by index, then chain B by index, then the newest manifest.
fn load_index<S: Store + ?Sized>(store: &S) -> Result<ChainIndex, ChainError> {
    let mut index = ChainIndex::default();
    let records = Records(store);
    let blocks = in_replay_order(records.blocks()?);
    let signatures = check_signatures(&blocks);
    let mut draft = index.draft();
    for ((hash, block), signature) in blocks.iter().zip(signatures) {
        let body = gives_authority(block.header.block_type)
            .then(|| load_body(&records, *hash, block.header.payload_hash));
        let body = body.transpose()?;
        let replayed = draft.replay(*hash, block, signature, body.as_deref());
        replayed.map_err(|refusal| refused(*hash, block, refusal))?;
    }
    if let Some((hash, block)) = newest_manifest(&blocks) {
        let body = load_body(&records, *hash, block.header.payload_hash)?;
        draft
            .resolve(*hash, &body)
            .map_err(|refusal| refused(*hash, block, refusal))?;
    }
    let added = draft.finish();
    index.apply(added);
    Ok(index)
}

pub(crate) fn refused(hash: BlockHash, block: &SignedBlock, refusal: crate::Refusal) -> ChainError {
    ChainError::from(Fault::Refused {
        block: hash,
        name: block.header.expert_name,
        refusal,
    })
}

/// Chain by chain, by index, then hash: whatever a header refers to stands before it.
pub(crate) fn in_replay_order(
    mut blocks: Vec<(BlockHash, SignedBlock)>,
) -> Vec<(BlockHash, SignedBlock)> {
    blocks.sort_by_key(|(hash, block)| (block.header.chain, block.header.index, *hash));
    blocks
}

fn newest_manifest(blocks: &[(BlockHash, SignedBlock)]) -> Option<&(BlockHash, SignedBlock)> {
    blocks
        .iter()
        .rev()
        .find(|(_, block)| block.header.block_type == BlockType::Manifest)
}
