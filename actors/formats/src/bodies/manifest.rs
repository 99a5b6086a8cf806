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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bodies::architecture::tests::sample;

    fn manifest() -> ManifestBody {
        let hash = |i: usize| BlockHash::from_bytes([i as u8; 32]);
        let entries = sample()
            .tensor_names()
            .enumerate()
            .map(|(i, name)| (name, hash(i)))
            .collect();
        ManifestBody {
            architecture: hash(200),
            entries,
        }
    }

    #[test]
    fn a_manifest_round_trips() {
        let payload = manifest().to_payload().unwrap();
        assert_eq!(ManifestBody::from_payload(&payload), Ok(manifest()));
        let empty = ManifestBody {
            entries: BTreeMap::new(),
            ..manifest()
        };
        assert!(matches!(
            empty.to_payload(),
            Err(BodyError::Field {
                field: "entries",
                ..
            })
        ));
    }

    #[test]
    fn it_names_exactly_the_architectures_tensors() {
        let name: TensorName = "layer1.router".parse().unwrap();
        let mut body = manifest();
        assert_eq!(body.validate_against(&sample()), Ok(()));
        let hash = body.entries.remove(&name).unwrap();
        assert_eq!(
            body.validate_against(&sample()),
            Err(BodyError::Missing(name))
        );
        body.entries.insert(name, hash);
        let extra: TensorName = "layer2.router".parse().unwrap();
        body.entries.insert(extra, hash);
        assert_eq!(
            body.validate_against(&sample()),
            Err(BodyError::Unexpected(extra))
        );
    }
}
