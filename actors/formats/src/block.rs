//! Block v1: the header, its hash, its signature, and the ladder of refusals on its shape.
//!
//! The hash is SHA-256 over `blyan/block/v1`, a zero byte, and the canonical JSON of the header; the signature is
//! secp256k1 ECDSA over that hash. An optional field that does not apply is absent, never `null`.

use serde::{Deserialize, Serialize};

use crate::canonical::{CanonicalError, from_canonical_bounded, to_canonical};
use crate::hash::{BLOCK_DOMAIN, BlockHash, NetworkId, PayloadHash, domain_hash};
use crate::keys::{NodeKey, PublicKey, SIGNATURE_LEN, Signature, SignatureFault};
use crate::name::TensorName;

/// The only version of this format.
pub const BLOCK_VERSION: u32 = 1;

/// Most parents of a block on chain B.
pub const DEPENDS_ON_MAX: usize = 64;

/// Most blocks that one block supersedes.
pub const SUPERSEDES_MAX: usize = 64;

/// Longest canonical JSON of a signed block, in bytes.
pub const SIGNED_BLOCK_LEN_MAX: usize = 16 * 1024;

/// Longest JSON payload, in bytes.
pub const JSON_PAYLOAD_LEN_MAX: u64 = 16 << 20;

/// Longest TensorBlock payload, in bytes (TBLK-18 asks for about 10 GB).
pub const TENSORBLOCK_PAYLOAD_LEN_MAX: u64 = 16 << 30;

/// Last accepted timestamp: the end of the year 9999.
pub const TIMESTAMP_MS_MAX: u64 = 253_402_300_799_999;

/// The four chains: A meta, B parameters (a DAG), C ledger, D data sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ChainId {
    A,
    B,
    C,
    D,
}

impl ChainId {
    /// Whether each block names one predecessor by `prev_hash`; chain B names parents by `depends_on`.
    #[must_use]
    pub const fn is_linear(self) -> bool {
        !matches!(self, Self::B)
    }

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
            Self::C => "C",
            Self::D => "D",
        }
    }
}

impl std::fmt::Display for ChainId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A letter that names no chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a chain is A, B, C or D")]
pub struct ChainIdError;

impl std::str::FromStr for ChainId {
    type Err = ChainIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::A, Self::B, Self::C, Self::D]
            .into_iter()
            .find(|chain| chain.as_str() == text)
            .ok_or(ChainIdError)
    }
}

/// What a block is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockType {
    /// Chain A, index 0: names the network's first authorised keys.
    Genesis,
    /// Chain A: keys that may sign experts from here on.
    KeyGrant,
    /// Chain A: shapes, tokenizer, routing rules.
    Architecture,
    /// Chain A: every tensor name to the hash of its current block; its hash is the model id.
    Manifest,
    /// Chain A: how long a node's audit log was, and its last record's hash.
    AuditAnchor,
    /// Chain B: one expert.
    Expert,
    /// Chain B: the router of one layer.
    Router,
    /// Chain B: attention, norms, embedding.
    SharedWeights,
}

impl BlockType {
    /// The one chain that this type belongs to.
    #[must_use]
    pub const fn chain(self) -> ChainId {
        match self {
            Self::Genesis
            | Self::KeyGrant
            | Self::Architecture
            | Self::Manifest
            | Self::AuditAnchor => ChainId::A,
            Self::Expert | Self::Router | Self::SharedWeights => ChainId::B,
        }
    }

    /// The one payload format of this type.
    #[must_use]
    pub const fn payload_type(self) -> PayloadType {
        match self.chain() {
            ChainId::B => PayloadType::Tensorblock,
            _ => PayloadType::Json,
        }
    }

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Genesis => "genesis",
            Self::KeyGrant => "key_grant",
            Self::Architecture => "architecture",
            Self::Manifest => "manifest",
            Self::AuditAnchor => "audit_anchor",
            Self::Expert => "expert",
            Self::Router => "router",
            Self::SharedWeights => "shared_weights",
        }
    }
}

