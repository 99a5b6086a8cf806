use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::{ArchitectureBody, BodyError, Payload, require};
use crate::hash::BlockHash;
use crate::name::TensorName;

const ENTRIES_MAX: usize = 65_536;

/// Payload of a manifest block: which block holds each tensor of a model. The hash of the manifest block is the
/// model's id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestBody {
    /// Hash of the architecture block.
    pub architecture: BlockHash,
    /// Every tensor of the architecture, and nothing else.
    pub entries: BTreeMap<TensorName, BlockHash>,
}

impl ManifestBody {
    /// Whether the manifest names exactly the tensors that the architecture has.
    ///
    /// # Errors
    /// [`BodyError::Missing`] or [`BodyError::Unexpected`] with the first name.
    pub fn validate_against(&self, architecture: &ArchitectureBody) -> Result<(), BodyError> {
        if let Some(name) = architecture
            .tensor_names()
            .find(|name| !self.entries.contains_key(name))
        {
            return Err(BodyError::Missing(name));
        }
        match self
            .entries
            .keys()
            .find(|name| architecture.tensor_shape(name).is_none())
        {
            Some(name) => Err(BodyError::Unexpected(*name)),
            None => Ok(()),
        }
    }
}

impl Payload for ManifestBody {
    const LEN_MAX: usize = 8 << 20;

    fn validate(&self) -> Result<(), BodyError> {
        require(
            (1..=ENTRIES_MAX).contains(&self.entries.len()),
            "entries",
            "must have 1 to 65536 names",
        )
    }
}
