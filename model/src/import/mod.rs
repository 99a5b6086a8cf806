//! From a model file and a recipe to blocks: payload files, then blocks in one batch, then the manifest that
//! publishes them.
//!
//! Everything on the chain is a pure function of the model file, the recipe, the key and the chain below. An import
//! that was cut off at any moment is simply run again: payloads are named by their content, and the chain leaves alone
//! what it holds already.

mod architecture;
mod payloads;
mod tensors;

use blyan_chain::compose::{Weights, weights_block};
use blyan_chain::{Acceptance, Admission, ChainWriter, NewBlock, Store};
use blyan_formats::bodies::Payload as _;
use blyan_formats::{BlockHash, BlockType, ManifestBody, NodeKey, TensorName};
use blyan_protocol::ModelId;
use blyan_supervisors::Probe;
use std::collections::BTreeMap;

use crate::ModelError;
use crate::file::SourceFile;
use crate::recipe::Recipe;
use crate::source::SourceModel;

pub use architecture::describe;
pub use payloads::Stored;

/// Steps of an import, in order. Their names are points of the [`Probe`], hit when a step starts; `import:payloads` is
/// hit again after every payload file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Payload files are made.
    Payloads,
    /// The architecture goes on chain A.
    Architecture,
    /// The weights' blocks go on chain B, all at once.
    Blocks,
    /// The manifest goes on chain A; with it the model is published.
    Manifest,
}

impl Phase {
    /// The probe's point.
    pub const fn point(self) -> &'static str {
        match self {
            Self::Payloads => "import:payloads",
            Self::Architecture => "import:architecture",
            Self::Blocks => "import:blocks",
            Self::Manifest => "import:manifest",
        }
    }
}

/// How far an import is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImportProgress {
    /// The step.
    pub phase: Phase,
    /// Payloads in place.
    pub payloads: u64,
    /// Payloads in all.
    pub payloads_total: u64,
    /// Bytes of the payloads in place.
    pub bytes: u64,
}

/// What an import needs besides the model; nothing of it changes a block.
pub struct ImportOptions<'a> {
    /// Threads that make payloads.
    pub threads: usize,
    /// When this node accepts the blocks, for their commit records: ms since 1970-01-01 UTC.
    pub accepted_ms: u64,
    /// Hit at each [`Phase`].
    pub probe: &'a dyn Probe,
    /// Called after every payload and at every phase, from any thread.
    pub progress: &'a (dyn Fn(ImportProgress) + Sync),
}

/// What an import left on the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The manifest's hash.
    pub model: ModelId,
    /// The architecture block.
    pub architecture: BlockHash,
    /// Blocks of weights.
    pub blocks: usize,
    /// How many of them were not there before.
    pub new_blocks: usize,
    /// Bytes of all payload files.
    pub payload_bytes: u64,
}

/// Puts a model on a chain and publishes it.
///
/// # Errors
/// [`ModelError::OtherSource`] if `file` is not the recipe's model; [`ModelError::Gguf`], [`ModelError::Unsupported`]
/// and [`ModelError::Recipe`] if it cannot be described; [`ModelError::Chain`] if the disk fails. After an error
/// nothing is published, and the same call goes on where this one stopped.
pub fn import<S: Store>(
    chain: &mut ChainWriter<S>,
    file: &SourceFile,
    recipe: &Recipe,
    key: &NodeKey,
    options: &ImportOptions<'_>,
) -> Result<Imported, ModelError> {
    file.check_against(&recipe.source)?;
    let source = SourceModel::parse(file.bytes())?;
    architecture::check_recipe(source.shape(), recipe)?;
    let architecture = describe(&source, &recipe.model, recipe.experts)?;
    let body = architecture.to_payload()?;

    let counter = payloads::Counter::new(architecture.tensor_names().count() as u64, options);
    let stored = payloads::store_all(&source, recipe, chain.store().payloads(), &counter, options)?;

    counter.enter(Phase::Architecture);
    let at_ms = options.accepted_ms;
    let meta_ref = chain.append_meta(
        BlockType::Architecture,
        body,
        recipe.timestamp_ms,
        key,
        at_ms,
    )?;

    counter.enter(Phase::Blocks);
    let (blocks, entries) = compose_blocks(chain, &stored, meta_ref, recipe.timestamp_ms, key)?;
    let appended = chain.append_all(
        &blocks,
        Acceptance {
            by: key.public_key(),
            at_ms,
        },
    )?;

    counter.enter(Phase::Manifest);
    let manifest = ManifestBody {
        architecture: meta_ref,
        entries,
    }
    .to_payload()?;
    let manifest = chain.append_meta(
        BlockType::Manifest,
        manifest,
        recipe.timestamp_ms,
        key,
        at_ms,
    )?;
    Ok(Imported {
        model: ModelId(manifest),
        architecture: meta_ref,
        blocks: blocks.len(),
        new_blocks: appended
            .iter()
            .filter(|block| block.admission == Admission::New)
            .count(),
        payload_bytes: stored.values().map(|payload| payload.len).sum(),
    })
}

/// One block for every payload, in the order of their names.
fn compose_blocks<S: Store>(
    chain: &ChainWriter<S>,
    stored: &BTreeMap<TensorName, Stored>,
    meta_ref: BlockHash,
    timestamp_ms: u64,
    key: &NodeKey,
) -> Result<(Vec<NewBlock>, BTreeMap<TensorName, BlockHash>), ModelError> {
    let mut blocks = Vec::with_capacity(stored.len());
    let mut entries = BTreeMap::new();
    for (name, payload) in stored {
        let weights = Weights {
            name: *name,
            payload: payload.hash,
            payload_len: payload.len,
            meta_ref,
            parents: Vec::new(),
            supersedes: Vec::new(),
        };
        let block = weights_block(chain.index(), weights, timestamp_ms, key)?;
        entries.insert(*name, block.block.hash());
        blocks.push(block);
    }
    Ok((blocks, entries))
}
