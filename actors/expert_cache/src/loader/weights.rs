use std::ops::Range;

use blyan_formats::TensorData;

use super::VerifiedPayload;
use crate::cast::{f32s, i8s};
use crate::{CacheError, GuardedMap};

/// Verified weights in the form that is computed from.
#[derive(Debug)]
pub(crate) struct Weights {
    map: GuardedMap,
    layout: Layout,
    rows: usize,
    cols: usize,
    /// Whether the map is the payload's own file, not a derivation that can be made again.
    is_payload: bool,
}

/// Byte ranges of the map.
#[derive(Debug)]
enum Layout {
    Fp32(Range<usize>),
    Int8 {
        values: Range<usize>,
        scales: Range<usize>,
    },
}

impl Weights {
    /// The payload's own int8 blocks.
    ///
    /// # Errors
    /// [`CacheError::Form`] for a payload that is no int8 in blocks of 32.
    pub(super) fn int8_payload(verified: VerifiedPayload) -> Result<Self, CacheError> {
        let view = verified.view()?;
        let TensorData::Int8Blocks { .. } = view.tensor().data() else {
            let spec = view.spec();
            return Err(CacheError::Form(format!(
                "{:?} {:?} as int8 blocks",
                spec.dtype, spec.quantisation
            )));
        };
        let layout = Layout::Int8 {
            values: in_memory(&view.sections().data),
            scales: in_memory(&view.sections().scales),
        };
        Ok(Self::of_payload(verified, layout))
    }

    /// The payload's own fp32 values.
    pub(super) fn fp32_payload(verified: VerifiedPayload) -> Result<Self, CacheError> {
        let layout = Layout::Fp32(in_memory(&verified.view()?.sections().data));
        Ok(Self::of_payload(verified, layout))
    }

    fn of_payload(verified: VerifiedPayload, layout: Layout) -> Self {
        let (rows, cols) = verified.shape();
        Self {
            map: verified.into_map(),
            layout,
            rows,
            cols,
            is_payload: true,
        }
    }

    /// A derivation's map, as long as the shape of `verified` asks for.
    pub(super) fn fp32_derived(map: GuardedMap, verified: &VerifiedPayload) -> Self {
        let (rows, cols) = verified.shape();
        let layout = Layout::Fp32(0..map.as_slice().len());
        Self {
            map,
            layout,
            rows,
            cols,
            is_payload: false,
        }
    }

    pub(crate) const fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    pub(crate) const fn is_payload(&self) -> bool {
        self.is_payload
    }

    pub(crate) fn intact(&self) -> bool {
        self.map.intact()
    }

    pub(crate) fn fp32(&self) -> &[f32] {
        match &self.layout {
            Layout::Fp32(values) => f32s(&self.map.as_slice()[values.clone()]),
            Layout::Int8 { .. } => &[],
        }
    }

    pub(crate) fn int8(&self) -> (&[i8], &[f32]) {
        match &self.layout {
            Layout::Fp32(_) => (&[], &[]),
            Layout::Int8 { values, scales } => {
                let bytes = self.map.as_slice();
                (i8s(&bytes[values.clone()]), f32s(&bytes[scales.clone()]))
            }
        }
    }
}

/// A section's range, which was checked to lie inside the map.
fn in_memory(range: &Range<u64>) -> Range<usize> {
    range.start as usize..range.end as usize
}
