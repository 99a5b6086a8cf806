//! What became of the blocks of a tensor, in the edge's words.

use blyan_chain::{BLOCKS_MAX, BlockQuery, ChainError, ChainHandle, Version};
use blyan_formats::{BlockHash, TensorName};

use crate::edge::replies::{LineageReply, VersionReply};

/// Every block of a tensor, deprecated ones too, parents before children.
pub async fn versions(
    chain: &ChainHandle,
    name: TensorName,
) -> Result<Vec<VersionReply>, ChainError> {
    let query = BlockQuery {
        names: [name].into(),
        deprecated: true,
        ..BlockQuery::default()
    };
    let found = chain.find(query, BLOCKS_MAX).await?;
    Ok(found.into_iter().map(reply).collect())
}

/// A block of chain B and its ancestors; `None` where there is no such block.
pub async fn lineage(
    chain: &ChainHandle,
    hash: BlockHash,
) -> Result<Option<LineageReply>, ChainError> {
    match chain.lineage(hash, BLOCKS_MAX).await {
        Ok(lineage) => Ok(Some(LineageReply {
            blocks: lineage.blocks.into_iter().map(reply).collect(),
            truncated: lineage.truncated,
        })),
        Err(ChainError::NoBlock(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn reply(version: Version) -> VersionReply {
    let Version {
        block,
        superseded_by,
        current,
    } = version;
    VersionReply {
        name: block.name.map_or_else(String::new, |name| name.to_string()),
        hash: block.hash.to_string(),
        index: block.index,
        payload_hash: block.payload.to_string(),
        payload_len: block.payload_len,
        depends_on: texts(&block.parents),
        meta_ref: block.meta_ref.map(|hash| hash.to_string()),
        supersedes: texts(&block.supersedes),
        superseded_by: texts(&superseded_by),
        current,
    }
}

fn texts(hashes: &[BlockHash]) -> Vec<String> {
    hashes.iter().map(BlockHash::to_string).collect()
}
