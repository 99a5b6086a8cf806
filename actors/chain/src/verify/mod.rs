//! Full verification of a store, read only.

mod fault;
mod payloads;
mod records;

pub use fault::Fault;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use blyan_formats::{BlockHash, ChainId, SignedBlock};
use blyan_protocol::ModelId;

use crate::ChainError;
use crate::checked::check_signatures;
use crate::core::{ChainIndex, gives_authority};
use crate::reader::{in_replay_order, load_body, refused};
use crate::store::{Records, Store};

/// Files at a time unless something else is said. On two cores four of them read from a disk as fast as the disk can, eight
/// leave some room.
pub(crate) const VERIFY_THREADS: usize = 8;

/// How a store is verified.
#[derive(Clone, Copy)]
pub struct VerifyOptions<'a> {
    /// A block that the chain must hold: it fixes the network, and everything before that block.
    pub anchor: Option<BlockHash>,
    /// Payload files that are verified at a time, at least 1: while some wait for the disk, others are hashed.
    pub threads: usize,
    /// Told after each payload file.
    pub progress: &'a (dyn Fn(Progress) + Sync),
}

impl Default for VerifyOptions<'_> {
    fn default() -> Self {
        Self {
            anchor: None,
            threads: VERIFY_THREADS,
            progress: &|_| {},
        }
    }
}

/// How far the verification of payload files is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the payload file that was just verified.
    pub bytes: u64,
    /// Bytes of all payload files.
    pub bytes_total: u64,
}

/// What was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// Hash of the genesis block.
    pub genesis: BlockHash,
    /// The newest manifest; `None` while an import is unfinished.
    pub model: Option<ModelId>,
    /// The newest block of each chain that has one.
    pub heads: BTreeMap<ChainId, BlockHash>,
    /// Blocks on chain A.
    pub blocks_a: u64,
    /// Blocks on chain B.
    pub blocks_b: u64,
    /// Bytes of JSON payloads.
    pub json_bytes: u64,
    /// Bytes of payload files, each counted once, however many blocks name it.
    pub payload_bytes: u64,
    /// Receipts.
    pub receipts: u64,
    /// Payloads, in the database or as files, that no block names: left by an interrupted import, which finds them
    /// again.
    pub unreferenced: u64,
    /// Unfinished payload files; the next opening for writing removes them.
    pub temporary: u64,
    /// Time taken.
    pub elapsed: Duration,
}

/// Verifies every stored byte that something stands on, and returns the first fault in a fixed order: headers, rules,
/// anchor, JSON payloads, commit records, indexes, receipts, payload files by the order of chain B.
///
/// # Errors
/// [`ChainError::Corrupt`] with the fault; [`ChainError::Damaged`] if the database fails its checksums;
/// [`ChainError::NoChain`] without any block; [`ChainError::Io`].
pub fn verify<S: Store + ?Sized>(
    store: &S,
    options: VerifyOptions<'_>,
) -> Result<VerifyReport, ChainError> {
    let began = Instant::now();
    let blocks = in_replay_order(Records(store).blocks()?);
    let (index, json_bytes) = verify_chain(store, &blocks, options.anchor)?;
    let genesis = index
        .genesis()
        .ok_or_else(|| ChainError::NoChain(store.payloads().layout().root().to_owned()))?;
    let counts = records::verify_records(store, &blocks)?;
    let payload_bytes = payloads::verify_payloads(store, &blocks, options)?;
    let files = payloads::count_strays(store.payloads(), &index)?;
    let count = |chain| index.head(chain).map_or(0, |head| head.blocks);
    Ok(VerifyReport {
        genesis,
        model: index.params().map(crate::ParamIndex::model),
        heads: [ChainId::A, ChainId::B, ChainId::C, ChainId::D]
            .into_iter()
            .filter_map(|chain| Some((chain, index.head(chain)?.hash)))
            .collect(),
        blocks_a: count(ChainId::A),
        blocks_b: count(ChainId::B),
        json_bytes,
        payload_bytes,
        receipts: counts.receipts,
        unreferenced: counts.unreferenced_bodies + files.unreferenced,
        temporary: files.temporary,
        elapsed: began.elapsed(),
    })
}

/// Headers by the rules of the chain, the anchor, then the JSON payloads. Returns the index and the payloads' bytes.
fn verify_chain<S: Store + ?Sized>(
    store: &S,
    blocks: &[(BlockHash, SignedBlock)],
    anchor: Option<BlockHash>,
) -> Result<(ChainIndex, u64), ChainError> {
    let records = Records(store);
    let mut index = ChainIndex::default();
    let mut draft = index.draft();
    for ((hash, block), signature) in blocks.iter().zip(check_signatures(blocks)) {
        let body = gives_authority(block.header.block_type)
            .then(|| load_body(&records, *hash, block.header.payload_hash));
        let body = body.transpose()?;
        draft
            .replay(*hash, block, signature, body.as_deref())
            .map_err(|refusal| refused(*hash, block, refusal))?;
    }
    if let Some(anchor) = anchor.filter(|anchor| draft.get(anchor).is_none()) {
        return Err(ChainError::from(Fault::Anchor(anchor)));
    }
    let mut json_bytes = 0;
    for (hash, block) in blocks
        .iter()
        .filter(|(_, block)| block.header.chain == ChainId::A)
    {
        json_bytes += records::verify_body(&records, &mut draft, *hash, block)?;
    }
    let added = draft.finish();
    index.apply(added);
    Ok((index, json_bytes))
}
