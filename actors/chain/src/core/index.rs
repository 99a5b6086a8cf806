use std::collections::{BTreeMap, BTreeSet, HashMap};

use blyan_formats::{
    BlockHash, BlockType, ChainId, GenesisBody, NetworkId, PayloadHash, PublicKey, SignedBlock,
    TensorName,
};

use super::{Draft, ParamIndex};

/// What the index keeps of a block: about 300 bytes, so that memory grows with the number of blocks alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockMeta {
    /// The block.
    pub hash: BlockHash,
    /// Its chain.
    pub chain: ChainId,
    /// Its height.
    pub index: u64,
    /// What it is about.
    pub block_type: BlockType,
    /// Chain B: the tensor it carries.
    pub name: Option<TensorName>,
    /// Its payload.
    pub payload: PayloadHash,
    /// Length of the payload in bytes.
    pub payload_len: u64,
    /// Chain B: what it depends on.
    pub parents: Vec<BlockHash>,
    /// Chain B: the architecture block that it was made for.
    pub meta_ref: Option<BlockHash>,
    /// Chain B: what it deprecates.
    pub supersedes: Vec<BlockHash>,
}

impl BlockMeta {
    /// The part of `block`, whose hash is `hash`, that the index keeps.
    pub fn of(hash: BlockHash, block: &SignedBlock) -> Self {
        let header = &block.header;
        Self {
            hash,
            chain: header.chain,
            index: header.index,
            block_type: header.block_type,
            name: header.expert_name,
            payload: header.payload_hash,
            payload_len: header.payload_len,
            parents: header.depends_on.clone().unwrap_or_default(),
            meta_ref: header.meta_ref,
            supersedes: header.supersedes.clone().unwrap_or_default(),
        }
    }
}

/// The newest end of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Which chain.
    pub chain: ChainId,
    /// The highest index.
    pub index: u64,
    /// The block there; on chain B, where several may have that index, the one with the highest hash.
    pub hash: BlockHash,
    /// Blocks on the chain.
    pub blocks: u64,
    /// Blocks that no other block builds on; 1 on a linear chain.
    pub tips: u64,
}

/// Who may sign, and for which network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Authority {
    pub(crate) genesis: BlockHash,
    keys: Vec<PublicKey>,
}

impl Authority {
    pub(crate) fn of(genesis: BlockHash, body: &GenesisBody) -> Self {
        Self {
            genesis,
            keys: body.authorised_keys.clone(),
        }
    }

    pub(crate) fn authorises(&self, key: &PublicKey) -> bool {
        self.keys.binary_search(key).is_ok()
    }

    pub(crate) const fn network(&self) -> NetworkId {
        NetworkId::of_genesis(self.genesis)
    }
}

/// The keys that may sign.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signers {
    /// Any block: those of the genesis, in order.
    pub authorised: Vec<PublicKey>,
    /// Experts only, each with the first block that grants it.
    pub granted: BTreeMap<PublicKey, BlockHash>,
}

/// Every block by hash and by index, who depends on whom, and the newest model. Appending costs the same at any
/// length (CHAIN-17 to 19).
#[derive(Clone, Debug, Default)]
pub struct ChainIndex {
    pub(crate) authority: Option<Authority>,
    /// Keys that may sign experts, beside those of the genesis, and the first block that grants it.
    granted: BTreeMap<PublicKey, BlockHash>,
    blocks: HashMap<BlockHash, BlockMeta>,
    /// Index to hash.
    chain_a: Vec<BlockHash>,
    chain_b: BTreeSet<(u64, BlockHash)>,
    tips_b: BTreeSet<BlockHash>,
    by_payload: HashMap<PayloadHash, BlockHash>,
    /// Every block of a tensor, parents before children.
    by_name: BTreeSet<(TensorName, u64, BlockHash)>,
    /// Deprecated block to a block that replaces it.
    superseded: BTreeSet<(BlockHash, BlockHash)>,
    params: Option<ParamIndex>,
}

/// What a draft found admissible, ready to be applied once it is durable.
#[derive(Debug, Default)]
pub struct Added {
    pub(super) authority: Option<Authority>,
    pub(super) granted: BTreeMap<PublicKey, BlockHash>,
    pub(super) blocks: Vec<BlockMeta>,
    pub(super) params: Option<ParamIndex>,
}

impl Added {
    /// The new blocks in the order in which they were admitted.
    pub fn blocks(&self) -> &[BlockMeta] {
        &self.blocks
    }
}

