//! Blocks of this node's own on chain A.

use blyan_chain::compose::meta_block_after;
use blyan_chain::{Acceptance, ChainError, ChainHandle, Refusal};
use blyan_formats::{BlockHash, BlockType, ChainId, NodeKey};

use super::home::now_ms;

/// Tries while others append to chain A too.
const TRIES: usize = 8;

/// Appends a block with this payload, signed by `key`, after whatever is newest; returns its hash once it is durable.
///
/// # Errors
/// As [`ChainHandle::append`]; [`ChainError::NoModel`] on an empty chain.
pub async fn append(
    chain: &ChainHandle,
    key: &NodeKey,
    block_type: BlockType,
    body: Vec<u8>,
) -> Result<BlockHash, ChainError> {
    let mut tries = 1;
    loop {
        let (head, genesis) = (chain.head(ChainId::A).await?, chain.genesis().await?);
        let (head, genesis) = head.zip(genesis).ok_or(ChainError::NoModel(None))?;
        let now = now_ms();
        let block = meta_block_after(&head, genesis, block_type, (body.clone(), now), key);
        let hash = block.block.hash();
        let acceptance = Acceptance {
            by: key.public_key(),
            at_ms: now,
        };
        match chain.append(vec![block], acceptance).await {
            Ok(_) => return Ok(hash),
            Err(error) if tries == TRIES || !has_moved(&error) => return Err(error),
            Err(_) => tries += 1,
        }
    }
}

/// Another block took the place meanwhile.
fn has_moved(error: &ChainError) -> bool {
    let ChainError::Refused { refusal, .. } = error else {
        return false;
    };
    matches!(**refusal, Refusal::Index { .. } | Refusal::PrevHash { .. })
}