impl std::fmt::Display for BlockType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Format of a payload (CHAIN-12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PayloadType {
    /// Canonical JSON, kept in the database; `payload_hash` is its plain SHA-256.
    Json,
    /// A file of [`crate::tensorblock`]; `payload_hash` is its Merkle root.
    Tensorblock,
}

impl PayloadType {
    /// Largest accepted `payload_len`, in bytes.
    #[must_use]
    pub const fn len_max(self) -> u64 {
        match self {
            Self::Json => JSON_PAYLOAD_LEN_MAX,
            Self::Tensorblock => TENSORBLOCK_PAYLOAD_LEN_MAX,
        }
    }
}

/// The header of a block: everything that its hash covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockHeader {
    /// [`BLOCK_VERSION`].
    pub version: u32,
    /// Hash of the genesis block; [`NetworkId::NONE`] (64 zeros) in the genesis header itself, and only there.
    pub network_id: NetworkId,
    pub chain: ChainId,
    /// Height. On chain B 0 without parents, else 1 + the highest index in `depends_on`.
    pub index: u64,
    /// Milliseconds since 1970-01-01 UTC, as the signer says.
    pub timestamp_ms: u64,
    pub block_type: BlockType,
    /// Chains A, C and D from index 1 on: hash of the block at `index - 1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev_hash: Option<BlockHash>,
    /// Chain B, always present there: parents on the same chain, sorted, without repetition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depends_on: Option<Vec<BlockHash>>,
    /// Chain B, absent where it replaces nothing: older blocks of the same tensor that are deprecated from here on, sorted,
    /// without repetition. They stay on the chain, and verifiable (CHAIN-29).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supersedes: Option<Vec<BlockHash>>,
    /// Chain B: the tensor in the payload. The field has the specification's name also for tensors that are no expert.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert_name: Option<TensorName>,
    /// The layer in `expert_name`, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer_id: Option<u16>,
    /// Chain B: hash of the architecture block on chain A. Checked for existence, never walked for cycles (X-05).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta_ref: Option<BlockHash>,
    pub payload_type: PayloadType,
    pub payload_hash: PayloadHash,
    /// Length of the payload in bytes.
    pub payload_len: u64,
    /// Anti-spam stamp; 0 where none is asked for.
    pub nonce: u64,
    /// Key of the signer.
    pub miner_pub: PublicKey,
}

/// Why a header or a signed block is refused. The variants stand in the order in which they are checked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
    #[error("block version is {0}, not 1")]
    Version(u32),
    #[error("block type {block_type} does not belong on chain {chain}")]
    ChainOfType {
        block_type: BlockType,
        chain: ChainId,
    },
    #[error("chain A starts with a genesis block, and no other block is one")]
    GenesisPlace,
    #[error("the network id is all zero in a genesis header and nowhere else")]
    NetworkId,
    #[error("timestamp {0} ms lies after the year 9999")]
    Timestamp(u64),
    #[error("prev_hash belongs in blocks of chains A, C and D from index 1 on, and only there")]
    PrevHash,
    #[error("depends_on belongs in every block of chain B, and only there")]
    DependsOnPlace,
    #[error("depends_on has {0} entries, more than {DEPENDS_ON_MAX}")]
    DependsOnLen(usize),
    #[error("depends_on is not sorted or repeats an entry")]
    DependsOnOrder,
    #[error("on chain B index is 0 exactly when depends_on is empty")]
    IndexOfParents,
    #[error("supersedes belongs on chain B only")]
    SupersedesPlace,
    #[error("supersedes has {0} entries, not 1 to {SUPERSEDES_MAX}")]
    SupersedesLen(usize),
    #[error("supersedes is not sorted or repeats an entry")]
    SupersedesOrder,
    #[error("expert_name belongs in every block of chain B, and only there")]
    ExpertNamePlace,
    #[error("expert_name {name} does not fit block type {block_type}")]
    ExpertNameType {
        name: TensorName,
        block_type: BlockType,
    },
    #[error("layer_id is not the layer in expert_name")]
    LayerId,
    #[error("meta_ref belongs in every block of chain B, and only there")]
    MetaRefPlace,
    #[error("payload_type does not fit block type {0}")]
    PayloadType(BlockType),
    #[error("payload_len {len} is zero or more than {len_max}")]
    PayloadLen { len: u64, len_max: u64 },
    #[error("signature: {0}")]
    Signature(#[from] SignatureFault),
}

