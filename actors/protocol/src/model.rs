use std::collections::BTreeMap;
use std::path::PathBuf;

use blyan_formats::bodies::ArchitectureBody;
use blyan_formats::{BlockHash, PayloadHash, TensorName};

use crate::{BoxFuture, ModelId, PublicError};

/// One weight of a model: its current block and that block's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelEntry {
    /// The block on chain B.
    pub block: BlockHash,
    /// The payload, a file named by this hash.
    pub payload: PayloadHash,
    /// Its length in bytes.
    pub payload_len: u64,
}

/// A published model: a manifest with its architecture, every name resolved.
#[derive(Clone, Debug)]
pub struct ModelDescription {
    /// The manifest's hash.
    pub id: ModelId,
    /// Shapes, tokenizer, template, routing.
    pub architecture: ArchitectureBody,
    /// Every weight by name.
    pub entries: BTreeMap<TensorName, ModelEntry>,
}

/// Where a verified-to-exist (not yet verified) payload lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayloadLocation {
    /// The expert or shared weight that names the block.
    pub name: TensorName,
    /// The block that carries it.
    pub block: BlockHash,
    /// The payload file.
    pub path: PathBuf,
    /// Bytes the header binds.
    pub len: u64,
    /// The fp32 derivation's file, which may not exist yet.
    pub fp32_path: PathBuf,
    /// SHA-256 of the fp32 derivation when it was last made here.
    pub fp32_sha256: Option<[u8; 32]>,
}

/// What the cache asks of the chain at load time.
pub trait PayloadSource: Send + Sync {
    /// Where the payload lies, or why that cannot be said.
    fn locate(&self, payload: PayloadHash) -> BoxFuture<'_, Result<PayloadLocation, PublicError>>;

    /// Remembers the SHA-256 of a fp32 derivation that was just written and renamed into place.
    fn remember_fp32(
        &self,
        payload: PayloadHash,
        sha256: [u8; 32],
    ) -> BoxFuture<'_, Result<(), PublicError>>;
}
