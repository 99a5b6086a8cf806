//! The chain's state and rules: no actor, no file, no clock.

mod draft;
mod index;
mod params;
mod query;
mod refusal;

pub use draft::{Admission, Draft, Evidence, Payload};
pub(crate) use draft::{check_json, gives_authority};
pub use index::{Added, BlockMeta, ChainIndex, Head, Signers};
pub use params::ParamIndex;
pub use query::{BLOCKS_MAX, BlockQuery, Lineage, Version};
pub use refusal::Refusal;