impl BlockHeader {
    /// SHA-256 under `blyan/block/v1` of the header's canonical JSON.
    #[must_use]
    pub fn hash(&self) -> BlockHash {
        BlockHash::from_bytes(domain_hash(BLOCK_DOMAIN, &[&self.to_canonical()]))
    }

    /// The header's canonical JSON.
    #[must_use]
    pub fn to_canonical(&self) -> Vec<u8> {
        to_canonical(self).expect(
            "a header holds integers, texts and lists only, all of which have a canonical form",
        )
    }

    /// Signs the header; `miner_pub` is set to the public half of `key`.
    #[must_use]
    pub fn sign(mut self, key: &NodeKey) -> SignedBlock {
        self.miner_pub = key.public_key();
        let signature = key.sign(self.hash());
        SignedBlock {
            header: self,
            signature,
        }
    }

    /// The network that this block belongs to; for a genesis block the one that it starts.
    #[must_use]
    pub fn network(&self) -> NetworkId {
        match self.block_type {
            BlockType::Genesis => NetworkId::of_genesis(self.hash()),
            _ => self.network_id,
        }
    }

    /// Checks what can be seen from the header alone, in the order of [`BlockError`]'s variants. Whether links lead to
    /// stored blocks, and whether the signer is authorised, is the chain's to say.
    ///
    /// # Errors
    /// The first refusal.
    pub fn validate_shape(&self) -> Result<(), BlockError> {
        if self.version != BLOCK_VERSION {
            return Err(BlockError::Version(self.version));
        }
        self.check_place()?;
        if self.timestamp_ms > TIMESTAMP_MS_MAX {
            return Err(BlockError::Timestamp(self.timestamp_ms));
        }
        self.check_links()?;
        self.check_superseded()?;
        self.check_tensor_fields()?;
        self.check_payload()
    }

    fn check_place(&self) -> Result<(), BlockError> {
        let Self {
            block_type, chain, ..
        } = *self;
        if block_type.chain() != chain {
            return Err(BlockError::ChainOfType { block_type, chain });
        }
        let is_genesis = block_type == BlockType::Genesis;
        if is_genesis != (chain == ChainId::A && self.index == 0) {
            return Err(BlockError::GenesisPlace);
        }
        if is_genesis != (self.network_id == NetworkId::NONE) {
            return Err(BlockError::NetworkId);
        }
        Ok(())
    }

    fn check_links(&self) -> Result<(), BlockError> {
        if self.prev_hash.is_some() != (self.chain.is_linear() && self.index > 0) {
            return Err(BlockError::PrevHash);
        }
        match (&self.depends_on, self.chain.is_linear()) {
            (None, true) => Ok(()),
            (Some(parents), false) => self.check_parents(parents),
            _ => Err(BlockError::DependsOnPlace),
        }
    }

    fn check_parents(&self, parents: &[BlockHash]) -> Result<(), BlockError> {
        if parents.len() > DEPENDS_ON_MAX {
            return Err(BlockError::DependsOnLen(parents.len()));
        }
        if !parents.is_sorted_by(|a, b| a < b) {
            return Err(BlockError::DependsOnOrder);
        }
        if parents.is_empty() != (self.index == 0) {
            return Err(BlockError::IndexOfParents);
        }
        Ok(())
    }

    fn check_superseded(&self) -> Result<(), BlockError> {
        let Some(superseded) = &self.supersedes else {
            return Ok(());
        };
        if self.chain != ChainId::B {
            return Err(BlockError::SupersedesPlace);
        }
        if !(1..=SUPERSEDES_MAX).contains(&superseded.len()) {
            return Err(BlockError::SupersedesLen(superseded.len()));
        }
        if !superseded.is_sorted_by(|a, b| a < b) {
            return Err(BlockError::SupersedesOrder);
        }
        Ok(())
    }

    fn check_tensor_fields(&self) -> Result<(), BlockError> {
        let on_b = self.chain == ChainId::B;
        let block_type = self.block_type;
        if self.expert_name.is_some() != on_b {
            return Err(BlockError::ExpertNamePlace);
        }
        if let Some(name) = self
            .expert_name
            .filter(|name| name.block_type() != block_type)
        {
            return Err(BlockError::ExpertNameType { name, block_type });
        }
        if self.layer_id != self.expert_name.and_then(|name| name.layer()) {
            return Err(BlockError::LayerId);
        }
        if self.meta_ref.is_some() != on_b {
            return Err(BlockError::MetaRefPlace);
        }
        Ok(())
    }

