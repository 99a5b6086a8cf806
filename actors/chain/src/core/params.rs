use std::collections::{BTreeMap, HashMap};

use blyan_formats::{BlockHash, ManifestBody, PayloadHash, TensorName};
use blyan_protocol::{ModelEntry, ModelId};

/// What a manifest says, resolved: tensor name to block and payload (CHAIN-16).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamIndex {
    model: ModelId,
    architecture: BlockHash,
    entries: BTreeMap<TensorName, ModelEntry>,
    names: HashMap<PayloadHash, TensorName>,
}

impl ParamIndex {
    /// Resolves `body`, the payload of the manifest block `manifest`; `entry_of` gives the payload of a block that is
    /// known to exist.
    ///
    /// # Errors
    /// What `entry_of` says of the first name, in order, that it does not resolve.
    pub(crate) fn resolve<E>(
        manifest: BlockHash,
        body: &ManifestBody,
        entry_of: impl Fn(TensorName, BlockHash) -> Result<ModelEntry, E>,
    ) -> Result<Self, E> {
        let resolved = body
            .entries
            .iter()
            .map(|(name, block)| Ok((*name, entry_of(*name, *block)?)));
        let entries: BTreeMap<_, _> = resolved.collect::<Result<_, E>>()?;
        // Of two names with equal weights the first in order stands for the payload.
        let names = entries
            .iter()
            .rev()
            .map(|(name, entry)| (entry.payload, *name))
            .collect();
        Ok(Self {
            model: ModelId(manifest),
            architecture: body.architecture,
            entries,
            names,
        })
    }

    /// The manifest's hash.
    pub const fn model(&self) -> ModelId {
        self.model
    }

    /// Hash of the architecture block.
    pub const fn architecture(&self) -> BlockHash {
        self.architecture
    }

    /// Every tensor of the model.
    pub const fn entries(&self) -> &BTreeMap<TensorName, ModelEntry> {
        &self.entries
    }

    /// The tensor that carries this payload, and its entry.
    pub fn by_payload(&self, payload: &PayloadHash) -> Option<(TensorName, &ModelEntry)> {
        let name = self.names.get(payload)?;
        Some((*name, self.entries.get(name)?))
    }
}
