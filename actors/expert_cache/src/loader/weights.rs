use blyan_formats::tensorblock::TensorSpec;
use blyan_formats::{Tensor, TensorData};

use super::VerifiedPayload;
use crate::cast::f32s;
use crate::{CacheError, GuardedMap};

/// Verified weights in the form that is computed from.
#[derive(Debug)]
pub(crate) struct Weights {
    map: GuardedMap,
    layout: Layout,
}

/// What the map holds; checked against its length when it was made.
#[derive(Debug)]
enum Layout {
    /// The payload's own file.
    Stored(TensorSpec),
    /// fp32 values alone, which can be derived again.
    Derived { rows: usize, cols: usize },
}

impl Weights {
    /// The payload's own elements.
    ///
    /// # Errors
    /// [`CacheError::Corrupt`] if the header no longer reads as it did when it was verified.
    pub(super) fn stored(verified: VerifiedPayload) -> Result<Self, CacheError> {
        let layout = Layout::Stored(*verified.view()?.spec());
        let map = verified.into_map();
        Ok(Self { map, layout })
    }

    /// A derivation's map, as long as the shape of `verified` asks for.
    pub(super) fn fp32_derived(map: GuardedMap, verified: &VerifiedPayload) -> Self {
        let (rows, cols) = verified.shape();
        let layout = Layout::Derived { rows, cols };
        Self { map, layout }
    }

    pub(crate) const fn is_payload(&self) -> bool {
        matches!(self.layout, Layout::Stored(_))
    }

    pub(crate) fn intact(&self) -> bool {
        self.map.intact()
    }

    pub(crate) fn tensor(&self) -> Tensor<'_> {
        let bytes = self.map.as_slice();
        let tensor = match self.layout {
            Layout::Stored(spec) => spec.tensor_in(bytes),
            Layout::Derived { rows, cols } => {
                Tensor::new(rows, cols, TensorData::Fp32(f32s(bytes))).ok()
            }
        };
        tensor.expect("the map is as long as it was when it was checked")
    }
}
