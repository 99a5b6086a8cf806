//! Headers as the rules want them, signed.

use blyan_formats::block::BLOCK_VERSION;
use blyan_formats::bodies::Payload as _;
use blyan_formats::{
    BlockHash, BlockHeader, BlockType, ChainId, GenesisBody, NetworkId, NodeKey, PayloadHash,
    SignedBlock, TensorName,
};

use crate::ChainError;
use crate::core::{ChainIndex, Head};
use crate::writer::NewBlock;

/// A genesis that authorises `key` alone. The same arguments give the same block.
///
/// # Errors
/// [`ChainError::Malformed`] if the name is not 1 to 64 printable ASCII characters.
pub fn genesis_block(
    network_name: &str,
    timestamp_ms: u64,
    key: &NodeKey,
) -> Result<NewBlock, ChainError> {
    let body = GenesisBody::new(network_name, [key.public_key()]).to_payload();
    let body = body.map_err(|error| ChainError::Malformed(error.to_string()))?;
    let header = header(NetworkId::NONE, BlockType::Genesis, 0, timestamp_ms, key);
    Ok(with_body(header, body, key))
}

/// The next block of chain A. The same index and arguments give the same block.
///
/// # Errors
/// [`ChainError::Malformed`] if the chain has no genesis yet.
pub fn meta_block(
    index: &ChainIndex,
    block_type: BlockType,
    body: Vec<u8>,
    timestamp_ms: u64,
    key: &NodeKey,
) -> Result<NewBlock, ChainError> {
    let head = index.head(ChainId::A);
    let (Some(head), Some(genesis)) = (head, index.genesis()) else {
        return Err(ChainError::Malformed(
            "the chain has no genesis yet".to_owned(),
        ));
    };
    Ok(meta_block_after(
        &head,
        genesis,
        block_type,
        (body, timestamp_ms),
        key,
    ))
}

/// The block of chain A that follows `head`, with a body and a time in milliseconds.
pub fn meta_block_after(
    head: &Head,
    genesis: BlockHash,
    block_type: BlockType,
    (body, timestamp_ms): (Vec<u8>, u64),
    key: &NodeKey,
) -> NewBlock {
    let network = NetworkId::of_genesis(genesis);
    let mut header = header(network, block_type, head.index + 1, timestamp_ms, key);
    header.prev_hash = Some(head.hash);
    with_body(header, body, key)
}

/// What a block on chain B says of its weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights {
    /// The tensor.
    pub name: TensorName,
    /// The payload file.
    pub payload: PayloadHash,
    /// Its length in bytes.
    pub payload_len: u64,
    /// The architecture block that it was made for.
    pub meta_ref: BlockHash,
    /// The blocks that it improves, in any order.
    pub parents: Vec<BlockHash>,
    /// Older blocks of the tensor that it deprecates, in any order.
    pub supersedes: Vec<BlockHash>,
}

/// A block on chain B. The same index and arguments give the same block.
///
/// # Errors
/// [`ChainError::Malformed`] if the chain has no genesis yet, [`ChainError::NoBlock`] if a parent is not on it.
pub fn weights_block(
    index: &ChainIndex,
    weights: Weights,
    timestamp_ms: u64,
    key: &NodeKey,
) -> Result<NewBlock, ChainError> {
    let genesis = index
        .genesis()
        .ok_or_else(|| ChainError::Malformed("the chain has no genesis yet".to_owned()))?;
    let mut height = 0;
    for parent in &weights.parents {
        let parent = index.get(parent).ok_or(ChainError::NoBlock(*parent))?;
        height = height.max(parent.index + 1);
    }
    let network = NetworkId::of_genesis(genesis);
    Ok(NewBlock {
        block: weights_block_at(network, height, weights, timestamp_ms, key),
        body: None,
    })
}

/// A block on chain B for whoever has no chain: `height` is 0 without parents, else 1 + the highest index of them.
pub fn weights_block_at(
    network: NetworkId,
    height: u64,
    weights: Weights,
    timestamp_ms: u64,
    key: &NodeKey,
) -> SignedBlock {
    let superseded = sorted(weights.supersedes);
    let block_type = weights.name.block_type();
    let mut header = header(network, block_type, height, timestamp_ms, key);
    header.depends_on = Some(sorted(weights.parents));
    header.supersedes = (!superseded.is_empty()).then_some(superseded);
    header.expert_name = Some(weights.name);
    header.layer_id = weights.name.layer();
    header.meta_ref = Some(weights.meta_ref);
    header.payload_hash = weights.payload;
    header.payload_len = weights.payload_len;
    header.sign(key)
}

fn sorted(mut hashes: Vec<BlockHash>) -> Vec<BlockHash> {
    hashes.sort_unstable();
    hashes.dedup();
    hashes
}

fn header(
    network_id: NetworkId,
    block_type: BlockType,
    index: u64,
    timestamp_ms: u64,
    key: &NodeKey,
) -> BlockHeader {
    BlockHeader {
        version: BLOCK_VERSION,
        network_id,
        chain: block_type.chain(),
        index,
        timestamp_ms,
        block_type,
        prev_hash: None,
        depends_on: None,
        supersedes: None,
        expert_name: None,
        layer_id: None,
        meta_ref: None,
        payload_type: block_type.payload_type(),
        payload_hash: PayloadHash::of_bytes(&[]),
        payload_len: 0,
        nonce: 0,
        miner_pub: key.public_key(),
    }
}

fn with_body(mut header: BlockHeader, body: Vec<u8>, key: &NodeKey) -> NewBlock {
    header.payload_hash = PayloadHash::of_bytes(&body);
    header.payload_len = body.len() as u64;
    NewBlock {
        block: header.sign(key),
        body: Some(body),
    }
}
