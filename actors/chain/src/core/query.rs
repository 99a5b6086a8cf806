use std::collections::{BTreeSet, BinaryHeap, HashSet};

use blyan_formats::{BlockHash, BlockType, ChainId, PayloadType, TensorName};

use super::{BlockMeta, ChainIndex};

/// Most blocks in one answer.
pub const BLOCKS_MAX: usize = 1000;

/// Which blocks are wanted, all conditions together (CHAIN-15); what is left out is not asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockQuery {
    /// Of this type.
    pub block_type: Option<BlockType>,
    /// With a payload of this format.
    pub payload_type: Option<PayloadType>,
    /// Made for this architecture block.
    pub architecture: Option<BlockHash>,
    /// Carrying one of these tensors; empty for any.
    pub names: BTreeSet<TensorName>,
    /// Deprecated blocks too.
    pub deprecated: bool,
}

/// One block of a tensor, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The block.
    pub block: BlockMeta,
    /// The blocks that deprecate it, by hash.
    pub superseded_by: Vec<BlockHash>,
    /// Whether the newest manifest names it.
    pub current: bool,
}

/// A block of chain B and what it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// Parents before children; the block itself is the last.
    pub blocks: Vec<Version>,
    /// Whether there are older ancestors than these.
    pub truncated: bool,
}

impl BlockQuery {
    fn wants(&self, block: &BlockMeta) -> bool {
        self.block_type
            .is_none_or(|wanted| wanted == block.block_type)
            && self
                .payload_type
                .is_none_or(|wanted| wanted == block.block_type.payload_type())
            && self
                .architecture
                .is_none_or(|wanted| block.meta_ref == Some(wanted))
            && (self.names.is_empty() || block.name.is_some_and(|name| self.names.contains(&name)))
    }
}

impl ChainIndex {
    /// The blocks that a query asks for: chain A by index, then chain B parents before children, and only the blocks of
    /// the tensors that it names where it names some.
    pub fn find<'a>(&'a self, query: &'a BlockQuery) -> impl Iterator<Item = &'a BlockMeta> {
        let everywhere = query.names.is_empty();
        let named = query.names.iter().flat_map(|name| self.versions(*name));
        let hashes = self.chain_a().iter().copied().chain(self.chain_b());
        let all = hashes
            .filter(move |_| everywhere)
            .filter_map(|hash| self.get(&hash));
        let wanted = all.chain(named).filter(|block| query.wants(block));
        wanted.filter(|block| query.deprecated || self.superseded_by(block.hash).next().is_none())
    }

    /// A block, what replaces it, and whether it is in use.
    pub fn version(&self, block: &BlockMeta) -> Version {
        let entry = self.params().zip(block.name);
        let entry = entry.and_then(|(params, name)| params.entries().get(&name));
        Version {
            superseded_by: self.superseded_by(block.hash).collect(),
            current: entry.is_some_and(|entry| entry.block == block.hash),
            block: block.clone(),
        }
    }

    /// A block of chain B and the `count_max` blocks nearest to it that it depends on, directly or not; `None` if it is
    /// not on chain B.
    pub fn lineage(&self, hash: BlockHash, count_max: usize) -> Option<Lineage> {
        let of = self.get(&hash).filter(|block| block.chain == ChainId::B)?;
        let mut waiting = BinaryHeap::from([(of.index, hash)]);
        let mut seen = HashSet::from([hash]);
        let mut blocks = Vec::new();
        // The highest index first: a parent's is below that of all its children.
        while blocks.len() <= count_max
            && let Some((_, next)) = waiting.pop()
        {
            let block = self.get(&next)?;
            let parents = block.parents.iter().filter(|parent| seen.insert(**parent));
            let known = parents.filter_map(|parent| self.get(parent));
            waiting.extend(known.map(|parent| (parent.index, parent.hash)));
            blocks.push(self.version(block));
        }
        blocks.reverse();
        Some(Lineage {
            truncated: !waiting.is_empty(),
            blocks,
        })
    }
}