    fn check_payload(&self) -> Result<(), BlockError> {
        if self.payload_type != self.block_type.payload_type() {
            return Err(BlockError::PayloadType(self.block_type));
        }
        let (len, len_max) = (self.payload_len, self.payload_type.len_max());
        if len == 0 || len > len_max {
            return Err(BlockError::PayloadLen { len, len_max });
        }
        Ok(())
    }
}

/// A header and the signature over its hash by `miner_pub`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedBlock {
    pub header: BlockHeader,
    pub signature: Signature,
}

impl SignedBlock {
    /// The header's hash; the signature is not part of it.
    #[must_use]
    pub fn hash(&self) -> BlockHash {
        self.header.hash()
    }

    /// Shape, then signature. Says nothing about whether the signer may sign.
    ///
    /// # Errors
    /// The first refusal of [`BlockHeader::validate_shape`], then [`BlockError::Signature`].
    pub fn verify(&self) -> Result<(), BlockError> {
        self.header.validate_shape()?;
        self.verify_signature()
    }

    /// # Errors
    /// [`BlockError::Signature`].
    pub fn verify_signature(&self) -> Result<(), BlockError> {
        Ok(self.header.miner_pub.verify(self.hash(), &self.signature)?)
    }

    /// Canonical JSON `{"header":{..},"signature":".."}`, the stored and transmitted form.
    #[must_use]
    pub fn to_canonical(&self) -> Vec<u8> {
        to_canonical(self).expect("a header and a signature have a canonical form")
    }

    /// Reads the canonical form and nothing else. The block is not verified.
    ///
    /// # Errors
    /// [`BlockError::Canonical`], also for more than [`SIGNED_BLOCK_LEN_MAX`] bytes.
    pub fn from_canonical(bytes: &[u8]) -> Result<Self, BlockError> {
        Ok(from_canonical_bounded(bytes, SIGNED_BLOCK_LEN_MAX)?)
    }

    /// As [`SignedBlock::from_canonical`], with the block's hash, for which nothing is encoded anew.
    ///
    /// # Errors
    /// As [`SignedBlock::from_canonical`].
    pub fn read(bytes: &[u8]) -> Result<(BlockHash, Self), BlockError> {
        let block = Self::from_canonical(bytes)?;
        Ok((block_hash_of(bytes), block))
    }

    /// The canonical form and the hash, of one encoding.
    #[must_use]
    pub fn written(&self) -> (BlockHash, Vec<u8>) {
        let bytes = self.to_canonical();
        (block_hash_of(&bytes), bytes)
    }
}

/// What stands around the header in a signed block's canonical form.
const BEFORE_HEADER: &[u8] = br#"{"header":"#;
const AFTER_HEADER: &[u8] = br#","signature":""}"#;

/// The hash of a block whose canonical form this is: the header stands in it as it is hashed.
fn block_hash_of(canonical: &[u8]) -> BlockHash {
    let end = canonical.len() - AFTER_HEADER.len() - 2 * SIGNATURE_LEN;
    let header = &canonical[BEFORE_HEADER.len()..end];
    BlockHash::from_bytes(domain_hash(BLOCK_DOMAIN, &[header]))
}

/// Under which rule a block was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommitRule {
    /// The signer's key is authorised by the genesis or by chain A.
    AuthorisedKey,
}

/// Who accepted a block, when and why. It stands outside of the hash, so that a consensus engine can bring its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitRecord {
    pub accepted_by: PublicKey,
    /// Milliseconds since 1970-01-01 UTC.
    pub accepted_ms: u64,
    pub rule: CommitRule,
}

impl CommitRecord {
    /// Canonical JSON, the stored form.
    #[must_use]
    pub fn to_canonical(&self) -> Vec<u8> {
        to_canonical(self).expect("a key, an integer and a word have a canonical form")
    }
}

#[cfg(test)]
mod tests;
