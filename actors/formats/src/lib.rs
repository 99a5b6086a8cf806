#![doc = include_str!("../README.md")]

pub mod block;
pub mod bodies;
pub mod canonical;
pub mod error;
pub mod gguf;
pub mod hash;
pub mod keys;
pub mod merkle;
pub mod name;
pub mod tensorblock;

pub use block::{
    BlockHeader, BlockType, ChainId, CommitRecord, CommitRule, PayloadType, SignedBlock,
};
pub use bodies::{ArchitectureBody, AuditAnchorBody, GenesisBody, KeyGrantBody, ManifestBody};
pub use canonical::{from_canonical, to_canonical};
pub use error::{ErrorClass, FormatError};
pub use hash::{BlockHash, ContentHash, NetworkId, PayloadHash};
pub use keys::{NodeKey, PublicKey, Signature};
pub use name::{LayerPart, TensorName};
pub use tensorblock::{
    DType, Quantisation, Tensor, TensorBuf, TensorData, TensorFault, TensorSpec, TensorView,
    write_tensorblock,
};
