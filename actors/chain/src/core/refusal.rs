use blyan_formats::block::BlockError;
use blyan_formats::bodies::BodyError;
use blyan_formats::{BlockHash, BlockType, NetworkId, PayloadHash, PublicKey, TensorName};

/// Why a block may not be appended. The variants stand in the order in which they are checked; the first that
/// applies is the answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The header's own fields do not fit each other.
    #[error(transparent)]
    Shape(BlockError),
    /// The signature does not hold.
    #[error(transparent)]
    Signature(BlockError),
    /// The chain is empty, and the block is not a genesis.
    #[error("the chain has no genesis yet")]
    NoGenesis,
    /// Another genesis stands there.
    #[error("the chain starts with the genesis {ours}")]
    OtherGenesis {
        /// The chain's own.
        ours: BlockHash,
    },
    /// The signer is not authorised by the genesis or by chain A.
    #[error("the key {0} may not sign blocks of this network")]
    Signer(PublicKey),
    /// The signer was granted experts on chain A, and the block is something else.
    #[error("the key {key} may sign experts only, not {block_type}")]
    Grant {
        /// The signer.
        key: PublicKey,
        /// What it signed.
        block_type: BlockType,
    },
    /// The signer was granted experts on chain A, and deprecates blocks: a candidate must not (CHAIN-29).
    #[error("the key {0} may add experts, not deprecate what is there")]
    GrantSupersedes(PublicKey),
    /// The block belongs to another network (SEC-23).
    #[error("it belongs to the network {theirs}, this is {ours}")]
    Network {
        /// The chain's own.
        ours: NetworkId,
        /// The block's.
        theirs: NetworkId,
    },
    /// Linear chains: the index is not the next one.
    #[error("its index is {found}, the next one is {expected}")]
    Index {
        /// The next index; on chain B 0 or 1 + the highest index of its parents.
        expected: u64,
        /// The block's.
        found: u64,
    },
    /// Linear chains: `prev_hash` is not the hash of the block before.
    #[error("its prev_hash is not {expected}, the hash at the index before")]
    PrevHash {
        /// The hash at the index before.
        expected: BlockHash,
    },
    /// Chain B: a block would depend on itself.
    #[error("it would close a cycle through {0}")]
    Cycle(BlockHash),
    /// Chain B: a parent is not on chain B.
    #[error("it depends on {0}, which is not on chain B")]
    Parent(BlockHash),
    /// Chain B: `meta_ref` is no architecture block on chain A.
    #[error("its meta_ref {0} is no architecture block on chain A")]
    MetaRef(BlockHash),
    /// Chain B: what it supersedes is no block of chain B that carries the same tensor.
    #[error("it supersedes {0}, which is no block of the same tensor on chain B")]
    Supersedes(BlockHash),
    /// There is no payload.
    #[error("its payload {0} is not there")]
    PayloadMissing(PayloadHash),
    /// The payload is longer or shorter than the header says.
    #[error("its payload has {found} bytes, the header says {expected}")]
    PayloadLen {
        /// What the header says.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// The JSON payload has another hash.
    #[error("its payload hashes to {0}")]
    PayloadHash(PayloadHash),
    /// The JSON payload breaks its own rules.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The manifest's architecture is no architecture block on chain A.
    #[error("the manifest's architecture {0} is no architecture block on chain A")]
    ManifestArchitecture(BlockHash),
    /// The manifest names a block that is not on chain B.
    #[error("the manifest names {block} for {name}, which is not on chain B")]
    ManifestBlock {
        /// The tensor.
        name: TensorName,
        /// Its block.
        block: BlockHash,
    },
    /// The manifest names a block that carries another tensor.
    #[error("the manifest names {block} for {name}, which carries another tensor")]
    ManifestName {
        /// The tensor.
        name: TensorName,
        /// The block.
        block: BlockHash,
    },
}

impl Refusal {
    /// The rule's name, for metrics.
    pub const fn rule(&self) -> &'static str {
        match self {
            Self::Shape(_) => "shape",
            Self::Signature(_) => "signature",
            Self::NoGenesis => "no_genesis",
            Self::OtherGenesis { .. } => "other_genesis",
            Self::Signer(_) => "signer",
            Self::Grant { .. } => "grant",
            Self::GrantSupersedes(_) => "grant_supersedes",
            Self::Network { .. } => "network",
            Self::Index { .. } => "index",
            Self::PrevHash { .. } => "prev_hash",
            Self::Cycle(_) => "cycle",
            Self::Parent(_) => "parent",
            Self::MetaRef(_) => "meta_ref",
            Self::Supersedes(_) => "supersedes",
            Self::PayloadMissing(_) => "payload_missing",
            Self::PayloadLen { .. } => "payload_len",
            Self::PayloadHash(_) => "payload_hash",
            Self::Body(_) => "body",
            Self::ManifestArchitecture(_) => "manifest_architecture",
            Self::ManifestBlock { .. } => "manifest_block",
            Self::ManifestName { .. } => "manifest_name",
        }
    }
}
