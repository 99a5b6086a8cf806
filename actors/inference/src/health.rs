//! Which experts are known to be corrupt, and which requests can do without them.

use std::collections::BTreeMap;
use std::sync::Arc;

use blyan_formats::bodies::ExpertShape;
use blyan_formats::{PayloadHash, TensorName};
use blyan_protocol::{ErrorCode, ExpertFault, ExpertTable, ModelDescription, PublicError};
use parking_lot::Mutex;

/// A copy of the expert table's verdicts, refreshed when its epoch changes.
pub(crate) struct ExpertHealth {
    table: Arc<dyn ExpertTable>,
    shape: ExpertShape,
    experts: Vec<(TensorName, PayloadHash)>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Of the table, when this was read.
    epoch: Option<u64>,
    /// By layer, then by expert.
    corrupt: BTreeMap<u16, BTreeMap<u16, PayloadHash>>,
}

impl ExpertHealth {
    pub(crate) fn new(model: &ModelDescription, table: Arc<dyn ExpertTable>) -> Self {
        let experts = model
            .entries
            .iter()
            .filter(|(name, _)| name.expert().is_some());
        Self {
            table,
            shape: model.architecture.experts,
            experts: experts
                .map(|(name, entry)| (*name, entry.payload))
                .collect(),
            known: Mutex::default(),
        }
    }

    pub(crate) const fn shape(&self) -> ExpertShape {
        self.shape
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.table.corruption_epoch()
    }

    /// Why a request with this many experts per layer cannot be served: the first expert that it would need.
    pub(crate) fn blocker(&self, top_k: u32) -> Option<PublicError> {
        let mut known = self.known.lock();
        let epoch = self.table.corruption_epoch();
        if known.epoch != Some(epoch) {
            *known = Known {
                epoch: Some(epoch),
                corrupt: self.read(),
            };
        }
        let blocked = |(layer, corrupt): (&u16, &BTreeMap<u16, PayloadHash>)| {
            let (expert, payload) = self.missed(corrupt, top_k)?;
            Some(corrupt_error(
                TensorName::expert_of(*layer, expert),
                payload,
            ))
        };
        known.corrupt.iter().find_map(blocked)
    }

    fn read(&self) -> BTreeMap<u16, BTreeMap<u16, PayloadHash>> {
        let mut corrupt: BTreeMap<u16, BTreeMap<u16, PayloadHash>> = BTreeMap::new();
        for (name, payload) in &self.experts {
            if let (Some(layer), Some(expert), Some(_)) =
                (name.layer(), name.expert(), self.table.corruption(payload))
            {
                corrupt.entry(layer).or_default().insert(expert, *payload);
            }
        }
        corrupt
    }

    /// The corrupt expert of a layer that stands in the way: one that is always on, or any if too few routed ones are
    /// left.
    fn missed(
        &self,
        corrupt: &BTreeMap<u16, PayloadHash>,
        top_k: u32,
    ) -> Option<(u16, PayloadHash)> {
        let (first, payload) = corrupt.first_key_value()?;
        let always_on = self.shape.always_on;
        let healthy = u32::from(self.shape.routed()).saturating_sub(corrupt.len() as u32);
        let needed = top_k.saturating_sub(u32::from(always_on));
        (*first < always_on || healthy < needed).then_some((*first, *payload))
    }
}

/// The 503 that names expert and payload.
fn corrupt_error(name: TensorName, payload: PayloadHash) -> PublicError {
    let sentence = format!("Expert {name} is quarantined: its weights fail their hash.");
    let hint =
        "Ask for fewer experts with top_k_experts, or wait until the operator has restored it.";
    PublicError::new(ErrorCode::ExpertCorrupt, sentence, hint).about_expert(ExpertFault {
        name: name.to_string(),
        hash: payload.to_string(),
    })
}
