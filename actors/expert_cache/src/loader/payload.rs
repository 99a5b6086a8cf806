use std::time::{SystemTime, UNIX_EPOCH};

use blyan_formats::{DType, PayloadHash, TensorFault, TensorName, TensorView};
use blyan_protocol::{PayloadLocation, WeightForm};

use crate::core::CorruptPayload;
use crate::{CacheError, GuardedMap};

/// A payload's map of which every byte was checked against the payload's hash.
pub(crate) struct VerifiedPayload {
    payload: PayloadHash,
    location: PayloadLocation,
    map: GuardedMap,
    dtype: DType,
    rows: usize,
    cols: usize,
}

impl VerifiedPayload {
    /// Maps the file and checks its length, header, padding, tree and every tile.
    ///
    /// # Errors
    /// [`CacheError::Corrupt`] with the section at fault; what [`GuardedMap::open`] gives, but for the length.
    pub(crate) fn open(
        payload: PayloadHash,
        location: PayloadLocation,
    ) -> Result<Self, CacheError> {
        let map = GuardedMap::open(&location.path, location.len).map_err(|error| match error {
            CacheError::Length { .. } => corrupt(&location, payload, "length", error.to_string()),
            other => other,
        })?;
        let checked = verify(&map, payload);
        if !map.intact() {
            return Err(corrupt(
                &location,
                payload,
                "map",
                "a page could not be read".to_owned(),
            ));
        }
        let (dtype, rows, cols) = checked
            .map_err(|fault| corrupt(&location, payload, section_of(&fault), fault.to_string()))?;
        Ok(Self {
            payload,
            location,
            map,
            dtype,
            rows,
            cols,
        })
    }

    pub(crate) const fn payload(&self) -> PayloadHash {
        self.payload
    }

    pub(crate) const fn location(&self) -> &PayloadLocation {
        &self.location
    }

    /// Rows and columns.
    pub(crate) const fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// Whether the payload's own elements are fp32, so that nothing needs to be derived.
    pub(crate) fn holds_fp32(&self) -> bool {
        self.dtype == DType::Fp32
    }

    /// Bytes of the fp32 derivation; the header's check keeps `rows x cols` far below overflow.
    pub(crate) const fn fp32_len(&self) -> u64 {
        (self.rows as u64)
            .saturating_mul(self.cols as u64)
            .saturating_mul(4)
    }

    /// Bytes that stay mapped in `form`.
    pub(crate) fn mapped_len(&self, form: WeightForm) -> u64 {
        match form {
            WeightForm::Fp32 if !self.holds_fp32() => self.fp32_len(),
            _ => self.location.len,
        }
    }

    /// The payload as a tensor.
    ///
    /// # Errors
    /// [`CacheError::Corrupt`] if the header no longer reads as it did when it was verified.
    pub(crate) fn view(&self) -> Result<TensorView<'_>, CacheError> {
        TensorView::parse(self.map.as_slice()).map_err(|fault| {
            corrupt(
                &self.location,
                self.payload,
                section_of(&fault),
                fault.to_string(),
            )
        })
    }

    /// Fails if a page went missing since the map was verified.
    pub(crate) fn check_intact(&self) -> Result<(), CacheError> {
        if self.map.intact() {
            return Ok(());
        }
        Err(corrupt(
            &self.location,
            self.payload,
            "map",
            "a page could not be read".to_owned(),
        ))
    }

    pub(crate) fn into_map(self) -> GuardedMap {
        self.map
    }
}

fn verify(map: &GuardedMap, payload: PayloadHash) -> Result<(DType, usize, usize), TensorFault> {
    let view = TensorView::parse(map.as_slice())?;
    view.verify_full(payload)?;
    let tensor = view.tensor();
    Ok((view.spec().dtype, tensor.rows(), tensor.cols()))
}

fn section_of(fault: &TensorFault) -> &'static str {
    use blyan_formats::tensorblock::Section;
    match fault.section() {
        Some(Section::Header) => "header",
        Some(Section::Scales) => "scales",
        Some(Section::Padding) => "padding",
        Some(Section::Data) => "data",
        Some(Section::Tree) => "tree",
        None => "file",
    }
}

fn corrupt(
    location: &PayloadLocation,
    payload: PayloadHash,
    section: &'static str,
    fault: String,
) -> CacheError {
    CacheError::Corrupt(Box::new(CorruptPayload {
        name: location.name,
        payload,
        block: Some(location.block),
        section,
        fault,
        since_ms: now_ms(),
    }))
}

/// The record of a payload whose map was damaged while it was in use.
pub(crate) fn corrupt_map(name: TensorName, payload: PayloadHash, fault: &str) -> CorruptPayload {
    CorruptPayload {
        name,
        payload,
        block: None,
        section: "map",
        fault: fault.to_owned(),
        since_ms: now_ms(),
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    since.as_millis() as u64
}