impl ChainIndex {
    /// Starts to check blocks that are to follow what is here.
    pub fn draft(&self) -> Draft<'_> {
        Draft::new(self)
    }

    /// Makes a draft's blocks visible. The draft must have been made of this index as it is.
    pub fn apply(&mut self, added: Added) {
        for block in added.blocks {
            self.insert(block);
        }
        for (key, grant) in added.granted {
            self.granted.entry(key).or_insert(grant);
        }
        self.authority = added.authority.or(self.authority.take());
        self.params = added.params.or(self.params.take());
    }

    fn insert(&mut self, block: BlockMeta) {
        match block.chain {
            ChainId::B => {
                self.chain_b.insert((block.index, block.hash));
                self.tips_b.insert(block.hash);
                for parent in &block.parents {
                    self.tips_b.remove(parent);
                }
                self.by_payload.entry(block.payload).or_insert(block.hash);
                let named = block.name.map(|name| (name, block.index, block.hash));
                self.by_name.extend(named);
                let superseded = block.supersedes.iter().map(|old| (*old, block.hash));
                self.superseded.extend(superseded);
            }
            _ => self.chain_a.push(block.hash),
        }
        self.blocks.insert(block.hash, block);
    }

    /// The hash of the genesis block.
    pub fn genesis(&self) -> Option<BlockHash> {
        self.authority.as_ref().map(|authority| authority.genesis)
    }

    /// Whether the genesis authorises the key, so that it may sign any block.
    pub fn authorises(&self, key: &PublicKey) -> bool {
        self.authority
            .as_ref()
            .is_some_and(|authority| authority.authorises(key))
    }

    /// Keys that `key_grant` blocks let sign experts, each with the first block that does.
    pub const fn granted(&self) -> &BTreeMap<PublicKey, BlockHash> {
        &self.granted
    }

    /// The keys that may sign.
    pub fn signers(&self) -> Signers {
        let authorised = self.authority.as_ref().map(|authority| &authority.keys);
        Signers {
            authorised: authorised.cloned().unwrap_or_default(),
            granted: self.granted.clone(),
        }
    }

    /// What is known of a block.
    pub fn get(&self, hash: &BlockHash) -> Option<&BlockMeta> {
        self.blocks.get(hash)
    }

    /// Blocks on all chains.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether there is not even a genesis.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Chain A from the genesis on.
    pub fn chain_a(&self) -> &[BlockHash] {
        &self.chain_a
    }

    /// Chain B by index, then hash: parents stand before children, so this is also a topological order (CHAIN-05).
    pub fn chain_b(&self) -> impl ExactSizeIterator<Item = BlockHash> + '_ {
        self.chain_b.iter().map(|(_, hash)| *hash)
    }

    /// The newest end of a chain; `None` for an empty one.
    pub fn head(&self, chain: ChainId) -> Option<Head> {
        match chain {
            ChainId::A => {
                let hash = *self.chain_a.last()?;
                let blocks = self.chain_a.len() as u64;
                Some(Head {
                    chain,
                    index: blocks - 1,
                    hash,
                    blocks,
                    tips: 1,
                })
            }
            ChainId::B => {
                let (index, hash) = *self.chain_b.last()?;
                let (blocks, tips) = (self.chain_b.len() as u64, self.tips_b.len() as u64);
                Some(Head {
                    chain,
                    index,
                    hash,
                    blocks,
                    tips,
                })
            }
            ChainId::C | ChainId::D => None,
        }
    }

    /// Every block that carries a tensor, parents before children.
    pub fn versions(&self, name: TensorName) -> impl Iterator<Item = &BlockMeta> {
        let all = (name, 0, BlockHash::from_bytes([0; 32]))
            ..=(name, u64::MAX, BlockHash::from_bytes([0xff; 32]));
        self.by_name
            .range(all)
            .filter_map(|(.., hash)| self.get(hash))
    }

    /// The blocks that deprecate this one, by hash; none where it is not deprecated (CHAIN-29).
    pub fn superseded_by(&self, hash: BlockHash) -> impl Iterator<Item = BlockHash> + '_ {
        let all =
            (hash, BlockHash::from_bytes([0; 32]))..=(hash, BlockHash::from_bytes([0xff; 32]));
        self.superseded.range(all).map(|(_, newer)| *newer)
    }

    /// The newest manifest, resolved.
    pub const fn params(&self) -> Option<&ParamIndex> {
        self.params.as_ref()
    }

    /// Every manifest, oldest first.
    pub fn manifests(&self) -> impl Iterator<Item = BlockHash> + '_ {
        let is_manifest = |hash: &BlockHash| {
            self.get(hash)
                .is_some_and(|b| b.block_type == BlockType::Manifest)
        };
        self.chain_a.iter().copied().filter(is_manifest)
    }

    /// A block that carries this payload and the tensor's name; the newest manifest's where it names one.
    pub fn by_payload(&self, payload: &PayloadHash) -> Option<(TensorName, &BlockMeta)> {
        let current = self
            .params
            .as_ref()
            .and_then(|params| params.by_payload(payload));
        let hash = match current {
            Some((_, entry)) => &entry.block,
            None => self.by_payload.get(payload)?,
        };
        let block = self.blocks.get(hash)?;
        Some((block.name?, block))
    }
}
